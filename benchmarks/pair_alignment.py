"""Does `align` find where an edited image lies in its input?

    python benchmarks/pair_alignment.py --pairs INPUTS TARGETS --count 100

Of each real pair of one size the target is cropped at one to four sides (drawn; up to 3 % of the shorter side in all),
made noisy, shrunk (1.3 to 2.5 times) or displaced by 2 to 5 pixels; `align` has to find what was cut. Right is to the
pixel of the target; a displaced pair has to be refused. A pair that is displaced or scaled by itself counts against it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from machine import describe
from tabulate import tabulate

from semiisp_plugin.data.align import MAX_BORDER, align
from semiisp_plugin.io.image_io import list_images, read_image

KINDS = {
    "as they are": 0,
    "border at one side": 1,
    "two sides": 2,
    "three sides": 3,
    "four sides": 4,
    "two sides, noise of 1 %": 2,
    "two sides, shrunk": 2,
    "displaced": 0,
}
COLUMNS = ("right", "a pixel off", "wrong", "refused")


def cut(image: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """(H, W, 3) without ``sides`` pixels at the top, bottom, left and right."""
    top, bottom, left, right = sides
    return np.ascontiguousarray(image[top : image.shape[0] - bottom, left : image.shape[1] - right])


def trial(image: np.ndarray, target: np.ndarray, kind: str, rng: np.random.Generator) -> str:
    """What `align` made of a pair that was changed in this way; one of `COLUMNS`."""
    most = max(3, int((MAX_BORDER - 0.001) * min(target.shape[:2]) / 2))
    sides, factor = [0, 0, 0, 0], 1.0
    for side in rng.permutation(4)[: KINDS[kind]]:
        sides[side] = int(rng.integers(2, most))
    true = tuple(sides)
    if kind == "displaced":
        y, x = (int(n) for n in rng.integers(2, 6, 2))
        image, target = cut(image, (y, 0, x, 0)), cut(target, (0, y, 0, x))
    else:
        target = cut(target, true)
    if "noise" in kind:
        top = np.iinfo(image.dtype).max
        image = np.clip(np.rint(image + rng.normal(0, 0.01 * top, image.shape)), 0, top).astype(image.dtype)
    if "shrunk" in kind:
        factor = rng.uniform(1.3, 2.5)
        size = round(target.shape[1] / factor), round(target.shape[0] / factor)
        target = cv2.resize(target, size, interpolation=cv2.INTER_AREA)
    try:
        found = align(image, target).cut
    except ValueError:
        return "refused"
    off = max(abs(a - b) for a, b in zip(found, true, strict=True)) / factor
    if kind == "displaced":
        return "wrong"
    return "right" if off < 1 else "a pixel off" if off < 2 else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", nargs=2, action="append", required=True, type=Path, metavar="DIR", help="two folders"
    )
    parser.add_argument("--count", type=int, help="pairs of each two folders, spread over them (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of borders and noise (default: %(default)s)")
    args = parser.parse_args()
    results: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    seconds, n = [], 0
    for inputs, targets in args.pairs:
        of_stem = [{Path(name).stem: folder / name for name in list_images(folder)} for folder in (inputs, targets)]
        names = sorted(of_stem[0].keys() & of_stem[1].keys())
        for name in names[:: max(1, len(names) // args.count)] if args.count else names:
            image, target = (read_image(files[name]) for files in of_stem)
            if image.shape != target.shape:
                continue
            n += 1
            for i, kind in enumerate(KINDS):
                since = time.perf_counter()
                result = trial(image, target, kind, np.random.default_rng([args.seed, n, i]))
                seconds.append(time.perf_counter() - since)
                results[kind][result] += 1
                if result in ("wrong", "a pixel off"):
                    print(f"{targets / name}, {kind}: {result}", file=sys.stderr, flush=True)
    print(f"{n} pairs; {describe()}; median {np.median(seconds):.2f} s a pair\n")
    rows = [[kind, *(of[column] for column in COLUMNS)] for kind, of in results.items()]
    print(tabulate(rows, headers=["kind", *COLUMNS], tablefmt="github"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
