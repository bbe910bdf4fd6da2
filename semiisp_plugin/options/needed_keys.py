"""Which options a class cannot do without, found in its source.

Followed is the constructor, from statement to statement and into the methods it calls, as far as nothing depends on a
condition: what is read there as ``opt['key']`` raises a `KeyError` if it is missing.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

from semiisp_plugin.options.class_source import COPIES, Path, is_foreign, is_self, is_super, parameters_of, parsed


@lru_cache(maxsize=512)
def needed_keys(cls: type, is_train: bool) -> frozenset[Path]:
    """Keys without which the constructor raises a `KeyError`: read without a default and without a condition.

    Args:
        cls: As for `accepted_keys`.
        is_train: What ``self.is_train`` and ``opt['is_train']`` are.
    """
    return frozenset(_NeedReader(cls, is_train).read())


class _NeedReader:
    """Follows the constructor from statement to statement, as far as nothing depends on a condition."""

    def __init__(self, cls: type, is_train: bool) -> None:
        self.is_train = is_train
        self.needed: set[Path] = set()
        self.given: set[Path] = set()
        self.attributes: dict[str, Path] = {}
        self.running: list[ast.AST] = []
        self.chains: dict[str, list[ast.FunctionDef]] = defaultdict(list)
        for base in cls.__mro__:
            tree = None if is_foreign(base) else parsed(base)
            for node in tree.body if isinstance(tree, ast.ClassDef) else ():
                if isinstance(node, ast.FunctionDef):
                    self.chains[node.name].append(node)

    def read(self) -> set[Path]:
        if not self.chains["__init__"]:
            return set()
        constructor = self.chains["__init__"][0]
        parameters = parameters_of(constructor, 1)
        if parameters:
            self.function(constructor, {parameters[0]: ()})
        return self.needed

    def function(self, node: ast.FunctionDef, env: dict[str, Path]) -> None:
        if node not in self.running:
            self.running.append(node)
            self.block(node.body, env, node)
            self.running.pop()

    def block(self, body: list[ast.stmt], env: dict[str, Path], owner: ast.FunctionDef) -> bool:
        """Whether the statements after the block are reached in any case."""
        for statement in body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                value = self.value(statement.value, env, owner) if statement.value is not None else None
                for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                    self.assign(target, value, env, owner)
            elif isinstance(statement, (ast.Expr, ast.AugAssign)):
                self.value(statement.value, env, owner)
            elif isinstance(statement, (ast.With, ast.AsyncWith)):
                for item in statement.items:
                    self.value(item.context_expr, env, owner)
                if not self.block(statement.body, env, owner):
                    return False
            elif isinstance(statement, ast.Assert):
                self.value(statement.test, env, owner)
            elif isinstance(statement, ast.If):
                self.value(statement.test, env, owner)
                known = self.truth(statement.test, env)
                if known is not None:
                    if not self.block(statement.body if known else statement.orelse, env, owner):
                        return False
                elif self.uncertain(statement, env):
                    return False
            elif isinstance(statement, (ast.For, ast.While, ast.Try)):
                if isinstance(statement, ast.For):
                    self.value(statement.iter, env, owner)
                if self.uncertain(statement, env):
                    return False
            elif isinstance(statement, (ast.Return, ast.Raise)):
                if isinstance(statement, ast.Return) and statement.value is not None:
                    self.value(statement.value, env, owner)
                return False
        return True

    def uncertain(self, statement: ast.stmt, env: dict[str, Path]) -> bool:
        """Forget what a statement that may not be run could change; whether it may leave the function."""
        leaves = False
        for node in ast.walk(statement):
            leaves |= isinstance(node, ast.Return)  # what raises is an error in any case
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                env.pop(node.id, None)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
                self.attributes.pop(node.attr, None)
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                base = self.plain(node.value, env)
                if base is not None and isinstance(node.slice, ast.Constant):
                    self.given.add((*base, str(node.slice.value)))
        return leaves

    def truth(self, test: ast.expr, env: dict[str, Path]) -> bool | None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.truth(test.operand, env)
            return None if inner is None else not inner
        is_flag = isinstance(test, ast.Attribute) and is_self(test.value) and test.attr == "is_train"
        return self.is_train if is_flag or self.plain(test, env) == ("is_train",) else None

    def plain(self, node: ast.expr, env: dict[str, Path]) -> Path | None:
        """The section or value that an expression stands for, without noting anything."""
        if isinstance(node, ast.Name):
            return env.get(node.id)
        if isinstance(node, ast.Attribute) and is_self(node.value):
            return self.attributes.get(node.attr)
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            base = self.plain(node.value, env)
            return None if base is None else (*base, node.slice.value)
        return None

    def assign(self, target: ast.expr, value: Path | None, env: dict[str, Path], owner: ast.FunctionDef) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self.assign(part, None, env, owner)
        elif isinstance(target, ast.Name):
            env.pop(target.id, None)
            if value is not None:
                env[target.id] = value
        elif isinstance(target, ast.Attribute) and is_self(target.value):
            self.attributes.pop(target.attr, None)
            if value is not None:
                self.attributes[target.attr] = value
        elif isinstance(target, ast.Subscript):
            self.value(target.value, env, owner)
            written = self.plain(target, env)
            if written is not None:
                self.given.add(written)

    def need(self, path: Path) -> None:
        if not any(path[:n] in self.given for n in range(1, len(path) + 1)):
            self.needed.add(path)

    def value(self, node: ast.expr, env: dict[str, Path], owner: ast.FunctionDef) -> Path | None:
        """Note what evaluating the expression reads in any case; what of the options it is."""
        if isinstance(node, (ast.Name, ast.Attribute)):
            if isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Name):
                self.value(node.value, env, owner)
            return self.plain(node, env)
        if isinstance(node, ast.Subscript):
            self.value(node.value, env, owner)
            found = self.plain(node, env)
            if found is not None:
                self.need(found)
            else:
                self.value(node.slice, env, owner)
            return found
        if isinstance(node, ast.BoolOp):
            self.value(node.values[0], env, owner)
            return None
        if isinstance(node, ast.IfExp):
            self.value(node.test, env, owner)
            return None
        if isinstance(node, ast.Call):
            return self.call(node, env, owner)
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            if not isinstance(node, ast.Lambda):
                self.value(node.generators[0].iter, env, owner)
            return None
        if isinstance(node, ast.Compare):
            self.value(node.left, env, owner)
            self.value(node.comparators[0], env, owner)
            return None
        for child in _expressions(node):
            self.value(child, env, owner)
        return None

    def call(self, node: ast.Call, env: dict[str, Path], owner: ast.FunctionDef) -> Path | None:
        function = node.func
        positional = [self.value(a, env, owner) for a in node.args]
        named = {k.arg: self.value(k.value, env, owner) for k in node.keywords}
        if isinstance(function, ast.Name):
            return positional[0] if function.id in COPIES and len(positional) == 1 else None
        if not isinstance(function, ast.Attribute):
            self.value(function, env, owner)
            return None
        if is_self(function.value) or is_super(function.value):
            chain = self.chains.get(function.attr, [])
            if is_super(function.value):
                chain = chain[chain.index(owner) + 1 :] if owner in chain else []
            if chain:
                names = parameters_of(chain[0], 1)
                inner = {n: p for n, p in zip(names, positional, strict=False) if p is not None}
                inner.update({n: p for n, p in named.items() if n in names and p is not None})
                self.function(chain[0], inner)
            return None
        section = self.value(function.value, env, owner)
        if section is None or not node.args or not isinstance(node.args[0], ast.Constant):
            return None
        key = str(node.args[0].value)
        if function.attr == "setdefault":
            self.given.add((*section, key))
        elif function.attr == "pop" and len(node.args) == 1:
            self.need((*section, key))
        return None


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif not isinstance(child, (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)):
            yield from _expressions(child)
