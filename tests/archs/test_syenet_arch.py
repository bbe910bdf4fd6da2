"""SYENet: names, numbers and the fused network.

The recorded outputs were made by filling the networks of the public repository (github.com/sanechips-multimedia/syenet)
with the weights of :func:`fill`, in float64, and running them on the input that the test makes again, once in training,
which sets the statistics of the batch norms, and then in evaluation; they were written down after this network had
given the same numbers to 1e-12.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, probes
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import pack_mosaic
from semiisp_plugin.archs.reparameterised_conv import ReparameterisedConv
from semiisp_plugin.archs.syenet_arch import SYENet

RECORDED = {  # by `mosaic`: in training and in evaluation: mean, standard deviation, six values
    False: (
        [
            0.136912890306,
            1.212174828156,
            0.04597103639,
            0.414513508254,
            -0.153808270747,
            -0.71262055599,
            -0.967290440712,
            2.001325071288,
        ],
        [
            0.021016896682,
            0.392775757901,
            0.199140556724,
            0.339313382001,
            0.308728066836,
            0.186736566408,
            -0.161163290337,
            0.225275067428,
        ],
    ),
    True: (
        [
            -0.62916383178,
            1.109384811971,
            -0.080653535733,
            0.390266774207,
            -0.458908213026,
            0.159272411434,
            -0.526174735018,
            -0.485087195161,
        ],
        [
            -0.775868422785,
            0.613703254938,
            -0.461022311855,
            -0.907650953315,
            -0.473306350693,
            -0.476712986491,
            -0.653077335442,
            -0.023582930423,
        ],
    ),
}
PUBLISHED = {  # by `mosaic`: parameters, unused ones, fused ones, state, fused state
    False: (
        *(102_474, 5_091, 5_283),
        (283, "925b6d8c936f5565b8e16dfc1e096582a097499878821b7d9d40c7a4030f8d1d"),
        (20, "aced1b295835d77ad8026c7b43b7ca3f05efae2afaf3d3098b9fab84ac831a6b"),
    ),
    True: (
        *(108_715, 6_916, 5_640),
        (283, "268e26c5a07766716cb6981a2d2c8671d1defb7fbd9a98b08ee2d32ba7dbff7b"),
        (20, "2dc436c05fd7c23b31d2716876cb33d85cbff2f7c94ed973e536870981f4317e"),
    ),
}
both = pytest.mark.parametrize("mosaic", [False, True])


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    if parameter.ndim == 1:
        return 1 + 0.3 * u if "_bn.1.weight" in name else 0.3 * u
    return 0.5 * u if name.endswith(".bias") else u * 3 / np.sqrt(parameter[0].numel())


def fill(net: SYENet, seed: int = 0) -> SYENet:
    return filled(net, seed, _value)


def trained(mosaic: bool = False) -> SYENet:
    """In evaluation, with statistics that a batch has left."""
    net = fill(SYENet(mosaic, rep_scale=1))
    net.train()(torch.rand(2, 3, 8, 10, dtype=torch.float64))
    return net.eval()


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@both
def test_names_shapes_and_counts_are_the_published_ones(mosaic: bool) -> None:
    net = SYENet(mosaic)
    fused = net.fuse()
    counts = parameters(net), parameters(net.tail_warm), parameters(fused)
    assert (*counts, names_and_shapes(net), names_and_shapes(fused)) == PUBLISHED[mosaic]


@both
def test_output_is_the_public_implementations(mosaic: bool) -> None:
    image = torch.from_numpy(np.random.RandomState(400).uniform(0, 1, (2, 3, 12, 16)))
    net = fill(SYENet(mosaic))
    for recorded, out in zip(RECORDED[mosaic], (net.train()(image), net.eval()(image)), strict=True):
        np.testing.assert_allclose(probes(out), recorded, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_branches_are_one_convolution(kernel: int) -> None:
    """Against each branch by itself, in training and in evaluation."""
    conv = ReparameterisedConv(3, 4, kernel, 6).double()
    names = [name for name, _ in conv.named_children() if name != "conv_out" and not name.endswith("_bn")]
    assert len(names) == {1: 1, 3: 4, 5: 5}[kernel]
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    for training in (True, False):
        found = conv.train(training)(x)
        # The same batch again gives the same output in training, and moves the statistics: evaluation comes after it.
        parts = [conv.get_submodule(name)(x) for name in [*names, *(f"{name}_bn" for name in names)]]
        torch.testing.assert_close(found, conv.conv_out(torch.cat(parts, 1)), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, F.conv2d(x, *conv.fused(), padding=kernel // 2), rtol=0, atol=0)


@both
def test_the_fused_network_is_the_same(mosaic: bool) -> None:
    net, image = trained(mosaic), torch.rand(2, 3, 9, 12, dtype=torch.float64)
    fused = net.fuse()
    torch.testing.assert_close(fused(image), net(image), rtol=0, atol=1e-12)
    again = SYENet(mosaic, fused=True).double()
    again.load_state_dict(fused.fuse().state_dict())
    assert torch.equal(again(image), fused(image))
    assert not any(module.training for module in fused.modules())


def test_a_mosaic_has_one_colour_of_each_pixel() -> None:
    image = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    packed = pack_mosaic(image)
    assert packed.shape == (2, 4, 2, 3)
    for channel, (colour, row, column) in enumerate([(0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)]):
        assert torch.equal(packed[:, channel], image[:, colour, row::2, column::2])


def test_odd_sides_are_made_even_for_a_mosaic() -> None:
    net, image = trained(mosaic=True), torch.rand(1, 3, 7, 9, dtype=torch.float64)
    whole = net(F.pad(image, (0, 1, 0, 1), mode="reflect"))
    torch.testing.assert_close(net(image), whole[..., :7, :9], rtol=0, atol=1e-12)


@both
def test_gradients_reach_all_parameters_but_those_of_the_warm_up(mosaic: bool) -> None:
    net = SYENet(mosaic, rep_scale=1)
    net(torch.rand(2, 3, 8, 10)).square().mean().backward()
    missing = {name for name, p in net.named_parameters() if p.grad is None}
    assert missing == {name for name, _ in net.named_parameters() if name.startswith("tail_warm.")}
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == missing


def test_a_batch_of_one_cannot_be_trained_on() -> None:
    net, image = SYENet(rep_scale=1), torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"SYENet: a batch of one image .* batch_size_per_gpu to 2 or more"):
        net(image)
    assert net.eval()(image).shape == net.fuse().train()(image).shape == image.shape


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="SYENet: rep_scale is 0; use 1 or more"):
        SYENet(rep_scale=0)
