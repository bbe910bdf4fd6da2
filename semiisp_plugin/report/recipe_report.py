"""What a recipe found: a table of its systems with the paper's figures beside them, as text, Markdown, and a page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair, select_pairs
from semiisp_plugin.data.subsets import read_names
from semiisp_plugin.io.image_io import read_image, to_bit_depth
from semiisp_plugin.report.page import Page, Pictures, Section, in_words
from semiisp_plugin.report.paper_figures import GT_MEAN, PAPER_RESULTS
from semiisp_plugin.report.tables import Table, format_number


def with_results(content: dict[str, Any]) -> dict[str, Any]:
    """Add the metrics of all systems, and the paper's figures, to what is known of a recipe.

    Args:
        content: ``metrics`` (sections of the test's ``val:metrics``), ``systems`` with ``tables``
            (``metrics_<set>.csv`` by data set), ``paper`` (``task``, ``network``, ``pairs``) or None.

    Returns:
        A copy; each system has ``means`` and ``images_of``, by data set; ``paper_rows`` are rows of the paper.
    """
    result = json.loads(json.dumps(content))
    for system in result["systems"]:
        system["per_image"] = {name: _read_table(Path(file)) for name, file in system["tables"].items()}
        system["means"] = {name: _means(rows) for name, rows in system["per_image"].items()}
    result["paper_rows"] = _paper_rows(result.get("paper"))
    return dict(result)


def _read_table(file: Path) -> dict[str, dict[str, float]]:
    """Metrics by image."""
    with open(file, newline="", encoding="utf-8") as lines:
        return {row.pop("image"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)}


def _means(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = next(iter(rows.values()), {})
    return {name: sum(row[name] for row in rows.values()) / len(rows) for name in names}


def _paper_rows(paper: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not paper:
        return []
    wanted = (paper["task"], paper["network"], paper["pairs"])
    row = next((row for row in PAPER_RESULTS if (row.task, row.network, row.pairs) == wanted), None)
    if row is None:
        return []
    first: dict[str, float] = {"psnr": row.supervised_psnr, "ssim": row.supervised_ssim}
    second: dict[str, float] = {"psnr": row.semi_psnr, "ssim": row.semi_ssim}
    matched = GT_MEAN.get((row.task, row.network))
    if matched:
        for values, (psnr, ssim) in zip((first, second), matched, strict=True):
            values.update(psnr_gt_mean=psnr, ssim_gt_mean=ssim)
    several = "," in row.table
    table = f"the paper, Table{'s' * several} {row.table.replace(', ', ' and ')}"
    return [
        {"label": f"{table}: supervised", "means": first},
        {"label": f"{table}: with semi-supervised learning", "means": second},
    ]


def _decimals(metric: str) -> int:
    return 4 if "ssim" in metric or "lpips" in metric else 2


def results_table(content: Mapping[str, Any], dataset: str) -> Table:
    """Systems by metrics, gain over the supervised system in the first metric, and the paper's rows."""
    metrics = list(content["metrics"])
    baseline = next((s["means"][dataset] for s in content["systems"] if s["key"] == "supervised"), None)
    paper = next((r["means"] for r in content["paper_rows"]), None)
    first = metrics[0] if metrics else None
    rows: list[tuple[str, ...] | str] = []

    def add(label: str, means: Mapping[str, float], reference: Mapping[str, float] | None) -> None:
        cells = [format_number(means.get(metric), _decimals(metric)) for metric in metrics]
        gain = ""
        if first and reference is not None and means is not reference and first in means:
            gain = f"{means[first] - reference[first]:+.{_decimals(first)}f}"
        rows.append((label, *cells, gain))

    for system in content["systems"]:
        add(system["label"], system["means"][dataset], baseline)
    for row in content["paper_rows"]:
        add(row["label"], row["means"], paper)
    heads = [f"{name} {'↓' if content['metrics'][name].get('better') == 'lower' else '↑'}" for name in metrics]
    columns = ("system", *heads, f"gain in {first}" if first else "gain")
    return Table(columns, rows, numeric=tuple(range(1, len(columns))), title=dataset)


def _sections(content: Mapping[str, Any]) -> list[Section]:
    text = [
        f"Means over the test images. Gain: {next(iter(content['metrics']), '')} minus that of the supervised system."
    ]
    if content["paper_rows"]:
        text.append(
            "The paper's figures are for orientation: which pairs it trained on, its network's size and its "
            "pseudo-data's details are not all known."
        )
    results = Section("Results", text=text, tables=[results_table(content, name) for name in content["datasets"]])
    rows: list[tuple[str, ...] | str] = []
    for phase in content["phases"]:
        iterations = "" if phase["iterations"] is None else f"{phase['iterations']:,d}"
        rows.append((phase["phase"], phase["run"], iterations, in_words(phase["seconds"])))
    done = Section("Phases", tables=[Table(("phase", "run", "iterations", "time"), rows, numeric=(2, 3))])
    done.text.append("Time: of this recipe's processes.")
    return [results, done]


def tables_text(content: Mapping[str, Any]) -> str:
    """The tables of results for a terminal."""
    tables = (f"{name}:\n{results_table(content, name).text()}" for name in content["datasets"])
    return "\n".join([content["title"], *tables])


def write_report(out: Path, content: Mapping[str, Any], *, pictures: int = 4) -> list[Path]:
    """Write ``report.md``, ``report.html`` (self-contained) and ``pictures.png``; earlier ones are replaced.

    Args:
        out: Folder, which is there.
        content: From `with_results`.
        pictures: Test images that are shown: those that gain most and least, and some between.

    Returns:
        The files.
    """
    grid = _pictures(content, pictures)
    options = {phase["phase"]: phase["options"] for phase in content["phases"]}
    shown = [grid] if grid.rows else []
    page = Page(content["title"], _facts(content), _sections(content), shown, options=options)
    return list(page.write(out).values())


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("Recipe", content["name"]), ("Version", content["version"]), ("Date", content["date"])]
    if content.get("denoiser"):
        facts.append(("Inputs of f_ISP", f"denoised by {content['denoiser']}"))
    return facts


