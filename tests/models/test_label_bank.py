"""Best-of-candidates pseudo-labels: steps by hand, which candidate is taken, what the bank refuses, resuming."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semiisp_plugin.cli import main
from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.metrics.no_reference import NoReferenceScore, TargetStatistics
from semiisp_plugin.models.consistency import sigmoid_rampup
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.options import OptionError, Source, complete, load_options
from semiisp_plugin.registry import SCORE_REGISTRY
from semiisp_plugin.toolbox import build_model

RATE, SEED = 0.5, 3
REAL, PSEUDO, UNLABELLED = range(3)
MIXED = [REAL, UNLABELLED, PSEUDO, REAL, UNLABELLED, PSEUDO, PSEUDO]


class Pointwise(nn.Module):
    """out = W in + b at each pixel."""

    def __init__(self, upscale: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.1 * torch.arange(9.0).view(3, 3) / 9)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.02, 0.01]))
        self.upscale = nn.Upsample(scale_factor=upscale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upscale(apply(self.weight, self.bias, x))


def apply(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,nchw->nohw", weight, x) + bias.view(1, 3, 1, 1)


class Brightest(NoReferenceScore):
    """The brighter an image is, the better."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))


@pytest.fixture
def options(option_files, networks, monkeypatch):
    """Options of a run on the tiny pairs, also as pseudo pairs, with the test images' inputs as unlabelled ones."""
    networks(Pointwise)
    monkeypatch.setitem(SCORE_REGISTRY._obj_map, "Brightest", Brightest)

    def make(total: int = 10, network: dict | None = None, **train) -> dict:
        options = option_files.base("label_bank", "LabelBankModel", total)
        data = options["datasets"]["train"]
        del data["batch_size_per_gpu"]
        inputs = {"dataroot_lq": str(option_files.data / "test/input"), "io_backend": {"type": "disk"}}
        data.update(type="SemiSupervisedDataset", real_per_batch=2, unlabelled_per_batch=2, unlabelled=inputs)
        same = {key: data[key] for key in ("dataroot_gt", "dataroot_lq", "io_backend")}
        data.update(pseudo=same, pseudo_per_batch=3)
        if network is not None:
            options["network_g"] = {"type": "Pointwise", **network}
            options["train"].update(optim_g={"type": "SGD", "lr": RATE}, scheduler=None)
        options["train"].update({"ema_decay": 0.9, **train})
        return options

    return make


@pytest.fixture
def make_model(options, completed):
    def make(network: dict | None = None, **label_bank):
        return build_model(completed(options(network=network or {}, label_bank=label_bank)))

    return make


def make_batch(seed: int = 1, kinds: list[int] = MIXED) -> dict:
    generator = torch.Generator().manual_seed(seed)
    kind = torch.tensor(kinds)
    lq, gt = torch.rand(2, len(kinds), 3, 6, 5, generator=generator) * torch.rand(
        len(kinds), 1, 1, 1, generator=generator
    )
    gt[kind == UNLABELLED] = lq[kind == UNLABELLED]
    flags = {"is_pseudo": kind == PSEUDO, "is_unlabelled": kind == UNLABELLED}
    return {"lq": lq, "gt": gt, **flags, "key": [f"image {i}" for i in range(len(kinds))]}


def train(model, iteration: int, batch: dict) -> dict[str, float]:
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)
    return model.get_current_log()


