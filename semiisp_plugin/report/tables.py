"""Tables of results as Markdown (for documents) and as plain text (for a terminal), laid out by `tabulate`.

A row is a mapping from column title to value. A value may be text, a number, or a sequence of numbers, one a repetition
(seed); a sequence is shown as mean ± standard deviation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

Row = Mapping[str, object]

MISSING = "–"
"""Shown where a row has no value for a column."""


def mean_std(values: Sequence[float], decimals: int = 2) -> str:
    """Write repeated measurements as ``mean ± std``.

    Args:
        values: At least one number.
        decimals: Digits after the point.

    Returns:
        For example ``23.41 ± 0.32``, with the sample standard deviation (n - 1 in the denominator); the number alone,
        where there is one, because one measurement says nothing about the spread.

    Raises:
        ValueError: There is no number.
    """
    if not values:
        raise ValueError("mean_std needs at least one value; got none")
    if len(values) == 1:
        return f"{values[0]:.{decimals}f}"
    if not all(math.isfinite(value) for value in values):
        # statistics refuses infinities, and PSNR of identical images is one.
        return f"{sum(values) / len(values):.{decimals}f}"
    return f"{statistics.fmean(values):.{decimals}f} ± {statistics.stdev(values):.{decimals}f}"


def markdown_table(
    rows: Sequence[Row], columns: Sequence[str] | None = None, *, decimals: int = 2, right: Iterable[str] = ()
) -> str:
    """Write a Markdown table.

    Args:
        rows: The rows, from the top.
        columns: Their order; by default every title, in the order of first appearance.
        decimals: Digits after the point of every float.
        right: Columns to align to the right besides those of numbers, such as numbers that are text already.

    Returns:
        Lines ending in newlines. Numbers are aligned to the right, also in the source.

    Raises:
        ValueError: There is no row, or ``columns`` or ``right`` names a column that no row has, or a sequence is empty.
    """
    titles, cells, alignment = _lay_out(rows, columns, decimals, right)
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (titles, *cells)]
    rule, *lines = tabulate(escaped, tablefmt="pipe", disable_numparse=True, colalign=alignment).splitlines()
    return "".join(f"{line}\n" for line in (lines[0], rule, *lines[1:]))


def text_table(
    rows: Sequence[Row], columns: Sequence[str] | None = None, *, decimals: int = 2, right: Iterable[str] = ()
) -> str:
    """Write a table for a terminal; arguments and errors as in `markdown_table`."""
    titles, cells, alignment = _lay_out(rows, columns, decimals, right)
    table = tabulate(
        [titles, *cells], (), "simple", disable_numparse=True, colalign=alignment, preserve_whitespace=True
    )
    rule, *lines, _ = table.splitlines()
    return "".join(f"{line.rstrip()}\n" for line in (lines[0], rule, *lines[1:]))


# The titles go to `tabulate` as a row: it pads headings by two spaces, which a wide table has no room for.
def _lay_out(
    rows: Sequence[Row], columns: Sequence[str] | None, decimals: int, right: Iterable[str]
) -> tuple[list[str], list[list[str]], list[str]]:
    """Titles, the texts of the cells, and how each column is aligned."""
    if not rows:
        raise ValueError("a table needs at least one row; got none")
    known = list(dict.fromkeys(title for row in rows for title in row))
    titles, besides = list(known if columns is None else columns), set(right)
    for title in (*titles, *sorted(besides)):
        if title not in known:
            raise ValueError(f"no row has a column '{title}'; there are: {', '.join(known)}")
    values = [[_plain(row.get(title)) for title in titles] for row in rows]
    alignment = [
        "right" if title in besides or all(map(_is_number, filter(lambda v: v is not None, column))) else "left"
        for title, column in zip(titles, zip(*values, strict=True), strict=True)
    ]
    return titles, [[_format(value, decimals) for value in line] for line in values], alignment


def _plain(value: object) -> object:
    """NumPy and torch numbers and vectors as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_number(value: object) -> bool:
    return not isinstance(value, bool | str) and isinstance(value, int | float | Sequence)


def _format(value: object, decimals: int) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{decimals}f}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return mean_std([float(item) for item in value], decimals)
    return str(value)
