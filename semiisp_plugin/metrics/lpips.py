"""Learned perceptual distance, by the package ``lpips`` (an optional extra of the plugin).

Reference:
    Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
    CVPR 2018.

The package brings the few numbers that were learned, and not the classification network whose features it compares.
"""

from __future__ import annotations

import http.client
import math
import urllib.request
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from semiisp_plugin.metrics._declared import prepared_by
from semiisp_plugin.metrics._images import as_pair, check_choice, cropped, has_nan, to_8_bits
from semiisp_plugin.toolbox import METRIC_REGISTRY, register

_OWNER = "calculate_lpips"
_SMALLEST = 32
_TIMEOUT_SECONDS = 10.0  # longest wait for an answer of the download server


class Backbone(NamedTuple):
    """A classification network of torchvision.

    Attributes:
        file: Name of its ImageNet weights in torch's cache; it ends with the start of their checksum.
        title: For messages.
    """

    file: str
    title: str

    @property
    def url(self) -> str:
        """Where torchvision has them from."""
        return f"https://download.pytorch.org/models/{self.file}"


BACKBONES = {
    "alex": Backbone("alexnet-owt-7be5be79.pth", "AlexNet, 233 MB"),
    "vgg": Backbone("vgg16-397923af.pth", "VGG16, 528 MB"),
    "squeeze": Backbone("squeezenet1_1-b8a52dc0.pth", "SqueezeNet 1.1, 5 MB"),
}
NETS = tuple(BACKBONES)


class LPIPSError(RuntimeError):
    """The package, or the weights of its backbone, are not there."""


def _missing(net: str, problem: str, place: Path) -> LPIPSError:
    backbone = BACKBONES[net]
    return LPIPSError(
        f"{_OWNER}: {problem}\n"
        f"Either fetch {backbone.file} (torchvision's {backbone.title}) from {backbone.url} on a machine with network "
        f"access and put it at {place}, torch's cache;\n"
        f"or put it anywhere else and give `weights: <path>` in the metric's section."
    )


def _find_weights(net: str, weights: str | None) -> Path:
    """The given file, or torch's cached copy, fetched if needed."""
    backbone = BACKBONES[net]
    cache = Path(torch.hub.get_dir()) / "checkpoints" / backbone.file
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise _missing(net, f"`weights: {weights}` is not a file.", cache)
        return path
    if not cache.is_file():
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            # torch.hub waits as long as the system does; ask first whether anybody answers.
            with urllib.request.urlopen(urllib.request.Request(backbone.url, method="HEAD"), timeout=_TIMEOUT_SECONDS):
                pass
            prefix = cache.stem.rsplit("-", 1)[1]
            torch.hub.download_url_to_file(backbone.url, str(cache), hash_prefix=prefix, progress=False)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            problem = f"the weights of its backbone are not in torch's cache and could not be downloaded ({error})."
            raise _missing(net, problem, cache) from error
    return cache


def _features(net: str, path: Path, names: list[str]) -> dict[str, Tensor]:
    """The weights of the backbone in a file of torchvision's, under the package's names.

    The package cuts torchvision's ``features`` into slices, whose parts keep their numbers: ``slice2.3.weight`` is
    ``features.3.weight``.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _missing(net, f"{path} cannot be read as weights ({reason}).", path) from error
    found = {name: f"features.{name.split('.', 1)[1]}" for name in names}
    lacking = [public for public in found.values() if not isinstance(state, Mapping) or public not in state]
    if lacking:
        problem = f"{path} has no entry '{lacking[0]}'; it is not torchvision's {BACKBONES[net].title.split(',')[0]}."
        raise _missing(net, problem, path)
    return {name: state[public] for name, public in found.items()}


@lru_cache(maxsize=4)
def _network(net: str, weights: str | None, device: str) -> Any:
    """The package's network, built once a process."""
    try:
        import lpips
    except ImportError as error:
        raise LPIPSError(f"{_OWNER} needs the package lpips: pip install 'semiisp_plugin[lpips]'.") from error
    path = _find_weights(net, weights)
    # It is built with random weights, which are no business of the training's random numbers.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of an old argument that the package uses
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    try:
        network.net.load_state_dict(_features(net, path, list(network.net.state_dict())))
    except RuntimeError as error:
        if isinstance(error, LPIPSError):
            raise
        title = BACKBONES[net].title.split(",")[0]
        raise _missing(
            net, f"{path} does not fit torchvision's {title} ({str(error).splitlines()[-1].strip()}).", path
        ) from error
    return network.requires_grad_(False).eval().to(device)


def _prepare(
    crop_border: int = 0,
    input_order: str = "HWC",
    net: str = "alex",
    weights: str | None = None,
    device: str = "cpu",
) -> None:
    check_choice("net", net, NETS, _OWNER)
    _network(net, weights, device)


@register(METRIC_REGISTRY)
@prepared_by(_prepare)
def calculate_lpips(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    input_order: str = "HWC",
    net: str = "alex",
    weights: str | None = None,
    device: str = "cpu",
    better: str | None = None,
) -> float:
    """LPIPS, version 0.1: 0 for equal images, lower is better (``better: lower``).

    Of images of 8 bits, as they would be saved; floats are rounded first. The network is built once a process. Before
    a training begins the plugin's models look whether it can be.

    Args:
        img: Prediction, ``(H, W, 3)`` with B, G, R (BasicSR's order) or ``(H, W)``, uint8, or float in [0, 255].
        img2: Ground truth, likewise.
        crop_border: Pixels left out at each edge.
        input_order: ``HWC`` or ``CHW``.
        net: Backbone: ``alex`` (the authors' advice for comparisons, and what is usually reported), ``vgg`` or
            ``squeeze``.
        weights: File with torchvision's ImageNet weights of it. None: torch's cache, or a download into it.
        device: Where the network runs, such as ``cuda``.
        better: Not used; BasicSR hands this key of the metric's section to the function.

    Raises:
        LPIPSError: A RuntimeError. The package or the weights are missing; the message says how to get them.
        ValueError: Unknown option, different shapes, a data type other than uint8 and float, a side of less than 32
            pixels.
    """
    check_choice("net", net, NETS, _OWNER)
    pair = cropped(as_pair(img, img2, input_order, _OWNER), crop_border, _SMALLEST, _OWNER)
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