def by_hand(state: list[torch.Tensor], bank: dict, score, batch: dict, iteration: int, settings: dict):
    """A step of gradient descent in double precision; the new weights, what is logged, which candidates were taken."""
    w, b = (v.double().requires_grad_() for v in state[:2])
    teacher = [v.double() for v in state[2:]]
    x, y = batch["lq"].double(), batch["gt"].double()
    unlabelled = batch["is_pseudo"] | batch["is_unlabelled"]
    score.update(batch["gt"][~unlabelled])
    draws = iteration_generator(SEED, iteration, torch.device("cpu"), stream=1)
    of_student = photometric_jitter(batch["lq"][unlabelled], settings["jitter"], draws).double()
    variants = [photometric_jitter(batch["lq"][unlabelled], settings["jitter"], draws) for _ in range(2)]
    labels, counted, taken = [], [], []
    with torch.no_grad():
        for place, n in enumerate(torch.nonzero(unlabelled).flatten().tolist()):
            inputs = [x[n], x[n], *(variant[place].double() for variant in variants)]
            weights = [teacher, [w, b], teacher, teacher]
            candidates = [apply(*v, i[None])[0].clamp(0, 1) for v, i in zip(weights, inputs, strict=True)]
            candidates += [y[n]] if batch["is_pseudo"][n] else []
            scores = [float(score(candidate[None])) for candidate in candidates]
            key = ("pseudo " if batch["is_pseudo"][n] else "unlabelled ") + batch["key"][n]
            labels.append(candidates[int(np.argmax(scores))])
            taken.append(int(np.argmax(scores)))
            counted.append(max(scores) >= bank.get(key, -np.inf) - settings["tolerance"])
            before = bank.get(key, max(scores))
            bank[key] = before + 0.1 * (max(scores) - before)
    supervised = (apply(w, b, x[~unlabelled]) - y[~unlabelled]).square().mean()
    losses = (apply(w, b, of_student) - torch.stack(labels)).square().mean((1, 2, 3))
    counted = torch.tensor(counted)
    weight = settings["weight"] * sigmoid_rampup(iteration, settings["rampup_iter"])
    (supervised + weight * (losses * counted).mean()).backward()
    new = [(v - RATE * v.grad).detach() for v in (w, b)]
    decay = min(0.9, (1 + iteration) / (10 + iteration))
    logs = {"l_sup": supervised.item(), "consistency_weight": weight, "bank/accepted": float(counted.double().mean())}
    logs["l_consistency"] = ((losses * counted).sum() / max(1, counted.sum())).item()
    return [*new, *(decay * t + (1 - decay) * v for t, v in zip(teacher, new, strict=True))], logs, taken


def test_steps_are_those_by_hand(make_model):
    settings = {"weight": 0.7, "rampup_iter": 4, "jitter": 0.3, "tolerance": 0.3}
    model = make_model(**settings)
    both = [*model.net_g.parameters(), *model.net_g_ema.parameters()]
    state, bank, score, choices, shares = [p.detach().clone() for p in both], {}, TargetStatistics(), set(), set()
    for iteration in range(1, 9):
        batch = make_batch(iteration)
        state, logs, taken = by_hand(state, bank, score, batch, iteration, settings)
        log = train(model, iteration, batch)
        for found, expected in zip(both, state, strict=True):
            np.testing.assert_allclose(found.detach().numpy(), expected.numpy(), atol=1e-5)
        assert {name: log[name] for name in logs} == pytest.approx(logs, rel=1e-3)
        assert model.usual == pytest.approx(bank, rel=1e-3)
        choices |= {*taken}
        shares.add(logs["bank/accepted"])
    assert choices == {0, 1, 2, 3, 4}, "not every kind of candidate is ever the best"
    assert len(shares) > 1
    assert 0 < min(shares) < 1, "the bank has nothing to do"


def test_defaults(make_model):
    settings = make_model().label_bank
    assert (settings.weight, settings.rampup_iter, settings.jitter) == (1.0, 100, 0.2)
    assert (settings.variants, settings.tolerance, settings.score) == (2, 0.5, "TargetStatistics")


def test_the_best_candidate_is_the_label(make_model):
    """By brightness: a pseudo ground truth of ones; the brightest output of those; never a stand-in."""
    model, batch = make_model(score="Brightest", variants=20, jitter=0.5), make_batch()
    unlabelled = batch["is_pseudo"] | batch["is_unlabelled"]
    batch["gt"][unlabelled] = 1.0
    batch["gt"][5] = 0.0
    original = {key: batch[key].clone() for key in ("lq", "gt")}
    with torch.no_grad():
        plain = model.net_g_ema(batch["lq"]).clamp(0, 1).mean((1, 2, 3))
    train(model, 1, batch)
    assert torch.equal(model.gt[~unlabelled], original["gt"][~unlabelled])
    assert bool((model.gt[[2, 6]] == 1).all())
    for n in (1, 4, 5):  # of 20 variants one is brighter
        assert plain[n] < model.gt[n].mean() < 1
    assert all(torch.equal(batch[key], value) for key, value in original.items()), "the caller's batch was changed"
    student = make_model(score="Brightest", variants=0)
    student.net_g.bias.data += 0.1
    with torch.no_grad():
        expected = student.net_g(batch["lq"]).clamp(0, 1)
    train(student, 1, batch)
    torch.testing.assert_close(student.gt[[1, 4, 5]], expected[[1, 4, 5]])
    assert student.net_g.training


