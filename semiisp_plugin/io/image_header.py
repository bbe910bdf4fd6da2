"""What an image file says about itself before it is decoded: format, size, colours, alpha, EXIF, and if it is complete.

Sizes are known before memory is taken for pixels, so that a file of 100 bytes cannot ask for 100 gigabytes. Metadata
are found here and nowhere else: decoders are told to leave them alone. JPEG, PNG and WebP are walked by their markers
and chunks, which costs microseconds; of TIFF files the first tags are read; of the other formats, fixed fields. By
hand, because Pillow finds neither missing ends nor cICP, and refuses PNG files for their texts.
"""

from __future__ import annotations

import importlib
import io
import zlib
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from semiisp_plugin.io.exif import ExifError, first_directory, orientation_in, orientation_of

FETCH_AGAIN = "Fetch or export the file again, or remove it (from both folders, if it is one of a pair)."
"""What to do about a damaged file; ends the messages of `ImageReadError`."""

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
"""What every PNG file begins with."""

_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GIF = (b"GIF87a", b"GIF89a")
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ANY_CODEC = (b"mif1", b"msf1")
_UNSPECIFIED = 2  # of primaries
# The standalone JPEG markers: TEM and the restarts have no length field.
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD8)])
# Start-of-frame markers; C4, C8 and CC are a table, a reserved code and another table.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)  # with Huffman codes
_ICC_MARK, _EXIF_MARK = b"ICC_PROFILE\0", b"Exif\0\0"
# The largest real profiles, those of presses, have 3 MiB. A compressed one may claim anything.
_MAX_PROFILE_BYTES = 8 * 2**20
_PNG_PICTURE = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_PNG_CHUNKS = frozenset((b"IHDR", b"iCCP", b"cICP", b"eXIf", b"tRNS"))
_PNG_TEXTS = (b"tEXt", b"zTXt")
_EXIF_TEXTS = (b"Raw profile type exif", b"Raw profile type APP1")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC = 256, 257, 258, 259, 262
_TIFF_ROWS, _TIFF_PLANES, _TIFF_EXTRA, _TIFF_FORMAT, _TIFF_TABLES, _TIFF_PROFILE = 278, 284, 338, 339, 347, 34675
_TIFF_UNSIGNED, _TIFF_UNDEFINED, _TIFF_CMYK = 1, 4, 5
_TIFF_ALPHA: dict[int, Literal["unknown", "associated", "channel"]] = {
    0: "unknown",
    1: "associated",
    2: "channel",
}  # of extra samples
_TIFF_PARTS = (273, 324), (279, 325)  # offsets of strips or tiles, and their sizes
# What people have in folders of photographs, or under the name of one, and what it is called in messages.
_OTHER_CONTENT: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"<", "a web page or another text"),
    (0, b"{", "a JSON text"),
)


