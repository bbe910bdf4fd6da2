"""NAFNet: nonlinear activation free network (Chen et al., ECCV 2022, arXiv 2204.04676), a target model.

A U-shaped convolutional network that adds a correction to the image. Its block has no activation function: a gate
multiplies one half of the channels by the other, and the channel attention is one 1x1 convolution of the mean over
the image, without a sigmoid:

    gate(x)   = x_1 * x_2                            x_1, x_2: halves of the channels
    a         = gate(depth-wise 3x3(1x1(norm(x))))
    y         = x + beta  * 1x1(a * (W mean(a) + b))
    out       = y + gamma * 1x1(gate(1x1(norm(y))))

beta and gamma start at zero: every block starts as the identity.

The names and shapes of the parameters are those of the public repository (github.com/megvii-research/NAFNet, MIT), so
that its weights load; the code is ours. Its files are ``{"params": ...}``, which BasicSR loads as they are
(``path: {pretrain_network_g: FILE.pth}``); each needs the options it was trained with. The repository tests its GoPro
and REDS weights with a mean over a window in place of the mean over the whole image, which this file does not do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.toolbox import ARCH_REGISTRY, register

__all__ = ["NAFNet"]


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return pixels.permute(0, 3, 1, 2)


def _gate(x: Tensor) -> Tensor:
    """(N, 2 C, H, W) -> (N, C, H, W)."""
    first, second = x.chunk(2, dim=1)
    return first * second


class _Block(nn.Module):
    """The nonlinear activation free block, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1 = _ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = _ChannelNorm(channels)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = _gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(mixed * self.sca(mixed))
        out: Tensor = x + self.gamma * self.conv5(_gate(self.conv4(self.norm2(x))))
        return out


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


@register(ARCH_REGISTRY)
class NAFNet(nn.Module):
    """Nonlinear activation free network for image restoration.

    Input (N, img_channel, H, W) in [0, 1] of any size; output of the same size, float32 at least, not clamped. The
    network needs sides that are multiples of ``2 ** levels``, a level for each number of ``enc_blk_nums``: the image is
    padded by zeros at the right and the bottom and the output cropped, as in the public code. The channel attention
    takes the mean over the whole (padded) image: what a pixel becomes depends on all others.

    The defaults are ours (7.37 M parameters), for "NAFNet-s", which the paper of this plugin's method names without
    defining it. Published weights are of width 32 or 64, with the numbers of blocks of the defaults (SIDD; 29.16 M at
    width 32) or with middle 1, encoder 1, 1, 1, 28, decoder 1, 1, 1, 1 (GoPro; 17.11 M at width 32).

    Args:
        img_channel: Colours of input and output.
        width: Channels at full resolution; doubled at each level below.
        middle_blk_num: Blocks at the lowest resolution.
        enc_blk_nums: Blocks at each level of the encoder, full resolution first.
        dec_blk_nums: Blocks at each level of the decoder, full resolution last; as many numbers as ``enc_blk_nums``.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 12,
        enc_blk_nums: Sequence[int] = (2, 2, 4, 8),
        dec_blk_nums: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        for name, value in (("img_channel", img_channel), ("width", width)):
            if value < 1:
                raise ValueError(f"NAFNet: {name} is {value}; use 1 or more.")
        if middle_blk_num < 0:
            raise ValueError(f"NAFNet: middle_blk_num is {middle_blk_num}; use 0 or more.")
        for name, numbers in (("enc_blk_nums", enc_blk_nums), ("dec_blk_nums", dec_blk_nums)):
            if not numbers or min(numbers) < 0:
                raise ValueError(
                    f"NAFNet: {name} is {list(numbers)}; give one or more numbers of 0 or more, such as [2, 2, 2, 2]."
                )
        levels = len(enc_blk_nums)
        if len(dec_blk_nums) != levels:
            raise ValueError(
                f"NAFNet: enc_blk_nums {list(enc_blk_nums)} has {levels} numbers, "
                f"dec_blk_nums {list(dec_blk_nums)} has {len(dec_blk_nums)}; give both as many."
            )
        widths = [width * 2**level for level in range(levels + 1)]
        self.img_channel = img_channel
        self.multiple = 2**levels
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(c, number) for c, number in zip(widths[:-1], enc_blk_nums, strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])
        self.middle_blks = _blocks(widths[-1], middle_blk_num)
        # The shuffle makes an image of twice the sides out of four times the channels: 2 c / 4 = c / 2 are left.
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(widths[1:])
        )
        self.decoders = nn.ModuleList(
            _blocks(c, number) for c, number in zip(reversed(widths[:-1]), dec_blk_nums, strict=True)
        )
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Enhance a batch.

        Args:
            image: (N, img_channel, H, W) in [0, 1].

        Returns:
            (N, img_channel, H, W), of the input's dtype, or float32 where that is of lower precision.

        Raises:
            ValueError: The input is not (N, img_channel, H, W).
        """
        if image.ndim != 4 or image.shape[1] != self.img_channel:
            raise ValueError(
                f"NAFNet: expected an image batch (N, {self.img_channel}, H, W), got shape {tuple(image.shape)}."
            )
        height, width = image.shape[-2:]
        x = self.intro(F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple)))
        skipped: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skipped.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skipped), strict=True):
            x = decoder(up(x) + skip)
        correction = self.ending(x)[..., :height, :width]
        wide = torch.promote_types(image.dtype, torch.float32)
        out: Tensor = image.to(wide) + correction.to(wide)
        return out
