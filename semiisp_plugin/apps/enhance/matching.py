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
a reduced one differs from the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 0.01**2  # of values in [0, 1]: fainter structure than this decides nothing
_GAINS = (0.25, 4.0)
DISAGREEMENT = 2 / 255
"""From this on (see `disagreement`) tiles are matched: patches of this difference can be seen on plain walls."""
_PROBE, _CORNER, _LEAST = 384, 32, 1e-3


def reduction_for(height: int, width: int, tile: int) -> int:
    """The power of two by which the whole image is reduced to have no more pixels than a tile.

    Nor more than twice its side: attention along the rows of a panorama would take more memory than the tile does.
    """
    return 2 ** max(0, math.ceil(math.log2(max(math.sqrt(height * width), max(height, width) / 2) / tile)))


def reduce(image: Tensor, factor: int) -> Tensor:
    """Means over squares of ``factor`` pixels, ``(N, C, H, W)``; at the border over what there is of a square."""
    return F.avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False)


def disagreement(parts: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean difference, of the tile that differs most, between what a network makes of it alone and within the whole.

    Args:
        parts: The two results ``(1, 3, h, w)`` for each tile, reduced. Their outer quarters do not count: a tile's
            border reaches in there.
    """
    apart = []
    for alone, whole in parts:
        rows, columns = (slice(side // 4, side - side // 4) for side in alone.shape[-2:])
        apart.append(float((alone - whole)[..., rows, columns].abs().mean()))
    return max(apart)


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
