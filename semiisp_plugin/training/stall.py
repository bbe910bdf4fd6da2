"""A loader that stalls says which file it waits for; a loader worker that dies, which file it was reading.

Workers note in shared memory what they read and since when (`WatchedDataset`). The training process looks at the notes
when a batch does not come (`StallWatch`), or when torch reports a dead worker. While batches come in time this costs
two notes a sample (a few microseconds), two assignments a batch, and a thread that wakes once in `StallWatch.seconds`.
"""

from __future__ import annotations

import logging
import operator
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from semiisp_plugin.data.sampler import SOURCES, SampleIndex

# Fields of a note, int64. SINCE: reading since this moment, ns of the monotonic clock, which all processes share;
# negative: idle since; 0: nothing read yet.
_SINCE, _SOURCE, _NUMBER, _PID = range(4)
_FIELDS = 8  # a cache line each, so that workers do not slow each other down
_UNKNOWN = -1  # no source, or an index that is no number
_MOST_NAMED = 4
_DIED = r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]+)|exited unexpectedly)"


class LoaderWorkerError(RuntimeError):
    """A loader worker died; the message names the files that it was reading, and what to do."""


class Reading(NamedTuple):
    """What one process does.

    Attributes:
        worker: Number of the loader worker, from 1; 0 is the training process itself.
        pid: Its process; 0 if it has not read anything yet.
        source: Of the sample, as in `SampleIndex`; -1 where the index names none.
        number: Of the sample; -1 where the index is no number.
        reading: Seconds it has been reading for; None if it is not.
    """

    worker: int
    pid: int
    source: int
    number: int
    reading: float | None


def _numbered(index: object) -> tuple[int, int]:
    """Source and number of what a data set is asked for: an int, a `SampleIndex`, or a tuple that ends in a number."""
    if isinstance(index, SampleIndex):
        return index.source, index.index
    number = index[-1] if isinstance(index, tuple) and index else index
    try:
        number = operator.index(number)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return _UNKNOWN, _UNKNOWN
    return _UNKNOWN, number if -(2**63) <= number < 2**63 else _UNKNOWN


class WatchedDataset(Dataset[Any]):
    """Any map-style data set, with notes of what is being read; everything else is the data set's own.

    Args:
        dataset: Data set.
        num_workers: Of the loader that reads it.
    """

    def __init__(self, dataset: Any, num_workers: int) -> None:
        self.dataset = dataset
        self.num_workers = num_workers
        # A tensor, not multiprocessing's array: it may be pickled at any time, and loaders know how to share it.
        self._notes = torch.zeros(num_workers + 1, _FIELDS, dtype=torch.int64).share_memory_()
        self._pid = -1
        self._note: memoryview = memoryview(b"")

    def __getattr__(self, name: str) -> Any:
        # `dataset` is not there yet while an unpickled object is put together.
        if name == "dataset" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if os.getpid() != self._pid:
            self._find_note()
        note = self._note
        note[_SOURCE], note[_NUMBER] = _numbered(index)
        note[_SINCE] = time.monotonic_ns()
        try:
            return self.dataset[index]
        finally:
            note[_SINCE] = -time.monotonic_ns()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": -1, "_note": None}  # a memoryview cannot be pickled, and is another one there

    def _find_note(self) -> None:
        worker = get_worker_info()
        row = 0 if worker is None else worker.id + 1
        self._note = memoryview(self._notes[row].numpy())
        self._note[_PID] = self._pid = os.getpid()

    def readings(self) -> list[Reading]:
        """What every worker does; the training process comes first if it reads, or if there are no workers."""
        now = time.monotonic_ns()
        found = []
        for row, note in enumerate(self._notes.tolist()):
            since = note[_SINCE]
            reading = (now - since) / 1e9 if since > 0 else None
            if row > 0 or self.num_workers == 0 or reading is not None:
                found.append(Reading(row, note[_PID], note[_SOURCE], note[_NUMBER], reading))
        return found

    def name(self, reading: Reading) -> str:
        """The files of a sample, as far as the data set tells; else its number."""
        return sample_name(self.dataset, reading.source, reading.number)


