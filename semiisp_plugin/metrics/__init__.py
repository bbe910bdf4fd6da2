"""Metrics beyond BasicSR's, one a file, registered when it is imported."""

from __future__ import annotations

from semiisp_plugin.metrics._declared import images_for, prepare_metric, prepared_by, takes_floats
from semiisp_plugin.metrics.delta_e import calculate_delta_e
from semiisp_plugin.metrics.gt_mean import calculate_psnr_gt_mean, calculate_ssim_gt_mean, gt_mean_scale
from semiisp_plugin.metrics.lpips import calculate_lpips
from semiisp_plugin.metrics.psnr_float import calculate_psnr_float
from semiisp_plugin.metrics.ssim_matlab import calculate_ssim_matlab

__all__ = [
    "calculate_delta_e",
    "calculate_lpips",
    "calculate_psnr_float",
    "calculate_psnr_gt_mean",
    "calculate_ssim_gt_mean",
    "calculate_ssim_matlab",
    "gt_mean_scale",
    "images_for",
    "prepare_metric",
    "prepared_by",
    "takes_floats",
]
