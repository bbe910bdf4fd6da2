"""The jobs of a benchmark and of the demo: data, f_ISP, pseudo pairs, whatever trains the target network, and tests.

A job's folder is named by a hash of all that it depends on, so that systems share what they have in common, and a
training that was cut short is resumed from its latest state.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from semiisp_plugin import options as options_module
from semiisp_plugin._version import __version__
from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair
from semiisp_plugin.experiments.benchmark_data import Data, PairData, data_in, make_data, make_fold
from semiisp_plugin.experiments.benchmark_options import LATENTS, OWN_NETWORKS, Settings, Task, one_to_one
from semiisp_plugin.experiments.jobs import Job, Record
from semiisp_plugin.experiments.tried import LookalikeInverse, best_weights, generator_of_folds
from semiisp_plugin.io.image_io import read_image, to_float, to_tensor, to_uint8, to_uint16, write_image
from semiisp_plugin.io.picture import shrink_short_side
from semiisp_plugin.models.likelihood import networks_with_likelihood
from semiisp_plugin.models.validation import measure
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE
from semiisp_plugin.pseudo.online import fingerprints, keep_copies
from semiisp_plugin.report.benchmark_results import DRAWS
from semiisp_plugin.report.page import Pictures
from semiisp_plugin.training import train

RESULT = "result.json"
OUTPUTS = 8
"""Test images that a test leaves the outputs of."""
_SHOWN = 240  # their short side, pixels
_DRAWS_SHOWN = 3
_JUDGED = 256  # sides at most of what sources of pseudo inputs are judged on: some are slow
_DARKEST = 1e-4  # added before a logarithm
_STATES = 5  # training states a run leaves on its way


@dataclass(frozen=True)
class Step(Job):
    """One job.

    Attributes:
        kind: ``data``, ``fold``, ``f_isp``, ``source``, ``pseudo``, ``guide``, ``semi``, ``finetune``, ``supervised``,
            ``pseudo_only``, ``mean_teacher``, ``test``, ``judge``, ``choose``, ``weights``, ``weigh``; the demo and
            ``basicsr learn`` have kinds of data of their own.
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


_RUN = ("size", "cache_images", "loader_workers")
_ISP = (*_RUN, *(name for name in Settings.__struct_fields__ if name.startswith("isp_") and name != "isp_folds"))
_DRAWN = ("size", "lookalikes", "source", "sets", "update_quality", "candidates")
_PSEUDO = (*_DRAWN, "photographs", "draws", "online", "input_bits")
_SOURCE = (*_RUN, "source_size", "source_iterations", "source_lr", "source_batch")
_TARGET = (*_RUN, "ema_decay", "loss", "network")


