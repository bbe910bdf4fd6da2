"""Exact, table-free inverse of inverse tone mapping (ours; the paper interpolates a 4-D table, Sec. A.2).

With ``n = ln i`` eq. 22 is

    n (1 + p(n)) = m,    p = g4 (1 + s e^n)^g3,    m = scale ln y,    n, m <= 0,    s = +1 or -1

whose left side is strictly increasing in n over the domain of `semiisp_plugin.isp.functions.inverse_tone_map`. ``p``
lies between ``g4`` (where i = 0) and ``p1 = g4 (1 + s)^g3`` (where i = 1), which brackets n. Halley's method, its step
never more than twice Newton's, is at 2e-8 after three steps and at rounding after four.

Solved is the same equation less its value at a brightness i_r (`semiisp_plugin.isp.functions.TONE_UNIT`), at which p is
``q`` and y ``y_r``:

    d (1 + q) + n (p - q) = scale ln(y / y_r),    d = n - ln i_r

Where the curve is nearly flat, all its terms are small, and rounding with them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from semiisp_plugin.isp.functions import (
    LOG_NEGLIGIBLE,
    TONE_UNIT,
    fade_zero_,
    in_full_precision,
    needs_gradient,
    normal_exp_,
    safe_log,
    tone_reference,
    zero_stays_zero,
)

_STEPS = {torch.float32: 3, torch.float64: 5}


def inverse_tone_map_inverse(image: Tensor, g3: Tensor, g4: Tensor, k2: Tensor, sign: int = 1) -> Tensor:
    """Inverse of `semiisp_plugin.isp.functions.inverse_tone_map`.

    Differentiable in the image and the parameters by the implicit function theorem: nothing of the iteration is kept.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1]. float16 and bfloat16 are computed in float32.
        g3: In (0, 3.59], broadcast against the image.
        g4: In [0, 3].
        k2: In [0, 1].
        sign: +1 or -1.

    Returns:
        ``(N, 3, H, W)`` in [0, 1], 0 where ``image`` is 0, of the image's type.
    """
    full, g3, g4, k2 = in_full_precision(image, g3, g4, k2)
    full = full.expand(torch.broadcast_shapes(full.shape, g3.shape, g4.shape, k2.shape))
    return ToneInverse(g3, g4, k2, sign)(full).to(image.dtype)


class ToneInverse:
    """`inverse_tone_map_inverse` with given parameters, for one image (or strip of one) after the other.

    All of float32 or all of float64.
    """

    def __init__(self, g3: Tensor, g4: Tensor, k2: Tensor, sign: int = 1) -> None:
        self._g3, self._g4, self._sign = g3, g4, sign
        self._scale, self._power, log_value = tone_reference(g3, g4, k2, sign)
        self._value = log_value.exp()

    def __call__(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] to the same."""
        if needs_gradient(image, self._g3, self._g4, self._scale):
            target = (image / self._value).clamp_min(torch.finfo(image.dtype).tiny).log() * self._scale
            m = self._scale * safe_log(image)
            n = _Root.apply(m, target.detach(), self._g3, self._g4, self._power.detach(), self._sign)
            return zero_stays_zero(n.exp(), image)
        # The same in place: on a CPU the time goes into memory that is touched, not into arithmetic.
        target = (image / self._value).clamp_(min=torch.finfo(image.dtype).tiny).log_().mul_(self._scale)
        n = _solve(target, self._g3, self._g4, self._power, self._sign)
        return fade_zero_(normal_exp_(n), image, target)


class _Root(torch.autograd.Function):
    """n(m, g3, g4) of the equation above; its derivatives are the equation's, whatever found the root."""

    @staticmethod
    def forward(m: Tensor, target: Tensor, g3: Tensor, g4: Tensor, power: Tensor, sign: int) -> Tensor:
        return _solve(target, g3.detach(), g4.detach(), power, sign)  # as in gamma_inverse.py

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[2], inputs[3])
        ctx.sign = inputs[5]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        n, g3, g4 = ctx.saved_tensors
        log_base, ratio = _base(n, ctx.sign)
        p_over_g4 = (g3 * log_base).exp()
        p = g4 * p_over_g4
        to_m = grad_outputs[0] / (1 + p + n * ratio * g3 * p)
        to_g3 = (-to_m * n * p * log_base).sum_to_size(g3.shape) if ctx.needs_input_grad[2] else None
        to_g4 = (-to_m * n * p_over_g4).sum_to_size(g4.shape) if ctx.needs_input_grad[3] else None
        return to_m, None, to_g3, to_g4, None, None


