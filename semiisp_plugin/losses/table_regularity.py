"""How far lookup tables are from smooth and from monotone, a sample: two terms of a loss.

After Zeng et al., "Learning Image-adaptive 3D Lookup Tables for High Performance Photo Enhancement in Real-time" (TPAMI
2020). As in their public code, each is a sum over the table's axes of means over its cells; the factor 2 that the code
gives to the outermost cells is left out. They take both of the learned 3D tables that are mixed. Here both are of the
table that an image gets, since a mixture with negative weights of monotone tables need not be monotone; and of 1D
tables too (ours).

Tables are ``(N, 3, V)``, or ``(N, 3, V, V, V)`` with the axes blue, green, red after the output colour (red, green,
blue).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from semiisp_plugin.losses.per_sample import full_precision, per_sample

Axes = Literal["own", "all"]


def roughness(tables: Tensor) -> Tensor:
    """Squared differences of neighbouring vertices: the total variation in Zeng's R_s.

    Args:
        tables: See the module's docstring.

    Returns:
        ``(N,)``, float32 at least; of tables of V vertices that return their input, ``1 / (V - 1)^2``.
    """
    tables = full_precision(tables)
    return torch.stack([per_sample(tables.diff(dim=axis).square()) for axis in range(2, tables.ndim)]).sum(0)


def falls(tables: Tensor, axes: Axes = "own") -> Tensor:
    """How far values fall from a vertex to the next one; 0 where tables are monotone.

    Args:
        tables: See the module's docstring.
        axes: Of 3D tables. ``all``: no output colour may fall when any input colour rises, Zeng's R_m. Of an image's
            own table that forbids more saturation, where red falls as green rises. ``own`` (ours): an output colour may
            not fall when its own input rises, nor when all three rise by a vertex, so that greys keep their order.

    Returns:
        ``(N,)``, float32 at least.
    """
    tables = full_precision(tables)
    if axes == "all" or tables.ndim == 3:
        rises = [tables.diff(dim=axis) for axis in range(2, tables.ndim)]
    else:
        rises = [tables[..., 1:, 1:, 1:] - tables[..., :-1, :-1, :-1]]
        # Red's own axis is the last one, blue's the first. All are of one size once flat.
        own = [tables[:, colour].diff(dim=3 - colour).flatten(1) for colour in range(3)]
        rises.append(torch.cat(own, 1))
    return torch.stack([per_sample((-rise).relu()) for rise in rises]).sum(0)
