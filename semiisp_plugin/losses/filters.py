"""The pseudo-data filters: how much each pseudo sample counts, from the losses of a batch; and the loss of equation 13.

A filter is a pure function of one loss a sample, registered in
`FILTER_REGISTRY <semiisp_plugin.registry.FILTER_REGISTRY>` under its own name, which is the ``type`` of an option
file's section ``train: filter``. It takes

* ``per_sample_loss``: ``(N,)``, detached;
* ``is_pseudo``: ``(N,)`` bool, which may lie on the CPU while the losses are on a GPU;
* ``reference``, by keyword: the mean real loss ``L_r``, a number or a 0-dim tensor; which one, says the option
  ``reference`` of `semiisp_plugin.losses.pseudo_filter.PseudoFilter`;
* options of its own, by keyword: the other keys of the section

and gives weights ``(N,)`` in [0, 1]: 1 for real samples, 0 for pseudo samples whose loss is not finite.

``threshold`` is the paper's (equations 10-12). ``quantile`` and ``soft`` are ours. What is "kept" of a weight between 0
and 1 is said by `KEPT_FROM`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiisp_plugin.losses.per_sample import full_precision
from semiisp_plugin.options.ranges import NotNegative, Share, Threshold
from semiisp_plugin.registry import FILTER_REGISTRY, register

KEPT_FROM = 0.5
"""A sample of at least this weight is called kept, in pictures and counts. Ours; the paper's weights are 0 and 1."""


def check_batch(per_sample_loss: Tensor, is_pseudo: Tensor) -> None:
    """Check what every filter gets.

    Raises:
        ValueError: The two are not ``(N,)`` of one length, or the flags are not boolean.
    """
    if per_sample_loss.ndim != 1 or per_sample_loss.shape != is_pseudo.shape:
        raise ValueError(
            f"The filter needs one loss and one flag a sample, both (N,); the losses are "
            f"{tuple(per_sample_loss.shape)}, `is_pseudo` is {tuple(is_pseudo.shape)}."
        )
    if is_pseudo.dtype != torch.bool:
        raise ValueError(f"`is_pseudo` must be boolean (torch.bool); got {is_pseudo.dtype}.")


def as_reference(reference: float | Tensor, like: Tensor, look: bool = False) -> Tensor:
    """The mean real loss as a 0-dim tensor of the dtype and on the device of ``like``.

    Args:
        reference: A number, or a tensor of one element.
        like: The losses.
        look: Look at its value on a GPU, too, for which the processor has to wait.

    Raises:
        ValueError: It is not one number, or is seen to be negative.
    """
    if isinstance(reference, Tensor):
        value = reference.detach().to(like)
        if value.numel() != 1:
            raise ValueError(f"The filter's `reference` is one number; got a tensor of shape {tuple(value.shape)}.")
        value = value.reshape(())
    else:
        value = torch.full((), float(reference), dtype=like.dtype, device=like.device)
    if (look or value.device.type == "cpu") and bool(value < 0):
        raise ValueError(
            f"The filter keeps pseudo samples up to beta times the mean real loss, which is {float(value):.4g}: "
            f"with negative losses (such as a negated PSNR) a larger beta would keep fewer. Use a loss that is never "
            f"negative, such as MSELoss or L1Loss."
        )
    return value


def upper_bound(beta: float, reference: Tensor) -> Tensor:
    """``beta * L_r`` of equation 12, 0-dim.

    An infinite ``beta`` means "keep all", also where the reference is 0 and the product would be NaN.

    Raises:
        ValueError: ``beta`` is negative or NaN.
    """
    if not float(beta) >= 0:
        raise ValueError(f"The filter's `beta` must be 0 or more (the paper uses 1.0 and 1.2); got {beta}.")
    return torch.full_like(reference, math.inf) if math.isinf(beta) else beta * reference


