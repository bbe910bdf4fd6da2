"""The parameter bank: what it keeps, draws, saves, and says of itself."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from semiisp_plugin.isp import ISPSpec, ParameterBank
from semiisp_plugin.isp.parameters import XYZ_TO_SRGB

VARIANTS = {
    36: ISPSpec(),
    45: ISPSpec(inverse_tone_mapping=True, gamma_start=1.0),
    42: ISPSpec(tie_xy=False, base_matrix=XYZ_TO_SRGB),
    51: ISPSpec(tie_xy=False, inverse_tone_mapping=True),
}


def numbered(spec: ISPSpec, first: int, count: int, grid: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """Sets that consist of their number alone, so that every value shows which set it came from."""
    return torch.arange(first, first + count).float().view(-1, 1, 1, 1).expand(-1, spec.n_parameters, *grid)


def numbered_bank(n: int, spec: ISPSpec = VARIANTS[36], capacity: int | None = None, grid=(1, 1)) -> ParameterBank:
    bank = ParameterBank(spec, capacity or n, grid)
    bank.append(numbered(spec, 0, n, grid))
    return bank


def random_bank(spec: ISPSpec, n: int, grid: tuple[int, int] = (1, 1), seed: int = 0, spread=1.0) -> ParameterBank:
    bank = ParameterBank(spec, n, grid)
    bank.append(spec.squash(spread * torch.randn(n, spec.n_parameters, *grid, generator=seeded(seed))))
    return bank


# --- the last N sets ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 23), max_size=12), st.integers(0, 12))
def test_the_last_sets_in_order(capacity, batches, saved_before):
    """Against a list, for appends of any sizes, with a save and load in between."""
    spec = VARIANTS[36]
    bank, model, following = ParameterBank(spec, capacity), [], 0
    for step, size in enumerate(batches):
        if step == saved_before:
            bank = ParameterBank.from_state_dict(bank.state_dict())
        bank.append(numbered(spec, following, size))
        model += range(following, following + size)
        following += size
        expected = model[-capacity:]
        assert len(bank) == len(expected)
        assert bank.sets[:, 0, 0, 0].tolist() == expected
        # Draws see the same sets, in the same order.
        if expected:
            drawn = bank.draw(20, seeded(step))[:, 0, 0, 0]
            order = torch.randint(len(expected), (20,), generator=seeded(step))
            assert drawn.tolist() == torch.tensor(expected)[order].tolist()


def test_the_bank_is_independent_of_what_goes_in_and_out():
    spec = VARIANTS[36]
    batch = torch.full((2, 36, 2, 2), 0.5)
    bank = ParameterBank(spec, 4, (2, 2))
    bank.append(batch)
    batch.zero_()
    state = bank.state_dict()
    loaded = ParameterBank.from_state_dict(state)
    for tensor in (bank.sets, bank.draw(3, seeded(0)), bank.draw(3, seeded(0), per_function=True), state["sets"]):
        tensor.zero_()
    assert (bank.sets == 0.5).all()
    assert (loaded.sets == 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types(dtype):
    spec = VARIANTS[36]
    sets = spec.squash(torch.randn(3, 36, 2, 1, generator=seeded(1), dtype=torch.float64)).to(dtype)
    bank = ParameterBank(spec, 3, (2, 1))
    bank.append(sets.requires_grad_())
    assert bank.sets.dtype == torch.float32
    assert not bank.sets.requires_grad
    assert torch.equal(bank.sets, sets.detach().float())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_sets_that_are_not_finite_are_left_out_and_counted(bad):
    """One bad value anywhere in a set; 1e300 is infinite in the bank's float32."""
    spec = VARIANTS[36]
    bank = ParameterBank(spec, 3, (2, 2))
    batch = numbered(spec, 0, 5, (2, 2)).double().clone()
    batch[1, 7, 1, 0] = bad
    batch[4] = bad
    bank.append(batch)
    # The last three of those that can be used: a bad set takes nobody's place.
    assert bank.sets[:, 0, 0, 0].tolist() == [0, 2, 3]
    assert bank.non_finite == 2
    bank.append(torch.full((1, 36, 2, 2), bad, dtype=torch.float64))
    assert bank.sets[:, 0, 0, 0].tolist() == [0, 2, 3]
    again = ParameterBank.from_state_dict(bank.state_dict())
    assert again.non_finite == 3
    assert torch.equal(again.sets, bank.sets)


