"""LMDB folders of images in BasicSR's layout: a shared reader, a writer that survives being killed, and keys.

A folder ``name.lmdb`` holds ``data.mdb``, ``lock.mdb`` and ``meta_info.txt``, one line an image:
``key.png (height,width,channels) compression``. The value of ``key`` is the encoded PNG. BasicSR takes what precedes
the first dot of a line for the key, so keys are ASCII without dots or spaces; `lmdb_key` makes them from file names.

LMDB forbids opening one environment twice in a process (lmdb 3 refuses, earlier versions misbehave) and using one
across a fork. Readers of a folder therefore share one environment a process, opened at the first read. A folder that is
being written is not to be read, for readers take no lock; its ``meta_info.txt`` may be.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import lmdb

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import strip_extension

META_NAME = "meta_info.txt"
"""BasicSR's list of what an LMDB folder holds."""

MAX_KEY_BYTES = 511
"""Longest key of an LMDB built with its defaults."""

_META_LINE = re.compile(r"(?P<key>[^.]+)\.\S+ \((\d{1,9}),\s*(\d{1,9}),\s*(\d{1,9})\) (?P<level>\d{1,9})")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")
_DATABASE = {"data.mdb", "lock.mdb"}
# Images waiting for a commit never take more memory than this, however large they are.
_MAX_PENDING_BYTES = 128 * 2**20
# Of a data set of thousands of shards only the last used stay open: a process has 1024 files, two an environment.
_MAX_OPEN = 256


class MetaEntry(NamedTuple):
    """One line of ``meta_info.txt``.

    Attributes:
        key: Key of the image.
        shape: Height, width and number of channels.
        level: PNG compression level it was written with.
    """

    key: str
    shape: tuple[int, int, int]
    level: int


# --- keys -----------------------------------------------------------------------------------------------------------


def lmdb_key(relative_path: str) -> str:
    """Make the LMDB key of an image from its path below the data set's root.

    The extension goes; letters, digits, ``_``, ``-`` and ``/`` stay; each other byte of the (UTF-8) path becomes
    ``%XX``: ``train/000000000009.jpg`` -> ``train/000000000009``, ``a.b é.png`` -> ``a%2Eb%20%C3%A9``. Paths that
    differ in more than their extension, and how their letters are composed, get different keys. Keys over 440 bytes end
    in a SHA-256 of the path instead of its tail, because LMDB keys are limited to 511.

    Args:
        relative_path: Relative, with ``/``; see `semiisp_plugin.io.image_io.list_images`.

    Raises:
        ValueError: The path is empty, absolute, or not in its shortest form (``a//b``, ``./a``, ``../a``).
    """
    parts = relative_path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"'{relative_path}' is no plain relative path; give it relative to the root, without '.', '..' and '//'."
        )
    stem, _ = strip_extension(relative_path)
    key = quote_key(stem)
    if len(key) > 440:
        # '~' is never left by quoting, so that no other path can produce this key.
        key = f"{key[:370]}~{_digest(stem)}"
    return key


def quote_key(text: str) -> str:
    """Write each byte that a key cannot hold as ``%XX`` (see `lmdb_key`), accented letters composed.

    Some systems store "é" as one letter, some as "e" and an accent: what looks the same gets the same key.
    """
    composed = unicodedata.normalize("NFC", text)
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in os.fsencode(composed))


