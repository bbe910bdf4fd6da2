"""The pages of benchmarks are those of the JSON beside them."""

import json

import pytest
from helpers import ROOT, load_script

from semiisp_plugin.experiments.tables import TABLES

publish_benchmarks = load_script("publish_benchmarks")
PUBLISHED = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))


def results(name: str) -> dict:
    def cell(system: str, seed: int, psnr: list) -> dict:
        test = {"images": ["a", "b"], "psnr": psnr, "ssim": [0.80004, 0.9]}
        return {"task": "toys", "pairs": 16, "system": system, "seed": seed, "test": test, "seconds": 60.0}

    system = {"photographs": False, "ours": False, "description": ""}
    return {
        "name": name, "title": "Toy", "command": "basicsr benchmark -opt toy.yml", "version": "0.9",
        "date": "2026-01-01", "seconds": 120.0, "workers": 0, "made_with": [], "options": {"lr": 0.00001}, "failed": [],
        "machine": {"processor": "Abacus", "cores": 2, "gpu": None, "python": "3.11.7", "torch": "2.15.0+cu132"},
        "tasks": {"toys": {"title": "Toys", "description": "Of wood."}},
        "systems": {
            "base": {**system, "label": "base", "group": "supervised"},
            "other": {**system, "label": "other", "group": "method", "photographs": True},
        },
        "contrasts": [{"title": "Other minus base", "of": "other", "over": ["base"]}],
        "cells": [
            cell("base", 0, [20.0, 30.0]), cell("base", 1, [21.0, 31.0]),
            cell("other", 0, [21.00004, 31.0]), cell("other", 1, [22.0, "inf"]),
        ],
    }  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """A folder of results, and one of documents."""
    (tmp_path / "run").mkdir()
    (tmp_path / "docs").mkdir()
    return tmp_path


def publish(place, content: dict, *options: str) -> str:
    (place / "run" / "results.json").write_text(json.dumps(content))
    publish_benchmarks.main([str(place / "run"), "--root", str(place), *options])
    return (place / "docs" / "benchmarks" / "toy.md").read_text()


def cells(text: str, label: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {label}")]
    return [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in lines]


def test_publishing_writes_json_and_tables(place):
    content = results("toy")
    content["cells"][3]["test"]["psnr"][1] = 32.0
    text = publish(place, content, "--plot")
    published = json.loads((place / "docs" / "benchmarks" / "toy.json").read_text())
    assert published["cells"][2]["test"] == {"images": ["a", "b"], "psnr": [21.0, 31.0], "ssim": [0.8, 0.9]}
    assert published["options"] == {"lr": 0.00001}
    assert (place / "docs" / "benchmarks" / "toy_contrasts.png").read_bytes().startswith(b"\x89PNG")
    assert cells(text, "Toys") == [["Toys", "16", "26.50", "base", "+1.00 [+1.00, +1.00]", "2", "2", "gain"]]
    for expected in (
        "**Other minus base:** +1.00 \\[+1.00, +1.00\\] dB, a gain beyond doubt.\n",
        "95 % intervals",
        "`basicsr benchmark -opt toy.yml` ([JSON](toy.json))",
        "Abacus",
        "torch 2.15.0, Python",
    ):
        assert expected in text
    assert text.startswith("# Toy\n\n![Differences in test PSNR with their 95 % intervals](toy_contrasts.png)\n")
    assert "version 0.9; 2 minutes" in text
    assert "Toys: Of wood." in text
    assert "<summary>Toys, 16 pairs</summary>" in text
    assert "Gain: over base, the strongest system" in text
    assert cells(text, "base") == [["base", "25.50", "reference", "0.850", "2"]]
    assert cells(text, "other") == [["other", "26.50", "+1.00 [+1.00, +1.00]", "0.850", "2"]]
    publish_benchmarks.main(["--root", str(place)])
    assert (place / "docs" / "benchmarks" / "toy.md").read_text() == text


def test_repetitions_of_another_run_are_added(place):
    """As where a machine is not had for long enough: seeds one after the other."""
    content = results("toy")
    later = {**content, "cells": [cell for cell in content["cells"] if cell["seed"] == 1], "seconds": 50.0}
    publish(place, {**content, "cells": [cell for cell in content["cells"] if cell["seed"] == 0]})
    text = publish(place, later, "--add")
    published = json.loads((place / "docs" / "benchmarks" / "toy.json").read_text())
    assert [(cell["system"], cell["seed"]) for cell in published["cells"]] == [
        ("base", 0), ("other", 0), ("base", 1), ("other", 1),
    ]  # fmt: skip
    assert (published["options"]["seeds"], published["seconds"]) == ([0, 1], 170.0)
    assert cells(text, "base") == [["base", "25.50", "reference", "0.850", "2"]]
    with pytest.raises(SystemExit, match="its made_with are not those"):
        publish(place, {**later, "made_with": ["other"]}, "--add")


def test_infinite_values_are_published(place):
    text = publish(place, results("toy"))
    assert "![" not in text, "no plot was asked for"
    assert cells(text, "other") == [["other", "inf", "–", "0.850", "2"]]
    assert '"inf"' in (place / "docs" / "benchmarks" / "toy.json").read_text()


def test_results_that_cannot_be_shown_change_nothing(place):
    with pytest.raises(SystemExit, match="not results as this version"):
        publish(place, {"best_supervised": {}})
    assert not list((place / "docs").iterdir())


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_each_has_a_page(path):
    made = publish_benchmarks.page_of(path)
    assert made == path.with_suffix(".md").read_text(encoding="utf-8"), "run: python scripts/publish_benchmarks.py"


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_published_results_are_whole(path):
    published = publish_benchmarks.read(path)
    assert f"(benchmarks/{path.stem}.md)" in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert published.name == path.stem
    table, _, size = path.stem.rpartition("_")
    if table in TABLES:
        assert published.command == f"basicsr benchmark {table} --size {size}"
    else:
        assert published.command == f"basicsr benchmark -opt options/benchmarks/{path.stem}.yml"
        assert (ROOT / "options" / "benchmarks" / f"{path.stem}.yml").is_file()
    assert published.failed == []
    for task, pairs in published.settings():
        seeds = [sorted(cell.seed for cell in published.of(task, pairs, key)) for key in published.systems]
        assert len({tuple(one) for one in seeds if one}) == 1
    assert str(ROOT) not in path.read_text(encoding="utf-8")
