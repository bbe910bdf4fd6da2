"""Reports as data: sections of tables, plots and pictures, written as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import yaml
from PIL import Image

from semiisp_plugin.report.grids import draw_grid
from semiisp_plugin.report.tables import Table, escape_markdown

_TEMPLATE = "page.html.j2"
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 92)


@dataclass(frozen=True)
class Plot:
    """A picture below the output folder; ``file`` is relative to it. A wide one has a line of the page for itself."""

    file: str
    caption: str
    wide: bool = False


@dataclass
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        short: The heading in a list of contents; empty for the title.
        text: Paragraphs.
        tables: Its tables.
        plots: Its plots.
    """

    title: str
    short: str = ""
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


@dataclass(frozen=True)
class Pictures:
    """Pictures in rows and columns.

    Attributes:
        title: Above them.
        columns: Headings.
        rows: Name of the row, and its cells: an image (H, W, 3) ``uint8`` or None, and a caption.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, Sequence[tuple[np.ndarray | None, str]]]]

    def save(self, path: Path) -> None:
        """Draw them as one picture."""
        cells = [row for _, row in self.rows]
        draw_grid(
            [[image for image, _ in row] for row in cells],
            self.columns,
            [name for name, _ in self.rows],
            captions=[[note for _, note in row] for row in cells],
            cell_width=300,
            path=path,
        )


@dataclass(frozen=True)
class Slider:
    """Two pictures of one size, one over the other, with a slider between them.

    Attributes:
        title: Below them.
        before: RGB (H, W, 3) ``uint8``, on the left.
        after: On the right.
    """

    title: str
    before: np.ndarray
    after: np.ndarray

    def urls(self) -> list[str]:
        """The pictures, in the page itself."""
        return [_data_url(cv2.imencode(".jpg", image[..., ::-1], _QUALITY)[1].tobytes()) for image in self.both]

    @property
    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """The two."""
        return self.before, self.after


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Its heading.
        facts: What was done, with what: names and texts.
        sections: Its parts.
        pictures: Pictures at its end.
        failed: Names and reasons of what went wrong.
        options: Plain values, shown as YAML when asked.
        sliders: On the HTML page alone.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    pictures: Sequence[Pictures] = ()
    failed: Sequence[tuple[str, str]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    sliders: Sequence[Slider] = ()

    def write(self, out: Path) -> dict[str, Path]:
        """Write ``report.md``, ``report.html`` and ``pictures*.jpg``; earlier ones are replaced.

        Args:
            out: The folder, in which the plots are already.

        Returns:
            The files, by their name relative to ``out``.
        """
        sheets = Section("Pictures")
        for number, grid in enumerate(self.pictures):
            sheets.plots.append(Plot(f"pictures{number + 1 if number else ''}.jpg", grid.title, wide=True))
            grid.save(out / sheets.plots[-1].file)
        sections = [*self.sections, *([sheets] if sheets.plots else [])]
        (out / "report.md").write_text(self._markdown(sections), encoding="utf-8")
        (out / "report.html").write_text(self._html(sections, out), encoding="utf-8")
        return {name: out / name for name in ("report.md", "report.html", *(plot.file for plot in sheets.plots))}

    def _markdown(self, sections: Sequence[Section]) -> str:
        facts = "".join(f"- {escape_markdown(f'{key}: {value}')}\n" for key, value in self.facts)
        parts = [f"# {escape_markdown(self.title)}\n", *([facts] if facts else [])]
        if self.failed:
            lines = "".join(f"- {escape_markdown(f'{name}: {why}')}\n" for name, why in self.failed)
            parts.append(f"## Failed\n\n{lines}")
        return "\n".join([*parts, *map(markdown_section, sections)])

    def _html(self, sections: Sequence[Section], out: Path) -> str:
        images = {}
        for file in (plot.file for section in sections for plot in section.plots):
            with Image.open(out / file) as image:
                url = _data_url((out / file).read_bytes(), str(image.get_format_mimetype()))
                images[file] = (url, *image.size)
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        options = yaml.safe_dump(dict(self.options), sort_keys=False, allow_unicode=True) if self.options else ""
        template = environment.get_template(_TEMPLATE)
        return template.render(page=self, sections=sections, images=images, options=options)


def _data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


# --- as text ---------------------------------------------------------------------------------------------------------


def markdown_section(section: Section) -> str:
    """A part of a report as Markdown, plots as links."""
    parts = [f"## {escape_markdown(section.title)}\n", *(f"{escape_markdown(text)}\n" for text in section.text)]
    for table in section.tables:
        if table.title:
            parts.append(f"{escape_markdown(table.title)}:\n")
        parts.append(table.markdown())
    captions = [(escape_markdown(plot.caption), plot.file) for plot in section.plots]
    parts += [f"![{caption}]({file})\n\n{caption}\n" for caption, file in captions]
    return "\n".join(parts)


def counted(n: int, what: str) -> str:
    """For example ``1 pair``, ``16 pairs``."""
    return f"{n} {what}{'' if n == 1 else 's'}"
