"""What is looked at before a recipe begins: whether its phases fit, what they need, and how long they will take."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from semiisp_plugin import options as options_module
from semiisp_plugin.experiments.jobs import JobError, Status, as_json
from semiisp_plugin.experiments.recipe_phases import Phase, Pseudo, Test, Training
from semiisp_plugin.io.imagenet_weights import VGG16

LINKS = (
    ("f_isp", "datasets:train:dataroot_lq", "denoise", ""),
    ("pseudo", "f_isp", "f_isp", "models/f_isp_latest.pth"),
    ("semi", "datasets:train:pseudo:build", "pseudo", ""),
    ("semi", "datasets:train:pseudo:dataroot_lq", "pseudo", "lq.lmdb"),
    ("semi", "datasets:train:pseudo:dataroot_gt", "pseudo", "gt.lmdb"),
    ("finetune", "path:pretrain_network_g", "semi", "models/net_g_latest.pth"),
)
"""A phase, its option that names what it begins with, the phase that makes it, and where below that one's folder."""


def connect(phases: Mapping[str, Phase]) -> None:
    """Tell each phase what it begins with of the phase before it, and check that its options say the same.

    Raises:
        JobError: They do not; the message names the file and key.
    """
    for name, keys, before, file in LINKS:
        if name not in phases or before not in phases:
            continue
        *sections, key = keys.split(":")
        values: Any = phases[name].values
        for section in sections:
            values = values.get(section) or {}
        if (key == "build") != ("build" in values):  # a build's folder, or its two sets of images
            continue
        made, given = phases[before].place / file, values.get(key)
        if given is None or os.path.abspath(os.path.expanduser(str(given))) != str(made):
            place = _where(phases[name], *sections, key)
            raise JobError(f"{place}: {given} is not what the phase before makes, {made}.")
        phases[name].before = [phases[before]]
        # The weights themselves; of a folder the file that stands for all.
        phases[name].inputs = [str(made if made.suffix == ".pth" else phases[before].outputs()[0])]


def check_fit(phases: Sequence[Phase]) -> None:
    """Whether no two trainings have one name, and all that train or test the target have one network.

    Raises:
        JobError: It is not so; the message names the file and key.
    """
    semi = next(phase for phase in phases if phase.key == "semi")
    runs: dict[str, str] = {}
    for phase in phases:
        if phase.run_name in runs and isinstance(phase, Training):
            raise JobError(f"{runs[phase.run_name]} and {phase.key} have one name, {phase.run_name}; change one.")
        runs[phase.run_name] = phase.key
        of_target = isinstance(phase, (Training, Test)) and phase.key not in ("f_isp", "test:f_isp")
        if of_target and phase.values["network_g"] != semi.values["network_g"]:
            where = phase.source.where(("network_g",))
            raise JobError(f"{where}: network_g differs from that of semi ({semi.source.where(('network_g',))}).")


def _where(phase: Phase, *keys: str) -> str:
    """Where a key of a phase stands, and the key; an override is told with its phase, as it is given."""
    place, key = phase.source.where(keys), ":".join(keys)
    return f"--set {phase.key}:{key}" if place.startswith("--force_yml") else f"{place}: {key}"


# --- what is needed --------------------------------------------------------------------------------------------------


def check_inputs(left: Sequence[Phase], phases: Sequence[Phase]) -> None:
    """Whether all that the phases need is there or is made by a phase before: data, lists of names, weights, room.

    Args:
        left: What will run.
        phases: All of the recipe.

    Raises:
        JobError: All that is missing, in one message.
    """
    made = [phase.place for phase in phases]
    places: dict[str, list[str]] = {}  # of each problem: many phases name the same data
    for phase in left:
        for place, problem in _problems(phase, made):
            places.setdefault(problem, []).append(place)
    problems = []
    for problem, where in places.items():
        more = f" (and in {len(where) - 1} more places)" if len(where) > 1 else ""
        problems.append(f"{where[0]}: {problem}{more}")
    problems += disk_problems(left)
    if problems:
        hint = " `basicsr prepare` makes data sets (docs/prepare.md); any folder of photographs will do (--photos DIR)."
        raise JobError("Before anything begins: " + "; ".join(problems) + "." + (hint if places else ""))


def disk_problems(left: Sequence[Phase]) -> list[str]:
    """Where there is less room than the pseudo pairs take; all else is small beside them."""
    found = []
    for phase in left:
        if isinstance(phase, Pseudo):
            folder = next(parent for parent in (phase.place, *phase.place.parents) if parent.exists())
            needed, free = phase.disk(), shutil.disk_usage(folder).free
            if needed > free:
                room, writes = (tqdm.format_sizeof(size, "B", 1024) for size in (free, needed))
                found.append(f"the disk of {folder} has {room} left, of about {writes} that pseudo writes")
    return found


