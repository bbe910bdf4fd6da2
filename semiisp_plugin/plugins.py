"""What registers by being imported: the plugin's own modules, those of installed packages, and those a user names.

Standard library only: every look-up asks here first, so that nothing has to be imported before it is
needed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

GROUP = "semiisp_plugin.plugins"
"""Entry-point group of installed packages; the value of an entry is a module."""
HOW = (
    "One of your own: name the module that registers it with --import my_package.my_module, or with imports: "
    "[my_package.my_module] in the option file."
)
"""For messages about a name that nothing has registered."""

# The files that register something, by folder.
_OWN = {
    "archs": "*_arch.py",
    "data": "*_dataset.py",
    "losses": "*_loss.py",
    "metrics": "[!_]*.py",
    "models": "*_model.py",
    "pseudo": "*_dataset.py",
}
_named: list[str] = []


def register(imports: Iterable[str] = ()) -> None:
    """Import all that registers networks, data sets, losses, filters, metrics and models.

    Cheap when it has been done, and safe to repeat.

    Args:
        imports: Modules of the user's own, such as ``my_package.archs``; found in the current folder, too.

    Raises:
        ValueError: A module cannot be imported.
    """
    for name in _modules():
        importlib.import_module(name)
    for name in _installed():
        _import(name)
    for name in imports:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last: nothing installed is hidden by a file of the same name
        _import(name)
        if name not in _named:
            _named.append(name)


def named() -> tuple[str, ...]:
    """The user's own modules that this process has imported; a new process gives them to its `register`."""
    return tuple(_named)


@cache
def _modules() -> tuple[str, ...]:
    """The plugin's own."""
    package, root = __name__.rpartition(".")[0], Path(__file__).parent
    folders = ((folder, sorted((root / folder).glob(pattern))) for folder, pattern in _OWN.items())
    own = [f"{package}.{folder}.{path.stem}" for folder, paths in folders for path in paths if path.stem != "__init__"]
    return (*own, f"{package}.losses.filters")


@cache
def _installed() -> tuple[str, ...]:
    from importlib.metadata import entry_points  # a third of what importing the plugin takes

    return tuple(entry.value for entry in entry_points(group=GROUP))


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}.")
        hint = f" It was looked for in the current folder {os.getcwd()} and among what is installed." if missing else ""
        raise ValueError(f"the module '{name}' cannot be imported: {type(error).__name__}: {error}.{hint}") from error
