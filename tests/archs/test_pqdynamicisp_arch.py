"""The encoder's dropout; what f_ISP computes is tested with the ISP's functions (tests/isp, tests/pseudo)."""

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
