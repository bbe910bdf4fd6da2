"""Settings of the phases and the baselines, and option dictionaries made of them, for the benchmark and the demo."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from semiisp_plugin.options.structures import Count, Positive, Strict
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE

METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False},
    "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
}


@dataclass(frozen=True)
class PairData:
    """Folders (or LMDBs) of pairs."""

    input: Path
    target: Path


class Settings(Strict):
    """Everything that a system can be run with; the defaults are ours.

    Attributes:
        size: (height, width) of training crops, pixels.
        isp_iterations: Phase 1.
        isp_lr: Its peak learning rate.
        isp_batch: Its samples a batch.
        isp_loss: ``mse``, or ``pooled_l1`` (eq. 14) for noisy inputs. The paper's VGG loss (eq. 5) is left out: its
            weights are not always at hand.
        isp_grid: Grid (height, width) of the local network.
        isp_thumbnail: Side of the encoder's thumbnail, pixels.
        isp_dropout: Of the encoder (ours).
        isp_weight_decay: Of AdamW.
        isp_jitter: Strength of photometric augmentation of its inputs (ours).
        isp_early_stop: Take the f_ISP of the best validation PSNR instead of the last one (ours).
        source: sRGB-to-RAW method: ``bank`` (the paper's), ``mixture`` (ours), ``upi``, ``deterministic``.
        sets: ``auto``, ``global`` (whole ISP) or ``local`` (per function).
        update_quality: USQ, steps 1 and 2 of the pseudo-data.
        draws: Pseudo pairs a photograph.
        candidates: Inputs that step 3 makes of each pseudo ground truth, to keep the most consistent (ours).
        semi_iterations: Phase 2.
        fine_iterations: Phase 3.
        fine_tune: Whether phase 3 follows phase 2 (where it has iterations); the systems that train in one go take its
            iterations in any case.
        length: Of systems that train the target in one go, as a share of the iterations of phases 2 and 3 together.
        real_per_batch: N_r.
        pseudo_per_batch: N_p.
        real_share: Real samples as a share of the batch of phase 2, in place of N_r : N_p; at least one of each.
        beta: Of the filter (eq. 12); infinity switches it off.
        reference: Reference loss of the filter, see `semiisp_plugin.losses.pseudo_filter.PseudoFilter`.
        warmup: Iterations at the start of phase 2 in which the filter drops nothing (ours).
        noise: ``none``, ``paper`` (bounds of Sec. A.3), or ``estimated`` from the labelled inputs (ours).
        lr: Peak learning rate of the target network, in every system that trains it but phase 3.
        fine_lr: Peak learning rate of phase 3.
        ema_decay: Of the target network's weights.
        augment: Photometric jitter of the inputs in supervised training, phase 3 included (there it is ours); 0 for
            none.
        loss: ``mse``, or ``mse_ssim`` (Table 6, with denoising).
        network: The target network's section.
        evaluations: How often a run is validated, evenly over its iterations.
        cache_images: Keep decoded images in memory; switch it off where they do not fit.
        loader_workers: Processes that read images in a training; 0 reads them in the training process.
    """

    size: tuple[Positive, Positive] = (64, 96)
    isp_iterations: Positive = 400
    isp_lr: float = 3e-3
    isp_batch: Positive = 4
    isp_loss: Literal["mse", "pooled_l1"] = "mse"
    isp_grid: tuple[Positive, Positive] = (2, 2)
    isp_thumbnail: Positive = 64
    isp_dropout: float = 0.0
    isp_weight_decay: float = 0.01
    isp_jitter: float | None = None
    isp_early_stop: bool = False
    source: Literal["bank", "mixture", "upi", "deterministic"] = "bank"
    sets: Literal["auto", "global", "local"] = "auto"
    update_quality: bool = True
    draws: Positive = 1
    candidates: Positive = 1
    semi_iterations: Positive = 480
    fine_iterations: Count = 120
    fine_tune: bool = True
    length: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    real_per_batch: Positive = 2
    pseudo_per_batch: Positive = 8
    real_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    beta: Annotated[float, msgspec.Meta(extra={"of_signature": True})] = 1.0  # the filter's: it may be infinite
    reference: Literal["batch", "running"] = "batch"
    warmup: Count = 0
    noise: Literal["none", "paper", "estimated"] = "none"
    lr: float = 1e-3
    fine_lr: float = 2e-4
    ema_decay: float = 0.0
    augment: float = 0.0
    loss: Literal["mse", "mse_ssim"] = "mse"
    network: dict[str, Any] = msgspec.field(
        default_factory=lambda: {
            "type": "SepLUT",
            "n_vertices_3d": 9,
            "n_vertices_1d": 9,
            "thumbnail": 64,
            "identity_start": True,
        }
    )
    evaluations: Positive = 8
    cache_images: bool = True
    loader_workers: Count = 0


NOISE = {
    "paper": {"shot_variance": SHOT_VARIANCE, "read_variance": READ_VARIANCE},
    "estimated": "estimated",
}
Evaluation = Mapping[str, PairData]


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


def _training_pairs(data: PairData, s: Settings, **more: Any) -> dict[str, Any]:
    return _pairs(data, s, gt_size=list(s.size), use_hflip=True, num_worker_per_gpu=s.loader_workers, **more)


def _mixed(data: PairData, s: Settings, pseudo: Path) -> dict[str, Any]:
    pseudo_data = {
        "dataroot_gt": str(pseudo / "gt.lmdb"),
        "dataroot_lq": str(pseudo / "lq.lmdb"),
        "io_backend": {"type": "lmdb"},
        "cache_images": s.cache_images,
    }
    mixed = {"type": "SemiSupervisedDataset", "pseudo": pseudo_data}
    return _training_pairs(data, s, real_per_batch=s.real_per_batch, pseudo_per_batch=s.pseudo_per_batch, **mixed)


def _options(
    s: Settings,
    model: str,
    train_set: dict[str, Any],
    evaluation: Evaluation,
    seed: int,
    network: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    total = training["total_iter"]
    return {
        "name": "run",
        "model_type": model,
        "scale": 1,
        "num_gpu": "auto",
        "manual_seed": seed,
        "datasets": {"train": train_set, **{f"val_{key}": _pairs(d, s, name=key) for key, d in evaluation.items()}},
        "network_g": deepcopy(network),
        "path": {},
        "train": {"scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 1e-3}, **training},
        "val": {"val_freq": max(1, total // s.evaluations), "save_img": False, "metrics": deepcopy(METRICS)},
        "logger": {
            "print_freq": max(1, total // 20),
            "save_checkpoint_freq": total + 1,
            "use_tb_logger": False,
            "image_freq": max(1, total // 4),
        },
    }


def f_isp_options(
    s: Settings, pairs: PairData, evaluation: Evaluation, seed: int, image_enhancement: bool
) -> dict[str, Any]:
    """Phase 1; with ``image_enhancement`` f_ISP has inverse tone mapping (sRGB inputs)."""
    training = {
        "total_iter": s.isp_iterations,
        "warmup_iter": s.isp_iterations // 20,
        "grad_clip": 1.0,
        # The last fifth of training, in which the learning rate is small: the sets of Table 5's N = 5000 are its
        # last twelfth.
        "bank_size": s.isp_batch * max(1, s.isp_iterations // 5),
        "optim_g": {"type": "AdamW", "lr": s.isp_lr, "weight_decay": s.isp_weight_decay},
        "pixel_opt": {"type": "PooledL1Loss" if s.isp_loss == "pooled_l1" else "MSELoss"},
    }
    if s.isp_jitter:
        training["photometric_jitter"] = s.isp_jitter
    network = {
        "type": "PQDynamicISP",
        "inverse_tone_mapping": image_enhancement,
        "thumbnail": s.isp_thumbnail,
        "dropout": s.isp_dropout,
    }
    train_set = _training_pairs(pairs, s, batch_size_per_gpu=s.isp_batch)
    local = {**network, "grid": list(s.isp_grid)}
    options = _options(s, "ISPModel", train_set, evaluation, seed, local, training)
    options["network_global"] = {**network, "grid": [1, 1]}
    return options


def _of_target(s: Settings, iterations: int, lr: float) -> dict[str, Any]:
    """Section ``train`` of whatever trains the target network."""
    training = {
        "total_iter": iterations,
        "optim_g": {"type": "AdamW", "lr": lr},
        "pixel_opt": {"type": "MSELoss"},
        "ema_decay": s.ema_decay,
    }
    if s.loss == "mse_ssim":
        training["ssim_opt"] = {"type": "SSIMLoss", "loss_weight": 1.0}
    return training


def semi_options(s: Settings, pairs: PairData, pseudo: Path, evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Phase 2."""
    training = _of_target(s, s.semi_iterations, s.lr)
    training["filter"] = {"beta": s.beta, "reference": s.reference, "warmup_iter": s.warmup}
    if s.noise != "none":
        training["noise"] = deepcopy(NOISE[s.noise])
    return _options(s, "SemiSupervisedModel", _mixed(pairs, s, pseudo), evaluation, seed, s.network, training)


def mean_teacher_options(
    s: Settings, pairs: PairData, pseudo: Path, evaluation: Evaluation, seed: int, iterations: int
) -> dict[str, Any]:
    """The mean-teacher baseline: pseudo inputs as unlabelled data."""
    training = _of_target(s, iterations, s.lr)
    training["ema_decay"] = s.ema_decay or 0.99
    training["mean_teacher"] = {"rampup_iter": max(1, iterations // 4), "jitter": s.augment or 0.2}
    return _options(s, "MeanTeacherModel", _mixed(pairs, s, pseudo), evaluation, seed, s.network, training)


def supervised_options(
    s: Settings,
    pairs: PairData,
    evaluation: Evaluation,
    seed: int,
    iterations: int,
    batch: int,
    weights: Path | None = None,
) -> dict[str, Any]:
    """A supervised baseline (from scratch), or phase 3 (``weights`` of phase 2)."""
    training = _of_target(s, iterations, s.fine_lr if weights else s.lr)
    if s.augment:
        training["photometric_jitter"] = s.augment
    train_set = _training_pairs(pairs, s, batch_size_per_gpu=batch)
    options = _options(s, "SupervisedModel", train_set, evaluation, seed, s.network, training)
    if weights:
        options["path"] = {"pretrain_network_g": str(weights), "param_key_g": "params_ema" if s.ema_decay else "params"}
    return options
