"""``basicsr demo``: the whole method on photographs that ship with installed packages, or on the user's own folders."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from semiisp_plugin.data.pairs import find_pair_folders, match_pairs, read_pair
from semiisp_plugin.experiments import phases
from semiisp_plugin.experiments.phases import PairData, PhaseSettings
from semiisp_plugin.io.image_io import list_images, read_image, to_bit_depth, to_float, to_uint8, write_image
from semiisp_plugin.io.picture import shrink_short_side
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.contact_sheet import save_contact_sheet
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.report.grids import save_grid
from semiisp_plugin.report.tables import text_table
from semiisp_plugin.simulation.scenes import DEFAULT_SPLIT, Task, draw_split, make_scenes

MARKER = "written_by_basicsr_demo.txt"
DEFAULT_TASK: Task = "lowlight"
_TEST_SHARE = 0.2


def run(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run the demo; see ``basicsr demo --help``.

    Returns:
        Metrics on the test pairs, by system.
    """
    if bool(args.pairs) != bool(args.photos):
        raise ValueError("Give --pairs and --photos together, or neither for the simulated pairs.")
    if args.pairs and args.task:
        raise ValueError("--task chooses the simulated pairs; it does not go with --pairs.")
    if args.iterations is not None and args.iterations < 4:
        raise ValueError(f"--iterations {args.iterations}: give at least 4.")
    started = time.time()
    # The images are small: a second thread brings little on an idle machine, and on a busy one the threads wait for
    # each other longer than they work.
    torch.set_num_threads(1)
    out = Path(args.out)
    if args.pairs:
        check_own_folders(args.pairs, args.photos, out)
    prepare_output(out)
    settings = PhaseSettings()
    if args.iterations is not None:
        settings = replace(
            settings,
            isp_iterations=max(2, 2 * args.iterations // 3),
            semi_iterations=args.iterations,
            fine_iterations=max(1, args.iterations // 3),
        )
    if args.pairs:
        pairs, test, photos, raw = own_data(args.pairs, args.photos, out / "data", settings.size, args.seed)
        settings = replace(settings, image_enhancement=not raw)
        what = f"the pairs of {args.pairs} and the photographs of {args.photos}"
    else:
        task: Task = args.task or DEFAULT_TASK
        split = draw_split(args.seed) if args.split == "drawn" else DEFAULT_SPLIT
        scenes = make_scenes(out / "data", task=task, size=settings.size, seed=args.seed, split=split)
        pairs = PairData(scenes.pairs_input, scenes.pairs_target)
        test = PairData(scenes.test_input, scenes.test_target)
        photos = scenes.photos
        settings = replace(settings, image_enhancement=task == "lowlight")
        kind = "RAW to sRGB" if task == "raw" else "dark sRGB to good sRGB"
        what = f"SIMULATED pairs ({kind}) made from photographs that ship with scikit-image, scikit-learn, matplotlib"
    n_pairs, n_test = len(list_images(pairs.input)), len(list_images(test.input))
    print(f"Data: {what}: {n_pairs} labelled pairs, {len(list_images(photos))} photographs, {n_test} test pairs.")
    results, models = train_all(settings, pairs, test, photos, out, args.seed)
    report(results, models, test, photos, out, args.seed, n_pairs, n_test, what)
    print(f"Everything is in {out}/; `tensorboard --logdir {out}/tb_logger` shows the training.")
    print(f"Time: {(time.time() - started) / 60:.1f} minutes.")
    return results


def prepare_output(out: Path) -> Path:
    """Make the output folder; an earlier demo's is replaced, anything else is left alone.

    Raises:
        FileExistsError: The folder holds something that is not a demo's.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (out / MARKER).is_file():
            raise FileExistsError(f"{out} exists and was not written by the demo; choose another folder with --out.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("This folder is replaced when the demo runs again.\n", encoding="utf-8")
    return out


def check_own_folders(pairs_root: str, photos: str, out: Path) -> None:
    """Raise before anything is deleted if the user's folders cannot be used, or lie in the folder to be replaced."""
    found = match_pairs(*find_pair_folders(pairs_root))
    if len(found) < 5:
        raise ValueError(f"{pairs_root} holds {len(found)} pairs; the demo needs at least 5 (50 are a good start).")
    list_images(photos)
    for folder in (pairs_root, photos):
        if out.resolve() in (Path(folder).resolve(), *Path(folder).resolve().parents):
            raise ValueError(f"{folder} lies in {out}, which the demo replaces; choose another folder with --out.")


def own_data(
    pairs_root: str, photos: str, out: Path, size: tuple[int, int], seed: int
) -> tuple[PairData, PairData, Path, bool]:
    """Small copies of the user's pairs, a fifth of them held out for the test.

    Returns:
        Labelled pairs, test pairs, the folder of photographs, and whether the inputs look like RAW (16-bit).
    """
    found = match_pairs(*find_pair_folders(pairs_root))
    n_test = max(1, min(20, round(_TEST_SHARE * len(found))))
    order = np.random.default_rng(seed).permutation(len(found))
    held_out = {int(i) for i in order[:n_test]}
    deep = False
    short = 3 * min(size) // 2
    for index, pair in enumerate(tqdm(found, desc="reading pairs", unit="pair")):
        image, target = read_pair(pair)
        target = to_bit_depth(target, "8")
        deep |= image.dtype == np.uint16
        part = out / ("test" if index in held_out else "pairs")
        name = f"{index:05d}_{pair.key.rsplit('/', 1)[-1]}.png"
        for kind, picture in (("input", image), ("target", target)):
            (part / kind).mkdir(parents=True, exist_ok=True)
            write_image(part / kind / name, shrink_short_side(picture, short))
    small = out / "photos"
    small.mkdir(parents=True)
    names = list_images(photos)[:200]
    for index, name in enumerate(tqdm(names, desc="reading photographs", unit="photo")):
        try:
            picture = read_image(Path(photos) / name, bit_depth="8")
        except ValueError as error:
            tqdm.write(f"set aside: {error}")
            continue
        write_image(small / f"{index:04d}.png", shrink_short_side(picture, short))
    list_images(small)  # says so if none could be read
    labelled = PairData(out / "pairs" / "input", out / "pairs" / "target")
    return labelled, PairData(out / "test" / "input", out / "test" / "target"), small, deep


def train_all(
    s: PhaseSettings, pairs: PairData, test: PairData, photos: Path, out: Path, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """All phases and both baselines, with equal iterations and batches for everything that trains the target."""
    results: dict[str, dict[str, float]] = {}
    models: dict[str, Any] = {}
    evaluation = {"test": test}

    def finish(label: str, model: Any) -> None:
        results[label] = dict(model.latest_metrics["test"])
        models[label] = getattr(model, "net_g_ema", model.net_g)

    total = s.semi_iterations + s.fine_iterations
    finish("f_ISP alone", phases.run(phases.isp_options(s, pairs, evaluation, seed), out, True))
    f_isp = str(out / "experiments" / "1_fisp" / "models" / "f_isp_latest.pth")
    pseudo = str(out / "pseudo")
    generator = make_generator(f_isp)
    how = PseudoOptions(
        name="demo", photographs=str(photos), f_isp=f_isp, out=pseudo, manual_seed=seed, num_gpu=0, workers=0
    )
    built = build_pseudo_lmdb(how, generator)
    print(f"{built.written} pseudo pairs; {built.clipped:.1%} of the pseudo inputs' values were clipped.")
    print(f"A random selection of them: {save_contact_sheet(BuildFolder(pseudo), generator)}")
    semi = phases.run(phases.semi_options(s, pairs, pseudo, evaluation, seed), out, True)
    finish("semi-supervised, before fine-tuning", semi)
    print(f"The filter kept {semi.filter.kept_ratio:.0%} of the pseudo samples.")
    weights = str(out / "experiments" / "2_semi" / "models" / "net_g_latest.pth")
    fine = phases.supervised_options(
        s, pairs, evaluation, seed, name="3_finetune", iterations=s.fine_iterations, lr=s.fine_lr, weights=weights
    )
    finish("semi-supervised", phases.run(fine, out, True))
    for label, name, jitter in (
        ("supervised", "0_supervised", None),
        ("supervised + photometric jitter", "0_supervised_jitter", s.jitter),
    ):
        options = phases.supervised_options(
            s, pairs, evaluation, seed, name=name, iterations=total, lr=s.lr, jitter=jitter
        )
        finish(label, phases.run(options, out, True))
    return results, models


SYSTEMS = (
    "f_ISP alone",
    "supervised",
    "supervised + photometric jitter",
    "semi-supervised, before fine-tuning",
    "semi-supervised",
)


def report(
    results: dict[str, dict[str, float]],
    models: dict[str, Any],
    test: PairData,
    photos: Path,
    out: Path,
    seed: int,
    n_pairs: int,
    n_test: int,
    what: str,
) -> None:
    """Print the table; write ``results.json``, ``comparison.png`` and ``pseudo_pairs.png``."""
    rows = [
        {"system": name, "PSNR (dB)": f"{results[name]['psnr']:.2f}", "SSIM": f"{results[name]['ssim']:.3f}"}
        for name in SYSTEMS
    ]
    print(f"\nMean over {n_test} test pairs, {n_pairs} labelled pairs, seed {seed}:\n")
    print(text_table(rows))
    gain = results["semi-supervised"]["psnr"] - results["supervised"]["psnr"]
    print(f"\nSemi-supervised against supervised: {gain:+.2f} dB. One seed and one small data set: a demonstration.\n")
    (out / "results.json").write_text(
        json.dumps({"data": what, "seed": seed, "results": results}, indent=2) + "\n", encoding="utf-8"
    )
    comparison = comparison_grid(models, test, out / "comparison.png")
    pairs = pseudo_grid(out, photos, seed, out / "pseudo_pairs.png")
    print(f"Pictures: {comparison} and {pairs}")


def comparison_grid(models: dict[str, Any], test: PairData, path: Path) -> Path:
    """Test images in rows: input, the systems' outputs, target."""
    shown = ("supervised", "supervised + photometric jitter", "semi-supervised")
    rows = []
    names = list_images(test.input)
    for name in names[:6]:  # the simulated ones are of each test photograph in turn
        image = to_float(read_image(test.input / name))
        target = read_image(test.target / name, bit_depth="8")
        outputs = [apply(models[system], image) for system in shown]
        rows.append([to_uint8(image ** (1 / 2.2) if image.mean() < 0.2 else image), *outputs, target])
    save_grid(
        path,
        rows,
        column_titles=["input (dark ones shown with gamma 2.2)", *shown, "target"],
        cell_width=224,
    )
    return path


@torch.no_grad()
def apply(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Run a network on a float HWC image; returns uint8."""
    network.eval()
    device = next(network.parameters()).device
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(device)
    return to_uint8(network(tensor)[0].permute(1, 2, 0).cpu().numpy().clip(0, 1))


def pseudo_grid(out: Path, photos: Path, seed: int, path: Path) -> Path:
    """Photographs in rows: as they are, with updated quality, and three pseudo inputs of each."""
    generator: PseudoPairGenerator = make_generator(str(out / "experiments" / "1_fisp" / "models" / "f_isp_latest.pth"))
    draws = torch.Generator().manual_seed(seed)
    rows = []
    names = list_images(photos)
    for name in names[:4]:
        photo = read_image(photos / name, bit_depth="8")
        pair = generator.generate(torch.from_numpy(photo).permute(2, 0, 1)[None], draws)
        inputs = [generator.generate_input(pair.target, draws).input for _ in range(3)]
        as_arrays = [to_uint8(i[0].permute(1, 2, 0).numpy() ** (1 / 2.2)) for i in inputs]
        size = (192, 144)
        row = [photo, np.ascontiguousarray(pair.target[0].permute(1, 2, 0).numpy()), *as_arrays]
        rows.append([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in row])
    titles = ["photograph", "pseudo ground truth", *(f"pseudo input {i} (gamma 2.2)" for i in (1, 2, 3))]
    save_grid(path, rows, column_titles=titles)
    return path
