"""A small data set on disk: few labelled pairs, more unlabelled photographs, and test pairs of unseen photographs.

The pairs are simulated (`camera.py` makes the input, `look.py` the target); the photographs are those that ship with
the plugin (`photographs.py`). No photograph serves two of the three parts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from semiisp_plugin.io.image_io import to_float, to_uint8, to_uint16, write_image
from semiisp_plugin.simulation.camera import Capture, SimulatedCamera, darken, expose
from semiisp_plugin.simulation.look import DEFAULT_LOOK, Look, apply_look
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS, load_photographs

Task = Literal["raw", "lowlight"]

# Crops show between this share of a photograph's height and all of it.
_SMALLEST_CROP = 0.4


@dataclass(frozen=True)
class Split:
    """Which photographs serve which part; names of `PHOTOGRAPHS`.

    Attributes:
        labelled: For labelled pairs, a quarter of all.
        unlabelled: For the photographs without a pair, half of all.
        test: For test pairs, the others.
    """

    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    test: tuple[str, ...]


def draw_split(seed: int) -> Split:
    """Deal the photographs out at random; the seed decides it alone."""
    order = [PHOTOGRAPHS[k] for k in np.random.default_rng(seed).permutation(len(PHOTOGRAPHS))]
    quarter = len(order) // 4
    return Split(tuple(order[:quarter]), tuple(order[2 * quarter :]), tuple(order[quarter : 2 * quarter]))


def make_scenes(
    folder: str | os.PathLike[str],
    *,
    task: Task = "raw",
    pairs: int | None = None,
    photos: int | None = None,
    tests: int | None = None,
    size: tuple[int, int] = (192, 256),
    seed: int = 0,
) -> None:
    """Write the data set; a folder that was begun is completed.

    ``FOLDER/pairs/{input,target}/*.png`` and ``FOLDER/test/{input,target}/*.png`` are pairs,
    ``FOLDER/photos/*.png`` 8-bit sRGB photographs. Image k of a part depends on the seed and k alone, so fewer pairs of
    the same seed are a subset of more.

    Args:
        folder: Where to; made if need be.
        task: ``"raw"``: input is a 16-bit PNG, demosaiced linear RAW. ``"lowlight"``: input is an 8-bit PNG, dark
            sRGB. The target is an 8-bit sRGB PNG in the default look in both.
        pairs: Number of labelled pairs, at most as many as `draw_split` deals out, which are the default.
        photos: Number of unlabelled photographs, likewise.
        tests: Number of test pairs, likewise.
        size: (height, width) in pixels of the images, the middle of each photograph.
        seed: Decides which photograph serves what, and the captures.
    """
    folder = Path(folder)
    split = draw_split(seed)
    _write_pairs(folder / "pairs", split.labelled[:pairs], size, task, (seed, 0))
    _write_pairs(folder / "test", split.test[:tests], size, task, (seed, 1))
    for k, (name, photograph) in enumerate(load_photographs(split.unlabelled[:photos]).items()):
        write_image(folder / "photos" / f"{k:03d}_{name}.png", centre_crop(photograph, size))


def simulate_pair(photograph: np.ndarray, capture: Capture, look: Look, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Make one labelled pair of a photograph.

    Args:
        photograph: RGB (H, W, 3) ``uint8``, sRGB.
        capture: How the input was taken.
        look: Look of the target.
        task: As in `make_scenes`.

    Returns:
        ``(input, target)``, RGB (H, W, 3): the input ``uint16`` (raw) or ``uint8`` (lowlight), the target ``uint8``.
    """
    image = torch.from_numpy(to_float(photograph)).permute(2, 0, 1)[None]
    target = to_uint8(_to_array(apply_look(image, look)))
    if task == "raw":
        return to_uint16(_to_array(expose(image, capture))), target
    return to_uint8(_to_array(darken(image, capture))), target


def random_crop(photograph: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cut a random part of a photograph, mirror it half of the time, and resize it.

    Args:
        photograph: RGB (H, W, 3) ``uint8``.
        size: (height, width) of the result. The part has this shape, and is enlarged only if the photograph is smaller.
        rng: Draws extent, position and mirroring.

    Returns:
        RGB (*size, 3) ``uint8``.
    """
    box = _largest_box(photograph, size)
    smallest = min(1.0, max(_SMALLEST_CROP, size[0] / box[0], size[1] / box[1]))
    share = rng.uniform(smallest, 1)
    height, width = round(box[0] * share), round(box[1] * share)
    top = int(rng.integers(photograph.shape[0] - height + 1))
    left = int(rng.integers(photograph.shape[1] - width + 1))
    part = photograph[top : top + height, left : left + width]
    return _resize(part[:, ::-1] if rng.random() < 0.5 else part, size)


def centre_crop(photograph: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut the largest central part of a photograph that has the shape of ``size``, and resize it."""
    height, width = _largest_box(photograph, size)
    top, left = (photograph.shape[0] - height) // 2, (photograph.shape[1] - width) // 2
    return _resize(photograph[top : top + height, left : left + width], size)


def _largest_box(photograph: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    factor = min(photograph.shape[0] / size[0], photograph.shape[1] / size[1])
    return int(size[0] * factor), int(size[1] * factor)


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # Area averaging neither aliases when it shrinks nor overshoots when it enlarges.
    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=cv2.INTER_AREA)


def _to_array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def _write_pairs(folder: Path, names: Sequence[str], size: tuple[int, int], task: Task, seed: tuple[int, int]) -> None:
    camera = SimulatedCamera()
    for k, (name, photograph) in enumerate(load_photographs(names).items()):
        rng = np.random.default_rng((*seed, k))
        capture = camera.draw_capture(torch.Generator().manual_seed(int(rng.integers(2**31))))
        image, target = simulate_pair(centre_crop(photograph, size), capture, DEFAULT_LOOK, task)
        write_image(folder / "input" / f"{k:03d}_{name}.png", image)
        write_image(folder / "target" / f"{k:03d}_{name}.png", target)
