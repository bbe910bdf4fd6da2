"""What tests of several rooms use."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semiisp_plugin.io.lmdb_io import read_meta, read_value
from semiisp_plugin.isp import ISPSpec, ParameterBank

ROOT = Path(__file__).resolve().parents[1]
Net = TypeVar("Net", bound=nn.Module)
TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])
needs_exporter = pytest.mark.skipif(TORCH < (2, 6), reason="the ONNX export needs torch 2.6")


def load_script(name: str) -> ModuleType:
    """A module of ``scripts/``, of ``benchmarks/`` if the name says so."""
    path = ROOT / (name if "/" in name else f"scripts/{name}")
    spec = importlib.util.spec_from_file_location(path.name, path.with_suffix(".py"))
    sys.modules[path.name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def values_of(folder: str | Path) -> dict[str, bytes]:
    """Every entry of an LMDB, in order."""
    return {entry.key: read_value(folder, entry.key) for entry in read_meta(folder)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_sets(
    spec: ISPSpec, n: int, seed: int, grid: tuple[int, int] = (1, 1), spread: float = 0.7, dtype=torch.float64
) -> Tensor:
    """Parameter sets ``(n, p, *grid)`` around those that an untrained encoder gives."""
    return spec.squash(spread * torch.randn(n, spec.n_parameters, *grid, generator=seeded(seed), dtype=dtype))


def make_bank(
    spec: ISPSpec,
    n: int,
    seed: int,
    grid: tuple[int, int] = (1, 1),
    spread: float = 0.4,
    capacity: int | None = None,
) -> ParameterBank:
    """A bank of such sets, full unless it has room for more."""
    bank = ParameterBank(spec, capacity or n, grid)
    bank.append(make_sets(spec, n, seed, grid, spread, torch.float32))
    return bank


def filled(net: Net, seed: int, value_of: Callable[[str, nn.Parameter, np.ndarray], np.ndarray]) -> Net:
    """A network with float64 weights from NumPy's frozen generator, parameter by parameter in the order of names.

    ``value_of(name, parameter, u)`` makes each of ``u``, which is uniform in [-1, 1].
    """
    rng = np.random.RandomState(seed)
    net.double().eval()
    with torch.no_grad():
        for name, parameter in sorted(net.named_parameters()):
            u = rng.uniform(-1, 1, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(value_of(name, parameter, u)))
    return net


def probes(out: Tensor) -> list[float]:
    """Mean, standard deviation and six values of an output, to compare with recorded ones."""
    flat = out.detach().reshape(-1)
    return [flat.mean().item(), flat.std().item(), *flat[:: flat.numel() // 6][:6].tolist()]


def names_and_shapes(net: nn.Module) -> tuple[int, str]:
    """How many tensors a network's state has, and a digest of their names and shapes."""
    lines = sorted(f"{name} {'x'.join(map(str, value.shape))}" for name, value in net.state_dict().items())
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()


def touch(root: Path, names) -> Path:
    """Make empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def trilinear(image: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """Plain loops: (3, H, W) RGB through lut[colour, blue, green, red]."""
    vertices = lut.shape[-1]
    out = np.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            position = np.clip(image[:, y, x], 0, 1) * (vertices - 1)
            low = np.minimum(position.astype(int), vertices - 2)
            fraction = position - low
            for corner in np.ndindex(2, 2, 2):
                weight = np.prod([f if up else 1 - f for f, up in zip(fraction, corner, strict=True)])
                red, green, blue = low + corner
                out[:, y, x] += weight * lut[:, blue, green, red]
    return out
