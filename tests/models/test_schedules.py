"""Schedules against plain references, values of the classes they are named after, and torch's own."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from semiisp_plugin.models.learning_rate import (
    constant,
    cosine_restart_cyclic,
    cosine_with_floor,
    schedule_factor,
    true_cosine,
)
from semiisp_plugin.options import OptionError, Source
from semiisp_plugin.options.schedules import check_scheduler

RETINEXFORMER = {
    "type": "CosineAnnealingRestartCyclicLR",
    "periods": [46000, 104000],
    "restart_weights": [1, 1],
    "eta_mins": [3e-4, 1e-6],
}


def rates(settings: dict, steps: int, peak: float, total_iter: int) -> list[float]:
    """As training goes through them, in an optimiser."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule_factor(settings, total_iter, peak))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            found.append(optimiser.param_groups[0]["lr"])
            scheduler.step()
    return found


def test_cosine_with_floor_computes_what_it_always_did():
    """To the last bit: runs that go on, and recorded results, depend on it."""
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


def test_defaults_are_the_papers():
    assert rates({"type": "CosineAnnealing"}, 51, 2e-5, 50)[-1] == pytest.approx(2e-8, rel=1e-12)
    assert rates({"type": "Constant"}, 3, 0.1, 2) == [0.1] * 3
    assert constant()(10**6) == 1


def test_true_cosine_is_torchs():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=200, eta_min=1e-7)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):  # beyond T_max, where it rises again
            expected.append(optimiser.param_groups[0]["lr"])
            scheduler.step()
    found = rates({"type": "TrueCosineAnnealingLR", "T_max": 200, "eta_min": 1e-7}, 300, 1e-3, 200)
    assert found == pytest.approx(expected, rel=1e-11)
    assert true_cosine(20000, 1e-7, 1e-3)(19999) * 1e-3 == pytest.approx(1.0000616788591386e-07, rel=1e-11)


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


@pytest.mark.parametrize(
    "settings", [{"type": "CosineAnnealing", "start_iter": 3}, RETINEXFORMER | {"periods": [4, 6]}]
)
def test_a_schedule_that_goes_on_equals_an_unbroken_one(settings):
    def start():
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
        return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, schedule_factor(settings, 10, 2e-4))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimiser, scheduler = start()
        for _ in range(5):
            scheduler.step()
        states = optimiser.state_dict(), scheduler.state_dict()
        resumed_optimiser, resumed = start()
        resumed_optimiser.load_state_dict(states[0])
        resumed.load_state_dict(states[1])
        for _ in range(5):
            scheduler.step()
            resumed.step()
            assert resumed_optimiser.param_groups[0]["lr"] == optimiser.param_groups[0]["lr"]


def test_types_of_others_are_left_to_others():
    assert schedule_factor({"type": "MultiStepLR", "milestones": [1]}, 10, 0.1) is None


@pytest.mark.parametrize("kind", ["TrueCosineAnnealingLR", "CosineAnnealingRestartCyclicLR", "CosineAnnealing"])
def test_a_rate_of_zero_cannot_fall_to_another_rate(kind):
    settings = {"type": kind, "T_max": 3, "periods": [3], "eta_min": 0.0}
    with pytest.raises(ValueError, match=r"train:optim_g:lr: is 0; .* give one above 0"):
        schedule_factor(settings, 3, 0.0)


# --- options ---------------------------------------------------------------------------------------------------------


def check(of_training: int = 100, ours: bool = True, lr: float = 1e-4, **settings) -> dict:
    train = {"total_iter": of_training, "optim_g": {"type": "Adam", "lr": lr}, "scheduler": settings}
    check_scheduler(settings, ours, train, Source("o.yml"), ("train", "scheduler"))
    return settings


CYCLIC, TRUE, COSINE = "CosineAnnealingRestartCyclicLR", "TrueCosineAnnealingLR", "CosineAnnealing"


@pytest.mark.parametrize(
    "settings",
    [
        {"type": CYCLIC, "periods": [40, 60], "restart_weights": [1, 1], "eta_mins": [3e-4, 1e-6]},
        {"type": CYCLIC, "periods": [100]},
        {"type": TRUE, "T_max": 100, "eta_min": 1e-7},
        {"type": COSINE, "eta_min": 1e-6, "start_iter": 10},
        {"type": COSINE, "total_iter": 50},
        {"type": "CosineAnnealingRestartLR", "periods": [50, 50], "restart_weights": [1, 1], "eta_min": 1e-7},
    ],
)
def test_good_options(settings, caplog):
    check(**settings)
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "optional"),
    [
        ({"type": COSINE}, ("eta_min", "eta_min_ratio", "total_iter", "start_iter")),
        ({"type": TRUE, "T_max": 100}, ("eta_min",)),
        ({"type": CYCLIC, "periods": [40, 60]}, ("eta_mins", "restart_weights")),
    ],
)
def test_a_key_without_value_is_the_default(settings, optional):
    left_open = check(**settings, **dict.fromkeys(optional))
    assert left_open == settings
    assert schedule_factor(left_open, 100, 1e-4)(50) == schedule_factor(settings, 100, 1e-4)(50)


