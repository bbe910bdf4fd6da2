"""Memory of building pseudo pairs, from N and from 10 N photographs: it must not grow with their number.

A few generated JPEGs stand for many by hard links. Each build runs in a process of its own, which looks at its memory
after every pair. LMDB maps its file into memory: what the kernel keeps of the file there counts as resident, too, but
can be taken away at any time; the anonymous part is what the process itself holds. Up to 64 pairs wait in memory for a
commit, so N should be larger than that.

    python benchmarks/builder_memory.py --photographs 80 --factor 10 --width 640 --height 480
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from machine import describe, load_average

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.data.image_io import write_image
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.pseudo import BankInverse, PseudoPairGenerator
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.report.tables import text_table

DISTINCT = 4
MIB = 2**20


def make_photographs(folder: Path, count: int, width: int, height: int) -> None:
    """``count`` JPEGs, all but the first few of them links to those."""
    originals = []
    for i in range(min(DISTINCT, count)):
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = picture + rng.normal(
            0, 6, picture.shape
        )  # what makes a photograph's file large is its fine structure
        originals.append(folder / f"{i:06d}.jpg")
        write_image(originals[-1], picture.clip(0, 255).astype(np.uint8))
    for i in range(DISTINCT, count):
        original = originals[i % DISTINCT]
        try:
            os.link(original, folder / f"{i:06d}.jpg")
        except OSError:  # a file system without hard links
            shutil.copyfile(original, folder / f"{i:06d}.jpg")


def memory() -> dict[str, int]:
    """Bytes of this process: resident now, the most that ever were, and of those now the anonymous ones."""
    fields = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon"):
            fields[name] = int(value.split()[0]) * 1024
    return fields


def build(photographs: str, out: str) -> dict[str, Any]:
    """What a child does: build with an untrained f_ISP, looking at its memory after each pair."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = PQDynamicISP(grid=(8, 8))
    bank = ParameterBank(network.spec, 100)
    bank.append(network.spec.squash(0.3 * torch.randn(100, network.spec.n_parameters, 1, 1)))
    samples: list[dict[str, int]] = []

    class Watched(PseudoPairGenerator):
        def generate(self, photographs: torch.Tensor, generator: torch.Generator) -> Any:
            pair = super().generate(photographs, generator)
            samples.append(memory())
            return pair

    before = memory()
    start = time.perf_counter()
    report = build_pseudo_lmdb(photographs, out, Watched(network, BankInverse(network.spec, bank)), progress=False)
    seconds = time.perf_counter() - start
    later = samples[len(samples) // 2 :]
    return {
        "photographs": report.written,
        "seconds": seconds,
        "before": before["VmRSS"],
        "peak": memory()["VmHWM"],
        "steady": median(s["VmRSS"] for s in later),
        "peak anonymous": max(s["RssAnon"] for s in samples),
        "steady anonymous": median(s["RssAnon"] for s in later),
        "written": sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file()),
    }


def measure(count: int, args: argparse.Namespace) -> dict[str, Any]:
    """Build from ``count`` photographs in a fresh process."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        photographs = Path(folder, "photographs")
        photographs.mkdir()
        make_photographs(photographs, count, args.width, args.height)
        command = [sys.executable, __file__, "--child", str(photographs), str(Path(folder, "out"))]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=80, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--factor", type=int, default=10, help="the other build takes N times this (default: %(default)s)"
    )
    parser.add_argument("--width", type=int, default=640, help="pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=480, help="pixels (default: %(default)s)")
    parser.add_argument("--folder", metavar="DIR", help="for temporary files (default: the system's)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(build(*args.child)))
        return
    if args.photographs < 2 or args.factor < 2:
        parser.error("--photographs and --factor must be at least 2")
    if not Path("/proc/self/status").exists():
        parser.error("memory is read from /proc/self/status, which this system does not have")
    print(describe())
    print(f"photographs of {args.width}x{args.height} pixels; memory in MiB\n")
    few, many = (measure(count, args) for count in (args.photographs, args.factor * args.photographs))
    measures = ("peak", "steady", "peak anonymous", "steady anonymous")
    rows = [
        {
            "photographs": str(result["photographs"]),
            "before": f"{result['before'] / MIB:.0f}",
            **{name: f"{result[name] / MIB:.0f}" for name in measures},
            "written": f"{result['written'] / MIB:.0f}",
            "seconds": f"{result['seconds']:.1f}",
        }
        for result in (few, many)
    ]
    rows.append(
        {
            "photographs": "ratio",
            "before": "",
            **{name: f"{many[name] / few[name]:.3f}" for name in measures},
            "written": f"{many['written'] / few['written']:.1f}",
            "seconds": f"{many['seconds'] / few['seconds']:.1f}",
        }
    )
    print(text_table(rows))
    print(f"\n'before' is what importing torch and BasicSR takes. Load average at the end: {load_average()}")


if __name__ == "__main__":
    main()
