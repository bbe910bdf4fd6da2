"""Every network of the plugin: any size, bfloat16, devices, `torch.compile`, ONNX.

The networks are those that are registered, so that a new one is tested as soon as it is there. They are built small:
what is tested depends on the operations, not on how many of them there are.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TORCH, needs_exporter
from torch import Tensor, nn

from semiisp_plugin.apps.export.onnx_graph import ExportError, difference, export_onnx, write_graph
from semiisp_plugin.toolbox import ARCH_REGISTRY, build_network

_UNET = {"width": 4, "middle_blk_num": 0, "enc_blk_nums": [1], "dec_blk_nums": [0]}
_LUT = {"thumbnail": 32, "n_vertices": 5, "n_base_feats": 4}
# Of 32 the last instance norm has 2 x 2 pixels, which are very unlike of images and weights that are rounded to
# bfloat16, although nothing is computed in it; and its random convolution takes most colours out of the table.
_BGRID = {**_LUT, "thumbnail": 64}
_RERAW = {"num_feat": 8, "num_block": 1, "head_block": 1, "num_gamma": 3, "thumbnail": 32}
# From zeros features are alike at all places: of fewer channels than four a norm has near ones alone, and roundings are
# what is left of their differences.
_DIFFUSION = {"num_feat": 32, "multipliers": [1, 2], "num_res_block": 1, "attention": [2], "head_feat": 16}
_DIFFUSION |= {"guidance_feat": 16, "guidance_block": 1, "steps": 2}
# By class, then by variant. A class that is not here is tested with its defaults.
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "NAFNet": {"": _UNET, "local": {**_UNET, "tlc_train_size": 12}},
    "KBNet_s": {"": {**_UNET, "lightweight": True}},
    "LLFormer": {"": {"dim": 4, "num_blocks": [0], "num_refinement_blocks": 0, "heads": [1]}},
    "PQDynamicISP": {
        "": {"thumbnail": 32},
        "local": {"thumbnail": 32, "inverse_tone_mapping": True, "grid": [2, 3]},
    },
    "Retinexformer": {"": {"n_feat": 8, "num_blocks": [1, 1]}},
    "WeightedMean": {
        "": {
            "networks": [{"type": "PQDynamicISP", "thumbnail": 32, "grid": [2, 2]}, {"type": "NAFNet", **_UNET}],
            "weights": [0.25, 0.75],
        },
    },
    "CIDNet": {"": {"channels": [4, 4, 8, 8], "heads": [1, 2, 2]}},
    "CSRNet": {"": {"num_feat": 8, "condition_feat": 6}},
    # The way back is for training, see its own tests.
    "CycleISP": {"": {"num_feat": 16, "num_rrg": 1, "num_dab": 1, "cycle_weight": 0}},
    "DRBN": {
        "": {"recurrences": 2, "num_feat": 8, "growth": 4},
        "recompose": {"recurrences": 2, "num_feat": 8, "growth": 4, "recompose": True},
    },
    "HDRNet": {
        "": {"luma_bins": 2, "spatial_bin": 4, "thumbnail": 32, "guide_feat": 4},
        "curves": {"luma_bins": 2, "spatial_bin": 4, "thumbnail": 32, "guide": "curves"},
    },
    "MicroISP": {"": {}, "mosaic": {"mosaic": True}},
    "NamedCurves": {"": {"skip_feat": 4, "curve_feat": 8}},
    "ReRAW": {"": _RERAW, "mosaic": {**_RERAW, "mosaic": True}},
    # With a rep_scale of 1 the last convolution cancels nearly all of what it gets, and roundings are what is left.
    "SYENet": {"": {"rep_scale": 2}, "mosaic": {"rep_scale": 2, "mosaic": True}},
    "LLFLUT": {"": {"num_lap": 2, "n_vertices": 5, "embed_dim": 8, "heads": [1, 2], "filter_feat": 8}},
    "LLFlow": {
        "": {"num_feat": 4, "num_block": 1, "num_grow_ch": 2, "stacked": [0]}
        | {"levels": 1, "flow_steps": 1, "hidden_feat": 4}
    },
    "InvISP": {"": {"num_blocks": 2, "growth": 4}},
    "RAWDiffusion": {"": _DIFFUSION, "mosaic": {**_DIFFUSION, "mosaic": True}},
    "SNRAware": {"": {"num_feat": 4, "num_block": 1, "layers": 1, "heads": 2, "head_feat": 4}},
    "SepLUT": {"": {"thumbnail": 32, "n_vertices_3d": 5, "n_vertices_1d": 6}},
    "SRISP": {"": {"thumbnail": 32, "entries": 4, "num_feat": 8, "references": 3}},
    "ImageAdaptive3DLUT": {"": _LUT},
    "AdaInt": {"": _LUT},
    "LUTwithBGrid": {"": _BGRID, "exact": {**_BGRID, "coordinates": "exact"}},
}
CLASSES = sorted(name for name, it in ARCH_REGISTRY if it.__module__.startswith("semiisp_plugin.archs."))
CASES = [(name, variant) for name in CLASSES for variant in SMALL.get(name, {"": {}})]
IDS = [f"{name}-{variant}" if variant else name for name, variant in CASES]
# What takes seconds is not done for a network of which another variant does more.
_LESSER = [("PQDynamicISP", ""), ("MicroISP", ""), ("SYENet", ""), ("ReRAW", ""), ("RAWDiffusion", "")]
_LESSER += [("LUTwithBGrid", "exact"), ("DRBN", "")]
LEAN = [(name, variant) for name, variant in CASES if (name, variant) not in _LESSER]
every_lean = pytest.mark.parametrize("case", LEAN, ids=["-".join(filter(None, case)) for case in LEAN])
every = pytest.mark.parametrize("case", CASES, ids=IDS)
ONE_SIZE = ("LLFLUT",)  # It exports for any, whose sizes torch works out in a minute and a half.
NO_ONNX = {"SRISP": "f_ISP's inverse has steps that torch's exporter knows no ONNX operation for"}
# Of the rest: 1e-2.
LEARNING_RATES = {
    "PQDynamicISP": 3e-3,
    "WeightedMean": 3e-3,
    "SepLUT": 3e-3,
    "KBNet_s": 3e-3,
    "MicroISP": 3e-3,
    "RAWDiffusion": 3e-3,
    "SNRAware": 3e-3,
    "DRBN": 3e-3,
    "SRISP": 3e-3,
    "ReRAW": 3e-3,
}
# How far two pairs' loss falls in two hundred steps, of the rest to a tenth. MicroISP begins grey.
FALLS = {"MicroISP": 0.6} | dict.fromkeys(("ImageAdaptive3DLUT", "AdaInt", "LUTwithBGrid", "HDRNet", "CIDNet"), 0.05)
STEPS = {"NamedCurves": 0.02}  # Share of pixels whose colour's name may be another after rounding, which is a jump.
SIZES = [(side, 18 - side) for side in range(1, 18)] + [(side, side) for side in range(1, 18)]
SIZES += [(1, 300), (257, 2), (33, 90)]


@cache
def make(case: tuple[str, str]) -> nn.Module:
    """A network in evaluation mode, with weights off their start, where some networks are the identity."""
    name, variant = case
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: nn.Module = build_network({"type": name, **SMALL.get(name, {"": {}})[variant]})
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def picture(*shape: int) -> Tensor:
    """With structure of all sizes, and pixels at 0 and 1."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, c, 3, 4, generator=generator)
    image = nn.functional.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)
    return (image + 0.2 * torch.rand(shape, generator=generator) - 0.1).clamp(0, 1)


