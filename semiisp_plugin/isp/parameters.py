"""Parameters of the ISP: their layout, ranges, starting values, and the bank of sets that training leaves behind.

The paper does not give ranges or starting values. Those here are ours (the table in `ISPSpec`), chosen so that every
set, and every mixture of sets, is an invertible ISP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# CIE XYZ (D65) to linear sRGB, IEC 61966-2-1.
XYZ_TO_SRGB = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))
BASE_MATRICES = {"identity": IDENTITY, "xyz_to_srgb": XYZ_TO_SRGB}

_CHANNELS = 3
_OFF_DIAGONAL_LIMIT = 0.49


@dataclass(frozen=True)
class _Parameter:
    """One named parameter: how a free number becomes a value of its domain, and where training starts.

    ``kind`` is ``tanh``: ``limit * tanh z``; ``exp``: ``exp(centre + limit * tanh z)``; ``unit``:
    ``low + (high - low) * sigmoid z``.
    """

    name: str
    count: int
    kind: str
    low: float
    high: float
    start: float

    def squash(self, z: Tensor) -> Tensor:
        z = z + self._offset()
        if self.kind == "tanh":
            return self.high * z.tanh()
        if self.kind == "exp":
            low, high = math.log(self.low), math.log(self.high)
            return (0.5 * (low + high) + 0.5 * (high - low) * z.tanh()).exp()
        return self.low + (self.high - self.low) * z.sigmoid()

    def _offset(self) -> float:
        """The z whose value is ``start``, so that an encoder whose output is 0 begins there."""
        if self.kind == "tanh":
            return math.atanh(self.start / self.high)
        if self.kind == "exp":
            low, high = math.log(self.low), math.log(self.high)
            return math.atanh((math.log(self.start) - 0.5 * (low + high)) / (0.5 * (high - low)))
        p = (self.start - self.low) / (self.high - self.low)
        return math.log(p / (1 - p))


@dataclass(frozen=True)
class ISPSpec:
    """What an ISP consists of, and the layout of its parameter sets.

    A parameter set is a tensor ``(N, K, h, w)`` of values in their domains ("squashed"): ``h = w = 1`` is one set an
    image ("global"), a larger grid one a coarse region ("local"), to be interpolated bilinearly to the image. The K
    channels are the functions in the order they are applied, each the parameters in the order of this table, each
    for red, green, blue.

    ===========  ==========  =====================  =====================================
    function     parameter   domain                 start (``gamma_start`` for g1)
    ===========  ==========  =====================  =====================================
    it (IE only) g3          [1/3, 3.5]             1
    ..           g4          (0, 3)                 0.02
    ..           k2          (0, 1)                 0.5
    cc           o (6)       (-0.49, 0.49)          0: off-diagonals rg rb gr gb br bg
    ..           gain        [e^-1.5, e^1.5]        1
    ga           x           (0, 1)                 0.1
    ..           w, h        (0.02, 0.98)           0.45, 0.55 (IE: 0.47, 0.53)
    gm           g1          [1/4, 4]               2.2 for RAW, 1 for IE
    ..           g2          (0.2, 2)               1
    ..           k           (0, 1)                 0.5
    cs           x           (0, 1)                 0.5
    ..           w, h        (0.02, 0.98)           0.47, 0.53
    ===========  ==========  =====================  =====================================

    36 values a position, 45 with inverse tone mapping; ``tie_xy=False`` adds ``y`` to ga and cs (42 and 51).

    Args:
        inverse_tone_mapping: True for image enhancement (f_IT first; Sec. 3.5 and A.1).
        tie_xy: Three-parameter gain and contrast stretcher (our reading of eq. 18) instead of the four-parameter one.
        it_sign: The sign in eq. 22, +1 (our reading) or -1.
        gamma_start: Starting value of g1, in (0.25, 4).
        base_matrix: Constant matrix in front of the learned colour correction, 3 rows of 3.
    """

    inverse_tone_mapping: bool = False
    tie_xy: bool = True
    it_sign: int = 1
    gamma_start: float = 2.2
    base_matrix: tuple[tuple[float, ...], ...] = field(default=IDENTITY)

    def __post_init__(self) -> None:
        if self.it_sign not in (1, -1):
            raise ValueError(f"it_sign must be 1 or -1, not {self.it_sign}.")
        if not 0.25 < self.gamma_start < 4:
            raise ValueError(f"gamma_start must lie in (0.25, 4), not {self.gamma_start}.")
        matrix = torch.tensor(self.base_matrix, dtype=torch.float64)
        if matrix.shape != (3, 3) or abs(float(torch.linalg.det(matrix))) < 1e-6:
            raise ValueError(f"base_matrix must be an invertible 3x3 matrix, not {self.base_matrix}.")

    @property
    def functions(self) -> dict[str, tuple[_Parameter, ...]]:
        """The functions in the order they are applied, each with its parameters."""
        stretch_tail = () if self.tie_xy else (_Parameter("y", _CHANNELS, "unit", 0.02, 0.98, 0.0),)
        it = (
            _Parameter("g3", _CHANNELS, "exp", 1 / 3, 3.5, 1.0),
            _Parameter("g4", _CHANNELS, "unit", 0.0, 3.0, 0.02),
            _Parameter("k2", _CHANNELS, "unit", 0.0, 1.0, 0.5),
        )

        def stretch(x: float, w: float, h: float) -> tuple[_Parameter, ...]:
            # The four-parameter form divides by x and 1 - x.
            low = 0.0 if self.tie_xy else 0.02
            tail = tuple(_Parameter(p.name, p.count, p.kind, p.low, p.high, x) for p in stretch_tail)
            return (
                _Parameter("x", _CHANNELS, "unit", low, 1 - low, x),
                _Parameter("w", _CHANNELS, "unit", 0.02, 0.98, w),
                _Parameter("h", _CHANNELS, "unit", 0.02, 0.98, h),
                *tail,
            )

        gain = (0.47, 0.53) if self.inverse_tone_mapping else (0.45, 0.55)
        functions: dict[str, tuple[_Parameter, ...]] = {"it": it} if self.inverse_tone_mapping else {}
        functions["cc"] = (
            _Parameter("o", 6, "tanh", -_OFF_DIAGONAL_LIMIT, _OFF_DIAGONAL_LIMIT, 0.0),
            _Parameter("gain", _CHANNELS, "exp", math.exp(-1.5), math.exp(1.5), 1.0),
        )
        functions["ga"] = stretch(0.1, *gain)
        functions["gm"] = (
            _Parameter("g1", _CHANNELS, "exp", 0.25, 4.0, self.gamma_start),
            _Parameter("g2", _CHANNELS, "unit", 0.2, 2.0, 1.0),
            _Parameter("k", _CHANNELS, "unit", 0.0, 1.0, 0.5),
        )
        functions["cs"] = stretch(0.5, 0.47, 0.53)
        return functions

    @property
    def n_parameters(self) -> int:
        """Number K of values at a position."""
        return sum(p.count for parameters in self.functions.values() for p in parameters)

    def slices(self) -> dict[str, slice]:
        """Where each function's values lie among the K channels."""
        slices, start = {}, 0
        for name, parameters in self.functions.items():
            count = sum(p.count for p in parameters)
            slices[name] = slice(start, start + count)
            start += count
        return slices

    def squash(self, z: Tensor) -> Tensor:
        """Free numbers to values of the domains; 0 becomes the starting value.

        Args:
            z: ``(N, K, h, w)``, any real numbers.

        Returns:
            Parameter sets, ``(N, K, h, w)``.
        """
        self.check(z)
        parts = [p for parameters in self.functions.values() for p in parameters]
        return torch.cat([p.squash(c) for p, c in zip(parts, z.split([p.count for p in parts], 1), strict=True)], 1)

    def split(self, parameters: Tensor) -> dict[str, dict[str, Tensor]]:
        """Parameter sets ``(N, K, h, w)`` as views ``[function][parameter]`` of ``(N, 3 or 6, h, w)``."""
        self.check(parameters)
        # One split: its gradient is one concatenation, where slices would each fill a map of zeros.
        counts = [p.count for group in self.functions.values() for p in group]
        parts = iter(parameters.split(counts, dim=1))
        return {name: {p.name: next(parts) for p in group} for name, group in self.functions.items()}

    def check(self, parameters: Tensor) -> None:
        """Raise ValueError unless ``parameters`` is ``(N, K, h, w)`` with this ISP's K."""
        if parameters.dim() != 4 or parameters.shape[1] != self.n_parameters:
            kind = "IE" if self.inverse_tone_mapping else "ISP"
            raise ValueError(
                f"Parameter sets of shape {tuple(parameters.shape)} do not fit this {kind} variant: expected "
                f"(N, {self.n_parameters}, h, w)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint that loads with ``weights_only=True``."""
        return {
            "inverse_tone_mapping": self.inverse_tone_mapping,
            "tie_xy": self.tie_xy,
            "it_sign": self.it_sign,
            "gamma_start": self.gamma_start,
            "base_matrix": [list(row) for row in self.base_matrix],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ISPSpec:
        """Inverse of `to_dict`."""
        return cls(**{**values, "base_matrix": tuple(tuple(row) for row in values["base_matrix"])})


class ParameterBank:
    """The parameter sets of the last N training samples (Sec. 3.1, eq. 9; N = 5000 in Table 5).

    Args:
        spec: The ISP the sets belong to.
        capacity: N.
        grid: ``(h, w)`` of the sets, (1, 1) for global ones.
    """

    def __init__(self, spec: ISPSpec, capacity: int, grid: tuple[int, int] = (1, 1)) -> None:
        if capacity < 1:
            raise ValueError(f"A parameter bank needs a capacity of at least 1, not {capacity}.")
        self.spec = spec
        self.capacity = capacity
        self._sets = torch.empty(0, spec.n_parameters, *grid)
        self._next = 0  # where the oldest set lies once the bank is full

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def grid(self) -> tuple[int, int]:
        """``(h, w)`` of each set."""
        return (self._sets.shape[2], self._sets.shape[3])

    @property
    def sets(self) -> Tensor:
        """All sets, ``(n, K, h, w)``, the oldest first."""
        return torch.cat((self._sets[self._next :], self._sets[: self._next]))

    def append(self, parameters: Tensor) -> None:
        """Add the sets of a batch, ``(B, K, h, w)``; the oldest ones leave when the bank is full."""
        self.spec.check(parameters)
        if tuple(parameters.shape[2:]) != self.grid:
            raise ValueError(f"Sets on a {tuple(parameters.shape[2:])} grid do not fit a bank of {self.grid} ones.")
        new = parameters.detach().to("cpu", torch.float32)[-self.capacity :]
        room = self.capacity - len(self._sets)
        if room > 0:
            self._sets = torch.cat((self._sets, new[:room]))
            new = new[room:]
        for row in new:
            self._sets[self._next] = row
            self._next = (self._next + 1) % self.capacity

    def draw(self, n: int, generator: torch.Generator, *, per_function: bool = False) -> Tensor:
        """Draw sets uniformly, with replacement (eq. 9).

        Args:
            n: How many.
            generator: A CPU generator.
            per_function: Draw an independent index for every function (Sec. 3.2, for 1,000 pairs and more) instead
                of one for the whole ISP.

        Returns:
            ``(n, K, h, w)`` on the CPU.
        """
        if len(self) == 0:
            raise ValueError("The parameter bank is empty: train f_ISP first (phase 1).")
        if not per_function:
            return self._sets[torch.randint(len(self), (n,), generator=generator)]
        parts = [
            self._sets[torch.randint(len(self), (n,), generator=generator), where]
            for where in self.spec.slices().values()
        ]
        return torch.cat(parts, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: loads with ``weights_only=True``."""
        return {"spec": self.spec.to_dict(), "capacity": self.capacity, "sets": self.sets.contiguous()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> ParameterBank:
        """Inverse of `state_dict`."""
        sets = state["sets"]
        bank = cls(ISPSpec.from_dict(state["spec"]), int(state["capacity"]), (sets.shape[2], sets.shape[3]))
        bank.append(sets)
        return bank
