"""A whole option file for training or testing: what must be there, what its sections name, and what fits together."""

from __future__ import annotations

import inspect
import io
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from semiisp_plugin.options.messages import as_yaml, nearest, no_module, short
from semiisp_plugin.options.sections import (
    check_call,
    check_section,
    missing,
    names_in,
    registered,
    registered_name,
)
from semiisp_plugin.options.source import Keys, Source
from semiisp_plugin.options.structures import (
    AnyOptions,
    Filter,
    LatentTeacher,
    Loader,
    LossKeys,
    MetricKeys,
    OptimiserKeys,
    Train,
    marks_of,
    structure_of,
)

if TYPE_CHECKING:
    from torch import nn

_MOST_BYTES = 200
_MOST_TENSORS = 20_000
_MOST_WEIGHTS = 10**10
_SMALLEST_SIDE = 32  # of crops that `AdversarialModel` is trained on
_COUNTS = ("real_per_batch", "pseudo_per_batch")
_OF_SEVERAL_SOURCES = (*_COUNTS, "pseudo", "unlabelled_per_batch", "unlabelled")

# --- the plugin's models and data sets -------------------------------------------------------------------------------


def is_plugin_model(model_type: Any) -> bool:
    """Whether a registered model is one of the plugin's, or derived from one; its options are then checked."""
    return model_structure(model_type) is not None


def is_plugin_dataset(type_: Any) -> bool:
    """Whether a registered data set is one of the plugin's, or derived from one."""
    return dataset_structure(type_) is not Loader


def model_structure(model_type: Any) -> type[msgspec.Struct] | None:
    """The structure of a registered model's whole option file; None if it is not one of the plugin's."""
    from semiisp_plugin.toolbox import MODEL_REGISTRY

    return getattr(names_in(MODEL_REGISTRY).get(str(model_type)), "options_struct", None)


def dataset_structure(type_: Any) -> type[msgspec.Struct]:
    """The structure of a registered data set's section; of one that is not the plugin's, what the loader reads."""
    from semiisp_plugin.toolbox import DATASET_REGISTRY

    return getattr(names_in(DATASET_REGISTRY).get(str(type_)), "options_struct", Loader)


def check_any_options(options: dict[str, Any], source: Source) -> Any:
    """Check what option files of all models have in common, BasicSR's too; the registered model.

    Raises:
        OptionError: It is a file of another command, names no registered model, or has no name or data sets.
    """
    from semiisp_plugin.toolbox import MODEL_REGISTRY

    if "photographs" in options and "model_type" not in options:
        source.fail((), "this is an option file of `basicsr pseudo`.")
    if "extends" in options:
        source.fail(("extends",), "it is followed where a file is read (`load_yaml`), not here.")
    check_section(options, AnyOptions, source)
    return registered_name(options["model_type"], MODEL_REGISTRY, "model", source, ("model_type",))


def _is_a(cls: Any, *names: str) -> bool:
    """Whether a class is one of those, or derived from one."""
    return any(base.__name__ in names for base in getattr(cls, "__mro__", ()))


# --- the file --------------------------------------------------------------------------------------------------------


def check_options(options: dict[str, Any], source: Source, *, is_train: bool) -> None:
    """Check the whole option file of one of the plugin's models, or of one derived from it.

    Whole numbers written as ``1e5`` become integers, in place, where integers are wanted.

    Args:
        options: As read, with overrides, before they are completed.
        source: Where the keys stand.
        is_train: For training or for testing.

    Raises:
        OptionError: The first thing found wrong.
    """
    model = check_any_options(options, source)
    structure = model_structure(options["model_type"])
    if structure is None:
        source.fail(("model_type",), f"'{options['model_type']}' is none of the plugin's models.")
    if is_train and "train" in options and options["train"] is None:
        source.fail(("train",), "expected a section, got nothing.")
    if is_train and "train" not in options:
        known = {f.encode_name for f in msgspec.structs.fields(structure)}
        missing(options, "train", source, (), "the section 'train' is missing.", known)
    check_section(options, structure, source)
    data = {name: _check_dataset(section, str(name), source) for name, section in options["datasets"].items()}
    _check_names(options, source)
    if not is_train:
        _check_keys({k: v for k, v in options.items() if k != "train"}, structure, model, source, ())
        _check_testing(options, source)
        _warn_unused(_unused_in_testing(options), source)
        return
    if "train" not in data:
        missing(options["datasets"], "train", source, ("datasets",), "the section 'train' is missing.")
    _check_training_data(options["datasets"]["train"], model, data["train"], source)
    _check_keys(options, structure, model, source, ())
    _check_training(options, model, source)
    _warn_unused(_unused_in_training(options), source)


