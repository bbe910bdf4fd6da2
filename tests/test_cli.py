"""All phases through the command line: train, resume, test; and what it says when something is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semiisp_plugin import cli
from semiisp_plugin.arguments import program
from semiisp_plugin.cli import main
from semiisp_plugin.io.files import printable
from semiisp_plugin.io.image_io import read_image
from semiisp_plugin.io.lmdb_io import read_meta
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.pseudo.f_isp import save_f_isp
from semiisp_plugin.toolbox import build_dataset, build_network, get_root_logger


def edit(path: str, change) -> str:
    options = yaml.safe_load(Path(path).read_text())
    change(options)
    Path(path).write_text(yaml.safe_dump(options, sort_keys=False))
    return path


def events(name: str) -> EventAccumulator:
    accumulator = EventAccumulator(f"tb_logger/{name}")
    accumulator.Reload()
    return accumulator


@pytest.fixture
def phase_1(option_files):
    assert main(["train", "-opt", option_files.isp()]) == 0
    return option_files


@pytest.fixture
def pseudo_pairs(phase_1):
    assert main(["pseudo", "-opt", phase_1.pseudo()]) == 0
    return phase_1


def test_every_phase(pseudo_pairs, capsys):
    files = pseudo_pairs
    # Phase 1 left the networks, and f_ISP with the last N = 3 parameter sets.
    models = Path("experiments/isp/models")
    assert {"net_g_latest.pth", "net_global_latest.pth", "f_isp_latest.pth"} <= {p.name for p in models.iterdir()}
    f_isp = torch.load(models / "f_isp_latest.pth", weights_only=True)
    banks = {k: ParameterBank.from_state_dict(v) for k, v in f_isp["banks"].items()}
    assert (len(banks["global"]), banks["global"].grid) == (3, (1, 1))
    assert (len(banks["local"]), banks["local"].grid) == (3, (2, 2))
    assert f_isp["n_pairs"] == 6
    scalars = events("isp").Tags()["scalars"]
    assert {"losses/l_pix_global", "losses/l_pix_local", "lr", "metrics/test/psnr", "metrics/test_global/psnr"} <= set(
        scalars
    )

    # Pseudo-data: the same keys in the same order, 8 and 16 bits, the damaged photograph skipped and listed.
    gt, lq = read_meta("pseudo/gt.lmdb"), read_meta("pseudo/lq.lmdb")
    assert [e.key for e in gt] == [e.key for e in lq]
    assert len(gt) == 4
    assert all("." not in e.key for e in gt)
    report = json.loads(Path("pseudo/report.json").read_text())
    assert (report["pairs"], report["skipped"]) == (4, 1)
    assert Path("pseudo/contact_sheet.jpg").stat().st_size > 1000
    assert "broken.jpg" in Path("pseudo/skipped.txt").read_text()
    dataset = build_dataset(
        {
            "name": "pseudo",
            "type": "PairedRestorationDataset",
            "dataroot_gt": "pseudo/gt.lmdb",
            "dataroot_lq": "pseudo/lq.lmdb",
            "io_backend": {"type": "lmdb"},
            "phase": "val",
        }
    )
    item = dataset[0]
    levels = torch.unique(item["lq"])
    assert len(levels) > 256  # 16 bits survived
    assert torch.equal((item["gt"] * 255).round() / 255, item["gt"])

    # Phase 2.
    assert main(["train", "-opt", files.semi()]) == 0
    tags = events("semi").Tags()
    expected = {"losses/l_pix", "losses/l_ssim", "losses/l_sup", "losses/l_pseudo", "lr", "metrics/test/psnr_gt_mean"}
    assert expected | {"pseudo/kept_ratio", "pseudo/threshold"} <= set(tags["scalars"])
    assert {"images/real", "validation/test_input_output_target"} <= set(tags["images"])
    assert {"images/pseudo_kept", "images/pseudo_dropped"} & set(tags["images"])
    kept = [e.value for e in events("semi").Scalars("pseudo/kept_ratio")]
    assert len(kept) == 2
    assert all(0 <= k <= 1 for k in kept)

    # Phase 3 starts from phase 2's weights; test writes images and metrics.
    assert main(["train", "-opt", files.finetune()]) == 0
    capsys.readouterr()
    assert main(["test", "-opt", files.test()]) == 0
    log = capsys.readouterr().err
    assert all(f"# {metric}: " in log for metric in ("psnr", "ssim", "psnr_gt_mean"))
    pictures = sorted(Path("results/test/visualization/test").glob("*.png"))
    assert len(pictures) == 2
    assert read_image(pictures[0]).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("phase", "more"),
    [
        ("isp", ()),
        pytest.param("semi", (), marks=pytest.mark.slow),
        pytest.param(
            "semi",
            ("train:accumulate=2", "train:precision=bf16", "datasets:train:num_worker_per_gpu=2"),
            marks=pytest.mark.slow,
        ),
        pytest.param("finetune", (), marks=pytest.mark.slow),
    ],
)
def test_resumed_run_equals_an_unbroken_one(pseudo_pairs, phase, more, capsys):
    """Bit by bit, on the CPU: weights, EMA and parameter sets."""
    files = pseudo_pairs
    if phase == "finetune":
        assert main(["train", "-opt", files.semi()]) == 0
    arguments = ["train", "-opt", getattr(files, phase)(total=4), *(["--force_yml", *more] if more else [])]
    assert main(arguments) == 0
    unbroken = Path(f"experiments/{phase}_unbroken")
    shutil.move(f"experiments/{phase}", unbroken)

    assert main(arguments) == 0
    run = Path(f"experiments/{phase}")
    # As if killed after iteration 3, which is after the validation of iteration 2.
    for stale in [*run.glob("models/*_4.pth"), *run.glob("models/*latest*"), *run.glob("training_states/4.*")]:
        stale.unlink()
    capsys.readouterr()
    assert main([*arguments, "--auto_resume"]) == 0
    captured = capsys.readouterr()
    assert "resuming from" in captured.out
    assert "Resuming from iteration 3" in captured.err
    compared = 0
    for file in (unbroken / "models").glob("*latest.pth"):
        a = torch.load(file, weights_only=True)
        b = torch.load(run / "models" / file.name, weights_only=True)
        compared += compare(a, b)
        if "net_" in file.name:  # the file says what it is the weights of
            section = yaml.safe_load(Path(arguments[2]).read_text(encoding="utf-8"))[
                file.stem.replace("net_", "network_")[:-7]
            ]
            assert a["network"] == section
    assert compared > 20


def compare(a, b) -> int:
    """Assert that two checkpoints are equal to the last bit; returns the number of tensors."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return sum(compare(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
        return 1
    assert a == b
    return 0


