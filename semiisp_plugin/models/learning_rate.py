"""Schedules of the learning rate, as pure functions of the step.

Each function here gives another one: of the number of iterations done (0 in the first one, t - 1 in iteration t), the
factor on the peak learning rate. A resumed run therefore needs to know its iteration alone. What the options mean is
checked with the option file, see `semiisp_plugin.options.check`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

Factor = Callable[[int], float]

DEFAULT_ETA_MIN_RATIO = 1e-3  # Tables 5 and 6


def cosine_with_floor(total_iter: int, eta_min_ratio: float, start_iter: int = 0) -> Factor:
    """Half a cosine from 1 down to a floor, where it stays (Tables 5 and 6).

    Args:
        total_iter: Step at which the floor is reached.
        eta_min_ratio: The floor.
        start_iter: Step at which the cosine begins; 1 until then. With a warm-up of so many iterations it is the
            schedule "linear warm-up, then cosine over what is left".
    """
    length = total_iter - start_iter

    def factor(step: int) -> float:
        t = min(max(step - start_iter, 0), length) / length
        return eta_min_ratio + (1 - eta_min_ratio) * 0.5 * (1 + math.cos(math.pi * t))

    return factor


def cosine_restart_cyclic(
    periods: Sequence[int], restart_weights: Sequence[float], eta_mins: Sequence[float], peak: float
) -> Factor:
    """Half cosines one after the other, each with a floor of its own: Restormer's and Retinexformer's.

    In period i the rate is ``eta_i + w_i / 2 (peak - eta_i) (1 + cos(pi t))``, ``t`` from 0 to 1; a step at which two
    periods meet belongs to the first. Where a floor lies above the peak the rate rises: so does Retinexformer's in its
    first period, from 2e-4 to 3e-4. With one floor for all it is BasicSR's ``CosineAnnealingRestartLR``.

    Args:
        periods: Steps of each period. After the last one the rate stays.
        restart_weights: One a period.
        eta_mins: One a period, learning rates.
        peak: The learning rate at step 0.
    """
    ends = list(accumulate(periods))

    def factor(step: int) -> float:
        step = min(step, ends[-1])
        i = next(i for i, end in enumerate(ends) if step <= end)
        t = (step - (ends[i] - periods[i])) / periods[i]
        return (eta_mins[i] + restart_weights[i] * 0.5 * (peak - eta_mins[i]) * (1 + math.cos(math.pi * t))) / peak

    return factor


def schedule_factor(settings: Mapping[str, Any], total_iter: int, peak: float) -> Factor:
    """The schedule that the section ``train: scheduler`` describes.

    Args:
        settings: The section, checked.
        total_iter: Iterations of the training.
        peak: The optimiser's learning rate.

    Raises:
        ValueError: The peak is 0 and the schedule's floor a learning rate.
    """
    kind, eta_min = settings["type"], settings.get("eta_min")
    if kind == "Constant":
        return lambda step: 1.0
    if kind == "MultiStepLR":
        gamma, milestones = settings.get("gamma", 0.1), settings["milestones"]
        return lambda step: gamma ** sum(milestone <= step for milestone in milestones)
    if not peak > 0 and (kind != "CosineAnnealing" or eta_min is not None):
        raise ValueError(
            f"train:optim_g:lr: is {peak:g}; the schedule's floor is a learning rate, so give one above 0."
        )
    if kind == "CosineAnnealing":
        floor = settings.get("eta_min_ratio", DEFAULT_ETA_MIN_RATIO) if eta_min is None else eta_min / peak
        return cosine_with_floor(settings.get("total_iter", total_iter), floor, settings.get("start_iter", 0))
    periods = settings["periods"]
    weights = settings.get("restart_weights") or [1.0] * len(periods)
    floors = settings.get("eta_mins") or [settings.get("eta_min", 0.0)] * len(periods)
    return cosine_restart_cyclic(periods, weights, floors, peak)
