"""A penalty on what a part of a network gives: the mean of its square, a sample.

SepLUT's "sparsity" term, 1e-4 times the mean square of the weights that mix its 3D tables, is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from semiisp_plugin.losses.per_sample import full_precision, per_sample
from semiisp_plugin.options import nearest

_LISTED = 20


class ActivityPenalty:
    """Takes the outputs of a named module as training goes through it.

    A forward hook that stays on the module notes each output that has a gradient and comes of training mode; neither
    validation nor held-out pairs leave anything.

    Args:
        networks: Networks by the names of their sections; each must have the module.
        module: Its name, as of `torch.nn.Module.named_modules`.
        weight: Factor of the penalty.

    Raises:
        ValueError: A network has no such module; the message names the nearest, or those that there are.
    """

    def __init__(self, networks: Mapping[str, nn.Module], module: str, weight: float = 1e-4) -> None:
        self.module = module
        self.weight = weight
        self._outputs: list[Any] = []
        for key, network in networks.items():
            bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
            found = dict(bare.named_modules())
            if not module or module not in found:
                raise ValueError(
                    f"train:activity_penalty:module: {key} ({type(bare).__name__}) has no module '{module}'"
                    f"{nearest(module, found)} It has: {', '.join([n for n in found if n][:_LISTED])}."
                )
            found[module].register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training and torch.is_grad_enabled():
            self._outputs.append(output)

    def clear(self) -> None:
        """Forget what was noted."""
        self._outputs.clear()

    def take(self, batch_size: int) -> Tensor:
        """The penalty of each sample, ``(N,)`` float32, of what was noted since the last call.

        A module that ran several times counts each time.

        Raises:
            ValueError: It did not run, or gives something else than a tensor ``(N, ...)``.
        """
        outputs, self._outputs = self._outputs, []
        where = f"train:activity_penalty:module: '{self.module}'"
        if not outputs:
            raise ValueError(f"{where} did not run in the network's forward pass; name a module that does.")
        for output in outputs:
            if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != batch_size:
                shape = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"{where} gives {shape}; it has to be a tensor of {batch_size} samples, (N, ...).")
        squares = [per_sample(full_precision(output).square()) for output in outputs]
        return self.weight * torch.stack(squares).sum(0)
