"""What a benchmark found: ``report.md`` and a self-contained ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from semiisp_plugin.report.benchmark_plots import gain_by_pairs_plot, kept_plot
from semiisp_plugin.report.benchmark_results import GROUPS, MAIN_GROUPS, Results
from semiisp_plugin.report.benchmark_tables import (
    describe_repetitions,
    paper_section,
    results_section,
    search_section,
    systems_section,
)
from semiisp_plugin.report.page import Page, Pictures, Section, counted


def write_report(out: Path, results: Results, pictures: Sequence[Pictures] = ()) -> dict[str, Path]:
    """Write ``report.md``, ``report.html``, ``pictures*.jpg`` and ``plots/*.png``; earlier ones are replaced.

    Args:
        out: The folder of a benchmark.
        results: What it found.
        pictures: Test pictures.

    Returns:
        The files written, by their name relative to ``out``.
    """
    sections = _sections(results, out)
    failed = [(item.job, item.error) for item in results.failed]
    page = Page(results.title, _facts(results), sections, pictures, failed, results.options)
    plots = {plot.file: out / plot.file for section in sections for plot in section.plots}
    return {**page.write(out), **plots}


def _sections(results: Results, out: Path) -> list[Section]:
    """Every part that has something to show, in the order of the page."""
    every = results.pairs()
    parts = [results_section(results, pairs) for pairs in every]
    paper = paper_section(results) or Section("Gain and number of pairs")
    paper.plots = [plot for group in MAIN_GROUPS if (plot := gain_by_pairs_plot(results, group, out))]
    kept = [plot for pairs in every for group in GROUPS if (plot := kept_plot(results, pairs, group, out))]
    parts = parts or [Section("Results", text=["No system was run to its end."])]
    parts += [paper, Section("The filter", plots=kept), search_section(results), systems_section(results)]
    for part in parts:
        part.tables = [table for table in part.tables if table.rows]
    return [part for part in parts if part.text or part.tables or part.plots]


def _facts(results: Results) -> list[tuple[str, str]]:
    """What was run, on what, with what."""
    machine = [f"{key} {value}" for key, value in results.machine.items() if value not in (None, "")]
    numbers = (f"{counted(pairs, 'pair')} with {describe_repetitions(results, pairs)}" for pairs in results.pairs())
    times = map(tqdm.format_interval, (results.seconds, results.seconds_without_search))
    facts = {
        "Data": results.task,
        "Network": results.target,
        "Runs": "; ".join(numbers),
        "Selection": results.selection,
        "Command": results.command,
        "Version": results.version,
        "Date": results.date,
        "Machine": ", ".join(machine),
        "Computing time": "{}, without the search {}".format(*times),
    }
    return [(key, value) for key, value in facts.items() if value]
