"""HVI against the standard library's HSV and the formula of the paper."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import torch

from semiisp_plugin.archs.hvi import hvi_to_rgb, rgb_to_hvi

K = torch.tensor([0.2], dtype=torch.float64)


def colours() -> np.ndarray:
    """(M, 3): at random, with equal channels, primary colours, greys, black and white."""
    rng = np.random.default_rng(0)
    random = rng.uniform(0, 1, (60, 3))
    equal = random.copy()
    equal[:20, 0], equal[20:40, 1], equal[40:, 2] = equal[:20, 1], equal[20:40, 2], equal[40:, 0]
    corners = np.array(list(np.ndindex(2, 2, 2)), float)
    return np.concatenate([random, equal, corners, np.repeat(rng.uniform(0, 1, (5, 1)), 3, axis=1)])


def as_image(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.T.copy())[None, :, None]


def test_it_is_the_plane_of_hue_and_saturation() -> None:
    pixels = colours()
    expected = []
    for pixel in pixels:
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        radius = (math.sin(math.pi * v / 2) + 1e-8) ** 0.2 * s
        expected.append([radius * math.cos(2 * math.pi * h), radius * math.sin(2 * math.pi * h), v])
    found = rgb_to_hvi(as_image(pixels), K)[0, :, 0].T.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # the guards against zero


def test_back_it_is_the_colour_and_hsv_with_more_saturation() -> None:
    pixels = colours()
    hvi = rgb_to_hvi(as_image(pixels), K)
    for factor in (1.0, 1.3, 0.5):
        expected = []
        for pixel in pixels:
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            expected.append(colorsys.hsv_to_rgb(h, min(1, factor * s), v))
        found = hvi_to_rgb(hvi, K, factor)[0, :, 0].T.numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)  # sqrt(1e-8) of saturation at grey


def test_what_is_outside_is_clamped_and_no_hue_is_black() -> None:
    generator = torch.Generator().manual_seed(0)
    out = hvi_to_rgb(4 * torch.rand(1, 3, 50, 50, generator=generator) - 2, K.float())
    assert (out.min().item(), out.max().item()) >= (0, 0)
    assert out.max() <= 1
    # A hue just below red, which float32 rounds to a whole turn.
    just_below = torch.tensor([0.9, -2e-8, 0.8]).view(1, 3, 1, 1)
    assert hvi_to_rgb(just_below, K.float())[0, 0].item() == torch.tensor(0.8).item()


def test_gradients_are_finite_and_reach_the_density() -> None:
    image = as_image(colours()).float().requires_grad_()
    k = K.float().requires_grad_()
    hvi = rgb_to_hvi(image, k)
    hvi_to_rgb(hvi, k).square().sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert k.grad is not None
    assert torch.isfinite(k.grad).all()
    assert k.grad.abs() > 0


def test_nan_stays_where_it_is() -> None:
    image = torch.rand(1, 3, 4, 5)
    image[0, 1, 2, 3] = float("nan")
    out = hvi_to_rgb(rgb_to_hvi(image, K.float()), K.float())
    assert torch.equal(out.isnan(), image.isnan().any(1, keepdim=True).expand_as(out))
