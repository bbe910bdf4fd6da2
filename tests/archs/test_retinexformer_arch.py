"""Retinexformer: names and numbers.

The recorded outputs were made by filling the network of the public repository
(github.com/caiyuanhao1998/Retinexformer) with the weights of :func:`fill`, in float64, and running it on the input that
the test makes again, padded and cropped as the repository's test script does; they were written down after this network
had given the same numbers to 1e-14.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import Net, filled, probes
from torch import Tensor

from semiisp_plugin.archs.retinexformer_arch import Retinexformer

NAMES_AND_SHAPES = """
body.0.estimator.conv1.weight 40x4x1x1
body.0.estimator.conv1.bias 40
body.0.estimator.depth_conv.weight 40x10x5x5
body.0.estimator.depth_conv.bias 40
body.0.estimator.conv2.weight 3x40x1x1
body.0.estimator.conv2.bias 3
body.0.denoiser.embedding.weight 40x3x3x3
body.0.denoiser.encoder_layers.0.0.blocks.0.0.rescale 1x1x1
body.0.denoiser.encoder_layers.0.0.blocks.0.0.to_q.weight 40x40
body.0.denoiser.encoder_layers.0.0.blocks.0.0.to_k.weight 40x40
body.0.denoiser.encoder_layers.0.0.blocks.0.0.to_v.weight 40x40
body.0.denoiser.encoder_layers.0.0.blocks.0.0.proj.weight 40x40
body.0.denoiser.encoder_layers.0.0.blocks.0.0.proj.bias 40
body.0.denoiser.encoder_layers.0.0.blocks.0.0.pos_emb.0.weight 40x1x3x3
body.0.denoiser.encoder_layers.0.0.blocks.0.0.pos_emb.2.weight 40x1x3x3
body.0.denoiser.encoder_layers.0.0.blocks.0.1.fn.net.0.weight 160x40x1x1
body.0.denoiser.encoder_layers.0.0.blocks.0.1.fn.net.2.weight 160x1x3x3
body.0.denoiser.encoder_layers.0.0.blocks.0.1.fn.net.4.weight 40x160x1x1
body.0.denoiser.encoder_layers.0.0.blocks.0.1.norm.weight 40
body.0.denoiser.encoder_layers.0.0.blocks.0.1.norm.bias 40
body.0.denoiser.encoder_layers.0.1.weight 80x40x4x4
body.0.denoiser.encoder_layers.0.2.weight 80x40x4x4
body.0.denoiser.encoder_layers.1.0.blocks.0.0.rescale 2x1x1
body.0.denoiser.encoder_layers.1.0.blocks.0.0.to_q.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.0.0.to_k.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.0.0.to_v.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.0.0.proj.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.0.0.proj.bias 80
body.0.denoiser.encoder_layers.1.0.blocks.0.0.pos_emb.0.weight 80x1x3x3
body.0.denoiser.encoder_layers.1.0.blocks.0.0.pos_emb.2.weight 80x1x3x3
body.0.denoiser.encoder_layers.1.0.blocks.0.1.fn.net.0.weight 320x80x1x1
body.0.denoiser.encoder_layers.1.0.blocks.0.1.fn.net.2.weight 320x1x3x3
body.0.denoiser.encoder_layers.1.0.blocks.0.1.fn.net.4.weight 80x320x1x1
body.0.denoiser.encoder_layers.1.0.blocks.0.1.norm.weight 80
body.0.denoiser.encoder_layers.1.0.blocks.0.1.norm.bias 80
body.0.denoiser.encoder_layers.1.0.blocks.1.0.rescale 2x1x1
body.0.denoiser.encoder_layers.1.0.blocks.1.0.to_q.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.1.0.to_k.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.1.0.to_v.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.1.0.proj.weight 80x80
body.0.denoiser.encoder_layers.1.0.blocks.1.0.proj.bias 80
body.0.denoiser.encoder_layers.1.0.blocks.1.0.pos_emb.0.weight 80x1x3x3
body.0.denoiser.encoder_layers.1.0.blocks.1.0.pos_emb.2.weight 80x1x3x3
body.0.denoiser.encoder_layers.1.0.blocks.1.1.fn.net.0.weight 320x80x1x1
body.0.denoiser.encoder_layers.1.0.blocks.1.1.fn.net.2.weight 320x1x3x3
body.0.denoiser.encoder_layers.1.0.blocks.1.1.fn.net.4.weight 80x320x1x1
body.0.denoiser.encoder_layers.1.0.blocks.1.1.norm.weight 80
body.0.denoiser.encoder_layers.1.0.blocks.1.1.norm.bias 80
body.0.denoiser.encoder_layers.1.1.weight 160x80x4x4
body.0.denoiser.encoder_layers.1.2.weight 160x80x4x4
body.0.denoiser.bottleneck.blocks.0.0.rescale 4x1x1
body.0.denoiser.bottleneck.blocks.0.0.to_q.weight 160x160
body.0.denoiser.bottleneck.blocks.0.0.to_k.weight 160x160
body.0.denoiser.bottleneck.blocks.0.0.to_v.weight 160x160
body.0.denoiser.bottleneck.blocks.0.0.proj.weight 160x160
body.0.denoiser.bottleneck.blocks.0.0.proj.bias 160
body.0.denoiser.bottleneck.blocks.0.0.pos_emb.0.weight 160x1x3x3
body.0.denoiser.bottleneck.blocks.0.0.pos_emb.2.weight 160x1x3x3
body.0.denoiser.bottleneck.blocks.0.1.fn.net.0.weight 640x160x1x1
body.0.denoiser.bottleneck.blocks.0.1.fn.net.2.weight 640x1x3x3
body.0.denoiser.bottleneck.blocks.0.1.fn.net.4.weight 160x640x1x1
body.0.denoiser.bottleneck.blocks.0.1.norm.weight 160
body.0.denoiser.bottleneck.blocks.0.1.norm.bias 160
body.0.denoiser.bottleneck.blocks.1.0.rescale 4x1x1
body.0.denoiser.bottleneck.blocks.1.0.to_q.weight 160x160
body.0.denoiser.bottleneck.blocks.1.0.to_k.weight 160x160
body.0.denoiser.bottleneck.blocks.1.0.to_v.weight 160x160
body.0.denoiser.bottleneck.blocks.1.0.proj.weight 160x160
body.0.denoiser.bottleneck.blocks.1.0.proj.bias 160
body.0.denoiser.bottleneck.blocks.1.0.pos_emb.0.weight 160x1x3x3
body.0.denoiser.bottleneck.blocks.1.0.pos_emb.2.weight 160x1x3x3
body.0.denoiser.bottleneck.blocks.1.1.fn.net.0.weight 640x160x1x1
body.0.denoiser.bottleneck.blocks.1.1.fn.net.2.weight 640x1x3x3
body.0.denoiser.bottleneck.blocks.1.1.fn.net.4.weight 160x640x1x1
body.0.denoiser.bottleneck.blocks.1.1.norm.weight 160
body.0.denoiser.bottleneck.blocks.1.1.norm.bias 160
body.0.denoiser.decoder_layers.0.0.weight 160x80x2x2
body.0.denoiser.decoder_layers.0.0.bias 80
body.0.denoiser.decoder_layers.0.1.weight 80x160x1x1
body.0.denoiser.decoder_layers.0.2.blocks.0.0.rescale 2x1x1
body.0.denoiser.decoder_layers.0.2.blocks.0.0.to_q.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.0.0.to_k.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.0.0.to_v.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.0.0.proj.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.0.0.proj.bias 80
body.0.denoiser.decoder_layers.0.2.blocks.0.0.pos_emb.0.weight 80x1x3x3
body.0.denoiser.decoder_layers.0.2.blocks.0.0.pos_emb.2.weight 80x1x3x3
body.0.denoiser.decoder_layers.0.2.blocks.0.1.fn.net.0.weight 320x80x1x1
body.0.denoiser.decoder_layers.0.2.blocks.0.1.fn.net.2.weight 320x1x3x3
body.0.denoiser.decoder_layers.0.2.blocks.0.1.fn.net.4.weight 80x320x1x1
body.0.denoiser.decoder_layers.0.2.blocks.0.1.norm.weight 80
body.0.denoiser.decoder_layers.0.2.blocks.0.1.norm.bias 80
body.0.denoiser.decoder_layers.0.2.blocks.1.0.rescale 2x1x1
body.0.denoiser.decoder_layers.0.2.blocks.1.0.to_q.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.1.0.to_k.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.1.0.to_v.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.1.0.proj.weight 80x80
body.0.denoiser.decoder_layers.0.2.blocks.1.0.proj.bias 80
body.0.denoiser.decoder_layers.0.2.blocks.1.0.pos_emb.0.weight 80x1x3x3
body.0.denoiser.decoder_layers.0.2.blocks.1.0.pos_emb.2.weight 80x1x3x3
body.0.denoiser.decoder_layers.0.2.blocks.1.1.fn.net.0.weight 320x80x1x1
body.0.denoiser.decoder_layers.0.2.blocks.1.1.fn.net.2.weight 320x1x3x3
body.0.denoiser.decoder_layers.0.2.blocks.1.1.fn.net.4.weight 80x320x1x1
body.0.denoiser.decoder_layers.0.2.blocks.1.1.norm.weight 80
body.0.denoiser.decoder_layers.0.2.blocks.1.1.norm.bias 80
body.0.denoiser.decoder_layers.1.0.weight 80x40x2x2
body.0.denoiser.decoder_layers.1.0.bias 40
body.0.denoiser.decoder_layers.1.1.weight 40x80x1x1
body.0.denoiser.decoder_layers.1.2.blocks.0.0.rescale 1x1x1
body.0.denoiser.decoder_layers.1.2.blocks.0.0.to_q.weight 40x40
body.0.denoiser.decoder_layers.1.2.blocks.0.0.to_k.weight 40x40
body.0.denoiser.decoder_layers.1.2.blocks.0.0.to_v.weight 40x40
body.0.denoiser.decoder_layers.1.2.blocks.0.0.proj.weight 40x40
body.0.denoiser.decoder_layers.1.2.blocks.0.0.proj.bias 40
body.0.denoiser.decoder_layers.1.2.blocks.0.0.pos_emb.0.weight 40x1x3x3
body.0.denoiser.decoder_layers.1.2.blocks.0.0.pos_emb.2.weight 40x1x3x3
body.0.denoiser.decoder_layers.1.2.blocks.0.1.fn.net.0.weight 160x40x1x1
body.0.denoiser.decoder_layers.1.2.blocks.0.1.fn.net.2.weight 160x1x3x3
body.0.denoiser.decoder_layers.1.2.blocks.0.1.fn.net.4.weight 40x160x1x1
body.0.denoiser.decoder_layers.1.2.blocks.0.1.norm.weight 40
body.0.denoiser.decoder_layers.1.2.blocks.0.1.norm.bias 40
body.0.denoiser.mapping.weight 3x40x3x3
"""

# options, seed, input shape, recorded (mean, standard deviation, six values) of the public network's output
RECORDED: list[tuple[dict[str, Any], int, tuple[int, ...], list[float]]] = [
    (
        {},
        1,
        (1, 3, 17, 22),
        [
            0.796963963013,
            0.810447184538,
            0.132926780649,
            0.486620306127,
            0.336839721504,
            0.821072387242,
            0.910780817626,
            0.463549953539,
        ],
    ),
    (
        {"n_feat": 8, "stage": 2, "num_blocks": [2, 1, 1]},
        2,
        (2, 3, 16, 12),
        [
            0.505878096794,
            1.153727495430,
            0.366733157911,
            1.151575225168,
            0.339492908603,
            0.541654438991,
            0.739794609647,
            -0.455610562806,
        ],
    ),
    (
        {"n_feat": 16, "num_blocks": [1, 1, 2]},
        3,
        (1, 3, 5, 70),
        [
            0.535681709224,
            0.718160030252,
            1.231730799209,
            0.087385804770,
            0.973857782729,
            0.269913894661,
            0.191032496742,
            1.174751066386,
        ],
    ),
]


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    if name.endswith("rescale") or (parameter.ndim == 1 and name.endswith("weight")):
        return 1 + 0.2 * u
    return 0.2 * u if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())


def fill(net: Net, seed: int) -> Net:
    return filled(net, seed, _value)


def small(**options: Any) -> Retinexformer:
    return Retinexformer(n_feat=8, num_blocks=(1, 1, 1), **options)


def test_parameter_count_is_the_published_one() -> None:
    count = sum(p.numel() for p in Retinexformer().parameters())
    assert count == 1_605_701
    assert f"{count / 1e6:.2f}" == "1.61"


def test_names_and_shapes_are_the_published_ones() -> None:
    published = dict(line.split() for line in NAMES_AND_SHAPES.split("\n") if line)
    found = {name: "x".join(map(str, value.shape)) for name, value in Retinexformer().state_dict().items()}
    assert len(published) == 122
    assert found == published


@pytest.mark.parametrize(("options", "seed", "shape", "recorded"), RECORDED)
def test_output_is_the_public_implementations(
    options: dict[str, Any], seed: int, shape: tuple[int, ...], recorded: list[float]
) -> None:
    image = torch.from_numpy(np.random.RandomState(200 + seed).uniform(0, 1, shape))
    out = fill(Retinexformer(**options), seed)(image)
    np.testing.assert_allclose(probes(out), recorded, rtol=0, atol=1e-10)


def test_attention_is_the_formula_of_the_paper() -> None:
    """One attention against loops over heads in NumPy: softmax(s K^T Q), values weighted by the illumination."""
    net = fill(small(), 3)
    attention = net.get_submodule("body.0.denoiser.bottleneck.blocks.0.0")  # 32 channels, 4 heads
    with torch.no_grad():
        attention.get_parameter("pos_emb.2.weight").zero_()
    rng = np.random.default_rng(0)
    x, illumination = rng.normal(size=(2, 2, 3, 5, 32))
    weights = {name: value.detach().numpy() for name, value in attention.named_parameters()}

    expected = np.zeros((2, 15, 32))
    for n in range(2):
        tokens = x[n].reshape(15, 32)
        q, k, v = (tokens @ weights[f"to_{letter}.weight"].T for letter in "qkv")
        v = v * illumination[n].reshape(15, 32)
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            q_unit = q[:, part] / np.linalg.norm(q[:, part], axis=0)
            k_unit = k[:, part] / np.linalg.norm(k[:, part], axis=0)
            score = np.exp(weights["rescale"][head, 0, 0] * (k_unit.T @ q_unit))
            share = score / score.sum(axis=1, keepdims=True)
            expected[n, :, part] = v[:, part] @ share.T
    expected = expected @ weights["proj.weight"].T + weights["proj.bias"]
    out = attention(torch.from_numpy(x), torch.from_numpy(illumination)).detach().numpy()
    np.testing.assert_allclose(out, expected.reshape(2, 3, 5, 32), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(33, 41), (7, 18), (12, 5), (3, 8)])
def test_odd_sizes_are_padded_by_reflection_and_cropped(size: tuple[int, int]) -> None:
    net = fill(small(), 4)
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    pad = [(0, 0), (0, 0), *((0, -side % 4) for side in size)]
    padded = torch.from_numpy(np.pad(image.numpy(), pad, mode="reflect"))
    expected = net(padded)[..., : size[0], : size[1]]
    out = net(image)
    assert out.shape == image.shape
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 9), (6, 2), (2, 30)])
def test_tiny_sizes(size: tuple[int, int]) -> None:
    out = small()(torch.rand(1, 3, *size))
    assert out.shape == (1, 3, *size)
    assert torch.isfinite(out).all()


def test_the_multiple_follows_the_number_of_levels() -> None:
    for num_blocks, multiple in (((1, 1), 2), ((1, 1, 1, 1), 8)):
        net = Retinexformer(n_feat=4, num_blocks=num_blocks)
        assert net.multiple == multiple
        assert net(torch.rand(1, 3, 13, 11)).shape == (1, 3, 13, 11)


def test_black_images_give_finite_gradients() -> None:
    """Every feature of a black image is zero at the start, and the attention divides by its norm."""
    net = small()
    net(torch.zeros(1, 3, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    with torch.autocast("cpu", dtype=torch.float16):
        out = net(torch.zeros(1, 3, 16, 16))
    assert torch.isfinite(out).all()


def test_state_dict_round_trip(tmp_path: Any) -> None:
    first, second = small(), small()
    image = torch.rand(1, 3, 12, 16)
    assert not torch.equal(first(image), second(image))
    torch.save({"params": first.state_dict()}, tmp_path / "net.pth")
    second.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True)["params"])
    assert torch.equal(first(image), second(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_feat": 42}, "n_feat is 42; use a positive multiple of 4"),
        ({"n_feat": 0}, "n_feat is 0"),
        ({"stage": 0}, "stage is 0"),
        ({"num_blocks": [1]}, r"num_blocks is \[1\]"),
        ({"num_blocks": [1, 0, 1]}, r"num_blocks is \[1, 0, 1\]"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retinexformer(**options)


def test_autocast_in_bfloat16_stays_close() -> None:
    net = small()
    image = torch.rand(1, 3, 32, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(image)
    out.float().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    torch.testing.assert_close(out.float(), net(image), rtol=0, atol=0.02)
