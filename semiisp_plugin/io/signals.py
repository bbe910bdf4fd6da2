"""Signals by which terminals, people and job schedulers tell a command to stop."""

from __future__ import annotations

import os
import signal

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
    if hasattr(signal, name)
)
"""Slurm, SGE and LSF send SIGUSR1, SIGUSR2 or SIGXCPU before the end."""


def is_heeded(number: signal.Signals) -> bool:
    """Not what is ignored, as by nohup; nor what somebody else listens to, but for Ctrl+C and SIGTERM."""
    handler = signal.getsignal(number)
    if handler is signal.SIG_IGN:
        # torchrun takes no notice of nohup: it ends its processes at a SIGHUP, and passes it on to them first.
        return number == getattr(signal, "SIGHUP", None) and "TORCHELASTIC_RUN_ID" in os.environ
    return handler is signal.SIG_DFL or number in (signal.SIGINT, signal.SIGTERM)
