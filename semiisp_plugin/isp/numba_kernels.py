"""The ISP and its inverse, compiled by Numba for the CPU: sets on a grid, and crops of images. And 3D tables.

Why there is compiled code at all: without it `basicsr pseudo` takes, as a whole command (300 photographs of COCO, one
process, processor time), 1.17 times as long for a RAW f_ISP with global sets, 1.35 times with local ones, and 1.58
times for image enhancement with global sets.

The same formulas as those of the tensors (see there for their meaning), row by row: the parameters of a row are
interpolated into a buffer that stays in the cache, and every function runs over the row before the next begins. Loops
have no branches and no calls, so that eight or sixteen pixels go through them at a time; exponential and logarithm are
polynomials in float32. `semiisp_plugin.isp.compiled` imports this when it is first used: Numba takes its time. All in
one file, because Numba's cache notices changes of the function's own file only.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

_F: Any = np.float32  # what Numba makes of it, mypy cannot know
_I: Any = np.int32
_CHUNK = 4096  # pixels, whose buffers stay in the cache
_TINY = _F(1.1754944e-38)
# No NaN and no infinity can come up here, and minimum and maximum without a rule for NaN are one instruction.
_FAST = {"contract", "nsz", "nnan", "ninf"}

_compiled = numba.njit(error_model="numpy", nogil=True, cache=True)
_looped = numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST)
# A call within a loop would keep it from being vectorised.
_inlined = numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=_FAST, forceinline=True)

# ln 2 in two parts, the first with few digits, so that whole numbers of it are exact.
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)


def _bits_of(typing_context: Any, value: Any) -> Any:
    """The bits of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


def _float_of(typing_context: Any, value: Any) -> Any:
    """The float32 of these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


# Without types: mypy would have them called as they are defined.
_bits: Any = intrinsic(_bits_of)
_of_bits: Any = intrinsic(_float_of)


@_inlined
def _exp(x: float) -> float:
    """e^x to 1e-7 of its value, for x up to 87; e^-60 below -60, for subnormal numbers are slow."""
    x = max(x, _F(-60))
    whole = np.floor(x * _F(1.44269504) + _F(0.5))
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    # The Taylor polynomial on |r| <= ln(2) / 2 leaves 6e-9. Its terms in pairs: a chain of them would be waited for.
    square = r * r
    low = (_F(1) + r) + square * (_F(1 / 2) + r * _F(1 / 6))
    high = (_F(1 / 24) + r * _F(1 / 120)) + square * (_F(1 / 720) + r * _F(1 / 5040))
    p = low + square * square * high
    return p * _of_bits((_I(whole) + _I(127)) << _I(23))


@_inlined
def _log(x: float) -> float:
    """ln x to 1e-7, for normal x > 0."""
    bits = _bits(_F(x))
    exponent = _I(bits - _I(0x3F3504F3)) >> _I(23)  # so that the mantissa is in [sqrt(1/2), sqrt(2))
    mantissa = _of_bits(_I(bits - (exponent << _I(23))))
    # ln m = 2 artanh((m - 1) / (m + 1)), of which the powers up to 9 leave 1e-8.
    s = (mantissa - _F(1)) / (mantissa + _F(1))
    z = s * s
    p = (_F(2 / 3) + z * _F(2 / 5)) + z * z * (_F(2 / 7) + z * _F(2 / 9))
    e = _F(exponent)
    return e * _LN2_HIGH + (e * _LN2_LOW + (s * z * p + s + s))


@_inlined
def _stretch(value: float, x: float, w: float, h: float) -> float:
    """Eq. 18 in the three-parameter form; with ``w`` and ``h`` swapped eq. 19, its inverse."""
    one, zero = _F(1), _F(0)
    start = x * (one - w)
    outer = (one - h) / (one - w)
    beyond = value - start
    out = outer * min(value, start) + (h / w) * min(max(beyond, zero), w) + outer * max(beyond - w, zero)
    return min(max(out, zero), one)


@_inlined
def _stretch_4(value: float, x: float, w: float, h: float, y: float) -> float:
    """Eq. 18 in the four-parameter form; with ``w`` and ``h``, and ``x`` and ``y``, swapped its inverse."""
    one, zero = _F(1), _F(0)
    start = x * (one - w)
    below = y * (one - h) / start
    above = (one - y) * (one - h) / ((one - x) * (one - w))
    beyond = value - start
    out = below * min(value, start) + (h / w) * min(max(beyond, zero), w) + above * max(beyond - w, zero)
    return min(max(out, zero), one)


@_inlined
def _gamma_step(n: float, m: float, g2: float) -> float:
    """A step of Halley's method."""
    one, two = _F(1), _F(2)
    a, other = one - g2, m / g2
    e = a * _exp(n)
    residual = n - n * e - m
    slope = one - e * (one + n)
    n = n - two * residual * slope / (two * slope * slope + residual * e * (two + n))
    return min(max(n, min(m, other)), max(m, other))


