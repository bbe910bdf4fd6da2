"""The jobs of a benchmark and of the demo: data, f_ISP, pseudo pairs, and whatever trains the target network.

A job's folder is named by a hash of all that it depends on, so that systems share what they have in common, and a
training that was cut short is resumed from its latest state.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from semiisp_plugin import options as options_module
from semiisp_plugin._version import __version__
from semiisp_plugin.experiments import phases
from semiisp_plugin.experiments.benchmark_data import Data, brightness_and_chroma, data_in, inputs_of, make_data
from semiisp_plugin.experiments.benchmark_options import Task
from semiisp_plugin.experiments.jobs import Job, Record
from semiisp_plugin.experiments.phases import PairData, Settings
from semiisp_plugin.io.image_io import decode_image, list_images, read_image, to_float, to_uint8, write_image
from semiisp_plugin.io.lmdb_io import read_meta, read_value
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.training import train

RESULT = "result.json"
_STATES = 5  # training states a run leaves on its way


@dataclass(frozen=True)
class Step(Job):
    """One job.

    Attributes:
        kind: ``data``, ``f_isp``, ``pseudo``, ``semi``, ``finetune``, ``supervised``, ``pseudo_only``,
            ``mean_teacher``; the demo has kinds of data of its own.
        seed: Of what is random in it.
        settings: Everything it depends on but the jobs before it; plain values.
        root: The folder that jobs' folders are in.
        needs: The jobs before it, by the part they play.
        quiet: What it prints goes into its ``log.txt``.
    """

    kind: str
    seed: int
    settings: Mapping[str, Any]
    root: Path = field(default=Path(), compare=False)
    needs: Mapping[str, Step] = field(default_factory=dict)
    quiet: bool = field(default=True, compare=False)

    @cached_property
    def key(self) -> str:  # type: ignore[override]  # computed once
        """Name of its folder: the kind and a hash of all it depends on."""
        digest = hashlib.sha256(json.dumps(self.depends(), sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.kind}-{digest[:12]}"

    @property
    def before(self) -> Sequence[Step]:
        """The jobs that it needs."""
        return list(self.needs.values())

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.root / self.key

    @property
    def record(self) -> Record:
        """``result.json`` in its folder."""
        return Record(self.folder / RESULT)

    def depends(self) -> dict[str, Any]:
        """Kind, seed, settings, version, and the keys of the jobs before it."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "settings": dict(self.settings),
            "needs": {part: job.key for part, job in self.needs.items()},
            "version": __version__,
        }

    def data(self) -> Data:
        """Where the parts of the data are that a job of data has made."""
        return data_in(self.folder / "data")

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Do it; training states that lie in its folder are of itself, and it resumes from them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made_with = {"version": __version__, "torch": torch.__version__, "source": source_fingerprint()}
        if not self.quiet:
            return {**work(self, progress), "made_with": made_with}
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                return {**work(self, progress), "made_with": made_with}
            except Exception:
                traceback.print_exc()
                raise


_RUN = ("size", "evaluations", "cache_images", "loader_workers")
_ISP = (*_RUN, *(name for name in Settings.__struct_fields__ if name.startswith("isp_")))
_TARGET = (*_RUN, "ema_decay", "loss", "network")


def chain(kind: str, settings: Settings, data: Step, seed: int, image_enhancement: bool) -> Step:
    """The job that ends a system's chain, with all that come before it.

    Args:
        kind: Of the system: ``f_isp``, ``supervised``, ``pseudo_only``, ``mean_teacher``, ``semi``.
        settings: Of the system. A job depends on those alone that matter to it.
        data: The job that makes the data.
        seed: Of weights and batches.
        image_enhancement: The inputs are sRGB images.
    """
    values = msgspec.to_builtins(settings)

    def step(kind: str, needs: Mapping[str, Step], *names: str, **more: Any) -> Step:
        chosen = {name: values[name] for name in names} | more
        return Step(kind, seed, chosen, data.root, {"data": data, **needs}, data.quiet)

    batch = settings.real_per_batch + settings.pseudo_per_batch
    total = max(1, round(settings.length * (settings.semi_iterations + settings.fine_iterations)))
    in_one_go = {"iterations": total, "batch": batch}
    if kind == "supervised":
        return step("supervised", {}, *_TARGET, "lr", "augment", **in_one_go)
    f_isp = step("f_isp", {}, *_ISP, image_enhancement=image_enhancement)
    if kind == "f_isp":
        return f_isp
    made = {"pseudo": step("pseudo", {"f_isp": f_isp}, "source", "sets", "update_quality", "draws", "candidates")}
    if kind == "pseudo_only":
        return step("pseudo_only", made, *_TARGET, "lr", **in_one_go)
    mix = {"real_per_batch": settings.real_per_batch}
    if settings.real_share is not None:
        mix["real_per_batch"] = min(batch - 1, max(1, round(settings.real_share * batch)))
    mix["pseudo_per_batch"] = batch - mix["real_per_batch"]
    if kind == "mean_teacher":
        return step("mean_teacher", made, *_TARGET, "lr", "augment", iterations=total, **mix)
    beta = str(settings.beta) if settings.beta == float("inf") else settings.beta
    semi = step("semi", made, *_TARGET, "lr", "semi_iterations", "reference", "warmup", "noise", beta=beta, **mix)
    if settings.fine_iterations == 0 or not settings.fine_tune:
        return semi
    of_fine = {"iterations": settings.fine_iterations, "batch": batch}
    return step("finetune", {"semi": semi}, *_TARGET, "fine_lr", "augment", **of_fine)


