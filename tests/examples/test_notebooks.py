"""The notebooks of the documentation run, and their text outputs are what is kept in them.

After a change on purpose, run them again and keep what they show: ``python tests/examples/test_notebooks.py``.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs").rglob("*.ipynb"))


def run(notebook: dict[str, Any]) -> list[tuple[str, bytes | None]]:
    """What each cell of code prints, and the figure that it draws."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__"}
    made = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        picture = None
        if plt.get_fignums():
            file = io.BytesIO()
            plt.savefig(file, format="png", dpi=70)
            plt.close("all")
            picture = file.getvalue()
        made.append((said.getvalue(), picture))
    return made


def kept(notebook: dict[str, Any]) -> list[str]:
    """The texts that are kept in a notebook's cells of code."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(line for out in cell["outputs"] for line in out.get("text", [])) for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, workspace):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    made = run(notebook)
    assert [text for text, _ in made] == kept(notebook)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shown = [any("data" in out for out in cell["outputs"]) for cell in cells]
    assert shown == [picture is not None for _, picture in made]


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["inverse.ipynb"]


def main() -> None:
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, (cell, (text, picture)) in enumerate(zip(cells, run(notebook), strict=True), 1):
            cell["execution_count"], cell["outputs"] = number, []
            if text:
                cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": text.splitlines(True)})
            if picture:
                data = {"image/png": base64.b64encode(picture).decode()}
                cell["outputs"].append({"data": data, "metadata": {}, "output_type": "display_data"})
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
