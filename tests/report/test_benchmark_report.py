"""Tables, plots and pages of a benchmark, from results made up here."""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from semiisp_plugin.report import benchmark_tables
from semiisp_plugin.report.benchmark_report import write_report
from semiisp_plugin.report.benchmark_results import GROUPS, GainRow, Results, compare_systems
from semiisp_plugin.report.page import Pictures, markdown_section
from semiisp_plugin.report.paper_figures import PAPER_RESULTS, PAPER_TASKS, paper_results

SYSTEMS = {
    "f_isp_paper": ("f_ISP", "f_isp", False, -1.1),
    "supervised": ("supervised", "baseline", False, 0.0),
    "supervised_jitter": ("supervised, jitter", "baseline", True, 0.2),
    "paper": ("semi-supervised", "method", False, 0.5),
    "auto": ("semi-supervised, tuned", "method", True, 0.9),
    "mixture": ("mixed sources", "help", True, 0.7),
    "paper_no_filter": ("no filter", "ablation", False, 0.3),
    "upi": ("UPI", "source", False, 0.1),
    "ratio_1_3": ("5:15", "ratio", False, 0.4),
    "beta_2": ("β = 2", "beta", False, 0.45),
}


def make_results(
    pairs: tuple[int, ...] = (16, 50), seeds: int = 3, folds: int = 2, seed: int = 0, steps: int = 4
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    runs = [(s, f) for f in range(folds) for s in range(seeds)]
    cells, search = [], []
    for n in pairs:
        for s, f in runs:
            repetition = f"seed {s}, fold {f}"
            easy = rng.normal()  # what a fold makes easy for everybody
            for key, (_, group, _, better) in SYSTEMS.items():
                score = 20 + 2 * easy + better + math.log10(n) + 0.2 * rng.normal()
                at = [50 * (k + 1) for k in range(steps)]
                scores = [{"psnr": score - 3 * 0.5**k, "ssim": 0.8} for k in range(steps)]
                filtered = group in ("method", "help", "ratio", "beta", "source")
                cells.append(
                    {
                        "pairs": n,
                        "system": key,
                        "repetition": repetition,
                        "seed": s,
                        "fold": f,
                        "chosen": {"lr": 0.001, "iterations": 400},
                        "validation": {"psnr": score + 0.5, "ssim": 0.82},
                        "test": {"psnr": score, "ssim": 0.8 + 0.01 * rng.normal()},
                        "early_stopped": {"iteration": 100, "validation": scores[1], "test": scores[1]}
                        if key == "supervised"
                        else None,
                        "curve": [
                            {"iteration": i, "validation": {"psnr": v["psnr"] + 0.5}, "test": v}
                            for i, v in zip(at, scores, strict=True)
                        ],
                        "kept_ratio": [[i, float(rng.uniform(0.4, 0.9))] for i in at] if filtered else [],
                        "seconds": 1.5,
                    }
                )
        for rate in (0.001, 0.003):
            search.append(
                {
                    "pairs": n,
                    "system": "supervised",
                    "candidate": {"lr": rate},
                    "validation_psnr": [21.0, 20.1],
                    "test_psnr": [17.25, 17.25],
                    "chosen": rate == 0.003,
                }
            )
    return {
        "name": "made_up",
        "title": "Made up",
        "task": "numbers out of a generator",
        "command": "basicsr benchmark -opt x.yml",
        "version": "0.1",
        "date": "2026-11-22",
        "machine": {"processor": "any", "cores": 2, "gpu": None, "python": "3.11", "torch": "2.4"},
        "seconds": 9000.0,
        "seconds_without_search": 8000.0,
        "workers": 2,
        "paper_setting": "paper",
        "made_with": ["0123"],
        "target": "SepLUT",
        "paper_task": "FiveK IE",
        "selection": "best on the validation pairs",
        "options": {"name": "made_up", "pairs": list(pairs)},
        "systems": {
            key: {"label": label, "group": group, "ours": ours, "description": f"what {label} is", "kind": "semi"}
            for key, (label, group, ours, _) in SYSTEMS.items()
        },
        "best_supervised": {str(n): "supervised_jitter" if n == 16 else "supervised" for n in pairs},
        "cells": cells,
        "search": search,
        "failed": [],
    }


def parsed(results: dict[str, Any]) -> Results:
    return msgspec.convert(results, Results, strict=False, str_keys=True)


def terminal_table(results: dict[str, Any]) -> str:
    return benchmark_tables.terminal_table(parsed(results))


def write(results: dict[str, Any], out: Path, pictures: Sequence[Pictures] = ()) -> dict[str, Path]:
    return write_report(out, parsed(results), pictures)


def make_pictures(names: tuple[str, ...] = ("a0001", "a0002")) -> list[Pictures]:
    rng = np.random.default_rng(1)
    columns = ("input", "supervised", "semi-supervised, tuned (ours)", "target")
    rows = [
        (name, [(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), note) for note in ("", "20.12 dB", "", "")])
        for name in names
    ]
    return [Pictures("Test pictures", columns, rows)]


