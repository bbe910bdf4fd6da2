"""The bilateral slice against plain loops.

On the same kind of input the public JAX function (github.com/google/hdrnet, jax/bilateral_slice.py), run in float64 and
without its smoothing of the absolute value, gave the same numbers to 1e-14; with the smoothing, of 1e-8, to 1e-4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.archs.bilateral_slice import slice_and_apply


def by_loops(grid: np.ndarray, guide: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(12, D, h, w), (H, W), (3, H, W) -> (3, H, W)."""
    _, *cells = grid.shape
    _, height, width = image.shape
    out = np.zeros_like(image)
    for y, x in np.ndindex(height, width):
        place = np.array([guide[y, x] * cells[0], (y + 0.5) * cells[1] / height, (x + 0.5) * cells[2] / width])
        first = np.floor(place - 0.5).astype(int)
        affine = np.zeros(12)
        for corner in np.ndindex(2, 2, 2):
            at = first + corner
            weight = np.prod(1 - np.abs(at + 0.5 - place))
            z, row, column = np.clip(at, 0, np.array(cells) - 1)
            affine += weight * grid[:, z, row, column]
        for colour in range(3):
            out[colour, y, x] = sum(affine[3 * i + colour] * image[i, y, x] for i in range(3)) + affine[9 + colour]
    return out


def inputs(height: int, width: int, cells: tuple[int, int, int] = (8, 4, 6)) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    guide = rng.uniform(0, 1, (2, 1, height, width))
    guide[..., 0], guide[..., -1] = 0, 1
    arrays = rng.normal(size=(2, 12, *cells)), guide, rng.uniform(0, 1, (2, 3, height, width))
    grid, guides, image = (torch.from_numpy(array) for array in arrays)
    return grid, guides, image


def test_it_is_trilinear_and_affine() -> None:
    for size, cells in (((13, 17), (8, 4, 6)), ((3, 2), (5, 4, 4)), ((1, 1), (1, 1, 1)), ((9, 30), (2, 16, 16))):
        grid, guide, image = inputs(*size, cells)
        out = slice_and_apply(grid, guide, image, (0, 0), size)
        for n in range(2):
            expected = by_loops(grid[n].numpy(), guide[n, 0].numpy(), image[n].numpy())
            np.testing.assert_allclose(out[n].numpy(), expected, rtol=0, atol=1e-12)


def test_parts_make_the_whole() -> None:
    grid, guide, image = inputs(13, 17)
    whole = slice_and_apply(grid, guide, image, (0, 0), (13, 17))
    part = slice_and_apply(grid, guide[..., 4:9, 6:], image[..., 4:9, 6:], (4, 6), (13, 17))
    torch.testing.assert_close(part, whole[..., 4:9, 6:], rtol=0, atol=1e-12)


def test_gradients() -> None:
    grid, guide, image = (value[:1].requires_grad_() for value in inputs(3, 4, (3, 2, 2)))
    guide = (0.1 + 0.8 * guide).detach().requires_grad_()  # away from the clamps
    assert torch.autograd.gradcheck(lambda *them: slice_and_apply(*them, (0, 0), (3, 4)), (grid, guide, image))


def test_nan_stays_where_it_is() -> None:
    grid, guide, image = inputs(6, 5)
    image[0, 1, 2, 3] = guide[1, 0, 4, 1] = float("nan")
    grid.requires_grad_()
    out = slice_and_apply(grid, guide, image, (0, 0), (6, 5))
    expected = torch.zeros_like(out, dtype=torch.bool)
    expected[0, :, 2, 3] = expected[1, :, 4, 1] = True
    assert torch.equal(out.isnan(), expected)
    out.sum().backward()
