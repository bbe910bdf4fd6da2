"""From a folder of photographs to LMDBs of pseudo pairs: any number of processes, stopped and gone on with at will.

A build is planned first (`semiisp_plugin.pseudo.manifest`): the sorted photographs are cut into shards, and the plan is
written down. Processes (`semiisp_plugin.pseudo.workers`) then take shards that nobody else holds and build them one by
one (`semiisp_plugin.pseudo.shards`). They share nothing but the folder and its file locks, so they may be workers of
one command, ranks of ``torchrun`` or Slurm, or commands started by hand. What is in an entry depends on its photograph,
its key, the seed and f_ISP alone. Whoever completes the last shard writes the report.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from multiprocessing import current_process
from typing import Any, Literal

import torch
from filelock import FileLock
from tqdm import tqdm

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import list_images, printable_path, scan_images
from semiisp_plugin.io.lmdb_io import META_NAME
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import SETS, BuildFolder, plan, set_aside
from semiisp_plugin.pseudo.shards import BuildSettings, ShardBuilder, root_id
from semiisp_plugin.pseudo.workers import Workers, gpu_of

_FEW = 100
_BATCH_ON_GPU = 16


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
        png_compression: ``fast``, or a zlib level of 0 to 9; see `semiisp_plugin.io.image_io.encode_png`.
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
    device = torch.device(device)
    _check_one_of("mode", mode, tuple(SETS))
    _check_one_of("input_bits", input_bits, (8, 16))
    _check_one_of("png_compression", png_compression, ("fast", *range(10)))
    _check_one_of("device", device.type, ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))
    numbers = {"draws": draws, "shard_size": shard_size, "batch": batch, "max_photographs": max_photographs}
    numbers |= {"short_side": short_side, "max_pixels": max_pixels}
    for least, values in ((0, {"workers": workers, "threads": threads}), (1, numbers)):
        for name, value in values.items():
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"{name}: {value!r} is no whole number of at least {least}.")
    if not isinstance(seed, int):
        raise ValueError(f"seed: {seed!r} is no whole number.")
    paths, unsupported = scan_images(photographs)
    paths = _without(paths, photographs, out)
    if not paths:
        list_images(photographs)  # raises, and says what there is
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
    rank, world, local_rank = _rank()
    if os.path.lexists(out) and not os.path.isdir(out):
        raise NotADirectoryError(f"'{out}' (out) is no folder, or a link to nowhere; choose another.")
    os.makedirs(out, exist_ok=True)
    with _plan_lock(out):
        build = plan(
            out,
            photographs,
            paths,
            mode,
            made_with,
            shard_size,
            max_photographs=max_photographs,
            retry=retry and rank == 0,  # of several ranks one is enough
        )
    sizes = build.manifest.shards
    order = list(range(len(build)))[rank::world]
    if not own_shards_only:
        order += [shard for shard in range(len(build)) if shard % world != rank]
    left = sum(sizes[shard] for shard in build.unfinished())
    if workers is None:
        workers = 0 if left <= _FEW else torch.cuda.device_count() if device.type == "cuda" else available_cores()
    if current_process().daemon:  # which may have no children
        workers = 0
    if threads is None:
        threads = max(1, available_cores() // max(1, workers)) if device.type == "cuda" else 0
    how = BuildSettings(
        root=os.path.abspath(photographs),
        root_id=root_id(photographs),
        seed=seed,
        draws=draws,
        short_side=short_side,
        max_pixels=max_pixels,
        input_bits=input_bits,
        png_compression=png_compression,
        batch=batch,
        threads=threads,
    )
    mine = sum(sizes[shard] for shard in order)
    with (
        _terminable(),
        tqdm(
            total=mine,
            initial=sum(sizes[shard] for shard in order if build.is_done(shard)),
            desc=f"photographs, rank {rank}" if world > 1 else "photographs",
            unit="photo",
            smoothing=0.05,
            mininterval=0.1 if sys.stderr is not None and sys.stderr.isatty() else 30,
            disable=not progress or sys.stderr is None,
        ) as bar,
    ):
        if workers == 0:
            written = _build_here(build, generator, how, order, gpu_of(device, local_rank), bar)
        else:
            left = sum(sizes[shard] for shard in order if not build.is_done(shard))
            team = Workers(build, generator, how, order, device, local_rank * workers, workers)
            written = team.run(
                # Of those that crashed, some photographs are counted twice.
                lambda done: bar.update(bar.total - left + min(done, left) - bar.n),
                lambda text: None if bar.disable else tqdm.write(text, file=sys.stderr),
            )
        # Show also what other processes have done.
        bar.update(sum(sizes[shard] for shard in order if build.is_done(shard)) - bar.n)
    report = _finish(out, photographs)
    report.written = written
    report.kept -= written
    report.unsupported = unsupported
    return report


def _check_one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    """Raise ValueError for what must not be written into a manifest."""
    if value not in known or isinstance(value, bool):
        more = "; no GPU is found" if value == "cuda" else ""
        raise ValueError(f"{name}: {value!r} is none of {', '.join(map(str, known))}{more}.")


def _without(paths: list[str], photographs: str, out: str) -> list[str]:
    """The photographs that do not lie in the folder of the build: its contact sheet is none of them."""
    inside = os.path.relpath(os.path.realpath(out), os.path.realpath(photographs)).replace(os.sep, "/")
    if inside == ".":
        raise ValueError(f"out: '{out}' is the folder of the photographs; choose another.")
    return paths if inside.startswith("../") else [path for path in paths if not path.startswith(f"{inside}/")]


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


@contextmanager
def _plan_lock(out: str) -> Iterator[None]:
    try:
        lock = FileLock(os.path.join(out, ".plan.lock")).acquire()
    except OSError as error:
        raise OSError(
            error.errno,
            f"'{out}' cannot be written ({error.strerror}); choose another folder (out). A complete build can be "
            f"verified by `--check` all the same.",
        ) from error
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
        builder.build_all(order)
    finally:
        torch.set_num_threads(threads)
    return written


# --- the end ---------------------------------------------------------------------------------------------------------


def _finish(out: str, photographs: str) -> BuildReport:
    """Sum the shards up; once all are complete, write ``report.json``, ``set_aside.txt`` and the lists of images.

    Raises:
        ValueError: Not one photograph could be used; nothing is left behind.
    """
    with _plan_lock(out):
        try:
            build = BuildFolder(out)  # with the shards that others have planned meanwhile
        except FileNotFoundError:
            raise ValueError(
                f"None of the photographs in {photographs} can be used, as another process has just found."
            ) from None
        report = BuildReport(shards=len(build), set_aside=set_aside(build), photographs=build.n_photographs)
        clipped, done = 0.0, 0
        for _, record in build.records():
            done += 1
            report.kept += record.pairs
            clipped += record.clipped
            for name, size in record.bytes.items():
                report.bytes[name] = report.bytes.get(name, 0) + size
        report.clipped = clipped / report.kept if report.kept else 0.0
        report.unfinished = len(build) - done
        if report.unfinished:
            return report
        if report.kept == 0:
            for name in ("shards", *(f"{name}.lmdb" for name in SETS[build.mode])):
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
    # What is no longer needed, and what killed processes have left: all shards are complete, so nobody writes here.
    rubbish = (build.folder / "shards").glob("*.lock"), (build.folder / "shards").glob("*.journal.jsonl")
    parts = (build.folder / "shards").glob(".*.part"), build.folder.glob(".*.json.*.part")
    for path in chain(*rubbish, *parts):
        with suppress(OSError):  # on some systems while another process has it open
            path.unlink()


def _write_meta(build: BuildFolder, name: str) -> None:
    """BasicSR's list of images for all shards together, beside them."""
    lines = []
    for shard in range(len(build)):
        part = build.lmdb(shard, name) / META_NAME
        try:
            lines.append(part.read_bytes())
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{part} is gone, though the shard was complete; `basicsr pseudo -opt FILE --check` says what else."
            ) from None
    write_atomically(build.folder / f"{name}.lmdb" / META_NAME, b"".join(lines))