def sample_name(dataset: Any, source: int, number: int) -> str:
    """What a person calls a sample: its files, and the pair's key.

    Known are our data sets, and BasicSR's by their ``paths`` or ``keys``.

    Args:
        dataset: Data set, or one around it that has it as ``dataset``.
        source: As in `SampleIndex`; -1 for none.
        number: Of the sample, as the data set counts.

    Returns:
        For example ``'low/7.png' and 'high/7.png' (real pair '7')``.
    """
    if number == _UNKNOWN:
        return "a sample"
    sources = getattr(dataset, "_sources", None)
    if isinstance(sources, tuple):
        if source not in range(len(sources)):
            source, number = (0, number) if number < len(sources[0]) else (1, number - len(sources[0]))
        return _entry_name(sources[source], number, f"{SOURCES[source]} pair") or f"{SOURCES[source]} pair {number}"
    name = _entry_name(dataset, number, "pair")
    if name is None and hasattr(dataset, "dataset"):
        return sample_name(dataset.dataset, source, number)
    return name or f"sample {number}"


def _entry_name(dataset: Any, number: int, kind: str) -> str | None:
    """The files of an entry of the list that a data set keeps, or None if it keeps none that is known."""
    for attribute in ("pairs", "_entries", "paths", "keys"):
        entries = getattr(dataset, attribute, None)
        if not isinstance(entries, Sequence) or not -len(entries) <= number < len(entries):
            continue
        entry = entries[number]
        if hasattr(entry, "key"):
            places = [p for p in (getattr(entry, a, None) for a in ("input", "target", "location")) if p]
            return f"{_quoted(places)} ({kind} '{entry.key}')"
        places = list(entry.values()) if isinstance(entry, Mapping) else [entry]
        files = [p for p in places if isinstance(p, (str, os.PathLike))]
        if files:
            return _quoted(files)
    return None


def _quoted(places: Sequence[Any]) -> str:
    return " and ".join(f"'{os.fspath(p)}'" for p in dict.fromkeys(places))


def stall_message(waited: float, readings: Sequence[Reading], names: Mapping[int, str]) -> str:
    """What is said of a loader that does not deliver.

    Args:
        waited: Seconds.
        readings: What the workers do.
        names: What each worker that reads is reading, by `Reading.worker`.
    """
    busy = sorted((r for r in readings if r.reading is not None), key=lambda r: -(r.reading or 0))
    parts = [f"{_who(r)} has been reading {names[r.worker]} for {_seconds(r.reading)}" for r in busy[:_MOST_NAMED]]
    if busy[_MOST_NAMED:]:
        parts.append(f"{len(busy) - _MOST_NAMED} more are reading, each for less long")
    starting = [r.worker for r in readings if r.pid == 0]
    idle = [r.worker for r in readings if r.reading is None and r.pid]
    for workers, state in ((starting, "not read anything yet"), (idle, "nothing to read")):
        if workers == [0]:
            parts.append(f"the training process has {state}")
        elif workers:
            numbers = ", ".join(map(str, workers))
            parts.append(f"worker {numbers} has {state}" if len(workers) == 1 else f"workers {numbers} have {state}")
    text = "; ".join(parts)
    told = f"The data loader has delivered nothing for {_seconds(waited)}. {text[:1].upper()}{text[1:]}."
    return f"{told} {_hint(waited, busy, starting)}"


def _who(reading: Reading) -> str:
    return f"worker {reading.worker}" if reading.worker else "the training process"


def _seconds(value: float | None) -> str:
    return f"{value or 0:.0f} s" if (value or 0) >= 10 else f"{value or 0:.1f} s"


def _hint(waited: float, busy: Sequence[Reading], starting: Sequence[int]) -> str:
    if busy and (busy[0].reading or 0) >= 0.5 * waited:
        return (
            "One sample that takes so long points to a drive that hangs (a network drive?) or to an image that is far "
            "larger than its crop: copy the data to a local drive, or cut large images up."
        )
    if busy:
        return (
            "The workers go on, but slowly: raise num_worker_per_gpu, cut large images up, or copy the data to a "
            "local drive."
        )
    if starting:
        return "They may still be starting: each imports the packages anew where processes are spawned."
    return (
        "None of them reads: a batch may be stuck on its way from a worker. Is the memory full, or the shared memory "
        "(/dev/shm; in Docker: --shm-size)?"
    )


