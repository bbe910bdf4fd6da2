"""``--dry-run``: what it tells, and that it leaves everything as it was."""

import io
import itertools
import logging
import re
from pathlib import Path

import pytest
import torch

from semiisp_plugin.options import Source, complete
from semiisp_plugin.toolbox import initialized_logger
from semiisp_plugin.training import dry_run as dry_run_module
from semiisp_plugin.training import train, train_pipeline
from semiisp_plugin.training.dry_run import described, dry_run
from semiisp_plugin.training.run import Run
from semiisp_plugin.training.run_folder import run_log


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
    def make(total: int = 40, **more) -> dict:
        made = option_files.base("trial", "SupervisedModel", total)
        made["logger"].update(keep_best="psnr", print_freq=7)
        made["train"].update(more)
        return made

    return make


def finished(options: dict) -> dict:
    filled = complete(options, Source("test"), root_path=str(Path.cwd()), is_train=True)
    return filled | {"dist": False, "rank": 0, "world_size": 1}


def said(run: Run, **more) -> str:
    out = io.StringIO()
    dry_run(run, out, **more)
    text = out.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    return text


def files() -> dict[str, tuple[int, int]]:
    """All below the working directory, with sizes and times."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(Path().rglob("*"))}


def test_report_of_a_run(options, capsys):
    opt = finished(options())
    with run_log(opt, quiet=True):  # as the command does
        run = Run(opt)
        text = said(run)
    assert files() == {}
    assert text.startswith("Dry run of 'trial' (SupervisedModel on cpu): nothing is written.\n")
    assert "passes over the sources in all: real 13.3." in text  # 40 * 2 / 6
    for row in (r"lq +2x3x32x40 +float32 +\d", r"output +2x3x32x40 +float32", r"is_pseudo +2 +bool +0 ... 0"):
        assert re.search(row, text), row
    count = sum(p.numel() for p in run.model.net_g.parameters())
    assert f"net_g: SepLUT, {count:,d} parameters\n" in text
    assert float(re.search(r"\n  l_pix (\S+)\n", text)[1]) > 0
    assert "s an iteration, mean of " in text
    assert re.search(r"Validation on 'test', the first of 2 images\n(.*\n){2} +lq +1x3x48x64", text), text
    assert "20 validations at the speed of one image: " in text
    assert capsys.readouterr().err == ""


def test_metrics_are_those_of_the_first_image(options):
    """Of the weights after the few iterations."""
    run = Run(finished(options()))
    found = float(re.search(r"  psnr ([\d.]+), ", said(run))[1])
    (loader,) = run.val_loaders
    first = next(iter(loader))
    with torch.no_grad():
        output = run.model.net_g.eval()(first["lq"]).clamp(0, 1).mul(255).round()
    error = (output.double() - (first["gt"] * 255).round().double()).square().mean()
    assert found == pytest.approx(10 * torch.log10(255**2 / error).item(), abs=1e-3)


def test_run_that_is_there_is_left_alone(options):
    train(finished(options(total=2)), quiet=True)
    before = files()
    assert any(name.endswith("2.state") for name in before)
    said(Run(finished(options())))
    text = said(Run(finished(options()), auto_resume=True))
    assert "38 iterations at this speed" in text
    text = said(Run(finished(options(total=2)), auto_resume=True))
    assert "there is nothing to train" in text
    assert "Time\n  not measured" in text
    assert files() == before


def test_command(option_files, options, capsys):
    file = option_files.write("trial", options(warmup_iter=5))
    before = files()
    assert train_pipeline(str(Path.cwd()), ["-opt", file, "--dry-run"]) is None
    assert files() == before
    assert capsys.readouterr().out.startswith("Dry run of 'trial' (SupervisedModel on cpu): nothing is written.\n")


def test_times_are_told_apart(options):
    ticks = itertools.count()
    # Each look at the clock takes a second: begin, before and after waiting, end.
    text = said(Run(finished(options())), clock=lambda: float(next(ticks)))
    assert "3 s an iteration, mean of 1; 33% of it waiting for data" in text  # 3 s are the limit
    assert "num_worker_per_gpu (more workers)" in text
    assert "40 iterations at this speed: 02:00" in text
    assert "20 validations at the speed of one image: 00:40" in text


def test_iterations_of_several_batches(options):
    text = said(Run(finished(options(accumulate=3))))
    assert "passes over the sources in all: real 40." in text
    assert re.search("lq +2x3x32x40", text)


def test_warnings_are_shown_and_other_processes_print_nothing(options, capsys, monkeypatch):
    train_on = dry_run_module._train

    def warned(*arguments):
        logging.getLogger("basicsr").info("chatter")
        logging.getLogger("basicsr").warning("while it ran")
        return train_on(*arguments)

    monkeypatch.setattr(dry_run_module, "_train", warned)
    for rank in (0, 1):
        with run_log({"rank": rank}, quiet=True):
            run = Run(finished(options()))
            logging.getLogger("basicsr").warning("while it was built")
            run.opt["rank"] = rank
            assert bool(said(run)) == (rank == 0)
        err = capsys.readouterr().err
        said_so = [line.split(" ", 2)[2] for line in err.splitlines()]
        assert said_so == ([] if rank else ["WARNING: while it was built", "WARNING: while it ran"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor([[0.25, 0.75]]), ["1x2", "float32", "0.25 ... 0.75, mean 0.5"]),
        (torch.tensor([1.0, float("nan"), float("inf")]), ["3", "float32", "2 values are NaN or infinite"]),
        (torch.tensor([True, False]), ["2", "bool", "0 ... 1, mean 0.5"]),
    ],
)
def test_what_a_batch_holds(value, expected):
    assert list(described(value)) == expected
