"""``basicsr recipe``: all phases of one experiment in their order, and the report.

What is complete is skipped, what was interrupted is resumed, and what was made with other options or from other
weights is refused, or made again if asked for (`semiisp_plugin.experiments.jobs` judges). All phases are checked before
the first begins.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from semiisp_plugin import options as options_module
from semiisp_plugin._version import __version__
from semiisp_plugin.apps.denoise.options import complete_denoise_options
from semiisp_plugin.experiments.annotated_yaml import changed, plain, write_yaml
from semiisp_plugin.experiments.jobs import JobError, Status, as_json, fingerprint, perform, statuses
from semiisp_plugin.experiments.own_task import OWN
from semiisp_plugin.experiments.paper_options import Experiment, find_experiment
from semiisp_plugin.experiments.paper_settings import TASKS
from semiisp_plugin.experiments.recipe_checks import check_fit, check_inputs, connect, estimate
from semiisp_plugin.experiments.recipe_options import ORDER, TRAININGS, Recipe, load_recipe, named
from semiisp_plugin.experiments.recipe_phases import Denoise, Phase, Pseudo, Test, Training
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.locks import owned
from semiisp_plugin.options import OptionError, nearest
from semiisp_plugin.report import recipe_report as report
from semiisp_plugin.report.tables import Table

SYSTEMS = {
    "f_isp": "f_ISP alone (local control)",
    "supervised": "supervised",
    "semi": "semi-supervised, before fine-tuning",
    "finetune": "semi-supervised, fine-tuned",
}
"""What is tested, by the phase whose weights it has."""


def run_from_arguments(args: argparse.Namespace) -> dict[str, Any] | None:
    """``basicsr recipe``.

    Raises:
        ValueError: The arguments contradict each other, and all that `run_recipe` raises.
    """
    if (args.what is None) == (args.opt is None):
        raise ValueError(f"Give a task ({', '.join((*TASKS, OWN))}) or a recipe FILE.")
    given = {"network": args.network, "pairs": args.pairs, "data": args.data, "photos": args.photos}
    experiment = None
    if args.what in (*TASKS, OWN):
        experiment = find_experiment(args.what, **given)
    elif any(value is not None for value in given.values()):
        raise ValueError("--network, --pairs, --data and --photos go with a task; a FILE says them itself (see --set).")
    elif args.what is not None and not os.path.exists(args.what) and not args.what.endswith((".yml", ".yaml")):
        raise ValueError(
            f"There is no task and no file '{args.what}'{nearest(args.what, (*TASKS, OWN))} Tasks: "
            f"{', '.join((*TASKS, OWN))}."
        )
    source = plain(experiment.recipe()) if experiment else args.opt or args.what
    if args.write:
        if args.dry_run or args.until or args.redo is not None:
            raise ValueError("--write runs nothing: leave --dry-run, --until and --redo out.")
        write_option_files(load_recipe(source, args.set), Path(args.write), experiment)
        return None
    return run_recipe(
        source,
        overrides=args.set,
        dry_run=args.dry_run,
        until=args.until,
        redo=args.redo,
        progress=sys.stderr.isatty(),
    )


def write_option_files(recipe: Recipe, folder: Path, experiment: Experiment | None = None) -> list[Path]:
    """Write the phases as option files, and a recipe that names them.

    Args:
        recipe: With all changes.
        folder: Where to; it is made, and files of these names are replaced.
        experiment: Where the recipe is from: values that it did not change get their sources as comments.
    """
    phases = experiment.phases() if experiment else {}
    written = []
    for name, phase in recipe.phases.items():
        head = experiment.head(name) if experiment else [f"{recipe.options.title or recipe.options.name}: {name}."]
        written.append(folder / f"{name}.yml")
        write_atomically(written[-1], write_yaml(changed(phases.get(name), phase.values), head, None))
    values: dict[str, Any] = {"name": recipe.options.name, "title": recipe.options.title, "phases": {}}
    values["phases"] = {name: f"{name}.yml" for name in recipe.phases}
    if recipe.options.paper:
        values["paper"] = {key: getattr(recipe.options.paper, key) for key in ("task", "network", "pairs")}
    written.append(folder / "recipe.yml")
    head = ["All phases of one experiment, and the report.", f"basicsr recipe {folder}/recipe.yml --dry-run"]
    write_atomically(written[-1], write_yaml(values, head, None))
    print("Written: " + ", ".join(map(str, written)))
    return written


def run_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    dry_run: bool = False,
    until: str | None = None,
    redo: Sequence[str] | None = None,
    progress: bool = False,
) -> dict[str, Any] | None:
    """Run all phases of a recipe that are not complete, test, and write the report.

    Relative paths in options count from the working directory, which gets ``experiments`` and ``results``.

    Args:
        recipe: The file, or its content, with option files relative to the working directory.
        overrides: ``--set`` entries, of one phase with its name in front.
        dry_run: Check, print the plan, and time a few steps of each phase; nothing is written.
        until: Stop after this phase, without a report.
        redo: Phases to make again, and what follows them; an empty sequence: all that are stale.
        progress: Show progress bars.

    Returns:
        What is in ``report.json``; None without a report.

    Raises:
        OptionError: An option is wrong.
        JobError: Phases do not fit each other, are stale, or something that they need is missing.
        Interrupted, KeyboardInterrupt: It was stopped; the same call resumes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise JobError(
            "A recipe is one process: start it without torchrun. To train on several GPUs with torchrun, write the "
            "phases with --write DIR and run `torchrun ... basicsr train` on each file."
        )
    loaded = load_recipe(recipe, overrides)
    for name in [*([until] if until else []), *(redo or [])]:
        if name not in loaded.phases:
            raise JobError(
                f"{name}: no phase of this recipe{nearest(name, loaded.phases)} ({', '.join(loaded.phases)})"
            )
    root = Path.cwd()
    phases = phases_of(loaded, root)
    check_fit(phases)
    if until:
        phases = [p for p in phases if ORDER.index(_place(p)) <= ORDER.index(until)]
    states = statuses(phases)
    again = _to_redo(phases, states, redo)
    left = [p for p in phases if states[p.key].state != "complete" or p.key in again]
    print(plan_text(loaded, phases, states, again, left), flush=True)
    check_inputs(left, phases)
    if dry_run:
        print(estimate([p for p in left if not isinstance(p, Test)], states, again), flush=True)
        return None
    stale = [p for p in left if states[p.key].state == "stale" and p.key not in again and not p.made_again]
    if stale:
        lines = "; ".join(f"{p.key}: {states[p.key].why}" for p in stale)
        raise JobError(
            f"{lines}. Go back to the former options, or make what is stale again with --redo (older runs are renamed, "
            f"not deleted), or give the runs other names."
        )
    out = root / "results" / f"recipe_{loaded.options.name}"
    with owned(out, "the recipe's name", beside=True):
        for phase in left:
            print(f"\n== {phase.key}: {phase.run_name} ==", flush=True)
            perform(phase, redo=phase.key in again, progress=progress)
        if until and until != "test":
            print(f"Done until {until}.")
            return None
        return _report(loaded, phases, out)


