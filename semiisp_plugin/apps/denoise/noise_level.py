"""How noisy an image is, in one number, for the strength of non-local means (ours)."""

from __future__ import annotations

import cv2
import numpy as np

_NORMAL_MAD = 0.6744897501960817  # median of the magnitude of a standard normal number
# The difference of two Laplacians: 0 on planes and quadratic surfaces (Immerkaer, 1996). Noise of deviation 1 gives 6.
_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_MASK_NORM = 6.0


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
