"""Everything that only a GPU can show, in one run of less than ten minutes; see ``scripts/gpu_check.sh``.

Tests that need CUDA; f_GM^-1 exactly and by the paper's table in CuPy, the whole inverse, and the share of the memory's
bandwidth that they reach; networks in float32, in bfloat16 and compiled, how far these differ, and forward and training
times; pseudo pairs drawn on the GPU against those of the CPU. What fails is listed, and the rest is still run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import architectures
import inverse_isp
import torch
from machine import describe
from online_draw import untrained

from semiisp_plugin.report.tables import Table
from semiisp_plugin.toolbox import build_network

ROOT = Path(__file__).resolve().parents[1]
Rows = list[dict[str, Any]]


def tests(args: argparse.Namespace) -> Rows:
    """The suite's tests that are marked ``gpu``; on a CPU they are only counted."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests")]
    # With nothing but the mark to go by, pytest has to collect all tests: most of the time without a GPU.
    command += [] if args.device == "cuda" else ["--collect-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines()
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    if done.returncode:
        raise RuntimeError("\n".join([*failed, *said[-1:], done.stderr.strip()[-1000:]]))
    return [{"tests": said[-1].strip("= ")}]


def inverse_gamma(args: argparse.Namespace) -> Rows:
    """f_GM^-1 alone: the paper's table in CuPy, exactly, and exactly and compiled."""
    return inverse_isp.table_gamma(args) if args.device == "cuda" else []


def inverse(args: argparse.Namespace) -> Rows:
    """The whole inverse, and its bandwidth."""
    return inverse_isp.table_isp(args)


def networks(args: argparse.Namespace) -> Rows:
    """Forward and training times, and the memory of training, in float32."""
    return [row for name in args.networks for row in architectures.measure(name, args)]


@torch.no_grad()
def precisions(args: argparse.Namespace) -> Rows:
    """Networks under autocast and compiled: how far from float32, how much faster."""
    rows = []
    for name in args.networks:
        network = build_network(dict(architectures.SUBJECTS[name].ours)).to(args.device).eval()
        for parameter in network.parameters():
            parameter.add_(architectures.NOISE * torch.randn_like(parameter))
        image = torch.rand(args.batch, 3, *args.size, generator=torch.Generator().manual_seed(0)).to(args.device)

        def autocast(network: torch.nn.Module = network, image: torch.Tensor = image) -> torch.Tensor:
            with torch.autocast(args.device, torch.bfloat16):
                return network(image)

        calls: dict[str, Callable[[], torch.Tensor]] = {
            "float32": lambda network=network, image=image: network(image),
            "bfloat16 autocast": autocast,
        }
        if args.compile:
            compiled = torch.compile(network)
            calls["float32, compiled"] = lambda network=compiled, image=image: network(image)
        reference = calls["float32"]()
        for what, call in calls.items():
            difference = (call().float() - reference).abs().max().item()
            seconds = median(architectures.clock(call, args.device) for _ in range(args.repeats))
            row = {"network": name, "in": what, "ms": f"{1000 * seconds:.2f}", "difference": f"{difference:.1e}"}
            rows.append(row)
    return rows


def draws(args: argparse.Namespace) -> Rows:
    """Pseudo pairs: the same draws on this device and on the CPU, how far apart, and how long they take."""
    rows = []
    photographs = torch.randint(256, (args.batch, 3, *args.size), generator=torch.Generator().manual_seed(0))
    photographs = photographs.to(torch.uint8)
    for enhancement in (False, True):
        for sets in ("global", "local"):
            generator = untrained(enhancement, sets)
            expected = generator.generate(photographs, torch.Generator().manual_seed(1))
            generator.network.to(args.device)
            moved = photographs.to(args.device)
            made = generator.generate(moved, torch.Generator().manual_seed(1))
            # Targets are rounded to 8 bits, so that a few may be one level apart; inputs are compared on equal ones.
            levels = (made.target.cpu().int() - expected.target.int()).abs().max()
            inputs = [generator.generate_input(expected.target.to(args.device), torch.Generator().manual_seed(2)).input]
            seconds = median(
                architectures.clock(partial(generator.generate, moved, torch.Generator().manual_seed(1)), args.device)
                for _ in range(args.repeats)
            )
            generator.network.cpu()
            inputs.append(generator.generate_input(expected.target, torch.Generator().manual_seed(2)).input)
            rows.append(
                {
                    "f_ISP": "IE" if enhancement else "RAW",
                    "sets of step 3": sets,
                    "ms a batch": f"{1000 * seconds:.2f}",
                    "targets, levels apart": int(levels),
                    "inputs, difference": f"{(inputs[0].cpu() - inputs[1]).abs().max():.1e}",
                }
            )
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "Inverse of f_GM": inverse_gamma,
    "Inverse of the whole ISP": inverse,
    "Networks": networks,
    "Precision and compilation": precisions,
    "Draws of pseudo pairs": draws,
    "Tests": tests,
}


def settings(cpu: bool) -> argparse.Namespace:
    """What the parts take; on the CPU the least that runs through all of them."""
    values: dict[str, Any] = {"seed": 0, "nafnet": None, "seplut": None, "retinexformer": None, "kbnet": None}
    if cpu:
        values.update(device="cpu", batch=1, size=(64, 64), rounds=1, repeats=1, networks=["SepLUT"])
        return argparse.Namespace(**values, compile=False, no_tables=True)
    values.update(device="cuda", batch=8, size=(256, 256), rounds=10, repeats=10, networks=list(architectures.SUBJECTS))
    # The whole ISP by the paper's table takes gigabytes and minutes; the table alone is compared in the first part.
    return argparse.Namespace(**values, compile=True, no_tables=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a small dry run without a GPU: does everything still run?")
    parser.add_argument("--out", default="results/gpu_check", help="for DIR/gpu_check.{json,md} (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=f"{list(PARTS)}")
    given = parser.parse_args(argv)
    if not given.cpu and not torch.cuda.is_available():
        print("gpu_check: there is no CUDA GPU that torch can use; --cpu makes a small dry run.", file=sys.stderr)
        return 1
    args = settings(given.cpu)
    machine = describe()
    print(machine, flush=True)
    found: dict[str, Any] = {"machine": machine, "device": args.device, "parts": {}, "failed": {}, "seconds": {}}
    lines = ["# GPU check", "", machine, ""]
    for title in given.parts:
        start = time.perf_counter()
        try:
            found["parts"][title] = rows = PARTS[title](args)
            lines += [f"## {title}", "", "```", Table.of(rows).text() if rows else "needs a GPU", "```", ""]
        except Exception as error:  # the other parts are worth having
            found["failed"][title] = f"{type(error).__name__}: {error}"
            lines += [f"## {title}", "", f"Failed: {found['failed'][title]}", ""]
            traceback.print_exc()
        found["seconds"][title] = round(time.perf_counter() - start, 1)
        print(f"{title}: {found['seconds'][title]} s", flush=True)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu_check.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "gpu_check.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines[3:]))
    print(f"{out / 'gpu_check.json'} and gpu_check.md are written; failed: {', '.join(found['failed']) or 'nothing'}.")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