_PILLOW_READERS = {
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "HEIF": ("pillow_heif.as_plugin", "HeifImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "JPEG 2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
}


class ImageReadError(ValueError):
    """An image cannot be read; the message names the file, what is wrong with it, and the fix."""


class ImageHeader(NamedTuple):
    """What a file says about itself.

    Attributes:
        kind: ``"JPEG"``, ``"PNG"``, ``"TIFF"``, ``"WEBP"``, ``"BMP"``, ``"GIF"``, ``"JPEG 2000"``, ``"AVIF"`` or
            ``"HEIF"``: its content, whatever its name.
        width: As stored, before any EXIF rotation.
        height: As stored.
        icc_profile: The embedded ICC profile, if there is one and it is complete. Of GIF, Pillow finds it.
        exif: The EXIF block, if there is one, but of TIFF.
        orientation: As EXIF (of TIFF: a tag) numbers it; 1, upright, where the file says nothing or nothing readable.
        alpha: ``"channel"``; ``"associated"``, with colours that are multiplied by it (TIFF); ``"key"``: one colour or
            some entries of a palette are transparent (PNG); or ``"unknown"``: samples which may be alpha (TIFF, BMP).
            Of WebP and GIF, Pillow finds it.
        key: Of grey PNG: the transparent value.
        components: Of JPEG: 1, 3 or 4.
        adobe: Of JPEG: has Adobe's marker, so that its CMYK values, if it is CMYK, are stored inverted.
        bits: Of TIFF: bits of each sample.
        interleaved: Of TIFF: not stored plane by plane.
        photometric: Of TIFF: the tag PhotometricInterpretation.
        compression: Of TIFF: the tag Compression.
        parts: Where the picture's data begin and how many bytes they have: of TIFF, strips or tiles; of PNG, the chunks
            that decide pixels; of JPEG, from the first scan to the end marker.
        zeros: Of JPEG: whether long runs of zero bytes can be data, of a flat part of the picture.
        tables: Of TIFF: the tag JPEGTables.
        coding: Of PNG, AVIF and HEIF: colour primaries and transfer function (the chunk cICP or the box colr, codes of
            ITU-T H.273).
        animated: Of GIF and AVIF: has more images than the first.
    """

    kind: str
    width: int
    height: int
    icc_profile: bytes | None = None
    exif: bytes | None = None
    orientation: int = 1
    alpha: Literal["channel", "associated", "key", "unknown"] | None = None
    key: int | None = None
    components: int = 3
    adobe: bool = False
    bits: tuple[int, ...] = (8,)
    interleaved: bool = True
    photometric: int | None = None
    compression: int = 1
    parts: tuple[tuple[int, int], ...] = ()
    zeros: bool = True
    tables: bytes | None = None
    coding: tuple[int, int] | None = None
    animated: bool = False


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
    elif buffer.startswith(PNG_MAGIC):
        header = _png(buffer, name)
    elif buffer.startswith(_TIFF):
        header = _tiff(buffer, name)
    elif buffer.startswith(b"RIFF") and buffer[8:12] == b"WEBP":
        header = _webp(buffer, name)
    elif buffer.startswith(b"BM"):
        header = _bmp(buffer, name)
    elif (kind := _read_by_pillow(buffer)) is not None:
        header = _by_pillow(buffer, kind, name)
    else:
        raise not_an_image(buffer, name)
    if min(header.width, header.height) < 1:
        raise ImageReadError(
            f"{name}: damaged {header.kind} header (it claims {header.width}x{header.height} pixels). {FETCH_AGAIN}"
        )
    if header.exif:
        with suppress(ExifError):  # no reason to do without the picture
            header = header._replace(orientation=orientation_of(header.exif))
    return header


def check_size(width: int, height: int, max_pixels: int | None, name: str) -> None:
    """Raise an `ImageReadError` if an image has more than ``max_pixels``."""
    if max_pixels is not None and width * height > max_pixels:
        raise ImageReadError(
            f"{name}: {width}x{height} is {width * height / 1e6:.0f} megapixels, more than the limit of "
            f"{max_pixels / 1e6:g}; shrink it, remove it, or raise the limit (max_pixels)."
        )


def is_image_start(start: bytes) -> bool:
    """Whether these first bytes (16 at least) are those of a format that is read."""
    known = (_JPEG, PNG_MAGIC, *_TIFF, b"BM")
    webp = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    return start.startswith(known) or webp or _read_by_pillow(start) is not None


def _read_by_pillow(start: bytes) -> str | None:
    """The kind of a file of which Pillow reads the header, too."""
    if start.startswith(_GIF):
        return "GIF"
    if start.startswith(_JPEG_2000):
        return "JPEG 2000"
    if start[4:8] != b"ftyp" or (brand := start[8:12]) not in (*_AVIF_BRANDS, *_HEIF_BRANDS):
        return None
    others = start[16 : int.from_bytes(start[:4], "big")]  # with which the file is compatible
    return "AVIF" if brand in _AVIF_BRANDS or (brand in _ANY_CODEC and b"avif" in others) else "HEIF"


def _by_pillow(buffer: bytes, kind: str, name: str) -> ImageHeader:
    try:
        with pillow_reader(kind)(io.BytesIO(buffer)) as image:
            profile, exif = image.info.get("icc_profile"), image.info.get("exif")
            if profile and len(profile) > _MAX_PROFILE_BYTES:
                profile = None
            header = ImageHeader(kind, image.width, image.height, profile)
            animated = kind != "JPEG 2000" and getattr(image, "is_animated", False)
    except ImportError as error:
        way = "install pillow-heif (in a clone: pip install -e '.[heif]')" if kind == "HEIF" else "upgrade Pillow"
        raise ImageReadError(f"{name}: a {kind} image; to read it {way}, or convert it to PNG or JPEG.") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers signal damage by nearly any exception
        raise ImageReadError(f"{name}: damaged or incomplete {kind} image ({error}). {FETCH_AGAIN}") from error
    coding = None
    if kind in ("AVIF", "HEIF") and (at := buffer.find(b"colrnclx")) >= 0:
        primaries, transfer = (int.from_bytes(buffer[at + n : at + n + 2], "big") for n in (8, 10))
        coding = None if _UNSPECIFIED in (primaries, transfer) else (primaries, transfer)
    return header._replace(exif=(exif or b"").removeprefix(_EXIF_MARK) or None, coding=coding, animated=animated)


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


def pillow_reader(kind: str) -> Any:
    """Pillow's class for files of a kind, imported when one comes: training on PNG needs none, and is to start soon.

    Not Image.open, which has a limit of pixels of its own and warns from half of it.
    """
    module, name = _PILLOW_READERS[kind]
    return getattr(importlib.import_module(module), name)


def _jpeg(buffer: bytes, name: str) -> ImageHeader:
    """Walk over the markers up to the first scan.

    The end marker is searched after the start of the scan: the thumbnail of the EXIF header ends with one too.
    """
    position = 2
    width = height = components = precision = frame = -1
    adobe, zeros = False, True
    exif: bytes | None = None
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
            end = buffer.find(b"\xff\xd9", position)
            if end < 0:
                break
            if components not in (1, 3, 4):
                what = "no frame" if components < 0 else f"{components} components"
                raise ImageReadError(f"{name}: damaged JPEG header ({what} before the first scan). {FETCH_AGAIN}")
            if precision != 8:
                raise ImageReadError(
                    f"{name}: a JPEG file of {precision} bits a sample; only 8 are supported. Save it as 16-bit PNG."
                )
            return ImageHeader(
                "JPEG",
                width,
                height,
                _join(profile),
                exif,
                components=components,
                adobe=adobe,
                # Zeros before the end marker may be padding.
                parts=((position, len(buffer[position:end].rstrip(b"\0"))),),
                # A scan of one colour alone has flat parts where the others have none.
                zeros=zeros or frame not in _SEQUENTIAL or buffer[position + 4] != components,
            )
        start, length = position + 4, int.from_bytes(buffer[position + 2 : position + 4], "big")
        if marker in _FRAMES and position + 10 <= len(buffer):
            frame, precision = marker, buffer[start]
            height = int.from_bytes(buffer[start + 1 : start + 3], "big")
            width = int.from_bytes(buffer[start + 3 : start + 5], "big")
            components = buffer[start + 5]
        elif marker == 0xC4:
            zeros &= flat(buffer[start : position + 2 + length])
        elif marker == 0xE1 and exif is None and buffer.startswith(_EXIF_MARK, start):
            exif = buffer[start + len(_EXIF_MARK) : position + 2 + length]
        elif marker == 0xE2 and buffer.startswith(_ICC_MARK, start):
            profile.append(buffer[start + len(_ICC_MARK) : position + 2 + length])
        elif marker == 0xEE and buffer.startswith(b"Adobe", start):
            adobe = True
        position += 2 + length
    raise ImageReadError(f"{name}: truncated JPEG file ({len(buffer)} bytes, end marker missing). {FETCH_AGAIN}")


def flat(tables: bytes) -> bool:
    """Whether in all of a JPEG segment's Huffman tables the code of zero bits means "no difference" or "no more".

    Then a long run of zeros is a flat part of the picture, else it is none.
    """
    position = 0
    while position + 18 <= len(tables):
        if tables[position + 17] and sum(tables[position + 1 : position + 17]):
            return False
        position += 17 + sum(tables[position + 1 : position + 17])
    return True


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
    """Walk over the chunks to ``IEND``."""
    position = len(PNG_MAGIC)
    if buffer[position + 4 : position + 8] != b"IHDR" and len(buffer) >= position + 8:
        raise ImageReadError(f"{name}: damaged PNG header (no IHDR chunk). {FETCH_AGAIN}")
    found: dict[bytes, bytes] = {}
    parts: list[tuple[int, int]] = []
    view = memoryview(buffer)
    while position + 12 <= len(buffer):
        kind, length = buffer[position + 4 : position + 8], int.from_bytes(buffer[position : position + 4], "big")
        end = position + 12 + length
        # Decoders take memory for what a chunk claims to hold, the last one too.
        if end > len(buffer) or (kind == b"IEND" and length):
            break
        content = view[position + 8 : end - 4]
        if kind in _PNG_PICTURE or kind[:1].isupper():  # what no decoder knows, but says that it must be known
            parts.append((position, 12 + length))
        if kind == b"IEND":
            return _png_header(found)._replace(parts=tuple(parts))
        if (kind in _PNG_CHUNKS or kind in _PNG_PICTURE) and zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(
            view[end - 4 : end], "big"
        ):
            raise ImageReadError(
                f"{name}: damaged PNG file (the checksum of its chunk {kind.decode()} is wrong). {FETCH_AGAIN}"
            )
        if kind in _PNG_CHUNKS:
            found.setdefault(kind, bytes(content))
        elif kind in _PNG_TEXTS and (text := bytes(content[:80]).partition(b"\0")[0]) in _EXIF_TEXTS:
            found.setdefault(b"text", _exif_in_text(kind, bytes(content[len(text) + 1 :])))
        position = end
    raise ImageReadError(f"{name}: truncated PNG file ({len(buffer)} bytes, IEND chunk missing). {FETCH_AGAIN}")


def _png_header(chunks: dict[bytes, bytes]) -> ImageHeader:
    head, transparent, coding = chunks[b"IHDR"].ljust(13, b"\0"), chunks.get(b"tRNS"), chunks.get(b"cICP", b"")
    bits, colour = head[8], head[9]
    key = None
    if transparent and colour == 0:  # grey of fewer than 8 bits is spread over 8
        key = int.from_bytes(transparent[:2], "big") % 2**bits * (1 if bits >= 8 else 255 // (2**bits - 1))
    return ImageHeader(
        "PNG",
        int.from_bytes(head[:4], "big"),
        int.from_bytes(head[4:8], "big"),
        # A name, a zero byte, the compression method 0, the compressed profile.
        inflate(chunks.get(b"iCCP", b"").partition(b"\0")[2][1:]),
        (chunks.get(b"eXIf") or chunks.get(b"text") or b"").removeprefix(_EXIF_MARK) or None,
        alpha="channel" if colour in (4, 6) else "key" if transparent else None,
        key=key,
        coding=(coding[0], coding[1]) if len(coding) == 4 else None,
    )


def _exif_in_text(kind: bytes, content: bytes) -> bytes:
    """EXIF as ImageMagick and ExifTool put it into a text: a name, the number of bytes, the bytes in hexadecimal."""
    text = inflate(content[1:]) if kind == b"zTXt" else content
    try:
        return bytes.fromhex(b"".join((text or b"").split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def inflate(compressed: bytes) -> bytes | None:
    """What is compressed (zlib), if it is whole and no larger than metadata may be."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(compressed, _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return content if stream.eof else None


def _tiff(buffer: bytes, name: str) -> ImageHeader:
    """Read the first directory of tags."""
    if buffer.startswith(b"MM\0+"):  # Pillow takes it for another
        raise ImageReadError(
            f"{name}: a BigTIFF file of big-endian numbers, which is not read; save it little-endian, or as PNG."
        )
    try:
        # Not by Image.open: it refuses layouts that have no Pillow mode, which OpenCV may read well.
        tags = first_directory(io.BytesIO(buffer))
        profile: Any = tags.get(_TIFF_PROFILE)
        width, height = int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT])
        starts, sizes = (tags.get(strips, tags.get(tiles, ())) for strips, tiles in _TIFF_PARTS)
        rows = int(tags.get(_TIFF_ROWS, height))
        # Pillow leaves rows that no strip holds black.
        if _TIFF_PARTS[0][0] in tags and len(starts) * rows < height:
            raise ValueError(f"{len(starts)} strips of {rows} rows for {height} rows")
        if not {*tags.get(_TIFF_FORMAT, ())} <= {_TIFF_UNSIGNED, _TIFF_UNDEFINED}:
            raise ImageReadError(
                f"{name}: a TIFF file of signed or floating-point samples, which are not supported; save it as 8- or "
                "16-bit RGB, or as PNG."
            )
        bits = tuple(int(b) for b in tags.get(_TIFF_BITS, (1,)))
        colours = 4 if tags.get(_TIFF_PHOTOMETRIC) == _TIFF_CMYK else 3
        extra = tags.get(_TIFF_EXTRA, (2,) if len(bits) == 4 > colours else ())
        return ImageHeader(
            "TIFF",
            width,
            height,
            profile if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE_BYTES else None,
            orientation=orientation_in(tags),
            alpha=_TIFF_ALPHA.get(extra[0]) if extra else None,
            bits=bits,
            interleaved=tags.get(_TIFF_PLANES, 1) != 2,
            photometric=tags.get(_TIFF_PHOTOMETRIC),
            compression=int(tags.get(_TIFF_COMPRESSION, 1)),
            parts=tuple((int(start), int(size)) for start, size in zip(starts, sizes, strict=False)),
            tables=tags.get(_TIFF_TABLES),
        )
    except ImageReadError:
        raise
    except KeyError as error:
        raise ImageReadError(f"{name}: damaged or incomplete TIFF file (no tag {error}). {FETCH_AGAIN}") from error
    except Exception as error:  # a damaged tag may have any type and value
        raise ImageReadError(f"{name}: damaged or incomplete TIFF file ({error}). {FETCH_AGAIN}") from error


def _webp(buffer: bytes, name: str) -> ImageHeader:
    """Read the first chunk, which is VP8X (a canvas), VP8L (lossless) or VP8 (lossy), and find the metadata."""
    kind, data = buffer[12:16], buffer[20:30]
    if len(data) < 10 or kind not in (b"VP8X", b"VP8L", b"VP8 "):
        raise ImageReadError(f"{name}: damaged or incomplete WebP file. {FETCH_AGAIN}")
    if kind == b"VP8X":
        size = 1 + _little(data[4:7]), 1 + _little(data[7:10])
    elif kind == b"VP8L":
        packed = _little(data[1:5])
        size = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        size = _little(data[6:8]) & 0x3FFF, _little(data[8:10]) & 0x3FFF
    found: dict[bytes, bytes] = {}
    position = 12
    while kind == b"VP8X" and position + 8 <= len(buffer):
        chunk, length = buffer[position : position + 4], _little(buffer[position + 4 : position + 8])
        if chunk in (b"ICCP", b"EXIF"):
            found.setdefault(chunk, buffer[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    exif = found.get(b"EXIF", b"").removeprefix(_EXIF_MARK) or None
    return ImageHeader("WEBP", *size, found.get(b"ICCP"), exif)


def _bmp(buffer: bytes, name: str) -> ImageHeader:
    """Read the size, whose fields have 2 bytes in the oldest variant and a negative height for top-down rows."""
    if len(buffer) < 26:
        raise ImageReadError(f"{name}: incomplete BMP file ({len(buffer)} bytes). {FETCH_AGAIN}")
    size, start, bits, coding = (_little(buffer[at:end]) for at, end in ((14, 18), (10, 14), (28, 30), (30, 34)))
    if size == 12:
        return ImageHeader("BMP", _little(buffer[18:20]), _little(buffer[20:22]))
    width, height = (int.from_bytes(buffer[at : at + 4], "little", signed=True) for at in (18, 22))
    alpha: Literal["channel", "unknown"] | None = None
    if coding == 3 and size >= 56 and any(buffer[66:70]):  # its mask
        alpha = "channel"
    elif coding == 0 and bits == 32 and len(set(buffer[start + 3 : start + 4 * width * abs(height) : 4])) > 1:
        alpha = "unknown"  # the fourth bytes of pixels, which have no meaning by the letter
    return ImageHeader("BMP", width, abs(height), alpha=alpha)


def _little(field: bytes) -> int:
    """An unsigned little-endian number."""
    return int.from_bytes(field, "little")
