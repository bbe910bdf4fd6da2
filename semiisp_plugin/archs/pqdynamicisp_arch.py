"""f_ISP: an ISP of invertible functions whose parameters an encoder sets for each image (eqs 1 and 2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import as_thumbnail, widened
from semiisp_plugin.archs.image_network import PreparedNetwork
from semiisp_plugin.isp.invertible_isp import InvertibleISP
from semiisp_plugin.isp.parameter_maps import positions, rows_of
from semiisp_plugin.isp.parameters import BASE_MATRICES, ISPSpec
from semiisp_plugin.options.ranges import Decay, Factor, Grid, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register

# A thumbnail in log units spreads the dark end, where most of a RAW image's pixels are; 1/1024 is ten stops below
# white. The mean and scale bring typical values near 0 and 1.
_LOG_FLOOR = 1 / 1024
_LOG_MEAN, _LOG_SCALE = -2.5, 2.0


class ParameterEncoder(nn.Module):
    """The DNN of eq. 1, ``P = DNN(Resize(I))``. The paper does not describe it; this one is ours.

    Five strided 3x3 convolutions (3-16-32-64-128-128, the size of the backbones of Image-Adaptive-3DLUT and SepLUT) on
    a thumbnail in log units, without normalisation layers: instance normalisation would erase brightness and colour
    cast, which are what an ISP has to see. Mean, standard deviation and maximum of each channel of the thumbnail
    join the features before the head.

    Args:
        n_parameters: K.
        grid: ``(h, w)`` of the parameter sets; (1, 1) sets them globally.
        thumbnail: Side of the square the image is resized to, in pixels. 256 as in the networks named above.
        dropout: Probability with which a feature or statistic is dropped before the head, while training.
    """

    def __init__(self, n_parameters: int, grid: tuple[int, int], thumbnail: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.grid = grid
        self.thumbnail = thumbnail
        layers: list[nn.Module] = []
        widths = (3, 16, 32, 64, 128, 128)
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(widths[-1] + 9, n_parameters, 1)
        # The ISP starts at the starting values for every image, and learns to differ.
        nn.init.normal_(self.head.weight, std=1e-3)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] to free numbers ``(N, K, h, w)``."""
        # The resampling knows no bfloat16, whose eight bits are too few for the dark end as well.
        image = widened(image)
        image = as_thumbnail(image, self.thumbnail, antialias=True)
        log = ((image.clamp_min(0) + _LOG_FLOOR).log() - _LOG_MEAN) / _LOG_SCALE
        features = F.adaptive_avg_pool2d(self.features(log.to(self.head.weight.dtype)), self.grid)
        flat = log.flatten(2)
        statistics = torch.cat((flat.mean(2), flat.std(2), flat.amax(2)), dim=1)
        statistics = statistics.to(features.dtype)[:, :, None, None].expand(-1, -1, *self.grid)
        return self.head(self.dropout(torch.cat((features, statistics), dim=1)))


@register(ARCH_REGISTRY)
class PQDynamicISP(PreparedNetwork[Tensor]):
    """An ISP in the style of PQDynamicISP (arXiv 2403.10091): classical functions, controlled by an encoder.

    Serves as f_ISP (phase 1, eqs 1 to 3) and as a target model; ``docs/functions.md`` explains its functions. No public
    code of PQDynamicISP is known and the body of that paper could not be consulted: functions and order are those of
    the paper's Sec. A.1, encoder, ranges and starting values are ours (`ParameterEncoder`, `ISPSpec`).

    Args:
        inverse_tone_mapping: True for image enhancement, sRGB to sRGB: f_IT comes first (Sec. 3.5).
        grid: Rows and columns of regions with parameters of their own, interpolated between them, such as [8, 8].
            [1, 1] controls the image globally.
        thumbnail: Side of the square the encoder looks at, in pixels; at least 32.
        dropout: Of the encoder, against over-fitting to few pairs; 0 is none.
        gamma_start: Starting value of gamma g1. Default: 2.2 for RAW, 1.0 for image enhancement.
        base_matrix: Constant matrix in front of the colour correction: ``identity``, ``xyz_to_srgb`` or 3 rows of 3.
        tie_xy: See `ISPSpec`.
        it_sign: See `ISPSpec`.
    """

    def __init__(
        self,
        inverse_tone_mapping: bool = False,
        grid: Grid = (1, 1),
        thumbnail: Thumbnail = 256,
        gamma_start: Annotated[float, Meta(gt=0.25, lt=4)] | None = None,
        base_matrix: str | Sequence[Sequence[Factor]] = "identity",
        tie_xy: bool = True,
        it_sign: Literal[1, -1] = 1,
        dropout: Decay = 0.0,
    ) -> None:
        super().__init__()
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid must be two positive numbers [rows, columns], not {list(grid)}.")
        if thumbnail < 32:
            raise ValueError(f"thumbnail must be at least 32, not {thumbnail}: the encoder halves it five times.")
        if isinstance(base_matrix, str):
            if base_matrix not in BASE_MATRICES:
                raise ValueError(f"base_matrix: '{base_matrix}' is none of {sorted(BASE_MATRICES)}; or give a matrix.")
            base_matrix = BASE_MATRICES[base_matrix]
        if gamma_start is None:
            gamma_start = 1.0 if inverse_tone_mapping else 2.2
        self.spec = ISPSpec(
            inverse_tone_mapping=inverse_tone_mapping,
            tie_xy=tie_xy,
            it_sign=it_sign,
            gamma_start=gamma_start,
            base_matrix=tuple(tuple(float(v) for v in row) for row in base_matrix),
        )
        self.isp = InvertibleISP(self.spec, check=False)  # `squash` leaves nothing outside
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; give a probability, 0 to below 1.")
        self.encoder = ParameterEncoder(self.spec.n_parameters, (int(grid[0]), int(grid[1])), thumbnail, dropout)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the parameter sets."""
        return self.encoder.grid

    def predict_parameters(self, image: Tensor) -> Tensor:
        """Parameter sets ``(N, K, h, w)`` for images ``(N, 3, H, W)`` in [0, 1] (eq. 1)."""
        return self.spec.squash(self.encoder(image))

    def decide(self, image: Tensor) -> Tensor:
        """The parameter sets, (N, K, h, w)."""
        return self.predict_parameters(image)

    def treat(self, tile: Tensor, context: Tensor, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """RAW (or degraded sRGB) to sRGB in [0, 1] (eq. 2); see `PreparedNetwork.treat`."""
        (top, left), (height, width) = box, size
        rows, columns = tile.shape[-2:]
        if self.grid == (1, 1) or (rows, columns) == (height, width):
            return self.isp.forward(tile, context)
        sets = _at(context, 3, positions(width, self.grid[1])[left : left + columns])
        y = positions(height, self.grid[0])[top : top + rows]
        # By strips, as there are many times more parameters than colours.
        step = rows_of(tile)
        strips = [
            self.isp.forward(tile[:, :, start : start + step], _at(sets, 2, y[start : start + step]))
            for start in range(0, rows, step)
        ]
        return torch.cat(strips, dim=2)


def _at(sets: Tensor, axis: int, places: np.ndarray) -> Tensor:
    """Parameter sets at places along one axis of their grid, linear between its nodes."""
    low = torch.from_numpy(places.astype(np.int64)).to(sets.device).clamp_max(max(0, sets.shape[axis] - 2))
    share = torch.from_numpy(places).to(sets) - low
    high = (low + 1).clamp_max(sets.shape[axis] - 1)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    return torch.lerp(sets.index_select(axis, low), sets.index_select(axis, high), share.reshape(shape).to(sets.dtype))
