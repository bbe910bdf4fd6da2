"""Ways to better pseudo pairs: of k-fold f_ISPs, and with the parameter sets of images that look alike."""

import pytest
import torch
from helpers import make_bank, seeded

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.experiments.tried import LookalikeInverse, generator_of_folds
from semiisp_plugin.isp import InvertibleISP
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.sources import BankInverse


def make_network(seed: int, **options) -> PQDynamicISP:
    torch.manual_seed(seed)
    network = PQDynamicISP(thumbnail=32, **options)
    with torch.no_grad():
        network.encoder.head.weight.normal_(std=0.05)
    return network.eval()


@pytest.fixture
def source() -> BankInverse:
    spec = make_network(0).spec
    return BankInverse(InvertibleISP(spec), make_bank(spec, 6, seed=1))


def test_folds_are_averaged_and_their_banks_joined(source):
    networks = [make_network(seed) for seed in (0, 1)]
    banks = [source, BankInverse(source.isp, make_bank(source.isp.spec, 4, seed=2))]
    parts = [
        PseudoPairGenerator(network, bank, update_quality=False, candidates=2)
        for network, bank in zip(networks, banks, strict=True)
    ]
    joined = generator_of_folds(parts)
    image = torch.rand(1, 3, 40, 48, generator=seeded(3))
    with torch.no_grad():
        torch.testing.assert_close(joined.network(image), sum(network(image) for network in networks) / 2)
    torch.testing.assert_close(joined.first.bank.sets, torch.cat([bank.bank.sets for bank in banks]))
    assert (joined.update_quality, joined.candidates) == (False, 2)


def test_sets_are_of_images_that_look_alike(source):
    """Dark pictures get the sets of dark images, bright ones those of bright images."""
    targets = [level + 0.05 * torch.rand(3, 40, 48, generator=seeded(k)) for k, level in enumerate((0.1, 0.8))]
    network = make_network(4)
    chosen = LookalikeInverse(source, network, [target**2 for target in targets], targets, (32, 40), nearest=1)
    pictures = torch.stack([(255 * target).to(torch.uint8) for target in targets])
    for seed in range(5):
        made = chosen.invert(pictures, seeded(seed)).image
        for k, picture in enumerate(pictures):
            own = LookalikeInverse(source, network, [targets[k] ** 2], [targets[k]], (32, 40), nearest=1)
            possible = torch.cat([own.invert(picture[None], seeded(other)).image for other in range(60)])
            assert (possible - made[k]).abs().amax((1, 2, 3)).min() < 1e-3
