"""One section of an option file against what it is for: a structure, a call, a registry."""

from __future__ import annotations

import ast
import collections.abc
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import msgspec

from semiisp_plugin import plugins
from semiisp_plugin.options.messages import as_yaml, choices, kind_of, nearest, short
from semiisp_plugin.options.source import Source
from semiisp_plugin.options.structures import Dataset, Filter, Strict

if TYPE_CHECKING:
    from semiisp_plugin.options.accepted_keys import Accepted
    from semiisp_plugin.registry import Registry


# --- structures ----------------------------------------------------------------------------------------------------


_S = TypeVar("_S", bound=msgspec.Struct)


def checked_as(expected: type[_S], values: dict[str, Any], source: Source) -> _S:
    """A whole option file of a command of ours other than training and testing, as its structure.

    Args:
        expected: The structure.
        values: What is in the file, parents and overrides included; see `check_section` for what is changed in it.
        source: For messages.

    Raises:
        OptionError: It is a file of another command, was not read by `load_yaml`, or see `check_section`.
    """
    if "model_type" in values:
        source.fail((), "this is an option file of `basicsr train` or `basicsr test`.")
    if "extends" in values:
        source.fail(("extends",), "it is followed where a file is read (`load_yaml`), not here.")
    check_section(values, expected, source)
    return msgspec.convert(values, expected)


def check_section(
    value: Any,
    expected: type[msgspec.Struct],
    source: Source,
    keys: Sequence[str] = (),
    own: Accepted | None = None,
    below: tuple[str, ...] = (),
) -> None:
    """Check one section against its structure: unknown keys first (with the nearest known one), then types.

    In place, whole numbers written as ``1e5`` or ``!!float 5e3`` become integers where integers are wanted, and keys of
    our own structures are removed where they are ``~``, which their type does not allow, and have a
    default.

    Args:
        value: The section.
        expected: Its structure; unknown keys are errors where it forbids them.
        source: For the message.
        keys: Where the section stands.
        own: What is accepted besides.
        below: The section's place in ``own``.

    Raises:
        OptionError: With file, line, key and fix.
    """
    known = _check_keys(value, expected, source, tuple(keys), own, below)
    try:
        msgspec.convert(known, expected, strict=True)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        found = tuple(k for k in re.split(r"\.|\[\.\.\.\]|\[\d+\]", where.rstrip("`")) if k)
        hint: Any = expected
        for key in found:
            hint, known = _type_of(hint, key), known.get(key) if isinstance(known, dict) else None
        listed = "[" in where
        source.fail((*keys, *found), _plain_words(message, hint, None if listed else known))


def _type_of(kind: Any, key: str) -> Any:
    """The type of a key of a structure, a dictionary, or what may be one."""
    for choice in _choices(kind):
        if isinstance(choice, type) and issubclass(choice, msgspec.Struct):
            fields = {f.encode_name: f.type for f in msgspec.structs.fields(choice)}
            if key in fields:
                return fields[key]
    return None


_WORDS = {
    "object": "a section",
    "array": "a list",
    "null": "nothing",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "|": "or",
}


def _plain_words(message: str, hint: Any = None, value: Any = None) -> str:
    """msgspec's message with YAML's words for its types.

    Args:
        message: The message.
        hint: The type that was wanted, if known.
        value: What was found, if known.
    """
    if "matching regex" in message:
        return (
            "expected a name of a folder, without slashes, control characters or blanks at its ends, and not empty or "
            "of dots alone."
        )
    if message.startswith("Invalid enum value"):
        listed = [c for part in _choices(hint) if typing.get_origin(part) is Literal for c in typing.get_args(part)]
        written = short(message.removeprefix("Invalid enum value").strip().strip("'"))
        others = [{bool: "true or false", int: "a whole number"}[c] for c in _choices(hint) if c in (bool, int)]
        end = nearest(written, [str(c) for c in listed])
        return f"'{written}' is none of the choices{end} Choose {', '.join([*others, choices(listed)])}."
    got_number = message.endswith(("got `int`", "got `float`"))
    if value is not None and re.search(r", got `\w+`$", message):
        written = f"the text '{short(value)}'" if isinstance(value, str) else kind_of(value)
        message = f"{message.rpartition(', got ')[0]}, got {written}"
    text_wanted = got_number and "str" in re.sub(r", got.*", "", message)
    message = re.sub(r"`([^`]*)`", lambda m: " ".join(_WORDS.get(w, w) for w in m[1].split()), message)
    return f"{message[0].lower()}{message[1:]}{'; put it in quotes' if text_wanted else ''}."


