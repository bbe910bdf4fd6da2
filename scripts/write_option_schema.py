#!/usr/bin/env python
"""Write what is made from the structures of option files: options/*schema.json, and the tables of docs/options.md.

python scripts/write_option_schema.py           # write
python scripts/write_option_schema.py --check   # only say what is out of date; exit status 1 if anything is
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from semiisp_plugin.options.schema import as_text, option_schema, pseudo_schema, with_tables

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"


def texts() -> dict[Path, str]:
    """What each file should hold."""
    return {
        ROOT / "options" / "schema.json": as_text(option_schema()),
        ROOT / "options" / "pseudo_schema.json": as_text(pseudo_schema()),
        PAGE: with_tables(PAGE.read_text(encoding="utf-8")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the JSON schemas and the tables of keys.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    stale = 0
    for path, text in texts().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
