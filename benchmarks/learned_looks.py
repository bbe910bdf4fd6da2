"""What `basicsr learn` is worth on pairs that it never saw, and whether its own estimate of that is right.

    python benchmarks/learned_looks.py --out learned_looks                    # datasets/..., three seeds; resumes
    python benchmarks/learned_looks.py --out learned_looks --only lolv1 --seeds 0 --time quick

`results.json` in that folder has what was measured, and what stands in it is not run again.

A seed deals the pairs of a data set into those that are given to `learn` and test pairs. The model is tested at full
resolution, through the same code as `basicsr enhance`. It is compared with every candidate that the pairs alone
train, on all the pairs that were given: with the one that is best on the test pairs, which nobody can know before; and
with the weighted mean of them that `learn` would have kept without photographs.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair
from semiisp_plugin.experiments.learn import CANDIDATES, MODEL, LearnedLook, learn, minutes_of
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import to_float
from semiisp_plugin.io.picture import shrink_short_side
from semiisp_plugin.report.grids import draw_grid
from semiisp_plugin.report.paired import paired_difference
from semiisp_plugin.report.tables import Table

PICTURES, SHOWN = 12, 360  # of a data set and seed; their short side, pixels


@dataclass(frozen=True)
class Pairs:
    """A data set.

    Attributes:
        roots: Folders of inputs and of targets; several are one pool.
        given: How many pairs `learn` gets.
    """

    roots: tuple[tuple[str, str], ...]
    given: int


SETS = {
    "google_look": Pairs((("google_photos_look_22/input", "google_photos_look_22/target"),), 16),
    "lolv1": Pairs(
        (("lolv1_100/our485/low", "lolv1_100/our485/high"), ("lolv1_100/val20/low", "lolv1_100/val20/high")), 80
    ),
    "fivek_ie": Pairs(
        (("fivek_ie_15/input", "fivek_ie_15/target"), ("fivek_ie_12_more/input", "fivek_ie_12_more/target")), 20
    ),
    "underwater": Pairs(
        (("lsui_260/train/input", "lsui_260/train/target"), ("lsui_260/test/input", "lsui_260/test/target")), 80
    ),
}


def deal(pairs: Pairs, data: Path, folder: Path, seed: int) -> tuple[Path, list[Pair]]:
    """Write the pairs that are given into a folder; returns it, and the test pairs."""
    pool = [
        pair._replace(key=f"{number}_{pair.key}".replace("/", "_"))
        for number, roots in enumerate(pairs.roots)
        for pair in match_pairs(*(data / root for root in roots))
    ]
    order = np.random.default_rng(seed).permutation(len(pool))
    for k in order[: pairs.given]:
        for kind, path in (("input", pool[k].input), ("target", pool[k].target)):
            copy = folder / "pairs" / kind / f"{pool[k].key}{Path(path).suffix}"
            if not copy.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
    return folder / "pairs", [pool[k] for k in sorted(order[pairs.given :])]


def psnr(output: np.ndarray, target: np.ndarray) -> float:
    return -10 * math.log10(float(np.square(to_float(output) - to_float(target)).mean(dtype=np.float64)))


def test(folder: Path, given: Path, found: LearnedLook, tests: list[Pair], workers: int) -> dict[str, object]:
    """PSNR of the model, and of every candidate that the pairs alone train, on the test pairs."""
    record = found.record
    model = load_network(weights=folder / "look" / MODEL)
    networks = {"model": model.network}
    networks |= {name: found.network({name: 1.0}, workers) for name in CANDIDATES if name != "semi"}
    networks["mean"] = found.network(record["of_pairs_alone"]["kept"], workers)
    enhancers = {name: Enhancer(network, denoise=model.denoise) for name, network in networks.items()}
    scores: dict[str, dict[str, float]] = {name: {} for name in enhancers}
    rows = []
    for k, pair in enumerate(tests):
        image, target = read_pair(pair)
        outputs = {name: enhancer.enhance_image(image) for name, enhancer in enhancers.items()}
        for name, output in outputs.items():
            scores[name][pair.key] = round(psnr(output, target), 3)
        if k < PICTURES:
            full = folder / "full"
            full.mkdir(exist_ok=True)
            draw_grid([[outputs["model"]]], [pair.key], path=full / f"{pair.key}.png")
            shown = (image, outputs["alone"], outputs["model"], target)
            rows.append([shrink_short_side(picture, SHOWN) for picture in shown])
    draw_grid(rows, ["input", "pairs alone", "learned", "target"], path=folder / "comparison.png")
    return {
        "pairs": len(list((given / "input").iterdir())),
        "estimate": record["psnr"],
        "standard_error": record["standard_error"],
        "kept": record["kept"],
        "denoised": model.denoised,
        "seconds": record["seconds"],
        "psnr": scores,
    }


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description="What `basicsr learn` is worth on pairs that it never saw.")
    parser.add_argument("--data", default="datasets", help="folder of the data sets (default: %(default)s)")
    parser.add_argument("--photos", default="datasets/coco/images", help="photographs (default: %(default)s)")
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS), help="data sets (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--time", default="default", help="of `basicsr learn`")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    file = Path(args.out, "results.json")
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for seed in args.seeds:
        for name in args.only:
            run = f"{name}-{seed}"
            if run in results:
                continue
            folder = Path(args.out, run)
            given, tests = deal(SETS[name], Path(args.data), folder, seed)
            found = learn(
                [str(given)],
                args.photos,
                folder / "look",
                minutes=minutes_of(args.time),
                seed=seed,
                workers=args.workers,
            )
            results[run] = test(folder, given, found, tests, args.workers)
            write_atomically(file, json.dumps(results) + "\n")
    print(table(results, args.only, args.seeds).markdown())
    print(f"\n{describe()}")


def table(results: dict[str, Any], names: list[str], seeds: list[int]) -> Table:
    """A row of each data set, over the seeds that are there."""

    def scores(done: dict[int, dict[str, Any]], system: str) -> dict[tuple[int, str], float]:
        return {(seed, key): value for seed, one in done.items() for key, value in one["psnr"][system].items()}

    rows = []
    for name in names:
        done = {seed: results[f"{name}-{seed}"] for seed in seeds if f"{name}-{seed}" in results}
        if not done:
            continue
        model = scores(done, "model")
        # The strongest in the mean over all seeds.
        of = {other: scores(done, other) for other in CANDIDATES if other != "semi"}
        best = max(of, key=lambda other: float(np.mean(list(of[other].values()))))
        errors = [float(np.mean(list(one["psnr"]["model"].values()))) - one["estimate"] for one in done.values()]
        rows.append(
            (
                name,
                str(next(iter(done.values()))["pairs"]),
                f"{np.mean(list(model.values())):.2f}",
                CANDIDATES[best][1],
                f"{np.mean(list(of[best].values())):.2f}",
                str(paired_difference(model, of[best])),
                str(paired_difference(model, scores(done, "mean"))),
                ", ".join(
                    f"{error:+.2f} ({error / one['standard_error']:+.1f})"
                    for error, one in zip(errors, done.values(), strict=True)
                ),
            )
        )
    heads = ("data", "pairs", "learned [dB]", "strongest on the pairs alone", "[dB]", "difference [dB]")
    return Table(
        (*heads, "over the weighted mean of those [dB]", "test minus own estimate [dB] (in standard errors)"),
        rows,
        (1, 2, 4),
    )


if __name__ == "__main__":
    main()
