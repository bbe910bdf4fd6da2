"""The data of a repetition: parts without a common scene, decided by the seed, for any number of pairs."""

import numpy as np
import pytest

from semiisp_plugin.experiments.benchmark_data import (
    check_amounts,
    count_pairs,
    data_in,
    fold_of,
    held_out,
    make_data,
)
from semiisp_plugin.experiments.benchmark_options import Task
from semiisp_plugin.io.image_io import list_images, read_image, write_image

SIZE = (32, 40)


def names(folder) -> list[str]:
    return [name.partition("_")[2] for name in list_images(folder)]


def bytes_of(folder) -> set[bytes]:
    return {(folder / name).read_bytes() for name in list_images(folder)}


@pytest.fixture
def pairs_task(tiny_data) -> Task:
    pairs = tiny_data / "pairs"
    return Task(
        type="pairs",
        dataroot_lq=str(pairs / "input"),
        dataroot_gt=str(pairs / "target"),
        folds=3,
        photographs=str(tiny_data / "photos"),
        short_side=40,
    )


def test_folds_are_a_partition():
    tests = [fold_of(15, 5, fold, seed=4)[1] for fold in range(5)]
    assert sorted(i for test in tests for i in test) == list(range(15))
    validation = [fold_of(15, 5, fold, seed=4)[0][:3] for fold in range(5)]
    assert sorted(i for part in validation for i in part) == list(range(15))
    for fold in range(5):
        train, test = fold_of(15, 5, fold, seed=4)
        assert sorted(train + test) == list(range(15))
    assert fold_of(15, 5, 0, seed=4) != fold_of(15, 5, 0, seed=5)


def test_pairs_are_dealt_out_once(pairs_task, tmp_path):
    assert count_pairs(pairs_task) == 4
    make_data(pairs_task, tmp_path / "d", n_pairs=4, n_validation=1, size=SIZE, seed=0, fold=1)
    data = data_in(tmp_path / "d")
    parts = [names(part.target) for part in (data.labelled, data.validation, data.test)]
    assert [len(part) for part in parts] == [3, 1, 2]
    assert len({name for part in parts for name in part}) == 6
    for part in (data.labelled, data.validation, data.test):
        assert list_images(part.input) == list_images(part.target)
    # 16-bit inputs stay 16-bit, targets and photographs are 8-bit; all have the short side asked for.
    assert read_image(data.test.input / list_images(data.test.input)[0]).dtype == np.uint16
    assert len(list_images(data.photos)) == 4  # the damaged one takes no part
    for folder in (data.labelled.input, data.labelled.target, data.photos):
        assert min(read_image(folder / list_images(folder)[0]).shape[:2]) == 40


def test_too_few_pairs(pairs_task):
    with pytest.raises(ValueError, match=r"5 labelled pairs are asked for; .* leaves 4"):
        check_amounts(pairs_task, 5)
    check_amounts(pairs_task, 4)
    with pytest.raises(ValueError, match="leave 1 to train on"):
        held_out(4, 3)
    assert [held_out(n, "auto") for n in (8, 12, 16, 50, 100)] == [3, 3, 3, 10, 10]


@pytest.mark.parametrize("packaged", [False, True])
def test_simulated_parts(tmp_path, packaged):
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    if not packaged:
        photos.mkdir()
        for i in range(12):
            write_image(
                photos / f"{i}.png",
                np.full((50, 60, 3), 20 * i + 5, np.uint8) + rng.integers(0, 3, (50, 60, 3), np.uint8),
            )
    task = Task(type="simulation", photographs=None if packaged else str(photos), tests=3, max_photographs=5)
    for n in (4, 6):
        make_data(task, tmp_path / f"{n}", n_pairs=n, n_validation=2, size=SIZE, seed=3, fold=None)
    small, large = (data_in(tmp_path / f"{n}") for n in (4, 6))
    assert len(list_images(small.labelled.input)) == 2
    assert len(list_images(large.labelled.input)) == 4
    # The test and validation pairs are the same whatever the number of pairs, and fewer pairs are among more.
    for part in ("test", "validation"):
        assert bytes_of(getattr(small, part).input) == bytes_of(getattr(large, part).input)
    assert bytes_of(small.labelled.target) < bytes_of(large.labelled.target)
    inputs = [bytes_of(part.input) for part in (large.labelled, large.validation, large.test)]
    assert len(set().union(*inputs)) == sum(len(part) for part in inputs)
    assert len(list_images(large.photos)) == (5 if packaged else 3)
    if not packaged:
        # Every photograph is of one grey, which its targets keep apart: no photograph serves two parts.
        greys = [
            {round(float(read_image(folder / name).mean()) / 4) for name in list_images(folder)}
            for folder in (large.labelled.target, large.validation.target, large.test.target)
        ]
        assert not greys[0] & greys[1] and not greys[0] & greys[2] and not greys[1] & greys[2]  # noqa: PT018
    again = tmp_path / "again"
    make_data(task, again, n_pairs=6, n_validation=2, size=SIZE, seed=3, fold=None)
    assert bytes_of(data_in(again).test.input) == bytes_of(large.test.input)
    make_data(task, again, n_pairs=6, n_validation=2, size=SIZE, seed=4, fold=None)
    assert bytes_of(data_in(again).test.input) != bytes_of(large.test.input)


def test_simulation_leaves_some_unlabelled(tmp_path, tiny_data):
    task = Task(type="simulation", photographs=str(tiny_data / "photos"), tests=2)
    with pytest.raises(ValueError, match="leave none without a label"):
        make_data(task, tmp_path / "d", n_pairs=3, n_validation=1, size=SIZE, seed=0, fold=None)


def test_photographs_that_cannot_be_read_take_no_part(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(6):
        write_image(tmp_path / "photos" / f"{i}.png", rng.integers(0, 255, (50, 60, 3), np.uint8))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    task = Task(type="simulation", photographs=str(tmp_path / "photos"), tests=2)
    make_data(task, tmp_path / "d", n_pairs=3, n_validation=1, size=SIZE, seed=0, fold=None)
    assert len(list_images(data_in(tmp_path / "d").photos)) == 1
    assert "broken.jpg" in capsys.readouterr().out
