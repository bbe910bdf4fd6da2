"""``basicsr benchmark`` from end to end at toy size, its choices, and what it does again after an interruption."""

import argparse
import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import yaml
from helpers import values_of

from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.data.pairs import match_pairs, read_pair
from semiisp_plugin.experiments import benchmark, benchmark_jobs
from semiisp_plugin.experiments.benchmark import Run, job_of, runs
from semiisp_plugin.experiments.benchmark_data import PairData
from semiisp_plugin.experiments.benchmark_jobs import METRICS, Step, choice, run_folder
from semiisp_plugin.experiments.benchmark_options import complete_benchmark_options
from semiisp_plugin.experiments.jobs import Runner, perform
from semiisp_plugin.io.image_io import read_image, to_float, to_tensor
from semiisp_plugin.models.validation import measure
from semiisp_plugin.options import Source

TASK = {
    "type": "simulation",
    "pairs": [5],
    "tests": 2,
    "max_photographs": 3,
    "simulated_size": [48, 60],
    "short_side": 32,
}
OF_F_ISP = {"network": "f_isp"}
OPTIONS = """
name: toy
seeds: [0]
pictures: 0
settings:
  size: [32, 40]
  isp_iterations: 4
  isp_thumbnail: 32
  semi_iterations: 4
  fine_iterations: 2
  network: {type: SepLUT, n_vertices_3d: 5, n_vertices_1d: 5, thumbnail: 32, identity_start: true}
systems:
  f_isp:
  supervised:
  pseudo_only:
  mean_teacher:
  paper:
  before_fine:
  no_usq: {settings: {noise: estimated}}
  of_three: {kind: semi, settings: {candidates: 3, fine_iterations: 0}}
  warm: {kind: supervised, settings: {network: f_isp, warm_start: true, lr: 0}}
  guided: {kind: supervised, settings: {guided: true, lr: 0}}
  guided_semi: {kind: semi, settings: {guided: true}}
  rounds: {kind: semi, settings: {network: f_isp, rounds: 2, fine_iterations: 0}}
  mean: {kind: average, among: [f_isp, supervised]}
  best: {kind: choose, among: [supervised, f_isp, mean], folds: 2, group: chosen}
"""


def make_options(out: Path, **changes):
    values = {**yaml.safe_load(OPTIONS), "tasks": {"toy": TASK}, "out": str(out), **changes}
    return complete_benchmark_options(values, Source("toy.yml"))


