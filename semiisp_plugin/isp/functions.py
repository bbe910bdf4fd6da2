"""The five ISP functions, each beside its inverse (Sec. A.1 of the paper).

All tensors are floating point. Images are ``(N, 3, H, W)``; per-channel parameters broadcast against them, as
``(N, 3, 1, 1)`` (one set an image, "global") or ``(N, 3, H, W)`` (one set a pixel, "local"). Every per-channel function
maps [0, 1] onto [0, 1], strictly increasing, with 0 -> 0 and 1 -> 1, over the whole domain given in its docstring.

The printed equations are damaged in the text this was written from; how each was reconstructed is said where it is
not certain.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Below this value the gradient of log(i) with respect to the image is held at 1 / LOG_GRADIENT_FLOOR. The curves
# are i^e with e < 1: their slope at 0 is infinite, and one black pixel would otherwise decide a training step.
LOG_GRADIENT_FLOOR = 1e-4

# Subnormal numbers slow a CPU down by an order of magnitude, and the black pixels of a photograph are made of them.
# e^LOG_NEGLIGIBLE added to 1 changes nothing, in float64 either; it stands for everything smaller.
LOG_NEGLIGIBLE = -60.0

Matrix = tuple[tuple[float, ...], ...]


class _SafeLog(torch.autograd.Function):
    """log(max(unit i, smallest normal number)), with the gradient bounded by 1 / LOG_GRADIENT_FLOOR."""

    @staticmethod
    def forward(image: Tensor, unit: int) -> Tensor:
        return _log(image, unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (image,) = ctx.saved_tensors
        return grad_outputs[0] / image.clamp_min(LOG_GRADIENT_FLOOR), None


def _log(image: Tensor, unit: int) -> Tensor:
    if unit != 1:
        image = image * unit
    return image.clamp_min(torch.finfo(image.dtype).tiny).log()


def safe_log(image: Tensor, unit: int = 1) -> Tensor:
    """Natural logarithm that is finite at 0 and has a bounded gradient there.

    Args:
        image: Values >= 0, any shape.
        unit: A power of 2, by which images are multiplied without rounding: the logarithm is precise around 1 / unit.

    Returns:
        ``log(max(unit * image, tiny))`` of the same shape; its gradient is ``1 / max(image, LOG_GRADIENT_FLOOR)``.
    """
    if torch.is_grad_enabled() and image.requires_grad:
        return _SafeLog.apply(image, unit)
    return _log(image, unit)


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """``base ** exponent`` for base >= 0 and exponent > 0, with a bounded gradient at base 0.

    There it is ``tiny ** exponent`` instead of 0: 3e-10 in float32 for the least exponent in use, 1/4.
    """
    return (safe_log(base) * exponent).exp()


def zero_stays_zero(value: Tensor, image: Tensor) -> Tensor:
    """``value``, fading to 0 where ``image`` goes below the smallest normal number, at which `safe_log` stops."""
    # Several times faster than torch.where. The factor is 1 from the smallest normal number on.
    return value * (image.detach() * (1 / torch.finfo(image.dtype).tiny)).clamp_max(1)


def fade_zero_(value: Tensor, image: Tensor, buffer: Tensor) -> Tensor:
    """`zero_stays_zero` in place; what ``buffer`` held is lost."""
    return value.mul_(torch.mul(image, 1 / torch.finfo(image.dtype).tiny, out=buffer).clamp_(max=1))


def normal_exp(exponent: Tensor) -> Tensor:
    """e to the exponents, never a subnormal number."""
    return exponent.clamp_min(_least_exponent(exponent.dtype)).exp()


def normal_exp_(exponent: Tensor) -> Tensor:
    """`normal_exp` in place."""
    return exponent.clamp_(min=_least_exponent(exponent.dtype)).exp_()


def _least_exponent(dtype: torch.dtype) -> float:
    return math.log(1.001 * torch.finfo(dtype).tiny)


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd will ask for the derivative with respect to any of them."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def in_full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float64 if the first is, otherwise in float32: half precision is stored, not computed in."""
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return tuple(t.to(dtype) for t in tensors)


# --- colour correction, equations 4, 7, 16, 17 ----------------------------------------------------------------------


def colour_correction(image: Tensor, off_diagonal: Tensor, gain: Tensor, base: Matrix) -> Tensor:
    """Colour correction f_CC: ``out = (I + O) diag(gain) base image`` (eqs 4 and 16, in a bounded form of ours).

    The paper lets nine free numbers form the matrix. The same nine degrees of freedom as six off-diagonal entries and
    three gains make every matrix, and every mixture of neighbouring ones, invertible: ``I + O`` is strictly
    diagonally dominant as long as the two entries of a row of O sum to less than 1 in magnitude.

    Args:
        image: ``(N, 3, H, W)``.
        off_diagonal: ``(N, 6, h, w)``, entries (rg, rb, gr, gb, br, bg) of O, each in (-0.5, 0.5).
        gain: ``(N, 3, h, w)``, > 0.
        base: 3 rows of 3 constants, an invertible matrix.

    Returns:
        ``(N, 3, H, W)``, not limited to [0, 1].
    """
    r, g, b = (_mix(image, base) * gain).unbind(1)
    rg, rb, gr, gb, br, bg = off_diagonal.unbind(1)
    return torch.stack(
        (
            r.addcmul(rg, g).addcmul(rb, b),
            g.addcmul(gr, r).addcmul(gb, b),
            b.addcmul(br, r).addcmul(bg, g),
        ),
        dim=1,
    )


