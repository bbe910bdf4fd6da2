"""Batches of exact composition from real and pseudo pairs, as a function of the seed and the batch number alone.

Source s (0 real, 1 pseudo) is an endless sequence: its permutation 0, then its permutation 1, and so on, each from its
own generator seeded by (seed, s, permutation number). Batch b takes the positions [b K, (b + 1) K) of that sequence, K
being the source's samples in a batch over all ranks; a rank takes its contiguous part of them. Nothing is drawn from a
running generator, so a run resumes by the number of its next batch, on any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

SOURCES: tuple[str, str] = ("real", "pseudo")
"""Names of the sources; a source's number is its place here."""

_PERMUTATION, _AUGMENTATION = 0, 1


class SampleIndex(NamedTuple):
    """What a data set is asked for in training.

    Attributes:
        source: 0 for a real pair, 1 for a pseudo pair.
        index: Number of the pair in its source.
        seed: Seed of the sample's augmentation, different at each visit.
    """

    source: int
    index: int  # type: ignore[assignment]  # takes the place of tuple.index, which nobody needs here
    seed: int


def permutation(seed: int, source: int, epoch: int, size: int) -> np.ndarray:
    """The order in which pass ``epoch`` over a source visits its ``size`` samples.

    Returns:
        A permutation of 0 ... size - 1, int64.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_PERMUTATION, source, epoch))
    return np.random.default_rng(sequence).permutation(size)


def sample_seed(seed: int, source: int, position: int) -> int:
    """The augmentation seed, 0 ... 2^64 - 1, of a position in the endless sequence of a source."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_AUGMENTATION, source, position))
    return int(sequence.generate_state(1, np.uint64)[0])


class MixedBatchSampler(Sampler[list[SampleIndex]]):
    """Batches of ``real_per_batch`` real and ``pseudo_per_batch`` pseudo samples, for ``DataLoader(batch_sampler=)``.

    With ``n_pseudo=0, pseudo_per_batch=0`` it is the sampler of supervised training. A pass over a source ends within
    a batch if the numbers say so; each pass visits every sample once.

    Args:
        n_real: Number of real pairs.
        n_pseudo: Number of pseudo pairs.
        real_per_batch: Real samples in a batch of one rank.
        pseudo_per_batch: Pseudo samples in a batch of one rank.
        seed: Seed of the orders and of the samples' augmentation.
        num_batches: Number of batches of the whole run, those before ``start_batch`` included.
        rank: Number of this process, 0 ... world_size - 1.
        world_size: Number of processes; together they give the batches that one process with ``world_size`` times the
            samples would give.
        start_batch: Number of the first batch, i.e. of batches a resumed run has trained on.

    Raises:
        ValueError: The rank or the first batch is out of range, a batch would be empty, or a source is but is to give
            samples.
    """

    def __init__(
        self,
        n_real: int,
        n_pseudo: int,
        real_per_batch: int,
        pseudo_per_batch: int,
        *,
        seed: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; with world_size {world_size} ranks are 0 ... {world_size - 1}.")
        if real_per_batch + pseudo_per_batch == 0:
            raise ValueError("A batch would be empty: give real_per_batch or pseudo_per_batch.")
        for name, size, count in zip(SOURCES, (n_real, n_pseudo), (real_per_batch, pseudo_per_batch), strict=True):
            if count and not size:
                raise ValueError(
                    f"{name}_per_batch is {count} but there are no {name} pairs; "
                    f"set {name}_per_batch to 0 or check the {name} data."
                )
        # Plain integers: torch.load with weights_only=True refuses those of NumPy in a checkpoint.
        self.sizes = (int(n_real), int(n_pseudo))
        self.per_batch = (int(real_per_batch), int(pseudo_per_batch))
        self.seed = int(seed)
        self.num_batches = int(num_batches)
        self.rank = int(rank)
        self.world_size = int(world_size)
        self._start_batch = 0
        self.start_batch = start_batch
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    @property
    def start_batch(self) -> int:
        """Number of the batch at which iteration begins; assigning it is how a run resumes."""
        return self._start_batch

    @start_batch.setter
    def start_batch(self, value: int) -> None:
        if not 0 <= value <= self.num_batches:
            raise ValueError(
                f"start_batch is {value}, but the run has {self.num_batches} batches only: it is finished, or "
                "total_iter was lowered since."
            )
        self._start_batch = int(value)

    def __len__(self) -> int:
        """Number of batches from ``start_batch`` to the end of the run."""
        return self.num_batches - self.start_batch

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        for batch in range(self.start_batch, self.num_batches):
            yield self.batch(batch)

    def batch(self, number: int) -> list[SampleIndex]:
        """This rank's part of a batch: its real samples, then its pseudo samples.

        Args:
            number: The batch's number, from 0; numbers beyond ``num_batches`` are as good.
        """
        samples = []
        for source, (size, count) in enumerate(zip(self.sizes, self.per_batch, strict=True)):
            first = (number * self.world_size + self.rank) * count
            for position in range(first, first + count):
                epoch, place = divmod(position, size)
                index = int(self._permutation(source, epoch)[place])
                samples.append(SampleIndex(source, index, sample_seed(self.seed, source, position)))
        return samples

    def passes(self, batch: int) -> dict[str, float]:
        """Passes over each source after ``batch`` batches of all ranks, by the names of `SOURCES`.

        A source that gives no samples has made 0 passes.
        """
        return {
            name: batch * count * self.world_size / size if size else 0.0
            for name, size, count in zip(SOURCES, self.sizes, self.per_batch, strict=True)
        }

    def state_dict(self, next_batch: int | None = None) -> dict[str, Any]:
        """What resuming needs.

        Args:
            next_batch: Number of the first batch not trained on yet; ``start_batch`` by default. The sampler cannot
                know it by itself, for DataLoader workers ask for batches ahead of time.
        """
        return {
            "start_batch": self.start_batch if next_batch is None else int(next_batch),
            **self._identity(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at the batch of a `state_dict`.

        The number of ranks may differ if a batch over all ranks stays the same.

        Raises:
            ValueError: Seed, data or batch composition differ, so that the order of samples would be another.
        """
        changed = [
            f"{name} was {state.get(name)}, is {value}"
            for name, value in self._identity().items()
            if state.get(name) != value
        ]
        if changed:
            raise ValueError(
                "The order of the training samples cannot be continued: " + "; ".join(changed) + ". Restore the "
                "former options and data, or start a new run."
            )
        self.start_batch = state["start_batch"]

    def _identity(self) -> dict[str, int]:
        """All that the sequence of batches over all ranks depends on."""
        identity = {"seed": self.seed}
        for name, size, count in zip(SOURCES, self.sizes, self.per_batch, strict=True):
            identity[f"n_{name}"] = size
            identity[f"{name}_per_batch_of_all_ranks"] = count * self.world_size
        return identity

    def _permutation(self, source: int, epoch: int) -> np.ndarray:
        """`permutation`, remembered for the pass under way and the one before it."""
        key = (source, epoch)
        if key not in self._permutations:
            for old in [k for k in self._permutations if k[0] == source and k[1] != epoch - 1]:
                del self._permutations[old]
            self._permutations[key] = permutation(self.seed, source, epoch, self.sizes[source])
        return self._permutations[key]
