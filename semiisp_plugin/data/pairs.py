"""Pairs of images (input and target) from folders or LMDBs, matched by name and never by order.

A pair's key is the LMDB key of its target (`semiisp_plugin.io.lmdb_io.lmdb_key`: the path below the root without
extension), whether it lies in a folder or in an LMDB, so that the same pair has the same key in both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semiisp_plugin.io.image_io import decode_image, list_images, read_image
from semiisp_plugin.io.lmdb_io import lmdb_key, parts, quote_key, read_meta, read_value

PAIR_FOLDERS: tuple[tuple[str, str], ...] = (("input", "target"), ("low", "high"), ("low", "normal"), ("lq", "gt"))
"""Names that data sets give to the folders of inputs and targets, in lower case."""

_SHOWN = 5


class Pair(NamedTuple):
    """An input image and its target.

    Attributes:
        key: Name of the pair, the target's LMDB key.
        input: Where the input is: a file, or ``folder.lmdb/key`` for an LMDB. See `read_location`.
        target: Where the target is.
    """

    key: str
    input: str
    target: str


def match_pairs(
    input_root: str | os.PathLike[str], target_root: str | os.PathLike[str], *, filename_template: str = "{}"
) -> list[Pair]:
    """Match the images of two roots by their path without extension.

    Args:
        input_root: Folder of the inputs, searched recursively, or an LMDB (name ending in ``.lmdb``).
        target_root: Folder or LMDB of the targets.
        filename_template: An input's file name without extension, ``{}`` being that of its target:
            ``"{}_low"`` matches ``a/7_low.png`` with ``a/7.jpg``.

    Returns:
        The pairs, sorted by key.

    Raises:
        ValueError: An image of either root has no partner, two files of a folder differ in their extension alone, a
            root is empty, or the template has not exactly one ``{}``.
        FileNotFoundError: A root is missing.
        NotADirectoryError: A root is a file.
    """
    # Quoting is done byte by byte, so the template can be applied to quoted keys.
    affixes = [quote_key(text) for text in filename_template.split("{}")]
    if len(affixes) != 2 or "/" in filename_template:
        raise ValueError(
            f"The file name template '{filename_template}' must hold '{{}}' exactly once, and no '/': "
            "'{}_low' is an example."
        )
    inputs, targets = locations(input_root), locations(target_root)
    input_keys = {}
    for key in targets:
        folder, slash, name = key.rpartition("/")
        input_keys[key] = f"{folder}{slash}{affixes[0]}{name}{affixes[1]}"
    lonely_targets = [key for key, input_key in input_keys.items() if input_key not in inputs]
    lonely_inputs = inputs.keys() - input_keys.values()
    if lonely_targets or lonely_inputs:
        template = "" if filename_template == "{}" else f" (inputs being named '{filename_template}')"
        raise ValueError(
            f"Inputs and targets do not match by name{template}.\n"
            f"  {len(inputs)} inputs in '{os.fspath(input_root)}'; without target: {_some(lonely_inputs)}.\n"
            f"  {len(targets)} targets in '{os.fspath(target_root)}'; without input: {_some(lonely_targets)}.\n"
            "Check the two paths and filename_tmpl; remove or add the images named."
        )
    return [Pair(key, inputs[input_keys[key]], targets[key]) for key in sorted(targets)]


def select_pairs(pairs: Sequence[Pair], names: Iterable[str], *, source: str = "the list of names") -> list[Pair]:
    """Select pairs by name, for training on a subset.

    Args:
        pairs: As from `match_pairs`.
        names: Paths of targets below their root, with or without extension, or keys of pairs.
        source: What messages call the list: its path.

    Returns:
        The pairs named, in the order of ``pairs``.

    Raises:
        ValueError: A name is of no pair, or of one that was named before; or there is no name.
    """
    keys = {pair.key for pair in pairs}
    selected: set[str] = set()
    unknown, repeated = [], []
    count = 0
    for name in names:
        count += 1
        key = name if name in keys else _key_of(name)
        if key not in keys:
            unknown.append(name)
        elif key in selected:
            repeated.append(name)
        else:
            selected.add(key)
    if unknown:
        example = f" Pairs are named like '{pairs[0].key}'." if pairs else ""
        raise ValueError(
            f"{source}: {len(unknown)} of the {count} names belong to none of the {len(pairs)} pairs: "
            f"{_some(unknown)}.{example} Check that the list is of this data set."
        )
    if repeated:
        raise ValueError(f"{source}: {len(repeated)} names occur more than once: {_some(repeated)}. List each once.")
    if not selected:
        raise ValueError(f"{source} names no pair; give at least one name.")
    return [pair for pair in pairs if pair.key in selected]


def find_pair_folders(root: str | os.PathLike[str], names: Sequence[tuple[str, str]] = PAIR_FOLDERS) -> tuple[str, str]:
    """Find the folders (or LMDBs) of inputs and targets below a data set's root by their usual names.

    Args:
        root: Holds a pair of these folders, each possibly with ``.lmdb`` appended.
        names: Of inputs and targets; case does not matter.

    Returns:
        Path of the inputs, path of the targets.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: It holds none of these pairs, or several.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"There is no folder '{root}' (absolute: '{root.absolute()}'). Check the path.")
    if not root.is_dir():
        raise NotADirectoryError(f"'{root}' is a file; give the folder that holds the pairs.")
    present = {path.name.casefold(): path for path in root.iterdir() if path.is_dir()}
    both = [(a + suffix, b + suffix) for suffix in ("", ".lmdb") for a, b in names]
    found = [(a, b) for a, b in both if a in present and b in present]
    if len(found) != 1:
        looked_for = ", ".join(f"{{{a}, {b}}}" for a, b in names)
        held = _some(path.name for path in present.values())
        problem = f"holds several: {found}" if found else f"holds none of them (it has: {held})"
        raise ValueError(
            f"Looked in '{root}' for the folders (or LMDBs) of inputs and targets, {looked_for}; it {problem}. "
            "Rename the folders, or name the two explicitly."
        )
    return str(present[found[0][0]]), str(present[found[0][1]])


