"""MicroISP (Ignatov et al., ECCV Workshops 2022), a target model.

"MicroISP: Processing 32MP Photos on Mobile Devices with Deep Learning". Three branches, one for each colour, know
nothing of one another: twice seven 3x3 convolutions of four channels with a PReLU each, and an eighth with tanh:

    a_1, a_2, ...  = PReLU(conv(...)),     after the third and the sixth:    a_3 attention(a_3) + a_1,  a_6 ... + a_4
    colour         = 0.58 tanh(...) + 0.5

The attention shrinks its input by 81 and makes a weight of each channel of the mean. The branches are groups of
channels here, so that each layer is one for all three.

Written from a description of layers and sizes, not from the public code (github.com/aiff22/MicroISP), whose licence (CC
BY-NC-SA 4.0) forbids commercial use. Its weights are TensorFlow's and do not load. Its recipe is not known; that of
``basicsr recipe`` is ours.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, pack_mosaic, pad_to_multiple, widened
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.options.ranges import Channels
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["MicroISP"]

_LEAST = 81  # pixels a side: what the attention shrinks to one
_MOSAIC = (3, 1, 0, 2)  # of the pixels of each 2x2: blue, green beside red, red, green below red


def _conv(inputs: int, outputs: int, kernel: int = 3, *, of_all: bool = False) -> nn.Conv2d:
    groups = 1 if of_all else N_COLOURS
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


class _Attention(nn.Module):
    """Weights of channels, (N, 3 C, H, W) -> (N, 3 C, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        shrink = [
            layer
            for kernel in (1, 3, 3, 3)
            for layer in (nn.Conv2d(channels, channels, kernel, stride=3, groups=N_COLOURS), nn.PReLU(channels))
        ]
        self.shrink = nn.Sequential(*shrink)
        self.weigh = nn.Sequential(
            *(_conv(channels, channels, 1), nn.PReLU(channels), _conv(channels, channels, 1), nn.Sigmoid())
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.weigh(self.shrink(pad_to_multiple(x, 1, _LEAST)).mean((2, 3), keepdim=True))
        return out


class _Stage(nn.Module):
    """(N, inputs, H, W) -> (N, outputs, H, W), in [-1, 1], float32 at least.

    Args:
        inputs: Channels; of the image for all branches, or a third for each.
        channels: Of the three branches together.
        outputs: The same.
        of_all: Whether all branches see all inputs.
    """

    def __init__(self, inputs: int, channels: int, outputs: int, of_all: bool) -> None:
        super().__init__()
        widths = [inputs, *([channels] * 7)]
        self.convs = nn.ModuleList(
            nn.Sequential(_conv(widths[i], channels, of_all=of_all and i == 0), nn.PReLU(channels)) for i in range(7)
        )
        self.attentions = nn.ModuleList(_Attention(channels) for _ in range(2))
        self.last = _conv(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for convs, attention in ((self.convs[:3], self.attentions[0]), (self.convs[3:6], self.attentions[1])):
            first = x = convs[0](x)
            for conv in convs[1:]:
                x = conv(x)
            x = torch.addcmul(first, x, attention(x))
        x = self.last(self.convs[6](x))
        return widened(x).tanh()


@register(ARCH_REGISTRY)
class MicroISP(ImageNetwork):
    """Three small branches, of which each makes one colour.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, in [-0.08, 1.08]. A local
    network but for the means in its attention, which needs 81 pixels a side; of smaller images its input is padded by
    reflection (ours). Weights start from N(0, 0.001), as published, biases from 0: the output is grey.

    The published network reads a camera's mosaic and doubles its size: ``mosaic: true``, 13,560 parameters. The
    default, for images of three channels, is ours: 13,119.

    Args:
        mosaic: The network gets the image as a Bayer mosaic (RGGB, red first), packed to four channels of half the
            size, and each branch makes 2x2 pixels of its colour. Sides are made even by reflection. That the mosaic is
            sampled from an RGB image, so that it trains and tests like any network, is ours.
        num_feat: Channels of each branch.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(self, mosaic: bool = False, num_feat: Channels = 4) -> None:
        super().__init__()
        check_at_least("MicroISP", 1, num_feat=num_feat)
        self.mosaic = mosaic
        channels = N_COLOURS * num_feat
        self.stage1 = _Stage(N_COLOURS + mosaic, channels, channels, of_all=True)
        self.stage2 = _Stage(channels, channels, 4 * N_COLOURS if mosaic else N_COLOURS, of_all=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=1e-3)
                nn.init.zeros_(cast(Tensor, module.bias))

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        dtype = self.stage2.last.weight.dtype
        x = image.to(dtype)
        if self.mosaic:
            x = pack_mosaic(pad_to_multiple(x, 2))[:, _MOSAIC]
        out = self.stage2(self.stage1(x).to(dtype))
        if self.mosaic:
            out = nn.functional.pixel_shuffle(out, 2)[..., :height, :width]
        return cast(Tensor, (0.58 * out + 0.5).to(torch.promote_types(image.dtype, out.dtype)))
