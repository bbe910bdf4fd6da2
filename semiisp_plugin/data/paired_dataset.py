"""Pairs of images for supervised training, validation and testing: 8- and 16-bit, from folders or LMDBs."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from semiisp_plugin.data.augment import augment, random_ratio_size
from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair, select_pairs
from semiisp_plugin.data.sampler import SampleIndex
from semiisp_plugin.data.subsets import read_names
from semiisp_plugin.io.image_io import to_tensor
from semiisp_plugin.options import structures
from semiisp_plugin.toolbox import DATASET_REGISTRY, register


@register(DATASET_REGISTRY)
class PairedRestorationDataset(Dataset[dict[str, Any]]):
    """Pairs matched by name, for image-to-image tasks at one resolution.

    An int asks for the whole pair as it is (validation). A `SampleIndex` asks for a training sample: in the phase
    ``train`` it is cropped and augmented, as its ``seed`` and the option ``seed`` decide, whichever process reads it.

    An item is a dictionary: ``lq`` and ``gt``, float32 tensors (3, H, W), RGB in [0, 1]; ``lq_path`` and ``gt_path``,
    where they come from (``folder.lmdb/key`` for an LMDB); ``key``, the pair's name; ``is_pseudo``, a bool tensor ().

    Args:
        opt: The section of the option file, checked (`semiisp_plugin.options.structures.Dataset`):

            * ``dataroot_gt``, ``dataroot_lq``: folders (searched recursively) or LMDBs (known by their names, which end
              in ``.lmdb``) of targets and inputs.
            * ``meta_info_file``: a text file that selects pairs: each line begins with the name of a target, with or
              without extension (of an LMDB: its key), as BasicSR's do. Without it all pairs are used.
            * ``filename_tmpl``: name of an input, ``{}`` being its target's; default ``"{}"``.
            * ``phase``: ``train`` turns on what follows. An option file's sections have it by their names.
            * ``gt_size``: side of the training crop, or ``[height, width]``; none by default. Images that do not hold
              the crop are turned or enlarged (`semiisp_plugin.data.augment.fit_to_crop`).
            * ``crop_ratio``: in place of ``gt_size``, shares ``[least, largest]`` of the image's height and width,
              drawn for each sample and side (`semiisp_plugin.data.augment.random_ratio_size`). Samples have sizes of
              their own, so that a batch is one sample.
            * ``stratified_crops``: dark and bright crops are equally frequent, by the input's brightness
              (`semiisp_plugin.data.augment.stratified_crop`).
            * ``use_hflip``: random left-right flips.
            * ``use_rot``: random upside-down flips and transpositions, as in BasicSR.
            * ``cache_images``: keep decoded images in memory (8 or 16 bits a value). Each DataLoader worker keeps its
              own.
            * ``seed``: added to the samples' seeds; default 0.

            What is for the loader may be there too.

    Raises:
        ValueError: Crops or flips are asked for without a phase; the pairs do not match (see `match_pairs`); or
            ``meta_info_file`` names what is no pair or names one twice (see `select_pairs`).
        FileNotFoundError: A folder or ``meta_info_file`` is missing.
    """

    options_struct: ClassVar[type[structures.Dataset]] = structures.Dataset
    """What its section may say. A data set of your own that reads more names a structure derived from this one."""

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt  # BasicSR's validation reads opt['name'] from here
        size = opt.get("gt_size")
        self.size = (size, size) if isinstance(size, int) else None if size is None else (size[0], size[1])
        self.crop_ratio = opt.get("crop_ratio")
        self.training = opt.get("phase") == "train"
        given = [key for key in ("gt_size", "crop_ratio", "use_hflip", "use_rot") if opt.get(key)]
        if given and "phase" not in opt:
            raise ValueError(f"{given[0]} is for training: give phase: train as well, or val for whole images.")
        self.hflip = bool(opt.get("use_hflip", False))
        self.rot = bool(opt.get("use_rot", False))
        self.stratified = bool(opt.get("stratified_crops", False))
        self.seed = int(opt.get("seed") or 0)
        self.cache_images = bool(opt.get("cache_images", False))
        self.pairs = match_pairs(
            os.path.expanduser(opt["dataroot_lq"]),
            os.path.expanduser(opt["dataroot_gt"]),
            filename_template=opt.get("filename_tmpl") or "{}",
        )
        names = opt.get("meta_info_file")
        if names:
            path = os.path.expanduser(os.fspath(names))
            where = f"data set '{opt.get('name', type(self).__name__)}': meta_info_file '{path}'"
            self.pairs = select_pairs(self.pairs, read_names(path), source=where)
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        if not isinstance(index, SampleIndex):
            return self.item(operator.index(index))
        if index.source != 0:
            raise IndexError(f"{index}: a {type(self).__name__} has neither pseudo pairs nor unlabelled inputs.")
        return self.item(index.index, seed=index.seed)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the cached images, which a worker process would have to be sent."""
        return {**self.__dict__, "_cache": {}}

    def subset(self, indices: Sequence[int]) -> PairedRestorationDataset:
        """A data set of some of the pairs, in the order given, with the same options and a cache of its own."""
        part = copy.copy(self)
        part.pairs = [self.pairs[i] for i in indices]
        part._cache = {}
        return part

    def item(self, index: int, *, seed: int | None = None, is_pseudo: bool = False) -> dict[str, Any]:
        """Read a pair.

        Args:
            index: Number of the pair; negative numbers count from the end.
            seed: Seed of the augmentation; None for none.
            is_pseudo: What the item says of itself.

        Returns:
            The item; see the class.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no pair {index}; the data set has {len(self)}.")
        index %= len(self)
        lq, gt = self.augmented(self._read(index), seed)
        return as_item(self.pairs[index], to_tensor(lq), to_tensor(gt), is_pseudo)

    def augmented(self, images: Sequence[np.ndarray], seed: int | None) -> Sequence[np.ndarray]:
        """Crop, flip and turn images of one size as the options say, in training and if there is a seed."""
        if not self.training or seed is None:
            return images
        rng = np.random.default_rng((self.seed, seed))
        size = self.size
        if self.crop_ratio is not None:
            size = random_ratio_size(rng, images[0].shape, self.crop_ratio)
        return augment(rng, images, size=size, hflip=self.hflip, rot=self.rot, stratified=self.stratified)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Decoded input and target, from the cache if they are there."""
        images = self._cache.get(index)
        if images is None:
            images = read_pair(self.pairs[index])
            if self.cache_images:
                self._cache[index] = images
        return images


def as_item(pair: Pair, lq: torch.Tensor, gt: torch.Tensor, is_pseudo: bool) -> dict[str, Any]:
    """An item of the data sets; see `PairedRestorationDataset`."""
    return {
        "lq": lq,
        "gt": gt,
        "lq_path": pair.input,
        "gt_path": pair.target,
        "key": pair.key,
        "is_pseudo": torch.tensor(is_pseudo),
    }
