"""Affine colour transforms out of a bilateral grid, by place and by a guide (Gharbi et al., SIGGRAPH 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_INPUTS = 4  # three colours and an offset


def slice_and_apply(grid: Tensor, guide: Tensor, image: Tensor, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Give each pixel the affine transform that the grid has at its place and its guide, and apply it.

    With the grid's cells centred at half units, a pixel (x, y) of an image W x H reads it at

        ((x + 1/2) w / W, (y + 1/2) h / H, guide D)

    by trilinear interpolation; beyond the outermost centres the grid goes on as it is there.

    Args:
        grid: (N, 12, D, h, w), D bins of the guide. Channel ``3 in + out`` is the factor of colour ``in`` in colour
            ``out``; ``in`` = 3 is the offset.
        guide: (N, 1, H', W') in [0, 1], what is outside is clamped.
        image: (N, 3, H', W'), the whole image or a part of it.
        box: Row and column of the part's upper left pixel in the image.
        size: Height and width of the whole image.

    Returns:
        (N, 3, H', W') of the image's dtype; NaN where guide or image are.
    """
    dtype, n = image.dtype, image.shape[0]
    # The [-1, 1] of grid_sample, from edge to edge of the outermost cells.
    y, x = (
        2 * (torch.arange(count, device=image.device, dtype=dtype) + (start + 0.5)) / whole - 1
        for count, start, whole in zip(image.shape[2:], box, size, strict=True)
    )
    # NaN becomes 0: the gradient of grid_sample crashes on a CPU where a place is NaN.
    z = torch.nan_to_num(2 * guide.to(dtype) - 1, nan=0.0)
    shape = (n, 1, y.shape[0], x.shape[0])
    places = torch.stack([x.expand(shape), y[:, None].expand(shape), z], dim=-1)
    found = F.grid_sample(grid.to(dtype), places, mode="bilinear", padding_mode="border", align_corners=False)
    *factors, out = found.squeeze(2).chunk(_INPUTS, dim=1)
    for factor, colour in zip(factors, image.split(1, dim=1), strict=True):
        out = torch.addcmul(out, factor, colour)
    return torch.where(guide.isnan(), float("nan"), out)
