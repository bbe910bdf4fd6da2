"""The exact inverses over the whole range of the parameters: round trip, bounds, bisection, gradients."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.gamma_inverse import gamma_tone_map_inverse
from semiisp_plugin.isp.parameters import ISPSpec
from semiisp_plugin.isp.tone_inverse import inverse_tone_map_inverse

PLUS = ISPSpec(inverse_tone_mapping=True)
MINUS = ISPSpec(inverse_tone_mapping=True, it_sign=-1)
FOUR = ISPSpec(inverse_tone_mapping=True, tie_xy=False)
# Name, ISP, function among its parameters, map, inverse.
PAIRS = {
    "gamma": (PLUS, "gm", fn.gamma_tone_map, gamma_tone_map_inverse),
    "inverse tone +": (PLUS, "it", fn.inverse_tone_map, inverse_tone_map_inverse),
    "inverse tone -": (MINUS, "it", partial(fn.inverse_tone_map, sign=-1), partial(inverse_tone_map_inverse, sign=-1)),
    "stretch": (PLUS, "ga", fn.contrast_stretch, fn.contrast_stretch_inverse),
    "stretch of four": (FOUR, "ga", fn.contrast_stretch, fn.contrast_stretch_inverse),
}
BAR = {torch.float32: 1e-6, torch.float64: 1e-12}
# Steepest slope of an inverse at white, by which rounding is multiplied there: 0.98 / 0.02, and its square.
STEEPEST = {"stretch": 49, "stretch of four": 2401}
ROUNDS, BATCH = 20, 33_334  # batches of sets for three channels: 2 million (value, parameter) draws


def draw_parameters(spec: ISPSpec, n: int, generator: torch.Generator) -> torch.Tensor:
    """Half uniform over the domains, half crowded at their ends, as saturated encoders give them; float64."""
    shape = (n, spec.n_parameters, 1, 1)
    saturated = spec.squash((torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * 8)
    bounds = [(p.low, p.high) for group in spec.functions.values() for p in group for _ in range(p.count)]
    low, high = torch.tensor(bounds, dtype=torch.float64).T[:, None, :, None, None]
    uniform = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.where(torch.arange(n).view(-1, 1, 1, 1) % 2 == 0, uniform, saturated)


def draw_values(n: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform, a quarter of them dark, some exactly at the ends; ``(n, 3, 1, 1)`` float64."""
    x = torch.rand(n, 3, 1, 1, generator=generator, dtype=torch.float64)
    x[::4] = x[::4] ** 8
    x[:50], x[50:100] = 0, 1
    return x


def is_kept(forward, x: torch.Tensor, y: torch.Tensor, p: dict, step: float) -> torch.Tensor:
    """Whether the output still tells what the input was.

    Decided by the forward map alone, in float64: the outputs of x and of its neighbours at a distance of ``step`` (the
    error allowed) must be at least four representable numbers apart, and y must not be subnormal.
    """
    p = {k: v.double() for k, v in p.items()}
    x, smallest = x.double(), torch.finfo(y.dtype).tiny
    spacing = torch.finfo(y.dtype).eps * 2 ** y.double().clamp_min(smallest).log2().floor()
    middle = forward(x, **p)
    above = (forward((x + step).clamp_max(1), **p) - middle >= 4 * spacing) | (x + step > 1)
    below = (middle - forward((x - step).clamp_min(0), **p) >= 4 * spacing) | (x < step)
    return (above & below & (y >= 2 * smallest)) | (x == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PAIRS))