@_inlined
def _tone_step(n: float, m: float, g3: float, g4: float, low: float, high: float) -> float:
    """A step of Halley's method."""
    one, two = _F(1), _F(2)
    e = _exp(max(n, _F(-20)))  # less is nothing beside 1, and its powers would be subnormal
    # ln(1 + e) = 2 artanh(e / (2 + e)), of which the powers up to 11 leave 1e-7; one division for two quotients.
    shared = e / ((one + e) * (two + e))
    ratio, s = shared * (two + e), shared * (one + e)
    z = s * s
    series = (_F(2 / 3) + z * _F(2 / 5)) + z * z * ((_F(2 / 7) + z * _F(2 / 9)) + z * z * _F(2 / 11))
    p = g4 * _exp(g3 * (s * z * series + s + s))
    p1 = p * ratio * g3
    second = ((ratio * (g3 - one) + one) * n + two) * p1
    slope = one / (p + one + n * p1)
    newton = (n - m + n * p) * slope
    bend = max(one - _F(0.5) * second * newton * slope, _F(0.5))
    return min(max(n - newton / bend, low), high)


@_looped
def _stretches(p: np.ndarray, at: int, four: bool, row: np.ndarray) -> None:
    """f_GA or f_CS of a row of one channel, in place."""
    if four:
        for i in range(len(row)):
            row[i] = _stretch_4(row[i], p[at, i], p[at + 3, i], p[at + 6, i], p[at + 9, i])
    else:
        for i in range(len(row)):
            row[i] = _stretch(row[i], p[at, i], p[at + 3, i], p[at + 6, i])


@_looped
def _unstretches(p: np.ndarray, at: int, four: bool, row: np.ndarray) -> None:
    """f_GA^-1 or f_CS^-1 of a row of one channel, in place."""
    if four:
        for i in range(len(row)):
            row[i] = _stretch_4(row[i], p[at + 9, i], p[at + 6, i], p[at + 3, i], p[at, i])
    else:
        for i in range(len(row)):
            row[i] = _stretch(row[i], p[at, i], p[at + 6, i], p[at + 3, i])


# The two functions below go over a row once for every stage and step. A processor works on several pixels at a time as
# long as one takes few instructions, and loops that write one buffer are vectorised, those that write many are not.


@_looped
def _gammas(p: np.ndarray, gm: int, row: np.ndarray, buffers: np.ndarray) -> None:
    """f_GM^-1 of a row, in place: `semiisp_plugin.isp.gamma_inverse`, for g2 in [0.2, 2]."""
    one, zero = _F(1), _F(0)
    m, n = buffers[0], buffers[1]
    for i in range(len(row)):
        scale = one - (one - p[gm + 3, i]) * _exp(_log(max(p[gm + 6, i], _TINY)) / p[gm, i])
        m[i] = _log(max(row[i], _TINY)) * scale
    for i in range(len(row)):
        n[i] = m[i] * (p[gm + 3, i] - m[i]) / (p[gm + 3, i] * p[gm + 3, i] - m[i])
    for _ in range(2):  # enough for float32
        for i in range(len(row)):
            n[i] = _gamma_step(n[i], m[i], p[gm + 3, i])
    for i in range(len(row)):
        row[i] = _exp(p[gm, i] * n[i]) if row[i] > zero else zero


