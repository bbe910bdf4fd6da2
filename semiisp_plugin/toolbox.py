"""The only door to BasicSR: compatibility fixes and the names the plugin uses.

PyPI's ``basicsr==1.4.2`` (2022) predates the current torchvision, lmdb and torch. Everything it needs to run on them
is done here, once, before the first import of it, and is listed below; no other module of the plugin imports
``basicsr``.

==============================  ======================================================================================
what breaks                     what is done
==============================  ======================================================================================
torchvision >= 0.17 has no      a module of that name with ``rgb_to_grayscale`` (all that BasicSR takes from it) is put
``transforms.functional_tensor``  into ``sys.modules``
lmdb >= 3 refuses to open the   BasicSR's ``LmdbBackend`` gets its environments from one cache per process (see
same environment twice          ``semiisp_plugin.io.lmdb_io``), also after a fork
torchvision's ``vgg16(          ``pretrained=`` is translated to ``weights=`` where BasicSR's VGG asks for it
pretrained=...)`` is on its way
out
resuming assumes CUDA, and looks  `run_basicsr` puts functions of its own in the place of those that read options and
for states below the working    states
directory; YAML can run code
==============================  ======================================================================================
"""

from __future__ import annotations

import functools
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from semiisp_plugin import plugins, registry
from semiisp_plugin.registry import FILTER_REGISTRY, register

F = TypeVar("F", bound=Callable[..., Any])


def _install_functional_tensor() -> None:
    """Give BasicSR the torchvision module it imports and torchvision >= 0.17 no longer has (BasicSR#663)."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules:
        return
    try:
        __import__(name)
    except ModuleNotFoundError:
        from torchvision.transforms.functional import rgb_to_grayscale

        module = types.ModuleType(name, "Stand-in for BasicSR 1.4.2; see semiisp_plugin.toolbox.")
        module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]  # a module made on the fly
        sys.modules[name] = module


_install_functional_tensor()

with warnings.catch_warnings():
    # scipy.ndimage.filters and friends: BasicSR's own deprecations, nothing a user of the plugin can act on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import basicsr
    import basicsr.archs.vgg_arch as _vgg_arch
    import basicsr.test
    import basicsr.train
    from basicsr.archs import build_network as _build_network
    from basicsr.data import build_dataset as _build_dataset
    from basicsr.losses import build_loss as _build_loss
    from basicsr.metrics import calculate_metric as _calculate_metric
    from basicsr.metrics import calculate_psnr, calculate_ssim
    from basicsr.models import build_model as _build_model
    from basicsr.models import lr_scheduler as lr_schedulers
    from basicsr.models.base_model import BaseModel
    from basicsr.models.sr_model import SRModel
    from basicsr.utils import (
        FileClient,
        MessageLogger,
        check_resume,
        get_env_info,
        get_root_logger,
        get_time_str,
        imwrite,
        init_wandb_logger,
        set_random_seed,
        tensor2img,
    )
    from basicsr.utils.dist_util import get_dist_info, init_dist, master_only
    from basicsr.utils.file_client import LmdbBackend
    from basicsr.utils.logger import initialized_logger
    from basicsr.utils.options import dict2str
    from basicsr.utils.registry import (
        ARCH_REGISTRY,
        DATASET_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
        MODEL_REGISTRY,
    )

registry.ARCH_REGISTRY.join(ARCH_REGISTRY)
registry.LOSS_REGISTRY.join(LOSS_REGISTRY)

__all__ = [
    "ARCH_REGISTRY",
    "DATASET_REGISTRY",
    "FILTER_REGISTRY",
    "LOSS_REGISTRY",
    "METRIC_REGISTRY",
    "MODEL_REGISTRY",
    "BaseModel",
    "FileClient",
    "MessageLogger",
    "SRModel",
    "basicsr_location",
    "build_dataset",
    "build_loss",
    "build_model",
    "build_network",
    "calculate_metric",
    "calculate_psnr",
    "calculate_ssim",
    "dict2str",
    "get_dist_info",
    "get_env_info",
    "get_root_logger",
    "get_time_str",
    "imwrite",
    "init_wandb_logger",
    "initialized_logger",
    "lr_schedulers",
    "master_only",
    "register",
    "run_basicsr",
    "tensor2img",
]


def basicsr_location() -> str:
    """Path of the ``basicsr`` that was imported, for messages: a vendored copy often shadows the installed one."""
    return str(basicsr.__file__)


_UNKNOWN = re.compile(r"No object named '.*' found in '.*' registry!")


def _registering_first(function: F) -> F:
    """Before something is looked up by its name, all that can be named is registered; what is not, says how."""

    @functools.wraps(function, assigned=("__name__", "__qualname__", "__doc__"))
    def call(*args: Any, **kwargs: Any) -> Any:
        plugins.register()
        try:
            return function(*args, **kwargs)
        except KeyError as error:
            if not _UNKNOWN.match(str(error.args[0] if error.args else "")):
                raise
            raise KeyError(f"{error.args[0]} {plugins.HOW}") from None

    return cast(F, call)


build_dataset = _registering_first(_build_dataset)
build_loss = _registering_first(_build_loss)
build_model = _registering_first(_build_model)
build_network = _registering_first(_build_network)
calculate_metric = _registering_first(_calculate_metric)


class _TorchvisionVGG:
    """``torchvision.models.vgg`` for BasicSR's VGG, with ``pretrained=`` translated to ``weights=``."""

    def __getattr__(self, name: str) -> Any:
        from torchvision.models import vgg

        attribute = getattr(vgg, name)
        if not name.startswith("vgg"):
            return attribute

        def build(pretrained: bool = False, **kwargs: Any) -> Any:
            return attribute(weights="IMAGENET1K_V1" if pretrained else None, **kwargs)

        return build


