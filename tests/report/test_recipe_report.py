"""The table of a recipe's report."""

from __future__ import annotations

from typing import Any

from semiisp_plugin.report.recipe_report import results_table


def _system(key: str, psnr: list[float]) -> dict[str, Any]:
    images = {f"{k}.png": {"PSNR": value} for k, value in enumerate(psnr)}
    return {
        "key": key,
        "label": key,
        "means": {"test": {"PSNR": sum(psnr) / len(psnr)}},
        "per_image": {"test": images},
    }


def test_a_gain_has_its_interval_and_the_baseline_none():
    content = {
        "metrics": {"PSNR": {"better": "higher"}},
        "systems": [_system("supervised", [20, 25, 30]), _system("semi", [21, 27, 30])],
        "paper_rows": [],
    }
    alone, semi = results_table(content, "test").rows
    assert alone == ("supervised", "25.00", "")
    assert semi[:2] == ("semi", "26.00")
    mean, low, high = (float(part) for part in semi[2].replace("[", " ").replace(",", " ").replace("]", " ").split())
    assert mean == 1
    assert 0 <= low < 1 < high <= 2
    single = {**content, "systems": [*content["systems"][:1], {**_system("semi", [26]), "per_image": {}}]}
    assert results_table(single, "test").rows[1] == ("semi", "26.00", "+1.00")
