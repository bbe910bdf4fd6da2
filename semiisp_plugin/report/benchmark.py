"""What a benchmark found: tables, plots, ``report.md`` and a self-contained ``report.html`` from ``results.json``.

Gains are paired: a repetition (a seed on a fold of the test images) of one system is compared with the same repetition
of the supervised baseline that was best on the validation pairs, so that what a fold makes easy or hard cancels.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from semiisp_plugin.data.image_io import read_image, to_bit_depth
from semiisp_plugin.report.grids import save_grid
from semiisp_plugin.report.paper_figures import PAPER_ABLATIONS, PAPER_TASKS, TONE_MAPPING, PaperResult, paper_results
from semiisp_plugin.report.tables import MISSING, markdown_table, text_table

GROUPS: dict[str, str] = {
    "f_isp": "f_ISP alone",
    "baseline": "Baselines",
    "method": "Semi-supervised",
    "help": "Additions",
    "ablation": "Ablations",
    "source": "Ways from sRGB to RAW",
    "ratio": "Real to pseudo pairs in a batch",
    "beta": "Threshold β of the filter",
}
"""The groups of systems in the order of the tables, with their headings; others follow under their own names."""

PAPERS_SETTING = "paper's setting"

_MAIN = ("method", "help")  # what is drawn beside the baselines
_HTML_LIMIT = 5_600_000  # bytes, of the whole page
_CELL_WIDTHS = (400, 320, 240, 160, 100)  # pixels of a picture in the page, the widest that fits
_TEMPLATE = "benchmark.html.j2"

# Okabe and Ito's colours without the yellow, which is faint on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195")
_GREYS = ("#222222", "#8A8A8A")
_INK = "#222222"
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH, _DPI, _FONT = 6.0, 160, 10.0


# --- what is in results.json ----------------------------------------------------------------------------------------


class _Score(msgspec.Struct):
    psnr: float | None = None
    ssim: float | None = None


class _EarlyStop(msgspec.Struct):
    iteration: int
    validation: _Score | None = None
    test: _Score | None = None


class _Point(msgspec.Struct):
    iteration: int
    validation: _Score | None = None
    test: _Score | None = None


class _Cell(msgspec.Struct):
    pairs: int
    system: str
    repetition: str
    seed: int | None = None
    fold: int | None = None
    chosen: dict[str, Any] = {}
    validation: _Score | None = None
    test: _Score | None = None
    early_stopped: _EarlyStop | None = None
    curve: list[_Point] = []
    kept_ratio: list[tuple[float, float | None]] = []
    f_isp: str | None = None


class _System(msgspec.Struct):
    group: str
    label: str | None = None
    ours: bool = False
    description: str = ""


class _FISP(msgspec.Struct):
    pairs: int
    variant: str
    repetition: str
    train_psnr: float | None = None
    validation_psnr: float | None = None
    test_psnr: float | None = None
    test_psnr_global: float | None = None
    clipped: float | None = None


class _Inputs(msgspec.Struct):
    brightness: list[float] = []
    chroma: list[float] = []


class _Distribution(msgspec.Struct):
    pairs: int
    variant: str
    repetition: str
    real: _Inputs
    pseudo: _Inputs


class _Candidate(msgspec.Struct):
    pairs: int
    system: str
    candidate: dict[str, Any]
    validation_psnr: list[float | None] = []
    chosen: bool = False


class _Pictures(msgspec.Struct):
    pairs: int
    name: str
    cells: list[tuple[str, str]]
    psnr: dict[str, float | None] = {}


class _Failure(msgspec.Struct):
    job: str
    error: str


class _Results(msgspec.Struct):
    title: str
    systems: dict[str, _System]
    cells: list[_Cell]
    name: str = ""
    task: str = ""
    command: str = ""
    version: str = ""
    date: str = ""
    machine: dict[str, Any] = {}
    seconds: float | None = None
    seconds_without_search: float | None = None
    paper_setting: str | None = None
    target: str = ""
    paper_task: str | None = None
    selection: str = ""
    options: dict[str, Any] = {}
    best_supervised: dict[str, str] = {}
    f_isp: list[_FISP] = []
    distributions: list[_Distribution] = []
    search: list[_Candidate] = []
    pictures: list[_Pictures] = []
    failed: list[_Failure] = []

    def pairs(self) -> list[int]:
        """Every number of pairs that was run, in ascending order."""
        return sorted({cell.pairs for cell in self.cells})

    def of(self, pairs: int, system: str) -> list[_Cell]:
        return [cell for cell in self.cells if cell.pairs == pairs and cell.system == system]

    def groups(self) -> list[str]:
        """Those of `GROUPS`, then others in the order of ``systems``."""
        return list(dict.fromkeys([*GROUPS, *(system.group for system in self.systems.values())]))

    def in_group(self, group: str) -> list[str]:
        return [key for key, system in self.systems.items() if system.group == group]

    def reference(self, pairs: int) -> str | None:
        return self.best_supervised.get(str(pairs))

    def label(self, key: str) -> str:
        """How a system is called, with what marks it as ours."""
        system = self.systems.get(key)
        label = system.label if system and system.label else key
        return f"{label} (ours)" if system and system.ours and "(ours)" not in label else label

    def is_papers(self, key: str) -> bool:
        """Whether a system is the paper's own setting: the one named, else all of the method that are not ours."""
        if self.paper_setting is not None:
            return key == self.paper_setting
        return self.systems[key].group == "method" and not self.systems[key].ours


def _parse(results: Mapping[str, Any], where: str = "results") -> _Results:
    try:
        parsed = msgspec.convert(dict(results), _Results)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}; write the file again with `basicsr benchmark`.") from error
    seen = set()
    for cell in parsed.cells:
        key = (cell.pairs, cell.system, cell.repetition)
        if cell.system not in parsed.systems:
            raise ValueError(f"{where}: a cell names the system '{cell.system}', which `systems` does not have.")
        if key in seen:
            raise ValueError(f"{where}: `cells` has {key} more than once; a repetition counts once.")
        seen.add(key)
    for pairs, system in parsed.best_supervised.items():
        if system not in parsed.systems:
            raise ValueError(f"{where}: `best_supervised` for {pairs} pairs is '{system}', which `systems` lacks.")
    return parsed


