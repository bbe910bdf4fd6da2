"""Real pairs and pseudo pairs in one data set, for semi-supervised training."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch.utils.data import Dataset

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.sampler import SOURCES, SampleIndex
from semiisp_plugin.toolbox import DATASET_REGISTRY, register


class PseudoPairs(Protocol):
    """Where pseudo pairs come from."""

    def __len__(self) -> int: ...

    def item(self, index: int, *, seed: int | None = None, is_pseudo: bool = False) -> dict[str, Any]:
        """See `PairedRestorationDataset.item`."""
        ...


@register(DATASET_REGISTRY)
class SemiSupervisedDataset(Dataset[dict[str, Any]]):
    """Real pairs, as in `PairedRestorationDataset`, and pseudo pairs, cropped and augmented alike.

    A `SampleIndex` asks for a training sample of a source; `MixedBatchSampler` composes batches of them. An int asks
    for a pair as it is, real pairs being counted first. Items are those of `PairedRestorationDataset`; ``is_pseudo``
    tells the sources apart.

    Args:
        opt: Options of `PairedRestorationDataset` for the real pairs, and ``pseudo``: a section with ``dataroot_gt``,
            ``dataroot_lq``, ``io_backend`` and, where they are few and small, ``cache_images``. ``filename_tmpl``,
            ``meta_info_file`` and ``cache_images`` outside that section concern the real pairs only: pseudo pairs are
            many and have one name.

    Attributes:
        n_real: Number of real pairs.
        n_pseudo: Number of pseudo pairs.
        PSEUDO_OPTIONS: Keys of the section ``pseudo``.
    """

    PSEUDO_OPTIONS: ClassVar[tuple[str, ...]] = ("dataroot_gt", "dataroot_lq", "io_backend", "cache_images")

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        name = opt.get("name", type(self).__name__)
        pseudo = opt.get("pseudo")
        if not isinstance(pseudo, Mapping):
            raise ValueError(
                f"data set '{name}': the section 'pseudo' is missing; give it {', '.join(self.PSEUDO_OPTIONS)}. "
                "Without pseudo pairs use PairedRestorationDataset."
            )
        unknown = sorted(pseudo.keys() - set(self.PSEUDO_OPTIONS))
        if unknown:
            raise ValueError(
                f"data set '{name}': unknown option '{unknown[0]}' in 'pseudo', which takes "
                f"{', '.join(self.PSEUDO_OPTIONS)}; the others are those of the real pairs."
            )
        shared = {key: value for key, value in opt.items() if key != "pseudo"}
        real = PairedRestorationDataset(shared)
        self._sources = (real, self.open_pseudo_pairs(f"{name}, pseudo", pseudo, real))
        self.n_real, self.n_pseudo = (len(source) for source in self._sources)

    def open_pseudo_pairs(self, name: str, pseudo: Mapping[str, Any], real: PairedRestorationDataset) -> PseudoPairs:
        """The pseudo pairs that the section ``pseudo`` describes.

        Args:
            name: What messages call them.
            pseudo: The section, its keys checked.
            real: The real pairs, whose options hold for both but where the class says otherwise.
        """
        own = {"cache_images": False, **pseudo, "name": name, "filename_tmpl": "{}", "meta_info_file": None}
        return PairedRestorationDataset({**real.opt, **own})

    @property
    def real_pairs(self) -> list[Pair]:
        """Where the real pairs are."""
        return self._sources[0].pairs

    def __len__(self) -> int:
        return self.n_real + self.n_pseudo

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        if isinstance(index, SampleIndex):
            if index.source not in range(len(SOURCES)):
                raise IndexError(f"{index}: sources are 0 (real) and 1 (pseudo).")
            return self._sources[index.source].item(index.index, seed=index.seed, is_pseudo=index.source == 1)
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"There is no pair {number}; the data set has {len(self)}.")
        number %= len(self)
        if number < self.n_real:
            return self._sources[0].item(number)
        return self._sources[1].item(number - self.n_real, is_pseudo=True)
