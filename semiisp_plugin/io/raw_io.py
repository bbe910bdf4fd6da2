"""Camera RAW files as 16-bit RGB: linear, or developed to sRGB.

Linear is black and white level, demosaicing, orientation, and nothing else. The choices are ours; the paper says "only
demosaicing" (its general ISP task) and no more. What LibRaw would do by itself and is turned off here: white balance
(camera's or automatic), colour matrix, gamma, brightening to the image's own histogram, and lowering the white level to
the image's own maximum (``adjust_maximum_thr``), which would scale each photograph differently.

Developed adds the camera's white balance, its colour matrix and sRGB's curve.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from semiisp_plugin.io.exif import directories
from semiisp_plugin.io.image_header import ImageReadError, flat

if TYPE_CHECKING:
    from collections.abc import Mapping

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


_TO_SRGB = {"use_camera_wb": True, "output_color": "sRGB", "gamma": [2.4, 12.92]}
"""What developing to sRGB has in the place of `RAW_PROCESSING`.

LibRaw's brightening stays off. It makes every photograph so bright that a hundredth of its pixels are white, be it a
night or a misty morning, and differently for each of a series; a camera's JPEG keeps what was exposed for. The price:
mid-grey, which sensors put at an eighth of their range to spare highlights, is half a stop below a camera's JPEG, whose
curve lifts it.
"""

RAW_SUMMARY = (
    "developed by choices of ours: AHD demosaicing, linear, black and white level mapped to 0 and 65535, no white "
    "balance, no colour matrix"
)
"""`read_raw` in words."""

SRGB_SUMMARY = "developed in the standard way: the camera's white balance, its colour matrix, sRGB"
"""The same for ``srgb``."""

# Tags of TIFF, DNG and (RAW_OFFSET) Panasonic.
_REDUCED, _COMPRESSION, _PHOTOMETRIC, _FORMAT, _RAW_OFFSET = 254, 259, 262, 339, 280
_PARTS = (273, 324), (279, 325)  # offsets of strips or tiles, and their sizes
_DNG_VERSION, _WHITE, _ORIGIN, _SIZE, _ACTIVE = 50706, 50717, 50719, 50720, 50829
_PLAIN, _JPEG, _KODAK, _CFA, _LINEAR, _NO_OFFSET = 1, 7, 65000, 32803, 34892, 2**32 - 1
# So many zero bytes in a row are no sensor's values: these have noise. The unit of files that fail is 4096 bytes.
_HOLE = bytes(4000)
_MAX_DARK_ROWS = 1 / 16
_COPY_AGAIN = "Copy it from the camera again, or remove it (from both folders, if it is one of a pair)."


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


def read_raw(path: str | os.PathLike[str], *, srgb: bool = False) -> np.ndarray:
    """Read a camera RAW file as a demosaiced linear image, or developed to sRGB.

    Linear, 0 is the sensor's black level and 65535 its white level, the same for the three colours (neutral objects
    look green: there is no white balance). The frame is the one that the file recommends (DNG's default crop), so that
    its border is that of the camera's or a RAW converter's image. It is turned as the camera was held.

    Args:
        path: The file.
        srgb: With the camera's white balance (LibRaw's automatic one where the file names none), its colour matrix and
            sRGB's curve; what is brighter than white in one colour is clipped, so that highlights stay neutral.

    Returns:
        RGB (H, W, 3), ``uint16``, in the camera's own colours, or sRGB.

    Raises:
        ImportError: rawpy is not installed.
        FileNotFoundError: There is no such file.
        ImageReadError: LibRaw cannot read it, its sensor has not three colours, or its picture is not there or not
            whole: LibRaw returns black, or what its memory held before.
    """
    require_rawpy()
    import rawpy

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"There is no RAW file '{name}'.")
    with open(name, "rb") as file:
        tags = _check_data(file, name)
    try:
        with rawpy.imread(name) as raw:
            if raw.num_colors != 3:
                raise ImageReadError(
                    f"{name}: the sensor has {raw.num_colors} colours; three are needed here. Leave the file out."
                )
            sizes = raw.sizes
            _check_values(raw, name)
            levels = _levels(raw, tags)
            if srgb:  # the factors of the colours are the camera's then
                levels.pop("user_wb", None)
            image = raw.postprocess(**{**_arguments(rawpy, srgb), **levels})
    except rawpy.LibRawError as error:
        text = error.args[0] if error.args else error
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        raise ImageReadError(
            f"{name}: LibRaw cannot read it ({text}). It is damaged, incomplete, or of a camera newer than this rawpy; "
            "copy the file again, upgrade rawpy, or convert it to DNG."
        ) from error
    if not image.any():
        raise ImageReadError(f"{name}: the RAW file holds no picture (all is black). {_COPY_AGAIN}")
    image = _default_crop(image, sizes, tags)
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


def _arguments(rawpy: Any, srgb: bool) -> dict[str, Any]:
    """`RAW_PROCESSING`, or with `_TO_SRGB`, with rawpy's enumerations."""
    chosen: dict[str, Any] = {**RAW_PROCESSING, **(_TO_SRGB if srgb else {})}
    return {
        **chosen,
        "demosaic_algorithm": rawpy.DemosaicAlgorithm.AHD,
        "output_color": rawpy.ColorSpace[chosen["output_color"]],
        "highlight_mode": rawpy.HighlightMode.Clip,
        "gamma": tuple(chosen["gamma"]),
        **({"user_wb": None} if srgb else {}),
    }


