"""The rules of who may import whom, read off the source."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import semiisp_plugin
from semiisp_plugin.arguments import COMMANDS

PACKAGE = "semiisp_plugin"
ROOT = Path(semiisp_plugin.__file__).parent

# From below to above. What stands in one line does not import its neighbours, and nothing imports what is above it.
LAYERS = (
    ("_version",),
    ("arguments", "plugins", "registry", "isp", "io"),
    ("toolbox",),
    ("options",),
    ("archs", "data", "losses", "metrics"),
    ("report",),
    ("pseudo", "simulation"),
    ("models",),
    ("training",),
    ("apps",),
    ("experiments",),
    ("cli",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


class Import(NamedTuple):
    file: str
    line: int
    importer: str
    imported: str
    when_called: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.imported}"


def part_of(module: str) -> str:
    """``semiisp_plugin.data.pairs`` -> ``data``."""
    return module.split(".")[1]


def module_name(path: Path) -> str:
    parts = (PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(ROOT.rglob("*.py"))
MODULES = {module_name(path) for path in FILES}


def imports_of(path: Path) -> list[Import]:
    found: list[Import] = []
    name = module_name(path)

    def visit(node: ast.AST, called: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = called or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: a relative import"
                # `from package import name` imports a module where the name is one's.
                targets = [f"{child.module}.{a.name}" for a in child.names]
                targets = [t if t in MODULES else child.module for t in targets]
            else:
                targets = []
            found.extend(Import(str(path.relative_to(ROOT.parent)), child.lineno, name, t, inside) for t in targets)
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


IMPORTS = [i for path in FILES for i in imports_of(path)]


def test_imports_are_found():
    """The other tests say nothing if this file reads the source wrongly."""
    assert len(FILES) > 40
    seen = {(i.importer, i.imported) for i in IMPORTS}
    assert (f"{PACKAGE}.toolbox", "basicsr") in seen
    assert (f"{PACKAGE}.cli", f"{PACKAGE}.options") in seen
    assert (f"{PACKAGE}.archs.pqdynamicisp_arch", "torch.nn.functional") in seen
    lazy = next(i for i in IMPORTS if i.importer == f"{PACKAGE}.toolbox" and i.imported == f"{PACKAGE}.io.lmdb_io")
    assert lazy.when_called


def test_every_part_has_a_layer():
    parts = {p.stem if p.suffix == ".py" else p.name for p in ROOT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert parts - {"__init__", "__pycache__"} == RANK.keys()


def test_toolbox_is_the_only_door_to_basicsr():
    strangers = [
        str(i) for i in IMPORTS if i.imported.split(".")[0] == "basicsr" and i.importer != f"{PACKAGE}.toolbox"
    ]
    assert not strangers


def test_basicsr_is_not_imported_by_name():
    """Neither by importlib nor through sys.modules."""
    for path in FILES:
        if path.name == "toolbox.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                function = ast.unparse(node.func)
                imports = function in ("__import__", "import_module", "importlib.import_module")
                assert not (imports and "basicsr" in ast.unparse(node)), f"{path}:{node.lineno}"
            if isinstance(node, ast.Subscript):
                assert "sys.modules" not in ast.unparse(node.value), f"{path}:{node.lineno}"


# Where the mathematics is done by others: arrays for the compiled path, SciPy and CuPy for the paper's table.
BESIDE_TORCH = {
    "isp.parameter_maps": {"numpy"},
    "isp.compiled": {"numpy"},
    "isp.numba_kernels": {"numpy", "numba"},
    "isp.paper_lut": {"numpy", "scipy", "cupy", "cupyx"},
}


def test_isp_is_mathematics_alone():
    strangers = [
        str(i)
        for i in IMPORTS
        if i.importer.startswith(f"{PACKAGE}.isp")
        and i.imported.split(".")[0] not in {"torch", *sys.stdlib_module_names}
        and i.imported.split(".")[0] not in BESIDE_TORCH.get(i.importer.removeprefix(f"{PACKAGE}."), ())
        and not i.imported.startswith(f"{PACKAGE}.isp")
    ]
    assert not strangers


def test_what_need_not_be_installed_is_imported_when_called():
    optional = [i for i in IMPORTS if i.imported.split(".")[0] in ("cupy", "cupyx", "rawpy", "lpips", "gradio")]
    assert optional
    assert all(i.when_called for i in optional)
    kernels = [i for i in IMPORTS if i.imported == f"{PACKAGE}.isp.numba_kernels"]
    assert kernels
    assert all(i.when_called for i in kernels)


def test_imports_point_downwards():
    wrong = []
    for i in IMPORTS:
        if not i.imported.startswith(f"{PACKAGE}.") or i.importer == PACKAGE:
            continue
        above, below = part_of(i.importer), part_of(i.imported)
        downwards = above == below or RANK[below] < RANK[above]
        if not downwards:
            wrong.append(str(i))
    assert not wrong


def test_modules_do_not_import_each_other_in_a_circle():
    """Imports within functions count: a circle is one tangle, whenever it is closed."""
    edges: dict[str, set[str]] = {module: set() for module in MODULES}
    for i in IMPORTS:
        if i.imported in MODULES and i.importer != PACKAGE:
            edges[i.importer].add(i.imported)
    # Take away, again and again, the modules that import nothing of what is left.
    left = dict(edges)
    while done := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in done}
    assert not left


def test_nothing_imports_the_package_itself():
    """It offers what lies deepest and what lies highest, so that its importers may import everything."""
    assert not [str(i) for i in IMPORTS if i.imported == PACKAGE]


# --- what is imported when --------------------------------------------------------------------------------------------

HEAVY = ("torch", "torchvision", "basicsr", "numpy", "scipy", "cv2", "skimage", "PIL", "msgspec")


def loaded_by(code: str) -> set[str]:
    """The packages that a fresh interpreter has imported after some code."""
    code += "\nimport sys; print('loaded:', *{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_imports_nothing_else():
    state = "(gc.isenabled(), gc.get_freeze_count(), atexit._ncallbacks(), sys.path[:])"
    code = f"import atexit, gc, sys; before = {state}; import semiisp_plugin; assert {state} == before"
    assert not loaded_by(code) & set(HEAVY)


@pytest.mark.slow
def test_the_mathematics_needs_torch_alone():
    loaded = loaded_by("import semiisp_plugin.isp; from semiisp_plugin import InvertibleISP")
    assert "torch" in loaded
    assert not loaded & {"basicsr", "torchvision", "scipy", "cv2", "skimage", "PIL", "msgspec"}


@pytest.mark.slow
def test_networks_losses_filters_and_generator_do_not_need_basicsr():
    names = "PQDynamicISP, PseudoFilter, PseudoPairGenerator, MixedBatchSampler, load_f_isp, per_sample"
    assert "basicsr" not in loaded_by(f"from semiisp_plugin import {names}")


@pytest.mark.parametrize(
    "argv",
    [[], ["--help"], ["--version"], ["trian"], ["train", "-opt", "nosuch.yml"], ["enhance", "x.png"]]
    + [[command, "--help"] for command in COMMANDS],
    ids=" ".join,
)
def test_what_the_command_answers_at_once(argv):
    code = f"from semiisp_plugin.cli import main\ntry: main({argv!r})\nexcept SystemExit: pass"
    assert not loaded_by(code) & set(HEAVY) - {"msgspec"}  # of the options, where a file is missing