def _choices(expected: Any) -> list[Any]:
    """The types a key may have, without annotations and unions."""
    origin = typing.get_origin(expected)
    if origin is Annotated:
        return _choices(typing.get_args(expected)[0])
    if origin in (typing.Union, types.UnionType):
        return [choice for part in typing.get_args(expected) for choice in _choices(part)]
    return [expected]


def whole(value: Any, hint: Any) -> Any:
    """The value, with integers in the place of numbers such as 1e5 where the type wants integers."""
    kinds = [type(typing.get_args(k)[0]) if typing.get_origin(k) is Literal else k for k in _choices(hint)]
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    if isinstance(value, list):
        for kind in kinds:
            parts = [p for p in typing.get_args(kind) if p is not Ellipsis]
            lists = (list, tuple, collections.abc.Sequence)
            if typing.get_origin(kind) in lists and parts and all(int in _choices(p) for p in parts):
                return [whole(item, parts[0]) for item in value]
    return value


def _check_keys(
    value: Any,
    expected: type[msgspec.Struct],
    source: Source,
    keys: tuple[str, ...],
    own: Accepted | None = None,
    below: tuple[str, ...] = (),
) -> Any:
    """Check the keys of a section; what of it the structure knows."""
    if not isinstance(value, dict):
        source.fail(keys, f"expected a section, not {kind_of(value)}.")
    strict, defaults = expected.__struct_config__.forbid_unknown_fields, issubclass(expected, (Strict, Filter, Dataset))
    more = own.of(below) if own is not None else set()
    everything = own is not None and own.accepts_all(below)
    fields = {f.encode_name: f for f in msgspec.structs.fields(expected)}
    known: dict[str, Any] = {}
    for key, item in list(value.items()):
        here = (*keys, str(key))
        if key not in fields:
            if strict and key not in more and not everything:
                names = [*fields, *sorted(more - set(fields))]
                source.fail(here, f"unknown key{nearest(key, names)} Known: {', '.join(names)}.")
            continue
        kinds = _choices(fields[key].type)
        if item is None and defaults and not fields[key].required and type(None) not in kinds and Any not in kinds:
            del value[key]  # "nothing": the default
            continue
        known[key] = value[key] = whole(item, fields[key].type)
        structures = [c for c in kinds if isinstance(c, type) and issubclass(c, msgspec.Struct)]
        word = isinstance(item, str) and any(typing.get_origin(choice) is Literal for choice in kinds)
        if structures and item is not None and not word:
            known[key] = _check_keys(item, structures[0], source, here, own, (*below, str(key)))
        if any(typing.get_origin(c) is dict and typing.get_origin(typing.get_args(c)[1]) is dict for c in kinds):
            for name, part in item.items() if isinstance(item, dict) else ():
                if not isinstance(part, dict):
                    source.fail((*here, str(name)), f"expected a section, not {kind_of(part)}.")
    for name, field in fields.items():
        if field.required and name not in value:
            missing(value, name, source, keys, f"the key '{name}' is missing.", {*fields, *more})
    return known


def missing(
    section: dict[str, Any], key: str, source: Source, keys: Sequence[str], message: str, known: Iterable[str] = ()
) -> NoReturn:
    """Raise for a key that must be there: at the key that looks like it, if there is one.

    Args:
        section: Where it is missing.
        key: What is missing.
        source: For the message.
        keys: Where the section stands.
        message: If nothing looks like it.
        known: Keys that are meant as they are.
    """
    near = difflib.get_close_matches(key, [str(k) for k in section if k not in set(known)], 1, 0.7)
    if near:
        source.fail((*keys, near[0]), f"unknown key; did you mean '{key}'?")
    source.fail(keys, message)


# --- calls ---------------------------------------------------------------------------------------------------------