def test_round_trip_over_the_whole_range(name, device, dtype):
    spec, function, forward, inverse = PAIRS[name]
    generator = torch.Generator().manual_seed(0)
    worst, kept, total = 0.0, 0, 0
    for _ in range(ROUNDS):
        p = spec.split(draw_parameters(spec, BATCH, generator).to(device, dtype))[function]
        x = draw_values(BATCH, generator).to(device, dtype)
        y = forward(x, **p)
        back = inverse(y, **p)
        # In [0, 1], which NaN and infinity are not.
        assert ((y >= 0) & (y <= 1) & (back >= 0) & (back <= 1)).all()
        keep = is_kept(forward, x, y, p, BAR[dtype])
        worst = max(worst, ((back - x).abs() * keep).max().item())
        kept += keep.sum().item()
        total += keep.numel()
    print(f"{name}, {dtype}, {device}: {total:,} draws, {kept / total:.2%} kept, largest error {worst:.1e}")  # -rP
    assert worst <= BAR[dtype]
    # float32 loses most where a window of two per cent is stretched to 98 or the other way round.
    assert kept / total > (0.8 if dtype == torch.float32 else 0.999)


@pytest.mark.parametrize("name", list(PAIRS))
def test_any_value_between_the_ends_has_an_inverse(name, device, dtype):
    """Also values that no forward map has made, among them subnormal ones."""
    spec, function, forward, inverse = PAIRS[name]
    p = spec.split(draw_parameters(spec, 2000, torch.Generator().manual_seed(1)).to(device, dtype))[function]
    finfo = torch.finfo(dtype)
    ends = [0.0, finfo.smallest_normal / 8, finfo.smallest_normal, 1e-30, 1e-20, 1e-10, 1 - finfo.eps, 1.0]
    y = torch.tensor(ends, dtype=dtype, device=device).view(1, 1, 1, -1).expand(2000, 3, 1, -1)
    x = inverse(y, **p)
    assert ((x >= 0) & (x <= 1)).all()
    assert x[..., 0].max() == 0
    assert (x[..., -1] - 1).abs().max() <= 4 * finfo.eps * STEEPEST.get(name, 1)
    again = forward(x, **p)
    assert ((again >= 0) & (again <= 1)).all()


@pytest.mark.parametrize("name", list(PAIRS))
def test_bounded_and_increasing(name, device, dtype):
    spec, function, *maps = PAIRS[name]
    p = spec.split(draw_parameters(spec, 2000, torch.Generator().manual_seed(2)).to(device, dtype))[function]
    x = torch.linspace(0, 1, 257, dtype=dtype, device=device).expand(2000, 3, 1, 257)
    rounding = 4 * torch.finfo(dtype).eps * STEEPEST.get(name, 1)  # may bring neighbours out of order
    for f in maps:
        y = f(x, **p)
        assert ((y >= 0) & (y <= 1)).all()
        assert y[..., 0].abs().max() == 0
        assert (y[..., -1] - 1).abs().max() <= rounding
        assert y.diff(dim=-1).min() >= -rounding


# --- against bisection of the printed equations -----------------------------------------------------------------------


def scalar_gamma(i: float, g1: float, g2: float, k: float) -> float:
    """Eq. 20."""
    return i ** ((1 / g1) * (1 - (1 - g2) * i ** (1 / g1)) / (1 - (1 - g2) * k ** (1 / g1)))


def scalar_inverse_tone(i: float, g3: float, g4: float, k2: float, sign: int) -> float:
    """Eq. 22."""
    return i ** (g3 * (1 + g4 * (1 + sign * i) ** g3) / (1 + g4 * (1 + sign * k2) ** g3))


def bisect(function, y: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle > 0 and function(middle) > y:
            high = middle
        else:
            low = middle
    return low


def as_tensors(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=torch.float64).view(1, 1, 1, 1) for v in values]


unit = st.floats(0.0, 1.0)


@settings(max_examples=200)
@given(st.floats(1e-4, 1.0), st.floats(0.25, 4.0), st.floats(0.2, 2.0), unit)
def test_gamma_inverse_equals_bisection(y, g1, g2, k):
    image, *p = as_tensors(y, g1, g2, k)
    found = gamma_tone_map_inverse(image, *p).item()
    assert found == pytest.approx(bisect(lambda i: scalar_gamma(i, g1, g2, k), y), abs=1e-12)


