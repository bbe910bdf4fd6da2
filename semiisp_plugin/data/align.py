"""Bringing an input (a RAW, mostly) to its edited image: orientation, border and size; and noticing what cannot be.

All of this is ours. Two measures compare fine structure and not brightness, which an edit changes:

- *Alignment*, whether the two show the same: both images become small, their luminances ranks, and what is left after
  subtracting a blurred copy is correlated. On ordinary edits it lies near 1, for a frame cropped by a tenth or
  straightened by two degrees near 0. It does not see that a large image is displaced by a few pixels.
- *Displacement*, at the edited image's full resolution: gradients, divided by what is usual around them, are correlated
  in patches all over the image, for each displacement within reach. The mean of the patches says where the edited image
  lies; each patch by itself, whether it lies there too, and at which scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

MIN_ALIGNMENT = 0.7
"""Pairs below this are taken for misaligned. Measured: aligned pairs of FiveK (15) reach 0.95 (0.91 with the input made
linear and green, as a RAW is), of LOLv1 (100) 0.78; the same with the target cropped to 95 % stay below 0.63, turned by
two degrees below 0.55, mirrored below 0.31."""

ASPECT_TOLERANCE = 0.004
"""Relative difference of width / height that resizing may hide, besides the rounding of the smaller size."""

MAX_BORDER = 0.03
"""Largest part of a side that is taken for the sensor's border, on whichever sides it lies, and cut off."""

MAX_DISPLACEMENT = 1.5
"""Pixels of the edited image by which a pair may be displaced. Of 120 pairs of LOLv1 eight are displaced by one pixel,
one by two; of 106 of FiveK, LSUI and Google Photos none."""

_SIDE, _BLUR = 256, 8.0
_COARSE_SIDE = 512
_PATCH, _MAX_PATCHES = 128, 6  # pixels; along a side
# Of pairs of different photographs the highest correlation is at most 0.15, of aligned ones (also of LOLv1, dark and
# noisy) at least 0.36. What is not as high as the second of these is another place.
_LEAST, _LEAST_OF_PATCH, _NEAR = 0.25, 0.4, 0.85
_FAR = 8.0