def _check_keys(
    section: dict[str, Any], structure: type[msgspec.Struct], model: Any, source: Source, keys: Keys
) -> None:
    """Check what `doc` says of the keys, at every depth: which models read them, what a section's ``type`` names."""
    for field in msgspec.structs.fields(structure):
        value: Any = section.get(field.encode_name)
        here, marks = (*keys, field.encode_name), marks_of(field.type)
        models, named = marks.get("models"), marks.get("names")
        if models and value is not None and not _is_a(model, *models):
            only = f"{' and '.join(models)} {'has' if len(models) == 1 else 'have'}"
            source.fail(here, f"only {only} this; {model.__name__} would ignore it.")
        if named == "metric":
            for name, metric in (value or {}).items():
                check_metric(metric, source, (*here, name))
        elif named in _CHECKS and value is not None:
            _CHECKS[named](value, source, here)
        elif (part := structure_of(field.type, value)) is not None:
            _check_keys(value, part, model, source, here)


def _check_dataset(section: Any, name: str, source: Source) -> Any:
    """The section of a data set, whose class is returned."""
    from semiisp_plugin.toolbox import DATASET_REGISTRY

    here = ("datasets", name)
    if name != "train" and not name.startswith(("val", "test")):
        meant = nearest(name, ("train", "val", "test"))
        source.fail(here, f"no section of this name is used{meant} There are train, val... and test...: val_1.")
    cls = registered(section, DATASET_REGISTRY, "data set", source, here)
    structure = dataset_structure(section["type"])
    if is_plugin_dataset(section["type"]):
        _refuse_auto(section, _COUNTS, source, here)
    check_section(section, structure, source, here)
    if name != "train":
        for field in msgspec.structs.fields(structure):
            value = section.get(field.encode_name)
            if marks_of(field.type).get("only_training") and value not in (None, False, field.default):
                source.fail((*here, field.encode_name), "only training uses this; leave it out here.")
    if is_plugin_dataset(section["type"]):
        _check_backend(section, source, here)
        for key in ("pseudo", "unlabelled"):
            _check_backend(section.get(key) or {}, source, (*here, key))
    return cls


def _check_backend(section: dict[str, Any], source: Source, keys: Keys) -> None:
    """Folders and LMDBs are told apart by their names."""
    kind = (section.get("io_backend") or {}).get("type")
    for key in ("dataroot_gt", "dataroot_lq") if kind else ():
        is_lmdb = str(section.get(key)).rstrip("/" + os.sep).endswith(".lmdb")
        if key in section and is_lmdb != (kind == "lmdb"):
            what = "an LMDB, as its name ends in .lmdb" if is_lmdb else "a folder, as its name does not end in .lmdb"
            source.warn((*keys, "io_backend"), f"is {kind}, but {key} is read as {what}.")


def _check_names(options: dict[str, Any], source: Source) -> None:
    """Images, tables and best values of data sets of one name would overwrite each other; and no file has long ones."""
    datasets = options["datasets"]
    for keys, section in (((), options), *((("datasets", key), section) for key, section in datasets.items())):
        size = len(str(section.get("name", "")).encode())
        if size > _MOST_BYTES:  # a file's name has at most 255, and more is added
            source.fail((*keys, "name"), f"expected a text of at most {_MOST_BYTES} bytes as UTF-8, got {size}.")
    seen: dict[str, str] = {}
    for key in (key for key in datasets if key != "train"):
        name = str(datasets[key].get("name") or key)
        other = seen.setdefault(name.casefold(), key)  # some file systems do not tell a from A
        if other != key:
            message = f"datasets:{other} is called '{name}', too, and their results would overwrite each other."
            source.fail(("datasets", key, "name"), f"{message} Give it another name.")


