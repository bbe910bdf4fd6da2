"""InvISP: names, sizes, the published formulas, both directions, and the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, seeded
from torch import Tensor, nn

from semiisp_plugin.archs.flow import LUConv
from semiisp_plugin.archs.invisp_arch import InvISP

SMALL: dict[str, Any] = {"num_blocks": 3, "growth": 4}
DARK = torch.tensor([0.0, 1e-7, 1e-5, 2 / 65535, 0.5, 1.0]).double().view(1, 1, 2, 3).repeat(1, 3, 1, 1)


def fill(net: InvISP, seed: int = 0) -> InvISP:
    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        return 0.5 * u if "invconv" in name or parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())

    return filled(net, seed, value)


def test_names_shapes_and_count_are_the_published_ones() -> None:
    net = InvISP()
    assert sum(p.numel() for p in net.parameters()) == 1_413_760
    assert names_and_shapes(net) == (280, "e4a4377bccec1508a08fffe91c055d1621960915b72270cbef99ad5788360e18")
    names = {"operations.0.F.conv1.weight", "operations.7.H.conv5.bias", "operations.7.invconv.sign_s"}
    assert names <= set(net.state_dict())


def test_weights_start_as_published() -> None:
    """Xavier's normal distribution, the last convolution of a block's networks included, and rotations."""
    block = InvISP().operations[0]
    for conv in (block.G.conv4, block.G.conv5):
        outputs, inputs = conv.weight.shape[:2]
        assert conv.weight.std().item() == pytest.approx((2 / (9 * (inputs + outputs))) ** 0.5, rel=0.05)
        assert not conv.bias.any()
    rotation = block.invconv(torch.eye(3).view(3, 3, 1, 1)).view(3, 3)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), rtol=0, atol=1e-5)


# --- pieces ----------------------------------------------------------------------------------------------------------


def matrix_of(conv: LUConv) -> np.ndarray:
    p, lower, upper, sign, log = (getattr(conv, k).detach().numpy() for k in ("p", "lower", "upper", "sign_s", "log_s"))
    return p @ (np.tril(lower, -1) + np.eye(len(p))) @ (np.triu(upper, 1) + np.diag(sign * np.exp(log)))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_invertible_convolution_whatever_its_weights_are(channels: int) -> None:
    conv, x = LUConv(channels).double(), torch.rand(2, channels, 4, 5).double()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(2 * torch.randn_like(parameter))
    matrix = matrix_of(conv)
    np.testing.assert_allclose(conv(x).detach(), np.einsum("ij,njhw->nihw", matrix, x), rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        conv.inverse(x).detach(), np.einsum("ij,njhw->nihw", np.linalg.inv(matrix), x), rtol=1e-9, atol=1e-9
    )
    assert conv.log_determinant(x).item() == pytest.approx(20 * np.linalg.slogdet(matrix)[1])


def dense(network: nn.Module, x: Tensor) -> Tensor:
    for i in (1, 2, 3, 4):
        conv = network.get_submodule(f"conv{i}")
        x = torch.cat([x, F.leaky_relu(F.conv2d(x, conv.weight, conv.bias, padding=1), 0.2)], 1)
    return F.conv2d(x, network.conv5.weight, network.conv5.bias, padding=1)


def test_it_is_the_published_formula() -> None:
    net, raw = fill(InvISP(**SMALL)), torch.rand(2, 3, 9, 12).double()
    x = raw ** (1 / 2.2)
    for block in net.operations:
        x = torch.einsum("ij,njhw->nihw", torch.from_numpy(matrix_of(block.invconv)), x)
        y1 = x[:, :1] + dense(block.F, x[:, 1:])
        s = 0.8 * (2 * torch.sigmoid(dense(block.H, y1)) - 1)
        x = torch.cat([y1, x[:, 1:] * s.exp() + dense(block.G, y1)], 1)
    torch.testing.assert_close(net.develop(raw), x, rtol=0, atol=1e-12)


# --- both directions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("options", [{}, SMALL], ids=["published", "small"])
@torch.no_grad()
def test_there_and_back(options: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    net = (fill(InvISP(**options)) if options else InvISP()).to(dtype)
    for values in (torch.rand(2, 3, 20, 14, generator=seeded()), DARK, 2 * torch.randn(1, 3, 8, 8)):
        values = values.to(dtype)
        torch.testing.assert_close(net(net.develop(values)), values, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(net.develop(net(values)), values, rtol=tolerance, atol=tolerance)


def test_the_power_is_finite_at_zero_and_that_of_the_paper_above_a_step_of_16_bits() -> None:
    net = fill(InvISP(num_blocks=1, growth=1))
    with torch.no_grad():  # the identity
        for parameter in net.parameters():
            parameter.zero_()
        net.operations[0].invconv.p.copy_(torch.eye(3))
        net.operations[0].invconv.sign_s.fill_(1)
    raw = DARK.clone().requires_grad_()
    image = net.develop(raw)
    torch.testing.assert_close(image[DARK >= 1e-5], DARK[DARK >= 1e-5] ** (1 / 2.2))
    assert (image[DARK == 0] == 0).all()
    torch.testing.assert_close(net.develop(-DARK), -image)
    image.sum().backward()
    assert torch.isfinite(raw.grad).all()
    given = DARK.clone().requires_grad_()
    net(given).sum().backward()
    assert torch.isfinite(given.grad).all()


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"jpeg": False}, {"from_target": True}], ids=["", "plain", "from target"])
def test_loss_by_hand(options: dict[str, bool]) -> None:
    """And its gradient, which is that of no rounding."""
    net, generator = fill(InvISP(**SMALL, **options)), seeded()
    image, raw = torch.rand(2, 3, 3, 10, 8).double()
    found = net(image, raw, generator)
    developed = net.develop(raw)
    stored = developed.clamp(0, 1)
    assert (stored != developed).any()
    if not options:
        stored = stored + ((stored * 255).round() / 255).detach() - stored.detach()
    back = net(image if "from_target" in options else stored)
    back = torch.where(back.abs() < 1e-5, back * 1e-5 ** (1 / 2.2 - 1), back.sign() * back.abs() ** (1 / 2.2))
    expected = [(developed[i] - image[i]).abs().mean() + (back[i] - raw[i] ** (1 / 2.2)).abs().mean() for i in range(3)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=0)
    weights = [*net.parameters()]
    gradients = [torch.autograd.grad(loss.sum(), weights, retain_graph=True) for loss in (found, torch.stack(expected))]
    for ours, other in zip(*gradients, strict=True):
        assert (ours - other).norm() < 1e-6 * other.norm()
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_gradients_reach_all_that_is_trained_and_are_finite() -> None:
    net = fill(InvISP(**SMALL)).float()
    for image in (torch.rand(2, 3, 12, 12), torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)):
        net.zero_grad()
        losses = net(image, image, seeded())
        assert losses.shape == (2,)
        assert torch.isfinite(losses).all()
        losses.sum().backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())


def error(net: InvISP, image: Tensor, raw: Tensor) -> float:
    with torch.no_grad():
        return float((net(image) - raw).abs().mean())


@pytest.mark.parametrize("from_target", [False, True])
def test_training_lowers_the_loss_and_leaves_the_network_invertible(from_target: bool) -> None:
    net, generator = InvISP(**SMALL, from_target=from_target), seeded()
    image = F.interpolate(torch.rand(2, 3, 4, 4, generator=generator), (24, 24), mode="bilinear")
    raw = 0.5 * image**2.2
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    losses, errors = [], [error(net, image, raw)]
    for _ in range(150):
        loss = net(image, raw, generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0], losses
    errors.append(error(net, image, raw))
    if from_target:
        assert errors[-1] < 0.1 * errors[0], errors
    with torch.no_grad():
        torch.testing.assert_close(net(net.develop(raw)), raw, rtol=0, atol=1e-5)


def test_one_image_has_one_raw_image() -> None:
    net, image = fill(InvISP(**SMALL)), torch.rand(2, 3, 8, 8).double()
    assert torch.equal(net.draw(image, seeded(3)), net(image))


@pytest.mark.parametrize("options", [{"num_blocks": 0}, {"growth": 0}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"InvISP: {next(iter(options))} is 0; use 1 or more"):
        InvISP(**options)
