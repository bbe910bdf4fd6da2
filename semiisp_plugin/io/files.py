"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
