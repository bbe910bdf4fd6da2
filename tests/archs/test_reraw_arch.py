"""ReRAW: names, sizes, and network and losses against a plain reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, seeded
from torch import Tensor

from semiisp_plugin.archs.blocks import pack_mosaic, reflect_border, unpack_mosaic
from semiisp_plugin.archs.reraw_arch import ReRAW

SMALL: dict[str, Any] = {"num_feat": 8, "num_block": 2, "head_block": 1, "num_gamma": 4, "thumbnail": 32}
State = dict[str, Tensor]
both = pytest.mark.parametrize("mosaic", [False, True])


def fill(net: ReRAW, seed: int = 0) -> ReRAW:
    """Heads' last biases near 0.1, from which what is before them leads to both sides of zero."""

    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        if parameter.ndim == 1:
            return 0.2 * u + 0.1 * (name.startswith("heads.") and ".layers.2." in name) + name.endswith("head.bias")
        return u * 1.5 / np.sqrt(parameter[0].numel())

    return filled(net, seed, value)


def layers(state: State, name: str, x: Tensor, residual: range, **first: int) -> Tensor:
    """Convolutions and leaky ReLUs, of which those of ``residual`` are added."""
    for i in range(sum(key.startswith(f"{name}.layers.") for key in state) // 2):
        weight, bias = (state[f"{name}.layers.{i}.0.{what}"] for what in ("weight", "bias"))
        y = F.conv2d(x, weight, bias, stride=weight.shape[-1] if i == 1 else 1, **(first if i == 0 else {}))
        y = torch.maximum(y, 0.1 * y)
        x = x + y if i in residual else y
    return x


def reference(net: ReRAW, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """RAW or its mosaic, and what the heads make."""
    state = net.state_dict()
    padded = F.pad(image, (1, 1, 1, 1), mode="reflect")
    features = layers(state, "color_reconstruction", padded, range(2, 4), groups=3)
    features = features * net.global_context_encoder(image)
    heads = [layers(state, f"heads.{i}", features, range(1, 2)).clamp(min=0) for i in range(4)]
    shares = net.gamma_scaling_encoder(image)[:, :, 0, 0].exp()
    shares = shares / shares.sum(1, keepdim=True)
    powers = [1, 4 / 3, 2, 4]
    return sum(shares[:, i, None, None, None] * heads[i] ** powers[i] for i in range(4)), heads


def test_names_shapes_and_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        net, ours = ReRAW(mosaic=True, context="resnet18"), ReRAW()
    assert sum(p.numel() for p in net.parameters()) == 23_767_154
    assert names_and_shapes(net) == (424, "4bc2a57159aa7e6e7bff9f39e47432a9b6afdafb80767189e1cf2a8e4efbaeef")
    assert sum(p.numel() for p in ours.parameters()) == 1_814_274
    shapes = {name: p.shape for name, p in ours.named_parameters() if "encoder" not in name}
    changed = {name for name, shape in shapes.items() if shape != net.get_parameter(name).shape}
    assert changed == {
        "color_reconstruction.layers.1.0.weight",
        *(f"heads.{i}.layers.7.0.{what}" for i in range(10) for what in ("weight", "bias")),
    }


@both
@torch.no_grad()
def test_it_is_the_formula(mosaic: bool) -> None:
    net, image = fill(ReRAW(**SMALL, mosaic=mosaic)), torch.rand(2, 3, 12, 10, dtype=torch.float64)
    expected, heads = reference(net, image)
    clipped = torch.stack(heads) == 0
    assert clipped.any()
    assert not clipped.all()
    found = pack_mosaic(net(image))[:, [0, 3]] if mosaic else net(image)
    torch.testing.assert_close(found, expected[:, [0, 3]] if mosaic else expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(net.powers(image)[0], torch.stack(heads, 1), rtol=0, atol=1e-12)
    if mosaic:
        torch.testing.assert_close(pack_mosaic(net(image)), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_contexts_as_published() -> None:
    """Averages over areas, ResNet-18 without its classifier, a linear layer."""
    from torchvision.models import resnet18

    net = ReRAW(context="resnet18", thumbnail=64, num_feat=8, num_gamma=2).double().eval()
    image = torch.rand(2, 3, 128, 192, dtype=torch.float64)
    theirs, encoder = resnet18(weights=None).double().eval(), net.gamma_scaling_encoder
    named = zip(theirs.state_dict(), encoder.resnet.state_dict().values(), strict=False)  # the classifier is its last
    theirs.load_state_dict(dict(named), strict=False)
    theirs.fc = torch.nn.Identity()
    small = image.unflatten(2, (64, 2)).unflatten(4, (64, 3)).mean((3, 5))
    torch.testing.assert_close(encoder(image)[..., 0, 0], encoder.fc(theirs(small)), rtol=0, atol=1e-12)
    powers, shares = net.powers(image)
    torch.testing.assert_close(shares, encoder.fc(theirs(small)).softmax(1), rtol=0, atol=1e-12)
    assert powers.shape == (2, 2, 3, 128, 192)


def test_gammas() -> None:
    assert ReRAW(num_feat=4).gammas == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert ReRAW(num_feat=4, num_gamma=1).gammas == [1]


@both
@torch.no_grad()
def test_it_starts_near_one_grey_that_nothing_clips(mosaic: bool) -> None:
    net, image = ReRAW(**SMALL, mosaic=mosaic), torch.rand(2, 3, 12, 10)
    powers, shares = net.powers(image)
    assert (powers > 0).all()
    torch.testing.assert_close(net(image), torch.full_like(image, 0.1), rtol=0, atol=0.03)
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 4), rtol=0, atol=0.02)


@both
@torch.no_grad()
def test_losses_by_hand(mosaic: bool) -> None:
    net = fill(ReRAW(**SMALL, mosaic=mosaic))
    image, raw = torch.rand(2, 3, 3, 12, 10, dtype=torch.float64)
    raw[0, :, :6] = 0
    losses = net(image, raw, seeded())
    target = pack_mosaic(raw) if mosaic else raw
    made, heads = reference(net, image)

    def hardlog(found: Tensor, wanted: Tensor) -> float:
        differences = (found - wanted).abs().flatten().tolist()
        return float(np.mean([-math.log(1 - min(d, 1) + 1e-6) for d in differences]))

    for n in range(3):
        powers = [target[n].clamp(min=1e-6) ** gamma for gamma in (1, 0.75, 0.5, 0.25)]
        of_heads = np.mean([hardlog(head[n], power) for head, power in zip(heads, powers, strict=True)])
        assert losses[n].item() == pytest.approx(of_heads + hardlog(made[n], target[n]), rel=1e-9)


@pytest.mark.parametrize("context", ["light", "resnet18"])
@both
def test_gradients_reach_all_that_is_trained_and_losses_are_finite(mosaic: bool, context: str) -> None:
    net = ReRAW(**{**SMALL, "thumbnail": 64}, mosaic=mosaic, context=context)
    image, raw = torch.rand(2, 2, 3, 13, 17)
    net(image, raw, seeded()).sum().backward()
    assert not {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    for value in (0.0, 1.0):
        net.zero_grad()
        flat = torch.full((2, 3, 13, 17), value)
        losses = net(flat, flat, seeded())
        assert losses.shape == (2,)
        assert torch.isfinite(losses).all()
        losses.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@torch.no_grad()
def test_a_mosaic_is_unpacked_to_an_image_that_has_it() -> None:
    packed = torch.rand(2, 4, 5, 3)
    image = unpack_mosaic(packed)
    assert torch.equal(pack_mosaic(image), packed)
    assert torch.equal(image[:, 0, 1::2, 1::2], packed[:, 0])
    assert torch.equal(image[:, 2, ::2, ::2], packed[:, 3])
    assert torch.equal(image[:, 1, ::2, ::2], packed[:, 1:3].mean(1))
    assert torch.equal(image[:, 1, 1::2, 1::2], packed[:, 1:3].mean(1))


def test_a_border_is_reflected_as_far_as_it_can_be() -> None:
    image = torch.rand(1, 2, 4, 6)
    assert torch.equal(reflect_border(image, 3), F.pad(image, (3,) * 4, mode="reflect"))
    row = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
    assert reflect_border(row, 3)[0, 0].tolist() == [[1, 1, 2, 1, 2, 1, 1, 1]] * 7


@torch.no_grad()
def test_nothing_is_drawn() -> None:
    net, image = ReRAW(**SMALL).eval(), torch.rand(2, 3, 9, 8)
    first, second = net.draw(image, seeded(0)), net.draw(image, [seeded(1), seeded(2)])
    assert torch.equal(first, second)
    assert torch.equal(first, net(image))


@both
def test_a_short_training_lowers_the_losses(mosaic: bool) -> None:
    net = ReRAW(**SMALL, mosaic=mosaic)
    image = F.interpolate(0.1 + 0.8 * torch.rand(2, 3, 4, 4), (16, 16), mode="bilinear")
    raw = torch.stack([0.9 * image[0] ** 0.5, 0.8 * image[1] ** 1.5])
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(120):
        loss = net(image, raw, seeded()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gamma": 0}, "ReRAW: num_gamma is 0; use 1 or more"),
        ({"head_block": -1}, "head_block is -1; use 0 or more"),
        ({"context": "heavy"}, "context is 'heavy'; use 'light' or 'resnet18'"),
        ({"context": "resnet18", "thumbnail": 32}, "thumbnail is 32; use 64 or more"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReRAW(**options)
