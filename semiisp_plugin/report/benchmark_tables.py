"""A benchmark's results as tables, with the text around them: data first, then Markdown or text for a terminal."""

from __future__ import annotations

from collections import Counter

from semiisp_plugin.report.benchmark_results import DRAWS, GROUPS, Results, compare_systems, contrasts
from semiisp_plugin.report.page import Section, counted
from semiisp_plugin.report.paired import Interval
from semiisp_plugin.report.paper_figures import PAPER_RESULTS, PAPER_TABLES
from semiisp_plugin.report.tables import MISSING, Table, escape_markdown, format_number, mean_std


def terminal_table(results: Results) -> str:
    """The contrasts, every system on each task with each number of pairs, and the paper's table, for a terminal."""
    if not results.cells:
        return f"{results.title}: no system was run to its end.\n"
    parts = [f"{results.title}\n"]
    parts += [f"{table.title}\n\n{table.text()}" for table in contrast_tables(results)]
    for task, pairs in results.settings():
        section = results_section(results, task, pairs)
        chosen = "".join(f"{line}\n" for line in choices(results, task, pairs))
        parts.append(f"{section.title}\n\n{section.tables[0].text()}{chosen}")
    parts.append(f"{interval_text(results)}\n")
    parts += [f"{table.title}\n\n{table.text()}" for table in printed_tables(results)]
    return "\n".join(parts)


def interval_text(results: Results) -> str:
    """What stands in the brackets."""
    of = "a bootstrap over images and repetitions together"
    if len({cell.seed for cell in results.cells}) < 2:
        of = "a bootstrap over the images alone: with one repetition nothing is known of another"
    return f"Differences are image by image. In brackets: 95 % intervals, by {of}."


def show_difference(difference: Interval | None) -> str:
    """In dB, with its interval."""
    return str(difference) if difference else MISSING


# --- the sections and their tables ------------------------------------------------------------------------------------


def contrasts_section(results: Results) -> Section | None:
    """The headline; None where no contrast was run."""
    text = [
        "Fixed before the run, over the strongest of the systems that a contrast names, by the test itself, which "
        "favours it. A gain has its whole interval above 0, a loss below it; what is open can be either.",
        interval_text(results),
    ]
    tables = contrast_tables(results)
    return Section("Contrasts", text=text, tables=tables) if tables else None


def contrast_tables(results: Results) -> list[Table]:
    """A table a contrast, of its title, with a row a task and number of pairs."""
    columns = ("task", "pairs", "PSNR [dB]", "over", "difference [dB]", "images", "seeds", "verdict")
    found = contrasts(results)
    tables = []
    for contrast in results.contrasts:
        rows = []
        for row in (row for row in found if row.contrast is contrast):
            what = (results.tasks[row.task].title, str(row.pairs), f"{row.psnr:.2f}", results.label(row.over))
            sizes = (str(row.difference.images), str(row.difference.seeds)) if row.difference else (MISSING, MISSING)
            rows.append((*what, show_difference(row.difference), *sizes, _verdict(row.difference)))
        if rows:
            tables.append(Table(columns, rows, (1, 2, 4, 5, 6), contrast.title))
    return tables


def contrast_sentences(results: Results) -> list[str]:
    """What each contrast found over all tasks and numbers of pairs, in a sentence of Markdown."""
    found = contrasts(results)
    sentences = []
    for contrast in results.contrasts:
        differences = [row.difference for row in found if row.contrast is contrast and row.difference]
        if not differences:
            continue
        verdicts = [_verdict(difference) for difference in differences]
        if len(differences) == 1:
            verdict = "open" if verdicts == ["open"] else f"a {verdicts[0]} beyond doubt"
            text = f"{escape_markdown(str(differences[0]))} dB, {verdict}."
        else:
            means = [f"{mean:+.2f}" for mean in (min(d.mean for d in differences), max(d.mean for d in differences))]
            text = (
                f"{' to '.join(dict.fromkeys(means))} dB; of {len(differences)} cases "
                f"{verdicts.count('gain') or 'none'} a gain beyond doubt, {verdicts.count('loss') or 'none'} a loss."
            )
        sentences.append(f"**{escape_markdown(contrast.title)}:** {text}")
    return sentences


def _verdict(difference: Interval | None) -> str:
    if not difference:
        return MISSING
    return "gain" if difference.above_zero else "loss" if difference.high < 0 else "open"


def results_section(results: Results, task: str, pairs: int) -> Section:
    """PSNR, gain and SSIM of every system on one task with one number of pairs."""
    rows: list[tuple[str, ...] | str] = []
    heading, over = None, "nothing, as no system that is trained on the pairs alone was run"
    for row in compare_systems(results, task, pairs):
        group, label = results.systems[row.system].group, results.label(row.system)
        if group != heading:
            heading = group
            rows.append(GROUPS[group])
        if row.reference:
            over = f"{label}, the strongest system that is trained on the pairs alone, on what both were tested on"
        gain = "reference" if row.reference else show_difference(row.gain)
        shared = f"{row.gain.seeds} of {row.seeds}" if row.gain and row.gain.seeds < row.seeds else str(row.seeds)
        rows.append((label, f"{row.psnr:.2f}", gain, f"{row.ssim:.3f}", shared))
    text = [f"Gain: over {over}.", *choices(results, task, pairs)]
    title = f"{results.tasks[task].title}, {counted(pairs, 'pair')}"
    columns = ("system", "PSNR [dB]", "gain [dB]", "SSIM", "repetitions")
    return Section(title, text=text, tables=[Table(columns, rows, (1, 2, 3, 4))])


