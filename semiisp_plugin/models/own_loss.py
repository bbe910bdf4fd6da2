"""The loss that a network brings itself, a number a sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from semiisp_plugin import plugins
from semiisp_plugin.losses.per_sample import full_precision
from semiisp_plugin.registry import ARCH_REGISTRY


class OwnLoss:
    """``train: own_loss``: what a network gives when it is called with ``image, target, generator``.

    Such a network says so in its class's attribute ``gives_loss``; see
    `semiisp_plugin.archs.srgb_to_raw.SRGBToRAWNetwork`.

    Args:
        network: The network, without a parallel wrapper.
        weight: Factor of the loss.

    Raises:
        ValueError: The network brings no loss; the message names those that do.
    """

    def __init__(self, network: nn.Module, weight: float = 1.0) -> None:
        if not getattr(network, "gives_loss", False):
            raise ValueError(
                f"train:own_loss: network_g ({type(network).__name__}) brings no loss of its own. Leave the section "
                f"out, and give pixel_opt, or take a network that does: {', '.join(networks_with_own_loss())}."
            )
        self.weight = weight

    def __call__(
        self, network: Callable[..., Tensor], image: Tensor, target: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The loss of each sample, ``(N,)`` float32.

        A target that is not finite has the loss NaN, and is kept out of the network, whose gradient it would spoil.

        Args:
            network: With its wrappers; what calls it will do.
            image: ``(N, C, H, W)``.
            target: Of that shape.
            generator: For what is drawn; on their device.
        """
        usable = torch.isfinite(target).flatten(1).all(1)
        target = torch.where(usable.view(-1, 1, 1, 1), target, 0)
        losses = full_precision(network(image, target, generator))
        return self.weight * torch.where(usable, losses, torch.nan)


def networks_with_own_loss() -> list[str]:
    """Names of the registered networks that `OwnLoss` is for."""
    plugins.register()
    return sorted(name for name, network in ARCH_REGISTRY if getattr(network, "gives_loss", False))
