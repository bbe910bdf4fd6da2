"""The models of the three phases: one optimisation step against a computation by hand, averages, schedules."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.models.learning_rate import cosine_with_floor
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.models.step_guard import StepGuard
from semiisp_plugin.toolbox import build_model

RATE = 0.5


class Pointwise(nn.Module):
    """out = W in + b at each pixel: small enough to write its gradient down."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.1 * torch.arange(9.0).view(3, 3) / 9)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.02, 0.01]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,nchw->nohw", self.weight, x) + self.bias.view(1, 3, 1, 1)


class Normalised(nn.Module):
    """With buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


@pytest.fixture
def make_model(networks, tiny_model):
    networks(Pointwise, Normalised)

    def make(kind: str, network: str = "Pointwise", **train):
        return tiny_model(kind, network, RATE, 4, **train)

    return make


def batch_with_losses(model, losses: list[float], n_real: int = 2) -> dict:
    """A batch on which the network's mean squared errors are the given numbers."""
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(len(losses), 3, 6, 5, generator=generator)
    noise = torch.randn(lq.shape, generator=generator)
    noise *= torch.tensor(losses).sqrt().view(-1, 1, 1, 1) / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    with torch.no_grad():
        gt = model.net_g(lq) + noise
    is_pseudo = torch.arange(len(losses)) >= n_real
    return {"lq": lq, "gt": gt, "is_pseudo": is_pseudo, "key": [f"image {i}" for i in range(len(losses))]}


