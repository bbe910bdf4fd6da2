"""Photometric augmentation of the baseline."""

import torch

from semiisp_plugin.data.photometric import photometric_jitter


def jitter(image, strength, seed=0):
    return photometric_jitter(image, strength, torch.Generator().manual_seed(seed))


def test_strength_0_changes_nothing():
    image = torch.rand(3, 3, 8, 9)
    assert torch.allclose(jitter(image, 0.0), image, atol=1e-6)


def test_brightness_and_saturation_are_scaled_by_one_factor_an_image():
    generator = torch.Generator().manual_seed(5)
    image = 0.3 + 0.2 * torch.rand(40, 3, 6, 6, generator=generator)
    out = jitter(image, 0.2)
    grey, grey_out = image.mean(1), out.mean(1)
    brightness = (grey_out / grey).flatten(1)
    assert (brightness.max(1).values - brightness.min(1).values).max() < 1e-4  # one factor for all pixels
    assert brightness.min() >= 0.8 - 1e-4
    assert brightness.max() <= 1.2 + 1e-4
    assert brightness[:, 0].std() > 0.05  # and another one for every image
    chroma = (out - grey_out[:, None]).flatten(1).norm(dim=1) / (image - grey[:, None]).flatten(1).norm(dim=1)
    saturation = chroma / brightness[:, 0]
    assert saturation.min() >= 0.8 - 1e-3
    assert saturation.max() <= 1.2 + 1e-3
    assert saturation.std() > 0.05


def test_reproducible_and_in_range():
    image = torch.rand(4, 3, 8, 8)
    assert torch.equal(jitter(image, 0.5, 1), jitter(image, 0.5, 1))
    assert not torch.equal(jitter(image, 0.5, 1), jitter(image, 0.5, 2))
    assert jitter(image, 1.0).min() >= 0
    assert jitter(image, 1.0).max() <= 1