def test_sets_of_another_isp_or_grid_are_refused():
    bank = numbered_bank(2)
    with pytest.raises(ValueError, match=r"expected \(N, 36, h, w\)"):
        bank.append(torch.zeros(1, 45, 1, 1))
    with pytest.raises(ValueError, match=r"\(2, 2\) grid do not fit a bank of \(1, 1\)"):
        bank.append(torch.zeros(1, 36, 2, 2))
    assert len(bank) == 2


def test_impossible_banks():
    with pytest.raises(ValueError, match="capacity of at least 1, not 0"):
        ParameterBank(ISPSpec(), 0)
    with pytest.raises(ValueError, match="grid of at least 1x1"):
        ParameterBank(ISPSpec(), 5, (0, 2))
    with pytest.raises(ValueError, match="invertible"):
        ISPSpec(base_matrix=((float("nan"), 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


# --- draws ----------------------------------------------------------------------------------------------------------


def p_value(counts: np.ndarray) -> float:
    """Of Pearson's chi-square test against a uniform distribution."""
    expected = counts.sum() / counts.size
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.size - 1))


def parts_of(bank: ParameterBank, drawn: torch.Tensor) -> np.ndarray:
    """The set that each function's values came from, ``(n, functions)``; they must all come from one."""
    columns = []
    for where in bank.spec.slices().values():
        part = drawn[:, where].flatten(1)
        assert (part == part[:, :1]).all()
        columns.append(part[:, 0])
    return torch.stack(columns, 1).long().numpy()


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_whole_draws_are_whole_and_uniform(grid):
    bank = numbered_bank(50, grid=grid)
    drawn = bank.draw(10_000, seeded(2))
    assert drawn.shape == (10_000, 36, *grid)
    parts = parts_of(bank, drawn)
    assert (parts == parts[:, :1]).all()
    assert p_value(np.bincount(parts[:, 0], minlength=50)) > 0.01


@pytest.mark.parametrize("k", [36, 45])
def test_per_function_draws_mix_the_functions_independently(k):
    """Every combination occurs, all equally often: that is uniform margins and independence in one."""
    bank = numbered_bank(4, VARIANTS[k])
    n_functions = len(bank.spec.slices())
    assert n_functions == {36: 4, 45: 5}[k]
    combinations = 4**n_functions
    parts = parts_of(bank, bank.draw(40 * combinations, seeded(3), per_function=True))
    assert set(map(tuple, parts.tolist())) == set(itertools.product(range(4), repeat=n_functions))
    joint = np.bincount(np.ravel_multi_index(tuple(parts.T), (4,) * n_functions), minlength=combinations)
    assert p_value(joint) > 0.01
    for column in parts.T:
        assert p_value(np.bincount(column, minlength=4)) > 0.01


def test_per_function_draws_of_local_sets_take_a_function_from_one_image():
    bank = numbered_bank(7, grid=(2, 3))
    parts = parts_of(bank, bank.draw(200, seeded(4), per_function=True))
    assert len(np.unique(parts, axis=0)) > 150  # of 7^4


@pytest.mark.parametrize("per_function", [False, True])
def test_draws_depend_on_the_generator_alone(per_function):
    bank = numbered_bank(30)
    generator = seeded(5)
    bank.draw(11, generator, per_function=per_function)
    state = generator.get_state()
    first = bank.draw(40, generator, per_function=per_function)
    assert not torch.equal(bank.draw(40, generator, per_function=per_function), first)
    generator.set_state(state)
    torch.manual_seed(0)  # the global generator has no part in it
    assert torch.equal(bank.draw(40, generator, per_function=per_function), first)
    generator.set_state(state)
    one_by_one = torch.cat([bank.draw(1, generator, per_function=per_function) for _ in range(40)])
    # As documented: per function, the indices of one function come before those of the next.
    assert torch.equal(one_by_one, first) is not per_function
    assert bank.draw(0, generator, per_function=per_function).shape == (0, 36, 1, 1)


@pytest.mark.parametrize("per_function", [False, True])
def test_a_full_bank_draws_the_same_after_saving(per_function):
    """The oldest set of a ring lies anywhere in it, and a saved bank begins with it."""
    bank = numbered_bank(5)
    bank.append(numbered(bank.spec, 5, 3))
    loaded = ParameterBank.from_state_dict(bank.state_dict())
    kwargs = {"per_function": per_function}
    assert torch.equal(loaded.draw(50, seeded(6), **kwargs), bank.draw(50, seeded(6), **kwargs))
    # ... and draws alike afterwards.
    for each in (bank, loaded):
        each.append(numbered(bank.spec, 8, 4))
    assert torch.equal(loaded.sets, bank.sets)


# --- saved banks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", VARIANTS)
def test_a_saved_bank_loads_with_weights_only(k, tmp_path):
    bank = random_bank(VARIANTS[k], 6, (2, 2))
    torch.save(bank.state_dict(), tmp_path / "bank.pth")
    loaded = ParameterBank.from_state_dict(torch.load(tmp_path / "bank.pth", weights_only=True))
    assert torch.equal(loaded.sets, bank.sets)
    assert (loaded.spec, loaded.capacity, loaded.grid, loaded.non_finite) == (VARIANTS[k], 6, (2, 2), 0)


def test_a_state_from_before_non_finite_sets_were_counted():
    state = numbered_bank(3, capacity=5).state_dict()
    del state["non_finite"]
    loaded = ParameterBank.from_state_dict(state)
    assert (len(loaded), loaded.capacity, loaded.non_finite) == (3, 5, 0)


def test_an_empty_bank_can_be_saved():
    loaded = ParameterBank.from_state_dict(ParameterBank(ISPSpec(), 4, (2, 3)).state_dict())
    assert (len(loaded), loaded.capacity, loaded.grid) == (0, 4, (2, 3))


def poisoned(state):
    state["sets"][1, 3] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("sets"), "it lacks sets."),
        (lambda s: (s.pop("spec"), s.pop("capacity")), "it lacks capacity, spec."),
        (lambda s: s.update(sets=s["sets"][:, :30]), "do not fit this ISP variant: expected (N, 36, h, w)"),
        (lambda s: s.update(sets=s["sets"][..., 0]), "expected (N, 36, h, w)"),
        (lambda s: s.update(sets=s["sets"][..., :0]), "grid of at least 1x1"),
        (lambda s: s.update(sets=[1, 2]), "sets is list, not a floating-point tensor"),
        (lambda s: s.update(sets=s["sets"].int()), "sets is torch.int32, not a floating-point tensor"),
        (lambda s: s.update(capacity=3), "it holds 4 sets, more than its capacity of 3"),
        (lambda s: s.update(capacity=None), "capacity is None, not a whole number"),
        (lambda s: s.update(capacity=0, sets=s["sets"][:0]), "capacity of at least 1"),
        (lambda s: s.update(non_finite=-1), "non_finite is -1"),
        (poisoned, "1 of its 4 sets hold NaN or infinite values"),
        (lambda s: s.update(spec=None), "An ISP is described by base_matrix, gamma_start"),
        (lambda s: s["spec"].pop("it_sign"), "An ISP is described by base_matrix, gamma_start"),
        (lambda s: s["spec"].update(colour=1), "An ISP is described by base_matrix, gamma_start"),
        (lambda s: s["spec"].update(gamma_start="big"), "a value of a wrong type"),
        (lambda s: s["spec"].update(base_matrix=[1, 2]), "a value of a wrong type"),
        (lambda s: s["spec"].update(it_sign=3), "it_sign must be 1 or -1"),
    ],
)
def test_damaged_states_say_what_is_wrong_and_what_to_do(damage, message):
    state = numbered_bank(4).state_dict()
    damage(state)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        ParameterBank.from_state_dict(state)
    assert str(error.value).startswith("A saved parameter bank cannot be used: ")
    assert "Take another checkpoint of that run, or train f_ISP again" in str(error.value)


