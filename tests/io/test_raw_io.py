"""Reading camera RAW files."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from dng_writer import LONG, SHORT

from semiisp_plugin.io.image_io import ImageReadError
from semiisp_plugin.io.raw_io import RAW_PROCESSING, is_raw, read_raw

rawpy = pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")

BLACK, WHITE = 1000, 30000


def mosaic(red: float, green: float, blue: float, height: int = 48, width: int = 64) -> np.ndarray:
    """A sensor that sees one colour."""
    values = np.full((height, width), green, np.uint16)
    values[0::2, 0::2] = red
    values[1::2, 1::2] = blue
    return values


def scaled(value: float) -> float:
    return (value - BLACK) / (WHITE - BLACK) * 65535


def test_black_and_white_level_are_mapped_and_nothing_else_happens(tmp_path, write_dng):
    """No white balance (the file asks for 2 : 1 : 1.4), no matrix, no gamma."""
    path = write_dng(tmp_path / "a.dng", mosaic(20000, 5000, 9000), black=BLACK, white=WHITE)
    image = read_raw(path)
    assert image.dtype == np.uint16
    assert image.shape == (48, 64, 3)
    np.testing.assert_allclose(
        image[8:-8, 8:-8].reshape(-1, 3).mean(0), [scaled(v) for v in (20000, 5000, 9000)], atol=1
    )


@pytest.mark.parametrize("grey", [0.02, 0.18, 0.6, 1.3])
def test_developed_grey_is_grey_by_the_cameras_white_balance_and_srgbs_curve(tmp_path, write_dng, grey):
    """The file asks for 2 : 1 : 1.43; no brightening, and what is beyond white is white."""
    levels = (min(BLACK + grey * (WHITE - BLACK) / gain, WHITE) for gain in (2, 1, 10 / 7))
    path = write_dng(tmp_path / "a.dng", mosaic(*levels), black=BLACK, white=WHITE)
    wanted = 1.055 * min(grey, 1) ** (1 / 2.4) - 0.055
    found = read_raw(path, srgb=True)[20, 20]
    if grey < 1:
        np.testing.assert_allclose(found / 65535, wanted, atol=0.002)
    else:  # red and blue do not reach their white level, so that nothing is clipped but green
        np.testing.assert_array_equal(found, 65535)


def test_a_developed_file_is_turned_and_framed_as_a_linear_one(tmp_path, write_dng):
    values = mosaic(3000, 3000, 3000)
    values[:24, :32] = 20000
    path = write_dng(tmp_path / "a.dng", values, orientation=6, crop=(4, 2, 58, 44))
    linear, developed = read_raw(path), read_raw(path, srgb=True)
    assert developed.shape == linear.shape == (58, 44, 3)
    bright = [image.mean(2) > image.mean() for image in (developed, linear)]
    assert (bright[0] == bright[1]).mean() > 0.9


def test_clipping_at_both_ends(tmp_path, write_dng):
    path = write_dng(tmp_path / "a.dng", mosaic(31000, 500, 30000), black=BLACK, white=WHITE)
    np.testing.assert_array_equal(read_raw(path)[20, 20], [65535, 0, 65535])


@pytest.mark.parametrize("brightest", [3000, 12000, 25000])
def test_the_scale_does_not_depend_on_the_photograph(tmp_path, write_dng, brightest):
    """LibRaw would take the brightest value for white where it lies a little below."""
    values = mosaic(2000, 2000, 2000)
    values[:, 40:] = brightest
    path = write_dng(tmp_path / "a.dng", values, black=BLACK, white=WHITE)
    image = read_raw(path)
    np.testing.assert_allclose(image[24, 10], scaled(2000), atol=1)
    np.testing.assert_allclose(image[24, 55], scaled(brightest), atol=1)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_orientation(tmp_path, write_dng, orientation, turns):
    values = mosaic(3000, 3000, 3000)
    values[:24, :32] = 20000
    path = write_dng(tmp_path / "a.dng", values, orientation=orientation)
    upright = read_raw(write_dng(tmp_path / "b.dng", values))
    assert upright.shape == (48, 64, 3)
    assert upright[10, 10, 1] > 2 * upright[40, 50, 1]
    np.testing.assert_array_equal(read_raw(path), np.rot90(upright, turns))


def test_the_recommended_frame_is_cut_out(tmp_path, write_dng):
    """Its place counts from the corner of the active area, which counts from the sensor's."""
    rows = np.repeat(np.arange(1, 97, dtype=np.uint16)[:, None] * 100, 128, axis=1)
    path = write_dng(tmp_path / "a.dng", rows, active=(2, 4, 94, 124), crop=(6, 2, 110, 88))
    image = read_raw(path)
    assert image.shape == (88, 110, 3)
    np.testing.assert_allclose(image[5:-5, 50, 1], 100 * np.arange(10, 88), atol=1)


