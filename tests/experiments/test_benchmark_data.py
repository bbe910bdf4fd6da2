"""The data of a repetition: parts without a common scene, decided by the seed, for any number of pairs."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from semiisp_plugin.data.pairs import match_pairs, read_pair
from semiisp_plugin.experiments.benchmark_data import Data, check_amounts, data_in, make_data, make_fold
from semiisp_plugin.experiments.benchmark_options import Task
from semiisp_plugin.io.image_io import list_images, read_image, write_image


def made(task: Task, folder: Path, n_pairs: int, seed: int = 0, **changes) -> Data:
    make_data(msgspec.structs.replace(task, **changes), folder, n_pairs=n_pairs, seed=seed)
    return data_in(folder)


def keys(*parts) -> set[str]:
    return {pair.key for part in parts for pair in part}


def inputs(*parts) -> set[bytes]:
    return {Path(pair.input).read_bytes() for part in parts for pair in part}


def write_greys(folder: Path, levels) -> None:
    """Photographs of one grey each, with some noise."""
    rng = np.random.default_rng(0)
    for i, level in enumerate(levels):
        write_image(folder / f"{i:02d}.png", (level + rng.integers(0, 3, (50, 60, 3))).astype(np.uint8))


@pytest.fixture
def task(tiny_data) -> Task:
    lq, gt = (str(tiny_data / "pairs" / kind) for kind in ("input", "target"))
    photographs = str(tiny_data / "photos")
    return Task(type="pairs", pairs=[4], dataroot_lq=lq, dataroot_gt=gt, photographs=photographs, short_side=40)


def test_every_pair_that_is_not_trained_on_is_tested(task, tmp_path, tiny_data):
    data = made(task, tmp_path / "d", 4)
    assert (len(keys(data.originals)), len(keys(data.test))) == (4, 2)
    assert keys(data.originals, data.test) == {f"{i:02d}" for i in range(6)}
    assert keys(made(task, tmp_path / "other", 4, seed=3).test) != keys(data.test)
    # Tests and originals are at full resolution, what is trained on has the short side asked for, in the same order.
    # 16-bit inputs stay 16-bit, targets and photographs are 8-bit.
    assert {read_pair(pair)[1].shape for pair in data.test} == {(48, 64, 3)}
    small = match_pairs(data.labelled.input, data.labelled.target)
    for (_, target), (image, shrunk) in zip(map(read_pair, data.originals), map(read_pair, small), strict=True):
        assert (target.shape, shrunk.shape) == ((48, 64, 3), (40, 53, 3))
        assert (image.dtype, shrunk.dtype) == (np.uint16, np.uint8)
        assert shrunk.mean() == pytest.approx(target.mean(), abs=1)
    assert len(list_images(data.photos)) == 4  # the damaged one takes no part
    assert min(read_image(data.photos / "00000.png").shape[:2]) == 40
    # With a test set of its own, that is the test. Photographs that are taken as they are, are not copied.
    lq, gt = (str(tiny_data / "test" / kind) for kind in ("input", "target"))
    own = made(task, tmp_path / "own", 6, test_lq=lq, test_gt=gt, short_side=None)
    assert own.photos == Path(task.photographs)
    assert inputs(own.test) == inputs(match_pairs(lq, gt))


def test_unlabelled_inputs_are_of_pairs_that_are_neither_trained_on_nor_tested(task, tmp_path):
    data = made(task, tmp_path / "d", 3, unlabelled=2)
    assert (len(keys(data.originals)), len(keys(data.test))) == (3, 1)
    names = list_images(data.unlabelled)
    assert len(names) == 2
    left = {f"{i:02d}" for i in range(6)} - keys(data.originals, data.test)
    pairs = {pair.key: pair for pair in match_pairs(task.dataroot_lq, task.dataroot_gt)}
    found = sorted(float(read_image(data.unlabelled / name).mean()) for name in names)
    assert found == pytest.approx(sorted(float(read_pair(pairs[key])[0].mean()) for key in left), rel=0.01)
    assert min(read_image(data.unlabelled / names[0]).shape[:2]) == 40
    make_fold(data, tmp_path / "fold", 0, 3)
    assert data_in(tmp_path / "fold").unlabelled == data.unlabelled
    assert keys(made(task, tmp_path / "none", 3).originals) == keys(data.originals)
    with pytest.raises(ValueError, match=r"4 labelled pairs are asked for beside 2 unlabelled inputs; .* leaves 3"):
        check_amounts(msgspec.structs.replace(task, unlabelled=2), 4)


def test_folds_are_a_partition_of_the_labelled_pairs(task, tmp_path):
    data = made(task, tmp_path / "d", 5)
    tested = []
    for k in range(3):
        make_fold(data, tmp_path / str(k), k, 3)
        fold = data_in(tmp_path / str(k))
        assert sorted([*fold.originals, *fold.test]) == sorted(data.originals)
        assert fold.photos == data.photos
        left = [read_image(fold.labelled.target / name).mean() for name in list_images(fold.labelled.input)]
        assert left == pytest.approx([read_pair(pair)[1].mean() for pair in fold.originals], abs=1)
        tested += fold.test
        make_fold(fold, tmp_path / "again", 1, 2)  # a fold of the fold
        assert len(list_images(data_in(tmp_path / "again").labelled.input)) == 2
    assert sorted(tested) == sorted(data.originals)


def test_several_folders_are_one_pool(task, tmp_path, tiny_data):
    """In which names are unique, though the folders have files of one name."""
    lq, gt = ([str(tiny_data / part / kind) for part in ("pairs", "test")] for kind in ("input", "target"))
    data = made(task, tmp_path, 5, dataroot_lq=lq, dataroot_gt=gt)
    assert len(inputs(data.originals, data.test)) == 8
    assert keys(data.originals, data.test) == {*(f"0/{i:02d}" for i in range(6)), "1/00", "1/01"}


def test_narrow_pairs_are_alike(task, tmp_path):
    """Their brightness spreads less than that of random ones; which kind it is, is the seed's."""
    write_greys(tmp_path / "greys", np.random.default_rng(5).permutation(np.linspace(10, 240, 16)))
    spread, means = [], set()
    for narrow, seed in itertools.product((True, False), range(4)):
        roots = dict.fromkeys(("dataroot_lq", "dataroot_gt"), str(tmp_path / "greys"))
        data = made(task, tmp_path / "d", 4, seed, **roots, narrow=narrow)
        assert len(keys(data.originals, data.test)) == 16
        levels = [read_pair(pair)[1].mean() for pair in data.originals]
        spread.append(np.std(levels))
        means.add(round(np.mean(levels), 1))
    assert max(spread[:4]) < min(spread[4:])
    assert len(means) == 8


