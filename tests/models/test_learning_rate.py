"""Schedules against plain references, values of the classes they are named after, and torch's own."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

from semiisp_plugin.models.learning_rate import (
    cosine_restart_cyclic,
    cosine_with_floor,
    schedule_factor,
)

RETINEXFORMER = {
    "type": "CosineAnnealingRestartCyclicLR",
    "periods": [46000, 104000],
    "restart_weights": [1, 1],
    "eta_mins": [3e-4, 1e-6],
}


def rates(settings: dict, steps: int, peak: float, total_iter: int) -> list[float]:
    """As training goes through them."""
    factor = schedule_factor(settings, total_iter, peak)
    return [peak * factor(step) for step in range(steps)]


def test_cosine_with_floor_computes_what_it_always_did():
    """To the last bit: resumed runs, and recorded results, depend on it."""
    factor = cosine_with_floor(40000, 1e-3)
    for step in (0, 1, 777, 20000, 39999, 40000, 50000):
        t = min(step, 40000) / 40000
        assert factor(step) == 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * t))


def test_cosine_that_begins_late():
    factor, plain = cosine_with_floor(100, 0.01, start_iter=20), cosine_with_floor(80, 0.01)
    assert [factor(step) for step in range(21)] == [1.0] * 21
    assert [factor(20 + step) for step in range(90)] == [plain(step) for step in range(90)]


def test_cosine_with_an_absolute_floor():
    """LLFormer's 1e-4 to 1e-6."""
    absolute = rates({"type": "CosineAnnealing", "eta_min": 1e-6}, 101, 1e-4, 100)
    relative = rates({"type": "CosineAnnealing", "eta_min_ratio": 0.01}, 101, 1e-4, 100)
    assert absolute == pytest.approx(relative, rel=1e-12)
    assert absolute[-1] == pytest.approx(1e-6, rel=1e-12)


def test_one_floor_for_all_is_basicsrs():
    peak, settings = 2e-4, {"periods": [4, 3], "restart_weights": [1, 0.5], "eta_min": 1e-6}
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=peak)
    theirs = CosineAnnealingRestartLR(optimiser, **settings)
    expected = []
    for step in range(8):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if step < 7:  # it knows no rate after its last period
            theirs.step()
    assert rates({"type": "CosineAnnealingRestartLR", **settings}, 8, peak, 8) == pytest.approx(expected, rel=1e-12)


def test_defaults_are_the_papers():
    assert rates({"type": "CosineAnnealing"}, 51, 2e-5, 50)[-1] == pytest.approx(2e-8, rel=1e-12)
    assert rates({"type": "Constant"}, 3, 0.1, 2) == [0.1] * 3
    assert schedule_factor({"type": "Constant"}, 10, 1e-3)(10**6) == 1


def test_cosine_to_a_floor_is_torchs():
    """And with it NAFNet's ``TrueCosineAnnealingLR``, whose ``T_max`` is the end of the training."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=200, eta_min=1e-7)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(201):
            expected.append(optimiser.param_groups[0]["lr"])
            scheduler.step()
    found = rates({"type": "CosineAnnealing", "eta_min": 1e-7}, 201, 1e-3, 200)
    assert found == pytest.approx(expected, rel=1e-11)
    last = schedule_factor({"type": "CosineAnnealing", "eta_min": 1e-7}, 20000, 1e-3)(19999) * 1e-3
    assert last == pytest.approx(1.0000616788591386e-07, rel=1e-11)


def test_steps_are_torchs():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[2, 5], gamma=0.2)
    expected = []
    for _ in range(8):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates({"type": "MultiStepLR", "milestones": [5, 2], "gamma": 0.2}, 8, 0.3, 8) == pytest.approx(expected)


def test_cyclic_cosine_is_retinexformers():
    """Recorded from the class of its repository, with its options for LOL: the rate rises in the first period."""
    recorded = {
        0: 0.0002,
        1: 0.00020000000011660685,
        11500: 0.00021464466094067263,
        23000: 0.00025,
        45999: 0.0002999999998833931,
        46000: 0.0003,
        46001: 0.0001999999999546031,
        98000: 0.0001005,
        149999: 1.0000000453968898e-06,
    }
    factor = schedule_factor(RETINEXFORMER, 150000, 2e-4)
    assert {step: 2e-4 * factor(step) for step in recorded} == pytest.approx(recorded, rel=1e-14)


def test_cyclic_cosine_against_a_plain_loop():
    periods, weights, floors, peak = [3, 1, 4], [1, 0.5, 0.25], [0.1, 0.0, 0.3], 0.8
    expected = [peak]
    for period, weight, floor in zip(periods, weights, floors, strict=True):
        for i in range(1, period + 1):
            expected.append(floor + weight * (peak - floor) * (1 + math.cos(math.pi * i / period)) / 2)
    factor = cosine_restart_cyclic(periods, weights, floors, peak)
    assert [peak * factor(step) for step in range(9)] == pytest.approx(expected)
    assert factor(20) == factor(8)


def test_cyclic_defaults():
    settings = {"type": "CosineAnnealingRestartCyclicLR", "periods": [2, 2]}
    assert rates(settings, 5, 1.0, 4) == pytest.approx([1, 0.5, 0, 0.5, 0], abs=1e-15)


@pytest.mark.parametrize("kind", ["CosineAnnealingRestartCyclicLR", "CosineAnnealing"])
def test_a_rate_of_zero_cannot_fall_to_another_rate(kind):
    settings = {"type": kind, "periods": [3], "eta_min": 0.0}
    with pytest.raises(ValueError, match=r"train:optim_g:lr: is 0; .* give one above 0"):
        schedule_factor(settings, 3, 0.0)
