"""CycleISP: names, sizes, and networks and losses against a plain reference. No public code was run: of its licence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, seeded
from torch import Tensor

from semiisp_plugin.archs.blocks import pack_mosaic
from semiisp_plugin.archs.cycleisp_arch import CycleISP

SMALL: dict[str, Any] = {"num_feat": 16, "num_rrg": 2, "num_dab": 1, "colour_rrg": 1, "colour_dab": 2}
State = dict[str, Tensor]
both = pytest.mark.parametrize("mosaic", [False, True])


def fill(net: CycleISP, seed: int = 0) -> CycleISP:
    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        return 0.3 * u if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())

    return filled(net, seed, value)


def conv(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def prelu(x: Tensor, slopes: Tensor) -> Tensor:
    return torch.where(x > 0, x, slopes[:, None, None] * x)


def groups(state: State, name: str, x: Tensor, rows: int, blocks: int, slopes: Tensor) -> Tensor:
    """Head, groups and the convolution behind them."""
    x = conv(state, f"{name}.head.0", x)
    if name == "ccm" and "raw2rgb.conv1x1.0.bias" in state:
        x = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
    for i in range(rows):
        y = x
        for j in range(blocks):
            at = f"{name}.body.{i}.body.{j}"
            r = conv(state, f"{at}.body.2", prelu(conv(state, f"{at}.body.0", y), slopes))
            found = torch.stack([r.max(1).values, r.mean(1)], 1)
            spatial = 1 / (1 + (-conv(state, f"{at}.SA.spatial.conv", found)).exp())
            hidden = conv(state, f"{at}.CA.conv_du.0", r.mean((2, 3))[:, :, None, None]).clamp_min(0)
            channel = 1 / (1 + (-conv(state, f"{at}.CA.conv_du.2", hidden)).exp())
            y = y + conv(state, f"{at}.conv1x1", torch.cat([r * spatial, r * channel], 1))
        x = x + conv(state, f"{name}.body.{i}.body.{blocks}", y)
    return conv(state, f"{name}.body.{rows}", x)


def rgb2raw(state: State, image: Tensor) -> Tensor:
    slopes = state["rgb2raw.body.3.weight"]
    return conv(state, "rgb2raw.tail.0", prelu(groups(state, "rgb2raw", image, 2, 1, slopes), slopes))


def blurred(image: Tensor) -> Tensor:
    """A Gaussian of 21 x 21 and sigma 12, by shifts."""
    offsets = range(-10, 11)
    profile = np.array([np.exp(-(k**2) / 288) for k in offsets])
    profile /= profile.sum()
    height, width = image.shape[2:]
    padded = F.pad(image, (10,) * 4, mode="reflect")
    return sum(
        profile[i + 10] * profile[j + 10] * padded[:, :, 10 + i : 10 + i + height, 10 + j : 10 + j + width]
        for i in offsets
        for j in offsets
    )


def raw2rgb(state: State, raw: Tensor, image: Tensor) -> Tensor:
    slopes = state["ccm.body.2.weight"]
    colour = prelu(groups(state, "ccm", blurred(image), 1, 2, slopes), slopes)
    colour = 1 / (1 + (-conv(state, "ccm.tail.0", colour)).exp())
    slopes = state["raw2rgb.body.3.weight"]
    x = prelu(groups(state, "raw2rgb", raw, 2, 1, slopes) * (1 + colour), slopes)
    x = conv(state, "raw2rgb.tail_rgb.0", prelu(conv(state, "raw2rgb.tail.0", x), slopes))
    return x if x.shape[1] == 3 else F.pixel_shuffle(x, 2)


def test_names_shapes_and_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        net, ours = CycleISP(mosaic=True), CycleISP()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert counts == {"rgb2raw": 3_143_109, "raw2rgb": 3_244_110, "ccm": 1_084_419 - 1_323}
    assert net.ccm.blur.weight.numel() == 1_323
    assert names_and_shapes(net) == (451, "05bfb02005562c968e92d83ee492c6558c27a3efd80b564fc717e2c1a4a8760c")
    names = {"rgb2raw.body.2.body.4.SA.spatial.conv.weight", "raw2rgb.conv1x1.0.bias", "ccm.blur.weight"}
    assert names <= set(net.state_dict())
    changed = {
        name for name, p in net.named_parameters() if p.shape != dict(ours.named_parameters()).get(name, p).shape
    }
    assert changed == {"raw2rgb.head.0.weight", "raw2rgb.tail_rgb.0.weight", "raw2rgb.tail_rgb.0.bias"}
    assert set(net.state_dict()) - set(ours.state_dict()) == {"raw2rgb.conv1x1.0.weight", "raw2rgb.conv1x1.0.bias"}


def test_each_network_has_one_activation() -> None:
    net = CycleISP(**SMALL)
    for part in (net.rgb2raw, net.raw2rgb, net.ccm):
        assert len({id(m) for m in part.modules() if isinstance(m, torch.nn.PReLU)}) == 1
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        net.rgb2raw.body[-1].weight.fill_(0.5)
    assert (net.state_dict()["rgb2raw.body.0.body.0.body.1.weight"] == 0.5).all()
    net.load_state_dict(state)
    assert (net.rgb2raw.body[-1].weight == 0.25).all()


@both
@torch.no_grad()
def test_both_directions_against_a_plain_reference(mosaic: bool) -> None:
    net = fill(CycleISP(**SMALL, mosaic=mosaic))
    image, raw = torch.rand(2, 2, 3, 14, 18, dtype=torch.float64)
    # The blur is kept as it was made, in float32.
    expected = raw2rgb(net.state_dict(), pack_mosaic(raw) if mosaic else raw, image)
    torch.testing.assert_close(net(image), rgb2raw(net.state_dict(), image), rtol=0, atol=1e-12)
    torch.testing.assert_close(net.develop(raw, image), expected, rtol=0, atol=1e-6)


@both
@torch.no_grad()
def test_losses_by_hand(mosaic: bool) -> None:
    net = fill(CycleISP(**SMALL, mosaic=mosaic, cycle_weight=0.5))
    image, raw = torch.rand(2, 3, 3, 12, 16, dtype=torch.float64)
    state, losses = net.state_dict(), net(image, raw, seeded())
    for i in range(3):
        one, given = image[i : i + 1], raw[i : i + 1]
        made = rgb2raw(state, one)
        if mosaic:
            made, given = pack_mosaic(made), pack_mosaic(given)
        loss = (made - given).abs().mean() + (made.clamp(min=1e-3).log() - given.clamp(min=1e-3).log()).abs().mean()
        back = [(raw2rgb(state, x, one) - one).abs().mean() for x in (given, made)]
        assert losses[i].item() == pytest.approx((loss + 0.5 * (0.5 * back[0] + 0.5 * back[1])).item(), abs=1e-6)


@both
def test_gradients_reach_all_that_is_trained_and_losses_are_finite(mosaic: bool) -> None:
    net = CycleISP(**SMALL, mosaic=mosaic)
    image, raw = torch.rand(2, 2, 3, 13, 17)
    net(image, raw, seeded()).sum().backward()
    missing = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert missing == ({"raw2rgb.conv1x1.0.weight", "raw2rgb.conv1x1.0.bias"} if mosaic else set())
    for value in (0.0, 1.0):
        net.zero_grad()
        flat = torch.full((2, 3, 13, 17), value)
        losses = net(flat, flat, seeded())
        assert losses.shape == (2,)
        assert torch.isfinite(losses).all()
        losses.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@both
@torch.no_grad()
def test_small_and_odd_sizes_are_developed(mosaic: bool) -> None:
    net = fill(CycleISP(**SMALL, mosaic=mosaic))
    for size in ((1, 1), (1, 30), (9, 2), (11, 13)):
        image = torch.rand(1, 3, *size, dtype=torch.float64)
        out = net.develop(image, image)
        assert out.shape == image.shape
        assert torch.isfinite(out).all()


def test_without_the_way_back() -> None:
    net = fill(CycleISP(**SMALL, cycle_weight=0))
    assert {name.split(".")[0] for name in net.state_dict()} == {"rgb2raw"}
    image, raw = torch.rand(2, 2, 3, 9, 8, dtype=torch.float64)
    made = net(image)
    logs = (made.clamp_min(1e-3).log() - raw.clamp_min(1e-3).log()).abs()
    expected = ((made - raw).abs() + logs).mean((1, 2, 3))
    torch.testing.assert_close(net(image, raw, seeded()), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_nothing_is_drawn() -> None:
    net, image = CycleISP(**SMALL).eval(), torch.rand(2, 3, 9, 8)
    first, second = net.draw(image, seeded(0)), net.draw(image, [seeded(1), seeded(2)])
    assert torch.equal(first, second)
    assert torch.equal(first, net(image))


@both
def test_a_short_training_lowers_the_losses(mosaic: bool) -> None:
    net = CycleISP(**SMALL, mosaic=mosaic)
    image = F.interpolate(0.1 + 0.8 * torch.rand(2, 3, 4, 4), (16, 16), mode="bilinear")
    raw = 0.6 * image**2.2
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = net(image, raw, seeded()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_feat": 0}, "CycleISP: num_feat is 0; use 1 or more"),
        ({"colour_dab": -1}, "colour_dab is -1; use 0 or more"),
        ({"cycle_weight": -1.0}, "cycle_weight is -1.0; use 0 or more"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CycleISP(**options)
