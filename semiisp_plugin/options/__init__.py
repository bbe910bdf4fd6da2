"""Option files: safe YAML, files that extend others, overrides, and strict checks of all sections.

A misspelt key is an error that names the nearest known one and the line. Sections that belong to a class or function (a
network, a loss, an optimiser, a schedule, a metric, a filter) are checked against its parameters; data sets and models
that take a dictionary, BasicSR's and other people's, against the keys that their source reads.
"""

from __future__ import annotations

from semiisp_plugin.options.complete import complete, load_options, resolve_gpus
from semiisp_plugin.options.messages import OptionError, nearest
from semiisp_plugin.options.parts import OUR_DATASETS, OUR_MODELS, is_our_dataset, is_our_model
from semiisp_plugin.options.pseudo import complete_pseudo_options, load_pseudo_options
from semiisp_plugin.options.reading import apply_overrides, dump_options, load_yaml, read_options
from semiisp_plugin.options.sections import check_call, check_section, checked_as, registered
from semiisp_plugin.options.source import Source
from semiisp_plugin.options.structures import MeanTeacher, PseudoOptions
from semiisp_plugin.options.whole_file import check_options
from semiisp_plugin.options.yaml_text import Loader

__all__ = [
    "OUR_DATASETS",
    "OUR_MODELS",
    "Loader",
    "MeanTeacher",
    "OptionError",
    "PseudoOptions",
    "Source",
    "apply_overrides",
    "check_call",
    "check_options",
    "check_section",
    "checked_as",
    "complete",
    "complete_pseudo_options",
    "dump_options",
    "is_our_dataset",
    "is_our_model",
    "load_options",
    "load_pseudo_options",
    "load_yaml",
    "nearest",
    "read_options",
    "registered",
    "resolve_gpus",
]
