"""The page of ``basicsr learn``: what was learned, how good it is, and pictures to judge it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from semiisp_plugin.report.page import Page, Pictures, Section, Slider
from semiisp_plugin.report.paired import Interval, paired_difference
from semiisp_plugin.report.tables import Table

_CROP = 300  # pixels


@dataclass(frozen=True)
class HeldOut:
    """A labelled pair as networks render it that were not trained on it.

    Attributes:
        name: Of the pair.
        psnr: Of the output, dB.
        psnr_alone: Of that of the pairs alone, dB.
        input: RGB (H, W, 3) ``uint8``, to be looked at.
        output: Of what is kept, the same size.
        alone: Of the best that the pairs alone train, the same size.
        target: The same size.
    """

    name: str
    psnr: float
    psnr_alone: float
    input: np.ndarray
    output: np.ndarray
    alone: np.ndarray
    target: np.ndarray


@dataclass
class Learned:
    """What was learned.

    Attributes:
        labels: Of the candidates.
        images: Names of the pairs.
        psnr: Of each candidate, on pairs it was not trained on, (images,) in dB.
        chosen: The candidates that are kept, with weights whose sum is 1.
        chosen_psnr: Of their mean.
        supervised: Likewise, of those that learn from the pairs alone.
        supervised_psnr: Of their mean.
        of_fewer: Numbers of pairs and f_ISP's PSNR when it is trained on so many.
        facts: About the data and the training, names and texts.
        photographs: How many were used.
        typical: Some pairs.
        worst: Those that fit worst.
        pictures: Photographs before and after, by name.
    """

    labels: Mapping[str, str]
    images: Sequence[str]
    psnr: Mapping[str, np.ndarray]
    chosen: Mapping[str, float]
    chosen_psnr: np.ndarray
    supervised: Mapping[str, float]
    supervised_psnr: np.ndarray
    of_fewer: Sequence[tuple[float, float]]
    facts: list[tuple[str, str]]
    photographs: int
    typical: Sequence[HeldOut] = field(default_factory=list)
    worst: Sequence[HeldOut] = field(default_factory=list)
    pictures: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def gain(self) -> Interval | None:
        """What is kept minus the best that the pairs alone train, image by image."""
        kept, other = (
            {(0, name): float(value) for name, value in zip(self.images, psnr, strict=True)}
            for psnr in (self.chosen_psnr, self.supervised_psnr)
        )
        return paired_difference(kept, other)

    def named(self, weights: Mapping[str, float]) -> str:
        """What is kept, in words."""
        if len(weights) == 1:
            return self.labels[next(iter(weights))]
        parts = [f"{weight:.0%} {self.labels[name]}" for name, weight in weights.items()]
        return f"the mean of {', '.join(parts)}"

    def table(self) -> Table:
        """PSNR of candidates, and of what is kept."""
        rows: list[tuple[str, ...]] = [
            (label, f"{self.psnr[name].mean():.2f}", f"{self.chosen.get(name, 0):.0%}")
            for name, label in self.labels.items()
        ]
        rows.append(("what is kept", f"{self.chosen_psnr.mean():.2f}", "100%"))
        return Table(("candidate", "PSNR [dB]", "weight in what is kept"), rows, (1, 2))

    def verdict(self) -> str:
        """How good it is, and what the photographs brought, in words."""
        error = float(self.chosen_psnr.std(ddof=1) / len(self.images) ** 0.5)
        kept = (
            f"Kept: {self.named(self.chosen)}. On pairs it was not trained on: {self.chosen_psnr.mean():.2f} dB "
            f"(standard error {error:.2f}, {len(self.images)} pairs)."
        )
        if not self.photographs:
            return f"{kept} It has learned from the pairs alone."
        gain = self.gain()
        if "semi" not in self.chosen or gain is None:
            advice = "What may: more pairs, or photographs of what yours show."
            return f"{kept} The photographs did not help here: the pairs alone train what is best. {advice}"
        best = f"the best that your pairs alone train ({self.named(self.supervised)})"
        if gain.above_zero:
            return f"{kept} Better than {best} by {gain.mean:.2f} dB, sure to 95 %: {gain}."
        return f"{kept} Better than {best} by {gain.mean:.2f} dB, which may be chance: {gain}."

    def more_pairs(self) -> str:
        """What more pairs would bring, from what fewer cost; empty where it was not measured."""
        if len(self.of_fewer) < 2:
            return ""
        (few, low), (many, high) = self.of_fewer[0], self.of_fewer[-1]
        per_doubling = (high - low) / np.log2(many / few)
        if per_doubling < 0.1:
            return "More pairs of this kind would bring little: fewer were as good."
        return f"Every doubling of the pairs brought f_ISP {per_doubling:.1f} dB; the next may bring as much, or less."


def write_report(out: Path, learned: Learned) -> dict[str, Path]:
    """Write ``report.html`` and ``report.md``; returns them by name."""
    sections = [Section("The candidates", tables=[learned.table()])]
    if learned.of_fewer:
        rows = [(f"{pairs:.0f}", f"{psnr:.2f}") for pairs, psnr in learned.of_fewer]
        table = Table(("pairs", "f_ISP's PSNR [dB]"), rows, (0, 1))
        sections.append(Section("Would more pairs help?", text=[learned.more_pairs()], tables=[table]))
    about = [
        "Every figure is of pairs that the network was not trained on: of cross-validation over your pairs. The model "
        "itself is trained on all of them.",
        "Intervals are of the images alone; another start of the trainings may differ as well.",
        "All pseudo pairs are trained on: with few pairs, the filter of the paper brought nothing.",
    ]
    sections.append(Section("How this was measured", text=about))
    sliders = [
        Slider(f"{one.name}: input and result, {one.psnr:.2f} dB", one.input, one.output) for one in learned.typical
    ]
    sliders += [Slider(f"{name}: photograph and result", *both) for name, both in learned.pictures.items()]
    grids = []
    for title, chosen, cut in (
        ("At 100 %: noise and steps would show", learned.typical, _middle),
        ("Pairs it fits worst: misaligned, or edited in another way?", learned.worst, lambda image: image),
    ):
        if chosen:
            differ = dict(learned.chosen) != dict(learned.supervised)
            rows_ = []
            for one in chosen:
                cells = [(cut(one.input), ""), (cut(one.output), f"{one.psnr:.2f} dB"), (cut(one.target), "")]
                if differ:
                    cells.insert(1, (cut(one.alone), f"{one.psnr_alone:.2f} dB"))
                rows_.append((one.name, cells))
            columns = ("input", *(("the pairs alone",) if differ else ()), "result", "target")
            grids.append(Pictures(title, columns, rows_))
    page = Page("What was learned", [("Result", learned.verdict()), *learned.facts], sections, grids, sliders=sliders)
    return page.write(out)


def _middle(image: np.ndarray) -> np.ndarray:
    """The part in the middle, pixel for pixel."""
    height, width = image.shape[:2]
    top, left = max(0, (height - _CROP) // 2), max(0, (width - _CROP) // 2)
    return np.ascontiguousarray(image[top : top + _CROP, left : left + _CROP])


def summary(learned: Learned) -> dict[str, Any]:
    """Its figures, as plain values."""
    gain = learned.gain()
    return {
        "kept": dict(learned.chosen),
        "psnr": float(learned.chosen_psnr.mean()),
        "standard_error": float(learned.chosen_psnr.std(ddof=1) / len(learned.images) ** 0.5),
        "of_pairs_alone": {"kept": dict(learned.supervised), "psnr": float(learned.supervised_psnr.mean())},
        "gain": None if gain is None else [gain.mean, gain.low, gain.high],
        "candidates": {name: float(psnr.mean()) for name, psnr in learned.psnr.items()},
        "images": {name: float(psnr) for name, psnr in zip(learned.images, learned.chosen_psnr, strict=True)},
        "of_fewer": [list(point) for point in learned.of_fewer],
    }
