"""Reading photographs as people have them: of any orientation, size and colour space, to 8-bit sRGB."""

from __future__ import annotations

import os
from typing import Literal

import cv2
import numpy as np

from semiisp_plugin.io.colour_profile import hdr_error, to_srgb
from semiisp_plugin.io.image_header import ImageHeader, read_header
from semiisp_plugin.io.image_io import (
    MAX_PIXELS,
    ImageReadError,
    decode_stored,
    printable_path,
    read_file,
    to_bit_depth,
)

REDUCE_ABOVE = 24_000_000
"""JPEG photographs of more pixels than this are decoded at a fraction of their size if they are then shrunk anyway."""

# ITU-T H.273: the primaries of BT.709, which are sRGB's, and the transfer functions that are coded with its curve.
_SRGB_PRIMARIES, _SRGB_TRANSFERS = 1, (1, 6, 13, 14, 15)

MIN_SIDE = 32
"""Photographs with a shorter side are not used: f_ISP's encoder sees nothing in them."""


def read_photograph(
    path: str | os.PathLike[str], *, short_side: int | None = None, max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Read a photograph as 8-bit sRGB.

    In this order: it is decoded and turned as its EXIF orientation says, reduced to 8 bits, shrunk, and converted from
    its ICC profile to sRGB (see `semiisp_plugin.io.colour_profile.to_srgb`). Shrinking first makes the conversion of
    a large photograph cost next to nothing; against the other order, a few values differ by a rounding. Without a
    profile the values are sRGB; PNG's gAMA and cHRM chunks are ignored, as they are either what sRGB has or what some
    program wrote without meaning it. An alpha channel is dropped, of several images in a file the first is taken.

    Args:
        path: The file. Its name may hold any characters.
        short_side: See `shrink_short_side`. JPEG photographs of more than `REDUCE_ABOVE` pixels are then decoded at the
            smallest of 1/2, 1/4 and 1/8 of their size that leaves twice ``short_side``: a fraction of time and memory.
            Values differ by about 1 of 255 from those of a full decode, for JPEG's reduction is no mean of pixels;
            smaller photographs are decoded in full, so that theirs do not depend on it.
        max_pixels: Larger photographs are refused before they are decoded; ``None``: OpenCV's limit (2^30) alone.

    Returns:
        RGB (H, W, 3), ``uint8``.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be opened; the message says what to do.
        ImageReadError: It is no file, no image, empty, incomplete, damaged, too large, of more than 16 bits, or coded
            for high dynamic range (PQ, HLG) or for a gamut that its file gives no profile of.
    """
    return decode_photograph(
        read_file(path, max_pixels=max_pixels), name=os.fspath(path), short_side=short_side, max_pixels=max_pixels
    )


def decode_photograph(
    buffer: bytes, *, name: str, short_side: int | None = None, max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Decode a photograph's bytes; see `read_photograph`.

    Args:
        buffer: The encoded photograph.
        name: What messages call it.
        short_side: As in `read_photograph`.
        max_pixels: As in `read_photograph`.
    """
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side: {short_side} pixels cannot be; give at least 1.")
    name = printable_path(name)
    header = read_header(buffer, name)
    if header.hdr:
        raise hdr_error(header.hdr, name)
    if header.coding and not header.icc_profile:
        primaries, transfer = header.coding
        if primaries != _SRGB_PRIMARIES or transfer not in _SRGB_TRANSFERS:
            raise ImageReadError(
                f"{name}: its colours are coded for another gamut than sRGB (cICP: primaries {primaries}, transfer "
                f"{transfer}) without an ICC profile; export it as sRGB."
            )
    reduce = _reduction(header, short_side)
    pixels, profile = decode_stored(buffer, header, name=name, max_pixels=max_pixels, reduce=reduce)
    size = (header.width, header.height) if reduce > 1 else None
    return to_srgb(shrink_short_side(to_bit_depth(pixels, "8"), short_side, size), profile, name=name)


def shrink_short_side(image: np.ndarray, short_side: int | None, original: tuple[int, int] | None = None) -> np.ndarray:
    """Area-resize an HWC image so that its short side is at most ``short_side`` pixels.

    Args:
        image: (H, W, C).
        short_side: At most so many pixels; ``None``: the image as it is.
        original: Two sides, in any order, of what ``image`` is a reduced version of: the result then has the size that
            the original would get. Its short side must be more than ``short_side``.
    """
    height, width = image.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return image
    if original is None:
        scale = short_side / min(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
    else:
        long_side = max(1, round(max(original) * (short_side / min(original))))
        size = (long_side, short_side) if width >= height else (short_side, long_side)
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _reduction(header: ImageHeader, short_side: int | None) -> Literal[1, 2, 4, 8]:
    """At which fraction of its size to decode."""
    large = header.width * header.height > REDUCE_ABOVE
    if short_side is None or not large or header.kind != "JPEG" or header.components == 4:
        return 1
    factors: tuple[Literal[8, 4, 2], ...] = (8, 4, 2)
    return next((f for f in factors if min(header.width, header.height) >= 2 * short_side * f), 1)
