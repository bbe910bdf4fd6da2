"""What a benchmark found: ``report.md`` and a self-contained ``report.html``, made of ``results.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from semiisp_plugin.io.image_io import read_image, to_bit_depth
from semiisp_plugin.report.benchmark_plots import (
    gain_by_pairs_plot,
    kept_plot,
)
from semiisp_plugin.report.benchmark_results import MAIN_GROUPS, Results, parse_results
from semiisp_plugin.report.benchmark_tables import (
    describe_repetitions,
    paper_section,
    results_section,
    search_section,
    systems_section,
)
from semiisp_plugin.report.page import Page, Pictures, Plot, Section, counted, format_number, in_words


def write_report(out: str | Path) -> dict[str, Path]:
    """Write ``report.md``, ``report.html`` and ``plots/*.png`` from ``results.json``; earlier ones are replaced.

    Args:
        out: The folder of a benchmark. Its pictures are where ``results.json`` says, relative to it.

    Returns:
        The files written, by their name relative to ``out``.

    Raises:
        FileNotFoundError: There is no ``results.json``.
        ValueError: It does not have the form of a benchmark's; the message names the key.
    """
    out = Path(out)
    file = out / "results.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; run `basicsr benchmark` first, or give the folder that it wrote.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); run `basicsr benchmark` again.") from error
    results = parse_results(content, str(file))
    sections = _sections(results, out)
    page = Page(
        results.title,
        _facts(results),
        sections,
        _pictures(results, out),
        failed=[(item.job, item.error) for item in results.failed],
        options=results.options,
    )
    plots = {plot.file: out / plot.file for section in sections for plot in section.plots}
    return {**page.write(out), **plots}


def _sections(results: Results, out: Path) -> list[Section]:
    """Every part that has something to show, in the order of the page."""
    every = results.pairs()
    parts = [] if every else [Section("Results", text=["No system was run to its end."])]
    parts += [results_section(results, pairs) for pairs in every]
    by_pairs = _present(gain_by_pairs_plot(results, group, out) for group in MAIN_GROUPS)
    paper = paper_section(results) or Section("Gain and number of pairs")
    paper.plots = by_pairs
    kept = _present(kept_plot(results, pairs, group, out) for pairs in every for group in results.groups())
    parts += [
        paper,
        Section("The filter", plots=kept),
        search_section(results),
        systems_section(results),
    ]
    for part in parts:
        part.tables = [table for table in part.tables if table.rows]
    return [part for part in parts if part.text or part.tables or part.plots]


def _present(plots: Iterable[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def _facts(results: Results) -> list[tuple[str, str]]:
    """What was run, on what, with what."""
    machine = [f"{key} {value}" for key, value in results.machine.items() if value not in (None, "")]
    numbers = (f"{counted(pairs, 'pair')} with {describe_repetitions(results, pairs)}" for pairs in results.pairs())
    without = in_words(results.seconds_without_search)
    facts = {
        "Data": results.task,
        "Network": results.target,
        "Runs": "; ".join(numbers),
        "Selection": results.selection,
        "Command": results.command,
        "Version": results.version,
        "Date": results.date,
        "Machine": ", ".join(machine),
        "Computing time": in_words(results.seconds) + (f" ({without} without the search)" if without else ""),
    }
    return [(key, value) for key, value in facts.items() if value]


def _pictures(results: Results, out: Path) -> list[Pictures]:
    """Test pictures, one grid a number of pairs: input, systems, target."""
    grids = []
    labels = {system.label or key: results.label(key) for key, system in results.systems.items()}
    for pairs in sorted({item.pairs for item in results.pictures}):
        items = [item for item in results.pictures if item.pairs == pairs]
        names = dict.fromkeys(_column(name) for item in items for name, _ in item.cells)
        # A column that only a later picture has still stands between the input and the target.
        order = sorted(names, key=lambda name: (name == "target") - (name == "input"))
        rows = []
        for item in items:
            files = {_column(name): (name, out / file) for name, file in item.cells}
            cells = []
            for column in order:
                name, file = files.get(column, (column, Path()))
                note = f"{format_number(item.psnr[name])} dB" if name in item.psnr else name if name != column else ""
                cells.append((to_bit_depth(read_image(file), "8") if file.is_file() else None, note))
            rows.append((item.name, cells))
        title = f"Test pictures, {counted(pairs, 'pair')}; below them their PSNR."
        if any(image is not None for _, cells in rows for image, _ in cells):
            grids.append(Pictures(title, tuple(labels.get(name, name) for name in order), rows))
    return grids


def _column(name: str) -> str:
    """An input that is shown brighter, such as ``input (gamma 2.2)``, stands where the others do."""
    return "input" if name.startswith("input (") else name