def test_network_of_basicsr_as_the_target(pseudo_pairs):
    """Any architecture of BasicSR's registry trains unchanged."""
    network = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
    assert main(["train", "-opt", pseudo_pairs.semi(**network)]) == 0
    assert Path("experiments/semi/models/net_g_latest.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["Retinexformer", "PQDynamicISP"])
def test_other_targets_of_ours(pseudo_pairs, network):
    options = {
        "Retinexformer": {"n_feat": 8, "stage": 1, "num_blocks": [1, 1, 1]},
        "PQDynamicISP": {"thumbnail": 32, "grid": [2, 2]},
    }[network]
    assert main(["train", "-opt", pseudo_pairs.semi(type=network, **options)]) == 0


def test_image_enhancement_variant(option_files):
    assert main(["train", "-opt", option_files.isp(image_enhancement=True)]) == 0
    state = torch.load("experiments/isp/models/f_isp_latest.pth", weights_only=True)
    assert state["banks"]["global"]["sets"].shape[1] == 45
    assert main(["pseudo", "-opt", option_files.pseudo()]) == 0


def test_plain_basicsr_options_run(option_files, tiny_data):
    """A model, data set and scheduler of BasicSR's own, through our command."""
    eight_bit = tiny_data / "test" / "target"
    dataset = {
        "name": "plain",
        "type": "PairedImageDataset",
        "dataroot_gt": str(eight_bit),
        "dataroot_lq": str(eight_bit),
        "io_backend": {"type": "disk"},
    }
    options = option_files.base("plain", "SRModel", 3)
    options["datasets"] = {
        "train": {
            **dataset,
            "gt_size": 32,
            "use_hflip": True,
            "use_rot": True,
            "num_worker_per_gpu": 0,
            "batch_size_per_gpu": 2,
            "dataset_enlarge_ratio": 2,
            "prefetch_mode": None,
        },
        "val": dict(dataset),
    }
    options["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
    options["path"] = {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None}
    options["train"] = {
        "ema_decay": 0.9,
        "optim_g": {"type": "Adam", "lr": 1e-4},
        "scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5},
        "total_iter": 3,
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    }
    del options["val"]["metrics"]["psnr_gt_mean"]
    path = option_files.write("plain", options)
    assert main(["train", "-opt", path]) == 0
    assert Path("experiments/plain/models/net_g_latest.pth").exists()
    Path("experiments/plain/training_states/3.state").unlink()
    assert main(["train", "-opt", path, "--auto_resume"]) == 0


def test_the_average_is_tested_and_fine_tuned_unless_told_otherwise(option_files, workspace):
    options = option_files.base("averaged", "SupervisedModel", 3)
    options["train"].update(ema_decay=0.5)
    assert main(["train", "-opt", option_files.write("averaged", options)]) == 0
    weights = "experiments/averaged/models/net_g_latest.pth"
    del options["train"], options["logger"]
    data = options["datasets"]
    options["datasets"] = {"test_1": data["val"]}
    options["path"] = {"pretrain_network_g": weights}
    options["val"] = {"metrics": options["val"]["metrics"]}
    path = option_files.write("tested", options | {"name": "tested"})
    assert main(["test", "-opt", path]) == 0
    log = next(Path("results/tested").glob("*.log")).read_text(encoding="utf-8")
    assert f"from {weights} (params_ema: " in log
    assert main(["test", "-opt", path, "--force_yml", "path:param_key_g=params", "name=raw"]) == 0
    log = next(Path("results/raw").glob("*.log")).read_text(encoding="utf-8")
    assert f"from {weights} (params: " in log


def test_debug_mode_and_overrides(option_files):
    path = option_files.isp()
    assert main(["train", "-opt", path, "--debug", "--force_yml", "train:total_iter=1", "train:optim_g:lr=5e-4"]) == 0
    states = Path("experiments/debug_isp")
    assert (states / "models" / "net_g_latest.pth").exists()
    log = next(states.glob("train_*.log")).read_text()
    assert re.search(r"iter:\s+1, lr:\(5\.000e-04", log)
    assert not Path("tb_logger/debug_isp").exists()
    assert "name: 'debug_isp' is BasicSR's debug mode" in log


# --- errors: one clear line, exit status 1, no traceback -----------------------------------------------------------


def fails(capsys, argv: list[str], *parts: str) -> str:
    assert main(argv) == 1
    err = capsys.readouterr().err
    line = [text for text in err.splitlines() if text.startswith("basicsr: error: ")][-1]
    assert "Traceback" not in err
    for part in parts:
        assert part in line, f"'{part}' is not in: {line}"
    return line


def test_missing_option_file_suggests_a_near_one(option_files, capsys):
    option_files.isp()
    fails(capsys, ["train", "-opt", "ips.yml"], "ips.yml", "did you mean", "isp.yml")


def test_misspelt_keys_name_line_and_nearest(option_files, capsys):
    path = edit(option_files.isp(), lambda o: o["train"].update(totl_iter=o["train"].pop("total_iter")))
    line = next(i for i, text in enumerate(Path(path).read_text().splitlines(), 1) if "totl_iter" in text)
    fails(capsys, ["train", "-opt", path], f"isp.yml:{line}:", "train:totl_iter", "'total_iter'")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda o: o.update(nmae=1), ("nmae", "'name'")),
        (lambda o: o["network_g"].update(thumbnial=3), ("network_g:thumbnial", "'thumbnail'")),
        (lambda o: o["network_g"].update(type="SepLTU"), ("network_g:type", "'SepLUT'")),
        (lambda o: o["train"]["optim_g"].update(lrr=1), ("train:optim_g:lrr", "'lr'")),
        (lambda o: o["train"]["optim_g"].update(type="AdmaW"), ("train:optim_g:type", "'AdamW'")),
        (lambda o: o["train"]["pixel_opt"].update(kernle=1), ("train:pixel_opt:kernle", "PooledL1Loss")),
        (lambda o: o["datasets"]["train"].update(gt_sie=1), ("datasets:train:gt_sie", "'gt_size'")),
        (lambda o: o["datasets"]["train"].update(gt_size="big"), ("datasets:train:gt_size", "expected")),
        (lambda o: o["val"]["metrics"]["psnr"].update(crop_brder=0), ("val:metrics:psnr:crop_brder", "'crop_border'")),
        (lambda o: o["val"]["metrics"]["psnr"].pop("crop_border"), ("val:metrics:psnr", "'crop_border'")),
        (lambda o: o["train"]["scheduler"].update(eta_min_rato=1), ("scheduler:eta_min_rato", "'eta_min_ratio'")),
        (lambda o: o["train"]["scheduler"].update(type="Cosine"), ("train:scheduler:type", "'CosineAnnealing'")),
        (lambda o: o["train"]["scheduler"].update(type="MultiStepLR"), ("train:scheduler",)),
        (lambda o: o["train"]["optim_g"].pop("type"), ("train:optim_g", "'type'")),
        (lambda o: o["train"].update(filter={"beta": 1.0}), ("train:filter", "SemiSupervisedModel")),
        (lambda o: o["train"]["pixel_opt"].update(reduction="sum"), ("pixel_opt:reduction",)),
        (lambda o: o["train"].update(ema_decay=2.0), ("train:ema_decay", "0 or more and below 1, got 2.0")),
        (lambda o: o["logger"].update(print_freq=0), ("logger:print_freq", "from 1 to 1,000,000,000, got 0")),
        (lambda o: o.update(name="a/b"), ("name", "slashes")),
        (lambda o: o.update(train=None), ("train", "expected a section")),
        (lambda o: o.update(val=3), ("val", "expected a section")),
        (lambda o: o["train"]["optim_g"].update(lr="abc"), ("train:optim_g:lr", "expected a number")),
        (lambda o: o["network_g"].update(grid=3), ("network_g:grid", "expected")),
        (lambda o: o["val"]["metrics"]["psnr"].update(type="psnrr"), ("val:metrics:psnr:type", "metric")),
        (lambda o: o["train"].update(total_iter="many"), ("train:total_iter", "whole number")),
        (lambda o: o["train"].pop("pixel_opt"), ("train", "no loss")),
        (lambda o: o.update(num_gpu=99), ("num_gpu", "99", "auto")),
    ],
)
def test_wrong_options(option_files, capsys, change, parts):
    path = edit(option_files.isp(), change)
    fails(capsys, ["train", "-opt", path], *parts)
    assert not Path("experiments").exists()  # nothing was begun, nothing older renamed


