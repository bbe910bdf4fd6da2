"""CycleISP: sRGB to RAW and back (Zamir et al., CVPR 2020, arXiv 2003.07761), a source of pseudo inputs.

RGB2RAW makes a RAW image of an sRGB one, RAW2RGB an sRGB image of a RAW one and of the colours of the sRGB one, without
which nothing would say how the RAW image was developed. Both are rows of groups of dual attention blocks:

    block  = x + 1x1(spatial attention(r), channel attention(r)),    r = 3x3(PReLU(3x3(x)))
    group  = x + 3x3(blocks(x))
    RAW    = 3x3(PReLU(3x3(groups(3x3(sRGB)))))
    colour = sigmoid(3x3(PReLU(3x3(groups(3x3(blurred sRGB))))))
    x      = 3x3(groups(3x3(RAW))),    sRGB = 1x1(PReLU(3x3(PReLU(x + colour x))))

Written from a description of layers, sizes and names of parameters, not from the public code
(github.com/swz30/CycleISP), whose licence is for academic and non-commercial use. Its three networks' parameters have
these names behind ``rgb2raw.``, ``raw2rgb.`` and ``ccm.``.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, pack_mosaic, pad_to_multiple, reflect_border, widened
from semiisp_plugin.archs.srgb_to_raw import SRGBToRAWNetwork
from semiisp_plugin.options.ranges import Blocks, Channels, NotNegative
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["CycleISP"]

_REDUCTION = 8  # of the channels in the channel attention
_BLUR, _SIGMA = 21, 12.0
_DARKEST = 1e-3  # of what logarithms are compared


def _conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class _SpatialAttention(nn.Module):
    """Weights pixels by the largest and the mean of their channels, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 1, 3, padding=1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        out: Tensor = x * self.spatial(found).sigmoid()
        return out


