"""``basicsr benchmark``: tasks x numbers of pairs x seeds x systems, with phases shared and cached, and a report."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from semiisp_plugin._version import __version__
from semiisp_plugin.experiments.benchmark_data import check_amounts
from semiisp_plugin.experiments.benchmark_jobs import (
    Step,
    chain,
    choice,
    compare_draws,
    compare_outputs,
    fold_of,
    judged,
    tested,
)
from semiisp_plugin.experiments.benchmark_options import (
    COMBINED_IN_FOLDS,
    BenchmarkOptions,
    Settings,
    System,
    Task,
    learns_from_photographs,
    load_benchmark_options,
)
from semiisp_plugin.experiments.jobs import Runner, default_workers, own_folder
from semiisp_plugin.experiments.tables import table_options
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.report.benchmark_report import write_report
from semiisp_plugin.report.benchmark_results import Cell, Failure, Results, Scores, SourceCell
from semiisp_plugin.report.benchmark_results import System as ReportedSystem
from semiisp_plugin.report.benchmark_results import Task as ReportedTask
from semiisp_plugin.report.benchmark_tables import terminal_table
from semiisp_plugin.report.page import Pictures, counted

RESULTS = "results.json"


class Run(NamedTuple):
    """A repetition of a system on a task."""

    task: str
    pairs: int
    seed: int
    system: str


def runs(options: BenchmarkOptions) -> list[Run]:
    """All of them, seed by seed, so that a benchmark that was interrupted has something of everything."""
    return [
        Run(task, n, seed, system)
        for seed in options.seeds
        for task, of_task in options.tasks.items()
        for n in of_task.pairs
        for system in options.systems
    ]


def job_of(options: BenchmarkOptions, run: Run) -> Step:
    """The test that ends a run, with all jobs that come before it."""
    task = options.tasks[run.task]
    of_task = {**msgspec.to_builtins(task), "pairs": [run.pairs]}
    for name in ("title", "description", "paper_task"):
        del of_task[name]
    if not task.unlabelled:  # jobs from before there was such a key keep their names
        del of_task["unlabelled"]
    data = Step("data", run.seed, {"task": of_task, "n_pairs": run.pairs}, options.cache)
    systems: Mapping[str, System] = options.systems
    system = systems[run.system]
    if system.kind not in COMBINED_IN_FOLDS:
        return _test_of(options, task, run, run.system, data)
    folds = [fold_of(data, fold, system.folds) for fold in range(system.folds)]
    return choice(
        system.kind,
        [_test_of(options, task, run, name, data) for name in system.among],
        [[_test_of(options, task, run, name, fold) for fold in folds] for name in system.among],
    )


def _test_of(options: BenchmarkOptions, task: Task, run: Run, name: str, data: Step) -> Step:
    systems: Mapping[str, System] = options.systems

    def trained(name: str) -> Step:
        settings = msgspec.convert({**options.settings, **systems[name].settings}, Settings)
        return chain(systems[name].kind, settings, data, run.seed, task.image_enhancement)

    members = systems[name].among or [name]
    return tested([trained(member) for member in members], [systems[member].kind for member in members])


def judges_of(options: BenchmarkOptions, jobs: Mapping[Run, Step]) -> dict[Run, Step]:
    """The tests of sources of pseudo inputs by themselves, where a system is there to compare them: each once."""
    systems: Mapping[str, System] = options.systems
    if all(system.group != "source" for system in systems.values()):
        return {}
    compared = [run for run in jobs if systems[run.system].kind == "semi" and systems[run.system].group != "ablation"]
    found: dict[str, tuple[Run, Step]] = {}
    for run in compared:
        job = judged(jobs[run].needs["network 0"])
        if job is not None:
            found.setdefault(job.key, (run, job))
    return dict(found.values())


def check_effects(options: BenchmarkOptions) -> None:
    """Whether each setting changes a job: those of all systems one of any, otherwise it is said.

    Raises:
        ValueError: One of a system changes none of its jobs; the message names it.
    """
    task, of_task = next(iter(options.tasks.items()))

    def jobs(system: str, **changes: Any) -> str:
        changed = msgspec.structs.replace(options, **changes)
        return job_of(changed, Run(task, of_task.pairs[0], options.seeds[0], system)).key

    known = msgspec.to_builtins(Settings())
    for name, system in options.systems.items():
        for key, value in system.settings.items():
            others = {k: v for k, v in system.settings.items() if k != key}
            without = {**options.systems, name: msgspec.structs.replace(system, settings=others)}
            if jobs(name) == jobs(name, systems=without) and value != {**known, **options.settings}[key]:
                raise ValueError(f"systems:{name}:settings:{key}: nothing that this system does depends on it.")
    for key, value in options.settings.items():
        left = {k: v for k, v in options.settings.items() if k != key}
        if value != known[key] and all(jobs(name) == jobs(name, settings=left) for name in options.systems):
            print(f"Note: settings:{key}: nothing that these systems do depends on it.")


def run_from_arguments(args: Any) -> dict[str, Path]:
    """``basicsr benchmark``.

    Raises:
        ValueError: The arguments do not go together.
        RuntimeError: Some jobs failed; the report of the others is written.
    """
    if (args.table is None) == (args.opt is None):
        raise ValueError("give a table of the paper, such as table3 --size cpu, or an option file (-opt FILE).")
    if args.opt is not None and args.size is not None:
        raise ValueError("--size is of the paper's tables; an option file has its own sizes.")
    if args.table is not None:
        what = [args.table, "--size", args.size or "cpu"]
        options = table_options(args.table, args.size or "cpu", args.force_yml)
    else:
        what = ["-opt", args.opt]
        options = load_benchmark_options(args.opt, args.force_yml)
    forced = ["--force_yml", *args.force_yml] if args.force_yml else []
    paths = run(options, command=shlex.join(["basicsr", "benchmark", *what, *forced]), workers=args.workers)
    failed = json.loads(paths["results.json"].read_text(encoding="utf-8"))["failed"]
    if failed:
        reasons = sorted({entry["error"] for entry in failed if not entry["error"].startswith("needs ")})
        raise RuntimeError(f"{len(failed)} jobs failed; the same command tries them again. {' / '.join(reasons[:4])}")
    return paths


def run(options: BenchmarkOptions, *, command: str = "", workers: int | None = None) -> dict[str, Path]:
    """Run a benchmark, or what is left of it, and write its report, after each seed and at the end.

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
    runner = Runner(default_workers() if workers is None else workers)
    for task in options.tasks.values():
        check_amounts(task, min(task.pairs))
        check_amounts(task, max(task.pairs))
    check_effects(options)
    jobs = {run: job_of(options, run) for run in runs(options)}
    judges = judges_of(options, jobs)
    paths: dict[str, Path] = {}
    try:
        for seed in options.seeds:
            of_seed = [job for part in (jobs, judges) for run, job in part.items() if run.seed == seed]
            news = runner.run(of_seed, f"seed {seed}")
            if news or seed == options.seeds[-1]:
                paths = _write(options, runner, jobs, command)
    finally:
        if runner.failed:
            print(f"{len(runner.failed)} jobs failed.")
    return paths


