"""What only a GPU can show is written so that it runs through on a CPU, too."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import ROOT, load_script

SCRIPT = ROOT / "scripts" / "gpu_check.sh"


@pytest.mark.slow
def test_dry_run(workspace):
    parts = ["Inverse of f_GM", "Networks", "Precision and compilation", "Draws of pseudo pairs"]
    subprocess.run([SCRIPT, "--cpu", "--out", "out", "--parts", *parts], check=True, capture_output=True)
    found = json.loads(Path("out/gpu_check.json").read_text())
    assert list(found["parts"]) == parts
    assert not found["failed"]
    assert [row["inputs, difference"] for row in found["parts"]["Draws of pseudo pairs"]] == 4 * ["0.0e+00"]
    assert "## Networks" in Path("out/gpu_check.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(workspace, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert load_script("benchmarks/gpu_check").main([]) == 1
    assert "there is no CUDA GPU" in capsys.readouterr().err
