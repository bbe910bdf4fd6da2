"""The adversarial term: steps of both networks against a computation by hand, labels, the choice, resuming."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.cli import main
from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.models.adversarial_model import best, soft_labels
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.options import OptionError, Source, complete
from semiisp_plugin.toolbox import build_model

RATE, RATE_D = 0.5, 0.2
SEED = 3  # of the option files of the tests
TINY = {"width": 2, "optim_d": {"type": "SGD", "lr": RATE_D}}


class Affine(nn.Module):
    """out = W in + b at each pixel."""

    def __init__(self, upscale: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.1 * torch.arange(9.0).view(3, 3) / 9)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.02, 0.01]))
        self.upscale = nn.Upsample(scale_factor=upscale)

    def forward(self, x: Tensor) -> Tensor:
        return self.upscale(torch.einsum("oc,nchw->nohw", self.weight, x) + self.bias.view(1, 3, 1, 1))


@pytest.fixture
def options(option_files, networks):
    """Options of a run on the tiny pairs, with the inputs of the test images as unlabelled ones."""
    networks(Affine)

    def make(total: int = 10, network=None, pseudo: bool = False, **train) -> dict:
        options = option_files.base("adversarial", "AdversarialModel", total)
        data = options["datasets"]["train"]
        del data["batch_size_per_gpu"]
        inputs = {"dataroot_lq": str(option_files.data / "test/input"), "io_backend": {"type": "disk"}}
        data.update(type="SemiSupervisedDataset", real_per_batch=2, unlabelled_per_batch=3, unlabelled=inputs)
        if pseudo:
            data["pseudo"] = {key: data[key] for key in ("dataroot_gt", "dataroot_lq", "io_backend")}
            data["pseudo_per_batch"] = 3
        if network is not None:
            options["network_g"] = {"type": "Affine", **network}
            options["train"].update(optim_g={"type": "SGD", "lr": RATE}, scheduler=None)
        options["train"].update(train)
        options["train"]["adversarial"] = {**TINY, **train.get("adversarial", {})}
        return options

    return make


@pytest.fixture
def make_model(options, completed):
    def make(network=None, **train):
        return build_model(completed(options(network=network or {}, pseudo=True, **train)))

    return make


LABELLED, PSEUDO, UNLABELLED = range(3)
MIXED = [LABELLED, UNLABELLED, PSEUDO, LABELLED, PSEUDO]


def make_batch(kinds: list[int] = MIXED, seed: int = 1) -> dict:
    lq, gt = torch.rand(2, len(kinds), 3, 24, 20, generator=torch.Generator().manual_seed(seed))
    kind = torch.tensor(kinds)
    gt[kind == UNLABELLED] = lq[kind == UNLABELLED]
    flags = {"is_pseudo": kind == PSEUDO, "is_unlabelled": kind == UNLABELLED}
    return {"lq": lq, "gt": gt, **flags, "key": [f"image {i}" for i in range(len(kinds))]}


def step(model, batch: dict, iteration: int = 1) -> None:
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)


def weights(model) -> list[Tensor]:
    """Copies of those of both networks."""
    return [p.detach().clone() for net in (model.net_g, model.net_d) for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


# --- steps -----------------------------------------------------------------------------------------------------------


def score(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
    """The discriminator by its formulas, from its parameters alone."""
    low, high = image.amin(1), image.amax(1)
    x = torch.cat([image, torch.stack([low, image.sum(1) - low - high, high], 1)], 1)
    for name, weight in parameters.items():
        if name == "score.weight":
            x = torch.einsum("oc,nchw->nohw", weight[..., 0, 0], x) + parameters["score.bias"]
        elif weight.ndim == 4:
            first = name == "features.0.weight"
            convolutions = [n for n, w in parameters.items() if w.ndim == 4]
            stride = 1 + convolutions.index(name) % 2
            x = F.conv2d(x, weight, parameters[name.replace("weight", "bias")], stride=stride, padding=1)
            x = x.relu() if first else x
        elif name.endswith("weight"):
            mean = x.mean((0, 2, 3), keepdim=True)
            variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
            x = (x - mean) / (variance + 1e-5).sqrt()
            x = x * weight.view(1, -1, 1, 1) + parameters[name.replace("weight", "bias")].view(1, -1, 1, 1)
            x = x.relu()
    return 1 / (1 + (-x.mean((1, 2, 3))).exp())


def by_hand(g: list[Tensor], d: dict[str, Tensor], batch: dict, iteration: int, weight: float):
    """One step of gradient descent of both, each on its own loss, in double precision; and what is logged."""
    g = [p.clone().requires_grad_() for p in g]
    d = {name: p.clone().requires_grad_() for name, p in d.items()}
    x, y = batch["lq"].double(), batch["gt"].double()
    labelled = ~(batch["is_pseudo"] | batch["is_unlabelled"])
    output = torch.einsum("oc,nchw->nohw", g[0], x) + g[1].view(1, 3, 1, 1)
    supervised = (output - y)[labelled].square().mean()
    adversarial = ((score(d, output) - 1) ** 2).mean()
    of_g = torch.autograd.grad(supervised + weight * adversarial, g)

    real = score(d, torch.cat([y[labelled], y[batch["is_pseudo"]]]))
    fake = score(d, output.detach())
    draws = iteration_generator(SEED, iteration, torch.device("cpu"), stream=4)
    for_real = 0.7 + 0.5 * torch.rand(len(real), generator=draws).double()
    for_fake = 0.3 * torch.rand(len(fake), generator=draws).double()
    of_discriminator = ((real - for_real) ** 2).mean() + ((fake - for_fake) ** 2).mean()
    of_d = torch.autograd.grad(of_discriminator, list(d.values()))

    g = [(p - RATE * slope).detach() for p, slope in zip(g, of_g, strict=True)]
    d = {name: (p - RATE_D * slope).detach() for (name, p), slope in zip(d.items(), of_d, strict=True)}
    logs = {
        "l_pix": supervised,
        "l_sup": supervised,
        "l_adv": adversarial,
        "l_d": of_discriminator,
        "d_real": real.mean(),
        "d_fake": fake.mean(),
    }
    return g, d, {name: float(value.detach()) for name, value in logs.items()}


def test_steps_are_those_by_hand(make_model):
    model = make_model(adversarial={"weight": 0.7, "rampup_iter": 3})
    g = [p.detach().double() for p in (model.net_g.weight, model.net_g.bias)]
    d = {name: p.detach().double() for name, p in model.net_d.named_parameters()}
    for iteration in range(1, 6):
        batch = make_batch(seed=iteration)
        before = weights(model)
        weight = 0.7 * min(1, iteration / 3)
        g, d, logs = by_hand(g, d, batch, iteration, weight)
        step(model, batch, iteration)
        for found, expected in zip(weights(model), [*g, *d.values()], strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
        moved = [not torch.equal(p, q) for p, q in zip(before, weights(model), strict=True)]
        assert all(moved[:3]), "a network stands still"
        logged = model.get_current_log()
        assert {name: logged[name] for name in logs} == pytest.approx(logs, rel=1e-4)
        assert logged["adversarial_weight"] == pytest.approx(weight)


def test_defaults(make_model, completed, options):
    plain = options()
    del plain["train"]["adversarial"]
    model = build_model(completed(plain))
    settings = model.adversarial
    assert (settings.weight, settings.quality, settings.rampup_iter, settings.width) == (2.0, None, 100, 64)
    assert isinstance(model.optimizers[1], torch.optim.Adam)
    assert model.optimizers[1].param_groups[0]["lr"] == 1e-6
    assert model.score is None


def test_one_schedule_for_both(make_model):
    model = make_model(scheduler={"type": "MultiStepLR", "milestones": [4], "gamma": 0.1})
    model.update_learning_rate(8)
    assert [o.param_groups[0]["lr"] for o in model.optimizers] == pytest.approx([RATE / 10, RATE_D / 10])


def test_accumulated_steps_are_taken_together(make_model):
    model = make_model(accumulate=2, adversarial={"rampup_iter": 0})
    start = weights(model)
    for part in (0, 1):
        assert same(start, weights(model))
        with model.accumulating(part):
            step(model, make_batch(seed=part))
    assert not same(start[:2], weights(model)[:2])
    assert not same(start[2:], weights(model)[2:])


def test_weight_0_is_supervised_training_on_the_labelled_samples(make_model, options, completed):
    supervised = options(network={})
    supervised["model_type"] = "SupervisedModel"
    del supervised["train"]["adversarial"]
    data = supervised["datasets"]["train"]
    for key in ("unlabelled", "unlabelled_per_batch", "real_per_batch"):
        del data[key]
    data.update(type="PairedRestorationDataset", batch_size_per_gpu=2)
    alone, model = build_model(completed(supervised)), make_model(adversarial={"weight": 0})
    for iteration in range(1, 5):
        batch = make_batch(seed=iteration)
        labelled = ~(batch["is_pseudo"] | batch["is_unlabelled"])
        step(model, batch, iteration)
        step(alone, {"lq": batch["lq"][labelled], "gt": batch["gt"][labelled]}, iteration)
    for found, expected in zip(model.net_g.parameters(), alone.net_g.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


# --- what is used ----------------------------------------------------------------------------------------------------


def test_stand_ins_are_not_used(make_model):
    batch = make_batch()
    stand_ins = batch["is_unlabelled"].view(-1, 1, 1, 1)
    results = []
    for data in (batch, {**batch, "gt": torch.where(stand_ins, torch.nan, batch["gt"])}):
        torch.manual_seed(0)
        model = make_model(adversarial={"rampup_iter": 0, "quality": 0.5})
        step(model, data)
        results.append([*weights(model), *model.get_current_log().values()])
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*results, strict=True))


def test_pseudo_ground_truths_are_for_the_discriminator_alone(make_model):
    batch = make_batch()
    other = {**batch, "gt": torch.where(batch["is_pseudo"].view(-1, 1, 1, 1), 1 - batch["gt"], batch["gt"])}
    results = []
    for data in (batch, other):
        torch.manual_seed(0)
        model = make_model(adversarial={"rampup_iter": 0})
        step(model, data)
        results.append(weights(model))
    assert same(*(r[:2] for r in results))
    assert not same(*(r[2:] for r in results))


def test_what_the_discriminator_sees(make_model):
    model, batch, seen = make_model(), make_batch(), []
    original = {key: batch[key].clone() for key in ("lq", "gt")}
    model.net_d.register_forward_hook(
        lambda net, args, out: seen.append((args[0].detach(), args[0].requires_grad, out.requires_grad))
    )
    step(model, batch)
    (to_fool, *flags), (real, *flags_real), (fake, *flags_fake) = seen
    assert flags == [True, True]
    assert flags_real == flags_fake == [False, True]
    assert torch.equal(to_fool, fake)
    assert torch.equal(fake, model.output)
    assert torch.equal(real, original["gt"][[0, 3, 2, 4]])
    assert all(torch.equal(batch[key], value) for key, value in original.items()), "the caller's batch was changed"
    assert all(p.requires_grad for p in model.net_d.parameters())
    groups = model.image_groups()
    assert groups["unlabelled"].tolist() == [kind != LABELLED for kind in MIXED]
    assert torch.equal(groups["labelled"], ~groups["unlabelled"])


def test_without_pseudo_pairs_targets_are_all_that_is_good(make_model):
    model = make_model(adversarial={"quality": 0.5})
    batch = make_batch([LABELLED, UNLABELLED, LABELLED])
    model.feed_data(batch)
    assert torch.equal(model.good_images(model.unlabelled()), batch["gt"][[0, 2]])
    step(model, batch)


def test_labels():
    generator = torch.Generator().manual_seed(0)
    labels = soft_labels(4000, (0.7, 1.2), generator)
    assert 0.7 <= float(labels.min()) < 0.71
    assert 1.19 < float(labels.max()) <= 1.2
    assert float(labels.mean()) == pytest.approx(0.95, abs=0.01)
    again = soft_labels(4000, (0.7, 1.2), torch.Generator().manual_seed(0))
    assert torch.equal(labels, again)


def test_labels_are_of_seed_and_iteration_alone(make_model):
    losses = []
    for iteration in (7, 7, 8):
        torch.manual_seed(0)
        model = make_model()
        torch.rand(iteration)  # the global generator's state does not matter
        torch.manual_seed(iteration + len(losses))
        step(model, make_batch(), iteration)
        losses.append(model.get_current_log()["l_d"])
    assert losses[0] == losses[1] != losses[2]


# --- the choice ------------------------------------------------------------------------------------------------------


def flat(*values: float) -> Tensor:
    """Grey images without structure."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def test_the_best_are_a_share():
    scores = torch.tensor([-3.0, -1.0, torch.nan, -2.0])
    assert best(scores, 0.5).tolist() == [1, 3]
    assert best(scores, 0.01).tolist() == [1], "one at least"
    assert best(torch.tensor([torch.nan]), 1.0).tolist() == [0]