def _problems(phase: Phase, made: Sequence[Path]) -> list[tuple[str, str]]:
    """What a phase lacks, but for what lies in the folders ``made``: the place of the key, and what is wrong."""
    found: list[tuple[str, str]] = []

    def is_made(path: Any) -> bool:
        full = Path(os.path.abspath(os.path.expanduser(str(path))))
        return any(full.is_relative_to(folder) for folder in made)

    def there(path: Any, *keys: str) -> bool:
        if is_made(path) or os.path.exists(os.path.expanduser(str(path))):
            return True
        found.append((_where(phase, *keys), f"there is no {path}"))
        return False

    values = phase.values
    for key in ("input", "weights", "photographs", "f_isp"):
        is_there = bool(values.get(key)) and there(values[key], key)
        if is_there and key == "photographs" and isinstance(phase, Pseudo) and not phase.photographs():
            found.append((_where(phase, key), f"there is no image in {values[key]}"))
    for key, data in (values.get("datasets") or {}).items():
        roots = [root for root in ("dataroot_lq", "dataroot_gt", "meta_info_file") if data.get(root) is not None]
        missing = [root for root in roots if not there(data[root], "datasets", key, root)]
        ready = not missing and not any(is_made(data[root]) for root in roots)
        if ready and options_module.is_plugin_dataset(data["type"]):
            found += _pair_problems(phase, key, data)
    for key, value in (values.get("path") or {}).items():
        if key.startswith("pretrain_network") and value is not None:
            there(value, "path", key)
    for key, loss in (values.get("train") or {}).items():
        if isinstance(loss, dict) and isinstance(loss.get("weights"), str):
            there(loss["weights"], "train", key, "weights")
    return found


def _pair_problems(phase: Phase, key: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the pairs themselves: partners that are missing, names that belong to none."""
    from semiisp_plugin.toolbox import build_dataset

    others = ("pseudo", "real_per_batch", "pseudo_per_batch", "unlabelled", "unlabelled_per_batch")
    own = {k: v for k, v in values.items() if k not in others}
    own.update(type="PairedRestorationDataset", phase=key.split("_")[0], scale=1)
    own.setdefault("name", key)
    try:
        build_dataset(own)
    except (OSError, ValueError) as error:
        return [(_where(phase, "datasets", key), str(error).rstrip("."))]
    return []


# --- how long it takes -----------------------------------------------------------------------------------------------


def estimate(left: Sequence[Phase], states: Mapping[str, Status], again: set[str]) -> str:
    """How long the trainings will take on this machine, from a few timed steps of each; nothing is written.

    Args:
        left: What will run; all that it needs is there or is made by a phase before.
        states: How far the phases are.
        again: Names of phases that are made again.
    """
    lines, total = [], 0.0
    for phase in left:
        if not isinstance(phase, Training):
            lines.append(f"{phase.key}: not timed")
            continue
        status = states[phase.key]
        steps = phase.total - (status.done if status.state == "interrupted" and phase.key not in again else 0)
        try:
            seconds = _seconds_a_step(phase)
        except (OSError, ValueError, RuntimeError) as error:
            lines.append(f"{phase.key}: could not be timed ({' '.join(str(error).split())})")
            continue
        total += steps * seconds
        lines.append(
            f"{phase.key}: {seconds:.3g} s a step, {tqdm.format_interval(steps * seconds)} for {steps:,d} steps"
        )
    if total:
        lines.append(f"All trainings together: about {tqdm.format_interval(total)}, validations not included.")
    return "\n".join(["", *lines])


def _seconds_a_step(phase: Training) -> float:
    """Mean of a few steps after the first; data that a phase before will make is stood in for by the pairs."""
    from semiisp_plugin.training.dry_run import seconds_a_step
    from semiisp_plugin.training.run import Run

    values = as_json(phase.values)
    data = values["datasets"]["train"]
    values["datasets"] = {"train": data}
    values.pop("val", None)
    values["path"] = values["logger"] = {}
    if not os.path.exists(data["dataroot_lq"]):
        data["dataroot_lq"] = data["dataroot_gt"]
    pseudo = data.get("pseudo") or {}
    if "dataroot_lq" in pseudo and not os.path.exists(pseudo["dataroot_lq"]):
        data["pseudo"] = {key: data[key] for key in ("dataroot_lq", "dataroot_gt", "io_backend")}
    data["num_worker_per_gpu"] = min(2, data.get("num_worker_per_gpu") or 0)
    if not VGG16.cache.is_file():  # it would be fetched
        values["train"].pop("perceptual_opt", None)
    with tempfile.TemporaryDirectory() as folder:
        opt = options_module.complete(values, phase.source, root_path=folder, is_train=True)
        opt.update(dist=False, rank=0, world_size=1)
        return seconds_a_step(Run(opt))
