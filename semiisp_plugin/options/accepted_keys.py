"""Which options a class reads, found in its source.

BasicSR's models and data sets, and those that others register, take one dictionary and read their keys from it here and
there: ``opt['gt_size']``, ``train_opt.get('ema_decay')``, ``'mean' in opt``. There is no signature to check against; so
the source of the class, of its bases, and of the functions and classes it hands options to is read (never run), and
each key that stands there as a constant is one it accepts.

A key that is handed to a function or method as a text (``self.value('gt_size', 64)``) is known there.

Where the source does not tell, every key is accepted: it cannot be read (compiled, or typed into a console), keys are
computed (``opt[f'{x}_opt']``, ``opt[name]``), or a section is handed on as a whole to something that is not followed
(``build(**opt)``, a method of another object). That is decided section by section.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from semiisp_plugin.options.class_source import COPIES, Path, is_foreign, is_self, is_super, parameters_of, parsed

Paths = frozenset[Path]
_NONE: Paths = frozenset()
_ROOT: Paths = frozenset({()})

_MAX_DEPTH = 4


class Accepted:
    """What a class reads from its options.

    Attributes:
        keys: Keys by the section they stand in, ``()`` being the options the class gets.
        open: Sections of which every key is accepted, and what is below.
        handed: Functions, by name, that a section is handed to as a whole.
    """

    def __init__(self) -> None:
        self.keys: dict[Path, set[str]] = defaultdict(set)
        self.open: set[Path] = set()
        self.handed: dict[Path, set[str]] = defaultdict(set)

    def accepts_all(self, section: Path) -> bool:
        """Whether every key of a section is accepted."""
        return any(section[:n] in self.open for n in range(len(section) + 1))

    def of(self, section: Path) -> set[str]:
        """The keys read from a section."""
        return set(self.keys.get(section, ()))

    def without(self, names: Iterable[str]) -> Accepted:
        """The same without some keys of the section that the class gets."""
        rest = self | Accepted()
        rest.keys[()] -= set(names)
        return rest

    def __or__(self, other: Accepted) -> Accepted:
        both = Accepted()
        for part in (self, other):
            both.open |= part.open
            for section, keys in part.keys.items():
                both.keys[section] |= keys
            for section, names in part.handed.items():
                both.handed[section] |= names
        return both


@lru_cache(maxsize=256)
def accepted_keys(cls: type, apart_from: type | None = None) -> Accepted:
    """What a class reads from the options that its constructor gets as the first argument.

    Args:
        cls: The class.
        apart_from: A base of it, whose own bodies, and those of its bases, are followed but not listed.
    """
    accepted = Accepted()
    _ClassReader(cls, accepted, 0, set(), apart_from).read(_ROOT)
    return accepted


class _ClassReader:
    """Reads a class and its bases until nothing new is found: attributes and parameters may hold options."""

    def __init__(
        self, cls: type, accepted: Accepted, depth: int, seen: set[Any], apart_from: type | None = None
    ) -> None:
        self.accepted = accepted
        self.collecting = False
        self.depth = depth
        self.seen = seen
        self.attributes: dict[str, Paths] = defaultdict(lambda: _NONE)
        self.returns: dict[str, Paths] = defaultdict(lambda: _NONE)
        self.bound: dict[tuple[str, str], Paths] = defaultdict(lambda: _NONE)
        # Texts that methods are called with, and parameters that get something else, too.
        self.texts: dict[tuple[str, str], frozenset[str]] = defaultdict(frozenset)
        self.untold: set[tuple[str, str]] = set()
        self.methods: list[tuple[dict[str, Any], ast.FunctionDef | ast.AsyncFunctionDef]] = []
        self.listed: set[ast.AST] = set()
        self.unreadable = False
        for base in cls.__mro__:
            if is_foreign(base):
                continue
            listed = apart_from is None or not issubclass(apart_from, base)
            tree = parsed(base)
            if not isinstance(tree, ast.ClassDef):
                self.unreadable |= listed
                continue
            module = inspect.getmodule(base)
            scope = vars(module) if module is not None else {}
            for node in tree.body:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    self.methods.append((scope, node))
                    if listed:
                        self.listed.add(node)
        self.names = {node.name for _, node in self.methods}

    def read(self, options: Paths, texts: dict[str | int, frozenset[str]] | None = None) -> None:
        """Read everything, the constructor's first argument being the section ``options``.

        Args:
            options: The section.
            texts: What else the constructor is called with, by position or name, where that is a text.
        """
        first = next((node for _, node in self.methods if node.name == "__init__"), None)
        parameters = parameters_of(first, 1) if first else []
        if self.unreadable or not parameters:
            self.accepted.open |= options
        if parameters:
            self.bound["__init__", parameters[0]] = options
        for position, values in (texts or {}).items():
            self.bind("__init__", position, _NONE, values)
        # What is bound is collected first: which key a parameter stands for may be said further down.
        listed, self.accepted, self.collecting = self.accepted, Accepted(), True
        while True:
            before = self.state()
            self.all_methods(Accepted())
            if before == self.state():
                break
        self.accepted, self.collecting = listed, False
        self.all_methods(listed)

    def state(self) -> tuple[Any, ...]:
        return (
            {k: v for k, v in self.attributes.items() if v},
            {k: v for k, v in self.returns.items() if v},
            {k: v for k, v in self.bound.items() if v},
            {k: v for k, v in self.texts.items() if v},
            set(self.untold),
        )

    def all_methods(self, accepted: Accepted) -> None:
        for scope, node in self.methods:
            names = [*parameters_of(node, _own_parameters(node)), *(a.arg for a in node.args.kwonlyargs)]
            env = {name: self.bound[node.name, name] for name in names if self.bound[node.name, name]}
            into = accepted if node in self.listed else Accepted()
            reader = _FunctionReader(into, scope, env, self.depth, self.seen, self)
            told = {name: set(self.texts[node.name, name]) for name in names if (node.name, name) not in self.untold}
            reader.constants = {name: texts for name, texts in told.items() if texts}
            self.returns[node.name] |= reader.run(node.body)

    def bind(self, method: str, position: int | str, options: Paths, texts: frozenset[str]) -> bool:
        """Note what a method gets as an argument, a section or a text; False where the parameter is not found."""
        found = False
        for _, node in self.methods:
            if node.name != method:
                continue
            name = _parameter(node, position, _own_parameters(node))
            if name is None:
                continue
            found = True
            self.bound[method, name] |= options
            self.texts[method, name] |= texts
            if not texts:
                self.untold.add((method, name))
        return found


def _own_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters of a method are filled in: `self`, unless it is static."""
    return 0 if any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list) else 1