# --- gains ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Measurements of one thing, one a repetition."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """How many there are, at least one."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean; NaN and infinities go through."""
        return sum(self.values) / self.n

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1 in the denominator); None for one value, or if any is not finite."""
        if self.n < 2 or not all(map(math.isfinite, self.values)):
            return None
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (self.n - 1))

    @property
    def standard_error(self) -> float | None:
        """Standard deviation over the square root of n; None where there is no standard deviation."""
        return None if self.std is None else self.std / math.sqrt(self.n)


@dataclass(frozen=True)
class GainRow:
    """A system at one number of pairs.

    Attributes:
        system: Its key in ``systems``.
        label: Its label, with "(ours)", "paper's setting" and "stopped early" where they apply.
        group: Its group.
        stopped_early: Whether the figures are those of the iteration that was best on the validation pairs.
        reference: Whether it is what the others are compared with.
        psnr: PSNR in dB, over the repetitions that the reference has as well (all, where it has none of them).
        ssim: SSIM, over the same repetitions.
        gain: PSNR minus the reference's of the same repetition, in dB; None for the reference and where nothing is
            shared.
    """

    system: str
    label: str
    group: str
    stopped_early: bool
    reference: bool
    psnr: Spread | None
    ssim: Spread | None
    gain: Spread | None


def gain_rows(results: Mapping[str, Any], pairs: int) -> list[GainRow]:
    """Compare every system with the best supervised baseline, repetition by repetition.

    Args:
        results: The content of ``results.json``.
        pairs: The number of pairs; systems that were not run with it are left out.

    Returns:
        Rows in the order of `GROUPS`, and of ``systems`` within a group. A system that was stopped early has a second
        row after its first; both are compared with the reference at the end of its training.

    Raises:
        ValueError: ``results`` does not have the form of a benchmark's.
    """
    return _gain_rows(_parse(results), pairs)


def _gain_rows(results: _Results, pairs: int) -> list[GainRow]:
    reference = results.reference(pairs)
    base = _psnr_by_repetition(results.of(pairs, reference) if reference else [])
    rows = []
    for group in results.groups():
        for key in results.in_group(group):
            cells = results.of(pairs, key)
            early = [cell for cell in cells if cell.early_stopped is not None]
            rows += [_gain_row(results, key, cells, base, key == reference, False)] if cells else []
            rows += [_gain_row(results, key, early, base, False, True)] if early else []
    return rows


def _gain_row(
    results: _Results, key: str, cells: Sequence[_Cell], base: Mapping[str, float], reference: bool, early: bool
) -> GainRow:
    scores = {cell.repetition: score for cell in cells if (score := _test(cell, early)) and score.psnr is not None}
    shared = [repetition for repetition in scores if repetition in base] or list(scores)
    system = results.systems[key]
    marks = [PAPERS_SETTING] if results.is_papers(key) else []
    return GainRow(
        system=key,
        label=", ".join([results.label(key), *marks, *(["stopped early"] if early else [])]),
        group=system.group,
        stopped_early=early,
        reference=reference,
        psnr=_spread(scores[repetition].psnr for repetition in shared),
        ssim=_spread(scores[repetition].ssim for repetition in shared),
        gain=None if reference else _spread(_gains(_psnr_by_repetition(cells, early), base).values()),
    )


def _test(cell: _Cell, early: bool) -> _Score | None:
    if not early:
        return cell.test
    return cell.early_stopped.test if cell.early_stopped else None


def _psnr_by_repetition(cells: Iterable[_Cell], early: bool = False) -> dict[str, float]:
    scores = {cell.repetition: _test(cell, early) for cell in cells}
    return {repetition: s.psnr for repetition, s in scores.items() if s is not None and s.psnr is not None}


def _gains(psnr: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    return {repetition: value - base[repetition] for repetition, value in psnr.items() if repetition in base}


def _spread(values: Iterable[float | None]) -> Spread | None:
    present = tuple(value for value in values if value is not None)
    return Spread(present) if present else None


def _mean_std(spread: Spread | None, decimals: int = 2, sign: str = "") -> str:
    if spread is None:
        return MISSING
    text = f"{spread.mean:{sign}.{decimals}f}"
    return text if spread.std is None else f"{text} ± {spread.std:.{decimals}f}"


def _number(value: float | None, decimals: int = 2) -> str:
    return MISSING if value is None else f"{value:.{decimals}f}"


# --- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """Cells as text. A row that is a string is a heading over the rows after it; ``numeric`` columns stand right."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...] | str]
    numeric: tuple[int, ...] = ()
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class _Plot:
    """A picture below the output folder; ``file`` is relative to it."""

    file: str
    caption: str


@dataclass
class _Section:
    title: str
    short: str = ""
    text: list[str] = field(default_factory=list)
    tables: list[_Table] = field(default_factory=list)
    plots: list[_Plot] = field(default_factory=list)


def markdown_tables(results: Mapping[str, Any]) -> str:
    """The main table of every number of pairs, and the paper's figures beside them, as Markdown.

    Raises:
        ValueError: ``results`` does not have the form of a benchmark's.
    """
    parsed = _parse(results)
    sections = [_results_section(parsed, pairs) for pairs in parsed.pairs()]
    beside = _paper_section(parsed)
    return "\n".join(_markdown_section(section) for section in [*sections, beside] if isinstance(section, _Section))


def terminal_table(results: Mapping[str, Any]) -> str:
    """The main table of every number of pairs for a terminal.

    Raises:
        ValueError: ``results`` does not have the form of a benchmark's.
    """
    parsed = _parse(results)
    if not parsed.cells:
        return f"{parsed.title}: no system was run to its end.\n"
    parts = []
    for pairs in parsed.pairs():
        section = _results_section(parsed, pairs)
        parts.append(f"{parsed.title}: {section.title}\n\n{_text_table(section.tables[0])}")
    return "\n".join(parts)


def _text_table(table: _Table) -> str:
    rows = [(row, *[""] * (len(table.columns) - 1)) if isinstance(row, str) else row for row in table.rows]
    grouped = any(isinstance(row, str) for row in table.rows)
    indented = [
        (f"  {row[0]}" if grouped and not isinstance(original, str) else row[0], *row[1:])
        for row, original in zip(rows, table.rows, strict=True)
    ]
    return text_table([dict(zip(table.columns, row, strict=True)) for row in indented])


def _main_table(results: _Results, pairs: int) -> _Table:
    rows: list[tuple[str, ...] | str] = []
    heading = None
    for row in _gain_rows(results, pairs):
        if row.group != heading:
            heading = row.group
            rows.append(_heading(row.group))
        error = row.gain.standard_error if row.gain else None
        rows.append(
            (
                row.label,
                _mean_std(row.psnr),
                "reference" if row.reference else _mean_std(row.gain, sign="+"),
                _number(error),
                str(row.psnr.n if row.psnr else 0),
                _mean_std(row.ssim, 4),
            )
        )
    columns = ("system", "PSNR [dB]", "gain [dB]", "std. error", "n", "SSIM")
    return _Table(columns, rows, (1, 2, 3, 4, 5))


