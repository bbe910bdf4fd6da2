"""The pseudo-data filter with its state (section 3 of the paper, equations 10-12).

A pseudo pair whose loss exceeds ``beta`` times the mean loss of the batch's real pairs is dropped: it is likely to be
one that the ISP could not invert well. Real pairs are never dropped. That is the paper's filter and the default; the
filters themselves, pure functions, and the loss that is made of their weights are in `semiisp_plugin.losses.filters`.

What is not a number:

* A pseudo sample whose loss is NaN or infinite is dropped. It adds nothing to the loss and gets no gradient.
* A real sample whose loss is NaN or infinite is left out of the reference, so that it cannot make the filter drop the
  whole batch, but keeps its weight 1: the total is then not finite either, and the training loop's guard sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from semiisp_plugin.losses.filters import as_reference, check_batch, mean_real_loss, upper_bound
from semiisp_plugin.options.structures import Filter
from semiisp_plugin.registry import FILTER_REGISTRY

REFERENCES = ("batch", "running", "held_out")
"""Choices of `PseudoFilter`'s reference loss; ``batch`` is the paper's."""

_WATCHED = 10
"""Weights and references of so many first calls are looked at, which makes a GPU's queue run empty."""


class FilterResult(NamedTuple):
    """What :class:`PseudoFilter` says about a batch.

    Attributes:
        weights: ``(N,)`` in [0, 1], for `semi_supervised_loss`; only 0 and 1 from the paper's filter.
        threshold: 0-dim, ``beta`` times the reference (equation 12); NaN if no real loss was finite, and for filters
            without an option ``beta``.
        kept_ratio: 0-dim float32, mean weight of the batch's pseudo samples: 1 = all kept. 0 for a batch without any.
        reference: 0-dim, the mean real loss that the filter compared with.
    """

    weights: Tensor
    threshold: Tensor
    kept_ratio: Tensor
    reference: Tensor


