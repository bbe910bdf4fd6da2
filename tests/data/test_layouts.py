"""Finding the pairs of data sets in the folders that they are distributed in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import touch

from semiisp_plugin.data.layouts import DATA_SETS, fivek, own
from semiisp_plugin.data.layouts.base import Listing, Request
from semiisp_plugin.data.layouts.lol import pair_name
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.subsets import fivek_split
from semiisp_plugin.io.image_io import encode_png, write_image


def find(name: str, source: Path | None = None, **options: object) -> Listing:
    return DATA_SETS[name].find(Request(source=str(source) if source else None, **options))  # type: ignore[arg-type]


def keys(listing: Listing) -> dict[str, list[str]]:
    return {split: [pair.key for pair in pairs] for split, pairs in listing.splits.items()}


# --- LOL ------------------------------------------------------------------------------------------------------------

LOLV1_LAYOUTS = [
    ("our485/{low,high}", "eval15/{low,high}"),
    ("Train/{input,target}", "Test/{input,target}"),
    ("train/{low,high}", "test/{low,high}"),
]


def fill(root: Path, folders: str, names: Iterable[str]) -> None:
    """``a/{low,high}``: the names in a/low and a/high."""
    base, _, two = folders.partition("/{")
    for folder in two.rstrip("}").split(","):
        touch(root / base / folder, names)


@pytest.mark.parametrize("above", ["", "LOLdataset", "data/LOL"])
@pytest.mark.parametrize("layout", LOLV1_LAYOUTS)
def test_lolv1(tmp_path, layout, above):
    fill(tmp_path / above, layout[0], ["2.png", "10.png"])
    fill(tmp_path / above, layout[1], ["1.png"])
    listing = find("lolv1", tmp_path)
    assert keys(listing) == {"train": ["10", "2"], "test": ["1"]}
    assert not listing.missing
    assert not listing.warnings
    low = layout[0].partition("{")[2].partition(",")[0]
    pair = listing.splits["train"][1]
    assert Path(pair.input).parent.name == low
    assert Path(pair.input).name == Path(pair.target).name == "2.png"


def test_lolv2_by_its_original_names(tmp_path):
    for split, number in (("Train", 1), ("Test", 690)):
        touch(tmp_path / f"LOL-v2/Real_captured/{split}/Low", [f"low{number:05d}.png"])
        touch(tmp_path / f"LOL-v2/Real_captured/{split}/Normal", [f"normal{number:05d}.png"])
        fill(tmp_path / "LOL-v2", f"Synthetic/{split}/{{Low,Normal}}", [f"r{number}t.png"])
    assert keys(find("lolv2_real", tmp_path)) == {"train": ["00001"], "test": ["00690"]}
    assert keys(find("lolv2_real", tmp_path / "LOL-v2/Real_captured")) == {"train": ["00001"], "test": ["00690"]}
    assert keys(find("lolv2_synthetic", tmp_path / "LOL-v2")) == {"train": ["r1t"], "test": ["r690t"]}
    with pytest.raises(ValueError, match="other part of LOLv2"):
        find("lolv2_synthetic", tmp_path / "LOL-v2/Real_captured")


def test_names_of_lol_pairs():
    assert [pair_name(n) for n in ("low00001.png", "Normal00001.PNG", "00001.png", "r000da54ft.png", "lower1.png")] == [
        "00001",
        "00001",
        "00001",
        "r000da54ft",
        "lower1",
    ]


def test_a_missing_partner_is_named_with_its_split_and_side(tmp_path):
    fill(tmp_path, "our485/{low,high}", ["1.png", "2.png"])
    touch(tmp_path / "our485/low", ["3.png"])
    touch(tmp_path / "our485/high", ["4.png"])
    listing = find("lolv1", tmp_path)
    assert keys(listing)["train"] == ["1", "2"]
    assert listing.missing.keys() == {"train/3", "train/4"}
    assert "no target" in listing.missing["train/3"]
    assert "no input" in listing.missing["train/4"]


def test_one_half_alone_is_a_warning_that_says_what_is_there(tmp_path):
    fill(tmp_path, "our485/{low,high}", ["1.png"])
    fill(tmp_path, "val20/{low,high}", ["9.png"])
    listing = find("lolv1", tmp_path)
    assert keys(listing) == {"train": ["1"], "test": []}
    assert len(listing.warnings) == 1
    assert "no test pairs" in listing.warnings[0]
    assert "our485/, val20/" in listing.warnings[0]


def test_two_files_of_one_name(tmp_path):
    fill(tmp_path, "Real_captured/Train/{Low,Normal}", ["00001.png"])
    touch(tmp_path / "Real_captured/Train/Low", ["low00001.png"])
    with pytest.raises(
        ValueError, match=r"two train inputs have the name '00001': .*00001\.png' and '.*low00001\.png'"
    ):
        find("lolv2_real", tmp_path)


def test_a_name_in_both_halves_is_a_warning(tmp_path):
    for split in ("our485", "eval15"):
        fill(tmp_path, f"{split}/{{low,high}}", ["1.png"])
    assert any("'1' is one" in warning for warning in find("lolv1", tmp_path).warnings)


def test_a_wrong_source_says_what_was_looked_for_and_what_is_there(tmp_path):
    touch(tmp_path, ["pictures/1.png"])
    with pytest.raises(ValueError, match=r"looked there.*our485/\{low,high\}.*it has pictures/"):
        find("lolv1", tmp_path)
    with pytest.raises(ValueError, match=r"Real_captured/ with Train/\{Low,Normal\}"):
        find("lolv2_real", tmp_path)
    with pytest.raises(FileNotFoundError, match="--source: there is no folder"):
        find("lolv1", tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="unpack archives first"):
        find("lolv1", tmp_path / "pictures/1.png")
    with pytest.raises(ValueError, match="give it with --source DIR"):
        find("lolv1")


def test_a_data_set_that_is_there_twice(tmp_path):
    for copy in ("a", "b"):
        fill(tmp_path, f"{copy}/our485/{{low,high}}", ["1.png"])
    with pytest.raises(ValueError, match=r"more than once: .*/a', .*/b'"):
        find("lolv1", tmp_path)


# --- FiveK ----------------------------------------------------------------------------------------------------------


TEST_NAME = fivek_split()[1][0]


def fivek_tree(root: Path, names: Iterable[str]) -> None:
    names = list(names)
    touch(root / fivek.SRGB_FOLDER, [f"{name}.jpg" for name in names])
    touch(root / fivek.XYZ_FOLDER, [f"{name}.png" for name in names])
    touch(root / fivek.TARGET_FOLDER, [f"{name}.jpg" for name in names])
    touch(root / "raw_photos/HQa1to700/photos", [f"{name}-jmac_DSC1459.dng" for name in names])


@pytest.mark.slow
def test_fivek_complete(tmp_path):
    train, test = fivek_split()
    for folder in (fivek.SRGB_FOLDER, fivek.TARGET_FOLDER):
        (tmp_path / "FiveK" / folder).mkdir(parents=True)
        for name in [*train, *test, "a0160"]:
            (tmp_path / "FiveK" / folder / f"{name}.jpg").touch()
    listing = find("fivek_ie", tmp_path)
    assert keys(listing) == {"train": train, "test": test}
    assert not listing.missing
    assert not listing.warnings
    assert listing.left_out == {"a0160": "in no list of the split"}


def test_a_list_that_names_a_missing_file(tmp_path):
    fivek_tree(tmp_path, ["a0001", "a0002", "a0003", TEST_NAME])
    (tmp_path / fivek.TARGET_FOLDER / "a0002.jpg").unlink()
    listing = find("fivek_ie", tmp_path)
    assert keys(listing) == {"train": ["a0001", "a0003"], "test": [TEST_NAME]}
    assert listing.missing["train/a0002"] == "in the train list, but there is no target"
    assert listing.missing["train/a0005"] == "in the train list, but there is no input and no target"
    assert len(listing.missing) == 4998 - 3


def test_fivek_dng_files_anywhere_below(tmp_path):
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    fivek_tree(tmp_path / "zeng", ["a0001", TEST_NAME])
    other = tmp_path / "fivek_dataset"
    touch(other, ["raw_photos/HQa1to700/photos/a0001-x.dng", f"raw_photos/x/{TEST_NAME}-y.DNG", "raw_photos/x/b.dng"])
    listing = find("fivek_general_isp", tmp_path / "zeng", input=str(other))
    assert keys(listing) == {"train": ["a0001"], "test": [TEST_NAME]}
    assert listing.splits["train"][0].input == str(other / "raw_photos/HQa1to700/photos/a0001-x.dng")
    touch(other, ["again/a0001-x.dng"])
    with pytest.raises(ValueError, match=r"two inputs a0001 to a5000 have the name 'a0001'"):
        find("fivek_general_isp", tmp_path / "zeng", input=str(other))


def test_fivek_without_its_folders(tmp_path):
    touch(tmp_path, ["input/JPG/480p/a0001.jpg"])
    with pytest.raises(ValueError, match=r"the folder expertC/JPG/480p of the targets; it is not there"):
        find("fivek_ie", tmp_path)
    with pytest.raises(ValueError, match=r"input/PNG/480p_16bits_XYZ_WB of the inputs; it is not there"):
        find("fivek_tone_mapping", tmp_path)
    touch(tmp_path, ["expertC/JPG/480p/readme.png"])
    with pytest.raises(ValueError, match=r"holds no image that could be one of the targets a0001 to a5000"):
        find("fivek_ie", tmp_path)


def srgb_scene(seed: int, saturation: float = 0.3, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    """An sRGB picture whose left quarter is grey."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.25, 0.75, (6, 8, 1)) + saturation * rng.uniform(-0.5, 0.5, (6, 8, 3))
    image = cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR).clip(0.05, 0.95)
    quarter = shape[1] // 4
    image[:, :quarter] = image[:, :quarter].mean(axis=2, keepdims=True)
    return np.asarray(image)


