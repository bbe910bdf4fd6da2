"""LLFlow: low-light enhancement with a normalising flow (Wang et al., AAAI 2022, arXiv 2109.05923), a target model.

What is learned is not an image but how likely normally exposed images are, given a dark one. A flow f, invertible and
conditioned on features of the dark image (a Glow, see `semiisp_plugin.archs.flow`), turns an image y into a latent

    z = f(y | dark),      log p(y | dark) = log N(z; g, 1) + log |det df/dy|,      enhanced = f^-1(g | dark)

whose mean g is no constant, but a map of the image's colours that the encoder predicts, which brightness does not
change; in training it is at times that of the target. The encoder (RRDBs, as in ESRGAN) sees the logarithm of the dark
image, the image with each channel's histogram equalised, its colours, and where these change.

It is trained with ``train: likelihood``, the negative of ``log p``, in all phases; the filter sees it. That fits
the normalisations to the first batch; with other losses alone they stay at their start.

Written from a description of layers, sizes and names of parameters, not from the public code
(github.com/wyf0912/LLFlow), whose licence (CC BY-NC-SA 4.0) forbids commercial use. Ours, where that leaves it open:
differences of colours are halved and repeat the edge, blocks are counted from 0, the noise that is added to targets has
mean 0, what is equalised in training is the crop, and the likelihood is counted in bits of each number (three a pixel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, DenseConvs, check_at_least, check_image, pad_to_multiple, widened
from semiisp_plugin.archs.flow import FlowStep, Squeeze
from semiisp_plugin.options.ranges import Blocks, Channels, Positive
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["LLFlow", "equalised"]

_GREYS = 256
_STEPS_OF_NOISE = 32  # it is as wide as a step of images with so many levels
_PLAIN_STEPS = 2  # of each level, without a coupling


def equalised(image: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each image, as OpenCV's ``equalizeHist`` does with 8 bits.

    Args:
        image: (N, C, H, W) in [0, 1], which is rounded to 8 bits; NaN counts as 0.

    Returns:
        (N, C, H, W) in [0, 1], multiples of 1/255, of the dtype of ``image``. A channel of one value stays as it is.
    """
    numbers = (torch.where(image > 0, image, 0).clamp(max=1) * (_GREYS - 1)).round().long().flatten(2)
    counts = numbers.new_zeros(*numbers.shape[:2], _GREYS).scatter_add(2, numbers, torch.ones_like(numbers))
    up_to = counts.cumsum(2)
    darkest = torch.where(up_to > 0, up_to, up_to[..., -1:]).amin(2, keepdim=True)
    others = up_to[..., -1:] - darkest
    # In float32, as there: the last bit decides which way a half is rounded.
    table = ((up_to - darkest).float() * ((_GREYS - 1) / others.clamp(min=1).float())).round().clamp(min=0)
    table = torch.where(others > 0, table, torch.arange(_GREYS, device=image.device, dtype=table.dtype))
    return (table.gather(2, numbers).to(image.dtype) / (_GREYS - 1)).view_as(image)


def _shares(image: Tensor) -> Tensor:
    """Each colour's share of a pixel's sum, (N, 3, H, W) -> (N, 3, H, W)."""
    return image / (image.sum(1, keepdim=True) + 1e-4)


def _changes(image: Tensor) -> Tensor:
    """The larger one of the absolute central differences along both axes, (N, C, H, W) -> (N, C, H, W)."""
    wide = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]
    down = wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
    return torch.maximum(across.abs(), down.abs()) / 2


class _DenseBlock(DenseConvs):
    """Dense convolutions, added to their input, (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * super().forward(x)


class _RRDB(nn.Module):
    """Three dense blocks, added to their input, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (_DenseBlock(channels, channels, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))
        return out


