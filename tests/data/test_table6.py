"""`table6` against Table 6 of the paper, at every bound, and its rounding."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiisp_plugin.data.table6 import COLUMNS, DENOISING, batch_composition, resolve_table6, settings_for

NOISE = {"shot_variance": 0.01, "read_variance": 0.0002}

# pairs, denoising -> N_r, N_p, beta of Table 6
CASES = [
    (1, False, 2, 18, 1.0),
    (99, False, 2, 18, 1.0),
    (100, False, 2, 18, 1.0),
    (101, False, 4, 16, 1.2),
    (500, False, 4, 16, 1.2),
    (999, False, 4, 16, 1.2),
    (1000, False, 4, 16, 1.2),
    (1001, False, 6, 14, 1.0),
    (4500, False, 6, 14, 1.0),
    (1, True, 4, 16, 1.2),
    (100, True, 4, 16, 1.2),
    (485, True, 4, 16, 1.2),
    (1000, True, 4, 16, 1.2),
    (1001, True, 4, 16, 1.2),  # the paper has no such case
]


def options(noise=None, beta="table6", total=None, per_batch="table6") -> dict:
    data = {"real_per_batch": per_batch, "pseudo_per_batch": per_batch}
    if total is not None:
        data["batch_size_per_gpu"] = total
    return {"datasets": {"train": data}, "train": {"filter": {"beta": beta}, "noise": noise}}


@pytest.mark.parametrize(("pairs", "denoising", "real", "pseudo", "beta"), CASES)
def test_table_6(pairs, denoising, real, pseudo, beta):
    settings = settings_for(pairs, denoising)
    assert (*batch_composition(settings, 20), settings.beta) == (real, pseudo, beta)
    for noise in (NOISE, "estimated") if denoising else (None,):
        opt = options(noise)
        line = resolve_table6(opt, pairs)
        assert opt["datasets"]["train"] == {"real_per_batch": real, "pseudo_per_batch": pseudo}
        assert opt["train"]["filter"] == {"beta": beta}
        for part in (f"{real} real and {pseudo} pseudo", f"beta {beta}", f"{pairs} real pairs", settings.column):
            assert part in line
        assert ("the paper has none" in line) == (denoising and pairs > 1000)


# N_r of 2, 4, 6 of 20 scaled to another total: halves are rounded up, neither is ever 0.
@pytest.mark.parametrize(
    ("total", "real"),
    [
        (2, (1, 1, 1)),
        (3, (1, 1, 1)),
        (4, (1, 1, 1)),
        (5, (1, 1, 2)),  # 0.5, 1, 1.5
        (8, (1, 2, 2)),  # 0.8, 1.6, 2.4
        (10, (1, 2, 3)),
        (15, (2, 3, 5)),  # 1.5, 3, 4.5
        (20, (2, 4, 6)),
        (32, (3, 6, 10)),  # 3.2, 6.4, 9.6
        (40, (4, 8, 12)),
    ],
)
def test_other_batch_sizes(total, real):
    columns = [settings for _, settings in COLUMNS]
    assert tuple(batch_composition(s, total)[0] for s in columns) == real
    assert batch_composition(DENOISING, total) == (real[1], total - real[1])
    opt = options(total=total)
    assert (f"({columns[0].real} + {20 - columns[0].real}, scaled)" in resolve_table6(opt, 100)) == (total != 20)
    assert opt["datasets"]["train"]["real_per_batch"] == real[0]
    assert opt["datasets"]["train"]["pseudo_per_batch"] == total - real[0]


@given(st.integers(2, 10_000), st.sampled_from([settings for _, settings in COLUMNS]))
def test_composition_is_the_nearest_possible(total, settings):
    real, pseudo = batch_composition(settings, total)
    assert real >= 1
    assert pseudo >= 1
    assert real + pseudo == total
    exact = Fraction(total * settings.real, 20)
    assert abs(real - exact) <= Fraction(1, 2) or real == 1


def test_only_what_is_table6_is_changed():
    assert resolve_table6(options(beta=4.0, per_batch=3), 100) is None
    opt = options(beta=4.0)
    assert "beta" not in resolve_table6(opt, 100)
    assert opt["train"]["filter"] == {"beta": 4.0}
    opt = options(per_batch=3)
    assert "a batch" not in resolve_table6(opt, 100)
    assert opt["datasets"]["train"] == {"real_per_batch": 3, "pseudo_per_batch": 3}
    no_filter = {"datasets": options()["datasets"], "train": {}}  # the mean teacher's
    assert "2 real and 18 pseudo" in resolve_table6(no_filter, 100)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="batch_size_per_gpu to 2"):
        resolve_table6(options(total=1), 100)
    with pytest.raises(ValueError, match="number of real pairs, which is 0"):
        resolve_table6(options(), 0)
    half = options()
    half["datasets"]["train"]["real_per_batch"] = 2
    with pytest.raises(ValueError, match="both"):
        resolve_table6(half, 100)
