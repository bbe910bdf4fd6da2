"""Aligning inputs with edited images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from semiisp_plugin.data.align import MIN_ALIGNMENT, align, alignment

HEIGHT, WIDTH = 120, 180


def scene(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """A picture with structure of several sizes, mostly of brightness as in nature, float in [0, 1]."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for size, strength in ((6, 0.5), (20, 0.3), (60, 0.2)):
        coarse = rng.uniform(0, 1, (size * height // width + 1, size, 3)).astype(np.float32)
        coarse = 0.7 * coarse.mean(axis=2, keepdims=True) + 0.3 * coarse
        image += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 1)


def raw_of(image: np.ndarray) -> np.ndarray:
    """As a sensor sees it: dark, linear, green."""
    return np.rint(np.clip(image, 0, 1) ** 2.2 * [20000, 50000, 30000]).astype(np.uint16)


def edit_of(image: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(1.2 * image - 0.05, 0, 1) ** 0.8).astype(np.uint8)


def shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def test_area_resize_to_the_edit():
    image = scene()
    raw, edit = raw_of(image), edit_of(shrink(image, 60, 90))
    aligned = align(raw, edit)
    assert aligned.turns == 0
    assert aligned.score > 0.9
    mean = raw.reshape(60, 2, 90, 2, 3).astype(np.float64).mean((1, 3))
    assert np.abs(aligned.image - mean).max() <= 1
    assert aligned.image.dtype == np.uint16


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_an_edit_that_was_turned(turns):
    image = scene()
    aligned = align(raw_of(image), edit_of(np.rot90(image, turns)))
    assert aligned.turns == turns
    np.testing.assert_array_equal(aligned.image, np.rot90(raw_of(image), turns))


def test_a_border_of_the_sensor_is_cut_without_resampling():
    image = scene()
    aligned = align(raw_of(image), edit_of(image[1:-1, 2:-2]))
    np.testing.assert_array_equal(aligned.image, raw_of(image)[1:-1, 2:-2])


def test_a_border_is_cut_before_shrinking():
    """3 of 180 columns: more than rounding, less than a crop."""
    image = scene()
    aligned = align(raw_of(image), edit_of(shrink(image[:, 1:-2], 60, 88)))
    top, below, left, right = aligned.cut
    assert (top, below) == (0, 0)
    assert abs(left - 1) <= 1  # half a pixel of the edit
    assert abs(right - 2) <= 1
    expected = cv2.resize(raw_of(image)[:, left : 180 - right], (88, 60), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(aligned.image, expected)


@pytest.mark.parametrize(
    "cut", [(0, 18, 0, 22), (18, 0, 22, 0), (0, 7, 0, 0), (0, 0, 13, 2), (3, 8, 0, 19), (4, 4, 6, 6)]
)
def test_a_border_is_cut_where_it_lies(cut):
    """Above, below, left and right: not in the middle."""
    image = scene(700, 1000)
    top, below, left, right = cut
    aligned = align(raw_of(image), edit_of(image[top : 700 - below, left : 1000 - right]))
    assert aligned.cut == cut
    np.testing.assert_array_equal(aligned.image, raw_of(image)[top : 700 - below, left : 1000 - right])
    assert aligned.notes[-1].endswith(f"{top} above, {below} below, {left} left, {right} right")


@pytest.mark.parametrize("cut", [(0, 18, 0, 22), (9, 3, 20, 0)])
def test_a_border_of_an_image_that_was_shrunk(cut):
    """To within half a pixel of the edited image."""
    image = scene(700, 1000)
    top, below, left, right = cut
    part = image[top : 700 - below, left : 1000 - right]
    aligned = align(raw_of(image), edit_of(shrink(part, round(part.shape[0] / 2.5), round(part.shape[1] / 2.5))))
    assert np.abs(np.subtract(aligned.cut, cut)).max() <= 1


def test_noise_does_not_hide_a_border():
    image, rng = scene(700, 1000), np.random.default_rng(1)
    dark = 0.1 * raw_of(image)
    noisy = rng.normal(dark, 100 + 0.05 * dark).clip(0, 65535).astype(np.uint16)
    assert align(noisy, edit_of(image[:-18, :-22])).cut == (0, 18, 0, 22)


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, 4), (3, 4), (5, 5)])
def test_images_of_one_size_that_are_displaced_are_refused(x, y):
    """By so little that the small versions of both agree."""
    image = scene(700, 1000)
    raw, edit = raw_of(image)[y:, x:], edit_of(image)[: 700 - y, : 1000 - x]
    assert alignment(raw, edit) > MIN_ALIGNMENT
    with pytest.raises(
        ValueError, match=rf"is displaced against the input by {max(x, y)}\.\d pixels.*or leave the pair out"
    ):
        align(raw, edit)
    assert align(raw, edit, min_alignment=-1).cut == (0, 0, 0, 0)