def unique_keys(paths: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Make the keys of images of a data set; those that would meet, or be taken, keep their extension.

    ``["a.jpg", "b.jpg", "b.png"]`` -> ``["a", "b~jpg", "b~png"]``. Where that is not enough they get a hash of their
    path instead. The result does not depend on the order.

    Args:
        paths: Relative paths, as for `lmdb_key`, all different.
        taken: Keys of other images.

    Returns:
        One key a path, in the order of ``paths``, all different.

    Raises:
        ValueError: Even the longest key of a path is taken.
    """
    keys = own = [lmdb_key(path) for path in paths]
    # The extension is not enough where names differ in how an accented letter is stored.
    for ending in (lambda path: strip_extension(path)[1].removeprefix("."), _digest):
        counts = Counter(keys)
        keys = [
            f"{first}~{ending(path)}" if counts[key] > 1 or key in taken else key
            for path, first, key in zip(paths, own, keys, strict=True)
        ]
    for path, key in zip(paths, keys, strict=True):
        if key in taken:
            raise ValueError(f"'{path}' would have the key '{key}', which is another image's; rename the file.")
    return keys


def _digest(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


# --- reading --------------------------------------------------------------------------------------------------------


class _Open(NamedTuple):
    """A reader's environment.

    Attributes:
        environment: The LMDB environment.
        pid: Process that opened it; a child of a fork must not use it.
        file: Device and inode of ``data.mdb``: a folder that was deleted and made again is another one.
    """

    environment: Any
    pid: int
    file: tuple[int, int]


_open: dict[str, _Open] = {}  # real path of the folder -> its environment, the least recently used first
_lock = threading.RLock()


def _renew_lock() -> None:
    """In the child of a fork: a thread that held the lock exists in the parent only."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


def read_value(folder: str | os.PathLike[str], key: str) -> bytes:
    """Read one value.

    Safe in threads, and in DataLoader workers however they are started: nothing is opened before the first read, and
    a forked worker opens its own environment.

    Args:
        folder: The LMDB folder.
        key: Key of the value.

    Raises:
        FileNotFoundError: The folder is missing, or is no LMDB.
        KeyError: It has no such key.
        RuntimeError: The folder is damaged, or is being written by this process.
    """
    path = os.fspath(folder)
    encoded = key.encode("utf-8")
    if not 0 < len(encoded) <= MAX_KEY_BYTES:
        raise KeyError(f"'{key}' cannot be a key of {path}: it has {len(encoded)} bytes, not 1 to 511.")
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "data.mdb")):
        shards = _shards_by_key(path, os.stat(path).st_mtime_ns)
        if shards and key not in shards:
            raise KeyError(f"'{folder}' has no key '{key}' in any of its {len(parts(path))} shards.")
        path = shards.get(key, path)
    with _lock:
        environment = _environment(path)
        try:
            try:
                with environment.begin() as transaction:
                    value = transaction.get(encoded)
            except lmdb.MapResizedError:  # it has grown since it was opened
                environment.set_mapsize(0)
                with environment.begin() as transaction:
                    value = transaction.get(encoded)
        except lmdb.Error as error:
            raise RuntimeError(f"'{path}' is damaged ('{key}': {error}). Copy it again, or write it again.") from error
    if value is None:
        raise KeyError(f"'{path}' has no key '{key}'.")
    return bytes(value)


def parts(folder: str | os.PathLike[str]) -> list[str]:
    """The LMDB folders that an LMDB folder consists of: its shards in order (as ``basicsr pseudo`` writes), or itself.

    A folder that is missing or holds neither gives none.
    """
    path = os.fspath(folder)
    if os.path.exists(os.path.join(path, "data.mdb")):
        return [path]
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(".lmdb"))
    except OSError:
        return []
    found = [os.path.join(path, name) for name in names]
    return [part for part in found if os.path.exists(os.path.join(part, "data.mdb"))]


