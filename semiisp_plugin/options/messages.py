"""What goes wrong with option files, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from semiisp_plugin.io.files import printable

if TYPE_CHECKING:
    from torch import nn

_LONGEST = 60
_LISTED = 20


class OptionError(ValueError):
    """Something in an option file is wrong; the message says what, where, and how to fix it.

    Characters that are not printed, which a file may put into it, are written out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence: ``; did you mean 'X'?`` for the closest known word, or a full stop.

    A word that differs in capitals alone is the closest.
    """
    names = [str(k) for k in known]
    alike = [n for n in names if n.lower() == str(word).lower()]
    match = alike or difflib.get_close_matches(str(word), names, 1, 0.5)
    return f"; did you mean '{match[0]}'?" if match else "."


def no_module(key: str, network: nn.Module, module: str) -> str:
    """That a section's network has no module of that name: the nearest one, and those that there are."""
    names = [name for name, _ in network.named_modules() if name]
    return (
        f"{key} ({type(network).__name__}) has no module '{module}'{nearest(module, names)} It has: "
        f"{', '.join(names[:_LISTED])}."
    )


def short(value: Any) -> str:
    """A value as text, its middle left out if it is long."""
    try:
        text = str(value)
    except ValueError:  # more digits than Python writes
        return "of more digits than can be written"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int):
        return f"the whole number {short(value)}"
    if isinstance(value, float):
        return f"the number {value}"
    kinds: dict[type, str] = {dict: "a section", str: "text", type(None): "empty"}
    return kinds.get(type(value), f"the {type(value).__name__} {short(repr(value))}")


def choices(values: Iterable[Any]) -> str:
    """Choices as a part of a sentence: ``a, b or c``."""
    words = [as_yaml(v) for v in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def as_yaml(value: Any) -> str:
    """A plain value as it is written in a file."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_yaml, value))}]"
    if value is None:
        return "~"
    return str(value).lower() if isinstance(value, bool) else str(value)
