"""Reading and writing 8- and 16-bit images: RGB, height x width x 3, ``uint8`` or ``uint16``.

Training data is only as good as its worst file, so what decoders let pass in silence is an error here: OpenCV returns
a half-grey image for a truncated JPEG file, some of its versions a half-black one for a truncated PNG, scrambled
channels for a planar 16-bit TIFF, and BasicSR's reader reduces 16 bits to 8.

==============================  ======================================================================================
format                          decoder
==============================  ======================================================================================
JPEG, 1 or 3 components         OpenCV, after a look at the markers (twice as fast as Pillow)
PNG                             OpenCV, after a walk over the chunks; 16 bits stay
TIFF, more than 8 bits          OpenCV, after a look at the tags (Pillow reduces 16-bit RGB to 8 bits)
all else, and CMYK JPEG         Pillow, which refuses incomplete files
==============================  ======================================================================================
"""

from __future__ import annotations

import io
import os
import secrets
import struct
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin

BitDepth = Literal["keep", "8", "16"]

IMAGE_EXTENSIONS: tuple[str, ...] = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What `list_images` takes for an image, in lower case; upper case is accepted too."""

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_GREY, _TIFF_RGB = 1, 2
# The standalone JPEG markers: TEM and the restarts have no length field.
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD8)])
# Start-of-frame markers; C4, C8 and CC are a table, a reserved code and another table.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FETCH_AGAIN = "Fetch or export the file again, or remove it (from both folders, if it is one of a pair)."


class ImageReadError(ValueError):
    """An image cannot be read; the message names the file, what is wrong with it, and the fix."""


def read_image(path: str | os.PathLike[str], *, bit_depth: BitDepth = "keep") -> np.ndarray:
    """Read an image file.

    Args:
        path: The file. Its name may hold any characters.
        bit_depth: ``"keep"`` returns what the file has; ``"8"`` and ``"16"`` convert (see `to_bit_depth`).

    Returns:
        RGB image (H, W, 3), ``uint8`` or ``uint16``, turned as its EXIF orientation says. Grey and palette images are
        expanded, CMYK is converted, an alpha channel is dropped. Of an animation or a multi-page file, the first image.

    Raises:
        FileNotFoundError: There is no such file.
        ImageReadError: It is empty, incomplete, damaged, no image, or neither 8- nor 16-bit.
    """
    with open(path, "rb") as file:
        buffer = file.read()
    return decode_image(buffer, name=os.fspath(path), bit_depth=bit_depth)


def decode_image(buffer: bytes, *, name: str, bit_depth: BitDepth = "keep") -> np.ndarray:
    """Decode an image file's bytes; see `read_image`.

    Args:
        buffer: The encoded image.
        name: What messages call it: a path, or an LMDB folder and key.
        bit_depth: As in `read_image`.
    """
    if not buffer:
        raise ImageReadError(f"{name}: the file is empty (0 bytes). {_FETCH_AGAIN}")
    if buffer.startswith(_JPEG):
        components = _check_jpeg(buffer, name)
        image = _decode_pillow(buffer, name) if components == 4 else _decode_opencv(buffer, name)
    elif buffer.startswith(_PNG):
        _check_png(buffer, name)
        image = _decode_opencv(buffer, name)
    elif buffer.startswith(_TIFF):
        image = _decode_tiff(buffer, name)
    else:
        image = _decode_pillow(buffer, name)
    return to_bit_depth(image, bit_depth)


def to_bit_depth(image: np.ndarray, bit_depth: BitDepth) -> np.ndarray:
    """Convert between 8 and 16 bits by the factor 257, which maps 0 to 0 and 255 to 65535.

    Args:
        image: ``uint8`` or ``uint16`` image of any shape.
        bit_depth: ``"keep"``, ``"8"`` (rounded to nearest) or ``"16"`` (exact).
    """
    if bit_depth not in ("keep", "8", "16"):
        raise ValueError(f"bit_depth is {bit_depth!r}; it must be 'keep', '8' or '16'.")
    _check_dtype(image)
    if bit_depth == "8" and image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if bit_depth == "16" and image.dtype == np.uint8:
        return image.astype(np.uint16) * np.uint16(257)
    return image


def encode_png(image_rgb: np.ndarray, compression: int = 1) -> bytes:
    """Encode an image as PNG.

    Args:
        image_rgb: RGB (H, W, 3), ``uint8`` or ``uint16``; the bit depth is kept.
        compression: zlib level, 0 (none) to 9 (slowest). 1 is BasicSR's for LMDB.
    """
    if not 0 <= compression <= 9:
        raise ValueError(f"compression is {compression}; PNG knows levels 0 to 9.")
    return _encode(".png", image_rgb, [cv2.IMWRITE_PNG_COMPRESSION, compression])


def write_image(path: str | os.PathLike[str], image_rgb: np.ndarray, *, jpeg_quality: int = 95) -> None:
    """Write a PNG or JPEG file, the format being that of the file name.

    The file appears complete or not at all: it is written under another name and then renamed. Its folder is made.

    Args:
        path: Where to; ends in ``.png``, ``.jpg`` or ``.jpeg``.
        image_rgb: RGB (H, W, 3), ``uint8``, or ``uint16`` for PNG.
        jpeg_quality: 1 to 100, JPEG only.

    Raises:
        ValueError: Another extension, or a 16-bit JPEG.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension == ".png":
        data = encode_png(image_rgb)
    elif extension in (".jpg", ".jpeg"):
        if image_rgb.dtype != np.uint8:
            raise ValueError(f"{path}: JPEG holds 8 bits, the image is {image_rgb.dtype}; write a .png file.")
        data = _encode(".jpg", image_rgb, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    else:
        raise ValueError(f"{path}: cannot write '{path.suffix}' files; use .png, .jpg or .jpeg.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A hidden name, so that nobody who lists the folder meanwhile takes the unfinished file for an image.
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_float(image: np.ndarray) -> np.ndarray:
    """Scale an image to ``float32`` in [0, 1]: 8-bit by 1/255, 16-bit by 1/65535. The shape stays."""
    _check_dtype(image)
    return np.divide(image, np.float32(np.iinfo(image.dtype).max), dtype=np.float32)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round a float image in [0, 1] to ``uint8``; values outside are clipped, NaN is a ValueError."""
    return _quantise(image, np.uint8)


def to_uint16(image: np.ndarray) -> np.ndarray:
    """Round a float image in [0, 1] to ``uint16``; values outside are clipped, NaN is a ValueError."""
    return _quantise(image, np.uint16)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turn an image (H, W, C), ``uint8``, ``uint16`` or float in [0, 1], into a contiguous ``float32`` (C, H, W)."""
    if image.ndim != 3:
        raise ValueError(f"The image has shape {image.shape}; expected (height, width, channels).")
    chw = np.ascontiguousarray(image.transpose(2, 0, 1))
    if np.issubdtype(chw.dtype, np.floating):
        # `copy`: the tensor must not share the caller's memory in one of the cases only.
        return torch.from_numpy(chw.astype(np.float32, copy=True))
    return torch.from_numpy(to_float(chw))


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """List the images below a folder.

    Hidden files and folders (leading dot) are left out, symbolic links are followed.

    Args:
        root: The folder.

    Returns:
        Paths relative to ``root``, with ``/`` on every system, sorted.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: It holds no image.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"There is no folder '{root}' (absolute: '{root.absolute()}'). Check the path.")
    if not root.is_dir():
        raise NotADirectoryError(f"'{root}' is a file; give the folder that holds the images.")
    found: list[str] = []
    _collect(str(root), "", (os.path.realpath(root),), found)
    if not found:
        raise ValueError(
            f"'{root}' holds no image ({', '.join(IMAGE_EXTENSIONS)}), neither itself nor below. "
            "Check the path; other formats must be converted first."
        )
    return sorted(found)


def strip_extension(relative_path: str) -> tuple[str, str]:
    """Split an image's path into what precedes its extension and the extension (with its dot).

    Only extensions of images count, so that the names ``a.1`` and ``a.2`` without extension stay different.
    """
    extension = PurePosixPath(relative_path).suffix
    if extension.lower() not in IMAGE_EXTENSIONS:
        return relative_path, ""
    return relative_path[: -len(extension)], extension


def _collect(folder: str, prefix: str, ancestors: tuple[str, ...], found: list[str]) -> None:
    """Append the images of ``folder`` and below to ``found``; ``ancestors`` are real paths, to break link loops."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            relative = prefix + entry.name
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in ancestors:
                    _collect(entry.path, relative + "/", (*ancestors, real), found)
            elif strip_extension(relative)[1]:
                # Broken links are listed as well: reading one is then an error that names it.
                found.append(relative)


def _check_jpeg(buffer: bytes, name: str) -> int:
    """Return the number of components of a JPEG file; raise if it is incomplete.

    The end marker is searched after the start of the scan: the thumbnail of the EXIF header ends with one too.
    """
    position, components = 2, 0
    while position + 4 <= len(buffer):
        if buffer[position] != 0xFF:
            raise ImageReadError(f"{name}: damaged JPEG header (no marker at byte {position}). {_FETCH_AGAIN}")
        marker = buffer[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        if marker == 0xDA:  # start of scan
            if buffer.rfind(b"\xff\xd9", position) < 0:
                break
            return components
        if marker in _FRAMES and position + 10 <= len(buffer):
            components = buffer[position + 9]
        position += 2 + int.from_bytes(buffer[position + 2 : position + 4], "big")
    raise ImageReadError(f"{name}: truncated JPEG file ({len(buffer)} bytes, end marker missing). {_FETCH_AGAIN}")


def _check_png(buffer: bytes, name: str) -> None:
    """Raise if a PNG file ends before its ``IEND`` chunk (checksums are the decoder's business)."""
    position = len(_PNG)
    while position + 12 <= len(buffer):
        if buffer[position + 4 : position + 8] == b"IEND":
            return
        position += 12 + int.from_bytes(buffer[position : position + 4], "big")
    raise ImageReadError(f"{name}: truncated PNG file ({len(buffer)} bytes, IEND chunk missing). {_FETCH_AGAIN}")


def _decode_opencv(buffer: bytes, name: str) -> np.ndarray:
    """Decode with OpenCV to RGB, 8 or 16 bits, EXIF orientation applied, alpha dropped."""
    try:
        image = cv2.imdecode(np.frombuffer(buffer, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ImageReadError(f"{name}: OpenCV cannot decode it ({error.err}). {_FETCH_AGAIN}") from error
    if image is None:
        raise ImageReadError(f"{name}: damaged image, OpenCV cannot decode it. {_FETCH_AGAIN}")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageReadError(f"{name}: {image.dtype} samples are not supported; save it as 8- or 16-bit PNG.")
    return cast(np.ndarray, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _decode_pillow(buffer: bytes, name: str) -> np.ndarray:
    """Decode an 8-bit image with Pillow to RGB, EXIF orientation applied, alpha dropped."""
    try:
        with _open_pillow(buffer, name) as image:
            turned = ImageOps.exif_transpose(image)
            if turned.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
                raise ImageReadError(
                    f"{name}: pixel format '{turned.mode}' is not supported; save it as 8- or 16-bit RGB PNG."
                )
            return np.array(turned.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's plugins signal damage by each of these.
        if isinstance(error, ImageReadError):
            raise
        raise ImageReadError(f"{name}: damaged or incomplete image ({error}). {_FETCH_AGAIN}") from error


def _decode_tiff(buffer: bytes, name: str) -> np.ndarray:
    """Decode a TIFF file with the decoder that is right for its bit depth and layout."""
    try:
        # Not by Image.open: it refuses layouts that have no Pillow mode, which OpenCV may read well.
        tags = TiffImagePlugin.ImageFileDirectory_v2(buffer[: 16 if buffer[2] == 43 or buffer[3] == 43 else 8])
        file = io.BytesIO(buffer)
        file.seek(tags.next)
        tags.load(file)
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
        meaning = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error) as error:
        raise ImageReadError(f"{name}: damaged or incomplete TIFF file ({error}). {_FETCH_AGAIN}") from error
    if max(bits) <= 8:
        return _decode_pillow(buffer, name)
    if set(bits) != {16} or planar or meaning not in (_TIFF_GREY, _TIFF_RGB):
        raise ImageReadError(
            f"{name}: this TIFF layout is not supported (bits {tuple(bits)}, separate planes {planar}, photometric "
            f"interpretation {meaning}); save it as 8- or 16-bit RGB, interleaved, or as PNG."
        )
    return _decode_opencv(buffer, name)


def _open_pillow(buffer: bytes, name: str) -> Image.Image:
    """Read an image's header with Pillow."""
    try:
        return Image.open(io.BytesIO(buffer))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageReadError(
            f"{name}: not an image, or a damaged one (first bytes: {buffer[:8]!r}). {_FETCH_AGAIN}"
        ) from error


def _encode(extension: str, image_rgb: np.ndarray, parameters: list[int]) -> bytes:
    """Encode an RGB image with OpenCV."""
    _check_dtype(image_rgb)
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or 0 in image_rgb.shape:
        raise ValueError(f"The image has shape {image_rgb.shape}; expected RGB (height, width, 3).")
    ok, data = cv2.imencode(extension, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), parameters)
    if not ok:
        raise ValueError(f"OpenCV cannot encode an image of shape {image_rgb.shape} as {extension}.")
    return data.tobytes()


def _quantise(image: np.ndarray, dtype: type[np.unsignedinteger[Any]]) -> np.ndarray:
    """Clip a float image to [0, 1] and round it to the whole range of ``dtype``."""
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"The image is {image.dtype}; expected floats in [0, 1].")
    if np.isnan(image).any():
        raise ValueError("The image holds NaN, which no integer stands for.")
    top = np.iinfo(dtype).max
    # float16 cannot count to 65535.
    wide = image.astype(np.promote_types(image.dtype, np.float32), copy=False)
    return np.rint(np.clip(wide, 0, 1) * top).astype(dtype)


def _check_dtype(image: np.ndarray) -> None:
    """Raise unless the image has 8 or 16 bits."""
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"The image is {image.dtype}; expected uint8 or uint16 (see to_uint8, to_uint16).")
