"""What a pseudo pair costs on one core: stage by stage, beside decoding its JPEG, and beside the paper's way.

Five tables. (1) Pairs a second of the builder's steps, of decoding alone, and of the same steps with the inverse tone
mappings by interpolation in the paper's 4-D table (Sec. A.2, SciPy's interpn), in turn for each photograph. (2) Where
the time goes. (3) PNG settings: time and size, on the pairs of (1). (4) Whole builds by one, two, ... processes.
(5) Planning a build of many photographs (made-up names), each in a process of its own: what the command holds in
memory, while workers hold a shard's list only.

    python benchmarks/pseudo_data.py --photographs datasets/coco/images --f_isp f_isp_latest.pth
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
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import cv2
import numpy as np
import torch
from machine import describe, load_average

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.io.image_io import decode_image, encode_png, list_images, to_uint16, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter
from semiisp_plugin.io.picture import decode_photograph
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import plan
from semiisp_plugin.pseudo.sources import BankInverse
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.photographs import load_photographs

STAGES = ("read the file", "decode", "step 1", "step 2", "step 3", "round to 16 bits", "PNG of both", "store")


def packaged_photographs(folder: Path) -> Path:
    """The photographs that ship with the plugin, as JPEGs in a folder."""
    for name, image in load_photographs().items():
        write_image(folder / f"{name}.jpg", image)
    return folder


def untrained_generator() -> PseudoPairGenerator:
    """An f_ISP for image enhancement as it starts, and sets spread about there."""
    torch.manual_seed(0)
    network = PQDynamicISP(grid=(8, 8), inverse_tone_mapping=True)
    bank = ParameterBank(network.spec, 100)
    bank.append(network.spec.squash(0.3 * torch.randn(100, network.spec.n_parameters, 1, 1)))
    return PseudoPairGenerator(network, BankInverse(network.spec, bank))


class Clock:
    """Adds up seconds by what was done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.seconds[name] += time.perf_counter() - start
        return result


