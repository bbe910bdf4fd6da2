"""What must be there, and what fits together, in option files of our models."""

from __future__ import annotations

import inspect
import re
from typing import Any

import msgspec

from semiisp_plugin.options.parts import (
    WITH_PSEUDO,
    check_dataset,
    check_keep_best,
    check_loss,
    check_metric,
    check_needed,
    check_network,
    check_optimiser,
    check_our_dataset,
    check_own,
    expect_section,
    is_our_dataset,
    model_class,
    our_dataset,
    our_model,
    own_keys,
)
from semiisp_plugin.options.schedules import check_scheduler
from semiisp_plugin.options.sections import check_call, check_section, missing, registered_name
from semiisp_plugin.options.source import Keys, Source
from semiisp_plugin.options.structures import Filter, Logger, Options, Paths, Train, Val

_SEMI_SUPERVISED = ("SemiSupervisedModel", "MeanTeacherModel")
_KEYS_OF_SOME_MODELS = {
    "filter": ("SemiSupervisedModel",),
    "noise": ("SemiSupervisedModel",),
    "bank_size": ("ISPModel",),
    "mean_teacher": ("MeanTeacherModel",),
    "photometric_jitter": ("SupervisedModel", "ISPModel"),
    "mixup": ("SupervisedModel",),
}
_OF_TRAINING = (
    "gt_size",
    "crop_ratio",
    "use_hflip",
    "use_rot",
    "pseudo",
    "real_per_batch",
    "pseudo_per_batch",
    "persistent_workers",
    "prefetch_factor",
    "timeout",
)
_LOSSES = ("pixel_opt", "perceptual_opt", "ssim_opt")


_SECTIONS: dict[str, type[msgspec.Struct]] = {"train": Train, "val": Val, "path": Paths, "logger": Logger}


def check_our_file(options: dict[str, Any], source: Source, *, is_train: bool) -> None:
    """Check the options of one of our models, or of one derived from it.

    Raises:
        OptionError: The first thing found wrong.
    """
    cls, ours = model_class(options, source), our_model(options["model_type"])
    assert ours is not None
    own = own_keys(cls, ours)
    check_section(options, Options, source, (), own)
    check_own(options, Options, own, cls, source, ())
    for key, structure in _SECTIONS.items():
        if options.get(key) is not None:
            check_own(options[key], structure, own, cls, source, (key,), (key,))
    if cls is not ours:
        check_needed(options, cls, is_train, source, (), own)
    for key in ("network_g", "network_global"):
        if options.get(key) is not None:
            check_network(options[key], source, (key,))
    for phase, dataset in options["datasets"].items():
        _check_dataset(dataset, phase, source, is_train=is_train)
    metrics = (options.get("val") or {}).get("metrics") or {}
    for name, metric in metrics.items():
        check_metric(metric, source, ("val", "metrics", name))
    if is_train:
        check_keep_best(options, source)
        _check_training(options, ours.__name__, source)
    else:
        _check_testing(options, source)


def _check_dataset(section: Any, phase: str, source: Source, *, is_train: bool) -> None:
    here = ("datasets", phase)
    if not is_our_dataset(section.get("type")):
        check_dataset(section, source, here, is_train=is_train)
        if section.get("seeded_order") is not None:
            source.fail((*here, "seeded_order"), "our models always order data by manual_seed; leave it out.")
        return
    check_our_dataset(section, source, here, is_train=is_train)
    if phase.split("_")[0] != "train":
        for key in _OF_TRAINING:
            if section.get(key) not in (None, False):
                source.fail((*here, key), "only training uses this; leave it out here.")


def _check_testing(options: dict[str, Any], source: Source) -> None:
    path = options.get("path") or {}
    if not path.get("pretrain_network_g"):
        source.fail(("path",), "testing needs 'pretrain_network_g', the checkpoint to test.")
    if options.get("network_global") and not path.get("pretrain_network_global"):
        source.fail(("path",), "'pretrain_network_global' is missing (or leave network_global out).")
    if not [p for p in options["datasets"] if p != "train"]:
        source.fail(("datasets",), "there is no data set to test: add a section such as 'test_1'.")


def _check_training(options: dict[str, Any], ours: str, source: Source) -> None:
    train = options.get("train")
    if train is None:
        source.fail((), "the section 'train' is missing.")
    if "train" not in options["datasets"]:
        missing(options["datasets"], "train", source, ("datasets",), "the section 'train' is missing.")
    model = options["model_type"]
    _check_training_data(options["datasets"]["train"], model, ours, source)
    for key, models in _KEYS_OF_SOME_MODELS.items():
        if train.get(key) is not None and ours not in models:
            only = f"{' and '.join(models)} {'has' if len(models) == 1 else 'have'}"
            source.fail(("train", key), f"only {only} this; {model} would ignore it.")
    if train.get("mixup") is not None and options["datasets"]["train"].get("batch_size_per_gpu") == 1:
        source.fail(
            ("train", "mixup"), "a batch of 1 (datasets:train:batch_size_per_gpu) has nothing to be mixed with."
        )
    if options.get("network_global") and ours != "ISPModel":
        source.fail(("network_global",), f"only ISPModel has this; {model} would ignore it.")
    if ours == "MeanTeacherModel" and not train.get("ema_decay"):
        source.fail(
            ("train", "ema_decay"), "the teacher is the average of the student's weights; give a decay such as 0.999."
        )
    if ours == "SemiSupervisedModel":
        if train.get("filter") is None:
            source.fail(("train",), f"{model} needs the section 'filter' with 'beta' (Table 6: 1.0 or 1.2).")
        check_filter(train["filter"], source, ("train", "filter"))
    losses = [k for k in _LOSSES if train.get(k)]
    if not losses:
        source.fail(("train",), "there is no loss: give pixel_opt, perceptual_opt or ssim_opt.")
    for key in losses:
        loss = check_loss(train[key], source, ("train", key))
        if train[key].get("reduction", "mean") not in ("mean", "none"):
            source.fail(("train", key, "reduction"), "the models here average over samples; leave it out.")
        if "reduction" not in inspect.signature(loss).parameters:
            source.fail(("train", key, "type"), "this loss cannot be taken per sample (it has no 'reduction').")
    if train.get("scheduler") is not None:
        check_scheduler(train["scheduler"], True, train, source, ("train", "scheduler"))
    check_optimiser(train["optim_g"], source, ("train", "optim_g"))
    if options.get("val") and options["val"].get("val_freq") is None:
        source.fail(("val",), "training needs 'val_freq', in iterations (or leave out the section 'val').")


