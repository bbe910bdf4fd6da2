"""The progress bar of training on a terminal: speed, time left, newest losses; log lines go above it.

Where there is no terminal nothing is drawn: log files and pipes get plain lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from tqdm.contrib.logging import logging_redirect_tqdm

from semiisp_plugin.models.validation import ProgressBar

_MOST_VALUES = 4
_SMOOTHING = 0.05  # of the speed: the mean over some 20 drawings
KEPT_RATIO = "pseudo/kept_ratio"


def short_values(values: Mapping[str, float]) -> str:
    """The share of kept pseudo pairs and the losses, as many as fit beside a bar."""
    chosen = {"kept": values[KEPT_RATIO]} if KEPT_RATIO in values else {}
    chosen |= {k: v for k, v in values.items() if k.startswith("l_")}
    return "  ".join(f"{name} {value:.3g}" for name, value in list(chosen.items())[:_MOST_VALUES])


@contextmanager
def training_bar(total: int, start: int, name: str, enabled: bool, logger: logging.Logger) -> Iterator[ProgressBar]:
    """A bar of a run's iterations.

    Args:
        total: Iterations of the whole run.
        start: Of them done before (resumed runs).
        name: Of the run.
        enabled: Whether to draw at all; where standard error is no terminal nothing is drawn either.
        logger: Whose lines go above the bar, if a handler of it writes to the terminal.
    """
    with (
        ProgressBar(enabled, total=total, initial=start, desc=name, unit="it", smoothing=_SMOOTHING) as bar,
        nullcontext() if bar.disable else logging_redirect_tqdm([logger], tqdm_class=ProgressBar),
    ):
        yield bar
