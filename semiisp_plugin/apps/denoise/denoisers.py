"""Denoising an image by a network with weights, the paper's way (Sec. A.3)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from semiisp_plugin.apps.denoise.non_local_means import Denoiser
from semiisp_plugin.apps.enhance.enhancer import Enhancer, Precision
from semiisp_plugin.io.checkpoint import load_network_weights
from semiisp_plugin.toolbox import build_network


def network_denoiser(
    network: Mapping[str, Any],
    weights: str | os.PathLike[str],
    param_key: str | None = "params",
    *,
    tile: int | None = 1024,
    overlap: int = 64,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
) -> Denoiser:
    """A network that takes and returns images of one size.

    Args:
        network: Its options as in an option file: ``type``, and its arguments.
        weights: File of the weights.
        param_key: Where in the file they are; see `semiisp_plugin.io.checkpoint.weights_in`.
        tile: Images with a longer side go through in tiles of this side, pixels; None: whole.
        overlap: Pixels that neighbouring tiles share, at most half a tile; see `semiisp_plugin.apps.tiling`.
        precision: ``fp32``, or ``bf16`` for mixed precision.
        device: Where it runs.

    Raises:
        CheckpointError: The weights are missing, unreadable, or another network's.
        ValueError: The tile is too small, or the overlap too large for it.
    """
    net = build_network(dict(network))
    load_network_weights(net, weights, key=param_key)
    enhancer = Enhancer(net, device=device, precision=precision, tile=tile or 0, overlap=overlap, match=False)
    return enhancer.enhance_image