@cache
def source_fingerprint() -> str:
    """Hash of the Python files that results depend on: results of one fingerprint are of one code."""
    root = Path(__file__).resolve().parents[1]
    parts = ("archs", "data", "isp", "losses", "metrics", "models", "pseudo", "simulation", "training")
    files = [path for part in parts for path in (root / part).rglob("*.py")]
    files += [root / "experiments" / f"{name}.py" for name in ("benchmark_data", "phases")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def step_settings(values: Mapping[str, Any]) -> Settings:
    """`Settings` from those that a job depends on; the others have their defaults."""
    known = {key: value for key, value in values.items() if key in Settings.__struct_fields__}
    if "beta" in known:
        known["beta"] = float(known["beta"])  # "inf", where it is infinite: JSON does not know it
    return msgspec.convert(known, Settings)


def work(step: Step, progress: bool) -> dict[str, Any]:
    """Do a job in its folder; returns its result."""
    settings, needs, seed = step.settings, step.needs, step.seed
    if step.kind == "data":
        values = dict(settings)
        make_data(msgspec.convert(values.pop("task"), Task), step.folder / "data", seed=seed, **values)
        return {}
    data = needs["data"].data()
    if step.kind == "f_isp":
        return _f_isp(step, data, progress)
    if step.kind == "pseudo":
        return _pseudo(step, data, progress)
    s = step_settings(settings)
    evaluation = data.evaluation()
    pseudo = needs["pseudo"].folder / "pseudo" if "pseudo" in needs else Path()
    if step.kind == "semi":
        options = phases.semi_options(s, data.labelled, pseudo, evaluation, seed)
    elif step.kind == "mean_teacher":
        options = phases.mean_teacher_options(s, data.labelled, pseudo, evaluation, seed, settings["iterations"])
    else:
        made = PairData(pseudo / "lq.lmdb", pseudo / "gt.lmdb")
        labelled = made if step.kind == "pseudo_only" else data.labelled
        weights = run_folder(needs["semi"]) / "net_g_latest.pth" if step.kind == "finetune" else None
        options = phases.supervised_options(
            s, labelled, evaluation, seed, settings["iterations"], settings["batch"], weights
        )
    return _train(options, step, data.test, progress)[0]


def run_folder(step: Step) -> Path:
    """The weights of a job that trains."""
    return step.folder / "experiments" / "run" / "models"


def _train(
    options: dict[str, Any], step: Step, test: PairData, progress: bool, keep_every: int | None = None
) -> tuple[dict[str, Any], Any]:
    """Train, and collect curves, the kept ratio, and the test images; returns them and the model."""
    folder = step.folder
    # One GPU a worker, also where there are more: with several, the batch would be another.
    options["num_gpu"] = min(1, torch.cuda.device_count())
    options["logger"]["use_tb_logger"] = not step.quiet
    total = options["train"]["total_iter"]
    states = max(1, -(-total // _STATES)) if total >= 2000 else total + 1
    options["logger"]["save_checkpoint_freq"] = keep_every or states
    # A run that is resumed adds to what was seen before it.
    seen = folder / "seen.jsonl"
    resumes = any((folder / "experiments" / "run" / "training_states").glob("*.state"))
    if not resumes:
        seen.unlink(missing_ok=True)
    with seen.open("a", encoding="utf-8") as file:
        file.write("\n")  # whatever a full disk or a kill cut short stands in a line of its own

        def note(**values: Any) -> None:
            file.write(json.dumps(values) + "\n")
            file.flush()

        started = time.time()
        source = options_module.Source(f"options of {step.key}")
        model = train(
            options_module.complete(options, source, root_path=str(folder), is_train=True),
            auto_resume=resumes,
            progress=progress,
            quiet=True,
            on_log=lambda i, values: note(iteration=i, log={k: float(v) for k, v in values.items()}),
            on_validation=lambda i, metrics: note(iteration=i, metrics={k: dict(v) for k, v in metrics.items()}),
        )
        seconds = time.time() - started
    lines = {}  # of what a resumed run did again, the later line counts
    for line in seen.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the resumed run does again what followed its latest state
        lines[entry["iteration"], "log" in entry] = entry
    entries = [lines[key] for key in sorted(lines)]
    curve = [{"iteration": e["iteration"], **e["metrics"]} for e in entries if "metrics" in e]
    kept = [
        [e["iteration"], e["log"]["pseudo/kept_ratio"]]
        for e in entries
        if "log" in e and "pseudo/kept_ratio" in e["log"]
    ]
    _write_outputs(getattr(model, "net_g_ema", model.net_g), test, folder / "outputs")
    return {**curve[-1], "curve": curve, "kept_ratio": kept, "train_seconds": seconds}, model


@torch.no_grad()
def _write_outputs(network: torch.nn.Module, test: PairData, folder: Path, limit: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    network.eval()
    device = next(network.parameters()).device
    for name in list_images(test.input)[:limit]:
        image = torch.from_numpy(to_float(read_image(test.input / name))).permute(2, 0, 1)[None].to(device)
        output = network(image)[0].permute(1, 2, 0).cpu().numpy()
        write_image(folder / name, to_uint8(output.clip(0, 1)))


def _f_isp(step: Step, data: Data, progress: bool) -> dict[str, Any]:
    s, enhancement = step_settings(step.settings), step.settings["image_enhancement"]
    evaluation = {**data.evaluation(), "labelled": data.labelled}
    options = phases.f_isp_options(s, data.labelled, evaluation, step.seed, enhancement)
    if not s.isp_early_stop:
        return _train(options, step, data.test, progress)[0]
    every = int(options["val"]["val_freq"])  # each validation leaves a checkpoint to choose from
    result, model = _train(options, step, data.test, progress, keep_every=every)
    # The global network makes the pseudo inputs, the local one their ground truth: both count.
    chosen = max(result["curve"], key=lambda p: p["validation"]["psnr"] + p["validation_global"]["psnr"])
    if chosen["iteration"] < s.isp_iterations:
        models = run_folder(step)
        shutil.copyfile(models / f"f_isp_{chosen['iteration']}.pth", models / "f_isp_latest.pth")
        model.load_network(model.net_g, str(models / f"net_g_{chosen['iteration']}.pth"))
        _write_outputs(model.net_g, data.test, step.folder / "outputs")
    return {**result, **chosen}


def _pseudo(step: Step, data: Data, progress: bool) -> dict[str, Any]:
    s = step_settings(step.settings)
    checkpoint = str(run_folder(step.needs["f_isp"]) / "f_isp_latest.pth")
    generator = make_generator(
        checkpoint,
        sets=s.sets,
        update_quality=s.update_quality,
        source=s.source,
        candidates=s.candidates,
    )
    out = step.folder / "pseudo"
    how = PseudoOptions(
        name=step.key,
        photographs=str(data.photos),
        f_isp=checkpoint,
        out=str(out),
        manual_seed=step.seed,
        draws=s.draws,
        num_gpu=int(torch.cuda.is_available()),
        workers=0,
    )
    report = build_pseudo_lmdb(how, generator, progress=progress)
    lq = str(out / "lq.lmdb")
    keys = [entry.key for entry in read_meta(lq)]
    chosen = [keys[int(i)] for i in np.random.default_rng(step.seed).permutation(len(keys))[:60]]
    made = [to_float(decode_image(read_value(lq, key), name=key)) for key in chosen]
    return {
        "clipped": report.clipped,
        "written": report.written + report.kept,
        "real": brightness_and_chroma(inputs_of(data.labelled)),
        "pseudo": brightness_and_chroma(made),
    }
