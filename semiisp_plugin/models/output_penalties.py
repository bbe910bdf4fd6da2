"""Penalties on what parts of a network give, a sample: large values, rough and falling lookup tables, or wrong images.

SepLUT's "sparsity" term, 1e-4 times the mean square of the weights that mix its 3D tables, is one on large values;
NamedCurves' term of its backbone, half of its squared error, is one on wrong images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from semiisp_plugin import plugins
from semiisp_plugin.losses.per_sample import full_precision, per_sample
from semiisp_plugin.losses.table_regularity import Axes, falls, roughness
from semiisp_plugin.options.messages import no_module
from semiisp_plugin.registry import ARCH_REGISTRY


class NotedOutputs:
    """Takes the outputs of modules as training goes through them.

    A forward hook that stays on a module notes each output that has a gradient and comes of training mode; neither
    validation nor held-out pairs leave anything.

    Args:
        modules: Whose outputs.
        where: What messages begin with.
    """

    def __init__(self, modules: Sequence[nn.Module], where: str) -> None:
        self.where = where
        self._outputs: list[Any] = []
        for module in modules:
            module.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training and torch.is_grad_enabled():
            self._outputs.append(output)

    def clear(self) -> None:
        """Forget what was noted."""
        self._outputs.clear()

    def take_outputs(self, batch_size: int) -> list[Tensor]:
        """What was noted since the last call, ``(N, ...)`` each; of a module that ran several times, each time.

        Args:
            batch_size: N.

        Raises:
            ValueError: None ran, or one gives something else than a tensor ``(N, ...)``.
        """
        outputs, self._outputs = self._outputs, []
        if not outputs:
            raise ValueError(f"{self.where} did not run in the network's forward pass; name a module that does.")
        for output in outputs:
            if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != batch_size:
                shape = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(
                    f"{self.where} gives {shape}; it has to be a tensor of {batch_size} samples, (N, ...)."
                )
        return outputs


class OutputPenalty(NotedOutputs):
    """Base of penalties on noted outputs."""

    def of(self, output: Tensor, target: Tensor) -> Tensor:
        """The penalty of one output ``(N, ...)`` with the target ``(N, C, H, W)``: ``(N,)``, float32 at least."""
        raise NotImplementedError

    def take(self, target: Tensor) -> Tensor:
        """The penalty of each sample, ``(N,)`` float32, of what was noted since the last call.

        A module that ran several times counts each time.

        Args:
            target: ``(N, C, H, W)``, what the network's output should be.

        Raises:
            ValueError: See `NotedOutputs.take_outputs`.
        """
        return torch.stack([self.of(output, target) for output in self.take_outputs(len(target))]).sum(0)


class ActivityPenalty(OutputPenalty):
    """The mean square of what a named module gives.

    Args:
        networks: Networks by the names of their sections; each must have the module.
        module: Its name, as of `torch.nn.Module.named_modules`.
        weight: Factor of the penalty.

    Raises:
        ValueError: A network has no such module; the message names the nearest, or those that there are.
    """

    def __init__(self, networks: Mapping[str, nn.Module], module: str, weight: float = 1e-4) -> None:
        self.weight = weight
        where = "train:activity_penalty:module:"
        super().__init__(named_modules(networks, module, where), f"{where} '{module}'")

    def of(self, output: Tensor, target: Tensor) -> Tensor:
        """See `OutputPenalty.of`."""
        return self.weight * per_sample(full_precision(output).square())


class DeepSupervision(OutputPenalty):
    """The mean squared error of an image that a named module gives, as if it were the network's output.

    Args:
        networks: As of `ActivityPenalty`.
        module: Its name; `NamedCurves`: ``backbone``.
        weight: Factor of the error; NamedCurves': 0.5.

    Raises:
        ValueError: A network has no such module; the message names the nearest, or those that there are.
    """

    def __init__(self, networks: Mapping[str, nn.Module], module: str, weight: float = 0.5) -> None:
        self.weight = weight
        where = "train:deep_supervision:module:"
        super().__init__(named_modules(networks, module, where), f"{where} '{module}'")

    def of(self, output: Tensor, target: Tensor) -> Tensor:
        """See `OutputPenalty.of`.

        Raises:
            ValueError: The module's image is not of the target's size.
        """
        if output.shape != target.shape:
            raise ValueError(
                f"{self.where} gives {tuple(output.shape)}, and the targets are {tuple(target.shape)}; name a module "
                f"that gives an image of their size."
            )
        return self.weight * per_sample((full_precision(output) - target).square())


class TablePenalty(OutputPenalty):
    """How rough the lookup tables are that a network predicts, and how far they fall; the sum over its tables.

    Such a network (or a part of one) names the modules that give tables in its class's attribute ``table_modules``;
    each gives a tensor as `semiisp_plugin.losses.table_regularity` describes it. Modules that it was built without are
    passed over.

    Args:
        networks: Networks by the names of their sections; each must predict tables.
        smoothness: Factor of `roughness`; Zeng's: 1e-4.
        monotonicity: Factor of `falls`; Zeng's: 10.
        axes: Of `falls`.

    Raises:
        ValueError: A network predicts no tables; the message names those that do.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        smoothness: float = 1e-4,
        monotonicity: float = 10.0,
        axes: Axes = "own",
    ) -> None:
        self.smoothness = smoothness
        self.monotonicity = monotonicity
        self.axes: Axes = axes
        modules = []
        for key, network in networks.items():
            bare = _bare(network)
            found = [
                inner
                for part in bare.modules()
                for name, inner in part.named_modules()
                if name in getattr(part, "table_modules", ())
            ]
            if not found:
                raise ValueError(
                    f"train:table_penalty: {key} ({type(bare).__name__}) predicts no lookup tables. Leave the section "
                    f"out, or take a network that does: {', '.join(networks_with_tables())}."
                )
            modules += found
        super().__init__(modules, "train:table_penalty: a module of tables")

    def of(self, output: Tensor, target: Tensor) -> Tensor:
        """See `OutputPenalty.of`."""
        return self.smoothness * roughness(output) + self.monotonicity * falls(output, self.axes)


def named_modules(networks: Mapping[str, nn.Module], module: str, where: str) -> list[nn.Module]:
    """The module of that name of each network.

    Args:
        networks: Networks by the names of their sections.
        module: Its name, as of `torch.nn.Module.named_modules`.
        where: What messages begin with.

    Raises:
        ValueError: A network has no such module; the message names the nearest, and those that there are.
    """
    modules = []
    for key, network in networks.items():
        bare = _bare(network)
        found = dict(bare.named_modules())
        if not module or module not in found:
            raise ValueError(f"{where} {no_module(key, bare, module)}")
        modules.append(found[module])
    return modules


def networks_with_tables() -> list[str]:
    """Names of the registered networks that `TablePenalty` is for."""
    plugins.register()
    return sorted(name for name, network in ARCH_REGISTRY if hasattr(network, "table_modules"))


def _bare(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
