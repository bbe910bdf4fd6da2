"""Networks that spandrel knows are loaded by it from our safetensors, by the names of their weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from semiisp_plugin.apps.enhance.network import save_network
from semiisp_plugin.toolbox import build_network

U_NET = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"type": "NAFNet", **U_NET}, "NAFNet"),
        ({"type": "KBNet_s", **U_NET}, "KBNet"),
        ({"type": "KBNet_s", **U_NET, "lightweight": True}, "KBNet"),
        ({"type": "Retinexformer", "n_feat": 8, "num_blocks": [1, 1, 1]}, "RetinexFormer"),
        ({"type": "CIDNet", "channels": [12, 12, 24, 48], "heads": [1, 2, 4]}, "HVI-CIDNet"),
    ],
    ids=lambda it: it["type"] + "-light" * ("lightweight" in it) if isinstance(it, dict) else "",
)
@torch.no_grad()
def test_spandrel_loads_it_and_gives_the_same(options: dict[str, Any], name: str, tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel", reason="needs spandrel")
    torch.manual_seed(0)
    network = build_network(dict(options)).eval()
    for parameter in network.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    save_network(tmp_path / "network.safetensors", options, network.state_dict())
    loaded = spandrel.ModelLoader().load_from_file(tmp_path / "network.safetensors")
    assert loaded.architecture.name == name
    image = torch.rand(1, 3, 32, 40)
    torch.testing.assert_close(loaded(image), network(image).clamp(0, 1), rtol=0, atol=1e-5)
