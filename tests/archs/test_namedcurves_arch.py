"""NamedCurves: names and counts, curves, names of colours, attention. No public code was run: it has no licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, probes
from scipy.io import savemat
from torch import Tensor, nn

from semiisp_plugin.archs.colour_names import GROUPS, colour_maps, hue_table, read_table
from semiisp_plugin.archs.namedcurves_arch import NamedCurves

SMALL: dict[str, Any] = {"skip_feat": 4, "curve_feat": 8}
NAMES = ["black", "blue", "brown", "grey", "green", "orange", "pink", "purple", "red", "white", "yellow"]


def _value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
    return 0.2 * u if parameter.ndim == 1 else u * 2 / np.sqrt(parameter[0].numel())


def fill(net: NamedCurves, seed: int = 0) -> NamedCurves:
    return filled(net, seed, _value)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_names_shapes_and_counts_are_the_published_ones() -> None:
    net = NamedCurves()
    counts = [count(net), count(net.backbone), count(net.bcpe), count(net.local_fusion)]
    assert counts == [993_600, 521_100, 467_844, 4_656]
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == 183_062
    assert names_and_shapes(net) == (400, "1b01cc8fe4b61397dc6e99edd7a2419871a2d8f5253f257b4e8d0028bbec93cc")


def test_curves_are_beziers_and_rise() -> None:
    """By de Casteljau's construction."""
    net, image = fill(NamedCurves(**SMALL)), torch.rand(2, 3, 5, 6, dtype=torch.float64)
    points = net.bcpe(torch.rand(2, 3, 16, 16).double(), torch.rand(2, 6, 16, 16).double())
    assert points.shape == (2, 3, 6, 11)
    torch.testing.assert_close(points[..., 0], torch.zeros(2, 3, 6).double(), rtol=0, atol=0)
    torch.testing.assert_close(points[..., -1], torch.ones(2, 3, 6).double(), rtol=0, atol=1e-12)
    assert (points.diff(dim=-1) > 0).all()
    level = points[..., None, None] * torch.ones_like(image)[:, :, None, None]
    x = image[:, :, None, None]
    while level.shape[3] > 1:
        level = (1 - x) * level[:, :, :, :-1] + x * level[:, :, :, 1:]
    torch.testing.assert_close(net.curved(image, points), level[:, :, :, 0], rtol=0, atol=1e-12)


def test_fusion_is_plain_attention() -> None:
    fusion = fill(NamedCurves(**SMALL)).local_fusion.attention_fusion[2]
    image, curved = torch.rand(2, 2, 3, 19, 24).double()
    query, key, value = fusion.query_conv(image), fusion.key_conv(curved), fusion.value_conv(curved)
    assert query.shape == (2, 16, 2, 3)
    weights = torch.einsum("ncp,ncq->npq", query.flatten(2), key.flatten(2)).softmax(2)
    found = torch.einsum("npq,ncq->ncp", weights, value.flatten(2)).view_as(query)
    found = F.interpolate(fusion.upsample(found), size=(19, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fusion(image, curved), fusion.last_conv(found), rtol=0, atol=1e-12)


def test_output_is_the_mean_over_the_names_that_are_present() -> None:
    net, image = fill(NamedCurves(**SMALL)), torch.rand(1, 3, 16, 24).double()
    curved = torch.rand(1, 3, 6, 16, 24).double()
    maps = torch.full((1, 6, 16, 24), 1 / 6, dtype=torch.float64)  # all as large as the largest
    maps[0, :, 3, 4] = torch.tensor([0.5, 0.3, 0.2, 0, 0, 0], dtype=torch.float64)  # two above 0.2
    maps[0, :, 5, 6] = torch.tensor([0.15, 0.15, 0.2, 0.2, 0.15, 0.15])  # none above: the largest
    each = torch.stack(
        [curved[:, :, i] + fusion(image, curved[:, :, i]) for i, fusion in enumerate(net.local_fusion.attention_fusion)]
    )
    out = net.local_fusion(image, curved, maps)
    torch.testing.assert_close(out[..., 0, 0], each.mean(0)[..., 0, 0])
    torch.testing.assert_close(out[..., 3, 4], each[:2].mean(0)[..., 3, 4])
    torch.testing.assert_close(out[..., 5, 6], each[2:4].mean(0)[..., 5, 6])


def test_recorded_output() -> None:
    image = torch.from_numpy(np.random.RandomState(600).uniform(0, 1, (2, 3, 21, 30)))
    recorded = [
        *(0.502513235103, 0.312628801127, 0.0, 1.0),
        *(1.0, 0.25664431557, 1.0, 0.856162783445),
    ]
    np.testing.assert_allclose(probes(fill(NamedCurves(**SMALL))(image)), recorded, rtol=0, atol=1e-9)


def test_small_sides_are_padded_by_reflection() -> None:
    net, image = fill(NamedCurves(**SMALL)), torch.rand(1, 3, 6, 20).double()
    expected = net(F.pad(image, (0, 0, 0, 2), mode="reflect"))[..., :6, :]
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)