def _heading(group: str) -> str:
    return GROUPS.get(group, group)


def _repetitions(results: _Results, pairs: int) -> str:
    cells = [cell for cell in results.cells if cell.pairs == pairs]
    n = len({cell.repetition for cell in cells})
    seeds = len({cell.seed for cell in cells if cell.seed is not None})
    folds = len({cell.fold for cell in cells if cell.fold is not None})
    product = f" ({_count(seeds, 'seed')} × {_count(folds, 'fold')})" if n > 1 and seeds * folds == n else ""
    return f"{_count(n, 'repetition')}{product}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _results_section(results: _Results, pairs: int) -> _Section:
    n = len({cell.repetition for cell in results.cells if cell.pairs == pairs})
    folds = {cell.fold for cell in results.cells if cell.pairs == pairs and cell.fold is not None}
    shown = "mean ± standard deviation over " if n > 1 else ""
    reference = results.reference(pairs)
    text = [
        f"Gain: PSNR minus that of {results.label(reference)}, the baseline best on the validation pairs, at the end "
        "of its training, on the test images of the same repetition. n: repetitions that both have."
        if reference
        else "No gains: `best_supervised` names no baseline for this number of pairs."
    ]
    error = "the standard error (standard deviation / √n) speaks of these runs, not of new photographs."
    if len(folds) < 2:
        note = f"A repetition is one training run with its own seed: {error}"
    elif len(folds) < n:
        note = (
            "A repetition is one training run with its own seed on one fold of the data. Runs on one fold share their "
            f"test images, so repetitions are not independent: {error}"
        )
    else:
        note = (
            "A repetition is one training run on one fold of the data. Test images differ, but folds may share "
            f"training pairs, so repetitions are not independent: {error}"
        )
    text.append(note)
    if any(cell.early_stopped for cell in results.cells if cell.pairs == pairs):
        text.append("Stopped early: the same run at the iteration that was best on the validation pairs.")
    title = f"{_count(pairs, 'pair')}, {shown}{_repetitions(results, pairs)}"
    return _Section(title, _count(pairs, "pair"), text, [_main_table(results, pairs)])


def _paper_section(results: _Results) -> _Section | str:
    title = "The paper's figures beside these"
    if results.paper_task is None:
        return f"{title}: the paper has no task like this one."
    if results.paper_task not in PAPER_TASKS:
        return f"{title}: paper_task is '{results.paper_task}'; the paper's are {', '.join(PAPER_TASKS)}."
    rows: list[tuple[str, ...] | str] = [f"Paper, {results.paper_task}"]
    for paper in paper_results(results.paper_task, results.target):
        figures = (paper.supervised_psnr, paper.semi_psnr)
        cells = (f"Table {paper.table}", paper.network, str(paper.pairs), *map(_number, figures), f"{paper.gain:+.2f}")
        rows.append(cells)
    rows.append("This benchmark")
    for pairs in results.pairs():
        base = next((row.psnr for row in _gain_rows(results, pairs) if row.reference), None)
        for row in _gain_rows(results, pairs):
            if row.group == "method":
                figures_ = (_mean_std(base), _mean_std(row.psnr), _mean_std(row.gain, sign="+"))
                rows.append((row.label, results.target or MISSING, str(pairs), *figures_))
    columns = ("source", "network", "pairs", "supervised [dB]", "+ semi-supervised [dB]", "gain [dB]")
    text = [
        "For orientation only. Photographs, unlabelled photographs, image sizes, numbers of pairs and the networks "
        "themselves (or their sizes) differ, so neither the PSNR nor the gains are expected to agree. The paper gives "
        "no spread."
    ]
    tables = [_Table(columns, rows, (2, 3, 4, 5))]
    if "FiveK" in results.paper_task and any(s.group in ("ablation", "source") for s in results.systems.values()):
        tables.append(_paper_ablations())
    return _Section(title, text=text, tables=tables)


def _paper_ablations() -> _Table:
    supervised = {row.pairs: row.supervised_psnr for row in paper_results(TONE_MAPPING, "PQDynamicISP")}
    rows = []
    for row in PAPER_ABLATIONS:
        gain = row.psnr - supervised[row.pairs]
        table = f"Table {row.table}"
        rows.append((table, row.source, row.steps, str(row.pairs), _number(row.psnr), f"{gain:+.2f}"))
    title = "The paper's ablations: PQDynamicISP on FiveK tone mapping; OPF is its filter, USQ its updated sRGB quality"
    columns = ("source", "sRGB to RAW", "with", "pairs", "PSNR [dB]", "gain over supervised [dB]")
    return _Table(columns, rows, (3, 4, 5), title, folded=True)


def _f_isp_table(results: _Results) -> _Table:
    rows: list[tuple[str, ...] | str] = []
    for pairs in sorted({item.pairs for item in results.f_isp}):
        rows.append(_count(pairs, "pair"))
        for variant in dict.fromkeys(item.variant for item in results.f_isp if item.pairs == pairs):
            items = [item for item in results.f_isp if (item.pairs, item.variant) == (pairs, variant)]
            psnr = (
                _mean_std(_spread(getattr(item, name) for item in items))
                for name in ("train_psnr", "validation_psnr", "test_psnr", "test_psnr_global")
            )
            clipped = _spread(None if item.clipped is None else 100 * item.clipped for item in items)
            rows.append((results.label(variant), *psnr, _mean_std(clipped), str(len(items))))
    columns = ("variant", "train [dB]", "validation [dB]", "test [dB]", "test, global [dB]", "clipped [%]", "n")
    return _Table(columns, rows, (1, 2, 3, 4, 5, 6), "PSNR of f_ISP itself, mean ± standard deviation")


def _distribution_table(results: _Results) -> _Table:
    rows: list[tuple[str, ...] | str] = []
    for pairs in sorted({item.pairs for item in results.distributions}):
        rows.append(_count(pairs, "pair"))
        for variant in dict.fromkeys(item.variant for item in results.distributions if item.pairs == pairs):
            for quantity in ("brightness", "chroma"):
                real, pseudo = _pooled(results, pairs, variant, quantity)
                if len(real) and len(pseudo):
                    spreads = (_mean_std(Spread(tuple(values)), 3) for values in (real, pseudo))
                    rows.append((results.label(variant), quantity, *spreads, f"{_ks_distance(real, pseudo):.2f}"))
    columns = ("variant", "quantity", "real", "pseudo", "distance")
    title = "Mean ± standard deviation over images; distance: the largest between the cumulative curves, 0 to 1"
    return _Table(columns, rows, (2, 3, 4), title)


