"""sRGB curve and light colours, against published values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2xyz
from skimage.color.colorconv import xyz_from_rgb

from semiisp_plugin.simulation.colour import (
    LUMA,
    SRGB_TO_XYZ,
    illuminant_white,
    linear_to_srgb,
    planckian_xy,
    srgb_to_linear,
)


def _chromaticity(linear_rgb: torch.Tensor) -> tuple[float, float]:
    xyz = torch.tensor(SRGB_TO_XYZ, dtype=torch.float64) @ linear_rgb
    return float(xyz[0] / xyz.sum()), float(xyz[1] / xyz.sum())


def test_srgb_curve_round_trip_and_ends() -> None:
    values = torch.linspace(0, 1, 4001, dtype=torch.float64)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(values)), values, rtol=0, atol=1e-7)
    assert srgb_to_linear(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert (srgb_to_linear(values).diff() > 0).all()


def test_srgb_curve_matches_scikit_image() -> None:
    image = np.random.default_rng(0).random((8, 9, 3))
    linear = srgb_to_linear(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(linear @ xyz_from_rgb.T, rgb2xyz(image), rtol=0, atol=1e-9)


def test_matrix_maps_white_to_d65() -> None:
    x, y, z = np.array(SRGB_TO_XYZ).sum(1)
    assert (x / (x + y + z), y / (x + y + z)) == pytest.approx((0.3127, 0.3290), abs=1e-4)


def test_middle_grey() -> None:
    # 18 % reflectance is sRGB 118 of 255.
    assert float(linear_to_srgb(torch.tensor(0.18))) * 255 == pytest.approx(117.6, abs=0.2)


def test_gradient_is_finite_at_black_and_white() -> None:
    values = torch.tensor([0.0, 1.0], requires_grad=True)
    (srgb_to_linear(values).sum() + linear_to_srgb(values).sum()).backward()
    assert torch.isfinite(values.grad).all()


@pytest.mark.parametrize(
    ("temperature", "x", "y"),
    # Black-body chromaticities of the CIE 1931 observer: illuminant A, and tabulated points of the locus.
    [(2000, 0.5267, 0.4133), (2856, 0.4476, 0.4074), (4000, 0.3805, 0.3768), (6500, 0.3135, 0.3237)],
)
def test_planckian_locus(temperature: float, x: float, y: float) -> None:
    assert planckian_xy(temperature) == pytest.approx((x, y), abs=1e-3)


@pytest.mark.parametrize("temperature", [1666.0, 25001.0, float("nan")])
def test_planckian_locus_refuses_what_it_does_not_cover(temperature: float) -> None:
    with pytest.raises(ValueError, match="1667-25000 K"):
        planckian_xy(temperature)


@pytest.mark.parametrize("temperature", [1667.0, 2500.0, 4000.0, 6500.0, 25000.0])
def test_illuminant_without_tint_lies_on_the_locus(temperature: float) -> None:
    white = illuminant_white(temperature)
    assert _chromaticity(white) == pytest.approx(planckian_xy(temperature), abs=1e-9)
    assert float(white @ torch.tensor(LUMA, dtype=torch.float64)) == pytest.approx(1)


def test_warm_light_is_red_and_cold_light_is_blue() -> None:
    warm, cold = illuminant_white(3000), illuminant_white(9000)
    assert warm[0] > warm[1] > warm[2]
    assert cold[0] < cold[1] < cold[2]


@pytest.mark.parametrize("temperature", [2800.0, 5000.0, 9000.0])
@pytest.mark.parametrize("tint", [-0.01, 0.01])
def test_tint_is_a_distance_in_the_uv_diagram(temperature: float, tint: float) -> None:
    def uv(x: float, y: float) -> np.ndarray:
        return np.array([4 * x, 6 * y]) / (-2 * x + 12 * y + 3)

    tinted = uv(*_chromaticity(illuminant_white(temperature, tint)))
    locus = np.array([uv(*planckian_xy(t)) for t in np.linspace(temperature * 0.9, temperature * 1.1, 2001)])
    nearest = np.linalg.norm(locus - tinted, axis=1).min()
    assert nearest == pytest.approx(abs(tint), rel=0.02)
    green, neutral = illuminant_white(temperature, tint)[1], illuminant_white(temperature)[1]
    assert (green > neutral) == (tint > 0)
