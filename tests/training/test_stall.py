"""What is said of a loader that does not deliver, and of a worker that dies."""

import gc
import logging
import os
import pickle
import signal
import threading
import time
from multiprocessing.reduction import ForkingPickler
from typing import NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.sampler import SampleIndex
from semiisp_plugin.training.stall import (
    LoaderWorkerError,
    Reading,
    StallWatch,
    WatchedDataset,
    sample_name,
    stall_message,
)

AFTER = 0.2
FORK = pytest.mark.skipif(os.name != "posix", reason="the data set of this file cannot be sent to a spawned process")


class Slow(Dataset):
    """Eight numbers; number 5 takes long, or kills its reader."""

    def __init__(self, seconds: float = 0.0, kill: bool = False, fail: bool = False) -> None:
        self.opt = {"name": "slow"}
        self.paths = [{"lq_path": f"lq/{i}.png", "gt_path": f"gt/{i}.png"} for i in range(8)]
        self.seconds, self.kill, self.fail = seconds, kill, fail

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5:
            if self.fail:
                raise ValueError("gt/5.png is no image")
            if self.kill:
                time.sleep(0.1)  # what it has read so far is on its way
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
        return torch.tensor(index)


@pytest.fixture
def log():
    """A logger, and what it was told: (level, message)."""
    logger, told = logging.Logger("stall"), []

    class Memory(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append((record.levelno, record.getMessage()))

    logger.addHandler(Memory())
    return logger, told


@pytest.fixture(scope="module", autouse=True)
def _impatient():
    """Torch gives the workers of a loader that failed 5 s to end, in which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
        yield
        gc.collect()  # not in the tests that come next


def read(dataset, workers: int, logger, seconds=AFTER, passes: int = 1, **more) -> list[int]:
    watched = WatchedDataset(dataset, workers)
    loader = DataLoader(watched, batch_size=1, num_workers=workers, **more)
    with StallWatch(watched, seconds, logger) as watch:
        return [int(batch) for _ in range(passes) for batch in watch.batches(loader)]


@FORK
@pytest.mark.parametrize("workers", [0, 2])
def test_stalled_loader_names_the_file_and_then_says_that_it_goes_on(log, workers):
    logger, told = log
    assert read(Slow(seconds=4.5 * AFTER), workers, logger) == list(range(8))
    assert all(level == logging.WARNING for level, _ in told)
    # After 1, 2 and 4 times the interval; on a busy machine there may be others, about workers that are starting.
    texts = [text for _, text in told if "lq/5.png" in text] + [told[-1][1]]
    assert len(texts) == 4
    who = "The training process has been reading" if workers == 0 else "orker 2 has been reading"
    for text in texts[:3]:
        assert "delivered nothing for" in text
        assert f"{who} 'lq/5.png' and 'gt/5.png' for 0." in text
        assert "drive that hangs" in text
    assert ("worker 1 has nothing to read" in texts[2]) == (workers == 2)
    assert texts[3].startswith("The data loader goes on after 0.")


@FORK
@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_said_in_time_or_when_switched_off(log, workers):
    logger, told = log
    read(Slow(seconds=0.01), workers, logger, 10.0, passes=2, persistent_workers=workers > 0)
    for off in (0, None):
        read(Slow(seconds=2 * AFTER), workers, logger, seconds=off)
    assert told == []
    assert "stall watch" not in [thread.name for thread in threading.enumerate()]


@FORK
def test_one_thread_serves_all_batches_of_persistent_workers(log):
    watched = WatchedDataset(Slow(), 1)
    loader = DataLoader(watched, batch_size=1, num_workers=1, persistent_workers=True)
    seen = set()
    with StallWatch(watched, 5.0, log[0]) as watch:
        for _ in range(3):
            for _ in watch.batches(loader):
                seen |= {t.ident for t in threading.enumerate() if t.name == "stall watch"}
    assert len(seen) == 1


@FORK
@pytest.mark.parametrize("seconds", [AFTER, None])
def test_killed_worker_is_reported_with_its_file(log, seconds):
    with pytest.raises(LoaderWorkerError) as caught:
        read(Slow(kill=True), 2, log[0], seconds=seconds)
    text = str(caught.value)
    assert "'lq/5.png' and 'gt/5.png'" in text
    assert "signal: Killed" in text
    assert "lower num_worker_per_gpu" in text
    assert isinstance(caught.value.__cause__, RuntimeError)


@FORK
def test_worker_that_dies_while_the_network_computes_is_reported_too(log):
    """Torch reports it from a signal handler, wherever the training process happens to be."""
    watched = WatchedDataset(Slow(kill=True), 1)
    loader = DataLoader(watched, batch_size=1, num_workers=1, prefetch_factor=8)

    def train() -> None:
        with StallWatch(watched, AFTER, log[0]) as watch:
            for _ in watch.batches(loader):
                time.sleep(5)  # a computation, which the signal interrupts

    with pytest.raises(LoaderWorkerError, match=r"lq/5\.png"):
        train()


@FORK
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_data_set_keep_their_message(log, workers):
    with pytest.raises(ValueError, match=r"gt/5\.png is no image") as caught:
        read(Slow(fail=True), workers, log[0])
    assert type(caught.value) is ValueError


def test_the_data_set_shows_through():
    dataset = Slow()
    watched = WatchedDataset(dataset, 0)
    assert len(watched) == 8
    assert watched.opt is dataset.opt
    assert watched.paths is dataset.paths
    assert not hasattr(watched, "__getitems__")
    assert not hasattr(watched, "n_pseudo")
    with pytest.raises(AttributeError, match="n_real"):
        _ = watched.n_real


def test_pickled_for_a_worker_the_notes_are_shared_and_else_they_are_a_copy(tmp_path):
    watched = WatchedDataset(Subset(list(range(3)), [2, 1, 0]), 0)
    assert watched[0] == 2
    sent = pickle.loads(ForkingPickler.dumps(watched))
    assert sent[1] == 1
    assert watched.readings()[0].number == 1
    copy = pickle.loads(pickle.dumps(watched))
    assert copy[2] == 0
    assert watched.readings()[0].number == 1
    assert len(copy) == 3


class Tripled(NamedTuple):
    epoch: int
    position: int
    index: int


@pytest.mark.parametrize(
    ("asked", "source", "number"),
    [
        (3, -1, 3),
        (torch.tensor(4), -1, 4),
        (SampleIndex(1, 6, 2**64 - 1), 1, 6),
        (Tripled(2, 100, 7), -1, 7),
        ("a name", -1, -1),
        (2**70, -1, -1),
        ((), -1, -1),
    ],
)
def test_notes_of_all_kinds_of_indices(asked, source, number):
    class Looks(Dataset):
        def __getitem__(self, index):
            return watched.readings()

    watched = WatchedDataset(Looks(), 2)
    (during, *workers) = watched[asked]
    assert (during.worker, during.source, during.number, during.pid) == (0, source, number, os.getpid())
    assert 0 <= during.reading < 1
    assert [w.pid for w in workers] == [0, 0]
    assert [r.worker for r in watched.readings()] == [1, 2]  # the training process reads no more


def test_notes_cost_little():
    watched = WatchedDataset(list(range(1000)), 1)
    asked = [SampleIndex(0, i, 2**64 - 1) for i in range(1000)]
    watched.dataset = dict.fromkeys(asked, 0)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for index in asked:
            watched[index]
        best = min(best, time.perf_counter() - start)
    assert best / 1000 < 10e-6


class TestNames:
    def test_pairs_of_one_source(self, tiny_data):
        folders = {"dataroot_lq": str(tiny_data / "test/input"), "dataroot_gt": str(tiny_data / "test/target")}
        dataset = PairedRestorationDataset(folders)
        name = sample_name(WatchedDataset(dataset, 0), 0, 1)
        assert name == f"'{tiny_data}/test/input/01.png' and '{tiny_data}/test/target/01.png' (pair '01')"
        assert sample_name(dataset, 0, 2) == "sample 2"

    def test_two_sources(self):
        class Part:
            def __init__(self, pairs):
                self.pairs = pairs

            def __len__(self):
                return len(self.pairs)

        class Online(Part):
            """Entries with one place each, as of pairs that are drawn anew at every visit."""

            pairs = None

            def __init__(self, entries):
                self._entries = entries

            def __len__(self):
                return len(self._entries)

        class Entry(NamedTuple):
            key: str
            location: str

        class Both:
            _sources = (Part([Pair("a", "lq/a", "gt/a")]), Online([Entry("b", "photos/b.jpg")]))

        assert sample_name(Both(), 0, 0) == "'lq/a' and 'gt/a' (real pair 'a')"
        assert sample_name(Both(), 1, 0) == "'photos/b.jpg' (pseudo pair 'b')"
        assert sample_name(Both(), -1, 1) == "'photos/b.jpg' (pseudo pair 'b')"
        assert sample_name(Both(), 1, 9) == "pseudo pair 9"

    def test_data_sets_of_basicsr(self):
        class Files:
            paths = ("one.png", "two.png")

        class Video:
            keys = ("000/00000001",)

        class Dictionary:
            def keys(self):
                raise AssertionError

        assert sample_name(Files(), -1, 1) == "'two.png'"
        assert sample_name(Video(), -1, 0) == "'000/00000001'"
        assert sample_name(Dictionary(), -1, 4) == "sample 4"
        assert sample_name(Files(), -1, -1) == "a sample"


def test_message_for_many_workers():
    busy = [Reading(i, 100 + i, -1, i, 3.0 * i) for i in range(1, 7)]
    text = stall_message(60.0, [*busy, Reading(7, 0, 0, 0, None)], {r.worker: f"'{r.number}.png'" for r in busy})
    assert "delivered nothing for 60 s. Worker 6 has been reading '6.png' for 18 s; worker 5" in text
    assert "2 more are reading" in text
    assert "'2.png'" not in text
    assert "worker 7 has not read anything yet" in text
    assert "raise num_worker_per_gpu" in text
    assert "shared memory" in stall_message(60.0, [Reading(1, 5, 0, 0, None), Reading(2, 6, 0, 0, None)], {})
    assert "starting" in stall_message(60.0, [Reading(1, 0, 0, 0, None)], {})
