"""From a folder of photographs to LMDBs of pseudo pairs, one photograph at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from semiisp_plugin.data.image_io import ImageReadError, encode_png, list_images, read_image, to_uint16
from semiisp_plugin.data.lmdb_io import LmdbImageWriter, unique_keys
from semiisp_plugin.pseudo.generator import PseudoPairGenerator

_MIN_SIDE = 32
_DRAW = re.compile(r"__draw[0-9]+$")


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        written: Pairs written in this run.
        kept: Pairs that an earlier, interrupted run had written.
        set_aside: Photographs that could not be used, with the reason.
        clipped: Mean share of pseudo input values that were clamped to [0, 1], over the pairs written in this run.
    """

    written: int = 0
    kept: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)
    clipped: float = 0.0


def photograph_seed(seed: int, key: str) -> int:
    """Seed of one pair's draws: of the run's seed and the pair's key alone, whatever was read before it."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % (2**63)


def pair_keys(key: str, draws: int) -> list[str]:
    """Keys of the pairs of one photograph: its own for the first, ``<key>__draw1`` and so on for the others.

    Different photographs never share one: if there are several draws, a photograph whose own key ends in ``__draw``
    and a number gets ``__draw0`` for the first, so that a key's last ``__draw<n>`` is always ours.
    """
    first = f"{key}__draw0" if draws > 1 and _DRAW.search(key) else key
    return [first, *(f"{key}__draw{i}" for i in range(1, draws))]


def shrink_short_side(image: np.ndarray, short_side: int | None) -> np.ndarray:
    """Area-resize an HWC image so that its short side is at most ``short_side`` pixels."""
    height, width = image.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def build_pseudo_lmdb(
    photographs: str,
    out: str,
    generator: PseudoPairGenerator,
    *,
    seed: int = 0,
    draws: int = 1,
    max_photographs: int | None = None,
    short_side: int | None = None,
    png_compression: int = 1,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: bool = True,
    settings: dict[str, Any] | None = None,
) -> BuildReport:
    """Write ``out/gt.lmdb`` (8-bit pseudo ground truths) and ``out/lq.lmdb`` (16-bit pseudo inputs).

    Both have the same keys in the same order, made from the photographs' relative paths (`pair_keys`). Photographs are
    read, converted and written one by one; a pair depends on its photograph, its key, the seed and f_ISP alone.

    Args:
        photographs: Folder, searched recursively.
        out: Folder to write; also gets ``report.json`` and, if any were set aside, ``set_aside.txt``.
        generator: See `PseudoPairGenerator`.
        seed: Of the random parameter sets.
        draws: Pairs of each photograph, each with random sets of its own in steps 1 and 3 (ours: the paper has
            photographs enough).
        max_photographs: Take the first so many, in the order of their paths.
        short_side: See `shrink_short_side`.
        png_compression: zlib level, 0 to 9.
        device: Where f_ISP runs.
        resume: Go on with an interrupted build; without it, an ``out`` that holds one is an error.
        progress: Show a progress bar.
        settings: What else the pairs depend on (f_ISP's fingerprint, ...); an interrupted build goes on only with the
            same.

    Returns:
        Counts and reasons.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: The folder of photographs is missing or holds none that
            can be used; or ``draws`` is less than 1.
        FileExistsError: ``out`` holds a build already.
        OSError: Disk full and the like; what was written stays usable.
    """
    if draws < 1:
        raise ValueError(f"draws: {draws} pairs of each photograph cannot be made; give at least 1.")
    paths = list_images(photographs)[:max_photographs]
    keys = unique_keys(paths)
    os.makedirs(out, exist_ok=True)
    made_with = {"seed": seed, "short_side": short_side, **(settings or {})}
    if draws > 1:  # earlier builds knew one draw only, and can be gone on with
        made_with["draws"] = draws
    _check_resumed(Path(out), made_with, resume)
    generator.network.to(device)
    report = BuildReport()
    clipped_sum = 0.0
    with ExitStack() as stack:
        gt, lq = (
            stack.enter_context(LmdbImageWriter(os.path.join(out, name), resume=resume, compression=png_compression))
            for name in ("gt.lmdb", "lq.lmdb")
        )
        for path, key in tqdm(
            zip(paths, keys, strict=True), total=len(paths), desc="pseudo pairs", unit="photo", disable=not progress
        ):
            wanted = pair_keys(key, draws)
            missing = [k for k in wanted if not (k in gt and k in lq)]
            report.kept += len(wanted) - len(missing)
            if not missing:
                continue
            try:
                image = shrink_short_side(read_image(os.path.join(photographs, path), bit_depth="8"), short_side)
                if min(image.shape[:2]) < _MIN_SIDE:
                    raise ImageReadError(f"{path}: {image.shape[1]}x{image.shape[0]} is less than {_MIN_SIDE} pixels.")
            except (ImageReadError, OSError) as error:  # OSError: no permission, a link to nowhere
                report.set_aside[path] = str(error)
                continue
            photo = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
            for pair_key in missing:
                pair = generator.generate(photo, torch.Generator().manual_seed(photograph_seed(seed, pair_key)))
                clipped_sum += float(pair.clipped.mean())
                target = pair.target[0].permute(1, 2, 0).cpu().numpy()
                if pair_key not in gt:
                    gt.put(pair_key, encode_png(np.ascontiguousarray(target), png_compression), target.shape)
                if pair_key not in lq:
                    pseudo_input = to_uint16(pair.input[0].permute(1, 2, 0).cpu().numpy())
                    encoded = encode_png(np.ascontiguousarray(pseudo_input), png_compression)
                    lq.put(pair_key, encoded, pseudo_input.shape)
                report.written += 1
    report.clipped = clipped_sum / report.written if report.written else 0.0
    if report.written + report.kept == 0:
        for name in ("gt.lmdb", "lq.lmdb"):  # empty, and in the way of the next try
            shutil.rmtree(os.path.join(out, name), ignore_errors=True)
        first = next(iter(report.set_aside.values()))
        raise ValueError(f"None of the {len(paths)} photographs in {photographs} can be used; the first: {first}")
    Path(out, "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    aside = Path(out, "set_aside.txt")
    if report.set_aside:
        aside.write_text("".join(f"{p}\t{reason}\n" for p, reason in report.set_aside.items()), encoding="utf-8")
    else:
        aside.unlink(missing_ok=True)
    return report


def _check_resumed(out: Path, made_with: dict[str, Any], resume: bool) -> None:
    """Write what a build is made with, or compare it with what the interrupted one was made with.

    Raises:
        FileExistsError: There is a build, and ``resume`` is off.
        ValueError: It was made with something else.
    """
    record = out / "made_with.json"
    exists = any((out / name).exists() for name in ("gt.lmdb", "lq.lmdb"))
    if exists and not resume:
        raise FileExistsError(
            f"{out} holds pseudo pairs (gt.lmdb, lq.lmdb). Go on with them by --resume, delete them, or choose another "
            f"folder (out)."
        )
    if exists and record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        different = sorted(k for k in before.keys() | made_with.keys() if before.get(k) != made_with.get(k))
        if different:
            changes = ", ".join(f"{k}: {before.get(k)} -> {made_with.get(k)}" for k in different)
            raise ValueError(
                f"{out} was begun with other settings ({changes}); going on would mix two kinds of pairs. Delete it, "
                f"or choose another folder (out)."
            )
    record.write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")
