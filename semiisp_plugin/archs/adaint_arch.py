"""AdaInt: 3D tables with adaptive intervals (Yang et al., CVPR 2022, arXiv 2204.13983), a target model.

As Image-Adaptive 3D LUT, a network looks at a thumbnail of the image and mixes learned 3D tables. Here it says for each
colour where the table's vertices lie as well, so that they are close where colours change quickly:

    image -> thumbnail -> features f
    T   = sum_r w_r B_r,   w = W f + b          3D table
    p_c = (0, cumsum(softmax(A_c f + a_c)))     places of its vertices along each axis
    out = T(image), trilinear between the vertices at p

The names and shapes of the parameters are those of the public repository (github.com/ImCharlesY/AdaInt, Apache-2.0), so
that its weights load by one line, ``path: {pretrain_network_g: AiLUT-FiveK-sRGB.pth}``; the code is new. The public
variant with ResNet-18 (PPR10K) is not offered.

Recipes have the terms of the published loss besides the mean squared error. ``1e-4 * mean(w ** 2)`` is
``train: activity_penalty: {module: lut_generator.weights_generator, weight: 1e-4}``; monotone tables are
``train: table_penalty: {axes: all, smoothness: 0}``, here of the table that an image gets
(`semiisp_plugin.losses.table_regularity`). The published training keeps the vertices evenly spaced for five epochs and
gives their places a tenth of the learning rate; here nothing does.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least
from semiisp_plugin.archs.lookup import LookupNetwork, identity_lut_3d, look_up
from semiisp_plugin.archs.table_prediction import MIN_THUMBNAIL, LightBackbone, TableBank, WideLinear
from semiisp_plugin.options.ranges import Channels, Decay, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register


class AdaIntTables(NamedTuple):
    """What the network predicts for a batch of N images.

    Attributes:
        lut: (N, 3, V, V, V), unbounded; the axes after the output colour are blue, green, red (red runs fastest).
        vertices: (N, 3, V), of red, green and blue: the inputs at which the vertices lie, ascending from 0 to 1.
    """

    lut: Tensor
    vertices: Tensor


class _Intervals(nn.Module):
    """Features (N, F) -> places of the vertices (N, 3, V), float32 at least; evenly spaced at the start."""

    def __init__(self, n_features: int, n_vertices: int) -> None:
        super().__init__()
        self.intervals_generator = WideLinear(n_features, N_COLOURS * (n_vertices - 1))
        nn.init.zeros_(self.intervals_generator.weight)
        nn.init.ones_(self.intervals_generator.bias)

    def forward(self, features: Tensor) -> Tensor:
        intervals: Tensor = self.intervals_generator(features)
        return F.pad(intervals.unflatten(1, (N_COLOURS, -1)).softmax(-1).cumsum(-1), (1, 0))


@register(ARCH_REGISTRY)
class AdaInt(LookupNetwork[AdaIntTables]):
    """A 3D table for each image, mixed from a few learned ones, with vertices where the image needs them.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped (the table is
    unbounded). Values outside [0, 1] in the input are clamped. Nothing is computed in a precision below float32, under
    ``torch.autocast`` neither.

    Args:
        n_ranks: Number of learned 3D tables that are mixed. Published: 3.
        n_vertices: V, vertices of the tables along each axis. Published: 33.
        n_base_feats: Channels of the first convolution, m: m, 2m, 4m, 8m, 8m. Published: 16.
        thumbnail: Side in pixels to which the image is resized (bilinear, both ways, aspect not kept) for the
            convolutions alone; the output keeps full resolution. Published: 256. Smaller ones, at least 32, are ours.
        dropout: Probability of the dropout before the last pooling, while training. Published: 0.5.
        identity_start: Ours, for short trainings: start from the network that returns its input. The published start
            (False) differs from it by the random weights of the mixture. Loading weights overrides both.

    Raises:
        ValueError: An option is outside what is said above.
    """

    table_modules = ("lut_generator.table",)  # see `semiisp_plugin.models.output_penalties`

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
        check_at_least("AdaInt", 1, n_ranks=n_ranks, n_base_feats=n_base_feats)
        check_at_least("AdaInt", 2, n_vertices=n_vertices)
        check_at_least("AdaInt", MIN_THUMBNAIL["light"], thumbnail=thumbnail)
        self.backbone = LightBackbone(n_base_feats, thumbnail, dropout)
        n_features = self.backbone.out_features
        self.lut_generator = TableBank(n_features, n_ranks, identity_lut_3d(n_vertices))
        self.adaint = _Intervals(n_features, n_vertices)
        if identity_start:
            self.lut_generator.set_identity()

    def decide(self, image: Tensor) -> AdaIntTables:
        """See `PreparedNetwork.decide`."""
        features = self.backbone(image)
        return AdaIntTables(self.lut_generator(features)[1], self.adaint(features))

    def treat(self, image: Tensor, tables: AdaIntTables, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PreparedNetwork.treat`."""
        lut, vertices = (table.to(image.dtype) for table in tables)
        # NaN of the vertices, which coordinates do not show, reaches all pixels through the table.
        lut = lut + 0 * vertices.sum((1, 2))[:, None, None, None, None]
        return look_up(image, lut, vertices)
