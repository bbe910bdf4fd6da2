"""Reading camera RAW files."""

from __future__ import annotations

import sys

import numpy as np
import pytest

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


def test_a_frame_of_quite_another_shape_is_not_cut_out(tmp_path, write_dng):
    path = write_dng(tmp_path / "a.dng", mosaic(1, 2, 3, 96, 128), crop=(20, 10, 64, 48))
    assert read_raw(path).shape == (96, 128, 3)


@pytest.mark.parametrize("content", [b"", b"no picture at all", None])
def test_what_is_no_raw_file_is_named(tmp_path, write_dng, content):
    path = write_dng(tmp_path / "bad.dng", mosaic(1, 2, 3))
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    with pytest.raises(ImageReadError, match=r"bad\.dng: LibRaw cannot read it"):
        read_raw(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.nef"):
        read_raw(tmp_path / "none.nef")


def test_without_rawpy_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[raw\]'"):
        read_raw(tmp_path / "a.dng")


def test_the_record_says_what_is_done():
    from semiisp_plugin.io.raw_io import _arguments

    done = _arguments(rawpy)
    assert done.keys() == RAW_PROCESSING.keys()
    for key, value in RAW_PROCESSING.items():
        if isinstance(value, str):
            assert done[key].name == value
        else:
            assert done[key] == (tuple(value) if key == "gamma" else value)


def test_extensions():
    assert is_raw("a/B.NEF")
    assert not is_raw("a/b.nef/c.jpg")
