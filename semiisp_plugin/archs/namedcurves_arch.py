"""NamedCurves: learned image enhancement by colour naming (Serrano-Lozano et al., ECCV 2024), a target model.

"NamedCurves: Learned Image Enhancement via Color Naming". A small U-shaped network (``backbone``) makes a first image
b. Its colours are divided into six groups of names; each group k gets a curve of each channel, whose eleven control
points P rise from 0 to 1:

    y_k(b) = sum_j P_kj C(10, j) (1 - b)^(10 - j) b^j
    z_k    = y_k + what an attention of b over y_k brings
    out    = mean of z_k over the groups that the pixel's colour has more than 0.2 of

Names come in steps of 8 levels, so rounding can change a few pixels visibly, in the published network too. Where no
group has more than 0.2 of a pixel, the published mean is of nothing; here it is that of the group with most.

Its loss is MSE, SSIM in windows of 5 (their sigma, 1.5, is ours), and half the squared error of b,
``train: deep_supervision: {module: backbone, weight: 0.5}``. The filter does not see that last term, and a pseudo
sample that it drops does not pay it.

Written from a description of layers, sizes and names of parameters, not from the public code
(github.com/davidserra9/namedcurves), which has no licence. Its names and shapes are these; its files, releases on
GitHub, were not tried. Ours, where that leaves it open: a decoder's layers come before its enlargement, and pooling of
the skip connections pads by one pixel.
"""

from __future__ import annotations

import math
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least, pad_to_multiple
from semiisp_plugin.archs.colour_names import GROUPS, colour_maps, hue_table, read_table
from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.options.ranges import Channels
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["NamedCurves"]

_CHANNELS = (4, 8, 16)
_DEGREE = 10
_PRESENT = 0.2
_LEAST = 8  # pixels a side: one place of the attention


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups)


class _Depthwise(nn.Module):
    """1x1, depth-wise 3x3, ELU, 1x1: (N, C, H, W) -> (N, C', H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self._conv0 = _conv(inputs, outputs, 1)
        self._dw_conv = _conv(outputs, outputs, groups=outputs)
        self._conv1 = _conv(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv1(F.elu(self._dw_conv(self._conv0(x))))
        return out


class _Base(_Depthwise):
    """Two residual steps, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self._conv2 = _conv(channels, channels, 1)
        self._conv3 = _conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + super().forward(x)
        return x + self._conv3(F.elu(self._conv2(x)))


