"""Colour difference in CIE L*a*b*."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from semiisp_plugin.metrics._shared import as_pair
from semiisp_plugin.toolbox import METRIC_REGISTRY, register

_FORMULAE = {
    "cie76": "deltaE_cie76",
    "cie94": "deltaE_ciede94",
    "ciede2000": "deltaE_ciede2000",
}  # scikit-image's names

_OWNER = "calculate_delta_e"


@register(METRIC_REGISTRY)
def calculate_delta_e(
    img: npt.NDArray[np.generic],
    img2: npt.NDArray[np.generic],
    crop_border: int = 0,
    formula: Literal["cie76", "cie94", "ciede2000"] = "cie76",
    better: str | None = None,
) -> float:
    """Mean colour difference over the pixels; 0 for equal images, lower is better (``better: lower``).

    Images are taken as sRGB (IEC 61966-2-1) and turned into L*a*b* with white point D65, 2 degree observer; the
    formulae are scikit-image's. The default, the Euclidean distance of CIE 1976, is what Image-Adaptive-3DLUT, AdaInt
    and SepLUT report on FiveK (``rgb2lab`` of MATLAB, which takes D65 as well).

    Images, ``crop_border`` and ``better`` are those of all metrics, see `semiisp_plugin.metrics`.
    ``formula`` is ``cie76``, ``cie94`` (graphic arts; not symmetric, the ground truth is its reference) or
    ``ciede2000``, with all weighting factors 1.
    """
    pair = as_pair(img, img2, _OWNER, crop_border)
    from skimage import color  # takes as long to import as all other metrics together

    pred, target = (_lab(image) for image in pair)
    return float(getattr(color, _FORMULAE[formula])(target, pred).mean())


def _lab(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    from skimage.color import rgb2lab

    rgb = np.clip(image[..., ::-1].astype(np.float64) / 255, 0, 1)
    lab: npt.NDArray[np.float64] = rgb2lab(np.broadcast_to(rgb, (*rgb.shape[:2], 3)), illuminant="D65")
    return lab
