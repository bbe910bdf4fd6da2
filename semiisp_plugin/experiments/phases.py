"""Option dictionaries of the phases and the baselines, and running them: what the demo and the benchmark share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semiisp_plugin import options as options_module
from semiisp_plugin.training import train

METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False},
    "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
}


@dataclass(frozen=True)
class PairData:
    """Folders (or LMDBs) of pairs."""

    input: Path
    target: Path


@dataclass(frozen=True)
class PhaseSettings:
    """What the phases and the baselines are run with; the defaults are those of the demo, and ours.

    Attributes:
        size: (height, width) of training crops, pixels.
        image_enhancement: f_ISP with inverse tone mapping (sRGB inputs).
        isp_iterations: Phase 1.
        isp_lr: Its peak learning rate.
        isp_batch: Its samples a batch.
        isp_loss: ``mse``, or ``pooled_l1`` (eq. 14) for noisy inputs. The paper's VGG loss (eq. 5) is left out: its
            weights are not always at hand.
        isp_grid: Grid (height, width) of the local network.
        isp_thumbnail: Side of the encoder's thumbnail, pixels.
        isp_dropout: Of the encoder; ours.
        isp_weight_decay: Of AdamW.
        isp_jitter: Strength of photometric augmentation of its inputs; ours.
        semi_iterations: Phase 2.
        fine_iterations: Phase 3; 0 leaves it out.
        real_per_batch: N_r.
        pseudo_per_batch: N_p.
        beta: Of the filter (eq. 12); infinity switches it off.
        reference: Reference loss of the filter, see `semiisp_plugin.losses.pseudo_filter.PseudoFilter`.
        warmup: Iterations at the start of phase 2 in which the filter drops nothing; ours.
        noise: Upper bounds (shot, read) of the variances of eq. 15, ``estimated`` from the pairs, or None.
        lr: Peak learning rate of the target network, in every system that trains it but phase 3.
        fine_lr: Peak learning rate of phase 3.
        ema_decay: Of the target network's weights.
        jitter: Strength of the photometric augmentation of a supervised baseline.
        loss: ``mse``, or ``mse_ssim`` (Table 6, with denoising).
        network: The target network's section.
        cache_images: Keep decoded images in memory.
        loader_workers: Processes that read images; 0 reads them in the training process.
        evaluations: How often a run is validated, evenly over its iterations.
        tensorboard: Write TensorBoard files.
    """

    size: tuple[int, int] = (96, 128)
    image_enhancement: bool = False
    isp_iterations: int = 400
    isp_lr: float = 3e-3
    isp_batch: int = 4
    isp_loss: str = "mse"
    isp_grid: tuple[int, int] = (2, 2)
    isp_thumbnail: int = 64
    isp_dropout: float = 0.0
    isp_weight_decay: float = 0.01
    isp_jitter: float | None = None
    semi_iterations: int = 600
    fine_iterations: int = 200
    real_per_batch: int = 2
    pseudo_per_batch: int = 8
    beta: float = 1.0
    reference: str = "batch"
    warmup: int = 0
    noise: tuple[float, float] | str | None = None
    lr: float = 1e-3
    fine_lr: float = 2e-4
    ema_decay: float = 0.0
    jitter: float | None = 0.2
    loss: str = "mse"
    network: dict[str, Any] = field(
        default_factory=lambda: {
            "type": "SepLUT",
            "n_vertices_3d": 9,
            "n_vertices_1d": 9,
            "thumbnail": 64,
            "identity_start": True,
        }
    )
    cache_images: bool = True
    loader_workers: int = 0
    evaluations: int = 1
    tensorboard: bool = True

    @property
    def batch(self) -> int:
        """Samples a batch, of every system that trains the target network."""
        return self.real_per_batch + self.pseudo_per_batch


def _training_set(kind: str, s: PhaseSettings, data: PairData, **more: Any) -> dict[str, Any]:
    return _dataset(
        kind,
        data,
        gt_size=list(s.size),
        use_hflip=True,
        cache_images=s.cache_images,
        num_worker_per_gpu=s.loader_workers,
        **more,
    )


def _dataset(kind: str, data: PairData, **more: Any) -> dict[str, Any]:
    backend = "lmdb" if str(data.target).endswith(".lmdb") else "disk"
    return {
        "name": "pairs",
        "type": kind,
        "dataroot_lq": str(data.input),
        "dataroot_gt": str(data.target),
        "io_backend": {"type": backend},
        **more,
    }


def _options(
    s: PhaseSettings,
    name: str,
    model: str,
    train_set: dict[str, Any],
    evaluation: Mapping[str, PairData],
    seed: int,
    training: dict[str, Any],
) -> dict[str, Any]:
    total = training["total_iter"]
    sets = {
        f"val_{key}": _dataset("PairedRestorationDataset", data, name=key, cache_images=s.cache_images)
        for key, data in evaluation.items()
    }
    return {
        "name": name,
        "model_type": model,
        "scale": 1,
        "num_gpu": "auto",
        "manual_seed": seed,
        "datasets": {"train": train_set, **sets},
        "path": {},
        "train": training,
        "val": {"val_freq": max(1, total // s.evaluations), "save_img": False, "metrics": deepcopy(METRICS)},
        "logger": {
            "print_freq": max(1, total // 20),
            "save_checkpoint_freq": total + 1,
            "use_tb_logger": s.tensorboard,
            "image_freq": max(1, total // 4),
        },
    }


def isp_options(s: PhaseSettings, pairs: PairData, evaluation: Mapping[str, PairData], seed: int) -> dict[str, Any]:
    """Phase 1."""
    train_set = _training_set("PairedRestorationDataset", s, pairs, batch_size_per_gpu=s.isp_batch)
    loss = {"type": "PooledL1Loss"} if s.isp_loss == "pooled_l1" else {"type": "MSELoss"}
    training = {
        "total_iter": s.isp_iterations,
        "warmup_iter": s.isp_iterations // 20,
        "grad_clip": 1.0,
        # The last fifth of training, in which the learning rate is small: the sets of Table 5's N = 5000 are its
        # last twelfth.
        "bank_size": s.isp_batch * max(1, s.isp_iterations // 5),
        "optim_g": {"type": "AdamW", "lr": s.isp_lr, "weight_decay": s.isp_weight_decay},
        "scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 1e-3},
        "pixel_opt": loss,
    }
    if s.isp_jitter:
        training["photometric_jitter"] = s.isp_jitter
    options = _options(s, "1_fisp", "ISPModel", train_set, evaluation, seed, training)
    network = {
        "type": "PQDynamicISP",
        "inverse_tone_mapping": s.image_enhancement,
        "thumbnail": s.isp_thumbnail,
        "dropout": s.isp_dropout,
    }
    options["network_g"] = {**network, "grid": list(s.isp_grid)}
    options["network_global"] = {**network, "grid": [1, 1]}
    return options


def _target_options(
    s: PhaseSettings,
    name: str,
    model: str,
    train_set: dict[str, Any],
    evaluation: Mapping[str, PairData],
    seed: int,
    total: int,
    lr: float,
) -> dict[str, Any]:
    training = {
        "total_iter": total,
        "optim_g": {"type": "AdamW", "lr": lr},
        "scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 1e-3},
        "pixel_opt": {"type": "MSELoss"},
        "ema_decay": s.ema_decay,
    }
    if s.loss == "mse_ssim":
        training["ssim_opt"] = {"type": "SSIMLoss", "loss_weight": 1.0}
    options = _options(s, name, model, train_set, evaluation, seed, training)
    options["network_g"] = deepcopy(s.network)
    return options


def _mixed_set(s: PhaseSettings, pairs: PairData, pseudo: str) -> dict[str, Any]:
    return _training_set(
        "SemiSupervisedDataset",
        s,
        pairs,
        real_per_batch=s.real_per_batch,
        pseudo_per_batch=s.pseudo_per_batch,
        pseudo={
            "dataroot_gt": os.path.join(pseudo, "gt.lmdb"),
            "dataroot_lq": os.path.join(pseudo, "lq.lmdb"),
            "io_backend": {"type": "lmdb"},
            "cache_images": s.cache_images,
        },
    )


def semi_options(
    s: PhaseSettings, pairs: PairData, pseudo: str, evaluation: Mapping[str, PairData], seed: int
) -> dict[str, Any]:
    """Phase 2."""
    train_set = _mixed_set(s, pairs, pseudo)
    options = _target_options(s, "2_semi", "SemiSupervisedModel", train_set, evaluation, seed, s.semi_iterations, s.lr)
    options["train"]["filter"] = {"beta": s.beta, "reference": s.reference, "warmup_iter": s.warmup}
    if isinstance(s.noise, str):
        options["train"]["noise"] = s.noise
    elif s.noise:
        options["train"]["noise"] = {"shot_variance": s.noise[0], "read_variance": s.noise[1]}
    return options


def mean_teacher_options(
    s: PhaseSettings, pairs: PairData, pseudo: str, evaluation: Mapping[str, PairData], seed: int, iterations: int
) -> dict[str, Any]:
    """The mean-teacher baseline: pseudo inputs as unlabelled data."""
    train_set = _mixed_set(s, pairs, pseudo)
    options = _target_options(s, "mean_teacher", "MeanTeacherModel", train_set, evaluation, seed, iterations, s.lr)
    options["train"]["ema_decay"] = s.ema_decay or 0.99
    options["train"]["mean_teacher"] = {"rampup_iter": max(1, iterations // 4), "jitter": s.jitter or 0.0}
    return options


def supervised_options(
    s: PhaseSettings,
    pairs: PairData,
    evaluation: Mapping[str, PairData],
    seed: int,
    *,
    name: str,
    iterations: int,
    lr: float,
    weights: str | None = None,
    jitter: float | None = None,
) -> dict[str, Any]:
    """Phase 3 (``weights`` of phase 2), or a supervised baseline (from scratch)."""
    train_set = _training_set("PairedRestorationDataset", s, pairs, batch_size_per_gpu=s.batch)
    options = _target_options(s, name, "SupervisedModel", train_set, evaluation, seed, iterations, lr)
    options["path"]["pretrain_network_g"] = weights
    if jitter:
        options["train"]["photometric_jitter"] = jitter
    return options


def run(
    options: dict[str, Any],
    root: str | os.PathLike[str],
    progress: bool,
    *,
    auto_resume: bool = False,
    on_log: Callable[[int, Mapping[str, float]], None] | None = None,
    on_validation: Callable[[int, Mapping[str, Mapping[str, float]]], None] | None = None,
) -> Any:
    """Check, complete and train; what it writes goes below ``root``. Returns the model."""
    source = options_module.Source(f"options of {options['name']}")
    opt = options_module.complete(options, source, root_path=str(root), is_train=True)
    return train(
        opt, progress=progress, quiet=True, auto_resume=auto_resume, on_log=on_log, on_validation=on_validation
    )
