"""Denoising a dark image as a photograph that it could be (Sec. A.3), and OpenCV's non-local means for it (ours)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np

_TOP = 65535
# Y, Cr, Cb -> R, G, B (ITU-R BT.601), columns first.
_TO_RGB = np.array([[1, 1, 1], [1.402, -0.714136, 0], [0, -0.344136, 1.772]], np.float32)
# Strengths as multiples of the luminance's noise. Chosen on seven pairs of LOLv1 between what is left of the noise and
# what is lost of fine texture; colour bears more smoothing than luminance.
_LUMINANCE, _COLOUR = 1.2, 2.0
_PATCH, _SEARCH = 7, 21  # sides of the patches that are compared, and of the window they are searched in
_NORMAL_MAD = 0.6744897501960817  # median of the magnitude of a standard normal number
# The difference of two Laplacians: 0 on planes and quadratic surfaces (Immerkaer, 1996). Noise of deviation 1 gives 6.
_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_MASK_NORM = 6.0

Normalisation = Literal["max", "none"]

Denoiser = Callable[[np.ndarray], np.ndarray]
"""A function of images: (H, W, 3), ``float32`` in [0, 1] -> the same shape, ``float32``."""


def denoise_image(
    image: np.ndarray,
    denoise: Denoiser,
    *,
    normalise: Normalisation = "max",
    gamma: float = 2.2,
) -> np.ndarray:
    """Denoise a dark image as the paper does: normalise, gamma, denoise, undo both.

    A denoiser is made for images that look like photographs; a dark image is stretched to [0, 1] and encoded with
    ``1 / gamma`` before, and is as dark as it was afterwards. "Normalised to 0..1" is all the paper says: ``max``
    divides by the largest value of the image, one for all channels (our reading: black stays black).

    Args:
        image: (H, W, 3), float in [0, 1].
        denoise: Takes and returns an image of that shape, ``float32``; what it gives is clipped to [0, 1].
        normalise: ``max`` or ``none``.
        gamma: Exponent of the decoding, as 2.2 of sRGB; above 0. 1 leaves it out.

    Returns:
        (H, W, 3), ``float32`` in [0, 1].

    Raises:
        ValueError: The image has another shape or type, or ``denoise`` returned another shape or values that are not
            finite.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"The image has shape {image.shape} and type {image.dtype}; expected (H, W, 3), float.")
    scale = np.float32((image.max() if normalise == "max" else 1) or 1)  # black stays as it is
    bright = (image.astype(np.float32) / scale).clip(0, 1) ** np.float32(1 / gamma)
    clean = denoise(bright)
    if clean.shape != image.shape:
        raise ValueError(f"The denoiser turned shape {image.shape} into {clean.shape}.")
    if not np.isfinite(clean).all():
        raise ValueError("the denoiser gave values that are not finite; is it the network that the weights belong to?")
    dark = clean.astype(np.float32).clip(0, 1) ** np.float32(gamma)
    return (dark * scale).clip(0, 1)


def noise_level(plane: np.ndarray) -> float:
    """Standard deviation of white noise in one channel of an image.

    The image is filtered by a mask that smooth surfaces leave at zero; the median magnitude of the rest, which edges do
    not move, is scaled to the deviation of normal noise. Where noise depends on the brightness this is a middle value.

    Args:
        plane: (H, W), float.

    Returns:
        The deviation in the units of ``plane``; 0 for sides below 3 pixels.
    """
    if min(plane.shape) < 3:
        return 0.0
    filtered = cv2.filter2D(np.ascontiguousarray(plane, np.float32), -1, _MASK)[1:-1, 1:-1]
    return float(np.median(np.abs(filtered))) / (_MASK_NORM * _NORMAL_MAD)


def non_local_means(image: np.ndarray) -> np.ndarray:
    """OpenCV's non-local means on 16-bit luminance and colour difference planes. Ours, not the paper's.

    OpenCV's own colour version (``fastNlMeansDenoisingColored``) takes 8 bits and rounds them twice more on the way to
    Lab and back, which shows in images that are to be made brighter. Its general version takes 16 bits with the L1
    norm, and is given Y alone, then Cr and Cb together. The strengths are multiples of the luminance's noise
    (`noise_level`): 1.2 for the luminance, 2 for the colour differences.

    Args:
        image: (H, W, 3), ``float32`` in [0, 1].

    Returns:
        The same.
    """
    planes = cv2.cvtColor(np.ascontiguousarray(image, np.float32), cv2.COLOR_RGB2YCrCb)
    noise = noise_level(planes[..., 0])
    coded = np.rint(planes.clip(0, 1) * _TOP).astype(np.uint16)
    clean = np.dstack([_filter(coded[..., :1], _LUMINANCE * noise), _filter(coded[..., 1:], _COLOUR * noise)])
    # What was taken away is taken from the image: nothing is, but for that.
    change = (clean.astype(np.float32) - coded) / np.float32(_TOP)
    return np.asarray(image + change @ _TO_RGB, np.float32)


def _filter(planes: np.ndarray, strength: float) -> np.ndarray:
    """Planes (H, W, C), 16-bit -> the same."""
    if strength * _TOP < 1:  # no noise; OpenCV would divide by it
        return planes
    strengths = [float(strength * _TOP)] * planes.shape[2]
    clean = cv2.fastNlMeansDenoising(np.ascontiguousarray(planes), strengths, None, _PATCH, _SEARCH, cv2.NORM_L1)
    return np.asarray(clean).reshape(planes.shape)


def denoise_input(image: np.ndarray) -> np.ndarray:
    """What `basicsr learn` and `basicsr enhance` do to a noisy input: `denoise_image` by `non_local_means`.

    Args:
        image: (H, W, 3), ``float32`` in [0, 1].

    Returns:
        The same.
    """
    return denoise_image(image, non_local_means)
