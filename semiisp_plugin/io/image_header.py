"""What an image file says about itself before it is decoded: format, size, ICC profile, and whether it is complete.

Sizes are known before memory is taken for pixels, so that a file of 100 bytes cannot ask for 100 gigabytes. Profiles
are found, not applied. JPEG and PNG are walked marker by marker and chunk by chunk, which costs microseconds; the first
tags of TIFF files are read; of the other formats, fixed fields.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, NamedTuple

FETCH_AGAIN = "Fetch or export the file again, or remove it (from both folders, if it is one of a pair)."
"""What to do about a damaged file; ends the messages of `ImageReadError`."""

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GIF = (b"GIF87a", b"GIF89a")
# The standalone JPEG markers: TEM and the restarts have no length field.
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD8)])
# Start-of-frame markers; C4, C8 and CC are a table, a reserved code and another table.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ICC_MARK = b"ICC_PROFILE\0"
# The largest real profiles, those of presses, have 3 MiB. A compressed one may claim anything.
_MAX_PROFILE_BYTES = 8 * 2**20
# ITU-T H.273: PQ (SMPTE ST 2084) and HLG (ARIB STD-B67).
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
# What people have in folders of photographs, or under the name of one, and what it is called in messages.
_OTHER_CONTENT: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftypheic", "a HEIC image"),
    (4, b"ftypheix", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"<", "a web page or another text"),
    (0, b"{", "a JSON text"),
)


class ImageReadError(ValueError):
    """An image cannot be read; the message names the file, what is wrong with it, and the fix."""


class ImageHeader(NamedTuple):
    """What a file says about itself.

    Attributes:
        kind: ``"JPEG"``, ``"PNG"``, ``"TIFF"``, ``"WEBP"``, ``"BMP"`` or ``"GIF"``: its content, whatever its name.
        width: As stored, before any EXIF rotation.
        height: As stored.
        icc_profile: The embedded ICC profile, if there is one and it is complete.
        components: Of JPEG: 1, 3 or 4.
        adobe: Of JPEG: has Adobe's marker, so that its CMYK values, if it is CMYK, are stored inverted.
        bits: Of TIFF: bits of each sample.
        interleaved: Of TIFF: not stored plane by plane.
        photometric: Of TIFF: the tag PhotometricInterpretation.
        coding: Of PNG: colour primaries and transfer function (the chunk cICP, codes of ITU-T H.273).
    """

    kind: str
    width: int
    height: int
    icc_profile: bytes | None = None
    components: int = 3
    adobe: bool = False
    bits: tuple[int, ...] = (8,)
    interleaved: bool = True
    photometric: int | None = None
    coding: tuple[int, int] | None = None

    @property
    def hdr(self) -> str | None:
        """``"PQ"`` or ``"HLG"`` if the file says that it is coded so, else nothing."""
        return _HDR_TRANSFERS.get(self.coding[1]) if self.coding else None


def read_header(buffer: bytes, name: str) -> ImageHeader:
    """Read an image's header, and check that JPEG and PNG files are complete.

    Args:
        buffer: The whole file.
        name: What messages call it.

    Raises:
        ImageReadError: It is empty, incomplete, or of no format that is read.
    """
    if not buffer:
        raise ImageReadError(f"{name}: the file is empty (0 bytes). {FETCH_AGAIN}")
    if buffer.startswith(_JPEG):
        header = _jpeg(buffer, name)
    elif buffer.startswith(_PNG):
        header = _png(buffer, name)
    elif buffer.startswith(_TIFF):
        header = _tiff(buffer, name)
    elif buffer.startswith(b"RIFF") and buffer[8:12] == b"WEBP":
        header = _webp(buffer, name)
    elif buffer.startswith(b"BM"):
        header = _bmp(buffer, name)
    elif buffer.startswith(_GIF):
        header = ImageHeader("GIF", _little(buffer[6:8]), _little(buffer[8:10]))
    else:
        raise not_an_image(buffer, name)
    if min(header.width, header.height) < 1:
        raise ImageReadError(
            f"{name}: damaged {header.kind} header (it claims {header.width}x{header.height} pixels). {FETCH_AGAIN}"
        )
    return header


def is_image_start(start: bytes) -> bool:
    """Whether these first bytes (16 at least) are those of a format that is read."""
    known = (_JPEG, _PNG, *_TIFF, *_GIF, b"BM")
    return start.startswith(known) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")


def not_an_image(start: bytes, name: str) -> ImageReadError:
    """Make the error that says what a file is instead of an image."""
    for position, mark, what in _OTHER_CONTENT:
        if start[position:].startswith(mark):
            convert = " Convert it to PNG or JPEG." if what.endswith("image") else ""
            return ImageReadError(
                f"{name}: not an image of a supported format but {what} (first bytes: {start[:8]!r}).{convert} "
                f"{FETCH_AGAIN}"
            )
    return ImageReadError(f"{name}: not an image, or a damaged one (first bytes: {start[:8]!r}). {FETCH_AGAIN}")


def _jpeg(buffer: bytes, name: str) -> ImageHeader:
    """Walk over the markers up to the first scan.

    The end marker is searched after the start of the scan: the thumbnail of the EXIF header ends with one too.
    """
    position = 2
    width = height = components = precision = -1
    adobe = False
    profile: list[bytes] = []
    while position + 4 <= len(buffer):
        if buffer[position] != 0xFF:
            raise ImageReadError(f"{name}: damaged JPEG header (no marker at byte {position}). {FETCH_AGAIN}")
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
            if components not in (1, 3, 4):
                what = "no frame" if components < 0 else f"{components} components"
                raise ImageReadError(f"{name}: damaged JPEG header ({what} before the first scan). {FETCH_AGAIN}")
            if precision != 8:
                raise ImageReadError(
                    f"{name}: a JPEG file of {precision} bits a sample; only 8 are supported. Save it as 16-bit PNG."
                )
            return ImageHeader("JPEG", width, height, _join(profile), components, adobe)
        start, length = position + 4, int.from_bytes(buffer[position + 2 : position + 4], "big")
        if marker in _FRAMES and position + 10 <= len(buffer):
            precision = buffer[start]
            height = int.from_bytes(buffer[start + 1 : start + 3], "big")
            width = int.from_bytes(buffer[start + 3 : start + 5], "big")
            components = buffer[start + 5]
        elif marker == 0xE2 and buffer.startswith(_ICC_MARK, start):
            profile.append(buffer[start + len(_ICC_MARK) : position + 2 + length])
        elif marker == 0xEE and buffer.startswith(b"Adobe", start):
            adobe = True
        position += 2 + length
    raise ImageReadError(f"{name}: truncated JPEG file ({len(buffer)} bytes, end marker missing). {FETCH_AGAIN}")


def _join(segments: list[bytes]) -> bytes | None:
    """Join an ICC profile's segments, each of which begins with its number, from 1, and how many there are."""
    if not segments:
        return None
    if len(segments) == 1:
        return segments[0][2:]
    ordered = sorted(segments, key=lambda segment: segment[:1])
    if [segment[:1] for segment in ordered] != [bytes([i]) for i in range(1, len(segments) + 1)]:
        return None  # one is missing or there twice
    joined = b"".join(segment[2:] for segment in ordered)
    return joined if len(joined) <= _MAX_PROFILE_BYTES else None


