"""Files and folders: what is found, where results go, what is skipped, what is never overwritten."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from image_zoo import as_png16, encoded, picture
from PIL import Image
from torch import Tensor, nn

from semiisp_plugin.apps.enhance import batch
from semiisp_plugin.apps.enhance.batch import enhance_files
from semiisp_plugin.apps.enhance.enhancer import Enhancer, NetworkError
from semiisp_plugin.io.image_io import ImageReadError, read_image


class Square(nn.Module):
    """x -> 1 - (1 - x)^2, red and blue changed: channels in another order would be found out."""

    def forward(self, image: Tensor) -> Tensor:
        gain = torch.tensor([1.0, 0.8, 0.5]).view(1, 3, 1, 1)
        return (1 - (1 - image) ** 2) * gain


ENHANCER = Enhancer(Square(), device="cpu")


def expected(pixels: np.ndarray) -> np.ndarray:
    top = np.iinfo(pixels.dtype).max
    values = (1 - (1 - pixels.astype(np.float64) / top) ** 2) * [1.0, 0.8, 0.5]
    return values * top


@pytest.fixture
def photos(tmp_path) -> Path:
    """JPEG, PNG of 8 and 16 bits, below and beside each other."""
    folder = tmp_path / "photos"
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.JPG").write_bytes(encoded(picture(), "JPEG", quality=98))
    (folder / "sub" / "b.png").write_bytes(encoded(picture(seed=1), "PNG"))
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    (folder / "sub" / "deeper" / "c d.png").write_bytes(as_png16(deep))
    (folder / ".hidden" / "d.png").write_bytes(encoded(picture(), "PNG"))
    (folder / "notes.txt").write_text("no image")
    return folder


def names(folder: Path) -> list[str]:
    found = [p.relative_to(folder).as_posix() for p in folder.rglob("[!.]*") if p.is_file()]
    return sorted(name for name in found if name != "skipped.txt")


def test_a_folder_keeps_structure_formats_and_bits(photos, tmp_path):
    report = enhance_files(ENHANCER, photos, tmp_path / "out")
    assert names(tmp_path / "out") == ["a.JPG", "sub/b.png", "sub/deeper/c d.png"]
    assert len(report.written) == 3
    assert not report.skipped
    for name, limit in (("sub/b.png", 0.501), ("sub/deeper/c d.png", 0.6), ("a.JPG", 12)):
        source, result = read_image(photos / name), read_image(tmp_path / "out" / name)
        assert result.dtype == source.dtype
        assert np.abs(result - expected(source)).max() <= limit, name


def test_the_same_image_alone_or_among_others_gives_the_same_bytes(photos, tmp_path):
    tiles = Enhancer(Square(), device="cpu", tile=64)
    big = cv2.resize(picture(), (200, 150))
    (photos / "big.png").write_bytes(encoded(big, "PNG"))
    enhance_files(tiles, photos, tmp_path / "all", workers=3)
    for name in ("a.JPG", "big.png", "sub/b.png"):
        enhance_files(tiles, photos / name, tmp_path / "alone")
        assert (tmp_path / "alone" / Path(name).name).read_bytes() == (tmp_path / "all" / name).read_bytes()


@pytest.mark.parametrize(
    ("form", "bits", "written"),
    [
        ("png", "keep", {"a.png": 8, "sub/b.png": 8, "sub/deeper/c d.png": 16}),
        ("png", "8", {"a.png": 8, "sub/b.png": 8, "sub/deeper/c d.png": 8}),
        ("tiff", "16", {"a.tif": 16, "sub/b.tif": 16, "sub/deeper/c d.tif": 16}),
        ("jpg", "keep", {"a.jpg": 8, "sub/b.jpg": 8, "sub/deeper/c d.jpg": 8}),
        (None, "16", {"a.png": 16, "sub/b.png": 16, "sub/deeper/c d.png": 16}),
    ],
)
def test_formats_and_bits(photos, tmp_path, form, bits, written):
    enhance_files(ENHANCER, photos, tmp_path / "out", form=form, bits=bits)
    assert names(tmp_path / "out") == sorted(written)
    for name, depth in written.items():
        assert read_image(tmp_path / "out" / name).dtype.itemsize * 8 == depth


def test_arguments_files_and_folders(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(photos / "sub", other)
    cases = {
        ("photos/a.JPG",): ["a.JPG"],
        ("photos/a.JPG", "photos"): ["a.JPG", "photos/sub/b.png", "photos/sub/deeper/c d.png"],
        ("photos", "other"): [
            "other/b.png", "other/deeper/c d.png", "photos/a.JPG", "photos/sub/b.png", "photos/sub/deeper/c d.png",
        ],
        ("photos/a.JPG", "photos/notes.txt", "photos/sub"): ["a.JPG", "sub/b.png", "sub/deeper/c d.png"],
        ("photos/sub/b.png", "other/b.png"): ["other/b.png", "photos/sub/b.png"],
        ("photos/sub/b.png", "./photos/sub/b.png"): ["b.png"],
    }  # fmt: skip
    for number, (arguments, results) in enumerate(cases.items()):
        report = enhance_files(ENHANCER, arguments, f"out{number}", form=None)
        written = names(tmp_path / f"out{number}")
        if "photos/notes.txt" in arguments:  # the text file is skipped, its name is no image's
            assert list(report.skipped) == ["photos/notes.txt"]
        assert written == results, arguments


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none.png", "There is no file or folder 'none.png'"),
        ("empty", "'empty' holds no image, neither itself nor below, but files of other formats .1 .psd .'a.psd'"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_done(photos, tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.psd").write_bytes(b"x")
    with pytest.raises((ValueError, OSError), match=message):
        enhance_files(ENHANCER, argument, "out")
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_left_out_of_a_folder_are_said(photos, tmp_path):
    for name in ("b.psd", "c.exr", "sub/d.psd", "sub/Thumbs.db", "._a.jpg", ".DS_Store", "desktop.ini"):
        (photos / name).write_bytes(b"x")
    (photos / "@eaDir").mkdir()
    (photos / "@eaDir/SYNOPHOTO_THUMB_M.jpg").write_bytes(b"x")
    report = enhance_files(ENHANCER, photos, tmp_path / "out")
    assert (len(report.written), report.skipped) == (3, {})
    assert len(report.remarks) == 1
    assert "for their format: 2 .psd ('b.psd', ...), 1 .exr ('c.exr'), 1 .txt ('notes.txt'); conv" in report.remarks[0]


def test_other_formats_are_read(photos, tmp_path):
    """What Pillow reads; of what is animated, the first image, which is said."""
    pytest.importorskip("pillow_heif", reason="needs pillow-heif (pip install -e '.[heif]')").register_heif_opener()
    shutil.rmtree(photos)
    photos.mkdir()
    pixels = np.repeat(np.tile(np.arange(64, dtype=np.uint8), (48, 1))[..., None] * 3, 3, axis=2)
    image = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[274] = 6
    image.save(photos / "a.avif", quality=100, exif=turned)
    image.save(photos / "b.JP2")
    image.save(photos / "c.gif", save_all=True, append_images=[image.rotate(180)])
    image.save(photos / "d.heic", quality=100)
    image.save(photos / "e.jfif", "JPEG", quality=100)
    report = enhance_files(ENHANCER, photos, tmp_path / "out", form="png")
    assert (report.skipped, report.remarks) == ({}, [])
    assert {os.path.basename(name): notes for name, notes in report.notes.items()} == {
        "c.gif": ["of its several images the first was taken"]
    }
    for name in "abcde":
        wanted = expected(np.rot90(pixels, -1) if name == "a" else pixels)
        assert np.abs(read_image(tmp_path / "out" / f"{name}.png") - wanted).max() <= 8


def test_heic_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(ImageReadError, match=r"a\.heic: a HEIF image; to read it install pillow-heif .*or convert it"):
        read_image(tmp_path / "a.heic")


def test_bad_files_are_skipped_and_the_others_done(photos, tmp_path):
    (photos / "empty.png").touch()
    (photos / "cut.jpg").write_bytes((photos / "a.JPG").read_bytes()[:-300])
    (photos / "page.png").write_text("<html>")
    os.symlink("nowhere", photos / "link.png")
    report = enhance_files(ENHANCER, photos, tmp_path / "out")
    assert len(report.written) == 3
    skipped = {os.path.basename(name): reason for name, reason in report.skipped.items()}
    assert skipped.keys() == {"empty.png", "cut.jpg", "page.png", "link.png"}
    assert "0 bytes" in skipped["empty.png"]
    assert "truncated" in skipped["cut.jpg"]
    assert "web page" in skipped["page.png"]
    assert "symbolic link" in skipped["link.png"]
    assert not [name for name in names(tmp_path / "out") if name.endswith(".part")]


def test_an_interrupted_run_resumes_and_nothing_is_made_twice(photos, tmp_path):
    out = tmp_path / "out"
    enhance_files(ENHANCER, photos / "a.JPG", out)
    before = (out / "a.JPG").stat().st_mtime_ns
    report = enhance_files(ENHANCER, photos, out)
    assert report.kept == [str(out / "a.JPG")]
    assert len(report.written) == 2
    assert (out / "a.JPG").stat().st_mtime_ns == before
    report = enhance_files(ENHANCER, photos, out, overwrite=True)
    assert len(report.written) == 3
    assert (out / "a.JPG").stat().st_mtime_ns > before


def test_images_are_never_overwritten(photos, tmp_path):
    before = (photos / "sub" / "b.png").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"would be overwritten by its result.*--suffix"):
            enhance_files(ENHANCER, photos, photos, overwrite=overwrite)
    link = tmp_path / "link"
    link.symlink_to(photos)
    with pytest.raises(ValueError, match="would be overwritten"):
        enhance_files(ENHANCER, photos, link, overwrite=True)
    assert (photos / "sub" / "b.png").read_bytes() == before


def test_results_beside_the_images_are_not_enhanced_again(photos):
    for expected_kept in (0, 3):
        report = enhance_files(ENHANCER, photos, photos, suffix="_enhanced")
        assert len(report.kept) == expected_kept
        assert names(photos / "sub") == ["b.png", "b_enhanced.png", "deeper/c d.png", "deeper/c d_enhanced.png"]
    for _ in range(2):  # nor those in a folder of their own below the images
        report = enhance_files(ENHANCER, photos / "sub", photos / "sub" / "results")
        assert len(report.written) + len(report.kept) == 4


def test_a_raw_file_and_its_jpeg_both_get_a_result(photos, tmp_path, write_dng):
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    write_dng(photos / "a.dng", np.full((48, 64), 9000, np.uint16))
    enhance_files(ENHANCER, [photos / "a.dng", photos / "a.JPG"], tmp_path / "out")
    assert names(tmp_path / "out") == ["a.JPG", "a.png"]
    assert read_image(tmp_path / "out" / "a.png").dtype == np.uint16
    enhance_files(ENHANCER, [photos / "a.dng", photos / "a.JPG"], tmp_path / "jpg", form="jpg")
    assert names(tmp_path / "jpg") == ["a.JPG.jpg", "a.dng.jpg"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [({}, "a.jpg"), ({"bits": "16"}, "a.png"), ({"form": "tiff"}, "a.tif"), ({"form": "png", "bits": "8"}, "a.png")],
)
def test_for_networks_of_srgb_raw_files_are_developed_first(tmp_path, write_dng, settings, name):
    """The white balance makes grey of the sensor's colour; EXIF comes along."""
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    grey = np.full((48, 64), 20000, np.uint16)
    grey[0::2, 0::2], grey[1::2, 1::2] = 10000, 14000
    write_dng(tmp_path / "a.dng", grey, orientation=6)
    report = enhance_files(ENHANCER, tmp_path / "a.dng", tmp_path / "out", inputs="srgb", **settings)
    assert (names(tmp_path / "out"), report.skipped) == ([name], {})
    result = read_image(tmp_path / "out" / name)
    assert result.shape == (64, 48, 3)
    top = np.iinfo(result.dtype).max
    srgb = 1.055 * (20000 / 65535) ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(result[20, 20] / top, (1 - (1 - srgb) ** 2) * np.array([1.0, 0.8, 0.5]), atol=0.01)
    with Image.open(tmp_path / "out" / name) as image:
        assert {tag: image.getexif()[tag] for tag in (271, 272, 274)} == {271: "Maker", 272: "Test", 274: 1}


