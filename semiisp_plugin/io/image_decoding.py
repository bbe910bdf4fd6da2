"""The pixels of an image file: colours and alpha, turned alike, from the decoder that reads the format best.

Training data is only as good as its worst file, so what decoders let pass in silence is an error here: libjpeg fills
what it cannot decode with grey and other blocks, and only warns; some of OpenCV's versions return a half-black image
for a truncated PNG, and scrambled channels for a planar 16-bit TIFF; libtiff does not look at the checksums of
compressed strips, and no decoder sees all holes in data that have none.

==============================  ======================================================================================
format                          decoder
==============================  ======================================================================================
JPEG                            simplejpeg, whose libjpeg is OpenCV's and tells its warnings
PNG                             OpenCV, of the chunks that decide pixels alone; 16 bits stay
TIFF, more than 8 bits          OpenCV, after a look at the tags (Pillow reduces 16-bit RGB to 8 bits; without its large
                                companion imagecodecs, tifffile reads no LZW)
BMP, GIF, WebP, other TIFF      Pillow, which refuses incomplete files
==============================  ======================================================================================

None of them turns an image: each reads the orientation from other places. What `ImageHeader` says is applied here.
"""

from __future__ import annotations

import io
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

from semiisp_plugin.io.image_header import (
    FETCH_AGAIN,
    PNG_MAGIC,
    ImageHeader,
    ImageReadError,
    check_size,
    pillow_reader,
)

__all__ = ["Decoded", "decode"]

_TIFF_GREY, _TIFF_RGB = 1, 2
_TIFF_ORIENTATION = 274
_TIFF_JPEG, _DEFLATE = 7, (8, 32946)
# No JPEG scan that is whole has so many zero bytes in a row (see ImageHeader.zeros); a lost sector has 512 or more.
_HOLE = bytes(64)
_DETAIL_HOLE = re.compile(rb"\x00{256,}")
_ODD_SAMPLING = "Could not determine subsampling"
_PILLOW_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_CV_NO_MEMORY = -4  # StsNoMem
_LIMIT_LOCK = threading.Lock()


class Decoded(NamedTuple):
    """An image as its file stores it, upright.

    Attributes:
        pixels: (H, W, 3) RGB, ``uint8`` or ``uint16``, or (H, W, 4) CMYK, ``uint8``, 255 being full ink. Not multiplied
            by alpha, however the file has them.
        alpha: (H, W) of the same type, where it was asked for and there is one.
        icc_profile: The embedded ICC profile, if any; the pixels are in its colour space.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    icc_profile: bytes | None


def decode(
    buffer: bytes,
    header: ImageHeader,
    *,
    name: str,
    max_pixels: int | None,
    alpha: bool = False,
    reduce: Literal[1, 2, 4, 8] = 1,
) -> Decoded:
    """Decode an image file's bytes without any change of colour space.

    Memory is taken after the size is known to be within ``max_pixels``: of the file, and 3 bytes a pixel (JPEG), 6
    (OpenCV, 8 bits a sample), 12 (16 bits) or about 16 (Pillow).

    Args:
        buffer: The encoded image.
        header: What `semiisp_plugin.io.image_header.read_header` says of it.
        name: What messages call it.
        max_pixels: Larger images are refused before they are decoded; ``None``: the decoder's limit alone.
        alpha: Whether the alpha channel is wanted.
        reduce: Decode a JPEG file of 1 or 3 components at 1/2, 1/4 or 1/8 of its size (rounded up); others as they are.

    Raises:
        ImageReadError: The file is incomplete, damaged, too large, or of a layout that is not read.
    """
    check_size(header.width, header.height, max_pixels, name)
    _check_data(buffer, header, name, max_pixels)
    profile = header.icc_profile
    opacity = None
    if header.kind == "JPEG":
        pixels = _jpeg(buffer, header, name, reduce)
    elif header.kind == "PNG":
        # The others cost other things: OpenCV turns by them, takes an animation's frame, or gives up for a long text.
        picture = b"".join([PNG_MAGIC, *(buffer[start : start + size] for start, size in header.parts)])
        pixels, opacity = _opencv(picture, header, name, alpha)
    elif header.kind == "TIFF" and max(header.bits) > 8:
        pixels, opacity = _opencv(_opencv_tiff(buffer, header, name), header, name, alpha)
    else:
        pixels, opacity, profile = _pillow(buffer, header, name, max_pixels, alpha)
    if opacity is not None:
        opacity = _turned(opacity, header.orientation)
    return Decoded(_turned(pixels, header.orientation), opacity, profile)


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image (H, W, ...) as EXIF's orientation says; contiguous."""
    if orientation >= 5:
        image = cv2.transpose(image)
    if orientation in (2, 3, 6, 7):
        image = cv2.flip(image, 1)
    if orientation in (3, 4, 7, 8):
        image = cv2.flip(image, 0)
    return np.ascontiguousarray(image)


