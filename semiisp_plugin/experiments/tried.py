"""Ways to better pseudo pairs that benchmarks try, all ours; docs/when_it_helps.md says with what success."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.archs.srgb_to_raw import Generators, drawn
from semiisp_plugin.isp import InverseResult, ParameterBank
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.sources import BankInverse

CROPS = 12
"""Of each labelled image, whose parameter sets `LookalikeInverse` draws from."""


class MeanOutput(nn.Module):
    """The mean of what several networks make of an image."""

    def __init__(self, networks: Sequence[PQDynamicISP]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.spec = networks[0].spec

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to the same."""
        return torch.stack([network(image) for network in self.networks]).mean(0)


def generator_of_folds(generators: Sequence[PseudoPairGenerator]) -> PseudoPairGenerator:
    """One generator of several f_ISPs, each trained without a part of the pairs.

    The parameter sets are drawn from all their banks, and the pseudo ground truth is their mean.
    """
    sources = [g.first for g in generators if isinstance(g.first, BankInverse)]
    bank = ParameterBank(sources[0].bank.spec, sum(len(s.bank) for s in sources))
    for source in sources:
        bank.append(source.bank.sets)
    return PseudoPairGenerator(
        MeanOutput([g.network for g in generators]),  # type: ignore[arg-type]  # does what an f_ISP does
        BankInverse(sources[0].isp, bank),
        update_quality=generators[0].update_quality,
        candidates=generators[0].candidates,
    )


def best_weights(products: np.ndarray) -> list[float]:
    """Weights of several outputs whose weighted mean has the highest mean PSNR.

    Args:
        products: ``(images, outputs, outputs)``: of each image, the mean products of the outputs' errors.

    Returns:
        One weight an output, none negative; their sum is 1.
    """
    count = products.shape[1]

    def loss(weights: np.ndarray) -> float:
        return -float(psnr_of_mean(products, weights).mean())

    starts = [np.full(count, 1 / count), *np.eye(count)]
    sum_is_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    found = [minimize(loss, start, bounds=[(0, 1)] * count, constraints=sum_is_one).x.clip(0, 1) for start in starts]
    best = min(found, key=loss)
    return [float(weight) for weight in best / best.sum()]


def psnr_of_mean(products: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """PSNR in dB of each image's weighted mean of outputs, (images,); see `best_weights`."""
    square_errors = np.einsum("i,kij,j->k", weights, products, weights)
    return -10 * np.log10(square_errors.clip(1e-12))


def look_of(images: Tensor) -> Tensor:
    """What images ``(N, 3, H, W)`` in [0, 1] are like, ``(N, 6)``: mean and spread of the logarithm of each colour."""
    log = (images.clamp_min(0) + 1 / 64).log().flatten(2)
    return torch.cat((log.mean(2), log.std(2)), 1)


class LookalikeInverse(BankInverse):
    """f_ISP^-1 with sets of those labelled images whose targets look most like the photograph.

    Args:
        source: The inverse whose ISP it is.
        network: f_ISP with global control.
        inputs: Labelled inputs, each ``(3, H, W)`` in [0, 1].
        targets: Their targets.
        size: (height, width) of the crops that sets are taken of.
        nearest: How many labelled images a set is drawn from.
    """

    def __init__(
        self,
        source: BankInverse,
        network: PQDynamicISP,
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        size: tuple[int, int],
        nearest: int,
    ) -> None:
        super().__init__(source.isp, source.bank)
        generator = torch.Generator().manual_seed(0)
        crops: list[tuple[Tensor, Tensor]] = []
        for image, target in zip(inputs, targets, strict=True):
            for _ in range(CROPS):
                top, left = (
                    int(torch.randint(max(1, full - side + 1), (), generator=generator))
                    for full, side in zip(image.shape[1:], size, strict=True)
                )
                part = (slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
                crops.append((image[part], target[part]))
        with torch.no_grad():
            self._sets = torch.cat([network.predict_parameters(image[None]) for image, _ in crops])
        self._looks = torch.cat([look_of(target[None]) for _, target in crops])
        self._nearest = min(CROPS * nearest, len(crops))

    def invert(self, image: Tensor, generator: Generators, places: Tensor | None = None) -> InverseResult:
        """See `BankInverse.invert`; ``image`` are whole pictures."""
        distance = (look_of(image.float() / 255)[:, None] - self._looks) / self._looks.std(0)
        near = distance.square().sum(2).topk(self._nearest, dim=1, largest=False).indices

        def draw(n: int, own: torch.Generator) -> Tensor:
            return torch.randint(self._nearest, (n,), generator=own)

        chosen = near.gather(1, drawn(draw, len(image), generator)[:, None])[:, 0]
        return self.isp.inverse(image, self._sets[chosen], backend="curve8")
