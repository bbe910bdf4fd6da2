"""The progress bar of training on a terminal: speed, time left, newest losses; log lines go above it.

Where there is no terminal nothing is drawn and nothing is changed: log files and pipes get plain lines.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from semiisp_plugin.toolbox import get_dist_info

if TYPE_CHECKING:  # rich is imported when a bar is drawn
    from rich.console import Console
    from rich.progress import Progress, TaskID

_INTERVAL = 0.2
"""Least seconds between two drawings; one takes about half a millisecond."""

_MEMORY = 60.0
"""Seconds after which an iteration counts for 1/e in the speed."""

_MOST_VALUES = 4
_SPEED_WIDTH = 28
KEPT_RATIO = "pseudo/kept_ratio"


class RecentSpeed:
    """Seconds an iteration takes, the mean over the recent past.

    The first iteration is left out: it starts workers, and chooses and compiles kernels.
    """

    def __init__(self) -> None:
        self._first = True
        self._seconds = 0.0
        self._count = 0.0

    def record(self, seconds: float) -> None:
        """Take an iteration into account."""
        if self._first:
            self._first = False
            return
        fade = 2.718281828459045 ** (-seconds / _MEMORY)
        self._seconds = self._seconds * fade + seconds
        self._count = self._count * fade + 1

    @property
    def seconds_per_iteration(self) -> float | None:
        """None before the second iteration."""
        return self._seconds / self._count if self._count else None


def duration(seconds: float) -> str:
    """``1:02:03``, or ``2d 01:02:03``."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}d {h:02d}:{m:02d}:{s:02d}" if days else f"{h}:{m:02d}:{s:02d}"


def speed_text(seconds_per_iteration: float | None, unit: str = "it") -> str:
    """``2.31 it/s``; below one a second ``12.3 s/it``."""
    if seconds_per_iteration is None:
        return f"- {unit}/s"
    if seconds_per_iteration > 1:
        return f"{seconds_per_iteration:.1f} s/{unit}"
    return f"{1 / max(seconds_per_iteration, 1e-9):.{2 if seconds_per_iteration > 0.1 else 0}f} {unit}/s"


def short_values(values: Mapping[str, float]) -> str:
    """The share of kept pseudo pairs and the losses, as many as fit beside a bar."""
    chosen = {"kept": values[KEPT_RATIO]} if KEPT_RATIO in values else {}
    chosen |= {k: v for k, v in values.items() if k.startswith("l_")}
    return "  ".join(f"{name} {value:.3g}" for name, value in list(chosen.items())[:_MOST_VALUES])