def test_the_bank_refuses_worse_labels(make_model):
    model, supervised = (make_model(score="Brightest", variants=0, tolerance=0.05, rampup_iter=0) for _ in range(2))
    supervised.label_bank.weight = 0.0
    batch = make_batch()
    assert train(model, 1, batch)["bank/accepted"] == 1
    before = dict(model.usual)
    unlabelled = (batch["is_pseudo"] | batch["is_unlabelled"]).view(-1, 1, 1, 1)
    darker = {**batch, **{key: torch.where(unlabelled, 0.2 * batch[key], batch[key]) for key in ("lq", "gt")}}
    for model_, data in ((model, darker), (supervised, batch)):
        model_.net_g.load_state_dict(Pointwise().state_dict())
        model_.net_g_ema.load_state_dict(Pointwise().state_dict())
        log = train(model_, 2, data)
    assert torch.equal(model.net_g.weight, supervised.net_g.weight), "refused labels were trained on"
    log = train(model, 3, darker)
    assert (log["bank/accepted"], log["l_consistency"]) == (0, 0)
    assert all(0.8 * score < model.usual[key] < score for key, score in before.items())
    # A bit darker than before is within the tolerance.
    model.net_g.load_state_dict(Pointwise().state_dict())
    model.net_g_ema.load_state_dict(Pointwise().state_dict())
    assert train(model, 4, {**batch, "lq": 0.97 * batch["lq"], "gt": 0.97 * batch["gt"]})["bank/accepted"] == 1


def test_sources_do_not_share_an_entry(make_model):
    model, batch = make_model(score="Brightest"), make_batch(kinds=[REAL, UNLABELLED, PSEUDO])
    train(model, 1, {**batch, "key": ["00", "00", "00"]})
    assert model.usual.keys() == {"unlabelled 00", "pseudo 00"}


def test_the_bank_is_of_all_processes(make_model, monkeypatch):
    model = make_model(score="Brightest")
    of_another = {"unlabelled image 1": 5.0, "unlabelled elsewhere": 0.25}
    monkeypatch.setattr(model, "gathered", lambda mine: [mine, of_another])
    train(model, 1, make_batch())
    assert model.usual["unlabelled image 1"] > 0.5  # a tenth of the way to 5
    assert model.usual["unlabelled elsewhere"] == 0.25
    assert "unlabelled image 4" in model.usual


@pytest.mark.parametrize("likelihood", [False, True], ids=["pixel loss", "likelihood"])
def test_stand_ins_are_no_targets(options, completed, likelihood):
    batch = make_batch()
    batch |= {key: nn.functional.pad(batch[key], (1, 2, 1, 1), "replicate") for key in ("lq", "gt")}
    changed = torch.where(batch["is_unlabelled"].view(-1, 1, 1, 1), torch.nan, batch["gt"])
    weights = []
    for data in (batch, {**batch, "gt": changed}):
        torch.manual_seed(0)
        opt = options(network={}, **({"likelihood": {}, "pixel_opt": None} if likelihood else {}))
        if likelihood:
            tiny = {"num_feat": 4, "num_block": 1, "num_grow_ch": 2, "stacked": [0], "hidden_feat": 4}
            opt["network_g"] = {"type": "LLFlow", **tiny, "levels": 1, "flow_steps": 1}
            opt["train"]["optim_g"]["lr"] = 1e-3
        model = build_model(completed(opt))
        for iteration in (1, 2):
            train(model, iteration, data)
        weights.append([p.detach() for p in model.net_g.parameters()])
    assert all(bool(p.isfinite().all()) for p in weights[1])
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))


