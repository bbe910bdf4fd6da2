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
that its weights load; the code is new. Its files are ``{"params": ...}``, which BasicSR loads as they are
(``path: {pretrain_network_g: FILE.pth}``); each needs the options it was trained with (see `NAFNet`). The repository
tests its GoPro and REDS weights with ``NAFNetLocal``, which is ``tlc_train_size: 256`` here: a network trained on crops
meets means of crops, and means over a whole large image are other numbers. Test-time local conversion (TLC; Chu et al.,
ECCV 2022, arXiv 2112.04491) gives every pixel the mean over a window around it, 1.5 times as large as the crops of
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import ChannelNorm, Gate, widened
from semiisp_plugin.archs.residual_u_net import ResidualUNet
from semiisp_plugin.options.ranges import Blocks, BlocksOfLevels, Channels, Sides
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["NAFNet"]


def _window_means(x: Tensor, height: Any, width: Any) -> Tensor:
    """Means over all windows that lie inside, (N, C, H, W) -> (N, C, H - height + 1, W - width + 1), by running sums.

    One axis after the other: the sums stay as small as a row, and so does what float32 rounds off of them.
    """
    sums = F.pad(x.cumsum(-1), (1, 0))
    x = (sums[..., width:] - sums[..., :-width]) / width
    sums = F.pad(x.cumsum(-2), (0, 0, 1, 0))
    return (sums[..., height:, :] - sums[..., :-height, :]) / height


class _ChannelAttention(nn.Sequential):
    """Weights of channels, (N, C, H, W) -> (N, C, 1, 1), or (N, C, H, W) where means are local.

    Attributes:
        window: Height and width of the windows of a local mean in evaluation; None for the mean over the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.window: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        mean, mix = self
        height, width = x.shape[-2:]
        window = self.window
        # An exported graph is for all sizes: it must not take the way of the one it was made with.
        for_this_size = not torch.compiler.is_compiling()
        if self.training or window is None or (for_this_size and window[0] >= height and window[1] >= width):
            weights: Tensor = mix(mean(x))
            return weights
        rows: Any  # numbers, or symbols of them while a graph is made
        columns: Any
        rows, columns = torch.sym_min(window[0], height), torch.sym_min(window[1], width)
        wide = widened(x)
        # Mixed before they are spread: there are fewer of them.
        weights = mix(_window_means(wide, rows, columns).to(x.dtype))
        top, left = (rows - 1) // 2, (columns - 1) // 2
        spread = (left, columns - 1 - left, top, rows - 1 - top)
        return F.pad(weights, spread, mode="replicate")  # at the edge the last window that lies inside


class _Block(nn.Module):
    """The nonlinear activation free block, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1 = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.gate = Gate()
        self.sca = _ChannelAttention(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = ChannelNorm(channels)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(mixed * self.sca(mixed))
        out: Tensor = x + self.gamma * self.conv5(self.gate(self.conv4(self.norm2(x))))
        return out


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    """[height, width], or one number for both, checked."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"NAFNet: tlc_train_size is {size}; give the side of the training crops, or [height, width].")
    return sides[0], sides[1]


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


@register(ARCH_REGISTRY)
class NAFNet(ResidualUNet):
    """Nonlinear activation free network for image restoration.

    Input (N, img_channel, H, W) in [0, 1] of any size; output of the same size, float32 at least, not clamped. The
    network needs sides that are multiples of ``2 ** levels``, a level for each number of ``enc_blk_nums``: the image is
    padded by zeros at the right and the bottom and the output cropped, as in the public code. The channel attention
    takes the mean over the whole (padded) image, so that what a pixel becomes depends on all others; with
    ``tlc_train_size`` it depends on a neighbourhood.

    The defaults are ours (7,371,923 parameters), for "NAFNet-s", which the paper of this plugin's method names without
    defining it; NAFNet's repository has none of that name. They are the smaller network for SIDD with half its
    channels. Published weights:

    * SIDD: the defaults, but ``width: 32`` (29,159,715 parameters) or ``width: 64`` (115,982,915);
    * GoPro: ``width: 32, middle_blk_num: 1, enc_blk_nums: [1, 1, 1, 28], dec_blk_nums: [1, 1, 1, 1]`` (17,111,907) and,
      in tests, ``tlc_train_size: 256``;
    * GoPro and REDS, wider: the same with ``width: 64`` (67,888,835).

    Args:
        img_channel: Colours of input and output.
        width: Channels at full resolution; doubled at each level below.
        middle_blk_num: Blocks at the lowest resolution.
        enc_blk_nums: Blocks at each level of the encoder, full resolution first.
        dec_blk_nums: Blocks at each level of the decoder, full resolution last; as many numbers as ``enc_blk_nums``.
        tlc_train_size: Side of the crops the network was trained on, or [height, width]. In evaluation, means of images
            larger than 1.5 times that are taken over windows of 1.5 times that. Training and the names of the
            parameters stay as they are, so it can be set for a test alone. The means are exact, as in the slow variant
            of the public code (``fast_imp=False``). Published: 256 for the weights of GoPro and REDS. None: whole
            images.

    Attributes:
        multiple: Of which the sides of the padded image are multiples.
        tlc_train_size: As given; [height, width] or None.

    Raises:
        ValueError: An option is outside what is said above.
    """

    # The norms run along the channels: with those side by side a CPU copies nothing, and is a fifth faster.
    CHANNELS_LAST_ON_CPU = True

    def __init__(
        self,
        img_channel: Channels = 3,
        width: Channels = 16,
        middle_blk_num: Blocks = 12,
        enc_blk_nums: BlocksOfLevels = (2, 2, 4, 8),
        dec_blk_nums: BlocksOfLevels = (2, 2, 2, 2),
        tlc_train_size: Sides | None = None,
    ) -> None:
        super().__init__(_blocks, img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums)
        self.tlc_train_size = None if tlc_train_size is None else _sides(tlc_train_size)
        if self.tlc_train_size is not None:
            self._set_windows(self.tlc_train_size)

    def _set_windows(self, crop: tuple[int, int]) -> None:
        """Give each level the window that takes 1.5 times the crop, in its own pixels."""
        levels = len(self.encoders)
        stages = [*enumerate(self.encoders), (levels, self.middle_blks), *enumerate(reversed(self.decoders))]
        for level, blocks in stages:
            # The crop is padded before it is halved.
            sides = [(side + -side % self.multiple) // 2**level * (side * 3 // 2) // side for side in crop]
            for module in blocks.modules():
                if isinstance(module, _ChannelAttention):
                    module.window = (max(1, sides[0]), max(1, sides[1]))
