"""Killed at random moments and gone on with, a run ends with the weights of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from semiisp_plugin.io.image_io import encode_png, to_uint8, to_uint16
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, close_all

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked: importing takes longer than the rest")

KILLS = 10
TOTAL = 100

# Forks a run for every line it reads, "<signal> <batches> <seconds> <arguments>", and says how that ended. The signal
# comes so many seconds after so many batches; batches are slowed down, so that training is where the time goes. With
# "-<workers> <1 or 0>" it comes when so many loader workers were started: to all processes, or to the first alone.
SERVER = """
import multiprocessing.process, os, sys, threading, time
import torch
import torch.utils.tensorboard
import semiisp_plugin.training
from semiisp_plugin import cli
from semiisp_plugin.models.restoration import RestorationModel

torch.set_num_threads(1)
waiting = []  # (batches, timer)
fed = 0
feed_data = RestorationModel.feed_data
def slow_feed_data(self, data):
    global fed
    fed += 1
    if waiting and fed == waiting[0][0]:
        waiting[0][1].start()
    time.sleep(0.01)
    feed_data(self, data)
RestorationModel.feed_data = slow_feed_data

start_process = multiprocessing.process.BaseProcess.start
started = 0
def start_and_signal(self):
    global started
    start_process(self)
    started += 1
    if started == signal_after:
        to_all = os.killpg if seconds == "1" else os.kill
        to_all(os.getpid(), int(number))
multiprocessing.process.BaseProcess.start = start_and_signal
signal_after = 0

print("ready", flush=True)
for line in sys.stdin:
    number, batches, seconds, *arguments = line.split()
    child = os.fork()
    if child == 0:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        if number != "0":
            os.setsid()  # a group of its own; the signal goes to all of it, loader workers included
            signal_after = -int(batches)
            timer = threading.Timer(float(seconds), os.killpg, (os.getpid(), int(number)))
            timer.daemon = True
            waiting.append((int(batches), timer))
        os._exit(cli.main(arguments))
    _, status = os.waitpid(child, 0)
    try:
        os.killpg(child, 0)
        left = True
    except ProcessLookupError:
        left = False
    print(os.waitstatus_to_exitcode(status), int(left), flush=True)
"""


class Runs:
    def __init__(self, folder: Path) -> None:
        (folder / "server.py").write_text(SERVER)
        self.process = subprocess.Popen(
            [sys.executable, "server.py"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def run(self, command: str, signal_number: int = 0, batches: int = 0, seconds: float = 0) -> int:
        """Run a command; returns its exit status, negative if a signal ended it."""
        self.process.stdin.write(f"{int(signal_number)} {batches} {seconds} {command}\n")
        self.process.stdin.flush()
        status, left = map(int, self.process.stdout.readline().split())
        self.left = bool(left)
        return status


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The working directory of all runs, with pseudo pairs."""
    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(5)
    writers = [LmdbImageWriter(folder / "pseudo" / f"{name}.lmdb") for name in ("gt", "lq")]
    for i in range(8):
        image = rng.uniform(0, 1, (48, 64, 3)) * (0.2 + 0.1 * i)
        target = 1 - image if i % 2 else image  # every second pair is far off: the filter has something to drop
        for writer, picture in zip(writers, (to_uint8(target), to_uint16(image)), strict=True):
            writer.put(f"p{i}", encode_png(picture), picture.shape)
    for writer in writers:
        writer.close()
    close_all()
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    server = Runs(folder)
    yield server
    server.process.stdin.close()
    server.process.wait()


