"""Reading option files: what they extend, what the command line overrides.

``extends: FILE``, or a list of files, takes over what stands there; paths are relative to the file that has the key.
Of several files the later win over the earlier, and the file itself over all of them:

* Sections are merged key by key, at every depth; anything else is replaced.
* A section with another ``type`` replaces the former one as a whole: the arguments of one network mean nothing to
  another.
* ``section: ~`` takes a section away.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from semiisp_plugin import plugins
from semiisp_plugin.io.files import read_text
from semiisp_plugin.options.messages import OptionError, as_yaml, kind_of, nearest, short
from semiisp_plugin.options.source import Keys, Source
from semiisp_plugin.options.yaml_text import dump, parse

_MAX_BYTES = 500_000  # of a file and all that it extends
_MAX_DEPTH = 20
Places = dict[Keys, str]
_Read = tuple[dict[str, Any], Places]
# What a section is that has no `type`.
_UNSAID: dict[Keys, str] = {("train", "filter"): "threshold"}


def read_options(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Source]:
    """An option file with all it extends and ``--force_yml``'s changes, not checked yet.

    The modules that it names with ``imports`` are imported, so that what they register can be checked and built.

    Raises:
        OptionError: A file is missing, is not YAML, repeats a key, or extends itself; an override cannot be applied; a
            module cannot be imported.
    """
    options, source = load_yaml(path)
    apply_overrides(options, overrides, source)
    import_named(options, source)
    return options, source


def import_named(options: Mapping[str, Any], source: Source) -> None:
    """Import the modules that options name with ``imports``; what is no list of names is left to the checks.

    Raises:
        OptionError: A module cannot be imported.
    """
    imports = options.get("imports")
    if isinstance(imports, list) and all(isinstance(name, str) for name in imports):
        try:
            plugins.register(imports)
        except ValueError as error:
            source.fail(("imports",), f"{error}")


def dump_options(options: Mapping[str, Any]) -> str:
    """Options as the text of an option file that needs no other; from `read_options`, before they are completed."""
    return dump(dict(options))


def load_yaml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Source]:
    """Read an option file and what it extends; nothing that it names is imported.

    Raises:
        OptionError: A file is missing, is not YAML, repeats a key, or extends itself.
    """
    options, places = _Files().load(str(path))
    return options, Source(str(path), places)


class _Files:
    """An option file and what it extends, each read once."""

    def __init__(self) -> None:
        self._read: dict[str, _Read] = {}
        self._left = _MAX_BYTES

    def load(self, path: str, chain: tuple[str, ...] = (), asked_at: str | None = None) -> _Read:
        """A file with what it extends.

        Args:
            path: The file.
            chain: The files that extend each other down to this one.
            asked_at: Where the last of them says so.
        """
        begin, real = f"{asked_at}: extends: " if asked_at else "", os.path.realpath(path)
        if real in map(os.path.realpath, chain):
            raise OptionError(f"{begin}files extend each other in a circle: {' -> '.join((*chain, path))}.")
        if len(chain) > _MAX_DEPTH:
            named = " -> ".join([*chain[:3], "...", path])
            raise OptionError(f"{begin}files extend each other more than {_MAX_DEPTH} deep: {named}.")
        if real not in self._read:
            self._read[real] = self._with_parents(path, chain, begin)
        return self._read[real]

    def _with_parents(self, path: str, chain: tuple[str, ...], begin: str) -> _Read:
        text = _text(path, begin, chain, self._left)
        self._left -= len(text.encode())
        values, lines = parse(text, path)
        if not isinstance(values, dict):
            raise OptionError(f"{path}: an option file is a mapping of keys to values; this one is {kind_of(values)}.")
        places = {keys: f"{path}:{line}" for keys, line in lines.items()}
        if "extends" not in values:
            return values, places
        parents = values.pop("extends")
        where = places.pop(("extends",))
        parents = [parents] if isinstance(parents, str) else parents
        if not isinstance(parents, list) or not parents or not all(isinstance(p, str) and p for p in parents):
            raise OptionError(f"{where}: extends: give a file, or a list of files, not {short(as_yaml(parents))}.")
        options: dict[str, Any] = {}
        known: Places = {}
        for parent in parents:
            file = os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(parent)))
            more, more_places = self.load(file, (*chain, path), where)
            _merge(options, known, more, more_places, ())
        _merge(options, known, values, places, ())
        return options, known


def _text(path: str, begin: str, chain: tuple[str, ...], limit: int) -> str:
    what = f"{begin}{'the' if begin else 'The'} option file {path}"
    try:
        return read_text(path, limit)
    except FileNotFoundError:
        if os.path.islink(path):
            raise OptionError(f"{what} is a symbolic link to {os.readlink(path)}, which is not there.") from None
        folder = Path(path).parent
        others = [p for p in folder.glob("*.y*ml") if str(p) not in chain]
        near = difflib.get_close_matches(Path(path).name, [p.name for p in others], 1)
        hint = f"; did you mean {folder / near[0]}?" if near else "."
        raise OptionError(f"{begin}{'there' if begin else 'There'} is no option file {path}{hint}") from None
    except (OSError, ValueError) as error:
        rest = f", of {_MAX_BYTES:,} of a file and all that it extends" if "at most" in str(error) else ""
        raise OptionError(f"{what} cannot be read: {error}{rest}.") from None


def _merge(into: dict[str, Any], into_places: Places, new: dict[str, Any], new_places: Places, keys: Keys) -> None:
    """Change ``into`` by what is ``new``; see the module."""
    for key, value in new.items():
        here = (*keys, str(key))
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _other_type(old, value, here):
            into_places[here] = new_places[here]
            _merge(old, into_places, value, new_places, here)
            continue
        for place in _below(into_places, here, old):
            del into_places[place]
        if value is None and isinstance(old, dict):
            del into[key]
            continue
        into[key] = deepcopy(value)
        into_places.update({k: new_places[k] for k in _below(new_places, here, value)})


def _below(places: Places, keys: Keys, value: Any) -> list[Keys]:
    """The places of a key and of what is in its value."""
    if isinstance(value, (dict, list)):
        return [k for k in places if k[: len(keys)] == keys]
    return [keys] if keys in places else []


def _other_type(old: dict[str, Any], new: dict[str, Any], keys: Keys) -> bool:
    before = old.get("type", _UNSAID.get(keys))
    return before is not None and "type" in new and before != new["type"]


def apply_overrides(options: dict[str, Any], overrides: Sequence[str], source: Source | None = None) -> None:
    """Apply ``--force_yml`` entries such as ``train:optim_g:lr=1e-4`` in place; values are read as YAML.

    A key may be new, a section may not. ``section=~`` takes the section away.

    Args:
        options: The options to change.
        overrides: The entries.
        source: Is told of the changes: messages about these keys name ``--force_yml`` in place of a line.

    Raises:
        OptionError: An entry is malformed, names no section, or its value is not YAML.
    """
    for entry in overrides:
        keys, equals, text = entry.partition("=")
        if not equals or not keys:
            raise OptionError(f"--force_yml {entry}: write it as section:key=value.")
        *parents, last = [k.strip() for k in keys.split(":")]
        if not parents and last == "extends":
            raise OptionError(f"--force_yml {entry}: 'extends' stands in the file; it cannot be overridden.")
        section: Any = options
        for depth, key in enumerate(parents):
            where = ":".join(parents[: depth + 1])
            if key not in section:
                raise OptionError(f"--force_yml {entry}: there is no section {where}{nearest(key, section)}")
            if not isinstance(section[key], dict):
                raise OptionError(f"--force_yml {entry}: {where} is {kind_of(section[key])}, not a section.")
            section = section[key]
        try:
            value, _ = parse(text, "value")
        except OptionError as error:
            problem = str(error).partition(": ")[2].removeprefix("not valid YAML: ").rstrip(".")
            raise OptionError(f"--force_yml {entry}: the value is not valid YAML: {problem}.") from None
        if value is None and isinstance(section.get(last), dict):
            del section[last]  # as in a file that extends another
        else:
            section[last] = value
        if source is not None:
            source.overridden((*parents, last))
