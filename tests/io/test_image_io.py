"""Reading and writing images, compared with Pillow, tifffile and plain NumPy."""

from __future__ import annotations

import errno
import io
import os

import cv2
import numpy as np
import pytest
import tifffile
import torch
from image_zoo import as_tiff, encoded, picture
from PIL import Image, ImageOps

from semiisp_plugin.io.image_io import (
    ImageReadError,
    decode_image,
    encode_png,
    list_images,
    read_image,
    strip_extension,
    to_bit_depth,
    to_float,
    to_tensor,
    to_uint8,
    to_uint16,
    write_image,
)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return picture()


@pytest.fixture(scope="module")
def photo16() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (48, 64, 3), dtype=np.uint16)


# --- what is decoded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_are_exact_and_rgb(photo, kind, options):
    image = decode_image(encoded(Image.fromarray(photo), kind, **options), name="x")
    np.testing.assert_array_equal(image, photo)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_jpeg_equals_pillow(photo, options):
    data = encoded(Image.fromarray(photo), "JPEG", quality=95, **options)
    image = decode_image(data, name="x")
    # The decoders may differ in their inverse DCT and chroma upsampling by a rounding.
    assert np.abs(image.astype(int) - np.asarray(Image.open(io.BytesIO(data)))).max() <= 1
    assert np.abs(image.astype(int) - photo).mean() < 4  # RGB, not BGR


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(photo), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    image = decode_image(data, name="x")
    assert image.shape == ((64, 48, 3) if orientation >= 5 else (48, 64, 3))
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(photo, kind):
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(Image.fromarray(photo).convert("CMYK"), kind, **options)
    image = decode_image(data, name="x")
    assert image.shape == photo.shape
    assert np.abs(image.astype(int) - photo).max() <= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_grey_becomes_rgb(photo, kind):
    data = encoded(Image.fromarray(photo).convert("L"), kind)
    image = decode_image(data, name="x")
    assert image.shape == (48, 64, 3)
    assert np.ptp(image, axis=2).max() == 0
    grey = np.asarray(Image.open(io.BytesIO(data)))
    assert grey.ndim == 2
    assert np.abs(image[..., 0].astype(int) - grey).max() <= (1 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped_not_multiplied_in(photo, kind):
    alpha = np.random.default_rng(2).integers(0, 256, (48, 64), dtype=np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.dstack([photo, alpha])), kind, **options)
    np.testing.assert_array_equal(decode_image(data, name="x"), photo)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "P"])
def test_bilevel_and_palette_images(photo, kind, mode):
    source = Image.fromarray(photo).convert(mode)
    expected = np.asarray(source.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encoded(source, kind), name="x"), expected)


def test_png_palette_with_transparency(photo):
    source = Image.fromarray(photo).quantize(16)
    image = decode_image(encoded(source, "PNG", transparency=3), name="x")
    np.testing.assert_array_equal(image, np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bits_survive(photo16, kind, channels):
    stored = np.dstack([photo16, photo16[::-1, :, 0]])[..., :channels]
    if kind == ".tiff":
        data = as_tiff(
            stored.squeeze(), photometric="minisblack" if channels == 1 else "rgb", extrasamples=[2] * (channels == 4)
        )
    else:
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        data = cv2.imencode(".png", np.ascontiguousarray(stored[..., order]))[1].tobytes()
    image = decode_image(data, name="x")
    assert image.dtype == np.uint16
    expected = np.repeat(photo16[..., :1], 3, axis=2) if channels == 1 else photo16
    np.testing.assert_array_equal(image, expected)
    assert len(np.unique(image)) > 256


@pytest.mark.parametrize(
    "options", [{"byteorder": ">"}, {"tile": (16, 16)}, {"compression": "zlib", "predictor": True}, {"bigtiff": True}]
)
def test_16_bit_tiff_layouts(photo16, options):
    data = as_tiff(photo16, photometric="rgb", **options)
    np.testing.assert_array_equal(decode_image(data, name="x"), photo16)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((3, 8, 8), np.uint16), {"planarconfig": "separate", "photometric": "rgb"}),
        (np.zeros((8, 8, 3), np.float32), {"photometric": "rgb"}),
        (np.zeros((8, 8, 3), np.float16), {"photometric": "rgb"}),
        (np.zeros((8, 8, 3), np.int8), {"photometric": "rgb"}),
        (np.zeros((8, 8), np.uint16), {"photometric": "miniswhite"}),
        (np.zeros((8, 8), np.uint32), {"photometric": "minisblack"}),
    ],
)
def test_unsupported_tiff_layouts_are_refused(image, options):
    with pytest.raises(ImageReadError, match=r"some/where.*not supported.*save it as"):
        decode_image(as_tiff(image, **options), name="some/where")


def test_big_endian_bigtiff_is_not_called_damaged():
    data = as_tiff(np.zeros((8, 8, 3), np.uint8), photometric="rgb", bigtiff=True, byteorder=">")
    with pytest.raises(ImageReadError, match="big-endian numbers, which is not read; save it"):
        decode_image(data, name="x")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it also warns of what then fails