class _SharedLmdbBackend(LmdbBackend):  # type: ignore[misc]  # BasicSR is untyped
    """BasicSR's LMDB backend on top of one environment a process and path (py-lmdb#129: never open one twice)."""

    def __init__(self, db_paths: str | list[str], client_keys: str | list[str] = "default", **_: Any) -> None:
        self.db_paths = [str(p) for p in ([db_paths] if isinstance(db_paths, str) else db_paths)]
        keys = [client_keys] if isinstance(client_keys, str) else list(client_keys)
        if len(keys) != len(self.db_paths):
            raise ValueError(f"{len(keys)} client keys for {len(self.db_paths)} LMDB folders: give one key a folder.")
        self._paths = dict(zip(keys, self.db_paths, strict=True))

    def get(self, filepath: str, client_key: str) -> bytes:
        from semiisp_plugin.io.lmdb_io import read_value

        return read_value(self._paths[client_key], str(filepath))


_vgg_arch.vgg = _TorchvisionVGG()
FileClient._backends["lmdb"] = _SharedLmdbBackend


# --- BasicSR's own models, in BasicSR's own pipeline ------------------------------------------------------------------


def run_basicsr(
    command: str,
    root_path: str,
    values: dict[str, Any],
    option_file: str,
    *,
    launcher: str = "none",
    auto_resume: bool = False,
    debug: bool = False,
) -> None:
    """Train or test with ``basicsr.train.train_pipeline`` or ``basicsr.test.test_pipeline``, as BasicSR does it.

    Different are: the options, which were read by the safe reader of `semiisp_plugin.options`; a state to resume is
    read on a CPU, without running code in it, and looked for where the run writes.

    Args:
        command: ``train`` or ``test``.
        root_path: Folder that gets ``experiments/``, ``tb_logger/`` and ``results/``.
        values: The options as `semiisp_plugin.options.read_options` returns them; they are completed in place.
        option_file: Copied into the run's folder.
        launcher: ``none``, ``pytorch`` or ``slurm``; the others need GPUs.
        auto_resume: Resume from the newest state in the run's folder.
        debug: BasicSR's debug mode.
    """

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], Any]:
        opt = complete_as_basicsr(values, root_path, is_train, launcher, debug)
        opt["auto_resume"] = auto_resume
        return opt, types.SimpleNamespace(opt=option_file)

    plugins.register()
    if command == "train":
        with _replaced(basicsr.train, parse_options=parse_options, load_resume_state=_load_resume_state):
            basicsr.train.train_pipeline(root_path)
    else:
        with _replaced(basicsr.test, parse_options=parse_options):
            basicsr.test.test_pipeline(root_path)


@contextmanager
def _replaced(module: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    before = {name: getattr(module, name) for name in functions}
    try:
        vars(module).update(functions)
        yield
    finally:
        vars(module).update(before)


def complete_as_basicsr(
    opt: dict[str, Any], root_path: str, is_train: bool, launcher: str, debug: bool
) -> dict[str, Any]:
    """Start the processes and fill in, in place, what BasicSR's ``parse_options`` does beside reading."""
    import torch

    opt["dist"] = launcher != "none"
    if opt["dist"]:
        init_dist(launcher, **((opt.get("dist_params") or {}) if launcher == "slurm" else {}))
    opt["rank"], opt["world_size"] = get_dist_info()
    if opt.get("manual_seed") is None:
        opt["manual_seed"] = 0
    set_random_seed(opt["manual_seed"] + opt["rank"])
    opt["is_train"] = is_train
    if debug and not opt["name"].startswith("debug"):
        opt["name"] = f"debug_{opt['name']}"
    if opt.get("num_gpu", "auto") == "auto":
        opt["num_gpu"] = torch.cuda.device_count()
    for phase, dataset in opt["datasets"].items():
        dataset["phase"] = phase.split("_")[0]
        if "scale" in opt:
            dataset["scale"] = opt["scale"]
        for key in ("dataroot_gt", "dataroot_lq"):
            if dataset.get(key) is not None:
                dataset[key] = os.path.expanduser(dataset[key])
    paths = opt["path"] = opt.get("path") or {}
    for key, value in paths.items():
        if value is not None and ("resume_state" in key or "pretrain_network" in key):
            paths[key] = os.path.expanduser(value)
    folder = os.path.join(root_path, "experiments" if is_train else "results", opt["name"])
    paths.update({"experiments_root" if is_train else "results_root": folder, "log": folder})
    paths["visualization"] = os.path.join(folder, "visualization")
    if is_train:
        paths.update(models=os.path.join(folder, "models"), training_states=os.path.join(folder, "training_states"))
        if "debug" in opt["name"]:
            if opt.get("val"):
                opt["val"]["val_freq"] = 8
            opt["logger"].update(print_freq=1, save_checkpoint_freq=8)
    return opt


def _load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """``basicsr.train.load_resume_state`` without a GPU."""
    from semiisp_plugin.io.checkpoint import load_checkpoint, saved_iterations

    folder = opt["path"]["training_states"]
    saved = saved_iterations(folder) if opt["auto_resume"] else []
    if saved:
        opt["path"]["resume_state"] = os.path.join(folder, f"{saved[-1]}.state")
    if not opt["path"].get("resume_state"):
        return None
    state = load_checkpoint(opt["path"]["resume_state"])
    check_resume(opt, state["iter"])
    return state
