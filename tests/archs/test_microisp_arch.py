"""MicroISP: counts, and the description layer by layer. No public code was run: its licence is non-commercial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, probes
from torch import Tensor

from semiisp_plugin.archs.microisp_arch import MicroISP

both = pytest.mark.parametrize("mosaic", [False, True])


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    return 0.25 + 0.2 * u if parameter.ndim == 1 else u * 2 / np.sqrt(parameter[0].numel())


def fill(net: MicroISP, seed: int = 0) -> MicroISP:
    return filled(net, seed, _value)


def by_hand(net: MicroISP, x: Tensor) -> Tensor:
    """Branch by branch, (N, inputs, H, W) -> (N, 3 outputs, H, W), of 81 pixels and more."""

    def conv(layer: Any, x: Tensor, branch: int, padding: int) -> Tensor:
        own = slice(branch * len(layer.weight) // 3, (branch + 1) * len(layer.weight) // 3)
        return F.conv2d(x, layer.weight[own], layer.bias[own], layer.stride, padding)

    def prelu(layer: Any, x: Tensor, branch: int) -> Tensor:
        return F.prelu(x, layer.weight.view(3, -1)[branch])

    colours = []
    for branch in range(3):
        y = x
        for stage in (net.stage1, net.stage2):
            kept: list[Tensor] = []
            for i, (layer, slope) in enumerate(stage.convs):
                y = prelu(slope, conv(layer, y, branch, 1), branch)
                kept.append(y)
                if i in (2, 5):
                    attention = stage.attentions[i // 3]
                    a = y
                    for shrink, slope_ in zip(attention.shrink[::2], attention.shrink[1::2], strict=True):
                        a = prelu(slope_, conv(shrink, a, branch, 0), branch)
                    a = a.mean((2, 3), keepdim=True)
                    a = prelu(attention.weigh[1], conv(attention.weigh[0], a, branch, 0), branch)
                    y = y * conv(attention.weigh[2], a, branch, 0).sigmoid() + kept[i - 2]
            y = conv(stage.last, y, branch, 1).tanh()
        colours.append(y * 0.58 + 0.5)
    return torch.cat(colours, 1)


def test_counts_are_the_published_one_and_ours() -> None:
    assert [sum(p.numel() for p in MicroISP(mosaic).parameters()) for mosaic in (True, False)] == [13_560, 13_119]
    assert names_and_shapes(MicroISP(mosaic=True))[0] == 2 * (7 * 3 + 2 + 2 * (4 * 3 + 2 * 2 + 1))


def test_it_is_three_branches() -> None:
    net, image = fill(MicroISP()), torch.rand(2, 3, 85, 82, dtype=torch.float64)
    torch.testing.assert_close(net(image), by_hand(net, image), rtol=0, atol=1e-12)


def test_a_mosaic_is_packed_and_doubled_in_the_published_order() -> None:
    net, image = fill(MicroISP(mosaic=True)), torch.rand(1, 3, 162, 164, dtype=torch.float64)
    mosaic = torch.zeros(1, 162, 164, dtype=torch.float64)
    for colour, row, column in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
        mosaic[:, row::2, column::2] = image[:, colour, row::2, column::2]
    packed = torch.stack([mosaic[:, r::2, c::2] for r, c in ((1, 1), (0, 1), (0, 0), (1, 0))], 1)
    planes = by_hand(net, packed).view(1, 3, 2, 2, 81, 82)
    expected = planes.permute(0, 1, 4, 2, 5, 3).reshape(1, 3, 162, 164)
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)


@both
def test_recorded_output(mosaic: bool) -> None:
    image = torch.from_numpy(np.random.RandomState(700).uniform(0, 1, (2, 3, 21, 30)))
    recorded = {
        False: [
            0.305950519358,
            0.401460991155,
            0.346272826969,
            0.726011602654,
            -0.005198065304,
            0.27346981083,
            0.634868137987,
            0.005918564682,
        ],
        True: [
            0.598530776113,
            0.270142975275,
            0.696655839275,
            0.852680368196,
            0.490063180686,
            0.732794230136,
            0.813462538933,
            0.537720457585,
        ],
    }
    np.testing.assert_allclose(probes(fill(MicroISP(mosaic))(image)), recorded[mosaic], rtol=0, atol=1e-10)


def test_branches_do_not_mix() -> None:
    net, image = fill(MicroISP()), torch.rand(1, 3, 20, 24, dtype=torch.float64)
    out = net(image)
    with torch.no_grad():
        net.stage2.last.bias[1] += 1  # of green
        net.stage1.convs[3][0].weight[:4] *= 2  # of red
    changed = (net(image) - out).abs().amax((0, 2, 3))
    assert changed[0] > 0
    assert changed[1] > 0
    assert changed[2] == 0


def test_it_starts_grey() -> None:
    torch.testing.assert_close(MicroISP()(torch.rand(1, 3, 8, 8)), torch.full((1, 3, 8, 8), 0.5), rtol=0, atol=1e-3)


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="MicroISP: num_feat is 0; use 1 or more"):
        MicroISP(num_feat=0)
