"""Options of the paper's experiments, made from `semiisp_plugin.experiments.paper_settings`.

What does not depend on the target model (f_ISP, the pseudo pairs) has run names without the model, so that it is made
once for all models of a task and a number of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semiisp_plugin.data.table6 import PAPER_BATCH, settings_for
from semiisp_plugin.experiments.annotated_yaml import plain, write_yaml
from semiisp_plugin.experiments.own_task import OWN, own_model, own_task
from semiisp_plugin.experiments.paper_settings import (
    BANK_SIZE,
    DENOISING_CROP,
    FLOOR,
    MODELS,
    POOLS,
    SEMI_ITERATIONS,
    SEMI_LR,
    TABLE_5,
    TASKS,
    VGG_WEIGHT,
    Sourced,
    Supervised,
    TargetModel,
    Task,
    column,
    ours,
)
from semiisp_plugin.options import nearest
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE

PHOTOGRAPHS = "datasets/coco/train2017"

_SAVE_EVERY = (5000, 4000, 2500, 2000, 1500, 1000, 750, 500)
_LMDB = {"type": "lmdb"}
_ABOUT = {
    "denoise": "Before phase 1: noisy inputs without noise (Sec. A.3), for `basicsr denoise`; see docs/denoising.md",
    "f_isp": "Phase 1 (Table 5): f_ISP, which makes the pseudo-data; the same for all models",
    "pseudo": "Between phases 1 and 2 (Sec. 3.2, Fig. 3b): photographs -> pseudo pairs; the same for all models",
    "semi": "Phase 2 (Table 6): semi-supervised learning",
    "finetune": "Phase 3 (Sec. 3.3, A.3): fine-tuning on the pairs alone, half of the model's own iterations",
    "supervised": "Supervised baseline: the pairs alone, from scratch, with the model's own settings",
    "test": "Test: writes images and metrics to `results`",
}


@dataclass(frozen=True)
class Experiment:
    """A task with a number of pairs and a target model.

    Attributes:
        task: See `paper_settings.TASKS`.
        pairs: One of the task's amounts.
        model: One of the task's models.
        data: What ``basicsr prepare`` wrote; default ``datasets/<task>``.
        photographs: Folder of ordinary photographs.
    """

    task: Task
    pairs: int
    model: TargetModel
    data: str = ""
    photographs: str = PHOTOGRAPHS

    @property
    def shared(self) -> str:
        """In names of runs that all models share."""
        return f"{self.task.name}_{self.pairs}"

    @property
    def name(self) -> str:
        """In names of runs of this model."""
        return f"{self.task.name}_{self.model.name}_{self.pairs}"

    @property
    def title(self) -> str:
        """In words, without the model."""
        count = f"all {self.pairs:,d}" if self.pairs == self.task.full else f"{self.pairs:,d}"
        return f"{self.task.title}; {count} pairs"

    def at(self, path: str) -> str:
        """A path in the prepared data."""
        return f"{self.data or f'datasets/{self.task.name}'}/{path}"

    def phases(self) -> dict[str, dict[str, Any]]:
        """Options of all phases, with their sources, in the order in which they run."""
        phases = {"denoise": _denoise(self)} if self.task.denoising.value else {}
        return phases | {
            "f_isp": _f_isp(self),
            "pseudo": _pseudo(self),
            "semi": _semi(self),
            "finetune": _on_pairs_alone(self, "finetune", self.model.training(self.task, self.pairs).halved()),
            "supervised": _on_pairs_alone(self, "supervised", self.model.training(self.task, self.pairs)),
            "test": _test(self),
        }

    def recipe(self) -> dict[str, Any]:
        """The recipe."""
        values: dict[str, Any] = {"name": self.name, "title": f"{self.model.title}, {self.title}"}
        if self.model.paper and self.task.paper and self.pairs in self.task.paper_amounts:
            values["paper"] = {"task": self.task.paper, "network": self.model.paper, "pairs": self.pairs}
        return {**values, "phases": self.phases()}

    def head(self, phase: str) -> list[str]:
        """What stands above the option file of a phase."""
        return [f"{_ABOUT[phase]}. {self.model.title}, {self.title}.", 'What the paper leaves open is marked "ours".']

    def recipe_text(self) -> str:
        """The recipe as one file, with the sources of all values."""
        head = [
            f"{self.model.title}, {self.title}: all phases, and the report.",
            f"basicsr recipe options/recipes/{self.task.name}.yml --dry-run",
            f"The same without a file, and for other networks and numbers of pairs: basicsr recipe {self.task.name} "
            f'--network {self.model.title} --pairs {self.pairs}. What the paper leaves open is marked "ours".',
        ]
        return write_yaml(self.recipe(), head, "../recipe_schema.json")


def find_experiment(
    task: str, network: str | None = None, pairs: int | None = None, data: str | None = None, photos: str | None = None
) -> Experiment:
    """An experiment by the names of its parts.

    Args:
        task: A key of `paper_settings.TASKS`, or `OWN` for pairs of one's own.
        network: A target model of the task, spelt as in the paper or as in names of runs; default: the task's first.
            With `OWN` also any registered network, see `own_model`.
        pairs: One of the task's numbers of pairs; default: the fewest that the paper has, of one's own all.
        data: What ``basicsr prepare`` wrote; default ``datasets/<task>``.
        photos: Folder of photographs; default `PHOTOGRAPHS`.

    Raises:
        ValueError: There is no such task, or it has no such network or number of pairs.
    """
    data = data.rstrip("/") if data else ""
    if task == OWN:
        data = data or f"datasets/{OWN}"
    elif task not in TASKS:
        tasks = (*TASKS, OWN)
        raise ValueError(f"there is no task '{task}'{nearest(task, tasks)} Known: {', '.join(tasks)}.")
    found = own_task(data) if task == OWN else TASKS[task]
    models = {_spelling(name): MODELS[key] for key in found.models for name in (key, MODELS[key].title)}
    if network is not None and task == OWN and _spelling(network) not in models:
        models[_spelling(network)] = own_model(network)
    elif network is not None and _spelling(network) not in models:
        known = ", ".join(MODELS[key].title for key in found.models)
        raise ValueError(f"--network {network}: {task} has {known}.")
    if pairs is not None and pairs not in found.amounts:
        raise ValueError(f"--pairs {pairs}: {task} has {', '.join(map(str, found.amounts))}.")
    return Experiment(
        task=found,
        pairs=pairs or min(found.paper_amounts),
        model=models[_spelling(network)] if network else MODELS[found.models[0]],
        data=data,
        photographs=photos or PHOTOGRAPHS,
    )


def _spelling(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


# --- parts that several phases have ----------------------------------------------------------------------------------


def _begin(name: str, model: str) -> dict[str, Any]:
    return {"name": name, "model_type": model, "scale": 1, "num_gpu": "auto", "manual_seed": 0}


def _pairs(e: Experiment, kind: str, lq: Any = None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": e.shared,
        "type": kind,
        "dataroot_lq": lq or e.at("train/lq.lmdb"),
        "dataroot_gt": e.at("train/gt.lmdb"),
        "io_backend": _LMDB,
    }
    if e.pairs != e.task.full:
        known = e.pairs in e.task.paper_amounts
        note = "the paper does not say which" if known else f"the paper has all {e.task.full} pairs only"
        values["meta_info_file"] = ours(e.at(f"names/train_{e.pairs}.txt"), note)
    return values


def _test_pairs(e: Experiment) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": f"{e.task.name}_test",
        "type": "PairedRestorationDataset",
        "dataroot_lq": e.at("test/lq.lmdb"),
        "dataroot_gt": e.at("test/gt.lmdb"),
        "io_backend": _LMDB,
    }
    if e.task.batched_validation:
        values["batch_size_per_gpu"] = ours(5, "images of one size; the result does not depend on it")
    return {**values, "num_worker_per_gpu": 2}


def _ending(e: Experiment, total: int) -> dict[str, Any]:
    """The sections ``val`` and ``logger``."""
    freq = next((f for f in _SAVE_EVERY if total % f == 0 and f <= total // 5), max(1, total // 10))
    return {
        "val": {"val_freq": ours(max(1, total // 10)), "save_img": False, "metrics": dict(e.task.metrics)},
        "logger": {
            "print_freq": 100,
            "save_checkpoint_freq": freq,
            "keep_last": ours(2, "checkpoints on the disk, besides the last one"),
            "use_tb_logger": True,
        },
    }


def _with(value: Sourced[Any], by: Any) -> Sourced[Any]:
    """Another value of the same source."""
    return Sourced(by, value.source, value.note)


def _training(
    e: Experiment,
    phase: str,
    model: str,
    train_set: dict[str, Any],
    networks: dict[str, Any],
    train: dict[str, Any],
    weights: str | None = None,
) -> dict[str, Any]:
    """Options of a training run."""
    name = f"fisp_{e.shared}" if phase == "f_isp" else f"{phase}_{e.name}"
    return {
        **_begin(name, model),
        "datasets": {"train": train_set, "val": _test_pairs(e)},
        **networks,
        "path": {"pretrain_network_g": weights, "resume_state": None},
        "train": train,
        **_ending(e, plain(train["total_iter"])),
    }


# --- the phases ------------------------------------------------------------------------------------------------------


def _denoise(e: Experiment) -> dict[str, Any]:
    network = {"type": "KBNet_s", "lightweight": True, "ffn_scale": 1.5}
    return {
        "name": f"denoise_{e.task.name}",
        "input": e.at("train/lq.lmdb"),
        "out": e.at("train/lq_denoised.lmdb"),
        "network": Sourced(network, "Sec. A.3", "KBNet; used where `weights` gives its file, else OpenCV denoises"),
        "param_key": Sourced("model", "KBNet's files"),
        "normalise": ours("max", "the reading of Sec. A.3; or none"),
        "gamma": Sourced(2.2, "Sec. A.3"),
        "tile": 1024,
        "tile_overlap": Sourced(64, "KBNet's own test"),
        "num_gpu": "auto",
    }


def _f_isp(e: Experiment) -> dict[str, Any]:
    task, col = e.task, column(e.task, e.pairs)
    table, source = TABLE_5[col], f'Table 5, "{col}"'
    noisy = task.denoising.value
    denoised = Sourced(e.at("train/lq_denoised.lmdb"), "Sec. A.3", "inputs denoised beforehand, by the phase `denoise`")
    train_set = {
        **_pairs(e, "PairedRestorationDataset", denoised if noisy else None),
        "gt_size": _with(task.size, list(task.size.value)),
        "use_hflip": Sourced(True, "Table 5", "random flip and crop"),
        "use_rot": False,
        "num_worker_per_gpu": 4,
        "batch_size_per_gpu": Sourced(table.batch, source),
    }
    network = {"type": "PQDynamicISP", **task.f_isp}
    networks = {
        "network_g": {**network, "grid": ours([8, 8], "local control (Sec. 4.2), for step 2 of the pseudo-data")},
        "network_global": {**plain(network), "grid": Sourced([1, 1], "Sec. 4.2", "global control, for steps 1 and 3")},
    }
    train = {
        "total_iter": Sourced(table.iterations, source),
        "bank_size": Sourced(BANK_SIZE, "Table 5", "N, the parameter sets that are kept"),
        "grad_clip": ours(1.0),
        "optim_g": Sourced({"type": "AdamW", "lr": table.lr}, source, "weight decay and betas are torch's (ours)"),
        "scheduler": Sourced({"type": "CosineAnnealing", "eta_min_ratio": FLOOR}, "Table 5"),
    }
    if table.pooled_l1:
        pooled = {"type": "PooledL1Loss", "kernel_sizes": list(POOLS)}
        train["pixel_opt"] = Sourced(pooled, "eq. 14", "stride is ours")
    else:
        train["pixel_opt"] = Sourced({"type": "MSELoss", "loss_weight": 1.0}, f"{source}, eq. 5")
        if task.perceptual:
            train["perceptual_opt"] = Sourced(
                {"type": "VGGPerceptualLoss", "loss_weight": VGG_WEIGHT},
                f"{source}, eq. 5",
                "which layers is ours; needs VGG16's weights (docs/workflow.md)",
            )
    return _training(e, "f_isp", "ISPModel", train_set, networks, train)


def _pseudo(e: Experiment) -> dict[str, Any]:
    return {
        "name": f"pseudo_{e.shared}",
        "photographs": Sourced(e.photographs, "Sec. 4", "COCO; any folder of ordinary photographs will do"),
        "f_isp": f"experiments/fisp_{e.shared}/models/f_isp_latest.pth",
        "out": f"datasets/pseudo_{e.shared}",
        "manual_seed": 0,
        "mode": ours("stored", "online draws inputs in training; the paper does not say"),
        "short_side": ours(480, "larger photographs are shrunk to the paper's size"),
        "sets": Sourced(
            "auto", "Sec. 4.2", "global whole sets below 1000 pairs, local ones drawn per function from there on"
        ),
        "num_gpu": "auto",
    }


def _semi(e: Experiment) -> dict[str, Any]:
    task, col = e.task, column(e.task, e.pairs)
    table, source = settings_for(e.pairs, task.denoising.value), f'Table 6, "{col}"'
    noisy = task.denoising.value
    pseudo = f"datasets/pseudo_{e.shared}"
    train_set = {
        **_pairs(e, "SemiSupervisedDataset"),
        "pseudo": {"dataroot_lq": f"{pseudo}/lq.lmdb", "dataroot_gt": f"{pseudo}/gt.lmdb", "io_backend": _LMDB},
        "real_per_batch": Sourced(table.real, source, "N_r"),
        "pseudo_per_batch": Sourced(PAPER_BATCH - table.real, source, "N_p"),
        "gt_size": Sourced(DENOISING_CROP, source) if noisy else _with(task.size, list(task.size.value)),
        "use_hflip": Sourced(True, "Table 6", "random flip and crop"),
        "use_rot": False,
        "num_worker_per_gpu": 4,
    }
    train = {
        "total_iter": Sourced(SEMI_ITERATIONS, "Table 6"),
        "filter": Sourced({"beta": table.beta}, f"{source}, eq. 12"),
        "optim_g": Sourced({"type": "AdamW", "lr": SEMI_LR}, "Table 6", "weight decay and betas are torch's (ours)"),
        "scheduler": Sourced({"type": "CosineAnnealing", "eta_min_ratio": FLOOR}, "Table 6"),
    }
    own = e.model.training(task, e.pairs).losses.get("likelihood")
    if own is not None:
        train["likelihood"] = own
    else:
        train["pixel_opt"] = Sourced({"type": "MSELoss", "loss_weight": 1.0}, source)
    if noisy and own is None:
        train["ssim_opt"] = Sourced(
            {"type": "SSIMLoss", "loss_weight": 1.0}, source, "its definition and weight are ours, 1 - SSIM"
        )
    if noisy:
        train["noise"] = Sourced(
            {"shot_variance": SHOT_VARIANCE, "read_variance": READ_VARIANCE},
            "eq. 15, Sec. A.3",
            "upper bounds of the uniform draws",
        )
    return _training(e, "semi", "SemiSupervisedModel", train_set, {"network_g": e.model.network(task)}, train)


def _on_pairs_alone(e: Experiment, phase: str, recipe: Supervised) -> dict[str, Any]:
    """Phase 3, which begins with the weights of phase 2, and the supervised baseline."""
    hflip, rot = recipe.flips.value
    train_set = {
        **_pairs(e, "PairedRestorationDataset"),
        "crop_ratio" if recipe.ratio else "gt_size": _with(recipe.crop, plain(recipe.crop.value)),
        "use_hflip": _with(recipe.flips, hflip),
        "use_rot": _with(recipe.flips, rot),
        "num_worker_per_gpu": 4,
        "batch_size_per_gpu": recipe.batch,
    }
    train = {
        "total_iter": recipe.iterations,
        **recipe.more,
        "optim_g": recipe.optimiser,
        "scheduler": recipe.scheduler,
        **recipe.losses,
    }
    weights = f"experiments/semi_{e.name}/models/net_g_latest.pth" if phase == "finetune" else None
    return _training(e, phase, "SupervisedModel", train_set, {"network_g": e.model.network(e.task)}, train, weights)


def _test(e: Experiment) -> dict[str, Any]:
    return {
        **_begin(f"test_{e.name}", "SupervisedModel"),
        "datasets": {"test_1": _test_pairs(e)},
        "network_g": e.model.network(e.task),
        "path": {"pretrain_network_g": f"experiments/finetune_{e.name}/models/net_g_latest.pth"},
        "val": {"save_img": True, "metrics": dict(e.task.metrics)},
    }
