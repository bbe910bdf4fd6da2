"""Tiny data that the tests make themselves, and where the real data is, if it is there."""

from __future__ import annotations

import getpass
import importlib.util
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings

import semiisp_plugin
from semiisp_plugin.io.image_io import to_uint8, to_uint16, write_image
from semiisp_plugin.io.lmdb_io import close_all
from semiisp_plugin.toolbox import initialized_logger

semiisp_plugin.register()  # tests look into the registries themselves, some while they are collected

# torch keeps what it compiles by the code alone, and not by the instructions that a processor (or ATEN_CPU_CAPABILITY)
# allows: what was compiled for others gives other numbers.
_KEPT = f"torchinductor_{getpass.getuser()}_{torch.backends.cpu.get_cpu_capability()}"
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), _KEPT)

# No test depends on the clock: machines are busy.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def _beside(name: str) -> ModuleType:
    """Import a module of this folder, which is not on the path of imports; tests can then import it by its name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_beside("helpers")
image_zoo = _beside("image_zoo")
dng_bytes = _beside("dng_writer").dng_bytes
make_broken_zoo, make_odd_photographs = image_zoo.make_broken_zoo, image_zoo.make_odd_photographs

CHOICES = {"device": ("cpu", "cuda"), "dtype": ("float32", "float64")}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("semiisp_plugin")
    for name, values in CHOICES.items():
        group.addoption(f"--{name}", choices=[*values, "all"], default="all", help="for tests that run on several")


def pytest_configure() -> None:
    """A shell that starts the suite in the background, or nohup, has it ignore signals, and all that tests start."""
    for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that the last ones to run, each in one process, are short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with an argument ``device`` or ``dtype`` run on each; on a GPU only where there is one, saying so.

    Not those that bring values of their own for that argument.
    """
    own = " ".join(str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none")
    for name, values in CHOICES.items():
        if name in metafunc.fixturenames and name not in own:
            chosen = [v for v in values if metafunc.config.getoption(name) in (v, "all")]
            parameters = [pytest.param(v, marks=(no_gpu, pytest.mark.gpu) if v == "cuda" else ()) for v in chosen]
            metafunc.parametrize(name, parameters, indirect=name == "dtype")


@pytest.fixture
def dtype(request) -> torch.dtype:
    """float32 and float64."""
    return getattr(torch, request.param)


def smooth_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A float HWC picture in [0, 1] with large and small structure."""
    coarse = torch.from_numpy(rng.uniform(0, 1, (1, 3, 5, 6)))
    fine = torch.from_numpy(rng.uniform(-0.1, 0.1, (1, 3, height, width)))
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False) + fine
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy().clip(0.02, 0.98))


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """What torch 2.4 compiles to machine code is linked with -ffast-math, which flushes denormals in the process."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Tiny tensors: threads cost more than they bring.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _closed_environments():
    yield
    close_all()


@pytest.fixture(autouse=True)
def _no_logger_of_another_test():
    """BasicSR gives its logger a handler once, for the terminal that there is then: of one test alone."""
    yield
    logging.getLogger("basicsr").handlers.clear()
    initialized_logger.clear()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """``pairs/{input,target}`` (16-bit dark inputs), ``test/{input,target}``, ``photos`` (one of them damaged)."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for part, count in (("pairs", 6), ("test", 2)):
        for i in range(count):
            target = smooth_image(rng, 48, 64)
            dark = (0.5 * target) ** 2.2
            for kind, picture in (("input", to_uint16(dark)), ("target", to_uint8(target))):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
                write_image(root / part / kind / f"{i:02d}.png", picture)
    for i in range(4):
        (root / "photos" / "a b").mkdir(parents=True, exist_ok=True)
        write_image(root / "photos" / "a b" / f"{i}.jpg", to_uint8(smooth_image(rng, 50 + i, 70)))
    (root / "photos" / "broken.jpg").write_bytes((root / "photos" / "a b" / "0.jpg").read_bytes()[:400])
    return root


@pytest.fixture(scope="session")
def broken_zoo(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder of 100 image files that cannot be read, and what is wrong with each. Do not copy or change it."""
    if os.name != "posix":
        pytest.skip("needs named pipes, sockets and file names of any bytes")
    folder = tmp_path_factory.mktemp("broken zoo")
    return folder, make_broken_zoo(folder)


@pytest.fixture(scope="session")
def odd_photographs(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A folder of unusual photographs, and what each must be read as (`image_zoo.Odd`)."""
    folder = tmp_path_factory.mktemp("odd")
    return folder, make_odd_photographs(folder)


@pytest.fixture
def write_dng() -> Callable[..., Path]:
    """Write a DNG file: ``write_dng(path, mosaic, **options)``."""

    def write(path: Path, mosaic: np.ndarray, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dng_bytes(mosaic, **options))
        return path

    return write


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty folder as the working directory; logs and runs go there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class OptionFiles:
    """Writes the option files of all phases for `tiny_data`; keyword arguments change top-level sections."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data = data
        self.folder = folder

    def write(self, name: str, options: dict) -> str:
        path = self.folder / f"{name}.yml"
        path.write_text(yaml.safe_dump(options, sort_keys=False))
        return str(path)

    def pairs(self, part: str, **more) -> dict:
        return {
            "name": part,
            "type": "PairedRestorationDataset",
            "dataroot_lq": str(self.data / part / "input"),
            "dataroot_gt": str(self.data / part / "target"),
            "io_backend": {"type": "disk"},
            **more,
        }

    def base(self, name: str, model: str, total: int) -> dict:
        return {
            "name": name,
            "model_type": model,
            "scale": 1,
            "num_gpu": 0,
            "manual_seed": 3,
            "datasets": {
                "train": self.pairs("pairs", gt_size=[32, 40], use_hflip=True, batch_size_per_gpu=2),
                "val": self.pairs("test"),
            },
            "network_g": {"type": "SepLUT", "n_vertices_3d": 5, "n_vertices_1d": 5, "thumbnail": 32, "dropout": 0.1},
            "path": {},
            "train": {
                "total_iter": total,
                "optim_g": {"type": "AdamW", "lr": 1e-3},
                "scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 0.001},
                "pixel_opt": {"type": "MSELoss"},
            },
            "val": {
                "val_freq": 2,
                "save_img": False,
                "metrics": {
                    "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False},
                    "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
                    "psnr_gt_mean": {"type": "calculate_psnr_gt_mean"},
                },
            },
            "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": True, "image_freq": 1},
        }

    def isp(self, total: int = 2, image_enhancement: bool = False) -> str:
        options = self.base("isp", "ISPModel", total)
        network = {"type": "PQDynamicISP", "inverse_tone_mapping": image_enhancement, "thumbnail": 32}
        options["network_g"] = {**network, "grid": [2, 2]}
        options["network_global"] = {**network, "grid": [1, 1]}
        options["train"]["bank_size"] = 3
        options["train"]["pixel_opt"] = {"type": "PooledL1Loss", "kernel_sizes": [4, 8]}
        return self.write("isp", options)

    def pseudo(self, **changes) -> str:
        options = {
            "name": "pseudo",
            "photographs": str(self.data / "photos"),
            "f_isp": "experiments/isp/models/f_isp_latest.pth",
            "out": "pseudo",
            "num_gpu": 0,
            **changes,
        }
        return self.write("pseudo", options)

    def semi(self, total: int = 2, **network) -> str:
        options = self.base("semi", "SemiSupervisedModel", total)
        options["datasets"]["train"] = self.pairs(
            "pairs",
            gt_size=[32, 40],
            use_hflip=True,
            real_per_batch=1,
            pseudo_per_batch=3,
            pseudo={
                "dataroot_gt": "pseudo/gt.lmdb",
                "dataroot_lq": "pseudo/lq.lmdb",
                "io_backend": {"type": "lmdb"},
            },
        )
        options["datasets"]["train"]["type"] = "SemiSupervisedDataset"
        options["train"]["filter"] = {"beta": 1.0}
        options["train"]["noise"] = {"shot_variance": 0.01, "read_variance": 0.0002}
        options["train"]["ssim_opt"] = {"type": "SSIMLoss"}
        options["train"]["ema_decay"] = 0.9
        if network:
            options["network_g"] = network
        return self.write("semi", options)

    def finetune(self, total: int = 2) -> str:
        options = self.base("finetune", "SupervisedModel", total)
        options["path"]["pretrain_network_g"] = "experiments/semi/models/net_g_latest.pth"
        return self.write("finetune", options)

    def test(self) -> str:
        options = self.base("test", "SupervisedModel", 1)
        del options["train"], options["logger"]
        options["datasets"] = {"test_1": self.pairs("test")}
        options["path"]["pretrain_network_g"] = "experiments/finetune/models/net_g_latest.pth"
        options["val"]["save_img"] = True
        del options["val"]["val_freq"]
        return self.write("test", options)


@pytest.fixture
def option_files(tiny_data, workspace) -> OptionFiles:
    """See `OptionFiles`."""
    return OptionFiles(tiny_data, workspace)


@pytest.fixture(scope="session")
def option_files_in(tiny_data) -> Callable[[Path], OptionFiles]:
    """`OptionFiles` that writes to a given folder."""
    return lambda folder: OptionFiles(tiny_data, folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images; a test that asks for it is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real images of {os.path.relpath(SHARED)}")
    return SHARED
