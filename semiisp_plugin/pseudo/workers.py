"""Processes that build shards side by side, and one that watches them.

Not by `concurrent.futures`: its pool is broken for good, and every task of it lost, as soon as one process dies, and
nobody can tell which one and over what. Here a process that crashes on a photograph is replaced and the photograph
skipped; so is one that was ended from outside, as for lack of memory, and the photograph if that happens twice.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from typing import Any, NamedTuple

import cv2
import torch

from semiisp_plugin.io.image_io import printable_path
from semiisp_plugin.io.signals import STOP_SIGNALS
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.pseudo.shards import DONE, PLACE, SHARD, WRITTEN, Interrupted, ShardBuilder, Watch

_MAX_CRASHES, _MAX_KILLS = 3, 6  # in a row, without anything being stored
_CRASHES = {getattr(signal, name) for name in ("SIGSEGV", "SIGABRT", "SIGFPE") if hasattr(signal, name)}


def gpu_of(device: torch.device, index: int) -> torch.device:
    """The GPU of the process with this index on its machine."""
    if str(device) != "cuda":  # the CPU, or a GPU that is named
        return device
    return torch.device("cuda", index % torch.cuda.device_count())


class _Running(NamedTuple):
    """A process that was started: its number, its counters, and where its last words come from."""

    number: int
    counter: Any
    heard: Any


class Workers:
    """Builds shards in processes: one that ends over a photograph is replaced, and the photograph skipped.

    Args:
        build: The folder.
        generator: Makes the pairs.
        how: The other arguments of `ShardBuilder`.
        order: The shards, in the order in which they are taken.
        device: ``cpu`` or ``cuda``; each process takes a GPU of its own, as far as they go.
        first: Index of the first process among those of its machine.
        count: Number of processes.
    """

    def __init__(
        self,
        build: BuildFolder,
        generator: PseudoPairGenerator,
        how: dict[str, Any],
        order: Sequence[int],
        device: torch.device,
        first: int,
        count: int,
    ) -> None:
        self._build, self._how, self._order, self._device = build, how, list(order), device
        self._first, self._count = first, count
        self._context = start_context()
        # No Event: its semaphore would be lost with a process that is killed while it looks, and all others would wait.
        self._stop = self._context.RawValue("b", 0)
        # Plain pickle: torch's own way of sending tensors to processes takes a file handle each.
        self._payload = pickle.dumps(generator)
        self._running: dict[Any, _Running] = {}
        self._counters: list[Any] = []
        self._doomed: dict[str, str] = {}
        self._suspects: set[str] = set()
        self._careful: set[int] = set()
        self._failures: list[str] = []
        self._killed = self._crashes = self._stored = 0

    def run(self, on_done: Callable[[int], object], say: Callable[[str], object]) -> int:
        """Build until nothing is left to build.

        Args:
            on_done: Told several times a second how many photographs are done by now.
            say: Told what the user should know, while the others work on.

        Returns:
            Number of pairs stored.

        Raises:
            OSError: A process failed, or every one crashes.
            RuntimeError: Processes were ended from outside, and shards are left.
            BaseException: What interrupts this one; the processes have stored what they had made.
        """
        for index in range(min(self._count, len(self._build.unfinished()))):
            self._start(index)
        try:
            while self._running:
                connection.wait([process.sentinel for process in self._running], timeout=0.2)
                on_done(self._sum(DONE))
                for process in [p for p in self._running if p.exitcode is not None]:
                    self._has_ended(process, say)
                for running in self._running.values():
                    self._hear(running)
        except BaseException:
            self._stop.value = 1
            for process in self._running:
                process.join(30)  # they store what they have made
            raise
        finally:
            for process in self._running:
                process.kill()
                process.join()
        on_done(self._sum(DONE))
        if self._failures:
            raise OSError(self._failures[0])
        if self._killed and self._build.unfinished():
            raise RuntimeError(
                f"{self._killed} of {self._count} workers were ended from outside, perhaps for lack of memory or disk. "
                f"What they had stored is kept: run the same command again, with fewer workers."
            )
        return self._sum(WRITTEN)

    def _sum(self, what: int) -> int:
        return sum(counter[what] for counter in self._counters)

    def _start(self, index: int) -> None:
        counter = self._context.RawArray("q", [0, 0, -1, -1])
        self._counters.append(counter)
        heard, told = self._context.Pipe(duplex=False)
        how = {**self._how, "device": str(gpu_of(self._device, self._first + index)), "doomed": dict(self._doomed)}
        if index in self._careful:
            how["threads"] = 0
        arguments = (str(self._build.folder), self._payload, how, self._order, counter, self._stop, told)
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        told.close()
        self._running[process] = _Running(index, counter, heard)

    def _hear(self, running: _Running) -> None:
        try:
            if running.heard.poll():
                self._failures.append(running.heard.recv())
                self._stop.value = 1
        except (EOFError, OSError):  # it has ended, and said nothing
            pass

    def _has_ended(self, process: Any, say: Callable[[str], object]) -> None:
        """Take leave of a process, and find out why it has ended."""
        ended = self._running.pop(process)
        self._hear(ended)
        if process.exitcode == 0 or self._stop.value:
            return
        crashed = -process.exitcode in _CRASHES
        written = self._sum(WRITTEN)
        self._crashes, self._stored = (self._crashes + 1 if written == self._stored else 1), written
        if not crashed and self._crashes > _MAX_KILLS:
            self._killed += 1
            say(f"A worker was ended from outside again and again; {len(self._running)} work on.")
            return
        if crashed and self._crashes > _MAX_CRASHES:
            self._failures.append(
                f"{self._crashes} processes have crashed without having stored anything: hardly the photographs' "
                f"doing, but that of the machine or of what is installed. What was stored before is kept."
            )
            self._stop.value = 1
            return
        self._suspect(ended, process.exitcode, say)
        self._careful.add(ended.number)
        self._start(ended.number)

    def _suspect(self, ended: _Running, status: int, say: Callable[[str], object]) -> None:
        """Skip the photograph over which a process has ended: at once if it crashed, the second time if it was killed.

        The system kills the process that takes most of a memory that is short, which may be another one's doing.
        """
        shard, place = ended.counter[SHARD], ended.counter[PLACE]
        # Of several threads it is not known which one it was: once more, without.
        known = shard >= 0 and (not self._how["threads"] or ended.number in self._careful)
        path = self._build.photographs(shard)[place].path if known else ""
        crashed = -status in _CRASHES
        if known and (crashed or path in self._suspects):
            how = f"crashed ({signal.Signals(-status).name})" if crashed else "was killed twice, for lack of memory?"
            self._doomed[path] = f"{path}: the process that read it {how}. Remove the file, or shrink it."
        elif not crashed:
            self._suspects.add(path)
            over = f" over '{printable_path(path)}'" if known else ""
            say(
                f"A worker was ended from outside (exit status {status}){over}, perhaps for lack of memory or disk; "
                f"another one goes on."
            )


def start_context(*also: str) -> Any:
    """Processes that share neither torch's threads nor GPU state with this one.

    Where the system has it, by forking one that has imported everything and done nothing: a worker then starts in
    milliseconds, and shares what is imported with the others.

    Args:
        also: Further modules for that one to import. It is started by the first worker: those of later calls count no
            more, and neither do changes of the environment's variables.
    """
    # What macOS's libraries do when they are loaded does not survive a fork.
    if "forkserver" not in get_all_start_methods() or sys.platform == "darwin":
        return get_context("spawn")
    context = get_context("forkserver")
    modules = [__name__, "semiisp_plugin.archs.pqdynamicisp_arch", *also]
    if find_spec("numba") is not None:
        modules.append("semiisp_plugin.isp.numba_kernels")
    context.set_forkserver_preload(modules)
    return context


def _work(
    folder: str, payload: bytes, how: dict[str, Any], order: list[int], counter: Any, stop: Any, told: Any
) -> None:
    """The work of one process; ends with its parent."""
    # They reach all processes of a command; the parent says when to stop.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # What decoders say of broken files; the report says which file, and why.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # it moved in OpenCV 5
    set_level(0)
    warnings.simplefilter("ignore", UserWarning)
    try:
        watch = Watch(counter, stop)
        ShardBuilder(BuildFolder(folder), pickle.loads(payload), watch=watch, **how).build_all(order)
    except Interrupted:
        pass
    except Exception as error:
        told.send(str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}")
        sys.exit(1)


def leave_with_parent() -> None:
    """End this process when its parent is gone: a killed command must not work on behind the user's back."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