class _Encoder(nn.Module):
    """Images (N, 12, H, W) -> features of each level (N, F, H / 2^k, W / 2^k), and the colour map (N, 3, H, W)."""

    def __init__(self, channels: int, blocks: int, growth: int, stacked: Sequence[int], levels: int) -> None:
        super().__init__()

        def conv(inputs: int = channels, outputs: int = channels) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        self.stacked = tuple(stacked)
        self.levels = levels
        self.conv_first = conv(4 * N_COLOURS)
        self.conv_second = conv()
        self.RRDB_trunk = nn.ModuleList(_RRDB(channels, growth) for _ in range(blocks))
        self.trunk_conv = conv()
        self.downconv1, self.downconv2, self.downconv3 = conv(), conv(), conv()
        self.HRconv, self.conv_last = conv(), conv(outputs=N_COLOURS)
        self.awb_para = nn.Linear(channels, N_COLOURS)
        self.fine_tune_color_map = nn.Sequential(nn.Conv2d(channels, N_COLOURS, 1), nn.Sigmoid())
        downs = (self.downconv1, self.downconv2, self.downconv3)
        # What is of the files alone must not wait for a gradient: training on several devices would.
        for unused in (*downs[max(0, levels - 1) :], self.HRconv, self.conv_last, self.awb_para):
            unused.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        start = F.max_pool2d(self.conv_second(_leaky(self.conv_first(x))), 2)
        x, kept = start, []
        for i, block in enumerate(self.RRDB_trunk):
            x = block(x)
            if i in self.stacked:
                kept.append(x)
        level = start + self.trunk_conv(x)
        colours = F.interpolate(self.fine_tune_color_map(level), scale_factor=2.0, mode="nearest")
        features = [torch.cat([level, *kept], 1)]
        for k in range(1, self.levels):
            level = F.avg_pool2d(level if k == 1 else _leaky(level), 2)  # which is bilinear, of half the size
            level = self.get_submodule(f"downconv{k}")(level)
            kept = [block[..., ::2, ::2] for block in kept]
            features.append(torch.cat([level, *kept], 1))
        return features, colours


