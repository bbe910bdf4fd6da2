"""EXIF of results, in every format, against Pillow's and piexif's reading; damaged blocks."""

from __future__ import annotations

import io
import re
import struct
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import piexif
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from image_zoo import picture, with_png_chunk
from PIL import Image, PngImagePlugin

from semiisp_plugin.apps.enhance.encoding import encode_picture
from semiisp_plugin.io.exif import ExifError, block_of_tiff, orientation_of, updated_block
from semiisp_plugin.io.image_header import read_header
from semiisp_plugin.io.image_io import read_image
from semiisp_plugin.io.picture import read_picture

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
MAKER_NOTE = b"what only its maker understands"


def camera_block(orientation: int = 6) -> bytes:
    """EXIF as cameras write it, with a thumbnail."""
    thumbnail = io.BytesIO()
    Image.new("RGB", (160, 120), "red").save(thumbnail, "JPEG")
    return piexif.dump(
        {
            "0th": {
                256: 64,
                257: 48,
                271: b"Maker",
                272: b"Model 5",
                274: orientation,
                306: b"2020:01:02 03:04:05",
                33432: b"(c) me",
            },
            "Exif": {36867: b"2020:01:02 03:04:05", 40962: 64, 40963: 48, 40961: 65535, 37500: MAKER_NOTE},
            "GPS": {1: b"N", 2: ((48, 1), (8, 1), (3050, 100))},
            "Interop": {1: b"R03"},
            "1st": {259: 6},
            "thumbnail": thumbnail.getvalue(),
        }
    )


def photograph(path: Path, orientation: int = 6) -> Path:
    Image.fromarray(picture()).save(path, KINDS[path.suffix[1:]], exif=camera_block(orientation))
    return path


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("bits", ["8", "16"])
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tiff"])
def test_camera_date_and_place_are_kept_and_the_rest_is_true(tmp_path, source, form, bits):
    found = read_picture(photograph(tmp_path / f"a.{source}"))
    assert found.pixels.shape == (64, 48, 3)
    assert found.notes == ()
    data, notes = encode_picture(found, form, bits=bits)
    assert notes == []
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (48, 64)
        exif = image.getexif()
    photo, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    assert (exif[271], exif[272], exif[33432]) == ("Maker", "Model 5", "(c) me")
    assert (photo[36867], float(gps[2][2]), gps[1]) == ("2020:01:02 03:04:05", 30.5, "N")
    assert exif[274] == 1, "the pixels were turned"
    assert (photo[40962], photo[40963], photo[40961]) == (48, 64, 1)
    assert (exif.get(256, 48), exif.get(257, 64)) == (48, 64)
    if source != "tiff":
        assert photo[37500] == MAKER_NOTE
    if form != "tiff":
        block = read_header(data, form).exif
        loaded = piexif.load(b"Exif\0\0" + block)
        assert loaded["thumbnail"] is None
        assert b"\xff\xd8\xff" not in block
        assert loaded["Interop"].get(1, b"R98") == b"R98"


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("with_exif", [False, True])
def test_lossless_files_hold_what_was_written(tmp_path, form, dtype, with_alpha, with_exif):
    base = read_picture(photograph(tmp_path / "a.jpg"))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, np.iinfo(dtype).max, (701, 333, 3), dtype=dtype, endpoint=True)
    alpha = rng.integers(0, np.iinfo(dtype).max, (701, 333), dtype=dtype, endpoint=True) if with_alpha else None
    data, _ = encode_picture(base._replace(pixels=pixels, alpha=alpha, exif=base.exif if with_exif else None), form)
    if form == "tiff":
        stored = tifffile.imread(io.BytesIO(data))
    else:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        stored = cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA if with_alpha else cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(stored, pixels if alpha is None else np.dstack([pixels, alpha]))
    path = tmp_path / f"b.{form}"
    path.write_bytes(data)
    again = read_picture(path)
    np.testing.assert_array_equal(again.pixels, pixels)
    assert (again.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(again.alpha, alpha)
    if form == "png":
        Image.open(io.BytesIO(data)).verify()  # checksums


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_alpha_are_turned_alike(tmp_path, orientation):
    grey = picture()
    image = Image.fromarray(np.dstack([grey, grey[..., 0]]))
    for name in ("a.png", "a.tiff", "a.webp"):
        image.save(tmp_path / name, exif=camera_block(orientation), **({"lossless": True, "exact": True}))
    deep = np.dstack([grey, grey[..., 0]]).astype(np.uint16) * 257
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extrasamples=["unassalpha"], extratags=tags)
    for name in ("a.png", "a.tiff", "a.webp", "deep.tif"):
        found = read_picture(tmp_path / name)
        assert found.notes == ()
        np.testing.assert_array_equal(found.alpha, found.pixels[..., 0], err_msg=name)