def xyz_of(image: np.ndarray) -> np.ndarray:
    """CIE XYZ of an sRGB image (IEC 61966-2-1), halved so that Z of white fits."""
    linear = np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    return np.rint(65535 * 0.5 * linear @ matrix.T).astype(np.uint16)


def write_xyz(root: Path, names: Iterable[str], *, swapped: bool = False, saturation: float = 0.3) -> list[Pair]:
    pairs = []
    for number, name in enumerate(names):
        image = srgb_scene(number, saturation)
        xyz = xyz_of(image)
        places = root / fivek.XYZ_FOLDER / f"{name}.png", root / fivek.TARGET_FOLDER / f"{name}.jpg"
        write_image(places[0], xyz[..., ::-1] if swapped else xyz)
        write_image(places[1], np.rint(255 * image).astype(np.uint8), jpeg_quality=98)
        pairs.append(Pair(name, *map(str, places)))
    return pairs


@pytest.mark.parametrize("swapped", [False, True])
def test_the_channel_order_is_told_from_the_pictures(tmp_path, swapped):
    pairs = write_xyz(tmp_path, ["a0001", "a0002", "a0003"], swapped=swapped)
    order, evidence = fivek.channel_order(pairs)
    assert order == ("bgr" if swapped else "rgb")
    assert "of 3 pairs" in evidence
    assert f"= {1 / 0.87 if swapped else 0.87:.2f} in" in evidence
    Path(pairs[1].input).write_bytes(b"")
    assert fivek.channel_order(pairs)[0] == order


