"""Image files as folders of photographs really hold them: 100 that no one can read, and odd ones that must be read.

Everything is made here, always the same. `make_broken_zoo` and `make_odd_photographs` write into a folder; conftest.py
has a fixture for each.
"""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
APP14 = b"\xff\xee"
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth colour image that JPEG reproduces well, with colours up to the border of its gamut."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def as_png16(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()


# --- PNG and JPEG, part by part -------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_head(width: int, height: int, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return PNG_MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))


def png_rows(width: int, height: int, channels: int = 3) -> bytes:
    """Compressed grey rows."""
    return zlib.compress((b"\0" + b"\x80" * (width * channels)) * height)


def png(*middle: bytes, width: int = 64, height: int = 48, **head: int) -> bytes:
    return png_head(width, height, **head) + b"".join(middle) + chunk(b"IEND", b"")


def with_png_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """Insert a chunk after IHDR."""
    return data[:33] + chunk(kind, content) + data[33:]


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the scan."""
    at = 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at, end
        at = end


def without_segments(data: bytes, *markers: int) -> bytes:
    for marker, start, end in reversed(list(jpeg_segments(data))):
        if marker in markers:
            data = data[:start] + data[end:]
    return data


def with_frame(data: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite bytes of the frame header: 0 precision, 1 height, 3 width, 5 components."""
    start = next(start for marker, start, _ in jpeg_segments(data) if marker in (0xC0, 0xC2)) + 4 + offset
    return data[:start] + value + data[start + len(value) :]


def tiff_with_tag(data: bytes, tag: int, value: int) -> bytes:
    """Overwrite the value of a tag of one number in a classic little-endian TIFF file."""
    directory = int.from_bytes(data[4:8], "little")
    for i in range(int.from_bytes(data[directory : directory + 2], "little")):
        at = directory + 2 + 12 * i
        if int.from_bytes(data[at : at + 2], "little") == tag:
            size = {3: 2, 4: 4}[int.from_bytes(data[at + 2 : at + 4], "little")]
            return data[: at + 8] + value.to_bytes(size, "little") + data[at + 8 + size :]
    raise KeyError(tag)


def flipped(data: bytes, position: int) -> bytes:
    """Invert the bits of one byte."""
    position %= len(data)
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


# --- ICC profiles ---------------------------------------------------------------------------------------------------


def primaries_to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Matrix from linear RGB with a D65 white to XYZ, adapted to ICC's D50 by Bradford's method."""
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    to_xyz = columns * np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    return np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford @ to_xyz


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB to 8 bits, clipped."""
    x = np.clip(linear, 0, 1)
    return np.rint(255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)).astype(np.uint8)


