"""The five ISP functions, each beside its inverse (Sec. A.1 of the paper).

All tensors are floating point. Images are ``(N, 3, H, W)``; per-channel parameters broadcast against them, as
``(N, 3, 1, 1)`` (one set an image, "global") or ``(N, 3, H, W)`` (one set a pixel, "local"). Every per-channel function
maps [0, 1] onto [0, 1], strictly increasing, with 0 -> 0 and 1 -> 1, over the whole domain given in its docstring.

The printed equations are damaged in the text this was written from; how each was reconstructed is said where it is
not certain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Below this value the gradient of log(i) with respect to the image is held at 1 / LOG_GRADIENT_FLOOR. The curves
# are i^e with e < 1: their slope at 0 is infinite, and one black pixel would otherwise decide a training step.
LOG_GRADIENT_FLOOR = 1e-4

# Measured over the parameters' whole ranges: the error is at rounding after five steps in float32 and six in float64;
# one of them is the step that carries the gradient.
_INVERSE_TONE_STEPS = 5


class _SafeLog(torch.autograd.Function):
    """log(max(i, smallest normal number)), with the gradient bounded by 1 / LOG_GRADIENT_FLOOR."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        ctx.save_for_backward(image)
        return image.clamp_min(torch.finfo(image.dtype).tiny).log()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (image,) = ctx.saved_tensors
        return grad_outputs[0] / image.clamp_min(LOG_GRADIENT_FLOOR)


def safe_log(image: Tensor) -> Tensor:
    """Natural logarithm that is finite at 0 and has a bounded gradient there.

    Args:
        image: Values >= 0, any shape.

    Returns:
        ``log(max(image, tiny))`` of the same shape; its gradient is ``1 / max(image, LOG_GRADIENT_FLOOR)``.
    """
    return _SafeLog.apply(image) if image.requires_grad else image.clamp_min(torch.finfo(image.dtype).tiny).log()


# --- colour correction, equations 4, 7, 16, 17 ----------------------------------------------------------------------


def colour_correction(image: Tensor, off_diagonal: Tensor, gain: Tensor, base: Tensor) -> Tensor:
    """Colour correction f_CC: ``out = (I + O) diag(gain) base image`` (eqs 4 and 16, in a bounded form of ours).

    The paper lets nine free numbers form the matrix. The same nine degrees of freedom as six off-diagonal entries and
    three gains make every matrix, and every mixture of neighbouring ones, invertible: ``I + O`` is strictly
    diagonally dominant as long as the two entries of a row of O sum to less than 1 in magnitude.

    Args:
        image: ``(N, 3, H, W)``.
        off_diagonal: ``(N, 6, h, w)``, entries (rg, rb, gr, gb, br, bg) of O, each in (-0.5, 0.5).
        gain: ``(N, 3, h, w)``, > 0.
        base: ``(3, 3)`` constant matrix, invertible.

    Returns:
        ``(N, 3, H, W)``, not limited to [0, 1].
    """
    r, g, b = (_mix(image, base) * gain).unbind(1)
    rg, rb, gr, gb, br, bg = off_diagonal.unbind(1)
    return torch.stack((r + rg * g + rb * b, gr * r + g + gb * b, br * r + bg * g + b), dim=1)


def colour_correction_inverse(image: Tensor, off_diagonal: Tensor, gain: Tensor, base: Tensor) -> Tensor:
    """Inverse of `colour_correction` (eqs 7 and 17), by the closed-form inverse of ``I + O`` at every position.

    Same arguments and shapes. With a grid of matrices the entries are interpolated first and inverted then, position
    by position: the interpolation of inverses is not the inverse.
    """
    r, g, b = image.unbind(1)
    rg, rb, gr, gb, br, bg = off_diagonal.unbind(1)
    determinant = 1 - gb * bg - rg * (gr - gb * br) + rb * (gr * bg - br)
    out = torch.stack(
        (
            (1 - gb * bg) * r + (rb * bg - rg) * g + (rg * gb - rb) * b,
            (gb * br - gr) * r + (1 - rb * br) * g + (rb * gr - gb) * b,
            (gr * bg - br) * r + (rg * br - bg) * g + (1 - rg * gr) * b,
        ),
        dim=1,
    )
    out = out / (determinant.unsqueeze(1) * gain)
    # Inverted in double precision: the base matrix is a constant, and its inverse should not add an error of its own.
    return _mix(out, torch.linalg.inv(base.double()).to(base.dtype))


