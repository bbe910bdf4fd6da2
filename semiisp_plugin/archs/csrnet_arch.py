"""CSRNet: conditional sequential retouching (He et al., ECCV 2020, arXiv 2009.10390), a target model.

A few convolutions over the image and the mean of what they find make a condition f, a vector; three 1x1 convolutions
map each pixel by itself, and the condition scales and shifts the channels behind each of them:

    f   = mean(conv, ReLU, three times)
    y_i = (1 + S_i f + s_i) * (W_i x_i + b_i) + T_i f + t_i,    x_{i+1} = ReLU(y_i)
    out = y_3

So an image has one function of colour. Scale and shift are folded into the weights of the 1x1 convolutions, which makes
another network of three matrices for each image: the result is the same, and pixels pay for nothing else. This takes a
third of the time of scaling and shifting the channels themselves (480x720, one core: 0.19 s, 0.59 s).
``basicsr export --for IMAGE`` writes an image's function as a table, exact at its points.

Written from a description of layers, sizes and names of parameters, not from the public code
(github.com/hejingwenhejingwen/CSRNet), which has no licence. A file of weights that a user obtained from there
has these names and shapes and loads as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, as_thumbnail, check_at_least, widened
from semiisp_plugin.archs.image_network import PreparedNetwork
from semiisp_plugin.options.ranges import Channels, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["CSRNet"]

_LAYERS = (1, 2, 3)
_LEAST = 5  # pixels a side: with a border of 1, what the first convolution needs


class Layer(NamedTuple):
    """A 1x1 convolution for each of N images.

    Attributes:
        weight: (N, outputs, inputs).
        bias: (N, outputs, 1).
    """

    weight: Tensor
    bias: Tensor


class _Condition(nn.Module):
    """Image (N, 3, H, W) -> condition (N, C), float32 at least."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A border of 1 for all three, the first of which is wider: as published.
        self.conv1 = nn.Conv2d(N_COLOURS, channels, 7, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        # An exported graph is for all sizes: it must not take the way of the one it was made with.
        if torch.compiler.is_compiling() or min(height, width) < _LEAST:
            right: Any  # numbers, or symbols of them while a graph is made
            below: Any
            right, below = torch.sym_max(0, _LEAST - width), torch.sym_max(0, _LEAST - height)
            image = F.pad(image, (0, right, 0, below))
        x = image.to(self.conv1.weight.dtype)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu(conv(x), inplace=True)
        return widened(x).mean((2, 3))


@register(ARCH_REGISTRY)
class CSRNet(PreparedNetwork[list[Layer]]):
    """Conditional sequential retouching network: three 1x1 convolutions that a condition of the image modulates.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped; the image is
    not added. Sides below 5 pixels are padded by zeros for the condition alone (ours). Under ``torch.autocast`` the
    convolutions of the condition run in the lower precision, what is done to the pixels in float32.

    The defaults are the published network (36,489 parameters).

    Args:
        num_feat: Channels of the pixels' network.
        condition_feat: Channels of the condition and of its convolutions.
        thumbnail: Ours: side in pixels to which the image is resized (bilinear, both ways, aspect not kept) for the
            condition alone, so that an image has the same condition at all sizes, and large ones cost less. None: the
            image as it is, as published; the public network was trained on images of 480 pixels. Of a larger image the
            condition then sees finer structure than in training, and takes longer.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(self, num_feat: Channels = 64, condition_feat: Channels = 32, thumbnail: Thumbnail | None = None):
        super().__init__()
        check_at_least("CSRNet", 1, num_feat=num_feat, condition_feat=condition_feat)
        if thumbnail is not None:
            check_at_least("CSRNet", _LEAST, thumbnail=thumbnail)
        self.thumbnail = thumbnail
        self.cond_net = _Condition(condition_feat)
        widths = (N_COLOURS, num_feat, num_feat, N_COLOURS)
        for i in _LAYERS:
            self.add_module(f"cond_scale{i}", nn.Linear(condition_feat, widths[i]))
            self.add_module(f"cond_shift{i}", nn.Linear(condition_feat, widths[i]))
            self.add_module(f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 1))

    def decide(self, image: Tensor) -> list[Layer]:
        """The network of each image's pixels, float32 at least."""
        if self.thumbnail is not None:
            wide = torch.promote_types(image.dtype, torch.float32)
            image = as_thumbnail(image.to(wide), self.thumbnail)
        condition = self.cond_net(image)
        layers = []
        with torch.autocast(device_type=image.device.type, enabled=False):
            for i in _LAYERS:
                scale, shift, conv = (
                    (layer.weight.to(condition.dtype), cast(Tensor, layer.bias).to(condition.dtype))
                    for layer in (
                        cast("nn.Linear | nn.Conv2d", self.get_submodule(f"{name}{i}"))
                        for name in ("cond_scale", "cond_shift", "conv")
                    )
                )
                factor = 1 + F.linear(condition, *scale)
                bias = factor * conv[1] + F.linear(condition, *shift)
                layers.append(Layer(factor[:, :, None] * conv[0].flatten(1), bias[:, :, None]))
        return layers

    def treat(self, tile: Tensor, context: list[Layer], box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PreparedNetwork.treat`."""
        x = tile.flatten(2)
        with torch.autocast(device_type=tile.device.type, enabled=False):
            for i, (weight, bias) in enumerate(context):
                x = torch.baddbmm(bias.to(x.dtype), weight.to(x.dtype), F.relu(x, inplace=True) if i else x)
        return x.unflatten(2, tile.shape[-2:])