def _check_testing(options: dict[str, Any], source: Source) -> None:
    path = options.get("path") or {}
    if not path.get("pretrain_network_g"):
        source.fail(("path",), "testing needs 'pretrain_network_g', the checkpoint to test.")
    if options.get("network_global") and not path.get("pretrain_network_global"):
        source.fail(("path",), "'pretrain_network_global' is missing (or leave network_global out).")
    if path.get("pretrain_network_global") and not options.get("network_global"):
        source.fail(
            ("path", "pretrain_network_global"), "the section 'network_global' is missing, whose weights they are."
        )
    if not [p for p in options["datasets"] if p != "train"]:
        source.fail(("datasets",), "there is no data set to test: add a section such as 'test_1'.")


def _check_training(options: dict[str, Any], model: Any, source: Source) -> None:
    train, val, name = options["train"], options.get("val") or {}, options["model_type"]
    losses = [f.encode_name for f in msgspec.structs.fields(Train) if marks_of(f.type).get("names") == "loss"]
    given = [key for key in losses if train.get(key)]
    of_network = any(train.get(key) is not None for key in ("likelihood", "own_loss"))
    if not given and not of_network:
        others = "for a normalising flow such as LLFlow, likelihood; for a network that brings its loss, own_loss"
        source.fail(("train",), f"there is no loss: give {', '.join(losses[:-1])} or {losses[-1]}; or, {others}.")
    if not of_network and all(train[key].get("loss_weight") == 0 for key in given):
        source.fail(("train", given[0], "loss_weight"), "is 0, so that nothing is learned; give one above 0.")
    if train.get("own_loss") is not None and train.get("compile"):
        source.fail(("train", "compile"), "a network's own loss draws at random, which is not compiled; leave it out.")
    if train.get("mixup") is not None and options["datasets"]["train"].get("batch_size_per_gpu") == 1:
        source.fail(
            ("train", "mixup"), "a batch of 1 (datasets:train:batch_size_per_gpu) has nothing to be mixed with."
        )
    if (_is_a(model, "TeacherModel") or train.get("consistency") is not None) and not train.get("ema_decay"):
        source.fail(
            ("train", "ema_decay"), "the teacher is the average of the student's weights; give a decay such as 0.999."
        )
    if _is_a(model, "LatentTeacherModel"):
        _check_latent(options, source)
    if _is_a(model, "SemiSupervisedModel") and train.get("filter") is None:
        source.fail(("train",), f"{name} needs the section 'filter' with 'beta' (Table 6: 1.0 or 1.2).")
    if _is_a(model, "AdversarialModel"):
        _check_adversarial(train.get("adversarial") or {}, options["datasets"]["train"], source)
    unlabelled = options["datasets"]["train"].get("unlabelled") is not None
    if _is_a(model, "SemiSupervisedModel") and unlabelled and train.get("consistency") is None:
        message = f"{name} uses unlabelled inputs by the section train:consistency alone; add it (consistency: {{}}), "
        source.fail(("datasets", "train", "unlabelled"), f"{message}or leave unlabelled and unlabelled_per_batch out.")
    if train.get("consistency") is not None and not unlabelled:
        message = "it is of unlabelled inputs, and there are none: add datasets:train:unlabelled, or leave this out."
        source.fail(("train", "consistency"), message)
    if train.get("scheduler") is not None:
        _check_schedule(train["scheduler"], train, source, ("train", "scheduler"))
    if options.get("val") is not None and val.get("val_freq") is None:
        source.fail(("val",), "training needs 'val_freq', in iterations (or leave out the section 'val').")
    best, metrics = (options.get("logger") or {}).get("keep_best"), val.get("metrics") or {}
    if best is not None and best not in metrics:
        known = f"those are: {', '.join(metrics)}" if metrics else "there are none"
        end = nearest(best, metrics).replace("; did", ". Did").rstrip(".")
        source.fail(("logger", "keep_best"), f"'{short(best)}' is no metric of val:metrics; {known}{end or '.'}")
    if best is not None and len(options["datasets"]) == 1:
        message = "there is no validation set to be best on: add a section such as datasets:val, or leave this out."
        source.fail(("logger", "keep_best"), message)


