"""Signal-dependent noise for pseudo inputs (eq. 15)."""

from __future__ import annotations

import torch
from torch import Tensor

from semiisp_plugin.options.structures import Noise

# Sec. A.3: sigma_s^2 = U(0, 0.01), sigma_r^2 = U(0, 0.0002). Variances, in units of white and of white squared.
SHOT_VARIANCE, READ_VARIANCE = Noise().shot_variance, Noise().read_variance


def draw_noise_levels(
    n: int,
    generator: torch.Generator,
    shot_variance: float = SHOT_VARIANCE,
    read_variance: float = READ_VARIANCE,
) -> tuple[Tensor, Tensor]:
    """Draw ``sigma_s^2`` and ``sigma_r^2`` for n images, uniformly from 0 to the given upper bounds.

    Returns:
        Two tensors ``(n,)`` on the generator's device.
    """
    levels = torch.rand(2, n, generator=generator, device=generator.device)
    return levels[0] * shot_variance, levels[1] * read_variance


def add_shot_read_noise(image: Tensor, shot: Tensor, read: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise of mean ``image`` and variance ``shot * image + read`` (eq. 15), then clamped to [0, 1].

    The clamp is ours, the paper is silent. So is that no rounding to 8 bits follows for image enhancement, where real
    inputs have 8 bits: ``input_bits: 8`` of a pseudo build rounds the input before the noise.

    Args:
        image: ``(N, 3, H, W)`` in [0, 1].
        shot: ``(N,)``, sigma_s^2.
        read: ``(N,)``, sigma_r^2.
        generator: On the image's device.

    Returns:
        ``(N, 3, H, W)`` in [0, 1], not rounded.
    """
    variance = shot.view(-1, 1, 1, 1).to(image) * image + read.view(-1, 1, 1, 1).to(image)
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return (image + variance.sqrt() * noise).clamp(0, 1)
