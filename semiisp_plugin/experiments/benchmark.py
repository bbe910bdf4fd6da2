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
from semiisp_plugin.experiments.benchmark_jobs import Step, chain, compare_outputs
from semiisp_plugin.experiments.benchmark_options import BenchmarkOptions, Settings, System, load_benchmark_options
from semiisp_plugin.experiments.jobs import Runner, default_workers, own_folder
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.report.benchmark_report import write_report
from semiisp_plugin.report.benchmark_results import MAIN_GROUPS, Candidate, Cell, Failure, Point, Results, Score
from semiisp_plugin.report.benchmark_results import System as ReportedSystem
from semiisp_plugin.report.benchmark_tables import terminal_table
from semiisp_plugin.report.page import Pictures, counted

RESULTS = "results.json"


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


def check_effects(options: BenchmarkOptions, n_pairs: int) -> None:
    """Whether each setting changes a job: those of all systems one of any, otherwise it is said.

    Raises:
        ValueError: One of a system changes none of its jobs; the message names it.
    """
    first = repetitions(options)[0]

    def jobs(system: System, all_settings: Mapping[str, Any]) -> str:
        of = msgspec.structs.replace(options, settings=all_settings)
        return jobs_of(of, system, n_pairs, first, {}).key

    known = msgspec.to_builtins(Settings())
    for name, system in options.systems.items():
        for key, value in system.settings.items():
            others = {k: v for k, v in system.settings.items() if k != key}
            without = msgspec.structs.replace(system, settings=others)
            same = jobs(system, options.settings) == jobs(without, options.settings)
            if same and value != {**known, **options.settings}[key]:
                raise ValueError(f"systems:{name}:settings:{key}: nothing that this system does depends on it.")
    for key, value in options.settings.items():
        left = {k: v for k, v in options.settings.items() if k != key}
        same = all(jobs(system, options.settings) == jobs(system, left) for system in options.systems.values())
        if same and value != known[key]:
            print(f"Note: settings:{key}: nothing that these systems do depends on it.")


def run_from_arguments(args: Any) -> dict[str, Path]:
    """``basicsr benchmark``.

    Raises:
        RuntimeError: Some jobs failed; the report of the others is written.
    """
    options = load_benchmark_options(args.opt, args.force_yml)
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
    with own_folder(options.folder, "benchmark", "out"):
        return _run(options, command, workers)


