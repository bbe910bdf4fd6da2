"""A network on a large image: overlapping tiles, faded into one another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of ``tile`` pixels begin so that they cover ``length`` and overlap by at least ``overlap``.

    Raises:
        ValueError: ``overlap`` is not below ``tile``.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tile_overlap is {overlap}; use 0 to {tile - 1}, less than the tile of {tile} pixels.")
    if length <= tile:
        return [0]
    count = -(-(length - tile) // (tile - overlap)) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _weights(length: int, begins: bool, ends: bool, overlap: int) -> Tensor:
    """Weights along a side: 1, falling linearly over the overlap at the ends that meet another tile; never 0."""
    at = torch.arange(length, dtype=torch.float32)
    weights = torch.ones(length)
    if not begins:
        weights = torch.minimum(weights, (at + 1) / (overlap + 1))
    if not ends:
        weights = torch.minimum(weights, (length - at) / (overlap + 1))
    return weights


def in_tiles(run: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int) -> Tensor:
    """Run a function of images on overlapping tiles, and average where they overlap, weighted.

    Args:
        run: (1, C, h, w) -> the same shape.
        image: (1, C, H, W).
        tile: Largest side of a tile; an image no larger goes through whole.
        overlap: Pixels that neighbours share, at least.

    Returns:
        (1, C, H, W), ``float32`` on the CPU.
    """
    height, width = image.shape[-2:]
    rows, columns = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    if len(rows) == len(columns) == 1:
        return run(image).float().cpu()
    total = torch.zeros(image.shape)
    weight = torch.zeros(1, 1, height, width)
    for top in rows:
        for left in columns:
            part = run(image[..., top : top + tile, left : left + tile]).float().cpu()
            tall, wide = part.shape[-2:]
            down = _weights(tall, top == rows[0], top == rows[-1], overlap)
            across = _weights(wide, left == columns[0], left == columns[-1], overlap)
            share = down[:, None] * across
            total[..., top : top + tall, left : left + wide] += part * share
            weight[..., top : top + tall, left : left + wide] += share
    return total / weight