def _png(buffer: bytes, name: str) -> ImageHeader:
    """Walk over the chunks to ``IEND`` (checksums are the decoder's business)."""
    position = len(_PNG)
    if buffer[position + 4 : position + 8] != b"IHDR" and len(buffer) >= position + 8:
        raise ImageReadError(f"{name}: damaged PNG header (no IHDR chunk). {FETCH_AGAIN}")
    width, height = (int.from_bytes(buffer[at : at + 4], "big") for at in (16, 20))
    profile: bytes | None = None
    coding: tuple[int, int] | None = None
    while position + 12 <= len(buffer):
        kind, length = buffer[position + 4 : position + 8], int.from_bytes(buffer[position : position + 4], "big")
        # Decoders take memory for what a chunk claims to hold, this one too.
        if kind == b"IEND" and length == 0:
            return ImageHeader("PNG", width, height, profile, coding=coding)
        if kind == b"iCCP":
            profile = _inflate(buffer[position + 8 : position + 8 + length])
        elif kind == b"cICP" and length == 4:
            coding = (buffer[position + 8], buffer[position + 9])
        position += 12 + length
    raise ImageReadError(f"{name}: truncated PNG file ({len(buffer)} bytes, IEND chunk missing). {FETCH_AGAIN}")


def _inflate(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk: a name, a zero byte, the compression method 0, the compressed profile."""
    _, _, compressed = chunk.partition(b"\0")
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(compressed[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if stream.eof else None


def _tiff(buffer: bytes, name: str) -> ImageHeader:
    """Read the first directory of tags."""
    from PIL import TiffImagePlugin

    try:
        # Not by Image.open: it refuses layouts that have no Pillow mode, which OpenCV may read well.
        tags = TiffImagePlugin.ImageFileDirectory_v2(buffer[: 16 if buffer[2] == 43 or buffer[3] == 43 else 8])
        file = io.BytesIO(buffer)
        file.seek(tags.next)
        tags.load(file)
        profile: Any = tags.get(TiffImagePlugin.ICCPROFILE)
        width, height = int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
        strips = len(tags.get(TiffImagePlugin.STRIPOFFSETS, ()))
        rows = int(tags.get(TiffImagePlugin.ROWSPERSTRIP, height))
        # Pillow leaves rows that no strip holds black.
        if strips and strips * rows < height:
            raise ValueError(f"{strips} strips of {rows} rows for {height} rows")
        return ImageHeader(
            "TIFF",
            width,
            height,
            profile if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE_BYTES else None,
            bits=tuple(int(b) for b in tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))),
            interleaved=tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) != 2,
            photometric=tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION),
        )
    except KeyError as error:
        raise ImageReadError(f"{name}: damaged or incomplete TIFF file (no tag {error}). {FETCH_AGAIN}") from error
    except Exception as error:  # a damaged tag may have any type and value
        raise ImageReadError(f"{name}: damaged or incomplete TIFF file ({error}). {FETCH_AGAIN}") from error


def _webp(buffer: bytes, name: str) -> ImageHeader:
    """Read the first chunk: VP8X (a canvas), VP8L (lossless) or VP8 (lossy)."""
    kind, data = buffer[12:16], buffer[20:30]
    if len(data) == 10:
        if kind == b"VP8X":
            return ImageHeader("WEBP", 1 + _little(data[4:7]), 1 + _little(data[7:10]))
        if kind == b"VP8L":
            packed = _little(data[1:5])
            return ImageHeader("WEBP", 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF))
        if kind == b"VP8 ":
            return ImageHeader("WEBP", _little(data[6:8]) & 0x3FFF, _little(data[8:10]) & 0x3FFF)
    raise ImageReadError(f"{name}: damaged or incomplete WebP file. {FETCH_AGAIN}")


def _bmp(buffer: bytes, name: str) -> ImageHeader:
    """Read the size, whose fields have 2 bytes in the oldest variant and a negative height for top-down rows."""
    if len(buffer) < 26:
        raise ImageReadError(f"{name}: incomplete BMP file ({len(buffer)} bytes). {FETCH_AGAIN}")
    if _little(buffer[14:18]) == 12:
        return ImageHeader("BMP", _little(buffer[18:20]), _little(buffer[20:22]))
    width, height = (int.from_bytes(buffer[at : at + 4], "little", signed=True) for at in (18, 22))
    return ImageHeader("BMP", width, abs(height))


def _little(field: bytes) -> int:
    """An unsigned little-endian number."""
    return int.from_bytes(field, "little")
