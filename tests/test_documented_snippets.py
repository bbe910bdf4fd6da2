"""Every block of Python in the documents runs, as it stands, with the names and files that its page speaks of."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT

from semiisp_plugin import PseudoFilter, per_sample, semi_supervised_loss
from semiisp_plugin.apps.enhance.network import save_network
from semiisp_plugin.io.image_io import write_image
from semiisp_plugin.registry import FILTER_REGISTRY
from semiisp_plugin.toolbox import ARCH_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY, build_network

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCKS = [
    (f"{page.stem}-{number}", textwrap.dedent(text))
    for page in PAGES
    for number, text in enumerate(re.findall(r"(?ms)^ *```python\n(.*?)^ *```", page.read_text("utf-8")))
]
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def enhance(place: Path, files: Any) -> dict[str, Any]:
    options = {"type": "SepLUT", "n_vertices_3d": 5, "n_vertices_1d": 5, "thumbnail": 32}
    save_network(place / "net_g_latest.pth", options, build_network(dict(options)).state_dict())
    for folder in ("photos", "raw"):
        write_image(place / folder / "a.png", PICTURE)
    return {"image": PICTURE}


def brighten(place: Path, files: Any) -> dict[str, Any]:
    write_image(place / "datasets/lolv1_100/val20/low/a.png", PICTURE)
    return {}


def phases(place: Path, files: Any) -> dict[str, Any]:
    (place / "options").mkdir()
    shutil.copy(files.write("run", files.base("run", "SupervisedModel", 2)), place / "options/semiie_lolv1.yml")
    return {}


def loop(place: Path, files: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 1)
    images = {"lq": torch.rand(5, 3, 8, 8), "gt": torch.rand(5, 3, 8, 8), "is_pseudo": torch.arange(5) > 1}
    names = {"F": F, "network": network, "optimiser": torch.optim.SGD(network.parameters(), 0.1), **images}
    names["pseudo_filter"] = PseudoFilter(beta=1.2)
    return {**names, "per_sample": per_sample, "semi_supervised_loss": semi_supervised_loss}


SETUP: dict[str, Callable[[Path, Any], dict[str, Any]]] = {
    "enhance-0": enhance,
    "metrics-1": brighten,
    "workflow-0": phases,
    "plain_pytorch-0": loop,
}


@pytest.fixture
def registries():
    """What a snippet registers is forgotten afterwards."""
    tables = (ARCH_REGISTRY, FILTER_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY)
    before = [dict(table._obj_map) for table in tables]
    yield
    for table, names in zip(tables, before, strict=True):
        table._obj_map.clear()
        table._obj_map.update(names)


@pytest.mark.parametrize(("name", "text"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_a_snippet_runs(name, text, workspace, option_files, registries):
    names = {"__name__": "snippet", **SETUP.get(name, lambda place, files: {})(workspace, option_files)}
    exec(compile(text, name, "exec"), names)
    for network in {"MyNetwork", "GammaNet"} & set(names):
        assert names[network]()(torch.rand(1, 3, 8, 9)).shape == (1, 3, 8, 9)
    if "report" in names:
        assert len(names["report"].written) == 2
    if "model" in names:
        assert names["model"].iteration > 0
