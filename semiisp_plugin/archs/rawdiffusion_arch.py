"""RAWDiffusion: RAW images drawn by a diffusion model that an sRGB image guides (Reinders et al., WACV 2025).

Training adds noise to a RAW image x0 in [-1, 1] and asks a network for x0 (Ho et al., "Denoising Diffusion
Probabilistic Models", NeurIPS 2020):

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise,      a_t = product of (1 - b_s) for s up to t

with b from 1e-4 to 0.02 on a line. Drawing goes from noise to x0 in a few steps without further noise (DDIM: Song et
al., ICLR 2021). The network is a U-Net told t by the scale and shift of its norms; features of the sRGB image (EDSR)
make the scales and shifts of all norms on its way up, pixel by pixel (SPADE: Park et al., CVPR 2019). These do not
depend on t: they are made once for all steps, and are most of the work.

Written from a description of layers, sizes and names of parameters. A file of weights of the public code
(github.com/SonyResearch/RAW-Diffusion) has these names and shapes in the published form and loads as it is. Ours, where
that leaves it open: steps are spread evenly from the last time to the first, and all terms of the loss are on [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import (
    N_COLOURS,
    check_at_least,
    check_numbers,
    pack_mosaic,
    pad_to_multiple,
    unpack_mosaic,
    widened,
)
from semiisp_plugin.archs.srgb_to_raw import Generators, SRGBToRAWNetwork, drawn
from semiisp_plugin.options.ranges import Blocks, Channels, Positive
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["RAWDiffusion", "ddim", "signal_shares"]

_BETAS = (1e-4, 0.02)
_LONGEST_PERIOD = 10_000
_GROUPS = 8
_OFFSET = 1 / 255  # of the logarithms of the loss

Maps = tuple[Tensor, Tensor]
"""Scale and shift of a norm's output, each (N, C, h, w)."""


def signal_shares(timesteps: int) -> list[float]:
    """a_t of each time: the share of the variance that is signal."""
    betas = torch.linspace(*_BETAS, timesteps, dtype=torch.float64)
    shares: list[float] = (1 - betas).cumprod(0).tolist()
    return shares


def ddim(x: Tensor, denoised: Callable[[Tensor, int], Tensor], times: Sequence[int], shares: Sequence[float]) -> Tensor:
    """Go from noise to an image in the steps of DDIM, eta 0.

    Args:
        x: The start, at the first of the times.
        denoised: Makes x0 of x_t and t.
        times: Falling.
        shares: a_t, see `signal_shares`.

    Returns:
        What ``denoised`` makes at the last of the times.
    """
    clean = denoised(x, times[0])
    for now, then in pairwise(times):
        noise = (x - shares[now] ** 0.5 * clean) / (1 - shares[now]) ** 0.5
        x = shares[then] ** 0.5 * clean + (1 - shares[then]) ** 0.5 * noise
        clean = denoised(x, then)
    return clean


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")