def _pooled(results: _Results, pairs: int, variant: str | None, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Real and pseudo values of all repetitions, finite ones only; of every variant for None."""
    items = [d for d in results.distributions if d.pairs == pairs and variant in (None, d.variant)]
    pools = []
    for kind in ("real", "pseudo"):
        values = np.array([v for item in items for v in getattr(getattr(item, kind), quantity)], dtype=float)
        pools.append(values[np.isfinite(values)])
    return pools[0], pools[1]


def _ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov and Smirnov's: the largest distance between two empirical distribution functions."""
    at = np.concatenate([a, b])
    cumulative = [np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (a, b)]
    return float(np.abs(cumulative[0] - cumulative[1]).max())


def _search_section(results: _Results) -> _Section | str:
    title = "Chosen settings"
    chosen: list[tuple[str, ...] | str] = []
    tried: list[tuple[str, ...] | str] = []
    given: list[tuple[str, ...] | str] = []
    for pairs in sorted({*results.pairs(), *(item.pairs for item in results.search)}):
        best, all_tried, without = [], [], []
        for key in results.systems:
            candidates = [item for item in results.search if (item.pairs, item.system) == (pairs, key)]
            for item in candidates:
                row = (results.label(key), _settings(item.candidate), _mean_std(_spread(item.validation_psnr)))
                all_tried.append((*row, "yes" if item.chosen else ""))
                if item.chosen:
                    best.append((*row, str(len(candidates))))
            if not candidates:
                used = dict.fromkeys(_settings(cell.chosen) for cell in results.of(pairs, key) if cell.chosen)
                without += [(results.label(key), settings) for settings in used]
        for table, lines in ((chosen, best), (tried, all_tried), (given, without)):
            if lines:
                table += [_count(pairs, "pair"), *lines]
    tables = []
    if chosen:
        columns: tuple[str, ...] = ("system", "settings", "validation PSNR [dB]", "candidates")
        tables.append(_Table(columns, chosen, (2, 3)))
    if tried:
        columns = ("system", "settings", "validation PSNR [dB]", "chosen")
        tables.append(_Table(columns, tried, (2,), "All candidates", folded=True))
    if given:
        tables.append(_Table(("system", "settings"), given, title="Settings that were not searched for", folded=True))
    if not tables:
        return f"{title}: nothing was searched for, and no system records settings of its own."
    return _Section(title, text=[results.selection] if results.selection else [], tables=tables)


def _settings(values: Mapping[str, Any]) -> str:
    texts = ((key, f"{value:g}" if isinstance(value, float) else value) for key, value in values.items())
    return ", ".join(f"{key} {text}" for key, text in texts)


def _systems_section(results: _Results) -> _Section | str:
    rows: list[tuple[str, ...] | str] = []
    for group in results.groups():
        systems = [(results.label(key), results.systems[key].description) for key in results.in_group(group)]
        rows += [_heading(group), *systems] if systems else []
    if not rows:
        return "The systems: there are none."
    return _Section("The systems", tables=[_Table(("system", "what it is"), rows)])


# --- plots ----------------------------------------------------------------------------------------------------------


class _Folder:
    """Writes plots below the output folder and remembers them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: dict[str, Path] = {}
        (out / "plots").mkdir(parents=True, exist_ok=True)

    def plot(self, name: str, figure: Figure, caption: str) -> _Plot:
        file = f"plots/{name}.png"
        figure.savefig(self.out / file, dpi=_DPI)
        self.written[file] = self.out / file
        return _Plot(file, caption)


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(_WIDTH, height), facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.tick_params(labelsize=_FONT - 1, length=3, colors=_INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#e4e4e4", lw=0.7)
        ax.set_axisbelow(True)
    return figure, axes


def _name_axes(ax: Axes, x: str, y: str, title: str = "") -> None:
    ax.set_xlabel(x, fontsize=_FONT, color=_INK)
    ax.set_ylabel(y, fontsize=_FONT, color=_INK)
    if title:
        ax.set_title(_literal(title), fontsize=_FONT, color=_INK)


def _legend(figure: Figure, entries: Sequence[tuple[str, Line2D | Patch]]) -> None:
    """Below the axes, in two columns where the labels are short; the figure grows by its height."""
    labels = [_literal(textwrap.fill(label, 60)) for label, _ in entries]
    columns = 2 if max(map(len, labels)) <= 34 else 1
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.21 * math.ceil(lines / columns) + 0.15)
    figure.legend(
        [handle for _, handle in entries],
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=_FONT - 1,
        frameon=False,
        labelcolor=_INK,
    )


def _slug(text: str) -> str:
    """A name for files."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "other"


def _literal(text: str) -> str:
    """Dollar signs would begin a formula."""
    return text.replace("$", r"\$")


def _style(results: _Results, key: str) -> dict[str, Any]:
    """The colour of a system, the same in all plots; by its place in its group."""
    group = results.systems[key].group
    place = results.in_group(group).index(key)
    if group == "baseline":  # plots show the first and, if that is another, the best
        return {"color": _GREYS[min(place, 1)]}
    return {"color": _PALETTE[place % len(_PALETTE)]}


def _marker(results: _Results, key: str) -> str:
    return _MARKERS[results.in_group(results.systems[key].group).index(key) % len(_MARKERS)]


def _gain_plot(results: _Results, pairs: int, folder: _Folder) -> _Plot | None:
    """Every system's gain: the mean with its standard error, and the repetitions."""
    rows = [row for row in _gain_rows(results, pairs) if row.gain and math.isfinite(row.gain.mean)]
    if not rows:
        return None
    low, high = _window([row.gain for row in rows if row.gain])
    labels = [textwrap.fill(row.label, 34) for row in rows]
    places, y = [], 0.0
    for k, row in enumerate(rows):
        y += 1 if k == 0 or rows[k - 1].group == row.group else 1.5
        y += 0.45 * labels[k].count("\n")
        places.append(y)
    figure, axes = _figure(0.9 + 0.27 * y)
    ax = axes[0, 0]
    ax.axvline(0, color=_INK, lw=1)
    for row, place in zip(rows, places, strict=True):
        if row.gain is None:
            continue
        colour = _PALETTE[0] if row.group in _MAIN else "#555555"
        mean, error = row.gain.mean, row.gain.standard_error or 0.0
        if not low < mean < high:
            text = f"{mean:+.1f}".replace("-", "−")
            edge, side, text = (low, "left", f" ◂ {text}") if mean < low else (high, "right", f"{text} ▸ ")
            ax.text(edge, place, text, ha=side, va="center", fontsize=_FONT - 1, color=colour)
            continue
        ax.plot(
            np.clip(row.gain.values, low, high),
            [place] * row.gain.n,
            "o",
            clip_on=False,
            ms=3.5,
            mfc="none",
            mec=colour,
            mew=0.7,
            alpha=0.6,
        )
        ax.errorbar(mean, place, xerr=error, fmt="D", ms=5, color=colour, capsize=3, lw=1.6)
    ax.set_yticks(places, [_literal(label) for label in labels])
    ax.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    ax.set_xlim(low, high)
    ax.grid(axis="y", visible=False)
    over = f"over {_reference_label(results, pairs)}"
    _name_axes(ax, "gain in test PSNR [dB]", "", f"{_count(pairs, 'pair')}: gain {over}")
    caption = (
        f"Gain of every system {over}, {_count(pairs, 'pair')}. Diamond and bar: mean ± standard error; circles: "
        "repetitions; blue: the method. What stands on the edge lies outside; a number there is a system's gain."
    )
    return folder.plot(f"gain_{pairs}", figure, caption)


def _window(gains: Sequence[Spread]) -> tuple[float, float]:
    """Limits that one system or repetition far off does not stretch until the others have no room."""
    values = np.concatenate([gain.values for gain in gains])
    values = values[np.isfinite(values)]
    median = float(np.median(values))
    reach = max(5 * float(np.median(np.abs(values - median))), 0.8)
    near = [gain for gain in gains if abs(gain.mean - median) <= reach]
    bars = [gain.mean + side * (gain.standard_error or 0) for gain in near for side in (-1, 1)]
    inside = np.array([0.0, *bars, *values[np.abs(values - median) <= reach]])
    margin = 0.06 * float(np.ptp(inside)) + 0.05
    return float(inside.min()) - margin, float(inside.max()) + margin


def _reference_label(results: _Results, pairs: int) -> str:
    reference = results.reference(pairs)
    return results.label(reference) if reference else MISSING


def _gain_by_pairs_plot(results: _Results, group: str, folder: _Folder) -> _Plot | None:
    """Gain against the number of pairs, with the paper's as hollow markers."""
    known = results.paper_task in PAPER_TASKS
    papers = paper_results(results.paper_task, results.target) if known and results.paper_task else ()
    rows = {pairs: [r for r in _gain_rows(results, pairs) if r.group == group] for pairs in results.pairs()}
    series: dict[str, list[tuple[int, Spread]]] = {}
    for pairs, of_pairs in rows.items():
        for row in of_pairs:
            if row.gain and math.isfinite(row.gain.mean) and not row.stopped_early:
                series.setdefault(row.system, []).append((pairs, row.gain))
    if not series or (len(rows) < 2 and not papers):
        return None
    figure, axes = _figure(3.3)
    ax = axes[0, 0]
    ax.axhline(0, color=_INK, lw=1)
    entries: list[tuple[str, Line2D | Patch]] = []
    for k, (key, points) in enumerate(series.items()):
        # A little apart, or error bars would hide each other.
        x = [pairs * 1.03 ** (k - (len(series) - 1) / 2) for pairs, _ in points]
        y, error = [gain.mean for _, gain in points], [gain.standard_error or 0.0 for _, gain in points]
        style = {**_style(results, key), "marker": _marker(results, key), "lw": 1.6, "ms": 6}
        ax.errorbar(x, y, yerr=error, capsize=3, **style)
        entries.append((results.label(key), Line2D([], [], **style)))
    networks: dict[str, list[PaperResult]] = {}
    for paper in papers:
        networks.setdefault(paper.network, []).append(paper)
    for k, (network, lines) in enumerate(networks.items()):
        style = {"color": "#777777", "marker": _MARKERS[k], "mfc": "white", "ls": ":", "lw": 1.2, "ms": 7}
        ax.plot([line.pairs for line in lines], [line.gain for line in lines], **style)
        entries.append((f"paper, {network} (Table {lines[0].table})", Line2D([], [], **style)))
    ticks = sorted({*rows, *(paper.pairs for paper in papers)})
    ax.set_xscale("log")
    ax.set_xlim(ticks[0] / 1.4, ticks[-1] * 1.4)
    ax.set_xticks(ticks, [str(pairs) for pairs in ticks])
    ax.minorticks_off()
    _name_axes(ax, "number of pairs", "gain in test PSNR [dB]", _heading(group))
    _legend(figure, entries)
    caption = "Gain over the best supervised baseline: mean and standard error over the repetitions."
    if papers:
        caption += f" Hollow: the paper's, on {results.paper_task}, where data, sizes and networks differ."
    return folder.plot(f"gain_by_pairs_{_slug(group)}", figure, caption)


def _mean_curve(runs: Iterable[Sequence[tuple[float, float | None]]]) -> tuple[np.ndarray, ...] | None:
    """Iterations, mean, lowest and highest of several runs, where all have values; a run is linear between points."""
    clean = [sorted({x: y for x, y in run if y is not None and math.isfinite(y)}.items()) for run in runs]
    clean = [run for run in clean if run]
    if not clean:
        return None
    first, last = max(run[0][0] for run in clean), min(run[-1][0] for run in clean)
    grid = np.array(sorted({x for run in clean for x, _ in run if first <= x <= last}))
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, *np.array(run, dtype=float).T) for run in clean])
    return grid, values.mean(0), values.min(0), values.max(0)