def _place(phase: Phase) -> str:
    """Its entry in `ORDER`: tests of all systems stand in one."""
    return phase.key.partition(":")[0]


def _to_redo(phases: Sequence[Phase], states: Mapping[str, Status], redo: Sequence[str] | None) -> set[str]:
    """Names of phases that are made again although something is there."""
    again: set[str] = set()
    for phase in phases if redo is not None else ():
        asked = _place(phase) in (redo or ()) or (not redo and states[phase.key].state == "stale")
        follows = any(before.key in again for before in phase.before)
        if (asked or follows) and states[phase.key].state != "to do":
            again.add(phase.key)
    return again


# --- the phases of a recipe ------------------------------------------------------------------------------------------


def phases_of(recipe: Recipe, root: Path) -> list[Phase]:
    """The phases, each with its checked options, in the order in which they run.

    Raises:
        OptionError: An option is wrong.
        JobError: A phase does not begin with what the phase before it makes.
    """
    kinds = {"pseudo": Pseudo, "denoise": Denoise, **dict.fromkeys(TRAININGS, Training)}
    phases: dict[str, Phase] = {}
    for name, given in recipe.phases.items():
        try:
            if name == "pseudo":
                options_module.complete_pseudo_options(as_json(given.values), given.source)
            elif name == "denoise":
                complete_denoise_options(as_json(given.values), given.source)
            elif name != "test":
                options_module.check_options(as_json(given.values), given.source, is_train=True)
        except OptionError as error:
            raise named(error, name) from None
        if name in kinds:
            phases[name] = kinds[name](name, given.values, given.source, root)
    connect(phases)
    return [*phases.values(), *_tests(recipe, phases, root)]


