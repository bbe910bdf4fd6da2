"""What a recipe found: a table of its systems with the paper's figures beside them, as text, Markdown, and a page."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from semiisp_plugin.data.pairs import match_pairs, read_pair, select_pairs
from semiisp_plugin.data.subsets import read_names
from semiisp_plugin.io.image_io import read_image, to_bit_depth
from semiisp_plugin.report.page import Page, Pictures, Section
from semiisp_plugin.report.paired import paired_difference
from semiisp_plugin.report.paper_figures import GT_MEAN, PAPER_RESULTS
from semiisp_plugin.report.tables import Table, format_number


def read_metrics(files: Mapping[str, Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """What a test measured, by data set: ``per_image``, metrics by image, and ``means``, over the images.

    Args:
        files: ``metrics_<set>.csv`` by data set.
    """
    per_image = {}
    for name, file in files.items():
        with open(file, newline="", encoding="utf-8") as lines:
            rows = {row.pop("image"): row for row in csv.DictReader(lines)}
        per_image[name] = {image: {key: float(value) for key, value in row.items()} for image, row in rows.items()}
    means = {
        name: {
            metric: sum(row[metric] for row in rows.values()) / len(rows) for metric in next(iter(rows.values()), {})
        }
        for name, rows in per_image.items()
    }
    return {"per_image": per_image, "means": means}


def paper_rows(task: str, network: str, pairs: int) -> list[dict[str, Any]]:
    """The paper's figures of this experiment without and with semi-supervised learning; nothing where it has none."""
    for row in PAPER_RESULTS:
        if (row.task, row.network, row.pairs) != (task, network, pairs):
            continue
        several = "," in row.table
        table = f"the paper, Table{'s' * several} {row.table.replace(', ', ' and ')}"
        matched = GT_MEAN.get((task, network), ((None, None), (None, None)))
        figures = {
            "supervised": (row.supervised_psnr, row.supervised_ssim, *matched[0]),
            "with semi-supervised learning": (row.semi_psnr, row.semi_ssim, *matched[1]),
        }
        metrics = ("psnr", "ssim", "psnr_gt_mean", "ssim_gt_mean")
        return [
            {"label": f"{table}: {how}", "means": dict(zip(metrics, values, strict=True))}
            for how, values in figures.items()
        ]
    return []


def _decimals(metric: str) -> int:
    return 4 if "ssim" in metric or "lpips" in metric else 2


def results_table(content: Mapping[str, Any], dataset: str) -> Table:
    """Systems by metrics, gain over the supervised system in the first metric, and the paper's rows."""
    metrics = list(content["metrics"])
    first = next(iter(metrics), "")
    means = {s["label"]: s["means"][dataset] for s in content["systems"]}
    supervised = next((s for s in content["systems"] if s["key"] == "supervised"), None)
    baseline: dict[str, float] = supervised["means"][dataset] if supervised else {}
    intervals = {s["label"]: _interval(s, supervised, dataset, first) for s in content["systems"]}
    of_paper = {row["label"]: row["means"] for row in content["paper_rows"]}
    references = [*[baseline] * len(means), *[next(iter(of_paper.values()), {})] * len(of_paper)]
    rows: list[tuple[str, ...] | str] = []
    for (label, values), reference in zip({**means, **of_paper}.items(), references, strict=True):
        cells = (format_number(values.get(metric), _decimals(metric)) for metric in metrics)
        gain = ""
        if first in values and first in reference and values is not reference:
            gain = intervals.get(label) or f"{values[first] - reference[first]:+.{_decimals(first)}f}"
        rows.append((label, *cells, gain))
    heads = [f"{name} {'↓' if content['metrics'][name].get('better') == 'lower' else '↑'}" for name in metrics]
    columns = ("system", *heads, f"gain in {first}" if first else "gain")
    return Table(columns, rows, numeric=tuple(range(1, len(columns))), title=dataset)


