"""sRGB-to-RAW methods: UPI against its ISP run forwards, and the two that invert f_ISP."""

import math

import numpy as np
import pytest
import torch
from helpers import make_bank, seeded

from semiisp_plugin.isp import InvertibleISP, ISPSpec, PaperLUTSettings, ParameterBank
from semiisp_plugin.pseudo import sources
from semiisp_plugin.pseudo.sources import (
    UPI,
    BankInverse,
    DeterministicInverse,
    MixtureInverse,
    draw_colour_matrices,
    draw_gains,
    inverse_smoothstep,
    invert_gains,
)

SPECS = {"raw": ISPSpec(), "image enhancement": ISPSpec(inverse_tone_mapping=True)}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 40, 48), dtype=torch.uint8, generator=seeded(1))


@pytest.fixture(params=SPECS.values(), ids=SPECS)
def spec(request) -> ISPSpec:
    return request.param


# --- f_ISP^-1 with sets of the bank ----------------------------------------------------------------------------------


@pytest.mark.parametrize("per_function", [False, True])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_bank_inverse_is_the_inverse_with_drawn_sets(spec, images, grid, per_function):
    bank = make_bank(spec, 6, 5, grid)
    result = BankInverse(spec, bank, per_function).invert(images, seeded(2))
    sets = bank.draw(len(images), seeded(2), per_function=per_function)
    expected = InvertibleISP(spec).inverse(images.double() / 255, sets.double())
    assert result.image.dtype == torch.float32
    assert float((result.image - expected.image).abs().max()) < 1e-5
    assert torch.allclose(result.clipped.double(), expected.clipped.double(), atol=1e-3)


def test_bank_inverse_takes_an_isp_or_what_it_consists_of(spec, images):
    bank, isp = make_bank(spec, 6, 5), InvertibleISP(spec)
    shared, own = BankInverse(isp, bank), BankInverse(spec, bank)
    assert shared.isp is isp
    assert torch.equal(shared.invert(images, seeded(3)).image, own.invert(images, seeded(3)).image)


