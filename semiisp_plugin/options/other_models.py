"""Option files of BasicSR's own models, and of those that others register.

Their keys are what the training loop reads, what the classes' source reads (`semiisp_plugin.options.accepted_keys`),
and, for networks, losses, optimisers, schedules and metrics, the parameters of what is called.
"""

from __future__ import annotations

from typing import Any

import msgspec

from semiisp_plugin.options.accepted_keys import Accepted, accepted_keys
from semiisp_plugin.options.basicsr_structures import OF_THE_LOOP, BasicSROptions
from semiisp_plugin.options.messages import nearest
from semiisp_plugin.options.parts import (
    check_dataset,
    check_keep_best,
    check_loss,
    check_metric,
    check_needed,
    check_network,
    check_optimiser,
    check_our_dataset,
    check_read_keys,
    expect_section,
    is_our_dataset,
    model_class,
)
from semiisp_plugin.options.schedules import check_scheduler
from semiisp_plugin.options.sections import check_section, missing
from semiisp_plugin.options.source import Source
from semiisp_plugin.options.structures import Logger

_OURS_ALONE = ("accumulate", "precision", "compile", "channels_last", "nonfinite_limit", "grad_clip", "filter", "noise")


def check_other_file(options: dict[str, Any], source: Source, *, is_train: bool) -> None:
    """Check the options of a model that is not ours.

    Raises:
        OptionError: The first thing found wrong.
    """
    model = model_class(options, source)
    accepted = accepted_keys(model) if isinstance(model, type) else Accepted()
    name = options["model_type"]
    everything = not isinstance(model, type) or accepted.accepts_all(())
    _check_top(options, accepted, name, everything, source)
    for section, of_loop in OF_THE_LOOP.items():
        value = options.get(section)
        if value is not None and not everything and not (section == "train" and not is_train):
            _refuse_ours(value, section, accepted, name, source)
            check_read_keys(value, set(of_loop), name, source, (section,), accepted, (section,))
    if options.get("logger") is not None:
        known = {f.encode_name for f in msgspec.structs.fields(Logger)}
        check_read_keys(options["logger"], known, "the training loop", source, ("logger",), accepted, ("logger",))
    check_section(options, BasicSROptions, source)
    if isinstance(model, type):
        check_needed(options, model, is_train, source)
    for key, value in options.items():
        if str(key).startswith("network_") and value is not None:
            check_network(value, source, (key,))
    for phase, dataset in options["datasets"].items():
        here = ("datasets", phase)
        expect_section(dataset, source, here)
        if is_our_dataset(dataset.get("type")):
            check_our_dataset(dataset, source, here, is_train=is_train, loader=True)
        else:
            check_dataset(dataset, source, here, is_train=is_train, model=None if everything else accepted)
    metrics = (options.get("val") or {}).get("metrics") or {}
    for metric, value in metrics.items():
        check_metric(value, source, ("val", "metrics", metric))
    if is_train:
        check_keep_best(options, source)
        _check_training(options, model, accepted, everything, source)
    elif not [p for p in options["datasets"] if p != "train"]:
        source.fail(("datasets",), "there is no data set to test: add a section such as 'test_1'.")


def _check_top(options: dict[str, Any], accepted: Accepted, name: str, everything: bool, source: Source) -> None:
    if everything:
        return
    known = {f.encode_name for f in msgspec.structs.fields(BasicSROptions)} - {"extends"}
    for key in options:
        if str(key).startswith("network_") and key not in accepted.of(()):
            networks = [k for k in accepted.of(()) if k.startswith("network_")]
            source.fail((key,), f"{name} does not read this network{nearest(key, networks)}")
    check_read_keys(options, known | {k for k in options if str(k).startswith("network_")}, name, source, (), accepted)


def _refuse_ours(section: dict[str, Any], where: str, accepted: Accepted, name: str, source: Source) -> None:
    for key in _OURS_ALONE if where == "train" else ():
        if key in section and key not in accepted.of((where,)) and not accepted.accepts_all((where,)):
            source.fail((where, key), f"only our models have this; {name} would ignore it. Leave it out.")


def _check_training(options: dict[str, Any], model: Any, accepted: Accepted, everything: bool, source: Source) -> None:
    train = options.get("train")
    if train is None:
        source.fail((), "the section 'train' is missing.")
    if "train" not in options["datasets"]:
        missing(options["datasets"], "train", source, ("datasets",), "the section 'train' is missing.")
    dataset = options["datasets"]["train"]
    if dataset.get("batch_size_per_gpu") is None and dataset.get("real_per_batch") is None:
        source.fail(("datasets", "train"), "training needs the key 'batch_size_per_gpu'.")
    if options.get("val") and options["val"].get("val_freq") is None:
        source.fail(("val",), "training needs 'val_freq', in iterations (or leave out the section 'val').")
    from semiisp_plugin.toolbox import BaseModel

    basicsr = isinstance(model, type) and issubclass(model, BaseModel)
    for key, value in train.items():
        here, read = ("train", key), accepted.handed.get(("train", key), set())
        if value is None:
            continue
        if str(key).startswith("optim_") and basicsr and model.get_optimizer is BaseModel.get_optimizer:
            check_optimiser(value, source, here)
        elif key == "scheduler" and basicsr and model.setup_schedulers is BaseModel.setup_schedulers:
            check_scheduler(value, False, train, source, here)
        elif "build_loss" in read:
            check_loss(value, source, here)
        elif isinstance(value, dict) and not everything and not accepted.accepts_all(here) and accepted.of(here):
            check_read_keys(value, set(), options["model_type"], source, here, accepted, here)
