"""Colour science the simulated camera stands on: the sRGB curve and the colour of daylight and lamps."""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB -> CIE XYZ, white D65 (IEC 61966-2-1).
SRGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
# Rec. 709 luma weights: the second row of the above.
LUMA = SRGB_TO_XYZ[1]
LOWEST_TEMPERATURE = 1667.0
HIGHEST_TEMPERATURE = 25000.0


def srgb_to_linear(image: Tensor) -> Tensor:
    """Decode sRGB values to linear light (IEC 61966-2-1; a straight piece near black, then a power of 2.4).

    Args:
        image: Any shape, values in [0, 1].

    Returns:
        Same shape, in [0, 1], proportional to light.
    """
    power = ((image.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(image <= 0.04045, image / 12.92, power)


def linear_to_srgb(image: Tensor) -> Tensor:
    """Encode linear light as sRGB values; the inverse of `srgb_to_linear`.

    Args:
        image: Any shape, values in [0, 1].

    Returns:
        Same shape, in [0, 1].
    """
    power = 1.055 * image.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(image <= 0.0031308, image * 12.92, power)


def planckian_xy(temperature: float) -> tuple[float, float]:
    """CIE 1931 chromaticity of a black body, by the cubic approximation of Kim et al. (2002).

    Args:
        temperature: Kelvin, between 1667 and 25000.

    Returns:
        ``(x, y)``.

    Raises:
        ValueError: The temperature is outside the approximation's range.
    """
    if not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        raise ValueError(
            f"colour temperature {temperature:g} K is outside {LOWEST_TEMPERATURE:g}-{HIGHEST_TEMPERATURE:g} K, "
            "the range of the approximation used; choose one inside"
        )
    t = 1e3 / temperature
    if temperature <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if temperature <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif temperature <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return x, y


def illuminant_white(temperature: float, tint: float = 0.0) -> Tensor:
    """Linear sRGB colour of a white surface under a light near the Planckian locus.

    Args:
        temperature: Correlated colour temperature in Kelvin, between 1667 and 25000.
        tint: Distance from the locus in the CIE 1960 (u, v) diagram ("Duv"): positive is greenish, as fluorescent
            tubes are, negative is pinkish. Beyond +-0.02 a light hardly counts as white.

    Returns:
        ``(3,)`` float64, luminance 1. Components may be negative for a strongly coloured light: sRGB cannot show it.
    """
    u, v = _xy_to_uv(*planckian_xy(temperature))
    # The normal of the locus, from a short chord around the point.
    low, high = max(temperature - 5, LOWEST_TEMPERATURE), min(temperature + 5, HIGHEST_TEMPERATURE)
    (u0, v0), (u1, v1) = _xy_to_uv(*planckian_xy(low)), _xy_to_uv(*planckian_xy(high))
    du, dv = u1 - u0, v1 - v0
    length = (du**2 + dv**2) ** 0.5
    # Along the locus towards higher temperatures both u and v fall, so this normal points up, to green.
    u, v = u + tint * dv / length, v - tint * du / length
    x, y = 3 * u / (2 * u - 8 * v + 4), 2 * v / (2 * u - 8 * v + 4)
    xyz = torch.tensor([x / y, 1.0, (1 - x - y) / y], dtype=torch.float64)
    return torch.linalg.solve(torch.tensor(SRGB_TO_XYZ, dtype=torch.float64), xyz)


def _xy_to_uv(x: float, y: float) -> tuple[float, float]:
    scale = -2 * x + 12 * y + 3
    return 4 * x / scale, 6 * y / scale
