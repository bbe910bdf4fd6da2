"""What is in a benchmark's ``results.json``, and the gains in it.

Gains are paired: a repetition (a seed on a fold of the test images) of one system is compared with the same repetition
of the supervised baseline that was best on the validation pairs, so that what a fold makes easy or hard cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from semiisp_plugin.report.tables import Spread

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
"""The groups of systems in the order of the tables, with their headings."""

MAIN_GROUPS = ("method", "help")
"""The groups that plots show beside the baselines."""

PAPERS_SETTING = "paper's setting"
"""What is added to the label of the paper's own setting."""


# --- what is in results.json ------------------------------------------------------------------------------------------


class Score(msgspec.Struct):
    """Of one network on some images: the means of PSNR in dB and of SSIM; None where it was not measured."""

    psnr: float | None
    ssim: float | None = None


class Point(msgspec.Struct):
    """The scores of a run at an iteration."""

    iteration: int
    validation: Score
    test: Score


class Cell(msgspec.Struct):
    """One run: a repetition of a system with a number of pairs.

    Attributes:
        pairs: The number of labelled pairs.
        system: Its key in ``systems``.
        repetition: Name of the repetition, the same for all systems.
        seed: Seed of the repetition.
        fold: Fold of the data that its test images are of; None where the data has no folds.
        chosen: Settings of its system that were searched for, as they were chosen.
        validation: Scores on the validation pairs at the end.
        test: Scores on the test images at the end.
        early_stopped: The iteration that was best on the validation pairs; None where that is not asked.
        curve: PSNR over the iterations.
        kept_ratio: Iteration and the share of the pseudo pairs, 0 to 1, that the filter kept.
        seconds: Time of the job that ends the run.
    """

    pairs: int
    system: str
    repetition: str
    seed: int
    fold: int | None
    chosen: dict[str, Any]
    validation: Score
    test: Score
    early_stopped: Point | None
    curve: list[Point]
    kept_ratio: list[tuple[float, float | None]]
    seconds: float


class System(msgspec.Struct):
    """What was compared: one of `GROUPS`, its name, whether it is ours, a sentence about it, and what is trained."""

    group: str
    label: str
    ours: bool
    description: str
    kind: str


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
    validation_psnr: list[float | None]
    chosen: bool
    test_psnr: list[float | None] = []  # older files lack it


class Failure(msgspec.Struct):
    """A job that did not finish, and why."""

    job: str
    error: str


class Results(msgspec.Struct):
    """The content of ``results.json``.

    Attributes:
        name: Of the benchmark.
        title: Heading of the report.
        task: One sentence about the data.
        command: What was typed.
        version: Of this package.
        date: Day of the report.
        machine: What it ran on.
        seconds: Computing time of all jobs, added up.
        seconds_without_search: The same without those that only the search needed.
        workers: Processes.
        target: The target network.
        paper_task: The task of the paper that is closest; None where there is none.
        paper_setting: The system that is the paper's own setting.
        selection: How settings and the baseline were chosen.
        made_with: Fingerprints of the code.
        options: The whole option file.
        systems: What was compared, in the order of the tables within a group.
        best_supervised: By number of pairs: the system that the others are compared with.
        cells: Every run that was finished.
        search: Everything that was tried.
        failed: What went wrong.
    """

    name: str
    title: str
    task: str
    command: str
    version: str
    date: str
    machine: dict[str, Any]
    seconds: float
    seconds_without_search: float
    workers: int
    target: str
    paper_task: str | None
    paper_setting: str
    selection: str
    made_with: list[str]
    options: dict[str, Any]
    systems: dict[str, System]
    best_supervised: dict[int, str]
    cells: list[Cell]
    search: list[Candidate]
    failed: list[Failure]

    def pairs(self) -> list[int]:
        """Every number of pairs that was run, in ascending order."""
        return sorted({cell.pairs for cell in self.cells})

    def of(self, pairs: int, system: str) -> list[Cell]:
        """The runs of one system with one number of pairs."""
        return [cell for cell in self.cells if cell.pairs == pairs and cell.system == system]

    def in_group(self, group: str) -> list[str]:
        """Keys of the systems of a group, in the order of ``systems``."""
        return [key for key, system in self.systems.items() if system.group == group]

    def label(self, key: str) -> str:
        """How a system is called, with what marks it as ours."""
        system = self.systems[key]
        return f"{system.label} (ours)" if system.ours and "(ours)" not in system.label else system.label


# --- gains ------------------------------------------------------------------------------------------------------------


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
        gain: PSNR minus the reference's of the same repetition, in dB; nothing for the reference and where nothing is
            shared.
    """

    system: str
    label: str
    group: str
    stopped_early: bool
    reference: bool
    psnr: Spread
    ssim: Spread
    gain: Spread


def compare_systems(results: Results, pairs: int) -> list[GainRow]:
    """Compare every system with the best supervised baseline, repetition by repetition.

    Args:
        results: Of a benchmark.
        pairs: The number of pairs; systems that were not run with it are left out.

    Returns:
        Rows in the order of `GROUPS`, and of ``systems`` within a group. A system that was stopped early has a second
        row after its first; both are compared with the reference at the end of its training.
    """
    best = results.best_supervised.get(pairs, "")
    base = _scores(results.of(pairs, best), early=False)
    rows = []
    for key in (key for group in GROUPS for key in results.in_group(group)):
        cells = results.of(pairs, key)
        for early, of_row in ((False, cells), (True, [cell for cell in cells if cell.early_stopped])):
            if not of_row:
                continue
            scores, reference = _scores(of_row, early), key == best and not early
            both = [repetition for repetition in scores if repetition in base]
            shown = [scores[repetition] for repetition in both or scores]
            marks = [PAPERS_SETTING] * (key == results.paper_setting) + ["stopped early"] * early
            rows.append(
                GainRow(
                    system=key,
                    label=", ".join([results.label(key), *marks]),
                    group=results.systems[key].group,
                    stopped_early=early,
                    reference=reference,
                    psnr=Spread(psnr for psnr, _ in shown),
                    ssim=Spread(ssim for _, ssim in shown if ssim is not None),
                    gain=Spread(scores[r][0] - base[r][0] for r in both if not reference),
                )
            )
    return rows


def _scores(cells: Sequence[Cell], early: bool) -> dict[str, tuple[float, float | None]]:
    """Test PSNR in dB and SSIM by repetition, of the runs that have one."""
    scores = {cell.repetition: cell.early_stopped.test if early and cell.early_stopped else cell.test for cell in cells}
    return {repetition: (s.psnr, s.ssim) for repetition, s in scores.items() if s.psnr is not None}
