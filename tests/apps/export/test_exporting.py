"""``basicsr export``: files of other programs, read by these programs, against the network."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import needs_exporter
from image_zoo import encoded, picture
from PIL import Image, ImageFilter
from torch import Tensor, nn

from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.apps.export.colour_table import apply_table, difference, exact_table, fitted_table, haldclut
from semiisp_plugin.apps.export.exporting import run_from_arguments
from semiisp_plugin.archs.lookup import identity_lut_3d
from semiisp_plugin.arguments import build_parser
from semiisp_plugin.io.image_io import read_image, to_tensor
from semiisp_plugin.toolbox import build_network

NETWORKS = {
    "global": {"type": "PQDynamicISP", "inverse_tone_mapping": True, "thumbnail": 32},
    "local": {"type": "PQDynamicISP", "inverse_tone_mapping": True, "thumbnail": 64, "grid": [2, 2]},
    "raw": {"type": "PQDynamicISP", "thumbnail": 32},
    "seplut": {"type": "SepLUT", "n_vertices_3d": 5, "n_vertices_1d": 6, "thumbnail": 32, "identity_start": True},
    "csrnet": {"type": "CSRNet", "num_feat": 16, "condition_feat": 8},
    "adaint": {"type": "AdaInt", "n_vertices": 5, "thumbnail": 32, "n_base_feats": 4},
    "bgrid": {"type": "LUTwithBGrid", "n_vertices": 5, "thumbnail": 32, "n_base_feats": 4},
    "lut3d": {"type": "ImageAdaptive3DLUT", "n_vertices": 5, "thumbnail": 32, "n_base_feats": 4},
    "nafnet": {"type": "NAFNet", "width": 4, "middle_blk_num": 0, "enc_blk_nums": [1], "dec_blk_nums": [0]},
    "larger": {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 4},
}


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Checkpoints of `NETWORKS` off their start, and photographs."""
    monkeypatch.chdir(tmp_path)
    for name, options in NETWORKS.items():
        torch.manual_seed(0)
        network = build_network(dict(options))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        torch.save({"params": network.state_dict(), "network": options}, f"{name}.pth")
    Path("photos").mkdir()
    for seed in range(3):
        Path(f"photos/{seed}.png").write_bytes(encoded(picture(60, 80, seed), "PNG"))
    return tmp_path


def run(*arguments: str) -> None:
    run_from_arguments(build_parser().parse_args(["export", *arguments]))


def enhanced(weights: str, image: str = "photos/0.png") -> np.ndarray:
    enhancer = Enhancer(load_network(weights=weights).network, device="cpu")
    return enhancer.enhance_image(read_image(image).astype(np.float32) / 255)


def largest(found: np.ndarray, expected: np.ndarray) -> float:
    return 255 * float(np.abs(found - expected).max())


@pytest.mark.parametrize("name", ["csrnet", "global", "seplut", "raw"])
def test_a_cube_for_an_image_is_the_network_in_other_programs(files, name, capsys):
    """colour-science reads it as it is defined, Pillow applies it."""
    colour_io = pytest.importorskip("colour.io", reason="needs colour-science")
    run(f"{name}.pth", "--format", "cube", "--for", "photos/0.png")
    lut = colour_io.read_LUT_IridasCube(f"{name}_0.cube")
    assert lut.table.shape == (33, 33, 33, 3)
    assert lut.name == f"{NETWORKS[name]['type']} {name}"
    photograph, expected = read_image("photos/0.png"), enhanced(f"{name}.pth")
    found = lut.apply(photograph / 255)
    assert np.abs(found - expected).mean() < 0.2 / 255
    said = re.search(r"largest ([\d.]+) of 255 levels", capsys.readouterr().out)
    assert said
    assert largest(found, expected) == pytest.approx(float(said[1]), abs=0.06)  # the error that was measured
    # At the table's own points it is exact, by the network itself.
    network = load_network(weights=f"{name}.pth").network
    context = network.prepare(to_tensor(photograph)[None])
    colours = torch.rand(9, 3, generator=torch.Generator().manual_seed(0)).mul(32).round() / 32
    with torch.no_grad():
        own = network.apply_prepared(colours.T[None, :, :, None], context, (0, 0), (9, 1))[0, :, :, 0].T.clamp(0, 1)
    assert np.abs(lut.apply(colours.double().numpy()) - own.numpy()).max() < 2e-6

    table = np.loadtxt(f"{name}_0.cube", skiprows=6)
    assert table.shape == (33**3, 3)
    by_pillow = Image.open("photos/0.png").filter(ImageFilter.Color3DLUT(33, table.flatten().tolist()))
    assert largest(np.asarray(by_pillow) / 255, found) < 1  # it rounds to 8 bits