@pytest.mark.parametrize("active", [None, (3, 5, 297, 395), (2, 4, 296, 394)])
@pytest.mark.parametrize(("left", "top"), [(15, 7), (14, 7), (15, 8), (7, 3)])
def test_a_frame_at_an_odd_place_has_its_size(tmp_path, write_dng, left, top, active):
    """LibRaw cuts it a pixel smaller, and every edit of the whole frame would be larger than its input."""
    values = np.add.outer(np.arange(1, 301) * 150, np.arange(400) * 40).astype(np.uint16)
    y, x = (active or (0, 0))[:2]
    image = read_raw(write_dng(tmp_path / "a.dng", values, active=active, crop=(left, top, 365, 283)))
    assert image.shape == (283, 365, 3)
    expected = values[y + top : y + top + 283, x + left : x + left + 365].astype(float)
    np.testing.assert_allclose((image.mean(axis=2) - expected)[5:-5, 5:-5].mean(), 0, atol=2)


@pytest.mark.parametrize("whites", [[16383], [16383] * 3, [16383, 15000, 12000]])
@pytest.mark.parametrize("blacks", [[0], [1024], [1024] * 3, [256, 512, 1024]])
def test_white_of_a_linear_picture(tmp_path, write_dng, blacks, whites):
    """LibRaw's scale differs where a level is given for each colour."""
    picture = np.empty((64, 96, 3), np.uint16)
    picture[:], picture[:32] = (8000, 4000, 3000), 16383
    levels = [(50714, SHORT, blacks), (50717, LONG, whites)]
    image = read_raw(write_dng(tmp_path / "a.dng", picture, extra=levels))
    assert image[10, 10].min() >= 65534  # LibRaw rounds down
    black, white = (np.array((numbers * 3)[:3]) for numbers in (blacks, whites))
    np.testing.assert_allclose(image[50, 50], (np.array([8000, 4000, 3000]) - black) / (white - black) * 65535, atol=2)


def test_white_of_a_sensor_whose_colours_differ_in_black(tmp_path, write_dng):
    values = mosaic(8000, 4000, 3000)
    values[:24] = WHITE
    levels = [(50713, SHORT, [2, 2]), (50714, SHORT, [256, 512, 512, 1024])]
    image = read_raw(write_dng(tmp_path / "a.dng", values, white=WHITE, extra=levels))
    assert image[8, 30].min() >= 65534
    expected = [(v - b) / (WHITE - b) * 65535 for v, b in ((8000, 256), (4000, 512), (3000, 1024))]
    np.testing.assert_allclose(image[40, 30], expected, atol=2)


def test_a_frame_of_quite_another_shape_is_not_cut_out(tmp_path, write_dng):
    path = write_dng(tmp_path / "a.dng", mosaic(1, 2, 3, 96, 128), crop=(20, 10, 64, 48))
    assert read_raw(path).shape == (96, 128, 3)


@pytest.mark.parametrize("content", [b"", b"no picture at all"])
def test_what_is_no_raw_file_is_named(tmp_path, content):
    path = tmp_path / "bad.dng"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"bad\.dng: LibRaw cannot read it"):
        read_raw(path)


