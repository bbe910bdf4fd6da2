"""``basicsr learn`` from end to end at toy size, what it says of wrong folders, and what it chooses."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.apps.export.onnx_graph import ExportError
from semiisp_plugin.cli import main
from semiisp_plugin.experiments import learn
from semiisp_plugin.experiments.benchmark_data import data_in, make_fold
from semiisp_plugin.experiments.learn_data import as_given, described, inputs_are, look_data
from semiisp_plugin.experiments.tried import psnr_of_mean
from semiisp_plugin.io.image_io import read_image, to_float, to_tensor, write_image
from semiisp_plugin.models.validation import measure
from semiisp_plugin.report.learn_report import HeldOut, Learned

PAIRS = 8


def picture(seed: int, height: int = 80, width: int = 100) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0.1, 0.9, (6, 8, 3))
    return (cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)


def make_folders(root: Path, pairs: int = PAIRS) -> Path:
    """Pairs of pictures and the same, darker; photographs; one of each damaged."""
    for k in range(pairs):
        target = picture(k)
        for kind, image in (("input", (target * 0.4).astype(np.uint8)), ("target", target)):
            (root / "pairs" / kind).mkdir(parents=True, exist_ok=True)
            write_image(root / "pairs" / kind / f"{k:02d}.png", image)
    (root / "photos").mkdir()
    for k in range(3):
        write_image(root / "photos" / f"{k}.jpg", picture(100 + k))
    (root / "photos" / "damaged.jpg").write_bytes((root / "photos" / "0.jpg").read_bytes()[:300])
    shutil.copy(root / "pairs" / "target" / "00.png", root / "pairs" / "target" / "damaged.png")
    (root / "pairs" / "input" / "damaged.png").write_bytes(b"")
    return root


def refuse(*_) -> float:
    raise ExportError("no ONNX here.")


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """A finished run, in one process, with trainings of a few iterations."""
    root = make_folders(tmp_path_factory.mktemp("learn"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "_LEVELS", ((0.003, 2, True),))
        patch.setattr(learn, "export_onnx", refuse)  # tests/apps/export has it, and it takes longer than all this
        patch.chdir(root)
        assert main(["learn", "--pairs", "pairs", "--photos", "photos", "--out", "look", "--workers", "0"]) == 0
    return root


@pytest.mark.slow
def test_what_it_leaves(learned):
    record = json.loads((learned / "look" / "learned.json").read_text())
    assert record["complete"]
    assert sum(record["kept"].values()) == pytest.approx(1, abs=1e-6)
    assert record["candidates"].keys() == learn.CANDIDATES.keys()
    assert record["psnr"] >= max(record["candidates"].values()) - 1e-9
    assert len(record["images"]) == PAIRS
    assert [pairs for pairs, _ in record["of_fewer"]] == [4]  # with 8 pairs no quarters
    loaded = load_network(weights=learned / "look" / "model.pth")
    assert loaded.inputs == "srgb"
    page = (learned / "look" / "report.html").read_text()
    assert page.count('type="range"') == 4 + 3  # pairs and photographs
    assert "damaged" in page
    assert "LUT_3D_SIZE 33" in (learned / "look" / "look.cube").read_text()[:1000]
    assert "not written: no ONNX here." in page
    assert "<script" not in page


@pytest.mark.slow
def test_the_model_enhances(learned, monkeypatch):
    monkeypatch.chdir(learned)
    command = ["enhance", "--weights", "look/model.pth", "photos/1.jpg", "--out", "enhanced", "--format", "png"]
    assert main(command) == 0
    image = read_image(learned / "photos" / "1.jpg")
    with torch.no_grad():
        expected = load_network(weights=learned / "look" / "model.pth").network(to_tensor(image)[None])[0]
    found = to_tensor(read_image(learned / "enhanced" / "1.png"))
    assert torch.allclose(found, expected, atol=0.51 / 255)


@pytest.mark.slow
def test_a_second_start_says_so_and_changes_nothing(learned, monkeypatch, capsys):
    monkeypatch.chdir(learned)
    before = (learned / "look" / "model.pth").stat().st_mtime_ns
    assert main(["learn", "--pairs", "pairs", "--photos", "photos", "--out", "look", "--workers", "0"]) == 0
    assert "learned already" in capsys.readouterr().out
    assert (learned / "look" / "model.pth").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_it_resumes_with_the_same_result(learned, tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "_LEVELS", ((0.003, 2, True),))
    monkeypatch.setattr(learn, "_export", lambda *_: [])
    monkeypatch.chdir(learned)
    expected = torch.load(learned / "look" / "model.pth")["params"]
    command = ["learn", "--pairs", "pairs", "--photos", "photos", "--out", "again", "--workers", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(learn, "choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    work = {path: path.stat().st_mtime_ns for path in (learned / "again" / "work").glob("semi-*/result.json")}
    assert work
    assert main(command) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in work.items())
    found = torch.load(learned / "again" / "model.pth")["params"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_mean_is_kept_only_where_it_is_better():
    """Errors of opposite signs cancel in the mean; of equal ones there is nothing to gain."""
    errors = np.random.default_rng(0).normal(0, 0.05, (10, 1, 300))
    others = np.random.default_rng(1).normal(0, 0.05, (10, 1, 300))
    for second, kept in ((others, 2), (1.3 * errors, 1)):
        both = np.concatenate((errors, second), 1)
        products = both @ both.transpose(0, 2, 1) / 300
        chosen = learn.choose(["first", "second"], products)
        assert len(chosen) == kept
        weights = [chosen.get(name, 0.0) for name in ("first", "second")]
        square_errors = np.square(np.einsum("i,kij->kj", weights, both)).mean(1)
        assert psnr_of_mean(products, weights) == pytest.approx(-10 * np.log10(square_errors))


def look(root: Path, *, pairs=None, photos="photos"):
    job = look_data(pairs or [str(root / "pairs")], str(root / photos), root / "work", 0)
    job.folder.mkdir(parents=True)
    return job, job.run(resume=False, progress=False)


def test_the_data_is_looked_at(tmp_path):
    root = make_folders(tmp_path)
    job, found = look(root)
    text = "\n".join(described(found))
    assert found["pairs"] == PAIRS
    assert found["photographs"] == 3
    assert "damaged" in text
    assert "8-bit images; 80x100 pixels" in text
    assert inputs_are(found) == "srgb"
    pair = job.data().originals[0]
    image, target = read_image(pair.input), read_image(pair.target)
    assert (image == read_image(root / "pairs" / "input" / "00.png")).all()
    assert (
        measure(to_tensor(image), to_tensor(target), {"psnr": {"type": "calculate_psnr", "crop_border": 0}})["psnr"]
        < 15
    )


def test_noisy_inputs_are_denoised_before_all_else(tmp_path):
    root = make_folders(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted((root / "pairs" / "input").glob("0*.png")):
        noisy = read_image(path) + rng.normal(0, 8, (80, 100, 3))
        write_image(path, noisy.clip(0, 255).astype(np.uint8))
    job, found = look(root)
    assert found["denoised"]
    said = f"denoised first, by non-local means: it brings them {found['denoising']:.1f} dB closer to the targets"
    assert said in "\n".join(described(found))
    data = job.data()
    for pair in data.originals:
        given = read_image(root / "pairs" / "input" / f"{pair.key}.png")
        assert (read_image(as_given(pair)) == given).all()
        dark = to_float(read_image(pair.target)) * 0.4
        errors = [np.square(to_float(image) - dark).mean() for image in (read_image(pair.input), given)]
        assert errors[0] < 0.3 * errors[1]
    assert read_image(data.labelled.input / "0000.png").dtype == np.uint16
    assert inputs_are(found) == "srgb"


def test_clean_inputs_are_not_denoised(tmp_path):
    root = make_folders(tmp_path)
    found = look(root)[1]
    assert not found["denoised"]
    assert found["denoising"] < 0.5
    found["denoising"] = -0.4
    assert "not denoised: it would bring them 0.4 dB farther from the targets" in "\n".join(described(found))


def test_scenes_stay_together(tmp_path):
    root = make_folders(tmp_path)
    for k in range(PAIRS):
        for kind in ("input", "target"):
            folder = root / "pairs" / kind
            (folder / "abc"[k % 3]).mkdir(exist_ok=True)
            (folder / f"{k:02d}.png").rename(folder / "abc"[k % 3] / f"{k:02d}.png")
    job, found = look(root)
    assert found["scenes"] == 3
    assert "3 scenes (subfolders)" in "\n".join(described(found))
    for fold in range(2):
        make_fold(job.data(), tmp_path / f"fold {fold}", fold, 2)
        data = data_in(tmp_path / f"fold {fold}")
        scenes = [{pair.key.partition("/")[0] for pair in part} for part in (data.originals, data.test)]
        assert scenes == ([{"b"}, {"a", "c"}], [{"a", "c"}, {"b"}])[fold]
        assert len(data.originals) + len(data.test) == PAIRS
        assert len(list(data.labelled.input.iterdir())) == len(data.originals) == len(data.scenes)


def test_other_files_are_other_data(tmp_path):
    root = make_folders(tmp_path)
    first = look_data([str(root / "pairs")], None, root / "work", 0)
    write_image(root / "pairs" / "target" / "00.png", picture(55))
    assert look_data([str(root / "pairs")], None, root / "work", 0).key != first.key


def test_raw_and_other_inputs_are_not_mixed(tmp_path):
    root = make_folders(tmp_path)
    image = read_image(root / "pairs" / "input" / "03.png").astype(np.uint16) * 257
    write_image(root / "pairs" / "input" / "03.png", image)
    with pytest.raises(ValueError, match=r"1 inputs are RAW or have 16 bits \('03'\), 7 have 8"):
        inputs_are(look(root)[1])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--pairs", "nowhere"], "--pairs: there is no folder 'nowhere'"),
        (["--pairs", "few"], "2 pairs can be used; at least 6 are needed"),
        (["--pairs", "pairs", "--photos", "empty"], "'empty' holds no image"),
        (["--pairs", "pairs", "a", "b"], "--pairs: give one folder that holds two"),
        (["--pairs", "pairs", "--photos", "damaged"], "none of the 1 images in .* can be read"),
    ],
)
def test_wrong_folders(tmp_path, monkeypatch, capsys, argv, words):
    root = make_folders(tmp_path)
    monkeypatch.chdir(root)
    (root / "empty").mkdir()
    (root / "damaged").mkdir()
    (root / "damaged" / "a.jpg").write_bytes(b"no image")
    for kind in ("input", "target"):
        (root / "few" / kind).mkdir(parents=True)
        for k in range(2):
            shutil.copy(root / "pairs" / kind / f"{k:02d}.png", root / "few" / kind)
    assert main(["learn", *argv, "--out", "look", "--workers", "0"]) == 1
    said = capsys.readouterr()
    assert re.search(words, said.err), said.err
    assert len(re.findall(words, said.out + said.err)) == 1
    assert "resume" not in said.err, "advice that does not help here"


def test_tinted_highlights_are_told():
    given = np.zeros((40, 40, 3), np.uint8)
    given[:20] = 255
    output, target = given.copy(), given.copy()
    output[:20, :, 2] = 235
    output[20:, :, 0] = 90  # not white
    assert learn.tint_of(output, given) == 20
    assert learn.tint_of(target, given) == 0
    assert learn.tint_of(output, given // 2) is None
    pair = HeldOut("a", 20.0, 20.0, given, output, output, target)
    assert learn._flaws([pair]) == [("Highlights are tinted", "by 20 of 255 levels; the targets by 0")]
    assert learn._flaws([replace(pair, output=target)]) == []


def make_learned(gain: float, *, semi: bool = True, photographs: int = 9) -> Learned:
    rng = np.random.default_rng(0)
    alone = rng.normal(20, 3, 30)
    noise = rng.normal(0, 0.3, 30)
    kept = alone + gain + noise - noise.mean()
    labels = {name: label for name, (_, label) in learn.CANDIDATES.items() if semi or name != "semi"}
    return Learned(
        labels=labels,
        images=[str(k) for k in range(30)],
        psnr={name: kept if name == "semi" else alone for name in labels},
        chosen={"semi": 1.0} if semi else {"alone": 1.0},
        chosen_psnr=kept if semi else alone,
        supervised={"alone": 1.0},
        supervised_psnr=alone,
        of_fewer=[(8, 18.0), (16, 19.0)],
        facts=[],
        photographs=photographs,
    )


def test_the_verdict_says_what_is_known():
    assert "by 0.6" in make_learned(0.6).verdict()
    assert "sure to 95 %" in make_learned(0.6).verdict()
    assert "may be chance" in make_learned(0.02).verdict()
    assert "did not help here" in make_learned(0.0, semi=False).verdict()
    assert "from the pairs alone" in make_learned(0.0, semi=False, photographs=0).verdict()
    assert "brought f_ISP 1.0 dB" in make_learned(0.0).more_pairs()
