"""What inverting the ISP costs: the exact inverse, 8-bit curves and the paper's table, side by side in one run.

Three tables:

1. f_GM^-1 alone, which the paper interpolates from a 4-D table (Algorithm 1), on one image in the box of parameters
   where its error figures hold (g1 1-2, g2 0.9-1.1, k 0.2-0.8): time, error against the input that was mapped forward,
   memory beside the image. "SciPy" is the table as Algorithm 1 (2) applies it, in one call; "paper_lut" this package's
   use of the same table, in blocks. ``curve8`` does not do f_GM^-1 alone: its row is the whole inverse ISP.
2. The whole inverse ISP with parameters drawn over their ranges.
3. The whole inverse ISP of an 8-bit photograph as a part of decoding its JPEG with OpenCV; beside it the least that
   could do the same, a table look-up and a 3x3 transform in OpenCV without the clamp.

Rounds alternate between what is compared, and ratios are medians of a round's ratios.

    python benchmarks/inverse_isp.py
    python benchmarks/inverse_isp.py --device cuda        # CuPy in SciPy's place, and the share of memory bandwidth
    python benchmarks/inverse_isp.py --photographs DIR    # for table 3; default: those that ship with dependencies
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from machine import describe, load_average
from torch import Tensor

from semiisp_plugin.io.image_io import list_images
from semiisp_plugin.isp import InvertibleISP, ISPSpec, PaperLUTSettings
from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.gamma_inverse import GammaInverse
from semiisp_plugin.isp.paper_lut import PaperLUT, paper_lut
from semiisp_plugin.isp.parameter_maps import ParameterMaps, rows_of, worth_it
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.photographs import load_photographs

BOX = ((1.0, 2.0), (0.9, 1.1), (0.2, 0.8))
GRIDS = {"global": (1, 1), "local 8x8": (8, 8)}
LUT = PaperLUTSettings(gamma_ranges=BOX)


# --- what is compared -------------------------------------------------------------------------------------------------


def parameters_in_box(grid: tuple[int, int], seed: int) -> Tensor:
    """A set ``(1, 36, h, w)`` whose tone mapping lies in the box; the rest are starting values."""
    spec = ISPSpec()
    generator = torch.Generator().manual_seed(seed)
    parameters = spec.squash(torch.zeros(1, spec.n_parameters, *grid))
    where = spec.slices()["gm"]
    for i, (low, high) in enumerate(BOX):
        draw = torch.rand(1, 3, *grid, generator=generator)
        parameters[:, where.start + 3 * i : where.start + 3 * i + 3] = low + (high - low) * draw
    return parameters


def gamma_exact(image: Tensor, parameters: Tensor) -> Tensor:
    """f_GM^-1 alone, as `InvertibleISP.inverse` goes about it."""
    spec = ISPSpec()
    maps = ParameterMaps(spec, parameters, (image.shape[2], image.shape[3]))
    if not worth_it(image, parameters):
        return GammaInverse(**maps.whole()["gm"])(image)
    out = torch.empty_like(image)
    before = None
    for rows, p in maps.strips(rows_of(image)):
        if p is not before:
            inverse, before = GammaInverse(**p["gm"]), p
        out[:, :, rows] = inverse(image[:, :, rows])
    return out


def gamma_by_table(table: PaperLUT) -> Callable[[Tensor, Tensor], Tensor]:
    """f_GM^-1 by this package's look-up."""

    def invert(image: Tensor, parameters: Tensor) -> Tensor:
        maps = ParameterMaps(ISPSpec(), parameters, (image.shape[2], image.shape[3])).whole()["gm"]
        return table(image, maps["g1"], maps["g2"], maps["k"])

    return invert