@pytest.fixture(scope="module")
def write(folder, option_files_in):
    """Writes option files of a semi-supervised run with all that has a state: average, noise, filter, best metrics."""
    files = option_files_in(folder)

    def write(name: str, **loader) -> str:
        options = yaml.safe_load(Path(files.semi(total=TOTAL)).read_text())
        options["name"] = name
        options["datasets"]["train"].update(loader)
        for part in ("gt", "lq"):
            options["datasets"]["train"]["pseudo"][f"dataroot_{part}"] = str(folder / "pseudo" / f"{part}.lmdb")
        options["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
        options["train"]["filter"] = {"beta": 1.2, "reference": "running"}
        options["val"]["val_freq"] = 15
        del options["val"]["metrics"]["ssim"], options["val"]["metrics"]["psnr_gt_mean"]
        options["logger"].update(
            save_checkpoint_freq=5, use_tb_logger=False, keep_last=2, keep_best="psnr", print_freq=10
        )
        return files.write(name, options)

    return write


@pytest.fixture(scope="module")
def unbroken(runs, write, folder) -> Path:
    """A run that nobody disturbed."""
    assert runs.run(f"train -opt {write('unbroken')}") == 0, (folder / "log.txt").read_text()[-3000:]
    return folder / "experiments" / "unbroken"


def equal(a: dict, b: dict) -> bool:
    """Of two checkpoints: every weight to the last bit, and what the networks were built from."""
    weights = a.keys() - {"network"}
    return a == b | {k: a[k] for k in weights} and all(
        a[part].keys() == b[part].keys() and all(torch.equal(a[part][k], b[part][k]) for k in a[part])
        for part in weights
    )


def load(run: Path, file: str) -> dict:
    return torch.load(run / file, weights_only=True)


@pytest.mark.slow
def test_ten_kills_at_random_moments(write, runs, unbroken, folder):
    path, run = write("killed", num_worker_per_gpu=1), folder / "experiments" / "killed"
    dice, kills, iterations = random.Random(20), 0, []
    status = 1
    for _ in range(5 * KILLS):
        kill = (signal.SIGKILL, dice.randint(1, 14), dice.uniform(0, 0.02)) if kills < KILLS else ()
        status = runs.run(f"train -opt {path} --auto_resume", *kill)
        if status == 0:
            break
        assert status == -signal.SIGKILL, (folder / "log.txt").read_text()[-3000:]
        kills += 1
        states = [int(p.stem) for p in run.glob("training_states/*.state")]
        iterations.append(max(states, default=0))
        assert len(states) <= 3  # keep_last, and one that was just being saved
    assert status == 0
    assert kills == KILLS
    assert len(set(iterations)) > 3, f"the kills hit the same place: {iterations}"
    for file in ("models/net_g_latest.pth", "models/net_g_best.pth"):
        assert equal(load(run, file), load(unbroken, file))
    ends = [load(one, f"training_states/{TOTAL}.state") for one in (run, unbroken)]
    assert ends[0]["best_metric_results"] == ends[1]["best_metric_results"]
    assert ends[0]["extra"]["filter"] == ends[1]["extra"]["filter"]
    assert f"auto_resume: resuming from {run / 'training_states'}" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_a_signal_while_workers_are_started(write, runs, folder):
    """The run ends, in a time that does not grow with the number of workers, and leaves none; nothing is renamed."""
    path, run = write("starting", num_worker_per_gpu=8), folder / "experiments" / "starting"
    run.mkdir(parents=True)
    (run / "precious").touch()
    for workers, to_all in ((1, 1), (4, 0), (8, 1)):
        begun = time.monotonic()
        assert runs.run(f"train -opt {path}", signal.SIGTERM, -workers, to_all) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 40, "8 workers, 5 s each"
        assert not runs.left
    assert list((folder / "experiments").glob("starting*")) == [run]
    assert (run / "precious").exists()
    assert "SIGTERM before an iteration was done.\n" in (folder / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_save_first(write, runs, unbroken, folder, by):
    path = write(by.name, num_worker_per_gpu=2)
    assert runs.run(f"train -opt {path}", by, batches=12) == 128 + by
    states = [int(p.stem) for p in (folder / "experiments" / by.name / "training_states").glob("*.state")]
    log = (folder / "log.txt").read_text()
    assert f"{by.name} after iteration {max(states)}, which is saved. Resume with --auto_resume" in log
    assert runs.run(f"train -opt {path} --auto_resume") == 0
    file = "models/net_g_latest.pth"
    assert equal(load(folder / "experiments" / by.name, file), load(unbroken, file))
