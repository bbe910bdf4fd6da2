"""The compiled inverse of crops against the exact inverse in double precision, on whole pictures."""

import math

import numpy as np
import pytest
import torch

from semiisp_plugin.isp import InvertibleISP, ISPSpec, compiled
from semiisp_plugin.isp.compiled import invert_crops

numba = pytest.importorskip("numba")

KINDS = {
    "raw": {},
    "raw, four parameters": {"tie_xy": False, "base_matrix": ((0.6, 0.3, 0.1), (0.2, 0.7, 0.1), (0.1, 0.1, 0.8))},
    "enhancement": {"inverse_tone_mapping": True, "gamma_start": 1.0},
    "enhancement, four parameters": {"inverse_tone_mapping": True, "gamma_start": 1.0, "tie_xy": False},
}


def inverted(*arguments) -> torch.Tensor | None:
    """The images of `invert_crops`."""
    made = invert_crops(*arguments)
    return None if made is None else made[0]


def sets_of(spec: ISPSpec, grid: tuple[int, int], n: int = 2, spread: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(grid))
    return spec.squash(spread * torch.randn(n, spec.n_parameters, *grid, generator=generator))


def images_of(height: int, width: int, n: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (4, 1), (5, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_images(kind, grid):
    spec = ISPSpec(**KINDS[kind])
    sets, images = sets_of(spec, grid), images_of(40, 61)
    exact = InvertibleISP(spec).inverse(images.double() / 255, sets.double()).image
    found = inverted(spec, images, sets)
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 5e-6
    assert float((found - exact).abs().mean()) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "enhancement"])
def test_crops_flipped_and_transposed(kind):
    """The place of a crop, given by hand, is that of the pixels cut out of the whole inverse."""
    spec = ISPSpec(**KINDS[kind])
    sets, images = sets_of(spec, (3, 4), 1), images_of(40, 60, 1)
    whole = InvertibleISP(spec).inverse(images.double() / 255, sets.double()).image
    # Rows 10 to 30 of 40, columns 30 to 45 of 60: half and a quarter of the sides, their middles at 0 and 0.25.
    cut = (slice(None), slice(None), slice(10, 30), slice(30, 45))
    upright = torch.tensor([[0.25, 0.0, 0.25], [0.0, 0.5, 0.0]])
    for flipped, transposed in ((False, False), (True, False), (False, True), (True, True)):
        place, pixels, expected = upright.clone(), images[cut], whole[cut]
        if transposed:
            place, pixels, expected = place[:, [1, 0, 2]], pixels.transpose(2, 3), expected.transpose(2, 3)
        if flipped:  # upside down: v changes its sign
            place[:, 1] *= -1
            pixels, expected = pixels.flip(2), expected.flip(2)
        found = inverted(spec, pixels, sets, place[None])
        assert float((found - expected).abs().max()) < 5e-6


def test_black_stays_black_and_extreme_sets_stay_in_range():
    for kind in KINDS:
        spec = ISPSpec(**KINDS[kind])
        sets = sets_of(spec, (2, 2), 8, spread=3.0)
        found = inverted(spec, images_of(20, 30, 8), sets)
        assert bool(((found >= 0) & (found <= 1)).all())
        black = inverted(spec, torch.zeros(8, 3, 4, 5, dtype=torch.uint8), sets)
        assert not black.any()


def test_any_memory_layout():
    spec = ISPSpec()
    sets, images = sets_of(spec, (2, 3)), images_of(18, 25)
    expected = inverted(spec, images, sets)
    assert torch.equal(inverted(spec, images.to(memory_format=torch.channels_last), sets), expected)
    strided = images_of(18, 50)[:, :, :, ::2]
    assert torch.equal(inverted(spec, strided, sets), inverted(spec, strided.contiguous(), sets))


def test_what_is_left_to_the_tensors(monkeypatch):
    spec, images = ISPSpec(), images_of(8, 8)
    sets = sets_of(spec, (2, 2))
    assert inverted(spec, images.float() / 255, sets) is None
    assert inverted(spec, images, sets.double()) is None
    broken = sets.clone()
    broken[1, 0, 0, 0] = math.nan
    assert inverted(spec, images, broken) is None
    minus = ISPSpec(inverse_tone_mapping=True, it_sign=-1)
    assert inverted(minus, images, sets_of(minus, (2, 2))) is None
    monkeypatch.setattr(compiled, "kernel", lambda name: None)
    assert inverted(spec, images, sets) is None


def test_turned_places_are_errors():
    c, s = math.cos(0.3), math.sin(0.3)
    turned = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]])
    spec = ISPSpec()
    with pytest.raises(ValueError, match="turned by less than a right angle"):
        inverted(spec, images_of(8, 8, 1), sets_of(spec, (2, 2), 1), turned)


def test_one_pixel():
    spec = ISPSpec()
    sets, images = sets_of(spec, (3, 3), 1), images_of(9, 9, 1)
    whole = InvertibleISP(spec).inverse(images.double() / 255, sets.double()).image
    place = torch.tensor([[[0.0, 0.0, 2 * 5.5 / 9 - 1], [0.0, 0.0, 2 * 2.5 / 9 - 1]]])
    found = inverted(spec, images[:, :, 2:3, 5:6], sets, place)
    np.testing.assert_allclose(found.numpy(), whole[:, :, 2:3, 5:6].numpy(), atol=5e-6)


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_clipped_share_is_that_of_the_tensors(spread):
    for settings in KINDS.values():
        spec = ISPSpec(**settings)
        images, sets = images_of(40, 50, 3), sets_of(spec, (2, 3), 3, spread)
        made = invert_crops(spec, images, sets)
        exact = InvertibleISP(spec).inverse(images.double() / 255, sets.double())
        # A value at the very limit may fall on either side of it.
        assert (made[1] - exact.clipped).abs().max() <= 5 / images[0].numel()