def _check_latent(options: dict[str, Any], source: Source) -> None:
    """The section that says what the network's latent is; a network that needs files is asked when it is built."""
    section, here = options["train"].get("latent_teacher"), ("train", "latent_teacher")
    if section is None:
        message = "needs the section 'latent_teacher' with 'latent', the name of a part of network_g."
        source.fail(("train",), f"{options['model_type']} {message}")
    network = check_network(options["network_g"], source, ("network_g",))
    settings = msgspec.convert(section, LatentTeacher)
    if network is not None and settings.latent not in [name for name, _ in network.named_modules() if name]:
        source.fail((*here, "latent"), no_module("network_g", network, settings.latent))
    if settings.bank_size < 2 * settings.neighbours:
        message = f"the process waits for twice its neighbours, {2 * settings.neighbours}; give so many or more, or"
        source.fail((*here, "bank_size" if "bank_size" in section else "neighbours"), f"{message} fewer neighbours.")


Unused = Iterator[tuple[Keys, str]]
"""Keys that are given, and why they have no effect."""


def _warn_unused(unused: Unused, source: Source) -> None:
    for keys, reason in unused:
        source.warn(keys, reason)


def _unused_in_testing(options: dict[str, Any]) -> Unused:
    """What a file for training and testing says of training is left aside, and listed."""
    val, path = options.get("val") or {}, options.get("path") or {}
    left = [key for key in ("train", "logger") if options.get(key)]
    left += ["datasets:train"] * ("train" in options["datasets"])
    left += ["val:val_freq"] * (val.get("val_freq") is not None)
    left += ["path:resume_state"] * (path.get("resume_state") is not None)
    if left:
        yield (), f"testing does not use {', '.join(left)}."
    if val.get("suffix") is not None and not val.get("save_img"):
        yield ("val", "suffix"), "it is for the names of images, and val:save_img is false."
    if not val.get("metrics") and not val.get("save_img"):
        yield ("val",), "with neither metrics nor save_img, testing gives nothing."


def _unused_in_training(options: dict[str, Any]) -> Unused:
    """What is given in vain."""
    train, total = options["train"], options["train"]["total_iter"]
    val, logger, path = (options.get(key) or {} for key in ("val", "logger", "path"))
    sets = [key for key in options["datasets"] if key != "train"]
    if sets and options.get("val") is None:
        yield ("datasets", sets[0]), "nothing is validated without a section 'val' with 'val_freq' and 'metrics'."
    if options.get("val") is not None and not sets:
        yield ("val",), "nothing is validated without a data set such as datasets:val."
    if options.get("val") is not None and not val.get("metrics") and not val.get("save_img"):
        yield ("val",), "validation without 'metrics' measures nothing."
    if val.get("suffix") is not None:
        yield ("val", "suffix"), "only testing uses this; images of validation are named by the iteration."
    wandb = logger.get("wandb") or {}
    if logger.get("use_tb_logger") is False:
        for key in [
            k for k, value in (("wandb", wandb.get("project")), ("image_freq", logger.get("image_freq"))) if value
        ]:
            yield ("logger", key), "nothing is written without TensorBoard: set use_tb_logger: true."
    elif wandb.get("resume_id") and not wandb.get("project"):
        yield ("logger", "wandb", "resume_id"), "nothing is sent without 'project'."
    if not path.get("pretrain_network_g") and not path.get("pretrain_network_global"):
        for key, default in (("param_key_g", None), ("strict_load_g", True)):
            if path.get(key, default) != default:
                yield ("path", key), "no weights are given that it could be of (pretrain_network_g)."
    if train.get("warmup_iter", -1) >= total:
        yield ("train", "warmup_iter"), f"the learning rate rises to the end of the training ({total})."
    if (train.get("filter") or {}).get("warmup_iter", 0) >= total:
        yield ("train", "filter", "warmup_iter"), f"nothing is dropped before the end of the training ({total})."
    loader = options["datasets"]["train"]
    for key in ("prefetch_factor", "timeout"):
        if key in loader and not loader.get("num_worker_per_gpu"):
            yield ("datasets", "train", key), "it is of reading processes, and num_worker_per_gpu is 0."


