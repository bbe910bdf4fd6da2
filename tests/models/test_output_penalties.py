"""Penalties on parts' outputs: their values, their gradients, and whom they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from semiisp_plugin.archs.seplut_arch import SepLUT
from semiisp_plugin.losses.table_regularity import falls, roughness
from semiisp_plugin.models.output_penalties import ActivityPenalty, TablePenalty
from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import build_model

WEIGHTS = "lut3d_generator.weights_generator"  # of SepLUT
RATE = 0.1


class Scaled(nn.Module):
    """out = gain(mean of the image) * image: a part of it, ``gain``, gives (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Linear(3, 2)
        self.pair = nn.Identity()
        self.unused = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.pair((x, x))
        return x * self.gain(x.mean((2, 3))).mean(1).view(-1, 1, 1, 1)


@pytest.fixture
def make(networks, tiny_model):
    networks(Scaled)

    def make(kind: str = "SupervisedModel", module: str | None = "gain", weight: float = 0.3, **train):
        if module is not None:
            train["activity_penalty"] = {"module": module, "weight": weight}
        torch.manual_seed(1)
        return tiny_model(kind, "Scaled", RATE, **train)

    return make


def batch(n_real: int = 4) -> dict:
    generator = torch.Generator().manual_seed(5)
    lq, gt = (torch.rand(4, 3, 6, 5, generator=generator) for _ in range(2))
    return {"lq": lq, "gt": gt, "is_pseudo": torch.arange(4) >= n_real, "key": list("abcd")}


def by_hand(weights: torch.Tensor, data: dict, penalty: float) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """A step on the weighted mean of squared errors and penalties; new weights, the errors, the penalties."""
    torch.manual_seed(1)
    net = Scaled()
    gains = net.gain(data["lq"].mean((2, 3)))
    errors = (data["lq"] * gains.mean(1).view(-1, 1, 1, 1) - data["gt"]).square().mean((1, 2, 3))
    squares = penalty * (gains**2).mean(1)
    ((errors + squares) * weights).sum().div(weights.sum()).backward()
    stepped = {n: p.detach() - RATE * p.grad for n, p in net.gain.named_parameters()}
    return stepped, errors.detach(), squares.detach()


def test_step_of_supervised_learning(make):
    model, data = make(), batch()
    model.feed_data(data)
    model.optimize_parameters(1)
    expected, errors, squares = by_hand(torch.ones(4), data, 0.3)
    for name, value in model.net_g.gain.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name])
    log = model.get_current_log()
    assert log["l_pix"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert log["l_penalty"] == pytest.approx(squares.mean().item(), rel=1e-5)
    assert log["l_total"] == pytest.approx((errors + squares).mean().item(), rel=1e-5)


def test_filter_does_not_see_it_and_dropped_samples_do_not_pay(make):
    model, data = make("SemiSupervisedModel", filter={"beta": 1.0}, weight=50.0), batch(2)
    data["gt"][3] += 5  # dropped
    data["gt"][2] = model.net_g(data["lq"][2:3]).detach()  # kept, with a penalty far above the real samples' loss
    model.feed_data(data)
    model.optimize_parameters(1)
    expected, errors, squares = by_hand(torch.tensor([1.0, 1.0, 1.0, 0.0]), data, 50.0)
    assert squares[2] > errors[:2].mean()
    for name, value in model.net_g.gain.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name])
    log = model.get_current_log()
    assert log["pseudo/kept_ratio"] == 0.5
    assert log["l_sup"] == pytest.approx(errors[:2].mean().item(), rel=1e-5)
    assert log["l_penalty"] == pytest.approx(squares.mean().item(), rel=1e-5)


