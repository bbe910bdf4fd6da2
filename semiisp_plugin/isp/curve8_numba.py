"""The inverse ISP of an 8-bit image with global parameters in one pass, compiled by Numba for the CPU at hand.

The same formulas as those of the tensors (see there for their meaning), written out for one value. Curves are computed
in float64, whatever the type of the result. Imported when first used: Numba takes its time.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# Pixels at a time: their three planes stay in the first-level cache.
_BLOCK = 1024


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _stretch_inverse(value: float, p: np.ndarray, c: int) -> float:
    """Eq. 19, as in `semiisp_plugin.isp.functions.contrast_stretch_inverse`; ``p`` as ``ga`` in `curves`."""
    x, w, h = p[0, c], p[1, c], p[2, c]
    outer = (1 - w) / (1 - h)
    below = above = outer
    y = x
    if len(p) == 4:
        y = p[3, c]
        below, above = outer * x / y, outer * (1 - x) / (1 - y)
    start = y * (1 - h)
    if value < start:
        return value * below
    if value <= start + h:
        return x * (1 - w) + (w / h) * (value - start)
    return 1 - (1 - value) * above


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _gamma_inverse(value: float, g1: float, g2: float, scale: float, steps: int) -> float:
    """`semiisp_plugin.isp.gamma_inverse`, for g2 <= 3: Halley's method from the same start."""
    if value <= 0:
        return 0.0
    m = math.log(value) * scale
    n = m * (g2 - m) / (g2 * g2 - m)
    for _ in range(steps):
        e = (1 - g2) * math.exp(n)
        residual = n - n * e - m
        slope = 1 - e * (1 + n)
        n -= 2 * residual * slope / (2 * slope * slope + residual * e * (2 + n))
        n = min(max(n, min(m, m / g2)), max(m, m / g2))
    return math.exp(g1 * n)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def curves(ga: np.ndarray, gm: np.ndarray, cs: np.ndarray, steps: int, out: np.ndarray) -> None:
    """f_GA^-1 o f_GM^-1 o f_CS^-1 of the 256 levels.

    Args:
        ga: ``(3 or 4, 3)``: x, w, h and, in the four-parameter form, y, of red, green, blue.
        gm: ``(3, 3)``: g1, g2, k.
        cs: As ``ga``.
        steps: Of Halley's method: 2 are enough for float32, 3 for float64.
        out: ``(3, 256)``, written.
    """
    for c in range(3):
        g1, g2, k = gm[0, c], gm[1, c], gm[2, c]
        scale = 1 - (1 - g2) * k ** (1 / g1)
        for level in range(256):
            value = _stretch_inverse(level / 255, cs, c)
            value = _gamma_inverse(value, g1, g2, scale, steps)
            out[c, level] = _stretch_inverse(value, ga, c)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _inverse_matrix(cc: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The inverse of `semiisp_plugin.isp.functions.colour_correction`'s matrix.

    Args:
        cc: ``(3, 3)``: rg rb gr, gb br bg, the gains.
        after: ``(3, 3)``, the inverse of the constant base matrix.
    """
    (rg, rb, gr), (gb, br, bg) = cc[0], cc[1]
    inverse = np.array(
        [
            [1 - gb * bg, rb * bg - rg, rg * gb - rb],
            [gb * br - gr, 1 - rb * br, rb * gr - gb],
            [gr * bg - br, rg * br - bg, 1 - rg * gr],
        ]
    )
    determinant = inverse[0, 0] + rg * inverse[1, 0] + rb * inverse[2, 0]
    out = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for k in range(3):
                out[i, j] += after[i, k] * inverse[k, j] / (determinant * cc[2, k])
    return out


# No NaN and no infinity can come up here, and minimum and maximum without a rule for NaN are one instruction.
@numba.njit(error_model="numpy", nogil=True, cache=True, fastmath={"contract", "nsz", "nnan", "ninf"})
def _mix(planes: np.ndarray, row: np.ndarray, out: np.ndarray, clamp: bool) -> int:
    """One row of the matrix on a block of pixels; returns how many values lie outside [0, 1]."""
    zero, one = planes.dtype.type(0), planes.dtype.type(1)
    r, g, b = row
    outside = np.int32(0)
    for i in range(len(out)):
        value = r * planes[0, i] + g * planes[1, i] + b * planes[2, i]
        clamped = min(max(value, zero), one)
        outside += np.int32(value != clamped)
        out[i] = clamped if clamp else value
    return int(outside)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def invert(
    pixels: np.ndarray,
    ga: np.ndarray,
    gm: np.ndarray,
    cs: np.ndarray,
    cc: np.ndarray,
    after: np.ndarray,
    steps: int,
    clamp: bool,
    out: np.ndarray,
) -> int:
    """Curves, matrix and clamp.

    Args:
        pixels: ``(P, 3)`` uint8, of any strides.
        ga: See `curves`.
        gm: See `curves`.
        cs: See `curves`.
        cc: See `_inverse_matrix`.
        after: See `_inverse_matrix`.
        steps: See `curves`.
        clamp: Whether to clamp to [0, 1].
        out: ``(3, P)`` float32 or float64, written.

    Returns:
        Number of values outside [0, 1].
    """
    table = np.empty((3, 256), out.dtype)
    curves(ga, gm, cs, steps, table)
    matrix = _inverse_matrix(cc, after).astype(out.dtype)
    if not (np.isfinite(table).all() and np.isfinite(matrix).all()):  # NaN among the parameters: `_mix` may not see it
        out[:] = np.nan
        return 0
    planes = np.empty((3, _BLOCK), out.dtype)
    outside = 0
    for start in range(0, len(pixels), _BLOCK):
        count = min(_BLOCK, len(pixels) - start)
        for i in range(count):
            planes[0, i] = table[0, pixels[start + i, 0]]
            planes[1, i] = table[1, pixels[start + i, 1]]
            planes[2, i] = table[2, pixels[start + i, 2]]
        for c in range(3):
            outside += _mix(planes, matrix[c], out[c, start : start + count], clamp)
    return outside
