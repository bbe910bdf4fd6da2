"""`SemiSupervisedModel` with any filter: held-out reference, what is logged and recorded, exact resume."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import semiisp_plugin.models.semi_supervised_model as module
from semiisp_plugin.toolbox import FILTER_REGISTRY, build_model, get_root_logger

BASE_LOG = {"l_pix", "l_sup", "l_pseudo", "grad_norm"}
PSEUDO_LOG = {f"pseudo/{n}" for n in ("kept_ratio", "reference", "all_rejected")}


class Mixing(nn.Module):
    """A 1x1 convolution, and dropout and running statistics to tell the modes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(self.conv(x)))


class Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the model told the log."""
    lines: list[str] = []
    get_root_logger()
    monkeypatch.setattr(logging.getLogger("basicsr"), "info", lines.append)
    monkeypatch.setattr(logging.getLogger("basicsr"), "warning", lines.append)
    return lines


@pytest.fixture
def make_model(networks, tiny_options, completed, workspace):
    """A model whose options were checked, but for the filter's section."""
    networks(Mixing, Pointwise)

    def make(network: str = "Pointwise", **filter_section):
        opt = completed(tiny_options("SemiSupervisedModel", network, 0.05, 4, 50))
        opt["train"]["filter"] = filter_section or {"beta": 1.0}
        return build_model(opt)

    return make


def batch_of(number: int, n_real: int = 2, n_pseudo: int = 4) -> dict:
    generator = torch.Generator().manual_seed(number)
    lq, gt = torch.rand(2, n_real + n_pseudo, 3, 6, 5, generator=generator)
    # Some pseudo pairs are much worse than others.
    gt[n_real:] = lq[n_real:] + torch.rand(n_pseudo, 1, 1, 1, generator=generator) * (gt[n_real:] - lq[n_real:]) * 2
    keys = [f"r{i}" for i in range(n_real)] + [f"p{(number + i) % 5}" for i in range(n_pseudo)]
    return {"lq": lq, "gt": gt, "is_pseudo": torch.arange(n_real + n_pseudo) >= n_real, "key": keys}


def held_out(*sizes: int) -> list[dict]:
    return [batch_of(1000 + n, n_real=size, n_pseudo=0) for n, size in enumerate(sizes)]


def train(model, first: int, last: int) -> None:
    for iteration in range(first, last + 1):
        model.feed_data(batch_of(iteration))
        model.optimize_parameters(iteration)


def state_of(model, folder) -> dict:
    """Through a file, as a checkpoint."""
    torch.save({"net": model.net_g.state_dict(), "extra": model.extra_state()}, folder / "state")
    return torch.load(folder / "state", weights_only=True)


# --- a filter of the user's -----------------------------------------------------------------------------------------


def test_a_filter_of_the_users_is_trained_with(make_model, monkeypatch):
    """It decides which gradients reach the network: here, those of every second pseudo sample."""
    seen = []

    def every_second(per_sample_loss, is_pseudo, *, reference, start: int = 0):
        seen.append(float(reference))
        weights = torch.zeros_like(per_sample_loss)
        weights[start::2] = 1
        return weights

    monkeypatch.setitem(FILTER_REGISTRY._obj_map, "every_second", every_second)
    model = make_model(type="every_second", start=1)
    batch = batch_of(1)
    alone = make_model()
    alone.net_g.load_state_dict(model.net_g.state_dict())
    losses = (alone.net_g(batch["lq"]) - batch["gt"]).square().mean((1, 2, 3))
    losses[[0, 1, 3, 5]].mean().backward()
    expected = [p - 0.05 * p.grad for p in alone.net_g.parameters()]
    model.feed_data(batch)
    model.optimize_parameters(1)
    for value, reference in zip(model.net_g.parameters(), expected, strict=True):
        torch.testing.assert_close(value, reference)
    assert seen[-1] == pytest.approx(losses[:2].mean().item())
    log = model.get_current_log()
    assert log.keys() == BASE_LOG | PSEUDO_LOG  # no threshold: this filter has no beta
    assert log["pseudo/kept_ratio"] == 0.5
    assert log["l_pix"] == pytest.approx(losses[[0, 1, 3, 5]].mean().item())
    assert log["l_pseudo"] == pytest.approx(losses[[3, 5]].mean().item())
    assert [mask.nonzero().flatten().tolist() for mask in model.image_groups().values()] == [[0, 1], [3, 5], [2, 4]]


