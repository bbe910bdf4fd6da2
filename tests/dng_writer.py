"""A camera's RAW file that the tests write themselves: Bayer pattern RGGB, 16 bits, uncompressed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED_RATIONAL = 1, 2, 3, 4, 5, 10
FORMATS = {BYTE: "B", SHORT: "H", LONG: "I"}


def dng_bytes(
    mosaic: np.ndarray,
    *,
    black: int = 0,
    white: int = 65535,
    orientation: int = 1,
    active: tuple[int, int, int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    extra: Sequence[tuple[int, int, Any]] = (),
) -> bytes:
    """A DNG file (version 1.4): a TIFF of one image.

    Args:
        mosaic: (H, W) sensor values; or (H, W, 3), a linear picture.
        black: Sensor value of black.
        white: Sensor value of white.
        orientation: As in EXIF.
        active: Top, left, bottom, right of the part of the sensor that sees light.
        crop: Left, top, width, height of the recommended frame within it.
        extra: Tag, type and values, in the place of others or besides.
    """
    height, width = mosaic.shape[:2]
    pixels = mosaic.astype("<u2").tobytes()
    identity = [(int(i == j), 1) for i in range(3) for j in range(3)]
    fields: list[tuple[int, int, Any]] = [
        (254, LONG, [0]), (256, LONG, [width]), (257, LONG, [height]), (258, SHORT, [16]), (259, SHORT, [1]),
        (262, SHORT, [32803]), (271, ASCII, b"Maker\0"), (272, ASCII, b"Test\0"), (273, LONG, [0]),
        (274, SHORT, [orientation]), (277, SHORT, [1]), (278, LONG, [height]), (279, LONG, [len(pixels)]),
        (284, SHORT, [1]), (33421, SHORT, [2, 2]), (33422, BYTE, [0, 1, 1, 2]), (50706, BYTE, [1, 4, 0, 0]),
        (50707, BYTE, [1, 1, 0, 0]), (50708, ASCII, b"Maker Test\0"), (50710, BYTE, [0, 1, 2]), (50711, SHORT, [1]),
        (50713, SHORT, [1, 1]), (50714, SHORT, [black]), (50717, LONG, [white]),
        (50721, SIGNED_RATIONAL, identity), (50728, RATIONAL, [(1, 2), (1, 1), (7, 10)]), (50778, SHORT, [21]),
    ]  # fmt: skip
    if crop:
        fields += [(50719, LONG, crop[:2]), (50720, LONG, crop[2:])]
    if active:
        fields.append((50829, LONG, active))
    if mosaic.ndim == 3:
        extra = [(258, SHORT, [16] * 3), (262, SHORT, [34892]), (277, SHORT, [3]), *extra]
    fields = [*{field[0]: field for field in (*fields, *extra)}.values()]
    values = {}
    for tag, kind, value in fields:
        if kind == ASCII:
            values[tag] = value
        elif kind in (RATIONAL, SIGNED_RATIONAL):
            values[tag] = b"".join(struct.pack("<ii", *pair) for pair in value)
        else:
            values[tag] = struct.pack(f"<{len(value)}{FORMATS[kind]}", *value)
    long_values = {tag: value + b"\0" * (len(value) % 2) for tag, value in values.items() if len(value) > 4}
    start = 8 + 2 + 12 * len(fields) + 4
    values[273] = struct.pack("<I", start + sum(map(len, long_values.values())))
    entries, stored = b"", b""
    for tag, kind, value in sorted(fields, key=lambda f: f[0]):
        count = len(value)
        content = values[tag].ljust(4, b"\0")
        if tag in long_values:
            content = struct.pack("<I", start + len(stored))
            stored += long_values[tag]
        entries += struct.pack("<HHI", tag, kind, count) + content
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", 0) + stored + pixels