def _run(options: BenchmarkOptions, command: str, workers: int | None) -> dict[str, Path]:
    out = options.folder
    runner = Runner(default_workers() if workers is None else workers)
    counts = [count_pairs(options.task) if n == "all" else int(n) for n in options.pairs]
    for n in counts:
        held_out(n, options.validation_pairs)  # says so if too few are left
    check_amounts(options.task, max(counts))
    check_effects(options, max(counts))
    chosen: dict[tuple[int, str], dict[str, Any]] = {}
    search: list[Candidate] = []
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
    # JSON knows neither infinity nor NaN.
    text = json.dumps(msgspec.to_builtins(results))
    plain = json.loads(text, parse_constant={"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}.get)
    write_atomically(out / RESULTS, json.dumps(plain, indent=1) + "\n")
    paths = {RESULTS: out / RESULTS, **write_report(out, results, _pictures(options, runner, jobs, results))}
    print(terminal_table(results))
    versions = len(results.made_with)
    if versions > 1:
        print(
            f"These results are of {versions} versions of the code; delete {options.cache} to have all of them made "
            f"again."
        )
    print(f"The report is in {paths.get('report.html', out)}.")
    return paths


def _choose(
    options: BenchmarkOptions,
    runner: Runner,
    system: System,
    name: str,
    n: int,
    first: Sequence[Repetition],
    search: list[Candidate],
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
    for index, (candidate, *psnr) in enumerate(zip(tried, scores, on_test, strict=True)):
        search.append(Candidate(n, name, candidate, psnr[0], index == best, psnr[1]))
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
    search: list[Candidate],
    command: str,
) -> Results:
    """Everything the report needs but pictures."""
    cells = []
    for (n, name, repetition), job in jobs.items():
        result = runner.result(job)
        if result is None:
            continue
        before = {j.kind: runner.noted[j.key]["result"] for j in job.with_before()}
        curve = _curve(runner, job)
        cells.append(
            Cell(
                pairs=n,
                system=name,
                repetition=str(repetition),
                seed=repetition.seed,
                fold=repetition.fold,
                chosen=dict(chosen[n, name]),
                validation=Score(**result["validation"]),
                test=Score(**result["test"]),
                early_stopped=max(curve, key=_validation_psnr) if job.kind == "supervised" else None,
                curve=curve,
                kept_ratio=before.get("semi", {}).get("kept_ratio", []),
                seconds=runner.noted[job.key]["seconds"],
            )
        )
    systems = {
        name: ReportedSystem(str(s.group), str(s.label), s.ours, s.description, s.kind)
        for name, s in options.systems.items()
    }
    used = {j.key for job in jobs.values() for j in job.with_before()}
    return Results(
        name=options.name,
        title=options.title or options.name,
        task=options.task.description,
        command=command,
        version=__version__,
        date=datetime.date.today().isoformat(),
        machine=machine(),
        seconds=sum(r["seconds"] for r in runner.noted.values()),
        seconds_without_search=sum(r["seconds"] for key, r in runner.noted.items() if key in used),
        workers=runner.workers,
        target=str((options.settings.get("network") or Settings().network)["type"]),
        paper_task=options.task.paper_task,
        paper_setting=options.paper_setting,
        selection=_selection(options),
        made_with=sorted({r["result"]["made_with"]["source"] for r in runner.noted.values()}),
        options=msgspec.to_builtins(options),
        systems=systems,
        best_supervised=_best_supervised(systems, cells),
        cells=cells,
        search=search,
        failed=[Failure(key, error) for key, error in runner.failed.items()],
    )


def _curve(runner: Runner, job: Step) -> list[Point]:
    """Validation and test PSNR over the iterations; phase 3's follow phase 2's."""
    points: list[Point] = []
    for part in (job.needs.get("semi"), job):
        offset = points[-1].iteration if points else 0
        for p in runner.noted[part.key]["result"]["curve"] if part else ():
            scores = (Score(p[kind]["psnr"]) for kind in ("validation", "test"))
            points.append(Point(offset + p["iteration"], *scores))
    return points


def _validation_psnr(run: Cell | Point) -> float:
    return -math.inf if run.validation.psnr is None else run.validation.psnr


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


def _best_supervised(systems: Mapping[str, ReportedSystem], cells: Sequence[Cell]) -> dict[int, str]:
    """By number of pairs: the supervised system of the best mean validation PSNR."""
    best: dict[int, str] = {}
    for n in sorted({cell.pairs for cell in cells}):
        scores = {
            name: [_validation_psnr(c) for c in cells if c.pairs == n and c.system == name]
            for name, system in systems.items()
            if system.kind == "supervised"
        }
        most = max(len(values) for values in scores.values())
        means = {name: _mean_of_all(values, most) for name, values in scores.items()}
        if most:
            best[n] = max(means, key=lambda name: means[name])
    return best


def _pictures(
    options: BenchmarkOptions, runner: Runner, jobs: Mapping[tuple[int, str, Repetition], Step], results: Results
) -> list[Pictures]:
    """Test images of the first repetition as the main systems render them, a sheet a number of pairs."""
    first = repetitions(options)[0]
    sheets = []
    for n in results.pairs() if options.pictures else ():
        shown = [name for name, s in options.systems.items() if s.group in ("f_isp", "baseline", *MAIN_GROUPS)]
        steps = {
            results.label(name): jobs[n, name, first] for name in shown if jobs[n, name, first].key in runner.noted
        }
        if steps:
            title = f"Test pictures, {counted(n, 'pair')}; below them their PSNR."
            sheets.append(compare_outputs(title, steps, options.pictures))
    return sheets


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
        "torch": str(torch.__version__),
    }
