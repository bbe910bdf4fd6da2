"""The loss of normalising flows: how unlikely the target is, a number a sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from semiisp_plugin import plugins
from semiisp_plugin.archs.flow import act_norms_are_fitted, fit_act_norms
from semiisp_plugin.losses.per_sample import full_precision
from semiisp_plugin.registry import ARCH_REGISTRY


class Likelihood:
    """``train: likelihood``: the negative log-likelihood that a flow gives the targets.

    Such a network says so in its class's attribute ``gives_likelihood``; called with ``image, target, noise,
    true_colours``, it gives a number a sample, see `semiisp_plugin.archs.llflow_arch.LLFlow.forward`.

    Args:
        network: The network, without a parallel wrapper.
        weight: Factor of the loss.
        true_colours: How often the latent's mean is of the target's own colours. It is drawn for a batch, not for a
            sample (ours): the filter compares samples, and those with their own colours are likelier.

    Raises:
        ValueError: The network gives no likelihood; the message names those that do.
    """

    def __init__(self, network: nn.Module, weight: float = 1.0, true_colours: float = 0.2) -> None:
        if not getattr(network, "gives_likelihood", False):
            raise ValueError(
                f"train:likelihood: network_g ({type(network).__name__}) gives no likelihood. Leave the section out, "
                f"and give pixel_opt, or take a network that does: {', '.join(networks_with_likelihood())}."
            )
        self.weight = weight
        self.true_colours = true_colours

    def __call__(
        self,
        network: Callable[..., Tensor],
        image: Tensor,
        target: Tensor,
        generator: torch.Generator,
        of_batch: torch.Generator,
    ) -> Tensor:
        """The loss of each sample, ``(N,)`` float32.

        A target that is not finite has the loss NaN, and is kept out of the network, whose gradient it would spoil.

        Args:
            network: With its wrappers; what calls it will do.
            image: ``(N, C, H, W)``.
            target: Of that shape.
            generator: Of the noise; on their device.
            of_batch: Of whether colours are the target's; on the CPU, the same in all processes.
        """
        usable = torch.isfinite(target).flatten(1).all(1)
        target = torch.where(usable.view(-1, 1, 1, 1), target, 0)
        noise = torch.rand(target.shape, generator=generator, device=target.device)
        # Held-out pairs, which are compared with many batches, are seen as in validation.
        share = self.true_colours if torch.is_grad_enabled() else 0.0
        true_colours = (torch.rand((), generator=of_batch) < share).to(target.device, non_blocking=True)
        losses = full_precision(network(image, target, noise, true_colours))
        return self.weight * torch.where(usable, losses, torch.nan)

    def fit(
        self,
        network: nn.Module,
        image: Tensor,
        target: Tensor,
        generator: torch.Generator,
        of_batch: torch.Generator,
    ) -> bool:
        """Fit the network's `ActNorm`s to a batch; nothing where that was done, or weights of a training were loaded.

        Values that are not finite count as 0.

        Args:
            network: Without wrappers.
            image: As of a call.
            target: As of a call.
            generator: As of a call.
            of_batch: As of a call.

        Returns:
            Whether they were fitted now.
        """
        if act_norms_are_fitted(network):
            return False
        image, target = (torch.nan_to_num(x, 0, 0, 0) for x in (image, target))
        fit_act_norms(network, lambda: self(network.forward, image, target, generator, of_batch))
        return True


def networks_with_likelihood() -> list[str]:
    """Names of the registered networks that `Likelihood` is for."""
    plugins.register()
    return sorted(name for name, network in ARCH_REGISTRY if getattr(network, "gives_likelihood", False))