def relative(out: Tensor, reference: Tensor, but: float = 0) -> float:
    """Root of the mean squared difference, by that of the reference; but for this share of what differs most."""
    squares = (out.double() - reference.double()).square().flatten().sort().values
    squares = squares[: len(squares) - int(but * len(squares))]
    return (squares.mean() / reference.double().square().mean()).sqrt().item()


@pytest.fixture
def net(case: tuple[str, str]) -> nn.Module:
    return make(case)


def test_all_networks_are_covered() -> None:
    assert {"NAFNet", "PQDynamicISP", "Retinexformer", "SepLUT"} <= set(CLASSES)
    assert set(SMALL) <= {*CLASSES}


@every
@torch.no_grad()
def test_any_size(net: nn.Module) -> None:
    for height, width in SIZES:
        out = net(picture(1, 3, height, width))
        assert out.shape == (1, 3, height, width)
        assert torch.isfinite(out).all(), (height, width)


@every
@pytest.mark.parametrize("shape", [(1, 3, 0, 8), (1, 3, 8, 0), (0, 3, 8, 8), (3, 8, 8), (1, 4, 8, 8), (1, 1, 8, 8)])
def test_what_is_no_image_batch_is_refused(net: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected an image batch \(N, 3, H, W\)|has no pixels"):
        net(torch.zeros(shape))


@every
@torch.no_grad()
def test_images_of_a_batch_do_not_mix(case: tuple[str, str]) -> None:
    net, images = build_copy(case).double(), picture(3, 3, 20, 30).double()
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), alone, rtol=0, atol=1e-9 if case[0] == "LLFlow" else 1e-12)


