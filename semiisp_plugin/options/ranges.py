"""Numbers that carry their range: types for the keys of option files and for what networks, losses and the like take.

A parameter of a network or function of your own that is annotated with one of these, or with an ``Annotated`` of
`msgspec.Meta` alike, is checked against it where an option file is.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from msgspec import Meta

LARGEST = 10**9
Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST)]
AboveZero = Annotated[float, Meta(gt=0, le=LARGEST)]
Scale = Annotated[float, Meta(ge=0.01, le=100)]
Factor = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# Sides in pixels, samples of a batch: what any memory holds, and much more.
Size = Annotated[int, Meta(ge=1, le=65_536)]
Sides = Size | Annotated[Sequence[Size], Meta(min_length=2, max_length=2)]
Border = Annotated[int, Meta(ge=0, le=65_536)]
Processes = Annotated[int, Meta(ge=0, le=1024)]
Blocks = Annotated[int, Meta(ge=0, le=1000)]
Channels = Annotated[int, Meta(ge=1, le=4096)]
# Of each of a network's levels, each of which doubles the channels.
BlocksOfLevels = Annotated[Sequence[Blocks], Meta(min_length=1, max_length=12)]
Thumbnail = Annotated[int, Meta(ge=32, le=4096)]
Grid = Annotated[Sequence[Annotated[int, Meta(ge=1, le=1024)]], Meta(min_length=2, max_length=2)]
Threshold = Annotated[float, Meta(ge=0, extra={"infinite": True})]
"""Infinity means that nothing is above it; nowhere else is it a value of an option."""


def bounds(kind: Any, base: type) -> str:
    """The range of a type's whole (``int``) or other (``float``) numbers as the end of words; empty if it has none.

    Those in lists and in unions count: `` from 1 to 65,536``.
    """
    return next((in_words(meta) for found, meta in _ranges(kind) if found is base), "")


def in_words(meta: Meta) -> str:
    """A range: `` from 0 to 1``, `` above 0``; empty if it has no bounds."""
    low, above, high, below = (f"{n:,}" if n is not None else "" for n in (meta.ge, meta.gt, meta.le, meta.lt))
    if low and high:
        return f" from {low} to {high}"
    parts = [f"of {low} or more" if low else f"above {above}" if above else ""]
    parts += [f"up to {high}" if high else f"below {below}" if below else ""]
    return "".join(f" {part}" for part in [" and ".join(filter(None, parts))] if part)


def _ranges(kind: Any) -> Iterator[tuple[type, Meta]]:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        yield from ((arguments[0], meta) for meta in arguments[1:] if isinstance(meta, Meta))
        arguments = arguments[:1]
    for part in arguments:
        yield from _ranges(part)
