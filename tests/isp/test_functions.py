"""Every ISP function and its inverse, over the whole range of the parameters."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.gamma_inverse import gamma_tone_map_inverse
from semiisp_plugin.isp.parameters import ISPSpec

PAIRS = {
    "ga": (fn.contrast_stretch, fn.contrast_stretch_inverse),
    "gm": (fn.gamma_tone_map, gamma_tone_map_inverse),
    "cs": (fn.contrast_stretch, fn.contrast_stretch_inverse),
    "it": (fn.inverse_tone_map, fn.inverse_tone_map_inverse),
}


def draw_parameters(spec: ISPSpec, n: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Sets all over their ranges: uniform within the sigmoid's and tanh's reach, ends included."""
    generator = torch.Generator().manual_seed(seed)
    z = (torch.rand(n, spec.n_parameters, 1, 1, generator=generator, dtype=dtype) * 2 - 1) * 8
    return spec.squash(z)


@pytest.mark.parametrize("tie_xy", [True, False])
@pytest.mark.parametrize("name", list(PAIRS))
def test_round_trip_float64(name, tie_xy):
    spec = ISPSpec(inverse_tone_mapping=True, tie_xy=tie_xy)
    p = spec.split(draw_parameters(spec, 3000, 0, torch.float64))[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3000, 3, 4, 16, generator=generator, dtype=torch.float64)
    forward, inverse = PAIRS[name]
    # The outer slopes of a window reach 49, of the four-parameter one several thousand: the error grows with them.
    tolerance = 1e-12 if tie_xy else 2e-11
    assert (inverse(forward(x, **p), **p) - x).abs().max() <= tolerance
    assert (forward(inverse(x, **p), **p) - x).abs().max() <= tolerance


@pytest.mark.parametrize("name", list(PAIRS))
def test_round_trip_float32_where_the_value_survives(name):
    """In float32 an input is lost where the forward slope is so small that neighbours become one number.

    Decided by the forward map itself: an input counts if moving it by 1e-6 changes the float32 output by more than
    four units in the last place, and that output is a normal number (the smallest inputs under a steep curve become
    subnormal ones, which have fewer digits).
    """
    spec = ISPSpec(inverse_tone_mapping=True)
    p = spec.split(draw_parameters(spec, 3000, 2, torch.float32))[name]
    x = torch.rand(3000, 3, 4, 16, generator=torch.Generator().manual_seed(3)).clamp(1e-6, 1 - 1e-6)
    forward, inverse = PAIRS[name]
    y = forward(x, **p)
    unit = torch.finfo(torch.float32).eps * y
    survives = (forward(x + 1e-6, **p) - y > 4 * unit) & (y - forward(x - 1e-6, **p) > 4 * unit)
    survives &= y >= torch.finfo(torch.float32).tiny
    # Elsewhere the round trip must still be good in what the map shows.
    assert survives.float().mean() > 0.5
    back = inverse(y, **p)
    assert (back - x).abs()[survives].max() <= 2e-6
    assert (forward(back, **p) - y).abs().max() <= 1e-5


@pytest.mark.parametrize("tie_xy", [True, False])
@pytest.mark.parametrize("name", list(PAIRS))
def test_bounded_increasing_and_fixed_at_the_ends(name, tie_xy):
    spec = ISPSpec(inverse_tone_mapping=True, tie_xy=tie_xy)
    p = spec.split(draw_parameters(spec, 2000, 4, torch.float64))[name]
    x = torch.linspace(0, 1, 129, dtype=torch.float64).expand(2000, 3, 1, 129)
    for function in PAIRS[name]:
        y = function(x, **p)
        assert torch.isfinite(y).all()
        assert (y >= 0).all()
        assert (y <= 1).all()
        assert y[..., 0].abs().max() == 0
        assert (y[..., -1] - 1).abs().max() <= 1e-12
        assert (y.diff(dim=-1) >= -1e-12).all()


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


@settings(max_examples=150, deadline=None)
@given(unit, unit, inner, inner)
def test_contrast_stretch_equals_equation_18(i, x, w, h):
    image, *p = _tensors(i, x, w, h)
    assert fn.contrast_stretch(image, *p).item() == pytest.approx(_scalar_stretch(i, x, w, h), abs=1e-13)
    swapped = _scalar_stretch(i, x, h, w)  # eq. 19 is eq. 18 with w and h swapped
    assert fn.contrast_stretch_inverse(image, *p).item() == pytest.approx(swapped, abs=1e-13)


