"""PSNR before images are rounded to 8 bits: that of the LOL benchmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semiisp_plugin.metrics._declared import takes_floats
from semiisp_plugin.metrics._images import as_pair, cropped
from semiisp_plugin.toolbox import METRIC_REGISTRY, calculate_psnr, register


@register(METRIC_REGISTRY)
@takes_floats()
def calculate_psnr_float(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    input_order: str = "HWC",
    test_y_channel: bool = False,
    better: str | None = None,
) -> float:
    """PSNR of the clamped prediction as the network gave it, in dB.

    Retinexformer's test program, and others on LOL, measure floats in [0, 1] after the clamp; BasicSR's
    ``calculate_psnr``, as the benchmarks on FiveK, measures 8-bit images. The plugin's validation hands floats to this
    function. Of 8-bit images it is ``calculate_psnr``.

    Args:
        img: Prediction, ``(H, W, 3)`` or ``(H, W)``, float in [0, 255] (clamped here), or uint8.
        img2: Ground truth, likewise.
        crop_border: Pixels left out at each edge.
        input_order: ``HWC`` or ``CHW``.
        test_y_channel: Compare only the Y of YCbCr (of B, G, R), as in BasicSR.
        better: Not used; BasicSR hands this key of the metric's section to the function.

    Returns:
        PSNR in dB; infinite for equal images.

    Raises:
        ValueError: Different shapes, a data type other than uint8 and float, an image too small.
    """
    owner = "calculate_psnr_float"
    pair = cropped(as_pair(img, img2, input_order, owner), crop_border, 1, owner)
    pred, target = (np.clip(image.astype(np.float64), 0, 255) for image in pair)
    return float(calculate_psnr(pred, target, crop_border=0, test_y_channel=test_y_channel))
