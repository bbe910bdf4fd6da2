"""How much noise a denoiser takes from dark images, judged by their bright partners (ours).

    basicsr denoise -opt options/denoise/lolv1.yml --force_yml input=LOW out=DENOISED
    python benchmarks/denoising.py --low LOW --denoised DENOISED --high HIGH

The partners are of another brightness and tone, so two figures are given for the images before and after:

* ``scaled``: PSNR with the dark image times mean(high) / mean(low), clipped. Noise counts, and so does what the two
  differ in besides: tone and colour.
* ``toned``: PSNR in the domain the denoiser sees (divided by the largest value, ^(1/2.2)), with the tones of each
  channel of the partner set to those of the dark image: its values, in order, take the place of the partner's. The
  dark image is blurred for this (sigma 1.5 pixels), so that the noise does not spread its tones.

What either says best is by how much it rises.
"""

from __future__ import annotations

import argparse
import statistics

import cv2
import numpy as np

from semiisp_plugin.apps.denoise.non_local_means import noise_level
from semiisp_plugin.data.pairs import match_pairs, read_pair
from semiisp_plugin.experiments.learn_data import with_tones_of
from semiisp_plugin.io.image_io import to_float

GAMMA = 2.2


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """PSNR of images in [0, 1]."""
    return float(-10 * np.log10(np.mean(np.square(first - second))))


def scaled(low: np.ndarray, high: np.ndarray) -> float:
    """PSNR of the dark image with its partner's mean."""
    return psnr(np.clip(low * (high.mean() / low.mean()), 0, 1), high)


def toned(encoded: np.ndarray, noisy: np.ndarray, high: np.ndarray) -> float:
    """PSNR of the encoded image with its partner, whose tones are those of the noisy image."""
    return psnr(encoded, with_tones_of(noisy, high))


def luminance_noise(encoded: np.ndarray) -> float:
    """Noise of the luminance, in 8-bit levels."""
    return 255 * noise_level(cv2.cvtColor(encoded, cv2.COLOR_RGB2GRAY))


def main() -> None:
    """Print the figures, as means over all pairs."""
    parser = argparse.ArgumentParser(description="What a denoiser takes from dark images.")
    for name in ("low", "denoised", "high"):
        parser.add_argument(f"--{name}", required=True, help="folder or LMDB")
    args = parser.parse_args()
    before = match_pairs(args.low, args.high)
    after = match_pairs(args.denoised, args.high)
    rows = []
    for noisy_pair, clean_pair in zip(before, after, strict=True):
        low, high = map(to_float, read_pair(noisy_pair))
        clean = to_float(read_pair(clean_pair)[0])
        # Both by the noisy image's largest value: the denoised one's is another.
        largest = low.max()
        bright, bright_clean = ((x / largest).clip(0, 1) ** np.float32(1 / GAMMA) for x in (low, clean))
        rows.append(
            (
                scaled(low, high),
                scaled(clean, high),
                toned(bright, bright, high),
                toned(bright_clean, bright, high),
                luminance_noise(bright),
                luminance_noise(bright_clean),
            )
        )
    means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    print(f"{len(rows)} pairs        before   after")
    for name, first, second in zip(("scaled, dB", "toned, dB", "noise, /255"), means[::2], means[1::2], strict=True):
        print(f"{name:<14} {first:8.2f} {second:7.2f}")
    better = sum(row[1] > row[0] for row in rows), sum(row[3] > row[2] for row in rows)
    print(f"scaled PSNR rises for {better[0]}, toned PSNR for {better[1]} of {len(rows)}")


if __name__ == "__main__":
    main()
