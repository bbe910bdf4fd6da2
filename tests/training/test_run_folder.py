"""The run's folder: TensorBoard after a resume, Weights & Biases, what is renamed."""

import sys
import types
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semiisp_plugin.cli import main
from semiisp_plugin.options import OptionError, Source, complete, load_yaml, read_options
from semiisp_plugin.training.run_folder import RunLog, open_run_folder


@pytest.fixture
def opt(option_files):
    options = option_files.base("run", "SupervisedModel", 4)
    options["logger"]["wandb"] = {"project": "isp"}
    opt = complete(options, Source("test"), root_path=".", is_train=True)
    return opt | {"dist": False, "rank": 0, "world_size": 1}


def test_weights_and_biases_follows_tensorboard(opt, monkeypatch):
    calls = []
    wandb = types.ModuleType("wandb")
    wandb.util = types.SimpleNamespace(generate_id=lambda: "abc")
    wandb.init = lambda **arguments: calls.append((arguments, list(Path("tb_logger/run").glob("events*"))))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    open_run_folder(opt, RunLog(), None, None).close().join()
    [(arguments, written_before)] = calls
    assert written_before == []
    assert (arguments["project"], arguments["name"], arguments["sync_tensorboard"]) == ("isp", "run", True)
    assert arguments["id"] == "abc"
    opt["logger"]["use_tb_logger"] = False
    open_run_folder(opt, RunLog(), None, None)
    assert len(calls) == 1


def test_weights_and_biases_is_missing(opt, monkeypatch, workspace):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(OptionError, match=r"logger:wandb: .*pip install wandb"):
        open_run_folder(opt, RunLog(), None, None)
    assert not Path("experiments").exists()


def test_copy_of_the_options_says_all(option_files, workspace):
    """With comments where it can be the file itself; else what the file, its parents and the command line come to."""
    path = Path(option_files.isp(total=1))
    path.write_text("# my notes\n" + path.read_text())
    assert main(["train", "-opt", str(path)]) == 0
    copy = Path("experiments/isp/isp.yml").read_text()
    assert "# my notes" in copy
    Path("child.yml").write_text("extends: isp.yml\nname: child\n")
    assert main(["train", "-opt", "child.yml", "--force_yml", "train:optim_g:lr=5e-4"]) == 0
    written = Path("experiments/child/child.yml")
    resolved, _ = load_yaml(written)
    expected, _ = read_options("child.yml", ["train:optim_g:lr=5e-4"])
    assert resolved == expected
    assert resolved["train"]["optim_g"]["lr"] == 5e-4


def test_tensorboard_after_a_resume_shows_each_iteration_once(option_files):
    """What a killed run wrote after its last checkpoint is not shown beside what is written again."""
    path = option_files.isp(total=4)
    assert main(["train", "-opt", path]) == 0
    for state in Path("experiments/isp/training_states").glob("[34].state"):
        state.unlink()
    assert main(["train", "-opt", path, "--auto_resume"]) == 0
    events = EventAccumulator("tb_logger/isp")
    events.Reload()
    assert [e.step for e in events.Scalars("losses/l_pix_local")] == [1, 2, 3, 4]
    assert [e.step for e in events.Scalars("data/real_coverage")] == [1, 2, 3, 4]
    coverage = [e.value for e in events.Scalars("data/real_coverage")]
    assert coverage == pytest.approx([2 / 6, 4 / 6, 1, 1])