def _curves_plot(results: _Results, pairs: int, group: str, folder: _Folder) -> _Plot | None:
    """PSNR on validation and test images during the training of the baselines and a group's systems."""
    baselines = {results.reference(pairs), *results.in_group("baseline")[:1]}
    keys = [key for key, s in results.systems.items() if key in baselines or s.group == group]
    if not any(cell.curve for key in results.in_group(group) for cell in results.of(pairs, key)):
        return None
    figure, axes = _figure(3.3)
    ax = axes[0, 0]
    entries: list[tuple[str, Line2D | Patch]] = []
    settled = []
    for key in keys:
        style = _style(results, key)
        for part, dash in (("test", "-"), ("validation", "--")):
            runs = [
                [(point.iteration, s.psnr if (s := getattr(point, part)) else None) for point in cell.curve]
                for cell in results.of(pairs, key)
            ]
            curve = _mean_curve(runs)
            if curve is None:
                continue
            ax.plot(curve[0], curve[1], dash, lw=1.8 if part == "test" else 1.2, **style)
            settled.append(curve[1][curve[0] >= 0.15 * curve[0].max()])
            if results.label(key) not in dict(entries):
                entries.append((results.label(key), Line2D([], [], lw=2, **style)))
    if not entries:
        return None
    # The first steps of an untrained network would press everything else to the top.
    values = np.concatenate(settled)
    margin = 0.08 * float(np.ptp(values)) + 0.05
    ax.set_ylim(values.min() - margin, values.max() + margin)
    entries += [
        ("test images", Line2D([], [], color="#777777", lw=1.8)),
        ("validation pairs", Line2D([], [], color="#777777", lw=1.2, ls="--")),
    ]
    title = f"{_heading(group)}, {_count(pairs, 'pair')}"
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_axes(ax, "iteration", "PSNR [dB]", title)
    _legend(figure, entries)
    caption = f"{title}: PSNR during training, mean over the repetitions."
    return folder.plot(f"curves_{_slug(group)}_{pairs}", figure, caption)