class Aligned(NamedTuple):
    """What `align` returns.

    Attributes:
        image: The input at the target's size and orientation.
        score: The measure of alignment, -1 to 1.
        turns: Quarter turns (counter-clockwise) that were needed.
        cut: Pixels that were cut off the turned input: top, bottom, left, right.
    """

    image: np.ndarray
    score: float
    turns: int
    cut: tuple[int, int, int, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the input, in words."""
        turned = ("input turned by quarter turns to fit the edited image",) if self.turns else ()
        if not any(self.cut):
            return turned
        where = ", ".join(f"{n} {at}" for n, at in zip(self.cut, ("above", "below", "left", "right"), strict=True))
        return (*turned, f"pixels of the input's border that the edited image has not, cut off: {where}")


class _Window(NamedTuple):
    """The part of an image that a target shows, in the image's pixels."""

    top: float
    left: float
    height: float
    width: float


class _Field(NamedTuple):
    """How a target is displaced against a window.

    Attributes:
        shift: (x, y) of the whole, pixels of the target.
        peak: The correlation there, at most 1.
        clear: Whether it is nowhere else nearly as high.
        places: (N, 2), x and y of the patches that are clear by themselves, from the target's middle.
        shifts: (N, 2), their own displacements.
    """

    shift: np.ndarray
    peak: float
    clear: bool
    places: np.ndarray
    shifts: np.ndarray

    @property
    def apart(self) -> float:
        """Pixels by which many of the clear patches lie from where the whole does, or their middle.

        Half of them, or a quarter but for those far away: what repeats itself, such as a fence, looks displaced.
        """
        if len(self.shifts) < 3:
            return 0.0
        middle = self.shift if self.clear else np.median(self.shifts, axis=0)
        apart = np.abs(self.shifts - middle).max(axis=1)
        near = apart[apart < _FAR]
        quarter = float(np.quantile(near, 0.75)) if len(near) > 2 else 0.0
        return max(quarter, float(np.median(apart))) if self.clear else quarter


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the fine structure of two images that show the same, -1 to 1; 0 if one of them has none.

    Args:
        first: RGB (H, W, 3) of any size and depth.
        second: RGB (H, W, 3); ``first`` is compared at its shape.
    """
    height, width = second.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return _correlation(_ranks(_luminance(first, size)), _ranks(_luminance(second, size)))


def align(image: np.ndarray, target: np.ndarray, *, min_alignment: float = MIN_ALIGNMENT) -> Aligned:
    """Turn, cut and shrink an image to the size of its target.

    Quarter turns are tried where the image does not fit as it is. What the image has more than the target, at most
    `MAX_BORDER` of a side, is cut off where the structure of both says so; then area interpolation shrinks it.

    Args:
        image: RGB (H, W, 3).
        target: RGB (h, w, 3), its edited version, no larger than the image.
        min_alignment: See `MIN_ALIGNMENT`; -1 accepts everything that has the size, and where it is not clear which
            part the target shows, takes the middle.

    Returns:
        The aligned image and how well it fits.

    Raises:
        ValueError: The target is larger, has other proportions, shows something else, or is displaced; or it is not
            clear which part of the image it shows. The message has the figures and what the likely cause is.
    """
    best: Aligned | None = None
    reason = problem = ""
    for turns in (0, 1, 3, 2):
        turned = np.rot90(image, turns)
        try:
            starts = _starts(turned.shape[:2], target.shape[:2])
        except ValueError as error:
            reason = reason or str(error)
            continue
        window, found = _place(turned, target, starts)
        fitted, cut = _cut(turned, window, target.shape[:2])
        score = alignment(fitted, target)
        if best is None or score > best.score + 0.05:
            best, problem = Aligned(fitted, score, turns, cut), found
        if best.score >= max(min_alignment, MIN_ALIGNMENT):
            break
    if best is None:
        raise ValueError(reason)
    if best.score < min_alignment:
        raise ValueError(
            f"the input and the edited image do not show the same pixels (alignment {best.score:.2f}, at least "
            f"{min_alignment:g} is needed). Was it cropped, straightened or corrected for the lens, or is it another "
            f"photograph? Export it with the crop reset, or leave the pair out."
        )
    if problem and min_alignment > -1:
        raise ValueError(problem)
    return best


def _starts(size: tuple[int, int], target: tuple[int, int]) -> list[_Window]:
    """Parts of an image (height, width) that a target of a size may show: unscaled, and as much as possible."""
    (h, w), (height, width) = size, target
    if h < height or w < width:
        raise ValueError(
            f"the edited image ({height}x{width}, height x width) is larger than the input ({h}x{w}), which would have "
            "to be enlarged. Export it at the input's size or smaller."
        )
    starts = []
    if h - height <= MAX_BORDER * h and w - width <= MAX_BORDER * w:
        starts.append(_middle(size, height, width))
    ratio = (w / h) / (width / height)
    if abs(ratio - 1) <= ASPECT_TOLERANCE + 0.5 / min(height, width):
        return list(dict.fromkeys((*starts, _middle(size, h, w))))
    cut_h, cut_w = (h, w / ratio) if ratio > 1 else (h * ratio, w)
    if h - cut_h <= MAX_BORDER * h and w - cut_w <= MAX_BORDER * w:
        starts.append(_middle(size, cut_h, cut_w))
    if not starts:
        raise ValueError(
            f"the edited image ({height}x{width}, height x width) has other proportions than the input ({h}x{w}), "
            "so it was cropped or straightened. Export it with the crop reset, or leave the pair out."
        )
    return starts


def _middle(size: tuple[int, int], height: float, width: float) -> _Window:
    return _Window((size[0] - height) / 2, (size[1] - width) / 2, height, width)


# --- where the target lies ------------------------------------------------------------------------------------------


def _place(image: np.ndarray, target: np.ndarray, starts: list[_Window]) -> tuple[_Window, str]:
    """The part of an image that a target shows, and what is wrong with it; nothing, if it is clear."""
    size, (height, width) = image.shape[:2], target.shape[:2]
    first, second = _grey(image), _grey(target)
    problem = ""
    for start in (*starts, None):
        window, field = _refined(first, second, start or _searched(first, second, starts[-1]))
        if not field.clear and field.apart <= MAX_DISPLACEMENT:
            continue
        usable, off = _usable(window, size, (height, width))
        if any(most - part > MAX_BORDER * most + 1 for most, part in zip(size, usable[2:], strict=True)):
            continue  # a crop, which has been refused by its proportions if they are others
        if max(field.apart, off) <= MAX_DISPLACEMENT:
            return usable, ""
        if start is None:
            continue  # what a search has not found is nowhere
        what = "parts of the edited image are" if field.apart > MAX_DISPLACEMENT else "the edited image is"
        problem = problem or (
            f"{what} displaced against the input by {max(field.apart, off):.1f} pixels. Was it cropped, straightened "
            "or corrected for the lens, or did the camera move? Export it with all that reset, or leave the pair out."
        )
    surplus = max(max((size[0] - s.height) * height / s.height, (size[1] - s.width) * width / s.width) for s in starts)
    if not problem and surplus >= 1:
        problem = (
            f"the input ({size[0]}x{size[1]}, height x width) has more at its border than the edited image "
            f"({height}x{width}), and it is not clear on which side: the two have too little structure in common, or "
            "too regular a one. Crop the input to what the edited image shows, or leave the pair out."
        )
    return starts[0], problem


def _refined(image: np.ndarray, target: np.ndarray, window: _Window) -> tuple[_Window, _Field]:
    """Displace and scale a window until it shows what the target shows."""
    height, width = target.shape
    reach = math.ceil(MAX_BORDER * max(height, width)) + 4
    for _ in range(4):
        field = _field(image, target, window, reach)
        if not field.clear:
            break
        # Pixels that can stay as they are are not resampled for less than a pixel at the border.
        least = 2.0 if window[2:] == (height, width) else 0.5
        (dx, wider), (dy, higher) = _lines(field, target.shape, least)
        rows, columns = window.height / height, window.width / width
        window = _Window(
            window.top + rows * (dy - higher * height / 2),
            window.left + columns * (dx - wider * width / 2),
            window.height * (1 + higher),
            window.width * (1 + wider),
        )
        if not (wider or higher):
            break
        reach = 8
    return window, field


def _searched(image: np.ndarray, target: np.ndarray, widest: _Window) -> _Window:
    """The window of the best scale, by small versions of both."""
    shrink = min(1.0, _COARSE_SIDE / max(target.shape))
    small = _resized(target, max(1, round(target.shape[0] * shrink)), max(1, round(target.shape[1] * shrink)))
    reach = math.ceil(MAX_BORDER * max(small.shape)) + 4
    best, highest = widest, 0.0
    for step in range(7):
        part = 1 - step / 6 * MAX_BORDER
        window = _middle(image.shape, widest.height * part, widest.width * part)
        field = _field(image, small, window, reach)
        if field.clear and field.peak > highest:
            x, y = field.shift
            top = window.top + y * window.height / small.shape[0]
            best = window._replace(top=top, left=window.left + x * window.width / small.shape[1])
            highest = field.peak
    return best


def _field(image: np.ndarray, target: np.ndarray, window: _Window, reach: int) -> _Field:
    """How the target is displaced against a window of an image, both grey, as far as it may be (pixels)."""
    height, width = target.shape
    rows, columns = image.shape
    scaled = _resized(image, round(rows * height / window.height), round(columns * width / window.width))
    down, right = scaled.shape[0] / rows, scaled.shape[1] / columns
    corner = np.array((window.left * right, window.top * down))
    left, top = np.rint(corner).astype(int)
    side = min(_PATCH, max(24, min(height, width) // 2), height, width)
    surfaces, places = [], []
    for y in _spread(height, side):
        for x in _spread(width, side):
            around = _structure_within(scaled, top + y - reach, left + x - reach, side + 2 * reach)
            patch = _structure(target[y : y + side, x : x + side])
            surfaces.append(cv2.matchTemplate(around, patch, cv2.TM_CCORR_NORMED))
            places.append((x + (side - width) / 2, y + (side - height) / 2))
    peaks = [_peak(surface) for surface in surfaces]
    # Patches of noise or of nothing say little.
    weights = [max(0.0, peak) for _, peak, _ in peaks]
    shift, peak, clear = _peak(np.tensordot(weights, surfaces, 1) / max(1e-9, sum(weights)))
    from_corner = (left, top) - corner - reach
    good = [own_clear and own_peak >= _LEAST_OF_PATCH for _, own_peak, own_clear in peaks]
    return _Field(
        shift + from_corner,
        peak,
        clear and peak >= _LEAST,
        np.array(places)[good],
        np.array([own for own, _, _ in peaks])[good] + from_corner,
    )


def _spread(length: int, side: int) -> list[int]:
    """Where patches of a side begin along a length, evenly spread."""
    return [round(at) for at in np.linspace(0, length - side, min(_MAX_PATCHES, math.ceil(length / side)))]


def _peak(surface: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """(x, y) of the highest place, between the pixels; its height; and whether no other place is nearly as high."""
    y, x = np.unravel_index(int(surface.argmax()), surface.shape)
    height = float(surface[y, x])
    places = cv2.connectedComponents((surface >= _NEAR * height).astype(np.uint8))[0] - 1
    between = [_vertex(surface[y, max(0, x - 1) : x + 2]), _vertex(surface[max(0, y - 1) : y + 2, x])]
    return np.array((x, y)) + between, height, height > 0 and places == 1


def _vertex(three: np.ndarray) -> float:
    """Where the parabola through three values is highest, from the middle one, which is the largest."""
    if len(three) < 3 or (bend := float(2 * three[1] - three[0] - three[2])) <= 0:
        return 0.0
    return float(three[2] - three[0]) / (2 * bend)


def _lines(field: _Field, size: tuple[int, int], least: float) -> list[tuple[float, float]]:
    """Displacement in the middle, and by how much it grows a pixel, along x and y: medians of all pairs (Theil, Sen).

    What grows by fewer than ``least`` pixels over the whole image is no scale.
    """
    lines = []
    for axis, length in ((0, size[1]), (1, size[0])):
        places, shifts = field.places[:, axis], field.shifts[:, axis]
        # No border displaces them further; what repeats itself seems to be.
        within = np.abs(shifts - np.median(shifts)) <= MAX_BORDER / 2 * length + 2 if len(shifts) else []
        places, shifts = places[within], shifts[within]
        one, other = np.triu_indices(len(places), 1)
        far = np.abs(places[one] - places[other]) > length / 4
        one, other = one[far], other[far]
        slope = float(np.median((shifts[one] - shifts[other]) / (places[one] - places[other]))) if len(one) > 2 else 0.0
        lines.append((float(np.median(shifts - slope * places)) if slope else 0.0, slope))
    if all(abs(slope) * length < least for (_, slope), length in zip(lines, size[::-1], strict=True)):
        return [(float(shift), 0.0) for shift in field.shift]
    return lines


def _usable(window: _Window, size: tuple[int, int], target: tuple[int, int]) -> tuple[_Window, float]:
    """The nearest window in an image of a size that need not be enlarged, and how far it is off (target's pixels)."""
    begins, lengths, off = [], [], 0.0
    for begin, length, most, least in zip(window[:2], window[2:], size, target, strict=True):
        new_begin, new_length = begin, min(length, most)
        if length < least + 1:  # the pixels are the sensor's own: resizing by so little would only blur them
            new_begin, new_length = round(begin + (length - least) / 2), least
        new_begin = min(max(new_begin, 0), most - new_length)
        off = max(off, abs(new_begin - begin), abs(new_begin + new_length - begin - length)) * least / length
        begins.append(new_begin)
        lengths.append(new_length)
    return _Window(*begins, *lengths), off


def _cut(image: np.ndarray, window: _Window, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A window of an image at a size, and the pixels cut off: top, bottom, left, right."""
    top, left = round(window.top), round(window.left)
    bottom, right = round(window.top + window.height), round(window.left + window.width)
    part = np.ascontiguousarray(image[top:bottom, left:right])
    cut = top, image.shape[0] - bottom, left, image.shape[1] - right
    return _resized(part, *size), cut


# --- structure ------------------------------------------------------------------------------------------------------


def _grey(image: np.ndarray) -> np.ndarray:
    """Mean of the channels, of the image's type."""
    return np.asarray(cv2.transform(np.ascontiguousarray(image), np.full((1, 3), 1 / 3, np.float32)))


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image at another size by area interpolation, which enlarges linearly."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _structure(grey: np.ndarray) -> np.ndarray:
    """(H, W, 2): gradients of a slightly blurred image, divided by themselves and by what is usual around them."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
    x, y = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    size = cv2.magnitude(x, y)
    usual = size + 0.5 * cv2.blur(size, (31, 31)) + 1e-6 * max(1.0, float(smooth.max()))
    return np.asarray(cv2.merge((x / usual, y / usual)))


def _structure_within(image: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """`_structure` of a square that may reach beyond an image, where there is none."""
    above, before = max(0, -top), max(0, -left)
    part = image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    below, behind = side - above - part.shape[0], side - before - part.shape[1]
    if part.size == 0:
        return np.zeros((side, side, 2), np.float32)
    return np.asarray(cv2.copyMakeBorder(_structure(part), above, below, before, behind, cv2.BORDER_CONSTANT))


def _luminance(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean of the channels at a (height, width)."""
    return _resized(_grey(image).astype(np.float32), *size)


def _ranks(luminance: np.ndarray) -> np.ndarray:
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