def _check_training_data(dataset: dict[str, Any], model: Any, cls: Any, source: Source) -> None:
    here, name, kind = ("datasets", "train"), model.__name__, dataset["type"]
    if not is_plugin_dataset(kind):
        message = f"{name} is trained on the plugin's data sets, whose samples depend on the seed alone, not on {kind}"
        source.fail((*here, "type"), f"{message}; take PairedRestorationDataset.")
    semi, with_pseudo = _is_a(model, "PseudoInputsModel"), _is_a(cls, "SemiSupervisedDataset")
    if semi and not with_pseudo:
        known = "a SemiSupervisedDataset or an OnlineSemiSupervisedDataset"
        source.fail((*here, "type"), f"{name} trains on {known}.")
    if with_pseudo and not semi:
        source.fail((*here, "type"), f"{name} does not train on a {kind}.")
    if semi:
        _check_sources(dataset, model, source)
    elif dataset.get("batch_size_per_gpu") is None:
        source.fail(here, f"{kind} needs 'batch_size_per_gpu' for training.")
    if dataset.get("crop_ratio") is not None:
        _check_crop_ratio(dataset, semi, source)
    elif dataset.get("gt_size") is None:
        source.fail(here, "training needs 'gt_size', a side or [height, width] in pixels.")
    if not semi:
        for key in _OF_SEVERAL_SOURCES:
            if dataset.get(key) is not None:
                what = "unlabelled inputs" if key.startswith("unlabelled") else "pseudo pairs"
                source.fail((*here, key), f"a {kind} has no {what} and would ignore it; leave it out.")
        return
    by_table = [dataset.get(key) == "table6" for key in _COUNTS]
    if by_table[0] and dataset.get("pseudo") is None:
        message = "table6 divides a batch into real and pseudo pairs, and there are no pseudo pairs; give a number."
        source.fail((*here, "real_per_batch"), message)
    if any(by_table) and not all(by_table):
        key, other = _COUNTS[by_table.index(False)], _COUNTS[by_table.index(True)]
        source.fail((*here, key), f"{other} is table6: let both be table6, or give two numbers.")
    total = dataset.get("batch_size_per_gpu")
    if total is not None and not any(by_table):
        message = "the batch is real_per_batch and pseudo_per_batch together; leave this out, or let both be table6."
        source.fail((*here, "batch_size_per_gpu"), message)
    if total is not None and total < 2:
        source.fail((*here, "batch_size_per_gpu"), "a batch of 1 cannot hold real and pseudo samples.")


def _check_sources(dataset: dict[str, Any], model: Any, source: Source) -> None:
    """Each source of a semi-supervised training's batches has its section and its number, and the model gets enough."""
    here, kind = ("datasets", "train"), dataset["type"]
    given = {key for key in _OF_SEVERAL_SOURCES if dataset.get(key) is not None}
    if "unlabelled" in given and "unlabelled_per_batch" not in given:
        source.fail(here, f"{kind} needs 'unlabelled_per_batch' for training: how many of the inputs a batch has.")
    if "unlabelled_per_batch" in given and "unlabelled" not in given:
        message = "there are no unlabelled inputs: add the section 'unlabelled' with 'dataroot_lq', or leave this out."
        source.fail((*here, "unlabelled_per_batch"), message)
    may_lack_pairs = not _is_a(model, "SemiSupervisedModel") and not {"pseudo", "pseudo_per_batch"} & given
    if may_lack_pairs and "unlabelled" not in given:
        message = f"{model.__name__} needs unlabelled samples: give 'unlabelled' and 'unlabelled_per_batch', or"
        source.fail(here, f"{message} 'pseudo' and 'pseudo_per_batch', whose inputs then count as such.")
    for key in _COUNTS[:1] if may_lack_pairs else (*_COUNTS, "pseudo"):
        if key not in given:
            source.fail(here, f"{kind} needs '{key}' for training.")


