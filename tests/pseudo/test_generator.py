"""The three steps of making pseudo-data, against their composition written out with InvertibleISP."""

import pytest
import torch
from helpers import make_bank, seeded

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.isp import InverseResult, InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.sources import BankInverse

N_SETS = 7
GRID = (2, 3)


def of_bank(network: PQDynamicISP, bank: ParameterBank, **options) -> PseudoPairGenerator:
    return PseudoPairGenerator(network, BankInverse(network.spec, bank), **options)


@pytest.fixture(params=[False, True], ids=["raw", "image enhancement"])
def network(request) -> PQDynamicISP:
    torch.manual_seed(0)
    network = PQDynamicISP(inverse_tone_mapping=request.param, grid=GRID, thumbnail=32)
    # Untrained, it treats all images alike; a larger head makes its parameters depend on the image.
    torch.nn.init.normal_(network.encoder.head.weight, std=0.05)
    return network


@pytest.fixture
def photographs() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 40, 48), dtype=torch.uint8, generator=seeded(1))


def assert_rounded(target: torch.Tensor, value: torch.Tensor) -> None:
    """``target`` is ``value`` in [0, 1] rounded to 8 bits; 0.01 of a level is left for the order of summation."""
    assert target.dtype == torch.uint8
    assert float((target.double() - 255 * value.double().clamp(0, 1)).abs().max()) <= 0.5 + 0.01


@torch.no_grad()
def written_out(network, photographs, first_sets, second_sets):
    """Steps 1 to 3 image by image in double precision, without look-up tables."""
    isp = InvertibleISP(network.spec)
    local = network.double().eval()
    targets, inputs = [], []
    for photograph, first, second in zip(photographs, first_sets, second_sets, strict=True):
        raw = isp.inverse(photograph[None].double() / 255, first[None].double()).image  # step 1
        own = local.predict_parameters(raw)
        updated = isp.forward(raw, own)  # step 2
        stored = (updated.clamp(0, 1) * 255).round() / 255
        inverse = isp.inverse(stored, second[None].double())  # step 3
        targets.append(updated)
        inputs.append(inverse.image)
    network.float()
    return torch.cat(targets), torch.cat(inputs)


def test_three_steps_with_global_sets(network, photographs):
    bank = make_bank(network.spec, N_SETS, 5)
    pair = of_bank(network, bank).generate(photographs, seeded(11))
    # The draws as the paper describes them: one index a photograph and step, uniform over the bank.
    draws = seeded(11)
    first, second = (bank.sets[torch.randint(N_SETS, (3,), generator=draws)] for _ in range(2))
    updated, expected = written_out(network, photographs, first, second)
    assert_rounded(pair.target, updated)
    # A rounding to the other neighbour moves the input by the slope of the inverse; compare where there was none.
    same = pair.target == (updated * 255).round().to(torch.uint8)
    assert float(same.double().mean()) > 0.999
    whole = same.all(dim=1, keepdim=True).expand_as(same)
    assert float((pair.input - expected)[whole].abs().max()) < 1e-5
    assert pair.input.dtype == torch.float32


def test_step_3_with_local_sets_drawn_per_function(network, photographs):
    bank, local_bank = make_bank(network.spec, N_SETS, 5), make_bank(network.spec, N_SETS, 6, GRID)
    first, second = BankInverse(network.spec, bank), BankInverse(network.spec, local_bank, per_function=True)
    generator = PseudoPairGenerator(network, first, second)
    pair = generator.generate(photographs, seeded(12))
    draws = seeded(12)
    torch.randint(N_SETS, (3,), generator=draws)  # step 1
    indices, parts = [], []
    for where in network.spec.slices().values():
        indices.append(torch.randint(N_SETS, (3,), generator=draws))
        parts.append(local_bank.sets[indices[-1]][:, where])
    assert len({tuple(i.tolist()) for i in indices}) > 1, "the functions' indices are not independent"
    sets = torch.cat(parts, dim=1)
    expected = InvertibleISP(network.spec).inverse(pair.target.double() / 255, sets.double())
    assert float((pair.input - expected.image).abs().max()) < 1e-5
    assert torch.allclose(pair.clipped.double(), expected.clipped.double(), atol=1e-3)


def test_without_updating_the_quality_the_photograph_is_the_target(network, photographs):
    bank = make_bank(network.spec, N_SETS, 5)
    pair = of_bank(network, bank, update_quality=False).generate(photographs, seeded(13))
    assert torch.equal(pair.target, photographs)
    sets = bank.sets[torch.randint(N_SETS, (3,), generator=seeded(13))]
    expected = InvertibleISP(network.spec).inverse(photographs.double() / 255, sets.double())
    assert float((pair.input - expected.image).abs().max()) < 1e-5


def test_ranges_and_clipped_share(network, photographs):
    bank = make_bank(network.spec, N_SETS, 5)
    pair = of_bank(network, bank).generate(photographs, seeded(14))
    assert pair.target.shape == pair.input.shape == photographs.shape
    assert pair.clipped.shape == (3,)
    assert float(pair.input.min()) >= 0
    assert float(pair.input.max()) <= 1
    assert 0 < float(pair.clipped.mean()) < 1  # noise images have colours that the inverse cannot reach
    assert not pair.input.requires_grad