@torch.no_grad()
def make_pair(
    path: str, generator: PseudoPairGenerator, seed: int, png: int | Literal["fast"], lmdbs: Sequence[LmdbImageWriter]
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """One photograph through the builder's steps; the seconds of each stage, and the pair."""
    clock = Clock()
    buffer = clock("read the file", Path(path).read_bytes)
    image = clock("decode", lambda: decode_photograph(buffer, name=path))
    photo = torch.from_numpy(image).permute(2, 0, 1)[None]
    draws = torch.Generator().manual_seed(seed)
    raw = clock("step 1", lambda: generator.first.invert(photo, draws).image)
    target = clock("step 2", lambda: (generator.network(raw) * 255).round().clamp(0, 255).to(torch.uint8))
    made = clock("step 3", lambda: generator.generate_input(target, draws).input)
    gt = np.ascontiguousarray(target[0].permute(1, 2, 0).numpy())
    lq = clock("round to 16 bits", lambda: to_uint16(np.ascontiguousarray(made[0].permute(1, 2, 0).numpy())))
    encoded = clock("PNG of both", lambda: [encode_png(gt, png), encode_png(lq, png)])
    for writer, data in zip(lmdbs, encoded, strict=True):
        clock("store", lambda writer=writer, data=data: writer.put(str(len(writer)), data, gt.shape))
    return clock.seconds, gt, lq


def compare(paths: Sequence[str], args: argparse.Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tables 1 and 2; returns the pairs."""
    ours = make_generator(args.f_isp) if args.f_isp else untrained_generator()
    # Read on its own: both generators would share the banks.
    tables = make_generator(args.f_isp, inverse="paper_lut") if args.f_isp else untrained_generator()
    if not args.f_isp:
        tables.first.backend = "paper_lut"  # type: ignore[attr-defined]  # a BankInverse has one
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    stages: dict[str, list[float]] = defaultdict(list)
    totals: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        writers = [LmdbImageWriter(Path(folder, f"{name}.lmdb"), batch=16) for name in ("gt", "lq")]
        make_pair(paths[0], ours, 0, "fast", writers)  # compiles what is compiled at first use
        make_pair(paths[0], tables, 0, 1, writers)  # builds the tables
        for i, path in enumerate(paths, 1):
            seconds, gt, lq = make_pair(path, ours, i, "fast", writers)
            pairs.append((gt, lq))
            for name, value in seconds.items():
                stages[name].append(value)
            totals["this builder"].append(sum(seconds.values()))
            totals["decoding alone"].append(seconds["decode"])
            totals["this builder, PNG at level 1"].append(sum(make_pair(path, ours, i, 1, writers)[0].values()))
            if i <= args.tables:
                totals["inverses by the paper's table, PNG at level 1"].append(
                    sum(make_pair(path, tables, i, 1, writers)[0].values())
                )
        for writer in writers:
            writer.close()
    print(f"\n### Pairs a second, one core ({len(paths)} photographs, {args.tables} by the table)\n")
    own = totals["this builder"]
    rows = [
        {
            "": name,
            "pairs/s": f"{len(values) / sum(values):.2f}",
            "median ms": f"{1e3 * median(values):.1f}",
            "this builder's time : its": f"{median(a / b for a, b in zip(own, values, strict=False)):.3f}",
        }
        for name, values in totals.items()
    ]
    print(Table.of(rows).markdown())
    print("\n### Where the time goes\n")
    whole = sum(own)
    rows = [
        {"stage": name, "median ms": f"{1e3 * median(stages[name]):.2f}", "share": f"{sum(stages[name]) / whole:.1%}"}
        for name in STAGES
    ]
    print(Table.of(rows).markdown())
    return pairs


def png_settings(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Table 3: each setting on all images, in turn for each image."""
    settings: tuple[int | Literal["fast"], ...] = ("fast", 0, 1, 3, 6)
    found: dict[tuple[int, object], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        for which, image in enumerate(pair):
            for setting in settings:
                clock = Clock()
                data = clock("encode", lambda image=image, setting=setting: encode_png(image, setting))
                again = clock("decode", lambda data=data: decode_image(data, name="benchmark"))
                if not np.array_equal(again, image):
                    raise SystemExit(f"PNG setting {setting} is not lossless")
                cell = found[which, setting]
                for name, value in clock.seconds.items():
                    cell[name].append(value)
                cell["bytes"].append(len(data))
    print("\n### PNG settings\n")
    rows = []
    for which, name in enumerate(("ground truth, 8 bits", "input, 16 bits")):
        base = found[which, 1]
        for setting in settings:
            cell = found[which, setting]
            rows.append(
                {
                    "image": name,
                    "png_compression": f"{setting}",
                    "encode ms": f"{1e3 * median(cell['encode']):.1f}",
                    "decode ms": f"{1e3 * median(cell['decode']):.1f}",
                    "kB": f"{sum(cell['bytes']) / len(cell['bytes']) / 1e3:.0f}",
                    "encode : level 1": f"{sum(cell['encode']) / sum(base['encode']):.2f}",
                    "size : level 1": f"{sum(cell['bytes']) / sum(base['bytes']):.3f}",
                }
            )
    print(Table.of(rows).markdown())


def scaling(photographs: str, args: argparse.Namespace) -> None:
    """Table 4: builds in turn, after one that starts what workers are forked from."""
    generator = make_generator(args.f_isp) if args.f_isp else untrained_generator()
    seconds: dict[int, list[float]] = defaultdict(list)
    written = 0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for repeat in range(args.repeats + 1):
            for workers in args.workers:
                out = os.path.join(folder, "out")
                start = time.perf_counter()
                options = PseudoOptions(
                    name="benchmark",
                    photographs=photographs,
                    f_isp="",
                    out=out,
                    num_gpu=0,
                    workers=workers,
                    shard_size=args.shard_size,
                )
                report = build_pseudo_lmdb(options, generator, progress=False)
                if repeat:
                    seconds[workers].append(time.perf_counter() - start)
                written = report.written
                shutil.rmtree(out)
    print(f"\n### Whole builds of {written} pairs, {args.repeats} of each in turn\n")
    first = args.workers[0]
    rows = [
        {
            "processes": f"{workers}",
            "median s": f"{median(values):.1f}",
            "pairs/s": f"{written / median(values):.1f}",
            f"speed : {first} process": f"{median(a / b for a, b in zip(seconds[first], values, strict=True)):.2f}",
        }
        for workers, values in seconds.items()
    ]
    print(Table.of(rows).markdown())


def peak_mib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def plan_alone(count: int) -> dict[str, float]:
    """What a child does: plan a build, and check it again as the command that resumes it does."""
    names = [f"train2017/{i // 10_000:06d}/{i:012d}.jpg" for i in range(count)]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again; it was that of the process's parent
    before = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            build = plan(folder, names, {"photographs": "photographs"})
            seconds.append(time.perf_counter() - start)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        shards = len(build)
    grown = peak_mib() - before
    return {"first": seconds[0], "again": seconds[1], "MiB": grown, "size": size / 2**20, "shards": shards}


def planning(counts: Sequence[int]) -> None:
    """Table 5; where memory can be read."""
    if not Path("/proc/self/clear_refs").exists():
        return
    print("\n### Planning\n")
    rows = []
    for count in counts:
        command = [sys.executable, __file__, "--plan_alone", str(count)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            {
                "photographs": f"{count:,}",
                "shards": f"{found['shards']}",
                "first time, s": f"{found['first']:.1f}",
                "again, s": f"{found['again']:.1f}",
                "memory besides the list, MiB": f"{found['MiB']:.0f}",
                "lists on disk, MiB": f"{found['size']:.0f}",
            }
        )
    print(Table.of(rows).markdown())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", metavar="DIR", help="default: those that ship with the plugin")
    parser.add_argument("--f_isp", metavar="FILE", help="f_isp_latest.pth (default: an untrained one)")
    parser.add_argument("--count", type=int, default=40, help="photographs for tables 1 to 3 (default: %(default)s)")
    parser.add_argument("--tables", type=int, default=8, help="of them by the paper's table (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="for table 4 (default: 1 2)")
    parser.add_argument("--repeats", type=int, default=3, help="for table 4; 0 leaves it out (default: %(default)s)")
    parser.add_argument("--shard_size", type=int, default=25, help="for table 4 (default: %(default)s)")
    parser.add_argument("--plans", type=int, nargs="*", default=[118_287, 1_000_000], metavar="N", help="for table 5")
    parser.add_argument("--folder", metavar="DIR", help="for temporary files (default: the system's)")
    parser.add_argument("--plan_alone", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.plan_alone:
        print(json.dumps(plan_alone(args.plan_alone)))
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = args.photographs or str(packaged_photographs(Path(folder)))
        paths = [os.path.join(root, path) for path in list_images(root)]
        print(describe())
        chosen = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[: args.count]]
        png_settings(compare(chosen, args))
        if args.repeats:
            scaling(root, args)
    if args.plans:
        planning(args.plans)
    print(f"\nLoad average at the end: {load_average()}")


if __name__ == "__main__":
    main()
