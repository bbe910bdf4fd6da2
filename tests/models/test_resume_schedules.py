"""A run that is resumed with other options: the rate of an iteration is what they say now, and changes are told."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semiisp_plugin.io.checkpoint import CheckpointError, load_checkpoint
from semiisp_plugin.models.learning_rate import schedule_factor
from semiisp_plugin.toolbox import build_model

AT, TOTAL = 6, 20
CYCLIC = {"type": "CosineAnnealingRestartCyclicLR"}
SCHEDULES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "constant": {"type": "Constant"},
    "steps": {"type": "MultiStepLR", "milestones": [3, 5], "gamma": 0.5},
    "later steps": {"type": "MultiStepLR", "milestones": [4, 12, 14], "gamma": 0.1},
    "cosine": {"type": "CosineAnnealing"},
    "short cosine": {"type": "CosineAnnealing", "total_iter": 10, "eta_min": 1e-3, "start_iter": 2},
    "periods": {**CYCLIC, "periods": [AT, 14], "eta_mins": [0.1, 0.01]},
    "other periods": {**CYCLIC, "periods": [20], "restart_weights": [0.5]},
}


class Pixelwise(torch.nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 3, 1)


@pytest.fixture
def resumed(tiny_options, completed, networks, caplog) -> Callable[..., tuple[Any, list[str]]]:
    """Saves iteration `AT` of a run with some options, resumes with others; the model and what was said."""
    networks(Pixelwise)

    def resume(before: dict, now: dict, kind: str = "SupervisedModel", total: int = TOTAL) -> tuple[Any, list[str]]:
        rate = before.pop("rate", 0.5), now.pop("rate", 0.5)
        first = build_model(completed(tiny_options(kind, "Pixelwise", rate[0], total=10, **before)))
        for folder in ("models", "training_states"):
            os.makedirs(first.opt["path"][folder], exist_ok=True)
        first.update_learning_rate(AT, first.opt["train"]["warmup_iter"])
        first.save(0, AT)
        state = f"experiments/model/training_states/{AT}.state"
        options = tiny_options(kind, "Pixelwise", rate[1], total=total, **now)
        second = build_model(completed({**options, "path": {"resume_state": state}}))
        caplog.clear()
        logger = logging.getLogger("basicsr")
        logger.propagate = True
        second.resume_training(load_checkpoint(Path(state)))
        return second, [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]

    return resume


def rates(model: Any, start: int = AT + 1) -> list[float]:
    found = []
    for iteration in range(start, TOTAL + 1):
        model.update_learning_rate(iteration, model.opt["train"]["warmup_iter"])
        found.append(model.get_current_learning_rate()[0])
    return found


@pytest.mark.parametrize("now", SCHEDULES)
@pytest.mark.parametrize("before", ["none", "steps", "cosine"])
def test_the_schedule_of_the_option_file_counts(resumed, before, now):
    model, said = resumed({"scheduler": SCHEDULES[before]}, {"scheduler": SCHEDULES[now]})
    factor = schedule_factor(SCHEDULES[now] or {"type": "Constant"}, TOTAL, 0.5)
    assert rates(model) == [0.5 * factor(iteration - 1) for iteration in range(AT + 1, TOTAL + 1)]
    assert "Resuming with train:total_iter 20; it was 10." in said
    changed = [line for line in said if line.startswith("Resuming with train:scheduler")]
    assert bool(changed) == (before != now)
    if before == "steps" and now == "later steps":
        assert "Resuming with train:scheduler:gamma 0.1; it was 0.5." in changed
        assert "Resuming with train:scheduler:milestones [4, 12, 14]; it was [3, 5]." in changed
    if before == "none" and now == "constant":
        assert changed == ["Resuming with train:scheduler {'type': 'Constant'}; it was none."]


def test_nothing_is_said_where_nothing_changed(resumed):
    settings = {"scheduler": SCHEDULES["steps"], "warmup_iter": 8}
    model, said = resumed(dict(settings), dict(settings), total=10)
    assert said == []
    assert rates(model)[0] == pytest.approx(0.5 * 7 / 8)


def test_rate_warm_up_and_other_values_of_the_option_file_count(resumed):
    adam = {"type": "AdamW", "lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 0.1}
    other = {"type": "AdamW", "lr": 1e-4, "betas": [0.8, 0.99]}
    model, said = resumed({"optim_g": adam, "grad_clip": 1.0}, {"optim_g": other, "warmup_iter": 10})
    group = model.optimizer_g.param_groups[0]
    assert (tuple(group["betas"]), group["weight_decay"]) == ((0.8, 0.99), 0.01)
    assert rates(model)[:4] == pytest.approx([7e-5, 8e-5, 9e-5, 1e-4])
    assert sorted(said) == [
        "Resuming with train:grad_clip none; it was 1.0.",
        "Resuming with train:optim_g:betas [0.8, 0.99]; it was [0.9, 0.99].",
        "Resuming with train:optim_g:lr 0.0001; it was 0.001.",
        "Resuming with train:optim_g:weight_decay none; it was 0.1.",
        "Resuming with train:total_iter 20; it was 10.",
        "Resuming with train:warmup_iter 10; it was -1.",
    ]


def test_an_average_may_begin_where_there_was_none(resumed):
    model, _ = resumed({}, {"ema_decay": 0.9})
    for value, average in zip(model.net_g.parameters(), model.net_g_ema.parameters(), strict=True):
        assert torch.equal(value, average)


def test_another_optimiser_is_refused(resumed):
    """The keys of Adam's settings are Adamax's, too; its state is not."""
    with pytest.raises(CheckpointError, match=r"6.state is of the optimiser Adam, not of Adamax .*pretrain_network_g"):
        resumed({"optim_g": {"type": "Adam"}}, {"optim_g": {"type": "Adamax"}})


@pytest.mark.parametrize("size", [2, 4, 9])
def test_banks_have_the_size_of_the_option_file(option_files, completed, size):
    def model(bank_size: int) -> Any:
        options = option_files.base("isp", "ISPModel", 4)
        options["network_g"] = {"type": "PQDynamicISP", "thumbnail": 32, "grid": [1, 1]}
        options["network_global"] = options["network_g"]
        options["train"]["bank_size"] = bank_size
        return build_model(completed(options))

    first, second = model(4), model(size)
    os.makedirs(first.opt["path"]["models"])
    spec = first.get_bare_model(first.net_g).spec
    sets = spec.squash(torch.randn(6, spec.n_parameters, 1, 1))
    for bank in first.banks.values():
        bank.append(sets)
    first.save_networks(3)
    second.resume_networks(3)
    for bank in second.banks.values():
        assert bank.capacity == size
        assert torch.equal(bank.sets, sets[-min(size, 4) :])
