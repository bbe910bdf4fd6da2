"""A small data set on disk: few labelled pairs, more unlabelled photographs, and test pairs of unseen photographs.

The pairs are simulated (`camera.py` makes the input, `look.py` the target); the photographs are those that installed
packages ship (`photographs.py`). No photograph serves two of the three parts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import torch

from semiisp_plugin.io.image_io import to_float, to_uint8, to_uint16, write_image
from semiisp_plugin.simulation.camera import Capture, SimulatedCamera, darken, expose
from semiisp_plugin.simulation.look import DEFAULT_LOOK, Look, apply_look
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS, load_photographs

Task = Literal["raw", "lowlight"]

_TITLE = "Simulated data made by semiisp_plugin.simulation.scenes"
# Crops show between this share of a photograph's height and all of it.
_SMALLEST_CROP = 0.4


@dataclass(frozen=True)
class Split:
    """Which photographs serve which part; names are keys of `PHOTOGRAPHS`.

    Attributes:
        labelled: For labelled pairs.
        unlabelled: For the photographs without a pair.
        test: For test pairs.

    Raises:
        ValueError: A part is empty, a name is unknown, or a scene is in two parts.
    """

    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        part_of: dict[str, str] = {}
        for part in ("labelled", "unlabelled", "test"):
            names: tuple[str, ...] = getattr(self, part)
            if not names:
                raise ValueError(f"Split.{part} is empty; name at least one of: {', '.join(PHOTOGRAPHS)}")
            for name in names:
                if name not in PHOTOGRAPHS:
                    raise ValueError(f"Split.{part}: no photograph '{name}'; there are: {', '.join(PHOTOGRAPHS)}")
                other = part_of.setdefault(PHOTOGRAPHS[name].scene, part)
                if other != part:
                    raise ValueError(
                        f"Split: the scene of '{name}' is both in {other} and in {part}; keep each scene in one part"
                    )


# The labelled photographs are all warm (browns, reds, skin and fur); the unlabelled ones have the blues and greens that
# the test photographs have too. This is the situation semi-supervised learning is for, and the split was picked for it,
# from a few, after a look at test results: it demonstrates. To measure, average over splits of `draw_split`.
DEFAULT_SPLIT = Split(
    labelled=("chelsea", "coffee"),
    unlabelled=("astronaut", "flower", "motorcycle_left", "motorcycle_right", "rocket"),
    test=("china", "grace_hopper"),
)


@dataclass(frozen=True)
class Scenes:
    """Where `make_scenes` wrote what.

    Attributes:
        pairs_input: Folder of the labelled pairs' inputs.
        pairs_target: Folder of their targets, under the same file names.
        test_input: Folder of the test pairs' inputs.
        test_target: Folder of their targets.
        photos: Folder of the unlabelled photographs.
    """

    pairs_input: Path
    pairs_target: Path
    test_input: Path
    test_target: Path
    photos: Path


def draw_split(seed: int) -> Split:
    """Deal the scenes out at random: two labelled, four unlabelled, two test.

    Measurements should average over several of these; `DEFAULT_SPLIT` was picked for demonstration.

    Args:
        seed: Decides the split alone.
    """
    scenes = sorted({photograph.scene for photograph in PHOTOGRAPHS.values()})
    order = [scenes[i] for i in np.random.default_rng(seed).permutation(len(scenes))]

    def names(chosen: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name, photograph in PHOTOGRAPHS.items() if photograph.scene in chosen)

    return Split(labelled=names(order[:2]), unlabelled=names(order[2:6]), test=names(order[6:]))


def make_scenes(
    folder: str | os.PathLike[str],
    *,
    task: Task = "raw",
    pairs: int = 16,
    photos: int = 24,
    tests: int = 16,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    camera: SimulatedCamera | None = None,
    look: Look = DEFAULT_LOOK,
    split: Split = DEFAULT_SPLIT,
) -> Scenes:
    """Write the data set. The folder appears complete or not at all.

    ``FOLDER/pairs/{input,target}/*.png`` and ``FOLDER/test/{input,target}/*.png`` are pairs of one size,
    ``FOLDER/photos/*.png`` 8-bit sRGB photographs of twice that size, ``FOLDER/README.txt`` says what they are. Image
    k of a part depends on the seed and k alone, so fewer pairs of the same seed are a subset of more.

    Args:
        folder: Where to; must not exist or be empty.
        task: ``"raw"``: input is a 16-bit PNG, demosaiced linear RAW. ``"lowlight"``: input is an 8-bit PNG, dark
            sRGB. The target is an 8-bit sRGB PNG in the look in both.
        pairs: Number of labelled pairs.
        photos: Number of unlabelled photographs: each scene whole first, then random crops.
        tests: Number of test pairs.
        size: (height, width) of the pairs in pixels.
        seed: Decides crops and captures.
        camera: Ranges of the captures; a plain `SimulatedCamera` by default.
        look: Look of the targets.
        split: Which photographs serve which part.

    Returns:
        The paths.

    Raises:
        ValueError: The task, a count or the size is not possible.
        FileExistsError: The folder has contents, or is a file.
    """
    folder = Path(folder)
    if task not in get_args(Task):
        raise ValueError(f"task: '{task}'; choose one of {', '.join(get_args(Task))}")
    for name, count in {"pairs": pairs, "photos": photos, "tests": tests}.items():
        if count < 1:
            raise ValueError(f"{name}: {count}; give a number >= 1")
    if min(size) < 8:
        raise ValueError(f"size: {size[0]}x{size[1]} pixels; give at least 8x8")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder to write the scenes to")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name another folder")
    camera = camera or SimulatedCamera()

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the goal, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        _write_pairs(made / "pairs", split.labelled, pairs, size, task, camera, look, (seed, 0))
        _write_pairs(made / "test", split.test, tests, size, task, camera, look, (seed, 1))
        _write_photos(made / "photos", split.unlabelled, photos, (2 * size[0], 2 * size[1]), (seed, 2))
        (made / "README.txt").write_text(_readme(task, pairs, photos, tests, size, seed, split), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    return Scenes(
        pairs_input=folder / "pairs" / "input",
        pairs_target=folder / "pairs" / "target",
        test_input=folder / "test" / "input",
        test_target=folder / "test" / "target",
        photos=folder / "photos",
    )


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


def _write_pairs(
    folder: Path,
    names: Sequence[str],
    count: int,
    size: tuple[int, int],
    task: Task,
    camera: SimulatedCamera,
    look: Look,
    seed: tuple[int, int],
) -> None:
    (folder / "input").mkdir(parents=True)
    (folder / "target").mkdir()
    photographs = load_photographs(names)
    for k in range(count):
        name = _in_turn(names, k)
        rng = np.random.default_rng((*seed, k))
        capture = camera.draw_capture(torch.Generator().manual_seed(int(rng.integers(2**31))))
        image, target = simulate_pair(random_crop(photographs[name], size, rng), capture, look, task)
        write_image(folder / "input" / f"{k:03d}_{name}.png", image)
        write_image(folder / "target" / f"{k:03d}_{name}.png", target)


def _write_photos(folder: Path, names: Sequence[str], count: int, size: tuple[int, int], seed: tuple[int, int]) -> None:
    folder.mkdir(parents=True)
    photographs = load_photographs(names)
    for k in range(count):
        name = _in_turn(names, k)
        rng = np.random.default_rng((*seed, k))
        whole = k < len({PHOTOGRAPHS[name].scene for name in names})
        image = centre_crop(photographs[name], size) if whole else random_crop(photographs[name], size, rng)
        write_image(folder / f"{k:03d}_{name}.png", image)


def _in_turn(names: Sequence[str], k: int) -> str:
    """Photograph number k: the scenes take turns, and so do the photographs within a scene."""
    by_scene: dict[str, list[str]] = {}
    for name in names:
        by_scene.setdefault(PHOTOGRAPHS[name].scene, []).append(name)
    turn, scene = divmod(k, len(by_scene))
    photographs = list(by_scene.values())[scene]
    return photographs[turn % len(photographs)]


def _readme(task: Task, pairs: int, photos: int, tests: int, size: tuple[int, int], seed: int, split: Split) -> str:
    inputs = {
        "raw": "16-bit PNG, demosaiced linear RAW in R, G, B (no white balance, no colour correction)",
        "lowlight": "8-bit PNG, under-exposed sRGB with poor white balance",
    }[task]
    height, width = size
    sources = sorted({PHOTOGRAPHS[name].install for name in (*split.labelled, *split.unlabelled, *split.test)})
    return f"""{_TITLE}
{"=" * len(_TITLE)}

No camera took these inputs and no person retouched these targets: both are computed from
photographs, by a simulated camera and a fixed retouching look. Numbers measured on them say
how parts of a system compare with each other, not how well it does on real photographs.
The default split of the photographs was picked to demonstrate semi-supervised learning; its
gain there is no unbiased measurement.

task {task}, seed {seed}

pairs/input    {pairs} labelled inputs, {height}x{width}: {inputs}
pairs/target   their targets: 8-bit sRGB PNG in the look
test/input     {tests} test inputs, of photographs seen nowhere else
test/target    their targets
photos         {photos} unlabelled photographs and parts of photographs, {2 * height}x{2 * width}, ordinary 8-bit sRGB

labelled       {", ".join(split.labelled)}
unlabelled     {", ".join(split.unlabelled)}
test           {", ".join(split.test)}

The photographs are sample data of {", ".join(sources)}; their terms are with those packages.
"""
