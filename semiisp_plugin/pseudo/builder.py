"""From a folder of photographs to LMDBs of pseudo pairs: any number of processes, stopped and resumed at will.

A build is planned first (`semiisp_plugin.pseudo.manifest`): the sorted photographs are cut into shards, and the plan is
written down. Processes (`semiisp_plugin.pseudo.workers`) then take shards that nobody else holds and build them one by
one (`semiisp_plugin.pseudo.shards`). They share nothing but the folder and its file locks, so they may be workers of
one command, ranks of ``torchrun`` or Slurm, or commands started by hand. What is in an entry depends on its photograph,
its key, the seed and f_ISP alone. The rank that completes the last shard writes the report.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import SKIPPED, UNUSABLE, counted, progress_bar, reason_of, write_json
from semiisp_plugin.io.image_io import list_images, printable_path, scan_images
from semiisp_plugin.io.lmdb_io import META_NAME
from semiisp_plugin.io.signals import STOP_SIGNALS, is_heeded
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.contact_sheet import SHEET_NAME, save_contact_sheet
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import DRAWN_WITH, MADE_WITH, SETS, BuildFolder, job_of, plan
from semiisp_plugin.pseudo.online import COPIES, fingerprints, keep_copies
from semiisp_plugin.pseudo.shards import WRITTEN, ShardBuilder, Watch, root_id
from semiisp_plugin.pseudo.sources import NetworkInverse
from semiisp_plugin.pseudo.workers import Workers, gpu_of

_FEW = 100
_BATCH_ON_GPU = 16


@dataclass
class BuildReport:
    """What a build holds, and what this run did for it.

    Attributes:
        written: Pairs written in this run.
        kept: Pairs that were there before, or that other processes wrote meanwhile.
        skipped: Photographs that could not be used, with the reason.
        clipped: Mean share of pseudo input values that were clamped to [0, 1], over all pairs; 0 where no inputs are
            stored.
        left_out: What else the folder holds (`semiisp_plugin.io.image_io.ImageListing.remark`).
        photographs: Photographs of the build.
        bytes: Size of the encoded images, by set (``gt``, ``lq``).
        shards: Number of shards.
        unfinished: Shards that other processes are still building; above 0, the other figures are of the finished ones.
    """

    written: int = 0
    kept: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: str = ""
    clipped: float = 0.0
    photographs: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    unfinished: int = 0


def run(options: PseudoOptions, *, retry: bool = False, progress: bool = True) -> BuildReport:
    """Build the pseudo pairs that the options describe and print a summary; see `build_pseudo_lmdb`."""
    files: dict[str, Any] = {key: getattr(options, key) for key in COPIES}
    generator = make_generator(**files, **{name: getattr(options, name) for name in DRAWN_WITH})
    if isinstance(generator.first, NetworkInverse) and generator.first.one_to_one and options.draws > 1:
        kind = type(generator.first.network).__name__
        raise ValueError(f"draws: {kind} (source_network) makes the same pair at each draw; leave it at 1.")
    begun = time.monotonic()
    report = build_pseudo_lmdb(options, generator, inputs=fingerprints(files), retry=retry, progress=progress)
    if options.mode != "stored":
        keep_copies(options.out, files)
    sheet = None
    if not report.unfinished and (report.written or not Path(options.out, SHEET_NAME).exists()):
        try:
            sheet = save_contact_sheet(BuildFolder(options.out), generator)
        except UNUSABLE as error:  # photographs may have gone since
            print(f"No contact sheet could be drawn: {reason_of(error)}")
    _print_summary(report, options, time.monotonic() - begun, sheet)
    return report


def _print_summary(report: BuildReport, options: PseudoOptions, seconds: float, sheet: Path | None) -> None:
    made = {"stored": "pairs", "online": "pseudo ground truths", "keys": "photographs checked"}[options.mode]
    total = report.written + report.kept
    print(
        f"{total} {made} of {report.photographs} photographs in {options.out}, {report.written} of them by this run "
        f"({report.written / max(seconds, 1e-9):.1f} a second)"
        + (f"; {report.clipped:.2%} of the pseudo inputs' values clipped" if options.mode == "stored" else "")
        + "."
    )
    if report.bytes:
        print("Stored: " + ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in report.bytes.items()) + ".")
    if report.unfinished:
        print(
            f"{report.unfinished} of {report.shards} shards are being built by other processes; the last of them "
            f"writes the report."
        )
    if report.left_out:
        print(f"Not read, for their format: {report.left_out}. Convert them to JPEG or PNG if they are to be used.")
    if report.skipped:
        first = printable_path(next(iter(report.skipped.values())))
        where = "" if report.unfinished else f"; {Path(options.out, SKIPPED)} says why, for example\n  {first}"
        print(f"Skipped: {counted(len(report.skipped), 'photograph')}{where}")
    if sheet:
        print(f"A random selection to look at: {sheet}")


def build_pseudo_lmdb(
    options: PseudoOptions,
    generator: PseudoPairGenerator,
    *,
    inputs: Mapping[str, Any] | None = None,
    threads: int | None = None,
    retry: bool = False,
    progress: bool = True,
) -> BuildReport:
    """Write pseudo pairs in shards: ``out/gt.lmdb`` (8-bit pseudo ground truths) and ``out/lq.lmdb`` (pseudo inputs).

    Both have the same keys in the same order, made from the photographs' relative paths
    (`semiisp_plugin.pseudo.manifest.pair_keys`). The same call resumes a build that was interrupted, however that
    happened, and does nothing to one that is complete. See `semiisp_plugin.pseudo.manifest` for what is in the folder.

    Args:
        options: Which photographs, where to, and how; checked, the GPU count resolved.
        generator: What `make_generator` makes of the options `DRAWN_WITH`.
        inputs: What else the pairs depend on (f_ISP's fingerprint, ...); a build is resumed only with the same.
        threads: Of each process, decoding and encoding beside f_ISP; None: none on a CPU, and a process's share of the
            cores on a GPU.
        retry: Try photographs again that an earlier run has skipped.
        progress: Show a progress bar.

    Returns:
        Counts and reasons.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: The folder of photographs is missing or holds none that
            can be used; the build was begun with other settings.
        FileExistsError: ``out`` holds files of something else.
        OSError: Disk full and the like; what was written stays, and the same call resumes.
        RuntimeError: All workers were killed.
        KeyboardInterrupt: Ctrl+C, SIGTERM and the like; what was made until then is stored.
    """
    out, photographs = options.out, options.photographs
    listing = scan_images(photographs)
    paths = _without(listing.images, photographs, out)
    if not paths:
        list_images(photographs)  # raises, and says what there is
    device = torch.device("cuda" if options.num_gpu else "cpu")
    settings = {
        **{name: getattr(options, name) for name in MADE_WITH},
        "photographs": os.path.abspath(photographs),
        "device": device.type,
        "batch": options.batch if options.batch != "auto" else _BATCH_ON_GPU if device.type == "cuda" else 1,
        # Compiled code rounds otherwise in the last bit.
        "numba": device.type == "cpu" and find_spec("numba") is not None,
        **(inputs or {}),
    }
    rank, world, local_rank = _rank()
    shard_size = None if options.shard_size == "auto" else options.shard_size
    job_of(out).read()  # before anything is written into a folder of something else
    with job_of(out).locked(wait=True):
        build = plan(
            out,
            paths,
            settings,
            shard_size,
            max_photographs=options.max_photographs,
            retry=retry and rank == 0,  # of several ranks one is enough
        )
    order = list(range(len(build)))[rank::world]
    if not options.own_shards_only:
        order += [shard for shard in range(len(build)) if shard % world != rank]
    workers = _workers(options, device, sum(build.sizes[shard] for shard in build.unfinished()))
    if threads is None:
        threads = max(1, available_cores() // max(1, workers)) if device.type == "cuda" else 0
    how = {"root": root_id(photographs), "threads": threads, "png_compression": options.png_compression}

    def done_in(shards: Sequence[int]) -> int:
        return sum(build.sizes[shard] for shard in shards if build.is_done(shard))

    what = f"photographs, rank {rank}" if world > 1 else "photographs"
    total, before = sum(build.sizes[shard] for shard in order), done_in(order)
    with _terminable(), progress_bar(total, what, "photo", done=before, shown=progress, in_logs=True) as bar:
        if workers == 0:
            written = _build_here(build, generator, how, order, gpu_of(device, local_rank), bar)
        else:
            written = Workers(build, generator, how, order, device, local_rank * workers, workers).run(
                # Of those that crashed, some photographs are counted twice.
                lambda done: bar.update(min(before + done, total) - bar.n),
                lambda text: None if bar.disable else tqdm.write(text, file=sys.stderr),
            )
        bar.update(done_in(order) - bar.n)  # what other processes have done, too
    report = _finish(out, photographs)
    report.written = written
    report.kept -= written
    report.left_out = listing.remark
    return report


def _without(paths: list[str], photographs: str, out: str) -> list[str]:
    """The photographs that do not lie in the folder of the build: its contact sheet is none of them."""
    inside = os.path.relpath(os.path.realpath(out), os.path.realpath(photographs)).replace(os.sep, "/")
    if inside == ".":
        raise ValueError(f"out: '{out}' is the folder of the photographs; choose another.")
    return paths if inside.startswith("../") else [path for path in paths if not path.startswith(f"{inside}/")]


def _workers(options: PseudoOptions, device: torch.device, left: int) -> int:
    """Number of processes besides this one, for so many photographs that are left."""
    if current_process().daemon:  # which may have no children
        return 0
    if options.workers != "auto":
        return int(options.workers)
    if left <= _FEW:
        return 0
    if device.type == "cuda":  # of a machine's GPUs, those that `torchrun` has started on it share them
        return max(1, int(options.num_gpu) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return available_cores()


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
def _terminable() -> Iterator[None]:
    """Make every signal to stop, such as those by which batch systems end a job, what Ctrl+C is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        told = KeyboardInterrupt(signal.Signals(number).name)
        told.signal = number  # type: ignore[attr-defined]  # the command's exit status has it
        raise told

    before = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS if is_heeded(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _build_here(
    build: BuildFolder,
    generator: PseudoPairGenerator,
    how: Mapping[str, Any],
    order: Sequence[int],
    device: torch.device,
    bar: Any,
) -> int:
    """Build in this process; returns the number of pairs stored."""
    watch = Watch(on_done=bar.update)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in workers: several would add up in another order, and round otherwise
    try:
        ShardBuilder(build, generator, **how, device=device, watch=watch).build_all(order)
    finally:
        torch.set_num_threads(threads)
    return int(watch.counter[WRITTEN])


# --- the end ---------------------------------------------------------------------------------------------------------


def _finish(out: str, photographs: str) -> BuildReport:
    """Sum the shards up; once all are complete, write ``report.json``, `SKIPPED` and the lists of images.

    Raises:
        ValueError: Not one photograph could be used; nothing is left behind.
    """
    with job_of(out).locked(wait=True):
        try:
            build = BuildFolder(out)  # with the shards that others have planned meanwhile
        except FileNotFoundError:
            raise ValueError(
                f"None of the photographs in {photographs} can be used, as another process has just found."
            ) from None
        report = BuildReport(shards=len(build), skipped=build.skipped(), photographs=build.n_photographs)
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
            first = next(iter(report.skipped.values()))
            raise ValueError(
                f"None of the {report.photographs} photographs in {photographs} can be used "
                f"({job_of(out).write_skipped(report.skipped)} says why); the first: {first}"
            )
        _write_report(build, report)
    return report


def _write_report(build: BuildFolder, report: BuildReport) -> None:
    # Those tried again are in two shards.
    report.photographs = report.kept // int(build.settings["draws"]) + len(report.skipped)
    for name in SETS[build.mode]:
        _write_meta(build, name)
    job_of(build.folder).write_skipped(report.skipped)
    summary = {
        "mode": build.mode,
        "photographs": report.photographs,
        "pairs": report.kept,
        "skipped": len(report.skipped),
        "clipped": report.clipped,
        "bytes": report.bytes,
        "shards": report.shards,
    }
    write_json(build.folder / "report.json", summary)
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
