"""Smooth L1 against its definition in NumPy, and torch's module."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semiisp_plugin.losses.smooth_l1_loss import SmoothL1Loss


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(3 * torch.rand(2, 3, 7, 5, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.0])
def test_matches_its_definition_and_torch(beta):
    pred, target = images()
    d = np.abs(pred.numpy() - target.numpy())
    with np.errstate(divide="ignore"):
        expected = np.where(d < beta, d**2 / (2 * beta), d - beta / 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(SmoothL1Loss(2.0, beta, reduction="none")(pred, target), 2 * expected, rtol=1e-12)
    expected = torch.nn.SmoothL1Loss(beta=beta)(pred, target)
    assert SmoothL1Loss(beta=beta)(pred, target).item() == pytest.approx(expected.item(), rel=1e-12)


def test_of_images_in_0_to_1_it_is_half_the_squared_error():
    pred, target = (x / 3 for x in images())
    half = (pred - target).square().mean() / 2
    assert SmoothL1Loss()(pred, target).item() == pytest.approx(half.item(), rel=1e-12)


def test_half_precision_is_compared_in_float32():
    pred, target = (x.half() for x in images())
    result = SmoothL1Loss(reduction="none")(pred, target)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, SmoothL1Loss(reduction="none")(pred.double(), target.double()).float())


@pytest.mark.parametrize("beta", [-1, float("inf"), float("nan")])
def test_a_beta_that_is_no_width_is_refused(beta):
    with pytest.raises(ValueError, match=rf"`beta` must be a finite number of 0 or more; got {beta}"):
        SmoothL1Loss(beta=beta)