def test_without_it_nothing_changes(make):
    """Weight 0 and none at all, to the last bit, of the models that have a step of their own."""
    for kind, more in (
        ("SupervisedModel", {}),
        ("SemiSupervisedModel", {"filter": {"beta": 1.0}}),
        ("MeanTeacherModel", {"ema_decay": 0.9}),
    ):
        results = []
        for module in ("gain", None):
            model = make(kind, module, weight=0.0, **more)
            model.feed_data(batch(2))
            model.optimize_parameters(1)
            results.append((model.net_g.gain.weight.detach(), "l_penalty" in model.get_current_log()))
        assert torch.equal(results[0][0], results[1][0]), kind
        assert [logged for _, logged in results] == [True, False]


def test_mean_teacher_weights_it_like_the_losses(make):
    model, data = make("MeanTeacherModel", ema_decay=0.9, mean_teacher={"weight": 0.0}), batch(2)
    model.feed_data(data)
    model.optimize_parameters(1)
    expected, *_ = by_hand(torch.tensor([1.0, 1.0, 0.0, 0.0]), data, 0.3)
    for name, value in model.net_g.gain.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name])


def test_of_f_isp_both_networks_pay(option_files, completed):
    def start(weight):
        options = yaml.safe_load(Path(option_files.isp()).read_text(encoding="utf-8"))
        options["train"].update(
            activity_penalty={"module": "encoder", "weight": weight}, optim_g={"type": "SGD", "lr": 1}
        )
        torch.manual_seed(1)
        model = build_model(completed(options))
        model.feed_data({**batch(), "lq": torch.rand(2, 3, 32, 32), "gt": torch.rand(2, 3, 32, 32)})
        model.optimize_parameters(1)
        return model

    with_it, without = start(1.0), start(0.0)
    assert with_it.get_current_log()["l_penalty"] > 0
    for a, b in zip(with_it.trained_networks(), without.trained_networks(), strict=True):
        assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_seplut_has_the_module_of_its_sparsity_term(option_files, completed):
    """SepLUT's own loss: mean squared error + 1e-4 mean(weights^2)."""
    options = option_files.base("m", "SupervisedModel", 10)
    options["train"]["activity_penalty"] = {"module": WEIGHTS}
    options["network_g"]["dropout"] = 0.0
    model = build_model(completed(options))
    data = {**batch(), "lq": torch.rand(4, 3, 32, 32), "gt": torch.rand(4, 3, 32, 32)}
    with torch.no_grad():
        expected = 1e-4 * model.net_g.decide(data["lq"]).weights.square().mean()
    model.feed_data(data)
    model.optimize_parameters(1)
    assert model.get_current_log()["l_penalty"] == pytest.approx(expected.item(), rel=1e-5)


def test_validation_leaves_nothing_behind(make):
    model, data = make(), batch()
    model.feed_data({"lq": data["lq"][:1]})
    model.test()
    with torch.no_grad():
        model.net_g(data["lq"])
    assert model.penalties["l_penalty"]._outputs == []
    model.net_g(data["lq"])  # of a step that was broken off
    model.feed_data(data)
    assert model.penalties["l_penalty"]._outputs == []


def test_a_module_that_runs_twice_counts_twice():
    layer = nn.Linear(3, 2)
    penalty = ActivityPenalty({"network_g": nn.ModuleDict({"a": layer})}, "a", 2.0)
    x = torch.rand(4, 3)
    first, second = layer(x), layer(x.square()).bfloat16()
    penalty._outputs[1] = second
    torch.testing.assert_close(
        penalty.take(torch.zeros(4, 3, 6, 5)), 2 * (first.square().mean(1) + second.float().square().mean(1))
    )
    assert penalty._outputs == []


