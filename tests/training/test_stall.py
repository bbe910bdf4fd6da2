"""What is said of a loader that does not deliver, and of a worker that dies."""

import gc
import os
import pickle
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.sampler import SampleIndex
from semiisp_plugin.training.stall import LoaderWorkerError, WatchedDataset, naming_files, sample_name

FORK = pytest.mark.skipif(os.name != "posix", reason="the data set of this file cannot be sent to a spawned process")


class Slow(Dataset):
    """Eight numbers; number 5 takes long, kills its reader, or fails."""

    def __init__(self, seconds: float = 0.0, kill: bool = False, fail: bool = False) -> None:
        self.pairs = [Pair(str(i), f"lq/{i}.png", f"gt/{i}.png") for i in range(8)]
        self.seconds, self.kill, self.fail = seconds, kill, fail

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: SampleIndex) -> torch.Tensor:
        if index.index == 5:
            if self.fail:
                raise ValueError("gt/5.png is no image")
            if self.kill:
                time.sleep(0.1)  # what it has read so far is on its way
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
        return torch.tensor(index.index)


@pytest.fixture(scope="module", autouse=True)
def _impatient():
    """Torch gives the workers of a loader that failed 5 s to end, in which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
        yield
        gc.collect()  # not in the tests that come next


def read(dataset, workers: int, timeout: float = 0, pause: float = 0) -> list[int]:
    watched, found = WatchedDataset(dataset, workers), []
    batches = [[SampleIndex(0, i, 0)] for i in range(8)]
    loader = DataLoader(watched, batch_sampler=batches, num_workers=workers, timeout=timeout)
    with naming_files(watched):
        for batch in loader:
            found.append(int(batch))
            time.sleep(pause)  # a computation
    return found


@FORK
@pytest.mark.parametrize("workers", [0, 2])
def test_what_comes_in_time_comes(workers):
    assert read(Slow(seconds=0.1), workers, 20 if workers else 0) == list(range(8))


@pytest.mark.slow
@FORK
def test_stalled_loader_stops_and_names_the_file():
    with pytest.raises(LoaderWorkerError, match=r"nothing for 1 s. Being read: 'lq/5.png' and 'gt/5.png' \(real"):
        read(Slow(seconds=6), 2, 1)


@pytest.mark.slow
@FORK
@pytest.mark.parametrize("pause", [0, 5], ids=["while waiting", "while computing, which the signal interrupts"])
def test_killed_worker_is_reported_with_its_file(pause):
    with pytest.raises(LoaderWorkerError) as caught:
        read(Slow(kill=True), 2, pause=pause)
    text = str(caught.value)
    assert "while reading 'lq/5.png' and 'gt/5.png' (real pair '5')" in text
    assert "signal: Killed" in text
    assert "lower num_worker_per_gpu" in text
    assert isinstance(caught.value.__cause__, RuntimeError)


@FORK
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_data_set_keep_their_message(workers):
    with pytest.raises(ValueError, match=r"gt/5\.png is no image") as caught:
        read(Slow(fail=True), workers)
    assert type(caught.value) is ValueError


def test_notes_are_of_what_is_being_read():
    class Looks(Slow):
        def __getitem__(self, index):
            return watched.being_read(), watched.being_read([os.getpid()]), watched.being_read([-2])

    assert len(pickle.loads(pickle.dumps(WatchedDataset(Slow(), 2)))) == 8
    watched = WatchedDataset(Looks(), 2)
    name = "'lq/3.png' and 'gt/3.png' (real pair '3')"
    assert watched[SampleIndex(0, 3, 0)] == (name, name, "")
    assert watched.being_read() == ""


def test_notes_cost_little():
    asked = [SampleIndex(0, i, 2**64 - 1) for i in range(1000)]
    watched = WatchedDataset(dict.fromkeys(asked, 0), 1)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for index in asked:
            watched[index]
        best = min(best, time.perf_counter() - start)
    assert best / 1000 < 10e-6


def test_names_of_samples(tiny_data):
    folders = {"dataroot_lq": str(tiny_data / "test/input"), "dataroot_gt": str(tiny_data / "test/target")}
    name = sample_name(PairedRestorationDataset(folders), 0, 1)
    assert name == f"'{tiny_data}/test/input/01.png' and '{tiny_data}/test/target/01.png' (real pair '01')"
    # Pairs that are drawn again at each visit have one place each.
    online = SimpleNamespace(_entries=[SimpleNamespace(key="b", location="photos/b.jpg")])
    both = SimpleNamespace(_sources=(SimpleNamespace(pairs=[Pair("a", "lq/a", "gt/a")]), online))
    assert sample_name(both, 0, 0) == "'lq/a' and 'gt/a' (real pair 'a')"
    assert sample_name(both, 1, 0) == "'photos/b.jpg' (pseudo pair 'b')"
