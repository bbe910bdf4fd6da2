"""Grids of pictures with titles, for comparing them by eye.

Laid out here and drawn by Pillow: in matplotlib's figures pictures are resampled, and texts are not as wide as cells.
"""

from __future__ import annotations

import os
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from semiisp_plugin.io.image_io import write_image

Picture = np.ndarray | torch.Tensor

_NO_PICTURE = (238, 238, 238)
_GAP = 6  # pixels between pictures


def draw_grid(
    rows: Sequence[Sequence[Picture | None]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    *,
    captions: Sequence[Sequence[str | None]] = (),
    title: str = "",
    cell_width: int | None = None,
    font_size: int = 16,
    path: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Lay pictures out in rows and columns, all of one width, on white paper.

    Args:
        rows: Pictures, row by row: RGB arrays (H, W, 3) or tensors (3, H, W), ``uint8`` or float in [0, 1]. None leaves
            a place empty, and rows may be shorter than others. Values are shown as they are: linear RAW looks dark
            unless it is encoded first (`semiisp_plugin.simulation.colour.linear_to_srgb`).
        column_titles: Above the columns; they wrap at the cell's width, as captions do.
        row_titles: Left of the rows.
        captions: Below the pictures, in the layout of ``rows``; None leaves one out.
        title: Above everything.
        cell_width: Pixels; every picture is resized to it. By default the width of the widest picture, so that pictures
            of one size are shown pixel for pixel.
        font_size: Pixels.
        path: A PNG or JPEG file to write the grid to, by its ending; missing folders are made.

    Returns:
        RGB array (H, W, 3) ``uint8``.
    """
    images = [[None if cell is None else _to_image(cell) for cell in row] for row in rows]
    width = cell_width or max(image.width for row in images for image in row if image)
    images = [[i and i.resize((width, max(1, round(i.height * width / i.width)))) for i in row] for row in images]
    heights = [max((image.height for image in row if image), default=width) for row in images]
    columns = max(map(len, images))
    # DejaVu Sans, which comes with matplotlib.
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(str(file), font_size)
    letters, line = font.getlength("n"), round(1.25 * font_size)  # few words are wider than as many n

    def wrapped(text: str | None, pixels: int) -> str:
        # Composed accents, so that fonts find one glyph.
        return textwrap.fill(unicodedata.normalize("NFC", text or ""), max(1, int(pixels / letters)))

    def high(texts: Sequence[str]) -> int:
        return max((line * (text.count("\n") + 1) for text in texts if text), default=0)

    margin = max([_GAP, *(round(font.getlength(text)) + 2 * _GAP for text in row_titles)])
    total_width = margin + columns * (width + _GAP)
    heading, heads = wrapped(title, total_width - 2 * _GAP), [wrapped(text, width) for text in column_titles]
    notes = [[wrapped(text, width) for text in row] for row in captions or [[]] * len(images)]
    top = 2 * _GAP + high([heading]) + high(heads)
    sheet = Image.new("RGB", (total_width, top + sum(map(high, notes)) + sum(heights) + _GAP * len(heights)), "white")
    draw = ImageDraw.Draw(sheet)

    def write(text: str, x: float, y: float, anchor: str = "ma") -> None:
        draw.multiline_text((x, y), text, (25, 25, 25), font, anchor, line - font_size, align="center")

    write(heading, total_width / 2, _GAP)
    for c, text in enumerate(heads):
        write(text, margin + c * (width + _GAP) + width / 2, top - _GAP // 2, "md")
    for r, (row, height) in enumerate(zip(images, heights, strict=True)):
        if row_titles:
            write(row_titles[r], margin - _GAP, top + height / 2, "rm")
        for c in range(columns):
            left = margin + c * (width + _GAP)
            image = row[c] if c < len(row) else None
            if image:
                sheet.paste(image, (left, top + (height - image.height) // 2))
            else:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_NO_PICTURE)
            if c < len(notes[r]):
                write(notes[r][c], left + width / 2, top + height + _GAP // 3)
        top += height + high(notes[r]) + _GAP
    grid = np.asarray(sheet)
    if path is not None:
        write_image(path, grid)
    return grid


def _to_image(picture: Picture) -> Image.Image:
    array = picture.detach().permute(1, 2, 0).cpu().numpy() if isinstance(picture, torch.Tensor) else picture
    if array.dtype != np.uint8:
        # Not image_io.to_uint8: a picture of a diverged network must still be shown, so NaN is black here.
        array = (np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))