def _kept_plot(results: _Results, pairs: int, group: str, folder: _Folder) -> _Plot | None:
    """Share of the pseudo pairs that the filter kept."""
    figure, axes = _figure(2.9)
    ax = axes[0, 0]
    entries: list[tuple[str, Line2D | Patch]] = []
    for key in results.in_group(group):
        curve = _mean_curve([(x, y) for x, y in cell.kept_ratio] for cell in results.of(pairs, key))
        if curve is None:
            continue
        grid, mean, low, high = curve
        style = {**_style(results, key), "ls": "-" if len(entries) < len(_PALETTE) else "--"}
        ax.fill_between(grid, 100 * low, 100 * high, color=style["color"], alpha=0.15, lw=0)
        ax.plot(grid, 100 * mean, lw=1.6, **style)
        entries.append((results.label(key), Line2D([], [], lw=2, **style)))
    if not entries:
        return None
    ax.set_ylim(-2, 102)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_axes(ax, "iteration", "kept pseudo pairs [%]", f"{_heading(group)}, {_count(pairs, 'pair')}")
    _legend(figure, entries)
    caption = (
        f"{_heading(group)}, {_count(pairs, 'pair')}: share of the pseudo pairs that the filter kept. Line: mean; "
        "band: lowest to highest repetition."
    )
    return folder.plot(f"kept_{_slug(group)}_{pairs}", figure, caption)


def _f_isp_plot(results: _Results, pairs: int, folder: _Folder) -> _Plot | None:
    """PSNR of f_ISP itself on training, validation and test images."""
    items = [item for item in results.f_isp if item.pairs == pairs]
    variants = list(dict.fromkeys(item.variant for item in items))
    parts = {
        "train": "train_psnr",
        "validation": "validation_psnr",
        "test": "test_psnr",
        "test, global": "test_psnr_global",
    }
    parts = {part: name for part, name in parts.items() if any(getattr(item, name) is not None for item in items)}
    if not parts:
        return None
    figure, axes = _figure(3.0)
    ax = axes[0, 0]
    entries: list[tuple[str, Line2D | Patch]] = []
    for k, variant in enumerate(variants):
        style: dict[str, Any] = {
            "color": _PALETTE[k % len(_PALETTE)],
            "marker": _MARKERS[k % len(_MARKERS)],
            "ls": "none",
        }
        for place, attribute in enumerate(parts.values()):
            values = [getattr(item, attribute) for item in items if item.variant == variant]
            values = [value for value in values if value is not None and math.isfinite(value)]
            x = place + 0.7 * ((k + 0.5) / len(variants) - 0.5)
            if values:
                spread = 0.12 / len(variants) * np.linspace(-1, 1, len(values)) if len(values) > 1 else np.zeros(1)
                ax.plot(x + spread, values, ms=5, alpha=0.75, mew=0, **style)
                width = 0.25 / len(variants)
                ax.plot([x - width, x + width], [np.mean(values)] * 2, color=style["color"], lw=2)
                if results.label(variant) not in dict(entries):
                    entries.append((results.label(variant), Line2D([], [], **style)))
    if not entries:
        return None
    ax.set_xticks(range(len(parts)), list(parts))
    ax.set_xlim(-0.5, len(parts) - 0.5)
    ax.grid(axis="x", visible=False)
    _name_axes(ax, "", "PSNR of f_ISP [dB]", _count(pairs, "pair"))
    _legend(figure, entries)
    caption = (
        f"PSNR of f_ISP itself, {_count(pairs, 'pair')}: a mark a repetition, the line their mean. Training far "
        "above test means overfitting."
    )
    return folder.plot(f"f_isp_{pairs}", figure, caption)


def _f_isp_of(results: _Results, cell: _Cell) -> str | None:
    """The variant of f_ISP that a run used: the one it names, that of its system's name, or the only one."""
    variants = {item.variant for item in results.f_isp if item.pairs == cell.pairs}
    if cell.f_isp is not None:
        return cell.f_isp
    return cell.system if cell.system in variants else next(iter(variants)) if len(variants) == 1 else None


def _scatter_plot(results: _Results, group: str, folder: _Folder) -> _Plot | None:
    """A system's gain against how much better f_ISP is than supervised learning."""
    f_isp = {(item.pairs, item.variant, item.repetition): item.test_psnr for item in results.f_isp}
    figure, axes = _figure(3.5)
    ax = axes[0, 0]
    systems: dict[str, str] = {}
    counts: dict[int, str] = {}
    for k, pairs in enumerate(results.pairs()):
        reference = results.reference(pairs)
        base = _psnr_by_repetition(results.of(pairs, reference) if reference else [])
        for key in results.in_group(group):
            cells = {cell.repetition: cell for cell in results.of(pairs, key)}
            points = []
            for repetition, gain in _gains(_psnr_by_repetition(cells.values()), base).items():
                own = f_isp.get((pairs, _f_isp_of(results, cells[repetition]) or "", repetition))
                if own is not None and math.isfinite(own - base[repetition]) and math.isfinite(gain):
                    points.append((own - base[repetition], gain))
            if points:
                marker = _MARKERS[k % len(_MARKERS)]
                ax.plot(*zip(*points, strict=True), marker, ms=6, mec="white", mew=0.5, **_style(results, key))
                systems[key], counts[pairs] = results.label(key), marker
    if not systems:
        return None
    ax.axhline(0, color=_INK, lw=1)
    ax.axvline(0, color=_INK, lw=1)
    entries: list[tuple[str, Line2D | Patch]] = [
        (label, Patch(lw=0, **_style(results, key))) for key, label in systems.items()
    ]
    if len(counts) > 1:
        entries += [
            (_count(pairs, "pair"), Line2D([], [], color="#777777", marker=marker, ls="none"))
            for pairs, marker in counts.items()
        ]
    x = "test PSNR of f_ISP minus the best supervised [dB]"
    _name_axes(ax, x, "gain in test PSNR [dB]", _heading(group))
    _legend(figure, entries)
    caption = (
        f"{_heading(group)}: does a better f_ISP give a larger gain? A mark a repetition; both axes subtract the "
        "same baseline, whose own chance moves a mark along the diagonal."
    )
    return folder.plot(f"gain_by_f_isp_{_slug(group)}", figure, caption)


