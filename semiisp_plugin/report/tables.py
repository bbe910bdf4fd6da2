"""Tables of results as Markdown (for documents) and as plain text (for a terminal).

A row is a mapping from column title to value. A value may be text, a number, or a sequence of numbers, one a repetition
(seed); a sequence is shown as mean ± standard deviation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

Better = Literal["higher", "lower"]
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
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
    *,
    decimals: int = 2,
    best: Mapping[str, Better] | None = None,
    right: Iterable[str] = (),
) -> str:
    """Write a Markdown table.

    Args:
        rows: The rows, from the top.
        columns: Their order; by default every title, in the order of first appearance.
        decimals: Digits after the point of every float.
        best: Column -> whether higher or lower is better; the best value of the column is set in bold. Values that
            print alike to the best are bold too: the table does not claim differences it does not show.
        right: Columns to align to the right besides those of numbers, such as numbers that are text already.

    Returns:
        Lines ending in newlines. Numbers are aligned to the right, also in the source.

    Raises:
        ValueError: There is no row, or ``columns``, ``best`` or ``right`` names a column that no row has, or a sequence
            is empty.
    """
    titles, cells, numeric, winners = _lay_out(rows, columns, decimals, best, right)
    cells = [
        [f"**{cell}**" if (r, c) in winners else cell.replace("|", "\\|") for c, cell in enumerate(line)]
        for r, line in enumerate(cells)
    ]
    titles = [title.replace("|", "\\|") for title in titles]
    widths = _widths(titles, cells)
    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    lines = [_align(titles, widths, numeric), rule, *(_align(line, widths, numeric) for line in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text_table(
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
    *,
    decimals: int = 2,
    best: Mapping[str, Better] | None = None,
    right: Iterable[str] = (),
) -> str:
    """Write a table for a terminal; arguments and errors as in `markdown_table`, but the best values end in ``*``."""
    titles, cells, numeric, winners = _lay_out(rows, columns, decimals, best, right)
    marked = {c for _, c in winners}
    # Every number of a marked column is as wide as a marked one, or the decimal points would not line up.
    cells = [
        [cell + (("*" if (r, c) in winners else " ") if c in marked else "") for c, cell in enumerate(line)]
        for r, line in enumerate(cells)
    ]
    titles = [title + (" " if c in marked else "") for c, title in enumerate(titles)]
    widths = _widths(titles, cells)
    lines = [_align(titles, widths, numeric), ["-" * width for width in widths]]
    lines += [_align(line, widths, numeric) for line in cells]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def _lay_out(
    rows: Sequence[Row],
    columns: Sequence[str] | None,
    decimals: int,
    best: Mapping[str, Better] | None,
    right: Iterable[str],
) -> tuple[list[str], list[list[str]], list[bool], set[tuple[int, int]]]:
    """Return titles, cell texts, which columns stand right, and the (row, column) of the best values."""
    if not rows:
        raise ValueError("a table needs at least one row; got none")
    known = list(dict.fromkeys(title for row in rows for title in row))
    titles = list(known if columns is None else columns)
    besides = set(right)
    for title in (*titles, *(best or {}), *sorted(besides)):
        if title not in known:
            raise ValueError(f"no row has a column '{title}'; there are: {', '.join(known)}")
    for title, better in (best or {}).items():
        if better not in get_args(Better):
            raise ValueError(f"best: '{title}' is '{better}'; give one of {', '.join(get_args(Better))}")

    values = [[_plain(row.get(title)) for title in titles] for row in rows]
    cells = [[_format(value, decimals) for value in line] for line in values]
    means = [[_mean(value) for value in line] for line in values]
    numeric = [
        title in besides
        or all(line[c] is not None for line, row in zip(means, values, strict=True) if row[c] is not None)
        for c, title in enumerate(titles)
    ]
    winners: set[tuple[int, int]] = set()
    for c, title in enumerate(titles):
        if title not in (best or {}):
            continue
        finite = {r: mean for r, line in enumerate(means) if (mean := line[c]) is not None and not math.isnan(mean)}
        if finite:
            extreme = (max if (best or {})[title] == "higher" else min)(finite.values())
            winners |= {(r, c) for r, mean in finite.items() if f"{mean:.{decimals}f}" == f"{extreme:.{decimals}f}"}
    return titles, cells, numeric, winners


def _plain(value: object) -> object:
    """NumPy and torch numbers and vectors as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


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


def _mean(value: object) -> float | None:
    """The number a cell stands for, or None for text and for nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(float(item) for item in value) / len(value)
    return None


def _widths(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    # Markdown wants at least three dashes in the rule.
    return [max(3, *(len(line[c]) for line in (titles, *cells))) for c in range(len(titles))]


def _align(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> list[str]:
    return [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(line, widths, numeric, strict=True)
    ]
