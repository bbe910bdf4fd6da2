"""The data of one repetition of a benchmark: labelled and test pairs, and photographs, all disjoint."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair
from semiisp_plugin.experiments.benchmark_options import Task
from semiisp_plugin.experiments.tried import look_of
from semiisp_plugin.io.image_io import (
    ImageReadError,
    list_images,
    read_image,
    to_bit_depth,
    to_tensor,
    write_image,
)
from semiisp_plugin.io.picture import shrink_short_side
from semiisp_plugin.simulation.camera import SimulatedCamera
from semiisp_plugin.simulation.look import LOOKS
from semiisp_plugin.simulation.photographs import load_photographs
from semiisp_plugin.simulation.scenes import draw_split, random_crop, simulate_pair

_PAIRS = "pairs.json"
_LABELLED = "labelled"


@dataclass(frozen=True)
class PairData:
    """Folders (or LMDBs) of pairs."""

    input: Path
    target: Path


@dataclass(frozen=True)
class Data:
    """Where the parts of a repetition are.

    Attributes:
        labelled: Pairs to train on, in their training size.
        originals: The same at full resolution, in the same order.
        test: Pairs that nothing is trained or chosen on, at full resolution.
        photos: Folder of unlabelled photographs.
        unlabelled: Folder of inputs without targets; None where there are none.
        scenes: Which scene each of ``originals`` is of, where that is known: folds keep them together.
    """

    labelled: PairData
    originals: Sequence[Pair]
    test: Sequence[Pair]
    photos: Path
    unlabelled: Path | None = None
    scenes: Sequence[str] = ()


def data_in(folder: Path) -> Data:
    """The parts below a folder that `make_data` or `make_fold` wrote."""
    noted = json.loads((folder / _PAIRS).read_text(encoding="utf-8"))
    originals, test = ([Pair(*pair) for pair in noted[part]] for part in ("originals", "test"))
    unlabelled = noted.get("unlabelled") and Path(noted["unlabelled"])
    photos, scenes = Path(noted["photos"]), noted.get("scenes", [])
    return Data(_pair_data(folder / _LABELLED), originals, test, photos, unlabelled, scenes)


def _pair_data(folder: Path) -> PairData:
    return PairData(folder / "input", folder / "target")


def write_parts(
    folder: Path,
    originals: Sequence[Pair],
    test: Sequence[Pair],
    photos: Path,
    scenes: Sequence[str] = (),
    unlabelled: Path | None = None,
) -> None:
    """Note for `data_in` what is where."""
    noted: dict[str, Any] = {"originals": originals, "test": test, "photos": os.path.abspath(photos), "scenes": scenes}
    noted["unlabelled"] = unlabelled and os.path.abspath(unlabelled)
    (folder / _PAIRS).write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


def check_amounts(task: Task, n_pairs: int) -> None:
    """Raise ValueError if a task has too few pairs or photographs for ``n_pairs`` labelled pairs, at least 2."""
    if n_pairs < 2:
        raise ValueError(f"{n_pairs} labelled pair is too few to learn from; use 2 or more.")
    if task.type == "pairs":
        total = sum(len(match_pairs(*roots)) for roots in task.roots())
        most = (total if task.test_lq else total - 1) - task.unlabelled
        if n_pairs > most:
            besides = f" beside {task.unlabelled} unlabelled inputs" if task.unlabelled else ""
            roots = ", ".join(lq for lq, _ in task.roots())
            raise ValueError(f"{n_pairs} labelled pairs are asked for{besides}; {roots} leaves {max(0, most)}.")
    elif task.photographs is not None:
        photographs = len(list_images(task.photographs))
        if photographs <= task.tests + n_pairs:
            raise ValueError(
                f"{task.photographs} holds {photographs} photographs; {task.tests} test pairs and {n_pairs} labelled "
                f"ones leave none without a label. Use fewer, or more photographs."
            )


def make_data(task: Task, folder: Path, *, n_pairs: int, seed: int) -> None:
    """Write the data of one repetition; a folder that was begun is replaced.

    Args:
        task: The task.
        folder: Gets the labelled pairs and photographs in their training size, simulated pairs at full resolution, and
            a list of what is where.
        n_pairs: Labelled pairs.
        seed: Deals out the pairs and photographs.

    Raises:
        ValueError: There are too few pairs or photographs.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    check_amounts(task, n_pairs)
    unlabelled: list[Pair] = []
    if task.type == "pairs":
        originals, unlabelled, test = _deal_pairs(task, n_pairs, seed)
        if task.short_side is None and task.max_photographs is None:
            photos = Path(str(task.photographs))
        else:
            photos = _write_photos(task, _readable(task, seed), folder, task.short_side)
    else:
        simulate = _simulate_packaged if task.photographs is None else _simulate
        originals, test, photos = simulate(task, folder, n_pairs, seed)
    labelled_copies(originals, folder, task.short_side)
    inputs = folder / "unlabelled"
    for index, pair in enumerate(unlabelled):
        inputs.mkdir(exist_ok=True)
        write_image(inputs / _name(index), shrink_short_side(read_pair(pair)[0], task.short_side))
    write_parts(folder, originals, test, photos, unlabelled=inputs if unlabelled else None)