def test_empty_sections_are_the_defaults(option_files):
    path = edit(option_files.isp(total=1), lambda o: o.update(path=None, logger=None, val=None))
    assert main(["train", "-opt", path]) == 0


def test_a_failed_start_leaves_the_older_run_alone(phase_1, capsys):
    before = sorted(Path("experiments/isp").rglob("*"))
    path = edit(phase_1.isp(), lambda o: o["datasets"]["train"].update(dataroot_lq="nowhere"))
    fails(capsys, ["train", "-opt", path], "nowhere")
    assert sorted(Path("experiments/isp").rglob("*")) == before
    assert [p.name for p in Path("experiments").iterdir()] == ["isp"]


def test_option_file_of_another_command(option_files, capsys):
    fails(capsys, ["train", "-opt", option_files.pseudo()], "basicsr pseudo")
    fails(capsys, ["pseudo", "-opt", option_files.isp()], "basicsr train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learn", "--pairs", "x", "y", "z", "--out", "look"], "give one folder that holds two"),
        (["recipe", "lolv1", "--write", "x", "--until", "semi"], "--write runs nothing"),
        (["recipe", "lolv1", "--write", "x", "--redo"], "--write runs nothing"),
    ],
)
def test_arguments_without_effect_are_refused(arguments, message, capsys, workspace):
    fails(capsys, arguments, message)
    assert not list(workspace.iterdir())


