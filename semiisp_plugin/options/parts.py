"""The parts that option files of all models have: networks, losses, optimisers, schedules, metrics, data sets."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from semiisp_plugin.options.accepted_keys import Accepted, accepted_keys
from semiisp_plugin.options.basicsr_structures import (
    DatasetKeys,
    LoaderKeys,
    LossKeys,
    MetricKeys,
    OptimiserKeys,
)
from semiisp_plugin.options.messages import kind_of, nearest, short
from semiisp_plugin.options.needed_keys import needed_keys
from semiisp_plugin.options.sections import check_call, check_section, missing, names_in, reads_kwargs, registered
from semiisp_plugin.options.source import Keys, Source
from semiisp_plugin.options.structures import Dataset, OnlineDataset

OUR_MODELS = ("ISPModel", "SemiSupervisedModel", "SupervisedModel", "MeanTeacherModel")
WITH_PSEUDO = ("SemiSupervisedDataset", "OnlineSemiSupervisedDataset")
OUR_DATASETS = ("PairedRestorationDataset", *WITH_PSEUDO)


def is_our_model(model_type: Any) -> bool:
    """Whether a model is one of the plugin's, or derived from one: what somebody derives is used as ours is."""
    return our_model(model_type) is not None


def is_our_dataset(type_: Any) -> bool:
    """Whether a data set is one of the plugin's, or derived from one."""
    return our_dataset(type_) is not None


def our_base(name: Any, registry: Any, ours: Sequence[str]) -> type | None:
    """The nearest of our classes that a registered class is, or is derived from; None if there is none.

    Args:
        name: Name of the registered class.
        registry: Where it is looked up.
        ours: Names of our classes.
    """
    classes = getattr(names_in(registry).get(name) if isinstance(name, str) else None, "__mro__", ())
    return next((c for c in classes if c.__name__ in ours), None)


def our_model(model_type: Any) -> type | None:
    """Which of our models a registered model is, or is derived from."""
    from semiisp_plugin.toolbox import MODEL_REGISTRY

    return our_base(model_type, MODEL_REGISTRY, OUR_MODELS)


def our_dataset(type_: Any) -> type | None:
    """Which of our data sets a registered data set is, or is derived from."""
    from semiisp_plugin.toolbox import DATASET_REGISTRY

    return our_base(type_, DATASET_REGISTRY, OUR_DATASETS)


def own_keys(cls: Any, ours: type) -> Accepted:
    """What a class derived from one of ours reads besides, in its own body and in those of bases that are its own."""
    if cls is ours or not isinstance(cls, type):
        return Accepted()
    return accepted_keys(cls, ours).without(SET_BY_PROGRAM)


# In files that BasicSR and others ship, and copied from there, though the classes they are written for do not read
# them: worth a warning, not an error. By section and key; what there is to say.
COPIED_KEYS: dict[tuple[str, str], str] = {
    ("", "crop_border"): "it is a key of the metrics",
    ("", "save_img"): "the key is val:save_img",
    ("", "suffix"): "the key is val:suffix",
    ("datasets", "use_shuffle"): "training data is always shuffled",
    ("datasets", "dataroot_flow"): "this data set has no optical flow",
    ("datasets", "gt_size"): "this data set does not crop to it",
    ("datasets", "interval_list"): "this data set has no intervals",
    ("datasets", "padding"): "this data set does not pad",
    ("train", "net_d_iters"): "this model has a schedule of its own",
    ("train", "net_d_init_iters"): "this model has a schedule of its own",
}
# Set by the program; in an option file they would be overwritten.
SET_BY_PROGRAM = {"is_train", "dist", "rank", "world_size", "root_path", "auto_resume", "phase"}
DEFAULTED = {"num_gpu", "manual_seed", "name", "path", "scale", *SET_BY_PROGRAM}


def expect_section(value: Any, source: Source, keys: Sequence[str]) -> dict[str, Any]:
    """The value, if it is a section; otherwise an error."""
    if not isinstance(value, dict):
        source.fail(keys, f"expected a section, not {kind_of(value)}.")
    return value


