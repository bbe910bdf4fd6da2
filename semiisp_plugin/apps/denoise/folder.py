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
import msgspec
import numpy as np
import torch

from semiisp_plugin._version import __version__
from semiisp_plugin.apps.denoise.denoisers import Denoiser, NonLocalMeans, denoise_image, network_denoiser
from semiisp_plugin.apps.denoise.options import DenoiseOptions, is_lmdb, load_denoise_options
from semiisp_plugin.data.pairs import read_location
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
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, read_meta

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


def make_denoiser(options: DenoiseOptions) -> Denoiser:
    """The denoiser that the options describe.

    Raises:
        CheckpointError: Its weights are missing, unreadable, or another network's.
    """
    if options.uses_network:
        if options.network is None or options.weights is None:
            raise ValueError("method: network needs a network and its weights; give both, or choose method: opencv.")
        return network_denoiser(
            options.network,
            options.weights,
            options.param_key,
            strict=options.strict_load,
            tile=options.tile,
            overlap=options.tile_overlap,
            precision=options.precision,
            device="cuda" if options.num_gpu else "cpu",
        )
    means = options.non_local_means
    return NonLocalMeans(
        None if means.strength == "auto" else means.strength,
        None if means.colour_strength == "auto" else means.colour_strength,
        means.patch,
        means.search,
    )


def denoise_folder(options: DenoiseOptions, *, progress: bool = True) -> DenoiseReport:
    """Denoise all images of ``options.input`` into ``options.out``, or resume that.

    Args:
        options: From `semiisp_plugin.apps.denoise.load_denoise_options`.
        progress: Show a bar on a terminal.

    Raises:
        ValueError: The output was made with other settings, or is being written just now; no image could be used.
        FileExistsError: The output holds files that are not of this command.
        FileNotFoundError: There is no such input.
        CheckpointError: See `make_denoiser`.
        OSError: The disk is full, and the like; what is written stays.
    """
    began = time.monotonic()
    inputs = _inputs(options.input)
    job, settings = _job(options), _settings(options)
    record: dict[str, Any] = {"versions": _versions(), "device": _device(options)}
    job.check(settings)  # before a large network is loaded
    denoiser = make_denoiser(options)
    skipped: dict[str, str] = {}
    written = 0
    with job.begun(settings, **record), ExitStack() as stack:
        output = _LmdbOutput(options, stack) if is_lmdb(options.out) else _FolderOutput(options)
        todo = {name: location for name, location in inputs.items() if name not in output}
        kept = len(inputs) - len(todo)
        bar = stack.enter_context(progress_bar(len(inputs), options.name, "image", done=kept, shown=progress))
        for name, location in todo.items():
            try:
                image = to_float(read_location(location))
                clean = to_uint16(denoise_image(image, denoiser, normalise=options.normalise, gamma=options.gamma))
            except UNUSABLE as error:
                skipped[printable_path(name)] = reason_of(error)
            else:
                output.put(name, clean)
                written += 1
            bar.update()
        job.write_skipped(skipped)
        job.write({"settings": settings, **record, "complete": not skipped, "images": written + kept})
    if not written and not kept:
        name, reason = next(iter(skipped.items()))
        raise ValueError(f"None of the {len(inputs)} images in '{options.input}' could be used; '{name}': {reason}")
    return DenoiseReport(written, kept, skipped, time.monotonic() - began)


def is_denoised(options: DenoiseOptions) -> bool:
    """Whether the output is there, whole, of all images of the input, and made with these settings.

    Raises:
        ValueError, FileExistsError, FileNotFoundError, CheckpointError: As `denoise_folder`.
    """
    job = _job(options)
    held = job.read()
    if held is None or not held.get("complete"):
        return False
    job.check(_settings(options))
    names = _inputs(options.input).keys()
    if is_lmdb(options.out):
        return names <= {entry.key for entry in read_meta(options.out)}
    return all(name in _FolderOutput(options) for name in names)


