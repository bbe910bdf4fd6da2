"""Photometric augmentation of inputs, for the supervised baseline (ours)."""

from __future__ import annotations

import torch
from torch import Tensor


def photometric_jitter(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply brightness and saturation of each image by factors drawn uniformly from ``1 +- strength``.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1].
        strength: In [0, 1].
        generator: On the image's device.

    Returns:
        ``(N, 3, H, W)``, clamped to [0, 1].
    """
    factors = 1 + strength * (2 * torch.rand(2, len(image), 1, 1, 1, generator=generator, device=image.device) - 1)
    image = image * factors[0].to(image.dtype)
    grey = image.mean(1, keepdim=True)
    return (grey + (image - grey) * factors[1].to(image.dtype)).clamp(0, 1)
