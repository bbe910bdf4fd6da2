"""What a parameter bank holds: a table, a picture, and the ``basicsr bank`` command that writes both."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.isp.parameters import IDENTITY
from semiisp_plugin.report.tables import text_table

LABELS = ("global", "local")

_FUNCTIONS = {
    "it": "Inverse tone mapping (it)",
    "cc": "Colour correction (cc)",
    "ga": "Gain (ga)",
    "gm": "Gamma tone mapping (gm)",
    "cs": "Contrast stretcher (cs)",
}
_STRETCH = {
    "x": "x: where the window lies, 0 dark, 1 bright",
    "w": "w: width of the input window",
    "h": "h: height it is stretched to",
    "y": "y: where the window lies afterwards",
}
_PARAMETERS = {
    "it": {
        "g3": "g3: exponent, darkens above 1",
        "g4": "g4: how much the exponent varies with brightness",
        "k2": "k2: brightness at which the exponent is g3",
    },
    "cc": {"gain": "gain of each channel, before mixing"},
    "ga": _STRETCH,
    "gm": {
        "g1": "g1: gamma, brightens above 1",
        "g2": "g2: bend towards white",
        "k": "k: brightness at which gamma is g1",
    },
    "cs": _STRETCH,
}
# Values with which a function changes nothing, so that another one can be shown alone.
_NEUTRAL = {"g3": 1.0, "g4": 0.0, "k2": 0.5, "o": 0.0, "gain": 1.0, "g1": 1.0, "g2": 1.0, "k": 0.5} | dict.fromkeys(
    "xywh", 0.5
)
_CHANNELS = ("red", "green", "blue")
_COLOURS = {"red": "#cc3333", "green": "#2a9a3a", "blue": "#2f66cc"}
_INK = "#222222"
_BINS = 100
_CURVES = 500
_LEVELS = 129
_BAND = (0.05, 0.5, 0.95)


# --- the command ----------------------------------------------------------------------------------------------------


def report_banks(
    banks: Mapping[str, ParameterBank], n_pairs: int, out: str | os.PathLike[str], label: str | None = None
) -> list[Path]:
    """Print the statistics of parameter banks and write them with pictures; files of an earlier report are replaced.

    Args:
        banks: The banks ``global`` and ``local`` of phase 1.
        n_pairs: Number of pairs that f_ISP was trained on.
        out: Folder for ``bank_<label>.png``, one a bank, and ``bank.json``, the statistics with all digits; it is
            made if missing.
        label: Only that bank.

    Returns:
        The files written.

    Raises:
        ValueError: There is no such bank, or it is empty.
        OSError: The folder cannot be written.
    """
    labels = [name for name in LABELS if name in banks] if label is None else [label]
    for name in labels or LABELS:
        if name not in banks:
            raise ValueError(f"There is no parameter bank '{name}'; there are: {', '.join(banks) or 'none'}.")
        if len(banks[name]) == 0:
            raise ValueError(f"The parameter bank '{name}' is empty: train f_ISP first (phase 1).")
    titles = {name: f"{describe_bank(banks[name], name)}, trained on {_count(n_pairs, 'pair')}" for name in labels}
    for name in labels:
        print(f"{titles[name]}\n\n{bank_table(banks[name])}")
    print(_legend(any(banks[name].spec.inverse_tone_mapping for name in labels)))

    content = {"n_pairs": n_pairs, "banks": {name: bank_values(banks[name]) for name in labels}}
    written = [Path(out) / f"bank_{name}.png" for name in labels] + [Path(out) / "bank.json"]
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        for name, path in zip(labels, written[:-1], strict=True):
            plot_bank(banks[name], path, title=titles[name])
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        _write_whole(written[-1], lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise OSError(f"{out} cannot be written ({error}); choose another folder with --out.") from error
    print("Written: " + ", ".join(map(str, written)))
    return written


def describe_bank(bank: ParameterBank, label: str | None = None) -> str:
    """A heading: the bank's label, number of sets, capacity, grid, kind of ISP, and how many sets were left out."""
    kind = "image enhancement" if bank.spec.inverse_tone_mapping else "ISP"
    name = f"Parameter bank '{label}'" if label else "Parameter bank"
    text = (
        f"{name}: {_count(len(bank), 'set')} (capacity {bank.capacity}), grid {bank.grid[0]}x{bank.grid[1]}, "
        f"{kind} with {bank.spec.n_parameters} parameters"
    )
    return text + (f", {_count(bank.non_finite, 'non-finite set')} left out" if bank.non_finite else "")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def bank_values(bank: ParameterBank) -> dict[str, object]:
    """What `describe_bank` and `bank_table` show, as plain values with all digits."""
    return {
        "sets": len(bank),
        "capacity": bank.capacity,
        "grid": list(bank.grid),
        "non_finite": bank.non_finite,
        "spec": bank.spec.to_dict(),
        "statistics": [asdict(row) for row in bank.statistics()],
    }


