"""Parameter sets fitted to the labelled pairs themselves (ours).

The encoder's sets, which the paper saves, are predictions: where the pairs are too many to be learned by heart, they
shrink towards the mean, as predictions do, and pseudo inputs made with them vary less than real inputs. The sets that
turn each labelled input into its target vary as the pairs do.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.isp import InvertibleISP, ParameterBank

_THUMBNAIL = (32, 24)  # width, height: global sets know no places, and area averaging quiets noise
_STARTS = 64


def fit_parameter_sets(
    isp: InvertibleISP,
    bank: ParameterBank,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    steps: int = 200,
    rate: float = 0.05,
    pull: float = 1e-3,
) -> ParameterBank:
    """Fit one global parameter set to each pair.

    Of the bank's sets (64 evenly chosen ones, if it has more) the best for a pair is the start; Adam on the free
    numbers minimises the mean square error, with a pull towards the start for what the pair does not determine.

    Args:
        isp: f_ISP's functions.
        bank: Global sets of phase 1.
        pairs: Inputs and targets, float RGB (H, W, 3) in [0, 1], of any sizes.
        steps: Of Adam.
        rate: Its learning rate, in free numbers (`ISPSpec.squash`).
        pull: Weight of the mean squared distance from the start, in free numbers.

    Returns:
        A bank with one global set a pair, in their order.

    Raises:
        ValueError: There is no pair, or the bank is empty or local.
    """
    if not pairs:
        raise ValueError("There are no pairs to fit parameter sets to.")
    if len(bank) == 0 or bank.grid != (1, 1):
        raise ValueError("Fitting starts from the global sets of phase 1; the bank given is empty or local.")
    inputs, targets = (torch.stack([_thumbnail(pair[k]) for pair in pairs]) for k in (0, 1))
    start = isp.spec.unsquash(_best_of(isp, bank, inputs, targets))
    free = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        output = isp.forward(inputs, isp.spec.squash(free))
        # A sum over the pairs: each is fitted as if alone.
        loss = ((output - targets) ** 2).mean((1, 2, 3)).sum() + pull * ((free - start) ** 2).mean((1, 2, 3)).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()
    fitted = ParameterBank(isp.spec, len(pairs))
    fitted.append(isp.spec.squash(free.detach()))
    return fitted


@torch.no_grad()
def _best_of(isp: InvertibleISP, bank: ParameterBank, inputs: Tensor, targets: Tensor) -> Tensor:
    sets = bank.sets
    sets = sets[torch.linspace(0, len(sets) - 1, min(_STARTS, len(sets))).round().long()]
    errors = [
        ((isp.forward(inputs, one[None].expand(len(inputs), -1, -1, -1)) - targets) ** 2).mean((1, 2, 3))
        for one in sets
    ]
    return sets[torch.stack(errors).argmin(0)]


def _thumbnail(image: np.ndarray) -> Tensor:
    small = cv2.resize(image.astype(np.float32), _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(small)).permute(2, 0, 1)
