"""The phases of a recipe: what is done of each, judged by what lies on the disk, and doing what is left.

A phase is complete if its results are whole, were made with the options that the recipe has now, and from what the
phases before it have made. The results themselves are the evidence: weights are compared with their checksums, options
with the copy in the run's folder, pseudo pairs with their manifest. So phases that were run by hand count, too. What
does not show there (which weights a run began with) is written down beside the runs, in ``experiments/.recipe``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from semiisp_plugin import options as options_module
from semiisp_plugin.apps.denoise import DenoiseOptions, complete_denoise_options, is_denoised
from semiisp_plugin.apps.denoise.folder import RECORD, denoise_and_print
from semiisp_plugin.io.checkpoint import check_whole, newest_whole_state, saved_iterations
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import SKIPPED
from semiisp_plugin.options import OptionError, PseudoOptions, Source
from semiisp_plugin.options.yaml_text import parse
from semiisp_plugin.pseudo.manifest import MADE_WITH, BuildFolder

State = Literal["complete", "interrupted", "to do", "stale"]

# What changes no weight: where and how fast a run runs, what it logs, what it is validated on.
_NO_MATTER = {
    "num_gpu",
    "logger",
    "val",
    "dist_params",
    "num_worker_per_gpu",
    "prefetch_factor",
    "pin_memory",
    "persistent_workers",
    "timeout",
    "cache_images",
    "resume_state",
}


@dataclass(frozen=True)
class Status:
    """How far a phase is.

    Attributes:
        state: ``complete``, ``interrupted`` (it can be gone on with), ``to do``, or ``stale`` (what is there was made
            otherwise).
        why: In words.
        done: Iterations (or photographs) that are done.
        total: All of them; 0 where that is not known.
    """

    state: State
    why: str = ""
    done: int = 0
    total: int = 0


class RecipeError(ValueError):
    """A recipe cannot be run as it is."""


def differences(before: Any, now: Any, keys: tuple[str, ...] = ()) -> list[str]:
    """What differs between two option files, but for what changes no weight: ``train:total_iter: 100 -> 200``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*before, *now}, key=str):
            if key in _NO_MATTER or (keys == ("datasets",) and str(key).split("_")[0] != "train"):
                continue
            found += differences(before.get(key, _ABSENT), now.get(key, _ABSENT), (*keys, str(key)))
        return found
    if _same(before, now):
        return []
    return [f"{':'.join(keys)}: {_shown(before)} -> {_shown(now)}"]


_ABSENT = object()


def _same(a: Any, b: Any) -> bool:
    absent = (None, _ABSENT)
    return bool(a == b) or (any(a is v for v in absent) and any(b is v for v in absent))


def _shown(value: Any) -> str:
    return "(nothing)" if value is _ABSENT or value is None else str(value)


