"""Functions that Numba compiles for the CPU at hand, where it is installed and can.

Why there are any: without them the builder's steps for a photograph (decoding and PNG included, COCO, processor time,
one AMD EPYC core) take 1.30 times as long for a RAW f_ISP with global sets (each of forward pass and 8-bit inverse
1.15), 1.58 times with local ones (inverse of rows 1.43), 2.0 times for image enhancement with global sets (inverse
1.71, forward pass 1.31).
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_FUNCTIONS = 64  # more than any of the modules has
_FAILED = object()


@cache
def compiled(module: str, function: str) -> Callable[..., tuple[Any] | None] | None:
    """A compiled function of ``semiisp_plugin.isp``.

    Args:
        module: Such as ``curve8_numba``; imported now.
        function: Its name there.

    Returns:
        The function, which gives what it returns in a tuple, or None where it cannot run; None without Numba. Why it
        cannot run is said in a warning.
    """
    try:
        target = getattr(importlib.import_module(f"semiisp_plugin.isp.{module}"), function)
    except ImportError:
        return None
    except RuntimeError as error:  # no folder where compiled code can be kept
        _warn(f"{error}. Set NUMBA_CACHE_DIR to a folder that can be written.")
        return None

    broken = False

    def call(*arguments: Any) -> tuple[Any] | None:
        nonlocal broken
        if broken:
            return None
        for _ in range(_FUNCTIONS):
            try:
                return (target(*arguments),)
            except OSError:  # disk full: compiled, but not kept; one function further the next time
                continue
            except Exception as error:  # what was kept is damaged; which exception that is, Numba does not say
                broken = True
                folder = os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).with_name("__pycache__")
                _warn(
                    f"{type(error).__name__}: {error}. If its cache is damaged, delete the .nbi and .nbc files in "
                    f"{folder}."
                )
                return None
        return None

    return call


def _warn(why: str) -> None:
    warnings.warn(f"Images go through the ISP without Numba, several times slower: {why}", RuntimeWarning, stacklevel=4)
