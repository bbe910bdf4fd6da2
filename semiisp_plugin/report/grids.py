"""Grids of pictures with titles, for comparing them by eye."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from semiisp_plugin.io.image_io import write_image

Picture = np.ndarray | torch.Tensor

_PAPER = (255, 255, 255)
_INK = (25, 25, 25)
_NO_PICTURE = (238, 238, 238)
_LINE_HEIGHT = 1.25


def draw_grid(
    rows: Sequence[Sequence[Picture | None]],
    column_titles: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
    *,
    captions: Sequence[Sequence[str | None]] | None = None,
    title: str | None = None,
    cell_width: int | None = None,
    font_size: int = 16,
    gap: int = 6,
    path: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Lay pictures out in rows and columns, all of one size, on white paper.

    Args:
        rows: Pictures, row by row: RGB arrays (H, W, 3) or tensors (3, H, W), ``uint8``, ``uint16`` or float in
            [0, 1]. None leaves a place empty, and rows may be shorter than others. Values are shown as they are: linear
            RAW looks dark unless it is encoded first (`semiisp_plugin.simulation.colour.linear_to_srgb`).
        column_titles: Above the columns; they wrap at the cell's width.
        row_titles: Left of the rows.
        captions: Below the pictures, in the layout of ``rows``; None leaves one out.
        title: Above everything.
        cell_width: Pixels; every picture is resized to it. By default the width of the widest picture, so that pictures
            of one size are shown pixel for pixel.
        font_size: Pixels.
        gap: Pixels between pictures.
        path: A PNG or JPEG file to write the grid to, by its ending; missing folders are made.

    Returns:
        RGB array (H, W, 3) ``uint8``.

    Raises:
        ValueError: There is no picture, titles or captions do not fit the rows, or an array is no picture.
    """
    columns = max((len(row) for row in rows), default=0)
    images = [
        [None if cell is None else _to_image(cell, r, c) for c, cell in enumerate(row)] for r, row in enumerate(rows)
    ]
    present = [image for row in images for image in row if image is not None]
    if not present:
        raise ValueError("a grid needs at least one picture; got none")
    if column_titles is not None and len(column_titles) != columns:
        raise ValueError(f"{len(column_titles)} column titles for {columns} columns; give one a column")
    if row_titles is not None and len(row_titles) != len(rows):
        raise ValueError(f"{len(row_titles)} row titles for {len(rows)} rows; give one a row")
    if captions is not None and [len(row) for row in captions] != [len(row) for row in rows]:
        raise ValueError("captions must have the layout of rows: as many rows, each as long; None leaves one out")

    width = cell_width or max(image.width for image in present)
    images = [[image and _to_width(image, width) for image in row] for row in images]
    height = max(image.height for row in images for image in row if image is not None)
    font, large = _font(font_size), _font(round(1.25 * font_size))
    line = round(_LINE_HEIGHT * font_size)

    heads = [_wrap(text, font, width) for text in column_titles or ()]
    margin = max([gap, *(round(font.getlength(_clean(text))) + 2 * gap for text in row_titles or ())])
    notes = [[_wrap(text or "", font, width) for text in row] for row in captions or ()]
    note_heights = [max((len(note) for note in row), default=0) * line for row in notes] or [0] * len(rows)
    total_width = margin + columns * (width + gap)
    titled = _wrap(title, large, total_width - 2 * gap) if title else []
    title_height = len(titled) * round(_LINE_HEIGHT * large.size) + (gap if titled else 0)
    head_height = max((len(head) for head in heads), default=0) * line

    top = gap + title_height + head_height
    sheet = Image.new("RGB", (total_width, top + sum(height + note + gap for note in note_heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, titled, large, total_width / 2, gap)
    for c, head in enumerate(heads):
        # Titles of fewer lines stand on the pictures, not under the sheet's edge.
        _write(draw, head, font, margin + c * (width + gap) + width / 2, top - len(head) * line - gap // 2)
    for r, row in enumerate(images):
        if row_titles is not None:
            draw.text((margin - gap, top + height / 2), _clean(row_titles[r]), fill=_INK, font=font, anchor="rm")
        for c in range(columns):
            left = margin + c * (width + gap)
            image = row[c] if c < len(row) else None
            if image is None:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_NO_PICTURE)
            else:
                sheet.paste(image, (left, top + (height - image.height) // 2))
            if notes and c < len(row):
                _write(draw, notes[r][c], font, left + width / 2, top + height + gap // 3)
        top += height + note_heights[r] + gap
    grid = np.asarray(sheet)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_image(path, grid)
    return grid


def _to_image(picture: Picture, r: int, c: int) -> Image.Image:
    array = picture
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = array.permute(1, 2, 0) if array.dim() == 3 else array
        # NumPy knows no bfloat16.
        array = (array.float() if array.is_floating_point() else array).numpy()
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"row {r}, column {c}: shape {tuple(picture.shape)} is no picture; "
            "give an array (H, W, 3) or a tensor (3, H, W)"
        )
    if array.dtype == np.uint16:
        array = array / 65535
    if array.dtype != np.uint8:
        # Not image_io.to_uint8: a picture of a diverged network must still be shown, so NaN is black here.
        array = (np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def _to_width(image: Image.Image, width: int) -> Image.Image:
    if image.width == width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _clean(text: str) -> str:
    """Compose accents, so that fonts find one glyph, and make one line of it."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break text between words into lines that fit; a longer word is broken too."""
    lines: list[str] = []
    for word in _clean(text).split():
        joined = f"{lines[-1]} {word}" if lines else word
        if font.getlength(joined) <= width:
            lines[-1:] = [joined]
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


def _write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], font: ImageFont.FreeTypeFont, centre: float, top: float
) -> None:
    for k, text in enumerate(lines):
        draw.text((centre, top + k * round(_LINE_HEIGHT * font.size)), text, fill=_INK, font=font, anchor="ma")
