"""Parameter sets at the pixels of an image: the whole image at once, or strips of rows one after the other.

The functions of the ISP are point-wise. Taken a strip at a time their intermediate values stay in a CPU's cache, and a
grid of parameters never becomes a map of all K of them at the size of the image, which would take K / 3 times its
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from semiisp_plugin.isp.parameters import ISPSpec

# Values of an image in a strip: some ten buffers of this many float32 values fit the second-level cache.
STRIP = 65_536

Group = Mapping[str, Tensor]


def positions(side: int, nodes: int) -> np.ndarray:
    """Where the pixels of a side lie among the nodes of a grid, 0 to ``nodes - 1`` (``align_corners=False``).

    Returns:
        ``(side,)`` float32.
    """
    places = (np.arange(side, dtype=np.float64) + 0.5) * (nodes / side) - 0.5
    return np.clip(places, 0, nodes - 1).astype(np.float32)


# As products of matrices: `interpolate` does the same, and takes ten times as long on a CPU, with its gradient.


def along_columns(grid: Tensor, width: int) -> Tensor:
    """``(N, K, h, w)`` to ``(N, K, h, width)``, linear between the columns of the grid."""
    return _exact_product(grid, _hats(width, grid.shape[3], grid).T)


def along_rows(grid: Tensor, height: int) -> Tensor:
    """``(N, K, h, w)`` to ``(N, K, height, w)``, linear between the rows of the grid."""
    return _exact_product(_hats(height, grid.shape[2], grid), grid)


def _hats(side: int, nodes: int, like: Tensor) -> Tensor:
    """The share of each node in each pixel of a side, ``(side, nodes)``; the places are those of `positions`."""
    pixels, at = (torch.arange(n, dtype=like.dtype, device=like.device) for n in (side, nodes))
    places = ((pixels + 0.5) * (nodes / side) - 0.5).clamp(0, nodes - 1)
    return (1 - (places[:, None] - at).abs()).clamp_min(0)


def _exact_product(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(device_type=a.device.type, enabled=False):  # bfloat16 has too few digits for a gamma
        return a @ b


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
            parameters = along_rows(along_columns(parameters, self._width), self._height)
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
        nodes = along_columns(self._parameters, self._width)
        steps, places = nodes.diff(dim=2), self._spec.slices()
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
            yield slice(top, bottom), _Rows(self._spec, places, nodes[:, :, node, None], step, weights[:, None])
            top = bottom


class _Rows(Mapping[str, Group]):
    """Parameters of a strip, a function's interpolated when it is asked for."""

    def __init__(
        self, spec: ISPSpec, places: Mapping[str, slice], start: Tensor, step: Tensor | None, weights: Tensor
    ) -> None:
        self._functions, self._places = spec.functions, places
        self._start, self._step, self._weights = start, step, weights

    def __getitem__(self, name: str) -> Group:
        values = self._start[:, self._places[name]]
        if self._step is not None:
            values = torch.addcmul(values, self._step[:, self._places[name]], self._weights)
        group = self._functions[name]
        return dict(zip([p.name for p in group], values.split([p.count for p in group], dim=1), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


def has_numbers(*tensors: Tensor) -> bool:
    """Whether single numbers may be looked at.

    Not where something looks on that does not see them: `torch.compile`, `torch.jit.trace`, the transforms of
    `torch.func`, tensors of other classes.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(forward_ad.unpack_dual(tensor).tangent is None for tensor in tensors)
    )


def worth_it(image: Tensor, parameters: Tensor) -> bool:
    """Whether going by strips is faster, and possible: not on a GPU, not for gradients of either mode."""
    return (
        has_numbers(image, parameters)
        and image.device.type == "cpu"
        and image.numel() > STRIP
        and not (torch.is_grad_enabled() and (image.requires_grad or parameters.requires_grad))
    )


def rows_of(image: Tensor) -> int:
    """Rows of an ``(N, 3, H, W)`` image that make a strip."""
    return max(1, STRIP * image.shape[2] // image.numel())
