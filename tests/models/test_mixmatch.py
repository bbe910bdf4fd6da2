"""MixMatch: its step against a computation by hand, the guess, what is drawn, resuming."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semiisp_plugin.cli import main
from semiisp_plugin.models.mixmatch_model import draw_mixmatch, linear_rampup, turned
from semiisp_plugin.options import OptionError, Source, complete
from semiisp_plugin.toolbox import build_model

RATE = 0.5
SEED = 3  # of the option files of the tests


class Tilted(nn.Module):
    """out = W in + b + a ramp along the columns and rows, so that an image that is turned gives another result."""

    def __init__(self, dropout: float = 0.0, upscale: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.1 * torch.arange(9.0).view(3, 3) / 9)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.02, 0.01]))
        self.dropout = nn.Dropout(dropout)
        self.upscale = nn.Upsample(scale_factor=upscale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = 0.02 * torch.arange(x.shape[-1]) + 0.03 * torch.arange(x.shape[-2]).view(-1, 1)
        mixed = torch.einsum("oc,nchw->nohw", self.weight, self.dropout(x)) + self.bias.view(1, 3, 1, 1)
        return self.upscale(mixed + ramp)


def apply(w: np.ndarray, b: np.ndarray, image: np.ndarray) -> np.ndarray:
    """`Tilted` in NumPy, of ``(N, 3, H, W)``."""
    ramp = 0.02 * np.arange(image.shape[-1]) + 0.03 * np.arange(image.shape[-2])[:, None]
    return np.einsum("oc,nchw->nohw", w, image) + b[:, None, None] + ramp


def turn(image: np.ndarray, number: int) -> np.ndarray:
    """``(C, H, W)``: flip left to right, upside down, transpose."""
    image = image[..., ::-1] if number in (1, 3, 5, 7) else image
    image = image[..., ::-1, :] if number in (2, 3, 6, 7) else image
    return image.swapaxes(1, 2) if number >= 4 else image


def turn_back(image: np.ndarray, number: int) -> np.ndarray:
    """Found by trying: the one that `turn` turns into the image."""
    return next(other for n in range(8) if np.array_equal(turn(other := turn(image, n), number), image))


@pytest.fixture
def options(option_files, networks):
    """Options of a run on the tiny pairs, with the inputs of the test images as unlabelled ones."""
    networks(Tilted)

    def make(total: int = 10, network=None, **train) -> dict:
        options = option_files.base("mixmatch", "MixMatchModel", total)
        data = options["datasets"]["train"]
        del data["batch_size_per_gpu"]
        inputs = {"dataroot_lq": str(option_files.data / "test/input"), "io_backend": {"type": "disk"}}
        data.update(type="SemiSupervisedDataset", real_per_batch=2, unlabelled_per_batch=3, unlabelled=inputs)
        if network is not None:
            options["network_g"] = {"type": "Tilted", **network}
            options["train"].update(optim_g={"type": "SGD", "lr": RATE}, scheduler=None)
        options["train"].update(train)
        return options

    return make


@pytest.fixture
def make_model(options, completed):
    def make(network=None, **train):
        return build_model(completed(options(network=network or {}, **train)))

    return make


LABELLED, PSEUDO, UNLABELLED = range(3)
MIXED = [LABELLED, UNLABELLED, UNLABELLED, LABELLED, UNLABELLED]


def make_batch(kinds: list[int], seed: int = 1, size: tuple[int, int] = (6, 5)) -> dict:
    lq, gt = torch.rand(2, len(kinds), 3, *size, generator=torch.Generator().manual_seed(seed))
    kind = torch.tensor(kinds)
    gt[kind == UNLABELLED] = lq[kind == UNLABELLED]
    flags = {"is_pseudo": kind == PSEUDO, "is_unlabelled": kind == UNLABELLED}
    return {"lq": lq, "gt": gt, **flags, "key": [f"image {i}" for i in range(len(kinds))]}


def drawn(batch: dict, iteration: int, alpha: float = 0.75):
    lq, chosen = batch["lq"], int((batch["is_unlabelled"] | batch["is_pseudo"]).sum())
    return draw_mixmatch(len(lq) + chosen, chosen, lq.shape[-1] == lq.shape[-2], alpha, (SEED, iteration, 0))


def guessed(w: np.ndarray, b: np.ndarray, images: np.ndarray, turns: list[int]) -> np.ndarray:
    """The mean of two predictions, image by image."""
    pairs = [
        (apply(w, b, image[None])[0], turn_back(apply(w, b, turn(image, number)[None])[0], number))
        for image, number in zip(images, turns, strict=True)
    ]
    return np.clip([(first + second) / 2 for first, second in pairs], 0, 1)


def by_hand(w: np.ndarray, b: np.ndarray, batch: dict, iteration: int, *, weight: float, rampup: int, alpha: float):
    """One step of gradient descent in NumPy and double precision; the new weights, and what is logged."""
    x, y = (batch[k].double().numpy().copy() for k in ("lq", "gt"))
    unlabelled = (batch["is_unlabelled"] | batch["is_pseudo"]).numpy()
    mixing = drawn(batch, iteration, alpha)
    y[unlabelled] = guessed(w, b, x[unlabelled], mixing.turns)
    x, y = (
        np.stack([*images, *(turn(i, n) for i, n in zip(images[unlabelled], mixing.turns, strict=True))])
        for images in (x, y)
    )
    unlabelled = np.concatenate([unlabelled, np.ones(unlabelled.sum(), bool)])
    own = mixing.shares.numpy()[:, None, None, None]
    x, y = (own * images + (1 - own) * images[mixing.partners.numpy()] for images in (x, y))
    error = apply(w, b, x) - y
    losses = (error**2).mean(axis=(1, 2, 3))
    of_unlabelled = weight * min(1, iteration / rampup)
    share = np.where(unlabelled, of_unlabelled / unlabelled.sum(), 1 / (~unlabelled).sum())
    gradient = share[:, None, None, None] * 2 * error / error[0].size
    new_w = w - RATE * np.einsum("nohw,nchw->oc", gradient, x)
    new_b = b - RATE * gradient.sum(axis=(0, 2, 3))
    logs = {"l_sup": losses[~unlabelled].mean(), "l_unlabelled": losses[unlabelled].mean()}
    return new_w, new_b, {**logs, "unlabelled_weight": of_unlabelled, "l_pix": losses.mean()}


@pytest.mark.parametrize("size", [(6, 5), (6, 6)], ids=["oblong", "square"])
def test_steps_are_those_by_hand(make_model, size):
    model = make_model(mixmatch={"weight": 0.7, "alpha": 0.5, "rampup_iter": 3})
    w, b = (p.detach().double().numpy() for p in (model.net_g.weight, model.net_g.bias))
    for iteration in range(1, 6):
        batch = make_batch([*MIXED, PSEUDO], iteration, size)
        w, b, logs = by_hand(w, b, batch, iteration, weight=0.7, rampup=3, alpha=0.5)
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        np.testing.assert_allclose(model.net_g.weight.detach().numpy(), w, atol=1e-5)
        np.testing.assert_allclose(model.net_g.bias.detach().numpy(), b, atol=1e-5)
        logged = model.get_current_log()
        assert {name: logged[name] for name in logs} == pytest.approx(logs, rel=1e-4)
        assert logs["l_unlabelled"] > 1e-5


def test_defaults(make_model):
    settings = make_model().mixmatch
    assert (settings.weight, settings.alpha, settings.rampup_iter) == (1.0, 0.75, 100)


@pytest.mark.parametrize("size", [(6, 5), (6, 6)], ids=["oblong", "square"])
def test_the_guess_is_the_mean_of_two_predictions(make_model, size):
    """In evaluation mode, without a gradient, clamped; afterwards the network is in its mode."""
    model = make_model({"dropout": 0.5})
    images = make_batch([UNLABELLED] * 7, size=size)["lq"]
    turns = [1, 2, 3, 4, 5, 6, 7] if size == (6, 6) else [1, 2, 3, 1, 2, 3, 1]
    guess = model.guess(images, turned(images, turns), turns)
    w, b = (p.detach().double().numpy() for p in (model.net_g.weight, model.net_g.bias))
    expected = guessed(w, b, images.double().numpy(), turns)
    np.testing.assert_allclose(guess.detach().numpy(), expected, atol=1e-6)
    assert 0 < (expected == 1).mean() < 0.5
    one_alone = apply(w, b, images.double().numpy()).clip(0, 1)
    assert np.abs(one_alone - expected).max() > 0.02, "the images need not be turned to tell this"
    assert model.net_g.training


def test_turned():
    image = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    ways = [turned(image, [n]) for n in range(8)]
    assert torch.equal(ways[0], image)
    assert len({way.numpy().tobytes() for way in ways}) == 8
    for number, way in enumerate(ways):
        np.testing.assert_array_equal(way[0].numpy(), turn(image[0].numpy(), number))
        assert torch.equal(turned(way, [number], back=True), image)
    several = turned(image.expand(8, -1, -1, -1), list(range(8)))
    assert torch.equal(several, torch.cat(ways))
    oblong = torch.rand(3, 3, 4, 6)
    assert turned(oblong, [1, 2, 3]).shape == oblong.shape


def test_what_is_drawn():
    many = draw_mixmatch(4000, 3500, True, 0.75, (1, 2, 0))
    assert {*many.turns} == {1, 2, 3, 4, 5, 6, 7}
    assert {*draw_mixmatch(9, 300, False, 0.75, (1, 2, 0)).turns} == {1, 2, 3}
    assert sorted(many.partners.tolist()) == list(range(4000))
    assert 0.5 <= float(many.shares.min()) < 0.51
    # E max(B, 1 - B) of Beta(1, 1) is 3/4; with alpha near 0 samples stay what they are.
    assert float(draw_mixmatch(4000, 0, True, 1.0, (1, 2, 0)).shares.mean()) == pytest.approx(0.75, abs=0.01)
    assert float(draw_mixmatch(4000, 0, True, 1e-3, (1, 2, 0)).shares.mean()) > 0.99
    again = draw_mixmatch(4000, 3500, True, 0.75, (1, 2, 0))
    assert again.turns == many.turns
    assert torch.equal(again.shares, many.shares)
    for seeds in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not torch.equal(draw_mixmatch(4000, 3500, True, 0.75, seeds).shares, many.shares)


def test_linear_rampup():
    assert [linear_rampup(i, 4) for i in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert linear_rampup(1, 0) == 1


@pytest.mark.parametrize("likelihood", [False, True], ids=["pixel loss", "likelihood"])
def test_stand_ins_and_pseudo_ground_truths_are_not_used(make_model, completed, options, likelihood):
    batch = make_batch([*MIXED, PSEUDO], size=(8, 8))
    without = (batch["is_pseudo"] | batch["is_unlabelled"]).view(-1, 1, 1, 1)
    weights = []
    for data in (batch, {**batch, "gt": torch.where(without, torch.nan, batch["gt"])}):
        torch.manual_seed(0)
        if likelihood:
            flow = options(likelihood={}, pixel_opt=None, network={})
            tiny = {"num_feat": 4, "num_block": 1, "num_grow_ch": 2, "stacked": [0], "hidden_feat": 4}
            flow["network_g"] = {"type": "LLFlow", **tiny, "levels": 1, "flow_steps": 1}
            flow["train"]["optim_g"]["lr"] = 1e-3
            model = build_model(completed(flow))
        else:
            model = make_model()
        before = [p.detach().clone() for p in model.net_g.parameters()]
        model.update_learning_rate(1)
        model.feed_data(data)
        model.optimize_parameters(1)
        assert any(not torch.equal(p, q) for p, q in zip(before, model.net_g.parameters(), strict=True))
        weights.append([p.detach() for p in model.net_g.parameters()])
    assert all(bool(p.isfinite().all()) for p in weights[1])
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))


def test_the_network_runs_once_for_the_guess_and_once_for_the_step(make_model):
    model, batch = make_model({"dropout": 0.5}), make_batch(MIXED)
    original = {key: batch[key].clone() for key in ("lq", "gt", "is_unlabelled")}
    runs = []
    model.net_g.register_forward_hook(
        lambda net, args, out: runs.append((len(args[0]), net.training, torch.is_grad_enabled()))
    )
    model.feed_data(batch)
    model.optimize_parameters(1)
    assert runs == [(6, False, False), (8, True, True)]
    assert all(torch.equal(batch[key], value) for key, value in original.items()), "the caller's batch was changed"
    assert model.keys == [*batch["key"], "image 1", "image 2", "image 4"]
    groups = model.image_groups()
    assert groups["unlabelled"].tolist() == [False, True, True, False, True, True, True, True]
    assert torch.equal(groups["labelled"], ~groups["unlabelled"])
    assert not model.gt.requires_grad


@pytest.mark.parametrize("kinds", [[LABELLED] * 3, [UNLABELLED] * 3], ids=["labelled", "unlabelled"])
def test_batches_of_one_kind(make_model, kinds):
    model = make_model()
    model.feed_data(make_batch(kinds))
    model.optimize_parameters(50)
    log = model.get_current_log()
    absent, present = ("l_sup", "l_unlabelled") if kinds[0] else ("l_unlabelled", "l_sup")
    assert log[absent] == 0
    assert log[present] > 0


def test_network_that_changes_the_size(make_model):
    model = make_model({"upscale": 2})
    model.feed_data(make_batch(MIXED))
    with pytest.raises(OptionError, match="Take a network that keeps the size"):
        model.optimize_parameters(1)


def test_accumulated_batches_are_drawn_apart(make_model):
    model, seen = make_model(accumulate=2), []
    for part in (0, 1):
        with model.accumulating(part):
            model.feed_data(make_batch(MIXED))
            model.optimize_parameters(1)
            seen.append(model.lq)
    assert not torch.equal(*seen)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"mixmatch": {"wieght": 1}}, r"train:mixmatch:wieght: unknown key; did you mean 'weight'\?"),
        ({"mixmatch": {"alpha": 0}}, "train:mixmatch:alpha: expected a number above 0"),
        ({"mixmatch": {"rampup_iter": -1}}, "train:mixmatch:rampup_iter: expected a whole number from 0 to 1,000,000"),
        ({"filter": {"beta": 1.0}}, "train:filter: only SemiSupervisedModel has this; MixMatchModel would ignore"),
        ({"consistency": {}}, "train:consistency: only SemiSupervisedModel has this; MixMatchModel would ignore"),
    ],
)
def test_wrong_options(options, train, message):
    with pytest.raises(OptionError, match=message):
        complete(options(**train), Source("t"), root_path=".", is_train=True)


def test_resumed_run_equals_an_unbroken_one(options, option_files, capsys):
    """Bit by bit, on the CPU, with dropout and without pseudo pairs."""
    path = option_files.write("mixmatch", options(total=4, mixmatch={"rampup_iter": 3}, ema_decay=0.9))
    assert main(["train", "-opt", path]) == 0
    assert "6 real and 0 pseudo pairs, 2 unlabelled inputs; 2 + 0 + 3 a batch" in capsys.readouterr().err
    run, unbroken = Path("experiments/mixmatch"), Path("experiments/unbroken")
    shutil.move(run, unbroken)
    assert main(["train", "-opt", path]) == 0
    for stale in [*run.glob("models/*_4.pth"), *run.glob("models/*latest*"), *run.glob("training_states/4.*")]:
        stale.unlink()
    capsys.readouterr()
    assert main(["train", "-opt", path, "--auto_resume"]) == 0
    said = capsys.readouterr().err
    assert "Resuming from iteration 3" in said
    assert "is not what an unbroken one would be" not in said
    a, b = (torch.load(folder / "models/net_g_latest.pth", weights_only=True) for folder in (unbroken, run))
    for key in ("params", "params_ema"):
        for name, value in a[key].items():
            assert torch.equal(value, b[key][name]), f"{key} {name}"


def test_dry_run(options, option_files, capsys):
    """It shows the batch as it is read, and the output for all that was trained on."""
    path = option_files.write("mixmatch", options(total=4))
    assert main(["train", "-opt", path, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "passes over the sources in all: real 1.33, unlabelled 6." in shown
    for row in (r"lq +5x3x32x40 ", r"output +8x3x32x40 ", r"is_unlabelled +5 +bool ", r"l_unlabelled \d"):
        assert re.search(row, shown), row
