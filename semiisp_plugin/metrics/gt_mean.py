"""PSNR and SSIM after the prediction's brightness was set to that of the ground truth ("GT-mean").

The low-light literature often reports these in brackets or, less openly, alone. The protocol looks at the ground
truth, so its numbers are higher and are not comparable with plain ones: report both. The prediction is multiplied by
``mean(grey(GT)) / mean(grey(prediction))`` before the metric. Three publications do it in three ways, and each is
followed here in all that their programs do between the network's output and the metric:

================= ================================= ============================ ======================================
variant           factor: prediction                factor: ground truth         then
================= ================================= ============================ ======================================
``gray_rgb``      of 8 bits, luma .299 R + .587 G   the same                     clipped; PSNR and SSIM of that
(HVI-CIDNet;      + .114 B rounded to 8 bits                                     (not rounded) and 8 bits
the default)      (OpenCV's)
``retinexformer`` clipped floats, .114 R + .587 G   the same                     clipped; PSNR of floats,
                  + .299 B (OpenCV's BGR2GRAY on                                 SSIM rounded to 8 bits
                  RGB)
``llflow``        floats as the network gave them,  .114 R + .587 G + .299 B     clipped, cut down (not rounded)
                  (R + G + B) / 3                                                to 8 bits
================= ================================= ============================ ======================================

The plugin's validation hands the network's floats to these functions. Of images that are 8-bit already (BasicSR's own
validation, folders of results) ``gray_rgb`` is the same; the others begin with what the rounding left. SSIM is
BasicSR's in all three; the first two use the same one.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from semiisp_plugin.metrics._shared import Image, as_pair, cropped, has_nan, takes_floats, to_8_bits
from semiisp_plugin.toolbox import METRIC_REGISTRY, calculate_psnr, calculate_ssim, register

Variant = Literal["gray_rgb", "retinexformer", "llflow"]

_OWNER = "GT-mean metric"
_SWAPPED_LUMA_BGR = np.array([0.299, 0.587, 0.114])
_SSIM_WINDOW = 11
# Values that 8 bits have exactly come out of float32 with errors of up to 1.5e-5; cutting down must not lose a level.
_FLOAT32_ERROR = 2e-5


class _Scaled(NamedTuple):
    """What a protocol hands to the metrics: ``(H, W, C)``, B, G, R, in [0, 255]."""

    scale: float
    psnr: tuple[Image, Image]
    ssim: tuple[Image, Image]


def _mean(image: Image, weights: npt.NDArray[np.float64] | None = None) -> float:
    """Mean of the weighted channels, or of all values."""
    means = image.mean(axis=(0, 1), dtype=np.float64)
    return float(means.mean() if weights is None or len(means) == 1 else means @ weights)


def _mean_8_bit_luma(image: npt.NDArray[np.uint8]) -> float:
    if image.shape[2] == 1:
        return _mean(image)
    return float(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY).mean(dtype=np.float64))


def _ratio(target: float, pred: float) -> float:
    # No factor brightens a black image.
    return target / pred if pred > 0 else 1.0


def _gray_rgb(pred: Image, target: Image) -> _Scaled:
    x, y = to_8_bits(pred), to_8_bits(target)
    # 8 bits have no NaN; the metric of a prediction that has is none.
    scale = math.nan if has_nan(pred) else _ratio(_mean_8_bit_luma(y), _mean_8_bit_luma(x))
    pair = (np.clip(x * scale, 0, 255), y.astype(np.float64))
    return _Scaled(scale, pair, pair)


def _retinexformer(pred: Image, target: Image) -> _Scaled:
    x, y = (np.clip(image.astype(np.float64), 0, 255) for image in (pred, target))
    scale = _ratio(_mean(y, _SWAPPED_LUMA_BGR), _mean(x, _SWAPPED_LUMA_BGR))
    x = np.clip(x * scale, 0, 255)
    return _Scaled(scale, (x, y), (x.round(), y.round()))


def _llflow(pred: Image, target: Image) -> _Scaled:
    y = to_8_bits(target).astype(np.float64)
    scale = _ratio(_mean(y, _SWAPPED_LUMA_BGR), _mean(pred))
    x = np.floor(np.clip(pred.astype(np.float64) * scale, 0, 255) + _FLOAT32_ERROR)
    return _Scaled(scale, (x, y), (x, y))


_PROTOCOLS = {"gray_rgb": _gray_rgb, "retinexformer": _retinexformer, "llflow": _llflow}


def _scaled(
    img: Image,
    img2: Image,
    crop_border: int,
    variant: Variant,
    smallest: int = 1,
) -> _Scaled:
    """Follow a protocol on whole images, and crop what it gives."""
    pair = as_pair(img, img2, _OWNER)
    cropped(pair, crop_border, smallest, _OWNER)  # before any work
    scale, *pairs = _PROTOCOLS[variant](*pair)
    return _Scaled(scale, *(cropped(p, crop_border, smallest, _OWNER) for p in pairs))


@register(METRIC_REGISTRY)
@takes_floats(clamped=False)
def calculate_psnr_gt_mean(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    variant: Variant = "gray_rgb",
    test_y_channel: bool = False,
    better: str | None = None,
) -> float:
    """PSNR of the brightness-corrected prediction, in dB; infinite for equal images.

    Images and ``better`` are those of all metrics, see `semiisp_plugin.metrics`.

    Args:
        img: Prediction.
        img2: Ground truth.
        crop_border: Pixels left out at each edge in the metric. The brightness factor is taken from whole images.
        variant: See this module's docstring.
        test_y_channel: Compare only the Y of YCbCr, as in BasicSR.
        better: Not used.
    """
    pair = _scaled(img, img2, crop_border, variant).psnr
    return float(calculate_psnr(*pair, crop_border=0, test_y_channel=test_y_channel))


@register(METRIC_REGISTRY)
@takes_floats(clamped=False)
def calculate_ssim_gt_mean(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    variant: Variant = "gray_rgb",
    test_y_channel: bool = False,
    better: str | None = None,
) -> float:
    """SSIM of the brightness-corrected prediction (11x11 Gaussian window, sigma 1.5, mean over channels), in [-1, 1].

    Arguments and errors as :func:`calculate_psnr_gt_mean`.
    """
    pair = _scaled(img, img2, crop_border, variant, _SSIM_WINDOW).ssim
    return float(calculate_ssim(*pair, crop_border=0, test_y_channel=test_y_channel))
