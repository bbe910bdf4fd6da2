"""One shard of a build: photographs in, LMDBs and a record out, whatever interrupts it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import ImageReadError, encode_png, printable_path, to_uint8, to_uint16
from semiisp_plugin.io.lmdb_io import LmdbImageWriter
from semiisp_plugin.io.picture import MIN_SIDE, read_photograph
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.keys import pair_keys, photograph_seed
from semiisp_plugin.pseudo.manifest import SETS, BuildFolder, Photograph, ShardRecord, to_json

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


@dataclass(frozen=True)
class BuildSettings:
    """How photographs are read and pairs made and encoded.

    Attributes:
        root: Folder of the photographs.
        root_id: Device and inode of that folder, by which it is noticed when something is mounted there, or no more.
        seed: Of the random parameter sets.
        draws: Pairs of each photograph.
        short_side: See `read_photograph`.
        max_pixels: See `read_photograph`.
        input_bits: Bits of the stored pseudo inputs, 16 or 8.
        png_compression: See `encode_png`.
        batch: Photographs of one size that go through f_ISP together.
        threads: Threads that decode and encode beside f_ISP; 0 for none.
    """

    root: str
    root_id: tuple[int, int] | None = None
    seed: int = 0
    draws: int = 1
    short_side: int | None = None
    max_pixels: int | None = None
    input_bits: Literal[8, 16] = 16
    png_compression: int | Literal["fast"] = "fast"
    batch: int = 1
    threads: int = 0


def root_id(root: str) -> tuple[int, int] | None:
    """Device and inode of a folder, None if there is none."""
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def read_large_enough(settings: BuildSettings, path: str) -> np.ndarray:
    """Read a photograph of a build.

    Args:
        settings: Of the build.
        path: Relative to the root of the photographs.

    Returns:
        RGB (H, W, 3) uint8.

    Raises:
        ImageReadError, OSError: See `read_photograph`; or it is smaller than `MIN_SIDE`.
    """
    limit = {} if settings.max_pixels is None else {"max_pixels": settings.max_pixels}
    image = read_photograph(os.path.join(settings.root, path), short_side=settings.short_side, **limit)
    if min(image.shape[:2]) < MIN_SIDE:
        raise ImageReadError(
            f"{printable_path(path)}: {image.shape[1]}x{image.shape[0]} pixels are too few, the shorter side must have "
            f"{MIN_SIDE}; remove it, or take a larger version."
        )
    return image


class Encoded(NamedTuple):
    """An image as it is stored."""

    data: bytes
    shape: tuple[int, ...]


class _Made(NamedTuple):
    """A pair on its way to the disk: the encoded images by set, and the share of clipped values."""

    key: str
    images: Mapping[str, Encoded]
    clipped: float


class _Chunk(NamedTuple):
    """Photographs being read (None: nothing of them is missing), and the keys of their missing pairs by path."""

    images: deque[tuple[Photograph, Any]]
    wanted: dict[str, list[str]]


class _Journal:
    """A line a pair, on disk before the pair is: what a record needs and the pair itself does not tell.

    Args:
        path: The file; what an interrupted run has left there is read, but for damaged lines.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.clipped: dict[str, float] = {}
        whole = 0
        if os.path.exists(path):
            with open(path, "rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    try:
                        key, clipped = json.loads(line)
                    except (ValueError, TypeError):  # of a power cut; the pair is made again
                        continue
                    self.clipped[key] = clipped
            os.truncate(path, whole)
        self._file: IO[str] = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed in close()

    def add(self, made: Sequence[_Made]) -> None:
        for pair in made:
            if self.clipped.get(pair.key) != pair.clipped:  # else a run before this one has noted it
                self._file.write(f"{json.dumps([pair.key, pair.clipped])}\n")
                self.clipped[pair.key] = pair.clipped
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class ShardBuilder:
    """Builds shards, one after another.

    A chunk of photographs is read, run through f_ISP, encoded, and committed: journal, then each set's LMDB. Pairs that
    are there already are not made again. With ``batch`` above 1 a chunk of which anything is missing is computed as a
    whole, in the same batches: a GPU's sums depend on the size of the batch in their last bits.

    Args:
        build: The folder.
        generator: Makes the pairs.
        settings: See `BuildSettings`.
        device: Where f_ISP runs.
        doomed: Photographs not to be read, with the reason: they have crashed a process.
        on_photograph: Called before each photograph with its shard and place, and with -1 and -1 when what happens next
            is no longer a single photograph's doing.
        on_done: Called after each photograph.
        on_stored: Called after each commit with the number of its pairs.
        stopped: Asked between photographs; True ends the build with `Interrupted`.
    """

    def __init__(
        self,
        build: BuildFolder,
        generator: PseudoPairGenerator,
        settings: BuildSettings,
        *,
        device: torch.device | str = "cpu",
        doomed: Mapping[str, str] | None = None,
        on_photograph: Callable[[int, int], None] = lambda shard, place: None,
        on_done: Callable[[], None] = lambda: None,
        on_stored: Callable[[int], None] = lambda pairs: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.build = build
        self.generator = generator
        self.settings = settings
        self.device = torch.device(device)
        self.doomed = doomed or {}
        self.on_photograph = on_photograph
        self.on_done = on_done
        self.on_stored = on_stored
        self.stopped = stopped
        self.generator.network.to(self.device)
        self.sets = SETS[build.mode]

    def build_shard(self, shard: int) -> bool:
        """Complete a shard; False if another process is at it.

        Raises:
            OSError: The disk is full and the like.
            Interrupted: See the class.
        """
        from filelock import FileLock, Timeout

        if self.build.is_done(shard):
            return True
        lock = FileLock(str(self.build.file(shard, "lock")))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            return False
        with held:
            if not self.build.is_done(shard):  # another process may have been faster
                self._build(shard)
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
        s = self.settings
        photographs = self.build.photographs(shard)
        with ExitStack() as stack:
            journal = _Journal(self.build.file(shard, "journal.jsonl"))
            stack.callback(journal.close)
            writers = {
                name: stack.enter_context(
                    LmdbImageWriter(
                        self.build.lmdb(shard, name),
                        resume=True,
                        batch=_MANY,
                        compression=s.png_compression,
                    )
                )
                for name in self.sets
            }
            pool: _Pool = stack.enter_context(ThreadPoolExecutor(s.threads)) if s.threads else _Inline()
            # Of which pair one set alone was stored, both are made anew, from the photograph as it is now.
            complete = set(journal.clipped).intersection(*(writer.keys() for writer in writers.values()))
            for writer in writers.values():
                writer.discard(writer.keys() - complete)
            set_aside: dict[str, str] = {}
            starts = range(0, len(photographs), _CHUNK)
            chunks = (self._start(shard, i, photographs[i : i + _CHUNK], complete, pool) for i in starts)
            for chunk in ahead(chunks):  # threads read a chunk while the one before it is worked on
                self._commit(self._make(chunk, pool, set_aside), journal, writers)
            keys = [k for p in photographs if p.path not in set_aside for k in pair_keys(p.key, s.draws)]
            for writer in writers.values():  # draws of a photograph that could be read at first
                writer.discard(writer.keys() - set(keys))
            sizes = {name: writer.n_bytes for name, writer in writers.items()}
        record = ShardRecord(
            photographs=len(photographs),
            pairs=len(keys),
            bytes=sizes,
            clipped=float(sum(journal.clipped[k] for k in keys)),
            set_aside=set_aside,
        )
        write_atomically(self.build.file(shard, "done.json"), to_json(record))
        self.build.file(shard, "journal.jsonl").unlink(missing_ok=True)

    # --- a chunk -----------------------------------------------------------------------------------------------------

    def _start(
        self, shard: int, first: int, photographs: Sequence[Photograph], complete: set[str], pool: _Pool
    ) -> _Chunk:
        """Find out what of a chunk is missing, and begin to read it."""
        wanted = {p.path: [k for k in pair_keys(p.key, self.settings.draws) if k not in complete] for p in photographs}
        whole = self.settings.batch > 1 and any(wanted.values())
        images = (
            (p, pool.submit(self._read, shard, first + place, p.path) if whole or wanted[p.path] else None)
            for place, p in enumerate(photographs)
        )
        return _Chunk(deque(images), wanted)

    def _make(self, chunk: _Chunk, pool: _Pool, set_aside: dict[str, str]) -> Iterator[_Made]:
        """The pairs of a chunk that are not there yet."""
        s, wanted = self.settings, chunk.wanted
        ready: list[tuple[Photograph, np.ndarray]] = []
        while chunk.images:
            photograph, future = chunk.images.popleft()  # and forget the image once it is used
            if self.stopped():
                raise Interrupted
            if future is None:
                self.on_done()
                continue
            try:
                image = future.result()
            except (ImageReadError, OSError) as error:  # OSError: no permission, a link to nowhere
                self._raise_if_not_the_files_fault(error)
                if wanted[photograph.path]:  # else its pairs are there, and only its batch would have needed it
                    set_aside[photograph.path] = str(error)
                self.on_done()
                continue
            ready.append((photograph, image))
            if s.batch == 1:  # nothing to wait for
                yield from self._pairs(ready, wanted, pool)
                ready.clear()
        self.on_photograph(-1, -1)
        for group in batches(ready, s.batch):
            if self.stopped():
                raise Interrupted
            yield from self._pairs(group, wanted, pool)

    def _read(self, shard: int, place: int, path: str) -> np.ndarray:
        if path in self.doomed:
            raise ImageReadError(self.doomed[path])
        self.on_photograph(shard, place)
        return read_large_enough(self.settings, path)

    def _raise_if_not_the_files_fault(self, error: Exception) -> None:
        """Where the storage or the machine fails, no photograph may be set aside for good."""
        if getattr(error, "errno", None) in _NOT_THE_FILES_FAULT:
            raise OSError(
                f"{error} That is the storage's or the machine's doing: when it is in order again, give the same "
                f"command. If it is this file's after all, remove it."
            ) from error
        here, before = root_id(self.settings.root), self.settings.root_id
        if isinstance(error, FileNotFoundError) and (here is None or before not in (None, here)):
            raise FileNotFoundError(
                f"The folder of photographs '{self.settings.root}' is gone, or another one is there; mount it again, "
                f"then give the same command."
            ) from error

    def _pairs(
        self, group: Sequence[tuple[Photograph, np.ndarray]], wanted: Mapping[str, Sequence[str]], pool: _Pool
    ) -> Iterator[_Made]:
        """Pairs of photographs of one size."""
        if not self.sets:  # the photograph can be used: that is all
            for photograph, _ in group:
                self.on_done()
                yield from (_Made(key, {}, 0.0) for key in wanted[photograph.path])
            return
        s = self.settings
        stack = np.stack([image for _, image in group])
        photos = torch.from_numpy(stack).permute(0, 3, 1, 2).to(self.device)
        made: dict[str, list[Any]] = {p.path: [] for p, _ in group}
        alone = len(group) == 1
        all_keys = [pair_keys(p.key, s.draws) for p, _ in group]
        for draw in range(s.draws):
            keys = [its[draw] for its in all_keys]
            if alone and keys[0] not in wanted[group[0][0].path]:
                continue
            generators = [torch.Generator().manual_seed(photograph_seed(s.seed, key)) for key in keys]
            target = self.generator.generate_target(photos, generators)
            tensors, clipped = {"gt": target}, torch.zeros(len(group))
            if "lq" in self.sets:
                pair = self.generator.generate_input(target, generators)
                tensors["lq"], clipped = pair.input, pair.clipped.cpu()
            arrays = {name: t.permute(0, 2, 3, 1).cpu().numpy() for name, t in tensors.items()}
            for i, (photograph, _) in enumerate(group):
                if keys[i] in wanted[photograph.path]:
                    own = {name: array[i] for name, array in arrays.items()}
                    future = pool.submit(self._encode, own)
                    if alone:  # the order is the same, and no more than one draw is in memory
                        yield _Made(keys[i], future.result(), float(clipped[i]))
                        continue
                    if not s.threads:
                        future.result()  # now: as float images they would take much more
                    made[photograph.path].append((keys[i], future, float(clipped[i])))
        for photograph, _ in group:
            for key, future, its_clipped in made[photograph.path]:
                yield _Made(key, future.result(), its_clipped)
            self.on_done()

    def _encode(self, images: Mapping[str, np.ndarray]) -> dict[str, Encoded]:
        s = self.settings
        found = {}
        for name, array in images.items():
            if array.dtype != np.uint8:
                array = to_uint16(array) if s.input_bits == 16 else to_uint8(array)
            array = np.ascontiguousarray(array)
            found[name] = Encoded(encode_png(array, s.png_compression), array.shape)
        return found

    def _commit(self, made: Iterator[_Made], journal: _Journal, writers: Mapping[str, LmdbImageWriter]) -> None:
        """Store a chunk's pairs. What was made before an error or an interruption is stored, too."""
        pairs: list[_Made] = []

        def store() -> None:
            ready, pairs[:] = list(pairs), []
            if not ready:
                return
            journal.add(ready)
            for name, writer in writers.items():
                for pair in ready:
                    writer.put(pair.key, *pair.images[name])
                writer.flush()
            self.on_stored(len(ready))

        waiting = 0
        try:
            for pair in made:
                pairs.append(pair)
                waiting += sum(len(image.data) for image in pair.images.values())
                if waiting >= _MAX_PENDING_BYTES:
                    store()
                    waiting = 0
        finally:
            self.on_photograph(-1, -1)
            store()


class _Inline:
    """An executor without threads: does what is submitted when its result is asked for."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        return _Later(fn, args)


class _Later:
    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._call: tuple[Callable[..., Any], tuple[Any, ...]] | None = (fn, args)
        self._result: Any = None

    def result(self) -> Any:
        if self._call is not None:
            (fn, args), self._call = self._call, None
            self._result = fn(*args)
        return self._result


_Pool = ThreadPoolExecutor | _Inline
_T = TypeVar("_T")


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, each asked for before the one in front of it is given away."""
    iterator = iter(items)
    for item in iterator:
        for following in iterator:
            yield item
            item = following
        yield item


def batches(
    photographs: Sequence[tuple[Photograph, np.ndarray]], size: int
) -> Iterator[list[tuple[Photograph, np.ndarray]]]:
    """Photographs of one height and width together, at most ``size`` and 16 megapixels a batch, in their order."""
    groups: dict[tuple[int, ...], list[tuple[Photograph, np.ndarray]]] = {}
    for photograph, image in photographs:
        groups.setdefault(image.shape, []).append((photograph, image))
    for shape, group in groups.items():
        n = max(1, min(size, _MAX_BATCH_PIXELS // (shape[0] * shape[1])))
        for first in range(0, len(group), n):
            yield group[first : first + n]
