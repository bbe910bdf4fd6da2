"""Real pairs, and pseudo pairs whose inputs are drawn again at every visit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset, as_item
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.sampler import SampleIndex
from semiisp_plugin.data.semi_supervised_dataset import Samples, SemiSupervisedDataset
from semiisp_plugin.io.image_io import to_tensor
from semiisp_plugin.options import structures
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.pseudo.online import OnlineDraw, entries_of, read_entry
from semiisp_plugin.pseudo.places import WHOLE, coordinates, place_of
from semiisp_plugin.toolbox import DATASET_REGISTRY, register

NOTHING_TO_DRAW = -1
"""``draw_seed`` of an item whose input is there already."""

_DRAW = 2  # of seeds: a stream of its own, beside the augmentation's
_Augmentation = Callable[[Sequence[np.ndarray], int | None], Sequence[np.ndarray]]


@register(DATASET_REGISTRY)
class OnlineSemiSupervisedDataset(SemiSupervisedDataset):
    """A `SemiSupervisedDataset` on a build of ``mode: online`` or ``keys`` (ours; the paper stores its pseudo pairs).

    Of an ``online`` build the pseudo ground truth is read and its input drawn, of a ``keys`` build the photograph is
    read and both are drawn: again at every visit, by the visit's seed, whichever process reads it. An int asks for a
    pair as a stored build of the same seed would hold it.

    Items are those of `SemiSupervisedDataset`. With ``draw_on: gpu`` they have two more, for all samples:
    ``draw_seed``, int64 (), the seed by which the model is to draw the input from ``gt``, -1 where ``lq`` is there
    already (elsewhere it is black); and, where the parameter sets lie on a grid, ``draw_place``, float32 (2, 3), see
    `semiisp_plugin.pseudo.places.place_of`.

    Args:
        opt: Options of a `SemiSupervisedDataset`, but for ``pseudo``: a section with

            * ``build``: folder (``out``) of the build.
            * ``draw_on``: ``worker`` (default), in the process that reads the pair; or ``gpu``, by the model, on its
              device.

    Raises:
        ValueError: See `semiisp_plugin.pseudo.online.check_drawable`.
        FileNotFoundError: A folder or the build's copy of f_ISP is missing.
    """

    options_struct: ClassVar[type[structures.Dataset]] = structures.OnlineDataset
    _fields: Mapping[str, Tensor] = MappingProxyType({})  # of a data set without pseudo pairs

    def open_pseudo_pairs(self, pseudo: Mapping[str, Any], real: PairedRestorationDataset) -> Samples:
        """See `SemiSupervisedDataset`."""
        folder = os.path.expanduser(os.fspath(pseudo["build"]))
        pairs = OnlinePseudoPairs(folder, real.augmented, pseudo.get("draw_on") == "gpu")
        self._fields = pairs.empty_fields
        return pairs

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        """See the class."""
        return {**self._fields, **super().__getitem__(index)}


class OnlinePseudoPairs:
    """The pseudo pairs of an `OnlineSemiSupervisedDataset`.

    Args:
        folder: Of the build.
        augmented: See `PairedRestorationDataset.augmented`.
        draw_later: Leave step 3 to the model.

    Attributes:
        empty_fields: What items have beside those of `PairedRestorationDataset`, as it is where nothing is to draw.

    Raises:
        ValueError, FileNotFoundError: See `check_drawable`; or the build is empty, or asks for candidates.
    """

    def __init__(self, folder: str, augmented: _Augmentation, draw_later: bool = False) -> None:
        # What the banks are like is asked once: where the model draws, workers need no f_ISP of their own.
        draw = OnlineDraw.open(folder)
        self._build = build = BuildFolder(folder)
        if build.settings["candidates"] > 1:
            raise ValueError(f"'{folder}': candidates are for stored builds alone; build it again with candidates: 1.")
        self._augmented = augmented
        self._draw_later = draw_later
        self._seed = int(build.settings["manual_seed"])
        self._entries = entries_of(build)
        if not self._entries:
            raise ValueError(f"'{folder}' holds no pseudo pair; its skipped.txt says why. Build it again.")
        self._draw: OnlineDraw | None = None
        self._needs_place = draw.needs_place
        self._whole_photographs = build.mode == "keys" and draw.generator.update_quality
        self.empty_fields: dict[str, Tensor] = {}
        if draw_later:
            self.empty_fields["draw_seed"] = torch.tensor(NOTHING_TO_DRAW)
            if self._needs_place:
                self.empty_fields["draw_place"] = WHOLE

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but f_ISP, which a worker process opens for itself."""
        return {**self.__dict__, "_draw": None}

    @property
    def draw(self) -> OnlineDraw:
        """Opened when it is first needed."""
        if self._draw is None:
            self._draw = OnlineDraw.open(self._build.folder)
        return self._draw

    def item(self, index: int, *, seed: int | None = None, is_pseudo: bool = False) -> dict[str, Any]:
        """See `PairedRestorationDataset.item`; without a seed, the pair of a stored build."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no pseudo pair {index}; the build has {len(self)}.")
        entry = self._entries[index]
        picture = read_entry(self._build, entry)
        fields: dict[str, Tensor] = {}
        if seed is None:
            target, lq = self.draw.whole_pair(self._build, entry, picture)
            gt = _scaled(target)
        else:
            own = np.random.SeedSequence((self._seed, seed), spawn_key=(_DRAW,)).generate_state(2, np.uint64)
            input_seed, target_seed = (int(s) % 2**63 for s in own)
            target, place = self._crop(picture, seed, target_seed)
            gt = _scaled(target)
            if self._draw_later:
                lq = torch.zeros_like(gt)
                fields["draw_seed"] = torch.tensor(input_seed)
                if self._needs_place:
                    fields["draw_place"] = place
            else:
                lq = self.draw.inputs(target, [_seeded(input_seed)], place[None])[0]
        location = entry.location
        if self._build.mode == "keys":
            location = os.path.join(self._build.settings["photographs"], location)
        return {**as_item(Pair(entry.key, location, location), lq, gt, is_pseudo), **fields}

    def _crop(self, picture: np.ndarray, seed: int, target_seed: int) -> tuple[Tensor, Tensor]:
        """A crop of a ground truth, ``(1, 3, h, w)`` uint8, and where it lies."""
        where = coordinates(*picture.shape[:2])
        if not self._whole_photographs:
            # Coordinates cost time only where a photograph must be enlarged; still, not for nothing.
            images = self._augmented([picture, *(where if self._needs_place else ())], seed)
            return _batch(images[0]), place_of(images[1:]) if self._needs_place else WHOLE
        # The encoder looks at the whole picture; what comes after it is done for the crop alone.
        raw, parameters = self.draw.encoded(_batch(picture), [_seeded(target_seed)])
        images = self._augmented([raw[0].permute(1, 2, 0).numpy(), *where], seed)
        place = place_of(images[1:])
        return self.draw.developed(_batch(images[0]), parameters, place[None]), place


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(image: np.ndarray) -> Tensor:
    """(H, W, 3) to ``(1, 3, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def _scaled(images: Tensor) -> Tensor:
    """``(1, 3, H, W)`` uint8 to (3, H, W) float32 in [0, 1]."""
    return to_tensor(images[0].permute(1, 2, 0).numpy())
