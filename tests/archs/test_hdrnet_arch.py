"""HDRNet: sizes, the layers as the public TensorFlow code has them, parts of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, probes
from torch import Tensor, nn

from semiisp_plugin.archs.bilateral_slice import slice_and_apply
from semiisp_plugin.archs.hdrnet_arch import HDRNet

SMALL = {"luma_bins": 2, "spatial_bin": 4, "thumbnail": 32, "guide_feat": 4}
RECORDED = {  # of this network, when slice, grid and guide had been compared as below
    "network": [
        -0.072660865816,
        0.089511626697,
        0.021934026852,
        0.001163561373,
        -0.000286656886,
        -0.007500836541,
        -0.056611893869,
        -0.036181232360,
    ],
    "curves": [
        -0.022738825191,
        0.268560824532,
        -0.132598842097,
        0.275972832837,
        0.152072511380,
        -0.233811426811,
        0.155092696262,
        0.050451208307,
    ],
}
every_guide = pytest.mark.parametrize("guide", ["network", "curves"])


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    if name.startswith("guide.s"):  # shifts and slopes
        return 0.5 + 0.5 * u
    return 0.2 * u if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())


def fill(net: HDRNet, seed: int = 0) -> HDRNet:
    net = filled(net, seed, _value)
    if hasattr(net.guide, "norm"):
        rng = np.random.RandomState(seed)
        net.guide.norm.running_mean.copy_(torch.from_numpy(rng.uniform(-1, 1, net.guide.norm.bias.shape)))
        net.guide.norm.running_var.copy_(torch.from_numpy(rng.uniform(0.5, 2, net.guide.norm.bias.shape)))
    return net


@pytest.mark.parametrize(("guide", "count"), [("network", 482_049), ("curves", 482_080)])
def test_parameter_count_is_that_of_the_public_code(guide: Any, count: int) -> None:
    assert sum(p.numel() for p in HDRNet(guide).parameters()) == count


def same(x: Tensor, conv: nn.Module) -> Tensor:
    """TensorFlow's convolution of step 2 with padding "same": what is odd of the border comes last."""
    side = x.shape[-1]
    total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
    before, after = total // 2, total - total // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), conv.weight, conv.bias, stride=2).relu()


def grid_as_published(net: HDRNet, thumbnail: Tensor) -> Tensor:
    """Layer by layer; the last channels as that code takes them apart: split, stack, split, stack."""
    it = net.coefficients
    splat = thumbnail
    for conv in it.splat:
        splat = same(splat, conv)
    first, second, _, fc1, _, fc2, _, fc3 = it.global_features
    found = fc3(fc2(fc1(same(same(splat, first), second).flatten(1)).relu()).relu())
    local = it.local_features[2](F.conv2d(splat, it.local_features[0].weight, it.local_features[0].bias, 1, 1).relu())
    last = it.prediction((local + found[:, :, None, None]).relu()).permute(0, 2, 3, 1)
    bins = it.bins
    current = torch.stack(torch.split(last, bins, dim=3), dim=4)  # n, h, w, bins, 12
    return torch.stack(torch.split(current, 3, dim=4), dim=5)  # n, h, w, bins, out, in


@pytest.mark.parametrize("options", [{}, SMALL])
def test_the_grid_is_that_of_the_published_layers(options: dict[str, Any]) -> None:
    net = fill(HDRNet(**options))
    side = net.thumbnail
    thumbnail = torch.rand(2, 3, side, side, dtype=torch.float64)
    expected = grid_as_published(net, thumbnail)
    found = net.prepare(thumbnail).unflatten(1, (4, 3)).permute(0, 4, 5, 3, 2, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@every_guide
def test_the_output_is_the_grid_at_place_and_guide(guide: Any) -> None:
    net, image = fill(HDRNet(guide, **SMALL)), torch.rand(2, 3, 11, 14, dtype=torch.float64)
    values = guide_by_formula(net, image)[:, None]
    expected = slice_and_apply(net.prepare(image), values, image, (0, 0), (11, 14))
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-11)


