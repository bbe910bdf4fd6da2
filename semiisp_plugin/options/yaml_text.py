"""YAML as option files use it: plain values, with the line of each key. Nothing in a file is ever executed.

What differs from PyYAML's safe loader: ``1e-4`` is a number (YAML 1.1 wants ``1.0e-4``), dates stay text, a key that
is given twice is an error, tags other than those of plain values are errors that name the key, and an alias (``*name``)
gives a copy, so that what changes one section leaves the others alone.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml

from semiisp_plugin.io.files import printable
from semiisp_plugin.options.messages import OptionError, kind_of, short
from semiisp_plugin.options.source import Keys

_CORE = "tag:yaml.org,2002:"
_SCALARS = {_CORE + name for name in ("null", "bool", "int", "float", "str")}
_TAGS: dict[type[yaml.Node], set[str]] = {
    yaml.ScalarNode: _SCALARS,
    yaml.SequenceNode: {_CORE + "seq"},
    yaml.MappingNode: {_CORE + "map"},
}
_MERGE = _CORE + "merge"
_MAX_DEPTH = 50
_MAX_TEXT = 4096  # no path is longer
_MAX_VALUES = 10_000  # aliases of aliases can make a short file arbitrarily large
_TOO_DEEP = "sections are nested too deeply, or an alias (*name) stands for a section that it is part of"
_TOO_MANY = f"there are more than {_MAX_VALUES:,} values, or aliases multiply"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_FLOAT = (
    _CORE + "float",
    re.compile(r"^[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


class Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-4`` is a number and a date is text; neither deep nor long enough to take minutes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """PyYAML's, which reads ahead no further than it is asked to."""
        self._depth += 1
        self._count += 1
        if self._depth > _MAX_DEPTH or self._count > _MAX_VALUES:
            problem = _TOO_DEEP if self._depth > _MAX_DEPTH else _TOO_MANY
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back alike."""

    def ignore_aliases(self, data: Any) -> bool:
        """Everything is written out."""
        return True


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _CORE + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(*_FLOAT)
Dumper.add_implicit_resolver(*_FLOAT)


def dump(value: Any) -> str:
    """YAML text of plain values, their order kept."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def parse(text: str, name: str) -> tuple[Any, dict[Keys, int]]:
    """Read YAML.

    Args:
        text: What to read.
        name: Where it comes from, for messages.

    Returns:
        The value, and the line (from 1) of each key by its path of keys.

    Raises:
        OptionError: It is not YAML, repeats a key, or has a tag that is no plain value's.
    """
    loader = None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        builder = _Builder(loader, name)
        return (None if node is None else builder.value(node, ())), builder.lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        if isinstance(error, yaml.reader.ReaderError):
            where = f"{name}:{text[: error.position].count(chr(10)) + 1}"
            problem = f"the character {printable(text[error.position])} is not allowed"
        if "'\\t'" in problem:
            problem = "there is a tab; indent with spaces"
        raise OptionError(f"{where}: not valid YAML: {problem}.") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Builder:
    """Plain values from YAML's nodes."""

    def __init__(self, loader: Loader, name: str) -> None:
        self.lines: dict[Keys, int] = {}
        self._loader = loader
        self._name = name
        self._count = 0

    def fail(self, node: yaml.Node, keys: Keys, message: str) -> NoReturn:
        where = f"{self._name}:{node.start_mark.line + 1}"
        raise OptionError(f"{where}: {':'.join(keys) + ': ' if keys else ''}{message}")

    def value(self, node: yaml.Node, keys: Keys, depth: int = 0) -> Any:
        self._count += 1
        if depth > _MAX_DEPTH:
            self.fail(node, (), f"not valid YAML: {_TOO_DEEP}.")
        if self._count > _MAX_VALUES:
            self.fail(node, keys, f"{_TOO_MANY}.")
        if node.tag not in _TAGS[type(node)]:
            tag = node.tag.replace(_CORE, "!!")
            self.fail(node, keys, f"the tag {tag} is not allowed here; option files hold plain values.")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, keys, depth + 1) for item in node.value]
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, keys, depth + 1)

    def _scalar(self, node: yaml.ScalarNode, keys: Keys) -> Any:
        try:
            value = self._loader.construct_object(node)
        except (ValueError, KeyError, IndexError):
            tag = node.tag.replace(_CORE, "!!")
            self.fail(node, keys, f"{short(node.value)!r} is no value of the tag {tag}.")
        if isinstance(value, int) and value.bit_length() > 10_000:  # Python does not even write it
            self.fail(node, keys, f"a number of {len(node.value):,} characters; none has that many.")
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            self.fail(node, keys, f"a text of {len(value):,} characters; at most {_MAX_TEXT:,} make sense.")
        if isinstance(value, str) and (found := _CONTROL.search(value)):
            self.fail(node, keys, f"the character {printable(found[0])} is not allowed in a text.")
        return value

    def _mapping(self, node: yaml.MappingNode, keys: Keys, depth: int) -> dict[Any, Any]:
        own = {pair for pair in node.value if pair[0].tag != _MERGE}
        self._loader.flatten_mapping(node)  # what is merged comes first, and what wins last
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for pair in node.value:
            key = self._key(pair[0], keys)
            if pairs.get(key) in own:
                line = pairs[key][0].start_mark.line + 1
                self.fail(pair[0], (), f"{':'.join((*keys, key))} is given twice (first in line {line}).")
            pairs[key] = pair
        node.value = list(pairs.values())  # so that what merges this in turn does not multiply
        result = {}
        for key, (key_node, value_node) in pairs.items():
            self.lines[(*keys, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*keys, key), depth)
        return result

    def _key(self, node: yaml.Node, keys: Keys) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, keys, "a list or section is no name of a key.")
        key = self.value(node, keys)
        if isinstance(key, str):
            return key
        comma = "; if it is part of a decimal number, write that with a point" if type(key) is int else ""
        read = f"it is read as {kind_of(key)}; put it in quotes{comma}."
        self.fail(node, keys, f"'{short(node.value)}' is no name of a key: {read}")