def _check_data(file: BinaryIO, name: str) -> Mapping[int, Any]:
    """Raise unless the picture's data lie within the file and are not zeros, as far as its format tells.

    Returns:
        The tags of the directory that describes a DNG file's picture; none of other files.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(108)
    end = 0
    dng: Mapping[int, Any] = {}
    if head.startswith(b"FUJIFILM"):
        end = int.from_bytes(head[100:104], "big") + int.from_bytes(head[104:108], "big")
    elif head[4:12] == b"ftypcrx ":  # Canon's: boxes, each of which begins with its length
        while end < size:
            file.seek(end)
            box = file.read(16)
            length = int.from_bytes(box[8:16] if box[:4] == b"\0\0\0\1" else box[:4], "big")
            end += max(length, 8) if length else size - end
    elif head[:2] in (b"II", b"MM") and b"HEAP" not in head:
        version = False
        for tags in directories(file):
            version |= _DNG_VERSION in tags
            if not any(_numbers(tags, _REDUCED)):
                end = max(end, _check_parts(file, tags, name, size))
                if version and tags.get(_PHOTOMETRIC) in (_CFA, _LINEAR):
                    dng = dng or tags
    if end > size:
        raise ImageReadError(
            f"{name}: incomplete RAW file ({size} bytes, of which there should be {end} at least). {_COPY_AGAIN}"
        )
    return dng


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[float, ...]:
    """A tag's values; none where it is not there or, in a damaged file, of another type."""
    value = tags.get(tag, ())
    try:
        numbers = tuple(float(number) for number in (value if isinstance(value, tuple) else (value,)))
    except (TypeError, ValueError, ArithmeticError):
        return ()
    return numbers if all(math.isfinite(number) for number in numbers) else ()


