"""Exact, table-free inverse of gamma tone mapping (ours; the paper interpolates a 4-D table, eqs 8 and 21).

With ``u = i^(1/g1)`` the map is ``ln y = (1 - a u) ln u / D``, ``a = 1 - g2``, ``D = 1 - a k^(1/g1)``: of the four
numbers (i, g1, g2, k) only ``v = -ln u``, ``a`` and ``tau = -D ln y`` are left in

    v (1 - a e^-v) = tau,      i = exp(-g1 v)

whose left side is strictly increasing in v for a > -e^2. Halley's method inside the bracket between ``tau`` and
``tau / (1 - a)`` reaches float32 in three steps and float64 in four; there is no table, no range to choose, and one
code for global and local parameters, CPU and GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semiisp_plugin.isp.functions import safe_log

_STEPS = {torch.float32: 3, torch.float64: 5}


def gamma_tone_map_inverse(image: Tensor, g1: Tensor, g2: Tensor, k: Tensor) -> Tensor:
    """Inverse of `semiisp_plugin.isp.functions.gamma_tone_map`.

    Differentiable in the image and the parameters: the iterations run without gradient, and one Newton step at the
    solution carries it, which is what the implicit function theorem gives.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1], float32 or float64 (lower precisions are computed in float32).
        g1: > 0, broadcastable to the image.
        g2: In (0, 8.389).
        k: In [0, 1].

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    dtype = image.dtype
    if dtype not in _STEPS:
        image, g1, g2, k = image.float(), g1.float(), g2.float(), k.float()
    a = 1 - g2
    tau = -(1 - a * k ** (1 / g1)) * safe_log(image)
    with torch.no_grad():
        v = _solve(tau, a, _STEPS[image.dtype])
    e = a * (-v).exp()
    residual = v * (1 - e) - tau
    v = v - residual / (1 - e * (1 - v)).detach()
    out = torch.where(image > 0, (-g1 * v).exp(), torch.zeros_like(v)).clamp(0, 1)
    return out.to(dtype)


def _solve(tau: Tensor, a: Tensor, steps: int) -> Tensor:
    """Solve v (1 - a e^-v) = tau for v >= 0 by bracketed Halley steps."""
    q = 1 - a
    edge = tau / q
    lower, upper = torch.minimum(tau, edge), torch.maximum(tau, edge)
    # For a >= 0 the start is exact to second order in tau. For a < 0 the expression under the root can be negative,
    # and the middle of the bracket serves.
    positive = a.clamp_min(0)
    root = (q * q + 4 * positive * tau).sqrt()
    v = torch.where(a >= 0, 2 * tau / (q + root), 0.5 * (lower + upper))
    v = torch.minimum(torch.maximum(v, lower), upper)
    bisect = bool((a < -2).any())  # beyond g2 = 3 plain Halley steps can leave the basin: keep a shrinking bracket
    for _ in range(steps + (9 if bisect else 0)):
        e = a * (-v).exp()
        f = v * (1 - e) - tau
        f1 = 1 - e * (1 - v)
        f2 = e * (2 - v)
        if bisect:
            upper = torch.where(f > 0, v, upper)
            lower = torch.where(f > 0, lower, v)
        step = v - 2 * f * f1 / (2 * f1 * f1 - f * f2)
        if bisect:
            v = torch.where((step >= lower) & (step <= upper), step, 0.5 * (lower + upper))
        else:
            v = torch.minimum(torch.maximum(step, lower), upper)
    return v
