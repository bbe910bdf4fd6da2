"""MIT-Adobe FiveK in the 480p version of Zeng et al. (3D LUT), for tone mapping and enhancement, and its RAW files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semiisp_plugin.data.align import align
from semiisp_plugin.data.layouts.base import (
    SPLITS,
    DataSet,
    Listing,
    PairImages,
    Reader,
    Request,
    bases,
    by_name,
    child_names,
    read_images,
    require_folder,
    subfolder,
)
from semiisp_plugin.data.pairs import Pair, check_same_size
from semiisp_plugin.data.subsets import fivek_split
from semiisp_plugin.io.folder_job import UNUSABLE
from semiisp_plugin.io.image_io import read_image, to_float
from semiisp_plugin.io.raw_io import RAW_PROCESSING, RAW_SUMMARY, read_raw, require_rawpy

TEST_NOTE = (
    "Zeng's test.txt has 498 names, not 500: a0160 and a2952 are in none of the lists. Published numbers on this split "
    "are over 498 images."
)
TARGET_FOLDER = "expertC/JPG/480p"
XYZ_FOLDER = "input/PNG/480p_16bits_XYZ_WB"
SRGB_FOLDER = "input/JPG/480p"
_LOOKED_AT = 24  # pairs, for the channel order
_NAME = re.compile(r"a\d{4}(?!\d)", re.IGNORECASE)


def photo_name(relative: str) -> str | None:
    """FiveK's name of a file: ``HQa1to700/a0001-jmac_DSC1459.dng`` -> ``a0001``; None if it has none."""
    found = _NAME.match(relative.rpartition("/")[2])
    return found[0].lower() if found else None


def read_xyz(pair: Pair, *, order: str) -> PairImages:
    """Read a 16-bit XYZ PNG and its sRGB target; X, Y and Z come out as channels 0, 1 and 2.

    Args:
        pair: Where they are.
        order: ``rgb`` if the file's red channel holds X, ``bgr`` if it holds Z.
    """
    image, target = read_image(pair.input), read_image(pair.target)
    if image.dtype != np.uint16:
        raise ValueError(
            f"'{pair.input}' has 8 bits a channel; the XYZ inputs have 16. Point at 480p_16bits_XYZ_WB, and do not "
            "convert it."
        )
    check_same_size(pair, image, target)
    return PairImages(image if order == "rgb" else np.ascontiguousarray(image[..., ::-1]), target)


def read_dng(pair: Pair, *, min_alignment: float) -> PairImages:
    """Read a DNG, demosaiced and linear, at its target's orientation and size."""
    target = read_image(pair.target)
    aligned = align(read_raw(pair.input), target, min_alignment=min_alignment)
    return PairImages(aligned.image, target, aligned.score, aligned.notes)


# --- listing --------------------------------------------------------------------------------------------------------


def _find(request: Request, *, task: str) -> Listing:
    """List FiveK's pairs for a task: ``tone_mapping``, ``general_isp`` or ``ie``."""
    if task == "general_isp":
        require_rawpy()
    root = require_folder(request.source, "the folder of the data set", "--source") if request.source else None
    inputs_root = _folder(root, request.input, task, "input")
    targets_root = _folder(root, request.target, task, "target")
    extensions = {"tone_mapping": (".png",), "general_isp": (".dng",), "ie": (".jpg", ".jpeg", ".png")}[task]
    inputs = by_name(inputs_root, photo_name, "inputs a0001 to a5000", extensions)
    targets = by_name(targets_root, photo_name, "targets a0001 to a5000")
    listing = Listing({}, read_images)
    listing.found = [
        f"inputs: {len(inputs)} in '{inputs_root}'",
        f"targets: {len(targets)} in '{targets_root}'",
    ]
    listing.split_source = "Zeng's lists, which come with the package"
    there = inputs.keys() & targets.keys()
    listing.left_out = dict.fromkeys(sorted(there.difference(*fivek_split())), "in no list of the split")
    for split, wanted in zip(SPLITS, fivek_split(), strict=True):
        listing.splits[split] = [Pair(name, inputs[name], targets[name]) for name in wanted if name in there]
        for name in wanted:
            lacks = [f"no {what}" for what, held in (("input", inputs), ("target", targets)) if name not in held]
            if lacks:
                listing.missing[f"{split}/{name}"] = f"in the {split} list, but there is {' and '.join(lacks)}"
    listing.reader, chosen = _reader(task, request, listing)
    listing.settings |= chosen
    return listing


