"""Locks on files, which the system takes back when their process ends, however it ends; and who owns a folder."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from semiisp_plugin.io.image_io import printable_path

PATIENCE = 3.0
"""Seconds in which the lock of a process that was just killed is gone."""

_NO_LOCKS = {getattr(errno, name) for name in ("ENOSYS", "ENOLCK", "EOPNOTSUPP", "ENOTSUP") if hasattr(errno, name)}
_BEGIN = 1 << 30  # of what is locked on Windows, where others cannot read it: behind the text
_held: set[int] = set()


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> bool:
        os.lseek(file, _BEGIN, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def _let_go() -> None:
        """A forked process, such as a loader worker, shares the lock, and would keep it when its parent is killed."""
        for file in _held:
            os.close(file)
        _held.clear()

    os.register_at_fork(after_in_child=_let_go)


class LockTakenError(ValueError):
    """Another process, or another part of this one, has the lock.

    Attributes:
        holder: Which one, in words.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


@contextmanager
def file_lock(path: str | os.PathLike[str], patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which is made, says who holds it, and is deleted when the lock is released.

    Where the file system has no locks, a warning says so, and nothing is held.

    Args:
        path: The file.
        patience: Seconds to wait for another holder.

    Raises:
        LockTakenError: It was not released in time.
        OSError: The file cannot be written.
    """
    deadline = time.monotonic() + patience
    while (file := _locked(path)) is None:
        if time.monotonic() >= deadline:
            raise LockTakenError(_holder(path))
        time.sleep(0.05)
    try:
        with suppress(OSError):  # a full disk
            os.truncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, _this_process().encode())
        yield
    finally:
        if file in _held:  # not in a forked process
            with suppress(OSError):  # Windows deletes nothing that is open
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    os.unlink(path)
            _held.remove(file)
            os.close(file)


def _locked(path: str | os.PathLike[str]) -> int | None:
    """A descriptor of the file, which is locked; None if another has it."""
    file, got = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False
    try:
        # Not a file that its last holder has deleted since it was opened here.
        got = _try_lock(file) and os.path.samestat(os.fstat(file), os.stat(path))
    except OSError as error:
        got = error.errno in _NO_LOCKS
        if got:
            warnings.warn(
                f"{printable_path(path)}: the file system has no locks ({error.strerror}), so that nothing keeps a "
                f"second process from writing there at the same time. Start none.",
                stacklevel=5,
            )
        elif error.errno not in (errno.ENOENT, errno.ESTALE):  # it was deleted
            raise
    finally:
        if got:
            _held.add(file)
        else:
            os.close(file)
    return file if got else None


@contextmanager
def owned(
    folder: str | os.PathLike[str], option: str, *, beside: bool = False, patience: float | None = None
) -> Iterator[None]:
    """Own a folder that a command writes to: an output folder has one owner.

    Args:
        folder: It is made if need be, unless its lock lies ``beside`` it.
        option: By which the user names it, for messages.
        beside: The lock is ``.<name>.lock`` beside the folder, not ``.lock`` in it: for folders that are renamed.
        patience: Seconds to wait for another owner; default: `PATIENCE`.

    Raises:
        ValueError: Another process owns it; the message says which one.
        OSError: The folder cannot be written, or is none.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise NotADirectoryError(f"{option}: '{folder}' is a file, or a link to nowhere; give a folder.")
    lock = folder.with_name(f".{folder.name}.lock") if beside else folder / ".lock"
    with ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(lock, PATIENCE if patience is None else patience))
        except LockTakenError as error:
            raise ValueError(
                f"'{printable_path(folder)}' is being written by {error.holder}. Wait for it to end, or choose another "
                f"({option})."
            ) from None
        except OSError as error:
            stale = os.path.lexists(lock)  # of another user, perhaps, or no file
            what, advice = (lock, "delete it, or ") if stale else (lock.parent, "")
            raise OSError(
                error.errno,
                f"'{printable_path(what)}' cannot be written ({error.strerror or error}); {advice}choose another "
                f"folder ({option}).",
            ) from error
        yield


def _this_process() -> str:
    command = printable_path(shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))
    command = command if len(command) <= 200 else f"{command[:200]} ..."
    return f"`{command}`, process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _holder(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8") or "another process"
    except (OSError, ValueError):
        return "another process"