class _Flow(nn.Module):
    """Images (N, 3, H, W) <-> latents (N, 3 * 4^levels, H / 2^levels, W / 2^levels), conditioned on features."""

    def __init__(self, features: int, steps: int, levels: int, hidden: int, spare: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(1, levels + 1):
            channels = N_COLOURS * 4**k
            layers += [Squeeze(), *(FlowStep(channels) for _ in range(_PLAIN_STEPS))]
            layers += [FlowStep(channels, features, hidden) for _ in range(steps)]
        self.layers = nn.ModuleList(layers)
        self.f = nn.Sequential(nn.Conv2d(spare, 2 * channels, 3, padding=1))  # of the files alone
        self.f.requires_grad_(False)

    def forward(self, image: Tensor, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Latents, and the log-determinant of each sample, (N,)."""
        z, level = image, -1
        log_determinant = image.new_zeros(len(image))
        for layer in self.layers:
            if isinstance(layer, Squeeze):
                z, level = layer(z), level + 1
            else:
                z, of_layer = layer(z, features[level])
                log_determinant = log_determinant + of_layer
        return z, log_determinant

    def inverse(self, z: Tensor, features: Sequence[Tensor]) -> Tensor:
        level = len(features) - 1
        for layer in reversed(self.layers):
            if isinstance(layer, Squeeze):
                z, level = layer.inverse(z), level - 1
            else:
                z = cast(FlowStep, layer).inverse(z, features[level])
        return z


@register(ARCH_REGISTRY)
class LLFlow(nn.Module):
    """The likeliest image under a flow that a dark image conditions.

    Input (N, 3, H, W) sRGB in [0, 1] of any size; output of the same size, float32 at least, not clipped. Sides are
    padded to multiples of ``2 ** levels`` by reflection. What a pixel becomes depends on all others, by the histograms.

    The defaults are the published network (38,859,481 parameters); ``num_feat=32, num_block=4, flow_steps=4,
    stacked=[1]`` is the published small one (5,429,849). Of these 1,182,086 and 462,214 do nothing, and are kept for
    the files alone.

    A network that was not trained with ``train: likelihood`` has no fitted `ActNorm`s and gives no image.

    Args:
        num_feat: Channels of the encoder.
        num_block: Its RRDBs.
        num_grow_ch: Channels that each convolution of a dense block adds.
        stacked: Numbers of the RRDBs, from 0, whose outputs are features of all levels.
        levels: Of the flow, each of half the size of the one before.
        flow_steps: With a coupling, of each level; there are two without besides.
        hidden_feat: Channels of the networks of a coupling.

    Raises:
        ValueError: An option is outside what is said above.
    """

    gives_likelihood = True

    def __init__(
        self,
        num_feat: Channels = 64,
        num_block: Blocks = 24,
        num_grow_ch: Channels = 32,
        stacked: Annotated[Sequence[Blocks], Meta(max_length=1000)] = (1, 3, 5, 7),
        levels: Annotated[int, Meta(ge=1, le=3)] = 3,
        flow_steps: Positive = 12,
        hidden_feat: Channels = 64,
    ) -> None:
        super().__init__()
        check_at_least("LLFlow", 1, num_feat=num_feat, num_grow_ch=num_grow_ch, levels=levels)
        check_at_least("LLFlow", 1, flow_steps=flow_steps, hidden_feat=hidden_feat)
        if levels > 3:
            raise ValueError(f"LLFlow: levels is {levels}; use 1, 2 or 3.")
        if len({*stacked}) < len(stacked) or not {*stacked} <= {*range(num_block)}:
            raise ValueError(
                f"LLFlow: stacked is {list(stacked)}, and the RRDBs of num_block {num_block} have numbers below that, "
                f"from 0; name some of these, each once."
            )
        self.levels = levels
        self.RRDB = _Encoder(num_feat, num_block, num_grow_ch, stacked, levels)
        n = 1 + len(stacked)
        self.flowUpsamplerNet = _Flow(n * num_feat, flow_steps, levels, hidden_feat, n * hidden_feat)

    def encoded(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of each level, finest first, and the colour map, of an image (N, 3, H, W), float32 at least."""
        logarithm = (image + 1e-3).clamp(min=1e-3).log()
        both = pad_to_multiple(torch.cat([logarithm, equalised(image)], 1), 2**self.levels)
        colours = _shares(both[:, :N_COLOURS].exp())
        x = torch.cat([both, colours, _changes(colours)], 1)
        features, predicted = self.RRDB(x.to(self.RRDB.conv_first.weight.dtype))
        return features, predicted.to(image.dtype)

    def forward(
        self,
        image: Tensor,
        target: Tensor | None = None,
        noise: Tensor | None = None,
        true_colours: Tensor | None = None,
    ) -> Tensor:
        """Enhance a batch; or, with a target, say how unlikely that is.

        Both are one call: what wraps a network, such as a parallel wrapper or a compiler, wraps its call.

        Args:
            image: (N, 3, H, W) sRGB in [0, 1].
            target: Its normally exposed image, of the same shape, in [0, 1].
            noise: For a target: (N, 3, H, W), uniform in [0, 1], by which values become densities; None: without.
            true_colours: For a target: 0-dim bool, whether the latent's mean is the colour map of the target.

        Returns:
            (N, 3, H, W), of the input's dtype, or float32 where that is of lower precision. With a target: (N,), the
            negative log-likelihood in bits a number (three a pixel) of an image of 32 levels. As with any code, its
            mean over the noise is never negative.

        Raises:
            ValueError: The input is not (N, 3, H, W), or has no pixels; or the target's shape is another.
        """
        check_image("LLFlow", image)
        height, width = image.shape[-2:]
        image = widened(image)
        features, mean = self.encoded(image)
        if target is None:
            z = F.pixel_unshuffle(mean, 2**self.levels)
            return self.flowUpsamplerNet.inverse(z, features)[..., :height, :width]
        if target.shape != image.shape:
            raise ValueError(f"LLFlow: the target is {tuple(target.shape)}, the image {tuple(image.shape)}.")
        target = target.to(image.dtype)
        noisy = target if noise is None else target + (noise - 0.5) / _STEPS_OF_NOISE
        noisy, target = (pad_to_multiple(x, 2**self.levels) for x in (noisy, target))
        if true_colours is not None:
            mean = torch.where(true_colours, _shares(target), mean)
        z, log_determinant = self.flowUpsamplerNet(noisy, features)
        distance = (z - F.pixel_unshuffle(mean, 2**self.levels)).square().mean((1, 2, 3))
        density = log_determinant / z[0].numel() - 0.5 * (distance + math.log(2 * math.pi))  # its logarithm, a number
        return math.log2(_STEPS_OF_NOISE) - density / math.log(2)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
