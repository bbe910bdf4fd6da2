"""SNR-Aware: a transformer that attends where the signal is strong (Xu et al., CVPR 2022), a target model.

"SNR-Aware Low-Light Image Enhancement". Dark pixels are restored from what is around them, darkest and noisiest ones
from the rest of the image. How strong the signal is is estimated without learning (Sec. 3.2, `snr_map`): luma, blurred
over 5x5 pixels, over its distance to the blurred, relative to the largest of the image. So one patch without any noise
makes all others weak, as in the public code. A convolutional branch sees near pixels, a transformer, whose keys are the
patches with a strong signal, all of the image; they are mixed pixel by pixel:

    features = map * convolutions(F) + (1 - map) * transformer(F)

Written from the paper and from facts about the public repository (dvlab-research/SNR-Aware-Low-Light-Enhance), which
has no licence; its code was not used. The names and shapes of the parameters are those of its files, which load.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, pad_to_multiple, widened
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.options.ranges import Blocks, Channels
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["SNRAware", "snr_map"]

_LUMA = (0.299, 0.587, 0.114)
_BLUR = 5
_PATCH = 4
_STRONG = 0.5  # patches whose mean of the map is above it are keys


def snr_map(image: Tensor) -> Tensor:
    """How strong the signal is, without learning: blurred luma over its distance to the luma (Sec. 3.2).

    Args:
        image: (N, 3, H, W) RGB in [0, 1], sides of 3 or more.

    Returns:
        (N, 1, H, W) in [0, 1], the largest of each image nearly 1.
    """
    luma = torch.einsum("nchw,c->nhw", image, image.new_tensor(_LUMA))[:, None]
    blurred = F.avg_pool2d(F.pad(luma, (_BLUR // 2,) * 4, mode="reflect"), _BLUR, stride=1)
    strength = blurred / ((luma - blurred).abs() + 1e-4)
    return (strength / (strength.amax(dim=(1, 2, 3), keepdim=True) + 1e-4)).clamp(0, 1)


class _ResidualBlock(nn.Module):
    """Two convolutions, added to their input, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data *= 0.1
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class _Attention(nn.Module):
    """Multi-head attention of tokens (N, L, D), added to them; ``weak`` (N, L) are no keys."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.w_qs = nn.Linear(width, heads * head_width, bias=False)
        self.w_ks = nn.Linear(width, heads * head_width, bias=False)
        self.w_vs = nn.Linear(width, heads * head_width, bias=False)
        self.fc = nn.Linear(heads * head_width, width, bias=False)
        self.layer_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor, weak: Tensor) -> Tensor:
        normed = self.layer_norm(tokens)
        q, k, v = (w(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.w_qs, self.w_ks, self.w_vs))
        scores = q @ k.transpose(-2, -1) / k.shape[-1] ** 0.5
        scores = widened(scores)
        # Not -inf: where no patch is strong, all are attended alike.
        attention = scores.masked_fill(weak[:, None, None], -1e9).softmax(dim=-1)
        out: Tensor = tokens + self.fc((attention.to(v.dtype) @ v).transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    """Two layers for each token, added to it, (N, L, D) -> (N, L, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)
        self.layer_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = tokens + self.w_2(F.relu(self.w_1(self.layer_norm(tokens))))
        return out


