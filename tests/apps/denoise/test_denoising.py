"""Denoising of noisy inputs before phase 1: one image, whole folders, option files."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import Tensor, nn

from semiisp_plugin.apps.denoise import folder
from semiisp_plugin.apps.denoise.denoisers import network_denoiser
from semiisp_plugin.apps.denoise.folder import denoise_folder
from semiisp_plugin.apps.denoise.non_local_means import denoise_image, noise_level, non_local_means
from semiisp_plugin.apps.denoise.options import DenoiseOptions, load_denoise_options
from semiisp_plugin.arguments import build_parser
from semiisp_plugin.data.pairs import match_pairs
from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.io.image_io import decode_image, encode_png, read_image, to_float, to_uint8, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, close_all, read_meta, read_value
from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import ARCH_REGISTRY

NETWORK = {"type": "NAFNet", "width": 2, "middle_blk_num": 0, "enc_blk_nums": [1], "dec_blk_nums": [0]}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture without noise, (H, W, 3), float32 in [0, 1]: slopes, and two areas with edges."""
    down, across = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    image = np.stack([0.2 + 0.5 * across, 0.7 - 0.5 * down, 0.3 + 0.3 * (down + across)], -1)
    image[height // 4 : height // 2, width // 4 : width // 2] = (0.8, 0.2, 0.3)
    return image.astype(np.float32).clip(0, 1)


def dark(noise: float = 0.04, seed: int = 0, **size: int) -> np.ndarray:
    """The picture as a camera would take it in the dark: noise, then a tenth of the light."""
    clean = scene(**size)
    noisy = clean + np.random.default_rng(seed).normal(0, noise, clean.shape)
    return (0.1 * noisy.clip(0, 1) ** 2.2).astype(np.float32)


def make_folder(root: Path, count: int = 3) -> Path:
    for index in range(count):
        write_image(root / f"{index}.png", to_uint8(dark(seed=index)))
    return root


def options(root: Path, out: Path, **more: Any) -> DenoiseOptions:
    return DenoiseOptions(name="denoise", input=str(root), out=str(out), num_gpu=0, **more)


def weights(path: Path, key: str | None = "params") -> Path:
    from semiisp_plugin.toolbox import build_network

    state = build_network(dict(NETWORK)).state_dict()
    torch.save({key: state} if key else state, path)
    return path


# --- one image ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["max", "none"])
@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_an_identity_leaves_the_image(normalise: Any, gamma: float) -> None:
    image = dark() + 0.01
    out = denoise_image(image, lambda x: x, normalise=normalise, gamma=gamma)
    np.testing.assert_allclose(out, image, rtol=0, atol=2e-7)


@pytest.mark.parametrize(("normalise", "scale"), [("max", 0.25), ("none", 1.0)])
def test_what_the_denoiser_sees(normalise: Any, scale: float) -> None:
    image = np.full((4, 5, 3), 0.15, np.float32)
    image[0, 0], image[1, 1, 2] = 0.05, 0.25
    seen: list[np.ndarray] = []

    def keep(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return np.full_like(x, 0.5)

    out = denoise_image(image, keep, normalise=normalise, gamma=2.2)
    np.testing.assert_allclose(seen[0], (image / scale) ** (1 / 2.2), rtol=1e-5)
    assert seen[0].dtype == np.float32
    np.testing.assert_allclose(out, 0.5**2.2 * scale, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_flat_images_stay(value: float) -> None:
    image = np.full((9, 8, 3), value, np.float32)
    np.testing.assert_allclose(denoise_image(image, non_local_means), image, rtol=0, atol=1e-5)


def test_wrong_arguments_and_results_are_named() -> None:
    image = dark()
    for call, message in (
        (lambda: denoise_image(image[..., 0], lambda x: x), r"shape \(48, 64\)"),
        (lambda: denoise_image(to_uint8(image), lambda x: x), "type uint8"),
        (lambda: denoise_image(image, lambda x: x[:-1]), "turned shape"),
        (lambda: denoise_image(image, lambda x: x * np.nan), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- non-local means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.06])
def test_noise_level_is_that_of_added_noise(sigma: float) -> None:
    plane = scene(200, 300)[..., 0] + np.random.default_rng(1).normal(0, sigma, (200, 300))
    assert noise_level(plane) == pytest.approx(sigma, rel=0.05, abs=1e-6)
    assert noise_level(plane[:2]) == 0


def test_non_local_means_takes_noise_and_leaves_the_picture() -> None:
    clean = scene(96, 128)
    noisy = (clean + np.random.default_rng(2).normal(0, 0.05, clean.shape)).clip(0, 1).astype(np.float32)
    out = non_local_means(noisy)
    assert out.dtype == np.float32
    assert np.mean((out - clean) ** 2) < np.mean((noisy - clean) ** 2) / 8
    np.testing.assert_array_equal(non_local_means(clean), clean)  # no noise


def test_non_local_means_keeps_sixteen_bits() -> None:
    """A slope of fewer than three 8-bit levels."""
    slope = np.linspace(0.5, 0.51, 64 * 64, dtype=np.float32).reshape(64, 64)
    out = non_local_means(np.dstack([slope] * 3))
    assert len(np.unique(out[..., 1])) > 200


# --- networks -------------------------------------------------------------------------------------------------------


class Local(nn.Module):
    """Looks four pixels far, after a halving: tiles have to begin at even pixels."""

    multiple = 2

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 2, stride=2)
        self.mix = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
        return nn.functional.pixel_shuffle(self.mix(self.down(padded)), 2)[..., : x.shape[-2], : x.shape[-1]]


def test_tiles_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tile gives near its own border is not used."""
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, "Local", Local)
    torch.save({"params": Local().state_dict()}, tmp_path / "net.pth")
    image = np.random.default_rng(0).random((45, 171, 3)).astype(np.float32)
    make = partial(network_denoiser, {"type": "Local"}, tmp_path / "net.pth")
    whole, tiled = make(tile=None)(image), make(tile=32, overlap=16)(image)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    assert np.abs(make(tile=32, overlap=0)(image) - whole).max() > 0.01
    for tile, overlap, message in ((3, 0, "tile: 3 cannot be"), (32, 17, "more than half of the tile")):
        with pytest.raises(ValueError, match=message):
            make(tile=tile, overlap=overlap)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_network_with_weights(tmp_path: Path, precision: Any) -> None:
    path = weights(tmp_path / "net.pth", "model")
    image = dark()
    whole = network_denoiser(NETWORK, path, "model", precision=precision)
    with torch.no_grad():
        expected = whole.__self__.network(torch.from_numpy(image.transpose(2, 0, 1))[None])[0].clamp(0, 1)
    expected = expected.numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(whole(image), expected, rtol=0, atol=1e-6 if precision == "fp32" else 0.02)
    tiled = network_denoiser(NETWORK, path, "model", tile=32, overlap=16, precision=precision)
    np.testing.assert_allclose(tiled(image), expected, rtol=0, atol=0.05)
    assert not whole.__self__.network.training


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    path = weights(tmp_path / "net.pth", "model")
    with pytest.raises(CheckpointError, match=r"no weights under 'params'.* It has: model"):
        network_denoiser(NETWORK, path)
    bare = weights(tmp_path / "bare.pth", None)
    for key in (None, "params"):
        network_denoiser(NETWORK, bare, key)
    with pytest.raises(CheckpointError, match=r"no weights under 'model'.* It holds bare weights"):
        network_denoiser(NETWORK, bare, "model")
    with pytest.raises(CheckpointError, match="does not fit NAFNet"):
        network_denoiser({**NETWORK, "width": 4}, path, "model")
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        network_denoiser(NETWORK, tmp_path / "other.pth")


# --- folders --------------------------------------------------------------------------------------------------------


def is_complete(out: Path) -> bool:
    return bool(json.loads((out / "denoised.json").read_text())["complete"])


def test_folder_to_folder(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "low"), tmp_path / "out"
    write_image(root / "sub" / "a.b.jpg", to_uint8(dark(seed=7)))
    (root / "notes.txt").write_text("not an image")
    report = denoise_folder(options(root, out), progress=False)
    assert (report.written, report.kept, report.skipped) == (4, 0, {})
    assert is_complete(out)
    names = sorted(str(p.relative_to(out)) for p in out.rglob("[!.]*") if p.is_file())
    assert names == ["0.png", "1.png", "2.png", "denoised.json", "sub/a.b.png"]
    assert [p.key for p in match_pairs(out, root)] == ["0", "1", "2", "sub/a%2Eb"]
    image = read_image(out / "1.png")
    assert image.dtype == np.uint16
    expected = denoise_image(to_float(read_image(root / "1.png")), non_local_means)
    np.testing.assert_allclose(to_float(image), expected, rtol=0, atol=1 / 65535)
    clean = 0.1 * scene() ** 2.2
    assert np.mean((expected - clean) ** 2) < 0.4 * np.mean((to_float(read_image(root / "1.png")) - clean) ** 2)


def test_lmdb_to_lmdb(tmp_path: Path) -> None:
    root, out = tmp_path / "lq.lmdb", tmp_path / "made" / "clean.lmdb"
    with LmdbImageWriter(root) as writer:
        for key in ("b/1", "a"):
            png = encode_png(to_uint8(dark()))
            writer.put(key, png, (48, 64, 3))
    denoise_folder(options(root, out), progress=False)
    assert [(e.key, e.shape) for e in read_meta(out)] == [("b/1", (48, 64, 3)), ("a", (48, 64, 3))]
    image = decode_image(read_value(out, "a"), name="a")
    expected = denoise_image(to_float(decode_image(read_value(root, "a"), name="a")), non_local_means)
    np.testing.assert_allclose(to_float(image), expected, rtol=0, atol=1 / 65535)
    assert is_complete(out)
    assert denoise_folder(options(root, out), progress=False)[:2] == (0, 2)
    close_all()


def test_network_folder_and_record(tmp_path: Path) -> None:
    root, path = make_folder(tmp_path / "low", 1), weights(tmp_path / "net.pth")
    chosen = options(root, tmp_path / "out", network=dict(NETWORK), weights=str(path))
    denoise_folder(chosen, progress=False)
    expected = denoise_image(to_float(read_image(root / "0.png")), network_denoiser(NETWORK, path))
    np.testing.assert_allclose(to_float(read_image(tmp_path / "out" / "0.png")), expected, rtol=0, atol=1 / 65535)
    record = json.loads((tmp_path / "out" / "denoised.json").read_text())
    assert record["complete"] is True
    assert record["images"] == 1
    assert record["settings"]["network"] == NETWORK
    assert len(record["settings"]["weights_sha256"]) == 64
    assert record["versions"]["opencv"] == cv2.__version__
    torch.manual_seed(1)
    weights(path)  # other weights under the same name
    with pytest.raises(ValueError, match="weights_sha256"):
        denoise_folder(chosen, progress=False)


def test_the_record_calls_non_local_means_ours(tmp_path: Path) -> None:
    denoise_folder(options(make_folder(tmp_path / "low", 1), tmp_path / "out"), progress=False)
    settings = json.loads((tmp_path / "out" / "denoised.json").read_text())["settings"]
    assert (settings["method"], "ours" in settings["label"]) == ("opencv", True)


def test_bad_images_are_skipped_and_tried_again(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "low"), tmp_path / "out"
    whole = (root / "1.png").read_bytes()
    (root / "1.png").write_bytes(whole[:100])
    (root / "broken.png").symlink_to(root / "nowhere.png")
    report = denoise_folder(options(root, out), progress=False)
    assert report.written == 2
    assert list(report.skipped) == ["1.png", "broken.png"]
    assert "1.png" in report.skipped["1.png"]
    lines = (out / "skipped.txt").read_text().splitlines()
    assert dict(line.split("\t") for line in lines) == report.skipped
    assert not is_complete(out)
    (root / "1.png").write_bytes(whole)
    (root / "broken.png").unlink()
    assert denoise_folder(options(root, out), progress=False)[:3] == (1, 2, {})
    assert is_complete(out)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "low"
    root.mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        denoise_folder(options(root, tmp_path / "out"), progress=False)
    (root / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"None of the 1 images.*'a.png'"):
        denoise_folder(options(root, tmp_path / "out"), progress=False)
    write_image(root / "a.jpg", to_uint8(dark()))
    report = denoise_folder(options(root, tmp_path / "other"), progress=False)
    assert (report.written, list(report.skipped)) == (1, ["a.png"])
    assert "differ in their extension alone; rename one" in report.skipped["a.png"]
    with pytest.raises(FileNotFoundError):
        denoise_folder(options(tmp_path / "absent", tmp_path / "other"), progress=False)


def test_settings_are_not_mixed_and_foreign_folders_not_touched(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "low", 1), tmp_path / "out"
    denoise_folder(options(root, out), progress=False)
    with pytest.raises(ValueError, match=r"other files \(gamma: 2.2 then, 2.0 now\)"):
        denoise_folder(options(root, out, gamma=2.0), progress=False)
    (out / "denoised.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        denoise_folder(options(root, out), progress=False)
    (out / "denoised.json").unlink()
    before = (out / "0.png").read_bytes()
    with pytest.raises(FileExistsError, match="holds files, but none of"):
        denoise_folder(options(root, out), progress=False)
    assert (out / "0.png").read_bytes() == before


def test_the_input_may_be_spelt_in_another_way_and_moved_with_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = make_folder(tmp_path / "data" / "low", 1), tmp_path / "data" / "out"
    denoise_folder(options(root, out), progress=False)
    monkeypatch.chdir(tmp_path / "data")
    spelt = DenoiseOptions(name="denoise", input="./low/", out="out/", num_gpu=0)
    assert denoise_folder(spelt, progress=False)[:2] == (0, 1)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = options(tmp_path / "moved" / "low", tmp_path / "moved" / "out")
    assert denoise_folder(moved, progress=False)[:2] == (0, 1)
    other = make_folder(tmp_path / "moved" / "other", 1)
    with pytest.raises(ValueError, match=r"other files \(input: \.\./low then, \.\./other now\)"):
        denoise_folder(options(other, tmp_path / "moved" / "out"), progress=False)


@pytest.mark.parametrize("kind", ["folder", "lmdb"])
def test_an_interrupted_run_loses_nothing(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = make_folder(tmp_path / "low", 4), tmp_path / "out"
    if kind == "lmdb":
        with LmdbImageWriter(tmp_path / "low.lmdb") as writer:
            for path in sorted(root.iterdir()):
                writer.put(path.stem, path.read_bytes(), (48, 64, 3))
        root, out = tmp_path / "low.lmdb", tmp_path / "out.lmdb"
    undisturbed = tmp_path / f"undisturbed{out.suffix}"
    denoise_folder(options(root, undisturbed), progress=False)
    calls = 0

    def interrupted(image: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return non_local_means(image)

    monkeypatch.setattr(folder, "non_local_means", interrupted)
    with pytest.raises(KeyboardInterrupt):
        denoise_folder(options(root, out), progress=False)
    assert not is_complete(out)
    assert denoise_folder(options(root, out), progress=False)[:2] == (2, 2)
    if kind == "lmdb":
        assert read_meta(out) == read_meta(undisturbed)
        assert all(read_value(out, e.key) == read_value(undisturbed, e.key) for e in read_meta(out))
        close_all()
    else:
        assert all((out / p.name).read_bytes() == p.read_bytes() for p in undisturbed.glob("*.png"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_killed_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = make_folder(tmp_path / "low", 6), tmp_path / "out.lmdb"
    source = tmp_path / "low.lmdb"
    with LmdbImageWriter(source) as writer:
        for path in sorted(root.iterdir()):
            writer.put(path.stem, path.read_bytes(), (48, 64, 3))

    def slowly(image: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads: the child uses none
        child = os.fork()
    if child == 0:
        monkeypatch.setattr(folder, "non_local_means", slowly)
        denoise_folder(options(source, out), progress=False)
        os._exit(0)
    limit = time.monotonic() + 60
    meta = out / "meta_info.txt"
    while time.monotonic() < limit and not (meta.exists() and meta.read_text().count("\n") >= 2):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    made = len(read_meta(out))
    assert 2 <= made < 6
    report = denoise_folder(options(source, out), progress=False)
    assert (report.written, report.kept) == (6 - made, made)
    assert {e.key for e in read_meta(out)} == {str(i) for i in range(6)}
    close_all()


def test_two_runs_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = make_folder(tmp_path / "low", 1), tmp_path / "out"
    found: list[str] = []

    def second(image: np.ndarray) -> np.ndarray:
        with pytest.raises(ValueError, match="is being written by") as error:
            denoise_folder(options(root, out), progress=False)
        found.append(str(error.value))
        return image

    monkeypatch.setattr(folder, "non_local_means", second)
    denoise_folder(options(root, out), progress=False)
    assert len(found) == 1


# --- option files ---------------------------------------------------------------------------------------------------

FILES = sorted((ROOT / "options" / "denoise").glob("*.yml"))


@pytest.mark.parametrize("path", FILES, ids=[p.name for p in FILES])
def test_shipped_option_files(path: Path) -> None:
    loaded = load_denoise_options(path)
    assert not loaded.uses_network
    task = path.stem
    assert loaded.out == f"datasets/{task}/train/lq_denoised.lmdb"
    with_weights = load_denoise_options(path, ["weights=net.pth"])
    assert with_weights.uses_network
    assert with_weights.param_key == "model"
    assert with_weights.network == {"type": "KBNet_s", "lightweight": True, "ffn_scale": 1.5}


def test_both_noisy_tasks_have_a_file() -> None:
    assert [p.name for p in FILES] == ["lolv1.yml", "lolv2_real.yml"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gama=2.2", r"--force_yml gama: unknown key; did you mean 'gamma'\?"),
        ("gamma=0", "gamma"),
        ("normalise=maximum", "'maximum' is none of the choices"),
        ("network:lightwight=true", r"KBNet_s has no such option; did you mean 'lightweight'\?"),
        ("network:type=KBNet", r"no network 'KBNet' is registered; did you mean 'KBNet_s'\?"),
        ("out=datasets/lolv1/train/lq", "must end in '.lmdb', as input does"),
        ("out=datasets/lolv1/train/lq.lmdb", "must be neither"),
        ("out=datasets/lolv1/train/lq.lmdb/more.lmdb", "must be neither"),
        ("tile_overlap=1024", "at most half the tile of 1024"),
        ("tile=8", "tile"),
        ("model_type=SRModel", "an option file of `basicsr train`"),
    ],
)
def test_wrong_options_are_named(override: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_denoise_options(ROOT / "options" / "denoise" / "lolv1.yml", [override])


def test_weights_without_a_network_are_refused() -> None:
    with pytest.raises(OptionError, match="the key 'network' is missing"):
        load_denoise_options(ROOT / "options" / "denoise" / "lolv1.yml", ["network=~", "weights=net.pth"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "low", 2)
    arguments = ["denoise", "-opt", str(ROOT / "options" / "denoise" / "lolv1.yml"), "--force_yml", f"input={root}"]

    def run(*more: str) -> str:
        folder.run_from_arguments(build_parser().parse_args([*arguments, *more]))
        return capsys.readouterr().out

    said = run(f"out={tmp_path / 'out'}")
    assert "no weights are given, so OpenCV's non-local means denoises (ours; the paper uses KBNet)" in said
    assert "2 images denoised" in said
    (root / "x.png").write_bytes(b"")
    said = run(f"out={tmp_path / 'out'}")
    assert "0 images denoised" in said
    assert "2 were there before" in said
    assert "Warning: 1 images skipped" in said
    path = weights(tmp_path / "net.pth")
    network = "network={type: NAFNet, width: 2, middle_blk_num: 0, enc_blk_nums: [1], dec_blk_nums: [0]}"
    said = run(f"out={tmp_path / 'net'}", network, f"weights={path}", "param_key=params")
    assert f"denoising with NAFNet, weights {path}" in said
