#!/usr/bin/env python
"""Write what is made from the structures of option files: options/*schema.json, and the tables of docs/options.md.

python scripts/write_option_schema.py           # write
python scripts/write_option_schema.py --check   # only say what is out of date; exit status 1 if anything is

The schemas, for editors, are made from the structures and from what is registered. They are looser than the checks of
the program: nothing is required, since a file may extend another; a ``type`` that is not listed is accepted, since
users register their own; what a network, a loss and the like takes besides its ``type`` is left to the program; and
nothing is known of models that are not the plugin's.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from semiisp_plugin.apps.denoise.options import DenoiseOptions
from semiisp_plugin.experiments.recipe_options import RecipeOptions
from semiisp_plugin.options import structures
from semiisp_plugin.options.messages import as_yaml
from semiisp_plugin.options.ranges import LARGEST, in_words
from semiisp_plugin.options.sections import names_in
from semiisp_plugin.options.structures import marks_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"
Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"
_OPTIMISERS = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
_STRUCTURES = (structures.Options, structures.Dataset, structures.OnlineDataset, structures.Loader)

# --- JSON schemas ----------------------------------------------------------------------------------------------------


def option_schema() -> Schema:
    """Of the files of ``basicsr train`` and ``basicsr test``."""
    from semiisp_plugin.toolbox import (
        ARCH_REGISTRY,
        DATASET_REGISTRY,
        FILTER_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
        MODEL_REGISTRY,
    )

    definitions = definitions_of(_STRUCTURES)
    models, data = _shipped(MODEL_REGISTRY), _shipped(DATASET_REGISTRY)
    tables = {"Network": ARCH_REGISTRY, "Loss": LOSS_REGISTRY, "Metric": METRIC_REGISTRY}
    named = {name: list(_shipped(registry)) for name, registry in tables.items()} | {"Optimiser": list(_OPTIMISERS)}
    definitions.update({name: _by_type(names) for name, names in named.items()})
    filters = _suggestions(_shipped(FILTER_REGISTRY), structures.Filter, "type")
    definitions["Filter"]["properties"]["type"] = filters
    cases = {name: _ref(c.options_struct.__name__) for name, c in data.items() if hasattr(c, "options_struct")}
    definitions["DataSet"] = _by_type(list(data), cases, otherwise=_ref("Loader"))
    definitions["Options"]["properties"]["model_type"] = _suggestions(models, structures.Options, "model_type")
    for structure in (structures.Options, structures.Train, structures.Val):
        _refer(definitions[structure.__name__]["properties"], structure)
    return {
        "$schema": DRAFT,
        "title": "Option file of basicsr train and basicsr test",
        "type": "object",
        "if": {
            "properties": {"model_type": {"enum": [n for n, c in models.items() if hasattr(c, "options_struct")]}},
            "required": ["model_type"],
        },
        "then": _ref("Options"),
        "definitions": dict(sorted(definitions.items())),
    }


def pseudo_schema() -> Schema:
    """Of the files of ``basicsr pseudo``."""
    return file_schema(structures.PseudoOptions, "Option file of basicsr pseudo")


def file_schema(structure: type[msgspec.Struct], title: str) -> Schema:
    """Of the files of a command whose options are one structure."""
    definitions = definitions_of((structure,))
    whole = definitions.pop(structure.__name__)
    return {"$schema": DRAFT, **whole, "title": title, **({"definitions": definitions} if definitions else {})}


def as_text(schema: Schema) -> str:
    """A schema as it is written to a file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def definitions_of(types: Iterable[type[msgspec.Struct]]) -> dict[str, Schema]:
    """JSON schemas of structures, by name, and of the structures in them."""
    _, components = msgspec.json.schema_components(types, ref_template="#/definitions/{name}")
    definitions: dict[str, Schema] = {}
    for name, schema in components.items():
        definitions[name] = _plain({k: v for k, v in schema.items() if k not in ("required", "title")})
        definitions[name]["type"] = ["object", "null"]  # `section: ~` takes one away from a file that is extended
    return definitions


def _plain(schema: Any) -> Any:
    """A schema in the words of draft 7, which more editors understand than newer ones.

    "This section or nothing" becomes the section, which may be nothing itself: editors then mark the key that is wrong,
    and not the section as a whole.
    """
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _plain(value) for key, value in schema.items()}
    if "prefixItems" in result:
        result["items"] = result.pop("prefixItems")
    choices = [c for c in result.get("anyOf", ()) if c != {"type": "null"}]
    if len(choices) == 1 and "$ref" in choices[0]:
        del result["anyOf"]
        result["allOf"] = choices
    if len(choices) == 1 and "discriminator" in choices[0]:
        named = {name: {"$ref": ref} for name, ref in choices[0]["discriminator"]["mapping"].items()}
        del result["anyOf"]
        result.update(_by_type(list(named), named))
    return result


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _shipped(registry: Any) -> dict[str, Any]:
    """What BasicSR and the plugin register under their plain names; not what a test or a user's module adds."""
    return {
        name: value
        for name, value in sorted(names_in(registry).items())
        if not name.endswith("_basicsr") and value.__module__.split(".")[0] in ("basicsr", "semiisp_plugin")
    }


