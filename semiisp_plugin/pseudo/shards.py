"""One shard of a build: photographs in, LMDBs and a record out, whatever interrupts it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import UNUSABLE, Journal, lacks_memory, mapped, reason_of
from semiisp_plugin.io.image_io import ImageReadError, encode_png, to_uint8, to_uint16
from semiisp_plugin.io.lmdb_io import LmdbImageWriter
from semiisp_plugin.io.locks import LockTakenError, file_lock
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import SETS, BuildFolder, Photograph, ShardRecord, pair_keys, photograph_seed

_NOT_THE_FILES_FAULT = {
    getattr(errno, name)
    for name in ("EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "ENOLINK")
    if hasattr(errno, name)
}
_PATIENCE = 3.0  # seconds in which the locks of a process that was just killed are gone
_MAX_PENDING_BYTES = 2**26  # encoded images that wait for a commit
_MAX_BATCH_PIXELS = 2**24
_CHUNK = 16
_MANY = 10**9  # commits are the builder's business: journal first, then all sets


class Interrupted(Exception):  # noqa: N818 - a request, no error
    """The build was asked to stop; what is committed stays."""


WRITTEN, DONE, SHARD, PLACE = range(4)
"""What a builder tells of itself: pairs stored, photographs done, and the photograph at hand (-1: none, or several)."""


class Watch:
    """What a builder tells of itself while it works, and asks.

    Args:
        counter: Four numbers, which processes may share; see `WRITTEN`.
        stop: Its ``value`` is asked between photographs; 1 ends the build with `Interrupted`.
        on_done: Called after each photograph.
    """

    def __init__(self, counter: Any = None, stop: Any = None, on_done: Callable[[], object] = lambda: None) -> None:
        self.counter = [0, 0, -1, -1] if counter is None else counter
        self._stop = stop
        self._on_done = on_done

    def at(self, shard: int, place: int) -> None:
        """A photograph is next, by its shard and place; -1 and -1: what is next is no single photograph's doing."""
        self.counter[SHARD], self.counter[PLACE] = shard, place

    def done(self) -> None:
        """A photograph is done."""
        self.counter[DONE] += 1
        self._on_done()

    def stored(self, pairs: int) -> None:
        """So many pairs were committed."""
        self.counter[WRITTEN] += pairs

    def stopped(self) -> bool:
        """Whether the build is to end."""
        return self._stop is not None and bool(self._stop.value)


class _Task(NamedTuple):
    """A photograph of a shard, the keys of its pairs that are missing, and whether it must be read."""

    place: int
    photograph: Photograph
    wanted: list[str]
    read: bool


_Read = tuple[_Task, np.ndarray]


class _Pair(NamedTuple):
    """A pair on its way to the disk: images by set, the share of clipped values, and the encoded images with shapes.

    And the photograph it is of, with what is wrong with that, if anything is.
    """

    path: str
    key: str
    images: Mapping[str, np.ndarray]
    clipped: float
    encoded: Mapping[str, tuple[bytes, tuple[int, ...]]] = {}
    problem: str | None = None


