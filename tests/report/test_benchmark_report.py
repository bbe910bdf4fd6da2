"""Gains, tables, plots and pages of a benchmark, from results made up here."""

from __future__ import annotations

import base64
import io
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

from semiisp_plugin.report import benchmark_plots, benchmark_tables
from semiisp_plugin.report.benchmark_report import write_report
from semiisp_plugin.report.benchmark_results import GROUPS, GainRow, Results, compare_systems, contrasts, strongest
from semiisp_plugin.report.page import Pictures, Section, markdown_section
from semiisp_plugin.report.paper_figures import PAPER_RESULTS, PAPER_TASKS

SYSTEMS = {
    "jitter": ("supervised, jitter", "supervised", False, True, 0.2),
    "alone": ("PQDynamicISP, pairs alone", "supervised", False, False, 0.5),
    "paper": ("semi-supervised", "method", True, False, 0.4),
    "semi": ("PQDynamicISP, semi", "method", True, True, 1.0),
    "auto": ("auto", "chosen", True, True, 0.9),
    "rounds": ("two rounds", "tried", True, True, 0.6),
    "no_filter": ("no filter", "ablation", True, False, 0.3),
    "upi": ("UPI", "source", True, False, 0.1),
}
"""Key: label, group, photographs, ours, how good."""

TASKS = {
    "lolv1": {"title": "LOLv1", "description": "Photographs of the night.", "paper_task": "LoLv1"},
    "lsui": {"title": "Underwater (LSUI)", "description": "Photographs of the sea."},
}


def make_results(
    settings: Sequence[tuple[str, int]] = (("lolv1", 16), ("lolv1", 50), ("lsui", 50)), seeds: int = 3, images: int = 8
) -> dict[str, Any]:
    """Of image k, PSNR is what is easy about it and about the seed, what is good about the system, and a bit of noise.

    On the other task the pairs alone are as good as photographs are on this one, and the other way round.
    """
    rng = np.random.default_rng(0)
    cells = []
    for task, pairs in settings:
        easy = 3 * rng.normal(size=images)
        for seed in range(seeds):
            here = 20 + easy + rng.normal()
            for key, (_, _, photographs, _, better) in SYSTEMS.items():
                psnr = here + (better if task == "lolv1" else -better) + 0.05 * rng.normal(size=images)
                cells.append(
                    {
                        "task": task,
                        "pairs": pairs,
                        "system": key,
                        "seed": seed,
                        "test": {
                            "images": [f"{k}.png" for k in range(images)],
                            "psnr": psnr.tolist(),
                            "ssim": [0.8] * images,
                        },
                        "seconds": 1.5,
                        "chosen": {("semi", "f_ISP", "semi")[seed % 3]: 1.0} if key == "auto" else None,
                        "kept_ratio": [[50 * k, float(rng.uniform(0.4, 0.9))] for k in range(4)] if photographs else [],
                    }
                )
    return {
        "name": "made_up",
        "title": "Made up",
        "command": "basicsr benchmark -opt x.yml",
        "version": "0.1",
        "date": "2026-11-22",
        "machine": {"processor": "any", "cores": 2, "gpu": None, "python": "3.11", "torch": "2.4"},
        "seconds": 9000.0,
        "workers": 2,
        "made_with": ["0123"],
        "options": {"name": "made_up"},
        "tasks": TASKS,
        "systems": {
            key: {"label": label, "group": group, "photographs": photographs, "ours": ours, "description": f"is {key}"}
            for key, (label, group, photographs, ours, _) in SYSTEMS.items()
        },
        "contrasts": [
            {"title": "Photographs, in the same network", "of": "semi", "over": ["alone"]},
            {"title": "Best of all", "of": "semi", "over": ["jitter", "alone"]},
        ],
        "cells": cells,
        "failed": [],
    }


def parsed(results: dict[str, Any]) -> Results:
    """As they are read from their file."""
    return msgspec.json.decode(msgspec.json.encode(results), type=Results, strict=False)


