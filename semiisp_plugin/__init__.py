"""Semi-supervised learning for learned camera ISPs and image enhancement, as a plugin for BasicSR.

Importing the package imports nothing else: each name below is imported from its module when it is asked for.
``register()`` fills BasicSR's registries; the ``basicsr`` command does it by itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from semiisp_plugin._version import __version__
from semiisp_plugin.plugins import register

if TYPE_CHECKING:
    from semiisp_plugin.apps.enhance.batch import enhance_files
    from semiisp_plugin.apps.enhance.enhancer import Enhancer
    from semiisp_plugin.apps.enhance.network import load_network
    from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
    from semiisp_plugin.archs.seplut_arch import SepLUT
    from semiisp_plugin.data.sampler import MixedBatchSampler, SampleIndex
    from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
    from semiisp_plugin.losses import PseudoFilter, filter_pseudo, mean_real_loss, per_sample, semi_supervised_loss
    from semiisp_plugin.options import load_options
    from semiisp_plugin.pseudo.f_isp import load_f_isp, save_f_isp
    from semiisp_plugin.pseudo.generator import PseudoPair, PseudoPairGenerator
    from semiisp_plugin.pseudo.noise import add_shot_read_noise, draw_noise_levels
    from semiisp_plugin.pseudo.sources import BankInverse
    from semiisp_plugin.training.loop import train, train_pipeline
    from semiisp_plugin.training.testing import test, test_pipeline

_HOMES = {
    "apps.enhance.batch": ("enhance_files",),
    "apps.enhance.enhancer": ("Enhancer",),
    "apps.enhance.network": ("load_network",),
    "archs.pqdynamicisp_arch": ("PQDynamicISP",),
    "archs.seplut_arch": ("SepLUT",),
    "data.sampler": ("MixedBatchSampler", "SampleIndex"),
    "isp": ("ISPSpec", "InvertibleISP", "ParameterBank"),
    "losses": ("PseudoFilter", "filter_pseudo", "mean_real_loss", "per_sample", "semi_supervised_loss"),
    "options": ("load_options",),
    "pseudo.f_isp": ("load_f_isp", "save_f_isp"),
    "pseudo.generator": ("PseudoPair", "PseudoPairGenerator"),
    "pseudo.noise": ("add_shot_read_noise", "draw_noise_levels"),
    "pseudo.sources": ("BankInverse",),
    "training.loop": ("train", "train_pipeline"),
    "training.testing": ("test", "test_pipeline"),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "BankInverse",
    "Enhancer",
    "ISPSpec",
    "InvertibleISP",
    "MixedBatchSampler",
    "PQDynamicISP",
    "ParameterBank",
    "PseudoFilter",
    "PseudoPair",
    "PseudoPairGenerator",
    "SampleIndex",
    "SepLUT",
    "__version__",
    "add_shot_read_noise",
    "draw_noise_levels",
    "enhance_files",
    "filter_pseudo",
    "load_f_isp",
    "load_network",
    "load_options",
    "mean_real_loss",
    "per_sample",
    "register",
    "save_f_isp",
    "semi_supervised_loss",
    "test",
    "test_pipeline",
    "train",
    "train_pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
