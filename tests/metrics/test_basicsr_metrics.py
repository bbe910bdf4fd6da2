"""BasicSR's PSNR and SSIM, which all reports rest on, hold on the installed NumPy and OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from semiisp_plugin.losses.ssim_loss import ssim
from semiisp_plugin.toolbox import calculate_metric, calculate_psnr, calculate_ssim


def pair(seed: int, height: int = 37, width: int = 50) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / width
    target = 127 + 100 * np.sin(8 * x[..., None] + 6 * y[..., None] + np.arange(3))
    pred = np.clip(0.85 * target + generator.normal(0, 15, target.shape), 0, 255)
    return pred.astype(np.uint8), target.astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crop_border", [0, 3])
def test_agree_with_scikit_image(seed, crop_border):
    pred, target = pair(seed)
    inner = slice(crop_border, -crop_border or None)
    x, y = (image[inner, inner].astype(np.float64) for image in (pred, target))
    psnr = calculate_psnr(pred, target, crop_border=crop_border)
    assert psnr == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255), rel=1e-12)
    assert psnr == pytest.approx(10 * np.log10(255**2 / np.mean((x - y) ** 2)), rel=1e-12)
    expected = structural_similarity(
        x, y, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert 0.2 < expected < 0.95
    assert calculate_ssim(pred, target, crop_border=crop_border) == pytest.approx(expected, rel=1e-10)


def test_the_loss_and_the_metric_are_one_ssim():
    pred, target = pair(5)
    tensors = (torch.from_numpy(image / 255).permute(2, 0, 1)[None] for image in (pred, target))
    assert ssim(*tensors).item() == pytest.approx(calculate_ssim(pred, target, crop_border=0), rel=1e-10)


def test_through_the_registry_and_with_planes_first():
    pred, target = pair(1)
    data = {"img": pred, "img2": target}
    opt = {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False, "better": "higher"}
    assert calculate_metric(data, opt) == calculate_psnr(pred, target, crop_border=0)
    planes = (image.transpose(2, 0, 1) for image in (pred, target))
    assert calculate_ssim(*planes, crop_border=0, input_order="CHW") == calculate_ssim(pred, target, crop_border=0)


def test_extremes():
    pred, target = pair(2)
    assert calculate_psnr(target, target, crop_border=0) == float("inf")
    assert calculate_ssim(target, target, crop_border=0) == pytest.approx(1, abs=1e-12)
    black, white = np.zeros_like(pred), np.full_like(pred, 255)
    assert calculate_psnr(black, white, crop_border=0) == pytest.approx(0, abs=1e-12)


def test_y_channel_is_bt601_of_bgr():
    pred, target = pair(3)
    weights = np.array([24.966, 128.553, 65.481]) / 255
    x, y = (image @ weights for image in (pred, target))
    expected = 10 * np.log10(255**2 / np.mean((x - y) ** 2))
    assert calculate_psnr(pred, target, crop_border=0, test_y_channel=True) == pytest.approx(expected, abs=1e-4)
