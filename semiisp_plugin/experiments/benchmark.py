"""``basicsr benchmark``: systems x numbers of pairs x seeds, with phases shared and cached, and a report."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import os
import platform
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from semiisp_plugin._version import __version__
from semiisp_plugin.experiments.benchmark_data import check_amounts, count_pairs, held_out
from semiisp_plugin.experiments.benchmark_jobs import Step, chain
from semiisp_plugin.experiments.benchmark_options import BenchmarkOptions, Settings, System, load_benchmark_options
from semiisp_plugin.experiments.jobs import Runner, default_workers
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import list_images, read_image, to_float, to_uint8, write_image
from semiisp_plugin.report.benchmark_report import write_report
from semiisp_plugin.report.benchmark_tables import terminal_table

RESULTS = "results.json"
MARKER = "written_by_basicsr_benchmark.txt"


@dataclass(frozen=True)
class Repetition:
    """One draw of everything: a seed, and a test fold where there is cross-validation."""

    seed: int
    fold: int | None

    def __str__(self) -> str:
        return f"seed {self.seed}" + ("" if self.fold is None else f", fold {self.fold}")

    @property
    def training_seed(self) -> int:
        """Seed of weights and batches; different in every fold."""
        return self.seed if self.fold is None else 1000 * self.seed + self.fold


def repetitions(options: BenchmarkOptions) -> list[Repetition]:
    """All of them; the first of a search are of different seeds, or folds."""
    folds: Sequence[int | None] = range(options.task.folds) if options.task.folds else [None]
    return [Repetition(seed, fold) for seed in options.seeds for fold in folds]


def candidates(system: System) -> list[dict[str, Any]]:
    """All combinations of a system's search; one empty one without."""
    return [dict(zip(system.search, values, strict=True)) for values in itertools.product(*system.search.values())]


def jobs_of(
    options: BenchmarkOptions, system: System, n_pairs: int, repetition: Repetition, candidate: Mapping[str, Any]
) -> Step:
    """The job that ends a system's chain, with all that come before it."""
    settings = msgspec.convert({**options.settings, **system.settings, **candidate}, Settings)
    task = msgspec.to_builtins(options.task)
    for name in ("description", "paper_task"):
        del task[name]
    of_data = {
        "task": task,
        "n_pairs": n_pairs,
        "n_validation": held_out(n_pairs, options.validation_pairs),
        "fold": repetition.fold,
        "size": list(settings.size),
    }
    data = Step("data", repetition.seed, of_data, options.cache)
    return chain(system.kind, settings, data, repetition.training_seed, options.task.image_enhancement)


def run_from_arguments(args: Any) -> dict[str, Path]:
    """``basicsr benchmark``.

    Raises:
        RuntimeError: Some jobs failed; the report of the others is written.
    """
    options = load_benchmark_options(args.opt, args.force_yml)
    if args.workers is not None and args.workers < 0:
        raise ValueError(f"--workers {args.workers}: give a number of processes, or 0 for this one alone.")
    forced = ["--force_yml", *args.force_yml] if args.force_yml else []
    paths = run(options, command=shlex.join(["basicsr", "benchmark", "-opt", args.opt, *forced]), workers=args.workers)
    failed = json.loads(paths["results.json"].read_text(encoding="utf-8"))["failed"]
    if failed:
        reasons = sorted({entry["error"] for entry in failed if not entry["error"].startswith("needs ")})
        raise RuntimeError(f"{len(failed)} jobs failed; the same command tries them again. {' / '.join(reasons[:4])}")
    return paths


