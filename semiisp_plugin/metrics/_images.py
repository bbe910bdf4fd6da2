"""Pairs of images as the metrics here take them: checked, and in one order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.generic]


def check_choice(key: str, value: Any, known: tuple[str, ...], owner: str) -> None:
    """Refuse an option's value that is none of the choices.

    Raises:
        ValueError: It is none.
    """
    if value not in known:
        raise ValueError(f"{owner}: unknown `{key}: {value}`; choose one of {', '.join(known)}.")


def as_pair(img: Image, img2: Image, input_order: str, owner: str) -> tuple[Image, Image]:
    """Both images as ``(H, W, C)`` with 1 or 3 channels; not copied.

    Raises:
        ValueError: They differ in shape, are neither uint8 nor float, or have another number of channels.
    """
    check_choice("input_order", input_order, ("HWC", "CHW"), owner)
    if img.shape != img2.shape:
        raise ValueError(f"{owner}: the prediction {img.shape} and the ground truth {img2.shape} differ in shape.")
    return _as_hwc(img, "img", input_order, owner), _as_hwc(img2, "img2", input_order, owner)


def _as_hwc(image: Image, name: str, input_order: str, owner: str) -> Image:
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{owner}: `{name}` is {image.dtype}; take uint8 images, or float ones in [0, 255].")
    if image.ndim == 2:
        image = image[..., None] if input_order == "HWC" else image[None]
    if input_order == "CHW":
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"{owner}: `{name}` must have 1 or 3 channels; it is {image.shape} (height, width, channels) read with "
            f"input_order='{input_order}'."
        )
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
