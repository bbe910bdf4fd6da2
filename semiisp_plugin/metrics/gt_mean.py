"""PSNR and SSIM after the prediction's brightness was set to that of the ground truth ("GT-mean").

The low-light literature often reports these in brackets or, less openly, alone. The protocol looks at the ground
truth, so its numbers are higher and are not comparable with plain ones: report both. The prediction is multiplied by
``mean(grey(GT)) / mean(grey(prediction))`` and clipped before the metric; three publications take three different
means:

================= ==================================================== ===============================================
variant           prediction                                           ground truth
================= ==================================================== ===============================================
``gray_rgb``      luma .299 R + .587 G + .114 B                        the same (as HVI-CIDNet; the plugin's default)
``retinexformer`` .114 R + .587 G + .299 B: OpenCV's BGR2GRAY on RGB   the same
``llflow``        (R + G + B) / 3                                      .114 R + .587 G + .299 B
================= ==================================================== ===============================================

Here all start from images in [0, 255], usually 8-bit, and the scaled prediction is not rounded again. The original
programs differ in that too. Retinexformer scales before it rounds to 8 bits: 0.01 dB in PSNR, measured on simulated
predictions of 28 to 30 dB. LLFlow takes its mean before it clips and truncates (not rounds) afterwards: up to 0.3 dB.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semiisp_plugin.toolbox import METRIC_REGISTRY, calculate_psnr, calculate_ssim, register

VARIANTS = ("gray_rgb", "retinexformer", "llflow")

_LUMA = np.array([0.299, 0.587, 0.114])
_SWAPPED_LUMA = _LUMA[::-1]
_CHANNEL_MEAN = np.full(3, 1 / 3)
_SSIM_WINDOW = 11
# variant -> weights of R, G, B for the prediction, for the ground truth
_WEIGHTS = {
    "gray_rgb": (_LUMA, _LUMA),
    "retinexformer": (_SWAPPED_LUMA, _SWAPPED_LUMA),
    "llflow": (_CHANNEL_MEAN, _SWAPPED_LUMA),
}


def _as_hwc(image: npt.NDArray[np.generic], name: str, input_order: str) -> npt.NDArray[np.generic]:
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"`{name}` is {image.dtype}; GT-mean metrics take uint8 images, or float ones in [0, 255].")
    if image.ndim == 2:
        image = image[..., None] if input_order == "HWC" else image[None]
    if input_order == "CHW":
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"`{name}` must have 1 or 3 channels; it is {image.shape} (height, width, channels) read with "
            f"input_order='{input_order}'."
        )
    return image


def _prepare(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    input_order: str,
    variant: str,
    channel_order: str,
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """Check the options and give both images as HWC with B, G, R (BasicSR's order) or one channel."""
    for key, value, known in (
        ("input_order", input_order, ("HWC", "CHW")),
        ("variant", variant, VARIANTS),
        ("channel_order", channel_order, ("bgr", "rgb")),
    ):
        if value not in known:
            raise ValueError(f"GT-mean metric: unknown `{key}: {value}`; choose one of {', '.join(known)}.")
    if img.shape != img2.shape:
        raise ValueError(f"The prediction {img.shape} and the ground truth {img2.shape} differ in shape.")
    pred, target = _as_hwc(img, "img", input_order), _as_hwc(img2, "img2", input_order)
    if channel_order == "rgb":
        pred, target = pred[..., ::-1], target[..., ::-1]
    return pred, target


def _mean_grey(image_bgr: npt.NDArray[np.generic], weights_rgb: npt.NDArray[np.float64]) -> float:
    means = image_bgr.mean(axis=(0, 1), dtype=np.float64)
    return float(means[0] if len(means) == 1 else means @ weights_rgb[::-1])


def _scale(pred: npt.NDArray[np.generic], target: npt.NDArray[np.generic], variant: str) -> float:
    pred_weights, target_weights = _WEIGHTS[variant]
    pred_mean = _mean_grey(pred, pred_weights)
    # No factor brightens a black image.
    return _mean_grey(target, target_weights) / pred_mean if pred_mean > 0 else 1.0


def gt_mean_scale(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    variant: str = "gray_rgb",
    *,
    input_order: str = "HWC",
    channel_order: str = "bgr",
) -> float:
    """Factor that brings the prediction's mean grey to the ground truth's.

    Args:
        img: Prediction, ``(H, W, 3)`` or ``(H, W)``, uint8, or float in [0, 255].
        img2: Ground truth, likewise.
        variant: One of ``VARIANTS``; see this module's docstring. All agree on grey images.
        input_order: ``HWC`` or ``CHW``.
        channel_order: ``bgr``, what BasicSR's ``tensor2img`` gives, or ``rgb``.

    Returns:
        The factor; 1 for an all-black prediction.

    Raises:
        ValueError: Unknown option, different shapes, a data type other than uint8 and float.
    """
    return _scale(*_prepare(img, img2, input_order, variant, channel_order), variant)


def _scaled_pair(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int,
    input_order: str,
    variant: str,
    channel_order: str,
    smallest: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The brightness-corrected prediction and the ground truth, float64 HWC BGR in [0, 255]."""
    pred, target = _prepare(img, img2, input_order, variant, channel_order)
    height, width = pred.shape[:2]
    # BasicSR would return NaN with a warning only.
    if crop_border < 0 or min(height, width) - 2 * crop_border < smallest:
        raise ValueError(
            f"GT-mean metric: `crop_border: {crop_border}` leaves less than the {smallest} pixels a side that the "
            f"metric needs of a {height}x{width} image (height x width)."
        )
    scaled = np.clip(pred.astype(np.float64) * _scale(pred, target, variant), 0, 255)
    return scaled, target.astype(np.float64)


@register(METRIC_REGISTRY)
def calculate_psnr_gt_mean(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    input_order: str = "HWC",
    variant: str = "gray_rgb",
    channel_order: str = "bgr",
    test_y_channel: bool = False,
    better: str | None = None,
) -> float:
    """PSNR of the brightness-corrected prediction, in dB.

    Args:
        img: Prediction, ``(H, W, 3)`` or ``(H, W)``, uint8, or float in [0, 255].
        img2: Ground truth, likewise.
        crop_border: Pixels left out at each edge in the metric. The brightness factor is taken from whole images.
        input_order: ``HWC`` or ``CHW``.
        variant: One of ``VARIANTS``; see this module's docstring.
        channel_order: ``bgr``, what BasicSR's ``tensor2img`` gives, or ``rgb``.
        test_y_channel: Compare only the Y of YCbCr, as in BasicSR.
        better: Not used; BasicSR hands this key of the metric's section to the function.

    Returns:
        PSNR in dB; infinite for equal images.

    Raises:
        ValueError: Unknown option, different shapes, a data type other than uint8 and float, an image too small.
    """
    scaled, target = _scaled_pair(img, img2, crop_border, input_order, variant, channel_order, smallest=1)
    return float(calculate_psnr(scaled, target, crop_border=crop_border, test_y_channel=test_y_channel))


@register(METRIC_REGISTRY)
def calculate_ssim_gt_mean(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    input_order: str = "HWC",
    variant: str = "gray_rgb",
    channel_order: str = "bgr",
    test_y_channel: bool = False,
    better: str | None = None,
) -> float:
    """SSIM of the brightness-corrected prediction (11x11 Gaussian window, sigma 1.5, mean over channels).

    Arguments and errors as :func:`calculate_psnr_gt_mean`.

    Returns:
        SSIM in [-1, 1].
    """
    scaled, target = _scaled_pair(img, img2, crop_border, input_order, variant, channel_order, smallest=_SSIM_WINDOW)
    return float(calculate_ssim(scaled, target, crop_border=crop_border, test_y_channel=test_y_channel))
