"""GT-mean PSNR and SSIM against direct computations with OpenCV's conversions and scikit-image."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import pytest
from skimage import img_as_ubyte
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from semiisp_plugin.metrics.gt_mean import Variant, _scaled, calculate_psnr_gt_mean, calculate_ssim_gt_mean
from semiisp_plugin.toolbox import calculate_metric

VARIANTS = get_args(Variant)


def gt_mean_scale(img, img2, variant="gray_rgb") -> float:
    return _scaled(img, img2, 0, variant).scale


def rgb_pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A coloured ground truth and a darker, reddish, noisy prediction; uint8 RGB."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:40, 0:52] / 52
    target = np.stack([0.9 * x, 0.2 + 0.5 * y, 0.6 - 0.5 * x * y], axis=-1)
    pred = np.clip(target * [0.6, 0.4, 0.3] + generator.normal(0, 0.02, target.shape), 0, 1)
    return tuple(np.rint(255 * image).astype(np.uint8) for image in (pred, target))


def grey_of(image_rgb: np.ndarray, conversion: int) -> float:
    return float(cv2.cvtColor(np.ascontiguousarray(image_rgb), conversion).mean(dtype=np.float64))


def cidnet(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Its measuring program reads saved images of 8 bits and never leaves [0, 255].

    All three take a network's output, float RGB where [0, 1] is black to white, and an 8-bit target; they give what
    PSNR compares, what SSIM compares, both in [0, 255], and the factor.
    """
    saved = np.rint(np.clip(output, 0, 1) * 255).astype(np.uint8)
    factor = grey_of(target, cv2.COLOR_RGB2GRAY) / grey_of(saved, cv2.COLOR_RGB2GRAY)
    scaled = np.clip(saved * factor, 0, 255)
    return scaled, target.astype(float), scaled, target.astype(float), factor


def retinexformer(output: np.ndarray, target: np.ndarray):
    restored, truth = np.clip(output, 0, 1).astype(np.float32), (target / 255).astype(np.float32)
    factor = grey_of(truth, cv2.COLOR_BGR2GRAY) / grey_of(restored, cv2.COLOR_BGR2GRAY)
    restored = np.clip(restored * factor, 0, 1)
    return restored * 255, truth * 255, img_as_ubyte(restored), target, factor


def llflow(output: np.ndarray, target: np.ndarray):
    factor = grey_of(target.astype(np.float32), cv2.COLOR_BGR2GRAY) / 255 / float(output.mean(dtype=np.float64))
    restored = (np.clip(output * factor, 0, 1) * 255).astype(np.uint8)
    return restored, target, restored, target, factor


PROTOCOLS = {"gray_rgb": cidnet, "retinexformer": retinexformer, "llflow": llflow}


def expected_pair(pred: np.ndarray, target: np.ndarray, variant: str) -> tuple[np.ndarray, np.ndarray, float]:
    x, y, _, _, factor = PROTOCOLS[variant](pred / 255, target)
    return x.astype(float), y.astype(float), factor


