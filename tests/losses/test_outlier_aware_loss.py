"""The two parts of SYENet's loss against their definitions in NumPy and values of the public classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semiisp_plugin.losses.cosine_loss import CosineLoss
from semiisp_plugin.losses.outlier_aware_loss import OutlierAwareLoss


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target, as the values of the public classes were taken with."""
    rng = np.random.RandomState(500)
    low, high = rng.uniform(-0.1, 1.1, (2, 3, 5, 7)), rng.uniform(0, 1, (2, 3, 5, 7))
    return torch.from_numpy(low), torch.from_numpy(high)


def test_outliers_count_more():
    pred, target = images()
    d = pred.numpy() - target.numpy()
    mean, std = d.mean((2, 3), keepdims=True), d.std((2, 3), keepdims=True, ddof=1)
    weight = 1 - np.exp(-np.abs(d - mean) * np.sqrt(2) / std)
    expected = (np.abs(d) * weight).mean((1, 2, 3))
    np.testing.assert_allclose(OutlierAwareLoss(2.0, reduction="none")(pred, target), 2 * expected, rtol=1e-12)
    assert expected.tolist() == pytest.approx([0.3063412479037055, 0.27472919933697915], rel=1e-12)  # the public class


def test_the_weight_has_no_gradient():
    pred, target = images()
    pred.requires_grad_()
    OutlierAwareLoss(reduction="sum")(pred, target).backward()
    d = (pred - target).detach()
    weight = 1 - torch.exp(-(d - d.mean((2, 3), True)).abs() * 2**0.5 / d.std((2, 3), keepdim=True))
    torch.testing.assert_close(pred.grad, weight * d.sign() / d[0].numel(), rtol=0, atol=1e-12)


def test_equal_differences_give_zero_and_a_finite_gradient():
    pred = (images()[1] + 0.25).requires_grad_()
    loss = OutlierAwareLoss()(pred, pred.detach())
    loss.backward()
    assert loss.item() == 0
    assert pred.grad.isfinite().all()


def test_cosine_between_colours():
    pred, target = images()
    a, b = pred.numpy().clip(0, 1), target.numpy()
    cosine = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    expected = 1 - cosine.mean((1, 2))
    np.testing.assert_allclose(CosineLoss(0.5, reduction="none")(pred, target), 0.5 * expected, rtol=1e-9)
    assert expected.tolist() == pytest.approx([0.23756812426372315, 0.2150216679966741], rel=1e-9)  # the public class
    torch.testing.assert_close(CosineLoss()(0.5 * target, target).item(), 0.0, rtol=0, atol=1e-12)
    black = torch.zeros(1, 3, 4, 4, requires_grad=True)
    CosineLoss()(black, target[:1, :, :4, :4]).backward()
    assert black.grad.isfinite().all()
