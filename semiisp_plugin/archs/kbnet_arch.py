"""KBNet: kernel basis network for image restoration (Zhang et al., arXiv 2303.02881), the small variant KBNet_s.

The method's paper cleans the noisy inputs of LOL with it before the first phase (Sec. A.3): a denoiser, not a target
model, though it trains and tests like any network. It is a U-shaped convolutional network like NAFNet, whose block
mixes three views of its input: the channel attention s, a fixed convolution, and the kernel basis attention, which
filters each pixel by a kernel of its own. The kernels are mixtures of a bank of K = 32 learned ones, by coefficients a
that are read from the image:

    x      = norm(input)
    a      = gamma_a * 1x1(gate(grouped 3x3(x))) + 1x1(x)                K coefficients a pixel
    u      = depth-wise 3x3(1x1(x))
    v(p)   = sum_k a_k(p) (W_k * u + b_k)(p)                             W_k: 3x3, in groups of 4 channels
    y      = input + beta * 1x1((gamma_1 v + u) * conv(x) * s(mean(x)))
    output = y + gamma * 1x1(gate(1x1(norm(y))))

The names and shapes of the parameters are those of the public repository (github.com/zhangyi-3/KBNet, MIT), so that its
weights load; the code is new. Its files are ``{"model": ...}``, where training and testing find the weights; denoising
needs ``param_key: model``, and BasicSR's own models ``param_key_g: model``. The weights for real noise,
``sensenoise_s.pth``, belong to ``lightweight: true, ffn_scale: 1.5``; others of `KBNet_s` to the ``network_g`` of the
YAML file that goes with them.

What the kernels of the bank make of u, 32 times as many values, is computed a few rows at a time, and again in the
backward pass: nothing of it is kept.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from semiisp_plugin.archs.blocks import ChannelNorm, Gate
from semiisp_plugin.archs.residual_u_net import ResidualUNet
from semiisp_plugin.options.ranges import Blocks, BlocksOfLevels, Channels, Scale
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["KBNet_s"]

_N_BASES = 32
_GROUP = 4  # channels that a kernel mixes
_SIDE = 3  # of a kernel, pixels
_TAPS = _GROUP * _SIDE**2
# Filtered values that are held at a time. On a CPU they should stay in its cache; a GPU wants much work at once.
_CPU_VALUES, _GPU_VALUES = 2**20, 2**26


# --- kernel basis attention -----------------------------------------------------------------------------------------
# features (N, C, H, W), coefficients (N, K, H, W), kernels (K, C * 4 * 9), biases (K, C)


def _mix(padded: Tensor, coefficients: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """All kernels in one convolution, and their mixture; the features have one more pixel at each side."""
    batch, channels = padded.shape[:2]
    height, width = coefficients.shape[2:]
    groups = channels // _GROUP
    bank = kernels.view(_N_BASES, groups, _GROUP, _GROUP, _SIDE, _SIDE).transpose(0, 1).flatten(0, 2)
    every = F.conv2d(padded, bank, groups=groups).view(batch, groups, _N_BASES, _GROUP, height, width)
    filtered = (every * coefficients.reshape(batch, 1, _N_BASES, 1, height, width)).sum(2)
    shift = F.conv2d(coefficients, biases.t()[..., None, None])
    return filtered.view(batch, channels, height, width) + shift


def _filter(features: Tensor, coefficients: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """Strip by strip, as `_mix` makes 32 times as many values; for a backward pass they are made again, not kept."""
    batch, channels, height, width = features.shape
    padded = F.pad(features, (1, 1, 1, 1))
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _mix(padded, coefficients, kernels, biases)
    values = _CPU_VALUES if features.device.type == "cpu" else _GPU_VALUES
    rows = max(1, values // (batch * channels * _N_BASES * width))
    strips = []
    for top in range(0, height, rows):
        parts = padded[:, :, top : top + rows + 2], coefficients[:, :, top : top + rows]
        if torch.is_grad_enabled():
            strips.append(checkpoint(_mix, *parts, kernels, biases, use_reentrant=False, preserve_rng_state=False))
        else:
            strips.append(_mix(*parts, kernels, biases))
    return torch.cat(strips, dim=2)


class _Block(nn.Module):
    """The multi-axis feature fusion block, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, ffn_scale: float, lightweight: bool) -> None:
        super().__init__()
        wide = int(ffn_scale * channels)
        few = min(channels, 32)
        self.w = nn.Parameter(torch.empty(1, _N_BASES, channels * _TAPS))
        self.b = nn.Parameter(torch.empty(1, _N_BASES, channels))
        nn.init.kaiming_uniform_(self.w, a=math.sqrt(5))
        bound = 1 / math.sqrt(_N_BASES * channels * _TAPS)
        nn.init.uniform_(self.b, -bound, bound)
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        if lightweight:
            fixed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        else:
            fixed = nn.Conv2d(channels, channels, 5, padding=2, groups=channels // _GROUP)
        self.conv11 = nn.Sequential(nn.Conv2d(channels, channels, 1), fixed)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv21 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv2 = nn.Sequential(
            nn.Conv2d(channels, few, 3, padding=1, groups=few), Gate(), nn.Conv2d(few // 2, _N_BASES, 1)
        )
        self.conv211 = nn.Conv2d(channels, _N_BASES, 1)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(wide // 2, channels, 1)
        self.ga1 = nn.Parameter(torch.full((1, channels, 1, 1), 1e-2))
        self.attgamma = nn.Parameter(torch.full((1, _N_BASES, 1, 1), 1e-2))
        self.sg = Gate()
        self.beta = nn.Parameter(torch.full((1, channels, 1, 1), 1e-2))
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), 1e-2))

    def _filter_adaptively(self, features: Tensor, coefficients: Tensor) -> Tensor:
        dtype = features.dtype
        return _filter(features, coefficients.to(dtype), self.w[0].to(dtype), self.b[0].to(dtype))

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm1(image)
        coefficients = self.conv2(x) * self.attgamma + self.conv211(x)
        features = self.conv21(self.conv1(x))
        mixed = self._filter_adaptively(features, coefficients) * self.ga1 + features
        y = image + self.conv3(mixed * self.conv11(x) * self.sca(x)) * self.beta
        out: Tensor = y + self.conv5(self.sg(self.conv4(self.norm2(y)))) * self.gamma
        return out


