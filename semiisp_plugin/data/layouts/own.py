"""A photographer's own pairs: RAW files (or ordinary images) and their edited versions, matched by file name."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import partial
from pathlib import Path

from semiisp_plugin.data.align import align
from semiisp_plugin.data.layouts.base import (
    DataSet,
    Listing,
    PairImages,
    Request,
    by_name,
    match,
    require_folder,
)
from semiisp_plugin.data.pairs import PAIR_FOLDERS, Pair, find_pair_folders
from semiisp_plugin.data.subsets import rank_names, read_names
from semiisp_plugin.io.colour_profile import profile_name
from semiisp_plugin.io.image_header import read_header
from semiisp_plugin.io.image_io import IMAGE_EXTENSIONS, decode_image, read_file, read_image, scan_images
from semiisp_plugin.io.lmdb_io import lmdb_key
from semiisp_plugin.io.picture import shrink_short_side
from semiisp_plugin.io.raw_io import RAW_EXTENSIONS, RAW_PROCESSING, RAW_SUMMARY, is_raw, read_raw, require_rawpy

FOLDERS = (("raw", "edited"), *PAIR_FOLDERS)
"""Names that the two folders below --source may have."""

_INPUT_EXTENSIONS = (*RAW_EXTENSIONS, *IMAGE_EXTENSIONS)

TEST_SEED = "test"
"""Seed of `rank_names` for the pairs kept for testing; another than that of the subsets."""


def read_own(pair: Pair, *, min_alignment: float, short_side: int | None) -> PairImages:
    """Read an input, RAW or not, at the orientation and size of its edited image.

    Args:
        pair: Where they are.
        min_alignment: See `semiisp_plugin.data.align.MIN_ALIGNMENT`.
        short_side: Area-resize the target to this short side first; None keeps its size.
    """
    buffer = read_file(pair.target)
    target = shrink_short_side(decode_image(buffer, name=pair.target), short_side)
    raw = is_raw(pair.input)
    aligned = align(read_raw(pair.input) if raw else read_image(pair.input), target, min_alignment=min_alignment)
    notes = list(aligned.notes)
    profile = profile_name(read_header(buffer, pair.target).icc_profile)
    if profile and "srgb" not in profile.lower():
        notes.append(f"edited image with the colour profile '{profile}', read as if it were sRGB; export it as sRGB")
    return PairImages(aligned.image, target, aligned.score, tuple(notes))


# --- listing --------------------------------------------------------------------------------------------------------


def _find(request: Request) -> Listing:
    """List the pairs of two folders."""
    input_root, target_root = pair_folders(request)
    files = scan_images(input_root, _INPUT_EXTENSIONS).images
    if any(is_raw(name) for name in files):
        require_rawpy()
    # Cameras write both: the RAW file is the input.
    raw_names = {_stem(name) for name in files if is_raw(name)}
    beside = dict.fromkeys(name for name in files if not is_raw(name) and _stem(name) in raw_names)
    doubled: dict[str, str] = {}
    targets = by_name(target_root, _stem, "edited images", doubled=doubled)

    def name_of(name: str) -> str | None:
        return None if name in beside else _stem(name)

    inputs = by_name(input_root, name_of, "inputs", _INPUT_EXTENSIONS, doubled=doubled)
    inputs = _as_targets(inputs, targets)
    names = sorted(inputs.keys() & targets.keys())
    listing = Listing({}, partial(read_own, min_alignment=request.min_alignment, short_side=request.short_side))
    listing.left_out = match(inputs, targets)[1] | doubled
    if not names:
        raise ValueError(
            f"no file of '{input_root}' ({len(inputs)} files, such as '{min(inputs.values())}') has the name of one of "
            f"'{target_root}' ({len(targets)}, such as '{min(targets.values())}'). Pairs are matched by their path "
            "below the two folders, without extension: x/IMG_1.NEF and x/IMG_1.jpg."
        )
    for root, extensions in ((input_root, _INPUT_EXTENSIONS), (target_root, IMAGE_EXTENSIONS)):
        if remark := scan_images(root, extensions).remark:
            listing.warnings.append(f"not read in '{root}', for their format: {remark}")
    if beside:
        listing.warnings.append(
            f"{len(beside)} images beside RAW files of the same name, such as '{min(beside)}', are not used as inputs."
        )
    n_raw = sum(is_raw(inputs[name]) for name in names)
    listing.found = [
        f"inputs: {len(inputs)} in '{input_root}' ({n_raw} of the {len(names)} in pairs are RAW)",
        f"edited images: {len(targets)} in '{target_root}'",
    ]
    if n_raw:
        listing.found.append(f"RAW files: {RAW_SUMMARY}")
    if 0 < n_raw < len(names):
        listing.warnings.append(
            f"{n_raw} inputs are RAW (linear) and {len(names) - n_raw} ordinary images; one network should not be "
            "trained on both. Prepare them separately."
        )
    test = _test_names(names, request, listing)
    for split in ("train", "test"):
        listing.splits[split] = [
            Pair(_key(name), inputs[name], targets[name]) for name in names if (name in test) == (split == "test")
        ]
    listing.settings = {
        "min_alignment": request.min_alignment,
        "short_side": request.short_side,
        "resize": "the part that the edited image shows, area-resized to its size",
        **({"raw": {**RAW_PROCESSING, "crop": "the file's default crop"}} if n_raw else {}),
    }
    return listing


def pair_folders(request: Request) -> tuple[Path, Path]:
    """The folders of inputs and edited images.

    Raises:
        ValueError, FileNotFoundError, NotADirectoryError: They are missing, or named twice.
    """
    if request.input or request.target:
        if request.source:
            raise ValueError("give either --source, or --input and --target.")
        return (
            require_folder(request.input, "the folder of the RAW files or inputs", "--input"),
            require_folder(request.target, "the folder of the edited images", "--target"),
        )
    inputs, targets = find_pair_folders(
        require_folder(request.source, "the folder that holds raw/ and edited/", "--source"), FOLDERS
    )
    return Path(inputs), Path(targets)


def _stem(relative: str) -> str:
    """Path without extension (of any kind: RAW extensions are not images'), accented letters composed."""
    folder, slash, name = unicodedata.normalize("NFC", relative).rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0]}"