def _check_training_data(dataset: dict[str, Any], model: str, ours: str, source: Source) -> None:
    here = ("datasets", "train")
    semi, kind = ours in _SEMI_SUPERVISED, dataset.get("type")
    base = our_dataset(kind)
    with_pseudo = base is not None and base.__name__ in WITH_PSEUDO
    if semi and not with_pseudo:
        known = f"a {WITH_PSEUDO[0]} or an {WITH_PSEUDO[1]}"
        source.fail((*here, "type"), f"{model} trains on {known}.")
    if base is None:
        if dataset.get("batch_size_per_gpu") is None:
            source.fail(here, f"{kind} needs 'batch_size_per_gpu' for training.")
        return
    if dataset.get("crop_ratio") is not None:
        _check_crop_ratio(dataset, semi, source)
    elif dataset.get("gt_size") is None:
        source.fail(here, "training needs 'gt_size', a side or [height, width] in pixels.")
    if with_pseudo != semi:
        source.fail((*here, "type"), f"{model} does not train on a {kind}.")
    counts = ("real_per_batch", "pseudo_per_batch")
    for key in (*counts, "pseudo") if semi else ("batch_size_per_gpu",):
        if dataset.get(key) is None:
            source.fail(here, f"{kind} needs '{key}' for training.")
    if not semi:
        for key in (*counts, "pseudo"):
            if dataset.get(key) is not None:
                source.fail((*here, key), f"a {kind} has no pseudo pairs and would ignore it; leave it out.")
        return
    automatic = [dataset[key] == "auto" for key in counts]
    if any(automatic) and not all(automatic):
        key = counts[automatic.index(False)]
        source.fail((*here, key), f"{counts[automatic.index(True)]} is auto: let both be auto, or give two numbers.")
    total = dataset.get("batch_size_per_gpu")
    if total is not None and not any(automatic):
        message = "the batch is real_per_batch and pseudo_per_batch together; leave this out, or let both be auto."
        source.fail((*here, "batch_size_per_gpu"), message)
    if total is not None and total < 2:
        source.fail((*here, "batch_size_per_gpu"), "a batch of 1 cannot hold real and pseudo samples.")


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


def check_filter(section: Any, source: Source, keys: Keys) -> None:
    """The section ``train: filter``: the keys of all filters, and those of the registered function.

    A function gets the losses, which samples are pseudo, and ``reference``; its other parameters are its options.
    ``beta: auto`` is for `semiisp_plugin.data.auto_settings`.

    Raises:
        OptionError: The first thing found wrong.
    """
    from semiisp_plugin.toolbox import FILTER_REGISTRY

    expect_section(section, source, keys)
    check_section(section, Filter, source, keys)
    function = registered_name(section.get("type", "threshold"), FILTER_REGISTRY, "filter", source, (*keys, "type"))
    common = {f.encode_name for f in msgspec.structs.fields(Filter)}
    own = {k: v for k, v in section.items() if k not in common}
    parameters = inspect.signature(function).parameters
    # As the training sees it, `semiisp_plugin.losses.pseudo_filter.filter_options`.
    options = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "reference"]
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in own:
        if key not in options and (swallows or key in list(parameters)[2:]):
            name = function.__name__
            fix = "name it there, after a `*`" if key not in parameters else "write `*` before it there"
            source.fail((*keys, key), f"a filter's options are its keyword-only parameters, which {name} lacks: {fix}.")
    automatic = own.get("beta") == "auto" and "beta" in options
    # Its own value stands in for `auto` here: the paper's for few pairs.
    numbers = {**own, "beta": 1.0} if automatic else own
    check_call(numbers, function, source, keys, tuple(n for n in parameters if n not in options))
    section.update({k: v for k, v in numbers.items() if not (automatic and k == "beta")})
    reference = section.get("reference", "batch")
    if "momentum" in section and reference != "running":
        source.fail((*keys, "momentum"), f"it is of reference: running; with {reference} it would be ignored.")
    if section.get("held_out") is not None and reference != "held_out":
        source.fail((*keys, "held_out"), f"it is of reference: held_out; with {reference} it would be ignored.")
    _try_filter(function, numbers, source, keys)


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
