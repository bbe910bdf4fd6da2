"""Equations 10-13 against a plain NumPy reading of them, and every way in which a batch can be unusual."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from semiisp_plugin.losses import (
    PseudoFilter,
    filter_pseudo,
    mean_real_loss,
    semi_supervised_loss,
    zero_dropped_gradient,
)
from semiisp_plugin.losses.per_sample import per_sample

BETA = 1.25


def plain_filter(losses: list[float], is_pseudo: list[bool], beta: float) -> tuple[list[float], float]:
    """Equations 10 and 12 sample by sample; returns the weights and the threshold."""
    real = [loss for loss, pseudo in zip(losses, is_pseudo, strict=True) if not pseudo and math.isfinite(loss)]
    threshold = beta * (sum(real) / len(real)) if real else math.nan
    weights = []
    for loss, pseudo in zip(losses, is_pseudo, strict=True):
        weights.append(1.0 if not pseudo or (math.isfinite(loss) and loss <= threshold) else 0.0)
    return weights, threshold


def printed_equation_13(losses: list[float], is_pseudo: list[bool], beta: float) -> float:
    """Equations 10-13 in the form in which they are printed."""
    real = [loss for loss, pseudo in zip(losses, is_pseudo, strict=True) if not pseudo]
    fake = [loss for loss, pseudo in zip(losses, is_pseudo, strict=True) if pseudo]
    n_r = len(real)
    l_r = sum(real) / n_r  # (10)
    d = [0 if loss > beta * l_r else 1 for loss in fake]  # (12)
    if sum(d) == 0:
        return l_r  # (11) is 0/0 here; its factor in (13) is 0
    l_p = sum(dn * loss for dn, loss in zip(d, fake, strict=True)) / sum(d)  # (11)
    return n_r / (n_r + sum(d)) * l_r + sum(d) / (n_r + sum(d)) * l_p  # (13)


def tensors(losses: list[float], is_pseudo: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(losses, dtype=torch.float64, requires_grad=True), torch.tensor(is_pseudo)


# Multiples of 1/64: sums are exact, so ties with the threshold come out alike however they are summed.
finite = st.integers(0, 640).map(lambda value: value / 64)
unusual = st.sampled_from([math.nan, math.inf, -math.inf])
flags = st.booleans()


def batches(loss: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, bool]]]:
    sample = st.tuples(loss, flags)
    return st.lists(sample, min_size=1, max_size=24).filter(lambda batch: not all(pseudo for _, pseudo in batch))


@settings(max_examples=300)
@given(batches(st.one_of(finite, unusual)), st.sampled_from([0.0, 0.5, 1.0, BETA, 2.0]))
def test_weights_match_the_plain_reading(batch, beta):
    losses, is_pseudo = (list(column) for column in zip(*batch, strict=True))
    expected, threshold = plain_filter(losses, is_pseudo, beta)
    loss, flag = tensors(losses, is_pseudo)
    weights = filter_pseudo(loss, flag, beta=beta)
    assert weights.tolist() == expected
    assert weights.dtype == loss.dtype
    assert not weights.requires_grad
    result = PseudoFilter(beta)(loss, flag)
    assert result.weights.tolist() == expected
    np.testing.assert_allclose(result.threshold.numpy(), threshold, rtol=1e-15)


@pytest.mark.slow
@settings(max_examples=300)
@given(batches(finite), st.sampled_from([0.5, 1.0, BETA, 2.0]))
def test_total_is_the_printed_equation_13(batch, beta):
    losses, is_pseudo = (list(column) for column in zip(*batch, strict=True))
    loss, flag = tensors(losses, is_pseudo)
    total = semi_supervised_loss(loss, filter_pseudo(loss, flag, beta=beta))
    assert total.item() == pytest.approx(printed_equation_13(losses, is_pseudo, beta), rel=1e-12)


@settings(max_examples=200)
@given(st.lists(finite, min_size=1, max_size=8), st.lists(st.one_of(finite, unusual), max_size=16))
def test_whatever_the_pseudo_losses_value_and_gradient_are_finite(real, fake):
    is_pseudo = [False] * len(real) + [True] * len(fake)
    loss, flag = tensors(real + fake, is_pseudo)
    weights = filter_pseudo(loss, flag, beta=BETA)
    total = semi_supervised_loss(loss, weights)
    total.backward()
    assert math.isfinite(total.item())
    kept = sum(plain_filter(real + fake, is_pseudo, BETA)[0])
    expected = [weight / kept for weight in weights.tolist()]
    np.testing.assert_allclose(loss.grad.numpy(), expected, rtol=1e-12, atol=0)


def test_all_kept_and_none_kept():
    loss, flag = tensors([2.0, 2.0, 1.0, 2.0, 3.0], [False, False, True, True, True])
    assert filter_pseudo(loss, flag, beta=1.5).tolist() == [1] * 5
    assert filter_pseudo(loss, flag, beta=1.0).tolist() == [1, 1, 1, 1, 0]  # equal to the threshold: kept
    weights = filter_pseudo(loss, flag, beta=0.25)
    assert weights.tolist() == [1, 1, 0, 0, 0]
    total = semi_supervised_loss(loss, weights)
    total.backward()
    assert total.item() == 2
    assert loss.grad.tolist() == [0.5, 0.5, 0, 0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unusable_pseudo_losses_are_dropped(bad):
    loss, flag = tensors([1.0, bad, 0.5], [False, True, True])
    for beta in (BETA, math.inf):
        loss.grad = None
        weights = filter_pseudo(loss, flag, beta=beta)
        assert weights.tolist() == [1, 0, 1]
        total = semi_supervised_loss(loss, weights)
        total.backward()
        assert total.item() == 0.75
        assert loss.grad.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_unusable_real_loss_is_not_hidden(bad):
    loss, flag = tensors([1.0, bad, 1.0, 2.0], [False, False, True, True])
    assert mean_real_loss(loss, flag).item() == 1.0
    weights = filter_pseudo(loss, flag, beta=1.0)
    assert weights.tolist() == [1, 1, 1, 0]
    assert not math.isfinite(semi_supervised_loss(loss, weights).item())


def test_no_usable_real_loss_drops_all_pseudo_samples():
    loss, flag = tensors([math.nan, 0.0, 0.0], [False, True, True])
    result = PseudoFilter(1.0)(loss, flag)
    assert math.isnan(result.threshold.item())
    assert result.weights.tolist() == [1, 0, 0]
    assert result.kept_ratio.item() == 0
    assert math.isnan(semi_supervised_loss(loss, result.weights).item())


def test_no_pseudo_sample_gives_the_supervised_mean():
    loss, flag = tensors([1.0, 2.0, 6.0], [False] * 3)
    result = PseudoFilter(BETA)(loss, flag)
    assert result.weights.tolist() == [1, 1, 1]
    assert result.kept_ratio.item() == 0
    assert semi_supervised_loss(loss, result.weights).item() == 3


def test_single_sample():
    loss, flag = tensors([4.0], [False])
    total = semi_supervised_loss(loss, filter_pseudo(loss, flag, beta=BETA))
    total.backward()
    assert (total.item(), loss.grad.tolist()) == (4.0, [1.0])


def test_no_real_sample_needs_a_reference():
    loss, flag = tensors([1.0, 3.0], [True, True])
    with pytest.raises(ValueError, match="no real sample"):
        filter_pseudo(loss, flag, beta=BETA)
    with pytest.raises(ValueError, match="no real sample"):
        PseudoFilter(BETA)(loss, flag)
    with pytest.raises(ValueError, match="no real sample"):
        PseudoFilter(BETA, warmup_iter=5)(loss, flag)
    for reference in (2.0, torch.tensor(2.0), torch.tensor([2.0], requires_grad=True)):
        assert filter_pseudo(loss, flag, beta=1.0, reference=reference).tolist() == [1, 0]


def test_all_dropped_is_zero_with_a_graph():
    loss, flag = tensors([1.0, math.nan], [True, True])
    weights = filter_pseudo(loss, flag, beta=1.0, reference=0.5)
    total = semi_supervised_loss(loss, weights)
    total.backward()
    assert total.item() == 0
    assert loss.grad.tolist() == [0, 0]


def test_a_reference_replaces_that_of_the_batch():
    loss, flag = tensors([1.0, 3.0], [False, True])
    assert filter_pseudo(loss, flag, beta=1.0).tolist() == [1, 0]
    result = PseudoFilter(1.0)(loss, flag, reference=4.0)
    assert result.weights.tolist() == [1, 1]
    assert result.threshold.item() == 4.0


def test_real_samples_are_kept_whatever_their_loss():
    loss, flag = tensors([0.0, 1000.0, 0.0], [False, False, True])
    assert filter_pseudo(loss, flag, beta=1.0).tolist() == [1, 1, 1]


def test_beta_zero_and_infinite():
    loss, flag = tensors([1.0, 0.0, 5.0], [False, True, True])
    assert filter_pseudo(loss, flag, beta=0).tolist() == [1, 1, 0]
    assert filter_pseudo(loss, flag, beta=math.inf).tolist() == [1, 1, 1]
    solved, flag = tensors([0.0, 5.0], [False, True])
    assert filter_pseudo(solved, flag, beta=math.inf).tolist() == [1, 1]


def test_fractional_weights_give_the_weighted_mean():
    loss = torch.tensor([1.0, 2.0, math.nan], requires_grad=True)
    total = semi_supervised_loss(loss, torch.tensor([1.0, 0.25, 0.0]))
    total.backward()
    assert total.item() == pytest.approx(1.5 / 1.25)
    np.testing.assert_allclose(loss.grad.numpy(), [0.8, 0.2, 0], rtol=1e-6)


@pytest.mark.parametrize("beta", [-0.1, math.nan])
def test_bad_beta_is_refused(beta):
    with pytest.raises(ValueError, match="beta"):
        PseudoFilter(beta)
    with pytest.raises(ValueError, match="beta"):
        filter_pseudo(*tensors([1.0], [False]), beta=beta)


def test_bad_input_is_refused_in_words():
    loss, flag = tensors([1.0, 2.0], [False, True])
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        filter_pseudo(loss[:, None], flag, beta=1)
    with pytest.raises(ValueError, match=r"`is_pseudo` is \(1,\)"):
        filter_pseudo(loss, flag[:1], beta=1)
    with pytest.raises(ValueError, match=r"torch\.int64"):
        filter_pseudo(loss, flag.long(), beta=1)
    with pytest.raises(ValueError, match="one number"):
        filter_pseudo(loss, flag, beta=1, reference=torch.ones(2))
    with pytest.raises(ValueError, match="negative losses"):
        filter_pseudo(-loss, flag, beta=1)
    with pytest.raises(ValueError, match=r"the weights \(1,\)"):
        semi_supervised_loss(loss, torch.ones(1))
    with pytest.raises(ValueError, match="common batch size"):
        zero_dropped_gradient(torch.rand(3, 2, requires_grad=True), torch.ones(2))
    with pytest.raises(ValueError, match="warmup_iter"):
        PseudoFilter(1.0, warmup_iter=-1)


def test_warm_up_keeps_all_usable_pseudo_samples_and_ends():
    loss, flag = tensors([1.0, 9.0, math.nan, 0.5], [False, True, True, True])
    pseudo_filter = PseudoFilter(1.0, warmup_iter=2)
    for in_warmup, expected in [(True, [1, 1, 0, 1]), (True, [1, 1, 0, 1]), (False, [1, 0, 0, 1])]:
        assert pseudo_filter.in_warmup is in_warmup
        result = pseudo_filter(loss, flag)
        assert result.weights.tolist() == expected
        assert result.threshold.item() == 1.0


def test_counts_and_their_way_through_a_checkpoint(tmp_path):
    pseudo_filter = PseudoFilter(1.0, warmup_iter=3)
    loss, flag = tensors([1.0, 0.5, math.nan, 2.0], [False, True, True, True])
    ratios = [pseudo_filter(loss, flag).kept_ratio.item() for _ in range(4)]
    np.testing.assert_allclose(ratios, [2 / 3, 2 / 3, 2 / 3, 1 / 3], rtol=1e-6)
    assert pseudo_filter.state_dict() == {"calls": 4, "running": None, "held_out": None}

    torch.save(pseudo_filter.state_dict(), tmp_path / "state")
    resumed = PseudoFilter(1.0, warmup_iter=3)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert not resumed.in_warmup
    assert resumed(loss, flag).weights.tolist() == pseudo_filter(loss, flag).weights.tolist()
    assert resumed.state_dict() == pseudo_filter.state_dict()
    with pytest.raises(KeyError, match="running"):
        resumed.load_state_dict({"calls": 1})


def test_running_reference_is_the_average_of_the_batches(tmp_path):
    """Young, it is the plain mean of the batches so far; then it forgets with the momentum. NaN is left out."""
    pseudo_filter = PseudoFilter(1.0, reference="running", momentum=0.5)
    flag = torch.tensor([False, True])
    for real, expected in ((4.0, 4.0), (2.0, 3.0), (math.nan, 3.0), (1.0, 2.0)):
        threshold = pseudo_filter(torch.tensor([real, 2.5]), flag).threshold
        assert threshold.item() == pytest.approx(expected)
    torch.save(pseudo_filter.state_dict(), tmp_path / "state")
    resumed = PseudoFilter(1.0, reference="running", momentum=0.5)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    again = [f(torch.tensor([3.0, 2.4]), flag).threshold.item() for f in (pseudo_filter, resumed)]
    assert again == [2.5, 2.5]


@pytest.mark.parametrize(
    ("option", "message"), [({"reference": "median"}, "batch, running"), ({"momentum": 1}, r"\[0, 1\)")]
)
def test_wrong_reference(option, message):
    with pytest.raises(ValueError, match=message):
        PseudoFilter(1.0, **option)


def test_half_precision_losses_work():
    loss = torch.tensor([1.0, 0.5, 2.0], dtype=torch.bfloat16)
    assert filter_pseudo(loss, torch.tensor([False, True, True]), beta=1).tolist() == [1, 1, 0]


@pytest.mark.parametrize("criterion", [nn.MSELoss(reduction="none"), nn.L1Loss(reduction="none")])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_pseudo_target_leaves_the_network_untouched(criterion, bad):
    """End to end: the gradients are those of a batch that never had the broken pair in it."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    image, target = torch.rand(2, 4, 3, 8, 8, generator=generator)
    target[1] = image[1]
    target[3, 0, 2, 2] = bad
    flag = torch.tensor([False, True, True, True])

    def gradients(chosen: list[int]) -> list[torch.Tensor]:
        net.zero_grad()
        output = net(image[chosen])
        loss = per_sample(criterion(output, target[chosen]))
        weights = filter_pseudo(loss, flag[chosen], beta=100.0)
        zero_dropped_gradient(output, weights)
        semi_supervised_loss(loss, weights).backward()
        return [p.grad.clone() for p in net.parameters()]

    for with_it, without_it in zip(gradients([0, 1, 2, 3]), gradients([0, 1, 2]), strict=True):
        assert torch.isfinite(with_it).all()
        torch.testing.assert_close(with_it, without_it)


def test_zeroing_does_nothing_without_a_graph():
    zero_dropped_gradient(torch.rand(2, 3), torch.zeros(2))


def test_zeroing_spares_kept_samples():
    output = torch.ones(3, 2, requires_grad=True)
    branch = output * 1
    zero_dropped_gradient(branch, torch.tensor([1.0, 0.0, 0.5]))
    (branch * torch.tensor([[2.0], [math.nan], [3.0]])).sum().backward()
    assert output.grad.tolist() == [[2, 2], [0, 0], [3, 3]]