def test_strength(photos, tmp_path):
    """0 is the image, 1 what it was without, between and beyond a straight line, with rounding once, at the end."""
    for number, strength in enumerate((0, 0.5, 1, 1.5)):
        enhance_files(ENHANCER, photos / "sub", tmp_path / str(number), strength=strength)
        for name in ("b.png", "deeper/c d.png"):
            source, result = (read_image(folder / name) for folder in (photos / "sub", tmp_path / str(number)))
            wanted = source + strength * (expected(source) - source)
            assert np.abs(result - wanted.clip(0, np.iinfo(source.dtype).max)).max() <= (0.6 if strength else 0)
    assert (tmp_path / "2/b.png").read_bytes() != (tmp_path / "3/b.png").read_bytes()
    enhance_files(ENHANCER, photos / "sub", tmp_path / "plain")
    for name in ("b.png", "deeper/c d.png"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 1.6}, r"--strength: 1.6 cannot be; give 0 .* to 1.5"),
        ({"strength": -0.1}, r"--strength: -0.1 cannot be"),
        ({"strength": float("nan")}, r"--strength: nan cannot be"),
        ({"strength": 0.5}, r"--strength 0.5: .*a.dng' is linear RAW, which is no picture yet.*--inputs srgb"),
        ({"strength": 0.5, "inputs": "raw"}, r"--strength 0.5: .*this network was trained on RAW"),
    ],
)
def test_strengths_that_cannot_be(tmp_path, write_dng, settings, message):
    write_dng(tmp_path / "a.dng", np.full((48, 64), 9000, np.uint16))
    with pytest.raises(ValueError, match=message):
        enhance_files(ENHANCER, tmp_path / "a.dng", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_names_that_differ_in_case_alone(photos, tmp_path):
    (photos / "a.jpg").write_bytes((photos / "a.JPG").read_bytes())
    if len(list(photos.glob("a.*"))) < 2:
        pytest.skip("needs a file system that tells a from A")
    report = enhance_files(ENHANCER, photos, tmp_path / "out")
    assert len(report.written) == 3
    assert [os.path.basename(name) for name in report.skipped] == ["a.jpg"]
    assert "rename one" in next(iter(report.skipped.values()))


def test_alpha_is_kept_where_the_format_has_it(tmp_path):
    alpha = picture(seed=4)[..., 1]
    Image.fromarray(np.dstack([picture(), alpha])).save(tmp_path / "a.png")
    enhance_files(ENHANCER, tmp_path / "a.png", tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as result:
        assert result.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(result)[..., 3], alpha)
    report = enhance_files(ENHANCER, tmp_path / "a.png", tmp_path / "out", form="jpg")
    assert next(iter(report.notes.values())) == ["JPEG has no alpha channel; it was left out"]


def test_a_full_disk_ends_the_run_with_what_to_do(photos, tmp_path, monkeypatch):
    real = batch.write_atomically
    written = []

    def full(path, data):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, data)

    monkeypatch.setattr(batch, "write_atomically", full)
    with pytest.raises(OSError, match=r"No space left.*1 results were written.*same command again"):
        enhance_files(ENHANCER, photos, tmp_path / "out")


