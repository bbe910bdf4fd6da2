"""Updating sRGB quality and one-to-many sRGB-to-RAW: the three steps of Fig. 3(b)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.archs.srgb_to_raw import Generators
from semiisp_plugin.isp import InverseResult
from semiisp_plugin.pseudo.sources import BankInverse, NetworkInverse, SRGBToRAW, check_same_isp


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

    Other sRGB-to-RAW methods can take the place of f_ISP^-1 (Table 3); step 2 is always f_ISP's.

    Args:
        network: f_ISP with local control, for step 2.
        first: sRGB-to-RAW of step 1; the paper's: `BankInverse` with the global sets.
        second: sRGB-to-RAW of step 3, None for that of step 1. The paper's: below 1,000 pairs the same as in step 1,
            from 1,000 on `BankInverse` with the local sets, drawn per function.
        update_quality: False skips steps 1 and 2: the photograph itself is the ground truth (ablation of Table 2).
        candidates: How many inputs step 3 makes of each pseudo ground truth; the one that f_ISP turns back into it with
            the least mean square error is kept (ours; the paper makes one). A set is drawn whatever the picture shows,
            and some inputs are of a kind that no camera takes of such a scene; f_ISP has learned what goes together.

    Raises:
        ValueError: A source inverts another ISP than the network's; or ``candidates`` is less than 1.
    """

    def __init__(
        self,
        network: PQDynamicISP,
        first: SRGBToRAW,
        second: SRGBToRAW | None = None,
        *,
        update_quality: bool = True,
        candidates: int = 1,
    ) -> None:
        if candidates < 1:
            raise ValueError(f"candidates: {candidates} inputs of each ground truth cannot be made; give at least 1.")
        self.network = network.eval()
        self.first = first
        self.second = first if second is None else second
        self.update_quality = update_quality
        self.candidates = candidates
        for source in (self.first, self.second):
            if isinstance(source, BankInverse):
                check_same_isp(source, network.spec)

    def to(self, device: torch.device | str) -> PseudoPairGenerator:
        """Move all networks; returns itself."""
        self.network.to(device)
        for source in (self.first, self.second):
            if isinstance(source, NetworkInverse):
                source.network.to(device)
        return self

    @torch.no_grad()
    def generate(self, photographs: Tensor, generator: Generators) -> PseudoPair:
        """Make one pseudo pair of each photograph.

        Args:
            photographs: ``(N, 3, H, W)`` uint8.
            generator: One CPU generator, or one for each photograph: the same photographs and states give the same
                pairs.
        """
        return self.generate_input(self.generate_target(photographs, generator), generator)

    @torch.no_grad()
    def generate_target(self, photographs: Tensor, generator: Generators) -> Tensor:
        """Steps 1 and 2 alone: a pseudo ground truth of each photograph, both ``(N, 3, H, W)`` uint8."""
        if not self.update_quality:
            return photographs
        raw = self.first.invert(photographs, generator).image
        return (self.network(raw) * 255).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def generate_input(self, target: Tensor, generator: Generators) -> PseudoPair:
        """Step 3 alone: a pseudo input for a pseudo ground truth, ``(N, 3, H, W)`` uint8."""
        made = self.second.invert(target, generator)
        if self.candidates == 1:
            return PseudoPair(target, made.image, made.clipped)
        error = self._error(made.image, target)
        for _ in range(self.candidates - 1):
            other = self.second.invert(target, generator)
            its_error = self._error(other.image, target)
            better = its_error < error
            error = torch.where(better, its_error, error)
            made = InverseResult(
                torch.where(better[:, None, None, None], other.image, made.image),
                torch.where(better, other.clipped, made.clipped),
            )
        return PseudoPair(target, made.image, made.clipped)

    def _error(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean square error, ``(N,)``, of what f_ISP makes of an input."""
        error = (self.network(image) - target.float() / 255).square().mean((1, 2, 3))
        return error.nan_to_num(nan=torch.inf)  # no comparison holds for NaN: the first candidate could not lose
