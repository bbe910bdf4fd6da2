"""Step 3 at training time: pseudo inputs for crops of pseudo ground truths, with other parameter sets at every visit.

Only what is trained on is computed; see `semiisp_plugin.pseudo.places`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.data.pairs import read_location
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.lmdb_io import read_meta
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import DRAWN_WITH, BuildFolder, pair_keys, photograph_seed
from semiisp_plugin.pseudo.places import in_place
from semiisp_plugin.pseudo.sources import BankInverse, NetworkInverse

F_ISP_NAME = "f_isp.pth"
COPIES = {"f_isp": F_ISP_NAME, "source_network": "source_network.pth"}
"""Copies in the folder of a build whose inputs are drawn in training, by the options that name the files."""


def fingerprints(files: Mapping[str, str | os.PathLike[str] | None]) -> dict[str, str]:
    """What a build remembers of the files that pairs are drawn with: hashes, by ``<option>_sha256``.

    Args:
        files: Paths by the keys of `COPIES`; None where a build needs none.
    """
    return {f"{key}_sha256": sha256_of(path)[:16] for key, path in files.items() if path is not None}


def keep_copies(folder: str | os.PathLike[str], files: Mapping[str, str | os.PathLike[str] | None]) -> None:
    """Put copies of the files that pairs are drawn with into a build's folder, where they are not there yet."""
    for key, path in files.items():
        copy = Path(folder, COPIES[key])
        if path is not None and not copy.exists():
            write_atomically(copy, Path(path).read_bytes())


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class OnlineDraw:
    """Draws the pseudo inputs of a build.

    Args:
        generator: What the build is made with.
        input_bits: Inputs are rounded as a stored build's are, to 16 or 8 bits.
    """

    def __init__(self, generator: PseudoPairGenerator, input_bits: Literal[8, 16] = 16) -> None:
        self.generator = generator
        self.levels = 2**input_bits - 1
        self.device = next(generator.network.parameters()).device

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> OnlineDraw:
        """That of a build's folder; draws on the CPU.

        Raises:
            ValueError, FileNotFoundError: See `check_drawable`.
            CheckpointError: The copy of f_ISP is damaged.
        """
        build = BuildFolder(folder)
        check_drawable(build)
        # Opening it in the middle of training must not shift the dropout: a network begins with random weights.
        with torch.random.fork_rng(devices=[]):
            # An option that the build does not know came later; its default is how the build was begun.
            drawn_with = {name: build.settings[name] for name in DRAWN_WITH if name in build.settings}
            copies: dict[str, Any] = {
                key: build.folder / COPIES[key] for key in COPIES if f"{key}_sha256" in build.settings
            }
            generator = make_generator(**copies, **drawn_with)
        return cls(generator, build.settings["input_bits"])

    def to(self, device: torch.device | str) -> OnlineDraw:
        """Draw on another device; returns itself."""
        self.device = torch.device(device)
        self.generator.to(self.device)
        return self

    @property
    def needs_place(self) -> bool:
        """Whether the sets of step 3 lie on a grid, so that `inputs` must know where in the picture a crop lies."""
        second = self.generator.second
        return isinstance(second, BankInverse) and second.bank.grid != (1, 1)

    def targets(self, photographs: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Steps 1 and 2: see `PseudoPairGenerator.generate_target`."""
        return self.generator.generate_target(photographs.to(self.device), generators)

    @torch.no_grad()
    def encoded(self, photographs: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Step 1, and of step 2 what must see the whole picture.

        Args:
            photographs: ``(N, 3, H, W)`` uint8.
            generators: One for each.

        Returns:
            The RAW images of step 1, ``(N, 3, H, W)`` float32, and the encoder's parameter sets for them.
        """
        raw = self.generator.first.invert(photographs.to(self.device), generators).image
        return raw, self.generator.network.predict_parameters(raw)

    @torch.no_grad()
    def developed(self, raw: Tensor, parameters: Tensor, places: Tensor) -> Tensor:
        """The rest of step 2, for crops: pseudo ground truths.

        Args:
            raw: ``(N, 3, h, w)``, crops of what `encoded` gives.
            parameters: As `encoded` gives them.
            places: ``(N, 2, 3)``, where the crops lie.

        Returns:
            ``(N, 3, h, w)`` uint8.
        """
        isp = self.generator.network.isp
        out = in_place(isp.forward, raw, parameters, places)
        return (out * 255).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def inputs(self, targets: Tensor, generators: Sequence[torch.Generator], places: Tensor | None = None) -> Tensor:
        """Step 3: a pseudo input for each pseudo ground truth, or for each crop of one.

        Args:
            targets: ``(N, 3, h, w)`` uint8.
            generators: One for each.
            places: ``(N, 2, 3)``, where the crops lie (see `semiisp_plugin.pseudo.places.place_of`); None: ``targets``
                are whole pictures, or `needs_place` is false.

        Returns:
            ``(N, 3, h, w)`` float32 in [0, 1] on this object's device: whole numbers of 1/65535 (or 1/255).
        """
        targets = targets.to(self.device)
        second = self.generator.second
        if places is not None and isinstance(second, BankInverse):
            made = second.invert(targets, generators, places).image
        else:
            made = self.generator.generate_input(targets, generators).input
        return made.mul_(self.levels).round_().div_(self.levels)  # its own memory, in [0, 1]

    def whole_pair(self, build: BuildFolder, entry: Entry, picture: np.ndarray) -> tuple[Tensor, Tensor]:
        """A pair as a stored build of the same seed would hold it.

        Args:
            build: A build that does not store its inputs.
            entry: The pair.
            picture: `read_entry` of it.

        Returns:
            The pseudo ground truth, ``(1, 3, H, W)`` uint8, and the pseudo input, ``(3, H, W)`` float32 in [0, 1].
        """
        generator = torch.Generator().manual_seed(photograph_seed(int(build.settings["manual_seed"]), entry.key))
        images = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].to(self.device)
        if build.mode == "keys":
            images = self.targets(images, [generator])
        elif self.generator.update_quality:
            # As step 1 has left it: what that draws depends on the picture's size at most, and then of networks alone.
            whole = isinstance(self.generator.first, NetworkInverse)
            blank = torch.zeros_like(images) if whole else torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
            self.generator.first.invert(blank, generator)
        return images, self.inputs(images, [generator])[0]