def bank_table(bank: ParameterBank) -> str:
    """The statistics of a bank as a table for a terminal, at most 120 columns wide.

    Raises:
        ValueError: The bank is empty.
    """
    rows = []
    for s in bank.statistics():
        row: dict[str, object] = {
            "parameter": f"{s.function} {s.parameter}",
            "channel": s.channel,
            "domain": f"{s.low:.3g}..{s.high:.3g}",
            "start": s.start,
            "min": s.min,
            "5 %": s.p5,
            "median": s.median,
            "95 %": s.p95,
            "max": s.max,
            "mean": s.mean,
            "std": s.std,
            "at end": s.at_low + s.at_high,
        }
        if bank.grid != (1, 1):  # one position has nothing to vary over
            row |= {"between": s.between_images, "within": s.within_image}
        rows.append(row)
    return text_table(rows, decimals=3)


def _legend(inverse_tone_mapping: bool) -> str:
    lines = [
        "at end: share of the values within 1 % of an end of the domain; a parameter that sits there asks for a wider",
        "        range" + (" (g4 begins there)." if inverse_tone_mapping else "."),
        "between: standard deviation between images; within: between the positions of an image, on average.",
    ]
    return "\n".join(lines)


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, then rename it: nobody sees half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# --- the picture ----------------------------------------------------------------------------------------------------


