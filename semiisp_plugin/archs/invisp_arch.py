"""InvISP: RAW and sRGB as two sides of one invertible network (Xing et al., "Invertible ISP", CVPR 2021).

Blocks on the three channels at full size, of which each is invertible: a 1x1 convolution, and a coupling,

    y1 = x1 + F(x2),      y2 = x2 * exp(s) + G(y1),      s = 0.8 (2 sigmoid(H(y1)) - 1)

with x1 the first channel and x2 the others. One way makes sRGB of RAW, the other undoes it, JPEG's losses included as
far as training can teach it: the second term of the loss goes back from the image that would be stored.

Written from a description of layers, sizes and names of parameters. A file of weights of the public code
(github.com/yzxing87/Invertible-ISP) has these names and shapes and loads as it is.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, DenseConvs, check_at_least, widened
from semiisp_plugin.archs.flow import LUConv
from semiisp_plugin.archs.srgb_to_raw import SRGBToRAWNetwork
from semiisp_plugin.options.ranges import Channels, Positive
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["InvISP"]

_GAMMA = 2.2
_KNEE = 1e-5  # of RAW: less than a step of 16 bits
_LARGEST_SCALE = 0.8  # its logarithm
_WHITE = 255


def _power(x: Tensor, exponent: float, knee: float) -> Tensor:
    """``x ** exponent``, odd, and straight below ``knee``: invertible everywhere, with gradients that are finite."""
    return x * x.abs().clamp(min=knee) ** (exponent - 1)


def _rounded(image: Tensor) -> Tensor:
    """As 8 bits store it; the gradient is that of no rounding."""
    return image + ((image * _WHITE).round() / _WHITE - image).detach()


class _Block(nn.Module):
    """See the module's docstring, (N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self, growth: int) -> None:
        super().__init__()
        self.F = DenseConvs(N_COLOURS - 1, 1, growth)
        self.G = DenseConvs(1, N_COLOURS - 1, growth)
        self.H = DenseConvs(1, N_COLOURS - 1, growth)
        self.invconv = LUConv(N_COLOURS)

    def _log_scale_and_shift(self, first: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = _LARGEST_SCALE * (2 * _of(self.H, first).sigmoid() - 1)
        return log_scale, _of(self.G, first)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.invconv(x).split((1, N_COLOURS - 1), 1)
        first = first + _of(self.F, second)
        log_scale, shift = self._log_scale_and_shift(first)
        return torch.cat([first, second * log_scale.exp() + shift], 1)

    def inverse(self, y: Tensor) -> Tensor:
        first, second = y.split((1, N_COLOURS - 1), 1)
        log_scale, shift = self._log_scale_and_shift(first)
        second = (second - shift) * (-log_scale).exp()
        return self.invconv.inverse(torch.cat([first - _of(self.F, second), second], 1))


def _of(network: DenseConvs, x: Tensor) -> Tensor:
    """What it makes of ``x``, of the dtype of ``x``."""
    weight: Tensor = network.get_parameter("conv1.weight")
    out: Tensor = network(x.to(weight.dtype))
    return out.to(x.dtype)


@register(ARCH_REGISTRY)
class InvISP(SRGBToRAWNetwork):
    """An invertible network between RAW and sRGB; :meth:`forward` makes RAW of sRGB.

    Input (N, 3, H, W) in [0, 1] of any size; output of the same size, float32 at least, not clamped. What a pixel
    becomes depends on those within 10 pixels a block. The network works on RAW^(1/2.2). Ours: the power is odd, and
    straight where RAW is below 1e-5, less than a step of 16 bits, so that it can be inverted for any image, and so that
    the gradient at 0 is finite.

    The defaults are the published network: 1,413,760 parameters.

    Args:
        num_blocks: Invertible blocks.
        growth: Channels that each convolution of a dense block adds.
        jpeg: Round to 8 bits, in training, what the way back starts from; the gradient is that of no rounding. It
            stands, ours, for the JPEG compression of the published training.
        from_target: Ours: the way back starts, in training, from the sRGB target, not from what the network makes of
            RAW, and ``jpeg`` does nothing. A source of pseudo inputs needs it: it undoes images that others made, of
            which the published loss, whose second term an exact inverse fulfils by itself, teaches nothing.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self, num_blocks: Positive = 8, growth: Channels = 32, jpeg: bool = True, from_target: bool = False
    ) -> None:
        super().__init__()
        check_at_least("InvISP", 1, num_blocks=num_blocks, growth=growth)
        self.jpeg, self.from_target = jpeg, from_target
        self.operations = nn.ModuleList(_Block(growth) for _ in range(num_blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one

    def develop(self, raw: Tensor) -> Tensor:
        """The way to sRGB.

        Args:
            raw: (N, 3, H, W) in [0, 1].

        Returns:
            (N, 3, H, W) sRGB, not clamped.
        """
        x = _power(widened(raw), 1 / _GAMMA, _KNEE)
        for block in self.operations:
            x = block(x)
        return x

    def _undone(self, image: Tensor) -> Tensor:
        """RAW^(1/2.2) of sRGB."""
        x = widened(image)
        for block in reversed(self.operations):
            x = cast(_Block, block).inverse(x)
        return x

    def enhance(self, image: Tensor) -> Tensor:
        """RAW of sRGB, the exact inverse of :meth:`develop`; see `ImageNetwork.enhance`."""
        return _power(self._undone(image), _GAMMA, _KNEE ** (1 / _GAMMA))

    def losses(self, image: Tensor, raw: Tensor, generator: torch.Generator) -> Tensor:
        """L1 of sRGB, and L1 of RAW^(1/2.2) after the way back from what is stored; nothing is drawn.

        See `SRGBToRAWNetwork.losses`.
        """
        developed = self.develop(raw)
        stored = image if self.from_target else developed.clamp(0, 1)
        undone = self._undone(_rounded(stored) if self.jpeg and not self.from_target else stored)
        errors = (developed - image).abs() + (undone - _power(raw.to(undone.dtype), 1 / _GAMMA, _KNEE)).abs()
        return errors.mean((1, 2, 3))