class _AboveBar:
    """What stands in for a stream to the terminal while the bar is there: whole lines are printed above the bar."""

    def __init__(self, stream: Any, console: Console) -> None:
        self._stream = stream
        self._console = console
        self._line = ""
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if os.getpid() != self._pid:
            # A loader worker has no bar, and the locks it got at the fork may never be opened.
            return self._stream.write(text)
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._print(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def finish(self) -> None:
        """Print what has no end of line yet."""
        if self._line:
            self._print(self._line)
        self._line = ""

    def _print(self, line: str) -> None:
        self._console.out(line.rpartition("\r")[2], highlight=False)


class TrainingProgress:
    """Shows how far training is; a context manager.

    Args:
        total: Iterations of the whole run.
        start: Of them done before (resumed runs).
        name: Of the run.
        enabled: Whether to draw at all. Nothing is drawn either where the console is no terminal, or by other processes
            than the first.
        logger: Whose lines go above the bar, if a handler of it writes to the terminal.
        console: Where to draw; default: standard error.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        name: str = "",
        enabled: bool = True,
        logger: logging.Logger | None = None,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total = total
        self.done = start
        self.name = name
        self.speed = RecentSpeed()
        self._enabled = enabled and get_dist_info()[0] == 0
        self._logger = logger or logging.getLogger("basicsr")
        self._console = console
        self._clock = clock
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._values = ""
        self._began = self._last = self._next_drawing = 0.0
        self._redirected: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._standard: tuple[Any, Any] | None = None

    def __enter__(self) -> TrainingProgress:
        self._began = self._last = self._clock()
        if self._enabled:
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is None:
            return
        self._draw(self._clock())
        self._give_back_streams()
        self._bars.stop()
        self._bars = None

    @property
    def shown(self) -> bool:
        """Whether there is a bar."""
        return self._bars is not None

    def advance(self, values: Mapping[str, float] | None = None) -> None:
        """Count an iteration.

        Args:
            values: The newest logged values, where there are new ones.
        """
        now = self._clock()
        self.speed.record(now - self._last)
        self._last = now
        self.done += 1
        if values:
            self._values = short_values(values)
        if self._bars is not None and now >= self._next_drawing:
            self._draw(now)

    @contextmanager
    def validation(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """A second bar for as long as a validation takes; its time does not count in the speed of training.

        Args:
            name: Of the data set.
            total: Its images.

        Yields:
            To be called after each image.
        """
        began = self._clock()
        bars, task = self._bars, None
        if bars is not None:
            task = bars.add_task(name, total=total, speed="", text="")
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            now = self._clock()
            if bars is not None and task is not None and (now >= self._next_drawing or done == total):
                bars.update(task, completed=done, speed=speed_text((now - began) / done, "img"))
                self._draw(now)

        try:
            if bars is not None:
                self._draw(began)
            yield advance
        finally:
            if bars is not None and task is not None:
                bars.remove_task(task)
            self._last += self._clock() - began

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        # Not Console(stderr=True), which would follow sys.stderr when that is replaced.
        console = self._console or Console(file=sys.stderr)
        if not console.is_terminal or console.is_dumb_terminal:
            return

        def text(template: str, **column: Any) -> TextColumn:
            return TextColumn(template, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", **column))

        # What a narrow terminal has no room for is cut off the values at the end.
        self._bars = Progress(
            text("{task.description}", max_width=16),
            BarColumn(bar_width=20 if console.width >= 100 else 8),
            text("{task.completed:.0f}/{task.total:.0f}", min_width=2 * len(str(self.total)) + 1),
            text("{task.fields[speed]}", min_width=_SPEED_WIDTH),
            text("{task.fields[text]}", ratio=1),
            expand=True,
            console=console,
            # Drawn between two iterations, not by a thread: workers may be forked at any time, and locks with them.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bars.add_task(self.name, total=self.total, completed=self.done, speed="", text="")
        self._take_streams(console)
        self._bars.start()

    def _draw(self, now: float) -> None:
        if self._bars is None or self._task is None:
            return
        one = self.speed.seconds_per_iteration
        left = "-:--:--" if one is None else duration((self.total - self.done) * one)
        speed = f"{speed_text(one)}  {duration(now - self._began)}<{left}"
        self._bars.update(self._task, completed=self.done, speed=speed, text=self._values)
        self._bars.refresh()
        self._next_drawing = now + _INTERVAL

    def _take_streams(self, console: Console) -> None:
        def above(stream: Any) -> Any:
            return _AboveBar(stream, console) if stream is console.file or _is_terminal(stream) else stream

        for handler in self._logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                stand_in = above(handler.stream)
                if stand_in is not handler.stream:
                    self._redirected.append((handler, handler.stream))
                    handler.setStream(stand_in)
        # Warnings, and what data sets and networks print.
        self._standard = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = above(sys.stdout), above(sys.stderr)

    def _give_back_streams(self) -> None:
        for handler, stream in self._redirected:
            if isinstance(handler.stream, _AboveBar):
                handler.stream.finish()
                handler.setStream(stream)
        self._redirected.clear()
        for stand_in in (sys.stdout, sys.stderr):
            if isinstance(stand_in, _AboveBar):
                stand_in.finish()
        if self._standard is not None:
            sys.stdout, sys.stderr = self._standard
        self._standard = None


def _is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # none, or closed
        return False
