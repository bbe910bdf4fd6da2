"""Losses (``*_loss.py``, registered when they are imported) and the loss filter of the semi-supervised phase.

A loss that is to be filtered is built with ``reduction: none``;
:func:`~semiisp_plugin.losses.per_sample.per_sample` then turns its values into one number a sample.
"""

from __future__ import annotations

from semiisp_plugin.losses.filters import filter_pseudo, mean_real_loss, semi_supervised_loss, zero_dropped_gradient
from semiisp_plugin.losses.per_sample import per_sample
from semiisp_plugin.losses.pseudo_filter import FilterResult, PseudoFilter

__all__ = [
    "FilterResult",
    "PseudoFilter",
    "filter_pseudo",
    "mean_real_loss",
    "per_sample",
    "semi_supervised_loss",
    "zero_dropped_gradient",
]