@torch.no_grad()
def mean_real_loss(per_sample_loss: Tensor, is_pseudo: Tensor) -> Tensor:
    """Mean loss of the real samples (equation 10), detached.

    Args:
        per_sample_loss: ``(N,)``.
        is_pseudo: ``(N,)`` bool, on any device; on the CPU, nothing waits for a GPU.

    Returns:
        0-dim, the mean over the real samples whose loss is finite; NaN if there are real samples but none is finite.

    Raises:
        ValueError: The batch has no real sample; or shapes and dtypes are wrong.
    """
    check_batch(per_sample_loss, is_pseudo)
    is_real = ~is_pseudo
    if not bool(is_real.any()):
        raise ValueError(
            f"The batch of {len(is_pseudo)} has no real sample, so the filter has nothing to compare the pseudo "
            f"samples with. Put at least one real sample in each batch, or pass `reference`."
        )
    usable = is_real.to(per_sample_loss.device, non_blocking=True) & torch.isfinite(per_sample_loss)
    return torch.where(usable, per_sample_loss, 0).sum() / usable.sum()


def _with_real_samples(pseudo_weights: Tensor, is_pseudo: Tensor) -> Tensor:
    """Weight 1 where a sample is real."""
    return torch.where(is_pseudo.to(pseudo_weights.device, non_blocking=True), pseudo_weights, 1)


@register(FILTER_REGISTRY)
@torch.no_grad()
def threshold(
    per_sample_loss: Tensor, is_pseudo: Tensor, *, beta: Threshold, reference: float | Tensor | None = None
) -> Tensor:
    """The paper's filter, equations 10-12: keep where ``loss <= beta * reference``; `filter_pseudo` is another name.

    Args:
        per_sample_loss: ``(N,)``, never negative.
        is_pseudo: ``(N,)`` bool, on any device.
        beta: 0 or more; infinity keeps every pseudo sample with a finite loss. Table 6: 1.0, or 1.2 for at most 1000
            pairs and for denoising.
        reference: The mean real loss ``L_r``, 0 or more; NaN drops every pseudo sample. None: that of this batch,
            :func:`mean_real_loss`. Give it for a batch without real samples, or the mean over all processes in
            distributed training (the paper does not say which of the two it uses).

    Returns:
        ``(N,)`` of 0 and 1, the dtype of the losses.

    Raises:
        ValueError: A wrong ``beta``, wrong shapes or dtypes, neither a real sample nor a reference, or a reference
            that is negative (not seen on a GPU, where looking would make the processor wait; `PseudoFilter` looks at
            the first batches).
    """
    check_batch(per_sample_loss, is_pseudo)
    if reference is None:
        reference = mean_real_loss(per_sample_loss, is_pseudo)
    bound = upper_bound(beta, as_reference(reference, per_sample_loss))
    # Both comparisons are false for NaN: what cannot be compared is dropped.
    kept = (per_sample_loss <= bound) & torch.isfinite(per_sample_loss)
    return _with_real_samples(kept.to(per_sample_loss.dtype), is_pseudo)


@register(FILTER_REGISTRY)
@torch.no_grad()
def quantile(per_sample_loss: Tensor, is_pseudo: Tensor, *, reference: float | Tensor = 0.0, keep: Share) -> Tensor:
    """Keep the share ``keep`` of the batch's pseudo samples, those of lowest loss (ours).

    It looks neither at the real samples nor at how large the losses are: pairs that are memorised do not tighten it,
    and the number of samples a step learns from is nearly constant. It always drops some, good ones too.

    * Of ``n`` pseudo samples ``k = floor(keep * n + 1/2)`` are kept, but at least one unless ``keep`` is 0.
    * Ties: every sample whose loss equals the k-th lowest is kept, so that more than ``k`` can be; which ones are kept
      does not depend on the order in the batch.
    * Losses that are not finite count in ``n`` and are dropped; if fewer than ``k`` are finite, all of those are kept.
    * In distributed training each process ranks its own part of the batch.

    Args:
        per_sample_loss: ``(N,)``.
        is_pseudo: ``(N,)`` bool; on the CPU, nothing waits for a GPU.
        reference: Not used.
        keep: 0 ... 1.

    Returns:
        ``(N,)`` of 0 and 1, the dtype of the losses.

    Raises:
        ValueError: ``keep`` is outside [0, 1]; wrong shapes or dtypes.
    """
    check_batch(per_sample_loss, is_pseudo)
    if not 0 <= float(keep) <= 1:
        raise ValueError(f"The filter's `keep` is the share of the pseudo samples that is kept, 0 ... 1; got {keep}.")
    count = int(is_pseudo.sum())
    number = max(1, math.floor(keep * count + 0.5)) if keep > 0 else 0
    if count == 0 or number == 0:
        return _with_real_samples(torch.zeros_like(per_sample_loss), is_pseudo)
    usable = is_pseudo.to(per_sample_loss.device, non_blocking=True) & torch.isfinite(per_sample_loss)
    ranked = torch.where(usable, per_sample_loss, math.inf).sort().values
    kept = usable & (per_sample_loss <= ranked[number - 1])
    return _with_real_samples(kept.to(per_sample_loss.dtype), is_pseudo)