# --- damage that decoders do not see --------------------------------------------------------------------------------


def _check_data(buffer: bytes, header: ImageHeader, name: str, max_pixels: int | None) -> None:
    """Raise for holes, and for strips or tiles of TIFF that do not agree with their checksums or are damaged JPEG."""
    for start, size in header.parts:
        if header.kind == "JPEG" and (
            _lost_detail(buffer, start, start + size) if header.zeros else buffer.find(_HOLE, start, start + size) >= 0
        ):
            raise ImageReadError(
                f"{name}: damaged {header.kind} file (a hole: zero bytes where its picture should be). {FETCH_AGAIN}"
            )
        if header.compression in _DEFLATE:
            _check_deflate(buffer[start : start + size], name)
        if header.compression == _TIFF_JPEG and max(header.bits) == 8:
            tables = (header.tables or b"")[:-2]  # without its end marker
            part = tables + buffer[start + 2 if tables else start : start + size]
            _libjpeg(part, header, name, max_pixels, space="GRAY", min_width=1, min_height=1)


def _lost_detail(buffer: bytes, start: int, end: int) -> bool:
    """Whether a progressive scan of a JPEG file that adds detail (has no mean of blocks, the coefficient 0) has a hole.

    Flat parts cost such a scan nothing. Of real and drawn pictures of all qualities the longest run is 117.
    """
    for run in _DETAIL_HOLE.finditer(buffer, start, end):
        scan = buffer.rfind(b"\xff\xda", start, run.start())
        if buffer[scan + 4] == 1 and buffer[scan + 7] > 0:
            return True
    return False


def _check_deflate(rest: bytes, name: str) -> None:
    """Raise unless a strip or tile is whole and agrees with its checksum (Adler-32)."""
    stream = zlib.decompressobj()
    try:
        while rest and not stream.eof:
            stream.decompress(rest, 2**24)
            rest = stream.unconsumed_tail
    except zlib.error as error:
        raise ImageReadError(f"{name}: damaged TIFF file ({error}). {FETCH_AGAIN}") from error
    if not stream.eof:  # libtiff stops when it has enough, whatever that was
        raise ImageReadError(f"{name}: damaged TIFF file (compressed data without their end). {FETCH_AGAIN}")


# --- libjpeg --------------------------------------------------------------------------------------------------------