@pytest.mark.parametrize(("name", "size"), [("global", "4"), ("seplut", None)])
def test_a_haldclut_read_off_its_pixels_is_the_network(files, name, size):
    run(f"{name}.pth", "--format", "haldclut", "--for", "photos/0.png", *(["--size", size] if size else []))
    side = int(size or 8) ** 2
    pixels = read_image(f"{name}_0_haldclut.png")
    assert pixels.dtype == np.uint16
    assert pixels.shape == (round(side**1.5),) * 2 + (3,)
    with Image.open(f"{name}_0_haldclut.png") as shown:
        assert np.abs(np.asarray(shown.convert("RGB")) - pixels / 257).max() <= 1
    # A HaldCLUT's pixels, row by row, are the colours with red fastest: nearest points, as RAW programs read it.
    photograph = read_image("photos/0.png")
    nearest = np.rint(photograph / 255 * (side - 1)).astype(int)
    found = pixels.reshape(-1, 3)[nearest @ [1, side, side**2]] / 65535
    apart = 255 * np.abs(found - enhanced(f"{name}.pth"))
    assert apart.mean() < 255 / side  # a fraction of the distance of two points


def test_sizes_and_identity():
    for points in (4, 17):
        colours = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(apply_table(identity_lut_3d(points), colours), colours, atol=1e-6)
    level = 3
    pixels = haldclut(identity_lut_3d(level**2)).reshape(-1, 3)
    assert pixels[1].tolist() == [8192, 0, 0]
    assert pixels[9].tolist() == [0, 8192, 0]
    assert pixels[81].tolist() == [0, 0, 8192]


def test_an_average_look_is_the_best_fit_and_says_its_error(files, capsys):
    colour_io = pytest.importorskip("colour.io", reason="needs colour-science")
    Path("photos/cut.png").write_bytes(Path("photos/1.png").read_bytes()[:-100])
    run("local.pth", "--format", "cube", "--average", "photos", "--size", "17", "--out", "deep/look.cube")
    said = capsys.readouterr()
    assert "best fit to its results for 3 pictures. PSNR " in said.out
    assert "Maps sRGB to the network's result" in said.out
    assert "Worst picture: '" in said.out
    assert "skipped: photos/cut.png: " in said.err
    lut = colour_io.read_LUT_IridasCube("deep/look.cube")
    assert any("best fit" in comment for comment in lut.comments)
    apart = lut.apply(read_image("photos/0.png") / 255) - enhanced("local.pth")
    assert -10 * np.log10(np.mean(apart**2)) > 30


def test_a_fit_finds_a_curve_and_is_smooth_where_there_is_no_colour():
    generator = torch.Generator().manual_seed(0)
    colours = 0.2 + 0.4 * torch.rand(20_000, 3, generator=generator)  # neither dark nor light ones

    def look(colour: Tensor) -> Tensor:
        return (0.1 + 0.6 * colour.flip(1) + 0.3 * colour**2).clamp(0, 1)

    noisy = look(colours) + 0.05 * torch.randn(20_000, 3, generator=generator)
    table = fitted_table(colours, noisy, 17)
    assert difference(table, colours, look(colours)).mean < 0.6
    everywhere = torch.rand(5000, 3, generator=generator)
    assert difference(table, everywhere, look(everywhere)).mean < 25
    assert float(table.diff(n=2, dim=1).abs().max()) < 0.05  # no colour jumps, between points of 1/16
    assert (float(table.min()), float(table.max())) >= (0.0, 0.0)
    assert float(table.max()) <= 1
    # What pixels say nothing about stays as it is: of grey ones, saturated colours.
    grey = torch.rand(1000, 1, generator=generator).expand(-1, 3)
    assert difference(fitted_table(grey, grey, 9), everywhere, everywhere).most < 0.1


def test_what_is_one_thing_everywhere_is_found_out(files):
    photograph = to_tensor(read_image("photos/0.png"))[None]

    def table(name: str) -> Tensor | None:
        return exact_table(Enhancer(load_network(weights=f"{name}.pth").network, device="cpu"), photograph, 5)

    assert table("global") is not None
    assert table("seplut") is not None
    assert table("csrnet") is not None
    assert table("adaint") is not None
    own = load_network(weights="lut3d.pth").network.prepare(photograph)[0].detach().clamp(0, 1)
    torch.testing.assert_close(table("lut3d"), own, rtol=0, atol=1e-6)
    assert table("bgrid") is None  # its last row and column
    assert table("local") is None
    assert table("nafnet") is None