def labelled_copies(originals: Sequence[Pair], folder: Path, short_side: int | None) -> None:
    """Write the labelled pairs in their training size, targets with 8 bits."""
    for index, pair in enumerate(originals):
        image, target = (shrink_short_side(picture, short_side) for picture in read_pair(pair))
        _write_pair(folder / _LABELLED, _name(index), image, to_bit_depth(target, "8"))


def make_fold(data: Data, folder: Path, fold: int, folds: int) -> None:
    """Write the data of one fold of a cross-validation: every ``folds``-th labelled pair, or scene, is for the test."""
    shutil.rmtree(folder, ignore_errors=True)
    left, units = _pair_data(folder / _LABELLED), sorted(set(data.scenes))
    numbers = [units.index(scene) for scene in data.scenes] or range(len(data.originals))
    out = {index for index, number in enumerate(numbers) if number % folds == fold}
    for source, target in ((data.labelled.input, left.input), (data.labelled.target, left.target)):
        target.mkdir(parents=True)
        for index, name in enumerate(list_images(source)):  # of a fold of a fold, not all numbers are there
            if index not in out:
                shutil.copyfile(source / name, target / name)
    kept = [index for index in range(len(data.originals)) if index not in out]
    originals, test = ([data.originals[index] for index in part] for part in (kept, sorted(out)))
    scenes = [data.scenes[index] for index in kept] if data.scenes else []
    write_parts(folder, originals, test, data.photos, scenes, data.unlabelled)


def _name(index: int) -> str:
    return f"{index:04d}.png"


