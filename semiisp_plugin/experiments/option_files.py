"""Option files of the paper's experiments, written from `semiisp_plugin.experiments.paper_settings`.

What does not depend on the target model (f_ISP, the pseudo pairs) has run names without the model, so that it is made
once for all models of a task and a number of pairs.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from semiisp_plugin.experiments.paper_settings import (
    BANK_SIZE,
    FLOOR,
    MODELS,
    POOLS,
    SEMI_ITERATIONS,
    SEMI_LR,
    TABLE_5,
    TABLE_6,
    TASKS,
    VGG_WEIGHT,
    Sourced,
    Supervised,
    TargetModel,
    Task,
    column,
    ours,
)
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE

PHOTOGRAPHS = "datasets/coco/train2017"
PHASES = ("1_fisp", "2_pseudo", "3_semi", "4_finetune", "0_supervised")
"""Endings of the files of ``options/train``."""

_WIDTH = 120
_SAVE_EVERY = (5000, 4000, 2500, 2000, 1500, 1000, 750, 500)


# --- YAML with comments ----------------------------------------------------------------------------------------------


def _scalar(value: Any) -> str:
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if value != 0 and not 1e-3 <= abs(value) < 1e6:
            mantissa, _, exponent = f"{value:.12e}".partition("e")
            return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return repr(value)
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_<.][\w./<>= -]*", value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def _flow(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flow, value))}]"
    return _scalar(value)


def _comment_lines(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent) - 2)]


def _lines(section: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Sections line by line; a `Sourced` value stands in one line, with its source behind it, or above it if long."""
    for key, value in section.items():
        if isinstance(value, Mapping) and not isinstance(value, _InOneLine):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
            continue
        comment = value.comment if isinstance(value, Sourced) else ""
        plain = value.value if isinstance(value, Sourced) else value
        line = f"{indent}{key}: {_flow(plain)}"
        if len(line) > _WIDTH and isinstance(plain, Mapping):
            yield from _comment_lines(comment, indent) if comment else ()
            yield from _lines({key: dict(plain)}, indent)
            continue
        if comment and len(line) + len(comment) + 4 > _WIDTH:
            yield from _comment_lines(comment, indent)
            comment = ""
        yield f"{line}  # {comment}" if comment else line


class _InOneLine(dict[str, Any]):
    """A section that is written in one line."""


def _text(path: str, schema: str, head: Sequence[str], values: Mapping[str, Any]) -> str:
    up = "/".join([".."] * (len(PurePosixPath(path).parts) - 1))
    lines = [f"# yaml-language-server: $schema={up}/{schema}"]
    for sentence in head:
        lines += _comment_lines(sentence, "")
    before = False
    for key, value in values.items():
        section = isinstance(value, Mapping)
        if section or before:
            lines.append("")
        found = list(_lines({key: value}))
        if key == "datasets":  # its own sections stand apart, too
            inner = [i for i, line in enumerate(found) if re.match(r"  \w+:$", line)]
            for i in reversed(inner[1:]):
                found.insert(i, "")
        lines += found
        before = section
    return "\n".join(lines) + "\n"


# --- names -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """A task with a number of pairs and a target model: names of its files and runs."""

    task: Task
    pairs: int
    model: TargetModel

    @property
    def stem(self) -> str:
        """Begin of the files' names."""
        return f"{self.model.name}_{self.pairs}"

    @property
    def shared(self) -> str:
        """Of runs that all models share."""
        return f"{self.task.name}_{self.pairs}"

    @property
    def own(self) -> str:
        """Of runs of this model."""
        return f"{self.task.name}_{self.stem}"

    @property
    def title(self) -> str:
        """In words."""
        count = f"all {self.pairs:,d}" if self.pairs == self.task.full else f"{self.pairs:,d}"
        return f"{self.task.title}; {count} pairs"

    def train_file(self, phase: str) -> str:
        """Path of a phase's option file below ``options``."""
        return f"train/{self.task.name}/{self.stem}_{phase}.yml"

    @property
    def test_file(self) -> str:
        """Path of the option file of the test below ``options``."""
        return f"test/{self.task.name}/{self.stem}.yml"

    @property
    def recipe_file(self) -> str:
        """Path of the recipe below ``options``."""
        return f"recipes/{self.own}.yml"


def experiments() -> Iterator[Experiment]:
    """All that option files are written for."""
    for task in TASKS.values():
        for name in task.models:
            for pairs in task.amounts:
                yield Experiment(task, pairs, MODELS[name])


