"""One value a sample, also from BasicSR's own losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semiisp_plugin.losses.per_sample import REDUCTIONS, per_sample
from semiisp_plugin.toolbox import build_loss


def random_images(n: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, n, 3, 5, 7, generator=generator, dtype=torch.float64)
    return pred, target


PIXEL_LOSSES = {
    "L1Loss": lambda x, y: np.abs(x - y),
    "MSELoss": lambda x, y: (x - y) ** 2,
    "CharbonnierLoss": lambda x, y: np.sqrt((x - y) ** 2 + 1e-12),
}


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_basicsr_pixel_losses_give_one_value_a_sample(name):
    pred, target = random_images()
    loss = build_loss({"type": name, "loss_weight": 0.5, "reduction": "none"})
    values = per_sample(loss(pred, target))
    expected = [0.5 * PIXEL_LOSSES[name](x, y).mean() for x, y in zip(pred.numpy(), target.numpy(), strict=True)]
    assert values.shape == (3,)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-12)
    # ... whose mean is what the same loss gives with its usual reduction.
    usual = build_loss({"type": name, "loss_weight": 0.5, "reduction": "mean"})(pred, target)
    assert values.mean().item() == pytest.approx(usual.item(), rel=1e-12)


@pytest.mark.parametrize("name", PIXEL_LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_loss_is_refused_with_the_fix(name, reduction):
    loss = build_loss({"type": name, "reduction": reduction})
    with pytest.raises(ValueError, match="reduction: none"):
        per_sample(loss(*random_images()))


def test_samples_do_not_mix():
    pred, target = random_images()
    pred.requires_grad_()
    values = per_sample(build_loss({"type": "MSELoss", "reduction": "none"})(pred, target))
    values[1].backward()
    assert torch.count_nonzero(pred.grad[0]) == 0
    assert torch.count_nonzero(pred.grad[2]) == 0
    torch.testing.assert_close(pred.grad[1], 2 * (pred - target)[1].detach() / (3 * 5 * 7))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 3), (1, 3, 5, 7)])
def test_any_shape_with_a_batch_axis(shape):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    expected = [sample.mean() for sample in values.numpy()]
    np.testing.assert_allclose(per_sample(values).numpy(), expected, rtol=1e-6)


def test_half_precision_is_averaged_in_float32():
    values = torch.full((2, 3, 32, 32), 1e-3, dtype=torch.bfloat16)
    values[1, :, ::2] = 3e-3
    result = per_sample(values)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), values.double().flatten(1).mean(1).numpy(), rtol=1e-6)


def test_nan_stays_in_its_sample():
    values = torch.ones(3, 4)
    values[1, 2] = torch.nan
    np.testing.assert_array_equal(per_sample(values).numpy(), [1, np.nan, 1])


def test_empty_samples_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 0, 4\)"):
        per_sample(torch.zeros(2, 0, 4))


@pytest.mark.parametrize("name", ["PooledL1Loss", "SSIMLoss"])
def test_the_plugins_losses_share_reductions_and_checks(name):
    generator = torch.Generator().manual_seed(2)
    pred, target = torch.rand(2, 3, 3, 16, 16, generator=generator)
    by_reduction = {
        reduction: build_loss({"type": name, "loss_weight": 0.3, "reduction": reduction})(pred, target)
        for reduction in REDUCTIONS
    }
    none = by_reduction["none"]
    assert none.shape == (3,)
    assert len(set(none.tolist())) == 3
    torch.testing.assert_close(by_reduction["mean"], none.mean())
    torch.testing.assert_close(by_reduction["sum"], none.sum())
    torch.testing.assert_close(
        build_loss({"type": name, "loss_weight": 0.6, "reduction": "none"})(pred, target), 2 * none
    )
    with pytest.raises(ValueError, match=f"{name}: unknown `reduction: average`"):
        build_loss({"type": name, "reduction": "average"})
    with pytest.raises(ValueError, match=r"the target \(1, 3, 16, 16\)"):
        build_loss({"type": name})(pred, target[:1])
    with pytest.raises(TypeError, match="loss_wieght"):
        build_loss({"type": name, "loss_wieght": 1.0})
