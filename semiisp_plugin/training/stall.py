"""A loader that stalls, or whose worker dies, says which file is being read.

Workers note in shared memory what they read (`WatchedDataset`); waiting and giving up are the loader's own
(``DataLoader(timeout=...)``). The notes cost a few microseconds a sample.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from semiisp_plugin.data.sampler import SAMPLES, SampleIndex

_PID, _SOURCE, _NUMBER = range(3)  # of a note; the number is -1 between two samples
_FIELDS = 8  # a cache line of int64 each, so that workers do not slow each other down
_DIED = r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]+)|exited unexpectedly)"
_STALLED = r"DataLoader timed out after (\S+) seconds"


class LoaderWorkerError(RuntimeError):
    """A loader worker hangs or died; the message names the files that are being read, and what to do."""


class WatchedDataset(Dataset[Any]):
    """A training set of the plugin, with notes of what each loader worker is reading.

    Args:
        dataset: Asked for `SampleIndex`.
        num_workers: Of the loader that reads it.
    """

    def __init__(self, dataset: Any, num_workers: int) -> None:
        self.dataset = dataset
        # A tensor, not multiprocessing's array: it may be pickled at any time, and loaders know how to share it.
        self.notes = torch.full((max(1, num_workers), _FIELDS), -1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SampleIndex) -> Any:
        worker = get_worker_info()
        note = self.notes[0 if worker is None else worker.id].numpy()
        note[:3] = os.getpid(), index.source, index.index
        item = self.dataset[index]
        note[_NUMBER] = -1
        return item

    def being_read(self, pids: list[int] | None = None) -> str:
        """The files that workers are reading, all or those with the given process ids; empty if there are none."""
        notes = [n for n in self.notes.tolist() if n[_NUMBER] >= 0 and (pids is None or n[_PID] in pids)]
        return "; ".join(sample_name(self.dataset, n[_SOURCE], n[_NUMBER]) for n in notes)


def sample_name(dataset: Any, source: int, number: int) -> str:
    """The files of a sample and its key, as ``'low/7.png' and 'high/7.png' (real pair '7')``.

    Args:
        dataset: A training set of the plugin.
        source: As in `SampleIndex`.
        number: Of the sample in its source.
    """
    part = getattr(dataset, "_sources", (dataset, dataset))[source]
    entry = (getattr(part, "pairs", None) or part._entries)[number]
    places = [getattr(entry, name) for name in ("input", "target", "location") if hasattr(entry, name)]
    files = " and ".join(f"'{place}'" for place in dict.fromkeys(places))
    return f"{files} ({SAMPLES[source]} '{entry.key}')"


@contextmanager
def naming_files(dataset: WatchedDataset) -> Iterator[None]:
    """Around a whole training loop: torch reports a dead worker wherever the training process happens to be.

    Raises:
        LoaderWorkerError: In place of torch's errors about a worker that died, or a batch that did not come in time.
    """
    try:
        yield
    except RuntimeError as error:
        # Where torch notices a dead worker twice, the signal is in the first of the two errors alone.
        texts = [str(e) for e in (error.__cause__, error) if e is not None]
        died = next((found for text in texts if (found := re.search(_DIED, text))), None)
        stalled = re.search(_STALLED, texts[-1])
        if stalled:
            files = dataset.being_read() or "nothing: the workers are still starting, or have died"
            raise LoaderWorkerError(
                f"The data loader has delivered nothing for {float(stalled[1]):g} s. Being read: {files}. A drive that "
                f"hangs? Else wait longer (datasets:train:timeout), or take smaller images or more workers."
            ) from error
        if died:
            files = dataset.being_read([int(pid) for pid in died[1].split(",")])
            where = f"while reading {files}" if files else "between two samples"
            how = f"was killed (signal: {died[2]})" if died[2] else "stopped without a word"
            raise LoaderWorkerError(
                f"A worker of the data loader (process {died[1]}) {how} {where}. {_cause(died[2] or '')}"
            ) from error
        raise


def _cause(signal: str) -> str:
    if "bus error" in signal.lower():
        return "The shared memory (/dev/shm) is full: enlarge it (Docker: --shm-size), or lower num_worker_per_gpu."
    return (
        "Most often memory ran out: lower num_worker_per_gpu, switch cache_images off (every worker keeps a cache of "
        "its own), or cut large images up; with num_worker_per_gpu: 0 you see where a library crashes."
    )
