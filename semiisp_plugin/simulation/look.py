"""Retouching looks: what an expert's hand does to an ordinary photograph, as one fixed function of the image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semiisp_plugin.simulation.colour import LUMA

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """A retouching look: tone curve, then saturation and vibrance, then split toning.

    Attributes:
        curve: Points (x, y) of the tone curve, from (0, 0) to (1, 1), both strictly increasing; a monotone cubic runs
            through them. The same curve is applied to R, G and B, which also deepens colours where it is steep.
        saturation: Change of all colours' distance from grey, > -1: 0.2 is a fifth more.
        vibrance: Further change, in full for nearly grey colours and fading to none for pure ones, >= 0.
        shadow_tint: Added to R, G, B, most strongly in the shadows (luma 1/4) and not at all at black and white.
        highlight_tint: The same for the highlights (luma 3/4).
    """

    curve: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))
    saturation: float = 0.0
    vibrance: float = 0.0
    shadow_tint: Colour = (0.0, 0.0, 0.0)
    highlight_tint: Colour = (0.0, 0.0, 0.0)


NEUTRAL_LOOK = Look()
"""Changes nothing."""

DEFAULT_LOOK = Look(
    curve=((0.0, 0.0), (0.08, 0.05), (0.25, 0.28), (0.5, 0.595), (0.75, 0.83), (0.92, 0.95), (1.0, 1.0)),
    saturation=-0.05,
    vibrance=0.4,
    shadow_tint=(-0.07, 0.012, 0.08),
    highlight_tint=(0.075, 0.018, -0.11),
)
"""Brighter middle tones over firm blacks, livelier colours, warm highlights and cool shadows."""

LOOKS: dict[str, Look] = {
    "default": DEFAULT_LOOK,
    "neutral": NEUTRAL_LOOK,
    # Faded: blacks lifted but for the deepest, whites held back, paler colours, green shadows and yellow highlights.
    "film": Look(
        curve=((0, 0), (0.02, 0.09), (0.1, 0.17), (0.25, 0.3), (0.5, 0.57), (0.75, 0.78), (0.95, 0.89), (1, 1)),
        saturation=-0.15,
        vibrance=0.15,
        shadow_tint=(-0.04, 0.04, 0.03),
        highlight_tint=(0.05, 0.02, -0.08),
    ),
    # Strong contrast and strong colours, no tint.
    "punchy": Look(
        curve=((0, 0), (0.1, 0.05), (0.25, 0.19), (0.5, 0.56), (0.75, 0.86), (0.9, 0.96), (1, 1)),
        saturation=0.1,
        vibrance=0.35,
    ),
    # Low contrast, pale, blue throughout.
    "cool_matte": Look(
        curve=((0, 0), (0.02, 0.08), (0.15, 0.21), (0.4, 0.42), (0.7, 0.69), (0.95, 0.89), (1, 1)),
        saturation=-0.35,
        shadow_tint=(-0.035, 0.0, 0.06),
        highlight_tint=(-0.03, 0.005, 0.03),
    ),
}
"""Looks by name. The names are those of editing programs, the values invented."""


def apply_look(image_srgb: Tensor, look: Look) -> Tensor:
    """Retouch sRGB images.

    Args:
        image_srgb: ``(N, 3, H, W)``, sRGB in [0, 1].
        look: What to do.

    Returns:
        ``(N, 3, H, W)``, sRGB in [0, 1]. Black stays black and white stays white.
    """
    image = tone_curve(image_srgb, look.curve)
    if look.saturation or look.vibrance:
        image = _change_saturation(image, look.saturation, look.vibrance)
    if any(look.shadow_tint) or any(look.highlight_tint):
        image = _split_tone(image, look.shadow_tint, look.highlight_tint)
    return image.clamp(0, 1)


def tone_curve(image: Tensor, points: Sequence[tuple[float, float]]) -> Tensor:
    """Monotone cubic interpolation through points (Fritsch and Butland 1984).

    Args:
        image: Any shape, values in [0, 1].
        points: (x, y) from (0, 0) to (1, 1), both strictly increasing.

    Returns:
        Same shape, in [0, 1]; increasing in the input, with a continuous slope.
    """
    x = [p[0] for p in points]
    y = [p[1] for p in points]
    nodes = torch.tensor([x, y, _slopes(x, y)], dtype=image.dtype, device=image.device)
    # right=True: a value on a node belongs to the piece that starts there; the last node to the last piece.
    piece = (torch.bucketize(image.detach().contiguous(), nodes[0], right=True) - 1).clamp(0, len(points) - 2)
    (x0, y0, m0), (x1, y1, m1) = nodes[:, piece], nodes[:, piece + 1]
    width = x1 - x0
    t = (image - x0) / width
    # Cubic Hermite form, grouped so that two points give the identity exactly.
    s = (y1 - y0) / width
    return y0 + (image - x0) * (m0 + t * ((3 * s - 2 * m0 - m1) + t * (m0 + m1 - 2 * s)))


def _slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Slopes at the nodes that keep the cubic monotone: weighted harmonic means of the neighbouring secants."""
    h = [b - a for a, b in itertools.pairwise(x)]
    d = [(b - a) / w for (a, b), w in zip(itertools.pairwise(y), h, strict=True)]
    if len(d) == 1:
        return [d[0], d[0]]
    inner = []
    for (h0, h1), (d0, d1) in zip(itertools.pairwise(h), itertools.pairwise(d), strict=True):
        w0, w1 = 2 * h1 + h0, h1 + 2 * h0
        inner.append((w0 + w1) / (w0 / d0 + w1 / d1))
    return [_end_slope(h[0], h[1], d[0], d[1]), *inner, _end_slope(h[-1], h[-2], d[-1], d[-2])]


def _end_slope(h0: float, h1: float, d0: float, d1: float) -> float:
    """Three-point slope at an end, held between 0 and three times the secant, beyond which the cubic may turn."""
    return min(max(((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1), 0.0), 3 * d0)


def _luma(image: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def _change_saturation(image: Tensor, saturation: float, vibrance: float) -> Tensor:
    grey = _luma(image)
    chroma = image.amax(1, keepdim=True) - image.amin(1, keepdim=True)
    factor = (1 + saturation) * (1 + vibrance * (1 - chroma) ** 2)
    offset = image - grey
    # The largest factor at which no channel leaves [0, 1]: colours stop at the edge of the gamut and keep their hue.
    limit = torch.where(offset > 0, 1 - grey, grey) / offset.abs().clamp_min(1e-6)
    return grey + offset * torch.minimum(factor, limit.amin(1, keepdim=True))


def _split_tone(image: Tensor, shadow_tint: Colour, highlight_tint: Colour) -> Tensor:
    y = _luma(image).clamp(0, 1)
    # Both weights are 0 at black and at white and at most 1: y (1 - y)^3 peaks at 1/4, y^3 (1 - y) at 3/4.
    peak = 256 / 27
    shadow, highlight = peak * y * (1 - y) ** 3, peak * y**3 * (1 - y)
    tints = torch.tensor([shadow_tint, highlight_tint], dtype=image.dtype, device=image.device).view(2, 1, 3, 1, 1)
    return image + shadow * tints[0] + highlight * tints[1]
