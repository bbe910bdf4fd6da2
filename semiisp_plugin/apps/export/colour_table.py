"""A network as a table of colours (3D LUT), which image, video and RAW programs apply: .cube and HaldCLUT.

A table maps colours alone. It is exact at its points where the network does so for a given image (`exact_table`), and
the best fit to what the network makes of pictures elsewhere (`fitted_table`).

Tables are ``(3, n, n, n)``, indexed ``[output colour, blue, green, red]``, of values in [0, 1] at equally spaced inputs
0 ... 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.interpolate import NdBSpline
from scipy.sparse.linalg import cg
from torch import Tensor

from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.archs.lookup import identity_lut_3d

# Weight of the table's squared second derivatives, of which the integral over all colours is taken, beside the mean
# squared error. Less of it follows single pictures more, and fits others less: tried with tables of half of the
# pictures of two sets on the other half, from 1e-8 to 1e-3.
SMOOTHNESS = 1e-5
_COARSE = (5, 9, 17, 33)  # points a side of the tables from which the next finer one starts
_SAME = 1e-4  # of values of 0 to 1: rounding by another order of sums


class Difference(NamedTuple):
    """How far a table's results are from the network's.

    Attributes:
        psnr: In dB, of all values.
        mean: Mean absolute difference, in levels of 255.
        most: Largest one, in levels of 255.
    """

    psnr: float
    mean: float
    most: float

    def __str__(self) -> str:
        return f"PSNR {self.psnr:.1f} dB, mean difference {self.mean:.2f}, largest {self.most:.1f} of 255 levels"


def difference(table: Tensor, colours: Tensor, results: Tensor) -> Difference:
    """Compare a table with the network's results for colours, both ``(N, 3)``."""
    apart = (apply_table(table, colours) - results).abs().double()
    psnr = -10 * apart.square().mean().clamp_min(1e-12).log10()
    return Difference(float(psnr), 255 * float(apart.mean()), 255 * float(apart.max()))


def apply_table(table: Tensor, colours: Tensor) -> Tensor:
    """Look up colours ``(N, 3)`` in [0, 1], linearly between the points, as other programs do."""
    # grid_sample reads a place as (last axis, ..., first axis) of the volume: red, green, blue.
    places = (colours * 2 - 1)[None, None, None]
    found = F.grid_sample(table[None].to(colours), places, padding_mode="border", align_corners=True)
    return found[0, :, 0, 0].T


@torch.no_grad()
def exact_table(enhancer: Enhancer, image: Tensor, size: int) -> Tensor | None:
    """The network's own values at the table's points, where it is one function of colour for a given image.

    Networks that decide by the whole image (`Enhancer`) are, if what they decided does the same to the image's pixels
    in another order.

    Args:
        enhancer: Has the network.
        image: ``(1, 3, H, W)`` in [0, 1].
        size: Points a side.

    Returns:
        The table; None: the network does different things at different places.
    """
    if not enhancer.decides_by_whole:
        return None
    network = cast(Any, enhancer.network)
    image = image.to(enhancer.device)
    context = network.prepare(image)

    def apply(pixels: Tensor) -> Tensor:
        return network.apply_prepared(pixels, context, (0, 0), tuple(pixels.shape[-2:]))

    order = torch.randperm(image[0, 0].numel(), generator=torch.Generator().manual_seed(0)).to(image.device)
    shuffled = apply(image.flatten(2)[..., order].view_as(image))
    if not float((shuffled.flatten(2) - apply(image).flatten(2)[..., order]).abs().max()) <= _SAME:
        return None
    points = identity_lut_3d(size).to(image)
    return apply(points.flatten(2)[None]).clamp(0, 1).reshape(points.shape).cpu()


def fitted_table(colours: Tensor, results: Tensor, size: int) -> Tensor:
    """The table that comes nearest to results for colours: by regularised least squares, smooth where no colour lies.

    Minimised are the mean squared error and `SMOOTHNESS` times the integral of the squared second derivatives, by
    conjugate gradients, first for a coarse table, from which the next finer one starts. The first starts at the
    identity, which stays where neither term decides.

    Args:
        colours: ``(N, 3)`` in [0, 1].
        results: ``(N, 3)``.
        size: Points a side.
    """
    wanted = results.double().numpy()
    table = identity_lut_3d(2)
    for points in (*(n for n in _COARSE if n < size), size):
        start = F.interpolate(table[None], (points,) * 3, mode="trilinear", align_corners=True)[0]
        mix = _interpolation(colours, points)
        matrix = (mix.T @ mix) / len(wanted) + SMOOTHNESS * _second_derivatives(points)
        scale = sparse.diags_array(1 / matrix.diagonal())
        target = mix.T @ wanted / len(wanted)
        solved = [
            cg(matrix, target[:, colour], start[colour].flatten().numpy(), rtol=1e-4, maxiter=1000, M=scale)[0]
            for colour in range(3)
        ]
        table = torch.from_numpy(np.stack(solved)).float().reshape(start.shape)
    return table.clamp(0, 1)


def _interpolation(colours: Tensor, points: int) -> sparse.csr_array:
    """The matrix, (N, points^3), that interpolates a table at colours."""
    knots = np.pad(np.linspace(0, 1, points), 1, mode="edge")
    blue_first = np.ascontiguousarray(colours.flip(1).double().numpy())
    matrix = NdBSpline.design_matrix(blue_first, (knots,) * 3, 1)
    # Its own shape ends at the last point that a colour uses.
    return sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(len(colours), points**3))


def _second_derivatives(points: int) -> sparse.csr_array:
    """The quadratic form of a table's squared second derivatives, the mixed ones too, integrated over all colours."""
    eye = sparse.eye_array(points)
    first = sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(points - 1, points))
    second = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(points - 2, points))
    form = sparse.csr_array((points**3, points**3))
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        factors = [eye] * 3
        factors[a] = factors[b] = first if a != b else second
        by_axes = sparse.csr_array(sparse.kron(sparse.kron(factors[0], factors[1]), factors[2]))
        form = form + (1 if a == b else 2) * (by_axes.T @ by_axes)
    # Differences are the derivatives times the square of the distance, of whose cube each point stands for one.
    return form * (points - 1)


def cube_text(table: Tensor, title: str, comments: Sequence[str] = ()) -> str:
    """The text of an Adobe .cube file: points row by row, red fastest.

    Args:
        table: The table.
        title: In ASCII, which other programs may show.
        comments: Lines of remarks.
    """
    title = title.replace('"', "'")
    head = [f'TITLE "{title}"', *(f"# {line}" for line in comments), f"LUT_3D_SIZE {table.shape[-1]}"]
    head += ["DOMAIN_MIN 0 0 0", "DOMAIN_MAX 1 1 1"]
    rows = (f"{red:.6f} {green:.6f} {blue:.6f}" for red, green, blue in table.flatten(1).T.tolist())
    text = "\n".join([*head, *rows]) + "\n"
    return text.encode("ascii", "backslashreplace").decode()


def haldclut(table: Tensor) -> np.ndarray:
    """The picture of a HaldCLUT, uint16 ``(level^3, level^3, 3)``, of a table with ``level^2`` points a side."""
    side = round(table.shape[-1] ** 1.5)
    values = (table.double() * 65535).round().permute(1, 2, 3, 0).reshape(side, side, 3)
    return values.numpy().astype(np.uint16)
