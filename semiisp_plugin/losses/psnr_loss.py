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
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(loss_weight, reduction)

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """See `negative_psnr`."""
        return negative_psnr(pred, target)
