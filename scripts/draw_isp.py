"""Pictures of the invertible ISP: what each parameter does, and a photograph under twelve parameter sets.

    basicsr demo --task raw --split drawn --seed 1 --out demo_raw_1
    python scripts/draw_isp.py --f_isp demo_raw_1/experiments/1_fisp/models/f_isp_latest.pth --out docs/images

Writes isp_functions.png and isp_twelve_sets.jpg, and prints how well the photograph survives the way back and forward
again: the pictures and the table of docs/functions.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from semiisp_plugin.data.image_io import read_image, to_tensor, write_image
from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.gamma_inverse import gamma_tone_map_inverse
from semiisp_plugin.isp.parameters import IDENTITY
from semiisp_plugin.isp.tone_inverse import inverse_tone_map_inverse
from semiisp_plugin.pseudo.f_isp import load_f_isp
from semiisp_plugin.report.grids import Picture, draw_grid
from semiisp_plugin.report.tables import text_table
from semiisp_plugin.simulation.colour import linear_to_srgb
from semiisp_plugin.simulation.photographs import load_photographs

SETS = 12
COLUMNS = 4
CELL_WIDTH = 240
DIFFERENCE_GAIN = 4
NO_F_ISP = """--f_isp is missing: the parameter sets are those of a trained f_ISP. The demo leaves one in a few minutes:
    basicsr demo
    python scripts/draw_isp.py --f_isp demo_output/experiments/1_fisp/models/f_isp_latest.pth"""


# --- what each parameter does ---------------------------------------------------------------------------------------

SWEEP = 5
PATCHES = (  # linear light
    (0.40, 0.12, 0.10),
    (0.50, 0.30, 0.20),
    (0.50, 0.42, 0.08),
    (0.12, 0.36, 0.12),
    (0.10, 0.36, 0.40),
    (0.10, 0.14, 0.42),
    (0.34, 0.12, 0.36),
    (0.08, 0.08, 0.08),
    (0.22, 0.22, 0.22),
    (0.50, 0.50, 0.50),
)
OFF_DIAGONALS = ("rg", "rb", "gr", "gb", "br", "bg")
INK = "#222222"


@dataclass(frozen=True)
class Panel:
    """One parameter and the values at which the others stay meanwhile."""

    parameter: str
    title: str
    others: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One function with its inverse."""

    name: str
    title: str
    forward: Callable[..., Tensor]
    inverse: Callable[..., Tensor]
    panels: tuple[Panel, ...]


ROWS = (
    Row(
        "it",
        "Inverse tone mapping (it): first, and only for image enhancement",
        fn.inverse_tone_map,
        inverse_tone_map_inverse,
        (
            # g4 = 0 and g3 = 1 would hide what the others do.
            Panel("g3", "g3: exponent, darkens above 1", {"g4": 0.02, "k2": 0.5}),
            Panel("g4", "g4: exponent grows with brightness", {"g3": 2.5, "k2": 0.5}),
            Panel("k2", "k2: brightness where the exponent is g3", {"g3": 2.5, "g4": 3.0}),
        ),
    ),
    Row(
        "cc",
        "Colour correction (cc): mixes red, green and blue, on linear colours (shown sRGB-encoded)",
        fn.colour_correction,
        fn.colour_correction_inverse,
        (
            Panel("gain", "gain of red", {"o": 0.0}),
            Panel("o", "rg: green mixed into red", {"gain": 1.0}),
            Panel("o", "all six off-diagonals alike", {"gain": 1.0}),
        ),
    ),
    Row(
        "ga",
        "Gain (ga): stretches a window of dark values, never clips",
        fn.contrast_stretch,
        fn.contrast_stretch_inverse,
        (
            Panel("x", "x: where the window lies", {"w": 0.2, "h": 0.6}),
            Panel("w", "w: width of the window", {"x": 0.1, "h": 0.7}),
            Panel("h", "h: height it is stretched to", {"x": 0.1, "w": 0.3}),
        ),
    ),
    Row(
        "gm",
        "Gamma tone mapping (gm)",
        fn.gamma_tone_map,
        gamma_tone_map_inverse,
        (
            # g2 = 1 is a plain gamma, in which k has no say.
            Panel("g1", "g1: gamma, brightens above 1", {"g2": 1.0, "k": 0.5}),
            Panel("g2", "g2: bend towards white", {"g1": 2.2, "k": 0.5}),
            Panel("k", "k: brightness where gamma is g1", {"g1": 2.2, "g2": 0.2}),
        ),
    ),
    Row(
        "cs",
        "Contrast stretcher (cs): the same function as gain, around the middle",
        fn.contrast_stretch,
        fn.contrast_stretch_inverse,
        (
            Panel("x", "x: where the window lies", {"w": 0.7, "h": 0.3}),
            Panel("w", "w: width of the window", {"x": 0.5, "h": 0.5}),
            Panel("h", "h: height it is stretched to", {"x": 0.5, "w": 0.5}),
        ),
    ),
)


