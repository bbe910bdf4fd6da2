"""CIDNet: colour and intensity decoupling network (Yan et al., CVPR 2025, arXiv 2502.20272), a target model.

The image is taken to the HVI colour space (`semiisp_plugin.archs.hvi`), whose density k is learned. Two U-shaped
networks, one for colour (all of HVI) and one for intensity (I), exchange what they know at each level by attention over
channels, with the queries of one and the keys and values of the other; their outputs are added to the HVI image, and
that is taken back to RGB:

    out = RGB(HVI(image) + [HV network, I network])

The names and shapes of the parameters are those of the public repository (github.com/Fediory/HVI-CIDNet, MIT), so that
its weights load; the code is new. Its files are the weights and nothing else, which BasicSR loads as they are
(``path: {pretrain_network_g: FILE.pth}``). As in that code, the attention of the second level reaches the skip
connections alone, and the intensity part of the fifth (``I_LCA5``) nothing at all: it is kept for the files, neither
computed nor trained. Pixels whose hue float32 rounds to a whole turn are black in that code, and red here.

Recipes have the published loss but for its terms in HVI, on edges and of VGG19.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, ChannelNorm, likeness, pad_to_multiple, widened
from semiisp_plugin.archs.hvi import hvi_to_rgb, rgb_to_hvi
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.options.ranges import Channels
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["CIDNet"]

_LEVELS = 3
_EXPANSION = 2.66
TestFactor = Annotated[float, Meta(ge=0, le=100)]


class _CrossAttention(nn.Module):
    """Attention over channels: queries of one stream, keys and values of the other, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.q = nn.Conv2d(channels, channels, 1, bias=False)
        self.q_dwconv = _depthwise(channels)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.kv_dwconv = _depthwise(2 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = self.q_dwconv(self.q(x)), *self.kv_dwconv(self.kv(y)).chunk(2, dim=1)
        query, key, value = (it.unflatten(1, (self.heads, -1)).flatten(3) for it in both)
        attention = likeness(query, key, self.temperature)
        out: Tensor = self.project_out((attention.to(value.dtype) @ value).view_as(x))
        return out


class _IntensityEnhancement(nn.Module):
    """Two gated halves, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * _EXPANSION)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = _depthwise(2 * hidden)
        self.dwconv1 = _depthwise(hidden)
        self.dwconv2 = _depthwise(hidden)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        out: Tensor = self.project_out(
            (torch.tanh(self.dwconv1(first)) + first) * (torch.tanh(self.dwconv2(second)) + second)
        )
        return out


class _LightCrossAttention(nn.Module):
    """Cross-attention and enhancement of a stream x by a stream y, (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: C.
        heads: Of the attention.
        add: Whether the enhancement is added to the stream (intensity), or takes its place (colour).
    """

    def __init__(self, channels: int, heads: int, add: bool) -> None:
        super().__init__()
        self.add = add
        self.gdfn = _IntensityEnhancement(channels)
        self.norm = ChannelNorm(channels)
        self.ffn = _CrossAttention(channels, heads)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.ffn(self.norm(x), self.norm(y))
        out: Tensor = self.gdfn(self.norm(x))
        return x + out if self.add else out


class _Halve(nn.Module):
    """(N, C, H, W) -> (N, C', H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.prelu = nn.PReLU()
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        out: Tensor = self.prelu(_resized(x, (x.shape[2] // 2, x.shape[3] // 2)))
        return out


class _Double(nn.Module):
    """(N, C, H, W) and a skip connection (N, C', 2 H, 2 W) -> (N, C', 2 H, 2 W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.prelu = nn.PReLU()
        self.up_scale = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        self.up = nn.Conv2d(2 * outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = _resized(self.up_scale(x), (skip.shape[2], skip.shape[3]))
        out: Tensor = self.prelu(self.up(torch.cat([x, skip], dim=1)))
        return out


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


def _edge(inputs: int, outputs: int) -> nn.Sequential:
    """The first or last convolution of a stream, whose border repeats the edge."""
    return nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(inputs, outputs, 3, bias=False))


@register(ARCH_REGISTRY)
class CIDNet(ImageNetwork):
    """Colour and intensity decoupling network for low-light enhancement.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, in [0, 1] (times
    ``output_scale``). The network needs sides that are multiples of 8: the image is padded by reflection at the right
    and the bottom and the output cropped, as the public programs do for images of any size; a side too short to be
    reflected is padded by repeating its last pixel (ours). The attention goes over all pixels, so that what a pixel
    becomes depends on all others. Under ``torch.autocast`` the way to HVI and back is float32.

    The defaults are those of all published weights (1,975,569 parameters, of which 70,960 are not used).

    Args:
        channels: Of the stem and of the three levels; those of a level are a multiple of its heads.
        heads: Of the attention at each of the three levels.
        saturation: Factor of the saturation (HSV) of the result, in evaluation alone. 1.0: off. The published numbers
            for LOLv1 were taken with 1.3.
        output_scale: Factor of the result, in evaluation alone. 1.0: off. The published numbers for LOLv2 real were
            taken with 0.84 (``w_perc``), 0.8 (``best_PSNR``) and 0.82 (``best_SSIM``).

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        channels: Annotated[Sequence[Channels], Meta(min_length=4, max_length=4)] = (36, 36, 72, 144),
        heads: Annotated[Sequence[Channels], Meta(min_length=3, max_length=3)] = (2, 4, 8),
        saturation: TestFactor = 1.0,
        output_scale: TestFactor = 1.0,
    ) -> None:
        super().__init__()
        if len(channels) != _LEVELS + 1 or min(channels) < 1:
            raise ValueError(f"CIDNet: channels is {list(channels)}; give four positive numbers: [36, 36, 72, 144].")
        if len(heads) != _LEVELS or min(heads) < 1 or any(c % h for c, h in zip(channels[1:], heads, strict=True)):
            raise ValueError(
                f"CIDNet: heads is {list(heads)}; give three positive numbers, such as [2, 4, 8], that divide the "
                f"channels of the three levels, {list(channels[1:])}."
            )
        if min(saturation, output_scale) < 0:
            raise ValueError(f"CIDNet: saturation {saturation} and output_scale {output_scale} must be 0 or more.")
        self.multiple = 2**_LEVELS
        self.saturation = saturation
        self.output_scale = output_scale
        of_attention = [1, 2, 3, 3, 2, 1]  # the levels, in the order of the data
        for stream, inputs, outputs in (("HV", N_COLOURS, N_COLOURS - 1), ("I", 1, 1)):
            self.add_module(f"{stream}E_block0", _edge(inputs, channels[0]))
            for level in range(1, _LEVELS + 1):
                self.add_module(f"{stream}E_block{level}", _Halve(channels[level - 1], channels[level]))
                self.add_module(f"{stream}D_block{level}", _Double(channels[level], channels[level - 1]))
            self.add_module(f"{stream}D_block0", _edge(channels[0], outputs))
            for i, level in enumerate(of_attention, 1):
                attention = _LightCrossAttention(channels[level], heads[level - 1], add=stream == "I")
                self.add_module(f"{stream}_LCA{i}", attention)
        self.trans = nn.ParameterDict({"density_k": nn.Parameter(torch.full((1,), 0.2))})
        # What is not used must not wait for a gradient: training on several devices would.
        self.get_submodule("I_LCA5").requires_grad_(False)

    def _both(self, name: str, hv: tuple[Tensor, ...], i: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The same layer of both streams, each with its own inputs."""
        return self.get_submodule(f"HV{name}")(*hv), self.get_submodule(f"I{name}")(*i)

    def _exchange(self, number: int, hv: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        return self._both(f"_LCA{number}", (hv, i), (i, hv))

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        k = self.trans["density_k"]
        wide = widened(image)
        hvi = rgb_to_hvi(pad_to_multiple(wide, self.multiple), k.to(wide.dtype))
        x = hvi.to(k.dtype)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            # Attention and norms take the channels of a pixel side by side: so laid out, a CPU copies less.
            x = x.contiguous(memory_format=torch.channels_last)
        hv_0, i_0 = self._both("E_block0", (x,), (x[:, 2:],))
        hv, i = self._exchange(1, *self._both("E_block1", (hv_0,), (i_0,)))
        hv_1, i_1 = hv, i
        hv, i = self._both("E_block2", (hv,), (i,))
        hv_2, i_2 = self._exchange(2, hv, i)  # for the skip connections alone
        hv, i = self._exchange(3, *self._both("E_block3", (hv,), (i,)))
        hv, i = self._exchange(4, hv, i)
        hv, i = self._both("D_block3", (hv, hv_2), (i, i_2))
        hv = self.get_submodule("HV_LCA5")(hv, i)
        hv, i = self._exchange(6, *self._both("D_block2", (hv, hv_1), (i, i_1)))
        hv, i = self._both("D_block1", (hv, hv_0), (i, i_0))
        change = torch.cat(self._both("D_block0", (hv,), (i,)), dim=1)
        hvi = (hvi + change.to(hvi.dtype))[..., :height, :width]
        if self.training:
            return hvi_to_rgb(hvi, k.to(hvi.dtype))
        return hvi_to_rgb(hvi, k.to(hvi.dtype), self.saturation) * self.output_scale
