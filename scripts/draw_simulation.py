"""Pictures of the simulated camera and the retouching looks, from photographs that ship with dependencies.

    python scripts/draw_simulation.py --out docs/images

Writes simulation_sensors.jpg, simulation_chain.jpg, simulation_looks.jpg and simulation_family.jpg, and prints how near
the closest f_ISP comes to the simulation: the pictures and the table of docs/simulation.md. Takes a minute or two.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.io.image_io import read_image, to_tensor, write_image
from semiisp_plugin.isp import InvertibleISP, ISPSpec
from semiisp_plugin.report.grids import Picture, draw_grid
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.camera import (
    SENSORS,
    Capture,
    SimulatedCamera,
    channel_gains,
    expose,
    fall_off,
    saturate,
)
from semiisp_plugin.simulation.colour import srgb_to_linear
from semiisp_plugin.simulation.look import LOOKS, apply_look
from semiisp_plugin.simulation.photographs import load_photographs

PHOTOGRAPH = "onion_domes"
PHOTOGRAPHS_OF_LOOKS = (PHOTOGRAPH, "spices", "kitten_lawn", "mountain_lake")
LOOK_OF_PAIRS = "default"
FONT_SIZE = 15
JPEG_QUALITY = 88

TEMPERATURES = (3500.0, 5000.0, 7500.0)
CAMERA = SimulatedCamera()
# The strongest effects that the default camera draws, so that they are seen. The black level differs by channel.
STRONG = Capture(
    sensor="full_frame",
    temperature=CAMERA.temperature[0],
    exposure=CAMERA.exposure[1],
    knee=CAMERA.knee[0],
    black=(0.5 * CAMERA.black[1], CAMERA.black[0], CAMERA.black[1]),
    shot=CAMERA.shot[1],
    read=CAMERA.read[1],
    fall_off=CAMERA.fall_off[1],
    centre=(CAMERA.centre[0], CAMERA.centre[1]),
)
# Brighter than the default camera ever exposes: with that, hardly a value reaches the shoulder.
OVEREXPOSED = replace(STRONG, exposure=0.5)
# Linear, flat and clean: what is left is exposure, light and sensor colours, and the sRGB curve of the target.
PLAIN = replace(STRONG, knee=0.99, black=(0.0, 0.0, 0.0), shot=0.0, read=0.0, fall_off=0.0)


def shown(raw: Tensor) -> Tensor:
    """Linear values as they are, unbalanced, but not as dark: gamma 2.2."""
    return raw.clamp_min(0) ** (1 / 2.2)


def draw_sensors(path: Path, photograph: Tensor) -> None:
    """One photograph by every sensor under every light. ``photograph`` is ``(3, H, W)``."""
    rows, captions = [], []
    for temperature in TEMPERATURES:
        captures = [replace(PLAIN, sensor=name, temperature=temperature) for name in SENSORS]
        rows.append([shown(expose(photograph[None], capture))[0] for capture in captures])
        whites = [channel_gains(c) * torch.tensor(SENSORS[c.sensor].sensitivity, dtype=torch.float64) for c in captures]
        captions.append(["white {:.2f} : {:.0f} : {:.2f}".format(*white.tolist()) for white in whites])
    titles = [f"{temperature:.0f} K" for temperature in TEMPERATURES]
    title = "One photograph, four sensors, three lights: RAW, shown with gamma 2.2"
    save(path, rows, list(SENSORS), titles, captions, title)


# --- the chain ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A step of the camera.

    Attributes:
        name: What it adds.
        image: ``(1, 3, H, W)``, linear, after the step.
        factor: How much its change is enlarged in the picture.
    """

    name: str
    image: Tensor
    factor: int


def stages(photograph: Tensor, capture: Capture) -> list[Stage]:
    """`expose`, step by step; the last image is its result. ``photograph`` is ``(3, H, W)``."""
    light = srgb_to_linear(photograph[None]) * 2.0**capture.exposure
    fallen = light * fall_off(light.shape[-2], light.shape[-1], capture).to(light)
    sensor = SENSORS[capture.sensor]
    gains = channel_gains(capture) * torch.tensor(sensor.sensitivity, dtype=torch.float64)
    matrix = gains[:, None] * torch.tensor(sensor.matrix, dtype=torch.float64)
    signal = torch.einsum("cd,ndhw->nchw", matrix.to(light), fallen)
    return [
        Stage(f"1. light, {capture.exposure:+g} stops", light, 1),
        Stage(f"2. fall-off, s = {capture.fall_off:g}", fallen, 2),
        Stage(f"3. {capture.sensor} sensor at {capture.temperature:.0f} K", signal, 1),
        Stage(f"4. shoulder from {capture.knee:g}", saturate(signal, capture.knee), 2),
        Stage("5. black level", expose(photograph[None], replace(capture, shot=0.0, read=0.0)), 8),
        Stage("6. noise: the RAW image", expose(photograph[None], capture), 8),
    ]


