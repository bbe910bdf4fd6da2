"""LLFormer, written from its paper: the formulas, the count of parameters as it is, sizes, precisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from semiisp_plugin.archs.llformer_arch import LLFormer

PUBLISHED = 24_520_000


def small(**options: Any) -> LLFormer:
    return LLFormer(**{"dim": 4, "num_blocks": [1, 2], "heads": [1, 2], "num_refinement_blocks": 1, **options})


def test_parameter_count_is_near_the_published_one() -> None:
    """It is not equal: the paper leaves details open (see the module)."""
    with torch.device("meta"):
        count = sum(p.numel() for p in LLFormer().parameters())
    assert count == 23_993_813
    assert abs(count / PUBLISHED - 1) < 0.022


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pointwise(x: np.ndarray, weight: torch.Tensor) -> np.ndarray:
    return np.einsum("oi,ihw->ohw", weight.detach().numpy()[:, :, 0, 0], x)


def depthwise(x: np.ndarray, weight: torch.Tensor) -> np.ndarray:
    kernel, padded = weight.detach().numpy()[:, 0], np.pad(x, [(0, 0), (1, 1), (1, 1)])
    height, width = x.shape[1:]
    return sum(
        kernel[:, dy, dx, None, None] * padded[:, dy : dy + height, dx : dx + width]
        for dy in range(3)
        for dx in range(3)
    )


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_attention_is_the_formula_of_the_paper(axis: str) -> None:
    """Head by head and line by line in NumPy; the other axis is the same on the transposed image."""
    attention = small().double().get_submodule(f"encoders.1.0.{axis}")  # 16 channels, 2 heads
    w = dict(attention.named_parameters())
    with torch.no_grad():
        w["inverse_alpha"].copy_(torch.tensor([0.5, 2.0]).view(2, 1, 1))
    x = np.random.default_rng(0).normal(size=(16, 5, 7))
    query, key, value = np.split(depthwise(pointwise(x, w["qkv.0.weight"]), w["qkv.1.weight"]), 3)
    mixed = np.zeros_like(x)
    for head, channels in enumerate((slice(0, 8), slice(8, 16))):
        scale = w["inverse_alpha"][head].item()
        for line in range(7 if axis == "columns" else 5):
            at = (channels, slice(None), line) if axis == "columns" else (channels, line)
            likeness = softmax(scale * query[at].T @ key[at])
            mixed[at] = (likeness @ value[at].T).T
    expected = pointwise(mixed, w["project.weight"])
    out = attention(torch.from_numpy(x)[None]).detach().numpy()[0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_fusion_and_feed_forward_are_the_formulas_of_the_paper() -> None:
    net = small().double()
    fusion, feed_forward = net.get_submodule("head.fusion"), net.get_submodule("head.blocks.0.feed_forward")
    rng = np.random.default_rng(1)
    layers = rng.normal(size=(3, 4, 5, 6))
    w = dict(fusion.named_parameters())
    x = layers.reshape(12, 5, 6)
    parts = np.split(depthwise(pointwise(x, w["qkv.0.weight"]), w["qkv.1.weight"]), 3)
    query, key, value = (part.reshape(3, -1) for part in parts)
    query, key = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (query, key))
    mixed = (softmax(query @ key.T) @ value).reshape(12, 5, 6)
    expected = pointwise(x + pointwise(mixed, w["project.weight"]), w["reduce.weight"])
    out = fusion(list(torch.from_numpy(layers)[:, None])).detach().numpy()[0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)

    w = dict(feed_forward.named_parameters())
    assert w["expand.0.weight"].shape == (2 * int(2.66 * 4), 4, 1, 1)
    first, second = np.split(depthwise(pointwise(layers[0], w["expand.0.weight"]), w["expand.1.weight"]), 2)
    gelu = torch.nn.functional.gelu
    gates = [gelu(torch.from_numpy(part)).numpy() for part in (first, second)]
    expected = pointwise(gates[0] * second + first * gates[1], w["project.weight"])
    out = feed_forward(torch.from_numpy(layers[:1])).detach().numpy()[0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(33, 41), (7, 18), (3, 8), (1, 1), (2, 30)])
def test_odd_sizes_are_padded_by_the_edge_and_cropped(size: tuple[int, int]) -> None:
    net = small().double()
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    pad = [(0, 0), (0, 0), *((0, -side % 4) for side in size)]
    expected = net(torch.from_numpy(np.pad(image.numpy(), pad, mode="edge")))[..., : size[0], : size[1]]
    out = net(image)
    assert out.shape == image.shape
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_every_pixel_sees_every_other() -> None:
    """Along a column, then along a row: one block is enough."""
    block = small().get_submodule("head.blocks.0")
    x = torch.rand(1, 4, 24, 20, requires_grad=True)
    block(x)[0, :, 1, 2].sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(0) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 3}, "dim is 3; use an even number"),
        ({"num_blocks": []}, r"num_blocks is \[\]; give one or more"),
        ({"num_refinement_blocks": -1}, "num_refinement_blocks is -1; use 0 or more"),
        ({"heads": [1]}, r"num_blocks \[1, 2\] has 2 numbers, heads \[1\] has 1"),
        ({"heads": [1, 3]}, "3 heads cannot share 16 channels evenly"),
        ({"ffn_expansion_factor": 0.1}, "ffn_expansion_factor is 0.1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
