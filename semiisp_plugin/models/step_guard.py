"""What happens to a batch whose loss or gradient is not finite: it is skipped and named, and too many stop the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from semiisp_plugin.toolbox import get_root_logger

WINDOW = 1000  # iterations in which skipped steps are counted
_NAMED = 24  # keys in a message


class StepGuard:
    """Counts skipped steps, and says which images were in them.

    Args:
        limit: The run stops once so many steps were skipped among the last 1,000 iterations; 1 stops at the first.

    Attributes:
        skipped: Iterations that were skipped, of the last 1,000.
    """

    def __init__(self, limit: int = 10) -> None:
        self.limit = limit
        self.skipped: list[int] = []

    def skip(self, iteration: int, what: str, keys: Iterable[str], suspects: Iterable[str] = ()) -> None:
        """Note a skipped step.

        Args:
            iteration: Its number.
            what: What was not finite, as ``the loss was nan``.
            keys: Keys of the batch.
            suspects: Those of them whose own loss was not finite.

        Raises:
            FloatingPointError: There were too many.
        """
        self.skipped = [i for i in self.skipped if i > iteration - WINDOW] + [iteration]
        keys, suspects = list(keys), list(suspects)
        message = f"Iteration {iteration:,d}: {what}; the step is skipped. "
        message += f"Not finite is the loss of: {_listed(suspects)}. " if suspects else ""
        message += f"The batch: {_listed(keys)}."
        advice = (
            "Look at those images; or lower the learning rate (train:optim_g:lr), set train:grad_clip, and with "
            "train:precision: fp16 try bf16"
        )
        if len(self.skipped) >= self.limit:
            raise FloatingPointError(
                f"{message} That is skipped step {len(self.skipped)} of the last {WINDOW:,d} iterations, and "
                f"train:nonfinite_limit is {self.limit}: training stops. {advice}. The latest checkpoint is untouched."
            )
        get_root_logger().warning(f"{message} ({len(self.skipped)} of at most {self.limit}.) {advice}.")

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"skipped": list(self.skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.skipped = [int(i) for i in state["skipped"]]


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return (", ".join(keys[:_NAMED]) or "unknown") + more


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, 0-dim; 0 where there are none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(gradients)
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device, torch.float32) for n in norms]))


class Statistics:
    """Running statistics of a network, put back where a forward pass on a bad batch has spoilt them.

    Args:
        networks: Those that are trained.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        modules = [m for net in networks for m in net.modules() if getattr(m, "track_running_stats", False)]
        self.buffers = [b for m in modules for b in m.buffers(recurse=False)]
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember them as they are."""
        self._kept = [b.clone() for b in self.buffers]

    @torch.no_grad()
    def put_back(self) -> None:
        """As they were when last remembered."""
        for buffer, value in zip(self.buffers, self._kept, strict=False):
            buffer.copy_(value)
