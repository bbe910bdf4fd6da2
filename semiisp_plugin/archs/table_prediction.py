"""What predicts lookup tables from a thumbnail of an image: backbones, and banks of learned tables that are mixed.

The backbone of five convolutions is Zeng's (Image-Adaptive-3DLUT); AdaInt, SepLUT and LUTwithBGrid have it too, with
other widths, poolings and names of their parameters.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, as_thumbnail, widened

MIN_THUMBNAIL = {"light": 32, "res18": 64}
"""Sides. light: the fourth of five stride-2 convolutions must leave more than one pixel for its instance norm. res18:
the fifth must, for the batch norm of a batch of one."""


def _wide(module: nn.Conv2d | nn.InstanceNorm2d | nn.Linear, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a module is given, its weights and its bias, in float32 at least."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, module.weight.dtype), torch.float32)
    bias: Tensor | None = module.bias
    return x.to(dtype), module.weight.to(dtype), None if bias is None else bias.to(dtype)


class WideConv2d(nn.Conv2d):
    """A convolution in float32 at least, whatever autocast and its weights are.

    So are all layers that tables come of. An image's tables are one decision, which costs the same for images of any
    size; in bfloat16 they, and with them all pixels, are off by 2 to 3 percent, which is more than its rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self._conv_forward(*_wide(self, x))


class WideLinear(nn.Linear):
    """As `WideConv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            return F.linear(*_wide(self, x))


class WideInstanceNorm2d(nn.InstanceNorm2d):
    """As `WideConv2d`, with weights and without running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        x, weight, bias = _wide(self, x)
        return F.instance_norm(x, weight=weight, bias=bias, eps=self.eps)


def _wide_thumbnail(image: Tensor, side: int) -> Tensor:
    return as_thumbnail(widened(image), side)


class Shrink(nn.Module):
    """(N, 3, H, W) -> (N, 3, side, side), bilinear, float32 at least."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        """As the class says."""
        return _wide_thumbnail(image, self.side)


def five_convolutions(n_base_feats: int) -> list[list[nn.Module]]:
    """The stages 3 -> m -> 2m -> 4m -> 8m -> 8m, each half the side, with Zeng's initial weights."""
    widths = [N_COLOURS] + [n_base_feats * k for k in (1, 2, 4, 8, 8)]
    stages: list[list[nn.Module]] = [
        [WideConv2d(c, d, 3, stride=2, padding=1), nn.LeakyReLU(0.2), WideInstanceNorm2d(d, affine=True)]
        for c, d in itertools.pairwise(widths)
    ]
    stages[-1].pop()
    for module in itertools.chain(*stages):
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.InstanceNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    return stages


class LightBackbone(nn.Sequential):
    """`five_convolutions` with SepLUT's and AdaInt's names of parameters, (N, 3, H, W) -> (N, 32 m)."""

    def __init__(self, n_base_feats: int, thumbnail: int, dropout: float) -> None:
        stages = [nn.Sequential(*stage) for stage in five_convolutions(n_base_feats)]
        super().__init__(*stages, nn.Dropout(dropout), nn.AdaptiveAvgPool2d(2))
        self.thumbnail = thumbnail
        self.out_features = 32 * n_base_feats

    def forward(self, image: Tensor) -> Tensor:
        """As the class says."""
        return super().forward(_wide_thumbnail(image, self.thumbnail)).flatten(1)


class Res18Backbone(nn.Module):
    """torchvision's ResNet-18 without its classifier, (N, 3, H, W) -> (N, 512)."""

    def __init__(self, thumbnail: int) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.net = resnet18(weights=None)
        self.net.fc = nn.Identity()
        self.thumbnail = thumbnail
        self.out_features = 512

    def forward(self, image: Tensor) -> Tensor:
        """As the class says."""
        features: Tensor = self.net(as_thumbnail(image, self.thumbnail))
        return features


class TableBank(nn.Module):
    """Features (N, F) -> mixture weights (N, R) and the mixtures (N, ...) of R learned tables.

    Args:
        n_features: F.
        n_ranks: R.
        start: The first learned table at the start, with a weight near one; the others start as zero.
        bank: Name of the submodule that has the learned tables.
        bias: Whether a learned table is added to all mixtures; it starts as zero.
    """

    def __init__(
        self, n_features: int, n_ranks: int, start: Tensor, bank: str = "basis_luts_bank", bias: bool = False
    ) -> None:
        super().__init__()
        self.weights_generator = WideLinear(n_features, n_ranks)
        self.bank = bank
        learned = WideLinear(n_ranks, start.numel(), bias=bias)
        self.add_module(bank, learned)
        self.table = nn.Unflatten(1, tuple(start.shape))
        nn.init.ones_(self.weights_generator.bias)
        nn.init.zeros_(learned.weight)
        with torch.no_grad():
            learned.weight[:, 0] = start.flatten()
        if bias:
            nn.init.zeros_(learned.bias)

    def set_identity(self) -> None:
        """Predict for every image the first table."""
        nn.init.zeros_(self.weights_generator.weight)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        weights: Tensor = self.weights_generator(features)
        return weights, self.table(getattr(self, self.bank)(weights))
