"""The mean teacher of latents with a Gaussian process: steps by hand, the bank, mixed precision, resuming."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semiisp_plugin.cli import main
from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.losses.gaussian_process import gp_loss
from semiisp_plugin.models.consistency import sigmoid_rampup
from semiisp_plugin.models.latent_teacher_model import on_grid
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.options import OptionError, load_options
from semiisp_plugin.toolbox import build_model

RATE, SEED = 0.5, 3
REAL, PSEUDO, UNLABELLED = range(3)
MIXED = [REAL, UNLABELLED, PSEUDO, REAL, UNLABELLED, PSEUDO, PSEUDO]


class Coded(nn.Module):
    """out = decode(tanh(encode(in))); the latent is (N, 4, H/2, W/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, 4, 2, stride=2)
        self.decode = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.unused = nn.Identity()
        self.pair = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.pair((x, x))
        return self.decode(self.encode(x).tanh())


@pytest.fixture
def options(option_files, networks):
    """Options of a run on the tiny pairs, also as pseudo pairs, with the test images' inputs as unlabelled ones."""
    networks(Coded)

    def make(total: int = 10, latent: str = "encode", network: str | None = "Coded", **train) -> dict:
        options = option_files.base("latent_teacher", "LatentTeacherModel", total)
        data = options["datasets"]["train"]
        del data["batch_size_per_gpu"]
        inputs = {"dataroot_lq": str(option_files.data / "test/input"), "io_backend": {"type": "disk"}}
        data.update(type="SemiSupervisedDataset", real_per_batch=2, unlabelled_per_batch=2, unlabelled=inputs)
        same = {key: data[key] for key in ("dataroot_gt", "dataroot_lq", "io_backend")}
        data.update(pseudo=same, pseudo_per_batch=3)
        if network:
            options["network_g"] = {"type": network}
            options["train"].update(optim_g={"type": "SGD", "lr": RATE}, scheduler=None)
        options["train"].update({"ema_decay": 0.9, **train})
        options["train"]["latent_teacher"] = {"latent": latent, **train.get("latent_teacher", {})}
        return options

    return make


@pytest.fixture
def make_model(options, completed):
    def make(latent: str = "encode", train: dict | None = None, **latent_teacher):
        torch.manual_seed(0)
        return build_model(completed(options(latent=latent, latent_teacher=latent_teacher, **(train or {}))))

    return make


def make_batch(seed: int = 1, kinds: list[int] = MIXED) -> dict:
    generator = torch.Generator().manual_seed(seed)
    lq, gt = torch.rand(2, len(kinds), 3, 12, 16, generator=generator)
    kind = torch.tensor(kinds)
    gt[kind == UNLABELLED] = lq[kind == UNLABELLED]
    flags = {"is_pseudo": kind == PSEUDO, "is_unlabelled": kind == UNLABELLED}
    return {"lq": lq, "gt": gt, **flags, "key": [f"image {i}" for i in range(len(kinds))]}


def train(model, iteration: int, batch: dict) -> dict[str, float]:
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)
    return model.get_current_log()


def by_hand(student, teacher, bank: list, batch: dict, iteration: int, settings: dict) -> dict[str, float]:
    """A step of gradient descent in double precision, in place; what is logged."""
    unlabelled = batch["is_pseudo"] | batch["is_unlabelled"]
    draws = iteration_generator(SEED, iteration, torch.device("cpu"), stream=1)
    of_student = photometric_jitter(batch["lq"][unlabelled], settings["jitter"], draws).double()
    with torch.no_grad():
        taught = teacher.encode(batch["lq"][unlabelled].double())
        target = teacher.decode(taught.tanh()).clamp(0, 1)
    labelled, latent = student.encode(batch["lq"][~unlabelled].double()), student.encode(of_student)
    supervised = (student.decode(labelled.tanh()) - batch["gt"][~unlabelled]).square().mean()
    consistency = (student.decode(latent.tanh()) - target).square().mean()
    of_latent = (latent - taught).square().mean()
    bank += [*on_grid(labelled).detach()]
    del bank[: -settings["bank_size"]]
    of_process = torch.zeros(())
    if len(bank) >= 2 * settings["neighbours"]:
        of_process = gp_loss(on_grid(latent), torch.stack(bank), settings["neighbours"]).mean()
    terms = {"weight": consistency, "latent_weight": of_latent, "gp_weight": of_process}
    rise = sigmoid_rampup(iteration, settings["rampup_iter"])
    (supervised + rise * sum(settings[name] * term for name, term in terms.items())).backward()
    decay = min(0.9, (1 + iteration) / (10 + iteration))
    for p, average in zip(student.parameters(), teacher.parameters(), strict=True):
        p.data -= RATE * p.grad
        p.grad = None
        average.data.lerp_(p.data, 1 - decay)
    logs = {"l_sup": supervised, "l_consistency": consistency, "l_latent": of_latent, "l_gp": of_process}
    return {name: value.item() for name, value in logs.items()}


