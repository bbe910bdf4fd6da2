"""The jobs of a benchmark and of the demo: data, f_ISP, pseudo pairs, and whatever trains the target network.

A job's folder is named by a hash of all that it depends on, so that systems share what they have in common, and a
training that was cut short is resumed from its latest state.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch

from semiisp_plugin import options as options_module
from semiisp_plugin._version import __version__
from semiisp_plugin.experiments.benchmark_data import Data, PairData, data_in, make_data
from semiisp_plugin.experiments.benchmark_options import Settings, Task
from semiisp_plugin.experiments.jobs import Job, Record
from semiisp_plugin.io.image_io import list_images, read_image, to_float, to_uint8, write_image
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE
from semiisp_plugin.report.page import Pictures
from semiisp_plugin.training import train

RESULT = "result.json"
OUTPUTS = 8
"""Test images that a training leaves its outputs of."""
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
    def before(self) -> Sequence[Step]:  # type: ignore[override]  # as above
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
        log = (self.folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace")
        with log, redirect_stdout(log), redirect_stderr(log):
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


# --- options of the trainings ----------------------------------------------------------------------------------------

METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False},
    "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
}
_NOISE = {
    "paper": {"shot_variance": SHOT_VARIANCE, "read_variance": READ_VARIANCE},
    "estimated": "estimated",
}
_MODELS = {"f_isp": "ISPModel", "semi": "SemiSupervisedModel", "mean_teacher": "MeanTeacherModel"}  # else supervised


def _pairs(data: PairData, s: Settings, **more: Any) -> dict[str, Any]:
    return {
        "name": "pairs",
        "type": "PairedRestorationDataset",
        "dataroot_lq": str(data.input),
        "dataroot_gt": str(data.target),
        "io_backend": {"type": "lmdb" if str(data.target).endswith(".lmdb") else "disk"},
        "cache_images": s.cache_images,
        **more,
    }


def _options(
    step: Step, s: Settings, pairs: PairData, evaluation: Mapping[str, PairData], network: Any, **training: Any
) -> dict[str, Any]:
    """Options of a training on ``pairs``; ``training`` is the section ``train``."""
    total = training["total_iter"]
    return {
        "name": "run",
        "model_type": _MODELS.get(step.kind, "SupervisedModel"),
        "scale": 1,
        "num_gpu": "auto",
        "manual_seed": step.seed,
        "datasets": {
            "train": _pairs(pairs, s, gt_size=list(s.size), use_hflip=True, num_worker_per_gpu=s.loader_workers),
            **{f"val_{key}": _pairs(of, s, name=key) for key, of in evaluation.items()},
        },
        "network_g": deepcopy(network),
        "path": {},
        "train": {"scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 1e-3}, **training},
        "val": {"val_freq": max(1, total // s.evaluations), "save_img": False, "metrics": deepcopy(METRICS)},
        "logger": {
            "print_freq": max(1, total // 20),
            "save_checkpoint_freq": total + 1,
            "use_tb_logger": False,
        },
    }


def _f_isp_options(step: Step, s: Settings, data: Data) -> dict[str, Any]:
    """Phase 1."""
    network = {
        "type": "PQDynamicISP",
        "inverse_tone_mapping": step.settings["image_enhancement"],
        "thumbnail": s.isp_thumbnail,
        "dropout": s.isp_dropout,
    }
    options = _options(
        step,
        s,
        data.labelled,
        {**data.evaluation(), "labelled": data.labelled},
        {**network, "grid": list(s.isp_grid)},
        total_iter=s.isp_iterations,
        warmup_iter=s.isp_iterations // 20,
        grad_clip=1.0,
        # The last fifth of training, in which the learning rate is small: the sets of Table 5's N = 5000 are its
        # last twelfth.
        bank_size=s.isp_batch * max(1, s.isp_iterations // 5),
        optim_g={"type": "AdamW", "lr": s.isp_lr, "weight_decay": s.isp_weight_decay},
        pixel_opt={"type": "PooledL1Loss" if s.isp_loss == "pooled_l1" else "MSELoss"},
    )
    options["network_global"] = {**network, "grid": [1, 1]}
    options["datasets"]["train"]["batch_size_per_gpu"] = s.isp_batch
    if s.isp_jitter:
        options["train"]["photometric_jitter"] = s.isp_jitter
    return options


def _target_options(step: Step, data: Data) -> dict[str, Any]:
    """Whatever trains the target network: phases 2 and 3, and the baselines."""
    s, kind = step_settings(step.settings), step.kind
    pseudo = step.needs["pseudo"].folder / "pseudo" if "pseudo" in step.needs else Path()
    made = PairData(pseudo / "lq.lmdb", pseudo / "gt.lmdb")
    total = s.semi_iterations if kind == "semi" else step.settings["iterations"]
    options = _options(
        step,
        s,
        made if kind == "pseudo_only" else data.labelled,
        data.evaluation(),
        s.network,
        total_iter=total,
        optim_g={"type": "AdamW", "lr": s.fine_lr if kind == "finetune" else s.lr},
        pixel_opt={"type": "MSELoss"},
        ema_decay=s.ema_decay,
    )
    train_set, training = options["datasets"]["train"], options["train"]
    if s.loss == "mse_ssim":
        training["ssim_opt"] = {"type": "SSIMLoss", "loss_weight": 1.0}
    if kind not in ("semi", "mean_teacher"):
        train_set["batch_size_per_gpu"] = step.settings["batch"]
        if s.augment:
            training["photometric_jitter"] = s.augment
        if kind == "finetune":
            weights = run_folder(step.needs["semi"]) / "net_g_latest.pth"
            options["path"] = {"pretrain_network_g": str(weights)}
        return options
    train_set.update(
        type="SemiSupervisedDataset",
        pseudo={
            "dataroot_gt": str(made.target),
            "dataroot_lq": str(made.input),
            "io_backend": {"type": "lmdb"},
            "cache_images": s.cache_images,
        },
        real_per_batch=s.real_per_batch,
        pseudo_per_batch=s.pseudo_per_batch,
    )
    if kind == "mean_teacher":  # pseudo inputs as unlabelled data
        training["ema_decay"] = s.ema_decay or 0.99
        training["mean_teacher"] = {"rampup_iter": max(1, total // 4), "jitter": s.augment or 0.2}
        return options
    training["filter"] = {"beta": s.beta, "reference": s.reference, "warmup_iter": s.warmup}
    if s.noise != "none":
        training["noise"] = deepcopy(_NOISE[s.noise])
    return options


# --- doing them -------------------------------------------------------------------------------------------------------


@cache
def source_fingerprint() -> str:
    """Hash of the Python files that results depend on: results of one fingerprint are of one code."""
    root = Path(__file__).resolve().parents[1]
    parts = ("archs", "data", "isp", "losses", "metrics", "models", "pseudo", "simulation", "training")
    files = [path for part in parts for path in (root / part).rglob("*.py")]
    files += [root / "experiments" / f"{name}.py" for name in ("benchmark_data", "benchmark_jobs")]
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
    if step.kind == "data":
        values = dict(step.settings)
        make_data(msgspec.convert(values.pop("task"), Task), step.folder / "data", seed=step.seed, **values)
        return {}
    data = step.needs["data"].data()
    if step.kind == "f_isp":
        return _f_isp(step, data, progress)
    if step.kind == "pseudo":
        return _pseudo(step, data, progress)
    return _train(_target_options(step, data), step, data.test, progress)[0]


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
def _write_outputs(network: torch.nn.Module, test: PairData, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    network.eval()
    device = next(network.parameters()).device
    for name in list_images(test.input)[:OUTPUTS]:
        image = torch.from_numpy(to_float(read_image(test.input / name))).permute(2, 0, 1)[None].to(device)
        output = network(image)[0].permute(1, 2, 0).cpu().numpy()
        write_image(folder / name, to_uint8(output.clip(0, 1)))


def compare_outputs(title: str, steps: Mapping[str, Step], count: int) -> Pictures:
    """Test images as trainings render them, each with its PSNR in dB: the input, the outputs, the target.

    Args:
        title: Of the pictures.
        steps: Trainings on one data set, by what they are called.
        count: How many images at most; there are outputs of the first 8.
    """
    test = next(iter(steps.values())).needs["data"].data().test
    rows = []
    for name in list_images(test.input)[: min(count, OUTPUTS)]:
        image, target = to_float(read_image(test.input / name)), read_image(test.target / name, bit_depth="8")
        dark = image.mean() < 0.2
        cells = [(to_uint8(image ** (1 / 2.2) if dark else image), "gamma 2.2" if dark else "")]
        for step in steps.values():
            output = read_image(step.folder / "outputs" / name, bit_depth="8")
            error = ((to_float(output) - to_float(target)) ** 2).mean()
            cells.append((output, f"{-10 * math.log10(error + 1e-10):.2f} dB"))
        rows.append((Path(name).stem, [*cells, (target, "")]))
    return Pictures(title, ("input", *steps, "target"), rows)


def _f_isp(step: Step, data: Data, progress: bool) -> dict[str, Any]:
    s = step_settings(step.settings)
    options = _f_isp_options(step, s, data)
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
    return {"clipped": report.clipped, "written": report.written + report.kept}
