"""Pseudo RAW files of photographs, by f_ISP run backwards; ``basicsr invert``."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.apps.enhance.encoding import encode_picture
from semiisp_plugin.apps.enhance.inputs import find_images, plan_jobs
from semiisp_plugin.apps.linear_dng import linear_dng
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import SKIPPED, UNUSABLE, FolderJob, counted, progress_bar, reason_of
from semiisp_plugin.io.image_io import ImageReadError, encode_png, printable_path, to_uint16
from semiisp_plugin.io.picture import Picture, read_photograph
from semiisp_plugin.io.raw_io import is_raw
from semiisp_plugin.isp.parameters import XYZ_TO_SRGB
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.manifest import photograph_seed
from semiisp_plugin.pseudo.sources import BankInverse
from semiisp_plugin.simulation.colour import srgb_to_linear

RECORD = "inverted.json"
"""Name of the record in the output."""

RawFormat = Literal["tiff", "png", "dng"]


class InvertReport(NamedTuple):
    """What came of the photographs.

    Attributes:
        written: Result -> share of its values that were clamped.
        kept: Results that were there already.
        skipped: Photograph -> why there is no result.
    """

    written: dict[str, float]
    kept: list[str]
    skipped: dict[str, str]


def invert_photographs(
    f_isp: str | os.PathLike[str],
    photographs: Sequence[str],
    out: str | os.PathLike[str],
    *,
    draws: int = 1,
    seed: int = 0,
    form: RawFormat = "tiff",
    update_quality: bool = False,
) -> InvertReport:
    """Write pseudo RAW images (of an f_ISP for image enhancement: degraded sRGB ones) of photographs at full size.

    What a photograph becomes depends on f_ISP, the photograph, its name and the arguments alone. Several draws are of
    different parameter sets.

    Args:
        f_isp: ``f_isp_<iter>.pth`` of phase 1.
        photographs: Files and folders (with all below them), read as 8-bit sRGB.
        out: The folder of the results: new, or of this command with the same f_ISP, seed and quality.
        draws: Results of each photograph; ``_1``, ``_2`` ... end their names if there are several.
        seed: Of the draws.
        form: ``tiff``, ``png`` or ``dng``, of 16 bits.
        update_quality: Bring photographs to the quality of f_ISP's targets first (steps 1 and 2 of
            `semiisp_plugin.pseudo.generator`).

    Raises:
        CheckpointError: See `semiisp_plugin.pseudo.f_isp.load_f_isp`.
        ValueError: There is no photograph; f_ISP has fewer sets than draws, or makes no RAW for ``dng``; the folder
            was made with other settings.
        OSError: What was asked for is not there, the folder holds other files, or nothing can be written.
    """
    generator = make_generator(f_isp, update_quality=update_quality)
    source = cast(BankInverse, generator.second)
    sets = len(torch.unique(source.bank.sets.flatten(1), dim=0))
    if draws > sets:
        raise ValueError(f"--draws {draws}: '{f_isp}' holds {counted(sets, 'parameter set')}; give {sets} at most.")
    makes_raw = not generator.network.spec.inverse_tone_mapping
    if form == "dng" and not makes_raw:
        raise ValueError(f"--format dng: '{f_isp}' makes dark sRGB images, not RAW; take --format tiff or png.")
    jobs, skipped = plan_jobs(find_images(photographs, out).images, out, form="png" if form == "png" else "tiff")
    settings = {
        "f_isp_sha256": hashlib.sha256(Path(f_isp).read_bytes()).hexdigest(),
        "seed": seed,
        "quality": "on" if update_quality else "off",
    }
    report = InvertReport({}, [], skipped)
    folder = FolderJob(out, "basicsr invert", RECORD, option="--out")
    with folder.begun(settings), progress_bar(len(jobs), "invert", "photograph") as bar:
        for job in jobs:
            place = job.target.with_suffix(".dng") if form == "dng" else job.target
            places = [place.with_stem(f"{place.stem}_{n + 1}") if draws > 1 else place for n in range(draws)]
            name = place.relative_to(out).with_suffix("").as_posix()
            seeds = _seeds_of_draws(source, photograph_seed(seed, name), draws)
            photograph: Tensor | None = None
            for target, its_seed in zip(places, seeds, strict=True):
                if target.exists():
                    report.kept.append(str(target))
                    continue
                try:
                    if photograph is None:
                        photograph = generator.generate_target(_read(job.source), _seeded(seeds[0]))
                    made = generator.generate_input(photograph, _seeded(its_seed))
                    pixels = to_uint16(made.input[0].permute(1, 2, 0).numpy())
                    if form == "dng":
                        data = linear_dng(pixels, _xyz_to_camera(source, its_seed))
                    elif form == "png":
                        data = encode_png(pixels)
                    else:
                        data, _ = encode_picture(Picture(pixels), "tiff")
                except UNUSABLE as error:
                    skipped[job.source] = reason_of(error, job.source)
                    break
                write_atomically(target, data)
                report.written[str(target)] = float(made.clipped)
            bar.update()
        folder.write_skipped(skipped)
        folder.write({"settings": settings, "complete": not skipped})
    return report


def _read(path: str) -> Tensor:
    """A photograph, ``(1, 3, H, W)`` uint8."""
    if is_raw(path):
        raise ImageReadError(
            f"{printable_path(path)}: a camera's RAW file, of which no RAW has to be made; leave it out."
        )
    return torch.from_numpy(np.ascontiguousarray(read_photograph(path).transpose(2, 0, 1)))[None]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _seeds_of_draws(source: BankInverse, seed: int, draws: int) -> list[int]:
    """Seeds by which the source draws different sets; the first ones are the same for any number of draws."""
    seeds: list[int] = []
    sets: list[Tensor] = []
    for attempt in itertools.count():
        drawn = source.draw(1, _seeded(seed + attempt))
        if not any(torch.equal(drawn, other) for other in sets):
            sets.append(drawn)
            seeds.append(seed + attempt)
        if len(seeds) == draws:
            break
    return seeds


def _xyz_to_camera(source: BankInverse, seed: int) -> np.ndarray:
    """The matrix by which a RAW converter gets near the photograph: least squares over colours that are not clipped.

    f_ISP's camera is not known, nor a matrix of it. But what a draw makes of the colours of a photograph is, and a
    converter's own tone curve is near sRGB's.
    """
    levels = torch.linspace(64, 192, 9).to(torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 27, 27).contiguous()
    raw = source.invert(colours, _seeded(seed)).image
    linear = srgb_to_linear(colours.double() / 255)
    of_linear = np.linalg.lstsq(linear[0].flatten(1).T.numpy(), raw[0].flatten(1).T.double().numpy(), rcond=None)[0]
    return of_linear.T @ np.array(XYZ_TO_SRGB)


# --- the command ------------------------------------------------------------------------------------------------------


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run ``basicsr invert``; see `invert_photographs` for what is raised.

    Raises:
        ValueError: See there; or photographs were skipped.
    """
    if os.path.lexists(args.out) and not os.path.isdir(args.out):
        raise NotADirectoryError(f"--out: '{args.out}' is a file; give a folder.")
    report = invert_photographs(
        args.weights,
        args.images,
        args.out,
        draws=args.draws,
        seed=args.seed,
        form=args.format,
        update_quality=args.quality == "on",
    )
    for result, clipped in report.written.items():
        print(f"{result}: {100 * clipped:.2f} % of its values clipped")
    kept = f"; {len(report.kept)} were there already" if report.kept else ""
    print(f"{counted(len(report.written), 'pseudo RAW image')} written{kept}.")
    for photograph, reason in report.skipped.items():
        print(f"skipped: {printable_path(photograph)}: {printable_path(reason)}", file=sys.stderr)
    if report.skipped:
        why = os.path.join(args.out, SKIPPED)
        raise ValueError(f"{counted(len(report.skipped), 'photograph')} skipped; '{why}' says why.")
