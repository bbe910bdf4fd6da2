"""Bring results of `basicsr benchmark` into the documents: the JSON beside them, and the tables made of it.

python scripts/publish_benchmarks.py benchmark_results/quick benchmark_results/lolv1_cpu

writes `docs/benchmarks/NAME.json` for each folder, rounded, and rewrites in docs/*.md and README.md what stands between
`<!-- benchmark NAME -->` (all tables), `<!-- contrasts NAME -->` (the headline alone) or `<!-- contrast NAME -->` (the
first of it) and `<!-- end -->`. Without folders it rewrites the tables from the JSON that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec

from semiisp_plugin.report.benchmark_results import Results
from semiisp_plugin.report.benchmark_tables import contrast_tables, interval_text, results_section
from semiisp_plugin.report.tables import Table, escape_markdown

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- (benchmark|contrasts?) (\S+) -->\n.*?<!-- end -->", re.DOTALL)
DIGITS = {"psnr": 3, "seconds": 0}


def rounded(value: Any, digits: int = 4) -> Any:
    """The same with fewer decimals: those of the innermost key that `DIGITS` has."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(item, DIGITS.get(key, digits)) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list) else value


def read(path: Path) -> Results:
    if not path.is_file():
        raise SystemExit(f"no {path}; run the benchmark and give this script the folder of its results")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results, strict=False)
    except msgspec.MsgspecError as error:
        raise SystemExit(
            f"{path}: not results as this version writes them ({error}); run the benchmark again"
        ) from None


def publish(folder: Path, root: Path, plots: list[str]) -> None:
    """Copy a benchmark's results, and the plots that were asked for."""
    name = read(folder / "results.json").name
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    target = root / "docs" / "benchmarks" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    for plot in plots:
        shutil.copyfile(folder / "plots" / f"{plot}.png", target.parent / f"{name}_{plot}.png")
    small = {key: rounded(value) if key == "cells" else value for key, value in results.items()}
    target.write_text(json.dumps(small, separators=(",", ":")) + "\n", encoding="utf-8")


def titled(title: str, table: Table, text: list[str]) -> list[str]:
    return [f"**{escape_markdown(title)}**\n", *(f"{escape_markdown(line)}\n" for line in text), table.markdown()]


def headline(results: Results, most: int | None = None) -> list[str]:
    """The contrasts, or the first of them, and what their intervals are."""
    parts = [part for table in contrast_tables(results)[:most] for part in titled(table.title, table, [])]
    return [*parts, f"{interval_text(results)}\n"]


def everything(results: Results, link: str) -> list[str]:
    """What was run, the contrasts, and all systems on each task with each number of pairs."""
    machine = results.machine
    parts = [
        f"`{results.command}` ([JSON]({link})): {machine['cores']} cores of an {machine['processor']}, "
        f"{machine['gpu'] or 'no GPU'}, torch {machine['torch'].partition('+')[0]}, Python {machine['python']}, "
        f"version {results.version}; {results.seconds / 60:.0f} minutes of one core.\n",
        *(f"{escape_markdown(f'{task.title}: {task.description}')}\n" for task in results.tasks.values()),
        *headline(results),
    ]
    for task, pairs in results.settings():
        section = results_section(results, task, pairs)
        parts += titled(section.title, section.tables[0], section.text)
    return parts


def rewrite(page: Path, root: Path) -> str:
    """The text of a page with its tables made again."""

    def block(match: re.Match[str]) -> str:
        kind, name = match.groups()
        path = root / "docs" / "benchmarks" / f"{name}.json"
        results = read(path)
        link = Path(os.path.relpath(path, page.parent)).as_posix()
        most = 1 if kind == "contrast" else None
        parts = everything(results, link) if kind == "benchmark" else headline(results, most)
        return "\n".join([f"<!-- {kind} {name} -->", *parts, "<!-- end -->"])

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def pages(root: Path) -> list[Path]:
    """The documents that may hold tables."""
    return [page for page in (*sorted((root / "docs").glob("*.md")), root / "README.md") if page.is_file()]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="benchmark_results/NAME")
    parser.add_argument("--plot", action="append", default=[], help="copy a plot, too: its name without .png")
    parser.add_argument("--root", type=Path, default=ROOT, help="where docs and README.md are (default: %(default)s)")
    args = parser.parse_args(argv)
    for folder in args.folders:
        publish(folder, args.root, args.plot)
    made = {page: rewrite(page, args.root) for page in pages(args.root)}
    for page, text in made.items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
