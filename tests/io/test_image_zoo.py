"""Reading photographs as they are: a zoo of broken files, one of odd ones, ICC profiles, limits of size."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from image_zoo import (
    ADOBE_GAMMA,
    ADOBE_PRIMARIES,
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    cmyk_profile,
    coded_profile,
    encoded,
    grey_profile,
    matrix_profile,
    matrix_to_srgb,
    picture,
    tiff_with_tag,
    with_png_chunk,
)
from PIL import Image, ImageCms

from semiisp_plugin.io import image_io
from semiisp_plugin.io import picture as picture_module
from semiisp_plugin.io.colour_profile import cmyk_to_rgb, to_srgb
from semiisp_plugin.io.image_io import (
    ImageReadError,
    list_images,
    printable_path,
    read_image,
    scan_images,
    to_bit_depth,
    write_image,
)
from semiisp_plugin.io.picture import decode_photograph, read_photograph, shrink_short_side

WAYS_OUT = re.compile(r"\b(again|remove|save|export|convert|shrink|repair)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return picture()


@contextlib.contextmanager
def time_limit(seconds: int):
    """Interrupt what waits for ever, such as a read from a pipe that none writes to."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def memory(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


# --- the zoos -------------------------------------------------------------------------------------------------------


def complaint(folder: Path, name: str) -> str:
    """Read a broken file; what is wrong with the way it fails, or nothing."""
    start = time.perf_counter()
    try:
        with time_limit(10):
            image = read_photograph(folder / name)
    except (ImageReadError, OSError) as error:
        message = str(error)
        message.encode()  # can be printed and written to a text file
        missing = []
        if isinstance(error, TimeoutError):
            missing.append("waits")
        if printable_path(name) not in message and repr(name)[1:-1] not in message:
            missing.append("does not name the file")
        if not WAYS_OUT.search(message):
            missing.append("names no way out")
        if "\n" in message:
            missing.append("has several lines")
        if time.perf_counter() - start > 2:
            missing.append("takes long")
        return f"{', '.join(missing)}: {message}" if missing else ""
    except Exception as error:
        return f"raises {error!r}"
    return f"is read, {image.shape}"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it also warns of what then fails
def test_each_of_the_broken_zoo_is_refused_by_name(broken_zoo):
    folder, zoo = broken_zoo
    assert len(zoo) == 100
    complaints = {name: complaint(folder, name) for name in zoo}
    wrong = {f"{name} ({zoo[name]})": text for name, text in complaints.items() if text}
    assert not wrong


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to measure memory")
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_the_broken_zoo_takes_little_memory(broken_zoo):
    folder, zoo = broken_zoo
    for name in zoo:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before = memory("VmRSS")
        with pytest.raises((ImageReadError, OSError)):
            read_photograph(folder / name)
        assert memory("VmHWM") - before < 100, name


def test_the_broken_zoo_is_listed_whole(broken_zoo):
    folder, zoo = broken_zoo
    assert list_images(folder) == sorted(zoo)
    assert scan_images(folder).unsupported == {}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_pairs_are_no_less_careful(broken_zoo):
    """All but what only a photograph must not be: HDR."""
    folder, zoo = broken_zoo
    read = []
    for name in zoo:
        with contextlib.suppress(ImageReadError, OSError), time_limit(10):
            read_image(folder / name)
            read.append(name)
    assert read == [name for name, what in zoo.items() if what.startswith("HDR")]


def test_each_odd_photograph_has_the_right_pixels(odd_photographs):
    folder, odd = odd_photographs
    assert len(odd) > 25
    wrong = {}
    for name, (expected, tolerance) in odd.items():
        image = read_photograph(folder / name)
        if image.shape != expected.shape or image.dtype != np.uint8:
            wrong[name] = f"{image.shape} {image.dtype}"
            continue
        difference = np.abs(image.astype(int) - expected).max()
        if difference > tolerance:
            wrong[name] = f"{difference} > {tolerance}"
    assert not wrong
    assert list_images(folder) == sorted(odd)


# --- profiles -------------------------------------------------------------------------------------------------------


def test_pairs_keep_their_values_whatever_the_profile(tmp_path, photo):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo, "PNG", icc_profile=matrix_profile(ADOBE_PRIMARIES, ADOBE_GAMMA)))
    np.testing.assert_array_equal(read_image(path), photo)
    assert np.abs(read_photograph(path).astype(int) - photo).max() > 20


