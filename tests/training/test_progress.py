"""The progress bar: what it shows on a terminal, and that nothing of it reaches files and pipes."""

import io
import logging
import os
import re
import sys
import time

import pytest
from rich.console import Console

from semiisp_plugin.training.progress import RecentSpeed, TrainingProgress, duration, short_values, speed_text

ESCAPE = "\x1b"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal() -> Console:
    """A terminal that remembers what was written to it."""
    return Console(file=io.StringIO(), force_terminal=True, width=110, legacy_windows=False, color_system=None)


@pytest.fixture
def logger(terminal):
    logger = logging.Logger("progress")
    logger.addHandler(logging.StreamHandler(terminal.file))
    return logger


def written(console: Console) -> str:
    return console.file.getvalue()


def last_drawing(console: Console) -> str:
    """What is in the last line, without control characters."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written(console))
    return plain.rstrip("\n").split("\n")[-1].rpartition("\r")[2]


def test_bar_shows_name_counts_speed_times_and_values(terminal, logger, clock):
    with TrainingProgress(100, 10, "semi [v2]", True, logger, console=terminal, clock=clock) as bar:
        assert bar.shown
        clock.now += 50  # the first iteration starts workers and chooses kernels
        bar.advance()
        for _ in range(9):
            clock.now += 0.5
            bar.advance({"l_pix": 0.012345, "pseudo/threshold": 3.0, "pseudo/kept_ratio": 0.8125, "l_ssim": 1.5e-5})
    text = last_drawing(terminal)
    assert "semi [v2]" in text
    assert "20/100" in text
    assert "2.00 it/s" in text
    assert "0:00:54<0:00:40" in text
    assert "kept 0.812  l_pix 0.0123  l_ssim 1.5e-05" in text
    assert "threshold" not in text


def test_validation_is_a_bar_below_and_does_not_count_in_the_speed(terminal, logger, clock):
    with TrainingProgress(100, 0, "run", True, logger, console=terminal, clock=clock) as bar:
        for _ in range(3):
            clock.now += 0.25
            bar.advance()
        clock.now += 0.1
        with bar.validation("val20", 20) as advance:
            for _ in range(7):
                clock.now += 10
                advance()
            assert "val20" in last_drawing(terminal)
            assert "7/20" in last_drawing(terminal)
            assert "10.0 s/img" in last_drawing(terminal)
        clock.now += 0.15
        bar.advance()
        assert bar.speed.seconds_per_iteration == pytest.approx(0.25, rel=1e-6)
    assert "val20" not in last_drawing(terminal)
    assert "4/100" in last_drawing(terminal)
    assert "0:01:11<0:00:24" in last_drawing(terminal)


def test_validation_that_fails_leaves_no_bar_behind(terminal, logger):
    with TrainingProgress(4, 0, "run", True, logger, console=terminal) as bar:
        with pytest.raises(ValueError, match="broken"), bar.validation("val20", 20):
            raise ValueError("broken")
        bar.advance()
    assert "val20" not in last_drawing(terminal)


def test_log_lines_stand_above_the_bar_as_they_were_written(terminal, logger):
    long = "a line that is longer than the terminal is wide, " * 4 + "[bold]no markup[/bold] 1.25"
    with TrainingProgress(10, 0, "run", True, logger, console=terminal) as bar:
        bar.advance()
        logger.warning(long)
        bar.advance()
    logger.warning("after")
    text = written(terminal)
    assert f"{long}\n" in text
    assert text.index(long) < text.rindex("run ")
    assert text.endswith("hafter\n")  # right after the code that shows the cursor again


def test_prints_and_warnings_go_above_the_bar_where_they_go_to_the_terminal(terminal, logger, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, err = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)  # redirected to a file
    with TrainingProgress(10, 0, "run", True, logger, console=terminal):
        print("to the terminal")
        print("\r 10%", "\r100%", sep="", end="")
        print("to the file", file=sys.stderr)
        assert "to the terminal\n" in written(terminal)
    assert "100%\n" in written(terminal)
    assert " 10%" not in written(terminal)
    assert out.getvalue() == ""
    assert err.getvalue() == "to the file\n"
    assert (sys.stdout, sys.stderr) == (out, err)


def test_standard_error_is_where_it_draws(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    logger = logging.Logger("standard")
    logger.addHandler(logging.StreamHandler())
    with TrainingProgress(10, 0, "run", True, logger) as bar:
        bar.advance()
        logger.warning("a line")
        print("a warning", file=sys.stderr)
    for part in ("run", "1/10", "a line\n", "a warning\n", ESCAPE):
        assert part in sys.stderr.getvalue()


@pytest.mark.parametrize("why", ["no terminal", "dumb terminal", "disabled"])
def test_files_and_pipes_get_plain_lines(tmp_path, why, monkeypatch):
    if why == "dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
    pipe = io.StringIO()
    console = Console(file=pipe, force_terminal=why != "no terminal", width=110)
    logger = logging.Logger("plain")
    logger.addHandler(logging.StreamHandler(pipe))
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    streams = sys.stdout, sys.stderr
    with TrainingProgress(3, 0, "run", why != "disabled", logger, console=console) as bar:
        assert not bar.shown
        assert (sys.stdout, sys.stderr) == streams
        bar.advance({"l_pix": 1.0})
        logger.warning("a line")
        with bar.validation("val", 2) as advance:
            advance()
    assert pipe.getvalue() == (tmp_path / "log").read_text() == "a line\n"


def test_the_log_file_stays_plain_beside_a_bar(tmp_path, terminal, logger):
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    with TrainingProgress(3, 0, "run", True, logger, console=terminal) as bar:
        bar.advance()
        logger.warning("a line")
    assert ESCAPE in written(terminal)
    assert (tmp_path / "log").read_text() == "a line\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_does_not_wait_for_the_terminal(logger, terminal, tmp_path, monkeypatch):
    """Its copy of the console may have been locked at the fork, for ever."""
    with open(tmp_path / "terminal", "w+") as stream:
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        with TrainingProgress(3, 0, "run", True, logger, console=terminal), terminal._lock:
            pid = os.fork()
            if pid == 0:
                try:
                    print("from a worker", file=sys.stderr, flush=True)
                finally:
                    os._exit(0)
            for _ in range(500):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    break
                time.sleep(0.01)
            else:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                pytest.fail("the worker hangs")
        stream.seek(0)
        assert stream.read() == "from a worker\n"


def test_only_the_first_process_shows_it(terminal, monkeypatch):
    monkeypatch.setattr("semiisp_plugin.training.progress.get_dist_info", lambda: (1, 2))
    with TrainingProgress(3, 0, "run", True, console=terminal) as bar:
        assert not bar.shown
    assert written(terminal) == ""


def test_drawing_is_rare_and_cheap(terminal, logger, clock):
    with TrainingProgress(100_000, 0, "run", True, logger, console=terminal, clock=clock) as bar:
        before = written(terminal).count("run ")
        for _ in range(1000):
            clock.now += 0.01
            bar.advance()
        assert 10 <= written(terminal).count("run ") - before <= 100  # 10 s
    with TrainingProgress(100_000, 0, "run", True, logger, console=terminal) as bar:
        start = time.perf_counter()
        for _ in range(5000):
            bar.advance()
        assert (time.perf_counter() - start) / 5000 < 50e-6


def test_narrow_terminal_keeps_one_line(logger, clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=30, legacy_windows=False)
    with TrainingProgress(1000, 0, "a_run_with_a_long_name", True, logger, console=console, clock=clock) as bar:
        bar.advance({"l_pix": 0.5})
    assert len(last_drawing(console)) <= 30


def test_speed_forgets_what_is_long_ago():
    speed = RecentSpeed()
    assert speed.seconds_per_iteration is None
    for seconds in (500.0, *[0.1] * 10, *[1.0] * 600):
        speed.record(seconds)
    assert speed.seconds_per_iteration == pytest.approx(1.0, abs=1e-3)


def test_texts():
    assert duration(0) == "0:00:00"
    assert duration(3723.9) == "1:02:03"
    assert duration(2 * 86400 + 3723) == "2d 01:02:03"
    assert speed_text(None) == "- it/s"
    assert speed_text(12.34) == "12.3 s/it"
    assert speed_text(0.5) == "2.00 it/s"
    assert speed_text(0.004) == "250 it/s"
    assert short_values({"other": 1.0}) == ""
    assert short_values({f"l_{i}": float(i) for i in range(9)}) == "l_0 0  l_1 1  l_2 2  l_3 3"
