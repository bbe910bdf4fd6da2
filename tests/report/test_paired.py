"""Intervals of paired differences: known cases, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semiisp_plugin.report import paired
from semiisp_plugin.report.paired import Interval, Values, paired_difference


def values_of(table: np.ndarray) -> dict[tuple[int, str], float]:
    """Of an array (seeds, images)."""
    return {(int(seed), f"image {image}"): float(value) for (seed, image), value in np.ndenumerate(table)}


def difference_of(a: Values, b: Values) -> Interval:
    found = paired_difference(a, b)
    assert found
    return found


def difference_to_zero(table: np.ndarray) -> Interval:
    return difference_of(values_of(table), values_of(np.zeros_like(table)))


@pytest.mark.parametrize("seeds", [1, 4])
def test_equal_differences_leave_nothing_open(seeds):
    b = np.random.default_rng(0).normal(20, 3, (seeds, 9))
    found = difference_of(values_of(b + 0.5), values_of(b))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (found.images, found.seeds) == (9, seeds)
    assert found.above_zero
    assert str(found) == "+0.50 [+0.50, +0.50]"


@pytest.mark.parametrize(("seed_effect", "image_effect"), [(0.0, 0.0), (0.0, 1.0), (0.4, 0.0), (0.3, 0.5)])
def test_intervals_hold_the_true_mean(monkeypatch, seed_effect, image_effect):
    """About 95 of 100; far fewer, were the effect of an image or a seed not drawn as one."""
    monkeypatch.setattr(paired, "RESAMPLES", 300)
    rng = np.random.default_rng(3)
    shape = 16, 12
    held = []
    for _ in range(200):
        effects = seed_effect * rng.normal(size=(16, 1)) + image_effect * rng.normal(size=(1, 12))
        found = difference_to_zero(0.7 + effects + 0.3 * rng.normal(size=shape))
        held.append(found.low <= 0.7 <= found.high)
    at_most = 1.0 if seed_effect == image_effect == 0 else 0.985  # noise alone is counted three times
    assert 0.87 <= np.mean(held) <= at_most


@pytest.mark.parametrize("axis", [0, 1])
def test_width_is_that_of_what_differs(axis):
    """With an effect of seeds (or images) alone: the bootstrap's standard error of a mean of so many."""
    effect = np.random.default_rng(1).normal(size=40)
    table = np.broadcast_to(effect[:, None] if axis == 0 else effect, (40, 40))
    found = difference_to_zero(table)
    assert found.high - found.low == pytest.approx(2 * 1.96 * effect.std() / math.sqrt(40), rel=0.05)
    assert found.mean == pytest.approx(effect.mean())


def test_seeds_and_images_are_drawn_independently():
    """Were they drawn alike, the diagonal, where the difference is, would weigh about twice as much in every draw."""
    found = difference_to_zero(np.eye(12) * 12 - 1)
    assert found.mean == pytest.approx(0)
    assert found.low < -0.3


def test_one_seed_speaks_of_the_images():
    effect = np.random.default_rng(2).normal(size=50)
    found = difference_to_zero(effect[None])
    assert found.seeds == 1
    assert found.high - found.low == pytest.approx(2 * 1.96 * effect.std() / math.sqrt(50), rel=0.05)


def test_swapping_the_sides_turns_the_sign():
    rng = np.random.default_rng(4)
    a, b = (values_of(rng.normal(size=(3, 20))) for _ in range(2))
    one, other = difference_of(a, b), difference_of(b, a)
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))


def test_only_what_both_have_counts():
    a = {(0, "x"): 5.0, (0, "y"): 3.0, (1, "x"): 9.0, (2, "z"): 100.0}
    b = {(0, "x"): 4.0, (0, "y"): 1.0, (1, "x"): 6.0, (3, "z"): -100.0}
    found = difference_of(a, b)
    assert found.mean == pytest.approx(2)  # of 1, 2 and 3
    assert (found.low, found.high) == pytest.approx((1, 3), abs=0.01)
    assert (found.images, found.seeds) == (2, 2)


def test_repetitions_may_have_other_images():
    """Each image counts once a repetition that has it; what no draw holds is not counted as 0."""
    lone = {(seed, f"of {seed}"): 2.0 for seed in range(6)}
    found = difference_of(lone, dict.fromkeys(lone, 0.0))
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2, 2))
    assert (found.images, found.seeds) == (6, 6)
    uneven = {(0, "a"): 1.0, (1, "a"): 1.0, (1, "b"): 4.0}
    assert difference_of(uneven, dict.fromkeys(uneven, 0.0)).mean == pytest.approx(2)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({(0, "x"): 1.0}, {(1, "x"): 1.0}),
        ({(0, "x"): 1.0}, {(0, "y"): 1.0}),
        ({}, {}),
        ({(0, "x"): 1.0, (0, "y"): math.nan}, {(0, "x"): 1.0, (0, "y"): 1.0}),
        ({(0, "x"): math.inf}, {(0, "x"): math.inf}),
    ],
    ids=["other seed", "other image", "nothing", "NaN", "infinite"],
)
def test_no_interval(a, b):
    assert paired_difference(a, b) is None


def test_what_is_not_shared_may_be_nan():
    assert difference_of({(0, "x"): 1.0, (0, "y"): math.nan}, {(0, "x"): 0.0}).mean == 1


def test_the_same_draws_at_every_call_in_any_order():
    values = values_of(np.random.default_rng(5).normal(size=(3, 8)))
    zero = dict.fromkeys(values, 0.0)
    first = difference_of(values, zero)
    paired._draws.cache_clear()
    assert difference_of(dict(reversed(values.items())), zero) == first
