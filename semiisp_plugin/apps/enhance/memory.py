"""How much memory a network takes, and how much there is: what decides between the whole image and tiles."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["TILES", "MemoryModel", "PeakMemory", "available_memory", "largest_tile"]

TILES: tuple[int, ...] = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Sides of tiles that are chosen from; few, so that a little more or less of free memory changes nothing."""

# What operations take for themselves while they run (rearranged weights, unfolded convolutions), which is not seen.
_UNSEEN = 1.5
_PROBES = (128, 256)
_UNKNOWN = 4 * 2**30


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that live at the same time while it is active; what was there before is not counted.

    Attributes:
        peak: The largest sum of bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._seen: set[weakref.ref[Any]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def gone(reference: weakref.ref[Any]) -> None:
            self._seen.discard(reference)
            self._live -= size

        reference = weakref.ref(storage, gone)
        if reference in self._seen:  # a view, or the same tensor once more
            return
        self._seen.add(reference)
        self._live += size
        self.peak = max(self.peak, self._live)


class MemoryModel:
    """Bytes that a network takes for an image, measured on two small ones and carried on as a power of the pixels.

    The power is at least 1: most networks take a fixed number of bytes a pixel, attention along rows takes more. What
    is more than 1 is taken of the longer side: a row of a panorama attends to all of that row.

    Args:
        run: Runs the network on ``(1, 3, side, side)`` of this side.
    """

    def __init__(self, run: Callable[[int], object]) -> None:
        peaks = []
        for side in _PROBES:
            counter = PeakMemory()
            with counter:
                run(side)
            peaks.append(max(1, counter.peak))
        self.side, self.bytes = _PROBES[1], peaks[1]
        self.power = min(2.0, max(1.0, math.log(peaks[1] / peaks[0]) / math.log((_PROBES[1] / _PROBES[0]) ** 2)))

    def __call__(self, height: int, width: int) -> int:
        """Bytes for an image of this size."""
        longest = max(height, width) / self.side
        return int(_UNSEEN * self.bytes * (height * width / self.side**2) * longest ** (2 * (self.power - 1)))


def largest_tile(model: Callable[[int, int], int], budget: int) -> int:
    """The largest side of `TILES` that fits into ``budget`` bytes; the smallest if none does."""
    fitting = [side for side in TILES if model(side, side) <= budget]
    return fitting[-1] if fitting else TILES[0]


def available_memory(device: torch.device) -> int:
    """Bytes that a network may take on a device.

    On a GPU four fifths of what is free. On a CPU at most half of the machine's memory (of the container's, where it
    has a limit) and four fifths of what is free, rounded down to a power of two, so that the choice of tiles is the
    same from run to run.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.8 * (free + reserved))
    total, free = _cpu_memory()
    usable = min(total // 2, free * 4 // 5)
    return 2 ** max(27, usable.bit_length() - 1)


def _cpu_memory() -> tuple[int, int]:
    """Total and free bytes of this machine, or of the container that this process is in."""
    total, free = _UNKNOWN, _UNKNOWN
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            allowed = int(Path(limit).read_text())
            total, free = min(total, allowed), min(free, max(0, allowed - int(Path(used).read_text())))
        except (OSError, ValueError):
            continue
    return total, free