def test_profiles_of_srgb_cost_no_conversion(photo):
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (own, matrix_profile(SRGB_PRIMARIES, None), matrix_profile(SRGB_PRIMARIES, None, padding=9), None):
        assert to_srgb(photo, profile) is photo
    for primaries, gamma in ((SRGB_PRIMARIES, 2.2), (P3_PRIMARIES, None)):
        assert to_srgb(photo, matrix_profile(primaries, gamma)) is not photo


@pytest.mark.parametrize("primaries", [SRGB_PRIMARIES, P3_PRIMARIES, ADOBE_PRIMARIES])
@pytest.mark.parametrize("gamma", [None, 1.0, 1.8, ADOBE_GAMMA])
def test_matrix_profiles_equal_matrix_and_curve(primaries, gamma):
    if gamma is None and primaries is SRGB_PRIMARIES:
        return  # that is sRGB
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    expected = matrix_to_srgb(pixels, primaries, gamma)
    result = to_srgb(pixels, matrix_profile(primaries, gamma))
    difference = np.abs(result.astype(int) - expected)
    # The 8-bit path of Little CMS rounds linear light, which is coarse where sRGB's curve is steep: near black.
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_large_images_are_converted_band_by_band():
    pixels = np.random.default_rng(0).integers(0, 256, (2100, 1100, 3), dtype=np.uint8)
    profile = matrix_profile(P3_PRIMARIES, None)
    result = to_srgb(pixels, profile)
    for rows in (slice(0, 10), slice(940, 970), slice(2090, 2100)):
        np.testing.assert_array_equal(result[rows], to_srgb(np.ascontiguousarray(pixels[rows]), profile))


def test_a_profile_is_built_once(photo, monkeypatch):
    built = []
    build = ImageCms.buildTransform
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *a, **k: built.append(1) or build(*a, **k))
    data = encoded(photo, "JPEG", icc_profile=matrix_profile(P3_PRIMARIES, 1.9))
    for _ in range(3):
        decode_photograph(data, name="x")
    assert len(built) == 1


def test_damaged_and_mismatched_profiles_are_ignored(photo):
    good = matrix_profile(P3_PRIMARIES, None)
    for bad in (b"", b"x", good[:100], good[:300], good[:-600], cmyk_profile(), b"\xff" * 4000):
        assert to_srgb(photo, bad) is photo, bad[:20]
    assert to_srgb(photo, grey_profile(1.8)) is photo  # a grey profile says nothing about colours
    cmyk = np.dstack([photo, photo[::-1, :, 0]])
    np.testing.assert_array_equal(to_srgb(cmyk, good), cmyk_to_rgb(cmyk))
    np.testing.assert_array_equal(to_srgb(cmyk, b"x"), cmyk_to_rgb(cmyk))


def test_grey_photographs_stay_grey_under_a_colour_profile(photo):
    grey = np.repeat(photo[..., :1], 3, axis=2)
    result = to_srgb(grey, matrix_profile(ADOBE_PRIMARIES, 1.8))
    assert np.ptp(result.astype(int), axis=2).max() <= 1
    assert np.abs(result.astype(int) - grey).max() > 10


