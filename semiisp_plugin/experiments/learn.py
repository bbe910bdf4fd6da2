"""``basicsr learn``: two folders in, a model and a page out, everything chosen by cross-validation over the pairs.

Candidates are f_ISP's two networks, the local one trained further on the pairs alone, with and without photometric
jitter, and on pseudo pairs of the photographs. What is kept is the weighted mean of their outputs that is best on pairs
they were not trained on; a weight may be 0, and often one is 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from semiisp_plugin.apps.denoise.non_local_means import denoise_input
from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.network import Inputs, load_network, save_network
from semiisp_plugin.apps.export.colour_table import cube_text
from semiisp_plugin.apps.export.exporting import average_look
from semiisp_plugin.apps.export.onnx_graph import ExportError, export_onnx
from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.arguments import program
from semiisp_plugin.data.pairs import read_pair
from semiisp_plugin.experiments.benchmark_jobs import (
    Step,
    chain,
    fold_of,
    mean_networks,
    picture,
    run_folder,
    tested,
    weighted_output,
    weights_of,
)
from semiisp_plugin.experiments.benchmark_options import Settings
from semiisp_plugin.experiments.jobs import Record, Runner, default_workers, own_folder
from semiisp_plugin.experiments.learn_data import (
    FULL_SIDE,
    LookData,
    as_given,
    described,
    inputs_are,
    look_data,
    noise_of,
)
from semiisp_plugin.experiments.tried import best_weights, psnr_of_mean
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import UNUSABLE
from semiisp_plugin.io.image_io import read_image, scan_images, to_float, to_tensor, to_uint8
from semiisp_plugin.io.picture import read_photograph
from semiisp_plugin.report.learn_report import HeldOut, Learned, summary, write_report
from semiisp_plugin.toolbox import build_network

MODEL, ONNX, CUBE = "model.pth", "model.onnx", "look.cube"
RESULT = "learned.json"
_WORK = "work"

CANDIDATES: Mapping[str, tuple[str, str]] = {
    "f_isp": ("f_isp", "f_ISP"),
    "f_isp_global": ("f_isp_global", "f_ISP, global"),
    "alone": ("supervised", "pairs alone"),
    "alone_jitter": ("supervised", "pairs alone, photometric jitter"),
    "semi": ("semi", "semi-supervised"),
}
"""Kind and label of each."""

JITTER = 0.2
"""Of the candidate with photometric jitter."""

MINUTES = {"quick": 4.0, "default": 20.0, "best": 240.0}
"""What ``--time`` means on two cores."""

_LEVELS = (
    (0.15, 2, False),
    (0.25, 2, False),
    (0.35, 3, False),
    (0.6, 3, False),
    (1.0, 3, True),
    (1.0, 5, True),
    (1.5, 5, True),
    (2, 10, True),
)
"""From the shortest: length of the trainings, as a multiple of those in docs/when_it_helps.md; folds of the
cross-validation; whether there is a learning curve."""
SHORT = _LEVELS[1]
"""What ``basicsr demo`` trains, the same on every machine: so its result is the same, too, but for rounding."""

# Seconds of one core, measured on the machine of docs/results.md: an iteration of phase 1 and one of a target, a pseudo
# pair, a megapixel that is tested.
_ISP_STEP, _TARGET_STEP, _PSEUDO_PAIR, _MEGAPIXEL = 0.036, 0.060, 0.03, 0.6
_STARTING = 12.0  # of a process
_LEAST_WEIGHT = 0.05
_WHITE, _FEWEST_WHITE = 253, 100  # levels; pixels
_LOOKED_AT = 12  # pictures that the average look is fitted to


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        length: Of the trainings, as a multiple of those in docs/when_it_helps.md.
        folds: Of cross-validation.
        curve: Whether f_ISP is also trained on fewer pairs.
        core_seconds: How long it takes, about, on one core.
    """

    length: float
    folds: int
    curve: bool
    core_seconds: float

    @property
    def settings(self) -> Settings:
        """Of all trainings."""
        return Settings(
            size=(60, 60),
            isp_iterations=round(2000 * self.length),
            isp_lr=1e-3,
            semi_iterations=round(1500 * self.length),
            fine_iterations=0,
            network="f_isp",
            warm_start=True,
            beta=float("inf"),
            draws=4,
        )


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run ``basicsr learn``; see `semiisp_plugin.arguments`.

    Raises:
        ValueError: There are too few pairs, or something else is wrong with them; or a training failed.
    """
    if len(args.pairs) > 2:
        raise ValueError("--pairs: give one folder that holds two, or the folders of inputs and of targets.")
    learn(
        args.pairs,
        args.photos,
        Path(args.out),
        minutes=minutes_of(args.time),
        seed=args.seed,
        workers=default_workers() if args.workers is None else args.workers,
        inputs=args.inputs,
    )


def minutes_of(time: str) -> float:
    """What ``--time`` means: a key of `MINUTES`, or a number."""
    return MINUTES[time] if time in MINUTES else float(time)


def learn(
    pairs: Sequence[str],
    photos: str | None,
    out: Path,
    *,
    minutes: float | None = 20.0,
    seed: int = 0,
    workers: int = 2,
    inputs: Inputs | Literal["auto"] = "auto",
) -> LearnedLook:
    """Learn a look; the same call resumes what was interrupted.

    Args:
        pairs: Folder that holds inputs and targets in two folders of usual names, or these two.
        photos: Folder of ordinary photographs, or None.
        out: Folder of the results.
        minutes: How long it may take, about; None: as long as `SHORT` takes.
        seed: Of folds, weights and batches.
        workers: Processes; 0 for this one alone.
        inputs: ``raw``, ``srgb``, or ``auto``: RAW files and images of 16 bits are RAW.

    Returns:
        What was learned.

    Raises:
        ValueError: There are too few pairs, or something else is wrong with them; or a training failed.
    """
    began = time.monotonic()
    data = look_data(pairs, photos, out / _WORK, seed)
    with own_folder(out, "learn", "--out"):
        runner = Runner(workers, quiet=True)
        runner.run([data], "looking at the pictures")
        if why := runner.failed.get(data.key):
            raise ValueError(why.partition(": ")[2])
        found = runner.noted[data.key]["result"]
        for line in described(found):
            print(line)
        if photos is None:
            print("Without photographs (--photos) it learns from the pairs alone; with few pairs they often help.")
        domain: Inputs = inputs_are(found) if inputs == "auto" else inputs
        asked = {"data": data.key, "minutes": minutes, "inputs": domain, "workers": workers}
        file = Record(out / RESULT)
        record = file.read()
        plan = _plan_of(record, asked) or make_plan(found, minutes, max(1, workers), domain)
        look = Look(data, plan, seed, domain)
        if record.get("asked") == asked and record.get("complete"):
            print(f"This was learned already: {out / MODEL}, {out / 'report.html'}. Another --time learns again.")
            return LearnedLook(look, record)
        record = {"asked": asked, "plan": msgspec.to_builtins(plan), "complete": False}
        file.write(**record)
        print(
            f"Plan: {plan.folds}-fold cross-validation, trainings of {plan.settings.isp_iterations} and "
            f"{plan.settings.semi_iterations} iterations; about {plan.core_seconds / max(1, workers) / 60:.0f} minutes."
        )
        learned = _learn(runner, look, found, out)
        paths = write_report(out, learned)
        record |= summary(learned) | {"seconds": time.monotonic() - began, "complete": True}
        file.write(**record)
        print(f"\n{learned.table().text()}\n{learned.verdict()}\n")
        print(f"The model is {out / MODEL}; what it does is shown in {paths['report.html']}.")
        print(f"Use it: {program()} enhance --weights {out / MODEL} PHOTOS --out DIR")
        return LearnedLook(look, record)


def make_plan(found: Mapping[str, Any], minutes: float | None, workers: int, domain: Inputs) -> Plan:
    """The longest trainings and most folds that fit into the time on this machine; for None see `SHORT`."""
    pixels = sum(noted["size"][0] * noted["size"][1] for noted in found["measured"].values())
    speed = _slowness(domain == "srgb")
    plans = []
    for length, folds, curve in (SHORT,) if minutes is None else _LEVELS:
        plan = Plan(length, min(folds, found["pairs"] if found["scenes"] == 1 else found["scenes"]), curve, 0.0)
        settings = plan.settings
        targets = 3 if found["photographs"] else 2
        chains = settings.isp_iterations * _ISP_STEP + targets * settings.semi_iterations * _TARGET_STEP
        chains += settings.draws * found["photographs"] * _PSEUDO_PAIR + _STARTING
        work = (plan.folds + 1) * chains + 2 * len(CANDIDATES) * pixels / 1e6 * _MEGAPIXEL
        work += (6 * settings.isp_iterations * _ISP_STEP if curve else 0) + 60
        plans.append(replace(plan, core_seconds=work * speed))
    fitting = [plan for plan in plans if minutes and plan.core_seconds <= minutes * 60 * workers]
    return fitting[-1] if fitting else plans[0]


def _slowness(image_enhancement: bool) -> float:
    """Time that an iteration of phase 1 takes here, as a multiple of the one that costs are given for."""
    generator = torch.Generator().manual_seed(0)
    network = PQDynamicISP(inverse_tone_mapping=image_enhancement, grid=(2, 2), thumbnail=64)
    both = [network, PQDynamicISP(inverse_tone_mapping=image_enhancement, thumbnail=64)]
    image = torch.rand(4, 3, 60, 60, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        sum((one(image) - image).square().mean() for one in both).backward()  # type: ignore[union-attr]
        times.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return max(0.2, float(np.median(times)) / (0.85 * _ISP_STEP))


def _plan_of(record: Mapping[str, Any], asked: Mapping[str, Any]) -> Plan | None:
    """That of an earlier call of the same: this machine may be as busy now as it was not then."""
    return msgspec.convert(record["plan"], Plan) if record.get("asked") == asked and record.get("plan") else None


def _do(runner: Runner, jobs: Sequence[Step], what: str, **more: Any) -> None:
    """Do jobs, all of them.

    Raises:
        ValueError: One failed.
    """
    runner.run(jobs, what, **more)
    for key, why in runner.failed.items():
        if not why.startswith("needs "):
            raise ValueError(f"{why.partition(': ')[2]} ({key}; what is done is kept: the same command resumes.)")


@dataclass(frozen=True)
class Look:
    """A look that is to be learned.

    Attributes:
        data: Pairs and photographs.
        plan: What is trained.
        seed: Of weights and batches.
        inputs: What the pairs' inputs are.
    """

    data: LookData
    plan: Plan
    seed: int
    inputs: Inputs

    def trained(self, name: str, data: Step | None = None) -> Step:
        """The job that trains a candidate, on all pairs or on other data."""
        kind, settings = CANDIDATES[name][0], self.plan.settings
        if name == "alone_jitter":
            settings = msgspec.structs.replace(settings, augment=JITTER)
        return chain(kind, settings, data or self.data, self.seed, image_enhancement=self.inputs == "srgb")

    def network(self, weights: Mapping[str, float]) -> tuple[torch.nn.Module, dict[str, Any]]:
        """Candidates that are trained on all pairs, as one network, and its section of an option file."""
        files = [
            run_folder(self.trained(name)) / ("net_global_latest.pth" if name == "f_isp_global" else "net_g_latest.pth")
            for name in weights
        ]
        loaded = [load_network(weights=file) for file in files]
        if len(loaded) == 1:
            return loaded[0].network, loaded[0].options
        options = {
            "type": "WeightedMean",
            "networks": [one.options for one in loaded],
            "weights": [round(weight, 6) for weight in weights.values()],
        }
        network = build_network(options)
        for part, one in zip(network.networks, loaded, strict=True):  # type: ignore[arg-type]  # a ModuleList
            part.load_state_dict(one.network.state_dict())
        return network.eval(), options


@dataclass(frozen=True)
class LearnedLook:
    """What `learn` has made.

    Attributes:
        look: What was learned, and how.
        record: What ``learned.json`` holds.
    """

    look: Look
    record: dict[str, Any]

    def network(self, weights: Mapping[str, float], workers: int = 0) -> torch.nn.Module:
        """A weighted mean of candidates that are trained on all pairs; those that are not yet are trained first.

        Args:
            weights: Of the candidates; ``record["of_pairs_alone"]["kept"]`` are the best of those without photographs.
            workers: See `learn`.
        """
        _do(Runner(workers, quiet=True), [self.look.trained(name) for name in weights], "training on all pairs")
        return self.look.network(weights)[0]


def _learn(runner: Runner, look: Look, found: Mapping[str, Any], out: Path) -> Learned:
    """Cross-validation, the choice, and the trainings on all pairs."""
    data, plan, domain = look.data, look.plan, look.inputs

    of_target = plan.settings.semi_iterations * _TARGET_STEP
    costs = {
        "f_isp": plan.settings.isp_iterations * _ISP_STEP,
        "pseudo": plan.settings.draws * found["photographs"] * _PSEUDO_PAIR,
        "supervised": of_target,
        "semi": of_target,
    }

    def cost(step: Step) -> float:
        return costs.get(step.kind, 5.0)

    names = [name for name in CANDIDATES if name != "semi" or found["photographs"]]
    folds = [fold_of(data, fold, plan.folds) for fold in range(plan.folds)]
    kinds = {name: CANDIDATES[name][0] for name in names}
    tests = [[tested([look.trained(name, fold)], [kinds[name]]) for fold in folds] for name in names]
    weighing = weights_of(data, tests)
    halves = [fold_of(data, k, 2) for k in range(2)] if plan.curve and found["scenes"] == 1 else []
    quarters = [fold_of(half, k, 2) for half in halves for k in range(2)] if found["pairs"] >= 4 * 4 else []
    curve = [
        [tested([look.trained("f_isp", part)], ["f_isp"]) for part in parts] for parts in (quarters, halves) if parts
    ]
    if curve and plan.folds > 2:
        curve.append(tests[0])  # f_ISP's own
    _do(runner, [weighing, *(test for tests in curve for test in tests)], "cross-validation", cost=cost)
    result = runner.noted[weighing.key]["result"]
    products = np.array(result["products"])
    chosen = choose(names, products)
    of_pairs = [name for name in names if name != "semi"]  # they stand first
    supervised = choose(of_pairs, products[:, : len(of_pairs), : len(of_pairs)])
    _do(runner, [look.trained(name) for name in chosen], "training on all pairs", cost=cost)
    network, options = look.network(chosen)
    save_network(out / MODEL, options, network.state_dict(), domain, denoised=found["denoised"])
    of_fewer = [_point([runner.noted[test.key]["result"]["psnr"] for test in part], part) for part in curve]
    learned = Learned(
        labels={name: CANDIDATES[name][1] for name in names},
        images=result["images"],
        psnr={name: psnr_of_mean(products, weights) for name, weights in zip(names, np.eye(len(names)), strict=True)},
        chosen=chosen,
        chosen_psnr=psnr_of_mean(products, [chosen.get(name, 0.0) for name in names]),
        supervised=supervised,
        supervised_psnr=psnr_of_mean(products, [supervised.get(name, 0.0) for name in names]),
        of_fewer=of_fewer,
        facts=[("data", text) for text in described(found)],
        photographs=found["photographs"],
    )
    learned.facts += _export(out, network, [pair.input for pair in data.data().originals[:_LOOKED_AT]], domain)
    enhancer = Enhancer(network, denoise=denoise_input if found["denoised"] else None)
    _show(learned, dict(zip(names, tests, strict=True)), enhancer, data, domain)
    return learned


def _export(out: Path, network: torch.nn.Module, inputs: list[str], domain: Inputs) -> list[tuple[str, str]]:
    """Write the network in other programs' formats; returns what was written, and why something was not."""
    said = []
    try:
        worst = export_onnx(network, out / ONNX)
        said.append((ONNX, f"differs from the network by at most {worst:.1e}, where white is 1"))
    except ExportError as error:
        said.append((ONNX, f"not written: {error}"))
    look = average_look(Enhancer(network), inputs, points=33, inputs=domain)
    about = f"the average look, for other programs; against the network: {look.error}"
    write_atomically(out / CUBE, cube_text(look.table, "basicsr learn", [about]))
    return [*said, (CUBE, about)]