def _tests(recipe: Recipe, phases: Mapping[str, Phase], root: Path) -> list[Phase]:
    tests: list[Phase] = []
    given = recipe.phases["test"]
    for system in SYSTEMS:
        phase = phases.get(system)
        if not isinstance(phase, Training):
            continue
        own = as_json(given.values)
        if system != "finetune":
            own["name"] = f"{given.values['name']}_{system}"
        if system == "f_isp":
            own["network_g"] = as_json(phase.values["network_g"])
        weights = os.path.relpath(phase.weights, root)
        own["path"] = {**(own.get("path") or {}), "pretrain_network_g": weights}
        own["val"] = {**(own.get("val") or {}), "save_img": True}
        try:
            options_module.check_options(as_json(own), given.source, is_train=False)
        except OptionError as error:
            raise named(error, "test") from None
        tests.append(Test(f"test:{system}", own, given.source, root, [weights], [phase]))
    return tests


# --- the plan --------------------------------------------------------------------------------------------------------


def plan_text(
    recipe: Recipe, phases: Sequence[Phase], states: Mapping[str, Status], again: set[str], left: Sequence[Phase]
) -> str:
    """A table of what is complete and what will run."""
    rows = []
    total = 0
    for phase in phases:
        status = states[phase.key]
        will = {
            "complete": "nothing",
            "interrupted": "resume",
            "to do": "run",
            "stale": "make again" if phase.made_again else "refuse (--redo makes it again)",
        }[status.state]
        if phase.key in again:
            will = "make again"
        iterations = ""
        if isinstance(phase, Training):
            count = 0 if will == "nothing" else phase.total - (status.done if will == "resume" else 0)
            total += count
            iterations = f"{count:,d}"
        rows.append((phase.key, phase.run_name, status.state, will, iterations, status.why))
    table = Table(("phase", "run", "is", "will", "iterations left", "because"), rows, numeric=(4,))
    disk = sum(p.disk() for p in left if isinstance(p, Pseudo))
    written = f"; pseudo pairs of about {tqdm.format_sizeof(disk, 'B', 1024)} will be written" if disk else ""
    return (
        f"{recipe.options.title or recipe.options.name}\n\n{table.text()}\n"
        f"{total:,d} iterations of training are left{written}."
    )


# --- the report ------------------------------------------------------------------------------------------------------


def _report(recipe: Recipe, phases: Sequence[Phase], out: Path) -> dict[str, Any]:
    tests = {p.key.partition(":")[2]: p for p in phases if isinstance(p, Test)}
    any_test = next(iter(tests.values()))
    paper, denoise = recipe.options.paper, next((p for p in phases if isinstance(p, Denoise)), None)
    content = {
        "name": recipe.options.name,
        "title": recipe.options.title or recipe.options.name,
        "version": __version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "denoiser": denoise.denoiser() if denoise else None,
        "metrics": any_test.values["val"].get("metrics") or {},
        "datasets": {
            name: {key: values.get(key) for key in ("dataroot_lq", "dataroot_gt", "meta_info_file")}
            for name, values in any_test.sets().items()
        },
        "systems": [
            {
                "key": system,
                "label": SYSTEMS[system],
                "run": test.run_name,
                "weights": test.inputs[0],
                "sha256": fingerprint(test.inputs[0]),
                **report.read_metrics({name: test.place / f"metrics_{name}.csv" for name in test.sets()}),
                "images": str(test.place / "visualization"),
                "suffix": (test.values.get("val") or {}).get("suffix") or test.run_name,
            }
            for system, test in tests.items()
        ],
        "phases": [
            {
                "phase": p.key,
                "run": p.run_name,
                "iterations": p.total if isinstance(p, Training) else None,
                "seconds": p.record.read().get("seconds"),
                "options": as_json(p.values),
            }
            for p in phases
        ],
        "paper_rows": report.paper_rows(paper.task, paper.network, paper.pairs) if paper else [],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    files = report.write_report(out, content, pictures=recipe.options.pictures)
    print("\n" + report.tables_text(content), flush=True)
    print("Report: " + ", ".join(os.path.relpath(path) for path in files))
    return content
