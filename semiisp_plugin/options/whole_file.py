"""A whole option file for training or testing."""

from __future__ import annotations

from typing import Any

import msgspec

from semiisp_plugin.options.basicsr_structures import BasicSROptions
from semiisp_plugin.options.other_models import check_other_file
from semiisp_plugin.options.our_models import check_our_file
from semiisp_plugin.options.parts import check_phases, expect_section, is_our_model, model_class
from semiisp_plugin.options.sections import missing
from semiisp_plugin.options.source import Source
from semiisp_plugin.options.structures import Options


def check_options(options: dict[str, Any], source: Source, *, is_train: bool) -> None:
    """Check a whole option file, of our models, of BasicSR's, or of somebody else's.

    Whole numbers written as ``1e5`` become integers, in place, where integers are wanted.

    Args:
        options: As read, with overrides, before they are completed.
        source: Where the keys stand.
        is_train: For training or for testing.

    Raises:
        OptionError: The first thing found wrong.
    """
    if "photographs" in options and "model_type" not in options:
        source.fail((), "this is an option file of `basicsr pseudo`.")
    if "extends" in options:
        source.fail(("extends",), "it is followed where a file is read (`load_yaml`), not here.")
    known = {f.encode_name for structure in (Options, BasicSROptions) for f in msgspec.structs.fields(structure)}
    for key in ("name", "model_type", "datasets"):
        if key not in options:
            missing(options, key, source, (), f"the key '{key}' is missing.", known)
    for key in ("datasets", "train", "val", "path", "logger"):
        needed = key == "datasets" or (key == "train" and is_train)
        if key == "train" and needed and key not in options:
            missing(options, key, source, (), "the section 'train' is missing.", known)
        if needed or options.get(key) is not None:
            expect_section(options.get(key), source, (key,))
    model_class(options, source)
    check_phases(options, source)
    if is_our_model(options["model_type"]):
        check_our_file(options, source, is_train=is_train)
    else:
        check_other_file(options, source, is_train=is_train)
