"""Steps of an experiment, each done once: what recipes, benchmarks and the demo run.

A job says what its result depends on (settings, and what the jobs before it made). That is noted beside the result, so
that what is complete is skipped, what was interrupted is resumed, and what was made otherwise is recognised. A job
is held by one process at a time; the lock goes with the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from tqdm import tqdm

from semiisp_plugin import plugins
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.locks import LockTakenError, file_lock, owned
from semiisp_plugin.pseudo.workers import leave_with_parent, start_context

J = TypeVar("J", bound="Job")
State = Literal["complete", "interrupted", "to do", "stale"]


class JobError(ValueError):
    """A job, or the recipe that it is part of, cannot be done as it is."""


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        state: ``complete``, ``interrupted`` (it can be resumed), ``to do``, or ``stale`` (what is there was made
            otherwise).
        why: In words.
        done: Iterations that are done, of a training that was interrupted.
    """

    state: State
    why: str = ""
    done: int = 0


class Record:
    """What is noted of a job: what it began with, and its result.

    Args:
        file: A JSON file; its lock stands beside it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> dict[str, Any]:
        """What is written there; nothing if there is no whole file."""
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def write(self, **values: Any) -> None:
        """Replace it."""
        write_atomically(self.file, json.dumps(values, indent=1) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from the job."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = self.file.with_suffix(".lock")
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(lock))
            except LockTakenError as error:
                print(f"Waiting for another process that is at {self.file.stem}: {error.holder} ...", flush=True)
                stack.enter_context(file_lock(lock, math.inf))
            yield


class Job:
    """One step of an experiment."""

    made_again = False
    """Whether it is simply done again when it is stale: it is cheap."""

    key: str
    """Its name among the jobs that it runs with."""

    before: Sequence[Any] = ()
    """The jobs that it begins with the results of."""

    @property
    def record(self) -> Record:
        """Where its result is noted."""
        raise NotImplementedError

    def depends(self) -> dict[str, Any]:
        """All that its result depends on, as plain values."""
        raise NotImplementedError

    def clear(self) -> None:
        """Make way for a run from the beginning, while what is noted is still that of the run before."""

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Do what is left; without ``resume`` that is all. Returns plain values."""
        raise NotImplementedError

    def status(self) -> Status:
        """How far it is by itself, whatever the jobs before it."""
        noted = self.record.read()
        if not noted:
            return Status("to do")
        changes = differences(noted.get("depends"), as_json(self.depends()))
        if changes:
            return Status("stale", "; ".join(changes[:4]))
        return Status("complete" if noted.get("complete") else "interrupted")

    def with_before(self: J) -> Iterator[J]:
        """The jobs before it, and itself."""
        for job in self.before:
            yield from job.with_before()
        yield self


def perform(job: Job, *, redo: bool = False, progress: bool = False) -> dict[str, Any]:
    """Do what is left of a job, unless it is complete.

    Args:
        job: The jobs before it are complete.
        redo: Do it again, whatever is there.
        progress: Show progress bars.

    Returns:
        What is noted of it: ``result``, ``seconds``, ``depends``.

    Raises:
        JobError: What is there was made otherwise, or the job has ended without being complete.
    """
    with job.record.held():
        status = job.status()
        if status.state == "complete" and not redo:
            return job.record.read()
        if status.state == "stale" and not redo and not job.made_again:
            raise JobError(
                f"{job.key}: what is there was made otherwise ({status.why}), perhaps by another process meanwhile. "
                f"Use the same options in both, or other names."
            )
        resume = status.state == "interrupted" and not redo
        before = job.record.read() if resume else {}
        noted = {"depends": before.get("depends") or as_json(job.depends()), "seconds": before.get("seconds") or 0.0}
        began = time.monotonic()
        result: dict[str, Any] = {}
        if not resume:
            job.clear()
        job.record.write(**noted, complete=False)
        try:
            result = job.run(resume=resume, progress=progress)
        finally:
            noted["seconds"] += time.monotonic() - began
            job.record.write(**noted, complete=False)
        job.record.write(**noted, complete=True, result=result)
        after = job.status()
        if after.state != "complete":
            raise JobError(f"{job.key} has ended but is not complete: {after.state}, {after.why}.")
        return job.record.read()


