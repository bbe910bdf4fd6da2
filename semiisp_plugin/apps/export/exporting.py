"""``basicsr export``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from semiisp_plugin.apps.enhance.command import load_from
from semiisp_plugin.apps.enhance.enhancer import Enhancer, NetworkError
from semiisp_plugin.apps.enhance.inputs import find_images
from semiisp_plugin.apps.enhance.network import Inputs, LoadedNetwork, save_network
from semiisp_plugin.apps.export.colour_table import (
    Difference,
    cube_text,
    difference,
    exact_table,
    fitted_table,
    haldclut,
)
from semiisp_plugin.apps.export.onnx_graph import export_onnx
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import UNUSABLE, counted, progress_bar, reason_of
from semiisp_plugin.io.image_io import encode_png, printable_path, to_tensor
from semiisp_plugin.io.picture import read_picture, shrink_short_side

_ENDINGS = {"onnx": ".onnx", "safetensors": ".safetensors", "cube": ".cube", "haldclut": "_haldclut.png"}
_SIZES = {"cube": (17, 33, 65), "haldclut": tuple(range(2, 17))}
_DEFAULT_SIZE = {"cube": 33, "haldclut": 8}
# A table is fitted to half of so many pixels of all pictures, and compared at the other half.
_PIXELS = 2_000_000
# For an average look pictures are shrunk to it: their colours stay, and large ones would take minutes each.
_SHORT_SIDE = 1024


class Look(NamedTuple):
    """A network's table of colours.

    Attributes:
        table: See `semiisp_plugin.apps.export.colour_table`.
        exact: Its points are the network's own values; else it is a fit.
        error: At pixels of the pictures that it was not fitted to.
        worst: The picture with the lowest PSNR, and that PSNR; None for an exact one.
        skipped: Picture -> why it was not used.
    """

    table: Tensor
    exact: bool
    error: Difference
    worst: tuple[str, float] | None = None
    skipped: Mapping[str, str] = {}


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run ``basicsr export``; see `semiisp_plugin.arguments`.

    Raises:
        ValueError: Something is wrong with the request, or the network cannot be exported so.
        OSError: What was asked for is not there, the result is there already, or it cannot be written.
    """
    form = args.format
    size = _checked_size(args)
    if args.weights is None and args.opt is None:
        raise ValueError("give the network: WEIGHTS, or -opt FILE (an option file of training or testing).")
    loaded = load_from(args)
    out = _place(args, loaded.weights)
    name = f"{loaded.options['type']} of {loaded.weights}"
    if form == "safetensors":
        save_network(out, loaded.options, loaded.network.state_dict(), loaded.inputs, denoised=loaded.denoised)
        print(f"{out}: {name}, with its options; `basicsr enhance --weights` takes it.")
        return
    enhancer = Enhancer(loaded.network, device="cpu" if form == "onnx" else "auto")
    enhancer.enhance_tensor(torch.full((1, 3, 64, 64), 0.5))  # must keep the size of an image
    if form == "onnx":
        worst = export_onnx(loaded.network, out, args.fixed and tuple(args.fixed))
        of = "one image of {}x{}".format(*args.fixed) if args.fixed else "images of any size"
        print(f"{out}: {name}, for {of}; ONNX Runtime's results differ by {worst:.1e} of 1 at most.")
        return
    images = [image.path for image in find_images([args.of or args.average], out).images]
    points = size if form == "cube" else size**2
    if args.of:
        look = look_of_image(enhancer, args.of, points, loaded.inputs)
    else:
        look = average_look(enhancer, images, points, loaded.inputs)
    lines = _in_words(look, loaded, args.of, len(images) - len(look.skipped))
    if form == "cube":
        write_atomically(out, cube_text(look.table, f"{loaded.options['type']} {Path(loaded.weights).stem}", lines))
    else:
        write_atomically(out, encode_png(haldclut(look.table), 6))
    print(f"{out}: {name}, as a table of {points} x {points} x {points} colours.", *lines, sep="\n")
    for image, reason in look.skipped.items():
        print(f"skipped: {printable_path(image)}: {printable_path(reason)}", file=sys.stderr)


def _checked_size(args: argparse.Namespace) -> int:
    """The size of a table, once it is clear that all that was given goes with the format."""
    form, tables = args.format, ("cube", "haldclut")
    given = {"--fixed": args.fixed, "--for": args.of, "--average": args.average, "--size": args.size}
    for option, value in given.items():
        of = ("onnx",) if option == "--fixed" else tables
        if value is not None and form not in of:
            raise ValueError(f"{option} is of --format {' and '.join(of)}, not of {form}; leave it out.")
    if form not in tables:
        return 0
    if args.of is None and args.average is None:
        raise ValueError(
            f"--format {form}: a table maps colours alone, and a network looks at the picture. Say which one the table "
            "is for (--for IMAGE), or give pictures for an average look (--average FOLDER)."
        )
    size = _DEFAULT_SIZE[form] if args.size is None else int(args.size)
    if size not in _SIZES[form]:
        what = "17, 33 or 65 points a side" if form == "cube" else "a level from 2 to 16, whose square is the points"
        raise ValueError(f"--size {size}: --format {form} takes {what}.")
    return size