def check_read_keys(
    section: dict[str, Any],
    known: set[str],
    reader: str,
    source: Source,
    keys: Keys,
    accepted: Accepted | None = None,
    below: Keys = (),
) -> None:
    """Check the keys of a section that a class reads from a dictionary, and of the sections in it.

    Args:
        section: The section.
        known: Keys that others read from it.
        reader: The class, for messages.
        source: For the message.
        keys: Where the section stands.
        accepted: What the class reads.
        below: The section's place in ``accepted``.

    Raises:
        OptionError: A key that nobody reads.
    """
    accepted = accepted or Accepted()
    everything = accepted.accepts_all(below)
    names = (known | accepted.of(below)) - SET_BY_PROGRAM
    for key, value in section.items():
        here = (*keys, str(key))
        if key not in names and not everything:
            why = COPIED_KEYS.get((keys[0] if keys else "", str(key)))
            if why is not None:
                source.warn(here, f"{reader} does not read this key: {why}. Leave it out here.")
                continue
            source.fail(here, f"{reader} does not read this key{nearest(str(key), names)} Known: {_listed(names)}.")
        inside = (*below, str(key))
        if isinstance(value, dict) and key not in known and accepted.of(inside) - {"type"}:
            check_read_keys(value, {"type"}, reader, source, here, accepted, inside)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def check_needed(
    options: dict[str, Any],
    cls: type,
    is_train: bool,
    source: Source,
    keys: Keys = (),
    among: Accepted | None = None,
) -> None:
    """Check that what a class's constructor reads without a default is there; what the program sets is.

    Args:
        options: The section that the constructor gets.
        cls: The class.
        is_train: As for `needed_keys`.
        source: For the message.
        keys: Where the section stands.
        among: Only these are looked at.
    """
    for path in sorted(needed_keys(cls, is_train), key=lambda p: (len(p), p)):
        if path[0] in DEFAULTED or (among is not None and path[-1] not in among.of(path[:-1])):
            continue
        section: Any = options
        for depth, key in enumerate(path):
            where = (*keys, *path[:depth])
            if not isinstance(section, dict):
                source.fail(where, f"{cls.__name__} expects a section here, not {kind_of(section)}.")
            if key not in section:
                if depth == 1 and path[0] == "val" and not is_train:
                    break
                missing(
                    section,
                    key,
                    source,
                    where,
                    f"{cls.__name__} needs the key '{key}'.",
                    accepted_keys(cls).of(path[:depth]),
                )
            section = section[key]


def check_network(network: Any, source: Source, keys: Keys) -> None:
    """A section such as ``network_g``."""
    from semiisp_plugin.toolbox import ARCH_REGISTRY

    arch = registered(network, ARCH_REGISTRY, "network", source, keys)
    check_call(network, arch, source, keys)


def check_loss(section: Any, source: Source, keys: Keys) -> Any:
    """A section such as ``train: pixel_opt``; the registered loss."""
    from semiisp_plugin.toolbox import LOSS_REGISTRY

    loss = registered(section, LOSS_REGISTRY, "loss", source, keys)
    check_call(section, loss, source, keys)
    check_section(section, LossKeys, source, keys)
    return loss


def check_optimiser(section: Any, source: Source, keys: Keys) -> None:
    """A section such as ``train: optim_g``."""
    import torch

    expect_section(section, source, keys)
    if "type" not in section:
        missing(section, "type", source, keys, "the key 'type' is missing, such as AdamW.")
    kind = section["type"]
    known = [n for n in dir(torch.optim) if inspect.isclass(getattr(torch.optim, n)) and n != "Optimizer"]
    if kind not in known:
        source.fail((*keys, "type"), f"torch.optim has no '{short(kind)}'{nearest(str(kind), known)}")
    if kind == "LBFGS":
        source.fail((*keys, "type"), "LBFGS evaluates the loss anew in each step (it needs a closure); take another.")
    optimiser = getattr(torch.optim, kind)
    check_call(section, optimiser, source, keys, ("params",))
    check_section(section, OptimiserKeys, source, keys)
    for key in ("lr", "weight_decay"):
        if isinstance(section.get(key), float) and not math.isfinite(section[key]):
            source.fail((*keys, key), f"expected a finite number, got {section[key]}.")


def check_keep_best(options: dict[str, Any], source: Source) -> None:
    """``logger: keep_best`` names one of ``val: metrics``."""
    best = (options.get("logger") or {}).get("keep_best")
    metrics = (options.get("val") or {}).get("metrics") or {}
    if best is not None and best not in metrics:
        known = f"those are: {', '.join(metrics)}" if metrics else "there are none"
        end = nearest(best, metrics).replace("; did", ". Did").rstrip(".")
        source.fail(("logger", "keep_best"), f"'{short(best)}' is no metric of val:metrics; {known}{end or '.'}")


def check_phases(options: dict[str, Any], source: Source) -> None:
    """The names of the data sets' sections, and the keys in them that the program sets."""
    for name, dataset in options["datasets"].items():
        here = ("datasets", str(name))
        if name != "train" and not str(name).startswith(("val", "test")):
            meant = nearest(name, ("train", "val", "test"))
            source.fail(here, f"no section of this name is used{meant} There are train, val... and test...: val_1.")
        if not isinstance(dataset, dict):
            continue
        if "phase" in dataset:
            source.fail((*here, "phase"), "the program takes it from the section's name; leave it out.")
        top = options.get("scale")
        if dataset.get("scale") is not None and dataset["scale"] != (1 if top is None else top):
            source.fail((*here, "scale"), "the program takes it from the top of the file; leave it out here.")


