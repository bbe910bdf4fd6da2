"""A network of one's own: curves and a colour matrix that a small encoder sees in a thumbnail of the picture.

Registering it is all that the plugin and BasicSR need: the decorator below, and a module that is imported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.registry import ARCH_REGISTRY, register


@register(ARCH_REGISTRY)
class CurveNet(nn.Module):
    """``y = M x + sum_k c_k sin(k pi x)``, with ``M`` and ``c`` seen in the picture; begins as the identity.

    Args:
        features: Channels of the encoder.
        harmonics: How many sines a curve has; they vanish at 0 and 1, so that black and white stay what they are.
    """

    def __init__(self, features: int = 16, harmonics: int = 4) -> None:
        super().__init__()
        self.harmonics = harmonics
        layers: list[nn.Module] = []
        for channels in (3, features, 2 * features):
            layers += [nn.Conv2d(channels, 2 * features if channels > 3 else features, 3, 2, 1), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(2 * features, 9 + 3 * harmonics)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Enhance ``(N, 3, H, W)`` in [0, 1]; any size."""
        thumbnail = F.interpolate(image, size=(64, 64), mode="bilinear", antialias=True)
        matrix, curves = self.head(self.encoder(thumbnail)).split((9, 3 * self.harmonics), dim=1)
        matrix = torch.eye(3, device=image.device, dtype=image.dtype) + matrix.view(-1, 3, 3)
        mixed = torch.einsum("nij,njhw->nihw", matrix, image)
        for k, strength in enumerate(curves.view(-1, self.harmonics, 3).unbind(1), 1):
            mixed = mixed + strength[..., None, None] * torch.sin(k * torch.pi * image)
        return mixed