@every
def test_gradients_reach_all_that_is_trained_and_are_finite(case: tuple[str, str]) -> None:
    net, image = build_copy(case).train(), torch.rand(2, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    image[..., 24:] = 0.25  # without noise, where SNRAware's attention looks
    net(image).square().mean().backward()
    missing = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert missing == {name for name, p in net.named_parameters() if not p.requires_grad}
    for value in (0.0, 1.0):
        net.zero_grad()
        net(torch.full((2, 3, 16, 16), value)).square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None), value


@every
def test_two_pairs_are_learned_by_heart(case: tuple[str, str]) -> None:
    """Two looks at once: steep and bright, flat and dark."""
    torch.manual_seed(0)
    start = {"identity_start": True} if case[0] == "LUTwithBGrid" else {}  # its own, of dark tables, takes longer
    net = build_network({"type": case[0], **SMALL.get(case[0], {"": {}})[case[1]], **start}).train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    image = nn.functional.interpolate(0.1 + 0.8 * torch.rand(2, 3, 4, 4), (32, 32), mode="bilinear")
    wanted = torch.stack([0.9 * image[0] ** 0.5, 0.8 * image[1] ** 1.5])
    optimiser = torch.optim.Adam(net.parameters(), LEARNING_RATES.get(case[0], 1e-2))
    losses = []
    while len(losses) < 200 and (not losses or losses[-1] > FALLS.get(case[0], 0.1) * losses[0]):
        loss = (net(image) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert len(losses) < 200, losses


@every
def test_bfloat16(net: nn.Module, case: tuple[str, str], device: str) -> None:
    """Under autocast, and with weights and images of it: near the float32 result, with finite gradients."""
    image = picture(2, 3, 45, 38).to(device)
    net = build_copy(case).to(device)
    with torch.no_grad():
        reference = net(image)
    with torch.autocast(device, dtype=torch.bfloat16):
        mixed = net(image)
        mixed.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    low = net.bfloat16()
    bare = low(image.bfloat16())
    assert (reference.dtype, mixed.dtype, bare.dtype) == (torch.float32,) * 3
    assert net.double()(image.double()).dtype == torch.float64
    for out in (mixed, bare):
        assert out.shape == image.shape
        assert torch.isfinite(out).all()
        # One rounding to the eight bits of bfloat16 is 0.001 to 0.002.
        assert relative(out, reference, STEPS.get(case[0], 0)) < 0.02


def build_copy(case: tuple[str, str]) -> nn.Module:
    """`make`, to be changed."""
    name, variant = case
    net: nn.Module = build_network({"type": name, **SMALL.get(name, {"": {}})[variant]})
    net.load_state_dict(make(case).state_dict())
    return net.eval()


class _Same(nn.Module):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x


def build_thin(case: tuple[str, str]) -> nn.Module:
    """`build_copy` with less of what a network repeats, which none of its options leaves out: what tracing takes."""
    net: Any = build_copy(case)
    if case[0] == "NamedCurves":  # two of the six groups of colours
        net.bcpe.color_branches = net.bcpe.color_branches[:2]
        net.local_fusion.attention_fusion = net.local_fusion.attention_fusion[:2]
    if case[0] == "CIDNet":  # three of the six exchanges: of the first level, for the skip connection, and without one
        for name in ("HV_LCA3", "HV_LCA4", "HV_LCA6", "I_LCA3", "I_LCA4", "I_LCA6"):
            setattr(net, name, _Same())
    return net


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")
@every
@torch.no_grad()
def test_cuda_is_like_the_cpu(net: nn.Module, case: tuple[str, str]) -> None:
    image = picture(2, 3, 45, 38)
    copy = build_copy(case).cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert relative(copy(image.cuda()).cpu(), net(image)) < 1e-4


@pytest.mark.slow
@every_lean
def test_compiles_forward_and_backward(case: tuple[str, str]) -> None:
    """One graph each way, without breaks. No code is generated, which takes ten times as long: what it computes is
    torch's affair; one network goes all the way below."""
    if (case[0] in ("CSRNet", "LLFLUT", "MicroISP", "NamedCurves") or case == ("NAFNet", "local")) and TORCH < (2, 5):
        pytest.skip("torch 2.4 cannot compile torch.sym_min and torch.sym_max")
    torch._dynamo.reset()
    net, image = build_thin(case), picture(1, 3, 21, 18)
    expected = net(image)
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    out = torch.compile(net, backend="aot_eager", fullgraph=True)(image)
    out.square().mean().backward()
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for found, gradient in zip([p.grad for p in net.parameters() if p.grad is not None], gradients, strict=True):
        assert relative(found, gradient) < 1e-3 or gradient.abs().max() < 1e-7


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
@torch.no_grad()
def test_compiles_to_machine_code() -> None:
    """By torch's own compiler, for the network with the least usual operations; others take minutes."""
    torch._dynamo.reset()
    net, image = make(("SepLUT", "")), picture(1, 3, 21, 18)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(image), net(image), rtol=1e-4, atol=1e-5)