@_looped
def _tone_start(
    row: np.ndarray, g3: np.ndarray, g4: np.ndarray, k2: np.ndarray, m: np.ndarray, white: np.ndarray
) -> None:
    """m, which n (1 + p(n)) must be, and ``1 + p`` at white (n = 0)."""
    one = _F(1)
    for i in range(len(row)):
        m[i] = _log(max(row[i], _TINY)) * (one + g4[i] * _exp(_log(one + k2[i]) * g3[i])) / g3[i]
    for i in range(len(row)):
        white[i] = one + g4[i] * _exp(g3[i] * _F(0.69314718))


@_looped
def _tone_guess(g3: np.ndarray, g4: np.ndarray, m: np.ndarray, white: np.ndarray, n: np.ndarray) -> None:
    """The start of the search, in its bracket."""
    one, two = _F(1), _F(2)
    for i in range(len(n)):
        power = _exp(g3[i] * _F(0.69314718))
        c = g3[i] * _F(0.5) * power / (power - one)
        b = m[i] * c + white[i]
        start = two * m[i] / (b + np.sqrt(b * b - _F(4) * m[i] * (one + g4[i]) * c))
        n[i] = min(max(start, m[i] / (one + g4[i])), m[i] / white[i])


@_looped
def _tone_steps(g3: np.ndarray, g4: np.ndarray, m: np.ndarray, white: np.ndarray, n: np.ndarray) -> None:
    """A step of the search, kept in its bracket."""
    one = _F(1)
    for i in range(len(n)):
        n[i] = _tone_step(n[i], m[i], g3[i], g4[i], m[i] / (one + g4[i]), m[i] / white[i])


@_looped
def _tone_end(n: np.ndarray, row: np.ndarray) -> None:
    for i in range(len(n)):
        row[i] = _exp(n[i]) if row[i] > _F(0) else _F(0)


@_looped
def _tones(p: np.ndarray, it: int, row: np.ndarray, buffers: np.ndarray) -> None:
    """f_IT^-1 of a row, in place: `semiisp_plugin.isp.tone_inverse` with sign +1, from the same start."""
    g3, g4, m, n, white = p[it], p[it + 3], buffers[0], buffers[1], buffers[2]
    _tone_start(row, g3, g4, p[it + 6], m, white)
    _tone_guess(g3, g4, m, white, n)
    for _ in range(3):
        _tone_steps(g3, g4, m, white, n)
    _tone_end(n, row)


