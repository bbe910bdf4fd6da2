"""What goes wrong with option files, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class OptionError(ValueError):
    """Something in an option file is wrong; the message says what, where, and how to mend it."""


def nearest(word: str, known: Iterable[str], prefix: str = "; did you mean ") -> str:
    """The end of a sentence: ``; did you mean 'X'?`` for the closest known word, or a full stop."""
    match = difflib.get_close_matches(str(word), [str(k) for k in known], 1, 0.5)
    return f"{prefix}'{match[0]}'?" if match else "."


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    return {dict: "a section", list: "a list", str: "text", bool: "a truth value", type(None): "empty"}.get(
        type(value), f"the {type(value).__name__} {value!r}"
    )
