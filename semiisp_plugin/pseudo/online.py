"""Step 3 at training time: pseudo inputs for crops of pseudo ground truths, with other parameter sets at every visit.

f_ISP^-1 is point-wise. With one set an image, the inverse of a crop is the crop of the inverse, so that only what is
trained on is computed. With sets on a grid the crop must know its place in the picture, through flips, transposition
and enlargement; it is an affine map, found by sending coordinates through the same augmentation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.data.pairs import read_location
from semiisp_plugin.io.lmdb_io import read_meta
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import DRAWN_WITH, BuildFolder, pair_keys, photograph_seed
from semiisp_plugin.pseudo.sources import BankInverse

F_ISP_NAME = "f_isp.pth"
"""The copy of f_ISP in the folder of a build whose inputs are drawn in training."""

# Values of an image that are inverted at a time where each pixel has a set of its own: K maps of that size must stay
# in a CPU's cache, or in a GPU's memory.
_BAND = {"cpu": 32_768, "cuda": 2**23}


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
        # Whoever opens it in the middle of training must not shift the dropout: a network begins with random weights.
        with torch.random.fork_rng(devices=[]):
            drawn_with = {name: build.settings[name] for name in DRAWN_WITH}
            generator = make_generator(build.folder / F_ISP_NAME, **drawn_with)
        return cls(generator, build.settings["input_bits"])

    def to(self, device: torch.device | str) -> OnlineDraw:
        """Draw on another device; returns itself."""
        self.device = torch.device(device)
        self.generator.network.to(self.device)
        return self

    @property
    def needs_place(self) -> bool:
        """Whether the sets of step 3 lie on a grid, so that `inputs` must know where in the picture a crop lies."""
        second = self.generator.second
        return isinstance(second, BankInverse) and second.bank.grid != (1, 1)

    @property
    def needs_picture(self) -> bool:
        """Whether step 3 can be done on whole pictures only: f_ISP chooses among several candidates."""
        return self.generator.candidates > 1

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
        photographs = photographs.to(self.device)
        first = self.generator.first
        if isinstance(first, BankInverse):
            raw = inverted(first, photographs, first.draw(len(photographs), generators).to(self.device))
        else:
            raw = first.invert(photographs, generators).image
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
            places: ``(N, 2, 3)``, where the crops lie (see `place_of`); None: ``targets`` are whole pictures, or
                `needs_place` is false.

        Returns:
            ``(N, 3, h, w)`` float32 in [0, 1] on this object's device: whole numbers of 1/65535 (or 1/255).

        Raises:
            ValueError: Places are given, but `needs_picture`.
        """
        if places is not None and self.needs_picture:
            raise ValueError("candidates above 1 are told apart on whole pictures; draw first, then crop.")
        targets = targets.to(self.device)
        second = self.generator.second
        if self.needs_picture or not isinstance(second, BankInverse):
            made = self.generator.generate_input(targets, generators).input
        else:
            made = inverted(second, targets, second.draw(len(targets), generators).to(self.device), places)
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
            # As step 1 has left it: what that draws does not depend on the picture.
            self.generator.first.invert(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), generator)
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


def inverted(source: BankInverse, images: Tensor, sets: Tensor, places: Tensor | None = None) -> Tensor:
    """What a source makes of images or crops with given sets, by the fastest way that there is.

    Args:
        source: Of step 1 or 3.
        images: ``(N, 3, h, w)`` uint8.
        sets: ``(N, K, gh, gw)``.
        places: See `OnlineDraw.inputs`.

    Returns:
        ``(N, 3, h, w)`` float32 in [0, 1].
    """
    made = source.compiled(images, sets, places)
    if made is not None:
        return made.image
    isp, backend = source.isp, source.backend_for(sets)
    if places is None or tuple(sets.shape[2:]) == (1, 1):
        return isp.inverse(images, sets, backend=backend).image
    return in_place(lambda x, p: isp.inverse(x, p, backend=backend).image, images, sets, places)


