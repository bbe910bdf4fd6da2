"""SepLUT: separable image-adaptive lookup tables (Yang et al., ECCV 2022, arXiv 2207.08351), a target model.

A small network looks at a thumbnail of the image and predicts three 1D tables (one a colour, squashed by a sigmoid) and
a mixture of learned 3D tables. Every pixel goes through its 1D tables first, then through the 3D table:

    image -> thumbnail -> features f
    t_c = sigmoid(A f + a)                     1D tables, n_vertices_1d values a colour
    T   = sum_r w_r B_r,   w = W f + b         3D table, a mixture of n_ranks learned ones
    out = T(t_R(R), t_G(G), t_B(B))            linear and trilinear interpolation between the vertices

The names and shapes of the parameters are those of the public repository (github.com/ImCharlesY/SepLUT, Apache-2.0),
so that its weights load; the code is new. Both lookups are ``torch.nn.functional.grid_sample``: no extension to
compile, gradients everywhere, and the 1D tables stay 1D (the public training code turns them into 3D tables, which
gives the same numbers for more work). On CUDA the gradient of grid_sample adds up in no fixed order: runs repeat to
rounding, not bit by bit.

Published weights come as ``{"meta": ..., "state_dict": ...}``. In an option file they load with
``path: {pretrain_network_g: FILE.pth}``, for BasicSR's own models with ``param_key_g: state_dict`` besides; in Python
``load_state_dict`` takes the inner dictionary as it is. Files, with the options that they need:

* ``SepLUT-FiveK-sRGB-M8#3D17#1D17`` and ``-XYZ-``: the defaults (119,791 parameters);
* ``SepLUT-FiveK-sRGB-M6#3D9#1D9`` and ``-XYZ-``: ``n_base_feats: 6, n_vertices_3d: 9, n_vertices_1d: 9`` (47,175);
* ``SepLUT-FiveK-sRGB-M8#3D33#1D33``: ``n_vertices_3d: 33, n_vertices_1d: 33`` (411,343);
* ``SepLUT-PPR10KA-sRGB-Res18#3D17#1D17``: ``backbone: res18, n_ranks: 5`` (11,278,935);
* ``SepLUT-PPR10KA-sRGB-Res18#3D9#1D9``: the same with 9 vertices (11,203,863).

The files for PPR10K were not at hand; names and recorded outputs of that network are checked. The weights published for
16-bit CIE XYZ input were trained on PNG files read by OpenCV without reordering: feed them the channels in the reverse
of the file's order (blue, green, red). The public 8-bit tables (``en_quant``) are not offered.

What the public repository adds around the network and this file leaves to the trainer: the sparsity term
``1e-4 * mean(w ** 2)`` of its loss (``w`` is ``SepLUT.decide(image).weights``), which is
``train: activity_penalty: {module: lut3d_generator.weights_generator, weight: 1e-4}``, as in the recipes. Its terms for
smooth and monotone 3D tables are switched off there (factors of 0); ``train: table_penalty`` has such terms
(`semiisp_plugin.losses.table_regularity`).
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_at_least
from semiisp_plugin.archs.lookup import LookupNetwork, coordinates, identity_lut_3d, pass_nan, sample_1d, sample_3d
from semiisp_plugin.archs.table_prediction import MIN_THUMBNAIL, LightBackbone, Res18Backbone, TableBank, WideLinear
from semiisp_plugin.options.ranges import Channels, Decay, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["SepLUT", "SepLUTTables"]

_DEFAULT_THUMBNAIL = {"light": 256, "res18": 224}
# identity_start: the sigmoid that makes the curves cannot reach 0 or 1, and nearer to them it hardly has a slope.
_IDENTITY_MARGIN = 0.02


class SepLUTTables(NamedTuple):
    """What the network predicts for a batch of N images.

    Attributes:
        lut_1d: (N, 3, n_vertices_1d) in (0, 1), the curve of each colour at equally spaced inputs 0 ... 1; None when
            the 1D stage is switched off.
        lut_3d: (N, 3, V, V, V), V = n_vertices_3d, unbounded; the axes after the output colour are blue, green, red
            (red runs fastest); None when the 3D stage is switched off.
        weights: (N, n_ranks), the share of each learned 3D table; None when the 3D stage is switched off.
    """

    lut_1d: Tensor | None
    lut_3d: Tensor | None
    weights: Tensor | None


class _LUT1DGenerator(nn.Module):
    """Features (N, F) -> 1D tables (N, 3, V) in (0, 1)."""

    def __init__(self, n_features: int, n_vertices: int, color_share: bool) -> None:
        super().__init__()
        self.n_vertices = n_vertices
        self.lut1d_generator = WideLinear(n_features, n_vertices * (1 if color_share else N_COLOURS))

    def set_identity(self) -> None:
        """Predict for every image the curve that maps each value to itself, but for the margin at its ends."""
        curve = torch.linspace(0.0, 1.0, self.n_vertices).clamp(_IDENTITY_MARGIN, 1 - _IDENTITY_MARGIN)
        nn.init.zeros_(self.lut1d_generator.weight)
        with torch.no_grad():
            self.lut1d_generator.bias.view(-1, self.n_vertices).copy_(curve.logit())

    def forward(self, features: Tensor) -> Tensor:
        luts: Tensor = self.lut1d_generator(features)
        luts = luts.unflatten(1, (-1, self.n_vertices)).sigmoid()
        return luts.expand(-1, N_COLOURS, -1)


@register(ARCH_REGISTRY)
class SepLUT(LookupNetwork[SepLUTTables]):
    """Separable image-adaptive lookup tables: a cascade of 1D and 3D tables predicted from a thumbnail.

    Input (N, 3, H, W) RGB in [0, 1] of any size; output of the same size, float32 at least, not clamped (the 3D table
    is unbounded). Values outside [0, 1] in the input are clamped by the first lookup. Only ``"res18"`` is
    computed in a precision below float32, under ``torch.autocast``: bfloat16 is coarser than 8 bits.

    Args:
        n_ranks: Number of learned 3D tables that are mixed. Published: 3 (FiveK), 5 (PPR10K).
        n_vertices_3d: Vertices of the 3D table along each axis; 0 switches the 3D stage off. Published: 17, 9, 33.
        n_vertices_1d: Vertices of each 1D table; 0 switches the 1D stage off. Published: 17, 9, 33.
        lut1d_color_share: One 1D table for all three colours instead of three.
        backbone: ``"light"``, five convolutions (FiveK), or ``"res18"``, torchvision's ResNet-18 (PPR10K). The
            published training starts ResNet-18 from ImageNet weights; here it starts from random ones, nothing is
            downloaded.
        n_base_feats: Channels of the first convolution of the light backbone, m in the paper: m, 2m, 4m, 8m, 8m.
            Ignored by ``"res18"``. Published: 8 and 6.
        thumbnail: Side in pixels to which the image is resized (bilinear, both ways, aspect not kept) for the backbone
            alone; the output keeps full resolution. None is the published side, 256 for ``"light"`` and 224 for
            ``"res18"``. Smaller ones are ours, for a faster backbone (its cost goes with the square): at least 32
            (``"light"``) or 64 (``"res18"``).
        dropout: Probability of the dropout before the last pooling of the light backbone, while training. Published:
            0.5. Ignored by ``"res18"``.
        identity_start: Ours, for short trainings: start from the network that returns its input (within 0.02, at black
            and white, where a sigmoid cannot follow). The published start (False) has near-constant 1D tables and so
            returns a nearly uniform grey image. Loading weights overrides both.

    Raises:
        ValueError: An option is outside what is said above, or both stages are switched off.
    """

    table_modules = ("lut1d_generator", "lut3d_generator.table")  # see `semiisp_plugin.models.output_penalties`

    def __init__(
        self,
        n_ranks: Annotated[int, Meta(ge=1, le=1000)] = 3,
        n_vertices_3d: Annotated[int, Meta(ge=0, le=256)] = 17,
        n_vertices_1d: Annotated[int, Meta(ge=0, le=65_536)] = 17,
        lut1d_color_share: bool = False,
        backbone: Literal["light", "res18"] = "light",
        n_base_feats: Channels = 8,
        thumbnail: Thumbnail | None = None,
        dropout: Decay = 0.5,
        identity_start: bool = False,
    ) -> None:
        super().__init__()
        if backbone not in _DEFAULT_THUMBNAIL:
            raise ValueError(f"SepLUT: backbone is {backbone!r}; use 'light' or 'res18'.")
        for option, vertices in (("n_vertices_3d", n_vertices_3d), ("n_vertices_1d", n_vertices_1d)):
            if vertices < 0 or vertices == 1:
                raise ValueError(f"SepLUT: {option} is {vertices}; use 2 or more, or 0 to switch that stage off.")
        if n_vertices_3d == 0 and n_vertices_1d == 0:
            raise ValueError("SepLUT: n_vertices_3d and n_vertices_1d are both 0; nothing is left to learn.")
        check_at_least("SepLUT", 1, n_ranks=n_ranks, n_base_feats=n_base_feats)
        side = _DEFAULT_THUMBNAIL[backbone] if thumbnail is None else thumbnail
        if side < MIN_THUMBNAIL[backbone]:
            raise ValueError(
                f"SepLUT: thumbnail is {side}; backbone '{backbone}' needs {MIN_THUMBNAIL[backbone]} or more."
            )

        self.n_vertices_3d = n_vertices_3d
        self.n_vertices_1d = n_vertices_1d
        self.backbone: LightBackbone | Res18Backbone
        if backbone == "light":
            self.backbone = LightBackbone(n_base_feats, side, dropout)
        else:
            self.backbone = Res18Backbone(side)
        n_features = self.backbone.out_features
        if n_vertices_3d > 0:
            self.lut3d_generator = TableBank(n_features, n_ranks, identity_lut_3d(n_vertices_3d))
            if identity_start:
                self.lut3d_generator.set_identity()
        if n_vertices_1d > 0:
            self.lut1d_generator = _LUT1DGenerator(n_features, n_vertices_1d, lut1d_color_share)
            if identity_start:
                self.lut1d_generator.set_identity()

    def decide(self, image: Tensor) -> SepLUTTables:
        """See `PreparedNetwork.decide`."""
        features = self.backbone(image)
        lut_1d = lut_3d = weights = None
        if self.n_vertices_3d > 0:
            weights, lut_3d = self.lut3d_generator(features)
        if self.n_vertices_1d > 0:
            lut_1d = self.lut1d_generator(features)
        return SepLUTTables(lut_1d, lut_3d, weights)

    def treat(self, image: Tensor, tables: SepLUTTables, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PreparedNetwork.treat`."""
        lut_1d, lut_3d, _ = tables
        # grid_sample under autocast keeps the widest type it is given.
        x = coordinates(image)
        if lut_1d is not None:
            lut_1d = lut_1d.to(image.dtype)
            # Before the 3D table the curves lead to coordinates at once.
            x = sample_1d(x, lut_1d if lut_3d is None else coordinates(lut_1d))
        if lut_3d is not None:
            lut_3d = lut_3d.to(image.dtype)
            if lut_1d is not None:  # NaN of the curves, which coordinates do not show
                lut_3d = lut_3d + 0 * lut_1d.sum((1, 2))[:, None, None, None, None]
            x = sample_3d(x, lut_3d)
        return pass_nan(image, x, colours_apart=lut_3d is None)
