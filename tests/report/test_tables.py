"""Tables: what is written, and how it is aligned."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semiisp_plugin.report.tables import Spread, Table, mean_std

ROWS = [
    {"system": "supervised", "pairs": 16, "PSNR": "21.17 ± 1.26", "MAE": 0.0512},
    {"system": "semi-supervised", "pairs": 16, "PSNR": "23.25", "MAE": 0.031, "note": "a|b"},
    {"system": "oracle", "pairs": 640, "PSNR": "nan", "note": "*all*"},
]


@pytest.mark.parametrize("n", [2, 3, 7])
def test_mean_std_agrees_with_numpy(n: int) -> None:
    values = np.random.default_rng(n).normal(20, 3, n)
    assert mean_std(values.tolist(), 4) == f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
    assert Spread(values.tolist()).standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(n))


def test_mean_std_of_one_value_claims_no_spread() -> None:
    assert mean_std([3.14159]) == "3.14"
    assert mean_std([2], decimals=0, sign="+") == "+2"
    assert mean_std([]) == "–"


def test_mean_std_of_infinite_values() -> None:
    assert mean_std([math.inf, 30.0]) == "inf"
    assert mean_std([math.nan, 30.0]) == "nan"


def test_markdown() -> None:
    assert Table.of(ROWS, right=["PSNR"]).markdown() == (
        "| system          | pairs |         PSNR |  MAE | note    |\n"
        "|:----------------|------:|-------------:|-----:|:--------|\n"
        "| supervised      |    16 | 21.17 ± 1.26 | 0.05 | –       |\n"
        "| semi-supervised |    16 |        23.25 | 0.03 | a\\|b    |\n"
        "| oracle          |   640 |          nan |    – | \\*all\\* |\n"
    )


def test_text() -> None:
    rows = [{name: row.get(name) for name in ("system", "MAE", "pairs")} for row in ROWS]
    assert Table.of(rows, decimals=3).text() == (
        "system             MAE  pairs\n"
        "---------------  -----  -----\n"
        "supervised       0.051     16\n"
        "semi-supervised  0.031     16\n"
        "oracle               –    640\n"
    )


def test_headings_over_rows() -> None:
    table = Table(("system", "n"), ["first", ("a", "1"), "second", ("b", "12")], numeric=(1,))
    assert table.text() == "system   n\n------  --\nfirst\n  a      1\nsecond\n  b     12\n"
    assert table.markdown().splitlines()[2:4] == ["| **first**  |    |", "| a          |  1 |"]


def test_columns_keep_the_order_of_first_appearance() -> None:
    assert Table.of([{"b": 1, "a": 2}, {"a": 3, "c": 4}]).columns == ("b", "a", "c")