def fingerprint(path: str | os.PathLike[str]) -> str | None:
    """SHA-256 of a file; None where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except FileNotFoundError:
        return None


def _digest(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _whole(path: Path) -> str | None:
    """Why a file of weights cannot be used; None if it can."""
    if not path.is_file():
        return f"{path} is missing"
    try:
        check_whole(path)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        return f"{path} is damaged ({error})"
    return None


# --- what the runs were made with ------------------------------------------------------------------------------------


class Ledger:
    """``experiments/.recipe/<run>.json``: what a run of a recipe began with, and what it ended with.

    Args:
        root: Folder of ``experiments``.
        run: Name of the run.
    """

    def __init__(self, root: Path, run: str) -> None:
        self.file = root / "experiments" / ".recipe" / f"{run}.json"

    def read(self) -> dict[str, Any]:
        """What is written there; nothing if it cannot be read."""
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write(self, **values: Any) -> None:
        """Write it anew."""
        write_atomically(self.file, json.dumps(values, indent=1) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other recipes, which share the run, from it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self.file.with_suffix(".lock")))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"Waiting for another process that is at {self.file.stem} ...", flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


# --- the phases ------------------------------------------------------------------------------------------------------


@dataclass
class Phase:
    """A phase of a recipe.

    Attributes:
        name: See `semiisp_plugin.experiments.recipe_options.ORDER`.
        file: Its option file.
        values: Its options, with overrides.
        source: Where their keys stand.
        root: Folder of ``experiments``.
        inputs: Files that phases before it make and that it begins with.
        needs: Names of these phases.
    """

    name: str
    file: str
    values: dict[str, Any]
    source: Source
    root: Path
    inputs: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)

    @property
    def run_name(self) -> str:
        """Of its run."""
        return str(self.values["name"])

    @property
    def ledger(self) -> Ledger:
        """What its run began with."""
        return Ledger(self.root, self.run_name)

    def path(self, file: str) -> Path:
        """A path of an option file, which is relative to the working directory, where the program runs."""
        return Path(os.path.expanduser(file))

    def current_inputs(self) -> dict[str, str | None]:
        """Fingerprints of its inputs."""
        return {file: fingerprint(self.path(file)) for file in self.inputs}

    def outputs(self) -> list[Path]:
        """Files that it leaves."""
        raise NotImplementedError

    def status(self) -> Status:
        """How far it is, by itself; what the phases before it say is not considered."""
        raise NotImplementedError

    def run(self, *, resume: bool, progress: bool) -> None:
        """Do what is left; ``resume`` False sets what is there aside."""
        raise NotImplementedError

    @property
    def place(self) -> Path:
        """Where it writes, absolute."""
        return self.root

    def disk(self) -> int:
        """Bytes that it will roughly write."""
        return 0

    def began_with_others(self, ledger: Mapping[str, Any], first_output: Path) -> str | None:
        """Why what is there is of other inputs; None if it is not, as far as one can tell."""
        noted = ledger.get("inputs") or {}
        for file, now in self.current_inputs().items():
            if file in noted:
                if noted[file] != now:
                    return f"{file} is another one than the run began with"
            # Not of a recipe: the order of times is all there is.
            elif now and first_output.exists() and self.path(file).stat().st_mtime > first_output.stat().st_mtime:
                return f"{file} is newer than what was made of it"
        return None


class Training(Phase):
    """Phases 1, 3, 4 and the supervised baseline."""

    @property
    def folder(self) -> Path:
        """Of its run."""
        return self.root / "experiments" / self.run_name

    @property
    def place(self) -> Path:
        """Its folder."""
        return self.folder.absolute()

    @property
    def total(self) -> int:
        """Its iterations."""
        return int(self.values["train"]["total_iter"])

    @property
    def weights(self) -> Path:
        """What tests begin with."""
        return self.folder / "models" / "net_g_latest.pth"

    def outputs(self) -> list[Path]:
        """The last weights; of f_ISP also the banks."""
        names = ["net_g_latest.pth"]
        if self.values["model_type"] == "ISPModel":
            names += ["net_global_latest.pth", "f_isp_latest.pth"]
        return [self.folder / "models" / name for name in names]

    def _options_there(self) -> dict[str, Any] | None:
        """The options of the run in the folder, of the copy that is in it."""
        copies = sorted(self.folder.glob("*.yml"), key=lambda p: p.stat().st_mtime)
        if not copies:
            return None
        try:
            values, _ = parse(copies[-1].read_text(encoding="utf-8"), str(copies[-1]))
        except (OSError, OptionError):
            return None
        return values if isinstance(values, dict) else None

    def status(self) -> Status:
        """By the copy of the options, checksums of the last weights, and the training states."""
        total = self.total
        models, states = self.folder / "models", self.folder / "training_states"
        if not models.is_dir():
            return Status("to do", total=total)
        iterations = saved_iterations(states)
        latest = self.outputs()
        if not iterations and not any(p.exists() for p in latest):
            return Status("to do", "nothing was saved yet", total=total)
        before = self._options_there()
        if before is None:
            return Status("stale", f"{self.folder} holds no options to compare", total=total)
        changes = differences(before, self.values)
        if changes:
            return Status("stale", "other options: " + "; ".join(changes[:4]), total=total)
        ledger = self.ledger.read()
        ended = ledger.get("outputs") if ledger.get("complete") else None
        other = self.began_with_others(ledger if self._is_of(ledger) else {}, latest[0])
        if other:
            return Status("stale", other, total=total)
        damaged = next((why for p in latest if (why := _whole(p))), None)
        if damaged is None:
            same = ended is not None and all(ended.get(p.name) == fingerprint(p) for p in latest)
            if same or (iterations and iterations[-1] == total and self._state_is_whole(total)):
                return Status("complete", done=total, total=total)
        stems = {p.name.rsplit("_", 1)[0] for p in latest}
        found, _, _ = newest_whole_state(states, models, stems)
        if found is None:
            return Status("to do", damaged or "no training state is whole", total=total)
        return Status("interrupted", f"iteration {int(found.stem):,d}", done=int(found.stem), total=total)

    def _is_of(self, ledger: Mapping[str, Any]) -> bool:
        """Whether the ledger speaks of the run that is there: it began after it was written, if it was by hand."""
        return bool(ledger) and not differences(ledger.get("options"), self.values)

    def _state_is_whole(self, iteration: int) -> bool:
        return _whole(self.folder / "training_states" / f"{iteration}.state") is None

    def run(self, *, resume: bool, progress: bool) -> None:
        """Train."""
        from semiisp_plugin.training import train

        ledger = self.ledger
        noted = ledger.read()
        if not resume and self.folder.exists():
            # Before the new inputs are noted: they are not what the old run began with.
            set_aside(self.folder)
        if not (resume and self._is_of(noted) and noted.get("inputs")):
            noted = {"options": json.loads(json.dumps(self.values)), "inputs": self.current_inputs(), "seconds": 0.0}
        ledger.write(**{**noted, "complete": False})
        text = options_module.dump_options(self.values)
        values, _ = parse(text, self.file)  # a copy: completing changes it
        opt = options_module.complete(values, self.source, root_path=str(self.root), is_train=True)
        began = time.monotonic()
        try:
            train(
                opt,
                option_file=self.file,
                option_text=text,
                auto_resume=resume,
                progress=progress,
                quiet=True,
                on_log=None if progress else self._say,
                on_validation=_say_validation,
            )
        finally:
            noted["seconds"] = float(noted.get("seconds") or 0) + time.monotonic() - began
            ledger.write(**{**noted, "complete": False})
        outputs = {p.name: fingerprint(p) for p in self.outputs()}
        ledger.write(**{**noted, "complete": True, "outputs": outputs})

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

        parameters = 0
        for key in ("network_g", "network_global"):
            if self.values.get(key):
                network = build_network(json.loads(json.dumps(self.values[key])))
                parameters += sum(p.numel() for p in network.parameters())
        logger = self.values.get("logger") or {}
        saves = max(1, self.total // int(logger.get("save_checkpoint_freq") or 5000))
        kept = min(saves, int(logger.get("keep_last") or saves))
        return 4 * parameters * (3 * kept + 1)


def _say_validation(iteration: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
    for name, values in metrics.items():
        text = ", ".join(f"{metric} {value:.4g}" for metric, value in values.items())
        print(f"{time.strftime('%H:%M:%S')} validation at {iteration:,d}, {name}: {text}", flush=True)


_LINES = 20  # a run prints no more, but for validations
_BYTES_A_PHOTOGRAPH = {"stored": 1_670_000, "online": 540_000, "keys": 100}  # docs/scaling.md
_MEASURED_SIDE = 480  # at this short side


class Pseudo(Phase):
    """Phase 2: pseudo pairs."""

    @property
    def options(self) -> PseudoOptions:
        """Its options, checked."""
        return options_module.complete_pseudo_options(json.loads(json.dumps(self.values)), self.source)

    @property
    def out(self) -> Path:
        """Of the pairs."""
        return self.path(self.values["out"])

    @property
    def place(self) -> Path:
        """Of the pairs."""
        return self.out.absolute()

    def outputs(self) -> list[Path]:
        """The manifest stands for all."""
        return [self.out / "manifest.json"]

    def status(self) -> Status:
        """By the build's manifest."""
        if not (self.out / "manifest.json").is_file():
            return Status("to do")
        options = self.options
        try:
            build = BuildFolder(self.out)
            unfinished = build.unfinished()
            total = build.n_photographs
            done = sum(record.photographs for _, record in build.records())
        except (OSError, ValueError) as error:
            return Status("stale", str(error))
        made = build.settings
        now: dict[str, Any] = {key: getattr(options, key) for key in MADE_WITH}
        f_isp = fingerprint(self.path(options.f_isp))
        if f_isp is not None:
            now["f_isp_sha256"] = f_isp[:16]
        changes = [f"{key}: {made[key]} -> {value}" for key, value in now.items() if key in made and made[key] != value]
        if options.max_photographs is not None and total > options.max_photographs:
            changes.append(f"max_photographs: {total} -> {options.max_photographs}")
        if not _same_folder(build.settings["photographs"], options.photographs):
            changes.append(f"photographs: {build.settings['photographs']} -> {options.photographs}")
        if changes:
            return Status("stale", "made otherwise: " + "; ".join(changes[:4]))
        if unfinished or not (self.out / "report.json").is_file():
            return Status("interrupted", f"{done:,d} of {total:,d} photographs", done=done, total=total)
        return Status("complete", f"{total:,d} photographs", done=total, total=total)

    def run(self, *, resume: bool, progress: bool) -> None:
        """Build, or go on."""
        from semiisp_plugin.pseudo import builder

        if not resume and self.out.exists():
            set_aside(self.out)
        began = time.monotonic()
        report = builder.run(self.options, progress=progress)
        if report.unfinished:
            raise RecipeError(f"{self.out}: {report.unfinished} shards are being built by other processes; try later.")
        self.ledger.write(complete=True, seconds=time.monotonic() - began)

    def photographs(self) -> int:
        """How many there are; 0 without the folder."""
        from semiisp_plugin.io.image_io import scan_images

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