def sources_section(results: Results) -> Section | None:
    """What makes the pseudo inputs, by itself; None where there is nothing to compare."""
    columns = ("system", "a draw [dB]", f"best of {DRAWS} [dB]", "spread [stops]")
    tables = []
    for task, pairs in results.settings():
        rows: list[tuple[str, ...] | str] = []
        of_setting = [cell for cell in results.sources if (cell.task, cell.pairs) == (task, pairs)]
        for key in results.systems:
            cells = [cell for cell in of_setting if cell.system == key]
            if cells:
                figures = (mean_std([getattr(cell, name) for cell in cells]) for name in ("psnr", "best", "spread"))
                rows.append((_source_name(results, key), *figures))
        if rows:
            real = mean_std(list({cell.seed: cell.real_spread for cell in of_setting}.values()))
            rows.append(("real inputs", MISSING, MISSING, real))
            tables.append(Table(columns, rows, (1, 2, 3), f"{results.tasks[task].title}, {counted(pairs, 'pair')}"))
    text = [
        "Inputs of the test pairs, made of their targets, beside the real ones. PSNR says how near they come, the best "
        "of several draws whether the real one is among what is drawn. Spread: how far exposure and colours vary, as "
        "the standard deviation of each channel's mean over that of the target's. Mean ± standard deviation of the "
        "repetitions."
    ]
    return Section("The sources of pseudo inputs by themselves", text=text, tables=tables) if tables else None


def _source_name(results: Results, key: str) -> str:
    """What a source is called; in the paper's tables systems are called by their network first."""
    label = results.label(key)
    return label.partition(", ")[2] or label if results.options.get("paper_table") else label


def choices(results: Results, task: str, pairs: int) -> list[str]:
    """What cross-validation made of the systems it had: a line for each system that it combines others to."""
    lines = []
    for key in results.systems:
        chosen = [cell.chosen for cell in results.of(task, pairs, key) if cell.chosen is not None]
        if chosen:
            total: Counter[str] = Counter()
            for weights in chosen:
                total.update(weights)
            shares = ", ".join(f"{label} {weight / len(chosen):.0%}" for label, weight in total.most_common())
            lines.append(f"{results.label(key)}, by cross-validation: {shares}.")
    return lines


def paper_section(results: Results) -> Section | None:
    """The paper's figures of each task's closest beside these; None where no task has one."""
    columns = ("network", "pairs", "supervised [dB]", "+ semi-supervised [dB]", "gain [dB]")
    tables = []
    for task, about in results.tasks.items():
        counts = [pairs for key, pairs in results.settings() if key == task]
        papers = [paper for paper in PAPER_RESULTS if paper.task == about.paper_task]
        if not papers or not counts:
            continue
        rows: list[tuple[str, ...] | str] = [f"Paper, {about.paper_task} (Table {papers[0].table})"]
        for paper in papers:
            figures = (f"{paper.supervised_psnr:.2f}", f"{paper.semi_psnr:.2f}", f"{paper.gain:+.2f}")
            rows.append((paper.network, str(paper.pairs), *figures))
        rows.append("This benchmark")
        for pairs in counts:
            compared = compare_systems(results, task, pairs)
            base = next((f"{row.psnr:.2f}" for row in compared if row.reference), MISSING)
            for row in compared:
                if results.systems[row.system].group == "method":
                    shown = (base, f"{row.psnr:.2f}", show_difference(row.gain))
                    rows.append((results.label(row.system), str(pairs), *shown))
        tables.append(Table(columns, rows, (1, 2, 3, 4), about.title))
    text = [
        "For orientation only. Photographs, unlabelled photographs, image sizes, numbers of pairs and the networks "
        "themselves (or their sizes) differ, so neither the PSNR nor the gains are expected to agree. The paper gives "
        "no spread. Supervised, of this benchmark: the strongest system that is trained on the pairs alone."
    ]
    return Section("The paper's figures beside these", text=text, tables=tables) if tables else None


def printed_tables(results: Results) -> list[Table]:
    """The rows of the paper's table that the results stand beside, a table a task; none where none is named."""
    papers = PAPER_TABLES.get(str(results.options.get("paper_table")), ())
    tables = []
    for task in dict.fromkeys(paper.task for paper in papers):
        rows: list[tuple[str, ...] | str] = [
            (p.network, p.how, str(p.pairs), f"{p.psnr:.2f}", format_number(p.ssim, 3))
            for p in papers
            if p.task == task
        ]
        tables.append(Table(("network", "how", "pairs", "PSNR [dB]", "SSIM"), rows, (2, 3, 4), f"Paper, {task}"))
    return tables


def table_section(results: Results) -> Section | None:
    """A table of the paper as it is printed, to compare these results with; None where none is named."""
    tables = printed_tables(results)
    text = [
        "Data, sizes, numbers of pairs, budgets and sizes of networks differ: the figures are not expected to agree, "
        "the order of the rows may be. The paper gives no spread."
    ]
    return Section("The paper's table", text=text, tables=tables) if tables else None


def systems_section(results: Results) -> Section:
    """What every system is."""
    rows: list[tuple[str, ...] | str] = []
    for group, heading in GROUPS.items():
        systems = [(results.label(key), results.systems[key].description) for key in results.in_group(group)]
        rows += [heading, *systems] if systems else []
    return Section("The systems", tables=[Table(("system", "what it is"), rows)])