def statuses(jobs: Sequence[Job]) -> dict[str, Status]:
    """How far jobs are, in their order: what begins with something that is not complete is not complete either."""
    found: dict[str, Status] = {}
    for job in jobs:
        status = job.status()
        waiting = [b.key for b in job.before if b.key in found and found[b.key].state != "complete"]
        if waiting and status.state != "to do":
            fresh = status.state != "stale" and all(found[key].state != "stale" for key in waiting)
            why = "made before {} was complete" if fresh else "{} is stale, and what follows it"
            status = Status("stale", why.format(", ".join(waiting)))
        found[job.key] = status
    return found


def as_json(value: Any) -> Any:
    """As it is read from JSON: a copy."""
    return json.loads(json.dumps(value, default=str))


# --- comparing what jobs depend on -----------------------------------------------------------------------------------

# What changes no weight: where and how fast a run runs, what it logs, what it is validated on.
_NO_MATTER = {
    "num_gpu",
    "logger",
    "val",
    "dist_params",
    "num_worker_per_gpu",
    "workers",
    "prefetch_factor",
    "pin_memory",
    "timeout",
    "cache_images",
    "resume_state",
}


def differences(before: Any, now: Any, keys: tuple[str, ...] = ()) -> list[str]:
    """What differs between two sets of options, but for what changes no weight: ``train:total_iter: 100 -> 200``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*before, *now}, key=str):
            if key in _NO_MATTER or (keys == ("datasets",) and str(key).split("_")[0] != "train"):
                continue
            found += differences(before.get(key), now.get(key), (*keys, str(key)))
        return found
    if before == now:
        return []
    shown = ("(nothing)" if value is None else str(value) for value in (before, now))
    return [f"{':'.join(keys)}: {' -> '.join(shown)}"]


def fingerprint(path: str | os.PathLike[str]) -> str | None:
    """SHA-256 of a file; None where there is none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


@contextmanager
def own_folder(out: Path, command: str, option: str, *, empty: bool = False) -> Iterator[None]:
    """Own the folder that a command writes to: a new one, or one that it wrote earlier.

    Args:
        out: The folder.
        command: Name of the command, whose folders a file tells from others.
        option: How another folder is chosen, for the message.
        empty: Delete what is there.

    Raises:
        FileExistsError: It holds something else.
        ValueError, OSError: See `semiisp_plugin.io.locks.owned`.
    """
    marker = out / f"written_by_basicsr_{command}.txt"

    def there() -> list[Path]:
        found = [path for path in out.iterdir() if path.name != ".lock"] if out.is_dir() else []
        if found and not marker.is_file():
            raise FileExistsError(
                f"{out} exists and was not written by `basicsr {command}`; choose another folder with {option}."
            )
        return found

    there()  # before anything is written into a folder of something else
    with owned(out, option):
        for path in there() if empty else ():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        text = f"What is in this folder is replaced when `basicsr {command}` runs again.\n"
        marker.write_text(text, encoding="utf-8")
        yield


# --- many of them, in parallel ---------------------------------------------------------------------------------------