def test_what_is_not_finite_spoils_nothing(make_model):
    """A bad unlabelled input, a bad target: the step is skipped; the average, the bank and the score stay usable."""
    for name, number in (("lq", 1), ("gt", 0), ("lq", 2)):
        model, batch = make_model(), make_batch()
        batch[name][number, 0, 0, 0] = torch.nan
        before = [p.detach().clone() for p in (*model.net_g.parameters(), *model.net_g_ema.parameters())]
        train(model, 1, batch)
        after = [*model.net_g.parameters(), *model.net_g_ema.parameters()]
        assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))
        assert all(np.isfinite(list(model.usual.values())))
        assert ("unlabelled image 1" in model.usual) == (number != 1)
        assert all(bool(buffer.isfinite().all()) for buffer in model.score.buffers())
        log = train(model, 2, make_batch(2))
        assert np.isfinite(list(log.values())).all()
        assert not torch.equal(model.net_g.weight, before[0])
    model, batch = make_model(), make_batch()
    batch["gt"][2] = torch.nan  # a pseudo ground truth is one candidate of several
    assert train(model, 1, batch)["bank/accepted"] == 1
    assert bool(model.gt.isfinite().all())


@pytest.mark.parametrize("kinds", [[REAL] * 3, [UNLABELLED] * 3], ids=["labelled", "unlabelled"])
def test_batches_of_one_kind(make_model, kinds):
    log = train(make_model(), 50, make_batch(kinds=kinds))
    absent, present = ("l_sup", "l_consistency") if kinds[0] else ("l_consistency", "l_sup")
    assert log[absent] == 0
    assert log[present] > 0


def test_network_that_changes_the_size(make_model):
    with pytest.raises(OptionError, match="Take a network that keeps the size"):
        train(make_model({"upscale": 2}), 1, make_batch())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["train"].update(ema_decay=0), r"train:ema_decay: the teacher is the average .* give a decay"),
        (
            lambda o: o["train"].update(label_bank={"score": "TargetStatistic"}),
            r"train:label_bank:score: no score 'TargetStatistic' is registered; did you mean 'TargetStatistics'\?",
        ),
        (lambda o: o["train"].update(label_bank={"variants": -1}), "train:label_bank:variants: expected a whole"),
        (lambda o: o["train"].update(mean_teacher={}), "train:mean_teacher: only MeanTeacherModel has this; LabelBank"),
        (
            lambda o: [o["datasets"]["train"].pop(k) for k in [*o["datasets"]["train"]] if "pseudo" in k or "unl" in k],
            "datasets:train: LabelBankModel needs unlabelled samples: give 'unlabelled' and 'unlabelled_per_batch', or",
        ),
    ],
)
def test_wrong_options(options, option_files, change, message):
    wrong = options(network={})
    change(wrong)
    with pytest.raises(OptionError, match=rf"label_bank\.yml:\d+: .*{message}"):
        load_options(option_files.write("label_bank", wrong), root_path=".", is_train=True)


def test_pseudo_pairs_may_be_missing(options):
    opt = options(label_bank={})
    for key in ("pseudo", "pseudo_per_batch"):
        del opt["datasets"]["train"][key]
    assert complete(opt, Source("t"), root_path=".", is_train=True)["train"]["label_bank"] is not None


def test_resumed_run_equals_an_unbroken_one(options, option_files, capsys):
    """Bit by bit, on the CPU, with dropout and noise; the bank, too."""
    bank = {"rampup_iter": 3, "tolerance": 0, "student_noise": {}}
    path = option_files.write("label_bank", options(total=5, label_bank=bank))
    assert main(["train", "-opt", path]) == 0
    run, unbroken = Path("experiments/label_bank"), Path("experiments/unbroken")
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
    assert a["bank"] == b["bank"]
    assert len(a["bank"]) == 8
    assert all(torch.equal(value, b["score"][name]) for name, value in a["score"].items())