def _job(options: DenoiseOptions) -> FolderJob:
    return FolderJob(options.out, "basicsr denoise", RECORD)


# --- input ----------------------------------------------------------------------------------------------------------


def _inputs(root: str) -> dict[str, str]:
    """All images of a folder or LMDB: their names in the output, keys or paths of PNG files, and where they are."""
    found: dict[str, str] = {}
    if is_lmdb(root):
        found = {entry.key: f"{root.rstrip('/' + os.sep)}/{entry.key}" for entry in read_meta(root)}
    else:
        for relative in scan_images(root).images:
            name = f"{strip_extension(relative)[0]}.png"
            if name in found:
                raise ValueError(
                    f"'{found[name]}' and '{relative}' in '{root}' differ in their extension alone, and would both "
                    f"become '{name}'. Remove one."
                )
            found[name] = os.path.join(root, relative)
    if not found:
        raise ValueError(f"input: '{root}' holds no image. Check the path.")
    return found


# --- output ---------------------------------------------------------------------------------------------------------


class _FolderOutput:
    """PNG files."""

    def __init__(self, options: DenoiseOptions) -> None:
        self.root = Path(options.out)
        self.compression = options.png_compression

    def __contains__(self, name: str) -> bool:
        return (self.root / name).is_file()

    def put(self, name: str, image: np.ndarray) -> None:
        write_atomically(self.root / name, encode_png(image, self.compression))


class _LmdbOutput:
    """PNG values of an LMDB folder."""

    def __init__(self, options: DenoiseOptions, stack: ExitStack) -> None:
        self.compression = options.png_compression
        # One image a commit: denoising one takes longer than writing it, and a kill must not cost what is made.
        writer = LmdbImageWriter(options.out, resume=True, batch=1, compression=options.png_compression)
        self.writer = stack.enter_context(writer)

    def __contains__(self, name: str) -> bool:
        return name in self.writer

    def put(self, name: str, image: np.ndarray) -> None:
        self.writer.put(name, encode_png(image, self.compression), image.shape)


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
            "strict_load": options.strict_load,
            "tile": options.tile,
            "tile_overlap": options.tile_overlap,
            "precision": options.precision,
        }
    else:
        settings |= {
            "method": "opencv",
            "label": "non-local means; ours, not the paper's denoiser",
            "non_local_means": msgspec.to_builtins(options.non_local_means),
        }
    return settings


def _sha256(path: str) -> str:
    if not os.path.isfile(path):
        raise CheckpointError(f"weights: there is no file '{path}'. Correct the path, or choose method: opencv.")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {
        "semiisp_plugin": __version__,
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def _device(options: DenoiseOptions) -> str:
    return torch.cuda.get_device_name() if options.uses_network and options.num_gpu else "CPU"


# --- the command ------------------------------------------------------------------------------------------------------


def run_from_arguments(args: argparse.Namespace) -> DenoiseReport:
    """Run ``basicsr denoise``; see `denoise_folder` for what is raised."""
    return denoise_and_print(load_denoise_options(args.opt, args.force_yml))


def denoise_and_print(options: DenoiseOptions) -> DenoiseReport:
    """`denoise_folder`, and what it does in words."""
    if options.uses_network:
        print(f"{options.name}: denoising with {(options.network or {}).get('type')}, weights {options.weights}")
    else:
        why = "no weights are given, so " if options.method == "auto" else ""
        print(f"{options.name}: {why}OpenCV's non-local means denoises (ours; the paper uses KBNet)")
    report = denoise_folder(options)
    before = f", {report.kept} were there before" if report.kept else ""
    print(f"{report.written} images denoised into '{options.out}' in {report.seconds:.0f} s{before}.")
    if report.skipped:
        listed = list(report.skipped.items())[:_SHOWN]
        print(f"Warning: {len(report.skipped)} images skipped ({options.out}/{SKIPPED} has all):")
        for name, reason in listed:
            print(f"  {name}: {reason}")
    return report
