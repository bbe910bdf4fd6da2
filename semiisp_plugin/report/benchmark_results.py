"""What is in a benchmark's ``results.json``, and the gains in it.

Gains are paired: a repetition (a seed on a fold of the test images) of one system is compared with the same repetition
of the supervised baseline that was best on the validation pairs, so that what a fold makes easy or hard cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

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

MAIN_GROUPS = ("method", "help")
"""The groups that plots show beside the baselines."""

PAPERS_SETTING = "paper's setting"
"""What is added to the label of the paper's own setting."""


# --- what is in results.json ------------------------------------------------------------------------------------------


class Score(msgspec.Struct):
    """Of one network on some images: the means of PSNR in dB and of SSIM; None where it was not measured."""

    psnr: float | None = None
    ssim: float | None = None


class EarlyStop(msgspec.Struct):
    """The iteration at which a run was best on the validation pairs, and its scores there."""

    iteration: int
    validation: Score | None = None
    test: Score | None = None


class Cell(msgspec.Struct):
    """One run: a repetition of a system with a number of pairs.

    Attributes:
        pairs: The number of labelled pairs.
        system: Its key in ``systems``.
        repetition: Name of the repetition, the same for all systems.
        seed: Seed of the repetition.
        fold: Fold of the data that its test images are of; None where the data has no folds.
        chosen: Settings of its system, those that were searched for as they were chosen.
        validation: Scores on the validation pairs at the end.
        test: Scores on the test images at the end.
        early_stopped: Where it would have been stopped; None where that is not asked.
        kept_ratio: Iteration and the share of the pseudo pairs, 0 to 1, that the filter kept.
    """

    pairs: int
    system: str
    repetition: str
    seed: int | None = None
    fold: int | None = None
    chosen: dict[str, Any] = {}
    validation: Score | None = None
    test: Score | None = None
    early_stopped: EarlyStop | None = None
    kept_ratio: list[tuple[float, float | None]] = []


class System(msgspec.Struct):
    """What was compared: one of `GROUPS` or another, how it is called, whether it is ours, and a sentence about it."""

    group: str
    label: str | None = None
    ours: bool = False
    description: str = ""


class Candidate(msgspec.Struct):
    """Settings that were tried in the search.

    Attributes:
        pairs: The number of labelled pairs.
        system: The key of the system.
        candidate: The settings.
        validation_psnr: Validation PSNR in dB, one a repetition: what is chosen by.
        test_psnr: Test PSNR in dB, one a repetition: nothing is chosen by it; it shows what a choice was worth.
        chosen: Whether it was chosen.
    """

    pairs: int
    system: str
    candidate: dict[str, Any]
    validation_psnr: list[float | None] = []
    test_psnr: list[float | None] = []
    chosen: bool = False


class Pictures(msgspec.Struct):
    """One test image as the systems render it.

    Attributes:
        pairs: The number of labelled pairs.
        name: Of the image.
        cells: A system's label, ``input`` or ``target``, and the picture's file below the benchmark's folder.
        psnr: PSNR in dB by label.
    """

    pairs: int
    name: str
    cells: list[tuple[str, str]]
    psnr: dict[str, float | None] = {}


class Failure(msgspec.Struct):
    """A job that did not finish, and why."""

    job: str
    error: str