class _ChannelAttention(nn.Module):
    """Weights channels by their means over the pixels, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.conv_du = nn.Sequential(_conv(channels, hidden, 1), nn.ReLU(), _conv(hidden, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.conv_du(x.mean((2, 3), keepdim=True))
        return out


class _Block(nn.Module):
    """Dual attention block, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, activation: nn.PReLU) -> None:
        super().__init__()
        self.SA = _SpatialAttention()
        self.CA = _ChannelAttention(channels)
        self.body = nn.Sequential(_conv(channels, channels), activation, _conv(channels, channels))
        self.conv1x1 = _conv(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        out: Tensor = x + self.conv1x1(torch.cat([self.SA(found), self.CA(found)], dim=1))
        return out


class _Group(nn.Module):
    """Recursive residual group, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, blocks: int, activation: nn.PReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_Block(channels, activation) for _ in range(blocks)), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class _Trunk(nn.Module):
    """What the three networks begin with. One PReLU is all their activations, and is listed under many names.

    Args:
        inputs: Channels of the image.
        channels: Of the features.
        groups: How many there are.
        blocks: Of each group.
    """

    def __init__(self, inputs: int, channels: int, groups: int, blocks: int) -> None:
        super().__init__()
        activation = nn.PReLU(channels)
        self.head = nn.Sequential(_conv(inputs, channels))
        rows = (_Group(channels, blocks, activation) for _ in range(groups))
        self.body = nn.Sequential(*rows, _conv(channels, channels), activation)


class _RGB2RAW(_Trunk):
    """(N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self, channels: int, groups: int, blocks: int) -> None:
        super().__init__(N_COLOURS, channels, groups, blocks)
        self.tail = nn.Sequential(_conv(channels, N_COLOURS))

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.tail(self.body(self.head(image)))
        return out


class _Blur(nn.Module):
    """A fixed Gaussian, (N, 3, H, W) -> (N, 3, H, W)."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        profile = torch.exp(-(torch.arange(_BLUR) - _BLUR // 2).square() / (2 * _SIGMA**2))
        profile = profile / profile.sum()
        self.register_buffer("weight", profile.outer(profile).repeat(N_COLOURS, 1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return F.conv2d(reflect_border(image, _BLUR // 2), self.weight, groups=N_COLOURS)


class _Colour(_Trunk):
    """Factors of features in (0, 1), (N, 3, H, W) -> (N, C, H, W), of half the size if ``halve``."""

    def __init__(self, channels: int, groups: int, blocks: int, halve: bool) -> None:
        super().__init__(N_COLOURS, channels, groups, blocks)
        if halve:
            self.head.append(nn.MaxPool2d(2))
        self.tail = nn.Sequential(_conv(channels, channels), nn.Sigmoid())
        self.blur = _Blur()

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.tail(self.body(self.head(self.blur(image))))
        return out


class _RAW2RGB(_Trunk):
    """RAW (N, 3, H, W), or (N, 4, H / 2, W / 2) if ``mosaic``, and factors -> (N, 3, H, W)."""

    def __init__(self, channels: int, groups: int, blocks: int, mosaic: bool) -> None:
        super().__init__(N_COLOURS + mosaic, channels, groups, blocks)
        self.tail = nn.Sequential(_conv(channels, channels), self.body[-1])
        self.tail_rgb = nn.Sequential(_conv(channels, 4 * N_COLOURS if mosaic else N_COLOURS, 1))
        if mosaic:
            self.tail_rgb.append(nn.PixelShuffle(2))
            # Kept for the files, neither computed nor trained.
            self.conv1x1 = nn.Sequential(_conv(2 * channels, channels, 1)).requires_grad_(False)

    def forward(self, raw: Tensor, colour: Tensor) -> Tensor:
        x = self.body[:-1](self.head(raw))
        out: Tensor = self.tail_rgb(self.tail(self.body[-1](torch.addcmul(x, x, colour))))
        return out


@register(ARCH_REGISTRY)
class CycleISP(SRGBToRAWNetwork):
    """A network from sRGB to RAW, trained together with one that leads back.

    Input (N, 3, H, W) sRGB in [0, 1] of any size; output RAW of the same size, float32 at least, not clamped. One RAW
    image for an image: nothing is drawn. Weights start as torch's layers do.

    The published networks make and read a camera's mosaic: ``mosaic: true``, 3,143,109 parameters from sRGB to RAW,
    3,244,110 back, of which 18,528 (``raw2rgb.conv1x1``) are not used, and 1,084,419 for the colours, of which 1,323
    are the fixed blur. The default, RAW of three channels, is ours: the first and the last convolution of the way back
    have fewer channels, and the colours are not halved in size.

    Args:
        num_feat: Channels.
        num_rrg: Groups of blocks, of each direction.
        num_dab: Dual attention blocks of a group.
        colour_rrg: Groups of the branch that sees the blurred sRGB image.
        colour_dab: Blocks of each of them.
        mosaic: RAW is a Bayer mosaic (RGGB, red first), packed to four channels of half the size. It is sampled from
            what RGB2RAW makes, an image of three channels and full size; that this image is the output, and that the
            mosaic to learn from is sampled from one, so that it trains and tests like any network, is ours. RAW2RGB
            reads the mosaic. Sides are made even by reflection.
        cycle_weight: Of what :meth:`losses` takes from RAW2RGB. 0: there is none; RGB2RAW is trained alone.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        num_feat: Channels = 96,
        num_rrg: Blocks = 3,
        num_dab: Blocks = 5,
        colour_rrg: Blocks = 2,
        colour_dab: Blocks = 2,
        mosaic: bool = False,
        cycle_weight: NotNegative = 1.0,
    ) -> None:
        super().__init__()
        check_at_least("CycleISP", 1, num_feat=num_feat)
        check_at_least("CycleISP", 0, num_rrg=num_rrg, num_dab=num_dab, colour_rrg=colour_rrg, colour_dab=colour_dab)
        if cycle_weight < 0:
            raise ValueError(f"CycleISP: cycle_weight is {cycle_weight}; use 0 or more.")
        self.mosaic = mosaic
        self.cycle_weight = cycle_weight
        self.rgb2raw = _RGB2RAW(num_feat, num_rrg, num_dab)
        if cycle_weight > 0:
            self.raw2rgb = _RAW2RGB(num_feat, num_rrg, num_dab, mosaic)
            self.ccm = _Colour(num_feat, colour_rrg, colour_dab, halve=mosaic)

    def enhance(self, image: Tensor) -> Tensor:
        """RGB2RAW, sRGB (N, 3, H, W) to RAW (N, 3, H, W)."""
        return widened(self.rgb2raw(self._narrow(image)))

    def develop(self, raw: Tensor, image: Tensor) -> Tensor:
        """RAW2RGB, with the colours of a known sRGB image.

        Args:
            raw: (N, 3, H, W) in [0, 1]; with ``mosaic`` it is sampled.
            image: (N, 3, H, W) sRGB in [0, 1], of the same scenes.

        Returns:
            (N, 3, H, W) sRGB, float32 at least, not clamped.

        Raises:
            AttributeError: The network was made without, ``cycle_weight: 0``.
        """
        height, width = image.shape[-2:]
        raw, image = self._even(raw), self._even(image)
        return self._develop(self._sensed(raw), self.ccm(self._narrow(image)))[..., :height, :width]

    def losses(self, image: Tensor, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Mean absolute differences; see `SRGBToRAWNetwork.losses`.

            L = |RAW' - RAW| + |log RAW' - log RAW| + cycle_weight (|sRGB' - sRGB| + |sRGB'' - sRGB|) / 2

        RAW' is RGB2RAW(sRGB), sRGB' RAW2RGB(RAW), sRGB'' RAW2RGB(RAW'); logarithms are of 1e-3 at least.

        The terms are believed to be the published ones, for want of the paper's text not compared with it; so is the
        half of the last one. Published are also separate trainings of both directions, before that of RAW2RGB(RAW').
        That all is trained at once, the half of the term of sRGB', ``cycle_weight`` and 1e-3 are ours.
        """
        raw, image = self._even(raw), self._even(image)
        made, raw = self._sensed(self.enhance(image)), self._sensed(raw)
        loss = _distance(made, raw) + _distance(*(x.clamp_min(_DARKEST).log() for x in (made, raw)))
        if self.cycle_weight > 0:
            colour = self.ccm(self._narrow(image))
            back = sum(_distance(self._develop(x, colour), image) for x in (raw, made))
            loss = loss + self.cycle_weight / 2 * back
        return loss

    def _develop(self, sensed: Tensor, colour: Tensor) -> Tensor:
        return widened(self.raw2rgb(self._narrow(sensed), colour))

    def _narrow(self, image: Tensor) -> Tensor:
        return image.to(self.rgb2raw.get_parameter("tail.0.weight").dtype)

    def _even(self, image: Tensor) -> Tensor:
        return pad_to_multiple(image, 2) if self.mosaic else image

    def _sensed(self, raw: Tensor) -> Tensor:
        return pack_mosaic(raw) if self.mosaic else raw


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """L1 of each sample, (N,)."""
    return (first - second).abs().mean((1, 2, 3))
