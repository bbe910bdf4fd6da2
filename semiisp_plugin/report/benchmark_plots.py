"""Plots of a benchmark's results."""

from __future__ import annotations

import math
import statistics
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from semiisp_plugin.report.benchmark_results import GROUPS, Results, compare_systems
from semiisp_plugin.report.page import Plot, counted

# Okabe and Ito's colours without the yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_INK = "#222222"


def gain_by_pairs_plot(results: Results, group: str, out: Path) -> Plot | None:
    """Gain against the number of pairs, where there are several."""
    every, keys = results.pairs(), results.in_group(group)
    rows = [(pairs, row) for pairs in every for row in compare_systems(results, pairs) if not row.stopped_early]
    figure, ax = _figure(3.3)
    ax.axhline(0, color=_INK, lw=1)
    for k, key in enumerate(keys):
        gains = [(pairs, row.gain) for pairs, row in rows if row.system == key and row.gain]
        gains = [(pairs, gain) for pairs, gain in gains if math.isfinite(gain.mean)]
        if gains:
            # A little apart, or error bars would hide each other.
            x = [pairs * 1.03 ** (k - (len(keys) - 1) / 2) for pairs, _ in gains]
            errors = [gain.standard_error or 0.0 for _, gain in gains]
            style: dict[str, Any] = {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
            ax.errorbar(x, [gain.mean for _, gain in gains], errors, capsize=3, label=results.label(key), **style)
    if len(every) < 2 or not ax.containers:
        return None
    ax.set(xscale="log", xlabel="number of pairs", ylabel="gain in test PSNR [dB]", title=GROUPS[group])
    ax.margins(x=0.15)
    ax.set_xticks(every, [str(pairs) for pairs in every])
    ax.minorticks_off()
    caption = "Gain over the best supervised baseline: mean and standard error over the repetitions."
    return _save(figure, ax, out, f"gain_by_pairs_{group}", caption)


def kept_plot(results: Results, pairs: int, group: str, out: Path) -> Plot | None:
    """Share of the pseudo pairs that the filter kept."""
    figure, ax = _figure(2.9)
    for k, key in enumerate(results.in_group(group)):
        kept: dict[float, list[float]] = {}
        for iteration, share in (point for cell in results.of(pairs, key) for point in cell.kept_ratio):
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
    what = f"{GROUPS[group]}, {counted(pairs, 'pair')}"
    ax.set(ylim=(-2, 102), xlabel="iteration", ylabel="kept pseudo pairs [%]", title=what)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    caption = f"{what}: share of the pseudo pairs that the filter kept. Line: mean; band: lowest to highest repetition."
    return _save(figure, ax, out, f"kept_{group}_{pairs}", caption)


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
    labels = [textwrap.fill(text, 60).replace("$", r"\$") for text in texts]  # dollar signs would begin a formula
    columns = 2 if max(map(len, labels)) <= 34 else 1
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.21 * math.ceil(lines / columns) + 0.15)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    file = f"plots/{name}.png"
    (out / "plots").mkdir(parents=True, exist_ok=True)
    figure.savefig(out / file, dpi=160)
    return Plot(file, caption)
