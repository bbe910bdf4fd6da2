"""LLF-LUT: names, sizes, its pieces against plain references, and numbers of the public code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, probes
from torch import Tensor

from semiisp_plugin.archs.llf_lut_arch import LLFLUT, edge_map, expand, reduce, remap
from semiisp_plugin.models.output_penalties import TablePenalty

SMALL: dict[str, Any] = {"num_lap": 2, "n_vertices": 5, "embed_dim": 8, "heads": [1, 2], "filter_feat": 8}


def fill(net: LLFLUT, seed: int = 0) -> LLFLUT:
    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        if "LUT" in name:
            return parameter.detach().numpy() + 0.1 * u
        if parameter.ndim == 1 or "beta" in name:
            return (("norm" in name and name.endswith("weight")) + 0.2 * u).astype(float)
        return u / np.sqrt(parameter[0].numel())

    return filled(net, seed, value)


@pytest.mark.parametrize(
    ("levels", "count", "tensors", "digest"),
    [
        (3, 716_277, 226, "f9fe88238cf9023ac1509aa52b4c82d97182906d612e2c78d548916e621efb69"),
        (6, 717_339, 244, "cf04b02360bfc76833d12c7dd84a538c71f1ef89d2923fc6edf4aebd15d908c4"),
    ],
)
def test_names_shapes_and_count_are_the_published_ones(levels: int, count: int, tensors: int, digest: str) -> None:
    net = LLFLUT(num_lap=levels)
    assert sum(p.numel() for p in net.parameters()) == count
    assert names_and_shapes(net) == (tensors, digest)
    names = {"transformer.decoder_layers.3.blocks.0.attn2.relative_position_index", "LUT2.LUT"}
    assert {*names, f"laplacian_filter.block.high_freq_blocks.{levels - 2}.4.bias"} <= set(net.state_dict())


@pytest.mark.parametrize("size", [(11, 8), (12, 13)])
def test_pyramid_against_convolutions(size: tuple[int, int]) -> None:
    """As published: blurred with reflected borders and halved; zeros between the pixels and blurred again."""
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    taps = torch.tensor([1.0, 4, 6, 4, 1], dtype=torch.float64) / 16
    kernel = (taps[:, None] * taps).expand(3, 1, 5, 5)
    coarse = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)[..., ::2, ::2]
    torch.testing.assert_close(reduce(image), coarse, rtol=0, atol=1e-14)
    spread = torch.zeros(2, 3, 2 * coarse.shape[2], 2 * coarse.shape[3], dtype=torch.float64)
    spread[..., ::2, ::2] = coarse
    fine = F.conv2d(F.pad(spread, (2, 2, 2, 2), mode="reflect"), 4 * kernel, groups=3)[..., : size[0], : size[1]]
    torch.testing.assert_close(expand(coarse, *size), fine, rtol=0, atol=1e-14)


def test_remapping_against_its_sum() -> None:
    gauss, detail = torch.rand(1, 3, 9, 8).double() * 1.6 - 0.3, torch.randn(1, 3, 9, 8).double()
    fact, sigma = torch.randn(2, 1, 1, 9, 8).double()
    expected = detail
    for r in torch.arange(10).double() / 9:
        weight = (1 - 9 * (gauss - r).abs()).clamp_min(0)
        expected = expected + weight * fact * (expected - r) * torch.exp(-2 * sigma**2 * (expected - r) ** 2)
    torch.testing.assert_close(remap(gauss, detail, fact, sigma), expected, rtol=0, atol=1e-12)


def test_edges_are_thin_followed_and_closed() -> None:
    """A step has a line of edges; a faint one too where a strong one leads to it, and not alone."""
    image = torch.zeros(1, 3, 24, 20)
    image[..., 10:] = 0.06
    assert edge_map(image).sum() == 0
    image[..., :8, 10:] = 0.12
    image[..., 9] += 0.5 * image[..., 10]  # the step's middle is at a pixel
    found = edge_map(image)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert found[0, 0, :, 9].tolist() == [1.0] * 24
    assert found[0, 0, 12:].sum() == 12


@torch.no_grad()
def test_spectral_attention_against_the_fourier_transform() -> None:
    net = fill(LLFLUT(**SMALL))
    attention = net.transformer.encoder_layers[1].blocks[0].attn
    x = torch.randn(3, 16, 8, dtype=torch.float64)

    def attend(tokens: Tensor, bias: Tensor | float) -> Tensor:
        q, k, v = attention.qkv(tokens).reshape(3, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return (torch.softmax(q @ k.mT / 2 + bias, -1) @ v).transpose(1, 2).reshape(3, -1, 8)

    table = attention.relative_position_bias_table.reshape(7, 7, 2)
    bias = torch.empty(2, 16, 16, dtype=torch.float64)
    for i in range(16):
        for j in range(16):
            bias[:, i, j] = table[i // 4 - j // 4 + 3, i % 4 - j % 4 + 3]
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho")
    real, imaginary = attend(torch.cat([spectrum.real, spectrum.imag], 1), 0.0).chunk(2, 1)
    back = torch.fft.irfft(torch.complex(real, imaginary), n=16, dim=1, norm="ortho")
    torch.testing.assert_close(attention(x), attention.proj(attend(x, bias) + back), rtol=0, atol=1e-12)


# Of the public code in float64 with this fill, its lookup by grid_sample: mean, standard deviation, six values.
PUBLISHED = [
    -0.031980516751,
    0.069723437550,
    0.056654388103,
    0.029680297769,
    0.112487470502,
    0.056787204159,
    0.007531232681,
    -0.101757069761,
]


@torch.no_grad()
def test_numbers_are_those_of_the_public_code() -> None:
    image = torch.from_numpy(np.random.RandomState(300).uniform(0, 1, (1, 3, 70, 91)))
    np.testing.assert_allclose(probes(fill(LLFLUT())(image)), PUBLISHED, rtol=0, atol=1e-10)


@torch.no_grad()
def test_identity_start_returns_the_input() -> None:
    image = torch.rand(2, 3, 21, 30)
    torch.testing.assert_close(LLFLUT(**SMALL, identity_start=True).eval()(image), image, rtol=0, atol=2e-6)


def test_gradients_reach_all_that_is_trained_and_black_images_give_finite_ones() -> None:
    net = fill(LLFLUT(**SMALL))
    with torch.no_grad():
        net.transformer.head.bias.copy_(torch.tensor([1.0, 0, 0]))  # colours near the filter's reference values
    net(torch.rand(1, 3, 24, 21).double()).square().mean().backward()
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert {n for n, p in trained.items() if p.grad is None or p.grad.abs().sum() == 0} == set()
    unused = {n.split(".")[1] for n, p in net.named_parameters() if not p.requires_grad}
    assert unused == {"upconv1", "upconv2", "HRconv", "downsample"}
    net(torch.zeros(1, 3, 16, 16).double()).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in trained.values())


def test_parts_are_left_out_in_training_alone() -> None:
    net, image = fill(LLFLUT(**SMALL, drop_path=0.9)), torch.rand(1, 3, 16, 16).double()
    assert torch.equal(net(image), net(image))
    net.train()
    assert len({net(image).sum().item() for _ in range(8)}) > 1


def test_its_tables_are_asked_to_be_smooth() -> None:
    """All three, as published; those of the start: one that returns its input, and two of zeros."""
    net = LLFLUT(**SMALL)
    penalty = TablePenalty({"network_g": net}, smoothness=1.0, monotonicity=0.0)
    image = torch.rand(2, 3, 12, 12)
    net(image)
    assert penalty.take(image).tolist() == pytest.approx([1 / 16] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_lap": 0}, "LLFLUT: num_lap is 0; use 1 or more"),
        ({"heads": [3]}, r"LLFLUT: heads is \[3\]; give divisors of embed_dim \(8\)"),
        ({"heads": []}, r"heads is \[\]; give one or more numbers"),
        ({"filter_feat": 6}, "filter_feat is 6; use a multiple of 4"),
        ({"n_vertices": 1}, "n_vertices is 1; use 2 or more"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLFLUT(**{**SMALL, **options})