def test_soft_weights_give_the_weighted_gradient(make_model):
    section = {"type": "soft", "beta": 1.0, "temperature": 1.0}
    model, alone = make_model(**section), make_model(**section)
    alone.net_g.load_state_dict(model.net_g.state_dict())
    batch = batch_of(3)
    losses = (alone.net_g(batch["lq"]) - batch["gt"]).square().mean((1, 2, 3))
    x = losses.detach().numpy()
    level = x[:2].mean()
    w = np.exp(-0.5 * (np.maximum(0, x - level) / level) ** 2)
    w[:2] = 1
    assert ((w[2:] > 0.01) & (w[2:] < 0.99)).any(), "no weight between 0 and 1 in this batch"
    ((losses * torch.from_numpy(w)).sum() / w.sum()).backward()
    model.feed_data(batch)
    model.optimize_parameters(1)
    for value, other in zip(model.net_g.parameters(), alone.net_g.parameters(), strict=True):
        torch.testing.assert_close(value, other - 0.05 * other.grad)
    log = model.get_current_log()
    assert log["pseudo/kept_ratio"] == pytest.approx(w[2:].mean(), rel=1e-5)
    assert log["l_pseudo"] == pytest.approx((w[2:] @ x[2:]) / w[2:].sum(), rel=1e-5)
    assert log["pseudo/threshold"] == pytest.approx(level, rel=1e-5)


def test_the_example_of_the_documentation(make_model, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
    source = page.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.setattr(FILTER_REGISTRY, "_obj_map", dict(FILTER_REGISTRY._obj_map))
    exec(compile(source, "docs/filters.md", "exec"), {"__name__": "my_filters"})
    model = make_model(type="band", high=1.2, reference="running")
    result = model.filter(torch.tensor([1.0, 0.05, 0.1, 1.2, 1.3]), torch.tensor([False] + [True] * 4))
    assert result.weights.tolist() == [1, 0, 1, 1, 0]
    train(model, 1, 2)


# --- held-out pairs -------------------------------------------------------------------------------------------------


def plain_loss(model, batches: list[dict]) -> float:
    net = model.net_g.eval()
    with torch.no_grad():
        losses = [(net(b["lq"]) - b["gt"]).square().mean((1, 2, 3)) for b in batches]
    net.train()
    return torch.cat(losses).mean().item()


def test_held_out_loss_is_the_reference(make_model, said):
    """In evaluation mode, of all pairs alike, at every third iteration; training continues as if nothing had been."""
    model = make_model("Mixing", beta=1.0, reference="held_out", held_out={"count": 5, "every": 3})
    batches = held_out(3, 2)
    model.use_held_out(batches)
    assert "5 real pairs that are not trained on: r0, r1, r2, r0, r1." in said[-1]
    references, expected = [], []
    for iteration in range(1, 9):
        statistics = {k: v.clone() for k, v in model.net_g.named_buffers()}
        if iteration in (1, 4, 7):
            expected.append(plain_loss(model, batches))
            model.feed_data(batch_of(iteration))
            model.held_out_loss()
        assert all(torch.equal(v, statistics[k]) for k, v in model.net_g.named_buffers())
        train(model, iteration, iteration)
        assert model.net_g.training
        assert torch.equal(model.lq, batch_of(iteration)["lq"])
        references.append(model.get_current_log()["pseudo/reference"])
    np.testing.assert_allclose(references, [expected[i] for i in (0, 0, 0, 1, 1, 1, 2, 2)], rtol=1e-6)
    assert len(set(expected)) == 3
    # Looking again in the same iteration (a second part of an accumulated batch) changes nothing.
    model.filter.set_held_out(0.125)
    model._held_out_at = 10
    train(model, 10, 10)
    assert model.filter.held_out == 0.125


def test_processes_share_the_held_out_pairs(make_model, monkeypatch):
    batches = held_out(3, 2, 3)
    model = make_model(beta=1.0, reference="held_out")
    model.use_held_out(batches)
    model.feed_data(batch_of(1))
    whole = model.held_out_loss()
    parts = []
    model.opt.update(dist=True, world_size=2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: parts.append(total.clone()))
    for rank in range(2):
        model.opt["rank"] = rank
        model.held_out_loss()
    total, count = sum(parts).tolist()
    assert [int(p[1]) for p in parts] == [6, 2]
    assert total / count == pytest.approx(whole, rel=1e-6)
    assert whole == pytest.approx(plain_loss(model, batches), rel=1e-6)


def test_held_out_loss_that_is_not_finite(make_model, said):
    model = make_model(beta=1.0, reference="held_out", held_out={"every": 1})
    broken = held_out(2)
    broken[0]["gt"][0, 0, 0, 0] = math.nan
    model.use_held_out(broken)
    train(model, 1, 1)
    assert model.get_current_log()["pseudo/kept_ratio"] == 0
    assert any("nan in iteration 1; the filter keeps none" in line for line in said)
    model.use_held_out(held_out(2))
    train(model, 2, 2)
    last = model.filter.held_out
    model.use_held_out(broken)
    train(model, 3, 3)
    assert f"nan in iteration 3; the filter keeps {last}" in said[-1]
    assert model.filter.held_out == last


def test_held_out_pairs_are_missing(make_model):
    model = make_model(beta=1.0, reference="held_out")
    with pytest.raises(ValueError, match="use_held_out"):
        train(model, 1, 1)


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "section",
    [
        {"beta": 1.0, "reference": "held_out", "held_out": {"count": 3, "every": 4}},
        {"type": "soft", "beta": 0.8, "temperature": 0.3, "reference": "running", "warmup_iter": 3},
        {"type": "quantile", "keep": 0.5},
    ],
    ids=["held_out", "running", "batch"],
)
def test_resumed_run_equals_an_unbroken_one(make_model, tmp_path, section):
    """Bit by bit: the weights, the reference, which is not looked at again, and what is recorded."""
    whole, first, second = (make_model("Pointwise", **section) for _ in range(3))
    first.net_g.load_state_dict(whole.net_g.state_dict())
    for model in (whole, first, second):
        if "held_out" in section:
            model.use_held_out(held_out(2, 1))
    train(whole, 1, 6)
    references = whole.filter.held_out, whole.filter.running
    train(whole, 7, 12)
    train(first, 1, 6)
    state = state_of(first, tmp_path)
    second.net_g.load_state_dict(state["net"])
    second.load_extra_state(state["extra"])
    assert (second.filter.held_out, second.filter.running) == references
    train(second, 7, 12)
    for value, expected in zip(second.net_g.parameters(), whole.net_g.parameters(), strict=True):
        assert torch.equal(value, expected)
    assert second.filter.state_dict() == whole.filter.state_dict()
    assert second.filter_record.rejections() == whole.filter_record.rejections()
    assert second.filter_record.all_rejected() == whole.filter_record.all_rejected()


