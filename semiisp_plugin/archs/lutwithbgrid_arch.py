"""LUTwithBGrid: bilateral grids before a 3D table (Kim and Cho, ECCV 2024), a target model.

"Image-adaptive 3D Lookup Tables for Real-time Image Enhancement with Bilateral Grids". A network looks at a thumbnail
of the image and mixes learned bilateral grids and learned 3D tables:

    g   = grids at (column, row, R), (column, row, G), (column, row, B)     2 maps each, trilinear
    x   = clamp(C (g, image) + c)                                           1x1 convolution
    out = max(T(x), 0)                                                      tetrahedral

The names and shapes of the parameters are those of the public repository (github.com/WontaeaeKim/LUTwithBGrid,
Apache-2.0), so that its weights for FiveK load by one line, ``path: {pretrain_network_g: FiveK_sRGB.pth}``; the code is
new. The weights for 16-bit CIE XYZ input were trained on PNG files read by OpenCV without reordering: feed them the
channels in the reverse of the file's order (blue, green, red). The public variant with ResNet-18 (PPR10K) is not
offered.

**Its grids are not spatial as published.** The public code divides a pixel's column by W - 1 as whole numbers: 0 in all
columns but the last, which gets 1; rows likewise. Of the published grids exactly the four corners differ from their
start: what was trained, and scored on FiveK, is three curves a colour for all of an image but its last row and column.
``coordinates: published`` does the same; ``exact`` is what the paper describes.

Recipes have these terms of the published loss besides the mean squared error: ``1e-4 * mean(w ** 2)``, which is
``train: activity_penalty: {module: gen_3d_lut.weights_generator, weight: 1e-4}``, and smooth and monotone tables,
``train: table_penalty: {axes: all}``, here of the table that an image gets (`semiisp_plugin.losses.table_regularity`).
Its LPIPS and its difference of colours are not offered.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least
from semiisp_plugin.archs.lookup import LookupNetwork, identity_lut_3d, sample_tetrahedral, slice_corners, slice_grids
from semiisp_plugin.archs.table_prediction import MIN_THUMBNAIL, Shrink, TableBank, WideConv2d, five_convolutions
from semiisp_plugin.options.ranges import Channels, Decay, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register

_MAPS = 2  # for each guide
_PUBLISHED_SIDE = 8  # in pixels, of the features


class LUTwithBGridTables(NamedTuple):
    """What the network predicts for a batch of N images.

    Attributes:
        lut: (N, 3, V, V, V), unbounded; the axes after the output colour are blue, green, red (red runs fastest).
        grids: (N, 6, V, V, V), two for red, two for green, two for blue; the last axes are the colour, row, column.
    """

    lut: Tensor
    grids: Tensor


class _Backbone(nn.Module):
    """(N, 3, H, W) -> (N, 32 m)."""

    def __init__(self, n_base_feats: int, thumbnail: int, dropout: float) -> None:
        super().__init__()
        # The published pooling leaves 2 x 2 of 8 x 8, without the last row and column; of other sides it would not.
        published = -(-thumbnail // 32) == _PUBLISHED_SIDE
        pool = nn.AvgPool2d(5, stride=2) if published else nn.AdaptiveAvgPool2d(2)
        layers = [layer for stage in five_convolutions(n_base_feats) for layer in stage]
        self.model = nn.Sequential(Shrink(thumbnail), *layers, nn.Dropout(dropout), pool)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.model(image)
        return features.flatten(1)


class _Slice(nn.Module):
    """Maps (N, 6, H, W) and image (N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1d = WideConv2d(N_COLOURS * (_MAPS + 1), N_COLOURS, 1)
        nn.init.xavier_normal_(self.conv_1d.weight)

    def set_identity(self) -> None:
        """Half the image, and half the first map of each colour, which starts as that colour."""
        with torch.no_grad():
            self.conv_1d.weight.zero_()
            self.conv_1d.weight[range(N_COLOURS), range(0, N_COLOURS * _MAPS, _MAPS)] = 0.5
            self.conv_1d.weight[range(N_COLOURS), range(N_COLOURS * _MAPS, N_COLOURS * (_MAPS + 1))] = 0.5
            if self.conv_1d.bias is not None:
                self.conv_1d.bias.zero_()

    def forward(self, maps: Tensor, image: Tensor) -> Tensor:
        mixed: Tensor = self.conv_1d(torch.cat([maps, image], 1))
        return mixed


@register(ARCH_REGISTRY)
class LUTwithBGrid(LookupNetwork[LUTwithBGridTables]):
    """Bilateral grids and a 3D table for each image, both mixed from learned ones.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, 0 or more. Values outside
    [0, 1] in the input are clamped where grids are looked up. Nothing is computed in a precision below float32, under
    ``torch.autocast`` neither.

    Args:
        n_ranks: Number of learned tables, and of learned grids, that are mixed. Published: 8.
        n_vertices: V, vertices of tables and grids along each axis. Published: 17.
        n_base_feats: Channels of the first convolution, m: m, 2m, 4m, 8m, 8m. Published: 8.
        coordinates: Where pixels lie in the grids; see the module's docstring. ``"published"``: all in the first column
            and row, but for the image's last. Weights of the public repository need it. ``"exact"``: from the first
            to the last column and row, as the paper says; nobody has published results of it.
        thumbnail: Side in pixels to which the image is resized (bilinear, both ways, aspect not kept) for the
            convolutions alone; the output keeps full resolution. Published: 256. Smaller ones, at least 32, are ours.
        dropout: Probability of the dropout before the pooling, while training. Published: 0.5.
        identity_start: Ours, for short trainings: start from the network that returns its input. The published start
            (False) differs from it by random weights. Loading weights overrides both.

    Raises:
        ValueError: An option is outside what is said above.
    """

    table_modules = ("gen_3d_lut.table",)  # see `semiisp_plugin.models.output_penalties`

    def __init__(
        self,
        n_ranks: Annotated[int, Meta(ge=1, le=1000)] = 8,
        n_vertices: Annotated[int, Meta(ge=2, le=256)] = 17,
        n_base_feats: Channels = 8,
        coordinates: Literal["published", "exact"] = "published",
        thumbnail: Thumbnail = 256,
        dropout: Decay = 0.5,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("LUTwithBGrid", 1, n_ranks=n_ranks, n_base_feats=n_base_feats)
        check_at_least("LUTwithBGrid", 2, n_vertices=n_vertices)
        check_at_least("LUTwithBGrid", MIN_THUMBNAIL["light"], thumbnail=thumbnail)
        if coordinates not in ("published", "exact"):
            raise ValueError(f"LUTwithBGrid: coordinates is {coordinates!r}; use 'published' or 'exact'.")
        self.coordinates = coordinates
        self.backbone = _Backbone(n_base_feats, thumbnail, dropout)
        n_features = 32 * n_base_feats
        lut = identity_lut_3d(n_vertices)
        # The first map of each colour is that colour, which rises along the grid's first axis as blue does in a table.
        grids = torch.stack([lut[2], torch.zeros_like(lut[2])] * N_COLOURS)
        self.gen_3d_lut = TableBank(n_features, n_ranks, lut, bias=True)
        self.gen_bilateral = TableBank(n_features, n_ranks, grids, bank="basis_grids_bank", bias=True)
        self.slice = _Slice()
        if identity_start:
            self.gen_3d_lut.set_identity()
            self.gen_bilateral.set_identity()
            self.slice.set_identity()

    def decide(self, image: Tensor) -> LUTwithBGridTables:
        """See `PreparedNetwork.decide`."""
        features = self.backbone(image)
        return LUTwithBGridTables(self.gen_3d_lut(features)[1], self.gen_bilateral(features)[1])

    def treat(self, image: Tensor, tables: LUTwithBGridTables, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PreparedNetwork.treat`. NaN needs no care: the convolution takes all colours of a pixel."""
        lut, grids = (table.to(image.dtype) for table in tables)
        rows, columns = (
            self._places(start, length, whole, image)
            for start, length, whole in zip(box, image.shape[-2:], size, strict=True)
        )
        sliced = slice_corners if self.coordinates == "published" else slice_grids
        mixed = self.slice(sliced(image, grids, columns, rows), image)
        return sample_tetrahedral(mixed, lut).relu()

    def _places(self, start: int, length: int, whole: int, like: Tensor) -> Tensor:
        """Where the pixels of a tile lie along one axis of the grids, 0 to 1; of one pixel alone, 0."""
        share = torch.nan_to_num(torch.arange(start, start + length, device=like.device).to(like.dtype) / (whole - 1))
        return share.floor() if self.coordinates == "published" else share
