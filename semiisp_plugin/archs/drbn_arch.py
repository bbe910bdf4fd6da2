"""DRBN: a recursive band network (Yang et al., CVPR 2020), a target model.

"From Fidelity to Perceptual Quality: A Semi-Supervised Approach for Low-Light Image Enhancement". A unit sees the image
at three scales and gives one result for each; a finer result is the coarser one, enlarged, and a band of details. Units
follow each other: the next one gets the result of full size and the features of the one before. In the second stage a
small network gives each of the last unit's bands a factor for every pixel and colour, and their sum is the image:

    bands  = 4x up(r4),  2x up(r2) - 4x up(r4),  r1 - 2x up(r2)
    output = sum of weight_i * band_i

Written from facts about the public repository (flyywh/CVPR-2020-Semi-Low-Light), which has no licence; its code was not
used. The names and shapes of the parameters are those of its files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, pad_to_multiple, widened
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.options.ranges import Channels, Positive
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["DRBN"]

_SCALE, _SHIFT = 0.8, 0.6  # of what the recomposition gives, to weights near 1
_LAYERS = 4  # of a dense block


class _DenseLayer(nn.Module):
    """A convolution whose result is appended, (N, C, H, W) -> (N, C + growth, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, growth, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], dim=1)


class _DenseBlock(nn.Module):
    """Dense layers, mixed and added to their input, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_DenseLayer(channels + i * growth, growth) for i in range(_LAYERS)))
        self.LFF = nn.Conv2d(channels + _LAYERS * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.LFF(self.convs(x))
        return out


def _to_image(channels: int, between: int) -> nn.Sequential:
    """Two convolutions, (N, C, H, W) -> (N, 3, H, W)."""
    return nn.Sequential(nn.Conv2d(channels, between, 3, padding=1), nn.Conv2d(between, N_COLOURS, 3, padding=1))


def _twice(image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2 H, 2 W), bilinear."""
    return F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)


Features = tuple[Tensor, Tensor, Tensor]
"""Of full, half and quarter size."""


class _Unit(nn.Module):
    """Two images (N, 6, H, W) and the features of the unit before -> images of three sizes, and features."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.SFENet1 = nn.Conv2d(2 * N_COLOURS, width, 3, padding=1)
        self.SFENet2 = nn.Conv2d(width, width, 3, padding=1)
        self.RDBs = nn.ModuleList(_DenseBlock(factor * width, factor * growth) for factor in (1, 1, 2, 2, 1, 1))
        self.UPNet = _to_image(width, width)
        self.UPNet2 = _to_image(width, width)
        self.UPNet4 = _to_image(2 * width, width)
        self.Down1 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.Down2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.Up1 = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.Up2 = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)

    def forward(self, images: Tensor, before: Features | None) -> tuple[Features, Features]:
        blocks = self.RDBs
        first = F.relu(self.SFENet1(images))
        full = F.relu(self.SFENet2(first))
        half = self.Down1(blocks[0](full))
        quarter = self.Down2(blocks[1](half))
        quarter = quarter + blocks[3](blocks[2](quarter))
        if before is not None:
            quarter = quarter + before[2]
        half = half + blocks[4](self.Up2(quarter))
        if before is not None:
            half = half + before[1]
        full = full + blocks[5](self.Up1(half)) + first
        if before is not None:
            full = full + before[0]
        # Sums of images are not rounded to half precision.
        image_4 = widened(self.UPNet4(quarter))
        image_2 = widened(self.UPNet2(half)) + _twice(image_4)
        image_1 = widened(self.UPNet(full)) + _twice(image_2)
        return (image_1, image_2, image_4), (full, half, quarter)


class _Recomposition(nn.Module):
    """The image and three bands (N, 12, H, W) -> the bands' weights (N, 9, H, W), band by band."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.SFENet1 = nn.Conv2d(4 * N_COLOURS, width, 3, padding=1)
        self.SFENet2 = nn.Conv2d(width, width, 3, padding=1)
        self.RDBs = nn.ModuleList([_DenseBlock(width, growth)])
        self.GFF = nn.Sequential(nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1))
        self.UPNet = nn.Conv2d(width, width, 3, padding=1)
        self.UPNet2 = nn.Conv2d(width, 3 * N_COLOURS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.SFENet1(x)
        features = first + self.GFF(self.RDBs[0](self.SFENet2(first)))
        return _SCALE * widened(self.UPNet2(self.UPNet(features))) + _SHIFT


@register(ARCH_REGISTRY)
class DRBN(ImageNetwork):
    """Low-light enhancement by bands of details that are refined again and again, and weighed by a second network.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clipped. The network
    needs sides that are multiples of 4: the image is padded by reflection at the right and the bottom and the output
    cropped (ours).

    The defaults are the published size: 557,668 parameters, with ``recompose`` 19,161 more. Those of the first stage
    have the names of its published files; those of the recomposition have ``recomposition.`` before theirs.

    The published first stage is trained with the SSIM of all three results (1 - SSIM with targets of every second and
    every fourth pixel). Here the losses are of the full-size result alone: `deep_supervision` is of images of the
    target's size. The published second stage is `AdversarialModel` with ``recompose`` and ``freeze_bands``, begun from
    the first stage's weights (``path: {pretrain_network_g, strict_load_g: false}``).

    Args:
        recompose: Whether the bands are weighed, the second stage; without it the output is the last unit's.
        freeze_bands: With ``recompose``: only the recomposition is trained.
        recurrences: Units, each with weights of its own.
        num_feat: Channels; twice as many at the lowest scale.
        growth: Channels that a layer of a dense block adds; twice as many at the lowest scale.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        recompose: bool = False,
        freeze_bands: bool = False,
        recurrences: Positive = 4,
        num_feat: Channels = 16,
        growth: Channels = 8,
    ) -> None:
        super().__init__()
        check_at_least("DRBN", 1, recurrences=recurrences, num_feat=num_feat, growth=growth)
        if freeze_bands and not recompose:
            raise ValueError("DRBN: freeze_bands leaves nothing to train without recompose: true.")
        self.recurrences = recurrences
        for i in range(recurrences):
            self.add_module(f"recur{i + 1}", _Unit(num_feat, growth))
        self.requires_grad_(not freeze_bands)
        self.recomposition = _Recomposition(num_feat, growth) if recompose else None

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        wide = pad_to_multiple(widened(image), 4)
        dtype = next(self.parameters()).dtype
        low, result, features = wide.to(dtype), wide, None
        for i in range(self.recurrences):
            unit = self.get_submodule(f"recur{i + 1}")
            (result, half, quarter), features = unit(torch.cat([result.to(dtype), low], dim=1), features)
        if self.recomposition is not None:
            half = _twice(half)
            coarse = _twice(_twice(quarter))
            bands = torch.cat([coarse, half - coarse, result - half], dim=1)
            weights = self.recomposition(torch.cat([low, bands.to(dtype)], dim=1))
            result = (weights * bands).unflatten(1, (3, N_COLOURS)).sum(1)
        return result[..., :height, :width]
