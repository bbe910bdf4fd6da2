"""``basicsr invert``: pseudo RAW that f_ISP develops into the photograph; files that other programs read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from image_zoo import encoded, picture
from PIL import Image

from semiisp_plugin.apps.invert import RECORD, invert_photographs, run_from_arguments
from semiisp_plugin.arguments import build_parser
from semiisp_plugin.io.image_io import read_image, to_tensor
from semiisp_plugin.isp import InvertibleISP, ParameterBank
from semiisp_plugin.pseudo.f_isp import load_f_isp, save_f_isp
from semiisp_plugin.toolbox import build_network


def write_f_isp(path: str, *, sets: int = 5, spread: float = 0.15, n_pairs: int = 20, **options) -> None:
    """An f_ISP with different sets around its start."""
    torch.manual_seed(0)
    network = {"type": "PQDynamicISP", "grid": [2, 2], "thumbnail": 32, **options}
    net = build_network(dict(network))
    banks = {"global": ParameterBank(net.spec, sets), "local": ParameterBank(net.spec, sets, (2, 2))}
    for bank in banks.values():
        bank.append(net.spec.squash(spread * torch.randn(sets, net.spec.n_parameters, *bank.grid)))
    save_f_isp(path, network, net.state_dict(), banks, n_pairs)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two f_ISPs and photographs of many kinds, of which two cannot be used."""
    monkeypatch.chdir(tmp_path)
    write_f_isp("f_isp.pth")
    write_f_isp("f_isp_ie.pth", inverse_tone_mapping=True)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    soft = (picture(60, 80) * 0.6 + 50).astype(np.uint8)  # colours that every set can make
    Path("photos/a.png").write_bytes(encoded(soft, "PNG"))
    Path("photos/sub/grey.jpg").write_bytes(encoded(Image.fromarray(soft).convert("L"), "JPEG"))
    Path("photos/cmyk.jpg").write_bytes(encoded(Image.fromarray(soft).convert("CMYK"), "JPEG"))
    return tmp_path


def run(*arguments: str) -> None:
    run_from_arguments(build_parser().parse_args(["invert", *arguments]))


def results(folder: str = "out") -> list[str]:
    found = (p.relative_to(folder).as_posix() for p in Path(folder).rglob("[!.]*") if p.is_file())
    return sorted(name for name in found if name not in (RECORD, "skipped.txt"))


def read_float(path: str) -> torch.Tensor:
    return to_tensor(read_image(path))[None]


def test_f_isp_develops_a_pseudo_raw_into_the_photograph(folder, capsys):
    run("photos", "--weights", "f_isp.pth", "--out", "out")
    assert results() == ["a.tif", "cmyk.tif", "sub/grey.tif"]
    said = capsys.readouterr().out
    assert "out/a.tif: 0.00 % of its values clipped" in said
    assert "3 pseudo RAW images written." in said
    raw = tifffile.imread("out/a.tif")
    assert (raw.dtype, raw.shape) == (np.uint16, (60, 80, 3))
    photograph = read_float("photos/a.png")
    assert raw.mean() / 65535 < 0.8 * float(photograph.mean())  # linear
    network, banks, _ = load_f_isp("f_isp.pth")
    isp, error = InvertibleISP(network.spec), []
    for parameters in banks["global"].sets:
        developed = isp.forward(read_float("out/a.tif"), parameters[None])
        error.append(255 * float((developed - photograph).abs().max()))
    assert min(error) < 0.5
    assert sorted(error)[1] > 2  # of the other sets