def test_quality_chooses_among_pseudo_ground_truths_alone(make_model):
    model = make_model(adversarial={"quality": 0.5})
    batch = make_batch([PSEUDO, LABELLED, UNLABELLED, PSEUDO, LABELLED])
    batch["gt"] = torch.cat([flat(0.1), flat(0.5), flat(0.55), flat(0.55), flat(0.6)])
    model.feed_data(batch)
    assert torch.equal(model.good_images(model.unlabelled()), batch["gt"][[1, 4, 3]])


# --- steps that are skipped ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["an input", "a good image"])
def test_a_step_that_is_not_finite_is_skipped_by_both(make_model, what, caplog):
    model = make_model(adversarial={"rampup_iter": 0, "optim_d": {"type": "Adam", "lr": 0.1}})
    batch = make_batch()
    key, number = ("lq", 1) if what == "an input" else ("gt", 2)
    batch[key][number, 0, 3, 4] = torch.nan
    before = weights(model)
    step(model, batch)
    assert same(before, weights(model))
    assert not model.optimizers[1].state_dict()["state"]
    assert model.guard.skipped == [1]
    step(model, make_batch(), 2)
    assert not same(before[:2], weights(model)[:2])
    assert not same(before[2:], weights(model)[2:])
    assert all(bool(p.isfinite().all()) for p in weights(model))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("of", ["net_g", "net_d"])
