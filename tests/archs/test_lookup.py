"""Lookups against plain loops, and what all networks that look up tables have in common."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import trilinear
from torch import Tensor, nn

from semiisp_plugin.archs import lookup
from semiisp_plugin.archs.lookup import (
    LookupNetwork,
    coordinates,
    look_up,
    sample_1d,
    sample_3d,
    sample_tetrahedral,
    slice_corners,
    slice_grids,
    uneven_coordinates,
)
from semiisp_plugin.isp import compiled
from semiisp_plugin.toolbox import build_network

_SMALL = {"n_vertices": 5, "thumbnail": 32, "n_base_feats": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "SepLUT": {"type": "SepLUT", "n_vertices_3d": 5, "n_vertices_1d": 6, "thumbnail": 32},
    "ImageAdaptive3DLUT": {"type": "ImageAdaptive3DLUT", **_SMALL},
    "AdaInt": {"type": "AdaInt", **_SMALL},
    "LUTwithBGrid": {"type": "LUTwithBGrid", **_SMALL},
    "LUTwithBGrid-exact": {"type": "LUTwithBGrid", "coordinates": "exact", **_SMALL},
}
every = pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
new = pytest.mark.parametrize("options", [o for name, o in NETWORKS.items() if name != "SepLUT"])


def build(options: dict[str, Any], **more: Any) -> LookupNetwork[Any]:
    """With weights off their start."""
    net: LookupNetwork[Any] = build_network({**options, **more})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def apply_lut_1d(image: Tensor, lut: Tensor) -> Tensor:
    return sample_1d(coordinates(image), lut)


def apply_lut_3d(image: Tensor, lut: Tensor) -> Tensor:
    return sample_3d(coordinates(image), lut)


def colours(vertices: int) -> np.ndarray:
    """(3, 6, 7), with all the places where a lookup may slip."""
    rng = np.random.default_rng(vertices)
    image = rng.uniform(0, 1, (3, 6, 7))
    image[:, 0] = rng.integers(0, 2, (3, 7))  # corners of the cube
    image[0, 1], image[1, 2], image[2, 3] = 1.0, 0.0, 1.0  # its faces
    image[:, 4] = rng.integers(0, vertices, (3, 7)) / (vertices - 1)  # vertices of the table
    image[:, 5, :2] = [[-0.3, 1.4], [0.5, 2.0], [1.2, -1.0]]  # outside
    image[:, 5, 2:4] = [[0.3, 0.3], [0.3, 0.8], [0.3, 0.3]]  # equal fractions
    return image


def table(vertices: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(100 + vertices).normal(size=(*shape, vertices, vertices, vertices))


@pytest.mark.parametrize("vertices", [2, 5, 9])
def test_lookup_3d_is_trilinear(vertices: int) -> None:
    image, lut = colours(vertices), table(vertices, 3)
    out = apply_lut_3d(torch.from_numpy(image)[None], torch.from_numpy(lut)[None])
    np.testing.assert_allclose(out[0].numpy(), trilinear(image, lut), rtol=0, atol=1e-12)


@pytest.mark.parametrize("vertices", [2, 9, 17])
def test_lookup_1d_is_linear(vertices: int) -> None:
    rng = np.random.default_rng(vertices)
    image = rng.uniform(-0.2, 1.2, (2, 3, 5, 8))
    image[..., 0], image[..., 1] = 0.0, 1.0
    lut = rng.normal(size=(2, 3, vertices))
    expected = np.stack(
        [[np.interp(image[n, c], np.linspace(0, 1, vertices), lut[n, c]) for c in range(3)] for n in range(2)]
    )
    out = apply_lut_1d(torch.from_numpy(image), torch.from_numpy(lut))
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("vertices", [2, 5, 9])
def test_tetrahedral_lookup_walks_from_the_darkest_vertex_to_the_brightest(vertices: int) -> None:
    image, luts = colours(vertices), table(vertices, 2, 4)
    found = sample_tetrahedral(torch.from_numpy(np.stack([image, 1 - image])), torch.from_numpy(luts)).numpy()
    for pixels, lut, out in zip((image, 1 - image), luts, found, strict=True):
        for y, x in np.ndindex(pixels.shape[1:]):
            position = np.clip(pixels[:, y, x], 0, 1) * (vertices - 1)
            vertex = np.minimum(position.astype(int), vertices - 2)
            fraction = position - vertex
            expected, rest = np.zeros(4), 1.0
            for colour in np.argsort(-fraction):
                expected += (rest - fraction[colour]) * lut[:, vertex[2], vertex[1], vertex[0]]
                rest, vertex[colour] = fraction[colour], vertex[colour] + 1
            expected += rest * lut[:, vertex[2], vertex[1], vertex[0]]
            np.testing.assert_allclose(out[:, y, x], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("vertices", [2, 5, 9])
def test_uneven_vertices(vertices: int) -> None:
    """The places are those of linear interpolation; even vertices are the plain lookup."""
    images = np.stack([colours(vertices), 1 - colours(vertices)])
    gaps = np.random.default_rng(vertices).uniform(0.01, 1, (2, 3, vertices - 1))
    at = np.concatenate([np.zeros((2, 3, 1)), np.cumsum(gaps / gaps.sum(-1, keepdims=True), -1)], -1)
    images[:, :, 4, :vertices] = at[..., :7]
    found = uneven_coordinates(torch.from_numpy(images), torch.from_numpy(at)).clamp(-1, 1).numpy()
    for n, c in np.ndindex(2, 3):
        expected = np.interp(images[n, c], at[n, c], np.linspace(-1, 1, vertices))
        np.testing.assert_allclose(found[n, c], expected, rtol=0, atol=1e-7)  # for the public code's 1e-10
    even = torch.linspace(0, 1, vertices, dtype=torch.float64).expand(2, 3, -1)
    image = torch.from_numpy(images)
    torch.testing.assert_close(uneven_coordinates(image, even), coordinates(image), rtol=0, atol=1e-7)


def test_vertices_that_coincide_do_no_harm() -> None:
    vertices = torch.tensor([0.0, 0.5, 0.5, 1.0]).expand(1, 3, -1).clone().requires_grad_()
    found = uneven_coordinates(torch.linspace(0, 1, 9).expand(1, 3, 1, -1), vertices)
    assert torch.isfinite(found).all()
    found.clamp(-1, 1).sum().backward()
    assert vertices.grad is not None
    assert torch.isfinite(vertices.grad).all()


@pytest.mark.parametrize("vertices", [2, 5, 17, 33])
def test_compiled_code_equals_the_tensors(vertices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="needs Numba, the extra 'fast'")
    rng = np.random.default_rng(vertices)
    gaps = torch.from_numpy(rng.uniform(0, 1, (2, 3, vertices - 1)).astype(np.float32))
    gaps[0, 1, 1:3] = 0  # vertices that coincide
    at = torch.nn.functional.pad(gaps.cumsum(-1) / gaps.sum(-1, keepdim=True), (1, 0)).clamp_max(1)
    image = torch.from_numpy(rng.uniform(-0.2, 1.2, (2, 3, 120, 110)).astype(np.float32))
    image[:, :, 0, :10], image[:, :, 1, :10] = 0, 1
    image[:, :, 2, :vertices] = at
    image[0, 1, 3, 4], image[1, :, 5, 6], image[1, 2, 5, 7] = math.nan, math.inf, -math.inf
    luts = torch.from_numpy(table(vertices, 2, 3).astype(np.float32))
    for more in ((), (at,)):
        assert compiled.look_up(image, luts, *more) is not None
        found = look_up(image, luts, *more)
        with monkeypatch.context() as without:
            without.setattr(compiled, "kernel", lambda _: None)
            expected = look_up(image, luts, *more)
        assert found[0, :, 3, 4].isnan().all()
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5, equal_nan=True)


def test_gradients_and_other_types_are_left_to_the_tensors() -> None:
    image, lut = torch.rand(1, 3, 150, 150), torch.rand(1, 3, 5, 5, 5, requires_grad=True)
    assert look_up(image, lut).requires_grad
    double = look_up(image.double(), lut.detach().double())
    torch.testing.assert_close(look_up(image, lut.detach()).double(), double, rtol=0, atol=2e-6)


def test_bilateral_grids_are_sliced_by_column_row_and_guide() -> None:
    rng = np.random.default_rng(0)
    guides, grids = rng.uniform(0, 1, (2, 3, 4, 5)), rng.normal(size=(2, 6, 3, 3, 3))
    x, y = np.linspace(0, 1, 5), np.linspace(0, 1, 4) ** 2
    found = slice_grids(*map(torch.from_numpy, (guides, grids, x, y)))
    assert found.shape == (2, 6, 4, 5)
    corners = np.floor(x), np.floor(y)
    some = [torch.from_numpy(values) for values in (guides, grids, *corners)]
    torch.testing.assert_close(slice_corners(*some), slice_grids(*some), rtol=0, atol=1e-12)
    for n, c in np.ndindex(2, 6):
        # Through a table whose red is the column, green the row, blue the guide.
        places = np.stack(
            [np.broadcast_to(x, (4, 5)), np.broadcast_to(y[:, None], (4, 5)), guides[n, c // 2]],
        )
        expected = trilinear(places, np.repeat(grids[n, c][None], 3, 0))[0]
        np.testing.assert_allclose(found[n, c].numpy(), expected, rtol=0, atol=1e-12)


def test_lookups_have_the_right_gradients() -> None:
    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, requires_grad=True)

    image, lut_3d = random(1, 3, 2, 3), random(1, 3, 3, 3, 3)
    vertices = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64).expand(1, 3, -1).clone().requires_grad_()
    assert torch.autograd.gradcheck(apply_lut_1d, (image, random(1, 3, 4)))
    assert torch.autograd.gradcheck(apply_lut_3d, (image, lut_3d))
    assert torch.autograd.gradcheck(sample_tetrahedral, (image, lut_3d))
    assert torch.autograd.gradcheck(uneven_coordinates, (image, vertices))
    places = torch.rand(3, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda guides, grids: slice_grids(guides, grids, *places), (image, random(1, 6, 3, 3, 3))
    )


@new
def test_identity_start_returns_the_input(options: dict[str, Any]) -> None:
    image = torch.rand(2, 3, 40, 30)
    image[..., 0], image[..., 1] = 0.0, 1.0
    for mode in (True, False):
        net: nn.Module = build_network({**options, "identity_start": True}).train(mode)
        torch.testing.assert_close(net(image), image, rtol=0, atol=1e-6)


@new
def test_published_start_is_near_the_identity(options: dict[str, Any]) -> None:
    """The learned tables are the identity and zeros, the mixtures differ from it by random weights."""
    image = torch.rand(1, 3, 40, 30)
    net: LookupNetwork[Any] = build_network(dict(options)).eval()
    tables = net.prepare(image)
    lut = tables if isinstance(tables, Tensor) else tables.lut
    axis = torch.linspace(0, 1, 5)
    scale = lut[0, 0, 0, 0, -1]
    torch.testing.assert_close(lut[0, 0], (scale * axis).expand(5, 5, 5), rtol=0, atol=1e-6)


@new
@pytest.mark.parametrize("thumbnail", [32, 33, 64, 100, 250])
def test_small_thumbnails_train_with_a_batch_of_one(options: dict[str, Any], thumbnail: int) -> None:
    out = build(options, thumbnail=thumbnail).train()(torch.rand(1, 3, 50, 40))
    assert out.shape == (1, 3, 50, 40)
    assert torch.isfinite(out).all()


@new
def test_dropout_works_in_training_alone(options: dict[str, Any]) -> None:
    image = torch.rand(1, 3, 16, 16)
    net = build(options)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.5]
    assert torch.equal(net(image), net(image))
    assert not torch.equal(net.train()(image), net(image))


@new
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_ranks": 0}, "n_ranks is 0; use 1 or more"),
        ({"n_base_feats": 0}, "n_base_feats is 0; use 1 or more"),
        ({"n_vertices": 1}, "n_vertices is 1; use 2 or more"),
        ({"thumbnail": 31}, "thumbnail is 31; use 32 or more"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"{options['type']}: {message}"):
        build_network({**options, **bad})


@every
def test_autocast_changes_nothing(options: dict[str, Any]) -> None:
    net: nn.Module = build_network(dict(options)).eval()
    image = torch.rand(2, 3, 30, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(image)
    out.mean().backward()
    assert out.dtype == torch.float32
    assert torch.equal(out, net(image))


@every
def test_parts_of_an_image_make_the_whole(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `enhance` relies on: the decision for the whole image, its application by parts."""
    net = build(options)
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
    monkeypatch.setattr(lookup, "_BAND", 700)
    with torch.no_grad():  # by bands of seven rows
        torch.testing.assert_close(net(image), whole, rtol=0, atol=1e-6)


@every
def test_nan_stays_where_it_is(options: dict[str, Any]) -> None:
    """In the image: that pixel, and no crash in the gradient. In any table: all pixels."""
    net = build(options)
    image = torch.rand(1, 3, 9, 8)
    tables = net.prepare(image)
    broken = image.clone().requires_grad_()
    with torch.no_grad():
        broken[0, 1, 2, 3] = float("nan")
    out = net.apply_prepared(broken, tables, (0, 0), (9, 8))
    assert torch.equal(out.isnan().all(1), broken.isnan().any(1))
    assert torch.equal(out.isnan().any(1), broken.isnan().any(1))
    out.sum().backward(retain_graph=True)
    parts = tables._asdict() if isinstance(tables, tuple) else {"": tables}
    for name, part in parts.items():
        if name == "weights":
            continue
        poisoned = tables._replace(**{name: part * float("nan")}) if name else part * float("nan")
        lost = net.apply_prepared(image, poisoned, (0, 0), (9, 8))
        assert lost.isnan().all()
        lost.sum().backward(retain_graph=True)
