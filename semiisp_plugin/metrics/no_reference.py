"""How good an image looks without a reference: by what candidates for a pseudo-label are compared.

A score of your own is a class derived from `NoReferenceScore` with ``@register(SCORE_REGISTRY)``; its name is what
``train: label_bank: score`` says. What it keeps is in float buffers, which go into the checkpoint, and whose mean over
the processes counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semiisp_plugin.registry import SCORE_REGISTRY, register

_CHANNELS = 3
_FORGETTING = 0.001  # share of a new batch in the running means, at least
_LEAST_SPREAD = 0.01


class NoReferenceScore(nn.Module):
    """Base of scores. ``forward`` takes images ``(N, 3, H, W)`` in [0, 1] and gives ``(N,)``: higher is better."""

    def update(self, targets: Tensor) -> None:
        """Look at targets of labelled images, ``(N, 3, H, W)`` in [0, 1]; once for each batch that has some."""

    def see(self, targets: Tensor, processes: int = 1) -> None:
        """`update`, whether there are targets or not; of several processes, which all call this, the mean is kept."""
        if len(targets):
            self.update(targets)
        for buffer in self.buffers() if processes > 1 else ():
            torch.distributed.all_reduce(buffer)
            buffer /= processes


@register(SCORE_REGISTRY)
class TargetStatistics(NoReferenceScore):
    """How near an image's statistics are to those of the labelled targets (ours).

    SMSNet (WACV 2023) takes the cosine between features of the image and their mean over the labelled targets, the
    features being those of a network trained for it. Here they are `image_statistics`, compared by `closeness`. Mean
    and spread are over all targets seen, later ones counting more after a thousand batches.
    """

    seen: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        for name in ("mean", "square"):
            self.register_buffer(name, torch.zeros(2 * _CHANNELS + 2))

    @torch.no_grad()
    def update(self, targets: Tensor) -> None:
        """See `NoReferenceScore.update`; targets that are not finite are passed over."""
        statistics = image_statistics(targets)
        statistics = statistics[statistics.isfinite().all(1)]
        if len(statistics) == 0:
            return
        self.seen += len(statistics)
        share = (len(statistics) / self.seen).clamp_min(_FORGETTING)
        self.mean.lerp_(statistics.mean(0), share)
        self.square.lerp_(statistics.square().mean(0), share)

    def forward(self, images: Tensor) -> Tensor:
        """See `NoReferenceScore`: 0 at best; about -1 for a target. NaN for an image that is not finite."""
        return closeness(image_statistics(images), self.mean, (self.square - self.mean.square()).clamp_min(0).sqrt())


def image_statistics(images: Tensor) -> Tensor:
    """Mean and standard deviation of each channel, mean gradient magnitude of the grey image, and mean saturation.

    The grey image is the mean of the channels; saturation is the largest less the smallest of a pixel's values (ours).

    Args:
        images: ``(N, C, H, W)`` in [0, 1], H and W at least 2.

    Returns:
        ``(N, 2 C + 2)`` float32, in [0, 1] but for the gradient, which is at most the root of 2.
    """
    images = images.float()
    grey = images.mean(1)
    gradient = torch.hypot(grey[:, :-1].diff(dim=2), grey[:, :, :-1].diff(dim=1)).mean((1, 2))
    saturation = (images.amax(1) - images.amin(1)).mean((1, 2))
    of_channels = images.mean((2, 3)), images.std((2, 3), correction=0)
    return torch.cat((*of_channels, gradient.unsqueeze(1), saturation.unsqueeze(1)), 1)


def closeness(statistics: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """The negative distance of statistics from their mean, in units of their spread (ours).

    Args:
        statistics: ``(N, F)``.
        mean: ``(F,)``.
        spread: Standard deviations ``(F,)``; smaller ones count as 0.01.

    Returns:
        ``(N,)``: less the root of the mean square over F.
    """
    return -((statistics - mean) / spread.clamp_min(_LEAST_SPREAD)).square().mean(1).sqrt()