def test_testing_resumes_nothing(option_files, capsys):
    with pytest.raises(SystemExit):
        main(["test", "-opt", option_files.test(), "--auto_resume"])
    assert "unrecognized arguments: --auto_resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["learn", "--phots", "b", "--pairs", "a", "--out", "c"],
            "unrecognized arguments: --phots b (did you mean --photos?)",
        ),
        (["enhance", "x", "--out", "y", "--strenght=2"], "--strenght=2 (did you mean --strength?)"),
        (["bank", "x", "--qqq"], "unrecognized arguments: --qqq\n"),
    ],
)
def test_unknown_arguments_are_named_with_the_nearest(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith(f"usage: basicsr {arguments[0]}")


def test_how_the_command_can_be_called_again(monkeypatch, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "basicsr").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(folder / "basicsr"), "learn"])
    assert program() == os.path.join("bin", "basicsr")
    monkeypatch.setenv("PATH", str(folder))
    assert program() == "basicsr"
    monkeypatch.setattr("sys.argv", ["-m", "learn"])
    assert program() == "basicsr"


def test_testing_needs_weights_and_a_data_set(option_files, capsys):
    path = edit(option_files.test(), lambda o: o.update(path={}))
    fails(capsys, ["test", "-opt", path], "pretrain_network_g")
    path = edit(option_files.test(), lambda o: o["datasets"].update(train=o["datasets"].pop("test_1")))
    fails(capsys, ["test", "-opt", path], "no data set to test")


