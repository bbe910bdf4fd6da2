"""Exact, table-free inverse of gamma tone mapping (ours; the paper interpolates a 4-D table, eqs 8 and 21).

With ``u = i^(1/g1)`` the map is ``ln y = (1 - a u) ln u / D``, ``a = 1 - g2``, ``D = 1 - a k^(1/g1)``: of the four
numbers (i, g1, g2, k) only ``n = ln u``, ``a`` and ``m = D ln y`` are left in

    n (1 - a e^n) = m,      i = e^(g1 n),      n, m <= 0

whose left side is strictly increasing in n for a > -e^2. n lies between ``m`` and ``m / (1 - a)``. The start

    n0 = m (q - m) / (q^2 - m),   q = 1 - a

is exact to first order at both ends (it is ``m / (1 - a / (1 - m/q))``, with ``e^n`` replaced by a fraction) and inside
the bracket for either sign of a. From there Halley's method, kept in the bracket, is at 5e-10 after two steps and at
rounding after three, over the whole range of `semiisp_plugin.isp.parameters.ISPSpec`: no table, no range to choose,
one code for global and local parameters, CPU and GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semiisp_plugin.isp.functions import (
    LOG_NEGLIGIBLE,
    fade_zero_,
    gamma_scale,
    in_full_precision,
    needs_gradient,
    normal_exp_,
    safe_log,
    zero_stays_zero,
)

# Largest errors for g2 in [0.2, 2], the domain of `ISPSpec`: 4e-10 after two steps, 3e-16 after three.
_STEPS = {torch.float32: 2, torch.float64: 3}


def gamma_tone_map_inverse(image: Tensor, g1: Tensor, g2: Tensor, k: Tensor) -> Tensor:
    """Inverse of `semiisp_plugin.isp.functions.gamma_tone_map`.

    Differentiable in the image and the parameters by the implicit function theorem: nothing of the iteration is kept.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1]. float16 and bfloat16 are computed in float32.
        g1: > 0, broadcast against the image.
        g2: In [0.2, 2]; further away two or three steps are too few.
        k: In [0, 1].

    Returns:
        ``(N, 3, H, W)`` in [0, 1], 0 where ``image`` is 0, of the image's type.
    """
    full, g1, g2, k = in_full_precision(image, g1, g2, k)
    full = full.expand(torch.broadcast_shapes(full.shape, g1.shape, g2.shape, k.shape))
    return GammaInverse(g1, g2, k)(full).to(image.dtype)


class GammaInverse:
    """`gamma_tone_map_inverse` with given parameters, for one image (or strip of one) after the other.

    All of float32 or all of float64.
    """

    def __init__(self, g1: Tensor, g2: Tensor, k: Tensor) -> None:
        self._g1, self._g2 = g1, g2
        self._scale = gamma_scale(g1, g2, k)

    def __call__(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] to the same."""
        if needs_gradient(image, self._g1, self._g2, self._scale):
            n = _Root.apply(self._scale * safe_log(image), self._g2)
            return zero_stays_zero((n * self._g1).exp(), image)
        # The same in place: on a CPU the time goes into memory that is touched, not into arithmetic.
        m = image.clamp_min(torch.finfo(image.dtype).tiny).log_().mul_(self._scale)
        n = _solve(m, self._g2)
        return fade_zero_(normal_exp_(n.mul_(self._g1)), image, m)


class _Root(torch.autograd.Function):
    """n(m, g2) of ``n (1 - (1 - g2) e^n) = m``; its derivatives are those of the equation, whatever found the root."""

    @staticmethod
    def forward(m: Tensor, g2: Tensor) -> Tensor:
        return _solve(m.detach(), g2.detach())  # for compilers, which may trace this with gradients on

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        n, g2 = ctx.saved_tensors
        e = n.exp()
        to_m = grad_outputs[0] / (1 - (1 - g2) * e * (1 + n))
        to_g2 = -(to_m * n * e).sum_to_size(g2.shape) if ctx.needs_input_grad[1] else None
        return to_m, to_g2


def _solve(m: Tensor, g2: Tensor) -> Tensor:
    """Solve n (1 - a e^n) = m <= 0, a = 1 - g2, for n by Halley's method in the bracket between m and m / g2.

    Written into six buffers, so that a strip of an image stays in a CPU's cache.
    """
    n, low, high, e, residual, slope = (torch.empty_like(m) for _ in range(6))
    a = 1 - g2
    torch.div(m, g2, out=e)
    torch.minimum(m, e, out=low)
    torch.maximum(m, e, out=high)
    torch.sub(g2, m, out=n).mul_(m).div_(torch.sub(g2 * g2, m, out=e))
    for _ in range(_STEPS[m.dtype]):
        torch.clamp(n, min=LOG_NEGLIGIBLE, out=e).exp_().mul_(a)
        torch.addcmul(n, n, e, value=-1, out=residual).sub_(m)
        torch.addcmul(e, e, n, out=slope)  # e (1 + n), which is 1 - f'
        e.add_(slope)  # e (2 + n), which is -f''
        slope.sub_(1)
        # Halley's step, -f / (f' - f f'' / (2 f')), with -f' and -f'' in place of both.
        slope.addcmul_(residual, e.div_(slope), value=0.5)
        n.addcdiv_(residual, slope).clamp_(low, high)
    return n
