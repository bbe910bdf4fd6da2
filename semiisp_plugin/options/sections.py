"""One section of an option file against what it is for: a structure, or the parameters of what its ``type`` names."""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar, Union

import msgspec

from semiisp_plugin import plugins
from semiisp_plugin.options.messages import as_yaml, choices, kind_of, nearest, short
from semiisp_plugin.options.ranges import bounds
from semiisp_plugin.options.source import Keys, Source
from semiisp_plugin.options.structures import alternatives, marks_of, structure_of, structures_in, tag_of

if TYPE_CHECKING:
    from semiisp_plugin.registry import Registry

_S = TypeVar("_S", bound=msgspec.Struct)


def checked_as(expected: type[_S], values: dict[str, Any], source: Source) -> _S:
    """A whole option file of a command other than training and testing, as its structure.

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
    value: Any, expected: type[msgspec.Struct], source: Source, keys: Sequence[str] = (), title: str | None = None
) -> None:
    """Check one section, and those in it, against a structure.

    In place, whole numbers written as ``1e5`` or ``!!float 5e3`` become integers where integers are wanted, and keys
    are removed where they are ``~``, which their type does not allow, and have a default.

    Args:
        value: The section.
        expected: Its structure; unknown keys are errors where it forbids them.
        source: For the message.
        keys: Where the section stands.
        title: What is called with the section, for messages.

    Raises:
        OptionError: With file, line, key and fix; for unknown keys the nearest known one.
    """
    if not isinstance(value, dict):
        source.fail(keys, f"expected a section, not {kind_of(value)}.")
    tag, fields = tag_of(expected), {f.encode_name: f for f in msgspec.structs.fields(expected)}
    names = [name for name in fields if name != "type" or title is None]
    for key in value if expected.__struct_config__.forbid_unknown_fields else ():
        if key not in fields and not (tag and key == "type"):
            listed = f"Known: {', '.join(names)}." if names else "It takes none."
            what = f"{title} has no such option" if title else "unknown key"
            source.fail((*keys, key), f"{what}{nearest(key, names)} {listed}")
    for name, field in fields.items():
        if name not in value:
            if field.required:
                what = f"{title} needs the key '{name}'." if title else f"the key '{name}' is missing."
                missing(value, name, source, keys, what, fields)
        elif value[name] is None and not field.required and not {type(None), Any} & set(alternatives(field.type)):
            del value[name]  # "nothing": the default
        else:
            value[name] = _checked(value[name], field.type, source, (*keys, name))


def _checked(value: Any, kind: Any, source: Source, keys: Keys) -> Any:
    """The value of a key, with whole numbers in the place of numbers such as 1e5."""
    value = whole(value, kind)
    structures = structures_in(kind) if isinstance(value, dict) else []
    if structures:
        part = structure_of(kind, value)
        if part is None:
            tags = [str(tag_of(s)) for s in structures]
            if "type" not in value:
                missing(value, "type", source, keys, f"the key 'type' is missing. Known: {', '.join(tags)}.")
            given = value["type"]
            known, hint = f"Known: {', '.join(tags)}.", marks_of(kind).get("hint")
            message = f"there is no '{short(given)}'{nearest(str(given), tags)} {known}{f' {hint}' if hint else ''}"
            source.fail((*keys, "type"), message)
        check_section(value, part, source, keys, str(value["type"]) if tag_of(part) else None)
        return value
    for number in _numbers(value):
        if number != number or (number in (math.inf, -math.inf) and not marks_of(kind).get("infinite")):
            source.fail(keys, f"expected a finite number{bounds(kind, float)}, got {number}.")
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, within, _ = str(error).partition(" - at `$")
        source.fail(keys, _plain_words(message, kind, value, bool(within)))
    if any(isinstance(number, int) and abs(number) >= 2**63 for number in _numbers(value)):
        source.fail(keys, f"no option has whole numbers of more than 64 bits; got {short(as_yaml(value))}.")
    return value


def _numbers(value: Any) -> Iterator[int | float]:
    """All numbers of a value, in lists too; sections are checked by what they are for."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield value


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


def with_defaults(section: dict[str, Any], structure: type[msgspec.Struct]) -> dict[str, Any]:
    """Fill in, in place, what a checked section does not say; "nothing" stays unsaid."""
    for field in msgspec.structs.fields(structure):
        if field.default not in (None, msgspec.NODEFAULT):
            section.setdefault(field.encode_name, field.default)
        part = structure_of(field.type, section.get(field.encode_name))
        if part is not None:
            with_defaults(section[field.encode_name], part)
    return section


# --- types -----------------------------------------------------------------------------------------------------------


def whole(value: Any, hint: Any) -> Any:
    """The value, with integers in the place of numbers such as 1e5 where the type wants integers."""
    kinds = [type(typing.get_args(k)[0]) if typing.get_origin(k) is Literal else k for k in alternatives(hint)]
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    if isinstance(value, list):
        for kind in kinds:
            parts = [p for p in typing.get_args(kind) if p is not Ellipsis]
            lists = (list, tuple, collections.abc.Sequence)
            if typing.get_origin(kind) in lists and parts and all(int in alternatives(p) for p in parts):
                return [whole(item, parts[0]) for item in value]
    return value


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


