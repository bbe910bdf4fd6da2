"""Re-parameterised convolutions: parallel branches in training that are one convolution afterwards.

Convolutions and batch norms in evaluation are linear in their input, and so is the sum of branches through a 1x1
convolution:

    out = W [branch_1(x), ..., branch_n(x)] + b = K * x + c,      K = sum_i W_i pad(K_i),   c = b + sum_i W_i c_i

Kernels smaller than the largest are padded by zeros; all branches pad the image alike, so that it is exact at borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of each kernel size, in the order in which SYENet concatenates them.
_BRANCHES: dict[int, dict[str, tuple[int, int]]] = {
    5: {"conv": (5, 5), "conv1": (1, 1), "conv2": (3, 3), "conv_crossh": (3, 1), "conv_crossv": (1, 3)},
    3: {"conv": (3, 3), "conv1": (1, 1), "conv_crossh": (3, 1), "conv_crossv": (1, 3)},
    1: {"conv": (1, 1)},
}


class ReparameterisedConv(nn.Module):
    """Branches with and without batch norm, concatenated, through a 1x1 convolution: (N, C, H, W) -> (N, C', H, W).

    In training the branches without a norm are computed as one convolution, which they are; in evaluation all of them.
    A batch norm needs more than one value of each channel: with 1x1 pixels a batch of 2 or more.

    Args:
        inputs: C.
        outputs: C'.
        kernel: Side of the largest kernel: 1, 3 or 5.
        width: Channels of each branch.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, width: int) -> None:
        super().__init__()
        self.kernel = kernel
        for name, size in _BRANCHES[kernel].items():
            self.add_module(name, _conv(inputs, width, size))
            self.add_module(f"{name}_bn", nn.Sequential(_conv(inputs, width, size), nn.BatchNorm2d(width)))
        self.conv_out = nn.Conv2d(2 * len(_BRANCHES[kernel]) * width, outputs, 1)

    def fused(self) -> tuple[Tensor, Tensor]:
        """The one convolution of evaluation.

        Returns:
            Weight (C', C, kernel, kernel) and bias (C',), float32 at least. Differentiable.
        """
        parts = [self._plain(name) for name in _BRANCHES[self.kernel]]
        parts += [self._normed(name) for name in _BRANCHES[self.kernel]]
        return self._sum(parts, self.conv_out.weight)

    def _plain(self, name: str) -> tuple[Tensor, Tensor]:
        return _wide(cast(nn.Conv2d, self.get_submodule(name)))

    def _normed(self, name: str) -> tuple[Tensor, Tensor]:
        weight, bias = _wide(cast(nn.Conv2d, self.get_submodule(f"{name}_bn.0")))
        norm = cast(nn.BatchNorm2d, self.get_submodule(f"{name}_bn.1"))
        mean, var = cast(Tensor, norm.running_mean).to(bias.dtype), cast(Tensor, norm.running_var).to(bias.dtype)
        scale = norm.weight.to(bias.dtype) * (var + norm.eps).rsqrt()
        return weight * scale[:, None, None, None], (bias - mean) * scale + norm.bias.to(bias.dtype)

    def _sum(self, parts: Sequence[tuple[Tensor, Tensor]], mixture: Tensor) -> tuple[Tensor, Tensor]:
        weights = []
        for weight, _ in parts:
            height, width = weight.shape[2:]
            below, right = (self.kernel - height) // 2, (self.kernel - width) // 2
            weights.append(F.pad(weight, (right, right, below, below)))
        stacked, biases = torch.cat(weights), torch.cat([bias for _, bias in parts])
        mixture = mixture.flatten(1).to(stacked.dtype)
        with torch.autocast(stacked.device.type, enabled=False):
            kernel = (mixture @ stacked.flatten(1)).unflatten(1, stacked.shape[1:])
            return kernel, F.linear(biases, mixture, cast(Tensor, self.conv_out.bias).to(stacked.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says; of the input's dtype, but for autocast."""
        names = _BRANCHES[self.kernel]
        mixture = self.conv_out.weight
        if not self.training:
            weight, bias = self.fused()
        else:
            half = mixture.shape[1] // 2
            weight, bias = self._sum([self._plain(name) for name in names], mixture[:, :half])
        out = F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=self.kernel // 2)
        if self.training:
            normed = torch.cat([self.get_submodule(f"{name}_bn")(x) for name in names], dim=1)
            out = out + F.conv2d(normed, mixture[:, half:])
        return out


def _conv(inputs: int, outputs: int, size: tuple[int, int]) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=(size[0] // 2, size[1] // 2))


def _wide(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(conv.weight.dtype, torch.float32)
    return conv.weight.to(wide), cast(Tensor, conv.bias).to(wide)
