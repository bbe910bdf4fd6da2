"""``basicsr recipe``: all phases of one experiment in their order, and the report.

What is complete is skipped, what was interrupted is gone on with, and what was made with other options or from other
weights is refused, or made anew if asked for (`semiisp_plugin.experiments.recipe_phases` judges). All phases are
checked before the first begins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from semiisp_plugin import options as options_module
from semiisp_plugin.apps.denoise import complete_denoise_options
from semiisp_plugin.experiments.recipe_options import ORDER, TRAININGS, Recipe, load_recipe
from semiisp_plugin.experiments.recipe_phases import (
    Denoise,
    Phase,
    Pseudo,
    RecipeError,
    Status,
    Test,
    Training,
    states_of,
)
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.options import OptionError, Source, apply_overrides, nearest, read_options
from semiisp_plugin.report.tables import text_table

SYSTEMS = {
    "1_fisp": ("f_isp", "f_ISP alone (local control)"),
    "0_supervised": ("supervised", "supervised"),
    "3_semi": ("semi", "semi-supervised, before fine-tuning"),
    "4_finetune": ("finetune", "semi-supervised, fine-tuned"),
}
"""What is tested, by the phase whose weights it has."""


def run_from_arguments(args: argparse.Namespace) -> dict[str, Any] | None:
    """`run_recipe` for parsed arguments."""
    return run_recipe(
        args.opt,
        overrides=args.force_yml,
        dry_run=args.dry_run,
        until=args.until,
        redo=args.redo,
        progress=sys.stderr.isatty(),
    )


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

    Relative paths in the option files count from the working directory, which gets ``experiments`` and ``results``.

    Args:
        recipe: The file, or its content, with paths relative to the working directory.
        overrides: ``--force_yml`` entries, of a phase with its name in front.
        dry_run: Check and print the plan only.
        until: Stop after this phase, without a report.
        redo: Phases to make anew, and what follows them; an empty sequence: all that are stale.
        progress: Show progress bars.

    Returns:
        What is in ``report.json``; None without a report.

    Raises:
        OptionError: An option file is wrong.
        RecipeError: Phases do not fit each other, are stale, or something that they need is missing.
        Interrupted, KeyboardInterrupt: It was stopped; the same call goes on.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RecipeError(
            "A recipe is one process. Start it without torchrun; a phase that several GPUs are to train is started by "
            "itself, with `torchrun ... basicsr train`, and the recipe takes it as complete afterwards."
        )
    loaded = load_recipe(recipe, overrides)
    for name in [*([until] if until else []), *(redo or [])]:
        if name not in loaded.files:
            raise RecipeError(
                f"{name}: no phase of this recipe{nearest(name, loaded.files)} ({', '.join(loaded.files)})"
            )
    root = Path.cwd()
    phases = phases_of(loaded, root)
    check_fit(phases)
    if until:
        phases = [p for p in phases if ORDER.index(_place(p)) <= ORDER.index(until)]
    states = states_of(phases)
    again = _to_redo(phases, states, redo)
    left = [p for p in phases if states[p.name].state != "complete" or p.name in again]
    check_inputs(left, phases, download=not dry_run)
    print(plan_text(loaded, phases, states, again, left), flush=True)
    stale = [p for p in left if states[p.name].state == "stale" and p.name not in again and not isinstance(p, Test)]
    if stale and not dry_run:
        lines = "; ".join(f"{p.name}: {states[p.name].why}" for p in stale)
        raise RecipeError(
            f"{lines}. Go back to the former options, or make what is stale anew with --redo (older runs are renamed, "
            f"not deleted), or give the runs other names."
        )
    if dry_run:
        return None
    for phase in left:
        _do(phase, phase.name in again, progress)
    if until and until != "test":
        print(f"Done until {until}.")
        return None
    return _report(loaded, phases, root)


def _place(phase: Phase) -> str:
    """Its entry in `ORDER`: tests of all systems stand in one."""
    return phase.name.partition(":")[0]


def _do(phase: Phase, anew: bool, progress: bool) -> None:
    """Run a phase, unless another process has completed it meanwhile."""
    with phase.ledger.held():
        status = phase.status()
        if status.state == "complete" and not anew:
            print(f"{phase.name}: complete meanwhile ({phase.run_name}).", flush=True)
            return
        if status.state == "stale" and not anew and not isinstance(phase, Test):
            raise RecipeError(
                f"{phase.name}: another process has made {phase.run_name} meanwhile, otherwise ({status.why}). Use the "
                f"same options in both, or give one of the runs another name."
            )
        print(f"\n== {phase.name}: {phase.run_name} ==", flush=True)
        phase.run(resume=status.state == "interrupted" and not anew, progress=progress)
        after = phase.status()
        if after.state != "complete":
            raise RecipeError(f"{phase.name} has ended but is not complete: {after.state}, {after.why}.")


def _to_redo(phases: Sequence[Phase], states: Mapping[str, Status], redo: Sequence[str] | None) -> set[str]:
    """Names of phases that are made anew although something is there."""
    if redo is None:
        return set()
    again: set[str] = set()
    for phase in phases:
        asked = _place(phase) in redo or (not redo and states[phase.name].state == "stale")
        follows = any(need in again for need in phase.needs)
        if (asked or follows) and states[phase.name].state != "to do":
            again.add(phase.name)
    return again


# --- the phases of a recipe ------------------------------------------------------------------------------------------


def phases_of(recipe: Recipe, root: Path) -> list[Phase]:
    """The phases, each with its checked options, in the order in which they run.

    Raises:
        OptionError: An option file is wrong.
    """
    phases: list[Phase] = []
    test: tuple[dict[str, Any], Source] | None = None
    for name, file in recipe.files.items():
        values, source = read_options(file)
        try:
            apply_overrides(values, recipe.overrides.get(name, ()), source)
            if name in TRAININGS:
                _check(values, source, is_train=True)
                phases.append(Training(name, file, values, source, root))
            elif name == "2_pseudo":
                options_module.complete_pseudo_options(_copy(values), source)
                phases.append(Pseudo(name, file, values, source, root))
            elif name == "0_denoise":
                complete_denoise_options(_copy(values), source)
                phases.append(Denoise(name, file, values, source, root))
            else:
                test = values, source
        except OptionError as error:
            # As the override was given: with its phase.
            raise OptionError(str(error).replace("--force_yml ", f"--force_yml {name}:", 1)) from None
    by_name = {phase.name: phase for phase in phases}
    _connect(by_name)
    if test is not None:
        phases += _tests(recipe, by_name, *test, root)
    return phases


def _copy(values: Any) -> Any:
    return json.loads(json.dumps(values))


def _check(values: dict[str, Any], source: Source, *, is_train: bool) -> None:
    options_module.check_options(_copy(values), source, is_train=is_train)


def _connect(phases: Mapping[str, Phase]) -> None:
    """Say which phase begins with what of which."""
    f_isp, pseudo, semi = phases["1_fisp"], phases["2_pseudo"], phases["3_semi"]
    if "0_denoise" in phases:
        f_isp.needs = ["0_denoise"]
        f_isp.inputs = [str(p) for p in phases["0_denoise"].outputs()]
    pseudo.needs = ["1_fisp"]
    pseudo.inputs = [str(pseudo.values["f_isp"])]
    semi.needs = ["2_pseudo"]
    semi.inputs = [str(p) for p in pseudo.outputs()]
    if "4_finetune" in phases:
        fine = phases["4_finetune"]
        fine.needs = ["3_semi"]
        weights = (fine.values.get("path") or {}).get("pretrain_network_g")
        fine.inputs = [str(weights)] if weights else []


def _tests(
    recipe: Recipe, phases: Mapping[str, Phase], values: dict[str, Any], source: Source, root: Path
) -> list[Phase]:
    tests: list[Phase] = []
    for needs, (system, title) in SYSTEMS.items():
        phase = phases.get(needs)
        if not isinstance(phase, Training):
            continue
        own = _copy(values)
        if needs != "4_finetune":
            own["name"] = f"{values['name']}_{system}"
        if needs == "1_fisp":
            own["network_g"] = _copy(phase.values["network_g"])
        own["path"] = {**(own.get("path") or {}), "pretrain_network_g": os.path.relpath(phase.weights, root)}
        if (phase.values["train"].get("ema_decay") or 0) > 0:
            own["path"]["param_key_g"] = "params_ema"
        own["val"] = {**(own.get("val") or {}), "save_img": True}
        _check(own, source, is_train=False)
        test = Test(f"test:{system}", recipe.files["test"], own, source, root, system=system, title=title)
        test.needs, test.inputs = [needs], [own["path"]["pretrain_network_g"]]
        tests.append(test)
    return tests


# --- before anything begins ------------------------------------------------------------------------------------------


def check_fit(phases: Sequence[Phase]) -> None:
    """Whether each phase begins with what the phase before it makes.

    Raises:
        RecipeError: It does not; the message names the file and key.
    """
    by_name = {phase.name: phase for phase in phases}
    runs: dict[str, str] = {}
    for phase in phases:
        if phase.run_name in runs and isinstance(phase, Training):
            raise RecipeError(f"{runs[phase.run_name]} and {phase.name} have one name, {phase.run_name}; change one.")
        runs[phase.run_name] = phase.name
    f_isp, pseudo, semi = by_name["1_fisp"], by_name["2_pseudo"], by_name["3_semi"]
    assert isinstance(f_isp, Training) and isinstance(semi, Training) and isinstance(pseudo, Pseudo)
    _expect(pseudo, ("f_isp",), pseudo.values["f_isp"], f_isp.folder / "models" / "f_isp_latest.pth")
    train_set = semi.values["datasets"]["train"]
    settings = train_set.get("pseudo") or {}
    if "build" in settings:
        _expect(semi, ("datasets", "train", "pseudo", "build"), settings["build"], pseudo.out)
    else:
        for key, folder in (("dataroot_lq", "lq.lmdb"), ("dataroot_gt", "gt.lmdb")):
            _expect(semi, ("datasets", "train", "pseudo", key), settings.get(key), pseudo.out / folder)
    fine = by_name.get("4_finetune")
    if isinstance(fine, Training):
        weights = (fine.values.get("path") or {}).get("pretrain_network_g")
        _expect(fine, ("path", "pretrain_network_g"), weights, semi.weights)
    networks = [p for p in phases if isinstance(p, Training) and p.name != "1_fisp"]
    networks += [p for p in phases if isinstance(p, Test) and p.system != "f_isp"]  # type: ignore[misc]  # both have values
    for phase in networks:
        if phase.values["network_g"] != semi.values["network_g"]:
            where = phase.source.where(("network_g",))
            raise RecipeError(f"{where}: network_g differs from that of 3_semi ({semi.source.where(('network_g',))}).")
    if "0_denoise" in by_name:
        made = by_name["0_denoise"]
        assert isinstance(made, Denoise)
        given = f_isp.values["datasets"]["train"]["dataroot_lq"]
        _expect(f_isp, ("datasets", "train", "dataroot_lq"), given, made.out)


def _expect(phase: Phase, keys: tuple[str, ...], given: Any, made: Path) -> None:
    if given is None or os.path.abspath(os.path.expanduser(str(given))) != os.path.abspath(made):
        raise RecipeError(f"{_where(phase, *keys)}: {given} is not what the phase before makes, {made}.")


def check_inputs(left: Sequence[Phase], phases: Sequence[Phase], *, download: bool) -> None:
    """Whether all that the phases need is there or is made by a phase before: data, lists of names, weights, room.

    Args:
        left: What will run.
        phases: All of the recipe.
        download: Build the losses, which fetches weights that they need.

    Raises:
        RecipeError: All that is missing, in one message.
    """
    made = {os.path.abspath(path) for phase in phases for path in _makes(phase)}
    places: dict[str, list[str]] = {}  # of each problem: many files name the same data
    for phase in left:
        for place, problem in _problems(phase, made, download):
            places.setdefault(problem, []).append(place)
    problems = []
    for problem, where in places.items():
        more = f" (and in {len(where) - 1} more places)" if len(where) > 1 else ""
        problems.append(f"{where[0]}: {problem}{more}")
    problems += _disk_problems(left)
    if problems:
        keys = {where.rpartition(":")[2] for all_places in places.values() for where in all_places}
        hints = "".join(hint for hint, of in _HINTS.items() if keys & of)
        raise RecipeError("Before anything begins: " + "; ".join(problems) + "." + hints)


def _disk_problems(left: Sequence[Phase]) -> list[str]:
    """Disks with less room than the phases write there: data sets and runs need not be on the same one."""
    needed: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for phase in left:
        folder = next(parent for parent in (phase.place, *phase.place.parents) if parent.exists())
        disk = os.stat(folder).st_dev
        folders.setdefault(disk, folder)
        needed[disk] = needed.get(disk, 0) + phase.disk()
    found = []
    for disk, folder in folders.items():
        free = shutil.disk_usage(folder).free
        if needed[disk] > free:
            found.append(
                f"the disk of {folder} has {_size(free)} left, of about {_size(needed[disk])} that the phases write"
            )
    return found


def _makes(phase: Phase) -> list[str]:
    if isinstance(phase, Training):
        return [str(p) for p in phase.outputs()]
    if isinstance(phase, Pseudo):
        return [str(phase.out), str(phase.out / "lq.lmdb"), str(phase.out / "gt.lmdb")]
    return [str(phase.out)] if isinstance(phase, Denoise) else []


def _problems(phase: Phase, made: set[str], download: bool) -> list[tuple[str, str]]:
    """What a phase lacks: the place in its file, and what is wrong."""
    found: list[tuple[str, str]] = []

    def there(path: Any, *keys: str) -> bool:
        full = os.path.abspath(os.path.expanduser(str(path)))
        if full in made or os.path.exists(full):
            return True
        found.append((_where(phase, *keys), f"there is no {path}"))
        return False

    if isinstance(phase, Denoise):
        there(phase.values["input"], "input")
        if phase.values.get("weights"):
            there(phase.values["weights"], "weights")
        return found
    if isinstance(phase, Pseudo):
        folder = phase.values["photographs"]
        if there(folder, "photographs") and not phase.photographs():
            found.append((_where(phase, "photographs"), f"there is no image in {folder}"))
        there(phase.values["f_isp"], "f_isp")
        return found
    for key, values in (phase.values.get("datasets") or {}).items():
        keys = ("datasets", key)
        whole = True
        for root in ("dataroot_lq", "dataroot_gt", "meta_info_file"):
            if values.get(root) is not None:
                whole &= there(values[root], *keys, root)
        ready = whole and not any(os.path.abspath(str(values.get(r))) in made for r in ("dataroot_lq", "dataroot_gt"))
        if ready and options_module.is_plugin_dataset(values["type"]):
            found += _pair_problems(phase, keys, values)
    for key, value in (phase.values.get("path") or {}).items():
        if key.startswith("pretrain_network") and value is not None:
            there(value, "path", key)
    if isinstance(phase, Training):
        found += _loss_problems(phase, download)
    return found


_HINTS = {  # by the keys that they help with
    " `basicsr prepare` makes data sets (docs/prepare.md).": {"input", "dataroot_lq", "dataroot_gt", "meta_info_file"},
    " Any folder of photographs will do: --force_yml 2_pseudo:photographs=DIR.": {"photographs"},
}


def _where(phase: Phase, *keys: str) -> str:
    """Where a key of a phase stands, and the key; an override is told with its phase, as it is given."""
    place, key = phase.source.where(keys), ":".join(keys)
    return f"--force_yml {phase.name}:{key}" if place.startswith("--force_yml") else f"{place}: {key}"


def _pair_problems(phase: Phase, keys: tuple[str, ...], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the pairs themselves: partners that are missing, names that belong to none."""
    from semiisp_plugin.toolbox import build_dataset

    plain = {k: v for k, v in values.items() if k not in ("pseudo", "real_per_batch", "pseudo_per_batch")}
    plain.update(type="PairedRestorationDataset", phase=keys[1].split("_")[0], scale=1)
    plain.setdefault("name", keys[1])
    try:
        build_dataset(plain)
    except (OSError, ValueError) as error:
        return [(_where(phase, *keys), str(error).rstrip("."))]
    return []