def run(options: BenchmarkOptions, *, command: str = "", workers: int | None = None) -> dict[str, Path]:
    """Run a benchmark, or what is left of it, and write its report.

    Args:
        options: Of `load_benchmark_options`.
        command: For the report.
        workers: Processes; default: one a GPU, or one a core; 0 does everything in this one.

    Returns:
        The files of the report.

    Raises:
        ValueError: There are fewer pairs or photographs than asked for.
    """
    out = prepare_output(options.folder)
    runner = Runner(default_workers() if workers is None else workers)
    counts = [count_pairs(options.task) if n == "all" else int(n) for n in options.pairs]
    for n in counts:
        held_out(n, options.validation_pairs)  # says so if too few are left
    check_amounts(options.task, max(counts))
    chosen: dict[tuple[int, str], dict[str, Any]] = {}
    search: list[dict[str, Any]] = []
    everything = repetitions(options)
    first = everything[: options.search_repetitions]
    systems: dict[str, System] = options.systems
    try:
        trials = [
            jobs_of(options, system, n, repetition, candidate)
            for n in counts
            for system in systems.values()
            if len(candidates(system)) > 1
            for candidate in candidates(system)
            for repetition in first
        ]
        runner.run(trials, "search")
        for n, (name, system) in itertools.product(counts, systems.items()):
            chosen[n, name] = _choose(options, runner, system, name, n, first, search)
        jobs = {
            (n, name, repetition): jobs_of(options, system, n, repetition, chosen[n, name])
            for n, (name, system), repetition in itertools.product(counts, systems.items(), everything)
        }
        runner.run(list(jobs.values()), "benchmark")
    finally:
        if runner.failed:
            print(f"{len(runner.failed)} jobs failed.")
    results = collect(options, runner, jobs, chosen, search, command)
    results["pictures"] = _pictures(options, runner, jobs, counts, everything, out)
    _write_json(out / RESULTS, results)
    paths = {RESULTS: out / RESULTS, **write_report(out)}
    print(terminal_table(results))
    versions = len(results["made_with"])
    if versions > 1:
        print(
            f"These results are of {versions} versions of the code; delete {options.cache} to have all of them made "
            f"again."
        )
    print(f"The report is in {paths.get('report.html', out)}.")
    return paths


def prepare_output(out: Path) -> Path:
    """Make the folder of a benchmark, or resume in one.

    Raises:
        FileExistsError: It holds something that is not a benchmark's.
    """
    own = (out / MARKER).is_file() or (out / RESULTS).is_file()
    if out.exists() and not own and any(out.iterdir() if out.is_dir() else [out]):
        raise FileExistsError(f"{out} exists and was not written by a benchmark; choose another folder (out).")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("The reports in this folder are replaced when the benchmark runs.\n", encoding="utf-8")
    return out


def _choose(
    options: BenchmarkOptions,
    runner: Runner,
    system: System,
    name: str,
    n: int,
    first: Sequence[Repetition],
    search: list[dict[str, Any]],
) -> dict[str, Any]:
    """The candidate of the best mean validation PSNR."""
    tried = candidates(system)
    if len(tried) == 1:
        return tried[0]
    scores, on_test = [], []
    for candidate in tried:
        jobs = [jobs_of(options, system, n, repetition, candidate) for repetition in first]
        done = [result for job in jobs if (result := runner.result(job)) is not None]
        scores.append([result["validation"]["psnr"] for result in done])
        on_test.append([result["test"]["psnr"] for result in done])
    # A candidate that failed or diverged on a hard repetition must not win by the mean of the easy ones.
    means = [_mean_of_all(values, len(first)) for values in scores]
    best = means.index(max(means))
    for index, (candidate, values) in enumerate(zip(tried, scores, strict=True)):
        search.append(
            {
                "pairs": n,
                "system": name,
                "candidate": candidate,
                "validation_psnr": values,
                "test_psnr": on_test[index],  # for the reader; nothing is chosen by it
                "chosen": index == best,
            }
        )
    return tried[best]


def _mean_of_all(values: Sequence[float], n: int) -> float:
    """The mean of n finite values; minus infinity if there are fewer."""
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite and len(finite) == n else -math.inf


def collect(
    options: BenchmarkOptions,
    runner: Runner,
    jobs: Mapping[tuple[int, str, Repetition], Step],
    chosen: Mapping[tuple[int, str], Mapping[str, Any]],
    search: Sequence[Mapping[str, Any]],
    command: str,
) -> dict[str, Any]:
    """Everything the report needs, as plain values."""
    cells: list[dict[str, Any]] = []
    for (n, name, repetition), job in jobs.items():
        result = runner.result(job)
        if result is None:
            continue
        before = {j.kind: runner.noted[j.key]["result"] for j in job.with_before()}
        curve = _curve(runner, job)
        early = max(curve, key=lambda point: point["validation"]["psnr"]) if curve else None
        cells.append(
            {
                "pairs": n,
                "repetition": str(repetition),
                "system": name,
                "seed": repetition.seed,
                "fold": repetition.fold,
                "chosen": dict(chosen[n, name]),
                "validation": result["validation"],
                "test": result["test"],
                "early_stopped": early if job.kind == "supervised" else None,
                "curve": curve,
                "kept_ratio": before.get("semi", {}).get("kept_ratio", []),
                "seconds": runner.noted[job.key]["seconds"],
            }
        )
    systems = {
        name: {key: getattr(system, key) for key in ("label", "group", "ours", "description", "kind")}
        for name, system in options.systems.items()
    }
    used = {j.key for job in jobs.values() for j in job.with_before()}
    return {
        "name": options.name,
        "title": options.title or options.name,
        "task": options.task.description,
        "command": command,
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "seconds": sum(r["seconds"] for r in runner.noted.values()),
        "seconds_without_search": sum(r["seconds"] for key, r in runner.noted.items() if key in used),
        "workers": runner.workers,
        "target": _target(options),
        "paper_task": options.task.paper_task,
        "paper_setting": options.paper_setting,
        "selection": _selection(options),
        "made_with": sorted({r["result"]["made_with"]["source"] for r in runner.noted.values()}),
        "options": msgspec.to_builtins(options),
        "systems": systems,
        "best_supervised": _best_supervised(systems, cells),
        "cells": cells,
        "search": [dict(row) for row in search],
        "failed": [{"job": key, "error": error} for key, error in runner.failed.items()],
    }


