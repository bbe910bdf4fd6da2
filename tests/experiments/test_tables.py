"""The paper's tables as benchmarks: every size is complete and consistent, and what is typed."""

import json
from pathlib import Path

import pytest

from semiisp_plugin import cli
from semiisp_plugin.arguments import PAPER_TABLES as TYPED
from semiisp_plugin.experiments import benchmark, tables
from semiisp_plugin.experiments.benchmark import check_effects, job_of, judges_of, runs
from semiisp_plugin.experiments.benchmark_options import Settings
from semiisp_plugin.experiments.paper_settings import TASKS
from semiisp_plugin.experiments.tables import SIZES, TABLES, table_options
from semiisp_plugin.options import OptionError
from semiisp_plugin.report.paper_figures import PAPER_TABLES

SOURCES = ("UPI", "CycleISP", "SRISP-like", "RAWDiffusion", "InvISP", "ReRAW", "f_ISP")


@pytest.fixture
def datasets(tmp_path, monkeypatch) -> Path:
    """Empty folders of all data."""
    monkeypatch.chdir(tmp_path)
    for task in tables._CPU_TASKS.values():
        for key in ("dataroot_lq", "dataroot_gt", "photographs"):
            for folder in [task[key]] if isinstance(task.get(key), str) else task.get(key, []):
                Path(folder).mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        for part in ("train/lq", "train/gt", "test/lq", "test/gt"):
            Path(f"datasets/{name}/{part}.lmdb").mkdir(parents=True)
    Path("datasets/coco/train2017").mkdir()
    return tmp_path


def test_names():
    assert tuple(TABLES) == tuple(PAPER_TABLES) == TYPED


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TABLES)
def test_each_is_complete(name, size, datasets, capsys):
    """Settings are known, networks can be built, and each setting of a system does something."""
    options = table_options(name, size)
    assert (options.name, options.paper_table) == (f"{name}_{size}", name)
    check_effects(options)
    assert capsys.readouterr().out == ""
    assert {contrast.of for contrast in options.contrasts} <= set(options.systems)
    of_seed = [run for run in runs(options) if run.seed == options.seeds[0]]
    jobs = {run: job_of(options, run) for run in of_seed}
    assert len({job.key for job in jobs.values()}) == len(jobs), "two systems are one"
    if name in ("table3", "table7", "figure4"):
        assert len(judges_of(options, jobs)) == len(SOURCES) * len(options.tasks)


def test_the_paper_s_size_has_the_paper_s_figures(datasets):
    """Tables 5 and 6, the column of 100 pairs, and the one with denoising."""
    settings = table_options("table3", "paper").settings
    expected = {"size": [480, 640], "isp_iterations": 15_000, "isp_lr": 2e-5, "isp_batch": 4, "lr": 1e-4, "beta": 1.0}
    expected |= {"semi_iterations": 40_000, "real_per_batch": 2, "pseudo_per_batch": 18, "noise": "none"}
    assert {key: settings[key] for key in expected} == expected
    settings = table_options("table4", "paper").settings
    expected = {"size": [128, 128], "isp_iterations": 70_000, "isp_batch": 8, "isp_loss": "pooled_l1", "beta": 1.2}
    expected |= {"real_per_batch": 4, "pseudo_per_batch": 16, "noise": "paper", "loss": "mse_ssim"}
    assert {key: settings[key] for key in expected} == expected
    task = table_options("table3", "paper").tasks["fivek_tone_mapping"]
    assert (task.pairs, task.image_enhancement, task.short_side) == ([100], False, None)
    assert set(settings) <= set(Settings.__struct_fields__)


def test_sources_of_table_3_are_those_of_the_paper(datasets):
    """Beside InvISP, which it does not have."""
    labels = {s.label.partition(", ")[2] for s in table_options("table3", "cpu").systems.values()} - {"pairs alone"}
    ours = {label.removesuffix("-like") for label in labels} - {"InvISP"}
    assert ours == {row.how for row in PAPER_TABLES["table3"]}


def test_what_is_typed(datasets, monkeypatch, capsys):
    found = []

    def run(options, *, command, workers):
        found.append((options.name, options.seeds, command))
        path = datasets / "results.json"
        path.write_text(json.dumps({"failed": []}))
        return {"results.json": path}

    monkeypatch.setattr(benchmark, "run", run)
    assert cli.main(["benchmark", "table3", "--size", "gpu"]) == 0
    assert cli.main(["benchmark", "table2", "--force_yml", "seeds=[4]"]) == 0
    assert found == [
        ("table3_gpu", [0], "basicsr benchmark table3 --size gpu"),
        ("table2_cpu", [4], "basicsr benchmark table2 --size cpu --force_yml 'seeds=[4]'"),
    ]
    for arguments, message in (
        ([], "give a table of the paper, such as table3 --size cpu, or an option file"),
        (["-opt", str(datasets / "results.json"), "--size", "cpu"], "--size is of the paper's tables"),
        (["table3", "-opt", str(datasets / "results.json")], "give a table of the paper"),
    ):
        assert cli.main(["benchmark", *arguments]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["benchmark", "table5"])
    assert "invalid choice: 'table5'" in capsys.readouterr().err


def test_data_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"table3 of size paper: .*there is no folder datasets/coco/train2017"):
        table_options("table3", "paper")
