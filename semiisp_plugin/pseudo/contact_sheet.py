"""A look at a build: random pseudo pairs side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from semiisp_plugin.io.image_io import decode_image, to_float
from semiisp_plugin.io.lmdb_io import read_meta, read_value
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.keys import pair_keys, photograph_seed
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.pseudo.online import OnlineDraw
from semiisp_plugin.pseudo.shards import BuildSettings, read_large_enough
from semiisp_plugin.report.grids import save_grid

SHEET_NAME = "contact_sheet.jpg"
_COLUMNS = 6
_CELL = 200


def save_contact_sheet(build: BuildFolder, generator: PseudoPairGenerator, count: int = 24) -> Path:
    """Draw random pairs of a complete build: above the pseudo input, below the pseudo ground truth.

    What is not stored is made, with the seeds that a stored build would have.

    Args:
        build: A build with all shards complete.
        generator: What it is made with.
        count: Number of pairs; fewer if there are fewer.

    Returns:
        The file, ``contact_sheet.jpg`` in the build's folder.
    """
    made_with = build.manifest.made_with
    pairs = [_pair(build, generator, shard, place) for shard, place in _choose(build, count)]
    rows: list[list[np.ndarray]] = []
    captions: list[list[str]] = []
    for first in range(0, len(pairs), _COLUMNS):
        part = pairs[first : first + _COLUMNS]
        rows += [[_square(image) for _, image, _ in part], [_square(image) for _, _, image in part]]
        captions += [["input"] * len(part), [key[-28:] for key, _, _ in part]]
    path = build.folder / SHEET_NAME
    title = f"{len(pairs)} random pseudo pairs: above the pseudo input, below the pseudo ground truth"
    if made_with["draws"] > 1:
        title += f"; {made_with['draws']} draws of each photograph"
    save_grid(path, rows, captions=captions, title=title, cell_width=_CELL)
    return path


def _choose(build: BuildFolder, count: int) -> list[tuple[int, int]]:
    """Random pairs, as shard and place among its pairs; the same ones for the same build."""
    sizes = [record.pairs for _, record in build.records()]
    total = sum(sizes)
    rng = np.random.default_rng(build.manifest.made_with["seed"])
    chosen = sorted(int(i) for i in rng.choice(total, min(count, total), replace=False))
    ends = np.cumsum(sizes)
    found = []
    for number in chosen:
        shard = int(np.searchsorted(ends, number, side="right"))
        found.append((shard, number - int(ends[shard] - sizes[shard])))
    return found


def _pair(
    build: BuildFolder, generator: PseudoPairGenerator, shard: int, place: int
) -> tuple[str, np.ndarray, np.ndarray]:
    """Key, pseudo input and pseudo ground truth."""
    made_with = build.manifest.made_with
    if build.mode == "keys":
        record = build.record(shard)
        aside = record.set_aside if record else {}
        names = [
            (key, p)
            for p in build.photographs(shard)
            if p.path not in aside
            for key in pair_keys(p.key, made_with["draws"])
        ]
        key, photograph = names[place]
        settings = BuildSettings(
            root=build.manifest.photographs, short_side=made_with["short_side"], max_pixels=made_with["max_pixels"]
        )
        photo = read_large_enough(settings, photograph.path)
        seeded = torch.Generator().manual_seed(photograph_seed(made_with["seed"], key))
        pair = generator.generate(_batch(photo, generator), seeded)
        return key, _image(pair.input), _image(pair.target)
    key = read_meta(build.lmdb(shard, "gt"))[place].key
    target = decode_image(read_value(build.lmdb(shard, "gt"), key), name=key)
    if build.mode == "stored":
        return key, decode_image(read_value(build.lmdb(shard, "lq"), key), name=key), target
    draw = OnlineDraw(generator, made_with["input_bits"])
    seeded = draw.entry_generator(made_with["seed"], key)
    return key, _image(draw.inputs(_batch(target, generator), [seeded])), target


def _batch(image: np.ndarray, generator: PseudoPairGenerator) -> torch.Tensor:
    device = next(generator.network.parameters()).device
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)


def _image(tensor: torch.Tensor) -> np.ndarray:
    return tensor[0].permute(1, 2, 0).cpu().numpy()


def _square(image: np.ndarray) -> np.ndarray:
    """The middle, so that pictures of all shapes make one grid."""
    image = image if np.issubdtype(image.dtype, np.floating) else to_float(image)
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    square = image[top : top + side, left : left + side]
    step = max(1, side // (2 * _CELL))
    return np.ascontiguousarray(square[::step, ::step])
