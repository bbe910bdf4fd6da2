"""The data of a repetition: parts without a common scene, decided by the seed, for any number of pairs."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from semiisp_plugin.data.pairs import read_pair
from semiisp_plugin.experiments.benchmark_data import check_amounts, data_in, make_data, make_fold
from semiisp_plugin.experiments.benchmark_options import Task
from semiisp_plugin.io.image_io import list_images, read_image, write_image


def keys(pairs) -> set[str]:
    return {pair.key for pair in pairs}


def inputs(pairs) -> set[bytes]:
    return {Path(pair.input).read_bytes() for pair in pairs}


def write_greys(folder, levels) -> None:
    """Photographs of one grey each, with some noise."""
    rng = np.random.default_rng(0)
    for i, level in enumerate(levels):
        noise = rng.integers(0, 3, (50, 60, 3), np.uint8)
        write_image(folder / f"{i:02d}.png", np.full((50, 60, 3), level, np.uint8) + noise)


@pytest.fixture
def pairs_task(tiny_data) -> Task:
    pairs = tiny_data / "pairs"
    return Task(
        type="pairs",
        pairs=[4],
        dataroot_lq=str(pairs / "input"),
        dataroot_gt=str(pairs / "target"),
        photographs=str(tiny_data / "photos"),
        short_side=40,
    )


def test_every_pair_that_is_not_trained_on_is_tested(pairs_task, tmp_path, tiny_data):
    make_data(pairs_task, tmp_path / "d", n_pairs=4, seed=0)
    data = data_in(tmp_path / "d")
    assert [len(keys(part)) for part in (data.originals, data.test)] == [4, 2]
    assert keys(data.originals) | keys(data.test) == {f"{i:02d}" for i in range(6)}
    # Tests and originals are at full resolution, what is trained on has the short side asked for, in the same order.
    # 16-bit inputs stay 16-bit, targets and photographs are 8-bit.
    names = list_images(data.labelled.input)
    assert names == list_images(data.labelled.target) == [f"{i:04d}.png" for i in range(4)]
    for pair, name in zip(data.originals, names, strict=True):
        full, small = (
            read_pair(pair),
            [read_image(folder / name) for folder in (data.labelled.input, data.labelled.target)],
        )
        assert [image.shape for image in (*full, *small)] == [(48, 64, 3)] * 2 + [(40, 53, 3)] * 2
        assert [image.dtype for image in small] == [np.uint16, np.uint8]
        assert small[1].mean() == pytest.approx(full[1].mean(), abs=1)
    assert {read_pair(pair)[1].shape for pair in data.test} == {(48, 64, 3)}
    assert len(list_images(data.photos)) == 4  # the damaged one takes no part
    assert min(read_image(data.photos / list_images(data.photos)[0]).shape[:2]) == 40
    make_data(pairs_task, tmp_path / "other", n_pairs=4, seed=3)
    assert keys(data_in(tmp_path / "other").test) != keys(data.test)
    # With a test set of its own, that is the test. Photographs that are taken as they are, are not copied.
    tests = {f"test_{end}": str(tiny_data / "test" / kind) for end, kind in (("lq", "input"), ("gt", "target"))}
    make_data(msgspec.structs.replace(pairs_task, **tests, short_side=None), tmp_path / "own", n_pairs=6, seed=0)
    assert data_in(tmp_path / "own").photos == Path(pairs_task.photographs)
    assert inputs(data_in(tmp_path / "own").test) == {p.read_bytes() for p in (tiny_data / "test" / "input").iterdir()}


def test_folds_are_a_partition_of_the_labelled_pairs(pairs_task, tmp_path):
    make_data(pairs_task, tmp_path / "d", n_pairs=5, seed=1)
    data = data_in(tmp_path / "d")
    tested = []
    for k in range(3):
        make_fold(data, tmp_path / str(k), k, 3)
        fold = data_in(tmp_path / str(k))
        assert sorted([*fold.originals, *fold.test]) == sorted(data.originals)
        assert fold.photos == data.photos
        left = [read_image(fold.labelled.target / name).mean() for name in list_images(fold.labelled.input)]
        assert left == pytest.approx([read_pair(pair)[1].mean() for pair in fold.originals], abs=1)
        tested += fold.test
    assert sorted(tested) == sorted(data.originals)


def test_several_folders_are_one_pool(pairs_task, tmp_path, tiny_data):
    """In which names are unique, though the folders have files of one name."""
    roots = {
        f"dataroot_{end}": [str(tiny_data / part / kind) for part in ("pairs", "test")]
        for end, kind in (("lq", "input"), ("gt", "target"))
    }
    make_data(msgspec.structs.replace(pairs_task, **roots), tmp_path / "d", n_pairs=5, seed=0)
    data = data_in(tmp_path / "d")
    assert len(inputs([*data.originals, *data.test])) == 8
    assert keys([*data.originals, *data.test]) == {*(f"0/{i:02d}" for i in range(6)), "1/00", "1/01"}


def test_narrow_pairs_are_alike(pairs_task, tmp_path):
    """Their brightness spreads less than that of random ones; which kind it is, is the seed's."""
    for kind in ("input", "target"):
        write_greys(tmp_path / kind, np.random.default_rng(5).permutation(np.linspace(10, 240, 16).astype(int)))
    roots = {"dataroot_lq": str(tmp_path / "input"), "dataroot_gt": str(tmp_path / "target")}
    spread, means = {}, set()
    for narrow, seed in itertools.product((True, False), range(4)):
        task = msgspec.structs.replace(pairs_task, **roots, narrow=narrow)
        make_data(task, tmp_path / "d", n_pairs=4, seed=seed)
        data = data_in(tmp_path / "d")
        assert len(keys([*data.originals, *data.test])) == 16
        levels = [read_pair(pair)[1].mean() for pair in data.originals]
        spread[narrow, seed] = np.std(levels)
        means.add((narrow, round(np.mean(levels))))
    assert max(spread[True, seed] for seed in range(4)) < min(spread[False, seed] for seed in range(4))
    assert len(means) == 8


