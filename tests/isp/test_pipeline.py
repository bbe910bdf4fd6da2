"""The composed ISP, parameter layout and the parameter bank."""

import pytest
import torch

from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.isp.parameters import XYZ_TO_SRGB

VARIANTS = [
    ISPSpec(),
    ISPSpec(inverse_tone_mapping=True, gamma_start=1.0),
    ISPSpec(tie_xy=False, base_matrix=XYZ_TO_SRGB),
    ISPSpec(inverse_tone_mapping=True, it_sign=-1),
]


def sets(spec, n, seed, grid=(1, 1), spread=0.7):
    generator = torch.Generator().manual_seed(seed)
    return spec.squash(spread * torch.randn(n, spec.n_parameters, *grid, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(("spec", "count"), list(zip(VARIANTS, [36, 45, 42, 45], strict=True)))
def test_number_of_parameters(spec, count):
    assert spec.n_parameters == count
    where = spec.slices()
    assert next(iter(where)) == ("it" if spec.inverse_tone_mapping else "cc")
    assert sum(s.stop - s.start for s in where.values()) == count


@pytest.mark.parametrize("spec", VARIANTS)
def test_training_starts_at_the_documented_values(spec):
    p = spec.split(spec.squash(torch.zeros(1, spec.n_parameters, 1, 1, dtype=torch.float64)))
    assert p["cc"]["o"].abs().max() < 1e-12
    assert (p["cc"]["gain"] - 1).abs().max() < 1e-12
    assert (p["gm"]["g1"] - spec.gamma_start).abs().max() < 1e-12
    assert (p["cs"]["w"] - 0.47).abs().max() < 1e-12
    if spec.inverse_tone_mapping:
        assert (p["it"]["g4"] - 0.02).abs().max() < 1e-12


@pytest.mark.parametrize("grid", [(1, 1), (4, 3)])
@pytest.mark.parametrize("spec", VARIANTS)
def test_inverse_of_forward(spec, grid):
    """Exact wherever colour correction stayed in [0, 1]; that share must be most of the image."""
    isp = InvertibleISP(spec)
    parameters = sets(spec, 5, 0, grid, spread=0.3)
    raw = 0.02 + 0.3 * torch.rand(5, 3, 24, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    srgb = isp.forward(raw, parameters)
    assert srgb.min() >= 0
    assert srgb.max() <= 1
    # A pixel whose channels all lie strictly inside was not clamped on the way.
    inside = ((srgb > 1e-9) & (srgb < 1 - 1e-9)).all(1, keepdim=True).expand_as(raw)
    assert inside.double().mean() > (0.3 if spec.base_matrix == XYZ_TO_SRGB else 0.7)
    error = (isp.inverse(srgb, parameters).unclamped - raw).abs()
    assert error[inside].max() < 1e-9


@pytest.mark.parametrize("spec", VARIANTS)
def test_forward_of_inverse(spec):
    """Exact wherever nothing was clipped, and the clipped share is what was clamped."""
    isp = InvertibleISP(spec)
    parameters = sets(spec, 4, 2, spread=0.4)
    srgb = torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    result = isp.inverse(srgb, parameters)
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    if not spec.inverse_tone_mapping:
        outside = (result.unclamped < 0) | (result.unclamped > 1)
        assert torch.allclose(result.clipped, outside.flatten(1).float().mean(1))
        inside = ~outside.any(1, keepdim=True).expand_as(srgb)
        error = (isp.forward(result.image, parameters) - srgb).abs()
        assert error[inside].max() < 1e-9


@pytest.mark.parametrize("spec", VARIANTS)
def test_uint8_path_equals_the_general_one(spec):
    isp = InvertibleISP(spec)
    parameters = sets(spec, 3, 4)
    image = torch.randint(0, 256, (3, 3, 16, 18), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    fast = isp.inverse_uint8(image, parameters)
    slow = isp.inverse(image.double() / 255, parameters)
    assert torch.allclose(fast.unclamped, slow.unclamped, atol=1e-12)
    assert torch.allclose(fast.clipped, slow.clipped)


def test_uint8_path_refuses_what_it_cannot_do():
    isp = InvertibleISP(ISPSpec())
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"use inverse\(\)"):
        isp.inverse_uint8(image, sets(ISPSpec(), 1, 0, (2, 2)))


def test_wrong_parameter_sets_are_refused():
    isp = InvertibleISP(ISPSpec())
    image = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"expected \(N, 36, h, w\)"):
        isp.forward(image, torch.rand(2, 45, 1, 1))
    with pytest.raises(ValueError, match="one set an image"):
        isp.forward(image, torch.rand(1, 36, 1, 1))


def test_every_mixture_of_sets_is_invertible():
    """Local sets are interpolated: the matrices between two extreme ones must not become singular."""
    spec = ISPSpec()
    ends = spec.squash(20 * torch.randn(400, 36, 2, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64))
    fine = torch.nn.functional.interpolate(ends, size=(9, 9), mode="bilinear", align_corners=False)
    o = spec.split(fine)["cc"]["o"]
    rg, rb, gr, gb, br, bg = o.unbind(1)
    determinant = 1 - gb * bg - rg * (gr - gb * br) + rb * (gr * bg - br)
    assert determinant.min() > 1e-3


def test_bank_keeps_the_last_sets_in_order():
    spec = ISPSpec()
    bank = ParameterBank(spec, capacity=5)
    everything = sets(spec, 12, 7).float()
    for start in (0, 3, 4, 9):
        bank.append(everything[start : {0: 3, 3: 4, 4: 9, 9: 12}[start]])
    assert len(bank) == 5
    assert torch.equal(bank.sets, everything[-5:])
    again = ParameterBank.from_state_dict(bank.state_dict())
    assert torch.equal(again.sets, bank.sets)
    assert again.spec == spec
    again.append(everything[:2])
    assert torch.equal(again.sets, torch.cat((everything[-3:], everything[:2])))


def test_bank_of_a_batch_larger_than_itself():
    spec = ISPSpec()
    bank = ParameterBank(spec, capacity=3)
    everything = sets(spec, 8, 8).float()
    bank.append(everything)
    assert torch.equal(bank.sets, everything[-3:])


def test_draws_are_reproducible_and_per_function_ones_mix():
    spec = ISPSpec()
    bank = ParameterBank(spec, capacity=50)
    # Set number n consists of n alone, so that a drawn set shows where each of its values came from.
    bank.append(torch.arange(50.0).view(50, 1, 1, 1).expand(50, 36, 1, 1))

    def draw(**kwargs):
        return bank.draw(40, torch.Generator().manual_seed(9), **kwargs)

    assert torch.equal(draw(), draw())
    whole = draw()
    assert (whole == whole[:, :1]).all()
    mixed = draw(per_function=True)
    for where in spec.slices().values():
        part = mixed[:, where]
        assert (part == part[:, :1]).all()  # within a function, one index
    firsts = torch.stack([mixed[:, where][:, 0] for where in spec.slices().values()])
    assert (firsts != firsts[:1]).any(0).float().mean() > 0.9  # across functions, different ones


def test_empty_bank_says_what_to_do():
    with pytest.raises(ValueError, match="train f_ISP first"):
        ParameterBank(ISPSpec(), 4).draw(1, torch.Generator())


def test_bank_loads_with_weights_only(tmp_path):
    bank = ParameterBank(ISPSpec(), 4)
    bank.append(sets(ISPSpec(), 4, 10).float())
    torch.save(bank.state_dict(), tmp_path / "bank.pth")
    loaded = ParameterBank.from_state_dict(torch.load(tmp_path / "bank.pth", weights_only=True))
    assert torch.equal(loaded.sets, bank.sets)


@pytest.mark.parametrize("grid", [(1, 1), (3, 4)])
def test_large_images_are_handled_in_strips_with_the_same_result(grid):
    """The strips of the path without gradient against the whole image of the path with it."""
    spec = ISPSpec(inverse_tone_mapping=True)
    isp = InvertibleISP(spec)
    parameters = sets(spec, 1, 11, grid)
    image = torch.rand(1, 3, 130, 150, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    with_gradient = image.clone().requires_grad_()
    assert torch.allclose(isp.forward(image, parameters), isp.forward(with_gradient, parameters), atol=1e-14)
    strips, whole = isp.inverse(image, parameters), isp.inverse(with_gradient, parameters)
    assert torch.allclose(strips.image, whole.image, atol=1e-13)
    assert torch.equal(strips.clipped, whole.clipped)