@pytest.mark.slow
def test_compiled_network(make):
    """The graph is captured with the hook in it, in training mode and without."""
    model, plain = make(), make()
    model.net_g.compile(backend="eager")
    for iteration in (1, 2):
        for m in (model, plain):
            m.feed_data(batch())
            m.optimize_parameters(iteration)
            if m is model:
                m.net_g.eval()(batch()["lq"])
                m.net_g.train()
        torch.testing.assert_close(model.net_g.gain.weight, plain.net_g.gain.weight)
        assert model.get_current_log()["l_penalty"] == pytest.approx(plain.get_current_log()["l_penalty"], rel=1e-6)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "gian",
            r"activity_penalty:module: network_g \(Scaled\) has no module 'gian'; did you mean 'gain'\? It has: gain, ",
        ),
        ("", "has no module ''"),
    ],
)
def test_unknown_module(make, module, message):
    with pytest.raises(ValueError, match=message):
        make(module=module)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("unused", "'unused' did not run in the network's forward pass"),
        ("pair", r"'pair' gives tuple; it has to be a tensor of 4 samples"),
    ],
)
def test_module_that_gives_nothing_to_penalise(make, module, message):
    model = make(module=module)
    model.feed_data(batch())
    with pytest.raises(ValueError, match=message):
        model.optimize_parameters(1)


def test_options(make):
    with pytest.raises(OptionError, match="activity_penalty:weight: expected a number from 0 to 1,000,000,000, got"):
        make(weight=-1.0)
    with pytest.raises(OptionError, match="activity_penalty: the key 'module' is missing"):
        make(module=None, activity_penalty={"weight": 1e-4})
    with pytest.raises(OptionError, match="unknown key; did you mean 'module'"):
        make(module=None, activity_penalty={"modul": "gain"})


# --- tables -----------------------------------------------------------------------------------------------------------


def seplut_options(option_files, **more) -> dict:
    options = option_files.base("m", "SupervisedModel", 10)
    options["train"]["table_penalty"] = {}
    options["train"].update(more)
    options["network_g"].update(dropout=0.0, n_vertices_1d=5, n_vertices_3d=3)
    return options