def in_place(apply: Callable[[Tensor, Tensor], Tensor], images: Tensor, sets: Tensor, places: Tensor) -> Tensor:
    """What ``apply`` makes of crops with the parameters that hold where they lie.

    Args:
        apply: One of the directions of an `InvertibleISP`, of images and parameters.
        images: ``(N, 3, h, w)``, crops.
        sets: ``(N, K, gh, gw)``, of the whole pictures.
        places: ``(N, 2, 3)``, see `place_of`.

    Returns:
        ``(N, 3, h, w)`` of the type of the sets.
    """
    if tuple(sets.shape[2:]) == (1, 1):
        return apply(images, sets)
    out = torch.empty(images.shape, dtype=sets.dtype, device=images.device)
    n, _, height, width = images.shape
    rows = max(1, _BAND.get(images.device.type, _BAND["cpu"]) // (3 * width))
    for i in range(n):
        where = F.affine_grid(places[i : i + 1].to(sets), [1, 1, height, width], align_corners=False)
        for top in range(0, height, rows):
            band = slice(top, min(top + rows, height))
            # Bilinear, and level beyond the outer nodes: what the interpolation of whole pictures is.
            maps = F.grid_sample(sets[i : i + 1], where[:, band], padding_mode="border", align_corners=False)
            out[i : i + 1, :, band] = apply(images[i : i + 1, :, band], maps)
    return out


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
    path = folder / F_ISP_NAME
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing, the f_ISP that pseudo inputs are drawn with. Copy the file that the build was made "
            f"with there, or run the same `basicsr pseudo` command again."
        ) from None
    expected = str(build.settings["f_isp_sha256"])
    if not found.startswith(expected):
        raise ValueError(
            f"{path} is not the f_ISP that the build was made with (SHA-256 {found[: len(expected)]}, not {expected}). "
            f"Put that file back, or build the pairs again in another folder."
        )
    if mode == "keys" and not os.path.isdir(build.settings["photographs"]):
        raise FileNotFoundError(
            f"The photographs of '{folder}' are read in training, but '{build.settings['photographs']}' is no folder. "
            f"Mount it, or build with mode: online, which needs the photographs only once."
        )


def coordinates(height: int, width: int) -> list[np.ndarray]:
    """Where the pixels of a picture are: x, then y, -1 and 1 being its edges.

    Returns:
        Two images ``(H, W, 1)`` float64, read-only and without memory of that size, to go through an augmentation.
    """
    x = np.broadcast_to(((2 * np.arange(width) + 1) / width - 1)[None, :, None], (height, width, 1))
    y = np.broadcast_to(((2 * np.arange(height) + 1) / height - 1)[:, None, None], (height, width, 1))
    return [x, y]


def place_of(augmented: Sequence[np.ndarray]) -> Tensor:
    """Where in the picture a crop lies.

    Args:
        augmented: What an augmentation of flips, turns, crops and resizing has made of `coordinates`,
            two ``(h, w, 1)``.

    Returns:
        ``(2, 3)`` float32, as `torch.nn.functional.affine_grid` takes it: ``place @ (u, v, 1)`` is the point (x, y) of
        the picture under the point (u, v) of the crop, -1 and 1 being the edges of either.
    """
    height, width = augmented[0].shape[:2]
    # Away from the edges, where resizing repeats the outermost pixels.
    top, left = height // 4, width // 4
    bottom, right = height - 1 - top, width - 1 - left
    u, v = ((2 * np.array(ends) + 1) / n - 1 for ends, n in (((left, right), width), ((top, bottom), height)))
    rows = []
    for values in augmented:
        start = values[top, left, 0]
        along_u = (values[top, right, 0] - start) / (u[1] - u[0]) if right > left else 0.0
        along_v = (values[bottom, left, 0] - start) / (v[1] - v[0]) if bottom > top else 0.0
        rows.append((along_u, along_v, start - along_u * u[0] - along_v * v[0]))
    return torch.tensor(rows, dtype=torch.float32)


WHOLE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""`place_of` a picture itself."""
