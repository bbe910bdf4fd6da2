"""Tables of what an option file can name: BasicSR's kind of registry, for modules that do not need BasicSR.

Networks, losses, filters and scores register here, so that they can be used without BasicSR. `semiisp_plugin.toolbox`
makes the tables of networks and losses one with BasicSR's when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class _Table(Protocol):
    _obj_map: dict[str, Any]


class Registry:
    """Objects by name; what `basicsr.utils.registry.Registry` offers, as far as the plugin uses it.

    Args:
        name: What it holds, in the singular, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            KeyError: There is none.
        """
        if name not in self._obj_map:
            raise KeyError(f"No {self._name} '{name}' is registered. Registered: {', '.join(sorted(self._obj_map))}.")
        return self._obj_map[name]

    def __contains__(self, name: object) -> bool:
        return name in self._obj_map

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._obj_map.items())

    def join(self, other: _Table) -> None:
        """Make this and another registry one: from now on, what is registered in either is in both.

        Raises:
            ValueError: A name is taken in the other.
        """
        for obj in self._obj_map.values():
            register(other)(obj)
        self._obj_map = other._obj_map


ARCH_REGISTRY = Registry("network")
LOSS_REGISTRY = Registry("loss")
FILTER_REGISTRY = Registry("filter")
"""Pseudo-data filters (`semiisp_plugin.losses.filters`); BasicSR has none."""
SCORE_REGISTRY = Registry("score")
"""Scores of images without a reference (`semiisp_plugin.metrics.no_reference`)."""


def register(registry: _Table) -> Callable[[T], T]:
    """Register a class or function under its own name, in a registry of the plugin or of BasicSR.

    Unlike BasicSR's ``registry.register()`` this is safe when a module is imported again (``importlib.reload``, a
    second copy under another ``sys.path`` entry): an object of the same module and name replaces its former self. A
    name that belongs to somebody else is still an error.

    Raises:
        ValueError: The name is taken by an object of another module.
    """

    def decorator(obj: T) -> T:
        name = getattr(obj, "__name__")  # noqa: B009 - T is a class or function; mypy does not know
        known: Any = registry._obj_map.get(name)
        if known is not None and known.__module__ != getattr(obj, "__module__"):  # noqa: B009 - as above
            raise ValueError(
                f"'{name}' is already registered by {known.__module__}; rename the class in {obj.__module__}."
            )
        registry._obj_map[name] = obj
        return obj

    return decorator