def _folder(root: Path | None, named: str | None, task: str, role: str) -> Path:
    """The folder of the inputs or targets."""
    if named:
        return require_folder(named, f"the folder of the {role}s", f"--{role}")
    if root is None:
        raise ValueError(f"the folder of the data set is missing; give it with --source DIR (or --{role} DIR).")
    if role == "input" and task == "general_isp":
        return subfolder(root, "raw_photos") or root
    relative = TARGET_FOLDER if role == "target" else {"tone_mapping": XYZ_FOLDER, "ie": SRGB_FOLDER}[task]
    found = [folder for base in bases(root, 1) if (folder := subfolder(base, relative))]
    if len(found) != 1:
        problem = (
            f"is there more than once: {[str(f) for f in found]}" if found else f"is not there ({child_names(root)})"
        )
        raise ValueError(
            f"looked in '{root}' for the folder {relative} of the {role}s; it {problem}. Point --source at the folder "
            f"that holds input/ and expertC/, or name the folder itself with --{role} DIR."
        )
    return found[0]


def _reader(task: str, request: Request, listing: Listing) -> tuple[Reader, dict[str, Any]]:
    """How the task's pairs are read, and what to note about it."""
    if task == "ie":
        return read_images, {}
    if task == "general_isp":
        settings = {
            "raw": {**RAW_PROCESSING, "crop": "the file's default crop", "orientation": "the target's"},
            "resize": "the part that the target shows, area-resized in linear light to its size (480p: short side 480)",
            "min_alignment": request.min_alignment,
        }
        return partial(read_dng, min_alignment=request.min_alignment), settings
    order: str | None = request.channel_order
    if order == "auto":
        order, evidence = channel_order([*listing.splits["train"], *listing.splits["test"]])
        listing.found.append(f"channel order of the XYZ files: {evidence}")
        if order is None:
            listing.errors["the channel order"] = (
                f"{evidence}. Look at a file, and force it: --channel_order rgb if X is in its red channel, bgr if Z is"
            )
    return partial(read_xyz, order=order or "rgb"), {"channel_order": order or "rgb"}


def channel_order(pairs: Sequence[Pair]) -> tuple[str | None, str]:
    """Which channel of the XYZ files holds X, as the pixels that are neutral in the target show.

    The training code that made these files known reads them with OpenCV and does not swap channels, while it does for
    the targets; a network learns that away, a fixed colour matrix cannot. Neutral pixels have X : Y : Z of about
    .95 : 1 : 1.09. Some of the pairs are looked at, spread evenly; those that cannot be read are passed over.

    Returns:
        ``rgb`` if the red channel holds X, ``bgr`` if it holds Z, None if the ratio is nearer to 1 than 5 %, as it is
        in ordinary images, or there is no such pixel; and why, for messages.
    """
    ratios = []
    for pair in pairs[:: max(1, len(pairs) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            image, target = to_float(read_image(pair.input)), to_float(read_image(pair.target))
        except UNUSABLE:
            continue
        if image.shape == target.shape:
            size = max(1, image.shape[1] // 4), max(1, image.shape[0] // 4)
            image, target = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (image, target))
            neutral = (np.ptp(target, axis=2) < 0.03) & (target.min(axis=2) > 0.2) & (target.max(axis=2) < 0.9)
            neutral &= (image.min(axis=2) > 0.002) & (image.max(axis=2) < 0.98)
            if neutral.sum() >= 20:
                ratios.append(np.median(image[neutral, 0] / image[neutral, 2]))
    ratio = float(np.median(ratios)) if ratios else 1.0
    order = None if abs(np.log(ratio)) < 0.05 else "rgb" if ratio < 1 else "bgr"
    return order, (
        f"{order or 'undecided'} (pixels that are neutral in the targets of {len(ratios)} pairs have red : blue = "
        f"{ratio:.2f} in the XYZ files, and X : Z would be 0.87)"
    )


_EXPECTED = {"train": 4500, "test": 498}
_SHARED = frozenset({"partial", "input", "target"})
FIVEK_TONE_MAPPING = DataSet(
    "fivek_tone_mapping",
    _EXPECTED,
    partial(_find, task="tone_mapping"),
    _SHARED | {"channel_order"},
    notes=(TEST_NOTE,),
)
FIVEK_GENERAL_ISP = DataSet(
    "fivek_general_isp",
    _EXPECTED,
    partial(_find, task="general_isp"),
    _SHARED | {"min_alignment"},
    notes=(
        TEST_NOTE,
        f"DNG files are {RAW_SUMMARY}, area-resized to the target's size. The paper says demosaicing only.",
    ),
)
FIVEK_IE = DataSet(
    "fivek_ie",
    _EXPECTED,
    partial(_find, task="ie"),
    _SHARED,
    notes=(TEST_NOTE,),
)
