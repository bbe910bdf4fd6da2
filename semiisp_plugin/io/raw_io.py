"""Camera RAW files as linear 16-bit RGB: black and white level, demosaicing, orientation, and nothing else.

The choices are ours; the paper says "only demosaicing" (its general ISP task) and no more. What LibRaw would do by
itself and is turned off here: white balance (camera's or automatic), colour matrix, gamma, brightening to the image's
own histogram, and lowering the white level to the image's own maximum (``adjust_maximum_thr``), which would scale each
photograph differently.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from semiisp_plugin.io.image_header import ImageReadError

RAW_EXTENSIONS: tuple[str, ...] = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
    ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
"""What is read with rawpy, in lower case; upper case is accepted too."""

RAW_PROCESSING: dict[str, object] = {
    "demosaic_algorithm": "AHD",
    "user_wb": [1.0, 1.0, 1.0, 1.0],
    "use_camera_wb": False,
    "use_auto_wb": False,
    "output_color": "raw",
    "gamma": [1, 1],
    "no_auto_bright": True,
    "adjust_maximum_thr": 0.0,
    "output_bps": 16,
    "highlight_mode": "Clip",
    "user_flip": 0,
}
"""The arguments of rawpy's ``postprocess``, enumerations by name, so that they can be written into a JSON file."""


RAW_SUMMARY = (
    "developed by choices of ours: AHD demosaicing, linear, black and white level mapped to 0 and 65535, no white "
    "balance, no colour matrix"
)
"""`read_raw` in words."""


def require_rawpy() -> None:
    """Raise an ImportError that says how to install rawpy unless it is there."""
    try:
        import rawpy  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ImportError(
            "RAW files are read with rawpy, which is not installed. In a clone of the plugin: pip install -e '.[raw]'"
        ) from error


def is_raw(path: str) -> bool:
    """Whether a path ends like a camera RAW file."""
    return os.path.splitext(path)[1].lower() in RAW_EXTENSIONS


def read_raw(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a camera RAW file as a demosaiced linear image.

    0 is the sensor's black level and 65535 its white level, the same for the three colours (neutral objects look
    green: there is no white balance). The frame is the one that the file recommends (DNG's default crop), so that its
    border is that of the camera's or a RAW converter's image. It is turned as the camera was held.

    Returns:
        RGB (H, W, 3), ``uint16``, in the camera's own colours.

    Raises:
        ImportError: rawpy is not installed.
        FileNotFoundError: There is no such file.
        ImageReadError: LibRaw cannot read it, or its sensor has not three colours.
    """
    require_rawpy()
    import rawpy

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"There is no RAW file '{name}'.")
    try:
        with rawpy.imread(name) as raw:
            if raw.num_colors != 3:
                raise ImageReadError(
                    f"{name}: the sensor has {raw.num_colors} colours; three are needed here. Leave the file out."
                )
            sizes = raw.sizes
            image = raw.postprocess(**_arguments(rawpy))
    except rawpy.LibRawError as error:
        text = error.args[0] if error.args else error
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        raise ImageReadError(
            f"{name}: LibRaw cannot read it ({text}). It is damaged, incomplete, or of a camera newer than this rawpy; "
            "copy the file again, upgrade rawpy, or convert it to DNG."
        ) from error
    image = _default_crop(image, sizes)
    return np.ascontiguousarray(_turn(image, sizes.flip))


def preview_of(path: str | os.PathLike[str]) -> bytes | None:
    """The JPEG file that a RAW file brings along as its preview; None where there is none that can be had."""
    import rawpy

    try:
        with rawpy.imread(os.fspath(path)) as raw:
            preview = raw.extract_thumb()
        return bytes(preview.data) if preview.format is rawpy.ThumbFormat.JPEG else None
    except (rawpy.LibRawError, OSError):
        return None


def _arguments(rawpy: Any) -> dict[str, Any]:
    """`RAW_PROCESSING` with rawpy's enumerations."""
    return {
        **RAW_PROCESSING,
        "demosaic_algorithm": rawpy.DemosaicAlgorithm.AHD,
        "output_color": rawpy.ColorSpace.raw,
        "highlight_mode": rawpy.HighlightMode.Clip,
        "gamma": (1, 1),
    }


def _default_crop(image: np.ndarray, sizes: Any) -> np.ndarray:
    """The recommended part of the sensor's image, where the file names one that lies inside."""
    height, width = image.shape[:2]
    # Both margins count from the corner of the whole sensor; the image begins at (top_margin, left_margin).
    top, left = sizes.crop_top_margin - sizes.top_margin, sizes.crop_left_margin - sizes.left_margin
    crop_height, crop_width = sizes.crop_height, sizes.crop_width
    # Fuji's turned sensors and pixels that are not square change the geometry; there the margins mean something else.
    if (height, width) != (sizes.height, sizes.width) or not crop_height or not crop_width:
        return image
    if top < 0 or left < 0 or top + crop_height > height or left + crop_width > width:
        return image
    # A much smaller frame is not a border but the camera's digital zoom or aspect setting, which edits may ignore.
    if crop_height < 0.9 * height or crop_width < 0.9 * width:
        return image
    return image[top : top + crop_height, left : left + crop_width]


def _turn(image: np.ndarray, flip: int) -> np.ndarray:
    """Turn an image as LibRaw's ``flip`` says: bit 1 turns upside down, bit 0 mirrors, then bit 2 transposes."""
    if flip & 2:
        image = image[::-1]
    if flip & 1:
        image = image[:, ::-1]
    return image.swapaxes(0, 1) if flip & 4 else image