def test_a_gradient_that_is_not_finite_stops_both(make_model, precision, of):
    """With fp16 it only lowers the scale."""
    model = make_model(precision=precision, adversarial={"rampup_iter": 0})
    spoilt = next(getattr(model, of).parameters()).register_hook(lambda slope: slope * torch.inf)
    before, scale = weights(model), model.scaler.get_scale()
    step(model, make_batch())
    assert same(before, weights(model))
    half = precision == "fp16"
    assert model.scaler.get_scale() == (scale / 2 if half else scale)
    assert model.guard.skipped == ([] if half else [1])
    spoilt.remove()
    model.scaler.load_state_dict({**model.scaler.state_dict(), "scale": 2.0} if half else {})
    step(model, make_batch(), 2)
    assert not same(before[:2], weights(model)[:2])
    assert not same(before[2:], weights(model)[2:])


def test_network_that_changes_the_size(make_model):
    model = make_model({"upscale": 2})
    model.feed_data(make_batch())
    with pytest.raises(OptionError, match="Take a network that keeps the size"):
        model.optimize_parameters(1)


# --- options ---------------------------------------------------------------------------------------------------------


def with_data(**changes):
    return lambda o: o["datasets"]["train"].update(changes)


def with_train(**changes):
    return lambda o: o["train"].update(changes)


