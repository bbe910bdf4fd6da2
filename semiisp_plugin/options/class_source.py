"""The source of classes and functions, as syntax trees; read, never run."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from typing import Any

Path = tuple[str, ...]

# What is in these packages reads no options; calls of theirs with a section are harmless.
_FOREIGN = {"torch", "torchvision", "numpy", "cv2", "PIL", "tqdm", "scipy", "skimage"}
COPIES = {"deepcopy", "copy", "dict", "OrderedDict", "MappingProxyType"}


def parsed(thing: Any) -> ast.AST | None:
    """The tree of a class or function; None where its source cannot be found."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None


def is_foreign(thing: Any) -> bool:
    """Whether something is of the standard library or of a package that reads no options."""
    root = str(getattr(thing, "__module__", "") or "").split(".")[0]
    return root in _FOREIGN or root in sys.stdlib_module_names or root == "builtins"


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, skip: int) -> list[str]:
    """Names of the positional parameters after the first ``skip``."""
    return [a.arg for a in (*function.args.posonlyargs, *function.args.args)][skip:]


def is_self(node: ast.expr) -> bool:
    """Whether an expression is ``self``."""
    return isinstance(node, ast.Name) and node.id == "self"


def is_super(node: ast.expr) -> bool:
    """Whether an expression is ``super()``, with or without arguments."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
