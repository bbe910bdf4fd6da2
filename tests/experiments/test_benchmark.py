"""``basicsr benchmark`` from end to end at toy size, its choices, and what it does again after an interruption."""

import argparse
import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
import torch
import yaml
from helpers import touch, values_of

from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair
from semiisp_plugin.experiments import benchmark, benchmark_jobs
from semiisp_plugin.experiments.benchmark import Run, job_of
from semiisp_plugin.experiments.benchmark_data import Data, PairData
from semiisp_plugin.experiments.benchmark_jobs import METRICS, Step, choice, run_folder
from semiisp_plugin.experiments.benchmark_options import Rival, complete_benchmark_options
from semiisp_plugin.experiments.jobs import perform
from semiisp_plugin.io.image_io import read_image, to_tensor, write_image
from semiisp_plugin.models.validation import measure
from semiisp_plugin.options import OptionError, Source

TASK = {"type": "simulation", "pairs": [5], "tests": 2, "max_photographs": 3, "simulated_size": [48, 60]}
OPTIONS = """
settings: {size: [32, 40], isp_iterations: 4, isp_thumbnail: 32, semi_iterations: 4, fine_iterations: 2,
  network: {type: SepLUT, n_vertices_3d: 5, n_vertices_1d: 5, thumbnail: 32, identity_start: true}}
systems:
  f_isp:
  f_isp_global:
  supervised:
  pseudo_only:
  mean_teacher:
  paper:
  before_fine:
  no_usq: {settings: {noise: estimated}}
  of_three: {kind: semi, settings: {candidates: 3, fine_iterations: 0}}
  warm: {kind: supervised, settings: {network: f_isp, warm_start: true, lr: 0}}
  warm_global: {kind: supervised, settings: {network: f_isp_global, warm_start: true, lr: 0}}
  guided: {kind: supervised, settings: {guided: true, lr: 0}}
  guided_semi: {kind: semi, settings: {guided: true}}
  online: {kind: semi, settings: {online: true, fine_iterations: 0}}
  full: {kind: supervised, settings: {full_size: [44, 52]}}
  learned: {kind: semi, group: source, settings: {fine_iterations: 0, source_iterations: 3,
    source_network: {type: SRISP, thumbnail: 32, entries: 2, num_feat: 4}}}
  k_fold: {kind: semi, settings: {isp_folds: 2, lookalikes: 2, fine_iterations: 0}}
  rounds: {kind: semi, settings: {network: f_isp, rounds: 2, fine_iterations: 0}}
  mean: {kind: average, among: [f_isp, supervised]}
  best: {kind: choose, among: [supervised, f_isp, mean], folds: 2, group: chosen}
  weighed: {kind: weigh, among: [supervised, f_isp], folds: 2, group: chosen}
"""


def make_options(out: Path, **changes):
    base = {"name": "toy", "tasks": {"toy": {**TASK, "short_side": 32}}, "seeds": [0], "pictures": 0, "out": str(out)}
    return complete_benchmark_options({**base, **yaml.safe_load(OPTIONS), **changes}, Source("toy.yml"))


def ending(options, system: str, *, pairs: int = 5, seed: int = 0, **settings) -> Step:
    """The training that ends a run, with settings of its system changed."""
    given = options.systems[system]
    changed = msgspec.structs.replace(given, settings={**given.settings, **settings})
    options = msgspec.structs.replace(options, systems={**options.systems, system: changed})
    return job_of(options, Run("toy", pairs, seed, system)).needs["network 0"]


def weights_of(step: Step) -> Path:
    return run_folder(step) / "net_g_latest.pth"


