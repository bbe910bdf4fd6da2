"""ICC profiles of 16-bit images: to sRGB without a detour over 8 bits.

`semiisp_plugin.io.colour_profile` converts in 8 bits, by Little CMS. Profiles of cameras, displays and working spaces
(Adobe RGB, Display P3, ProPhoto) are a curve a colour and a matrix; these are applied here in floating point. Others
are left to the 8-bit conversion, and the result says so.
"""

from __future__ import annotations

import struct

import numpy as np

from semiisp_plugin.io.colour_profile import to_srgb
from semiisp_plugin.io.image_io import to_bit_depth

__all__ = ["to_srgb16"]

# sRGB's primaries in XYZ, adapted (Bradford) from their white, x = .3127, y = .3290, to that of profiles, D50.
_SRGB_TO_XYZ = np.array(
    [[0.4360413, 0.3851129, 0.1430458], [0.2224845, 0.7169051, 0.0606104], [0.0139202, 0.0970672, 0.7139126]]
)
_BAND_ROWS = 64
_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}


def to_srgb16(pixels: np.ndarray, profile: bytes | None, name: str) -> tuple[np.ndarray, str | None]:
    """Convert a 16-bit image from the colour space of its profile to sRGB.

    Args:
        pixels: (H, W, 3) RGB ``uint16``.
        profile: The embedded profile, if any.
        name: What messages call the image.

    Returns:
        (H, W, 3) ``uint16``, and a remark where the conversion was done in 8 bits.

    Raises:
        ImageReadError: The profile is that of an HDR image.
    """
    probe = _probe()
    # Says whether there is anything to convert, by the same rules as for 8-bit images.
    if profile is None or to_srgb(probe, profile, name=name) is probe:
        return pixels, None
    parsed = _matrix_profile(profile)
    if parsed is None:
        converted = to_srgb(to_bit_depth(pixels, "8"), profile, name=name)
        return to_bit_depth(converted, "16"), "its colour profile was applied in 8 bits"
    curves, matrix = parsed
    out = np.empty_like(pixels)
    for top in range(0, len(pixels), _BAND_ROWS):
        band = pixels[top : top + _BAND_ROWS]
        linear = np.stack([curve[band[..., i]] for i, curve in enumerate(curves)], axis=-1) @ matrix.T
        out[top : top + _BAND_ROWS] = np.rint(_encode(linear.clip(0, 1)) * 65535).astype(np.uint16)
    return out, None


def _probe() -> np.ndarray:
    steps = np.array([0, 64, 128, 192, 255], np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 3)


def _encode(linear: np.ndarray) -> np.ndarray:
    """The curve of sRGB (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.power(linear.clip(1e-9), 1 / 2.4) - 0.055)


def _matrix_profile(profile: bytes) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Curves (65536 values each) and the matrix to linear sRGB; None for profiles of another kind."""
    tags = {}
    for at in range(132, 132 + 12 * min(int.from_bytes(profile[128:132], "big"), 100), 12):
        signature, start, size = profile[at : at + 4], *struct.unpack(">II", profile[at + 4 : at + 12])
        tags[signature] = profile[start : start + size]
    # With tables besides, these come first, and a matrix is only their rough likeness.
    if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ " or {b"A2B0", b"A2B1"} & tags.keys():
        return None
    try:
        columns = [_xyz(tags[colour + b"XYZ"]) for colour in (b"r", b"g", b"b")]
        curves = [_curve(tags[colour + b"TRC"]) for colour in (b"r", b"g", b"b")]
    except (KeyError, ValueError, struct.error, IndexError):
        return None
    matrix = np.linalg.inv(_SRGB_TO_XYZ) @ np.array(columns).T
    return curves, matrix


def _fixed(data: bytes) -> np.ndarray:
    """Numbers of 16 bits before and 16 after the point."""
    return np.frombuffer(data, ">i4").astype(np.float64) / 65536


def _xyz(tag: bytes) -> np.ndarray:
    if tag[:4] != b"XYZ " or len(tag) < 20:
        raise ValueError("not an XYZ tag")
    return _fixed(tag[8:20])


def _curve(tag: bytes) -> np.ndarray:
    """A tone curve at the 65536 inputs."""
    x = np.arange(65536) / 65535
    if tag[:4] == b"curv":
        count = int.from_bytes(tag[8:12], "big")
        if count == 0:
            return x
        if count == 1:
            return x ** (int.from_bytes(tag[12:14], "big") / 256)
        values = np.frombuffer(tag[12 : 12 + 2 * count], ">u2") / 65535
        return np.interp(x, np.linspace(0, 1, count), values)
    if tag[:4] != b"para":
        raise ValueError("neither a table nor a formula")
    kind = int.from_bytes(tag[8:10], "big")
    g, a, b, c, d, e, f = [*_fixed(tag[12 : 12 + 4 * _PARAMETERS[kind]]), *[0.0] * 7][:7]
    if kind == 0:
        return x**g
    power = np.power((a * x + b).clip(0), g)
    if kind == 1:
        return np.where(x >= -b / a, power, 0)
    if kind == 2:
        return np.where(x >= -b / a, power + c, c)
    return np.where(x >= d, power + e, c * x + f)