@pytest.mark.parametrize("form", ["tiff", "png", "dng"])
def test_formats_hold_the_same_values(folder, form):
    run("photos/a.png", "--weights", "f_isp.pth", "--out", "tiff")
    run("photos/a.png", "--weights", "f_isp.pth", "--out", "out", "--format", form)
    ending = {"tiff": "tif"}.get(form, form)
    assert results() == [f"a.{ending}"]
    expected = tifffile.imread("tiff/a.tif")
    if form == "png":
        assert np.array_equal(cv2.imread("out/a.png", cv2.IMREAD_UNCHANGED)[..., ::-1], expected)
        assert b"sRGB" not in Path("out/a.png").read_bytes()[:200]
    else:
        assert np.array_equal(tifffile.imread(f"out/a.{ending}"), expected)


def test_a_dng_is_opened_by_libraw_and_developed_into_something_like_the_photograph(folder):
    rawpy = pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    run("photos/a.png", "--weights", "f_isp.pth", "--out", "out", "--format", "dng")
    run("photos/a.png", "--weights", "f_isp.pth", "--out", "tiff")
    # As the plugin reads RAW files: the values themselves.
    assert np.array_equal(read_raw_file("out/a.dng"), tifffile.imread("tiff/a.tif"))
    with rawpy.imread("out/a.dng") as raw:
        assert raw.num_colors == 3
        plain = raw.postprocess(use_camera_wb=True, no_auto_bright=True, gamma=(2.4, 12.92))
    photograph = read_image("photos/a.png").astype(float)
    gain = photograph.mean() / plain.mean()  # a converter does not know f_ISP's exposure
    assert np.abs(plain * gain - photograph).mean() < 12
    casts = (plain * gain).mean((0, 1)) - photograph.mean((0, 1))
    assert np.abs(casts).max() < 12
    with rawpy.imread("out/a.dng") as raw:
        assert raw.raw_image.max() <= raw.white_level == 65535


def read_raw_file(path: str) -> np.ndarray:
    from semiisp_plugin.io.raw_io import read_raw

    return read_raw(path)


def test_draws_differ_and_the_first_ones_stay_the_same(folder):
    run("photos", "--weights", "f_isp.pth", "--out", "out", "--draws", "5")
    assert results()[:5] == [f"a_{n}.tif" for n in range(1, 6)]
    images = [tifffile.imread(f"out/a_{n}.tif") for n in range(1, 6)]
    assert all(np.abs(a.astype(int) - b).max() > 300 for i, a in enumerate(images) for b in images[:i])
    run("photos/a.png", "--weights", "f_isp.pth", "--out", "less", "--draws", "2")
    assert [Path(f"less/a_{n}.tif").read_bytes() for n in (1, 2)] == [
        Path(f"out/a_{n}.tif").read_bytes() for n in (1, 2)
    ]
    run("photos/a.png", "--weights", "f_isp.pth", "--out", "one")
    assert Path("one/a.tif").read_bytes() == Path("out/a_1.tif").read_bytes()
    run("photos/a.png", "--weights", "f_isp.pth", "--out", "other", "--seed", "1", "--draws", "2")
    assert any(Path(f"other/a_{n}.tif").read_bytes() != Path(f"out/a_{n}.tif").read_bytes() for n in (1, 2))


def test_what_is_there_stays_and_the_same_command_resumes(folder, capsys):
    run("photos", "--weights", "f_isp.pth", "--out", "out")
    before = {name: Path("out", name).read_bytes() for name in results()}
    Path("out/cmyk.tif").unlink()
    Path("out/a.tif").write_bytes(b"mine")
    capsys.readouterr()
    run("photos", "--weights", "f_isp.pth", "--out", "out")
    assert "1 pseudo RAW image written; 2 were there already." in capsys.readouterr().out
    assert Path("out/cmyk.tif").read_bytes() == before["cmyk.tif"]
    assert Path("out/a.tif").read_bytes() == b"mine"
    with pytest.raises(ValueError, match=r"made with other settings .*seed: 0 then, 3 now"):
        run("photos", "--weights", "f_isp.pth", "--out", "out", "--seed", "3")
    with pytest.raises(ValueError, match=r"quality: off then, on now"):
        run("photos", "--weights", "f_isp.pth", "--out", "out", "--quality", "on")
    assert json.loads(Path("out", RECORD).read_text())["complete"]


