"""The frame of NAFNet and KBNet: a U of convolutional blocks that adds a correction to the image.

A 3x3 convolution of the image; at each level blocks, then half the sides by a strided convolution to twice the
channels; blocks in the middle; back up by pixel shuffles, adding the features of the same size from the way down; a
last 3x3 convolution, and the image is added. The names of the parameters are those of both public repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import check_at_least, check_numbers
from semiisp_plugin.archs.image_network import ImageNetwork


class ResidualUNet(ImageNetwork):
    """A U-shaped network of blocks; see the module's docstring.

    Args:
        blocks: Makes a row of blocks from a number of channels and how many there are.
        img_channel: Colours of input and output.
        width: Channels at full resolution; doubled at each level below.
        middle_blk_num: Blocks at the lowest resolution.
        enc_blk_nums: Blocks at each level of the encoder, full resolution first.
        dec_blk_nums: Blocks at each level of the decoder, full resolution last; as many numbers as ``enc_blk_nums``.

    Attributes:
        multiple: What the sides are padded to multiples of, ``2 ** levels``.
        CHANNELS_LAST_ON_CPU: Whether channels lie side by side in memory on a CPU.

    Raises:
        ValueError: An option is outside what is said above.
    """

    CHANNELS_LAST_ON_CPU: ClassVar[bool] = False

    def __init__(
        self,
        blocks: Callable[[int, int], nn.Sequential],
        img_channel: int,
        width: int,
        middle_blk_num: int,
        enc_blk_nums: Sequence[int],
        dec_blk_nums: Sequence[int],
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_at_least(name, 1, img_channel=img_channel, width=width)
        check_at_least(name, 0, middle_blk_num=middle_blk_num)
        check_numbers(name, (2, 2, 2, 2), enc_blk_nums=enc_blk_nums, dec_blk_nums=dec_blk_nums)
        levels = len(enc_blk_nums)
        widths = [width * 2**level for level in range(levels + 1)]
        self.colours = img_channel
        self.multiple = 2**levels
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.encoders = nn.ModuleList(blocks(c, number) for c, number in zip(widths[:-1], enc_blk_nums, strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])
        self.middle_blks = blocks(widths[-1], middle_blk_num)
        # The shuffle makes an image of twice the sides out of four times the channels: 2 c / 4 = c / 2 are left.
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(widths[1:])
        )
        self.decoders = nn.ModuleList(
            blocks(c, number) for c, number in zip(reversed(widths[:-1]), dec_blk_nums, strict=True)
        )
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple))
        if self.CHANNELS_LAST_ON_CPU and x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.intro(x)
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
