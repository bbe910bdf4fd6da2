"""Crops, flips and turns of image pairs: pure functions of a generator and the images.

All images of a call have one height and width and undergo the same geometry. What comes out has the size asked for
whatever comes in, so that samples stack into a batch. The treatment of images that do not hold the crop is ours (the
paper names a training size of 640x480 and is silent on portrait and smaller photographs).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_BINS, _STEP = 10, 64  # of `stratified_crop`


def fit_to_crop(images: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Turn and enlarge images as little as possible so that a crop fits into them (ours).

    An image that holds the crop stays as it is. Otherwise it is turned by 90 degrees if that calls for less
    enlargement, as for a portrait photograph and a landscape crop, and then enlarged (bilinear) by the least factor.
    Nothing is padded.

    Args:
        images: Images (H, W, C) of one height and width.
        size: Height and width of the crop.

    Returns:
        Images of at least this size.
    """
    height, width = images[0].shape[:2]
    upright, turned = _enlargement((height, width), size), _enlargement((width, height), size)
    if turned < upright:
        images = [np.rot90(image) for image in images]
        height, width = width, height
    factor = min(upright, turned)
    if factor == 1.0:
        return list(images)
    # Rounding may fall a pixel short of the crop.
    target = (max(size[1], round(width * factor)), max(size[0], round(height * factor)))
    return [
        cv2.resize(np.ascontiguousarray(image), target, interpolation=cv2.INTER_LINEAR).reshape(
            target[1], target[0], image.shape[2]
        )
        for image in images
    ]


def random_crop(rng: np.random.Generator, images: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Cut the same random window out of each image, all windows being equally likely.

    Args:
        rng: Source of randomness; two numbers are drawn.
        images: Images (H, W, C) of one height and width, at least ``size``.
        size: Height and width of the crop.
    """
    height, width = images[0].shape[:2]
    top = int(rng.integers(height - size[0] + 1))
    left = int(rng.integers(width - size[1] + 1))
    return [image[top : top + size[0], left : left + size[1]] for image in images]


def stratified_crop(rng: np.random.Generator, images: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Cut the same window out of each image, such that dark and bright windows are equally frequent.

    ReRAW's stratified sampling (Berdan et al., CVPR 2025): of the windows whose corners lie on a grid of 64 pixels, the
    brightness of the first image decides which of ten bins each belongs to; a bin is drawn, and then a window in it.
    Ours: brightness is that of all channels together (published: of one channel at a time), empty bins are left out,
    and windows at the lower and right border are in the grid.

    Args:
        rng: Source of randomness; two numbers are drawn.
        images: Images (H, W, C) of one height and width, at least ``size``; the first decides. Of integers, their
            type's largest value is white; of floats 1.
        size: Height and width of the crop.
    """
    decides = images[0]
    white = np.iinfo(decides.dtype).max if np.issubdtype(decides.dtype, np.integer) else 1.0
    sums = cv2.integral(np.ascontiguousarray(decides), sdepth=cv2.CV_64F)
    corners = [(top, left) for top in _grid(decides.shape[0] - size[0]) for left in _grid(decides.shape[1] - size[1])]
    bins: dict[int, list[tuple[int, int]]] = {}
    for top, left in corners:
        bottom, right = top + size[0], left + size[1]
        total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        brightness = float(total.mean()) / (size[0] * size[1] * white)
        bins.setdefault(int(np.clip(brightness * _BINS, 0, _BINS - 1)), []).append((top, left))
    chosen = bins[sorted(bins)[int(rng.integers(len(bins)))]]
    top, left = chosen[int(rng.integers(len(chosen)))]
    return [image[top : top + size[0], left : left + size[1]] for image in images]


def _grid(room: int) -> list[int]:
    """Corners along an axis on which a window can move so far."""
    return sorted({*range(0, room + 1, _STEP), room})


def random_ratio_size(
    rng: np.random.Generator, shape: Sequence[int], crop_ratio: tuple[float, float]
) -> tuple[int, int]:
    """Height and width of a crop, each a share of the image's drawn uniformly from ``crop_ratio``, rounded down.

    The random ratio crop of Image-Adaptive-3DLUT and SepLUT, which draw from 0.6 to 1.

    Args:
        rng: Source of randomness; two numbers are drawn.
        shape: (H, W, ...) of the image.
        crop_ratio: Least and largest share, in (0, 1].
    """
    height, width = (max(1, int(side * share)) for side, share in zip(shape, rng.uniform(*crop_ratio, 2), strict=False))
    return height, width


def augment(
    rng: np.random.Generator,
    images: Sequence[np.ndarray],
    *,
    size: tuple[int, int] | None = None,
    hflip: bool = False,
    rot: bool = False,
    stratified: bool = False,
) -> list[np.ndarray]:
    """Crop, flip and transpose images at random, each with probability 1/2.

    Args:
        rng: Source of randomness. What is drawn does not depend on ``hflip`` and ``rot``.
        images: Images (H, W, C) of one height and width.
        size: Height and width of the result; None leaves the size.
        hflip: Flip left to right.
        rot: Flip upside down, and transpose (BasicSR's ``use_rot``). Transposing must not change the size of the
            result, so it is left out where the transposed image does not hold the crop without (more) enlargement,
            or, without a crop, is not square.
        stratified: Crop by `stratified_crop`.

    Returns:
        Contiguous images of the same type.
    """
    draw_hflip, draw_vflip, draw_transpose = (bool(b) for b in rng.random(3) < 0.5)
    if size is not None:
        images = fit_to_crop(images, size)
    height, width = images[0].shape[:2]
    needed = size or (height, width)
    if rot and draw_transpose and width >= needed[0] and height >= needed[1]:
        images = [image.transpose(1, 0, 2) for image in images]
    if size is not None:
        images = (stratified_crop if stratified else random_crop)(rng, images, size)
    if hflip and draw_hflip:
        images = [image[:, ::-1] for image in images]
    if rot and draw_vflip:
        images = [image[::-1] for image in images]
    return [np.ascontiguousarray(image) for image in images]


def _enlargement(shape: tuple[int, int], size: tuple[int, int]) -> float:
    """The least factor by which an image must be enlarged to hold a crop; 1 if it does."""
    return max(1.0, size[0] / shape[0], size[1] / shape[1])
