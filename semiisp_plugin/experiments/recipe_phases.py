"""The phases of a recipe as jobs whose results lie where the commands put them.

The results themselves are the evidence of how far a phase is: weights are compared with their checksums, options with
the copy in the run's folder, pseudo pairs with their manifest. So phases that were run by hand count, too. What does
not show there (which weights a run began with) is noted in ``experiments/.recipe``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semiisp_plugin import options as options_module
from semiisp_plugin.apps.denoise import DenoiseOptions, complete_denoise_options, is_denoised
from semiisp_plugin.apps.denoise.folder import RECORD, denoise_and_print
from semiisp_plugin.experiments.jobs import Job, JobError, Record, Status, as_json, differences, fingerprint
from semiisp_plugin.io.checkpoint import check_whole, newest_whole_state, saved_iterations
from semiisp_plugin.io.folder_job import SKIPPED
from semiisp_plugin.io.image_io import scan_images
from semiisp_plugin.options import OptionError, PseudoOptions, Source
from semiisp_plugin.options.yaml_text import parse
from semiisp_plugin.pseudo.manifest import MADE_WITH, BuildFolder


@dataclass
class Phase(Job):
    """A phase of a recipe.

    Attributes:
        name: See `semiisp_plugin.experiments.recipe_options.ORDER`; of a test also the system.
        values: Its options, with overrides.
        source: Where their keys stand.
        root: Folder of ``experiments``.
        inputs: Files that phases before it make and that it begins with.
        needs: These phases.
    """

    name: str
    values: dict[str, Any]
    source: Source
    root: Path
    inputs: list[str] = field(default_factory=list)
    needs: list[Phase] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Its name."""
        return self.name

    @property
    def before(self) -> Sequence[Phase]:
        """The phases that it begins with the results of."""
        return self.needs

    @property
    def run_name(self) -> str:
        """Of its run."""
        return str(self.values["name"])

    @property
    def record(self) -> Record:
        """What its run began with."""
        return Record(self.root / "experiments" / ".recipe" / f"{self.run_name}.json")

    def depends(self) -> dict[str, Any]:
        """Its options, and the fingerprints of its inputs."""
        return {"options": self.values, "inputs": {file: fingerprint(_path(file)) for file in self.inputs}}

    @property
    def place(self) -> Path:
        """Where it writes, absolute."""
        raise NotImplementedError

    def outputs(self) -> list[Path]:
        """Files that it leaves for the phases after it."""
        raise NotImplementedError

    def disk(self) -> int:
        """Bytes that it will roughly write."""
        return 0

    def set_aside(self) -> None:
        """Rename what is there, as BasicSR does it."""
        if not self.place.exists():
            return
        base = name = f"{self.place}_archived_{time.strftime('%Y%m%d_%H%M%S')}"
        number = 1
        while os.path.exists(name):
            number += 1
            name = f"{base}_{number}"
        os.rename(self.place, name)
        print(f"{self.place} exists; renamed it to {name}.", flush=True)


def _path(file: str) -> Path:
    """A path of an option file, which is relative to the working directory."""
    return Path(os.path.expanduser(file))