def test_truncated_files_are_refused(tmp_path, photo, kind, options):
    data = encoded(Image.fromarray(photo), kind, **options)
    path = tmp_path / "cut"
    for length in [1, 3, 7, 20, *(int(len(data) * share) for share in (0.1, 0.3, 0.5, 0.8, 0.99)), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ImageReadError, match=r"cut: .*(truncated|incomplete|damaged).*again"):
            read_image(path)


def test_truncated_large_jpeg_which_opencv_reads_half_grey(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG")
    path = tmp_path / "half.jpg"
    path.write_bytes(data[: len(data) // 2])
    assert cv2.imread(str(path)) is not None  # the trap that the check is for
    with pytest.raises(ImageReadError, match="truncated JPEG"):
        read_image(path)


def test_truncated_png_is_named_so(photo):
    """Not left to OpenCV, some versions of which return what there is."""
    data = encode_png(photo)
    for length in (20, len(data) // 2, len(data) - 1):
        with pytest.raises(ImageReadError, match="x: truncated PNG"):
            decode_image(data[:length], name="x")
    np.testing.assert_array_equal(decode_image(data + b"trailer", name="x"), photo)


def test_end_marker_of_an_exif_thumbnail_does_not_count(photo):
    thumbnail = encoded(Image.fromarray(photo[:8, :8]), "JPEG")
    segment = b"Exif\0\0" + thumbnail
    whole = encoded(Image.fromarray(photo), "JPEG")
    data = whole[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + whole[2:]
    decode_image(data, name="x")
    with pytest.raises(ImageReadError, match="truncated JPEG"):
        decode_image(data[:-40], name="x")


def test_zero_filled_tails_are_refused(photo):
    """What an interrupted download into a preallocated file leaves."""
    for kind in ("JPEG", "PNG"):
        data = encoded(Image.fromarray(photo), kind)
        with pytest.raises(ImageReadError):
            decode_image(data[: len(data) // 2] + bytes(len(data) - len(data) // 2), name="x")


def test_jpeg_with_trailing_data_is_read(photo):
    """Phones append a video or a depth map."""
    data = encoded(Image.fromarray(photo), "JPEG")
    np.testing.assert_array_equal(decode_image(data + b"trailer" * 100, name="x"), decode_image(data, name="x"))


@pytest.mark.parametrize("depth", [8, 16])
def test_checksums_of_tiff_are_looked_at(photo, photo16, depth):
    """libtiff does not."""
    data = bytearray(as_tiff(photo if depth == 8 else photo16, photometric="rgb", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        end = file.pages[0].dataoffsets[0] + file.pages[0].databytecounts[0]
    decode_image(bytes(data), name="x")
    data[end - 1] ^= 0xFF
    with pytest.raises(ImageReadError, match="x: damaged TIFF file"):
        decode_image(bytes(data), name="x")


def test_damaged_png_is_refused(photo):
    data = bytearray(encoded(Image.fromarray(photo), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageReadError, match="damaged"):
        decode_image(bytes(data), name="x")


def test_zero_bytes_and_non_images(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"empty\.png: the file is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(ImageReadError, match=r"page\.jpg: not an image.*<html>"):
        read_image(tmp_path / "page.jpg")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png")


def test_misnamed_files_are_read_by_their_content(tmp_path, photo):
    (tmp_path / "really_a_png.jpg").write_bytes(encode_png(photo))
    np.testing.assert_array_equal(read_image(tmp_path / "really_a_png.jpg"), photo)


def test_pixel_formats_without_conversion_are_refused(photo):
    lab = Image.fromarray(photo).split()
    data = encoded(Image.merge("LAB", lab), "TIFF")
    with pytest.raises(ImageReadError, match="pixel format 'LAB' is not supported"):
        decode_image(data, name="x")


# --- conversions ----------------------------------------------------------------------------------------------------


def test_bit_depth_conversion():
    every8, every16 = np.arange(256, dtype=np.uint8), np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_bit_depth(every8, "16"), np.arange(256) * 257)
    np.testing.assert_array_equal(to_bit_depth(every16, "8"), np.rint(np.arange(65536) / 257))
    np.testing.assert_array_equal(to_bit_depth(to_bit_depth(every8, "16"), "8"), every8)
    assert to_bit_depth(every16, "keep") is every16
    assert to_bit_depth(every8, "8") is every8
    with pytest.raises(ValueError, match="'keep', '8' or '16'"):
        to_bit_depth(every8, 8)
    with pytest.raises(ValueError, match="float32"):
        to_bit_depth(np.zeros(3, np.float32), "8")


def test_read_image_converts_the_bit_depth(tmp_path, photo16):
    write_image(tmp_path / "a.png", photo16)
    assert read_image(tmp_path / "a.png").dtype == np.uint16
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", bit_depth="8"), to_bit_depth(photo16, "8"))


@pytest.mark.parametrize(("dtype", "back"), [(np.uint8, to_uint8), (np.uint16, to_uint16)])
def test_float_round_trip_is_exact_for_every_value(dtype, back):
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(1, -1, 1)
    floats = to_float(values)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (0.0, 1.0)
    np.testing.assert_allclose(floats, values / np.float64(np.iinfo(dtype).max), rtol=1e-7)
    np.testing.assert_array_equal(back(floats), values)


def test_quantising_clips_rounds_and_refuses_nan():
    x = np.array([-1, 0, 0.4 / 255, 0.6 / 255, 1, 2, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 1, 255, 255, 255, 0])
    assert to_uint16(np.ones(1, np.float16))[0] == 65535
    with pytest.raises(ValueError, match="NaN"):
        to_uint16(np.array([np.nan]))
    with pytest.raises(ValueError, match="uint8"):
        to_uint8(np.zeros(2, np.uint8))


def test_to_tensor(photo, photo16):
    for image, top in ((photo, 255), (photo16, 65535)):
        tensor = to_tensor(image[:, ::-1])
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), to_float(image[:, ::-1]).transpose(2, 0, 1))
        assert float(tensor.max()) == pytest.approx(image.max() / top)
    floats = to_float(photo)
    tensor = to_tensor(floats)
    tensor.zero_()
    assert floats.any()  # not shared
    with pytest.raises(ValueError, match="height, width, channels"):
        to_tensor(photo[..., 0])


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [8, 16])
def test_png_round_trip_and_channel_order(photo, photo16, depth):
    image = photo if depth == 8 else photo16
    data = encode_png(image)
    np.testing.assert_array_equal(decode_image(data, name="x"), image)
    if depth == 8:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


def test_encode_png_refuses_what_it_cannot_keep(photo):
    for bad, message in ((photo[..., 0], "shape"), (photo.astype(np.float32), "float32"), (photo[:0], "shape")):
        with pytest.raises(ValueError, match=message):
            encode_png(bad)
    with pytest.raises(ValueError, match="levels 0 to 9"):
        encode_png(photo, compression=10)


def test_write_image(tmp_path, photo, photo16):
    write_image(tmp_path / "new/folder/ünï 漢字.png", photo16)
    np.testing.assert_array_equal(read_image(tmp_path / "new/folder/ünï 漢字.png"), photo16)
    write_image(tmp_path / "a.JPG", photo)
    assert np.abs(read_image(tmp_path / "a.JPG").astype(int) - photo).mean() < 4
    with pytest.raises(ValueError, match="JPEG holds 8 bits"):
        write_image(tmp_path / "b.jpg", photo16)
    with pytest.raises(ValueError, match=r"cannot write '\.tif'"):
        write_image(tmp_path / "b.tif", photo)


def test_write_image_is_atomic(tmp_path, photo, monkeypatch):
    write_image(tmp_path / "a.png", photo)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(tmp_path / "a.png", photo[::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo)


# --- listing --------------------------------------------------------------------------------------------------------


def test_list_images(tmp_path):
    for name in ("b.png", "a/10.JPG", "a/9.tiff", "A.webp", "notes.txt", ".hidden.png", ".git/x.png", "é.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list_images(tmp_path) == ["A.webp", "a/10.JPG", "a/9.tiff", "b.png", "é.bmp"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_list_images_follows_links_but_not_in_circles(tmp_path):
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real/sub/a.png").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/sub/up").symlink_to(tmp_path / "root")
    assert list_images(tmp_path / "root") == ["link/sub/a.png"]


def test_folders_below_that_cannot_be_read_are_listed(tmp_path, monkeypatch):
    """Reading one is an error that names it; what lies beside it is read."""
    for name in ("a.png", "closed/b.png", "names only/c/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, np.zeros((8, 8, 3), np.uint8))

    def refusing(call, which):
        def refuse(path, *rest, **more):
            if os.fspath(path) == str(tmp_path / which):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return call(path, *rest, **more)

        return refuse

    monkeypatch.setattr(os, "scandir", refusing(os.scandir, "closed"))
    monkeypatch.setattr(os, "stat", refusing(os.stat, "names only/c"))
    assert list_images(tmp_path) == ["a.png", "closed", "names only/c"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ImageReadError, match=r"closed: a folder that cannot be read\. Make it readable"):
        read_image(tmp_path / "closed")
    with pytest.raises(PermissionError, match="make it readable"):
        read_image(tmp_path / "names only/c")


def test_list_images_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file' is a file"):
        list_images(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' holds no image \(\.avif, \.bmp"):
        list_images(tmp_path / "empty")


def test_strip_extension():
    assert strip_extension("a.b/c.d.JPG") == ("a.b/c.d", ".JPG")
    assert strip_extension("a/img.1") == ("a/img.1", "")
    assert strip_extension("a.png/b") == ("a.png/b", "")


def test_16_bit_grey_tiff_with_alpha_is_refused():
    """OpenCV would return 8 bits."""
    image = np.random.default_rng(0).integers(0, 65536, (8, 9, 2), dtype=np.uint16)
    options = {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    with pytest.raises(ImageReadError, match=r"a\.tif: 16-bit grey TIFF with alpha"):
        decode_image(buffer.getvalue(), name="a.tif")