def read_meta(folder: str | os.PathLike[str]) -> list[MetaEntry]:
    """Read what an LMDB folder holds from its ``meta_info.txt``; of one in shards, what they hold one after another.

    A last line without line end that does not parse is what a killed writer leaves; it is ignored, as its image is.

    Raises:
        FileNotFoundError: There is no such folder, or no ``meta_info.txt`` in it.
        ValueError: A line is malformed, or a key occurs twice.
    """
    shards = parts(folder)
    if shards and shards != [os.fspath(folder)]:
        return [entry for shard in shards for entry in read_meta(shard)]
    path = Path(folder) / META_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"'{os.fspath(folder)}' "
            + (f"has no {META_NAME}, so it is no image LMDB." if Path(folder).is_dir() else "is not a folder.")
            + " Give a folder written by LmdbImageWriter or by BasicSR's scripts/data_preparation."
        )
    entries, seen = [], set()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start + 1} is not of a text in UTF-8. Write the folder again.") from None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        match = _META_LINE.fullmatch(line)
        if match is None:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ValueError(
                f"{path}, line {number}: '{line}' is not of the form 'key.png (height,width,channels) compression'."
            )
        height, width, channels = (int(match[i]) for i in (2, 3, 4))
        entry = MetaEntry(match["key"], (height, width, channels), int(match["level"]))
        if entry.key in seen:
            raise ValueError(f"{path}, line {number}: the key '{entry.key}' was there before. Write the folder again.")
        seen.add(entry.key)
        entries.append(entry)
    return entries


def close_all() -> None:
    """Close the environments of this process's readers, for tests and before a folder is moved or deleted."""
    with _lock:
        _shards_by_key.cache_clear()
        while _open:
            _open.popitem()[1].environment.close()


@lru_cache(maxsize=16)
def _shards_by_key(folder: str, changed: int) -> dict[str, str]:
    """Key -> shard, of an LMDB folder in shards that was changed last at this time."""
    return {entry.key: part for part in parts(folder) for entry in read_meta(part)}


def _environment(folder: str) -> Any:
    """This process's environment of a folder, opened if need be; the caller holds the lock while it uses it."""
    path = os.path.realpath(folder)
    try:
        status = os.stat(os.path.join(path, "data.mdb"))
    except OSError as error:
        what = "holds no data.mdb, so it is no LMDB" if os.path.isdir(path) else "is not a folder"
        raise FileNotFoundError(f"'{folder}' {what}. Check the path (absolute: '{path}').") from error
    file = (status.st_dev, status.st_ino)
    entry = _open.pop(path, None)
    if entry is not None and (entry.pid, entry.file) != (os.getpid(), file):
        # Inherited by a fork, or of a folder that was replaced. In a child this closes the child's copy only.
        entry.environment.close()
        entry = None
    if entry is None:
        while len(_open) >= _MAX_OPEN:
            _open.pop(next(iter(_open))).environment.close()
        try:
            # No lock: data sets lie on read-only media, too. No read-ahead: access is random.
            environment = _opened(path, readonly=True, lock=False)
        except lmdb.Error as error:
            raise RuntimeError(
                f"'{folder}' cannot be opened as LMDB: {error}. If it is damaged write it again; if other code of this "
                "process has opened it, let that code use semiisp_plugin.io.lmdb_io.read_value; if it is being "
                "written, close the writer first."
            ) from error
        entry = _Open(environment, os.getpid(), file)
    _open[path] = entry  # the last used is the last
    return entry.environment


def _opened(folder: str, **how: Any) -> Any:
    """An environment whose file has all its pages: reading one that is missing would end the process (SIGBUS)."""
    environment = lmdb.open(folder, readahead=False, **how)
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    held = os.path.getsize(os.path.join(folder, "data.mdb"))
    if held < needed:
        environment.close()
        raise lmdb.Error(
            f"its data.mdb was cut short, as by an interrupted copy ({held} bytes of at least {needed}); copy it again"
        )
    return environment


# --- writing --------------------------------------------------------------------------------------------------------


