"""PSNR of floats against NumPy, and where it is BasicSR's."""

from __future__ import annotations

import numpy as np
import pytest

from semiisp_plugin.metrics import calculate_psnr_float
from semiisp_plugin.toolbox import calculate_metric, calculate_psnr


def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (20, 30, 3)).astype(np.float64)
    return target + rng.normal(0, 20, target.shape), target


def test_as_the_low_light_benchmarks_compute_it():
    """On float32 in [0, 1], clipped."""
    pred, target = pair()
    x, y = (np.clip(image / 255, 0, 1).astype(np.float32) for image in (pred, target))
    expected = 10 * np.log10(1 / np.mean((x - y) ** 2, dtype=np.float64))
    assert calculate_psnr_float(pred, target) == pytest.approx(expected, abs=1e-5)
    assert abs(calculate_psnr(pred.clip(0, 255).round(), target, crop_border=0) - expected) > 1e-4


def test_rounding_is_what_differs():
    """Errors below half a level are invisible in 8 bits."""
    target = np.full((16, 16, 3), 100.0)
    assert calculate_psnr_float(target + 0.3, target) == pytest.approx(20 * np.log10(255 / 0.3))


@pytest.mark.parametrize("options", [{}, {"crop_border": 3}, {"test_y_channel": True}])
def test_of_8_bits_it_is_basicsrs(options):
    pred, target = (image.clip(0, 255).astype(np.uint8) for image in pair())
    expected = calculate_psnr(pred, target, **{"crop_border": 0, **options})
    assert calculate_psnr_float(pred, target, **options) == pytest.approx(expected, abs=1e-9)


def test_through_the_registry_and_extremes():
    pred, target = pair()
    options = {"type": "calculate_psnr_float", "crop_border": 0, "test_y_channel": False, "better": "higher"}
    assert calculate_metric({"img": pred, "img2": target}, options) == calculate_psnr_float(pred, target)
    assert calculate_psnr_float(target, target) == np.inf
    with pytest.raises(ValueError, match="differ in shape"):
        calculate_psnr_float(pred, target[1:])
    with pytest.raises(ValueError, match="crop_border: 10"):
        calculate_psnr_float(pred, target, crop_border=10)