def _write_pair(folder: Path, name: str, image: np.ndarray, target: np.ndarray) -> Pair:
    for kind, picture in (("input", image), ("target", target)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_image(folder / kind / name, picture)
    return Pair(Path(name).stem, *(os.path.abspath(folder / kind / name) for kind in ("input", "target")))


# --- pairs in folders -------------------------------------------------------------------------------------------------


def _deal_pairs(task: Task, n_pairs: int, seed: int) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Labelled, unlabelled and test pairs.

    Several roots are one pool, in which a pair's name begins with its root's number.
    """
    pool = [match_pairs(*roots) for roots in task.roots()]
    pairs = [
        pair._replace(key=f"{k}/{pair.key}" if len(pool) > 1 else pair.key)
        for k, found in enumerate(pool)
        for pair in found
    ]
    rng = np.random.default_rng((seed, 17))
    order = rng.permutation(len(pairs))
    if task.narrow:
        looks = np.stack([_look(pair) for pair in pairs])
        distance = np.square((looks - looks[order[0]]) / looks.std(0)).sum(1)
        order = np.concatenate((rng.permutation(np.argsort(distance)[:n_pairs]), np.argsort(distance)[n_pairs:]))
    seen = n_pairs + task.unlabelled
    parts = (order[:n_pairs], order[n_pairs:seen], order[seen:])
    chosen, unlabelled, rest = ([pairs[int(i)] for i in part] for part in parts)
    if task.test_lq and task.test_gt:
        rest = match_pairs(task.test_lq, task.test_gt)
    return chosen, unlabelled, sorted(rest)


def _look(pair: Pair) -> np.ndarray:
    """What a target is like, see `look_of`; (6,)."""
    return look_of(to_tensor(shrink_short_side(read_pair(pair)[1], 64))[None])[0].numpy()


def _readable(task: Task, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The photographs in the seed's order, with their names; those that cannot be read are left out and named."""
    names = list_images(str(task.photographs))
    for i in np.random.default_rng((seed, 23)).permutation(len(names)):
        try:
            yield names[int(i)], read_image(Path(str(task.photographs)) / names[int(i)], bit_depth="8")
        except (ImageReadError, OSError) as error:
            print(f"skipped: {error}")


def _write_photos(
    task: Task, photographs: Iterator[tuple[str, np.ndarray]], folder: Path, short_side: int | None
) -> Path:
    """The unlabelled photographs: those that are left of them."""
    photos = folder / "photos"
    photos.mkdir()
    names = (photos / f"{number:05d}.png" for number in itertools.count())
    for _, picture in itertools.islice(photographs, task.max_photographs):
        write_image(next(names), shrink_short_side(picture, short_side))
    if not any(photos.iterdir()):
        raise ValueError(f"Too few of the photographs in {task.photographs} can be read: none is left unlabelled.")
    return photos


# --- simulated pairs --------------------------------------------------------------------------------------------------


def _write_simulated(task: Task, photograph: np.ndarray, rng: np.random.Generator, folder: Path, name: str) -> Pair:
    """A random part of a photograph, as the simulated camera takes it, at full resolution."""
    camera = SimulatedCamera(exposure=task.exposure)
    if not task.noise:
        camera = replace(camera, shot=(0.0, 0.0), read=(0.0, 0.0))
    capture = camera.draw_capture(torch.Generator().manual_seed(int(rng.integers(2**31))))
    crop = random_crop(photograph, task.simulated_size, rng)
    return _write_pair(folder / "simulated", name, *simulate_pair(crop, capture, LOOKS[task.look], task.simulate))


def _simulate(task: Task, folder: Path, n_pairs: int, seed: int) -> tuple[list[Pair], list[Pair], Path]:
    """Pairs from a folder of photographs: each photograph serves one part, once."""
    photographs = _readable(task, seed)
    made: list[Pair] = []
    # The order is that of the seed, so the same test pairs serve every number of pairs.
    for k, (name, photograph) in enumerate(itertools.islice(photographs, task.tests + n_pairs)):
        rng = np.random.default_rng((seed, 29, k))
        made.append(_write_simulated(task, photograph, rng, folder, f"{k:04d}.png")._replace(key=name))
    photos = _write_photos(task, photographs, folder, task.short_side)
    return made[task.tests :], made[: task.tests], photos


def _simulate_packaged(task: Task, folder: Path, n_pairs: int, seed: int) -> tuple[list[Pair], list[Pair], Path]:
    """Pairs from the few photographs that ship with the plugin: parts of them; none serves two of the three."""
    split = draw_split(seed)
    made: list[list[Pair]] = []
    for number, (names, count) in enumerate(((split.labelled, n_pairs), (split.test, task.tests))):
        photographs = load_photographs(names)
        made.append([])
        for k in range(count):
            rng = np.random.default_rng((seed, 31, number, k))
            photograph = photographs[names[k % len(names)]]
            pair = _write_simulated(task, photograph, rng, folder, f"{number}_{k:04d}.png")
            made[-1].append(pair._replace(key=f"{seed}/{pair.key}"))  # parts of other photographs, with another seed
    photos = folder / "photos"
    photos.mkdir()
    photographs = load_photographs(split.unlabelled)
    for k in range(task.max_photographs or 48):
        rng = np.random.default_rng((seed, 31, 3, k))
        name = split.unlabelled[k % len(split.unlabelled)]
        crop = random_crop(photographs[name], task.simulated_size, rng)
        picture = shrink_short_side(np.ascontiguousarray(crop), task.short_side)
        write_image(photos / f"{k:05d}_{name}.png", picture)
    return made[0], made[1], photos
