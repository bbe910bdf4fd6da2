"""LLF-LUT: lookup tables and a learned local Laplacian filter (Zhang et al., NeurIPS 2023 and TPAMI 2025).

arXiv 2310.17190 and its successor, 2510.11613; the paper of this plugin's method compares with the former.

A window transformer looks at the coarsest level of the image's Gaussian pyramid. It says how three 3D tables are mixed
at each of that level's pixels, and how for the image as a whole. What the whole image's table makes of it gives
details, a Laplacian pyramid; small networks say how each level is remapped, and the details are added to the coarsest
level, which has its tables pixel by pixel:

    low   = sum_k map_k T_k(coarsest level)                 3 maps a table, one for each colour
    full  = sum_k g_k T_k(image)
    l_i   = remapped Laplacian level i of full              fact_i, sigma_i of a network
    out   = l_0 + up(l_1 + up(... + up(low)))

The network is the public one (github.com/fengzhang427/LLF-LUT, MIT), that of the TPAMI article; the code of the NeurIPS
paper was never published. Names and shapes of the parameters are those of its files, which load; the code is new.
``path: {pretrain_network_g: LLF-FiveK-480p-best.pth}`` loads those for FiveK, ``LLF-HDR-480p-best.pth`` those for HDR+;
those for 4K need ``num_lap: 6``. All want red, green, blue. In two ways the public code differs: it takes single images
alone, where batches are right here; and it follows Canny's edges, a map that the network sees, as far as they lead,
here for 64 pixels.

Recipes have these terms of the published loss besides L1: ``train: activity_penalty: {module: transformer.conv_last}``,
and ``train: table_penalty: {axes: all}``, of the three learned tables. Its LPIPS is not offered.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, ChannelNorm, Gate, check_at_least, check_numbers, widened
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.archs.lookup import coordinates, identity_lut_3d, sample_3d
from semiisp_plugin.options.ranges import Channels, Decay
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["LLFLUT", "edge_map", "expand", "reduce", "remap"]

_TABLES = 3
_WINDOW = 4
_LATENT = 8
_TRUNK = 64
_LEVELS = 9  # intervals between the reference values of the local Laplacian filter
_GROWTH = 64  # pixels that an edge can be followed from where it is strong
_LOW, _HIGH = 0.1, 0.2  # of the edges' strengths


# Pyramids ............................................................................................................


def _blurred(x: Tensor, outer: float, inner: float, centre: float, step: int) -> Tensor:
    """Five symmetric taps along either axis with reflected borders, every ``step``-th pixel."""
    # By an index: there are fewer pixels than torch's reflection needs, and an exported graph is for all sizes.
    for axis in (2, 3):
        side = x.shape[axis]
        places = torch.arange(-2, side + 2, device=x.device)
        places = (side - 1 - (places.abs() - (side - 1)).abs()).clamp_min(0)
        wide = x.index_select(axis, places)
        a, b, c, d, e = (
            wide[:, :, k : k + side : step] if axis == 2 else wide[..., k : k + side : step] for k in range(5)
        )
        x = torch.add(centre * c, b + d, alpha=inner).add_(a + e, alpha=outer)
    return x


def reduce(x: Tensor) -> Tensor:
    """The next coarser level of a Gaussian pyramid, (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
    return _blurred(x, 1 / 16, 4 / 16, 6 / 16, 2)


def expand(x: Tensor, height: int, width: int) -> Tensor:
    """A level of a pyramid at the size of the next finer one, (N, C, h, w) -> (N, C, height, width).

    As published: zeros between pixels, then the blur; the border is reflected at the left, repeated at the right.
    """
    for axis in (2, 3):
        places = torch.arange(x.shape[axis], device=x.device)
        before = x.index_select(axis, (places - 1).abs().clamp_max(x.shape[axis] - 1))
        after = x.index_select(axis, (places + 1).clamp_max(x.shape[axis] - 1))
        even = torch.add(before + after, x, alpha=6) / 8
        x = torch.stack([even, (x + after) / 2], axis + 1).flatten(axis, axis + 1)
    return x[..., :height, :width]


def remap(gauss: Tensor, detail: Tensor, fact: Tensor, sigma: Tensor) -> Tensor:
    """The local Laplacian filter of one level, as published.

    For each of ten reference values r = 0, 1/9, ..., 1 in turn, weighted by how near the Gaussian level is to it,
    ``fact (l - r) exp(-2 (sigma (l - r))^2)`` is added to the details l; only the two nearest have a weight.

    Args:
        gauss: (N, 3, H, W), the Gaussian level.
        detail: (N, 3, H, W), the Laplacian level.
        fact: (N, 1, H, W), how much is added.
        sigma: (N, 1, H, W), the inverse of how far from r it is added.
    """
    place = gauss * _LEVELS
    low = place.detach().floor()
    share = place - low
    for level, weight in ((low, 1 - share), (low + 1, share)):
        away = detail - level / _LEVELS
        weight = torch.where((level >= 0) & (level <= _LEVELS), weight, 0.0)
        detail = detail + weight * fact * away * (-2 * (sigma * away).square()).exp()
    return detail


@torch.no_grad()
def edge_map(image: Tensor) -> Tensor:
    """Canny's edges, (N, 3, H, W) RGB in [0, 1] -> (N, 1, H, W) of 0 and 1, without a gradient.

    Luma is blurred (5 taps, sigma 1); edges are ridges of Sobel's gradient above 0.2, and those above 0.1 that they
    lead to within 64 pixels.
    """
    red, green, blue = image.unbind(1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
    inner, outer = math.exp(-0.5), math.exp(-2)
    total = 1 + 2 * (inner + outer)
    padded = F.pad(_blurred(luma, outer / total, inner / total, 1 / total, 1), (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    dx, dy = rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]
    strength = (dx.square() + dy.square() + 1e-6).sqrt()
    around, (height, width) = F.pad(strength, (1, 1, 1, 1)), image.shape[-2:]

    def beats(down: int, right: int) -> Tensor:
        ahead = around[..., 1 + down : height + 1 + down, 1 + right : width + 1 + right]
        behind = around[..., 1 - down : height + 1 - down, 1 - right : width + 1 - right]
        return strength > torch.maximum(ahead, behind)

    narrow = math.tan(math.pi / 8)
    falling, steep, flat = dx * dy > 0, dx.abs() <= narrow * dy.abs(), dy.abs() <= narrow * dx.abs()
    # No torch.where of truth values: ONNX Runtime has none.
    ridge = (falling & beats(1, 1)) | (~falling & beats(1, -1))
    ridge = (steep & beats(1, 0)) | (~steep & ridge)
    ridge = (flat & beats(0, 1)) | (~flat & ridge)
    edges = ((strength > _HIGH) & ridge).to(image.dtype)
    weak = ((strength > _LOW) & ridge).to(image.dtype)
    for _ in range(_GROWTH):
        grown = F.max_pool2d(edges, 3, stride=1, padding=1) * weak
        if not torch.compiler.is_compiling() and torch.equal(grown, edges):
            break
        edges = grown
    return edges


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:])


# The filter ..........................................................................................................


class _ResidualBlock(nn.Module):
    """NAFNet's gate and attention on convolutions, added to the input, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.sg = Gate()
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels // 2, channels // 2, 1))
        self.conv3 = nn.Conv2d(channels // 2, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gated = self.sg(self.conv2(self.conv1(self.norm1(x))))
        out: Tensor = x + self.conv3(gated * self.sca(gated)) * self.beta
        return out


class _DetailFilter(nn.Module):
    """How the levels of a Laplacian pyramid are remapped."""

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        few = channels // 4
        self.model = nn.Sequential(
            nn.Conv2d(3 * N_COLOURS + 1, channels, 1),
            nn.LeakyReLU(0.2, inplace=True),
            _ResidualBlock(channels),
            nn.Conv2d(channels, 2, 1),
        )
        self.high_freq_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3 * N_COLOURS, few, 1),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(few, few, 3, padding=1, groups=few),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(few, 2, 1),
            )
            for _ in range(levels - 1)
        )

    def forward(self, gauss: Sequence[Tensor], details: Sequence[Tensor], low: Tensor) -> list[Tensor]:
        """The remapped levels, the coarsest first.

        Args:
            gauss: Gaussian pyramid, from full size to the coarsest level.
            details: Laplacian pyramid without the coarsest level.
            low: The coarsest level in its final colours.
        """
        changed: list[Tensor] = []
        colour = low
        for network, level, detail in zip(
            (self.model, *self.high_freq_blocks), reversed(gauss[:-1]), reversed(details), strict=True
        ):
            if changed:
                before = _nearest(changed[-1], detail)
                colour = _nearest(colour + changed[-1], detail)
                seen = [colour, detail, before]
            else:
                colour = _nearest(low, detail)
                seen = [level, _nearest(edge_map(low), detail), colour, _nearest(gauss[-1], detail)]
            weight = next(network.parameters())
            fact, sigma = network(torch.cat(seen, 1).to(weight.dtype)).to(low.dtype).chunk(2, dim=1)
            changed.append(remap(level, detail, fact, sigma))
        return changed


# The transformer .....................................................................................................


def _fourier(like: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices from a window's tokens to the real and imaginary parts of their orthonormal spectrum, and back."""
    n = _WINDOW**2
    wide = torch.promote_types(like.dtype, torch.float32)
    token = torch.arange(n, device=like.device, dtype=wide)
    frequency = torch.arange(n // 2 + 1, device=like.device, dtype=wide)
    angle = frequency[:, None] * token * (2 * math.pi / n)
    there = torch.cat([angle.cos(), -angle.sin()]) / math.sqrt(n)
    # All frequencies but the lowest and the highest stand for two.
    twice = 1 + (frequency % (n // 2) > 0).to(wide)
    return there.to(like.dtype), (there * twice.repeat(2)[:, None]).T.to(like.dtype)


class _Attention(nn.Module):
    """Multi-head attention of the 16 tokens of a window, with a bias by their places to each other."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        reach = 2 * _WINDOW - 1
        self.relative_position_bias_table = nn.Parameter(torch.empty(reach**2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        row, column = torch.arange(_WINDOW).repeat_interleave(_WINDOW), torch.arange(_WINDOW).repeat(_WINDOW)
        places = row * reach + column
        index = places[:, None] - places + (_WINDOW - 1) * (reach + 1)
        self.register_buffer("relative_position_index", index)
        self.proj = nn.Linear(channels, channels)

    def bias(self) -> Tensor:
        """(heads, 16, 16)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def mixed(self, tokens: Sequence[Tensor], bias: Tensor | float = 0.0) -> Tensor:
        """Queries, keys and values (M, L, C) -> (M, L, C)."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in tokens)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        scores = widened(scores)
        attention = (scores + bias).softmax(dim=-1)
        return (attention.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class _SpectralAttention(_Attention):
    """Attention of the tokens plus that of their spectrum along the window, (M, 16, C) -> (M, 16, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        there, back = _fourier(x)
        near = self.mixed(self.qkv(x).chunk(3, dim=-1), self.bias())
        spectral = self.mixed(self.qkv(there @ x).chunk(3, dim=-1))
        out: Tensor = self.proj(near + back @ spectral)
        return out


class _CrossAttention(_Attention):
    """Attention of the tokens to others, (M, 16, C) twice -> (M, 16, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        out: Tensor = self.proj(self.mixed((self.q(x), *self.kv(others).chunk(2, dim=-1)), self.bias()))
        return out


def _in_windows(attention: nn.Module, *maps: Tensor) -> Tensor:
    """Attention in windows of 4x4, (N, H, W, C) -> (N, H, W, C); windows at the right and the bottom end in zeros."""
    n, height, width, channels = maps[0].shape
    rows, columns = (height + _WINDOW - 1) // _WINDOW, (width + _WINDOW - 1) // _WINDOW
    tokens = [
        F.pad(x, (0, 0, 0, columns * _WINDOW - width, 0, rows * _WINDOW - height))
        .reshape(n, rows, _WINDOW, columns, _WINDOW, channels)
        .transpose(2, 3)
        .reshape(n * rows * columns, _WINDOW**2, channels)
        for x in maps
    ]
    out: Tensor = attention(*tokens).reshape(n, rows, columns, _WINDOW, _WINDOW, channels)
    return out.transpose(2, 3).reshape(n, rows * _WINDOW, columns * _WINDOW, channels)[:, :height, :width]


class _Block(nn.Module):
    """What blocks of encoder and decoder share: the layers of each pixel, and the chance to be left out in training."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        layers = {"fc1": nn.Linear(channels, 2 * channels), "act": nn.GELU(), "fc2": nn.Linear(2 * channels, channels)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def kept(self, x: Tensor) -> Tensor:
        """In training 0 instead, image by image, with the probability ``drop_path``."""
        if not self.training or not self.drop_path:
            return x
        return x * F.dropout(x.new_ones(len(x), 1, 1, 1), self.drop_path)


class _EncoderBlock(_Block):
    """(N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__(channels, drop_path)
        self.attn = _SpectralAttention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.kept(_in_windows(self.attn, self.norm1(x)))
        return x + self.kept(self.mlp(self.norm2(x)))


class _DecoderBlock(_Block):
    """(N, H, W, C) and the encoder's features of this size -> (N, H, W, C)."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__(channels, drop_path)
        self.attn1 = _CrossAttention(channels, heads)
        self.attn2 = _CrossAttention(channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.norm_kv = nn.LayerNorm(channels)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.kept(_in_windows(self.attn1, normed, normed))
        x = x + self.kept(_in_windows(self.attn2, self.norm2(x), self.norm_kv(features)))
        return x + self.kept(self.mlp(self.norm3(x)))


class _Stage(nn.Module):
    """A block with the published name."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block])

    def forward(self, *maps: Tensor) -> Tensor:
        out: Tensor = self.blocks[0](*maps)
        return out


class _Transformer(nn.Module):
    """The coarsest level (N, 3, H, W) -> maps (N, 9, H, W) and shares (N, 3) of the tables."""

    def __init__(self, channels: int, heads: Sequence[int], drop_path: float) -> None:
        super().__init__()
        stages = len(heads)
        self.multiple = 2 ** (stages - 1)
        drops = [drop_path * i / max(stages - 1, 1) for i in range(stages)]
        self.input_proj = _named("proj", nn.Conv2d(N_COLOURS, channels, 3, padding=1), nn.LeakyReLU(inplace=True))
        self.encoder_layers = nn.ModuleList(
            _Stage(_EncoderBlock(channels, h, d)) for h, d in zip(heads, drops, strict=True)
        )
        self.downsample = nn.ModuleList(_named("conv", nn.Conv2d(channels, channels, 4, 2, 1)) for _ in heads)
        self.decoder_layers = nn.ModuleList(
            _Stage(_DecoderBlock(channels, h, d)) for h, d in zip(reversed(heads), reversed(drops), strict=True)
        )
        self.upsample = nn.ModuleList(
            _named("deconv", nn.ConvTranspose2d(channels, channels, 2, stride=2)) for _ in heads[1:]
        )
        self.head = nn.Linear(channels * _LATENT**2, _TABLES)
        self.recon_conv = nn.Conv2d(channels, _TRUNK, 3, padding=1)
        self.conv_last = nn.Conv2d(_TRUNK, _TABLES * N_COLOURS, 3, padding=1)
        # Those of its files that nothing comes of.
        self.upconv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.upconv2 = nn.Conv2d(channels, 4 * _TRUNK, 3, padding=1)
        self.HRconv = nn.Conv2d(_TRUNK, _TRUNK, 3, padding=1)
        for unused in (self.upconv1, self.upconv2, self.HRconv, self.downsample[-1]):
            unused.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, low: Tensor) -> tuple[Tensor, Tensor]:
        height, width = low.shape[-2:]
        # As published: features are padded by zeros as if an image with a side below 32 were scaled to have 32.
        least = _WINDOW * self.multiple
        shorter = torch.sym_min(torch.sym_min(height, width), least)
        right, below = (
            -(-((2 * side * least + shorter) // (2 * shorter)) // self.multiple) * self.multiple - side
            for side in (width, height)
        )
        x = F.pad(self.input_proj(low), (0, right, 0, below))
        encoded: list[Tensor] = []
        for stage, shrink in zip(self.encoder_layers, self.downsample, strict=True):
            x = stage(x.permute(0, 2, 3, 1))
            encoded.append(x)
            if len(encoded) < len(self.encoder_layers):
                x = shrink(x.permute(0, 3, 1, 2))
        shares = self.head(_square(x.permute(0, 3, 1, 2)).flatten(1))
        for i, stage in enumerate(self.decoder_layers):
            if i:
                x = self.upsample[i - 1](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            x = stage(x, encoded[-1 - i])
        maps = self.conv_last(self.recon_conv(x.permute(0, 3, 1, 2)[..., :height, :width]))
        return maps, shares


def _named(name: str, *layers: nn.Module) -> nn.Sequential:
    """Layers in a sequence within another one, by which they have the published names."""
    return nn.Sequential(OrderedDict({name: nn.Sequential(*layers)}))


def _square(x: Tensor) -> Tensor:
    """The upper left 8x8 of (N, C, H, W), of smaller ones padded by reflection; by zeros where a side is 4 or less."""
    places = torch.arange(_LATENT, device=x.device)
    rows, columns = (torch.full_like(places, side) for side in x.shape[-2:])
    for axis, side in ((2, rows), (3, columns)):
        x = x.index_select(axis, torch.where(places < side, places, (2 * side - 2 - places).clamp_min(0)))
    inside = (places < rows)[:, None] & (places < columns)
    return x * (inside | (torch.minimum(rows, columns) > _LATENT // 2))


# The network .........................................................................................................


class _Table(nn.Module):
    """A learned 3D table, for each image of a batch: n -> (n, 3, V, V, V)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.LUT = nn.Parameter(table)

    def forward(self, n: int) -> Tensor:
        return self.LUT.expand(n, -1, -1, -1, -1)


@register(ARCH_REGISTRY)
class LLFLUT(ImageNetwork):
    """Three 3D tables, mixed by a transformer pixel by pixel in the small, and a learned local Laplacian filter.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped. What a pixel
    becomes depends on all others. Under ``torch.autocast`` the transformer and the filter's networks run in the lower
    precision, tables, pyramids and remapping in float32.

    The defaults are the published network for FiveK in 480p (716,277 parameters; of 164,320 nothing comes, they are
    kept for the files, neither used nor trained); ``num_lap: 6`` is that for 4K images.

    Args:
        num_lap: Levels of details; the transformer sees the image at a side of 2^-num_lap.
        n_vertices: Vertices of the tables along each axis.
        embed_dim: Channels of the transformer.
        heads: Of the attention of each stage of the transformer's encoder, divisors of ``embed_dim``; the decoder has
            them in reverse.
        filter_feat: Channels of the filter's network at the coarsest level of details, a multiple of 4; at the others
            it has a quarter of them.
        drop_path: Probability that a part of the transformer's deepest stages is left out of an image in training, less
            towards the first.
        identity_start: Ours, for short trainings: start from the network that returns its input. Loading weights
            overrides it.

    Raises:
        ValueError: An option is outside what is said above.
    """

    table_modules = ("LUT0", "LUT1", "LUT2")  # see `semiisp_plugin.models.output_penalties`

    def __init__(
        self,
        num_lap: Annotated[int, Meta(ge=1, le=12)] = 3,
        n_vertices: Annotated[int, Meta(ge=2, le=256)] = 33,
        embed_dim: Channels = 32,
        heads: Annotated[Sequence[Channels], Meta(min_length=1, max_length=8)] = (2, 4, 8, 16),
        filter_feat: Channels = 64,
        drop_path: Decay = 0.1,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("LLFLUT", 1, num_lap=num_lap, embed_dim=embed_dim, filter_feat=filter_feat)
        check_at_least("LLFLUT", 2, n_vertices=n_vertices)
        check_numbers("LLFLUT", (2, 4, 8, 16), 1, heads=heads)
        if any(embed_dim % h for h in heads):
            raise ValueError(f"LLFLUT: heads is {list(heads)}; give divisors of embed_dim ({embed_dim}).")
        if filter_feat % 4:
            raise ValueError(f"LLFLUT: filter_feat is {filter_feat}; use a multiple of 4.")
        self.num_lap = num_lap
        self.multiple = 2**num_lap
        self.transformer = _Transformer(embed_dim, heads, drop_path)
        self.laplacian_filter = nn.ModuleDict({"block": _DetailFilter(num_lap, filter_feat)})
        identity = identity_lut_3d(n_vertices)
        self.LUT0 = _Table(identity)
        self.LUT1 = _Table(torch.zeros_like(identity))
        self.LUT2 = _Table(torch.zeros_like(identity))
        if identity_start:
            self._set_identity()

    def _set_identity(self) -> None:
        convs = [layer for layer in self.laplacian_filter.modules() if isinstance(layer, nn.Conv2d)]
        layers: list[nn.Conv2d | nn.Linear] = [conv for conv in convs if conv.out_channels == 2]
        first = torch.eye(1, _TABLES)[0]
        with torch.no_grad():
            for layer in (self.transformer.head, self.transformer.conv_last, *layers):
                for parameter in layer.parameters():
                    parameter.zero_()
            self.transformer.head.bias.copy_(first)
            if self.transformer.conv_last.bias is not None:
                self.transformer.conv_last.bias.copy_(first.repeat_interleave(N_COLOURS))

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        image = widened(image)
        low = image
        for _ in range(self.num_lap):
            low = reduce(low)
        maps, shares = (x.to(image.dtype) for x in self.transformer(low.to(self.transformer.head.weight.dtype)))
        tables = torch.stack([table(len(image)) for table in (self.LUT0, self.LUT1, self.LUT2)], 1).to(image.dtype)
        maps = maps.unflatten(1, (_TABLES, N_COLOURS))
        low = (maps * sample_3d(coordinates(low), tables.flatten(1, 2)).unflatten(1, (_TABLES, N_COLOURS))).sum(1)
        table = (shares[:, :, None, None, None, None] * tables).sum(1)
        gauss, details = [sample_3d(coordinates(image), table)], []
        for _ in range(self.num_lap):
            fine = gauss[-1]
            gauss.append(reduce(fine))
            details.append(fine - expand(gauss[-1], fine.shape[-2], fine.shape[-1]))
        out = low
        for detail in self.laplacian_filter["block"](gauss, details, low):
            out = expand(out, detail.shape[-2], detail.shape[-1]) + detail
        return out