def read_location(location: str) -> np.ndarray:
    """Read an image by its place in a `Pair`.

    Args:
        location: A file, or ``folder.lmdb/key``.

    Returns:
        RGB (H, W, 3), ``uint8`` or ``uint16``; see `semiisp_plugin.io.image_io.read_image`.
    """
    folder, separator, key = location.rpartition(".lmdb/")
    # Keys have no dots and image files have one, so a file below a folder named x.lmdb is not taken for a key.
    if separator and "." not in key:
        return decode_image(read_value(folder + ".lmdb", key), name=location)
    return read_image(location)


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Read a pair's input and target, which must have one size; an image that is both is read once.

    Raises:
        ValueError: They differ in size; or one of them cannot be read (`ImageReadError`).
    """
    input_image = read_location(pair.input)
    target = input_image if pair.target == pair.input else read_location(pair.target)
    check_same_size(pair, input_image, target)
    return input_image, target


def check_same_size(pair: Pair, input_image: np.ndarray, target: np.ndarray) -> None:
    """Raise a ValueError that names both files and sizes unless a pair's images have one height and width."""
    (h, w), (target_h, target_w) = input_image.shape[:2], target.shape[:2]
    if (h, w) != (target_h, target_w):
        turned = " One of them seems to be rotated." if (h, w) == (target_w, target_h) else ""
        raise ValueError(
            f"The images of pair '{pair.key}' differ in size (height x width):\n"
            f"  input:  {h}x{w} '{pair.input}'\n  target: {target_h}x{target_w} '{pair.target}'\n"
            f"{turned}They must show the same pixels; crop, resize or remove them.".lstrip()
        )


def _key_of(name: str) -> str | None:
    """The key of a target's path; None if it cannot be one."""
    try:
        return lmdb_key(name)
    except ValueError:
        return None


def locations(root: str | os.PathLike[str], *, doubled: dict[str, str] | None = None) -> dict[str, str]:
    """Key -> location (see `Pair`) of all images of a folder or LMDB.

    Args:
        root: The folder or LMDB.
        doubled: Gets the files whose key another one has, with an explanation; None: they are an error.

    Raises:
        ValueError, FileNotFoundError, NotADirectoryError: See `match_pairs`.
    """
    root = os.fspath(root)
    if root.rstrip("/" + os.sep).endswith(".lmdb"):
        root = root.rstrip("/" + os.sep)
        folders = parts(root) or [root]  # of one that does not exist, read_meta says so
        located = {entry.key: f"{folder}/{entry.key}" for folder in folders for entry in read_meta(folder)}
        if not located:
            raise ValueError(f"'{root}' lists no image in its meta_info.txt. Check the path, or write it again.")
        return located
    found: dict[str, str] = {}
    for relative in list_images(root):
        key = lmdb_key(relative)
        if key in found:
            problem = f"'{found[key]}' and '{relative}' in '{root}' differ in their extension alone"
            if doubled is None:
                raise ValueError(f"{problem}, so it is not clear which one belongs to a pair. Remove one.")
            doubled[relative] = f"{problem}; rename one"
            continue
        found[key] = os.path.join(root, relative)
    return found


def _some(names: object) -> str:
    """The first few names, sorted, and how many there are."""
    listed = sorted(names)  # type: ignore[call-overload]  # callers pass collections of str
    if not listed:
        return "none"
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in listed[:_SHOWN]) + more