def _base(n: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """``ln(1 + s e^n)`` and its derivative ``s e^n / (1 + s e^n)``, finite where the base vanishes (s = -1, n = 0)."""
    e = n.exp()
    if sign > 0:
        return e.log1p(), e / (1 + e)
    base = (1 - e).clamp_min(torch.finfo(n.dtype).tiny)
    return base.log(), -e / base


def _solve(target: Tensor, g3: Tensor, g4: Tensor, power: Tensor, sign: int) -> Tensor:
    """n, by Halley's method in the bracket; the start is right in value and slope at i = 1 and in value at i = 0.

    Written into eight buffers, so that a strip of an image stays in a CPU's cache.
    """
    d, n, low, high, ratio, p, p1, residual = (torch.empty_like(target) for _ in range(8))
    one, tiny = target.new_ones(()), torch.finfo(target.dtype).tiny
    unit = TONE_UNIT[sign]
    at_reference = 1 + power
    at_black = 1 + g4
    m = torch.sub(target, at_reference * math.log(unit), out=residual).clamp_(max=0)
    if sign > 0:
        power_of_2 = g3.exp2()
        at_white = 1 + g4 * power_of_2
        torch.div(m, at_black, out=low)
        torch.div(m, at_white, out=high)
        # p replaced by g4 + (p1 - g4) / (1 - c n), c chosen for the slope at n = 0: a quadratic equation in n.
        c = 0.5 * g3 * power_of_2 / (power_of_2 - 1)
        torch.mul(m, c, out=p).add_(at_white)
        torch.mul(p, p, out=p1).addcmul_(m, at_black * c, value=-4).sqrt_().add_(p)
        torch.mul(m, 2, out=n).div_(p1)
    else:
        low.copy_(m)
        torch.div(m, at_black, out=high)
        # The base 1 - e^n replaced by -n / (1 - n).
        torch.div(m, torch.sub(m, 1, out=p), out=n)
        n.clamp_(min=tiny).log_().mul_(g3).exp_().mul_(g4).add_(1)
        torch.div(m, n, out=n)
    n.clamp_(low, high)
    torch.add(n, math.log(unit), out=d)
    low.add_(math.log(unit))
    high.add_(math.log(unit))
    for step in range(_STEPS[target.dtype]):
        torch.clamp(d, min=LOG_NEGLIGIBLE, out=ratio).exp_()  # i / i_r
        if sign > 0:
            torch.sub(ratio, 1, out=p).mul_(1 / (unit + 1)).log1p_().mul_(g3)
            # p - q; what expm1 does for the digits of small differences matters in the last step alone.
            (p.expm1_() if step == _STEPS[target.dtype] - 1 else p.exp_().sub_(1)).mul_(power)
            ratio.div_(torch.add(ratio, unit, out=residual))  # s i / (1 + s i)
        else:
            torch.log(torch.sub(1, ratio, out=residual).clamp_(min=tiny), out=p).mul_(g3).exp_().mul_(g4)
            ratio.neg_().div_(residual)
        torch.mul(d, at_reference, out=residual).sub_(target).addcmul_(n, p)
        p.add_(power)
        torch.mul(p, ratio, out=p1).mul_(g3)  # p'
        # p'' = p' (1 + (g3 - 1) ratio), as the ratio's derivative is ratio (1 - ratio). Second derivative of the left
        # side, 2 p' + n p'':
        second = ratio.mul_(g3 - 1).add_(1).mul_(n).add_(2).mul_(p1)
        slope = p.add_(1).addcmul_(n, p1)
        newton = residual.div_(slope)
        # Halley's step is Newton's over 1 - newton f'' / (2 f'); where the curve is nearly flat that turns the wrong
        # way, hence the lower limit.
        bend = torch.addcdiv(one, second.mul_(newton), slope, value=-0.5, out=p1).clamp_(min=0.5)
        d.addcdiv_(newton, bend, value=-1).clamp_(low, high)
        torch.sub(d, math.log(unit), out=n)
    return n.clamp_(max=0)