@_looped
def _unmix(p: np.ndarray, cc: int, base: np.ndarray, red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> int:
    """`semiisp_plugin.isp.functions.ColourInverse` and the clamp, in place; returns how many values it moved."""
    one, zero = _F(1), _F(0)
    outside = _I(0)
    for i in range(len(red)):
        rg, rb, gr = p[cc, i], p[cc + 1, i], p[cc + 2, i]
        gb, br, bg = p[cc + 3, i], p[cc + 4, i], p[cc + 5, i]
        r, g, b = red[i], green[i], blue[i]
        rr, gr_, br_ = one - gb * bg, gb * br - gr, gr * bg - br
        scale = one / (rr + rg * gr_ + rb * br_)
        x = (rr * r + (rb * bg - rg) * g + (rg * gb - rb) * b) * scale / p[cc + 6, i]
        y = (gr_ * r + (one - rb * br) * g + (rb * gr - gb) * b) * scale / p[cc + 7, i]
        z = (br_ * r + (rg * br - bg) * g + (one - rg * gr) * b) * scale / p[cc + 8, i]
        r = base[0, 0] * x + base[0, 1] * y + base[0, 2] * z
        g = base[1, 0] * x + base[1, 1] * y + base[1, 2] * z
        b = base[2, 0] * x + base[2, 1] * y + base[2, 2] * z
        red[i], green[i], blue[i] = min(max(r, zero), one), min(max(g, zero), one), min(max(b, zero), one)
        outside += _I(r != red[i]) + _I(g != green[i]) + _I(b != blue[i])
    return int(outside)


@_looped
def _interpolate(grid: np.ndarray, y: float, x: np.ndarray, ends: np.ndarray, p: np.ndarray) -> None:
    """Parameters of a row.

    Args:
        grid: See `invert`.
        y: Row of the grid.
        x: Column of the grid at each pixel.
        ends: The pixels of ``ends[j]`` to ``ends[j + 1]`` lie between the same two columns.
        p: ``(K, W)``, written.
    """
    last_row, last_column = grid.shape[1] - 1, grid.shape[2] - 1
    above = min(int(y), max(last_row - 1, 0))
    below = min(above + 1, last_row)
    weight = _F(y - above)
    for j in range(len(ends) - 1):
        first, end = ends[j], ends[j + 1]
        left = min(int(x[first]), max(last_column - 1, 0))
        right = min(left + 1, last_column)
        for k in range(len(grid)):
            a = grid[k, above, left] + weight * (grid[k, below, left] - grid[k, above, left])
            b = grid[k, above, right] + weight * (grid[k, below, right] - grid[k, above, right])
            step = b - a
            for i in range(first, end):
                p[k, i] = a + step * (x[i] - _F(left))


@_compiled
def _segments(x: np.ndarray, columns: int) -> np.ndarray:
    """The ends of the runs of pixels that lie between the same two columns of the grid; see `_interpolate`."""
    last = max(columns - 2, 0)
    ends = np.empty(len(x) + 1, np.int64)
    count = 0
    for i in range(len(x)):
        if i == 0 or min(int(x[i]), last) != min(int(x[i - 1]), last):
            ends[count] = i
            count += 1
    ends[count] = len(x)
    return ends[: count + 1]


@_compiled
def _buffers(grid: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ends of `_segments`, and room for a row's parameters ``(K, W)`` and its colours ``(3, W)``."""
    return (
        _segments(x, grid.shape[2]),
        np.empty((len(grid), len(x)), np.float32),
        np.empty((3, len(x)), np.float32),
    )


@_compiled
def _curves(grid: np.ndarray, ga: int, gm: int, cs: int, four: bool) -> np.ndarray:
    """f_GA^-1 o f_GM^-1 o f_CS^-1 of the 256 levels by the one set that there is, ``(3, 256)``."""
    p = np.empty((len(grid), 256), np.float32)
    for k in range(len(grid)):
        p[k] = grid[k, 0, 0]
    table = np.empty((3, 256), np.float32)
    buffers = np.empty((4, 256), np.float32)
    for c in range(3):
        for level in range(256):
            table[c, level] = _F(level) / _F(255)
        _unstretches(p, cs + c, four, table[c])
        _gammas(p, gm + c, table[c], buffers)
        _unstretches(p, ga + c, four, table[c])
    return table


@_compiled
def invert(
    pixels: np.ndarray,
    grid: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    starts: tuple[int, int, int, int, int],
    four: bool,
    base: np.ndarray,
    out: np.ndarray,
) -> int:
    """f_IT^-1 o clamp o f_CC^-1 o f_GA^-1 o f_GM^-1 o f_CS^-1.

    Args:
        pixels: ``(H, W, 3)`` uint8, of any strides.
        grid: ``(K, h, w)`` float32, finite.
        y: ``(H,)`` float32, the row of the grid, 0 to h - 1, at which each row of pixels lies.
        x: ``(W,)`` float32, the same for columns.
        starts: Where among the K the parameters of it (-1 without it), cc, ga, gm and cs begin.
        four: Whether ga and cs are in the four-parameter form.
        base: ``(3, 3)`` float32, the inverse of the constant base matrix.
        out: ``(3, H, W)`` float32, written.

    Returns:
        Number of values that were clamped.
    """
    outside = 0
    it, cc, ga, gm, cs = starts
    height, width = len(y), len(x)
    ends, p, rows = _buffers(grid, x)
    buffers = np.empty((4, width), np.float32)
    single = grid.shape[1] * grid.shape[2] == 1 and height * width > 256
    table = _curves(grid, ga, gm, cs, four) if single else buffers
    for line in range(height):
        if line == 0 or y[line] != y[line - 1]:
            _interpolate(grid, y[line], x, ends, p)
        for c in range(3):
            if single:
                for i in range(width):
                    rows[c, i] = table[c, pixels[line, i, c]]
                continue
            for i in range(width):
                rows[c, i] = _F(pixels[line, i, c]) / _F(255)
            _unstretches(p, cs + c, four, rows[c])
            _gammas(p, gm + c, rows[c], buffers)
            _unstretches(p, ga + c, four, rows[c])
        outside += _unmix(p, cc, base, rows[0], rows[1], rows[2])
        for c in range(3):
            if it >= 0:
                _tones(p, it + c, rows[c], buffers)
            out[c, line] = rows[c]
    return outside


# --- the other direction ---------------------------------------------------------------------------------------------


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


@_looped
def _tones_forward(p: np.ndarray, it: int, row: np.ndarray) -> None:
    for i in range(len(row)):
        row[i] = _tone(row[i], p[it, i], p[it + 3, i], p[it + 6, i])


@_looped
def _gammas_forward(p: np.ndarray, gm: int, row: np.ndarray) -> None:
    for i in range(len(row)):
        row[i] = _gamma(row[i], p[gm, i], p[gm + 3, i], p[gm + 6, i])


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


@_compiled
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
        grid: See `invert`, as for ``y``, ``x``, ``starts`` and ``four``.
        y: Row of the grid at each row of pixels.
        x: Column of the grid at each column of pixels.
        starts: Where functions begin.
        four: Which form of ga and cs.
        base: ``(3, 3)`` float32, the constant base matrix.
        out: ``(3, H, W)`` float32, written.
    """
    it, cc, ga, gm, cs = starts
    ends, p, rows = _buffers(grid, x)
    for line in range(len(y)):
        _interpolate(grid, y[line], x, ends, p)
        for c in range(3):
            rows[c] = image[c, line]
            if it >= 0:
                _tones_forward(p, it + c, rows[c])
        _mix(p, cc, base, rows[0], rows[1], rows[2])
        for c in range(3):
            _stretches(p, ga + c, four, rows[c])
            _gammas_forward(p, gm + c, rows[c])
            _stretches(p, cs + c, four, rows[c])
            out[c, line] = rows[c]


@_compiled
def look_up(
    image: np.ndarray,
    inner: np.ndarray,
    vertices: np.ndarray,
    slopes: np.ndarray,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    """A 3D table, trilinearly.

    Args:
        image: ``(3, pixels)`` float32, red, green and blue; what is outside [0, 1] counts as the nearest of them.
        inner: ``(3, 2^k - 1)``, ascending: where all vertices but the outermost lie, and infinity behind them; ``(3,
            0)`` where all are evenly spaced.
        vertices: ``(3, V)``, ascending from 0 to 1.
        slopes: ``(3, V - 1)``, 1 / the distance between vertices.
        table: ``(V, V, V, 3)``: blue, green, red, the new colour.
        out: ``(3, pixels)``, written. Pixels with NaN get anything.
    """
    n = min(_CHUNK, image.shape[1])
    low, darkest, at = np.empty(n, np.int32), np.empty(n, np.int32), np.empty((3, n), np.float32)
    flat, size, one, cells = table.reshape(-1), table.shape[0], _F(1), _F(table.shape[0] - 1)
    red, green, blue = _I(3), _I(3 * size), _I(3 * size * size)  # steps along the axes
    both = green + blue
    for first in range(0, image.shape[1], _CHUNK):
        n = min(_CHUNK, image.shape[1] - first)
        darkest[:] = 0
        for c, step in enumerate((red, green, blue)):
            x, bounds, begins, slope = image[c, first : first + n], inner[c], vertices[c], slopes[c]
            half = _I((inner.shape[1] + 1) // 2)
            if half > 0:
                low[:] = 0
            else:
                for i in range(n):  # the second clamp is for NaN
                    low[i] = min(max(_I(min(max(x[i], _F(0)), one) * cells), _I(0)), _I(size - 2))
            while half > 0:
                for i in range(n):
                    low[i] += half if bounds[low[i] + half - _I(1)] < x[i] else _I(0)
                half //= _I(2)
            for i in range(n):
                at[c, i] = min(max((x[i] - begins[low[i]]) * slope[low[i]], _F(0)), one)
                darkest[i] += low[i] * step
        for i in range(n):
            r, g, b, k = at[0, i], at[1, i], at[2, i], darkest[i]
            neither, of_green, of_blue, of_both = (one - g) * (one - b), g * (one - b), (one - g) * b, g * b
            for c in range(3):
                out[c, first + i] = (
                    (flat[k + c] * (one - r) + flat[k + c + red] * r) * neither
                    + (flat[k + c + green] * (one - r) + flat[k + c + green + red] * r) * of_green
                    + (flat[k + c + blue] * (one - r) + flat[k + c + blue + red] * r) * of_blue
                    + (flat[k + c + both] * (one - r) + flat[k + c + both + red] * r) * of_both
                )
