"""A network as an ONNX graph, which is run by ONNX Runtime and compared with the network before it is kept.

The graph has one input, ``image``, (N, 3, H, W) float32 RGB in [0, 1], and one output, ``result``, of the same shape.
What the network takes any size by, such as padding, is in the graph.

Needs torch 2.6 or later and the packages onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import logging
import os
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from semiisp_plugin.archs.flow import with_kept_inverses
from semiisp_plugin.io.files import replacing

# The first with lookups in volumes (GridSample of five dimensions), which SepLUT needs.
OPSET = 20
# Largest difference, for values of 0 to 1: float32 sums in another order, which steep curves enlarge.
TOLERANCE = 1e-3
CHANNELS = 3
# Where sizes are free, one that is no network's own, such as that of its thumbnails: it would be taken as fixed.
FREE_SIZE = (240, 272)


class ExportError(ValueError):
    """A network that cannot be exported, or a file that computes something else."""


def export_onnx(
    network: nn.Module, out: str | os.PathLike[str], fixed: tuple[int, int] | None = None, *, optimize: bool = True
) -> float:
    """Write the graph of a network, unless ONNX Runtime makes something else of it at one of several sizes.

    Args:
        network: In evaluation mode, on the CPU.
        out: The file, which is replaced; its folder must be there.
        fixed: Height and width of the one image that the graph is for; None: for N, H and W of any size.
        optimize: Simplify the graph.

    Returns:
        The most by which the file's results differ from the network's, for values of 0 to 1.

    Raises:
        ExportError: The network cannot be exported, something that is needed is not installed, or the file differs.
        OSError: The file cannot be written.
    """
    with replacing(out) as unfinished:
        write_graph(network, unfinished, fixed or FREE_SIZE, fixed=fixed is not None, optimize=optimize)
        worst = 0.0
        for batch, height, width in _sizes_to_check(fixed):
            image = torch.rand(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(0))
            worst = max(worst, difference(network, unfinished, image))
        if not worst <= TOLERANCE:
            raise ExportError(
                f"ONNX Runtime's results differ from those of {type(network).__name__} by {worst:.1e} (of 1, allowed: "
                f"{TOLERANCE:.0e}); {out} was not written."
            )
    return worst


def write_graph(
    network: nn.Module,
    out: str | os.PathLike[str],
    size: tuple[int, int] = FREE_SIZE,
    *,
    fixed: bool = False,
    optimize: bool = True,
) -> None:
    """Write the graph, and compare nothing.

    Args:
        network: See `export_onnx`.
        out: See `export_onnx`.
        size: Height and width of the image that it is traced with.
        fixed: The graph is for one image of that size.
        optimize: Simplify the graph.

    Raises:
        ExportError: See `export_onnx`.
        OSError: The file cannot be written.
    """
    if not hasattr(torch.export, "Dim") or not hasattr(torch.export.Dim, "DYNAMIC"):
        raise ExportError(f"torch {torch.__version__} is too old for --format onnx: install 2.6 or later.")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    network = with_kept_inverses(network)  # ONNX inverts no matrices
    # Where a size is not fixed, 1 would be taken for a constant.
    image = torch.rand(1 if fixed else 2, CHANNELS, *size, generator=torch.Generator().manual_seed(0))
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
    except OSError:
        raise
    except Exception as error:  # the exporter raises many kinds, deep ones
        raise ExportError(
            f"{type(network).__name__} cannot be exported to ONNX{'' if fixed else ' for images of any size'}: "
            f"{_reason(error)}{'' if fixed else ' With --fixed HEIGHT WIDTH it may be, for images of one size.'}"
        ) from error


def _reason(error: BaseException) -> str:
    """The innermost cause, without the exporter's advice for developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no reason was given'}."


def difference(network: nn.Module, file: str | os.PathLike[str], image: Tensor) -> float:
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
        session = onnxruntime.InferenceSession(os.fspath(file), settings, providers=["CPUExecutionProvider"])
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


def _sizes_to_check(fixed: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """Batch, height and width: those of the trace; smaller, odd and larger ones where they may vary."""
    if fixed is not None:
        return [(1, *fixed)]
    height, width = FREE_SIZE
    return [(2, height, width), (1, height // 2 + 1, width), (1, height, width // 3 + 2), (1, height + 7, width + 13)]