def _same_folder(a: str, b: str) -> bool:
    if os.path.abspath(a) == os.path.abspath(os.path.expanduser(b)):
        return True
    try:
        return os.path.samefile(a, os.path.expanduser(b))
    except OSError:
        # It has gone since, and the pairs are there.
        return not os.path.exists(os.path.expanduser(b))


def set_aside(folder: Path) -> None:
    """Rename a folder as BasicSR does it."""
    base = name = f"{folder}_archived_{time.strftime('%Y%m%d_%H%M%S')}"
    number = 1
    while os.path.exists(name):
        number += 1
        name = f"{base}_{number}"
    os.rename(folder, name)
    print(f"{folder} exists; renamed it to {name}.", flush=True)


class Denoise(Phase):
    """Inputs of phase 1 without noise (Sec. A.3)."""

    @property
    def options(self) -> DenoiseOptions:
        """Its options, checked."""
        return complete_denoise_options(json.loads(json.dumps(self.values)), self.source)

    @property
    def out(self) -> Path:
        """Of the images."""
        return self.path(self.values["out"])

    @property
    def place(self) -> Path:
        """Of the images."""
        return self.out.absolute()

    def denoiser(self) -> str:
        """What denoises, for the report."""
        options = self.options
        if options.uses_network:
            return f"{(options.network or {}).get('type')} with {options.weights}"
        return "OpenCV's non-local means (ours; the paper uses KBNet)"

    def outputs(self) -> list[Path]:
        """Its record stands for all."""
        return [self.out / RECORD]

    def status(self) -> Status:
        """By its record and the names of the images."""
        if not self.out.exists():
            return Status("to do")
        try:
            if is_denoised(self.options):
                return Status("complete")
        except FileNotFoundError as error:
            return Status("to do", str(error))
        except (ValueError, OSError) as error:
            return Status("stale", str(error))
        return Status("interrupted")

    def run(self, *, resume: bool, progress: bool) -> None:
        """Denoise, or go on."""
        if not resume and self.out.exists():
            set_aside(self.out)
        began = time.monotonic()
        report = denoise_and_print(self.options)
        if report.skipped:
            raise RecipeError(f"{len(report.skipped)} images could not be denoised, see {self.out / SKIPPED}.")
        self.ledger.write(complete=True, seconds=time.monotonic() - began)