def draw_chain(path: Path, photograph: Tensor, capture: Capture = OVEREXPOSED) -> None:
    """The image after every stage, and below it what the stage changed."""
    nothing = torch.ones_like(photograph)
    chain = stages(photograph, capture)
    images: list[Picture | None] = [photograph, *(shown(stage.image)[0] for stage in chain)]
    names: list[str | None] = ["the photograph", *(stage.name for stage in chain)]
    images.append(apply_look(photograph[None], LOOKS[LOOK_OF_PAIRS])[0])
    names.append(f"the target: {LOOK_OF_PAIRS} look")
    changes: list[Picture | None] = [nothing, nothing]
    factors: list[str | None] = [None, None]
    for before, after in itertools.pairwise(chain):
        change = after.factor * (shown(after.image) - shown(before.image))[0]
        changes.append((0.5 + change).clamp(0, 1))
        factors.append(f"change ×{after.factor}")
    changes.append(nothing)
    factors.append(None)
    rows = [images[:4], changes[:4], images[4:], changes[4:]]
    captions = [names[:4], factors[:4], names[4:], factors[4:]]
    title = "The camera's steps, each at its strongest; below, around grey, what changed"
    save(path, rows, (), (), captions, title)


# --- the looks ------------------------------------------------------------------------------------------------------


def draw_looks(path: Path, photographs: Sequence[Tensor]) -> None:
    """Photographs, ``(3, H, W)``, and what each look makes of them; neutral first."""
    names = sorted(LOOKS, key=lambda name: name != "neutral")
    rows = [[apply_look(photograph[None], LOOKS[name])[0] for name in names] for photograph in photographs]
    save(path, rows, names, (), (), "Photographs (neutral) and their targets in each look")


# --- the closest f_ISP ----------------------------------------------------------------------------------------------

GRID = 2
STARTS = 2
STEPS = 400
ERROR_GAIN = 8


@dataclass(frozen=True)
class Fit:
    """The f_ISP that comes closest to one pair.

    Attributes:
        output: ``(3, H, W)``, what it makes of the input.
        errors: ``(H, W)``, difference from the target, the largest of the three channels.
        psnr: dB.
    """

    output: Tensor
    errors: Tensor
    psnr: float


@dataclass(frozen=True)
class Pair:
    """A simulated pair and the f_ISPs closest to it: one set of parameters, and a grid of sets."""

    name: str
    target: Tensor
    whole: Fit
    local: Fit


def cameras() -> dict[str, tuple[Capture, str]]:
    """Captures and looks, each with one thing more than the one before."""
    bent = replace(PLAIN, knee=STRONG.knee, black=STRONG.black)
    fallen = replace(bent, fall_off=STRONG.fall_off)
    return {
        "sensor colours, sRGB curve": (PLAIN, "neutral"),
        "+ shoulder, black level": (bent, "neutral"),
        f"+ {LOOK_OF_PAIRS} look": (bent, LOOK_OF_PAIRS),
        "+ fall-off": (fallen, LOOK_OF_PAIRS),
        "+ noise": (replace(fallen, shot=STRONG.shot, read=STRONG.read), LOOK_OF_PAIRS),
    }


