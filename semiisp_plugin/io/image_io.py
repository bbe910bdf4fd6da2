"""Reading and writing 8- and 16-bit images: RGB, height x width x 3, ``uint8`` or ``uint16``; finding them in folders.

`read_image` is for pairs: pixel values stay what the file has, whatever ICC profile it carries, because a RAW or XYZ
image, and a target that was graded by its numbers, must not be touched. Photographs, whose colours must mean the same
whatever camera they are from, and what is to be enhanced are read by `semiisp_plugin.io.picture`, which decodes alike
(`semiisp_plugin.io.image_decoding`).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import cv2
import numpy as np

from semiisp_plugin.io.bit_depth import BitDepth as BitDepth
from semiisp_plugin.io.bit_depth import check_dtype
from semiisp_plugin.io.bit_depth import to_bit_depth as to_bit_depth
from semiisp_plugin.io.bit_depth import to_float as to_float
from semiisp_plugin.io.bit_depth import to_tensor as to_tensor
from semiisp_plugin.io.bit_depth import to_uint8 as to_uint8
from semiisp_plugin.io.bit_depth import to_uint16 as to_uint16
from semiisp_plugin.io.colour_profile import cmyk_to_rgb
from semiisp_plugin.io.files import printable_path as printable_path
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_decoding import decode
from semiisp_plugin.io.image_header import ImageReadError as ImageReadError
from semiisp_plugin.io.image_header import is_image_start, not_an_image, read_header

IMAGE_EXTENSIONS: tuple[str, ...] = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".mpo", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What `list_images` takes for an image, in lower case; upper case is accepted too."""

# What systems and programs leave in folders of photographs, in lower case: no image that anybody misses.
_JUNK = frozenset((
    "$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found", "thumbs.db",
))  # fmt: skip
_SHOWN = 8

MAX_PIXELS = 200_000_000
"""Largest image that is decoded unless told otherwise: 200 megapixels, which the largest cameras of telephones have."""

# Files from this size on are looked at before all of them is read.
_LARGE_FILE = 16 * 2**20
# 16-bit RGBA without compression, and as much again as a file may bring along: metadata, a telephone's video.
_MAX_BYTES_PER_PIXEL, _MAX_EXTRA_BYTES = 8, 256 * 2**20


class ImageListing(NamedTuple):
    """What a walk over a folder found.

    Attributes:
        images: Paths of the images relative to the folder, with ``/`` on every system, sorted; and of folders that
            cannot be read, so that whoever reads them says it.
        unsupported: How many files of each other extension (lower case) there are, the most frequent first; hidden ones
            and what systems leave behind, such as ``Thumbs.db``, are no files here.
        examples: One of each of these extensions.
    """

    images: list[str]
    unsupported: dict[str, int]
    examples: dict[str, str]

    @property
    def remark(self) -> str:
        """What is not read, in a line: ``2 .psd ('a/b.psd', ...), 1 .txt ('c.txt')``; empty if everything is."""
        kinds = [
            f"{count} {extension or 'without extension'} ('{printable_path(self.examples[extension])}'"
            + (", ...)" if count > 1 else ")")
            for extension, count in self.unsupported.items()
        ]
        more = len(kinds) - _SHOWN
        return ", ".join(kinds[:_SHOWN]) + (f" and {more} more kinds of files" if more > 0 else "")


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


def decode_image(buffer: bytes, *, name: str, bit_depth: BitDepth = "keep") -> np.ndarray:
    """Decode an image file's bytes; see `read_image`.

    Args:
        buffer: The encoded image.
        name: What messages call it: a path, or an LMDB folder and key.
        bit_depth: As in `read_image`.
    """
    name = printable_path(name)
    pixels = decode(buffer, read_header(buffer, name), name=name, max_pixels=MAX_PIXELS).pixels
    return to_bit_depth(cmyk_to_rgb(pixels) if pixels.shape[2] == 4 else pixels, bit_depth)


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
            if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK):
                raise ImageReadError(
                    f"{name}: a folder that cannot be read. Make it readable (chmod u+rx), or remove it."
                )
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