def check_metric(section: Any, source: Source, keys: Keys) -> None:
    """One of ``val: metrics``."""
    from semiisp_plugin.toolbox import METRIC_REGISTRY

    function = registered(section, METRIC_REGISTRY, "metric", source, keys)
    # BasicSR hands 'better' on, to a function that swallows or knows it.
    parameters = inspect.signature(function).parameters
    if section.get("better") is not None and not (
        "better" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    ):
        name = function.__name__
        source.fail(
            (*keys, "better"), f"{name} is called with this key, too, and refuses it; give the function **kwargs."
        )
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not reads_kwargs(function)
    call = {k: v for k, v in section.items() if k != "better"} if swallows else section
    check_call(call, function, source, keys, ("img", "img2"))
    check_section(section, MetricKeys, source, keys)


def check_our_dataset(
    section: dict[str, Any], source: Source, keys: Keys, *, is_train: bool, loader: bool = False
) -> None:
    """A data set of ours, or derived from one of ours.

    Args:
        section: The section, of such a type.
        source: For the message.
        keys: Where it stands.
        is_train: For training or for testing.
        loader: Whether the keys of BasicSR's loader are accepted too.
    """
    from semiisp_plugin.toolbox import DATASET_REGISTRY

    cls, ours = names_in(DATASET_REGISTRY)[section["type"]], our_dataset(section["type"])
    assert ours is not None
    structure = OnlineDataset if ours.__name__ == "OnlineSemiSupervisedDataset" else Dataset
    own = own_keys(cls, ours)
    extra = {f.encode_name for f in msgspec.structs.fields(LoaderKeys)} if loader else set()
    extra -= {f.encode_name for f in msgspec.structs.fields(structure)}
    for part, of, more in (
        ({k: v for k, v in section.items() if k not in extra}, structure, own),
        ({k: v for k, v in section.items() if k in extra}, LoaderKeys, None),
    ):
        given = set(part)
        check_section(part, of, source, keys, more)
        section.update(part)  # whole numbers are integers now
        for key in given - set(part):
            del section[key]
    check_own(section, structure, own, cls, source, keys)
    if cls is not ours:
        check_needed(section, cls, is_train, source, keys, own)


def check_own(
    section: dict[str, Any],
    structure: type[msgspec.Struct],
    own: Accepted,
    cls: type,
    source: Source,
    keys: Keys,
    below: Keys = (),
) -> None:
    """Check the sections that a class derived from one of ours reads besides."""
    known = {f.encode_name for f in msgspec.structs.fields(structure)}
    for key, value in section.items():
        here, inside = (*keys, str(key)), (*below, str(key))
        if key in known or not isinstance(value, dict):
            continue
        if "build_network" in own.handed.get(inside, ()):
            check_network(value, source, here)
        elif "build_loss" in own.handed.get(inside, ()):
            check_loss(value, source, here)
        elif own.of(inside) - {"type"}:
            check_read_keys(value, {"type"}, cls.__name__, source, here, own, inside)


def check_dataset(section: Any, source: Source, keys: Keys, *, is_train: bool, model: Accepted | None = None) -> None:
    """A data set that is not ours: its class's keys, those of the loader, and those that the model looks at."""
    from semiisp_plugin.toolbox import DATASET_REGISTRY, FileClient

    cls = registered(section, DATASET_REGISTRY, "data set", source, keys)
    known = {f.encode_name for f in msgspec.structs.fields(LoaderKeys)} | {"name", "type", "scale", "io_backend"}
    accepted = accepted_keys(cls) if isinstance(cls, type) else Accepted()
    if not isinstance(cls, type) or not (accepted.of(()) or accepted.accepts_all(())):
        accepted.open.add(())  # a function, or a class that keeps its options for others to read
    if model is not None:
        known |= model.of(keys)
        if model.accepts_all(keys):
            return
    check_read_keys(section, known, cls.__name__, source, keys, accepted)
    check_section(section, DatasetKeys, source, keys)
    if isinstance(cls, type):
        check_needed(section, cls, is_train, source, keys)
    backend = section.get("io_backend")
    if backend is not None:
        kinds = FileClient._backends
        if "type" not in backend:
            here = (*keys, "io_backend")
            missing(backend, "type", source, here, f"the key 'type' is missing: {', '.join(sorted(kinds))}.")
        kind = backend["type"]
        if kind not in kinds:
            message = f"no such backend '{short(kind)}'{nearest(str(kind), kinds)} Known: {', '.join(sorted(kinds))}."
            source.fail((*keys, "io_backend", "type"), message)
        check_call(backend, kinds[kind], source, (*keys, "io_backend"), ("db_paths", "client_keys"))


def model_class(options: dict[str, Any], source: Source) -> Any:
    """The registered model."""
    from semiisp_plugin.toolbox import MODEL_REGISTRY

    name, found = options["model_type"], names_in(MODEL_REGISTRY)
    if not isinstance(name, str) or name not in found:
        known = f"Registered: {', '.join(sorted(found))}."
        source.fail(("model_type",), f"no model '{short(name)}'{nearest(str(name), found)} {known}")
    return found[name]
