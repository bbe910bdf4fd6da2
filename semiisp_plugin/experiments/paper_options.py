"""Options of the paper's experiments, made from `semiisp_plugin.experiments.paper_settings`.

What does not depend on the target model (f_ISP, the pseudo pairs) has run names without the model, so that it is made
once for all models of a task and a number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from semiisp_plugin.data.auto_settings import PAPER_BATCH
from semiisp_plugin.experiments.annotated_yaml import plain, write_yaml
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
    table_6,
)
from semiisp_plugin.options import nearest
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE

PHOTOGRAPHS = "datasets/coco/train2017"

_SAVE_EVERY = (5000, 4000, 2500, 2000, 1500, 1000, 750, 500)
_LMDB = {"type": "lmdb"}


@dataclass(frozen=True)
class PhaseFile:
    """A phase: its options, with their sources, and what stands above them in a file."""

    head: list[str]
    values: dict[str, Any]


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

    def phases(self) -> dict[str, PhaseFile]:
        """All phases, by name, in the order in which they run."""
        phases = {"denoise": _denoise(self)} if self.task.denoising.value else {}
        return phases | {
            "f_isp": _f_isp(self),
            "pseudo": _pseudo(self),
            "semi": _semi(self),
            "finetune": _finetune(self),
            "supervised": _supervised(self),
            "test": _test(self),
        }

    def recipe(self, phases: dict[str, Any] | None = None) -> dict[str, Any]:
        """The recipe; ``phases`` stand in place of the phases' options."""
        values: dict[str, Any] = {"name": self.name, "title": f"{self.model.title}, {self.title}"}
        if self.model.paper and self.pairs in self.task.paper_amounts:
            values["paper"] = {"task": self.task.paper, "network": self.model.paper, "pairs": self.pairs}
        given = phases or {name: phase.values for name, phase in self.phases().items()}
        return {**values, "phases": given}

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
        task: A key of `paper_settings.TASKS`.
        network: A target model of the task, spelt as in the paper or as in names of runs; default: the task's first.
        pairs: One of the task's numbers of pairs; default: the fewest that the paper has.
        data: What ``basicsr prepare`` wrote; default ``datasets/<task>``.
        photos: Folder of photographs; default `PHOTOGRAPHS`.

    Raises:
        ValueError: There is no such task, or it has no such network or number of pairs.
    """
    if task not in TASKS:
        raise ValueError(f"there is no task '{task}'{nearest(task, TASKS)} Known: {', '.join(TASKS)}.")
    found = TASKS[task]
    models = {_spelling(name): MODELS[key] for key in found.models for name in (key, MODELS[key].title)}
    if network is not None and _spelling(network) not in models:
        known = ", ".join(MODELS[key].title for key in found.models)
        raise ValueError(f"--network {network}: {task} has {known}.")
    if pairs is not None and pairs not in found.amounts:
        raise ValueError(f"--pairs {pairs}: {task} has {', '.join(map(str, found.amounts))}.")
    return Experiment(
        task=found,
        pairs=pairs or min(found.paper_amounts),
        model=models[_spelling(network)] if network else MODELS[found.models[0]],
        data=data.rstrip("/") if data else "",
        photographs=photos or PHOTOGRAPHS,
    )


def _spelling(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def experiments() -> Iterator[Experiment]:
    """All combinations of a task, a model and a number of pairs."""
    for task in TASKS.values():
        for name in task.models:
            for pairs in task.amounts:
                yield Experiment(task, pairs, MODELS[name])


def option_files() -> dict[str, str]:
    """The files below ``options`` that are made from here: one recipe a task."""
    return {f"recipes/{task}.yml": find_experiment(task).recipe_text() for task in TASKS}


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


def _same_source(value: Sourced[Any], by: Any) -> Sourced[Any]:
    """Another value of the same source."""
    return Sourced(by, value.source, value.note)


# --- the phases ------------------------------------------------------------------------------------------------------


def _denoise(e: Experiment) -> PhaseFile:
    network = {"type": "KBNet_s", "lightweight": True, "ffn_scale": 1.5}
    values = {
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
    head = [
        f"Before phase 1, {e.task.title}: its noisy inputs -> inputs without noise (Sec. A.3), for `basicsr denoise`.",
        "With KBNet's weights for SenseNoise (docs/denoising.md): weights: sensenoise_s.pth",
    ]
    return PhaseFile(head, values)


def _f_isp(e: Experiment) -> PhaseFile:
    task, col = e.task, column(e.task, e.pairs)
    table, source = TABLE_5[col], f'Table 5, "{col}"'
    noisy = task.denoising.value
    denoised = Sourced(e.at("train/lq_denoised.lmdb"), "Sec. A.3", "inputs denoised beforehand, by the phase `denoise`")
    values = _begin(f"fisp_{e.shared}", "ISPModel")
    values["datasets"] = {
        "train": {
            **_pairs(e, "PairedRestorationDataset", denoised if noisy else None),
            "gt_size": _same_source(task.size, list(task.size.value)),
            "use_hflip": Sourced(True, "Table 5", "random flip and crop"),
            "use_rot": False,
            "num_worker_per_gpu": 4,
            "batch_size_per_gpu": Sourced(table.batch, source),
        },
        "val": _test_pairs(e),
    }
    network = {"type": "PQDynamicISP", **task.f_isp}
    values["network_g"] = {**network, "grid": ours([8, 8], "local control (Sec. 4.2), for step 2 of the pseudo-data")}
    values["network_global"] = {
        **plain(network),
        "grid": Sourced([1, 1], "Sec. 4.2", "global control, for steps 1 and 3"),
    }
    values["path"] = {"pretrain_network_g": None, "resume_state": None}
    values["train"] = {
        "total_iter": Sourced(table.iterations, source),
        "bank_size": Sourced(BANK_SIZE, "Table 5", "N, the parameter sets that are kept"),
        "grad_clip": ours(1.0),
        "optim_g": Sourced({"type": "AdamW", "lr": table.lr}, source, "weight decay and betas are torch's (ours)"),
        "scheduler": Sourced({"type": "CosineAnnealing", "eta_min_ratio": FLOOR}, "Table 5"),
    }
    if table.pooled_l1:
        pooled = {"type": "PooledL1Loss", "kernel_sizes": list(POOLS)}
        values["train"]["pixel_opt"] = Sourced(pooled, "eq. 14", "stride is ours")
    else:
        values["train"]["pixel_opt"] = Sourced({"type": "MSELoss", "loss_weight": 1.0}, f"{source}, eq. 5")
        values["train"]["perceptual_opt"] = Sourced(
            {"type": "VGGPerceptualLoss", "loss_weight": VGG_WEIGHT},
            f"{source}, eq. 5",
            "which layers is ours; needs VGG16's weights (docs/workflow.md)",
        )
    values |= _ending(e, table.iterations)
    head = [
        f"The paper's phase 1, {e.title}: f_ISP, which makes the pseudo-data. The same for every target model.",
        f'Paper: Table 5, column "{col}". What the paper leaves open is marked "ours".',
    ]
    if noisy:
        head.append(
            "The paper denoises the inputs of this phase with KBNet (Sec. A.3), and the loss (eq. 14) is made for what "
            "noise remains."
        )
    return PhaseFile(head, values)


def _pseudo(e: Experiment) -> PhaseFile:
    values = {
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
    head = [
        f"Between the paper's phases 1 and 2, {e.title}: photographs -> pseudo pairs (Sec. 3.2, Fig. 3b).",
        "The pairs are the same for every target model.",
    ]
    return PhaseFile(head, values)


def _semi(e: Experiment) -> PhaseFile:
    task, col = e.task, column(e.task, e.pairs)
    table, source = table_6(task, e.pairs), f'Table 6, "{col}"'
    noisy = task.denoising.value
    pseudo = f"datasets/pseudo_{e.shared}"
    values = _begin(f"semi_{e.name}", "SemiSupervisedModel")
    values["datasets"] = {
        "train": {
            **_pairs(e, "SemiSupervisedDataset"),
            "pseudo": {
                "dataroot_lq": f"{pseudo}/lq.lmdb",
                "dataroot_gt": f"{pseudo}/gt.lmdb",
                "io_backend": _LMDB,
            },
            "real_per_batch": Sourced(table.real, source, "N_r"),
            "pseudo_per_batch": Sourced(PAPER_BATCH - table.real, source, "N_p"),
            "gt_size": Sourced(DENOISING_CROP, source) if noisy else _same_source(task.size, list(task.size.value)),
            "use_hflip": Sourced(True, "Table 6", "random flip and crop"),
            "use_rot": False,
            "num_worker_per_gpu": 4,
        },
        "val": _test_pairs(e),
    }
    values["network_g"] = e.model.network(task)
    values["path"] = {"pretrain_network_g": None, "resume_state": None}
    values["train"] = {
        "total_iter": Sourced(SEMI_ITERATIONS, "Table 6"),
        "filter": Sourced({"beta": table.beta}, f"{source}, eq. 12"),
        "optim_g": Sourced({"type": "AdamW", "lr": SEMI_LR}, "Table 6", "weight decay and betas are torch's (ours)"),
        "scheduler": Sourced({"type": "CosineAnnealing", "eta_min_ratio": FLOOR}, "Table 6"),
        "pixel_opt": Sourced({"type": "MSELoss", "loss_weight": 1.0}, source),
    }
    if noisy:
        values["train"]["ssim_opt"] = Sourced(
            {"type": "SSIMLoss", "loss_weight": 1.0}, source, "its definition and weight are ours, 1 - SSIM"
        )
        values["train"]["noise"] = Sourced(
            {"shot_variance": SHOT_VARIANCE, "read_variance": READ_VARIANCE},
            "eq. 15, Sec. A.3",
            "upper bounds of the uniform draws",
        )
    values |= _ending(e, SEMI_ITERATIONS)
    head = [
        f"The paper's phase 2, {e.title}: semi-supervised learning of {e.model.title}.",
        f'Paper: Table 6, column "{col}". What the paper leaves open is marked "ours".',
    ]
    return PhaseFile(head, values)


def _on_pairs_alone(e: Experiment, phase: str, recipe: Supervised, weights: str | None, head: list[str]) -> PhaseFile:
    hflip, rot = recipe.flips.value
    crop = recipe.crop.value
    values = _begin(f"{phase}_{e.name}", "SupervisedModel")
    values["datasets"] = {
        "train": {
            **_pairs(e, "PairedRestorationDataset"),
            "crop_ratio" if recipe.ratio else "gt_size": _same_source(recipe.crop, plain(crop)),
            "use_hflip": _same_source(recipe.flips, hflip),
            "use_rot": _same_source(recipe.flips, rot),
            "num_worker_per_gpu": 4,
            "batch_size_per_gpu": recipe.batch,
        },
        "val": _test_pairs(e),
    }
    values["network_g"] = e.model.network(e.task)
    values["path"] = {"pretrain_network_g": weights, "resume_state": None}
    values["train"] = {
        "total_iter": recipe.iterations,
        **recipe.more,
        "optim_g": recipe.optimiser,
        "scheduler": recipe.scheduler,
        **recipe.losses,
    }
    return PhaseFile(head, values | _ending(e, recipe.iterations.value))


def _finetune(e: Experiment) -> PhaseFile:
    head = [
        f"The paper's phase 3, {e.title}: fine-tuning of {e.model.title} on the pairs alone.",
        "Paper: the target model's own settings, half of its iterations (Sec. 3.3, A.3). Lengths of the schedule are "
        "halved with them (ours).",
    ]
    recipe = e.model.training(e.task, e.pairs).halved()
    weights = f"experiments/semi_{e.name}/models/net_g_latest.pth"
    return _on_pairs_alone(e, "finetune", recipe, weights, head)


def _supervised(e: Experiment) -> PhaseFile:
    head = [f"Supervised baseline, {e.title}: {e.model.title} on the pairs alone, from scratch, with its own settings."]
    return _on_pairs_alone(e, "supervised", e.model.training(e.task, e.pairs), None, head)


def _test(e: Experiment) -> PhaseFile:
    values = _begin(f"test_{e.name}", "SupervisedModel")
    values["datasets"] = {"test_1": _test_pairs(e)}
    values["network_g"] = e.model.network(e.task)
    values["path"] = {"pretrain_network_g": f"experiments/finetune_{e.name}/models/net_g_latest.pth"}
    values["val"] = {"save_img": True, "metrics": dict(e.task.metrics)}
    head = [f"Test, {e.title}: writes {e.model.title}'s images and metrics to results/test_{e.name}."]
    return PhaseFile(head, values)
