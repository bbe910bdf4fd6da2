"""sRGB-to-RAW methods that can take each other's place in steps 1 and 3 of making pseudo pairs (Table 3)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from semiisp_plugin.archs.srgb_to_raw import Generators, SRGBToRAWNetwork, drawn
from semiisp_plugin.isp import InverseResult, InvertibleISP, ISPSpec, ParameterBank, compiled
from semiisp_plugin.pseudo.places import in_place

_LEVELS = 256


class SRGBToRAW(Protocol):
    """Anything that makes RAW images (or degraded sRGB ones) of sRGB images."""

    def invert(self, image: Tensor, generator: Generators) -> InverseResult:
        """Make one RAW image of each sRGB image.

        Args:
            image: ``(N, 3, H, W)`` uint8.
            generator: One CPU generator, or one for each image; the only source of randomness: the same images and
                states give the same result.

        Returns:
            The images, float32 in [0, 1] on the device of ``image``, and the share of values that were clamped.
        """
        ...


class BankInverse:
    """The paper's one-to-many mapping: f_ISP^-1 with random parameter sets of training (eq. 9).

    Args:
        isp: The ISP to invert, or what it consists of.
        bank: The sets to draw from.
        per_function: Draw each function's set on its own (Sec. 3.2, from 1,000 pairs on), not the whole ISP's.
        backend: See `InvertibleISP.inverse`; ``auto``: exactly, by compiled code or curves where possible.

    Raises:
        ValueError: The bank is of another ISP.
    """

    def __init__(
        self,
        isp: InvertibleISP | ISPSpec,
        bank: ParameterBank,
        per_function: bool = False,
        backend: str = "auto",
    ) -> None:
        self.isp = isp if isinstance(isp, InvertibleISP) else InvertibleISP(isp, check=False)
        self.bank = bank
        self.per_function = per_function
        self.backend = backend
        check_same_isp(self, self.isp.spec)

    def invert(self, image: Tensor, generator: Generators, places: Tensor | None = None) -> InverseResult:
        """See `SRGBToRAW.invert`.

        Args:
            image: ``(N, 3, h, w)`` uint8.
            generator: See there.
            places: ``(N, 2, 3)``, where in their pictures crops lie (`semiisp_plugin.pseudo.places.place_of`); None:
                ``image`` are whole pictures. With sets on a grid, the clamped share of crops is not counted (NaN).
        """
        sets = self.draw(len(image), generator).to(image.device)
        uniform = tuple(sets.shape[2:]) == (1, 1)
        if self.backend == "auto":
            made = compiled.invert_crops(self.isp.spec, image, sets, places)
            if made is not None:
                return InverseResult(*made)
        backend = self.backend if self.backend != "auto" else "curve8" if uniform else "exact"
        if uniform or places is None:
            return self.isp.inverse(image, sets, backend=backend)

        def inverse(crops: Tensor, maps: Tensor) -> Tensor:
            return self.isp.inverse(crops, maps, backend=backend).image

        return InverseResult(in_place(inverse, image, sets, places), torch.full((len(image),), torch.nan))

    def draw(self, n: int, generator: Generators) -> Tensor:
        """Parameter sets for ``n`` images, ``(n, K, h, w)``."""
        return drawn(self._draw, n, generator)

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.bank.draw(n, generator, per_function=self.per_function)


class MixtureInverse(BankInverse):
    """f_ISP^-1 with mixtures of two random parameter sets, in random proportions (ours).

    Few pairs leave sets of few situations. Between them lie others that are as likely: the light of noon and of evening
    make all the lights of the afternoon. The domains of `ISPSpec` are convex, so every mixture is invertible.

    Args: as `BankInverse`.
    """

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        first, second = (super(MixtureInverse, self)._draw(n, generator) for _ in range(2))
        share = torch.rand(n, 1, 1, 1, generator=generator)
        return torch.lerp(first, second, share)


class DeterministicInverse(BankInverse):
    """f_ISP^-1 with one parameter set, the mean of the bank's: a one-to-one mapping (ours).

    It stands for the deterministic learned methods of Table 3 (CycleISP, ReRAW), whose outputs are realistic but lie in
    one place of the real distribution; it is none of them. The domains of `ISPSpec` are convex: the mean is a set of an
    invertible ISP.

    Args:
        isp: See `BankInverse`.
        bank: The sets to average.
        backend: See `BankInverse`.

    Raises:
        ValueError: See `BankInverse`; or the bank is empty.
    """

    def __init__(
        self,
        isp: InvertibleISP | ISPSpec,
        bank: ParameterBank,
        backend: str = "auto",
    ) -> None:
        if len(bank) == 0:
            raise ValueError("The parameter bank is empty: train f_ISP first (phase 1).")
        mean = ParameterBank(bank.spec, 1, bank.grid)
        mean.append(bank.sets.double().mean(0, keepdim=True))
        super().__init__(isp, mean, backend=backend)


def check_same_isp(source: BankInverse, spec: ISPSpec) -> None:
    """Raise ValueError unless a source inverts the ISP that ``spec`` describes, with sets of that ISP."""
    if source.bank.spec != spec or source.isp.spec != spec:
        raise ValueError(
            "The parameter bank and the network belong to different ISPs: take both from the same training run."
        )


class NetworkInverse:
    """A network that was trained to make inputs of targets, in place of f_ISP^-1.

    Args:
        network: In evaluation mode.

    Attributes:
        one_to_one: It makes the same input of a picture whenever it is asked.
    """

    def __init__(self, network: SRGBToRAWNetwork) -> None:
        self.network = network.eval()
        self.one_to_one = type(network).draw is SRGBToRAWNetwork.draw

    def invert(self, image: Tensor, generator: Generators) -> InverseResult:
        """See `SRGBToRAW.invert`.

        Raises:
            ValueError: What it makes is not finite, which as a ground truth would be black.
        """
        with torch.no_grad():
            raw = self.network.draw(image.float() / (_LEVELS - 1), generator).float()
        if not bool(torch.isfinite(raw).all()):
            name = type(self.network).__name__
            raise ValueError(f"{name}, the source of pseudo inputs, makes values that are not finite: train it again.")
        clamped = raw.clamp(0, 1)
        return InverseResult(clamped, (raw != clamped).float().mean((1, 2, 3)))


# --- UPI ------------------------------------------------------------------------------------------------------------

# XYZ to camera RGB of four cameras, as published with the paper.
_XYZ_TO_CAMERA = (
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.6130, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.8380, -0.2630, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.0970, 0.1581, 0.5181)),
)
# Linear sRGB to CIE XYZ (D65), IEC 61966-2-1.
_SRGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_GAMMA = 2.2
_INVERSE_GAIN = (0.8, 0.1)  # mean and standard deviation of a normal distribution
_RED_GAIN = (1.9, 2.4)
_BLUE_GAIN = (1.5, 1.9)
_HIGHLIGHTS = 0.9
_ROUNDING = 1e-6  # white, which the gains leave alone, may end that far beyond 1, and is not clipped


class UPI:
    """UPI: an ISP made by hand, inverted with random settings and without any training.

    "Unprocessing Images for Learned Raw Denoising" (Brooks et al., CVPR 2019), with the numbers of its public code
    (google-research, ``unprocessing``): the inverse of a smoothstep tone curve, gamma expansion, the inverse of a
    random colour matrix, the inverse of random gains, which leaves highlights white. Without its mosaic, because the
    inputs here have three colours a pixel, and without its noise, because eq. 15 adds it.

    For image enhancement the paper gives nothing; ours: no colour matrix, for both pictures are sRGB ones, and after
    the gains gamma and tone curve once more. What comes out is a picture badly exposed and badly balanced.

    Args:
        image_enhancement: Make degraded sRGB images in place of RAW ones.
    """

    def __init__(self, image_enhancement: bool = False) -> None:
        self.image_enhancement = image_enhancement
        levels = torch.arange(_LEVELS, dtype=torch.float64) / (_LEVELS - 1)
        self._linear = inverse_smoothstep(levels).pow(_GAMMA).float()

    def invert(self, image: Tensor, generator: Generators) -> InverseResult:
        """See `SRGBToRAW.invert`."""
        raw = self._linear.to(image.device)[image.int()]
        if not self.image_enhancement:
            matrices = drawn(draw_colour_matrices, len(image), generator).to(raw)
            raw = torch.einsum("nij,njhw->nihw", matrices, raw)
        raw = invert_gains(raw, drawn(draw_gains, len(image), generator).to(raw))
        clamped = raw.clamp(0, 1)
        clipped = ((raw - clamped).abs() > _ROUNDING).float().mean((1, 2, 3))
        if self.image_enhancement:
            encoded = clamped.pow(1 / _GAMMA)
            clamped = encoded * encoded * (3 - 2 * encoded)
        return InverseResult(clamped, clipped)


def inverse_smoothstep(image: Tensor) -> Tensor:
    """The x in [0, 1] of which ``3 x^2 - 2 x^3`` is ``image``, in [0, 1], any shape."""
    return 0.5 - ((1 - 2 * image).asin() / 3).sin()


def draw_colour_matrices(n: int, generator: torch.Generator) -> Tensor:
    """Matrices from linear sRGB to camera RGB, ``(n, 3, 3)``: random convex mixtures of four cameras'.

    The rows sum to 1, so that white stays white.
    """
    weights = torch.rand(n, len(_XYZ_TO_CAMERA), generator=generator, dtype=torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    cameras = torch.einsum("nk,kij->nij", weights, torch.tensor(_XYZ_TO_CAMERA, dtype=torch.float64))
    matrices = cameras @ torch.tensor(_SRGB_TO_XYZ, dtype=torch.float64)
    return (matrices / matrices.sum(2, keepdim=True)).float()


def draw_gains(n: int, generator: torch.Generator) -> Tensor:
    """Gains of the ISP for red, green and blue, ``(n, 3)``: digital gain times white balance."""
    mean, deviation = _INVERSE_GAIN
    digital = 1 / (mean + deviation * torch.randn(n, 1, generator=generator))
    draws = torch.rand(2, n, generator=generator)
    red, blue = (low + (high - low) * u for (low, high), u in zip((_RED_GAIN, _BLUE_GAIN), draws, strict=True))
    return digital * torch.stack((red, torch.ones(n), blue), 1)


def invert_gains(image: Tensor, gains: Tensor) -> Tensor:
    """Divide by the gains, but less and less from a grey of 0.9 on, and not at all at white.

    Otherwise white, which is saturated whatever the gains, would get a colour.

    Args:
        image: ``(N, 3, H, W)``, linear.
        gains: ``(N, 3)``.

    Returns:
        ``(N, 3, H, W)``.
    """
    factors = gains.reciprocal()[:, :, None, None]
    grey = image.mean(1, keepdim=True)
    mask = ((grey - _HIGHLIGHTS).clamp_min(0) / (1 - _HIGHLIGHTS)).square()
    return image * torch.maximum(mask + (1 - mask) * factors, factors)
