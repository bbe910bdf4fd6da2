"""The smooth L1 loss, with which LLFormer is trained."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.options.ranges import NotNegative
from semiisp_plugin.registry import LOSS_REGISTRY, register


@register(LOSS_REGISTRY)
class SmoothL1Loss(SampleLoss):
    """``d^2 / (2 beta)`` for differences ``d`` of less than ``beta``, ``|d| - beta / 2`` beyond, as torch's.

    With the default ``beta`` and images in [0, 1] it is half the squared error throughout.

    Args:
        loss_weight: Factor on the whole loss.
        beta: Where the square becomes a line; 0 is L1.
        reduction: ``none`` gives one value a sample, ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction, or a ``beta`` that is negative or not finite.
    """

    def __init__(self, loss_weight: float = 1.0, beta: NotNegative = 1.0, reduction: str = "mean") -> None:
        super().__init__(loss_weight, reduction)
        if not 0 <= beta < math.inf:
            raise ValueError(f"SmoothL1Loss: `beta` must be a finite number of 0 or more; got {beta}.")
        self.beta = float(beta)

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Their means over C and space."""
        values = F.smooth_l1_loss(full_precision(pred), full_precision(target), reduction="none", beta=self.beta)
        return values.flatten(1).mean(dim=1)
