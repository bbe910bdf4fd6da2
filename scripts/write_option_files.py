#!/usr/bin/env python
"""Write the recipes of the paper's tasks, options/recipes.

python scripts/write_option_files.py           # write; files that no experiment has any more are deleted
python scripts/write_option_files.py --check   # only say what is out of date; exit status 1 if anything is
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semiisp_plugin.experiments.paper_options import find_experiment
from semiisp_plugin.experiments.paper_settings import TASKS

ROOT = Path(__file__).resolve().parents[1] / "options"


def out_of_date(root: Path = ROOT) -> dict[Path, str | None]:
    """Files that differ from what they should be, with that; None where there should be none."""
    texts = {root / "recipes" / f"{task}.yml": find_experiment(task).recipe_text() for task in TASKS}
    there = set((root / "recipes").rglob("*.yml"))
    stale: dict[Path, str | None] = dict.fromkeys(sorted(there - texts.keys()))
    for path, text in texts.items():
        if path not in there or path.read_text(encoding="utf-8") != text:
            stale[path] = text
    return stale


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the recipes of the paper's tasks.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args(argv).check
    stale = out_of_date()
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written' if text else 'deleted'}")
        if check:
            continue
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
