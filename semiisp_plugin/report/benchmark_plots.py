"""Plots of a benchmark's results, and sheets of its test pictures."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from semiisp_plugin.io.image_io import read_image, to_bit_depth
from semiisp_plugin.report.benchmark_results import (
    MAIN_GROUPS,
    Cell,
    Results,
    Spread,
    compare_systems,
    group_heading,
    paired_gains,
    pooled_inputs,
    psnr_by_repetition,
)
from semiisp_plugin.report.benchmark_tables import Plot, Section, counted, format_number
from semiisp_plugin.report.grids import save_grid
from semiisp_plugin.report.paper_figures import PAPER_TASKS, PaperResult, paper_results

# Okabe and Ito's colours without the yellow, which is faint on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195")
_GREYS = ("#222222", "#8A8A8A")
_INK = "#222222"
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH, _DPI, _FONT = 6.0, 160, 10.0


class PlotFolder:
    """Writes plots below the output folder and remembers them.

    Args:
        out: The output folder; ``plots`` is made in it.

    Attributes:
        out: The output folder.
        written: The files written, by their name relative to it.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: dict[str, Path] = {}
        (out / "plots").mkdir(parents=True, exist_ok=True)

    def plot(self, name: str, figure: Figure, caption: str) -> Plot:
        """Save a figure as ``plots/<name>.png``."""
        file = f"plots/{name}.png"
        figure.savefig(self.out / file, dpi=_DPI)
        self.written[file] = self.out / file
        return Plot(file, caption)


# --- plots ------------------------------------------------------------------------------------------------------------


def gain_plot(results: Results, pairs: int, folder: PlotFolder) -> Plot | None:
    """Every system's gain: the mean with its standard error, and the repetitions."""
    rows = [row for row in compare_systems(results, pairs) if row.gain and math.isfinite(row.gain.mean)]
    if not rows:
        return None
    low, high = _window([row.gain for row in rows if row.gain])
    labels = [textwrap.fill(row.label, 34) for row in rows]
    places, y = [], 0.0
    for k, row in enumerate(rows):
        y += 1 if k == 0 or rows[k - 1].group == row.group else 1.5
        y += 0.45 * labels[k].count("\n")
        places.append(y)
    figure, axes = _figure(0.9 + 0.27 * y)
    ax = axes[0, 0]
    ax.axvline(0, color=_INK, lw=1)
    for row, place in zip(rows, places, strict=True):
        if row.gain is None:
            continue
        colour = _PALETTE[0] if row.group in MAIN_GROUPS else "#555555"
        mean, error = row.gain.mean, row.gain.standard_error or 0.0
        if not low < mean < high:
            text = f"{mean:+.1f}".replace("-", "−")
            edge, side, text = (low, "left", f" ◂ {text}") if mean < low else (high, "right", f"{text} ▸ ")
            ax.text(edge, place, text, ha=side, va="center", fontsize=_FONT - 1, color=colour)
            continue
        ax.plot(
            np.clip(row.gain.values, low, high),
            [place] * row.gain.n,
            "o",
            clip_on=False,
            ms=3.5,
            mfc="none",
            mec=colour,
            mew=0.7,
            alpha=0.6,
        )
        ax.errorbar(mean, place, xerr=error, fmt="D", ms=5, color=colour, capsize=3, lw=1.6)
    ax.set_yticks(places, [_literal(label) for label in labels])
    ax.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    ax.set_xlim(low, high)
    ax.grid(axis="y", visible=False)
    over = f"over {results.reference_label(pairs)}"
    _name_axes(ax, "gain in test PSNR [dB]", "", f"{counted(pairs, 'pair')}: gain {over}")
    caption = (
        f"Gain of every system {over}, {counted(pairs, 'pair')}. Diamond and bar: mean ± standard error; circles: "
        "repetitions; blue: the method. What stands on the edge lies outside; a number there is a system's gain."
    )
    return folder.plot(f"gain_{pairs}", figure, caption)