def _check_parts(file: BinaryIO, tags: Mapping[int, Any], name: str, size: int) -> int:
    """Look at a directory's strips or tiles; returns where the last of them ends."""
    starts, sizes = (_numbers(tags, strips) or _numbers(tags, tiles) for strips, tiles in _PARTS)
    photometric, compression = tags.get(_PHOTOMETRIC, _CFA), tags.get(_COMPRESSION, _PLAIN)
    whole = sum(sizes) <= size  # else parts overlap, and could be read for ever
    end = 0
    for start, length in ((int(a), int(b)) for a, b in zip(starts, sizes, strict=False)):
        if start == _NO_OFFSET:
            start = int(max(_numbers(tags, _RAW_OFFSET), default=0))
        end = max(end, start + length)
        if not whole or start + length > size or min(start, length) < 1:
            continue
        file.seek(start)
        data = file.read(length)
        solid = data.rstrip(b"\0")
        jpeg = data.startswith(b"\xff\xd8")
        tables = re.finditer(rb"\xff\xc4(..)", data[:2048] if jpeg else b"", re.DOTALL)
        panorama = photometric == _LINEAR and compression == _PLAIN  # joined, with a border of zeros
        has_flat_parts = (
            panorama
            or compression == _KODAK
            or (jpeg and all(flat(data[m.end() : m.start() + 2 + int.from_bytes(m[1], "big")]) for m in tables))
        )
        hole = _HOLE in solid or len(data) - len(solid) > max(len(_HOLE), len(data) // 8)
        if (hole and not has_flat_parts) or (not solid and not panorama):
            problem = "zeros"
        elif compression == _JPEG and not jpeg:
            problem = "no JPEG data"
        else:
            continue
        if photometric in (_CFA, _LINEAR):
            raise ImageReadError(
                f"{name}: damaged RAW file ({problem} where its picture should be, from byte {start}). {_COPY_AGAIN}"
            )
    return end


def _check_values(raw: Any, name: str) -> None:
    """Raise where rows of a sensor's mosaic have no value above black, which its noise has."""
    if raw.raw_type.name == "Flat":
        dark = (raw.raw_image_visible <= min(raw.black_level_per_channel)).all(axis=1)
        if dark.mean() > _MAX_DARK_ROWS:
            raise ImageReadError(
                f"{name}: {dark.sum()} of the sensor's {dark.size} rows are black, so the RAW file does not hold a "
                f"whole picture. {_COPY_AGAIN}"
            )


def _levels(raw: Any, tags: Mapping[int, Any]) -> dict[str, Any]:
    """Arguments by which the white of every colour is 65535; LibRaw's would differ where the blacks do.

    It subtracts a black level from each colour, and scales all by one white level, ``user_sat``, that counts from
    black. The factors ``user_wb`` do the rest: the smallest is 1.
    """
    flat_sensor = raw.raw_type.name == "Flat"
    black = [*raw.black_level_per_channel[:3], raw.black_level_per_channel[3 if flat_sensor else 1]]
    white: list[float] = [raw.white_level] * 4
    named = _numbers(tags, _WHITE)
    if named and tags.get(_COMPRESSION) in (_PLAIN, _JPEG) and {*_numbers(tags, _FORMAT)} <= {1}:  # of integers
        white = [named[min(i, len(named) - 1)] for i in (0, 1, 2, 1)]
    elif not flat_sensor:
        return {}
    ranges = [w - b for w, b in zip(white, black, strict=True)]
    if not 1 <= min(ranges) <= max(ranges) <= 65535:  # a damaged tag
        return {}
    return {"user_sat": round(max(ranges)), "user_wb": [max(ranges) / r for r in ranges]}


def _default_crop(image: np.ndarray, sizes: Any, tags: Mapping[int, Any]) -> np.ndarray:
    """The recommended part of the sensor's image, where the file names one that lies inside."""
    height, width = image.shape[:2]
    # Both margins count from the corner of the whole sensor; the image begins at (top_margin, left_margin).
    top, left = sizes.crop_top_margin - sizes.top_margin, sizes.crop_left_margin - sizes.left_margin
    crop_height, crop_width = sizes.crop_height, sizes.crop_width
    origin, size, active = (_numbers(tags, tag) for tag in (_ORIGIN, _SIZE, _ACTIVE))
    if len(origin) == len(size) == 2:
        # LibRaw moves odd places by a pixel, so that a frame begins with the same colour; here all pixels have all.
        above, before = active[:2] if len(active) == 4 else (0, 0)
        top, left = int(origin[1] + above - sizes.top_margin + 0.5), int(origin[0] + before - sizes.left_margin + 0.5)
        crop_width, crop_height = (int(side + 0.5) for side in size)
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