@dataclass
class Test(Phase):
    """The test of one system.

    Attributes:
        system: ``f_isp``, ``supervised``, ``semi`` or ``finetune``.
        title: Of the system.
    """

    __test__ = False  # pytest: no test class

    system: str = ""
    title: str = ""

    @property
    def folder(self) -> Path:
        """Of its results."""
        return self.root / "results" / self.run_name

    def tables(self) -> list[Path]:
        """Metrics of every image, a file a data set."""
        return [self.folder / f"metrics_{name}.csv" for name in self.sets()]

    def sets(self) -> list[str]:
        """Names of its data sets."""
        return [str(values.get("name") or key) for key, values in self.values["datasets"].items()]

    def outputs(self) -> list[Path]:
        """The tables."""
        return self.tables()

    def status(self) -> Status:
        """By the tables, and what they were made with."""
        noted = self.ledger.read()
        if not noted.get("complete") or not all(p.is_file() for p in self.tables()):
            return Status("to do")
        if noted.get("inputs") != self.current_inputs():
            return Status("stale", "of other weights")
        if noted.get("options") != json.loads(json.dumps(_without_gpus(self.values))):
            return Status("stale", "other options")
        return Status("complete")

    def run(self, *, resume: bool, progress: bool) -> None:
        """Test."""
        from semiisp_plugin.training import test

        text = options_module.dump_options(self.values)
        values, _ = parse(text, self.file)
        inputs = self.current_inputs()
        opt = options_module.complete(values, self.source, root_path=str(self.root), is_train=False)
        if self.folder.exists() and self.ledger.read().get("complete"):
            shutil.rmtree(self.folder)  # of a recipe: it is made again at any time, and its images fill the disk
        began = time.monotonic()
        test(opt, progress=progress, quiet=True)
        self.ledger.write(
            complete=True, inputs=inputs, options=_without_gpus(self.values), seconds=time.monotonic() - began
        )


def _without_gpus(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "num_gpu"}


def states_of(phases: Sequence[Phase]) -> dict[str, Status]:
    """How far all phases are: what builds on what is not complete, or stale, is not complete either."""
    found: dict[str, Status] = {}
    for phase in phases:
        status = phase.status()
        anew = [name for name in phase.needs if name in found and found[name].state != "complete"]
        if anew and status.state in ("complete", "interrupted", "stale"):
            unfinished = ", ".join(anew)
            if all(found[name].state in ("interrupted", "to do") for name in anew) and status.state != "stale":
                status = Status("stale", f"made before {unfinished} was complete", total=status.total)
            else:
                status = Status("stale", f"{unfinished} is stale, and what follows it", total=status.total)
        found[phase.name] = status
    return found
