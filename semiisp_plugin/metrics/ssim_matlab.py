"""SSIM with automatic downsampling: that of the benchmarks on FiveK.

References:
    Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
    IEEE TIP 2004; the authors' ``ssim.m`` (2009) first reduces an image to about 256 pixels on its short side, as its
    comments and the paper's web page explain.

This is written from the published algorithm. The average-pooling factor is ``f = max(1, round(min(H, W) / 256))``,
with MATLAB's rounding of halves away from zero; each pixel is replaced by the mean of f x f pixels (mirrored at the
edges; for even f the window reaches one pixel further to the right and down), and every f-th is kept. What follows is
plain SSIM: an 11x11 Gaussian window, sigma 1.5, windows inside the image alone, K = (0.01, 0.03), L = 255.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from semiisp_plugin.metrics._shared import as_pair
from semiisp_plugin.toolbox import METRIC_REGISTRY, register

_OWNER = "calculate_ssim_matlab"
_WINDOW = 11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_GREY = np.array([0.1140, 0.5870, 0.2989])  # MATLAB's rgb2gray, for B, G, R

Planes = npt.NDArray[np.float64]


def downsampling_factor(height: int, width: int) -> int:
    """``max(1, round(min(height, width) / 256))``, halves rounded up."""
    return max(1, math.floor(min(height, width) / 256 + 0.5))


def _box_mean(image: Planes, factor: int) -> Planes:
    """Mean over ``factor`` x ``factor`` pixels of each plane ``(H, W, C)``, from ``(factor - 1) // 2`` before it on."""
    origin = (factor - 1) // 2 - factor // 2
    for axis in (0, 1):
        image = ndimage.uniform_filter1d(image, factor, axis=axis, mode="reflect", origin=origin)
    return image


def _ssim(x: Planes, y: Planes) -> float:
    """Mean SSIM of two planes ``(H, W)``."""
    position = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(position**2) / (2 * 1.5**2))
    weights /= weights.sum()
    edge = _WINDOW // 2

    def blur(image: Planes) -> Planes:
        for axis in (0, 1):
            image = ndimage.correlate1d(image, weights, axis=axis)
        inside: Planes = image[edge:-edge, edge:-edge]
        return inside

    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return float((luminance * (2 * covariance + _C2) / (variances + _C2)).mean())


def _grey(image: npt.NDArray[np.generic]) -> Planes:
    """``rgb2gray``: of 8-bit images rounded to 8 bits."""
    grey: Planes = image.astype(np.float64) @ _GREY
    return np.floor(grey + 0.5) if image.dtype == np.uint8 else grey


@register(METRIC_REGISTRY)
def calculate_ssim_matlab(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    colour: Literal["concatenated", "channels", "grey"] = "concatenated",
    better: str | None = None,
) -> float:
    """SSIM after automatic downsampling; see this module's docstring.

    ``ssim.m`` is for grey images. The programs of Image-Adaptive-3DLUT, AdaInt and SepLUT, by which the numbers on
    FiveK are made, hand it RGB ones all the same. What MATLAB then computes, by the rules of its language (read, not
    run), is the default here, since it is there for comparisons with those numbers:

    * ``concatenated``: R, G and B stand side by side in one plane of ``(H, 3 W)``, of which every f-th column is kept,
      and windows reach across the two seams; f comes of ``min(H, 3 W)``, so that portrait images are reduced more than
      landscape ones (720x480: by 3, 480x720: by 2). (Where f is 1 MATLAB stops; here the same is done.)
    * ``channels``: each channel on its own, averaged; f of ``min(H, W)``. What was probably meant.
    * ``grey``: of ``rgb2gray``, as ``ssim.m`` is documented.

    They agree on grey images but for ``f``. After downsampling 11 pixels a side must be left.

    Images, ``crop_border`` and ``better`` are those of all metrics, see `semiisp_plugin.metrics`.

    Returns:
        SSIM in [-1, 1].
    """
    pair = as_pair(img, img2, _OWNER, crop_border, _WINDOW)
    height, width, channels = pair[0].shape
    if colour == "grey" and channels == 3:
        images = [_grey(image)[..., None] for image in pair]
    else:
        images = [image[..., ::-1].astype(np.float64) for image in pair]
    factor = downsampling_factor(height, width * (channels if colour == "concatenated" else 1))
    if factor > 1:
        images = [_box_mean(image, factor) for image in images]
    if colour == "concatenated":
        images = [image.transpose(0, 2, 1).reshape(height, -1, 1) for image in images]
    images = [image[::factor, ::factor] for image in images]
    if min(images[0].shape[:2]) < _WINDOW:
        raise ValueError(
            f"{_OWNER}: of a {height}x{width} image (height x width) {images[0].shape[0]}x{images[0].shape[1]} pixels "
            f"are left after downsampling by {factor}; {_WINDOW} a side are needed."
        )
    return float(np.mean([_ssim(images[0][..., c], images[1][..., c]) for c in range(images[0].shape[2])]))
