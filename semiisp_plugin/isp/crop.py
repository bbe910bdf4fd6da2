"""The inverse ISP of crops of 8-bit images, compiled by Numba, where their place in the picture decides the parameters.

What `semiisp_plugin.isp.pipeline.InvertibleISP` computes with tensors, in one pass over the rows: several times faster
on a CPU for small images, for sets on a grid, and with inverse tone mapping. Float32, of CPU tensors, not
differentiable.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.compiled import compiled
from semiisp_plugin.isp.parameters import ISPSpec

# Where a place leaves the axes by more than this, relative to its scale, it is a turn, which no augmentation makes.
_SKEW = 1e-4
_WHOLE = np.eye(2, 3)


def invert_crops(
    spec: ISPSpec, images: Tensor, sets: Tensor, places: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Invert the ISP on crops, each with the parameters that hold where it lies.

    Args:
        spec: The ISP.
        images: ``(N, 3, h, w)`` uint8.
        sets: ``(N, K, gh, gw)`` float32, of the whole pictures.
        places: ``(N, 2, 3)``: ``place @ (u, v, 1)`` is the point (x, y) of the picture under the point (u, v) of the
            crop, -1 and 1 being the edges of either. None: the images are whole.

    Returns:
        ``(N, 3, h, w)`` float32 in [0, 1], and ``(N,)``, the share of values that were clamped. None where this cannot
        be done here: without Numba, on a GPU, for images of other types, sets that are not finite, f_IT with the sign
        -1.

    Raises:
        ValueError: A place is neither straight nor transposed.
    """
    invert = compiled("rows_numba", "invert")
    here = images.dtype == torch.uint8 and sets.dtype == torch.float32 and images.device.type == "cpu"
    if invert is None or not here or (spec.inverse_tone_mapping and spec.it_sign < 0):
        return None
    grids = sets.numpy()  # on a few numbers NumPy is faster than torch
    if not np.isfinite(grids).all():
        return None  # comparisons of the compiled code would make numbers of NaN
    height, width = images.shape[2:]
    starts, base = _constants(spec)
    out, clipped = torch.empty(images.shape, dtype=torch.float32), torch.empty(len(images))
    for i, (pixels, target) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), out.numpy(), strict=True)):
        place = _WHOLE if places is None else places[i].numpy().astype(np.float64)
        grid, y, x = _axes(grids[i], place, height, width)
        done = invert(pixels, grid, y, x, starts, not spec.tie_xy, base, target)
        if done is None:
            return None
        clipped[i] = done[0] / max(1, target.size)
    return out, clipped


@lru_cache(maxsize=32)
def _constants(spec: ISPSpec) -> tuple[tuple[int, ...], np.ndarray]:
    """Where the parameters of it, cc, ga, gm and cs begin, -1 for none; and the inverse base matrix."""
    where = spec.slices()
    starts = tuple(where[name].start if name in where else -1 for name in ("it", "cc", "ga", "gm", "cs"))
    return starts, np.array(fn.inverse_matrix(spec.base_matrix), np.float32)


def _axes(grid: np.ndarray, place: np.ndarray, height: int, width: int) -> tuple[Any, Any, Any]:
    """The grid as the crop's rows and columns see it, and where in it they lie."""
    scale = np.abs(place[:, :2])
    straight, crossed = scale[0, 0] + scale[1, 1], scale[0, 1] + scale[1, 0]
    if min(straight, crossed) > _SKEW * max(straight, crossed):
        raise ValueError(f"The place {place.tolist()} is turned by less than a right angle, which crops never are.")
    (x_by_u, x_by_v, x), (y_by_u, y_by_v, y) = place
    if crossed > straight:  # transposed: down the crop is along the picture's x
        grid, rows, columns = grid.transpose(0, 2, 1), (x_by_v, x), (y_by_u, y)
    else:
        rows, columns = (y_by_v, y), (x_by_u, x)
    return np.ascontiguousarray(grid), _nodes(*rows, height, grid.shape[1]), _nodes(*columns, width, grid.shape[2])


def _nodes(slope: float, middle: float, pixels: int, nodes: int) -> np.ndarray:
    """Where among the nodes of a grid pixels lie, level beyond the outer ones; float32."""
    centres = slope * ((2 * np.arange(pixels) + 1) / pixels - 1) + middle
    return np.clip((centres + 1) / 2 * nodes - 0.5, 0, nodes - 1).astype(np.float32)