def test_a_network_with_places_is_fitted_for_an_image(files, capsys):
    run("local.pth", "--format", "cube", "--for", "photos/1.png", "--size", "17")
    assert "best fit to its results for '1.png'. PSNR " in capsys.readouterr().out
    assert Path("local_1.cube").is_file()


def test_safetensors_are_enough_for_enhance(files):
    run("raw.pth", "--format", "safetensors")
    first, second = (load_network(weights=f"raw.{ending}") for ending in ("pth", "safetensors"))
    assert (first.options, first.inputs) == (second.options, second.inputs)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name])
    with pytest.raises(ValueError, match=r"'raw\.safetensors' is what it would be made of"):
        run("--weights", "raw.safetensors", "--format", "safetensors", "--overwrite")


@pytest.mark.slow
@needs_exporter
def test_onnx_at_its_defaults(files, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run("seplut.pth", "--format", "onnx")
    assert "seplut.onnx: SepLUT of seplut.pth, for images of any size" in capsys.readouterr().out
    session = onnxruntime.InferenceSession("seplut.onnx", providers=["CPUExecutionProvider"])
    image = to_tensor(read_image("photos/0.png"))[None].numpy()
    found = session.run(None, {"image": image})[0][0].transpose(1, 2, 0)
    assert np.abs(found.clip(0, 1) - enhanced("seplut.pth")).max() < 1e-4
    run("seplut.pth", "--format", "onnx", "--fixed", "20", "30", "--out", "fixed.onnx")
    assert "for one image of 20x30" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--format onnx", r"give the network: WEIGHTS, or -opt FILE"),
        ("missing.pth --format cube --average photos", r"no checkpoint missing\.pth"),
        ("photos/0.png --format cube --average photos", r"photos/0\.png is no readable checkpoint"),
        ("global.pth --format cube", r"--format cube: a table maps colours alone.*--for IMAGE.*--average FOLDER"),
        ("global.pth --format cube --for none.png", "There is no file or folder 'none.png'"),
        ("global.pth --format cube --average empty", "'empty' holds no image"),
        ("global.pth --format cube --average broken", r"None of 1 image could be used; 'broken/a\.png': "),
        ("global.pth --format cube --for broken/a.png", r"broken/a\.png: "),
        ("global.pth --format cube --average photos --size 34", "--size 34: --format cube takes 17, 33 or 65"),
        ("global.pth --format haldclut --average photos --size 17", "--size 17: --format haldclut takes a level"),
        ("global.pth --format onnx --for photos/0.png", "--for is of --format cube and haldclut, not of onnx"),
        ("global.pth --format safetensors --size 17", "--size is of --format cube and haldclut, not of safetensors"),
        ("global.pth --format cube --average photos --fixed 8 8", "--fixed is of --format onnx, not of cube"),
        (
            "global.pth --format cube --average photos --out a.lut",
            r"'a\.lut' is no file's name .* let it end in \.cube",
        ),
        ("global.pth --format cube --average photos --out photos", r"'photos' is no file's name"),
        ("global.pth --format cube --average photos --out there.cube", r"'there\.cube' is there already.*--overwrite"),
        ("global.pth --format haldclut --for photos/0.png --out photos/0.png --overwrite", "what it would be made of"),
        ("larger.pth --format cube --average photos", "MSRResNet turns inputs of .* into .*take a network that keeps"),
        ("larger.pth --format onnx", "MSRResNet turns inputs of .*keeps the size"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(files, arguments, message):
    for folder in ("empty", "broken"):
        Path(folder).mkdir()
    Path("broken/a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Path("there.cube").write_text("mine")
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    with pytest.raises((ValueError, OSError), match=message):
        run(*arguments.split())
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_unknown_formats_and_both_kinds_of_pictures_are_usage_errors(capsys):
    for arguments in ("a.pth --format exr", "a.pth", "a.pth --format cube --for a.png --average photos"):
        with pytest.raises(SystemExit) as stop:
            run(*arguments.split())
        assert stop.value.code == 2
    assert "not allowed with argument --for" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    """Such as one by an exporter with a fault."""
    from semiisp_plugin.apps.export import onnx_graph

    monkeypatch.setattr(onnx_graph, "write_graph", lambda network, out, *_, **__: Path(out).write_bytes(b"graph"))
    monkeypatch.setattr(onnx_graph, "difference", lambda *_: 0.5)
    (tmp_path / "a.onnx").write_bytes(b"before")
    with pytest.raises(onnx_graph.ExportError, match=r"differ from those of Identity by 5\.0e-01.*was not written"):
        onnx_graph.export_onnx(nn.Identity(), tmp_path / "a.onnx")
    assert os.listdir(tmp_path) == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"before"