def with_section(**changes):
    return lambda o: o["train"]["adversarial"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_section(wieght=1), r"train:adversarial:wieght: unknown key; did you mean 'weight'\?"),
        (with_section(quality=0), "train:adversarial:quality: expected a number above 0 and up to 1"),
        (with_section(width=0), "train:adversarial:width: expected a whole number from 1 to 512"),
        (with_section(optim_d={"type": "Adan"}), "train:adversarial:optim_d:type: torch.optim has no 'Adan'"),
        (with_section(optim_d={"type": "Adam", "rate": 1}), "train:adversarial:optim_d:rate: Adam has no such option"),
        (
            with_section(quality=0.5),
            "train:adversarial:quality: it chooses among the ground truths of pseudo pairs, and there are none",
        ),
        (
            with_data(gt_size=[32, 24]),
            "train:gt_size: the discriminator halves crops four times; let their sides be 32",
        ),
        (with_train(filter={"beta": 1.0}), "filter: only SemiSupervisedModel has this; AdversarialModel would ignore"),
        (with_train(likelihood={}), "train:likelihood: only SupervisedModel and .*; AdversarialModel would ignore"),
        (with_data(type="PairedRestorationDataset"), "type: AdversarialModel trains on a SemiSupervisedDataset"),
        (
            lambda o: o.update(model_type="MixMatchModel"),
            "train:adversarial: only AdversarialModel has this; MixMatchModel would ignore it",
        ),
    ],
)
def test_wrong_options(options, change, message):
    wrong = options()
    change(wrong)
    with pytest.raises(OptionError, match=message):
        complete(wrong, Source("t"), root_path=".", is_train=True)