def _loss_problems(phase: Training, download: bool) -> list[tuple[str, str]]:
    """Weights of losses that are missing; without ``download`` they are looked for, not fetched."""
    from semiisp_plugin.toolbox import build_loss

    found = []
    for key, values in phase.values["train"].items():
        if not key.endswith("_opt") or not isinstance(values, dict):
            continue
        if not download and values.get("type") == "VGGPerceptualLoss" and not values.get("weights"):
            continue  # `to_fetch` says so
        try:
            build_loss({**_copy(values), "reduction": "none"})
        except (RuntimeError, ValueError, OSError) as error:
            found.append((_where(phase, "train", key), " ".join(str(error).split()).rstrip(".")))
    return found


def to_fetch(left: Sequence[Phase]) -> list[str]:
    """Weights that the phases need and that a run would fetch before it begins, in words."""
    from semiisp_plugin.losses.vgg_loss import cache_path

    path = cache_path()
    if path.is_file():
        return []
    needing = [
        phase.name
        for phase in left
        if isinstance(phase, Training)
        for values in phase.values["train"].values()
        if isinstance(values, dict) and values.get("type") == "VGGPerceptualLoss" and not values.get("weights")
    ]
    if not needing:
        return []
    return [
        f"{', '.join(dict.fromkeys(needing))}: VGG16's weights (528 MB) are not in {path}; they will be fetched first. "
        f"Without network access put them there, or give the loss `weights: FILE` (docs/workflow.md)."
    ]


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def plan_text(
    recipe: Recipe, phases: Sequence[Phase], states: Mapping[str, Status], again: set[str], left: Sequence[Phase]
) -> str:
    """A table of what is complete and what will run."""
    rows = []
    for phase in phases:
        status = states[phase.name]
        will = "nothing"
        if phase.name in again or (isinstance(phase, Test) and status.state == "stale"):
            will = "make anew"
        elif status.state == "stale":
            will = "refuse (--redo makes it anew)"
        elif status.state != "complete":
            will = "go on" if status.state == "interrupted" else "run"
        iterations = ""
        if isinstance(phase, Training):
            done = status.done if will in ("nothing", "go on") else 0
            iterations = f"{phase.total - done:,d}" if will != "nothing" else "0"
        rows.append(
            {
                "phase": phase.name,
                "run": phase.run_name,
                "is": status.state,
                "will": will,
                "iterations left": iterations,
                "because": status.why,
            }
        )
    total = sum(p.total - (states[p.name].done if p.name not in again else 0) for p in left if isinstance(p, Training))
    end = f"{total:,d} iterations of training are left; about {_size(sum(p.disk() for p in left))} will be written."
    notes = to_fetch(left)
    if any(isinstance(phase, Denoise) and not phase.values.get("weights") for phase in left):
        notes.append(
            "0_denoise: no weights are given, so OpenCV denoises (ours; the paper uses KBNet, docs/denoising.md)."
        )
    end = "\n".join([end, *notes])
    gpus = torch.cuda.device_count()
    if gpus > 1 and any(p.values.get("num_gpu", "auto") != 1 for p in left if isinstance(p, Training)):
        end += (
            f"\nThere are {gpus} GPUs, and batches will be as many times those of the option files; to keep to the "
            f"files, set CUDA_VISIBLE_DEVICES=0."
        )
    return f"{recipe.options.title or recipe.options.name}\n\n{text_table(rows, right=['iterations left'])}\n{end}"


