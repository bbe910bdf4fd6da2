"""Option files: safe YAML, files that extend others, overrides, and strict checks of all sections.

A misspelt key is an error that names the nearest known one and the line. The sections of the plugin's models and data
sets, and of classes derived from them, are checked against structures (`semiisp_plugin.options.structures`); those that
belong to a class or function (a network, a loss, an optimiser, a metric, a filter) against its parameters. Files of
other models are read alike, and not checked.

Nothing here imports torch or BasicSR before a file is checked.
"""

from __future__ import annotations

from semiisp_plugin.options.check import (
    check_any_options,
    check_network,
    check_options,
    is_plugin_dataset,
    is_plugin_model,
)
from semiisp_plugin.options.complete import complete, load_options, resolve_gpus
from semiisp_plugin.options.messages import OptionError, nearest
from semiisp_plugin.options.pseudo import complete_pseudo_options, load_pseudo_options
from semiisp_plugin.options.reading import apply_overrides, dump_options, load_yaml, read_options
from semiisp_plugin.options.sections import check_section, checked_as
from semiisp_plugin.options.source import Source
from semiisp_plugin.options.structures import (
    Adversarial,
    Consistency,
    LabelBank,
    LatentTeacher,
    MeanTeacher,
    MixMatch,
    PseudoOptions,
)
from semiisp_plugin.options.yaml_text import Loader

__all__ = [
    "Adversarial",
    "Consistency",
    "LabelBank",
    "LatentTeacher",
    "Loader",
    "MeanTeacher",
    "MixMatch",
    "OptionError",
    "PseudoOptions",
    "Source",
    "apply_overrides",
    "check_any_options",
    "check_network",
    "check_options",
    "check_section",
    "checked_as",
    "complete",
    "complete_pseudo_options",
    "dump_options",
    "is_plugin_dataset",
    "is_plugin_model",
    "load_options",
    "load_pseudo_options",
    "load_yaml",
    "nearest",
    "read_options",
    "resolve_gpus",
]
