"""Signal-dependent noise (eq. 15), measured on flat patches.

Bounds are five standard errors: of a mean, sigma / sqrt(n); of a variance of normal values, sigma^2 sqrt(2 / (n - 1)).
The seeds are fixed, so that the tests pass or fail for good.
"""

import math

import pytest
import torch
from helpers import seeded

from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE, add_shot_read_noise, draw_noise_levels

SIDE = 128
N = 3 * SIDE * SIDE


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).clone()


def noisy_residual(value: float, shot: float, read: float, seed: int = 0) -> torch.Tensor:
    image = flat(value)
    noisy = add_shot_read_noise(image, torch.tensor([shot]), torch.tensor([read]), seeded(seed))
    return (noisy - image).double()


# All at least five standard deviations away from 0 and 1: nothing is clamped.
@pytest.mark.parametrize(
    ("value", "shot", "read"),
    [(0.5, 0.01, 0.0002), (0.5, 0.0, 0.0002), (0.3, 0.01, 0.0), (0.15, 0.005, 0.0001), (0.7, 0.002, 0.0002)],
)
def test_mean_and_variance_of_a_flat_patch(value, shot, read):
    residual = noisy_residual(value, shot, read)
    variance = shot * value + read
    assert abs(float(residual.mean())) < 5 * math.sqrt(variance / N)
    assert abs(float(residual.var()) - variance) < 5 * variance * math.sqrt(2 / (N - 1))


def test_noise_is_normal_and_independent():
    residual = noisy_residual(0.5, 0.004, 0.0001)[0]
    z = residual / residual.std()
    # Kurtosis of a normal distribution is 3 (standard error sqrt(24 / n)), its skewness 0 (sqrt(6 / n)).
    assert abs(float((z**4).mean()) - 3) < 5 * math.sqrt(24 / N)
    assert abs(float((z**3).mean())) < 5 * math.sqrt(6 / N)
    correlations = [
        (z[0] * z[1]).mean(),
        (z[1] * z[2]).mean(),
        (z[:, :, 1:] * z[:, :, :-1]).mean(),
        (z[:, 1:] * z[:, :-1]).mean(),
    ]
    assert max(abs(float(c)) for c in correlations) < 5 / SIDE  # standard error at most 1 / sqrt(128 * 127)


def test_every_image_has_its_own_levels():
    values = (0.4, 0.4, 0.6)
    shot, read = torch.tensor([0.0, 0.004, 0.004]), torch.tensor([0.0001, 0.0, 0.0002])
    image = flat(*values)
    noisy = add_shot_read_noise(image, shot, read, seeded())
    for i, value in enumerate(values):
        expected = float(shot[i]) * value + float(read[i])
        measured = float((noisy[i] - image[i]).double().var())
        assert abs(measured - expected) < 5 * expected * math.sqrt(2 / (N - 1)), i


def test_result_is_clamped_to_the_unit_interval():
    image = flat(0.0, 1.0)
    noisy = add_shot_read_noise(image, torch.tensor([0.01, 0.01]), torch.tensor([0.0002, 0.0002]), seeded())
    assert float(noisy.min()) == 0
    assert float(noisy.max()) == 1
    # Half of the noise points outwards.
    for share in ((noisy[0] == 0).float().mean(), (noisy[1] == 1).float().mean()):
        assert abs(float(share) - 0.5) < 5 * math.sqrt(0.25 / N)


def test_no_noise_leaves_the_image_alone():
    image = torch.rand(2, 3, 5, 7, generator=seeded())
    before = image.clone()
    zero = torch.zeros(2)
    assert torch.equal(add_shot_read_noise(image, zero, zero, seeded()), before)
    add_shot_read_noise(image, torch.full((2,), 0.01), zero, seeded())
    assert torch.equal(image, before), "the caller's image was changed"


def test_levels_are_uniform_variances_drawn_for_each_image():
    n = 4000
    shot, read = draw_noise_levels(n, seeded())
    for levels, bound in ((shot, 0.01), (read, 0.0002)):
        assert levels.shape == (n,)
        assert float(levels.min()) >= 0
        assert float(levels.max()) <= bound
        # Uniform: mean bound / 2, and a tenth of the draws in each tenth of the range.
        assert abs(float(levels.double().mean()) - bound / 2) < 5 * bound / math.sqrt(12 * n)
        counts = torch.histc(levels / bound, bins=10, min=0, max=1)
        assert float((counts - n / 10).abs().max()) < 5 * math.sqrt(n * 0.09)
        assert len(levels.unique()) > 0.99 * n
    correlation = torch.corrcoef(torch.stack((shot, read)))[0, 1]
    assert abs(float(correlation)) < 5 / math.sqrt(n)
    assert (SHOT_VARIANCE, READ_VARIANCE) == (0.01, 0.0002)  # Sec. A.3


def test_bounds_of_the_levels_can_be_given():
    shot, read = draw_noise_levels(500, seeded(), shot_variance=0.5, read_variance=0.0)
    assert 0.4 < float(shot.max()) <= 0.5
    assert not bool(read.any())


def test_reproducible_and_without_global_state():
    image = torch.rand(2, 3, 8, 8, generator=seeded(3))
    state = torch.get_rng_state()

    def draw(seed: int) -> torch.Tensor:
        generator = seeded(seed)
        return add_shot_read_noise(image, *draw_noise_levels(2, generator), generator)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), state)
