"""SYENet: simple yet effective network (Gou et al., ICCV 2023), a target model.

"SYENet: A Simple Yet Effective Network for Multiple Low-Level Vision Tasks with Real-time Performance on Mobile
Device". Two quadratic units, whose factors are convolutions of one input, and a channel attention:

    unit(x) = A(x) * B(x) / 10 + b
    y       = unit_2(unit_1(image))                  A_1: 5x5, PReLU, 3x3   B_1: 5x5   A_2: 3x3   B_2: 1x1
    out     = 3x3(y * sigmoid(1x1(PReLU(1x1(mean(y))))))

In training each convolution is a sum of up to ten parallel ones, see `semiisp_plugin.archs.reparameterised_conv`; in
evaluation and export it is one, so that 5,283 numbers do all. Options and files of weights stay the same.

The names and shapes of the parameters are those of the public repository (github.com/sanechips-multimedia/syenet,
Apache-2.0), of its networks as they are trained and fused (``fused: true``); the code is new. It holds no weights.
``tail_warm``, of its warm-up, is kept for the files, neither computed nor trained. Recipes have the published loss, and
not the warm-up of 10 epochs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, pack_mosaic, pad_to_multiple
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.archs.reparameterised_conv import ReparameterisedConv
from semiisp_plugin.options.ranges import Channels
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["SYENet"]

_CHANNELS = 12  # three colours of 2x2 pixels
_SCALE = 0.1


class _QuadraticUnit(nn.Module):
    """(N, C, H, W) -> (N, 12, H, W)."""

    def __init__(self, block1: nn.Module, block2: nn.Module, scale: float) -> None:
        super().__init__()
        self.block1 = block1
        self.block2 = block2
        self.scale = scale
        self.bias = nn.Parameter(torch.randn(1, _CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.block1(x)
        return torch.addcmul(self.bias.to(first.dtype), first, self.block2(x), value=self.scale)


@register(ARCH_REGISTRY)
class SYENet(ImageNetwork):
    """Quadratic units of re-parameterised convolutions.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped; the image is
    not added. The channel attention takes a mean over the image. **Training needs batches of 2 or more**: behind that
    mean there is one value of a channel for each image, and batch norm needs several.

    The defaults are the published network for low-light enhancement: 102,474 parameters in training, of which 5,091
    (``tail_warm``) are not used, 5,283 fused. ``mosaic`` is the published ISP: 108,715, 6,916 and 5,640.

    Args:
        mosaic: The ISP: the network gets the image as a Bayer mosaic (RGGB, red first), packed to four channels of half
            the size, and doubles the size at its end. Sides are made even by reflection. The published one reads
            mosaics; that ours samples them from an RGB image, so that it trains and tests like any network, is ours.
        rep_scale: Channels of the branches of a convolution, as a multiple of its own.
        fused: Build the fused network, of one convolution each; see :meth:`fuse`. It can be trained, too.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(self, mosaic: bool = False, rep_scale: Channels = 4, fused: bool = False) -> None:
        super().__init__()
        check_at_least("SYENet", 1, rep_scale=rep_scale)
        self.mosaic = mosaic
        self.is_fused = fused

        def conv(inputs: int, outputs: int, kernel: int) -> nn.Module:
            if fused:
                return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            return ReparameterisedConv(inputs, outputs, kernel, outputs * rep_scale)

        scale = 1.0 if fused else _SCALE
        inputs, c = N_COLOURS + mosaic, _CHANNELS
        self.head = _QuadraticUnit(
            nn.Sequential(conv(inputs, c, 5), nn.PReLU(c), conv(c, c, 3)), conv(inputs, c, 5), scale
        )
        self.body = _QuadraticUnit(conv(c, c, 3), conv(c, c, 1), scale)
        self.att = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, c, 1), nn.PReLU(c), conv(c, c, 1), nn.Sigmoid())
        if mosaic:
            self.tail: nn.Module = nn.Sequential(nn.PixelShuffle(2), conv(N_COLOURS, N_COLOURS, 3))
        else:
            self.tail = conv(c, N_COLOURS, 3)
        if not fused:
            # What is not used must not wait for a gradient: training on several devices would.
            self.tail_warm = conv(c, inputs, 3).requires_grad_(False)

    @torch.no_grad()
    def fuse(self) -> SYENet:
        """The fused network with the same output as this one in evaluation, to rounding; a copy of a fused one."""
        net = SYENet(self.mosaic, fused=True).to(self.head.bias)
        state, own = net.state_dict(), self.state_dict()
        for name in state:
            module = self.get_submodule(name.rpartition(".")[0])
            if isinstance(module, ReparameterisedConv):
                value = module.fused()[name.endswith(".bias")]
                own[name] = value * _SCALE if ".block2." in name else value
        net.load_state_dict({name: own[name] for name in state})
        return net.train(self.training)

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        if self.training and not self.is_fused and image.shape[0] < 2:
            raise ValueError(
                "SYENet: a batch of one image cannot be trained on: the batch norms behind the mean over the image "
                "need two or more. Set batch_size_per_gpu to 2 or more."
            )
        height, width = image.shape[-2:]
        x = image.to(self.head.bias.dtype)
        if self.mosaic:
            x = pack_mosaic(pad_to_multiple(x, 2))
        x = self.body(self.head(x))
        out = cast(Tensor, self.tail(x * self.att(x)))[..., :height, :width]
        return out.to(torch.promote_types(image.dtype, torch.float32))
