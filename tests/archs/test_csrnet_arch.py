"""CSRNet: names, the published formula, parts of an image. No public code was run: it has no licence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import filled, names_and_shapes, probes
from torch import Tensor, nn

from semiisp_plugin.archs.csrnet_arch import CSRNet


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    return 0.2 * u if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())


def fill(net: CSRNet, seed: int = 0) -> CSRNet:
    return filled(net, seed, _value)


def as_published(net: CSRNet, image: Tensor) -> Tensor:
    """Layer by layer, for images of 5 pixels and more: y * scale + shift + y."""
    x = nn.functional.pad(image, (1, 1, 1, 1))
    x = nn.functional.conv2d(x, net.cond_net.conv1.weight, net.cond_net.conv1.bias, stride=2).relu()
    for conv in (net.cond_net.conv2, net.cond_net.conv3):
        x = conv(x).relu()
    condition = x.mean((2, 3))
    x = image
    for i in (1, 2, 3):
        scale, shift = (
            net.get_submodule(f"cond_{kind}{i}")(condition)[:, :, None, None] for kind in ("scale", "shift")
        )
        y = net.get_submodule(f"conv{i}")(x)
        x = y * scale + shift + y
        if i < 3:
            x = x.relu()
    return x


def test_names_shapes_and_count_are_the_published_ones() -> None:
    net = CSRNet()
    assert sum(p.numel() for p in net.parameters()) == 36_489
    assert sum(p.numel() for p in net.cond_net.parameters()) == 23_232
    assert names_and_shapes(net) == (24, "da0bffa43087930dbd7ad57222719675ac3153ac14becdb5f8a032b5863fe888")
    assert {"cond_net.conv1.weight", "cond_scale3.bias", "cond_shift2.weight", "conv3.weight"} <= set(net.state_dict())


@pytest.mark.parametrize("shape", [(2, 3, 30, 41), (1, 3, 5, 5), (3, 3, 6, 17)])
def test_it_is_the_published_formula(shape: tuple[int, ...]) -> None:
    net, image = fill(CSRNet()), torch.rand(shape, dtype=torch.float64)
    torch.testing.assert_close(net(image), as_published(net, image), rtol=0, atol=1e-12)


def test_recorded_output() -> None:
    image = torch.from_numpy(np.random.RandomState(100).uniform(0, 1, (2, 3, 30, 41)))
    recorded = [
        0.037815390857,
        0.082265566581,
        0.044362040612,
        0.051727238636,
        0.071113093861,
        0.015907499710,
        0.041848074365,
        0.021582051623,
    ]
    np.testing.assert_allclose(probes(fill(CSRNet())(image)), recorded, rtol=0, atol=1e-10)


def test_a_small_image_is_padded_by_zeros_for_the_condition_alone() -> None:
    net, image = fill(CSRNet()), torch.rand(1, 3, 2, 9, dtype=torch.float64)
    condition = net.cond_net(nn.functional.pad(image, (0, 0, 0, 3)))
    assert torch.equal(net.cond_net(image), condition)


def test_an_image_has_one_function_of_colour() -> None:
    net, image = fill(CSRNet()), torch.rand(1, 3, 12, 10, dtype=torch.float64)
    image[..., 3, 4] = image[..., 9, 1]
    out = net(image)
    torch.testing.assert_close(out[..., 3, 4], out[..., 9, 1], rtol=0, atol=1e-14)


def test_parts_of_an_image_make_the_whole() -> None:
    net, image = fill(CSRNet(thumbnail=32)).float(), torch.rand(2, 3, 37, 50)
    whole, context = net(image), net.prepare(image)
    out = torch.zeros_like(whole)
    for top in range(0, 37, 11):
        for left in range(0, 50, 16):
            tile = image[:, :, top : top + 11, left : left + 16]
            out[:, :, top : top + 11, left : left + 16] = net.apply_prepared(tile, context, (top, left), (37, 50))
    torch.testing.assert_close(out, whole, rtol=0, atol=1e-6)


def test_a_thumbnail_is_for_the_condition_alone() -> None:
    net, other = fill(CSRNet(thumbnail=32)), fill(CSRNet())
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    small = nn.functional.interpolate(image, (32, 32), mode="bilinear")
    expected = other.apply_prepared(image, other.prepare(small), (0, 0), (64, 96))
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)


def test_pixels_are_done_in_float32_under_autocast() -> None:
    net, image = CSRNet().eval(), torch.rand(2, 3, 30, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(image)
        context = net.prepare(image)
        again = net.apply_prepared(image, context, (0, 0), (30, 20))
    assert out.dtype == context[0].weight.dtype == torch.float32
    assert torch.equal(out, again)
    torch.testing.assert_close(again, net.apply_prepared(image, context, (0, 0), (30, 20)), rtol=0, atol=0)
    torch.testing.assert_close(out, net(image), rtol=0, atol=0.01)


def test_nan_stays_where_it_is() -> None:
    """In a part: that pixel. In the weights: all pixels."""
    net, image = CSRNet().eval(), torch.rand(1, 3, 9, 8)
    context = net.prepare(image)
    broken = image.clone()
    broken[0, 1, 2, 3] = float("nan")
    out = net.apply_prepared(broken, context, (0, 0), (9, 8))
    assert torch.equal(out.isnan(), broken.isnan().any(1, keepdim=True).expand_as(out))
    assert net(broken).isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_feat": 0}, "num_feat is 0; use 1 or more"),
        ({"condition_feat": 0}, "condition_feat is 0"),
        ({"thumbnail": 4}, "thumbnail is 4; use 5 or more"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSRNet(**options)
