"""A benchmark's results as tables, with the text around them: data first, then Markdown or text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semiisp_plugin.report.benchmark_results import GROUPS, Results, compare_systems
from semiisp_plugin.report.page import Section, counted
from semiisp_plugin.report.paper_figures import PAPER_TASKS, paper_results
from semiisp_plugin.report.tables import Table, format_number, mean_std


def terminal_table(results: Results) -> str:
    """The main table of every number of pairs for a terminal."""
    if not results.cells:
        return f"{results.title}: no system was run to its end.\n"
    sections = (results_section(results, pairs) for pairs in results.pairs())
    return "\n".join(f"{results.title}: {section.title}\n\n{section.tables[0].text()}" for section in sections)


# --- the sections and their tables ------------------------------------------------------------------------------------


def results_section(results: Results, pairs: int) -> Section:
    """PSNR, gain and SSIM of every system with one number of pairs."""
    n = len({cell.repetition for cell in results.cells if cell.pairs == pairs})
    shown = "mean ± standard deviation over " if n > 1 else ""
    reference = results.best_supervised.get(pairs)
    text = [
        f"Gain: PSNR minus that of {results.label(reference)}, the baseline best on the validation pairs, at the end "
        "of its training, on the test images of the same repetition. n: repetitions that both have."
        if reference
        else "No gains: `best_supervised` names no baseline for this number of pairs."
    ]
    text.append(
        "A repetition is one training run with its own seed; with folds, runs share test images or training pairs. So "
        "repetitions are not independent: the standard error (standard deviation / √n) speaks of these runs, not of "
        "new photographs."
    )
    if any(cell.early_stopped for cell in results.cells if cell.pairs == pairs):
        text.append("Stopped early: the same run at the iteration that was best on the validation pairs.")
    title = f"{counted(pairs, 'pair')}, {shown}{describe_repetitions(results, pairs)}"
    return Section(title, counted(pairs, "pair"), text, [_main_table(results, pairs)])


def _main_table(results: Results, pairs: int) -> Table:
    rows: list[tuple[str, ...] | str] = []
    heading = None
    for row in compare_systems(results, pairs):
        if row.group != heading:
            heading = row.group
            rows.append(GROUPS[row.group])
        gain = "reference" if row.reference else mean_std(row.gain, sign="+")
        error = format_number(row.gain.standard_error)
        rows.append((row.label, mean_std(row.psnr), gain, error, str(len(row.psnr)), mean_std(row.ssim, 4)))
    columns = ("system", "PSNR [dB]", "gain [dB]", "std. error", "n", "SSIM")
    return Table(columns, rows, (1, 2, 3, 4, 5))


def paper_section(results: Results) -> Section | None:
    """The paper's figures of its closest task beside these; None where it has no such task."""
    title = "The paper's figures beside these"
    if results.paper_task not in PAPER_TASKS:
        return None
    rows: list[tuple[str, ...] | str] = [f"Paper, {results.paper_task}"]
    for paper in paper_results(results.paper_task, results.target):
        figures = (paper.supervised_psnr, paper.semi_psnr)
        source = (f"Table {paper.table}", paper.network, str(paper.pairs))
        rows.append((*source, *map(format_number, figures), f"{paper.gain:+.2f}"))
    rows.append("This benchmark")
    for pairs in results.pairs():
        base = next((row.psnr for row in compare_systems(results, pairs) if row.reference), ())
        for row in compare_systems(results, pairs):
            if row.group == "method":
                shown = (mean_std(base), mean_std(row.psnr), mean_std(row.gain, sign="+"))
                rows.append((row.label, results.target, str(pairs), *shown))
    columns = ("source", "network", "pairs", "supervised [dB]", "+ semi-supervised [dB]", "gain [dB]")
    text = [
        "For orientation only. Photographs, unlabelled photographs, image sizes, numbers of pairs and the networks "
        "themselves (or their sizes) differ, so neither the PSNR nor the gains are expected to agree. The paper gives "
        "no spread."
    ]
    return Section(title, text=text, tables=[Table(columns, rows, (2, 3, 4, 5))])


def search_section(results: Results) -> Section:
    """What was tried, with what was chosen of it."""
    rows: list[tuple[str, ...] | str] = []
    heading = None
    for item in sorted(results.search, key=lambda item: item.pairs):
        if item.pairs != heading:
            heading = item.pairs
            rows.append(counted(heading, "pair"))
        psnr = [[value for value in values if value is not None] for values in (item.validation_psnr, item.test_psnr)]
        chosen = "yes" if item.chosen else ""
        rows.append((results.label(item.system), _settings(item.candidate), *map(mean_std, psnr), chosen))
    columns = ("system", "settings", "validation PSNR [dB]", "test PSNR [dB]", "chosen")
    table = Table(columns, rows, (2, 3), "All candidates; their test PSNR was not looked at to choose")
    return Section("Chosen settings", text=[results.selection] if rows else [], tables=[table])


def _settings(values: Mapping[str, Any]) -> str:
    texts = ((key, f"{value:g}" if isinstance(value, float) else value) for key, value in values.items())
    return ", ".join(f"{key} {text}" for key, text in texts)


def systems_section(results: Results) -> Section:
    """What every system is."""
    rows: list[tuple[str, ...] | str] = []
    for group, heading in GROUPS.items():
        systems = [(results.label(key), results.systems[key].description) for key in results.in_group(group)]
        rows += [heading, *systems] if systems else []
    return Section("The systems", tables=[Table(("system", "what it is"), rows)])


def describe_repetitions(results: Results, pairs: int) -> str:
    """For example ``6 repetitions (3 seeds × 2 folds)``."""
    cells = [cell for cell in results.cells if cell.pairs == pairs]
    n = len({cell.repetition for cell in cells})
    seeds = len({cell.seed for cell in cells})
    folds = len({cell.fold for cell in cells if cell.fold is not None})
    product = f" ({counted(seeds, 'seed')} × {counted(folds, 'fold')})" if n > 1 and seeds * folds == n else ""
    return f"{counted(n, 'repetition')}{product}"