def _window(gains: Sequence[Spread]) -> tuple[float, float]:
    """Limits that one system or repetition far off does not stretch until the others have no room."""
    values = np.concatenate([gain.values for gain in gains])
    values = values[np.isfinite(values)]
    median = float(np.median(values))
    reach = max(5 * float(np.median(np.abs(values - median))), 0.8)
    near = [gain for gain in gains if abs(gain.mean - median) <= reach]
    bars = [gain.mean + side * (gain.standard_error or 0) for gain in near for side in (-1, 1)]
    inside = np.array([0.0, *bars, *values[np.abs(values - median) <= reach]])
    margin = 0.06 * float(np.ptp(inside)) + 0.05
    return float(inside.min()) - margin, float(inside.max()) + margin


def gain_by_pairs_plot(results: Results, group: str, folder: PlotFolder) -> Plot | None:
    """Gain against the number of pairs, with the paper's as hollow markers."""
    known = results.paper_task in PAPER_TASKS
    papers = paper_results(results.paper_task, results.target) if known and results.paper_task else ()
    rows = {pairs: [r for r in compare_systems(results, pairs) if r.group == group] for pairs in results.pairs()}
    series: dict[str, list[tuple[int, Spread]]] = {}
    for pairs, of_pairs in rows.items():
        for row in of_pairs:
            if row.gain and math.isfinite(row.gain.mean) and not row.stopped_early:
                series.setdefault(row.system, []).append((pairs, row.gain))
    if not series or (len(rows) < 2 and not papers):
        return None
    figure, axes = _figure(3.3)
    ax = axes[0, 0]
    ax.axhline(0, color=_INK, lw=1)
    entries: list[tuple[str, Line2D | Patch]] = []
    for k, (key, points) in enumerate(series.items()):
        # A little apart, or error bars would hide each other.
        x = [pairs * 1.03 ** (k - (len(series) - 1) / 2) for pairs, _ in points]
        y, error = [gain.mean for _, gain in points], [gain.standard_error or 0.0 for _, gain in points]
        style = {**_style(results, key), "marker": _marker(results, key), "lw": 1.6, "ms": 6}
        ax.errorbar(x, y, yerr=error, capsize=3, **style)
        entries.append((results.label(key), Line2D([], [], **style)))
    networks: dict[str, list[PaperResult]] = {}
    for paper in papers:
        networks.setdefault(paper.network, []).append(paper)
    for k, (network, lines) in enumerate(networks.items()):
        style = {"color": "#777777", "marker": _MARKERS[k], "mfc": "white", "ls": ":", "lw": 1.2, "ms": 7}
        ax.plot([line.pairs for line in lines], [line.gain for line in lines], **style)
        entries.append((f"paper, {network} (Table {lines[0].table})", Line2D([], [], **style)))
    ticks = sorted({*rows, *(paper.pairs for paper in papers)})
    ax.set_xscale("log")
    ax.set_xlim(ticks[0] / 1.4, ticks[-1] * 1.4)
    ax.set_xticks(ticks, [str(pairs) for pairs in ticks])
    ax.minorticks_off()
    _name_axes(ax, "number of pairs", "gain in test PSNR [dB]", group_heading(group))
    _legend(figure, entries)
    caption = "Gain over the best supervised baseline: mean and standard error over the repetitions."
    if papers:
        caption += f" Hollow: the paper's, on {results.paper_task}, where data, sizes and networks differ."
    return folder.plot(f"gain_by_pairs_{_slug(group)}", figure, caption)


