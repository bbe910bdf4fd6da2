"""What a benchmark found: ``report.md`` and a self-contained ``report.html``, made of ``results.json``."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from PIL import Image

from semiisp_plugin.io.image_io import read_image, to_bit_depth
from semiisp_plugin.report.benchmark_plots import (
    Grid,
    PlotFolder,
    curves_plot,
    gain_by_pairs_plot,
    gain_plot,
    kept_plot,
    picture_grids,
    picture_sheets,
)
from semiisp_plugin.report.benchmark_results import (
    GROUPS,
    MAIN_GROUPS,
    PAPERS_SETTING,
    GainRow,
    Results,
    Spread,
    compare_systems,
    gain_rows,
    parse_results,
)
from semiisp_plugin.report.benchmark_tables import (
    Plot,
    Section,
    counted,
    describe_repetitions,
    distribution_table,
    escape_markdown,
    f_isp_table,
    markdown_section,
    markdown_tables,
    paper_section,
    results_section,
    search_section,
    systems_section,
    terminal_table,
)

__all__ = [
    "GROUPS",
    "PAPERS_SETTING",
    "GainRow",
    "Spread",
    "gain_rows",
    "markdown_tables",
    "terminal_table",
    "write_report",
]

_HTML_LIMIT = 5_600_000  # bytes, of the whole page
_CELL_WIDTHS = (400, 320, 240, 160, 100)  # pixels of a picture in the page, the widest that fits
_TEMPLATE = "benchmark.html.j2"


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
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not an object; run `basicsr benchmark` again.")
    results = parse_results(content, str(file))

    folder = PlotFolder(out)
    grids = picture_grids(results, out)
    parts = _sections(results, folder)
    sections = [part for part in parts if isinstance(part, Section)]
    absent = [part for part in parts if isinstance(part, str)]
    if not grids:
        absent.append("Pictures: there are none.")

    markdown = out / "report.md"
    # The sheets of pictures are for Markdown; the page has the pictures themselves, which can be larger.
    sheets = [picture_sheets(grids, folder)] if grids else []
    markdown.write_text(_markdown(results, [*sections, *sheets], absent), encoding="utf-8")
    page = out / "report.html"
    page.write_text(_page(results, sections, absent, grids, out), encoding="utf-8")
    return {"report.md": markdown, "report.html": page, **folder.written}


def _sections(results: Results, folder: PlotFolder) -> list[Section | str]:
    """Every part in the order of the page; text says why one is left out."""
    parts: list[Section | str] = []
    every = results.pairs()
    if not every:
        parts.append("Results: no system was run to its end.")
    for pairs in every:
        section = results_section(results, pairs)
        section.plots = _present([gain_plot(results, pairs, folder)])
        parts.append(section)

    by_pairs = _present(gain_by_pairs_plot(results, group, folder) for group in MAIN_GROUPS)
    paper = paper_section(results)
    if isinstance(paper, Section):
        paper.plots = by_pairs
    elif by_pairs:
        parts.append(Section("Gain and number of pairs", plots=by_pairs))
    else:
        parts.append("Gain against the number of pairs: there is one number of pairs, or no gain.")
    parts.append(paper)

    curves = _present(curves_plot(results, pairs, group, folder) for pairs in every for group in MAIN_GROUPS)
    parts.append(Section("Training", plots=curves) if curves else "Training: no PSNR was recorded on the way.")
    kept = _present(kept_plot(results, pairs, group, folder) for pairs in every for group in results.groups())
    parts.append(Section("The filter", plots=kept) if kept else "The filter: no system recorded what it kept.")
    if results.f_isp:
        parts.append(Section("f_ISP", tables=[f_isp_table(results)]))
    else:
        parts.append("f_ISP: nothing was measured of it.")
    if results.distributions:
        parts.append(Section("Real and pseudo inputs", tables=[distribution_table(results)]))
    else:
        parts.append("Real and pseudo inputs: their distributions were not recorded.")
    return [*parts, search_section(results), systems_section(results)]


def _present(plots: Iterable[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def _facts(results: Results) -> list[tuple[str, str]]:
    """What was run, on what, with what."""
    machine = [f"{key} {value}" for key, value in results.machine.items() if value not in (None, "")]
    numbers = (f"{counted(pairs, 'pair')} with {describe_repetitions(results, pairs)}" for pairs in results.pairs())
    facts = {
        "Data": results.task,
        "Network": results.target,
        "Runs": "; ".join(numbers),
        "Selection": results.selection,
        "Command": results.command,
        "Version": results.version,
        "Date": results.date,
        "Machine": ", ".join(machine),
        "Computing time": _computing_time(results),
    }
    return [(key, value) for key, value in facts.items() if value]


def _computing_time(results: Results) -> str:
    if results.seconds is None:
        return ""
    without = results.seconds_without_search
    return _duration(results.seconds) + ("" if without is None else f" ({_duration(without)} without the search)")


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _headlines(results: Results) -> list[str]:
    """One sentence a number of pairs and system of the method."""
    lines = []
    for pairs in results.pairs():
        for row in compare_systems(results, pairs):
            if row.group != "method" or row.stopped_early or row.gain is None:
                continue
            error = row.gain.standard_error
            spread = f" (standard error {error:.2f}, n = {row.gain.n})" if error is not None else f" (n = {row.gain.n})"
            lines.append(
                f"{counted(pairs, 'pair')}, {row.label}: {row.gain.mean:+.2f} dB over "
                f"{results.reference_label(pairs)}{spread}."
            )
    return lines


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _markdown(results: Results, sections: Sequence[Section], absent: Sequence[str]) -> str:
    parts = [f"# {escape_markdown(results.title)}\n"]
    parts.append("".join(f"- {key}: {escape_markdown(value)}\n" for key, value in _facts(results)))
    headlines = _headlines(results)
    if headlines:
        parts.append("".join(f"- {escape_markdown(line)}\n" for line in headlines))
    if results.failed:
        lines = (f"- {escape_markdown(item.job)}: {escape_markdown(item.error)}\n" for item in results.failed)
        parts.append(f"## Failed\n\n{counted(len(results.failed), 'job')} did not finish:\n\n{''.join(lines)}")
    parts += [markdown_section(section) for section in sections]
    if absent:
        parts.append("## Left out\n\n" + "".join(f"- {escape_markdown(line)}\n" for line in absent))
    return "\n".join(parts)


# --- HTML -------------------------------------------------------------------------------------------------------------


def _page(
    results: Results, sections: Sequence[Section], absent: Sequence[str], grids: Sequence[Grid], out: Path
) -> str:
    images = {}
    for file in (plot.file for section in sections for plot in section.plots):
        with Image.open(out / file) as image:
            images[file] = (_data_uri((out / file).read_bytes(), "png"), *image.size)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = {
        "results": results,
        "facts": _facts(results),
        "headlines": _headlines(results),
        "sections": sections,
        "absent": absent,
        "images": images,
        "options": yaml.safe_dump(results.options, sort_keys=False, allow_unicode=True) if results.options else "",
    }
    template = environment.get_template(_TEMPLATE)
    text = template.render(**context, pictures=[], no_room=0)
    pictures, no_room = _picture_rows(grids, _HTML_LIMIT - len(text.encode()))
    return template.render(**context, pictures=pictures, no_room=no_room) if grids else text


def _picture_rows(grids: Sequence[Grid], room: int) -> tuple[list[dict[str, Any]], int]:
    """Tables of pictures for the page that take at most ``room`` bytes, and how many rows had no room."""
    pages: list[dict[str, Any]] = []
    left_out = 0
    for width in _CELL_WIDTHS:
        pages, left_out, used = [], 0, 0
        for grid in grids:
            rows = []
            for name, row in zip(grid.names, grid.rows, strict=True):
                uris = [shown.file and _data_uri(_jpeg(shown.file, width), "jpeg") for shown in row]
                used += sum(len(uri) for uri in uris if uri)
                if used > room:
                    left_out += 1
                    continue
                rows.append((name, list(zip(row, uris, strict=True))))
            pages.append({"title": counted(grid.pairs, "pair"), "columns": len(grid.columns), "rows": rows})
        if not left_out:
            break
    return pages, left_out


def _jpeg(path: Path, width: int) -> bytes:
    image = Image.fromarray(to_bit_depth(read_image(path), "8"))
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