def noisy(height: int = 96, width: int = 128) -> np.ndarray:
    """What a sensor gives: no two neighbours alike."""
    return np.random.default_rng(0).integers(2000, 9000, (height, width)).astype(np.uint16)


LOSSLESS_JPEG = (259, SHORT, [7])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("left", ["header", "half", "zeros", "half zeros", "cluster of zeros"])
def test_a_raw_file_without_its_picture_is_refused(tmp_path, write_dng, left, compressed):
    """LibRaw returns black, or what its memory held before."""
    path = write_dng(tmp_path / "a.dng", noisy(), black=1000, extra=[LOSSLESS_JPEG] if compressed else [])
    data, size = path.read_bytes(), 2 * 96 * 128
    start = len(data) - size
    data = {
        "header": data[:start],
        "half": data[: start + size // 2],
        "zeros": data[:start] + bytes(size),
        "half zeros": data[: start + size // 2] + bytes(size // 2),
        "cluster of zeros": data[: start + 4096] + bytes(4096) + data[start + 8192 :],
    }[left]
    path.write_bytes(data)
    problem = "damaged" if "zeros" in left else "incomplete"
    with pytest.raises(ImageReadError, match=rf"a\.dng: {problem} RAW file .*Copy it from the camera again"):
        read_raw(path)


def test_a_part_of_lossless_jpeg_begins_like_one(tmp_path, write_dng):
    path = write_dng(tmp_path / "a.dng", noisy(), extra=[LOSSLESS_JPEG])
    with pytest.raises(ImageReadError, match=r"a\.dng: damaged RAW file \(no JPEG data where its picture should be"):
        read_raw(path)


def test_rows_that_are_black_are_no_sensors(tmp_path, write_dng):
    """As files of other formats end whose data broke off."""
    values = noisy()
    values[80:] = 900
    with pytest.raises(ImageReadError, match=r"16 of the sensor's 96 rows are black"):
        read_raw(write_dng(tmp_path / "a.dng", values, black=1000))
    values[81:] = 1100
    read_raw(write_dng(tmp_path / "b.dng", values, black=1000))


def test_a_linear_picture_may_have_a_black_border_but_not_be_black(tmp_path, write_dng):
    panorama = np.repeat(noisy()[..., None], 3, axis=2)
    panorama[:40] = 0
    assert read_raw(write_dng(tmp_path / "a.dng", panorama)).any()
    with pytest.raises(ImageReadError, match="all is black"):
        read_raw(write_dng(tmp_path / "b.dng", np.zeros_like(panorama)))


def box(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return (len(content) + 8 if length is None else length).to_bytes(4, "big") + kind + content


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.cr3", box(b"ftyp", b"crx \0\0\0\1") + box(b"moov", bytes(40)) + box(b"mdat", bytes(500), 2_000_000)),
        ("a.raf", (b"FUJIFILMCCD-RAW " + bytes(84) + struct.pack(">II", 500, 2_000_000)).ljust(5000, b"x")),
    ],
)
def test_other_formats_that_tell_their_length(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageReadError, match=rf"{name}: incomplete RAW file \({len(data)} bytes, of which"):
        read_raw(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.nef"):
        read_raw(tmp_path / "none.nef")


def test_without_rawpy_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[raw\]'"):
        read_raw(tmp_path / "a.dng")


def test_the_record_says_what_is_done():
    from semiisp_plugin.io.raw_io import _arguments

    done = _arguments(rawpy, srgb=False)
    assert done.keys() == RAW_PROCESSING.keys()
    for key, value in RAW_PROCESSING.items():
        if isinstance(value, str):
            assert done[key].name == value
        else:
            assert done[key] == (tuple(value) if key == "gamma" else value)


def test_extensions():
    assert is_raw("a/B.NEF")
    assert not is_raw("a/b.nef/c.jpg")
