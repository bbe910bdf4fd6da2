"""Linear DNG: demosaiced RAW of 16 bits, as RAW converters open it."""

from __future__ import annotations

import io

import numpy as np
import tifffile

_SHORT, _LONG, _RATIONAL, _SRATIONAL, _BYTE, _ASCII = 3, 4, 5, 10, 1, 2
_D65 = 21
_MILLIONTHS = 1_000_000


def linear_dng(pixels: np.ndarray, xyz_to_camera: np.ndarray) -> bytes:
    """The bytes of a DNG file (version 1.4) with one uncompressed LinearRaw picture.

    Black is 0 and white 65535. The white balance "as shot" is what the matrix makes of D65.

    Args:
        pixels: (H, W, 3) uint16, linear, in the camera's colours, without white balance.
        xyz_to_camera: (3, 3), CIE XYZ (D65) to the camera's colours; DNG's ColorMatrix1.
    """
    neutral = xyz_to_camera @ (0.95047, 1.0, 1.08883)
    neutral = (neutral / neutral.max()).clip(1e-3)
    tags = [
        (50706, _BYTE, 4, (1, 4, 0, 0)),  # DNGVersion
        (50707, _BYTE, 4, (1, 1, 0, 0)),  # DNGBackwardVersion
        (50708, _ASCII, 0, "semiisp_plugin pseudo RAW"),  # UniqueCameraModel
        (50714, _SHORT, 3, (0, 0, 0)),  # BlackLevel
        (50717, _LONG, 3, (65535, 65535, 65535)),  # WhiteLevel
        (50721, _SRATIONAL, 9, _fractions(xyz_to_camera)),  # ColorMatrix1
        (50728, _RATIONAL, 3, _fractions(neutral)),  # AsShotNeutral
        (50778, _SHORT, 1, _D65),  # CalibrationIlluminant1
    ]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels,
        photometric=tifffile.PHOTOMETRIC.LINEAR_RAW,
        planarconfig="contig",
        byteorder="<",
        metadata=None,
        software="semiisp_plugin",
        extratags=[(*tag, True) for tag in tags],
    )
    return buffer.getvalue()


def _fractions(values: np.ndarray) -> tuple[int, ...]:
    return tuple(number for value in values.flat for number in (round(value * _MILLIONTHS), _MILLIONTHS))