def _mix(image: Tensor, matrix: Tensor) -> Tensor:
    """The same 3x3 matrix at every pixel."""
    return torch.einsum("ij,njhw->nihw", matrix.to(image), image)


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
    out = below * torch.minimum(image, start)
    out = out + (h / w) * torch.minimum((image - start).clamp_min(0), w)
    out = out + above * (image - (start + w)).clamp_min(0)
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

    Args:
        image: ``(N, 3, H, W)`` in [0, 1].
        g1: > 0.
        g2: In (0, 8.389).
        k: In [0, 1].

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    a = 1 - g2
    log_u = safe_log(image) / g1
    denominator = 1 - a * k ** (1 / g1)
    out = ((1 - a * log_u.exp()) * log_u / denominator).exp()
    return torch.where(image > 0, out, torch.zeros_like(out))


# --- inverse tone mapping, equation 22 ------------------------------------------------------------------------------


def inverse_tone_map(image: Tensor, g3: Tensor, g4: Tensor, k2: Tensor, sign: int = 1) -> Tensor:
    """Inverse tone mapping f_IT (eq. 22), the first function of the image enhancement variant.

    ``i ^ [ g3 (1 + g4 (1 + s i)^g3) / (1 + g4 (1 + s k2)^g3) ]`` with ``s = sign``. The sign of ``s`` is not legible
    in the text; ``+1`` is our reading. Strictly increasing for ``g3`` in (0, 3.59], ``g4 >= 0`` with ``+1``, for
    every ``g3 > 0``, ``g4 >= 0`` with ``-1``.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1].
        g3: In (0, 3.59].
        g4: >= 0.
        k2: In [0, 1].
        sign: +1 or -1.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    scale = g3 / (1 + g4 * _power(1 + sign * k2, g3))
    out = (scale * (1 + g4 * _power(1 + sign * image, g3)) * safe_log(image)).exp()
    return torch.where(image > 0, out, torch.zeros_like(out))


def inverse_tone_map_inverse(image: Tensor, g3: Tensor, g4: Tensor, k2: Tensor, sign: int = 1) -> Tensor:
    """Inverse of `inverse_tone_map`, without a table (the paper interpolates one; Sec. A.2).

    With ``v = -ln i`` the equation is ``v (1 + g4 (1 + s e^-v)^g3) = tau``, ``tau = -ln(y) / scale``; its left side is
    increasing, and ``v`` lies between ``tau / (1 + g4 m)`` and ``tau``, ``m`` the largest ``(1 + s i)^g3``. One
    fixed-point step from the end of that bracket, then Newton's method kept inside it.

    Differentiable: the gradient is that of one Newton step at the solution, which is the implicit function theorem's.
    """
    scale = g3 / (1 + g4 * _power(1 + sign * k2, g3))
    tau = -safe_log(image) / scale

    def excess(v: Tensor) -> tuple[Tensor, Tensor]:
        e = (-v).exp()
        base = 1 + sign * e
        p = g4 * _power(base, g3)
        # d/dv of (1 + s e^-v)^g3 is -s e^-v g3 (1 + s e^-v)^(g3 - 1); for s = -1 and v -> 0 the base vanishes, and
        # v times the derivative tends to g3 (1-e^-v)^g3: written with v / base, which stays finite.
        slope = 1 + p - sign * g3 * p * e * (v / base.clamp_min(torch.finfo(v.dtype).tiny))
        return v * (1 + p) - tau, slope

    with torch.no_grad():
        upper = tau
        lower = tau / (1 + g4 * (2**g3 if sign > 0 else torch.ones_like(g3)))
        v = lower if sign > 0 else upper
        v = tau / (1 + g4 * _power(1 + sign * (-v).exp(), g3))
        for _ in range(_INVERSE_TONE_STEPS):
            value, slope = excess(v)
            v = torch.minimum(torch.maximum(v - value / slope, lower), upper)
    value, slope = excess(v)
    v = v - value / slope.detach()
    return torch.where(image > 0, (-v).exp(), torch.zeros_like(v)).clamp(0, 1)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """base ** exponent for base >= 0, with a finite gradient at 0."""
    return (safe_log(base) * exponent).exp()
