"""Export the trained network of an option file to ONNX, and check the file with ONNX Runtime.

    python scripts/export_onnx.py -opt options/test_lolv1.yml --out retinexformer.onnx
    python scripts/export_onnx.py --weights experiments/NAME/models/net_g_latest.pth --out net.onnx --fixed

The graph has one input, ``image``, (N, 3, H, W) float32 RGB in [0, 1], and one output, ``result``, of the same shape.
N, H and W may be anything, unless ``--fixed`` makes them 1 and ``--size``. What the network takes any size by, such as
padding, is in the graph. Weights are found as by ``basicsr enhance``. The file is run at several sizes and compared
with the network; a file that differs is an error.

Needs torch 2.6 or later and the packages onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.options import OptionError

# The first with lookups in volumes (GridSample of five dimensions), which SepLUT needs.
OPSET = 20
# Largest difference, for values of 0 to 1: float32 sums in another order, which steep curves enlarge.
TOLERANCE = 1e-3
CHANNELS = 3


class ExportError(ValueError):
    """A network that cannot be exported, or a file that computes something else."""


def export(
    network: nn.Module, out: str | Path, size: Sequence[int] = (256, 256), fixed: bool = False, optimize: bool = True
) -> None:
    """Write the graph of a network.

    Args:
        network: In evaluation mode, on the CPU.
        out: The file.
        size: Height and width of the image that it is traced with.
        fixed: The graph is for one image of that size.
        optimize: Simplify the graph.

    Raises:
        ExportError: The network cannot be exported, or something that is needed is not installed.
    """
    if not hasattr(torch.export, "Dim") or not hasattr(torch.export.Dim, "DYNAMIC"):
        raise ExportError(f"torch {torch.__version__} is too old for this export: install 2.6 or later.")
    # Where a size is not fixed, 1 would be taken for a constant.
    image = torch.rand(1 if fixed else 2, CHANNELS, *size)
    free = torch.export.Dim.DYNAMIC
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["result"],
                dynamic_shapes=None if fixed else ({0: free, 2: free, 3: free},),
                optimize=optimize,
                verbose=False,
            )
        assert program is not None  # as always with dynamo=True
        program.save(str(out))
    except ModuleNotFoundError as error:
        raise ExportError(f"The package {error.name} is missing: pip install onnx onnxscript onnxruntime.") from error
    except OSError as error:
        raise ExportError(f"{out} could not be written: {error}.") from error
    except Exception as error:  # the exporter raises many kinds, deep ones
        raise ExportError(
            f"{type(network).__name__} cannot be exported to ONNX{'' if fixed else ' for images of any size'}: "
            f"{_reason(error)}{'' if fixed else ' With --fixed and --size it may be, for images of one size.'}"
        ) from error


def _reason(error: BaseException) -> str:
    """The innermost cause, without the exporter's advice for developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no reason was given'}."


def difference(network: nn.Module, file: str | Path, image: Tensor) -> float:
    """The most by which the file's result differs from the network's, for values of 0 to 1.

    Raises:
        ExportError: ONNX Runtime is missing, or refuses the file or the image.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ExportError("The package onnxruntime is missing: pip install onnxruntime.") from error
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
        found = session.run(None, {"image": image.numpy()})[0]
    except Exception as error:  # its errors share no class
        height, width = image.shape[2:]
        raise ExportError(
            f"ONNX Runtime fails on {len(image)} image(s) of {height}x{width}: {_reason(error)}"
        ) from error
    with torch.no_grad():
        expected = network(image).float().numpy()
    if found.shape != expected.shape:
        raise ExportError(f"The file makes {found.shape} of {tuple(image.shape)}, the network {expected.shape}.")
    return float(np.abs(found - expected).max())


def sizes_to_check(size: Sequence[int], fixed: bool) -> list[tuple[int, int, int]]:
    """Batch, height and width: those of the trace; smaller, odd and larger ones where they may vary."""
    height, width = size
    if fixed:
        return [(1, height, width)]
    return [(2, height, width), (1, height // 2 + 1, width), (1, height, width // 3 + 2), (1, height + 7, width + 13)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", metavar="FILE", help="option file of testing or training")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint; with -opt, in place of the one found by it")
    parser.add_argument("--param_key", metavar="KEY", help="which weights of the checkpoint (default: the average)")
    parser.add_argument("--out", metavar="FILE", required=True, help="the file to write, *.onnx")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="with --fixed of all images (default: 256 256), else of the image it is traced with (default: 240 272)",
    )
    parser.add_argument("--fixed", action="store_true", help="for one image of that size")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the option file")
    args = parser.parse_args(argv)
    # Where sizes are free, one that is no network's own, such as that of its thumbnails: it would be taken as fixed.
    args.size = args.size or ([256, 256] if args.fixed else [240, 272])
    if min(args.size) < 1:
        parser.error("--size: give two numbers of 1 or more")
    if not Path(args.out).parent.is_dir():
        parser.error(f"--out: there is no folder {Path(args.out).parent}")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        loaded = load_network(args.opt, args.weights, None, args.param_key, args.force_yml)
        network = loaded.network.eval()
        export(network, args.out, args.size, args.fixed)
        worst = 0.0
        for batch, height, width in sizes_to_check(args.size, args.fixed):
            image = torch.rand(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(0))
            worst = max(worst, difference(network, args.out, image))
        if not worst <= TOLERANCE:
            raise ExportError(f"{args.out} was written, but differs from the network by {worst:.1e}.")
    except (ExportError, OptionError, CheckpointError, ValueError) as error:
        print(f"export_onnx: {error}", file=sys.stderr)
        return 1
    of = f"one image of {args.size[0]}x{args.size[1]}" if args.fixed else "images of any size"
    print(f"{args.out}: {type(network).__name__} of {loaded.weights}, for {of}; largest difference {worst:.1e}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