def cells_of(results: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [cell for cell in results["cells"] if all(cell[key] == value for key, value in wanted.items())]


def mean_psnr(results: dict[str, Any], **wanted: Any) -> float:
    return float(np.mean([cell["test"]["psnr"] for cell in cells_of(results, **wanted)]))


def gain_row(results: dict[str, Any], system: str, task: str = "lolv1", pairs: int = 50) -> GainRow:
    return next(row for row in compare_systems(parsed(results), task, pairs) if row.system == system)


def line_of(text: str, *words: str) -> list[str]:
    """The cells of the one line that holds these words."""
    (line,) = (line for line in text.splitlines() if all(word in line for word in words))
    return re.split(r"\s+\|\s+|\s{2,}", line.strip("| "))


def section_text(section: Section | None) -> str:
    assert section
    return markdown_section(section)


# --- gains ------------------------------------------------------------------------------------------------------------


def test_gains_are_paired_by_image_and_repetition():
    results = make_results()
    rng = np.random.default_rng(5)
    results["cells"] = [results["cells"][k] for k in rng.permutation(len(results["cells"]))]  # order must not matter
    rows = {row.system: row for row in compare_systems(parsed(results), "lolv1", 50)}
    assert set(rows) == set(SYSTEMS)
    base = mean_psnr(results, task="lolv1", pairs=50, system="alone")
    for key, row in rows.items():
        own = mean_psnr(results, task="lolv1", pairs=50, system=key)
        assert row.psnr == pytest.approx(own)
        assert row.ssim == pytest.approx(0.8)
        assert row.seeds == 3
        assert row.reference == (key == "alone") == (row.gain is None)
        if row.gain:
            assert row.gain.mean == pytest.approx(own - base)
            # What an image makes easy cancels: the point of pairing.
            assert row.gain.high - row.gain.low < 0.2


def test_only_repetitions_that_both_have_count():
    results = make_results()
    results["cells"] = [cell for cell in results["cells"] if (cell["system"], cell["seed"]) != ("alone", 2)]
    row = gain_row(results, "semi")
    assert row.gain
    assert (row.seeds, row.gain.seeds) == (3, 2)
    shared = [mean_psnr(results, task="lolv1", pairs=50, system="semi", seed=seed) for seed in (0, 1)]
    assert row.gain.mean == pytest.approx(
        np.mean(shared) - mean_psnr(results, task="lolv1", pairs=50, system="alone"), abs=1e-9
    )
    table = section_text(benchmark_tables.results_section(parsed(results), "lolv1", 50))
    assert line_of(table, "PQDynamicISP, semi")[-1] == "2 of 3"


def test_the_strongest_is_the_best_where_all_were_run():
    results = make_results()
    assert strongest(parsed(results), "lolv1", 50, ["jitter", "alone", "semi"]) == "semi"
    assert strongest(parsed(results), "lsui", 50, ["jitter", "alone", "semi"]) == "jitter"
    assert strongest(parsed(results), "lolv1", 999, ["jitter"]) is None
    (best,) = cells_of(results, task="lolv1", pairs=50, system="alone", seed=1)
    best["test"]["psnr"] = [60.0] * 8  # would win, had the others been run with this seed
    results["cells"] = [cell for cell in results["cells"] if cell["system"] == "alone" or cell["seed"] != 1]
    for cell in cells_of(results, system="jitter"):
        cell["test"]["psnr"] = [31.0] * 8
    assert strongest(parsed(results), "lolv1", 50, ["alone", "jitter"]) == "jitter"
    for cell in cells_of(results, system="jitter", seed=2):
        cell["test"]["psnr"][0] = None
    assert strongest(parsed(results), "lolv1", 50, ["alone", "jitter"]) == "alone"


def test_photographs_are_never_the_reference():
    results = make_results()
    assert gain_row(results, "semi").psnr > gain_row(results, "alone").psnr
    results["systems"]["semi"]["photographs"] = False
    assert gain_row(results, "semi").reference


def test_the_paper_s_table_stands_beside_the_results():
    results = make_results()
    results["options"] = {"paper_table": "table3"}
    text = section_text(benchmark_tables.table_section(parsed(results)))
    assert "| PQDynamicISP | ReRAW" in re.sub(" +", " ", text)
    assert "Paper, FiveK tone mapping" in text
    terminal = benchmark_tables.terminal_table(parsed(results))
    assert re.search(r"PQDynamicISP +f_ISP +100 +24\.12 +0\.910", terminal)
    results["options"] = {}
    assert benchmark_tables.table_section(parsed(results)) is None
    assert "Paper" not in benchmark_tables.terminal_table(parsed(results))


def results_have(group: str) -> bool:
    return any(system[1] == group for system in SYSTEMS.values())


def test_rows_come_in_groups():
    results = make_results()
    results["systems"] = dict(reversed(results["systems"].items()))
    rows = compare_systems(parsed(results), "lolv1", 50)
    assert [row.system for row in rows] == [
        "alone", "jitter", "semi", "paper", "auto", "rounds", "no_filter", "upi",
    ]  # fmt: skip
    lines = section_text(benchmark_tables.results_section(parsed(results), "lolv1", 50)).splitlines()
    shown = [line.strip("|* ").rstrip("* |") for line in lines if line.startswith("| **")]
    assert shown == [GROUPS[group] for group in GROUPS if results_have(group)]


def test_contrasts_are_over_the_strongest_that_they_name():
    results = make_results()
    rows = contrasts(parsed(results))
    assert [(row.contrast.of, row.task, row.pairs, row.over) for row in rows] == [
        ("semi", "lolv1", 16, "alone"),
        ("semi", "lolv1", 50, "alone"),
        ("semi", "lsui", 50, "alone"),
        ("semi", "lolv1", 16, "alone"),
        ("semi", "lolv1", 50, "alone"),
        ("semi", "lsui", 50, "jitter"),
    ]
    for row in rows:
        where = {"task": row.task, "pairs": row.pairs}
        own, other = (mean_psnr(results, system=key, **where) for key in ("semi", row.over))
        assert row.psnr == pytest.approx(own)
        assert row.difference
        assert row.difference.mean == pytest.approx(own - other)
    results["cells"] = [cell for cell in results["cells"] if cell["system"] != "semi"]
    assert contrasts(parsed(results)) == []


def test_settings_come_by_task():
    run = [("lsui", 16), ("lolv1", 50), ("lolv1", 16)]
    assert parsed(make_results(run, seeds=1)).settings() == [("lolv1", 16), ("lolv1", 50), ("lsui", 16)]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_headline_says_what_was_gained():
    results = make_results()
    text = section_text(benchmark_tables.contrasts_section(parsed(results)))
    same, best = text.split("Best of all")
    assert "Photographs, in the same network:\n" in same
    for part, task, pairs, over, verdict in (
        (same, "LOLv1", "16", "PQDynamicISP, pairs alone", "gain"),
        (same, "LOLv1", "50", "PQDynamicISP, pairs alone", "gain"),
        (same, "Underwater", "50", "PQDynamicISP, pairs alone", "loss"),
        (best, "Underwater", "50", "supervised, jitter (ours)", "loss"),
    ):
        line = line_of(part, task, f" {pairs} |")
        assert line[1] == pairs
        assert (line[3], *line[5:]) == (over, "8", "3", verdict)
    difference = mean_psnr(results, task="lolv1", pairs=50, system="semi") - mean_psnr(
        results, task="lolv1", pairs=50, system="alone"
    )
    line = line_of(same, "LOLv1", " 50 |")
    assert line[2] == f"{mean_psnr(results, task='lolv1', pairs=50, system='semi'):.2f}"
    numbers = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", line[4].replace("\\", ""))
    assert numbers
    assert numbers[1] == f"{difference:+.2f}"
    assert 0 < float(numbers[2]) < difference < float(numbers[3])


@pytest.mark.parametrize(("better", "verdict"), [(0.03, "open"), (0.2, "gain"), (-0.03, "open"), (-0.2, "loss")])
def test_a_gain_needs_its_whole_interval(better, verdict):
    results = make_results([("lolv1", 16)])
    for cell in cells_of(results, system="semi"):
        (base,) = cells_of(results, system="alone", seed=cell["seed"])
        cell["test"]["psnr"] = [p + better + 0.1 * (-1) ** k for k, p in enumerate(base["test"]["psnr"])]
    assert line_of(benchmark_tables.contrast_tables(parsed(results))[0].text(), "LOLv1")[-1] == verdict


def test_a_system_that_diverged_does_not_vanish():
    results = make_results([("lolv1", 16)])
    cells_of(results, system="semi", seed=0)[0]["test"]["psnr"][3] = None
    cells_of(results, system="paper", seed=0)[0]["test"]["psnr"][3] = "inf"
    headline, table = benchmark_tables.terminal_table(parsed(results)).split("LOLv1, 16 pairs\n")
    line = line_of(headline.split("Best of all")[0], " 16 ")
    assert line[1:] == ["16", "nan", "PQDynamicISP, pairs alone", "–", "–", "–", "–"]
    assert line_of(table, "PQDynamicISP, semi")[1:3] == ["nan", "–"]
    assert line_of(table, "  semi-supervised")[1:3] == ["inf", "–"]


@pytest.mark.parametrize(
    ("seeds", "words"),
    [(3, "over images and repetitions together."), (1, "over the images alone: with one repetition")],
)
def test_text_says_what_the_interval_is(seeds, words):
    results = parsed(make_results(seeds=seeds))
    headline = section_text(benchmark_tables.contrasts_section(results))
    for text in (headline, benchmark_tables.terminal_table(results)):
        assert f"95 % intervals, by a bootstrap {words}" in text
        assert "±" not in text
    text = section_text(benchmark_tables.results_section(results, "lsui", 50))
    assert "Gain: over supervised, jitter (ours), the strongest system" in text


def test_choices_are_counted():
    results = make_results()
    chose = "auto (ours), by cross-validation: semi 67%, f_ISP 33%."
    assert benchmark_tables.choices(parsed(results), "lolv1", 50) == [chose]
    assert section_text(benchmark_tables.results_section(parsed(results), "lolv1", 50)).count(chose) == 1
    assert benchmark_tables.terminal_table(parsed(results)).count(chose) == 3


def test_terminal_table_fits_a_terminal():
    text = benchmark_tables.terminal_table(parsed(make_results()))
    assert max(map(len, text.splitlines())) <= 132
    assert text.index("Photographs, in the same network") < text.index("LOLv1, 16 pairs\n") < text.index("LSUI), 50")
    assert sum("reference" in line for line in text.splitlines()) == 3


def test_the_papers_figures_stand_beside_those_of_this_run():
    results = make_results()
    text = section_text(benchmark_tables.paper_section(parsed(results)))
    assert line_of(text, "Retinexformer") == ["Retinexformer", "485", "23.89", "23.78", "-0.11"]
    assert "**Paper, LoLv1 (Table 4, 9)**" in text
    assert "For orientation only" in text
    assert "NAFNet" not in text
    assert "Underwater" not in text
    assert "no filter" not in text
    row = gain_row(results, "semi")
    line = line_of(text, "PQDynamicISP, semi", " 50 ")
    assert line[2:4] == [f"{gain_row(results, 'alone').psnr:.2f}", f"{row.psnr:.2f}"]
    assert line[4].replace("\\", "") == str(row.gain)
    assert benchmark_tables.paper_section(parsed(results | {"tasks": dict.fromkeys(TASKS, TASKS["lsui"])})) is None


def test_the_papers_gains_are_those_of_its_tables():
    by_key = {(row.task, row.network, row.pairs): row for row in PAPER_RESULTS}
    assert len(by_key) == len(PAPER_RESULTS) == 3 * 9 + 3 * 2
    assert {row.task for row in PAPER_RESULTS} == set(PAPER_TASKS)
    assert by_key["FiveK tone mapping", "SepLUT", 100].gain == pytest.approx(2.44)
    assert by_key["LoLv1", "Retinexformer", 485].gain == pytest.approx(-0.11)


# --- files ------------------------------------------------------------------------------------------------------------


def make_pictures(name: str = "a0001") -> Pictures:
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Pictures("Test pictures", ("input", "semi"), [(name, [(image, "20.12 dB"), (None, "no picture of it")])])


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


PLOTS = {"plots/contrasts.png", "plots/gain_by_pairs_lolv1.png"} | {
    f"plots/kept_{setting}_{group}.png"
    for setting in ("lolv1_16", "lolv1_50", "lsui_50")
    for group in ("method", "chosen", "tried", "ablation", "source")
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A report with everything in it."""
    out = tmp_path_factory.mktemp("whole")
    results = make_results()
    results["failed"] = [{"job": "16/auto/seed 9", "error": "CUDA out of memory"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return out, write_report(out, parsed(results), [make_pictures()])


@pytest.mark.slow
def test_the_whole_report(whole):
    out, paths = whole
    assert set(paths) == PLOTS | {"report.md", "report.html", "pictures.jpg"}
    for name, path in paths.items():
        assert path == out / name
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                assert image.width > 500
                assert np.asarray(image.convert("L")).std() > 5
    markdown = paths["report.md"].read_text()
    linked = re.findall(r"!\[[^\n]*\]\(([^)]*)\)", markdown)
    assert set(linked) == set(paths) - {"report.md", "report.html"}
    page = Page(paths["report.html"].read_text())
    assert page.open == []
    assert page.tags.count("figure") == page.tags.count("img") == len(linked)
    for expected in ("Made up", "basicsr benchmark -opt x.yml", "of the sea", "2026-11-22", "2:30:00", "out of memory"):
        assert expected in page.text
        assert expected in markdown
    for expected in ("is upi", "cores 2", "95 % intervals", "by cross-validation: semi 67%"):
        assert expected in page.text
    titles = re.findall(r"(?m)^## (.*)$", markdown)
    assert titles[:5] == ["Failed", "Contrasts", "LOLv1, 16 pairs", "LOLv1, 50 pairs", "Underwater (LSUI), 50 pairs"]


@pytest.mark.slow
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
    assert len(images) == len(PLOTS) + 1
    for address in images:
        with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as image:
            image.load()
    assert "prefers-color-scheme: dark" in text


HOSTILE = '<b>bold</b> "quoted" & $x$ | pipe *star* [link](x) <script>alert(1)</script>'


def test_every_text_is_escaped(tmp_path):
    results = make_results([("lolv1", 16), ("lolv1", 50)], seeds=1)
    for key in ("title", "command", "version", "date"):
        results[key] = f"{key} {HOSTILE}"
    results["machine"] = results["options"] = {HOSTILE: HOSTILE}
    results["tasks"] = {"lolv1": {"title": HOSTILE, "description": HOSTILE, "paper_task": "LoLv1"}}
    for key, system in results["systems"].items():
        system.update(label=f"{key} {HOSTILE}", description=HOSTILE)
    for contrast in results["contrasts"]:
        contrast["title"] += HOSTILE
    for cell in results["cells"]:
        cell["chosen"] = {HOSTILE: 1.0}
    results["failed"] = [{"job": HOSTILE, "error": HOSTILE}]
    paths = write_report(tmp_path, parsed(results), [replace(make_pictures(HOSTILE), title=HOSTILE)])
    page = Page(paths["report.html"].read_text())
    assert not {"b", "script"} & set(page.tags)
    assert page.open == []
    assert page.text.count(HOSTILE) > 6 * len(SYSTEMS)
    markdown = paths["report.md"].read_text()
    assert not re.search(r"(?<!\\)<", markdown)
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) - 1 for line in tables} == {2, 5, 8}


@pytest.mark.filterwarnings("error")
def test_what_is_not_there_is_left_out(tmp_path):
    results = make_results([("lsui", 50)], seeds=1)
    results["contrasts"] = []
    results["cells"] = [cell for cell in results["cells"] if results["systems"][cell["system"]]["photographs"]]
    for cell in results["cells"]:
        cell.update(kept_ratio=[], chosen=None)
    paths = write_report(tmp_path, parsed(results))
    assert set(paths) == {"report.md", "report.html"}
    absent = [
        "The filter",
        "by cross-validation:",
        "Contrasts",
        "Pictures",
        "The paper",
        "Gain and number of pairs",
        "Failed",
        "[+",
    ]
    for text in (paths["report.md"].read_text(), Page(paths["report.html"].read_text()).text):
        assert "50 pairs" in text
        assert "Gain: over nothing" in text
        assert not [part for part in absent if part in text]


@pytest.mark.filterwarnings("error")
def test_results_without_anything(tmp_path):
    results = parsed(make_results([]) | {"systems": {}})
    page = Page(write_report(tmp_path, results)["report.html"].read_text())
    assert "No system was run to its end" in page.text
    assert benchmark_tables.terminal_table(results) == "Made up: no system was run to its end.\n"


@pytest.mark.filterwarnings("error")
def test_odd_curves_are_drawn(tmp_path):
    results = make_results([("lolv1", 16)], seeds=2)
    for k, cell in enumerate(results["cells"]):
        cell["kept_ratio"] = [[10 * k, 0.5], [10 * k + 5, None]]  # no two repetitions have a common iteration
    assert write_report(tmp_path, parsed(results))["plots/kept_lolv1_16_method.png"].is_file()


@pytest.mark.parametrize(
    ("settings", "rows", "colours"),
    [
        ([("lolv1", 16)], ["Photographs, in the same network", "Best of all"], ["LOLv1, 16 pairs"]),
        (
            [("lolv1", 16), ("lsui", 50)],
            ["LOLv1, 16 pairs", "Underwater (LSUI), 50 pairs"],
            ["Photographs, in the same network", "Best of all"],
        ),
    ],
)
def test_the_more_numerous_of_contrasts_and_tasks_are_rows(tmp_path, monkeypatch, settings, rows, colours):
    drawn = []
    monkeypatch.setattr(benchmark_plots, "_save", lambda figure, ax, *_: drawn.append(ax))
    benchmark_plots.contrasts_plot(parsed(make_results(settings)), tmp_path)
    labels = [" ".join(label.get_text().split()) for label in drawn[0].get_yticklabels()]
    assert labels == rows
    bottom, top = drawn[0].get_ylim()
    for container, colour in zip(drawn[0].containers, colours, strict=True):
        assert container.get_label() == colour
        places = container.lines[0].get_ydata(orig=False)
        assert np.round(places).tolist() == list(range(len(rows)))
        assert all(top < place < bottom for place in places)


def test_contrasts_in_a_sentence():
    one, several = (parsed(make_results(s)) for s in ([("lsui", 50)], [("lolv1", 16), ("lolv1", 50)]))
    row = contrasts(one)[0]
    interval = str(row.difference).replace("[", r"\[").replace("]", r"\]")
    assert (
        benchmark_tables.contrast_sentences(one)[0] == f"**{row.contrast.title}:** {interval} dB, a loss beyond doubt."
    )
    assert " dB; of 2 cases 2 a gain beyond doubt, none a loss." in benchmark_tables.contrast_sentences(several)[0]


@pytest.mark.slow
def test_many_pictures_keep_the_page_small(tmp_path):
    noise = np.random.default_rng(2).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    pictures = Pictures("noise", tuple("abcde"), [(f"a{k}", [(noise, "")] * 5) for k in range(12)])
    path = write_report(tmp_path, parsed(make_results([("lsui", 50)])), [pictures])["report.html"]
    assert path.stat().st_size < 6_000_000
