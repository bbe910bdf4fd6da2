"""``table6`` in option files of semi-supervised learning: the paper's settings by the number of pairs (Table 6).

The classes of Table 6 are those of Table 5 (phase 1). In the copy of the paper that was read, the bounds "at most 100"
and "at most 1000" are printed as "<"; that 100 belongs to the first class follows from the paper's experiments, which
have 100, 500 and 4500 pairs. That 1000 belongs to the second is a reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

PAPER_BATCH = 20
"""Samples of the paper's batches, real and pseudo together."""

TABLE6 = "table6"
"""What an option file has in the place of the numbers."""


class Settings(NamedTuple):
    """A column of Table 6.

    Attributes:
        column: Its heading.
        real: Real samples N_r in a batch of `PAPER_BATCH`; the others are pseudo samples.
        beta: Factor on the mean real loss (eq. 12).
    """

    column: str
    real: int
    beta: float


COLUMNS = (
    (100, Settings("<= 100, without denoising", 2, 1.0)),
    (1000, Settings("<= 1000, without denoising", 4, 1.2)),
    (None, Settings("> 1000, without denoising", 6, 1.0)),
)
"""The columns without denoising, with the most pairs that each is for."""

DENOISING = Settings("<= 1000, with denoising", 4, 1.2)
"""The only column with denoising."""


def settings_for(pairs: int, denoising: bool) -> Settings:
    """The column of Table 6 for a task.

    Args:
        pairs: Real pairs that are trained on.
        denoising: Whether noise is added to the pseudo inputs (eq. 15). The paper has no column for more than 1000
            pairs with denoising: its one column with denoising is taken for those, too (ours).

    Raises:
        ValueError: There are no pairs.
    """
    if pairs < 1:
        raise ValueError(f"`table6` goes by the number of real pairs, which is {pairs}.")
    if denoising:
        return DENOISING
    return next(settings for most, settings in COLUMNS if most is None or pairs <= most)


def batch_composition(settings: Settings, total: int) -> tuple[int, int]:
    """Scale N_r and N_p to batches of another size (ours; the paper's are of 20).

    The share of real samples is that of the table: ``N_r = floor(total * real / 20 + 1/2)``, at least 1 and at most
    ``total - 1``; ``N_p`` is the rest.

    Returns:
        N_r and N_p; ``(real, 20 - real)`` for a total of 20.

    Raises:
        ValueError: ``total`` is below 2, so that one of the two would be 0.
    """
    if total < 2:
        raise ValueError(
            f"A batch of {total} cannot hold real and pseudo samples; raise batch_size_per_gpu to 2 or more "
            f"(the paper's is {PAPER_BATCH})."
        )
    real = (2 * total * settings.real + PAPER_BATCH) // (2 * PAPER_BATCH)
    real = min(max(real, 1), total - 1)
    return real, total - real


def resolve_table6(opt: Mapping[str, Any], n_real: int) -> str | None:
    """Put numbers in the place of ``table6``: N_r and N_p of the training data, and the filter's ``beta``.

    Args:
        opt: Options of a run; ``datasets: train`` and ``train: filter`` are changed. ``train: noise``, estimated or
            given, says that the task denoises.
        n_real: Real pairs that are trained on, without those held out.

    Returns:
        What was chosen, for the log; None if nothing is ``table6``.

    Raises:
        ValueError: Only one of N_r and N_p is ``table6``; a batch size of 1; or no pairs.
    """
    data = opt["datasets"]["train"]
    counts = [data.get(key) == TABLE6 for key in ("real_per_batch", "pseudo_per_batch")]
    section = opt["train"].get("filter") or {}
    if any(counts) and not all(counts):
        raise ValueError("datasets:train: real_per_batch and pseudo_per_batch are both `table6`, or both are numbers.")
    if not any(counts) and section.get("beta") != TABLE6:
        return None
    settings = settings_for(n_real, opt["train"].get("noise") is not None)
    chosen = []
    if all(counts):
        total = int(data.get("batch_size_per_gpu") or PAPER_BATCH)
        real, pseudo = batch_composition(settings, total)
        data["real_per_batch"], data["pseudo_per_batch"] = real, pseudo
        scaled = "" if total == PAPER_BATCH else f" ({settings.real} + {PAPER_BATCH - settings.real}, scaled)"
        chosen.append(f"{real} real and {pseudo} pseudo samples a batch{scaled}")
    if section.get("beta") == TABLE6:
        section["beta"] = settings.beta
        chosen.append(f"beta {settings.beta}")
    beyond = " (the paper has none for more pairs with denoising)" if settings is DENOISING and n_real > 1000 else ""
    return f"table6: {', '.join(chosen)}: {n_real} real pairs, column '{settings.column}' of Table 6{beyond}."
