"""Negated PSNR against NumPy, scikit-image, and values of NAFNet's own class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from semiisp_plugin.losses.psnr_loss import PSNRLoss


def two_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target, (2, 3, 4, 5), as the values of NAFNet's class were taken with."""
    target = torch.arange(120, dtype=torch.float64).reshape(2, 3, 4, 5) / 120
    return (target * 0.9 + 0.02 * torch.sin(7 * target)).float(), target.float()


def test_matches_numpy_a_sample_at_a_time():
    pred, target = two_images()
    error = ((pred.double().numpy() - target.double().numpy()) ** 2).mean(axis=(1, 2, 3))
    values = PSNRLoss(loss_weight=0.5, reduction="none")(pred, target)
    np.testing.assert_allclose(values, 0.5 * 10 * np.log10(error + 1e-8), rtol=1e-6)
    assert PSNRLoss()(pred, target).item() == pytest.approx(float(2 * values.mean()), rel=1e-6)
    assert PSNRLoss(reduction="sum")(pred, target).item() == pytest.approx(float(2 * values.sum()), rel=1e-6)


def test_matches_nafnets_class():
    """Recorded from NAFNet's PSNRLoss on each of the two images."""
    pred, target = two_images()
    assert PSNRLoss(reduction="none")(pred, target).tolist() == pytest.approx([-32.924808, -21.414688], rel=1e-6)


def test_is_minus_psnr_where_images_differ_visibly():
    rng = np.random.default_rng(0)
    target = rng.random((3, 16, 16))
    pred = np.clip(target + 0.05 * rng.standard_normal(target.shape), 0, 1)
    value = PSNRLoss()(torch.from_numpy(pred)[None], torch.from_numpy(target)[None]).item()
    assert value == pytest.approx(-peak_signal_noise_ratio(target, pred, data_range=1), abs=2e-5)


def test_equal_images_have_a_value_and_no_gradient():
    image = two_images()[0].requires_grad_()
    value = PSNRLoss()(image, image.detach().clone())
    value.backward()
    assert value.item() == pytest.approx(-80, abs=1e-5)
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_gradient_matches_finite_differences_also_next_to_equality():
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for distance in (0.1, 1e-4):
        pred = (
            target + distance * torch.randn(target.shape, generator=generator, dtype=torch.float64)
        ).requires_grad_()
        loss = PSNRLoss(reduction="none")
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), (pred,), eps=1e-8, atol=1e-3, rtol=1e-4)


def test_gradient_is_largest_where_it_should_be_and_finite():
    """d/dx of 10/ln10 ln(x^2 + 1e-8) is largest at x = 1e-4: 10/ln10 * 1e4."""
    pred = torch.full((1, 1, 1, 1), 1e-4, dtype=torch.float64, requires_grad=True)
    PSNRLoss()(pred, torch.zeros(1, 1, 1, 1, dtype=torch.float64)).backward()
    assert pred.grad.item() == pytest.approx(10 / math.log(10) * 1e4)


def test_half_precision_is_compared_in_float32():
    pred, target = (x.bfloat16() for x in two_images())
    result = PSNRLoss(reduction="none")(pred, target)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, PSNRLoss(reduction="none")(pred.double(), target.double()).float())