class Training(Phase):
    """Training of f_ISP, semi-supervised, fine-tuning, supervised."""

    @property
    def place(self) -> Path:
        """Its folder."""
        return (self.root / "experiments" / self.run_name).absolute()

    @property
    def total(self) -> int:
        """Its iterations."""
        return int(self.values["train"]["total_iter"])

    @property
    def weights(self) -> Path:
        """What tests begin with."""
        return self.place / "models" / "net_g_latest.pth"

    def outputs(self) -> list[Path]:
        """The last weights; of f_ISP also the banks."""
        of_isp = ("net_global", "f_isp") if self.values["model_type"] == "ISPModel" else ()
        return [self.place / "models" / f"{name}_latest.pth" for name in ("net_g", *of_isp)]

    def status(self) -> Status:
        """By the copy of the options, checksums of the last weights, and the training states."""
        total, models, states = self.total, self.place / "models", self.place / "training_states"
        iterations, latest = saved_iterations(states), self.outputs()
        if not iterations and not any(p.exists() for p in latest):
            return Status("to do", "nothing was saved yet" if models.is_dir() else "", total=total)
        before = self._options_there()
        if before is None:
            return Status("stale", f"{self.place} holds no options to compare", total=total)
        changes = differences(before, self.values)
        if changes:
            return Status("stale", "other options: " + "; ".join(changes[:4]), total=total)
        noted = self.record.read()
        if differences((noted.get("depends") or {}).get("options"), self.values):
            noted = {}  # of another run of the name: this one was made by hand
        other = self._began_with_others((noted.get("depends") or {}).get("inputs") or {}, latest[0])
        if other:
            return Status("stale", other, total=total)
        damaged = next((why for p in latest if (why := _damage(p))), None)
        if damaged is None:
            ended = (noted.get("result") or {}).get("weights")
            same = ended is not None and all(ended.get(p.name) == fingerprint(p) for p in latest)
            last = states / f"{total}.state"
            if same or (iterations and iterations[-1] == total and _damage(last) is None):
                return Status("complete", done=total, total=total)
        found, _, _ = newest_whole_state(states, models, {p.name.rsplit("_", 1)[0] for p in latest})
        if found is None:
            return Status("to do", damaged or "no training state is whole", total=total)
        return Status("interrupted", f"iteration {int(found.stem):,d}", done=int(found.stem), total=total)

    def _options_there(self) -> dict[str, Any] | None:
        """The options of the run in the folder, of the copy that is in it."""
        copies = sorted(self.place.glob("*.yml"), key=lambda p: p.stat().st_mtime)
        try:
            values = parse(copies[-1].read_text(encoding="utf-8"), str(copies[-1]))[0] if copies else None
        except (OSError, OptionError):
            return None
        return values if isinstance(values, dict) else None

    def _began_with_others(self, noted: Mapping[str, Any], output: Path) -> str | None:
        """Why what is there is of other inputs; None if it is not, as far as one can tell."""
        for file in self.inputs:
            now = fingerprint(_path(file))
            if file in noted and noted[file] != now:
                return f"{file} is another one than the run began with"
            # Not of a recipe: the order of times is all there is.
            if file not in noted and now and output.exists() and _path(file).stat().st_mtime > output.stat().st_mtime:
                return f"{file} is newer than what was made of it"
        return None

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Train; returns the fingerprints of the last weights."""
        from semiisp_plugin.training import train

        if not resume:
            self.set_aside()
        opt = options_module.complete(as_json(self.values), self.source, root_path=str(self.root), is_train=True)
        train(
            opt,
            option_text=options_module.dump_options(self.values),
            auto_resume=resume,
            progress=progress,
            quiet=True,
            on_log=None if progress else self._say,
            on_validation=_say_validation,
        )
        return {"weights": {p.name: fingerprint(p) for p in self.outputs()}}

    def _say(self, iteration: int, logged: Mapping[str, float]) -> None:
        """A line now and then, where no bar is shown; the log file has all."""
        every = max(1, self.total // _LINES)
        freq = int((self.values.get("logger") or {}).get("print_freq") or 100)
        if iteration % every < freq or iteration == self.total:
            losses = ", ".join(f"{name} {float(value):.4g}" for name, value in logged.items() if name.startswith("l_"))
            print(f"{time.strftime('%H:%M:%S')} {self.name} {iteration:,d} of {self.total:,d}: {losses}", flush=True)

    def disk(self) -> int:
        """Weights and states that are kept: a state holds two moments a weight."""
        from semiisp_plugin.toolbox import build_network

        sections = [self.values[key] for key in ("network_g", "network_global") if self.values.get(key)]
        parameters = sum(p.numel() for section in sections for p in build_network(as_json(section)).parameters())
        logger = self.values.get("logger") or {}
        saves = max(1, self.total // int(logger.get("save_checkpoint_freq") or 5000))
        kept = min(saves, int(logger.get("keep_last") or saves))
        return 4 * parameters * (3 * kept + 1)


_LINES = 20  # a run prints no more, but for validations


def _say_validation(iteration: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
    for name, values in metrics.items():
        text = ", ".join(f"{metric} {value:.4g}" for metric, value in values.items())
        print(f"{time.strftime('%H:%M:%S')} validation at {iteration:,d}, {name}: {text}", flush=True)


def _damage(path: Path) -> str | None:
    """Why a file of weights cannot be used; None if it can."""
    if not path.is_file():
        return f"{path} is missing"
    try:
        check_whole(path)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        return f"{path} is damaged ({error})"
    return None


_BYTES_A_PHOTOGRAPH = {"stored": 1_670_000, "online": 540_000, "keys": 100}  # docs/scaling.md
_MEASURED_SIDE = 480  # at this short side


class Pseudo(Phase):
    """Pseudo pairs."""

    @property
    def options(self) -> PseudoOptions:
        """Its options, checked."""
        return options_module.complete_pseudo_options(as_json(self.values), self.source)

    @property
    def place(self) -> Path:
        """Of the pairs."""
        return _path(self.values["out"]).absolute()

    def outputs(self) -> list[Path]:
        """The manifest stands for all."""
        return [self.place / "manifest.json"]

    def status(self) -> Status:
        """By the build's manifest."""
        if not self.outputs()[0].is_file():
            return Status("to do")
        options = self.options
        try:
            build = BuildFolder(self.place)
            unfinished = build.unfinished()
            total = build.n_photographs
            done = sum(record.photographs for _, record in build.records())
        except (OSError, ValueError) as error:
            return Status("stale", str(error))
        made = build.settings
        now: dict[str, Any] = {key: getattr(options, key) for key in MADE_WITH}
        f_isp = fingerprint(_path(options.f_isp))
        if f_isp is not None:
            now["f_isp_sha256"] = f_isp[:16]
        changes = [f"{key}: {made[key]} -> {value}" for key, value in now.items() if key in made and made[key] != value]
        if options.max_photographs is not None and total > options.max_photographs:
            changes.append(f"max_photographs: {total} -> {options.max_photographs}")
        photographs = os.path.realpath(_path(options.photographs))
        if os.path.exists(photographs) and os.path.realpath(build.settings["photographs"]) != photographs:
            changes.append(f"photographs: {build.settings['photographs']} -> {options.photographs}")
        if changes:
            return Status("stale", "made otherwise: " + "; ".join(changes[:4]))
        if unfinished or not (self.place / "report.json").is_file():
            return Status("interrupted", f"{done:,d} of {total:,d} photographs", done=done, total=total)
        return Status("complete", f"{total:,d} photographs", done=total, total=total)

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Build, or go on."""
        from semiisp_plugin.pseudo import builder

        if not resume:
            self.set_aside()
        report = builder.run(self.options, progress=progress)
        if report.unfinished:
            raise JobError(f"{self.place}: {report.unfinished} shards are being built by other processes; try later.")
        return {"written": report.written}

    def photographs(self) -> int:
        """How many there are; 0 without the folder."""
        try:
            return len(scan_images(self.options.photographs)[0])
        except OSError:
            return 0

    def disk(self) -> int:
        """By the number of photographs that are not done yet."""
        options = self.options
        count = self.photographs()
        count = min(count, options.max_photographs or count)
        status = self.status()
        if status.state == "interrupted":  # what is done lies there already; what is stale is kept, renamed
            count = max(0, count - status.done)
        share = min(1.0, (options.short_side or _MEASURED_SIDE) / _MEASURED_SIDE) ** 2
        return int(count * options.draws * share * _BYTES_A_PHOTOGRAPH[options.mode])


class Denoise(Phase):
    """Inputs of phase 1 without noise (Sec. A.3)."""

    @property
    def options(self) -> DenoiseOptions:
        """Its options, checked."""
        return complete_denoise_options(as_json(self.values), self.source)

    @property
    def place(self) -> Path:
        """Of the images."""
        return _path(self.values["out"]).absolute()

    def denoiser(self) -> str:
        """What denoises, for the report."""
        options = self.options
        if options.uses_network:
            return f"{(options.network or {}).get('type')} with {options.weights}"
        return "OpenCV's non-local means (ours; the paper uses KBNet)"

    def outputs(self) -> list[Path]:
        """Its record stands for all."""
        return [self.place / RECORD]

    def status(self) -> Status:
        """By its record and the names of the images."""
        if not self.place.exists():
            return Status("to do")
        try:
            return Status("complete" if is_denoised(self.options) else "interrupted")
        except FileNotFoundError as error:
            return Status("to do", str(error))
        except (ValueError, OSError) as error:
            return Status("stale", str(error))

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Denoise, or go on."""
        if not resume:
            self.set_aside()
        report = denoise_and_print(self.options)
        if report.skipped:
            raise JobError(f"{len(report.skipped)} images could not be denoised, see {self.place / SKIPPED}.")
        return {}