def srgb_decode(values: np.ndarray) -> np.ndarray:
    x = np.asarray(values, np.float64)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def matrix_to_srgb(pixels: np.ndarray, primaries: tuple[tuple[float, float], ...], gamma: float | None) -> np.ndarray:
    """What a matrix profile says ``pixels`` are in sRGB; ``gamma`` ``None`` stands for sRGB's curve."""
    values = pixels / 255
    linear = srgb_decode(values) if gamma is None else values**gamma
    return srgb_encode(linear @ (np.linalg.inv(primaries_to_xyz(SRGB_PRIMARIES)) @ primaries_to_xyz(primaries)).T)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    f = np.stack([(lab[..., 0] + 16) / 116 + d for d in (lab[..., 1] / 500, 0, -lab[..., 2] / 200)], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8249]
    return srgb_encode(xyz @ np.linalg.inv(primaries_to_xyz(SRGB_PRIMARIES)).T)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _icc(space: bytes, pcs: bytes, device: bytes, tags: dict[bytes, bytes], name: str) -> bytes:
    """An ICC profile of version 2."""
    text = name.encode() + b"\0"
    everything = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(_fixed, (0.9642, 1.0, 0.8249))),
        **tags,
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(everything)
    for kind, content in everything.items():
        table += kind + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, device, space, pcs)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(everything)) + table + body


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    values = np.rint(srgb_decode(np.linspace(0, 1, 4096)) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + values.tobytes()


def matrix_profile(
    primaries: tuple[tuple[float, float], ...], gamma: float | None, name: str = "zoo", padding: int = 0
) -> bytes:
    """A display profile; ``gamma`` ``None``: sRGB's curve. ``padding`` makes it longer."""
    tags = {
        colour + b"XYZ": b"XYZ \0\0\0\0" + b"".join(map(_fixed, column))
        for colour, column in zip((b"r", b"g", b"b"), primaries_to_xyz(primaries).T, strict=True)
    }
    tags |= {colour + b"TRC": _curve(gamma) for colour in (b"r", b"g", b"b")}
    if padding:
        tags[b"zzzz"] = b"text\0\0\0\0" + b"x" * padding + b"\0"
    return _icc(b"RGB ", b"XYZ ", b"mntr", tags, name)


def grey_profile(gamma: float) -> bytes:
    return _icc(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": _curve(gamma)}, "zoo grey")


def coded_profile(transfer: int) -> bytes:
    """A profile with the tag of ICC v4.4 that names a transfer function of H.273."""
    profile = matrix_profile(P3_PRIMARIES, None, padding=64)
    return profile.replace(b"zzzz", b"cicp").replace(
        b"text\0\0\0\0" + b"x" * 4, b"cicp\0\0\0\0" + bytes([9, transfer, 0, 1])
    )


def cmyk_profile() -> bytes:
    """A table of 2^4 nodes whose Lab values are a linear function of the inks, so that no interpolation differs."""
    nodes = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    ramp = bytes(range(256))
    identity = b"".join(_fixed(v) for v in np.eye(3).ravel())
    table = _cmyk_to_lab8(nodes).astype(np.uint8).tobytes()
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    return _icc(b"CMYK", b"Lab ", b"scnr", {b"A2B0": lut}, "zoo CMYK")


def _cmyk_to_lab8(ink: np.ndarray) -> np.ndarray:
    c, m, y, k = np.moveaxis(np.asarray(ink, np.float64), -1, 0)
    return np.stack([252 - 63 * (c + m + y + k), 128 + 40 * (m - c), 128 + 40 * y - 20 * (c + m)], axis=-1)


def cmyk_to_srgb(cmyk: np.ndarray) -> np.ndarray:
    """What `cmyk_profile` says that inks (255 = full) are in sRGB."""
    lab = _cmyk_to_lab8(cmyk / 255)
    return lab_to_srgb(np.stack([lab[..., 0] * 100 / 255, lab[..., 1] - 128, lab[..., 2] - 128], axis=-1))


# --- what cannot be read --------------------------------------------------------------------------------------------


def _truncations(files: dict[str, tuple[str, bytes]]) -> Iterator[tuple[str, str, bytes]]:
    for kind, (extension, data) in files.items():
        for where, length in (
            ("in the header", 20),
            ("after a third", len(data) // 3),
            ("after four fifths", len(data) * 4 // 5),
            ("before its last byte", len(data) - 1),
        ):
            yield f"cut/{kind} {where}{extension}", f"{kind} that ends {where}", data[:length]


def _contents() -> Iterator[tuple[str, str, bytes]]:
    """Name, what is wrong, and content of the broken files that are files."""
    photo, deep = picture(), picture().astype(np.uint16) * 257
    jpeg, progressive = encoded(photo, "JPEG", quality=95), encoded(photo, "JPEG", quality=95, progressive=True)
    good_png, good_tiff, bmp = encoded(photo, "PNG"), encoded(photo, "TIFF"), encoded(photo, "BMP")
    webp = encoded(photo, "WEBP")
    tiff16 = as_tiff(deep, photometric="rgb")

    for extension in (".jpg", ".png", ".tiff", ".webp", ".bmp"):
        yield f"empty{extension}", "no byte", b""
    yield "magic.jpeg", "the first three bytes of a JPEG file", b"\xff\xd8\xff"
    yield "magic.png", "the first eight bytes of a PNG file", PNG_MAGIC
    yield "magic.tif", "the first four bytes of a TIFF file", b"II*\0"
    yield "magic.webp", "the first twelve bytes of a WebP file", b"RIFF\x40\0\0\0WEBP"
    yield "magic.bmp", "the first two bytes of a BMP file", b"BM"
    yield from _truncations(
        {
            "JPEG": (".jpg", jpeg),
            "progressive JPEG": (".jpg", progressive),
            "PNG": (".png", good_png),
            "16-bit TIFF": (".tif", tiff16),
            "LZW TIFF": (".tiff", encoded(photo, "TIFF", compression="tiff_lzw")),
            "BMP": (".bmp", bmp),
            "WebP": (".webp", webp),
        }
    )

    yield "png/crc_of_header.png", "the checksum of IHDR is wrong", flipped(good_png, 29)
    yield "png/crc_of_data.png", "the checksum of IDAT is wrong", flipped(good_png, -13)
    yield "png/flipped_data.png", "a byte of the compressed rows is wrong", flipped(good_png, len(good_png) // 2)
    rows = png_rows(64, 48)
    yield "png/half_the_rows.png", "valid chunks that hold half of the rows", png(chunk(b"IDAT", png_rows(64, 24)))
    endless = png_head(64, 48) + chunk(b"IDAT", rows) + b"\x7f\xff\xff\xffIEND" + bytes(4)
    yield "png/endless_end.png", "an IEND chunk that claims 2 GB", endless
    yield "png/not_zlib.png", "IDAT holds text", png(chunk(b"IDAT", b"no compressed data" * 9))
    yield "png/three_bits.png", "3 bits a sample, which PNG does not know", png(chunk(b"IDAT", rows), bits=3)
    yield "png/no_palette.png", "palette image without palette", png(chunk(b"IDAT", png_rows(64, 48, 1)), colour=3)
    yield "png/endless_chunk.png", "a chunk that claims 2 GB", png_head(64, 48) + b"\x7f\xff\xff\xffIDAT" + rows
    yield "png/no_header.png", "no IHDR chunk", PNG_MAGIC + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    yield "png/hdr.png", "HDR: cICP says PQ", with_png_chunk(good_png, b"cICP", bytes([9, 16, 0, 1]))

    yield "jpeg/no_frame.jpg", "no frame header", without_segments(jpeg, 0xC0)
    yield "jpeg/no_quantisation.jpg", "no quantisation table", without_segments(jpeg, 0xDB)
    yield "jpeg/twelve_bits.jpg", "12 bits a sample", with_frame(jpeg, 0, b"\x0c")
    yield "jpeg/no_marker.jpg", "text where a marker should be", jpeg[:2] + b"\xff\xe0\0\4okay, no marker" + jpeg[20:]
    yield "jpeg/zero_filled.jpg", "its second half is zeros", jpeg[: len(jpeg) // 2].ljust(len(jpeg), b"\0")
    yield "jpeg/length_zero.jpg", "a segment of length 0", jpeg[:4] + b"\0\0" + jpeg[6:]
    yield "jpeg/hdr.jpg", "HDR: its profile says HLG", encoded(photo, "JPEG", icc_profile=coded_profile(18))

    small = photo[:8, :8]
    yield "tiff/float32.tif", "32-bit floats", as_tiff(small.astype(np.float32), photometric="rgb")
    yield "tiff/float64.tif", "64-bit floats", as_tiff(small.astype(np.float64), photometric="rgb")
    yield "tiff/int16.tif", "signed integers", as_tiff(small.astype(np.int16), photometric="rgb")
    planes = np.ascontiguousarray(deep[:8, :8].transpose(2, 0, 1))
    yield "tiff/planar.tif", "16 bits, plane by plane", as_tiff(planes, planarconfig="separate", photometric="rgb")
    yield "tiff/inverted.tif", "16 bits, 0 is white", as_tiff(deep[:8, :8, 0], photometric="miniswhite")
    yield "tiff/lab.tif", "Lab values", encoded(Image.merge("LAB", Image.fromarray(small).split()), "TIFF")
    yield "tiff/twelve_bits.tif", "12 bits a sample", tiff_with_tag(as_tiff(deep[:8, :8, 0]), 258, 12)
    yield "tiff/compression.tif", "an unknown compression", tiff_with_tag(good_tiff, 259, 4242)
    yield "tiff/strips.tif", "strips for a hundredth of its rows", tiff_with_tag(good_tiff, 257, 4800)

    yield "bmp/seven_bits.bmp", "7 bits a pixel", bmp[:28] + b"\7" + bmp[29:]
    yield "bmp/compression.bmp", "an unknown compression", bmp[:30] + b"\x63" + bmp[31:]
    yield "webp/vp9.webp", "a chunk that WebP does not know", webp.replace(b"VP8 ", b"VP9 ", 1)
    yield "webp/start_code.webp", "the start code of its frame is wrong", flipped(webp, webp.index(b"VP8 ") + 11)

    yield "other/page.jpg", "a web page", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "other/notes.png", "a text", b"Photographs of the weekend, unsorted\n" * 4
    yield "other/label.webp", "JSON", json.dumps({"image": 3, "boxes": [[1, 2, 3, 4]]}).encode()
    yield "other/archive.jpg", "a ZIP archive", b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(200)
    yield "other/scan.tif", "a PDF document", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
    yield "other/clip.jpg", "a video", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(100)
    yield "other/telephone.JPG", "a HEIC image", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    yield (
        "other/pointer.png",
        "what Git LFS leaves of a file",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    )

    yield "huge/bomb.png", "60000x60000 pixels in a few bytes", png(chunk(b"IDAT", rows), width=60000, height=60000)
    yield "huge/bomb.jpg", "65535x65535 pixels in a few bytes", with_frame(jpeg, 1, b"\xff" * 4)
    tall = tiff_with_tag(tiff_with_tag(good_tiff, 257, 60000), 278, 60000)
    yield "huge/bomb.tif", "60000x60000 pixels", tiff_with_tag(tall, 256, 60000)
    yield "huge/bomb.bmp", "50000x50000 pixels", bmp[:18] + struct.pack("<ii", 50000, 50000) + bmp[26:]
    yield (
        "huge/bomb.webp",
        "a canvas of 2^24 pixels a side",
        b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6,
    )
    yield "zero/width.png", "no pixel wide", png(chunk(b"IDAT", rows), width=0)
    yield "zero/height.jpg", "no pixel high", with_frame(jpeg, 1, b"\0\0")

    yield "name with  two spaces.jpg", "a cut file whose name has spaces", jpeg[:200]
    yield 'it\'s "quoted" `here` $HOME.png', "a cut file whose name has quotes", good_png[:200]
    yield "two\nlines.jpg", "a cut file whose name has a line break", jpeg[:200]
    yield "Größe 漢字 \N{CAMERA}.jpg", "a cut file whose name is not ASCII", jpeg[:200]
    yield os.fsdecode(b"latin1 \xe9t\xe9 \xff.jpg"), "a cut file whose name is no UTF-8", jpeg[:200]
    yield "n" * 246 + ".png", "a cut file whose name has 250 bytes", good_png[:200]
    yield "/".join(f"level {i}" for i in range(40)) + "/deep.jpg", "a cut file below 40 folders", jpeg[:200]


def make_broken_zoo(folder: Path) -> dict[str, str]:
    """Write 100 files that are listed as images and that none can read.

    Returns:
        Path relative to ``folder``, with ``/``, -> what is wrong.
    """
    zoo: dict[str, str] = {}
    for name, what, content in _contents():
        assert name not in zoo
        zoo[name] = what
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    special = folder / "special"
    special.mkdir()
    (special / "broken_link.jpg").symlink_to("nowhere.jpg")
    (special / "own_link.jpg").symlink_to("own_link.jpg")
    (special / "zeros.png").symlink_to("/dev/zero")
    (special / "null.jpg").symlink_to("/dev/null")
    os.mkfifo(special / "pipe.jpg")
    os.mknod(special / "socket.jpg", stat.S_IFSOCK | 0o600)
    with open(special / "sparse.png", "wb") as file:
        file.truncate(4 * 2**30)
    with open(special / "sparse_magic.png", "wb") as file:
        file.write(PNG_MAGIC)
        file.truncate(4 * 2**30)
    zoo |= {
        "special/broken_link.jpg": "a symbolic link to nowhere",
        "special/own_link.jpg": "a symbolic link to itself",
        "special/zeros.png": "a device that never ends",
        "special/null.jpg": "a device without content",
        "special/pipe.jpg": "a named pipe, which none writes to",
        "special/socket.jpg": "a socket",
        "special/sparse.png": "4 GiB of zeros",
        "special/sparse_magic.png": "4 GiB of zeros that begin like a PNG file",
    }
    if os.geteuid() == 0:  # who may read everything
        (special / "denied.jpg").symlink_to("null.jpg/inside.jpg")
        zoo["special/denied.jpg"] = "a link to something below what is no folder"
    else:
        (special / "denied.jpg").write_bytes(b"secret")
        (special / "denied.jpg").chmod(0)
        zoo["special/denied.jpg"] = "none may read it"
    return zoo


# --- what must be read ----------------------------------------------------------------------------------------------


class Odd(NamedTuple):
    """What a photograph must be read as: 8-bit RGB, each value at most ``tolerance`` from ``expected``."""

    expected: np.ndarray
    tolerance: int


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What is to be shown of stored pixels, by the table of the EXIF standard: where their row 0 and column 0 are."""
    if orientation >= 5:  # row 0 is at the left or right side
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _as_8_bits(deep: np.ndarray) -> np.ndarray:
    return np.rint(deep / 257).astype(np.uint8)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _plain_cmyk_jpeg(cmyk: np.ndarray) -> bytes:
    """A CMYK JPEG file as libjpeg makes them: without Adobe's marker, and so not inverted."""
    data = encoded(Image.frombytes("CMYK", cmyk.shape[1::-1], (255 - cmyk).tobytes()), "JPEG", quality=100)
    return without_segments(data, 0xEE)


def _odd_files() -> Iterator[tuple[str, bytes, Odd]]:
    photo = picture()
    deep = np.random.default_rng(1).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        data = encoded(photo, "JPEG", quality=95, exif=exif)
        stored = np.asarray(Image.open(io.BytesIO(data)))
        yield f"orientation {orientation}.jpg", data, Odd(_turned(stored, orientation), 1)
    exif[0x0112] = 6
    yield "orientation 6.png", encoded(photo, "PNG", exif=exif), Odd(_turned(photo, 6), 0)
    yield "orientation 6.webp", encoded(photo, "WEBP", lossless=True, exif=exif), Odd(_turned(photo, 6), 0)
    sideways = as_tiff(deep, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    yield "orientation 6, 16 bits.tif", sideways, Odd(_turned(_as_8_bits(deep), 6), 0)

    grey = np.asarray(Image.fromarray(photo).convert("L"))
    yield "grey.png", encoded(grey, "PNG"), Odd(_grey(grey), 0)
    yield "grey 16 bits.tif", as_tiff(deep[..., 0], photometric="minisblack"), Odd(_grey(_as_8_bits(deep[..., 0])), 0)
    yield "16 bits.png", as_png16(deep), Odd(_as_8_bits(deep), 0)
    yield "16 bits.tiff", as_tiff(deep, photometric="rgb"), Odd(_as_8_bits(deep), 0)
    bilevel = Image.fromarray(photo).convert("1")
    yield "1 bit.png", encoded(bilevel, "PNG"), Odd(_grey(np.asarray(bilevel) * np.uint8(255)), 0)
    palette = Image.fromarray(photo).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    yield "palette, transparent.png", encoded(palette, "PNG", transparency=3), Odd(expected, 0)
    alpha = np.random.default_rng(2).integers(0, 256, photo.shape[:2], dtype=np.uint8)
    yield "alpha.png", encoded(np.dstack([photo, alpha]), "PNG"), Odd(photo, 0)
    yield "grey and alpha.png", encoded(np.dstack([grey, alpha]), "PNG"), Odd(_grey(grey), 0)
    data = encoded(photo, "JPEG", quality=95, progressive=True)
    yield "progressive.JPG", data, Odd(np.asarray(Image.open(io.BytesIO(data))), 1)

    ink = np.dstack([picture(seed=3), picture(seed=4)[..., 0] // 2])
    as_ink = Image.frombytes("CMYK", (64, 48), ink.tobytes())
    simple = np.rint((255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255).astype(np.uint8)
    yield "CMYK.tif", encoded(as_ink, "TIFF"), Odd(simple, 1)
    adobe = encoded(as_ink, "JPEG", quality=100)
    assert APP14 + b"\0\x0eAdobe" in adobe
    yield "CMYK of Adobe.jpg", adobe, Odd(simple, 4)
    yield "CMYK.jpg", _plain_cmyk_jpeg(ink), Odd(simple, 4)
    profile = cmyk_profile()
    yield "CMYK, profile.tif", encoded(as_ink, "TIFF", icc_profile=profile), Odd(cmyk_to_srgb(ink), 2)

    data = encoded(photo, "JPEG", quality=95, icc_profile=matrix_profile(P3_PRIMARIES, None, padding=150_000))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    yield "Display P3, profile in three segments.jpg", data, Odd(matrix_to_srgb(stored, P3_PRIMARIES, None), 2)
    wide = matrix_to_srgb(photo, ADOBE_PRIMARIES, ADOBE_GAMMA)
    profile = matrix_profile(ADOBE_PRIMARIES, ADOBE_GAMMA)
    yield "Adobe RGB.png", encoded(photo, "PNG", icc_profile=profile), Odd(wide, 2)
    yield "Adobe RGB.webp", encoded(photo, "WEBP", lossless=True, icc_profile=profile), Odd(wide, 2)
    wide = matrix_to_srgb(_as_8_bits(deep), ADOBE_PRIMARIES, ADOBE_GAMMA)
    yield "Adobe RGB, 16 bits.tif", as_tiff(deep, photometric="rgb", iccprofile=profile), Odd(wide, 2)
    profile = matrix_profile(SRGB_PRIMARIES, None)
    yield "sRGB profile.tiff", encoded(photo, "TIFF", icc_profile=profile), Odd(photo, 0)
    expected = _grey(srgb_encode((grey / 255) ** 1.75))
    yield "grey profile.png", encoded(grey, "PNG", icc_profile=grey_profile(1.75)), Odd(expected, 1)
    yield "broken profile.png", encoded(photo, "PNG", icc_profile=b"no profile" * 20), Odd(photo, 0)
    yield "gamma chunk.png", with_png_chunk(encoded(photo, "PNG"), b"gAMA", struct.pack(">I", 100000)), Odd(photo, 0)

    frames = [Image.fromarray(picture(seed=seed)) for seed in (0, 5, 6)]
    moving = {"save_all": True, "append_images": frames[1:], "duration": 100}
    yield "animation.webp", encoded(frames[0], "WEBP", lossless=True, **moving), Odd(photo, 0)
    yield "animation.png", encoded(frames[0], "PNG", **moving), Odd(photo, 0)
    indexed = [frame.quantize(16) for frame in frames]
    moving["append_images"] = indexed[1:]
    yield "really a GIF.jpg", encoded(indexed[0], "GIF", **moving), Odd(np.asarray(indexed[0].convert("RGB")), 0)
    yield "pages.tif", encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), Odd(photo, 0)
    yield (
        "with a video behind it.jpg",
        data + b"\0\0\0\x20ftypmp42" * 500,
        Odd(matrix_to_srgb(stored, P3_PRIMARIES, None), 2),
    )

    panorama = picture(33, 2000, seed=7)
    yield "panorama.bmp", encoded(panorama, "BMP"), Odd(panorama, 0)
    yield "one pixel.png", encoded(photo[:1, :1], "PNG"), Odd(photo[:1, :1], 0)
    yield "Größe\n漢字 'x'.webp", encoded(photo, "WEBP", lossless=True), Odd(photo, 0)
    yield os.fsdecode(b"\xff no \xe9 text.PNG"), encoded(photo, "PNG"), Odd(photo, 0)


def make_odd_photographs(folder: Path) -> dict[str, Odd]:
    """Write photographs that are unusual and must be read.

    Returns:
        Name in ``folder`` -> what it must be read as.
    """
    odd: dict[str, Odd] = {}
    for name, content, what in _odd_files():
        assert name not in odd
        odd[name] = what
        (folder / name).write_bytes(content)
    return odd