def _interval(system: Mapping[str, Any], over: Mapping[str, Any] | None, dataset: str, metric: str) -> str:
    """The mean gain over the images with its 95 % interval; empty where there is none in dB."""
    both = [one.get("per_image", {}).get(dataset, {}) for one in (system, over or {})]
    values = [{(0, name): row[metric] for name, row in rows.items() if metric in row} for rows in both]
    return str(paired_difference(*values) or "") if _decimals(metric) == 2 else ""


def _sections(content: Mapping[str, Any]) -> list[Section]:
    text = [
        f"Means over the test images. Gain: {next(iter(content['metrics']), '')} minus that of the supervised system, "
        "with its 95 % interval over the images. Another seed would vary, too."
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
        rows.append((phase["phase"], phase["run"], iterations, tqdm.format_interval(phase["seconds"] or 0)))
    done = Section("Phases", tables=[Table(("phase", "run", "iterations", "time"), rows, numeric=(2, 3))])
    done.text.append("Time: of this recipe's processes.")
    return [results, done]


def tables_text(content: Mapping[str, Any]) -> str:
    """The tables of results for a terminal."""
    tables = (f"{name}:\n{results_table(content, name).text()}" for name in content["datasets"])
    return "\n".join([content["title"], *tables])


def write_report(out: Path, content: Mapping[str, Any], *, pictures: int = 4) -> list[Path]:
    """Write ``report.md``, ``report.html`` (self-contained) and ``pictures.jpg``; earlier ones are replaced.

    Args:
        out: Folder, which is there.
        content: Of ``report.json``.
        pictures: Test images that are shown: those that gain most and least, and some between.

    Returns:
        The files.
    """
    grid = _pictures(content, pictures)
    options = {phase["phase"]: phase["options"] for phase in content["phases"]}
    shown = [grid] if grid.rows else []
    facts = [("Recipe", content["name"]), ("Version", content["version"]), ("Date", content["date"])]
    facts += [("Inputs of f_ISP", f"denoised by {content['denoiser']}")] if content["denoiser"] else []
    page = Page(content["title"], facts, _sections(content), shown, options=options)
    return list(page.write(out).values())


# --- pictures --------------------------------------------------------------------------------------------------------

_PICTURES = (
    "Of the first data set: the test images that gain least and most over the supervised system, and some between. "
    "Inputs are shown as they are."
)


def _pictures(content: Mapping[str, Any], count: int) -> Pictures:
    """Rows of pictures: the input, the systems' results and the target of a test image."""
    name, settings = next(iter(content["datasets"].items()))
    pairs = match_pairs(settings["dataroot_lq"], settings["dataroot_gt"])
    names = settings.get("meta_info_file")
    chosen = select_pairs(pairs, read_names(names), source=f"meta_info_file '{names}'") if names else pairs
    by_image = {Path(pair.input).stem: pair for pair in chosen}
    metric = next(iter(content["metrics"]), "")
    values = {
        s["key"]: {image: row.get(metric, 0.0) for image, row in s["per_image"][name].items()}
        for s in content["systems"]
    }
    last, base = values.get("finetune") or values["semi"], values.get("supervised", {})
    images = sorted(last.keys() & by_image, key=lambda image: (last[image] - base.get(image, 0.0), image))
    ranks = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    rows = []
    for image in (images[rank] for rank in ranks):
        target = read_pair(by_image[image])
        row: list[tuple[np.ndarray | None, str]] = [(to_bit_depth(target[0], "8"), "")]
        for system in content["systems"]:
            file = Path(system["images"]) / name / f"{image}_{system['suffix']}.png"
            note = f"{metric} {values[system['key']][image]:.{_decimals(metric)}f}" if metric else ""
            row.append((to_bit_depth(read_image(file), "8") if file.is_file() else None, note))
        rows.append((image, [*row, (to_bit_depth(target[1], "8"), "")]))
    titles = ("input", *(system["label"] for system in content["systems"]), "ground truth")
    return Pictures(_PICTURES, titles, rows)
