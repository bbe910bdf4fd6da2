"""The network and its weights: from option files, checkpoints, by hand; and the command as a whole."""

from __future__ import annotations

import json
import socket
import sys

import numpy as np
import pytest
import torch
import yaml
from image_zoo import encoded, picture

from semiisp_plugin.apps.denoise.non_local_means import denoise_input
from semiisp_plugin.apps.enhance.command import run_from_arguments
from semiisp_plugin.apps.enhance.enhancer import MAX_STRENGTH
from semiisp_plugin.apps.enhance.network import load_network, save_network
from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.archs.seplut_arch import SepLUT
from semiisp_plugin.arguments import build_parser
from semiisp_plugin.io.checkpoint import CheckpointError, save_safetensors
from semiisp_plugin.io.image_io import read_image, to_float, to_tensor, to_uint8
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.options import OptionError
from semiisp_plugin.pseudo.f_isp import save_f_isp
from semiisp_plugin.toolbox import build_network, tensor2img

NETWORK = {"type": "SepLUT", "n_vertices_3d": 3, "n_vertices_1d": 3, "thumbnail": 32, "n_base_feats": 2}


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_network(dict(NETWORK)).state_dict()


def same(network: torch.nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run, whose checkpoint does not say what network it is of, and its option files."""
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "experiments" / "run" / "models"
    models.mkdir(parents=True)
    torch.save({"params": weights(1), "params_ema": weights(2)}, models / "net_g_latest.pth")
    train = {"name": "run", "model_type": "SupervisedModel", "network_g": NETWORK, "train": {"total_iter": 1}}
    test = {"name": "t", "network_g": NETWORK, "path": {"pretrain_network_g": str(models / "net_g_latest.pth")}}
    for path, options in (("train.yml", train), ("test.yml", test), ("experiments/run/train.yml", train)):
        (tmp_path / path).write_text(yaml.safe_dump(options))
    return tmp_path


def test_option_files_lead_to_the_averaged_weights(run, monkeypatch):
    for opt in ("train.yml", "test.yml"):
        loaded = load_network(opt)
        assert same(loaded.network, weights(2))
        assert loaded.param_key == "params_ema"
    assert same(load_network("train.yml", param_key="params").network, weights(1))
    assert same(load_network("test.yml", force_yml=["path:param_key_g=params"]).network, weights(1))
    monkeypatch.chdir(run.parent)  # the copy in the run's folder finds the weights beside it
    assert same(load_network(run / "experiments" / "run" / "train.yml").network, weights(2))


def test_a_run_without_a_finished_network_says_what_was_looked_for(run):
    models = run / "experiments" / "run" / "models"
    (models / "net_g_latest.pth").rename(models / "net_g_500.pth")
    with pytest.raises(CheckpointError, match=r"looked for experiments/run/models/net_g_latest.pth.*net_g_500.pth"):
        load_network("train.yml")
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*net_g_latest.pth.*net_g_500.pth"):
        load_network("test.yml")
    assert same(load_network("train.yml", models / "net_g_500.pth").network, weights(2))


def test_weights_that_say_what_they_are_need_no_option_file(tmp_path):
    torch.save({"params": weights(1), "network": NETWORK}, tmp_path / "a.pth")
    save_safetensors(weights(2), tmp_path / "b.safetensors", {"network": json.dumps(NETWORK)})
    assert same(load_network(weights=tmp_path / "a.pth").network, weights(1))
    assert same(load_network(weights=tmp_path / "b.safetensors").network, weights(2))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("inputs", ["srgb", "raw", None])
def test_a_file_says_what_its_network_takes(tmp_path, name, inputs):
    save_network(tmp_path / name, NETWORK, weights(1), inputs)
    loaded = load_network(weights=tmp_path / name)
    assert same(loaded.network, weights(1))
    assert loaded.inputs == inputs
    assert load_network(weights=tmp_path / name, network=NETWORK).inputs == inputs


def test_what_a_file_says_goes_before_what_an_f_isp_was_made_for(tmp_path):
    cases = {"srgb": {"inverse_tone_mapping": True}, "raw": {}, None: {"base_matrix": "xyz_to_srgb"}}
    for inputs, more in cases.items():
        options = {"type": "PQDynamicISP", "thumbnail": 32, **more}
        save_network(tmp_path / "a.pth", options, build_network(dict(options)).state_dict())
        assert load_network(weights=tmp_path / "a.pth").inputs == inputs
    save_network(tmp_path / "a.pth", options, build_network(dict(options)).state_dict(), "srgb")
    assert load_network(weights=tmp_path / "a.pth").inputs == "srgb"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"inputs": "xyz"}, r"a.pth: 'inputs'.* is 'xyz'; allowed are srgb and raw"),
        ({"denoised": True}, r"a.pth: 'denoised'.* is True; it can be 'non_local_means'"),
    ],
)
def test_what_a_file_says_is_checked(tmp_path, said, message):
    torch.save({"params": weights(1), "network": NETWORK, **said}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_network(weights=tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_noisy_images_are_denoised_for_a_network_that_is_made_for_it(run, name, capsys):
    noisy = np.random.default_rng(0).normal(90, 12, (60, 80, 3)).clip(0, 255).astype(np.uint8)
    (run / "in").mkdir()
    (run / "in" / "a.png").write_bytes(encoded(noisy, "PNG"))
    save_network(run / name, NETWORK, weights(1), "srgb", denoised=True)
    loaded = load_network(weights=run / name)
    assert loaded.denoised
    clean = denoise_input(to_float(noisy))
    assert clean.std() < 0.5 * to_float(noisy).std()
    for option, image in (("auto", clean), ("on", clean), ("off", to_float(noisy))):
        command("in", "--weights", name, "--denoise", option, "--out", option, "--device", "cpu")
        with torch.no_grad():
            expected = to_uint8(loaded.network(to_tensor(image)[None])[0].permute(1, 2, 0).clamp(0, 1).numpy())
        np.testing.assert_array_equal(read_image(run / option / "a.png"), expected)
        assert ("denoised first" in capsys.readouterr().out) == (option != "off")


def test_f_isp_is_an_enhancer(tmp_path):
    options = {"type": "PQDynamicISP", "inverse_tone_mapping": True, "grid": [2, 2], "thumbnail": 32}
    torch.manual_seed(0)
    network = build_network(dict(options))
    banks = {label: ParameterBank(network.spec, 4, grid) for label, grid in (("global", (1, 1)), ("local", (2, 2)))}
    save_f_isp(tmp_path / "f_isp_latest.pth", options, network.state_dict(), banks, 3)
    loaded = load_network(weights=tmp_path / "f_isp_latest.pth")
    assert isinstance(loaded.network, PQDynamicISP)
    assert same(loaded.network, network.state_dict())


def test_public_checkpoints_by_hand(tmp_path):
    torch.save({"meta": {"epoch": 3}, "state_dict": weights(4)}, tmp_path / "public.pth")
    torch.save({f"module.{k}": v for k, v in weights(5).items()}, tmp_path / "bare.pth")
    text = "{type: SepLUT, n_vertices_3d: 3, n_vertices_1d: 3, thumbnail: 32, n_base_feats: 2}"
    for key in (None, "state_dict"):
        loaded = load_network(weights=tmp_path / "public.pth", network=text, param_key=key)
        assert same(loaded.network, weights(4))
        assert isinstance(loaded.network, SepLUT)
    assert same(load_network(weights=tmp_path / "bare.pth", network=NETWORK).network, weights(5))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, ValueError, "-opt FILE"),
        ({"opt": "train.yml", "network": "SepLUT"}, ValueError, "either -opt or --network"),
        ({"weights": "a.pth", "force_yml": ["a=1"]}, ValueError, "--force_yml changes an option file"),
        ({"opt": "trian.yml"}, OptionError, "train.yml"),
        ({"weights": "a.pth"}, CheckpointError, "no checkpoint a.pth"),
        ({"weights": "x/y/unknown.pth"}, CheckpointError, "does not say which network.*--network"),
        ({"weights": "x/y/unknown.pth", "network": "{type: SepLUTT}"}, OptionError, "SepLUT"),
        ({"weights": "x/y/unknown.pth", "network": "{width: 3}"}, OptionError, "'{type: NAFNet"),
        ({"weights": "x/y/unknown.pth", "network": "{type: SepLUT"}, OptionError, "--network"),
        ({"weights": "x/y/unknown.pth", "network": "SepLUT"}, CheckpointError, "does not fit SepLUT"),
        ({"weights": "x/y/unknown.pth", "network": NETWORK, "param_key": "parms"}, CheckpointError, "mean 'params'"),
        ({"opt": "train.yml", "force_yml": ["network_g:thumbnial=32"]}, OptionError, "thumbnail"),
        ({"weights": "x/y/cut.pth", "network": NETWORK}, CheckpointError, "truncated"),
    ],
)
def test_what_is_wrong_is_said(run, arguments, kind, message):
    (run / "x" / "y").mkdir(parents=True)
    torch.save({"params": weights(1)}, "x/y/unknown.pth")
    data = (run / "x" / "y" / "unknown.pth").read_bytes()
    (run / "x" / "y" / "cut.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(kind, match=message):
        load_network(**arguments)


# --- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> None:
    run_from_arguments(build_parser().parse_args(["enhance", *map(str, arguments)]))


def test_the_command_writes_what_testing_writes(run, capsys):
    (run / "in").mkdir()
    (run / "in" / "a.png").write_bytes(encoded(picture(90, 120), "PNG"))
    command("in", "-opt", "test.yml", "--out", "out", "--device", "cpu")
    network = build_network(dict(NETWORK)).eval()
    network.load_state_dict(weights(2))
    image = torch.from_numpy(picture(90, 120).transpose(2, 0, 1)).float()[None] / 255
    with torch.no_grad():
        expected = tensor2img(network(image), rgb2bgr=False)
    np.testing.assert_array_equal(read_image(run / "out" / "a.png"), expected)
    text = capsys.readouterr().out
    assert "SepLUT (n_base_feats 2, n_vertices_1d 3" in text
    assert "1 result written" in text
    command("in", "-opt", "test.yml", "--out", "out", "--device", "cpu")
    assert "1 were there already" in capsys.readouterr().out


def test_the_command_fails_at_the_end_if_an_image_did(run, capsys):
    (run / "in").mkdir()
    (run / "in" / "a.png").write_bytes(encoded(picture(), "PNG"))
    (run / "in" / "b.png").touch()
    with pytest.raises(ValueError, match="1 of 2 images skipped"):
        command("in", "-opt", "train.yml", "--out", "out", "--device", "cpu")
    assert (run / "out" / "a.png").is_file()
    assert "skipped: in/b.png: the file is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quality", "80", "--format", "tiff"], "--quality is of JPEG and WebP"),
        (["--tile", "0", "--overlap", "8"], "--tile 0 makes no tiles"),
        (["--tile", "0", "--match", "on"], "--tile 0 makes no tiles"),
        (["--format", "jpg", "--bits", "16"], "jpg holds 8 bits"),
        (["--out", "train.yml"], "is a file"),
        (["--out", "result.png"], "looks like a file"),
        (["--suffix", "/x"], "--suffix"),
    ],
)
def test_requests_that_make_no_sense(run, arguments, message):
    (run / "a.png").write_bytes(encoded(picture(), "PNG"))
    with pytest.raises((ValueError, OSError), match=message):
        command("a.png", "-opt", "train.yml", "--out", "out", *arguments)
    assert not (run / "out").exists()


def test_raw_files_in_a_folder_need_rawpy_before_anything_is_done(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    (run / "in").mkdir()
    (run / "in" / "a.png").write_bytes(encoded(picture(), "PNG"))
    (run / "in" / "b.nef").touch()
    with pytest.raises(ImportError, match="rawpy"):
        command("in", "-opt", "train.yml", "--out", "out", "--device", "cpu")
    assert not (run / "out").exists()


def test_raw_in_picture_out(run, write_dng, capsys):
    """By what the checkpoint says, and by --inputs against it; --format tif."""
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    write_dng(run / "in/a.dng", np.full((48, 64), 9000, np.uint16))
    save_network("srgb.pth", NETWORK, weights(1), "srgb")
    common = ("in", "--weights", "srgb.pth", "--device", "cpu", "--out")
    command(*common, "srgb", "--strength", str(MAX_STRENGTH))
    assert "1 RAW file, developed in the standard way" in capsys.readouterr().out
    command(*common, "raw", "--inputs", "raw")
    assert "--inputs srgb" in capsys.readouterr().out
    command(*common, "tif", "--format", "tif")
    assert [p.name for d in ("srgb", "raw", "tif") for p in (run / d).glob("a.*")] == ["a.jpg", "a.png", "a.tif"]
    with pytest.raises(ValueError, match="trained on RAW"):
        command(*common, "raw2", "--inputs", "raw", "--strength", "0.5")
    for wrong in ("1.51", "-0.5", "nan"):
        with pytest.raises(SystemExit):
            command(*common, "x", "--strength", wrong)
        assert f"'{wrong}' is no number from 0 to {MAX_STRENGTH}" in capsys.readouterr().err


def test_networks_for_other_images_say_so(run, capsys):
    options = {"type": "PQDynamicISP", "thumbnail": 32, "base_matrix": "xyz_to_srgb"}
    torch.save({"params": build_network(dict(options)).state_dict(), "network": options}, "xyz.pth")
    (run / "a.png").write_bytes(encoded(picture(), "PNG"))
    command("a.png", "--weights", "xyz.pth", "--out", "out", "--device", "cpu")
    assert "CIE XYZ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {**NETWORK, "thumbnail": 2**64},
            "net.pth: the network's options in it: thumbnail: expected a whole number from",
        ),
        ({**NETWORK, "n_base_feats": 64}, "net.pth does not fit SepLUT: .* of another shape"),
        ({"type": "VGGFeatureExtractor", "layer_name_list": ["relu1_1"]}, "describes a VGGFeatureExtractor that reads"),
        ({"type": "SpyNet", "load_path": "/dev/zero"}, "describes a SpyNet that reads or fetches files"),
        ({"type": "SpyNet", "load_path": "nowhere.pth"}, "describes a SpyNet that reads or fetches files"),
    ],
)
def test_a_stored_section_is_checked_and_fetches_nothing(tmp_path, monkeypatch, section, message):
    monkeypatch.setattr(socket.socket, "connect", lambda *_, **__: pytest.fail("it asks for another machine"))
    torch.save({"params": weights(1), "network": section}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        load_network(weights=tmp_path / "net.pth")
