"""Noise of known strength, added by the function that implements eq. 15, and found again."""

import cv2
import numpy as np
import pytest
import torch

from semiisp_plugin.pseudo import noise_estimation
from semiisp_plugin.pseudo.noise import add_shot_read_noise, draw_noise_levels
from semiisp_plugin.pseudo.noise_estimation import estimate_noise, estimate_noise_bounds

LEVEL = 1 / 255


def picture(seed: int, low: float = 0.04, high: float = 0.8, size: tuple[int, int] = (320, 400)) -> torch.Tensor:
    """``(3, H, W)`` float64: shades from dark to bright, each half smooth and half under texture, and sharp edges."""
    rng = np.random.default_rng(seed)
    height, width = size
    ramp = low + (high - low) * np.linspace(0, 1, height)[:, None, None] ** rng.uniform(1, 2, 3)
    texture = cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)), (0, 0), 0.7)
    texture[:, width // 2 :] = 0
    image = ramp * (1 + 0.3 * texture)
    image[:, ::40] = high
    return torch.from_numpy(image.clip(low, high)).permute(2, 0, 1)


def noisy(image: torch.Tensor, shot: float, read: float, seed: int = 0) -> torch.Tensor:
    levels = torch.tensor([[shot], [read]], dtype=image.dtype)
    return add_shot_read_noise(image[None], *levels, torch.Generator().manual_seed(seed))[0]


def rounded(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round() / 255


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shot", "read"), [(2e-3, 2e-4), (1e-3, 1e-3), (5e-4, 5e-5)], ids=["both", "more read", "little"]
)
@pytest.mark.parametrize("seed", range(3))
def test_known_noise_is_found(shot, read, seed, dtype):
    image = noisy(picture(seed), shot, read, seed).to(dtype)
    found = estimate_noise(image)
    assert found.shot_variance == pytest.approx(shot, rel=0.25)
    assert found.read_variance == pytest.approx(read, rel=0.25)
    found = estimate_noise(rounded(image))
    assert found.shot_variance == pytest.approx(shot, rel=0.25)
    assert found.read_variance == pytest.approx(read, rel=0.25)


@pytest.mark.parametrize(("shot", "read"), [(0.01, 0.0), (0.0, 1e-4)])
@pytest.mark.parametrize("seed", range(3))
def test_one_kind_of_noise_alone(shot, read, seed):
    found = estimate_noise(noisy(picture(seed), shot, read, seed))
    assert found.shot_variance == pytest.approx(shot, rel=0.1, abs=0.1 * read)
    assert found.read_variance == pytest.approx(read, rel=0.1, abs=0.02 * shot)


@pytest.mark.parametrize("seed", range(3))
def test_no_noise(seed):
    image = picture(seed)
    assert estimate_noise(image) == pytest.approx((0, 0), abs=1e-8)
    # Rounding, as far as it shows, is all there is in 8 bits.
    assert sum(estimate_noise(rounded(image))) < 1.5 * LEVEL**2 / 12


@pytest.mark.parametrize("levels", [0.5, 0.8, 1.0, 1.3, 2.0, 5.0])
def test_noise_of_a_few_levels_in_8_bits(levels):
    """Where the median of rounded values could only be a multiple of 0.5 / 0.6745 levels."""
    image = rounded(noisy(picture(4), 0.0, (levels * LEVEL) ** 2))
    shot, read = estimate_noise(image)
    assert (read + 0.4 * shot) / LEVEL**2 == pytest.approx(levels**2 + 1 / 12, rel=0.15)


def test_clipped_shades_are_left_out(monkeypatch):
    """In the dark, half of the noise is gone and the rest would be taken for all of it."""
    shot, read = 1e-3, 4e-4
    image = picture(1, low=0.0, high=1.0)
    found = estimate_noise(noisy(image, shot, read))
    assert found.shot_variance == pytest.approx(shot, rel=0.25)
    assert found.read_variance == pytest.approx(read, rel=0.25)
    monkeypatch.setattr(noise_estimation, "_CLIPPED_SHARE", 1.0)
    naive = estimate_noise(noisy(image, shot, read))
    assert naive.read_variance < 0.75 * read, "the picture is not dark enough to say anything"


def test_nothing_but_clipped_shades():
    with pytest.raises(ValueError, match="at every brightness, values are clipped"):
        estimate_noise(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="clipped"):
        estimate_noise(noisy(torch.full((3, 64, 64), 0.01, dtype=torch.float64), 0.0, 1e-3))


def test_one_brightness_leaves_the_sum():
    found = estimate_noise(noisy(torch.full((3, 200, 200), 0.4, dtype=torch.float64), 2e-3, 4e-4))
    assert 0.4 * found.shot_variance + found.read_variance == pytest.approx(0.4 * 2e-3 + 4e-4, rel=0.1)


def test_odd_sizes_and_the_callers_image():
    image = noisy(picture(0, size=(151, 233)), 2e-3, 2e-4)
    before = image.clone()
    found = estimate_noise(image)
    assert found.shot_variance == pytest.approx(2e-3, rel=0.3)
    assert torch.equal(image, before)
    assert found == estimate_noise(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 3, 64, 64), r"\(3, H, W\)"),
        (torch.rand(64, 64, 3), r"\(3, H, W\)"),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), "floating point, not .* torch.uint8"),
        (torch.rand(3, 31, 64), "64x31 pixels is too small"),
    ],
)
def test_unusable_images(image, message):
    with pytest.raises(ValueError, match=message):
        estimate_noise(image)


def test_bounds_give_noise_of_the_images_strength():
    shot, read = 4e-3, 4e-4
    images = [noisy(picture(seed, size=(160, 200)), shot, read, seed) for seed in range(8)]
    bounds = estimate_noise_bounds([*images, torch.zeros(3, 64, 64, dtype=torch.float64)])  # which is left out
    drawn = [float(level.mean()) for level in draw_noise_levels(20_000, torch.Generator().manual_seed(0), *bounds)]
    assert drawn == pytest.approx([shot, read], rel=0.25)
    estimates = np.array([estimate_noise(image) for image in images])
    assert bounds == pytest.approx(2 * np.median(estimates, axis=0))


def test_bounds_of_no_usable_image():
    with pytest.raises(ValueError, match=r"No image to estimate noise from\.$"):
        estimate_noise_bounds([])
    with pytest.raises(ValueError, match=r"No image to estimate noise from; the last one: .* clipped"):
        estimate_noise_bounds([torch.zeros(3, 64, 64)])
