"""Which unpaired images look most like the targets of pairs, by a simple score without a reference (ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from semiisp_plugin.losses.per_sample import full_precision

_LUMA = (0.299, 0.587, 0.114)
_PAST = 0.99  # what earlier targets still count after a batch
_SMALLEST_VARIANCE = 1e-4  # what differs by 0.01 differs little


def appearance(images: Tensor) -> Tensor:
    """Three numbers that describe an image.

    Args:
        images: ``(N, 3, H, W)`` RGB in [0, 1].

    Returns:
        ``(N, 3)``: exposure, the mean of the luma; contrast, its standard deviation; colourfulness (Hasler and
        Suesstrunk, 2003), ``sqrt(var(a) + var(b)) + 0.3 sqrt(mean(a)^2 + mean(b)^2)`` with ``a = red - green`` and
        ``b = (red + green) / 2 - blue``.
    """
    red, green, blue = full_precision(images).flatten(2).unbind(1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    variance, mean = torch.var_mean(opponents, dim=2, correction=0)
    colourfulness = variance.sum(1).sqrt() + 0.3 * mean.square().sum(1).sqrt()
    return torch.stack([luma.mean(1), luma.std(1, correction=0), colourfulness], dim=1)


class TargetChooser:
    """Chooses the images that look most like the pairs' targets that it has seen.

    The score of an image is ``sum_i (s_i - m_i)^2 / (v_i + 1e-4)``, low for good ones: s is its `appearance`, m and v
    are mean and variance of the targets' appearances, in which each batch counts 0.99 times as much as the next one.

    Args:
        share: Of the images that is kept, rounded, one at least.
        device: Of the images.

    Attributes:
        totals: ``(7,)``, all that is remembered: sums of the appearances and of their squares, and their number.
    """

    def __init__(self, share: float, device: torch.device) -> None:
        self.share = share
        self.totals = torch.zeros(7, device=device)

    @torch.no_grad()
    def see(self, targets: Tensor, *, distributed: bool = False) -> None:
        """Take in a batch of the pairs' targets ``(N, 3, H, W)``; ``distributed``: those of all processes."""
        found = appearance(targets)
        found = found[torch.isfinite(found).all(1)]  # a damaged one would be remembered
        seen = torch.cat([found.sum(0), found.square().sum(0), found.new_full((1,), len(found))])
        if distributed:
            torch.distributed.all_reduce(seen)
        self.totals = _PAST * self.totals + seen

    @torch.no_grad()
    def choose(self, images: Tensor) -> Tensor:
        """The numbers of those that are kept, in rising order.

        Args:
            images: ``(N, 3, H, W)``, one at least.
        """
        count = self.totals[6].clamp_min(1e-6)
        mean = self.totals[:3] / count
        variance = (self.totals[3:6] / count - mean.square()).clamp_min(0)
        scores = ((appearance(images) - mean).square() / (variance + _SMALLEST_VARIANCE)).sum(1)
        kept = max(1, round(self.share * len(images)))
        return scores.topk(kept, largest=False).indices.sort().values
