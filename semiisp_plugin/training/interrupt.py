"""Signals by which a run is told to stop: the iteration under way is finished and saved first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from semiisp_plugin.io.signals import STOP_SIGNALS, is_heeded


class Interrupted(KeyboardInterrupt):
    """The run was told to stop, and has saved.

    Attributes:
        signal: Number of the signal.
        iteration: The iteration that was saved; None before the first one, when there is nothing to save.
    """

    def __init__(self, signal_number: int, iteration: int | None) -> None:
        when = (
            "before an iteration was done" if iteration is None else f"after iteration {iteration:,d}, which is saved"
        )
        super().__init__(f"{signal.Signals(signal_number).name} {when}")
        self.signal = signal_number
        self.iteration = iteration

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, int | None]]:
        return Interrupted, (self.signal, self.iteration)  # exceptions are put together again from their message


class StopWaiting(BaseException):
    """Raised where the loop waits for data, when the run is told to stop: what it waits for may never come."""


class Interrupt:
    """Notices `STOP_SIGNALS`, for the training loop to ask between two iterations.

    A second Ctrl+C, a second later, stops at once. Not a second SIGTERM: torchrun repeats to its processes what they
    have got themselves, and schedulers end what lasts with SIGKILL. Signals can be handled in the main thread only;
    elsewhere they stop the process without saving.

    Attributes:
        received: The signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._since = 0.0
        self._waiting = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if is_heeded(number):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            if self._waiting:
                raise StopWaiting
        elif number == signal.SIGINT and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what may take for ever and leaves nothing half done: a signal ends it.

        Raises:
            StopWaiting: A signal came.
        """
        self._waiting = True
        try:
            if self.received is not None:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def in_any_process(self, opt: dict[str, Any], device: torch.device) -> int | None:
        """The signal that this process or another one has received; the same answer in all of them."""
        if opt.get("dist"):
            received = torch.tensor(self.received or 0, device=device)
            torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
            return int(received) or None
        return self.received
