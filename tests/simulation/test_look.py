"""Looks: monotone, neutral at the ends of the scale, inside the gamut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from semiisp_plugin.simulation.look import DEFAULT_LOOK, LOOKS, NEUTRAL_LOOK, Look, apply_look, tone_curve


def _images(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(seed))


def _luma(image: torch.Tensor) -> torch.Tensor:
    return 0.2126 * image[:, 0] + 0.7152 * image[:, 1] + 0.0722 * image[:, 2]


@st.composite
def curves(draw: st.DrawFn) -> tuple[tuple[float, float], ...]:
    n = draw(st.integers(0, 5))
    steps = st.lists(st.floats(0.02, 1), min_size=n + 1, max_size=n + 1)
    x, y = (np.cumsum(draw(steps)) for _ in range(2))
    return ((0.0, 0.0), *zip((x / x[-1])[:-1].tolist(), (y / y[-1])[:-1].tolist(), strict=True), (1.0, 1.0))


@settings(max_examples=60)
@given(curves())
def test_tone_curve_is_monotone_and_is_scipys_pchip(points: tuple[tuple[float, float], ...]) -> None:
    values = torch.linspace(0, 1, 501, dtype=torch.float64)
    output = tone_curve(values, points)
    assert (output.diff() > -1e-12).all()
    assert output[0] == 0
    assert float(output[-1]) == pytest.approx(1, abs=1e-12)
    reference = PchipInterpolator(*np.array(points).T)(values.numpy()) if len(points) > 2 else values.numpy()
    np.testing.assert_allclose(output.numpy(), reference, atol=1e-9)


def test_tone_curve_goes_through_its_points() -> None:
    x, y = torch.tensor(DEFAULT_LOOK.curve).T
    torch.testing.assert_close(tone_curve(x, DEFAULT_LOOK.curve), y, rtol=0, atol=1e-6)


def test_neutral_look_is_the_identity() -> None:
    image = _images()
    assert torch.equal(apply_look(image, NEUTRAL_LOOK), image)
    assert LOOKS["neutral"] == Look()


@pytest.mark.parametrize("look", [*LOOKS.values(), Look(saturation=4.0), Look(vibrance=6.0)])
def test_output_is_an_image_and_black_and_white_stay(look: Look) -> None:
    output = apply_look(_images(), look)
    assert output.min() >= 0
    assert output.max() <= 1
    for end in (0.0, 1.0):
        torch.testing.assert_close(
            apply_look(torch.full((1, 3, 2, 2), end), look), torch.full((1, 3, 2, 2), end), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("name", LOOKS)
def test_looks_keep_the_order_of_greys(name: str) -> None:
    ramp = torch.linspace(0, 1, 1001, dtype=torch.float64).expand(1, 3, 1, 1001)
    output = apply_look(ramp, LOOKS[name])
    assert (output.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("name", [name for name in LOOKS if name != "neutral"])
def test_looks_are_visible_and_moderate(name: str) -> None:
    image = _images()
    psnr = -10 * torch.log10(((apply_look(image, LOOKS[name]) - image) ** 2).mean())
    assert 16 < psnr < 26


def test_looks_differ_from_each_other() -> None:
    image = _images()
    outputs = {name: apply_look(image, look) for name, look in LOOKS.items()}
    assert set(outputs) == {"default", "neutral", "film", "punchy", "cool_matte"}
    for (name, one), (other, two) in itertools.combinations(outputs.items(), 2):
        assert (one - two).abs().mean() > 0.02, (name, other)


def test_looks_do_what_their_names_say() -> None:
    def of_grey(name: str, value: float) -> list[float]:
        return apply_look(torch.full((1, 3, 1, 1), value), LOOKS[name]).flatten().tolist()

    def colourfulness(name: str) -> float:
        image = apply_look(_images(), LOOKS[name])
        return float((image.amax(1) - image.amin(1)).mean())

    for faded in ("film", "cool_matte"):
        assert min(of_grey(faded, 0.05)) > 0.08
        assert max(of_grey(faded, 0.95)) < 0.95
        assert colourfulness(faded) < 0.95 * colourfulness("neutral")
    assert max(of_grey("punchy", 0.1)) < 0.08
    assert min(of_grey("punchy", 0.8)) > 0.85
    assert colourfulness("punchy") > 1.1 * colourfulness("neutral")
    for value in (0.2, 0.5, 0.8):
        red, _, blue = of_grey("cool_matte", value)
        assert blue > red + 0.02
    red, green, blue = of_grey("film", 0.25)
    assert green > blue > red
    red, green, blue = of_grey("film", 0.75)
    assert min(red, green) > blue + 0.05


def test_saturation_scales_the_distance_from_grey_and_keeps_luma() -> None:
    image = 0.4 + 0.2 * _images()
    output = apply_look(image, Look(saturation=0.3))
    torch.testing.assert_close(_luma(output), _luma(image), rtol=0, atol=1e-6)
    grey = _luma(image)[:, None]
    torch.testing.assert_close(output - grey, 1.3 * (image - grey), rtol=0, atol=1e-6)


def test_colours_stop_at_the_gamut_and_keep_their_hue() -> None:
    image = _images()
    output = apply_look(image, Look(saturation=5.0))
    grey = _luma(image)[:, None]
    before, after = image - grey, output - grey
    torch.testing.assert_close(_luma(output), _luma(image), rtol=0, atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
    assert cosine[before.norm(dim=1) > 0.01].min() > 0.9999


@pytest.mark.parametrize("colour", [(0.55, 0.5, 0.45), (0.9, 0.3, 0.2)])
def test_vibrance_fades_with_chroma(colour: tuple[float, float, float]) -> None:
    output = apply_look(torch.tensor(colour).view(1, 3, 1, 1), Look(vibrance=0.3))
    chroma = max(colour) - min(colour)
    assert float((output.amax() - output.amin()) / chroma) == pytest.approx(1 + 0.3 * (1 - chroma) ** 2, rel=1e-4)


def test_split_toning_peaks_at_its_tones() -> None:
    ramp = torch.linspace(0, 1, 401).expand(1, 3, 1, 401)
    change = apply_look(ramp, Look(shadow_tint=(0.0, 0.0, 0.05), highlight_tint=(0.04, 0.0, 0.0))) - ramp
    assert int(change[0, 2].argmax()) == 100
    assert int(change[0, 0].argmax()) == 300
    assert float(change[0, 2].max()) == pytest.approx(0.05, abs=1e-6)
    assert float(change[0, 0].max()) == pytest.approx(0.04, abs=1e-6)
    assert change[0, 1].abs().max() == 0


def test_gradients_flow() -> None:
    image = _images().requires_grad_()
    apply_look(image, DEFAULT_LOOK).mean().backward()
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().sum() > 0
