"""Weights in the files that the public repositories write, through ``basicsr test``.

The files are made here, with the layout of those that are published: MMEditing's for SepLUT (the published ones hold
``meta`` and ``state_dict``; those of a training also the optimiser), BasicSR's for NAFNet and Retinexformer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.io.image_io import list_images, read_image
from semiisp_plugin.toolbox import build_network
from semiisp_plugin.training import test_pipeline as run_test

SEPLUT = {"type": "SepLUT", "n_base_feats": 6, "n_vertices_3d": 9, "n_vertices_1d": 9}
SEPLUT_17 = {"type": "SepLUT"}
SEPLUT_PPR = {"type": "SepLUT", "backbone": "res18", "n_ranks": 5}
NAFNET = {"type": "NAFNet", "width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
NAFNET_LOCAL = {**NAFNET, "tlc_train_size": 24}
CSRNET = {"type": "CSRNet", "num_feat": 8, "condition_feat": 4}
ADAINT = {"type": "AdaInt", "n_vertices": 5, "thumbnail": 32, "n_base_feats": 4}
BGRID = {**ADAINT, "type": "LUTwithBGrid"}
LLF_LUT = {"type": "LLFLUT", "num_lap": 2, "n_vertices": 5, "embed_dim": 8, "heads": [1, 2], "filter_feat": 8}
CIDNET = {"type": "CIDNet", "channels": [4, 4, 8, 8], "heads": [1, 2, 2]}
RETINEXFORMER = {"type": "Retinexformer", "n_feat": 8}


def weights(network: dict[str, Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    net: nn.Module = build_network(dict(network))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return dict(net.state_dict())


def mmediting(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """As MMCV's runner saves a checkpoint."""
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(3))])
    about = {
        "epoch": 400,
        "iter": 1_800_000,
        "time": "Mon Jul 18 10:00:00 2022",
        "mmcv_version": "1.3.17",
        "env_info": "sys.platform: linux",
        "config": "model = dict(type='SepLUT')",
        "seed": 0,
        "exp_name": "fivekrgb.py",
        "hook_msgs": {},
    }
    return {"meta": about, "state_dict": state, "optimizer": {"generator": optimiser.state_dict()}}


def parallel(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As of a network within torch's data-parallel wrapper."""
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("network", "layout", "line"),
    [
        (SEPLUT, mmediting, {"param_key_g": "state_dict"}),
        (SEPLUT_17, lambda state: mmediting(parallel(state)), {"param_key_g": "state_dict"}),
        (SEPLUT_PPR, lambda state: {"meta": {}, "state_dict": state}, {"param_key_g": "state_dict"}),
        (SEPLUT, lambda state: state, {}),
        (NAFNET, lambda state: {"params": state}, {}),
        (NAFNET_LOCAL, lambda state: {"params": parallel(state)}, {}),
        (ADAINT, lambda state: {"meta": {}, "state_dict": state}, {}),
        (BGRID, lambda state: state, {}),
        (LLF_LUT, lambda state: state, {}),
        (CIDNET, lambda state: state, {}),
        (CSRNET, lambda state: state, {}),
        (RETINEXFORMER, lambda state: {"params": state}, {}),
        (RETINEXFORMER, lambda state: {"params": parallel(state)}, {}),
    ],
)
def test_published_files_load_with_at_most_one_line(
    network: dict[str, Any], layout: Any, line: dict[str, str], option_files: Any
) -> None:
    """The results are those of the network with these weights, written as PNG."""
    state = weights(network)
    torch.save(layout(state), option_files.folder / "published.pth")
    inputs = option_files.data / "test" / "input"
    options = {
        "name": "published",
        "model_type": "SupervisedModel",
        "num_gpu": 0,
        "datasets": {"test_1": option_files.pairs("test")},
        "network_g": network,
        "path": {"pretrain_network_g": "published.pth", **line},
        "val": {"save_img": True, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
    }
    results = run_test(str(option_files.folder), ["-opt", option_files.write("published", options)])
    assert results.keys() == {"test"}
    net: nn.Module = build_network(dict(network)).eval()
    net.load_state_dict(state)
    names = sorted(list_images(inputs))
    written = sorted((option_files.folder / "results" / "published").rglob("*.png"))
    assert len(written) == len(names) == 2
    for name, file in zip(names, written, strict=True):
        image = read_image(inputs / name)
        scaled = torch.from_numpy(image / np.float32(np.iinfo(image.dtype).max)).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            expected = (net(scaled)[0].permute(1, 2, 0).clamp(0, 1) * 255).round().numpy()
        found = read_image(file).astype(np.float32)
        assert np.abs(found - expected).max() <= 1  # a half may be rounded either way
        assert np.mean(found != expected) < 0.01


def test_a_file_of_another_layout_says_what_to_name(option_files: Any) -> None:
    """Where another key is asked for, the message has the right one."""
    torch.save(mmediting(weights(SEPLUT)), option_files.folder / "published.pth")
    options = {
        "name": "published",
        "model_type": "SupervisedModel",
        "num_gpu": 0,
        "datasets": {"test_1": option_files.pairs("test")},
        "network_g": SEPLUT,
        "path": {"pretrain_network_g": "published.pth", "param_key_g": "params"},
        "val": {"save_img": False},
    }
    path = option_files.write("published", options)
    with pytest.raises(CheckpointError, match=r"has no weights under 'params'\. It has: state_dict\. .*param_key_g"):
        run_test(str(option_files.folder), ["-opt", path])
