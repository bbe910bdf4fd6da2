"""Check option files of training and testing, the plugin's and BasicSR's own, without running them.

    python scripts/check_option_files.py options/*.yml

Prints a line a file, and exits with 1 if one is refused. Data sets and weights are not looked for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import semiisp_plugin  # noqa: F401 - registers all classes
from semiisp_plugin.options import OptionError, check_options, complete_pseudo_options, read_options


def check(path: str) -> str | None:
    """What is wrong with a file; None if nothing is."""
    try:
        values, source = read_options(path)
        if "photographs" in values and "model_type" not in values:
            complete_pseudo_options(values, source)
        else:
            # A file to test with may have kept its section `train`; without data it is not for training.
            datasets = values.get("datasets")
            is_train = "train" in values and (not isinstance(datasets, dict) or "train" in datasets)
            check_options(values, source, is_train=is_train)
    except OptionError as error:
        return str(error)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    refused = 0
    for path in parser.parse_args(argv).files:
        wrong = check(path)
        refused += wrong is not None
        print(f"refused: {wrong}" if wrong else f"fine:    {path}")
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())
