"""The Gaussian process between latents, against the sheet's formulas in NumPy, one latent at a time."""

import numpy as np
import pytest
import torch

from semiisp_plugin.losses.gaussian_process import gp_loss


def by_hand(z: np.ndarray, bank: np.ndarray, n: int) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)

    def posterior(chosen: np.ndarray) -> tuple[np.ndarray, float]:
        to_bank, inverse = kernel(z[None], chosen), np.linalg.inv(kernel(chosen, chosen) + np.eye(n))
        variance = 1 - to_bank @ inverse @ to_bank.T + 1
        return (to_bank @ inverse @ chosen)[0], variance.item()

    order = np.argsort(kernel(z[None], bank)[0])
    mean, variance = posterior(bank[order[-n:]])
    _, of_farthest = posterior(bank[order[:n]])
    return ((z - mean) ** 2 / variance).mean() + 0.33 * np.log(variance) - 0.33e-6 * np.log(of_farthest)


def draw(seed: int = 0, size: int = 20, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.randn(6 + size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return latents[:6], latents[6:]


@pytest.mark.parametrize("neighbours", [1, 3, 8, 20])
def test_against_the_formulas(dtype, neighbours):
    latents, bank = draw()
    expected = [by_hand(z.numpy(), bank.numpy(), neighbours) for z in latents]
    found = gp_loss(latents.to(dtype), bank.to(dtype), neighbours)
    assert found.dtype == dtype
    assert found.tolist() == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-12)


def test_one_neighbour_with_numbers():
    """z = (3, 4), its neighbour (6, 8): k = 1, the mean is half of (6, 8), the variance 2 - 1/2."""
    bank = torch.tensor([[6.0, 8.0], [-4.0, 3.0]])
    expected = 0.33 * np.log(1.5) - 0.33e-6 * np.log(2)  # the farthest is at a right angle
    assert gp_loss(torch.tensor([[3.0, 4.0]]), bank, 1).item() == pytest.approx(expected, rel=1e-6)
    assert gp_loss(torch.tensor([[3.0, 7.0]]), bank, 1).item() > expected + 1


def test_half_precision_is_not_kept():
    latents, bank = draw()
    assert gp_loss(latents.bfloat16(), bank.float()).dtype == torch.float32
    torch.testing.assert_close(gp_loss(latents.half(), bank.half()).double(), gp_loss(latents, bank), rtol=1e-2, atol=0)


def test_gradient():
    latents, bank = draw()
    assert torch.autograd.gradcheck(lambda z: gp_loss(z, bank, 4), latents.requires_grad_())


def test_latents_that_are_alike_zero_or_not_finite():
    """A bank of one latent many times over is no singular matrix; a bad latent spoils its own loss alone."""
    bank = torch.ones(9, 3)
    latents = torch.tensor([[1.0, 2, 3], [0, 0, 0], [torch.nan, 1, 1]])
    found = gp_loss(latents, bank)
    assert found.isfinite().tolist() == [True, True, False]
    assert gp_loss(latents[:0], bank).shape == (0,)
