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
BMP, GIF, WebP, CMYK JPEG       Pillow, which refuses incomplete files
==============================  ======================================================================================

`read_image` is for pairs: pixel values stay what the file has, whatever ICC profile it carries, because a RAW or XYZ
image, and a target that was graded by its numbers, must not be touched. Photographs, whose colours must mean the same
whatever camera they are from, are read by `semiisp_plugin.io.photograph_io.read_photograph`.
"""

from __future__ import annotations

import importlib
import io
import os
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, cast

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from semiisp_plugin.io.image_header import (
    FETCH_AGAIN,
    ImageHeader,
    ImageReadError,
    is_image_start,
    not_an_image,
    read_header,
)

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_PIXELS",
    "UNSUPPORTED_EXTENSIONS",
    "BitDepth",
    "ImageListing",
    "ImageReadError",
    "StoredImage",
    "cmyk_to_rgb",
    "decode_image",
    "decode_stored",
    "encode_png",
    "list_images",
    "printable_path",
    "read_file",
    "read_image",
    "scan_images",
    "strip_extension",
    "to_bit_depth",
    "to_float",
    "to_tensor",
    "to_uint8",
    "to_uint16",
    "unsupported_images",
    "write_image",
]

BitDepth = Literal["keep", "8", "16"]

IMAGE_EXTENSIONS: tuple[str, ...] = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What `list_images` takes for an image, in lower case; upper case is accepted too."""

# fmt: off
UNSUPPORTED_EXTENSIONS: frozenset[str] = frozenset((
    ".3fr", ".arw", ".avci", ".avif", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".exr", ".fff", ".gif", ".hdr", ".heic",
    ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpe", ".jpf", ".jpm", ".jpx", ".jxl", ".jxr", ".mef", ".mpo",
    ".mrw", ".nef", ".nrw", ".orf", ".pbm", ".pef", ".pgm", ".pnm", ".ppm", ".psb", ".psd", ".raf", ".raw", ".rw2",
    ".rwl", ".sr2", ".srw", ".tga", ".wdp", ".x3f",
))
# fmt: on
"""Extensions of pictures that are not read here, in lower case; see `unsupported_images`."""

MAX_PIXELS = 200_000_000
"""Largest image that is decoded unless told otherwise: 200 megapixels, which the largest cameras of telephones have."""

_TIFF_GREY, _TIFF_RGB = 1, 2
_PILLOW_READERS = {
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
}
_PILLOW_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_CV_NO_MEMORY = -4  # StsNoMem
_LIMIT_LOCK = threading.Lock()
# Files from this size on are looked at before all of them is read.
_LARGE_FILE = 16 * 2**20
# 16-bit RGBA without compression, and as much again as a file may bring along: metadata, a telephone's video.
_MAX_BYTES_PER_PIXEL, _MAX_EXTRA_BYTES = 8, 256 * 2**20
# Values converted at a time, so that wide intermediates stay small.
_BAND = 2**20


class StoredImage(NamedTuple):
    """An image as its file stores it.

    Attributes:
        pixels: (H, W, 3) RGB, ``uint8`` or ``uint16``, or (H, W, 4) CMYK, ``uint8``, 255 being full ink; turned as the
            EXIF orientation says.
        icc_profile: The embedded ICC profile, if any; the pixels are in its colour space.
    """

    pixels: np.ndarray
    icc_profile: bytes | None


class ImageListing(NamedTuple):
    """What a walk over a folder found.

    Attributes:
        images: Paths of the images relative to the folder, with ``/`` on every system, sorted.
        unsupported: Number of files of each extension of `UNSUPPORTED_EXTENSIONS` (lower case), the most frequent
            first.
    """

    images: list[str]
    unsupported: dict[str, int]


