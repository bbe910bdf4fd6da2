"""Names and seeds of the pairs of a photograph."""

from __future__ import annotations

import hashlib
import re

_DRAW = re.compile(r"__draw[0-9]+$")


def photograph_seed(seed: int, key: str) -> int:
    """Seed of one pair's draws: of the run's seed and the pair's key alone, whatever was read before it."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % (2**63)


def pair_keys(key: str, draws: int) -> list[str]:
    """Keys of the pairs of one photograph: its own for the first, ``<key>__draw1`` and so on for the others.

    Different photographs never share one: if there are several draws, a photograph whose own key ends in ``__draw``
    and a number gets ``__draw0`` for the first, so that a key's last ``__draw<n>`` is always ours.
    """
    first = f"{key}__draw0" if draws > 1 and _DRAW.search(key) else key
    return [first, *(f"{key}__draw{i}" for i in range(1, draws))]
