"""Loaders of training and validation."""

import multiprocessing
import time

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from semiisp_plugin.data.sampler import SampleIndex
from semiisp_plugin.training import loaders
from semiisp_plugin.training.loaders import Loader, MixedData, seed_worker


class Resized(Dataset):
    """Uses OpenCV's threads, in whatever process it is read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (3000, 3000), interpolation=cv2.INTER_CUBIC)
        return index


@pytest.fixture
def opencv_threads():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    yield
    cv2.setNumThreads(before)


def test_forked_workers_do_not_wait_for_the_threads_of_opencv(opencv_threads):
    Resized()[0]  # starts them
    loader = Loader(Resized(), num_workers=2, worker_init_fn=seed_worker, timeout=60)
    assert torch.cat(list(loader)).tolist() == [0, 1, 2, 3]
    assert cv2.getNumThreads() == 2  # of the training process


def test_workers_end_at_once():
    """Also those of a loader in a circle of references, which the garbage collector would leave waiting for a word."""
    loader = Loader(Resized(), num_workers=2, persistent_workers=True, worker_init_fn=seed_worker)
    circle = [loader]
    circle.append(circle)
    next(iter(loader))
    workers = list(loader._iterator._workers)
    assert all(worker.is_alive() for worker in workers)
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 4
    assert not any(worker.is_alive() for worker in workers)
    loader.close()


class Hanging(Dataset):
    """As a network drive that is gone; the first item tells that all have begun."""

    def __init__(self, begun) -> None:
        self.begun = begun

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        self.begun.release()
        time.sleep(60)
        return index


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("persistent", [True, False])
def test_workers_that_hang_share_one_deadline(monkeypatch, persistent):
    monkeypatch.setattr(loaders, "LAST_SECONDS", 0.5)
    begun = multiprocessing.get_context("fork").Semaphore(0)
    loader = Loader(Hanging(begun), num_workers=4, persistent_workers=persistent, worker_init_fn=seed_worker)
    batches = iter(loader)
    workers = [worker for worker in loaders._workers if worker.is_alive()]
    for _ in range(4):
        assert begun.acquire(timeout=30)
    began = time.monotonic()
    loader.close() if persistent else batches.close()
    assert time.monotonic() - began < 15, "5 s a worker, of four"
    while any(worker.is_alive() for worker in workers) and time.monotonic() - began < 30:
        time.sleep(0.01)  # what was killed is over a moment later
    assert not any(worker.is_alive() for worker in workers)


class Sources:
    """As a `SemiSupervisedDataset` says how many samples it has of each kind."""

    def __init__(self, n_real: int, n_pseudo: int, n_unlabelled: int) -> None:
        self.n_real, self.n_pseudo, self.n_unlabelled = n_real, n_pseudo, n_unlabelled

    def __len__(self) -> int:
        return self.n_real + self.n_pseudo + self.n_unlabelled

    def __getitem__(self, index: SampleIndex) -> int:
        return index.source


@pytest.mark.parametrize(
    ("sizes", "counts", "about", "composition"),
    [
        ((6, 8, 0), (1, 2, None), "6 real and 8 pseudo pairs; 1 + 2 a batch and process", [0, 1, 1]),
        ((6, 8, 5), (1, 2, 3), "6 real and 8 pseudo pairs, 5 unlabelled inputs; 1 + 2 + 3 a b", [0, 1, 1, 2, 2, 2]),
        ((6, 0, 5), (2, None, 1), "6 real and 0 pseudo pairs, 5 unlabelled inputs; 2 + 0 + 1 a b", [0, 0, 2]),
    ],
)
def test_batches_of_several_sources(sizes, counts, about, composition):
    names = ("real_per_batch", "pseudo_per_batch", "unlabelled_per_batch")
    section = {**dict(zip(names, counts, strict=True)), "num_worker_per_gpu": 0, "pin_memory": False}
    train = {"accumulate": 1, "total_iter": 4}
    opt = {"datasets": {"train": section}, "train": train, "manual_seed": 1, "rank": 0, "world_size": 1}
    data = MixedData(opt, Sources(*sizes), 0)
    assert about in data.about()
    assert [batch.tolist() for _, batch in data.batches()] == [composition] * 4
    state = data.state_dict(2)
    assert ("n_unlabelled" in state) == (sizes[2] > 0)
    assert MixedData(opt, Sources(*sizes), 2).changes_since(state) is None
    other = MixedData({**opt, "datasets": {"train": {**section, names[2]: 9}}}, Sources(*sizes[:2], 7), 2)
    assert "n unlabelled was" in other.changes_since(state)