def test_a_state_that_is_none():
    with pytest.raises(ValueError, match="of type list, not a dictionary"):
        ParameterBank.from_state_dict([1])


# --- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
@pytest.mark.parametrize("k", VARIANTS)
def test_statistics_against_numpy(k, grid):
    spec = VARIANTS[k]
    bank = random_bank(spec, 41, grid, spread=2.0)
    sets = bank.sets.double().numpy()
    rows = bank.statistics()
    assert len(rows) == k
    starts = spec.squash(torch.zeros(1, k, 1, 1, dtype=torch.float64)).flatten().tolist()
    ends = [spec.squash(torch.full((1, k, 1, 1), z, dtype=torch.float64)).flatten().tolist() for z in (-40.0, 40.0)]
    saturated = 0.0
    for channel, row in enumerate(rows):
        values = sets[:, channel].reshape(41, -1)
        expected = {
            "low": ends[0][channel],
            "high": ends[1][channel],
            "start": starts[channel],
            "min": values.min(),
            "p5": np.quantile(values, 0.05),
            "median": np.median(values),
            "p95": np.quantile(values, 0.95),
            "max": values.max(),
            "mean": values.mean(),
            "std": values.std(),
            "between_images": values.mean(1).std(),
            "within_image": values.std(1).mean(),
        }
        units = np.log if row.parameter in ("g1", "g3", "gain") else np.asarray
        low, high = units(row.low), units(row.high)
        expected["at_low"] = (units(values) <= low + 0.01 * (high - low)).mean()
        expected["at_high"] = (units(values) >= high - 0.01 * (high - low)).mean()
        saturated += row.at_low + row.at_high
        found = asdict(row)
        for name, value in expected.items():
            # Rounding of sums of some hundred float64 numbers of size 1.
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (row, name)
    assert saturated > 0.5