@settings(max_examples=150, deadline=None)
@given(unit, inner, inner, inner)
def test_four_parameter_form_contains_the_three_parameter_one(i, x, w, h):
    image, x_, w_, h_ = _tensors(i, x, w, h)
    tied = fn.contrast_stretch(image, x_, w_, h_)
    free = fn.contrast_stretch(image, x_, w_, h_, y=x_)
    assert free.item() == pytest.approx(tied.item(), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.floats(1e-6, 1.0), st.floats(0.25, 4.0), st.floats(0.2, 2.0), unit)
def test_gamma_equals_equation_20(i, g1, g2, k):
    image, *p = _tensors(i, g1, g2, k)
    assert fn.gamma_tone_map(image, *p).item() == pytest.approx(_scalar_gamma(i, g1, g2, k), abs=1e-13)


@settings(max_examples=150, deadline=None)
@given(st.floats(1e-6, 1.0), st.floats(1 / 3, 3.5), st.floats(0.0, 3.0), unit, st.sampled_from([1, -1]))
def test_inverse_tone_map_equals_equation_22(i, g3, g4, k2, sign):
    image, *p = _tensors(i, g3, g4, k2)
    expected = _scalar_inverse_tone(i, g3, g4, k2, sign)
    assert fn.inverse_tone_map(image, *p, sign=sign).item() == pytest.approx(expected, abs=1e-13)
    back = fn.inverse_tone_map_inverse(torch.tensor(expected, dtype=torch.float64).view(1, 1, 1, 1), *p, sign=sign)
    assert back.item() == pytest.approx(i, abs=1e-11)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-4, 1.0), st.floats(0.2, 5.0), st.floats(0.02, 8.0), unit)
def test_gamma_inverse_agrees_with_bisection_beyond_our_ranges(y, g1, g2, k):
    """Up to g2 = 8, close to where the map stops being increasing, against plain bisection of eq. 20."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle > 0 and _scalar_gamma(middle, g1, g2, k) > y:
            high = middle
        else:
            low = middle
    image, *p = _tensors(y, g1, g2, k)
    found = gamma_tone_map_inverse(image, *p).item()
    # Compared in the output: where the map is flat, many inputs give the same y.
    assert _scalar_gamma(max(found, 1e-300), g1, g2, k) == pytest.approx(y, abs=1e-12)
    assert found == pytest.approx(low, abs=1e-7)


def test_colour_correction_equals_a_matrix_product():
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    o = 0.49 * (2 * torch.rand(4, 6, 1, 1, generator=generator, dtype=torch.float64) - 1)
    gain = (3 * torch.rand(4, 3, 1, 1, generator=generator, dtype=torch.float64) - 1.5).exp()
    base = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    out = fn.colour_correction(image, o, gain, base)
    for n in range(4):
        rg, rb, gr, gb, br, bg = o[n].flatten().tolist()
        mixing = torch.tensor([[1, rg, rb], [gr, 1, gb], [br, bg, 1]], dtype=torch.float64)
        matrix = mixing @ torch.diag(gain[n].flatten()) @ base
        expected = (matrix @ image[n].flatten(1)).view(3, 5, 6)
        assert torch.allclose(out[n], expected, atol=1e-12)
    back = fn.colour_correction_inverse(out, o, gain, base)
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
    base = torch.eye(3, dtype=torch.float64)
    out = fn.colour_correction(image, p["o"], p["gain"], base)
    assert torch.allclose(fn.colour_correction_inverse(out, p["o"], p["gain"], base), image, atol=1e-12)


@pytest.mark.parametrize("name", list(PAIRS))
def test_gradients(name):
    """To the image and to every parameter, of the map and of its inverse (that is, of the implicit function)."""
    spec = ISPSpec(inverse_tone_mapping=True)
    p = spec.split(spec.squash(torch.randn(2, 45, 1, 1, generator=torch.Generator().manual_seed(8)).double()))[name]
    x = 0.05 + 0.9 * torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    inputs = [x.requires_grad_(), *(v.clone().requires_grad_() for v in p.values())]
    for function in PAIRS[name]:
        assert torch.autograd.gradcheck(lambda image, *v, f=function: f(image, *v), inputs, atol=1e-6)


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
