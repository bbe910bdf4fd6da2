"""Batches of exact composition from several sources, as a function of the seed and the batch number alone.

Source s (0 real pairs, 1 pseudo pairs, 2 unlabelled inputs) is an endless sequence: its permutation 0, then its
permutation 1, and so on, each from its own generator seeded by (seed, s, permutation number). Batch b takes the
positions [b K, (b + 1) K) of that sequence, K being the source's samples in a batch over all ranks; a rank takes its
contiguous part of them. Nothing is drawn from a running generator, so a run resumes by the number of its next batch, on
any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

SOURCES = ("real", "pseudo", "unlabelled")
"""Names of the sources; a source's number is its place here."""

SAMPLES = ("real pair", "pseudo pair", "unlabelled input")
"""What messages call a sample of each source."""

_PERMUTATION, _AUGMENTATION = 0, 1


class SampleIndex(NamedTuple):
    """What a data set is asked for in training.

    Attributes:
        source: Its number in `SOURCES`: 0 for a real pair, 1 for a pseudo pair, 2 for an unlabelled input.
        index: Number of the sample in its source.
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
    """Batches of so many real, pseudo and unlabelled samples, for ``DataLoader(batch_sampler=)``.

    With ``n_pseudo=0, pseudo_per_batch=0`` it is the sampler of supervised training. A pass over a source ends within
    a batch if the numbers say so; each pass visits every sample once. Sources do not depend on one another: with
    unlabelled inputs the real and pseudo samples are those of a run without.

    Args:
        n_real: Number of real pairs.
        n_pseudo: Number of pseudo pairs.
        real_per_batch: Real samples in a batch of one rank.
        pseudo_per_batch: Pseudo samples in a batch of one rank.
        n_unlabelled: Number of unlabelled inputs.
        unlabelled_per_batch: Unlabelled samples in a batch of one rank.
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
        n_unlabelled: int = 0,
        unlabelled_per_batch: int = 0,
        seed: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; with world_size {world_size} ranks are 0 ... {world_size - 1}.")
        # Plain integers: torch.load with weights_only=True refuses those of NumPy in a checkpoint.
        sizes = (int(n_real), int(n_pseudo), int(n_unlabelled))
        per_batch = (int(real_per_batch), int(pseudo_per_batch), int(unlabelled_per_batch))
        if sum(per_batch) == 0:
            given = [f"{name}_per_batch" for name in SOURCES]
            raise ValueError(f"A batch would be empty: give {', '.join(given[:-1])} or {given[-1]}.")
        for name, sample, size, count in zip(SOURCES, SAMPLES, sizes, per_batch, strict=True):
            if count and not size:
                raise ValueError(
                    f"{name}_per_batch is {count} but there are no {sample}s; "
                    f"set {name}_per_batch to 0 or check the {name} data."
                )
        # A run without unlabelled inputs knows nothing of them: its training states are those of versions before.
        self.sources = SOURCES if n_unlabelled else SOURCES[:2]
        self.sizes = sizes[: len(self.sources)]
        self.per_batch = per_batch[: len(self.sources)]
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
        """This rank's part of a batch: its samples of each source, in the order of `SOURCES`.

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

        A source that gives no samples has made 0 passes; "unlabelled" is there only if there are such inputs.
        """
        return {
            name: batch * count * self.world_size / size if size else 0.0
            for name, size, count in zip(self.sources, self.sizes, self.per_batch, strict=True)
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
        now = self._identity()
        changed = [
            f"{name} was {state.get(name)}, is {now.get(name)}"
            for name in dict.fromkeys((*now, *state))
            if name != "start_batch" and state.get(name) != now.get(name)
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
        for name, size, count in zip(self.sources, self.sizes, self.per_batch, strict=True):
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