def check_call(
    section: Any,
    target: Callable[..., Any],
    source: Source,
    keys: Sequence[str],
    given: Sequence[str] = (),
    title: str | None = None,
) -> None:
    """Check the keys of a section against the parameters of what will be called with them, and evident types.

    Whole numbers written as ``1e5`` become integers, in place, where integers are wanted.

    Args:
        section: Keys and values; ``type`` is ignored.
        target: Class or function. One that reads its ``**kwargs`` accepts every key; where they are only swallowed,
            an unknown key is an error.
        source: For the message.
        keys: Where the section stands.
        given: Parameters that the caller fills in itself.
        title: What the target is called in messages; its own name by default.

    Raises:
        OptionError: A key is unknown or missing, or a value is evidently of the wrong type.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return  # of a compiled extension
    title = title or target.__name__
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and reads_kwargs(target)
    fixed = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    names = [n for n in fixed if n not in ("self", *given)]
    for key in section:
        if key != "type" and key not in names and not takes_all:
            known = f"Known: {', '.join(names)}." if names else "It takes none."
            source.fail((*keys, str(key)), f"{title} has no such option{nearest(key, names)} {known}")
    hints = type_hints(target)
    for name in names:
        parameter = parameters[name]
        if name not in section:
            if parameter.default is parameter.empty:
                source.fail(keys, f"{title} needs the key '{name}'.")
            continue
        hint = hints.get(name)
        section[name] = whole(section[name], type(parameter.default) if hint is None else hint)
        problem = wrong_value(section[name], parameter.default, hint)
        if name.startswith("num_") and name not in hints and isinstance(section[name], (str, dict)):
            problem = f"expected a number, not {kind_of(section[name])}."
        if problem:
            source.fail((*keys, name), problem)


@lru_cache(maxsize=1024)
def reads_kwargs(target: Callable[..., Any]) -> bool:
    """Whether a function or a class's constructor does anything with its ``**kwargs``; True where nobody can tell."""
    function = inspect.unwrap(_called(target))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return True
    if not isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)) or tree.args.kwarg is None:
        return True
    name = tree.args.kwarg.arg
    return any(isinstance(node, ast.Name) and node.id == name for part in tree.body for node in ast.walk(part))


@lru_cache(maxsize=1024)
def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Type annotations of the parameters, as far as they can be resolved and are of plain values."""
    try:
        hints = typing.get_type_hints(_called(target))
    except Exception:  # names that exist for type checkers only, and whatever else stands in foreign annotations
        return {}
    return {name: hint for name, hint in hints.items() if _is_plain(hint)}


def _called(target: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, or a class's constructor."""
    return getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009 - mypy's view of __init__


def _is_plain(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return True
    containers = (list, tuple, dict, collections.abc.Sequence, collections.abc.Mapping)
    if origin in (typing.Union, types.UnionType, *containers):
        return all(part is Ellipsis or _is_plain(part) for part in typing.get_args(hint))
    return hint in (int, float, bool, str, type(None), Any, *containers)


def wrong_value(value: Any, default: Any = inspect.Parameter.empty, hint: Any = None) -> str | None:
    """What is evidently wrong with an argument, or None.

    Args:
        value: The argument.
        default: The parameter's default.
        hint: Its annotation, of plain types. Annotations in the wild are often narrower than what is accepted: a value
            of the default's own type is never wrong.
    """
    known = default is not inspect.Parameter.empty
    if known and (value is None or (type(value) is type(default) and not isinstance(value, (dict, list)))):
        return None
    if hint is not None:
        try:
            msgspec.convert(value, hint, strict=True)
        except msgspec.ValidationError as error:
            message, where, _ = str(error).partition(" - at ")
            return _plain_words(message, hint, None if where else value)
        return None
    number, flag = isinstance(default, (int, float)) and not isinstance(default, bool), isinstance(default, bool)
    if isinstance(value, str) and (number or flag or isinstance(default, (list, tuple))):
        wanted = "a number" if number else "a truth value" if flag else "a list"
        return f"expected {wanted}, such as {as_yaml(default)}, not the text '{short(value)}'."
    if isinstance(value, dict) and (number or flag):
        return f"expected a value such as {as_yaml(default)}, not a section."
    if isinstance(value, list) and flag:
        return "expected true or false, not a list."
    return None


# --- registries ----------------------------------------------------------------------------------------------------


def registered(section: Any, registry: Registry, kind: str, source: Source, keys: Sequence[str]) -> Any:
    """The registered object that the section's ``type`` names.

    Raises:
        OptionError: There is none of that name; the message lists the nearest.
    """
    if not isinstance(section, dict):
        source.fail(keys, f"a {kind} is a section with the key 'type', not {kind_of(section)}.")
    if "type" not in section:
        missing(section, "type", source, keys, f"a {kind} is a section with the key 'type'.")
    return registered_name(section["type"], registry, kind, source, (*keys, "type"))


def registered_name(name: Any, registry: Registry, kind: str, source: Source, keys: Sequence[str]) -> Any:
    """The registered object of that name, which stands at ``keys``.

    Raises:
        OptionError: There is none.
    """
    found = names_in(registry)
    if not isinstance(name, str) or name not in found:
        from semiisp_plugin.toolbox import basicsr_location

        source.fail(
            keys,
            f"no {kind} '{short(name)}' is registered{nearest(str(name), found)} Registered: "
            f"{', '.join(sorted(found))} (BasicSR imported from {basicsr_location()}). {plugins.HOW}",
        )
    return found[name]


def names_in(registry: Registry) -> dict[str, Any]:
    """What is registered, by all names it answers to: BasicSR adds a suffix to some names in its look-up."""
    plugins.register()
    found = {name.removesuffix("_basicsr"): value for name, value in registry}
    found.update(iter(registry))
    return found
