"""What the pseudo-data filter did: how much it kept lately, which photographs it drops, how the losses are spread."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.losses.filters import KEPT_FROM
from semiisp_plugin.toolbox import get_root_logger

COLUMNS = ("key", "seen", "dropped", "share_dropped", "mean_loss_ratio", "not_finite")
"""Of ``rejections.csv``."""

GROUPS = ("real", "pseudo_kept", "pseudo_dropped")
"""Of the samples' losses in TensorBoard."""

WINDOW = 100  # batches that the warning and the logged share of those that lost all look back on
_READ_EVERY = 50  # batches whose values may wait on the device


def batch_counts(weights: Tensor, is_pseudo: Tensor) -> Tensor:
    """Totals of a batch, which processes add up.

    Args:
        weights: ``(N,)``.
        is_pseudo: ``(N,)`` bool on the same device.

    Returns:
        ``(4,)``, the dtype of the weights: sum of all weights; sum of the pseudo samples' weights; number of pseudo
        samples that are kept (`KEPT_FROM`); number of pseudo samples.
    """
    of_pseudo = torch.where(is_pseudo, weights, 0)
    kept = is_pseudo & (weights >= KEPT_FROM)
    return torch.stack((weights.sum(), of_pseudo.sum(), kept.sum().to(weights), is_pseudo.sum().to(weights)))