def worker_death(error: BaseException, dataset: WatchedDataset) -> LoaderWorkerError | None:
    """What torch's error about a dead worker should have said; None if the error is about something else."""
    if not isinstance(error, RuntimeError) or isinstance(error, LoaderWorkerError):
        return None
    # Where torch notices it twice, the signal is in the first of the two errors alone.
    found = [m for e in (error.__cause__, error) if e is not None and (m := re.search(_DIED, str(e)))]
    if not found or found[-1].string != str(error):
        return None
    died = found[0]
    pids = [int(p) for p in died[1].split(",")]
    was_reading = [dataset.name(r) for r in dataset.readings() if r.pid in pids and r.reading is not None]
    what = f"while reading {'; '.join(was_reading)}" if was_reading else "between two samples"
    how = f"was killed (signal: {died[2]})" if died[2] else "stopped without a word"
    return LoaderWorkerError(f"A worker of the data loader (process {died[1]}) {how} {what}. {_cause(died[2])}")


def _cause(signal: str | None) -> str:
    if signal is not None and "bus error" in signal.lower():
        return "The shared memory (/dev/shm) is full: enlarge it (Docker: --shm-size), or lower num_worker_per_gpu."
    if signal is not None and "segmentation" in signal.lower():
        return "A library crashed on it: look at the file, or set num_worker_per_gpu: 0 to see where it happens."
    return (
        "Most often memory ran out: lower num_worker_per_gpu, switch cache_images off (every worker keeps a cache of "
        "its own), or cut large images up."
    )


class _Wait:
    """For one batch."""

    __slots__ = ("next_warning", "since", "warned")

    def __init__(self, since: float, next_warning: float) -> None:
        self.since = since
        self.next_warning = next_warning
        self.warned = False


class StallWatch:
    """Warns when a batch does not come, and again after twice that time, four times, and so on; says when it came.

    A context manager, to be opened around the whole loop: torch reports a dead worker wherever the training process
    happens to be.

        with StallWatch(dataset, 60) as watch:
            for batch in watch.batches(loader): ...

    Args:
        dataset: What the loader reads.
        seconds: Until the first warning; 0 or None: never.
        logger: For the warnings; default: BasicSR's.
    """

    def __init__(
        self, dataset: WatchedDataset, seconds: float | None = 60.0, logger: logging.Logger | None = None
    ) -> None:
        self.dataset = dataset
        self.seconds = float(seconds or 0)
        self._logger = logger or logging.getLogger("basicsr")
        self._lock = threading.Lock()
        self._wait: _Wait | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._opened = False

    def __enter__(self) -> StallWatch:
        self._opened = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._opened = False
        self.stop()
        if error is not None:
            self._name_the_dead(error)

    def batches(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """One pass over the loader."""
        # Workers are best forked while there is no other thread. Persistent ones are there already at later passes.
        if loader.num_workers and not loader.persistent_workers:
            self.stop()
        if self._thread is None:
            iterator = iter(loader)
        else:
            with self.waiting():
                iterator = iter(loader)
        try:
            while True:
                with self.waiting():
                    try:
                        batch = next(iterator)
                    except StopIteration:
                        return
                yield batch
        finally:
            if not self._opened:  # nobody else would end the thread
                self.stop()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for a batch; a dead worker is reported as `LoaderWorkerError`."""
        if not self.seconds:
            try:
                yield
            except RuntimeError as error:
                self._name_the_dead(error)
                raise
            return
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="stall watch", daemon=True)
            self._thread.start()
        wait = self._wait = _Wait(time.monotonic(), self.seconds)
        came = False
        try:
            yield
            came = True
        except RuntimeError as error:
            self._name_the_dead(error)
            raise
        finally:
            with self._lock:
                self._wait = None
            if wait.warned and came:
                self._logger.warning(f"The data loader goes on after {_seconds(time.monotonic() - wait.since)}.")

    def stop(self) -> None:
        """End the thread; it starts again when it is needed."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _name_the_dead(self, error: BaseException) -> None:
        death = worker_death(error, self.dataset)
        if death is not None:
            raise death from error

    def _run(self) -> None:
        pause = self.seconds
        while not self._stop.wait(pause):
            pause = self._look()

    def _look(self) -> float:
        """Warn if it is time to; returns the seconds until the next look."""
        with self._lock:
            wait = self._wait
            if wait is None:  # a wait that begins right now is not due before that
                return self.seconds
            waited = time.monotonic() - wait.since
            if waited >= wait.next_warning:
                readings = self.dataset.readings()
                names = {r.worker: self.dataset.name(r) for r in readings if r.reading is not None}
                self._logger.warning(stall_message(waited, readings, names))
                wait.warned = True
                while wait.next_warning <= waited:
                    wait.next_warning *= 2
            return wait.next_warning - waited
