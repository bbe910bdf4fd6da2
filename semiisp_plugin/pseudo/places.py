"""Where in a picture a crop lies, and the parameters that hold there.

f_ISP and its inverse are point-wise. With one parameter set an image, the inverse of a crop is the crop of the inverse.
With sets on a grid the crop must know its place in the picture, through flips, transposition and enlargement; it is an
affine map, found by sending coordinates through the same augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Values of an image that are inverted at a time where each pixel has a set of its own: K maps of that size must stay
# in a CPU's cache, or in a GPU's memory.
_BAND = {"cpu": 32_768, "cuda": 2**23}


def in_place(apply: Callable[[Tensor, Tensor], Tensor], images: Tensor, sets: Tensor, places: Tensor) -> Tensor:
    """What ``apply`` makes of crops with the parameters that hold where they lie.

    Args:
        apply: One of the directions of an `InvertibleISP`, of images and parameters.
        images: ``(N, 3, h, w)``, crops.
        sets: ``(N, K, gh, gw)``, of the whole pictures.
        places: ``(N, 2, 3)``, see `place_of`.

    Returns:
        ``(N, 3, h, w)`` of the type of the sets.
    """
    if tuple(sets.shape[2:]) == (1, 1):
        return apply(images, sets)
    out = torch.empty(images.shape, dtype=sets.dtype, device=images.device)
    n, _, height, width = images.shape
    rows = max(1, _BAND.get(images.device.type, _BAND["cpu"]) // (3 * width))
    for i in range(n):
        where = F.affine_grid(places[i : i + 1].to(sets), [1, 1, height, width], align_corners=False)
        for top in range(0, height, rows):
            band = slice(top, min(top + rows, height))
            # Bilinear, and level beyond the outer nodes: what the interpolation of whole pictures is.
            maps = F.grid_sample(sets[i : i + 1], where[:, band], padding_mode="border", align_corners=False)
            out[i : i + 1, :, band] = apply(images[i : i + 1, :, band], maps)
    return out


def coordinates(height: int, width: int) -> list[np.ndarray]:
    """Where the pixels of a picture are: x, then y, -1 and 1 being its edges.

    Returns:
        Two images ``(H, W, 1)`` float64, read-only and without memory of that size, to go through an augmentation.
    """
    x = np.broadcast_to(((2 * np.arange(width) + 1) / width - 1)[None, :, None], (height, width, 1))
    y = np.broadcast_to(((2 * np.arange(height) + 1) / height - 1)[:, None, None], (height, width, 1))
    return [x, y]


def place_of(augmented: Sequence[np.ndarray]) -> Tensor:
    """Where in the picture a crop lies.

    Args:
        augmented: What an augmentation of flips, turns, crops and resizing has made of `coordinates`,
            two ``(h, w, 1)``.

    Returns:
        ``(2, 3)`` float32, as `torch.nn.functional.affine_grid` takes it: ``place @ (u, v, 1)`` is the point (x, y) of
        the picture under the point (u, v) of the crop, -1 and 1 being the edges of either.
    """
    height, width = augmented[0].shape[:2]
    # Away from the edges, where resizing repeats the outermost pixels.
    top, left = height // 4, width // 4
    bottom, right = height - 1 - top, width - 1 - left
    u, v = ((2 * np.array(ends) + 1) / n - 1 for ends, n in (((left, right), width), ((top, bottom), height)))
    rows = []
    for values in augmented:
        start = values[top, left, 0]
        along_u = (values[top, right, 0] - start) / (u[1] - u[0]) if right > left else 0.0
        along_v = (values[bottom, left, 0] - start) / (v[1] - v[0]) if bottom > top else 0.0
        rows.append((along_u, along_v, start - along_u * u[0] - along_v * v[0]))
    return torch.tensor(rows, dtype=torch.float32)


WHOLE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""`place_of` a picture itself."""
