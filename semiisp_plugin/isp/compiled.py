"""The ISP and its inverse by compiled code (`semiisp_plugin.isp.numba_kernels`), on a CPU where Numba is installed.

What `semiisp_plugin.isp.invertible_isp.InvertibleISP` computes with tensors, and 3D tables of target models, in one
pass over the image and not differentiable. Every function here returns None where that cannot be had, and the tensors
are to do it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.parameter_maps import positions
from semiisp_plugin.isp.parameters import ISPSpec

_KERNELS = 64  # more than there are
# Where a place leaves the axes by more than this, relative to its scale, it is a turn, which no augmentation makes.
_SKEW = 1e-4
_WHOLE = np.eye(2, 3)


@cache
def kernel(name: str) -> Callable[..., tuple[Any] | None] | None:
    """A function of `semiisp_plugin.isp.numba_kernels`, which is imported now.

    Returns:
        The function, which gives what it returns in a tuple, or None where it cannot run; None without Numba. Why it
        cannot run is said in a warning.
    """
    try:
        from semiisp_plugin.isp import numba_kernels
    except ImportError:
        return None
    except RuntimeError as error:  # no folder where compiled code can be kept
        _warn(f"{error}. Set NUMBA_CACHE_DIR to a folder that can be written.")
        return None
    target = getattr(numba_kernels, name)
    broken = False

    def call(*arguments: Any) -> tuple[Any] | None:
        nonlocal broken
        if broken:
            return None
        for _ in range(_KERNELS):
            try:
                return (target(*arguments),)
            except OSError:  # disk full: compiled, but not kept; one function further the next time
                continue
            except Exception as error:  # what was kept is damaged; which exception that is, Numba does not say
                broken = True
                folder = os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).with_name("__pycache__")
                _warn(
                    f"{type(error).__name__}: {error}. If its cache is damaged, delete the .nbi and .nbc files in "
                    f"{folder}."
                )
                return None
        return None

    return call


def _warn(why: str) -> None:
    warnings.warn(f"Images are treated without Numba, several times slower: {why}", RuntimeWarning, stacklevel=4)


@lru_cache(maxsize=32)
def _constants(spec: ISPSpec) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Where the parameters of it, cc, ga, gm and cs begin, -1 for none; the base matrix, and its inverse in float32."""
    where = spec.slices()
    starts = tuple(where[name].start if name in where else -1 for name in ("it", "cc", "ga", "gm", "cs"))
    return starts, np.array(spec.base_matrix), np.array(fn.inverse_matrix(spec.base_matrix), np.float32)


def _kernel_for(spec: ISPSpec, name: str, *finite: Tensor) -> Callable[..., tuple[Any] | None] | None:
    """A kernel, unless the ISP is one they do not know or a number is not finite, of which they would make numbers."""
    run = kernel(name)
    if run is None or (spec.inverse_tone_mapping and spec.it_sign < 0):
        return None
    # On a few numbers NumPy is faster than torch.
    return run if all(bool(np.isfinite(t.detach().numpy()).all()) for t in finite) else None


def forward(spec: ISPSpec, image: Tensor, parameters: Tensor) -> Tensor | None:
    """The ISP of images ``(N, 3, H, W)`` float32, with sets ``(N, K, h, w)`` of whole images."""
    run = _kernel_for(spec, "forward", parameters, image) if image.dtype == torch.float32 else None
    if run is None:
        return None
    starts, base, _ = _constants(spec)
    base = base.astype(np.float32)
    grids = parameters.detach().contiguous().numpy()
    out = torch.empty_like(image)
    for picture, grid, target in zip(image.detach().numpy(), grids, out.numpy(), strict=True):
        y, x = (positions(side, nodes) for side, nodes in zip(picture.shape[1:], grid.shape[1:], strict=True))
        if run(picture, grid, y, x, starts, not spec.tie_xy, base, target) is None:
            return None
    return out


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
    here = images.dtype == torch.uint8 and sets.dtype == torch.float32 and images.device.type == "cpu"
    run = _kernel_for(spec, "invert", sets) if here else None
    if run is None:
        return None
    height, width = images.shape[2:]
    starts, _, base = _constants(spec)
    out, clipped = torch.empty(images.shape, dtype=torch.float32), torch.empty(len(images))
    for i, (pixels, target) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), out.numpy(), strict=True)):
        place = _WHOLE if places is None else places[i].numpy().astype(np.float64)
        grid, y, x = _axes(sets[i].numpy(), place, height, width)
        done = run(pixels, grid, y, x, starts, not spec.tie_xy, base, target)
        if done is None:
            return None
        clipped[i] = done[0] / max(1, target.size)
    return out, clipped


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


def look_up(image: Tensor, tables: Tensor, vertices: Tensor | None = None) -> Tensor | None:
    """3D tables, trilinearly, on the CPU and without gradients.

    Args:
        image: ``(N, 3, H, W)`` float32 RGB; what is outside [0, 1] counts as the nearest of them.
        tables: ``(N, 3, V, V, V)``: the new colour, blue, green, red.
        vertices: ``(N, 3, V)``, ascending from 0 to 1; None: evenly spaced.

    Returns:
        ``(N, 3, H, W)``, where pixels with NaN are anything; None where this cannot be done here.
    """
    size, inner = tables.shape[-1], 0
    if vertices is None:
        vertices = torch.linspace(0, 1, size).expand(len(tables), 3, -1)
    else:
        inner = size - 2
    run = kernel("look_up") if image.dtype == vertices.dtype == tables.dtype == torch.float32 else None
    if run is None:
        return None
    bounds = vertices[..., 1 : 1 + inner]
    bounds = F.pad(bounds, (0, 2 ** inner.bit_length() - 1 - inner), value=float("inf"))
    slopes = 1 / (vertices.diff(dim=-1) + 1e-10)
    out = image.new_empty(image.shape)
    each = (image.flatten(2), bounds, vertices, slopes, tables.permute(0, 2, 3, 4, 1), out.flatten(2))
    for one in zip(*(t.detach().contiguous().numpy() for t in each), strict=True):
        if run(*one) is None:
            return None
    return out
