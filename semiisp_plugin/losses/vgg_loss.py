"""Perceptual loss on VGG16 features, one value a sample, with clear words when the weights cannot be had.

References:
    Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016.
    Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

The paper's phase 1 uses ``L_mse + 0.1 L_vgg`` (equation 5, Table 5) and does not say which layers. Ours: relu1_2,
relu2_2, relu3_3 and relu4_3, each the mean squared difference of the features, with weight 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semiisp_plugin.io.imagenet_weights import VGG16, ImageNetWeightsError
from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.registry import LOSS_REGISTRY, register

_COMPARED = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3 among torchvision's layers
_CONFIGURATION = 13  # entries of its configuration D up to there: 10 convolutions, 3 poolings
_SMALLEST_SIDE = 8
# Statistics of ImageNet in [0, 1], which torchvision's weights were trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@register(LOSS_REGISTRY)
class VGGPerceptualLoss(SampleLoss):
    """Distance of VGG16 features, averaged over each layer and summed over layers; see this module's docstring.

    Args:
        loss_weight: Factor on the whole loss; 0.1 in the paper's Table 5.
        weights: Path of torchvision's ``vgg16-397923af.pth``. None: torch's cache, or a download into it.
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ImageNetWeightsError: A RuntimeError. The weights are missing or unusable; the message says what to do.
        ValueError: Unknown reduction.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, loss_weight: float = 0.1, weights: str | None = None, reduction: str = "mean") -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__(loss_weight, reduction)
        self.features = make_layers(cfgs["D"][:_CONFIGURATION])
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
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def _compared(self, image: Tensor) -> list[Tensor]:
        """Features of the compared layers."""
        x = (image - self.mean) / self.std
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in _COMPARED:
                found.append(x)
        return found

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """Of RGB images in [0, 1]; no gradient flows to the target.

        Raises:
            ValueError: Not 3 channels, or the image is too small for the deepest layer.
        """
        if pred.shape[1] != 3 or min(pred.shape[-2:]) < _SMALLEST_SIDE:
            raise ValueError(
                f"VGGPerceptualLoss needs RGB images of at least {_SMALLEST_SIDE} pixels a side; got "
                f"{tuple(pred.shape)} (N, C, H, W)."
            )
        with torch.no_grad():
            target_features = self._compared(target)
        values = pred.new_zeros(pred.shape[0], dtype=torch.float32)
        for features, wanted in zip(self._compared(pred), target_features, strict=True):
            difference = full_precision(features) - full_precision(wanted)
            values = values + difference.square().flatten(1).mean(dim=1)
        return values
