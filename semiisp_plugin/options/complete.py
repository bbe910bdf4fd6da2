"""From an option file to the dictionary that the plugin's models and data sets get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from semiisp_plugin.options.check import check_options, dataset_structure, model_structure
from semiisp_plugin.options.reading import read_options
from semiisp_plugin.options.sections import with_defaults
from semiisp_plugin.options.source import Source


def load_options(
    path: str | os.PathLike[str],
    *,
    root_path: str,
    is_train: bool,
    overrides: Sequence[str] = (),
    debug: bool = False,
) -> dict[str, Any]:
    """Read, override, check and complete an option file for training or testing.

    Args:
        path: The option file.
        root_path: Folder that gets ``experiments/``, ``tb_logger/`` and ``results/``.
        is_train: Training (True) or testing.
        overrides: ``--force_yml`` entries.
        debug: BasicSR's debug mode.

    Returns:
        The options as BasicSR's models expect them.
    """
    options, source = read_options(path, overrides)
    return complete(options, source, root_path=root_path, is_train=is_train, debug=debug)


def complete(
    options: dict[str, Any], source: Source, *, root_path: str, is_train: bool, debug: bool = False
) -> dict[str, Any]:
    """Check options and add what they do not say: the structures' defaults, paths, phases, GPU count, debug settings.

    Models and data sets find every key that has a default other than "nothing", and need not check again. ``warnings``
    is what is to be said about the options: for the log of the run.
    """
    check_options(options, source, is_train=is_train)
    for section in ("path", "logger", *(() if is_train else ("val",))):
        options[section] = options.get(section) or {}
    structure = model_structure(options["model_type"])
    assert structure is not None  # as `check_options` has seen
    with_defaults(options, structure)
    if options.get("val") is not None:
        options["val"].setdefault("suffix", None)
    options["is_train"] = is_train
    options["root_path"] = str(root_path)
    options["num_gpu"] = resolve_gpus(options["num_gpu"], source)
    if debug and not _is_debug(options["name"]):
        options["name"] = "debug_" + options["name"]
    for name, dataset in options["datasets"].items():
        dataset.setdefault("name", name)
        with_defaults(dataset, dataset_structure(dataset["type"]))
        dataset["phase"] = name.split("_")[0]
        dataset["scale"] = options["scale"]
        for section in (dataset, *(dataset.get(key) or {} for key in ("pseudo", "unlabelled"))):
            for key in ("dataroot_gt", "dataroot_lq", "meta_info_file", "build"):
                if isinstance(section.get(key), str):
                    section[key] = os.path.expanduser(section[key])
    paths = options["path"]
    for key, value in paths.items():
        if isinstance(value, str):
            paths[key] = os.path.expanduser(value)
    if is_train:
        run = os.path.join(root_path, "experiments", options["name"])
        paths.update(
            experiments_root=run,
            models=os.path.join(run, "models"),
            training_states=os.path.join(run, "training_states"),
            log=run,
            visualization=os.path.join(run, "visualization"),
        )
        if _is_debug(options["name"]):
            changes = {"print_freq": 1, "save_checkpoint_freq": 8, "use_tb_logger": False}
            options["logger"].update(changes)
            if options.get("val"):
                options["val"]["val_freq"] = changes["val_freq"] = 8
            said = ", ".join(f"{key} {value}" for key, value in changes.items())
            source.warn(("name",), f"'{options['name']}' is BasicSR's debug mode: {said}.")
    else:
        run = os.path.join(root_path, "results", options["name"])
        paths.update(results_root=run, log=run, visualization=os.path.join(run, "visualization"))
    options["warnings"] = list(dict.fromkeys(source.warnings))
    return options


def _is_debug(name: str) -> bool:
    """Whether a name asks for debug mode, as ``--debug`` writes it; BasicSR's holds ``debug`` anywhere."""
    return name == "debug" or name.startswith("debug_")


def resolve_gpus(num_gpu: int | str | None, source: Source) -> int:
    """Number of GPUs to use: ``auto`` takes what there is, a positive number must be there."""
    import torch

    available = torch.cuda.device_count()
    if num_gpu in ("auto", None):
        return available
    if not isinstance(num_gpu, int) or num_gpu < 0:
        source.fail(("num_gpu",), f"give a number of GPUs or 'auto', not {num_gpu!r}.")
    if num_gpu > available:
        source.fail(("num_gpu",), f"{num_gpu} asked for, {available} found; use 'auto', or 0 for the CPU.")
    return num_gpu
