"""A recipe's task from pairs of one's own, and a target model from any registered network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semiisp_plugin.data.pairs import read_location
from semiisp_plugin.experiments.paper_settings import (
    FLOOR,
    MODELS,
    Sourced,
    Supervised,
    TargetModel,
    Task,
    ours,
    plain_metric,
)
from semiisp_plugin.io.lmdb_io import read_meta
from semiisp_plugin.options.yaml_text import parse

OWN = "own"
"""What stands in the place of a task's name."""
_LARGEST_CROP = (480, 640)  # the paper's


def own_task(folder: str) -> Task:
    """The task of a folder that ``basicsr prepare own`` wrote.

    Inputs of 16 bits are taken for linear RAW, those of 8 bits for sRGB images, as `basicsr learn` does.

    Args:
        folder: Its path.

    Raises:
        ValueError: It is no such folder, or has no pairs to train or to test on.
    """
    try:
        record = json.loads(Path(folder, "prepared.json").read_text(encoding="utf-8"))
        counts = {split: int(record["counts"][split]["written"]) for split in ("train", "test")}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"'{folder}' is not a folder that `basicsr prepare own` has finished; name it with --data DIR, or prepare "
            f"your pairs first: basicsr prepare own --input DIR --target DIR --out {folder}"
        ) from None
    for split, count in counts.items():
        if count == 0:
            fix = "take more" if split == "train" else "leave some for it with --test_pairs"
            raise ValueError(f"'{folder}' has no pairs to {split} on: prepare it again, and {fix}.")
    inputs = f"{folder}/train/lq.lmdb"
    entries = read_meta(inputs)
    raw = bool(read_location(f"{inputs}/{entries[0].key}").dtype.itemsize == 2)
    sides = [sorted(entry.shape[:2]) for entry in entries]
    crop = tuple(min(most, *(side[k] for side in sides)) for k, most in enumerate(_LARGEST_CROP))
    lists = [re.fullmatch(r"train_(\d+)\.txt", path.name) for path in Path(folder, "names").glob("*.txt")]
    name = Path(folder).resolve().name
    return Task(
        name=name,
        title=f"{name}: {'RAW' if raw else 'sRGB'} to your own look",
        full=counts["train"],
        amounts=tuple(sorted({counts["train"], *(int(found[1]) for found in lists if found)})),
        paper_amounts=(counts["train"],),
        paper="",
        raw=raw,
        denoising=ours(False, "noise is not looked for; `basicsr learn` does"),
        size=ours((crop[0], crop[1]), "the paper's 640x480, or the smallest of the images"),
        models=tuple(MODELS),
        metrics={key: Sourced(plain_metric(f"calculate_{key}"), "BasicSR's") for key in ("psnr", "ssim")},
        f_isp={} if raw else {"inverse_tone_mapping": Sourced(True, "Sec. 3.5, A.1", "image enhancement")},
        batched_validation=False,
        perceptual=False,
    )


def own_model(text: str) -> TargetModel:
    """A target model of a registered network.

    Args:
        text: The network's name, or its section of an option file as YAML text, such as ``{type: Mine, width: 8}``.

    Raises:
        ValueError: It is neither.
    """
    section, _ = parse(text, "--network")
    section = {"type": section} if isinstance(section, str) else section
    if not isinstance(section, Mapping) or not isinstance(section.get("type"), str):
        raise ValueError(f"--network {text}: give a network's name, or its options as '{{type: NAME, ...}}'.")
    title = section["type"]
    return TargetModel(
        re.sub(r"\W+", "_", title).lower(), title, None, lambda task: ours(dict(section), "yours"), _training
    )


def _training(task: Task, pairs: int) -> Supervised:
    """For a network that nothing is known of."""
    why = "a start for any network: `--set supervised:train:...` changes it"
    values: dict[str, Any] = {"type": "CosineAnnealing", "eta_min_ratio": FLOOR}
    return Supervised(
        iterations=ours(40_000, why),
        batch=ours(8, "as above"),
        crop=ours(min(128, *task.size.value), "as above"),
        flips=ours((True, True), "as above"),
        optimiser=ours({"type": "AdamW", "lr": 2e-4}, "as above"),
        scheduler=ours(values, "as above"),
        losses={"pixel_opt": ours({"type": "MSELoss", "loss_weight": 1.0}, "as in phase 2")},
    )