# --- names of colours ------------------------------------------------------------------------------------------------


def test_the_plugins_own_table_names_plain_colours() -> None:
    table = hue_table()
    assert table.shape == (32**3, len(GROUPS))
    torch.testing.assert_close(table.sum(1), torch.ones(32**3), rtol=0, atol=1e-6)
    plain = {3: (1, 0, 0), 4: (0, 1, 0), 5: (0, 0, 1), 2: (1, 0, 1), 0: (1, 0.7, 0), 1: (0.5, 0.5, 0.5)}
    for group, colour in plain.items():
        maps = colour_maps(torch.tensor(colour).float().view(1, 3, 1, 1), table)
        assert maps[0, group].item() > 0.9, GROUPS[group]
    for grey in (0.0, 1.0):
        assert colour_maps(torch.full((1, 3, 1, 1), grey), table)[0, 1].item() == 1


@pytest.mark.parametrize("ending", [".mat", ".npy"])
def test_published_table_is_read_and_its_names_are_grouped(tmp_path: Path, ending: str) -> None:
    table = np.random.RandomState(1).dirichlet(np.ones(11), 32**3)
    path = str(tmp_path / f"names{ending}")
    if ending == ".mat":
        savemat(path, {"w2c": table})
    else:
        np.save(path, table)
    net = NamedCurves(**SMALL, colour_table=path)
    levels = torch.randint(0, 256, (1, 3, 4, 5))
    rows = (levels // 8)[0, 0] + 32 * (levels // 8)[0, 1] + 1024 * (levels // 8)[0, 2]
    for i, group in enumerate(GROUPS):
        expected = sum(table[rows, NAMES.index(name)] for name in group.split(", "))
        # As from an image of 8 bits, and of what lies between its levels.
        for image in (levels / 255, (levels + 0.4) / 255):
            np.testing.assert_allclose(colour_maps(image, net.table)[0, i], expected, rtol=0, atol=1e-6)
    assert "table" not in net.state_dict()


def test_bad_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"colour_table: none.mat cannot be read .*32,768 x 11"):
        read_table("none.mat")
    np.save(tmp_path / "a.npy", np.zeros((32**3, 10)))
    with pytest.raises(ValueError, match=r"a.npy holds 0 arrays .* \[\(32768, 10\)\] in all"):
        read_table(str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", np.full((32**3, 11), 2.0))
    with pytest.raises(ValueError, match=r"b.npy has values that are no probabilities"):
        NamedCurves(**SMALL, colour_table=str(tmp_path / "b.npy"))


# --- training --------------------------------------------------------------------------------------------------------


def test_nan_is_passed_on() -> None:
    image = torch.rand(1, 3, 16, 16)
    image[0, 1, 2, 3] = float("nan")
    assert NamedCurves(**SMALL).eval()(image)[0, 1, 2, 3].isnan()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip_feat": 0}, "skip_feat is 0; use 1 or more"),
        ({"curve_feat": 12}, "curve_feat is 12; use a positive mult"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NamedCurves(**options)