def _write(options: BenchmarkOptions, runner: Runner, jobs: Mapping[Run, Step], command: str) -> dict[str, Path]:
    """The report of what is there."""
    out = options.folder
    results = collect(options, runner, jobs, command)
    # JSON knows neither infinity nor NaN.
    text = json.dumps(msgspec.to_builtins(results))
    plain = json.loads(text, parse_constant={"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}.get)
    write_atomically(out / RESULTS, json.dumps(plain) + "\n")
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


def collect(options: BenchmarkOptions, runner: Runner, jobs: Mapping[Run, Step], command: str) -> Results:
    """Everything the report needs but pictures."""
    cells = []
    systems: Mapping[str, System] = options.systems
    for run, job in jobs.items():
        result = runner.result(job)
        if result is None:
            continue
        before = {j.key: j for j in job.with_before()}
        kept = [runner.noted[key]["result"]["kept_ratio"] for key, j in before.items() if j.kind == "semi"]
        weights = result.get("weights")
        if "chosen" in result:
            weights = [float(k == result["chosen"]) for k in range(len(systems[run.system].among))]
        cells.append(
            Cell(
                task=run.task,
                pairs=run.pairs,
                system=run.system,
                seed=run.seed,
                test=Scores(result["images"], result["psnr"], result["ssim"]),
                seconds=sum(runner.noted[key]["seconds"] for key in before),
                chosen=weights
                and {
                    systems[name].label: weight
                    for name, weight in zip(systems[run.system].among, weights, strict=True)
                    if weight > 0
                },
                kept_ratio=kept[0] if len(kept) == 1 and any(share < 1 for _, share in kept[0]) else [],
            )
        )
    sources = [
        SourceCell(task=run.task, pairs=run.pairs, system=run.system, seed=run.seed, **figures)
        for run, job in judges_of(options, jobs).items()
        if (result := runner.result(job)) is not None
        for figures in [{key: value for key, value in result.items() if key != "made_with"}]
    ]
    return Results(
        name=options.name,
        title=options.title or options.name,
        command=command,
        version=__version__,
        date=datetime.date.today().isoformat(),
        machine=machine(),
        seconds=sum(r["seconds"] for r in runner.noted.values()),
        workers=runner.workers,
        made_with=sorted({r["result"]["made_with"]["source"] for r in runner.noted.values()}),
        options=msgspec.to_builtins(options),
        tasks={
            key: ReportedTask(task.title or key, task.description, task.paper_task)
            for key, task in options.tasks.items()
        },
        systems={
            name: ReportedSystem(s.group, str(s.label), s.description, learns_from_photographs(name, systems), s.ours)
            for name, s in systems.items()
        },
        contrasts=options.contrasts,
        cells=cells,
        failed=[Failure(key, error) for key, error in runner.failed.items()],
        sources=sources,
    )


def _pictures(options: BenchmarkOptions, runner: Runner, jobs: Mapping[Run, Step], results: Results) -> list[Pictures]:
    """Test images of the first repetition as the main systems render them, a sheet a task and number of pairs."""
    sheets = []
    for task, n in results.settings() if options.pictures else ():
        shown = {
            results.label(name): jobs[Run(task, n, options.seeds[0], name)]
            for name, s in options.systems.items()
            if s.group in ("supervised", "method")
        }
        steps = {label: job for label, job in shown.items() if job.key in runner.noted}
        if steps:
            title = f"{results.tasks[task].title}, {counted(n, 'pair')}: test pictures; below them their PSNR."
            sheets.append(compare_outputs(title, steps, options.pictures))
        judges = {
            results.label(run.system): job
            for run, job in judges_of(options, jobs).items()
            if run[:3] == (task, n, options.seeds[0]) and job.key in runner.noted
        }
        if judges:
            title = f"{results.tasks[task].title}, {counted(n, 'pair')}: inputs that sources draw for one test picture."
            sheets.append(compare_draws(title, judges))
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
