"""What ``basicsr learn`` is given: a look at the pairs and photographs, and copies in the sizes it works with."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from semiisp_plugin.apps.denoise.non_local_means import denoise_input
from semiisp_plugin.data.layouts.base import Reader, Request, require_folder
from semiisp_plugin.data.layouts.own import OWN, pair_folders
from semiisp_plugin.data.pairs import Pair, read_pair
from semiisp_plugin.experiments.benchmark_data import labelled_copies, write_parts
from semiisp_plugin.experiments.benchmark_jobs import Step
from semiisp_plugin.io.folder_job import UNUSABLE, Journal, counted, mapped, reason_of
from semiisp_plugin.io.image_io import (
    printable_path,
    read_image,
    scan_images,
    to_float,
    to_tensor,
    to_uint16,
    write_image,
)
from semiisp_plugin.io.picture import read_photograph
from semiisp_plugin.io.raw_io import is_raw
from semiisp_plugin.pseudo.noise_estimation import estimate_noise

FULL_SIDE = 800
"""Short side, pixels, at which networks are tested and chosen; larger pairs are shrunk to it."""
TRAINING_SIDE = 72
"""Short side of what networks that map colours are trained on."""
MOST_PHOTOGRAPHS = 200
FEWEST_PAIRS = 6
LEAST_GAIN = 0.5
"""Decibels that denoising must bring inputs closer to their targets to be done."""
DENOISED = "denoised"
"""Folder of denoised inputs, beside ``full``, that of the inputs as they were given."""

_THREADS = 2
_TRIED_ON = 12  # pairs, to see whether denoising helps


@dataclass(frozen=True)
class LookData(Step):
    """Copies of the user's pairs and photographs.

    Its settings: ``input`` and ``target``, folders; ``photos``, a folder or None; ``state``, a digest of the files.
    """

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Write the copies; returns what was found. What an interrupted run has left is kept."""
        folder, s = self.folder / "data", self.settings
        folder.mkdir(parents=True, exist_ok=True)
        listing = OWN.find(Request(input=s["input"], target=s["target"], test_pairs=0, short_side=FULL_SIDE))
        pairs, skipped = listing.splits["train"], dict(listing.left_out)
        copies: list[Pair] = []
        with Journal(folder / "measured.jsonl") as journal:
            work = partial(_copied, reader=listing.reader, folder=folder / "full", known=journal.entries)
            for pair, (copy, noted) in zip(pairs, mapped(work, list(enumerate(pairs)), _THREADS), strict=True):
                if copy is None:
                    skipped[pair.key] = noted["problem"]
                    continue
                journal.add({pair.key: noted})
                copies.append(copy)
            measured = {copy.key: journal.entries[copy.key] for copy in copies}
        if len(copies) < FEWEST_PAIRS:
            raise ValueError(
                f"{len(copies)} pairs can be used; at least {FEWEST_PAIRS} are needed, and 50 are a good start. "
                + "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:5])
            )
        gains = [g for copy in spread(copies, _TRIED_ON) if (g := denoising_gain(*read_pair(copy))) is not None]
        gain = float(np.median(gains)) if gains else 0.0
        if gain >= LEAST_GAIN:
            copies = list(mapped(partial(_denoised, folder=folder / DENOISED), copies, _THREADS))
        photos, unread = _copy_photos(s["photos"], folder / "photos", self.seed)
        labelled_copies(copies, folder, TRAINING_SIDE)
        scenes = [copy.key.rpartition("/")[0] for copy in copies]
        write_parts(folder, copies, [], photos, scenes if len(set(scenes)) > 1 else [])
        return {
            "pairs": len(copies),
            "scenes": len(set(scenes)),
            "photographs": len(list(photos.iterdir())),
            "skipped": skipped,
            "photographs_skipped": unread,
            "warnings": listing.warnings,
            "denoising": round(gain, 2),
            "denoised": gain >= LEAST_GAIN,
            "measured": measured,
        }