def _jpeg(buffer: bytes, header: ImageHeader, name: str, reduce: int) -> np.ndarray:
    """RGB, or CMYK with 255 for full ink, at a fraction of its size (rounded up)."""
    cmyk = header.components == 4
    sides = {"min_width": -(-header.width // reduce), "min_height": -(-header.height // reduce)}
    pixels = _libjpeg(buffer, header, name, None, space="CMYK" if cmyk else "RGB", **sides)
    if pixels is None:
        if not cmyk:
            return _opencv(buffer, header, name, alpha=False)[0]
        pixels = 255 - _pillow(buffer, header, name, None, alpha=False)[0]  # which takes all for Adobe's
    # Adobe's files store CMYK inverted, and have its marker.
    return 255 - pixels if cmyk and header.adobe else pixels


def _libjpeg(
    buffer: bytes, header: ImageHeader, name: str, max_pixels: int | None, *, space: str, **sides: int
) -> np.ndarray | None:
    """Pixels of a JPEG file that libjpeg has nothing to say against; None if it is of a subsampling TurboJPEG lacks.

    It tells its first warning alone: what changes no pixel is mended, and the file is looked at again.
    """
    import simplejpeg

    for _ in range(5):
        try:
            if max_pixels is not None:  # of a part, which may claim another size than its file
                height, width = simplejpeg.decode_jpeg_header(buffer)[:2]
                check_size(width, height, max_pixels, name)
            pixels: np.ndarray = simplejpeg.decode_jpeg(buffer, space, **sides)
            return pixels
        except ImageReadError:
            raise
        except ValueError as error:
            warning = str(error)
        if _ODD_SAMPLING in warning:
            return None
        if "nsufficient memory" in warning:
            raise MemoryError(f"{name}: there is not enough memory to decode it.")
        mended = _mended(buffer, header, warning)
        if mended == buffer:
            break
        buffer = mended
    what = warning.removeprefix("Corrupt JPEG data: ")
    raise ImageReadError(f"{name}: damaged {header.kind} file (libjpeg: {what}). {FETCH_AGAIN}")


def _mended(buffer: bytes, header: ImageHeader, warning: str) -> bytes:
    """A JPEG file without what a warning is about, if no pixel depends on it; else as it is."""
    if "bad ICC marker" in warning:
        return buffer.replace(b"ICC_PROFILE\0", b"icc_profile\0")
    if "unknown JFIF revision" in warning:
        return re.sub(rb"JFIF\x00.", b"JFIF\0\1", buffer, count=1, flags=re.DOTALL)
    if "Adobe color transform" in warning:  # libjpeg takes it for this one
        transform = b"\2" if header.components == 4 else b"\1"
        return re.sub(rb"(\xff\xee..Adobe.{6}).", rb"\1" + transform, buffer, count=1, flags=re.DOTALL)
    if "Invalid SOS parameters" in warning:  # which this kind of scan does not use
        return re.sub(
            rb"(\xff\xda\x00\x08\x01..|\xff\xda\x00\x0c\x03.{6}).{3}", b"\\1\0\x3f\0", buffer, flags=re.DOTALL
        )
    extraneous = re.search(r"(\d+) extraneous bytes before marker 0x(..)", warning)
    if extraneous and extraneous[2] == "d9":
        # Padding before the end marker, if the bytes are all alike and the decoder took none of them for data. Up to
        # 8 it has fetched in advance.
        end = buffer.find(b"\xff\xd9", header.parts[0][0] if header.kind == "JPEG" else 0)
        data = buffer[:end].rstrip(buffer[end - 1 : end])
        if end - len(data) <= int(extraneous[1]) + 16:
            return data + buffer[end:]
    elif extraneous and header.kind == "JPEG" and int(extraneous[1]) > 1:  # in the header, a marker that is none
        stray = rb"\xff\x00.{%d}(?=\xff%s)" % (int(extraneous[1]) - 2, re.escape(bytes.fromhex(extraneous[2])))
        start = header.parts[0][0]
        return re.sub(stray, b"", buffer[:start], flags=re.DOTALL) + buffer[start:]
    return buffer


# --- OpenCV ---------------------------------------------------------------------------------------------------------


def _opencv(buffer: bytes, header: ImageHeader, name: str, alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB of 8 or 16 bits, and the alpha channel where it is wanted."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    if header.alpha == "associated" or (alpha and header.alpha in ("channel", "key") and header.key is None):
        flags = cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(buffer, np.uint8), flags)
    except cv2.error as error:
        if error.code == _CV_NO_MEMORY:
            raise MemoryError(f"{name}: there is not enough memory to decode it.") from error
        raise ImageReadError(f"{name}: OpenCV cannot decode it ({error.err}). {FETCH_AGAIN}") from error
    if image is None:
        raise ImageReadError(f"{name}: damaged image, OpenCV cannot decode it. {FETCH_AGAIN}")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageReadError(f"{name}: {image.dtype} samples are not supported; save it as 8- or 16-bit PNG.")
    opacity = image[..., 3] if image.ndim == 3 and image.shape[2] == 4 else None
    pixels: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if opacity is None else cv2.COLOR_BGRA2RGB)
    top = np.iinfo(pixels.dtype).max
    if header.alpha == "associated" and opacity is not None:
        wide = pixels.astype(np.uint64) * top + opacity[..., None] // 2
        pixels = (wide // np.maximum(opacity, 1)[..., None]).clip(0, top).astype(pixels.dtype)
    if alpha and header.key is not None:
        opacity = np.where(pixels[..., 0] == header.key, 0, top).astype(pixels.dtype)
    return pixels, opacity if alpha else None


def _opencv_tiff(buffer: bytes, header: ImageHeader, name: str) -> bytes:
    """A TIFF file that OpenCV decodes as it should."""
    if set(header.bits) != {16} or not header.interleaved or header.photometric not in (_TIFF_GREY, _TIFF_RGB):
        raise ImageReadError(
            f"{name}: this TIFF layout is not supported (bits {header.bits}, separate planes {not header.interleaved}, "
            f"photometric interpretation {header.photometric}); save it as 8- or 16-bit RGB, interleaved, or as PNG."
        )
    if len(header.bits) == 2:  # OpenCV would make 8 bits of them without a word
        raise ImageReadError(f"{name}: 16-bit grey TIFF with alpha is not supported; save it without alpha.")
    if header.orientation == 1:
        return buffer
    # It turns TIFF files even if told to leave them unchanged.
    import tifffile

    changed = io.BytesIO(buffer)
    with tifffile.TiffFile(changed, mode="r+") as file:
        file.pages.first.tags[_TIFF_ORIENTATION].overwrite(1)
    return changed.getvalue()


# --- Pillow ---------------------------------------------------------------------------------------------------------


def _pillow(
    buffer: bytes, header: ImageHeader, name: str, max_pixels: int | None, alpha: bool
) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """RGB or CMYK of 8 bits, the alpha channel where it is wanted, and the ICC profile."""
    opacity = None
    try:
        with _pillow_limit_lifted(header), pillow_reader(header.kind)(io.BytesIO(buffer)) as image:
            # A GIF's first frame may be larger than its header says.
            check_size(image.width, image.height, max_pixels, name)
            if header.kind == "TIFF":  # which it would turn, by this tag or by XMP
                image.getexif()[_TIFF_ORIENTATION] = 1
            image.load()
            if image.mode not in _PILLOW_MODES:
                raise ImageReadError(
                    f"{name}: pixel format '{image.mode}' is not supported; save it as 8- or 16-bit RGB PNG."
                )
            profile = header.icc_profile or image.info.get("icc_profile")
            if alpha and image.has_transparency_data:
                both = np.array(image.convert("RGBA"))
                pixels, opacity = both[..., :3], both[..., 3]
            else:
                pixels = np.array(image if image.mode == "CMYK" else image.convert("RGB"))
    except (ImageReadError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers signal damage by nearly any exception
        raise ImageReadError(f"{name}: damaged or incomplete image ({error}). {FETCH_AGAIN}") from error
    return pixels, opacity, profile if isinstance(profile, bytes) else None


@contextmanager
def _pillow_limit_lifted(header: ImageHeader) -> Iterator[None]:
    """Let Pillow decode an image whose size was found good, though it be above the limit that Pillow has for all.

    The limit is a global of Pillow: it is lifted for such an image only, by one thread at a time, and put back.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or header.width * header.height <= limit:
        yield
        return
    with _LIMIT_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
