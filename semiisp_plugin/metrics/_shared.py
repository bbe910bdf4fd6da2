"""What the metrics share: what they say about themselves, and pairs of images checked and in one order.

BasicSR calls a metric as ``f(img=..., img2=..., **options)`` with 8-bit images. The plugin's validation reads the
attributes that the decorators here set, and BasicSR's own does not: a metric has to make do with 8 bits, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from semiisp_plugin.toolbox import METRIC_REGISTRY

F = TypeVar("F", bound=Callable[..., Any])
Image = npt.NDArray[np.generic]
Images = Literal["8 bit", "float", "unclamped float"]


def takes_floats(*, clamped: bool = True) -> Callable[[F], F]:
    """Declare that a metric wants images before they are rounded to 8 bits.

    It then gets float64 ``(H, W, C)`` in BasicSR's order (B, G, R), 255 for white.

    Args:
        clamped: To [0, 255]; without, the network's output as it is. (Targets lie in [0, 255] by themselves.)
    """

    def declare(function: F) -> F:
        function.takes = "float" if clamped else "unclamped float"  # type: ignore[attr-defined]  # is set here
        return function

    return declare


def prepared_by(prepare: Callable[..., None]) -> Callable[[F], F]:
    """Declare what is to be done, or found missing, before the first image: before training begins.

    Args:
        prepare: Called with the metric's options.
    """

    def declare(function: F) -> F:
        function.prepare = prepare  # type: ignore[attr-defined]  # is set here
        return function

    return declare


def images_for(settings: dict[str, Any]) -> Images:
    """Which images the metric of a section of ``val: metrics`` takes."""
    return getattr(METRIC_REGISTRY.get(settings["type"]), "takes", "8 bit")


def prepare_metric(settings: dict[str, Any]) -> None:
    """Do what the metric of a section of ``val: metrics`` needs before its first pair.

    Raises:
        RuntimeError: Something is missing; the message says what to do.
    """
    prepare = getattr(METRIC_REGISTRY.get(settings["type"]), "prepare", None)
    if prepare is not None:
        prepare(**{k: v for k, v in settings.items() if k not in ("type", "better")})


def as_pair(img: Image, img2: Image, owner: str, crop_border: int = 0, smallest: int = 1) -> tuple[Image, Image]:
    """Both images as ``(H, W, C)`` with 1 or 3 channels, without ``crop_border`` pixels at each edge; not copied.

    Raises:
        ValueError: They differ in shape, are neither uint8 nor float, have another number of channels, or less than
            ``smallest`` pixels a side are left.
    """
    if img.shape != img2.shape:
        raise ValueError(f"{owner}: the prediction {img.shape} and the ground truth {img2.shape} differ in shape.")
    pair = _as_hwc(img, "img", owner), _as_hwc(img2, "img2", owner)
    return cropped(pair, crop_border, smallest, owner)


def _as_hwc(image: Image, name: str, owner: str) -> Image:
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{owner}: `{name}` is {image.dtype}; take uint8 images, or float ones in [0, 255].")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"{owner}: `{name}` must have 1 or 3 channels; it is {image.shape} (height, width, channels).")
    return image


def cropped(pair: tuple[Image, Image], crop_border: int, smallest: int, owner: str) -> tuple[Image, Image]:
    """Both images ``(H, W, C)`` without ``crop_border`` pixels at each edge.

    Raises:
        ValueError: Less than ``smallest`` pixels a side are left. (BasicSR returns NaN with a warning only.)
    """
    height, width = pair[0].shape[:2]
    if crop_border < 0 or min(height, width) - 2 * crop_border < smallest:
        raise ValueError(
            f"{owner}: `crop_border: {crop_border}` leaves less than the {smallest} pixels a side that the metric "
            f"needs of a {height}x{width} image (height x width)."
        )
    inner = slice(crop_border, -crop_border or None)
    return pair[0][inner, inner], pair[1][inner, inner]


def has_nan(image: Image) -> bool:
    """Whether a value is NaN, which `to_8_bits` cannot say."""
    return image.dtype != np.uint8 and bool(np.isnan(image).any())


def to_8_bits(image: Image) -> npt.NDArray[np.uint8]:
    """Clamped to [0, 255] and rounded, as BasicSR's ``tensor2img`` does; uint8 stays, NaN becomes 0."""
    if image.dtype == np.uint8:
        return image  # type: ignore[return-value]  # just seen
    return np.nan_to_num(np.clip(image.astype(np.float64), 0, 255).round()).astype(np.uint8)
