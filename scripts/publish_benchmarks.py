"""Bring results of `basicsr benchmark` into the documents: the JSON beside them, and the tables made of it.

python scripts/publish_benchmarks.py benchmark_results/quick benchmark_results/lolv1_cpu

writes `docs/benchmarks/NAME.json` for each folder, rounded, and a page of all its tables beside it. Without folders it
makes the pages again from the JSON that is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from semiisp_plugin.report.benchmark_plots import contrasts_plot
from semiisp_plugin.report.benchmark_results import Results
from semiisp_plugin.report.benchmark_tables import (
    contrast_sentences,
    contrasts_section,
    results_section,
    sources_section,
    table_section,
)
from semiisp_plugin.report.tables import escape_markdown

ROOT = Path(__file__).resolve().parents[1]
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


def publish(folder: Path, root: Path, plot: bool, add: bool) -> None:
    """Copy a benchmark's results, and draw its contrasts if asked for; ``add``: to those of other seeds."""
    name = read(folder / "results.json").name
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    target = root / "docs" / "benchmarks" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    if add:
        merge(results, json.loads(target.read_text(encoding="utf-8")))
    small = {key: rounded(value) if key == "cells" else value for key, value in results.items()}
    target.write_text(json.dumps(small, separators=(",", ":")) + "\n", encoding="utf-8")
    if plot:
        with TemporaryDirectory() as drawn:
            made = contrasts_plot(read(target), Path(drawn))
            if made is not None:
                shutil.copyfile(Path(drawn, made.file), target.parent / f"{name}_contrasts.png")


def merge(results: dict[str, Any], before: dict[str, Any]) -> None:
    """Add the repetitions that were published before: the same benchmark, of the same code, with other seeds."""
    for key in ("systems", "contrasts", "made_with"):
        if results[key] != before[key]:
            raise SystemExit(f"{results['name']}: its {key} are not those of the results that are published")
    here = {cell["seed"] for cell in results["cells"]}
    for part in ("cells", "sources"):
        others = [cell for cell in before.get(part, []) if cell["seed"] not in here]
        results[part] = sorted([*others, *results.get(part, [])], key=lambda cell: int(cell["seed"]))
    results["options"]["seeds"] = sorted({cell["seed"] for cell in results["cells"]})
    results["seconds"] += before["seconds"]


def page_of(path: Path) -> str:
    """All that a benchmark found: the plot, a sentence a contrast, what was run, and the tables folded."""
    results, machine = read(path), read(path).machine
    plot = path.with_name(f"{path.stem}_contrasts.png")
    parts = [f"# {escape_markdown(results.title)}\n"]
    if plot.exists():
        parts.append(f"![Differences in test PSNR with their 95 % intervals]({plot.name})\n")
    parts += [
        *(f"{sentence}\n" for sentence in contrast_sentences(results)),
        f"`{results.command}` ([JSON]({path.name})): {machine['cores']} cores of an {machine['processor']}, "
        f"{machine['gpu'] or 'no GPU'}, torch {machine['torch'].partition('+')[0]}, Python {machine['python']}, "
        f"version {results.version}; {results.seconds / 60:.0f} minutes of one core.\n",
        *(f"{escape_markdown(f'{task.title}: {task.description}')}\n" for task in results.tasks.values()),
    ]
    sections = [contrasts_section(results), *(results_section(results, *setting) for setting in results.settings())]
    sections += [sources_section(results), table_section(results)]
    for section in filter(None, sections):
        parts.append(f"<details markdown>\n<summary>{escape_markdown(section.title)}</summary>\n")
        parts += [f"{escape_markdown(line)}\n" for line in section.text]
        for table in section.tables:
            parts += [f"**{escape_markdown(table.title)}**\n"] if table.title else []
            parts.append(table.markdown())
        parts.append("</details>\n")
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="benchmark_results/NAME")
    parser.add_argument("--plot", action="store_true", help="draw the contrasts, too")
    text = "the repetitions that are published of these benchmarks, of other seeds, stay"
    parser.add_argument("--add", action="store_true", help=text)
    parser.add_argument("--root", type=Path, default=ROOT, help="where docs is (default: %(default)s)")
    args = parser.parse_args(argv)
    for folder in args.folders:
        publish(folder, args.root, args.plot, args.add)
    found = sorted((args.root / "docs" / "benchmarks").glob("*.json"))
    for page, text in [(path.with_suffix(".md"), page_of(path)) for path in found]:  # all, before any is written
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
