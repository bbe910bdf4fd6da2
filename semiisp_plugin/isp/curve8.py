"""The inverse of an 8-bit image with global parameters: one curve of 256 values a channel, and a 3x3 matrix.

The per-channel functions of one parameter set turn 256 values into 256 values. They are computed once, by the exact
inverse, and looked up; the result is that of the exact inverse to rounding. On a CPU `curve8_numba` does all of it in
one pass over the image, if Numba is installed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FUNCTIONS = 8  # more than there are in curve8_numba


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


@lru_cache(maxsize=1)
def compiled() -> Callable[..., int | None] | None:
    """`curve8_numba.invert`, which gives None where it cannot run, or None without Numba."""
    try:
        from semiisp_plugin.isp import curve8_numba
    except ImportError:
        return None
    except RuntimeError as error:  # no folder where compiled code can be kept
        warnings.warn(
            f"8-bit images are inverted without Numba, several times slower: {error}. Set NUMBA_CACHE_DIR to a "
            f"folder that can be written.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None

    def invert(*arguments: Any) -> int | None:
        for _ in range(_FUNCTIONS):
            try:
                return int(curve8_numba.invert(*arguments))
            except OSError:  # disk full: compiled, but not kept; one function further the next time
                continue
            except Exception as error:  # what was kept is damaged; which exception that is, Numba does not say
                warnings.warn(
                    f"8-bit images are inverted without Numba, several times slower: {type(error).__name__}: "
                    f"{error}. If its cache is damaged, delete the .nbi and .nbc files in "
                    f"{os.environ.get('NUMBA_CACHE_DIR') or Path(__file__).with_name('__pycache__')}.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return None
        return None

    return invert