def curves_plot(results: Results, pairs: int, group: str, folder: PlotFolder) -> Plot | None:
    """PSNR on validation and test images during the training of the baselines and a group's systems."""
    baselines = {results.reference(pairs), *results.in_group("baseline")[:1]}
    keys = [key for key, s in results.systems.items() if key in baselines or s.group == group]
    if not any(cell.curve for key in results.in_group(group) for cell in results.of(pairs, key)):
        return None
    figure, axes = _figure(3.3)
    ax = axes[0, 0]
    entries: list[tuple[str, Line2D | Patch]] = []
    settled = []
    for key in keys:
        style = _style(results, key)
        for part, dash in (("test", "-"), ("validation", "--")):
            runs = [
                [(point.iteration, s.psnr if (s := getattr(point, part)) else None) for point in cell.curve]
                for cell in results.of(pairs, key)
            ]
            curve = _mean_curve(runs)
            if curve is None:
                continue
            ax.plot(curve[0], curve[1], dash, lw=1.8 if part == "test" else 1.2, **style)
            settled.append(curve[1][curve[0] >= 0.15 * curve[0].max()])
            if results.label(key) not in dict(entries):
                entries.append((results.label(key), Line2D([], [], lw=2, **style)))
    if not entries:
        return None
    # The first steps of an untrained network would press everything else to the top.
    values = np.concatenate(settled)
    margin = 0.08 * float(np.ptp(values)) + 0.05
    ax.set_ylim(values.min() - margin, values.max() + margin)
    entries += [
        ("test images", Line2D([], [], color="#777777", lw=1.8)),
        ("validation pairs", Line2D([], [], color="#777777", lw=1.2, ls="--")),
    ]
    title = f"{group_heading(group)}, {counted(pairs, 'pair')}"
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_axes(ax, "iteration", "PSNR [dB]", title)
    _legend(figure, entries)
    caption = f"{title}: PSNR during training, mean over the repetitions."
    return folder.plot(f"curves_{_slug(group)}_{pairs}", figure, caption)


def kept_plot(results: Results, pairs: int, group: str, folder: PlotFolder) -> Plot | None:
    """Share of the pseudo pairs that the filter kept."""
    figure, axes = _figure(2.9)
    ax = axes[0, 0]
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
    _name_axes(ax, "iteration", "kept pseudo pairs [%]", f"{group_heading(group)}, {counted(pairs, 'pair')}")
    _legend(figure, entries)
    caption = (
        f"{group_heading(group)}, {counted(pairs, 'pair')}: share of the pseudo pairs that the filter kept. Line: "
        "mean; band: lowest to highest repetition."
    )
    return folder.plot(f"kept_{_slug(group)}_{pairs}", figure, caption)


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


def f_isp_plot(results: Results, pairs: int, folder: PlotFolder) -> Plot | None:
    """PSNR of f_ISP itself on training, validation and test images."""
    items = [item for item in results.f_isp if item.pairs == pairs]
    variants = list(dict.fromkeys(item.variant for item in items))
    parts = {
        "train": "train_psnr",
        "validation": "validation_psnr",
        "test": "test_psnr",
        "test, global": "test_psnr_global",
    }
    parts = {part: name for part, name in parts.items() if any(getattr(item, name) is not None for item in items)}
    if not parts:
        return None
    figure, axes = _figure(3.0)
    ax = axes[0, 0]
    entries: list[tuple[str, Line2D | Patch]] = []
    for k, variant in enumerate(variants):
        style: dict[str, Any] = {
            "color": _PALETTE[k % len(_PALETTE)],
            "marker": _MARKERS[k % len(_MARKERS)],
            "ls": "none",
        }
        for place, attribute in enumerate(parts.values()):
            values = [getattr(item, attribute) for item in items if item.variant == variant]
            values = [value for value in values if value is not None and math.isfinite(value)]
            x = place + 0.7 * ((k + 0.5) / len(variants) - 0.5)
            if values:
                spread = 0.12 / len(variants) * np.linspace(-1, 1, len(values)) if len(values) > 1 else np.zeros(1)
                ax.plot(x + spread, values, ms=5, alpha=0.75, mew=0, **style)
                width = 0.25 / len(variants)
                ax.plot([x - width, x + width], [np.mean(values)] * 2, color=style["color"], lw=2)
                if results.label(variant) not in dict(entries):
                    entries.append((results.label(variant), Line2D([], [], **style)))
    if not entries:
        return None
    ax.set_xticks(range(len(parts)), list(parts))
    ax.set_xlim(-0.5, len(parts) - 0.5)
    ax.grid(axis="x", visible=False)
    _name_axes(ax, "", "PSNR of f_ISP [dB]", counted(pairs, "pair"))
    _legend(figure, entries)
    caption = (
        f"PSNR of f_ISP itself, {counted(pairs, 'pair')}: a mark a repetition, the line their mean. Training far "
        "above test means overfitting."
    )
    return folder.plot(f"f_isp_{pairs}", figure, caption)


