"""The composed ISP of invertible functions and its inverse (eqs 2, 3, 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from semiisp_plugin.isp import compiled
from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.gamma_inverse import GammaInverse
from semiisp_plugin.isp.paper_lut import PAPER_SIZES, paper_lut
from semiisp_plugin.isp.parameter_maps import ParameterMaps, has_numbers, rows_of, worth_it
from semiisp_plugin.isp.parameters import ISPSpec
from semiisp_plugin.isp.tone_inverse import ToneInverse

_Parameters = Mapping[str, Mapping[str, Tensor]]
_Function = Callable[[Tensor], Tensor]

BACKENDS = ("exact", "curve8", "paper_lut")


class InverseResult(NamedTuple):
    """A reconstructed input.

    Attributes:
        image: ``(N, 3, H, W)``, clamped to [0, 1] unless asked otherwise.
        clipped: ``(N,)``, share of values that lay outside [0, 1] after the inverse colour correction.
    """

    image: Tensor
    clipped: Tensor


@dataclass(frozen=True)
class PaperLUTSettings:
    """Tables of the backend ``paper_lut`` (Algorithm 1).

    Args:
        gamma_ranges: Domains of g1, g2, k that the table spans; None for those of `ISPSpec`, over which the table's
            largest error is above 0.1. The paper's figures (mean 1.1e-5, largest 6.5e-5) are those of a box such as
            ``((1, 2), (0.9, 1.1), (0.2, 0.8))``.
        tone_ranges: The same of g3, g4, k2.
        sizes: Points along the three parameters, the inputs and the outputs.
    """

    gamma_ranges: tuple[tuple[float, float], ...] | None = None
    tone_ranges: tuple[tuple[float, float], ...] | None = None
    sizes: tuple[int, ...] = PAPER_SIZES

    def __post_init__(self) -> None:
        """Lists, as option files have them, become tuples, by which tables are kept."""
        for name in ("gamma_ranges", "tone_ranges"):
            ranges = getattr(self, name)
            if ranges is not None:
                object.__setattr__(self, name, tuple(tuple(r) for r in ranges))
        object.__setattr__(self, "sizes", tuple(self.sizes))


class InvertibleISP:
    """f_ISP = f_CS o f_GM o f_GA o f_CC (eq. 3), with f_IT first for image enhancement (Sec. 3.5).

    Stateless: images and parameter sets in, images out. Images of float16 and bfloat16 are computed in float32. Both
    directions are differentiable (in reverse mode) and can be compiled with `torch.compile`.

    Clamping is the one thing that cannot be undone. It happens where a function needs [0, 1] and its input may lie
    outside: after f_CC going forward; after f_CC^-1, which is before f_IT^-1 or the result, going back. The paper is
    silent on it.

    Args:
        spec: What the ISP consists of.
        lut: For the backend ``paper_lut``.
        check: Whether to look if parameters lie in their domains, outside of which the functions give NaN or have no
            inverse. It takes next to nothing for sets on a grid, but makes a GPU's queue run empty. `ISPSpec.squash`
            gives none outside. Under `torch.compile` and the like nothing is looked at.
    """

    def __init__(self, spec: ISPSpec, lut: PaperLUTSettings | None = None, *, check: bool = True) -> None:
        self.spec = spec
        self._checks_domains = check
        self.lut = lut or PaperLUTSettings()
        ranges = {p.name: (p.low, p.high) for group in spec.functions.values() for p in group}
        self._gamma_ranges = self.lut.gamma_ranges or tuple(ranges[name] for name in ("g1", "g2", "k"))
        if spec.inverse_tone_mapping:
            self._tone_ranges = self.lut.tone_ranges or tuple(ranges[name] for name in ("g3", "g4", "k2"))

    # --- forward -----------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor, parameters: Tensor) -> Tensor:
        """RAW (or degraded sRGB) to sRGB.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            parameters: ``(N, K, h, w)``; a grid larger than 1x1 is interpolated to the image.

        Returns:
            ``(N, 3, H, W)`` in [0, 1], of the image's type.

        Raises:
            ValueError: The shapes or types do not go together, or a parameter lies outside its domain.
        """
        self._check(parameters, image)
        if image.dtype == torch.uint8:
            raise ValueError("forward() takes floating-point numbers in [0, 1]; divide a uint8 image by 255.")
        dtype = image.dtype
        image, parameters = fn.in_full_precision(image, parameters)
        maps = self._maps(parameters, image)
        if not worth_it(image, parameters):
            return self._forward(image, maps.whole()).to(dtype)
        image = image.contiguous()
        done = compiled.forward(self.spec, image, parameters)
        if done is not None:
            return done.to(dtype)
        out = image.new_empty(image.shape, dtype=dtype)
        for rows, p in maps.strips(rows_of(image)):
            out[:, :, rows] = self._forward(image[:, :, rows], p)
        return out

    def _forward(self, image: Tensor, p: _Parameters) -> Tensor:
        if self.spec.inverse_tone_mapping:
            image = fn.inverse_tone_map(image, **p["it"], sign=self.spec.it_sign)
        image = fn.colour_correction(image, p["cc"]["o"], p["cc"]["gain"], self.spec.base_matrix).clamp(0, 1)
        image = fn.contrast_stretch(image, **p["ga"])
        image = fn.gamma_tone_map(image, **p["gm"])
        return fn.contrast_stretch(image, **p["cs"])

    # --- inverse -----------------------------------------------------------------------------------------------------

    def inverse(
        self, image: Tensor, parameters: Tensor, *, backend: str = "exact", clamp: bool = True
    ) -> InverseResult:
        """sRGB to RAW (or degraded sRGB), eq. 6.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1], or uint8.
            parameters: ``(N, K, h, w)``; a grid larger than 1x1 is interpolated to the image.
            backend: How the two tone mappings are inverted. ``exact``: to rounding, for all sets of the ISP's domains,
                and differentiable. ``curve8``: for uint8 images and 1x1 parameters, the same to rounding and many
                times faster. ``paper_lut``: interpolation of a 4-D table (Sec. A.2), to compare with.
            clamp: False leaves the result as the inverse colour correction gives it. Not with inverse tone mapping,
                whose inverse has no value outside [0, 1].

        Returns:
            See `InverseResult`; of the image's type, or that of the parameters for a uint8 image.

        Raises:
            ValueError: The shapes, types and options do not go together, or a parameter lies outside its domain or
                (``paper_lut``) the table.
            RuntimeError: ``paper_lut`` was asked for gradients, or lacks CuPy on a GPU.
        """
        if backend not in BACKENDS:
            raise ValueError(f"backend: '{backend}' is none of {', '.join(BACKENDS)}.")
        if self.spec.inverse_tone_mapping and not clamp:
            raise ValueError("clamp=False cannot be had with inverse tone mapping, which is inverted on [0, 1] alone.")
        self._check(parameters, image)
        dtype = image.dtype
        if image.dtype == torch.uint8:
            dtype = parameters.dtype
            (parameters,) = fn.in_full_precision(parameters)
        else:
            image, parameters = fn.in_full_precision(image, parameters)
        if backend == "curve8" and (image.dtype != torch.uint8 or tuple(parameters.shape[2:]) != (1, 1)):
            raise ValueError(
                f"curve8 takes uint8 images and (N, K, 1, 1) parameters, not {image.dtype} and "
                f"{tuple(parameters.shape)}; use backend='exact'."
            )
        by_strips = worth_it(image, parameters) and backend != "paper_lut"
        compile_it = backend == "curve8" and by_strips and clamp
        done = compiled.invert_crops(self.spec, image, parameters) if compile_it else None
        result, outside = done or self._inverse(image, parameters, backend, clamp, by_strips)
        return InverseResult(result.to(dtype), outside)

    def _inverse(
        self, image: Tensor, parameters: Tensor, backend: str, clamp: bool, by_strips: bool
    ) -> tuple[Tensor, Tensor]:
        """The image and, by image of the batch, the share of values outside [0, 1]."""
        maps = self._maps(parameters, image)
        table = self._table(maps.whole(), parameters) if backend == "curve8" else None
        if not by_strips:
            result, outside = self._bound_inverse(maps.whole(), parameters.dtype, backend, clamp, table)(image)
        else:
            image = image.contiguous()
            result = parameters.new_empty(image.shape)
            outside = parameters.new_zeros(len(image))
            before: _Parameters | None = None
            for rows, p in maps.strips(rows_of(image)):
                if p is not before:  # without a grid they are the same for all strips
                    invert, before = self._bound_inverse(p, parameters.dtype, backend, clamp, table), p
                result[:, :, rows], count = invert(image[:, :, rows])
                outside += count
        return result, outside / max(1, image.shape[1:].numel())

    def _bound_inverse(
        self, p: _Parameters, dtype: torch.dtype, backend: str, clamp: bool, table: Tensor | None
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The inverse with given parameters: an image to its inverse and the number of values outside [0, 1]."""
        curves = self._curves(p, dtype, backend) if table is None else partial(_look_up, table=table)
        colours = fn.ColourInverse(p["cc"]["o"], p["cc"]["gain"], self.spec.base_matrix)
        tone = self._inverse_tone(p["it"], backend) if self.spec.inverse_tone_mapping else None

        def invert(image: Tensor) -> tuple[Tensor, Tensor]:
            raw = colours(curves(image))
            clamped = raw.clamp(0, 1)
            outside = _count_different(raw.detach(), clamped.detach())
            if tone is not None:
                clamped = tone(clamped)
            return (clamped if clamp else raw), outside

        return invert

    def _curves(self, p: _Parameters, dtype: torch.dtype, backend: str = "exact") -> _Function:
        """f_GA^-1 o f_GM^-1 o f_CS^-1, computed in ``dtype``."""
        gamma = self._inverse_gamma(p["gm"], backend)

        def curves(image: Tensor) -> Tensor:
            if image.dtype == torch.uint8:
                image = image.to(dtype) / 255
            return fn.contrast_stretch_inverse(gamma(fn.contrast_stretch_inverse(image, **p["cs"])), **p["ga"])

        return curves

    def _inverse_gamma(self, p: Mapping[str, Tensor], backend: str) -> _Function:
        if backend != "paper_lut":
            return GammaInverse(**p)
        table = paper_lut("gamma_tone_map", self._gamma_ranges, self.lut.sizes, 1)
        return lambda image: table(image, p["g1"], p["g2"], p["k"])

    def _inverse_tone(self, p: Mapping[str, Tensor], backend: str) -> _Function:
        sign = self.spec.it_sign
        if backend != "paper_lut":
            return ToneInverse(**p, sign=sign)
        table = paper_lut("inverse_tone_map", self._tone_ranges, self.lut.sizes, sign)
        return lambda image: table(image, p["g3"], p["g4"], p["k2"])

    # The per-channel functions of one set turn the 256 levels of an 8-bit image into 256 values: ``curve8`` computes
    # those once, by the exact inverse, and looks them up.

    def _table(self, p: _Parameters, parameters: Tensor) -> Tensor:
        """The curves of each set, ``(N, 3, 256)``."""
        levels = torch.arange(256, dtype=parameters.dtype, device=parameters.device).div(255)
        return self._curves(p, parameters.dtype)(levels.expand(len(parameters), 3, 1, 256)).flatten(2)

    def _maps(self, parameters: Tensor, image: Tensor) -> ParameterMaps:
        return ParameterMaps(self.spec, parameters, (image.shape[2], image.shape[3]))

    def _check(self, parameters: Tensor, image: Tensor) -> None:
        self.spec.check(parameters)
        if len(parameters) != len(image):
            raise ValueError(f"{len(parameters)} parameter sets for {len(image)} images: give one set an image.")
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"Images must be (N, 3, H, W), not {tuple(image.shape)}.")
        if not image.dtype.is_floating_point and image.dtype != torch.uint8:
            raise ValueError(f"Images must be floating-point numbers in [0, 1] or uint8, not {image.dtype}.")
        if not parameters.dtype.is_floating_point:
            raise ValueError(f"Parameter sets must be floating-point numbers, not {parameters.dtype}.")
        if self._checks_domains and has_numbers(parameters):
            self.spec.check_domains(parameters)


def _look_up(image: Tensor, table: Tensor) -> Tensor:
    """``table[n, c, image[n, c, y, x]]`` of an ``(N, 3, H, W)`` uint8 image and an ``(N, 3, 256)`` table."""
    n = len(image)
    # 32-bit indices into one table: gather() would want 64-bit ones.
    start = torch.arange(0, n * 3 * 256, 256, dtype=torch.int32, device=image.device).view(n, 3, 1, 1)
    index = image.to(torch.int32) + start
    return table.flatten().index_select(0, index.flatten()).view(image.shape)


def _count_different(a: Tensor, b: Tensor) -> Tensor:
    """Number of values of each image that differ, as floating-point numbers ``(N,)``."""
    # Faster than a mask on a CPU, and one more point-wise step for a compiler.
    return (a - b).sign().abs().flatten(1).sum(1)
