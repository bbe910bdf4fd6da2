"""Code from outside: a network that the plugin does not know, by an option file, an argument and an entry point."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from semiisp_plugin import plugins
from semiisp_plugin.apps.denoise.options import DenoiseOptions
from semiisp_plugin.experiments.benchmark_options import BenchmarkOptions
from semiisp_plugin.experiments.jobs import _pool
from semiisp_plugin.experiments.recipe_options import RecipeOptions
from semiisp_plugin.options import OptionError, read_options
from semiisp_plugin.options.structures import Options, PseudoOptions
from semiisp_plugin.toolbox import build_network
from semiisp_plugin.training.loaders import Loader, seed_worker

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODULE = "own_package.curve_arch"

# One interpreter for all commands: importing takes longer than they do.
COMMANDS = """
import contextlib, io, json, sys
sys.path.remove("")  # the installed command does not look into the current folder
import torch
torch.set_num_threads(1)
from semiisp_plugin.cli import main
from semiisp_plugin.toolbox import ARCH_REGISTRY

found = []
for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        found.append([main(argv), said.getvalue()])
    if argv[0] != "enhance":  # as in a new process
        ARCH_REGISTRY._obj_map.pop("CurveNet", None)
        sys.modules.pop("own_package.curve_arch", None)
print("found:" + json.dumps(found))
"""


@pytest.fixture
def package(workspace, tiny_data) -> Path:
    """The example in a folder that is the current one, with data where its option files look for them."""
    shutil.copytree(EXAMPLES / "own_network", workspace, dirs_exist_ok=True)
    for part, source in (("train", "pairs"), ("test", "test")):
        shutil.copytree(tiny_data / source, workspace / "datasets" / part)
    return workspace


@pytest.fixture
def named(package, monkeypatch):
    """The example's module imported by name, and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setattr(plugins, "_named", [])
    plugins.register([MODULE])
    yield package
    forget()


def forget() -> None:
    """The example's module, as if it had not been imported."""
    from semiisp_plugin.toolbox import ARCH_REGISTRY

    ARCH_REGISTRY._obj_map.pop("CurveNet", None)
    for name in [n for n in sys.modules if n.partition(".")[0] == "own_package"]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", [Options, PseudoOptions, BenchmarkOptions, RecipeOptions, DenoiseOptions])
def test_every_kind_of_option_file_takes_it(kind):
    assert "imports" in kind.__struct_fields__


@pytest.mark.slow
def test_train_test_and_enhance(package):
    small = ["train:total_iter=2", "val:val_freq=2", "datasets:train:gt_size=32", "num_gpu=0"]
    weights = "experiments/own_network/models/net_g_latest.pth"
    by_weights = ["enhance", "datasets/test/input", "--weights", weights, "--device", "cpu", "--out"]
    commands = [
        ["train", "-opt", "train.yml", "--force_yml", *small],
        ["test", "-opt", "test.yml", "--force_yml", "num_gpu=0"],
        [*by_weights, "refused"],
        [*by_weights, "named", "--import", MODULE],
        ["enhance", "datasets/test/input", "-opt", "train.yml", "--device", "cpu", "--out", "by_options"],
        ["train", "-opt", "train.yml", "--force_yml", "imports=[own_package.nosuch]"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.rpartition("found:")[2])
    assert [status for status, _ in found] == [0, 0, 1, 0, 0, 1]
    assert "no network 'CurveNet' is registered" in found[2][1]
    assert "--import my_package.my_module" in found[2][1]
    assert "the module 'own_package.nosuch' cannot be imported: ModuleNotFoundError" in found[5][1]
    assert len(list(package.glob("results/own_network/visualization/*/*.png"))) == 2
    assert len(list(package.glob("named/*.png"))) == len(list(package.glob("by_options/*.png"))) == 2


@pytest.mark.slow
def test_a_benchmark_s_workers_know_it(named):
    """The network that one builds comes back."""
    with _pool(1) as pool:
        network = pool.submit(build_network, {"type": "CurveNet", "features": 4}).result()
    assert type(network).__name__ == "CurveNet"


class Building(torch.utils.data.Dataset):
    """Builds where it is read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return sum(p.numel() for p in build_network({"type": "CurveNet", "features": 4}).parameters())


def test_loader_workers_know_it(named):
    initialise = partial(seed_worker, imports=plugins.named())
    loader = Loader(Building(), num_workers=1, worker_init_fn=initialise, multiprocessing_context="fork")
    assert [int(count) for count in loader] == [Building()[0]]


@pytest.mark.slow
def test_a_builder_s_workers_unpickle_it(named):
    from semiisp_plugin.pseudo.workers import start_context

    with start_context().Pool(1) as pool:
        assert pool.apply(type, (build_network({"type": "CurveNet", "features": 4}),)).__name__ == "CurveNet"


def test_an_installed_package_is_imported(package, monkeypatch):
    """Its metadata as ``pip install`` would write them."""
    from semiisp_plugin.toolbox import ARCH_REGISTRY

    info = package / "own_package-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own_package\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\ncurve_net = {MODULE}\n")
    monkeypatch.syspath_prepend(str(package))
    assert "CurveNet" not in ARCH_REGISTRY
    plugins._installed.cache_clear()  # as in a new process
    try:
        plugins.register()
        assert "CurveNet" in ARCH_REGISTRY
    finally:
        plugins._installed.cache_clear()
        forget()


def test_what_cannot_be_imported_is_said(workspace):
    (workspace / "broken_arch.py").write_text("raise RuntimeError('not today')\n")
    with pytest.raises(ValueError, match="the module 'broken_arch' cannot be imported: RuntimeError: not today"):
        plugins.register(["broken_arch"])
    (workspace / "x.yml").write_text("name: x\nimports: [broken_arch]\n")
    with pytest.raises(OptionError, match=r"x\.yml:2: imports: the module 'broken_arch' cannot be imported"):
        read_options("x.yml")


def test_the_registry_says_how():
    with pytest.raises(KeyError, match=r"No object named 'Nosuch' .* --import my_package\.my_module"):
        build_network({"type": "Nosuch"})


@pytest.mark.slow
def test_basicsr_script(package):
    """BasicSR's own pipeline with the plugin's network, loss and metric."""
    small = ["train:total_iter=2", "val:val_freq=2", "num_gpu=0", "datasets:train:gt_size=32"]
    small += ["datasets:train:batch_size_per_gpu=2", "datasets:train:num_worker_per_gpu=0"]
    command = [EXAMPLES / "basicsr_script.py", "-opt", EXAMPLES / "basicsr_script.yml", "--force_yml", *small]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    saved = torch.load("experiments/basicsr_script/models/net_g_latest.pth", weights_only=True)
    assert saved.keys() == {"params", "params_ema"}
