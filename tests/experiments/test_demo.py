"""``basicsr demo``: a short run, and that it deletes nothing of others."""

import json
from pathlib import Path

import pytest

from semiisp_plugin.cli import main


@pytest.mark.slow
def test_the_whole_demo(workspace, capsys):
    assert main(["demo", "--iterations", "4"]) == 0
    out = Path("demo_output")
    results = json.loads((out / "results.json").read_text())["results"]
    assert {"supervised", "semi-supervised", "f_ISP alone"} <= results.keys()
    assert all(system["psnr"] > 0 for system in results.values())
    assert (out / "comparison.png").exists()
    assert (out / "pseudo_pairs.png").exists()
    assert "16 labelled pairs, 24 photographs, 16 test pairs" in capsys.readouterr().out


def test_a_foreign_folder_is_left_alone(workspace, capsys):
    (workspace / "mine").mkdir()
    (workspace / "mine" / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", "mine"]) == 1
    assert "choose another folder with --out" in capsys.readouterr().err
    assert (workspace / "mine" / "thesis.txt").exists()
