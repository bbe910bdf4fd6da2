"""Bringing an input (a RAW, mostly) to its edited image: orientation, border and size; and noticing what cannot be.

All of this is ours. The measure of alignment compares fine structure and not brightness, which an edit changes: both
images become small, their luminances ranks, and what is left after subtracting a blurred copy is correlated. On
ordinary edits it lies near 1, for a frame cropped by a tenth or straightened by two degrees near 0.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

MIN_ALIGNMENT = 0.7
"""Pairs below this are taken for misaligned. Measured: aligned pairs of FiveK (15) reach 0.95 (0.91 with the input made
linear and green, as a RAW is), of LOLv1 (100) 0.78; the same with the target cropped to 95 % stay below 0.63, turned by
two degrees below 0.55, mirrored below 0.31. About half of those cropped to 98 % or turned by one degree pass."""

ASPECT_TOLERANCE = 0.004
"""Relative difference of width / height that resizing may hide, besides the rounding of the smaller size."""

MAX_BORDER = 0.03
"""Largest part of a side that is taken for the sensor's border and cut off in the middle."""

_SIDE, _BLUR = 256, 8.0


class Aligned(NamedTuple):
    """What `align` returns.

    Attributes:
        image: The input at the target's size and orientation.
        score: The measure of alignment, -1 to 1.
        turns: Quarter turns (counter-clockwise) that were needed.
    """

    image: np.ndarray
    score: float
    turns: int


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the fine structure of two images that show the same, -1 to 1; 0 if one of them has none.

    Args:
        first: RGB (H, W, 3) of any size and depth.
        second: RGB (H, W, 3); ``first`` is compared at its shape.
    """
    height, width = second.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return _correlation(_structure(_luminance(first, size)), _structure(_luminance(second, size)))


def align(image: np.ndarray, target: np.ndarray, *, min_alignment: float = MIN_ALIGNMENT) -> Aligned:
    """Turn, cut and shrink an image to the size of its target.

    Quarter turns are tried where the image does not fit as it is. Sides that are at most `MAX_BORDER` longer than the
    target's proportions ask for are cut in the middle; then area interpolation shrinks it.

    Args:
        image: RGB (H, W, 3).
        target: RGB (h, w, 3), its edited version, no larger than the image.
        min_alignment: See `MIN_ALIGNMENT`; -1 accepts everything that has the size.

    Returns:
        The aligned image and how well it fits.

    Raises:
        ValueError: The target is larger, has other proportions, or shows something else; the message has the figures
            and what the likely cause is.
    """
    height, width = target.shape[:2]
    best: Aligned | None = None
    reason = ""
    for turns in (0, 1, 3, 2):
        try:
            fitted = _fit(np.rot90(image, turns), height, width)
        except ValueError as error:
            reason = reason or str(error)
            continue
        score = alignment(fitted, target)
        if best is None or score > best.score + 0.05:
            best = Aligned(fitted, score, turns)
        if best.score >= max(min_alignment, MIN_ALIGNMENT):
            return best
    if best is None:
        raise ValueError(reason)
    if best.score >= min_alignment:
        return best
    raise ValueError(
        f"the input and the edited image do not show the same pixels (alignment {best.score:.2f}, at least "
        f"{min_alignment:g} is needed). Was it cropped, straightened or corrected for the lens, or is it another "
        f"photograph? Export it with the crop reset, or leave the pair out."
    )


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut and shrink an image to a size."""
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return np.ascontiguousarray(image)
    if h < height or w < width:
        raise ValueError(
            f"the edited image ({height}x{width}, height x width) is larger than the input ({h}x{w}), which would have "
            "to be enlarged. Export it at the input's size or smaller."
        )
    tolerance = ASPECT_TOLERANCE + 0.5 / min(height, width)
    ratio = (w / h) / (width / height)
    if h - height <= MAX_BORDER * h and w - width <= MAX_BORDER * w:
        # The pixels are the sensor's own: resizing by so little would only blur them.
        return _centre(image, height, width)
    if abs(ratio - 1) > tolerance:
        cut_h, cut_w = (h, round(h * width / height)) if ratio > 1 else (round(w * height / width), w)
        if h - cut_h > MAX_BORDER * h or w - cut_w > MAX_BORDER * w:
            raise ValueError(
                f"the edited image ({height}x{width}, height x width) has other proportions than the input ({h}x{w}), "
                "so it was cropped or straightened. Export it with the crop reset, or leave the pair out."
            )
        image = _centre(image, cut_h, cut_w)
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


def _centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _luminance(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean of the channels at a (height, width)."""
    grey = image.astype(np.float32).mean(axis=2)
    return np.asarray(cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA))


def _structure(luminance: np.ndarray) -> np.ndarray:
    """Ranks of the luminances, less their blurred copy."""
    # Ranks would make structure of the rounding errors of a flat image.
    if np.ptp(luminance) <= 1e-4 * luminance.max():
        return np.zeros_like(luminance)
    # Equal values get equal ranks, so that clipped parts have no structure.
    _, inverse, counts = np.unique(luminance, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    ranks = (middle[inverse.ravel()] / max(1, luminance.size - 1)).reshape(luminance.shape).astype(np.float32)
    return np.asarray(ranks - cv2.GaussianBlur(ranks, (0, 0), _BLUR))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two arrays; 0 if one of them is 0."""
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 0.0