def test_network_that_changes_the_size(pseudo_pairs, capsys):
    path = pseudo_pairs.semi(type="SRVGGNetCompact", num_feat=4, num_conv=1, upscale=2)
    fails(capsys, ["train", "-opt", path], "SRVGGNetCompact", "upscale: 1")


def test_state_of_another_phase(pseudo_pairs, capsys):
    state = "experiments/isp/training_states/2.state"
    path = edit(pseudo_pairs.semi(), lambda o: o["path"].update(resume_state=state))
    fails(capsys, ["train", "-opt", path], state, "ISPModel", "pretrain_network_g")


def resumed_at_2(path: str, capsys, *more: str) -> tuple[int, str]:
    """Resume at iteration 2 of a run of 4 with other options; the exit status and what was logged."""
    for state in Path("experiments").glob("*/training_states/[34].state"):
        state.unlink()
    capsys.readouterr()
    status = main(["train", "-opt", path, "--auto_resume", "--force_yml", *more])
    return status, capsys.readouterr().err


@pytest.mark.slow
def test_options_changed_since_the_state(option_files, capsys):
    path = option_files.isp(total=4)
    assert main(["train", "-opt", path]) == 0
    status, log = resumed_at_2(path, capsys, "train:optim_g:lr=1e-5", "train:optim_g:weight_decay=0.3")
    assert status == 0
    assert "Resuming with train:optim_g:lr 1e-05; it was 0.001." in log
    assert "Resuming with train:optim_g:weight_decay 0.3; it was none." in log
    cosine = 0.001 + 0.999 * 0.5  # of iteration 3, the third of 4
    assert re.search(rf"iter:\s+3, lr:\({1e-5 * cosine:.3e}", log)
    status, log = resumed_at_2(path, capsys, "train:optim_g={type: SGD, lr: 0.1, momentum: 0.9}")
    assert status == 1
    assert "2.state is of the optimiser AdamW, not of SGD (train:optim_g:type)" in log
    status, log = resumed_at_2(path, capsys, "val:metrics:ssim=~", "datasets:train:batch_size_per_gpu=3")
    assert status == 0
    assert "The order of the training samples is another: real per batch of all ranks was 2, is 3." in log
    assert "Resuming with datasets:train:batch_size_per_gpu 3; it was 2." in log
    status, log = resumed_at_2(path, capsys, "train:accumulate=2")
    assert status == 0
    assert "start batch was 2, is 4" in log


@pytest.mark.slow
def test_damaged_newer_state_does_not_cost_the_new_one(option_files, capsys):
    path = edit(option_files.isp(total=4), lambda o: o["logger"].update(keep_last=1))
    assert main(["train", "-opt", path, "--force_yml", "logger:keep_last=4"]) == 0
    states = Path("experiments/isp/training_states")
    shutil.copy(states / "4.state", states / "9.state")
    (states / "9.state").write_bytes((states / "9.state").read_bytes()[:-40])
    capsys.readouterr()
    assert main(["train", "-opt", path, "--auto_resume", "--force_yml", "train:total_iter=6"]) == 0
    assert "auto_resume: skipped:" in capsys.readouterr().out
    assert sorted(p.name for p in states.iterdir()) == ["6.state", "9.state"]


@pytest.mark.slow
def test_interrupt_saves_whole_iterations(option_files, monkeypatch):
    """Ctrl+C in the second iteration: it is finished and saved, and the resumed run equals an unbroken one."""
    import signal

    from semiisp_plugin.models.isp_model import ISPModel

    path = edit(option_files.isp(total=4), lambda o: o["logger"].update(save_checkpoint_freq=100))
    assert main(["train", "-opt", path]) == 0
    unbroken = torch.load("experiments/isp/models/net_g_latest.pth", weights_only=True)
    shutil.rmtree("experiments")
    step = ISPModel.step
    calls = []

    def interrupted(self, loss):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        step(self, loss)

    monkeypatch.setattr(ISPModel, "step", interrupted)
    assert main(["train", "-opt", path]) == 130
    assert [p.name for p in Path("experiments/isp/training_states").iterdir()] == ["2.state"]
    monkeypatch.setattr(ISPModel, "step", step)
    assert main(["train", "-opt", path, "--auto_resume"]) == 0
    assert compare(unbroken, torch.load("experiments/isp/models/net_g_latest.pth", weights_only=True)) > 5