def needs_onnx() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")


@pytest.mark.slow
@needs_exporter
@every_lean
def test_onnx_of_any_size(case: tuple[str, str], tmp_path: Path) -> None:
    """ONNX Runtime gives what torch gives, at sizes other than that of the export."""
    needs_onnx()
    if case[0] in NO_ONNX:
        pytest.skip(NO_ONNX[case[0]])
    net = build_thin(case)
    side = SMALL[case[0]][case[1]].get("thumbnail", 18 if case[0] == "SNRAware" else None)  # of several tokens
    file = tmp_path / "net.onnx"
    # Of their own thumbnails, or smaller than the windows of the local one; not simplified: it takes half the time.
    fixed = case[0] in ONE_SIZE
    write_graph(net, file, (side, side) if side else (16, 14), fixed=fixed, optimize=False)
    for shape in (
        ((1, 3, 16, 14),) if fixed else ((2, 3, 16, 14), (1, 3, 17, 23), (3, 3, 61, 40), (1, 3, 3, 5), (1, 3, 1, 1))
    ):
        assert difference(net, file, picture(*shape)) < 1e-4
    assert os.listdir(tmp_path) == ["net.onnx"]


@pytest.mark.slow
@needs_exporter
def test_onnx_of_one_size(tmp_path: Path) -> None:
    needs_onnx()
    out = tmp_path / "net.onnx"
    write_graph(make(("SepLUT", "")), out, (20, 30), fixed=True, optimize=False)
    with pytest.raises(ExportError, match="fails on 1 image"):
        difference(make(("SepLUT", "")), out, picture(1, 3, 40, 30))


@pytest.mark.slow
@needs_exporter
def test_a_network_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image * 2 if image.sum().item() > 0 else image

    needs_onnx()
    with pytest.raises(ExportError, match=r"Undecided cannot be exported to ONNX for images of any size.*--fixed"):
        export_onnx(Undecided(), tmp_path / "net.onnx")
    assert not os.listdir(tmp_path)
