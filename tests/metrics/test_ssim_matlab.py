"""SSIM with downsampling against plain loops in NumPy, and scikit-image where nothing is downsampled."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from semiisp_plugin.metrics import ssim_matlab
from semiisp_plugin.metrics.ssim_matlab import calculate_ssim_matlab, downsampling_factor
from semiisp_plugin.toolbox import calculate_metric, calculate_ssim


def rgb_pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    target = 127 + 100 * np.sin(20 * x[..., None] + 13 * y[..., None] + np.arange(3))
    pred = np.clip(0.8 * target + rng.normal(0, 25, target.shape), 0, 255)
    return pred.astype(np.uint8), target.astype(np.uint8)


def imfilter_mean(plane: np.ndarray, f: int) -> np.ndarray:
    """MATLAB's imfilter(plane, ones(f)/f^2, 'symmetric'), pixel by pixel.

    Correlation; the kernel's centre is element floor((f + 1) / 2), counted from 1; mirrored with the edge pixel twice.
    """
    height, width = plane.shape
    first = -((f + 1) // 2 - 1)
    padded = np.pad(plane, f, mode="symmetric")
    result = np.empty_like(plane)
    for i in range(height):
        for j in range(width):
            result[i, j] = padded[f + i + first : f + i + first + f, f + j + first : f + j + first + f].mean()
    return result


def plain_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Window by window."""
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2
            cov = (window * a * b).sum() - ma * mb
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def reference(pred: np.ndarray, target: np.ndarray, colour: str, factor: int) -> float:
    images = [image.astype(np.float64) for image in (pred, target)]
    if colour == "grey":
        weights = np.array([0.2989, 0.5870, 0.1140])
        images = [np.floor(image @ weights + 0.5)[..., None] for image in images]
    planes = [[image[..., c] for c in range(image.shape[2])] for image in images]
    if factor > 1:
        planes = [[imfilter_mean(plane, factor) for plane in part] for part in planes]
    if colour == "concatenated":  # img(1:f:end, 1:f:end) of an array (H, W, 3) runs on into the next plane
        planes = [[np.concatenate(part, axis=1)] for part in planes]
    reduced = [[plane[::factor, ::factor] for plane in part] for part in planes]
    return float(np.mean([plain_ssim(x, y) for x, y in zip(*reduced, strict=True)]))


def test_factor_rounds_halves_up():
    sides = {100: 1, 383: 1, 384: 2, 480: 2, 512: 2, 639: 2, 640: 3, 895: 3, 896: 4, 2160: 8}
    assert {side: downsampling_factor(side, 4000) for side in sides} == sides
    assert downsampling_factor(4000, 640) == 3


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("colour", ["concatenated", "channels", "grey"])
def test_matches_plain_loops(monkeypatch, factor, colour):
    """On small images that are downsampled all the same; an odd width shifts the columns of the second plane."""
    asked = []
    monkeypatch.setattr(ssim_matlab, "downsampling_factor", lambda *size: asked.append(size) or factor)
    pred, target = rgb_pair(50, 61)
    expected = reference(pred, target, colour, factor)
    assert 0.1 < expected < 0.97
    assert calculate_ssim_matlab(pred[..., ::-1], target[..., ::-1], colour=colour) == pytest.approx(
        expected, abs=1e-11
    )
    assert asked == [(50, 183 if colour == "concatenated" else 61)]


def test_without_downsampling_it_is_scikit_images_and_basicsrs():
    pred, target = rgb_pair(60, 70)
    value = calculate_ssim_matlab(pred[..., ::-1], target[..., ::-1], colour="channels")
    settings = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    x, y = (image.astype(np.float64) for image in (pred, target))
    assert value == pytest.approx(structural_similarity(x, y, channel_axis=-1, **settings), abs=1e-12)
    assert value == pytest.approx(calculate_ssim(pred, target, crop_border=0), abs=1e-12)


def test_whole_image_of_480_rows():
    """The size of FiveK, downsampled by 2: scikit-image on images that are downsampled beforehand."""
    pred, target = rgb_pair(480, 600)
    halves = [image.astype(np.float64).reshape(240, 2, 300, 2, 3).mean((1, 3)) for image in (pred, target)]
    settings = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(*halves, channel_axis=-1, **settings)
    assert calculate_ssim_matlab(pred, target, colour="channels") == pytest.approx(expected, abs=1e-12)
    side_by_side = [half.transpose(0, 2, 1).reshape(240, 900) for half in halves]
    expected = structural_similarity(*side_by_side, **settings)
    assert calculate_ssim_matlab(pred[..., ::-1], target[..., ::-1]) == pytest.approx(expected, abs=1e-12)
    assert abs(expected - calculate_ssim(pred, target, crop_border=0)) > 0.05


def test_grey_images_and_borders_and_equal_images():
    pred, target = rgb_pair(48, 60)
    grey = [image[..., 0] for image in (pred, target)]
    values = {calculate_ssim_matlab(*grey, colour=colour) for colour in ("concatenated", "channels", "grey")}
    assert len(values) == 1
    inner = [image[4:-4, 4:-4] for image in (pred, target)]
    assert calculate_ssim_matlab(pred, target, crop_border=4) == calculate_ssim_matlab(*inner)
    assert calculate_ssim_matlab(target, target) == pytest.approx(1, abs=1e-12)
    options = {"type": "calculate_ssim_matlab", "crop_border": 0, "better": "higher"}
    assert calculate_metric({"img": pred, "img2": target}, options) == calculate_ssim_matlab(pred, target)


def test_bad_input_is_refused_in_words(monkeypatch):
    pred, target = rgb_pair(48, 60)
    with pytest.raises(ValueError, match="less than the 11 pixels a side"):
        calculate_ssim_matlab(pred, target, crop_border=20)
    wide = np.zeros((2600, 20, 3), np.uint8)  # 3 x 20 columns and 2600 rows: not reduced
    assert calculate_ssim_matlab(wide, wide) == 1
    monkeypatch.setattr(ssim_matlab, "downsampling_factor", lambda *size: 5)
    with pytest.raises(
        ValueError, match=r"of a 48x60 image .* 10x12 pixels are left after downsampling by 5; 11 a side"
    ):
        calculate_ssim_matlab(pred, target, colour="channels")