def test_quality_lifts_the_photograph_first(folder):
    reports = [invert_photographs("f_isp.pth", ["photos/a.png"], f"out{on}", update_quality=on) for on in (False, True)]
    assert all(len(report.written) == 1 for report in reports)
    as_it_is, lifted = (tifffile.imread(f"out{on}/a.tif").astype(int) for on in (False, True))
    assert np.abs(as_it_is - lifted).max() > 300


def test_local_sets_of_many_pairs_and_image_enhancement(folder):
    write_f_isp("many.pth", n_pairs=2000)
    run("photos", "--weights", "many.pth", "--out", "many", "--draws", "2")
    assert len(results("many")) == 6
    run("photos", "--weights", "f_isp_ie.pth", "--out", "ie", "--format", "png")
    assert results("ie") == ["a.png", "cmyk.png", "sub/grey.png"]
    assert read_image("ie/a.png").dtype == np.uint16


def test_what_cannot_be_used_is_skipped_and_named(folder, write_dng, capsys):
    Path("photos/cut.jpg").write_bytes(Path("photos/cmyk.jpg").read_bytes()[:-300])
    Path("photos/empty.png").touch()
    write_dng(folder / "photos" / "camera.dng", np.full((48, 64), 9000, np.uint16))
    with pytest.raises(ValueError, match=r"3 photographs skipped; 'out/skipped\.txt' says why"):
        run("photos", "--weights", "f_isp.pth", "--out", "out")
    assert results() == ["a.tif", "cmyk.tif", "sub/grey.tif"]
    said = capsys.readouterr().err
    assert "skipped: photos/camera.dng: a camera's RAW file, of which no RAW has to be made; leave it out." in said
    assert "skipped: photos/cut.jpg: " in said
    assert "skipped: photos/empty.png: the file is empty (0 bytes)" in said
    assert len(Path("out/skipped.txt").read_text().splitlines()) == 3
    assert not json.loads(Path("out", RECORD).read_text())["complete"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("photos --weights missing.pth --out out", r"no checkpoint missing\.pth"),
        ("photos --weights net_g.pth --out out", r"net_g\.pth is not an f_ISP of phase 1 .*f_isp_latest\.pth"),
        ("photos --weights photos/a.png --out out", r"photos/a\.png is no readable checkpoint"),
        ("nothing --weights f_isp.pth --out out", "There is no file or folder 'nothing'"),
        ("empty --weights f_isp.pth --out out", "'empty' holds no image"),
        ("photos --weights f_isp.pth --out out --draws 6", r"--draws 6: 'f_isp\.pth' holds 5 parameter sets"),
        ("photos --weights f_isp_ie.pth --out out --format dng", r"--format dng: 'f_isp_ie\.pth' makes dark sRGB"),
        ("photos --weights f_isp.pth --out photos", r"'photos' holds files, but none of `basicsr invert`"),
        ("photos --weights f_isp.pth --out f_isp.pth", r"--out: 'f_isp\.pth' is a file; give a folder"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(folder, arguments, message):
    state = torch.load("f_isp.pth", weights_only=True)
    torch.save({"params": state["params"], "network": state["network"]}, "net_g.pth")
    Path("empty").mkdir()
    before = sorted(os.walk("."))
    with pytest.raises((ValueError, OSError), match=message):
        run(*arguments.split())
    assert sorted(os.walk(".")) == before


def test_unknown_formats_and_numbers_are_usage_errors(capsys):
    for arguments in ("--format jpg", "--draws 0", "--quality 95", "--seed -1"):
        with pytest.raises(SystemExit) as stop:
            run("a.png", "--weights", "f.pth", "--out", "out", *arguments.split())
        assert stop.value.code == 2
    assert "--draws: '0' is no whole number from 1 to 1,000" in capsys.readouterr().err
