"""Test pipeline: a drop-in for ``basicsr.test.test_pipeline``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from semiisp_plugin.toolbox import build_model
from semiisp_plugin.training.distributed import init_distributed
from semiisp_plugin.training.loaders import build_val_loaders
from semiisp_plugin.training.run import options_or_basicsr, parsed, set_seed
from semiisp_plugin.training.run_folder import archive, held_log, open_log

__test__ = False  # pytest: this module holds no tests


def test_pipeline(root_path: str, argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Test as the command line says; the drop-in for BasicSR's function of that name.

    Args:
        root_path: Folder that gets ``results/``.
        argv: Arguments; default: those of the process.

    Returns:
        Mean of every metric, by data set; of BasicSR's own models, which run in its own pipeline, nothing.
    """
    return run_from_arguments(parsed("test", argv), root_path)


def run_from_arguments(args: argparse.Namespace, root_path: str) -> dict[str, dict[str, float]]:
    """`test_pipeline` for parsed arguments."""
    opt, _ = options_or_basicsr("test", args, root_path)
    if opt is None:
        return {}
    init_distributed(opt, args.launcher)
    return test(opt, progress=sys.stderr.isatty())


def test(opt: dict[str, Any], *, progress: bool = False, quiet: bool = False) -> dict[str, dict[str, float]]:
    """Test from complete options; see `test_pipeline`.

    Args:
        opt: Options; ``dist``, ``rank`` and ``world_size`` are filled in for one process when absent.
        progress: Show a progress bar on the terminal.
        quiet: Write the log to its file alone.
    """
    if "dist" not in opt:
        init_distributed(opt, "none")
    set_seed(opt["manual_seed"] + opt["rank"])
    torch.backends.cudnn.benchmark = True
    with held_log() as held:
        loaders = build_val_loaders(opt)
        model = build_model(opt)
    if opt["rank"] == 0:
        archive(opt["path"]["results_root"])
        os.makedirs(opt["path"]["visualization"], exist_ok=True)
    if opt["dist"]:  # the others write into the new folder
        torch.distributed.barrier()
    logger = open_log(opt, held, quiet)
    results = {}
    model.show_progress = progress and opt["rank"] == 0
    for loader in loaders:
        name = loader.dataset.opt["name"]  # type: ignore[attr-defined]  # BasicSR's data sets keep their options
        logger.info(f"Testing {name}: {len(loader.dataset)} images.")  # type: ignore[arg-type]  # as above
        model.validation(loader, current_iter=opt["name"], tb_logger=None, save_img=opt["val"]["save_img"])
        results[name] = dict(getattr(model, "metric_results", {}))
    logger.info(f"Results are in {opt['path']['results_root']}.")
    return results


test_pipeline.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions by their name
test.__test__ = False  # type: ignore[attr-defined]  # as above