def encode_png(image_rgb: np.ndarray, compression: int | Literal["fast"] = "fast") -> bytes:
    """Encode an image as PNG.

    Args:
        image_rgb: RGB (H, W, 3) or RGBA (H, W, 4), ``uint8`` or ``uint16``; the bit depth is kept.
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

    The file appears complete or not at all (`semiisp_plugin.io.files.write_atomically`). Its folder is made.

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
    write_atomically(path, data)


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
    listing = scan_images(root)
    images = listing.images
    if not images:
        others = f", but files of other formats: {listing.remark}" if listing.unsupported else ""
        raise ValueError(
            f"'{root}' holds no image ({', '.join(IMAGE_EXTENSIONS)}), neither itself nor below{others}. "
            "Check the path; other formats must be converted first."
        )
    return images


def scan_images(root: str | os.PathLike[str], extensions: Collection[str] = IMAGE_EXTENSIONS) -> ImageListing:
    """`list_images`, and what it leaves out; a folder without images is no error here.

    Args:
        root: The folder.
        extensions: Of the files that count, in lower case.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for relative in _walk(root):
        extension = os.path.splitext(relative)[1].lower()
        if extension in extensions or relative.endswith("/"):
            images.append(relative.rstrip("/"))
        else:
            others[extension] += 1
            examples[extension] = min(relative, examples.get(extension, relative))
    by_count = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    return ImageListing(sorted(images), dict(by_count), examples)


def strip_extension(relative_path: str) -> tuple[str, str]:
    """Split an image's path into what precedes its extension and the extension (with its dot).

    Only extensions of images count, so that the names ``a.1`` and ``a.2`` without extension stay different.
    """
    extension = PurePosixPath(relative_path).suffix
    if extension.lower() not in IMAGE_EXTENSIONS:
        return relative_path, ""
    return relative_path[: -len(extension)], extension


def _walk(root: str | os.PathLike[str]) -> Iterator[str]:
    """Relative paths, with ``/`` on every system, of all files below a folder, hidden ones and junk left out.

    A folder below that cannot be read is listed itself, ending in ``/``: whoever reads it gets an error that names it.
    Each folder waits with its identity and those of the folders above it, to break circles of links. Not recursive:
    folders may be nested deeper than Python's stack.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
    """
    if not os.path.exists(root):
        raise FileNotFoundError(f"There is no folder '{root}' (absolute: '{os.path.abspath(root)}'). Check the path.")
    if not os.path.isdir(root):
        raise NotADirectoryError(f"'{root}' is a file; give the folder that holds the images.")
    waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(str(root), "", (_identity(root),))]
    while waiting:
        folder, prefix, ancestors = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError:
            if not prefix:
                raise
            yield prefix
            continue
        for entry in found:
            if entry.name.startswith(".") or entry.name.casefold() in _JUNK:
                continue
            try:
                identity = _identity(entry.path) if entry.is_dir() else None
            except OSError as error:  # a folder of which only the names may be known; a link that leads to itself
                yield prefix + entry.name + ("/" if isinstance(error, PermissionError) else "")
                continue
            if identity is None:
                # Broken links are listed as well: reading one is then an error that names it.
                yield prefix + entry.name
            elif identity not in ancestors:
                waiting.append((entry.path, prefix + entry.name + "/", (*ancestors, identity)))


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """What is the same for two paths to one folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


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


def _encode(extension: str, image: np.ndarray, parameters: list[int]) -> bytes:
    """Encode an RGB or RGBA image with OpenCV."""
    check_dtype(image)
    if image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise ValueError(f"The image has shape {image.shape}; expected RGB (height, width, 3).")
    order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    ok, data = cv2.imencode(extension, cv2.cvtColor(image, order), parameters)
    if not ok:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape} as {extension}.")
    return data.tobytes()