def ending(options, system: str, *, pairs: int = 5, seed: int = 0, **settings) -> Step:
    """The training that ends a run, with settings of its system changed."""
    given = options.systems[system]
    changed = msgspec.structs.replace(given, settings={**given.settings, **settings})
    options = msgspec.structs.replace(options, systems={**options.systems, system: changed})
    return job_of(options, Run("toy", pairs, seed, system)).needs["network_0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    contrasts = [{"title": "gain", "of": "paper", "over": ["supervised"]}]
    options = make_options(out, contrasts=contrasts, pictures=1)
    paths = benchmark.run(options, command="basicsr benchmark -opt toy.yml", workers=0)
    return options, out, paths, json.loads((out / "results.json").read_text())


def cell(results, system: str) -> dict:
    return next(c for c in results["cells"] if c["system"] == system and c["seed"] == 0)


@pytest.mark.slow
def test_every_system_is_tested(finished):
    options, out, paths, results = finished
    assert [c["system"] for c in results["cells"]] == list(options.systems)
    assert results["failed"] == []
    for found in results["cells"]:
        assert len(found["test"]["images"]) == 2
        assert all(math.isfinite(value) for value in found["test"]["psnr"] + found["test"]["ssim"])
        of_one_phase_2 = found["system"] in ("paper", "before_fine", "no_usq", "of_three", "guided_semi")
        assert bool(found["kept_ratio"]) == of_one_phase_2
        assert (found["chosen"] is not None) == (found["system"] == "best")
    pseudo = [ending(options, name).needs["pseudo"].folder / "pseudo" for name in ("of_three", "before_fine")]
    of_three, of_one = (values_of(str(folder / "lq.lmdb")) for folder in pseudo)
    assert of_three.keys() == of_one.keys()
    assert of_three != of_one
    assert (out / "pictures.jpg") in paths.values()
    assert all(path.is_file() for path in paths.values())


@pytest.mark.slow
def test_phases_are_shared(finished):
    made = Counter(path.name.partition("-")[0] for path in (finished[1] / "cache").iterdir())
    assert made == {
        "data": 1,
        "fold": 2,
        "f_isp": 1 + 2,  # one for all systems, and of the folds
        "guide": 2,  # of the pairs and of the pseudo pairs
        # One set for most, one without USQ, one chosen from candidates, one of the second round.
        "pseudo": 4,
        "semi": 4 + 2,  # before_fine is paper's phase 2; two rounds
        "finetune": 3,
        "supervised": 3 + 2,
        "pseudo_only": 1,
        "mean_teacher": 1,
        "test": len(finished[0].systems) - 1 + 3 * 2,  # the mean is tested in the folds, too
        "choose": 1,
    }


@pytest.mark.slow
def test_an_average_is_of_outputs_at_full_resolution(finished):
    options, _, _, results = finished
    job = job_of(options, Run("toy", 5, 0, "mean"))
    pair = job.needs["data"].data().test[0]
    image, target = (to_tensor(picture) for picture in read_pair(pair))
    assert image.shape == (3, 48, 60)
    assert read_image(job.folder / "outputs" / "0.png").shape == (48, 60, 3)
    weights = [run_folder(ending(options, name)) / "net_g_latest.pth" for name in ("f_isp", "supervised")]
    mean = sum(load_network(weights=path).network(image[None])[0].clamp(0, 1) for path in weights) / 2
    assert cell(results, "mean")["test"]["images"][0] == pair.key
    assert cell(results, "mean")["test"]["psnr"][0] == pytest.approx(measure(mean, target, METRICS)["psnr"], abs=1e-3)


@pytest.mark.slow
def test_the_choice_is_by_cross_validation(finished):
    """Of the best mean over the images of all folds, which together are the labelled pairs."""
    options, _, _, results = finished
    job = job_of(options, Run("toy", 5, 0, "best"))
    of_fold = [[job.needs[f"{k} fold {fold}"].record.read()["result"] for fold in range(2)] for k in range(3)]
    for tests in of_fold:
        images = sorted(image for result in tests for image in result["images"])
        assert images == sorted(pair.key for pair in job.needs["data"].data().originals)
    means = [np.mean([value for result in tests for value in result["psnr"]]) for tests in of_fold]
    found = job.record.read()["result"]
    assert found["means"] == pytest.approx(means)
    chosen = options.systems["best"].among[int(np.argmax(means))]
    assert cell(results, "best")["chosen"] == options.systems[chosen].label
    assert cell(results, "best")["test"] == cell(results, chosen)["test"]


def test_folds_are_pooled(tmp_path):
    """Not averaged; what has a PSNR that is no number does not win; the test has no say."""

    def done(kind: str, psnr: list[float | None]) -> Step:
        step = Step(kind, 0, {"psnr": str(psnr)}, tmp_path, {"data": Step("data", 0, {})})
        step.record.write(result={"images": [], "psnr": psnr, "ssim": psnr})
        return step

    candidates = [done("test", [psnr]) for psnr in (10.0, 20.0, 30.0)]
    folds = [[[24.0, 24.0], [18.0]], [[20.0, 20.0], [25.0]], [[40.0, None], [40.0]]]
    job = choice(candidates, [[done("test", psnr) for psnr in tests] for tests in folds])
    result = benchmark_jobs._choose(job)
    assert (result["chosen"], result["psnr"]) == (0, [10.0])
    assert result["means"] == [22.0, pytest.approx(65 / 3), -math.inf]


@pytest.mark.slow
def test_a_warm_start_begins_with_f_isp(finished):
    options, _, _, results = finished
    assert cell(results, "warm")["test"] == cell(results, "f_isp")["test"]  # its learning rate is 0
    f_isp = ending(options, "f_isp")
    for system in ("supervised", "pseudo_only", "mean_teacher", "before_fine"):
        job = ending(options, system, **OF_F_ISP, warm_start=True)
        started = benchmark_jobs._target_options(job, job.needs["data"].data())
        assert started["path"]["pretrain_network_g"] == str(run_folder(f_isp) / "net_g_latest.pth")
        assert started["network_g"]["type"] == "PQDynamicISP"


@pytest.mark.slow
def test_guided_inputs_are_the_outputs_of_f_isp(finished):
    options, _, _, results = finished
    network = load_network(weights=run_folder(ending(options, "f_isp")) / "net_g_latest.pth").network
    guided, semi = (ending(options, name) for name in ("guided", "guided_semi"))
    before = semi.needs["start"].needs
    pseudo = before["pseudo"].needs["pseudo"].folder / "pseudo"
    sources = [(guided.needs["guide"], guided.needs["data"].data().labelled)]
    sources.append((before["pseudo"], PairData(pseudo / "lq.lmdb", pseudo / "gt.lmdb")))
    for guide, source in sources:
        folder = guide.folder / "guided"
        pairs = [match_pairs(source.input, source.target), match_pairs(folder / "input", folder / "target")]
        assert len(pairs[0]) == len(pairs[1])
        for (image, target), (made, kept) in zip(*(map(read_pair, part) for part in pairs), strict=True):
            output = network(to_tensor(image)[None])[0].permute(1, 2, 0)
            np.testing.assert_allclose(to_float(made), output, atol=1e-4)
            np.testing.assert_array_equal(target, kept)
    # A target that begins as the identity, and learns nothing, leaves them as they are; in the test as well.
    assert cell(results, "guided")["test"]["psnr"] == pytest.approx(cell(results, "f_isp")["test"]["psnr"], abs=0.1)
    assert semi.needs["guide"].key == guided.needs["guide"].key == before["guide"].key


@pytest.mark.slow
def test_rounds_make_new_pseudo_pairs_with_the_target(finished, monkeypatch):
    last = ending(finished[0], "rounds")
    first, again = last.needs["start"], last.needs["pseudo"]
    assert (first.kind, again.needs["teacher"].key) == ("semi", first.key)
    given = []
    report = argparse.Namespace(clipped=0.0, written=0, kept=0)
    monkeypatch.setattr(benchmark_jobs, "build_pseudo_lmdb", lambda how, made, **_: given.append(made) or report)
    for step in (again, first.needs["pseudo"]):
        benchmark_jobs.work(step, progress=False)
    for made, trained in zip(given, (first, ending(finished[0], "f_isp")), strict=True):
        weights = torch.load(run_folder(trained) / "net_g_latest.pth", weights_only=True)["params"]
        assert all(torch.equal(value, weights[name]) for name, value in made.network.state_dict().items())


@pytest.mark.slow
def test_again_does_nothing(finished, monkeypatch):
    options, out, _, before = finished

    def fail(*_):
        raise AssertionError("a finished job was done again")

    monkeypatch.setattr(benchmark_jobs, "work", fail)
    benchmark.run(options, workers=0)
    assert json.loads((out / "results.json").read_text())["cells"] == before["cells"]


@pytest.mark.slow
def test_a_failed_job_takes_along_only_what_needs_it(tiny_data, tmp_path, monkeypatch, capsys):
    """On two tasks; the report is there after each seed."""
    real, cells_before = benchmark_jobs.work, []

    def cells() -> list[dict]:
        return json.loads((tmp_path / "results.json").read_text())["cells"]

    def work(step, progress):
        if step.seed == 1 and not cells_before:
            cells_before.extend(cells())
        if step.kind == "pseudo" and step.seed == 1:
            raise OSError("No space left on device")
        return real(step, progress)

    folders = {f"dataroot_{end}": str(tiny_data / "pairs" / kind) for end, kind in (("lq", "input"), ("gt", "target"))}
    real_pairs = {"type": "pairs", "pairs": [4], **folders, "photographs": str(tiny_data / "photos"), "narrow": True}
    systems = {"supervised": None, "before_fine": None, "f_isp": None}
    options = make_options(tmp_path, seeds=[0, 1], tasks={"toy": TASK, "real": real_pairs}, systems=systems)
    everything = {(task, system, seed) for task in ("toy", "real") for system in systems for seed in (0, 1)}
    monkeypatch.setattr(benchmark_jobs, "work", work)
    benchmark.run(options, workers=0)
    assert {(c["task"], c["system"], c["seed"]) for c in cells_before} == {one for one in everything if one[2] == 0}
    found = {(c["task"], c["system"], c["seed"]) for c in cells()}
    assert found == everything - {("toy", "before_fine", 1), ("real", "before_fine", 1)}
    assert "No space left on device" in (tmp_path / "results.json").read_text()
    assert "6 jobs failed." in capsys.readouterr().out  # pseudo, and what needs it: semi, test
    # Another try does what failed, and no more.
    done = []
    monkeypatch.setattr(benchmark_jobs, "work", lambda step, *rest: done.append(step.kind) or real(step, *rest))
    benchmark.run(options, workers=0)
    assert Counter(done) == dict.fromkeys(("pseudo", "semi", "test"), 2)
    assert len(cells()) == len(everything)


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(finished, tmp_path, monkeypatch):
    """With a state on disk the job resumes, and what the filter kept is that of the whole run."""
    began = []

    def train(options, *, auto_resume, on_log, progress, quiet):
        began.append((auto_resume, options["logger"]["save_checkpoint_freq"]))
        states = Path(options["root_path"]) / "experiments" / "run" / "training_states"
        states.mkdir(parents=True, exist_ok=True)
        (states / "500.state").touch()
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


def test_the_command_fails_if_a_job_failed(tmp_path, monkeypatch):
    def work(*_):
        raise OSError("No space left on device")

    options = make_options(tmp_path, systems={"supervised": None}, seeds=[0, 1])
    monkeypatch.setattr(benchmark_jobs, "work", work)
    monkeypatch.setattr(benchmark, "load_benchmark_options", lambda *_: options)
    arguments = argparse.Namespace(opt="toy.yml", force_yml=[], workers=0)
    with pytest.raises(RuntimeError, match=r"6 jobs failed; .* No space left on device"):
        benchmark.run_from_arguments(arguments)


def test_keys_name_all_that_matters(tmp_path):
    options = make_options(tmp_path)
    key = ending(options, "paper").key
    assert ending(options, "paper").key == key
    changes = {"beta": 2.0, "fine_lr": 1e-5, "isp_lr": 1e-5, "source": "upi", "candidates": 4, "guided": True}
    jobs = [ending(options, "paper", **{name: value}) for name, value in changes.items()]
    jobs += [ending(options, "paper", seed=1), ending(options, "paper", pairs=6)]
    jobs += [ending(options, "paper", **OF_F_ISP, warm_start=warm, rounds=n) for warm in (False, True) for n in (1, 2)]
    jobs.append(ending(make_options(tmp_path, tasks={"toy": {**TASK, "simulated_size": [50, 60]}}), "paper"))
    assert len({key, *(job.key for job in jobs)}) == 1 + len(jobs)
    assert ending(make_options(tmp_path, tasks={"toy": {**TASK, "title": "A title"}}), "paper").key == key
    assert Step("data", 0, {"a": 1}).key != Step("data", 0, {"a": 2}).key
    tests = [job_of(options, Run("toy", 5, 0, name)).key for name in options.systems]
    assert len(set(tests)) == len(tests)


def test_seed_by_seed(tmp_path):
    tasks = {"a": {**TASK, "pairs": [4, 8]}, "b": TASK}
    options = make_options(tmp_path, seeds=[0, 1], tasks=tasks, systems={"supervised": None})
    expected = [(task, n, seed, "supervised") for seed in (0, 1) for task, n in (("a", 4), ("a", 8), ("b", 5))]
    assert runs(options) == expected


def test_infinite_beta_reaches_the_filter(tmp_path):
    settings = ending(make_options(tmp_path), "before_fine", beta=math.inf).settings
    json.dumps(settings, allow_nan=False)
    assert benchmark_jobs.step_settings(settings).beta == math.inf


@pytest.mark.slow
def test_workers(finished, tmp_path):
    """Processes of their own give the same numbers."""
    options = make_options(tmp_path, systems={"supervised": None})
    benchmark.run(options, workers=1)
    found = cell(json.loads((tmp_path / "results.json").read_text()), "supervised")["test"]
    expected = cell(finished[3], "supervised")["test"]
    assert found["images"] == expected["images"]
    assert found["psnr"] == pytest.approx(expected["psnr"], rel=1e-6)
    assert Runner(1).noted == {}


def test_fine_tuning_can_be_left_out(tmp_path):
    options = make_options(tmp_path)
    assert ending(options, "paper", fine_iterations=0).key == ending(options, "before_fine").key
    assert ending(options, "paper").kind == "finetune"
    # What trains in one go trains as long in all.
    assert ending(options, "supervised").settings["iterations"] == 6
    assert ending(options, "supervised").settings["batch"] == 10
