"""HDRNet: deep bilateral learning for image enhancement (Gharbi et al., SIGGRAPH 2017), a target model.

"Deep Bilateral Learning for Real-Time Image Enhancement". A network looks at a thumbnail and predicts a bilateral grid
of affine colour transforms. Each pixel takes the one at its place and at its guide, a learned grey value, so that
transforms follow edges:

    splat features -> local (3x3 convolutions), global (down to a vector); ReLU(local + global) -> 1x1 -> grid
    g   = guide(pixel)                                      in [0, 1], of the pixel alone
    out = A(x, y, g) [R, G, B, 1]                           trilinear in the grid

The layers and their start are those of the public repository (github.com/google/hdrnet, Apache-2.0),
``HDRNetPointwiseNNGuide`` (by which FiveK was learned there) and ``HDRNetCurves``, without the optional batch norms of
the predicting network; the code is new, in PyTorch. That repository holds no weights; names of the parameters are ours.
The running means of the guide's batch norm move by 0.1 a step, there by 0.001, with which short trainings do not
settle.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.bilateral_slice import slice_and_apply
from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least
from semiisp_plugin.archs.image_network import PreparedNetwork
from semiisp_plugin.options.ranges import Channels, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["HDRNet"]

_KNOTS = 16  # of each curve of the guide


class _HalvingConv(nn.Conv2d):
    """3x3 convolution and ReLU, (N, C, H, W) -> (N, C', H / 2, W / 2), of even sides."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        # A border at the right and the bottom alone, as TensorFlow's "same".
        return F.relu(super().forward(F.pad(x, (0, 1, 0, 1))))


class _Coefficients(nn.Module):
    """Thumbnail (N, 3, t, t) -> bilateral grid (N, 12, D, s, s)."""

    def __init__(self, bins: int, side: int, multiplier: int, thumbnail: int) -> None:
        super().__init__()
        unit = bins * multiplier
        halvings = (thumbnail // side).bit_length() - 1
        widths = [N_COLOURS, *(unit * 2**i for i in range(halvings))]
        wide = 8 * unit
        self.bins = bins
        self.splat = nn.Sequential(*(_HalvingConv(a, b) for a, b in itertools.pairwise(widths)))
        self.global_features = nn.Sequential(
            _HalvingConv(widths[-1], wide),
            _HalvingConv(wide, wide),
            nn.Flatten(),
            nn.Linear(wide * (side // 4) ** 2, 32 * unit),
            nn.ReLU(),
            nn.Linear(32 * unit, 16 * unit),
            nn.ReLU(),
            nn.Linear(16 * unit, wide),
        )
        self.local_features = nn.Sequential(
            nn.Conv2d(widths[-1], wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        )
        self.prediction = nn.Conv2d(wide, (N_COLOURS + 1) * N_COLOURS * bins, 1)

    def forward(self, thumbnail: Tensor) -> Tensor:
        splat = self.splat(thumbnail)
        fused = F.relu(self.local_features(splat) + self.global_features(splat)[:, :, None, None])
        grid: Tensor = self.prediction(fused)
        return grid.unflatten(1, (-1, self.bins))

    def set_identity(self) -> None:
        """Predict for every image the transforms that change nothing."""
        nn.init.zeros_(self.prediction.weight)
        if self.prediction.bias is not None:
            with torch.no_grad():
                self.prediction.bias.copy_(torch.eye(N_COLOURS + 1, N_COLOURS).flatten().repeat_interleave(self.bins))


class _NetworkGuide(nn.Module):
    """A network of each pixel, (N, 3, H, W) -> (N, 1, H, W), in the image's precision."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(N_COLOURS, channels, 1, bias=False)
        self.norm = _CentredBatchNorm(channels)
        self.conv2 = nn.Conv2d(channels, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm(F.conv2d(image, self.conv1.weight.to(image.dtype))))
        return _mixed(x, self.conv2).sigmoid()


class _CentredBatchNorm(nn.Module):
    """Batch norm that learns an offset and no scale, in the precision of its input (torch's takes that of its own)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            with torch.no_grad():
                # torch's 0.1; TensorFlow's 0.001, as published, settles only after thousands of steps.
                self.running_mean.lerp_(mean.to(self.running_mean), 0.1)
                self.running_var.lerp_(var.to(self.running_var), 0.1)
        scale = (var.to(x.dtype) + 1e-3).rsqrt()
        shift = self.bias.to(x.dtype) - mean.to(x.dtype) * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class _CurvesGuide(nn.Module):
    """A matrix, a curve of each colour and their mixture, (N, 3, H, W) -> (N, 1, H, W), in the image's precision."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Conv2d(N_COLOURS, N_COLOURS, 1)
        self.shifts = nn.Parameter((torch.arange(_KNOTS) / _KNOTS).repeat(N_COLOURS, 1))
        self.slopes = nn.Parameter(torch.eye(1, _KNOTS).repeat(N_COLOURS, 1))
        self.mixture = nn.Conv2d(N_COLOURS, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = _mixed(image, self.matrix)
        shifts, slopes = (values.to(x.dtype)[:, :, None, None] for values in (self.shifts, self.slopes))
        curves = torch.zeros_like(x)
        for k in range(_KNOTS):
            curves = torch.addcmul(curves, slopes[:, k], F.relu(x - shifts[:, k]))
        return _mixed(curves, self.mixture).clamp(0, 1)


def _mixed(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution in the precision of its input."""
    assert conv.bias is not None
    return F.conv2d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype))


@register(ARCH_REGISTRY)
class HDRNet(PreparedNetwork[Tensor]):
    """Bilateral grid of affine colour transforms, predicted from a thumbnail, read by place and by a learned guide.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped. Under
    ``torch.autocast`` the grid is predicted in the lower precision; guide, slicing and transforms are float32.

    The defaults are the published network for FiveK (482,049 parameters; 482,080 with the guide of curves).

    Args:
        guide: ``"network"``, two 1x1 convolutions with a batch norm (published for FiveK), or ``"curves"``, as the
            paper describes.
        luma_bins: Bins of the guide in the grid.
        spatial_bin: Places of the grid along each side, a multiple of 4.
        channel_multiplier: Factor of all channels of the predicting network, which are multiples of ``luma_bins``.
        thumbnail: Side in pixels to which the image is resized (nearest pixel, as published; aspect not kept) for the
            predicting network alone: ``spatial_bin`` times a power of 2, from 2 on. Published: 256.
        guide_feat: Channels of the guide's network; ignored by ``"curves"``.
        identity_start: Ours, for short trainings: start from the network that returns its input. Loading weights
            overrides it.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        guide: Literal["network", "curves"] = "network",
        luma_bins: Annotated[int, Meta(ge=1, le=256)] = 8,
        spatial_bin: Annotated[int, Meta(ge=4, le=256)] = 16,
        channel_multiplier: Annotated[int, Meta(ge=1, le=64)] = 1,
        thumbnail: Thumbnail = 256,
        guide_feat: Channels = 16,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        if guide not in ("network", "curves"):
            raise ValueError(f"HDRNet: guide is {guide!r}; use 'network' or 'curves'.")
        check_at_least("HDRNet", 1, luma_bins=luma_bins, channel_multiplier=channel_multiplier, guide_feat=guide_feat)
        if spatial_bin < 4 or spatial_bin % 4:
            raise ValueError(f"HDRNet: spatial_bin is {spatial_bin}; use a positive multiple of 4.")
        if thumbnail not in [spatial_bin * 2**i for i in range(1, 13)]:
            fitting = ", ".join(str(spatial_bin * 2**i) for i in range(1, 6))
            raise ValueError(
                f"HDRNet: thumbnail is {thumbnail}; use spatial_bin ({spatial_bin}) times a power of 2: {fitting}, ..."
            )
        self.thumbnail = thumbnail
        self.coefficients = _Coefficients(luma_bins, spatial_bin, channel_multiplier, thumbnail)
        self.guide = _NetworkGuide(guide_feat) if guide == "network" else _CurvesGuide()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _initialise(module)
        if isinstance(self.guide, _CurvesGuide):
            with torch.no_grad():
                self.guide.matrix.weight[:, :, 0, 0] = torch.eye(N_COLOURS) + 1e-4 * torch.randn(1)
            nn.init.constant_(self.guide.mixture.weight, 1 / N_COLOURS)
        if identity_start:
            self.coefficients.set_identity()

    def decide(self, image: Tensor) -> Tensor:
        """The bilateral grid, (N, 12, luma_bins, spatial_bin, spatial_bin)."""
        # By whole numbers: resampling functions round the places each in a way of its own.
        places = torch.arange(self.thumbnail, device=image.device)
        for axis in (2, 3):
            image = image.index_select(axis, places * image.shape[axis] // self.thumbnail)
        grid: Tensor = self.coefficients(image.to(self.coefficients.prediction.weight.dtype))
        return grid

    def treat(self, tile: Tensor, context: Tensor, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PreparedNetwork.treat`."""
        with torch.autocast(device_type=tile.device.type, enabled=False):
            return slice_and_apply(context, self.guide(tile), tile, box, size)


def _initialise(layer: nn.Conv2d | nn.Linear) -> None:
    """TensorFlow's ``variance_scaling_initializer``: a normal distribution cut off at twice its standard deviation."""
    std = math.sqrt(1.3 * 2 / layer.weight[0].numel())
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