def _refuse_auto(section: dict[str, Any], names: Sequence[str], source: Source, keys: Keys) -> None:
    """What stood for Table 6 before 'table6' did."""
    for key in names:
        if section.get(key) == "auto":
            message = (
                "`auto` is called `table6` now (the paper's Table 6, by the number of pairs): write that, or a number."
            )
            source.fail((*keys, key), message)


def _check_crop_ratio(dataset: dict[str, Any], semi: bool, source: Source) -> None:
    """Crops of sizes of their own do not stack into a batch."""
    here = ("datasets", "train")
    if dataset.get("gt_size") is not None:
        source.fail((*here, "crop_ratio"), "gt_size says already how large the crop is; leave one of them out.")
    least, largest = dataset["crop_ratio"]
    if not 0 < least <= largest <= 1:
        message = "give the least and the largest share of a side, above 0 and at most 1, such as [0.6, 1.0]."
        source.fail((*here, "crop_ratio"), message)
    if semi or dataset.get("batch_size_per_gpu") != 1:
        message = (
            "every crop has a size of its own, which fits into batches of 1 only: set batch_size_per_gpu: 1 (and "
            "train:accumulate for steps on several), or take gt_size."
        )
        source.fail((*here, "crop_ratio"), message)


def _check_adversarial(section: dict[str, Any], dataset: dict[str, Any], source: Source) -> None:
    """The discriminator gets crops that it can halve four times, and has something to choose from."""
    sides = dataset["gt_size"] if isinstance(dataset["gt_size"], list) else [dataset["gt_size"]]
    if min(sides) < _SMALLEST_SIDE:
        message = f"the discriminator halves crops four times; let their sides be {_SMALLEST_SIDE} pixels or more."
        source.fail(("datasets", "train", "gt_size"), message)
    if section.get("quality") is not None and dataset.get("pseudo") is None:
        message = "it chooses among the ground truths of pseudo pairs, and there are none: add datasets:train:pseudo,"
        source.fail(("train", "adversarial", "quality"), f"{message} or leave this out.")


def _check_schedule(section: dict[str, Any], train: dict[str, Any], source: Source, keys: Keys) -> None:
    """What of a schedule has to fit the length of the training, the learning rate, and itself."""
    for key in [k for k, value in section.items() if value is None]:
        del section[key]  # `~` stands for the default
    total_iter, rate = train["total_iter"], train["optim_g"].get("lr")
    if section["type"] == "CosineAnnealing":
        total, start = section.get("total_iter", total_iter), section.get("start_iter", 0)
        if "eta_min" in section and "eta_min_ratio" in section:
            message = "eta_min_ratio is given, too: one says the floor as a rate, one as a share."
            source.fail((*keys, "eta_min"), message)
        if isinstance(rate, (int, float)) and section.get("eta_min", 0) > rate:
            message = f"is above the learning rate, {rate:g}, so that the rate would rise. A share is eta_min_ratio."
            source.fail((*keys, "eta_min"), message)
        if start >= total:
            source.fail((*keys, "start_iter"), f"expected an iteration before the end ({total}); got {start}.")
        if total > total_iter:
            source.warn((*keys, "total_iter"), f"training ends after {total_iter} iterations: the schedule is cut off.")
    milestones = section.get("milestones", [])
    if milestones != sorted(set(milestones)):
        source.fail((*keys, "milestones"), f"expected iterations that ascend; got {short(as_yaml(milestones))}.")
    late = [m for m in milestones if m > total_iter]
    if late:
        source.warn((*keys, "milestones"), f"training ends after {total_iter} iterations, before {late}.")
    if "periods" not in section:
        return
    periods = section["periods"]
    for key in ("restart_weights", "eta_mins"):
        values = section.get(key, periods)
        if len(values) != len(periods):
            message = f"periods has {len(periods)} entries and {key} {len(values)}; give one for each period."
            source.fail((*keys, key), message)
    end = f"they end after {sum(periods)} iterations, training after {total_iter} (train:total_iter)"
    if sum(periods) < total_iter - 1:  # the last iteration is the one after so many steps
        source.fail((*keys, "periods"), f"{end}; let them add up to it.")
    if sum(periods) > total_iter:
        source.warn((*keys, "periods"), f"{end}: the schedule is cut off.")