def test_tables_and_backend_go_to_the_isp():
    spec = ISPSpec()
    lut = PaperLUTSettings(sizes=(3, 3, 3, 50, 20))
    source = BankInverse(InvertibleISP(spec, lut), make_bank(spec, 6, 5), backend="paper_lut")
    assert source.isp.lut is lut
    assert source.backend == "paper_lut"


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_mixture_inverse_is_the_inverse_with_sets_between_two(spec, images, grid):
    bank = make_bank(spec, 6, 5, grid)
    result = MixtureInverse(spec, bank).invert(images, seeded(2))
    draws = seeded(2)
    first, second = (bank.draw(len(images), draws).double() for _ in range(2))
    share = torch.rand(len(images), 1, 1, 1, generator=draws).double()
    expected = InvertibleISP(spec).inverse(images.double() / 255, (1 - share) * first + share * second)
    assert float((result.image - expected.image).abs().max()) < 1e-5
    one, same, other = (MixtureInverse(spec, bank).invert(images, seeded(s)).image for s in (1, 1, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_deterministic_inverse_has_one_set(spec, images):
    bank = make_bank(spec, 6, 5)
    source = DeterministicInverse(spec, bank)
    one, other = (source.invert(images, seeded(seed)) for seed in (1, 2))
    assert torch.equal(one.image, other.image)
    mean = torch.stack([bank.sets[i].double() for i in range(len(bank))]).sum(0) / len(bank)
    expected = InvertibleISP(spec).inverse(images.double() / 255, mean.expand(len(images), -1, -1, -1))
    assert float((one.image - expected.image).abs().max()) < 1e-5
    # Equal images, equal results: one-to-one, where the bank's are one-to-many.
    twins = images[:1].expand(2, -1, -1, -1)
    assert torch.equal(*source.invert(twins, seeded(1)).image)
    many = BankInverse(spec, bank).invert(images[:1].expand(8, -1, -1, -1), seeded(1)).image
    assert len({tuple(image.flatten()[:50].tolist()) for image in many}) > 2


def test_deterministic_inverse_of_local_sets_keeps_their_grid():
    spec = ISPSpec()
    bank = make_bank(spec, 6, 5, (2, 3))
    source = DeterministicInverse(spec, bank)
    torch.testing.assert_close(source.bank.sets, bank.sets.mean(0, keepdim=True))


def test_deterministic_inverse_needs_sets():
    with pytest.raises(ValueError, match="phase 1"):
        DeterministicInverse(ISPSpec(), ParameterBank(ISPSpec(), 3))


# --- UPI -------------------------------------------------------------------------------------------------------------


def test_inverse_smoothstep():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(inverse_smoothstep(3 * x**2 - 2 * x**3), x, rtol=0, atol=1e-7)  # flat at 0 and 1
    inside = x[50:-50]
    torch.testing.assert_close(inverse_smoothstep(3 * inside**2 - 2 * inside**3), inside, rtol=0, atol=1e-14)


def test_colour_matrices_are_mixtures_that_keep_white():
    matrices = draw_colour_matrices(500, seeded(0)).double()
    torch.testing.assert_close(matrices.sum(2), torch.ones(500, 3, dtype=torch.float64), rtol=0, atol=1e-6)
    # Solve for the weights of the four cameras that give each matrix, up to a factor a row: they must be positive.
    cameras = np.array(sources._XYZ_TO_CAMERA)
    xyz = matrices.numpy() @ np.linalg.inv(np.array(sources._SRGB_TO_XYZ))
    for matrix in xyz[:50]:
        # Unknown: 4 weights and 3 row factors, up to a common scale; the null space of 9 equations is that scale.
        equations = np.zeros((9, 7))
        for row in range(3):
            for column in range(3):
                equations[3 * row + column, :4] = cameras[:, row, column]
                equations[3 * row + column, 4 + row] = -matrix[row, column]
        solution = np.linalg.svd(equations)[2][-1]
        weights = solution[:4] / solution[:4].sum()
        assert np.abs(equations @ solution).max() < 1e-5
        assert weights.min() > -1e-3
    assert float(matrices.std(0).min()) > 0.002
    assert float(torch.linalg.det(matrices).min()) > 0.1  # cameras: invertible


def test_gains_have_the_distributions_of_the_paper():
    n = 20_000
    gains = draw_gains(n, seeded(0)).double()
    red, blue = gains[:, 0] / gains[:, 1], gains[:, 2] / gains[:, 1]
    for ratio, low, high in ((red, 1.9, 2.4), (blue, 1.5, 1.9)):
        assert low - 1e-6 <= float(ratio.min()) < low + 0.01
        assert high - 0.01 < float(ratio.max()) <= high + 1e-6
        assert float(ratio.mean()) == pytest.approx((low + high) / 2, abs=4 * (high - low) / math.sqrt(12 * n))
    inverse = 1 / gains[:, 1]
    assert float(inverse.mean()) == pytest.approx(0.8, abs=4 * 0.1 / math.sqrt(n))
    assert float(inverse.std()) == pytest.approx(0.1, rel=0.03)
    correlations = torch.corrcoef(torch.stack((red, blue, inverse)))
    assert float((correlations - torch.eye(3, dtype=torch.float64)).abs().max()) < 0.03


def test_gains_leave_highlights_white():
    gains = torch.tensor([[2.5, 1.25, 2.0]])
    grey = torch.linspace(0, 1, 11)
    image = grey.view(1, 1, 1, -1).expand(1, 3, 1, -1)
    out = invert_gains(image, gains)[0, :, 0]
    torch.testing.assert_close(out[:, :10], grey[:10] / gains[0][:, None])  # up to 0.9
    torch.testing.assert_close(out[:, 10], torch.ones(3))
    # Halfway from 0.9 to 1 the mask is a quarter.
    out = invert_gains(torch.full((1, 3, 1, 1), 0.95), gains)[0, :, 0, 0]
    torch.testing.assert_close(out, 0.95 * (0.25 + 0.75 / gains[0]))
    # A gain below 1 darkens going forwards; its inverse never makes a highlight darker than it does elsewhere.
    assert float(invert_gains(torch.ones(1, 3, 1, 1), torch.full((1, 3), 0.8)).min()) == pytest.approx(1.25)


def draws_of(n: int, seed: int, image_enhancement: bool) -> tuple[torch.Tensor, torch.Tensor]:
    draws = seeded(seed)
    matrices = torch.eye(3).expand(n, 3, 3) if image_enhancement else draw_colour_matrices(n, draws)
    return matrices.double(), draw_gains(n, draws).double()


def test_the_isp_of_upi_gives_the_image_back(images):
    """Forwards: gains, colour correction, gamma, tone curve; where nothing was clamped or kept white."""
    result = UPI().invert(images, seeded(4))
    matrices, gains = draws_of(len(images), 4, False)
    linear = torch.einsum("nij,njhw->nihw", matrices, (inverse_smoothstep(images.double() / 255)).pow(2.2))
    balanced = result.image.double() * gains[:, :, None, None]
    colours = torch.einsum("nij,njhw->nihw", torch.linalg.inv(matrices), balanced).clamp(0, 1)
    encoded = colours.pow(1 / 2.2)
    forward = 3 * encoded**2 - 2 * encoded**3
    untouched = (linear / gains[:, :, None, None] <= 1).all(1) & (linear.mean(1) <= 0.9)
    assert float(untouched.double().mean()) > 0.9
    difference = (forward - images.double() / 255).abs().amax(1)[untouched]
    assert float(difference.max()) < 2e-3  # float32, and the tone curve is steep in the dark
    assert float(difference.mean()) < 1e-5
    assert result.image.dtype == torch.float32


@pytest.mark.parametrize("image_enhancement", [False, True])
def test_share_of_clipped_values(image_enhancement):
    """An ISP that darkens, 1 / N(0.8, 0.1) < 1, sends bright green beyond white."""
    white = torch.full((400, 3, 2, 2), 255, dtype=torch.uint8)
    result = UPI(image_enhancement).invert(white, seeded(4))
    _, gains = draws_of(400, 4, image_enhancement)
    expected = (gains < 1).double().mean(1)
    assert sorted(set(expected.tolist())) == pytest.approx([0, 1 / 3])
    assert 0.01 < float((expected > 0).double().mean()) < 0.04
    torch.testing.assert_close(result.clipped.double(), expected, rtol=0, atol=1e-6)


def test_image_enhancement_is_exposure_and_balance_alone(images):
    result = UPI(image_enhancement=True).invert(images, seeded(4))
    _, gains = draws_of(len(images), 4, True)
    linear = inverse_smoothstep(images.double() / 255).pow(2.2)
    dark = linear.mean(1, keepdim=True) <= 0.9
    encoded = (linear / gains[:, :, None, None]).clamp(0, 1).pow(1 / 2.2)
    expected = 3 * encoded**2 - 2 * encoded**3
    assert float((result.image - expected)[dark.expand_as(expected)].abs().max()) < 1e-5
    # Each channel is a curve of its own: equal values stay equal.
    for channel in range(3):
        values = images[0, channel].flatten()
        for level in (40, 200):
            same = result.image[0, channel].flatten()[(values == level) & dark[0, 0].flatten()]
            assert len(same) > 1
            assert len(same.unique()) == 1
    red, green, blue = result.image.mean((0, 2, 3)).tolist()
    assert max(red, blue) < green < float(images.float().mean() / 255)


@pytest.mark.parametrize("image_enhancement", [False, True])
def test_upi_draws_for_each_image_and_from_the_given_generator_alone(images, image_enhancement):
    source, state = UPI(image_enhancement), torch.get_rng_state()
    twins = images[:1].expand(2, -1, -1, -1)
    one, same, other = (source.invert(twins, seeded(seed)).image for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


@pytest.mark.parametrize("image_enhancement", [False, True])
def test_upi_keeps_black_and_white(image_enhancement):
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    for seed in range(20):
        out = UPI(image_enhancement).invert(extremes, seeded(seed)).image[0, :, 0]
        torch.testing.assert_close(out[:, 0], torch.zeros(3), rtol=0, atol=1e-6)
        torch.testing.assert_close(out[:, 1], torch.ones(3), rtol=0, atol=1e-5)
