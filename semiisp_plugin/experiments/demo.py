"""``basicsr demo``: the whole method on photographs that ship with installed packages."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch

from semiisp_plugin.data.pairs import match_pairs
from semiisp_plugin.experiments.benchmark_data import Data, PairData
from semiisp_plugin.experiments.benchmark_jobs import Step, chain, compare_outputs, run_folder, tested
from semiisp_plugin.experiments.benchmark_options import Settings
from semiisp_plugin.experiments.jobs import own_folder, perform
from semiisp_plugin.io.image_io import list_images, read_image, to_uint8
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.report.grids import draw_grid
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.scenes import DEFAULT_SPLIT, draw_split, make_scenes

SYSTEMS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "f_ISP alone": ("f_isp", {}),
    "supervised": ("supervised", {}),
    "supervised + photometric jitter": ("supervised", {"augment": 0.2}),
    "semi-supervised, before fine-tuning": ("semi", {"fine_iterations": 0}),
    "semi-supervised": ("semi", {}),
}
"""Kind and settings of each row; everything that trains the target has equal iterations and batches."""

SHOWN = ("supervised", "supervised + photometric jitter", "semi-supervised")
"""Systems of ``comparison.png``."""


@dataclass(frozen=True)
class SimulatedData(Step):
    """The demo's simulated pairs and photographs; its settings are ``task``, ``split`` and ``size``."""

    def data(self) -> Data:
        """Where they are."""
        folder = self.folder / "data"
        pairs, test = (PairData(folder / kind / "input", folder / kind / "target") for kind in ("pairs", "test"))
        return Data(pairs, match_pairs(*astuple(pairs)), match_pairs(*astuple(test)), folder / "photos")

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        """Write them."""
        s = self.settings
        split = draw_split(self.seed) if s["split"] == "drawn" else DEFAULT_SPLIT
        make_scenes(self.folder / "data", task=s["task"], size=tuple(s["size"]), seed=self.seed, split=split)
        return {}


def run(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run the demo; see ``basicsr demo --help``.

    Returns:
        Metrics on the test pairs, by system.
    """
    started = time.time()
    # The images are small: a second thread brings little on an idle machine, and on a busy one the threads wait for
    # each other longer than they work.
    torch.set_num_threads(1)
    out, task, seed = Path(args.out), args.task or "lowlight", args.seed
    settings = demo_settings(args.iterations)
    of_data = {"task": task, "split": args.split, "size": settings.size}
    data, raw = SimulatedData("data", seed, of_data, out, quiet=False), task == "raw"
    kind = "RAW to sRGB" if raw else "dark sRGB to good sRGB"
    what = f"SIMULATED pairs ({kind}) made from photographs that ship with scikit-image, scikit-learn, matplotlib"
    with own_folder(out, "demo", "--out", empty=True):
        perform(data, progress=True)
        parts = data.data()
        counts = [len(parts.originals), len(list_images(parts.photos)), len(parts.test)]
        print(f"Data: {what}: {counts[0]} labelled pairs, {counts[1]} photographs, {counts[2]} test pairs.")
        trained = {
            name: chain(kind, msgspec.structs.replace(settings, **changes), data, seed, image_enhancement=not raw)
            for name, (kind, changes) in SYSTEMS.items()
        }
        steps = {name: tested([step]) for name, step in trained.items()}
        done: dict[str, dict[str, Any]] = {}
        for last in steps.values():
            for step in last.with_before():
                if step.key not in done:
                    done[step.key] = perform(step, progress=True)["result"]
        results = {
            name: {metric: float(np.asarray(done[step.key][metric], float).mean()) for metric in ("psnr", "ssim")}
            for name, step in steps.items()
        }
        before = {step.kind: step for step in steps["semi-supervised"].with_before()}
        made, kept = done[before["pseudo"].key], done[before["semi"].key]["kept_ratio"]
        print(f"{made['written']} pseudo pairs; {made['clipped']:.1%} of the pseudo inputs' values were clipped.")
        print(f"The filter kept {np.mean([share for _, share in kept]):.0%} of the pseudo samples.")
        report(results, counts, seed, what, out)
        f_isp = run_folder(before["f_isp"]) / "f_isp_latest.pth"
        pseudo_grid(f_isp, parts.photos, seed, out)
        # Six: the simulated ones are of each test photograph in turn.
        compare_outputs("Test pictures", {name: steps[name] for name in SHOWN}, 6).save(out / "comparison.png")
        print(f"Pictures: {out / 'comparison.png'} and {out / 'pseudo_pairs.png'}")
        print(f"Everything is in {out}/; `tensorboard --logdir {out}` shows the training.")
        print(f"Time: {(time.time() - started) / 60:.1f} minutes.")
        return results


def demo_settings(iterations: int | None = None) -> Settings:
    """Settings of all systems; ``iterations`` are those of phase 2."""
    phases: dict[str, Any] = {"semi_iterations": 600, "fine_iterations": 200, "isp_iterations": 400}
    if iterations is not None:
        phases = {
            "isp_iterations": max(2, 2 * iterations // 3),
            "semi_iterations": iterations,
            "fine_iterations": max(1, iterations // 3),
        }
    return Settings(size=(96, 128), **phases)


def report(results: Mapping[str, Mapping[str, float]], counts: list[int], seed: int, what: str, out: Path) -> None:
    """Print the table and write ``results.json``."""
    rows = [(name, f"{found['psnr']:.2f}", f"{found['ssim']:.3f}") for name, found in results.items()]
    table = Table(("system", "PSNR (dB)", "SSIM"), rows, numeric=(1, 2)).text()
    print(f"\nMean over {counts[2]} test pairs, {counts[0]} labelled pairs, seed {seed}:\n\n{table}")
    gain = results["semi-supervised"]["psnr"] - results["supervised"]["psnr"]
    print(f"\nSemi-supervised against supervised: {gain:+.2f} dB. One seed and one small data set: a demonstration.\n")
    content = {"data": what, "seed": seed, "results": results}
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def pseudo_grid(f_isp: Path, photos: Path, seed: int, out: Path) -> None:
    """``pseudo_pairs.png``: photographs as they are, with updated quality, and three pseudo inputs of each."""
    generator = make_generator(str(f_isp))
    draws = torch.Generator().manual_seed(seed)
    rows = []
    for name in list_images(photos)[:4]:
        photo = read_image(photos / name, bit_depth="8")
        pair = generator.generate(torch.from_numpy(photo).permute(2, 0, 1)[None], draws)
        inputs = [generator.generate_input(pair.target, draws).input for _ in range(3)]
        as_arrays = [to_uint8(i[0].permute(1, 2, 0).numpy() ** (1 / 2.2)) for i in inputs]
        row = [photo, np.ascontiguousarray(pair.target[0].permute(1, 2, 0).numpy()), *as_arrays]
        rows.append([cv2.resize(picture, (192, 144), interpolation=cv2.INTER_AREA) for picture in row])
    titles = ["photograph", "pseudo ground truth", *(f"pseudo input {i} (gamma 2.2)" for i in (1, 2, 3))]
    draw_grid(rows, titles, path=out / "pseudo_pairs.png")