# --- sections that name a class or function --------------------------------------------------------------------------


def check_network(
    network: Any, source: Source, keys: Keys, cls: Callable[..., nn.Module] | None = None
) -> nn.Module | None:
    """A section such as ``network_g``.

    Args:
        network: The section.
        source: Where it is from.
        keys: Where in it.
        cls: The network's class, where it is known; else the one that is registered, which takes BasicSR.

    Returns:
        The network without memory for its weights (on the device ``meta``); None for one that cannot be built so.
    """
    if cls is None:
        from semiisp_plugin.toolbox import ARCH_REGISTRY

        cls = registered(network, ARCH_REGISTRY, "network", source, keys)
    check_call(network, cls, source, keys)
    try:
        return _without_weights(cls, {key: value for key, value in network.items() if key != "type"})
    except Exception as error:  # whatever a constructor raises
        values = any(word in str(error) for word in ("meta", "set_data"))  # or a tensor that has some
        if isinstance(error, (OSError, NotImplementedError)) or values:  # it needs files, or values
            return None
        own, problem = isinstance(error, ValueError), str(error) or type(error).__name__
        begin = "" if own else f"{network['type']} cannot be built with these options: "
        source.fail(keys, f"{begin}{problem}{'' if problem.endswith('.') else '.'}")