def test_alpha_that_hides_in_palettes_single_colours_and_plain_webp(tmp_path):
    pixels = picture()
    grey = Image.fromarray(pixels[..., 0])
    grey.save(tmp_path / "grey.png", transparency=int(pixels[0, 0, 0]))
    grey.convert("P").save(tmp_path / "palette.png", transparency=int(pixels[0, 0, 0]))
    expected = np.where(pixels[..., 0] == pixels[0, 0, 0], 0, 255)
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_picture(tmp_path / name).alpha, expected)
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(tmp_path / "a.webp", lossless=True)
    assert b"VP8X" not in (tmp_path / "a.webp").read_bytes()
    np.testing.assert_array_equal(read_picture(tmp_path / "a.webp").alpha, pixels[..., 0])
    Image.fromarray(pixels).save(tmp_path / "none.webp")
    assert read_picture(tmp_path / "none.webp").alpha is None


def block_of(entries: list[tuple[int, int, bytes]], order: str = "<") -> bytes:
    """A block of one directory: tags with their types and values of at most 4 bytes, or of more."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4}
    head = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(entries))
    table, values, end = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        table += struct.pack(order + "HHI", tag, kind, len(value) // sizes[kind])
        table += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", end + len(values))
        values += value if len(value) > 4 else b""
    return head + table + bytes(4) + values


def test_letters_types_and_unknown_tags_are_kept():
    name = "Jürgen Müller".encode("latin-1") + b"\0"
    block = block_of([(0x010F, 2, b"Maker\0"), (0x013B, 2, name), (0xBEEF, 4, struct.pack("<I", 7))])
    after = by_hand(updated_block(block, 10, 20))
    assert after == {0x010F: (2, b"Maker\0"), 0x013B: (2, name), 0xBEEF: (4, struct.pack("<I", 7))}


def by_hand(block: bytes) -> dict[int, tuple[int, bytes]]:
    """Types and values of a little-endian block's first directory, read by hand."""
    at = struct.unpack_from("<I", block, 4)[0]
    found = {}
    for field in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", block, at)[0], 12):
        tag, kind, count = struct.unpack_from("<HHI", block, field)
        size = count * {1: 1, 2: 1, 3: 2, 4: 4}[kind]
        start = field + 8 if size <= 4 else struct.unpack_from("<I", block, field + 8)[0]
        found[tag] = (kind, block[start : start + size])
    return found


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientations_of_either_type(tmp_path, order, kind):
    block = block_of([(274, kind, struct.pack(order + {3: "H", 4: "I"}[kind], 6))], order)
    assert orientation_of(block) == 6
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block)
    assert read_picture(tmp_path / "a.jpg").pixels.shape == (64, 48, 3)
    assert orientation_of(updated_block(block, 10, 20)) == 1