class ColourInverse:
    """Inverse of `colour_correction` (eqs 7 and 17) with given parameters, for one image after the other.

    The closed-form inverse of ``I + O`` at every position. With a grid of matrices the entries are interpolated first
    and inverted then, position by position: the interpolation of inverses is not the inverse.
    """

    def __init__(self, off_diagonal: Tensor, gain: Tensor, base: Matrix) -> None:
        scale = gain.reciprocal().unbind(1)
        rows = _inverse_mixing(off_diagonal)
        self._rows = [tuple(entry * s for entry in row) for row, s in zip(rows, scale, strict=True)]
        self._base = inverse_matrix(base)

    def __call__(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to the same shape, not limited to [0, 1]."""
        r, g, b = image.unbind(1)
        out = torch.stack([(x * r).addcmul(y, g).addcmul(z, b) for x, y, z in self._rows], dim=1)
        return _mix(out, self._base)


def colour_correction_inverse(image: Tensor, off_diagonal: Tensor, gain: Tensor, base: Matrix) -> Tensor:
    """Inverse of `colour_correction`; same arguments and shapes. See `ColourInverse`."""
    return ColourInverse(off_diagonal, gain, base)(image)


def _inverse_mixing(off_diagonal: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Rows of ``(I + O)^-1`` by its adjugate, each entry ``(N, h, w)``; ``off_diagonal`` is ``(N, 6, h, w)``."""
    rg, rb, gr, gb, br, bg = off_diagonal.unbind(1)
    rr = 1 - gb * bg
    gr_ = gb * br - gr
    br_ = gr * bg - br
    scale = 1 / (rr + rg * gr_ + rb * br_)  # one over the determinant, along the first row
    return (
        (rr * scale, (rb * bg - rg) * scale, (rg * gb - rb) * scale),
        (gr_ * scale, (1 - rb * br) * scale, (rb * gr - gb) * scale),
        (br_ * scale, (rg * br - bg) * scale, (1 - rg * gr) * scale),
    )


@lru_cache(maxsize=32)
def inverse_matrix(matrix: Matrix) -> Matrix:
    """Inverse of a constant 3x3 matrix by its adjugate, kept; in double precision, to add no error of its own."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    determinant = a * rows[0][0] + b * rows[1][0] + c * rows[2][0]
    return tuple(tuple(v / determinant for v in row) for row in rows)


def _mix(image: Tensor, matrix: Matrix) -> Tensor:
    """The same 3x3 matrix at every pixel."""
    if all(v == (i == j) for i, row in enumerate(matrix) for j, v in enumerate(row)):  # the identity
        return image
    r, g, b = image.unbind(1)
    return torch.stack([(r * x).add(g, alpha=y).add(b, alpha=z) for x, y, z in matrix], dim=1)


# --- gain and contrast stretcher, equations 18 and 19 ---------------------------------------------------------------


def contrast_stretch(image: Tensor, x: Tensor, w: Tensor, h: Tensor, y: Tensor | None = None) -> Tensor:
    """Gain f_GA and contrast stretcher f_CS (eq. 18): a window of width ``w`` is stretched to height ``h``.

    Three straight pieces: ``[0, x(1-w)]``, the window with slope ``h / w``, and the rest. Outside the window the
    slope is ``(1-h)/(1-w)`` on both sides, so that nothing clips: ``x = 0, w = 0.2, h = 0.8`` is a gain of 4 in the
    dark with a soft roll-off, ``x = 0.5, w < h`` an S-curve. This three-parameter form is our reading of eq. 18; with
    ``y`` given, the four-parameter one: the window ends up at ``y(1-h)`` instead of ``x(1-h)``, and the outer slopes
    differ. ``y = x`` is the three-parameter form.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1].
        x: Position of the input window, in [0, 1] (in (0, 1) when ``y`` is given).
        w: Width of the input window, in (0, 1).
        h: Height of the output window, in (0, 1).
        y: Position of the output window, in (0, 1), or None for ``y = x``.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    start = x * (1 - w)
    if y is None:
        below = above = (1 - h) / (1 - w)
    else:
        below = y * (1 - h) / start
        above = (1 - y) * (1 - h) / ((1 - x) * (1 - w))
    # The sum of what lies below, in and above the window: no cancellation, whatever the slopes are.
    beyond = image - start
    out = below * torch.minimum(image, start)
    out = out.addcmul(h / w, torch.minimum(beyond.clamp_min(0), w))
    out = out.addcmul(above, (beyond - w).clamp_min(0))
    return out.clamp(0, 1)  # rounding alone could leave the interval


