"""The compiled forward pass against the tensors', which computes in float64 here."""

import sys
import warnings

import pytest
import torch
from helpers import make_sets
from torch.autograd import forward_ad

import semiisp_plugin.isp
from semiisp_plugin.isp import InvertibleISP, ISPSpec, compiled
from semiisp_plugin.isp.compiled import kernel
from semiisp_plugin.isp.parameters import XYZ_TO_SRGB

VARIANTS = {
    "ISP": ISPSpec(),
    "IE": ISPSpec(inverse_tone_mapping=True, gamma_start=1.0),
    "four": ISPSpec(tie_xy=False, base_matrix=XYZ_TO_SRGB),
    "IE, four": ISPSpec(inverse_tone_mapping=True, tie_xy=False),
}
SIZE = (150, 170)  # more than a strip


@pytest.fixture(autouse=True)
def _numba():
    pytest.importorskip("numba", reason="needs Numba, the extra 'fast'")


def images(n: int, seed: int = 0) -> torch.Tensor:
    """Black, white and dark pixels among them."""
    image = torch.rand(n, 3, *SIZE, generator=torch.Generator().manual_seed(seed)).pow(2)
    image[:, :, 0], image[:, :, 1], image[:, 0, 2], image[:, :, 3, :50] = 0, 1, 0, 1e-38
    return image


@pytest.fixture
def calls(monkeypatch):
    """How often the compiled function has run."""
    count = []

    def counting(name: str):
        target = kernel(name)

        def call(*arguments):
            count.append(name)
            return target(*arguments)

        return call

    monkeypatch.setattr(compiled, "kernel", counting)
    return count


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (8, 8), (1, 5), (3, 1)], ids=str)
@pytest.mark.parametrize("name", list(VARIANTS))
def test_equals_the_tensors(name, grid, calls):
    spec = VARIANTS[name]
    isp = InvertibleISP(spec)
    image, parameters = images(2), make_sets(spec, 2, 3, grid)
    result = isp.forward(image, parameters.float())
    assert calls == ["forward", "forward"]
    expected = isp.forward(image.double(), parameters)
    assert calls == ["forward", "forward"], "float64 is not compiled"
    assert (result - expected).abs().max() < 1e-4
    assert (result[:, :, 0] == 0).all(), "black stays black"
    assert result.min() >= 0
    assert result.max() <= 1


def test_over_the_whole_domain(calls):
    """Sets far out: the error stays that of float32."""
    worst = {"compiled": 0.0, "tensors": 0.0}
    for name, spec in VARIANTS.items():
        isp = InvertibleISP(spec)
        for seed in range(6):
            parameters = make_sets(spec, 1, seed, (3, 3), spread=3.0)
            image = images(1, seed)
            expected = isp.forward(image.double(), parameters)
            maps = isp._maps(parameters.float(), image)
            tensors = isp._forward(image, maps.whole())
            result = isp.forward(image, parameters.float())
            assert torch.isfinite(result).all(), name
            worst["compiled"] = max(worst["compiled"], float((result - expected).abs().max()))
            worst["tensors"] = max(worst["tensors"], float((tensors - expected).abs().max()))
    assert calls
    assert worst["compiled"] <= 2 * worst["tensors"], worst


def test_strides_and_types(calls):
    spec = ISPSpec()
    isp = InvertibleISP(spec)
    image, parameters = images(1), make_sets(spec, 1, 3, (2, 2)).float()
    expected = isp.forward(image, parameters)
    channels_last = image.to(memory_format=torch.channels_last)
    torch.testing.assert_close(isp.forward(channels_last, parameters), expected, rtol=0, atol=0)
    strided = parameters.repeat(1, 1, 2, 2)[:, :, ::2, ::2]
    assert not strided.is_contiguous()
    again = parameters[:, :, [0, 0], :][:, :, :, [0, 0]]
    torch.testing.assert_close(isp.forward(image, strided), isp.forward(image, again), rtol=0, atol=0)
    half = isp.forward(image.bfloat16(), parameters)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), isp.forward(image.bfloat16().float(), parameters), rtol=0, atol=4e-3)
    assert len(calls) == 6


