"""torch.compile takes both directions in one piece; on a CPU with a compiler the result is checked, too."""

import shutil

import pytest
import torch

from semiisp_plugin.isp import InvertibleISP, ISPSpec

VARIANTS = {"ISP": ISPSpec(), "IE": ISPSpec(inverse_tone_mapping=True)}


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def arguments(spec: ISPSpec, grid: tuple[int, int], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 96, 120, generator=generator)
    z = 0.3 * torch.randn(1, spec.n_parameters, *grid, generator=generator)
    return image.to(device), spec.squash(z).to(device)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning")  # what is cached are constants of the spec
@pytest.mark.parametrize("grid", [(1, 1), (3, 4)], ids=["global", "local"])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_no_graph_breaks(name, grid, device):
    """``fullgraph`` makes a break an error; forward, inverse and their gradients."""
    spec = VARIANTS[name]
    isp = InvertibleISP(spec)
    image, parameters = arguments(spec, grid, device)
    for function in (isp.forward, isp.inverse):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        results = []
        for f in (function, compiled):
            leaves = image.clone().requires_grad_(), parameters.clone().requires_grad_()
            out = f(*leaves)
            out = out if isinstance(out, torch.Tensor) else out.image
            out.pow(2).mean().backward()
            results.append([out.detach(), *(leaf.grad for leaf in leaves)])
        for expected, found in zip(*results, strict=True):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    if grid == (1, 1):
        photograph = (image * 255).to(torch.uint8)
        compiled = torch.compile(isp.inverse, fullgraph=True, backend="aot_eager")
        expected = isp.inverse(photograph, parameters, backend="curve8").image
        assert torch.allclose(compiled(photograph, parameters, backend="curve8").image, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("grid", [(1, 1), (3, 4)], ids=["global", "local"])
def test_machine_code_gives_the_same(grid, device):
    """Through Inductor: few kernels, the same values."""
    from torch._inductor import metrics

    isp = InvertibleISP(ISPSpec())
    image, parameters = arguments(ISPSpec(), grid, device)
    metrics.reset()
    with torch.no_grad():
        found = torch.compile(isp.inverse, fullgraph=True)(image, parameters)
        expected = isp.inverse(image, parameters)
    assert torch.allclose(found.image, expected.image, atol=5e-6)
    assert torch.allclose(found.clipped, expected.clipped, atol=3 / image.numel())
    # Some hundred operations; global parameters add a few kernels over no more than nine values each.
    assert 0 < metrics.generated_kernel_count <= 12
