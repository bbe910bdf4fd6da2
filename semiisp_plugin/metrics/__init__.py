"""Metrics beyond BasicSR's, one a file, registered when it is imported.

All are called as BasicSR's are:

* ``img``: the prediction, ``(H, W, 3)`` with B, G, R (BasicSR's order) or ``(H, W)``; uint8, or float where [0, 255] is
  black to white;
* ``img2``: the ground truth, likewise;
* ``crop_border``: pixels left out at each edge, before all else;
* ``better``: not used; BasicSR hands this key of the metric's section to the function.

They raise a ValueError for an unknown option, different shapes, a data type other than uint8 and float, and an image
that is too small.
"""

from __future__ import annotations

from semiisp_plugin.metrics._shared import Images, images_for, prepare_metric, prepared_by, takes_floats
from semiisp_plugin.metrics.delta_e import calculate_delta_e
from semiisp_plugin.metrics.gt_mean import calculate_psnr_gt_mean, calculate_ssim_gt_mean
from semiisp_plugin.metrics.lpips import calculate_lpips
from semiisp_plugin.metrics.psnr_float import calculate_psnr_float
from semiisp_plugin.metrics.ssim_matlab import calculate_ssim_matlab

__all__ = [
    "Images",
    "calculate_delta_e",
    "calculate_lpips",
    "calculate_psnr_float",
    "calculate_psnr_gt_mean",
    "calculate_ssim_gt_mean",
    "calculate_ssim_matlab",
    "images_for",
    "prepare_metric",
    "prepared_by",
    "takes_floats",
]
