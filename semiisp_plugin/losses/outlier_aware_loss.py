"""The outlier-aware loss, with which SYENet is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.registry import LOSS_REGISTRY, register


@register(LOSS_REGISTRY)
class OutlierAwareLoss(SampleLoss):
    """``|d| w`` with ``w = 1 - exp(-|d - mean| sqrt(2) / std)``: differences count by how unusual they are.

    Mean and (unbiased) standard deviation are those of a channel of an image, and w has no gradient (Gou et al., ICCV
    2023). Where all differences of a channel are equal the published formula is 0 / 0; here w is 0.

    Args:
        loss_weight: Factor on the whole loss.
        reduction: ``none`` gives one value a sample, ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(loss_weight, reduction)

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Their means over C and space."""
        difference = full_precision(pred) - full_precision(target)
        with torch.no_grad():
            var, mean = torch.var_mean(difference, (2, 3), keepdim=True)
            scale = math.sqrt(2) / var.sqrt().clamp_min(torch.finfo(var.dtype).tiny)
            weight = -torch.expm1(-(difference - mean).abs() * scale)
        return (difference.abs() * weight).flatten(1).mean(dim=1)
