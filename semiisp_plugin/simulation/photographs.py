"""Colour photographs that ship with the plugin, in the public domain or under CC0; `cc0/SOURCES.md` has whose."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from semiisp_plugin.io.image_io import read_image

_FOLDER = Path(__file__).with_name("cc0")

PHOTOGRAPHS = tuple(sorted(path.stem for path in _FOLDER.glob("*.jpg")))
"""Their names; each shows another scene."""


def load_photographs(names: Iterable[str] = PHOTOGRAPHS) -> dict[str, np.ndarray]:
    """Read photographs.

    Args:
        names: Of `PHOTOGRAPHS`; all by default.

    Returns:
        Name -> RGB image (H, W, 3) ``uint8``, in the order of ``names``. The shorter side is 256 pixels.
    """
    return {name: read_image(_FOLDER / f"{name}.jpg", bit_depth="8") for name in names}