def option_files() -> dict[str, str]:
    """All files by their path below ``options``."""
    files: dict[str, str] = {}
    for experiment in experiments():
        files.update(files_of(experiment))
    return files


def files_of(e: Experiment) -> dict[str, str]:
    """The files of one experiment by their path below ``options``."""
    makers = {
        "1_fisp": _f_isp,
        "2_pseudo": _pseudo,
        "3_semi": _semi,
        "4_finetune": _finetune,
        "0_supervised": _supervised,
    }
    files = {e.train_file(phase): maker(e, e.train_file(phase)) for phase, maker in makers.items()}
    files[e.test_file] = _test(e, e.test_file)
    files[e.recipe_file] = _recipe(e, e.recipe_file)
    return files


# --- parts that several files have -----------------------------------------------------------------------------------


def denoised(task: Task) -> str:
    """Where the denoised inputs of phase 1 are."""
    return f"datasets/{task.name}/train/lq_denoised.lmdb"


def _pairs(e: Experiment, kind: str, **more: Any) -> dict[str, Any]:
    task = e.task
    values: dict[str, Any] = {
        "name": e.shared,
        "type": kind,
        "dataroot_lq": more.pop("dataroot_lq", f"datasets/{task.name}/train/lq.lmdb"),
        "dataroot_gt": f"datasets/{task.name}/train/gt.lmdb",
        "io_backend": _InOneLine(type="lmdb"),
    }
    if e.pairs != task.full:
        note = "the paper does not say which"
        if e.pairs not in task.paper_amounts:
            note = f"the paper has all {task.full} pairs only"
        values["meta_info_file"] = ours(f"datasets/{task.name}/names/train_{e.pairs}.txt", note)
    return {**values, **more}


def _test_pairs(task: Task, workers: bool = True) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": f"{task.name}_test",
        "type": "PairedRestorationDataset",
        "dataroot_lq": f"datasets/{task.name}/test/lq.lmdb",
        "dataroot_gt": f"datasets/{task.name}/test/gt.lmdb",
        "io_backend": _InOneLine(type="lmdb"),
    }
    if task.batched_validation:
        values["batch_size_per_gpu"] = ours(5, "images of one size; the result does not depend on it")
    if workers:
        values["num_worker_per_gpu"] = 2
    return values


def _crop(size: Any) -> Any:
    return list(size) if isinstance(size, tuple) else size