def fit_pair(name: str, photograph: Tensor, capture: Capture, look: str) -> Pair:
    """Make a pair of ``photograph``, ``(3, H, W)``, and search the f_ISPs closest to it."""
    raw = expose(photograph[None].double(), capture)
    target = apply_look(photograph[None].double(), LOOKS[look])
    spec = ISPSpec()
    tries = []
    for seed in range(STARTS):
        z = torch.randn(1, spec.n_parameters, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        # The first begins where training does, at zero.
        tries.append(descend(0.3 * z if seed else torch.zeros_like(z), raw, target, spec))
    z, whole = max(tries, key=lambda found: found[1].psnr)
    _, local = descend(z.expand(-1, -1, GRID, GRID), raw, target, spec)
    return Pair(name, target[0], whole, local)


def descend(start: Tensor, raw: Tensor, target: Tensor, spec: ISPSpec) -> tuple[Tensor, Fit]:
    """Least squares over the parameters, from ``start``, (1, K, h, w) before squashing."""
    isp = InvertibleISP(spec)
    z = start.clone().requires_grad_()
    # The default tolerances are coarse beside errors of a few levels of 8 bits, squared.
    optimiser = torch.optim.LBFGS(
        [z],
        max_iter=STEPS,
        history_size=20,
        tolerance_grad=1e-10,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (isp.forward(raw, spec.squash(z)) - target).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        output = isp.forward(raw, spec.squash(z))
        difference = (output - target)[0]
    psnr = -10 * np.log10(difference.square().mean().item())
    return z.detach(), Fit(output[0], difference.abs().amax(0), psnr)


def draw_family(path: Path, pairs: Sequence[Pair]) -> None:
    """What f_ISP cannot follow: a column a pair."""

    def lost(fit: Fit) -> Tensor:
        return (1 - ERROR_GAIN * fit.errors).clamp(0, 1).expand(3, -1, -1)

    rows = [
        [pair.target for pair in pairs],
        [pair.whole.output for pair in pairs],
        [lost(pair.whole) for pair in pairs],
        [lost(pair.local) for pair in pairs],
    ]
    captions: list[list[str | None]] = [
        [None for _ in pairs],
        [None for _ in pairs],
        [f"{pair.whole.psnr:.1f} dB" for pair in pairs],
        [f"{pair.local.psnr:.1f} dB" for pair in pairs],
    ]
    titles = ["target", "closest f_ISP", f"its error ×{ERROR_GAIN}", f"×{ERROR_GAIN}, {GRID}x{GRID} sets"]
    title = "One thing added a column, and the f_ISP that fits each picture best"
    save(path, rows, [pair.name for pair in pairs], titles, captions, title)


def table(pairs: Sequence[Pair]) -> str:
    rows = []
    for pair in pairs:
        row = {"simulation": pair.name}
        for name, fit in (("one set", pair.whole), (f"{GRID}x{GRID}", pair.local)):
            row[f"{name}: PSNR"] = f"{fit.psnr:.1f}"
            row[f"{name}: 99 %"] = f"{100 * fit.errors.quantile(0.99).item():.1f}"
        rows.append(row)
    return Table.of(rows).text()


# --- the command ----------------------------------------------------------------------------------------------------


def save(
    path: Path,
    rows: Sequence[Sequence[Picture | None]],
    columns: Sequence[str],
    names: Sequence[str],
    captions: Sequence[Sequence[str | None]],
    title: str,
) -> None:
    grid = draw_grid(rows, columns, names, captions=captions, title=title, font_size=FONT_SIZE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, grid, jpeg_quality=JPEG_QUALITY)


def at_width(image: np.ndarray, width: int) -> Tensor:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return to_tensor(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "an image file for all but the looks (default: onion_domes.jpg, which ships with the plugin)"
    parser.add_argument("--photograph", metavar="FILE", help=text)
    text = "folder to write (default: %(default)s)"
    parser.add_argument("--out", metavar="DIR", default="simulation_pictures", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    out = Path(args.out)
    paths = {name: out / f"simulation_{name}.jpg" for name in ("sensors", "chain", "looks", "family")}
    try:
        photographs = load_photographs(PHOTOGRAPHS_OF_LOOKS)
        image = read_image(args.photograph, bit_depth="8") if args.photograph else photographs[PHOTOGRAPH]
        draw_sensors(paths["sensors"], at_width(image, 190))
        draw_chain(paths["chain"], at_width(image, 204))
        draw_looks(paths["looks"], [at_width(picture, 162) for picture in photographs.values()])
        pairs = [fit_pair(name, at_width(image, 140), *with_) for name, with_ in cameras().items()]
        draw_family(paths["family"], pairs)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print("The closest f_ISP to one pair of the simulated camera, with one set of parameters and with a grid of sets:")
    print("PSNR in dB; what 99 % of the errors (the largest of the three channels) are below, in % of white.\n")
    print(table(pairs))
    print("Pictures: " + ", ".join(map(str, paths.values())))


if __name__ == "__main__":
    main()
