"""Check option files of all commands without running them; of BasicSR's own models' that they can be read.

    python scripts/check_option_files.py options/*.yml options/recipes options/denoise

Folders are searched for files that end in .yml. Prints a line a file, and exits with 1 if one is refused. Data sets and
weights are not looked for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from semiisp_plugin.apps.denoise.options import complete_denoise_options
from semiisp_plugin.experiments.jobs import JobError
from semiisp_plugin.experiments.recipe import phases_of
from semiisp_plugin.experiments.recipe_options import load_recipe
from semiisp_plugin.options import (
    OptionError,
    check_any_options,
    check_options,
    complete_pseudo_options,
    is_plugin_model,
    read_options,
)


def check(path: str) -> str | None:
    """What is wrong with a file; None if nothing is."""
    try:
        values, source = read_options(path)
        if "photographs" in values and "model_type" not in values:
            complete_pseudo_options(values, source)
        elif "phases" in values:
            phases_of(load_recipe(path), Path())
        elif "input" in values and "model_type" not in values:
            complete_denoise_options(values, source)
        else:
            # A file to test with may have kept its section `train`; without data it is not for training.
            datasets = values.get("datasets")
            is_train = "train" in values and (not isinstance(datasets, dict) or "train" in datasets)
            check_any_options(values, source)
            if is_plugin_model(values["model_type"]):
                check_options(values, source, is_train=is_train)
                for warning in source.warnings:
                    print(f"warning: {warning}")
    except (OptionError, JobError) as error:
        return str(error)
    return None


def files_of(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are, and the files in folders."""
    for path in paths:
        yield from map(str, sorted(Path(path).rglob("*.yml"))) if Path(path).is_dir() else [path]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="option file, or folder of option files")
    refused = 0
    for path in files_of(parser.parse_args(argv).files):
        wrong = check(path)
        refused += wrong is not None
        print(f"refused: {wrong}" if wrong else f"fine:    {path}")
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())