@settings(max_examples=200)
@given(st.floats(1e-4, 1.0), st.floats(1 / 3, 3.5), st.floats(0.0, 3.0), unit, st.sampled_from([1, -1]))
def test_tone_inverse_equals_bisection(y, g3, g4, k2, sign):
    image, *p = as_tensors(y, g3, g4, k2)
    found = inverse_tone_map_inverse(image, *p, sign=sign).item()
    assert found == pytest.approx(bisect(lambda i: scalar_inverse_tone(i, g3, g4, k2, sign), y), abs=1e-12)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
@pytest.mark.parametrize("name", list(PAIRS))
def test_gradients(name, local, device):
    """To the image and to every parameter, of the map and of its inverse, first and second."""
    spec, function, *maps = PAIRS[name]
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(2, spec.n_parameters, *((2, 2) if local else (1, 1)), generator=generator, dtype=torch.float64)
    p = spec.split(spec.squash(z))[function]
    x = 0.05 + 0.9 * torch.rand(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    inputs = [t.to(device).clone().requires_grad_() for t in (x, *p.values())]
    for f in maps:

        def in_order(image, *values, f=f):
            return f(image, **dict(zip(p, values, strict=True)))

        assert torch.autograd.gradcheck(in_order, inputs, atol=1e-6)
        assert torch.autograd.gradgradcheck(in_order, inputs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("inverse", "n_saved"), [(PAIRS["gamma"], 8), (PAIRS["inverse tone +"], 10)], ids=["gamma", "tone"]
)
def test_nothing_of_the_iteration_is_kept(inverse, n_saved):
    """Maps of the image's size that autograd holds: a few, and as many with three as with five steps."""
    spec, function, _, f = inverse
    counts = {}
    for dtype in (torch.float32, torch.float64):  # which take different numbers of steps
        p = spec.split(spec.squash(torch.zeros(1, spec.n_parameters, 1, 1, dtype=dtype)))[function]
        image = torch.rand(1, 3, 16, 16, dtype=dtype).requires_grad_()
        storages: set[int] = set()

        def pack(tensor, storages=storages):
            if tensor.numel() == 3 * 16 * 16:
                storages.add(tensor.untyped_storage().data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            f(image, **p)
        counts[dtype] = len(storages)
    assert counts[torch.float32] == counts[torch.float64] <= n_saved


def test_gradient_is_finite_at_the_ends(dtype):
    for name, (spec, function, *maps) in PAIRS.items():
        p = spec.split(draw_parameters(spec, 500, torch.Generator().manual_seed(4)).to(dtype))[function]
        p = {k: v.clone().requires_grad_() for k, v in p.items()}
        image = torch.tensor([0.0, 1e-30, 1e-5, 0.5, 1.0], dtype=dtype).view(1, 1, 1, 5).repeat(500, 3, 1, 1)
        for f in maps:
            leaf = image.clone().requires_grad_()
            f(leaf, **p).sum().backward()
            assert torch.isfinite(leaf.grad).all(), name
            assert all(torch.isfinite(v.grad).all() for v in p.values()), name


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["gamma", "inverse tone +", "inverse tone -"])
def test_half_precision_is_computed_in_float32(name, half, device):
    spec, function, _, inverse = PAIRS[name]
    p = spec.split(spec.squash(torch.randn(1, spec.n_parameters, 1, 1)).to(device))[function]
    y = torch.linspace(0, 1, 64, device=device).view(1, 1, 1, 64).expand(1, 3, 1, 64).to(half)
    x = inverse(y, **p)
    assert x.dtype == half
    assert torch.equal(x, inverse(y.float(), **p).to(half))


def test_start_of_the_iteration_is_in_the_bracket():
    """The start for either sign of a: between m and m / g2, as the docstring says."""
    m = -torch.logspace(-8, 3, 400, dtype=torch.float64)
    for g2 in (0.02, 0.2, 0.9, 1.0, 1.5, 2.0, 8.0):
        start = m * (g2 - m) / (g2 * g2 - m)
        assert (start >= torch.minimum(m, m / g2) * (1 + 1e-12)).all()
        assert (start <= torch.maximum(m, m / g2) * (1 - 1e-12)).all()
    assert math.isclose(float((m * (1 - m) / (1 - m))[0]), float(m[0]))  # g2 = 1: the root itself
