"""The discriminator of DRBN's second stage (Yang et al., CVPR 2020): does an image look like a good one?

Written from facts about the public repository (flyywh/CVPR-2020-Semi-Low-Light), which has no licence; its code was not
used. It is part of a model, and no network for option files: what it gives is no image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, check_image, widened


class ColourDiscriminator(nn.Module):
    """Images and their colours in order, (N, 3, H, W) -> scores (N,) in [0, 1], float32 at least.

    Six channels go in: the image, and its red, green and blue sorted pixel by pixel. Eight convolutions halve it four
    times; all but the first are followed by batch norm. A score is the sigmoid of the mean of the last one's map.

    Batch norm is always that of the batch at hand: a discriminator is never validated, and without running statistics
    one that is skipped with a step leaves no trace (ours).

    The default is the published size: 4,691,329 parameters.

    Args:
        width: Channels of the first convolutions; the last ones have eight times as many.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        check_at_least("ColourDiscriminator", 1, width=width)
        layers: list[nn.Module] = []
        before = 2 * N_COLOURS
        for channels in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(before, channels, 3, padding=1), *_normed(channels, bool(layers))]
            layers += [nn.Conv2d(channels, channels, 3, stride=2, padding=1), *_normed(channels)]
            before = channels
        self.features = nn.Sequential(*layers)
        self.score = nn.Conv2d(before, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """As the class says."""
        check_image("ColourDiscriminator", image)
        maps = self.score(self.features(torch.cat([image, image.sort(dim=1).values], dim=1)))
        return widened(maps).mean(dim=(1, 2, 3)).sigmoid()


def _normed(channels: int, norm: bool = True) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, track_running_stats=False), nn.ReLU()] if norm else [nn.ReLU()]
