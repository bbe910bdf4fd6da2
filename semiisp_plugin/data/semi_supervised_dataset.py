"""Real pairs, pseudo pairs and unlabelled inputs in one data set, for semi-supervised training."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.sampler import SOURCES, SampleIndex
from semiisp_plugin.options import structures
from semiisp_plugin.toolbox import DATASET_REGISTRY, register

_HELD_OUT = 3  # of seeds: a stream of its own, beside those of orders, augmentation and drawn inputs


class Samples(Protocol):
    """Where the samples of a source come from."""

    def __len__(self) -> int: ...

    def item(self, index: int, *, seed: int | None = None, is_pseudo: bool = False) -> dict[str, Any]:
        """See `PairedRestorationDataset.item`."""
        ...


@register(DATASET_REGISTRY)
class SemiSupervisedDataset(Dataset[dict[str, Any]]):
    """Real pairs, as in `PairedRestorationDataset`, and pseudo pairs or unlabelled inputs, cropped and augmented alike.

    A `SampleIndex` asks for a training sample of a source; `MixedBatchSampler` composes batches of them. An int asks
    for a sample as it is, real pairs being counted first, unlabelled inputs last. Items are those of
    `PairedRestorationDataset` and ``is_unlabelled``, a bool tensor (); with ``is_pseudo`` it tells the sources apart.

    An unlabelled input has no target. Its ``gt`` is its own ``lq``, so that batches have one shape: a stand-in, which
    no model may use as a target.

    Args:
        opt: Options of `PairedRestorationDataset` for the real pairs, checked, and at least one of

            * ``pseudo``: a section with ``dataroot_gt``, ``dataroot_lq`` and, where they are few and small,
              ``cache_images``.
            * ``unlabelled`` (ours): the same without ``dataroot_gt``.

            ``filename_tmpl``, ``meta_info_file`` and ``cache_images`` outside those sections concern the real pairs
            only: pseudo pairs are many and have one name. ``held_out`` (default 0) real pairs, chosen by
            ``held_out_seed`` (default 0), are kept from training: no index asks for them, `held_out_batches` gives
            them (ours).

    Attributes:
        n_real: Number of real pairs, without those held out.
        n_pseudo: Number of pseudo pairs.
        n_unlabelled: Number of unlabelled inputs.
        held_out_pairs: Where the held-out pairs are.

    Raises:
        ValueError, FileNotFoundError: See `PairedRestorationDataset`; or more pairs are to be held out than there are;
            or there is neither ``pseudo`` nor ``unlabelled``.
    """

    options_struct: ClassVar[type[structures.Dataset]] = structures.Dataset

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        name = opt.get("name", type(self).__name__)
        pseudo, unlabelled = opt.get("pseudo"), opt.get("unlabelled")
        if pseudo is None and unlabelled is None:
            raise ValueError(f"data set '{name}' has real pairs alone: give pseudo, unlabelled or both.")
        shared = {key: value for key, value in opt.items() if key not in ("pseudo", "unlabelled")}
        self._held_out_seed = int(opt.get("held_out_seed") or 0)
        real, self._held_out = self._divided(PairedRestorationDataset(shared), int(opt.get("held_out") or 0), name)
        self._real = real
        pseudo_pairs = real.subset([]) if pseudo is None else self.open_pseudo_pairs(pseudo, real)
        self._sources: list[Samples] = [real, pseudo_pairs]
        self.n_real, self.n_pseudo, self.n_unlabelled = len(real), len(pseudo_pairs), 0
        if unlabelled is not None:
            self._sources.append(_open_unlabelled(unlabelled, real))
            self.n_unlabelled = len(self._sources[-1])

    def open_pseudo_pairs(self, pseudo: Mapping[str, Any], real: PairedRestorationDataset) -> Samples:
        """The pseudo pairs that the section ``pseudo`` describes.

        Args:
            pseudo: The section.
            real: The real pairs, whose options hold for both but where the class says otherwise.
        """
        own = {"cache_images": False, **pseudo, "filename_tmpl": "{}", "meta_info_file": None}
        return PairedRestorationDataset({**real.opt, **own})

    def _divided(
        self, real: PairedRestorationDataset, count: int, name: str
    ) -> tuple[PairedRestorationDataset, PairedRestorationDataset]:
        """The real pairs to train on, and those held out."""
        if count == 0:
            return real, real.subset([])
        if not 0 < count < len(real):
            raise ValueError(
                f"data set '{name}': {count} pairs are to be held out for the filter's reference "
                f"(train:filter:held_out:count), but there are {len(real)} real pairs, of which at least one must be "
                f"left to train on. Hold out fewer, or take reference: running."
            )
        trained, held_out = held_out_split(self._held_out_seed, len(real), count)
        return real.subset(trained), real.subset(held_out)

    def held_out_batches(self, size: int = 4) -> list[dict[str, Any]]:
        """The held-out pairs, always the same crops of them, as batches like those of a loader.

        Args:
            size: At most so many pairs a batch; pairs of different sizes do not share one.
        """
        seeds = np.random.SeedSequence(self._held_out_seed, spawn_key=(_HELD_OUT, 1))
        drawn = seeds.generate_state(max(1, len(self._held_out)), np.uint64).tolist()
        items = (self._held_out.item(i, seed=drawn[i]) for i in range(len(self._held_out)))
        batches = []
        for _, alike in itertools.groupby(items, key=lambda item: (item["lq"].shape, item["gt"].shape)):
            while batch := list(itertools.islice(alike, size)):
                batches.append(default_collate(batch))
        return batches

    @property
    def real_pairs(self) -> list[Pair]:
        """Where the real pairs are that are trained on."""
        return self._real.pairs

    @property
    def held_out_pairs(self) -> list[Pair]:
        """Where the real pairs are that are not."""
        return self._held_out.pairs

    def __len__(self) -> int:
        return self.n_real + self.n_pseudo + self.n_unlabelled

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        if isinstance(index, SampleIndex):
            source, number, seed = index
            if source not in range(len(self._sources)):
                here = ", ".join(f"{n} ({name})" for n, name in enumerate(SOURCES[: len(self._sources)]))
                raise IndexError(f"{index}: sources are {here}.")
        else:
            source, number, seed = 0, operator.index(index), None
            if not -len(self) <= number < len(self):
                raise IndexError(f"There is no pair {number}; the data set has {len(self)}.")
            number %= len(self)
            while number >= len(self._sources[source]):
                number -= len(self._sources[source])
                source += 1
        item = self._sources[source].item(number, seed=seed, is_pseudo=source == 1)
        return {**item, "is_unlabelled": torch.tensor(source == 2)}


def _open_unlabelled(section: Mapping[str, Any], real: PairedRestorationDataset) -> PairedRestorationDataset:
    """Unlabelled inputs as pairs of each with itself."""
    same = {"dataroot_gt": section["dataroot_lq"], "filename_tmpl": "{}", "meta_info_file": None}
    return PairedRestorationDataset({**real.opt, "cache_images": False, **section, **same})


def held_out_split(seed: int, size: int, count: int) -> tuple[list[int], list[int]]:
    """Choose samples to hold out, of the seed and the numbers alone.

    Args:
        seed: 0 or more.
        size: Number of samples.
        count: How many of them to hold out.

    Returns:
        The others, and the held-out ones, both in rising order.
    """
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_HELD_OUT, 0))).permutation(size)
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())