def plot_bank(bank: ParameterBank, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Draw what a bank holds: per function the histograms of its parameters and what it does; below, the whole curves.

    Histograms span a parameter's whole domain (g1, g3 and gain in log units) and count all sets and positions. Curves
    are drawn for up to 500 (set, position) pairs, chosen evenly at random with a fixed seed.

    Args:
        bank: At least one set.
        path: The file; its ending chooses the format (``.png``, ``.pdf``, ``.svg``). Missing folders are made.
        title: Above everything; default: `describe_bank` without a label.

    Raises:
        ValueError: The bank is empty, or matplotlib does not know the format.
        OSError: The file cannot be written.
    """
    if len(bank) == 0:
        raise ValueError("The parameter bank is empty: train f_ISP first (phase 1).")
    path = Path(path)
    figure = _draw(bank, title or describe_bank(bank))
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, lambda partial: figure.savefig(partial, format=path.suffix[1:].lower()))


@dataclass(frozen=True)
class _Histogram:
    """One panel of histograms; ``series`` maps the name of a channel to its values."""

    title: str
    series: Mapping[str, np.ndarray]
    low: float
    high: float
    logarithmic: bool
    start: float


class _Page:
    """A figure measured in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=100, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float, title: str) -> Axes:
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_title(title, fontsize=9.5, color=_INK, pad=5)
        axes.tick_params(labelsize=8, length=3, colors=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def text(self, left: float, top: float, text: str, size: float) -> None:
        place = (left / self.width, 1 - top / self.height)
        self.figure.text(*place, text, fontsize=size, fontweight="bold", color=_INK, va="top", ha="left")


def _draw(bank: ParameterBank, title: str) -> Figure:
    spec, sets = bank.spec, bank.sets
    some, start = _some_positions(sets), spec.squash(torch.zeros(1, spec.n_parameters, 1, 1))
    functions = tuple(spec.functions)
    left, head, row_height, plot_top, plot_height = 0.8, 1.1, 2.3, 0.55, 1.4
    effect_left, effect_width = 12.95, 2.8
    page = _Page(16.0, head + row_height * len(functions) + 3.3)
    page.text(0.3, 0.22, title, 14)
    _draw_key(page)
    for row, function in enumerate(functions):
        top = head + row * row_height
        page.text(0.3, top, _FUNCTIONS[function], 12)
        panels = _histograms(spec, sets, function)
        gap = 0.45
        width = (effect_left - 0.75 - left + gap) / len(panels) - gap
        for c, panel in enumerate(panels):
            axes = page.axes(left + c * (width + gap), top + plot_top, width, plot_height, panel.title)
            _draw_histogram(axes, panel)
            if c == 0:
                axes.set_ylabel("% of values", fontsize=8.5, color=_INK)
        axes = page.axes(effect_left, top + plot_top, effect_width, plot_height, "")
        if function == "cc":
            axes.set_title("the resulting matrix", fontsize=9.5, color=_INK, pad=5)
            _draw_matrix(axes, _matrices(spec, some), _matrices(spec, start)[0])
        else:
            axes.set_title("the resulting curve", fontsize=9.5, color=_INK, pad=5)
            _draw_curves(axes, _curves(spec, some, (function,)), _curves(spec, start, (function,)), _CHANNELS)

    top = head + row_height * len(functions)
    chain = tuple(function for function in functions if function != "cc")
    page.text(0.3, top, f"All curves, one after the other: {', '.join(chain)}", 12)
    curves, first = _curves(spec, some, chain), _curves(spec, start, chain)
    gap = 0.7
    width = (effect_left + effect_width - left + gap) / 4 - gap
    for c, (name, channels) in enumerate([("together", _CHANNELS), *((c, (c,)) for c in _CHANNELS)]):
        axes = page.axes(left + c * (width + gap), top + plot_top, width, 2.05, name)
        _draw_curves(axes, curves, first, channels, examples=len(channels) == 1)
    return page.figure


def _draw_key(page: _Page) -> None:
    handles: list[Line2D | Patch] = [Line2D([], [], color=_COLOURS[name], lw=2, label=name) for name in _CHANNELS]
    handles += [
        Line2D([], [], color=_INK, lw=1.2, ls="--", label="where training started"),
        Line2D([], [], color="#777777", lw=2, label="median of the sets"),
        Line2D([], [], color="#777777", lw=0.6, label="some single sets"),
        Patch(color="#777777", alpha=0.25, lw=0, label="5 % to 95 % of the sets"),
    ]
    place = (0.25 / page.width, 1 - 0.5 / page.height)
    page.figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=place, ncols=len(handles), fontsize=9.5, frameon=False
    )


# Histograms.


def _histograms(spec: ISPSpec, sets: Tensor, function: str) -> list[_Histogram]:
    panels = []
    values = spec.split(sets)[function]
    for p in spec.functions[function]:
        flat = list(values[p.name].transpose(0, 1).flatten(1).double().numpy())
        limits = (p.low, p.high, p.kind == "exp", p.start)
        if p.count == len(_CHANNELS):
            series = dict(zip(_CHANNELS, flat, strict=True))
            panels.append(_Histogram(_PARAMETERS[function][p.name], series, *limits))
            continue
        for row, channel in enumerate(_CHANNELS):  # the off-diagonals, a row of the matrix after the other
            others = [name for name in _CHANNELS if name != channel]
            series = dict(zip(others, flat[2 * row : 2 * row + 2], strict=True))
            panels.append(_Histogram(f"o: {others[0]} and {others[1]} mixed into {channel}", series, *limits))
    return panels


def _draw_histogram(axes: Axes, panel: _Histogram) -> None:
    edges = np.linspace(panel.low, panel.high, _BINS + 1)
    margin = 0.02 * (panel.high - panel.low)
    limits = (panel.low - margin, panel.high + margin)
    if panel.logarithmic:
        edges = np.geomspace(panel.low, panel.high, _BINS + 1)
        margin = (panel.high / panel.low) ** 0.02
        limits = (panel.low / margin, panel.high * margin)
        axes.set_xscale("log")
        octaves = range(int(np.ceil(np.log2(panel.low) - 1e-9)), int(np.floor(np.log2(panel.high) + 1e-9)) + 1)
        axes.set_xticks([2.0**k for k in octaves], [f"{2.0**k:g}" for k in octaves])
        axes.minorticks_off()
    for name, values in panel.series.items():
        # Rounding can put a value a little outside its domain; it belongs to the bin at that end.
        counts, _ = np.histogram(values.clip(panel.low, panel.high), edges)
        share = 100 * counts / len(values)
        axes.stairs(share, edges, fill=True, color=_COLOURS[name], alpha=0.25, lw=0)
        # Without outlines of empty bins, which would run along the axis in one channel's colour.
        axes.stairs(np.where(counts, share, np.nan), edges, color=_COLOURS[name], lw=1.2)
    for end in (panel.low, panel.high):
        axes.axvline(end, color="#bbbbbb", lw=0.8, zorder=0)
    axes.axvline(panel.start, color=_INK, lw=1.2, ls="--")
    axes.set_xlim(*limits)
    axes.set_ylim(bottom=0)


