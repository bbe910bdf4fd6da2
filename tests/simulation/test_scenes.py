"""The demo data set: what lies on disk, that it is reproducible, and that no photograph is in two parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from semiisp_plugin.io.image_io import list_images, read_image
from semiisp_plugin.simulation.camera import Capture, SimulatedCamera, darken, expose
from semiisp_plugin.simulation.look import DEFAULT_LOOK, NEUTRAL_LOOK, apply_look
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS, load_photographs
from semiisp_plugin.simulation.scenes import (
    Scenes,
    Split,
    Task,
    _in_turn,
    centre_crop,
    draw_split,
    make_scenes,
    random_crop,
    simulate_pair,
)

COUNTS = {"pairs": 6, "photos": 5, "tests": 4, "size": (24, 32)}


def _digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in list_images(folder)}


def _scene(name: str) -> str:
    return PHOTOGRAPHS[Path(name).stem.partition("_")[2]].scene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenes]:
    root = tmp_path_factory.mktemp("scenes")
    return {task: make_scenes(root / task, task=task, **COUNTS) for task in ("raw", "lowlight")}


@pytest.mark.parametrize("task", ["raw", "lowlight"])
def test_files_and_their_formats(made: dict[str, Scenes], task: str) -> None:
    scenes = made[task]
    for inputs, targets, count in (
        (scenes.pairs_input, scenes.pairs_target, 6),
        (scenes.test_input, scenes.test_target, 4),
    ):
        assert list_images(inputs) == list_images(targets)
        assert len(list_images(inputs)) == count
        for name in list_images(inputs):
            image, target = read_image(inputs / name), read_image(targets / name)
            assert image.shape == target.shape == (24, 32, 3)
            assert image.dtype == (np.uint16 if task == "raw" else np.uint8)
            assert target.dtype == np.uint8
            assert image.mean() / np.iinfo(image.dtype).max < 0.6 * target.mean() / 255
    assert len(list_images(scenes.photos)) == 5
    for name in list_images(scenes.photos):
        photo = read_image(scenes.photos / name)
        assert (photo.shape, photo.dtype) == ((48, 64, 3), np.uint8)
    readme = (scenes.photos.parent / "README.txt").read_text(encoding="utf-8")
    assert readme.startswith("Simulated")
    assert "No camera took these inputs" in readme
    assert f"task {task}, seed 0" in readme


def test_raw_inputs_have_more_than_8_bits(made: dict[str, Scenes]) -> None:
    image = read_image(made["raw"].pairs_input / list_images(made["raw"].pairs_input)[0])
    assert len(np.unique(image)) > 256


def test_no_scene_is_in_two_parts(made: dict[str, Scenes]) -> None:
    scenes = made["raw"]
    parts = [
        {_scene(name) for name in list_images(folder)}
        for folder in (scenes.pairs_input, scenes.photos, scenes.test_input)
    ]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_scenes_take_turns(made: dict[str, Scenes]) -> None:
    names = [Path(name).stem for name in list_images(made["raw"].photos)]
    assert names == ["000_astronaut", "001_flower", "002_motorcycle_left", "003_rocket", "004_astronaut"]
    assert [_in_turn(["motorcycle_left", "flower", "motorcycle_right"], k) for k in range(6)] == [
        "motorcycle_left",
        "flower",
        "motorcycle_right",
        "flower",
        "motorcycle_left",
        "flower",
    ]


def test_photographs_are_whole_first_and_then_parts(made: dict[str, Scenes]) -> None:
    photos = made["raw"].photos
    whole = centre_crop(load_photographs(["astronaut"])["astronaut"], (48, 64))
    np.testing.assert_array_equal(read_image(photos / "000_astronaut.png"), whole)
    assert np.abs(read_image(photos / "004_astronaut.png") - whole.astype(float)).mean() > 5


def test_tasks_share_their_targets_and_photographs(made: dict[str, Scenes]) -> None:
    raw, dark = made["raw"], made["lowlight"]
    assert _digests(raw.pairs_target) == _digests(dark.pairs_target)
    assert _digests(raw.photos) == _digests(dark.photos)


def test_fewer_pairs_are_a_subset_and_the_seed_decides(made: dict[str, Scenes], tmp_path: Path) -> None:
    torch.manual_seed(123)
    np.random.seed(123)
    fewer = make_scenes(tmp_path / "fewer", pairs=3, photos=2, tests=2, size=(24, 32))
    more = _digests(made["raw"].photos.parent)
    assert _digests(fewer.photos.parent).items() <= more.items()
    other = make_scenes(tmp_path / "other", pairs=3, photos=4, tests=2, size=(24, 32), seed=1)
    for name, digest in _digests(other.photos.parent).items():
        # Of the photographs, the first ones are whole, whatever the seed.
        whole = name.startswith("photos/")
        assert (digest == more.get(name)) == whole, name


def test_captures_and_crops_differ(made: dict[str, Scenes]) -> None:
    scenes = made["raw"]
    means = [
        read_image(scenes.pairs_input / name).mean((0, 1)) / read_image(scenes.pairs_target / name).mean((0, 1))
        for name in list_images(scenes.pairs_input)
    ]
    assert np.std(np.array(means) / np.mean(means, axis=0), axis=0).min() > 0.1
    assert len(set(_digests(scenes.pairs_target).values())) == 6


@pytest.mark.parametrize("task", ["raw", "lowlight"])
def test_pair_is_camera_and_look_of_one_picture(task: Task) -> None:
    photograph = centre_crop(load_photographs(["flower"])["flower"], (30, 40))
    capture = SimulatedCamera().draw_capture(torch.Generator().manual_seed(0))
    image, target = simulate_pair(photograph, capture, DEFAULT_LOOK, task)
    tensor = torch.from_numpy(photograph / np.float32(255)).permute(2, 0, 1)[None]
    full = 65535 if task == "raw" else 255
    expected = (expose if task == "raw" else darken)(tensor, capture)
    np.testing.assert_array_equal(image, np.round(expected[0].permute(1, 2, 0).numpy() * full))
    looked = apply_look(tensor, DEFAULT_LOOK)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(target, looked * 255, atol=0.501)
    np.testing.assert_array_equal(simulate_pair(photograph, Capture(), NEUTRAL_LOOK, task)[1], photograph)


def test_existing_contents_are_not_lost(made: dict[str, Scenes], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="mine is not empty"):
        make_scenes(mine, **COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (mine / "thesis.txt").read_text() == "x"
    with pytest.raises(FileExistsError, match="is a file"):
        make_scenes(mine / "thesis.txt", **COUNTS)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    scenes = make_scenes(tmp_path / "empty", pairs=2, photos=1, tests=1, size=(16, 16))
    assert len(list_images(scenes.pairs_input)) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("semiisp_plugin.simulation.scenes.write_image", fail)
    with pytest.raises(OSError, match="disk full"):
        make_scenes(tmp_path / "scenes", **COUNTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"task": "video"}, "task"), ({"pairs": 0}, "pairs"), ({"tests": -1}, "tests"), ({"size": (4, 96)}, "size")],
)
def test_impossible_requests(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scenes(tmp_path / "scenes", **{**COUNTS, **options})


def test_random_crop_shape_content_and_extent() -> None:
    # Position is encoded in the pixels: red is the column, green the row.
    photograph = np.zeros((120, 200, 3), np.uint8)
    photograph[..., 0] = np.arange(200)
    photograph[..., 1] = np.arange(120)[:, None]
    rng = np.random.default_rng(0)
    heights, mirrored = [], 0
    for _ in range(200):
        crop = random_crop(photograph, (30, 40), rng).astype(int)
        assert crop.shape == (30, 40, 3)
        height, width = np.ptp(crop[..., 1]) + 1, np.ptp(crop[..., 0]) + 1
        assert width / height == pytest.approx(40 / 30, rel=0.1)
        heights.append(height)
        mirrored += crop[0, 0, 0] > crop[0, -1, 0]
    assert 0.35 * 120 < min(heights) < 0.5 * 120
    assert max(heights) > 0.9 * 120
    assert 60 < mirrored < 140


def test_crop_larger_than_the_photograph_is_enlarged() -> None:
    photograph = np.full((20, 30, 3), 77, np.uint8)
    for crop in (random_crop(photograph, (64, 64), np.random.default_rng(0)), centre_crop(photograph, (64, 64))):
        assert crop.shape == (64, 64, 3)
        assert (crop == 77).all()


def test_drawn_splits_are_splits_of_everything() -> None:
    splits = [draw_split(seed) for seed in range(20)]
    for split in splits:
        assert sorted((*split.labelled, *split.unlabelled, *split.test)) == sorted(PHOTOGRAPHS)
    assert len(set(splits)) > 10
    assert draw_split(3) == splits[3]


@pytest.mark.parametrize(
    ("part", "names", "message"),
    [
        ("test", (), "empty"),
        ("labelled", ("lenna",), "lenna"),
        ("test", ("motorcycle_right",), "motorcycle_right.*labelled and in test"),
        ("labelled", ("flower",), "flower.*labelled and in unlabelled"),
    ],
)
def test_impossible_splits(part: str, names: tuple[str, ...], message: str) -> None:
    parts = {"labelled": ("coffee", "motorcycle_left"), "unlabelled": ("flower",), "test": ("china",)}
    with pytest.raises(ValueError, match=message):
        Split(**{**parts, part: names})