class _Inverse(_Depthwise):
    """To fewer channels, (N, C, H, W) -> (N, C', H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self._conv2 = _conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.relu(self._conv2(x))


class _Attention(nn.Module):
    """Two gates by the mean and the largest of a pixel's channels, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._spatial_attention_conv = _conv(2, channels)
        self._channel_attention_conv0 = _conv(1, channels, 1)
        self._channel_attention_conv1 = _conv(channels, channels, 1)
        self._out_conv = _conv(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        first = self._spatial_attention_conv(torch.cat([mean, x.amax(1, keepdim=True)], 1)).sigmoid()
        second = self._channel_attention_conv1(F.relu(self._channel_attention_conv0(mean))).sigmoid()
        return x + self._out_conv(torch.cat([first * x, second * x], 1))


class _Tail(nn.Module):
    """Gates of the three colours, (N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        for i, kernel in enumerate((7, 5, 3)):
            self.add_module(f"_conv{i}", _conv(N_COLOURS, N_COLOURS, kernel))

    def forward(self, x: Tensor) -> Tensor:
        gate = x
        for i in range(3):
            gate = self.get_submodule(f"_conv{i}")(gate)
            gate = F.relu(gate) if i < 2 else gate.sigmoid()
        return x * gate


class _SkipConnection(nn.Module):
    """Neighbourhoods of two sizes and the whole image, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        for dilation in (2, 4):
            layers = [
                *(_conv(channels, features, dilation=dilation), nn.LeakyReLU()),
                *(_conv(features, features, dilation=dilation), nn.LeakyReLU()),
            ]
            self.add_module(f"midnet{dilation}", nn.Sequential(*layers))
        self.globnet = nn.Sequential(
            *(_conv(channels, features, stride=2), nn.LeakyReLU(), nn.MaxPool2d(3, 2, 1)),
            *(_conv(features, features, stride=2), nn.LeakyReLU(), nn.MaxPool2d(3, 2, 1)),
            *(_conv(features, features, stride=2), nn.LeakyReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(features, features)),
        )
        self.conv_fuse = _conv(channels + 3 * features, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.globnet(x)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        near = [self.get_submodule(f"midnet{dilation}")(x) for dilation in (2, 4)]
        out: Tensor = self.conv_fuse(torch.cat([x, *near, whole], 1))
        return out


class _Backbone(nn.Module):
    """Image (N, 3, H, W) -> first image, of its size, in [0, 1], float32 at least."""

    def __init__(self, features: int) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(_conv(inputs, outputs), _Base(outputs), _Base(outputs), _Attention(outputs))

        c0, c1, c2 = _CHANNELS
        self._encoders = nn.ModuleList([stage(N_COLOURS, c0), stage(c0, c1), stage(c1, c2)])
        self._decoders = nn.ModuleList([stage(c2, c1), stage(2 * c1, c0)])
        self._inverse_bock = _Inverse(2 * c0, N_COLOURS)  # the published name
        self._attention_tail = _Tail()
        self._residual_connections = nn.ModuleList([_SkipConnection(c, features) for c in _CHANNELS])
        # What is not used must not wait for a gradient: training on several devices would.
        self._residual_connections[-1].requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.to(self._attention_tail.get_parameter("_conv0.weight").dtype)
        skips = []
        for encoder, connection in zip(self._encoders[:2], self._residual_connections[:2], strict=True):
            x = encoder(x)
            skips.append(connection(x))
            x = F.max_pool2d(x, 2)
        x = self._encoders[2](x)
        for decoder, skip in zip(self._decoders, reversed(skips), strict=True):
            x = F.interpolate(decoder(x), size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, skip], 1)
        change = self._attention_tail(self._inverse_bock(x))
        wide = torch.promote_types(image.dtype, torch.float32)
        return (image.to(wide) + change.to(wide)).clamp(0, 1)


class _Features(nn.Module):
    """What all curves are predicted from, (N, 3, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.main = nn.Sequential(
            *(_conv(N_COLOURS, c // 8), nn.ReLU(), _conv(c // 8, c // 4), nn.ReLU(), _conv(c // 4, c // 2), nn.ReLU()),
            *(nn.Dropout(0.2), _conv(c // 2, c), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x)
        return out


class _ColourBranch(nn.Module):
    """Features with a group's map (N, C + 1, H, W) -> control points (N, 3, 11)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.color_branch = nn.Sequential(
            *(_conv(c + 1, c), nn.ReLU(), nn.MaxPool2d(2), _conv(c, c // 2), nn.ReLU(), nn.MaxPool2d(2)),
            *(_conv(c // 2, c // 2), nn.ReLU(), _conv(c // 2, N_COLOURS * _DEGREE)),
        )

    def forward(self, x: Tensor) -> Tensor:
        steps = self.color_branch(x)
        wide = torch.promote_types(steps.dtype, torch.float32)
        steps = steps.to(wide).mean((2, 3)).unflatten(1, (N_COLOURS, _DEGREE)).sigmoid()
        return F.pad((steps / steps.sum(2, keepdim=True)).cumsum(2), (1, 0))


class _Curves(nn.Module):
    """Image and maps (N, 3, H, W), (N, 6, H, W) -> control points (N, 3, 6, 11)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.contextual_feature_extractor = _Features(channels)
        self.color_branches = nn.ModuleList(_ColourBranch(channels) for _ in GROUPS)

    def forward(self, image: Tensor, maps: Tensor) -> Tensor:
        features = self.contextual_feature_extractor(image)
        points = [
            branch(torch.cat([features, maps[:, i : i + 1].to(features.dtype)], 1))
            for i, branch in enumerate(self.color_branches)
        ]
        return torch.stack(points, 2)


class _Fusion(nn.Module):
    """Attention of an image over a curve's image, both (N, 3, H, W), which is added to the latter."""

    def __init__(self) -> None:
        super().__init__()

        def places() -> nn.Sequential:
            layers = (_conv(N_COLOURS, 8, 1), nn.ReLU(), nn.MaxPool2d(4), _conv(8, 16, 1), nn.ReLU(), nn.MaxPool2d(2))
            return nn.Sequential(*layers)

        self.gamma = nn.Parameter(torch.zeros(1), requires_grad=False)  # of the files alone
        self.query_conv, self.key_conv, self.value_conv = places(), places(), places()
        self.upsample = nn.Sequential(
            *(_conv(16, 8, 1), nn.ReLU(), nn.Upsample(scale_factor=4), _conv(8, 8, 1), nn.ReLU()),
            *(_conv(8, N_COLOURS, 1), nn.ReLU()),
        )
        self.last_conv = _conv(N_COLOURS, N_COLOURS, 1)

    def forward(self, image: Tensor, curved: Tensor) -> Tensor:
        query, key, value = self.query_conv(image), self.key_conv(curved), self.value_conv(curved)
        q, k, v = (x.flatten(2).transpose(1, 2)[:, None] for x in (query, key, value))
        # It keeps no matrix of all pairs of places.
        found = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0].transpose(1, 2)
        found = self.upsample(found.unflatten(2, query.shape[2:]))
        found = F.interpolate(found, size=image.shape[2:], mode="bilinear", align_corners=False)
        out: Tensor = self.last_conv(found)
        return out


class _LocalFusion(nn.Module):
    """First image (N, 3, H, W), the curves' images (N, 3, 6, H, W) and maps (N, 6, H, W) -> (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_fusion = nn.ModuleList(_Fusion() for _ in GROUPS)

    def forward(self, image: Tensor, curved: Tensor, maps: Tensor) -> Tensor:
        # The group with most is one of them in any case: a pixel may have no more than 1/6 of each.
        present = (maps > _PRESENT) | (maps == maps.amax(1, keepdim=True))
        dtype = self.attention_fusion[0].get_parameter("gamma").dtype
        total = torch.zeros_like(image)
        for i, fusion in enumerate(self.attention_fusion):
            added = fusion(image.to(dtype), curved[:, :, i].to(dtype)).to(total.dtype)
            total = total + present[:, i : i + 1] * (curved[:, :, i] + added)
        return total / present.sum(1, keepdim=True)


@register(ARCH_REGISTRY)
class NamedCurves(ImageNetwork):
    """A first image, Bezier curves for each group of colour names, and an attention that joins them.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, in [0, 1]. A local network,
    whose curves are those of the whole image. Sides below 8 pixels are padded by reflection (ours). The attention takes
    all pairs of places, one for each 8x8 pixels: of large images it costs more than all else, so run them in tiles.
    Under ``torch.autocast`` the curves are float32. In training there is dropout.

    The defaults are the published network (993,600 parameters, of which 183,062 are kept for the files alone).

    Args:
        skip_feat: Channels of the backbone's skip connections.
        curve_feat: Channels of the features that curves are predicted from, a multiple of 8.
        colour_table: File of the published table of colour names (``.mat`` or ``.npy``, 32768 x 11), which published
            weights need. It is research data (van de Weijer et al., 2009) that the plugin does not hold. None: a table
            of the plugin's own, by hue. See `semiisp_plugin.archs.colour_names`.

    Raises:
        ValueError: An option is outside what is said above, or the file is not such a table.
    """

    table: Tensor
    bernstein: Tensor

    def __init__(
        self,
        skip_feat: Channels = 64,
        curve_feat: Annotated[int, Meta(ge=8, le=4096)] = 64,
        colour_table: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least("NamedCurves", 1, skip_feat=skip_feat)
        if curve_feat < 8 or curve_feat % 8:
            raise ValueError(f"NamedCurves: curve_feat is {curve_feat}; use a positive multiple of 8.")
        self.backbone = _Backbone(skip_feat)
        self.bcpe = _Curves(curve_feat)
        self.local_fusion = _LocalFusion()
        self.register_buffer("table", hue_table() if colour_table is None else read_table(colour_table), False)
        binomials = [float(math.comb(_DEGREE, j)) for j in range(_DEGREE + 1)]
        self.register_buffer("bernstein", torch.tensor(binomials), False)

    def curved(self, image: Tensor, points: Tensor) -> Tensor:
        """Each curve of an image.

        Args:
            image: (N, 3, H, W) in [0, 1], float32 at least.
            points: Control points, (N, 3, K, 11).

        Returns:
            (N, 3, K, H, W).
        """
        x = image.flatten(2)[:, :, None]
        j = torch.arange(_DEGREE + 1, device=image.device)[:, None]
        basis = self.bernstein.to(x.dtype)[:, None] * x.pow(j) * (1 - x).pow(_DEGREE - j)
        with torch.autocast(image.device.type, enabled=False):
            return (points.to(x.dtype) @ basis).unflatten(3, image.shape[2:])

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        height, width = image.shape[-2:]
        first = self.backbone(pad_to_multiple(image, 1, _LEAST))
        maps = colour_maps(first, self.table)
        weights = cast(nn.Conv2d, self.bcpe.contextual_feature_extractor.main[0]).weight
        points = self.bcpe(first.to(weights.dtype), maps)
        out = self.local_fusion(first, self.curved(first, points), maps)
        return cast(Tensor, out)[..., :height, :width].clamp(0, 1)