@pytest.mark.slow
def test_told_to_stop_while_waiting_for_data(option_files, monkeypatch, capsys):
    """A loader that hangs does not keep a run from saving; the resumed run equals an unbroken one."""
    import signal
    import time

    from semiisp_plugin.training.loaders import MixedData

    path = edit(option_files.isp(total=4), lambda o: o["logger"].update(save_checkpoint_freq=100))
    assert main(["train", "-opt", path]) == 0
    unbroken = torch.load("experiments/isp/models/net_g_latest.pth", weights_only=True)
    shutil.rmtree("experiments")
    batches = MixedData.batches

    def hang(self):
        for number, batch in enumerate(batches(self)):
            if number == 2:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(60)
            yield batch

    monkeypatch.setattr(MixedData, "batches", hang)
    began = time.monotonic()
    assert main(["train", "-opt", path]) == 143
    assert time.monotonic() - began < 30
    assert "interrupted: SIGTERM after iteration 2, which is saved" in capsys.readouterr().err
    assert [e.step for e in events("isp").Scalars("losses/l_pix_local")] == [1, 2]
    monkeypatch.setattr(MixedData, "batches", batches)
    assert main(["train", "-opt", path, "--auto_resume"]) == 0
    assert compare(unbroken, torch.load("experiments/isp/models/net_g_latest.pth", weights_only=True)) > 5


@pytest.mark.slow
def test_results_of_equal_names_in_two_folders(pseudo_pairs, tiny_data):
    for kind in ("input", "target"):
        for folder in ("a", "b"):
            shutil.copytree(tiny_data / "test" / kind, f"nested/{kind}/{folder}")
    assert main(["train", "-opt", pseudo_pairs.semi()]) == 0
    assert main(["train", "-opt", pseudo_pairs.finetune()]) == 0
    nested = {"dataroot_lq": "nested/input", "dataroot_gt": "nested/target"}
    path = edit(pseudo_pairs.test(), lambda o: o["datasets"]["test_1"].update(nested))
    assert main(["test", "-opt", path]) == 0
    assert len(list(Path("results/test/visualization/test").glob("*.png"))) == 4


def test_missing_and_empty_folders(option_files, capsys, workspace):
    path = edit(option_files.isp(), lambda o: o["datasets"]["train"].update(dataroot_lq="nowhere"))
    fails(capsys, ["train", "-opt", path], "nowhere")
    (workspace / "empty").mkdir()
    path = edit(option_files.isp(), lambda o: o["datasets"]["train"].update(dataroot_lq="empty"))
    fails(capsys, ["train", "-opt", path], "empty")


def test_unmatched_pairs_are_named(option_files, capsys, tiny_data, workspace):
    shutil.copytree(tiny_data / "pairs" / "input", "inputs")
    os.rename("inputs/03.png", "inputs/odd.png")
    path = edit(option_files.isp(), lambda o: o["datasets"]["train"].update(dataroot_lq="inputs"))
    fails(capsys, ["train", "-opt", path], "inputs", "odd", "03")


def test_pairs_of_different_sizes_are_named(option_files, capsys, tiny_data):
    from semiisp_plugin.io.image_io import write_image

    shutil.copytree(tiny_data / "pairs" / "input", "inputs")
    for name in os.listdir("inputs"):
        write_image(f"inputs/{name}", np.zeros((48, 60, 3), np.uint8))
    path = edit(option_files.isp(), lambda o: o["datasets"]["train"].update(dataroot_lq="inputs"))
    fails(capsys, ["train", "-opt", path], "48", "60", ".png")


def test_unreadable_image_of_a_pair_is_named(option_files, capsys, tiny_data):
    shutil.copytree(tiny_data / "pairs" / "input", "inputs")
    for name in os.listdir("inputs"):
        Path("inputs", name).write_bytes(b"")
    path = edit(option_files.isp(), lambda o: o["datasets"]["train"].update(dataroot_lq="inputs"))
    fails(capsys, ["train", "-opt", path], "inputs", ".png")


