"""The data of one repetition of a benchmark: labelled, validation and test pairs, and photographs, all disjoint."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair
from semiisp_plugin.experiments.benchmark_options import Task
from semiisp_plugin.io.image_io import ImageReadError, list_images, read_image, to_bit_depth, write_image
from semiisp_plugin.io.picture import shrink_short_side
from semiisp_plugin.simulation.camera import SimulatedCamera
from semiisp_plugin.simulation.look import LOOKS
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS, load_photographs
from semiisp_plugin.simulation.scenes import draw_split, random_crop, simulate_pair

_ELSEWHERE = "photos_are_in.txt"


@dataclass(frozen=True)
class PairData:
    """Folders (or LMDBs) of pairs."""

    input: Path
    target: Path


@dataclass(frozen=True)
class Data:
    """Where the parts of a repetition are.

    Attributes:
        labelled: Pairs to train on.
        validation: Pairs held out to choose on; None where nothing is chosen.
        test: Pairs that nothing is chosen on.
        photos: Folder of unlabelled photographs.
    """

    labelled: PairData
    validation: PairData | None
    test: PairData
    photos: Path

    def evaluation(self) -> dict[str, PairData]:
        """The pairs that trainings are evaluated on."""
        return {**({"validation": self.validation} if self.validation else {}), "test": self.test}


def data_in(folder: Path) -> Data:
    """The parts below a folder that `make_data` wrote."""
    labelled, validation, test = (
        PairData(folder / part / "input", folder / part / "target") for part in ("labelled", "validation", "test")
    )
    elsewhere = folder / _ELSEWHERE
    photos = Path(elsewhere.read_text(encoding="utf-8")) if elsewhere.is_file() else folder / "photos"
    return Data(labelled, validation if validation.input.is_dir() else None, test, photos)


def held_out(n_pairs: int, validation_pairs: int | str) -> int:
    """How many of ``n_pairs`` labelled pairs are for validation.

    Raises:
        ValueError: Too few pairs would be left to train on.
    """
    n = max(3, min(10, n_pairs // 5)) if validation_pairs == "auto" else int(validation_pairs)
    if n_pairs - n < 2:
        raise ValueError(f"{n_pairs} pairs of which {n} are for validation leave {n_pairs - n} to train on; use more.")
    return n


def count_pairs(task: Task) -> int:
    """Labelled pairs that a repetition of a task of the type ``pairs`` can have at most."""
    total = len(match_pairs(str(task.dataroot_lq), str(task.dataroot_gt)))
    return total if task.folds is None else total - -(-total // task.folds)


def check_amounts(task: Task, n_pairs: int) -> None:
    """Raise ValueError if a task has too few pairs or photographs for ``n_pairs`` labelled pairs."""
    if task.type == "pairs" and n_pairs > count_pairs(task):
        raise ValueError(f"{n_pairs} labelled pairs are asked for; {task.dataroot_lq} leaves {count_pairs(task)}.")
    if task.type == "simulation" and task.photographs is not None:
        photographs = len(list_images(task.photographs))
        if photographs <= task.tests + n_pairs:
            raise ValueError(
                f"{task.photographs} holds {photographs} photographs; {task.tests} test pairs and {n_pairs} labelled "
                f"ones leave none without a label. Use fewer, or more photographs."
            )


def make_data(
    task: Task, folder: Path, *, n_pairs: int, n_validation: int, size: tuple[int, int], seed: int, fold: int | None
) -> None:
    """Write the data of one repetition; a folder that was begun is replaced.

    Args:
        task: The task.
        folder: Gets ``labelled``, ``validation`` and ``test`` (each with ``input`` and ``target``) and ``photos``.
        n_pairs: Labelled pairs, validation pairs included.
        n_validation: Validation pairs.
        size: (height, width) of the training crops, which decides the size of simulated pairs.
        seed: Deals out the pairs and photographs.
        fold: Which fold is the test, with ``task.folds``.

    Raises:
        ValueError: There are too few pairs or photographs.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if task.type == "pairs":
        _deal_pairs(task, folder, n_pairs, n_validation, seed, fold)
        if task.short_side is None and task.max_photographs is None:
            (folder / _ELSEWHERE).write_text(os.path.abspath(str(task.photographs)), encoding="utf-8")
        else:
            _write_photos(task, _readable(task, seed), folder / "photos", task.short_side)
    elif task.photographs is None:
        _simulate_packaged(task, folder, n_pairs, n_validation, size, seed)
    else:
        _simulate(task, folder, n_pairs, n_validation, size, seed)


