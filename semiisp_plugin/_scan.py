"""Registration by import, as BasicSR does it: every module of a folder with a given suffix is imported."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable


def import_modules(package: str, path: Iterable[str], suffix: str) -> list[str]:
    """Import ``package.*<suffix>`` and return the modules' names.

    Args:
        package: Dotted name of the package.
        path: Its ``__path__``.
        suffix: What the module names end with, as ``_arch``.
    """
    names = [f"{package}.{m.name}" for m in pkgutil.iter_modules(list(path)) if m.name.endswith(suffix)]
    for name in names:
        importlib.import_module(name)
    return names
