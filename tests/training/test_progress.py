"""The progress bar: what it shows on a terminal, and that nothing of it reaches files and pipes."""

import io
import logging
import sys
import time

import pytest

from semiisp_plugin.models.validation import ProgressBar
from semiisp_plugin.training.progress import short_values, training_bar

VALUES = {"l_pix": 0.012345, "pseudo/threshold": 3.0, "pseudo/kept_ratio": 0.8125, "l_ssim": 1.5e-5}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> Terminal:
    """A terminal that remembers what was written to it."""
    return Terminal()


@pytest.fixture
def progress(terminal, monkeypatch):
    """Makes what is tested, with a terminal as standard error; it draws each time."""
    monkeypatch.setattr("semiisp_plugin.models.validation._INTERVAL", 0)

    def make(*arguments):
        monkeypatch.setattr(sys, "stderr", terminal)
        return training_bar(*arguments)

    return make


@pytest.fixture
def logger(terminal) -> logging.Logger:
    logger = logging.Logger("progress")
    logger.addHandler(logging.StreamHandler(terminal))
    return logger


def test_bar_shows_name_counts_and_values(terminal, progress, logger):
    with progress(100, 10, "semi [v2]", True, logger) as bar:
        for _ in range(10):
            bar.set_postfix_str(short_values(VALUES), refresh=False)
            bar.update()
    last = terminal.getvalue().rpartition("\r")[2]
    assert "semi [v2]:" in last
    assert "20/100" in last
    assert "it/s" in last
    assert "kept 0.812  l_pix 0.0123  l_ssim 1.5e-05" in last
    assert "threshold" not in last


def test_validation_is_a_bar_of_its_own(terminal, progress, logger):
    with progress(100, 0, "run", True, logger) as bar:
        bar.update()
        with ProgressBar(True, total=20, desc="val20", unit="img", leave=False) as images:
            images.update()
        assert "val20" in terminal.getvalue()
        assert "1/20" in terminal.getvalue()
        bar.unpause()
        bar.update()
    assert "2/100" in terminal.getvalue().rpartition("\r")[2]


def test_log_lines_stand_above_the_bar_and_the_log_file_stays_plain(terminal, progress, logger, tmp_path):
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    with progress(10, 0, "run", True, logger) as bar:
        bar.update()
        logger.warning("a line, 100%| [bold]")
        bar.update()
    logger.warning("after")
    text = terminal.getvalue()
    assert "\ra line, 100%| [bold]\n" in text
    assert text.index("a line") < text.rindex("run:")
    assert text.endswith("\nafter\n")
    assert (tmp_path / "log").read_text() == "a line, 100%| [bold]\nafter\n"


@pytest.mark.parametrize("why", ["no terminal", "disabled"])
def test_nothing_is_drawn(why, monkeypatch, terminal):
    stream = io.StringIO() if why == "no terminal" else terminal
    monkeypatch.setattr(sys, "stderr", stream)
    logger = logging.Logger("plain")
    logger.addHandler(logging.StreamHandler(stream))
    with training_bar(3, 0, "run", why != "disabled", logger) as bar:
        assert bar.disable
        bar.set_postfix_str(short_values({"l_pix": 1.0}), refresh=False)
        bar.update()
        logger.warning("a line")
        bar.unpause()
    assert stream.getvalue() == "a line\n"


def test_drawing_is_cheap(terminal, logger, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    with training_bar(100_000, 0, "run", True, logger) as bar:
        start = time.perf_counter()
        for _ in range(5000):
            bar.update()
        assert (time.perf_counter() - start) / 5000 < 50e-6


def test_values():
    assert short_values({"other": 1.0}) == ""
    assert short_values({f"l_{i}": float(i) for i in range(9)}) == "l_0 0  l_1 1  l_2 2  l_3 3"