def _curve(runner: Runner, job: Step) -> list[dict[str, Any]]:
    """Validation and test PSNR over the iterations; phase 3's follow phase 2's."""
    points: list[dict[str, Any]] = []
    offset = 0
    for part in (job.needs.get("semi"), job):
        if part is None:
            continue
        curve = runner.noted[part.key]["result"]["curve"]
        points += [
            {
                "iteration": offset + p["iteration"],
                "validation": {"psnr": p["validation"]["psnr"]},
                "test": {"psnr": p["test"]["psnr"]},
            }
            for p in curve
        ]
        offset += curve[-1]["iteration"]
    return points


def _target(options: BenchmarkOptions) -> str:
    network = options.settings.get("network") or msgspec.to_builtins(Settings())["network"]
    return str(network["type"])


def _selection(options: BenchmarkOptions) -> str:
    text = (
        f"Searched settings: the candidate of the best mean PSNR on the validation pairs of the first "
        f"{min(options.search_repetitions, len(repetitions(options)))} repetition(s). The best supervised baseline: "
        f"the best mean validation PSNR over all repetitions. "
    )
    if options.task.folds is None:
        return text + "Nothing was searched on test pairs."
    return text + (
        "With folds, a pair is for the test in one fold and for validation in another, so that what is searched, the "
        "baselines first of all, is not quite blind to the test."
    )


def _best_supervised(systems: Mapping[str, Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By number of pairs: the supervised system of the best mean validation PSNR."""
    best: dict[str, str] = {}
    for n in sorted({cell["pairs"] for cell in cells}):
        scores = {
            name: [c["validation"]["psnr"] for c in cells if c["pairs"] == n and c["system"] == name]
            for name, system in systems.items()
            if system["kind"] == "supervised"
        }
        most = max(len(values) for values in scores.values())
        means = {name: _mean_of_all(values, most) for name, values in scores.items()}
        if most:
            best[str(n)] = max(means, key=lambda name: means[name])
    return best


def _pictures(
    options: BenchmarkOptions,
    runner: Runner,
    jobs: Mapping[tuple[int, str, Repetition], Step],
    counts: Sequence[int],
    everything: Sequence[Repetition],
    out: Path,
) -> list[dict[str, Any]]:
    """Test images of the first repetition: input, the main systems' outputs, target."""
    for old in (out / "pictures").glob("*.png"):
        old.unlink()
    shown = [name for name, s in options.systems.items() if s.group in ("f_isp", "baseline", "method", "help")]
    pictures = []
    for n in counts:
        done = [name for name in shown if jobs[n, name, everything[0]].key in runner.noted]
        if not done:
            continue
        some = jobs[n, done[0], everything[0]]
        test = some.needs["data"].data().test
        for name in list_images(test.input)[: min(options.pictures, 8)]:
            image, target = to_float(read_image(test.input / name)), read_image(test.target / name, bit_depth="8")
            dark = image.mean() < 0.2
            views = {f"input{' (gamma 2.2)' if dark else ''}": to_uint8(image ** (1 / 2.2) if dark else image)}
            psnr = {}
            for system in done:
                output = jobs[n, system, everything[0]].folder / "outputs" / name
                views[options.systems[system].label] = read_image(output, bit_depth="8")
                error = ((to_float(views[options.systems[system].label]) - to_float(target)) ** 2).mean()
                psnr[options.systems[system].label] = round(float(-10 * torch.log10(torch.tensor(error + 1e-10))), 2)
            views["target"] = target
            cells = []
            for index, (label, view) in enumerate(views.items()):
                path = out / "pictures" / f"{n}_{Path(name).stem}_{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, view)
                cells.append([label, path.relative_to(out).as_posix()])
            pictures.append({"pairs": n, "name": Path(name).stem, "cells": cells, "psnr": psnr})
    return pictures


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = (line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name"))
        model = next(names, f": {model}").partition(":")[2].strip()
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _finite(value: Any) -> Any:
    """JSON knows neither infinity nor NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")
