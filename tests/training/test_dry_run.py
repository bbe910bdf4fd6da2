"""``--dry-run``: what it tells, and that it leaves everything as it was."""

import io
import itertools
import logging
from pathlib import Path

import pytest
import torch

from semiisp_plugin.options import Source, complete
from semiisp_plugin.toolbox import initialized_logger
from semiisp_plugin.training import train, train_pipeline
from semiisp_plugin.training import dry_run as dry_run_module
from semiisp_plugin.training.dry_run import (
    MOST_ITERATIONS,
    DryRun,
    Network,
    Validated,
    dry_run,
    entry,
    measure,
    places_of,
    report,
)
from semiisp_plugin.training.run import Run


@pytest.fixture(autouse=True)
def _logger():
    """BasicSR's logger as a process finds it when it begins."""
    logger = logging.getLogger("basicsr")
    before = list(logger.handlers), logger.level, logger.propagate
    initialized_logger.pop("basicsr", None)
    yield
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    logger.handlers, logger.level, logger.propagate = before
    initialized_logger.pop("basicsr", None)


@pytest.fixture
def options(option_files):
    def make(kind: str = "SupervisedModel", total: int = 40, **more) -> dict:
        made = option_files.base("trial", kind, total)
        made["logger"].update(keep_best="psnr", print_freq=7)
        if kind == "SRModel":
            for part in made["datasets"].values():
                part.update(type="PairedImageDataset", num_worker_per_gpu=0, use_rot=False)
            made["datasets"]["train"]["gt_size"] = 32
            made["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
            made["train"]["optim_g"]["type"] = "Adam"
            made["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [100]}
            made["train"]["pixel_opt"] = {"type": "L1Loss"}
            made["val"]["metrics"].pop("psnr_gt_mean")
            made["logger"]["keep_best"] = None
        made["train"].update(more)
        return made

    return make


def finished(options: dict) -> dict:
    filled = complete(options, Source("test"), root_path=str(Path.cwd()), is_train=True)
    return filled | {"dist": False, "rank": 0, "world_size": 1}


def files() -> dict[str, tuple[int, int]]:
    """All below the working directory, with sizes and times."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(Path().rglob("*"))}


@pytest.mark.parametrize("kind", ["SupervisedModel", "SRModel"])
def test_report_of_a_run(options, kind, capsys):
    run = Run(finished(options(kind)))
    before = files()
    out = io.StringIO()
    measured = dry_run(run, out)
    assert files() == before == {}
    text = out.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)

    assert [e.key for e in measured.batch[:2]] == ["lq", "gt"]
    side = "32x40" if kind == "SupervisedModel" else "32x32"
    assert measured.batch[0].shape == measured.output.shape == f"2x3x{side}"
    assert measured.batch[0].kind == "float32"
    (net,) = measured.networks
    assert net.kind == run.opt["network_g"]["type"]
    assert net.parameters == sum(p.numel() for p in run.model.net_g.parameters())
    assert measured.passes["real"] == pytest.approx(40 * 2 / 6)
    assert set(measured.first_log) == set(measured.last_log) >= {"l_pix"}
    assert measured.first_log["l_pix"] != measured.last_log["l_pix"]
    assert 1 <= len(measured.computed) <= MOST_ITERATIONS
    (validated,) = measured.validations
    assert validated.images == 2
    assert [e.shape for e in validated.entries[:2]] == ["1x3x48x64", "1x3x48x64"]
    assert validated.metrics["psnr"] > 1
    assert measured.times_validated == 20
    for part in (f"net_g: {net.kind}", f"{net.parameters:,d} parameters", "l_pix", "s an iteration", "would be made"):
        assert part in text
    assert f"psnr {validated.metrics['psnr']:.4f}" in text
    assert capsys.readouterr().err == ""


def test_metrics_are_those_of_the_first_image(options):
    """Of the weights after the few iterations."""
    run = Run(finished(options()))
    (validated,) = measure(run).validations
    run.model.opt["datasets"]["val"]["batch_size_per_gpu"] = 1
    (loader,) = run.val_loaders
    first = next(iter(loader))
    with torch.no_grad():
        output = run.model.net_g.eval()(first["lq"]).clamp(0, 1).mul(255).round()
    error = (output.double() - (first["gt"] * 255).round().double()).square().mean()
    assert validated.metrics["psnr"] == pytest.approx(10 * torch.log10(255**2 / error).item(), abs=1e-3)


def test_run_that_is_there_is_left_alone(options, capsys):
    train(finished(options(total=2)), quiet=True)
    before = files()
    assert any(name.endswith("2.state") for name in before)
    out = io.StringIO()
    dry_run(Run(finished(options())), out)
    assert files() == before
    text = out.getvalue()
    assert "it would be renamed to trial_archived_<time>" in text
    assert "with --auto_resume the run would go on from iteration 2 instead" in text

    capsys.readouterr()
    out = io.StringIO()
    measured = dry_run(Run(finished(options()), auto_resume=True), out)
    assert files() == before
    assert measured.start_iter == 2
    assert "the run would go on in it from iteration 2" in out.getvalue()
    assert "renamed" not in out.getvalue()

    out = io.StringIO()
    measured = dry_run(Run(finished(options(total=2)), auto_resume=True), out)
    assert files() == before
    assert "there is nothing to train" in out.getvalue()


def test_command(option_files, options, capsys):
    file = option_files.write("trial", options(warmup_iter=5))
    before = files()
    assert train_pipeline(str(Path.cwd()), ["-opt", file, "--dry-run"]) is None
    assert files() == before
    assert capsys.readouterr().out.startswith("Dry run of 'trial' (SupervisedModel on cpu): nothing is written.\n")


def test_times_are_told_apart(options):
    ticks = itertools.count()
    run = Run(finished(options()))
    # Each look at the clock takes a second: begin, before and after waiting, end.
    measured = measure(run, clock=lambda: float(next(ticks)))
    assert measured.until_first_batch == 1
    assert measured.first_iteration == 2
    assert (measured.waited, measured.computed) == ([1.0], [2.0])  # 3 s are the limit
    assert [v.seconds for v in measured.validations] == [1.0]
    text = report(measured)
    assert "3 s an iteration, mean of 1; 33% of it waiting for data" in text
    assert "40 iterations at this speed: 0:02:00" in text
    assert "20 validations at the speed of one image: 0:00:40" in text


def test_iterations_of_several_batches(options):
    run = Run(finished(options(accumulate=3)))
    measured = measure(run)
    assert measured.passes["real"] == pytest.approx(40 * 3 * 2 / 6)
    assert measured.batch[0].shape == "2x3x32x40"


def test_warnings_are_shown(options, capsys, monkeypatch):
    run = Run(finished(options()))
    logging.getLogger("basicsr").warning("while it was built")
    train_on = dry_run_module._train

    def warned(*arguments) -> None:
        logging.getLogger("basicsr").info("chatter")
        logging.getLogger("basicsr").warning("while it ran")
        train_on(*arguments)

    monkeypatch.setattr(dry_run_module, "_train", warned)
    dry_run(run, io.StringIO())
    assert capsys.readouterr().err == "WARNING: while it was built\nWARNING: while it ran\n"


def test_other_processes_print_nothing(options):
    run = Run(finished(options()) | {"rank": 1, "world_size": 2})
    out = io.StringIO()
    run.opt["rank"] = 1
    assert isinstance(dry_run(run, out), DryRun)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor([[0.25, 0.75]]), ("1x2", "float32", "0.25 ... 0.75, mean 0.5")),
        (torch.tensor([1.0, float("nan"), float("inf")]), ("3", "float32", "2 values are NaN or infinite")),
        (torch.tensor([True, False, True]), ("3", "bool", "2 of 3 true")),
        (torch.tensor(7), ("scalar", "int64", "7 ... 7")),
        (torch.zeros(0, 3), ("0x3", "float32", "empty")),
        (["a", "b", "c"], ("3", "str", "a, b, ...")),
        ("alone", ("1", "str", "alone")),
        ([], ("0", "-", "")),
    ],
)
def test_entries(value, expected):
    described = entry("x", value)
    assert (described.key, described.shape, described.kind, described.values) == ("x", *expected)


def blank(**more) -> DryRun:
    about = {"name": "n", "model": "SRModel", "device": "cpu", "start_iter": 0, "total": 10}
    return DryRun(**about, about_data="Training data: 3 images.", passes={"real": 2.0}, networks=[], **more)


def test_report_says_what_was_not_measured():
    clips = Validated("clips", 4, [entry("lq", torch.zeros(1, 7, 3, 4, 4))], {}, 0.0, "clips are validated whole")
    text = report(blank(validations=[clips], places=["experiments/n: would be made"]))
    assert "Time\n  not measured" in text
    assert "not validated: clips are validated whole" in text
    assert "none of the name net_*" in text


def test_report_warns_that_reading_ahead_hides_slow_workers():
    batch = [entry("lq", torch.zeros(1, 3, 4, 4))]
    times = {"computed": [1.0, 1.0], "waited": [0.0, 0.0], "batch": batch}
    assert "read up to 8 batches ahead" in report(blank(read_ahead=8, **times))
    assert "ahead" not in report(blank(read_ahead=0, **times))
    assert "num_worker_per_gpu" in report(blank(read_ahead=8, **{**times, "waited": [1.0, 0.0]}))


def test_report_tells_frozen_weights():
    run = blank()
    run.networks = [Network("net_g", "NAFNet", 1234567, 1234567), Network("net_b", "Bank", 10, 0)]
    assert "net_g: NAFNet, 1,234,567 parameters\n  net_b: Bank, 10 parameters, 0 of them trained\n" in report(run)


def test_places(tmp_path):
    opt = {"name": "x", "root_path": str(tmp_path), "logger": {"use_tb_logger": True}}
    opt["path"] = {"experiments_root": str(tmp_path / "experiments/x")}
    assert [p.partition(": ")[2] for p in places_of(opt, None)] == ["would be made"] * 2
    (tmp_path / "experiments/x/training_states").mkdir(parents=True)
    for name in ("90.state", "100.state", "latest.state", "7.txt"):
        (tmp_path / "experiments/x/training_states" / name).touch()
    first, second, third = places_of(opt, None)
    assert first.endswith("x_archived_<time>")
    assert second.endswith("tb_logger/x: would be made")
    assert "iteration 100 " in third
    assert len(places_of({**opt, "name": "x_debug"}, 5)) == 1
