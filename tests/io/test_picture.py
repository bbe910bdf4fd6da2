"""Reading for enhancement: everything that photographs are, 16 bits of other colour spaces, RAW files."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from image_zoo import (
    ADOBE_GAMMA,
    ADOBE_PRIMARIES,
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    as_png16,
    as_tiff,
    chunk,
    coded_profile,
    matrix_profile,
    primaries_to_xyz,
    srgb_decode,
)

from semiisp_plugin.apps.enhance.encoding import encode_picture
from semiisp_plugin.io.colour_profile import _curve, to_srgb, to_srgb16
from semiisp_plugin.io.exif import orientation_of
from semiisp_plugin.io.image_io import ImageReadError, to_bit_depth
from semiisp_plugin.io.picture import read_picture
from semiisp_plugin.io.raw_io import read_raw


def test_odd_photographs_are_read(odd_photographs):
    folder, odd = odd_photographs
    for name, what in odd.items():
        found = read_picture(folder / name)
        if name == "Adobe RGB, 16 bits.tif":  # expected of the values in 8 bits; exactly below
            continue
        pixels = to_bit_depth(found.pixels, "8").astype(int)
        assert pixels.shape == what.expected.shape, name
        assert np.abs(pixels - what.expected).max() <= what.tolerance, name


def test_broken_files_are_refused(broken_zoo):
    folder, zoo = broken_zoo
    for name in zoo:
        with pytest.raises((ImageReadError, OSError), match=r"\w"):
            read_picture(folder / name)


@pytest.mark.parametrize("primaries", [ADOBE_PRIMARIES, P3_PRIMARIES])
@pytest.mark.parametrize("gamma", [ADOBE_GAMMA, None])
def test_16_bits_of_another_space_stay_16(primaries, gamma):
    """Against the formula. Rounding to 8 bits alone would be 128 off."""
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    found, note = to_srgb16(pixels, matrix_profile(primaries, gamma))
    values = pixels / 65535
    linear = srgb_decode(values) if gamma is None else values**gamma
    linear = (linear @ (np.linalg.inv(primaries_to_xyz(SRGB_PRIMARIES)) @ primaries_to_xyz(primaries)).T).clip(0, 1)
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 65535
    assert note is None
    # The profile's numbers are rounded to 2^-17: 3 colours, times 3 by the inverse matrix, times the curve's slope of
    # up to 12.92. The table of sRGB's curve is rounded, too.
    limit = 65535 * 2**-17 * 9 * 12.92
    assert np.abs(found - expected).max() <= limit * (1.5 if gamma is None else 1)


def test_16_bits_agree_with_the_conversion_in_8(odd_photographs):
    profile = matrix_profile(ADOBE_PRIMARIES, ADOBE_GAMMA)
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    wide, _ = to_srgb16(to_bit_depth(pixels, "16"), profile)
    narrow = to_srgb(pixels, profile)
    assert np.abs(to_bit_depth(wide, "8").astype(int) - narrow).max() <= 1


@pytest.mark.parametrize(
    "parameters", [(0, 2.2), (1, 2.2, 0.9, 0.1), (2, 2.2, 0.9, 0.1, 0.05), (3, 2.4, 0.948, 0.052, 0.077, 0.04)]
)
def test_curves_given_as_formulas(parameters):
    kind, *numbers = parameters
    g, a, b, c, d = (*numbers, *[0.0] * 5)[:5]
    tag = (
        b"para"
        + bytes(4)
        + struct.pack(">HH", kind, 0)
        + b"".join(struct.pack(">i", round(65536 * n)) for n in numbers)
    )

    x = np.arange(65536) / 65535
    if kind == 0:
        expected = x**g
    elif kind in (1, 2):
        expected = np.where(x >= -b / a, (a * x + b) ** g, 0) + c
    else:
        expected = np.where(x >= d, (a * x + b).clip(0) ** g, c * x)
    np.testing.assert_allclose(_curve(tag), expected, atol=1e-4)


def test_srgb_and_unprofiled_values_are_untouched():
    pixels = np.random.default_rng(0).integers(0, 65536, (10, 10, 3), dtype=np.uint16)
    for profile in (None, matrix_profile(SRGB_PRIMARIES, None), b"no profile"):
        assert to_srgb16(pixels, profile)[0] is pixels


def test_hdr_is_refused_at_16_bits_too(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint16)
    data = as_png16(pixels)
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"cICP", bytes([9, 16, 0, 1])) + data[33:])
    (tmp_path / "b.tif").write_bytes(as_tiff(pixels, photometric="rgb", iccprofile=coded_profile(18)))
    for name in ("a.png", "b.tif"):
        with pytest.raises(ImageReadError, match=f"{name}: an HDR image"):
            read_picture(tmp_path / name)


def test_raw_files_are_developed_as_for_training_and_keep_their_exif(tmp_path, write_dng):
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    mosaic = np.random.default_rng(0).integers(1000, 20000, (48, 64)).astype(np.uint16)
    path = write_dng(tmp_path / "a.dng", mosaic, black=500, white=30000, orientation=6)
    found = read_picture(path)
    np.testing.assert_array_equal(found.pixels, read_raw(path))
    assert found.pixels.shape == (64, 48, 3)
    assert orientation_of(found.exif) == 6
    assert b"Maker" in found.exif
    data, notes = encode_picture(found, "png")
    (tmp_path / "a.png").write_bytes(data)
    again = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(again.pixels, found.pixels)
    assert orientation_of(again.exif) == 1
    assert notes == []


def test_raw_files_that_are_none(tmp_path):
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    (tmp_path / "empty.dng").touch()
    (tmp_path / "text.nef").write_text("no photograph")
    (tmp_path / "folder.arw").mkdir()
    for name, what in (("empty.dng", "0 bytes"), ("text.nef", "LibRaw"), ("folder.arw", "folder"), ("none.cr2", "")):
        with pytest.raises((ImageReadError, OSError), match=f"{name}.*{what}"):
            read_picture(tmp_path / name)


def test_limit_of_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(as_png16(np.zeros((20, 30, 3), np.uint16)))
    with pytest.raises(ImageReadError, match="max_pixels"):
        read_picture(tmp_path / "a.png", max_pixels=599)
    assert read_picture(tmp_path / "a.png", max_pixels=600).pixels.shape == (20, 30, 3)