def _validation(task: Task, total: int) -> dict[str, Any]:
    return {"val_freq": ours(max(1, total // 10)), "save_img": False, "metrics": dict(task.metrics)}


def _logger(total: int) -> dict[str, Any]:
    freq = next((f for f in _SAVE_EVERY if total % f == 0 and f <= total // 5), max(1, total // 10))
    return {
        "print_freq": 100,
        "save_checkpoint_freq": freq,
        "keep_last": ours(2, "checkpoints on the disk, besides the last one"),
        "use_tb_logger": True,
    }


def _begin(name: str, model: str) -> dict[str, Any]:
    return {"name": name, "model_type": model, "scale": 1, "num_gpu": "auto", "manual_seed": 0}


def _network(e: Experiment) -> Sourced[dict[str, Any]]:
    return e.model.network(e.task)


# --- the files -------------------------------------------------------------------------------------------------------


def _f_isp(e: Experiment, path: str) -> str:
    task, col = e.task, column(e.task, e.pairs)
    table, source = TABLE_5[col], f'Table 5, "{col}"'
    options: dict[str, Any] = {}
    noisy = bool(task.denoising.value)
    if noisy:
        options["dataroot_lq"] = Sourced(
            denoised(task),
            "Sec. A.3",
            f"inputs denoised beforehand, basicsr denoise -opt options/denoise/{task.name}.yml",
        )
    values = _begin(f"fisp_{e.shared}", "ISPModel")
    values["datasets"] = {
        "train": _pairs(
            e,
            "PairedRestorationDataset",
            **options,
            gt_size=Sourced(list(task.size.value), task.size.source, task.size.note),
            use_hflip=Sourced(True, "Table 5", "random flip and crop"),
            use_rot=False,
            num_worker_per_gpu=4,
            batch_size_per_gpu=Sourced(table.batch, source),
        ),
        "val": _test_pairs(task),
    }
    network = {"type": "PQDynamicISP", **task.f_isp}
    values["network_g"] = {**network, "grid": ours([8, 8], "local control (Sec. 4.2), for step 2 of the pseudo-data")}
    values["network_global"] = {
        **{key: item.value if isinstance(item, Sourced) else item for key, item in network.items()},
        "grid": Sourced([1, 1], "Sec. 4.2", "global control, for steps 1 and 3"),
    }
    values["path"] = {"pretrain_network_g": None, "resume_state": None}
    losses: dict[str, Sourced[dict[str, Any]]]
    if table.pooled_l1:
        losses = {
            "pixel_opt": Sourced({"type": "PooledL1Loss", "kernel_sizes": list(POOLS)}, "eq. 14", "stride is ours")
        }
    else:
        losses = {
            "pixel_opt": Sourced({"type": "MSELoss", "loss_weight": 1.0}, f"{source}, eq. 5"),
            "perceptual_opt": Sourced(
                {"type": "VGGPerceptualLoss", "loss_weight": VGG_WEIGHT},
                f"{source}, eq. 5",
                "which layers is ours; needs VGG16's weights (docs/workflow.md)",
            ),
        }
    values["train"] = {
        "total_iter": Sourced(table.iterations, source),
        "bank_size": Sourced(BANK_SIZE, "Table 5", "N, the parameter sets that are kept"),
        "grad_clip": ours(1.0),
        "optim_g": Sourced({"type": "AdamW", "lr": table.lr}, source, "weight decay and betas are torch's (ours)"),
        "scheduler": Sourced({"type": "CosineAnnealing", "eta_min_ratio": FLOOR}, "Table 5"),
        **losses,
    }
    values["val"] = _validation(task, table.iterations)
    values["logger"] = _logger(table.iterations)
    head = [
        f"Step 1 (the paper's phase 1), {e.title}: f_ISP, which makes the pseudo-data.",
        f'Paper: Table 5, column "{col}". What the paper leaves open is marked "ours".',
        "The run is the same for every target model.",
    ]
    if noisy:
        head.append(
            f"The paper denoises the inputs of this phase with KBNet (Sec. A.3); the original ones are in "
            f"datasets/{task.name}/train/lq.lmdb, and the loss (eq. 14) is made for what noise remains."
        )
    return _text(path, "schema.json", head, values)


def _pseudo(e: Experiment, path: str) -> str:
    values = {
        "name": f"pseudo_{e.shared}",
        "photographs": Sourced(PHOTOGRAPHS, "Sec. 4", "COCO; any folder of ordinary photographs will do"),
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
        f"Step 2 (between the paper's phases 1 and 2), {e.title}: photographs -> pseudo pairs (Sec. 3.2, Fig. 3b).",
        "The pairs are the same for every target model.",
    ]
    return _text(path, "pseudo_schema.json", head, values)


def _semi(e: Experiment, path: str) -> str:
    task, col = e.task, column(e.task, e.pairs)
    table, source = TABLE_6[col], f'Table 6, "{col}"'
    size = Sourced(table.crop, source) if table.crop else _same_source(task.size, list(task.size.value))
    out = f"datasets/pseudo_{e.shared}"
    values = _begin(f"semi_{e.own}", "SemiSupervisedModel")
    values["datasets"] = {
        "train": _pairs(
            e,
            "SemiSupervisedDataset",
            pseudo={
                "dataroot_lq": f"{out}/lq.lmdb",
                "dataroot_gt": f"{out}/gt.lmdb",
                "io_backend": _InOneLine(type="lmdb"),
            },
            real_per_batch=Sourced(table.real_per_batch, source, "N_r"),
            pseudo_per_batch=Sourced(table.pseudo_per_batch, source, "N_p"),
            gt_size=size,
            use_hflip=Sourced(True, "Table 6", "random flip and crop"),
            use_rot=False,
            num_worker_per_gpu=4,
        ),
        "val": _test_pairs(task),
    }
    values["network_g"] = _network(e)
    values["path"] = {"pretrain_network_g": None, "resume_state": None}
    training: dict[str, Any] = {
        "total_iter": Sourced(SEMI_ITERATIONS, "Table 6"),
        "filter": Sourced({"beta": table.beta}, f"{source}, eq. 12"),
        "optim_g": Sourced({"type": "AdamW", "lr": SEMI_LR}, "Table 6", "weight decay and betas are torch's (ours)"),
        "scheduler": Sourced({"type": "CosineAnnealing", "eta_min_ratio": FLOOR}, "Table 6"),
        "pixel_opt": Sourced({"type": "MSELoss", "loss_weight": 1.0}, source),
    }
    if table.ssim:
        training["ssim_opt"] = Sourced(
            {"type": "SSIMLoss", "loss_weight": 1.0}, source, "its definition and weight are ours, 1 - SSIM"
        )
        training["noise"] = Sourced(
            {"shot_variance": SHOT_VARIANCE, "read_variance": READ_VARIANCE},
            "eq. 15, Sec. A.3",
            "upper bounds of the uniform draws",
        )
    values["train"] = training
    values["val"] = _validation(task, SEMI_ITERATIONS)
    values["logger"] = _logger(SEMI_ITERATIONS)
    head = [
        f"Step 3 (the paper's phase 2), {e.title}: semi-supervised learning of {e.model.title}.",
        f'Paper: Table 6, column "{col}". What the paper leaves open is marked "ours".',
    ]
    return _text(path, "schema.json", head, values)


def _same_source(value: Sourced[Any], by: Any) -> Sourced[Any]:
    """The same source with another value."""
    return Sourced(by, value.source, value.note)


def _on_pairs_alone(
    e: Experiment, path: str, name: str, recipe: Supervised, weights: str | None, head: list[str]
) -> str:
    task = e.task
    hflip, rot = recipe.flips.value
    crop = _same_source(recipe.crop, _crop(recipe.crop.value))
    values = _begin(name, "SupervisedModel")
    values["datasets"] = {
        "train": _pairs(
            e,
            "PairedRestorationDataset",
            **{"crop_ratio" if recipe.ratio else "gt_size": crop},
            use_hflip=_same_source(recipe.flips, hflip),
            use_rot=_same_source(recipe.flips, rot),
            num_worker_per_gpu=4,
            batch_size_per_gpu=recipe.batch,
        ),
        "val": _test_pairs(task),
    }
    values["network_g"] = _network(e)
    values["path"] = {"pretrain_network_g": weights, "resume_state": None}
    values["train"] = {
        "total_iter": recipe.iterations,
        **recipe.more,
        "optim_g": recipe.optimiser,
        "scheduler": recipe.scheduler,
        **recipe.losses,
    }
    values["val"] = _validation(task, recipe.iterations.value)
    values["logger"] = _logger(recipe.iterations.value)
    return _text(path, "schema.json", head, values)


def _finetune(e: Experiment, path: str) -> str:
    recipe = e.model.training(e.task, e.pairs).halved()
    head = [
        f"Step 4 (the paper's phase 3), {e.title}: fine-tuning of {e.model.title} on the pairs alone.",
        "Paper: the target model's own settings, half of its iterations (Sec. 3.3, A.3). Lengths of the schedule are "
        "halved with them (ours).",
    ]
    weights = f"experiments/semi_{e.own}/models/net_g_latest.pth"
    return _on_pairs_alone(e, path, f"finetune_{e.own}", recipe, weights, head)


def _supervised(e: Experiment, path: str) -> str:
    recipe = e.model.training(e.task, e.pairs)
    head = [f"Supervised baseline, {e.title}: {e.model.title} on the pairs alone, from scratch, with its own settings."]
    return _on_pairs_alone(e, path, f"supervised_{e.own}", recipe, None, head)


def _test(e: Experiment, path: str) -> str:
    values = _begin(f"test_{e.own}", "SupervisedModel")
    values["datasets"] = {"test_1": _test_pairs(e.task)}
    values["network_g"] = _network(e)
    weights = f"experiments/finetune_{e.own}/models/net_g_latest.pth"
    values["path"] = {"pretrain_network_g": weights}
    values["val"] = {"save_img": True, "metrics": dict(e.task.metrics)}
    head = [
        f"Test, {e.title}: writes {e.model.title}'s images and metrics to results/test_{e.own}.",
        "Other weights, under another name:",
        f"basicsr test -opt options/{path} --force_yml name=test_supervised_{e.own}",
        f"    path:pretrain_network_g=experiments/supervised_{e.own}/models/net_g_latest.pth",
    ]
    return _text(path, "schema.json", head, values)


def _recipe(e: Experiment, path: str) -> str:
    phases: dict[str, str] = {}
    if e.task.denoising.value:
        phases["0_denoise"] = f"../denoise/{e.task.name}.yml"
    phases.update({phase: f"../{e.train_file(phase)}" for phase in PHASES})
    phases["test"] = f"../{e.test_file}"
    values: dict[str, Any] = {"name": e.own, "title": f"{e.model.title}, {e.title}", "phases": phases}
    if e.model.paper and e.pairs in e.task.paper_amounts:
        values["paper"] = {"task": e.task.paper, "network": e.model.paper, "pairs": e.pairs}
    head = [
        "All phases of one experiment, and the report. Files are relative to this one.",
        f"basicsr recipe -opt options/{path} --dry-run    # what would be done",
    ]
    return _text(path, "recipe_schema.json", head, values)
