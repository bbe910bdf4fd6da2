"""EXIF that goes with a result: the camera, the date, the place; not what the result has made untrue.

EXIF is a TIFF file without a picture. Pillow's directories read and write it; not its `Image.Exif`, nor piexif, for
these forget the types of tags, and lose letters that are not ASCII or tags they do not know. What is changed:

* the orientation becomes 1, for the pixels were turned;
* width and height become those of the result, the colour space sRGB;
* the thumbnail, which shows the picture as it was, and the directory of interoperability, which may say Adobe RGB,
  are left out.

Maker's notes keep their bytes, not their place. Of TIFF and RAW files, whose directories are about their own pixels as
well, a block is made of the tags that describe the photograph, without maker's notes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # imported when a file with EXIF comes: training on PNG needs none, and is to start soon
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

_ORIENTATION, _PHOTO, _PLACE, _INTEROPERABILITY = 0x0112, 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT, _COLOUR_SPACE, _MAKER_NOTE = 0xA002, 0xA003, 0xA001, 0x927C
_TIFF_WIDTH, _TIFF_HEIGHT, _BELOW = 0x0100, 0x0101, 0x014A
_SHORT, _LONG = 3, 4
_SRGB = 1
DESCRIPTIVE = frozenset((
    0x010E, 0x010F, 0x0110, _ORIENTATION, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749,
    0x8298, _PHOTO, _PLACE, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,
))  # fmt: skip
"""Tags of a first directory that are about the photograph, and not about how the pixels of a file are stored."""
_MAX_VALUES = 8192  # of one tag taken from a TIFF or RAW file
_MAX_DIRECTORIES = 64  # of one file


class ExifError(ValueError):
    """A block that cannot be understood, so that it cannot be kept either: its orientation would be applied twice."""


def orientation_of(block: bytes) -> int:
    """The orientation that a block names: 1 to 8; 1 where it names none.

    Raises:
        ExifError: It is no EXIF block.
    """
    try:
        return orientation_in(first_directory(io.BytesIO(block)))
    except Exception as error:  # a damaged tag may have any type and value
        raise ExifError(str(error)) from error


def orientation_in(directory: ImageFileDirectory_v2) -> int:
    """The orientation that a first directory names, by a number of whatever type."""
    value: Any = directory.get(_ORIENTATION)
    return int(value) if value in range(1, 9) else 1


def updated_block(block: bytes, width: int, height: int) -> bytes:
    """A block made true for a result of this size whose pixels are upright sRGB; see the module.

    Raises:
        ExifError: The block is damaged.
    """
    try:
        file = io.BytesIO(block)
        main = first_directory(file)
        parts = _parts(file, main)
        _replace(main, {_ORIENTATION: 1, _TIFF_WIDTH: width, _TIFF_HEIGHT: height})
        if _PHOTO in parts:
            _replace(parts[_PHOTO], {_WIDTH: width, _HEIGHT: height, _COLOUR_SPACE: _SRGB})
        return _packed(main, parts)
    except Exception as error:
        raise ExifError(str(error)) from error


def block_of_tiff(file: BinaryIO) -> bytes:
    """A new block of what a TIFF or RAW file's first directory says about the photograph.

    Raises:
        ExifError: The file has no such directory.
    """
    try:
        main = first_directory(file)
        parts = _parts(file, main)
        for directory in (main, *parts.values()):
            for tag in list(directory):
                foreign = tag not in DESCRIPTIVE if directory is main else tag == _MAKER_NOTE
                if foreign or (isinstance(directory[tag], Sized) and len(directory[tag]) > _MAX_VALUES):
                    del directory[tag]
        return _packed(main, parts)
    except Exception as error:
        raise ExifError(str(error)) from error


def first_directory(file: BinaryIO) -> ImageFileDirectory_v2:
    """The first directory of a TIFF file, of an EXIF block, or of a RAW file that is built like one.

    Raises:
        SyntaxError: It is no such file. Pillow's other errors for damaged ones are of nearly any kind.
    """
    return _directory(file, None, None)


def directories(file: BinaryIO) -> Iterator[ImageFileDirectory_v2]:
    """All directories of a TIFF file, or of a RAW file that is built like one, as far as they can be read."""
    waiting: list[Any] = [None]
    seen: set[Any] = set()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        at = waiting.pop(0)
        if at in seen:
            continue
        seen.add(at)
        try:
            directory = _directory(file, at, None)
            below: Any = directory.get(_BELOW, ())
        except Exception:  # a damaged one, or a maker's own
            continue
        yield directory
        waiting += below if isinstance(below, tuple) else [below]
        waiting += [directory.next] if directory.next else []


def _directory(file: BinaryIO, at: int | None, group: int | None) -> ImageFileDirectory_v2:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(16)
    if head[2:4] not in (b"+\0", b"\0+"):  # no BigTIFF; RAW files of some makers have another number than 42 there
        head = _head(head[:2]) + head[4:8]
    directory = ImageFileDirectory_v2(head, group=group)
    file.seek(directory.next if at is None else at)
    directory.load(file)
    return directory


def _head(order: bytes) -> bytes:
    return order + (b"*\0" if order == b"II" else b"\0*")


def _parts(file: BinaryIO, main: ImageFileDirectory_v2) -> dict[int, ImageFileDirectory_v2]:
    """The directories that the main one points to; pointers that lead nowhere are taken out of it."""
    parts = {}
    for pointer in (_PHOTO, _PLACE):
        if pointer in main:
            part = _directory(file, main[pointer], pointer)
            if len(part):
                parts[pointer] = part
            else:
                del main[pointer]
    if _PHOTO in parts:
        del parts[_PHOTO][_INTEROPERABILITY]
    return parts


def _replace(directory: ImageFileDirectory_v2, values: dict[int, int]) -> None:
    """Put numbers in the place of others, where the tags are there."""
    for tag, value in values.items():
        if tag in directory:
            del directory[tag]
            directory.tagtype[tag] = _SHORT if value <= 0xFFFF else _LONG
            directory[tag] = value


def _packed(main: ImageFileDirectory_v2, parts: dict[int, ImageFileDirectory_v2]) -> bytes:
    """A block: its header, the parts, the main directory."""
    out = bytearray(_head(main.prefix) + bytes(4))
    for pointer, part in parts.items():
        del main[pointer]
        main.tagtype[pointer] = _LONG
        main[pointer] = len(out)
        out += _as_bytes(part, len(out))
    struct.pack_into("<I" if main.prefix == b"II" else ">I", out, 4, len(out))
    return bytes(out + _as_bytes(main, len(out)))


def _as_bytes(directory: ImageFileDirectory_v2, at: int) -> bytes:
    """A directory as it is to lie at a place."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    copy = ImageFileDirectory_v2(_head(directory.prefix) + bytes(4), group=directory.group)
    for tag in directory:
        value = directory[tag]
        copy.tagtype[tag] = directory.tagtype[tag]
        copy[tag] = value.encode("latin-1") if isinstance(value, str) else value  # by itself Pillow writes ASCII
    return bytes(copy.tobytes(at))
