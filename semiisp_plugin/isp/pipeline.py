"""The composed ISP of invertible functions and its inverse (eqs 2, 3, 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.gamma_inverse import gamma_tone_map_inverse
from semiisp_plugin.isp.parameters import ISPSpec

_Parameters = dict[str, dict[str, Tensor]]

# Values of an image handled at a time on a CPU when no gradient is asked for: the maps in between then stay in the
# cache, which makes the chain two to three times faster.
_STRIP = 32_768


class InverseResult(NamedTuple):
    """A reconstructed input.

    Attributes:
        image: ``(N, 3, H, W)``, clamped to [0, 1].
        unclamped: The same before that last clamp; with inverse tone mapping, which needs [0, 1] itself, the image.
        clipped: ``(N,)``, share of values that any clamp changed.
    """

    image: Tensor
    unclamped: Tensor
    clipped: Tensor


class InvertibleISP:
    """f_ISP = f_CS o f_GM o f_GA o f_CC (eq. 3), with f_IT first for image enhancement (Sec. 3.5).

    Stateless: images and parameter sets in, images out. Clamping is the one thing that cannot be undone; it happens
    where a function needs [0, 1] and its input may lie outside: after f_CC going forward, before f_IT^-1 (or before
    the result, without f_IT) going back. The paper is silent on it.

    Args:
        spec: What the ISP consists of.
    """

    def __init__(self, spec: ISPSpec) -> None:
        self.spec = spec
        self._base = torch.tensor(spec.base_matrix, dtype=torch.float64)

    def forward(self, image: Tensor, parameters: Tensor) -> Tensor:
        """RAW (or degraded sRGB) to sRGB.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            parameters: ``(N, K, h, w)``; a grid larger than 1x1 is interpolated to the image.

        Returns:
            ``(N, 3, H, W)`` in [0, 1].
        """
        return _in_strips(self._forward, image, self._at(parameters, image))

    def _forward(self, image: Tensor, p: _Parameters) -> Tensor:
        if self.spec.inverse_tone_mapping:
            image = fn.inverse_tone_map(image, **p["it"], sign=self.spec.it_sign)
        image = fn.colour_correction(image, p["cc"]["o"], p["cc"]["gain"], self._base.to(image)).clamp(0, 1)
        image = fn.contrast_stretch(image, **p["ga"])
        image = fn.gamma_tone_map(image, **p["gm"])
        return fn.contrast_stretch(image, **p["cs"])

    def inverse(self, image: Tensor, parameters: Tensor) -> InverseResult:
        """sRGB to RAW (or degraded sRGB), eq. 6, with the exact inverse of every function.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            parameters: ``(N, K, h, w)``.
        """
        p = self._at(parameters, image)
        return self._emit(_in_strips(self._inverse_curves, image, p), p)

    def inverse_uint8(self, image: Tensor, parameters: Tensor) -> InverseResult:
        """`inverse` of an 8-bit image with global parameters, several times faster.

        The per-channel functions of one parameter set turn 256 values into 256 values: they are computed once and
        looked up. The result equals ``inverse(image / 255, parameters)`` to rounding.

        Args:
            image: ``(N, 3, H, W)`` uint8.
            parameters: ``(N, K, 1, 1)``.
        """
        if image.dtype != torch.uint8 or tuple(parameters.shape[2:]) != (1, 1):
            raise ValueError(
                f"inverse_uint8 takes uint8 images and (N, K, 1, 1) parameters, not {image.dtype} and "
                f"{tuple(parameters.shape)}; use inverse()."
            )
        p = self.spec.split(parameters)
        levels = torch.linspace(0, 1, 256, dtype=torch.float64, device=parameters.device)
        levels = levels.to(parameters.dtype).expand(len(image), 3, 1, 256)
        curve = self._inverse_curves(levels, p).flatten(2)
        looked_up = curve.gather(2, image.flatten(2).to(torch.int64)).view(image.shape)
        return self._emit(looked_up, p)

    def _inverse_curves(self, image: Tensor, p: _Parameters) -> Tensor:
        image = fn.contrast_stretch_inverse(image, **p["cs"])
        image = gamma_tone_map_inverse(image, **p["gm"])
        return fn.contrast_stretch_inverse(image, **p["ga"])

    def _inverse_colour(self, image: Tensor, p: _Parameters) -> Tensor:
        return fn.colour_correction_inverse(image, p["cc"]["o"], p["cc"]["gain"], self._base.to(image))

    def _inverse_tone(self, image: Tensor, p: _Parameters) -> Tensor:
        return fn.inverse_tone_map_inverse(image, **p["it"], sign=self.spec.it_sign)

    def _emit(self, image: Tensor, p: _Parameters) -> InverseResult:
        raw = _in_strips(self._inverse_colour, image, p)
        clamped = raw.clamp(0, 1)
        clipped = (clamped != raw).flatten(1).float().mean(1)
        if self.spec.inverse_tone_mapping:
            clamped = raw = _in_strips(self._inverse_tone, clamped, p)
        return InverseResult(clamped, raw, clipped)

    def _at(self, parameters: Tensor, image: Tensor) -> _Parameters:
        """Split the sets, each brought to the image's size: values are interpolated after squashing.

        A mixture of values in a convex domain stays in it; that is why the matrix is kept as off-diagonals and gains.
        """
        if len(parameters) != len(image):
            raise ValueError(f"{len(parameters)} parameter sets for {len(image)} images: give one set an image.")
        if tuple(parameters.shape[2:]) != (1, 1):
            parameters = F.interpolate(parameters, size=image.shape[2:], mode="bilinear", align_corners=False)
        return self.spec.split(parameters)


def _in_strips(function: Callable[[Tensor, _Parameters], Tensor], image: Tensor, p: _Parameters) -> Tensor:
    """Apply a pixel-wise function to rows of the image at a time, where that is faster; the result is the same."""
    tensors = [v for group in p.values() for v in group.values()]
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (image, *tensors))
    if image.device.type != "cpu" or needs_gradient or image.numel() <= _STRIP:
        return function(image, p)
    rows = max(1, _STRIP // (image.numel() // image.shape[2]))
    strips = []
    for top in range(0, image.shape[2], rows):
        part = {
            name: {k: v if v.shape[2] == 1 else v[:, :, top : top + rows] for k, v in group.items()}
            for name, group in p.items()
        }
        strips.append(function(image[:, :, top : top + rows], part))
    return torch.cat(strips, dim=2)