class PseudoFilter:
    """A filter with its options, a reference loss, and a warm-up; what it remembers goes into the checkpoint.

    Args:
        beta: Option of the filters that have it, see `threshold`. Table 6: 1.0, or 1.2 for at most 1000 images and for
            denoising.
        warmup_iter: During the first so many calls every pseudo sample with a finite loss is kept, whatever the
            filter: the losses of an untrained network say nothing about the pairs. The threshold is still reported.
            Ours; the paper has no warm-up, hence 0.
        reference: ``batch``: L_r is the mean loss of the batch's real samples (eq. 10). ``running``: it is the
            exponential moving average of that mean, which a batch with two real samples makes noisy (ours).
            ``held_out``: it is the mean loss on real pairs that are never trained on, as `set_held_out` last told
            (ours): the trained pairs are memorised, and their loss falls below that of any pseudo pair.
        momentum: Of the moving average: its memory is about ``1 / (1 - momentum)`` batches.
        type: Name of a function in ``FILTER_REGISTRY``.
        options: Its other options.

    Attributes:
        held_out: The loss that `set_held_out` last told; None before.
        calls: Batches filtered so far.

    Raises:
        KeyError: There is no such filter.
        TypeError: The filter lacks an option, or has none of that name.
        ValueError: ``beta`` or ``warmup_iter`` is negative, ``reference`` unknown, ``momentum`` not in [0, 1), or the
            filter refuses its options.
    """

    def __init__(
        self,
        beta: float | None = None,
        warmup_iter: int = 0,
        reference: str = "batch",
        momentum: float = 0.95,
        *,
        type: str = "threshold",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.options = {**({} if beta is None else {"beta": beta}), **(options or {})}
        if warmup_iter < 0:
            raise ValueError(f"The filter's `warmup_iter` must be 0 or more; got {warmup_iter}.")
        if reference not in REFERENCES:
            raise ValueError(f"The filter's `reference` is '{reference}'; choose one of {', '.join(REFERENCES)}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"The filter's `momentum` must lie in [0, 1); got {momentum}.")
        self.type = type
        self.function: Callable[..., Tensor] = FILTER_REGISTRY.get(type)
        # Wrong options are to be seen now, not when training begins.
        losses = torch.ones(2)
        weights = self.function(losses, torch.tensor([False, True]), reference=torch.tensor(1.0), **self.options)
        _check_weights(weights, losses, type)
        self.warmup_iter = warmup_iter
        self.reference = reference
        self.momentum = momentum
        self.held_out: float | None = None
        self.calls = 0
        # A tensor where the losses are: reading it makes the processor wait for a GPU.
        self._running: Tensor | None = None

    @classmethod
    def from_options(cls, settings: Mapping[str, Any], *, batches_per_iteration: int = 1) -> PseudoFilter:
        """Build it from the section ``train: filter`` of an option file.

        Args:
            settings: The section, checked: keys of `Filter`, and the filter function's own.
            batches_per_iteration: Calls that make an iteration, in which ``warmup_iter`` counts.
        """
        common = msgspec.convert(settings, Filter)
        return cls(
            warmup_iter=common.warmup_iter * batches_per_iteration,
            reference=common.reference,
            momentum=common.momentum,
            type=common.type,
            options={key: value for key, value in settings.items() if key not in Filter.__struct_fields__},
        )

    @property
    def beta(self) -> float | None:
        """The option of that name; None of filters without it."""
        return self.options.get("beta")

    @property
    def in_warmup(self) -> bool:
        """Whether the next call still keeps every pseudo sample with a finite loss."""
        return self.calls < self.warmup_iter

    @property
    def running(self) -> float | None:
        """The moving average of the mean real loss; None before the first finite one."""
        value = math.nan if self._running is None else float(self._running)
        return None if math.isnan(value) else value

    def set_held_out(self, loss: float) -> None:
        """Take the mean loss on the held-out pairs; one that is not finite does not replace one that is."""
        if self.held_out is None or math.isfinite(loss):
            self.held_out = float(loss)

    @torch.no_grad()
    def __call__(
        self, per_sample_loss: Tensor, is_pseudo: Tensor, *, reference: float | Tensor | None = None
    ) -> FilterResult:
        """Filter a batch and count.

        Args:
            per_sample_loss: ``(N,)``.
            is_pseudo: ``(N,)`` bool; on the CPU, nothing waits for a GPU.
            reference: The batch's mean real loss; None takes that of this batch. The moving average is made of it;
                with ``reference: held_out`` it is not used.

        Raises:
            ValueError: See `mean_real_loss` and the filter; there is no held-out loss yet; or a filter of the user's
                gives something else than weights.
        """
        check_batch(per_sample_loss, is_pseudo)
        watched = self.calls < _WATCHED
        level = self._reference(per_sample_loss, is_pseudo, reference, watched)
        pseudo = is_pseudo.to(per_sample_loss.device, non_blocking=True)
        if self.in_warmup:
            weights = per_sample_loss.new_ones(per_sample_loss.shape)
        else:
            weights = self.function(per_sample_loss.detach(), is_pseudo, reference=level, **self.options)
            if watched:
                _check_weights(weights, per_sample_loss, self.type)
            weights = weights.to(per_sample_loss)
        # What a filter of the user's may have forgotten.
        weights = torch.where(torch.isfinite(per_sample_loss), weights, 0)
        weights = torch.where(pseudo, weights, 1)

        kept_ratio = torch.where(pseudo, weights, 0).sum() / max(1, int(is_pseudo.sum()))
        self.calls += 1
        bound = torch.full_like(level, math.nan) if self.beta is None else upper_bound(self.beta, level)
        return FilterResult(weights, bound, kept_ratio.float(), level)

    def _reference(self, losses: Tensor, is_pseudo: Tensor, reference: float | Tensor | None, look: bool) -> Tensor:
        """The loss to compare with, 0-dim."""
        if self.reference == "held_out":
            if self.held_out is None:
                raise ValueError(
                    "The filter's `reference` is held_out, but the loss on held-out pairs is not known yet: "
                    "call `set_held_out` first (a model: `use_held_out`)."
                )
            return as_reference(self.held_out, losses, look)
        level = as_reference(mean_real_loss(losses, is_pseudo) if reference is None else reference, losses, look)
        return level if self.reference == "batch" else self._averaged(level).to(losses.dtype)

    def _averaged(self, reference: Tensor) -> Tensor:
        """Take a batch's mean real loss into the moving average, which it returns; what is not finite is left out."""
        value = reference.double()
        before = torch.full_like(value, math.nan) if self._running is None else self._running.to(value)
        # As long as the average is young it is the plain mean, not one that leans on the first batch.
        momentum = min(self.momentum, self.calls / (self.calls + 1))
        mixed = momentum * torch.where(torch.isnan(before), value, before) + (1 - momentum) * value
        self._running = torch.where(torch.isfinite(value), mixed, before)
        return self._running

    def state_dict(self) -> dict[str, Any]:
        """The count of calls, the moving average and the held-out loss, for the checkpoint."""
        return {"calls": self.calls, "running": self.running, "held_out": self.held_out}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.calls = int(state["calls"])
        running, self.held_out = state["running"], state["held_out"]
        self._running = None if running is None else torch.tensor(running, dtype=torch.float64)


def _check_weights(weights: object, losses: Tensor, name: str) -> None:
    """Raise unless a filter gave weights."""
    if not isinstance(weights, Tensor) or weights.shape != losses.shape:
        what = f"a tensor {tuple(weights.shape)}" if isinstance(weights, Tensor) else f"a {weights.__class__.__name__}"
        raise ValueError(f"The filter '{name}' gave {what}; it must give one weight a sample, {tuple(losses.shape)}.")
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(f"The filter '{name}' gave weights outside [0, 1] or NaN: {weights.tolist()}.")
