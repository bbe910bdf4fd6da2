"""Unlabelled inputs beside the filter, and those of the mean teacher: steps by hand, noise, what the filter sees."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semiisp_plugin.cli import main
from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.models.consistency import sigmoid_rampup
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.options import OptionError, Source, complete
from semiisp_plugin.pseudo.noise import add_shot_read_noise, draw_noise_levels
from semiisp_plugin.toolbox import build_model

RATE, SEED = 0.5, 3
OF_CONSISTENCY = 3  # the stream of its draws
REAL, PSEUDO, UNLABELLED = range(3)
MIXED = [REAL, UNLABELLED, PSEUDO, REAL, UNLABELLED, PSEUDO, PSEUDO]


class Pointwise(nn.Module):
    """out = W in + b at each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.1 * torch.arange(9.0).view(3, 3) / 9)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.02, 0.01]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return apply(self.weight, self.bias, x)


def apply(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,nchw->nohw", weight, x) + bias.view(1, 3, 1, 1)


@pytest.fixture
def options(option_files, networks):
    """Options of a run on the tiny pairs, also as pseudo pairs, with the test images' inputs as unlabelled ones."""
    networks(Pointwise)

    def make(kind: str = "SemiSupervisedModel", total: int = 10, network: str | None = "Pointwise", **train) -> dict:
        options = option_files.base("consistency", kind, total)
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
        if kind == "SemiSupervisedModel":
            options["train"] = {"filter": {"beta": 1.0}, "consistency": {}, **options["train"]}
        return options

    return make


@pytest.fixture
def make_model(options, completed):
    return lambda *args, **train: build_model(completed(options(*args, **train)))


def make_batch(kinds: list[int] = MIXED, seed: int = 1) -> dict:
    generator = torch.Generator().manual_seed(seed)
    lq, gt = torch.rand(2, len(kinds), 3, 6, 5, generator=generator)
    kind = torch.tensor(kinds)
    # Some pseudo pairs are better than the real ones, and some are worse.
    gt = lq + torch.rand(len(kinds), 1, 1, 1, generator=generator) * (gt - lq)
    gt[kind == UNLABELLED] = lq[kind == UNLABELLED]
    flags = {"is_pseudo": kind == PSEUDO, "is_unlabelled": kind == UNLABELLED}
    return {"lq": lq, "gt": gt, **flags, "key": [f"image {i}" for i in range(len(kinds))]}


def chosen(batch: dict, which: torch.Tensor) -> dict:
    return {
        key: [v for v, kept in zip(value, which, strict=True) if kept] if key == "key" else value[which]
        for key, value in batch.items()
    }


def train(model, iteration: int, batch: dict) -> None:
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)


def noisy(images: torch.Tensor, generator: torch.Generator, shot: float, read: float) -> torch.Tensor:
    return add_shot_read_noise(images, *draw_noise_levels(len(images), generator, shot, read), generator)


def by_hand(weights: list[torch.Tensor], batch: dict, iteration: int, *, weight: float, rampup: int, jitter: float):
    """A step of gradient descent on eq. 13 and on the consistency, in double precision; and what is logged.

    ``weights``: those of the network, then those of the teacher.
    """
    w, b = (v.double().requires_grad_() for v in weights[:2])
    x, y = batch["lq"].double(), batch["gt"].double()
    real, pseudo = ~batch["is_pseudo"] & ~batch["is_unlabelled"], batch["is_pseudo"]
    losses = (apply(w, b, x) - y).square().mean((1, 2, 3))
    mean_real = losses[real].mean()
    kept = pseudo & (losses <= mean_real).detach()
    of_pairs = losses[real | kept].mean()
    images = batch["lq"][batch["is_unlabelled"]]
    draws = iteration_generator(SEED, iteration, torch.device("cpu"), stream=OF_CONSISTENCY)
    of_student = photometric_jitter(images, jitter, draws).double()
    with torch.no_grad():
        taught = apply(weights[2].double(), weights[3].double(), images.double()).clamp(0, 1)
    consistency = (apply(w, b, of_student) - taught).square().mean()
    of_consistency = weight * sigmoid_rampup(iteration, rampup)
    (of_pairs + of_consistency * consistency).backward()
    decay = min(0.9, (1 + iteration) / (10 + iteration))
    new = [(v - RATE * v.grad).detach() for v in (w, b)]
    teacher = [decay * old.double() + (1 - decay) * v for old, v in zip(weights[2:], new, strict=True)]
    logs = {"l_sup": mean_real, "l_pseudo": losses[kept].mean(), "l_pix": of_pairs, "l_consistency": consistency}
    logs |= {"consistency_weight": torch.tensor(of_consistency), "pseudo/kept_ratio": kept.sum() / pseudo.sum()}
    return [*new, *teacher], {name: float(value.detach()) for name, value in logs.items()}


