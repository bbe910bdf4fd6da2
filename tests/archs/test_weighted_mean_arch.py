"""The weighted mean of networks: of their outputs, whole or in parts; what it refuses."""

import pytest
import torch
from helpers import seeded

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.archs.weighted_mean_arch import WeightedMean

SECTIONS = [{"type": "PQDynamicISP", "thumbnail": 32, "grid": grid} for grid in ([1, 1], [2, 2])]


def make() -> WeightedMean:
    torch.manual_seed(0)
    network = WeightedMean(SECTIONS, [0.25, 0.75]).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def test_it_is_the_mean_of_the_outputs():
    network, image = make(), torch.rand(2, 3, 20, 30, generator=seeded())
    first, second = (one(image) for one in network.networks)
    assert torch.allclose(network(image), 0.25 * first + 0.75 * second, atol=1e-6)


@torch.no_grad()
def test_parts_are_those_of_the_whole():
    network, image = make(), torch.rand(1, 3, 20, 30, generator=seeded())
    context = network.prepare(image)
    halves = [network.apply_prepared(image[..., left : left + 15], context, (0, left), (20, 30)) for left in (0, 15)]
    assert torch.allclose(torch.cat(halves, 3), network(image), atol=1e-6)


def test_without_parts_it_has_none():
    torch.manual_seed(0)
    unet = {"type": "NAFNet", "width": 4, "middle_blk_num": 0, "enc_blk_nums": [1], "dec_blk_nums": [0]}
    assert not hasattr(WeightedMean([SECTIONS[0], unet], [0.5, 0.5]), "prepare")


@pytest.mark.parametrize(
    ("sections", "weights", "message"),
    [
        (SECTIONS, [1.0], "2 networks have 1 weights"),
        (SECTIONS, [0.5, 0.4], "the weights' sum is 0.9"),
        ([{"thumbnail": 32}], [1.0], "network 1 has no type"),
        ([{"type": "Nothing"}], [1.0], "no network 'Nothing' is registered"),
    ],
)
def test_refused(sections, weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedMean(sections, weights)


def test_its_state_is_that_of_its_networks():
    network = make()
    other = PQDynamicISP(thumbnail=32, grid=(2, 2))
    state = {name[len("networks.1.") :]: value for name, value in network.state_dict().items() if "networks.1." in name}
    other.load_state_dict(state)
