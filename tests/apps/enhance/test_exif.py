"""EXIF of results, in every format, against Pillow's and piexif's reading; damaged blocks."""

from __future__ import annotations

import io
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
from image_zoo import picture
from PIL import Image

from semiisp_plugin.apps.enhance.encoding import encode_picture
from semiisp_plugin.apps.enhance.exif import ExifError, block_of_tiff, find_block, orientation_of, updated_block
from semiisp_plugin.apps.enhance.picture import read_picture

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
        block = find_block(data, KINDS[form])
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


def test_zeros_at_the_end_of_a_block_are_values_too():
    """A thumbnail in the middle is blotted out; what stands behind it stays."""
    block = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", 0x010E, 2, 64, 60) + struct.pack("<I", 26)
    block += struct.pack("<HHHII", 2, 0x0201, 4, 1, 56) + struct.pack("<HHII", 0x0202, 4, 1, 4) + bytes(4)
    block += b"\xff\xd8\xff\xd9" + b"text" + bytes(60)
    after = updated_block(block, 10, 20)
    assert after[60:] == block[60:]
    assert b"\xff\xd8" not in after


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
    found = found._replace(alpha=np.zeros(found.pixels.shape[:2], np.uint8), exif=found.exif + bytes(70000) + b"x")
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
    from semiisp_plugin.apps.enhance import Picture

    return Picture(pixels)


@settings(max_examples=300, deadline=None)
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
        block_of_tiff(block)


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    damaged = camera_block()[:40] + b"\xff" * 30
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=damaged)
    found = read_picture(tmp_path / "a.jpg")
    data, notes = encode_picture(found, "jpg")
    said = [*found.notes, *notes]
    assert len(said) == 1
    assert "EXIF is damaged" in said[0]
    assert find_block(data, "JPEG") is None
