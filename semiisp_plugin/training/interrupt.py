"""Ctrl+C and SIGTERM: the iteration under way is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

SIGNALS = ("SIGINT", "SIGTERM")


class Interrupted(KeyboardInterrupt):
    """The run was told to stop, and has saved.

    Attributes:
        signal: Number of the signal.
        iteration: The iteration that was saved.
    """

    def __init__(self, signal_number: int, iteration: int) -> None:
        super().__init__(f"{signal.Signals(signal_number).name} after iteration {iteration:,d}, which is saved")
        self.signal = signal_number
        self.iteration = iteration


class StopWaiting(BaseException):
    """Raised where the loop waits for data, when the run is told to stop: what it waits for may never come."""


class Interrupt:
    """Notices SIGINT and SIGTERM, for the training loop to ask between two iterations; a second one stops at once.

    Job schedulers send SIGTERM some time before they kill. Signals can be handled in the main thread only; elsewhere
    they stop the process without saving.

    Attributes:
        received: The signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._waiting = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        if self._waiting:
            raise StopWaiting

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what may take for ever and leaves nothing half done: a signal ends it.

        Raises:
            StopWaiting: A signal came.
        """
        self._waiting = True
        try:
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
