"""Parameters of the ISP: their layout, ranges, starting values, and the bank of sets that training leaves behind.

The paper does not give ranges or starting values. Those here are ours (the table in `ISPSpec`), chosen so that every
set, and every mixture of sets, is an invertible ISP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# CIE XYZ (D65) to linear sRGB, IEC 61966-2-1.
XYZ_TO_SRGB = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))
BASE_MATRICES = {"identity": IDENTITY, "xyz_to_srgb": XYZ_TO_SRGB}

_CHANNEL_NAMES = {3: ("red", "green", "blue"), 6: ("rg", "rb", "gr", "gb", "br", "bg")}
_OFF_DIAGONAL_LIMIT = 0.49
_AT_THE_END = 0.01  # of the domain's width


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
        """Free numbers to values of the domain."""
        z = z + self._offset()
        if self.kind == "tanh":
            return self.high * z.tanh()
        if self.kind == "exp":
            centre, half = self._logs()
            return (centre + half * z.tanh()).exp()
        return self.low + (self.high - self.low) * z.sigmoid()

    def place(self, values: Tensor) -> Tensor:
        """Where values lie in the domain, 0 its low end and 1 its high one; in log units for ``exp``."""
        if self.kind == "exp":
            return (values / self.low).clamp_min(torch.finfo(values.dtype).tiny).log() / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)

    def _logs(self) -> tuple[float, float]:
        """Middle and half the width of the domain, in log units."""
        low, high = math.log(self.low), math.log(self.high)
        return 0.5 * (low + high), 0.5 * (high - low)

    def _offset(self) -> float:
        """The z whose value is ``start``, so that an encoder whose output is 0 begins there."""
        if self.kind == "tanh":
            return math.atanh(self.start / self.high)
        if self.kind == "exp":
            centre, half = self._logs()
            return math.atanh((math.log(self.start) - centre) / half)
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
    base_matrix: tuple[tuple[float, ...], ...] = IDENTITY

    def __post_init__(self) -> None:
        if self.it_sign not in (1, -1):
            raise ValueError(f"it_sign must be 1 or -1, not {self.it_sign}.")
        if not 0.25 < self.gamma_start < 4:
            raise ValueError(f"gamma_start must lie in (0.25, 4), not {self.gamma_start}.")
        matrix = torch.tensor(self.base_matrix, dtype=torch.float64, device="cpu")
        if matrix.shape != (3, 3) or not 1e-6 <= abs(float(torch.linalg.det(matrix))) < math.inf:  # nor is NaN
            raise ValueError(f"base_matrix must be an invertible 3x3 matrix, not {self.base_matrix}.")

    @cached_property
    def functions(self) -> dict[str, tuple[_Parameter, ...]]:
        """The functions in the order they are applied, each with its parameters."""

        def rgb(name: str, kind: str, low: float, high: float, start: float) -> _Parameter:
            return _Parameter(name, 3, kind, low, high, start)

        def stretch(x: float, w: float, h: float) -> tuple[_Parameter, ...]:
            window = (rgb("w", "unit", 0.02, 0.98, w), rgb("h", "unit", 0.02, 0.98, h))
            if self.tie_xy:
                return rgb("x", "unit", 0.0, 1.0, x), *window
            # The four-parameter form divides by x and 1 - x.
            return rgb("x", "unit", 0.02, 0.98, x), *window, rgb("y", "unit", 0.02, 0.98, x)

        it = (rgb("g3", "exp", 1 / 3, 3.5, 1.0), rgb("g4", "unit", 0.0, 3.0, 0.02), rgb("k2", "unit", 0.0, 1.0, 0.5))
        return {
            **({"it": it} if self.inverse_tone_mapping else {}),
            "cc": (
                _Parameter("o", 6, "tanh", -_OFF_DIAGONAL_LIMIT, _OFF_DIAGONAL_LIMIT, 0.0),
                rgb("gain", "exp", math.exp(-1.5), math.exp(1.5), 1.0),
            ),
            "ga": stretch(0.1, *((0.47, 0.53) if self.inverse_tone_mapping else (0.45, 0.55))),
            "gm": (
                rgb("g1", "exp", 0.25, 4.0, self.gamma_start),
                rgb("g2", "unit", 0.2, 2.0, 1.0),
                rgb("k", "unit", 0.0, 1.0, 0.5),
            ),
            "cs": stretch(0.5, 0.47, 0.53),
        }

    @property
    def _parameters(self) -> list[_Parameter]:
        """All parameters in the order of the K channels."""
        return [p for group in self.functions.values() for p in group]

    @property
    def n_parameters(self) -> int:
        """Number K of values at a position."""
        return sum(p.count for p in self._parameters)

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
        return torch.cat([p.squash(values) for p, values in self._channels(z)], 1)

    def split(self, parameters: Tensor) -> dict[str, dict[str, Tensor]]:
        """Parameter sets ``(N, K, h, w)`` as views ``[function][parameter]`` of ``(N, 3 or 6, h, w)``."""
        parts = iter(self._channels(parameters))
        return {name: {p.name: next(parts)[1] for p in group} for name, group in self.functions.items()}

    def _channels(self, sets: Tensor) -> list[tuple[_Parameter, Tensor]]:
        """The parameters, each with its channels of sets or free numbers ``(N, K, h, w)``."""
        self.check(sets)
        # One split: its gradient is one concatenation, where slices would each fill a map of zeros.
        parts = sets.split([p.count for p in self._parameters], dim=1)
        return list(zip(self._parameters, parts, strict=True))

    def check(self, parameters: Tensor) -> None:
        """Raise ValueError unless ``parameters`` is ``(N, K, h, w)`` with this ISP's K."""
        if parameters.dim() != 4 or parameters.shape[1] != self.n_parameters:
            kind = "IE" if self.inverse_tone_mapping else "ISP"
            raise ValueError(
                f"Parameter sets of shape {tuple(parameters.shape)} do not fit this {kind} variant: expected "
                f"(N, {self.n_parameters}, h, w)."
            )

    def check_domains(self, parameters: Tensor) -> None:
        """Raise ValueError unless sets ``(N, K, h, w)`` lie in their domains, up to rounding; NaN lies outside."""
        ends = [(p.low, p.high) for p in self._parameters for _ in range(p.count)]
        low, high = parameters.new_tensor(ends).T[:, :, None, None]
        # Of float32 at least: float64 sets come from float32 banks.
        eps = max(torch.finfo(dtype).eps for dtype in (parameters.dtype, torch.float32))
        slack = 8 * eps * torch.maximum(low.abs(), high.abs())
        values = parameters.detach()
        outside = ~((values >= low - slack) & (values <= high + slack))
        if not bool(outside.any()):
            return
        n, channel = (int(i) for i in outside.nonzero()[0][:2])
        value = float(values[n, channel][outside[n, channel]][0])
        names = [f"{p.name} ({name})" for p in self._parameters for name in _CHANNEL_NAMES[p.count]]
        raise ValueError(
            f"{names[channel]} of set {n} is {value:.6g}, outside its domain [{ends[channel][0]:.6g}, "
            f"{ends[channel][1]:.6g}]. ISPSpec.squash turns any numbers into values of the domains."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint that loads with ``weights_only=True``."""
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "base_matrix": [list(row) for row in self.base_matrix],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ISPSpec:
        """Inverse of `to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value cannot be used.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(values, Mapping) or values.keys() != names:
            raise ValueError(f"An ISP is described by {', '.join(sorted(names))}, not by {values!r:.200}.")
        try:
            return cls(**{**values, "base_matrix": tuple(tuple(row) for row in values["base_matrix"])})
        except TypeError:  # a text where a number belongs, and the like
            raise ValueError(f"The description of the ISP holds a value of a wrong type: {values!r:.200}.") from None


@dataclass(frozen=True)
class ParameterStatistics:
    """What a bank holds of one parameter in one channel, over all sets and positions.

    Attributes:
        function: ``it``, ``cc``, ``ga``, ``gm`` or ``cs``.
        parameter: Its name in the table of `ISPSpec`.
        channel: ``red``, ``green`` or ``blue``; for the off-diagonals of cc ``rg``, ``rb``, ``gr``, ``gb``, ``br`` or
            ``bg``, the row first.
        low: Low end of the domain.
        high: High end of the domain.
        start: Where training began.
        min: Smallest value.
        p5: 5 % quantile, interpolated linearly as `numpy.quantile` does.
        median: Median.
        p95: 95 % quantile.
        max: Largest value.
        mean: Mean.
        std: Standard deviation (of the population: the sum of squares divided by the number of values).
        at_low: Share, 0 to 1, of values within 1 % of the domain's width (in log units for g1, g3 and gain) of its low
            end. A parameter that training drove to an end asks for a wider range. g4 starts within that 1 %: at 0 the
            exponent of inverse tone mapping is g3 at every brightness.
        at_high: The same for the high end.
        between_images: Standard deviation between the sets' means over their positions.
        within_image: Mean over the sets of the standard deviation between a set's positions; 0 for global sets.
    """

    function: str
    parameter: str
    channel: str
    low: float
    high: float
    start: float
    min: float
    p5: float
    median: float
    p95: float
    max: float
    mean: float
    std: float
    at_low: float
    at_high: float
    between_images: float
    within_image: float


class ParameterBank:
    """The parameter sets of the last N training samples (Sec. 3.1, eq. 9; N = 5000 in Table 5).

    Args:
        spec: The ISP the sets belong to.
        capacity: N.
        grid: ``(h, w)`` of the sets, (1, 1) for global ones.

    Attributes:
        non_finite: How many sets were left out because a value was NaN or infinite.
    """

    def __init__(self, spec: ISPSpec, capacity: int, grid: tuple[int, int] = (1, 1)) -> None:
        if capacity < 1:
            raise ValueError(f"A parameter bank needs a capacity of at least 1, not {capacity}.")
        if min(grid) < 1:
            raise ValueError(f"A parameter bank needs a grid of at least 1x1, not {tuple(grid)}.")
        self.spec = spec
        self.capacity = capacity
        self.non_finite = 0
        self._ring = torch.empty(0, spec.n_parameters, *grid, dtype=torch.float32)
        self._count = 0
        self._next = 0  # where the next set goes; once the ring is full, the oldest lies there

    def __len__(self) -> int:
        return self._count

    @property
    def grid(self) -> tuple[int, int]:
        """``(h, w)`` of each set."""
        return (self._ring.shape[2], self._ring.shape[3])

    @property
    def sets(self) -> Tensor:
        """A copy of all sets, ``(n, K, h, w)`` float32 on the CPU, the oldest first."""
        return self._ring[self._places(torch.arange(self._count))]

    def _places(self, ages: Tensor) -> Tensor:
        """Where in the ring sets lie, 0 being the oldest."""
        return (self._next - self._count + ages) % self.capacity

    def append(self, parameters: Tensor) -> None:
        """Add the sets of a batch; the oldest ones leave when the bank is full.

        Sets with a NaN or an infinity are left out and counted in `non_finite`: one of them would spoil pseudo-data
        long after, and whether a run that diverges must stop is the training loop's decision, not the bank's.

        Args:
            parameters: ``(B, K, h, w)`` of any floating-point type, on any device.

        Raises:
            ValueError: The sets are of another ISP or another grid.
        """
        self.spec.check(parameters)
        if tuple(parameters.shape[2:]) != self.grid:
            raise ValueError(f"Sets on a {tuple(parameters.shape[2:])} grid do not fit a bank of {self.grid} ones.")
        new = parameters.detach().to("cpu", torch.float32)
        finite = new.isfinite().flatten(1).all(1)
        self.non_finite += int((~finite).sum())
        new = new[finite][-self.capacity :]
        self._reserve(min(self.capacity, self._count + len(new)))
        self._ring[(self._next + torch.arange(len(new))) % self.capacity] = new
        self._next = (self._next + len(new)) % self.capacity
        self._count = min(self.capacity, self._count + len(new))

    def _reserve(self, n: int) -> None:
        """Make room for n sets. Doubling copies each set about once, where growing with every batch copies it often."""
        if n > len(self._ring):
            ring = self._ring.new_empty(min(self.capacity, max(n, 2 * len(self._ring))), *self._ring.shape[1:])
            ring[: self._count] = self._ring[: self._count]  # before it is full, the ring begins with the oldest
            self._ring = ring

    def draw(self, n: int, generator: torch.Generator, *, per_function: bool = False) -> Tensor:
        """Draw sets uniformly, with replacement (eq. 9).

        The draw depends on the bank's sets, their order and the generator's state alone: a bank that was saved and
        loaded draws the same. n sets of the whole ISP at once are those of n draws of one. Per function they are not:
        the n indices of one function are drawn before those of the next.

        Args:
            n: How many.
            generator: A CPU generator.
            per_function: Draw an independent index for every function (Sec. 3.2, for 1,000 pairs and more) instead
                of one for the whole ISP.

        Returns:
            ``(n, K, h, w)`` on the CPU.

        Raises:
            ValueError: The bank is empty.
        """
        self._check_not_empty()
        if not per_function:
            return self._ring[self._places(torch.randint(self._count, (n,), generator=generator))]
        parts = [
            self._ring[self._places(torch.randint(self._count, (n,), generator=generator)), where]
            for where in self.spec.slices().values()
        ]
        return torch.cat(parts, dim=1)

    def statistics(self) -> list[ParameterStatistics]:
        """What the bank holds: one row a parameter and channel, in the order of the K channels.

        Raises:
            ValueError: The bank is empty.
        """
        self._check_not_empty()
        rows: list[ParameterStatistics] = []
        values = self.spec.split(self.sets)
        for function, parameters in self.spec.functions.items():
            for p in parameters:
                rows += _statistics(function, p, values[function][p.name].double())
        return rows

    def _check_not_empty(self) -> None:
        if self._count == 0:
            raise ValueError("The parameter bank is empty: train f_ISP first (phase 1).")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: loads with ``weights_only=True``."""
        return {
            "spec": self.spec.to_dict(),
            "capacity": self.capacity,
            "sets": self.sets,
            "non_finite": self.non_finite,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> ParameterBank:
        """Inverse of `state_dict`; states without ``non_finite``, which came later, load too.

        Raises:
            ValueError: The state is damaged; the message says in what.
        """
        try:
            return cls._from_state_dict(state)
        except ValueError as error:
            raise ValueError(
                f"A saved parameter bank cannot be used: {error} Take another checkpoint of that run, or train f_ISP "
                "again (phase 1)."
            ) from None

    @classmethod
    def _from_state_dict(cls, state: Mapping[str, Any]) -> ParameterBank:
        if not isinstance(state, Mapping):
            raise ValueError(f"it is of type {type(state).__name__}, not a dictionary.")
        missing = sorted({"spec", "capacity", "sets"} - state.keys())
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}.")
        sets, capacity, non_finite = state["sets"], state["capacity"], state.get("non_finite", 0)
        for name, value in (("capacity", capacity), ("non_finite", non_finite)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}, not a whole number of 0 or more.")
        spec = ISPSpec.from_dict(state["spec"])
        if not isinstance(sets, Tensor) or not sets.is_floating_point():
            what = sets.dtype if isinstance(sets, Tensor) else type(sets).__name__
            raise ValueError(f"sets is {what}, not a floating-point tensor.")
        spec.check(sets)
        if len(sets) > capacity:
            raise ValueError(f"it holds {len(sets)} sets, more than its capacity of {capacity}.")
        bank = cls(spec, capacity, (sets.shape[2], sets.shape[3]))
        bank.append(sets)
        if bank.non_finite:
            raise ValueError(f"{bank.non_finite} of its {len(sets)} sets hold NaN or infinite values.")
        bank.non_finite = non_finite
        return bank


def _statistics(function: str, p: _Parameter, values: Tensor) -> list[ParameterStatistics]:
    """The rows of one parameter, whose values are ``(n, 3 or 6, h, w)`` float64, n > 0."""
    of_set = values.flatten(2)
    ordered = values.transpose(0, 1).flatten(1).sort(dim=1).values
    count = ordered.shape[1]
    place = p.place(ordered)
    std, mean = torch.std_mean(ordered, dim=1, correction=0)
    # Not torch.quantile, which refuses more than 16 million values.
    where = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64) * (count - 1)
    below, above = where.floor().long(), where.ceil().long()
    quantiles = torch.lerp(ordered[:, below], ordered[:, above], where - below)
    columns = {
        "min": ordered[:, 0],
        "p5": quantiles[:, 0],
        "median": quantiles[:, 1],
        "p95": quantiles[:, 2],
        "max": ordered[:, -1],
        "mean": mean,
        "std": std,
        "at_low": (place <= _AT_THE_END).double().mean(1),
        "at_high": (place >= 1 - _AT_THE_END).double().mean(1),
        "between_images": of_set.mean(2).std(0, correction=0),
        "within_image": of_set.std(2, correction=0).mean(0),
    }
    lists = {name: column.tolist() for name, column in columns.items()}
    return [
        ParameterStatistics(
            function, p.name, channel, p.low, p.high, p.start, **{name: column[c] for name, column in lists.items()}
        )
        for c, channel in enumerate(_CHANNEL_NAMES[p.count])
    ]
