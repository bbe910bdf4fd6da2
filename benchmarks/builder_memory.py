"""Memory of a worker that builds pseudo pairs, from few and from many photographs: it must not grow with their number.

The photographs of a folder stand for many by links under other names. Each build runs in a process of its own, with
one worker, whose memory is looked at twenty times a second. LMDB maps its file into memory: what the kernel keeps of
the file there counts as resident, too, but can be taken away at any time; the anonymous part is what the process itself
holds. What is written is small (--short_side), so that many fit on a disk; every photograph is decoded in full.

    python benchmarks/builder_memory.py --photographs datasets/coco/images --counts 200 20000 --short_side 96
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe, load_average
from pseudo_data import packaged_photographs, untrained_generator

from semiisp_plugin.io.image_io import list_images
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.report.tables import Table

MIB = 2**20
MEASURES = ("peak", "steady", "peak anonymous", "steady anonymous")


def link_photographs(originals: Path, folder: Path, count: int) -> None:
    """``count`` links to the photographs of a folder, in turn."""
    paths = [originals / path for path in list_images(originals)]
    for i in range(count):
        original = paths[i % len(paths)].resolve()
        (folder / f"{i // 1000:03d}").mkdir(exist_ok=True)
        os.symlink(original, folder / f"{i // 1000:03d}" / f"{i:08d}{original.suffix}")


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: resident now, the most that ever were, and of those now the anonymous ones."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon"):
            fields[name] = int(value.split()[0]) * 1024
    return fields


def build(photographs: str, out: str, short_side: int) -> dict[str, Any]:
    """What a child does: build with an untrained f_ISP and one worker, and look at the worker's memory."""
    samples: list[dict[str, int]] = []
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.05):
            for process in multiprocessing.active_children():
                try:
                    sample = memory(process.pid or 0)
                except OSError:  # it has just ended
                    continue
                if len(sample) == 3:
                    samples.append(sample)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        options = PseudoOptions(
            name="benchmark",
            photographs=photographs,
            f_isp="",
            out=out,
            num_gpu=0,
            short_side=short_side,
            workers=1,
        )
        report = build_pseudo_lmdb(options, untrained_generator(), progress=False)
    finally:
        finished.set()
        watcher.join()
    later = samples[len(samples) // 2 :]
    return {
        "photographs": report.written,
        "seconds": time.perf_counter() - start,
        "peak": max(s["VmHWM"] for s in samples),
        "steady": median(s["VmRSS"] for s in later),
        "peak anonymous": max(s["RssAnon"] for s in samples),
        "steady anonymous": median(s["RssAnon"] for s in later),
        "written": sum(report.bytes.values()),
        "command": memory(os.getpid())["VmHWM"],
    }


def measure(count: int, args: argparse.Namespace) -> dict[str, Any]:
    """Build from ``count`` photographs in a fresh process."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        originals = Path(args.photographs) if args.photographs else packaged_photographs(Path(folder, "originals"))
        photographs = Path(folder, "photographs")
        photographs.mkdir()
        link_photographs(originals, photographs, count)
        command = [sys.executable, __file__, "--child", str(photographs), str(Path(folder, "out"))]
        command += ["--short_side", str(args.short_side)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", metavar="DIR", help="default: those that scikit-image and others ship")
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000], metavar="N", help="default: 200 2000")
    parser.add_argument("--short_side", type=int, default=96, help="of what is written (default: %(default)s)")
    parser.add_argument("--folder", metavar="DIR", help="for temporary files (default: the system's)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(build(args.child[0], args.child[1], args.short_side)))
        return
    if not Path("/proc/self/status").exists():
        parser.error("memory is read from /proc/self/status, which this system does not have")
    print(describe())
    print("memory of the worker, and the most of the command's own process, in MiB\n")
    results = [measure(count, args) for count in args.counts]
    rows = [
        {
            "photographs": f"{result['photographs']:,}",
            **{name: f"{result[name] / MIB:.0f}" for name in (*MEASURES, "command", "written")},
            "seconds": f"{result['seconds']:.0f}",
        }
        for result in results
    ]
    first, last = results[0], results[-1]
    ratios = {name: f"{last[name] / first[name]:.3f}" for name in (*MEASURES, "command")}
    rows.append({"photographs": "last : first", **ratios, "written": "", "seconds": ""})
    print(Table.of(rows).text())
    print(f"\nLoad average at the end: {load_average()}")


if __name__ == "__main__":
    main()