def cells_in(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text())["cells"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Options, cells by system, and files of the report."""
    out = tmp_path_factory.mktemp("benchmark")
    options = make_options(out, pictures=1, contrasts=[{"title": "gain", "of": "paper", "over": ["supervised"]}])
    paths = benchmark.run(options, command="basicsr benchmark -opt toy.yml", workers=0)
    return options, {cell["system"]: cell for cell in cells_in(out)}, paths


@pytest.mark.slow
def test_every_system_is_tested(finished):
    options, cells, paths = finished
    assert list(cells) == list(options.systems)
    for system, cell in cells.items():
        assert len(cell["test"]["images"]) == 2
        assert all(map(math.isfinite, cell["test"]["psnr"] + cell["test"]["ssim"]))
        if cell["kept_ratio"]:
            assert options.systems[system].kind == "semi"
            assert system != "rounds"
        assert bool(cell["chosen"]) == (system in ("best", "weighed"))
    pseudo = [ending(options, name).needs["pseudo"].folder for name in ("of_three", "before_fine")]
    of_three, of_one = (values_of(folder / "pseudo" / "lq.lmdb") for folder in pseudo)
    assert (of_three.keys() == of_one.keys(), of_three == of_one) == (True, False)
    assert "pictures.jpg" in {path.name for path in paths.values() if path.is_file()}
    results = json.loads(paths["results.json"].read_text())
    assert results["failed"] == []
    found = {source["system"]: source for source in results["sources"]}
    assert set(found) == {"paper", "of_three", "learned", "k_fold"}
    for source in found.values():
        assert 0 < source["psnr"] <= source["best"]
        assert source["spread"] > 0
        assert source["real_spread"] == found["paper"]["real_spread"] > 0
    assert "SRISP" not in paths["report.md"].read_text()
    assert "| learned " in paths["report.md"].read_text().partition("The sources of pseudo inputs")[2]


@pytest.mark.slow
def test_phases_are_shared(finished):
    made = Counter(path.name.partition("-")[0] for path in finished[0].cache.iterdir())
    # Two folds have an f_ISP, a supervised network and three tests each. Seven sets of pseudo pairs: that of most
    # systems, without USQ, chosen from candidates, online, of a network, of the folds' f_ISPs, of the second round.
    # before_fine is paper's phase 2, and f_isp_global is trained with f_isp. Four sources are tested by
    # themselves.
    expected = {
        "data": 2,
        "fold": 2,
        "f_isp": 1 + 2,
        "pseudo": 7,
        "source": 1,
        "judge": 5,
        "guide": 2,
        "supervised": 5 + 2,
        "pseudo_only": 1,
    }
    rest = {
        "source": 1,
        "judge": 4,
        "mean_teacher": 1,
        "semi": 9,
        "finetune": 3,
        "test": len(finished[1]) - 2 + 6,
        "choose": 1,
        "weigh": 1,
        "weights": 1,
    }
    assert made == expected | rest


@pytest.mark.slow
def test_an_average_is_of_outputs_at_full_resolution(finished):
    options, cells, _ = finished
    job = job_of(options, Run("toy", 5, 0, "mean"))
    pair = job.needs["data"].data().test[0]
    image, target = (to_tensor(picture) for picture in read_pair(pair))
    assert read_image(job.folder / "outputs" / "0.png").shape == (48, 60, 3)
    networks = [load_network(weights=weights_of(ending(options, name))).network for name in ("f_isp", "supervised")]
    mean = sum(network(image[None])[0].clamp(0, 1) for network in networks) / 2
    assert cells["mean"]["test"]["images"][0] == pair.key
    assert cells["mean"]["test"]["psnr"][0] == pytest.approx(measure(mean, target, METRICS)["psnr"], abs=1e-3)


def test_a_target_in_full_size_sees_pairs_and_photographs_at_one_scale(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(10):
        write_image(tmp_path / "photographs" / f"{k}.png", rng.integers(256, size=(100, 120, 3), dtype=np.uint8))
    task = {**TASK, "short_side": 32, "photographs": str(tmp_path / "photographs")}
    options = make_options(tmp_path / "out", tasks={"toy": task})
    made = ending(options, "full").needs["data"]
    made.run(resume=False, progress=False)
    for folder, count in ((made.data().labelled.target, 5), (made.data().photos, 3)):
        sizes = [min(read_image(path).shape[:2]) for path in folder.iterdir()]
        assert sizes == [48] * count


@pytest.mark.slow
def test_the_choice_is_by_all_labelled_pairs(finished):
    options, cells, _ = finished
    job = job_of(options, Run("toy", 5, 0, "best"))
    labelled = sorted(pair.key for pair in job.needs["data"].data().originals)
    for k in range(3):
        tests = [job.needs[f"{k} fold {fold}"].record.read()["result"] for fold in range(2)]
        assert sorted(image for test in tests for image in test["images"]) == labelled
    (label,) = cells["best"]["chosen"]
    chosen = next(name for name, system in options.systems.items() if system.label == label)
    assert cells["best"]["test"] == cells[chosen]["test"]


@pytest.mark.slow
def test_weights_are_of_outputs_that_were_not_trained_on(finished):
    """They are worth no less in the folds than any other mix of the same; their test is of the same weighted mean."""
    options, cells, _ = finished
    job = job_of(options, Run("toy", 5, 0, "weighed"))
    weights = job.record.read()["result"]["weights"]

    def outputs(tests: list[Step], pair: Pair) -> torch.Tensor:
        image = to_tensor(read_pair(pair)[0])[None]
        return torch.stack([benchmark_jobs.mean_networks(test)[0](image)[0].clamp(0, 1) for test in tests])

    def mixed(tests: list[Step], pairs: list[Pair], weights: list[float]) -> list[float]:
        mixes = [torch.einsum("n,nchw->chw", torch.tensor(weights).float(), outputs(tests, pair)) for pair in pairs]
        targets = [to_tensor(read_pair(pair)[1]) for pair in pairs]
        return [measure(mix, target, METRICS)["psnr"] for mix, target in zip(mixes, targets, strict=True)]

    def in_folds(weights: list[float]) -> float:
        psnr: list[float] = []
        for fold in range(2):
            tests = [job.needs["weights"].needs[f"{k} fold {fold}"] for k in range(2)]
            psnr += mixed(tests, tests[0].needs["data"].data().test, weights)
        return sum(psnr) / len(psnr)

    assert in_folds(weights) >= max(in_folds([w, 1 - w]) for w in (0, 0.25, 0.5, 0.75, 1)) - 1e-3
    expected = mixed([job.needs["0"], job.needs["1"]], job.needs["data"].data().test, weights)
    assert cells["weighed"]["test"]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_a_penalty_on_tables_is_of_the_target_alone(tmp_path):
    options, data = make_options(tmp_path), Data(PairData(tmp_path, tmp_path), [], [], tmp_path)
    for system in ("supervised", "pseudo_only", "mean_teacher", "before_fine", "paper"):
        without, job = ending(options, system), ending(options, system, table_penalty=True)
        assert "table_penalty" not in without.settings  # jobs from before there was such a setting keep their keys
        assert job.key != without.key
        assert all(job.needs[part].key == step.key for part, step in without.needs.items() if part != "start")
        sections = [benchmark_jobs._target_options(step, data)["train"] for step in (without, job)]
        assert sections == [sections[0], {**sections[0], "table_penalty": {}}]
        assert "table_penalty" not in sections[0]


def test_a_flow_is_trained_by_its_likelihood(tmp_path):
    options, data = make_options(tmp_path), Data(PairData(tmp_path, tmp_path), [], [], tmp_path)
    for system in ("supervised", "pseudo_only", "mean_teacher", "before_fine", "paper"):
        train = benchmark_jobs._target_options(ending(options, system, network={"type": "LLFlow"}), data)["train"]
        assert train["likelihood"] == {}
        assert "pixel_opt" not in train


def test_folds_are_pooled(tmp_path):
    """Not averaged; what has a PSNR that is no number does not win; the test has no say."""

    def done(psnr: list[float | None]) -> Step:
        step = Step("test", 0, {"psnr": psnr}, tmp_path, {"data": Step("data", 0, {})})
        step.record.write(result={"psnr": psnr})
        return step

    folds = [[[24.0, 24.0], [18.0]], [[20.0, 20.0], [25.0]], [[40.0, None], [40.0]]]
    job = choice("choose", [done([psnr]) for psnr in (10.0, 20.0, 30.0)], [list(map(done, tests)) for tests in folds])
    expected = {"psnr": [10.0], "chosen": 0, "means": [22.0, pytest.approx(65 / 3), -math.inf]}
    assert benchmark_jobs._choose(job) == expected


@pytest.mark.slow
def test_a_warm_start_begins_with_f_isp(finished):
    options, cells, _ = finished
    for name in ("", "_global"):
        assert cells[f"warm{name}"]["test"] == cells[f"f_isp{name}"]["test"]  # its learning rate is 0
    for system in ("supervised", "pseudo_only", "mean_teacher", "before_fine"):
        job = ending(options, system, network="f_isp", warm_start=True)
        started = benchmark_jobs._target_options(job, job.needs["data"].data())
        assert started["path"]["pretrain_network_g"] == str(weights_of(ending(options, "f_isp")))


@pytest.mark.slow
def test_guided_inputs_are_the_outputs_of_f_isp(finished):
    options, cells, _ = finished
    network = load_network(weights=weights_of(ending(options, "f_isp"))).network
    labelled, semi = (ending(options, name).needs for name in ("guided", "guided_semi"))
    pseudo = semi["start"].needs["pseudo"]
    made = pseudo.needs["pseudo"].folder / "pseudo"
    sources = [dataclasses.astuple(labelled["data"].data().labelled), (made / "lq.lmdb", made / "gt.lmdb")]
    for guide, source in zip((labelled["guide"], pseudo), sources, strict=True):
        guided = match_pairs(guide.folder / "guided" / "input", guide.folder / "guided" / "target")
        for before, after in zip(match_pairs(*source), guided, strict=True):
            (image, target), (output, kept) = read_pair(before), read_pair(after)
            np.testing.assert_allclose(to_tensor(output), network(to_tensor(image)[None])[0], atol=1e-4)
            np.testing.assert_array_equal(target, kept)
    # A target that begins as the identity, and learns nothing, leaves them as they are; in the test as well.
    assert cells["guided"]["test"]["psnr"] == pytest.approx(cells["f_isp"]["test"]["psnr"], abs=0.1)


@pytest.mark.slow
def test_rounds_make_new_pseudo_pairs_with_the_target(finished, monkeypatch):
    last, given = ending(finished[0], "rounds"), []
    monkeypatch.setattr(benchmark_jobs, "build_pseudo_lmdb", lambda how, made, **_: given.append(made) or how)
    monkeypatch.setattr(benchmark_jobs, "PseudoOptions", lambda **_: argparse.Namespace(clipped=0, written=0, kept=0))
    for step in (last.needs["pseudo"], last.needs["start"].needs["pseudo"]):
        benchmark_jobs.work(step, progress=False)
    for made, teacher in zip(given, (last.needs["start"], ending(finished[0], "f_isp")), strict=True):
        weights = torch.load(weights_of(teacher), weights_only=True)["params"]
        assert all(torch.equal(value, weights[name]) for name, value in made.network.state_dict().items())


@pytest.mark.slow
def test_again_does_nothing(finished, monkeypatch):
    options, cells, _ = finished
    monkeypatch.setattr(benchmark_jobs, "work", lambda step, _: pytest.fail(f"{step.key} was done again"))
    benchmark.run(options, workers=0)
    assert cells_in(options.folder) == list(cells.values())


@pytest.mark.slow
def test_a_failed_job_takes_along_only_what_needs_it(tiny_data, tmp_path, monkeypatch):
    """On two tasks; the report is there after each seed, and the command fails."""
    work, after_first, done = benchmark_jobs.work, [], []

    def fail(step, progress):
        if step.seed == 1 and not after_first:
            after_first.extend(cells_in(tmp_path))
        if step.seed == 1 and step.kind == "pseudo":
            raise OSError("No space left on device")
        return work(step, progress)

    def runs(cells) -> set[tuple]:
        return {(cell["task"], cell["system"], cell["seed"]) for cell in cells}

    folders = {"dataroot_lq": str(tiny_data / "pairs" / "input"), "dataroot_gt": str(tiny_data / "pairs" / "target")}
    real = {"type": "pairs", "pairs": [4], **folders, "photographs": str(tiny_data / "photos"), "narrow": True}
    systems = {"supervised": None, "before_fine": None}
    options = make_options(tmp_path, seeds=[0, 1], tasks={"toy": TASK, "real": real}, systems=systems)
    everything = {(task, system, seed) for task in options.tasks for system in systems for seed in (0, 1)}
    monkeypatch.setattr(benchmark, "load_benchmark_options", lambda *_: options)
    arguments = argparse.Namespace(opt="toy.yml", table=None, size=None, force_yml=[], workers=0)
    monkeypatch.setattr(benchmark_jobs, "work", fail)
    with pytest.raises(RuntimeError, match=r"6 jobs failed; .* No space left on device"):  # pseudo, semi, test
        benchmark.run_from_arguments(arguments)
    assert runs(after_first) == {run for run in everything if run[2] == 0}
    assert runs(cells_in(tmp_path)) == everything - {(task, "before_fine", 1) for task in options.tasks}
    # Another try does what failed, and no more.
    monkeypatch.setattr(benchmark_jobs, "work", lambda step, *rest: done.append(step.kind) or work(step, *rest))
    benchmark.run_from_arguments(arguments)
    assert Counter(done) == {"pseudo": 2, "semi": 2, "test": 2}
    assert runs(cells_in(tmp_path)) == everything


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(finished, tmp_path, monkeypatch):
    """With a state on disk the job resumes, and what the filter kept is that of the whole run."""
    began = []

    def train(options, *, auto_resume, on_log, progress, quiet):
        began.append((auto_resume, options["logger"]["save_checkpoint_freq"]))
        touch(Path(options["root_path"]), ["experiments/run/training_states/500.state"])
        for iteration in (1000, 1500, 2000) if auto_resume else (500, 1000):
            on_log(iteration, {"loss": 1.0, "pseudo/kept_ratio": iteration / 2000 - auto_resume / 10})
        if not auto_resume:
            raise KeyboardInterrupt

    monkeypatch.setattr(benchmark_jobs, "train", train)
    job = dataclasses.replace(ending(finished[0], "before_fine", semi_iterations=2000), root=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        perform(job)
    with (job.folder / "seen.jsonl").open("a") as file:
        file.write("[1500, 0.")  # what the interruption cut short
    assert perform(job)["result"]["kept_ratio"] == [[500, 0.25], [1000, 0.4], [1500, 0.65], [2000, 0.9]]
    assert began == [(False, 400), (True, 400)]  # five states on the way of a long run


def test_too_few_photographs_are_said_before_anything_is_done(tmp_path, tiny_data):
    second = {"type": "simulation", "pairs": [2], "photographs": str(tiny_data / "photos"), "tests": 4}
    with pytest.raises(ValueError, match="leave none without a label"):
        benchmark.run(make_options(tmp_path / "out", tasks={"toy": TASK, "second": second}), workers=0)
    assert not (tmp_path / "out" / "cache").exists()


def test_keys_name_all_that_matters(tmp_path):
    options = make_options(tmp_path)
    changes = {"beta": 2.0, "fine_lr": 1e-5, "isp_lr": 1e-5, "source": "upi", "candidates": 4, "guided": True}
    jobs = [ending(options, "paper", **{name: value}) for name, value in changes.items()]
    jobs += [ending(options, "paper"), ending(options, "paper", seed=1), ending(options, "paper", pairs=6)]
    jobs += [ending(options, "rounds", warm_start=warm, rounds=n) for warm in (False, True) for n in (1, 2)]
    jobs += [job_of(options, Run("toy", 5, 0, name)) for name in options.systems]
    jobs.append(ending(make_options(tmp_path, tasks={"toy": {**TASK, "exposure": [0, 1]}}), "paper"))
    assert len({job.key for job in jobs}) == len(jobs)
    named = make_options(tmp_path, tasks={"toy": {**TASK, "short_side": 32, "title": "A title"}})
    assert ending(named, "paper").key == ending(options, "paper").key
    # A job's folder does not depend on what comes after: phase 3 left out, its phase 2 is that of another system.
    assert ending(options, "paper", fine_iterations=0).key == ending(options, "before_fine").key
    # What trains in one go trains as long in all.
    in_one_go = ending(options, "supervised").settings
    assert (in_one_go["iterations"], in_one_go["batch"]) == (6, 10)
    infinite = ending(options, "before_fine", beta=math.inf).settings
    json.dumps(infinite, allow_nan=False)
    assert benchmark_jobs.step_settings(infinite).beta == math.inf


@pytest.mark.slow
def test_rivals_learn_from_unlabelled_inputs(tmp_path, tiny_data):
    """Without pseudo pairs, but for the adversary; the method, from both."""
    lq, gt = (str(tiny_data / "pairs" / kind) for kind in ("input", "target"))
    task = {"type": "pairs", "pairs": [2], "dataroot_lq": lq, "dataroot_gt": gt, "unlabelled": 2, "short_side": 40}
    systems = {kind: {"kind": kind} for kind in get_args(Rival)}
    systems |= {"supervised": None, "both": {"kind": "semi", "settings": {"consistency": True, "fine_iterations": 0}}}
    options = make_options(tmp_path, tasks={"toy": {**task, "photographs": str(tiny_data / "photos")}}, systems=systems)
    benchmark.run(options, workers=0)
    assert {cell["system"] for cell in cells_in(tmp_path)} == set(systems)
    made = Counter(path.name.partition("-")[0] for path in options.cache.iterdir())
    assert (made["pseudo"], made["f_isp"], made["semi"]) == (1, 1, 1)
    for kind in get_args(Rival):
        written = yaml.safe_load((run_folder(ending(options, kind, pairs=2)).parent / "options.yml").read_text())
        data = written["datasets"]["train"]
        assert ("pseudo" in data) == (kind == "adversarial")
        assert data["unlabelled_per_batch"] == (4 if "pseudo" in data else 8)
    written = yaml.safe_load((run_folder(ending(options, "both", pairs=2)).parent / "options.yml").read_text())
    assert written["datasets"]["train"]["unlabelled_per_batch"] == 4
    assert written["train"]["consistency"]["rampup_iter"] == 1


def test_what_unlabelled_inputs_do_not_go_with(tmp_path):
    with pytest.raises(OptionError, match="consistency is on unlabelled inputs, of which the task 'toy' has none"):
        make_options(tmp_path, systems={"supervised": None, "x": {"kind": "semi", "settings": {"consistency": True}}})


@pytest.mark.slow
def test_workers(finished, tmp_path):
    """Processes of their own give the same numbers."""
    benchmark.run(make_options(tmp_path, systems={"supervised": None}), workers=1)
    found, expected = cells_in(tmp_path)[0]["test"], finished[1]["supervised"]["test"]
    assert found["psnr"] == pytest.approx(expected["psnr"], rel=1e-6)