def test_checkpoint_of_another_network(pseudo_pairs, capsys):
    assert main(["train", "-opt", pseudo_pairs.semi()]) == 0
    path = edit(pseudo_pairs.finetune(), lambda o: o["network_g"].update(n_vertices_3d=9))
    fails(capsys, ["train", "-opt", path], "net_g_latest.pth", "does not fit SepLUT", "network_g")


def test_missing_and_damaged_checkpoints(option_files, capsys, workspace):
    fails(capsys, ["train", "-opt", option_files.finetune()], "experiments/semi/models/net_g_latest.pth")
    (workspace / "broken.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    path = edit(option_files.finetune(), lambda o: o["path"].update(pretrain_network_g="broken.pth"))
    fails(capsys, ["train", "-opt", path], "broken.pth", "truncated")


def test_pseudo_errors(phase_1, capsys, workspace):
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(photographs="nowhere")], "nowhere")
    (workspace / "empty").mkdir()
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(photographs="empty")], "empty")
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(photogrphs="x")], "photogrphs", "'photographs'")
    wrong = "experiments/isp/models/net_g_latest.pth"
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(f_isp=wrong)], wrong, "f_isp_latest.pth")
    assert main(["pseudo", "-opt", phase_1.pseudo()]) == 0
    capsys.readouterr()
    assert main(["pseudo", "-opt", phase_1.pseudo()]) == 0
    assert "4 pairs of 5 photographs in pseudo, 0 of them by this run" in capsys.readouterr().out
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(manual_seed=9)], "manual_seed: 0 then, 9 now", "mix")
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(mode="onlin")], "mode")
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(workers=-1)], "workers")
    fails(capsys, ["pseudo", "-opt", phase_1.pseudo(source="upi", draw_per="function")], "draw_per")


@pytest.fixture
def f_isp(workspace) -> str:
    """An f_ISP of phase 1 with five global and three local parameter sets."""
    torch.manual_seed(0)
    network = {"type": "PQDynamicISP", "grid": [2, 2], "thumbnail": 32}
    net = build_network(dict(network))
    banks = {"global": ParameterBank(net.spec, 9), "local": ParameterBank(net.spec, 3, (2, 2))}
    for bank in banks.values():
        bank.append(net.spec.squash(0.3 * torch.randn(5, 36, *bank.grid)))
    Path("models").mkdir()
    save_f_isp("models/f_isp_latest.pth", network, net.state_dict(), banks, 100)
    return "models/f_isp_latest.pth"


@pytest.mark.slow
def test_bank(f_isp, capsys):
    assert main(["bank", f_isp]) == 0
    output = capsys.readouterr().out
    title = "Parameter bank '{}': {} sets (capacity {}), grid {}, ISP with 36 parameters, trained on 100 pairs"
    assert title.format("global", 5, 9, "1x1") in output
    assert title.format("local", 3, 3, "2x2") in output
    assert max(map(len, output.splitlines())) <= 120
    values = torch.load(f_isp, weights_only=True)["banks"]["global"]["sets"][:, 0, 0, 0]
    row = next(line.split() for line in output.splitlines() if line.startswith("cc o"))
    low, median, high = (float(row[k]) for k in (5, 7, 9))
    assert [low, median, high] == pytest.approx(
        [v.item() for v in (values.min(), values.median(), values.max())], abs=6e-4
    )
    files = {"bank.json", "bank_global.png", "bank_local.png"}
    assert {p.name for p in Path("models").iterdir()} == files | {"f_isp_latest.pth"}
    content = json.loads(Path("models/bank.json").read_text())
    assert content["n_pairs"] == 100
    assert content["banks"]["global"]["statistics"][0]["min"] == pytest.approx(values.min().item(), abs=1e-12)
    assert all(read_image(f"models/bank_{label}.png").shape[1] > 1000 for label in ("global", "local"))


@pytest.mark.slow
def test_bank_elsewhere_and_one_alone(f_isp, capsys):
    os.chdir("models")
    assert main(["bank", "f_isp_latest.pth", "--out", "../pictures", "--label", "local"]) == 0
    os.chdir("..")
    assert "'global'" not in capsys.readouterr().out
    assert {p.name for p in Path("pictures").iterdir()} == {"bank.json", "bank_local.png"}
    assert [p.name for p in Path("models").iterdir()] == ["f_isp_latest.pth"]


