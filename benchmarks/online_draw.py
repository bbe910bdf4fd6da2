"""What drawing pseudo inputs in training costs, against what it takes the place of: decoding stored ones.

For each photograph, on one thread: decoding its JPEG; decoding a stored pair of it (the PNGs of an 8-bit pseudo ground
truth and of a 16-bit pseudo input, as ``basicsr pseudo`` writes them); step 3 for a crop, as a loader's worker does it,
with one set an image (``global``) and with sets on a grid (``local``); and all three steps, as with ``mode: keys``.
Each timing follows one of decoding the photograph, as in a worker, and is compared with it; contestants take turns.
Figures are medians over photographs and rounds, ratios medians of the pairs' ratios.

    python benchmarks/online_draw.py                                          # photographs that ship with dependencies
    python benchmarks/online_draw.py --photographs DIR --f_isp RAW.pth IE.pth
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from machine import describe, load_average

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.data.augment import augment
from semiisp_plugin.io.image_io import decode_image, encode_png, list_images, to_uint16
from semiisp_plugin.io.picture import decode_photograph
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.online import OnlineDraw
from semiisp_plugin.pseudo.places import WHOLE, coordinates, place_of
from semiisp_plugin.pseudo.sources import BankInverse
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.photographs import load_photographs

JPEG, GT, LQ = "photograph (JPEG)", "stored ground truth (PNG, 8 bits)", "stored input (PNG, 16 bits)"
JPEG_QUALITY = 90  # of photographs that ship as PNG
SETS = ("global", "local")


def jpegs(folder: str | None, count: int) -> list[bytes]:
    """Files of the folder, or the shipped photographs encoded."""
    if folder:
        names = [n for n in list_images(folder) if n.lower().endswith((".jpg", ".jpeg"))]
        step = max(1, len(names) // count)
        return [Path(folder, name).read_bytes() for name in names[::step][:count]]
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    images = load_photographs().values()
    return [cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes() for image in images][:count]


def untrained(enhancement: bool, sets: str) -> PseudoPairGenerator:
    """A generator with parameter sets at random around their starts; times do not depend on their values."""
    torch.manual_seed(0)
    network = PQDynamicISP(inverse_tone_mapping=enhancement, grid=[8, 8])
    banks = {}
    for label, grid in (("global", (1, 1)), ("local", (8, 8))):
        banks[label] = ParameterBank(network.spec, 64, grid)
        banks[label].append(network.spec.squash(0.3 * torch.randn(64, network.spec.n_parameters, *grid)))
    second = BankInverse(network.spec, banks["local"], per_function=True) if sets == "local" else None
    return PseudoPairGenerator(network, BankInverse(network.spec, banks["global"]), second)


def draws(files: Sequence[str]) -> dict[tuple[str, str], OnlineDraw]:
    """By ISP and kind of sets."""
    if not files:
        return {
            (kind, sets): OnlineDraw(untrained(kind != "RAW", sets))
            for kind in ("RAW", "image enhancement")
            for sets in SETS
        }
    found = {}
    for file in files:
        for sets in SETS:
            draw = OnlineDraw(make_generator(file, sets=sets))
            enhancement = draw.generator.network.spec.inverse_tone_mapping
            found["image enhancement" if enhancement else "RAW", sets] = draw
    return found


def batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def drawn_crop(
    draw: OnlineDraw, photograph: np.ndarray, size: tuple[int, int] | None, seed: int
) -> Callable[[], torch.Tensor]:
    """Step 3 of a crop, as of `semiisp_plugin.pseudo.online_semi_supervised_dataset`.

    Cropping is left out, for stored inputs are cropped, too, but not finding out where the crop lies.
    """
    where = coordinates(*photograph.shape[:2]) if draw.needs_place and size else []

    def augmented(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return augment(np.random.default_rng(seed), images, size=size, hflip=True, rot=True)

    crop = batch(augmented([photograph])[0] if size else photograph)

    def call() -> torch.Tensor:
        place = (place_of(augmented(where)) if where else WHOLE)[None] if size else None
        return draw.inputs(crop, [torch.Generator().manual_seed(seed)], place)

    return call


def all_steps(draw: OnlineDraw, photograph: np.ndarray, size: tuple[int, int] | None, seed: int) -> torch.Tensor:
    """Steps 1 to 3 and the crop between them, as of a build of mode keys."""
    generator = [torch.Generator().manual_seed(seed)]
    if size is None:
        return draw.inputs(draw.targets(batch(photograph), generator), generator)
    raw, parameters = draw.encoded(batch(photograph), generator)
    images = [raw[0].permute(1, 2, 0).numpy(), *coordinates(*photograph.shape[:2])]
    crop, *where = augment(np.random.default_rng(seed), images, size=size, hflip=True, rot=True)
    place = place_of(where)[None]
    return draw.inputs(draw.developed(batch(crop), parameters, place), generator, place)


def contestants(
    data: bytes, stored: tuple[bytes, bytes], by: dict[tuple[str, str], OnlineDraw], sizes: Sequence[int]
) -> dict[Any, Callable[[], Any]]:
    """What is timed of a photograph, by name."""
    photograph = decode_photograph(data, name="photograph")
    calls: dict[Any, Callable[[], Any]] = {
        JPEG: lambda: decode_photograph(data, name="photograph"),
        GT: lambda: decode_image(stored[0], name="gt"),
        LQ: lambda: decode_image(stored[1], name="lq"),
    }
    for (kind, sets), draw in by.items():
        for side in (*sizes, None):
            size = None if side is None else (side, side)
            calls[kind, sets, side, "step 3"] = drawn_crop(draw, photograph, size, 1)
            calls[kind, sets, side, "steps 1 to 3"] = lambda d=draw, s=size: all_steps(d, photograph, s, 1)
    return calls


def measure(args: argparse.Namespace) -> tuple[dict[Any, list[float]], dict[Any, list[float]]]:
    """Seconds of each contestant, and of decoding the photograph just before; the same photographs in the same order.

    A contestant goes over all photographs at a time, as a worker does; then the next one does.
    """
    by = draws(args.f_isp)
    photographs = []
    for data in jpegs(args.photographs, args.count):
        photograph = decode_photograph(data, name="photograph")
        if min(photograph.shape[:2]) >= max(args.sizes):
            one = next(iter(by.values()))
            made = one.inputs(batch(photograph), [torch.Generator().manual_seed(0)])[0].permute(1, 2, 0).numpy()
            stored = encode_png(photograph, "fast"), encode_png(to_uint16(np.ascontiguousarray(made)), "fast")
            photographs.append(contestants(data, stored, by, args.sizes))
    if not photographs:
        raise SystemExit("There is no JPEG that holds the crops.")
    names = list(photographs[0])
    times: dict[Any, list[float]] = {name: [] for name in names}
    decoding: dict[Any, list[float]] = {name: [] for name in names}
    for round_ in range(args.rounds):
        turn = round_ * 7 % len(names)
        for name in names[turn:] + names[:turn]:
            photographs[0][name]()  # what ran before was another program
            for calls in photographs:
                start = time.perf_counter()
                calls[JPEG]()
                middle = time.perf_counter()
                calls[name]()
                times[name].append(time.perf_counter() - middle)
                decoding[name].append(middle - start)
    return times, decoding


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    return median(s / r for s, r in zip(seconds, reference, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", help="folder of JPEGs; default: those that ship with dependencies")
    parser.add_argument("--f_isp", nargs="*", default=[], help="f_isp_<iter>.pth, of RAW, image enhancement, or both")
    parser.add_argument("--count", type=int, default=20, help="photographs, spread over the folder")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each photograph")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="sides of crops, in pixels")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    cv2.setNumThreads(1)
    print(describe() + "\n")
    times, decoding = measure(args)
    rows: list[dict[str, Any]] = [
        {
            "what": name,
            "ms to decode": 1000 * median(times[name]),
            f"against {JPEG}": ratio(times[name], decoding[name]),
        }
        for name in (JPEG, GT, LQ)
    ]
    print(Table.of(rows).markdown())
    rows = []
    for name, seconds in times.items():
        if isinstance(name, tuple):
            kind, sets, side, step = name
            row = {"ISP": kind, "sets": sets, "crop": "whole" if side is None else f"{side}x{side}", "drawn": step}
            row["ms"] = 1000 * median(seconds)
            row[f"against {JPEG}"] = ratio(seconds, decoding[name])
            row[f"against {LQ}"] = ratio(seconds, times[LQ])
            rows.append(row)
    print(Table.of(rows).markdown())
    print(f"{len(times[JPEG])} timings each; load average {load_average()}.")


if __name__ == "__main__":
    main()
