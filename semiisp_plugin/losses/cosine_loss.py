"""One minus the cosine between colours, the second part of SYENet's loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.registry import LOSS_REGISTRY, register


@register(LOSS_REGISTRY)
class CosineLoss(SampleLoss):
    """``1 - cos`` between the colours of a pixel, the prediction's clipped to [0, 1]; 1 where one of them is black.

    It sees hue and saturation, not brightness (Gou et al., ICCV 2023): use it beside another loss.

    Args:
        loss_weight: Factor on the whole loss.
        reduction: ``none`` gives one value a sample, ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(loss_weight, reduction)

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Their means over the pixels."""
        cosine = F.cosine_similarity(full_precision(pred).clamp(0, 1), full_precision(target), dim=1)
        return 1 - cosine.flatten(1).mean(dim=1)
