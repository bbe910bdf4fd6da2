"""Losses: registered modules (``*_loss.py``) and the loss filter of the semi-supervised phase.

Importing this package registers every ``*_loss.py`` beside this file in BasicSR's ``LOSS_REGISTRY``, as BasicSR does
for its own losses. A loss that is to be filtered is built with ``reduction: none``;
:func:`~semiisp_plugin.losses.per_sample.per_sample` then turns its values into one number a sample.
"""

from __future__ import annotations

import importlib
import pkgutil

from semiisp_plugin.losses.per_sample import per_sample
from semiisp_plugin.losses.pseudo_filter import (
    FilterResult,
    PseudoFilter,
    filter_pseudo,
    mean_real_loss,
    semi_supervised_loss,
    zero_dropped_gradient,
)

__all__ = [
    "FilterResult",
    "PseudoFilter",
    "filter_pseudo",
    "mean_real_loss",
    "per_sample",
    "semi_supervised_loss",
    "zero_dropped_gradient",
]

for _module in pkgutil.iter_modules(__path__):
    if _module.name.endswith("_loss"):
        importlib.import_module(f"{__name__}.{_module.name}")
