"""What a measurement was taken on, in one paragraph for the report."""

from __future__ import annotations

import os
import platform


def load_average() -> str:
    """Processes that ran or waited to run in the last minute; more than there are cores means waiting."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def describe() -> str:
    # Only now: it brings in the whole plugin, which a measurement of memory must not have loaded.
    from semiisp_plugin.experiments.benchmark import machine

    is_on = machine()
    gpu = f"; GPU: {is_on['gpu']}" if is_on["gpu"] else ""
    return (
        f"CPU: {is_on['processor']}, {is_on['cores']} cores{gpu}; {platform.system()}, Python {is_on['python']}, "
        f"torch {is_on['torch']}; load average {load_average()}"
    )