def by_hand(model, batch: dict, beta: float) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Equations 10 to 13 and a step of gradient descent for `Pointwise`, in NumPy and double precision."""
    w = model.net_g.weight.detach().double().numpy()
    b = model.net_g.bias.detach().double().numpy()
    x, y = (batch[k].double().numpy() for k in ("lq", "gt"))
    pseudo = batch["is_pseudo"].numpy()
    error = np.einsum("oc,nchw->nohw", w, x) + b[:, None, None] - y
    loss = (error**2).mean(axis=(1, 2, 3))
    n_r = int((~pseudo).sum())
    l_r = loss[~pseudo].sum() / n_r  # (10)
    d = np.array([0.0 if loss[n] > beta * l_r else 1.0 for n in np.flatnonzero(pseudo)])  # (12)
    kept = d.sum()
    l_p = (d * loss[pseudo]).sum() / kept if kept else 0.0  # (11)
    l_semi = n_r / (n_r + kept) * l_r + kept / (n_r + kept) * l_p  # (13)
    # dL_semi / dL_n is 1 / (n_r + kept) for real and kept samples; dL_n / d out = 2 error / (C H W).
    share = np.ones(len(loss))
    share[pseudo] = d
    share /= n_r + kept
    gradient = share[:, None, None, None] * 2 * error / error[0].size
    new_w = w - RATE * np.einsum("nohw,nchw->oc", gradient, x)
    new_b = b - RATE * gradient.sum(axis=(0, 2, 3))
    values = {"l_sup": l_r, "l_pseudo": l_p, "l_pix": l_semi, "kept": kept / max(1, pseudo.sum()), "t": beta * l_r}
    return new_w, new_b, values


@pytest.mark.parametrize("beta", [1.0, 1.2])
@pytest.mark.parametrize(
    ("pseudo_losses", "kept"),
    [
        ([0.5, 0.019, 0.0205, 0.01], {1.0: 2, 1.2: 3}),  # the mean real loss is 0.02
        ([0.5, 0.1, 0.03, 0.025], {1.0: 0, 1.2: 0}),
        ([0.019, 0.001, 0.0, 0.01], {1.0: 4, 1.2: 4}),
    ],
    ids=["some kept", "none kept", "all kept"],
)
def test_step_of_semi_supervised_learning(make_model, beta, pseudo_losses, kept):
    model = make_model("SemiSupervisedModel", filter={"beta": beta})
    batch = batch_with_losses(model, [0.01, 0.03, *pseudo_losses])
    weight, bias, values = by_hand(model, batch, beta)
    before = model.net_g.weight.detach().clone()
    model.feed_data(batch)
    model.optimize_parameters(1)
    np.testing.assert_allclose(model.net_g.weight.detach().numpy(), weight, atol=1e-6)
    np.testing.assert_allclose(model.net_g.bias.detach().numpy(), bias, atol=1e-6)
    assert float((model.net_g.weight.detach() - before).abs().max()) > 1e-4, "the step is too small to say anything"
    log = model.get_current_log()
    assert log["l_sup"] == pytest.approx(values["l_sup"], rel=1e-5)
    assert log["l_sup"] == pytest.approx(0.02, rel=1e-4)
    # Of none there is no mean.
    assert log["l_pseudo"] == pytest.approx(values["l_pseudo"] if kept[beta] else math.nan, rel=1e-5, nan_ok=True)
    assert log["l_pix"] == pytest.approx(values["l_pix"], rel=1e-5)
    assert log["pseudo/kept_ratio"] == pytest.approx(kept[beta] / 4)
    assert log["pseudo/threshold"] == pytest.approx(beta * 0.02, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30], ids=["nan", "inf", "overflow"])
def test_pseudo_target_that_is_not_finite_changes_nothing(make_model, bad):
    model, reference = make_model("SemiSupervisedModel"), make_model("SemiSupervisedModel")
    batch = batch_with_losses(model, [0.01, 0.03, 0.005, 0.5, 0.015, 0.005])
    without = {k: (v[:2] + v[3:] if isinstance(v, list) else v[[0, 1, 3, 4, 5]]) for k, v in batch.items()}
    batch["gt"] = batch["gt"].clone()
    batch["gt"][2, 1, 3, 2] = bad
    for one, data in ((model, batch), (reference, without)):
        one.feed_data(data)
        one.optimize_parameters(1)
    assert bool(torch.isfinite(model.net_g.weight).all())
    assert torch.allclose(model.net_g.weight, reference.net_g.weight, atol=1e-7)
    assert torch.allclose(model.net_g.bias, reference.net_g.bias, atol=1e-7)


def test_real_target_that_is_not_finite_is_skipped_and_named(make_model, caplog):
    model = make_model("SemiSupervisedModel", nonfinite_limit=3)
    logging.getLogger("basicsr").propagate = True
    good = batch_with_losses(model, [0.01, 0.03, 0.005, 0.5])
    bad = {**good, "gt": good["gt"].clone()}
    bad["gt"][1, 0, 0, 0] = math.nan
    before = model.net_g.weight.detach().clone()
    for iteration in (1, 2):
        model.update_learning_rate(iteration)
        model.feed_data(bad)
        model.optimize_parameters(iteration)
        assert torch.equal(model.net_g.weight, before)
        assert f"Iteration {iteration}: the loss was nan; the step is skipped" in caplog.text
        assert "Not finite is the loss of: image 1." in caplog.text
    model.feed_data(good)
    model.optimize_parameters(3)
    assert not torch.equal(model.net_g.weight, before)
    assert math.isfinite(model.get_current_log()["l_sup"])
    model.update_learning_rate(4)
    model.feed_data(bad)
    with pytest.raises(FloatingPointError, match=r"image 1\..*skipped step 3 .*nonfinite_limit is 3.*train:optim_g:lr"):
        model.optimize_parameters(4)


def test_gradient_that_is_not_finite_is_skipped_and_statistics_are_put_back(make_model, caplog):
    model = make_model("SupervisedModel", network="Normalised", ema_decay=0.9)
    logging.getLogger("basicsr").propagate = True
    before = {k: v.clone() for k, v in model.net_g.state_dict().items()}
    average = {k: v.clone() for k, v in model.net_g_ema.state_dict().items()}
    batch = {"lq": torch.rand(2, 3, 6, 5), "gt": torch.rand(2, 3, 6, 5), "key": ["a", "b"]}
    model.feed_data(batch)
    model.net_g.conv.bias.register_hook(lambda gradient: gradient * math.inf)
    model.optimize_parameters(1)
    assert "but the gradient's norm" in caplog.text
    assert "The batch: a, b" in caplog.text
    for name, value in before.items():
        assert torch.equal(model.net_g.state_dict()[name], value), name
    for name, value in average.items():
        assert torch.equal(model.net_g_ema.state_dict()[name], value), name


def test_skipped_steps_are_forgotten_after_a_thousand_iterations():
    guard = StepGuard(limit=2)
    for iteration in (1, 1002, 2003):
        guard.skip(iteration, "the loss was nan", ["a"])
    assert guard.skipped == [2003]
    again = StepGuard(limit=2)
    again.load_state_dict(guard.state_dict())
    with pytest.raises(FloatingPointError):
        again.skip(2004, "the loss was nan", ["a"])


def test_logs_are_means_over_the_print_window(make_model):
    model = make_model("SemiSupervisedModel")
    kept = []
    for iteration, pseudo in enumerate(([0.5] * 4, [0.001, 0.5, 0.5, 0.5], [0.001] * 4), 1):
        model.feed_data(batch_with_losses(model, [0.01, 0.03, *pseudo]))
        model.optimize_parameters(iteration)
        kept.append(sum(loss < 0.02 for loss in pseudo) / 4)
    log = model.get_current_log()
    assert kept == [0, 0.25, 1]
    assert log["pseudo/kept_ratio"] == pytest.approx(np.mean(kept))
    assert log["l_sup"] == pytest.approx(0.02, rel=1e-4)
    assert model.get_current_log() == {}
    model.feed_data(batch_with_losses(model, [0.01, 0.03, 0.5, 0.5, 0.001, 0.5]))
    model.optimize_parameters(4)
    assert model.get_current_log()["pseudo/kept_ratio"] == pytest.approx(0.25)  # of the new window alone


def test_noise_goes_to_pseudo_inputs_alone(make_model):
    options = {"shot_variance": 0.01, "read_variance": 0.0002}
    model, same, later = (make_model("SemiSupervisedModel", noise=options) for _ in range(3))
    batch = batch_with_losses(model, [0.01, 0.03, 0.005, 0.5])
    inputs = []
    for one, iteration in ((model, 7), (same, 7), (later, 8)):
        one.feed_data({**batch, "lq": batch["lq"].clone()})
        one.optimize_parameters(iteration)
        inputs.append(one.lq)
    assert torch.equal(inputs[0][:2], batch["lq"][:2])
    assert not torch.equal(inputs[0][2:], batch["lq"][2:])
    assert torch.equal(inputs[0], inputs[1])  # of seed and iteration alone, so that a run can be resumed
    assert not torch.equal(inputs[0], inputs[2])


def test_supervised_step_is_the_plain_mean(make_model):
    model = make_model("SupervisedModel")
    batch = batch_with_losses(model, [0.01, 0.03, 0.5], n_real=3)
    weight, bias, values = by_hand(model, batch, 1.0)
    model.feed_data(batch)
    model.optimize_parameters(1)
    np.testing.assert_allclose(model.net_g.weight.detach().numpy(), weight, atol=1e-6)
    np.testing.assert_allclose(model.net_g.bias.detach().numpy(), bias, atol=1e-6)
    assert model.get_current_log()["l_total"] == pytest.approx(values["l_sup"], rel=1e-5)


def test_average_of_weights_includes_buffers(make_model):
    decay = 0.9
    model = make_model("SupervisedModel", network="Normalised", ema_decay=decay)
    expected = {k: v.clone() for k, v in model.net_g.state_dict().items()}
    batch = {"lq": torch.rand(4, 3, 6, 5) * 0.2 + 0.7, "gt": torch.rand(4, 3, 6, 5)}
    parameters = {name for name, _ in model.net_g.named_parameters()}
    for iteration in (1, 2, 3):
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        for name, value in model.net_g.state_dict().items():
            if name in parameters:
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    average = model.net_g_ema.state_dict()
    assert average.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(average[name], value, rtol=1e-5, atol=1e-6)
    assert float(average["norm.running_mean"].abs().max()) > 0.01, "the buffers have not moved"
    assert not torch.equal(average["conv.weight"], model.net_g.state_dict()["conv.weight"])
    assert not model.net_g_ema.training


def test_gradient_clipping(make_model):
    model = make_model("SupervisedModel", grad_clip=1e-3)
    before = [p.detach().clone() for p in model.net_g.parameters()]
    model.feed_data(batch_with_losses(model, [1.0, 4.0]))
    model.optimize_parameters(1)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.net_g.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(RATE * 1e-3, rel=1e-3)


# --- schedules -------------------------------------------------------------------------------------------------------


def test_cosine_with_floor():
    factor = cosine_with_floor(1000, 0.001)
    assert factor(0) == 1
    assert factor(500) == pytest.approx(0.5 * (1 + 0.001))
    assert factor(250) == pytest.approx(0.001 + 0.999 * 0.5 * (1 + math.sqrt(0.5)))
    assert factor(1000) == pytest.approx(0.001, abs=1e-15)
    assert factor(5000) == factor(1000)
    assert all(factor(i + 1) < factor(i) for i in range(1000))


def test_learning_rate_of_a_run(make_model):
    model = make_model("SupervisedModel", scheduler={"type": "CosineAnnealing", "eta_min_ratio": 0.1})
    model.optimizer_g.step()  # a schedule wants to come after a step
    rates = []
    for iteration in range(1, 11):
        model.update_learning_rate(iteration, warmup_iter=3)
        rates.append(model.get_current_learning_rate()[0])
    cosine = [RATE * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 10))) for i in range(10)]
    assert rates[:2] == pytest.approx([RATE / 3, 2 * RATE / 3])
    assert rates[2:] == pytest.approx(cosine[2:])


def test_unknown_schedule_is_an_error(make_model):
    with pytest.raises(ValueError, match="there is no 'CosineAnealing'; did you mean 'CosineAnnealing'"):
        make_model("SupervisedModel", scheduler={"type": "CosineAnealing"})


# --- phase 1 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_isp_model(option_files, completed):
    def make(**changes):
        options = option_files.base("isp", "ISPModel", 4)
        network = {"type": "PQDynamicISP", "thumbnail": 32}
        options["network_g"] = {**network, "grid": [2, 2]}
        options["network_global"] = {**network, "grid": [1, 1]}
        options["train"].update(optim_g={"type": "SGD", "lr": 1e-3}, bank_size=3)
        options.update(changes)
        return build_model(completed(options))

    return make


def test_banks_hold_the_sets_of_the_last_training_samples(make_isp_model):
    model = make_isp_model()
    expected = {"local": [], "global": []}
    for iteration in (1, 2):
        batch = {"lq": torch.rand(2, 3, 32, 40), "gt": torch.rand(2, 3, 32, 40)}
        with torch.no_grad():  # before the update, as in the forward pass that is trained on
            expected["local"] += list(model.net_g.predict_parameters(batch["lq"]))
            expected["global"] += list(model.net_global.predict_parameters(batch["lq"]))
        model.feed_data(batch)
        model.optimize_parameters(iteration)
    for label, sets in expected.items():
        bank: ParameterBank = model.banks[label]
        assert len(bank) == 3
        torch.testing.assert_close(bank.sets, torch.stack(sets[-3:]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_both_isps_learn_as_if_alone(make_isp_model, clip):
    model = make_isp_model()
    model.opt["train"]["grad_clip"] = clip
    batch = {"lq": torch.rand(2, 3, 32, 40), "gt": torch.rand(2, 3, 32, 40)}
    expected = []
    for net in (model.net_g, model.net_global):
        loss = (net(batch["lq"]) - batch["gt"]).square().mean()
        parameters = list(net.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        if clip:
            norm = torch.cat([g.flatten() for g in gradients]).norm()
            assert norm > clip
            gradients = [g * clip / norm for g in gradients]
        expected += [p.detach() - 1e-3 * g for p, g in zip(parameters, gradients, strict=True)]
    model.feed_data(batch)
    model.optimize_parameters(1)
    trained = [p.detach() for net in (model.net_g, model.net_global) for p in net.parameters()]
    for value, reference in zip(trained, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-7)


def test_photometric_jitter_of_phase_1(make_isp_model):
    """Both networks see the same jittered inputs, of seed and iteration alone; the bank holds their sets."""
    model, same, plain = make_isp_model(), make_isp_model(), make_isp_model()
    for one in (model, same):
        one.opt["train"]["photometric_jitter"] = 0.3
    same.net_g.load_state_dict(model.net_g.state_dict())
    same.net_global.load_state_dict(model.net_global.state_dict())
    batch = {"lq": torch.rand(2, 3, 32, 40), "gt": torch.rand(2, 3, 32, 40)}
    for one in (model, same, plain):
        one.feed_data({**batch, "lq": batch["lq"].clone()})
    with torch.no_grad():
        jittered = photometric_jitter(batch["lq"], 0.3, iteration_generator(3, 5, torch.device("cpu")))
        expected = model.net_global.predict_parameters(jittered)
    for one in (model, same, plain):
        one.optimize_parameters(5)
    torch.testing.assert_close(model.banks["global"].sets, expected)
    torch.testing.assert_close(same.banks["global"].sets, model.banks["global"].sets, rtol=0, atol=0)
    assert not torch.equal(model.lq, batch["lq"])
    assert torch.equal(plain.lq, batch["lq"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_global": None}, "needs the section 'network_global'"),
        ({"network_global": {"type": "PQDynamicISP", "thumbnail": 32, "grid": [2, 2]}}, r"grid: \[1, 1\]"),
        ({"network_global": {"type": "PQDynamicISP", "thumbnail": 32, "it_sign": -1}}, "otherwise the same options"),
        ({"network_g": {"type": "SepLUT", "thumbnail": 32}}, "network_g: f_ISP must be a PQDynamicISP, not SepLUT"),
    ],
)
def test_networks_that_do_not_go_together(make_isp_model, changes, message):
    with pytest.raises(ValueError, match=message):
        make_isp_model(**changes)
