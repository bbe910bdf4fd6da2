"""What the pseudo-data filter did: how much it kept lately, which photographs it drops, how the losses are spread."""

from __future__ import annotations

import csv
import io
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.losses.filters import KEPT_FROM
from semiisp_plugin.toolbox import get_root_logger

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
"""Of the kept ratio over the window, by the ends of their names in the log."""

COLUMNS = ("key", "seen", "dropped", "share_dropped", "mean_loss_ratio", "not_finite")
"""Of ``rejections.csv``."""

_COUNTS = ("seen", "dropped", "not_finite", "ratios")
"""Of a photograph: visits; dropped ones; those whose loss was not finite; sum of loss over reference of the others."""

GROUPS = ("real", "pseudo_kept", "pseudo_dropped")
"""Of the samples' losses in TensorBoard."""

WARNED_OF = 100  # batches that the second warning looks back on
_READ_EVERY = 50  # batches whose values may wait on the device

_ADVICE = (
    "Raise train:filter:beta, take train:filter:reference: running, and look at the pseudo pairs' contact sheet and "
    "at the pictures images/pseudo_dropped in TensorBoard."
)


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


class _Batch(NamedTuple):
    """What waits to be read."""

    keys: Sequence[str] | None
    is_pseudo: Tensor
    losses: Tensor
    weights: Tensor
    reference: Tensor
    counts: Tensor
    counted: bool


