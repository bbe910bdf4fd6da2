"""3D LUT, AdaInt and LUTwithBGrid: names, numbers of parameters, and published files.

With the published weights, outputs were compared with those of the public code: the largest differences were 9e-6 (3D
LUT, whose public cells are a millionth too large), 2e-6 (AdaInt) and 4e-6 (LUTwithBGrid) in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import filled, probes
from torch import Tensor, nn

from semiisp_plugin.archs.lut3d_arch import ImageAdaptive3DLUT
from semiisp_plugin.io.checkpoint import CheckpointError, load_network_weights
from semiisp_plugin.losses.table_regularity import falls, roughness
from semiisp_plugin.models.output_penalties import TablePenalty
from semiisp_plugin.toolbox import build_network


def convolutions(m: int, name: str, stage: int, norm: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of five convolutions; ``name`` has a place for the layer, of which norms come later."""
    found: dict[str, tuple[int, ...]] = {}
    widths = [3, m, 2 * m, 4 * m, 8 * m, 8 * m]
    for i in range(5):
        layer = name.format(i if stage == 0 else 1 + stage * i, 0)
        found |= {f"{layer}.weight": (widths[i + 1], widths[i], 3, 3), f"{layer}.bias": (widths[i + 1],)}
        if i < 4:
            layer = name.format(i if stage == 0 else 1 + stage * i + norm, norm)
            found |= {f"{layer}.weight": (widths[i + 1],), f"{layer}.bias": (widths[i + 1],)}
    return found


PUBLISHED: dict[str, dict[str, tuple[int, ...]]] = {
    "ImageAdaptive3DLUT": {
        **convolutions(16, "classifier.model.{0}", 3, 2),
        "classifier.model.16.weight": (3, 128, 8, 8),
        "classifier.model.16.bias": (3,),
        **{f"luts.{rank}": (3, 33, 33, 33) for rank in range(3)},
    },
    "AdaInt": {
        **convolutions(16, "backbone.{0}.{1}", 0, 2),
        "lut_generator.weights_generator.weight": (3, 512),
        "lut_generator.weights_generator.bias": (3,),
        "lut_generator.basis_luts_bank.weight": (107_811, 3),
        "adaint.intervals_generator.weight": (96, 512),
        "adaint.intervals_generator.bias": (96,),
    },
    "LUTwithBGrid": {
        **convolutions(8, "backbone.model.{0}", 3, 2),
        "gen_3d_lut.weights_generator.weight": (8, 256),
        "gen_3d_lut.weights_generator.bias": (8,),
        "gen_3d_lut.basis_luts_bank.weight": (14_739, 8),
        "gen_3d_lut.basis_luts_bank.bias": (14_739,),
        "gen_bilateral.weights_generator.weight": (8, 256),
        "gen_bilateral.weights_generator.bias": (8,),
        "gen_bilateral.basis_grids_bank.weight": (29_478, 8),
        "gen_bilateral.basis_grids_bank.bias": (29_478,),
        "slice.conv_1d.weight": (3, 9, 1, 1),
        "slice.conv_1d.bias": (3,),
    },
}


@pytest.mark.parametrize(
    ("name", "count"), [("ImageAdaptive3DLUT", 593_516), ("AdaInt", 619_724), ("LUTwithBGrid", 463_791)]
)
def test_names_shapes_and_counts_are_the_published_ones(name: str, count: int) -> None:
    net: nn.Module = build_network({"type": name})
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == PUBLISHED[name]
    assert sum(p.numel() for p in net.parameters()) == count


def value(name: str, parameter: nn.Parameter, u: np.ndarray) -> np.ndarray:
    """Learned tables near their start, the others of a size that keeps colours within the tables."""
    if "bank" in name or name.startswith("luts"):
        return parameter.detach().numpy() + 0.1 * u
    if parameter.ndim == 1:
        return (0.5 if name.startswith("slice") else 1.0) + 0.2 * u
    return u / np.sqrt(parameter[0].numel())


