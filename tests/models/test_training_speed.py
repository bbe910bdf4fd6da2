"""Mixed precision, compilation, memory layout, accumulation, fused optimisers: the same training, faster or smaller."""

import copy
import shutil

import pytest
import torch
from torch import nn

from semiisp_plugin.toolbox import ARCH_REGISTRY

SIZE = (16, 20)


class SmallNet(nn.Module):
    """Convolutions, and a note of the precision they ran in."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, size, 3, padding=1)
        self.last = nn.Conv2d(size, 3, 3, padding=1)
        self.seen: list[torch.dtype] = []
        self.layouts: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        self.seen.append(y.dtype)
        self.layouts.append(y.is_contiguous(memory_format=torch.channels_last))
        return x + self.last(torch.relu(y))


class PlainNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.fixture
def make_model(networks, tiny_model):
    networks(SmallNet, PlainNet)

    def make(kind: str = "SupervisedModel", network: str = "SmallNet", optimiser=None, **train):
        torch.manual_seed(1)
        optimiser = {"optim_g": optimiser} if optimiser else {}
        return tiny_model(kind, network, 0.1, **optimiser, **train)

    return make


def batch(seed: int, n: int = 4) -> dict:
    generator = torch.Generator().manual_seed(seed)
    lq, gt = (torch.rand(n, 3, *SIZE, generator=generator) for _ in range(2))
    return {"lq": lq, "gt": gt, "key": [f"{seed}-{i}" for i in range(n)], "is_pseudo": torch.arange(n) >= n // 2}


def step(model, iteration: int, *batches: dict) -> None:
    model.update_learning_rate(iteration)
    for part, data in enumerate(batches):
        with model.accumulating(part):
            model.feed_data(data)
            model.optimize_parameters(iteration)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.net_g.parameters()])


@pytest.mark.parametrize("kind", ["SupervisedModel", "SemiSupervisedModel"])
@pytest.mark.parametrize(("precision", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_mixed_precision(make_model, kind, precision, expected):
    """The network runs in half precision; losses, weights and the filter are in single precision."""
    model, single = make_model(kind, precision=precision), make_model(kind)
    for iteration in (1, 2, 3):
        for one in (model, single):
            step(one, iteration, batch(iteration))
    assert set(model.net_g.seen) == {expected}
    assert set(single.net_g.seen) == {torch.float32}
    assert model.output.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.net_g.parameters())
    assert model.get_current_log()["l_pix"] == pytest.approx(single.get_current_log()["l_pix"], rel=0.02)
    assert not torch.equal(weights(model), weights(single))
    torch.testing.assert_close(weights(model), weights(single), atol=2e-3, rtol=0)
    model.feed_data(batch(9))
    model.test()
    assert model.net_g.seen[-1] == torch.float32  # validation is as `basicsr test` is


def test_scaler_of_fp16_lowers_its_scale_instead_of_stopping(make_model):
    model = make_model(precision="fp16", nonfinite_limit=1)
    model.scaler.load_state_dict({**model.scaler.state_dict(), "scale": 2.0**40})
    before = weights(model)
    step(model, 1, batch(1))
    assert torch.equal(weights(model), before)
    assert model.scaler.get_scale() == 2.0**39
    state = copy.deepcopy(model.extra_state())
    again = make_model(precision="fp16")
    again.load_extra_state(state)
    assert again.scaler.get_scale() == 2.0**39


@pytest.mark.parametrize("kind", ["SupervisedModel", "SemiSupervisedModel"])
def test_accumulated_gradient_is_the_mean_over_the_batches(make_model, kind):
    # beta is infinite: the filter compares within a batch, so that otherwise the two would keep other samples
    train = {"filter": {"beta": float("inf")}} if kind == "SemiSupervisedModel" else {}
    model, whole = make_model(kind, accumulate=2, **train), make_model(kind, **train)
    parts = batch(1), batch(2)
    together = {
        k: (parts[0][k] + parts[1][k] if isinstance(parts[0][k], list) else torch.cat([p[k] for p in parts]))
        for k in parts[0]
    }
    before = weights(model)
    with model.accumulating(0):
        model.feed_data(parts[0])
        model.optimize_parameters(1)
    assert torch.equal(weights(model), before)
    with model.accumulating(1):
        model.feed_data(parts[1])
        model.optimize_parameters(1)
    step(whole, 1, together)
    assert not torch.equal(weights(model), before)
    torch.testing.assert_close(weights(model), weights(whole), atol=1e-7, rtol=1e-5)
    assert [model.draw_number(i) for i in (1, 2)] == [2, 4]


def test_bad_part_spoils_the_update_of_all(make_model):
    model = make_model(accumulate=2)
    bad = batch(1)
    bad["gt"][0] = float("nan")
    before = weights(model)
    step(model, 1, bad, batch(2))
    assert torch.equal(weights(model), before)
    assert model.guard.skipped == [1]
    step(model, 2, batch(3), batch(2))
    assert torch.isfinite(weights(model)).all()
    assert not torch.equal(weights(model), before)


def test_statistics_survive_several_bad_parts(make_model, monkeypatch):
    class Normed(PlainNet):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x))

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, "Normed", Normed)
    model = make_model(network="Normed", accumulate=3)
    parts = [batch(seed) for seed in range(3)]
    for part in (0, 2):
        parts[part]["lq"][0] = float("nan")
    step(model, 1, *parts)
    assert model.guard.skipped == [1]
    assert torch.isfinite(model.net_g.norm.running_mean).all()
    assert int(model.net_g.norm.num_batches_tracked) == 1  # of the one part that was fine


def test_channels_last(make_model):
    model, plain = make_model(channels_last=True), make_model()
    for one in (model, plain):
        step(one, 1, batch(1))
    assert (model.net_g.layouts, plain.net_g.layouts) == ([True], [False])
    torch.testing.assert_close(weights(model), weights(plain), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("optimiser", ["Adam", "AdamW", "SGD"])
def test_fused_optimiser(make_model, optimiser):
    settings = {"type": optimiser, "lr": 0.01}
    model, plain = make_model(optimiser={**settings, "fused": True}), make_model(optimiser=settings)
    for one in (model, plain):
        step(one, 1, batch(1))
        step(one, 2, batch(2))
    torch.testing.assert_close(weights(model), weights(plain), atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_network_keeps_the_names_of_its_weights(make_model):
    model, plain = (make_model(network="PlainNet", ema_decay=0.9, **more) for more in ({"compile": True}, {}))
    assert model.net_g.state_dict().keys() == plain.net_g.state_dict().keys()
    for one in (model, plain):
        step(one, 1, batch(1))
        one.feed_data(batch(2, n=1))
        one.test()
    torch.testing.assert_close(weights(model), weights(plain), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.output, plain.output, atol=1e-5, rtol=1e-5)
    assert model.net_g._compiled_call_impl is not None
    assert model.net_g_ema._compiled_call_impl is None


def test_gradient_norm_is_logged(make_model):
    model = make_model()
    data = batch(1)
    loss = (model.net_g(data["lq"]) - data["gt"]).square().mean()
    gradients = torch.autograd.grad(loss, list(model.net_g.parameters()))
    step(model, 1, data)
    expected = torch.cat([g.flatten() for g in gradients]).norm()
    log = model.get_current_log()
    assert log["grad_norm"] == pytest.approx(float(expected), rel=1e-5)
    assert list(log)[-1] == "grad_norm"