class _Layer(nn.Module):
    """Attention, then the feed-forward network, (N, L, D) -> (N, L, D)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.slf_attn = _Attention(width, heads, head_width)
        self.pos_ffn = _FeedForward(width, 2 * width)

    def forward(self, tokens: Tensor, weak: Tensor) -> Tensor:
        out: Tensor = self.pos_ffn(self.slf_attn(tokens, weak))
        return out


class _Transformer(nn.Module):
    """Layers over patches of features, without a code of their place, (N, C, H, W) -> (N, C, H, W).

    A token is a patch of 4x4 pixels with all its channels.
    """

    def __init__(self, channels: int, layers: int, heads: int, head_width: int) -> None:
        super().__init__()
        width = channels * _PATCH**2
        self.layer_stack = nn.ModuleList(_Layer(width, heads, head_width) for _ in range(layers))

    def forward(self, x: Tensor, strength: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        rows, columns = height // _PATCH, width // _PATCH
        tokens = x.reshape(n, channels, rows, _PATCH, columns, _PATCH).permute(0, 2, 4, 1, 3, 5)
        tokens = tokens.reshape(n, rows * columns, channels * _PATCH**2)
        weak = F.avg_pool2d(strength, _PATCH).flatten(1) <= _STRONG
        for layer in self.layer_stack:
            tokens = layer(tokens, weak)
        tokens = tokens.reshape(n, rows, columns, channels, _PATCH, _PATCH).permute(0, 3, 1, 4, 2, 5)
        return tokens.reshape(n, channels, height, width)


@register(ARCH_REGISTRY)
class SNRAware(ImageNetwork):
    """Low-light enhancement by convolutions where the signal is strong, and by a transformer where it is weak.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clipped. The network
    needs sides that are multiples of 16: the image is padded by reflection at the right and the bottom and the output
    cropped (ours; the published program scales images to such a size and back). What a pixel becomes depends on all
    others.

    The defaults are the published size: 39,124,099 parameters, of which 37,791,744 are the transformer's.

    Args:
        num_feat: Channels; a token of the transformer has 16 times as many.
        num_block: Residual blocks of the convolutional branch.
        layers: Of the transformer.
        heads: Of its attention.
        head_feat: Channels of a head.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        num_feat: Channels = 64,
        num_block: Blocks = 6,
        layers: Blocks = 6,
        heads: Channels = 8,
        head_feat: Channels = 64,
    ) -> None:
        super().__init__()
        check_at_least("SNRAware", 1, num_feat=num_feat, heads=heads, head_feat=head_feat)
        check_at_least("SNRAware", 0, num_block=num_block, layers=layers)
        self.multiple = 4 * _PATCH
        self.conv_first_1 = nn.Conv2d(N_COLOURS, num_feat, 3, padding=1)
        self.conv_first_2 = nn.Conv2d(num_feat, num_feat, 3, stride=2, padding=1)
        self.conv_first_3 = nn.Conv2d(num_feat, num_feat, 3, stride=2, padding=1)
        self.feature_extraction = nn.Sequential(_ResidualBlock(num_feat))
        self.recon_trunk_light = nn.Sequential(*(_ResidualBlock(num_feat) for _ in range(num_block)))
        self.transformer = _Transformer(num_feat, layers, heads, head_feat)
        self.recon_trunk = nn.Sequential(_ResidualBlock(num_feat))
        self.upconv1 = nn.Conv2d(2 * num_feat, 4 * num_feat, 3, padding=1)
        self.upconv2 = nn.Conv2d(2 * num_feat, 4 * num_feat, 3, padding=1)
        self.HRconv = nn.Conv2d(2 * num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, N_COLOURS, 3, padding=1)

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        wide = pad_to_multiple(widened(image), self.multiple)
        level_1 = _leaky(self.conv_first_1(wide.to(self.conv_last.weight.dtype)))
        level_2 = _leaky(self.conv_first_2(level_1))
        level_3 = _leaky(self.conv_first_3(level_2))
        features = self.feature_extraction(level_3)
        strength = snr_map(wide)[..., ::4, ::4]  # the nearest pixels, as torch.nn.functional.interpolate has them
        strength = strength.to(features.dtype)
        far = self.transformer(features, strength)
        x = self.recon_trunk(far * (1 - strength) + self.recon_trunk_light(features) * strength)
        x = _leaky(F.pixel_shuffle(self.upconv1(torch.cat([x, level_3], dim=1)), 2))
        x = _leaky(F.pixel_shuffle(self.upconv2(torch.cat([x, level_2], dim=1)), 2))
        x = self.conv_last(_leaky(self.HRconv(torch.cat([x, level_1], dim=1))))
        return (wide + x)[..., :height, :width]


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)
