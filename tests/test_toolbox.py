"""The door to BasicSR: registration, and what makes BasicSR 1.4.2 run on a current stack."""

import ast
import json
import subprocess
import sys
import types
from pathlib import Path

import lmdb
import pytest
import torchvision.transforms.functional as vision

import semiisp_plugin
from semiisp_plugin import toolbox
from semiisp_plugin.registry import Registry, register

ROOT = Path(semiisp_plugin.__file__).parent
REGISTRIES = (
    "ARCH_REGISTRY",
    "DATASET_REGISTRY",
    "FILTER_REGISTRY",
    "LOSS_REGISTRY",
    "METRIC_REGISTRY",
    "MODEL_REGISTRY",
    "SCORE_REGISTRY",
)
OURS = {
    "FILTER_REGISTRY": {"threshold", "quantile", "soft"},
    "ARCH_REGISTRY": {"PQDynamicISP", "Retinexformer", "SepLUT"},
    "DATASET_REGISTRY": {"PairedRestorationDataset", "SemiSupervisedDataset"},
    "LOSS_REGISTRY": {"PooledL1Loss", "SSIMLoss", "VGGPerceptualLoss"},
    "METRIC_REGISTRY": {"calculate_psnr_gt_mean", "calculate_ssim_gt_mean"},
    "MODEL_REGISTRY": {"ISPModel", "SemiSupervisedModel", "SupervisedModel"},
    "SCORE_REGISTRY": {"TargetStatistics"},
}


def decorated() -> dict[str, dict[str, str]]:
    """By registry: names that ``@register(...)`` stands above in the source, and their modules."""
    found: dict[str, dict[str, str]] = {name: {} for name in REGISTRIES}
    for path in ROOT.rglob("*.py"):
        module = ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register":
                    found[ast.unparse(decorator.args[0])][node.name] = module
    return found


@pytest.mark.parametrize("name", REGISTRIES)
def test_everything_decorated_is_registered(name):
    registry = getattr(toolbox, name)
    ours = decorated()[name]
    assert OURS[name] <= ours.keys()
    registered = {key: obj.__module__ for key, obj in registry if obj.__module__.startswith(ROOT.name)}
    assert registered == ours


# --- importing -------------------------------------------------------------------------------------------------------

FRESH = """
import importlib, json, sys
import semiisp_plugin
semiisp_plugin.register()
compiler = "torch._dynamo" in sys.modules
from semiisp_plugin import toolbox

def registered():
    return {name: {key: obj.__module__ for key, obj in getattr(toolbox, name) if obj.__module__.startswith("semiisp_")}
            for name in sys.argv[1].split(",")}

first = registered()
importlib.reload(semiisp_plugin)
homes = ("semiisp_plugin.toolbox", "semiisp_plugin.registry")  # of the registries themselves
modules = [m for n, m in sys.modules.items() if n.startswith("semiisp_plugin.") and n not in homes]
for module in modules:
    importlib.reload(module)
from semiisp_plugin.archs.seplut_arch import SepLUT
json.dump({
    "compiler": compiler,
    "first": first,
    "again": registered(),
    "latest": dict(iter(toolbox.ARCH_REGISTRY))["SepLUT"] is SepLUT,
    "builds": type(toolbox.build_network({"type": "SepLUT", "thumbnail": 32})) is SepLUT,
    "reloaded": len(modules),
}, sys.stdout)
"""


@pytest.mark.slow
def test_fresh_import_is_silent_and_reloading_registers_once():
    done = subprocess.run(
        [sys.executable, "-c", FRESH, ",".join(REGISTRIES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # nothing else was printed
    # BasicSR announces each network it builds; before that, no warning and no message.
    assert done.stderr.strip() in ("", "Network [SepLUT] is created.")
    assert not found["compiler"], "its import takes seconds, and few commands need it"
    assert found["first"] == found["again"] == decorated()
    assert found["latest"]
    assert found["builds"]
    assert found["reloaded"] > 20


def test_registering_again_replaces_and_keeps_one_name():
    registry = Registry("test")

    def define() -> type:
        @register(registry)
        class Thing:
            pass

        return Thing

    first = define()
    second = define()
    assert first is not second
    assert [(name, obj) for name, obj in registry] == [("Thing", second)]


def test_a_name_of_somebody_else_is_refused():
    registry = Registry("test")
    theirs = types.new_class("SepLUT")
    theirs.__module__ = "another_plugin.archs"
    register(registry)(theirs)
    ours = types.new_class("SepLUT")
    ours.__module__ = "semiisp_plugin.archs.seplut_arch"
    with pytest.raises(ValueError, match=r"'SepLUT' is already registered by another_plugin\.archs; rename .*seplut"):
        register(registry)(ours)
    assert registry.get("SepLUT") is theirs


def test_register_returns_what_it_was_given():
    registry = Registry("test")

    def metric() -> None:
        """A function can be registered, too."""

    assert register(registry)(metric) is metric
    assert registry.get("metric") is metric


# --- the fixes -------------------------------------------------------------------------------------------------------

STAND_IN = "torchvision.transforms.functional_tensor"


def test_stand_in_for_functional_tensor():
    # torchvision has had no such module since 0.17, and torch 2.4 goes with torchvision 0.19.
    assert sys.modules[STAND_IN].rgb_to_grayscale is vision.rgb_to_grayscale


def test_stand_in_is_made_only_where_there_is_none(monkeypatch):
    existing = types.ModuleType(STAND_IN)
    monkeypatch.setitem(sys.modules, STAND_IN, existing)
    toolbox._install_functional_tensor()
    assert sys.modules[STAND_IN] is existing
    monkeypatch.delitem(sys.modules, STAND_IN)
    toolbox._install_functional_tensor()
    made = sys.modules[STAND_IN]
    assert made is not existing
    assert callable(made.rgb_to_grayscale)


def test_lmdb_backend_of_basicsr_shares_our_environment(tmp_path):
    from semiisp_plugin.io.lmdb_io import close_all, read_value

    folder = tmp_path / "x.lmdb"
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a/1", b"value")
    try:
        clients = [toolbox.FileClient("lmdb", db_paths=[str(folder)], client_keys=["lq"]) for _ in range(2)]
        assert [c.get("a/1", "lq") for c in clients] == [b"value", b"value"]
        assert read_value(folder, "a/1") == b"value"
        with pytest.raises(KeyError, match="no key 'a/2'"):
            clients[0].get("a/2", "lq")
        with pytest.raises(ValueError, match="1 client keys for 2 LMDB folders"):
            toolbox.FileClient("lmdb", db_paths=["a.lmdb", "b.lmdb"], client_keys=["lq"])
    finally:
        close_all()


def test_location_of_basicsr_is_named_for_messages():
    assert Path(toolbox.basicsr_location()).name == "__init__.py"
    assert Path(toolbox.basicsr_location()).parent.name == "basicsr"
