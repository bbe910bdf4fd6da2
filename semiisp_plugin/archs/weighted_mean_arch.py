"""The weighted mean of several networks' outputs, as one network (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.image_network import ImageNetwork
from semiisp_plugin.registry import ARCH_REGISTRY, register

_Weights = Annotated[Sequence[Annotated[float, Meta(ge=0, le=1)]], Meta(min_length=1)]


@register(ARCH_REGISTRY)
class WeightedMean(ImageNetwork):
    """Several networks of different mistakes: their mean is often better than any of them.

    Where all of them decide by the whole image and are applied in parts, so is their mean (``prepare`` and
    ``apply_prepared``, see `semiisp_plugin.archs.image_network.PreparedNetwork`).

    Args:
        networks: A section of an option file for each, with its ``type``.
        weights: One for each; their sum is 1.
    """

    def __init__(self, networks: Sequence[dict[str, Any]], weights: _Weights) -> None:
        super().__init__()
        if len(networks) != len(weights):
            raise ValueError(f"{len(networks)} networks have {len(weights)} weights; give one for each.")
        if abs(sum(weights) - 1) > 1e-3:
            raise ValueError(f"the weights' sum is {sum(weights):g}; it must be 1.")
        self.weights = [float(weight) for weight in weights]
        self.networks = nn.ModuleList(_built(section, place) for place, section in enumerate(networks))
        if all(callable(getattr(network, "apply_prepared", None)) for network in self.networks):
            self.prepare = self._prepare
            self.apply_prepared = self._apply_prepared

    def _prepare(self, image: Tensor) -> list[Any]:
        return [network.prepare(image) for network in self.networks]  # type: ignore[operator]  # theirs, not a module

    def _apply_prepared(self, tile: Tensor, context: list[Any], box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        return self._mean(
            [
                network.apply_prepared(tile, prepared, box, size)  # type: ignore[operator]  # as above
                for network, prepared in zip(self.networks, context, strict=True)
            ]
        )

    def _mean(self, outputs: Sequence[Tensor]) -> Tensor:
        return torch.stack([weight * out.clamp(0, 1) for weight, out in zip(self.weights, outputs, strict=True)]).sum(0)

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        return self._mean([network(image) for network in self.networks])


def _built(section: dict[str, Any], place: int) -> nn.Module:
    if not isinstance(section, dict) or not isinstance(section.get("type"), str):
        raise ValueError(f"network {place + 1} has no type; write it as {{type: PQDynamicISP, grid: [2, 2]}}.")
    if section["type"] not in ARCH_REGISTRY:
        raise ValueError(f"network {place + 1}: no network '{section['type']}' is registered.")
    network = ARCH_REGISTRY.get(section["type"])(**{key: value for key, value in section.items() if key != "type"})
    assert isinstance(network, nn.Module)
    return network
