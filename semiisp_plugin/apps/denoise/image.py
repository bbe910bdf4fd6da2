"""One image: normalised and made brighter, denoised, and back (Sec. A.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

Normalisation = Literal["max", "min_max", "none"]


def denoise_image(
    image: np.ndarray,
    denoise: Callable[[np.ndarray], np.ndarray],
    *,
    normalise: Normalisation = "max",
    gamma: float = 2.2,
) -> np.ndarray:
    """Denoise a dark image as the paper does: normalise, gamma, denoise, undo both.

    A denoiser is made for images that look like photographs; a dark image is stretched to [0, 1] and encoded with
    ``1 / gamma`` before, and is as dark as it was afterwards. "Normalised to 0..1" is all the paper says: ``max``
    divides by the largest value of the image, one for all channels (our reading: black stays black); ``min_max`` also
    subtracts the smallest.

    Args:
        image: (H, W, 3), float in [0, 1].
        denoise: Takes and returns an image of that shape, ``float32``; what it gives is clipped to [0, 1].
        normalise: ``max``, ``min_max`` or ``none``.
        gamma: Exponent of the decoding, as 2.2 of sRGB; above 0. 1 leaves it out.

    Returns:
        (H, W, 3), ``float32`` in [0, 1].

    Raises:
        ValueError: The image has another shape or type, an argument is unknown, or ``denoise`` returned another shape
            or values that are not finite.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"The image has shape {image.shape} and type {image.dtype}; expected (H, W, 3), float.")
    if normalise not in ("max", "min_max", "none"):
        raise ValueError(f"normalise is {normalise!r}; choose 'max', 'min_max' or 'none'.")
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}; use a number above 0.")
    low = float(image.min()) if normalise == "min_max" else 0.0
    # An image of one value has no range: it stays as it is.
    scale = (float(image.max()) - low if normalise != "none" else 1.0) or 1.0
    bright = ((image.astype(np.float32) - np.float32(low)) / np.float32(scale)).clip(0, 1) ** np.float32(1 / gamma)
    clean = denoise(bright)
    if clean.shape != image.shape:
        raise ValueError(f"The denoiser turned shape {image.shape} into {clean.shape}.")
    if not np.isfinite(clean).all():
        raise ValueError("the denoiser gave values that are not finite; is it the network that the weights belong to?")
    dark = clean.astype(np.float32).clip(0, 1) ** np.float32(gamma)
    return (dark * np.float32(scale) + np.float32(low)).clip(0, 1)
