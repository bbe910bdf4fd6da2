"""The section ``train: scheduler``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from semiisp_plugin.options.basicsr_structures import SchedulerKeys
from semiisp_plugin.options.messages import kind_of, nearest, short
from semiisp_plugin.options.sections import check_call, check_section, missing
from semiisp_plugin.options.source import Keys, Source

# The options of our schedules, for `check_call`; what they do is in `semiisp_plugin.models.learning_rate`.


def _cosine_annealing(
    total_iter: int = 0, eta_min_ratio: float = 1e-3, eta_min: float | None = None, start_iter: int = 0
) -> None: ...


def _true_cosine(T_max: int, eta_min: float = 0.0) -> None: ...  # torch's name


def _cosine_restart_cyclic(
    periods: list[int], restart_weights: list[float] | None = None, eta_mins: list[float] | None = None
) -> None: ...


def _constant() -> None: ...


_PERIODIC = ("CosineAnnealingRestartLR", "CosineAnnealingRestartCyclicLR")


def schedulers(ours: bool) -> dict[str, Callable[..., Any]]:
    """Schedules and what takes their options; ``ours``: of our models, which have some more."""
    from semiisp_plugin.toolbox import lr_schedulers

    own = {
        "CosineAnnealing": _cosine_annealing,
        "TrueCosineAnnealingLR": _true_cosine,
        "CosineAnnealingRestartCyclicLR": _cosine_restart_cyclic,
        "Constant": _constant,
    }
    return {
        **(own if ours else {}),
        "MultiStepLR": lr_schedulers.MultiStepRestartLR,
        "MultiStepRestartLR": lr_schedulers.MultiStepRestartLR,
        "CosineAnnealingRestartLR": lr_schedulers.CosineAnnealingRestartLR,
    }


def check_scheduler(section: Any, ours: bool, train: dict[str, Any], source: Source, keys: Keys) -> None:
    """The section ``train: scheduler``.

    Args:
        section: The section.
        ours: As in `schedulers`.
        train: The section ``train``, whose ``total_iter`` and learning rate a schedule has to fit.
        source: For the message.
        keys: Where the section stands.

    Raises:
        OptionError: The first thing found wrong.
    """
    kinds = schedulers(ours)
    if not isinstance(section, dict):
        source.fail(keys, f"expected a section, not {kind_of(section)}.")
    if "type" not in section:
        missing(section, "type", source, keys, f"the key 'type' is missing. Known: {', '.join(kinds)}.")
    kind = section["type"]
    if not isinstance(kind, str) or kind not in kinds:
        message = f"no scheduler '{short(kind)}'{nearest(str(kind), kinds)} Known: {', '.join(kinds)}."
        source.fail((*keys, "type"), message)
    check_call(section, kinds[kind], source, keys, ("optimizer", "last_epoch"), kind)
    check_section(section, SchedulerKeys, source, keys)
    for key in [k for k, value in section.items() if value is None]:
        if key in ("T_max", "periods", "milestones"):
            source.fail((*keys, key), "is empty; give iterations.")
        del section[key]  # `~` stands for the default
    total_iter = train.get("total_iter")
    total_iter = total_iter if isinstance(total_iter, (int, float)) else None
    if kind in _PERIODIC:
        _check_periods(section, ours, total_iter, source, keys)
    elif kind == "CosineAnnealing":
        _check_cosine(section, train, source, keys)
    for key in ("eta_min", "eta_min_ratio", "eta_mins", "restart_weights") if ours else ():
        given = section.get(key, [])
        for value in given if isinstance(given, list) else [given]:
            if not (math.isfinite(value) and value >= 0):
                source.fail((*keys, key), f"expected a finite number of 0 or more, got {value}.")
    if kind == "TrueCosineAnnealingLR" and section["T_max"] < 1:
        source.fail((*keys, "T_max"), f"expected iterations, at least 1, got {section['T_max']}.")


def _check_cosine(section: dict[str, Any], train: dict[str, Any], source: Source, keys: Keys) -> None:
    if "eta_min" in section and "eta_min_ratio" in section:
        source.fail((*keys, "eta_min"), "eta_min_ratio is given, too: one says the floor as a rate, one as a share.")
    rate = (train.get("optim_g") or {}).get("lr")
    if isinstance(rate, (int, float)) and section.get("eta_min", 0) > rate:
        source.fail(
            (*keys, "eta_min"),
            f"is above the learning rate, {rate:g}, so that the rate would rise. A share of it is eta_min_ratio.",
        )
    if section.get("eta_min_ratio", 0) > 1:
        source.fail(
            (*keys, "eta_min_ratio"), f"is a share of the learning rate, 0 to 1; got {section['eta_min_ratio']}."
        )
    total, start = section.get("total_iter", train.get("total_iter")), section.get("start_iter", 0)
    if section.get("total_iter", 1) < 1:
        source.fail((*keys, "total_iter"), f"expected iterations, at least 1, got {total}.")
    if start < 0 or (isinstance(total, (int, float)) and start >= total):
        source.fail((*keys, "start_iter"), f"expected an iteration from 0 on, before the end ({total}); got {start}.")


def _check_periods(section: dict[str, Any], ours: bool, total_iter: float | None, source: Source, keys: Keys) -> None:
    periods, kind = section["periods"], section["type"]
    if not periods or any(not p >= 1 for p in periods):
        source.fail((*keys, "periods"), f"expected iterations of each period, each at least 1; got {periods}.")
    # BasicSR's own default is one weight, whatever the number of periods.
    default = {"restart_weights": 1} if kind == "CosineAnnealingRestartLR" else {}
    for key in ("restart_weights", "eta_mins"):
        values = section.get(key)
        count = default.get(key) if values is None else len(values)
        if count is not None and count != len(periods):
            where = (*keys, key) if values is not None else keys
            source.fail(where, f"periods has {len(periods)} entries and {key} {count}; give one for each period.")
    if total_iter is None:
        return
    end, length = f"after {sum(periods)} iterations", f"training after {total_iter:.0f} (train:total_iter)"
    # The last iteration is the one after so many steps.
    if sum(periods) < total_iter - 1 and ours:
        source.fail((*keys, "periods"), f"they end {end}, {length}; let them add up to it.")
    if sum(periods) < total_iter - 1:
        source.warn((*keys, "periods"), f"they end {end}, {length}: {kind} has no learning rate for what follows.")
    if sum(periods) > total_iter:
        source.warn((*keys, "periods"), f"they end {end}, {length}: the schedule is cut off.")
