"""What ``semiisp_plugin`` offers: names and signatures, compared with ``public_api.txt``.

After a change on purpose, write the file again: ``python tests/test_public_api.py``.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import semiisp_plugin

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def surface() -> str:
    lines = []
    for name in semiisp_plugin.__all__:
        value = getattr(semiisp_plugin, name)
        if isinstance(value, str):
            lines.append(name)
            continue
        # A named tuple's annotations are wrapped, by each Python in its own way.
        lines.append(re.sub(r"ForwardRef\(('\w+')[^)]*\)", r"\1", f"{name}{inspect.signature(value)}"))
        if inspect.isclass(value):
            # What a named tuple or torch brings is not ours.
            own = [(n, m) for n, m in inspect.getmembers(value, inspect.isfunction) if n[0] != "_"]
            ours = [(n, m) for n, m in own if m.__module__.startswith("semiisp_plugin.")]
            lines += [f"    .{n}{inspect.signature(m)}" for n, m in ours]
    return "\n".join(lines) + "\n"


def test_names_and_signatures():
    assert surface() == SNAPSHOT.read_text(encoding="utf-8")


def test_every_name_is_found_listed_and_declared_once():
    assert set(semiisp_plugin.__all__) <= set(dir(semiisp_plugin))
    assert sorted({*semiisp_plugin._HOME, "__version__", "register"}) == sorted(semiisp_plugin.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'InvertibleISPs'"):
        _ = semiisp_plugin.InvertibleISPs


if __name__ == "__main__":
    SNAPSHOT.write_text(surface(), encoding="utf-8")
