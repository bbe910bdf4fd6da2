"""The CPU-sized LOLv1 chain over several seeds.

Runs options/{fisp,pseudo,semiie,finetune,supervised,supervised_jitter}_lolv1_cpu.yml in order, below the working
directory. f_ISP and the pseudo pairs are made once, with the option files' seed; the target network is trained anew
with every seed. What an earlier call finished is not repeated.

    python scripts/run_lolv1_cpu.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from semiisp_plugin.options import load_options, load_pseudo_options
from semiisp_plugin.pseudo import builder
from semiisp_plugin.report.tables import markdown_table, mean_std
from semiisp_plugin.training import train

METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "psnr_gt_mean": "PSNR, GT-mean (dB)"}
DECIMALS = {"psnr": 2, "ssim": 3, "psnr_gt_mean": 2}


def run(options: str, name: str, seed: int | None = None, weights: str | None = None) -> dict[str, Any]:
    """Train one option file under another name and seed, unless its result is there; returns its metrics."""
    result = Path("experiments", name, "metrics.json")
    if result.exists():
        return json.loads(result.read_text())
    overrides = [f"name={name}"]
    if seed is not None:
        overrides.append(f"manual_seed={seed}")
    if weights:
        overrides.append(f"path:pretrain_network_g={weights}")
    opt = load_options(f"options/{options}_lolv1_cpu.yml", root_path=".", is_train=True, overrides=overrides)
    metrics = train(opt, progress=sys.stderr.isatty(), quiet=True).latest_metrics
    result.write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def main(argv: list[str] | None = None) -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args(argv).seeds
    f_isp = run("fisp", "fisp_lolv1_cpu")
    if not Path("datasets/pseudo_lolv1_cpu/report.json").exists():
        builder.run(load_pseudo_options("options/pseudo_lolv1_cpu.yml"))
    found: dict[str, list[dict[str, float]]] = {}

    def keep(system: str, metrics: dict[str, Any]) -> None:
        found.setdefault(system, []).append(metrics["val20"])

    for seed in seeds:
        keep("supervised", run("supervised", f"supervised_lolv1_cpu_{seed}", seed))
        keep("supervised + photometric jitter", run("supervised_jitter", f"supervised_jitter_lolv1_cpu_{seed}", seed))
        semi = f"semiie_lolv1_cpu_{seed}"
        keep("semi-supervised, before fine-tuning", run("semiie", semi, seed))
        weights = f"experiments/{semi}/models/net_g_latest.pth"
        keep("semi-supervised", run("finetune", f"finetune_lolv1_cpu_{seed}", seed, weights))
    rows = [
        {"system": system, **{METRICS[m]: mean_std([v[m] for v in values], DECIMALS[m]) for m in METRICS}}
        for system, values in found.items()
    ]
    print(markdown_table(rows))
    print(f"Seeds: {seeds}. f_ISP itself, one run: {f_isp['val20']['psnr']:.2f} dB (local), ", end="")
    print(f"{f_isp['val20_global']['psnr']:.2f} dB (global).")


if __name__ == "__main__":
    main()