def test_whole_numbers_with_exponents():
    assert check(of_training=150000, type=CYCLIC, periods=[1.5e5])["periods"] == [150000]
    assert type(check(of_training=150000, type=TRUE, T_max=1.5e5)["T_max"]) is int


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"type": CYCLIC, "periods": [40, 50]},
            r"scheduler:periods: they end after 90 .* after 100 \(train:total_iter\)",
        ),
        ({"type": CYCLIC, "periods": [40, 60], "eta_mins": [0]}, "scheduler:eta_mins: periods has 2 .* and eta_mins 1"),
        (
            {"type": CYCLIC, "periods": [40, 60], "restart_weights": [1]},
            "scheduler:restart_weights: periods has 2 entries and restart_weights 1; give one for each",
        ),
        ({"type": CYCLIC, "periods": []}, "scheduler:periods: expected iterations"),
        ({"type": CYCLIC, "periods": [100, 0]}, r"scheduler:periods: expected .* each at least 1; got \[100, 0\]"),
        ({"type": CYCLIC}, "needs the key 'periods'"),
        ({"type": CYCLIC, "periods": [100], "eta_min": 0}, "no such option; did you mean 'eta_mins'"),
        ({"type": "CosineAnnealingRestartCyclic", "periods": [100]}, "did you mean 'CosineAnnealingRestartCyclicLR'"),
        ({"type": TRUE}, "needs the key 'T_max'"),
        ({"type": TRUE, "T_max": None}, "scheduler:T_max"),
        ({"type": CYCLIC, "periods": None}, "scheduler:periods"),
        ({"type": TRUE, "t_max": 100}, "did you mean 'T_max'"),
        ({"type": TRUE, "T_max": 0}, "scheduler:T_max: expected iterations"),
        ({"type": TRUE, "T_max": 10, "eta_min": -1.0}, "scheduler:eta_min: expected a finite number of 0 or more"),
        ({"type": COSINE, "eta_min": 1e-6, "eta_min_ratio": 0.1}, "scheduler:eta_min: eta_min_ratio is given, too"),
        ({"type": COSINE, "eta_min": 1e-3}, "above the learning rate, 0.0001, .* eta_min_ratio"),
        ({"type": COSINE, "eta_min_ratio": float("nan")}, "scheduler:eta_min_ratio: expected a finite number"),
        (
            {"type": COSINE, "eta_min_ratio": 3.0},
            "scheduler:eta_min_ratio: is a share of the learning rate, 0 to 1; got 3",
        ),
        (
            {"type": CYCLIC, "periods": [40, 60], "eta_mins": [float("nan"), 0]},
            "eta_mins: expected a finite .* got nan",
        ),
        ({"type": CYCLIC, "periods": [40, 60], "restart_weights": [1, -1]}, "restart_weights: expected a finite .* -1"),
        ({"type": COSINE, "start_iter": 100}, r"scheduler:start_iter: .* before the end \(100\); got 100"),
        ({"type": COSINE, "start_iter": -1}, "scheduler:start_iter"),
        ({"type": COSINE, "total_iter": 0}, "scheduler:total_iter: expected iterations, at least 1"),
        ({"type": "CosineAnnealingRestartLR", "periods": [50, 50]}, "periods has 2 entries and restart_weights 1"),
        ({"type": "CosineAnnealingRestartLR", "periods": [50]}, "they end after 50 iterations"),
    ],
)
def test_wrong_options(settings, message):
    with pytest.raises(OptionError, match=message):
        check(**settings)


def test_what_is_cut_off_is_said(caplog):
    check(type=CYCLIC, periods=[80, 80])
    assert (
        "they end after 160 iterations, training after 100 (train:total_iter): the schedule is cut off" in caplog.text
    )


def test_basicsrs_own_models_are_warned(caplog):
    check(ours=False, type="CosineAnnealingRestartLR", periods=[50])
    assert "has no learning rate for what follows" in caplog.text
