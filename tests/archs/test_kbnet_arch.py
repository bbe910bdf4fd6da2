"""KBNet_s: names and numbers.

The recorded outputs were made by filling the network of the public repository (github.com/zhangyi-3/KBNet) with the
weights of :func:`fill`, in float64, and running it on the input that the test makes again; they were written down after
this network had given the same numbers to 1e-14.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import Net, filled
from torch import Tensor

from semiisp_plugin.archs import kbnet_arch
from semiisp_plugin.archs.kbnet_arch import KBNet_s

# A block of C channels with lightweight: true and ffn_scale: 1.5 (D = 1.5 C, half of it H); B = C * 4 * 9 values of
# each of the 32 kernels, at most 32 channels (M, half of them N) on the way to the coefficients.
BLOCK_NAMES_AND_SHAPES = """
w 1x32xB
b 1x32xC
ga1 1xCx1x1
attgamma 1x32x1x1
beta 1xCx1x1
gamma 1xCx1x1
norm1.weight C
norm1.bias C
norm2.weight C
norm2.bias C
sca.1.weight CxCx1x1
sca.1.bias C
conv11.0.weight CxCx1x1
conv11.0.bias C
conv11.1.weight Cx1x3x3
conv11.1.bias C
conv1.weight CxCx1x1
conv1.bias C
conv21.weight Cx1x3x3
conv21.bias C
conv2.0.weight MxOx3x3
conv2.0.bias M
conv2.2.weight 32xNx1x1
conv2.2.bias 32
conv211.weight 32xCx1x1
conv211.bias 32
conv3.weight CxCx1x1
conv3.bias C
conv4.weight DxCx1x1
conv4.bias D
conv5.weight CxHx1x1
conv5.bias C
"""
OTHER_NAMES_AND_SHAPES = """
intro.weight 4x3x3x3
intro.bias 4
downs.0.weight 8x4x2x2
downs.0.bias 8
ups.0.0.weight 16x8x1x1
ending.weight 3x4x3x3
ending.bias 3
"""

# options, seed, input shape, recorded (mean, standard deviation, six values) of the public network's output
RECORDED: list[tuple[dict[str, Any], int, tuple[int, ...], list[float]]] = [
    (
        {"width": 8, "lightweight": True, "ffn_scale": 1.5},
        1,
        (1, 3, 37, 50),
        [
            0.476608562777,
            1.200004018582,
            -0.363392866072,
            1.525670036873,
            0.148908643467,
            1.054967353747,
            -1.83949242891,
            -0.056095479213,
        ],
    ),
    (
        {"img_channel": 4, "width": 16, "middle_blk_num": 2, "enc_blk_nums": [1, 0], "dec_blk_nums": [1, 1]},
        2,
        (2, 4, 14, 23),
        [
            0.416314581047,
            1.242647620364,
            -0.277043381974,
            -0.009032186363,
            1.189786480063,
            -0.011379350987,
            1.760051008936,
            -0.355257143616,
        ],
    ),
]


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    last = name.rpartition(".")[2]
    if last in ("beta", "gamma", "ga1", "attgamma"):
        return 0.5 * u  # small at the start, which would hide the block
    if last == "w":
        return u / 6
    if parameter.ndim == 1 and "norm" in name and last == "weight":
        return 1 + 0.2 * u
    return 0.2 * u if parameter.ndim == 1 or last == "b" else u * np.sqrt(3 / np.prod(parameter.shape[1:]))


def fill(net: Net, seed: int) -> Net:
    return filled(net, seed, _value)


def probes(out: Tensor) -> list[float]:
    flat = out.detach().numpy().ravel()
    return [flat.mean(), flat.std(), *flat[np.linspace(0, flat.size - 1, 6).astype(int)]]


def small(**options: Any) -> KBNet_s:
    return KBNet_s(**{"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], **options})


@pytest.mark.parametrize(
    ("options", "count"), [({"lightweight": True, "ffn_scale": 1.5}, 128_403_395), ({}, 141_966_659)]
)
def test_parameter_count_is_the_public_implementations(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in KBNet_s(**options).parameters()) == count


def test_names_and_shapes_are_the_published_ones() -> None:
    published = dict(line.split() for line in OTHER_NAMES_AND_SHAPES.split("\n") if line)
    for block, channels in {"encoders.0.0": 4, "middle_blks.0": 8, "decoders.0.0": 4}.items():
        few = min(channels, 32)
        sizes = {"B": 36 * channels, "C": channels, "D": 3 * channels // 2, "H": 3 * channels // 4}
        sizes |= {"M": few, "N": few // 2, "O": channels // few}
        for line in BLOCK_NAMES_AND_SHAPES.split("\n")[1:-1]:
            name, shape = line.split()
            published[f"{block}.{name}"] = "x".join(str(sizes.get(side, side)) for side in shape.split("x"))
    net = small(enc_blk_nums=[1], dec_blk_nums=[1], lightweight=True, ffn_scale=1.5)
    assert {name: "x".join(map(str, value.shape)) for name, value in net.state_dict().items()} == published


@pytest.mark.parametrize("values", [2**20, 2**13])  # at once, and in strips
@pytest.mark.parametrize(("options", "seed", "shape", "recorded"), RECORDED)
def test_output_is_the_public_implementations(
    options: dict[str, Any],
    seed: int,
    shape: tuple[int, ...],
    recorded: list[float],
    values: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kbnet_arch, "_CPU_VALUES", values)
    image = torch.from_numpy(np.random.RandomState(300 + seed).uniform(0, 1, shape))
    with torch.no_grad():
        out = fill(small(**options), seed)(image)
    np.testing.assert_allclose(probes(out), recorded, rtol=0, atol=1e-10)


def test_kernel_basis_attention_is_the_formula_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pixel's own kernel, a mixture of the bank, in plain NumPy; at once, and in strips of a row and of two."""
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(8, 5, 19)), rng.normal(size=(32, 5, 19))
    bank, shifts = rng.normal(size=(32, 2, 4, 4, 3, 3)), rng.normal(size=(32, 8))
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1)])
    expected = np.einsum("khw,kc->chw", a, shifts)
    for row in range(5):
        for column in range(19):
            kernel = np.einsum("k,kgoiyx->goiyx", a[:, row, column], bank)
            around = padded[:, row : row + 3, column : column + 3].reshape(2, 4, 3, 3)
            expected[:, row, column] += np.einsum("goiyx,giyx->go", kernel, around).ravel()
    arguments = [torch.from_numpy(v) for v in (x[None], a[None], bank.reshape(32, -1), shifts)]
    for values in (2**20, 0, 2 * 8 * 32 * 19):
        monkeypatch.setattr(kbnet_arch, "_CPU_VALUES", values)
        np.testing.assert_allclose(kbnet_arch._filter(*arguments)[0].numpy(), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("values", [2**20, 2**12])
def test_gradients_are_those_of_finite_differences(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kbnet_arch, "_CPU_VALUES", values)
    shapes = ((2, 4, 3, 17), (2, 32, 3, 17), (32, 144), (32, 4))
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(kbnet_arch._filter, arguments, fast_mode=True)


@pytest.mark.parametrize("size", [(33, 41), (7, 18), (3, 8), (1, 1)])
def test_odd_sizes_are_padded_by_zeros_and_cropped(size: tuple[int, int]) -> None:
    net = fill(small(), 4)
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    pad = [(0, 0), (0, 0), *((0, -side % 4) for side in size)]
    expected = net(torch.from_numpy(np.pad(image.numpy(), pad)))[..., : size[0], : size[1]]
    out = net(image)
    assert out.shape == image.shape
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_state_dict_round_trip_by_the_published_key(tmp_path: Any) -> None:
    first, second = small(), small()
    image = torch.rand(1, 3, 12, 16)
    assert not torch.equal(first(image), second(image))
    torch.save({"model": first.state_dict()}, tmp_path / "net.pth")
    second.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True)["model"])
    assert torch.equal(first(image), second(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_channel": 0}, "img_channel is 0; use 1 or more"),
        ({"width": 6}, "width is 6; use a multiple of 4"),
        ({"width": 48}, "width is 48; above 32 use a multiple of 32"),
        ({"middle_blk_num": -1}, "middle_blk_num is -1; use 0 or more"),
        ({"enc_blk_nums": []}, r"enc_blk_nums is \[\]; give one or more"),
        ({"dec_blk_nums": [1, 1, 1]}, r"enc_blk_nums \[1, 1\] has 2 numbers, dec_blk_nums \[1, 1, 1\] has 3"),
        ({"ffn_scale": 1.25}, "ffn_scale 1.25 of 4 channels makes 5; choose it so that the number is even"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
