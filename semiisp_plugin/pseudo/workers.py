"""Processes that build shards side by side, and one that watches them.

Not by `concurrent.futures`: its pool is broken for good, and every task of it lost, as soon as one process dies, and
nobody can tell which one and over what. Here the others work on, and the photograph that a process crashed on is named.
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
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.pseudo.shards import Interrupted, ShardBuilder, Watch

_CRASHES = {getattr(signal, name) for name in ("SIGSEGV", "SIGABRT", "SIGFPE") if hasattr(signal, name)}

# What a worker tells of itself while it works, in a shared array: pairs stored, photographs done, and the photograph at
# hand (-1: none, or several).
_WRITTEN, _DONE, _SHARD, _PLACE, _COUNTERS = range(5)


def gpu_of(device: torch.device, index: int) -> torch.device:
    """The GPU of the process with this index on its machine."""
    if str(device) != "cuda":  # the CPU, or a GPU that is named
        return device
    return torch.device("cuda", index % torch.cuda.device_count())


class _Running(NamedTuple):
    """A process that was started: its counters, and where its last words come from."""

    counter: Any
    heard: Any


class Workers:
    """Builds shards in processes.

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
        self._failures: list[str] = []
        self._lost: list[str] = []

    def run(self, on_done: Callable[[int], object]) -> int:
        """Build until nothing is left to build.

        Args:
            on_done: Told several times a second how many photographs are done by now.

        Returns:
            Number of pairs stored.

        Raises:
            OSError: A process failed.
            RuntimeError: Processes were killed or have crashed, and shards are left.
            BaseException: What interrupts this one; the processes have stored what they had made.
        """
        for index in range(min(self._count, len(self._build.unfinished()))):
            self._start(index)
        try:
            while self._running:
                connection.wait([process.sentinel for process in self._running], timeout=0.2)
                on_done(self._sum(_DONE))
                for process in [p for p in self._running if p.exitcode is not None]:
                    self._has_ended(process)
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
        on_done(self._sum(_DONE))
        if self._failures:
            raise OSError(self._failures[0])
        if self._lost and self._build.unfinished():
            raise RuntimeError(
                f"{len(self._lost)} of {self._count} workers were killed or have crashed ({'; '.join({*self._lost})}). "
                f"What they had stored is kept: run the same command again."
            )
        return self._sum(_WRITTEN)

    def _sum(self, what: int) -> int:
        return sum(counter[what] for counter in self._counters)

    def _start(self, index: int) -> None:
        counter = self._context.RawArray("q", _COUNTERS)
        counter[_SHARD] = -1
        self._counters.append(counter)
        heard, told = self._context.Pipe(duplex=False)
        how = {**self._how, "device": str(gpu_of(self._device, self._first + index))}
        arguments = (str(self._build.folder), self._payload, how, self._order, counter, self._stop, told)
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        told.close()
        self._running[process] = _Running(counter, heard)

    def _hear(self, running: _Running) -> None:
        try:
            if running.heard.poll():
                self._failures.append(running.heard.recv())
                self._stop.value = 1
        except (EOFError, OSError):  # it has ended, and said nothing
            pass

    def _has_ended(self, process: Any) -> None:
        """Take leave of a process, and note why it has ended."""
        ended = self._running.pop(process)
        self._hear(ended)
        if process.exitcode == 0 or self._stop.value:
            return
        shard, place = ended.counter[_SHARD], ended.counter[_PLACE]
        if -process.exitcode in _CRASHES and shard >= 0 and not self._how["threads"]:
            name = signal.Signals(-process.exitcode).name
            path = self._build.photographs(shard)[place].path
            self._lost.append(f"{name} at the photograph '{printable_path(path)}'; remove it, if it happens again")
        else:
            self._lost.append(f"exit status {process.exitcode}, perhaps for lack of memory or disk; take fewer workers")


def start_context() -> Any:
    """Processes that share neither torch's threads nor GPU state with this one.

    Where the system has it, by forking one that has imported everything and done nothing: a worker then starts in
    milliseconds, and shares what is imported with the others.
    """
    # What macOS's libraries do when they are loaded does not survive a fork.
    if "forkserver" not in get_all_start_methods() or sys.platform == "darwin":
        return get_context("spawn")
    context = get_context("forkserver")
    modules = [__name__, "semiisp_plugin.archs.pqdynamicisp_arch"]
    if find_spec("numba") is not None:
        modules.append("semiisp_plugin.isp.numba_kernels")
    context.set_forkserver_preload(modules)
    return context


class _Told(Watch):
    """Tells the parent by a shared array."""

    def __init__(self, counter: Any, stop: Any) -> None:
        self._counter, self._stop = counter, stop

    def at(self, shard: int, place: int) -> None:
        self._counter[_SHARD], self._counter[_PLACE] = shard, place

    def done(self) -> None:
        self._counter[_DONE] += 1

    def stored(self, pairs: int) -> None:
        self._counter[_WRITTEN] += pairs

    def stopped(self) -> bool:
        return bool(self._stop.value)


def _work(
    folder: str, payload: bytes, how: dict[str, Any], order: list[int], counter: Any, stop: Any, told: Any
) -> None:
    """The work of one process; ends with its parent."""
    # They reach all processes of a command; the parent says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # What decoders say of broken files; the report says which file, and why.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # it moved in OpenCV 5
    set_level(0)
    warnings.simplefilter("ignore", UserWarning)
    try:
        watch = _Told(counter, stop)
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
