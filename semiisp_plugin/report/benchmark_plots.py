"""Plots of a benchmark's results."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from semiisp_plugin.report.benchmark_results import GROUPS, Results, compare_systems
from semiisp_plugin.report.page import Plot, counted
from semiisp_plugin.report.tables import Spread

# Okabe and Ito's colours without the yellow, which is faint on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195")
_GREYS = ("#222222", "#8A8A8A")
_INK = "#222222"
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH, _DPI, _FONT = 6.0, 160, 10.0


def _save(figure: Figure, out: Path, name: str, caption: str) -> Plot:
    """Write ``plots/<name>.png`` below the output folder."""
    file = f"plots/{name}.png"
    (out / "plots").mkdir(parents=True, exist_ok=True)
    figure.savefig(out / file, dpi=_DPI)
    return Plot(file, caption)


# --- plots ------------------------------------------------------------------------------------------------------------


def gain_by_pairs_plot(results: Results, group: str, out: Path) -> Plot | None:
    """Gain against the number of pairs, where there are several."""
    rows = {pairs: [r for r in compare_systems(results, pairs) if r.group == group] for pairs in results.pairs()}
    series: dict[str, list[tuple[int, Spread]]] = {}
    for pairs, of_pairs in rows.items():
        for row in of_pairs:
            if row.gain and math.isfinite(row.gain.mean) and not row.stopped_early:
                series.setdefault(row.system, []).append((pairs, row.gain))
    if not series or len(rows) < 2:
        return None
    figure, ax = _figure(3.3)
    ax.axhline(0, color=_INK, lw=1)
    entries: list[tuple[str, Line2D | Patch]] = []
    for k, (key, points) in enumerate(series.items()):
        # A little apart, or error bars would hide each other.
        x = [pairs * 1.03 ** (k - (len(series) - 1) / 2) for pairs, _ in points]
        y, error = [gain.mean for _, gain in points], [gain.standard_error or 0.0 for _, gain in points]
        style = {**_style(results, key), "marker": _marker(results, key), "lw": 1.6, "ms": 6}
        ax.errorbar(x, y, yerr=error, capsize=3, **style)
        entries.append((results.label(key), Line2D([], [], **style)))
    ticks = sorted(rows)
    ax.set_xscale("log")
    ax.set_xlim(ticks[0] / 1.4, ticks[-1] * 1.4)
    ax.set_xticks(ticks, [str(pairs) for pairs in ticks])
    ax.minorticks_off()
    _name_axes(ax, "number of pairs", "gain in test PSNR [dB]", GROUPS[group])
    _legend(figure, entries)
    caption = "Gain over the best supervised baseline: mean and standard error over the repetitions."
    return _save(figure, out, f"gain_by_pairs_{_slug(group)}", caption)


def kept_plot(results: Results, pairs: int, group: str, out: Path) -> Plot | None:
    """Share of the pseudo pairs that the filter kept."""
    figure, ax = _figure(2.9)
    entries: list[tuple[str, Line2D | Patch]] = []
    for key in results.in_group(group):
        curve = _mean_curve([(x, y) for x, y in cell.kept_ratio] for cell in results.of(pairs, key))
        if curve is None:
            continue
        grid, mean, low, high = curve
        style = {**_style(results, key), "ls": "-" if len(entries) < len(_PALETTE) else "--"}
        ax.fill_between(grid, 100 * low, 100 * high, color=style["color"], alpha=0.15, lw=0)
        ax.plot(grid, 100 * mean, lw=1.6, **style)
        entries.append((results.label(key), Line2D([], [], lw=2, **style)))
    if not entries:
        return None
    ax.set_ylim(-2, 102)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_axes(ax, "iteration", "kept pseudo pairs [%]", f"{GROUPS[group]}, {counted(pairs, 'pair')}")
    _legend(figure, entries)
    caption = (
        f"{GROUPS[group]}, {counted(pairs, 'pair')}: share of the pseudo pairs that the filter kept. Line: "
        "mean; band: lowest to highest repetition."
    )
    return _save(figure, out, f"kept_{_slug(group)}_{pairs}", caption)


def _mean_curve(runs: Iterable[Sequence[tuple[float, float | None]]]) -> tuple[np.ndarray, ...] | None:
    """Iterations, mean, lowest and highest of several runs, where all have values; a run is linear between points."""
    clean = [sorted({x: y for x, y in run if y is not None and math.isfinite(y)}.items()) for run in runs]
    clean = [run for run in clean if run]
    if not clean:
        return None
    first, last = max(run[0][0] for run in clean), min(run[-1][0] for run in clean)
    grid = np.array(sorted({x for run in clean for x, _ in run if first <= x <= last}))
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, *np.array(run, dtype=float).T) for run in clean])
    return grid, values.mean(0), values.min(0), values.max(0)


# --- how they look ----------------------------------------------------------------------------------------------------


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), facecolor="white", layout="constrained")
    ax = figure.subplots()
    ax.tick_params(labelsize=_FONT - 1, length=3, colors=_INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e4e4e4", lw=0.7)
    ax.set_axisbelow(True)
    return figure, ax


def _name_axes(ax: Axes, x: str, y: str, title: str = "") -> None:
    ax.set_xlabel(x, fontsize=_FONT, color=_INK)
    ax.set_ylabel(y, fontsize=_FONT, color=_INK)
    if title:
        ax.set_title(_literal(title), fontsize=_FONT, color=_INK)


def _legend(figure: Figure, entries: Sequence[tuple[str, Line2D | Patch]]) -> None:
    """Below the axes, in two columns where the labels are short; the figure grows by its height."""
    labels = [_literal(textwrap.fill(label, 60)) for label, _ in entries]
    columns = 2 if max(map(len, labels)) <= 34 else 1
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.21 * math.ceil(lines / columns) + 0.15)
    figure.legend(
        [handle for _, handle in entries],
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=_FONT - 1,
        frameon=False,
        labelcolor=_INK,
    )


def _style(results: Results, key: str) -> dict[str, Any]:
    """The colour of a system, the same in all plots; by its place in its group."""
    group = results.systems[key].group
    place = results.in_group(group).index(key)
    if group == "baseline":  # plots show the first and, if that is another, the best
        return {"color": _GREYS[min(place, 1)]}
    return {"color": _PALETTE[place % len(_PALETTE)]}


def _marker(results: Results, key: str) -> str:
    return _MARKERS[results.in_group(results.systems[key].group).index(key) % len(_MARKERS)]


def _slug(text: str) -> str:
    """A name for files."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "other"


def _literal(text: str) -> str:
    """Dollar signs would begin a formula."""
    return text.replace("$", r"\$")
