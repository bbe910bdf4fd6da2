"""The HVI colour space (Yan et al., CVPR 2025, arXiv 2502.20272): hue and saturation as a plane that closes at black.

With value v, saturation s and hue h of HSV, all in [0, 1], and the density k:

    C = (sin(pi v / 2) + e)^k,   H = C s cos(2 pi h),   V = C s sin(2 pi h),   I = v

Red is at one place, not at both ends of a scale, and all blacks are one point. No step indexes by masks, so that
graphs are of any size and gradients go everywhere. What would divide by zero is kept from it by e = 1e-8, which only
float32 and wider types know.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = 1e-8


def _density(intensity: Tensor, k: Tensor) -> Tensor:
    return ((intensity * (math.pi / 2)).sin() + _EPS).pow(k)


def rgb_to_hvi(image: Tensor, k: Tensor) -> Tensor:
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, H, W): H and V in [-1, 1], I in [0, 1].

    Args:
        image: float32 or float64.
        k: The density, one number; a gradient reaches it.
    """
    red, green, blue = image.unbind(1)
    value, least = image.amax(1), image.amin(1)
    range_ = value - least
    wide = range_ + _EPS
    # Of equal maxima the first counts. NaN is no maximum, and passes on by the value.
    sector = torch.where(green == value, 2 + (blue - red) / wide, 4 + (red - green) / wide)
    sector = torch.where(red == value, ((green - blue) / wide) % 6, sector)
    angle = torch.where(range_ == 0, 0.0, sector) * (math.pi / 3)
    saturation = torch.where(value == 0, 0.0, range_ / (value + _EPS))
    radius = _density(value, k) * saturation
    return torch.stack([radius * angle.cos(), radius * angle.sin(), value], dim=1)


def hvi_to_rgb(hvi: Tensor, k: Tensor, saturation: float = 1.0) -> Tensor:
    """(N, 3, H, W) HVI -> (N, 3, H, W) RGB in [0, 1]; what lies outside of the space is clamped.

    Args:
        hvi: float32 or float64.
        k: The density of the way there. As published, no gradient reaches it.
        saturation: Factor of the saturation.
    """
    value = hvi[:, 2:].clamp(0, 1)
    plane = (hvi[:, :2].clamp(-1, 1) / (_density(value, k.detach()) + _EPS)).clamp(-1, 1)
    h, v = plane.split(1, dim=1)
    hue = torch.atan2(v + _EPS, h + _EPS) / (2 * math.pi)
    chroma = value * ((h.square() + v.square() + _EPS).sqrt() * saturation).clamp(0, 1)
    # HSV to RGB for red, green and blue at once. The remainder takes a hue that was rounded to 1 for 0.
    place = (torch.tensor([5.0, 3.0, 1.0], device=hvi.device, dtype=hvi.dtype)[:, None, None] + 6 * hue) % 6
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)
