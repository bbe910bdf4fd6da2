"""How far tiles are from the whole image, and whether their borders can be seen.

python benchmarks/tile_seams.py IMAGE (-opt FILE | --weights FILE) --tile 512 [--side 4000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.apps.tiling import spans
from semiisp_plugin.io.image_io import to_tensor, to_uint8, write_image
from semiisp_plugin.io.picture import read_picture


class Seams(NamedTuple):
    """Tiles against the whole image; values in 255ths.

    Attributes:
        largest: Largest difference.
        mean: Mean difference.
        step: Where tiles meet, mean change of the difference from a pixel to the next across the border: what a seam
            adds to the picture.
        elsewhere: The same away from where they meet, where nothing is added.
        picture: Where tiles meet, the same of the whole image's own pixels: what a seam has to hide in.
    """

    largest: float
    mean: float
    step: float
    elsewhere: float
    picture: float


def compare(tiled: Tensor, whole: Tensor, tile: int, overlap: int, multiple: int) -> Seams:
    """Compare two results ``(1, 3, H, W)`` in [0, 1]."""
    difference = tiled - whole
    sums = dict.fromkeys(("step", "elsewhere", "picture"), 0.0)
    counts = dict.fromkeys(sums, 0)
    for axis in (-2, -1):
        length = whole.shape[axis]
        meets = torch.zeros(length - 1, dtype=torch.bool)
        for span in spans(length, tile, overlap, multiple)[1:]:
            # The middle half of what two tiles share; without overlap the one step between them.
            quarter = span.before // 4
            meets[max(0, span.start + quarter - 1) : span.start + max(span.before - quarter, 0)] = True
        change = difference.diff(dim=axis).abs_().transpose(axis, -1)
        own = whole.diff(dim=axis).abs_().transpose(axis, -1)
        for name, values, where in (("step", change, meets), ("elsewhere", change, ~meets), ("picture", own, meets)):
            chosen = values[..., where]
            sums[name] += float(chosen.sum(dtype=torch.float64))
            counts[name] += chosen.numel()
    step, elsewhere, picture = (255 * sums[name] / max(1, counts[name]) for name in sums)
    return Seams(255 * float(difference.abs().max()), 255 * float(difference.abs().mean()), step, elsewhere, picture)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; with ``--out``, write the two results too."""
    parser = argparse.ArgumentParser(description="Compare tiles with the whole image.")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("-opt", metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--network", metavar="YAML")
    parser.add_argument("--tile", type=int, nargs="+", default=[512], metavar="N")
    parser.add_argument("--overlap", type=int, nargs="+", metavar="N", help="default: an eighth of the tile")
    parser.add_argument("--match", choices=["auto", "on", "off"], default="auto", help="see basicsr enhance --match")
    parser.add_argument("--side", type=int, metavar="N", help="resize the image to this long side first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", metavar="DIR", help="write whole.png and tiles_<tile>_<overlap>.png")
    args = parser.parse_args(argv)
    network = load_network(args.opt, args.weights, args.network).network
    pixels = read_picture(args.image).pixels
    if args.side:
        scale = args.side / max(pixels.shape[:2])
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    image = to_tensor(pixels)[None]
    match: bool | Literal["auto"] = "auto" if args.match == "auto" else args.match == "on"

    def run(tile: int, overlap: int | None) -> tuple[Tensor, Enhancer, float]:
        enhancer = Enhancer(network, device=args.device, tile=tile, overlap=overlap, match=match)
        begun = time.perf_counter()
        return enhancer.enhance_tensor(image), enhancer, time.perf_counter() - begun

    whole, _, seconds = run(0, None)
    print(
        f"{pixels.shape[1]}x{pixels.shape[0]} pixels at once: {seconds:.1f} s; mean change {_mean_change(whole, image)}"
    )
    if args.out:
        write_image(f"{args.out}/whole.png", to_uint8(_hwc(whole)))
    for tile in args.tile:
        for overlap in args.overlap or [None]:
            tiled, enhancer, seconds = run(tile, overlap)
            plan = enhancer.plan(*image.shape[-2:])
            if plan.tile is None:
                print(f"tiles of {tile}: the image is no larger")
                continue
            seams = compare(tiled, whole, plan.tile, plan.overlap, plan.multiple)
            print(
                f"{plan.tiles} tiles of {plan.tile}, overlap {plan.overlap}: {seconds:.1f} s; difference of 255: mean "
                f"{seams.mean:.3f}, largest {seams.largest:.2f}; step where they meet {seams.step:.4f}, elsewhere "
                f"{seams.elsewhere:.4f}, the picture's own {seams.picture:.3f}",
                flush=True,
            )
            if args.out:
                write_image(f"{args.out}/tiles_{plan.tile}_{plan.overlap}.png", to_uint8(_hwc(tiled)))


def _hwc(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def _mean_change(out: Tensor, image: Tensor) -> str:
    return f"{255 * float((out - image).abs().mean()):.1f} of 255"


if __name__ == "__main__":
    main()
