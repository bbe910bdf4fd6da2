"""The inverse of an 8-bit image with global parameters: one curve of 256 values a channel, and a 3x3 matrix.

The per-channel functions of one parameter set turn 256 values into 256 values. They are computed once, by the exact
inverse, and looked up; the result is that of the exact inverse to rounding. On a CPU `curve8_numba` does all of it in
one pass over the image, if Numba is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def levels(n: int, like: Tensor) -> Tensor:
    """The 256 levels of an 8-bit image as ``(n, 3, 1, 256)`` values in [0, 1]."""
    return torch.arange(256, dtype=like.dtype, device=like.device).div(255).expand(n, 3, 1, 256)


def look_up(image: Tensor, curves: Tensor) -> Tensor:
    """``curves[n, c, image[n, c, y, x]]``.

    Args:
        image: ``(N, 3, H, W)`` uint8.
        curves: ``(N, 3, 256)``.

    Returns:
        ``(N, 3, H, W)``.
    """
    n = len(image)
    # 32-bit indices into one table: gather() would want 64-bit ones.
    start = torch.arange(0, n * 3 * 256, 256, dtype=torch.int32, device=image.device).view(n, 3, 1, 1)
    index = image.to(torch.int32) + start
    return curves.flatten().index_select(0, index.flatten()).view(image.shape)
