"""SepLUT: names, numbers and lookups.

The recorded outputs were made by filling the network of the public repository (github.com/ImCharlesY/SepLUT) with the
weights of :func:`fill`, in float64, and running its compiled CPU lookup on the input that the test makes again; they
were written down after this network had given the same numbers to 1e-14.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import Net, filled, probes, trilinear
from torch import Tensor, nn

from semiisp_plugin.archs.lookup import identity_lut_3d
from semiisp_plugin.archs.seplut_arch import SepLUT

NAMES_AND_SHAPES: dict[str, tuple[int, ...]] = {
    "backbone.0.0.weight": (8, 3, 3, 3),
    "backbone.0.0.bias": (8,),
    "backbone.0.2.weight": (8,),
    "backbone.0.2.bias": (8,),
    "backbone.1.0.weight": (16, 8, 3, 3),
    "backbone.1.0.bias": (16,),
    "backbone.1.2.weight": (16,),
    "backbone.1.2.bias": (16,),
    "backbone.2.0.weight": (32, 16, 3, 3),
    "backbone.2.0.bias": (32,),
    "backbone.2.2.weight": (32,),
    "backbone.2.2.bias": (32,),
    "backbone.3.0.weight": (64, 32, 3, 3),
    "backbone.3.0.bias": (64,),
    "backbone.3.2.weight": (64,),
    "backbone.3.2.bias": (64,),
    "backbone.4.0.weight": (64, 64, 3, 3),
    "backbone.4.0.bias": (64,),
    "lut3d_generator.weights_generator.weight": (3, 256),
    "lut3d_generator.weights_generator.bias": (3,),
    "lut3d_generator.basis_luts_bank.weight": (14739, 3),
    "lut1d_generator.lut1d_generator.weight": (51, 256),
    "lut1d_generator.lut1d_generator.bias": (51,),
}

# options, seed, input shape, recorded (mean, standard deviation, six values) of the public network's output
RECORDED: list[tuple[dict[str, Any], int, tuple[int, ...], list[float]]] = [
    (
        {},
        1,
        (2, 3, 30, 41),
        [
            -0.010522705585,
            0.149161109518,
            0.099969088476,
            0.067404273094,
            0.238587449016,
            0.002859379773,
            0.008901328645,
            0.018170458600,
        ],
    ),
    (
        {"n_base_feats": 6, "n_vertices_3d": 9, "n_vertices_1d": 9},
        2,
        (1, 3, 19, 23),
        [
            -0.000429295733,
            0.003105232474,
            0.000720191379,
            0.001184400831,
            -0.002340426701,
            -0.002985308821,
            -0.003961325991,
            -0.004190589122,
        ],
    ),
    (
        {"n_ranks": 2, "n_vertices_3d": 5, "n_vertices_1d": 7, "lut1d_color_share": True},
        3,
        (2, 3, 21, 12),
        [
            -0.044091010797,
            0.074016507139,
            0.012157234703,
            -0.132216439060,
            -0.040318074287,
            -0.008374593639,
            -0.115261513764,
            -0.166747300172,
        ],
    ),
    (
        {"n_vertices_3d": 33, "n_vertices_1d": 33},
        4,
        (1, 3, 1, 17),
        [
            0.014113844799,
            0.131677997952,
            -0.016626360500,
            0.054491670407,
            0.222345726726,
            0.160458695927,
            0.018176675305,
            -0.207262206165,
        ],
    ),
    (
        {"n_vertices_1d": 0},
        5,
        (2, 3, 13, 40),
        [
            0.000101471167,
            0.106576216686,
            0.198410783588,
            0.090278638705,
            -0.073985830383,
            0.056382171357,
            0.067131781405,
            0.147386405904,
        ],
    ),
    (
        {"n_vertices_3d": 0},
        6,
        (1, 3, 300, 7),
        [
            0.490983662202,
            0.058149086022,
            0.449998062568,
            0.403846814367,
            0.467987406360,
            0.478257319093,
            0.432172489006,
            0.422176988482,
        ],
    ),
    (
        {"backbone": "res18", "n_ranks": 5},
        7,
        (1, 3, 24, 31),
        [
            -0.074379572932,
            0.144351549468,
            0.022024517702,
            -0.056385278762,
            -0.152613554969,
            -0.135660164262,
            -0.184869134906,
            0.069407249438,
        ],
    ),
]


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    if parameter.ndim == 1:
        return (1 if name.endswith("weight") else 0) + 0.2 * u
    return u * 1.5 / np.sqrt(parameter[0].numel())


def fill(net: Net, seed: int) -> Net:
    return filled(net, seed, _value)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 119_791),
        ({"n_base_feats": 6, "n_vertices_3d": 9, "n_vertices_1d": 9}, 47_175),
        ({"n_vertices_3d": 33, "n_vertices_1d": 33}, 411_343),
    ],
)
def test_parameter_count(options: dict[str, Any], count: int) -> None:
    assert sum(p.numel() for p in SepLUT(**options).parameters()) == count


def test_names_and_shapes_are_the_published_ones() -> None:
    assert {name: tuple(value.shape) for name, value in SepLUT().state_dict().items()} == NAMES_AND_SHAPES


def test_names_of_the_resnet_backbone() -> None:
    from torchvision.models import resnet18

    published = {f"backbone.net.{name}" for name in resnet18(weights=None).state_dict() if not name.startswith("fc.")}
    net = SepLUT(backbone="res18", n_ranks=5, thumbnail=64)
    assert {name for name in net.state_dict() if name.startswith("backbone.")} == published
    assert net.lut3d_generator.weights_generator.weight.shape == (5, 512)
    assert net.train()(torch.rand(1, 3, 21, 50)).shape == (1, 3, 21, 50)


@pytest.mark.parametrize(("options", "seed", "shape", "recorded"), RECORDED)
def test_output_is_the_public_implementations(
    options: dict[str, Any], seed: int, shape: tuple[int, ...], recorded: list[float]
) -> None:
    image = torch.from_numpy(np.random.RandomState(100 + seed).uniform(0, 1, shape))
    out = fill(SepLUT(**options), seed)(image)
    assert out.dtype == torch.float64
    np.testing.assert_allclose(probes(out), recorded, rtol=0, atol=1e-10)


def test_the_cascade_is_1d_then_3d() -> None:
    net = fill(SepLUT(n_vertices_3d=5, n_vertices_1d=7), 4)
    image = torch.rand(2, 3, 9, 6, dtype=torch.float64)
    tables = net.decide(image)
    assert tables.lut_1d is not None
    assert tables.lut_3d is not None
    assert tables.weights is not None
    assert tables.weights.shape == (2, 3)
    for n in range(2):
        curved = np.stack(
            [np.interp(image[n, c], np.linspace(0, 1, 7), tables.lut_1d[n, c].detach()) for c in range(3)]
        )
        expected = trilinear(curved, tables.lut_3d[n].detach().numpy())
        np.testing.assert_allclose(net(image)[n].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_published_start() -> None:
    net = SepLUT(n_vertices_3d=9)
    bank = net.lut3d_generator.basis_luts_bank.weight
    assert torch.equal(bank[:, 0], identity_lut_3d(9).flatten())
    assert torch.count_nonzero(bank[:, 1:]) == 0
    assert torch.equal(net.lut3d_generator.weights_generator.bias, torch.ones(3))
    assert all(torch.count_nonzero(net.get_parameter(f"backbone.{i}.2.bias")) == 0 for i in range(4))


@pytest.mark.parametrize("share", [False, True])
def test_identity_start_returns_the_input(share: bool) -> None:
    image = torch.rand(2, 3, 40, 30)
    image[..., 0], image[..., 1] = 0.0, 1.0
    for mode in (True, False):
        out = SepLUT(identity_start=True, lut1d_color_share=share).train(mode)(image)
        assert (out - image).abs().max().item() == pytest.approx(0.02, abs=1e-6)
        inner = (image > 1 / 16) & (image < 15 / 16)
        torch.testing.assert_close(out[inner], image[inner], rtol=0, atol=1e-6)
    only_3d = SepLUT(identity_start=True, n_vertices_1d=0)(image)
    torch.testing.assert_close(only_3d, image, rtol=0, atol=1e-6)


def test_identity_start_learns_in_every_parameter_after_one_step() -> None:
    net = SepLUT(identity_start=True, thumbnail=32)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    image = torch.rand(2, 3, 24, 20)
    for _ in range(2):
        optimiser.zero_grad()
        (net(image) - image.flip(1)).square().mean().backward()
        optimiser.step()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_images_of_a_batch_have_curves_of_their_own() -> None:
    curves = fill(SepLUT(thumbnail=32), 6).decide(torch.rand(3, 3, 20, 30, dtype=torch.float64)).lut_1d
    assert curves is not None
    assert not torch.allclose(curves[0], curves[1])


@pytest.mark.parametrize("options", [{}, {"n_vertices_1d": 0}, {"n_vertices_3d": 0}, {"lut1d_color_share": True}])
def test_gradients_reach_all_parameters(options: dict[str, Any]) -> None:
    net = SepLUT(thumbnail=64, **options)
    net(torch.rand(2, 3, 33, 47)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_dropout_works_in_training_alone_and_can_be_switched_off() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert sorted(m.p for m in SepLUT().modules() if isinstance(m, nn.Dropout)) == [0.5]
    net = SepLUT(thumbnail=64)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))
    steady = SepLUT(thumbnail=64, dropout=0.0).train()
    assert torch.equal(steady(image), steady(image))


@pytest.mark.parametrize("thumbnail", [32, 33, 64, 100])
def test_small_thumbnails_train_with_a_batch_of_one(thumbnail: int) -> None:
    out = SepLUT(thumbnail=thumbnail).train()(torch.rand(1, 3, 50, 40))
    assert out.shape == (1, 3, 50, 40)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(("backbone", "side"), [("light", 256), ("res18", 224)])
def test_default_thumbnail_is_the_published_one(backbone: Any, side: int) -> None:
    image = torch.rand(1, 3, 90, 120)
    net = SepLUT(backbone=backbone).eval()
    same, other = (SepLUT(backbone=backbone, thumbnail=t).eval() for t in (side, 160))
    for copy in (same, other):
        copy.load_state_dict(net.state_dict())
    assert torch.equal(same(image), net(image))
    assert not torch.equal(other(image), net(image))


def test_state_dict_round_trip(tmp_path: Any) -> None:
    torch.manual_seed(1)
    first, second = SepLUT().eval(), SepLUT().eval()
    image = torch.rand(1, 3, 20, 30)
    assert not torch.equal(first(image), second(image))
    torch.save(first.state_dict(), tmp_path / "net.pth")
    second.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    assert torch.equal(first(image), second(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "backbone is 'vgg'; use 'light' or 'res18'"),
        ({"n_vertices_3d": 1}, "n_vertices_3d is 1"),
        ({"n_vertices_1d": -1}, "n_vertices_1d is -1"),
        ({"n_vertices_3d": 0, "n_vertices_1d": 0}, "both 0"),
        ({"n_ranks": 0}, "n_ranks is 0"),
        ({"n_base_feats": 0}, "n_base_feats is 0"),
        ({"thumbnail": 31}, "thumbnail is 31; backbone 'light' needs 32"),
        ({"thumbnail": 63, "backbone": "res18"}, "thumbnail is 63; backbone 'res18' needs 64"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SepLUT(**options)


def test_autocast_keeps_the_lookups_in_float32() -> None:
    net = SepLUT(thumbnail=64).eval()
    image = torch.rand(2, 3, 30, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(image)
        identity = SepLUT(identity_start=True, n_vertices_1d=0, n_vertices_3d=12, thumbnail=64).eval()(image)
    out.mean().backward()
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, net(image), rtol=0, atol=0.02)
    torch.testing.assert_close(identity, image, rtol=0, atol=1e-6)  # k / 11 in bfloat16 is off by 1e-3


def test_bfloat16_images_and_weights_are_looked_up_in_float32() -> None:
    net = SepLUT(thumbnail=64, dropout=0.0)
    image = torch.rand(2, 3, 30, 20).bfloat16()
    expected = net(image.float())
    out = net.bfloat16()(image)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("options", [{}, {"n_vertices_1d": 0}, {"n_vertices_3d": 0}])
def test_parts_of_an_image_make_the_whole(options: dict[str, Any]) -> None:
    """What `enhance` relies on: the decision for the whole image, its application by parts, to the last bit."""
    net = fill(SepLUT(thumbnail=32, **options), 8).float()
    image = torch.rand(2, 3, 37, 50)
    whole = net(image)
    context = net.prepare(image)
    assert torch.equal(net.apply_prepared(image, context, (0, 0), (37, 50)), whole)
    out = torch.zeros_like(whole)
    for top in range(0, 37, 11):
        for left in range(0, 50, 16):
            tile = image[:, :, top : top + 11, left : left + 16]
            out[:, :, top : top + 11, left : left + 16] = net.apply_prepared(tile, context, (top, left), (37, 50))
    torch.testing.assert_close(out, whole, rtol=0, atol=1e-6)


def test_nan_stays_where_it_is() -> None:
    """In the image: that pixel, and no crash in the gradient. In the tables: all pixels."""
    net = SepLUT(thumbnail=32).eval()
    image = torch.rand(1, 3, 9, 8)
    tables = net.decide(image)
    broken = image.clone()
    broken[0, 1, 2, 3] = float("nan")
    out = net.apply_prepared(broken, tables, (0, 0), (9, 8))
    assert torch.equal(out.isnan().any(1), broken.isnan().any(1))
    for stage in ("lut_1d", "lut_3d"):
        found = getattr(tables, stage)
        assert found is not None
        poisoned = tables._replace(**{stage: found * float("nan")})
        lost = net.apply_prepared(image, poisoned, (0, 0), (9, 8))
        assert lost.isnan().all()
        lost.sum().backward(retain_graph=True)