def chain(kind: str, settings: Settings, data: Step, seed: int, image_enhancement: bool) -> Step:
    """The training that ends a system's chain, with all jobs that come before it.

    Args:
        kind: Of the system: ``f_isp``, ``f_isp_global``, ``supervised``, ``pseudo_only``, ``semi``, or a `Rival`.
        settings: Of the system. A job depends on those alone that matter to it.
        data: The job that makes the data.
        seed: Of weights and batches.
        image_enhancement: The inputs are sRGB images.
    """
    values = msgspec.to_builtins(settings)

    def step(kind: str, needs: Mapping[str, Step], *names: str, round_: int = 0, **more: Any) -> Step:
        chosen = {name: values[name] for name in names} | more
        if kind in _OF_TARGET and settings.network in OWN_NETWORKS:
            chosen["network"] = f_isp_network(settings, image_enhancement)
            if settings.network == "f_isp_global":
                chosen["network"]["grid"] = [1, 1]
        if kind in _OF_TARGET and settings.full_size:
            chosen["size"] = values["full_size"]
        if kind in _OF_TARGET and settings.table_penalty:
            chosen["table_penalty"] = True  # not where it is False: keys from before there was such a setting stay
        if kind == "semi" and settings.consistency:
            chosen |= {"consistency": True, **shared_batch(settings)}
        return Step(kind, seed + 1000 * round_, chosen, data.root, {"data": of_target, **needs}, data.quiet)

    def f_isp_on(data: Step) -> Step:
        return step("f_isp", {"data": data}, *_ISP, image_enhancement=image_enhancement)

    of_target = in_full_size(data) if settings.full_size else data
    f_isp = f_isp_on(data)
    if kind in ("f_isp", "f_isp_global"):
        return f_isp
    before = {"start": f_isp} if settings.warm_start else {}
    if settings.guided:
        before["guide"] = step("guide", {"f_isp": f_isp})
    batch = settings.real_per_batch + settings.pseudo_per_batch
    in_one_go = {"iterations": settings.semi_iterations + settings.fine_iterations, "batch": batch}
    if kind == "supervised":
        return step("supervised", before, *_TARGET, "lr", "augment", **in_one_go)
    folds = range(settings.isp_folds if settings.isp_folds > 1 else 0)
    makers = {"f_isp": f_isp, **{f"fold {k}": f_isp_on(fold_of(data, k, len(folds))) for k in folds}}
    if settings.source_network is not None:
        network = dict(settings.source_network)
        if network["type"] == "SRISP":
            network["inverse_tone_mapping"] = image_enhancement
        of_source = {name: values[name] for name in _SOURCE} | {"source_network": network}
        makers["source"] = Step("source", seed, of_source, data.root, {"data": data}, data.quiet)
    once = {"draws": 1} if one_to_one(settings) else {}  # several would be the same
    made = step("pseudo", makers, *_PSEUDO, **once)
    mix = {"real_per_batch": settings.real_per_batch, "pseudo_per_batch": settings.pseudo_per_batch}

    def on(pseudo: Step) -> dict[str, Step]:
        return {"pseudo": step("guide", {"f_isp": f_isp, "pseudo": pseudo}) if settings.guided else pseudo}

    if kind == "pseudo_only":
        return step("pseudo_only", {**before, **on(made)}, *_TARGET, "lr", **in_one_go)
    if kind in _RIVALS:
        iterations = in_one_go["iterations"]
        # The adversary learns what targets look like from the pseudo ground truths.
        learned_from = on(made) if kind == "adversarial" or not _has_unlabelled(data) else {}
        of_rival = [*_TARGET, "lr", "augment", *(["latent"] if kind == "latent_teacher" else [])]
        if settings.noise != "none" and kind != "noise_consistency":  # whose noise is its own
            of_rival.append("noise")
        if learned_from and _has_unlabelled(data):
            mix = shared_batch(settings)
        return step(kind, {**before, **learned_from}, *of_rival, iterations=iterations, **mix)
    of_semi: dict[str, Any] = {"beta": str(settings.beta) if settings.beta == float("inf") else settings.beta, **mix}
    names = (*_TARGET, "lr", "semi_iterations", "reference", "warmup", "noise")
    semi = step("semi", {**before, **on(made)}, *names, **of_semi)
    for number in range(1, settings.rounds):
        made = step("pseudo", {**makers, "teacher": semi}, *_PSEUDO, round_=number, **once)
        semi = step("semi", {"start": semi, **on(made)}, *names, round_=number, **of_semi)
    if settings.fine_iterations == 0:
        return semi
    of_fine = {"iterations": settings.fine_iterations, "batch": batch}
    of_guide = {key: value for key, value in before.items() if key == "guide"}
    return step("finetune", {**of_guide, "start": semi}, *_TARGET, "fine_lr", "augment", **of_fine)


def shared_batch(settings: Settings) -> dict[str, int]:
    """Samples of each source in a batch of pairs, pseudo pairs and unlabelled inputs: as many as without the last."""
    return {
        "real_per_batch": settings.real_per_batch,
        "pseudo_per_batch": settings.pseudo_per_batch - settings.unlabelled_per_batch,
        "unlabelled_per_batch": settings.unlabelled_per_batch,
    }


def _task_of(data: Step) -> Mapping[str, Any]:
    """What the option file says of the task that data are of."""
    while data.kind == "fold":
        data = data.needs["data"]
    task: Mapping[str, Any] = data.settings.get("task", {})
    return task


def _has_unlabelled(data: Step) -> bool:
    """Whether the task has unlabelled inputs."""
    return bool(_task_of(data).get("unlabelled"))


def tested(trained: Sequence[Step], kinds: Sequence[str] = ()) -> Step:
    """The test of a network, or of the mean of several networks' outputs, at full resolution.

    Args:
        trained: Jobs of `chain`.
        kinds: Of their systems; of ``f_isp_global``, f_ISP's global network is meant.
    """
    first = trained[0]
    parts = ["global" if kind == "f_isp_global" else "network" for kind in kinds or [""] * len(trained)]
    networks = {f"{part} {k}": step for k, (part, step) in enumerate(zip(parts, trained, strict=True))}
    needs = {"data": first.needs["data"], **networks}
    return Step("test", first.seed, {}, first.root, needs, first.quiet)


