"""ReRAW: sRGB to RAW by heads of many gammas (Berdan et al., CVPR 2025), a source of pseudo inputs.

A small convolutional network makes features of each pixel and of what touches it, a context of the whole image
multiplies them, and G heads of 1x1 convolutions each make RAW ** gamma, of which small gammas spread the dark end. A
second context says how to mix them:

    features = context(thumbnail) * colours(image)
    RAW      = sum_g softmax(weights(thumbnail))_g head_g(features) ** (1 / gamma_g),    gamma_g = 1, .9, ..., .1

Names and shapes of the parameters of the published form are those of the public repository (github.com/SonyResearch/
ReRAW, MIT); the code is new.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import (
    N_COLOURS,
    check_at_least,
    pack_mosaic,
    pad_to_multiple,
    reflect_border,
    unpack_mosaic,
)
from semiisp_plugin.archs.pqdynamicisp_arch import ParameterEncoder
from semiisp_plugin.archs.srgb_to_raw import SRGBToRAWNetwork
from semiisp_plugin.archs.table_prediction import MIN_THUMBNAIL
from semiisp_plugin.options.ranges import Blocks, Channels, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register

__all__ = ["ReRAW"]

_SLOPE = 0.1
_DARKEST = 1e-6  # of targets
_START = 0.1  # of the heads' last biases


class _Residual(nn.Sequential):
    """Adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + super().forward(x)
        return out