def _parameter(node: ast.FunctionDef | ast.AsyncFunctionDef, position: int | str, skip: int) -> str | None:
    """The parameter that an argument is for."""
    names = parameters_of(node, skip)
    if isinstance(position, int):
        return names[position] if position < len(names) else None
    return position if position in {*names, *(a.arg for a in node.args.kwonlyargs)} else None


class _FunctionReader:
    """Follows options through one function, without regard to the order of its statements."""

    def __init__(
        self,
        accepted: Accepted,
        scope: dict[str, Any],
        env: dict[str, Paths],
        depth: int,
        seen: set[Any],
        owner: _ClassReader | None,
    ) -> None:
        self.accepted = accepted
        self.scope = scope
        self.env = dict(env)
        self.constants: dict[str, set[str]] = {}
        self.computed: set[str] = set()  # names that get something besides texts
        self.depth = depth
        self.seen = seen
        self.owner = owner
        self.returned: Paths = _NONE

    def run(self, body: Iterable[ast.stmt]) -> Paths:
        """Read the statements; what the function returns of the options."""
        statements = list(body)
        while True:
            before = (dict(self.env), {k: set(v) for k, v in self.constants.items()}, set(self.computed), self.returned)
            for statement in statements:
                self.statement(statement)
            if before == (self.env, self.constants, self.computed, self.returned):
                return self.returned

    # --- statements ----------------------------------------------------------------------------------------------

    def statement(self, node: ast.AST) -> None:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            value = self.paths(node.value) if node.value is not None else _NONE
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self.assign(target, value, None if isinstance(node, ast.AugAssign) else node.value)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.loop(node.target, node.iter)
            self.children(node, skip=(node.target, node.iter))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = {k: v for k, v in self.env.items() if k not in parameters_of(node, 0)}
            reader = _FunctionReader(self.accepted, self.scope, inner, self.depth, self.seen, self.owner)
            reader.constants, reader.computed = dict(self.constants), set(self.computed)
            reader.run(node.body)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                self.returned |= self.paths(node.value)
        elif isinstance(node, ast.expr):
            self.paths(node)
        else:
            self.children(node)

    def children(self, node: ast.AST, skip: tuple[ast.AST, ...] = ()) -> None:
        for child in ast.iter_child_nodes(node):
            if child not in skip and not isinstance(child, (ast.expr_context, ast.operator, ast.cmpop)):
                self.statement(child)

    def assign(self, target: ast.expr, value: Paths, source: ast.expr | None) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            parts = source.elts if isinstance(source, (ast.Tuple, ast.List)) else []
            for i, part in enumerate(target.elts):
                matching = parts[i] if len(parts) == len(target.elts) else None
                self.assign(part, self.paths(matching) if matching is not None else _NONE, matching)
            return
        if isinstance(target, ast.Subscript):
            self.paths(target.value)  # what is written is not read
            return
        if isinstance(target, ast.Name):
            texts = _texts(source)
            if texts:
                self.constants.setdefault(target.id, set()).update(texts)
            else:
                self.computed.add(target.id)
            if value:
                self.env[target.id] = self.env.get(target.id, _NONE) | value
        elif isinstance(target, ast.Attribute) and value:
            if is_self(target.value) and self.owner is not None:
                self.owner.attributes[target.attr] |= value
            else:
                self.accepted.open |= value

    def loop(self, target: ast.expr, iterable: ast.expr) -> None:
        texts = _texts(iterable)
        if texts and isinstance(target, ast.Name):
            self.constants.setdefault(target.id, set()).update(texts)
        # Going over a section reads all of its keys.
        self.accepted.open |= self.paths(iterable)

    # --- expressions ---------------------------------------------------------------------------------------------

    def paths(self, node: ast.expr) -> Paths:
        """The sections (or values) of the options that an expression may stand for."""
        if isinstance(node, ast.Name):
            return self.env.get(node.id, _NONE)
        if isinstance(node, ast.Attribute):
            if is_self(node.value) and self.owner is not None:
                return self.owner.attributes[node.attr] | (
                    self.owner.returns[node.attr] if node.attr in self.owner.names else _NONE
                )
            self.paths(node.value)
            return _NONE
        if isinstance(node, ast.Subscript):
            return self.member(self.paths(node.value), node.slice)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.BoolOp):
            return _NONE.union(*[self.paths(value) for value in node.values])
        if isinstance(node, ast.IfExp):
            self.paths(node.test)
            return self.paths(node.body) | self.paths(node.orelse)
        if isinstance(node, ast.NamedExpr):
            value = self.paths(node.value)
            self.assign(node.target, value, node.value)
            return value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self.paths(node.left) | self.paths(node.right)
        if isinstance(node, ast.Compare):
            return self.compare(node)
        if isinstance(node, ast.Dict):
            return self.display(node)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            for element in node.elts:
                self.accepted.open |= self.paths(element)
            return _NONE
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            for generator in node.generators:
                self.loop(generator.target, generator.iter)
                for condition in generator.ifs:
                    self.paths(condition)
            for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
                self.accepted.open |= self.paths(part)
            return _NONE
        if isinstance(node, ast.Starred):
            self.accepted.open |= self.paths(node.value)
            return _NONE
        self.children(node)
        return _NONE

    def compare(self, node: ast.Compare) -> Paths:
        self.paths(node.left)
        for operator, right in zip(node.ops, node.comparators, strict=True):
            found = self.paths(right)
            if isinstance(operator, (ast.In, ast.NotIn)) and found:
                self.member(found, node.left, opens=False)
        return _NONE

    def display(self, node: ast.Dict) -> Paths:
        """``{**opt, 'more': 1}`` is a section still; a section as a value goes its own ways."""
        found = _NONE
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found |= self.paths(value)
            else:
                self.paths(key)
                self.accepted.open |= self.paths(value)
        return found

    def member(self, sections: Paths, key: ast.expr, opens: bool = True) -> Paths:
        """``section[key]``, noted as read."""
        if not sections:
            self.paths(key)
            return _NONE
        names: set[str] = set()
        if isinstance(key, ast.Constant):
            if not isinstance(key.value, str):
                return _NONE  # an element of a list
            names = {key.value}
        elif isinstance(key, ast.Name) and key.id in self.constants and key.id not in self.computed:
            names = self.constants[key.id]
        elif isinstance(key, ast.Slice):
            return _NONE
        else:
            self.paths(key)
        if not names:
            if opens:
                self.accepted.open |= sections
            return _NONE
        for section in sections:
            self.accepted.keys[section] |= names
        return frozenset((*section, name) for section in sections for name in names)

    # --- calls ---------------------------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> Paths:
        function = node.func
        if isinstance(function, ast.Attribute):
            sections = self.paths(function.value)
            if sections:
                return self.method_of_section(sections, function.attr, node)
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
        arguments: list[tuple[int | str, ast.expr, Paths]] = [(i, a, self.paths(a)) for i, a in enumerate(node.args)]
        spread = _NONE
        for keyword in node.keywords:
            found = self.paths(keyword.value)
            if keyword.arg is None:
                spread |= found
            else:
                arguments.append((keyword.arg, keyword.value, found))
        if name in COPIES:
            return _NONE.union(spread, *[found for _, _, found in arguments])
        handed = [(position, found) for position, _, found in arguments if found]
        for section in _NONE.union(spread, *[found for _, found in handed]):
            self.accepted.handed[section].add(str(name))
        self.accepted.open |= spread
        if isinstance(function, ast.Attribute) and self.owner is not None:
            own = is_self(function.value) or is_super(function.value)
            if own and function.attr in self.owner.names:
                for position, value, found in arguments:
                    if not self.owner.bind(function.attr, position, found, self.texts_of(value)):
                        self.accepted.open |= found
                return self.owner.returns[function.attr]
            if own and handed and is_super(function.value):
                return _NONE  # a base in torch or the standard library
        if handed:
            texts = {position: self.texts_of(value) for position, value, _ in arguments}
            target = self.resolve(function)
            for position, found in handed:
                self.follow(target, position, found, {k: v for k, v in texts.items() if v})
        elif not isinstance(function, ast.Name):
            self.paths(function)
        return _NONE

    def texts_of(self, node: ast.expr) -> frozenset[str]:
        """The texts that an argument may be; none where it may be something else."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return frozenset({node.value})
        if isinstance(node, ast.Name) and node.id not in self.computed:
            return frozenset(self.constants.get(node.id, ()))
        return frozenset()

    def method_of_section(self, sections: Paths, name: str, node: ast.Call) -> Paths:
        for argument in (*node.args[1:], *(k.value for k in node.keywords)):
            self.paths(argument)
        if name in ("get", "pop", "setdefault") and node.args:
            return self.member(sections, node.args[0])
        if name == "copy":
            return sections
        if name in ("items", "values", "keys", "update", "clear"):
            for argument in node.args[:1]:
                self.paths(argument)
            if name != "update" and name != "clear":
                self.accepted.open |= sections
            return _NONE
        for argument in node.args[:1]:
            self.paths(argument)
        return _NONE  # methods of texts and lists: values, not sections

    def resolve(self, function: ast.expr) -> Any:
        """The object that a name stands for, where that is certain without running anything."""
        if isinstance(function, ast.Name):
            if function.id in self.env:
                return None
            return self.scope.get(function.id, getattr(builtins, function.id, None))
        if isinstance(function, ast.Attribute):
            owner = self.resolve(function.value)
            if isinstance(owner, (types.ModuleType, type)):
                return inspect.getattr_static(owner, function.attr, None)
        return None

    def follow(self, target: Any, position: int | str, sections: Paths, texts: dict[int | str, frozenset[str]]) -> None:
        """A section is an argument of a call, whose arguments that are texts are ``texts``."""
        if self.owner is not None and self.owner.collecting:
            return
        if isinstance(target, staticmethod):
            target = target.__func__
        if isinstance(target, types.FunctionType):
            target = inspect.unwrap(target)
        if target is not None and is_foreign(target):
            return
        mark = (target, position, sections, frozenset(texts.items()))
        if self.depth >= _MAX_DEPTH or not isinstance(target, (types.FunctionType, type)):
            self.accepted.open |= sections
            return
        if mark in self.seen:
            return
        self.seen.add(mark)
        if isinstance(target, type):
            if position == 0:
                _ClassReader(target, self.accepted, self.depth + 1, self.seen).read(sections, texts)
            else:
                self.accepted.open |= sections
            return
        tree = parsed(target)
        if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = _parameter(tree, position, 0)
            if name is not None:
                reader = _FunctionReader(
                    self.accepted, target.__globals__, {name: sections}, self.depth + 1, self.seen, None
                )
                told = {_parameter(tree, at, 0): set(values) for at, values in texts.items()}
                reader.constants = {key: values for key, values in told.items() if key is not None}
                reader.run(tree.body)
                return
        self.accepted.open |= sections


def _texts(node: ast.expr | None) -> set[str]:
    """The texts in a display such as ``('a', 'b')``, if it holds nothing else; or one text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        texts = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
        return set(texts) if texts and len(texts) == len(node.elts) else set()
    return set()
