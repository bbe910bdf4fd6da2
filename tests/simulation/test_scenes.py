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
    Task,
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
    return Path(name).stem.partition("_")[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scenes")
    for task in ("raw", "lowlight"):
        make_scenes(root / task, task=task, **COUNTS)
    return {task: root / task for task in ("raw", "lowlight")}


@pytest.mark.parametrize("task", ["raw", "lowlight"])
def test_files_and_their_formats(made: dict[str, Path], task: str) -> None:
    scenes = made[task]
    for inputs, targets, count in (
        (scenes / "pairs" / "input", scenes / "pairs" / "target", 6),
        (scenes / "test" / "input", scenes / "test" / "target", 4),
    ):
        assert list_images(inputs) == list_images(targets)
        assert len(list_images(inputs)) == count
        for name in list_images(inputs):
            image, target = read_image(inputs / name), read_image(targets / name)
            assert image.shape == target.shape == (24, 32, 3)
            assert image.dtype == (np.uint16 if task == "raw" else np.uint8)
            assert target.dtype == np.uint8
            assert image.mean() / np.iinfo(image.dtype).max < 0.6 * target.mean() / 255
    assert len(list_images(scenes / "photos")) == 5
    for name in list_images(scenes / "photos"):
        photo = read_image(scenes / "photos" / name)
        assert (photo.shape, photo.dtype) == ((24, 32, 3), np.uint8)


def test_raw_inputs_have_more_than_8_bits(made: dict[str, Path]) -> None:
    image = read_image(made["raw"] / "pairs" / "input" / list_images(made["raw"] / "pairs" / "input")[0])
    assert len(np.unique(image)) > 256


def test_no_scene_is_in_two_parts(made: dict[str, Path]) -> None:
    scenes = made["raw"]
    parts = [
        {_scene(name) for name in list_images(folder)}
        for folder in (scenes / "pairs" / "input", scenes / "photos", scenes / "test" / "input")
    ]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_photographs_are_the_middle_of_whole_ones(made: dict[str, Path]) -> None:
    photos = made["raw"] / "photos"
    for name, photograph in load_photographs(draw_split(0).unlabelled[:5]).items():
        (path,) = photos.glob(f"*_{name}.png")
        np.testing.assert_array_equal(read_image(path), centre_crop(photograph, (24, 32)))


def test_tasks_share_their_targets_and_photographs(made: dict[str, Path]) -> None:
    raw, dark = made["raw"], made["lowlight"]
    assert _digests(raw / "pairs" / "target") == _digests(dark / "pairs" / "target")
    assert _digests(raw / "photos") == _digests(dark / "photos")


def test_fewer_pairs_are_a_subset_and_the_seed_decides(made: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(123)
    np.random.seed(123)
    make_scenes(tmp_path / "fewer", pairs=3, photos=2, tests=2, size=(24, 32))
    more = _digests(made["raw"])
    assert _digests(tmp_path / "fewer").items() <= more.items()
    make_scenes(tmp_path / "other", pairs=3, photos=4, tests=2, size=(24, 32), seed=1)
    assert all(digest != more.get(name) for name, digest in _digests(tmp_path / "other").items())


def test_captures_differ(made: dict[str, Path]) -> None:
    inputs, targets = made["raw"] / "pairs" / "input", made["raw"] / "pairs" / "target"
    means = [
        read_image(inputs / name).mean((0, 1)) / read_image(targets / name).mean((0, 1)) for name in list_images(inputs)
    ]
    assert np.std(np.array(means) / np.mean(means, axis=0), axis=0).min() > 0.1
    assert len(set(_digests(targets).values())) == 6


@pytest.mark.parametrize("task", ["raw", "lowlight"])
def test_pair_is_camera_and_look_of_one_picture(task: Task) -> None:
    photograph = centre_crop(load_photographs(["spices"])["spices"], (30, 40))
    capture = SimulatedCamera().draw_capture(torch.Generator().manual_seed(0))
    image, target = simulate_pair(photograph, capture, DEFAULT_LOOK, task)
    tensor = torch.from_numpy(photograph / np.float32(255)).permute(2, 0, 1)[None]
    full = 65535 if task == "raw" else 255
    expected = (expose if task == "raw" else darken)(tensor, capture)
    np.testing.assert_array_equal(image, np.round(expected[0].permute(1, 2, 0).numpy() * full))
    looked = apply_look(tensor, DEFAULT_LOOK)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(target, looked * 255, atol=0.501)
    np.testing.assert_array_equal(simulate_pair(photograph, Capture(), NEUTRAL_LOOK, task)[1], photograph)


def test_what_was_begun_is_completed(made: dict[str, Path], tmp_path: Path) -> None:
    make_scenes(tmp_path, pairs=2, photos=1, tests=1, size=(24, 32))
    make_scenes(tmp_path, **COUNTS)
    assert _digests(tmp_path) == _digests(made["raw"])


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
