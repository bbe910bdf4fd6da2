"""Perceptual loss on VGG16 features, one value a sample, with clear words when the weights cannot be had.

References:
    Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016.
    Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

The paper's phase 1 uses ``L_mse + 0.1 L_vgg`` (equation 5, Table 5) and does not say which layers. Ours: relu1_2,
relu2_2, relu3_3 and relu4_3, each the mean squared difference of the features, with weight 1.
"""

from __future__ import annotations

import difflib
import http.client
import pickle
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from semiisp_plugin.losses.per_sample import check_image_pair, check_reduction, full_precision, reduce_samples
from semiisp_plugin.registry import LOSS_REGISTRY, register
from semiisp_plugin.toolbox import VGG_LAYER_NAMES

WEIGHTS_FILE = "vgg16-397923af.pth"
WEIGHTS_URL = f"https://download.pytorch.org/models/{WEIGHTS_FILE}"
DEFAULT_LAYERS: Mapping[str, float] = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}

# Longest wait for an answer of the download server, before a closed network is reported.
_TIMEOUT_SECONDS = 10.0
_LAYERS: tuple[str, ...] = tuple(VGG_LAYER_NAMES["vgg16"])
_BLOCK_CHANNELS = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}
# Statistics of ImageNet in [0, 1], which torchvision's weights were trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class VGGWeightsError(RuntimeError):
    """VGG16's ImageNet weights are not there and cannot be fetched, or the file is not what it should be."""

    def __init__(self, problem: str, place: Path) -> None:
        super().__init__(
            f"VGGPerceptualLoss: {problem}\n"
            f"Either fetch {WEIGHTS_FILE} (torchvision's VGG16, 528 MB) from {WEIGHTS_URL} on a machine with network "
            f"access and put it at {place}, or anywhere else with `weights: <path>` in the loss's section;\n"
            f"or replace the section by `{{type: SSIMLoss, loss_weight: 0.1}}`, which needs no weights (a choice of "
            f"this plugin, not the paper's)."
        )


def cache_path() -> Path:
    """Where torchvision keeps its copy."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE


def _download(path: Path) -> None:
    """Fetch the weights to ``path``; the temporary file, the move and the checksum are torch.hub's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch.hub waits as long as the system does; ask first whether anybody answers.
    with urllib.request.urlopen(urllib.request.Request(WEIGHTS_URL, method="HEAD"), timeout=_TIMEOUT_SECONDS):
        pass
    torch.hub.download_url_to_file(WEIGHTS_URL, str(path), hash_prefix="397923af")


def _find_weights(weights: str | None) -> Path:
    """The given file, or torchvision's cached copy, fetched if needed."""
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise VGGWeightsError(f"`weights: {weights}` is not a file.", path)
        return path
    path = cache_path()
    if not path.is_file():
        try:
            _download(path)
        # No network or no write permission; a broken transfer; a wrong checksum.
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            raise VGGWeightsError(
                f"the weights of VGG16 are not in torch's cache and could not be downloaded ({error}).", path
            ) from error
    return path


def _load_features(path: Path, features: nn.Sequential, indices: Mapping[str, int]) -> None:
    """Fill ``features`` from a torchvision VGG16 state dict; its other entries (the classifier) are not needed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VGGWeightsError(f"{path} cannot be read as weights ({reason}); it may be cut short.", path) from error
    own = features.state_dict()
    wanted = {key: f"features.{indices[key.split('.')[0]]}.{key.split('.')[1]}" for key in own}
    if not isinstance(state, Mapping):
        raise VGGWeightsError(f"{path} holds a {type(state).__name__}, not a state dict.", path)
    for key, name in wanted.items():
        if name not in state:
            raise VGGWeightsError(f"{path} has no entry '{name}'; it is not torchvision's VGG16.", path)
        if state[name].shape != own[key].shape:
            raise VGGWeightsError(
                f"'{name}' in {path} is {tuple(state[name].shape)} instead of {tuple(own[key].shape)}; it is not "
                f"torchvision's VGG16 (VGG16 with batch normalisation and VGG19 do not fit).",
                path,
            )
    features.load_state_dict({key: state[name] for key, name in wanted.items()})


def _build_features(names: tuple[str, ...], outputs: frozenset[str]) -> nn.Sequential:
    """VGG16's convolutional part up to the last of ``names``, untrained."""
    features = nn.Sequential()
    channels = 3
    for name in names:
        if name.startswith("conv"):
            width = _BLOCK_CHANNELS[name[4]]
            features.add_module(name, nn.Conv2d(channels, width, 3, padding=1))
            channels = width
        elif name.startswith("relu"):
            # In place saves a third of the memory, except where the convolution's output itself is compared.
            features.add_module(name, nn.ReLU(inplace=name.replace("relu", "conv") not in outputs))
        else:
            features.add_module(name, nn.MaxPool2d(2))
    return features


