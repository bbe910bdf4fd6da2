"""SSIM against scikit-image and against loops over windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from semiisp_plugin.losses.ssim_loss import SSIMLoss, ssim


def image_pair(n: int = 2, height: int = 33, width: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and noisy darker copies, float64, so that SSIM lies well inside (0, 1)."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phase = generator.uniform(0, 6, (n, 3, 1, 1))
    target = 0.5 + 0.4 * np.sin(9 * x + 5 * y + phase)
    pred = np.clip(0.8 * target + generator.normal(0, 0.08, target.shape), 0, 1)
    return torch.from_numpy(pred), torch.from_numpy(target)


def plain_ssim(x: np.ndarray, y: np.ndarray, size: int, sigma: float) -> float:
    """Wang et al.'s equation window by window, one channel, images in [0, 1]."""
    offset = np.arange(size) - (size - 1) / 2
    window = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * sigma**2))
    window /= window.sum()
    values = []
    for i in range(x.shape[0] - size + 1):
        for j in range(x.shape[1] - size + 1):
            a, b = x[i : i + size, j : j + size], y[i : i + size, j : j + size]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            structure = (2 * cov + 9e-4) / (var_a + var_b + 9e-4)
            values.append(luminance * structure)
    return float(np.mean(values))


@pytest.mark.parametrize("size", [(33, 40), (11, 64), (100, 21)])
def test_matches_scikit_image(size):
    pred, target = image_pair(2, *size)
    expected = [
        structural_similarity(
            x, y, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(pred.numpy(), target.numpy(), strict=True)
    ]
    assert 0.2 < min(expected) < max(expected) < 0.95
    np.testing.assert_allclose(ssim(pred, target).numpy(), expected, rtol=1e-11)
    np.testing.assert_allclose(ssim(pred.float(), target.float()).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(SSIMLoss(reduction="none")(pred, target).numpy(), 1 - np.array(expected), rtol=1e-10)


@pytest.mark.parametrize(("size", "sigma"), [(7, 1.0), (3, 0.5), (1, 1.5)])
def test_other_windows_match_plain_loops(size, sigma):
    pred, target = image_pair(1, 12, 10)
    expected = np.mean([plain_ssim(x, y, size, sigma) for x, y in zip(pred[0].numpy(), target[0].numpy(), strict=True)])
    result = SSIMLoss(window_size=size, sigma=sigma)(pred, target)
    assert result.item() == pytest.approx(1 - expected, rel=1e-10)


def test_gradient_matches_finite_differences():
    pred, target = image_pair(1, 6, 5)
    pred = pred[:, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim(x, target[:, :1], window_size=3), (pred,), atol=1e-8)


def test_equal_images_give_zero_and_opposite_ones_more_than_one():
    _, target = image_pair()
    loss = SSIMLoss()
    assert loss(target, target).item() == pytest.approx(0, abs=1e-12)
    assert 1 < loss(1 - target, target).item() <= 2


@pytest.mark.parametrize("seed", range(20))
def test_never_negative(seed):
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    nearly = image + 1e-7 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed + 100))
    assert (SSIMLoss(reduction="none")(nearly, image) >= 0).all()


def test_flat_images_have_finite_gradients():
    pred = torch.zeros(1, 3, 16, 16, requires_grad=True)
    loss = SSIMLoss()(pred, torch.zeros(1, 3, 16, 16))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(pred.grad).all()


def test_autocast_and_half_precision_compute_in_float32():
    pred, target = (image.bfloat16() for image in image_pair())
    expected = ssim(pred.float(), target.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ssim(pred, target), expected, rtol=0, atol=0)
        torch.testing.assert_close(ssim(pred.float(), target.float()), expected, rtol=0, atol=0)


def test_gradient_descent_raises_the_similarity():
    pred, target = image_pair(1)
    pred = pred.clone().requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.02)
    start = SSIMLoss()(pred, target).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = SSIMLoss()(pred, target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * start


def test_small_images_and_bad_options_are_refused():
    with pytest.raises(ValueError, match="10x64"):
        SSIMLoss()(torch.rand(1, 3, 10, 64), torch.rand(1, 3, 10, 64))
    with pytest.raises(ValueError, match="window_size"):
        SSIMLoss(window_size=10)
    with pytest.raises(ValueError, match="sigma"):
        SSIMLoss(sigma=0)