def judged(trained: Step) -> Step | None:
    """The test of what makes the pseudo inputs of a system by itself; None of a system that has none.

    Args:
        trained: A job of `chain`.
    """
    made = next((job for job in trained.with_before() if job.kind == "pseudo"), None)
    if made is None:
        return None
    # What it is by itself does not depend on the size at which a target is trained.
    settings = {name: made.settings[name] for name in _DRAWN if name != "size" or made.settings["lookalikes"]}
    needs = {**made.needs, "data": made.needs["f_isp"].needs["data"]}
    return Step("judge", made.seed, settings, made.root, needs, made.quiet)


def in_full_size(data: Step) -> Step:
    """The same data, not shrunken; photographs for simulated pairs to the size of these.

    Larger ones would show things at another scale than the pairs do, and take a source of pseudo inputs that is a deep
    network hours on a CPU.
    """
    if data.kind == "fold":
        return replace(data, needs={"data": in_full_size(data.needs["data"])})
    task = data.settings["task"]
    short_side = min(task["simulated_size"]) if task["type"] == "simulation" else None
    return replace(data, settings={**data.settings, "task": {**task, "short_side": short_side}})


def fold_of(data: Step, fold: int, folds: int) -> Step:
    """The data of one fold of a cross-validation over the labelled pairs."""
    return Step("fold", data.seed, {"fold": fold, "folds": folds}, data.root, {"data": data}, data.quiet)


def choice(kind: str, candidates: Sequence[Step], in_folds: Sequence[Sequence[Step]]) -> Step:
    """The test of what cross-validation makes of several candidates.

    Args:
        kind: ``choose``: the best of them; ``weigh``: the best weighted mean of their outputs.
        candidates: Of the whole of the labelled pairs; each a job of `tested`.
        in_folds: Of each candidate, its tests in all folds.
    """
    first = candidates[0]
    needs = {"data": first.needs["data"], **{str(k): step for k, step in enumerate(candidates)}}
    if kind == "weigh":
        needs["weights"] = weights_of(first.needs["data"], in_folds)
    else:
        needs.update(_of_folds(in_folds))
    return Step(kind, first.seed, {"candidates": len(candidates)}, first.root, needs, first.quiet)


def weights_of(data: Step, in_folds: Sequence[Sequence[Step]]) -> Step:
    """The weights of candidates' outputs that make their mean best in cross-validation.

    Args:
        data: The whole of the labelled pairs.
        in_folds: Of each candidate, its tests in all folds.
    """
    needs = {"data": data, **_of_folds(in_folds)}
    return Step("weights", data.seed, {"candidates": len(in_folds)}, data.root, needs, data.quiet)


def _of_folds(in_folds: Sequence[Sequence[Step]]) -> dict[str, Step]:
    return {f"{k} fold {fold}": step for k, tests in enumerate(in_folds) for fold, step in enumerate(tests)}


# --- options of the trainings ----------------------------------------------------------------------------------------

METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False},
    "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
}
_NOISE = {
    "paper": {"shot_variance": SHOT_VARIANCE, "read_variance": READ_VARIANCE},
    "estimated": "estimated",
}
_RIVALS: dict[str, str] = {
    "mean_teacher": "MeanTeacherModel",
    "noise_consistency": "MeanTeacherModel",
    "mixmatch": "MixMatchModel",
    "adversarial": "AdversarialModel",
    "label_bank": "LabelBankModel",
    "latent_teacher": "LatentTeacherModel",
}
_MODELS = {"f_isp": "ISPModel", "semi": "SemiSupervisedModel", **_RIVALS}  # else supervised
_OF_TARGET = ("supervised", "pseudo_only", "semi", "finetune", *_RIVALS)


def f_isp_network(s: Settings, image_enhancement: bool) -> dict[str, Any]:
    """Section of f_ISP's local network."""
    return {
        "type": "PQDynamicISP",
        "inverse_tone_mapping": image_enhancement,
        "thumbnail": s.isp_thumbnail,
        "dropout": s.isp_dropout,
        "grid": list(s.isp_grid),
    }


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


