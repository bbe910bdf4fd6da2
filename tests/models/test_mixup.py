"""Mixup: the draw, the mean, and a resumed run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from semiisp_plugin.cli import main
from semiisp_plugin.models.mixup import draw_mixing, mix
from semiisp_plugin.options import OptionError, Source, complete
from semiisp_plugin.toolbox import build_model


def test_mean_of_two_samples():
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mixed = mix(images, 0.3, torch.tensor([2, 1, 0]))
    x = images.numpy()
    expected = np.stack([0.3 * x[i] + 0.7 * x[j] for i, j in enumerate((2, 1, 0))])
    np.testing.assert_allclose(mixed.numpy(), expected, rtol=1e-6)


def test_half_of_the_batches_are_left_alone_and_shares_are_beta():
    draws = [draw_mixing(8, seed=1, number=i) for i in range(4000)]
    mixed = [d for d in draws if d is not None]
    assert abs(len(mixed) / 4000 - 0.5) < 0.03  # 3.8 standard deviations
    shares = np.array([d[0] for d in mixed])
    # Beta(b, b): mean 1/2, variance 1 / (4 (2 b + 1)).
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * 3.4)) < 0.005
    assert all(sorted(d[1].tolist()) == list(range(8)) for d in mixed)
    counts = np.bincount([d[1][0] for d in mixed], minlength=8)
    assert counts.min() > 0.7 * len(mixed) / 8
    assert all(draw_mixing(8, 1, i, use_identity=False) is not None for i in range(50))


def test_narrow_and_wide_shares():
    near = np.array([draw_mixing(2, 0, i, beta=100.0, use_identity=False)[0] for i in range(300)])
    far = np.array([draw_mixing(2, 0, i, beta=0.1, use_identity=False)[0] for i in range(300)])
    assert near.std() < 0.05 < 0.4 < far.std()


def test_a_draw_depends_on_its_arguments_alone():
    def plain(draw):
        return (draw[0], draw[1].tolist())

    first = plain(draw_mixing(8, 3, 7, 1, use_identity=False))
    assert plain(draw_mixing(8, 3, 7, 1, use_identity=False)) == first
    for seed, number, process in ((4, 7, 1), (3, 8, 1), (3, 7, 0)):
        assert plain(draw_mixing(8, seed, number, process, use_identity=False)) != first


def test_one_sample_is_left_as_it_is():
    image = torch.rand(1, 3, 4, 4)
    mixing = draw_mixing(1, 0, 1, use_identity=False)
    torch.testing.assert_close(mix(image, *mixing), image, rtol=1e-6, atol=0)


def options_with(option_files, total: int = 4, **mixup) -> dict:
    options = option_files.base("mixed", "SupervisedModel", total)
    options["train"]["mixup"] = mixup
    return options


def test_model_mixes_inputs_and_targets_alike(option_files, completed):
    model = build_model(completed(options_with(option_files, use_identity=False)))
    generator = torch.Generator().manual_seed(0)
    batch = {"lq": torch.rand(4, 3, 32, 40, generator=generator), "key": list("abcd")}
    batch["gt"] = batch["lq"].square()
    model.feed_data(batch)
    model.optimize_parameters(5)
    mixing = draw_mixing(4, 3, 5, use_identity=False)
    assert torch.equal(model.lq, mix(batch["lq"], *mixing))
    assert torch.equal(model.gt, mix(batch["gt"], *mixing))
    assert not torch.equal(model.lq, batch["lq"])


def test_resumed_run_equals_an_unbroken_one(option_files, capsys):
    path = option_files.write("mixed", options_with(option_files))
    assert main(["train", "-opt", path]) == 0
    run, unbroken = Path("experiments/mixed"), Path("experiments/unbroken")
    shutil.move(run, unbroken)
    assert main(["train", "-opt", path]) == 0
    for stale in [*run.glob("models/*_[34].pth"), *run.glob("models/*latest*"), *run.glob("training_states/[34].*")]:
        stale.unlink()
    capsys.readouterr()
    assert main(["train", "-opt", path, "--auto_resume"]) == 0
    assert "Resuming from iteration 2" in capsys.readouterr().err
    a, b = (torch.load(folder / "models/net_g_latest.pth", weights_only=True) for folder in (unbroken, run))
    assert all(torch.equal(value, b["params"][name]) for name, value in a["params"].items())


def test_options(option_files):
    def check(change):
        options = options_with(option_files, beta=1.2)
        change(options)
        complete(yaml.safe_load(yaml.safe_dump(options)), Source("o.yml"), root_path=".", is_train=True)

    check(lambda o: None)
    check(lambda o: o["train"].update(mixup={}))
    for change, message in (
        (lambda o: o["train"]["mixup"].update(use_identiy=True), "unknown key; did you mean 'use_identity'"),
        (
            lambda o: o["train"]["mixup"].update(beta=0),
            "train:mixup:beta: expected a number above 0 and up to 1,000,000,000, got 0",
        ),
        (
            lambda o: o["datasets"]["train"].update(batch_size_per_gpu=1),
            "train:mixup: a batch of 1 .* nothing to be mixed",
        ),
        (lambda o: o["train"].update(mixup=True), "train:mixup: expected a section"),
        (lambda o: o["train"].update(mix_up={}), "unknown key; did you mean 'mixup'"),
    ):
        with pytest.raises(OptionError, match=message):
            check(change)


def test_only_supervised_models_mix(option_files):
    options = yaml.safe_load(Path(option_files.isp()).read_text(encoding="utf-8"))
    options["train"]["mixup"] = {}
    with pytest.raises(OptionError, match="train:mixup: only SupervisedModel has this; ISPModel would ignore it"):
        complete(options, Source("o.yml"), root_path=".", is_train=True)
