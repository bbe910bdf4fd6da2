"""``basicsr enhance``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from semiisp_plugin.apps.enhance.batch import EnhanceReport, enhance_files
from semiisp_plugin.apps.enhance.encoding import EXTENSIONS, Format
from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.inputs import find_images
from semiisp_plugin.apps.enhance.network import LoadedNetwork, describe, load_network
from semiisp_plugin.io.folder_job import SKIPPED, counted
from semiisp_plugin.io.image_io import printable_path
from semiisp_plugin.io.raw_io import RAW_SUMMARY, SRGB_SUMMARY, is_raw
from semiisp_plugin.options import read_options

_SHOWN = 20


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run ``basicsr enhance``; see `semiisp_plugin.arguments`.

    Raises:
        ValueError: Something is wrong with the request, or images were skipped.
        OSError: What was asked for is not there, or nothing can be written.
    """
    form: Format | None = "tiff" if args.format == "tif" else args.format
    if args.quality != 95 and form in ("png", "tiff"):
        raise ValueError(f"--quality is of JPEG and WebP, not of --format {args.format}; leave it out.")
    if args.tile == 0 and (args.overlap is not None or args.match == "on"):
        raise ValueError("--tile 0 makes no tiles: leave --overlap and --match out.")
    if not os.path.lexists(args.out) and os.path.splitext(args.out)[1].lower() in EXTENSIONS:
        raise ValueError(f"--out: '{args.out}' looks like a file; give a folder, and the format with --format.")
    found = find_images(args.images, args.out)
    sources = [image.path for image in found.images]
    loaded = load_from(args)
    enhancer = Enhancer(
        loaded.network,
        device=choose_device_from(args),
        precision=args.precision,
        tile=args.tile,
        overlap=args.overlap,
        match="auto" if args.match == "auto" else args.match == "on",
        denoise=loaded.denoise,
    )
    print(describe(loaded))
    print(f"{counted(len(sources), 'image')} on {enhancer.device} in {args.precision}, results in {args.out}")
    for hint in _hints(loaded, sources):
        print(f"Note: {hint}")
    report = enhance_files(
        enhancer,
        found,
        args.out,
        inputs=loaded.inputs,
        strength=args.strength,
        form=form,
        bits=args.bits,
        quality=args.quality,
        suffix=args.suffix,
        overwrite=args.overwrite,
        max_pixels=args.max_pixels or None,
        workers=args.workers,
        progress=sys.stderr.isatty(),
    )
    _show(report)
    if report.skipped:
        why = os.path.join(args.out, SKIPPED)
        raise ValueError(f"{len(report.skipped)} of {counted(len(sources), 'image')} skipped; '{why}' has all of them.")


def load_from(args: argparse.Namespace) -> LoadedNetwork:
    """The network that a command's arguments name; ``--inputs`` and ``--denoise`` go before what its file says."""
    loaded = load_network(args.opt, args.weights, args.network, args.param_key, args.force_yml)
    if args.inputs != "auto":
        loaded = loaded._replace(inputs=args.inputs)
    return loaded if args.denoise == "auto" else loaded._replace(denoised=args.denoise == "on")


def choose_device_from(args: argparse.Namespace) -> str:
    """The device that was asked for; an option file may say that no GPU is to be used."""
    if args.device == "auto" and args.opt and read_options(args.opt, args.force_yml)[0].get("num_gpu") == 0:
        return "cpu"
    return str(args.device)


def _hints(loaded: LoadedNetwork, sources: list[str]) -> list[str]:
    """What a newcomer may not know about these images and this network."""
    hints = ["images are denoised first (--denoise off leaves them as they are)."] if loaded.denoised else []
    raw = sum(is_raw(source) for source in sources)
    if raw and loaded.inputs == "srgb":
        hints.append(f"{counted(raw, 'RAW file')}, {SRGB_SUMMARY}.")
    elif raw:
        hints.append(
            f"{counted(raw, 'RAW file')}, {RAW_SUMMARY}: for networks that were trained on such images. For one that "
            "was trained on sRGB give --inputs srgb."
        )
    if loaded.options.get("base_matrix", "identity") != "identity":
        hints.append("this network was made for CIE XYZ images, and gives wrong colours for others.")
    elif loaded.inputs == "raw" and raw < len(sources):
        hints.append("this network was made for RAW images; ordinary photographs come out too bright.")
    return hints


def _show(report: EnhanceReport) -> None:
    """Print what came of the images."""
    for remark in report.remarks:
        print(f"Note: {remark}")
    speed = ""
    if report.written and report.seconds > 0:
        speed = f" in {report.seconds:.1f} s ({report.pixels / 1e6 / report.seconds:.2f} megapixels a second)"
    kept = f"; {len(report.kept)} were there already (--overwrite makes them again)" if report.kept else ""
    print(f"{counted(len(report.written), 'result')} written{speed}{kept}.")
    _list({image: "; ".join(notes) for image, notes in report.notes.items()}, "note", sys.stdout)
    _list(report.skipped, "skipped", sys.stderr)


def _list(reasons: dict[str, str], what: str, stream: Any) -> None:
    for image, reason in list(reasons.items())[:_SHOWN]:
        print(f"{what}: {printable_path(image)}: {printable_path(reason)}", file=stream)
    if len(reasons) > _SHOWN:
        print(f"{what}: and {len(reasons) - _SHOWN} more", file=stream)
