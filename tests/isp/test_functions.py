"""Every ISP function and its inverse, over the whole range of the parameters."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.parameters import IDENTITY, ISPSpec
from semiisp_plugin.isp.tone_inverse import inverse_tone_map_inverse


def draw_parameters(spec: ISPSpec, n: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Sets all over their ranges: uniform within the sigmoid's and tanh's reach, ends included."""
    generator = torch.Generator().manual_seed(seed)
    z = (torch.rand(n, spec.n_parameters, 1, 1, generator=generator, dtype=dtype) * 2 - 1) * 8
    return spec.squash(z)


def _scalar_stretch(i: float, x: float, w: float, h: float) -> float:
    """Eq. 18 as printed: three branches."""
    outer = (1 - h) / (1 - w)
    if i < x * (1 - w):
        return outer * i
    if i > x * (1 - w) + w:
        return outer * i + (h - w) / (1 - w)
    return h / w * (i - x * (1 - w)) + x * (1 - h)


def _scalar_gamma(i: float, g1: float, g2: float, k: float) -> float:
    """Eq. 20 as printed."""
    return i ** ((1 / g1) * (1 - (1 - g2) * i ** (1 / g1)) / (1 - (1 - g2) * k ** (1 / g1)))


def _scalar_inverse_tone(i: float, g3: float, g4: float, k2: float, sign: int) -> float:
    """Eq. 22 as printed."""
    return i ** (g3 * (1 + g4 * (1 + sign * i) ** g3) / (1 + g4 * (1 + sign * k2) ** g3))


def _tensors(*values):
    return [torch.tensor(v, dtype=torch.float64).view(1, 1, 1, 1) for v in values]


unit = st.floats(0.0, 1.0)
inner = st.floats(0.02, 0.98)


@settings(max_examples=150)
@given(unit, unit, inner, inner)
def test_contrast_stretch_equals_equation_18(i, x, w, h):
    image, *p = _tensors(i, x, w, h)
    assert fn.contrast_stretch(image, *p).item() == pytest.approx(_scalar_stretch(i, x, w, h), abs=1e-13)
    swapped = _scalar_stretch(i, x, h, w)  # eq. 19 is eq. 18 with w and h swapped
    assert fn.contrast_stretch_inverse(image, *p).item() == pytest.approx(swapped, abs=1e-13)


@settings(max_examples=150)
@given(unit, inner, inner, inner)
def test_four_parameter_form_contains_the_three_parameter_one(i, x, w, h):
    image, x_, w_, h_ = _tensors(i, x, w, h)
    tied = fn.contrast_stretch(image, x_, w_, h_)
    free = fn.contrast_stretch(image, x_, w_, h_, y=x_)
    assert free.item() == pytest.approx(tied.item(), abs=1e-12)


@settings(max_examples=150)
@given(st.floats(1e-6, 1.0), st.floats(0.25, 4.0), st.floats(0.2, 2.0), unit)
def test_gamma_equals_equation_20(i, g1, g2, k):
    image, *p = _tensors(i, g1, g2, k)
    assert fn.gamma_tone_map(image, *p).item() == pytest.approx(_scalar_gamma(i, g1, g2, k), abs=1e-13)


@settings(max_examples=150)
@given(st.floats(1e-6, 1.0), st.floats(1 / 3, 3.5), st.floats(0.0, 3.0), unit, st.sampled_from([1, -1]))
def test_inverse_tone_map_equals_equation_22(i, g3, g4, k2, sign):
    image, *p = _tensors(i, g3, g4, k2)
    expected = _scalar_inverse_tone(i, g3, g4, k2, sign)
    assert fn.inverse_tone_map(image, *p, sign=sign).item() == pytest.approx(expected, abs=1e-13)
    back = inverse_tone_map_inverse(torch.tensor(expected, dtype=torch.float64).view(1, 1, 1, 1), *p, sign=sign)
    assert back.item() == pytest.approx(i, abs=1e-11)


def test_colour_correction_equals_a_matrix_product():
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    o = 0.49 * (2 * torch.rand(4, 6, 1, 1, generator=generator, dtype=torch.float64) - 1)
    gain = (3 * torch.rand(4, 3, 1, 1, generator=generator, dtype=torch.float64) - 1.5).exp()
    base = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    rows = tuple(map(tuple, base.tolist()))
    out = fn.colour_correction(image, o, gain, rows)
    for n in range(4):
        rg, rb, gr, gb, br, bg = o[n].flatten().tolist()
        mixing = torch.tensor([[1, rg, rb], [gr, 1, gb], [br, bg, 1]], dtype=torch.float64)
        matrix = mixing @ torch.diag(gain[n].flatten()) @ base
        expected = (matrix @ image[n].flatten(1)).view(3, 5, 6)
        assert torch.allclose(out[n], expected, atol=1e-12)
    back = fn.colour_correction_inverse(out, o, gain, rows)
    assert torch.allclose(back, image, atol=1e-11)


def test_colour_correction_with_a_map_of_matrices():
    """At every pixel the inverse of that pixel's own, interpolated matrix."""
    spec = ISPSpec()
    p = spec.split(
        torch.nn.functional.interpolate(
            draw_parameters(spec, 1, 6, torch.float64).repeat(1, 1, 4, 4) * 0.9, size=(20, 24), mode="bilinear"
        )
    )["cc"]
    image = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    out = fn.colour_correction(image, p["o"], p["gain"], IDENTITY)
    assert torch.allclose(fn.colour_correction_inverse(out, p["o"], p["gain"], IDENTITY), image, atol=1e-12)


def test_black_pixels_have_finite_gradients():
    image = torch.tensor([0.0, 1e-30, 1e-5, 0.5, 1.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5).clone().requires_grad_()
    p = ISPSpec().split(draw_parameters(ISPSpec(), 1, 10, torch.float32))["gm"]
    fn.gamma_tone_map(image, **p).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_identity_parameters_are_the_identity():
    x = torch.linspace(0, 1, 101, dtype=torch.float64).view(1, 1, 1, -1)
    one, zero, half = _tensors(1.0, 0.0, 0.5)
    assert torch.allclose(fn.contrast_stretch(x, half, half, half), x, atol=1e-15)
    assert torch.allclose(fn.gamma_tone_map(x, one, one, half), x, atol=1e-15)
    assert torch.allclose(fn.inverse_tone_map(x, one, zero, half), x, atol=1e-15)


def test_gamma_monotonicity_bound():
    """The documented bound g2 < 1 + e^2 is where the map stops being increasing."""
    x = torch.linspace(1e-4, 1, 200_001, dtype=torch.float64).view(1, 1, 1, -1)
    bound = 1 + math.e**2
    one, inside, outside, half = _tensors(1.0, bound - 0.01, bound + 0.5, 0.5)
    assert (fn.gamma_tone_map(x, one, inside, half).diff(dim=-1) > 0).all()
    # Beyond it the denominator is still positive here, and the curve turns back.
    assert (fn.gamma_tone_map(x, one, outside, half).diff(dim=-1) < 0).any()
