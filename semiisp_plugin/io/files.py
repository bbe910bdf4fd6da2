"""Files that appear whole or not at all, small ones that are read, and their names in messages."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """Read a text in UTF-8; neither pipes nor devices, which may have no end.

    Args:
        path: The file.
        limit: The most bytes that it may have.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no file, too large, or not UTF-8; the message says what it is and has no name.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or device'}, not a file")
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has {os.path.getsize(path):,} bytes; at most {limit:,} are read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not of a text in UTF-8; save it as UTF-8") from None


def printable_path(path: str | os.PathLike[str]) -> str:
    r"""A path as messages and text files can hold it: on one line, and without bytes that are no text.

    Line breaks and other unprintable characters are written as in Python (``\n``), undecodable bytes as ``\xff``;
    all else, so nearly every path, stays as it is.
    """
    return printable(os.fsdecode(path))


def printable(text: str, keep: str = "") -> str:
    """A text whose characters that are not printed (see `printable_path`) are written out, but those to ``keep``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _written_out(c) for c in text)


class PrintableStream:
    """A stream for text in which nothing moves the cursor, changes colours or hides what stands there.

    Names of files and what they hold are printed, and may be anybody's.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, see `printable`; whoever reads it may be gone, which ends no work."""
        with suppress(OSError):
            self._stream.write(printable(text, "\n\t"))
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _written_out(character: str) -> str:
    """An unprintable character in ASCII."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds an undecodable byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a small file; see `replacing`.

    Args:
        path: Where to; its folder is made.
        data: Bytes, or text that is written as UTF-8.

    Raises:
        OSError: The disk is full, the folder cannot be written, and the like; the message names the file.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield where to write; what is there in the end goes to the disk, and takes the place of ``path``.

    A killed process, a full disk and a power cut leave the file that was there before, or none.

    Raises:
        OSError: The disk is full, the folder is missing, and the like; the message names the file.
    """
    path = Path(path)
    # A hidden name of its own, so that two writers do not meet and nobody takes the unfinished file for a whole one.
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        # On a full disk torch fails once more while it closes its archive, and that error hides the first one.
        reason = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, (OSError, RuntimeError)) and isinstance(reason, OSError):
            raise OSError(reason.errno, f"{path} could not be written: {reason.strerror or reason}") from error
        raise


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renamings in a folder survive a power cut, where the system has such a call."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # some network file systems cannot; the files themselves are safe
            os.fsync(handle)
        os.close(handle)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Delete what killed processes had not finished writing; nobody may be writing there."""
    for path in Path(folder).glob(".*.part"):
        with suppress(OSError):  # on some systems while another process has it open
            path.unlink()