def _without_weights(cls: Callable[..., nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """A network on the device ``meta``, nothing being fetched for it from elsewhere."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    counts = {"tensors": 0, "numbers": 0}

    def count(module: nn.Module, name: str, weight: nn.Parameter) -> None:
        counts["tensors"] += 1
        counts["numbers"] += weight.numel() if weight is not None else 0
        if counts["tensors"] > _MOST_TENSORS or counts["numbers"] > _MOST_WEIGHTS:
            raise ValueError(f"a network of more than {_MOST_TENSORS:,} tensors or {_MOST_WEIGHTS:,} weights.")

    hook, aside = register_module_parameter_registration_hook(count), io.StringIO()
    try:
        # What it has to say, it says when it is built in earnest.
        with redirect_stdout(aside), redirect_stderr(aside), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.device("meta"), _nothing_fetched():
                return cls(**arguments)
    finally:
        hook.remove()


@contextmanager
def _nothing_fetched() -> Iterator[None]:
    """Let whatever asks for another machine fail: some networks fetch weights when they are built."""

    def refuse(host: Any, *_: Any, **__: Any) -> NoReturn:
        raise OSError(f"nothing is fetched from {host} here")

    before, socket.getaddrinfo = socket.getaddrinfo, refuse
    try:
        yield
    finally:
        socket.getaddrinfo = before


def check_loss(section: Any, source: Source, keys: Keys) -> None:
    """A section such as ``train: pixel_opt``; the plugin's models take losses per sample."""
    from semiisp_plugin.toolbox import LOSS_REGISTRY

    loss = registered(section, LOSS_REGISTRY, "loss", source, keys)
    check_call(section, loss, source, keys, common=LossKeys)
    if section.get("reduction", "mean") not in ("mean", "none"):
        source.fail((*keys, "reduction"), "the models here average over samples; leave it out.")
    if "reduction" not in inspect.signature(loss).parameters:
        source.fail((*keys, "type"), "this loss cannot be taken per sample (it has no 'reduction').")


def check_optimiser(section: Any, source: Source, keys: Keys) -> None:
    """A section such as ``train: optim_g``."""
    import torch

    if "type" not in section:
        missing(section, "type", source, keys, "the key 'type' is missing, such as AdamW.")
    kind = section["type"]
    known = [n for n in dir(torch.optim) if inspect.isclass(getattr(torch.optim, n)) and n != "Optimizer"]
    if kind not in known:
        source.fail((*keys, "type"), f"torch.optim has no '{short(kind)}'{nearest(str(kind), known)}")
    if kind == "LBFGS":
        source.fail((*keys, "type"), "LBFGS evaluates the loss several times a step (needs a closure); take another.")
    check_call(section, getattr(torch.optim, kind), source, keys, ("params",), OptimiserKeys)


def check_metric(section: Any, source: Source, keys: Keys) -> None:
    """One of ``val: metrics``."""
    from semiisp_plugin.toolbox import METRIC_REGISTRY

    function = registered(section, METRIC_REGISTRY, "metric", source, keys)
    # BasicSR hands 'better' on, too.
    check_call(section, function, source, keys, ("img", "img2"), MetricKeys, ("better",))


def check_filter(section: Any, source: Source, keys: Keys) -> None:
    """The section ``train: filter``: the keys of all filters, and those of the registered function.

    ``beta: table6`` is for `semiisp_plugin.data.table6`.

    Raises:
        OptionError: The first thing found wrong.
    """
    from semiisp_plugin.toolbox import FILTER_REGISTRY

    function = registered_name(section.get("type", "threshold"), FILTER_REGISTRY, "filter", source, (*keys, "type"))
    common = {f.encode_name for f in msgspec.structs.fields(Filter)}
    own = {k: v for k, v in section.items() if k not in common}
    parameters = inspect.signature(function).parameters
    # What is no option: it gets the losses, which samples are pseudo, and ``reference``.
    given = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY or p.name == "reference"]
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in own:
        if key in given[2:] or (swallows and key not in parameters):
            name = function.__name__
            fix = "name it there, after a `*`" if key not in parameters else "write `*` before it there"
            source.fail((*keys, key), f"a filter's options are its keyword-only parameters, which {name} lacks: {fix}.")
    if "beta" in parameters:
        _refuse_auto(own, ("beta",), source, keys)
    by_table = own.get("beta") == "table6" and "beta" in parameters
    # The paper's value for few pairs stands in for `table6` here.
    numbers = {**own, "beta": 1.0} if by_table else own
    check_call(numbers, function, source, keys, given)
    section.update({k: v for k, v in numbers.items() if not (by_table and k == "beta")})
    reference = section.get("reference", "batch")
    for key, of in (("momentum", "running"), ("held_out", "held_out")):
        if section.get(key) not in (None, getattr(Filter(), key)) and reference != of:
            source.fail((*keys, key), f"it is of reference: {of}; with {reference} it would be ignored.")
    _try_filter(function, numbers, source, keys)


def check_score(name: Any, source: Source, keys: Keys) -> None:
    """The key ``train: label_bank: score``."""
    from semiisp_plugin.toolbox import SCORE_REGISTRY

    registered_name(name, SCORE_REGISTRY, "score", source, keys)


def _try_filter(function: Any, own: dict[str, Any], source: Source, keys: Keys) -> None:
    """Filters look at their options when they are called: call one for two samples."""
    import torch

    try:
        function(torch.ones(2), torch.tensor([False, True]), reference=torch.tensor(1.0), **own)
    except Exception as error:  # whatever a function of somebody else's raises
        named = [k for k in re.findall(r"`(\w+)`", str(error)) if k in own]
        ours = function.__module__.split(".")[0] == __name__.split(".")[0]
        begin = "" if ours else f"the filter '{function.__name__}' cannot be called with these options: "
        problem = str(error) or type(error).__name__
        source.fail((*keys, *named[:1]), f"{begin}{problem}{'' if problem.endswith('.') else '.'}")


_CHECKS: dict[str, Callable[[Any, Source, Keys], object]] = {
    "network": check_network,
    "loss": check_loss,
    "optimiser": check_optimiser,
    "filter": check_filter,
    "score": check_score,
}
