"""``basicsr prepare`` from the command line to the LMDBs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from semiisp_plugin import cli
from semiisp_plugin.data import prepare
from semiisp_plugin.data.layouts import DATA_SETS
from semiisp_plugin.data.layouts.base import Request
from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.subsets import fivek_split, subset
from semiisp_plugin.io import lmdb_io
from semiisp_plugin.io.image_io import decode_image, encode_png, read_image, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, read_meta, read_value
from semiisp_plugin.io.locks import file_lock

TEST_NAME = fivek_split()[1][0]
RAWPY = "needs rawpy (pip install -e '.[raw]')"


def image(number: int, height: int = 8, width: int = 12, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


@pytest.fixture
def lol(tmp_path) -> Path:
    """LOLv1 with six and two pairs."""
    root = tmp_path / "LOLdataset"
    for split, names in (("our485", [2, 5, 10, 13, 100, 101]), ("eval15", [1, 22])):
        for name in names:
            write_image(root / split / "low" / f"{name}.png", image(name))
            write_image(root / split / "high" / f"{name}.png", image(1000 + name))
    return root


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """The command line: exit status, what was printed, errors."""

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["prepare", *map(str, argv)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def keys(folder: Path) -> list[str]:
    return [entry.key for entry in read_meta(folder)]


def record(out: Path) -> dict:
    return json.loads((out / "prepared.json").read_text(encoding="utf-8"))


def test_lolv1(lol, tmp_path, run):
    out = tmp_path / "out"
    status, printed, errors = run("lolv1", "--source", lol, "--out", out)
    assert (status, errors) == (0, "")
    assert "train has 6 pairs; lolv1 has 485" in printed
    assert f'dataroot_lq: "{out}/train/lq.lmdb"' in printed
    for split, names in (("train", ["10", "100", "101", "13", "2", "5"]), ("test", ["1", "22"])):
        assert keys(out / split / "lq.lmdb") == keys(out / split / "gt.lmdb") == names
        for name in names:
            for folder, first in (("lq.lmdb", 0), ("gt.lmdb", 1000)):
                stored = decode_image(read_value(out / split / folder, name), name=name)
                np.testing.assert_array_equal(stored, image(first + int(name)))
    told = record(out)
    assert told["complete"] is True
    assert told["counts"]["train"] == {"listed": 6, "written": 6, "expected": 485}
    assert told["skipped"] == {"train": {}, "test": {}}
    data_set = PairedRestorationDataset(
        {
            "dataroot_lq": str(out / "test/lq.lmdb"),
            "dataroot_gt": str(out / "test/gt.lmdb"),
            "io_backend": {"type": "lmdb"},
        }
    )
    assert [data_set[i]["key"] for i in range(2)] == ["1", "22"]


def test_the_same_command_again_changes_nothing(lol, tmp_path, run):
    out = tmp_path / "out"
    run("lolv1", "--source", lol, "--out", out)
    before = record(out), keys(out / "train/lq.lmdb")
    status, printed, _ = run("lolv1", "--source", lol, "--out", out)
    assert status == 0
    assert "resuming an earlier run" in printed
    assert (record(out), keys(out / "train/lq.lmdb")) == before


def test_a_killed_run_resumes_and_both_orders_stay_equal(lol, tmp_path, run):
    """Killed after a commit of one LMDB and before that of the other, with a pair skipped that is fixed now."""
    out = tmp_path / "out"
    broken = lol / "our485/low/10.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    run("lolv1", "--source", lol, "--out", out)
    lmdb_io.close_all()
    told = record(out)
    assert list(told["skipped"]["train"]) == ["10"]
    (out / "prepared.json").write_text(json.dumps({**told, "complete": False}))
    for folder, stored in (("lq.lmdb", ["100", "101", "13"]), ("gt.lmdb", ["100"])):
        for path in (out / "train" / folder).iterdir():
            path.unlink()
        with LmdbImageWriter(out / "train" / folder) as writer:
            for key in stored:
                pixels = image(int(key) + (0 if folder == "lq.lmdb" else 1000))
                writer.put(key, encode_png(pixels), pixels.shape)
    lmdb_io.close_all()
    broken.write_bytes(whole)
    assert run("lolv1", "--source", lol, "--out", out)[0] == 0
    expected = ["100", "10", "101", "13", "2", "5"]  # what only one of them had is made again, in its order
    assert keys(out / "train/lq.lmdb") == keys(out / "train/gt.lmdb") == expected
    for key in expected:
        np.testing.assert_array_equal(
            decode_image(read_value(out / "train/gt.lmdb", key), name=key), image(1000 + int(key))
        )
    assert record(out)["skipped"]["train"] == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_is_really_killed(lol, tmp_path, monkeypatch, run):
    """The process ends in the middle, without closing anything; batches are of two pairs."""
    out = tmp_path / "out"
    monkeypatch.setattr(prepare, "LmdbImageWriter", partial(LmdbImageWriter, batch=2))
    child = os.fork()
    if child == 0:
        count = 0
        original = prepare._read

        def dying(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == 4:
                os._exit(9)
            return original(*args, **kwargs)

        monkeypatch.setattr(prepare, "_read", dying)
        prepare.prepare_pairs(DATA_SETS["lolv1"], Request(source=str(lol)), out)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert keys(out / "train/lq.lmdb") == keys(out / "train/gt.lmdb") == ["10", "100"]
    assert record(out)["complete"] is False
    assert run("lolv1", "--source", lol, "--out", out)[0] == 0
    assert keys(out / "train/lq.lmdb") == keys(out / "train/gt.lmdb") == ["10", "100", "101", "13", "2", "5"]
    assert record(out)["complete"] is True


def test_killed_before_the_first_list_was_made(lol, tmp_path, run):
    out = tmp_path / "out"
    run("lolv1", "--source", lol, "--out", out)
    lmdb_io.close_all()
    for folder in ("lq.lmdb", "gt.lmdb"):
        (out / "test" / folder / "meta_info.txt").unlink()
    assert run("lolv1", "--source", lol, "--out", out)[0] == 0
    assert keys(out / "test/lq.lmdb") == ["1", "22"]


def test_other_settings_are_refused(lol, tmp_path, run):
    out = tmp_path / "out"
    run("lolv1", "--source", lol, "--out", out)
    write_image(lol / "our485/low/7.png", image(7))
    write_image(lol / "our485/high/7.png", image(1007))
    status, _, errors = run("lolv1", "--source", lol, "--out", out)
    assert status == 1
    assert "was made with other settings or of other files (train: 6, " in errors
    assert "choose another folder (--out), or delete it" in errors
    _, _, errors = run("own", "--input", lol / "our485/low", "--target", lol / "our485/high", "--out", out)
    assert "data_set: lolv1 then, own now" in errors


def test_foreign_folders_are_not_written_into(lol, tmp_path, run):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    _, _, errors = run("lolv1", "--source", lol, "--out", tmp_path / "mine")
    assert "holds files, but none of `basicsr prepare`" in errors
    _, _, errors = run("lolv1", "--source", lol, "--out", tmp_path / "mine/letter.txt")
    assert "is a file; give a folder" in errors
    (tmp_path / "mine/prepared.json").write_text("{")
    _, _, errors = run("lolv1", "--source", lol, "--out", tmp_path / "mine")
    assert "prepared.json is damaged" in errors


def test_two_commands_at_once(lol, tmp_path, run):
    out = tmp_path / "out"
    out.mkdir()
    with file_lock(out / ".lock"):
        (out / ".lock").write_text("`basicsr prepare`, process 7 on a machine")
        status, _, errors = run("lolv1", "--source", lol, "--out", out)
    assert status == 1
    assert "is being written by `basicsr prepare`, process 7 on a machine. Wait" in errors


def test_bad_images_are_skipped_and_the_rest_is_prepared(lol, tmp_path, run):
    broken = lol / "our485/low/5.png"
    broken.write_bytes(broken.read_bytes()[:60])
    write_image(lol / "our485/high/13.png", image(3, 9, 12))
    (lol / "eval15/high/22.png").write_bytes(b"")
    status, printed, _ = run("lolv1", "--source", lol, "--check")
    assert status == 1
    out = tmp_path / "out"
    status, printed, _ = run("lolv1", "--source", lol, "--out", out)
    assert status == 0
    assert "train: 2 pairs skipped" in printed
    skipped = record(out)["skipped"]
    assert skipped["train"].keys() == {"13", "5"}
    assert "differ in size" in skipped["train"]["13"]
    assert "8x12" in skipped["train"]["13"]
    assert "truncated PNG" in skipped["train"]["5"]
    assert "empty" in skipped["test"]["22"]
    assert keys(out / "train/gt.lmdb") == ["10", "100", "101", "2"]
    assert keys(out / "test/lq.lmdb") == ["1"]


def test_nothing_usable_is_an_error(tmp_path, run):
    for folder in ("low", "high"):
        (tmp_path / "our485" / folder).mkdir(parents=True)
        (tmp_path / "our485" / folder / "1.png").write_bytes(b"")
    status, _, errors = run("lolv1", "--source", tmp_path, "--out", tmp_path / "out")
    assert status == 1
    assert "not one pair could be used; 1 skipped. train/1: " in errors


def test_check_lists_all_that_is_wrong_and_writes_nothing(lol, run):
    (lol / "our485/low/2.png").unlink()
    (lol / "our485/high/5.png").write_bytes(b"GIF")
    before = sorted(lol.rglob("*"))
    status, printed, errors = run("lolv1", "--source", lol, "--check")
    assert status == 1
    assert "2 things wrong with this lolv1" in errors
    assert "wrong: train/2: there is a target, but no input" in printed
    assert "wrong: train/5: " in printed
    assert "train: 4 of 5 pairs can be used (4: 8-bit inputs, 8-bit targets)" in printed
    assert sorted(lol.rglob("*")) == before


def test_check_of_what_is_right(lol, run):
    status, printed, _ = run("lolv1", "--source", lol, "--check")
    assert status == 0
    assert "Warning: train has 6 pairs" in printed
    assert "Nothing wrong was found. See the warnings above." in printed


def test_missing_partners_stop_it_unless_partial(lol, tmp_path, run):
    (lol / "our485/low/2.png").unlink()
    status, _, errors = run("lolv1", "--source", lol, "--out", tmp_path / "out")
    assert status == 1
    assert "1 incomplete pair. train/2: there is a target, but no input" in errors
    assert not (tmp_path / "out").exists()
    assert run("lolv1", "--source", lol, "--out", tmp_path / "out", "--partial")[0] == 0
    assert record(tmp_path / "out")["left_out"].keys() == {"train/2"}
    assert "2" not in keys(tmp_path / "out/train/lq.lmdb")


def test_workers_give_the_same(lol, tmp_path, run):
    broken = lol / "our485/low/5.png"
    broken.write_bytes(broken.read_bytes()[:60])
    for workers in (0, 2):
        assert run("lolv1", "--source", lol, "--out", tmp_path / f"out{workers}", "--workers", workers)[0] == 0
    assert keys(tmp_path / "out0/train/lq.lmdb") == keys(tmp_path / "out2/train/lq.lmdb")
    assert record(tmp_path / "out0") == record(tmp_path / "out2")
    for key in keys(tmp_path / "out0/train/gt.lmdb"):
        assert read_value(tmp_path / "out0/train/gt.lmdb", key) == read_value(tmp_path / "out2/train/gt.lmdb", key)


def real_lol(root: Path, train: int, test: int) -> None:
    """LOLv2-real by its original names, of tiny images."""
    png = encode_png(np.zeros((2, 2, 3), np.uint8))
    for split, numbers in (("Train", range(1, train + 1)), ("Test", range(690, 690 + test))):
        for folder, prefix in (("Low", "low"), ("Normal", "normal")):
            (root / split / folder).mkdir(parents=True)
            for number in numbers:
                (root / split / folder / f"{prefix}{number:05d}.png").write_bytes(png)


def test_lolv2_real_whole_with_its_subsets(tmp_path, run):
    real_lol(tmp_path / "Real_captured", 689, 100)
    out = tmp_path / "out"
    status, printed, _ = run("lolv2_real", "--source", tmp_path, "--out", out)
    assert status == 0
    assert "Warning" not in printed
    names = [f"{number:05d}" for number in range(1, 690)]
    for size in (100, 500):
        assert (out / f"names/train_{size}.txt").read_text().split() == subset(names, size)
    assert record(out)["names"].keys() == {"train_100", "train_500"}
    data_set = PairedRestorationDataset(
        {
            "dataroot_lq": str(out / "train/lq.lmdb"),
            "dataroot_gt": str(out / "train/gt.lmdb"),
            "io_backend": {"type": "lmdb"},
            "meta_info_file": str(out / "names/train_100.txt"),
        }
    )
    assert [pair.key for pair in data_set.pairs] == subset(names, 100)


def test_a_part_of_the_data_set_gets_a_list_of_its_own_by_the_same_rule(tmp_path, run):
    real_lol(tmp_path / "Real_captured", 120, 1)
    out = tmp_path / "out"
    assert run("lolv2_real", "--source", tmp_path, "--out", out)[0] == 0
    names = [f"{number:05d}" for number in range(1, 121)]
    assert (out / "names/train_100.txt").read_text().split() == subset(names, 100)
    assert not (out / "names/train_500.txt").exists()


# --- FiveK ----------------------------------------------------------------------------------------------------------


def scene(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Float picture with structure of several sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for size, strength in ((5, 0.5), (16, 0.3), (48, 0.2)):
        coarse = rng.uniform(0, 1, (size * height // width + 1, size, 3)).astype(np.float32)
        coarse = 0.7 * coarse.mean(axis=2, keepdims=True) + 0.3 * coarse
        total += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return total.clip(0.02, 0.98)


def to_8(picture: np.ndarray) -> np.ndarray:
    return np.rint(255 * picture).astype(np.uint8)


def mosaic_of(picture: np.ndarray) -> np.ndarray:
    """What a sensor with an RGGB pattern sees of an sRGB picture: linear, 1000 black, 30000 white, green."""
    linear = picture**2.2 * [0.5, 0.9, 0.6]
    values = 1000 + 29000 * linear
    mosaic = values[..., 1].copy()
    mosaic[0::2, 0::2] = values[0::2, 0::2, 0]
    mosaic[1::2, 1::2] = values[1::2, 1::2, 2]
    return np.rint(mosaic).astype(np.uint16)


def test_fivek_tone_mapping_stores_16_bits_in_the_order_x_y_z(tmp_path, run):
    root = tmp_path / "FiveK"
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = {}
    for number, name in enumerate(("a0001", "a0002", TEST_NAME), 1):
        picture = scene(number)
        xyz[name] = np.rint(30000 * picture**2.2 @ matrix.T).astype(np.uint16)
        write_image(root / "input/PNG/480p_16bits_XYZ_WB" / f"{name}.png", xyz[name][..., ::-1])
        write_image(root / "expertC/JPG/480p" / f"{name}.jpg", to_8(picture))
    out = tmp_path / "out"
    status, printed, _ = run("fivek_tone_mapping", "--source", root, "--out", out, "--partial")
    assert status == 0
    assert "498 names, not 500" in printed
    assert "channel order of the XYZ files: bgr" in printed
    stored = decode_image(read_value(out / "train/lq.lmdb", "a0001"), name="a0001")
    np.testing.assert_array_equal(stored, xyz["a0001"])
    assert decode_image(read_value(out / "test/gt.lmdb", TEST_NAME), name="").dtype == np.uint8
    assert record(out)["settings"]["channel_order"] == "bgr"
    _, _, errors = run("fivek_tone_mapping", "--source", root, "--out", out, "--partial", "--channel_order", "rgb")
    assert "channel_order: bgr then, rgb now" in errors
    for name in xyz:
        write_image(root / "input/PNG/480p_16bits_XYZ_WB" / f"{name}.png", np.full((96, 128, 3), 999, np.uint16))
    status, _, errors = run("fivek_tone_mapping", "--source", root, "--out", tmp_path / "new", "--partial")
    assert status == 1
    assert "the channel order: undecided" in errors
    status, printed, _ = run("fivek_tone_mapping", "--source", root, "--check")
    assert status == 1
    assert "wrong: the channel order: undecided" in printed


def test_fivek_general_isp(tmp_path, run, write_dng):
    pytest.importorskip("rawpy", reason=RAWPY)
    from semiisp_plugin.io.raw_io import read_raw

    root = tmp_path / "FiveK"
    for number, name in enumerate(("a0001", "a0002", TEST_NAME), 1):
        picture = scene(number)
        write_dng(root / f"dng/{name}-x.dng", mosaic_of(picture), black=1000, white=30000)
        small = cv2.resize(picture, (64, 48), interpolation=cv2.INTER_AREA)
        target = small if number < 3 else scene(9, 48, 64)
        write_image(root / f"expertC/JPG/480p/{name}.jpg", to_8(target if number != 2 else np.rot90(target)))
    out = tmp_path / "out"
    status, printed, _ = run("fivek_general_isp", "--source", root, "--out", out, "--partial")
    assert status == 0
    assert "by choices of ours" in printed
    raw = read_raw(root / "dng/a0001-x.dng")
    stored = decode_image(read_value(out / "train/lq.lmdb", "a0001"), name="")
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, cv2.resize(raw, (64, 48), interpolation=cv2.INTER_AREA))
    assert decode_image(read_value(out / "train/lq.lmdb", "a0002"), name="").shape == (64, 48, 3)
    told = record(out)
    assert "do not show the same pixels" in told["skipped"]["test"][TEST_NAME]
    assert told["settings"]["raw"]["use_camera_wb"] is False
    assert told["alignment"]["train"]["measured"] == 2
    assert min(told["alignment"]["train"]["lowest"].values()) > 0.7
    # The alignments of pairs that were stored earlier are not forgotten, whatever line a killed run left unfinished.
    with open(out / "train/measured.jsonl", "a") as journal:
        journal.write('["a00')
    assert run("fivek_general_isp", "--source", root, "--out", out, "--partial")[0] == 0
    assert record(out) == told


def test_own_raw_files(tmp_path, run, write_dng):
    """Two good ones, one cropped, one damaged, one without an edit."""
    pytest.importorskip("rawpy", reason=RAWPY)
    for number in range(5):
        write_dng(tmp_path / f"photos/raw/IMG_{number}.DNG", mosaic_of(scene(number)), black=1000, white=30000)
    write_image(tmp_path / "photos/edited/img_0.png", to_8(scene(0)[2:, :-1]))
    write_image(tmp_path / "photos/edited/IMG_1.jpg", to_8(np.rot90(scene(1))))
    write_image(tmp_path / "photos/edited/IMG_2.jpg", to_8(cv2.resize(scene(2)[10:82, 16:112], (128, 96))))
    write_image(tmp_path / "photos/edited/IMG_3.jpg", to_8(scene(3)))
    damaged = tmp_path / "photos/raw/IMG_3.DNG"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    out = tmp_path / "out"
    status, printed, _ = run("own", "--source", tmp_path / "photos", "--out", out, "--test_pairs", 0)
    assert status == 0
    assert "input turned by quarter turns" in printed
    told = record(out)
    assert told["skipped"]["train"].keys() == {"IMG_2", "IMG_3"}
    assert "Was it cropped" in told["skipped"]["train"]["IMG_2"]
    assert "incomplete RAW file" in told["skipped"]["train"]["IMG_3"]
    assert told["left_out"].keys() == {"IMG_4"}
    assert list(told["notes"]["train"].values()) == [1, 1]
    assert "cut off: 2 above, 0 below, 0 left, 1 right" in printed
    assert run("own", "--source", tmp_path / "photos", "--out", out, "--test_pairs", 0)[0] == 0
    assert record(out) == told
    assert keys(out / "train/lq.lmdb") == keys(out / "train/gt.lmdb") == ["IMG_1", "img_0"]
    assert decode_image(read_value(out / "train/lq.lmdb", "img_0"), name="").shape == (94, 127, 3)
    status, printed, errors = run("own", "--source", tmp_path / "photos", "--check")
    assert status == 1
    assert "2 things wrong" in errors
    assert "1 name would be left out: IMG_4: there is an input, but no target" in printed


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lolv1", "--source", "x"], "--out DIR, or --check"),
        (["lolv1", "--source", "x", "--out", "y", "--check"], "--check writes nothing"),
        (
            ["lolv1", "--source", "x", "--check", "--short_side", "480"],
            "--short_side is not an option of lolv1, but of own",
        ),
        (["own", "--source", "x", "--check", "--partial"], "--partial is not an option of own, but of lolv1"),
        (["own", "--check"], "give it with --source DIR"),
        (["fivek_ie", "--check"], "give it with --source DIR"),
    ],
)
def test_wrong_arguments(run, arguments, message):
    status, _, errors = run(*arguments)
    assert status == 1
    assert message in errors


def test_the_help_names_every_data_set_and_the_498(capsys):
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in DATA_SETS:
        assert f" {name} " in text
    assert "498 (not 500) pairs" in text
    with pytest.raises(SystemExit):
        cli.main(["prepare", "lolv3", "--check"])
    assert "lolv2_real" in capsys.readouterr().err


def test_a_file_written_for_a_test_is_what_it_says(tmp_path):
    """The images above survive the formats that they are written in."""
    write_image(tmp_path / "a.png", image(1, dtype=np.uint16))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image(1, dtype=np.uint16))


# --- what a review found ---------------------------------------------------------------------------------------------


def test_the_printed_section_trains(lol, tmp_path, run, monkeypatch):
    """With a name that YAML would misread."""
    out = tmp_path / "d: #1"
    _, printed, _ = run("lolv1", "--source", lol, "--out", out)
    section = printed[printed.index("datasets:") :]
    options = yaml.safe_load(section)
    options["datasets"]["train"].update(gt_size=8, batch_size_per_gpu=2)
    options |= {"name": "x", "model_type": "SupervisedModel", "num_gpu": 0}
    options["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
    options["train"] = {"total_iter": 1, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}}
    (tmp_path / "x.yml").write_text(yaml.safe_dump(options))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-opt", "x.yml"]) == 0


def test_pairs_whose_files_have_changed_are_made_again(lol, tmp_path, run):
    out = tmp_path / "out"
    run("lolv1", "--source", lol, "--out", out)
    lmdb_io.close_all()
    for part, number in (("low", 77), ("high", 78)):
        write_image(lol / "our485" / part / "13.png", image(number, 10, 14))
    assert run("lolv1", "--source", lol, "--out", out)[0] == 0
    assert keys(out / "train/lq.lmdb") == keys(out / "train/gt.lmdb")
    assert sorted(keys(out / "train/lq.lmdb")) == ["10", "100", "101", "13", "2", "5"]
    stored = decode_image(read_value(out / "train/gt.lmdb", "13"), name="13")
    np.testing.assert_array_equal(stored, image(78, 10, 14))


def test_own_names_that_end_like_an_extension(tmp_path, run):
    for part in ("raw", "edited"):
        for name in ("x.png", "x.png.png", "y.png"):
            write_image(tmp_path / part / name, to_8(scene(1)))
    arguments = ["own", "--source", tmp_path, "--out", tmp_path / "o", "--test_pairs", 0]
    assert run(*arguments)[0] == 0
    assert keys(tmp_path / "o/train/lq.lmdb") == ["x", "x%2Epng", "y"]