def _point(psnr: Sequence[Sequence[float]], tests: Sequence[Step]) -> tuple[float, float]:
    """How many pairs were trained on, and the mean PSNR on those that were not."""
    pairs = [len(test.needs["data"].data().originals) for test in tests]
    return float(np.mean(pairs)), float(np.mean([value for part in psnr for value in part]))


def _show(
    learned: Learned,
    tests: Mapping[str, Sequence[Step]],
    enhancer: Enhancer,
    data: LookData,
    domain: Inputs,
) -> None:
    """Put pictures into what was learned: pairs from the best to the worst, the worst, and photographs."""
    order = np.argsort(learned.chosen_psnr)
    typical = {int(order[int(share * (len(order) - 1))]) for share in (1, 0.75, 0.5, 0.25)}
    pairs = {}
    for fold, of_data in enumerate(next(iter(tests.values()))):
        mixes = [
            [(weight, mean_networks(tests[name][fold])) for name, weight in weights.items()]
            for weights in (learned.chosen, learned.supervised)
        ]
        for pair in of_data.needs["data"].data().test:
            k = list(learned.images).index(pair.key)
            if k in typical or k in order[:4]:
                image, target = read_pair(pair)
                output, alone = (picture(weighted_output(mix, to_tensor(image)[None])) for mix in mixes)
                given = to_float(read_image(as_given(pair)))
                shown = given if domain == "srgb" else given ** (1 / 2.2)
                pairs[k] = HeldOut(
                    name=pair.key,
                    psnr=float(learned.chosen_psnr[k]),
                    psnr_alone=float(learned.supervised_psnr[k]),
                    input=to_uint8(shown),
                    output=output,
                    alone=alone,
                    target=to_uint8(to_float(target)),
                )
    learned.typical = [pairs[k] for k in sorted(typical, key=lambda k: -learned.chosen_psnr[k])]
    learned.worst = [pairs[int(k)] for k in order[:4]]
    learned.facts += _flaws(list(pairs.values()))
    if domain != "srgb" or data.settings["photos"] is None:
        return
    for name in scan_images(data.settings["photos"]).images[:3]:
        with suppress(*UNUSABLE):
            photograph = read_photograph(Path(data.settings["photos"]) / name, short_side=FULL_SIDE)
            learned.pictures[name] = photograph, enhancer.enhance_image(photograph)


