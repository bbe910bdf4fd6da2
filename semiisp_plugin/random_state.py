"""The process's global random generators: their state as plain values, and seeds that depend on numbers alone.

What the plugin draws itself comes from generators of its own. BasicSR's data sets and networks draw from the global
ones of ``random``, ``numpy`` and ``torch``, which is why a training state has to hold those.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture_rng() -> dict[str, Any]:
    """State of the global generators of this process.

    Returns:
        Numbers, lists and tensors, which ``torch.load(..., weights_only=True)`` reads: ``python``, ``numpy``, ``torch``
        (CPU), and ``cuda``, a state for each GPU, empty if this process has not used any.
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    used_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if used_cuda else [],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Inverse of `capture_rng`; states of GPUs that this machine lacks are passed over."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["kind"], keys, numpy["position"], numpy["has_gauss"], numpy["cached_gaussian"]))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)


def reseed(*numbers: int) -> None:
    """Seed ``random``, ``numpy`` and ``torch``, GPUs included, from numbers such as (seed, iteration, rank)."""
    words = _words(numbers)
    _seed_host(words)
    torch.cuda.manual_seed_all(_number(words[6:8]))  # waits for the first use of a GPU


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within the block, the generators of the CPU are seeded from numbers; after it, they go on as if it had not been.

    Different numbers, and the same in another order, give unrelated seeds.
    """
    before = random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()
    _seed_host(_words(numbers))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def draw_as_a_loader() -> None:
    """Draw from torch's generator what a ``DataLoader`` without a generator of its own draws when iteration begins.

    Where BasicSR's pipeline begins to iterate over a loader, this keeps the numbers that its networks draw after it
    (dropout, stochastic depth) the same here, whatever loader there is.
    """
    torch.empty((), dtype=torch.int64).random_()


def _words(numbers: tuple[int, ...]) -> np.ndarray:
    """Eight 32-bit words, a hash of the numbers."""
    # Two words a number and their count first, so that none run together and zeros at the end are not lost.
    entropy = np.array([n % 2**64 for n in numbers], dtype=np.uint64).view(np.uint32)
    return np.random.SeedSequence([len(numbers), *entropy.tolist()]).generate_state(8, np.uint32)


def _number(words: np.ndarray) -> int:
    return int.from_bytes(words.tobytes(), "little") % 2**63


def _seed_host(words: np.ndarray) -> None:
    random.seed(_number(words[0:2]))
    np.random.seed(words[2:6])
    # Not torch.manual_seed: in a loader's worker that would queue a call for a GPU that the worker never uses.
    torch.default_generator.manual_seed(_number(words[6:8]))
