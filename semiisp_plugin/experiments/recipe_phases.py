"""The phases of a recipe as jobs whose results lie where the commands put them.

What a phase began with is noted in ``experiments/.recipe``, by the name of its run; what lies on the disk under that
name without a note was made by hand, and is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semiisp_plugin import options as options_module
from semiisp_plugin.apps.denoise.folder import RECORD, denoise_and_print
from semiisp_plugin.apps.denoise.options import DenoiseOptions, complete_denoise_options
from semiisp_plugin.experiments.jobs import Job, JobError, Record, Status, as_json, fingerprint
from semiisp_plugin.io.checkpoint import saved_iterations
from semiisp_plugin.io.folder_job import SKIPPED
from semiisp_plugin.io.image_io import scan_images
from semiisp_plugin.io.locks import owned
from semiisp_plugin.options import PseudoOptions, Source


@dataclass
class Phase(Job):
    """A phase of a recipe.

    Attributes:
        key: See `semiisp_plugin.experiments.recipe_options.ORDER`; of a test also the system.
        values: Its options, with overrides.
        source: Where their keys stand.
        root: Folder of ``experiments``.
        inputs: Files that phases before it make and that it begins with.
        before: These phases.
    """

    key: str
    values: dict[str, Any]
    source: Source
    root: Path
    inputs: list[str] = field(default_factory=list)
    before: list[Phase] = field(default_factory=list)

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
        files = {os.path.relpath(_path(file), self.root): _path(file) for file in self.inputs}
        inputs = {name: (fingerprint(file) or "")[:16] for name, file in files.items()}
        return {**self.values, "made from": inputs}

    @property
    def place(self) -> Path:
        """Where it writes, absolute."""
        raise NotImplementedError

    def outputs(self) -> list[Path]:
        """Files that it leaves for the phases after it."""
        raise NotImplementedError

    def status(self) -> Status:
        """By what is noted of it, as long as its outputs are there."""
        if not self.record.read() and self.place.exists():
            return Status("stale", f"{self.place} exists and was not made by a recipe; rename or delete it")
        status = super().status()
        if status.state == "complete" and not all(path.exists() for path in self.outputs()):
            return Status("to do", "what it had made is gone")
        return status

    def clear(self) -> None:
        """Rename what is there, as BasicSR does it."""
        from semiisp_plugin.training.run_folder import set_aside

        with owned(self.place, "name", beside=True):
            set_aside(self.place)


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
        """As of every phase; of an interrupted one also how far it is."""
        status = super().status()
        if status.state != "interrupted":
            return status
        done = (saved_iterations(self.place / "training_states") or [0])[-1]
        return replace(status, why=f"iteration {done:,d}", done=done)

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Train; an interrupted run is resumed from its newest whole state."""
        from semiisp_plugin.training import train

        opt = options_module.complete(as_json(self.values), self.source, root_path=str(self.root), is_train=True)
        train(
            opt,
            option_text=options_module.dump_options(self.values),
            auto_resume=resume,
            progress=progress,
            quiet=progress,  # the bar, or the lines of the log
        )
        return {}


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

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Build, or what is left of it; the builder knows what is done."""
        from semiisp_plugin.pseudo import builder

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
        """Bytes that it will roughly write, by the number of photographs, but for those that it has written already."""
        options = self.options
        count = self.photographs()
        count = min(count, options.max_photographs or count)
        share = min(1.0, (options.short_side or _MEASURED_SIDE) / _MEASURED_SIDE) ** 2
        whole = int(count * options.draws * share * _BYTES_A_PHOTOGRAPH[options.mode])
        if self.status().state != "interrupted":  # what is stale is kept, renamed
            return whole
        return max(0, whole - sum(file.stat().st_size for file in self.place.rglob("*") if file.is_file()))


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

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Denoise the images that are not done yet."""
        report = denoise_and_print(self.options)
        if report.skipped:
            raise JobError(f"{len(report.skipped)} images could not be denoised, see {self.place / SKIPPED}.")
        return {}


class Test(Phase):
    """The test of one system."""

    __test__ = False  # pytest: no test class
    made_again = True

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
        """All its options but ``num_gpu``: here metrics matter, too."""
        values = {key: value for key, value in self.values.items() if key != "num_gpu"}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return {"options": digest[:16], "made from": super().depends()["made from"]}

    def status(self) -> Status:
        """As of every phase, but there is nothing to resume."""
        status = super().status()
        return Status("to do") if status.state == "interrupted" else status

    def clear(self) -> None:
        """Delete an earlier one of a recipe: it is made again at any time, and its images fill the disk."""
        with owned(self.place, "name", beside=True):
            if self.record.read():
                shutil.rmtree(self.place, ignore_errors=True)

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Test; a folder that no recipe made is renamed."""
        from semiisp_plugin.training import test

        opt = options_module.complete(as_json(self.values), self.source, root_path=str(self.root), is_train=False)
        test(opt, progress=progress, quiet=True)
        return {}