def _flaws(pairs: Sequence[HeldOut]) -> list[tuple[str, str]]:
    """What is wrong with results at full size, in words: noise, and highlights that are tinted."""
    noise = [[noise_of(image) for image in (pair.output, pair.target)] for pair in pairs]
    tint = [[tint_of(image, pair.input) for image in (pair.output, pair.target)] for pair in pairs]
    flaws = []
    for what, least, levels in (("The results are noisy", 3.0, noise), ("Highlights are tinted", 8.0, tint)):
        known = [both for both in levels if None not in both]
        of_output, of_target = np.median(np.array(known or [[0, 0]], float), axis=0)
        if of_output > max(least, 2 * of_target):
            flaws.append((what, f"by {of_output:.0f} of 255 levels; the targets by {of_target:.0f}"))
    return flaws


def tint_of(image: np.ndarray, given: np.ndarray) -> float | None:
    """By how many levels the colours differ where the input is white.

    Args:
        image: RGB (H, W, 3) ``uint8``.
        given: The input, likewise.

    Returns:
        The mean difference of a pixel's largest and smallest value; None where next to nothing is white.
    """
    white = (given >= _WHITE).all(2)
    if white.sum() < _FEWEST_WHITE:
        return None
    colours = image[white].astype(float)
    return float((colours.max(1) - colours.min(1)).mean())


def choose(names: Sequence[str], products: np.ndarray) -> dict[str, float]:
    """Weights of the candidates that are kept; the mean of several only where it is better by 0.05 dB.

    Args:
        names: Of the candidates.
        products: See `semiisp_plugin.experiments.tried.best_weights`.
    """
    single = [float(psnr_of_mean(products, weights).mean()) for weights in np.eye(len(names))]
    best = int(np.argmax(single))
    weights = np.array(best_weights(products))
    weights[weights < _LEAST_WEIGHT] = 0
    weights /= weights.sum()
    if psnr_of_mean(products, weights).mean() < single[best] + 0.05:
        return {names[best]: 1.0}
    return {name: float(weight) for name, weight in zip(names, weights, strict=True) if weight}
