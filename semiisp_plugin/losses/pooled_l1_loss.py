"""L1 at several scales (equation 14): tolerant of noise, strict on brightness and colour."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.options.ranges import Size
from semiisp_plugin.registry import LOSS_REGISTRY, register


def pooled_l1(pred: Tensor, target: Tensor, kernel_sizes: Sequence[int] = (16, 32, 64)) -> Tensor:
    """Equation 14, one value a sample: ``L1(X, Y) + sum_k L1(A_k(X), A_k(Y))``, ``A_k`` average pooling.

    The paper gives the kernels 16, 32 and 64 and not the stride. Ours: stride = kernel, no padding. Rows and columns
    beyond the last whole window count in the first term alone. A kernel larger than the image is clipped to it, per
    axis, so that small validation crops work; the term is then the difference of the images' means along that axis.

    Args:
        pred: ``(N, C, H, W)``, RGB in [0, 1].
        target: As ``pred``.
        kernel_sizes: Pooling kernels in pixels.

    Returns:
        ``(N,)``, each term averaged over C and space.
    """
    pred, target = full_precision(pred), full_precision(target)
    # Pooling is linear: A(X) - A(Y) = A(X - Y), which halves the work.
    difference = pred - target
    total = difference.abs().flatten(1).mean(dim=1)
    height, width = difference.shape[-2:]
    for size in kernel_sizes:
        pooled = F.avg_pool2d(difference, (min(size, height), min(size, width)))
        total = total + pooled.abs().flatten(1).mean(dim=1)
    return total


@register(LOSS_REGISTRY)
class PooledL1Loss(SampleLoss):
    """The loss of phase 1 for denoising tasks (equation 14, Table 5, last column).

    Args:
        loss_weight: Factor on the whole loss.
        kernel_sizes: Pooling kernels in pixels; see :func:`pooled_l1` for stride and clipping.
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction, or a kernel below 1.
    """

    def __init__(
        self, loss_weight: float = 1.0, kernel_sizes: Sequence[Size] = (16, 32, 64), reduction: str = "mean"
    ) -> None:
        super().__init__(loss_weight, reduction)
        self.kernel_sizes = tuple(int(size) for size in kernel_sizes)
        if any(size < 1 for size in self.kernel_sizes):
            raise ValueError(f"PooledL1Loss: `kernel_sizes` are pixels, at least 1; got {list(kernel_sizes)}.")

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """See `pooled_l1`."""
        return pooled_l1(pred, target, self.kernel_sizes)