def test_networks_that_give_no_image(photos, tmp_path):
    class Half(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image[..., ::2, ::2]

    class NotANumber(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image / 0 * 0

    class OutOfMemory(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("out of memory, wanted more")

    for network, reason in ((OutOfMemory(), "wanted more"), (NotANumber(), "not finite")):
        report = enhance_files(Enhancer(network, device="cpu"), photos, tmp_path / reason)
        assert len(report.skipped) == 3
        assert all(reason in text for text in report.skipped.values())
    with pytest.raises(NetworkError, match="keeps the size"):  # no image will do any better
        enhance_files(Enhancer(Half(), device="cpu"), photos, tmp_path / "half")


def test_arrays(tmp_path):
    pixels = picture()
    np.testing.assert_allclose(ENHANCER.enhance_image(pixels), expected(pixels), atol=0.501)
    deep = np.random.default_rng(0).integers(0, 65536, (9, 11, 3), dtype=np.uint16)
    np.testing.assert_allclose(ENHANCER.enhance_image(deep), expected(deep), atol=0.6)
    values = np.random.default_rng(0).random((9, 11, 3))
    result = ENHANCER.enhance_image(values)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, (1 - (1 - values) ** 2) * [1.0, 0.8, 0.5], atol=1e-6)
    assert ENHANCER.enhance_image(pixels[..., 0]).shape == pixels.shape
    for wrong in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.int32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="The image"):
            ENHANCER.enhance_image(wrong)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_used_and_close(precision):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1))
    image = picture()
    full = Enhancer(network, device="cpu").enhance_image(image.astype(np.float32) / 255)
    low = Enhancer(network, device="cpu", precision=precision).enhance_image(image.astype(np.float32) / 255)
    assert 1e-6 < np.abs(full - low).max() < 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 8}, "tile: 8"),
        ({"tile": 128, "overlap": 65}, "more than half"),
        ({"overlap": -1}, "overlap: -1"),
        ({"precision": "fp8"}, "precision: 'fp8'"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"device": "gpu"}, "'gpu' is no device"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Enhancer(Square(), **{"device": "cpu", **settings})
