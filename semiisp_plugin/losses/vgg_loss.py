"""Perceptual loss on VGG16 features, one value a sample, with clear words when the weights cannot be had.

References:
    Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016.
    Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

The paper's phase 1 uses ``L_mse + 0.1 L_vgg`` (equation 5, Table 5) and does not say which layers. Ours: relu1_2,
relu2_2, relu3_3 and relu4_3, each the mean squared difference of the features, with weight 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from semiisp_plugin.io.imagenet_weights import VGG16, ImageNetWeightsError
from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.registry import LOSS_REGISTRY, register

DEFAULT_LAYERS: Mapping[str, float] = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}

# Statistics of ImageNet in [0, 1], which torchvision's weights were trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def _layer_names() -> Iterator[str]:
    for block, convolutions in enumerate((2, 2, 3, 3, 3), 1):
        for number in range(1, convolutions + 1):
            yield from (f"conv{block}_{number}", f"relu{block}_{number}")
        yield f"pool{block}"


_LAYERS = tuple(_layer_names())


def _build_features(names: tuple[str, ...], outputs: Collection[str]) -> nn.Sequential:
    """VGG16's convolutional part, configuration D, up to the last of ``names``, untrained."""
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"][: sum(not name.startswith("relu") for name in names)])[: len(names)]
    for name, layer in zip(names, features, strict=True):
        if name.startswith("relu"):
            # In place saves a third of the memory, except where the convolution's output itself is compared.
            layer.inplace = name.replace("relu", "conv") not in outputs
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
class VGGPerceptualLoss(SampleLoss):
    """Distance of VGG16 features, averaged over each layer and summed over layers; see this module's docstring.

    Args:
        loss_weight: Factor on the whole loss; 0.1 in the paper's Table 5.
        layers: Weight of each compared layer, by name: ``relu1_1`` ... ``relu5_3``, ``conv1_1`` ... (before the
            ReLU), ``pool1`` ... None: relu1_2, relu2_2, relu3_3, relu4_3 with weight 1 each.
        weights: Path of torchvision's ``vgg16-397923af.pth``. None: torch's cache, or a download into it.
        criterion: ``l2`` (mean squared difference) or ``l1`` (mean absolute difference).
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ImageNetWeightsError: A RuntimeError. The weights are missing or unusable; the message says what to do.
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
        super().__init__(loss_weight, reduction)
        self.layers = _check_layers(DEFAULT_LAYERS if layers is None else layers)
        if criterion not in ("l1", "l2"):
            raise ValueError(f"VGGPerceptualLoss: unknown `criterion: {criterion}`; choose l1 or l2.")
        self.criterion = criterion
        names = _LAYERS[: max(_LAYERS.index(name) for name in self.layers) + 1]
        self.names = names
        self.features = _build_features(names, self.layers)
        try:
            loaded = VGG16.load(weights, self.features.state_dict(), "features.{}".format, "VGGPerceptualLoss")
        except ImageNetWeightsError as error:
            instead = "{type: SSIMLoss, loss_weight: 0.1}"
            raise ImageNetWeightsError(
                f"{error}\nOr replace the section by `{instead}`, which needs no weights (a choice of this plugin, not "
                f"the paper's)."
            ) from error.__cause__
        self.features.load_state_dict(loaded)
        self.features.requires_grad_(False).eval()
        self.smallest_side = 2 ** sum(name.startswith("pool") for name in names)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def _compared(self, image: Tensor) -> dict[str, Tensor]:
        """Features of the compared layers, by name."""
        x = (image - self.mean) / self.std
        found = {}
        for name, layer in zip(self.names, self.features, strict=True):
            x = layer(x)
            if name in self.layers:
                found[name] = x
        return found

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Of RGB images in [0, 1]; no gradient flows to the target.

        Raises:
            ValueError: Not 3 channels, or the image is too small for the deepest layer.
        """
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
        return values
