"""The examples run as their docstrings say, with fewer steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from semiisp_plugin import load_f_isp
from semiisp_plugin.io.image_io import read_image
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# What an example says it does without.
TELL = "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0]); " + (
    "runpy.run_path(sys.argv[0], run_name='__main__'); print('BasicSR' if 'basicsr' in sys.modules else 'torch alone')"
)


def run(example: str, *arguments: str) -> str:
    command = [sys.executable, "-c", TELL, str(EXAMPLES / f"{example}.py"), *arguments]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_f_isp_and_invert_with_it(workspace):
    assert "torch alone" in run("train_f_isp", "--steps", "4")
    network, banks, n_pairs = load_f_isp("f_isp.pth")
    assert (network.grid, len(banks["global"]), len(banks["local"]), n_pairs) == ((4, 4), 16, 16, 3 * len(PHOTOGRAPHS))
    assert "torch alone" in run("invert_photograph", "--f_isp", "f_isp.pth")
    assert read_image("invert_photograph.png").shape[1] > 1500


@pytest.mark.slow
def test_semi_supervised_loop(workspace):
    said = run("semi_supervised_loop", "--steps", "4")
    assert "6 test pairs: supervised" in said
    assert "torch alone" in said


@pytest.mark.slow
def test_half_of_what_it_needs(workspace, tiny_data):
    command = [sys.executable, EXAMPLES / "semi_supervised_loop.py", "--pairs", str(tiny_data / "pairs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give --pairs and --photos together" in done.stderr