def network_output(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float RGB of a network, values below 0 and above 1 included, and the 8-bit target."""
    pred, target = rgb_pair(seed)
    rng = np.random.default_rng(seed)
    return 1.3 * pred / 255 + rng.normal(0, 0.15, pred.shape), target


def skimage_ssim(x: np.ndarray, y: np.ndarray) -> float:
    return structural_similarity(
        x, y, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_a_networks_floats_it_is_what_the_publications_programs_compute(variant):
    output, target = network_output()
    assert output.min() < -0.1
    assert output.max() > 1.1
    x, y, x8, y8, factor = PROTOCOLS[variant](output, target)
    floats, truth = (255 * output)[..., ::-1], target[..., ::-1].astype(float)
    assert gt_mean_scale(floats, truth, variant) == pytest.approx(factor, rel=1e-6)
    psnr = calculate_psnr_gt_mean(floats, truth, variant=variant)
    assert psnr == pytest.approx(peak_signal_noise_ratio(y.astype(float), x.astype(float), data_range=255), abs=1e-5)
    ssim = calculate_ssim_gt_mean(floats, truth, variant=variant)
    assert ssim == pytest.approx(skimage_ssim(x8.astype(float), y8.astype(float)), abs=1e-6)


def test_float32_of_the_8_bit_grid_is_not_cut_down_a_level():
    levels = np.arange(256, dtype=np.uint8).repeat(12).reshape(-1, 12)[..., None].repeat(3, axis=2)
    floats = (levels / 255).astype(np.float32).astype(np.float64) * 255
    for variant in VARIANTS:
        assert calculate_psnr_gt_mean(floats, levels, variant=variant) > 100
    assert calculate_psnr_gt_mean(floats, levels, variant="llflow") == np.inf


@pytest.mark.parametrize("variant", VARIANTS)
def test_matches_opencv_and_scikit_image(variant):
    """Of 8-bit images."""
    pred, target = rgb_pair()
    x, y, x8, y8, factor = PROTOCOLS[variant](pred / 255, target)
    assert factor > 1.5
    pred_bgr, target_bgr = pred[..., ::-1], target[..., ::-1]
    assert gt_mean_scale(pred_bgr, target_bgr, variant) == pytest.approx(factor, rel=1e-6)
    psnr = calculate_psnr_gt_mean(pred_bgr, target_bgr, variant=variant)
    assert psnr == pytest.approx(peak_signal_noise_ratio(y.astype(float), x.astype(float), data_range=255), abs=1e-5)
    ssim = calculate_ssim_gt_mean(pred_bgr, target_bgr, variant=variant)
    assert ssim == pytest.approx(skimage_ssim(x8.astype(float), y8.astype(float)), abs=1e-6)


def test_variants_differ_and_the_default_is_the_true_grey():
    pred, target = rgb_pair()
    scales = {variant: gt_mean_scale(pred, target, variant) for variant in VARIANTS}
    assert len({round(scale, 3) for scale in scales.values()}) == 3
    assert gt_mean_scale(pred, target) == scales["gray_rgb"]
    assert calculate_psnr_gt_mean(pred, target) == calculate_psnr_gt_mean(pred, target, variant="gray_rgb")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_wrong_exposure_is_forgiven(variant):
    _, target = rgb_pair()
    pred = target * 0.5  # grey weights cancel except where they differ between the two images
    psnr = calculate_psnr_gt_mean(pred, target, variant=variant)
    if variant == "llflow":
        assert psnr < 40
    elif variant == "retinexformer":
        assert psnr > 200
    else:  # the prediction is rounded to 8 bits first
        assert 48 < psnr < 55
    assert calculate_metric({"img": pred, "img2": target}, {"type": "calculate_psnr", "crop_border": 0}) < 15


def test_overflow_is_clipped_not_wrapped():
    target = np.full((16, 16, 3), 200, np.uint8)
    pred = np.full((16, 16, 3), 100, np.uint8)
    pred[:8] = 20
    scale = 200 / 60
    expected = 10 * np.log10(255**2 / np.mean([(255 - 200) ** 2, (20 * scale - 200) ** 2]))
    assert calculate_psnr_gt_mean(pred, target) == pytest.approx(expected, rel=1e-12)


def test_crop_border_is_for_the_metric_not_for_the_brightness():
    pred, target = rgb_pair()
    pred = pred.copy()
    pred[:4] = 255
    scaled, truth, _ = expected_pair(pred, target, "gray_rgb")
    inner = (slice(4, -4), slice(4, -4))
    psnr = calculate_psnr_gt_mean(pred[..., ::-1], target[..., ::-1], crop_border=4)
    assert psnr == pytest.approx(peak_signal_noise_ratio(truth[inner], scaled[inner], data_range=255), abs=1e-5)
    ssim = calculate_ssim_gt_mean(pred[..., ::-1], target[..., ::-1], crop_border=4)
    assert ssim == pytest.approx(skimage_ssim(scaled[inner], truth[inner]), abs=1e-6)


def test_black_prediction_equal_images_and_grey_images():
    pred, target = rgb_pair()
    black = np.zeros_like(target)
    assert gt_mean_scale(black, target) == 1
    assert calculate_psnr_gt_mean(black, target) == pytest.approx(10 * np.log10(255**2 / np.mean(target**2.0)))
    assert gt_mean_scale(target, target) == 1
    assert calculate_psnr_gt_mean(target, target) == np.inf
    assert calculate_ssim_gt_mean(target, target) == pytest.approx(1)
    for variant in VARIANTS:
        expected = target[..., 0].mean() / pred[..., 0].mean()
        for shape in ((40, 52), (40, 52, 1)):
            grey, grey2 = (image[..., 0].reshape(shape) for image in (pred, target))
            assert gt_mean_scale(grey, grey2, variant) == pytest.approx(expected)
            assert np.isfinite(calculate_ssim_gt_mean(grey, grey2, variant=variant))


def test_inputs_are_not_changed():
    pred, target = rgb_pair()
    before = pred.copy(), target.copy()
    calculate_psnr_gt_mean(pred, target)
    calculate_ssim_gt_mean(pred, target)
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(target, before[1])


@pytest.mark.parametrize("name", ["calculate_psnr_gt_mean", "calculate_ssim_gt_mean"])
def test_through_basicsrs_registry_with_the_keys_of_its_ymls(name):
    pred, target = rgb_pair()
    opt = {"type": name, "crop_border": 0, "test_y_channel": False, "better": "higher"}
    value = calculate_metric({"img": pred, "img2": target}, opt)
    assert isinstance(value, float)
    assert value == {
        "calculate_psnr_gt_mean": calculate_psnr_gt_mean,
        "calculate_ssim_gt_mean": calculate_ssim_gt_mean,
    }[name](pred, target)
    y_only = calculate_metric({"img": pred, "img2": target}, {**opt, "test_y_channel": True})
    assert y_only != value
    with pytest.raises(TypeError, match="varient"):
        calculate_metric({"img": pred, "img2": target}, {**opt, "varient": "llflow"})


def test_luma_of_the_y_channel_option():
    pred, target = rgb_pair()
    scaled, truth, _ = expected_pair(pred, target, "gray_rgb")
    luma = np.array([65.481, 128.553, 24.966]) / 255
    expected = peak_signal_noise_ratio(truth @ luma, scaled @ luma, data_range=255)
    result = calculate_psnr_gt_mean(pred[..., ::-1], target[..., ::-1], test_y_channel=True)
    assert result == pytest.approx(expected, abs=1e-4)


def test_bad_input_is_refused_in_words():
    pred, target = rgb_pair()
    with pytest.raises(ValueError, match="differ in shape"):
        calculate_psnr_gt_mean(pred, target[1:])
    with pytest.raises(ValueError, match="uint16"):
        calculate_psnr_gt_mean(pred.astype(np.uint16), target)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        calculate_psnr_gt_mean(*(image.transpose(2, 0, 1) for image in (pred, target)))
    with pytest.raises(ValueError, match="40x52"):
        calculate_ssim_gt_mean(pred, target, crop_border=15)
    with pytest.raises(ValueError, match="crop_border: -1"):
        calculate_psnr_gt_mean(pred, target, crop_border=-1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_a_prediction_that_has_nan_there_is_none(variant):
    pred, target = (image.astype(np.float64) for image in rgb_pair())
    pred[3, 4, 1] = np.nan
    assert np.isnan(calculate_psnr_gt_mean(pred, target, variant=variant))
    assert np.isnan(calculate_ssim_gt_mean(pred, target, variant=variant))
