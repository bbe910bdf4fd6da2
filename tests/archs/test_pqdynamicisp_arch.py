"""Dropout and parts of images; what f_ISP computes is tested with the ISP's functions (tests/isp, tests/pseudo)."""

import pytest
import torch

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP


def test_dropout_is_for_training_alone():
    torch.manual_seed(0)
    network = PQDynamicISP(thumbnail=32, dropout=0.5)
    torch.nn.init.normal_(network.encoder.head.weight, std=0.1)
    image = torch.rand(2, 3, 32, 40)
    network.train()
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_dropout_adds_no_weights():
    """Checkpoints of before it was there load."""
    assert PQDynamicISP(thumbnail=32, dropout=0.5).state_dict().keys() == PQDynamicISP(thumbnail=32).state_dict().keys()


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_wrong_dropout(dropout):
    with pytest.raises(ValueError, match="give a probability"):
        PQDynamicISP(thumbnail=32, dropout=dropout)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 1), (1, 4)])
@pytest.mark.parametrize("inverse_tone_mapping", [False, True])
def test_parts_of_an_image_make_the_whole(grid, inverse_tone_mapping):
    """What `enhance` relies on: sets decided on the whole image, the grid interpolated to where a part lies."""
    torch.manual_seed(0)
    network = PQDynamicISP(inverse_tone_mapping, grid, thumbnail=32).double().eval()
    torch.nn.init.normal_(network.encoder.head.weight, std=0.3)
    image = torch.rand(2, 3, 37, 53, dtype=torch.float64)
    with torch.no_grad():
        whole = network(image)
        sets = network.prepare(image)
        assert torch.equal(network.apply_prepared(image, sets, (0, 0), (37, 53)), whole)
        out = torch.zeros_like(whole)
        for top in range(0, 37, 23):
            for left in range(0, 53, 19):
                tile = image[:, :, top : top + 23, left : left + 19]
                out[:, :, top : top + 23, left : left + 19] = network.apply_prepared(tile, sets, (top, left), (37, 53))
    # float32 places of the pixels, in both; nothing else may differ
    torch.testing.assert_close(out, whole, rtol=0, atol=1e-6)


def test_large_parts_go_by_strips():
    torch.manual_seed(0)
    network = PQDynamicISP(grid=(3, 2), thumbnail=32).eval()
    torch.nn.init.normal_(network.encoder.head.weight, std=0.1)
    image = torch.rand(1, 3, 300, 210)
    with torch.no_grad():
        part = network.apply_prepared(image[:, :, 20:, 7:], network.prepare(image), (20, 7), (300, 210))
        torch.testing.assert_close(part, network(image)[:, :, 20:, 7:], rtol=0, atol=1e-5)
