"""Random generators: the state of the process's global ones, and one of its own for each batch.

What the plugin draws itself comes from generators of its own. Networks draw from the global ones (dropout, stochastic
depth), and so may data sets and losses of others, which is why a training state has to hold those.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture_rng() -> dict[str, Any]:
    """State of the global generators of this process.

    Returns:
        Numbers, lists and tensors, which ``torch.load(..., weights_only=True)`` reads: ``python``, ``numpy``, ``torch``
        (CPU), and ``cuda``, a state for each GPU, empty if this process has not used any.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)
    used_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if used_cuda else [],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Inverse of `capture_rng`; states of GPUs that this machine lacks are skipped."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)


def iteration_generator(seed: int, iteration: int, device: torch.device, stream: int = 0) -> torch.Generator:
    """A generator that depends on seed, iteration and stream alone: a resumed run draws what an unbroken one would."""
    mixed = (seed * 1_000_003 + iteration) * 31 + stream
    return torch.Generator(device=device).manual_seed(mixed % (2**63))
