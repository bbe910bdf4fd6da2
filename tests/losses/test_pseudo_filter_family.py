"""The registered filters against a plain NumPy reading of each, and `PseudoFilter` with any of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiisp_plugin.losses.filters import filter_pseudo, quantile, semi_supervised_loss, soft, threshold
from semiisp_plugin.losses.pseudo_filter import PseudoFilter
from semiisp_plugin.toolbox import FILTER_REGISTRY

# --- plain readings -------------------------------------------------------------------------------------------------


def plain_threshold(losses, is_pseudo, reference, beta):
    return np.array(
        [
            1.0 if not p or (np.isfinite(x) and x <= beta * reference) else 0.0
            for x, p in zip(losses, is_pseudo, strict=True)
        ]
    )


def plain_quantile(losses, is_pseudo, keep):
    weights = np.where(is_pseudo, 0.0, 1.0)
    n = int(is_pseudo.sum())
    k = 0 if keep == 0 or n == 0 else max(1, math.floor(keep * n + 0.5))
    finite = sorted(x for x, p in zip(losses, is_pseudo, strict=True) if p and np.isfinite(x))
    if k and finite:
        last = finite[min(k, len(finite)) - 1]
        weights[is_pseudo & np.isfinite(losses) & (losses <= last)] = 1.0
    return weights


def plain_soft(losses, is_pseudo, reference, beta, temperature):
    weights = []
    for x, p in zip(losses, is_pseudo, strict=True):
        if not p:
            weights.append(1.0)
        elif not np.isfinite(x) or np.isnan(reference):
            weights.append(0.0)
        elif x <= beta * reference:
            weights.append(1.0)
        elif temperature * reference == 0:
            weights.append(0.0)
        else:
            weights.append(math.exp(-0.5 * ((x - beta * reference) / (temperature * reference)) ** 2))
    return np.array(weights)


finite = st.integers(0, 640).map(lambda value: value / 64)
loss = st.one_of(finite, st.sampled_from([math.nan, math.inf]))
batch = st.lists(st.tuples(loss, st.booleans()), min_size=1, max_size=24)
references = st.one_of(st.integers(0, 320).map(lambda v: v / 64), st.just(math.nan))
betas = st.sampled_from([0.0, 0.5, 1.0, 1.25, 2.0])


def columns(samples) -> tuple[np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]:
    losses, flags = np.array([x for x, _ in samples]), np.array([p for _, p in samples])
    return losses, flags, torch.tensor(losses, requires_grad=True), torch.tensor(flags)


@settings(max_examples=150)
@given(batch, references, betas)
def test_threshold(samples, reference, beta):
    losses, flags, loss, flag = columns(samples)
    weights = threshold(loss, flag, reference=reference, beta=beta)
    assert weights.tolist() == plain_threshold(losses, flags, reference, beta).tolist()
    assert torch.equal(weights, filter_pseudo(loss, flag, beta=beta, reference=reference))


@settings(max_examples=150)
@given(batch, st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)))
def test_quantile(samples, keep):
    losses, flags, loss, flag = columns(samples)
    weights = quantile(loss, flag, reference=math.nan, keep=keep)
    assert weights.tolist() == plain_quantile(losses, flags, keep).tolist()


@settings(max_examples=150)
@given(batch, references, betas, st.sampled_from([0.0, 0.1, 0.5, 2.0]))
def test_soft(samples, reference, beta, temperature):
    losses, flags, loss, flag = columns(samples)
    weights = soft(loss, flag, reference=reference, beta=beta, temperature=temperature)
    np.testing.assert_allclose(weights, plain_soft(losses, flags, reference, beta, temperature), rtol=1e-12, atol=0)


FILTERS = {
    "threshold": {"beta": 1.25},
    "quantile": {"keep": 0.6},
    "soft": {"beta": 1.0, "temperature": 0.5},
}


def test_every_filter_of_the_plugin_is_covered():
    assert {name for name, it in FILTER_REGISTRY if it.__module__ == threshold.__module__} == set(FILTERS)


def weigh(name: str, loss: torch.Tensor, flag: torch.Tensor, reference: float) -> torch.Tensor:
    return FILTER_REGISTRY.get(name)(loss, flag, reference=reference, **FILTERS[name])


@pytest.mark.parametrize("name", FILTERS)
@settings(max_examples=60)
@given(batch, st.integers(0, 320).map(lambda v: v / 64), st.randoms(use_true_random=False))
def test_what_holds_for_all(name, samples, reference, shuffler):
    """In [0, 1], real 1, not finite 0, no graph, falling with the loss, indifferent to the order."""
    losses, flags, loss, flag = columns(samples)
    weights = weigh(name, loss, flag, reference)
    assert weights.dtype == loss.dtype
    assert not weights.requires_grad
    assert bool(((weights >= 0) & (weights <= 1)).all())
    assert bool((weights[~flag] == 1).all())
    assert bool((weights[flag & ~torch.isfinite(loss)] == 0).all())
    usable = np.flatnonzero(flags & np.isfinite(losses))
    falling = weights[usable[np.argsort(losses[usable], kind="stable")]]
    assert bool((falling.diff() <= 0).all())
    order = list(range(len(samples)))
    shuffler.shuffle(order)
    assert torch.equal(weigh(name, loss[order], flag[order], reference), weights[order])


@pytest.mark.parametrize("name", FILTERS)
@settings(max_examples=60)
@given(st.lists(finite, min_size=1, max_size=5), st.lists(loss, max_size=12))
def test_gradient_comes_from_kept_samples_alone(name, real, fake):
    _, flags, loss, flag = columns([(x, False) for x in real] + [(x, True) for x in fake])
    weights = weigh(name, loss, flag, float(np.mean(real)))
    total = semi_supervised_loss(loss, weights)
    total.backward()
    assert math.isfinite(total.item())
    np.testing.assert_allclose(loss.grad, weights / weights.sum(), rtol=1e-12, atol=0)
    assert bool((loss.grad[flags] == 0)[weights[flags] == 0].all())


@pytest.mark.parametrize("name", FILTERS)
def test_odd_batches(name):
    no_pseudo = weigh(name, torch.tensor([1.0, 3.0]), torch.tensor([False, False]), 2.0)
    assert no_pseudo.tolist() == [1, 1]
    no_real = weigh(name, torch.tensor([1.0, 30.0, math.nan]), torch.tensor([True] * 3), 2.0)
    assert no_real[[0, 2]].tolist() == [1, 0]
    assert no_real[1] < 1e-3 or name == "quantile"
    assert weigh(name, torch.tensor([5.0]), torch.tensor([False]), 1.0).tolist() == [1]
    assert weigh(name, torch.tensor([math.nan]), torch.tensor([True]), 1.0).tolist() == [0]
    assert weigh(name, torch.empty(0), torch.empty(0, dtype=torch.bool), 1.0).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FILTERS)
def test_half_precision(name, dtype):
    loss, flag = torch.tensor([1.0, 0.5, 1.5, 4.0, math.inf]), torch.tensor([False, True, True, True, True])
    weights = weigh(name, loss.to(dtype), flag, 1.0)
    assert weights.dtype == dtype
    torch.testing.assert_close(weights.float(), weigh(name, loss, flag, 1.0), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", FILTERS)
def test_nothing_is_read_back_from_the_device(name):
    """On a device without values, any look at one fails; the flags are on the CPU, as a loader gives them."""
    pseudo_filter = PseudoFilter(type=name, options=FILTERS[name], reference="running")
    flag = torch.tensor([False, True, True])
    for _ in range(10):
        pseudo_filter(torch.rand(3), flag)
    pseudo_filter._running = torch.zeros((), dtype=torch.float64, device="meta")
    for _ in range(2):
        result = pseudo_filter(torch.rand(3, device="meta"), flag, reference=torch.rand((), device="meta"))
    assert result.weights.device.type == "meta"


def test_quantile_keeps_at_least_one_and_ties():
    flag = torch.tensor([False] + [True] * 4)
    loss = torch.tensor([1.0, 3.0, 2.0, 2.0, 9.0])
    assert quantile(loss, flag, keep=0.01).tolist() == [1, 0, 1, 1, 0]  # k = 1, and what is equal to it
    assert quantile(loss, flag, keep=0.625).tolist() == [1, 1, 1, 1, 0]  # 2.5 is rounded up
    assert quantile(loss, flag, keep=0.0).tolist() == [1, 0, 0, 0, 0]
    assert quantile(loss, flag, keep=1.0).tolist() == [1] * 5


def test_soft_weight_is_half_where_it_is_said_to_be():
    half = 1.0 + 0.5 * math.sqrt(2 * math.log(2))
    weights = soft(
        torch.tensor([half], dtype=torch.float64), torch.tensor([True]), reference=1, beta=1, temperature=0.5
    )
    assert weights.item() == pytest.approx(0.5, rel=1e-12)
    assert math.sqrt(2 * math.log(2)) == pytest.approx(1.18, abs=0.005)


def test_soft_weights_give_the_weighted_mean_of_equation_13():
    loss, flag = (
        torch.tensor([1.0, 1.5, 4.0], dtype=torch.float64, requires_grad=True),
        torch.tensor([False, True, True]),
    )
    w = np.array([1.0, math.exp(-0.5), math.exp(-0.5 * 36)])
    total = semi_supervised_loss(loss, soft(loss, flag, reference=1.0, beta=1.0, temperature=0.5))
    assert total.item() == pytest.approx(float(w @ [1.0, 1.5, 4.0] / w.sum()), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("quantile", {"keep": 1.1}, ValueError, r"share.*0 \.\.\. 1"),
        ("quantile", {"keep": math.nan}, ValueError, "keep"),
        ("soft", {"beta": 1.0, "temperature": -1}, ValueError, "temperature"),
        ("soft", {"beta": -1.0, "temperature": 1}, ValueError, "beta"),
        ("soft", {"beta": 1.0}, TypeError, "temperature"),
        ("threshold", {}, TypeError, "beta"),
        ("threshold", {"beta": 1.0, "keep": 0.5}, TypeError, "keep"),
        ("threshold", {"beta": "table6"}, ValueError, "table6"),
        ("treshold", {"beta": 1.0}, KeyError, "'treshold' is registered. Registered: .*quantile, soft, threshold"),
    ],
)
def test_wrong_options_are_refused_when_it_is_made(name, options, error, message):
    with pytest.raises(error, match=message):
        PseudoFilter.from_options({"type": name, **options})


def test_negative_reference():
    for name in ("threshold", "soft"):
        with pytest.raises(ValueError, match="negative losses"):
            weigh(name, torch.tensor([1.0]), torch.tensor([True]), -1.0)


# --- the class with any filter --------------------------------------------------------------------------------------

BATCH = torch.tensor([1.0, 3.0, 0.5, 2.0, 9.0, math.nan]), torch.tensor([False, False, True, True, True, True])


@pytest.mark.parametrize("name", FILTERS)
def test_the_class_gives_the_functions_weights(name):
    result = PseudoFilter.from_options({"type": name, **FILTERS[name]})(*BATCH)
    assert torch.equal(result.weights, weigh(name, *BATCH, reference=2.0))
    assert result.reference.item() == 2
    assert result.kept_ratio.item() == pytest.approx(float(result.weights[2:].mean()))
    beta = FILTERS[name].get("beta")
    assert math.isnan(result.threshold.item()) if beta is None else result.threshold.item() == 2 * beta


@pytest.mark.parametrize("name", FILTERS)
def test_warm_up_is_that_of_all_filters(name):
    options = {"type": name, **FILTERS[name], "warmup_iter": 1}
    pseudo_filter = PseudoFilter.from_options(options, batches_per_iteration=2)
    for _ in range(2):
        assert pseudo_filter(*BATCH).weights.tolist() == [1, 1, 1, 1, 1, 0]
    assert pseudo_filter(*BATCH).weights.tolist() == weigh(name, *BATCH, reference=2.0).tolist()


def test_default_section_is_the_papers():
    assert PseudoFilter.from_options({"beta": 1.0})(*BATCH).weights.tolist() == [1, 1, 1, 1, 0, 0]


def test_held_out_reference(tmp_path):
    pseudo_filter = PseudoFilter.from_options({"beta": 1.0, "reference": "held_out", "held_out": {"count": 2}})
    with pytest.raises(ValueError, match="use_held_out"):
        pseudo_filter(*BATCH)
    pseudo_filter.set_held_out(0.5)
    result = pseudo_filter(*BATCH, reference=2.0)  # the batch's own is not used
    assert result.weights.tolist() == [1, 1, 1, 0, 0, 0]
    assert result.threshold.item() == 0.5
    pseudo_filter.set_held_out(math.nan)
    assert pseudo_filter.held_out == 0.5
    torch.save(pseudo_filter.state_dict(), tmp_path / "state")
    resumed = PseudoFilter(1.0, reference="held_out")
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert resumed.state_dict() == pseudo_filter.state_dict()
    assert resumed(*BATCH).weights.tolist() == [1, 1, 1, 0, 0, 0]
    never = PseudoFilter(1.0, reference="held_out")
    never.set_held_out(math.nan)
    assert never(*BATCH).weights.tolist() == [1, 1, 0, 0, 0, 0]


# --- filters of the user's ------------------------------------------------------------------------------------------


def of_the_user(monkeypatch, function, **options) -> PseudoFilter:
    monkeypatch.setitem(FILTER_REGISTRY._obj_map, "of_the_user", function)
    return PseudoFilter.from_options({"type": "of_the_user", **options})


def test_a_filter_of_the_users(monkeypatch):
    def halves(per_sample_loss, is_pseudo, *, reference, share: float = 0.5):
        return torch.full_like(per_sample_loss, share)

    pseudo_filter = of_the_user(monkeypatch, halves, share=0.25)
    result = pseudo_filter(*BATCH)
    assert result.weights.tolist() == [1, 1, 0.25, 0.25, 0.25, 0]  # real samples and NaN are seen to
    assert result.kept_ratio.item() == pytest.approx(0.75 / 4)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda x: x.sum(), "one weight a sample"),
        (lambda x: x.tolist(), "gave a list"),
        (lambda x: x * 2, r"outside \[0, 1\]"),
        (lambda x: x * math.nan, "NaN"),
    ],
)
def test_filters_that_give_something_else(monkeypatch, made, message):
    def wrong(per_sample_loss, is_pseudo, *, reference):
        return made(torch.ones_like(per_sample_loss))

    with pytest.raises(ValueError, match=message):
        of_the_user(monkeypatch, wrong)


def test_a_filter_that_goes_wrong_later_is_named(monkeypatch):
    def sometimes(per_sample_loss, is_pseudo, *, reference):
        return torch.full_like(per_sample_loss, 2.0 if len(per_sample_loss) > 2 else 1.0)

    pseudo_filter = of_the_user(monkeypatch, sometimes)
    with pytest.raises(ValueError, match=r"'of_the_user' gave weights outside \[0, 1\]"):
        pseudo_filter(*BATCH)