class FilterRecord:
    """Collects what the filter did, at little cost: values stay on the device and are read some 50 batches at a time.

    Args:
        window: Batches that the running quantiles, and at most the histograms, look back on.
        rank: Number of this process.
        world_size: Number of processes. The window is the same in all of them, as `add` gets totals; counts a
            photograph are each process's own until `write` adds them up on rank 0, and histograms are of rank 0's
            part of the batches.

    Attributes:
        all_rejected: Batches so far that had pseudo samples of which none was kept.
        batches: Batches so far that had pseudo samples.
    """

    def __init__(self, window: int = 1000, *, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self.all_rejected = 0
        self.batches = 0
        self._ratios: deque[float] = deque(maxlen=window)
        self._rejected: deque[bool] = deque(maxlen=window)
        self._losses: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=window)  # of each batch: losses, groups
        self._warned = {"once": False, "often": False}
        self._counts: dict[str, list[Any]] = {}  # of each photograph, as in _COUNTS
        self._waiting: list[_Batch] = []

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
        self._waiting.append(_Batch(keys, is_pseudo, losses, weights, reference, counts, counted))
        if len(self._waiting) >= _READ_EVERY:
            self.read()

    @torch.no_grad()
    def read(self) -> None:
        """Take in the batches that wait; called by all that needs them."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        losses = torch.cat([b.losses for b in waiting]).double().cpu().numpy()
        weights = torch.cat([b.weights for b in waiting]).double().cpu().numpy()
        references = torch.stack([b.reference for b in waiting]).double().cpu().numpy()
        counts = torch.stack([b.counts for b in waiting]).double().cpu().numpy()
        first = 0
        for batch, reference, (_, pseudo_weight, kept, pseudo) in zip(waiting, references, counts, strict=True):
            part = slice(first, first + len(batch.is_pseudo))
            first = part.stop
            is_pseudo = batch.is_pseudo.numpy()
            is_dropped = is_pseudo & (weights[part] < KEPT_FROM)
            self._losses.append((losses[part].astype(np.float32), is_pseudo.astype(np.uint8) + is_dropped))
            if pseudo:
                self.batches += 1
                self._ratios.append(float(pseudo_weight / pseudo))
                self._rejected.append(bool(kept == 0))
                self.all_rejected += bool(kept == 0)
                self._warn()
            if batch.counted and batch.keys is not None:
                with np.errstate(all="ignore"):  # 0/0 where the reference is 0, and NaN
                    ratios = losses[part] / reference
                self._count(batch.keys, is_pseudo, is_dropped, ratios)

    def _count(self, keys: Sequence[str], is_pseudo: np.ndarray, is_dropped: np.ndarray, ratios: np.ndarray) -> None:
        for n in np.flatnonzero(is_pseudo).tolist():
            finite = bool(np.isfinite(ratios[n]))
            self._add(keys[n], (1, int(is_dropped[n]), int(not finite), float(ratios[n]) if finite else 0.0))

    def _add(self, key: str, counts: Sequence[Any]) -> None:
        known = self._counts.setdefault(key, [0, 0, 0, 0.0])
        for n, value in enumerate(counts):
            known[n] += value

    def _photographs(self) -> dict[str, Any]:
        """The counts, for other processes and checkpoints."""
        columns = np.array(list(self._counts.values()), np.float64).reshape(-1, len(_COUNTS)).T
        return {"keys": list(self._counts), **dict(zip(_COUNTS, map(torch.from_numpy, columns.copy()), strict=True))}

    def _add_photographs(self, state: Mapping[str, Any]) -> None:
        for key, seen, dropped, not_finite, ratios in zip(
            state["keys"], *(state[name].tolist() for name in _COUNTS), strict=True
        ):
            self._add(key, (int(seen), int(dropped), int(not_finite), ratios))

    def _warn(self) -> None:
        """Say it once when a batch loses all its pseudo samples, and once when most batches do."""
        if self._rejected[-1] and not self._warned["once"]:
            self._warned["once"] = True
            get_root_logger().info(  # no alarm: with few pseudo samples a batch it happens
                f"The filter kept none of a batch's pseudo samples, for the first time, in batch {self.batches}: the "
                f"step learns from the real pairs alone. Where that is rare it does no harm. {_ADVICE}"
            )
        lately = list(self._rejected)[-WARNED_OF:] if not self._warned["often"] else []
        if len(lately) == WARNED_OF and sum(lately) > WARNED_OF / 2:
            self._warned["often"] = True
            get_root_logger().warning(
                f"The filter kept no pseudo sample at all in {sum(lately)} of the last {WARNED_OF} batches (up to "
                f"batch {self.batches}): this is supervised training on the real pairs. {_ADVICE}"
            )

    # --- what is looked at -------------------------------------------------------------------------------------------

    def scalars(self) -> dict[str, float]:
        """The window's quantiles of the kept ratio, and its share of batches that lost all; 0 before the first."""
        self.read()
        ratios = np.asarray(self._ratios or [0.0])
        values = {f"kept_ratio_{name}": float(np.quantile(ratios, q)) for name, q in QUANTILES.items()}
        return {**values, "all_rejected": float(np.mean(self._rejected)) if self._rejected else 0.0}

    def histograms(self) -> dict[str, np.ndarray]:
        """Losses of the samples since the last call, at most those of the window; those that are finite.

        Returns:
            float32 arrays by `GROUPS`.
        """
        self.read()
        batches = list(self._losses)
        self._losses.clear()
        losses = np.concatenate([np.empty(0, np.float32), *(losses for losses, _ in batches)])
        groups = np.concatenate([np.empty(0, np.uint8), *(groups for _, groups in batches)])
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

        Rank 0 takes over the counts of all, the others begin anew: rank 0's state then holds everything.

        Returns:
            The file, in the process that wrote it.
        """
        self.read()
        if self.world_size > 1:
            states: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(states, self._photographs() if self.rank else None)
            if self.rank:
                self._counts = {}
                return None
            for state in states[1:]:
                self._add_photographs(state)
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
        """Plain numbers, strings and tensors. In distributed training: call `write` before, rank 0's is that of all."""
        self.read()
        losses = list(self._losses)
        return {
            "batches": self.batches,
            "all_rejected": self.all_rejected,
            "kept_ratios": torch.tensor(list(self._ratios), dtype=torch.float64),
            "rejected": torch.tensor(list(self._rejected), dtype=torch.bool),
            "sizes": torch.tensor([len(a) for a, _ in losses], dtype=torch.int64),
            "losses": torch.from_numpy(np.concatenate([np.empty(0, np.float32), *(a for a, _ in losses)])),
            "groups": torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *(a for _, a in losses)])),
            "warned": dict(self._warned),
            "photographs": self._photographs(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; in distributed training of rank 0's, on every rank."""
        self._waiting = []
        self.batches, self.all_rejected = int(state["batches"]), int(state["all_rejected"])
        self._ratios = deque(state["kept_ratios"].tolist(), self._ratios.maxlen)
        self._rejected = deque(state["rejected"].tolist(), self._rejected.maxlen)
        self._losses.clear()
        self._counts = {}
        if self.rank == 0 and len(state["sizes"]):  # what was added up must not be added up again
            ends = np.cumsum(state["sizes"].numpy())[:-1]
            parts = (np.split(state[name].numpy(), ends) for name in ("losses", "groups"))
            self._losses.extend(zip(*parts, strict=True))
        if self.rank == 0:
            self._add_photographs(state["photographs"])
        self._warned = {name: bool(state["warned"][name]) for name in self._warned}