def scatter_plot(results: Results, group: str, folder: PlotFolder) -> Plot | None:
    """A system's gain against how much better f_ISP is than supervised learning."""
    f_isp = {(item.pairs, item.variant, item.repetition): item.test_psnr for item in results.f_isp}
    figure, axes = _figure(3.5)
    ax = axes[0, 0]
    systems: dict[str, str] = {}
    counts: dict[int, str] = {}
    for k, pairs in enumerate(results.pairs()):
        reference = results.reference(pairs)
        base = psnr_by_repetition(results.of(pairs, reference) if reference else [])
        for key in results.in_group(group):
            cells = {cell.repetition: cell for cell in results.of(pairs, key)}
            points = []
            for repetition, gain in paired_gains(psnr_by_repetition(cells.values()), base).items():
                own = f_isp.get((pairs, _f_isp_of(results, cells[repetition]) or "", repetition))
                if own is not None and math.isfinite(own - base[repetition]) and math.isfinite(gain):
                    points.append((own - base[repetition], gain))
            if points:
                marker = _MARKERS[k % len(_MARKERS)]
                ax.plot(*zip(*points, strict=True), marker, ms=6, mec="white", mew=0.5, **_style(results, key))
                systems[key], counts[pairs] = results.label(key), marker
    if not systems:
        return None
    ax.axhline(0, color=_INK, lw=1)
    ax.axvline(0, color=_INK, lw=1)
    entries: list[tuple[str, Line2D | Patch]] = [
        (label, Patch(lw=0, **_style(results, key))) for key, label in systems.items()
    ]
    if len(counts) > 1:
        entries += [
            (counted(pairs, "pair"), Line2D([], [], color="#777777", marker=marker, ls="none"))
            for pairs, marker in counts.items()
        ]
    x = "test PSNR of f_ISP minus the best supervised [dB]"
    _name_axes(ax, x, "gain in test PSNR [dB]", group_heading(group))
    _legend(figure, entries)
    caption = (
        f"{group_heading(group)}: does a better f_ISP give a larger gain? A mark a repetition; both axes subtract the "
        "same baseline, whose own chance moves a mark along the diagonal."
    )
    return folder.plot(f"gain_by_f_isp_{_slug(group)}", figure, caption)


def _f_isp_of(results: Results, cell: Cell) -> str | None:
    """The variant of f_ISP that a run used: the one it names, that of its system's name, or the only one."""
    variants = {item.variant for item in results.f_isp if item.pairs == cell.pairs}
    if cell.f_isp is not None:
        return cell.f_isp
    return cell.system if cell.system in variants else next(iter(variants)) if len(variants) == 1 else None


def distribution_plot(results: Results, pairs: int, group: str, folder: PlotFolder) -> Plot | None:
    """Brightness and chroma of the networks' real and pseudo inputs, of the variants of one group."""
    items = [item for item in results.distributions if item.pairs == pairs]
    variants = list(dict.fromkeys(item.variant for item in items if _group_of(results, item.variant) == group))
    if not variants:
        return None
    figure, axes = _figure(4.4, 2, 2)
    drawn = False
    for column, quantity in enumerate(("brightness", "chroma")):
        top, bottom = axes[:, column]
        # The real inputs of all variants are the same images.
        real, _ = pooled_inputs(results, pairs, None, quantity)
        pools = {variant: pooled_inputs(results, pairs, variant, quantity)[1] for variant in variants}
        everything = np.concatenate([real, *pools.values()])
        if not len(everything):
            continue
        drawn = True
        high = min(1.0, 1.05 * float(everything.max())) or 1.0
        edges = np.linspace(0, high, 26)
        for values, colour, fill in [(real, "#555555", True)] + [
            (pools[variant], _PALETTE[k % len(_PALETTE)], False) for k, variant in enumerate(variants)
        ]:
            if not len(values):
                continue
            share = 100 * np.histogram(values.clip(0, high), edges)[0] / len(values)
            top.stairs(share, edges, fill=fill, color=colour, alpha=0.35 if fill else 1, lw=0 if fill else 1.6)
            x = np.sort(values)
            bottom.step([0, *x, high], [0, *100 * np.arange(1, len(x) + 1) / len(x), 100], where="post", color=colour)
        for ax in (top, bottom):
            ax.set_xlim(0, high)
            ax.set_ylim(bottom=0)
        _name_axes(top, "", "images [%]" if column == 0 else "", quantity)
        _name_axes(bottom, f"{quantity} of the input, 0 to 1", "images below [%]" if column == 0 else "")
    if not drawn:
        return None
    entries: list[tuple[str, Line2D | Patch]] = [("real", Patch(color="#555555", alpha=0.5, lw=0))]
    entries += [
        (f"pseudo, {results.label(variant)}", Line2D([], [], color=_PALETTE[k % len(_PALETTE)], lw=2))
        for k, variant in enumerate(variants)
    ]
    _legend(figure, entries)
    caption = (
        f"Inputs of the network, {counted(pairs, 'pair')}: brightness (mean Rec. 709 luma) and chroma (mean "
        "saturation) of an image; above histograms, below the share of images below a value."
    )
    return folder.plot(f"inputs_{_slug(group)}_{pairs}" if group else f"inputs_{pairs}", figure, caption)


