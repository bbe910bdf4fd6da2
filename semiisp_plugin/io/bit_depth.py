"""Images of 8 bits, of 16, and of floats: conversions between them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

BitDepth = Literal["keep", "8", "16"]

# Values converted at a time, so that wide intermediates stay small.
_BAND = 2**20


def to_bit_depth(image: np.ndarray, bit_depth: BitDepth) -> np.ndarray:
    """Convert between 8 and 16 bits by the factor 257, which maps 0 to 0 and 255 to 65535.

    Args:
        image: ``uint8`` or ``uint16`` image of any shape.
        bit_depth: ``"keep"``, ``"8"`` (rounded to nearest) or ``"16"`` (exact).
    """
    if bit_depth not in ("keep", "8", "16"):
        raise ValueError(f"bit_depth is {bit_depth!r}; it must be 'keep', '8' or '16'.")
    check_dtype(image)
    if bit_depth == "8" and image.dtype == np.uint16:
        flat = np.ascontiguousarray(image).reshape(-1)
        rounded = np.empty(flat.shape, np.uint8)
        for at in range(0, flat.size, _BAND):
            rounded[at : at + _BAND] = (flat[at : at + _BAND].astype(np.uint32) + 128) // 257
        return rounded.reshape(image.shape)
    if bit_depth == "16" and image.dtype == np.uint8:
        return image.astype(np.uint16) * np.uint16(257)
    return image


def to_float(image: np.ndarray) -> np.ndarray:
    """Scale an image to ``float32`` in [0, 1]: 8-bit by 1/255, 16-bit by 1/65535. The shape stays."""
    check_dtype(image)
    return np.divide(image, np.float32(np.iinfo(image.dtype).max), dtype=np.float32)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round a float image in [0, 1] to ``uint8``; values outside are clipped, NaN is a ValueError."""
    return _quantise(image, np.uint8)


def to_uint16(image: np.ndarray) -> np.ndarray:
    """Round a float image in [0, 1] to ``uint16``; values outside are clipped, NaN is a ValueError."""
    return _quantise(image, np.uint16)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turn an image (H, W, C), ``uint8``, ``uint16`` or float in [0, 1], into a contiguous ``float32`` (C, H, W)."""
    if image.ndim != 3:
        raise ValueError(f"The image has shape {image.shape}; expected (height, width, channels).")
    chw = np.ascontiguousarray(image.transpose(2, 0, 1))
    if np.issubdtype(chw.dtype, np.floating):
        # `copy`: the tensor must not share the caller's memory in one of the cases only.
        return torch.from_numpy(chw.astype(np.float32, copy=True))
    return torch.from_numpy(to_float(chw))


def _quantise(image: np.ndarray, dtype: type[np.unsignedinteger[Any]]) -> np.ndarray:
    """Clip a float image to [0, 1] and round it to the whole range of ``dtype``."""
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"The image is {image.dtype}; expected floats in [0, 1].")
    if np.isnan(image).any():
        raise ValueError("The image holds NaN, which no integer stands for.")
    top = np.iinfo(dtype).max
    # float16 cannot count to 65535.
    wide = image.astype(np.promote_types(image.dtype, np.float32), copy=False)
    return np.rint(np.clip(wide, 0, 1) * top).astype(dtype)


def check_dtype(image: np.ndarray) -> None:
    """Raise unless the image has 8 or 16 bits."""
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"The image is {image.dtype}; expected uint8 or uint16 (see to_uint8, to_uint16).")