@register(ARCH_REGISTRY)
class KBNet_s(ResidualUNet):  # noqa: N801 - the public name, by which option files call it
    """Kernel basis network, small variant, for image restoration.

    Input (N, img_channel, H, W) in [0, 1] of any size; output of the same size, float32 at least, not clamped. The
    network needs sides that are multiples of ``2 ** levels``, a level for each number of ``enc_blk_nums``: the image is
    padded by zeros at the right and the bottom and the output cropped, as in the public code. The channel attention
    takes the mean over the whole (padded) image; the public test for SenseNoise runs the network on tiles of 1,024
    pixels with 64 more around.

    The published weights for SenseNoise belong to ``lightweight=True, ffn_scale=1.5`` and the other defaults
    (128,403,395 parameters; with all defaults 141,966,659). Training without ``torch.compile`` needs the less memory:
    compiled, and in ONNX, all 32 filtered versions of a feature are made at once.

    Args:
        img_channel: Colours of input and output.
        width: Channels at full resolution, a multiple of 4; doubled at each level below.
        middle_blk_num: Blocks at the lowest resolution.
        enc_blk_nums: Blocks at each level of the encoder, full resolution first.
        dec_blk_nums: Blocks at each level of the decoder, full resolution last; as many numbers as ``enc_blk_nums``.
        lightweight: The fixed convolution is depth-wise 3x3; otherwise 5x5 in groups of 4 channels.
        ffn_scale: Channels within the feed-forward part, relative to those of the block.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        img_channel: Channels = 3,
        width: Channels = 64,
        middle_blk_num: Blocks = 12,
        enc_blk_nums: BlocksOfLevels = (2, 2, 4, 8),
        dec_blk_nums: BlocksOfLevels = (2, 2, 2, 2),
        lightweight: bool = False,
        ffn_scale: Scale = 2,
    ) -> None:
        if width < _GROUP or width % _GROUP:
            raise ValueError(
                f"KBNet_s: width is {width}; use a multiple of {_GROUP}: its kernels mix {_GROUP} channels."
            )
        if width > 32 and width % 32:
            raise ValueError(f"KBNet_s: width is {width}; above 32 use a multiple of 32, the groups of its attention.")
        widths = [width * 2**level for level in range(len(enc_blk_nums) + 1)]
        odd = [c for c in widths if int(ffn_scale * c) < 2 or int(ffn_scale * c) % 2]
        if odd:
            raise ValueError(
                f"KBNet_s: ffn_scale {ffn_scale} of {odd[0]} channels makes {int(ffn_scale * odd[0])}; choose it so "
                "that the number is even and 2 or more: its gate multiplies one half by the other."
            )

        def blocks(channels: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(_Block(channels, ffn_scale, lightweight) for _ in range(count)))

        super().__init__(blocks, img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums)
