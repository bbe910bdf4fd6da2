"""The progress bar of training on a terminal: speed, time left, newest losses; log lines go above it.

Where there is no terminal nothing is drawn: log files and pipes get plain lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from semiisp_plugin.toolbox import get_dist_info

_MOST_VALUES = 4
_INTERVAL = 0.2  # least seconds between two drawings
_SMOOTHING = 0.05  # of the speed: the mean over some 20 drawings
KEPT_RATIO = "pseudo/kept_ratio"


class _Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs alone
    """Drawn between two iterations, never by a thread: workers may be forked at any time, and its locks with them."""

    monitor_interval = 0


def short_values(values: Mapping[str, float]) -> str:
    """The share of kept pseudo pairs and the losses, as many as fit beside a bar."""
    chosen = {"kept": values[KEPT_RATIO]} if KEPT_RATIO in values else {}
    chosen |= {k: v for k, v in values.items() if k.startswith("l_")}
    return "  ".join(f"{name} {value:.3g}" for name, value in list(chosen.items())[:_MOST_VALUES])


class TrainingProgress:
    """Shows how far training is; a context manager.

    Args:
        total: Iterations of the whole run; 0 for none, but validations.
        start: Of them done before (resumed runs).
        name: Of the run.
        enabled: Whether to draw at all. Nothing is drawn either where standard error is no terminal, or by other
            processes than the first.
        logger: Whose lines go above the bar, if a handler of it writes to the terminal.
    """

    def __init__(self, total: int, start: int, name: str, enabled: bool, logger: logging.Logger) -> None:
        self.shown = enabled and get_dist_info()[0] == 0 and sys.stderr.isatty()
        self._logger = logger
        self._arguments: dict[str, Any] = {"total": total, "initial": start, "desc": name, "smoothing": _SMOOTHING}
        self._open = ExitStack()
        self._bar: _Bar | None = None

    def __enter__(self) -> TrainingProgress:
        if self.shown and self._arguments["total"]:
            self._bar = self._open.enter_context(self._new_bar(unit="it", **self._arguments))
        if self.shown:
            self._open.enter_context(logging_redirect_tqdm([self._logger], tqdm_class=_Bar))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()
        self._bar = None

    def _new_bar(self, **arguments: Any) -> _Bar:
        return _Bar(file=sys.stderr, dynamic_ncols=True, mininterval=_INTERVAL, **arguments)

    def advance(self, values: Mapping[str, float] | None = None) -> None:
        """Count an iteration.

        Args:
            values: The newest logged values, where there are new ones.
        """
        if self._bar is not None:
            if values:
                self._bar.set_postfix_str(short_values(values), refresh=False)
            self._bar.update()

    @contextmanager
    def validation(self, name: str, total: int) -> Iterator[Callable[[], Any]]:
        """A second bar for as long as a validation takes; its time does not count in the speed of training.

        Args:
            name: Of the data set.
            total: Its images.

        Yields:
            To be called after each image.
        """
        if not self.shown:
            yield lambda: None
            return
        if self._bar is not None:
            self._bar.refresh()
        try:
            with self._new_bar(total=total, desc=name, unit="img", leave=False) as images:
                yield images.update
        finally:
            if self._bar is not None:
                self._bar.unpause()
