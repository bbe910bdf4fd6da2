"""The mean-teacher baseline: its step against a computation by hand, what teacher and student see, resuming."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semiisp_plugin.cli import main
from semiisp_plugin.models.consistency import sigmoid_rampup
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.options import OptionError, Source, complete
from semiisp_plugin.toolbox import build_model

RATE = 0.5
SEED = 3  # of the option files of the tests


class Affine(nn.Module):
    """out = W in + b at each pixel: small enough to write its gradient down."""

    def __init__(self, dropout: float = 0.0, upscale: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.1 * torch.arange(9.0).view(3, 3) / 9)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.02, 0.01]))
        self.dropout = nn.Dropout(dropout)
        self.upscale = nn.Upsample(scale_factor=upscale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("oc,nchw->nohw", self.weight, self.dropout(x)) + self.bias.view(1, 3, 1, 1)
        return self.upscale(mixed)


@pytest.fixture
def options(option_files, networks):
    """Options of a run on the tiny pairs, whose inputs are also its unlabelled images."""
    networks(Affine)

    def make(total: int = 10, network=None, **train) -> dict:
        options = option_files.base("mean_teacher", "MeanTeacherModel", total)
        del options["datasets"]["train"]["batch_size_per_gpu"]
        options["datasets"]["train"].update(
            type="SemiSupervisedDataset",
            real_per_batch=2,
            pseudo_per_batch=3,
            pseudo={key: options["datasets"]["train"][key] for key in ("dataroot_gt", "dataroot_lq", "io_backend")},
        )
        if network:
            options["network_g"] = {"type": "Affine", **network}
            options["train"].update(optim_g={"type": "SGD", "lr": RATE}, scheduler=None)
        options["train"].update({"ema_decay": 0.9, **train})
        return options

    return make


@pytest.fixture
def make_model(options, completed):
    def make(network=None, **train):
        return build_model(completed(options(network=network or {"dropout": 0.0}, **train)))

    return make


def make_batch(is_pseudo: list[bool], seed: int = 1) -> dict:
    generator = torch.Generator().manual_seed(seed)
    lq, gt = torch.rand(2, len(is_pseudo), 3, 6, 5, generator=generator)
    return {"lq": lq, "gt": gt, "is_pseudo": torch.tensor(is_pseudo), "key": [str(i) for i in range(len(is_pseudo))]}


MIXED = [False, True, True, False, True]


def jittered(image: np.ndarray, strength: float, iteration: int) -> np.ndarray:
    """Brightness, then saturation, image by image."""
    draws = torch.rand(2, len(image), generator=iteration_generator(SEED, iteration, torch.device("cpu"), stream=1))
    factors = 1 + strength * (2 * draws.double().numpy() - 1)
    out = []
    for one, brightness, saturation in zip(image, *factors, strict=True):
        grey = (brightness * one).mean(0)
        out.append(np.clip(grey + saturation * (brightness * one - grey), 0, 1))
    return np.stack(out)


def by_hand(state: dict, batch: dict, iteration: int, *, weight: float, rampup: int, jitter: float, decay: float):
    """One step of gradient descent and of the average in NumPy and double precision; returns the new state and logs."""
    w, b, teacher_w, teacher_b = (state[k] for k in ("w", "b", "teacher_w", "teacher_b"))
    x, y = (batch[k].double().numpy().copy() for k in ("lq", "gt"))
    unlabelled = batch["is_pseudo"].numpy()

    def apply(matrix, offset, image):
        return np.einsum("oc,nchw->nohw", matrix, image) + offset[:, None, None]

    y[unlabelled] = apply(teacher_w, teacher_b, x[unlabelled]).clip(0, 1)
    x[unlabelled] = jittered(x[unlabelled], jitter, iteration)
    error = apply(w, b, x) - y
    losses = (error**2).mean(axis=(1, 2, 3))
    t = min(1, iteration / rampup)
    of_consistency = weight * math.exp(-5 * (1 - t) ** 2)
    share = np.where(unlabelled, of_consistency / unlabelled.sum(), 1 / (~unlabelled).sum())
    gradient = share[:, None, None, None] * 2 * error / error[0].size
    new_w = w - RATE * np.einsum("nohw,nchw->oc", gradient, x)
    new_b = b - RATE * gradient.sum(axis=(0, 2, 3))
    decay = min(decay, (1 + iteration) / (10 + iteration))
    new = {
        "w": new_w,
        "b": new_b,
        "teacher_w": decay * teacher_w + (1 - decay) * new_w,
        "teacher_b": decay * teacher_b + (1 - decay) * new_b,
    }
    logs = {
        "l_sup": losses[~unlabelled].mean(),
        "l_consistency": losses[unlabelled].mean(),
        "consistency_weight": of_consistency,
    }
    return new, logs


def state_of(model) -> dict[str, np.ndarray]:
    names = {"w": model.net_g.weight, "b": model.net_g.bias}
    names |= {"teacher_w": model.net_g_ema.weight, "teacher_b": model.net_g_ema.bias}
    return {name: value.detach().double().numpy().copy() for name, value in names.items()}


def test_steps_are_those_by_hand(make_model):
    settings = {"weight": 0.7, "rampup_iter": 4, "jitter": 0.3}
    model = make_model(mean_teacher=settings, ema_decay=0.4)
    expected = state_of(model)
    for iteration in range(1, 8):  # the ramp-up ends at 4, and from 5 on the average's decay is the given one
        batch = make_batch(MIXED, iteration)
        expected, logs = by_hand(expected, batch, iteration, weight=0.7, rampup=4, jitter=0.3, decay=0.4)
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        found = state_of(model)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=f"{name}, iteration {iteration}")
        logged = model.get_current_log()
        assert {name: logged[name] for name in logs} == pytest.approx(logs, rel=1e-4)
        assert np.abs(found["w"] - found["teacher_w"]).max() > 1e-4, "teacher and student are one"
        assert logs["l_consistency"] > 1e-5


def test_defaults(make_model):
    model = make_model()
    assert (model.mean_teacher.weight, model.mean_teacher.rampup_iter, model.mean_teacher.jitter) == (1.0, 100, 0.2)


def test_sigmoid_rampup():
    assert sigmoid_rampup(0, 10) == pytest.approx(math.exp(-5))
    assert sigmoid_rampup(5, 10) == pytest.approx(math.exp(-1.25))
    assert sigmoid_rampup(10, 10) == sigmoid_rampup(99, 10) == 1
    assert sigmoid_rampup(1, 0) == 1


def test_pseudo_ground_truths_are_not_used(make_model):
    model, other = make_model(), make_model()
    batch = make_batch(MIXED)
    changed = {**batch, "gt": torch.where(batch["is_pseudo"].view(-1, 1, 1, 1), torch.nan, batch["gt"])}
    for one, data in ((model, batch), (other, changed)):
        one.feed_data(data)
        one.optimize_parameters(1)
    assert torch.equal(model.net_g.weight, other.net_g.weight)
    assert bool(torch.isfinite(model.net_g.weight).all())


def test_teacher_sees_unlabelled_images_as_they_are_and_without_dropout(make_model):
    model = make_model(network={"dropout": 0.5})
    seen = {}
    model.net_g_ema.register_forward_hook(lambda net, args, out: seen.update(teacher=(args[0], out, net.training)))
    model.net_g.register_forward_hook(lambda net, args, out: seen.update(student=(args[0], out, net.training)))
    batch = make_batch(MIXED)
    original = {key: batch[key].clone() for key in ("lq", "gt")}
    weight, bias = (p.detach().clone() for p in model.net_g_ema.parameters())
    model.feed_data(batch)
    model.optimize_parameters(1)
    unlabelled = batch["is_pseudo"]
    seen_by_teacher, output, training = seen["teacher"]
    assert not training
    assert not output.requires_grad
    assert torch.equal(seen_by_teacher, original["lq"][unlabelled])
    plain = torch.einsum("oc,nchw->nohw", weight, seen_by_teacher) + bias.view(1, 3, 1, 1)
    torch.testing.assert_close(output, plain)
    seen_by_student, _, training = seen["student"]
    assert training
    assert torch.equal(seen_by_student[~unlabelled], original["lq"][~unlabelled])
    assert not torch.equal(seen_by_student[unlabelled], original["lq"][unlabelled])
    for key, value in original.items():
        assert torch.equal(batch[key], value), "the caller's batch was changed"


def test_jitter_is_of_seed_and_iteration_alone(make_model):
    inputs = []
    for iteration in (7, 7, 8):
        model = make_model()
        torch.rand(iteration)  # the global generator's state does not matter
        model.feed_data(make_batch(MIXED))
        model.optimize_parameters(iteration)
        inputs.append(model.lq)
    assert torch.equal(inputs[0], inputs[1])
    assert not torch.equal(inputs[0], inputs[2])


@pytest.mark.parametrize("is_pseudo", [[False] * 3, [True] * 3], ids=["labelled", "unlabelled"])
def test_batches_of_one_kind(make_model, is_pseudo):
    model = make_model()
    before = model.net_g.weight.detach().clone()
    model.feed_data(make_batch(is_pseudo))
    model.optimize_parameters(50)
    log = model.get_current_log()
    absent, present = ("l_sup", "l_consistency") if is_pseudo[0] else ("l_consistency", "l_sup")
    assert log[absent] == 0
    assert log[present] > 0
    assert not torch.equal(model.net_g.weight, before)


def test_image_groups(make_model):
    model = make_model()
    model.feed_data(make_batch(MIXED))
    groups = model.image_groups()
    assert groups["unlabelled"].tolist() == MIXED
    assert groups["labelled"].tolist() == [not pseudo for pseudo in MIXED]


def test_network_that_changes_the_size(make_model):
    model = make_model(network={"upscale": 2})
    model.feed_data(make_batch(MIXED))
    with pytest.raises(ValueError, match="Take a network that keeps the size"):
        model.optimize_parameters(1)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"ema_decay": 0.0}, "train:ema_decay: the teacher is the average"),
        ({"mean_teacher": {"wieght": 1}}, r"train:mean_teacher:wieght: unknown key; did you mean 'weight'\?"),
        ({"mean_teacher": {"jitter": 2}}, "train:mean_teacher:jitter: expected a number from 0 to 1, got"),
        (
            {"mean_teacher": {"rampup_iter": -1}},
            "train:mean_teacher:rampup_iter: expected a whole number from 0 to 1,000,000,000, got",
        ),
        ({"filter": {"beta": 1.0}}, "train:filter: only SemiSupervisedModel has this; MeanTeacherModel would ignore"),
    ],
)
def test_wrong_options(options, train, message):
    with pytest.raises(OptionError, match=message):
        complete(options(**train), Source("t"), root_path=".", is_train=True)


def test_wrong_data(options):
    wrong = options()
    wrong["datasets"]["train"].pop("pseudo")
    with pytest.raises(OptionError, match="SemiSupervisedDataset needs 'pseudo'"):
        complete(wrong, Source("t"), root_path=".", is_train=True)
    wrong["datasets"]["train"]["type"] = "PairedRestorationDataset"
    with pytest.raises(OptionError, match="MeanTeacherModel trains on a SemiSupervisedDataset"):
        complete(wrong, Source("t"), root_path=".", is_train=True)
    other = options(mean_teacher={})
    other["model_type"] = "SemiSupervisedModel"
    with pytest.raises(OptionError, match="train:mean_teacher: only MeanTeacherModel has this"):
        complete(other, Source("t"), root_path=".", is_train=True)


def test_resumed_run_equals_an_unbroken_one(options, option_files, capsys):
    """Bit by bit, on the CPU: student and teacher, with dropout; validation is the teacher's."""
    path = option_files.write("mean_teacher", options(total=4, mean_teacher={"rampup_iter": 3}))
    assert main(["train", "-opt", path]) == 0
    run, unbroken = Path("experiments/mean_teacher"), Path("experiments/unbroken")
    shutil.move(run, unbroken)
    assert main(["train", "-opt", path]) == 0
    for stale in [*run.glob("models/*_4.pth"), *run.glob("models/*latest*"), *run.glob("training_states/4.*")]:
        stale.unlink()
    capsys.readouterr()
    assert main(["train", "-opt", path, "--auto_resume"]) == 0
    assert "Resuming from iteration 3" in capsys.readouterr().err
    a, b = (torch.load(folder / "models/net_g_latest.pth", weights_only=True) for folder in (unbroken, run))
    assert a.keys() == b.keys() == {"params", "params_ema", "network"}
    for key in ("params", "params_ema"):
        for name, value in a[key].items():
            assert torch.equal(value, b[key][name]), f"{key} {name}"
    assert any(not torch.equal(value, a["params_ema"][name]) for name, value in a["params"].items())
