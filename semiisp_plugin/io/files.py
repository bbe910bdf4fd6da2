"""Small files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file beside its place, flush it to the disk, then rename it.

    A killed process, a full disk and a power cut leave the file that was there before, or none.

    Args:
        path: Where to; its folder is made.
        data: Bytes, or text that is written as UTF-8.

    Raises:
        OSError: The disk is full, the folder cannot be written, and the like; the message names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A hidden name of its own, so that two writers do not meet and nobody takes the unfinished file for a whole one.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{path} could not be written: {error.strerror or error}") from error
        raise
