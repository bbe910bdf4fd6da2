"""What a data set's layout says: which pairs there are, in which split, and how an image pair is read."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semiisp_plugin.data.align import MIN_ALIGNMENT
from semiisp_plugin.data.pairs import Pair, read_pair
from semiisp_plugin.io.image_io import IMAGE_EXTENSIONS, scan_images

SPLITS = ("train", "test")
"""Halves of a data set; either may be empty."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        source: Folder of the data set as it was distributed.
        input: Folder of the inputs, where it is named by itself.
        target: Folder of the targets, likewise.
        partial: Pairs without a partner, and names of a list without files, are left out instead of being errors.
        channel_order: Of the XYZ inputs: ``auto``, ``rgb`` or ``bgr``.
        short_side: Shrink both images to this short side.
        test_pairs: How many pairs to keep for testing, where the data set has no split.
        test_list: File that names these pairs.
        min_alignment: See `semiisp_plugin.data.align.MIN_ALIGNMENT`.
    """

    source: str | None = None
    input: str | None = None
    target: str | None = None
    partial: bool = False
    channel_order: str = "auto"
    short_side: int | None = None
    test_pairs: int | None = None
    test_list: str | None = None
    min_alignment: float = MIN_ALIGNMENT


class PairImages(NamedTuple):
    """A pair that was read.

    Attributes:
        input: RGB (H, W, 3), ``uint8`` or ``uint16``.
        target: RGB (H, W, 3), of the same size.
        alignment: The measure of `semiisp_plugin.data.align.alignment`, where it was taken.
        notes: What a summary should count, such as an unusual colour profile.
    """

    input: np.ndarray
    target: np.ndarray
    alignment: float | None = None
    notes: tuple[str, ...] = ()


Reader = Callable[[Pair], PairImages]
"""Reads a pair, or raises a ValueError or OSError that says why it cannot be used. Called in several threads."""


@dataclass
class Listing:
    """The pairs of a data set that were found.

    Attributes:
        splits: Pairs of ``train`` and ``test``, by key.
        reader: How one is read.
        found: What was found where, a line each.
        split_source: Where the split comes from.
        settings: What the prepared images depend on besides the files; goes into ``prepared.json``.
        missing: What should be there and is not, key -> explanation; ``--partial`` leaves it out.
        errors: What else is wrong, what -> explanation; nothing leaves it out.
        left_out: What is left out by the rules of the data set, key -> reason.
        warnings: What is unusual.
    """

    splits: dict[str, list[Pair]]
    reader: Reader
    found: list[str] = field(default_factory=list)
    split_source: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataSet:
    """A data set that can be prepared.

    Attributes:
        name: On the command line, whose help has a line on it (`semiisp_plugin.arguments.DATA_SETS`).
        expected: Number of pairs of each split, as published; empty if it has no fixed number.
        find: Lists the pairs.
        options: Fields of `Request` that it takes besides the folders.
        notes: What everybody who uses it should know; printed.
    """

    name: str
    expected: dict[str, int]
    find: Callable[[Request], Listing]
    options: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def read_images(pair: Pair) -> PairImages:
    """Read two ordinary images of one size."""
    return PairImages(*read_pair(pair))


# --- folders --------------------------------------------------------------------------------------------------------


def require_folder(path: str | None, what: str, option: str) -> Path:
    """Raise an error that names the option unless a path is a folder.

    Raises:
        ValueError: There is no path.
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
    """
    if not path:
        raise ValueError(f"{what} is missing; give it with {option} DIR.")
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"{option}: there is no folder '{folder}' (absolute: '{folder.absolute()}').")
    if not folder.is_dir():
        raise NotADirectoryError(f"{option}: '{folder}' is a file; unpack archives first and give the folder.")
    return folder


def subfolder(root: Path, relative: str) -> Path | None:
    """A folder below ``root``, its name's case not mattering where only one fits."""
    folder = root
    for part in relative.split("/"):
        if not folder.is_dir():
            return None
        named = {path.name: path for path in folder.iterdir() if path.is_dir()}
        alike = [path for name, path in named.items() if name.casefold() == part.casefold()]
        if part in named:
            folder = named[part]
        elif len(alike) == 1:
            folder = alike[0]
        else:
            return None
    return folder


def bases(root: Path, depth: int = 2) -> list[Path]:
    """``root`` and the folders below it, down to ``depth``, hidden ones left out; for finding a data set's own root."""
    found, level = [root], [root]
    for _ in range(depth):
        level = sorted(
            path
            for folder in level
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.suffix != ".lmdb" and path.is_dir()
        )
        found += level
    return found


def child_names(root: Path) -> str:
    """The folders in ``root``, for a message."""
    names = sorted(path.name + "/" for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        files = sum(1 for _ in root.iterdir())
        return f"it has no folders, and {files} files" if files else "it is empty"
    return "it has " + ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def by_name(
    root: Path,
    name_of: Callable[[str], str | None],
    what: str,
    extensions: Collection[str] = IMAGE_EXTENSIONS,
    *,
    doubled: dict[str, str] | None = None,
) -> dict[str, str]:
    """Name -> path of the images below a folder.

    Args:
        root: The folder.
        name_of: Makes the name of a pair from a relative path; None for files that do not count.
        what: What messages call them: "inputs".
        extensions: Which files count, in lower case.
        doubled: Gets the names that two files have, with an explanation; None: they are an error.

    Raises:
        ValueError: Two files have one name, or there is none.
    """
    named: dict[str, str] = {}
    for relative in scan_images(root, extensions).images:
        name = name_of(relative)
        if name is None:
            continue
        path = str(root / relative)
        if name in named:
            problem = (
                f"two {what} have the name '{name}': '{named[name]}' and '{path}'. It is not clear which one belongs "
                "to the pair; remove or rename one."
            )
            if doubled is None:
                raise ValueError(problem)
            doubled.setdefault(name, problem)
        named[name] = path
    for name in doubled or ():
        named.pop(name, None)
    if not named:
        raise ValueError(
            f"'{root}' holds no image that could be one of the {what}, neither itself nor below. Check the path, and "
            "that the archive was unpacked completely."
        )
    return named


def match(inputs: dict[str, str], targets: dict[str, str]) -> tuple[list[Pair], dict[str, str]]:
    """Pairs of what has one name, sorted, and what has no partner, with an explanation each."""
    pairs = [Pair(name, inputs[name], targets[name]) for name in sorted(inputs.keys() & targets.keys())]
    missing = dict.fromkeys(sorted(inputs.keys() - targets.keys()), "there is an input, but no target")
    missing |= dict.fromkeys(sorted(targets.keys() - inputs.keys()), "there is a target, but no input")
    return pairs, missing
