"""LOL version 1 and version 2 (real and synthetic): pairs of dark and normally exposed images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from semiisp_plugin.data.layouts.base import (
    SPLITS,
    DataSet,
    Listing,
    Request,
    bases,
    by_name,
    child_names,
    match,
    read_images,
    require_folder,
    subfolder,
)
from semiisp_plugin.io.image_io import strip_extension
from semiisp_plugin.io.lmdb_io import lmdb_key

# Folders of a split's inputs and targets, as distributed and as repacked.
_V1 = {
    "train": (("our485/low", "our485/high"), ("Train/input", "Train/target"), ("train/low", "train/high")),
    "test": (("eval15/low", "eval15/high"), ("Test/input", "Test/target"), ("test/low", "test/high")),
}
_V2 = {
    "train": (("Train/Low", "Train/Normal"), ("Train/input", "Train/target")),
    "test": (("Test/Low", "Test/Normal"), ("Test/input", "Test/target")),
}
_PREFIXED = re.compile(r"(?:low|normal|high)[-_]?(\d+)", re.IGNORECASE)


def pair_name(relative: str) -> str:
    """Name of a pair from an image's path: without extension, and without the prefixes of LOLv2's original names.

    ``low00001.png`` and ``normal00001.png`` -> ``00001``; ``r000da54ft.png`` -> ``r000da54ft``.
    """
    stem, _ = strip_extension(relative)
    folder, slash, name = stem.rpartition("/")
    prefixed = _PREFIXED.fullmatch(name)
    return lmdb_key(f"{folder}{slash}{prefixed[1] if prefixed else name}")


def _find(request: Request, *, folders: Mapping[str, tuple[tuple[str, str], ...]], home: str | None) -> Listing:
    """List LOL's pairs.

    Args:
        request: Names the source.
        folders: Split -> the folders it may be in.
        home: Name of the folder that tells this part of the data set from its other part.
    """
    source = require_folder(request.source, "the folder of the data set", "--source")
    candidates = bases(source, 2)
    if home:
        other = {"real_captured", "synthetic"} - {home.lower()}
        if source.name.lower() in other:
            raise ValueError(
                f"'{source}' is the other part of LOLv2; point --source at the folder {home}, or at the one that holds "
                "both parts."
            )
        named = [path for path in candidates if path.name.casefold() == home.casefold()]
        # The user may also point at the part itself, under whatever name.
        candidates = named or [source]
    roots = [root for root in candidates if _located(root, folders["train"]) or _located(root, folders["test"])]
    if not roots:
        inside = f"{home}/ with " if home else ""
        raise ValueError(
            f"'{source}' is not this data set as it is distributed: looked there, and two folders deep, for "
            f"{inside}{_wanted(folders['train'])}; {child_names(source)}. Point --source at the unpacked folder."
        )
    if len(roots) > 1:
        raise ValueError(
            f"'{source}' holds this data set more than once: {', '.join(repr(str(r)) for r in roots[:4])}. "
            "Point --source at one of them."
        )
    root = roots[0]
    listing = Listing({split: [] for split in SPLITS}, read_images, split_source="the folders of the distribution")
    for split in SPLITS:
        located = _located(root, folders[split])
        if located is None:
            listing.warnings.append(
                f"no {split} pairs were found, so only the other half is prepared. Looked in '{root}' for "
                f"{_wanted(folders[split])}; {child_names(root)}."
            )
            continue
        inputs, targets = (
            by_name(folder, pair_name, f"{split} {what}")
            for folder, what in zip(located, ("inputs", "targets"), strict=True)
        )
        pairs, missing = match(inputs, targets)
        listing.splits[split] = pairs
        listing.missing |= {f"{split}/{name}": text for name, text in missing.items()}
        listing.found.append(f"{split}: {len(pairs)} pairs in '{located[0]}' and '{located[1]}'")
    both = {pair.key for pair in listing.splits["train"]} & {pair.key for pair in listing.splits["test"]}
    if both:
        listing.warnings.append(
            f"{len(both)} names are in both halves ('{min(both)}' is one): are training pairs among the test pairs?"
        )
    return listing


def _located(root: Path, choices: tuple[tuple[str, str], ...]) -> tuple[Path, Path] | None:
    """The first of the pairs of folders that is there."""
    for low, high in choices:
        found = subfolder(root, low), subfolder(root, high)
        if found[0] and found[1]:
            return found[0], found[1]
    return None


def _wanted(choices: Sequence[tuple[str, str]]) -> str:
    """The folders looked for, for a message: ``our485/{low,high} or Train/{input,target}``."""
    return " or ".join(f"{a.partition('/')[0]}/{{{a.partition('/')[2]},{b.partition('/')[2]}}}" for a, b in choices)


LOLV1 = DataSet(
    "lolv1",
    {"train": 485, "test": 15},
    partial(_find, folders=_V1, home=None),
    frozenset({"partial"}),
)
LOLV2_REAL = DataSet(
    "lolv2_real",
    {"train": 689, "test": 100},
    partial(_find, folders=_V2, home="Real_captured"),
    frozenset({"partial"}),
)
LOLV2_SYNTHETIC = DataSet(
    "lolv2_synthetic",
    {"train": 900, "test": 100},
    partial(_find, folders=_V2, home="Synthetic"),
    frozenset({"partial"}),
)