def fold_of(total: int, folds: int, fold: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the pairs for training and for the test: a partition by ``seed``, each pair in one test fold.

    Those for training begin with the next fold's: validation pairs, which are taken from the front, are others in every
    fold.
    """
    order = np.random.default_rng((seed, 17)).permutation(total)
    turn = [[int(i) for i in order[(fold + k) % folds :: folds]] for k in range(folds)]
    return [i for part in turn[1:] for i in part], turn[0]


def _deal_pairs(task: Task, folder: Path, n_pairs: int, n_validation: int, seed: int, fold: int | None) -> None:
    pairs = match_pairs(str(task.dataroot_lq), str(task.dataroot_gt))
    if task.folds is None:
        rest = [int(i) for i in np.random.default_rng((seed, 17)).permutation(len(pairs))]
        test = match_pairs(str(task.test_lq), str(task.test_gt))
    else:
        rest, of_test = fold_of(len(pairs), task.folds, int(fold or 0), seed)
        test = [pairs[i] for i in of_test]
    chosen = [pairs[i] for i in rest[:n_pairs]]
    parts = {"validation": chosen[:n_validation], "labelled": chosen[n_validation:], "test": test}
    for part, members in parts.items():
        for index, pair in enumerate(members):
            _write_pair(folder / part, f"{index:04d}_{pair.key.rsplit('/', 1)[-1]}.png", *_small(pair, task.short_side))


def _small(pair: Pair, short_side: int | None) -> tuple[np.ndarray, np.ndarray]:
    image, target = read_pair(pair)
    return shrink_short_side(image, short_side), shrink_short_side(to_bit_depth(target, "8"), short_side)


def _write_pair(folder: Path, name: str, image: np.ndarray, target: np.ndarray) -> None:
    for kind, picture in (("input", image), ("target", target)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_image(folder / kind / name, picture)


def _readable(task: Task, seed: int) -> Iterator[np.ndarray]:
    """The photographs in the seed's order; those that cannot be read are left out and named."""
    names = list_images(str(task.photographs))
    for i in np.random.default_rng((seed, 23)).permutation(len(names)):
        try:
            yield read_image(Path(str(task.photographs)) / names[int(i)], bit_depth="8")
        except (ImageReadError, OSError) as error:
            print(f"skipped: {error}")


def _write_photos(task: Task, photographs: Iterator[np.ndarray], folder: Path, short_side: int | None) -> None:
    """The unlabelled photographs: those that are left of them."""
    folder.mkdir(parents=True)
    names = (folder / f"{number:05d}.png" for number in itertools.count())
    for picture in itertools.islice(photographs, task.max_photographs):
        write_image(next(names), shrink_short_side(picture, short_side))
    if not any(folder.iterdir()):
        raise ValueError(f"Too few of the photographs in {task.photographs} can be read: none is left unlabelled.")


def _write_simulated(
    task: Task, photograph: np.ndarray, at: tuple[int, int], rng: np.random.Generator, folder: Path, name: str
) -> None:
    """A random part of a photograph, as the simulated camera takes it."""
    camera = SimulatedCamera(exposure=task.exposure)
    if not task.noise:
        camera = replace(camera, shot=(0.0, 0.0), read=(0.0, 0.0))
    capture = camera.draw_capture(torch.Generator().manual_seed(int(rng.integers(2**31))))
    crop = random_crop(photograph, at, rng)
    _write_pair(folder, name, *simulate_pair(crop, capture, LOOKS[task.look], task.simulate))


def _simulated_size(task: Task, size: tuple[int, int]) -> tuple[int, int]:
    """Simulated pairs have the crop's shape, with room for cropping where ``short_side`` leaves it."""
    factor = max(1.0, task.short_side / min(size)) if task.short_side else 1.0
    return round(size[0] * factor), round(size[1] * factor)


def _simulate(task: Task, folder: Path, n_pairs: int, n_validation: int, size: tuple[int, int], seed: int) -> None:
    """Pairs from a folder of photographs: each photograph serves one part, once."""
    check_amounts(task, n_pairs)
    photographs = _readable(task, seed)
    needed = task.tests + n_pairs
    at = _simulated_size(task, size)
    for k, photograph in enumerate(itertools.islice(photographs, needed)):
        part, place = ("test", k) if k < task.tests else ("labelled", k - task.tests)
        # The order is that of the seed, so the same test pairs serve every number of pairs.
        if part == "labelled" and place < n_validation:
            part = "validation"
        rng = np.random.default_rng((seed, 29, k))
        _write_simulated(task, photograph, at, rng, folder / part, f"{place:04d}.png")
    _write_photos(task, photographs, folder / "photos", min(at))


def _simulate_packaged(
    task: Task, folder: Path, n_pairs: int, n_validation: int, size: tuple[int, int], seed: int
) -> None:
    """Pairs from the few photographs that ship with packages: parts of them; scenes are disjoint between the parts.

    There are too few scenes to hold one out: validation pairs are other parts of the labelled scenes.
    """
    split = draw_split(seed)
    at = _simulated_size(task, size)
    counts = {"labelled": n_pairs - n_validation, "validation": n_validation, "test": task.tests}
    for number, (part, count) in enumerate(counts.items()):
        names = split.test if part == "test" else split.labelled
        photographs = load_photographs(names)
        for k in range(count):
            rng = np.random.default_rng((seed, 31, number, k))
            _write_simulated(task, photographs[names[k % len(names)]], at, rng, folder / part, f"{k:04d}.png")
    (folder / "photos").mkdir()
    photographs = load_photographs(split.unlabelled)
    for k in range(task.max_photographs or 48):
        rng = np.random.default_rng((seed, 31, 3, k))
        name = split.unlabelled[k % len(split.unlabelled)]
        crop = random_crop(photographs[name], at, rng)
        write_image(folder / "photos" / f"{k:05d}_{PHOTOGRAPHS[name].scene}.png", np.ascontiguousarray(crop))