def sweep(spec: ISPSpec, function: str, parameter: str) -> list[float]:
    """Values over a parameter's whole domain, in equal steps or equal ratios."""
    (p,) = (p for p in spec.functions[function] if p.name == parameter)
    return (np.geomspace if p.kind == "exp" else np.linspace)(p.low, p.high, SWEEP).tolist()


def draw_functions(path: Path) -> None:
    """A row of panels a function, a pair of panels a parameter: forward and back."""
    spec = ISPSpec(inverse_tone_mapping=True)
    width, row_height, top, side, left, pitch, gap = 9.6, 2.62, 0.62, 1.3, 0.45, 3.07, 0.17
    height = top + row_height * len(ROWS)
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")

    def axes_at(x: float, y: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + side) / height, side / width, side / height))

    def text_at(x: float, y: float, text: str, size: float, **style: str) -> None:
        figure.text(x / width, 1 - y / height, text, fontsize=size, color=INK, va="top", **style)

    text_at(0.12, 0.1, "What each parameter of the ISP does, in the order of the functions", 13, fontweight="bold")
    note = "Left of each pair: forward, from an input to the picture. Right: back. One line, or one line of patches, a value."
    text_at(0.12, 0.36, note, 9)
    for r, row in enumerate(ROWS):
        y = top + r * row_height
        text_at(0.12, y + 0.08, row.title, 10.5, fontweight="bold")
        for c, panel in enumerate(row.panels):
            x = left + c * pitch
            values = sweep(spec, row.name, panel.parameter)
            middle = x + side + gap / 2
            text_at(middle, y + 0.36, panel.title, 8.5, ha="center")
            fixed = ", ".join(f"{name} = {value:g}" for name, value in panel.others.items() if row.name != "cc")
            text_at(middle, y + 0.53, f"({fixed})" if fixed else "(everything else neutral)", 7.5, ha="center")
            pair = axes_at(x, y + 0.74), axes_at(x + side + gap, y + 0.74)
            if row.name == "cc":
                draw_patches(pair, row, panel, values)
            else:
                draw_curves(pair, row, panel, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_curves(pair: tuple[Axes, Axes], row: Row, panel: Panel, values: Sequence[float]) -> None:
    levels = torch.linspace(0, 1, 257, dtype=torch.float64)
    colours = colormaps["plasma"](np.linspace(0, 0.85, len(values)))
    for axes, function, labels in zip(
        pair, (row.forward, row.inverse), (("forward: input", "output"), ("back: output", "input")), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="#cccccc", lw=0.8, zorder=0)
        for value, colour in zip(values, colours, strict=True):
            parameters = {
                name: levels.new_tensor(v).reshape(1, 1, 1, 1)
                for name, v in {**panel.others, panel.parameter: value}.items()
            }
            curve = function(levels.reshape(1, 1, 1, -1), **parameters).flatten()
            axes.plot(levels.numpy(), curve.numpy(), color=colour, lw=1.4, label=f"{value:.2g}")
        ticks = ([0, 0.5, 1], ["0", ".5", "1"])
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xticks(*ticks)
        axes.set_yticks(*ticks)
        axes.set_xlabel(labels[0], fontsize=7.5, color=INK, labelpad=1)
        axes.set_ylabel(labels[1], fontsize=7.5, color=INK, labelpad=0)
        axes.tick_params(labelsize=7, length=2, pad=2, colors=INK)
    handles, names = pair[0].get_legend_handles_labels()
    pair[0].legend(
        handles,
        names,
        title=f"{panel.parameter} =",
        loc="upper center",
        bbox_to_anchor=(1.07, -0.24),
        ncols=len(values),
        fontsize=7.5,
        title_fontsize=7.5,
        frameon=False,
        handlelength=1,
        handletextpad=0.4,
        columnspacing=0.9,
    )


def draw_patches(pair: tuple[Axes, Axes], row: Row, panel: Panel, values: Sequence[float]) -> None:
    """Patches under one parameter, a row a value; a cross where a value leaves [0, 1] and is clamped."""
    patches = torch.tensor(PATCHES, dtype=torch.float64).T.reshape(1, 3, 1, -1)
    for axes, function, label in zip(pair, (row.forward, row.inverse), ("forward", "back"), strict=True):
        lines = []
        for value in values:
            gain = patches.new_ones(1, 3, 1, 1)
            off_diagonal = patches.new_zeros(1, 6, 1, 1)
            if panel.parameter == "gain":
                gain[:, 0] = value
            else:
                # At the ends of the domain the matrix of all six together is all but singular: grey becomes black.
                together = "all" in panel.title
                off_diagonal[:, : 6 if together else 1] = value
            lines.append(function(patches, off_diagonal, gain, IDENTITY)[0, :, 0])
        colours = torch.stack(lines, 1).permute(1, 2, 0)
        axes.imshow(linear_to_srgb(colours.clamp(0, 1)).numpy(), aspect="auto", interpolation="nearest")
        for line, column in ((colours < 0) | (colours > 1)).any(2).nonzero().tolist():
            axes.plot(column, line, "x", color="white", ms=4.5, mew=1.8)
            axes.plot(column, line, "x", color="black", ms=4, mew=0.8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(label, fontsize=7.5, color=INK, labelpad=2)
        axes.tick_params(labelsize=7, length=0, pad=2, colors=INK)
    pair[0].set_yticks(range(len(values)), [f"{value:.2g}" for value in values])


# --- one photograph, twelve sets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundTrip:
    """A photograph taken back and forward again under several sets.

    Attributes:
        inputs: ``(N, 3, H, W)``, what the inverse makes of it.
        again: ``(N, 3, H, W)``, what the same sets make of those.
        clipped: ``(N,)``, share of values that were clamped on the way back.
        errors: ``(N, H, W)``, difference from the photograph, the largest of the three channels.
        kept: ``(N, H, W)``, which pixels had no value clamped.
    """

    inputs: Tensor
    again: Tensor
    clipped: Tensor
    errors: Tensor
    kept: Tensor


def round_trip(photograph: Tensor, spec: ISPSpec, sets: Tensor) -> RoundTrip:
    """``photograph`` is ``(3, H, W)``, ``sets`` are ``(N, K, 1, 1)``."""
    images = photograph.expand(len(sets), -1, -1, -1)
    isp = InvertibleISP(spec)
    inputs, clipped = isp.inverse(images, sets)
    again = isp.forward(inputs, sets)
    # Clamping is decided behind the inverse colour correction: the same ISP without f_IT shows the values there.
    colours = InvertibleISP(replace(spec, inverse_tone_mapping=False))
    values = colours.inverse(images, sets[:, spec.slices()["cc"].start :], clamp=False).image
    kept = ((values >= 0) & (values <= 1)).all(1)
    return RoundTrip(inputs, again, clipped, (again - images).abs().amax(1), kept)


def table(trip: RoundTrip) -> str:
    rows = []
    for i, (errors, kept) in enumerate(zip(trip.errors, trip.kept, strict=True)):
        rows.append(
            {
                "set": i + 1,
                "clipped values": f"{trip.clipped[i]:6.2%}",
                "clipped pixels": f"{1 - kept.double().mean():6.2%}",
                **{
                    f"{what}, {where}": f"{statistic(chosen):.1e}" if chosen.numel() else None
                    for where, chosen in (("others", errors[kept]), ("all", errors))
                    for what, statistic in (("mean", torch.mean), ("max", torch.max))
                },
            }
        )
    return text_table(rows)


def draw_sets(path: Path, photograph: Tensor, trip: RoundTrip, spec: ISPSpec, title: str) -> None:
    """The photograph, then three rows for every few sets: the inputs, the photograph again, and what was lost."""
    show = (lambda image: image) if spec.inverse_tone_mapping else linear_to_srgb
    rows: list[list[Picture | None]] = [[photograph]]
    captions: list[list[str | None]] = [["the photograph"]]
    titles = [""]
    for start in range(0, len(trip.inputs), COLUMNS):
        several = range(start, min(start + COLUMNS, len(trip.inputs)))
        rows.append([show(trip.inputs[i]) for i in several])
        captions.append([f"set {i + 1}: {trip.clipped[i]:.1%} clipped" for i in several])
        rows.append([trip.again[i] for i in several])
        captions.append([f"error {trip.errors[i].mean():.4f}, max {trip.errors[i].max():.2f}" for i in several])
        rows.append([1 - (DIFFERENCE_GAIN * trip.errors[i]).clamp(0, 1).expand(3, -1, -1) for i in several])
        captions.append([None for _ in several])
        titles += ["back", "forward", "lost"]
    grid = draw_grid(rows, row_titles=titles, captions=captions, title=title, cell_width=CELL_WIDTH, font_size=17)
    write_image(path, grid, jpeg_quality=85)


# --- the command ----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--f_isp", metavar="FILE", help="f_isp_latest.pth of phase 1; its global bank is drawn from")
    text = "an image file (default: china.jpg, which ships with scikit-learn)"
    parser.add_argument("--photograph", metavar="FILE", help=text)
    parser.add_argument("--out", metavar="DIR", default="isp_pictures", help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the twelve sets (default: %(default)s)")
    return parser


def read_small(path: str | None) -> Tensor:
    """The photograph at the width of a cell, ``(3, H, W)``."""
    image = read_image(path, bit_depth="8") if path else load_photographs(["china"])["china"]
    height = max(1, round(image.shape[0] * CELL_WIDTH / image.shape[1]))
    return to_tensor(cv2.resize(image, (CELL_WIDTH, height), interpolation=cv2.INTER_AREA))


def describe(bank: ParameterBank, n_pairs: int) -> str:
    if bank.spec.inverse_tone_mapping:
        return f"{SETS} of {len(bank)} sets of an f_ISP trained on {n_pairs} pairs for image enhancement"
    return f"{SETS} of {len(bank)} sets of an f_ISP trained on {n_pairs} RAW pairs (RAW shown sRGB-encoded)"


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if not args.f_isp:
        parser.exit(2, f"{parser.prog}: error: {NO_F_ISP}\n")
    out = Path(args.out)
    try:
        _, banks, n_pairs = load_f_isp(args.f_isp)
        bank = banks["global"]
        sets = bank.draw(SETS, torch.Generator().manual_seed(args.seed))
        photograph = read_small(args.photograph)
        trip = round_trip(photograph, bank.spec, sets)
        draw_functions(out / "isp_functions.png")
        draw_sets(out / "isp_twelve_sets.jpg", photograph, trip, bank.spec, describe(bank, n_pairs))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"{describe(bank, n_pairs)}, drawn with seed {args.seed}.")
    print("Errors are those of the photograph after back and forward, 1 = white; 'others': pixels that were not clipped.\n")
    print(table(trip))
    print(f"Pictures: {out / 'isp_functions.png'}, {out / 'isp_twelve_sets.jpg'}")


if __name__ == "__main__":
    main()
