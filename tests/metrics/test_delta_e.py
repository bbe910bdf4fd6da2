"""Colour differences against formulae written down from the standards, and published test data."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import deltaE_cie76, deltaE_ciede94, deltaE_ciede2000, rgb2lab

from semiisp_plugin.metrics import calculate_delta_e
from semiisp_plugin.toolbox import calculate_metric


def rgb_pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    target = rng.integers(0, 256, (12, 14, 3))
    return np.clip(target + rng.integers(-40, 41, target.shape), 0, 255).astype(np.uint8), target.astype(np.uint8)


def lab(image: np.ndarray) -> np.ndarray:
    """sRGB to L*a*b*, D65, from IEC 61966-2-1 and CIE 15."""
    v = image / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    t = xyz / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def test_cie76_is_the_distance_in_lab_and_the_default():
    pred, target = rgb_pair()
    expected = np.linalg.norm(lab(pred) - lab(target), axis=-1).mean()
    assert calculate_delta_e(pred[..., ::-1], target[..., ::-1]) == pytest.approx(expected, rel=2e-4)


def test_cie94_from_its_definition():
    """Graphic arts; chroma of the ground truth."""
    pred, target = rgb_pair()
    x, y = lab(target), lab(pred)
    c1, c2 = (np.hypot(image[..., 1], image[..., 2]) for image in (x, y))
    dl, dc = x[..., 0] - y[..., 0], c1 - c2
    dh2 = ((x - y)[..., 1:] ** 2).sum(-1) - dc**2
    expected = np.sqrt(dl**2 + (dc / (1 + 0.045 * c1)) ** 2 + dh2 / (1 + 0.015 * c1) ** 2).mean()
    value = calculate_delta_e(pred[..., ::-1], target[..., ::-1], formula="cie94")
    assert value == pytest.approx(expected, rel=2e-4)
    assert calculate_delta_e(target[..., ::-1], pred[..., ::-1], formula="cie94") != pytest.approx(expected, rel=1e-3)


def test_scikit_images_ciede2000_is_right_on_published_pairs():
    """Rows 1, 7, 13, 17 and 25 of Table 1 in Sharma, Wu, Dalal, Color Research and Application 30 (2005)."""
    first = [[50, 2.6772, -79.7751], [50, 0, 0], [50, 2.5, 0], [50, 2.5, 0], [60.2574, -34.0099, 36.2677]]
    second = [[50, 0, -82.7485], [50, -1, 2], [50, 0, -2.5], [73, 25, -18], [60.4626, -34.1751, 39.4387]]
    values = deltaE_ciede2000(np.array(first), np.array(second))
    np.testing.assert_allclose(values, [2.0425, 2.3669, 4.3065, 27.1492, 1.2644], atol=5e-5)


@pytest.mark.parametrize("formula", ["cie76", "cie94", "ciede2000"])
def test_matches_scikit_image(formula):
    pred, target = rgb_pair()
    function = {"cie76": deltaE_cie76, "cie94": deltaE_ciede94, "ciede2000": deltaE_ciede2000}[formula]
    expected = function(rgb2lab(target), rgb2lab(pred)).mean()
    bgr = [image[..., ::-1] for image in (pred, target)]
    assert calculate_delta_e(*bgr, formula=formula) == pytest.approx(expected, rel=1e-6)
    floats = [image.astype(np.float32) for image in bgr]
    assert calculate_delta_e(*floats, formula=formula) == pytest.approx(expected, rel=1e-5)
    inner = function(rgb2lab(target)[2:-2, 2:-2], rgb2lab(pred)[2:-2, 2:-2]).mean()
    assert calculate_delta_e(*bgr, formula=formula, crop_border=2) == pytest.approx(inner, rel=1e-6)
    assert calculate_delta_e(bgr[1], bgr[1], formula=formula) == pytest.approx(0, abs=1e-6)


def test_grey_images_have_no_colour_and_their_lightness_counts():
    x, y = np.full((2, 4, 5), [[[100]], [[140]]], np.uint8)
    expected = abs(lab(np.full(3, 100))[0] - lab(np.full(3, 140))[0])
    assert calculate_delta_e(x, y) == pytest.approx(expected, rel=1e-3)


def test_through_the_registry():
    pred, target = rgb_pair()
    options = {"type": "calculate_delta_e", "formula": "ciede2000", "better": "lower"}
    assert calculate_metric({"img": pred, "img2": target}, options) == calculate_delta_e(
        pred, target, formula="ciede2000"
    )
