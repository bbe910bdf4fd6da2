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
CUDA is assumed on resume and   ``semiisp_plugin.train`` does not use those functions
in distributed start-up
==============================  ======================================================================================
"""

from __future__ import annotations

import functools
import sys
import types
import warnings
from collections.abc import Callable
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
    from basicsr.archs import build_network as _build_network
    from basicsr.archs.vgg_arch import NAMES as VGG_LAYER_NAMES
    from basicsr.data import build_dataset as _build_dataset
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.losses import build_loss as _build_loss
    from basicsr.metrics import calculate_metric as _calculate_metric
    from basicsr.metrics import calculate_psnr, calculate_ssim
    from basicsr.models import build_model as _build_model
    from basicsr.models import lr_scheduler as lr_schedulers
    from basicsr.models.base_model import BaseModel
    from basicsr.models.sr_model import SRModel
    from basicsr.utils import (
        AvgTimer,
        FileClient,
        MessageLogger,
        get_env_info,
        get_root_logger,
        get_time_str,
        imwrite,
        init_tb_logger,
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
    "VGG_LAYER_NAMES",
    "AvgTimer",
    "BaseModel",
    "EnlargedSampler",
    "FileClient",
    "LmdbBackend",
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
    "init_tb_logger",
    "init_wandb_logger",
    "initialized_logger",
    "lr_schedulers",
    "master_only",
    "register",
    "tensor2img",
]


def basicsr_location() -> str:
    """Path of the ``basicsr`` that was imported, for messages: a vendored copy often shadows the installed one."""
    return str(basicsr.__file__)


def _registering_first(function: F) -> F:
    """Before something is looked up by its name, all that can be named is registered."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        plugins.register()
        return function(*args, **kwargs)

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
