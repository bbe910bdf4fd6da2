"""The likelihood of a flow as the loss: a step by hand, the filter, the fit to the first batch, resuming."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semiisp_plugin.archs.flow import act_norms_are_fitted
from semiisp_plugin.archs.llflow_arch import LLFlow
from semiisp_plugin.io.checkpoint import load_checkpoint
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import build_model

RATE = 1e-3
NETWORK = {"num_feat": 4, "num_block": 1, "num_grow_ch": 2, "stacked": [0]}
NETWORK |= {"levels": 1, "flow_steps": 1, "hidden_feat": 4}


@pytest.fixture
def make(tiny_options, completed) -> Callable[..., Any]:
    def build(kind: str = "SupervisedModel", path: dict | None = None, **train: Any) -> Any:
        options = tiny_options(kind, "LLFlow", RATE, **{"likelihood": {}, "pixel_opt": None, **train})
        options["network_g"].update(NETWORK)
        options["path"] = path or {}
        torch.manual_seed(1)
        return build_model(completed(options))

    return build


def batch(pseudo: int = 0, seed: int = 5) -> dict:
    lq, gt = torch.rand(2, 4, 3, 8, 10, generator=torch.Generator().manual_seed(seed))
    return {"lq": lq, "gt": gt, "is_pseudo": torch.arange(4) >= 4 - pseudo, "key": list("abcd")}


def step(model: Any, iteration: int, data: dict) -> None:
    model.update_learning_rate(iteration)
    model.feed_data(data)
    model.optimize_parameters(iteration)


def losses_of(net: LLFlow, data: dict, iteration: int, share: float = 0.2) -> torch.Tensor:
    """As the model draws for an iteration."""
    of_noise, of_batch = (iteration_generator(3, iteration, torch.device("cpu"), 2) for _ in range(2))
    noise = torch.rand(data["gt"].shape, generator=of_noise)
    return net(data["lq"], data["gt"], noise, torch.rand((), generator=of_batch) < share)


def test_a_step_is_that_of_the_likelihood(make):
    """After the fit to the first batch, which the average begins with; weights that nothing comes of stay."""
    model, data = make(ema_decay=0.5, likelihood={"weight": 2.0}), batch()
    for iteration in (1, 2):
        model.update_learning_rate(iteration)
        model.feed_data(data)
        model.fit_flow()
        net = LLFlow(**NETWORK)
        net.load_state_dict(model.net_g.state_dict())
        assert act_norms_are_fitted(net)
        if iteration == 1:
            assert all(torch.equal(a, b) for a, b in zip(net.parameters(), model.net_g_ema.parameters(), strict=True))
        losses = 2 * losses_of(net, data, iteration)
        losses.mean().backward()
        model.optimize_parameters(iteration)
        for name, value in model.net_g.named_parameters():
            before = net.get_parameter(name)
            expected = before - RATE * (0 if before.grad is None else before.grad)
            torch.testing.assert_close(value, expected)
        log = model.get_current_log()
        assert log["l_nll"] == log["l_total"] == pytest.approx(losses.mean().item())
    assert model.output is None
    assert model.output_to_show().shape == data["lq"].shape


def test_beside_a_pixel_loss(make):
    model = make(pixel_opt={"type": "MSELoss"}, compile=False)
    step(model, 1, batch())
    log = model.get_current_log()
    assert log["l_total"] == pytest.approx(log["l_pix"] + log["l_nll"])
    assert model.output.shape == (4, 3, 8, 10)


def test_the_filter_compares_likelihoods(make):
    """A pseudo target that is unlike all others is dropped; one that is not finite spoils nothing."""
    model, data = make("SemiSupervisedModel", filter={"beta": 1.2}), batch(pseudo=2)
    step(model, 1, data)
    data["gt"][2] += 5
    data["gt"][3, 0, 2, 3] = math.nan
    model.update_learning_rate(2)
    model.feed_data(data)
    net = LLFlow(**NETWORK)
    net.load_state_dict(model.net_g.state_dict())
    finite = {**data, "gt": data["gt"].nan_to_num()}
    losses_of(net, finite, 2)[:2].mean().backward()
    model.get_current_log()
    model.optimize_parameters(2)
    assert model._weights.tolist() == [1, 1, 0, 0]
    for name, value in model.net_g.named_parameters():
        before = net.get_parameter(name)
        torch.testing.assert_close(value, before - RATE * (0 if before.grad is None else before.grad))
    log = model.get_current_log()
    assert log["l_nll"] == log["l_sup"] == log["pseudo/reference"]


def test_held_out_pairs_are_seen_as_in_validation(make):
    """The network is fitted to the first batch before, and their loss is with predicted colours."""
    settings = {"beta": 1.0, "reference": "held_out", "held_out": {"count": 4}}
    model = make("SemiSupervisedModel", filter=settings, likelihood={"true_colours": 1.0})
    other = batch(seed=6)
    model.use_held_out([other])
    model.update_learning_rate(1)
    model.feed_data(batch(pseudo=2))
    model.fit_flow()
    with torch.no_grad():
        expected = losses_of(model.net_g, other, 1, share=0).mean().item()
    model.optimize_parameters(1)
    assert model.filter.held_out == pytest.approx(expected)


def test_mean_teacher_and_accumulation(make):
    model = make("MeanTeacherModel", ema_decay=0.9, accumulate=2)
    for part in (0, 1):
        with model.accumulating(part):
            step(model, 1, batch(pseudo=2, seed=part))
    assert all(bool(p.isfinite().all()) for p in model.net_g.parameters())


@pytest.mark.parametrize("more", [{}, {"precision": "bf16"}], ids=["fp32", "bf16"])
def test_resumed_as_if_unbroken_and_fine_tuned_without_a_fit(make, more, tmp_path):
    train = {"ema_decay": 0.9, "optim_g": {"type": "Adam", "lr": 1e-2}, **more}
    unbroken, first = make(**train), make(**train)
    for iteration in range(1, 5):
        step(unbroken, iteration, batch(seed=iteration))
    for iteration in (1, 2):
        step(first, iteration, batch(seed=iteration))
    for folder in ("models", "training_states"):
        os.makedirs(first.opt["path"][folder], exist_ok=True)
    first.save(0, 2)
    second = make(path={"resume_state": "experiments/model/training_states/2.state"}, **train)
    second.resume_training(load_checkpoint(Path("experiments/model/training_states/2.state")))
    for iteration in (3, 4):
        step(second, iteration, batch(seed=iteration))
    for name in ("net_g", "net_g_ema"):
        pairs = zip(getattr(unbroken, name).parameters(), getattr(second, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
    assert unbroken.get_current_log()["l_nll"] < 10
    fine = make(path={"pretrain_network_g": "experiments/model/models/net_g_2.pth"})
    fine.update_learning_rate(1)
    fine.feed_data(batch(seed=9))
    before = {name: value.clone() for name, value in fine.net_g.state_dict().items()}
    fine.fit_flow()
    assert all(torch.equal(value, before[name]) for name, value in fine.net_g.state_dict().items())


def test_the_likelihood_gets_better(make):
    model = make(optim_g={"type": "Adam", "lr": 1e-2})
    data, found = batch(), []
    data["gt"] = 0.2 + 0.1 * data["lq"]  # images of noise cannot be told in less than the 5 bits that they have
    for iteration in range(1, 21):
        step(model, iteration, data)
        found.append(model.get_current_log()["l_nll"])
    assert sum(found[-5:]) < sum(found[:5]) - 0.25  # the fit to the first batch has done most of it


def test_what_does_not_go_together_is_named(make, tiny_options, completed):
    options = tiny_options("SupervisedModel", "NAFNet", RATE, likelihood={})
    message = r"train:likelihood: network_g \(NAFNet\) gives no likelihood.*pixel_opt, .*: LLFlow"
    with pytest.raises(ValueError, match=message):
        build_model(completed(options))
    with pytest.raises(OptionError, match=r"there is no loss: give pixel_opt.* such as LLFlow, likelihood"):
        make(likelihood=None)
    with pytest.raises(OptionError, match="likelihood:true_colours: expected a number from 0 to 1"):
        make(likelihood={"true_colours": 2})
    options = tiny_options("ISPModel", "PQDynamicISP", RATE, likelihood={})
    with pytest.raises(OptionError, match="likelihood"):
        completed(options)
    logging.getLogger("basicsr").handlers.clear()
