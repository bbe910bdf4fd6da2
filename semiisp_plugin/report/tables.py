"""Tables of results, as data: shown in a terminal, in Markdown, or on a page; `tabulate` lays them out."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

MISSING = "–"
"""Shown where there is no value."""


class Spread(tuple[float, ...]):
    """Measurements of one thing, one a repetition; there may be none."""

    @property
    def mean(self) -> float:
        """Their mean; NaN and infinities go through."""
        return statistics.fmean(self)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1 in the denominator); None for one value, or if any is not finite."""
        return statistics.stdev(self) if len(self) > 1 and all(map(math.isfinite, self)) else None

    @property
    def standard_error(self) -> float | None:
        """Standard deviation over the square root of n; None where there is no standard deviation."""
        return None if self.std is None else self.std / math.sqrt(len(self))


def mean_std(values: Sequence[float], decimals: int = 2, sign: str = "") -> str:
    """Write repeated measurements as ``mean ± std``.

    Args:
        values: The measurements.
        decimals: Digits after the point.
        sign: ``+`` to write the sign of positive means, too.

    Returns:
        For example ``23.41 ± 0.32``, with the sample standard deviation; the mean alone where there is none, because
        one measurement says nothing about the spread; `MISSING` without any.
    """
    spread = Spread(values)
    if not spread:
        return MISSING
    text = f"{spread.mean:{sign}.{decimals}f}"
    return text if spread.std is None else f"{text} ± {spread.std:.{decimals}f}"


def format_number(value: float | None, decimals: int = 2) -> str:
    """A number, or `MISSING`."""
    return MISSING if value is None else f"{value:.{decimals}f}"


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        columns: Their headings.
        rows: From the top; a row that is a string is a heading over the rows after it.
        numeric: Indices of the columns that stand right.
        title: What stands above; empty for nothing.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...] | str]
    numeric: tuple[int, ...] = ()
    title: str = ""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], *, decimals: int = 2, right: Collection[str] = ()) -> Table:
        """A table of values.

        Args:
            rows: From column heading to value: text, a number, or None; columns stand in the order in which they
                appear first. At least one.
            decimals: Digits after the point of every float.
            right: Columns that stand right besides those of numbers alone, such as numbers that are text already.
        """
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        numbers = (
            name in right or all(isinstance(row.get(name, 0), int | float | None) for row in rows) for name in columns
        )
        numeric = tuple(k for k, is_number in enumerate(numbers) if is_number)
        return cls(columns, [tuple(_cell(row.get(name), decimals) for name in columns) for row in rows], numeric)

    def text(self) -> str:
        """For a terminal, lines ending in newlines; what stands below a heading is indented."""
        indent = "  " if any(isinstance(row, str) for row in self.rows) else ""
        rows = [[row] if isinstance(row, str) else [indent + row[0], *row[1:]] for row in self.rows]
        rule, *lines, _ = self._laid_out([list(self.columns), *rows], "simple")
        return "".join(f"{line.rstrip()}\n" for line in (lines[0], rule, *lines[1:]))

    def markdown(self) -> str:
        """For a document, lines ending in newlines; cells are escaped."""
        rows = [[f"**{_escaped(row)}**"] if isinstance(row, str) else [*map(_escaped, row)] for row in self.rows]
        rule, *lines = self._laid_out([[*map(_escaped, self.columns)], *rows], "pipe")
        return "".join(f"{line}\n" for line in (lines[0], rule, *lines[1:]))

    def _laid_out(self, rows: list[list[str]], style: str) -> list[str]:
        """Lines, the headings as a row of their own: `tabulate` pads headings, which a wide table has no room for."""
        alignment = ["right" if k in self.numeric else "left" for k in range(len(self.columns))]
        rows = [row + [""] * (len(self.columns) - len(row)) for row in rows]
        return tabulate(
            rows, (), style, disable_numparse=True, colalign=alignment, preserve_whitespace=True
        ).splitlines()


def _cell(value: object, decimals: int) -> str:
    return format_number(value, decimals) if value is None or isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return escape_markdown(text).replace("|", "\\|")


def escape_markdown(text: str) -> str:
    """Text as Markdown that shows it: no HTML, no emphasis, no links, one line."""
    return re.sub(r"([\\`*\[\]<>&]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
