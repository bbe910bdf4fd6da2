"""The pseudo-data filter and the semi-supervised loss (section 3 of the paper, equations 10-13).

A pseudo pair whose loss exceeds ``beta`` times the mean loss of the batch's real pairs is dropped: it is likely to be
one that the ISP could not invert well. Real pairs are never dropped.

Pure functions of one value a sample (see :func:`semiisp_plugin.losses.per_sample.per_sample`), and
:class:`PseudoFilter`, which holds the options and counts.

What is not a number:

* A pseudo sample whose loss is NaN or infinite is dropped. It adds nothing to the loss and gets no gradient.
* A real sample whose loss is NaN or infinite is left out of the reference, so that it cannot make the filter drop the
  whole batch, but keeps its weight 1: the total is then not finite either, and the training loop's guard sees it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

REFERENCES = ("batch", "running")
"""Choices of `PseudoFilter`'s reference loss; ``batch`` is the paper's."""


def _check(per_sample_loss: Tensor, is_pseudo: Tensor) -> None:
    if per_sample_loss.ndim != 1 or per_sample_loss.shape != is_pseudo.shape:
        raise ValueError(
            f"The filter needs one loss and one flag a sample, both (N,); the losses are "
            f"{tuple(per_sample_loss.shape)}, `is_pseudo` is {tuple(is_pseudo.shape)}."
        )
    if is_pseudo.dtype != torch.bool:
        raise ValueError(f"`is_pseudo` must be boolean (torch.bool); got {is_pseudo.dtype}.")


def check_beta(beta: float) -> float:
    """Return ``beta`` as a float if it is a usable factor.

    Raises:
        ValueError: It is negative or NaN.
    """
    beta = float(beta)
    if not beta >= 0:
        raise ValueError(f"The filter's `beta` must be 0 or more (the paper uses 1.0 and 1.2); got {beta}.")
    return beta


@torch.no_grad()
def mean_real_loss(per_sample_loss: Tensor, is_pseudo: Tensor) -> Tensor:
    """Mean loss of the real samples (equation 10), detached.

    Args:
        per_sample_loss: ``(N,)``.
        is_pseudo: ``(N,)`` bool, on any device.

    Returns:
        0-dim, the mean over the real samples whose loss is finite; NaN if there are real samples but none is finite.

    Raises:
        ValueError: The batch has no real sample; or shapes and dtypes are wrong.
    """
    _check(per_sample_loss, is_pseudo)
    is_real = ~is_pseudo.to(per_sample_loss.device)
    if not bool(is_real.any()):
        raise ValueError(
            f"The batch of {len(is_pseudo)} has no real sample, so the filter has nothing to compare the pseudo "
            f"samples with. Put at least one real sample in each batch, or pass `reference`."
        )
    usable = is_real & torch.isfinite(per_sample_loss)
    return torch.where(usable, per_sample_loss, 0).sum() / usable.sum()


def _as_reference(reference: float | Tensor, like: Tensor) -> Tensor:
    value = torch.as_tensor(reference, dtype=like.dtype, device=like.device).detach()
    if value.numel() != 1:
        raise ValueError(f"The filter's `reference` is one number; got a tensor of shape {tuple(value.shape)}.")
    value = value.reshape(())
    if bool(value < 0):
        raise ValueError(
            f"The filter keeps pseudo samples up to beta times the mean real loss, which is {float(value):.4g}: with "
            f"negative losses (such as a negated PSNR) a larger beta would keep fewer. Use a loss that is never "
            f"negative, such as MSELoss or L1Loss."
        )
    return value


def _threshold(beta: float, reference: Tensor) -> Tensor:
    # inf * 0 would be NaN and drop everything; an infinite beta means "keep all".
    return torch.full_like(reference, math.inf) if math.isinf(beta) else beta * reference


@torch.no_grad()
def filter_pseudo(
    per_sample_loss: Tensor,
    is_pseudo: Tensor,
    *,
    beta: float,
    reference: float | Tensor | None = None,
) -> Tensor:
    """Weight of each sample in the loss (equations 10-12).

    A pseudo sample is kept where ``loss <= beta * reference`` and its loss is finite; a real sample always.

    Args:
        per_sample_loss: ``(N,)``, never negative; nothing flows back through the weights.
        is_pseudo: ``(N,)`` bool, on any device.
        beta: Factor on the reference, 0 or more. Infinity keeps every pseudo sample with a finite loss.
        reference: The mean real loss ``L_r``. None: that of this batch, :func:`mean_real_loss`. Give it for a batch
            without real samples, or the mean over all processes in distributed training (the paper does not say which
            of the two it uses).

    Returns:
        ``(N,)`` of 0 and 1, the dtype of the losses.

    Raises:
        ValueError: No real sample and no reference; a negative reference or beta; wrong shapes or dtypes.
    """
    _check(per_sample_loss, is_pseudo)
    beta = check_beta(beta)
    if reference is None:
        reference = mean_real_loss(per_sample_loss, is_pseudo)
    threshold = _threshold(beta, _as_reference(reference, per_sample_loss))
    # Both comparisons are false for NaN: what cannot be compared is dropped.
    kept = (per_sample_loss <= threshold) & torch.isfinite(per_sample_loss)
    return (~is_pseudo.to(kept.device) | kept).to(per_sample_loss.dtype)


def semi_supervised_loss(per_sample_loss: Tensor, weights: Tensor) -> Tensor:
    """Equation 13: the mean over all real and kept pseudo samples.

    The paper prints it as ``N_r/(N_r + K) L_r + K/(N_r + K) L_p`` with ``K`` kept pseudo samples; that is
    ``sum(w * L) / sum(w)``, which is also defined when none is kept.

    Args:
        per_sample_loss: ``(N,)``, with its graph.
        weights: ``(N,)``, 0 or more, from :func:`filter_pseudo`; a constant here.

    Returns:
        Scalar with a graph. Samples of weight 0 add nothing and get a gradient of exactly 0, even where their loss is
        NaN or infinite. 0 if all weights are 0.

    Raises:
        ValueError: The shapes differ or are not ``(N,)``.
    """
    if per_sample_loss.ndim != 1 or per_sample_loss.shape != weights.shape:
        raise ValueError(
            f"One loss and one weight a sample are needed, both (N,); the losses are "
            f"{tuple(per_sample_loss.shape)}, the weights {tuple(weights.shape)}."
        )
    weights = weights.detach()
    # Selected before the product: 0 * NaN is NaN, in the value and in the gradient.
    used = torch.where(weights > 0, per_sample_loss, 0)
    total = weights.sum()
    return (weights * used).sum() / torch.where(total > 0, total, 1)


def zero_dropped_gradient(output: Tensor, weights: Tensor) -> None:
    """Keep the gradient of dropped samples out of the network, also where it would be NaN.

    :func:`semi_supervised_loss` gives the *loss* of a dropped sample the gradient 0. If that loss is NaN (a target
    with NaN, an overflow in the loss), the chain rule still multiplies 0 by NaN on its way to the network's output.
    This hook cuts there. It cannot help where the network's own activations are NaN. Call it after the weights are
    known and before ``backward``.

    Args:
        output: ``(N, ...)``, the network's output. Without a graph nothing is done.
        weights: ``(N,)``, from :func:`filter_pseudo`.

    Raises:
        ValueError: The batch sizes differ.
    """
    if weights.ndim != 1 or output.ndim < 1 or output.shape[0] != weights.shape[0]:
        raise ValueError(f"Output {tuple(output.shape)} and weights {tuple(weights.shape)} have no common batch size.")
    if not output.requires_grad:
        return
    used = (weights.detach() > 0).to(output.device).reshape(-1, *[1] * (output.ndim - 1))
    output.register_hook(lambda gradient: torch.where(used, gradient, 0))


class FilterResult(NamedTuple):
    """What :class:`PseudoFilter` says about a batch.

    Attributes:
        weights: ``(N,)`` of 0 and 1, for :func:`semi_supervised_loss`.
        threshold: 0-dim, ``beta`` times the reference (equation 12); NaN if no real loss was finite.
        kept_ratio: 0-dim float32, kept over all pseudo samples of the batch: 1 = all kept. 0 for a batch without any.
    """

    weights: Tensor
    threshold: Tensor
    kept_ratio: Tensor


class PseudoFilter:
    """:func:`filter_pseudo` with its options, a warm-up and counts that go into the checkpoint.

    Args:
        beta: See :func:`filter_pseudo`. Table 6: 1.0, or 1.2 for at most 1000 images and for denoising.
        warmup_iter: During the first so many calls every pseudo sample with a finite loss is kept: the losses of an
            untrained network say nothing about the pairs. The threshold is still reported. Ours; the paper has no
            warm-up, hence 0.
        reference: ``batch``: L_r is the mean loss of the batch's real samples (eq. 10). ``running``: it is the
            exponential moving average of that mean, which a batch with two real samples makes noisy (ours).
        momentum: Of the moving average: its memory is about ``1 / (1 - momentum)`` batches.

    Attributes:
        running: The moving average of the mean real loss; None before the first batch.
        calls: Batches filtered so far.
        pseudo_seen: Pseudo samples in them.
        pseudo_kept: Those of them that were kept. In distributed training all three are of this process.

    Raises:
        ValueError: ``beta`` or ``warmup_iter`` is negative, ``reference`` unknown, ``momentum`` not in [0, 1).
    """

    def __init__(self, beta: float, warmup_iter: int = 0, reference: str = "batch", momentum: float = 0.95) -> None:
        self.beta = check_beta(beta)
        if warmup_iter < 0:
            raise ValueError(f"The filter's `warmup_iter` must be 0 or more; got {warmup_iter}.")
        if reference not in REFERENCES:
            raise ValueError(f"The filter's `reference` is '{reference}'; choose one of {', '.join(REFERENCES)}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"The filter's `momentum` must lie in [0, 1); got {momentum}.")
        self.warmup_iter = warmup_iter
        self.reference = reference
        self.momentum = momentum
        self.running: float | None = None
        self.calls = 0
        self.pseudo_seen = 0
        self.pseudo_kept = 0

    @property
    def in_warmup(self) -> bool:
        """Whether the next call still keeps every pseudo sample with a finite loss."""
        return self.calls < self.warmup_iter

    @property
    def kept_ratio(self) -> float:
        """Kept over all pseudo samples since the first call; 0 before any was seen."""
        return self.pseudo_kept / self.pseudo_seen if self.pseudo_seen else 0.0

    @torch.no_grad()
    def __call__(
        self, per_sample_loss: Tensor, is_pseudo: Tensor, *, reference: float | Tensor | None = None
    ) -> FilterResult:
        """Filter a batch and count; arguments and errors as :func:`filter_pseudo`."""
        if reference is None:
            reference = mean_real_loss(per_sample_loss, is_pseudo)
        if self.reference == "running":
            reference = self._averaged(float(reference))
        beta = math.inf if self.in_warmup else self.beta
        weights = filter_pseudo(per_sample_loss, is_pseudo, beta=beta, reference=reference)
        threshold = _threshold(self.beta, _as_reference(reference, per_sample_loss))

        pseudo = is_pseudo.to(weights.device)
        seen = int(pseudo.sum())
        kept = int((weights[pseudo] > 0).sum())
        self.calls += 1
        self.pseudo_seen += seen
        self.pseudo_kept += kept
        ratio = torch.tensor(kept / seen if seen else 0.0, dtype=torch.float32, device=weights.device)
        return FilterResult(weights, threshold, ratio)

    def _averaged(self, reference: float) -> float:
        """Take a batch's mean real loss into the moving average, which it returns; what is not finite is left out."""
        if math.isfinite(reference):
            # As long as the average is young it is the plain mean, not one that leans on the first batch.
            momentum = min(self.momentum, self.calls / (self.calls + 1))
            before = reference if self.running is None else self.running
            self.running = momentum * before + (1 - momentum) * reference
        return math.nan if self.running is None else self.running

    def state_dict(self) -> dict[str, Any]:
        """The counts and the moving average, for the checkpoint."""
        return {
            "calls": self.calls,
            "pseudo_seen": self.pseudo_seen,
            "pseudo_kept": self.pseudo_kept,
            "running": self.running,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the counts of :meth:`state_dict`; states without a moving average, which came later, load too.

        Raises:
            KeyError: A count is missing.
        """
        missing = sorted({"calls", "pseudo_seen", "pseudo_kept"} - set(state))
        if missing:
            raise KeyError(f"The pseudo filter's state lacks {', '.join(missing)}; it was saved by something else.")
        self.calls = int(state["calls"])
        self.pseudo_seen = int(state["pseudo_seen"])
        self.pseudo_kept = int(state["pseudo_kept"])
        running = state.get("running")
        self.running = None if running is None else float(running)