def _group_of(results: _Results, variant: str) -> str:
    """A variant may have the name of the system that uses it."""
    system = results.systems.get(variant)
    return system.group if system else ""


def _distribution_plot(results: _Results, pairs: int, group: str, folder: _Folder) -> _Plot | None:
    """Brightness and chroma of the networks' real and pseudo inputs, of the variants of one group."""
    items = [item for item in results.distributions if item.pairs == pairs]
    variants = list(dict.fromkeys(item.variant for item in items if _group_of(results, item.variant) == group))
    if not variants:
        return None
    figure, axes = _figure(4.4, 2, 2)
    drawn = False
    for column, quantity in enumerate(("brightness", "chroma")):
        top, bottom = axes[:, column]
        # The real inputs of all variants are the same images.
        real, _ = _pooled(results, pairs, None, quantity)
        pools = {variant: _pooled(results, pairs, variant, quantity)[1] for variant in variants}
        everything = np.concatenate([real, *pools.values()])
        if not len(everything):
            continue
        drawn = True
        high = min(1.0, 1.05 * float(everything.max())) or 1.0
        edges = np.linspace(0, high, 26)
        for values, colour, fill in [(real, "#555555", True)] + [
            (pools[variant], _PALETTE[k % len(_PALETTE)], False) for k, variant in enumerate(variants)
        ]:
            if not len(values):
                continue
            share = 100 * np.histogram(values.clip(0, high), edges)[0] / len(values)
            top.stairs(share, edges, fill=fill, color=colour, alpha=0.35 if fill else 1, lw=0 if fill else 1.6)
            x = np.sort(values)
            bottom.step([0, *x, high], [0, *100 * np.arange(1, len(x) + 1) / len(x), 100], where="post", color=colour)
        for ax in (top, bottom):
            ax.set_xlim(0, high)
            ax.set_ylim(bottom=0)
        _name_axes(top, "", "images [%]" if column == 0 else "", quantity)
        _name_axes(bottom, f"{quantity} of the input, 0 to 1", "images below [%]" if column == 0 else "")
    if not drawn:
        return None
    entries: list[tuple[str, Line2D | Patch]] = [("real", Patch(color="#555555", alpha=0.5, lw=0))]
    entries += [
        (f"pseudo, {results.label(variant)}", Line2D([], [], color=_PALETTE[k % len(_PALETTE)], lw=2))
        for k, variant in enumerate(variants)
    ]
    _legend(figure, entries)
    caption = (
        f"Inputs of the network, {_count(pairs, 'pair')}: brightness (mean Rec. 709 luma) and chroma (mean saturation) "
        "of an image; above histograms, below the share of images below a value."
    )
    return folder.plot(f"inputs_{_slug(group)}_{pairs}" if group else f"inputs_{pairs}", figure, caption)


# --- pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """A cell of a grid; ``file`` is None where the picture is missing."""

    file: Path | None
    title: str
    psnr: str


@dataclass(frozen=True)
class _Grid:
    """Pictures of one number of pairs: a row a picture."""

    pairs: int
    columns: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[_Shown, ...], ...]


def _grids(results: _Results, out: Path) -> list[_Grid]:
    keys = {system.label or key: key for key, system in results.systems.items()}
    grids = []
    for pairs in sorted({item.pairs for item in results.pictures}):
        items = [item for item in results.pictures if item.pairs == pairs]
        columns = dict.fromkeys(_column(name) for item in items for name, _ in item.cells)
        # A column that only a later picture has still stands between the input and the target.
        order = sorted(columns, key=lambda name: (name == "target") - (name == "input"))
        titles = {name: results.label(keys.get(name, name)) for name in order}
        rows = []
        for item in items:
            row = {name: _Shown(None, title, "") for name, title in titles.items()}
            for name, file in item.cells:
                path = out / file
                psnr = f"{_number(item.psnr[name])} dB" if name in item.psnr else ""
                title = name if _column(name) != name else titles[name]
                row[_column(name)] = _Shown(path if path.is_file() else None, title, psnr)
            rows.append(tuple(row.values()))
        if any(shown.file for row in rows for shown in row):
            grids.append(_Grid(pairs, tuple(titles.values()), tuple(item.name for item in items), tuple(rows)))
    return grids


def _column(name: str) -> str:
    """An input that is shown brighter, such as ``input (gamma 2.2)``, stands where the others do."""
    return "input" if name.startswith("input (") else name


def _sheets(grids: Sequence[_Grid], folder: _Folder) -> _Section:
    plots = []
    for grid in grids:
        file = f"plots/pictures_{grid.pairs}.png"
        pictures = [
            [None if shown.file is None else to_bit_depth(read_image(shown.file), "8") for shown in row]
            for row in grid.rows
        ]
        captions = [
            [
                shown.psnr or (shown.title if shown.title != column else "")
                for column, shown in zip(grid.columns, row, strict=True)
            ]
            for row in grid.rows
        ]
        save_grid(
            folder.out / file, pictures, grid.columns, grid.names, captions=captions, cell_width=240, font_size=13
        )
        folder.written[file] = folder.out / file
        plots.append(_Plot(file, f"Test pictures, {_count(grid.pairs, 'pair')}; below them their PSNR."))
    return _Section("Pictures", plots=plots)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _jpeg(path: Path, width: int) -> bytes:
    image = Image.fromarray(to_bit_depth(read_image(path), "8"))
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _picture_rows(grids: Sequence[_Grid], room: int) -> tuple[list[dict[str, Any]], int]:
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
            pages.append({"title": _count(grid.pairs, "pair"), "columns": len(grid.columns), "rows": rows})
        if not left_out:
            break
    return pages, left_out


