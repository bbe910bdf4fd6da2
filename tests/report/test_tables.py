"""Tables: what is written, how it is aligned, and which value is called the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semiisp_plugin.report.tables import markdown_table, mean_std, text_table

ROWS = [
    {"system": "supervised", "pairs": 16, "PSNR": [20.0, 21.0, 22.5], "MAE": 0.0512},
    {"system": "semi-supervised", "pairs": 16, "PSNR": [23.25, 23.25, 23.25], "MAE": 0.031, "note": "a|b"},
    {"system": "oracle", "pairs": 640, "PSNR": float("nan"), "note": True},
]


@pytest.mark.parametrize("n", [2, 3, 7])
def test_mean_std_agrees_with_numpy(n: int) -> None:
    values = np.random.default_rng(n).normal(20, 3, n)
    assert mean_std(values.tolist(), 4) == f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"


def test_mean_std_of_one_value_claims_no_spread() -> None:
    assert mean_std([3.14159]) == "3.14"
    assert mean_std([2], decimals=0) == "2"


def test_mean_std_of_infinite_values() -> None:
    assert mean_std([math.inf, 30.0]) == "inf"
    assert mean_std([math.nan, 30.0]) == "nan"
    with pytest.raises(ValueError, match="at least one"):
        mean_std([])


def test_markdown_table() -> None:
    assert markdown_table(ROWS) == (
        "| system          | pairs |         PSNR |  MAE | note |\n"
        "|:----------------|------:|-------------:|-----:|:-----|\n"
        "| supervised      |    16 | 21.17 ± 1.26 | 0.05 | –    |\n"
        "| semi-supervised |    16 | 23.25 ± 0.00 | 0.03 | a\\|b |\n"
        "| oracle          |   640 |          nan |    – | yes  |\n"
    )


def test_text_table() -> None:
    assert text_table(ROWS, ["system", "MAE", "pairs"], decimals=3) == (
        "system             MAE  pairs\n"
        "---------------  -----  -----\n"
        "supervised       0.051     16\n"
        "semi-supervised  0.031     16\n"
        "oracle               –    640\n"
    )


def test_text_can_stand_right() -> None:
    rows = [{"system": "a", "gain": "+0.50 ± 0.10", "n": 3}, {"system": "b", "gain": "–", "n": 12}]
    assert markdown_table(rows, right=["gain", "n"]).splitlines()[3] == "| b      |            – | 12 |"
    assert text_table(rows, ["n", "gain"], right=["gain"]).splitlines()[3] == "12             –"


def test_numpy_and_torch_values_are_numbers() -> None:
    rows = [{"a": np.float32(1.5), "b": torch.tensor(2.25), "c": np.array([1.0, 3.0])}, {"a": 1, "b": 2, "c": 0.5}]
    assert text_table(rows).splitlines()[2] == "1.50  2.25  2.00 ± 1.41"


def test_columns_keep_the_order_of_first_appearance() -> None:
    assert text_table([{"b": 1, "a": 2}, {"a": 3, "c": 4}]).split()[:3] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("rows", "columns", "right", "message"),
    [
        ([], None, (), "at least one row"),
        ([{"a": 1}], ["a", "z"], (), "no row has a column 'z'; there are: a"),
        ([{"a": 1}], None, ["z"], "no row has a column 'z'"),
        ([{"a": []}], None, (), "at least one value"),
    ],
)
def test_impossible_tables(rows: list, columns: list | None, right: list, message: str) -> None:
    for table in (markdown_table, text_table):
        with pytest.raises(ValueError, match=message):
            table(rows, columns, right=right)