def _zeroed(conv: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """The same, which starts as 0."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return conv


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


class _Spade(nn.GroupNorm):
    """A norm whose scale and shift are maps that are made of the guidance.

    Args:
        channels: Of what is normed.
        guidance: Channels of the guidance.
        factor: How many times smaller what is normed is.
    """

    def __init__(self, channels: int, guidance: int, factor: int) -> None:
        super().__init__(math.gcd(_GROUPS, channels), channels, affine=False)
        self.factor = factor
        self.mlp_shared = nn.Sequential(_conv(guidance, 2 * guidance), nn.ReLU())
        self.mlp_gamma = _conv(2 * guidance, channels)
        self.mlp_beta = _conv(2 * guidance, channels)

    def maps(self, guidance: Tensor) -> Maps:
        if self.factor > 1:
            sides = (guidance.shape[-2] // self.factor, guidance.shape[-1] // self.factor)
            guidance = F.interpolate(guidance, size=sides, mode="bilinear", align_corners=False)
        hidden = self.mlp_shared(guidance)
        return 1 + self.mlp_gamma(hidden), self.mlp_beta(hidden)


class _ResBlock(nn.Module):
    """Norm, convolution, norm told the time, convolution, added to the input: (N, inputs, H, W) -> (N, outputs, h, w).

    Args:
        inputs: Channels.
        outputs: Channels.
        embedding: Numbers of the time.
        resample: Between the first norm and the first convolution.
        guidance: Channels of the guidance, whose maps are those of the norms; 0: norms have weights of their own.
        factor: How many times smaller than the guidance the input is.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        resample: Literal["", "up", "down"] = "",
        guidance: int = 0,
        factor: int = 1,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.guided = guidance > 0
        # Where nothing is left of the public layers, such as a dropout of 0, numbers are skipped for the names.
        first: list[nn.Module] = [nn.SiLU(), _conv(inputs, outputs)]
        last: list[nn.Module] = [nn.SiLU(), nn.Identity(), _zeroed(_conv(outputs, outputs))]
        if guidance:
            self.in_norm = _Spade(inputs, guidance, factor)
            self.out_norm = _Spade(outputs, guidance, factor // 2 if resample == "up" else factor)
        else:
            first, last = [_norm(inputs), *first], [_norm(outputs), *last]
        self.in_layers, self.out_layers = nn.Sequential(*first), nn.Sequential(*last)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def maps(self, guidance: Tensor) -> tuple[Maps, Maps]:
        return self.in_norm.maps(guidance), self.out_norm.maps(guidance)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, time: Tensor, maps: tuple[Maps, Maps] | None) -> Tensor:
        if maps is None:
            h, out_norm = self.in_layers[0](x), self.out_layers[0]
        else:
            h, out_norm = self.in_norm(x) * maps[0][0] + maps[0][1], self.out_norm
        h = out_norm(self.in_layers[-1](self._resampled(F.silu(h))))
        if maps is not None:
            h = h * maps[1][0] + maps[1][1]
        scale, shift = self.emb_layers(time)[..., None, None].chunk(2, 1)
        out: Tensor = self.skip_connection(self._resampled(x)) + self.out_layers[-1](F.silu(h * (1 + scale) + shift))
        return out


class _Attention(nn.Module):
    """Multi-head attention among all pixels, added to the input, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        if channels % self.heads:
            raise ValueError(f"RAWDiffusion: {channels} channels make no heads of {head_channels}; see head_feat.")
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x).flatten(2)).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2)
        out = F.scaled_dot_product_attention(*heads.unbind(2)).transpose(-1, -2).flatten(1, 2)
        return x + cast(Tensor, self.proj_out(out)).view_as(x)


class _GuidanceBlock(nn.Module):
    """Two convolutions, added to their input, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convs = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.body = nn.Sequential(next(convs), nn.ReLU(), next(convs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class _Guidance(nn.Module):
    """Image (N, 3, H, W) -> features (N, C, H, W): EDSR (Lim et al., CVPRW 2017) without its end."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(N_COLOURS, channels, 3, padding=1))
        last = nn.Conv2d(channels, channels, 3, padding=1)
        self.body = nn.Sequential(*(_GuidanceBlock(channels) for _ in range(blocks)), last)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        out: Tensor = x + self.body(x)
        return out


@register(ARCH_REGISTRY)
class RAWDiffusion(SRGBToRAWNetwork):
    """A diffusion model of RAW images, guided by sRGB ones; :meth:`draw` gives others with each generator's state.

    Input (N, 3, H, W) sRGB in [0, 1] of any size; output of the same size, float32 at least, in [0, 1]. :meth:`forward`
    starts from zeros in place of noise (ours), and so is without chance. The image is padded by reflection to sides
    that are multiples of ``2 ** (levels - 1)``, with two pixels at the lowest level, and the output cropped. What a
    pixel becomes depends on all others.

    The published form makes a camera's mosaic: ``mosaic: true, steps: 24`` (``steps: 6`` for many images), 25,004,644
    parameters, of which the guidance has 334,144. The default, for images of three channels at full size, is ours:
    25,004,067. The scales and shifts of the norms are kept while an image is drawn: 4 kB a pixel.

    Args:
        mosaic: RAW is a Bayer mosaic (RGGB) packed to four channels of half the size, and the guidance is the image at
            that size. Sides are made even by reflection. That the mosaic is sampled from three channels, and filled up
            to three in the end, so that it trains and tests like any network, is ours.
        num_feat: Channels, times the level's multiplier.
        multipliers: One for each level, full size first.
        num_res_block: Residual blocks of each level on the way down; on the way up there is one more.
        attention: Factors of down-sampling, powers of 2, at which pixels attend to each other. They do in the middle
            as well. Factors that no level has do nothing.
        head_feat: Channels of a head of attention; there is one head where there are fewer.
        guidance_feat: Channels of the features of the image.
        guidance_block: Residual blocks that make these.
        steps: Of drawing.
        timesteps: Levels of noise in training, at most 1,000,000.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        mosaic: bool = False,
        num_feat: Annotated[int, Meta(ge=2, le=4096)] = 32,
        multipliers: Annotated[Sequence[Channels], Meta(min_length=1, max_length=12)] = (1, 1, 2, 2, 4, 4),
        num_res_block: Positive = 2,
        attention: Annotated[Sequence[Channels], Meta(max_length=12)] = (16, 32),
        head_feat: Channels = 64,
        guidance_feat: Channels = 64,
        guidance_block: Blocks = 4,
        steps: Positive = 6,
        timesteps: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000,
    ) -> None:
        super().__init__()
        name = "RAWDiffusion"
        check_at_least(name, 2, num_feat=num_feat)
        check_at_least(name, 1, num_res_block=num_res_block, head_feat=head_feat, guidance_feat=guidance_feat)
        check_at_least(name, 1, steps=steps)
        check_at_least(name, 0, guidance_block=guidance_block)
        check_numbers(name, (1, 2, 2), 1, multipliers=multipliers)
        if not steps <= timesteps <= 1_000_000:
            raise ValueError(f"{name}: timesteps is {timesteps}; use a number from steps, {steps}, to 1,000,000.")
        self.mosaic = mosaic
        self.multiple = 2 ** (len(multipliers) - 1 + mosaic)
        self.times = torch.linspace(timesteps - 1, 0, steps, dtype=torch.float64).round().long().tolist()
        self.shares = signal_shares(timesteps)
        self.raw_channels = N_COLOURS + mosaic
        embedding = 4 * num_feat
        self.periods = num_feat // 2
        factor = 1

        def block(inputs: int, outputs: int, resample: Literal["", "up", "down"] = "", guidance: int = 0) -> nn.Module:
            return _ResBlock(inputs, outputs, embedding, resample, guidance, factor)

        def level(inputs: int, outputs: int, guidance: int = 0) -> list[nn.Module]:
            attends = [_Attention(outputs, head_feat)] if factor in attention else []
            return [block(inputs, outputs, guidance=guidance), *attends]

        self.rgb_guidance_module = _Guidance(guidance_feat, guidance_block)
        self.time_embed = nn.Sequential(
            nn.Linear(2 * self.periods, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        widths = [num_feat * multiplier for multiplier in multipliers]
        width, last = widths[0], len(widths) - 1
        self.input_blocks = nn.ModuleList([nn.Sequential(_conv(self.raw_channels, width))])
        skipped = [width]
        for i, outputs in enumerate(widths):
            for _ in range(num_res_block):
                self.input_blocks.append(nn.Sequential(*level(width, outputs)))
                width = outputs
                skipped.append(width)
            if i < last:
                self.input_blocks.append(nn.Sequential(block(width, width, "down")))
                skipped.append(width)
                factor *= 2
        middle = [block(width, width, guidance=guidance_feat) for _ in range(2)]
        self.middle_block = nn.Sequential(middle[0], _Attention(width, head_feat), middle[1])
        self.output_blocks = nn.ModuleList()
        for i, outputs in reversed([*enumerate(widths)]):
            for j in range(num_res_block + 1):
                layers = level(width + skipped.pop(), outputs, guidance_feat)
                width = outputs
                if i and j == num_res_block:
                    layers.append(block(width, width, "up", guidance_feat))
                    factor //= 2
                self.output_blocks.append(nn.Sequential(*layers))
        self.out = nn.Sequential(_norm(width), nn.SiLU(), _zeroed(_conv(width, self.raw_channels)))

    def _dtype(self) -> torch.dtype:
        return self.get_parameter("time_embed.0.weight").dtype

    def maps(self, image: Tensor) -> list[tuple[Maps, Maps]]:
        """What the image says to each guided block, in the order of their use.

        Args:
            image: (N, 3, h, w) in [-1, 1], of a size that the U-Net takes.
        """
        guidance = self.rgb_guidance_module(image.to(self._dtype()))
        blocks = (layer for block in (self.middle_block, *self.output_blocks) for layer in block)
        return [layer.maps(guidance) for layer in blocks if isinstance(layer, _ResBlock)]

    def denoised(self, x: Tensor, time: Tensor, maps: Sequence[tuple[Maps, Maps]]) -> Tensor:
        """The network's x0, in [-1, 1].

        Args:
            x: (N, C, h, w), x_t; C is 3, or 4 of a mosaic.
            time: t, (N,) or (1,) for all, whole numbers.
            maps: See :meth:`maps`.
        """
        dtype = self._dtype()
        exponents = torch.arange(self.periods, device=x.device, dtype=x.dtype) / self.periods
        angles = time[:, None] * (-math.log(_LONGEST_PERIOD) * exponents).exp()
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1).to(dtype))
        of_blocks = iter(maps)

        def passed(layers: nn.Module, h: Tensor) -> Tensor:
            for layer in cast(nn.Sequential, layers):
                if isinstance(layer, _ResBlock):
                    h = layer(h, embedding, next(of_blocks) if layer.guided else None)
                else:
                    h = layer(h)
            return h

        h, skipped = x.to(dtype), []
        for block in self.input_blocks:
            h = passed(block, h)
            skipped.append(h)
        h = passed(self.middle_block, h)
        for block in self.output_blocks:
            h = passed(block, torch.cat([h, skipped.pop()], 1))
        return cast(Tensor, self.out(h)).to(x.dtype).tanh()

    def _raw_like(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) padded -> the sizes of RAW, on [-1, 1]."""
        return 2 * (F.avg_pool2d(image, 2) if self.mosaic else image) - 1

    def _padded(self, image: Tensor) -> Tensor:
        """Float32 at least, of a size that there are two pixels of at the lowest level, for the reflecting borders."""
        return pad_to_multiple(widened(image), self.multiple, 2 * self.multiple)

    def _drawn(self, image: Tensor, start: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = image.shape[-2:]
        small = self._raw_like(self._padded(image))
        maps = self.maps(small)
        x = start(small[:, :1].expand(-1, self.raw_channels, -1, -1))
        out = ddim(x, lambda x, t: self.denoised(x, x.new_full((1,), t), maps), self.times, self.shares)
        out = (out + 1) / 2
        return (unpack_mosaic(out) if self.mosaic else out)[..., :height, :width]

    def enhance(self, image: Tensor) -> Tensor:
        """RAW of sRGB, from a start of zeros; see `ImageNetwork.enhance`."""
        return self._drawn(image, torch.zeros_like)

    def draw(self, image: Tensor, generator: Generators) -> Tensor:
        """See `SRGBToRAWNetwork.draw`."""

        def noise(like: Tensor) -> Tensor:
            return drawn(lambda n, g: torch.randn(n, *like.shape[1:], generator=g), len(like), generator).to(like)

        return self._drawn(image, noise)

    def losses(self, image: Tensor, raw: Tensor, generator: torch.Generator) -> Tensor:
        """MSE, L1, and L1 of logarithms, of RAW without noise; see `SRGBToRAWNetwork.losses`."""
        (height, width), side = image.shape[-2:], 1 + self.mosaic
        image, raw = self._padded(image), self._padded(raw)
        clean = pack_mosaic(raw) if self.mosaic else raw
        time = torch.randint(len(self.shares), (len(raw),), generator=generator, device=raw.device)
        share = clean.new_tensor(self.shares)[time, None, None, None]
        noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        x = share.sqrt() * (2 * clean - 1) + (1 - share).sqrt() * noise
        found = (self.denoised(x, time, self.maps(self._raw_like(image))) + 1) / 2
        # Not of what was padded.
        found, clean = (each[..., : -(-height // side), : -(-width // side)] for each in (found, clean))
        difference = found - clean
        of_logarithms = (found + _OFFSET).log() - (clean + _OFFSET).log()
        return (difference.square() + difference.abs() + of_logarithms.abs()).mean((1, 2, 3))