# --- the report ------------------------------------------------------------------------------------------------------


def _report(recipe: Recipe, phases: Sequence[Phase], root: Path) -> dict[str, Any]:
    from semiisp_plugin._version import __version__
    from semiisp_plugin.report import recipe as report

    tests = [p for p in phases if isinstance(p, Test)]
    if not tests:
        return {}
    first = tests[0]
    systems = []
    for test in tests:
        systems.append(
            {
                "key": test.system,
                "label": test.title,
                "run": test.run_name,
                "weights": test.inputs[0],
                "sha256": test.current_inputs()[test.inputs[0]],
                "tables": {name: str(test.folder / f"metrics_{name}.csv") for name in test.sets()},
                "images": str(test.folder / "visualization"),
                "suffix": (test.values.get("val") or {}).get("suffix") or test.run_name,
            }
        )
    paper = recipe.options.paper
    content: dict[str, Any] = {
        "name": recipe.options.name,
        "title": recipe.options.title or recipe.options.name,
        "version": __version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "denoiser": next((p.denoiser() for p in phases if isinstance(p, Denoise)), None),
        "metrics": first.values["val"].get("metrics") or {},
        "datasets": {
            str(v.get("name") or k): {key: v.get(key) for key in ("dataroot_lq", "dataroot_gt", "meta_info_file")}
            for k, v in first.values["datasets"].items()
        },
        "systems": systems,
        "phases": [
            {
                "phase": p.name,
                "run": p.run_name,
                "file": p.file,
                "iterations": p.total if isinstance(p, Training) else None,
                "seconds": p.ledger.read().get("seconds"),
                "options": _copy(p.values),
            }
            for p in phases
        ],
        "paper": None if paper is None else {"task": paper.task, "network": paper.network, "pairs": paper.pairs},
    }
    out = root / "results" / f"recipe_{recipe.options.name}"
    content = report.with_results(content)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    files = report.write_report(out, content, pictures=recipe.options.pictures)
    print("\n" + report.terminal_text(content), flush=True)
    print("Report: " + ", ".join(os.path.relpath(path) for path in files))
    return content


__all__ = ["OptionError", "run_from_arguments", "run_recipe"]
