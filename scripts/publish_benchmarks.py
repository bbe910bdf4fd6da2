"""Bring results of `basicsr benchmark` into the documents: the JSON beside them, and the tables made of it.

python scripts/publish_benchmarks.py benchmark_results/quick benchmark_results/fivek_ie_15_cpu

writes `docs/benchmarks/NAME.json` for each folder, with four decimals, and rewrites what stands
between `<!-- benchmark NAME -->` and `<!-- end -->` in docs/results.md. Without folders it rewrites the tables from the
JSON that is there.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec

from semiisp_plugin.report.benchmark_results import GainRow, Results, compare_systems
from semiisp_plugin.report.tables import Table, mean_std

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"<!-- benchmark (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def publish(folder: Path, docs: Path, plots: bool) -> None:
    """Copy a benchmark's results, and a few of its plots."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    target = docs / "benchmarks" / f"{results['name']}.json"
    target.parent.mkdir(exist_ok=True)
    fewest = min(cell["pairs"] for cell in results["cells"])
    shown = ("gain_by_pairs_method", f"kept_method_{fewest}")
    for stem in shown if plots else ():
        plot = folder / "plots" / f"{stem}.png"
        if plot.is_file():
            shutil.copyfile(plot, target.parent / f"{results['name']}_{stem}.png")
    target.write_text(json.dumps(rounded(results), separators=(",", ":")) + "\n", encoding="utf-8")


def cells(row: GainRow, title: str) -> dict[str, object]:
    """A row of the table."""
    error = row.gain.standard_error
    return {
        title: row.label,
        "PSNR (dB)": mean_std(row.psnr),
        "gain (dB)": "reference" if row.reference else mean_std(row.gain, sign="+"),
        "standard error": "" if error is None else f"{error:.2f}",
        "SSIM": f"{row.ssim.mean:.3f}" if row.ssim else "",
        "n": len(row.psnr),
    }


def table(results: Results) -> str:
    """One table of all numbers of pairs, with what made it."""
    machine = results.machine
    parts = [
        f"`{results.command}` ([JSON](benchmarks/{results.name}.json)): {results.target}, "
        f"{machine['cores']} cores of an {machine['processor']}, {machine['gpu'] or 'no GPU'}, torch "
        f"{machine['torch'].partition('+')[0]}, Python {machine['python']}; {results.seconds / 60:.0f} minutes of "
        f"one core, the search included.\n\n{results.task}\n"
    ]
    for pairs in results.pairs():
        shown = [cells(row, f"{pairs} labelled pairs") for row in compare_systems(results, pairs) if row.psnr]
        parts.append(Table.of(shown, right=["PSNR (dB)", "gain (dB)", "standard error", "SSIM"]).markdown())
    return "\n".join(parts)


def rewrite(docs: Path) -> str:
    """The text of results.md with its tables made again."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        text = (docs / "benchmarks" / f"{name}.json").read_bytes()
        results = msgspec.json.decode(text, type=Results, strict=False)
        return f"<!-- benchmark {name} -->\n{table(results)}<!-- end -->"

    return BLOCK.sub(block, (docs / "results.md").read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="benchmark_results/NAME")
    parser.add_argument("--plots", action="store_true", help="copy some of the plots, too")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documents (default: %(default)s)")
    args = parser.parse_args(argv)
    for folder in args.folders:
        publish(folder, args.docs, args.plots)
    text = rewrite(args.docs)
    (args.docs / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
