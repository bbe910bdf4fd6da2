"""Tables of all keys for the documentation, made from the structures."""

from __future__ import annotations

import re
import types
import typing
from typing import Annotated, Any, Literal

import msgspec

from semiisp_plugin.options import basicsr_structures as basicsr
from semiisp_plugin.options import structures
from semiisp_plugin.options.messages import as_yaml

TABLES: dict[str, type[msgspec.Struct]] = {
    "file": structures.Options,
    "datasets": structures.Dataset,
    "pseudo": structures.PseudoData,
    "online_pseudo": structures.OnlinePseudoData,
    "train": structures.Train,
    "filter": structures.Filter,
    "held_out": structures.HeldOut,
    "noise": structures.Noise,
    "mean_teacher": structures.MeanTeacher,
    "mixup": structures.Mixup,
    "activity_penalty": structures.ActivityPenalty,
    "val": structures.Val,
    "logger": structures.Logger,
    "path": structures.Paths,
    "loader": basicsr.LoaderKeys,
    "pseudo_file": structures.PseudoOptions,
}


def with_tables(page: str) -> str:
    """A page of Markdown with its tables made anew.

    A table stands between ``<!-- keys: NAME -->`` and ``<!-- end -->``, NAME being one of `TABLES`.

    Raises:
        KeyError: There is no such table.
    """

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{key_table(TABLES[match[2]])}\n\n<!-- end -->"

    return re.sub(r"(<!-- keys: (\w+) -->).*?<!-- end -->", table, page, flags=re.DOTALL)


def key_table(structure: type[msgspec.Struct]) -> str:
    """A Markdown table of a structure's keys: type, default, description."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(structure):
        default = "" if field.required else f"`{as_yaml(field.default)}`"
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
        bounds = [f"≥ {m.ge:g}" for m in metas if m.ge is not None]
        bounds += ["< 2^63" if m.le == 2**63 - 1 else f"≤ {m.le:g}" for m in metas if m.le is not None]
        if any(m.min_length == m.max_length == 2 for m in metas):
            return _kind(arguments[0]).replace("list of", "list of two")
        bounds += [f"< {m.lt:g}" for m in metas if m.lt is not None]
        return " ".join([_kind(arguments[0]), *bounds])
    if origin in (typing.Union, types.UnionType):
        return ", ".join(dict.fromkeys(_kind(a) for a in arguments if a is not type(None)))
    if origin is Literal:
        return ", ".join(f"`{as_yaml(a)}`" for a in arguments)
    if origin is list:
        noun, blank, bound = _kind(arguments[0]).partition(" ≥")
        return f"list of {noun}s{blank}{bound}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return "section"
    return {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}.get(kind, str(kind))
