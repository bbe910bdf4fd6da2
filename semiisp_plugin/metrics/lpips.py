"""Learned perceptual distance, by the package ``lpips`` (an optional extra of the plugin).

Reference:
    Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
    CVPR 2018.

The package brings the few numbers that were learned, and not the classification network whose features it compares.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from semiisp_plugin.io.imagenet_weights import ALEXNET, SQUEEZENET, VGG16, ImageNetWeightsError
from semiisp_plugin.metrics._shared import as_pair, has_nan, prepared_by, to_8_bits
from semiisp_plugin.toolbox import METRIC_REGISTRY, register

_OWNER = "calculate_lpips"
_SMALLEST = 32
BACKBONES = {"alex": ALEXNET, "vgg": VGG16, "squeeze": SQUEEZENET}


@lru_cache(maxsize=4)
def _network(net: str, weights: str | None, device: str) -> Any:
    """The package's network, built once a process."""
    try:
        import lpips
    except ImportError as error:
        raise ImageNetWeightsError(f"{_OWNER} needs lpips; in a clone: pip install -e '.[lpips]'.") from error
    # It is built with random weights, which are no business of the training's random numbers.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of an old argument that the package uses
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)

    def public(key: str) -> str:
        """The package cuts torchvision's ``features`` into slices, whose parts keep their numbers."""
        return f"features.{key.split('.', 1)[1]}"

    loaded = BACKBONES[net].load(weights, network.net.state_dict(), public, _OWNER)
    network.net.load_state_dict(loaded)
    return network.requires_grad_(False).eval().to(device)


def _prepare(
    crop_border: int = 0,
    net: str = "alex",
    weights: str | None = None,
    device: str = "cpu",
) -> None:
    _network(net, weights, device)


@register(METRIC_REGISTRY)
@prepared_by(_prepare)
def calculate_lpips(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    net: Literal["alex", "vgg", "squeeze"] = "alex",
    weights: str | None = None,
    device: str = "cpu",
    better: str | None = None,
) -> float:
    """LPIPS, version 0.1: 0 for equal images, lower is better (``better: lower``).

    Of images of 8 bits, as they would be saved; floats are rounded first. The network is built once a process. Before
    a training begins the plugin's models look whether it can be.

    Images, ``crop_border`` and ``better`` are those of all metrics, see `semiisp_plugin.metrics`.

    Args:
        img: Prediction.
        img2: Ground truth.
        crop_border: Pixels left out at each edge; 32 a side must be left.
        net: Backbone: ``alex`` (the authors' advice for comparisons, and what is usually reported), ``vgg`` or
            ``squeeze``.
        weights: File with torchvision's ImageNet weights of it. None: torch's cache, or a download into it.
        device: Where the network runs, such as ``cuda``.
        better: Not used.

    Raises:
        ImageNetWeightsError: A RuntimeError. The package or the weights are missing; the message says how to get them.
    """
    pair = as_pair(img, img2, _OWNER, crop_border, _SMALLEST)
    if any(map(has_nan, pair)):
        return math.nan
    network = _network(net, weights, device)
    pred, target = (_tensor(image).to(device) for image in pair)
    with torch.no_grad():
        return float(network(pred, target))


def _tensor(image: npt.NDArray[np.generic]) -> Tensor:
    """``(1, 3, H, W)`` RGB in [-1, 1]."""
    rgb = to_8_bits(image)[..., ::-1].astype(np.float32) / 127.5 - 1
    rgb = np.broadcast_to(rgb, (*rgb.shape[:2], 3))
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None]
