"""Pictures of the invertible ISP: what each parameter does, and a photograph under twelve parameter sets.

    basicsr demo --task raw --out demo_raw
    python scripts/draw_isp.py --f_isp demo_raw/f_isp_latest.pth --out docs/images

Writes isp_functions.png and isp_twelve_sets.jpg, and prints how well the photograph survives the way back and forward
again: the pictures and the table of docs/functions.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from semiisp_plugin.io.image_io import read_image, to_tensor, write_image
from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.gamma_inverse import gamma_tone_map_inverse
from semiisp_plugin.isp.parameters import IDENTITY
from semiisp_plugin.isp.tone_inverse import inverse_tone_map_inverse
from semiisp_plugin.pseudo.f_isp import load_f_isp
from semiisp_plugin.report.grids import Picture, draw_grid
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.colour import linear_to_srgb
from semiisp_plugin.simulation.photographs import load_photographs

SETS = 12
COLUMNS = 4
CELL_WIDTH = 204
DIFFERENCE_GAIN = 4
NO_F_ISP = """--f_isp is missing: the parameter sets are those of a trained f_ISP. The demo leaves one in a few minutes:
    basicsr demo
    python scripts/draw_isp.py --f_isp demo_output/f_isp_latest.pth"""


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
        "Colour correction (cc): gains, then mixing; × marks what leaves [0, 1] and is clipped",
        fn.colour_correction,
        fn.colour_correction_inverse,
        (
            Panel("gain", "gain of red", {"o": 0.0}),
            Panel("rg", "rg: green mixed into red", {"gain": 1.0}),
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
    # In inches, from the top left corner.
    width, top, side, left, pitch, gap = 9.6, 0.72, 1.3, 0.47, 3.09, 0.12
    row_heights = [2.35 if row.name == "cc" else 2.62 for row in ROWS]
    height = top + sum(row_heights)
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")

    def axes_at(x: float, y: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + side) / height, side / width, side / height))

    def text_at(x: float, y: float, text: str, size: float, **style: str) -> None:
        figure.text(x / width, 1 - y / height, text, fontsize=size, color=INK, va="top", **style)

    text_at(0.12, 0.1, "What each parameter of the ISP does", 13, fontweight="bold")
    note = (
        "The functions in their order. Left of a pair: forward; right: back. Every line or row of patches is a value."
    )
    text_at(0.12, 0.4, note, 9)
    for number, row in enumerate(ROWS):
        y = top + sum(row_heights[:number])
        text_at(0.12, y + 0.08, row.title, 10.5, fontweight="bold")
        for c, panel in enumerate(row.panels):
            x = left + c * pitch
            middle = x + side + gap / 2
            text_at(middle, y + 0.37, panel.title, 8.5, ha="center")
            others = ", ".join(f"{name} = {value:g}" for name, value in panel.others.items())
            text_at(middle, y + 0.54, f"({others})", 7.5, ha="center")
            pair = axes_at(x, y + 0.76), axes_at(x + side + gap, y + 0.76)
            if row.name == "cc":
                draw_patches(pair, panel.parameter, sweep(spec, "cc", "gain" if panel.parameter == "gain" else "o"))
            else:
                draw_curves(pair, row, panel, sweep(spec, row.name, panel.parameter))
    # 256 colours are plenty and make the file a third as large.
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)


def draw_curves(pair: tuple[Axes, Axes], row: Row, panel: Panel, values: Sequence[float]) -> None:
    levels = torch.linspace(0, 1, 257, dtype=torch.float64)
    colours = colormaps["plasma"](np.linspace(0, 0.85, len(values)))
    ways = ((row.forward, "forward: input → output"), (row.inverse, "back: output → input"))
    for axes, (function, label) in zip(pair, ways, strict=True):
        axes.plot([0, 1], [0, 1], color="#cccccc", lw=0.8, zorder=0)
        for value, colour in zip(values, colours, strict=True):
            parameters = {**panel.others, panel.parameter: value}
            shaped = {name: levels.new_tensor(v).reshape(1, 1, 1, 1) for name, v in parameters.items()}
            curve = function(levels.reshape(1, 1, 1, -1), **shaped).flatten()
            axes.plot(levels.numpy(), curve.numpy(), color=colour, lw=1.4, label=f"{value:.2g}")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        # Or the 1 of the left panel would meet the 0 of the right one.
        for text, alignment in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
            text.set_horizontalalignment(alignment)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if axes is pair[0] else [])
        axes.set_xlabel(label, fontsize=7.5, color=INK, labelpad=1)
        axes.tick_params(labelsize=7, length=2, pad=2, colors=INK)
    handles, names = pair[0].get_legend_handles_labels()
    pair[0].legend(
        handles,
        names,
        loc="upper center",
        bbox_to_anchor=(1.05, -0.2),
        ncols=len(values),
        fontsize=7.5,
        frameon=False,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1,
    )


def draw_patches(pair: tuple[Axes, Axes], parameter: str, values: Sequence[float]) -> None:
    """Patches under one parameter, a row a value; a cross where a value leaves [0, 1] and is clamped."""
    patches = torch.tensor(PATCHES, dtype=torch.float64).T.reshape(1, 3, 1, -1)
    if parameter == "o":
        # At the ends of the domain all six together make a matrix that is all but singular: grey becomes black.
        values = [0.6 * value for value in values]
    ways = ((fn.colour_correction, "forward"), (fn.colour_correction_inverse, "back"))
    for axes, (function, label) in zip(pair, ways, strict=True):
        lines = []
        for value in values:
            gain, off_diagonal = patches.new_ones(1, 3, 1, 1), patches.new_zeros(1, 6, 1, 1)
            if parameter == "gain":
                gain[:, 0] = value
            else:
                off_diagonal[:, : 6 if parameter == "o" else 1] = value
            lines.append(function(patches, off_diagonal, gain, IDENTITY)[0, :, 0])
        colours = torch.stack(lines, 1).permute(1, 2, 0)
        axes.imshow(linear_to_srgb(colours.clamp(0, 1)).numpy(), aspect="auto", interpolation="nearest")
        for line, column in ((colours < 0) | (colours > 1)).any(2).nonzero().tolist():
            axes.plot(column, line, "x", color="white", ms=4.5, mew=1.8)
            axes.plot(column, line, "x", color="black", ms=4, mew=0.8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(label, fontsize=7.5, color=INK, labelpad=3)
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
                "clipped (%)": 100 * trip.clipped[i].item(),
                "pixels (%)": 100 * (1 - kept.double().mean().item()),
                **{
                    f"{what}, {where}": f"{statistic(chosen):.1e}" if chosen.numel() else None
                    for where, chosen in (("others", errors[kept]), ("all", errors))
                    for what, statistic in (("mean", torch.mean), ("max", torch.max))
                },
            }
        )
    return Table.of(rows).text()


def verdict(errors: Tensor) -> str:
    """How far the photograph is off; below half a level of 8 bits it is the same."""
    largest = errors.max().item()
    if largest < 0.5 / 255:
        return f"same to {np.format_float_positional(100 * largest, 2, fractional=False, trim='-')}%"
    return f"off by {errors.mean():.1%}, max {largest:.0%}"


def draw_sets(path: Path, photograph: Tensor, trip: RoundTrip, spec: ISPSpec, title: str) -> None:
    """The photograph, then for every few sets: the inputs, the photograph again, and what was lost, if one sees it."""

    def shown(image: Tensor) -> Tensor:
        return image if spec.inverse_tone_mapping else linear_to_srgb(image)

    nothing = torch.ones_like(photograph)
    lost = DIFFERENCE_GAIN * trip.errors
    visible = lost.max() > 0.02
    rows: list[list[Picture | None]] = [[photograph] + [nothing] * (COLUMNS - 1)]
    captions: list[list[str | None]] = [["the photograph"] + [None] * (COLUMNS - 1)]
    titles = [""]
    for start in range(0, SETS, COLUMNS):
        several = range(start, min(start + COLUMNS, SETS))
        rows.append([shown(trip.inputs[i]) for i in several])
        captions.append([f"set {i + 1}: {trip.clipped[i]:.1%} clipped" for i in several])
        rows.append([trip.again[i] for i in several])
        captions.append([verdict(trip.errors[i]) for i in several])
        titles += ["back", "forward"]
        if visible:
            rows.append([1 - lost[i].clamp(0, 1).expand(3, -1, -1) for i in several])
            captions.append([None for _ in several])
            titles.append(f"lost ×{DIFFERENCE_GAIN}")
    grid = draw_grid(rows, row_titles=titles, captions=captions, title=title, cell_width=CELL_WIDTH, font_size=15)
    write_image(path, grid, jpeg_quality=75)


# --- the command ----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--f_isp", metavar="FILE", help="f_isp_latest.pth of phase 1; its global bank is drawn from")
    text = "an image file (default: onion_domes.jpg, which ships with the plugin)"
    parser.add_argument("--photograph", metavar="FILE", help=text)
    parser.add_argument("--out", metavar="DIR", default="isp_pictures", help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the twelve sets (default: %(default)s)")
    return parser


def read_small(path: str | None) -> Tensor:
    """The photograph at the width of a cell, ``(3, H, W)``."""
    image = read_image(path, bit_depth="8") if path else load_photographs(["onion_domes"])["onion_domes"]
    height = max(1, round(image.shape[0] * CELL_WIDTH / image.shape[1]))
    return to_tensor(cv2.resize(image, (CELL_WIDTH, height), interpolation=cv2.INTER_AREA))


def describe(bank: ParameterBank, n_pairs: int) -> str:
    kind = "image enhancement" if bank.spec.inverse_tone_mapping else "RAW"
    sets = f"{SETS} of {len(bank)} parameter sets"
    return f"A photograph back and forward again with {sets} (f_ISP for {kind}, {n_pairs} pairs)"


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
    except (ValueError, OSError, ImportError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"{describe(bank, n_pairs)}, drawn with seed {args.seed}.")
    print("Clipped values and pixels; how far the photograph is off after back and forward (1 = white, the largest of")
    print("the three channels), over the pixels without a clipped value ('others') and over all.\n")
    print(table(trip))
    print(f"Pictures: {out / 'isp_functions.png'}, {out / 'isp_twelve_sets.jpg'}")


if __name__ == "__main__":
    main()