class Entry(NamedTuple):
    """A pair of a build.

    Attributes:
        key: Its name.
        location: Where its pseudo ground truth is, or in the mode ``keys`` its photograph, relative to their root.
    """

    key: str
    location: str


def entries_of(build: BuildFolder) -> list[Entry]:
    """The pairs of all complete shards, in order."""
    if build.mode == "keys":
        draws = int(build.settings["draws"])
        usable = (photograph for shard in range(len(build)) for photograph in build.usable(shard))
        return [Entry(key, photograph.path) for photograph in usable for key in pair_keys(photograph.key, draws)]
    folders = [build.lmdb(shard, "gt") for shard, _ in build.records()]
    return [Entry(entry.key, f"{folder}/{entry.key}") for folder in folders for entry in read_meta(folder)]


def read_entry(build: BuildFolder, entry: Entry) -> np.ndarray:
    """The pseudo ground truth or the photograph of an entry, RGB (H, W, 3) uint8."""
    return build.read(entry.location) if build.mode == "keys" else read_location(entry.location)


def check_drawable(build: BuildFolder) -> None:
    """Check that the inputs of a build can be drawn in training.

    Raises:
        ValueError: The build stores its inputs, is not complete, or its copy of f_ISP is another one.
        FileNotFoundError: The copy of f_ISP, or the folder of photographs that it needs, is missing.
    """
    folder, mode = build.folder, build.mode
    if mode == "stored":
        raise ValueError(
            f"'{folder}' is a build of mode 'stored', which holds its pseudo inputs: use SemiSupervisedDataset with "
            f"pseudo: {{dataroot_gt: {folder / 'gt.lmdb'}, dataroot_lq: {folder / 'lq.lmdb'}, io_backend: "
            f"{{type: lmdb}}}}, or build with mode: online."
        )
    unfinished = build.unfinished()
    if unfinished or len(build) == 0:
        raise ValueError(
            f"'{folder}' is not complete: {len(unfinished)} of {len(build)} shards are missing. Finish it by the "
            f"command that began it, `basicsr pseudo -opt FILE` with 'out: {folder}'."
        )
    for key, name in COPIES.items():
        expected = build.settings.get(f"{key}_sha256")
        if expected is None:
            continue
        path, what = folder / name, "f_ISP" if key == "f_isp" else "network"
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is missing, the {what} that pseudo inputs are drawn with. Copy the file that the build was "
                f"made with there, or run the same `basicsr pseudo` command again."
            ) from None
        if not found.startswith(str(expected)):
            raise ValueError(
                f"{path} is not the {what} that the build was made with (SHA-256 {found[: len(expected)]}, not "
                f"{expected}). Put that file back, or build the pairs again in another folder."
            )
    if mode == "keys" and not os.path.isdir(build.settings["photographs"]):
        raise FileNotFoundError(
            f"The photographs of '{folder}' are read in training, but '{build.settings['photographs']}' is no folder. "
            f"Mount it, or build with mode: online, which needs the photographs only once."
        )
