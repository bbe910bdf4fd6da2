"""Paired differences between two systems on the same images, with an interval that knows what is not independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Values = Mapping[tuple[int, str], float]
"""A figure of each test image in each repetition, by (seed, name of the image)."""

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: Over all images of all repetitions.
        low: Lower end.
        high: Upper end.
        images: How many different images it is of.
        seeds: How many repetitions.
    """

    mean: float
    low: float
    high: float
    images: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.low > 0


def paired_difference(a: Values, b: Values) -> Interval | None:
    """Mean of ``a - b`` over the images that both have, with a bootstrap clustered over images and seeds.

    An image that is easy is easy in every repetition, and a repetition with unlucky pairs is unlucky on all images: the
    differences are not independent. So images and seeds are both drawn with replacement, and a difference counts as
    often as its image times its seed was drawn (the pigeonhole bootstrap, Owen 2007). That counts what is left beside
    the effects of seed and image more than once, which widens the interval, but takes the spread between few seeds for
    too small: of simulated intervals of 70 images and 5 seeds about 95 % held the true mean where images differed more
    than seeds, 92 % where seeds differed more; with 3 seeds 94 % and 88 %, or less. With one seed the interval speaks
    of the images alone, and is too narrow.

    Args:
        a: For example PSNR in dB.
        b: The same of another system.

    Returns:
        Nothing where no image is shared, or a difference is not finite. The draws are the same at every call.
    """
    shared = a.keys() & b.keys()
    seeds, images = (sorted({key[k] for key in shared}) for k in (0, 1))
    if not shared:
        return None
    rows, columns = ({name: k for k, name in enumerate(names)} for names in (seeds, images))
    there = np.zeros((len(seeds), len(images)))
    difference = np.zeros_like(there)
    for key in shared:
        at = rows[key[0]], columns[key[1]]
        there[at], difference[at] = 1, a[key] - b[key]
    if not np.isfinite(difference).all():
        return None
    of_seeds, of_images = (_draws(n, axis, RESAMPLES) for axis, n in enumerate(there.shape))
    weights = (of_seeds @ there * of_images).sum(1)
    drawn = weights > 0  # where repetitions share few images, a draw may hold none
    means = (of_seeds @ difference * of_images).sum(1)[drawn] / weights[drawn]
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(difference.sum() / there.sum()), float(low), float(high), len(images), len(seeds))


@lru_cache(maxsize=16)  # a report asks for the same again and again, and they take longer than all the rest
def _draws(n: int, axis: int, resamples: int) -> np.ndarray:
    """How often each of ``n`` is drawn, (resamples, n); another ``axis`` is drawn independently.

    Of n, n - 1 are drawn, so that the variance of the mean is that of a sample of n (Rao and Wu, 1988).
    """
    drawn = max(n - 1, 1)
    return np.random.default_rng((axis, n)).multinomial(drawn, np.full(n, 1 / n), resamples).astype(float)