class FilterRecord:
    """Collects what the filter did, at little cost: values stay on the device and are read some 50 batches at a time.

    Args:
        rank: Number of this process.
        world_size: Number of processes. The window is the same in all of them, as `add` gets totals; counts a
            photograph are each process's own until `write` adds them up on rank 0, and histograms are of rank 0's
            part of the batches.
    """

    def __init__(self, *, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self._rejected: deque[bool] = deque(maxlen=WINDOW)
        self._losses: deque[np.ndarray] = deque(maxlen=1000)  # of each batch: losses and numbers of GROUPS, (2, N)
        self._warned = False
        # Of each photograph: visits; dropped ones; those whose loss was not finite; sum of loss over reference of the
        # others.
        self._counts: dict[str, list[Any]] = {}
        self._waiting: list[tuple[Any, ...]] = []  # the arguments of `add`

    def add(
        self,
        keys: Sequence[str] | None,
        is_pseudo: Tensor,
        losses: Tensor,
        weights: Tensor,
        *,
        reference: Tensor,
        counts: Tensor,
        counted: bool = True,
    ) -> None:
        """Remember a batch.

        Args:
            keys: Name of each sample; None where the data have none.
            is_pseudo: ``(N,)`` bool, on the CPU.
            losses: ``(N,)``, detached.
            weights: ``(N,)``.
            reference: 0-dim, what the losses were compared with.
            counts: `batch_counts`, added up over all processes.
            counted: Whether the batch counts for the photographs; in a warm-up, which drops nothing, it does not.
        """
        self._waiting.append((keys if counted else None, is_pseudo.numpy(), losses, weights, reference, counts))
        if len(self._waiting) >= _READ_EVERY:
            self.read()

    @torch.no_grad()
    def read(self) -> None:
        """Take in the batches that wait; called by all that needs them."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        keys, flags, *tensors = zip(*waiting, strict=True)
        # A transfer each, for all batches.
        losses, weights = (torch.cat(values).double().cpu().numpy() for values in tensors[:2])
        references, counts = (torch.stack(values).double().cpu().numpy() for values in tensors[2:])
        ends = np.cumsum([len(is_pseudo) for is_pseudo in flags])[:-1]
        batches = zip(keys, flags, np.split(losses, ends), np.split(weights, ends), references, counts, strict=True)
        for names, is_pseudo, loss, weight, reference, count in batches:
            is_dropped = is_pseudo & (weight < KEPT_FROM)
            self._losses.append(np.stack([loss, is_pseudo + is_dropped.astype(int)]).astype(np.float32))
            _, _, kept, pseudo = count
            if pseudo:
                self._rejected.append(bool(kept == 0))
                self._warn()
            with np.errstate(all="ignore"):  # 0/0 where the reference is 0, and NaN
                ratios = (loss / reference).tolist()
            for n in np.flatnonzero(is_pseudo).tolist() if names is not None else ():
                finite = math.isfinite(ratios[n])
                self._count(names[n], (1, int(is_dropped[n]), int(not finite), ratios[n] if finite else 0.0))

    def _count(self, key: str, counts: Sequence[Any]) -> None:
        known = self._counts.get(key, (0, 0, 0, 0.0))
        self._counts[key] = [before + more for before, more in zip(known, counts, strict=True)]

    def _warn(self) -> None:
        """Say it once when most batches lose all their pseudo samples."""
        rejected = sum(self._rejected)
        if not self._warned and len(self._rejected) == WINDOW and rejected > WINDOW / 2:
            self._warned = True
            get_root_logger().warning(
                f"The filter kept no pseudo sample at all in {rejected} of the last {WINDOW} batches: this is "
                f"supervised training on the real pairs. Raise train:filter:beta, take train:filter:reference: "
                f"running, and look at the pseudo pairs' contact sheet and at the pictures images/pseudo_dropped in "
                f"TensorBoard."
            )

    # --- what is looked at -------------------------------------------------------------------------------------------

    def all_rejected(self) -> float:
        """The share of the last 100 batches that lost all their pseudo samples; 0 before the first."""
        self.read()
        return float(np.mean(self._rejected)) if self._rejected else 0.0

    def histograms(self) -> dict[str, np.ndarray]:
        """Losses of the samples since the last call, of 1,000 batches at most; those that are finite.

        Returns:
            float32 arrays by `GROUPS`.
        """
        self.read()
        losses, groups = np.concatenate([np.empty((2, 0), np.float32), *self._losses], axis=1)
        self._losses.clear()
        usable = np.isfinite(losses)
        return {name: losses[usable & (groups == n)] for n, name in enumerate(GROUPS)}

    def rejections(self) -> list[tuple[str, int, int, float, float, int]]:
        """Rows of `COLUMNS`, those that are dropped most often first; of this process, or of all after `write`.

        ``mean_loss_ratio`` is the mean of loss over reference, over the visits where both were finite; NaN if there
        were none. ``not_finite`` counts the others.
        """
        self.read()
        rows = []
        for key, (seen, dropped, not_finite, ratios) in self._counts.items():
            ratio = ratios / (seen - not_finite) if seen > not_finite else float("nan")
            rows.append((key, seen, dropped, dropped / seen, ratio, not_finite))
        return sorted(rows, key=lambda row: (-row[3], -row[2], row[0]))

    def write(self, folder: str | os.PathLike[str]) -> Path | None:
        """Write ``rejections.csv``; to be called by all processes at the same iteration.

        Rank 0 takes over the counts of all, the others begin again: rank 0's state then holds everything.

        Returns:
            The file, in the process that wrote it.
        """
        self.read()
        if self.world_size > 1:
            states: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(states, self._counts if self.rank else None)
            if self.rank:
                self._counts = {}
                return None
            for state in states[1:]:
                for key, counts in state.items():
                    self._count(key, counts)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for key, seen, dropped, share, ratio, not_finite in self.rejections():
            writer.writerow((key, seen, dropped, f"{share:.4f}", f"{ratio:.4g}", not_finite))
        path = Path(folder) / "rejections.csv"
        write_atomically(path, text.getvalue())
        return path

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings. In distributed training: call `write` before, rank 0's is that of all."""
        self.read()
        return {
            "rejected": list(self._rejected),
            "warned": self._warned,
            "photographs": {key: list(counts) for key, counts in self._counts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; in distributed training of rank 0's, on every rank."""
        self._waiting = []
        self._rejected = deque(state["rejected"], WINDOW)
        # What was added up must not be added up again.
        self._counts = {} if self.rank else {key: list(counts) for key, counts in state["photographs"].items()}
        self._warned = bool(state["warned"])
