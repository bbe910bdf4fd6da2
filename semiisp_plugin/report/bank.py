"""What a parameter bank holds: a table, a picture, and the ``basicsr bank`` command that writes both."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.locks import owned
from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.isp.parameters import IDENTITY
from semiisp_plugin.report.page import counted
from semiisp_plugin.report.tables import Table

LABELS = ("global", "local")

_FUNCTIONS = {
    "it": "inverse tone mapping",
    "cc": "colour correction",
    "ga": "gain",
    "gm": "gamma tone mapping",
    "cs": "contrast stretcher",
}
# Values with which a function changes nothing, so that another one can be shown alone.
_NEUTRAL = {"g3": 1.0, "g4": 0.0, "k2": 0.5, "o": 0.0, "gain": 1.0, "g1": 1.0, "g2": 1.0, "k": 0.5} | dict.fromkeys(
    "xywh", 0.5
)
_COLOURS = {"red": "#cc3333", "green": "#2a9a3a", "blue": "#2f66cc"}
_CURVES = 500
_LEVELS = 129
_BAND = (0.05, 0.5, 0.95)


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
    titles = {name: f"{describe_bank(banks[name], name)}, trained on {counted(n_pairs, 'pair')}" for name in labels}
    for name in labels:
        print(f"{titles[name]}\n\n{bank_table(banks[name])}")
    print(
        "at end: share of the values within 1 % of an end of the domain; a parameter that sits there asks for a wider\n"
        "        range (g4 begins there).\n"
        "between: standard deviation between images; within: between the positions of an image, on average."
    )
    of_banks = {
        name: {
            "sets": len(banks[name]),
            "capacity": banks[name].capacity,
            "grid": list(banks[name].grid),
            "non_finite": banks[name].non_finite,
            "spec": banks[name].spec.to_dict(),
            "statistics": [asdict(row) for row in banks[name].statistics()],
        }
        for name in labels
    }
    written = [Path(out) / f"bank_{name}.png" for name in labels] + [Path(out) / "bank.json"]
    try:
        with owned(out, "--out"):
            for name, path in zip(labels, written[:-1], strict=True):
                plot_bank(banks[name], path, title=titles[name])
            content = {"n_pairs": n_pairs, "banks": of_banks}
            write_atomically(written[-1], json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise OSError(f"{out} cannot be written ({error}); choose another folder with --out.") from error
    print("Written: " + ", ".join(map(str, written)))
    return written


def describe_bank(bank: ParameterBank, label: str | None = None) -> str:
    """A heading: the bank's label, number of sets, capacity, grid, kind of ISP, and how many sets were left out."""
    kind = "image enhancement" if bank.spec.inverse_tone_mapping else "ISP"
    name = f"Parameter bank '{label}'" if label else "Parameter bank"
    text = (
        f"{name}: {counted(len(bank), 'set')} (capacity {bank.capacity}), grid {bank.grid[0]}x{bank.grid[1]}, "
        f"{kind} with {bank.spec.n_parameters} parameters"
    )
    return text + (f", {counted(bank.non_finite, 'non-finite set')} left out" if bank.non_finite else "")


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
    return Table.of(rows, decimals=3).text()


# --- the picture ----------------------------------------------------------------------------------------------------


def plot_bank(bank: ParameterBank, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Draw what a bank holds, a row a function: histograms of its parameters, and what the function does.

    Histograms span a parameter's whole domain and count all sets and positions. Curves are drawn of up to 500 (set,
    position) pairs, chosen evenly at random with a fixed seed: what the function alone makes of greys, their median and
    the band of 5 % to 95 %, by channel; dashed, where training started.

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
    path, spec = Path(path), bank.spec
    some, start = some_positions(bank.sets), spec.squash(torch.zeros(1, spec.n_parameters, 1, 1))
    columns = 1 + max(len(parameters) for parameters in spec.functions.values())
    figure = Figure(figsize=(3 * columns, 2.2 * len(spec.functions) + 0.6), layout="constrained", facecolor="white")
    figure.suptitle(title or describe_bank(bank))
    grid = figure.subplots(len(spec.functions), columns, squeeze=False)
    for axes, (function, values) in zip(grid, spec.split(bank.sets).items(), strict=True):
        for ax, parameter in zip(axes, spec.functions[function], strict=False):
            _draw_histogram(ax, values[parameter.name], parameter.low, parameter.high, parameter.kind == "exp")
            ax.axvline(parameter.start, color="black", lw=1, ls="--")
            ax.set_title(f"{function} {parameter.name}", fontsize=9)
        for ax in axes[len(spec.functions[function]) : -1]:
            ax.set_axis_off()
        _draw_curves(axes[-1], curves(spec, some, (function,)), curves(spec, start, (function,))[0])
        axes[-1].set_title(_FUNCTIONS[function], fontsize=9)
        for ax in axes:
            ax.tick_params(labelsize=7)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=100)
    write_atomically(path, picture.getvalue())


def _draw_histogram(ax: Axes, values: Tensor, low: float, high: float, logarithmic: bool) -> None:
    """Values ``(n, count, h, w)``, of three channels in their colours, of six off-diagonals together."""
    edges = np.geomspace(low, high, 61) if logarithmic else np.linspace(low, high, 61)
    flat = values.transpose(0, 1).flatten(1).double().numpy().clip(low, high)  # rounding can lead out of the domain
    series = zip(_COLOURS.values(), flat, strict=True) if len(flat) == 3 else [("#777777", flat.ravel())]
    for colour, of_channel in series:
        counts, _ = np.histogram(of_channel, edges)
        ax.stairs(100 * counts / len(of_channel), edges, fill=True, color=colour, alpha=0.4)
    if logarithmic:
        ax.set_xscale("log", base=2)
    ax.set_xlim(low, high)
    ax.set_ylabel("% of values", fontsize=7)


def _draw_curves(ax: Axes, outputs: np.ndarray, start: np.ndarray) -> None:
    levels = np.linspace(0, 1, _LEVELS)
    for channel, colour in enumerate(_COLOURS.values()):
        low, median, high = np.quantile(outputs[:, channel], _BAND, axis=0)
        ax.fill_between(levels, low, high, color=colour, alpha=0.25, lw=0)
        ax.plot(levels, median, color=colour, lw=1.8)
    ax.plot(levels, start[0], color="black", lw=1, ls="--")
    ax.set(xlim=(0, 1), ylim=(0, 1))


# --- what the sets do -----------------------------------------------------------------------------------------------


def some_positions(sets: Tensor) -> Tensor:
    """Up to 500 sets of one position, ``(n, K, 1, 1)``."""
    positions = sets.permute(0, 2, 3, 1).flatten(0, 2)
    # At random, because every n-th could be the same corner of every image.
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    return positions[order[:_CURVES]][:, :, None, None]


def curves(spec: ISPSpec, sets: Tensor, functions: tuple[str, ...]) -> np.ndarray:
    """Outputs ``(n, 3, levels)`` of these functions alone for inputs from 0 to 1, of sets ``(n, K, 1, 1)``."""
    sets = sets.clone()
    for other, parameters in spec.split(sets).items():
        if other not in functions:
            for name, view in parameters.items():
                view.fill_(_NEUTRAL[name])
    ramp = torch.linspace(0, 1, _LEVELS).expand(len(sets), 3, 1, _LEVELS)
    return InvertibleISP(replace(spec, base_matrix=IDENTITY)).forward(ramp, sets)[:, :, 0].double().numpy()
