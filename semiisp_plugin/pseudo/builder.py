"""From a folder of photographs to LMDBs of pseudo pairs: any number of processes, stopped and gone on with at will.

A build is planned first (`semiisp_plugin.pseudo.manifest`): the sorted photographs are cut into shards, and the plan is
written down. Processes then take shards that nobody else holds and build them one by one
(`semiisp_plugin.pseudo.shards`). They share nothing but the folder and its file locks, so they may be workers of one
command, ranks of ``torchrun`` or Slurm, or commands started by hand. What is in an entry depends on its photograph, its
key, the seed and f_ISP alone. Whoever completes the last shard writes the report.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from typing import Any, Literal

import cv2
import torch
from filelock import FileLock
from tqdm import tqdm

from semiisp_plugin.data.files import write_atomically
from semiisp_plugin.data.image_io import list_images, printable_path, scan_images
from semiisp_plugin.data.lmdb_io import META_NAME
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import SETS, BuildFolder, plan, set_aside
from semiisp_plugin.pseudo.shards import BuildSettings, Interrupted, ShardBuilder

_FEW = 100
_BATCH_ON_GPU = 16
_CRASHES = {
    getattr(signal, name) for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL") if hasattr(signal, name)
}
_PATIENCE = 3.0  # seconds in which the locks of a process that was just killed are gone


@dataclass
class BuildReport:
    """What a build holds, and what this run did for it.

    Attributes:
        written: Pairs written in this run.
        kept: Pairs that were there before, or that other processes wrote meanwhile.
        set_aside: Photographs that could not be used, with the reason.
        clipped: Mean share of pseudo input values that were clamped to [0, 1], over all pairs; 0 where no inputs are
            stored.
        unsupported: Pictures that are not read for their format, by extension.
        photographs: Photographs of the build.
        bytes: Size of the encoded images, by set (``gt``, ``lq``).
        shards: Number of shards.
        unfinished: Shards that other processes are still building; above 0, the other figures are of the finished ones.
    """

    written: int = 0
    kept: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, int] = field(default_factory=dict)
    clipped: float = 0.0
    photographs: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    unfinished: int = 0


def build_pseudo_lmdb(
    photographs: str,
    out: str,
    generator: PseudoPairGenerator,
    *,
    mode: Literal["stored", "online", "keys"] = "stored",
    seed: int = 0,
    draws: int = 1,
    max_photographs: int | None = None,
    short_side: int | None = None,
    max_pixels: int | None = None,
    input_bits: Literal[8, 16] = 16,
    png_compression: int | Literal["fast"] = "fast",
    device: torch.device | str = "cpu",
    workers: int | None = 0,
    shard_size: int | None = None,
    batch: int | None = None,
    threads: int | None = None,
    own_shards_only: bool = False,
    retry: bool = False,
    progress: bool = True,
    settings: dict[str, Any] | None = None,
) -> BuildReport:
    """Write pseudo pairs in shards: ``out/gt.lmdb`` (8-bit pseudo ground truths) and ``out/lq.lmdb`` (pseudo inputs).

    Both have the same keys in the same order, made from the photographs' relative paths
    (`semiisp_plugin.pseudo.keys.pair_keys`). The same call goes on with a build that was interrupted, however that
    happened, and does nothing to one that is complete. See `semiisp_plugin.pseudo.manifest` for what is in the folder.

    Args:
        photographs: Folder, searched recursively.
        out: Folder to write.
        generator: See `PseudoPairGenerator`.
        mode: ``stored``; ``online``: no inputs, they are drawn in training; ``keys``: photographs are only checked.
        seed: Of the random parameter sets.
        draws: Pairs of each photograph, each with random sets of its own in steps 1 and 3 (ours: the paper has
            photographs enough).
        max_photographs: Take the first so many, in the order of their paths.
        short_side: Shrink photographs whose short side is longer to it, in pixels (area).
        max_pixels: Set larger photographs aside; None for the limit of `read_photograph`.
        input_bits: Bits of the stored pseudo inputs: 16, or 8 where the real inputs have no more.
        png_compression: ``fast``, or a zlib level of 0 to 9; see `semiisp_plugin.data.image_io.encode_png`.
        device: Where f_ISP runs: ``cpu`` or ``cuda`` (each process takes a GPU of its own, as far as they go).
        workers: Processes besides this one; 0 for none. None: none for up to 100 photographs, else one a GPU or core.
        shard_size: Photographs of a shard; None for `semiisp_plugin.pseudo.manifest.automatic_shard_size`.
        batch: Photographs of one size that go through f_ISP together; None for 1 on a CPU and 16 on a GPU.
        threads: Threads of each process that decode and encode beside f_ISP; None for none on a CPU, and a process's
            share of the cores on a GPU.
        own_shards_only: Of several ranks, each builds every so-manieth shard only and helps no other, for file systems
            whose locks do not reach from machine to machine.
        retry: Try photographs once more that an earlier run has set aside.
        progress: Show a progress bar.
        settings: What else the pairs depend on (f_ISP's fingerprint, ...); an interrupted build goes on only with the
            same.

    Returns:
        Counts and reasons.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: The folder of photographs is missing or holds none that
            can be used; an argument is out of range; the build was begun with other settings.
        FileExistsError: ``out`` holds LMDBs of something else.
        OSError: Disk full and the like; what was written stays, and the same call goes on.
        RuntimeError: All workers were killed.
        KeyboardInterrupt: Ctrl+C or SIGTERM; what was made until then is stored.
    """
    if draws < 1:
        raise ValueError(f"draws: {draws} pairs of each photograph cannot be made; give at least 1.")
    paths, unsupported = scan_images(photographs)
    if not paths:
        list_images(photographs)  # raises, and says what there is
    paths = paths[:max_photographs]
    device = torch.device(device)
    batch = batch or (_BATCH_ON_GPU if device.type == "cuda" else 1)
    made_with = {
        "seed": seed,
        "draws": draws,
        "short_side": short_side,
        "max_pixels": max_pixels,
        "input_bits": input_bits,
        "device": device.type,
        "batch": batch,
        # Compiled code rounds otherwise in the last bit.
        "numba": device.type == "cpu" and find_spec("numba") is not None,
        **(settings or {}),
    }
    os.makedirs(out, exist_ok=True)
    with _plan_lock(out):
        build = plan(out, photographs, paths, mode, made_with, shard_size, retry=retry)
    if max_photographs is not None and build.n_photographs > max_photographs:
        raise ValueError(
            f"{out} was begun with {build.n_photographs} photographs; max_photographs {max_photographs} cannot take "
            f"any away. Leave it at {build.n_photographs} or more, or choose another folder (out)."
        )
    how = BuildSettings(
        root=os.path.abspath(photographs),
        seed=seed,
        draws=draws,
        short_side=short_side,
        max_pixels=max_pixels,
        input_bits=input_bits,
        png_compression=png_compression,
        batch=batch,
    )
    sizes = build.manifest.shards
    rank, world, local_rank = _rank()
    order = list(range(len(build)))[rank::world]
    if not own_shards_only:
        order += [shard for shard in range(len(build)) if shard % world != rank]
    left = sum(sizes[shard] for shard in build.unfinished())
    if workers is None:
        workers = 0 if left <= _FEW else torch.cuda.device_count() if device.type == "cuda" else available_cores()
    if threads is None:
        threads = max(1, available_cores() // max(1, workers)) if device.type == "cuda" else 0
    how = replace(how, threads=threads)
    mine = sum(sizes[shard] for shard in order)
    with (
        _terminable(),
        tqdm(
            total=mine,
            initial=sum(sizes[shard] for shard in order if build.is_done(shard)),
            desc=f"photographs, rank {rank}" if world > 1 else "photographs",
            unit="photo",
            smoothing=0.05,
            mininterval=0.1 if sys.stderr.isatty() else 30,
            disable=not progress,
        ) as bar,
    ):
        if workers == 0:
            written = _build_here(build, generator, how, order, _device(device, local_rank), bar)
        else:
            written = _build_in_workers(build, generator, how, order, device, local_rank, workers, bar)
    report = _finish(build, photographs)
    report.written = written
    report.kept -= written
    report.unsupported = unsupported
    return report


def available_cores() -> int:
    """Cores of this process; those of the machine are shared among the processes that ``torchrun`` has started."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 61))  # 61: what Windows can wait for


def _rank() -> tuple[int, int, int]:
    """Rank, number of ranks and local rank, from ``torchrun``'s variables or Slurm's.

    They say where a process begins. Were they wrong, shards would be built in another order, and all the same.
    """
    for rank, world, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        if rank in os.environ and world in os.environ:
            size = max(1, int(os.environ[world]))
            return int(os.environ[rank]) % size, size, int(os.environ.get(local, 0))
    return 0, 1, 0


def _device(device: torch.device, index: int) -> torch.device:
    """The GPU of the process with this index on its machine."""
    if str(device) != "cuda":  # the CPU, or a GPU that is named
        return device
    return torch.device("cuda", index % torch.cuda.device_count())


@contextmanager
def _plan_lock(out: str) -> Iterator[None]:
    lock = FileLock(os.path.join(out, ".plan.lock"))
    with lock:
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM, by which batch systems end a job, what Ctrl+C is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _build_all(builder: ShardBuilder, order: Sequence[int]) -> None:
    """Build the shards that nobody else is building, until there are none."""
    waiting = list(order)
    deadline: float | None = None
    while waiting:
        held = [shard for shard in waiting if not builder.build_shard(shard)]
        if len(held) < len(waiting):
            deadline = None
        elif deadline is None:
            deadline = time.monotonic() + _PATIENCE
        elif time.monotonic() > deadline:
            return  # by processes that will complete them
        waiting = held
        if held:
            time.sleep(0.1)


# --- in this process -------------------------------------------------------------------------------------------------


def _build_here(
    build: BuildFolder,
    generator: PseudoPairGenerator,
    how: BuildSettings,
    order: Sequence[int],
    device: torch.device,
    bar: Any,
) -> int:
    written = 0

    def on_stored(pairs: int) -> None:
        nonlocal written
        written += pairs

    builder = ShardBuilder(build, generator, how, device=device, on_done=bar.update, on_stored=on_stored)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in workers: several would add up in another order, and round otherwise
    try:
        _build_all(builder, order)
    finally:
        torch.set_num_threads(threads)
    return written


# --- in workers ------------------------------------------------------------------------------------------------------

_WRITTEN, _DONE, _SHARD, _PLACE, _COUNTERS = range(5)


def _build_in_workers(
    build: BuildFolder,
    generator: PseudoPairGenerator,
    how: BuildSettings,
    order: Sequence[int],
    device: torch.device,
    local_rank: int,
    workers: int,
    bar: Any,
) -> int:
    """Run workers and watch them: one that crashes on a photograph is replaced, and the photograph set aside."""
    context = _context()
    stop, errors = context.Event(), context.SimpleQueue()
    # Plain pickle: torch's own way of sending tensors to processes takes a file handle each.
    payload = pickle.dumps(generator)
    doomed: dict[str, str] = {}
    careful: set[int] = set()
    running: dict[Any, tuple[int, Any]] = {}
    counters: list[Any] = []
    failures: list[str] = []
    killed = 0

    def start(index: int, how: BuildSettings) -> None:
        counter = context.RawArray("q", _COUNTERS)
        counter[_SHARD] = -1
        counters.append(counter)
        own = _device(device, local_rank * workers + index)
        arguments = (str(build.folder), payload, how, list(order), str(own), dict(doomed), counter, stop, errors)
        process = context.Process(target=_worker, args=arguments, daemon=True)
        process.start()
        running[process] = (index, counter)

    def show() -> None:
        bar.update(sum(c[_DONE] for c in counters) - shown[0])
        shown[0] = sum(c[_DONE] for c in counters)

    shown = [0]
    for index in range(min(workers, len(build.unfinished()))):
        start(index, how)
    try:
        while running:
            connection.wait([process.sentinel for process in running], timeout=0.2)
            show()
            while not errors.empty():
                failures.append(errors.get())
                stop.set()
            for process in [p for p in running if p.exitcode is not None]:
                index, counter = running.pop(process)
                if process.exitcode == 0 or stop.is_set():
                    continue
                if -process.exitcode in _CRASHES and counter[_SHARD] >= 0:
                    # Of several threads it is not known which one crashed: once more, without.
                    if not how.threads or index in careful:
                        path = build.photographs(counter[_SHARD])[counter[_PLACE]].path
                        name = signal.Signals(-process.exitcode).name
                        doomed[path] = f"{path}: the process that read it crashed ({name}). Remove the file."
                    careful.add(index)
                    start(index, replace(how, threads=0))
                else:
                    killed += 1
                    tqdm.write(
                        f"A worker was ended from outside (exit status {process.exitcode}), perhaps for lack of "
                        f"memory; {len(running)} go on.",
                        file=sys.stderr,
                    )
    except BaseException:
        stop.set()
        for process in running:
            process.join(30)  # they store what they have made
        raise
    finally:
        for process in running:
            process.terminate()
    show()
    while not errors.empty():
        failures.append(errors.get())
    if failures:
        raise OSError(failures[0])
    if killed and build.unfinished():
        raise RuntimeError(
            f"{killed} of {workers} workers were ended from outside, perhaps for lack of memory. What they had stored "
            f"is kept: run the same command again, with fewer workers."
        )
    return sum(c[_WRITTEN] for c in counters)


def _context() -> Any:
    """Processes that share neither torch's threads nor GPU state with this one.

    Where the system has it, by forking one that has imported everything and done nothing: a worker then starts in
    milliseconds, and shares what is imported with the others.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "semiisp_plugin.archs.pqdynamicisp_arch"])
    return context


def _worker(
    folder: str,
    payload: bytes,
    how: BuildSettings,
    order: list[int],
    device: str,
    doomed: dict[str, str],
    counter: Any,
    stop: Any,
    errors: Any,
) -> None:
    """The work of one process; ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches all; the parent says when to stop
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # What decoders say of broken files; the report says which file, and why.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    warnings.simplefilter("ignore", UserWarning)

    def on_photograph(shard: int, place: int) -> None:
        counter[_SHARD], counter[_PLACE] = shard, place

    def on_done() -> None:
        counter[_DONE] += 1

    def on_stored(pairs: int) -> None:
        counter[_WRITTEN] += pairs

    builder = ShardBuilder(
        BuildFolder(folder),
        pickle.loads(payload),
        how,
        device=device,
        doomed=doomed,
        on_photograph=on_photograph,
        on_done=on_done,
        on_stored=on_stored,
        stopped=stop.is_set,
    )
    try:
        _build_all(builder, order)
    except Interrupted:
        pass
    except Exception as error:
        errors.put(str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}")
        sys.exit(1)


def _leave_with_parent() -> None:
    """End this process when its parent is gone: a killed build must not go on behind the user's back."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


# --- the end ---------------------------------------------------------------------------------------------------------


def _finish(build: BuildFolder, photographs: str) -> BuildReport:
    """Sum the shards up; once all are complete, write ``report.json``, ``set_aside.txt`` and the lists of images.

    Raises:
        ValueError: Not one photograph could be used; nothing is left behind.
    """
    report = BuildReport(shards=len(build), set_aside=set_aside(build))
    clipped, done = 0.0, 0
    for _, record in build.records():
        done += 1
        report.kept += record.pairs
        clipped += record.clipped
        for name, size in record.bytes.items():
            report.bytes[name] = report.bytes.get(name, 0) + size
    report.clipped = clipped / report.kept if report.kept else 0.0
    report.photographs = build.n_photographs
    report.unfinished = len(build) - done
    if report.unfinished:
        return report
    with _plan_lock(str(build.folder)):
        if report.kept == 0:
            for name in ("shards", "gt.lmdb", "lq.lmdb"):
                shutil.rmtree(build.folder / name, ignore_errors=True)
            (build.folder / "manifest.json").unlink(missing_ok=True)
            first = next(iter(report.set_aside.values()))
            raise ValueError(
                f"None of the {report.photographs} photographs in {photographs} can be used; the first: {first}"
            )
        _write_report(build, report)
    return report


def _write_report(build: BuildFolder, report: BuildReport) -> None:
    # Those tried again are in two shards.
    report.photographs = report.kept // int(build.manifest.made_with["draws"]) + len(report.set_aside)
    summary = {
        "mode": build.mode,
        "photographs": report.photographs,
        "pairs": report.kept,
        "set_aside": len(report.set_aside),
        "clipped": report.clipped,
        "bytes": report.bytes,
        "shards": report.shards,
    }
    for name in SETS[build.mode]:
        _write_meta(build, name)
    aside = build.folder / "set_aside.txt"
    if report.set_aside:
        lines = (f"{printable_path(path)}\t{printable_path(why)}\n" for path, why in report.set_aside.items())
        write_atomically(aside, "".join(lines))
    else:
        aside.unlink(missing_ok=True)
    write_atomically(build.folder / "report.json", json.dumps(summary, indent=2) + "\n")
    for shard in range(len(build)):
        build.file(shard, "lock").unlink(missing_ok=True)


def _write_meta(build: BuildFolder, name: str) -> None:
    """BasicSR's list of images for all shards together, beside them."""
    path = build.folder / f"{name}.lmdb" / META_NAME
    temporary = path.with_name(f"{META_NAME}.part")
    with open(temporary, "wb") as out:
        for shard in range(len(build)):
            part = build.lmdb(shard, name) / META_NAME
            try:
                lines = open(part, "rb")  # noqa: SIM115 - closed below
            except FileNotFoundError:
                raise FileNotFoundError(
                    f"{part} is gone, though the shard was complete; `basicsr pseudo -opt FILE --check` says what else."
                ) from None
            with lines:
                shutil.copyfileobj(lines, out)
    os.replace(temporary, path)
