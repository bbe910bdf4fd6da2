"""One loss value a sample, and what the registered losses share to give it.

The filter of equations 10-12 compares samples, so a loss must not be averaged over the batch before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


class SampleLoss(nn.Module):
    """Base of the plugin's losses: a subclass gives one value a sample, `values`.

    Args:
        loss_weight: Factor on the whole loss.
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction.
    """

    def __init__(self, loss_weight: float, reduction: str) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        if reduction not in REDUCTIONS:
            name = type(self).__name__
            raise ValueError(f"{name}: unknown `reduction: {reduction}`; choose one of {', '.join(REDUCTIONS)}.")
        self.reduction = reduction

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of each sample, ``(N,)``, of two batches ``(N, C, H, W)`` of one shape."""
        raise NotImplementedError

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compare images.

        Args:
            pred: ``(N, C, H, W)`` in [0, 1].
            target: As ``pred``. A broadcastable shape, which would give a number that means nothing, is refused.

        Returns:
            Scalar, or ``(N,)`` for ``reduction: none``.

        Raises:
            ValueError: They are not ``(N, C, H, W)`` or differ in shape.
        """
        if pred.ndim != 4 or pred.shape != target.shape:
            raise ValueError(
                f"{type(self).__name__} compares two image batches (N, C, H, W) of one shape; the prediction is "
                f"{tuple(pred.shape)}, the target {tuple(target.shape)}."
            )
        values = self.values(pred, target)
        if self.reduction != "none":
            values = values.mean() if self.reduction == "mean" else values.sum()
        return self.loss_weight * values
