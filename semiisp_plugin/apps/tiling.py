"""Large images piece by piece: overlapping tiles, blended so that no seam shows.

Two neighbours share ``overlap`` pixels. Of these the outer quarter on either side, where a tile misses what lies beyond
its border, is not used at all; over the middle half one tile fades into the other. A network whose result at a pixel
depends on nothing further away than a quarter of the overlap gives the same in tiles as at once, to rounding.

Tiles begin at multiples of the network's ``multiple`` and only the last of a row may end elsewhere: where it shrinks
the image, a tile is then shrunk as the whole image would be, and the network pads the image's border and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_MARGIN = 0.25  # share of the overlap on either side that is not used


class Span(NamedTuple):
    """Where a row or column of tiles lies.

    Attributes:
        start: First pixel.
        stop: One past the last pixel.
        before: How many pixels it shares with the span before it; 0 for the first.
        after: How many it shares with the next; 0 for the last.
    """

    start: int
    stop: int
    before: int
    after: int


class Box(NamedTuple):
    """A tile: its rows and its columns."""

    rows: Span
    columns: Span


def spans(length: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Cover ``length`` pixels by spans of at most ``tile`` that overlap by ``overlap`` or a little more.

    Args:
        length: Pixels of the image's side.
        tile: Pixels of a tile's side; rounded down to a multiple of ``multiple``.
        overlap: Pixels that neighbours share at least; at most half a tile.
        multiple: Spans begin at multiples of it.

    Raises:
        ValueError: The tile is smaller than twice ``multiple``, or the overlap is negative or above half a tile.
    """
    tile -= tile % multiple
    if tile < 2 * multiple:
        raise ValueError(f"a tile of {tile} pixels is too small for a network that needs multiples of {multiple}.")
    if overlap < 0 or 2 * overlap > tile:
        raise ValueError(f"an overlap of {overlap} pixels does not go with tiles of {tile}: give 0 to {tile // 2}.")
    if length <= tile:
        return [Span(0, length, 0, 0)]
    # The last tile begins at the multiple from which no more than a tile is left.
    last = -(-(length - tile) // multiple) * multiple
    count = -(-last // max(tile - overlap - (tile - overlap) % multiple, multiple)) + 1
    starts = [last * i // ((count - 1) * multiple) * multiple for i in range(count)]
    stops = [start + tile for start in starts[:-1]] + [length]
    shared = [0, *(stop - start for stop, start in zip(stops[:-1], starts[1:], strict=True)), 0]
    return [Span(*span) for span in zip(starts, stops, shared[:-1], shared[1:], strict=True)]


def weights_of(span: Span) -> Tensor:
    """The weight of each pixel of a span, ``(stop - start,)`` float32; those of neighbours add up to 1."""
    weights = torch.ones(span.stop - span.start)
    if span.before:
        weights[: span.before] = _fade(span.before)
    if span.after:
        weights[-span.after :] -= _fade(span.after)
    return weights


def _fade(overlap: int) -> Tensor:
    """From 0 to 1 over an overlap: constant in its outer quarters, smooth in its middle."""
    margin = int(overlap * _MARGIN)
    t = (torch.arange(overlap) + 0.5 - margin) / (overlap - 2 * margin)
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def boxes(size: tuple[int, int], tile: int, overlap: int, multiple: int = 1) -> Iterator[Box]:
    """The tiles of an image of (height, width) pixels, row by row."""
    columns = spans(size[1], tile, overlap, multiple)
    for row in spans(size[0], tile, overlap, multiple):
        for column in columns:
            yield Box(row, column)


def run_in_tiles(
    image: Tensor,
    function: Callable[[Tensor, Box], Tensor],
    tile: int,
    overlap: int,
    multiple: int = 1,
    done: Callable[[], None] | None = None,
) -> Tensor:
    """Apply a function to overlapping tiles of an image and blend what it gives.

    Args:
        image: ``(1, C, H, W)``.
        function: Gets a tile ``(1, C, h, w)`` and where it lies; returns ``(1, K, h, w)``.
        tile: See `spans`.
        overlap: See `spans`; 0 puts the tiles side by side.
        multiple: See `spans`.
        done: Called after each tile.

    Returns:
        ``(1, K, H, W)`` float32 on the CPU.

    Raises:
        ValueError: See `spans`.
    """
    height, width = image.shape[-2:]
    out = torch.zeros(0)
    for box in boxes((height, width), tile, overlap, multiple):
        (top, bottom, *_), (left, right, *_) = box
        result = function(image[:, :, top:bottom, left:right], box).float().cpu()
        if not len(out):
            out = torch.zeros(1, result.shape[1], height, width)
        shared = (*box.rows[2:], *box.columns[2:])
        if any(shared):
            # Not in place: a network may return its input, which is a part of the image.
            result = result * (weights_of(box.rows)[:, None] * weights_of(box.columns)[None, :])
        out[:, :, top:bottom, left:right] += result
        if done is not None:
            done()
    return out
