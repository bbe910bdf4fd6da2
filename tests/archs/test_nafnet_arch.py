"""NAFNet: names and numbers.

The recorded outputs were made by filling the network of the public repository (github.com/megvii-research/NAFNet) with
the weights of :func:`fill`, in float64, and running it on the input that the test makes again; they were written down
after this network had given the same numbers to 1e-13.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import Net, filled, probes
from torch import Tensor

from semiisp_plugin.archs.nafnet_arch import NAFNet

# enc_blk_nums = dec_blk_nums = [1, 1], width 2, one middle block: every kind of parameter at every level.
BLOCK_NAMES_AND_SHAPES = """
beta 1xCx1x1
gamma 1xCx1x1
norm1.weight C
norm1.bias C
norm2.weight C
norm2.bias C
conv1.weight DxCx1x1
conv1.bias D
conv2.weight Dx1x3x3
conv2.bias D
conv3.weight CxCx1x1
conv3.bias C
sca.1.weight CxCx1x1
sca.1.bias C
conv4.weight DxCx1x1
conv4.bias D
conv5.weight CxCx1x1
conv5.bias C
"""
OTHER_NAMES_AND_SHAPES = """
intro.weight 2x3x3x3
intro.bias 2
downs.0.weight 4x2x2x2
downs.0.bias 4
downs.1.weight 8x4x2x2
downs.1.bias 8
ups.0.0.weight 16x8x1x1
ups.1.0.weight 8x4x1x1
ending.weight 3x2x3x3
ending.bias 3
"""
BLOCK_CHANNELS = {"encoders.0.0": 2, "encoders.1.0": 4, "middle_blks.0": 8, "decoders.0.0": 4, "decoders.1.0": 2}

# options, seed, input shape, recorded (mean, standard deviation, six values) of the public network's output
RECORDED: list[tuple[dict[str, Any], int, tuple[int, ...], list[float]]] = [
    (
        {},
        1,
        (1, 3, 37, 50),
        [
            0.524293145119,
            1.082204975100,
            -0.787197617613,
            0.340718967749,
            -0.070845374328,
            0.214021557521,
            0.330093094447,
            2.175944006540,
        ],
    ),
    (
        {"img_channel": 4, "width": 6, "middle_blk_num": 2, "enc_blk_nums": [1, 0, 2], "dec_blk_nums": [1, 1, 0]},
        2,
        (2, 4, 16, 24),
        [
            0.648079411989,
            0.825778165838,
            1.549082733324,
            0.903007889396,
            0.503337447399,
            1.099653255763,
            1.241663676042,
            1.419912447962,
        ],
    ),
    # NAFNetLocal, in whose name the public code has the side of the training crops, train_size
    (
        {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "tlc_train_size": 32},
        3,
        (1, 3, 61, 90),
        [
            0.709109138603,
            0.790955392148,
            1.186333775247,
            0.698421510642,
            0.950206203699,
            0.600252317741,
            0.650454499448,
            -0.005630763698,
        ],
    ),
    (
        {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "tlc_train_size": [18, 31]},
        4,
        (2, 3, 40, 33),
        [
            0.596099138633,
            0.632740738228,
            1.184917784690,
            1.175443117038,
            2.178608230369,
            0.139327378491,
            1.287974051658,
            1.482200051302,
        ],
    ),
]
GOPRO = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    if name.endswith(("beta", "gamma")):
        return 0.5 * u  # zero at the start, which would hide the block
    if parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
        return 1 + 0.2 * u
    return 0.2 * u if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())


def fill(net: Net, seed: int) -> Net:
    return filled(net, seed, _value)


def small(**options: Any) -> NAFNet:
    return NAFNet(**{"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], **options})


@pytest.mark.parametrize(
    ("options", "count", "millions"),
    [
        ({}, 7_371_923, "7.37"),
        ({"width": 32}, 29_159_715, "29.16"),
        ({"width": 64}, 115_982_915, "115.98"),
        ({"width": 32, **GOPRO}, 17_111_907, "17.11"),
        ({"width": 64, **GOPRO, "tlc_train_size": 256}, 67_888_835, "67.89"),
    ],
)
def test_parameter_count_is_the_published_one(options: dict[str, Any], count: int, millions: str) -> None:
    with torch.device("meta"):
        found = sum(p.numel() for p in NAFNet(**options).parameters())
    assert found == count
    assert f"{found / 1e6:.2f}" == millions


def test_names_and_shapes_are_the_published_ones() -> None:
    published = dict(line.split() for line in OTHER_NAMES_AND_SHAPES.split("\n") if line)
    for block, channels in BLOCK_CHANNELS.items():
        for line in BLOCK_NAMES_AND_SHAPES.split("\n")[1:-1]:
            name, shape = line.split()
            published[f"{block}.{name}"] = shape.replace("C", str(channels)).replace("D", str(2 * channels))
    found = {name: "x".join(map(str, value.shape)) for name, value in small(width=2).state_dict().items()}
    assert found == published


@pytest.mark.parametrize(("options", "seed", "shape", "recorded"), RECORDED)
def test_output_is_the_public_implementations(
    options: dict[str, Any], seed: int, shape: tuple[int, ...], recorded: list[float]
) -> None:
    image = torch.from_numpy(np.random.RandomState(200 + seed).uniform(0, 1, shape))
    with torch.no_grad():
        out = fill(NAFNet(**options), seed)(image)
    np.testing.assert_allclose(probes(out), recorded, rtol=0, atol=1e-10)


def test_block_is_the_formula_of_the_paper() -> None:
    """One block against plain NumPy: norm, 1x1, depth-wise 3x3, gate, attention, 1x1; norm, 1x1, gate, 1x1."""
    block = fill(small(), 3).get_submodule("middle_blks.0")  # 16 channels
    x = np.random.default_rng(0).normal(size=(16, 5, 7))
    w = {name: value.detach().numpy() for name, value in block.named_parameters()}

    def norm(image: np.ndarray, name: str) -> np.ndarray:
        unit = (image - image.mean(0)) / np.sqrt(image.var(0) + 1e-6)
        return w[f"{name}.weight"][:, None, None] * unit + w[f"{name}.bias"][:, None, None]

    def pointwise(image: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("oi,ihw->ohw", w[f"{name}.weight"][:, :, 0, 0], image) + w[f"{name}.bias"][:, None, None]

    wide = pointwise(norm(x, "norm1"), "conv1")
    padded, kernel = np.pad(wide, [(0, 0), (1, 1), (1, 1)]), w["conv2.weight"][:, 0]
    filtered = np.zeros_like(wide) + w["conv2.bias"][:, None, None]
    for dy in range(3):
        for dx in range(3):
            filtered += kernel[:, dy, dx, None, None] * padded[:, dy : dy + 5, dx : dx + 7]
    gated = filtered[:16] * filtered[16:]
    y = x + w["beta"][0] * pointwise(gated * pointwise(gated.mean((1, 2), keepdims=True), "sca.1"), "conv3")
    wide = pointwise(norm(y, "norm2"), "conv4")
    expected = y + w["gamma"][0] * pointwise(wide[:16] * wide[16:], "conv5")
    out = block(torch.from_numpy(x)[None]).detach().numpy()[0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_local_means_are_those_of_windows() -> None:
    """The attention of a block against plain loops: windows as large as fit, moved inside at the edges."""
    attention = fill(small(tlc_train_size=8), 5).get_submodule("encoders.1.0.sca")  # windows of 4 * 12 // 8 = 6
    x = np.random.default_rng(1).normal(size=(8, 9, 13))
    weight, bias = (p.detach().numpy() for p in attention.parameters())
    for height, width, window in ((9, 13, (6, 6)), (5, 13, (5, 6)), (9, 4, (6, 4))):
        part = x[:, :height, :width]
        expected = np.zeros_like(part)
        for row in range(height):
            for column in range(width):
                top = min(max(row - (window[0] - 1) // 2, 0), height - window[0])
                left = min(max(column - (window[1] - 1) // 2, 0), width - window[1])
                mean = part[:, top : top + window[0], left : left + window[1]].mean((1, 2))
                expected[:, row, column] = weight[:, :, 0, 0] @ mean + bias
        out = attention(torch.from_numpy(part.copy())[None]).detach().numpy()[0]
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_local_means_are_for_large_images_in_evaluation() -> None:
    whole, local = fill(small(), 9), fill(small(tlc_train_size=16), 9)
    assert local.state_dict().keys() == whole.state_dict().keys()
    large, medium = torch.rand(1, 3, 40, 30, dtype=torch.float64), torch.rand(1, 3, 24, 21, dtype=torch.float64)
    assert torch.equal(local(medium), whole(medium))  # 1.5 times 16
    assert not torch.allclose(local(large), whole(large))
    assert torch.equal(local.train()(large), whole.train()(large))


def test_far_pixels_do_not_matter_with_local_means() -> None:
    """Two blocks at a level, a window of 12 pixels each and 3 of convolution, on both sides."""
    net = fill(small(enc_blk_nums=[1], dec_blk_nums=[1], middle_blk_num=0, tlc_train_size=8), 10)
    image = torch.rand(1, 3, 8, 120, dtype=torch.float64)
    other = image.clone()
    other[..., 60:] = torch.rand_like(other[..., 60:])
    torch.testing.assert_close(net(image)[..., :30], net(other)[..., :30], rtol=0, atol=1e-12)
    assert not torch.allclose(net(image)[..., 56:60], net(other)[..., 56:60])


def test_blocks_start_as_the_identity() -> None:
    net = small()
    features = torch.rand(1, 16, 6, 5)
    assert torch.equal(net.middle_blks(features), features)


@pytest.mark.parametrize("size", [(33, 41), (7, 18), (12, 5), (3, 8), (1, 1), (2, 30)])
def test_odd_sizes_are_padded_by_zeros_and_cropped(size: tuple[int, int]) -> None:
    net = fill(small(), 4)
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    pad = [(0, 0), (0, 0), *((0, -side % 4) for side in size)]
    expected = net(torch.from_numpy(np.pad(image.numpy(), pad)))[..., : size[0], : size[1]]
    out = net(image)
    assert out.shape == image.shape
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("levels", "multiple"), [(1, 2), (4, 16)])
def test_the_multiple_follows_the_number_of_levels(levels: int, multiple: int) -> None:
    net = small(enc_blk_nums=[1] * levels, dec_blk_nums=[1] * levels)
    assert net.multiple == multiple
    assert net(torch.rand(1, 3, 13, 11)).shape == (1, 3, 13, 11)


def test_flat_images_give_finite_gradients() -> None:
    """With features all alike a layer norm divides by its epsilon alone."""
    net = small(img_channel=1, width=1, enc_blk_nums=[1], dec_blk_nums=[1])
    for value in (0.0, 1.0):
        net(torch.full((1, 1, 16, 16), value)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


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
        ({"img_channel": 0}, "img_channel is 0; use 1 or more"),
        ({"width": 0}, "width is 0; use 1 or more"),
        ({"middle_blk_num": -1}, "middle_blk_num is -1; use 0 or more"),
        ({"enc_blk_nums": []}, r"enc_blk_nums is \[\]; give one or more"),
        ({"dec_blk_nums": [1, -1]}, r"dec_blk_nums is \[1, -1\]; give one or more"),
        ({"tlc_train_size": 0}, "tlc_train_size is 0; give the side of the training crops"),
        ({"tlc_train_size": [8, 8, 8]}, r"tlc_train_size is \[8, 8, 8\]; give the side"),
        ({"dec_blk_nums": [1, 1, 1]}, r"enc_blk_nums \[1, 1\] has 2 numbers, dec_blk_nums \[1, 1, 1\] has 3"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
