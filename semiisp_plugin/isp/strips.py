"""Going over an image in strips of rows, with parameters interpolated for a strip at a time.

The functions of the ISP are point-wise. Taken a strip at a time their intermediate values stay in a CPU's cache, and a
grid of parameters never becomes a map of all K of them at the size of the image, which would take K / 3 times its
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from semiisp_plugin.isp.parameters import ISPSpec

# Values of an image in a strip: some ten buffers of this many float32 values fit the second-level cache.
STRIP = 65_536

Group = Mapping[str, Tensor]


@lru_cache(maxsize=64)
def _layout(spec: ISPSpec) -> dict[str, tuple[slice, tuple[str, ...], tuple[int, ...]]]:
    """By function: where its values lie among the K channels, its parameters, and how many channels each has."""
    where = spec.slices()
    return {
        name: (where[name], tuple(p.name for p in group), tuple(p.count for p in group))
        for name, group in spec.functions.items()
    }


def arrays(spec: ISPSpec, parameters: Tensor) -> Iterator[dict[str, np.ndarray]]:
    """Sets ``(N, K, 1, 1)`` one after the other, as float64 arrays ``(channels / 3, 3)`` by function."""
    layout = _layout(spec)
    for values in parameters.detach().numpy().reshape(len(parameters), -1).astype(np.float64):
        yield {name: values[where].reshape(-1, 3) for name, (where, _, _) in layout.items()}


def positions(side: int, nodes: int) -> np.ndarray:
    """Where the pixels of a side lie among the nodes of a grid, 0 to ``nodes - 1`` (``align_corners=False``).

    Returns:
        ``(side,)`` float32.
    """
    places = (np.arange(side, dtype=np.float64) + 0.5) * (nodes / side) - 0.5
    return np.clip(places, 0, nodes - 1).astype(np.float32)


class ParameterMaps:
    """The parameter sets of a batch, brought to the positions of an image.

    Sets on a grid are interpolated bilinearly (``align_corners=False``), after squashing: a mixture of values in a
    convex domain stays in it.

    Args:
        spec: The ISP.
        parameters: ``(N, K, h, w)``.
        size: ``(H, W)`` of the image.
    """

    def __init__(self, spec: ISPSpec, parameters: Tensor, size: tuple[int, int]) -> None:
        self._spec = spec
        self._parameters = parameters
        self._height, self._width = size
        self._is_grid = tuple(parameters.shape[2:]) != (1, 1)

    def whole(self) -> Mapping[str, Group]:
        """``[function][parameter]``, each ``(N, 3 or 6, H, W)``, or ``(N, 3 or 6, 1, 1)`` for sets without a grid."""
        parameters = self._parameters
        if self._is_grid:
            size = (self._height, self._width)
            parameters = F.interpolate(parameters, size=size, mode="bilinear", align_corners=False)
        return self._spec.split(parameters)

    def strips(self, rows: int) -> Iterator[tuple[slice, Mapping[str, Group]]]:
        """The image's rows, at most ``rows`` at a time, and the parameters there."""
        if not self._is_grid:
            whole = self.whole()
            for top in range(0, self._height, rows):
                yield slice(top, min(top + rows, self._height)), whole
            return
        grid_rows = self._parameters.shape[2]
        # Columns first, for the few rows of the grid; rows when their turn comes.
        size = (grid_rows, self._width)
        nodes = F.interpolate(self._parameters, size=size, mode="bilinear", align_corners=False)
        steps = nodes.diff(dim=2)
        positions = [
            min(max((y + 0.5) * grid_rows / self._height - 0.5, 0.0), grid_rows - 1.0) for y in range(self._height)
        ]
        top = 0
        while top < self._height:
            # A strip ends where the next two rows of the grid take over: one multiplication gives all of it.
            node = min(int(positions[top]), grid_rows - 2) if grid_rows > 1 else 0
            bottom = top + 1
            while bottom < min(top + rows, self._height) and positions[bottom] <= node + 1:
                bottom += 1
            weights = torch.tensor([p - node for p in positions[top:bottom]], dtype=nodes.dtype, device=nodes.device)
            step = steps[:, :, node, None] if grid_rows > 1 else None
            yield slice(top, bottom), _Rows(self._spec, nodes[:, :, node, None], step, weights[:, None])
            top = bottom


class _Rows(Mapping[str, Group]):
    """Parameters of a strip, a function's interpolated when it is asked for."""

    def __init__(self, spec: ISPSpec, start: Tensor, step: Tensor | None, weights: Tensor) -> None:
        self._layout = _layout(spec)
        self._start, self._step, self._weights = start, step, weights

    def __getitem__(self, name: str) -> Group:
        where, names, counts = self._layout[name]
        values = self._start[:, where]
        if self._step is not None:
            values = torch.addcmul(values, self._step[:, where], self._weights)
        return dict(zip(names, values.split(counts, dim=1), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)


def worth_it(image: Tensor, parameters: Tensor) -> bool:
    """Whether going by strips is faster, and possible.

    Not on a GPU, not for gradients of either mode, and not where something looks on that does not see single numbers:
    `torch.compile`, `torch.jit.trace`, the transforms of `torch.func`, tensors of other classes.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in (image, parameters))
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(forward_ad.unpack_dual(tensor).tangent is None for tensor in (image, parameters))
        and image.device.type == "cpu"
        and image.numel() > STRIP
        and not (torch.is_grad_enabled() and (image.requires_grad or parameters.requires_grad))
    )


def rows_of(image: Tensor) -> int:
    """Rows of an ``(N, 3, H, W)`` image that make a strip."""
    return max(1, STRIP * image.shape[2] // image.numel())
