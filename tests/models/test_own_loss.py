"""The loss that a network brings itself: a step by hand, targets that are not finite, networks that bring none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from semiisp_plugin.archs.srisp_arch import SRISP
from semiisp_plugin.models.own_loss import networks_with_own_loss
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import build_model

RATE = 1e-3
NETWORK = {"thumbnail": 32, "entries": 4, "num_feat": 8, "references": 3}


@pytest.fixture
def make(tiny_options, completed):
    def build(kind: str = "SupervisedModel", network: str = "SRISP", **train: Any) -> Any:
        options = tiny_options(kind, network, RATE, **{"own_loss": {}, "pixel_opt": None, **train})
        options["network_g"].update(NETWORK if network == "SRISP" else {})
        options["path"] = {}
        torch.manual_seed(1)
        return build_model(completed(options))

    return build


def batch() -> dict:
    lq, gt = torch.rand(2, 4, 3, 8, 10, generator=torch.Generator().manual_seed(5))
    return {"lq": lq, "gt": gt, "is_pseudo": torch.zeros(4, dtype=torch.bool), "key": list("abcd")}


def losses_of(net: SRISP, data: dict) -> torch.Tensor:
    """As the model draws in its first iteration."""
    return net(data["lq"], data["gt"], iteration_generator(3, 1, torch.device("cpu"), 2))


def step(model: Any, data: dict) -> None:
    model.update_learning_rate(1)
    model.feed_data(data)
    model.optimize_parameters(1)


def test_a_step_is_that_of_the_networks_loss(make):
    model, data = make(own_loss={"weight": 2.0}), batch()
    net = SRISP(**NETWORK).train()
    net.load_state_dict(model.net_g.state_dict())
    losses = 2 * losses_of(net, data)
    losses.mean().backward()
    step(model, data)
    for name, value in model.net_g.named_parameters():
        torch.testing.assert_close(value, net.get_parameter(name) - RATE * net.get_parameter(name).grad)
    log = model.get_current_log()
    assert log["l_own"] == log["l_total"] == pytest.approx(losses.mean().item())
    assert torch.equal(model.net_g.references, net.references)


def test_a_target_that_is_not_finite_spoils_nothing(make):
    model, data = make(), batch()
    data["gt"][2, 0, 3, 4] = math.nan
    before = {name: value.clone() for name, value in model.net_g.named_parameters()}
    step(model, data)
    assert all(torch.equal(value, before[name]) for name, value in model.net_g.named_parameters())
    assert torch.isfinite(model.net_g.references).all()
    assert model._sample_losses.isnan().tolist() == [False, False, True, False]


def test_what_brings_no_loss_or_cannot_use_it(make):
    assert "SRISP" in networks_with_own_loss()
    with pytest.raises(ValueError, match=r"own_loss: network_g \(NAFNet\) brings no loss of its own. .* SRISP"):
        make(network="NAFNet")
    with pytest.raises(OptionError, match=r"compile: a network's own loss draws at random"):
        make(compile=True)
    with pytest.raises(OptionError, match=r"own_loss.*only SupervisedModel"):
        make("MeanTeacherModel", ema_decay=0.9)
