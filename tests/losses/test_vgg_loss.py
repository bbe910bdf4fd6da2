"""The perceptual loss against torchvision's VGG16 with random weights, and its words when weights are missing."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg

from semiisp_plugin.io import imagenet_weights
from semiisp_plugin.io.imagenet_weights import ImageNetWeightsError
from semiisp_plugin.losses.vgg_loss import VGGPerceptualLoss
from semiisp_plugin.toolbox import build_loss

# Index of the compared layers in torchvision's `features`, counted by hand from the published table of VGG16.
RELU_INDEX = {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22}


@pytest.fixture(scope="module")
def reference() -> nn.Sequential:
    """Torchvision's own convolutional part of VGG16 (configuration D), untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vgg.make_layers(vgg.cfgs["D"], batch_norm=False).eval()


@pytest.fixture(scope="module")
def weights(reference: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file such as torchvision's; the classifier, which must not matter, is cut to one small entry."""
    state = {f"features.{key}": value for key, value in reference.state_dict().items()}
    state["classifier.0.bias"] = torch.zeros(4)
    path = tmp_path_factory.mktemp("vgg") / "random_vgg16.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty torch cache and a network where nobody answers; gives what was asked for."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    asked = []

    def refuse(request: urllib.request.Request, timeout: float | None = None, **_: object) -> None:
        assert timeout is not None, "a request without a time limit may hang"
        assert timeout <= 15
        asked.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def images(n: int = 2, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, n, 3, size, size, generator=generator)
    return pred, target


def plain_loss(features: nn.Sequential, pred: Tensor, target: Tensor) -> list[float]:
    """Sample by sample, layer by layer, in NumPy after the network."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    results = []
    for pair in zip(pred.numpy(), target.numpy(), strict=True):
        normalised = [(image.transpose(1, 2, 0) - mean) / std for image in pair]
        total = 0.0
        for index in RELU_INDEX.values():
            part = features[: index + 1]
            with torch.no_grad():
                x, y = (part(torch.from_numpy(im.transpose(2, 0, 1)).float()[None]).numpy() for im in normalised)
            total += np.mean((x.astype(np.float64) - y) ** 2)
        results.append(total)
    return results


def test_matches_torchvision_sample_by_sample(reference, weights):
    pred, target = images()
    loss = build_loss({"type": "VGGPerceptualLoss", "weights": str(weights), "reduction": "none"})
    expected = plain_loss(reference, pred, target)
    result = loss(pred, target)
    assert result.shape == (2,)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), 0.1 * np.array(expected), rtol=1e-4)
    loss.reduction = "mean"
    assert loss(pred, target).item() == pytest.approx(0.1 * np.mean(expected), rel=1e-4)
    loss.reduction = "sum"
    assert loss(pred, target).item() == pytest.approx(0.1 * np.sum(expected), rel=1e-4)


def test_gradient_reaches_its_own_sample_and_no_weights(weights):
    pred, target = images()
    pred.requires_grad_()
    target.requires_grad_()
    loss = VGGPerceptualLoss(weights=str(weights), reduction="none")
    loss.train()
    loss(pred, target)[1].backward()
    assert torch.count_nonzero(pred.grad[0]) == 0
    assert torch.count_nonzero(pred.grad[1]) > 0
    assert target.grad is None
    assert all(not p.requires_grad for p in loss.parameters())


def test_equal_images_give_zero(weights):
    pred, _ = images()
    assert VGGPerceptualLoss(weights=str(weights))(pred, pred.clone()).item() == 0


def test_only_needed_layers_are_kept(weights):
    loss = VGGPerceptualLoss(weights=str(weights))
    assert len(loss.features) == RELU_INDEX["relu4_3"] + 1
    assert isinstance(loss.features[-1], nn.ReLU)


def test_torchs_cache_is_used_without_network(weights, no_network):
    cache = Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
    cache.parent.mkdir(parents=True)
    cache.symlink_to(weights)
    pred, target = images(n=1, size=16)
    expected = VGGPerceptualLoss(weights=str(weights))(pred, target)
    torch.testing.assert_close(VGGPerceptualLoss()(pred, target), expected)
    assert no_network == []


def test_a_download_fills_torchs_cache(weights, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    places = []

    def download(url: str, path: Path) -> None:
        places.append(path)
        path.parent.mkdir(parents=True)
        path.symlink_to(weights)

    monkeypatch.setattr(imagenet_weights, "_download", download)
    VGGPerceptualLoss()
    VGGPerceptualLoss()
    assert places == [tmp_path / "checkpoints" / "vgg16-397923af.pth"]


def test_closed_network_gives_one_clear_error(no_network, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        build_loss({"type": "VGGPerceptualLoss"})
    message = str(caught.value)
    assert no_network == ["https://download.pytorch.org/models/vgg16-397923af.pth"]
    assert "no route to host" in message
    assert "fetch vgg16-397923af.pth" in message
    assert str(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth") in message
    assert "`weights: <path>`" in message
    assert "{type: SSIMLoss, loss_weight: 0.1}" in message
    assert "not the paper's" in message
    assert not (tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth").exists()


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), socket.gaierror("no such host"), PermissionError("denied")]
)
def test_other_failures_of_a_download_are_the_same_error(monkeypatch, tmp_path, error):
    def fail(url: str, path: Path) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(imagenet_weights, "_download", fail)
    with pytest.raises(ImageNetWeightsError, match=str(error)) as caught:
        VGGPerceptualLoss()
    assert caught.value.__cause__ is error


def test_missing_file_is_not_replaced_by_a_download(no_network, tmp_path):
    with pytest.raises(ImageNetWeightsError, match=r"`weights: .*absent\.pth` is not a file"):
        VGGPerceptualLoss(weights=str(tmp_path / "absent.pth"))
    assert no_network == []


def test_unusable_files_are_named(weights, tmp_path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[:100_000])
    empty = tmp_path / "empty.pth"
    empty.touch()
    page = tmp_path / "page.pth"
    page.write_text("<html>sign in</html>")
    for path in (cut, empty, page):
        with pytest.raises(ImageNetWeightsError, match="is no readable checkpoint") as caught:
            VGGPerceptualLoss(weights=str(path))
        assert str(path) in str(caught.value)

    other = tmp_path / "other.pth"
    torch.save({"conv_first.weight": torch.zeros(1)}, other)
    with pytest.raises(ImageNetWeightsError, match=r"no entry 'features\.0\.weight'"):
        VGGPerceptualLoss(weights=str(other))
    torch.save([1, 2], other)
    with pytest.raises(ImageNetWeightsError, match="holds list, not a checkpoint"):
        VGGPerceptualLoss(weights=str(other))
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, other)
    with pytest.raises(ImageNetWeightsError, match=r"\(64, 1, 3, 3\) instead of \(64, 3, 3, 3\)"):
        VGGPerceptualLoss(weights=str(other))


def test_a_pickle_with_code_is_not_run(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"features.0.weight": Touch(str(tmp_path / "ran"))}, path)
    with pytest.raises(ImageNetWeightsError, match="is no readable checkpoint"):
        VGGPerceptualLoss(weights=str(path))
    assert not (tmp_path / "ran").exists()


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(self.path),)


def test_bad_options_are_refused_before_any_weights_are_sought(no_network, weights):
    with pytest.raises(ValueError, match="reduction: avg"):
        VGGPerceptualLoss(reduction="avg")
    assert no_network == []
    loss = VGGPerceptualLoss(weights=str(weights))
    with pytest.raises(ValueError, match="at least 8 pixels"):
        loss(*images(size=7))
    with pytest.raises(ValueError, match="RGB"):
        loss(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))