def test_orientation_is_that_of_exif_alone(tmp_path):
    """XMP may say another; colours and alpha must be turned alike."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    pixels = np.dstack([picture(), picture()[..., 0]])
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    Image.fromarray(pixels).save(tmp_path / "a.webp", xmp=xmp, lossless=True, exact=True)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[(700, 1, len(xmp), xmp, True)])
    for name in ("a.png", "a.webp", "a.tif"):
        found = read_picture(tmp_path / name)
        np.testing.assert_array_equal(found.pixels, pixels[..., :3], err_msg=name)
        np.testing.assert_array_equal(found.alpha, pixels[..., 3], err_msg=name)


@pytest.mark.parametrize("compressed", [False, True])
def test_exif_in_a_text_of_png(tmp_path, compressed):
    """As ImageMagick writes it."""
    block = camera_block()
    text = f"\nexif\n{len(block):8d}\n" + "\n".join(re.findall(".{1,72}", block.hex())) + "\n"
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", text, compressed)
    Image.fromarray(picture()).save(tmp_path / "a.png", pnginfo=info)
    found = read_picture(tmp_path / "a.png")
    assert found.pixels.shape == (64, 48, 3)
    assert found.exif == block.removeprefix(b"Exif\0\0")


def test_long_texts_of_png_do_not_cost_the_alpha_channel(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), True)
    pixels = np.dstack([picture(), picture()[..., 0]])
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    found = read_picture(tmp_path / "a.png")
    assert found.notes == ()
    np.testing.assert_array_equal(found.alpha, pixels[..., 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_multiplied_by_alpha(tmp_path, dtype):
    top = np.iinfo(dtype).max
    pixels = np.zeros((4, 4, 4), dtype)
    pixels[:, :, 0], pixels[:, :, 3] = top // 2 + 1, top // 2 + 1
    pixels[0, 0] = 0
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    found = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.alpha, pixels[..., 3])
    assert found.pixels[1, 1].tolist() == [top, 0, 0]
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), found.pixels)


def test_transparent_colours_of_16_bits(tmp_path):
    colours = picture().astype(np.uint16) * 257
    for name, pixels in (("rgb", colours), ("grey", colours[..., 0])):
        data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
        key = pixels[0, 0].astype(">u2").tobytes()
        (tmp_path / f"{name}.png").write_bytes(with_png_chunk(data, b"tRNS", key))
        transparent = (pixels == pixels[0, 0]).reshape(48, 64, -1).all(axis=2)
        found = read_picture(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(found.alpha, np.where(transparent, 0, 65535))


def test_tags_about_other_pixels_stay_out_of_tiff():
    tiles = struct.pack("<HHII", 322, 4, 1, 64)
    alpha = struct.pack("<HHII", 338, 3, 1, 2)
    block = struct.pack("<2sHIH", b"II", 42, 8, 3) + struct.pack("<HHI4s", 271, 2, 2, b"M") + tiles + alpha + bytes(4)
    pixels = picture()
    data, _ = encode_picture(read_picture_of(pixels)._replace(exif=block), "tiff")
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[271] == "M"
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_what_jpeg_cannot_hold_is_said(tmp_path):
    found = read_picture(photograph(tmp_path / "a.jpg"))
    found = found._replace(
        alpha=np.zeros(found.pixels.shape[:2], np.uint8), exif=block_of([(0x010E, 2, b"x" * 70000 + b"\0")])
    )
    _, notes = encode_picture(found, "jpg")
    assert len(notes) == 2
    assert "alpha" in notes[0]
    assert "too long" in notes[1]
    assert encode_picture(found, "png")[1] == []


@pytest.mark.parametrize("form", ["jpg", "webp"])
def test_sides_that_a_format_does_not_have_are_an_error(tmp_path, form):
    found = read_picture(photograph(tmp_path / "a.jpg"))
    with pytest.raises(ValueError, match="70000x1 pixels are too many"):
        encode_picture(found._replace(pixels=np.zeros((1, 70000, 3), np.uint8)), form)


def test_quality_goes_with_colour_resolution():
    data = [encode_picture(read_picture_of(picture(200, 300)), "jpg", quality=q)[0] for q in (60, 95)]
    layers = [Image.open(io.BytesIO(d)).layer[0][1:3] for d in data]
    assert layers == [(2, 2), (1, 1)]
    assert len(data[0]) < len(data[1])


def read_picture_of(pixels: np.ndarray):
    from semiisp_plugin.io.picture import Picture

    return Picture(pixels)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300)
@given(st.data())
def test_damaged_blocks_are_refused_or_kept_harmless(data):
    """No other error, no endless loop; and where a block is kept, its orientation is 1 or none."""
    block = bytearray(camera_block()[6:])
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    block = bytes(block[: data.draw(st.integers(0, len(block)))])
    with suppress(ExifError):
        assert orientation_of(updated_block(block, 10, 20)) == 1
    with suppress(ExifError):
        block_of_tiff(io.BytesIO(block))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    """Of a cut block what is there is kept; one that is none is left out with a note."""
    block = camera_block()
    for length in (14, 40, 100, len(block) - 1):
        Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=block[:length])
        found = read_picture(tmp_path / "a.jpg")
        data, _ = encode_picture(found, "jpg")
        assert Image.open(io.BytesIO(data)).getexif().get(274, 1) == 1
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0no TIFF header")
    found = read_picture(tmp_path / "a.jpg")
    data, notes = encode_picture(found, "jpg")
    assert [note for note in (*found.notes, *notes) if "EXIF is damaged" in note]
    assert read_header(data, "a").exif is None
