"""Latents of unlabelled images as a Gaussian process predicts them from those of labelled ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from semiisp_plugin.losses.per_sample import full_precision

_UNCERTAINTY = 0.33
_FARTHEST = 0.33e-6


def gp_loss(latents: Tensor, bank: Tensor, neighbours: int = 8) -> Tensor:
    """How far latents are from what a Gaussian process predicts, and how uncertain it is of them.

    The term of LMT-GP (ECCV 2024) in the form of its source, Syn2Real (CVPR 2020): for each latent z, the posterior of
    a process with cosine kernel k and noise of variance 1, given its nearest latents Z of the bank, K being k(Z, Z)::

        mean = k(z, Z) (K + I)^-1 Z
        variance = k(z, z) - k(z, Z) (K + I)^-1 k(Z, z) + 1
        loss = mean over D of (z - mean)^2 / variance + 0.33 log variance - 0.33e-6 log variance of the farthest

    Args:
        latents: z, ``(N, D)``.
        bank: Latents of labelled images, ``(B, D)``, finite.
        neighbours: How many of the bank are Z, at most B; the farthest are as many.

    Returns:
        ``(N,)``, float32 at least. Differentiable in both.
    """
    latents, bank = full_precision(latents), full_precision(bank)
    unit, units = normalize(latents, dim=1), normalize(bank, dim=1)
    similar = unit @ units.T

    def posterior(nearest: bool) -> tuple[Tensor, Tensor]:
        to_chosen, chosen = similar.topk(neighbours, dim=1, largest=nearest)
        kernel = units[chosen] @ units[chosen].mT
        factor = torch.linalg.cholesky(kernel + torch.eye(neighbours, dtype=kernel.dtype, device=kernel.device))
        weights = torch.cholesky_solve(to_chosen.unsqueeze(2), factor).squeeze(2)
        variance = unit.square().sum(1) - (to_chosen * weights).sum(1) + 1
        return torch.einsum("nb,nbd->nd", weights, bank[chosen]), variance

    mean, variance = posterior(nearest=True)
    _, of_farthest = posterior(nearest=False)
    misfit = ((latents - mean).square() / variance.unsqueeze(1)).mean(1)
    return misfit + _UNCERTAINTY * variance.log() - _FARTHEST * of_farthest.log()