# --- the report -----------------------------------------------------------------------------------------------------


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
    results = _parse(content, str(file))

    folder = _Folder(out)
    grids = _grids(results, out)
    parts = _sections(results, folder)
    sections = [part for part in parts if isinstance(part, _Section)]
    absent = [part for part in parts if isinstance(part, str)]
    if not grids:
        absent.append("Pictures: there are none.")

    markdown = out / "report.md"
    # The sheets of pictures are for Markdown; the page has the pictures themselves, which can be larger.
    sheets = [_sheets(grids, folder)] if grids else []
    markdown.write_text(_markdown(results, [*sections, *sheets], absent), encoding="utf-8")
    page = out / "report.html"
    page.write_text(_page(results, sections, absent, grids, out), encoding="utf-8")
    return {"report.md": markdown, "report.html": page, **folder.written}


def _sections(results: _Results, folder: _Folder) -> list[_Section | str]:
    """Every part in the order of the page; text says why one is left out."""
    parts: list[_Section | str] = []
    every = results.pairs()
    if not every:
        parts.append("Results: no system was run to its end.")
    for pairs in every:
        section = _results_section(results, pairs)
        section.plots = _present([_gain_plot(results, pairs, folder)])
        parts.append(section)

    by_pairs = _present(_gain_by_pairs_plot(results, group, folder) for group in _MAIN)
    paper = _paper_section(results)
    if isinstance(paper, _Section):
        paper.plots = by_pairs
    elif by_pairs:
        parts.append(_Section("Gain and number of pairs", plots=by_pairs))
    else:
        parts.append("Gain against the number of pairs: there is one number of pairs, or no gain.")
    parts.append(paper)

    curves = _present(_curves_plot(results, pairs, group, folder) for pairs in every for group in _MAIN)
    parts.append(_Section("Training", plots=curves) if curves else "Training: no PSNR was recorded on the way.")
    kept = _present(_kept_plot(results, pairs, group, folder) for pairs in every for group in results.groups())
    parts.append(_Section("The filter", plots=kept) if kept else "The filter: no system recorded what it kept.")
    if results.f_isp:
        of_pairs = sorted({item.pairs for item in results.f_isp})
        plots = _present(_f_isp_plot(results, pairs, folder) for pairs in of_pairs)
        plots += _present(_scatter_plot(results, group, folder) for group in _MAIN)
        parts.append(_Section("f_ISP", tables=[_f_isp_table(results)], plots=plots))
    else:
        parts.append("f_ISP: nothing was measured of it.")
    inputs = sorted({item.pairs for item in results.distributions})
    plots = _present(
        _distribution_plot(results, pairs, group, folder) for pairs in inputs for group in ("", *results.groups())
    )
    parts.append(
        _Section("Real and pseudo inputs", tables=[_distribution_table(results)], plots=plots)
        if plots
        else "Real and pseudo inputs: their distributions were not recorded."
    )
    return [*parts, _search_section(results), _systems_section(results)]


def _present(plots: Iterable[_Plot | None]) -> list[_Plot]:
    return [plot for plot in plots if plot is not None]


def _facts(results: _Results) -> list[tuple[str, str]]:
    """What was run, on what, with what."""
    machine = [f"{key} {value}" for key, value in results.machine.items() if value not in (None, "")]
    numbers = "; ".join(f"{_count(pairs, 'pair')} with {_repetitions(results, pairs)}" for pairs in results.pairs())
    facts = {
        "Data": results.task,
        "Network": results.target,
        "Runs": numbers,
        "Selection": results.selection,
        "Command": results.command,
        "Version": results.version,
        "Date": results.date,
        "Machine": ", ".join(machine),
        "Computing time": _computing_time(results),
    }
    return [(key, value) for key, value in facts.items() if value]


def _computing_time(results: _Results) -> str:
    if results.seconds is None:
        return ""
    without = results.seconds_without_search
    return _duration(results.seconds) + ("" if without is None else f" ({_duration(without)} without the search)")


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _headlines(results: _Results) -> list[str]:
    """One sentence a number of pairs and system of the method."""
    lines = []
    for pairs in results.pairs():
        for row in _gain_rows(results, pairs):
            if row.group != "method" or row.stopped_early or row.gain is None:
                continue
            error = row.gain.standard_error
            spread = f" (standard error {error:.2f}, n = {row.gain.n})" if error is not None else f" (n = {row.gain.n})"
            lines.append(
                f"{_count(pairs, 'pair')}, {row.label}: {row.gain.mean:+.2f} dB over "
                f"{_reference_label(results, pairs)}{spread}."
            )
    return lines


# Markdown.


def _markdown(results: _Results, sections: Sequence[_Section], absent: Sequence[str]) -> str:
    parts = [f"# {_escape(results.title)}\n"]
    parts.append("".join(f"- {key}: {_escape(value)}\n" for key, value in _facts(results)))
    headlines = _headlines(results)
    if headlines:
        parts.append("".join(f"- {_escape(line)}\n" for line in headlines))
    if results.failed:
        lines = (f"- {_escape(item.job)}: {_escape(item.error)}\n" for item in results.failed)
        parts.append(f"## Failed\n\n{_count(len(results.failed), 'job')} did not finish:\n\n{''.join(lines)}")
    parts += [_markdown_section(section) for section in sections]
    if absent:
        parts.append("## Left out\n\n" + "".join(f"- {_escape(line)}\n" for line in absent))
    return "\n".join(parts)


def _markdown_section(section: _Section) -> str:
    parts = [f"## {_escape(section.title)}\n", *(f"{_escape(text)}\n" for text in section.text)]
    for table in section.tables:
        if table.title:
            parts.append(f"{_escape(table.title)}:\n")
        parts.append(_markdown_table(table))
    parts += [f"![{_escape(plot.caption)}]({plot.file})\n\n{_escape(plot.caption)}\n" for plot in section.plots]
    return "\n".join(parts)


def _markdown_table(table: _Table) -> str:
    rows = []
    for row in table.rows:
        cells = [f"**{_escape(row)}**"] if isinstance(row, str) else [_escape(cell) for cell in row]
        cells += [""] * (len(table.columns) - len(cells))
        rows.append(dict(zip(table.columns, cells, strict=True)))
    return markdown_table(rows)


def _escape(text: str) -> str:
    """Text as Markdown that shows it: no HTML, no emphasis, no links, one line (``|`` is left to `markdown_table`)."""
    return re.sub(r"([\\`*\[\]<>&]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


# HTML.


def _page(
    results: _Results, sections: Sequence[_Section], absent: Sequence[str], grids: Sequence[_Grid], out: Path
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
