"""The paper's lookup-table inverse (Sec. A.2, Algorithm 1), the baseline that the exact inverse is compared with.

For every combination of grid values of a function's three parameters, and each of ``d_o`` evenly spaced outputs, the
table holds the nearest of ``d_i`` evenly spaced inputs; four-dimensional linear interpolation fills what lies between.
A node is off by up to half an input step, 5e-5 with the paper's sizes, and between the nodes the error grows quickly
with the parameters' ranges: the paper's 1.1e-5 on average and 6.5e-5 at most are met for g1 in [1, 2], g2 in
[0.9, 1.1], k in [0.2, 0.8], while over all that the ISP can reach it is above 1e-1. The table is not differentiable.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.isp.functions import gamma_tone_map, inverse_tone_map

PAPER_SIZES = (60, 30, 30, 10_000, 512)

_PARAMETERS = {"gamma_tone_map": ("g1", "g2", "k"), "inverse_tone_map": ("g3", "g4", "k2")}

# Values of the forward map at a time while a table is built, and of the image at a time on a CPU: what lies in between
# then stays in the cache. Building is twice as fast as with one plane a time, looking up 1.2 to 1.6 times.
_BUILD_BLOCK = 100_000
_LOOKUP_BLOCK = 32_768

# Parameters are computed and interpolated in their own precision: they may pass the ends of their domain by this many
# units of rounding, and are then taken for the end.
_SLACK = 4


class PaperLUT:
    """Lookup-table inverse of one of the per-channel functions (Algorithm 1).

    Args:
        function: ``"gamma_tone_map"``, with parameters g1, g2, k, or ``"inverse_tone_map"``, with g3, g4, k2.
        ranges: ``(low, high)`` of each of the three parameters, in that order; ``low < high``. The function must be
            increasing in the image for every combination of grid values.
        sizes: ``(d_g1, d_g2, d_k, d_i, d_o)``: grid values of each parameter, inputs, outputs; each 2 or more.
        sign: The sign in eq. 22, +1 or -1; `gamma_tone_map` has none.

    Attributes:
        ranges: As given, as a tuple of tuples.
        sizes: As given, as a tuple.
        table: ``(d_g1, d_g2, d_k, d_o)`` float64 array, read-only: the inputs. 211 MiB with the paper's sizes.

    Raises:
        ValueError: An unknown function or sign, a range or size that makes no grid, or a function that is not
            increasing somewhere in the ranges.
    """

    def __init__(
        self,
        function: str,
        ranges: Sequence[tuple[float, float]],
        sizes: Sequence[int] = PAPER_SIZES,
        *,
        sign: int = 1,
    ) -> None:
        if function not in _PARAMETERS:
            raise ValueError(f"No table is known for {function!r}; it must be one of {', '.join(_PARAMETERS)}.")
        if sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, not {sign}.")
        self.function = function
        self.sign = sign
        self._names = _PARAMETERS[function]
        self.ranges = _checked_ranges(ranges, self._names)
        self.sizes = _checked_sizes(sizes)
        *counts, _, n_outputs = self.sizes
        axes = [np.linspace(low, high, count) for (low, high), count in zip(self.ranges, counts, strict=True)]
        self._grid = (*axes, np.linspace(0, 1, n_outputs))
        self._domains = (*self.ranges, (0.0, 1.0))  # of the table's four coordinates
        self.table = self._build()
        self.table.flags.writeable = False  # one table may serve many callers
        self._interpolators: dict[Any, Any] = {}

    def __call__(self, image: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Look up the inverse of every value of an image.

        On a CPU by SciPy's ``RegularGridInterpolator``, on a GPU by CuPy's, as the paper does it; in float64.

        Args:
            image: Floating point tensor of any shape, such as ``(N, 3, H, W)``, in [0, 1].
            first: g1 or g3, broadcastable to the image: ``(N, 3, 1, 1)`` or ``(N, 3, H, W)``.
            second: g2 or g4.
            third: k or k2.

        Returns:
            Values in [0, 1], of the image's shape, type and device. NaN where the image or a parameter is NaN.

        Raises:
            TypeError: The image is not floating point.
            ValueError: The image leaves [0, 1] or a parameter its range, by more than rounding, or a shape does not
                fit.
            RuntimeError: A gradient is asked for, or the image is on a GPU and CuPy is not installed.
        """
        tensors = (first, second, third, image)
        if not image.is_floating_point():
            raise TypeError(f"The image is {image.dtype}; expected floating point values in [0, 1].")
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            raise RuntimeError(
                "The lookup table has no gradient: use the backend 'exact', or call the table under torch.no_grad()."
            )
        self._check(tensors)
        flat = [t.expand(image.shape).reshape(-1) for t in tensors]
        out = self._on_gpu(flat) if image.is_cuda else self._on_cpu(flat)
        # Rounding alone could leave the interval.
        return out.clamp(0, 1).view(image.shape).to(image.dtype)

    def _check(self, tensors: Sequence[Tensor]) -> None:
        """Raise ValueError unless the parameters and the image, in this order, fit each other and the table."""
        image = tensors[-1]
        for name, tensor, (low, high) in zip((*self._names, "image"), tensors, self._domains, strict=True):
            sizes = zip(tensor.shape[::-1], image.shape[::-1], strict=False)
            if tensor.dim() > image.dim() or any(n not in (1, expected) for n, expected in sizes):
                raise ValueError(
                    f"{name} has the shape {tuple(tensor.shape)}, which does not broadcast to the image's "
                    f"{tuple(image.shape)}; use (N, 3, 1, 1) or (N, 3, H, W)."
                )
            slack = _slack(tensor.dtype, low, high)
            outside = (tensor < low - slack) | (tensor > high + slack)  # NaN is on neither side
            if outside.any():
                fix = "build the table with wider ranges, or use the backend 'exact', which needs none"
                raise ValueError(
                    f"{name} holds {float(tensor[outside][0]):.9g}, which lies outside [{low:.9g}, {high:.9g}]: "
                    f"{'clamp it first' if name == 'image' else fix}."
                )

    def _on_cpu(self, flat: Sequence[Tensor]) -> Tensor:
        """Interpolate at the points whose four coordinates are given, each ``(n,)``; float64 ``(n,)``."""
        if "cpu" not in self._interpolators:
            from scipy.interpolate import RegularGridInterpolator

            # Without `bounds_error`, which takes NaN for a value out of bounds. `_check` and `_points` keep the others
            # inside.
            self._interpolators["cpu"] = RegularGridInterpolator(
                self._grid, self.table, method="linear", bounds_error=False
            )
        out = torch.empty(flat[0].shape, dtype=torch.float64)
        for start in range(0, len(out), _LOOKUP_BLOCK):
            part = slice(start, start + _LOOKUP_BLOCK)
            out[part] = torch.from_numpy(self._interpolators["cpu"](self._points([t[part] for t in flat]).numpy()))
        return out

    def _on_gpu(self, flat: Sequence[Tensor]) -> Tensor:
        """`_on_cpu` by CuPy. DLPack hands the memory over both ways, and orders CuPy's stream and torch's."""
        try:
            import cupy
            from cupyx.scipy.interpolate import RegularGridInterpolator
        except ImportError as error:
            raise RuntimeError(
                "The lookup table needs CuPy for an image on a GPU: in a clone pip install -e '.[cupy]' (for CUDA "
                "13: cupy-cuda13x), or move the image to the CPU, or use the backend 'exact'."
            ) from error
        device = flat[0].device
        with cupy.cuda.Device(device.index):
            if device not in self._interpolators:
                self._interpolators[device] = RegularGridInterpolator(
                    tuple(map(cupy.asarray, self._grid)),
                    cupy.asarray(self.table),
                    method="linear",
                    bounds_error=False,
                )
            return torch.from_dlpack(self._interpolators[device](cupy.from_dlpack(self._points(flat))))

    def _points(self, coordinates: Sequence[Tensor]) -> Tensor:
        """Four coordinates ``(n,)`` as float64 points ``(n, 4)`` inside the grid; NaN stays NaN."""
        return torch.stack(
            [c.double().clamp(low, high) for c, (low, high) in zip(coordinates, self._domains, strict=True)]
        ).T

    def _build(self) -> np.ndarray:
        """Algorithm 1 (1), with every value of the forward map computed, but only a few triples at a time."""
        forward: Callable[..., Tensor] = gamma_tone_map
        if self.function == "inverse_tone_map":
            forward = functools.partial(inverse_tone_map, sign=self.sign)
        *axes, outputs = self._grid
        firsts, seconds, thirds = map(torch.from_numpy, axes)
        inputs = np.linspace(0, 1, self.sizes[3])
        image = torch.from_numpy(inputs)
        table = np.empty((*self.sizes[:3], self.sizes[4]))
        rows = max(1, _BUILD_BLOCK // len(inputs))
        for i, j in itertools.product(range(len(firsts)), range(len(seconds))):
            for start in range(0, len(thirds), rows):
                part = slice(start, start + rows)
                values = forward(image, firsts[i], seconds[j], thirds[part, None]).numpy()
                increasing = (values[:, 1:] >= values[:, :-1]).all(axis=1)  # False for NaN too
                if not increasing.all():
                    triple = (firsts[i], seconds[j], thirds[part][int(increasing.argmin())])
                    at = ", ".join(f"{name} = {float(v):.9g}" for name, v in zip(self._names, triple, strict=True))
                    raise ValueError(
                        f"{self.function} has no inverse at {at}, where it is not increasing: narrow the ranges to "
                        "the domain in its docstring."
                    )
                table[i, j, part] = inputs[_nearest(values, outputs)]
        return table


@functools.lru_cache(maxsize=4)
def paper_lut(
    function: str,
    ranges: tuple[tuple[float, float], ...],
    sizes: tuple[int, ...] = PAPER_SIZES,
    sign: int = 1,
) -> PaperLUT:
    """`PaperLUT`, built once a process: the last four tables are kept.

    Same arguments, hashable (tuples, no lists), and same errors.
    """
    return PaperLUT(function, ranges, sizes, sign=sign)


def _nearest(values: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """For every row of ``values`` and every output, ``argmin(abs(row - output))``.

    Args:
        values: ``(rows, d_i)`` float64, each row increasing (not strictly) from 0.
        outputs: ``(d_o,)`` in [0, 1].

    Returns:
        ``(rows, d_o)`` indices, the first one where several are equally near.
    """
    # row[low] <= output < row[low + 1]: away from these two the distance does not fall, rounded or not.
    low = np.stack([row.searchsorted(outputs, side="right") for row in values]) - 1
    high = np.minimum(low + 1, values.shape[1] - 1)
    below = np.abs(np.take_along_axis(values, low, axis=1) - outputs)
    above = np.abs(np.take_along_axis(values, high, axis=1) - outputs)
    nearest = np.where(below <= above, low, high)
    # The first of equals can lie further down: where the map underflows, or is so small that its distance rounds to
    # the output itself. That is rare, and settled as printed.
    before = np.abs(np.take_along_axis(values, np.maximum(low - 1, 0), axis=1) - outputs)
    for row, column in np.argwhere((below <= above) & (before == below) & (low > 0)):
        nearest[row, column] = np.abs(values[row] - outputs[column]).argmin()
    return nearest


def _slack(dtype: torch.dtype, low: float, high: float) -> float:
    """How far outside [low, high] rounding alone can have taken a value."""
    # float32's at least: what comes as float64 may have been less before.
    eps = max(torch.finfo(d).eps for d in (dtype, torch.float32) if d.is_floating_point)
    return _SLACK * eps * max(abs(low), abs(high))


def _checked_ranges(ranges: Sequence[tuple[float, float]], names: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """The ranges as floats; ValueError unless there is an interval for every parameter."""
    if len(ranges) != len(names):
        raise ValueError(f"{len(ranges)} ranges given; expected one (low, high) for each of {', '.join(names)}.")
    checked = tuple((float(low), float(high)) for low, high in ranges)
    for name, (low, high) in zip(names, checked, strict=True):
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ValueError(
                f"The range of {name} is ({low}, {high}); a table needs low < high, both finite. For a constant "
                f"parameter widen it a little, as in ({low}, {low + 0.01:.9g})."
            )
    return checked


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes as integers; ValueError unless they make a grid."""
    checked = tuple(map(operator.index, sizes))
    if len(checked) != len(PAPER_SIZES) or min(checked) < 2:
        raise ValueError(
            f"sizes are {checked}; expected (d_g1, d_g2, d_k, d_i, d_o), each 2 or more, because interpolation needs "
            f"two points; the paper's are {PAPER_SIZES}. For a constant parameter use a size of 2 and a narrow range."
        )
    return checked