@pytest.mark.parametrize(
    ("network", "recorded"),
    [
        (
            {"type": "ImageAdaptive3DLUT"},
            [
                -0.00356090952402,
                0.0561125068652,
                -0.0257695807862,
                -0.059849633215,
                0.000228713759142,
                -0.122334802932,
                0.0201738537711,
                -0.0420036557795,
            ],
        ),
        (
            {"type": "AdaInt"},
            [
                -0.0684089044314,
                0.0901219670324,
                -0.137197068795,
                0.00494865055233,
                -0.164950972613,
                0.00889844644373,
                -0.211046598183,
                -0.0587426084093,
            ],
        ),
        (
            {"type": "LUTwithBGrid"},
            [
                0.701744738189,
                0.375362311257,
                1.41414810517,
                0.997788232227,
                0.479794616795,
                0.523411924567,
                0.549646131954,
                0.274224254335,
            ],
        ),
        (
            {"type": "LUTwithBGrid", "coordinates": "exact"},
            [
                0.693958404763,
                0.34853947439,
                1.41414810517,
                0.997788232227,
                0.479794616795,
                0.523411924567,
                0.549646131954,
                0.274224254335,
            ],
        ),
    ],
)
@torch.no_grad()
def test_outputs_are_the_recorded_ones(network: dict[str, Any], recorded: list[float]) -> None:
    """Of code with which the published weights gave the public code's outputs."""
    net = filled(build_network({**network, "n_vertices": 5, "thumbnail": 32, "n_base_feats": 4}), 3, value)
    image = torch.from_numpy(np.random.RandomState(4).uniform(0, 1, (2, 3, 12, 15)))
    np.testing.assert_allclose(probes(net(image)), recorded, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PUBLISHED)
def test_table_penalty_is_of_the_table_that_an_image_gets(name: str) -> None:
    net = build_network({"type": name, "n_vertices": 5, "thumbnail": 32, "n_base_feats": 4, "dropout": 0.0})
    penalty = TablePenalty({"network_g": net}, axes="all")
    image = torch.rand(2, 3, 20, 30)
    with torch.no_grad():
        tables = net.prepare(image)
    table = tables if isinstance(tables, Tensor) else tables.lut
    net.train()(image)
    expected = 1e-4 * roughness(table) + 10 * falls(table, "all")
    torch.testing.assert_close(penalty.take(image).detach(), expected)


def write_published(folder: Path, net: nn.Module) -> Path:
    """As Image-Adaptive-3DLUT's training saves a network: two files."""
    state = net.state_dict()
    tables = {str(rank): {"LUT": state[f"luts.{rank}"]} for rank in range(3)}
    rest = {name.removeprefix("classifier."): v for name, v in state.items() if name.startswith("classifier.")}
    torch.save(tables, folder / "LUTs.pth")
    torch.save(rest, folder / "classifier.pth")
    return folder / "LUTs.pth"


def test_both_files_of_3d_lut_load_by_the_name_of_one(tmp_path: Path) -> None:
    first, second = (ImageAdaptive3DLUT(n_vertices=5, thumbnail=32, n_base_feats=4).eval() for _ in range(2))
    file = write_published(tmp_path, first)
    assert load_network_weights(second, file) == "bare weights: 23 tensors"
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(first(image), second(image))
    (tmp_path / "classifier.pth").rename(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"LUTs.pth holds the tables .* alone.*classifier.pth, as published"):
        load_network_weights(second, file)


def test_published_coordinates_are_those_of_corners() -> None:
    """All but the last row and column do one thing, whatever the rest of the grids is."""
    net: nn.Module = build_network({"type": "LUTwithBGrid", "n_vertices": 5, "thumbnail": 32}).eval()
    image = torch.rand(1, 3, 1, 1).expand(1, 3, 8, 9).contiguous()
    with torch.no_grad():
        net.gen_bilateral.basis_grids_bank.bias.view(6, 5, 5, 5)[:, :, 4].add_(0.3)
        out = net(image)
        torch.testing.assert_close(out[:, :, :-1], out[:, :, :1, :1].expand(1, 3, 7, 9), rtol=0, atol=1e-6)
        assert not torch.allclose(out[:, :, -1], out[:, :, 0])
        net.coordinates = "exact"
        assert not torch.allclose(net(image)[:, :, 6], net(image)[:, :, 0])