def _check_layers(layers: Mapping[str, float]) -> dict[str, float]:
    if not layers:
        raise ValueError("VGGPerceptualLoss: `layers` is empty; name at least one, such as {relu3_3: 1.0}.")
    for name in layers:
        if name not in _LAYERS:
            near = difflib.get_close_matches(str(name), _LAYERS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"VGG16 has {', '.join(_LAYERS)}."
            raise ValueError(f"VGGPerceptualLoss: VGG16 has no layer '{name}' (key `layers`); {hint}")
    return {name: float(weight) for name, weight in layers.items()}


@register(LOSS_REGISTRY)
class VGGPerceptualLoss(nn.Module):
    """Distance of VGG16 features, averaged over each layer and summed over layers; see this module's docstring.

    Args:
        loss_weight: Factor on the whole loss; 0.1 in the paper's Table 5.
        layers: Weight of each compared layer, by name: ``relu1_1`` ... ``relu5_3``, ``conv1_1`` ... (before the
            ReLU), ``pool1`` ... None: relu1_2, relu2_2, relu3_3, relu4_3 with weight 1 each.
        weights: Path of torchvision's ``vgg16-397923af.pth``. None: torch's cache, or a download into it.
        criterion: ``l2`` (mean squared difference) or ``l1`` (mean absolute difference).
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        VGGWeightsError: A RuntimeError. The weights are missing or unusable; the message says what to do.
        ValueError: Unknown layer, criterion or reduction.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        loss_weight: float = 0.1,
        layers: Mapping[str, float] | None = None,
        weights: str | None = None,
        criterion: str = "l2",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.layers = _check_layers(DEFAULT_LAYERS if layers is None else layers)
        if criterion not in ("l1", "l2"):
            raise ValueError(f"VGGPerceptualLoss: unknown `criterion: {criterion}`; choose l1 or l2.")
        self.criterion = criterion
        self.reduction = check_reduction(reduction, "VGGPerceptualLoss")

        names = _LAYERS[: max(_LAYERS.index(name) for name in self.layers) + 1]
        path = _find_weights(weights)
        self.features = _build_features(names, frozenset(self.layers))
        _load_features(path, self.features, {name: index for index, name in enumerate(names)})
        self.features.requires_grad_(False).eval()
        self.smallest_side = 2 ** sum(name.startswith("pool") for name in names)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def _compared(self, image: Tensor) -> dict[str, Tensor]:
        """Features of the compared layers, by name."""
        x = (image - self.mean) / self.std
        found = {}
        for name, layer in self.features.named_children():
            x = layer(x)
            if name in self.layers:
                found[name] = x
        return found

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compare images.

        Args:
            pred: ``(N, 3, H, W)``, RGB in [0, 1].
            target: As ``pred``; no gradient flows to it.

        Returns:
            Scalar, or ``(N,)`` for ``reduction: none``.

        Raises:
            ValueError: Shapes differ, not 3 channels, or the image is too small for the deepest layer.
        """
        check_image_pair(pred, target, "VGGPerceptualLoss")
        if pred.shape[1] != 3 or min(pred.shape[-2:]) < self.smallest_side:
            raise ValueError(
                f"VGGPerceptualLoss with layer {max(self.layers, key=_LAYERS.index)} needs RGB images of at least "
                f"{self.smallest_side} pixels a side; got {tuple(pred.shape)} (N, C, H, W)."
            )
        with torch.no_grad():
            target_features = self._compared(target)
        pred_features = self._compared(pred)
        values = pred.new_zeros(pred.shape[0], dtype=torch.float32)
        for name, weight in self.layers.items():
            difference = full_precision(pred_features[name]) - full_precision(target_features[name])
            distance = difference.square() if self.criterion == "l2" else difference.abs()
            values = values + weight * distance.flatten(1).mean(dim=1)
        return self.loss_weight * reduce_samples(values, self.reduction)
