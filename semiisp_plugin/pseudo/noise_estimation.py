"""The noise of real inputs, so that eq. 15 can add as much to pseudo inputs (ours; the paper gives fixed ranges)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls
from torch import Tensor

_LEVEL = 1 / 255
_MIN_SIDE = 32
_BINS = (4, 32)  # of intensity, at least and at most
_BLOCKS_PER_BIN = 1000
_SMOOTH_SHARE = 0.2  # of a bin's blocks, the smoothest ones
_CLIPPED_SHARE = 0.01  # of a bin's blocks, at most
_NORMAL_MAD = 0.6744897501960817  # median of the magnitude of a standard normal number


class NoiseEstimate(NamedTuple):
    """Noise of an image, in the terms of eq. 15: variance = ``shot_variance`` * intensity + ``read_variance``.

    Attributes:
        shot_variance: sigma_s^2, in units of white.
        read_variance: sigma_r^2, in units of white squared.
    """

    shot_variance: float
    read_variance: float


def estimate_noise(image: Tensor) -> NoiseEstimate:
    """Estimate the noise of a single image.

    In each 2x2 block the diagonal Haar coefficient ``(a - b - c + d) / 2`` has the variance of the noise and holds
    little of the picture. Blocks are sorted by their mean into bins of equal size. Of each bin the blocks count that
    are smoothest by the other Haar coefficients of their eight neighbours, whose noise is not theirs. A bin's variance
    is that of a normal distribution with the same median magnitude, which a few edges do not move. The two variances
    are the non-negative least squares fit to the bins'.

    Bins in which more than 1 % of the blocks touch 0 or 1 are left out: clamping hides part of their noise.

    The noise is taken for white, as eq. 15's is. Noise that demosaicking, denoising, resizing or JPEG has smeared over
    neighbouring pixels is underestimated. Where all of the image has one brightness, the two variances cannot be told
    apart; their sum at that brightness is right all the same.

    Args:
        image: ``(3, H, W)`` floating point in [0, 1]. What rounding to 8 bits adds, ``1 / 255^2 / 12``, counts as
            noise: pseudo inputs have 16 bits, and lack it.

    Raises:
        ValueError: The image has another shape or type, is smaller than 32 pixels, or has clipped values at every
            brightness.
    """
    if image.dim() != 3 or image.shape[0] != 3 or not image.dtype.is_floating_point:
        raise ValueError(f"Images must be (3, H, W), floating point, not {tuple(image.shape)} {image.dtype}.")
    if min(image.shape[1:]) < _MIN_SIDE:
        raise ValueError(
            f"An image of {image.shape[2]}x{image.shape[1]} pixels is too small; give at least {_MIN_SIDE}."
        )
    values = image.detach().cpu().double().numpy()
    step = _LEVEL if np.abs(values / _LEVEL - np.rint(values / _LEVEL)).max(initial=0) < 1e-3 else 0.0
    mean, detail, slope, clipped = _blocks(values)
    n_bins = int(np.clip(len(mean) // _BLOCKS_PER_BIN, *_BINS))
    rows = []
    for chosen in np.array_split(np.argsort(mean, kind="stable"), n_bins):
        if clipped[chosen].mean() > _CLIPPED_SHARE:
            continue
        count = max(1, round(len(chosen) * _SMOOTH_SHARE))
        smooth = chosen[np.argpartition(slope[chosen], count - 1)[:count]]
        deviation = _median(np.abs(detail[smooth]), step / 2) / _NORMAL_MAD
        rows.append((mean[smooth].mean(), deviation**2))
    if not rows:
        raise ValueError("The noise of this image cannot be estimated: at every brightness, values are clipped.")
    return _fit(*np.array(rows).T)


def _blocks(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of all 2x2 blocks: mean, diagonal detail, slope around, and whether a value is 0 or 1; each of shape (n,)."""
    height, width = (n // 2 * 2 for n in image.shape[1:])
    a, b, c, d = (image[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    slope = np.square(a + b - c - d) + np.square(a - b + c - d)
    padded = np.pad(slope, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows, columns = slope.shape[1:]
    # Without the block's own, which in 8-bit values is odd or even together with the diagonal detail.
    around = sum(padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)) - slope
    low, high = (extreme.reduce((a, b, c, d)) for extreme in (np.minimum, np.maximum))
    mean, detail, clipped = (a + b + c + d) / 4, (a - b - c + d) / 2, (low <= 0) | (high >= 1)
    return mean.ravel(), detail.ravel(), around.ravel(), clipped.ravel()


def _median(magnitude: np.ndarray, step: float) -> float:
    """Median of values that are multiples of ``step``, each taken for a number spread evenly around it.

    Otherwise the median of weak noise could only be a multiple of the step itself.
    """
    if step == 0:
        return float(np.median(magnitude))
    counts = np.bincount(np.rint(magnitude / step).astype(int))
    below = np.concatenate(([0], np.cumsum(counts)))
    edges = step * np.concatenate(([0], np.arange(len(counts)) + 0.5))
    return float(np.interp(below[-1] / 2, below, edges))


def _fit(intensity: np.ndarray, variance: np.ndarray) -> NoiseEstimate:
    """Non-negative least squares.

    An estimated variance is uncertain in proportion to itself. Residuals relative to it also bound the say of a bin
    whose blocks are all textured: its variance can only be too high, and counts the less.
    """
    weight = 1 / np.maximum(variance, max(1e-3 * variance.max(), 1e-15))
    design = np.stack((intensity, np.ones_like(intensity)), 1)
    (shot, read), _ = nnls(design * weight[:, None], variance * weight)
    return NoiseEstimate(float(shot), float(read))


def estimate_noise_bounds(images: Iterable[Tensor]) -> NoiseEstimate:
    """Upper bounds for eq. 15 that fit real inputs: twice the medians of the images' estimates.

    Noise levels drawn from 0 to a bound have half of it as their mean. Images whose noise cannot be estimated are left
    out.

    Args:
        images: See `estimate_noise`.

    Raises:
        ValueError: There is no image whose noise can be estimated.
    """
    estimates = []
    reason: ValueError | None = None
    for image in images:
        try:
            estimates.append(estimate_noise(image))
        except ValueError as error:
            reason = error
    if not estimates:
        raise ValueError(f"No image to estimate noise from{f'; the last one: {reason}' if reason else '.'}")
    shot, read = np.median(estimates, axis=0)
    return NoiseEstimate(2 * float(shot), 2 * float(read))
