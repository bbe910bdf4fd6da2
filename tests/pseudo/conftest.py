"""What several tests of builds need."""

import pytest
import torch

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.sources import BankInverse


@pytest.fixture(scope="module")
def generator() -> PseudoPairGenerator:
    """A small f_ISP that changes pictures visibly, with five sets to draw from."""
    torch.manual_seed(0)
    network = PQDynamicISP(grid=(2, 2), thumbnail=32)
    torch.nn.init.normal_(network.encoder.head.weight, std=0.05)
    bank = ParameterBank(network.spec, 5)
    bank.append(network.spec.squash(0.3 * torch.randn(5, 36, 1, 1)))
    return PseudoPairGenerator(network, BankInverse(network.spec, bank))
