"""The composed ISP and the layout of its parameters."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from semiisp_plugin.isp import InvertibleISP, ISPSpec
from semiisp_plugin.isp.parameter_maps import worth_it
from semiisp_plugin.isp.parameters import XYZ_TO_SRGB

VARIANTS = [
    ISPSpec(),
    ISPSpec(inverse_tone_mapping=True, gamma_start=1.0),
    ISPSpec(tie_xy=False, base_matrix=XYZ_TO_SRGB),
    ISPSpec(inverse_tone_mapping=True, it_sign=-1),
]


def sets(spec, n, seed, grid=(1, 1), spread=0.7):
    generator = torch.Generator().manual_seed(seed)
    return spec.squash(spread * torch.randn(n, spec.n_parameters, *grid, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(("spec", "count"), list(zip(VARIANTS, [36, 45, 42, 45], strict=True)))
def test_number_of_parameters(spec, count):
    assert spec.n_parameters == count
    where = spec.slices()
    assert next(iter(where)) == ("it" if spec.inverse_tone_mapping else "cc")
    assert sum(s.stop - s.start for s in where.values()) == count


@pytest.mark.parametrize("spec", VARIANTS)
def test_training_starts_at_the_documented_values(spec):
    p = spec.split(spec.squash(torch.zeros(1, spec.n_parameters, 1, 1, dtype=torch.float64)))
    assert p["cc"]["o"].abs().max() < 1e-12
    assert (p["cc"]["gain"] - 1).abs().max() < 1e-12
    assert (p["gm"]["g1"] - spec.gamma_start).abs().max() < 1e-12
    assert (p["cs"]["w"] - 0.47).abs().max() < 1e-12
    if spec.inverse_tone_mapping:
        assert (p["it"]["g4"] - 0.02).abs().max() < 1e-12


@pytest.mark.parametrize("grid", [(1, 1), (4, 3)])
@pytest.mark.parametrize("spec", VARIANTS)
def test_inverse_of_forward(spec, grid, device):
    """Exact wherever colour correction stayed in [0, 1]; that share must be most of the image."""
    isp = InvertibleISP(spec)
    parameters = sets(spec, 5, 0, grid, spread=0.3).to(device)
    raw = 0.02 + 0.3 * torch.rand(5, 3, 24, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    raw = raw.to(device)
    srgb = isp.forward(raw, parameters)
    assert srgb.min() >= 0
    assert srgb.max() <= 1
    # A pixel whose channels all lie strictly inside was not clamped on the way.
    inside = ((srgb > 1e-9) & (srgb < 1 - 1e-9)).all(1, keepdim=True).expand_as(raw)
    assert inside.double().mean() > (0.3 if spec.base_matrix == XYZ_TO_SRGB else 0.7)
    error = (isp.inverse(srgb, parameters).image - raw).abs()
    assert error[inside].max() < 1e-9


@pytest.mark.parametrize("spec", VARIANTS)
def test_forward_of_inverse(spec, device):
    """Exact wherever nothing was clipped."""
    isp = InvertibleISP(spec)
    without_tone = isp if not spec.inverse_tone_mapping else InvertibleISP(replace(spec, inverse_tone_mapping=False))
    parameters = sets(spec, 4, 2, spread=0.4).to(device)
    srgb = torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(device)
    result = isp.inverse(srgb, parameters)
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    # f_IT^-1 comes last, after the clamp: what lies before it is the ISP without it.
    before = parameters[:, 9:] if spec.inverse_tone_mapping else parameters
    raw = without_tone.inverse(srgb, before, clamp=False).image
    outside = (raw < 0) | (raw > 1)
    assert torch.allclose(result.clipped, outside.flatten(1).double().mean(1))
    inside = ~outside.any(1, keepdim=True).expand_as(srgb)
    assert inside.any()
    error = (isp.forward(result.image, parameters) - srgb).abs()
    assert error[inside].max() < 1e-9


def test_clamp_policy():
    isp = InvertibleISP(ISPSpec())
    parameters = sets(ISPSpec(), 2, 20)
    image = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
    free, clamped = isp.inverse(image, parameters, clamp=False), isp.inverse(image, parameters)
    assert free.image.min() < 0
    assert torch.equal(free.image.clamp(0, 1), clamped.image)
    assert torch.equal(free.clipped, clamped.clipped)
    spec = ISPSpec(inverse_tone_mapping=True)
    with pytest.raises(ValueError, match="clamp=False"):
        InvertibleISP(spec).inverse(image, sets(spec, 2, 22), clamp=False)


def test_wrong_parameter_sets_are_refused():
    isp = InvertibleISP(ISPSpec())
    image = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"expected \(N, 36, h, w\)"):
        isp.forward(image, torch.rand(2, 45, 1, 1))
    with pytest.raises(ValueError, match="one set an image"):
        isp.forward(image, torch.rand(1, 36, 1, 1))
    with pytest.raises(ValueError, match=r"must be \(N, 3, H, W\)"):
        isp.inverse(torch.rand(2, 1, 4, 4), sets(ISPSpec(), 2, 0))
    with pytest.raises(ValueError, match=r"floating-point numbers in \[0, 1\] or uint8, not torch.int32"):
        isp.inverse(torch.zeros(2, 3, 4, 4, dtype=torch.int32), sets(ISPSpec(), 2, 0))
    with pytest.raises(ValueError, match="divide a uint8 image by 255"):
        isp.forward(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), sets(ISPSpec(), 2, 0))
    with pytest.raises(ValueError, match=r"Parameter sets must be floating-point numbers, not torch.int64"):
        isp.inverse(image, torch.ones(2, 36, 1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="'exakt' is none of exact, curve8, paper_lut"):
        isp.inverse(image, sets(ISPSpec(), 2, 0), backend="exakt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("spec", VARIANTS)
def test_parameters_outside_their_domains_are_named(spec, dtype):
    isp = InvertibleISP(spec)
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    ends = torch.cat([spec.squash(torch.full((1, spec.n_parameters, 2, 2), 60.0 * sign)) for sign in (-1, 1)])
    isp.inverse(isp.forward(image, ends.to(dtype)), ends.to(dtype))
    g2 = spec.slices()["gm"].start + 4  # of green
    for wrong, shown in ((0.0, "0"), (2.5, "2.5"), (torch.nan, "nan"), (torch.inf, "inf")):
        parameters = sets(spec, 2, 3, (2, 2)).to(dtype)
        parameters[1, g2, 0, 1] = wrong
        for direction in (isp.forward, isp.inverse):
            with pytest.raises(ValueError, match=rf"g2 \(green\) of set 1 is {shown}.*domain \[0.2, 2\].*squash"):
                direction(image, parameters)
        InvertibleISP(spec, check=False).forward(image, parameters)


def test_free_numbers_in_the_place_of_parameters_are_refused():
    spec = ISPSpec()
    for numbers in (torch.zeros(1, 36, 1, 1), torch.randn(1, 36, 1, 1, generator=torch.Generator().manual_seed(0))):
        with pytest.raises(ValueError, match="outside its domain"):
            InvertibleISP(spec).forward(torch.rand(1, 3, 4, 4), numbers)


def test_every_mixture_of_sets_is_invertible():
    """Local sets are interpolated: the matrices between two extreme ones must not become singular."""
    spec = ISPSpec()
    ends = spec.squash(20 * torch.randn(400, 36, 2, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64))
    fine = torch.nn.functional.interpolate(ends, size=(9, 9), mode="bilinear", align_corners=False)
    o = spec.split(fine)["cc"]["o"]
    rg, rb, gr, gb, br, bg = o.unbind(1)
    determinant = 1 - gb * bg - rg * (gr - gb * br) + rb * (gr * bg - br)
    assert determinant.min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("spec", VARIANTS)
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (5, 1), (3, 4), (8, 8), (40, 2)])
@pytest.mark.parametrize("size", [(230, 150), (7, 5000)])
def test_strips_give_the_result_of_the_whole_image(spec, grid, size):
    """The strips of the path without gradient against the whole image of the path with it; float64."""
    isp = InvertibleISP(spec)
    parameters = sets(spec, 2, 11, grid)
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    assert worth_it(image, parameters)
    with_gradient = image.clone().requires_grad_()
    assert torch.allclose(isp.forward(image, parameters), isp.forward(with_gradient, parameters), atol=1e-11)
    strips, whole = isp.inverse(image, parameters), isp.inverse(with_gradient, parameters)
    assert torch.allclose(strips.image, whole.image, atol=1e-10)
    assert torch.allclose(strips.clipped, whole.clipped, atol=3 / image[0].numel())


@pytest.mark.parametrize("size", [(0, 300, 200), (0, 4, 4), (2, 1, 1), (2, 1, 9), (2, 9, 1)])
@pytest.mark.parametrize("spec", VARIANTS)
def test_empty_and_narrow_images(spec, size):
    n, *rest = size
    isp = InvertibleISP(spec)
    image = torch.full((n, 3, *rest), 0.5)
    for grid in ((1, 1), (3, 4)):
        parameters = sets(spec, n, 17, grid).float()
        assert isp.forward(image, parameters).shape == image.shape
        result = isp.inverse(image, parameters)
        assert result.image.shape == image.shape
        assert result.clipped.shape == (n,)
    photograph = (image * 255).to(torch.uint8)
    result = isp.inverse(photograph, sets(spec, n, 17).float(), backend="curve8")
    assert result.image.shape == image.shape


def test_nothing_given_is_changed():
    for spec in VARIANTS:
        isp = InvertibleISP(spec)
        image = torch.rand(1, 3, 200, 160, generator=torch.Generator().manual_seed(18))
        photograph = (image * 255).to(torch.uint8)
        for grid in ((1, 1), (3, 3)):
            parameters = sets(spec, 1, 19, grid).float()
            before = image.clone(), photograph.clone(), parameters.clone()
            isp.forward(image, parameters)
            isp.inverse(image, parameters)
            isp.inverse(photograph, parameters, backend="curve8" if grid == (1, 1) else "exact")
            assert all(torch.equal(a, b) for a, b in zip(before, (image, photograph, parameters), strict=True))


def test_nan_stays_nan_and_stays_where_it_is():
    isp = InvertibleISP(ISPSpec())
    image = torch.rand(1, 3, 200, 160)
    image[0, 1, 50, 60] = torch.nan
    for grid in ((1, 1), (2, 2)):
        result = isp.inverse(image, sets(ISPSpec(), 1, 23, grid).float()).image
        assert torch.isnan(result[0, :, 50, 60]).all()  # the matrix mixes the channels
        assert torch.isnan(result).sum() == 3


def test_memory_layout_makes_no_difference():
    """Images whose channels lie last in memory, as they are read from files, and slices of larger ones."""
    isp = InvertibleISP(ISPSpec())
    image = torch.rand(1, 3, 200, 160, generator=torch.Generator().manual_seed(13))
    channels_last = image.contiguous(memory_format=torch.channels_last)
    larger = torch.nn.functional.pad(image, (1, 2, 3, 4))[:, :, 3:-4, 1:-2]
    for grid in ((1, 1), (3, 3)):
        parameters = sets(ISPSpec(), 1, 14, grid).float()
        for function in (isp.forward, lambda i, p: isp.inverse(i, p).image):
            expected = function(image, parameters)
            assert torch.equal(function(channels_last, parameters), expected)
            assert torch.equal(function(larger, parameters), expected)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(half, device):
    for spec in VARIANTS:
        isp = InvertibleISP(spec)
        for grid, size in (((1, 1), (9, 8)), ((2, 2), (200, 160))):
            parameters = sets(spec, 1, 15, grid).to(device, half)
            image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(16)).to(device, half)
            for function in (isp.forward, lambda i, p, isp=isp: isp.inverse(i, p).image):
                out = function(image, parameters)
                assert out.dtype == half
                assert torch.equal(out, function(image.float(), parameters.float()).to(half))


def test_black_pixels_do_not_slow_a_processor_down():
    """Neither direction makes subnormal numbers of a photograph's black pixels.

    A processor may take a hundred times as long for them.
    """
    for spec in VARIANTS:
        isp = InvertibleISP(spec)
        parameters = spec.squash(torch.zeros(1, spec.n_parameters, 1, 1))
        image = torch.zeros(1, 3, 4, 4)
        seen = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None, seen=seen):
                out = function(*args, **(kwargs or {}))
                written = "empty" not in str(function)
                if written and isinstance(out, torch.Tensor) and out.is_floating_point() and out.numel() >= 48:
                    size = out.abs()
                    if ((size > 0) & (size < torch.finfo(out.dtype).tiny)).any():
                        seen.append(str(function))
                return out

        with torch.no_grad(), Watch():
            isp.forward(image, parameters)
            isp.inverse(image, parameters)
        assert not seen