class Results(msgspec.Struct):
    """The content of ``results.json``; keys that are not named here are not read.

    Attributes:
        title: Heading of the report.
        systems: What was compared, in the order of the tables within a group.
        cells: Every run that was finished.
        name: Of the benchmark.
        task: One sentence about the data.
        command: What was typed.
        version: Of this package.
        date: Day of the report.
        machine: What it ran on.
        seconds: Computing time of all jobs, added up.
        seconds_without_search: The same without those that only the search needed.
        paper_setting: The system that is the paper's own setting; None for all of the method that are not ours.
        target: The target network.
        paper_task: The task of the paper that is closest; None where there is none.
        selection: How settings and the baseline were chosen.
        options: The whole option file.
        best_supervised: By number of pairs (as text): the system that the others are compared with.
        search: Everything that was tried.
        pictures: Test images.
        failed: What went wrong.
    """

    title: str
    systems: dict[str, System]
    cells: list[Cell]
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
    search: list[Candidate] = []
    pictures: list[Pictures] = []
    failed: list[Failure] = []

    def pairs(self) -> list[int]:
        """Every number of pairs that was run, in ascending order."""
        return sorted({cell.pairs for cell in self.cells})

    def of(self, pairs: int, system: str) -> list[Cell]:
        """The runs of one system with one number of pairs."""
        return [cell for cell in self.cells if cell.pairs == pairs and cell.system == system]

    def groups(self) -> list[str]:
        """Those of `GROUPS`, then others in the order of ``systems``."""
        return list(dict.fromkeys([*GROUPS, *(system.group for system in self.systems.values())]))

    def in_group(self, group: str) -> list[str]:
        """Keys of the systems of a group, in the order of ``systems``."""
        return [key for key, system in self.systems.items() if system.group == group]

    def reference(self, pairs: int) -> str | None:
        """The system that the others are compared with; None where there is none."""
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


def parse_results(results: Mapping[str, Any], where: str = "results") -> Results:
    """Check the content of a ``results.json``.

    Args:
        results: What the file holds.
        where: The file, for messages.

    Raises:
        ValueError: It does not have the form of a benchmark's; the message names the key.
    """
    try:
        parsed = msgspec.convert(dict(results), Results)
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


def group_heading(group: str) -> str:
    """Heading of a group of systems."""
    return GROUPS.get(group, group)


# --- gains ------------------------------------------------------------------------------------------------------------


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


def compare_systems(results: Results, pairs: int) -> list[GainRow]:
    """Compare every system with the best supervised baseline, repetition by repetition.

    Args:
        results: From `parse_results`.
        pairs: The number of pairs; systems that were not run with it are left out.

    Returns:
        Rows in the order of `GROUPS`, and of ``systems`` within a group. A system that was stopped early has a second
        row after its first; both are compared with the reference at the end of its training.
    """
    reference = results.reference(pairs)
    base = psnr_by_repetition(results.of(pairs, reference) if reference else [])
    rows = []
    for group in results.groups():
        for key in results.in_group(group):
            cells = results.of(pairs, key)
            early = [cell for cell in cells if cell.early_stopped is not None]
            rows += [_gain_row(results, key, cells, base, key == reference, False)] if cells else []
            rows += [_gain_row(results, key, early, base, False, True)] if early else []
    return rows


def _gain_row(
    results: Results, key: str, cells: Sequence[Cell], base: Mapping[str, float], reference: bool, early: bool
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
        psnr=spread_of(scores[repetition].psnr for repetition in shared),
        ssim=spread_of(scores[repetition].ssim for repetition in shared),
        gain=None if reference else spread_of(paired_gains(psnr_by_repetition(cells, early), base).values()),
    )


def _test(cell: Cell, early: bool) -> Score | None:
    if not early:
        return cell.test
    return cell.early_stopped.test if cell.early_stopped else None


def psnr_by_repetition(cells: Iterable[Cell], early: bool = False) -> dict[str, float]:
    """Test PSNR in dB of those runs that have one.

    Args:
        cells: Runs of one system with one number of pairs.
        early: Whether at the iteration that was best on the validation pairs, and not at the end.
    """
    scores = {cell.repetition: _test(cell, early) for cell in cells}
    return {repetition: s.psnr for repetition, s in scores.items() if s is not None and s.psnr is not None}


def paired_gains(psnr: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """PSNR minus the reference's, of the repetitions that both have."""
    return {repetition: value - base[repetition] for repetition, value in psnr.items() if repetition in base}


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """The values that are there; None where there is none."""
    present = tuple(value for value in values if value is not None)
    return Spread(present) if present else None
