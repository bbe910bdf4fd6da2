"""Retinexformer: one-stage Retinex-based transformer (Cai et al., ICCV 2023, arXiv 2303.06705), a target model.

A small convolutional estimator predicts from the image and its channel mean a light-up map L and illumination
features F. The image is lit up, ``I_lu = I * L + I`` (the form of the public code), and a U-shaped transformer takes
away what the lighting-up amplified. Its attention runs over channels, not over pixels, so its cost is linear in the
number of pixels; the values are weighted by the illumination features:

    A = softmax(s * normalise(K) normalise(Q)^T)        heads x d x d, Q, K normalised over the pixels
    out = project(A (V * F)) + position(V)

The names and shapes of the parameters are those of the public repository (github.com/caiyuanhao1998/Retinexformer,
MIT), so that its weights load; the code is new. Its files are ``{"params": ...}``, which BasicSR loads as they are
(``path: {pretrain_network_g: FILE.pth}``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

import torch
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, likeness, pad_to_multiple
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.options.ranges import BlocksOfLevels, Channels
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["Retinexformer"]

_ESTIMATOR_INPUTS = N_COLOURS + 1  # the colours and their mean


class _IlluminationEstimator(nn.Module):
    """Image (N, 3, H, W) -> illumination features (N, C, H, W) and light-up map (N, 3, H, W)."""

    def __init__(self, n_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_ESTIMATOR_INPUTS, n_feat, 1)
        # Grouped by the inputs, not depth-wise, in spite of its published name.
        self.depth_conv = nn.Conv2d(n_feat, n_feat, 5, padding=2, groups=_ESTIMATOR_INPUTS)
        self.conv2 = nn.Conv2d(n_feat, N_COLOURS, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        prior = image.mean(dim=1, keepdim=True)
        features = self.depth_conv(self.conv1(torch.cat([image, prior], dim=1)))
        return features, self.conv2(features)


class _IlluminationGuidedAttention(nn.Module):
    """Illumination-guided multi-head self-attention over channels, (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.rescale = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj = nn.Linear(channels, channels)
        self.pos_emb = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=channels),
        )

    def _split_heads(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, heads, C / heads, H W)."""
        return x.flatten(1, 2).unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)

    def forward(self, x: Tensor, illumination: Tensor) -> Tensor:
        value = self.to_v(x)
        query = self._split_heads(self.to_q(x))
        key = self._split_heads(self.to_k(x))
        attention = likeness(key, query, self.rescale)
        guided = self._split_heads(value * illumination)
        mixed = (attention.to(guided.dtype) @ guided).permute(0, 3, 1, 2).flatten(2).view_as(x)
        position = self.pos_emb(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.proj(mixed) + position
        return out


class _FeedForward(nn.Module):
    """1x1 expansion, 3x3 depth-wise convolution, 1x1 contraction, (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = channels * expansion
        self.net = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.permute(0, 3, 1, 2))
        return out.permute(0, 2, 3, 1)


