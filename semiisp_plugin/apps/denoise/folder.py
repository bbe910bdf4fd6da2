"""All images of a folder or LMDB, denoised into another.

What is written is whole, image by image: a run that was stopped resumes when it is asked for again. ``denoised.json``
in the output says what made it; an output made with other settings is refused. An image that cannot be read or denoised
is skipped with its reason and tried again by the next run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from semiisp_plugin._version import __version__
from semiisp_plugin.apps.denoise.denoisers import network_denoiser
from semiisp_plugin.apps.denoise.non_local_means import Denoiser, denoise_image, non_local_means
from semiisp_plugin.apps.denoise.options import DenoiseOptions, is_lmdb, load_denoise_options
from semiisp_plugin.data.pairs import locations, read_location
from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import SKIPPED, UNUSABLE, FolderJob, progress_bar, reason_of
from semiisp_plugin.io.image_io import (
    encode_png,
    printable_path,
    scan_images,
    strip_extension,
    to_float,
    to_uint16,
)
from semiisp_plugin.io.lmdb_io import LmdbImageWriter

_SHOWN = 5

RECORD = "denoised.json"
"""Name of the record in the output."""


class DenoiseReport(NamedTuple):
    """What a run did.

    Attributes:
        written: Images that it denoised.
        kept: Images that were there before.
        skipped: Images that could not be used, with the reason.
        seconds: Time it took.
    """

    written: int
    kept: int
    skipped: dict[str, str]
    seconds: float


def denoise_folder(options: DenoiseOptions, *, progress: bool = True) -> DenoiseReport:
    """Denoise all images of ``options.input`` into ``options.out``, or resume that.

    Args:
        options: From `semiisp_plugin.apps.denoise.load_denoise_options`.
        progress: Show a bar on a terminal.

    Raises:
        ValueError: The output was made with other settings, or is being written just now; no image could be used.
        FileExistsError: The output holds files that are not of this command.
        FileNotFoundError: There is no such input.
        CheckpointError: The weights are missing, unreadable, or another network's.
        OSError: The disk is full, and the like; what is written stays.
    """
    began = time.monotonic()
    skipped: dict[str, str] = {}
    inputs = locations(options.input, doubled=skipped)
    if not is_lmdb(options.input):  # by the paths of the PNG files that are written
        relative = (os.path.relpath(path, options.input) for path in inputs.values())
        inputs = {f"{strip_extension(name)[0]}.png": os.path.join(options.input, name) for name in relative}
    job, settings = FolderJob(options.out, "basicsr denoise", RECORD), _settings(options)
    record: dict[str, Any] = {
        "versions": {
            "semiisp_plugin": __version__,
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
        "device": torch.cuda.get_device_name() if options.uses_network and options.num_gpu else "CPU",
    }
    job.check(settings)  # before a large network is loaded
    denoiser: Denoiser = non_local_means
    if options.weights is not None:
        assert options.network is not None
        denoiser = network_denoiser(
            options.network,
            options.weights,
            options.param_key,
            tile=options.tile,
            overlap=options.tile_overlap,
            precision=options.precision,
            device="cuda" if options.num_gpu else "cpu",
        )
    written = 0
    with job.begun(settings, **record), ExitStack() as stack:
        writer = None
        if is_lmdb(options.out):
            # One image a commit: denoising one takes longer than writing it, and a kill must not cost what is made.
            writer = stack.enter_context(LmdbImageWriter(options.out, resume=True, batch=1))
        there = {name for name in inputs if Path(options.out, name).is_file()} if writer is None else writer.keys()
        todo = {name: location for name, location in inputs.items() if name not in there}
        kept = len(inputs) - len(todo)
        bar = stack.enter_context(progress_bar(len(inputs), options.name, "image", done=kept, shown=progress))
        for name, location in todo.items():
            try:
                image = to_float(read_location(location))
                clean = denoise_image(image, denoiser, normalise=options.normalise, gamma=options.gamma)
                png = encode_png(to_uint16(clean))
            except UNUSABLE as error:
                skipped[printable_path(name)] = reason_of(error)
            else:
                if writer is None:
                    write_atomically(Path(options.out, name), png)
                else:
                    writer.put(name, png, clean.shape)
                written += 1
            bar.update()
        job.write_skipped(skipped)
        job.write({"settings": settings, **record, "complete": not skipped, "images": written + kept})
    if not written and not kept:
        name, reason = next(iter(skipped.items()))
        raise ValueError(f"None of the {len(inputs)} images in '{options.input}' could be used; '{name}': {reason}")
    return DenoiseReport(written, kept, skipped, time.monotonic() - began)


# --- settings -------------------------------------------------------------------------------------------------------


def _settings(options: DenoiseOptions) -> dict[str, Any]:
    """All that the images depend on.

    Raises:
        CheckpointError: There is no such file of weights.
    """
    # Seen from the output: however the path is spelt, and if both are moved together.
    place = os.path.relpath(os.path.realpath(options.input), os.path.realpath(options.out))
    settings: dict[str, Any] = {"input": place, "normalise": options.normalise, "gamma": options.gamma}
    if options.uses_network:
        settings |= {
            "method": "network",
            "network": options.network,
            "weights": os.path.basename(options.weights or ""),
            "weights_sha256": _sha256(options.weights or ""),
            "param_key": options.param_key,
            "tile": options.tile,
            "tile_overlap": options.tile_overlap,
            "precision": options.precision,
        }
    else:
        settings |= {"method": "opencv", "label": "non-local means; ours, not the paper's denoiser"}
    return settings


def _sha256(path: str) -> str:
    if not os.path.isfile(path):
        raise CheckpointError(f"weights: there is no file '{path}'. Correct the path, or leave it out.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- the command ------------------------------------------------------------------------------------------------------


def run_from_arguments(args: argparse.Namespace) -> DenoiseReport:
    """Run ``basicsr denoise``; see `denoise_folder` for what is raised."""
    return denoise_and_print(load_denoise_options(args.opt, args.force_yml))


def denoise_and_print(options: DenoiseOptions) -> DenoiseReport:
    """`denoise_folder`, and what it does in words."""
    if options.uses_network:
        print(f"{options.name}: denoising with {(options.network or {}).get('type')}, weights {options.weights}")
    else:
        print(
            f"{options.name}: no weights are given, so OpenCV's non-local means denoises (ours; the paper uses KBNet)"
        )
    if not is_lmdb(options.input) and (remark := scan_images(options.input).remark):
        print(f"Not read in '{options.input}', for their format: {remark}.")
    report = denoise_folder(options)
    before = f", {report.kept} were there before" if report.kept else ""
    print(f"{report.written} images denoised into '{options.out}' in {report.seconds:.0f} s{before}.")
    if report.skipped:
        listed = list(report.skipped.items())[:_SHOWN]
        print(f"Warning: {len(report.skipped)} images skipped ({options.out}/{SKIPPED} has all):")
        for name, reason in listed:
            print(f"  {name}: {reason}")
    return report