def _place(args: argparse.Namespace, weights: str) -> Path:
    """Where the result goes; nothing is there that must not be replaced."""
    ending = _ENDINGS[args.format]
    extension = f".{ending.rpartition('.')[2]}"
    if args.out is None:
        image = f"_{Path(args.of).stem}" if args.of else ""
        out = Path(weights).with_name(f"{Path(weights).stem}{image}{ending}")
    else:
        out = Path(args.out).expanduser()
        if out.is_dir() or out.suffix.lower() != extension:
            raise ValueError(
                f"--out: '{printable_path(out)}' is no file's name for --format {args.format}; let it end in "
                f"{extension}."
            )
    for file in (weights, args.of):
        if file and out.exists() and os.path.exists(file) and out.samefile(file):
            raise ValueError(f"'{out}' is what it would be made of; choose another --out.")
    if out.exists() and not args.overwrite:
        raise FileExistsError(f"'{out}' is there already. Give --overwrite, or another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def look_of_image(enhancer: Enhancer, path: str, points: int, inputs: Inputs | None = None) -> Look:
    """The table for one picture: exact, if the network does with it one thing everywhere; else the best fit.

    Args:
        enhancer: Has the network.
        path: The picture, in full size.
        points: Points a side.
        inputs: What the network takes, by which RAW files are developed.

    Raises:
        OSError, ValueError: The picture cannot be read; the network's result is not usable.
    """
    image = to_tensor(read_picture(path, raw_to_srgb=inputs == "srgb").pixels)[None]
    table = exact_table(enhancer, image, points)
    if table is None:
        return _fitted({path: _sample(enhancer, image, _PIXELS)}, points, {})
    return Look(table, True, difference(table, *_sample(enhancer, image, _PIXELS)))


def average_look(enhancer: Enhancer, paths: list[str], points: int, inputs: Inputs | None = None) -> Look:
    """The table that comes nearest to what the network makes of pictures.

    Args:
        enhancer: Has the network.
        paths: The pictures. Of each as many pixels are used, of its size reduced to a short side of 1024.
        points: Points a side.
        inputs: What the network takes, by which RAW files are developed.

    Raises:
        NetworkError: The network gives no image of the size of its input.
        ValueError: No picture could be used.
    """
    samples: dict[str, tuple[Tensor, Tensor]] = {}
    skipped: dict[str, str] = {}
    with progress_bar(len(paths), "export", "image") as bar:
        for path in paths:
            try:
                image = to_tensor(
                    shrink_short_side(read_picture(path, raw_to_srgb=inputs == "srgb").pixels, _SHORT_SIDE)
                )[None]
                samples[path] = _sample(enhancer, image, max(100, _PIXELS // len(paths)))
            except NetworkError:
                raise
            except UNUSABLE as error:
                skipped[path] = reason_of(error, path)
            bar.update()
    if not samples:
        path, reason = next(iter(skipped.items()))
        raise ValueError(f"None of {counted(len(paths), 'image')} could be used; '{printable_path(path)}': {reason}")
    return _fitted(samples, points, skipped)


def _sample(enhancer: Enhancer, image: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Colours of a picture and the network's for them, both ``(N, 3)``, in no order; at most so many."""
    where = torch.randperm(image[0, 0].numel(), generator=torch.Generator().manual_seed(0))[:most]
    result = enhancer.enhance_tensor(image)
    return image[0].flatten(1)[:, where].T, result[0].flatten(1)[:, where].T


def _fitted(samples: Mapping[str, tuple[Tensor, Tensor]], points: int, skipped: Mapping[str, str]) -> Look:
    """Fit a table to every other colour, and compare it at the rest."""
    colours, results = (torch.cat([sample[i][::2] for sample in samples.values()]) for i in range(2))
    table = fitted_table(colours, results, points)
    # A picture of one pixel has no other half.
    others = {path: [part[1::2] if len(part) > 1 else part for part in sample] for path, sample in samples.items()}
    error = difference(table, *(torch.cat(parts) for parts in zip(*others.values(), strict=True)))
    worst = min(((path, difference(table, *other).psnr) for path, other in others.items()), key=lambda item: item[1])
    return Look(table, False, error, worst, skipped)


def _in_words(look: Look, loaded: LoadedNetwork, image: str | None, used: int) -> list[str]:
    """What a table is of, what it maps, and how far it is from the network."""
    name = loaded.options["type"]
    of = f"'{printable_path(Path(image).name)}'" if image else counted(used, "picture")
    if look.exact:
        what = f"{name} for {of}: the network's own values at these points. Between them, on the picture: {look.error}."
    else:
        what = f"{name}: best fit to its results for {of}. {look.error}."
    lines = [what, f"Maps {_domain(loaded)} to the network's result, both from 0 to 1."]
    if look.worst and used > 1:
        lines.append(f"Worst picture: '{printable_path(Path(look.worst[0]).name)}' with {look.worst[1]:.1f} dB.")
    return lines


def _domain(loaded: LoadedNetwork) -> str:
    """What the network's input is, as far as its file tells."""
    if loaded.options.get("base_matrix", "identity") != "identity":
        return "CIE XYZ, as the network was trained on,"
    of_inputs = {"srgb": "sRGB", "raw": "linear camera RGB, as `basicsr enhance` develops RAW files,"}
    return of_inputs.get(loaded.inputs or "", "what the network was trained on (of most sRGB)")