def _plain_words(message: str, kind: Any, value: Any, within: bool) -> str:
    """msgspec's message with YAML's words for its types, and with the range of numbers.

    Args:
        message: The message.
        kind: The type that was wanted.
        value: What was found.
        within: Wrong is a part of it.
    """
    words = {**_WORDS, "int": f"a whole number{bounds(kind, int)}", "float": f"a number{bounds(kind, float)}"}
    if "matching regex" in message:
        return (
            "expected a name of a folder, without slashes, control characters or blanks at its ends, and not empty or "
            "of dots alone."
        )
    written = f"the text '{short(value)}'" if isinstance(value, str) else kind_of(value)
    if message.startswith("Invalid enum value"):
        kind = next(_items(kind)) if within else kind
        listed = [c for part in alternatives(kind) if typing.get_origin(part) is Literal for c in typing.get_args(part)]
        given = short(message.removeprefix("Invalid enum value").strip().strip("'"))
        others = [words[c.__name__] for c in alternatives(kind) if c in (bool, int)]
        end = nearest(given, [str(c) for c in listed])
        return f"'{given}' is none of the choices{end} Choose {', '.join([*others, choices(listed)])}."
    got_number = message.endswith(("got `int`", "got `float`"))
    if re.search(r"` [<>]=? ", message):
        message = f"{re.sub(r'` [<>].*', '`', message)}, got {short(as_yaml(value))}"
    elif value is not None and not within and re.search(r", got `\w+`$", message):
        message = f"{message.rpartition(', got ')[0]}, got {written}"
    text_wanted = got_number and "str" in re.sub(r", got.*", "", message)
    expected, comma, got = message.partition(", got ")
    expected = re.sub(r"`([^`]*)`", lambda m: " ".join(words.get(w, w) for w in m[1].split()), expected)
    got = re.sub(r"`([^`]*)`", lambda m: _WORDS.get(m[1], m[1]), got)
    return f"{expected[0].lower()}{expected[1:]}{comma}{got}{'; put it in quotes' if text_wanted else ''}."


def _items(kind: Any) -> Iterator[Any]:
    """What the lists of a type hold."""
    for part in alternatives(kind):
        yield from (item for item in typing.get_args(part)[:1] if typing.get_origin(part) is not Literal)


# --- calls -----------------------------------------------------------------------------------------------------------


def check_call(
    section: Any,
    target: Callable[..., Any],
    source: Source,
    keys: Sequence[str],
    given: Sequence[str] = (),
    common: type[msgspec.Struct] | None = None,
    besides: Sequence[str] = (),
) -> None:
    """Check the keys of a section, but ``type``, against the parameters of what will be called with them.

    A parameter's type is that of ``common``, or its annotation where that is of plain values. Annotations in the wild
    are often narrower than what is accepted: the default's own type always is. Of what has no signature (compiled
    extensions), nothing is known.

    Args:
        section: The section; see `check_section` for what is changed in it.
        target: Class or function. One with ``**kwargs`` takes every key, unless ``besides`` says what they are for.
        source: For the message.
        keys: Where the section stands.
        given: Parameters that the caller fills in itself.
        common: Types of parameters by name.
        besides: Keys of ``common`` that the ``**kwargs`` are for.

    Raises:
        OptionError: A key is unknown or missing, or a value is evidently of the wrong type.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    try:
        hints = typing.get_type_hints(_initialiser(target), include_extras=True)
    except Exception:  # names that exist for type checkers only, and whatever else stands in foreign annotations
        hints = {}
    known = {f.encode_name: f for f in msgspec.structs.fields(common)} if common else {}
    variable = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    fields: list[Any] = [("type", Any, None)]
    fields += [(key, known[key].type, known[key].default) for key in besides if variable]
    for name, parameter in parameters.items():
        if name in ("self", "type", *given) or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = parameter.default
        kind = known[name].type if name in known else _checkable(hints.get(name, Any), default)
        fields.append((name, kind) if default is parameter.empty else (name, kind, _immutable(default)))
    takes_all = variable and not besides
    structure = msgspec.defstruct(target.__name__, fields, kw_only=True, forbid_unknown_fields=not takes_all)
    check_section(section, structure, source, keys, target.__name__)


def _initialiser(target: Callable[..., Any]) -> Any:
    """What has the annotations."""
    return getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009 - mypy's view of __init__


def _immutable(default: Any) -> Any:
    """A default as a structure may have it."""
    default = tuple(default) if isinstance(default, list) else default
    return default if isinstance(default, (bool, int, float, str, tuple)) else None


def _checkable(hint: Any, default: Any) -> Any:
    """A parameter's type, where it is of plain values that msgspec can tell apart; its default is always accepted."""
    if not _is_plain(hint):
        return Any
    required = default is inspect.Parameter.empty
    for kind in (hint,) if required else (hint, Union[hint, type(default)]):  # noqa: UP007
        with suppress(TypeError):
            try:
                msgspec.convert(default, kind)
            except msgspec.ValidationError:
                if not required:
                    continue
            return kind
    return Any


def _is_plain(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _is_plain(typing.get_args(hint)[0])
    if origin is Literal:
        return True
    containers = (list, tuple, dict, collections.abc.Sequence, collections.abc.Mapping)
    if origin in (Union, types.UnionType, *containers):
        return all(part is Ellipsis or _is_plain(part) for part in typing.get_args(hint))
    return hint in (int, float, bool, str, type(None), Any, *containers)


# --- registries ------------------------------------------------------------------------------------------------------


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
