"""What a benchmark found: ``report.md`` and a self-contained ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from semiisp_plugin.report.benchmark_plots import contrasts_plot, gain_by_pairs_plot, kept_plot
from semiisp_plugin.report.benchmark_results import GROUPS, Results
from semiisp_plugin.report.benchmark_tables import (
    contrasts_section,
    interval_text,
    paper_section,
    results_section,
    sources_section,
    systems_section,
    table_section,
)
from semiisp_plugin.report.page import Page, Pictures, Section


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
    settings = results.settings()
    headline = contrasts_section(results)
    if headline:
        headline.plots = [plot for plot in [contrasts_plot(results, out)] if plot]
    by_pairs = [plot for task in results.tasks if (plot := gain_by_pairs_plot(results, task, "method", out))]
    kept = [plot for one in settings for group in GROUPS if (plot := kept_plot(results, *one, group, out))]
    parts = [
        headline,
        *(results_section(results, *one) for one in settings),
        None if settings else Section("Results", text=["No system was run to its end."]),
        sources_section(results),
        Section("Gain and number of pairs", plots=by_pairs),
        table_section(results) or paper_section(results),
        Section("The filter", plots=kept),
        systems_section(results) if results.systems else None,
    ]
    return [part for part in parts if part and (part.text or part.tables or part.plots)]


def _facts(results: Results) -> list[tuple[str, str]]:
    """What was run, on what, with what."""
    machine = [f"{key} {value}" for key, value in results.machine.items() if value not in (None, "")]
    facts = [
        *((task.title, task.description) for task in results.tasks.values()),
        ("Gains", interval_text(results) if results.cells else ""),
        ("Command", results.command),
        ("Version", results.version),
        ("Date", results.date),
        ("Machine", ", ".join(machine)),
        ("Computing time", tqdm.format_interval(results.seconds)),
    ]
    return [(key, value) for key, value in facts if value]