def _key(name: str) -> str:
    """The key of a name, of which nothing is an extension any more."""
    return lmdb_key(f"{name}.png")


def _as_targets(inputs: dict[str, str], targets: dict[str, str]) -> dict[str, str]:
    """The inputs under the targets' names, case not mattering where that is unambiguous."""
    folded = [Counter(name.casefold() for name in named) for named in (inputs, targets)]
    by_folded = {name.casefold(): name for name in targets}
    renamed = {}
    for name, path in inputs.items():
        low = name.casefold()
        if name not in targets and folded[0][low] == folded[1][low] == 1:
            name = by_folded[low]
        renamed[name] = path
    return renamed


def _test_names(names: list[str], request: Request, listing: Listing) -> set[str]:
    """Names of the pairs kept for testing."""
    if request.test_list:
        if request.test_pairs is not None:
            raise ValueError("give either --test_pairs or --test_list.")
        wanted = read_names(Path(request.test_list).expanduser())
        by_key = {key: name for name in names for key in (name, _key(name))}
        stems = [by_key.get(name) or by_key.get(_stem(name) if "." in name else name) for name in wanted]
        unknown = [name for name, stem in zip(wanted, stems, strict=True) if stem is None]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of the {len(wanted)} names in '{request.test_list}' are of no pair, '{unknown[0]}' "
                f"among them. Names look like '{names[0]}'."
            )
        test = {stem for stem in stems if stem is not None}
        listing.split_source = f"--test_list {request.test_list}"
    else:
        count = max(1, round(len(names) / 10)) if request.test_pairs is None else request.test_pairs
        test = set(rank_names(names, TEST_SEED)[:count])
        listing.split_source = (
            f"ours: the first {count} of the names ranked by the SHA-256 of '{TEST_SEED}:<name>' are for testing. "
            "Shots of one scene may be in both halves; name the test pairs with --test_list to avoid it"
        )
    if len(test) >= len(names):
        raise ValueError(
            f"all {len(names)} pairs would be for testing, none for training. Choose fewer (--test_pairs)."
        )
    return test


OWN = DataSet(
    "own",
    {},
    _find,
    frozenset({"input", "target", "short_side", "test_pairs", "test_list", "min_alignment"}),
)