def test_steps_are_those_by_hand(make_model):
    model = make_model(consistency={"weight": 0.7, "rampup_iter": 4, "jitter": 0.3})
    both = [*model.net_g.parameters(), *model.net_g_ema.parameters()]
    weights, ratios = [p.detach().clone() for p in both], set()
    for iteration in range(1, 7):
        batch = make_batch(seed=iteration)
        weights, logs = by_hand(weights, batch, iteration, weight=0.7, rampup=4, jitter=0.3)
        train(model, iteration, batch)
        for found, expected in zip(both, weights, strict=True):
            np.testing.assert_allclose(found.detach().numpy(), expected.numpy(), atol=1e-5)
        log = model.get_current_log()
        assert {name: log[name] for name in logs} == pytest.approx(logs, rel=1e-4, nan_ok=True)
        ratios.add(log["pseudo/kept_ratio"])
        assert logs["l_consistency"] > 1e-5
    assert len(ratios) > 1, "the filter has nothing to do"


def test_the_filter_and_its_record_see_pairs_alone(make_model):
    """Whatever the unlabelled inputs are, and however their loss compares."""
    model, alone = make_model(consistency={"weight": 0}), make_model(consistency={"weight": 0})
    seen, plain = [], model.filter.function

    def watched(losses, *flags, **options):
        seen.append(len(losses))
        return plain(losses, *flags, **options)

    model.filter.function = watched
    for iteration in (1, 2):
        batch = make_batch(seed=iteration)
        train(model, iteration, batch)
        train(alone, iteration, chosen(batch, ~batch["is_unlabelled"]))
    assert seen == [5, 5]
    log, log_alone = model.get_current_log(), alone.get_current_log()
    assert log.pop("l_consistency") > 0
    assert log_alone.pop("l_consistency") == 0
    assert log == pytest.approx(log_alone, rel=1e-5)
    for one, other in zip(model.net_g.parameters(), alone.net_g.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(model.filter_record.rejections(), alone.filter_record.rejections(), strict=True):
        assert one[:4] == other[:4]
        assert one[4] == pytest.approx(other[4], rel=1e-5)
    assert {row[0] for row in model.filter_record.rejections()} == {"image 2", "image 5", "image 6"}
    histograms = model.filter_record.histograms()
    assert sum(len(losses) for losses in histograms.values()) == 10


def test_images_are_shown_by_kind(make_model):
    model = make_model(consistency={"rampup_iter": 0})
    train(model, 1, make_batch())
    groups = {name: mask.tolist() for name, mask in model.image_groups().items()}
    assert groups["real"] == [kind == REAL for kind in MIXED]
    assert groups["unlabelled"] == [kind == UNLABELLED for kind in MIXED]
    kept, dropped = groups["pseudo_kept"], groups["pseudo_dropped"]
    assert [a or b for a, b in zip(kept, dropped, strict=True)] == [kind == PSEUDO for kind in MIXED]
    assert model._weights.shape == (7,)


@pytest.mark.parametrize("kind", ["SemiSupervisedModel", "MeanTeacherModel"])
@pytest.mark.parametrize("likelihood", [False, True], ids=["pixel loss", "likelihood"])
def test_stand_ins_are_no_targets(options, completed, kind, likelihood):
    batch = make_batch()
    batch |= {key: nn.functional.pad(batch[key], (1, 2, 1, 1), "replicate") for key in ("lq", "gt")}
    changed = torch.where(batch["is_unlabelled"].view(-1, 1, 1, 1), torch.nan, batch["gt"])
    weights = []
    for data in (batch, {**batch, "gt": changed}):
        torch.manual_seed(0)
        opt = options(kind, **({"likelihood": {}, "pixel_opt": None} if likelihood else {}))
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


def test_noise_of_pseudo_inputs_is_not_for_unlabelled_ones(make_model):
    model = make_model(noise={}, consistency={"jitter": 0})
    batch = make_batch()
    train(model, 1, batch)
    changed = (model.lq - batch["lq"]).abs().amax((1, 2, 3)) > 1e-5
    assert torch.equal(changed, batch["is_pseudo"])


# --- the mean teacher -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "section", "stream"),
    [
        ("MeanTeacherModel", lambda noise: {"mean_teacher": {"jitter": 0.1, "student_noise": noise}}, 1),
        ("SemiSupervisedModel", lambda noise: {"consistency": {"jitter": 0.1, "noise": noise}}, OF_CONSISTENCY),
    ],
)
def test_student_and_teacher_see_a_draw_of_the_noise_each(make_model, kind, section, stream):
    model, batch = make_model(kind, **section({"shot_variance": 0.02})), make_batch()
    taught = {}
    model.net_g_ema.register_forward_hook(lambda net, args, out: taught.update(lq=args[0], gt=out))
    train(model, 1, batch)
    unlabelled = batch["is_unlabelled"] | (batch["is_pseudo"] if kind == "MeanTeacherModel" else False)
    images = batch["lq"][unlabelled]
    draws = iteration_generator(SEED, 1, torch.device("cpu"), stream=stream)
    of_student = noisy(photometric_jitter(images, 0.1, draws), draws, 0.02, 0.0002)
    of_teacher = noisy(images, draws, 0.02, 0.0002)
    assert torch.equal(model.lq[unlabelled], of_student)
    assert torch.equal(taught["lq"], of_teacher)
    assert torch.equal(model.gt[unlabelled], taught["gt"].clamp(0, 1))
    assert torch.equal(model.lq[~unlabelled], batch["lq"][~unlabelled])
    for images_seen in (of_student, of_teacher):
        assert 0.01 < (images_seen - images).abs().mean() < 0.2