def test_steps_are_those_by_hand(make_model):
    settings = {"weight": 0.7, "rampup_iter": 4, "jitter": 0.3, "latent_weight": 0.4, "gp_weight": 0.2}
    settings |= {"neighbours": 3, "bank_size": 7}
    model, bank = make_model(**settings), []
    student, teacher = (copy.deepcopy(net).double() for net in (model.net_g, model.net_g_ema))
    student._modules["encode"]._forward_hooks.clear()
    for iteration in range(1, 7):  # the process begins in iteration 3, the bank forgets from 4 on
        batch = make_batch(iteration)
        logs = by_hand(student, teacher, bank, batch, iteration, settings)
        log = train(model, iteration, batch)
        for net, expected in ((model.net_g, student), (model.net_g_ema, teacher)):
            for found, value in zip(net.parameters(), expected.parameters(), strict=True):
                np.testing.assert_allclose(found.detach().numpy(), value.detach().numpy(), atol=1e-5)
        assert {name: log[name] for name in logs} == pytest.approx(logs, rel=1e-4)
        assert (log["l_gp"] != 0) == (iteration >= 3)
        np.testing.assert_allclose(model.bank.numpy(), torch.stack(bank).numpy(), atol=1e-5)
    assert model.bank.shape == (7, 4 * 4 * 4)
    assert not model.bank.requires_grad


def test_weights_of_0_leave_the_mean_teacher(options, completed):
    weights = []
    for kind, section in (
        ("LatentTeacherModel", {"latent_teacher": {"latent": "encode", "latent_weight": 0, "gp_weight": 0}}),
        ("MeanTeacherModel", {"mean_teacher": {}}),
    ):
        opt = options()
        opt["model_type"] = kind
        del opt["train"]["latent_teacher"]
        opt["train"].update(section)
        torch.manual_seed(0)
        model = build_model(completed(opt))
        for iteration in range(1, 4):
            train(model, iteration, make_batch(iteration))
        weights.append([p.detach() for p in model.net_g.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))


def test_defaults(make_model):
    settings = make_model().latent_teacher
    assert (settings.weight, settings.rampup_iter, settings.jitter, settings.noise) == (1.0, 100, 0.2, None)
    assert (settings.latent_weight, settings.gp_weight, settings.neighbours, settings.bank_size) == (
        0.1,
        1.5e-3,
        8,
        256,
    )


def test_on_grid():
    maps = torch.rand(2, 5, 8, 12)
    means = maps.view(2, 5, 4, 2, 4, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(on_grid(maps), means)
    assert torch.equal(on_grid(maps[..., :3, :2]), maps[..., :3, :2].flatten(1))
    assert torch.equal(on_grid(maps[:, :, 0]), maps[:, :, 0].flatten(1))


def test_stand_ins_and_pseudo_ground_truths_are_not_used(make_model):
    batch, weights = make_batch(), []
    without = (batch["is_pseudo"] | batch["is_unlabelled"]).view(-1, 1, 1, 1)
    for data in (batch, {**batch, "gt": torch.where(without, torch.nan, batch["gt"])}):
        model = make_model(neighbours=1)
        for iteration in (1, 2):
            train(model, iteration, data)
        weights.append([p.detach() for p in model.net_g.parameters()])
    assert all(bool(p.isfinite().all()) for p in weights[1])
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))


def test_what_is_not_finite_spoils_nothing(make_model):
    for number in (0, 1):
        model, batch = make_model(neighbours=1), make_batch()
        train(model, 1, make_batch(2))
        before = [p.detach().clone() for p in (*model.net_g.parameters(), *model.net_g_ema.parameters())]
        batch["lq"][number, 0, 0, 0] = torch.nan
        train(model, 2, batch)
        after = [*model.net_g.parameters(), *model.net_g_ema.parameters()]
        assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))
        assert len(model.bank) == (4 if number else 3)
        assert bool(model.bank.isfinite().all())
        assert np.isfinite(list(train(model, 3, make_batch(3)).values())).all()
        assert not torch.equal(model.net_g.encode.weight, before[0])


