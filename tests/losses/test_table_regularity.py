"""Smoothness and monotonicity of lookup tables: known tables, loops over the cells, and descent."""

from __future__ import annotations

import itertools

import pytest
import torch

from semiisp_plugin.archs.lookup import identity_lut_3d
from semiisp_plugin.losses.table_regularity import falls, roughness

AXES = ("own", "all")
V = 4


def ramps(n: int = 1) -> torch.Tensor:
    return torch.linspace(0, 1, V).expand(n, 3, V)


def random_tables() -> torch.Tensor:
    return torch.randn(2, 3, V, V, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("tables", [ramps(2), identity_lut_3d(V).expand(2, -1, -1, -1, -1)])
def test_identity(tables):
    assert roughness(tables).tolist() == pytest.approx([1 / (V - 1) ** 2] * 2)
    for axes in AXES:
        assert falls(tables, axes).tolist() == [0.0, 0.0]


def test_by_loops():
    """Tables are [sample, output colour, blue, green, red]."""
    tables = random_tables()
    for table, rough, own, every in zip(tables, roughness(tables), falls(tables), falls(tables, "all"), strict=True):
        square, fall, fall_own = 0.0, 0.0, 0.0
        for colour, b, g, r in itertools.product(range(3), *[range(V)] * 3):
            for axis, step in enumerate([(0, 0, 1), (0, 1, 0), (1, 0, 0)]):  # along red, green, blue
                after = (b + step[0], g + step[1], r + step[2])
                if max(after) < V:
                    rise = table[(colour, *after)] - table[colour, b, g, r]
                    square += rise**2
                    fall += max(0, -rise)
                    fall_own += max(0, -rise) if axis == colour else 0
        cells = 3 * V * V * (V - 1)
        greys = [
            max(0, table[colour, b, g, r] - table[colour, b + 1, g + 1, r + 1])
            for colour, b, g, r in itertools.product(range(3), *[range(V - 1)] * 3)
        ]
        assert rough == pytest.approx(square / cells)
        assert every == pytest.approx(fall / cells)
        assert own == pytest.approx(fall_own / cells + sum(greys) / len(greys))


def test_curves_that_fall():
    curves = ramps(2).clone()
    curves[1, 0] = curves[1, 0].flip(0)  # falls by a third, three times: of one colour in three
    for axes in AXES:
        assert falls(curves, axes).tolist() == pytest.approx([0, 1 / 9])


def test_more_saturation_is_no_fall_of_ours_and_one_of_theirs():
    identity = identity_lut_3d(V)
    grey = identity.mean(0)
    saturated = (grey + 1.3 * (identity - grey))[None]
    assert falls(saturated).item() == pytest.approx(0, abs=1e-7)
    assert falls(saturated, "all").item() > 0.01
    assert falls(-saturated).item() > 0.1


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("curves", [True, False])
def test_descent_makes_tables_monotone(axes, curves):
    tables = random_tables()[..., 0, 0, :] if curves else random_tables()
    tables = tables.requires_grad_()
    before = roughness(tables).detach()
    assert (falls(tables, axes) > 0.1).all()
    optimiser = torch.optim.Adam([tables], lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        (1e-4 * roughness(tables) + 10 * falls(tables, axes)).sum().backward()
        optimiser.step()
    with torch.no_grad():
        assert (falls(tables, axes) < 0.01).all()
        assert (roughness(tables) < before).all()


def test_half_precision_is_taken_in_full():
    tables = random_tables().bfloat16()
    for measure in (roughness, falls):
        assert measure(tables).dtype == torch.float32
        torch.testing.assert_close(measure(tables), measure(tables.float()))
