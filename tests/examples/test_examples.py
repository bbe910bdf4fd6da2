"""The examples run as their docstrings say, with fewer steps."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from semiisp_plugin import load_f_isp
from semiisp_plugin.io.image_io import read_image
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# One interpreter for all: importing takes longer than they do. What an example says it does without is told at the end.
RUN = """
import json, runpy, sys
for example, *arguments in json.loads(sys.argv[1]):
    sys.argv = [example, *arguments]
    sys.path.insert(0, example.rpartition("/")[0])
    runpy.run_path(example, run_name="__main__")
print("BasicSR" if "basicsr" in sys.modules else "torch alone")
"""


def run(*commands: str) -> str:
    """Examples with their arguments, one after the other."""
    named = [[str(EXAMPLES / f"{words[0]}.py"), *words[1:]] for words in map(str.split, commands)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, json.dumps(named)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_they_run_with_torch_alone(workspace):
    steps = "--steps 4"
    said = run(f"train_f_isp {steps}", "invert_photograph --f_isp f_isp.pth", f"semi_supervised_loop {steps}")
    assert "torch alone" in said
    network, banks, n_pairs = load_f_isp("f_isp.pth")
    assert (network.grid, len(banks["global"]), len(banks["local"]), n_pairs) == ((4, 4), 16, 16, 3 * len(PHOTOGRAPHS))
    assert read_image("invert_photograph.png").shape[1] > 1500
    assert "6 test pairs: supervised" in said


def test_half_of_what_it_needs(monkeypatch, capsys):
    path = str(EXAMPLES / "semi_supervised_loop.py")
    monkeypatch.setattr(sys, "argv", [path, "--pairs", "pairs"])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(path, run_name="__main__")
    assert "give --pairs and --photos together" in capsys.readouterr().err