def test_the_bank_is_of_all_processes(make_model, monkeypatch):
    model = make_model(bank_size=16)
    monkeypatch.setattr(model, "gathered", lambda mine: [mine, 2 * mine])
    train(model, 1, make_batch())
    assert len(model.bank) == 4
    assert torch.equal(model.bank[2:], 2 * model.bank[:2])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(make_model, precision):
    """The latents are of half precision; the process, the bank and the terms are not."""
    model, plain = make_model(train={"precision": precision}, neighbours=2), make_model(neighbours=2)
    for iteration in range(1, 5):
        log, of_plain = (train(m, iteration, make_batch(iteration)) for m in (model, plain))
    assert model.bank.dtype == torch.float32
    assert log["l_gp"] == pytest.approx(of_plain["l_gp"], rel=0.1)
    torch.testing.assert_close(model.bank, plain.bank, rtol=0.1, atol=0.02)
    assert bool(model.net_g.encode.weight.isfinite().all())


@pytest.mark.parametrize("kinds", [[REAL] * 3, [UNLABELLED] * 3], ids=["labelled", "unlabelled"])
def test_batches_of_one_kind(make_model, kinds):
    model = make_model()
    log = train(model, 50, make_batch(kinds=kinds))
    assert len(model.bank) == (0 if kinds[0] else 3)
    assert log["l_gp"] == 0
    assert (log["l_latent"] > 0) == bool(kinds[0])


def test_validation_leaves_nothing_behind(make_model):
    model, batch = make_model(), make_batch()
    model.feed_data({"lq": batch["lq"][:1]})
    model.test()
    assert model.latents._outputs == []
    assert not model._of_teacher._forward_hooks
    train(model, 1, batch)
    assert not model._of_teacher._forward_hooks


@pytest.mark.parametrize(
    ("latent", "message"), [("unused", "did not run in the network's forward"), ("pair", "gives tuple; it has to be a")]
)
def test_parts_that_give_no_latent(make_model, latent, message):
    with pytest.raises(ValueError, match=rf"train:latent_teacher:latent: '{latent}' {message}"):
        train(make_model(latent), 1, make_batch())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["train"].update(ema_decay=0), r"train:ema_decay: the teacher is the average .* give a decay"),
        (
            lambda o: o["train"].pop("latent_teacher"),
            "train: LatentTeacherModel needs the section 'latent_teacher' with 'latent', the name of a part",
        ),
        (lambda o: o["train"]["latent_teacher"].pop("latent"), "latent_teacher: the key 'latent' is missing"),
        (
            lambda o: o["train"]["latent_teacher"].update(latent="encoder"),
            r"train:latent_teacher:latent: network_g \(Coded\) has no module 'encoder'; did you mean 'encode'\? "
            "It has: encode, decode, unused, pair",
        ),
        (
            lambda o: o["train"]["latent_teacher"].update(bank_size=15),
            "train:latent_teacher:bank_size: the process waits for twice its neighbours, 16; give so many or more, or",
        ),
        (
            lambda o: o["train"]["latent_teacher"].update(neighbours=200),
            "train:latent_teacher:neighbours: the process waits for twice its neighbours, 400",
        ),
        (lambda o: o["train"].update(mean_teacher={}), "train:mean_teacher: only MeanTeacherModel has this; LatentT"),
        (
            lambda o: [o["datasets"]["train"].pop(k) for k in [*o["datasets"]["train"]] if "pseudo" in k or "unl" in k],
            "datasets:train: LatentTeacherModel needs unlabelled samples: give 'unlabelled' and",
        ),
    ],
)
def test_wrong_options(options, option_files, change, message):
    wrong = options()
    change(wrong)
    with pytest.raises(OptionError, match=rf"latent_teacher\.yml:\d+: .*{message}"):
        load_options(option_files.write("latent_teacher", wrong), root_path=".", is_train=True)


def test_resumed_run_equals_an_unbroken_one(options, option_files, capsys):
    """Bit by bit, on the CPU, with dropout; the bank, too, and the process at work."""
    section = {"rampup_iter": 3, "neighbours": 2, "bank_size": 7, "gp_weight": 0.1}
    opt = options(5, "backbone", None, latent_teacher=section)
    path = option_files.write("latent_teacher", opt)
    assert main(["train", "-opt", path]) == 0
    run, unbroken = Path("experiments/latent_teacher"), Path("experiments/unbroken")
    shutil.move(run, unbroken)
    assert main(["train", "-opt", path]) == 0
    for stale in [*run.glob("*/*_[45].*"), *run.glob("models/*latest*"), *run.glob("training_states/[45].*")]:
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
    a, b = (torch.load(folder / "training_states/5.state", weights_only=True)["extra"] for folder in (unbroken, run))
    assert torch.equal(a["latents"], b["latents"])
    assert len(a["latents"]) == 7
