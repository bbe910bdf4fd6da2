"""LLFormer: low-light transformer (Wang et al., AAAI 2023, arXiv 2212.11548), a target model.

Written from the paper alone. The authors' code (github.com/TaoWangzj/LLFormer, CC BY-NC-SA 4.0) may not be used
commercially and was not looked at: the names of the parameters are the plugin's own, and the published weights **do not
load**. Details differ, so the published scores are no promise for this network.

The axis-based transformer block attends along the columns of the image, then along its rows, each pixel to those of its
column or row, so that the cost grows with H + W for a pixel, not with H W; a feed-forward network follows, each half of
whose channels gates the other:

    y   = x + rows(columns(norm(x)))               softmax(q k^T / alpha) v along one axis, for each head
    out = y + 1x1(gelu(a) * b + a * gelu(b))       a, b = depth-wise 3x3(1x1(norm(y)))

q, k and v come from a 1x1 and a depth-wise 3x3 convolution. The cross-layer attention fusion block mixes the outputs of
three blocks in a row by a 3x3 matrix that says how much the layers have in common:

    fused = 1x1(F + 1x1(softmax(q k^T / alpha) v))                F: the three, q, k, v: 3 x (C H W)

The network: a 3x3 convolution of the image; three blocks and their fusion; four stages that halve the sides and double
the channels each; three stages back, with the features of the same size from the way down; three blocks and their
fusion at the image's size; a last 3x3 convolution.

What the paper leaves open is ours:

* The way down begins with a halving, so that its stages have 2, 4, 8 and 16 times ``dim`` channels. This makes
  23,993,813 parameters, 2.1 % fewer than the published 24.52 M (a figure of comparison tables, not checked); stages of
  1, 2, 4 and 8 times would make about 6 M.
* Each axis of the attention has its own q, k, v and projection. Each half of the feed-forward network has
  ``ffn_expansion_factor`` times the block's channels, rounded down.
* Halving is a 3x3 convolution to half the channels and a pixel unshuffle; doubling is one to twice the channels and a
  pixel shuffle.
* The features from the way down are added with one learned weight a channel for each of the two, and a 1x1 convolution
  follows.
* alpha is learned for each head; it starts at the square root of the head's channels. In the fusion, whose products run
  over all the image, q and k are of unit length, and alpha starts at 1.
* The refinement blocks follow the last fusion. No convolution but the first and the last has a bias; the layer norms
  have one. The image is not added to the result.
* Sides that are not multiples of 16 are padded at the right and the bottom by the pixels of the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, check_numbers, likeness
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.options.ranges import Blocks, BlocksOfLevels, Channels, Scale
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["LLFormer"]

_N_FUSED = 3  # blocks in a row whose outputs are fused


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


def _pointwise(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 1, bias=False)


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


class _AxisAttention(nn.Module):
    """Multi-head self-attention along the columns or the rows of an image, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, heads: int, along_columns: bool) -> None:
        super().__init__()
        self.heads = heads
        self.along_columns = along_columns
        self.qkv = nn.Sequential(_pointwise(channels, 3 * channels), _depthwise(3 * channels))
        self.inverse_alpha = nn.Parameter(torch.full((heads, 1, 1), 1 / math.sqrt(channels // heads)))
        self.project = _pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        lines, length = (width, height) if self.along_columns else (height, width)
        # (N, 3, heads, C / heads, H, W) -> 3 x (N lines, heads, length, C / heads)
        split = self.qkv(x).view(batch, 3, self.heads, channels // self.heads, height, width)
        order = (1, 0, 5, 2, 4, 3) if self.along_columns else (1, 0, 4, 2, 5, 3)
        query, key, value = split.permute(order).reshape(3, batch * lines, self.heads, length, -1).unbind(0)
        query = query * self.inverse_alpha.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        mixed = mixed.reshape(batch, lines, self.heads, length, -1)
        mixed = mixed.permute((0, 2, 4, 3, 1) if self.along_columns else (0, 2, 4, 1, 3))
        out: Tensor = self.project(mixed.reshape(batch, channels, height, width))
        return out


class _DualGatedFeedForward(nn.Module):
    """(N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.expand = nn.Sequential(_pointwise(channels, 2 * hidden), _depthwise(2 * hidden))
        self.project = _pointwise(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.expand(x).chunk(2, dim=1)
        out: Tensor = self.project(F.gelu(first) * second + first * F.gelu(second))
        return out


class _Block(nn.Module):
    """The axis-based transformer block, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.attention_norm = _ChannelNorm(channels)
        self.columns = _AxisAttention(channels, heads, along_columns=True)
        self.rows = _AxisAttention(channels, heads, along_columns=False)
        self.feed_forward_norm = _ChannelNorm(channels)
        self.feed_forward = _DualGatedFeedForward(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.rows(self.columns(self.attention_norm(x)))
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class _CrossLayerFusion(nn.Module):
    """Cross-layer attention fusion of the outputs of some layers, each (N, C, H, W), -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        together = _N_FUSED * channels
        self.qkv = nn.Sequential(_pointwise(together, 3 * together), _depthwise(3 * together))
        self.inverse_alpha = nn.Parameter(torch.ones(()))
        self.project = _pointwise(together, together)
        self.reduce = _pointwise(together, channels)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        x = torch.cat(list(layers), dim=1)
        query, key, value = (part.flatten(1).unflatten(1, (_N_FUSED, -1)) for part in self.qkv(x).chunk(3, dim=1))
        alike = likeness(query, key, self.inverse_alpha)
        mixed = (alike.to(value.dtype) @ value).view_as(x)
        out: Tensor = self.reduce(x + self.project(mixed))
        return out


class _FusedBlocks(nn.Module):
    """Three blocks in a row and the fusion of their outputs, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(channels, heads, expansion) for _ in range(_N_FUSED))
        self.fusion = _CrossLayerFusion(channels)

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        out: Tensor = self.fusion(layers)
        return out


class _Skip(nn.Module):
    """Features of the way down joined to those of the way back, both (N, C, H, W), -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2, channels, 1, 1))
        self.project = _pointwise(channels, channels)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        out: Tensor = self.project(before * self.weights[0] + after * self.weights[1])
        return out


def _halving(channels: int) -> nn.Sequential:
    """(N, C, H, W) -> (N, 2 C, H / 2, W / 2)."""
    return nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def _doubling(channels: int) -> nn.Sequential:
    """(N, C, H, W) -> (N, C / 2, 2 H, 2 W)."""
    return nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2))


@register(ARCH_REGISTRY)
class LLFormer(ImageNetwork):
    """Axis-based transformer for low-light image enhancement, from the paper's description (see the module).

    Input (N, 3, H, W) in [0, 1] of any size; output of the same size, float32 at least, not clamped. The fusions and
    the attention make what a pixel becomes depend on all others. The defaults are the published settings for LOL and
    FiveK. The attention does not keep its matrices, but a pixel still costs H + W products.

    Args:
        dim: Channels at full resolution, an even number.
        num_blocks: Blocks of each stage of the way down, the largest first; the way back has as many, but for the last
            stage, from which it starts.
        num_refinement_blocks: Blocks after the last fusion.
        heads: Heads of the attention in each stage; at full resolution there are ``heads[0]``.
        ffn_expansion_factor: Channels of the feed-forward network relative to those of the block.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        dim: Channels = 16,
        num_blocks: BlocksOfLevels = (2, 4, 8, 16),
        num_refinement_blocks: Blocks = 2,
        heads: Annotated[Sequence[Channels], Meta(min_length=1, max_length=12)] = (1, 2, 4, 8),
        ffn_expansion_factor: Scale = 2.66,
    ) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"LLFormer: dim is {dim}; use an even number of 2 or more.")
        check_numbers("LLFormer", (2, 4, 8, 16), num_blocks=num_blocks, heads=heads)
        check_at_least("LLFormer", 0, num_refinement_blocks=num_refinement_blocks)
        widths = [dim * 2 ** (stage + 1) for stage in range(len(num_blocks))]
        for channels, count in zip([dim, *widths], [heads[0], *heads], strict=True):
            if count < 1 or channels % count:
                raise ValueError(
                    f"LLFormer: {count} heads cannot share {channels} channels evenly; choose heads that divide "
                    f"{[dim, *widths]}."
                )
        if int(dim * ffn_expansion_factor) < 1:
            raise ValueError(
                f"LLFormer: ffn_expansion_factor is {ffn_expansion_factor}, which leaves no channel of {dim}; use 2.66."
            )
        self.multiple = 2 ** len(num_blocks)

        def blocks(channels: int, count: int, number_of_heads: int) -> nn.Sequential:
            return nn.Sequential(*(_Block(channels, number_of_heads, ffn_expansion_factor) for _ in range(count)))

        self.embed = nn.Conv2d(N_COLOURS, dim, 3, padding=1)
        self.head = _FusedBlocks(dim, heads[0], ffn_expansion_factor)
        self.halvings = nn.ModuleList(_halving(c) for c in [dim, *widths[:-1]])
        self.encoders = nn.ModuleList(blocks(*stage) for stage in zip(widths, num_blocks, heads, strict=True))
        self.doublings = nn.ModuleList(_doubling(c) for c in reversed(widths))
        # The deepest stage has no counterpart; full resolution, without blocks between, has a skip as well.
        self.skips = nn.ModuleList(_Skip(c) for c in [*reversed(widths[:-1]), dim])
        self.decoders = nn.ModuleList(
            blocks(*stage) for stage in reversed(list(zip(widths[:-1], num_blocks[:-1], heads[:-1], strict=True)))
        )
        self.tail = _FusedBlocks(dim, heads[0], ffn_expansion_factor)
        self.refinement = blocks(dim, num_refinement_blocks, heads[0])
        self.to_image = nn.Conv2d(dim, N_COLOURS, 3, padding=1)

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        x = self.head(self.embed(x))
        passed = [x]
        for halving, encoder in zip(self.halvings, self.encoders, strict=True):
            x = encoder(halving(x))
            passed.append(x)
        passed.pop()
        for index, (doubling, join) in enumerate(zip(self.doublings, self.skips, strict=True)):
            x = join(passed.pop(), doubling(x))
            if index < len(self.decoders):
                x = self.decoders[index](x)
        out: Tensor = self.to_image(self.refinement(self.tail(x)))[..., :height, :width]
        return out.to(torch.promote_types(image.dtype, torch.float32))