def test_too_few(task, tmp_path):
    with pytest.raises(ValueError, match=r"6 labelled pairs are asked for; .* leaves 5"):
        check_amounts(task, 6)
    with pytest.raises(ValueError, match="1 labelled pair is too few"):
        check_amounts(task, 1)
    simulation = Task(type="simulation", pairs=[3], photographs=task.photographs, tests=2)
    with pytest.raises(ValueError, match="leave none without a label"):
        made(simulation, tmp_path / "d", 3)


@pytest.mark.parametrize("packaged", [False, True])
def test_simulated_parts(tmp_path, packaged, capsys):
    write_greys(tmp_path / "photos", range(5, 245, 20))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    photographs = None if packaged else str(tmp_path / "photos")
    amounts = {"tests": 3, "max_photographs": 5, "simulated_size": (40, 50), "short_side": 32}
    task = Task(type="simulation", pairs=[2, 4], photographs=photographs, **amounts)
    small, large = (made(task, tmp_path / f"{n}", n, seed=3) for n in (2, 4))
    assert (len(small.originals), len(large.originals), len(list_images(large.photos))) == (2, 4, 5)
    assert {read_pair(pair)[0].shape for pair in (*large.originals, *large.test)} == {(40, 50, 3)}
    assert read_image(large.labelled.input / "0000.png").shape == (32, 40, 3)
    # The test pairs are the same whatever the number of pairs, and fewer pairs are among more.
    assert inputs(small.test) == inputs(large.test)
    assert inputs(small.originals) < inputs(large.originals)
    assert len(inputs(large.originals, large.test)) == len(keys(large.originals, large.test)) == 7
    if not packaged:
        assert "broken.jpg" in capsys.readouterr().out  # and takes no part
        # Every photograph is of one grey, which its targets keep apart: no photograph serves two parts.
        parts = [[read_pair(pair)[1] for pair in part] for part in (large.originals, large.test)]
        labelled, test = ({round(float(picture.mean()) / 4) for picture in part} for part in parts)
        assert not labelled & test
    assert inputs(made(task, tmp_path / "again", 4, seed=3).test) == inputs(large.test)
    assert inputs(made(task, tmp_path / "again", 4, seed=4).test) != inputs(large.test)
