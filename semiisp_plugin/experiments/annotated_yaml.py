"""Option files as text, in which every value may say where it is from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from semiisp_plugin.experiments.paper_settings import Sourced
from semiisp_plugin.options.yaml_text import Dumper

_WIDTH = 120


def plain(value: Any) -> Any:
    """The values alone, without their sources."""
    if isinstance(value, Sourced):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def changed(annotated: Any, values: Any) -> Any:
    """``values``, with the sources of ``annotated`` where they are the same."""
    if isinstance(annotated, Mapping) and isinstance(values, Mapping):
        return {key: changed(annotated.get(key), value) for key, value in values.items()}
    return annotated if plain(annotated) == values else values


def write_yaml(values: Mapping[str, Any], head: Sequence[str], schema: str | None = None) -> str:
    """Text of an option file.

    Args:
        values: Its content; a `Sourced` value stands in one line with its source behind it, or above it if long.
        head: Sentences above everything.
        schema: Address of the JSON schema, relative to the file; None for none.
    """
    lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
    for sentence in head:
        lines += _comment(sentence, "")
    for key, value in values.items():
        lines += ["", *_lines(key, value, "")] if isinstance(value, Mapping) else _lines(key, value, "")
    return "\n".join(lines) + "\n"


def _lines(key: str, value: Any, indent: str) -> Iterator[str]:
    line = f"{indent}{key}: {_in_one_line(plain(value))}"
    comment = value.comment if isinstance(value, Sourced) else ""
    if isinstance(value, Mapping) and value and (len(line) > _WIDTH or _has_parts(value)):
        yield f"{indent}{key}:"
        for inner, item in value.items():
            yield from _lines(inner, item, indent + "  ")
    elif len(line) > _WIDTH and isinstance(plain(value), Mapping):
        yield from _comment(comment, indent)
        yield from _lines(key, plain(value), indent)
    elif comment and len(line) + len(comment) + 4 > _WIDTH:
        yield from _comment(comment, indent)
        yield line
    else:
        yield f"{line}  # {comment}" if comment else line


def _has_parts(value: Mapping[str, Any]) -> bool:
    return any(isinstance(item, (Mapping, Sourced)) for item in value.values())


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent) - 2)]


def _in_one_line(value: Any) -> str:
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
