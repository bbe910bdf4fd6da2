"""Which channel of FiveK's XYZ PNG files holds X: told from the pictures.

The training code that made these files known reads them with OpenCV and does not swap channels, while it does for the
targets; a network learns that away, a fixed colour matrix cannot. Two observations are made, and both must agree:

* Pixels that are neutral in the target have X : Y : Z of about .95 : 1 : 1.09, so that X / Z lies below 1.
* Where the target is redder than elsewhere X / Z is larger, whatever the white is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.io.image_io import read_image, to_float

ORDERS = ("rgb", "bgr")
"""``rgb``: X, Y, Z are the file's red, green and blue channels. ``bgr``: Z, Y, X are."""

SAMPLE = 24
"""Pairs that are looked at."""

_WHITE = "0.95 : 1 : 1.09"
# X / Z of the white .95 : 1.09 is .87, of a swapped file 1.15; nearer to 1 than this says nothing.
_LEAST_LOG_RATIO = 0.05
_LEAST_CORRELATION = 0.3


class ChannelEvidence(NamedTuple):
    """What the pictures say.

    Attributes:
        order: ``rgb``, ``bgr``, or None if undecided.
        neutral: Median ratios of the file's red, green and blue at neutral pixels, green being 1; None without any.
        correlation: Of log(file red / file blue) with log(target red / target blue), the median over the pairs.
        pairs: Number of pairs looked at.
    """

    order: str | None
    neutral: tuple[float, float, float] | None
    correlation: float | None
    pairs: int

    def describe(self) -> str:
        """One line for a message."""
        ratios = " : ".join(f"{value:.2f}" for value in self.neutral) if self.neutral else "none found"
        correlation = "unknown" if self.correlation is None else f"{self.correlation:+.2f}"
        return (
            f"{self.order or 'undecided'} (neutral pixels of {self.pairs} targets have red : green : blue = {ratios} "
            f"in the XYZ files, and X : Y : Z would be {_WHITE}; the correlation of red/blue with the target's is "
            f"{correlation})"
        )


def decide(pairs: Sequence[Pair], sample: int = SAMPLE) -> ChannelEvidence:
    """Look at some of the pairs, spread evenly; those that cannot be read are passed over."""
    step = max(1, len(pairs) // sample)
    whites, correlations = [], []
    looked = 0
    for pair in pairs[::step][:sample]:
        try:
            image, target = to_float(read_image(pair.input)), to_float(read_image(pair.target))
        except (ValueError, OSError):
            continue
        if image.shape != target.shape:
            continue
        looked += 1
        white, correlation = observe(image, target)
        if white is not None:
            whites.append(white)
        if correlation is not None:
            correlations.append(correlation)
    return conclude(whites, correlations, looked)


def observe(image: np.ndarray, target: np.ndarray) -> tuple[np.ndarray | None, float | None]:
    """The two observations of a pair, None where it shows nothing.

    Args:
        image: XYZ in unknown order (H, W, 3), [0, 1].
        target: sRGB (H, W, 3), [0, 1].

    Returns:
        Median ratios of the channels to channel 1 at the target's neutral pixels; correlation of the log ratios of
        channels 0 and 2.
    """
    size = max(1, image.shape[1] // 4), max(1, image.shape[0] // 4)
    image, target = (cv2.resize(part, size, interpolation=cv2.INTER_AREA).reshape(-1, 3) for part in (image, target))
    usable = (image.min(axis=1) > 0.002) & (image.max(axis=1) < 0.98) & (target.min(1) > 0.02) & (target.max(1) < 0.98)
    image, target = image[usable], target[usable]
    spread = target.max(axis=1) - target.min(axis=1)
    neutral = (spread < 0.03) & (target.mean(axis=1) > 0.2) & (target.mean(axis=1) < 0.9)
    white = np.median(image[neutral] / image[neutral, 1:2], axis=0) if neutral.sum() >= 20 else None
    ratios = [np.log(part[:, 0] / part[:, 2]) for part in (image, target)]
    if len(image) < 100 or min(ratio.std() for ratio in ratios) < 0.02:
        return white, None
    return white, float(np.corrcoef(*ratios)[0, 1])


def conclude(whites: Sequence[np.ndarray], correlations: Sequence[float], looked: int) -> ChannelEvidence:
    """Decide from the observations of several pairs; they must not contradict each other."""
    neutral = tuple(float(value) for value in np.median(whites, axis=0)) if whites else None
    correlation = float(np.median(correlations)) if correlations else None
    votes = set()
    if neutral is not None:
        # No difference at all is that of ordinary RGB images, and no silence.
        ratio = float(np.log(neutral[0] / neutral[2]))
        votes.add(None if abs(ratio) < _LEAST_LOG_RATIO else "bgr" if ratio > 0 else "rgb")
    if correlation is not None and abs(correlation) >= _LEAST_CORRELATION:
        votes.add("rgb" if correlation > 0 else "bgr")
    order = votes.pop() if len(votes) == 1 else None
    return ChannelEvidence(order, neutral, correlation, looked)  # type: ignore[arg-type]  # three ratios