# --- pictures --------------------------------------------------------------------------------------------------------

_PICTURES = (
    "Of the first data set: the test images that gain least and most over the supervised system, and some between. "
    "Inputs are shown as they are."
)


def _pictures(content: Mapping[str, Any], count: int) -> Pictures:
    """Rows of pictures: the input, the systems' results and the target of a test image."""
    name, settings = next(iter(content["datasets"].items()))
    pairs = {Path(pair.input).stem: pair for pair in _pairs(settings)}
    rows = []
    metric = next(iter(content["metrics"]), None)
    for image in _chosen(content, name, count, pairs):
        target = read_pair(pairs[image])
        row: list[tuple[np.ndarray | None, str]] = [(to_bit_depth(target[0], "8"), "")]
        for system in content["systems"]:
            file = Path(system["images"]) / name / f"{image}_{system['suffix']}.png"
            value = system["per_image"][name].get(image, {}).get(metric) if metric else None
            note = "" if value is None else f"{metric} {value:.{_decimals(str(metric))}f}"
            row.append((to_bit_depth(read_image(file), "8") if file.is_file() else None, note))
        rows.append((image, [*row, (to_bit_depth(target[1], "8"), "")]))
    titles = ("input", *(system["label"] for system in content["systems"]), "ground truth")
    return Pictures(_PICTURES, titles, rows)


def _pairs(settings: Mapping[str, Any]) -> list[Pair]:
    pairs = match_pairs(settings["dataroot_lq"], settings["dataroot_gt"])
    names = settings.get("meta_info_file")
    return select_pairs(pairs, read_names(names), source=f"meta_info_file '{names}'") if names else pairs


def _chosen(content: Mapping[str, Any], dataset: str, count: int, pairs: Mapping[str, Pair]) -> list[str]:
    """Images at even ranks of the gain, or of the order of their names without one."""
    systems = {system["key"]: system["per_image"][dataset] for system in content["systems"]}
    metric = next(iter(content["metrics"]), None)
    last = next((systems[key] for key in ("finetune", "semi") if key in systems), None)
    names = sorted(name for name in next(iter(systems.values())) if name in pairs)
    base = systems.get("supervised")
    if base is not None and last is not None and metric is not None:
        names = [n for n in names if n in base and n in last]
        gains = {n: last[n][metric] - base[n][metric] for n in names}
        names.sort(key=lambda n: gains[n] if math.isfinite(gains[n]) else 0.0)
    count = min(count, len(names))
    ranks = [round(i * (len(names) - 1) / max(1, count - 1)) for i in range(count)]
    return [names[i] for i in dict.fromkeys(ranks)]
