"""Mean ± std over several runs of `basicsr demo`.

for s in 1 2 3; do basicsr demo --task raw --split drawn --seed $s --out demo_raw_$s; done
python scripts/summarise_demos.py demo_raw_*
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from semiisp_plugin.experiments.demo import SYSTEMS
from semiisp_plugin.report.tables import Table, mean_std


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="output folders of the demo")
    found = [json.loads((folder / "results.json").read_text()) for folder in parser.parse_args(argv).folders]
    rows = []
    for system in SYSTEMS:
        psnr = [run["results"][system]["psnr"] for run in found]
        gains = [p - run["results"]["supervised"]["psnr"] for p, run in zip(psnr, found, strict=True)]
        rows.append(
            {
                "system": system,
                "PSNR (dB)": mean_std(psnr),
                "gain over supervised (dB)": "" if system == "supervised" else mean_std(gains),
                "SSIM": mean_std([run["results"][system]["ssim"] for run in found], 3),
            }
        )
    print(Table.of(rows).markdown())
    print(f"Seeds: {[run['seed'] for run in found]}; {found[0]['data']}.")


if __name__ == "__main__":
    main()
