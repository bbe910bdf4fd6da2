"""PSNR before images are rounded to 8 bits: that of the LOL benchmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semiisp_plugin.metrics._shared import as_pair, takes_floats
from semiisp_plugin.toolbox import METRIC_REGISTRY, calculate_psnr, register


@register(METRIC_REGISTRY)
@takes_floats()
def calculate_psnr_float(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    test_y_channel: bool = False,
    better: str | None = None,
) -> float:
    """PSNR of the clamped prediction as the network gave it, in dB.

    Retinexformer's test program, and others on LOL, measure floats in [0, 1] after the clamp; BasicSR's
    ``calculate_psnr``, as the benchmarks on FiveK, measures 8-bit images. The plugin's validation hands floats to this
    function. Of 8-bit images it is ``calculate_psnr``.

    Images, ``crop_border`` and ``better`` are those of all metrics, see `semiisp_plugin.metrics`.
    ``test_y_channel`` compares only the Y of YCbCr, as in BasicSR. Infinite for equal images.
    """
    pair = as_pair(img, img2, "calculate_psnr_float", crop_border)
    pred, target = (np.clip(image.astype(np.float64), 0, 255) for image in pair)
    return float(calculate_psnr(pred, target, crop_border=0, test_y_channel=test_y_channel))