def guide_by_formula(net: HDRNet, image: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, H, W)."""
    it: Any = net.guide
    pixels = image.permute(0, 2, 3, 1)
    if hasattr(it, "norm"):
        x = pixels @ it.conv1.weight.flatten(1).T
        x = (x - it.norm.running_mean) / (it.norm.running_var + 1e-3).sqrt() + it.norm.bias
        return (x.relu() @ it.conv2.weight.flatten() + it.conv2.bias).sigmoid()
    x = pixels @ it.matrix.weight.flatten(1).T + it.matrix.bias
    x = (it.slopes * (x[..., None] - it.shifts).relu()).sum(-1)
    return (x @ it.mixture.weight.flatten() + it.mixture.bias).clamp(0, 1)


@every_guide
def test_recorded_output(guide: Any) -> None:
    image = torch.from_numpy(np.random.RandomState(100).uniform(0, 1, (2, 3, 30, 41)))
    np.testing.assert_allclose(probes(fill(HDRNet(guide))(image)), RECORDED[guide], rtol=0, atol=1e-10)


def test_the_thumbnail_is_of_nearest_pixels() -> None:
    net = fill(HDRNet(**SMALL))
    for size in ((64, 96), (17, 45), (5, 1)):
        image = torch.rand(1, 3, *size, dtype=torch.float64)
        assert torch.equal(net.prepare(image), net.prepare(F.interpolate(image, (32, 32), mode="nearest")))


def test_published_start() -> None:
    net = HDRNet("curves")
    image = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(net.guide(image), image.mean(1, keepdim=True), rtol=0, atol=1e-3)
    for layer in net.coefficients.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            std = (2.6 / layer.weight[0].numel()) ** 0.5
            assert layer.weight.abs().max() <= 2 * std
            if layer.weight.numel() > 5000:
                assert layer.weight.std().item() == pytest.approx(0.88 * std, rel=0.05)  # what the cut leaves of it
            assert layer.bias is None or not layer.bias.any()


@every_guide
def test_identity_start_returns_the_input_and_learns(guide: Any) -> None:
    net, image = HDRNet(guide, **SMALL, identity_start=True), torch.rand(2, 3, 40, 30)
    torch.testing.assert_close(net(image), image, rtol=0, atol=1e-6)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        (net(image) - image.flip(1)).square().mean().backward()
        optimiser.step()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_batch_norm_follows_the_training_images() -> None:
    net = HDRNet(**SMALL).train()
    reference = nn.BatchNorm2d(4, eps=1e-3, affine=False)
    for _ in range(3):
        image = torch.rand(2, 3, 24, 20)
        features = net.guide.conv1(image)
        torch.testing.assert_close(net.guide.norm(features), reference(features), rtol=0, atol=1e-5)
    torch.testing.assert_close(net.guide.norm.running_mean, reference.running_mean)
    torch.testing.assert_close(net.guide.norm.running_var, reference.running_var, rtol=2e-3, atol=0)  # n - 1 there
    features = net.guide.conv1(image)
    reference.running_var.copy_(net.guide.norm.running_var)
    torch.testing.assert_close(net.eval().guide.norm(features), reference.eval()(features), rtol=0, atol=1e-5)


@every_guide
def test_parts_of_an_image_make_the_whole(guide: Any) -> None:
    net, image = fill(HDRNet(guide, **SMALL)).float(), torch.rand(2, 3, 37, 50)
    whole, context = net(image), net.prepare(image)
    out = torch.zeros_like(whole)
    for top in range(0, 37, 11):
        for left in range(0, 50, 16):
            tile = image[:, :, top : top + 11, left : left + 16]
            out[:, :, top : top + 11, left : left + 16] = net.apply_prepared(tile, context, (top, left), (37, 50))
    torch.testing.assert_close(out, whole, rtol=0, atol=2e-6)


def test_guide_and_slice_are_float32_under_autocast() -> None:
    net, image = HDRNet(**SMALL).eval(), torch.rand(2, 3, 30, 20)
    context = net.prepare(image)
    expected = net.apply_prepared(image, context, (0, 0), (30, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net.apply_prepared(image, context, (0, 0), (30, 20)), expected)
        assert net(image).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "grey"}, "guide is 'grey'; use 'network' or 'curves'"),
        ({"luma_bins": 0}, "luma_bins is 0; use 1 or more"),
        ({"spatial_bin": 6}, "spatial_bin is 6; use a positive multiple of 4"),
        ({"thumbnail": 100}, r"thumbnail is 100; use spatial_bin \(16\) times a power of 2: 32, 64, 128, 256, 512, "),
        ({"thumbnail": 16}, "thumbnail is 16"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HDRNet(**options)
