"""``basicsr benchmark`` from end to end at toy size, its choices, and what it does again after an interruption."""

import argparse
import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
import torch

from semiisp_plugin.experiments import benchmark, benchmark_jobs
from semiisp_plugin.experiments.benchmark import Repetition, jobs_of, repetitions
from semiisp_plugin.experiments.benchmark_jobs import Step
from semiisp_plugin.experiments.benchmark_options import complete_benchmark_options
from semiisp_plugin.experiments.jobs import Record, Runner, own_folder, perform
from semiisp_plugin.io.lmdb_io import read_meta, read_value
from semiisp_plugin.options import Source
from semiisp_plugin.pseudo.f_isp import load_f_isp
from semiisp_plugin.report.benchmark_results import Cell, Score, System


def make_options(out: Path, **changes):
    network = {"type": "SepLUT", "n_vertices_3d": 5, "n_vertices_1d": 5, "thumbnail": 32, "identity_start": True}
    values = {
        "name": "toy",
        "title": "Toy",
        "task": {"type": "simulation", "tests": 2, "max_photographs": 4, "description": "toy"},
        "pairs": [6],
        "seeds": [0, 1],
        "search_repetitions": 1,
        "out": str(out),
        "settings": {
            "size": [32, 40],
            "isp_iterations": 4,
            "isp_thumbnail": 32,
            "semi_iterations": 4,
            "fine_iterations": 2,
            "evaluations": 2,
            "network": network,
        },
        "systems": {
            "f_isp": None,
            "supervised": {"search": {"lr": [1e-3, 1e-9]}},
            "pseudo_only": None,
            "mean_teacher": None,
            "paper": None,
            "before_fine": None,
            "no_usq": {"settings": {"noise": "estimated"}},
            "upi": None,
            "of_three": {"kind": "pseudo_only", "settings": {"candidates": 3}},
        },
        "pictures": 1,
        **changes,
    }
    return complete_benchmark_options(values, Source("toy.yml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    options = make_options(out)
    paths = benchmark.run(options, command="basicsr benchmark -opt toy.yml", workers=0)
    return options, out, paths, json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_every_system_on_every_repetition(finished):
    options, _, _, results = finished
    assert {(c["system"], c["seed"]) for c in results["cells"]} == {
        (s, seed) for s in options.systems for seed in (0, 1)
    }
    assert results["failed"] == []
    for cell in results["cells"]:
        assert math.isfinite(cell["test"]["psnr"])
        assert bool(cell["kept_ratio"]) == (cell["system"] in ("paper", "before_fine", "no_usq", "upi"))
        assert (cell["early_stopped"] is not None) == (cell["system"] == "supervised")
    assert results["best_supervised"] == {"6": "supervised"}
    jobs = (jobs_of(options, options.systems[name], 6, Repetition(0, None), {}) for name in ("of_three", "pseudo_only"))
    of_three, of_one = (str(job.needs["pseudo"].folder / "pseudo" / "lq.lmdb") for job in jobs)
    keys = [entry.key for entry in read_meta(of_one)]
    assert [read_value(of_three, key) for key in keys] != [read_value(of_one, key) for key in keys]


@pytest.mark.slow
def test_phases_are_shared(finished):
    out = finished[1]
    made = sorted(p.name.partition("-")[0] for p in (out / "cache").iterdir())
    counts = {kind: made.count(kind) for kind in set(made)}
    assert counts == {
        "data": 2,
        "f_isp": 2,  # one a seed, shared by all systems
        # One set for paper, before_fine, pseudo_only and mean_teacher, one without USQ, one of UPI, one chosen from
        # candidates.
        "pseudo": 8,
        "semi": 6,  # before_fine is paper's phase 2
        "finetune": 6,
        "supervised": 2 + 1,  # two candidates on the first seed, the winner on the second
        "pseudo_only": 4,
        "mean_teacher": 2,
    }


@pytest.mark.slow
def test_curve_runs_on_through_fine_tuning(finished):
    curve = next(c["curve"] for c in finished[3]["cells"] if c["system"] == "paper")
    assert [p["iteration"] for p in curve] == [2, 4, 5, 6]


@pytest.mark.slow
def test_the_choice_is_by_validation(finished):
    """The learning rate of next to nothing loses; the report says what was tried."""
    rows = [row for row in finished[3]["search"] if row["system"] == "supervised"]
    assert [row["chosen"] for row in rows] == [
        row["validation_psnr"] == max(r["validation_psnr"] for r in rows) for row in rows
    ]
    assert len(rows) == 2
    assert all(len(row["validation_psnr"]) == len(row["test_psnr"]) == 1 for row in rows)


@pytest.mark.slow
def test_the_report_is_written(finished):
    _, out, paths, _ = finished
    for path in paths.values():
        assert path.is_file()
    assert (out / "pictures.jpg") in paths.values()


@pytest.mark.slow
def test_again_does_nothing(finished, monkeypatch):
    options, out, _, before = finished

    def fail(*_):
        raise AssertionError("a finished job was done again")

    monkeypatch.setattr(benchmark_jobs, "work", fail)
    benchmark.run(options, workers=0)
    assert json.loads((out / "results.json").read_text())["cells"] == before["cells"]


@pytest.mark.slow
def test_a_failed_job_takes_along_only_what_needs_it(finished, tmp_path, monkeypatch, capsys):
    real = benchmark_jobs.work

    def work(step, progress):
        if step.kind == "pseudo" and step.seed == 1:
            raise OSError("No space left on device")
        return real(step, progress)

    options = make_options(tmp_path, systems={"supervised": {"search": {}}, "paper": None, "f_isp": None})
    monkeypatch.setattr(benchmark_jobs, "work", work)
    benchmark.run(options, workers=0)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(c["system"], c["seed"]) for c in results["cells"]} == {
        ("supervised", 0), ("supervised", 1), ("paper", 0), ("f_isp", 0), ("f_isp", 1)
    }  # fmt: skip
    assert "No space left on device" in str(results["failed"])
    assert "3 jobs failed." in capsys.readouterr().out  # pseudo, and what needs it: semi, finetune
    # Another try does what failed, and no more.
    done = []
    monkeypatch.setattr(benchmark_jobs, "work", lambda step, *rest: done.append(step.kind) or real(step, *rest))
    benchmark.run(options, workers=0)
    assert sorted(done) == ["finetune", "pseudo", "semi"]
    assert len(json.loads((tmp_path / "results.json").read_text())["cells"]) == 6


def test_a_result_cut_short_does_not_count(tmp_path):
    record = Record(tmp_path / "result.json")
    assert record.read() == {}
    record.file.write_text('{"seconds": 1')
    assert record.read() == {}


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(finished, tmp_path, monkeypatch):
    """With a state on disk the job resumes, and its curve is that of the whole run."""
    options = finished[0]
    monkeypatch.setattr(benchmark_jobs, "train", fake := FakeRun())
    monkeypatch.setattr(benchmark_jobs, "_write_outputs", lambda *_: None)
    job = jobs_of(options, options.systems["supervised"], 6, Repetition(0, None), {"lr": 1e-3})
    job = dataclasses.replace(job, settings={**job.settings, "iterations": 2000}, root=tmp_path)
    fake.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        perform(job)
    fake.stop_after = None
    result = perform(job)["result"]
    assert fake.resumed == [False, True]
    assert [p["iteration"] for p in result["curve"]] == [500, 1000, 1500, 2000]
    assert fake.checkpoints == 400  # five states on the way of a long run


class FakeRun:
    """In the place of training: validates four times, leaves a state, stops where told."""

    def __init__(self):
        self.stop_after, self.resumed, self.checkpoints = None, [], None

    def __call__(self, options, *, auto_resume, progress, quiet, on_log, on_validation):
        self.resumed.append(auto_resume)
        self.checkpoints = options["logger"]["save_checkpoint_freq"]
        states = Path(options["root_path"]) / "experiments" / "run" / "training_states"
        states.mkdir(parents=True, exist_ok=True)
        for index, iteration in enumerate((500, 1000, 1500, 2000)):
            if auto_resume and iteration <= 500:
                continue
            on_validation(iteration, {"validation": {"psnr": 20.0 + index}, "test": {"psnr": 19.0}})
            (states / f"{iteration}.state").touch()
            if self.stop_after == index + 1:
                raise KeyboardInterrupt
        return type("Model", (), {"net_g": None})


def test_a_candidate_that_failed_once_does_not_win(tmp_path):
    options = make_options(tmp_path, search_repetitions=2)
    system = options.systems["supervised"]
    runner = Runner(0)
    first = repetitions(options)
    for candidate, scores in (({"lr": 1e-3}, [24.0, 18.0]), ({"lr": 1e-9}, [25.0])):
        for repetition, psnr in zip(first, scores, strict=False):
            key = jobs_of(options, system, 6, repetition, candidate).key
            # The better on validation is the worse on the test, which has no say.
            runner.noted[key] = {"result": {"validation": {"psnr": psnr}, "test": {"psnr": 50 - psnr}}}
    search = []
    assert benchmark._choose(options, runner, system, "supervised", 6, first, search) == {"lr": 1e-3}
    assert [row.chosen for row in search] == [True, False]
    assert search[0].test_psnr == [26.0, 32.0]
    # Nor does one whose PSNR is not a number.
    for repetition in first:
        key = jobs_of(options, system, 6, repetition, {"lr": 1e-9}).key
        runner.noted[key] = {"result": {"validation": {"psnr": math.nan}, "test": {"psnr": 60.0}}}
    assert benchmark._choose(options, runner, system, "supervised", 6, first, []) == {"lr": 1e-3}


def test_the_reference_has_every_repetition():
    def cell(system, psnr):
        score = Score(psnr)
        return Cell(6, system, "seed 0", 0, None, {}, score, score, None, [], [], 1.0)

    systems = {name: System("baseline", name, False, "", "supervised") for name in "ab"}
    systems["c"] = System("method", "c", False, "", "semi")
    cells = [cell("a", 20.0), cell("a", 22.0), cell("b", 23.0), cell("c", 30.0), cell("c", 30.0)]
    assert benchmark._best_supervised(systems, cells) == {6: "a"}


@pytest.mark.slow
def test_early_stopped_f_isp_is_the_one_that_is_used(finished):
    """What is reported, what makes the pseudo pairs and what is shown is the checkpoint of the best validation."""
    options = finished[0]
    system = options.systems["f_isp"]
    changes = {"isp_early_stop": True, "isp_iterations": 6, "evaluations": 3, "isp_lr": 0.3}
    job = jobs_of(options, system, 6, Repetition(0, None), changes)
    result = perform(job)["result"]
    scores = [p["validation"]["psnr"] + p["validation_global"]["psnr"] for p in result["curve"]]
    best = result["curve"][scores.index(max(scores))]
    assert result["test"] == best["test"]
    models = benchmark_jobs.run_folder(job)
    latest, chosen = (load_f_isp(models / f"f_isp_{i}.pth")[0] for i in ("latest", best["iteration"]))
    for a, b in zip(latest.parameters(), chosen.parameters(), strict=True):
        assert torch.equal(a, b)


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "holiday.txt").write_text("sun")
    with (
        pytest.raises(FileExistsError, match="was not written by `basicsr benchmark`"),
        own_folder(tmp_path, "benchmark", "out"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]
    again = tmp_path / "new"
    with own_folder(again, "benchmark", "out"):
        (again / "sub").mkdir()
        (again / "report.md").write_text("")
    with own_folder(again, "benchmark", "out"):
        assert (again / "report.md").is_file()
    with own_folder(again, "benchmark", "out", empty=True):
        assert not (again / "report.md").exists()
        assert not (again / "sub").exists()


def test_one_owner(tmp_path, monkeypatch):
    """What another process is writing is neither written nor deleted."""
    monkeypatch.setattr("semiisp_plugin.io.locks.PATIENCE", 0.0)
    with own_folder(tmp_path, "benchmark", "out"):
        (tmp_path / "report.md").write_text("")
        with (
            pytest.raises(ValueError, match=rf"is being written by .* process {os.getpid()} .*another \(out\)"),
            own_folder(tmp_path, "benchmark", "out", empty=True),
        ):
            pass
        assert (tmp_path / "report.md").exists()


def test_too_few_photographs_are_said_before_anything_is_done(tmp_path, tiny_data):
    task = {"type": "simulation", "photographs": str(tiny_data / "photos"), "tests": 4}
    with pytest.raises(ValueError, match="leave none without a label"):
        benchmark.run(make_options(tmp_path / "out", task=task), workers=0)
    assert not (tmp_path / "out" / "cache").exists()


def test_the_command_fails_if_a_job_failed(tmp_path, monkeypatch):
    def work(*_):
        raise OSError("No space left on device")

    options = make_options(tmp_path, systems={"supervised": {"search": {}}})
    monkeypatch.setattr(benchmark_jobs, "work", work)
    monkeypatch.setattr(benchmark, "load_benchmark_options", lambda *_: options)
    arguments = argparse.Namespace(opt="toy.yml", force_yml=[], workers=0)
    with pytest.raises(RuntimeError, match=r"4 jobs failed; .* No space left on device"):
        benchmark.run_from_arguments(arguments)


def test_keys_name_all_that_matters(tmp_path):
    options = make_options(tmp_path)
    system = options.systems["paper"]
    key = jobs_of(options, system, 6, Repetition(0, None), {}).key
    assert jobs_of(options, system, 6, Repetition(0, None), {}).key == key
    others = [
        jobs_of(options, system, 6, Repetition(1, None), {}),
        jobs_of(options, system, 7, Repetition(0, None), {}),
        jobs_of(options, system, 6, Repetition(0, None), {"beta": 2.0}),
        jobs_of(options, system, 6, Repetition(0, None), {"fine_lr": 1e-5}),
        jobs_of(options, system, 6, Repetition(0, None), {"isp_lr": 1e-5}),
        jobs_of(options, system, 6, Repetition(0, None), {"source": "upi"}),
    ]
    assert len({key, *(job.key for job in others)}) == 7
    assert Step("data", 0, {"a": 1}).key != Step("data", 0, {"a": 2}).key


def test_repetitions(tmp_path):
    assert [str(r) for r in repetitions(make_options(tmp_path))] == ["seed 0", "seed 1"]
    folds = Repetition(2, 1)
    assert str(folds) == "seed 2, fold 1"
    assert folds.training_seed != Repetition(1, 2).training_seed


def test_infinite_beta_reaches_the_filter(tmp_path):
    options = make_options(tmp_path)
    job = jobs_of(options, options.systems["paper"], 6, Repetition(0, None), {"beta": math.inf})
    settings = job.needs["semi"].settings
    json.dumps(settings, allow_nan=False)
    assert benchmark_jobs.step_settings(settings).beta == math.inf


@pytest.mark.slow
def test_workers(finished, tmp_path):
    """Processes of their own give the same numbers."""
    _, _, _, results = finished
    options = make_options(tmp_path, seeds=[0], systems={"supervised": {"search": {}, "settings": {"lr": 1e-3}}})
    benchmark.run(options, workers=1)
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    same = next(c for c in results["cells"] if c["system"] == "supervised" and c["seed"] == 0)
    assert cells[0]["test"] == pytest.approx(same["test"], rel=1e-6)
    assert Runner(1).noted == {}


@pytest.mark.parametrize(("share", "n_real"), [(0.5, 5), (0.2, 2), (0.01, 1), (0.99, 9)])
def test_the_real_share_divides_the_batch(tmp_path, share, n_real):
    options = make_options(tmp_path)
    job = jobs_of(options, options.systems["before_fine"], 6, Repetition(0, None), {"real_share": share})
    assert (job.settings["real_per_batch"], job.settings["pseudo_per_batch"]) == (n_real, 10 - n_real)


def test_candidates_are_part_of_the_pseudo_pairs(tmp_path):
    options = make_options(tmp_path)
    one, four = (
        jobs_of(options, options.systems["before_fine"], 6, Repetition(0, None), {"candidates": n}) for n in (1, 4)
    )
    assert four.needs["pseudo"].settings["candidates"] == 4
    assert one.needs["pseudo"].settings["candidates"] == 1


def test_fine_tuning_can_be_left_out(tmp_path):
    options = make_options(tmp_path)
    paper, before = (options.systems[name] for name in ("paper", "before_fine"))
    without = jobs_of(options, paper, 6, Repetition(0, None), {"fine_tune": False})
    assert without.key == jobs_of(options, before, 6, Repetition(0, None), {}).key
    assert jobs_of(options, paper, 6, Repetition(0, None), {"fine_tune": True}).kind == "finetune"