@pytest.mark.parametrize("where", ["image", "parameters"])
def test_nan_is_passed_on(where, calls):
    isp = InvertibleISP(ISPSpec(), check=False)
    image, parameters = images(1), make_sets(ISPSpec(), 1, 3).float()
    (image[:, :, 7, 7] if where == "image" else parameters[:, 9]).fill_(torch.nan)
    assert torch.isnan(isp.forward(image, parameters)).any()
    assert not calls


def test_gradients_and_the_other_sign_take_the_tensors(calls):
    isp = InvertibleISP(ISPSpec())
    parameters = make_sets(ISPSpec(), 1, 3).float().requires_grad_()
    isp.forward(images(1), parameters).mean().backward()
    assert parameters.grad is not None
    spec = ISPSpec(inverse_tone_mapping=True, it_sign=-1)
    InvertibleISP(spec).forward(images(1), make_sets(spec, 1, 3).float())
    assert not calls


def test_without_numba(monkeypatch):
    monkeypatch.delattr(semiisp_plugin.isp, "numba_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "semiisp_plugin.isp.numba_kernels", None)
    kernel.cache_clear()
    try:
        isp = InvertibleISP(ISPSpec())
        image, parameters = images(1), make_sets(ISPSpec(), 1, 3, (2, 2))
        assert kernel("forward") is None
        result = isp.forward(image, parameters.float())
        torch.testing.assert_close(result.double(), isp.forward(image.double(), parameters), rtol=0, atol=1e-4)
    finally:
        kernel.cache_clear()


@pytest.fixture
def cache_of_numba(monkeypatch):
    """Numba's cache of compiled code, which is read again."""
    caching = pytest.importorskip("numba.core.caching")
    monkeypatch.delitem(sys.modules, "semiisp_plugin.isp.numba_kernels", raising=False)
    monkeypatch.delattr(semiisp_plugin.isp, "numba_kernels", raising=False)
    kernel.cache_clear()
    yield caching.IndexDataCacheFile
    kernel.cache_clear()


@pytest.mark.slow
def test_with_a_full_disk(monkeypatch, cache_of_numba):
    """Numba keeps what it compiled; where it cannot, the compiled code runs all the same."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_of_numba, "save", full)
    monkeypatch.setattr(cache_of_numba, "load", lambda *_: None)
    image, parameters = images(1), make_sets(ISPSpec(), 1, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = InvertibleISP(ISPSpec()).forward(image, parameters.float())
    expected = InvertibleISP(ISPSpec()).forward(image.double(), parameters)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4)


def test_with_a_damaged_cache(monkeypatch, cache_of_numba):
    def damaged(*_, **__):
        raise EOFError("Ran out of input")

    monkeypatch.setattr(cache_of_numba, "load", damaged)
    image, parameters = images(1), make_sets(ISPSpec(), 1, 14)
    with pytest.warns(RuntimeWarning, match=r"without Numba.*EOFError.*delete the \.nbi"):
        result = InvertibleISP(ISPSpec()).forward(image, parameters.float())
    expected = InvertibleISP(ISPSpec()).forward(image.double(), parameters)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4)


def test_what_does_not_see_single_numbers_takes_the_tensors(calls):
    """A trace would keep the numbers of its example, a tangent would be lost."""
    isp = InvertibleISP(ISPSpec())
    image, other, parameters = images(1), images(1, seed=1), make_sets(ISPSpec(), 1, 3, (2, 2)).float()
    expected = isp.forward(other, parameters)
    del calls[:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks of shapes
        traced = torch.jit.trace(isp.forward, (image, parameters), check_trace=False)
    torch.testing.assert_close(traced(other, parameters), expected, rtol=0, atol=1e-5)
    with forward_ad.dual_level():
        out = isp.forward(forward_ad.make_dual(image, torch.ones_like(image)), parameters)
        assert forward_ad.unpack_dual(out).tangent is not None
    _, tangent = torch.func.jvp(lambda i: isp.forward(i, parameters), (image,), (torch.ones_like(image),))
    assert tangent.abs().max() > 0
    assert not calls
