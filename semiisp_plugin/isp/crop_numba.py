"""The inverse ISP of a crop of an 8-bit image, sets on a grid included, compiled by Numba for the CPU at hand.

The same formulas as those of the tensors (see there for their meaning), row by row: the parameters of a row are
interpolated into a buffer that stays in the cache, and every function runs over the row before the next begins. Loops
have no branches and no calls, so that eight or sixteen pixels go through them at a time; exponential and logarithm are
polynomials in float32. Imported when first used: Numba takes its time.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

_F = np.float32
_I = np.int32
_TINY = _F(1.1754944e-38)
# No NaN and no infinity can come up here; see `semiisp_plugin.isp.curve8_numba`.
_FAST = {"contract", "nsz", "nnan", "ninf"}

# ln 2 in two parts, the first with few digits, so that whole numbers of it are exact.
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)


@intrinsic
def _bits(typing_context: Any, value: Any) -> Any:
    """The bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def _of_bits(typing_context: Any, value: Any) -> Any:
    """The float32 of these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _exp(x: float) -> float:
    """e^x to 1e-7 of its value; x is limited to -87 ... 87."""
    x = min(max(x, _F(-87)), _F(87))
    whole = np.floor(x * _F(1.44269504) + _F(0.5))
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    # The Taylor polynomial on |r| <= ln(2) / 2 leaves 6e-9.
    p = _F(1 / 5040)
    p = p * r + _F(1 / 720)
    p = p * r + _F(1 / 120)
    p = p * r + _F(1 / 24)
    p = p * r + _F(1 / 6)
    p = p * r + _F(0.5)
    p = p * r + _F(1)
    p = p * r + _F(1)
    return p * _of_bits((_I(whole) + _I(127)) << _I(23))


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _log(x: float) -> float:
    """ln x to 1e-7, for normal x > 0."""
    bits = _bits(_F(x))
    exponent = _I(bits - _I(0x3F3504F3)) >> _I(23)  # so that the mantissa is in [sqrt(1/2), sqrt(2))
    mantissa = _of_bits(_I(bits - (exponent << _I(23))))
    # ln m = 2 artanh((m - 1) / (m + 1)), of which the powers up to 9 leave 1e-8.
    s = (mantissa - _F(1)) / (mantissa + _F(1))
    z = s * s
    p = _F(2 / 9)
    p = p * z + _F(2 / 7)
    p = p * z + _F(2 / 5)
    p = p * z + _F(2 / 3)
    e = _F(exponent)
    return e * _LN2_HIGH + (e * _LN2_LOW + (s * z * p + s + s))


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _stretch_inverse(value: float, x: float, w: float, h: float) -> float:
    """Eq. 19 in the three-parameter form."""
    one, zero = _F(1), _F(0)
    start = x * (one - h)
    outer = (one - w) / (one - h)
    beyond = value - start
    out = outer * min(value, start) + (w / h) * min(max(beyond, zero), h) + outer * max(beyond - h, zero)
    return min(max(out, zero), one)


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _stretch_inverse_4(value: float, x: float, w: float, h: float, y: float) -> float:
    """Eq. 19 in the four-parameter form."""
    one, zero = _F(1), _F(0)
    start = y * (one - h)
    below = x * (one - w) / start
    above = (one - x) * (one - w) / ((one - y) * (one - h))
    beyond = value - start
    out = below * min(value, start) + (w / h) * min(max(beyond, zero), h) + above * max(beyond - h, zero)
    return min(max(out, zero), one)


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _gamma_step(n: float, m: float, a: float, low: float, high: float) -> float:
    """A step of Halley's method."""
    one, two = _F(1), _F(2)
    e = a * _exp(n)
    residual = n - n * e - m
    slope = one - e * (one + n)
    n = n - two * residual * slope / (two * slope * slope + residual * e * (two + n))
    return min(max(n, low), high)


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _gamma_inverse(value: float, g1: float, g2: float, k: float) -> float:
    """`semiisp_plugin.isp.gamma_inverse`, for g2 in [0.2, 2], where two steps are enough for float32."""
    one, zero = _F(1), _F(0)
    a = one - g2
    scale = one - a * _exp(_log(max(k, _TINY)) / g1)
    m = _log(max(value, _TINY)) * scale
    other = m / g2
    low, high = min(m, other), max(m, other)
    n = m * (g2 - m) / (g2 * g2 - m)
    n = _gamma_step(_gamma_step(n, m, a, low, high), m, a, low, high)
    return _exp(g1 * n) if value > zero else zero


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _tone_step(n: float, m: float, g3: float, g4: float, low: float, high: float) -> float:
    """A step of Halley's method."""
    one = _F(1)
    e = _exp(n)
    base = one + e
    ratio = e / base
    p = g4 * _exp(g3 * _log(base))
    p1 = p * ratio * g3
    second = ((ratio * (g3 - one) + one) * n + _F(2)) * p1
    slope = p + one + n * p1
    newton = (n - m + n * p) / slope
    bend = max(one - _F(0.5) * second * newton / slope, _F(0.5))
    return min(max(n - newton / bend, low), high)


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _tone_inverse(value: float, g3: float, g4: float, k2: float) -> float:
    """`semiisp_plugin.isp.tone_inverse` with sign +1, three steps from the same start."""
    one, zero, two = _F(1), _F(0), _F(2)
    scale = (one + g4 * _exp(_log(one + k2) * g3)) / g3
    m = _log(max(value, _TINY)) * scale
    at_black = one + g4
    power = _exp(g3 * _F(0.69314718))
    at_white = one + g4 * power
    low, high = m / at_black, m / at_white
    c = g3 * _F(0.5) * power / (power - one)
    p = m * c + at_white
    n = two * m / (p + np.sqrt(p * p - _F(4) * m * at_black * c))
    n = min(max(n, low), high)
    n = _tone_step(n, m, g3, g4, low, high)
    n = _tone_step(n, m, g3, g4, low, high)
    n = _tone_step(n, m, g3, g4, low, high)
    return _exp(n) if value > zero else zero


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _stretches(p: np.ndarray, at: int, four: bool, row: np.ndarray) -> None:
    """f_CS^-1 or f_GA^-1 of a row of one channel, in place."""
    if four:
        for i in range(len(row)):
            row[i] = _stretch_inverse_4(row[i], p[at, i], p[at + 3, i], p[at + 6, i], p[at + 9, i])
    else:
        for i in range(len(row)):
            row[i] = _stretch_inverse(row[i], p[at, i], p[at + 3, i], p[at + 6, i])


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _gammas(p: np.ndarray, gm: int, row: np.ndarray) -> None:
    """f_GM^-1 of a row, in place."""
    for i in range(len(row)):
        row[i] = _gamma_inverse(row[i], p[gm, i], p[gm + 3, i], p[gm + 6, i])


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _unmix(p: np.ndarray, cc: int, base: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> None:
    """`semiisp_plugin.isp.functions.ColourInverse` and the clamp, in place."""
    one, zero = _F(1), _F(0)
    for i in range(len(red)):
        rg, rb, gr = p[cc, i], p[cc + 1, i], p[cc + 2, i]
        gb, br, bg = p[cc + 3, i], p[cc + 4, i], p[cc + 5, i]
        r, g, b = red[i], green[i], blue[i]
        rr, gr_, br_ = one - gb * bg, gb * br - gr, gr * bg - br
        scale = one / (rr + rg * gr_ + rb * br_)
        x = (rr * r + (rb * bg - rg) * g + (rg * gb - rb) * b) * scale / p[cc + 6, i]
        y = (gr_ * r + (one - rb * br) * g + (rb * gr - gb) * b) * scale / p[cc + 7, i]
        z = (br_ * r + (rg * br - bg) * g + (one - rg * gr) * b) * scale / p[cc + 8, i]
        red[i] = min(max(base[0, 0] * x + base[0, 1] * y + base[0, 2] * z, zero), one)
        green[i] = min(max(base[1, 0] * x + base[1, 1] * y + base[1, 2] * z, zero), one)
        blue[i] = min(max(base[2, 0] * x + base[2, 1] * y + base[2, 2] * z, zero), one)


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _tones(p: np.ndarray, it: int, row: np.ndarray) -> None:
    """f_IT^-1 of a row, in place."""
    for i in range(len(row)):
        row[i] = _tone_inverse(row[i], p[it, i], p[it + 3, i], p[it + 6, i])


@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
def _lerp(start: float, step: float, weights: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = start + step * weights[i]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _interpolate(
    grid: np.ndarray, y: float, x_nodes: np.ndarray, x_weights: np.ndarray, p: np.ndarray
) -> None:
    """Parameters of a row: ``p[k, i]`` from ``grid[k]`` at row ``y``, columns ``x_nodes[i] + x_weights[i]``."""
    last_row, last_column = grid.shape[1] - 1, grid.shape[2] - 1
    node = min(int(y), max(last_row - 1, 0))
    below = min(node + 1, last_row)
    weight = _F(y - node)
    width = p.shape[1]
    for k in range(len(grid)):
        first = 0
        while first < width:
            column = x_nodes[first]
            end = first + 1
            while end < width and x_nodes[end] == column:
                end += 1
            right = min(column + 1, last_column)
            a = grid[k, node, column] + weight * (grid[k, below, column] - grid[k, node, column])
            b = grid[k, node, right] + weight * (grid[k, below, right] - grid[k, node, right])
            _lerp(a, b - a, x_weights[first:end], p[k, first:end])
            first = end


@numba.njit(error_model="numpy", nogil=True, cache=True)
def invert(
    pixels: np.ndarray,
    grid: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    starts: tuple[int, int, int, int, int],
    four: bool,
    base: np.ndarray,
    out: np.ndarray,
) -> None:
    """f_IT^-1 o clamp o f_CC^-1 o f_GA^-1 o f_GM^-1 o f_CS^-1.

    Args:
        pixels: ``(H, W, 3)`` uint8, of any strides.
        grid: ``(K, h, w)`` float32, finite.
        y: ``(H,)``, the row of the grid, 0 to h - 1, at which each row of pixels lies.
        x: ``(W,)``, the same for columns.
        starts: Where among the K the parameters of it (-1 without it), cc, ga, gm and cs begin.
        four: Whether ga and cs are in the four-parameter form.
        base: ``(3, 3)`` float32, the inverse of the constant base matrix.
        out: ``(3, H, W)`` float32, written.
    """
    it, cc, ga, gm, cs = starts
    height, width = len(y), len(x)
    nodes = np.empty(width, np.int64)
    weights = np.empty(width, np.float32)
    for i in range(width):
        nodes[i] = min(int(x[i]), max(grid.shape[2] - 2, 0))
        weights[i] = x[i] - nodes[i]
    p = np.empty((len(grid), width), np.float32)
    rows = np.empty((3, width), np.float32)
    for line in range(height):
        if line == 0 or y[line] != y[line - 1]:
            _interpolate(grid, y[line], nodes, weights, p)
        for c in range(3):
            for i in range(width):
                rows[c, i] = _F(pixels[line, i, c]) / _F(255)
            _stretches(p, cs + c, four, rows[c])
            _gammas(p, gm + c, rows[c])
            _stretches(p, ga + c, four, rows[c])
        _unmix(p, cc, base, rows[0], rows[1], rows[2])
        for c in range(3):
            if it >= 0:
                _tones(p, it + c, rows[c])
            out[c, line] = rows[c]