# What the sets do.


def _some_positions(sets: Tensor) -> Tensor:
    """Up to 500 sets of one position, ``(n, K, 1, 1)``."""
    positions = sets.permute(0, 2, 3, 1).flatten(0, 2)
    # At random, because every n-th could be the same corner of every image.
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    return positions[order[:_CURVES]][:, :, None, None]


def _curves(spec: ISPSpec, sets: Tensor, functions: tuple[str, ...]) -> np.ndarray:
    """Outputs ``(n, 3, levels)`` of these functions alone for inputs from 0 to 1, of sets ``(n, K, 1, 1)``."""
    isp = InvertibleISP(replace(spec, base_matrix=IDENTITY))
    sets = sets.clone()
    for function, parameters in spec.split(sets).items():
        if function not in functions:
            for name, view in parameters.items():
                view.fill_(_NEUTRAL[name])
    ramp = torch.linspace(0, 1, _LEVELS).expand(len(sets), 3, 1, _LEVELS)
    return isp.forward(ramp, sets)[:, :, 0].double().numpy()


def _matrices(spec: ISPSpec, sets: Tensor) -> np.ndarray:
    """The matrices ``(n, 3, 3)`` of the colour correction, the constant one in front included (eq. 4)."""
    p = spec.split(sets.double())["cc"]
    mixing = torch.eye(3, dtype=torch.float64).repeat(len(sets), 1, 1)
    mixing[:, ~torch.eye(3, dtype=torch.bool)] = p["o"][:, :, 0, 0]
    base = torch.tensor(spec.base_matrix, dtype=torch.float64)
    return (mixing * p["gain"][:, None, :, 0, 0] @ base).numpy()


def _draw_curves(
    axes: Axes, curves: np.ndarray, start: np.ndarray, channels: tuple[str, ...], *, examples: bool = False
) -> None:
    levels = np.linspace(0, 1, _LEVELS)
    for name in channels:
        colour, of_channel = _COLOURS[name], curves[:, _CHANNELS.index(name)]
        low, median, high = np.quantile(of_channel, _BAND, axis=0)
        axes.fill_between(levels, low, high, color=colour, alpha=0.25, lw=0)
        if examples:
            axes.plot(levels, of_channel[:20].T, color=colour, lw=0.5, alpha=0.5)
        axes.plot(levels, median, color=colour, lw=1.8)
    axes.plot(levels, start[0, 0], color=_INK, lw=1.0, ls="--")
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_xlabel("input", fontsize=8.5, color=_INK, labelpad=1)
    axes.set_ylabel("output", fontsize=8.5, color=_INK)


def _draw_matrix(axes: Axes, matrices: np.ndarray, start: np.ndarray) -> None:
    low, median, high = np.quantile(matrices, _BAND, axis=0)
    axes.axhline(0, color="#bbbbbb", lw=0.8)
    for row in range(3):
        for column, source in enumerate(_CHANNELS):
            x = row + 0.24 * (column - 1)
            axes.bar(
                x, high[row, column] - low[row, column], 0.18, low[row, column], color=_COLOURS[source], alpha=0.25
            )
            axes.plot([x - 0.09, x + 0.09], [median[row, column]] * 2, color=_COLOURS[source], lw=2.2)
            axes.plot([x - 0.11, x + 0.11], [start[row, column]] * 2, color=_INK, lw=1.0, ls=(0, (2, 1)))
    axes.use_sticky_edges = False  # or bars that begin at 0 would stand on the frame
    axes.autoscale_view()
    axes.set_xticks(range(3), [f"{name} output" for name in _CHANNELS])
    axes.set_ylabel("weight of input", fontsize=8.5, color=_INK)