# --- what is said and written ---------------------------------------------------------------------------------------


def test_visits_of_the_warm_up_do_not_count(make_model):
    model = make_model(beta=0.0, warmup_iter=3)
    train(model, 1, 5)
    assert all(row[1] < 4 for row in model.filter_record.rejections())


def test_log_table_and_histograms(make_model):
    class Writer:
        def __init__(self) -> None:
            self.histograms: dict[str, np.ndarray] = {}

        def add_histogram(self, name: str, values: np.ndarray, step: int) -> None:
            assert step == 6
            self.histograms[name] = values

    model = make_model(beta=0.9)
    ratios, dropped = [], {}
    for iteration in range(1, 7):
        batch = batch_of(iteration)
        with torch.no_grad():
            losses = (model.net_g(batch["lq"]) - batch["gt"]).square().mean((1, 2, 3)).numpy()
        train(model, iteration, iteration)
        out = losses[2:] > 0.9 * losses[:2].mean()
        ratios.append(1 - out.mean())
        for key, is_out in zip(batch["key"][2:], out, strict=True):
            dropped.setdefault(key, []).append(bool(is_out))
    log = model.get_current_log()
    assert log.keys() == BASE_LOG | PSEUDO_LOG | {"pseudo/threshold"}
    assert log["pseudo/kept_ratio"] == pytest.approx(np.mean(ratios))
    assert log["pseudo/reference"] == pytest.approx(log["l_sup"]) == pytest.approx(log["pseudo/threshold"] / 0.9)
    assert model.get_current_log() == {}

    writer = Writer()
    model.log_histograms(None, 6)
    assert writer.histograms == {}
    train(model, 6, 6)
    model.log_histograms(writer, 6)
    sizes = {name: len(values) for name, values in writer.histograms.items()}
    assert sizes["filter_losses/real"] == 2
    assert sum(sizes.values()) == 6

    model = make_model(beta=0.9)
    train(model, 1, 6)
    model.write_records()
    with open("experiments/model/filter/rejections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["key"] for row in rows} == dropped.keys()
    shares = [float(row["share_dropped"]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert {row["seen"] for row in rows} <= {"4", "5"}


def test_network_is_back_in_its_mode_after_an_error(make_model, monkeypatch):
    model = make_model("Mixing", beta=1.0, reference="held_out")
    model.use_held_out(held_out(2))
    model.feed_data(batch_of(1))
    monkeypatch.setattr(module.SemiSupervisedModel, "predict", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.held_out_loss()
    assert model.net_g.training
    assert len(model.lq) == 6