@pytest.mark.parametrize(("forced", "swapped"), [("auto", True), ("auto", False), ("bgr", True), ("rgb", True)])
def test_xyz_comes_out_in_the_order_x_y_z(tmp_path, forced, swapped):
    pairs = write_xyz(tmp_path, ["a0001", "a0002"], swapped=swapped)
    listing = find("fivek_tone_mapping", tmp_path, channel_order=forced)
    assert not listing.errors
    image = listing.reader(pairs[0]).input
    right = xyz_of(srgb_scene(0))
    np.testing.assert_array_equal(image, right[..., ::-1] if forced == "rgb" else right)
    assert listing.settings == {"channel_order": "bgr" if swapped and forced != "rgb" else "rgb"}


def test_an_undecided_channel_order_is_an_error_that_says_how_to_go_on(tmp_path):
    """Grey pictures of equal channels, as files that are no XYZ would be."""
    pairs = write_xyz(tmp_path, ["a0001", "a0002"])
    for pair in pairs:
        Path(pair.input).write_bytes(encode_png(np.full((96, 128, 3), 20000, np.uint16)))
    assert fivek.channel_order(pairs)[0] is None
    listing = find("fivek_tone_mapping", tmp_path)
    assert "--channel_order rgb" in listing.errors["the channel order"]
    assert not find("fivek_tone_mapping", tmp_path, channel_order="rgb").errors


def test_8_bit_xyz_files_are_refused(tmp_path):
    pair = write_xyz(tmp_path, ["a0001"])[0]
    Path(pair.input).write_bytes(encode_png(np.zeros((96, 128, 3), np.uint8)))
    with pytest.raises(ValueError, match="has 8 bits a channel"):
        fivek.read_xyz(pair, order="rgb")


# --- own ------------------------------------------------------------------------------------------------------------


def test_own_pairs_by_stem_whatever_the_case(tmp_path):
    touch(tmp_path / "RAW", ["DSC_1.NEF", "trip/DSC_2.nef", "x.y.png", "lonely.png"])
    touch(tmp_path / "edited", ["dsc_1.jpg", "trip/DSC_2.tif", "x.y.jpg", "other.png"])
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    listing = find("own", tmp_path, test_pairs=0)
    assert keys(listing) == {"train": ["dsc_1", "trip/DSC_2", "x%2Ey"], "test": []}
    assert [Path(pair.input).name for pair in listing.splits["train"]] == ["DSC_1.NEF", "DSC_2.nef", "x.y.png"]
    assert listing.left_out.keys() == {"lonely", "other"}
    assert "2 inputs are RAW (linear) and 1 ordinary" in listing.warnings[0]