def gamma_as_printed(table: PaperLUT) -> Callable[[Tensor, Tensor], Tensor]:
    """f_GM^-1 as Algorithm 1 (2) has it: parameters broadcast to the image, stacked with it, one call of SciPy."""
    from scipy.interpolate import RegularGridInterpolator

    axes = [np.linspace(low, high, n) for (low, high), n in zip(table.ranges, table.sizes[:3], strict=True)]
    interpolate = RegularGridInterpolator((*axes, np.linspace(0, 1, table.sizes[4])), table.table)

    def invert(image: Tensor, parameters: Tensor) -> Tensor:
        maps = ParameterMaps(ISPSpec(), parameters, (image.shape[2], image.shape[3])).whole()["gm"]
        ones = np.ones_like(image.numpy())
        # Interpolation of a grid may leave a range by a rounding, which SciPy refuses.
        values = [np.clip(ones * maps[k].numpy(), *r) for k, r in zip(("g1", "g2", "k"), table.ranges, strict=True)]
        return torch.from_numpy(interpolate(np.stack([*values, image.numpy()], axis=-1)))

    return invert


def measured_gamma(device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The contestants of table 1 by name, the one that ratios refer to first."""
    table = paper_lut("gamma_tone_map", BOX, LUT.sizes, 1)
    if device == "cpu":
        return {"SciPy": gamma_as_printed(table), "paper_lut": gamma_by_table(table), "exact": gamma_exact}
    return {
        "paper_lut (CuPy)": gamma_by_table(table),
        "exact": gamma_exact,
        "exact, compiled": torch.compile(gamma_exact, fullgraph=True),
    }


# --- measuring --------------------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """One call; on a GPU until it is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(calls: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in each round, after a round to warm up; the order rotates."""
    names = list(calls)
    for name in names:
        calls[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(seconds_of(calls[name], device))
    return times


def ratios(times: dict[str, list[float]], reference: str) -> dict[str, float]:
    """How many times faster than the reference: the median over rounds."""
    return {n: median(r / t for r, t in zip(times[reference], v, strict=True)) for n, v in times.items()}


def peak_memory_child(name: str, grid: str) -> None:
    """Run as a process of its own: bytes that the call needs beyond what was there, over the image's bytes."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    image, parameters = torch.rand(1, 3, 480, 640), parameters_in_box(GRIDS[grid], 0)
    isp = InvertibleISP(ISPSpec(), LUT)
    small = parameters_in_box((1, 1), 0)
    if name.startswith("isp "):
        backend = name.split()[1]
        source = (image * 255).to(torch.uint8) if backend == "curve8" else image
        warm_up = source[:, :, :160, :160].contiguous()

        def call(i: Tensor, p: Tensor) -> Any:
            return isp.inverse(i, p, backend=backend)
    else:
        call = measured_gamma("cpu")[name]
        source, warm_up = image, image[:, :, :160, :160].contiguous()
    call(warm_up, small if name == "isp curve8" else parameters)  # imports, compiled code, and the tables
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak from here on
    before = status("VmRSS")
    result = call(source, parameters)
    peak = status("VmHWM")
    del result
    print(json.dumps((peak - before) / (image.numel() * image.element_size())))


def status(field: str) -> int:
    """Bytes, of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def peak_memory(name: str, grid: str, device: str, call: Callable[[], Any], image: Tensor) -> str:
    """Extra memory at its peak, results included, in images of float32."""
    size = image.numel() * 4
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return f"{(torch.cuda.max_memory_allocated() - before) / size:.1f}"
    if not Path("/proc/self/clear_refs").exists():
        return "?"
    # Freed memory goes back at once, so that the resident size tells what is in use.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, "--memory-of", name, grid]
    extra = []
    for _ in range(3):  # what happens to be free already is not seen
        done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True)
        extra.append(json.loads(done.stdout.splitlines()[-1]))
    return f"{max(extra):.1f}"


def copy_seconds(image: Tensor, rounds: int, device: str) -> float:
    """Reading and writing the image once, the least that any point-wise function does."""
    target = torch.empty_like(image)
    target.copy_(image)
    return median(seconds_of(lambda: target.copy_(image), device) for _ in range(rounds))


# --- the tables -------------------------------------------------------------------------------------------------------


def table_gamma(args: argparse.Namespace) -> list[dict[str, str]]:
    rows = []
    for label, grid in GRIDS.items():
        parameters = parameters_in_box(grid, args.seed).to(args.device)
        generator = torch.Generator().manual_seed(args.seed)
        truth = torch.rand(args.batch, 3, 480, 640, generator=generator).to(args.device)
        parameters = parameters.expand(args.batch, -1, -1, -1).contiguous()
        maps = ParameterMaps(ISPSpec(), parameters.double(), (480, 640)).whole()["gm"]
        image = fn.gamma_tone_map(truth.double(), **maps).float()
        calls: dict[str, Callable[[], Any]] = {
            n: (lambda f=f, i=image, p=parameters: f(i, p)) for n, f in measured_gamma(args.device).items()
        }
        errors = {name: (call().to(truth) - truth).abs().double() for name, call in calls.items()}
        reference = next(iter(calls))
        if grid == (1, 1):
            isp, bytes_ = InvertibleISP(ISPSpec()), (image * 255).round().to(torch.uint8)
            calls["curve8 (whole ISP)"] = lambda isp=isp, i=bytes_, p=parameters: isp.inverse(i, p, backend="curve8")
            exact = isp.inverse(bytes_.double() / 255, parameters.double()).image
            errors["curve8 (whole ISP)"] = (calls["curve8 (whole ISP)"]().image - exact).abs()
        times = alternate(calls, args.rounds, args.device)
        faster = ratios(times, reference)
        copy = copy_seconds(image, args.rounds, args.device)
        for name, error in errors.items():
            memory_name = "isp curve8" if name.startswith("curve8") else name
            row = {
                "parameters": label,
                "f_GM^-1 by": name,
                "ms": f"{1000 * median(times[name]):.2f}",
                "times faster": f"{faster[name]:.1f}",
                "mean error": f"{error.mean():.1e}",
                "max error": f"{error.max():.1e}",
                "max error, times smaller": f"{errors[reference].max() / error.max():.0f}",
                "extra memory, images": peak_memory(memory_name, label, args.device, calls[name], image),
            }
            if args.device == "cuda":
                row["share of copy bandwidth"] = f"{copy / median(times[name]):.2f}"
            rows.append(row)
    return rows


def table_isp(args: argparse.Namespace) -> list[dict[str, str]]:
    rows = []
    for kind, spec in (("ISP", ISPSpec()), ("IE", ISPSpec(inverse_tone_mapping=True, gamma_start=1.0))):
        isp = InvertibleISP(spec)
        for label, grid in GRIDS.items():
            generator = torch.Generator().manual_seed(args.seed)
            parameters = spec.squash(0.3 * torch.randn(args.batch, spec.n_parameters, *grid, generator=generator))
            parameters = parameters.to(args.device)
            image = torch.rand(args.batch, 3, 480, 640, generator=generator).to(args.device)
            bytes_ = (image * 255).to(torch.uint8)
            calls: dict[str, Callable[[], Any]] = {
                "exact": lambda isp=isp, i=image, p=parameters: isp.inverse(i, p),
                "forward": lambda isp=isp, i=image, p=parameters: isp.forward(i, p),
            }
            if not args.no_tables:
                calls["paper_lut"] = lambda isp=isp, i=image, p=parameters: isp.inverse(i, p, backend="paper_lut")
            if grid == (1, 1):
                calls["curve8"] = lambda isp=isp, i=bytes_, p=parameters: isp.inverse(i, p, backend="curve8")
            if args.compile:
                compiled = torch.compile(isp.inverse, fullgraph=True)
                calls["exact, compiled"] = lambda f=compiled, i=image, p=parameters: f(i, p)
            times = alternate(calls, args.rounds, args.device)
            copy = copy_seconds(image, args.rounds, args.device)
            exact64 = isp.inverse(image.double(), parameters.double()).image
            bytes64 = isp.inverse(bytes_.double() / 255, parameters.double()).image
            for name, call in calls.items():
                row = {"ISP": kind, "parameters": label, "backend": name, "ms": f"{1000 * median(times[name]):.2f}"}
                if name == "forward":
                    error = isp.forward(image, parameters) - isp.forward(image.double(), parameters.double())
                else:
                    error = call().image - (bytes64 if name == "curve8" else exact64)
                row["mean error"] = f"{error.abs().double().mean():.1e}"
                row["max error"] = f"{error.abs().max():.1e}"
                if args.device == "cuda":
                    row["share of copy bandwidth"] = f"{copy / median(times[name]):.2f}"
                rows.append(row)
    return rows


def jpegs(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Name and bytes of 640x480 JPEGs: those of the folder that are, or shipped photographs at quality 90."""
    if args.photographs:
        for path in list_images(args.photographs):
            data = np.fromfile(Path(args.photographs, path), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if path.lower().endswith((".jpg", ".jpeg")) else None
            if image is not None and image.shape[:2] == (480, 640):
                yield path, data
        return
    for name, image in load_photographs().items():
        height, width = image.shape[:2]
        scale = max(480 / height, 640 / width)
        resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:480, :640]
        if resized.shape[:2] == (480, 640):
            yield name, cv2.imencode(".jpg", resized[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]


def table_jpeg(args: argparse.Namespace) -> list[dict[str, str]]:
    isp = InvertibleISP(ISPSpec())
    generator = torch.Generator().manual_seed(args.seed)
    files = list(jpegs(args))
    if not files:
        raise SystemExit(f"{args.photographs}: no JPEG of 640x480 pixels.")
    table, matrix = np.random.default_rng(0).random((1, 256, 3)).astype(np.float32), 1.2 * np.eye(3)
    collected: dict[str, list[float]] = {"inverse": [], "exact": [], "least": [], "decode": []}
    ways = {
        "inverse": lambda image, p: isp.inverse(torch.from_numpy(image).permute(2, 0, 1)[None], p, backend="curve8"),
        "exact": lambda image, p: isp.inverse(torch.from_numpy(image).permute(2, 0, 1)[None], p),
        "least": lambda image, _: cv2.transform(cv2.LUT(image, table), matrix),
    }
    for round_ in range(max(2, args.rounds // 2)):
        for _, data in files:
            # A new set every time: nothing of it can be kept from the last photograph.
            parameters = isp.spec.squash(0.1 * torch.randn(1, isp.spec.n_parameters, 1, 1, generator=generator))
            for name, way in ways.items():
                start = time.perf_counter()
                image = cv2.imdecode(data, cv2.IMREAD_COLOR)
                middle = time.perf_counter()
                way(image, parameters)
                end = time.perf_counter()
                if round_:  # the first is to warm up
                    collected[name].append((end - middle) / (middle - start))
                    collected["decode"].append(middle - start)
    sizes = [len(data) / 1000 for _, data in files]
    rows = []
    for name, label in (
        ("inverse", "inverse ISP, curve8, curves included"),
        ("least", "look-up and 3x3 transform in OpenCV"),
        ("exact", "inverse ISP, exact"),
    ):
        values = sorted(collected[name])
        tenth = len(values) // 10
        rows.append(
            {
                "after decoding": label,
                "of decoding time": f"{median(values):.2f}",
                "10 to 90 %": f"{values[tenth]:.2f} to {values[-1 - tenth]:.2f}",
                "photographs": f"{len(files)}, {median(sizes):.0f} kB",
                "decoding, ms": f"{1000 * median(collected['decode']):.2f}",
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="of each table (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images in tables 1 and 2 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of images and parameters (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    parser.add_argument("--photographs", metavar="DIR", help="JPEGs of 640x480 pixels for table 3")
    parser.add_argument("--compile", action="store_true", help="table 2 with torch.compile (always on a GPU)")
    parser.add_argument(
        "--no-tables",
        action="store_true",
        help="without the paper's tables, which take minutes to build: no table 1, no paper_lut in table 2",
    )
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.memory_of:
        peak_memory_child(*args.memory_of)
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that torch can use")
    args.compile = args.compile or args.device == "cuda"
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.set_grad_enabled(False)
    print(f"{describe()}; threads: {args.threads}")
    print(f"{args.batch} image(s) of 640x480x3 float32 (curve8: uint8); medians of {args.rounds} rounds\n")
    for title, table in (
        ("1. f_GM^-1 alone", table_gamma),
        ("2. The whole inverse ISP", table_isp),
        ("3. The whole inverse ISP of a JPEG photograph, global parameters", table_jpeg),
    ):
        if (table is table_jpeg and args.device == "cuda") or (table is table_gamma and args.no_tables):
            continue
        output = io.StringIO()
        print(Table.of(table(args)).text(), file=output)
        print(f"{title}\n\n{output.getvalue()}")
    print(f"Load average at the end: {load_average()}")


if __name__ == "__main__":
    main()
