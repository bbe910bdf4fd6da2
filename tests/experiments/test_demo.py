"""``basicsr demo``: a short run, and that it deletes nothing of others."""

import json
from pathlib import Path

import pytest

from semiisp_plugin.cli import main
from semiisp_plugin.experiments import learn
from semiisp_plugin.experiments.demo import ALONE, LEARNED, in_words
from semiisp_plugin.pseudo.f_isp import load_f_isp


@pytest.mark.slow
def test_the_whole_demo(workspace, capsys, monkeypatch):
    monkeypatch.setattr(learn, "SHORT", (0.002, 2, False))
    monkeypatch.setattr(learn, "_export", lambda *_: [])
    assert main(["demo", "--workers", "0"]) == 0
    out = Path("demo_output")
    results = json.loads((out / "results.json").read_text())["results"]
    assert list(results) == [ALONE, LEARNED]
    assert all(len(system["psnr"]) == 9 for system in results.values())
    for name in ("comparison.png", "pseudo_pairs.png", "look/model.pth", "look/report.html"):
        assert (out / name).exists()
    load_f_isp(out / "f_isp_latest.pth")
    text = capsys.readouterr().out
    assert "9 SIMULATED pairs (dark sRGB to good sRGB), 20 photographs without a pair, and 9 test pairs" in text
    assert "a demonstration" in text


def test_trainings_do_not_depend_on_the_machine(monkeypatch):
    found = {"measured": {"a": {"size": [256, 192]}}, "pairs": 9, "scenes": 1, "photographs": 20}
    plans = []
    for slowness in (0.2, 10):
        monkeypatch.setattr(learn, "_slowness", lambda _, value=slowness: value)
        plans.append(learn.make_plan(found, None, 2, "srgb"))
    assert plans[0].settings == plans[1].settings
    assert (plans[0].folds, plans[0].length) == (plans[1].folds, plans[1].length) == (2, 0.25)
    monkeypatch.setattr(learn, "_slowness", lambda _: 10)
    assert learn.make_plan(found, 4, 2, "srgb").length < 0.25


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([0.5, 0.6, 0.7], r"Gain over the best that the pairs alone train: +0.60"),
        ([-0.5, -0.6, -0.7], "Here the pairs alone do better: -0.60"),
        ([0.0, 0.0, 0.0], "What was kept is what the pairs alone train."),
        ([2.0, -1.0, 0.1], "which may be chance"),
    ],
)
def test_what_it_says_is_what_it_found(gains, words):
    alone = [20.0, 21.0, 22.0]
    of = {ALONE: alone, LEARNED: [value + gain for value, gain in zip(alone, gains, strict=True)]}
    assert words in in_words({name: {"psnr": psnr, "ssim": [0.5] * 3} for name, psnr in of.items()})


def test_a_foreign_folder_is_left_alone(workspace, capsys):
    (workspace / "mine").mkdir()
    (workspace / "mine" / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", "mine"]) == 1
    assert "choose another folder with --out" in capsys.readouterr().err
    assert (workspace / "mine" / "thesis.txt").exists()
