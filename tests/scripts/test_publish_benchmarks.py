"""The tables of docs/results.md are those of the JSON beside them."""

import json

import pytest
from helpers import ROOT, load_script

publish_benchmarks = load_script("publish_benchmarks")
PUBLISHED = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))


def results(name: str) -> dict:
    def cell(system: str, seed: int, psnr: float) -> dict:
        scores = {"psnr": psnr, "ssim": 0.8}
        return {
            "pairs": 16, "system": system, "repetition": f"seed {seed}", "seed": seed, "fold": None, "chosen": {},
            "validation": scores, "test": scores, "early_stopped": None, "curve": [], "kept_ratio": [], "seconds": 60.0,
        }  # fmt: skip

    system = {"group": "baseline", "ours": False, "description": "", "kind": "supervised"}
    return {
        "name": name, "title": "Toy", "task": "Toys.", "command": "basicsr benchmark -opt toy.yml", "version": "0",
        "date": "2026-01-01", "seconds": 120.0, "target": "SepLUT", "paper_task": None, "selection": "",
        "machine": {"processor": "Abacus", "cores": 2, "gpu": None, "python": "3.11.7", "torch": "2.15.0+cu132"},
        "options": {}, "best_supervised": {"16": "base"},
        "systems": {"base": {**system, "label": "base"}, "other": {**system, "label": "other", "group": "method"}},
        "cells": [cell("base", 0, 20.0), cell("base", 1, 21.0), cell("other", 0, 21.00004), cell("other", 1, 23.0)],
        "seconds_without_search": 120.0, "workers": 0, "paper_setting": "paper", "made_with": [],
        "search": [], "failed": [],
    }  # fmt: skip


def test_publishing_writes_json_and_tables(tmp_path):
    folder, docs = tmp_path / "run", tmp_path / "docs"
    folder.mkdir()
    docs.mkdir()
    (folder / "results.json").write_text(json.dumps(results("toy")))
    (docs / "results.md").write_text("# R\n\n<!-- benchmark toy -->\nold\n<!-- end -->\n\nend\n")
    publish_benchmarks.main([str(folder), "--docs", str(docs)])
    published = json.loads((docs / "benchmarks" / "toy.json").read_text())
    assert published["cells"][2]["test"]["psnr"] == 21.0
    text = (docs / "results.md").read_text()
    assert "old" not in text
    assert text.startswith("# R\n")
    assert text.endswith("<!-- end -->\n\nend\n")
    row = next(line for line in text.splitlines() if line.startswith("| other"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == ["22.00 ± 1.41", "+1.50 ± 0.71", "0.50", "0.800", "2"]
    assert "reference" in next(line for line in text.splitlines() if line.startswith("| base"))
    publish_benchmarks.main(["--docs", str(docs)])
    assert (docs / "results.md").read_text() == text


def test_the_tables_of_the_documents_are_those_of_the_json():
    assert publish_benchmarks.rewrite(ROOT / "docs") == (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), (
        "run: python scripts/publish_benchmarks.py"
    )


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_published_results_are_whole(path):
    published = json.loads(path.read_text(encoding="utf-8"))
    assert f"<!-- benchmark {path.stem} -->" in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert published["name"] == path.stem
    assert published["command"] == f"basicsr benchmark -opt options/benchmarks/{path.stem}.yml"
    assert (ROOT / "options" / "benchmarks" / f"{path.stem}.yml").is_file()
    assert published["failed"] == []
    systems, seeds = published["systems"], {(c["seed"], c["fold"]) for c in published["cells"]}
    counts = {c["pairs"] for c in published["cells"]}
    assert len(published["cells"]) == len(systems) * len(seeds) * len(counts)
    assert str(ROOT) not in path.read_text(encoding="utf-8")
