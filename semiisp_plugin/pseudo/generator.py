"""Updating sRGB quality and one-to-many sRGB-to-RAW: the three steps of Fig. 3(b)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.isp import InverseResult, InvertibleISP, PaperLUTSettings, ParameterBank


class PseudoPair(NamedTuple):
    """A batch of pseudo pairs.

    Attributes:
        target: Pseudo ground truth, ``(N, 3, H, W)`` uint8.
        input: Pseudo input, ``(N, 3, H, W)`` float32 in [0, 1], without noise.
        clipped: ``(N,)``, share of the pseudo input's values that were clamped.
    """

    target: Tensor
    input: Tensor
    clipped: Tensor


class PseudoPairGenerator:
    """Photographs to pseudo pairs with a trained f_ISP (Sec. 3.1, 3.2, 4.2).

    1. f_ISP^-1 with a random global parameter set turns the photograph into a RAW image (or a degraded sRGB one).
    2. f_ISP with the local encoder's own parameters turns that into an sRGB image of the pairs' quality: the pseudo
       ground truth, rounded to 8 bits as the real ones are.
    3. f_ISP^-1 with another random set gives the pseudo input.

    Args:
        network: f_ISP with local control, for step 2.
        bank: Global parameter sets, for step 1.
        input_bank: Sets for step 3. Below 1,000 pairs the global ones again, from 1,000 on the local ones.
        per_function: Draw step 3's sets per function (from 1,000 pairs on).
        backend: How the ISP is inverted, see `InvertibleISP.inverse`; ``auto``: exactly, by curves where possible.
        lut: For the backend ``paper_lut``.
        update_quality: False skips steps 1 and 2: the photograph itself is the ground truth (ablation of Table 2).

    Raises:
        ValueError: The banks and the network are not of the same ISP.
    """

    def __init__(
        self,
        network: PQDynamicISP,
        bank: ParameterBank,
        input_bank: ParameterBank | None = None,
        *,
        per_function: bool = False,
        update_quality: bool = True,
        backend: str = "auto",
        lut: PaperLUTSettings | None = None,
    ) -> None:
        self.network = network.eval()
        self.bank = bank
        self.input_bank = bank if input_bank is None else input_bank
        self.per_function = per_function
        self.update_quality = update_quality
        self.backend = backend
        self.isp = InvertibleISP(network.spec, lut)
        if bank.spec != network.spec or self.input_bank.spec != network.spec:
            raise ValueError(
                "The parameter bank and the network belong to different ISPs: take both from the same training run."
            )

    @torch.no_grad()
    def generate(self, photographs: Tensor, generator: torch.Generator) -> PseudoPair:
        """Make one pseudo pair of each photograph.

        Args:
            photographs: ``(N, 3, H, W)`` uint8.
            generator: A CPU generator: the same photographs and state give the same pairs.
        """
        target = photographs
        if self.update_quality:
            sets = self.bank.draw(len(photographs), generator).to(photographs.device)
            raw = self._inverse(photographs, sets).image
            target = (self.network(raw) * 255).round().clamp(0, 255).to(torch.uint8)
        return self.generate_input(target, generator)

    @torch.no_grad()
    def generate_input(self, target: Tensor, generator: torch.Generator) -> PseudoPair:
        """Step 3 alone: a pseudo input for a pseudo ground truth, ``(N, 3, H, W)`` uint8."""
        sets = self.input_bank.draw(len(target), generator, per_function=self.per_function).to(target.device)
        inverse = self._inverse(target, sets)
        return PseudoPair(target, inverse.image, inverse.clipped)

    def _inverse(self, image: Tensor, sets: Tensor) -> InverseResult:
        backend = self.backend
        if backend == "auto":
            backend = "curve8" if tuple(sets.shape[2:]) == (1, 1) else "exact"
        return self.isp.inverse(image, sets, backend=backend)