def look_data(pairs: Sequence[str], photos: str | None, root: Path, seed: int) -> LookData:
    """The job that copies them.

    Args:
        pairs: One folder that holds two of usual names, or the two of inputs and targets.
        photos: Folder of photographs; None for none.
        root: Folder of the jobs.
        seed: Draws the photographs, where there are more than `MOST_PHOTOGRAPHS`.

    Raises:
        ValueError, FileNotFoundError, NotADirectoryError: Folders are missing or hold no pairs.
    """
    for folder in pairs:
        require_folder(folder, "the pairs' folder", "--pairs")
    request = Request(source=pairs[0]) if len(pairs) == 1 else Request(input=pairs[0], target=pairs[1])
    folders = [os.path.abspath(folder) for folder in pair_folders(request)]
    if photos is not None and not scan_images(photos).images:
        raise ValueError(f"--photos: '{photos}' holds no image, neither itself nor below.")
    given = [*folders, *([os.path.abspath(photos)] if photos else [])]
    settings = {
        "input": folders[0],
        "target": folders[1],
        "photos": None if photos is None else given[2],
        "state": _state(given),
    }
    return LookData("data", seed, settings, root)


def _state(folders: Sequence[str]) -> str:
    """A digest of names, sizes and times of all files."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                status = path.stat()
                name = path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape")
                digest.update(name + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _copied(
    numbered: tuple[int, Pair], *, reader: Reader, folder: Path, known: Mapping[str, Any]
) -> tuple[Pair | None, dict[str, Any]]:
    """Write a pair at the size of the tests, and measure it."""
    number, pair = numbered
    places = [folder / part / f"{number:05d}.png" for part in ("input", "target")]
    copy = Pair(pair.key, *(str(place.absolute()) for place in places))
    if pair.key in known and all(place.is_file() for place in places):
        return copy, known[pair.key]
    try:
        read = reader(pair)
        noted = {
            "size": list(read.target.shape[:2]),
            "bits": 8 * read.input.itemsize,
            "raw": is_raw(pair.input),
            "alignment": None if read.alignment is None else round(read.alignment, 3),
            "notes": list(read.notes),
            "clipped": round(_clipped(read.input), 4),
            "noise": [noise_of(image) for image in (read.input, read.target)],
        }
        for place, image in zip(places, (read.input, read.target), strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_image(place, image)
    except UNUSABLE as error:
        return None, {"problem": reason_of(error)}
    return copy, noted


def denoising_gain(image: np.ndarray, target: np.ndarray) -> float | None:
    """By how many dB an input comes closer to its target when it is denoised.

    The target is given the input's tones first (`with_tones_of`). Compared is what denoisers see,
    `semiisp_plugin.apps.denoise.non_local_means.denoise_image`.

    Args:
        image: The input, RGB (H, W, 3), ``uint8`` or ``uint16``.
        target: Likewise, of its size.

    Returns:
        Decibels; None where input and target are one but for their tones.
    """
    noisy, wanted = to_float(image), to_float(target)
    clean = denoise_input(noisy)
    scale = np.float32(noisy.max() or 1)
    noisy, clean = ((one / scale).clip(0, 1) ** np.float32(1 / 2.2) for one in (noisy, clean))
    toned = with_tones_of(noisy, wanted)
    before, after = (float(np.square(one - toned).mean(dtype=np.float64)) for one in (noisy, clean))
    return 10 * float(np.log10(before / after)) if after > 0 else None


def with_tones_of(noisy: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A target with the tones of its input: of each colour the input's values, in order, take the place of its own.

    The input is blurred for this (sigma 1.5 pixels), so that its noise does not spread its tones.

    Args:
        noisy: The input, (H, W, 3) ``float32`` in [0, 1].
        target: Of that size.

    Returns:
        The same, ``float32``.
    """
    tones = cv2.GaussianBlur(noisy, (0, 0), 1.5)
    toned = np.empty_like(noisy)
    for colour in range(3):
        order = np.argsort(target[..., colour], axis=None, kind="stable")
        values = np.empty(order.size, np.float32)
        values[order] = np.sort(tones[..., colour], axis=None)
        toned[..., colour] = values.reshape(noisy.shape[:2])
    return toned


def _denoised(pair: Pair, *, folder: Path) -> Pair:
    """Write a pair's denoised input, with 16 bits: dark values need more than 8."""
    place = folder / Path(pair.input).name
    if not place.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_image(place, to_uint16(denoise_input(to_float(read_image(pair.input)))))
    return Pair(pair.key, str(place.absolute()), pair.target)


def as_given(pair: Pair) -> str:
    """The input of a pair of `LookData` as it was before it was denoised, at the size of the tests."""
    path = Path(pair.input)
    return str(path.parents[1] / "full" / "input" / path.name) if path.parent.name == DENOISED else pair.input


def spread(items: Sequence[Pair], count: int) -> list[Pair]:
    """So many of them at most, evenly spread."""
    return [items[int(k)] for k in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round())]


