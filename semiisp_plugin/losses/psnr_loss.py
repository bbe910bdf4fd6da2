"""Negated PSNR as a loss.

Reference:
    Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration", ECCV 2022; the formula is that of its repository.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.registry import LOSS_REGISTRY, register

_FLOOR = 1e-8
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # Y of BT.601 in [16, 235], for R, G, B in [0, 1]


def negative_psnr(pred: Tensor, target: Tensor) -> Tensor:
    """``10 / ln 10 * ln(MSE + 1e-8)``, one value a sample: -PSNR in dB of images in [0, 1].

    Args:
        pred: ``(N, C, H, W)``.
        target: As ``pred``.

    Returns:
        ``(N,)``, from -80 for equal images upwards, below 0 for images worth the name. Its gradient is 0 at equal
        images, and nowhere infinite.
    """
    difference = full_precision(pred) - full_precision(target)
    error = difference.square().flatten(1).mean(dim=1)
    return 10 / math.log(10) * torch.log(error + _FLOOR)


@register(LOSS_REGISTRY)
class PSNRLoss(SampleLoss):
    """-PSNR in dB, from -80 upwards; see :func:`negative_psnr`.

    The gradient is that of the MSE, divided by the MSE of the sample: samples count by their relative error. As the
    values are negative, `SemiSupervisedModel` cannot compare them with a multiple of the mean real loss: its filters
    ``threshold`` and ``soft`` refuse them.

    Args:
        loss_weight: Factor on the whole loss.
        to_y: Compare the luma of BT.601 (as MATLAB's ``rgb2ycbcr``) of RGB images alone; ``toY`` of NAFNet's files.
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction.
    """

    def __init__(self, loss_weight: float = 1.0, to_y: bool = False, reduction: str = "mean") -> None:
        super().__init__(loss_weight, reduction)
        self.to_y = to_y

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """See `negative_psnr`.

        Raises:
            ValueError: Not 3 channels with ``to_y``.
        """
        if self.to_y:
            if pred.shape[1] != 3:
                raise ValueError(f"PSNRLoss: `to_y` needs RGB images, (N, 3, H, W); got {tuple(pred.shape)}.")
            pred, target = _luma(pred), _luma(target)
        return negative_psnr(pred, target)


def _luma(image: Tensor) -> Tensor:
    """Y without its offset of 16/255, which a difference does not have."""
    weights = torch.tensor(_LUMA, dtype=torch.promote_types(image.dtype, torch.float32), device=image.device)
    return (full_precision(image) * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