def test_own_names_that_differ_in_case_alone_are_matched_exactly(tmp_path):
    touch(tmp_path / "in", ["a.png", "A.png", "b.png"])
    touch(tmp_path / "out", ["a.jpg", "A.jpg", "B.jpg"])
    if len(list((tmp_path / "in").iterdir())) < 3:
        pytest.skip("needs a file system that tells a from A")
    listing = find("own", input=str(tmp_path / "in"), target=str(tmp_path / "out"), test_pairs=0)
    assert [(Path(p.input).stem, Path(p.target).stem) for p in listing.splits["train"]] == [
        ("A", "A"),
        ("B".lower(), "B"),
        ("a", "a"),
    ]


def test_own_duplicates_are_left_out(tmp_path):
    """A telephone's HEIC and its JPEG: it is not clear which one was edited. The others go on."""
    touch(tmp_path / "input", ["1.png", "1.jpg", "1.heic", "2.png", "3.png", "x.psd", "Thumbs.db"])
    touch(tmp_path / "target", ["1.png", "2.png", "3.png"])
    listing = find("own", tmp_path)
    assert {pair.key for pairs in listing.splits.values() for pair in pairs} == {"2", "3"}
    assert re.fullmatch(
        r"two inputs have the name '1': '.*1\.heic' and '.*1\.jpg'\..* remove or rename one\.", listing.left_out["1"]
    )
    assert any("input', for their format: 1 .psd ('x.psd')" in warning for warning in listing.warnings)


def test_own_folders_without_a_common_name(tmp_path):
    touch(tmp_path / "input", ["1.png"])
    touch(tmp_path / "target", ["edit_1.png"])
    with pytest.raises(ValueError, match=r"no file of .*1\.png'.* has the name of one of .*edit_1\.png"):
        find("own", tmp_path)


def test_own_folders_that_are_not_found(tmp_path):
    touch(tmp_path / "photos", ["1.png"])
    with pytest.raises(
        ValueError, match=r"\{raw, edited\}, \{input, target\}.*it has: 'photos'.*name the two explicitly"
    ):
        find("own", tmp_path)
    with pytest.raises(ValueError, match="either --source, or --input and --target"):
        find("own", tmp_path, input=str(tmp_path))
    with pytest.raises(ValueError, match="give it with --target DIR"):
        find("own", input=str(tmp_path / "photos"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' holds no image"):
        find("own", input=str(tmp_path / "photos"), target=str(tmp_path / "empty"))


def test_own_test_pairs(tmp_path):
    names = [f"{number}.png" for number in range(20)]
    touch(tmp_path / "input", names)
    touch(tmp_path / "target", names)
    listing = find("own", tmp_path)
    assert len(listing.splits["test"]) == 2
    assert len(listing.splits["train"]) == 18
    more = find("own", tmp_path, test_pairs=5)
    assert set(keys(listing)["test"]) < set(keys(more)["test"])
    (tmp_path / "test.txt").write_text("3\n17.png\n")
    assert keys(find("own", tmp_path, test_list=str(tmp_path / "test.txt")))["test"] == ["17", "3"]
    (tmp_path / "test.txt").write_text("3\n99\n")
    with pytest.raises(ValueError, match=r"1 of the 2 names in .* are of no pair, '99'"):
        find("own", tmp_path, test_list=str(tmp_path / "test.txt"))
    with pytest.raises(ValueError, match="all 20 pairs would be for testing"):
        find("own", tmp_path, test_pairs=20)


def test_own_short_side_and_colour_profile(tmp_path):
    from PIL import Image, ImageCms

    image = np.rint(255 * srgb_scene(0, shape=(96, 128))).astype(np.uint8)
    write_image(tmp_path / "a.png", image)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("lab", lab), ("srgb", srgb), ("none", None)):
        Image.fromarray(image).save(tmp_path / f"{name}.png", icc_profile=profile)
    read = {
        name: own.read_own(
            Pair("a", str(tmp_path / "a.png"), str(tmp_path / f"{name}.png")), min_alignment=0.7, short_side=48
        )
        for name in ("lab", "srgb", "none")
    }
    assert read["none"].input.shape == read["none"].target.shape == (48, 64, 3)
    assert (read["none"].notes, read["srgb"].notes) == ((), ())
    assert "colour profile 'Lab" in read["lab"].notes[0]