@register(FILTER_REGISTRY)
@torch.no_grad()
def soft(
    per_sample_loss: Tensor, is_pseudo: Tensor, *, reference: float | Tensor, beta: Threshold, temperature: NotNegative
) -> Tensor:
    """Weight 1 up to ``beta * reference``, and from there half a Gaussian (ours).

    ``w = exp(-z^2 / 2)`` with ``z = max(0, loss - beta * reference) / (temperature * reference)``. With
    ``temperature`` 0, and in the limit, it is `threshold`.

    The truncated Gaussian is that of SoftMatch (Chen et al., "SoftMatch: Addressing the Quantity-Quality Tradeoff in
    Semi-supervised Learning", ICLR 2023), which weights a classifier's unlabelled samples by their confidence. What
    differs: a loss takes the place of the confidence, so that the weight falls upwards; the mean is ``beta * L_r``, as
    in equation 12, and the width a multiple of ``L_r``, where SoftMatch takes mean and variance of the unlabelled
    batches' confidences, averaged over training; and the loss is divided by the sum of the weights (equation 13), not
    by the number of samples. Its alignment of the classes' frequencies has no counterpart here.

    Args:
        per_sample_loss: ``(N,)``, never negative.
        is_pseudo: ``(N,)`` bool.
        reference: The mean real loss, 0 or more; NaN drops every pseudo sample.
        beta: As of `threshold`.
        temperature: Width of the fall in units of the reference, 0 or more: 1.18 times that above ``beta``, the weight
            is one half.

    Returns:
        ``(N,)`` in [0, 1], the dtype of the losses.

    Raises:
        ValueError: As of `threshold`, or ``temperature`` is negative or not finite.
    """
    check_batch(per_sample_loss, is_pseudo)
    if not 0 <= float(temperature) < math.inf:
        raise ValueError(f"The filter's `temperature` must be 0 or more, and finite; got {temperature}.")
    level = as_reference(reference, per_sample_loss)
    bound = upper_bound(beta, level)
    z = full_precision(per_sample_loss - bound) / (float(temperature) * full_precision(level))
    # 0/0 at the bound itself, where the weight is 1, does not matter.
    weights = torch.where(per_sample_loss <= bound, 1, torch.exp(-0.5 * z.square())).to(per_sample_loss.dtype)
    usable = torch.isfinite(per_sample_loss) & ~torch.isnan(weights)  # NaN where the reference is
    return _with_real_samples(torch.where(usable, weights, 0), is_pseudo)


filter_pseudo = threshold

# --- the loss that the weights make ---------------------------------------------------------------------------------


def semi_supervised_loss(per_sample_loss: Tensor, weights: Tensor) -> Tensor:
    """Equation 13: the mean over all real and kept pseudo samples.

    The paper prints it as ``N_r/(N_r + K) L_r + K/(N_r + K) L_p`` with ``K`` kept pseudo samples; that is
    ``sum(w * L) / sum(w)``, which is also defined when none is kept, and for weights between 0 and 1 (`soft`, ours).

    Args:
        per_sample_loss: ``(N,)``, with its graph.
        weights: ``(N,)``, 0 or more, from a filter; a constant here.

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
        weights: ``(N,)``, from a filter.

    Raises:
        ValueError: The batch sizes differ.
    """
    if weights.ndim != 1 or output.ndim < 1 or output.shape[0] != weights.shape[0]:
        raise ValueError(f"Output {tuple(output.shape)} and weights {tuple(weights.shape)} have no common batch size.")
    if not output.requires_grad:
        return
    used = (weights.detach() > 0).to(output.device).reshape(-1, *[1] * (output.ndim - 1))
    output.register_hook(lambda gradient: torch.where(used, gradient, 0))
