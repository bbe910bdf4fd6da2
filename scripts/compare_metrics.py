#!/usr/bin/env python
"""Evaluate a folder of predictions against their targets with every metric that the benchmarks use.

    python scripts/compare_metrics.py --prediction results/NAME/visualization/DATA_SET --target DIR --template '{}_NAME'

Images are matched by name and read with 8 or 16 bits, which metrics of floats see. Prints a table of means;
docs/metrics.md says which metric is whose.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import Any, get_args

import torch

from semiisp_plugin.data.pairs import match_pairs, read_pair
from semiisp_plugin.io.image_io import to_tensor
from semiisp_plugin.io.imagenet_weights import ImageNetWeightsError
from semiisp_plugin.metrics import prepare_metric
from semiisp_plugin.metrics.gt_mean import Variant
from semiisp_plugin.metrics.lpips import BACKBONES
from semiisp_plugin.models.validation import measure
from semiisp_plugin.report.tables import Table

METRICS: dict[str, dict[str, Any]] = {
    "PSNR, 8 bits (FiveK; BasicSR)": {"type": "calculate_psnr", "crop_border": 0},
    "PSNR, floats (LOL)": {"type": "calculate_psnr_float"},
    "SSIM (LOL; BasicSR)": {"type": "calculate_ssim", "crop_border": 0},
    "SSIM, downsampled, planes side by side (FiveK)": {"type": "calculate_ssim_matlab"},
    "SSIM, downsampled, a channel at a time": {"type": "calculate_ssim_matlab", "colour": "channels"},
    "SSIM, downsampled, grey": {"type": "calculate_ssim_matlab", "colour": "grey"},
    "colour difference, CIE 1976 (FiveK)": {"type": "calculate_delta_e"},
    "colour difference, CIE 1994": {"type": "calculate_delta_e", "formula": "cie94"},
    "colour difference, CIEDE2000": {"type": "calculate_delta_e", "formula": "ciede2000"},
    **{f"PSNR, GT-mean, {v}": {"type": "calculate_psnr_gt_mean", "variant": v} for v in get_args(Variant)},
    **{f"SSIM, GT-mean, {v}": {"type": "calculate_ssim_gt_mean", "variant": v} for v in get_args(Variant)},
}


def decimals(settings: dict[str, Any]) -> int:
    """Digits after the point that are worth reading."""
    return 4 if "ssim" in settings["type"] or "lpips" in settings["type"] else 3


def main(argv: list[str] | None = None) -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prediction", required=True, metavar="DIR", help="folder or LMDB")
    parser.add_argument("--target", required=True, metavar="DIR", help="folder or LMDB")
    parser.add_argument("--template", default="{}", help="a prediction's name, {} being that of its target")
    parser.add_argument("--lpips", choices=BACKBONES, help="LPIPS with this backbone, too")
    parser.add_argument("--lpips-weights", metavar="FILE", help="torchvision's weights of it; else torch's cache")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write a line an image")
    args = parser.parse_args(argv)
    metrics = dict(METRICS)
    if args.lpips:
        metrics[f"LPIPS, {args.lpips}"] = {"type": "calculate_lpips", "net": args.lpips, "weights": args.lpips_weights}
    rows: list[tuple[str, dict[str, float]]] = []
    try:
        for settings in metrics.values():
            prepare_metric(settings)
        for pair in match_pairs(args.prediction, args.target, filename_template=args.template):
            prediction, target = (to_tensor(image) for image in read_pair(pair))
            rows.append((pair.key, measure(prediction, target, metrics)))
            print(f"{len(rows)}: {pair.key}", file=sys.stderr)
    except (OSError, ValueError, ImageNetWeightsError) as error:
        raise SystemExit(f"compare_metrics: {error}") from error
    table = []
    for name, settings in metrics.items():
        values = [row[name] for _, row in rows]
        mean = math.fsum(values) / len(values)
        table.append({"metric": name, "mean": f"{mean:.{decimals(settings)}f}", "type": settings["type"]})
    print(f"Means over {len(rows)} images.\n\n{Table.of(table).markdown()}")
    if args.csv:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", *metrics])
            writer.writerows([key, *(f"{row[name]:.6g}" for name in metrics)] for key, row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
