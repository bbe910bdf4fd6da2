"""What is no part of training ends no run, and costs no iteration; a run that fails at its start leaves older ones."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semiisp_plugin.cli import main
from semiisp_plugin.io import locks
from semiisp_plugin.io.checkpoint import CheckpointError, load_checkpoint
from semiisp_plugin.io.locks import owned
from semiisp_plugin.models.validation import ValidationError
from semiisp_plugin.options import Source, complete
from semiisp_plugin.training import loop, train
from semiisp_plugin.training.interrupt import Interrupted

SMALL = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}


@pytest.fixture
def started(option_files) -> Callable[..., object]:
    """Trains from options, of which top-level sections are updated; what is done meanwhile is done by ``on_log``."""

    def start(name: str = "run", total: int = 4, auto_resume: bool = False, on_log=None, **sections) -> object:
        options = option_files.base(name, "SupervisedModel", total)
        options["network_g"] = dict(SMALL)
        options["val"]["metrics"] = {"psnr": options["val"]["metrics"]["psnr"]}
        options["logger"] |= {"use_tb_logger": False, "image_freq": 100}
        for section, values in sections.items():
            options[section] |= values
        opt = complete(options, Source("test"), root_path=str(Path.cwd()), is_train=True)
        return train(opt, auto_resume=auto_resume, on_log=on_log)

    return start


def at(iteration: int, work: Callable[[], object]) -> Callable[..., None]:
    """For ``on_log``: do something once, at an iteration."""
    return lambda now, _: work() if now == iteration else None


def states(name: str = "run") -> list[int]:
    return sorted(int(path.stem) for path in Path("experiments", name, "training_states").glob("*.state"))


def log_of(name: str = "run") -> str:
    return "".join(path.read_text(encoding="utf-8") for path in Path("experiments", name).glob("train_*.log"))


# --- folders that are gone, and TensorBoard --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread
@pytest.mark.parametrize("gone", ["experiments/run/models", "experiments/run", "tb_logger/run"])
def test_a_folder_that_is_removed_is_made_again(started, gone):
    started(total=8, on_log=at(2, lambda: shutil.rmtree(gone)), logger={"use_tb_logger": True})
    assert 8 in states()
    assert Path("experiments/run/models/net_g_latest.pth").exists()
    said = "TensorBoard: " if "tb" in gone else "Removed while the run was going on, and made again"
    assert f"WARNING: {said}" in log_of()
    assert "iter:       8" in log_of()
    events = EventAccumulator("tb_logger/run")
    events.Reload()
    assert [e.step for e in events.Scalars("lr")][-2:] == [7, 8]  # its thread may notice an iteration later


def test_a_full_disk_ends_no_tensorboard_and_no_log(started, monkeypatch, capsys):
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill() -> None:
        monkeypatch.setattr(SummaryWriter, "add_scalar", full)
        monkeypatch.setattr("logging.StreamHandler.flush", full)

    started(on_log=at(2, fill), logger={"use_tb_logger": True})
    assert states() == [1, 2, 3, 4]
    assert capsys.readouterr().err.count(".log cannot be written, the run goes on: [Errno 28]") == 1


def test_a_drive_that_hangs_at_the_end_is_not_waited_for(started, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setattr(loop, "LAST_SECONDS", 0.2)
    monkeypatch.setattr(SummaryWriter, "close", lambda _: time.sleep(60))
    begun = time.monotonic()
    started(total=1, logger={"use_tb_logger": True})
    assert time.monotonic() - begun < 50


@pytest.mark.slow
def test_names_that_a_terminal_cannot_show(started, option_files):
    started("低光", total=2)
    options = option_files.base("低光", "SupervisedModel", 2)
    file = option_files.write("run", options | {"network_g": SMALL})
    command = [sys.executable, "-m", "semiisp_plugin.cli", "train", "-opt", file]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}  # a pipe of Windows, a locale that is not UTF-8
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"experiments/\\u4f4e\\u5149 exists; renamed it" in done.stdout
    assert "低光" in log_of("低光")


# --- errors outside the step -----------------------------------------------------------------------------------------


def test_an_error_of_validation_saves_first_and_names_the_image(started, monkeypatch):
    calls = []

    def fails(data: object, opt: object) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError("division by zero")
        return 1.0

    with monkeypatch.context() as patched:
        patched.setattr("semiisp_plugin.models.validation.calculate_metric", fails)
        with pytest.raises(ValidationError, match=r"test/input/01\.png \(data set 'test'\): division by zero"):
            started(logger={"save_checkpoint_freq": 100})
    assert states() == [2]
    assert "Stopped after iteration 2, which is saved, by ValidationError" in log_of()
    resumed = started(auto_resume=True, logger={"save_checkpoint_freq": 100})
    assert "The validation of iteration 2 had not been done yet." in log_of()
    unbroken = started("unbroken", logger={"save_checkpoint_freq": 100})
    for a, b in zip(resumed.net_g.parameters(), unbroken.net_g.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_error_of_a_callback_or_of_reading_saves_first(started, tiny_data, monkeypatch):
    def fail() -> None:
        raise LookupError("what the user wrote")

    with pytest.raises(LookupError, match="what the user wrote"):
        started(on_log=at(3, fail), logger={"save_checkpoint_freq": 100}, val={"val_freq": 100})
    assert states() == [3]

    from semiisp_plugin.training.stall import WatchedDataset

    read, count = WatchedDataset.__getitem__, []

    def broken(self: WatchedDataset, index: object) -> object:
        count.append(index)
        if len(count) > 6:
            raise OSError("pairs/input/05.png: gone")
        return read(self, index)

    monkeypatch.setattr(WatchedDataset, "__getitem__", broken)
    with pytest.raises(OSError, match=r"05\.png: gone"):
        started("reading", logger={"save_checkpoint_freq": 100}, val={"val_freq": 100})
    assert states("reading") == [3]


def test_an_image_that_cannot_be_written_is_named(started):
    Path("experiments/run").mkdir(parents=True)

    def block() -> None:
        shutil.rmtree("experiments/run/visualization")
        Path("experiments/run/visualization").write_text("a file")

    with pytest.raises(OSError, match="visualization"):
        started(on_log=at(1, block), val={"save_img": True}, logger={"save_checkpoint_freq": 100})


# --- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"network_g": {**SMALL, "num_in_ch": 1}}, r"inputs of \(2, 3, 32, 40\).*1 channels.*a run of this name is as"),
        ({"network_g": {**SMALL, "upscale": 2}}, "network_g .*keeps the size"),
        ({"path": {"pretrain_network_g": "nowhere.pth"}}, "no checkpoint nowhere.pth"),
    ],
)
def test_a_start_that_fails_leaves_the_good_run(started, mistake, message):
    started(total=2)
    before = {str(p): p.stat().st_mtime_ns for p in Path("experiments").rglob("*") if p.name != ".run.lock"}
    with pytest.raises((RuntimeError, ValueError), match=message):
        started(total=2, **mistake)
    assert before == {str(p): p.stat().st_mtime_ns for p in Path("experiments").rglob("*") if p.name != ".run.lock"}
    started(total=4, auto_resume=True)
    assert "resuming from" in log_of()


def test_an_older_run_is_put_back_if_the_new_folder_cannot_be_made(started, monkeypatch):
    started(total=2)
    monkeypatch.setattr("semiisp_plugin.training.run_folder.remove_unfinished", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        started(total=2)
    assert [path.name for path in Path("experiments").iterdir() if path.is_dir()] == ["run"]
    assert states() == [1, 2]


def test_a_run_that_begins_from_the_state_of_another_is_not_mixed_with_an_older_one(started):
    started("first", total=2)
    started("second", total=4, logger={"save_checkpoint_freq": 3})
    started("second", total=3, path={"resume_state": "experiments/first/training_states/2.state"})
    assert states("second") == [3]
    assert len(list(Path("experiments").glob("second_archived_*"))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"rng": None},
        {"optimizers": [{"state": 3}]},
        {"optimizers": [{"state": {}, "param_groups": []}]},
        {"loop": 3},
        {"loop": {"data": 3}},
        {"best_metric_results": {"test": {"psnr": {"better": "higher", "val": None, "iter": 2}}}},
        {"extra": {"guard": {"skipped": "x"}}},
        {"files": [3]},
        {"iter": "2"},
    ],
)
def test_a_state_that_is_damaged_is_named(started, change):
    started("first", total=2)
    path = Path("experiments/first/training_states/2.state")
    torch.save({**load_checkpoint(path), **change}, path)
    with pytest.raises(
        CheckpointError, match=r"first/training_states/2\.state (cannot be resumed|is no training state)"
    ):
        started("second", total=3, path={"resume_state": str(path)})
    assert not Path("experiments/second").exists()


def test_a_state_whose_files_are_no_names_is_skipped(started):
    started(total=2)
    path = Path("experiments/run/training_states/2.state")
    torch.save({**load_checkpoint(path), "files": [3]}, path)
    started(total=3, auto_resume=True)
    assert "auto_resume: skipped: " in log_of()


def test_an_optimiser_that_needs_more_than_the_state_has_is_said(started):
    started(total=2)
    train_again = {"optim_g": {"type": "AdamW", "lr": 1e-3, "amsgrad": True}, "total_iter": 3}
    with pytest.raises(RuntimeError, match=r"'max_exp_avg_sq'.*and train:optim_g as it was in iteration 2\?"):
        started(auto_resume=True, train=train_again)
    assert states() == [1, 2]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"type": "SpyNet", "load_path": None}, r"inputs of \(.*TypeError: .*missing 1 required"),
        ({"type": "BasicVSR", "num_feat": 4, "num_block": 1}, r"inputs of \(.*not enough values to unpack"),
    ],
)
def test_a_network_that_takes_other_inputs_is_said(started, monkeypatch, network, message):
    monkeypatch.setitem(globals(), "SMALL", network)
    with pytest.raises(RuntimeError, match=message):
        started()


def test_a_test_that_fails_leaves_the_older_results(started, option_files, monkeypatch, capsys):
    started("finetune", total=1)
    options = option_files.base("test", "SupervisedModel", 1)
    del options["train"], options["logger"]
    options["datasets"] = {"test_1": option_files.pairs("test")}
    options["network_g"] = dict(SMALL)
    options["path"]["pretrain_network_g"] = "experiments/finetune/models/net_g_latest.pth"
    del options["val"]["val_freq"]
    assert main(["test", "-opt", option_files.write("test", options)]) == 0
    before = sorted(map(str, Path("results").rglob("*")))

    def fail(_: object) -> None:
        raise RuntimeError("expected 1 channel")

    monkeypatch.setattr("semiisp_plugin.models.supervised_model.SupervisedModel.test", fail)
    assert main(["test", "-opt", str(option_files.folder / "test.yml")]) == 1
    assert "test/input/00.png (data set 'test'): expected 1 channel" in capsys.readouterr().err
    assert sorted(map(str, Path("results").rglob("*"))) == before


# --- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "test", "basicsr"])
def test_a_folder_has_one_owner(option_files, command, monkeypatch, capsys):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    if command == "test":
        file, folder = option_files.test(), Path("results/test")
    else:
        model = "SRModel" if command == "basicsr" else "SupervisedModel"
        options = option_files.base("run", model, 1)
        if command == "basicsr":
            for data in options["datasets"].values():
                data |= {"type": "PairedImageDataset", "filename_tmpl": "{}"}
            options["datasets"]["train"] |= {"gt_size": 32, "use_rot": False, "num_worker_per_gpu": 0}
        file, folder = option_files.write("run", options), Path("experiments/run")
    folder.mkdir(parents=True)
    (folder / "precious").touch()
    with owned(folder.absolute(), "name", beside=True):
        assert main([command.replace("basicsr", "train"), "-opt", file]) == 1
    error = capsys.readouterr().err
    assert f"'{folder.absolute()}' is being written by" in error
    assert f"process {os.getpid()} on" in error
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
    assert (folder / "precious").exists()


def test_a_run_that_is_stopped_has_let_go(started):
    with pytest.raises(Interrupted):
        started(on_log=at(2, lambda: signal.raise_signal(signal.SIGTERM)), logger={"save_checkpoint_freq": 100})
    assert states() == [2]
    assert load_checkpoint("experiments/run/training_states/2.state")["iter"] == 2
    started(auto_resume=True)