def contrast_stretch_inverse(image: Tensor, x: Tensor, w: Tensor, h: Tensor, y: Tensor | None = None) -> Tensor:
    """Inverse of `contrast_stretch` (eq. 19): the same function with ``w`` and ``h`` (and ``x`` and ``y``) swapped."""
    return contrast_stretch(image, x if y is None else y, h, w, None if y is None else x)


# --- gamma tone mapping, equation 20 (its inverse: gamma_inverse.py) --------------------------------------------------


def gamma_tone_map(image: Tensor, g1: Tensor, g2: Tensor, k: Tensor) -> Tensor:
    """Gamma tone mapping f_GM (eq. 20).

    ``i ^ [ (1/g1) (1 - (1-g2) i^(1/g1)) / (1 - (1-g2) k^(1/g1)) ]``: at ``i = k`` a plain gamma of ``1/g1``; ``g2``
    bends it towards white. Strictly increasing for ``g1 > 0``, ``0 < g2 < 1 + e^2 = 8.389`` and ``k`` in [0, 1]
    (``1/u + b (1 + ln u)`` with ``b = g2 - 1`` has its minimum ``b (2 - ln b)``, positive iff ``b < e^2``).

    Our reading, about 85 % certain: ``k`` may stand where the 1 leads numerator and denominator. The error that the
    paper gives of its table (Sec. A.2) cannot decide between the two.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1].
        g1: > 0.
        g2: In (0, 8.389).
        k: In [0, 1].

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    log_u = safe_log(image) / g1
    u = log_u.clamp_min(LOG_NEGLIGIBLE).exp()
    return zero_stays_zero(normal_exp((1 - (1 - g2) * u) * log_u / gamma_scale(g1, g2, k)), image)


def gamma_scale(g1: Tensor, g2: Tensor, k: Tensor) -> Tensor:
    """The denominator in eq. 20, ``1 - (1-g2) k^(1/g1)``."""
    return 1 - (1 - g2) * power(k, 1 / g1)


# --- inverse tone mapping, equation 22 (its inverse: tone_inverse.py) ------------------------------------------------

# With the sign + the curve is nearly flat around i = 0.35 where g3 is near 3.5 and g4 near 3, and what rounding does to
# ln i and to the power of eq. 22 is multiplied on the way back. So both are taken from their values at i = 1/4, from
# which they differ little there (and by a power of 2 no number is rounded). With the sign - nothing is flat: i = 1.
TONE_UNIT = {1: 4, -1: 1}


def inverse_tone_map(image: Tensor, g3: Tensor, g4: Tensor, k2: Tensor, sign: int = 1) -> Tensor:
    """Inverse tone mapping f_IT (eq. 22), the first function of the image enhancement variant.

    ``i ^ [ g3 (1 + g4 (1 + s i)^g3) / (1 + g4 (1 + s k2)^g3) ]`` with ``s = sign``. Both places of the damaged text
    read "+1", which is our reading, about 93 % certain; ``-1``, two minus signs having been lost, is the other.
    Strictly increasing for ``g3`` in (0, 3.59], ``g4 >= 0`` with ``+1``, for every ``g3 > 0``, ``g4 >= 0`` with ``-1``.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1].
        g3: In (0, 3.59].
        g4: In [0, 3].
        k2: In [0, 1].
        sign: +1 or -1.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    scale, power, log_value = tone_reference(g3, g4, k2, sign)
    unit = TONE_UNIT[sign]
    d = safe_log(image, unit)
    if sign > 0:
        more = power * (((unit * image - 1) * (1 / (unit + 1))).log1p() * g3).expm1()
    else:
        more = g4 * (safe_log(1 - image) * g3).exp()
    exponent = (d * (1 + power)).addcmul(d - math.log(unit), more) / scale
    # Neither factor, nor their product, may be a subnormal number.
    value = torch.maximum(exponent, _least_exponent(image.dtype) - log_value).exp() * log_value.exp()
    return zero_stays_zero(value.clamp_max(1), image)


def tone_reference(g3: Tensor, g4: Tensor, k2: Tensor, sign: int) -> tuple[Tensor, Tensor, Tensor]:
    """What eq. 22 has of its parameters alone, with ``i_r = 1 / TONE_UNIT``.

    Returns:
        ``(1 + g4 (1 + s k2)^g3) / g3``, the inverse of what stands in front of i's own bracket; ``g4 (1 + s i_r)^g3``;
        and ln f_IT(i_r).
    """
    log_base = k2.log1p() if sign > 0 else safe_log(1 - k2)
    scale = (1 + g4 * (log_base * g3).exp()) / g3
    if sign < 0:
        return scale, torch.zeros_like(g4), torch.zeros_like(scale)
    unit = TONE_UNIT[sign]
    power = g4 * (g3 * math.log1p(1 / unit)).exp()
    return scale, power, (1 + power) * -math.log(unit) / scale