def test_bank_errors(f_isp, capsys):
    fails(capsys, ["bank", "models/f_isp_lates.pth"], "no checkpoint models/f_isp_lates.pth", "f_isp_latest.pth")
    state = torch.load(f_isp, weights_only=True)
    torch.save(state["params"], "net_g_latest.pth")
    fails(capsys, ["bank", "net_g_latest.pth"], "net_g_latest.pth is not an f_ISP of phase 1")
    state["banks"]["local"]["sets"][1, 2] = float("nan")
    torch.save(state, "damaged.pth")
    fails(capsys, ["bank", "damaged.pth"], "1 of its 3 sets hold NaN", "another checkpoint")
    Path("truncated.pth").write_bytes(Path(f_isp).read_bytes()[:5000])
    fails(capsys, ["bank", "truncated.pth"], "truncated.pth is no readable checkpoint")
    fails(capsys, ["bank", f_isp, "--out", "truncated.pth"], "truncated.pth cannot be written", "--out")


def test_usage_errors_exit_with_2(capsys):
    for argv in (
        [],
        ["train"],
        ["trian", "-opt", "x"],
        ["demo", "--time", "long"],
        ["bank"],
        ["bank", "f_isp_latest.pth", "--label", "both"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("enhance x --out o --quality 0", "--quality: '0' is no whole number from 1 to 100"),
        ("enhance x --out o --workers 0", "--workers: '0' is no whole number from 1 to 1,024"),
        ("enhance x --out o --max_pixels -1", "--max_pixels: '-1' is no whole number from 1 to 1,000,000,000,000"),
        (f"enhance x --out o --tile {10**20}", "is no whole number from 0 to 1,000,000, and not 'auto'"),
        ("enhance x --out o --overlap 1e9", "--overlap: '1e9' is no whole number from 0 to 1,000,000"),
        ("prepare own --short_side 8", "--short_side: '8' is no whole number from 32 to 100,000"),
        ("prepare own --min_alignment nan", "--min_alignment: 'nan' is no number from -1 to 1"),
        ("prepare own --workers -1", "--workers: '-1' is no whole number from 0 to 1,024"),
        ("benchmark -opt x --workers -1", "--workers: '-1' is no whole number from 0 to 1,024"),
        ("recipe lolv1 --pairs 0", "--pairs: '0' is no whole number from 1 to"),
        ("demo --time 0", "--time: '0' is no number from 1 to"),
        ("demo --seed -1", "--seed: '-1' is no whole number from 0 to 4,294,967,295"),
    ],
)
def test_numbers_of_arguments_have_ranges(capsys, command, said):
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_help_names_what_the_commands_take():
    """The parser imports nothing, so that it has these by heart."""
    from semiisp_plugin import arguments
    from semiisp_plugin.data.layouts import DATA_SETS
    from semiisp_plugin.data.layouts.base import Request
    from semiisp_plugin.io.image_io import MAX_PIXELS

    parser = arguments.build_parser()
    assert arguments.DATA_SETS.keys() == DATA_SETS.keys()
    prepare = vars(parser.parse_args(["prepare", "own"]))
    assert {f.name: prepare[f.name] for f in fields(Request)} == vars(Request())
    assert parser.parse_args(["enhance", "x.png", "--out", "x"]).max_pixels == MAX_PIXELS


def test_installed_command_ends_without_a_traceback(workspace):
    command = Path(sys.executable).with_name("basicsr")
    done = subprocess.run([command, "train", "-opt", "none.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "basicsr: error: There is no option file none.yml."


def test_nothing_that_is_printed_moves_the_cursor(tmp_path, monkeypatch, capsys):
    """Neither names of files nor what stands in them; as if by a command that escapes nothing itself."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-opt", "\x1b[2J.yml"]) == 1
    Path("o.yml").write_text('name: "\\u202Ea"\nmodel_type: "\\u200B"\ndatasets: {}\n')
    assert main(["train", "-opt", "o.yml"]) == 1

    def shows(args) -> None:
        print("a\x1b[31m\rb\nc")
        get_root_logger().warning("%s", "a\x1b[31m\nb")
        raise ValueError("\x1b]0;title\x07")

    monkeypatch.setattr(cli, "_run", shows)
    Path("o.yml").write_text("name: a\n")
    assert main(["train", "-opt", "o.yml"]) == 1
    out, err = capsys.readouterr()
    assert out == "a\\x1b[31m\\rb\nc\n"
    assert printable(err, "\n") == err
    assert "There is no option file \\x1b[2J.yml" in err
    assert "no model '\\u200b' is registered" in err
    assert "basicsr: error: \\x1b]0;title\\x07" in err
    assert "a\\x1b[31m\nb" in err
