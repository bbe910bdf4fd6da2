"""Test pipeline: a drop-in for ``basicsr.test.test_pipeline``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import torch

from semiisp_plugin import options as options_module
from semiisp_plugin.toolbox import build_model, dict2str, get_env_info, get_time_str
from semiisp_plugin.train import archive, build_val_loaders, held_log, init_distributed, open_log, set_seed

__test__ = False  # pytest: this module holds no tests


def test_pipeline(root_path: str, argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Test as the command line says; the drop-in for BasicSR's function of that name.

    Args:
        root_path: Folder that gets ``results/``.
        argv: Arguments; default: those of the process.

    Returns:
        Mean of every metric, by data set.
    """
    parser = argparse.ArgumentParser(prog="basicsr test", description="Test a model from an option file.")
    options_module.add_arguments(parser)
    return run_from_arguments(parser.parse_args(argv), root_path)


def run_from_arguments(args: argparse.Namespace, root_path: str) -> dict[str, dict[str, float]]:
    """`test_pipeline` for parsed arguments."""
    opt = options_module.load_options(
        args.opt, root_path=root_path, is_train=False, overrides=args.force_yml, debug=args.debug
    )
    init_distributed(opt, args.launcher)
    return test(opt)


def test(opt: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Test from complete options; see `test_pipeline`."""
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
    logger = open_log(os.path.join(opt["path"]["log"], f"test_{opt['name']}_{get_time_str()}.log"))
    logger.info(get_env_info())
    logger.info(dict2str(opt))
    for record in held.buffer:
        logger.handle(record)
    results = {}
    for loader in loaders:
        name = loader.dataset.opt["name"]  # type: ignore[attr-defined]  # BasicSR's data sets keep their options
        logger.info(f"Testing {name}: {len(loader)} images.")
        model.validation(loader, current_iter=opt["name"], tb_logger=None, save_img=opt["val"]["save_img"])
        results[name] = dict(getattr(model, "metric_results", {}))
    logger.info(f"Results are in {opt['path']['results_root']}.")
    return results


test_pipeline.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions by their name
test.__test__ = False  # type: ignore[attr-defined]  # as above