def test_same_state_gives_the_same_pairs(network, photographs):
    generator = of_bank(network, make_bank(network.spec, N_SETS, 5))
    before, state = photographs.clone(), torch.get_rng_state()
    one, same, other = (generator.generate(photographs, seeded(seed)) for seed in (15, 15, 16))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.target, other.target)
    assert not torch.equal(one.input, other.input)
    assert torch.equal(photographs, before), "the caller's photographs were changed"
    assert torch.equal(torch.get_rng_state(), state), "drawn from the global generator"


def test_step_3_alone_gives_many_inputs_of_one_target(network, photographs):
    generator = of_bank(network, make_bank(network.spec, N_SETS, 5))
    draws = seeded(17)
    pairs = [generator.generate_input(photographs, draws) for _ in range(3)]
    assert all(torch.equal(pair.target, photographs) for pair in pairs)
    assert not torch.equal(pairs[0].input, pairs[1].input)
    assert not torch.equal(pairs[1].input, pairs[2].input)


def test_the_network_is_put_into_evaluation_mode(network):
    network.train()
    of_bank(network, make_bank(network.spec, N_SETS, 5))
    assert not network.training


def test_banks_of_another_isp_are_refused(network):
    other = ISPSpec(inverse_tone_mapping=not network.spec.inverse_tone_mapping)
    good, bad = make_bank(network.spec, N_SETS, 5), make_bank(other, N_SETS, 5)
    first, second = BankInverse(network.spec, good), BankInverse(other, bad)
    with pytest.raises(ValueError, match="same training run"):
        PseudoPairGenerator(network, second)
    with pytest.raises(ValueError, match="same training run"):
        PseudoPairGenerator(network, first, second)
    with pytest.raises(ValueError, match="same training run"):
        BankInverse(network.spec, bad)


def test_an_empty_bank_is_an_error(network, photographs):
    generator = of_bank(network, ParameterBank(network.spec, 3))
    with pytest.raises(ValueError, match="phase 1"):
        generator.generate(photographs, seeded(0))


class Halved:
    """An sRGB-to-RAW of somebody else's, which draws one number an image."""

    def invert(self, image: torch.Tensor, generator: torch.Generator) -> InverseResult:
        factor = torch.rand(len(image), 1, 1, 1, generator=generator) / 2
        return InverseResult(image.float() / 255 * factor, torch.full((len(image),), 0.25))


def test_any_other_source_takes_steps_1_and_3_and_leaves_step_2_to_f_isp(network, photographs):
    pair = PseudoPairGenerator(network, Halved()).generate(photographs, seeded(18))
    draws = seeded(18)
    first, second = (torch.rand(3, 1, 1, 1, generator=draws) / 2 for _ in range(2))
    with torch.no_grad():
        updated = network(photographs.float() / 255 * first)
    assert_rounded(pair.target, updated)
    assert torch.equal(pair.input, pair.target.float() / 255 * second)
    assert pair.clipped.tolist() == [0.25] * 3


def test_of_several_candidates_the_one_that_f_isp_turns_back_best_is_kept(network, photographs):
    bank = make_bank(network.spec, N_SETS, 5)
    photographs = torch.cat([photographs, photographs.flip(0)])  # six, so that different draws win
    draws = seeded(3)
    inverse = BankInverse(network.spec, bank)
    made = [inverse.invert(photographs, draws) for _ in range(4)]
    with torch.no_grad():
        errors = torch.stack(
            [(network.eval()(one.image) - photographs.float() / 255).square().mean((1, 2, 3)) for one in made]
        )
    best = errors.argmin(0)
    assert len(set(best.tolist())) > 1
    pair = of_bank(network, bank, candidates=4).generate_input(photographs, seeded(3))
    for i, k in enumerate(best.tolist()):
        torch.testing.assert_close(pair.input[i], made[k].image[i], rtol=0, atol=0)
        assert pair.clipped[i] == made[k].clipped[i]
    assert torch.equal(pair.target, photographs)


def test_candidates_are_at_least_one(network):
    with pytest.raises(ValueError, match="candidates: 0 inputs"):
        of_bank(network, make_bank(network.spec, N_SETS, 5), candidates=0)


def test_a_candidate_that_f_isp_makes_nan_of_is_not_kept(network, photographs, monkeypatch):
    bank = make_bank(network.spec, N_SETS, 5)
    generator = of_bank(network, bank, candidates=2)
    outputs = iter([torch.full((3, 3, 40, 48), torch.nan), torch.zeros(3, 3, 40, 48)])
    monkeypatch.setattr(generator, "network", lambda image: next(outputs))
    draws = seeded(3)
    inverse = BankInverse(network.spec, bank)
    inverse.invert(photographs, draws)
    expected = inverse.invert(photographs, draws).image
    torch.testing.assert_close(generator.generate_input(photographs, seeded(3)).input, expected, rtol=0, atol=0)
