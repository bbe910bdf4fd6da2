"""Reading what people want enhanced: photographs of any kind in sRGB of their own bit depth, RAW files, alpha, EXIF."""

from __future__ import annotations

import io
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import GifImagePlugin, ImageOps, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from semiisp_plugin.apps.enhance.exif import ExifError, block_of_tiff, find_block, orientation_of, upright
from semiisp_plugin.apps.enhance.wide_profile import to_srgb16
from semiisp_plugin.io.colour_profile import hdr_error, to_srgb
from semiisp_plugin.io.image_header import ImageHeader, ImageReadError, read_header
from semiisp_plugin.io.image_io import MAX_PIXELS, cmyk_to_rgb, decode_stored, printable_path, read_file
from semiisp_plugin.io.raw_io import is_raw, read_raw

__all__ = ["Picture", "read_picture"]

# ITU-T H.273, as in `semiisp_plugin.io.photograph_io`: BT.709's primaries, and transfers coded with its curve.
_SRGB_PRIMARIES, _SRGB_TRANSFERS = 1, (1, 6, 13, 14, 15)
_TIFF_RGB = 2
_PNG_WITH_ALPHA = (4, 6)
# Not Image.open, which has a limit of pixels of its own; the size was found good before.
_PILLOW_WITH_ALPHA: dict[str, Any] = {
    "GIF": GifImagePlugin.GifImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}


class Picture(NamedTuple):
    """An image to enhance, or a result.

    Attributes:
        pixels: RGB (H, W, 3), ``uint8`` or ``uint16``, upright: sRGB, or of a RAW file linear camera colours.
        alpha: (H, W) of the same type, if there is any.
        exif: EXIF block as it was found.
        notes: What became of things that could not be kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()


def read_picture(path: str | os.PathLike[str], *, max_pixels: int | None = MAX_PIXELS) -> Picture:
    """Read an image file or a camera's RAW file.

    Colours of an ICC profile are converted to sRGB, in the image's own bit depth. RAW files are developed as those of
    training pairs are (`semiisp_plugin.io.raw_io.read_raw`).

    Args:
        path: The file.
        max_pixels: Larger images are refused before they are decoded; of RAW files, afterwards.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be opened; the message says what to do.
        ImportError: A RAW file, and rawpy is not installed.
        ImageReadError: It cannot be read; the message names it and says what is wrong.
    """
    name = printable_path(path)
    if is_raw(os.fspath(path)):
        return _read_raw(path, name, max_pixels)
    buffer = read_file(path, max_pixels=max_pixels)
    header = read_header(buffer, name)
    _check_coding(header, name)
    pixels, profile = decode_stored(buffer, header, name=name, max_pixels=max_pixels)
    notes: list[str] = []
    if pixels.dtype == np.uint8:
        pixels = to_srgb(pixels, profile, name=name)
    else:
        pixels, note = to_srgb16(pixels, profile, name)
        notes += [note] if note else []
    if pixels.shape[2] == 4:
        pixels = cmyk_to_rgb(pixels)
    exif, orientation = _exif(buffer, header, notes)
    try:
        alpha = _alpha8(buffer, header) if pixels.dtype == np.uint8 else _alpha16(buffer, header, orientation)
    except Exception:  # Pillow's readers signal damage by nearly any exception; the colours are good
        alpha = np.empty(0)
    if alpha is not None and alpha.shape != pixels.shape[:2]:
        alpha = None
        notes.append("its alpha channel could not be read and was left out")
    return Picture(pixels, alpha, exif, tuple(notes))


def _read_raw(path: str | os.PathLike[str], name: str, max_pixels: int | None) -> Picture:
    # Pipes, folders, missing files: with the messages that other images have. Nothing is read here.
    if not os.path.isfile(path):
        read_file(path, max_pixels=max_pixels)
    if os.path.getsize(path) == 0:
        raise ImageReadError(f"{name}: the file is empty (0 bytes). Copy it from the camera again, or remove it.")
    pixels = read_raw(path)
    if max_pixels is not None and pixels.shape[0] * pixels.shape[1] > max_pixels:
        raise ImageReadError(
            f"{name}: {pixels.shape[1]}x{pixels.shape[0]} are more than the limit of {max_pixels} pixels; raise it "
            "(max_pixels)."
        )
    return Picture(pixels, exif=_exif_of_raw(path))


def _exif_of_raw(path: str | os.PathLike[str]) -> bytes | None:
    """EXIF of a RAW file that is built like a TIFF file, as most are; of others, that of its preview."""
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return block_of_tiff(data)  # type: ignore[arg-type]  # is read as bytes are
    except (ExifError, ValueError, OSError):
        pass
    try:
        import rawpy

        with rawpy.imread(os.fspath(path)) as raw:
            preview = raw.extract_thumb()
        return find_block(bytes(preview.data), "JPEG") if preview.format is rawpy.ThumbFormat.JPEG else None
    except Exception:  # a photograph without a preview is none the worse for it
        return None


def _check_coding(header: ImageHeader, name: str) -> None:
    """Raise for what is no ordinary sRGB-like image."""
    if header.hdr:
        raise hdr_error(header.hdr, name)
    if header.coding and not header.icc_profile:
        primaries, transfer = header.coding
        if primaries != _SRGB_PRIMARIES or transfer not in _SRGB_TRANSFERS:
            raise ImageReadError(
                f"{name}: its colours are coded for another gamut than sRGB (cICP: primaries {primaries}, transfer "
                f"{transfer}) without an ICC profile; export it as sRGB."
            )


def _exif(buffer: bytes, header: ImageHeader, notes: list[str]) -> tuple[bytes | None, int]:
    """The EXIF block, if there is one that can be understood, and the orientation it names."""
    try:
        block = block_of_tiff(buffer) if header.kind == "TIFF" else find_block(buffer, header.kind)
        return block, orientation_of(block) if block else 1
    except ExifError as error:
        notes.append(f"its EXIF is damaged ({error}) and was left out")
        return None, 1


def _alpha8(buffer: bytes, header: ImageHeader) -> np.ndarray | None:
    """The alpha channel of an 8-bit image, upright; None if it has none."""
    if header.kind not in _PILLOW_WITH_ALPHA:
        return None
    with _PILLOW_WITH_ALPHA[header.kind](io.BytesIO(buffer)) as image:
        if not image.has_transparency_data:
            return None
        return np.array(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"))


def _alpha16(buffer: bytes, header: ImageHeader, orientation: int) -> np.ndarray | None:
    """The alpha channel of a 16-bit image, which Pillow reduces to 8, upright; None if it has none."""
    if header.kind == "PNG":
        has_alpha = buffer[25] in _PNG_WITH_ALPHA
    else:
        has_alpha = header.kind == "TIFF" and header.photometric == _TIFF_RGB and len(header.bits) == 4
    if not has_alpha:
        return None
    if header.kind == "TIFF" and orientation != 1:
        # OpenCV turns TIFF files even if told to leave them unchanged, and fails where that changes their shape.
        buffer = upright(buffer)
    image: np.ndarray | None = cv2.imdecode(np.frombuffer(buffer, np.uint8), cv2.IMREAD_UNCHANGED)
    # Nothing of no size: there is an alpha channel, but it is not to be had.
    return np.empty(0) if image is None else np.ascontiguousarray(_turned(image[..., -1], orientation))


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image as EXIF's orientation says."""
    if orientation >= 5:
        image = image.T
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image
