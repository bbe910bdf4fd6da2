"""ICC profiles: from the colours of the device or space that an image was stored in to sRGB.

Two cameras, or one camera set to Adobe RGB and to sRGB, store different numbers for the same colour; the profile says
which numbers mean what. The conversion is relative colorimetric with black point compensation: colours that sRGB has
stay what they are, white becomes white and black black, and those outside it go to its border. The perceptual intent is
not taken because it is each profile maker's own choice, and the same as the colorimetric one for the profiles of
cameras and displays, which have a matrix and curves only.

By Little CMS through Pillow, in 8 bits, for Pillow has no colours of 16. Of 16-bit images, the profiles of cameras,
displays and working spaces (Adobe RGB, Display P3, ProPhoto), which are a curve a colour and a matrix, are therefore
applied here in floating point; others in 8 bits, and the result says so.
"""

from __future__ import annotations

import io
import re
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from semiisp_plugin.io.bit_depth import to_bit_depth
from semiisp_plugin.io.image_header import ImageReadError

if TYPE_CHECKING:  # Little CMS is loaded for the first image that has a profile
    from PIL import ImageCms

# A profile whose colours are nowhere further from sRGB's than this (of 255) is taken for sRGB: profiles by that name
# differ by the roundings of their makers.
_SRGB_TOLERANCE = 2
_HDR = re.compile(r"\b(PQ|HLG|2100|ST[ -]?2084)\b", re.IGNORECASE)
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Transfer functions of HDR images in ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67."""
# Flags of Little CMS, which Pillow names from version 10.3 on. Fine tables halve the error with those of presses, and
# change nothing for matrix profiles.
_BLACK_POINT_COMPENSATION, _FINE_TABLES = 0x2000, 0x0400
_FLAGS: Any = _BLACK_POINT_COMPENSATION | _FINE_TABLES
# Pixels converted at a time: Pillow needs a copy of 4 bytes each, floating point one of 24.
_BAND_PIXELS = 2**20
# sRGB's primaries in XYZ, adapted (Bradford) from their white, x = .3127, y = .3290, to that of profiles, D50.
_SRGB_TO_XYZ = np.array(
    [[0.4360413, 0.3851129, 0.1430458], [0.2224845, 0.7169051, 0.0606104], [0.0139202, 0.0970672, 0.7139126]]
)
# Numbers of a curve given as a formula (ICC.1, parametricCurveType), by its kind.
_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}


class _Conversion(NamedTuple):
    """What to do with pixels that carry a certain profile.

    Attributes:
        transform: From RGB or CMYK to sRGB by Little CMS.
        table: Of a grey profile: the sRGB grey of each of the 256 values.
        hdr: ``"PQ"`` or ``"HLG"``, which 8-bit sRGB cannot hold.
    """

    transform: ImageCms.ImageCmsTransform | None = None
    table: np.ndarray | None = None
    hdr: str | None = None


_AS_IT_IS = _Conversion()


def to_srgb(pixels: np.ndarray, profile: bytes | None, *, name: str = "image") -> np.ndarray:
    """Convert pixels from the colour space of an ICC profile to sRGB.

    A profile that is damaged, or of another kind than the pixels (a press's for RGB values, say), is ignored, as
    browsers and viewers do: RGB is then sRGB already, CMYK is converted without one. The picture is what most people
    have seen of it, which is better than none.

    Args:
        pixels: (H, W, 3) RGB or (H, W, 4) CMYK with 255 for full ink, ``uint8``.
        profile: The embedded profile, if any.
        name: What messages call the image.

    Returns:
        sRGB (H, W, 3), ``uint8``: ``pixels`` itself if there is nothing to convert.

    Raises:
        ImageReadError: The profile is that of an HDR image (PQ or HLG), whose values are no photograph's until they
            are tone-mapped.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"The pixels are {pixels.dtype} {pixels.shape}; expected uint8 (height, width, 3 or 4).")
    cmyk = pixels.shape[2] == 4
    conversion = _conversion(profile, "CMYK" if cmyk else "RGB") if profile else _AS_IT_IS
    if conversion.hdr:
        raise hdr_error(conversion.hdr, name)
    if conversion.transform is not None:
        return _apply(conversion.transform, pixels)
    if conversion.table is not None:
        grey = pixels[..., :1]
        if (pixels == grey).all():
            return np.repeat(conversion.table[grey], 3, axis=2)
    return cmyk_to_rgb(pixels) if cmyk else pixels


def to_srgb16(pixels: np.ndarray, profile: bytes | None, *, name: str = "image") -> tuple[np.ndarray, str | None]:
    """Convert a 16-bit image from the colour space of its profile to sRGB, by the rules of `to_srgb`.

    Args:
        pixels: (H, W, 3) RGB ``uint16``.
        profile: The embedded profile, if any.
        name: What messages call the image.

    Returns:
        (H, W, 3) ``uint16``, and a remark where the conversion was done in 8 bits.

    Raises:
        ImageReadError: The profile is that of an HDR image.
    """
    if profile is None or _conversion(profile, "RGB") is _AS_IT_IS:
        return pixels, None
    parsed = None if _conversion(profile, "RGB").hdr else _matrix_profile(profile)
    if parsed is None:
        converted = to_srgb(to_bit_depth(pixels, "8"), profile, name=name)
        return to_bit_depth(converted, "16"), "its colour profile was applied in 8 bits"
    curves, matrix = parsed
    out = np.empty_like(pixels)
    rows = max(1, _BAND_PIXELS // (4 * pixels.shape[1]))
    for top in range(0, len(pixels), rows):
        band = pixels[top : top + rows]
        linear = np.stack([curve[band[..., i]] for i, curve in enumerate(curves)], axis=-1) @ matrix.T
        linear = linear.clip(0, 1)
        coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
        out[top : top + rows] = np.rint(coded * 65535).astype(np.uint16)
    return out, None


def profile_name(profile: bytes | None) -> str:
    """What a profile calls itself; empty where there is none that can be read."""
    from PIL import ImageCms

    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))).strip()
    except (OSError, ImageCms.PyCMSError):
        return ""


