"""curve8 and paper_lut against the exact inverse, through the one interface."""

import pytest
import torch
from helpers import make_sets

from semiisp_plugin.isp import InvertibleISP, ISPSpec, PaperLUTSettings
from semiisp_plugin.isp.parameters import XYZ_TO_SRGB

VARIANTS = {
    "ISP": ISPSpec(),
    "IE": ISPSpec(inverse_tone_mapping=True, gamma_start=1.0),
    "four": ISPSpec(tie_xy=False, base_matrix=XYZ_TO_SRGB),
    "IE-": ISPSpec(inverse_tone_mapping=True, it_sign=-1),
}
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12}


def photographs(n: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize(
    "size", [pytest.param((16, 18), id="small"), pytest.param((210, 160), id="in strips", marks=pytest.mark.slow)]
)
def test_curve8_equals_the_exact_inverse(name, size, device, dtype):
    spec = VARIANTS[name]
    isp = InvertibleISP(spec)
    parameters = make_sets(spec, 3, 4).to(device, dtype)
    image = photographs(3, *size).to(device)
    fast = isp.inverse(image, parameters, backend="curve8")
    exact = isp.inverse(image.to(dtype) / 255, parameters)
    assert fast.image.dtype == dtype
    assert torch.allclose(fast.image, exact.image, rtol=0, atol=TOLERANCE[dtype])
    # A value at the very limit may fall on either side of it.
    assert (fast.clipped - exact.clipped).abs().max() <= 3 / image[0].numel()
    # A uint8 image is the same image for the exact inverse, too.
    assert torch.equal(isp.inverse(image, parameters).image, exact.image)


def test_curve8_in_any_memory_layout():
    isp = InvertibleISP(ISPSpec())
    image = photographs(2, 210, 160)
    parameters = make_sets(ISPSpec(), 2, 6).float()
    expected = isp.inverse(image, parameters, backend="curve8")
    for other in (
        image.contiguous(memory_format=torch.channels_last),
        torch.nn.functional.pad(image, (1, 2, 3, 4))[:, :, 3:-4, 1:-2],
        image.flip(0).flip(0),
    ):
        result = isp.inverse(other, parameters, backend="curve8")
        assert torch.equal(result.image, expected.image)
        assert torch.equal(result.clipped, expected.clipped)


def test_curve8_counts_and_clamps_as_the_exact_inverse():
    isp = InvertibleISP(ISPSpec())
    image, parameters = photographs(2, 210, 160), make_sets(ISPSpec(), 2, 7)
    free = isp.inverse(image, parameters, backend="curve8", clamp=False)
    clamped = isp.inverse(image, parameters, backend="curve8")
    assert free.image.min() < 0
    assert free.image.max() > 1
    assert torch.equal(free.image.clamp(0, 1), clamped.image)
    outside = ((free.image < 0) | (free.image > 1)).flatten(1).double().mean(1)
    assert torch.equal(free.clipped, outside)
    assert torch.equal(clamped.clipped, outside)


@pytest.mark.slow
def test_curve8_at_the_ends_of_the_parameters():
    """Saturated encoders: sigmoids of exactly 0 and 1 in the tied form."""
    for spec in (ISPSpec(), ISPSpec(tie_xy=False)):
        z = 60 * (
            2 * torch.randint(0, 2, (40, spec.n_parameters, 1, 1), generator=torch.Generator().manual_seed(8)) - 1
        )
        parameters = spec.squash(z.double())
        image = photographs(1, 150, 150).expand(40, 3, 150, 150)
        fast = InvertibleISP(spec).inverse(image, parameters, backend="curve8", clamp=False).image
        exact = InvertibleISP(spec).inverse(image.double() / 255, parameters, clamp=False).image
        assert torch.isfinite(fast).all()
        assert torch.allclose(fast, exact, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("where", [0, 7, 9, 12, 18, 20, 25, 35])
def test_curve8_with_a_parameter_that_is_nan(where):
    parameters = make_sets(ISPSpec(), 2, 13).float()
    parameters[1, where] = torch.nan
    image = photographs(2, 210, 160)
    result = InvertibleISP(ISPSpec(), check=False).inverse(image, parameters, backend="curve8").image
    assert torch.isfinite(result[0]).all()
    exact = InvertibleISP(ISPSpec(), check=False).inverse(image, parameters).image
    assert torch.isnan(exact[1]).any()
    assert torch.equal(torch.isnan(result), torch.isnan(exact))


def test_curve8_passes_gradients_to_the_parameters():
    spec = ISPSpec()
    isp = InvertibleISP(spec)
    image = photographs(1, 210, 160)
    parameters = make_sets(spec, 1, 9)
    gradients = []
    for backend in ("curve8", "exact"):
        leaf = parameters.clone().requires_grad_()
        isp.inverse(image, leaf, backend=backend).image.pow(2).mean().backward()
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-12)


def test_curve8_refuses_what_it_cannot_do():
    isp = InvertibleISP(ISPSpec())
    with pytest.raises(ValueError, match=r"\(1, 36, 2, 2\); use backend='exact'"):
        isp.inverse(photographs(1, 4, 4), make_sets(ISPSpec(), 1, 0, (2, 2)), backend="curve8")
    with pytest.raises(ValueError, match=r"uint8 images .* not torch.float32"):
        isp.inverse(torch.rand(1, 3, 4, 4), make_sets(ISPSpec(), 1, 0), backend="curve8")
    with pytest.raises(ValueError, match="one set an image"):
        isp.inverse(photographs(2, 4, 4), make_sets(ISPSpec(), 1, 0), backend="curve8")


# --- paper_lut (its table and errors: test_paper_lut.py) --------------------------------------------------------------

SMALL = (9, 9, 9, 2000, 200)


@pytest.mark.parametrize("grid", [(1, 1), (3, 2)])
@pytest.mark.parametrize("name", ["ISP", "IE", "IE-"])
def test_paper_lut_comes_close_to_the_exact_inverse(name, grid, device, dtype):
    """In a narrow box around the starting values, with a small table."""
    if device == "cuda":
        pytest.importorskip("cupy", reason="paper_lut on a GPU needs CuPy, the extra 'cupy'")
    spec = VARIANTS[name]
    parameters = make_sets(spec, 2, 10, grid, spread=0.05).to(device, dtype)
    box = {p.name: None for group in spec.functions.values() for p in group}
    values = {k: v for group in spec.split(parameters).values() for k, v in group.items()}
    for key in box:
        low, high = float(values[key].min()), float(values[key].max())
        box[key] = (low - 1e-3, high + 1e-3)
    lut = PaperLUTSettings(
        gamma_ranges=(box["g1"], box["g2"], box["k"]),
        tone_ranges=(box["g3"], box["g4"], box["k2"]) if spec.inverse_tone_mapping else None,
        sizes=SMALL,
    )
    isp = InvertibleISP(spec, lut)
    image = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(11), dtype=dtype).to(device)
    near, exact = (isp.inverse(image, parameters, backend=b).image for b in ("paper_lut", "exact"))
    assert near.dtype == dtype
    error = (near - exact).abs()
    assert 1e-6 < error.mean() < 2e-3  # it is a table
    from_bytes = isp.inverse((image * 255).to(torch.uint8), parameters, backend="paper_lut").image
    assert (from_bytes - exact).abs().mean() < 1e-2


def test_paper_lut_names_a_parameter_outside_its_table():
    lut = PaperLUTSettings(gamma_ranges=((1.0, 1.5), (0.9, 1.1), (0.2, 0.8)), sizes=SMALL)
    with pytest.raises(ValueError, match="g1"):
        InvertibleISP(ISPSpec(), lut).inverse(torch.rand(1, 3, 4, 4), make_sets(ISPSpec(), 1, 0), backend="paper_lut")


def test_paper_lut_spans_the_domains_by_default():
    isp = InvertibleISP(ISPSpec(), PaperLUTSettings(sizes=(5, 5, 5, 500, 60)))
    parameters = make_sets(ISPSpec(), 8, 12, spread=5)
    result = isp.inverse(torch.rand(8, 3, 4, 4), parameters.float(), backend="paper_lut")
    assert ((result.image >= 0) & (result.image <= 1)).all()
