"""The run's folder: TensorBoard after a resume, the copy of the options."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semiisp_plugin.cli import main
from semiisp_plugin.options import load_yaml, read_options


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