def _options(step: Step, s: Settings, pairs: PairData, network: Any, **training: Any) -> dict[str, Any]:
    """Options of a training on ``pairs``; ``training`` is the section ``train``."""
    total = training["total_iter"]
    return {
        "name": "run",
        "model_type": _MODELS.get(step.kind, "SupervisedModel"),
        "scale": 1,
        "num_gpu": "auto",
        "manual_seed": step.seed,
        "datasets": {
            "train": _pairs(pairs, s, gt_size=list(s.size), use_hflip=True, num_worker_per_gpu=s.loader_workers)
        },
        "network_g": deepcopy(network),
        "path": {},
        "train": {"scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 1e-3}, **training},
        "logger": {
            "print_freq": max(1, total // 20),
            "save_checkpoint_freq": total + 1,
            "use_tb_logger": False,
        },
    }


def _f_isp_options(step: Step, s: Settings, data: Data) -> dict[str, Any]:
    """Phase 1."""
    network = f_isp_network(s, step.settings["image_enhancement"])
    options = _options(
        step,
        s,
        data.labelled,
        network,
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


def _source_options(step: Step, data: Data) -> dict[str, Any]:
    """A network that makes inputs of targets: the pairs reversed."""
    s = step_settings(step.settings)
    options = _options(
        step,
        s,
        PairData(data.labelled.target, data.labelled.input),
        s.source_network,
        total_iter=s.source_iterations,
        warmup_iter=s.source_iterations // 20,
        grad_clip=1.0,
        optim_g={"type": "AdamW", "lr": s.source_lr},
        own_loss={},
    )
    options["datasets"]["train"]["batch_size_per_gpu"] = s.source_batch
    if s.source_size is not None:
        options["datasets"]["train"]["gt_size"] = list(s.source_size)
    return options


def _target_options(step: Step, data: Data) -> dict[str, Any]:
    """Whatever trains the target network: phases 2 and 3, and the baselines."""
    s, kind = step_settings(step.settings), step.kind
    made = _pseudo_data(step.needs["pseudo"].folder) if "pseudo" in step.needs else None
    labelled = data.labelled if "guide" not in step.needs else _guided_data(step.needs["guide"].folder)
    total = s.semi_iterations if kind == "semi" else step.settings["iterations"]
    is_flow = s.network["type"] in networks_with_likelihood()  # type: ignore[index]  # `chain` has put its section there
    options = _options(
        step,
        s,
        made if kind == "pseudo_only" and made else labelled,
        s.network,
        total_iter=total,
        optim_g={"type": "AdamW", "lr": s.fine_lr if kind == "finetune" else s.lr},
        ema_decay=s.ema_decay,
        **({"likelihood": {}} if is_flow else {"pixel_opt": {"type": "MSELoss"}}),
    )
    if s.network["type"] == "PQDynamicISP":  # type: ignore[index]  # `chain` has put its section there
        options["train"].update(grad_clip=1.0, warmup_iter=total // 20)
    train_set, training = options["datasets"]["train"], options["train"]
    if "start" in step.needs:
        start = step.needs["start"]
        part = "net_global" if start.kind == "f_isp" and step.settings["network"]["grid"] == [1, 1] else "net_g"
        options["path"] = {"pretrain_network_g": str(run_folder(start) / f"{part}_latest.pth")}
    if s.table_penalty:
        training["table_penalty"] = {}
    if s.loss == "mse_ssim" and not is_flow:
        training["ssim_opt"] = {"type": "SSIMLoss", "loss_weight": 1.0}
    if kind not in _RIVALS and (made is None or kind == "pseudo_only"):
        train_set["batch_size_per_gpu"] = step.settings["batch"]
        if s.augment:
            training["photometric_jitter"] = s.augment
        return options
    train_set.update(type="SemiSupervisedDataset", real_per_batch=s.real_per_batch)
    if made is not None:
        train_set["pseudo_per_batch"] = s.pseudo_per_batch
        train_set["pseudo"] = {
            "dataroot_gt": str(made.target),
            "dataroot_lq": str(made.input),
            "io_backend": {"type": "lmdb" if str(made.target).endswith(".lmdb") else "disk"},
            "cache_images": s.cache_images,
        }
        if not made.input.exists():
            train_set.update(type="OnlineSemiSupervisedDataset", pseudo={"build": str(made.input.parent)})
    if data.unlabelled is not None and (kind in _RIVALS or s.consistency):
        train_set["unlabelled_per_batch"] = s.pseudo_per_batch if made is None else s.unlabelled_per_batch
        train_set["unlabelled"] = {
            "dataroot_lq": str(data.unlabelled),
            "io_backend": {"type": "disk"},
            "cache_images": s.cache_images,
        }
    rampup = {"rampup_iter": max(1, total // 4)}
    if made is not None and s.noise != "none":
        training["noise"] = deepcopy(_NOISE[s.noise])
    if kind in _RIVALS:
        if kind not in ("mixmatch", "adversarial"):
            training["ema_decay"] = s.ema_decay or 0.99
        training.update(_of_rival(kind, rampup, s))
        return options
    if s.consistency:
        training["ema_decay"] = s.ema_decay or 0.99
        training["consistency"] = {**rampup, "jitter": s.augment or 0.2}
    training["filter"] = {"beta": s.beta, "reference": s.reference, "warmup_iter": s.warmup}
    return options


def _of_rival(kind: str, rampup: Mapping[str, int], s: Settings) -> dict[str, Any]:
    """What the section ``train`` of a `Rival` has of its own."""
    jitter = {"jitter": s.augment or 0.2}
    if kind == "mixmatch":
        return {"mixmatch": dict(rampup)}
    if kind == "adversarial":  # weight, rate and width: of this loss and size (ours)
        of_d = {"optim_d": {"type": "Adam", "lr": 1e-4}, "width": 16}
        return {"adversarial": {**rampup, "weight": 0.01, "quality": 0.5, **of_d}}
    if kind == "label_bank":
        return {"label_bank": {**rampup, **jitter}}
    if kind == "latent_teacher":
        latent = s.latent or LATENTS[s.network["type"]]  # type: ignore[index]  # as above
        return {"latent_teacher": {**rampup, **jitter, "latent": latent}}
    if kind == "noise_consistency":
        return {"mean_teacher": {**rampup, "jitter": 0.0, "student_noise": deepcopy(_NOISE["paper"])}}
    return {"mean_teacher": {**rampup, **jitter}}


# --- doing them -------------------------------------------------------------------------------------------------------


@cache
def source_fingerprint() -> str:
    """Hash of the Python files that results depend on: results of one fingerprint are of one code."""
    root = Path(__file__).resolve().parents[1]
    parts = ("archs", "data", "isp", "losses", "metrics", "models", "pseudo", "simulation", "training")
    files = [path for part in parts for path in (root / part).rglob("*.py")]
    files += [root / "experiments" / f"{name}.py" for name in ("benchmark_data", "benchmark_jobs", "tried")]
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
    s = step.settings
    if step.kind == "data":
        make_data(msgspec.convert(s["task"], Task), step.folder / "data", n_pairs=s["n_pairs"], seed=step.seed)
        return {}
    data = step.needs["data"].data()
    if step.kind == "fold":
        make_fold(data, step.folder / "data", s["fold"], s["folds"])
        return {}
    if step.kind == "f_isp":
        return _train(_f_isp_options(step, step_settings(s), data), step, progress)
    if step.kind == "source":
        return _train(_source_options(step, data), step, progress)
    if step.kind == "pseudo":
        return _pseudo(step, data, progress)
    if step.kind == "judge":
        return _judge(step, data)
    if step.kind == "guide":
        return _guide(step, data)
    if step.kind == "test":
        return _test(step, data.test, [(1.0, mean_networks(step))])
    if step.kind == "choose":
        return _choose(step)
    if step.kind == "weights":
        return _weights(step)
    if step.kind == "weigh":
        return _weigh(step, data)
    return _train(_target_options(step, data), step, progress)


def run_folder(step: Step) -> Path:
    """The weights of a job that trains."""
    return step.folder / "experiments" / "run" / "models"


def _train(options: dict[str, Any], step: Step, progress: bool) -> dict[str, Any]:
    """Train, and collect the kept ratio."""
    folder = step.folder
    # One GPU a worker, also where there are more: with several, the batch would be another.
    options["num_gpu"] = min(1, torch.cuda.device_count())
    options["logger"]["use_tb_logger"] = not step.quiet
    total = options["train"]["total_iter"]
    options["logger"]["save_checkpoint_freq"] = max(1, -(-total // _STATES)) if total >= 2000 else total + 1
    # A run that is resumed adds to what was seen before it.
    seen = folder / "seen.jsonl"
    resumes = any((folder / "experiments" / "run" / "training_states").glob("*.state"))
    if not resumes:
        seen.unlink(missing_ok=True)
    with seen.open("a", encoding="utf-8") as file:
        file.write("\n")  # whatever a full disk or a kill cut short stands in a line of its own

        def note(iteration: int, values: Mapping[str, Any]) -> None:
            if "pseudo/kept_ratio" in values:
                file.write(json.dumps([iteration, float(values["pseudo/kept_ratio"])]) + "\n")
                file.flush()

        started = time.time()
        source = options_module.Source(f"options of {step.key}")
        train(
            options_module.complete(options, source, root_path=str(folder), is_train=True),
            auto_resume=resumes,
            progress=progress,
            quiet=True,
            on_log=note,
        )
        seconds = time.time() - started
    kept = {}  # of what a resumed run did again, the later line counts
    for line in seen.read_text(encoding="utf-8").splitlines():
        try:
            iteration, share = json.loads(line)
        except ValueError:
            continue  # the resumed run does again what followed its latest state
        kept[iteration] = share
    return {"kept_ratio": sorted(kept.items()), "train_seconds": seconds}


def _network(step: Step, name: str = "net_g") -> torch.nn.Module:
    """What a training has made, behind the f_ISP that its inputs go through."""
    network = load_network(weights=run_folder(step) / f"{name}_latest.pth").network.eval()
    if "guide" not in step.needs:
        return network
    return torch.nn.Sequential(_network(step.needs["guide"].needs["f_isp"]), network)


def mean_networks(test: Step) -> list[torch.nn.Module]:
    """Those whose mean output a job of `tested` tests."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [
        _network(need, "net_global" if part.startswith("global") else "net_g").to(device)
        for part, need in test.needs.items()
        if part != "data"
    ]


@torch.no_grad()
def _mean_output(networks: Sequence[torch.nn.Module], image: Tensor) -> Tensor:
    """``(1, 3, H, W)`` to the same, in [0, 1]."""
    image = image.to(next(networks[0].parameters()).device)
    return torch.stack([network(image).clamp(0, 1) for network in networks]).mean(0).cpu()


def weighted_output(parts: Sequence[tuple[float, list[torch.nn.Module]]], image: Tensor) -> Tensor:
    """The weighted mean of mean outputs, ``(1, 3, H, W)`` in [0, 1]."""
    return torch.stack([weight * _mean_output(networks, image) for weight, networks in parts]).sum(0)


def _test(step: Step, test: Sequence[Pair], parts: Sequence[tuple[float, list[torch.nn.Module]]]) -> dict[str, Any]:
    """PSNR and SSIM of every test image, at full resolution; the first few outputs are kept, shrunk to be looked at.

    Args:
        step: Has the folder for them.
        test: The pairs.
        parts: Networks, and the weight of their mean output in the result.
    """
    folder = step.folder / "outputs"
    folder.mkdir(exist_ok=True)
    scores: dict[str, list[Any]] = {"images": [], "psnr": [], "ssim": []}
    for k, pair in enumerate(test):
        image, target = (to_tensor(picture)[None] for picture in read_pair(pair))
        output = weighted_output(parts, image)
        values = measure(output[0], target[0], METRICS)
        scores["images"].append(pair.key)
        for name in METRICS:
            scores[name].append(values[name] if math.isfinite(values[name]) else None)
        if k < OUTPUTS:
            write_image(folder / f"{k}.png", shrink_short_side(picture(output), _SHOWN))
    return scores


def picture(batch: Tensor) -> np.ndarray:
    """The first image of ``(N, 3, H, W)`` in [0, 1] as (H, W, 3) ``uint8``."""
    return to_uint8(batch[0].permute(1, 2, 0).numpy())


def _choose(step: Step) -> dict[str, Any]:
    """The test scores of the candidate of the best mean PSNR over all folds' test images."""
    means = []
    for k in range(step.settings["candidates"]):
        of_candidate = [need for part, need in step.needs.items() if part.startswith(f"{k} fold")]
        psnr = [value for need in of_candidate for value in need.record.read()["result"]["psnr"]]
        means.append(-math.inf if None in psnr else statistics.fmean(psnr))
    best = means.index(max(means))
    return {**step.needs[str(best)].record.read()["result"], "chosen": best, "means": means}


def _weights(step: Step) -> dict[str, Any]:
    """The weights, and what they are found from: of each image, mean products of the candidates' errors."""
    count = step.settings["candidates"]
    folds = [[need for part, need in step.needs.items() if part.startswith(f"{k} fold")] for k in range(count)]
    products, images = [], []
    for tests in zip(*folds, strict=True):
        candidates = [mean_networks(test) for test in tests]
        for pair in tests[0].needs["data"].data().test:
            image, target = (to_tensor(picture)[None] for picture in read_pair(pair))
            errors = torch.stack([(_mean_output(networks, image) - target).flatten() for networks in candidates])
            products.append((errors.double() @ errors.double().T / errors.shape[1]).numpy())
            images.append(pair.key)
    return {
        "weights": best_weights(np.stack(products)),
        "images": images,
        "products": [product.tolist() for product in products],
    }


def _weigh(step: Step, data: Data) -> dict[str, Any]:
    """The test scores of the candidates' weighted mean."""
    weights = step.needs["weights"].record.read()["result"]["weights"]
    networks = [mean_networks(step.needs[str(k)]) for k in range(step.settings["candidates"])]
    return {**_test(step, data.test, list(zip(weights, networks, strict=True))), "weights": weights}


def compare_outputs(title: str, tests: Mapping[str, Step], count: int) -> Pictures:
    """Test images as networks render them, each with its PSNR in dB: the input, the outputs, the target.

    Args:
        title: Of the pictures.
        tests: Jobs of `tested` or `choice` on one data set, by what they are called.
        count: How many images at most; there are outputs of the first 8.
    """
    rows = []
    shown = {
        name: test.needs[str(test.record.read()["result"]["chosen"])] if test.kind == "choose" else test
        for name, test in tests.items()
    }
    pairs = next(iter(shown.values())).needs["data"].data().test[: min(count, OUTPUTS)]
    for k, pair in enumerate(pairs):
        image, target = (to_float(shrink_short_side(picture, _SHOWN)) for picture in read_pair(pair))
        cells = [_visible(image)]
        for test in shown.values():
            psnr = test.record.read()["result"]["psnr"][k]
            output = read_image(test.folder / "outputs" / f"{k}.png", bit_depth="8")
            cells.append((output, "no number" if psnr is None else f"{psnr:.2f} dB"))
        rows.append((pair.key, [*cells, (to_uint8(target), "")]))
    return Pictures(title, ("input", *tests, "target"), rows)


def _middle(picture: np.ndarray) -> np.ndarray:
    """At most `_JUDGED` rows and columns of a picture (H, W, 3)."""
    top, left = (max(0, (side - _JUDGED) // 2) for side in picture.shape[:2])
    return picture[top : top + _JUDGED, left : left + _JUDGED]


def compare_draws(title: str, judges: Mapping[str, Step]) -> Pictures:
    """What sources draw for the first test picture: the real input and the target, then some draws of each.

    Args:
        title: Of the pictures.
        judges: Jobs of `judged` on one data set, by what they are called.
    """
    pair = next(iter(judges.values())).needs["data"].data().test[0]
    side = _task_of(next(iter(judges.values())).needs["data"]).get("short_side")
    image, target = (to_float(_middle(shrink_short_side(picture, side))) for picture in read_pair(pair))
    rows: list[tuple[str, list[tuple[np.ndarray, str]]]] = [
        (pair.key, [(_visible(image)[0], "real input"), (to_uint8(target), "target")])
    ]
    for name, judge in judges.items():
        drawn = [read_image(judge.folder / f"{k}.png", bit_depth="8") for k in range(_DRAWS_SHOWN)]
        rows.append((name, [_visible(to_float(one), like=image) for one in drawn]))
    return Pictures(title, tuple(f"draw {k + 1}" for k in range(_DRAWS_SHOWN)), rows)


def _visible(image: np.ndarray, like: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """An input as it is shown, and what is said of it: dark ones, by the mean of ``like``, are brightened."""
    dark = (image if like is None else like).mean() < 0.2
    return to_uint8(image ** (1 / 2.2) if dark else image), "gamma 2.2" if dark else ""


def _drawn_with(step: Step, data: Data) -> tuple[PseudoPairGenerator, dict[str, Any], dict[str, Any]]:
    """What makes pseudo pairs: the generator, the options `DRAWN_WITH`, and the files by the keys of `COPIES`."""
    s = step_settings(step.settings)
    checkpoints = {
        part: run_folder(need) / "f_isp_latest.pth" for part, need in step.needs.items() if need.kind == "f_isp"
    }
    drawn: dict[str, Any] = {name: getattr(s, name) for name in ("sets", "update_quality", "source", "candidates")}
    files: dict[str, Any] = {"f_isp": checkpoints["f_isp"]}
    if "source" in step.needs:
        files["source_network"] = run_folder(step.needs["source"]) / "net_g_latest.pth"
        drawn["source"] = "network"
    generators = {part: make_generator(**{**files, "f_isp": file}, **drawn) for part, file in checkpoints.items()}
    generator = generators.pop("f_isp")
    if generators:
        generator = generator_of_folds(list(generators.values()))
    if s.lookalikes:
        generator.second = _lookalikes(step, data, generator, s)
    if "teacher" in step.needs:
        teacher = load_network(weights=run_folder(step.needs["teacher"]) / "net_g_latest.pth").network
        generator.network = teacher.eval()  # type: ignore[assignment]  # its network is f_ISP's
    return generator, drawn, files


def _pseudo(step: Step, data: Data, progress: bool) -> dict[str, Any]:
    s = step_settings(step.settings)
    generator, drawn, files = _drawn_with(step, data)
    how = PseudoOptions(
        name=step.key,
        photographs=str(data.photos),
        f_isp=str(files["f_isp"]),
        source_network=str(files["source_network"]) if "source_network" in files else None,
        out=str(step.folder / "pseudo"),
        manual_seed=step.seed,
        mode="online" if s.online else "stored",
        max_photographs=s.photographs,
        draws=s.draws,
        input_bits=s.input_bits,
        **drawn,
        num_gpu=int(torch.cuda.is_available()),
        workers=0,
    )
    report = build_pseudo_lmdb(how, generator, inputs=fingerprints(files), progress=progress)
    if s.online:
        keep_copies(how.out, files)
    return {"clipped": report.clipped, "written": report.written + report.kept}


@torch.no_grad()
def _judge(step: Step, data: Data) -> dict[str, Any]:
    """See `semiisp_plugin.report.benchmark_results.SourceCell`: the middle of pictures in f_ISP's training size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = _drawn_with(step, data)[0].to(device)
    side = _task_of(step.needs["data"]).get("short_side")
    errors, casts, real_casts = [], [], []
    for k, pair in enumerate(data.test):
        image, target = (to_tensor(_middle(shrink_short_side(picture, side))) for picture in read_pair(pair))
        draw = torch.Generator().manual_seed(step.seed + 1_000_003 * k)
        several = (target * 255).round().to(torch.uint8).expand(DRAWS, -1, -1, -1).contiguous()
        made = generator.generate_input(several.to(device), draw).input.cpu()
        if k == 0:
            for number, one in enumerate(made[:_DRAWS_SHOWN]):
                write_image(step.folder / f"{number}.png", to_uint8(one.permute(1, 2, 0).numpy()))
        errors.append((made - image).square().mean((1, 2, 3)))
        of_target = (target.mean((1, 2)) + _DARKEST).log2()
        casts.append((made.mean((2, 3)) + _DARKEST).log2() - of_target)
        real_casts.append((image.mean((1, 2)) + _DARKEST).log2() - of_target)
    psnr = -10 * torch.stack(errors).clamp_min(1e-10).log10()
    return {
        "psnr": psnr.mean().item(),
        "best": psnr.amax(1).mean().item(),
        "spread": torch.cat(casts).std(0, correction=0).mean().item(),
        "real_spread": torch.stack(real_casts).std(0, correction=0).mean().item(),
    }


def _lookalikes(step: Step, data: Data, generator: PseudoPairGenerator, s: Settings) -> LookalikeInverse:
    global_network = load_network(weights=run_folder(step.needs["f_isp"]) / "net_global_latest.pth").network
    pairs = [read_pair(pair) for pair in match_pairs(data.labelled.input, data.labelled.target)]
    inputs, targets = ([to_tensor(pair[k]) for pair in pairs] for k in (0, 1))
    return LookalikeInverse(generator.first, global_network, inputs, targets, s.size, s.lookalikes)  # type: ignore[arg-type]


def _pseudo_data(folder: Path) -> PairData:
    """Of a job that makes pseudo pairs, or takes them through f_ISP."""
    made = folder / "pseudo"
    return PairData(made / "lq.lmdb", made / "gt.lmdb") if made.is_dir() else _guided_data(folder)


def _guided_data(folder: Path) -> PairData:
    return PairData(folder / "guided" / "input", folder / "guided" / "target")


@torch.no_grad()
def _guide(step: Step, data: Data) -> dict[str, Any]:
    """Pairs whose inputs are f_ISP's outputs, with 16 bits: of the labelled ones, or of pseudo pairs."""
    network = _network(step.needs["f_isp"])
    source = _pseudo_data(step.needs["pseudo"].folder) if "pseudo" in step.needs else data.labelled
    made = _guided_data(step.folder)
    for folder in (made.input, made.target):
        folder.mkdir(parents=True, exist_ok=True)
    for k, pair in enumerate(match_pairs(source.input, source.target)):
        image, target = read_pair(pair)
        output = network(to_tensor(image)[None])[0].permute(1, 2, 0).clamp(0, 1).numpy()
        write_image(made.input / f"{k:06d}.png", to_uint16(output))
        write_image(made.target / f"{k:06d}.png", target)
    return {}
