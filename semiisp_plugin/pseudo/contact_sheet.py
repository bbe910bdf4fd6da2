"""A look at a build: random pseudo pairs side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semiisp_plugin.io.image_io import decode_image
from semiisp_plugin.io.lmdb_io import read_value
from semiisp_plugin.io.picture import shrink_short_side
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.pseudo.online import Entry, OnlineDraw, entries_of, read_entry
from semiisp_plugin.report.grids import draw_grid

SHEET_NAME = "contact_sheet.jpg"
_PAIRS, _COLUMNS = 24, 6
_CELL = 200


def save_contact_sheet(build: BuildFolder, generator: PseudoPairGenerator) -> Path:
    """Draw random pairs of a complete build: above the pseudo input, below the pseudo ground truth.

    What is not stored is made, with the seeds that a stored build would have.

    Args:
        build: A build with all shards complete.
        generator: What it is made with.

    Returns:
        The file, ``contact_sheet.jpg`` in the build's folder.
    """
    entries = entries_of(build)
    rng = np.random.default_rng(build.settings["manual_seed"])
    chosen = sorted(int(i) for i in rng.choice(len(entries), min(_PAIRS, len(entries)), replace=False))
    draw = OnlineDraw(generator, build.settings["input_bits"])
    pairs = [(entries[i].key, *_pair(build, draw, entries[i])) for i in chosen]
    rows: list[list[np.ndarray]] = []
    captions: list[list[str]] = []
    for first in range(0, len(pairs), _COLUMNS):
        part = pairs[first : first + _COLUMNS]
        rows += [[_square(image) for _, image, _ in part], [_square(image) for _, _, image in part]]
        captions += [["input"] * len(part), [key[-28:] for key, _, _ in part]]
    path = build.folder / SHEET_NAME
    title = f"{len(pairs)} random pseudo pairs: above the pseudo input, below the pseudo ground truth"
    if build.settings["draws"] > 1:
        title += f"; {build.settings['draws']} draws of each photograph"
    draw_grid(rows, captions=captions, title=title, cell_width=_CELL, path=path)
    return path


def _pair(build: BuildFolder, draw: OnlineDraw, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Pseudo input and pseudo ground truth."""
    picture = read_entry(build, entry)
    if build.mode == "stored":
        folder = Path(entry.location.removesuffix(f"/{entry.key}"))
        value = read_value(build.folder / "lq.lmdb" / folder.name, entry.key)
        return decode_image(value, name=entry.key, bit_depth="8"), picture
    target, made = draw.whole_pair(build, entry, picture)
    return made.permute(1, 2, 0).cpu().numpy(), target[0].permute(1, 2, 0).cpu().numpy()


def _square(image: np.ndarray) -> np.ndarray:
    """The middle, so that pictures of all shapes make one grid."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return shrink_short_side(image[top : top + side, left : left + side], 2 * _CELL)