def test_rows_are_in_the_order_of_the_channels():
    rows = ParameterBank(VARIANTS[45], 1)
    rows.append(torch.arange(45.0).view(1, 45, 1, 1))
    names = [(s.function, s.parameter, s.channel, s.mean) for s in rows.statistics()]
    assert names[:4] == [
        ("it", "g3", "red", 0),
        ("it", "g3", "green", 1),
        ("it", "g3", "blue", 2),
        ("it", "g4", "red", 3),
    ]
    assert [name[2] for name in names[9:15]] == ["rg", "rb", "gr", "gb", "br", "bg"]
    assert names[-1] == ("cs", "h", "blue", 44)


def test_saturated_parameters_show():
    """At an end: all values of an encoder whose output ran away."""
    spec = VARIANTS[51]
    bank = ParameterBank(spec, 2)
    bank.append(spec.squash(torch.full((1, 51, 1, 1), -12.0)))
    bank.append(spec.squash(torch.full((1, 51, 1, 1), 12.0)))
    for row in bank.statistics():
        assert (row.at_low, row.at_high) == (0.5, 0.5), row


def test_of_a_single_set_and_of_constant_ones():
    spec = VARIANTS[36]
    for n in (1, 3):
        bank = ParameterBank(spec, n, (2, 2))
        bank.append(spec.squash(torch.zeros(n, 36, 2, 2)))
        for row in bank.statistics():
            assert row.min == row.p5 == row.median == row.p95 == row.max == pytest.approx(row.start, abs=1e-6)
            assert row.std == pytest.approx(0, abs=1e-12)
            assert row.between_images == pytest.approx(0, abs=1e-12)
            assert row.within_image == pytest.approx(0, abs=1e-12)


def test_statistics_keep_small_spreads():
    """A spread of 1e-6 about 0.5 survives: sums are taken in float64."""
    bank = ParameterBank(VARIANTS[36], 20_000)
    noise = 1e-6 * torch.randn(20_000, 36, 1, 1, generator=seeded(8), dtype=torch.float64)
    bank.append(0.5 + noise)
    for row in bank.statistics():
        assert row.std == pytest.approx(1e-6, rel=0.05)


def test_an_empty_bank_says_what_to_do():
    bank = ParameterBank(ISPSpec(), 4)
    with pytest.raises(ValueError, match="train f_ISP first"):
        bank.statistics()
    with pytest.raises(ValueError, match="train f_ISP first"):
        bank.draw(1, torch.Generator())