def test_noise_alone(make_model):
    """With ``jitter: 0`` the noise is all that student and teacher differ in."""
    model = make_model("MeanTeacherModel", mean_teacher={"jitter": 0, "student_noise": {"shot_variance": 0}})
    batch = make_batch()
    train(model, 1, batch)
    unlabelled = ~torch.tensor([kind == REAL for kind in MIXED])
    assert 0 < (model.lq - batch["lq"])[unlabelled].abs().max() < 6 * 0.0002**0.5
    assert model.mean_teacher.noise.read_variance == 0.0002
    assert make_model("MeanTeacherModel").mean_teacher.noise is None


def test_the_mean_teachers_unlabelled_images_are_those_without_a_target(make_model):
    model, batch = make_model("MeanTeacherModel"), make_batch()
    train(model, 1, batch)
    assert model.image_groups()["unlabelled"].tolist() == [kind != REAL for kind in MIXED]
    assert model.image_groups()["labelled"].tolist() == [kind == REAL for kind in MIXED]
    # An unlabelled input is treated as a pseudo input is.
    other = make_model("MeanTeacherModel")
    none = torch.zeros(len(MIXED), dtype=torch.bool)
    train(other, 1, {**batch, "is_pseudo": batch["is_pseudo"] | batch["is_unlabelled"], "is_unlabelled": none})
    assert torch.equal(model.net_g.weight, other.net_g.weight)


# --- options and whole runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda o: o["train"].pop("consistency"),
            r"datasets:train:unlabelled: SemiSupervisedModel uses unlabelled inputs by the section train:consistency",
        ),
        (
            lambda o: [o["datasets"]["train"].pop(key) for key in ("unlabelled", "unlabelled_per_batch")],
            "train:consistency: it is of unlabelled inputs, and there are none: add datasets:train:unlabelled",
        ),
        (lambda o: o["train"].update(ema_decay=0), "train:ema_decay: the teacher is the average"),
        (lambda o: o["train"]["consistency"].update(student_noise={}), "consistency:student_noise: unknown key"),
        (lambda o: o["train"]["consistency"].update(noise="estimated"), "train:consistency:noise: expected a section"),
        (lambda o: o["datasets"]["train"].pop("pseudo"), "SemiSupervisedDataset needs 'pseudo' for training"),
        (
            lambda o: [o["datasets"]["train"].pop(key) for key in ("pseudo", "pseudo_per_batch")],
            "SemiSupervisedDataset needs 'pseudo_per_batch' for training",
        ),
    ],
)
def test_wrong_options(options, change, message):
    wrong = options()
    change(wrong)
    with pytest.raises(OptionError, match=message):
        complete(wrong, Source("t"), root_path=".", is_train=True)


@pytest.mark.parametrize(
    ("kind", "train"),
    [
        ("SemiSupervisedModel", {"consistency": {"rampup_iter": 3, "noise": {}}, "noise": {}}),
        ("MeanTeacherModel", {"mean_teacher": {"rampup_iter": 3, "student_noise": {}}}),
    ],
)
def test_resumed_run_equals_an_unbroken_one(options, option_files, capsys, kind, train):
    """Bit by bit, on the CPU, with dropout."""
    path = option_files.write("consistency", options(kind, 4, None, **train))
    assert main(["train", "-opt", path]) == 0
    said = capsys.readouterr().err
    assert "6 real and 6 pseudo pairs, 2 unlabelled inputs; 2 + 3 + 2 a batch" in said
    run, unbroken = Path("experiments/consistency"), Path("experiments/unbroken")
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


def test_more_or_fewer_unlabelled_inputs_make_another_order(options, option_files, capsys):
    path = option_files.write("consistency", options("MeanTeacherModel", 2, None))
    assert main(["train", "-opt", path]) == 0
    changed = options("MeanTeacherModel", 3, None)
    changed["datasets"]["train"]["unlabelled_per_batch"] = 1
    capsys.readouterr()
    assert main(["train", "-opt", option_files.write("consistency", changed), "--auto_resume"]) == 0
    assert "unlabelled per batch of all ranks was 2, is 1" in capsys.readouterr().err