def cmyk_to_rgb(cmyk: np.ndarray) -> np.ndarray:
    """Convert CMYK (H, W, 4), ``uint8``, 255 being full ink, to RGB by R = (255 - C) (255 - K) / 255 and so on."""
    height, width = cmyk.shape[:2]
    image = Image.frombuffer("CMYK", (width, height), np.ascontiguousarray(cmyk), "raw", "CMYK", 0, 1)
    return np.array(image.convert("RGB"))


def hdr_error(transfer: str, name: str) -> ImageReadError:
    """Make the error for an image that is coded for high dynamic range."""
    return ImageReadError(
        f"{name}: an HDR image ({transfer}), whose values are no ordinary photograph's; export it as SDR (sRGB)."
    )


@lru_cache(maxsize=32)
def _conversion(profile: bytes, space: str) -> _Conversion:
    """Build the conversion of one profile; building takes milliseconds, so the last ones are kept.

    The cache compares hashes and then the bytes, so that two profiles are never taken for one another.
    """
    from PIL import ImageCms

    try:
        parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Of displays and spaces: a press or its paper may be called PQ too.
        named = parsed.profile.device_class in ("mntr", "spac")
        hdr = _hdr(profile, str(parsed.profile.profile_description or "") if named else "")
        if hdr:
            return _Conversion(hdr=hdr)
        stored_as = parsed.profile.xcolor_space.strip()
        if stored_as == "GRAY" and space == "RGB":
            ramp = np.arange(256, dtype=np.uint8)
            converted = np.array(ImageCms.applyTransform(Image.fromarray(ramp[None]), _transform(parsed, "L")))
            # Green: what rounding leaves of a tint is not the photograph's.
            table = np.ascontiguousarray(converted[0, :, 1])
            return _AS_IT_IS if _differ_little(table, ramp) else _Conversion(table=table)
        if stored_as != space:
            return _AS_IT_IS
        transform = _transform(parsed, space)
        if space == "RGB" and _differ_little(_apply(transform, _PROBE), _PROBE):
            return _AS_IT_IS
        return _Conversion(transform=transform)
    except (ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile
        return _AS_IT_IS


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """Little CMS's transform from ``mode`` to sRGB."""
    from PIL import ImageCms

    return ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        _FLAGS,
    )


def _apply(transform: ImageCms.ImageCmsTransform, pixels: np.ndarray) -> np.ndarray:
    """Transform (H, W, 3 or 4) pixels band by band."""
    from PIL import ImageCms

    height, width, channels = pixels.shape
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = np.ascontiguousarray(pixels[top : top + rows])
        mode = "CMYK" if channels == 4 else "RGB"
        image = Image.frombuffer(mode, (width, len(band)), band, "raw", mode, 0, 1)
        converted = ImageCms.applyTransform(image, transform)
        if converted is not None:  # only an in-place one returns nothing
            out[top : top + rows] = np.asarray(converted)
    return out


def _probe() -> np.ndarray:
    """Colours that tell profiles apart: 9 x 9 x 9 over the cube, and every grey."""
    steps = np.rint(np.linspace(0, 255, 9)).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return np.concatenate([cube, greys])[None]


_PROBE = _probe()


def _differ_little(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether no value differs by more than the tolerance of sRGB profiles."""
    return int(np.abs(a.astype(np.int16) - b).max()) <= _SRGB_TOLERANCE


def _hdr(profile: bytes, description: str) -> str | None:
    """``"PQ"`` or ``"HLG"`` by the profile's cicp tag (ICC v4.4) or, if it has none, by its description."""
    cicp = _tags(profile).get(b"cicp")
    if cicp is not None:
        return HDR_TRANSFERS.get(cicp[9]) if len(cicp) > 9 else None
    found = _HDR.search(description)
    return None if found is None else "HLG" if found[0].upper() == "HLG" else "PQ"


# --- profiles of a matrix and curves, in floating point -------------------------------------------------------------


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """The tags of a profile."""
    table = profile[132 : 132 + 12 * min(int.from_bytes(profile[128:132], "big"), 100)]
    entries = struct.iter_unpack(">4sII", table[: len(table) // 12 * 12])
    return {signature: profile[start : start + size] for signature, start, size in entries}


def _matrix_profile(profile: bytes) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Curves (65536 values each) and the matrix to linear sRGB; None for profiles of another kind."""
    tags = _tags(profile)
    # With tables besides, these come first, and a matrix is only their rough likeness.
    if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ " or {b"A2B0", b"A2B1"} & tags.keys():
        return None
    try:
        columns = [_fixed(tags[colour + b"XYZ"][8:20]) for colour in (b"r", b"g", b"b")]
        curves = [_curve(tags[colour + b"TRC"]) for colour in (b"r", b"g", b"b")]
        return curves, np.linalg.inv(_SRGB_TO_XYZ) @ np.array(columns).T
    except (KeyError, ValueError, struct.error, IndexError):
        return None


def _fixed(data: bytes) -> np.ndarray:
    """Numbers of 16 bits before and 16 after the point."""
    return np.frombuffer(data, ">i4").astype(np.float64) / 65536


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
        a = 1.0
    elif kind <= 2:  # the straight part is a constant, up to where the power begins
        c, d, e, f = 0.0, -b / a, c, c
    return np.where(x >= d, (a * x + b).clip(0) ** g + e, c * x + f)
