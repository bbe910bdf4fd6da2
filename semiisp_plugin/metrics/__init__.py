"""Metrics beyond BasicSR's. Importing this package registers every module beside this file in ``METRIC_REGISTRY``."""

from __future__ import annotations

import importlib
import pkgutil

from semiisp_plugin.metrics.gt_mean import calculate_psnr_gt_mean, calculate_ssim_gt_mean, gt_mean_scale

__all__ = ["calculate_psnr_gt_mean", "calculate_ssim_gt_mean", "gt_mean_scale"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
