"""Folders of ordinary photographs, COCO's among them: no pairs, so nothing is packed; each photograph is read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from semiisp_plugin.data.layouts.base import Request, child_names, require_folder, subfolder
from semiisp_plugin.io.image_io import scan_images
from semiisp_plugin.io.picture import MIN_SIDE, read_photograph

COCO_COUNTS = {"train2017": 118287, "val2017": 5000, "unlabeled2017": 123403}
"""Images of COCO's parts (from memory; the two larger ones are not verified)."""

LOW_SIDE = 480
"""Photographs with a shorter side are counted: the paper's images have this short side."""


class Photograph(NamedTuple):
    """What was seen of a photograph.

    Attributes:
        height: Pixels.
        width: Pixels.
        grey: It has no colour.
    """

    height: int
    width: int
    grey: bool


def find_photographs(name: str, request: Request) -> tuple[Path, list[str], list[str]]:
    """List photographs.

    Args:
        name: ``coco`` or ``photographs``.
        request: Names the source.

    Returns:
        The folder, the photographs' relative paths, warnings.

    Raises:
        ValueError: The folder holds none, or several of COCO's parts.
    """
    root = require_folder(request.source, "the folder of the photographs", "--source")
    warnings = []
    if name == "coco":
        parts = [part for key in COCO_COUNTS for place in (key, f"images/{key}") if (part := subfolder(root, place))]
        if len(parts) > 1:
            raise ValueError(
                f"'{root}' holds several parts of COCO: {', '.join(p.name for p in parts)}. Point --source at the one "
                "to use (the paper does not say which it took)."
            )
        root = parts[0] if parts else root
    files, unsupported = scan_images(root)
    others = ", ".join(f"{count} {extension}" for extension, count in unsupported.items())
    if not files:
        raise ValueError(
            f"'{root}' holds no photograph (JPEG, PNG, TIFF, BMP, WebP), neither itself nor below; "
            + (f"pictures of other formats are there ({others}): convert them first." if others else child_names(root))
        )
    if others:
        warnings.append(f"pictures of formats that are not read are left out: {others}. Convert them first.")
    expected = COCO_COUNTS.get(root.name.lower()) if name == "coco" else None
    if expected is not None and len(files) != expected:
        warnings.append(f"'{root}' has {len(files)} photographs; COCO's {root.name} has {expected}. Is it complete?")
    elif name == "coco" and expected is None:
        warnings.append(
            f"'{root.name}' is none of COCO's folders ({', '.join(COCO_COUNTS)}), so the number of photographs, "
            f"{len(files)}, was not compared."
        )
    return root, files, warnings


def look_at(path: str) -> Photograph:
    """Read a photograph as ``basicsr pseudo`` does.

    Raises:
        ValueError: It cannot be read, or is too small.
        OSError: The file cannot be opened.
    """
    image = read_photograph(path)
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"'{path}' is {height}x{width} (height x width); its short side is under {MIN_SIDE}.")
    grey = bool(np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 1], image[..., 2]))
    return Photograph(height, width, grey)
