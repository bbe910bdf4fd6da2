"""One job on one output folder: the frame of the commands that make many files of many.

::

    <record>.json    settings that the files depend on, and what the command adds; written first, and again at the end
    skipped.txt      a line a file that could not be used: its name, a tab, the reason
    *.jsonl          journals of what is done; see `Journal`
    .lock            held by the process that writes the folder, and says which one that is

Whatever stops a job, the same command resumes it: every file appears whole or not at all, and what is done is read off
the files and the journals alone.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from tqdm import tqdm

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import printable_path
from semiisp_plugin.io.locks import owned

SKIPPED = "skipped.txt"
"""Name of the list of skipped files."""

UNUSABLE = (Exception,)
"""What reading, working on or encoding one file may raise without ending the job: whatever it is, others may do better.
"""
_NO_MEMORY = re.compile(
    "out of memory|n[o']t (enough|allocate) memory|insufficient memory|unable to allocate|bad_alloc|alloc_failed", re.I
)

_T = TypeVar("_T")
_R = TypeVar("_R")


class FolderJob:
    """A job that owns its output folder.

    Args:
        folder: Where it writes.
        command: What the user has typed, such as ``basicsr prepare``.
        record: Name of the record, such as ``prepared.json``; None for a job that mixes what it is given.
        option: By which the user names the folder.
    """

    def __init__(
        self, folder: str | os.PathLike[str], command: str, record: str | None = None, *, option: str = "out"
    ) -> None:
        self.folder = Path(folder)
        self.command = command
        self.record = record
        self.option = option

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Own the folder, which is made if need be.

        Args:
            wait: For the process that owns it now, instead of raising.

        Raises:
            ValueError: Another process owns it; the message says which one.
            OSError: The folder cannot be written.
        """
        with owned(self.folder, self.option, patience=math.inf if wait else None):
            yield

    def read(self) -> dict[str, Any] | None:
        """The record of an earlier run; None: nothing was begun.

        Raises:
            FileExistsError, NotADirectoryError: The folder holds files of something else, or is no folder.
            ValueError: The record is damaged.
        """
        assert self.record is not None
        path = self.folder / self.record
        try:
            record = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
            if not isinstance(record["settings"], dict):
                raise TypeError("its settings are no section")
        except NotADirectoryError:
            raise NotADirectoryError(f"{self.option}: '{self.folder}' is a file; give a folder.") from None
        except FileNotFoundError:
            if self.folder.is_dir() and any(
                not path.name.startswith(".") and path.name != SKIPPED for path in self.folder.iterdir()
            ):
                raise FileExistsError(
                    f"{self.option}: '{self.folder}' holds files, but none of `{self.command}` (no {self.record}). "
                    f"Choose another folder, or delete it."
                ) from None
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({error}), so that it is not clear what '{self.folder}' holds. Delete the folder, "
                f"or choose another ({self.option})."
            ) from None
        return dict(record)

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """`read`, and make sure that the folder was made with the same settings.

        Raises:
            ValueError: It was not; the message names what differs.
        """
        record = self.read()
        if record is None:
            return None
        before, now = record["settings"], as_json(settings)
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            details = "; ".join(
                f"{key}: {before.get(key, 'not given')} then, {now.get(key, 'not given')} now" for key in changed
            )
            raise ValueError(
                f"'{self.folder}' was made with other settings or of other files ({details}), and two kinds are not "
                f"mixed. Restore the former ones, choose another folder ({self.option}), or delete it."
            )
        return record

    @contextmanager
    def begun(self, settings: Mapping[str, Any], **more: Any) -> Iterator[bool]:
        """Own the folder for a job with these settings: a new one, or one to resume.

        Args:
            settings: All that the files depend on; values of JSON.
            more: What the record of a new job says besides.

        Yields:
            Whether the job is resumed.
        """
        self.check(settings)  # before anything is written into a folder of something else
        with self.locked():
            resumed = self.check(settings) is not None
            if not resumed:
                self.write({"settings": settings, **more, "complete": False})
            yield resumed

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the record."""
        assert self.record is not None
        write_json(self.folder / self.record, record)

    def write_skipped(self, reasons: Mapping[str, str]) -> Path | None:
        """Write the list of skipped files, or delete it if there are none; returns where it is."""
        path = self.folder / SKIPPED
        if not reasons:
            path.unlink(missing_ok=True)
            return None
        lines = (f"{printable_path(name)}\t{printable_path(reason)}\n" for name, reason in reasons.items())
        write_atomically(path, "".join(lines))
        return path


class Journal:
    """What is done, a line each, appended and never changed; a line begins with the name of what it is about.

    Args:
        path: The file. What an earlier run has left is read; lines that a kill or a power cut has damaged are passed
            over, so that what they were about is done again.

    Attributes:
        entries: The last entry of each name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.entries: dict[str, Any] = {}
        whole = 0
        if os.path.exists(path):
            with open(path, "rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    try:
                        name, entry = json.loads(line)
                        self.entries[name] = entry
                    except (ValueError, TypeError, RecursionError):
                        continue
            os.truncate(path, whole)
        self._file: IO[str] = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed in close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entries: Mapping[str, Any], *, sync: bool = False) -> None:
        """Add lines, but for those that an earlier run has written.

        Args:
            entries: By name; values of JSON.
            sync: They are on the disk when this returns; otherwise a power cut may take them.
        """
        for name, entry in entries.items():
            if name not in self.entries or self.entries[name] != entry:
                self._file.write(f"{json.dumps([name, entry])}\n")
                self.entries[name] = entry
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())


def mapped(work: Callable[[_T], _R], items: Iterable[_T], threads: int = 0, ahead: int | None = None) -> Iterator[_R]:
    """Do work on items, in order.

    Args:
        work: Decoding, developing and encoding release Python's lock: threads do, and nothing has to be sent to them.
        items: Asked for one by one; several of these, one around the other, are a pipeline.
        threads: How many work ahead of the caller that takes the results; 0: each result is made when it is asked for.
        ahead: How many results may wait, whatever their size; None: two a thread.
    """
    if threads == 0:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[_R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > (2 * threads if ahead is None else ahead):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def lacks_memory(error: BaseException) -> bool:
    """Whether memory was lacking, which Python, NumPy, Numba, OpenCV and torch all say in their own ways."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def reason_of(error: BaseException, name: str = "") -> str:
    """Why a file is skipped, in one line, without the file's name in front."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else getattr(error, "strerror", None) or error
    line = " ".join(str(text).split()) or type(error).__name__
    line = line.removeprefix(f"{printable_path(name)}: ") if name else line
    if lacks_memory(error):
        line = textwrap.shorten(line, 160, placeholder=" ...")
        return f"there is not enough memory for it ({line}); shrink it, or take a machine with more"
    return line


def counted(number: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def progress_bar(total: int, what: str, unit: str, *, done: int = 0, shown: bool = True, in_logs: bool = False) -> Any:
    """A bar on standard error, if that is a terminal.

    Args:
        total: Of what there is to do.
        what: In front of the bar.
        unit: Of the figures.
        done: By earlier runs.
        shown: False for none.
        in_logs: Show it every half a minute where standard error is none, as in the log of a batch system.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        smoothing=0.05,
        mininterval=0.1 if terminal else 30,
        disable=not shown or sys.stderr is None or not (terminal or in_logs),
        file=sys.stderr,
    )


def as_json(value: Any) -> Any:
    """A value as it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(value))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a file of JSON; names of files in it need not be text."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8", "surrogateescape"))
