"""From a checked option file to the dictionary that models and data sets get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from semiisp_plugin.options.parts import is_our_dataset
from semiisp_plugin.options.reading import read_options
from semiisp_plugin.options.source import Source
from semiisp_plugin.options.whole_file import check_options


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
    """Check options and add what BasicSR derives from them: paths, phases, GPU count, debug settings."""
    check_options(options, source, is_train=is_train)
    options.setdefault("num_gpu", "auto")
    options.setdefault("manual_seed", 0)
    if options["manual_seed"] is None:
        options["manual_seed"] = 0
    options["path"] = options.get("path") or {}
    options["logger"] = options.get("logger") or {}
    options["logger"].setdefault("print_freq", 100)
    options["logger"].setdefault("save_checkpoint_freq", 5000)
    options["logger"].setdefault("use_tb_logger", True)
    options["is_train"] = is_train
    options["root_path"] = str(root_path)
    options["num_gpu"] = resolve_gpus(options["num_gpu"], source)
    if debug and not options["name"].startswith("debug"):
        options["name"] = "debug_" + options["name"]
    for name, dataset in options["datasets"].items():
        dataset["phase"] = name.split("_")[0]
        dataset["scale"] = options.get("scale", 1)
        dataset.setdefault("name", name)
        for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
            if dataset.get(key) is not None:
                dataset[key] = os.path.expanduser(dataset[key])
        pseudo = dataset.get("pseudo")
        if is_our_dataset(dataset["type"]) and isinstance(pseudo, dict) and pseudo.get("build"):
            pseudo["build"] = os.path.expanduser(pseudo["build"])
    paths = options["path"]
    for key, value in paths.items():
        if isinstance(value, str):
            paths[key] = os.path.expanduser(value)
    if options.get("val") is None and not is_train:
        options["val"] = {}
    if options.get("val") is not None:
        options["val"].setdefault("save_img", False)
        options["val"].setdefault("suffix", None)
    if is_train:
        run = os.path.join(root_path, "experiments", options["name"])
        paths.update(
            experiments_root=run,
            models=os.path.join(run, "models"),
            training_states=os.path.join(run, "training_states"),
            log=run,
            visualization=os.path.join(run, "visualization"),
        )
        if "debug" in options["name"]:
            if options.get("val"):
                options["val"]["val_freq"] = 8
            options["logger"].update(print_freq=1, save_checkpoint_freq=8)
    else:
        run = os.path.join(root_path, "results", options["name"])
        paths.update(results_root=run, log=run, visualization=os.path.join(run, "visualization"))
    return options


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
