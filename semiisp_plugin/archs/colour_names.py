"""Maps of colour names: how far a pixel is red, green, grey, ... (van de Weijer et al., IEEE TIP 2009).

A table gives the probabilities of the names for each of 32x32x32 colours. The published one, learned from images of a
search engine, is research data of others, which the plugin does not hold: a user gives a file of it, or takes the
plugin's own, which divides the circle of hues.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from torch import Tensor

GROUPS = ("brown, orange, yellow", "black, grey, white", "pink, purple", "red", "green", "blue")
_COLUMNS = ((2, 5, 10), (0, 3, 9), (6, 7), (8,), (4,), (1,))  # of the published table, whose names are alphabetical
_NAMES = 11
_STEPS = 32
_COLOURS = _STEPS**3
# Degrees at which a group is all there is; a hue between two is shared in proportion.
_HUES = {3: (0, 360), 0: (40,), 4: (120,), 5: (240,), 2: (300,)}
_COLOURFUL = 0.3  # of the difference between the largest and the smallest channel


def hue_table() -> Tensor:
    """The plugin's own table: a pixel has the groups next to its hue, and is grey the more, the less colour it has.

    Returns:
        (32768, 6) float32 of rows that sum to 1, in the order of `GROUPS`; row R + 32 G + 1024 B, each from 0 to 31.
    """
    blue, green, red = np.indices((_STEPS,) * 3).reshape(3, -1) / (_STEPS - 1)
    chroma = np.ptp([red, green, blue], axis=0)
    hue = np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    share = np.clip(chroma / _COLOURFUL, 0, 1)
    share = share**2 * (3 - 2 * share)
    table = np.zeros((_COLOURS, len(GROUPS)))
    places, owners = zip(*sorted((place, group) for group, here in _HUES.items() for place in here), strict=True)
    for group in _HUES:
        table[:, group] = share * np.interp(hue, places, [float(owner == group) for owner in owners])
    table[:, 1] = 1 - share
    return torch.from_numpy(table).float()


def read_table(path: str) -> Tensor:
    """The published table, from a ``.mat`` or ``.npy`` file of the user's.

    Args:
        path: File of one array (32768, 11): the names in the order of the alphabet (black, blue, brown, grey, green,
            orange, pink, purple, red, white, yellow), probabilities in [0, 1].

    Returns:
        As `hue_table`.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    wanted = f"NamedCurves: colour_table: {path}"
    fix = f"Give a .mat or .npy file of {_COLOURS:,d} x {_NAMES} probabilities, or leave it out for the plugin's table."
    try:
        arrays = [np.load(path)] if Path(path).suffix == ".npy" else list(loadmat(path).values())
    except (OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{wanted} cannot be read ({error}). {fix}") from error
    shapes = [np.shape(array) for array in arrays if isinstance(array, np.ndarray)]
    found = [array for array in arrays if np.shape(array) == (_COLOURS, _NAMES)]
    if len(found) != 1:
        raise ValueError(f"{wanted} holds {len(found)} arrays of {_COLOURS:,d} x {_NAMES}, and {shapes} in all. {fix}")
    table: NDArray[np.float32] = np.asarray(found[0], np.float32)
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"{wanted} has values that are no probabilities from 0 to 1. {fix}")
    return torch.from_numpy(np.stack([table[:, list(columns)].sum(1) for columns in _COLUMNS], axis=1))


@torch.no_grad()
def colour_maps(image: Tensor, table: Tensor) -> Tensor:
    """How far each pixel is of each group of names; without a gradient.

    Args:
        image: (N, 3, H, W) RGB; clamped to [0, 1], and NaN is read as 0.
        table: (32768, K).

    Returns:
        (N, K, H, W), of the table's dtype.
    """
    # 8 of 256 levels a step; from whole levels, as published, or not, it is the same step.
    steps = (image.nan_to_num().clamp(0, 1) * (255 / 8)).long()
    return table[steps[:, 0] + _STEPS * steps[:, 1] + _STEPS**2 * steps[:, 2]].permute(0, 3, 1, 2)