def default_workers() -> int:
    """As many as there are GPUs, or cores."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 61)  # more than Windows can wait for


class Runner:
    """Runs jobs in parallel, each once; what fails takes along only what needs it.

    Args:
        workers: Processes, each with one thread and, where there are any, one GPU; 0 does everything in this one.
        quiet: What fails is noted, not printed: the caller says it.

    Attributes:
        failed: Why a job failed, by its key.
        noted: What `perform` returns, by the job's key.
    """

    def __init__(self, workers: int, quiet: bool = False) -> None:
        self.workers, self.quiet = workers, quiet
        self.failed: dict[str, str] = {}
        self.noted: dict[str, dict[str, Any]] = {}

    def result(self, job: Job) -> dict[str, Any] | None:
        """A job's result; None if it is not done."""
        return self.noted[job.key]["result"] if job.key in self.noted else None

    def run(self, jobs: Sequence[J], what: str, cost: Callable[[J], float] | None = None) -> bool:
        """Do jobs and all that they need, and note them in `noted`; returns whether there was anything to do.

        Args:
            jobs: The jobs.
            what: In front of the bar.
            cost: About how long one takes, in any unit, so that the bar can tell the time left; by default all take
                as long. Where standard error is no terminal, there are lines with percentages instead of a bar.
        """
        waiting = {}
        for job in (one for given in jobs for one in given.with_before()):
            if job.key in self.noted or job.key in self.failed or job.key in waiting:
                continue
            if job.status().state == "complete":
                self.noted[job.key] = job.record.read()
            else:
                waiting[job.key] = job
        if not waiting:
            return False
        with _pool(min(self.workers, len(waiting))) as pool, _progress(list(waiting.values()), what, cost) as bar:
            running: dict[Future[dict[str, Any]], str] = {}
            while waiting or running:
                self._start(waiting, running, pool, bar)
                if not running:
                    continue
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    key = running.pop(future)
                    try:
                        self.noted[key] = future.result()
                    except BrokenProcessPool:
                        raise RuntimeError(
                            f"A worker died, perhaps for lack of memory, while doing one of "
                            f"{', '.join([key, *running.values()])}. What is done is kept: run the same command again, "
                            f"with fewer --workers."
                        ) from None
                    except Exception as error:
                        self.failed[key] = f"{type(error).__name__}: {' '.join(str(error).split())}"
                        if not self.quiet:
                            tqdm.write(f"{key} failed: {self.failed[key]}")
                    bar(key)
        return True

    def _start(
        self,
        waiting: dict[str, J],
        running: dict[Future[dict[str, Any]], str],
        pool: Executor,
        bar: Callable[[str], None],
    ) -> None:
        for key, job in list(waiting.items()):
            # No more than can be worked on: what is handed over is done even after Ctrl+C.
            if len(running) >= max(1, self.workers):
                return
            broken = [before.key for before in job.before if before.key in self.failed]
            if broken:
                self.failed[key] = f"needs {broken[0]}, which failed"
                del waiting[key]
                bar(key)
            elif all(before.key in self.noted for before in job.before):
                del waiting[key]
                running[pool.submit(perform, job)] = key


@contextmanager
def _progress(jobs: Sequence[J], what: str, cost: Callable[[J], float] | None) -> Iterator[Callable[[str], None]]:
    """A bar, or lines; what is called with the key of each job that is done."""
    costs = {job.key: 1.0 if cost is None else cost(job) for job in jobs}
    terminal = sys.stderr is not None and sys.stderr.isatty()
    form = None if cost is None else "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, left: {remaining}"
    done, said, began = 0.0, 0, time.monotonic()
    with tqdm(total=sum(costs.values()), desc=what, unit="job", bar_format=form, disable=not terminal) as bar:

        def update(key: str) -> None:
            nonlocal done, said
            done += costs[key]
            bar.update(costs[key])
            percent = int(100 * done / sum(costs.values()) + 1e-6)
            if not terminal and sys.stderr is not None and (percent >= said + 5 or percent == 100 > said):
                said = percent
                print(f"{what}: {percent} % after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

        yield update


class _ThisProcess(Executor):
    """Does what is submitted at once, here."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _start_worker(devices: Any, imports: Sequence[str]) -> None:
    plugins.register(imports)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(devices.get())
    torch.set_num_threads(1)


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    if workers == 0:
        yield _ThisProcess()
        return
    context = start_context("semiisp_plugin.training")
    devices = None
    if torch.cuda.is_available():
        devices = context.Queue()
        # torch counts within what the user or the cluster has made visible.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        for index in range(workers):
            devices.put(names[index % len(names)])
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(devices, plugins.named())
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