def root_id(root: str) -> tuple[int, int] | None:
    """Device and inode of a folder, by which it is noticed when something is mounted there; None if there is none."""
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class ShardBuilder:
    """Builds shards, one after another.

    Photographs are read, run through f_ISP, encoded, and committed in chunks: journal, then each set's LMDB. Pairs that
    are there already are not made again. With a ``batch`` above 1 a chunk of which anything is missing is computed as a
    whole, in the same batches: a GPU's sums depend on the size of the batch in their last bits.

    Args:
        build: The folder.
        generator: Makes the pairs.
        root: `root_id` of the folder of photographs when the run began.
        device: Where f_ISP runs.
        threads: Threads that decode, and as many that encode, beside f_ISP; 0 for none.
        png_compression: See `encode_png`.
        doomed: Photographs not to be read, with the reason: they have crashed a process.
        watch: Is told what happens.
    """

    def __init__(
        self,
        build: BuildFolder,
        generator: PseudoPairGenerator,
        root: tuple[int, int] | None,
        *,
        device: torch.device | str = "cpu",
        threads: int = 0,
        png_compression: int | Literal["fast"] = "fast",
        doomed: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.build = build
        self.generator = generator
        self.root = root
        self.device = torch.device(device)
        self.threads = threads
        self.png_compression = png_compression
        self.doomed = doomed or {}
        self.watch = watch or Watch()
        self.sets = SETS[build.mode]
        self.seed, self.draws, self.batch, self.input_bits = (
            int(build.settings[name]) for name in ("manual_seed", "draws", "batch", "input_bits")
        )
        self.generator.to(self.device)

    def build_shard(self, shard: int) -> bool:
        """Complete a shard; False if another process is at it.

        Raises:
            OSError: The disk is full and the like.
            Interrupted: See `Watch`.
        """
        if self.build.is_done(shard):
            return True
        try:
            with file_lock(self.build.file(shard, "lock")):
                if not self.build.is_done(shard):  # another process may have been faster
                    self._build(shard)
        except LockTakenError:
            return False
        return True

    def build_all(self, order: Sequence[int]) -> None:
        """Build the shards that nobody else is building, until there are none."""
        waiting = list(order)
        deadline: float | None = None
        while waiting:
            held = [shard for shard in waiting if not self.build_shard(shard)]
            if len(held) < len(waiting):
                deadline = None
            elif deadline is None:
                deadline = time.monotonic() + _PATIENCE
            elif time.monotonic() > deadline:
                return  # by processes that will complete them
            waiting = held
            if held:
                time.sleep(0.1)

    def _build(self, shard: int) -> None:
        photographs = self.build.photographs(shard)
        skipped: dict[str, str] = {}
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(self.build.file(shard, "journal.jsonl")))
            writers = {
                name: stack.enter_context(
                    LmdbImageWriter(
                        self.build.lmdb(shard, name), resume=True, batch=_MANY, compression=self.png_compression
                    )
                )
                for name in self.sets
            }
            # Of which pair one set alone was stored, both are made again, from the photograph as it is now.
            complete = set(journal.entries).intersection(*(writer.keys() for writer in writers.values()))
            for writer in writers.values():
                writer.discard(writer.keys() - complete)
            pairs = self._pairs(shard, self._tasks(photographs, complete), skipped)
            self._commit(mapped(self._encoded, pairs, self.threads), journal, writers, skipped)
            keys = [key for p in photographs if p.path not in skipped for key in pair_keys(p.key, self.draws)]
            for writer in writers.values():  # draws of a photograph that could be read at first
                writer.discard(writer.keys() - set(keys))
            sizes = {name: writer.n_bytes for name, writer in writers.items()}
        record = ShardRecord(
            photographs=len(photographs),
            pairs=len(keys),
            bytes=sizes,
            clipped=float(sum(journal.entries[key] for key in keys)),
            skipped=skipped,
        )
        write_atomically(self.build.file(shard, "done.json"), record.to_json())
        self.build.file(shard, "journal.jsonl").unlink(missing_ok=True)

    # --- from photographs to pairs -----------------------------------------------------------------------------------

    def _tasks(self, photographs: Sequence[Photograph], complete: set[str]) -> list[_Task]:
        wanted = [[key for key in pair_keys(p.key, self.draws) if key not in complete] for p in photographs]
        tasks = []
        for first in range(0, len(photographs), _CHUNK):
            chunk = range(first, min(first + _CHUNK, len(photographs)))
            whole = self.batch > 1 and any(wanted[place] for place in chunk)
            tasks += [_Task(i, photographs[i], wanted[i], whole or bool(wanted[i])) for i in chunk]
        return tasks

    def _pairs(self, shard: int, tasks: Sequence[_Task], skipped: dict[str, str]) -> Iterator[_Pair]:
        """The pairs that are not there yet."""

        def read(task: _Task) -> tuple[_Task, np.ndarray | Exception | None]:
            if not task.read:
                return task, None
            path = task.photograph.path
            if path in self.doomed:
                return task, ImageReadError(self.doomed[path])
            self.watch.at(shard, task.place)
            try:
                return task, self.build.read(path)
            except UNUSABLE as error:
                return task, error

        ready: list[_Read] = []
        for task, image in mapped(read, tasks, self.threads, ahead=_CHUNK):
            if self.watch.stopped():
                raise Interrupted
            if isinstance(image, Exception):
                self._raise_if_not_the_files_fault(image)
                if task.wanted:  # else its pairs are there, and only its batch would have needed it
                    skipped[task.photograph.path] = _problem(task.photograph.path, image)
            if isinstance(image, np.ndarray):
                ready.append((task, image))
            else:
                self.watch.done()
            del image  # the next one may be as large
            # Single photographs wait for nothing.
            if self.batch == 1 or (task.place + 1) % _CHUNK == 0 or task is tasks[-1]:
                for group in [ready] if self.batch == 1 else batches(ready, self.batch):
                    if self.batch > 1:
                        self.watch.at(-1, -1)
                        if self.watch.stopped():
                            raise Interrupted
                    yield from self._usable_pairs_of(group, skipped)
                ready.clear()

    def _raise_if_not_the_files_fault(self, error: Exception) -> None:
        """Where the storage or the machine fails, no photograph may be skipped for good."""
        if getattr(error, "errno", None) in _NOT_THE_FILES_FAULT:
            raise OSError(
                f"{error} That is the storage's or the machine's doing: when it is in order again, give the same "
                f"command. If it is this file's after all, remove it."
            ) from error
        root = self.build.settings["photographs"]
        here = root_id(root)
        if isinstance(error, FileNotFoundError) and (here is None or self.root not in (None, here)):
            raise FileNotFoundError(
                f"The folder of photographs '{root}' is gone, or another one is there; mount it again, then give the "
                f"same command."
            ) from error

    def _usable_pairs_of(self, group: Sequence[_Read], skipped: dict[str, str]) -> Iterator[_Pair]:
        """`_pairs_of`; what fails is made one by one, and the photograph that fails alone, skipped."""
        problem = None
        try:
            yield from self._pairs_of(group)
        except UNUSABLE as error:
            # After other errors of a GPU nothing works any more.
            if isinstance(error, OSError) or (self.device.type != "cpu" and not lacks_memory(error)):
                raise
            problem = _problem(group[0][0].photograph.path, error)
        if problem is not None and len(group) > 1:
            for photograph in group:
                yield from self._usable_pairs_of([photograph], skipped)
            return
        if problem is not None:
            skipped[group[0][0].photograph.path] = problem
        for _ in group:
            self.watch.done()

    def _pairs_of(self, group: Sequence[_Read]) -> Iterator[_Pair]:
        """The missing pairs of photographs of one size."""
        photos = None
        for draw in range(self.draws):
            keys = [pair_keys(task.photograph.key, self.draws)[draw] for task, _ in group]
            wanted = [key in task.wanted for key, (task, _) in zip(keys, group, strict=True)]
            if not any(wanted):
                continue
            arrays: dict[str, np.ndarray] = {}
            clipped = torch.zeros(len(group))
            if self.sets:  # else the photograph can be used: that is all
                if photos is None:
                    stack = np.stack([image for _, image in group])
                    photos = torch.from_numpy(stack).permute(0, 3, 1, 2).to(self.device)
                generators = [torch.Generator().manual_seed(photograph_seed(self.seed, key)) for key in keys]
                tensors = {"gt": self.generator.generate_target(photos, generators)}
                if "lq" in self.sets:
                    pair = self.generator.generate_input(tensors["gt"], generators)
                    tensors["lq"], clipped = pair.input, pair.clipped.cpu()
                arrays = {name: tensor.permute(0, 2, 3, 1).cpu().numpy() for name, tensor in tensors.items()}
            for i in range(len(group)):
                if wanted[i]:
                    task = group[i][0]
                    task.wanted.remove(keys[i])
                    images = {name: array[i] for name, array in arrays.items()}
                    yield _Pair(task.photograph.path, keys[i], images, float(clipped[i]))

    # --- from pairs to the disk --------------------------------------------------------------------------------------

    def _encoded(self, pair: _Pair) -> _Pair:
        encoded = {}
        try:
            for name, array in pair.images.items():
                if array.dtype != np.uint8:
                    array = to_uint16(array) if self.input_bits == 16 else to_uint8(array)
                array = np.ascontiguousarray(array)
                encoded[name] = (encode_png(array, self.png_compression), array.shape)
        except UNUSABLE as error:
            return pair._replace(images={}, problem=_problem(pair.path, error))
        return pair._replace(images={}, encoded=encoded)

    def _commit(
        self,
        pairs: Iterable[_Pair],
        journal: Journal,
        writers: Mapping[str, LmdbImageWriter],
        skipped: dict[str, str],
    ) -> None:
        """Store pairs. What was made before an error or an interruption is stored, too."""
        waiting: list[_Pair] = []

        def store() -> None:
            ready, waiting[:] = list(waiting), []
            if not ready:
                return
            self.watch.at(-1, -1)
            journal.add({pair.key: pair.clipped for pair in ready}, sync=True)
            for name, writer in writers.items():
                for pair in ready:
                    writer.put(pair.key, *pair.encoded[name])
                writer.flush()
            self.watch.stored(len(ready))

        size = 0
        try:
            for pair in pairs:
                if pair.problem is not None:
                    skipped[pair.path] = pair.problem
                    continue
                waiting.append(pair)
                size += sum(len(data) for data, _ in pair.encoded.values())
                if len(waiting) >= _CHUNK or size >= _MAX_PENDING_BYTES:
                    store()
                    size = 0
        finally:
            store()


def _problem(path: str, error: Exception) -> str:
    """Why a photograph is skipped, with its name."""
    return str(error) if isinstance(error, (ImageReadError, OSError)) else f"{path}: {reason_of(error, path)}"


def batches(photographs: Sequence[_Read], size: int) -> Iterator[list[_Read]]:
    """Photographs of one height and width together, at most ``size`` and 16 megapixels a batch, in their order."""
    groups: dict[tuple[int, ...], list[_Read]] = {}
    for task, image in photographs:
        groups.setdefault(image.shape, []).append((task, image))
    for shape, group in groups.items():
        n = max(1, min(size, _MAX_BATCH_PIXELS // (shape[0] * shape[1])))
        for first in range(0, len(group), n):
            yield group[first : first + n]