def test_too_few(pairs_task, tmp_path):
    with pytest.raises(ValueError, match=r"6 labelled pairs are asked for; .* leaves 5"):
        check_amounts(pairs_task, 6)
    check_amounts(pairs_task, 5)
    with pytest.raises(ValueError, match="1 labelled pair is too few"):
        check_amounts(pairs_task, 1)
    simulation = Task(type="simulation", pairs=[3], photographs=pairs_task.photographs, tests=2)
    with pytest.raises(ValueError, match="leave none without a label"):
        make_data(simulation, tmp_path / "d", n_pairs=3, seed=0)


@pytest.mark.parametrize("packaged", [False, True])
def test_simulated_parts(tmp_path, packaged, capsys):
    photos = tmp_path / "photos"
    write_greys(photos, range(5, 245, 20))
    (photos / "broken.jpg").write_bytes(b"no picture")
    task = Task(
        type="simulation",
        pairs=[2, 4],
        photographs=None if packaged else str(photos),
        tests=3,
        max_photographs=5,
        simulated_size=(40, 50),
        short_side=32,
    )
    for n in (2, 4):
        make_data(task, tmp_path / f"{n}", n_pairs=n, seed=3)
    small, large = (data_in(tmp_path / f"{n}") for n in (2, 4))
    assert len(small.originals) == 2
    assert len(large.originals) == len(list_images(large.labelled.input)) == 4
    assert {read_pair(pair)[0].shape for pair in (*large.originals, *large.test)} == {(40, 50, 3)}
    assert read_image(large.labelled.input / "0000.png").shape == (32, 40, 3)
    # The test pairs are the same whatever the number of pairs, and fewer pairs are among more.
    assert inputs(small.test) == inputs(large.test)
    assert inputs(small.originals) < inputs(large.originals)
    assert len(inputs([*large.originals, *large.test])) == len(keys([*large.originals, *large.test])) == 7
    assert len(list_images(large.photos)) == 5
    if not packaged:
        assert "broken.jpg" in capsys.readouterr().out  # and takes no part
        # Every photograph is of one grey, which its targets keep apart: no photograph serves two parts.
        parts = [[read_pair(pair)[1] for pair in part] for part in (large.originals, large.test)]
        labelled, test = ({round(float(picture.mean()) / 4) for picture in part} for part in parts)
        assert not labelled & test
    again = tmp_path / "again"
    make_data(task, again, n_pairs=4, seed=3)
    assert inputs(data_in(again).test) == inputs(large.test)
    make_data(task, again, n_pairs=4, seed=4)
    assert inputs(data_in(again).test) != inputs(large.test)