def test_profile_in_several_segments_of_a_jpeg_file(photo):
    """They are joined by their numbers; if one is missing there is no profile."""
    data = encoded(photo, "JPEG", quality=95, icc_profile=matrix_profile(P3_PRIMARIES, None, padding=150_000))
    starts = [m.start() - 4 for m in re.finditer(rb"ICC_PROFILE\0", data)]
    assert len(starts) == 3
    ends = [start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") for start in starts]
    first, second, third = (data[a:b] for a, b in zip(starts, ends, strict=True))
    head, tail = data[: starts[0]], data[ends[2] :]
    converted = decode_photograph(data, name="x")
    shuffled = decode_photograph(head + third + first + second + tail, name="x")
    np.testing.assert_array_equal(shuffled, converted)
    plain = decode_photograph(head + tail, name="x")
    assert (plain != converted).any()
    np.testing.assert_array_equal(decode_photograph(head + first + third + tail, name="x"), plain)


def test_a_compressed_profile_cannot_ask_for_any_memory(photo):
    for content in (b"zoo\0\0" + zlib.compress(bytes(64 * 2**20)), b"zoo\0\0no zlib", b"zoo"):
        data = with_png_chunk(encoded(photo, "PNG"), b"iCCP", content)
        np.testing.assert_array_equal(decode_photograph(data, name="x"), photo)


def test_coded_colours_of_png(photo):
    data = encoded(photo, "PNG")
    for srgb in (bytes([1, 13, 0, 1]), bytes([1, 1, 0, 1])):
        np.testing.assert_array_equal(decode_photograph(with_png_chunk(data, b"cICP", srgb), name="x"), photo)
    for transfer, what in ((16, "PQ"), (18, "HLG")):
        with pytest.raises(ImageReadError, match=rf"x: an HDR image \({what}\).*export it as SDR"):
            decode_photograph(with_png_chunk(data, b"cICP", bytes([9, transfer, 0, 1])), name="x")
    wide = bytes([12, 13, 0, 1])  # Display P3
    with pytest.raises(ImageReadError, match=r"another gamut than sRGB.*primaries 12"):
        decode_photograph(with_png_chunk(data, b"cICP", wide), name="x")
    described = encoded(photo, "PNG", icc_profile=matrix_profile(P3_PRIMARIES, None))
    np.testing.assert_array_equal(
        decode_photograph(with_png_chunk(described, b"cICP", wide), name="x"), decode_photograph(described, name="x")
    )


def test_hdr_profiles_are_refused(photo):
    named = [matrix_profile(P3_PRIMARIES, 2.2, name=n) for n in ("Display P3 PQ", "Rec. ITU-R BT.2100 HLG")]
    for profile, what in zip(
        [coded_profile(16), coded_profile(18), *named], ["PQ", "HLG", "PQ", "PQ|HLG"], strict=True
    ):
        with pytest.raises(ImageReadError, match=rf"x: an HDR image \({what}\)"):
            to_srgb(photo, profile, name="x")
    for harmless in (coded_profile(13), matrix_profile(P3_PRIMARIES, 2.2, name="PQR 12100 Rec. 2020")):
        to_srgb(photo, harmless, name="x")


def test_to_srgb_takes_8_bit_images_only(photo):
    for bad in (photo.astype(np.uint16), photo[..., 0], photo[..., :2]):
        with pytest.raises(ValueError, match="expected uint8"):
            to_srgb(bad, None)


# --- shrinking ------------------------------------------------------------------------------------------------------


def test_shrink_short_side(photo):
    assert shrink_short_side(photo, None) is photo
    assert shrink_short_side(photo, 48) is photo
    for image in (photo, photo.transpose(1, 0, 2), picture(33, 500), picture(100, 301)):
        small = shrink_short_side(image, 16)
        scale = 16 / min(image.shape[:2])
        assert small.shape == (round(image.shape[0] * scale), round(image.shape[1] * scale), 3)
        assert small.flags.c_contiguous
    # By a whole factor, the area filter is the mean.
    blocks = photo.reshape(24, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(shrink_short_side(photo, 24) - blocks).max() <= 0.5


def test_a_photograph_is_shrunk_as_its_pixels_are(odd_photographs):
    """Exactly so without a profile; with one, to the roundings of converting after shrinking."""
    folder, odd = odd_photographs
    for name in odd:
        whole = read_photograph(folder / name)
        small = read_photograph(folder / name, short_side=20)
        expected = shrink_short_side(whole, 20)
        assert small.shape == expected.shape
        difference = np.abs(small.astype(int) - expected)
        if not any(word in name for word in ("P3", "Adobe RGB", "profile", "video", "CMYK")):
            assert difference.max() == 0, name
        elif "16 bits" not in name:  # that is noise, of which half is out of gamut
            assert difference.mean() < 1, name


def test_large_jpegs_are_decoded_at_a_fraction(monkeypatch):
    shapes = []
    decode = simplejpeg.decode_jpeg

    def watched(*args, **sides):
        pixels = decode(*args, **sides)
        shapes.append(pixels.shape[:2])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    monkeypatch.setattr(picture_module, "REDUCE_ABOVE", 10_000)
    smooth = cv2.GaussianBlur(picture(400, 304), (0, 0), 12)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(smooth, "JPEG", quality=95, subsampling=0, exif=exif)
    factors = {None: 1, 304: 1, 77: 1, 76: 2, 39: 2, 38: 4, 20: 4, 19: 8, 5: 8}
    whole = decode_photograph(data, name="x").astype(int)
    assert whole.shape == (304, 400, 3)
    for short_side, factor in factors.items():
        small = decode_photograph(data, name="x", short_side=short_side)
        assert shapes[-1] == (400 // factor, 304 // factor), short_side
        expected = shrink_short_side(whole.astype(np.uint8), short_side).astype(int)
        assert small.shape == expected.shape
        assert np.abs(small - expected).mean() < 0.6
        assert abs((small - expected).mean()) < 0.5  # it is rounded twice
    png = encoded(smooth, "PNG")
    np.testing.assert_array_equal(decode_photograph(png, name="x", short_side=30), shrink_short_side(smooth, 30))
    monkeypatch.setattr(picture_module, "REDUCE_ABOVE", 400 * 304)
    decode_photograph(data, name="x", short_side=5)
    assert shapes[-1] == (400, 304)


def test_sizes_of_reduced_decodes_are_those_of_whole_ones(monkeypatch):
    for height, width in ((161, 160), (160, 161), (163, 167), (167, 163), (160, 1001), (999, 161), (165, 165)):
        data = encoded(picture(height, width), "JPEG")
        for short_side in (7, 10, 33, 40):
            monkeypatch.setattr(picture_module, "REDUCE_ABOVE", 10**9)
            expected = decode_photograph(data, name="x", short_side=short_side)
            monkeypatch.setattr(picture_module, "REDUCE_ABOVE", 0)
            assert decode_photograph(data, name="x", short_side=short_side).shape == expected.shape


def test_a_reduced_decode_is_not_displaced(monkeypatch):
    """A ramp keeps its values but at its ends, which a shift by half a pixel would change by 2."""
    ramp = np.repeat(np.linspace(0, 255, 1024)[None, :, None], 512, axis=0).repeat(3, axis=2).astype(np.uint8)
    data = encoded(ramp, "JPEG", quality=100, subsampling=0)
    expected = decode_photograph(data, name="x", short_side=32).astype(int)
    monkeypatch.setattr(picture_module, "REDUCE_ABOVE", 0)
    small = decode_photograph(data, name="x", short_side=32).astype(int)
    assert np.abs(small - expected)[:, 2:-2].mean() < 0.7
    assert abs((small - expected)[:, 2:-2].mean()) < 0.2


def test_short_side_must_be_a_size(photo):
    with pytest.raises(ValueError, match="short_side: 0 pixels"):
        decode_photograph(encoded(photo, "PNG"), name="x", short_side=0)


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"])
def test_too_large_images_are_refused_before_they_are_decoded(tmp_path, photo, monkeypatch, kind):
    path = tmp_path / "large.png"
    path.write_bytes(encoded(photo, kind))
    read_photograph(path, max_pixels=64 * 48)
    read_photograph(path, max_pixels=None)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(Image.Image, "load", None)
    message = r"large\.png: 64x48 is 0 megapixels, more than the limit of 0\.003071.*shrink it.*max_pixels"
    with pytest.raises(ImageReadError, match=message):
        read_photograph(path, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "BMP", "GIF"])
def test_limits_of_pillow_do_not_surprise(photo, monkeypatch, kind):
    data = encoded(photo, kind)
    expected = decode_photograph(data, name="x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_photograph(data, name="x"), expected)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_large_files_are_looked_at_before_they_are_read(tmp_path, photo, monkeypatch):
    monkeypatch.setattr(image_io, "_LARGE_FILE", 1000)
    monkeypatch.setattr(image_io, "_MAX_EXTRA_BYTES", 20_000)
    path = tmp_path / "a.jpg"
    data = encoded(photo, "JPEG")
    path.write_bytes(data + bytes(10_000))
    assert read_photograph(path).shape == photo.shape
    path.write_bytes(data + bytes(60_000))
    with pytest.raises(ImageReadError, match=r"a\.jpg: the file has 6\d{4} bytes, too many for .* 3072 pixels"):
        read_photograph(path, max_pixels=3072)
    path.write_bytes(bytes(2000))
    with pytest.raises(ImageReadError, match=r"a\.jpg: not an image"):
        read_photograph(path)


def test_a_file_is_decoded_once(photo, monkeypatch):
    calls = []
    for module, function in ((cv2, "imdecode"), (simplejpeg, "decode_jpeg")):
        decode = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, f=decode, **k: calls.append(1) or f(*a, **k))
    for kind in ("JPEG", "PNG"):
        calls.clear()
        decode_photograph(encoded(photo, kind), name="x", short_side=20)
        assert len(calls) == 1


def test_strips_that_are_not_there(photo):
    data = encoded(photo, "TIFF")
    with pytest.raises(ImageReadError, match="1 strips of 48 rows for 96 rows"):
        decode_photograph(tiff_with_tag(data, 257, 96), name="x")


def test_bit_depth_of_many_values_and_of_strided_ones():
    many = np.random.default_rng(0).integers(0, 65536, (3, 2**20 + 77), dtype=np.uint16)
    np.testing.assert_array_equal(to_bit_depth(many, "8"), np.rint(many / 257).astype(np.uint8))
    np.testing.assert_array_equal(to_bit_depth(many[:, ::-7], "8"), np.rint(many[:, ::-7] / 257).astype(np.uint8))
    assert to_bit_depth(np.array(65535, np.uint16), "8") == 255


# --- files ----------------------------------------------------------------------------------------------------------


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"check the path: '.*missing\.png'"):
        read_photograph(tmp_path / "missing.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageReadError, match=r"folder\.png: not a file but a folder"):
        read_photograph(tmp_path / "folder.png")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(PermissionError, match=r"chmod u\+r.*a\.png"):
        read_photograph(tmp_path / "a.png")


def test_printable_path():
    for same in ("a/b c.jpg", "Größe 漢字 'x' \"y\" \\n.png", ""):
        assert printable_path(same) == same
    assert printable_path("two\nlines\t.jpg") == r"two\nlines\t.jpg"
    assert printable_path(os.fsdecode(b"\xe9\xff.jpg")) == r"\xe9\xff.jpg"
    assert printable_path("\x07\u2028\ud800") == r"\x07\u2028\ud800"
    assert printable_path(Path("a")) == "a"


def test_what_is_not_read_is_counted(tmp_path):
    for name in ("a.psd", "b/c.PSD", "raw.CR2", "b/e.txt", ".hidden.psd", "photo.jpg", "noext", "b/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = scan_images(tmp_path)
    assert list(listing.unsupported.items()) == [(".psd", 2), ("", 1), (".cr2", 1), (".txt", 1)]
    remark = "2 .psd ('a.psd', ...), 1 without extension ('noext'), 1 .cr2 ('raw.CR2'), 1 .txt ('b/e.txt')"
    assert listing.remark == remark
    assert listing.images == ["photo.jpg"] == list_images(tmp_path)
    (tmp_path / "photo.jpg").unlink()
    with pytest.raises(ValueError, match=rf"holds no image .*other formats: {re.escape(remark)}\. .*converted"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError):
        scan_images(tmp_path / "nowhere")


def test_folders_nested_deeper_than_the_stack(tmp_path):
    path = tmp_path.joinpath(*["d"] * 150, "a.png")
    write_image(path, picture(1, 1))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert list_images(tmp_path) == ["d/" * 150 + "a.png"]
    finally:
        sys.setrecursionlimit(limit)


def test_header_of_every_webp_variant(photo):
    for options in ({}, {"lossless": True}, {"icc_profile": matrix_profile(SRGB_PRIMARIES, None)}):
        data = encoded(photo, "WEBP", **options)
        with pytest.raises(ImageReadError, match="64x48"):
            decode_photograph(data, name="x", max_pixels=1)
    # The oldest BMP header has sizes of two bytes.
    old = (
        b"BM"
        + struct.pack("<IHHI", 26 + 4 * 2, 0, 0, 26)
        + struct.pack("<IHHHH", 12, 1, 2, 1, 24)
        + b"\1\2\3\0\4\5\6\0"
    )
    np.testing.assert_array_equal(decode_photograph(old, name="x")[:, 0], [[6, 5, 4], [3, 2, 1]])
