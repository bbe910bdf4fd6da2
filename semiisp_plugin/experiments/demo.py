"""``basicsr demo``: `basicsr learn` on simulated pairs of photographs that ship with it, and a test on other scenes."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair
from semiisp_plugin.experiments.benchmark_jobs import METRICS, run_folder
from semiisp_plugin.experiments.jobs import default_workers, own_folder
from semiisp_plugin.experiments.learn import MODEL, learn, minutes_of
from semiisp_plugin.io.image_io import list_images, read_image, to_float, to_tensor, to_uint8
from semiisp_plugin.models.validation import measure
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.report.grids import draw_grid
from semiisp_plugin.report.paired import paired_difference
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.scenes import make_scenes

ALONE, LEARNED = "the pairs alone", "learned"
_SHOWN = 5  # test scenes of the picture


def run(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Run the demo; see ``basicsr demo --help``.

    Returns:
        Metrics of each test pair, by what made the picture.
    """
    started = time.monotonic()
    out, task, seed = Path(args.out), args.task, args.seed
    raw = task == "raw"
    workers = default_workers() if args.workers is None else args.workers
    with own_folder(out, "demo", "--out", empty=True):
        data = out / "data"
        make_scenes(data, task=task, seed=seed)
        tests = match_pairs(data / "test" / "input", data / "test" / "target")
        counts = [len(list_images(data / kind)) for kind in ("pairs/input", "photos", "test/input")]
        what = f"{counts[0]} SIMULATED pairs ({'RAW to sRGB' if raw else 'dark sRGB to good sRGB'})"
        print(f"{what}, {counts[1]} photographs without a pair, and {counts[2]} test pairs, all of different scenes.\n")
        look = out / "look"
        found = learn(
            [str(data / "pairs")],
            str(data / "photos"),
            look,
            minutes=None if args.time is None else minutes_of(args.time),
            seed=seed,
            workers=workers,
            inputs="raw" if raw else "srgb",
        )
        model = load_network(weights=look / MODEL)
        networks = {ALONE: found.network(found.record["of_pairs_alone"]["kept"], workers), LEARNED: model.network}
        enhancers = {name: Enhancer(network, denoise=model.denoise) for name, network in networks.items()}
        results = tested(enhancers, tests, raw, out / "comparison.png")
        f_isp = run_folder(found.look.trained("f_isp")) / "f_isp_latest.pth"
        shutil.copyfile(f_isp, out / f_isp.name)
        pseudo_grid(f_isp, data / "photos", seed, out / "pseudo_pairs.png")
        content = {"data": what, "seed": seed, "kept": found.record["kept"], "results": results}
        (out / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(in_words(results))
        print(f"Pictures: {out / 'comparison.png'}, {out / 'pseudo_pairs.png'}; the page: {look / 'report.html'}")
        print(f"Time: {(time.monotonic() - started) / 60:.1f} minutes.")
        return results


def tested(
    enhancers: Mapping[str, Enhancer], tests: Sequence[Pair], raw: bool, picture: Path
) -> dict[str, dict[str, list[float]]]:
    """PSNR and SSIM of each test pair by what made the picture; draws the first few into a file."""
    results: dict[str, dict[str, list[float]]] = {name: {metric: [] for metric in METRICS} for name in enhancers}
    rows, captions = [], []
    for pair in tests:
        given, target = (to_float(image) for image in read_pair(pair))
        outputs = {name: enhancer.enhance_image(given) for name, enhancer in enhancers.items()}
        for name, output in outputs.items():
            for metric, value in measure(to_tensor(output), to_tensor(target), METRICS).items():
                results[name][metric].append(float(value))
        rows.append([given ** (1 / 2.2), *outputs.values(), target])
        captions.append([None, *(f"{results[name]['psnr'][-1]:.1f} dB" for name in outputs), None])
    draw_grid(
        rows[:_SHOWN],
        ["input (gamma 2.2)", *enhancers, "target"],
        captions=captions[:_SHOWN],
        cell_width=320,
        path=picture,
    )
    return results


def in_words(results: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The table of the test, and what it says."""
    rows = [(name, *(f"{np.mean(of[m]):.{d}f}" for m, d in (("psnr", 2), ("ssim", 3)))) for name, of in results.items()]
    table = Table(("on scenes that nobody saw", "PSNR [dB]", "SSIM"), rows, numeric=(1, 2)).text()
    learned, alone = ({(0, str(k)): value for k, value in enumerate(results[n]["psnr"])} for n in (LEARNED, ALONE))
    gain = paired_difference(learned, alone)
    if gain is None or gain.mean == 0:
        said = "What was kept is what the pairs alone train."
    elif gain.mean < 0:
        said = f"Here the pairs alone do better: {gain} dB. Cross-validation over few pairs may choose wrongly."
    else:
        said = f"Gain over the best that the pairs alone train: {gain} dB" + (
            "." if gain.above_zero else ", which may be chance."
        )
    return f"\n{table}\n\n{said} One seed and {len(learned)} simulated pictures: a demonstration.\n"


def pseudo_grid(f_isp: Path, photos: Path, seed: int, path: Path) -> None:
    """Photographs as they are, with updated quality, and three pseudo inputs of each."""
    generator = make_generator(str(f_isp))
    draws = torch.Generator().manual_seed(seed)
    rows = []
    for name in list_images(photos)[:4]:
        photo = read_image(photos / name, bit_depth="8")
        pair = generator.generate(torch.from_numpy(photo).permute(2, 0, 1)[None], draws)
        inputs = [generator.generate_input(pair.target, draws).input for _ in range(3)]
        pseudo = [to_uint8(i[0].permute(1, 2, 0).numpy() ** (1 / 2.2)) for i in inputs]
        rows.append([photo, np.ascontiguousarray(pair.target[0].permute(1, 2, 0).numpy()), *pseudo])
    titles = ["photograph", "pseudo ground truth", *(f"pseudo input {i} (gamma 2.2)" for i in (1, 2, 3))]
    draw_grid(rows, titles, cell_width=240, path=path)
