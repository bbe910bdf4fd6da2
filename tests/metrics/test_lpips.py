"""LPIPS against the package used directly, with random weights of the backbones in files; and what is missing."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from semiisp_plugin.io.imagenet_weights import ImageNetWeightsError
from semiisp_plugin.metrics import lpips as metric
from semiisp_plugin.metrics import prepare_metric
from semiisp_plugin.metrics.lpips import calculate_lpips
from semiisp_plugin.toolbox import calculate_metric

package = pytest.importorskip("lpips")

PUBLIC = {"alex": models.alexnet, "squeeze": models.squeezenet1_1}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """No network is left from another test, torch's cache is empty, and nobody answers."""
    metric._network.cache_clear()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(request: urllib.request.Request, timeout: float | None = None, **_: object) -> None:
        assert timeout is not None, "a request without a time limit may hang"
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    yield
    metric._network.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """As torchvision's, without the large classifier, which must not matter."""
    folder = tmp_path_factory.mktemp("backbones")
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for net, build in PUBLIC.items():
            state = {k: v for k, v in build(weights=None).state_dict().items() if k.startswith("features.")}
            found[net] = folder / f"{net}.pth"
            torch.save(state, found[net])
    return found


def direct(net: str, file: Path) -> torch.nn.Module:
    """The package's network with the backbone of a file, put in where the package has it from."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        public = PUBLIC[net](weights=None)
        public.load_state_dict(torch.load(file, weights_only=True), strict=False)
        network = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    slices = [part for name, part in network.net.named_children() if name.startswith("slice")]
    for part in slices:
        for number, layer in part.named_children():
            layer.load_state_dict(public.features[int(number)].state_dict())
    return network


def bgr_pair(seed: int = 0, size: tuple[int, int] = (48, 70)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 256, (*size, 3))
    return np.clip(target + rng.integers(-60, 61, target.shape), 0, 255).astype(np.uint8), target.astype(np.uint8)


@pytest.mark.parametrize("net", PUBLIC)
def test_matches_the_package(files, net):
    pred, target = bgr_pair()
    value = calculate_lpips(pred, target, net=net, weights=str(files[net]))
    tensors = [package.im2tensor(np.ascontiguousarray(image[..., ::-1])) for image in (pred, target)]
    expected = direct(net, files[net])(*tensors).item()
    assert expected > 1e-4
    assert value == pytest.approx(expected, rel=1e-5)
    assert calculate_lpips(target, target, net=net, weights=str(files[net])) == 0


def test_borders_and_kinds_of_images(files):
    pred, target = bgr_pair()
    options = {"net": "squeeze", "weights": str(files["squeeze"])}
    value = calculate_lpips(pred, target, **options)
    assert calculate_lpips(pred + 0.3, target - 0.3, **options) == pytest.approx(value, rel=1e-6)
    assert np.isnan(calculate_lpips(np.where(pred == pred.max(), np.nan, pred), target, **options))
    inner = (image[5:-5, 5:-5] for image in (pred, target))
    assert calculate_lpips(pred, target, crop_border=5, **options) == pytest.approx(calculate_lpips(*inner, **options))
    grey = calculate_lpips(pred[..., 0], target[..., 0], **options)
    stacked = calculate_lpips(*(np.stack([image[..., 0]] * 3, -1) for image in (pred, target)), **options)
    assert grey == stacked > 0
    section = {"type": "calculate_lpips", "crop_border": 0, "better": "lower", **options}
    assert calculate_metric({"img": pred, "img2": target}, section) == value


def test_network_is_loaded_once_and_leaves_random_numbers_alone(files, monkeypatch):
    loads = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (loads.append(str(a[0])), load(*a, **k))[1])
    before = torch.get_rng_state()
    for seed in range(3):
        calculate_lpips(*bgr_pair(seed), net="alex", weights=str(files["alex"]))
    assert torch.equal(torch.get_rng_state(), before)
    assert loads.count(str(files["alex"])) == 1


def test_weights_in_torchs_cache_are_found(files, tmp_path):
    cache = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(files["squeeze"].read_bytes())
    pred, target = bgr_pair()
    value = calculate_lpips(pred, target, net="squeeze")
    assert value == calculate_lpips(pred, target, net="squeeze", weights=str(files["squeeze"]))


def test_missing_weights_name_both_ways(tmp_path):
    with pytest.raises(ImageNetWeightsError) as error:
        prepare_metric({"type": "calculate_lpips", "better": "lower"})
    text = str(error.value)
    assert "could not be downloaded (<urlopen error no route to host>)" in text
    assert f"put it at {tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth" in text
    assert "`weights: <path>`" in text
    with pytest.raises(ImageNetWeightsError, match=r"`weights: nowhere\.pth` is not a file"):
        calculate_lpips(*bgr_pair(), weights="nowhere.pth")


def test_wrong_files_are_named(files, tmp_path):
    with pytest.raises(
        ImageNetWeightsError, match=r"'features\.0\.weight' in .*alex\.pth is .*; it is not .* SqueezeNet"
    ):
        calculate_lpips(*bgr_pair(), net="squeeze", weights=str(files["alex"]))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(files["alex"].read_bytes()[:1000])
    with pytest.raises(ImageNetWeightsError, match=r"broken\.pth is no readable checkpoint"):
        calculate_lpips(*bgr_pair(), weights=str(broken))
    state = torch.load(files["alex"], weights_only=True)
    state["features.0.weight"] = state["features.0.weight"][:, :1]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ImageNetWeightsError, match=r"other\.pth is \(64, 1, .* not torchvision's AlexNet"):
        calculate_lpips(*bgr_pair(), weights=str(tmp_path / "other.pth"))


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImageNetWeightsError, match=r"needs lpips; in a clone: pip install"):
        calculate_lpips(*bgr_pair())


def test_options(files):
    with pytest.raises(ValueError, match="less than the 32 pixels a side"):
        calculate_lpips(*bgr_pair(size=(31, 40)), weights=str(files["alex"]))
