"""``basicsr demo``: a short run on the user's own folders, and that wrong arguments delete nothing."""

import json
import shutil
from pathlib import Path

import pytest

from semiisp_plugin.cli import main


@pytest.mark.slow
def test_own_folders(tiny_data, workspace, capsys):
    argv = ["demo", "--pairs", str(tiny_data / "pairs"), "--photos", str(tiny_data / "photos"), "--iterations", "4"]
    assert main(argv) == 0
    out = Path("demo_output")
    results = json.loads((out / "results.json").read_text())["results"]
    assert {"supervised", "semi-supervised", "f_ISP alone"} <= results.keys()
    assert all(system["psnr"] > 0 for system in results.values())
    assert (out / "comparison.png").exists()
    assert (out / "pseudo_pairs.png").exists()
    printed = capsys.readouterr().out
    assert "5 labelled pairs, 4 photographs, 1 test pairs" in printed

    # Nothing below replaces what the run above made.
    few = workspace / "few"
    for kind in ("input", "target"):
        (few / kind).mkdir(parents=True)
        shutil.copy(tiny_data / "pairs" / kind / "00.png", few / kind)
    for wrong in (
        ["--pairs", "nowhere", "--photos", str(tiny_data / "photos")],
        ["--pairs", str(few), "--photos", str(tiny_data / "photos")],
        ["--pairs", str(tiny_data / "pairs"), "--photos", "nowhere"],
        ["--pairs", str(out / "data"), "--photos", str(out / "data" / "photos")],
        ["--pairs", str(tiny_data / "pairs")],
    ):
        assert main(["demo", *wrong]) == 1
        assert (out / "results.json").exists(), wrong


def test_a_foreign_folder_is_left_alone(workspace, capsys):
    (workspace / "mine").mkdir()
    (workspace / "mine" / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", "mine"]) == 1
    assert "choose another folder with --out" in capsys.readouterr().err
    assert (workspace / "mine" / "thesis.txt").exists()