def images() -> dict:
    generator = torch.Generator().manual_seed(6)
    return {**batch(), **{key: torch.rand(4, 3, 32, 32, generator=generator) for key in ("lq", "gt")}}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_of_seplut_both_tables_pay(option_files, completed, precision):
    model, data = build_model(completed(seplut_options(option_files, precision=precision))), images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        lut_1d, lut_3d, _ = model.net_g.decide(data["lq"])
    expected = sum(1e-4 * roughness(t) + 10 * falls(t) for t in (lut_1d, lut_3d))
    assert lut_1d.dtype == lut_3d.dtype == expected.dtype == torch.float32
    model.feed_data(data)
    model.optimize_parameters(1)
    assert all(p.grad.isfinite().all() for p in model.net_g.parameters() if p.grad is not None)
    log = model.get_current_log()
    assert log["l_tables"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert log["l_total"] == pytest.approx(log["l_pix"] + log["l_tables"], rel=1e-5)


@pytest.mark.parametrize("stage", ["n_vertices_1d", "n_vertices_3d"])
def test_of_seplut_one_stage_may_be_missing(option_files, completed, stage):
    options = seplut_options(option_files, activity_penalty={"module": "backbone"})
    options["network_g"][stage] = 0
    model = build_model(completed(options))
    model.feed_data(images())
    model.optimize_parameters(1)
    log = model.get_current_log()
    assert log["l_total"] == pytest.approx(log["l_pix"] + log["l_penalty"] + log["l_tables"], rel=1e-5)


def test_tables_of_a_part_of_a_network_pay():
    seplut = SepLUT(n_vertices_1d=5, n_vertices_3d=3, thumbnail=32, dropout=0.0)
    penalty = TablePenalty({"network_g": nn.Sequential(nn.Identity(), seplut)}, smoothness=1.0, monotonicity=0.0)
    seplut(images()["lq"])
    lut_1d, lut_3d, _ = seplut.eval().decide(images()["lq"])
    assert len(penalty._outputs) == 2
    torch.testing.assert_close(penalty.take(torch.zeros(4, 3, 6, 5)), roughness(lut_1d) + roughness(lut_3d))


def test_resumed_with_it_is_the_same(option_files, completed, tmp_path):
    """It has no state of its own: another model goes on from the weights and the optimiser's state."""
    runs = []
    for stop in (False, True):
        torch.manual_seed(1)
        model = build_model(completed(seplut_options(option_files)))
        for iteration in (1, 2):
            if stop and iteration == 2:
                weights, state = model.net_g.state_dict(), model.optimizer_g.state_dict()
                model = build_model(completed(seplut_options(option_files)))
                model.net_g.load_state_dict(weights)
                model.optimizer_g.load_state_dict(state)
            model.feed_data(images())
            model.optimize_parameters(iteration)
        runs.append(model.net_g.state_dict())
    assert all(torch.equal(a, runs[1][name]) for name, a in runs[0].items())


def test_network_without_tables(make):
    message = r"train:table_penalty: network_g \(Scaled\) predicts no lookup tables. Leave .*that does: .*SepLUT"
    with pytest.raises(ValueError, match=message):
        make(module=None, table_penalty={})


def test_options_of_tables(make):
    with pytest.raises(OptionError, match=r"table_penalty:axes: 'any' is none of the choices\. Choose own or all"):
        make(module=None, table_penalty={"axes": "any"})
    with pytest.raises(OptionError, match="table_penalty:monotonicity: expected a number from 0"):
        make(module=None, table_penalty={"monotonicity": -1})


# --- deep supervision ------------------------------------------------------------------------------------------------


class TwoImages(nn.Module):
    """A first image, ``start``, and a second made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv2d(3, 3, 1)
        self.end = nn.Conv2d(3, 3, 1)
        self.smaller = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.start(x)
        self.smaller(first)
        return self.end(first)


@pytest.fixture
def supervised(networks, tiny_model):
    networks(TwoImages)

    def make(kind: str, module: str = "start", **train):
        torch.manual_seed(1)
        return tiny_model(kind, "TwoImages", RATE, deep_supervision={"module": module, "weight": 0.5}, **train)

    return make


@pytest.mark.parametrize("kind", ["SupervisedModel", "SemiSupervisedModel"])
def test_an_image_of_a_part_is_compared_with_the_target(supervised, kind):
    """The step is that of both errors; of a sample that the filter drops, of neither."""
    semi = kind == "SemiSupervisedModel"
    model, data = supervised(kind, **({"filter": {"beta": 1.0}} if semi else {})), batch(2 if semi else 4)
    data["gt"][3] += 5
    data["gt"][2] = model.net_g(data["lq"][2:3]).detach()
    model.feed_data(data)
    model.optimize_parameters(1)
    torch.manual_seed(1)
    net = TwoImages()
    first = net.start(data["lq"])
    deep = (first - data["gt"]).square().mean((1, 2, 3))
    errors = (net.end(first) - data["gt"]).square().mean((1, 2, 3))
    kept = slice(3 if semi else 4)
    (errors + 0.5 * deep)[kept].mean().backward()
    for name, value in model.net_g.named_parameters():
        torch.testing.assert_close(
            value.detach(), net.get_parameter(name).detach() - RATE * net.get_parameter(name).grad
        )
    log = model.get_current_log()
    assert log["l_deep"] == pytest.approx(0.5 * deep.mean().item(), rel=1e-5)
    assert log["l_pix"] == pytest.approx(errors[kept].mean().item(), rel=1e-5)


def test_a_part_that_gives_no_image_of_the_targets_size_is_named(supervised):
    model = supervised("SupervisedModel", "smaller")
    model.feed_data(batch())
    with pytest.raises(ValueError, match=r"deep_supervision:module: 'smaller' gives \(4, 3, 3, 2\), .* \(4, 3, 6, 5\)"):
        model.optimize_parameters(1)
    with pytest.raises((ValueError, OptionError), match=r"deep_supervision:module: network_g .* no module 'star'"):
        supervised("SupervisedModel", "star")
