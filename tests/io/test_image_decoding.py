"""Damage that decoders let pass, and what looks like damage and is none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from image_zoo import chunk, encoded, jpeg_segments, picture, png, png_head
from PIL import Image

from semiisp_plugin.data.pairs import read_location
from semiisp_plugin.io.image_header import read_header
from semiisp_plugin.io.image_io import ImageReadError, decode_image, encode_png, read_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter
from semiisp_plugin.io.picture import decode_photograph, read_photograph, read_picture


def grainy(height: int = 240, width: int = 320) -> np.ndarray:
    """A picture with noise, as photographs have, so that no code of its file is rare."""
    noise = np.random.default_rng(1).normal(0, 8, (height, width, 3))
    return (picture(height, width) + noise).clip(0, 255).astype(np.uint8)


def jpeg_in_tiff(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "TIFF", compression="jpeg", quality=90)


JPEGS = {
    "baseline": lambda pixels: encoded(pixels, "JPEG", quality=90),
    "restarts": lambda pixels: encoded(pixels, "JPEG", quality=90, restart_marker_blocks=4),
    "progressive": lambda pixels: encoded(pixels, "JPEG", quality=90, progressive=True),
    "grey": lambda pixels: encoded(Image.fromarray(pixels).convert("L"), "JPEG", quality=90),
    "CMYK": lambda pixels: encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=90),
    "in TIFF": jpeg_in_tiff,
}


def damage(data: bytes, how: str, size: int) -> bytes:
    at = len(data) * 2 // 5
    if how == "gone" and data.startswith(b"II"):  # what follows stays where the file's pointers say
        return data[:at] + data[at + size :][:size] + data[at + size :]
    noise = np.random.default_rng(2).integers(1, 255, size, dtype=np.uint8).tobytes()
    return data[:at] + {"zeros": bytes(size), "noise": noise, "gone": b""}[how] + data[at + size :]


@pytest.mark.parametrize("how", ["zeros", "noise", "gone"])
@pytest.mark.parametrize("kind", JPEGS)
def test_holes_in_a_jpeg_scan_are_refused(tmp_path, kind, how):
    """The end marker is in place, and OpenCV, Pillow and libtiff return a picture."""
    whole = JPEGS[kind](grainy())
    path = tmp_path / "a.jpg"
    for data in (whole, damage(whole, how, 2048)):
        path.write_bytes(data)
        for read in (read_image, read_photograph, read_picture):
            if data is whole:
                read(path)
            else:
                with pytest.raises(ImageReadError, match=r"a\.jpg: damaged (JPEG|TIFF) file \((libjpeg|a hole): "):
                    read(path)


def test_a_small_hole_that_libjpeg_does_not_notice():
    """It happens on the right number of blocks again, and all that follows is of another brightness."""
    whole = JPEGS["baseline"](grainy())
    for at in range(2000, len(whole) - 2000, 1000):
        with pytest.raises(ImageReadError, match="a hole: zero bytes"):
            decode_image(whole[:at] + bytes(64) + whole[at + 64 :], name="x")


def test_holes_in_progressive_scans_that_libjpeg_does_not_notice():
    """They are in the last ones, which add detail; the first may be flat."""
    whole = JPEGS["progressive"](grainy())
    for at in range(len(whole) * 2 // 3, len(whole) - 600, 200):
        with pytest.raises(ImageReadError, match="damaged JPEG"):
            decode_image(whole[:at] + bytes(512) + whole[at + 512 :], name="x")
    flat = encoded(np.zeros((2048, 2048, 3), np.uint8), "JPEG", progressive=True)
    assert bytes(512) in flat
    assert decode_image(flat, name="x").shape == (2048, 2048, 3)


def test_long_runs_of_zeros_in_flat_pictures_are_none():
    flat = encoded(np.zeros((2048, 2048, 3), np.uint8), "JPEG", optimize=True)
    assert bytes(64) in flat
    assert decode_image(flat, name="x").shape == (2048, 2048, 3)


def test_scans_of_one_colour_may_be_flat_where_the_others_are_not():
    whole = JPEGS["baseline"](grainy())
    assert not read_header(whole, "x").zeros
    start, _ = read_header(whole, "x").parts[0]
    of_one = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    assert read_header(whole[:start] + of_one + whole[start + 14 :], "x").zeros


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_deflated_data_without_their_end(at):
    """What zeros decode to fills the strip, and libtiff looks no further."""
    pixels = np.random.default_rng(1).integers(0, 32, (60, 80, 3), dtype=np.uint8)
    whole = encoded(pixels, "TIFF", compression="tiff_adobe_deflate")
    start, size = read_header(whole, "x").parts[0]
    np.testing.assert_array_equal(decode_image(whole, name="x"), pixels)
    hole = start + int(at * size)
    for data in (
        whole[:hole] + bytes(start + size - hole) + whole[start + size :],
        whole[: start + size - 4] + b"\0\0\0\0" + whole[start + size :],
    ):
        with pytest.raises(ImageReadError, match="x: damaged TIFF file"):
            decode_image(data, name="x")


def test_holes_in_lmdb_values_are_named(tmp_path):
    whole = JPEGS["baseline"](grainy())
    folder = tmp_path / "a.lmdb"
    with LmdbImageWriter(folder) as writer:
        writer.put("first", damage(whole, "noise", 2048), (240, 320, 3))
    with pytest.raises(ImageReadError, match=r"a\.lmdb/first: damaged JPEG file \(libjpeg: "):
        read_location(f"{folder}/first")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-2] + bytes(700) + data[-2:],
        lambda data: data[:-2] + b"\x7f" * 20 + data[-2:],
        lambda data: data[:20] + b"\xff\0\0\2" + data[20:],  # a segment of no kind
        lambda data: data[:-2] + b"\xff" * 20 + data[-2:],
        lambda data: data + b"\0trailer" * 99,
        lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\x09"),
        lambda data: data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07" + data[20:],  # in the place of JFIF's
        lambda data: data[:2] + b"\xff\xe2\0\x18ICC_PROFILE\0\x02\x03" + b"incomplete"[:8] + data[2:],
        lambda data: data.replace(b"\3\1\0\2\x11\3\x11\0\x3f\0", b"\3\1\0\2\x11\3\x11\5\x3e\x11"),  # of the scan
    ],
)
def test_warnings_that_are_not_about_pixels(change):
    """The file is read, with the same pixels; damage behind the first warning is still found."""
    whole = JPEGS["baseline"](grainy())
    odd = change(whole)
    assert odd != whole
    np.testing.assert_array_equal(decode_image(odd, name="x"), decode_image(whole, name="x"))
    with pytest.raises(ImageReadError, match="damaged JPEG"):
        decode_image(damage(odd, "noise", 2048), name="x")


def test_zeros_that_were_decoded_are_no_padding():
    """The last cluster before the end marker was not written."""
    whole = JPEGS["baseline"](grainy())
    with pytest.raises(ImageReadError, match="damaged JPEG"):
        decode_image(whole[:-2002] + bytes(2000) + whole[-2:], name="x")


@pytest.mark.parametrize(
    ("sampling", "blocks", "grey"), [((0x31, 0x11, 0x11), 5, 128), ((0x22, 0x11, 0x11, 0x11), 7, 63)]
)
def test_a_subsampling_that_turbojpeg_lacks(sampling, blocks, grey):
    """A picture of nothing but zero bits, in three colours or CMYK, with a number of blocks in each unit."""
    whole = JPEGS["baseline"](grainy(48, 48))
    tables = b"".join(whole[start:end] for marker, start, end in jpeg_segments(whole) if marker == 0xDB)
    codes = b"".join(b"\xff\xc4\0\x14" + bytes([kind, 1]) + bytes(16) for kind in (0x00, 0x10, 0x01, 0x11))
    count = len(sampling)
    components = b"".join(bytes([i, sampling[i], min(i, 1)]) for i in range(count))
    frame = b"\xff\xc0" + bytes([0, 8 + 3 * count, 8, 0, 48, 0, 48, count]) + components
    scan = b"\xff\xda" + bytes([0, 6 + 2 * count, count]) + b"".join(bytes([i, 0]) for i in range(count)) + b"\0\x3f\0"
    units = 2 * 6 if sampling[0] == 0x31 else 3 * 3
    data = b"\xff\xd8" + tables + codes + frame + scan + bytes(-(-units * blocks * 2 // 8)) + b"\xff\xd9"
    assert np.unique(decode_image(data, name="x")).tolist() == [grey]


@pytest.mark.parametrize("lossless", [False, True])
def test_long_runs_of_zeros_in_webp_are_none(lossless):
    """Its codes of flat parts are of any bits."""
    pixels = np.zeros((1000, 1500, 3), np.uint8)
    pixels[:100] = np.random.default_rng(0).integers(0, 256, (100, 1500, 3))
    data = encoded(pixels, "WEBP", lossless=lossless, method=0 if lossless else 4)
    assert bytes(64) in data
    assert decode_image(data, name="x").shape == pixels.shape


# --- PNG ------------------------------------------------------------------------------------------------------------


def rows(pixels: np.ndarray) -> bytes:
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"IDAT"])
def test_checksums_of_png_are_looked_at(kind):
    """Of all chunks that decide pixels or how they are shown: libpng leaves some of these out, and goes on."""
    indices = np.random.default_rng(0).integers(0, 2, (48, 64), dtype=np.uint8)
    middle = {
        b"iCCP": b"name\0\0" + zlib.compress(b"profile"),
        b"PLTE": bytes([200, 100, 50, 10, 20, 30]),
        b"tRNS": b"\x80",
        b"eXIf": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
        b"IDAT": rows(indices),
    }
    data = png(*(chunk(name, content) for name, content in middle.items()), colour=3)
    assert decode_image(data, name="x").shape == (48, 64, 3)
    end = data.index(kind) + 4 + len(middle.get(kind, bytes(13)))
    with pytest.raises(
        ImageReadError, match=f"x: damaged PNG file .the checksum of its chunk {kind.decode()} is wrong"
    ):
        decode_image(data[:end] + b"abcd" + data[end + 4 :], name="x")


def test_wrong_sums_within_png_data():
    pixels = grainy(48, 64)
    good = rows(pixels)
    np.testing.assert_array_equal(decode_image(png(chunk(b"IDAT", good)), name="x"), pixels)
    for bad in (good[:-4] + b"abcd", good[:-4], good[: len(good) // 2], rows(pixels[:20])):
        with pytest.raises(ImageReadError, match="x: damaged image"):
            decode_image(png(chunk(b"IDAT", bad)), name="x")


def test_of_an_animated_png_the_default_image_is_read():
    """It is no frame of the animation here."""
    red, green, blue = (np.full((32, 32, 3), np.eye(3, dtype=np.uint8)[i] * 255) for i in range(3))

    def control(number: int, size: int, at: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, size, size, at, at, 1, 10, 0, 1))

    data = (
        png_head(32, 32)
        + chunk(b"acTL", struct.pack(">II", 2, 0))
        + chunk(b"IDAT", rows(red))
        + control(0, 32, 0)
        + chunk(b"fdAT", struct.pack(">I", 1) + rows(green))
        + control(2, 16, 8)
        + chunk(b"fdAT", struct.pack(">I", 3) + rows(blue[:16, :16]))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(decode_image(data, name="x"), red)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", [0, 2])
def test_a_transparent_colour_of_png(tmp_path, colour, bits):
    """Of 16 bits, a colour that differs in its last bit is another one."""
    values = np.full((48, 64, 3 if colour else 1), 40, np.uint16)
    values[0, 0], values[0, 1] = 200, 201
    key = struct.pack(">H", 200) * (3 if colour else 1)
    coded = values.astype(">u2" if bits == 16 else np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(png(chunk(b"tRNS", key), chunk(b"IDAT", rows(coded)), bits=bits, colour=colour))
    read = read_picture(path)
    np.testing.assert_array_equal(read.pixels, np.broadcast_to(values, (48, 64, 3)))
    assert read.alpha is not None
    assert np.argwhere(read.alpha != 2**bits - 1).tolist() == [[0, 0]]
    assert read.alpha[0, 0] == 0


# --- alpha that is not read is told ---------------------------------------------------------------------------------


def bmp32(fourth: np.ndarray, mask: int) -> bytes:
    """A BMP file of 32 bits a pixel, whose fourth bytes are named alpha by a mask, or by nothing."""
    height, width = fourth.shape
    pixels = np.dstack([np.full((height, width, 3), 90, np.uint8), fourth])[::-1].tobytes()
    size = 124 if mask else 40
    head = struct.pack("<IiiHHIIiiII", size, width, height, 1, 32, 3 if mask else 0, len(pixels), 1, 1, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, mask) if mask else b""
    head = (head + masks).ljust(size, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + size + len(pixels), 0, 0, 14 + size) + head + pixels


def notes_and_alpha(path: Path, data: bytes) -> tuple[tuple[str, ...], np.ndarray | None]:
    path.write_bytes(data)
    read = read_picture(path)
    return read.notes, read.alpha


def test_alpha_of_bmp(tmp_path):
    varied = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    notes, alpha = notes_and_alpha(tmp_path / "a.bmp", bmp32(varied, 0xFF000000))
    assert not notes
    np.testing.assert_array_equal(alpha, varied)
    notes, alpha = notes_and_alpha(tmp_path / "b.bmp", bmp32(varied, 0))
    assert alpha is None
    assert notes == ("its alpha channel could not be read and was left out",)
    for constant in (0, 255):  # by the letter, the bytes have no meaning
        assert notes_and_alpha(tmp_path / "c.bmp", bmp32(np.full_like(varied, constant), 0)) == ((), None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_samples_of_tiff_without_a_meaning(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 256, (48, 64, 4)).astype(dtype)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", extrasamples=["unspecified"])
    notes, alpha = notes_and_alpha(tmp_path / "a.tif", buffer.getvalue())
    assert alpha is None
    assert notes == ("its alpha channel could not be read and was left out",)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), values[..., :3])


def test_the_fourth_colour_of_cmyk_is_no_alpha(tmp_path):
    assert notes_and_alpha(tmp_path / "a.tif", encoded(Image.new("CMYK", (64, 48)), "TIFF")) == ((), None)


def test_pixels_of_jpeg_are_those_of_opencv():
    for data in (JPEGS[kind](grainy(243, 317)) for kind in ("baseline", "restarts", "progressive", "grey")):
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decode_image(data, name="x"), expected)


def test_png_of_every_chunk_is_what_it_was(tmp_path):
    """Chunks that decide no pixel are not decoded; what is written here is read as it was."""
    for pixels in (grainy(48, 64), grainy(48, 64).astype(np.uint16) * 257):
        data = encode_png(pixels)
        text = chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000)
        np.testing.assert_array_equal(decode_image(data[:33] + text + data[33:], name="x"), pixels)
        assert decode_photograph(data, name="x").dtype == np.uint8
