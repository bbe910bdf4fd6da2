"""The composed ISP of invertible functions and its inverse (eqs 2, 3, 6)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.isp import curve8, strips
from semiisp_plugin.isp import functions as fn
from semiisp_plugin.isp.compiled import compiled
from semiisp_plugin.isp.gamma_inverse import GammaInverse
from semiisp_plugin.isp.paper_lut import PAPER_SIZES, paper_lut
from semiisp_plugin.isp.parameters import ISPSpec
from semiisp_plugin.isp.tone_inverse import ToneInverse

_Parameters = Mapping[str, Mapping[str, Tensor]]
_Bound = Callable[[Tensor], Tensor]
_Binding = Callable[[Mapping[str, Tensor]], _Bound]

BACKENDS = ("exact", "curve8", "paper_lut")
_RANGES_GM = ("g1", "g2", "k")
_RANGES_IT = ("g3", "g4", "k2")


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
        cache_dir: Folder where tables are kept; without it they live as long as the process.
    """

    gamma_ranges: tuple[tuple[float, float], ...] | None = None
    tone_ranges: tuple[tuple[float, float], ...] | None = None
    sizes: tuple[int, ...] = PAPER_SIZES
    cache_dir: str | os.PathLike[str] | None = None

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
    """

    def __init__(self, spec: ISPSpec, lut: PaperLUTSettings | None = None) -> None:
        self.spec = spec
        self.lut = lut or PaperLUTSettings()
        self._n_parameters = spec.n_parameters
        self._base_inverse = np.array(fn.inverse_matrix(spec.base_matrix))
        ranges = {p.name: (p.low, p.high) for group in spec.functions.values() for p in group}
        self._g2_range = ranges["g2"]
        self._gamma_ranges = self.lut.gamma_ranges or tuple(ranges[name] for name in _RANGES_GM)
        if spec.inverse_tone_mapping:
            self._tone_ranges = self.lut.tone_ranges or tuple(ranges[name] for name in _RANGES_IT)

    # --- forward -----------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor, parameters: Tensor) -> Tensor:
        """RAW (or degraded sRGB) to sRGB.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            parameters: ``(N, K, h, w)``; a grid larger than 1x1 is interpolated to the image.

        Returns:
            ``(N, 3, H, W)`` in [0, 1], of the image's type.
        """
        self._check(parameters, image)
        if image.dtype == torch.uint8:
            raise ValueError("forward() takes floating-point numbers in [0, 1]; divide a uint8 image by 255.")
        dtype = image.dtype
        image, parameters = fn.in_full_precision(image, parameters)
        maps = self._maps(parameters, image)
        if not strips.worth_it(image, parameters):
            return self._forward(image, maps.whole()).to(dtype)
        image = image.contiguous()
        done = self._forward_compiled(image, parameters)
        if done is not None:
            return done.to(dtype)
        out = image.new_empty(image.shape, dtype=dtype)
        for rows, p in maps.strips(strips.rows_of(image)):
            out[:, :, rows] = self._forward(image[:, :, rows], p)
        return out

    def _forward_compiled(self, image: Tensor, parameters: Tensor) -> Tensor | None:
        """The same in one pass over the image; None where Numba cannot, or what it computes would be another thing."""
        run = compiled("rows_numba", "forward")
        spec = self.spec
        if run is None or image.dtype != torch.float32 or (spec.inverse_tone_mapping and spec.it_sign < 0):
            return None
        if not (bool(parameters.isfinite().all()) and bool(image.isfinite().all())):
            return None  # comparisons of the compiled code would make numbers of NaN
        where = spec.slices()
        starts = tuple(where[name].start if name in where else -1 for name in ("it", "cc", "ga", "gm", "cs"))
        base = np.array(spec.base_matrix, np.float32)
        out = torch.empty_like(image)
        for picture, grid, target in zip(image.numpy(), parameters.contiguous().numpy(), out.numpy(), strict=True):
            y, x = (
                strips.positions(side, nodes) for side, nodes in zip(picture.shape[1:], grid.shape[1:], strict=True)
            )
            if run(picture, grid, y, x, starts, not spec.tie_xy, base, target) is None:
                return None
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
            ValueError: The shapes, types and options do not go together, or (``paper_lut``) a parameter lies outside
                the table.
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
        if backend == "curve8":
            result = self._inverse_curve8(image, parameters, clamp)
        else:
            maps = self._maps(parameters, image)
            invert_gamma, invert_tone = self._exact() if backend == "exact" else self._tables()

            def bind(p: _Parameters) -> _Bound:
                return self._bind_curves(p, invert_gamma, parameters.dtype)

            go_by_strips = strips.worth_it(image, parameters) and backend == "exact"
            result = self._inverse(image, parameters, maps, bind, invert_tone, clamp, go_by_strips)
        return InverseResult(result.image.to(dtype), result.clipped)

    # Parameters are bound first and images given then: without a grid they are the same for all strips of an image.

    def _exact(self) -> tuple[_Binding, _Binding]:
        def invert_gamma(p: Mapping[str, Tensor]) -> _Bound:
            return GammaInverse(**p, g2_range=self._g2_range)

        def invert_tone(p: Mapping[str, Tensor]) -> _Bound:
            return ToneInverse(**p, sign=self.spec.it_sign)

        return invert_gamma, invert_tone

    def _tables(self) -> tuple[_Binding, _Binding]:
        cache_dir = None if self.lut.cache_dir is None else os.fspath(self.lut.cache_dir)

        def invert_gamma(p: Mapping[str, Tensor]) -> _Bound:
            table = paper_lut("gamma_tone_map", self._gamma_ranges, self.lut.sizes, 1, cache_dir)
            return lambda image: table(image, p["g1"], p["g2"], p["k"])

        def invert_tone(p: Mapping[str, Tensor]) -> _Bound:
            sign = self.spec.it_sign
            table = paper_lut("inverse_tone_map", self._tone_ranges, self.lut.sizes, sign, cache_dir)
            return lambda image: table(image, p["g3"], p["g4"], p["k2"])

        return invert_gamma, invert_tone

    def _bind_curves(self, p: _Parameters, invert_gamma: _Binding, dtype: torch.dtype) -> _Bound:
        """f_GA^-1 o f_GM^-1 o f_CS^-1."""
        gamma = invert_gamma(p["gm"])

        def curves(image: Tensor) -> Tensor:
            if image.dtype == torch.uint8:
                image = image.to(dtype) / 255
            return fn.contrast_stretch_inverse(gamma(fn.contrast_stretch_inverse(image, **p["cs"])), **p["ga"])

        return curves

    def _bind_inverse(
        self, p: _Parameters, curves: _Bound, invert_tone: _Binding, clamp: bool
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The per-channel functions by ``curves``, then colour correction, clamp and inverse tone mapping.

        Returns the image and, by image of the batch, how many values were outside [0, 1].
        """
        colours = fn.ColourInverse(p["cc"]["o"], p["cc"]["gain"], self.spec.base_matrix)
        tone = invert_tone(p["it"]) if self.spec.inverse_tone_mapping else None

        def chain(image: Tensor) -> tuple[Tensor, Tensor]:
            raw = colours(curves(image))
            clamped = raw.clamp(0, 1)
            outside = _count_different(raw.detach(), clamped.detach())
            if tone is not None:
                clamped = tone(clamped)
            return (clamped if clamp else raw), outside

        return chain

    def _inverse(
        self,
        image: Tensor,
        parameters: Tensor,
        maps: strips.ParameterMaps,
        bind_curves: Callable[[_Parameters], _Bound],
        invert_tone: _Binding,
        clamp: bool,
        go_by_strips: bool,
    ) -> InverseResult:
        if not go_by_strips:
            p = maps.whole()
            result, outside = self._bind_inverse(p, bind_curves(p), invert_tone, clamp)(image)
        else:
            image = image.contiguous()
            result = parameters.new_empty(image.shape)
            outside = parameters.new_zeros(len(image))
            before: _Parameters | None = None
            for rows, p in maps.strips(strips.rows_of(image)):
                if p is not before:
                    chain, before = self._bind_inverse(p, bind_curves(p), invert_tone, clamp), p
                result[:, :, rows], count = chain(image[:, :, rows])
                outside += count
        return InverseResult(result, outside / max(1, image.shape[1:].numel()))

    def _inverse_curve8(self, image: Tensor, parameters: Tensor, clamp: bool) -> InverseResult:
        if image.dtype != torch.uint8 or tuple(parameters.shape[2:]) != (1, 1):
            raise ValueError(
                f"curve8 takes uint8 images and (N, K, 1, 1) parameters, not {image.dtype} and "
                f"{tuple(parameters.shape)}; use backend='exact'."
            )
        go_by_strips = strips.worth_it(image, parameters)
        # Comparisons of the compiled code would make numbers of NaN.
        if go_by_strips and not self.spec.inverse_tone_mapping and bool(parameters.isfinite().all()):
            result = self._inverse_compiled(image, parameters, clamp)
            if result is not None:
                return result
        maps = self._maps(parameters, image)
        invert_gamma, invert_tone = self._exact()
        curves = self._bind_curves(maps.whole(), invert_gamma, parameters.dtype)
        table = curves(curve8.levels(len(image), parameters)).flatten(2)

        def bind(_: _Parameters) -> _Bound:
            return lambda strip: curve8.look_up(strip, table)

        return self._inverse(image, parameters, maps, bind, invert_tone, clamp, go_by_strips)

    def _inverse_compiled(self, image: Tensor, parameters: Tensor, clamp: bool) -> InverseResult | None:
        """`_inverse_curve8` in one pass over the image; None where Numba cannot."""
        invert = compiled("curve8_numba", "invert")
        if invert is None:
            return None
        channels_last = image.permute(0, 2, 3, 1)
        if not channels_last.is_contiguous():  # as images are read from files; otherwise plane by plane
            channels_last = image.contiguous().permute(0, 2, 3, 1)
        out = parameters.new_empty(image.shape)
        steps = 2 if parameters.dtype == torch.float32 else 3
        outside = np.empty(len(image), out.numpy().dtype)
        sets = strips.arrays(self.spec, parameters)
        for i, (pixels, p, target) in enumerate(zip(channels_last.numpy(), sets, out.numpy(), strict=True)):
            rows, planes = pixels.reshape(-1, 3), target.reshape(3, -1)
            done = invert(rows, p["ga"], p["gm"], p["cs"], p["cc"], self._base_inverse, steps, clamp, planes)
            if done is None:
                return None
            outside[i] = done[0] / target.size
        return InverseResult(out, torch.from_numpy(outside))

    def _maps(self, parameters: Tensor, image: Tensor) -> strips.ParameterMaps:
        return strips.ParameterMaps(self.spec, parameters, (image.shape[2], image.shape[3]))

    def _check(self, parameters: Tensor, image: Tensor) -> None:
        if parameters.dim() != 4 or parameters.shape[1] != self._n_parameters:
            self.spec.check(parameters)  # which says what is wrong, and counts every time
        if len(parameters) != len(image):
            raise ValueError(f"{len(parameters)} parameter sets for {len(image)} images: give one set an image.")
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"Images must be (N, 3, H, W), not {tuple(image.shape)}.")
        if not image.dtype.is_floating_point and image.dtype != torch.uint8:
            raise ValueError(f"Images must be floating-point numbers in [0, 1] or uint8, not {image.dtype}.")
        if not parameters.dtype.is_floating_point:
            raise ValueError(f"Parameter sets must be floating-point numbers, not {parameters.dtype}.")


def _count_different(a: Tensor, b: Tensor) -> Tensor:
    """Number of values of each image that differ, as floating-point numbers ``(N,)``."""
    # Faster than a mask on a CPU, and one more point-wise step for a compiler.
    return (a - b).sign().abs().flatten(1).sum(1)
