"""Test pipeline: a drop-in for ``basicsr.test.test_pipeline``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from semiisp_plugin.models.validation import naming_image
from semiisp_plugin.toolbox import build_model, dict2str, get_root_logger
from semiisp_plugin.training.distributed import in_first_process, init_distributed
from semiisp_plugin.training.loaders import build_val_loaders
from semiisp_plugin.training.run import options_or_basicsr, parsed, set_seed
from semiisp_plugin.training.run_folder import log_file, owned_run, replaced, run_log

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
    with owned_run(opt), run_log(opt, quiet) as log:
        logger = get_root_logger()
        loaders = build_val_loaders(opt)
        model = build_model(opt)
        logger.info(dict2str(opt))
        for loader in loaders:
            _try_one(model, loader)
        make = partial(_make_folder, opt["path"])
        in_first_process(opt, make)  # the others write into the new folder
        if opt["rank"] == 0:
            log.open(log_file(opt))
        results = {}
        model.show_progress = progress and opt["rank"] == 0
        for loader in loaders:
            name = loader.dataset.opt["name"]  # type: ignore[attr-defined]  # BasicSR's data sets keep their options
            logger.info(f"Testing {name}: {len(loader.dataset)} images.")  # type: ignore[arg-type]  # as above
            model.validation(loader, current_iter=opt["name"], tb_logger=None, save_img=opt["val"]["save_img"])
            results[name] = dict(getattr(model, "metric_results", {}))
        logger.info(f"Results are in {opt['path']['results_root']}.")
    return results


def _make_folder(paths: Mapping[str, str]) -> None:
    with replaced(paths["results_root"]):
        os.makedirs(paths["visualization"], exist_ok=True)


def _try_one(model: Any, loader: Any) -> None:
    """Run the network on the first image of a data set: one that does not fit must not rename older results."""
    (item,) = DataLoader(loader.dataset, batch_size=1, sampler=[0], generator=torch.Generator())
    with naming_image(loader.dataset.opt["name"], item):
        model.feed_data(item)
        model.test()


test_pipeline.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions by their name
test.__test__ = False  # type: ignore[attr-defined]  # as above
