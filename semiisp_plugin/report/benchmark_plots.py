"""Plots of a benchmark's results."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from semiisp_plugin.report.benchmark_results import GROUPS, Results, compare_systems, contrasts
from semiisp_plugin.report.page import Plot, counted
from semiisp_plugin.report.paired import Interval

# Okabe and Ito's colours without the yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_INK = "#222222"


def contrasts_plot(results: Results, out: Path) -> Plot | None:
    """Every contrast's difference with its interval.

    Of tasks (with a number of pairs) and contrasts the more numerous are rows, the others colours.
    """
    found: dict[tuple[Any, Any], Interval] = {
        ((row.task, row.pairs), results.contrasts.index(row.contrast)): row.difference
        for row in contrasts(results)
        if row.difference
    }
    if not found:
        return None
    settings, compared = (list(dict.fromkeys(keys)) for keys in zip(*found, strict=True))
    labels: dict[Any, str] = {at: results.contrasts[at].title for at in compared}
    labels |= {(task, n): f"{results.tasks[task].title}, {counted(n, 'pair')}" for task, n in settings}
    rows, colours = settings, compared
    if len(colours) > len(rows):
        found = {(at, setting): difference for (setting, at), difference in found.items()}
        rows, colours = colours, rows
    figure, ax = _figure(1.2 + 0.25 * len(rows) * (len(colours) + 0.3))
    ax.axvline(0, color=_INK, lw=1)
    for k, colour in enumerate(colours):
        shown = [(place, found[row, colour]) for place, row in enumerate(rows) if (row, colour) in found]
        y = [place + _apart(k, len(colours), min(0.22, 0.8 / len(colours))) for place, _ in shown]
        differences = [difference for _, difference in shown]
        means = [difference.mean for difference in differences]
        ax.errorbar(means, y, xerr=_errors(differences), capsize=3, label=labels[colour], **_style(k, "none"))
    ax.set_yticks(range(len(rows)), [_wrapped(labels[row], 34) for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="difference in test PSNR [dB]")
    caption = (
        "Every contrast: mean difference with its 95 % interval. Right of the line the contrast's system is better."
    )
    return _save(figure, ax, out, "contrasts", caption)


def gain_by_pairs_plot(results: Results, task: str, group: str, out: Path) -> Plot | None:
    """Gain on a task against the number of pairs, where there are several."""
    every = [pairs for key, pairs in results.settings() if key == task]
    rows = [(pairs, row, row.gain) for pairs in every for row in compare_systems(results, task, pairs) if row.gain]
    keys = results.in_group(group)
    figure, ax = _figure(3.3)
    ax.axhline(0, color=_INK, lw=1)
    for k, key in enumerate(keys):
        shown = [(pairs, gain) for pairs, row, gain in rows if row.system == key]
        if shown:
            x = [pairs * math.exp(_apart(k, len(keys), 0.03)) for pairs, _ in shown]
            gains = [gain for _, gain in shown]
            means = [gain.mean for gain in gains]
            ax.errorbar(x, means, _errors(gains), capsize=3, label=results.label(key), **_style(k))
    if len(every) < 2 or not ax.containers:
        return None
    title = results.tasks[task].title
    ax.set(xscale="log", xlabel="number of pairs", ylabel="gain in test PSNR [dB]", title=_wrapped(title, 50))
    ax.margins(x=0.15)
    ax.set_xticks(every, [str(pairs) for pairs in every])
    ax.minorticks_off()
    caption = f"{title}: gain over the strongest system that is trained on the pairs alone, with 95 % intervals."
    return _save(figure, ax, out, f"gain_by_pairs_{task}", caption)


def kept_plot(results: Results, task: str, pairs: int, group: str, out: Path) -> Plot | None:
    """Share of the pseudo pairs that the filter kept."""
    figure, ax = _figure(2.9)
    for k, key in enumerate(results.in_group(group)):
        kept: dict[float, list[float]] = {}
        for iteration, share in (point for cell in results.of(task, pairs, key) for point in cell.kept_ratio):
            if share is not None and math.isfinite(share):
                kept.setdefault(iteration, []).append(100 * share)
        if kept:
            x = sorted(kept)
            colour = _COLOURS[k % len(_COLOURS)]
            ax.fill_between(x, [min(kept[i]) for i in x], [max(kept[i]) for i in x], color=colour, alpha=0.15, lw=0)
            mean = [statistics.fmean(kept[i]) for i in x]
            ax.plot(x, mean, "-" if k < len(_COLOURS) else "--", color=colour, label=results.label(key))
    if not ax.lines:
        return None
    what = f"{results.tasks[task].title}, {counted(pairs, 'pair')}: {GROUPS[group]}"
    ax.set(ylim=(-2, 102), xlabel="iteration", ylabel="kept pseudo pairs [%]", title=_wrapped(what, 50))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    caption = f"{what}. Share of the pseudo pairs that the filter kept. Line: mean; band: lowest to highest repetition."
    return _save(figure, ax, out, f"kept_{task}_{pairs}_{group}", caption)


def _apart(k: int, n: int, step: float) -> float:
    """Where the k-th of n stands beside their common place, or error bars would hide each other."""
    return (k - (n - 1) / 2) * step


def _errors(found: Sequence[Interval]) -> list[list[float]]:
    """Lengths of the two ends of error bars. A mean can lie outside a bootstrap's interval, a length not below 0."""
    return [[max(one.mean - one.low, 0) for one in found], [max(one.high - one.mean, 0) for one in found]]


def _style(k: int, line: str = "-") -> dict[str, Any]:
    return {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)], "linestyle": line}


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width).replace("$", r"\$")  # dollar signs would begin a formula


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.0, height), facecolor="white", layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e4e4e4", lw=0.7)
    ax.set_axisbelow(True)
    return figure, ax


def _save(figure: Figure, ax: Axes, out: Path, name: str, caption: str) -> Plot:
    """Write ``plots/<name>.png`` below the output folder, with a legend below the axes; it grows by its height."""
    handles, texts = ax.get_legend_handles_labels()
    labels = [_wrapped(text, 60) for text in texts]
    columns = 2 if max(map(len, labels)) <= 34 else 1
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.21 * math.ceil(lines / columns) + 0.15)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    file = f"plots/{name}.png"
    (out / "plots").mkdir(parents=True, exist_ok=True)
    figure.savefig(out / file, dpi=160)
    return Plot(file, caption)
