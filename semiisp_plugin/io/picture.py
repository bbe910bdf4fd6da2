"""Pictures as people have them, of any orientation, size, colour space and bit depth: to sRGB.

    read_picture      with alpha, EXIF and bit depth, for enhancement; RAW files too
    read_photograph   8 bits, shrunk, for pseudo data

Both decide alike. Pixels are decoded and turned as their EXIF says (`semiisp_plugin.io.image_decoding`), and converted
from their ICC profile to sRGB (`semiisp_plugin.io.colour_profile`). Without a profile the values are sRGB; PNG's gAMA
and cHRM chunks are ignored, as they are either what sRGB has or what some program wrote without meaning it. Of several
images in a file the first is taken.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from semiisp_plugin.io.bit_depth import to_bit_depth
from semiisp_plugin.io.colour_profile import HDR_TRANSFERS, hdr_error, to_srgb, to_srgb16
from semiisp_plugin.io.exif import ExifError, block_of_tiff, orientation_of
from semiisp_plugin.io.image_decoding import decode
from semiisp_plugin.io.image_header import ImageHeader, ImageReadError, check_size, read_header
from semiisp_plugin.io.image_io import MAX_PIXELS, printable_path, read_file
from semiisp_plugin.io.raw_io import is_raw, preview_of, read_raw

REDUCE_ABOVE = 24_000_000
"""JPEG photographs of more pixels than this are decoded at a fraction of their size if they are then shrunk anyway."""

MIN_SIDE = 32
"""Photographs with a shorter side are not used: f_ISP's encoder sees nothing in them."""

# ITU-T H.273: the primaries of BT.709, which are sRGB's, and the transfer functions that are coded with its curve.
_SRGB_PRIMARIES, _SRGB_TRANSFERS = 1, (1, 6, 13, 14, 15)


class Picture(NamedTuple):
    """An image to enhance, or a result.

    Attributes:
        pixels: RGB (H, W, 3), ``uint8`` or ``uint16``, upright: sRGB, or of a RAW file that is not developed linear
            camera colours.
        alpha: (H, W) of the same type, if there is any.
        exif: EXIF block as it was found.
        notes: What became of things that could not be kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()


def read_picture(
    path: str | os.PathLike[str], *, max_pixels: int | None = MAX_PIXELS, raw_to_srgb: bool = False
) -> Picture:
    """Read an image file or a camera's RAW file.

    Colours of an ICC profile are converted to sRGB, in the image's own bit depth.

    Args:
        path: The file.
        max_pixels: Larger images are refused before they are decoded; of RAW files, afterwards.
        raw_to_srgb: Develop RAW files to sRGB; else they are linear, as those of training pairs are
            (`semiisp_plugin.io.raw_io.read_raw`).

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be opened; the message says what to do.
        ImportError: A RAW file, and rawpy is not installed.
        ImageReadError: It cannot be read; the message names it and says what is wrong.
    """
    name = printable_path(path)
    if is_raw(os.fspath(path)):
        return _read_raw(path, name, max_pixels, raw_to_srgb)
    buffer = read_file(path, max_pixels=max_pixels)
    header = read_header(buffer, name)
    _check_coding(header, name)
    pixels, alpha, profile = decode(buffer, header, name=name, max_pixels=max_pixels, alpha=True)
    notes: list[str] = []
    if pixels.dtype == np.uint8:
        pixels = to_srgb(pixels, profile, name=name)
    else:
        pixels, note = to_srgb16(pixels, profile, name=name)
        notes += [note] if note else []
    if header.animated:
        notes.append("of its several images the first was taken")
    if header.alpha and alpha is None:
        notes.append("its alpha channel could not be read and was left out")
    exif = header.exif
    try:
        if header.kind == "TIFF":
            exif = block_of_tiff(io.BytesIO(buffer))
        elif exif is not None:
            orientation_of(exif)
    except ExifError as error:
        exif = None
        notes.append(f"its EXIF is damaged ({error}) and was left out")
    return Picture(pixels, alpha, exif, tuple(notes))


def read_photograph(
    path: str | os.PathLike[str], *, short_side: int | None = None, max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Read a photograph as 8-bit sRGB.

    It is reduced to 8 bits, shrunk, and then converted to sRGB: this order makes the conversion of a large photograph
    cost next to nothing; against the other, a few values differ by a rounding. An alpha channel is dropped.

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
    buffer = read_file(path, max_pixels=max_pixels)
    return decode_photograph(buffer, name=os.fspath(path), short_side=short_side, max_pixels=max_pixels)


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
    _check_coding(header, name)
    reduce = _reduction(header, short_side)
    pixels, _, profile = decode(buffer, header, name=name, max_pixels=max_pixels, reduce=reduce)
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
    if short_side is None or not large or header.kind != "JPEG":
        return 1
    factors: tuple[Literal[8, 4, 2], ...] = (8, 4, 2)
    return next((f for f in factors if min(header.width, header.height) >= 2 * short_side * f), 1)


def _check_coding(header: ImageHeader, name: str) -> None:
    """Raise for colours that are no ordinary photograph's."""
    primaries, transfer = header.coding or (_SRGB_PRIMARIES, _SRGB_TRANSFERS[0])
    if transfer in HDR_TRANSFERS:
        raise hdr_error(HDR_TRANSFERS[transfer], name)
    if not header.icc_profile and (primaries != _SRGB_PRIMARIES or transfer not in _SRGB_TRANSFERS):
        raise ImageReadError(
            f"{name}: its colours are coded for another gamut than sRGB (cICP: primaries {primaries}, transfer "
            f"{transfer}) without an ICC profile; export it as sRGB."
        )


def _read_raw(path: str | os.PathLike[str], name: str, max_pixels: int | None, srgb: bool) -> Picture:
    # Pipes, folders, missing files: with the messages that other images have. Nothing is read here.
    if not os.path.isfile(path):
        read_file(path, max_pixels=max_pixels)
    if os.path.getsize(path) == 0:
        raise ImageReadError(f"{name}: the file is empty (0 bytes). Copy it from the camera again, or remove it.")
    pixels = read_raw(path, srgb=srgb)
    check_size(pixels.shape[1], pixels.shape[0], max_pixels, name)
    return Picture(pixels, exif=_exif_of_raw(path))


def _exif_of_raw(path: str | os.PathLike[str]) -> bytes | None:
    """EXIF of a RAW file that is built like a TIFF file, as most are; of others, that of its preview."""
    try:
        with Path(path).open("rb") as file:
            return block_of_tiff(file)
    except (ExifError, OSError):
        preview = preview_of(path)
    try:
        return read_header(preview, "preview").exif if preview else None
    except ImageReadError:  # a photograph without a preview is none the worse for it
        return None