def _group_of(results: Results, variant: str) -> str:
    """A variant may have the name of the system that uses it."""
    system = results.systems.get(variant)
    return system.group if system else ""


# --- how they look ----------------------------------------------------------------------------------------------------


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(_WIDTH, height), facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.tick_params(labelsize=_FONT - 1, length=3, colors=_INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#e4e4e4", lw=0.7)
        ax.set_axisbelow(True)
    return figure, axes


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


# --- pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A cell of a grid; ``file`` is None where the picture is missing."""

    file: Path | None
    title: str
    psnr: str


@dataclass(frozen=True)
class Grid:
    """Pictures of one number of pairs.

    Attributes:
        pairs: The number of pairs.
        columns: Headings: the input, the systems, the target.
        names: Of the test images, one a row.
        rows: Cells, one a column.
    """

    pairs: int
    columns: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]


def picture_grids(results: Results, out: Path) -> list[Grid]:
    """Test pictures in rows and columns.

    Args:
        results: A benchmark's results.
        out: The benchmark's folder.

    Returns:
        One for every number of pairs of which a picture is there.
    """
    keys = {system.label or key: key for key, system in results.systems.items()}
    grids = []
    for pairs in sorted({item.pairs for item in results.pictures}):
        items = [item for item in results.pictures if item.pairs == pairs]
        columns = dict.fromkeys(_column(name) for item in items for name, _ in item.cells)
        # A column that only a later picture has still stands between the input and the target.
        order = sorted(columns, key=lambda name: (name == "target") - (name == "input"))
        titles = {name: results.label(keys.get(name, name)) for name in order}
        rows = []
        for item in items:
            row = {name: Shown(None, title, "") for name, title in titles.items()}
            for name, file in item.cells:
                path = out / file
                psnr = f"{format_number(item.psnr[name])} dB" if name in item.psnr else ""
                title = name if _column(name) != name else titles[name]
                row[_column(name)] = Shown(path if path.is_file() else None, title, psnr)
            rows.append(tuple(row.values()))
        if any(shown.file for row in rows for shown in row):
            grids.append(Grid(pairs, tuple(titles.values()), tuple(item.name for item in items), tuple(rows)))
    return grids


def _column(name: str) -> str:
    """An input that is shown brighter, such as ``input (gamma 2.2)``, stands where the others do."""
    return "input" if name.startswith("input (") else name


def picture_sheets(grids: Sequence[Grid], folder: PlotFolder) -> Section:
    """Draw each grid as one picture, ``plots/pictures_<pairs>.png``."""
    plots = []
    for grid in grids:
        file = f"plots/pictures_{grid.pairs}.png"
        pictures = [
            [None if shown.file is None else to_bit_depth(read_image(shown.file), "8") for shown in row]
            for row in grid.rows
        ]
        captions = [
            [
                shown.psnr or (shown.title if shown.title != column else "")
                for column, shown in zip(grid.columns, row, strict=True)
            ]
            for row in grid.rows
        ]
        save_grid(
            folder.out / file, pictures, grid.columns, grid.names, captions=captions, cell_width=240, font_size=13
        )
        folder.written[file] = folder.out / file
        plots.append(Plot(file, f"Test pictures, {counted(grid.pairs, 'pair')}; below them their PSNR."))
    return Section("Pictures", plots=plots)
