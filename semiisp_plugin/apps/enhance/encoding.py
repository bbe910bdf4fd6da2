"""Writing results: PNG, JPEG, TIFF or WebP, 8 or 16 bits, with alpha and EXIF."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

import numpy as np
from PIL import Image

from semiisp_plugin.io.exif import DESCRIPTIVE, ExifError, updated_block
from semiisp_plugin.io.image_io import BitDepth, encode_png, to_bit_depth
from semiisp_plugin.io.picture import Picture

Format = Literal["png", "jpg", "tiff", "webp"]

EXTENSIONS: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".jfif": "jpg",
    ".jpe": "jpg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "webp",
}
"""Extensions (in lower case) that name a format that is written; what has another one is written as PNG."""

_MAX_SIDE = {"jpg": 65500, "webp": 16383}
_MAX_JPEG_EXIF = 65535 - 2 - 6
_FULL_COLOUR_FROM = 90  # JPEG quality from which colours are stored at full resolution
_TIFF_STRIP_BYTES = 2**20
_SHORT, _LONG = 3, 4


def encode_picture(
    picture: Picture, form: Format, *, bits: BitDepth = "keep", quality: int = 95
) -> tuple[bytes, list[str]]:
    """Encode a result.

    Args:
        picture: Upright sRGB; its EXIF is that of the source and is brought up to date here.
        form: The format. JPEG and WebP hold 8 bits.
        bits: ``keep`` those of the picture, or convert to 8 or 16.
        quality: Of JPEG and WebP, 1 to 100; 100 is lossless for WebP.

    Returns:
        The file's bytes, and remarks about what the format could not hold.

    Raises:
        ValueError: The picture is too large for the format.
    """
    notes: list[str] = []
    if form in _MAX_SIDE:
        bits = "8"
        if max(picture.pixels.shape[:2]) > _MAX_SIDE[form]:
            size = "x".join(str(side) for side in picture.pixels.shape[1::-1])
            raise ValueError(f"{size} pixels are too many for {form}; write it with --format png or tiff.")
    pixels = to_bit_depth(picture.pixels, bits)
    alpha = None if picture.alpha is None else to_bit_depth(picture.alpha, "16" if pixels.dtype == np.uint16 else "8")
    exif = None
    if picture.exif is not None:
        try:
            exif = updated_block(picture.exif, pixels.shape[1], pixels.shape[0])
        except ExifError as error:
            notes.append(f"its EXIF is damaged ({error}) and was left out")
    if form == "jpg":
        if alpha is not None:
            notes.append("JPEG has no alpha channel; it was left out")
        if exif is not None and len(exif) > _MAX_JPEG_EXIF:
            exif = None
            notes.append("its EXIF is too long for JPEG and was left out")
        subsampling = 0 if quality >= _FULL_COLOUR_FROM else 2
        return _pillow(pixels, "JPEG", exif, quality=quality, subsampling=subsampling), notes
    stored = pixels if alpha is None else np.dstack([pixels, alpha])
    if form == "webp":
        return _pillow(stored, "WEBP", exif, quality=quality, lossless=quality == 100, exact=True), notes
    return (_tiff if form == "tiff" else _png)(stored, exif), notes


def _pillow(pixels: np.ndarray, kind: str, exif: bytes | None, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"exif": b"Exif\0\0" + exif} if exif else {}), **options)
    return buffer.getvalue()


def _png(pixels: np.ndarray, exif: bytes | None) -> bytes:
    """PNG with the chunks sRGB and eXIf, which neither OpenCV nor (at 16 bits) Pillow writes."""
    data = encode_png(pixels)
    chunks = _chunk(b"sRGB", b"\0") + (_chunk(b"eXIf", exif) if exif else b"")
    after_head = 8 + 25  # the signature and IHDR
    return data[:after_head] + chunks + data[after_head:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _tiff(pixels: np.ndarray, exif: bytes | None) -> bytes:
    """TIFF of RGB or RGBA strips, deflate-compressed with horizontal differences.

    Written here because no library at hand can: Pillow knows no 16-bit RGB, OpenCV and tifffile no EXIF directories.
    The file begins with the EXIF block, which is a TIFF file itself: everything in it stays in its place. Then come the
    strips and a directory that has the block's tags and those of the image.
    """
    out = bytearray(exif or b"II*\0\0\0\0\0")
    order: Literal["<", ">"] = "<" if out[:2] == b"II" else ">"
    height, width, channels = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    rows = max(1, _TIFF_STRIP_BYTES // (width * channels * pixels.dtype.itemsize))
    offsets, sizes = [], []
    for top in range(0, height, rows):
        strip = pixels[top : top + rows].copy()
        strip[:, 1:] -= pixels[top : top + rows, :-1]  # wraps around, as it is meant to
        packed = zlib.compress(strip.astype(pixels.dtype.newbyteorder(order)).tobytes(), 4)
        offsets.append(len(out))
        sizes.append(len(packed))
        out += packed
    fields: dict[int, bytes] = {}

    def put(tag: int, kind: int, *values: int) -> None:
        packed = struct.pack(f"{order}{len(values)}{ {_SHORT: 'H', _LONG: 'I'}[kind] }", *values)
        if len(packed) > 4:
            out.extend(bytes(len(out) % 2))
            at = len(out)
            out.extend(packed)
            packed = struct.pack(order + "I", at)
        fields[tag] = struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")

    if exif:
        first = struct.unpack_from(order + "I", out, 4)[0]
        for field in range(first + 2, first + 2 + 12 * struct.unpack_from(order + "H", out, first)[0], 12):
            tag = struct.unpack_from(order + "H", out, field)[0]
            # Not strips, tiles or profiles of another file, which blocks may bring along.
            if tag in DESCRIPTIVE:
                fields[tag] = bytes(out[field : field + 12])
    put(256, _LONG, width)
    put(257, _LONG, height)
    put(258, _SHORT, *[bits] * channels)
    put(259, _SHORT, 8)  # deflate
    put(262, _SHORT, 2)  # RGB
    put(273, _LONG, *offsets)
    put(277, _SHORT, channels)
    put(278, _LONG, rows)
    put(279, _LONG, *sizes)
    put(284, _SHORT, 1)  # interleaved
    put(317, _SHORT, 2)  # horizontal differences
    if channels == 4:
        put(338, _SHORT, 2)  # alpha that the colours are not multiplied by
    out.extend(bytes(len(out) % 2))
    struct.pack_into(order + "I", out, 4, len(out))
    if len(out) >= 2**32:
        raise ValueError("the result is too large for a TIFF file; write it with --format png.")
    out += struct.pack(order + "H", len(fields)) + b"".join(fields[tag] for tag in sorted(fields)) + bytes(4)
    return bytes(out)