def read_image(path: str | os.PathLike[str], *, bit_depth: BitDepth = "keep") -> np.ndarray:
    """Read an image file, its pixel values as they are stored: no ICC profile is applied.

    Args:
        path: The file. Its name may hold any characters.
        bit_depth: ``"keep"`` returns what the file has; ``"8"`` and ``"16"`` convert (see `to_bit_depth`).

    Returns:
        RGB image (H, W, 3), ``uint8`` or ``uint16``, turned as its EXIF orientation says. Grey and palette images are
        expanded, CMYK is converted, an alpha channel is dropped. Of an animation or a multi-page file, the first image.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be opened (permission, a link that leads to itself); the message says what to do.
        ImageReadError: It is empty, incomplete, damaged, no image, neither 8- nor 16-bit, larger than `MAX_PIXELS`, or
            no file at all but a folder, pipe, socket or device.
    """
    return decode_image(read_file(path), name=os.fspath(path), bit_depth=bit_depth)


def decode_image(
    buffer: bytes, *, name: str, bit_depth: BitDepth = "keep", max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Decode an image file's bytes; see `read_image`.

    Args:
        buffer: The encoded image.
        name: What messages call it: a path, or an LMDB folder and key.
        bit_depth: As in `read_image`.
        max_pixels: See `decode_stored`.
    """
    name = printable_path(name)
    pixels = decode_stored(buffer, read_header(buffer, name), name=name, max_pixels=max_pixels).pixels
    return to_bit_depth(cmyk_to_rgb(pixels) if pixels.shape[2] == 4 else pixels, bit_depth)


def decode_stored(
    buffer: bytes,
    header: ImageHeader,
    *,
    name: str,
    max_pixels: int | None = MAX_PIXELS,
    reduce: Literal[1, 2, 4, 8] = 1,
) -> StoredImage:
    """Decode an image file's bytes without any change of colour space.

    Memory is taken after the size is known to be within ``max_pixels``: of the file, and 6 bytes a pixel (OpenCV, 8
    bits a sample), 12 (16 bits) or about 16 (Pillow).

    Args:
        buffer: The encoded image.
        header: What `semiisp_plugin.io.image_header.read_header` says of it.
        name: What messages call it.
        max_pixels: Larger images are refused before they are decoded; ``None``: OpenCV's limit (2^30) alone.
        reduce: Decode a JPEG file of 1 or 3 components at 1/2, 1/4 or 1/8 of its size (rounded up); others as they are.

    Raises:
        ImageReadError: As for `read_image`.
    """
    _check_size(header.width, header.height, max_pixels, name)
    if header.kind == "JPEG" and header.components != 4:
        pixels = _decode_opencv(buffer, name, reduce)
    elif header.kind == "PNG":
        pixels = _decode_opencv(buffer, name)
    elif header.kind == "TIFF" and max(header.bits) > 8:
        if set(header.bits) != {16} or not header.interleaved or header.photometric not in (_TIFF_GREY, _TIFF_RGB):
            raise ImageReadError(
                f"{name}: this TIFF layout is not supported (bits {header.bits}, separate planes "
                f"{not header.interleaved}, photometric interpretation {header.photometric}); save it as 8- or 16-bit "
                "RGB, interleaved, or as PNG."
            )
        if len(header.bits) == 2:  # OpenCV would make 8 bits of them without a word
            raise ImageReadError(f"{name}: 16-bit grey TIFF with alpha is not supported; save it without alpha.")
        pixels = _decode_opencv(buffer, name)
    else:
        return _decode_pillow(buffer, header, max_pixels, name)
    return StoredImage(pixels, header.icc_profile)


def read_file(path: str | os.PathLike[str], *, max_pixels: int | None = MAX_PIXELS) -> bytes:
    """Read a file's bytes if it can be an image.

    What is no regular file is refused before it is opened: reading a pipe waits for ever, and some devices never end.
    So is a file too large for an image of ``max_pixels``, and one that begins like none.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be opened; the message says what to do.
        ImageReadError: It is no file, or too large for an image.
    """
    name = printable_path(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageReadError(
                f"{name}: not a file but {_special(status.st_mode)}. Remove it, or put an image there."
            )
        with open(path, "rb") as file:
            if status.st_size >= _LARGE_FILE:
                start = file.read(32)
                if not is_image_start(start):
                    raise not_an_image(start, name)
                if max_pixels is not None and status.st_size > _MAX_BYTES_PER_PIXEL * max_pixels + _MAX_EXTRA_BYTES:
                    raise ImageReadError(
                        f"{name}: the file has {status.st_size} bytes, too many for an image of {max_pixels} pixels; "
                        "shrink it, remove it, or raise the limit (max_pixels)."
                    )
                file.seek(0)
            return file.read()
    except OSError as error:
        # The same errno makes the same subclass (FileNotFoundError, ...).
        raise OSError(error.errno, f"{error.strerror or error}; {_way_out(error, path)}", os.fspath(path)) from error


def printable_path(path: str | os.PathLike[str]) -> str:
    r"""A path as messages and text files can hold it: on one line, and without bytes that are no text.

    Line breaks and other unprintable characters are written as in Python (``\n``), undecodable bytes as ``\xff``;
    all else, so nearly every path, stays as it is.
    """
    text = os.fsdecode(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def cmyk_to_rgb(cmyk: np.ndarray) -> np.ndarray:
    """Convert CMYK (H, W, 4), ``uint8``, 255 being full ink, to RGB by R = (255 - C) (255 - K) / 255 and so on."""
    height, width = cmyk.shape[:2]
    image = Image.frombuffer("CMYK", (width, height), np.ascontiguousarray(cmyk), "raw", "CMYK", 0, 1)
    return np.array(image.convert("RGB"))


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
        flat = np.ascontiguousarray(image).reshape(-1)
        rounded = np.empty(flat.shape, np.uint8)
        for at in range(0, flat.size, _BAND):
            rounded[at : at + _BAND] = (flat[at : at + _BAND].astype(np.uint32) + 128) // 257
        return rounded.reshape(image.shape)
    if bit_depth == "16" and image.dtype == np.uint8:
        return image.astype(np.uint16) * np.uint16(257)
    return image


def encode_png(image_rgb: np.ndarray, compression: int | Literal["fast"] = "fast") -> bytes:
    """Encode an image as PNG.

    Args:
        image_rgb: RGB (H, W, 3), ``uint8`` or ``uint16``; the bit depth is kept.
        compression: ``fast``: differences of neighbours, run lengths and Huffman codes; of photographs as small as
            level 1, in half its time (``benchmarks/pseudo_data.py``). Or a zlib level, 0 (none) to 9 (slowest), with
            libpng's choice of filters; 1 is BasicSR's for LMDB.
    """
    if compression == "fast":
        # Without a level OpenCV takes the "sub" filter, with one it tries all five for each line.
        return _encode(".png", image_rgb, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])
    if not 0 <= compression <= 9:
        raise ValueError(f"compression is {compression}; PNG knows levels 0 to 9, or 'fast'.")
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
    images, unsupported = scan_images(root)
    if not images:
        others = ", ".join(f"{count} {extension}" for extension, count in unsupported.items())
        raise ValueError(
            f"'{root}' holds no image ({', '.join(IMAGE_EXTENSIONS)}), neither itself nor below"
            + (f", but pictures of other formats ({others}). " if others else ". ")
            + "Check the path; other formats must be converted first."
        )
    return images


def unsupported_images(root: str | os.PathLike[str]) -> dict[str, int]:
    """Count the pictures below a folder that `list_images` leaves out for their format.

    Returns:
        Number of files of each extension (lower case) of `UNSUPPORTED_EXTENSIONS`, the most frequent first.

    Raises:
        FileNotFoundError, NotADirectoryError: As for `list_images`.
    """
    return scan_images(root).unsupported


def scan_images(root: str | os.PathLike[str]) -> ImageListing:
    """`list_images` and `unsupported_images` by one walk; a folder without images is no error here."""
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"There is no folder '{root}' (absolute: '{root.absolute()}'). Check the path.")
    if not root.is_dir():
        raise NotADirectoryError(f"'{root}' is a file; give the folder that holds the images.")
    images: list[str] = []
    others: Counter[str] = Counter()
    for relative in _walk(root):
        extension = os.path.splitext(relative)[1].lower()
        if extension in IMAGE_EXTENSIONS:
            images.append(relative)
        elif extension in UNSUPPORTED_EXTENSIONS:
            others[extension] += 1
    by_count = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    return ImageListing(sorted(images), dict(by_count))


def strip_extension(relative_path: str) -> tuple[str, str]:
    """Split an image's path into what precedes its extension and the extension (with its dot).

    Only extensions of images count, so that the names ``a.1`` and ``a.2`` without extension stay different.
    """
    extension = PurePosixPath(relative_path).suffix
    if extension.lower() not in IMAGE_EXTENSIONS:
        return relative_path, ""
    return relative_path[: -len(extension)], extension


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all files below a folder, hidden ones left out.

    Each folder waits with its identity and those of the folders above it, to break circles of links. Not recursive:
    folders may be nested deeper than Python's stack.
    """
    waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(str(root), "", (_identity(root),))]
    while waiting:
        folder, prefix, ancestors = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link that leads to itself
                    is_folder = False
                if is_folder:
                    identity = _identity(entry.path)
                    if identity not in ancestors:
                        waiting.append((entry.path, prefix + entry.name + "/", (*ancestors, identity)))
                else:
                    # Broken links are listed as well: reading one is then an error that names it.
                    yield prefix + entry.name


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """What is the same for two paths to one folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _check_size(width: int, height: int, max_pixels: int | None, name: str) -> None:
    """Raise if an image has more than ``max_pixels``."""
    if max_pixels is not None and width * height > max_pixels:
        raise ImageReadError(
            f"{name}: {width}x{height} is {width * height / 1e6:.0f} megapixels, more than the limit of "
            f"{max_pixels / 1e6:g}; shrink it, remove it, or raise the limit (max_pixels)."
        )


def _decode_opencv(buffer: bytes, name: str, reduce: int = 1) -> np.ndarray:
    """Decode with OpenCV to RGB, 8 or 16 bits, EXIF orientation applied, alpha dropped."""
    flags = {
        1: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[reduce]
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
    return cast(np.ndarray, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _decode_pillow(buffer: bytes, header: ImageHeader, max_pixels: int | None, name: str) -> StoredImage:
    """Decode an 8-bit image with Pillow to RGB or CMYK, EXIF orientation applied, alpha dropped."""
    try:
        with _pillow_limit_lifted(header), _pillow_reader(header.kind)(io.BytesIO(buffer)) as image:
            # A GIF's first frame may be larger than its header says.
            _check_size(image.width, image.height, max_pixels, name)
            image.load()
            if image.mode not in _PILLOW_MODES:
                raise ImageReadError(
                    f"{name}: pixel format '{image.mode}' is not supported; save it as 8- or 16-bit RGB PNG."
                )
            profile = header.icc_profile or image.info.get("icc_profile")
            pixels = np.array(_turned(image) if image.mode == "CMYK" else _turned(image).convert("RGB"))
    except (ImageReadError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers signal damage by nearly any exception
        raise ImageReadError(f"{name}: damaged or incomplete image ({error}). {FETCH_AGAIN}") from error
    if header.kind == "JPEG" and not header.adobe:
        # Adobe's files store CMYK inverted, and have its marker; Pillow takes all for Adobe's.
        pixels = 255 - pixels
    return StoredImage(pixels, profile if isinstance(profile, bytes) else None)


def _pillow_reader(kind: str) -> Any:
    """Pillow's class for files of a kind, imported when one comes: training on PNG needs none, and is to start soon.

    Not Image.open, which has a limit of pixels of its own and warns from half of it.
    """
    module, name = _PILLOW_READERS[kind]
    return getattr(importlib.import_module(f"PIL.{module}"), name)


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


def _turned(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; metadata that cannot be understood is no reason to do without the picture."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _special(mode: int) -> str:
    """What a path leads to that is no regular file."""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((what for test, what in kinds if test(mode)), "a device")


def _way_out(error: OSError, path: str | os.PathLike[str]) -> str:
    """What to do about a file that cannot be opened."""
    if os.path.islink(path):
        return f"it is a symbolic link to '{printable_path(os.readlink(path))}': repair or remove it"
    if isinstance(error, FileNotFoundError):
        return "check the path"
    if isinstance(error, PermissionError):
        return "make it readable (chmod u+r), or remove it"
    return "repair or remove it"


def _escaped(character: str) -> str:
    """An unprintable character in ASCII."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds an undecodable byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


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