def _clipped(image: np.ndarray) -> float:
    """Share of pixels of which a colour has its highest value."""
    return float((image >= np.iinfo(image.dtype).max).any(2).mean())


def noise_of(image: np.ndarray) -> float | None:
    """Standard deviation of the noise at the image's mean brightness, of 255 levels; None where it cannot be told."""
    values = to_tensor(image)
    try:
        shot, read = estimate_noise(values)
    except ValueError:
        return None
    return round(255 * float((shot * float(values.mean()) + read) ** 0.5), 2)


def _copy_photos(photos: str | None, folder: Path, seed: int) -> tuple[Path, dict[str, str]]:
    """Small copies of some of the photographs, and why others cannot be read."""
    folder.mkdir(exist_ok=True)
    if photos is None:
        return folder, {}
    names = scan_images(photos).images
    order = np.random.default_rng((seed, 23)).permutation(len(names))
    skipped: dict[str, str] = {}
    written = 0

    def read(name: str) -> np.ndarray | Exception:
        try:
            return read_photograph(Path(photos) / name, short_side=TRAINING_SIDE)
        except UNUSABLE as error:
            return error

    chosen = [names[int(k)] for k in order]
    for name, picture in zip(chosen, mapped(read, chosen, _THREADS), strict=False):
        if isinstance(picture, Exception):
            skipped[name] = reason_of(picture, name)
            continue
        write_image(folder / f"{written:05d}.png", picture)
        written += 1
        if written == MOST_PHOTOGRAPHS:
            break
    if written == 0:
        first = f" The first: {next(iter(skipped.values()))}" if skipped else ""
        raise ValueError(f"--photos: none of the {len(names)} images in '{photos}' can be read.{first}")
    return folder, skipped


def inputs_are(found: Mapping[str, Any]) -> Literal["raw", "srgb"]:
    """Whether the inputs are RAW images (or have 16 bits, as linear ones have), by what `LookData` found.

    Raises:
        ValueError: Some are, some are not.
    """
    raw = {key for key, noted in found["measured"].items() if noted["raw"] or noted["bits"] == 16}
    if raw and len(raw) < len(found["measured"]):
        other = next(key for key in found["measured"] if key not in raw)
        raise ValueError(
            f"{len(raw)} inputs are RAW or have 16 bits ('{min(raw)}'), {len(found['measured']) - len(raw)} have 8 "
            f"('{other}'). One network cannot learn both: put them into two folders and learn each by itself."
        )
    return "raw" if raw else "srgb"


def described(found: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences."""
    measured = list(found["measured"].values())
    sides = sorted({tuple(noted["size"]) for noted in measured})
    size = " to ".join("x".join(map(str, side)) for side in dict.fromkeys((sides[0], sides[-1])))
    kind = "RAW files" if measured[0]["raw"] else f"{measured[0]['bits']}-bit images"
    clipped = np.median([noted["clipped"] for noted in measured])
    lines = [
        f"{found['pairs']} pairs, inputs: {kind}; {size} pixels, where compared (short side: {FULL_SIDE} at most)",
        f"{found['photographs']} photographs are used" if found["photographs"] else "no photographs",
        f"highlights: {clipped:.1%} of an input's pixels are clipped (median)",
    ]
    if found["scenes"] > 1:
        lines.append(f"{found['scenes']} scenes (subfolders), which cross-validation keeps together")
    noise = [[n for noted in measured if (n := noted["noise"][k]) is not None] for k in (0, 1)]
    if all(noise):
        lines.append(
            f"noise: {np.median(noise[0]):.1f} of 255 levels in the inputs, {np.median(noise[1]):.1f} in the targets"
        )
    gain = found["denoising"]
    how_far = f"them {abs(gain):.1f} dB {'closer to' if gain >= 0 else 'farther from'} the targets"
    if found["denoised"]:
        lines.append(f"inputs are denoised first, by non-local means: it brings {how_far}")
    else:
        lines.append(f"inputs are not denoised: it would bring {how_far}")
    for what in ("skipped", "photographs_skipped"):
        reasons = list(found[what].items())
        lines += [f"set aside: {printable_path(name)}: {printable_path(why)}" for name, why in reasons[:5]]
        if len(reasons) > 5:
            lines.append(f"set aside: {len(reasons) - 5} more")
    notes = Counter(note for noted in measured for note in noted["notes"])
    lines += [f"note: {counted(n, 'pair')}: {note}" for note, n in notes.most_common(5)]
    return [*lines, *(f"note: {text}" for text in found["warnings"])]