def _suggestions(names: Iterable[str], structure: type[msgspec.Struct] | None = None, key: str = "") -> Schema:
    """Any text, some of which are offered; described as the key of a structure is."""
    described = [_description(f.type) for f in msgspec.structs.fields(structure) if f.name == key] if structure else []
    return {
        **({"description": described[0]} if described else {}),
        "anyOf": [{"enum": list(names)}, {"type": "string"}],
    }


def _refer(properties: dict[str, Schema], structure: type[msgspec.Struct]) -> None:
    """Put the definitions of what a section's ``type`` names in the places of sections that may hold anything."""
    for field in msgspec.structs.fields(structure):
        named, schema = marks_of(field.type).get("names"), properties[field.encode_name]
        if named is None or named == "filter":
            continue
        refers = _ref("DataSet" if named == "data set" else named.capitalize())
        several = named in ("metric", "data set")
        replaced = {"type": ["object", "null"], "additionalProperties": refers} if several else refers
        properties[field.encode_name] = {"description": schema["description"], "allOf": [replaced]}


def _by_type(names: list[str], schemas: dict[str, Schema] | None = None, otherwise: Schema | None = None) -> Schema:
    """A section whose other keys depend on its ``type``, where that has a schema."""
    cases: list[Schema] = [
        {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": schema}
        for name, schema in (schemas or {}).items()
    ]
    if otherwise is not None:
        condition = {"properties": {"type": {"not": {"enum": list(schemas or {})}}}, "required": ["type"]}
        cases.append({"if": condition, "then": otherwise})
    section = {"type": ["object", "null"], "properties": {"type": _suggestions(names)}}
    return {**section, "allOf": cases} if cases else section


# --- tables ----------------------------------------------------------------------------------------------------------


def with_tables(page: str) -> str:
    """A page of Markdown with its tables written again.

    The tables of a structure and of the sections in it stand between ``<!-- keys: NAME -->``, NAME being that of the
    structure, and ``<!-- end -->``.

    Raises:
        AttributeError: There is no such structure.
    """

    def tables(match: re.Match[str]) -> str:
        structure = DenoiseOptions if match[2] == "DenoiseOptions" else getattr(structures, match[2])
        made = "\n\n".join(_tables(structure, ()))
        return f"{match[1]}\n\n{made}\n\n<!-- end -->"

    return re.sub(r"(<!-- keys: (\w+) -->).*?<!-- end -->", tables, page, flags=re.DOTALL)


def _tables(structure: type[msgspec.Struct], keys: tuple[str, ...]) -> Iterator[str]:
    """The table of a structure, and under headings those of the sections in it."""
    fields = msgspec.structs.fields(structure)
    if fields:
        yield key_table(structure)
    for field in fields:
        for part in structures.structures_in(field.type):
            here, tag = (*keys, field.encode_name), structures.tag_of(part)
            yield f"#### `{': '.join(here)}{f': {{type: {tag}}}' if tag else ''}`"
            yield inspect.cleandoc(part.__doc__ or "")
            yield from _tables(part, here)


def key_table(structure: type[msgspec.Struct]) -> str:
    """A Markdown table of a structure's keys: type, default, description."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(structure):
        value = [] if field.default is msgspec.NODEFAULT else field.default  # lists alone have a default_factory
        default = "" if field.required else f"`{as_yaml(value)}`"
        rows.append(f"| `{field.encode_name}` | {_kind(field.type)} | {default} | {_description(field.type)} |")
    return "\n".join(rows)


def _description(kind: Any) -> str:
    metas = typing.get_args(kind)[1:] if typing.get_origin(kind) is Annotated else ()
    return next((m.description for m in metas if isinstance(m, msgspec.Meta) and m.description), "")


def _kind(kind: Any) -> str:
    """A type in the words of option files."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        metas = [m for m in arguments[1:] if isinstance(m, msgspec.Meta)]
        if any(m.min_length == m.max_length == 2 for m in metas):
            return _kind(arguments[0]).replace("list of", "list of two")
        return _kind(arguments[0]) + "".join(map(_range, metas))
    if origin in (typing.Union, types.UnionType):
        return ", ".join(dict.fromkeys(_kind(a) for a in arguments if a is not type(None)))
    if origin is Literal:
        return ", ".join(f"`{as_yaml(a)}`" for a in arguments)
    if origin in (list, Sequence):
        found = re.fullmatch(r"(.*?)((?: [≥>].*| from .*)?)", _kind(arguments[0]))
        noun, range_ = found.groups() if found else ("", "")
        return f"list of {noun}s{range_}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return "section"
    return {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}.get(kind, str(kind))


def _range(meta: msgspec.Meta) -> str:
    """The bounds of a number; the largest of all is not worth a word."""
    if meta.le not in (LARGEST, 2**63 - 1):
        return in_words(meta)
    if meta.ge == -LARGEST:
        return ""
    return f" > {meta.gt:g}" if meta.gt is not None else f" ≥ {meta.ge:g}"


# --- writing ---------------------------------------------------------------------------------------------------------


def texts() -> dict[Path, str]:
    """What each file should hold."""
    return {
        ROOT / "options" / "schema.json": as_text(option_schema()),
        ROOT / "options" / "pseudo_schema.json": as_text(pseudo_schema()),
        ROOT / "options" / "recipe_schema.json": as_text(file_schema(RecipeOptions, "Option file of basicsr recipe")),
        PAGE: with_tables(PAGE.read_text(encoding="utf-8")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the JSON schemas and the tables of keys.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    stale = 0
    for path, text in texts().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
