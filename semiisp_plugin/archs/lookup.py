"""Lookup tables on images: linear, trilinear, tetrahedral, with even and uneven vertices, and in bilateral grids.

There is no extension to compile, and there are gradients everywhere: all but the tetrahedral lookup are
``torch.nn.functional.grid_sample``, for which Numba stands in where 3D tables meet a large image on a CPU without
gradients. A new tensor of an image's size costs more than the arithmetic on it, so there are few of them. On
CUDA the gradients add up in no fixed order: runs repeat to rounding, not bit by bit.

3D tables are (N, C, V, V, V), indexed ``[n, output colour, blue, green, red]`` (red runs fastest).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.archs.image_network import Context, PreparedNetwork
from semiisp_plugin.isp import compiled
from semiisp_plugin.isp.parameter_maps import worth_it

__all__ = [
    "LookupNetwork",
    "coordinates",
    "identity_lut_3d",
    "look_up",
    "pass_nan",
    "sample_1d",
    "sample_3d",
    "sample_tetrahedral",
    "slice_corners",
    "slice_grids",
    "uneven_coordinates",
]

_BAND = 2**17  # pixels


def identity_lut_3d(n_vertices: int) -> Tensor:
    """The (3, V, V, V) table, float32, that maps every colour to itself."""
    axis = torch.linspace(0.0, 1.0, n_vertices)
    blue, green, red = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([red, green, blue])


def coordinates(image: Tensor) -> Tensor:
    """[0, 1] to the [-1, 1] of grid_sample; NaN becomes 0: its gradient crashes on a CPU where a grid is NaN."""
    return torch.nan_to_num(image * 2 - 1, nan=0.0)


def uneven_coordinates(image: Tensor, vertices: Tensor) -> Tensor:
    """As `coordinates`, for tables whose vertices lie anywhere (AdaInt), with gradients to both arguments.

    Args:
        image: (N, 3, H, W) in [0, 1].
        vertices: (N, 3, V), V >= 2, of each colour, ascending from 0 to 1.
    """
    values, last = image.flatten(2), vertices.shape[-1] - 1
    low = _interval(vertices.detach(), values.detach())
    slope = 2 / last / (vertices.diff(dim=-1) + 1e-10)
    even = torch.linspace(-1, 1, last + 1, dtype=slope.dtype, device=slope.device)[:-1].expand_as(slope)
    place = torch.addcmul(even.gather(2, low), values - vertices.gather(2, low), slope.gather(2, low))
    return torch.nan_to_num(place, nan=0.0).view_as(image)


def _interval(vertices: Tensor, values: Tensor) -> Tensor:
    """Number of the interval of each value, 0 to V - 2: how many vertices between the outermost are below it."""
    # By halving: torch.searchsorted takes three times as long, and ONNX has none.
    inner = vertices[..., 1:-1]
    steps = inner.shape[-1].bit_length()
    inner = F.pad(inner, (0, 2**steps - 1 - inner.shape[-1]), value=float("inf"))
    low = torch.zeros_like(values, dtype=torch.int64)
    for step in (2**k for k in reversed(range(steps))):
        low.add_((inner[..., step - 1 :].gather(2, low) < values).long(), alpha=step)
    return low


def sample_1d(x: Tensor, lut: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] through tables (N, C, V), V >= 2: outputs at equally spaced inputs -1 ... 1."""
    n, c, h, w = x.shape
    # A table is an image of one row: whatever y is, padding by the border takes it to that row. So x stands in for it,
    # which costs no memory.
    grid = x.reshape(n * c, h, w, 1).expand(-1, -1, -1, 2)
    out = F.grid_sample(lut.reshape(n * c, 1, 1, -1), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return out.reshape(n, c, h, w)


def sample_3d(x: Tensor, lut: Tensor) -> Tensor:
    """(N, 3, H, W) RGB in [-1, 1] through 3D tables, trilinearly: (N, C, H, W)."""
    # grid_sample reads a point as (x, y, z) = (last axis, ..., first axis) of the volume, hence red, green, blue.
    grid = x.permute(0, 2, 3, 1).unsqueeze(1)
    out = F.grid_sample(lut, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return out.squeeze(2)


def look_up(image: Tensor, lut: Tensor, vertices: Tensor | None = None) -> Tensor:
    """(N, 3, H, W) RGB in [0, 1] through 3D tables (N, 3, V, V, V), trilinearly. Pixels with NaN become NaN.

    Args:
        image: What is outside [0, 1] is clamped.
        lut: The tables.
        vertices: (N, 3, V), see `uneven_coordinates`; None: evenly spaced.
    """
    if worth_it(image, lut):
        out = compiled.look_up(image, lut, vertices)
        if out is not None:
            return pass_nan(image, out)
    places = coordinates(image) if vertices is None else uneven_coordinates(image, vertices)
    return pass_nan(image, sample_3d(places, lut))


def sample_tetrahedral(image: Tensor, lut: Tensor) -> Tensor:
    """(N, 3, H, W) RGB in [0, 1] through 3D tables, linearly in each of the six tetrahedra of a cell: (N, C, H, W).

    From the cell's darkest vertex to its brightest the way goes first along the colour with the largest fraction, last
    along that with the smallest; the four vertices on it are mixed. Pixels with NaN become NaN.
    """
    n, _, h, w = image.shape
    size = lut.shape[-1]
    fraction = image.flatten(2).clamp(0, 1).mul_(size - 1)
    low = torch.nan_to_num(fraction.detach()).floor_().clamp_max_(size - 2)
    fraction = fraction.sub_(low)
    most, least = fraction.amax(1), fraction.amin(1)
    middle = fraction.sum(1) - most - least
    red, green, blue = fraction.detach().unbind(1)
    # Of equal fractions any order will do: a vertex that it concerns has the weight 0. Numbers of vertices are below
    # 2^24, which float32 has exactly.
    first = torch.where(red == most, 1.0, torch.where(green == most, float(size), float(size**2)))
    last = torch.where(blue == least, float(size**2), torch.where(green == least, float(size), 1.0))
    darkest = low[:, 0] + size * low[:, 1] + size**2 * low[:, 2]
    brightest = darkest + (1 + size + size**2)
    flat = lut.flatten(2)

    def at(vertex: Tensor) -> Tensor:
        return flat.gather(2, vertex.long()[:, None].expand(-1, flat.shape[1], -1))

    out = at(darkest) * (1 - most)[:, None]
    out.addcmul_(at(darkest + first), (most - middle)[:, None])
    out.addcmul_(at(brightest - last), (middle - least)[:, None])
    out.addcmul_(at(brightest), least[:, None])
    return out.reshape(n, -1, h, w)


def slice_grids(guides: Tensor, grids: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilateral grids at the pixels of images, trilinearly: (N, 3 M, H, W), M maps for each guide.

    Args:
        guides: (N, 3, H, W) in [0, 1], where along the first axis of its grid a pixel is looked up.
        grids: (N, 3 M, V, V, V), the first M for the first guide; the last axes are guide, row, column.
        x: (W,) in [0, 1], where a column of pixels is, from the first to the last of the grid.
        y: (H,), the same of rows.
    """
    n, c, h, w = guides.shape
    columns, rows = coordinates(x).expand_as(guides), coordinates(y)[:, None].expand_as(guides)
    grid = torch.stack([columns, rows, coordinates(guides)], -1).reshape(n * c, 1, h, w, 3)
    volumes = grids.reshape(n * c, -1, *grids.shape[2:])
    return F.grid_sample(volumes, grid, mode="bilinear", padding_mode="border", align_corners=True).reshape(n, -1, h, w)


def slice_corners(guides: Tensor, grids: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """As `slice_grids` where x and y are 0 or 1, in a fifth of its time: a pixel takes one of the corners' curves."""
    n, c, h, w = guides.shape
    vertices = grids.shape[-1]
    curves = grids[..., :: vertices - 1, :: vertices - 1].flatten(3).transpose(2, 3)
    corner = coordinates((2 * y[:, None] + x) / 3).expand_as(guides)
    grid = torch.stack([coordinates(guides), corner], -1).reshape(n * c, h, w, 2)
    tables = curves.reshape(n * c, -1, 4, vertices)
    return F.grid_sample(tables, grid, mode="bilinear", padding_mode="border", align_corners=True).reshape(n, -1, h, w)


def pass_nan(image: Tensor, out: Tensor, *, colours_apart: bool = False) -> Tensor:
    """NaN where pixels of the image are (one colour is enough, unless ``colours_apart``), else ``out``."""
    # On a CPU a look at the sum is cheaper than a mask. NaN is rare: only damaged images have it.
    if not torch.compiler.is_compiling() and image.device.type == "cpu" and not bool(image.detach().sum().isnan()):
        return out
    missing = image.isnan()
    return torch.where(missing if colours_apart else missing.any(1, keepdim=True), float("nan"), out)


class LookupNetwork(PreparedNetwork[Context]):
    """A network that predicts tables from a thumbnail of an image, and looks up each pixel in them."""

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or image.device.type != "cpu":
            return super().enhance(image)
        context, size = self.prepare(image), (image.shape[-2], image.shape[-1])
        # By bands, whose tensors fit into caches and memory that was used before.
        rows = max(1, _BAND // (len(image) * size[1]))
        bands = range(0, size[0], rows)
        return torch.cat([self.apply_prepared(image[:, :, i : i + rows], context, (i, 0), size) for i in bands], 2)