class _Layers(nn.Module):
    """Convolutions, each with its activation."""

    def __init__(self, *layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _layer(
    kind: type[nn.Sequential],
    inputs: int,
    outputs: int,
    side: int = 1,
    stride: int = 1,
    groups: int = 1,
    start: float | None = None,
) -> nn.Sequential:
    """Convolution and activation, which begin by giving about ``start`` for all pixels, if there is one."""
    conv = nn.Conv2d(inputs, outputs, side, stride=stride, groups=groups)
    if start is None:
        nn.init.xavier_uniform_(conv.weight)
    else:
        nn.init.normal_(conv.weight, std=1e-3)
    nn.init.constant_(conv.bias, start or 0.0)  # type: ignore[arg-type]  # it has one
    return kind(conv, nn.LeakyReLU(_SLOPE))


class _ResNetContext(nn.Module):
    """Numbers of a thumbnail by torchvision's ResNet-18, (N, 3, H, W) -> (N, K, 1, 1)."""

    def __init__(self, numbers: int, thumbnail: int) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.thumbnail = thumbnail
        self.resnet = nn.Sequential(*list(resnet18(weights=None).children())[:-1])
        self.fc = nn.Linear(512, numbers)

    def forward(self, image: Tensor) -> Tensor:
        small = F.interpolate(image, (self.thumbnail, self.thumbnail), mode="area")
        out: Tensor = self.fc(self.resnet(small.to(self.fc.weight.dtype)).flatten(1))
        return out[..., None, None]


@register(ARCH_REGISTRY)
class ReRAW(SRGBToRAWNetwork):
    """Heads that each make a power of RAW, mixed as the image needs.

    Input (N, 3, H, W) sRGB in [0, 1] of any size; output RAW of the same size, float32 at least, not negative, not
    clamped above. One RAW image for an image: nothing is drawn. What a pixel becomes depends on the 3x3 pixels around
    it (with ``mosaic``, on the 4x4 around its 2x2), and on a thumbnail of the image; beyond the border the image is
    reflected.

    The published network makes a camera's mosaic and has two ResNet-18s: ``mosaic: true, context: resnet18``,
    23,767,154 parameters. It is trained on patches of 64x64 pixels, each with the thumbnail of a larger part of its
    image; here a sample's thumbnail is of what is given of it, so that training takes crops that are large, or whole
    images. The default is ours: RAW of three channels at full size (the 2x2 convolution that halves it is 1x1) and
    contexts of `ParameterEncoder`, 1,814,274 parameters. For CPUs: ``num_feat: 32, num_block: 2, head_block: 1,
    num_gamma: 5``, 510,417, of which all but 15,000 see the thumbnail alone.

    Weights start from Xavier's uniform distribution, biases from 0, as published; but the heads' last ones near
    0.1 ** gamma for all pixels, ours: where a head is below 0, which clips it, nothing changes it. Learning rates of
    1e-2, ten times the published one, can clip all heads for good.

    Args:
        mosaic: RAW is a Bayer mosaic (RGGB, red first), packed to four channels of half the size. That the output is
            an image of three channels that has this mosaic (`unpack_mosaic`), and that the mosaic to learn from is
            sampled from one, so that it trains and tests like any network, is ours. Sides are made even by reflection.
        context: What sees the thumbnail: ``light``, ours, two of `ParameterEncoder`, after resizing that is bilinear
            with antialiasing; ``resnet18``, as published, after averaging over areas.
        num_feat: Channels; at the first convolution, which keeps colours apart, three quarters of them.
        num_block: Residual layers in front of the heads.
        head_block: Residual layers of a head.
        num_gamma: G, the number of heads; their gammas are 1 / G, 2 / G, ..., 1.
        thumbnail: Its side in pixels, aspect not kept; at least 64 for ``resnet18``.

    Raises:
        ValueError: An option is outside what is said above.
    """

    def __init__(
        self,
        mosaic: bool = False,
        context: Literal["light", "resnet18"] = "light",
        num_feat: Channels = 128,
        num_block: Blocks = 7,
        head_block: Blocks = 6,
        num_gamma: Annotated[int, Meta(ge=1, le=100)] = 10,
        thumbnail: Thumbnail = 128,
    ) -> None:
        super().__init__()
        if context not in ("light", "resnet18"):
            raise ValueError(f"ReRAW: context is '{context}'; use 'light' or 'resnet18'.")
        check_at_least("ReRAW", 1, num_feat=num_feat, num_gamma=num_gamma)
        check_at_least("ReRAW", 0, num_block=num_block, head_block=head_block)
        check_at_least("ReRAW", MIN_THUMBNAIL["light" if context == "light" else "res18"], thumbnail=thumbnail)
        self.mosaic = mosaic
        self.gammas = [1 - i / num_gamma for i in range(num_gamma)]
        first, side = N_COLOURS * max(1, num_feat // 4), 2 if mosaic else 1
        self.color_reconstruction = _Layers(
            _layer(nn.Sequential, N_COLOURS, first, 3, groups=N_COLOURS),
            _layer(nn.Sequential, first, num_feat, side, stride=side),
            *(_layer(_Residual, num_feat, num_feat) for _ in range(num_block)),
            _layer(nn.Sequential, num_feat, num_feat),
        )
        self.global_context_encoder = _context(context, num_feat, thumbnail, 1.0)
        self.gamma_scaling_encoder = _context(context, num_gamma, thumbnail, 0.0)
        self.heads = nn.ModuleList(
            _Layers(
                _layer(nn.Sequential, num_feat, num_feat),
                *(_layer(_Residual, num_feat, num_feat) for _ in range(head_block)),
                _layer(nn.Sequential, num_feat, N_COLOURS + mosaic, start=_START**gamma),
            )
            for gamma in self.gammas
        )

    def powers(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads make, and how they are mixed.

        Args:
            image: (N, 3, H, W) sRGB in [0, 1], of even sides with ``mosaic``.

        Returns:
            (N, G, 3, H, W), or (N, G, 4, H / 2, W / 2) with ``mosaic``: RAW ** gamma, not negative; and (N, G), which
            sum to one.
        """
        context, scores = self.global_context_encoder(image), self.gamma_scaling_encoder(image)
        bordered = reflect_border(image, 1).to(context.dtype)
        features = self.color_reconstruction(bordered) * context
        powers = torch.stack([head(features) for head in self.heads], dim=1)
        wide = torch.promote_types(powers.dtype, torch.float32)
        return powers.to(wide).clamp_min(0), scores[..., 0, 0].to(wide).softmax(dim=1)

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        if not self.mosaic:
            return self._mix(*self.powers(image))
        height, width = image.shape[-2:]
        return unpack_mosaic(self._mix(*self.powers(pad_to_multiple(image, 2))))[..., :height, :width]

    def losses(self, image: Tensor, raw: Tensor, generator: torch.Generator) -> Tensor:
        """As published, of each head and of the mixture; see `SRGBToRAWNetwork.losses`.

            L = mean_g hardlog(head_g - RAW ** gamma_g) + hardlog(RAW' - RAW),    hardlog d = -log(1 - min(|d|, 1))

        with 1e-6 inside the logarithm. That RAW is 1e-6 at least for its powers, so that black is none of the heads'
        limits, is ours.
        """
        if self.mosaic:
            image, raw = pad_to_multiple(image, 2), pack_mosaic(pad_to_multiple(raw, 2))
        powers, shares = self.powers(image)
        wanted = raw.to(powers.dtype).clamp_min(_DARKEST)[:, None] ** self._gammas(powers)
        return _hardlog(powers - wanted) + _hardlog(self._mix(powers, shares) - raw)

    def _gammas(self, powers: Tensor) -> Tensor:
        return powers.new_tensor(self.gammas)[:, None, None, None]

    def _mix(self, powers: Tensor, shares: Tensor) -> Tensor:
        return (shares[..., None, None, None] * powers ** (1 / self._gammas(powers))).sum(1)


def _context(kind: str, numbers: int, thumbnail: int, start: float) -> ParameterEncoder | _ResNetContext:
    if kind == "resnet18":
        return _ResNetContext(numbers, thumbnail)
    encoder = ParameterEncoder(numbers, (1, 1), thumbnail)
    nn.init.constant_(encoder.head.bias, start)  # type: ignore[arg-type]  # it has one
    return encoder


def _hardlog(difference: Tensor) -> Tensor:
    """The published penalty, (N, ...) -> means (N,)."""
    return -(1 - difference.abs().clamp_max(1) + 1e-6).log().flatten(1).mean(1)
