"""CIDNet: names and numbers.

The recorded outputs were made by filling the network of the public repository (github.com/Fediory/HVI-CIDNet) with the
weights of :func:`fill`, in float64, and running it on the input that the test makes again; they were written down after
this network had given the same numbers to 1e-13.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, probes
from torch import Tensor

from semiisp_plugin.archs.cidnet_arch import CIDNet

SMALL: dict[str, Any] = {"channels": [4, 4, 8, 8], "heads": [1, 2, 2]}
RECORDED = {  # by (saturation, output_scale): mean, standard deviation, six values of the public network's output
    (1.0, 1.0): [
        0.515656976703,
        0.311265560032,
        0.856911716387,
        0.855434467720,
        0.574514955415,
        0.794061715073,
        0.000000000000,
        1.000000000000,
    ],
    (1.3, 0.84): [
        0.394027573221,
        0.284314914526,
        0.719805841765,
        0.718192686221,
        0.411428578783,
        0.667011840661,
        0.000000000000,
        0.840000000000,
    ],
}


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    if name.endswith("density_k"):
        return 0.3 + 0.1 * u
    if "temperature" in name or (parameter.ndim == 1 and name.endswith("weight")):
        return (0.25 if "prelu" in name else 1) + 0.2 * u
    return 0.2 * u if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())


def fill(net: CIDNet, seed: int = 0) -> CIDNet:
    return filled(net, seed, _value)


def test_names_shapes_and_count_are_the_published_ones() -> None:
    net = CIDNet()
    assert sum(p.numel() for p in net.parameters()) == 1_975_569
    assert sum(p.numel() for p in net.I_LCA5.parameters()) == 70_960
    assert names_and_shapes(net) == (191, "dc9b67d98d90549a6c0ea6cbae040ce376fdef17e5a4c6c37d87a23d6f7fb6d2")
    names = {"trans.density_k", "HVE_block0.1.weight", "ID_block3.up_scale.0.weight", "I_LCA5.ffn.temperature"}
    assert names <= set(net.state_dict())


@pytest.mark.parametrize("settings", list(RECORDED))
def test_output_is_the_public_implementations(settings: tuple[float, float]) -> None:
    image = torch.from_numpy(np.random.RandomState(300).uniform(0, 1, (2, 3, 16, 24)))
    net = fill(CIDNet(saturation=settings[0], output_scale=settings[1]))
    np.testing.assert_allclose(probes(net(image)), RECORDED[settings], rtol=0, atol=1e-10)


def test_test_time_factors_are_for_evaluation_alone() -> None:
    net, image = fill(CIDNet(**SMALL, saturation=1.3, output_scale=0.8)), torch.rand(1, 3, 16, 16).double()
    plain = fill(CIDNet(**SMALL))
    assert not torch.allclose(net(image), plain(image))
    assert torch.equal(net.train()(image), plain.train()(image))
    dimmed = fill(CIDNet(**SMALL, output_scale=0.8))
    torch.testing.assert_close(dimmed(image), 0.8 * plain.eval()(image), rtol=0, atol=1e-12)


def test_odd_sizes_are_padded_by_reflection_and_cropped() -> None:
    net, image = fill(CIDNet(**SMALL)), torch.rand(1, 3, 21, 30).double()
    expected = net(F.pad(image, (0, 2, 0, 3), mode="reflect"))[..., :21, :30]
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)


def test_gradients_reach_all_parameters_but_those_that_do_nothing() -> None:
    net = CIDNet(**SMALL)
    net(torch.rand(2, 3, 24, 21)).square().mean().backward()
    missing = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    unused = {name for name, _ in net.named_parameters() if name.startswith("I_LCA5.")}
    assert missing == unused
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == unused


def test_nan_is_passed_on() -> None:
    image = torch.rand(1, 3, 16, 16)
    image[0, 1, 2, 3] = float("nan")
    assert CIDNet(**SMALL).eval()(image)[0, :, 2, 3].isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [4, 4, 8]}, r"channels is \[4, 4, 8\]; give four positive numbers"),
        (
            {"heads": [2, 4, 7]},
            r"heads is \[2, 4, 7\]; .* that divide the channels of the three levels, \[36, 72, 144\]",
        ),
        ({"saturation": -1.0}, "saturation -1.0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CIDNet(**options)
