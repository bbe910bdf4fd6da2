"""The only door to BasicSR: compatibility fixes and the names the plugin uses.

PyPI's ``basicsr==1.4.2`` (2022) predates the current torchvision, lmdb and torch. Everything it needs to run on them
is done here, once, before the first import of it, and is listed below; no other module of the plugin imports
``basicsr``.

==============================  ======================================================================================
what breaks                     what is done
==============================  ======================================================================================
torchvision >= 0.17 has no      a module of that name with ``rgb_to_grayscale`` (all that BasicSR takes from it) is put
``transforms.functional_tensor``  into ``sys.modules``
torchvision imports torch's     the one function that it takes from it (for RoIAlign, unused here) imports it when it
compiler: 4 of 11 seconds       is called
lmdb >= 3 refuses to open the   BasicSR's ``LmdbBackend`` gets its environments from one cache per process (see
same environment twice          ``semiisp_plugin.io.lmdb_io``), also after a fork
resuming assumes CUDA, and looks  `run_basicsr` puts functions of its own in the place of those that read options and
for states below the working    states, and of the one that resumes
directory; YAML can run code;
of a changed schedule it crashes
or keeps the old one
==============================  ======================================================================================
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

from semiisp_plugin import plugins, registry
from semiisp_plugin.io.files import printable
from semiisp_plugin.io.locks import owned
from semiisp_plugin.registry import FILTER_REGISTRY, SCORE_REGISTRY, register

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def _compiler_imported_late() -> Iterator[None]:
    """Let torchvision be imported without ``torch._dynamo``, which is imported when anything of it is used."""
    name = "torch._dynamo.utils"
    if name in sys.modules:
        yield
        return

    def of_the_compiler(attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system asks; importing for it would be in vain
            raise AttributeError(attribute)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in = types.ModuleType(name)
    stand_in.is_compile_supported = lambda device: of_the_compiler("is_compile_supported")(device)  # type: ignore[attr-defined]
    stand_in.__getattr__ = of_the_compiler  # type: ignore[method-assign]  # whatever else a torchvision takes
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


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


with _compiler_imported_late():
    _install_functional_tensor()

with warnings.catch_warnings():
    # scipy.ndimage.filters and friends: BasicSR's own deprecations, nothing a user of the plugin can act on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import basicsr
    import basicsr.test
    import basicsr.train
    import basicsr.utils.options as _options
    from basicsr.archs import build_network as _build_network
    from basicsr.data import build_dataset as _build_dataset
    from basicsr.losses import build_loss as _build_loss
    from basicsr.metrics import calculate_metric as _calculate_metric
    from basicsr.metrics import calculate_psnr, calculate_ssim
    from basicsr.models import build_model as _build_model
    from basicsr.models.base_model import BaseModel
    from basicsr.models.sr_model import SRModel
    from basicsr.utils import (
        FileClient,
        MessageLogger,
        check_resume,
        get_env_info,
        get_root_logger,
        get_time_str,
        init_wandb_logger,
        tensor2img,
    )
    from basicsr.utils.dist_util import get_dist_info, master_only
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
    "SCORE_REGISTRY",
    "BaseModel",
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
    "init_wandb_logger",
    "initialized_logger",
    "load_optimizer_state",
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


def _with_printable_text(record: logging.LogRecord) -> bool:
    """Let no name of a file in a message move the cursor or hide what follows."""
    record.msg, record.args = printable(record.getMessage(), "\n\t"), ()
    return True


logging.getLogger("basicsr").addFilter(_with_printable_text)
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
    read on a CPU, without running code in it, and looked for where the run writes; the learning rate of a resumed run
    is that of the option file's schedule.

    Args:
        command: ``train`` or ``test``.
        root_path: Folder that gets ``experiments/``, ``tb_logger/`` and ``results/``.
        values: The options as `semiisp_plugin.options.read_options` returns them; they are completed in place.
        option_file: Copied into the run's folder.
        launcher: ``none``, ``pytorch`` or ``slurm``; the others need GPUs.
        auto_resume: Resume from the newest state in the run's folder.
        debug: BasicSR's debug mode.
    """
    arguments = ["-opt", option_file, "--launcher", launcher]
    arguments += ["--auto_resume"] * auto_resume + ["--debug"] * debug
    reader = types.SimpleNamespace(load=lambda file, Loader: values)
    values["path"] = values.get("path") or {}
    values["num_gpu"] = values.get("num_gpu", "auto")
    if values.get("manual_seed") is None:
        values["manual_seed"] = 0  # BasicSR would draw one

    owner = ExitStack()

    def parse_options(root_path: str, is_train: bool = True) -> Any:
        with (
            _replaced(_options, yaml=reader, ordered_yaml=lambda: (None, None)),
            _replaced(sys, argv=[sys.argv[0], *arguments]),
        ):
            opt, args = _options.parse_options(root_path, is_train)
        if get_dist_info()[0] == 0:
            folder = opt["path"]["experiments_root" if is_train else "results_root"]
            owner.enter_context(owned(folder, "name", beside=True))
        return opt, args

    plugins.register()
    if command == "train":
        with (
            owner,
            _replaced(basicsr.train, parse_options=parse_options, load_resume_state=_load_resume_state),
            _replaced(BaseModel, resume_training=_resume_training),
        ):
            basicsr.train.train_pipeline(root_path)
    else:
        with owner, _replaced(basicsr.test, parse_options=parse_options):
            basicsr.test.test_pipeline(root_path)


@contextmanager
def _replaced(module: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """``basicsr.train.load_resume_state`` without a GPU."""
    from semiisp_plugin.io.checkpoint import load_state, saved_iterations

    folder = opt["path"]["training_states"]
    saved = saved_iterations(folder) if opt["auto_resume"] else []
    if saved:
        opt["path"]["resume_state"] = os.path.join(folder, f"{saved[-1]}.state")
    if not opt["path"].get("resume_state"):
        return None
    state = load_state(opt["path"]["resume_state"])
    check_resume(opt, state["iter"])
    return state


def load_optimizer_state(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Load an optimiser's state, but for the values that it was made with, such as ``lr``: the option file's count."""
    chosen = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, values in zip(optimizer.param_groups, chosen, strict=True):
        group.update(values)


def _resume_training(model: Any, state: Mapping[str, Any]) -> None:
    """``BaseModel.resume_training`` with the option file's schedule, gone through from its beginning."""
    for optimizer, saved in zip(model.optimizers, state["optimizers"], strict=True):
        load_optimizer_state(optimizer, saved)
    for scheduler, was in zip(model.schedulers, state["schedulers"], strict=True):
        now = scheduler.state_dict()
        for key in [k for k in {**was, **now} if not k.startswith("_") and k != "last_epoch"]:
            if was.get(key) != now.get(key):
                get_root_logger().warning(f"Resuming with a schedule's {key} {now.get(key)}; it was {was.get(key)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch misses the optimiser's steps
        for iteration in range(1, state["iter"] + 1):
            model.update_learning_rate(iteration, warmup_iter=model.opt["train"].get("warmup_iter", -1))