def test_a_lens_correction_is_refused():
    """Of a large image, of which the small versions agree."""
    image = scene(1400, 2000)
    y, x = np.mgrid[:1400, :2000].astype(np.float32) - [[[699.5]], [[999.5]]]
    stretch = 1 + 0.02 * ((x**2 + y**2) / 1220**2 - 0.5)
    maps = ((x * stretch + 999.5).astype(np.float32), (y * stretch + 699.5).astype(np.float32))
    edit = edit_of(cv2.remap(image, *maps, cv2.INTER_LINEAR))
    assert alignment(raw_of(image), edit) > MIN_ALIGNMENT
    with pytest.raises(ValueError, match=r"displaced against the input by \d\.\d pixels.*corrected for the lens"):
        align(raw_of(image), edit)


def test_a_little_straightening_of_a_large_image_is_refused():
    image = scene(1400, 2000)
    edit = edit_of(cv2.warpAffine(image, cv2.getRotationMatrix2D((1000, 700), 0.5, 1), (2000, 1400)))
    assert alignment(raw_of(image), edit) > MIN_ALIGNMENT
    with pytest.raises(ValueError, match=r"displaced against the input by \d+\.\d pixels.*straightened"):
        align(raw_of(image), edit)


def test_a_border_that_could_lie_at_either_side_is_refused():
    """A fence: the same every ten pixels."""
    x = np.arange(1000) % 10
    image = np.repeat(np.tile(0.2 + 0.06 * x, (700, 1))[..., None], 3, axis=2).astype(np.float32)
    image += 0.2 * scene(700, 1000)
    edit = edit_of(image[:, :-22])
    with pytest.raises(
        ValueError, match=r"\(700x1000, height x width\) has more at its border .*\(700x978\).*not clear on which"
    ):
        align(raw_of(image), edit)


@pytest.mark.parametrize("part", [0.9, 0.8, 0.6])
def test_a_crop_is_refused(part):
    image = scene()
    h, w = round(HEIGHT * part), round(WIDTH * part)
    edit = edit_of(shrink(image[5 : 5 + h, 8 : 8 + w], 60, 90))
    with pytest.raises(ValueError, match=r"do not show the same pixels .*Was it cropped"):
        align(raw_of(image), edit)


@pytest.mark.parametrize("angle", [2, -3])
def test_straightening_is_refused(angle):
    image = scene()
    matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), angle, 1 + abs(np.sin(np.radians(angle))) * 1.5)
    edit = edit_of(cv2.warpAffine(image, matrix, (WIDTH, HEIGHT)))
    with pytest.raises(ValueError, match=r"do not show the same pixels .*straightened"):
        align(raw_of(image), edit)


def test_another_photograph_is_refused():
    with pytest.raises(ValueError, match=r"do not show the same pixels \(alignment .*another photograph"):
        align(raw_of(scene()), edit_of(scene(seed=1)))


def test_other_proportions_are_refused_with_both_sizes():
    with pytest.raises(
        ValueError, match=r"\(100x100, height x width\) has other proportions than the input \(120x180\)"
    ):
        align(raw_of(scene()), edit_of(scene()[:100, :100]))


def test_enlarging_is_refused():
    with pytest.raises(ValueError, match=r"\(240x360, height x width\) is larger than the input \(120x180\)"):
        align(raw_of(scene()), edit_of(scene(240, 360)))


def test_without_a_threshold_the_size_alone_counts():
    edit = edit_of(scene(seed=1))
    aligned = align(raw_of(scene()), edit, min_alignment=-1)
    assert aligned.turns == 0
    assert aligned.score < MIN_ALIGNMENT


def test_alignment_is_of_structure_not_of_brightness():
    image = scene()
    assert alignment(raw_of(image), edit_of(image)) > 0.9
    assert alignment(image, 255 - edit_of(image)) < -0.9
    assert alignment(image, np.full_like(image, 0.5)) == 0


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("least", [-1, 0, MIN_ALIGNMENT])
def test_the_orientation_is_found_however_little_is_asked_for(turns, least):
    whole = scene(HEIGHT, HEIGHT)
    made = align(np.rot90(raw_of(whole), -turns), edit_of(whole), min_alignment=least)
    assert made.turns % 4 == turns
    assert made.score > MIN_ALIGNMENT
