"""Option dictionaries of the three phases and the baselines at toy size, and running them."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semiisp_plugin import options as options_module
from semiisp_plugin.train import train

METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False},
    "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
}


@dataclass(frozen=True)
class PairData:
    """Folders of pairs."""

    input: Path
    target: Path


@dataclass(frozen=True)
class PhaseSettings:
    """Sizes of a small run of all phases.

    Attributes:
        size: (height, width) of training crops, pixels.
        image_enhancement: f_ISP with inverse tone mapping (sRGB inputs).
        isp_iterations: Phase 1.
        semi_iterations: Phase 2.
        fine_iterations: Phase 3.
        real_per_batch: N_r.
        pseudo_per_batch: N_p.
        beta: Of the filter.
        isp_lr: Peak learning rate of phase 1.
        lr: Peak learning rate of the target network, in every system that trains it.
        fine_lr: Peak learning rate of phase 3.
        jitter: Strength of the photometric augmentation of the baseline that has it.
        network: The target network's section.
    """

    size: tuple[int, int] = (96, 128)
    image_enhancement: bool = False
    isp_iterations: int = 400
    semi_iterations: int = 600
    fine_iterations: int = 200
    real_per_batch: int = 2
    pseudo_per_batch: int = 8
    beta: float = 1.0
    isp_lr: float = 3e-3
    lr: float = 1e-3
    fine_lr: float = 2e-4
    jitter: float = 0.2
    network: dict[str, Any] = field(
        default_factory=lambda: {
            "type": "SepLUT",
            "n_vertices_3d": 9,
            "n_vertices_1d": 9,
            "thumbnail": 64,
            "identity_start": True,
        }
    )

    @property
    def batch(self) -> int:
        """Samples a batch, of every system that trains the target network."""
        return self.real_per_batch + self.pseudo_per_batch


def _dataset(kind: str, data: PairData, **more: Any) -> dict[str, Any]:
    return {
        "name": "pairs",
        "type": kind,
        "dataroot_lq": str(data.input),
        "dataroot_gt": str(data.target),
        "io_backend": {"type": "disk"},
        "cache_images": True,
        **more,
    }


def _options(
    name: str, model: str, train_set: dict[str, Any], test: PairData, seed: int, training: dict[str, Any]
) -> dict[str, Any]:
    total = training["total_iter"]
    return {
        "name": name,
        "model_type": model,
        "scale": 1,
        "num_gpu": "auto",
        "manual_seed": seed,
        "datasets": {"train": train_set, "val": _dataset("PairedRestorationDataset", test, name="test")},
        "path": {},
        "train": training,
        "val": {"val_freq": total, "save_img": False, "metrics": deepcopy(METRICS)},
        "logger": {
            "print_freq": max(1, total // 20),
            "save_checkpoint_freq": total + 1,
            "use_tb_logger": True,
            "image_freq": max(1, total // 4),
        },
    }


def isp_options(s: PhaseSettings, pairs: PairData, test: PairData, seed: int) -> dict[str, Any]:
    """Phase 1."""
    train_set = _dataset("PairedRestorationDataset", pairs, gt_size=list(s.size), use_hflip=True, batch_size_per_gpu=4)
    training = {
        "total_iter": s.isp_iterations,
        "warmup_iter": s.isp_iterations // 20,
        "grad_clip": 1.0,
        # The last fifth of training, in which the learning rate is small: the sets of Table 5's N = 5000 are its
        # last twelfth.
        "bank_size": 4 * max(1, s.isp_iterations // 5),
        "optim_g": {"type": "AdamW", "lr": s.isp_lr},
        "scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 1e-3},
        "pixel_opt": {"type": "MSELoss"},
    }
    options = _options("1_fisp", "ISPModel", train_set, test, seed, training)
    network = {"type": "PQDynamicISP", "inverse_tone_mapping": s.image_enhancement, "thumbnail": 64}
    options["network_g"] = {**network, "grid": [2, 2]}
    options["network_global"] = {**network, "grid": [1, 1]}
    return options


def _target_options(
    name: str, model: str, train_set: dict[str, Any], test: PairData, seed: int, s: PhaseSettings, total: int, lr: float
) -> dict[str, Any]:
    training = {
        "total_iter": total,
        "optim_g": {"type": "AdamW", "lr": lr},
        "scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 1e-3},
        "pixel_opt": {"type": "MSELoss"},
    }
    options = _options(name, model, train_set, test, seed, training)
    options["network_g"] = deepcopy(s.network)
    return options


def semi_options(s: PhaseSettings, pairs: PairData, pseudo: str, test: PairData, seed: int) -> dict[str, Any]:
    """Phase 2."""
    train_set = _dataset(
        "SemiSupervisedDataset",
        pairs,
        gt_size=list(s.size),
        use_hflip=True,
        real_per_batch=s.real_per_batch,
        pseudo_per_batch=s.pseudo_per_batch,
        pseudo={
            "dataroot_gt": os.path.join(pseudo, "gt.lmdb"),
            "dataroot_lq": os.path.join(pseudo, "lq.lmdb"),
            "io_backend": {"type": "lmdb"},
        },
    )
    options = _target_options("2_semi", "SemiSupervisedModel", train_set, test, seed, s, s.semi_iterations, s.lr)
    options["train"]["filter"] = {"beta": s.beta}
    return options


def supervised_options(
    s: PhaseSettings,
    pairs: PairData,
    test: PairData,
    seed: int,
    *,
    name: str,
    iterations: int,
    lr: float,
    weights: str | None = None,
    jitter: float | None = None,
) -> dict[str, Any]:
    """Phase 3 (``weights`` of phase 2), or a supervised baseline (from scratch)."""
    train_set = _dataset(
        "PairedRestorationDataset", pairs, gt_size=list(s.size), use_hflip=True, batch_size_per_gpu=s.batch
    )
    options = _target_options(name, "SupervisedModel", train_set, test, seed, s, iterations, lr)
    options["path"]["pretrain_network_g"] = weights
    if jitter:
        options["train"]["photometric_jitter"] = jitter
    return options


def run(options: dict[str, Any], root: str | os.PathLike[str], progress: bool) -> Any:
    """Check, complete and train; what it writes goes below ``root``. Returns the model."""
    source = options_module.Source(f"options of {options['name']}")
    opt = options_module.complete(options, source, root_path=str(root), is_train=True)
    return train(opt, progress=progress, quiet=True)
