"""What is in a benchmark's ``results.json``, and the gains in it.

Gains are paired: every test image of every repetition under one system against the same under another, with intervals
of `semiisp_plugin.report.paired`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from semiisp_plugin.report.paired import Interval, Values, paired_difference

GROUPS: dict[str, str] = {
    "supervised": "The pairs alone",
    "method": "Semi-supervised",
    "rival": "Other semi-supervised methods",
    "chosen": "Chosen by cross-validation over the pairs",
    "tried": "Tried",
    "ablation": "Ablations",
    "source": "Ways from sRGB to RAW",
}
"""The groups of systems in the order of the tables, with their headings."""


DRAWS = 8
"""Inputs that are drawn of each target where sources of pseudo inputs are tested by themselves."""


# --- what is in results.json ------------------------------------------------------------------------------------------


class Scores(msgspec.Struct):
    """Of one network on test images, at their full resolution.

    Attributes:
        images: Their names. An image has the same name in every repetition; repetitions may have other images.
        psnr: In dB, one an image; None where it is not finite.
        ssim: One an image.
    """

    images: list[str]
    psnr: list[float | None]
    ssim: list[float | None]


class Cell(msgspec.Struct):
    """One run: a repetition of a system on a task.

    Attributes:
        task: Its key in ``tasks``.
        pairs: The number of labelled pairs.
        system: Its key in ``systems``.
        seed: Of the repetition: of its pairs, photographs, weights and batches.
        test: Scores on the test images at the end.
        chosen: Of a system that cross-validation makes of others: their labels and weights, the sum of which is 1.
        kept_ratio: Iteration and the share of the pseudo pairs, 0 to 1, that the filter kept; nothing where it kept
            all.
        seconds: Time of all jobs that the run consists of; systems share jobs.
    """

    task: str
    pairs: int
    system: str
    seed: int
    test: Scores
    seconds: float
    chosen: dict[str, float] | None = None
    kept_ratio: list[tuple[float, float | None]] = []


class SourceCell(msgspec.Struct):
    """What makes the pseudo inputs of a system, by itself: the inputs of the test pairs, made of their targets.

    Attributes:
        task: Its key in ``tasks``.
        pairs: The number of labelled pairs.
        system: Its key in ``systems``.
        seed: Of the repetition.
        psnr: Of an input that was drawn, with the real one, dB: mean over draws and pictures.
        best: Of the best of the draws: mean over pictures.
        spread: How far exposure and colours of what was drawn are spread: the standard deviation, over pictures and
            draws, of the mean of a channel over that of the target's, in stops; mean of the channels.
        real_spread: The same of the real inputs.
    """

    task: str
    pairs: int
    system: str
    seed: int
    psnr: float
    best: float
    spread: float
    real_spread: float


class System(msgspec.Struct):
    """What was compared.

    Attributes:
        group: One of `GROUPS`.
        label: Its name.
        description: A sentence about it.
        photographs: Whether it learns from the photographs; otherwise from the pairs alone.
        ours: Whether it has settings that the paper does not.
    """

    group: str
    label: str
    description: str
    photographs: bool
    ours: bool


class Contrast(msgspec.Struct):
    """A comparison fixed before the run: a system against the strongest of others, by their test PSNR.

    Attributes:
        title: For the report.
        of: A key of ``systems``.
        over: Keys of ``systems``; the strongest is taken by the test itself, which favours it.
    """

    title: str
    of: str
    over: list[str]


class Task(msgspec.Struct):
    """The data: a title, a sentence, and the closest task of the paper, if there is one."""

    title: str
    description: str
    paper_task: str | None = None


class Failure(msgspec.Struct):
    """A job that did not finish, and why."""

    job: str
    error: str


class Results(msgspec.Struct):
    """The content of ``results.json``.

    Attributes:
        name: Of the benchmark.
        title: Heading of the report.
        command: What was typed.
        version: Of this package.
        date: Day of the report.
        machine: What it ran on.
        seconds: Computing time of all jobs, added up.
        workers: Processes.
        made_with: Fingerprints of the code.
        options: The whole option file.
        tasks: By their keys, in the order of the report.
        systems: What was compared, in the order of the tables within a group.
        contrasts: The headline.
        cells: Every run that was finished.
        failed: What went wrong.
        sources: What makes pseudo inputs, by itself; where a system of the group ``source`` was run.
    """

    name: str
    title: str
    command: str
    version: str
    date: str
    machine: dict[str, Any]
    seconds: float
    workers: int
    made_with: list[str]
    options: dict[str, Any]
    tasks: dict[str, Task]
    systems: dict[str, System]
    contrasts: list[Contrast]
    cells: list[Cell]
    failed: list[Failure]
    sources: list[SourceCell] = []

    def settings(self) -> list[tuple[str, int]]:
        """Every task with every number of pairs that was run, in the order of the report."""
        found = {(cell.task, cell.pairs) for cell in self.cells}
        return sorted(found, key=lambda one: (list(self.tasks).index(one[0]), one[1]))

    def of(self, task: str, pairs: int, system: str) -> list[Cell]:
        """The runs of one system on one task with one number of pairs."""
        return [c for c in self.cells if (c.task, c.pairs, c.system) == (task, pairs, system)]

    def values(self, task: str, pairs: int, system: str, metric: str = "psnr") -> Values:
        """Of each test image of each repetition."""
        return {
            (cell.seed, image): float("nan") if value is None else value
            for cell in self.of(task, pairs, system)
            for image, value in zip(cell.test.images, getattr(cell.test, metric), strict=True)
        }

    def in_group(self, group: str) -> list[str]:
        """Keys of the systems of a group, in the order of ``systems``."""
        return [key for key, system in self.systems.items() if system.group == group]

    def label(self, key: str) -> str:
        """How a system is called, with what marks it as ours."""
        system = self.systems[key]
        return f"{system.label} (ours)" if system.ours else system.label


# --- gains ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GainRow:
    """A system on one task with one number of pairs.

    Attributes:
        system: Its key in ``systems``.
        reference: Whether it is what the others are compared with.
        psnr: Mean over all test images of all repetitions, dB.
        ssim: The same of SSIM.
        gain: PSNR minus the reference's; nothing for the reference and where nothing is shared.
        seeds: How many repetitions.
    """

    system: str
    reference: bool
    psnr: float
    ssim: float
    gain: Interval | None
    seeds: int


def strongest(results: Results, task: str, pairs: int, systems: Iterable[str]) -> str | None:
    """The system of the highest mean test PSNR over the repetitions that all of them have; None if none was run."""
    cells = {key: {c.seed: c for c in results.of(task, pairs, key)} for key in systems}
    cells = {key: by_seed for key, by_seed in cells.items() if by_seed}
    if not cells:
        return None
    shared = set.intersection(*(set(by_seed) for by_seed in cells.values()))

    def mean(key: str) -> float:
        values = [v for seed, c in cells[key].items() if seed in shared or not shared for v in c.test.psnr]
        return float("-inf") if None in values else statistics.fmean(v for v in values if v is not None)

    return max(cells, key=mean)


def compare_systems(results: Results, task: str, pairs: int) -> list[GainRow]:
    """Every system against the strongest of those that learn from the pairs alone.

    Returns:
        Rows in the order of `GROUPS`, and of ``systems`` within a group.
    """
    best = strongest(results, task, pairs, (key for key, s in results.systems.items() if not s.photographs))
    base = results.values(task, pairs, best) if best else {}
    rows = []
    for key in (key for group in GROUPS for key in results.in_group(group)):
        psnr, ssim = (results.values(task, pairs, key, metric) for metric in ("psnr", "ssim"))
        if psnr:
            gain = None if key == best else paired_difference(psnr, base)
            mean_psnr, mean_ssim = (statistics.fmean(values.values()) for values in (psnr, ssim))
            rows.append(GainRow(key, key == best, mean_psnr, mean_ssim, gain, len({seed for seed, _ in psnr})))
    return rows


@dataclass(frozen=True)
class ContrastRow:
    """A contrast on one task with one number of pairs: over which system, and the difference in dB.

    The difference is None where the two share no image, or a PSNR is not finite.
    """

    contrast: Contrast
    task: str
    pairs: int
    over: str
    psnr: float
    difference: Interval | None


def contrasts(results: Results) -> list[ContrastRow]:
    """Every contrast on every task with every number of pairs, where both sides were run."""
    rows = []
    for contrast in results.contrasts:
        for task, pairs in results.settings():
            over = strongest(results, task, pairs, contrast.over)
            ours = results.values(task, pairs, contrast.of)
            if over and ours:
                difference = paired_difference(ours, results.values(task, pairs, over))
                rows.append(ContrastRow(contrast, task, pairs, over, statistics.fmean(ours.values()), difference))
    return rows
