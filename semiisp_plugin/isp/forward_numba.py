"""The ISP of an image in one pass, sets on a grid included, compiled by Numba for the CPU at hand.

The same formulas as those of the tensors (`semiisp_plugin.isp.functions`), row by row as in
`semiisp_plugin.isp.crop_numba`, in float32. Imported when first used: Numba takes its time.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from semiisp_plugin.isp.crop_numba import _TINY, _exp, _inlined, _interpolate, _log, _looped

_F: Any = np.float32


@_inlined
def _tone(value: float, g3: float, g4: float, k2: float) -> float:
    """Eq. 22 with sign +1."""
    one, zero = _F(1), _F(0)
    scale = (one + g4 * _exp(_log(one + k2) * g3)) / g3
    exponent = (one + g4 * _exp(_log(one + value) * g3)) / scale
    out = _exp(exponent * _log(max(value, _TINY)))
    return out if value > zero else zero


@_inlined
def _gamma(value: float, g1: float, g2: float, k: float) -> float:
    """Eq. 20."""
    one, zero = _F(1), _F(0)
    a = one - g2
    scale = one - a * _exp(_log(max(k, _TINY)) / g1)
    log_u = _log(max(value, _TINY)) / g1
    out = _exp((one - a * _exp(log_u)) * log_u / scale)
    return out if value > zero else zero


@_inlined
def _stretch(value: float, x: float, w: float, h: float, below: float, above: float) -> float:
    """Eq. 18, with the slopes outside the window."""
    one, zero = _F(1), _F(0)
    start = x * (one - w)
    beyond = value - start
    out = below * min(value, start) + (h / w) * min(max(beyond, zero), w) + above * max(beyond - w, zero)
    return min(max(out, zero), one)


@_looped
def _tones(p: np.ndarray, it: int, row: np.ndarray) -> None:
    for i in range(len(row)):
        row[i] = _tone(row[i], p[it, i], p[it + 3, i], p[it + 6, i])


@_looped
def _gammas(p: np.ndarray, gm: int, row: np.ndarray) -> None:
    for i in range(len(row)):
        row[i] = _gamma(row[i], p[gm, i], p[gm + 3, i], p[gm + 6, i])


@_looped
def _stretches(p: np.ndarray, at: int, four: bool, row: np.ndarray) -> None:
    one = _F(1)
    if four:
        for i in range(len(row)):
            x, w, h, y = p[at, i], p[at + 3, i], p[at + 6, i], p[at + 9, i]
            below = y * (one - h) / (x * (one - w))
            above = (one - y) * (one - h) / ((one - x) * (one - w))
            row[i] = _stretch(row[i], x, w, h, below, above)
    else:
        for i in range(len(row)):
            x, w, h = p[at, i], p[at + 3, i], p[at + 6, i]
            outer = (one - h) / (one - w)
            row[i] = _stretch(row[i], x, w, h, outer, outer)


@_looped
def _mix(p: np.ndarray, cc: int, base: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> None:
    """Colour correction and the clamp, in place."""
    one, zero = _F(1), _F(0)
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        x = (base[0, 0] * r + base[0, 1] * g + base[0, 2] * b) * p[cc + 6, i]
        y = (base[1, 0] * r + base[1, 1] * g + base[1, 2] * b) * p[cc + 7, i]
        z = (base[2, 0] * r + base[2, 1] * g + base[2, 2] * b) * p[cc + 8, i]
        red[i] = min(max(x + p[cc, i] * y + p[cc + 1, i] * z, zero), one)
        green[i] = min(max(y + p[cc + 2, i] * x + p[cc + 3, i] * z, zero), one)
        blue[i] = min(max(z + p[cc + 4, i] * x + p[cc + 5, i] * y, zero), one)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def forward(
    image: np.ndarray,
    grid: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    starts: tuple[int, int, int, int, int],
    four: bool,
    base: np.ndarray,
    out: np.ndarray,
) -> None:
    """f_CS o f_GM o f_GA o clamp o f_CC o f_IT.

    Args:
        image: ``(3, H, W)`` float32 in [0, 1].
        grid: ``(K, h, w)`` float32, finite.
        y: ``(H,)`` float32, the row of the grid, 0 to h - 1, at which each row of pixels lies.
        x: ``(W,)`` float32, the same for columns.
        starts: Where among the K the parameters of it (-1 without it), cc, ga, gm and cs begin.
        four: Whether ga and cs are in the four-parameter form.
        base: ``(3, 3)`` float32, the constant base matrix.
        out: ``(3, H, W)`` float32, written.
    """
    it, cc, ga, gm, cs = starts
    height, width = len(y), len(x)
    ends = np.empty(width + 1, np.int64)
    segments = 0
    for i in range(width):
        node = min(int(x[i]), max(grid.shape[2] - 2, 0))
        if i == 0 or node != min(int(x[i - 1]), max(grid.shape[2] - 2, 0)):
            ends[segments] = i
            segments += 1
    ends[segments] = width
    ends = ends[: segments + 1]
    p = np.empty((len(grid), width), np.float32)
    rows = np.empty((3, width), np.float32)
    for line in range(height):
        _interpolate(grid, y[line], x, ends, p)
        for c in range(3):
            rows[c] = image[c, line]
            if it >= 0:
                _tones(p, it + c, rows[c])
        _mix(p, cc, base, rows[0], rows[1], rows[2])
        for c in range(3):
            _stretches(p, ga + c, four, rows[c])
            _gammas(p, gm + c, rows[c])
            _stretches(p, cs + c, four, rows[c])
            out[c, line] = rows[c]