# --- runs ------------------------------------------------------------------------------------------------------------

RUN = {"quality": 0.5, "rampup_iter": 3, "optim_d": {"type": "AdamW", "lr": 1e-3}}


def test_resumed_run_equals_an_unbroken_one(options, option_files, capsys):
    """Bit by bit, on the CPU, with dropout: both networks, both optimisers, what the choice remembers."""
    path = option_files.write("adversarial", options(total=4, pseudo=True, adversarial=RUN, ema_decay=0.9))
    assert main(["train", "-opt", path]) == 0
    run, unbroken = Path("experiments/adversarial"), Path("experiments/unbroken")
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
        assert same(list(a[key].values()), list(b[key].values()))
    a, b = (torch.load(folder / "training_states/4.state", weights_only=True) for folder in (unbroken, run))
    assert same(list(a["extra"]["discriminator"].values()), list(b["extra"]["discriminator"].values()))
    assert same(list(a["extra"]["score"].values()), list(b["extra"]["score"].values()))
    assert float(a["extra"]["score"]["seen"]) == 2 * 4
    for one, other in zip(a["optimizers"], b["optimizers"], strict=True):
        assert len(one["state"]) == len(other["state"]) > 0
        for number, state in one["state"].items():
            assert same(list(state.values()), list(other["state"][number].values()))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"width": 3}, "is of train:adversarial:width 2, not 3"),
        ({"optim_d": None}, "is of train:adversarial:optim_d:type SGD, not Adam"),
    ],
)
def test_another_discriminator_is_not_resumed(make_model, section, message):
    saved = make_model()
    state = {
        "iter": 1,
        "model_type": "AdversarialModel",
        "options": saved.decisive_options(),
        "extra": saved.extra_state(),
    }
    with pytest.raises(CheckpointError, match=f"{message}. Restore the former one"):
        make_model(adversarial=section).resume_training(state)


def test_dry_run(options, option_files, capsys):
    path = option_files.write("adversarial", options(total=4))
    assert main(["train", "-opt", path, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for row in (r"lq +5x3x32x40 ", r"output +5x3x32x40 ", r"net_d: ColourDiscriminator, [\d,]+ par", r"l_adv \d"):
        assert re.search(row, shown), row
