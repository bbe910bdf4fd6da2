"""Image-Adaptive 3D LUT (Zeng et al., TPAMI 2020, arXiv 2009.14468), a target model.

A small network looks at a thumbnail of the image and says how to mix learned 3D tables; each pixel is looked up in the
mixture:

    w = classifier(thumbnail),   T = sum_k w_k LUT_k,   out = T(image), trilinearly

The names and shapes of the parameters are those of the public repository (github.com/HuiZeng/Image-Adaptive-3DLUT,
Apache-2.0); the code is new. Its look-up reads the wrong memory for batches of more than one image; this one does not.

Published weights are two files (for FiveK, those of ``pretrained_models/sRGB``).
``path: {pretrain_network_g: DIR/LUTs.pth}`` loads both: `load_checkpoint` takes ``classifier.pth`` from beside the
tables. The weights for 16-bit CIE XYZ input were trained on PNG files read by OpenCV without reordering: feed them the
channels in the reverse of the file's order (blue, green, red). The public variants with ResNet-18 (PPR10K) and for
unpaired training are not offered.

Recipes have the terms of the published loss besides the mean squared error. ``1e-4 * mean(w ** 2)`` is
``train: activity_penalty: {module: classifier, weight: 1e-4}``; smooth and monotone tables are
``train: table_penalty: {axes: all}``, here of the table that an image gets (`semiisp_plugin.losses.table_regularity`).
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import check_at_least
from semiisp_plugin.archs.lookup import LookupNetwork, identity_lut_3d, look_up
from semiisp_plugin.archs.table_prediction import MIN_THUMBNAIL, Shrink, WideConv2d, five_convolutions
from semiisp_plugin.options.ranges import Channels, Decay, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register


class _Classifier(nn.Module):
    """(N, 3, H, W) -> weights of the tables (N, R)."""

    def __init__(self, n_ranks: int, n_base_feats: int, thumbnail: int, dropout: float, identity_start: bool) -> None:
        super().__init__()
        # Over all that five halvings leave of the thumbnail: 8 x 8 of 256.
        head = WideConv2d(8 * n_base_feats, n_ranks, -(-thumbnail // 32))
        (nn.init.zeros_ if identity_start else nn.init.xavier_normal_)(head.weight)
        if head.bias is not None:
            nn.init.ones_(head.bias)
        layers = itertools.chain(*five_convolutions(n_base_feats))
        self.model = nn.Sequential(Shrink(thumbnail), *layers, nn.Dropout(dropout), head)

    def forward(self, image: Tensor) -> Tensor:
        weights: Tensor = self.model(image)
        return weights.flatten(1)


class _Tables(nn.Module):
    """Weights (N, R) -> the mixtures of R learned 3D tables, (N, 3, V, V, V)."""

    def __init__(self, n_ranks: int, n_vertices: int) -> None:
        super().__init__()
        identity = identity_lut_3d(n_vertices)
        for rank in range(n_ranks):
            self.register_parameter(str(rank), nn.Parameter(identity if rank == 0 else torch.zeros_like(identity)))

    def forward(self, weights: Tensor) -> Tensor:
        with torch.autocast(device_type=weights.device.type, enabled=False):
            tables = torch.stack(list(self.parameters()))
            return torch.tensordot(weights, tables.to(weights.dtype), dims=1)


@register(ARCH_REGISTRY)
class ImageAdaptive3DLUT(LookupNetwork[Tensor]):
    """A 3D table for each image, mixed from a few learned ones by a network that sees a thumbnail.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped (the table is
    unbounded). Values outside [0, 1] in the input are clamped. Nothing is computed in a precision below
    float32, under ``torch.autocast`` neither. `prepare` gives the tables, (N, 3, V, V, V), indexed
    ``[n, output colour, blue, green, red]``.

    Args:
        n_ranks: Number of learned 3D tables that are mixed. Published: 3.
        n_vertices: V, vertices of the tables along each axis. Published: 33.
        n_base_feats: Channels of the first convolution, m: m, 2m, 4m, 8m, 8m. Published: 16.
        thumbnail: Side in pixels to which the image is resized (bilinear, both ways, aspect not kept) for the
            convolutions alone; the output keeps full resolution. Published: 256. Smaller ones, at least 32, are ours.
        dropout: Probability of the dropout before the last convolution, while training. Published: 0.5.
        identity_start: Ours, for short trainings: start from the network that returns its input. The published start
            (False) differs from it by the random weights of the last convolution. Loading weights overrides both.

    Raises:
        ValueError: An option is outside what is said above.
    """

    table_modules = ("luts",)  # see `semiisp_plugin.models.output_penalties`

    def __init__(
        self,
        n_ranks: Annotated[int, Meta(ge=1, le=1000)] = 3,
        n_vertices: Annotated[int, Meta(ge=2, le=256)] = 33,
        n_base_feats: Channels = 16,
        thumbnail: Thumbnail = 256,
        dropout: Decay = 0.5,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("ImageAdaptive3DLUT", 1, n_ranks=n_ranks, n_base_feats=n_base_feats)
        check_at_least("ImageAdaptive3DLUT", 2, n_vertices=n_vertices)
        check_at_least("ImageAdaptive3DLUT", MIN_THUMBNAIL["light"], thumbnail=thumbnail)
        self.classifier = _Classifier(n_ranks, n_base_feats, thumbnail, dropout, identity_start)
        self.luts = _Tables(n_ranks, n_vertices)

    def decide(self, image: Tensor) -> Tensor:
        """See `PreparedNetwork.decide`."""
        tables: Tensor = self.luts(self.classifier(image))
        return tables

    def treat(self, image: Tensor, tables: Tensor, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PreparedNetwork.treat`."""
        return look_up(image, tables.to(image.dtype))
