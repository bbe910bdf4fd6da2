"""Mixup of pairs: each sample of a batch becomes a mean of itself and another one.

Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018; for restoration as MIRNet and
Retinexformer use it: inputs and targets alike, one share for the whole batch, the others a permutation of the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_STREAM = 0x6D6978  # keeps these draws apart from others that are seeded by iteration


def draw_mixing(
    batch_size: int, seed: int, number: int, process: int = 0, *, beta: float = 1.2, use_identity: bool = True
) -> tuple[float, Tensor] | None:
    """Draw how a batch is mixed: from the arguments alone, so that a resumed run draws what an unbroken one would.

    Args:
        batch_size: N. A batch of one sample has nothing to be mixed with and comes out as it is.
        seed: The run's.
        number: Of the batch.
        process: Of several, which draw apart.
        beta: The share is drawn from Beta(beta, beta), above 0.
        use_identity: Leave the batch alone with probability 1/2.

    Returns:
        Share of each sample itself, in [0, 1]; and ``(N,)``, the number of the sample that each is mixed with, a
        permutation, which may leave some with themselves. None where the batch is left alone.
    """
    rng = np.random.default_rng([_STREAM, seed, number, process])
    if use_identity and rng.integers(2) == 1:
        return None
    share = float(rng.beta(beta, beta))
    return share, torch.from_numpy(rng.permutation(batch_size))


def mix(images: Tensor, share: float | Tensor, partners: Tensor) -> Tensor:
    """``share * images + (1 - share) * images[partners]``, ``(N, C, H, W)``; the share of each may be its own."""
    return share * images + (1 - share) * images[partners.to(images.device, non_blocking=True)]
