"""EXIF that goes with a result: the camera, the date, the place; not what the result has made untrue.

EXIF is a TIFF file without a picture, and is treated as one. A block from a JPEG, PNG or WebP file is changed where it
stands, byte by byte, so that maker's notes, which point into it, stay whole. Libraries (Pillow, piexif) write all tags
anew in other places, which breaks these notes; they also cannot read the EXIF of most RAW files. What is changed:

* the orientation becomes 1, for the pixels were turned;
* width and height become those of the result, the colour space sRGB;
* the thumbnail, which shows the picture as it was, is blotted out.

Of TIFF and RAW files, whose header is about their own pixels, a new block is made of the tags that describe the
photograph.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["DESCRIPTIVE", "ExifError", "block_of_tiff", "find_block", "orientation_of", "updated_block", "upright"]

_ORIENTATION, _EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD = 0x0112, 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT, _COLOUR_SPACE, _MAKER_NOTE = 0xA002, 0xA003, 0xA001, 0x927C
_INTEROPERABILITY_INDEX = 0x0001
_THUMBNAIL, _THUMBNAIL_BYTES = 0x0201, 0x0202
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
_SRGB = 1
_KIND_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG = 3, 4
_MAX_ENTRIES = 1000
DESCRIPTIVE = frozenset((
    0x010E, 0x010F, 0x0110, _ORIENTATION, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749,
    0x8298, _EXIF_IFD, _GPS_IFD, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,
))  # fmt: skip
"""Tags of a first directory that are about the photograph, and not about how the pixels of a file are stored."""
_MAX_VALUE_BYTES = 8192  # of one tag taken from a TIFF or RAW file


class ExifError(ValueError):
    """A block that cannot be understood, so that it cannot be kept either: its orientation would be applied twice."""


class Entry(NamedTuple):
    """A tag.

    Attributes:
        tag: Its number.
        kind: Its type, as TIFF numbers them.
        number: Number of values.
        at: Where the values lie.
        size: How many bytes they have.
        field: Where the 12 bytes of the entry lie.
    """

    tag: int
    kind: int
    number: int
    at: int
    size: int
    field: int


class _Reader:
    """The directories of a TIFF file or EXIF block."""

    def __init__(self, data: bytes | bytearray) -> None:
        marks = {b"II": "<", b"MM": ">"}
        self.data = data
        # RAW files of some makers have another number than 42 there.
        if bytes(data[:2]) not in marks or len(data) < 8:
            raise ExifError("no TIFF header")
        self.order = marks[bytes(data[:2])]
        self.first = self.number(4, 4)

    def number(self, at: int, size: int) -> int:
        """An unsigned number of 2 or 4 bytes."""
        if at < 0 or at + size > len(self.data):
            raise ExifError("it points beyond its end")
        value: int = struct.unpack_from(self.order + {1: "B", 2: "H", 4: "I"}[size], self.data, at)[0]
        return value

    def directory(self, at: int) -> tuple[dict[int, Entry], int]:
        """The tags of a directory, and where the next one lies (0: nowhere)."""
        count = self.number(at, 2)
        if count > _MAX_ENTRIES:
            raise ExifError(f"a directory of {count} tags")
        entries = {}
        for field in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, number = self.number(field, 2), self.number(field + 2, 2), self.number(field + 4, 4)
            size = _KIND_BYTES.get(kind, 1) * number
            place = field + 8 if size <= 4 else self.number(field + 8, 4)
            entries[tag] = Entry(tag, kind, number, place, size, field)
        end = at + 2 + 12 * count
        # Some writers leave the pointer to the next directory out at the end of a block.
        return entries, self.number(end, 4) if end + 4 <= len(self.data) else 0

    def value(self, entry: Entry) -> int:
        """The first value of a tag of whole numbers."""
        return self.number(entry.at, _KIND_BYTES.get(entry.kind, 4) if entry.kind in (1, 3, 4, 13) else 4)


def find_block(data: bytes, kind: str) -> bytes | None:
    """The EXIF block of a JPEG, PNG or WebP file's bytes, without the six letters that precede it in JPEG.

    Args:
        data: The whole file, found complete.
        kind: As `semiisp_plugin.io.image_header.ImageHeader.kind`.
    """
    found = {"JPEG": _in_jpeg, "PNG": _in_png, "WEBP": _in_webp}.get(kind, lambda _: None)(data)
    return None if found is None else found.removeprefix(b"Exif\0\0")


def _in_jpeg(data: bytes) -> bytes | None:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            return data[at + 4 : at + 2 + length]
        at += 2 + length
    return None


def _in_png(data: bytes) -> bytes | None:
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return None


def _in_webp(data: bytes) -> bytes | None:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return None


def orientation_of(block: bytes) -> int:
    """The orientation that a block, or a TIFF file, names: 1 to 8; 1 where it names none.

    Raises:
        ExifError: It is no such block.
    """
    reader = _Reader(block)
    entry = reader.directory(reader.first)[0].get(_ORIENTATION)
    value = reader.value(entry) if entry else 1
    return value if 1 <= value <= 8 else 1


def upright(data: bytes) -> bytes:
    """A TIFF file, or a block, whose orientation is 1 where it names any.

    Raises:
        ExifError: It is no such file.
    """
    changed = bytearray(data)
    reader = _Reader(changed)
    _write(changed, reader, reader.directory(reader.first)[0].get(_ORIENTATION), 1)
    return bytes(changed)


def updated_block(block: bytes, width: int, height: int) -> bytes:
    """A block made true for a result of this size whose pixels are upright sRGB; see the module.

    Raises:
        ExifError: The block is damaged.
    """
    data = bytearray(block)
    reader = _Reader(data)
    main, next_directory = reader.directory(reader.first)
    _write(data, reader, main.get(_ORIENTATION), 1)
    _write(data, reader, main.get(_TIFF_WIDTH), width)
    _write(data, reader, main.get(_TIFF_HEIGHT), height)
    if _EXIF_IFD in main:
        photo, _ = reader.directory(reader.value(main[_EXIF_IFD]))
        _write(data, reader, photo.get(_WIDTH), width)
        _write(data, reader, photo.get(_HEIGHT), height)
        _write(data, reader, photo.get(_COLOUR_SPACE), _SRGB)
        if _INTEROPERABILITY_IFD in photo:
            _as_srgb(data, reader, photo[_INTEROPERABILITY_IFD])
    if next_directory:
        end = reader.first + 2 + 12 * reader.number(reader.first, 2)
        data[end : end + 4] = bytes(4)
        del data[_blot_out_thumbnail(data, reader, next_directory) :]
    return bytes(data)


def _write(data: bytearray, reader: _Reader, entry: Entry | None, value: int) -> None:
    """Put a number in the place of another, where the tag is there and wide enough."""
    if entry is None or entry.kind not in (_SHORT, _LONG) or entry.number != 1:
        return
    if entry.kind == _SHORT and value > 0xFFFF:
        raise ExifError(f"tag {entry.tag:#06x} cannot hold {value}")
    struct.pack_into(reader.order + {_SHORT: "H", _LONG: "I"}[entry.kind], data, entry.at, value)


def _as_srgb(data: bytearray, reader: _Reader, pointer: Entry) -> None:
    """``R03`` says Adobe RGB to some programs; ``R98`` says sRGB."""
    try:
        index = reader.directory(reader.value(pointer))[0].get(_INTEROPERABILITY_INDEX)
    except ExifError:
        return  # a directory that nobody misses
    if index is not None and data[index.at : index.at + 3] == b"R03":
        data[index.at : index.at + 3] = b"R98"


def _blot_out_thumbnail(data: bytearray, reader: _Reader, directory: int) -> int:
    """Zeros in the place of the thumbnail and of its directory; returns where the block may end after that."""
    length = len(data)
    try:
        entries, _ = reader.directory(directory)
    except ExifError:
        return length
    if _THUMBNAIL in entries and _THUMBNAIL_BYTES in entries:
        at, size = (reader.value(entries[tag]) for tag in (_THUMBNAIL, _THUMBNAIL_BYTES))
        # Not by what a damaged block says: whatever is blotted out has to begin like a JPEG file.
        if bytes(data[at : at + 2]) == b"\xff\xd8":
            stop = min(at + size, len(data))
            data[at:stop] = bytes(stop - at)
            # Most writers put it last; a byte or two may follow to make the length even.
            if stop >= len(data) - 2 and at >= 8:
                length = at
    stop = min(directory + 2 + 12 * len(entries) + 4, len(data))
    data[directory:stop] = bytes(stop - directory)
    return length


def block_of_tiff(data: bytes) -> bytes:
    """A new block of what a TIFF or RAW file's first directory says about the photograph.

    Maker's notes, which point into the file, are left out.

    Raises:
        ExifError: The data has no such directory.
    """
    reader = _Reader(data)
    main, _ = reader.directory(reader.first)
    kept = {tag: entry for tag, entry in main.items() if tag in DESCRIPTIVE}
    parts: dict[int, dict[int, Entry]] = {}
    for pointer in (_EXIF_IFD, _GPS_IFD):
        if pointer in kept:
            try:
                parts[pointer] = reader.directory(reader.value(kept[pointer]))[0]
            except ExifError:
                del kept[pointer]
    if _EXIF_IFD in parts:
        for tag in (_MAKER_NOTE, _INTEROPERABILITY_IFD):
            parts[_EXIF_IFD].pop(tag, None)
    out = bytearray(data[:2] + struct.pack(reader.order + "HI", 42, 8))
    pointers = _append_directory(out, reader, kept)
    for pointer, entries in parts.items():
        if pointer not in pointers:  # of a damaged kind
            continue
        struct.pack_into(reader.order + "HII", out, pointers[pointer] + 2, _LONG, 1, len(out))
        _append_directory(out, reader, entries)
    return bytes(out)


def _append_directory(out: bytearray, reader: _Reader, entries: dict[int, Entry]) -> dict[int, int]:
    """Append a directory with its values; returns where the pointer of each tag lies."""
    usable = {
        tag: entry
        for tag, entry in sorted(entries.items())
        if entry.kind in _KIND_BYTES and entry.size <= _MAX_VALUE_BYTES and entry.at + entry.size <= len(reader.data)
    }
    at = len(out)
    out += struct.pack(reader.order + "H", len(usable)) + bytes(12 * len(usable) + 4)
    fields = {}
    for i, (tag, entry) in enumerate(usable.items()):
        field = at + 2 + 12 * i
        value = bytes(reader.data[entry.at : entry.at + entry.size])
        if entry.size > 4:
            place = len(out)
            out += value + bytes(len(value) % 2)
            value = struct.pack(reader.order + "I", place)
        out[field : field + 12] = struct.pack(reader.order + "HHI", tag, entry.kind, entry.number) + value.ljust(
            4, b"\0"
        )
        fields[tag] = field
    return fields
