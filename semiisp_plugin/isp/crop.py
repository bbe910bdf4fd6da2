"""The inverse ISP of crops of 8-bit images, compiled by Numba, where their place in the picture decides the parameters.

What `semiisp_plugin.isp.pipeline.InvertibleISP` computes with tensors, in one pass over the rows: several times faster
on a CPU for small images, for sets on a grid, and with inverse tone mapping. Float32, of CPU tensors, not
differentiable.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.parameters import ISPSpec

# Where a place leaves the axes by more than this, relative to its scale, it is a turn, which no augmentation makes.
_SKEW = 1e-4


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., None] | None:
    """`crop_numba.invert`, or None without Numba or where it does not run."""
    try:
        from semiisp_plugin.isp import crop_numba

        crop_numba.warm_up()
    except ImportError:
        return None
    except Exception as error:  # no folder for compiled code, or what is kept there is damaged: of any type
        warnings.warn(
            f"Crops are inverted without Numba, several times slower: {type(error).__name__}: {error}. Set "
            f"NUMBA_CACHE_DIR to a folder that can be written, or delete the .nbi and .nbc files in it.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return crop_numba.invert


def available(spec: ISPSpec, images: Tensor) -> bool:
    """Whether `invert_crops` can invert these images: with Numba, 8 bits on a CPU, and not with the sign -1 of f_IT."""
    fits = images.dtype == torch.uint8 and images.device.type == "cpu"
    return fits and not (spec.inverse_tone_mapping and spec.it_sign < 0) and _compiled() is not None


def invert_crops(spec: ISPSpec, images: Tensor, sets: Tensor, places: Tensor | None = None) -> Tensor:
    """Invert the ISP on crops, each with the parameters that hold where it lies.

    Args:
        spec: The ISP.
        images: ``(N, 3, h, w)`` uint8; see `available`.
        sets: ``(N, K, gh, gw)`` float32, finite, of the whole pictures.
        places: ``(N, 2, 3)``: ``place @ (u, v, 1)`` is the point (x, y) of the picture under the point (u, v) of the
            crop, -1 and 1 being the edges of either. None: the images are whole.

    Returns:
        ``(N, 3, h, w)`` float32 in [0, 1].

    Raises:
        ValueError: A place is neither straight nor transposed, or a set is not finite.
    """
    invert = _compiled()
    assert invert is not None  # see available()
    if not bool(sets.isfinite().all()):  # comparisons of the compiled code would make numbers of NaN
        raise ValueError("A parameter set holds NaN or infinite values: train f_ISP again (phase 1).")
    height, width = images.shape[2:]
    where = spec.slices()
    starts = tuple(where[name].start if name in where else -1 for name in ("it", "cc", "ga", "gm", "cs"))
    base = np.array(fn.inverse_matrix(spec.base_matrix), np.float32)
    out = torch.empty(images.shape, dtype=torch.float32)
    for i, (pixels, target) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), out.numpy(), strict=True)):
        place = np.eye(2, 3) if places is None else places[i].double().numpy()
        grid, y, x = _axes(sets[i].numpy(), place, height, width)
        invert(pixels, grid, y, x, starts, not spec.tie_xy, base, target)
    return out


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
