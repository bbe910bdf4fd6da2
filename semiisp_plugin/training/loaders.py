"""Loaders: what the training loop takes batches from, and what validation reads."""

from __future__ import annotations

import atexit
import logging
import random
import signal
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from semiisp_plugin import plugins
from semiisp_plugin.data.pairs import read_pair
from semiisp_plugin.data.sampler import SOURCES, MixedBatchSampler
from semiisp_plugin.io.image_io import to_float
from semiisp_plugin.io.signals import STOP_SIGNALS
from semiisp_plugin.models.validation import check_borders
from semiisp_plugin.options import OptionError
from semiisp_plugin.pseudo.noise_estimation import estimate_noise_bounds
from semiisp_plugin.toolbox import build_dataset
from semiisp_plugin.training.stall import WatchedDataset

LAST_SECONDS = 5.0
"""What loader workers and the like get at the end of a run, all together."""


def seed_worker(worker_id: int, imports: Sequence[str] = ()) -> None:
    """Prepare a loader worker: seeds of numpy and random from torch's, one thread, signals, the user's own modules."""
    # Ctrl+C and job schedulers signal the workers, too. The training process decides: it may still want a batch.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if cv2.getNumThreads() != 1:  # not forked, see `Loader`; the workers are the parallelism
        cv2.setNumThreads(1)
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)
    if imports:  # where processes are spawned, they know of none
        plugins.register(imports)


class Loader(DataLoader[Any]):
    """torch's loader, whose workers neither wait for OpenCV's threads nor outlive the training process.

    A forked worker believes that the threads are there which the training process has started, and waits for them for
    ever (BasicSR#398, #582: training that hangs). They are stopped while the workers are forked.
    """

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            iterator: Any = super().__iter__()
        finally:
            cv2.setNumThreads(threads)
        _workers.update(iterator._workers)
        return iterator if self.persistent_workers else _Batches(iterator)

    def check_worker_number_rationality(self) -> None:
        """Nothing: option files are written for training machines, and on a smaller one more workers do no harm.

        torch would warn, several times a run.
        """

    def close(self) -> None:
        """End workers that live as long as the loader, now.

        Left to the garbage collector, their queues may be gone before them: they would not hear that they are to end.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            _end_workers(iterator)


class _Batches(Iterator[Any]):
    """What a loader gives; its workers end when it is closed, or let go."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __next__(self) -> Any:
        return next(self._iterator)

    def close(self) -> None:
        """End the workers, now."""
        iterator, self._iterator = self._iterator, iter(())
        if not getattr(iterator, "_shutdown", True):
            _end_workers(iterator)

    __del__ = close


def _end_workers(iterator: Any) -> None:
    """Have torch end an iterator's workers, and end those that hang in a read.

    torch waits five seconds for each of them, one after the other, and sends them a signal that they ignore
    (`seed_worker`).
    """
    killing = threading.Timer(LAST_SECONDS, _kill, [list(iterator._workers)])
    killing.daemon = True
    killing.start()
    try:
        with suppress(RuntimeError):  # torch notices that they were killed
            iterator._shutdown_workers()
    finally:
        killing.cancel()
        killing.join()


def _kill(workers: Sequence[Any]) -> None:
    for worker in workers:
        with suppress(AttributeError, ValueError):  # it is over
            worker.kill()


_workers: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _kill_stuck_workers() -> None:
    """End workers that hang in a read: Python would wait for them, and they do not hear SIGTERM (`seed_worker`)."""
    deadline = time.monotonic() + LAST_SECONDS
    workers = list(_workers)
    for worker in workers:
        # RuntimeError: of torch, which notices that a worker was killed. The others: it is not this process's, or over.
        with suppress(RuntimeError, AssertionError, ValueError):
            worker.join(max(0.0, deadline - time.monotonic()))
    _kill(workers)