@dataclass
class Test(Phase):
    """The test of one system.

    Attributes:
        system: ``f_isp``, ``supervised``, ``semi`` or ``finetune``.
        title: Of the system.
    """

    __test__ = False  # pytest: no test class
    made_again = True

    system: str = ""
    title: str = ""

    @property
    def place(self) -> Path:
        """Of its results."""
        return (self.root / "results" / self.run_name).absolute()

    def sets(self) -> dict[str, dict[str, Any]]:
        """Its data sets by name."""
        return {str(values.get("name") or key): values for key, values in self.values["datasets"].items()}

    def outputs(self) -> list[Path]:
        """Metrics of every image, a file a data set."""
        return [self.place / f"metrics_{name}.csv" for name in self.sets()]

    def depends(self) -> dict[str, Any]:
        """All its options but ``num_gpu``, as text: here metrics matter, too."""
        values = {key: value for key, value in self.values.items() if key != "num_gpu"}
        return {**super().depends(), "options": json.dumps(values, sort_keys=True)}

    def status(self) -> Status:
        """By the tables, and what they were made with."""
        status = super().status()
        if status.state == "stale":
            return Status("stale", "of other weights or options")
        whole = status.state == "complete" and all(p.is_file() for p in self.outputs())
        return Status("complete" if whole else "to do")

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Test; an earlier one of the recipe is deleted: it is made again at any time, and its images fill the disk."""
        from semiisp_plugin.training import test

        opt = options_module.complete(as_json(self.values), self.source, root_path=str(self.root), is_train=False)
        marker = self.place / "made_by_a_recipe.txt"
        if marker.is_file():
            shutil.rmtree(self.place)
        test(opt, progress=progress, quiet=True)
        marker.write_text("This folder is replaced when the recipe tests again.\n", encoding="utf-8")
        return {}
