"""One loss value a sample, and what the registered losses share to give it.

The filter of equations 10-12 compares samples, so a loss must not be averaged over the batch before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")


def per_sample(loss_value: Tensor) -> Tensor:
    """Average a loss over everything but the batch.

    Args:
        loss_value: ``(N, ...)``, what a loss with ``reduction: none`` returns: one value a pixel ``(N, C, H, W)`` or
            already one a sample ``(N,)``.

    Returns:
        ``(N,)``; float32 where the input has half precision, else the input's dtype. Differentiable.

    Raises:
        ValueError: The loss is a scalar, i.e. it was averaged over the batch; or it has no values a sample.
    """
    if loss_value.ndim == 0:
        raise ValueError(
            "The loss is a single number for the whole batch, but the pseudo-data filter compares samples. "
            "Set `reduction: none` in this loss's section."
        )
    if loss_value.ndim == 1:
        return full_precision(loss_value)
    if loss_value[0:1].numel() == 0 and loss_value.shape[0] > 0:
        raise ValueError(f"The loss of shape {tuple(loss_value.shape)} has no values to average for a sample.")
    # The summation is done in float32 anyway; only its result would be rounded to half precision.
    return full_precision(loss_value).flatten(1).mean(dim=1)


def full_precision(x: Tensor) -> Tensor:
    """Give half-precision tensors (float16, bfloat16) as float32; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_reduction(reduction: str, owner: str) -> str:
    """Return ``reduction`` if it is one of ``REDUCTIONS``.

    Args:
        reduction: The value given by the user.
        owner: Name of the loss, for the message.

    Raises:
        ValueError: It is none of them.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"{owner}: unknown `reduction: {reduction}`; choose one of {', '.join(REDUCTIONS)}.")
    return reduction


def check_image_pair(pred: Tensor, target: Tensor, owner: str) -> None:
    """Check that a prediction and its target are two image batches of one shape.

    Without this a target of a broadcastable shape would give a number that means nothing.

    Raises:
        ValueError: They are not ``(N, C, H, W)`` or differ in shape.
    """
    if pred.ndim != 4 or pred.shape != target.shape:
        raise ValueError(
            f"{owner} compares two image batches (N, C, H, W) of one shape; the prediction is {tuple(pred.shape)}, "
            f"the target {tuple(target.shape)}."
        )


def reduce_samples(values: Tensor, reduction: str) -> Tensor:
    """Reduce per-sample losses ``(N,)``: as they are (``none``), their ``mean`` or their ``sum``."""
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    return values