class _PreNorm(nn.Module):
    """Layer norm over channels before a module, (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fn(self.norm(x))
        return out


class _IlluminationGuidedBlocks(nn.Module):
    """A row of attention and feed-forward blocks, (N, C, H, W) and illumination features of that shape -> same."""

    def __init__(self, channels: int, heads: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [_IlluminationGuidedAttention(channels, heads), _PreNorm(channels, _FeedForward(channels))],
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor, illumination: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        illumination = illumination.permute(0, 2, 3, 1)
        for pair in self.blocks:
            attention, feed_forward = cast("nn.ModuleList", pair)
            x = x + attention(x, illumination)
            x = x + feed_forward(x)
        return x.permute(0, 3, 1, 2)


class _CorruptionRestorer(nn.Module):
    """The U-shaped transformer, lit-up image (N, 3, H, W) -> image (N, 3, H, W); H, W multiples of ``2 ** levels``."""

    def __init__(self, n_feat: int, num_blocks: Sequence[int]) -> None:
        super().__init__()
        levels = len(num_blocks) - 1

        def blocks(level: int) -> _IlluminationGuidedBlocks:
            # Twice the channels and twice the heads a level: every head keeps n_feat channels.
            return _IlluminationGuidedBlocks(n_feat * 2**level, 2**level, num_blocks[level])

        def halve(level: int) -> nn.Conv2d:
            return nn.Conv2d(n_feat * 2**level, n_feat * 2 ** (level + 1), 4, stride=2, padding=1, bias=False)

        self.embedding = nn.Conv2d(N_COLOURS, n_feat, 3, padding=1, bias=False)
        self.encoder_layers = nn.ModuleList(
            nn.ModuleList([blocks(level), halve(level), halve(level)]) for level in range(levels)
        )
        self.bottleneck = blocks(levels)
        self.decoder_layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.ConvTranspose2d(n_feat * 2 ** (level + 1), n_feat * 2**level, 2, stride=2),
                    nn.Conv2d(n_feat * 2 ** (level + 1), n_feat * 2**level, 1, bias=False),
                    blocks(level),
                ]
            )
            for level in reversed(range(levels))
        )
        self.mapping = nn.Conv2d(n_feat, N_COLOURS, 3, padding=1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, lit_up: Tensor, illumination: Tensor) -> Tensor:
        x = self.embedding(lit_up)
        skipped: list[tuple[Tensor, Tensor]] = []
        for layer in self.encoder_layers:
            blocks, halve, halve_illumination = cast("nn.ModuleList", layer)
            x = blocks(x, illumination)
            skipped.append((x, illumination))
            x = halve(x)
            illumination = halve_illumination(illumination)
        x = self.bottleneck(x, illumination)
        for layer, (skip, illumination) in zip(self.decoder_layers, reversed(skipped), strict=True):
            double, fuse, blocks = cast("nn.ModuleList", layer)
            x = fuse(torch.cat([double(x), skip], dim=1))
            x = blocks(x, illumination)
        out: Tensor = self.mapping(x) + lit_up
        return out


class _Stage(nn.Module):
    """Light up, then restore, (N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self, n_feat: int, num_blocks: Sequence[int]) -> None:
        super().__init__()
        self.estimator = _IlluminationEstimator(n_feat)
        self.denoiser = _CorruptionRestorer(n_feat, num_blocks)

    def forward(self, image: Tensor) -> Tensor:
        illumination, light_up_map = self.estimator(image)
        out: Tensor = self.denoiser(image * light_up_map + image, illumination)
        return out


@register(ARCH_REGISTRY)
class Retinexformer(ImageNetwork):
    """One-stage Retinex-based transformer for low-light enhancement.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped. The
    transformer needs sides that are multiples of ``2 ** (len(num_blocks) - 1)`` (4 by default): the image is padded by
    reflection at the right and the bottom and the output cropped, as the public test script does around its network; a
    side too short to be reflected (below 4 pixels) is padded by repeating its last pixel (ours).

    The defaults are those of all published weights (1,605,701 parameters).

    Args:
        n_feat: Channels at full resolution, a multiple of 4; doubled at each level below.
        stage: Number of light-up-and-restore stages in a row, each with its own weights.
        num_blocks: Attention blocks at each level, full resolution first, bottleneck last; the decoder repeats those of
            the encoder. Published: 1, 2, 2.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        n_feat: Channels = 40,
        stage: Annotated[int, Meta(ge=1, le=100)] = 1,
        num_blocks: BlocksOfLevels = (1, 2, 2),
    ) -> None:
        super().__init__()
        if n_feat < 1 or n_feat % _ESTIMATOR_INPUTS:
            raise ValueError(f"Retinexformer: n_feat is {n_feat}; use a positive multiple of {_ESTIMATOR_INPUTS}.")
        check_at_least("Retinexformer", 1, stage=stage)
        if len(num_blocks) < 2 or min(num_blocks) < 1:
            raise ValueError(
                f"Retinexformer: num_blocks is {list(num_blocks)}; give two or more numbers of 1 or more, such as "
                "[1, 2, 2]."
            )
        self.multiple = 2 ** (len(num_blocks) - 1)
        self.body = nn.Sequential(*(_Stage(n_feat, num_blocks) for _ in range(stage)))

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        x = pad_to_multiple(image, self.multiple)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            # Attention and norms take the channels of a pixel side by side: so laid out, a CPU copies less.
            x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.body(x)
        return out[..., :height, :width].to(torch.promote_types(image.dtype, torch.float32)).contiguous()
