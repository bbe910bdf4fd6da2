"""A small simulated camera: sRGB photographs to demosaiced RAW images, or to badly lit sRGB ones.

The chain, in the order of the physics: light (exposure, fall-off towards the edges), sensor colours (a 3x3 mixture of
linear sRGB, then the illuminant's and the sensor's channel gains, which nothing undoes), saturation, black-level
residue, noise. It is not the family of functions that f_ISP inverts: see `semiisp_plugin.simulation`.

Everything random is drawn first, by `SimulatedCamera.draw_capture`; `expose` and `darken` are functions of the image
and the `Capture` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiisp_plugin.simulation.colour import illuminant_white, linear_to_srgb, srgb_to_linear

_D65 = 6504.0

Range = tuple[float, float]


@dataclass(frozen=True)
class Sensor:
    """Colour response of a sensor.

    Attributes:
        matrix: Linear sRGB to sensor RGB, rows summing to 1 (neutral under D65 stays neutral). Its off-diagonal
            entries are the overlap of the colour filters.
        sensitivity: Relative response of the (red, green, blue) pixels to white under D65, green = 1.
    """

    matrix: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
    sensitivity: tuple[float, float, float]


# Invented, not measured: each has the usual traits (green sees everything and is the most sensitive, blue overlaps with
# green more than with red), in the proportions of the colour matrices that raw converters carry.
SENSORS: dict[str, Sensor] = {
    "full_frame": Sensor(((0.58, 0.34, 0.08), (0.12, 0.72, 0.16), (0.03, 0.24, 0.73)), (0.52, 1.0, 0.68)),
    "compact": Sensor(((0.50, 0.40, 0.10), (0.16, 0.66, 0.18), (0.04, 0.30, 0.66)), (0.60, 1.0, 0.58)),
    "studio": Sensor(((0.66, 0.28, 0.06), (0.09, 0.78, 0.13), (0.02, 0.19, 0.79)), (0.46, 1.0, 0.75)),
    "old_ccd": Sensor(((0.70, 0.22, 0.08), (0.15, 0.75, 0.10), (0.06, 0.16, 0.78)), (0.72, 1.0, 0.90)),
}


@dataclass(frozen=True)
class Capture:
    """One exposure's drawn values; the whole difference between two captures of one scene.

    Attributes:
        sensor: Key of `SENSORS`.
        temperature: Of the light, Kelvin.
        tint: Of the light, Duv (see `illuminant_white`).
        exposure: Stops; at 0 the photograph's white is the sensor's white.
        dark_exposure: Stops, for `darken`.
        knee: Where the sensor starts to saturate, as a share of its white.
        black: Residue of the black level per channel, as a share of white.
        shot: Variance of the photon noise per unit of signal, in units of white.
        read: Variance of the read-out noise, in units of white squared.
        fall_off: Strength s of the light fall-off: the far corner gets 1 / (1 + s)^2 of the light.
        centre: Optical centre ``(y, x)``, 0 being the image's centre and 1 its edge.
        balance_error: Share of the illuminant's colour that white balance failed to remove, for `darken`.
        noise_seed: Seeds the noise of this capture.
    """

    sensor: str = "full_frame"
    temperature: float = _D65
    tint: float = 0.0
    exposure: float = 0.0
    dark_exposure: float = -3.0
    knee: float = 0.85
    black: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shot: float = 0.0
    read: float = 0.0
    fall_off: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    balance_error: float = 0.0
    noise_seed: int = 0


@dataclass(frozen=True)
class SimulatedCamera:
    """Ranges that captures are drawn from, each uniformly between its two ends (noise: uniformly in its logarithm).

    Attributes:
        sensors: Keys of `SENSORS`; one is drawn a capture.
        temperature: Kelvin; drawn uniformly in 1/K, in which equal steps look equal.
        tint: Duv.
        exposure: Stops, for `expose`.
        dark_exposure: Stops, for `darken`.
        knee: Start of saturation, in (0, 1).
        black: Black-level residue, each channel its own.
        shot: Photon noise (see `Capture`), above 0; ``(0, 0)`` for none.
        read: Read-out noise (see `Capture`), above 0; ``(0, 0)`` for none.
        fall_off: Light fall-off.
        centre: Offset of the optical centre on each axis.
        balance_error: See `Capture`.
    """

    sensors: tuple[str, ...] = tuple(SENSORS)
    temperature: Range = (3500.0, 7500.0)
    tint: Range = (-0.006, 0.010)
    exposure: Range = (-1.5, -0.25)
    dark_exposure: Range = (-4.5, -3.0)
    knee: Range = (0.75, 0.92)
    black: Range = (0.0, 0.002)
    shot: Range = (2e-5, 2e-4)
    read: Range = (1e-7, 2e-6)
    fall_off: Range = (0.0, 0.3)
    centre: Range = (-0.4, 0.4)
    balance_error: Range = (0.1, 0.4)

    def draw_capture(self, generator: torch.Generator) -> Capture:
        """Draw one capture.

        Args:
            generator: Its state alone decides the result, and advances by the same amount for every camera.
        """
        units = torch.rand(15, generator=generator, device=generator.device, dtype=torch.float64).tolist()
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))

        def between(bounds: Range, unit: float) -> float:
            return bounds[0] + (bounds[1] - bounds[0]) * unit

        def between_logarithms(bounds: Range, unit: float) -> float:
            return bounds[0] * (bounds[1] / bounds[0]) ** unit if bounds[0] > 0 else 0.0

        return Capture(
            sensor=self.sensors[int(units[0] * len(self.sensors))],
            temperature=1 / between((1 / self.temperature[0], 1 / self.temperature[1]), units[1]),
            tint=between(self.tint, units[2]),
            exposure=between(self.exposure, units[3]),
            dark_exposure=between(self.dark_exposure, units[4]),
            knee=between(self.knee, units[5]),
            black=(between(self.black, units[6]), between(self.black, units[7]), between(self.black, units[8])),
            shot=between_logarithms(self.shot, units[9]),
            read=between_logarithms(self.read, units[10]),
            fall_off=between(self.fall_off, units[11]),
            centre=(between(self.centre, units[12]), between(self.centre, units[13])),
            balance_error=between(self.balance_error, units[14]),
            noise_seed=seed,
        )


def expose(image_srgb: Tensor, capture: Capture) -> Tensor:
    """Take a RAW image of the scene that a photograph shows.

    Args:
        image_srgb: ``(N, 3, H, W)``, sRGB in [0, 1].
        capture: What `SimulatedCamera.draw_capture` returned.

    Returns:
        ``(N, 3, H, W)``, demosaiced linear RAW in [0, 1], channels R, G, B: no white balance, no colour correction.
    """
    light = srgb_to_linear(image_srgb) * 2.0**capture.exposure
    light = light * fall_off(light.shape[-2], light.shape[-1], capture).to(light)
    sensor = SENSORS[capture.sensor]
    matrix = torch.tensor(sensor.matrix, dtype=torch.float64)
    gains = channel_gains(capture) * torch.tensor(sensor.sensitivity, dtype=torch.float64)
    signal = torch.einsum("cd,ndhw->nchw", (gains[:, None] * matrix).to(light), light)
    return _read_out(saturate(signal, capture.knee), capture)


def darken(image_srgb: Tensor, capture: Capture) -> Tensor:
    """Show the photograph as an under-exposed 8-bit sRGB picture with poor white balance.

    The camera's own processing is taken to be done, badly: the sensor's colours are corrected, the exposure is
    ``capture.dark_exposure`` and ``capture.balance_error`` of the illuminant's colour remains.

    Args:
        image_srgb: ``(N, 3, H, W)``, sRGB in [0, 1].
        capture: What `SimulatedCamera.draw_capture` returned.

    Returns:
        ``(N, 3, H, W)``, sRGB, multiples of 1/255 in [0, 1].
    """
    light = srgb_to_linear(image_srgb) * 2.0**capture.dark_exposure
    light = light * fall_off(light.shape[-2], light.shape[-1], capture).to(light)
    cast_of_light = channel_gains(capture) ** capture.balance_error
    signal = light * cast_of_light.to(light).view(1, 3, 1, 1)
    dark = _read_out(saturate(signal, capture.knee), capture)
    return (linear_to_srgb(dark) * 255).round() / 255


def channel_gains(capture: Capture) -> Tensor:
    """Response of the sensor's channels to white under the capture's light, relative to D65, green = 1.

    Returns:
        ``(3,)`` float64, > 0.
    """
    matrix = torch.tensor(SENSORS[capture.sensor].matrix, dtype=torch.float64)
    response = matrix @ illuminant_white(capture.temperature, capture.tint) / (matrix @ illuminant_white(_D65))
    return response / response[1]


def fall_off(height: int, width: int, capture: Capture) -> Tensor:
    """Share of the light that reaches each pixel: the cos^4 law, 1 / (1 + s r^2)^2.

    Returns:
        ``(H, W)`` float64 in (0, 1]; r is the distance from the optical centre in half diagonals of a square image.
    """
    y = torch.linspace(-1, 1, height, dtype=torch.float64) - capture.centre[0]
    x = torch.linspace(-1, 1, width, dtype=torch.float64) - capture.centre[1]
    return (1 + capture.fall_off * (y[:, None] ** 2 + x[None, :] ** 2) / 2) ** -2


def saturate(signal: Tensor, knee: float) -> Tensor:
    """Sensor saturation: linear up to the knee, then exponentially towards 1, with no kink.

    Args:
        signal: Any shape, >= 0.
        knee: In (0, 1).

    Returns:
        Same shape, in [0, 1].
    """
    room = 1 - knee
    return torch.where(signal <= knee, signal, 1 - room * torch.exp(-(signal - knee).clamp_min(0) / room))


def _read_out(signal: Tensor, capture: Capture) -> Tensor:
    black = torch.tensor(capture.black, dtype=signal.dtype, device=signal.device).view(1, 3, 1, 1)
    signal = black + (1 - black) * signal
    if capture.shot or capture.read:
        generator = torch.Generator().manual_seed(capture.noise_seed)
        noise = torch.randn(signal.shape, generator=generator).to(signal)
        signal = signal + (capture.shot * signal + capture.read).sqrt() * noise
    return signal.clamp(0, 1)
