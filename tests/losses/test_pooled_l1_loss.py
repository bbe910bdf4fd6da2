"""Equation 14 against loops over NumPy windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semiisp_plugin.losses.pooled_l1_loss import PooledL1Loss, pooled_l1


def window_means(image: np.ndarray, size: int) -> np.ndarray:
    """Means of the whole ``size`` x ``size`` windows of a CHW image, side by side."""
    channels, height, width = image.shape
    kh, kw = min(size, height), min(size, width)
    rows, columns = height // kh, width // kw
    result = np.empty((channels, rows, columns))
    for c in range(channels):
        for i in range(rows):
            for j in range(columns):
                result[c, i, j] = image[c, i * kh : (i + 1) * kh, j * kw : (j + 1) * kw].mean()
    return result


def reference(x: np.ndarray, y: np.ndarray, sizes: tuple[int, ...]) -> float:
    total = np.abs(x - y).mean()
    for size in sizes:
        total += np.abs(window_means(x, size) - window_means(y, size)).mean()
    return float(total)


@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (128, 128, (16, 32, 64)),  # the paper's crop for denoising
        (96, 70, (16, 32, 64)),  # no multiple: what is left over counts in the first term alone
        (40, 100, (16, 32, 64)),  # one axis smaller than the largest kernel
        (9, 7, (16, 32, 64)),  # both axes smaller than all
        (12, 12, (1, 5)),
        (12, 12, ()),
    ],
)
def test_matches_plain_loops(height, width, sizes):
    generator = torch.Generator().manual_seed(height)
    pred, target = torch.rand(2, 2, 3, height, width, generator=generator, dtype=torch.float64)
    expected = [reference(x, y, sizes) for x, y in zip(pred.numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(pooled_l1(pred, target, sizes).numpy(), expected, rtol=1e-12)


def test_constant_offset_counts_once_a_scale():
    target = torch.full((1, 3, 64, 64), 0.5)
    assert PooledL1Loss()(target + 0.1, target).item() == pytest.approx(0.4, rel=1e-5)


def test_zero_mean_noise_counts_in_the_first_term_alone():
    target = torch.full((1, 3, 64, 64), 0.5)
    checkers = 0.1 * (-1.0) ** torch.arange(64)
    assert PooledL1Loss()(target + checkers, target).item() == pytest.approx(0.1, rel=1e-5)


def test_gradient_matches_finite_differences():
    generator = torch.Generator().manual_seed(3)
    pred, target = torch.rand(2, 1, 1, 6, 6, generator=generator, dtype=torch.float64)
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pooled_l1(x, target, (2, 4)), (pred,))


def test_half_precision_input_is_compared_in_float32():
    generator = torch.Generator().manual_seed(4)
    pred, target = torch.rand(2, 2, 3, 64, 64, generator=generator).bfloat16()
    result = PooledL1Loss(reduction="none")(pred, target)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, pooled_l1(pred.double(), target.double()).float(), rtol=1e-5, atol=0)


def test_kernels_below_one_are_refused():
    with pytest.raises(ValueError, match="kernel_sizes"):
        PooledL1Loss(kernel_sizes=[16, 0])