class MixedData:
    """Batches of the training set: a function of the seed and the batch's number alone.

    Args:
        opt: Complete options.
        dataset: The built ``datasets:train``, one of the plugin's.
        start_iter: Iterations done before.

    Attributes:
        loader: The loader.
        watched: What it reads, for `semiisp_plugin.training.stall.naming_files`.
        n_pairs: Real pairs.
    """

    def __init__(self, opt: dict[str, Any], dataset: Any, start_iter: int) -> None:
        settings = opt["datasets"]["train"]
        self.n_pairs = int(getattr(dataset, "n_real", len(dataset)))
        n_pseudo, n_unlabelled = (int(getattr(dataset, f"n_{source}", 0)) for source in SOURCES[1:])
        if n_pseudo or n_unlabelled:
            per_batch = [int(settings.get(f"{source}_per_batch") or 0) for source in SOURCES]
        else:
            per_batch = [int(settings["batch_size_per_gpu"]), 0, 0]
        self._accumulate = int(opt["train"]["accumulate"])
        self._total = int(opt["train"]["total_iter"]) * self._accumulate
        self._start = start_iter * self._accumulate
        self.sampler = MixedBatchSampler(
            self.n_pairs,
            n_pseudo,
            *per_batch[:2],
            n_unlabelled=n_unlabelled,
            unlabelled_per_batch=per_batch[2],
            seed=opt["manual_seed"],
            num_batches=self._total,
            rank=opt["rank"],
            world_size=opt["world_size"],
            # A run that is resumed with a lower total_iter has nothing left to do.
            start_batch=min(self._start, self._total),
        )
        workers = int(settings["num_worker_per_gpu"])
        self.watched = WatchedDataset(dataset, workers)
        self.loader = Loader(
            self.watched,
            batch_sampler=self.sampler,
            num_workers=workers,
            pin_memory=settings["pin_memory"],
            worker_init_fn=partial(seed_worker, imports=plugins.named()),
            # Of its own: a loader that draws from torch's global generator would shift the dropout of a resumed run.
            generator=torch.Generator().manual_seed(opt["manual_seed"] + opt["rank"]),
            persistent_workers=workers > 0,  # for `Loader.close`
            prefetch_factor=int(settings["prefetch_factor"]) if workers else None,
            timeout=float(settings["timeout"]) if workers else 0,
        )
        inputs = f", {n_unlabelled} unlabelled inputs" if n_unlabelled else ""
        together = " + ".join(map(str, self.sampler.per_batch))
        self._about = f"{self.n_pairs} real and {n_pseudo} pseudo pairs{inputs}; {together} a batch"

    def about(self) -> str:
        """Sizes, composition of a batch, passes over each source."""
        passes = ", ".join(f"{name} {n:.3g}" for name, n in self.sampler.passes(self._total).items() if n)
        accumulated = f" and step, {self._accumulate} of them an iteration" if self._accumulate > 1 else ""
        return f"Training data: {self._about} and process{accumulated}; passes over the sources in all: {passes}."

    def batches(self) -> Generator[tuple[int, Any], None, None]:
        """``(epoch, batch)`` to the end of the run; the epoch is that of the real pairs.

        Workers are started here and now, where no signal breaks it off: nobody would end those that are there already.
        """
        return self._numbered(iter(self.loader))

    def _numbered(self, batches: Iterator[Any]) -> Generator[tuple[int, Any], None, None]:
        for number, batch in enumerate(batches, self.sampler.start_batch):
            yield int(self.sampler.passes(number)["real"]), batch

    def passes(self, iteration: int) -> dict[str, float]:
        """Passes over each source after so many iterations."""
        return self.sampler.passes(iteration * self._accumulate)

    def state_dict(self, iteration: int) -> dict[str, Any]:
        """What the order of the samples depends on, and where it stands."""
        return self.sampler.state_dict(iteration * self._accumulate)

    def changes_since(self, state: dict[str, Any]) -> str | None:
        """How a state's order of samples differs from this one's, in words; None if it does not."""
        now = {**self.sampler.state_dict(), "start_batch": self._start}
        changed = [
            f"{name.replace('_', ' ')} was {state.get(name)}, is {now.get(name)}"
            for name in sorted(state.keys() | now.keys())
            if state.get(name) != now.get(name)
        ]
        return f"The order of the training samples is another: {'; '.join(changed)}." if changed else None


def estimated_noise(dataset: Any, logger: logging.Logger, at_most: int = 100) -> dict[str, float] | None:
    """Bounds of eq. 15's variances from the inputs of the real pairs (ours); None where they show no noise level."""
    pairs = dataset.real_pairs[:at_most]
    inputs = (torch.from_numpy(to_float(read_pair(pair)[0])).permute(2, 0, 1) for pair in pairs)
    try:
        shot, read = estimate_noise_bounds(list(inputs))
    except ValueError as error:
        logger.warning(f"train:noise: estimated: no noise is added: {error}")
        return None
    logger.info(f"Noise of the inputs of {len(pairs)} pairs: shot_variance {shot:.3g}, read_variance {read:.3g}.")
    return {"shot_variance": shot, "read_variance": read}


def build_val_loaders(opt: dict[str, Any]) -> list[Loader]:
    """Loaders of all sections but ``train``, which give this process's share of the images one by one."""
    loaders = []
    for phase, settings in opt["datasets"].items():
        if phase == "train":
            continue
        dataset = build_dataset(settings)
        if len(dataset) == 0:
            raise OptionError(f"datasets:{phase}: there are no images.")
        metrics = (opt.get("val") or {}).get("metrics") or {}
        if any(of.get("crop_border") for of in metrics.values()):  # better found out now than at the first validation
            check_borders(metrics, *dataset[0]["lq"].shape[-2:])
        loaders.append(
            Loader(
                dataset,
                batch_size=1,
                sampler=range(opt["rank"], len(dataset), opt["world_size"]),
                num_workers=int(settings["num_worker_per_gpu"]),
                generator=torch.Generator(),
                worker_init_fn=partial(seed_worker, imports=plugins.named()),
            )
        )
    return loaders
