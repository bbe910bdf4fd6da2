"""Tiles of networks whose result depends on the whole image: brought to agree with the whole image at low resolution.

A network with a mean or an attention over the image treats a tile by what is in the tile: a dark wall comes out
brighter than beside a window. No overlap helps against that. What differs is the tone, though, not the detail. So
(ours) the network is run on the reduced image, once on all of it and once on each tile's part by itself. What it makes
of that part in either case differs by what the tile does not see; a smooth gain and offset for each colour leads from
one to the other, and is applied to the tile's result at full size:

    gain = (cov(alone, whole) + e) / (var(alone) + e),  offset = mean(whole) - gain mean(alone)

with means over windows of an eighth of the tile to each side, as in the fast guided filter (He and Sun, arXiv
1505.00996), but with the gain drawn to 1, not to 0: detail that the small image does not have stays what it is.

A network may treat reduced images differently from large ones: noise and fine texture are gone. As both sides of the
comparison are reduced, most of this cancels; what does not would make good tiles worse, so tiles are matched only where
they disagree about what they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.apps.tiling import Box, weights_of

__all__ = ["DISAGREEMENT", "Agreement", "match_tone", "reduce", "reduction_for", "sees_everything"]

_EPSILON = 0.01**2  # of values in [0, 1]: fainter structure than this decides nothing
_GAINS = (0.25, 4.0)
_EVEN = 0.75  # largest share of a tile where another counts as well
DISAGREEMENT = 2 / 255
"""From this on (`Agreement.disagreement`) tiles are matched: patches of this difference can be seen on plain walls."""
_PROBE, _CORNER, _LEAST = 384, 32, 1e-3


def reduction_for(height: int, width: int, tile: int) -> int:
    """The power of two by which the whole image is reduced to have no more pixels than a tile.

    Nor more than twice its side: attention along the rows of a panorama would take more memory than the tile does.
    """
    return 2 ** max(0, math.ceil(math.log2(max(math.sqrt(height * width), max(height, width) / 2) / tile)))


def reduce(image: Tensor, factor: int) -> Tensor:
    """Means over squares of ``factor`` pixels, ``(N, C, H, W)``; at the border over what there is of a square."""
    return F.avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False)


class Agreement:
    """How much tiles disagree about what they share, from what they make of it, reduced.

    Args:
        height: Of the image.
        width: Of the image.
        factor: By what results are reduced; tiles begin at multiples of it.
    """

    def __init__(self, height: int, width: int, factor: int) -> None:
        size = (1, 3, -(-height // factor), -(-width // factor))
        self.factor = factor
        self._sum, self._squares = torch.zeros(size), torch.zeros(size)
        self._largest = torch.zeros(1, 1, *size[2:])

    def add(self, result: Tensor, box: Box) -> None:
        """Take the result ``(1, 3, h, w)`` for a tile."""
        weights = weights_of(box.rows)[:, None] * weights_of(box.columns)[None, :]
        share = reduce(weights[None, None], self.factor)
        small = reduce(result.float().cpu(), self.factor)
        rows, columns = (slice(s.start // self.factor, -(-s.stop // self.factor)) for s in box)
        where = (..., rows, columns)
        self._sum[where] += share * small
        self._squares[where] += share * small * small
        self._largest[where] = torch.maximum(self._largest[where], share)

    def disagreement(self) -> float:
        """Of the differences between two tiles in the middle of what they share, the ninth of ten, in [0, 1].

        0 if there is no place where two tiles count alike.
        """
        middle = (self._largest < _EVEN).expand_as(self._sum)
        # Two values that count half each are twice the standard deviation apart.
        apart = 2 * (self._squares - self._sum * self._sum).clamp_min(0)[middle].sqrt()
        return float(apart.kthvalue(math.ceil(0.9 * apart.numel())).values) if apart.numel() else 0.0


def match_tone(tile: Tensor, alone: Tensor, whole: Tensor, factor: int, radius: int) -> Tensor:
    """Bring a tile's result to the tone of the whole image's.

    Args:
        tile: ``(1, 3, h, w)``, the network's result for a tile.
        alone: ``(1, 3, ceil(h / factor), ceil(w / factor))``: the result for the reduced tile by itself.
        whole: The same size: the result for the reduced whole image, where the tile lies.
        factor: What it was reduced by.
        radius: Of the windows, in pixels of the reduced image.

    Returns:
        ``(1, 3, h, w)``.
    """
    height, width = tile.shape[-2:]
    mean, target = _box(alone, radius), _box(whole, radius)
    variance = _box(alone * alone, radius) - mean * mean
    covariance = _box(alone * whole, radius) - mean * target
    gain = ((covariance + _EPSILON) / (variance.clamp_min(0) + _EPSILON)).clamp(*_GAINS)
    offset = target - gain * mean
    # Smooth as the tile's pixels need it: means of the windows that a pixel lies in.
    maps = torch.cat((_box(gain, radius), _box(offset, radius)), 1)
    size = (maps.shape[-2] * factor, maps.shape[-1] * factor)
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)[..., :height, :width]
    return maps[:, :3] * tile + maps[:, 3:]


def _box(values: Tensor, radius: int) -> Tensor:
    """Means over windows of ``2 radius + 1`` pixels, at the border over what there is of them."""
    for axis in (-2, -1):
        reach = min(radius, values.shape[axis] - 1)
        kernel, padding = [1, 1], [0, 0]
        kernel[axis], padding[axis] = 2 * reach + 1, reach
        values = F.avg_pool2d(values, kernel, stride=1, padding=padding, count_include_pad=False)
    return values


def sees_everything(run: Callable[[Tensor], Tensor]) -> bool:
    """Whether a network's result in one corner changes with what is in the opposite one, 384 pixels away.

    Args:
        run: Runs the network on ``(1, 3, H, W)``.
    """
    ramp = torch.linspace(0.05, 0.5, _PROBE)
    image = torch.stack((ramp.expand(_PROBE, -1), ramp.flip(0).expand(_PROBE, -1).T, ramp.expand(_PROBE, -1).T))[None]
    other = image.clone()
    other[..., _PROBE // 2 :, _PROBE // 2 :] = 0.9
    corner = (..., slice(_CORNER), slice(_CORNER))
    return float((run(image)[corner] - run(other)[corner]).abs().max()) > _LEAST
