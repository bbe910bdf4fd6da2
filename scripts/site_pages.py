"""Pages of the documentation's site that are made of the code, and links that lead out of it; a hook of MkDocs.

Nothing heavy is imported: commands are read off the parsers, classes off the source.
"""

from __future__ import annotations

import argparse
import ast
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MADE_OF = {"semiisp_plugin/__init__.py": "reference/python.md", "semiisp_plugin/arguments.py": "reference/commands.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages (an event of MkDocs)."""
    from mkdocs.structure.files import File

    made: dict[str, str | bytes] = dict(pages())
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        made |= notebook_page(notebook)
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files outside the pages into their names, or into links to what is made of them (an event)."""
    del config, files
    home = "../" * page.file.src_uri.count("/")
    up = re.escape(f"{home}../")
    of_networks = {path: f"reference/networks.md#{name.lower()}" for name, path in registered(*ARCHS)}
    entries = {path.relative_to(ROOT).as_posix(): page for path, page in of_networks.items()} | MADE_OF

    def named(found: re.Match[str]) -> str:
        if found[2] in entries:
            return f"[{found[1]}]({home}{entries[found[2]]})"
        return found[1] if found[1].strip("`") == found[2] else f"{found[1]} (`{found[2]}`)"

    if not page.file.generated_by:
        markdown = markdown.replace(".ipynb)", ".md)")  # the page that is made of it
    return re.sub(rf"\[([^\]]*)\]\({up}(?!\.\./)([^)#]*)(?:#[^)]*)?\)", named, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Take away the roles of Sphinx, which Markdown shows as they are (an event of MkDocs)."""
    del page, config, files
    return re.sub(":(?:meth|class|func):(?=<code>)", "", html)


def notebook_page(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page of its name, with what is kept of its outputs, and its pictures beside it."""
    place = path.relative_to(ROOT / "docs").with_suffix("")
    made: dict[str, str | bytes] = {}
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text'])}```")
            if "data" in output:
                picture = f"{place.name}_{len(made)}.png"
                made[f"{place.parent.as_posix()}/{picture}"] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![what the cell draws]({picture})")
    parts.append(f"The notebook: [{path.name}]({path.name}).")
    return {**made, f"{place.as_posix()}.md": "\n\n".join(parts) + "\n"}


def pages() -> dict[str, str]:
    """The generated pages, by their paths."""
    return {
        "reference/commands.md": commands(),
        "reference/python.md": python_names(),
        "reference/networks.md": networks(),
        "reference/models.md": training_models(),
    }


PYTHON = """# Python

What `import semiisp_plugin` offers, by the module that each name is from; besides these, the [networks](networks.md)
`PQDynamicISP` and `SepLUT`. All else may change.
"""
NETWORKS = """# Networks

What an option file may name as `network_g: {type: NAME, ...}`; the parameters are the section's other keys. [Models and
weights](../models.md) compares them: which published weights load, how large and how fast they are.
"""
MODELS = """# Training models

What an option file may name as `model_type`. [Training](../training.md) says what all of them share.
"""


def commands() -> str:
    """Every subcommand's help."""
    from semiisp_plugin.arguments import COMMANDS, build_parser

    parser = build_parser()
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = ["# Commands\n\nWhat `basicsr COMMAND --help` prints.\n"]
    for name, (line, _) in COMMANDS.items():
        sub: argparse.ArgumentParser = action.choices[name]
        sub.formatter_class = _Wide
        parts.append(
            f"## basicsr {name}\n\n{line[0].upper()}{line[1:]}.\n\n```text\n{sub.format_help().rstrip()}\n```\n"
        )
    return "\n".join(parts)


class _Wide(argparse.HelpFormatter):
    """Of one width on every terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


def python_names() -> str:
    """The names of ``semiisp_plugin``, by the module that each is from."""
    import semiisp_plugin

    parts = [PYTHON]
    for module, names in semiisp_plugin._HOMES.items():
        if module.startswith("archs."):
            continue
        parts.append(f"## {module}\n")
        parts += [f"::: semiisp_plugin.{module}.{name}\n" for name in names]
    return "\n".join(parts)


ARCHS = ("archs/*_arch.py", "ARCH_REGISTRY")


def networks() -> str:
    """Every network that an option file may name: what its module says, then its class, with what its methods say."""
    parts = [NETWORKS]
    for name, path in registered(*ARCHS):
        module = f"semiisp_plugin.archs.{path.stem}"
        parts.append(f"## {name}\n\n::: {module}\n    options: {{{_NO_HEADING}, members: false}}\n")
        members = f"[{', '.join(told(path, name))}]"
        parts.append(f"::: {module}.{name}\n    options: {{{_NO_HEADING}, heading_level: 4, members: {members}}}\n")
    return "\n".join(parts)


_NO_HEADING = "show_root_heading: false, show_root_toc_entry: false, show_bases: false"


def training_models() -> str:
    """Every model that an option file may name."""
    found = registered("models/*_model.py", "MODEL_REGISTRY")
    return "\n".join([MODELS, *(f"::: semiisp_plugin.models.{path.stem}.{name}\n" for name, path in found)])


def registered(files: str, registry: str) -> list[tuple[str, Path]]:
    """The classes that an option file may name, in the order of their names, and their files."""
    made = rf"@register\({registry}\)\nclass (\w+)"
    paths = (ROOT / "semiisp_plugin").glob(files)
    found = [(name, path) for path in paths for name in re.findall(made, path.read_text(encoding="utf-8"))]
    return sorted(found, key=lambda named: named[0].lower())


def told(path: Path, name: str) -> Iterator[str]:
    """Public methods of a class that say more than that another one has their description."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parent = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    for method in (node for node in parent.body if isinstance(node, ast.FunctionDef)):
        text = ast.get_docstring(method) or ""
        if not method.name.startswith("_") and not re.match(r"$|See `[^`]*`\.$", text):
            yield method.name