class LmdbImageWriter:
    """Writes an LMDB folder image by image, in constant memory.

    Each batch is committed to the database first and then appended to ``meta_info.txt``: whatever the moment the
    process is killed at, the lines of ``meta_info.txt`` name images that can be read, and ``resume=True`` resumes
    from there. The database grows as needed.

    Args:
        folder: Where to; the name ends in ``.lmdb``. Parent folders are made.
        map_size: Initial size limit of the database in bytes. It is doubled when reached, so it need not be right.
        batch: Images in a commit.
        resume: Resume a folder that an interrupted writer has left, or begin one that holds nothing but the record of a
            job. Without it a folder that holds anything is refused.
        compression: PNG compression level to note in ``meta_info.txt``; ``fast`` is noted as 1.

    Attributes:
        n_bytes: Size of the encoded images, those of the resumed run and those not yet committed included.

    Raises:
        ValueError: ``folder`` does not end in ``.lmdb``; or it is to be resumed but holds something else.
        FileExistsError: ``folder`` holds files, and ``resume`` is not set.

    Example:
        >>> with LmdbImageWriter(folder, resume=True) as writer:  # doctest: +SKIP
        ...     for path, key in zip(paths, unique_keys(paths)):
        ...         if key not in writer:
        ...             image = read_image(root / path)
        ...             writer.put(key, encode_png(image), image.shape)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        map_size: int = 2**30,
        batch: int = 64,
        resume: bool = False,
        compression: int | Literal["fast"] = "fast",
    ) -> None:
        self.folder = Path(folder)
        if self.folder.suffix != ".lmdb":
            raise ValueError(f"'{folder}' must end in '.lmdb': BasicSR knows LMDB folders by their name.")
        if batch < 1 or map_size < 1:
            raise ValueError(f"batch ({batch}) and map_size ({map_size}) must be positive.")
        occupied = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
        if occupied and not resume:
            raise FileExistsError(
                f"'{folder}' exists and is not empty. Delete it, choose another folder, or resume it (resume=True)."
            )
        self.batch = batch
        self.level = 1 if compression == "fast" else compression
        self._pending: list[tuple[str, bytes, str]] = []
        self._pending_bytes = 0
        self.n_bytes = 0
        self._keys = self._interrupted_keys() if occupied else set()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._environment = self._open(map_size)
        try:
            self._check_resumable()
            self._meta = open(self.folder / META_NAME, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed in close()
        except BaseException:
            self._environment.close()
            raise
        self.closed = False

    def __enter__(self) -> LmdbImageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        """Whether an image of this key was written, also by the run that is resumed."""
        return key in self._keys

    def __len__(self) -> int:
        """Number of images, those of the resumed run included."""
        return len(self._keys)

    def keys(self) -> frozenset[str]:
        """Keys of all images, those of the resumed run included."""
        return frozenset(self._keys)

    def put(self, key: str, png_bytes: bytes, shape: Sequence[int]) -> None:
        """Add an image; it is on disk after the next commit (each ``batch`` images, and `close`).

        Args:
            key: See `lmdb_key`.
            png_bytes: The encoded image (`semiisp_plugin.io.image_io.encode_png`).
            shape: Its height, width and number of channels.

        Raises:
            ValueError: The key is unusable or was there before.
        """
        if self.closed:
            raise ValueError(f"The writer of '{self.folder}' is closed.")
        self._check_key(key)
        height, width, channels = (int(n) for n in shape)
        self._keys.add(key)
        self._pending.append((key, png_bytes, f"{key}.png ({height},{width},{channels}) {self.level}\n"))
        self._pending_bytes += len(png_bytes)
        self.n_bytes += len(png_bytes)
        if len(self._pending) >= self.batch or self._pending_bytes >= _MAX_PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Commit what was put so far, growing the database if it is full.

        Raises:
            OSError: The disk is full or fails; what was committed before stays usable.
        """
        if not self._pending:
            return
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value, _ in self._pending:
                        transaction.put(key.encode("ascii"), value)
                break
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                # lmdb's errors are no OSErrors, and it reports a full disk as an input/output error.
                raise OSError(
                    f"'{self.folder}' could not be written: {error}. Is the disk full? {len(self._pending)} images "
                    "were not stored; those before them are safe. Make room, then resume."
                ) from error
        # From here on they must not be written again, whatever interrupts the rest: their lines would be doubled. An
        # image without a line is as if it were not there.
        stored, self._pending, self._pending_bytes = self._pending, [], 0
        self._meta.write("".join(line for _, _, line in stored))
        self._meta.flush()
        os.fsync(self._meta.fileno())

    def discard(self, keys: Collection[str]) -> None:
        """Take images out again, those of the resumed run, too; keys that are not there are passed over.

        Raises:
            OSError: See `flush`.
        """
        self.flush()
        gone = self._keys & set(keys)
        if not gone:
            return
        path = self.folder / META_NAME
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.partition(".")[0] not in gone]
        # The list first: what it names is there at every moment.
        self._meta.close()
        write_atomically(path, "".join(kept))
        self._meta = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed in close()
        self._keys -= gone
        with self._environment.begin(write=True) as transaction:
            for key in sorted(gone):
                value = transaction.pop(key.encode("ascii"))
                self.n_bytes -= len(value or b"")

    def close(self) -> None:
        """Commit and close. Closing twice is harmless."""
        if self.closed:
            return
        self.closed = True
        try:
            self.flush()
        finally:
            self._meta.close()
            self._environment.close()

    def _interrupted_keys(self) -> set[str]:
        """Keys that an interrupted run has completed; repairs the list of images if it ends within a line."""
        path = self.folder / META_NAME
        held = {p.name for p in self.folder.iterdir()} if self.folder.is_dir() else {""}
        if {name for name in held if not name.startswith(".") and not name.endswith(".json")} <= _DATABASE:
            # Killed, or on a full disk, while it was being made: nothing was promised, half a header may be there.
            for name in held & _DATABASE:
                (self.folder / name).unlink()
            return set()
        if not {META_NAME, "data.mdb"} <= held:
            raise ValueError(
                f"'{self.folder}' is not what an interrupted writer leaves (data.mdb and {META_NAME}); it cannot be "
                "resumed. Delete it or choose another folder."
            )
        text = path.read_bytes()
        if text and not text.endswith(b"\n"):
            os.truncate(path, text.rfind(b"\n") + 1)
        return {entry.key for entry in read_meta(self.folder)}

    def _open(self, map_size: int) -> Any:
        """Open the environment for writing; a reader's of this process is closed first."""
        with _lock:
            known = _open.pop(os.path.realpath(self.folder), None)
            if known is not None:
                known.environment.close()
        try:
            return _opened(str(self.folder), map_size=map_size)
        except lmdb.Error as error:
            if "No space left" in str(error) or "Input/output" in str(error):
                raise OSError(f"'{self.folder}' cannot be made: {error}. Is the disk full?") from error
            raise ValueError(
                f"'{self.folder}' cannot be opened for writing: {error}. If other code of this process has it open, "
                "close that first; if it is damaged, delete it."
            ) from error

    def _check_resumable(self) -> None:
        """Raise if the list of images promises what the database does not hold."""
        missing = []
        with self._environment.begin(buffers=True) as transaction:
            for key in self._keys:
                try:
                    value = transaction.get(key.encode("utf-8"))
                except lmdb.Error:  # a damaged page
                    value = None
                if value is None:
                    missing.append(key)
                else:
                    self.n_bytes += len(value)
        if missing:
            raise ValueError(
                f"'{self.folder}' is damaged: {META_NAME} names {len(missing)} images that data.mdb does not hold, "
                f"'{min(missing)}' among them. Delete the folder and write it again."
            )

    def _check_key(self, key: str) -> None:
        """Raise unless BasicSR and LMDB can both handle a key, and it is new."""
        if key in self._keys:
            raise ValueError(f"'{self.folder}' already holds '{key}'. Keys must be unique; see unique_keys.")
        if not key.isascii() or not key.isprintable() or set(key) & {".", " "} or not 0 < len(key) <= MAX_KEY_BYTES:
            raise ValueError(
                f"'{key}' cannot be a key: 1 to {MAX_KEY_BYTES} printable ASCII characters, without '.' and spaces, "
                "are needed. lmdb_key makes one from a file name."
            )