class Page(HTMLParser):
    """What a browser would load, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.shown: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.shown).split())


def gain_rows(results: dict[str, Any], pairs: int) -> list[GainRow]:
    return compare_systems(parsed(results), pairs)


# --- gains ----------------------------------------------------------------------------------------------------------


def psnr_of(results: dict[str, Any], pairs: int, system: str) -> dict[str, float]:
    return {
        c["repetition"]: c["test"]["psnr"] for c in results["cells"] if (c["pairs"], c["system"]) == (pairs, system)
    }


@pytest.mark.parametrize("pairs", [16, 50])
def test_gains_are_paired_by_repetition(pairs):
    results = make_results(seed=1)
    rng = np.random.default_rng(5)
    results["cells"] = [results["cells"][k] for k in rng.permutation(len(results["cells"]))]  # order must not matter
    base = psnr_of(results, pairs, results["best_supervised"][str(pairs)])
    rows = {row.system: row for row in gain_rows(results, pairs) if not row.stopped_early}
    assert set(rows) == set(SYSTEMS)
    for key, row in rows.items():
        psnr = psnr_of(results, pairs, key)
        assert row.psnr.mean == pytest.approx(np.mean(list(psnr.values())))
        assert row.psnr.std == pytest.approx(np.std(list(psnr.values()), ddof=1))
        if row.reference:
            assert key == results["best_supervised"][str(pairs)]
            assert not row.gain
            continue
        gains = np.array([psnr[repetition] - base[repetition] for repetition in base])
        assert len(row.gain) == 6
        assert row.gain.mean == pytest.approx(gains.mean())
        assert row.gain.std == pytest.approx(gains.std(ddof=1))
        assert row.gain.standard_error == pytest.approx(gains.std(ddof=1) / np.sqrt(6))
        # What a fold makes easy cancels: the point of pairing.
        assert row.gain.std < 0.5 < row.psnr.std


def test_only_repetitions_that_both_have_count():
    results = make_results(pairs=(16,))
    own, base = psnr_of(results, 16, "auto"), psnr_of(results, 16, "supervised_jitter")
    both, failed = "seed 0, fold 0", "seed 1, fold 1"
    results["cells"] = [c for c in results["cells"] if c["system"] != "auto" or c["repetition"] in (both, failed)]
    for cell in results["cells"]:
        if (cell["system"], cell["repetition"]) == ("supervised_jitter", failed):
            cell["test"] = {"psnr": None}
    row = next(row for row in gain_rows(results, 16) if row.system == "auto")
    assert row.psnr == (own[both],)
    assert tuple(row.gain) == pytest.approx((own[both] - base[both],))
    assert row.gain.std is row.gain.standard_error is None
    line = next(line for line in terminal_table(results).splitlines() if "tuned" in line)
    assert re.split(r"\s{2,}", line.strip())[2:5] == [f"{own[both] - base[both]:+.2f}", "–", "1"]


def test_a_system_that_shares_nothing_has_a_psnr_but_no_gain():
    results = make_results(pairs=(16,))
    for cell in results["cells"]:
        if cell["system"] == "auto":
            cell["repetition"] = f"another {cell['repetition']}"
    row = next(row for row in gain_rows(results, 16) if row.system == "auto")
    assert not row.gain
    assert len(row.psnr) == 6


def test_stopping_early_is_a_line_of_its_own():
    results = make_results(pairs=(16,))
    rows = gain_rows(results, 16)
    k = next(k for k, row in enumerate(rows) if row.stopped_early)
    assert [row.label for row in rows[k - 1 : k + 1]] == ["supervised", "supervised, stopped early"]
    assert sum(row.stopped_early for row in rows) == 1
    base = psnr_of(results, 16, "supervised_jitter")
    early = [
        c["early_stopped"]["test"]["psnr"] - base[c["repetition"]]
        for c in results["cells"]
        if c["system"] == "supervised"
    ]
    assert rows[k].gain.mean == pytest.approx(np.mean(early))


def test_the_best_supervised_stopped_early_is_compared_with_itself_at_the_end():
    rows = gain_rows(make_results(pairs=(50,)), 50)
    first, second = (row for row in rows if row.system == "supervised")
    assert first.reference
    assert not second.reference
    # Two halvings of 3 dB are missing after half of the steps.
    assert tuple(second.gain) == pytest.approx([-1.5] * 6)


def test_rows_come_in_groups_and_say_whose_they_are():
    results = make_results(pairs=(16,))
    results["systems"] = dict(reversed(results["systems"].items()))
    rows = gain_rows(results, 16)
    groups = [row.group for row in rows]
    order = list(GROUPS)
    assert list(dict.fromkeys(groups)) == order
    assert sorted(groups, key=order.index) == groups
    labels = {row.system: row.label for row in rows if not row.stopped_early}
    assert labels["paper"] == "semi-supervised, paper's setting"
    assert labels["auto"] == "semi-supervised, tuned (ours)"
    assert labels["upi"] == "UPI"
    assert gain_rows(results, 999) == []
    named = gain_rows(results | {"paper_setting": "upi"}, 16)
    assert [row.system for row in named if row.label.endswith("paper's setting")] == ["upi"]


@pytest.mark.slow
def test_values_that_are_not_finite_are_shown(tmp_path):
    results = make_results(pairs=(16,), seeds=2, folds=1)
    odd = {"auto": math.nan, "upi": math.inf}
    for cell in results["cells"]:
        if cell["system"] in odd and cell["seed"] == 0:
            cell["test"]["psnr"] = cell["curve"][-1]["test"]["psnr"] = odd[cell["system"]]
    page = write(results, tmp_path)["report.html"].read_text()
    for name, shown in (("tuned", "nan"), ("UPI", "inf")):
        line = next(line for line in terminal_table(results).splitlines() if name in line)
        assert re.split(r"\s{2,}", line.strip())[1] == shown
        assert f'<td class="number">{shown}</td>' in page


# --- tables ---------------------------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    of = parsed(results)
    sections = [*(benchmark_tables.results_section(of, n) for n in of.pairs()), benchmark_tables.paper_section(of)]
    return "\n".join(markdown_section(section) for section in sections if section)


def test_tables_say_how_many_repetitions_there_are():
    results = make_results()
    whole = markdown(results)
    for text in (whole, terminal_table(results)):
        assert "16 pairs, mean ± standard deviation over 6 repetitions (3 seeds × 2 folds)" in text
    assert "not of new photographs" in whole
    single = make_results(pairs=(16,), seeds=1, folds=1)
    for text in (markdown(single), terminal_table(single)):
        assert "16 pairs, 1 repetition\n" in text
    assert "±" not in terminal_table(single)


def test_numbers_stand_right_in_markdown():
    lines = markdown(make_results(pairs=(16,))).splitlines()
    rule = lines[next(k for k, line in enumerate(lines) if line.startswith("| system ")) + 1]
    assert re.sub("-+", "-", rule) == "|:-|-:|-:|-:|-:|-:|"
    rule = lines[next(k for k, line in enumerate(lines) if line.startswith("| source ")) + 1]
    assert re.sub("-+", "-", rule) == "|:-|:-|-:|-:|-:|-:|"


def test_terminal_table_fits_a_terminal():
    lines = terminal_table(make_results()).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum("reference" in line for line in lines) == 2


def test_the_papers_figures_stand_beside_those_of_this_run():
    results = make_results()
    text = markdown(results)
    line = next(line for line in text.splitlines() if "Table 8" in line and " 100 |" in line)
    assert re.sub(r"\s+", " ", line) == "| Table 8 | SepLUT | 100 | 21.54 | 23.04 | +1.50 |"
    assert "NAFNet" not in text
    assert "For orientation only" in text
    ours = [line for line in text.splitlines() if "SepLUT" in line and "paper's setting" in line]
    assert len(ours) == 2
    assert "NAFNet-s" in markdown(results | {"target": "another network"})
    assert "Table 8" not in markdown(results | {"paper_task": None})


def test_the_papers_gains_are_those_of_its_tables():
    by_key = {(row.task, row.network, row.pairs): row for row in PAPER_RESULTS}
    assert len(by_key) == len(PAPER_RESULTS) == 3 * 9 + 3 * 2
    assert {row.task for row in PAPER_RESULTS} == set(PAPER_TASKS)
    assert by_key["FiveK tone mapping", "SepLUT", 100].gain == pytest.approx(2.44)
    assert by_key["LoLv1", "Retinexformer", 485].gain == pytest.approx(-0.11)
    assert {row.network for row in paper_results("FiveK IE", "nafnet")} == {"NAFNet-s"}
    assert len(paper_results("LoLv1", "SepLUT")) == 2
    with pytest.raises(ValueError, match="no task 'LoLv3'"):
        paper_results("LoLv3")


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A report with everything in it."""
    out = tmp_path_factory.mktemp("whole")
    results = make_results()
    pictures = make_pictures()
    pictures[0].rows[1][1][1] = (None, "no picture of it")
    results["failed"] = [{"job": "16/auto/seed 9", "error": "CUDA out of memory"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return out, write(results, out, pictures)


@pytest.mark.slow
def test_the_whole_report(whole):
    out, paths = whole
    names = {"report.md", "report.html", "pictures.jpg"}
    for group in ("method", "help"):
        names |= {f"plots/gain_by_pairs_{group}.png"}
    for n in (16, 50):
        names |= {f"plots/kept_{group}_{n}.png" for group in ("method", "help", "source", "ratio", "beta")}
    assert set(paths) == names
    for name, path in paths.items():
        assert path == out / name
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                assert image.width > 500
                assert np.asarray(image.convert("L")).std() > 5

    markdown = paths["report.md"].read_text()
    assert markdown.startswith("# Made up\n")
    linked = re.findall(r"!\[[^\n]*\]\(([^)]*)\)", markdown)
    assert set(linked) == names - {"report.md", "report.html"}
    assert "out of memory" in markdown

    page = Page(paths["report.html"].read_text())
    assert page.open == []
    for expected in ("Made up", "basicsr benchmark -opt x.yml", "numbers out of a generator", "2026-11-22", "2:30:00"):
        assert expected in page.text
        assert expected in markdown
    assert page.tags.count("figure") == page.tags.count("img") == len(linked)
    for expected in (
        "CUDA out of memory",
        "lr 0.003",
        "what UPI is",
        "cores 2",
        "17.25",  # a candidate of the search on the test
    ):
        assert expected in page.text


def test_the_page_needs_nothing_from_elsewhere(whole):
    text = whole[1]["report.html"].read_text()
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    for address in page.loads:
        assert address.startswith(("data:image/", "#"))
    ids = re.findall(r'id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in page.loads if address.startswith("#")} <= set(ids)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", text)
    images = [address for address in page.loads if address.startswith("data:")]
    assert len(images) == 13
    for address in images:
        with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as image:
            image.load()
    assert "prefers-color-scheme: dark" in text


HOSTILE = '<b>bold</b> "quoted" & $x$ | pipe *star* [link](x) <script>alert(1)</script>'


def test_every_text_is_escaped(tmp_path):
    results = make_results(pairs=(16,), seeds=1)
    for key in ("title", "task", "command", "version", "date", "target", "selection"):
        results[key] = f"{key} {HOSTILE}"
    results["machine"] = {HOSTILE: HOSTILE}
    results["options"] = {HOSTILE: HOSTILE}
    results["systems"] = {
        key: {**system, "label": f"{key} {HOSTILE}", "description": HOSTILE}
        for key, system in results["systems"].items()
    }
    for cell in results["cells"]:
        cell["chosen"] = {HOSTILE: HOSTILE}
    results["search"][0]["candidate"] = {HOSTILE: HOSTILE}
    results["failed"] = [{"job": HOSTILE, "error": HOSTILE}]
    paths = write(results, tmp_path, [replace(make_pictures((HOSTILE,))[0], title=HOSTILE)])
    plain = make_results(pairs=(16,), seeds=1)
    text = paths["report.html"].read_text()
    page = Page(text)
    assert not {"b", "script"} & set(page.tags)
    assert page.open == []
    assert page.text.count(HOSTILE) > 2 * len(plain["systems"])
    markdown = paths["report.md"].read_text()
    assert not re.search(r"(?<!\\)<", markdown)
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) - 1 for line in tables} <= {2, 4, 5, 6, 7}


@pytest.mark.filterwarnings("error")
def test_what_is_not_there_is_left_out(tmp_path):
    results = make_results(pairs=(16,), seeds=1, folds=1)
    results["search"] = []
    results["paper_task"] = None
    for cell in results["cells"]:
        cell.update(curve=[], kept_ratio=[], chosen={}, early_stopped=None)
    paths = write(results, tmp_path)
    assert set(paths) == {"report.md", "report.html"}
    for text in (paths["report.md"].read_text(), Page(paths["report.html"].read_text()).text):
        assert "16 pairs" in text
        assert not [part for part in ("The filter", "Chosen settings", "Pictures") if part in text]


@pytest.mark.filterwarnings("error")
def test_results_without_anything(tmp_path):
    results = make_results() | {"systems": {}, "cells": [], "search": [], "best_supervised": {}}
    paths = write(results, tmp_path)
    assert set(paths) == {"report.md", "report.html"}
    assert "No system was run to its end" in Page(paths["report.html"].read_text()).text
    assert "no system was run to its end" in terminal_table(results)


@pytest.mark.filterwarnings("error")
def test_odd_curves_are_drawn(tmp_path):
    results = make_results(pairs=(16,), seeds=2, folds=1)
    results["best_supervised"] = {}
    for k, cell in enumerate(results["cells"]):
        cell["kept_ratio"] = [[10 * k, 0.5], [10 * k + 5, None]]  # no two repetitions have a common iteration
        cell["test"] = {"psnr": None} if k % 4 == 0 else cell["test"]
    assert write(results, tmp_path)["plots/kept_method_16.png"].is_file()


@pytest.mark.slow
def test_many_pictures_keep_the_page_small(tmp_path):
    results = make_results(pairs=(16,), seeds=1, folds=1)
    noise = np.random.default_rng(2).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    pictures = Pictures("noise", tuple("abcde"), [(f"a{k}", [(noise, "")] * 5) for k in range(12)])
    path = write(results, tmp_path, [pictures])["report.html"]
    assert path.stat().st_size < 6_000_000
    assert Page(path.read_text()).tags.count("img") == 6
