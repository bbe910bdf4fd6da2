"""Grids of pictures: pictures arrive unchanged at their places, and titles are really drawn and fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from semiisp_plugin.io.image_io import read_image
from semiisp_plugin.report.grids import draw_grid

COLOURS = [[(200, 30, 40), (20, 180, 60)], [(10, 60, 220), (150, 150, 0)]]


def _flat(colour: tuple[int, int, int], height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def _box(grid: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((grid == colour).all(-1))
    box = int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
    assert len(rows) == (box[2] - box[0]) * (box[3] - box[1])
    return box


def _ink(part: np.ndarray) -> int:
    return int((part.max(-1) < 100).sum())


def test_pictures_are_pixel_for_pixel_in_rows_and_columns() -> None:
    grid = draw_grid([[_flat(colour) for colour in row] for row in COLOURS])
    boxes = [[_box(grid, colour) for colour in row] for row in COLOURS]
    for row in boxes:
        for top, left, bottom, right in row:
            assert (bottom - top, right - left) == (20, 30)
    assert boxes[0][0][0] == boxes[0][1][0]
    assert boxes[0][0][1] == boxes[1][0][1]
    assert boxes[1][0][0] == boxes[0][0][2] + 6
    assert boxes[0][1][1] == boxes[0][0][3] + 6
    assert grid.shape == (12 + 2 * 26, 6 + 2 * 36, 3)


def test_a_row_is_as_high_as_its_highest_picture() -> None:
    first, second = COLOURS
    low = draw_grid([[_flat(first[0], 40), _flat(first[1], 20)], [_flat(colour, 10) for colour in second]])
    assert low.shape == (12 + 46 + 16, 6 + 2 * 36, 3)
    assert _box(low, first[1])[0] == _box(low, first[0])[0] + 10
    assert _box(low, second[0])[0] == _box(low, first[0])[2] + 6


def test_every_kind_of_picture_shows_the_same() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    kinds = [
        image,
        image / np.float32(255),
        image / 255.0,
        tensor,
        tensor.float() / 255,
        (tensor.double() / 255).requires_grad_(),
    ]
    grid = draw_grid([kinds])
    for k in range(len(kinds)):
        np.testing.assert_array_equal(grid[12:24, 6 + 22 * k : 22 + 22 * k], image)


def test_values_outside_the_range_and_not_a_number_are_shown() -> None:
    image = np.zeros((1, 4, 3))
    image[0, :, 0] = [np.nan, -2, 7, np.inf]
    np.testing.assert_array_equal(draw_grid([[image]])[12, 6:10, 0], [0, 0, 255, 255])


def test_titles_and_captions_are_drawn_where_they_belong() -> None:
    rows = [[_flat(colour, 40, 120) for colour in row] for row in COLOURS]
    plain = draw_grid(rows)
    titled = draw_grid(
        rows,
        ["input", "target"],
        ["first", "second"],
        captions=[["20.1 dB", None], [None, "25.3 dB"]],
        title="Test pictures",
    )
    assert _ink(plain) == 0
    (top, left, bottom, _), (_, right_left, _, right_right) = (_box(titled, colour) for colour in COLOURS[0])
    second_top, _, second_bottom, _ = _box(titled, COLOURS[1][0])
    # Title and column titles above, row titles left, captions below their own picture only.
    assert _ink(titled[:top, left : left + 120]) > 30
    assert _ink(titled[:top, right_left:]) > 30
    assert _ink(titled[top:bottom, :left]) > 30
    assert _ink(titled[second_top:second_bottom, :left]) > 30
    assert _ink(titled[bottom:second_top, left : left + 120]) > 30
    assert _ink(titled[bottom:second_top, right_left:right_right]) == 0
    assert _ink(titled[second_bottom:, left : left + 120]) == 0
    assert _ink(titled[second_bottom:, right_left:right_right]) > 30
    for edge in (titled[0], titled[-1], titled[:, 0], titled[:, -1]):
        assert edge.min() == 255


def test_long_titles_wrap_inside_the_sheet() -> None:
    rows = [[_flat(COLOURS[0][0], 40, 80), _flat(COLOURS[0][1], 40, 80)]]
    title = "semi-supervised with two hundred photographs and Donaudampfschifffahrtsgesellschaft"
    one = draw_grid(rows, ["a", "b"])
    many = draw_grid(rows, [title, "b"], ["row"], title=title)
    assert many.shape[0] > one.shape[0] + 60
    left = _box(many, COLOURS[0][1])[1]
    head = many[: _box(many, COLOURS[0][0])[0]]
    assert many[:, 0].min() == 255
    assert many[:, -1].min() == 255
    assert _ink(head[:, left:]) > 0


def test_empty_places_and_short_rows_stay_blank() -> None:
    grid = draw_grid([[None, _flat(COLOURS[0][1])], [_flat(COLOURS[1][0])]])
    assert (grid[12:32, 6:36] == 238).all()
    assert (grid[38:58, 42:72] == 238).all()
    assert (grid == 238).all(-1).sum() == 2 * 20 * 30


def test_cell_width_resizes_and_keeps_the_shape() -> None:
    grid = draw_grid([[_flat(COLOURS[0][0], 20, 30), _flat(COLOURS[0][1], 30, 20)]], cell_width=60)
    top, left, bottom, right = _box(grid, COLOURS[0][0])
    assert (bottom - top, right - left) == (40, 60)
    top, left, bottom, right = _box(grid, COLOURS[0][1])
    assert (bottom - top, right - left) == (90, 60)


def test_save_makes_the_folder_and_writes_the_grid(tmp_path: Path) -> None:
    rows = [[_flat(colour) for colour in row] for row in COLOURS]
    grid = draw_grid(rows, ["a", "b"], ["c", "d"], title="e", path=tmp_path / "new" / "grid.png")
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "grid.png"), grid)
