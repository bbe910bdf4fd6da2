"""Every option file of the paper's experiments: up to date, valid, and run for one step on tiny data.

The networks are made small by their own options (width, blocks, vertices, thumbnail), and built in full size without
memory. Lengths of training and schedules stay as they are: one step of the whole run is taken.
"""

import importlib.util
import json
import math
import os
import re
import shutil
from copy import deepcopy
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torchvision.models import vgg16

from semiisp_plugin import options as options_module
from semiisp_plugin.experiments.option_files import Experiment, experiments, files_of, option_files
from semiisp_plugin.experiments.paper_settings import MODELS, TABLE_5, TABLE_6, TASKS, column
from semiisp_plugin.experiments.recipe import check_fit, phases_of
from semiisp_plugin.experiments.recipe_options import load_recipe
from semiisp_plugin.experiments.recipe_phases import Training
from semiisp_plugin.io.image_io import encode_png, to_uint8, to_uint16, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter
from semiisp_plugin.options.yaml_text import parse
from semiisp_plugin.pseudo import builder
from semiisp_plugin.report.paper_figures import paper_results
from semiisp_plugin.toolbox import build_network
from semiisp_plugin.training import test as run_test
from semiisp_plugin.training.run import Run

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ROOT / "options"
ALL = list(experiments())
SMALL = {
    "NAFNet": {"width": 4, "enc_blk_nums": [1, 1, 1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]},
    "SepLUT": {"n_vertices_3d": 5, "n_vertices_1d": 5, "thumbnail": 32},
    "PQDynamicISP": {"thumbnail": 32},
    "LLFormer": {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
    "Retinexformer": {"n_feat": 4, "num_blocks": [1, 1, 1]},
}
PARAMETERS = {  # of the full networks, in millions
    "nafnet_s": 7.37,
    "nafnet": 29.16,
    "seplut": 0.120,
    "retinexformer": 1.61,
}


def load(path: str) -> dict:
    return parse((OPTIONS / path).read_text(encoding="utf-8"), path)[0]


def small(network: dict) -> dict:
    return {**network, **SMALL[network["type"]]}


# --- what is in the files ------------------------------------------------------------------------------------------


def test_committed_files_are_up_to_date(capsys):
    spec = importlib.util.spec_from_file_location("write_option_files", ROOT / "scripts" / "write_option_files.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_there_is_a_file_for_each_task_amount_model_and_phase():
    files = set(option_files())
    assert len(ALL) == 3 * 3 * 4 + 2 * (2 + 3 + 3)
    assert len(files) == len(ALL) * 7
    for task, models in (("fivek_ie", ("nafnet_s", "seplut", "pqdynamicisp")), ("lolv1", ("llformer",))):
        for model in models:
            for phase in ("1_fisp", "2_pseudo", "3_semi", "4_finetune", "0_supervised"):
                assert f"train/{task}/{model}_100_{phase}.yml" in files


def test_script_says_what_is_stale_and_writes_it(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("write_option_files", ROOT / "scripts" / "write_option_files.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    few = files_of(ALL[0])
    monkeypatch.setattr(script, "option_files", lambda: few)
    monkeypatch.setattr(script.out_of_date, "__defaults__", (tmp_path,))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "old.yml").write_text("name: old\n")
    assert script.main(["--check"]) == 1
    assert not (tmp_path / "test").exists()
    assert script.main([]) == 0
    assert "train/old.yml: deleted" in capsys.readouterr().out
    assert script.main(["--check"]) == 0
    path = tmp_path / next(iter(few))
    path.write_text(path.read_text() + "# edited\n")
    assert script.main(["--check"]) == 1


@pytest.mark.parametrize("name", ["schema.json", "pseudo_schema.json", "recipe_schema.json"])
def test_files_fit_the_schemas_for_editors(name):
    schema = json.loads((OPTIONS / name).read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    found = 0
    sizes = {path for e in ALL if e.pairs != e.task.amounts[0] for path in files_of(e)}
    for path in option_files():
        first, _, text = (OPTIONS / path).read_text(encoding="utf-8").partition("\n")
        said = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)[1]
        target = (OPTIONS / path).parent / said
        assert target.resolve().parent == OPTIONS
        if target.name == name:
            found += 1
            if path in sizes:
                continue  # only numbers are others
            assert [e.message for e in validator.iter_errors(parse(text, path)[0])] == [], path
        assert all(len(line) <= 120 for line in text.splitlines()), path
    assert found > 0


def test_check_script_takes_folders_and_files_of_all_commands(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("check_option_files", ROOT / "scripts" / "check_option_files.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    one = ALL[-1]
    files = [
        OPTIONS / one.train_file("2_pseudo"),
        OPTIONS / "denoise",
        OPTIONS / one.recipe_file,
        OPTIONS / one.test_file,
    ]
    assert script.main([str(file) for file in files]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 + len(list((OPTIONS / "denoise").glob("*.yml")))
    (tmp_path / "wrong.yml").write_text("name: r\nphases: {}\n")
    assert script.main([str(tmp_path)]) == 1
    assert "refused" in capsys.readouterr().out


def test_numbers_of_the_papers_tables():
    """As printed, read off the files."""
    semi = {  # N_r, N_p, beta (Table 6)
        ("fivek_ie", "seplut_100"): (2, 18, 1.0),
        ("fivek_tone_mapping", "nafnet_s_500"): (4, 16, 1.2),
        ("fivek_general_isp", "pqdynamicisp_4500"): (6, 14, 1.0),
        ("lolv1", "llformer_485"): (4, 16, 1.2),
        ("lolv2_real", "retinexformer_689"): (4, 16, 1.2),
        ("lolv2_synthetic", "llformer_900"): (4, 16, 1.2),
    }
    f_isp = {  # learning rate, batch, iterations (Table 5)
        ("fivek_ie", "seplut_100"): (2e-5, 4, 15_000),
        ("fivek_tone_mapping", "nafnet_s_500"): (2e-5, 4, 15_000),
        ("fivek_general_isp", "pqdynamicisp_4500"): (1e-4, 16, 30_000),
        ("lolv1", "llformer_485"): (5e-5, 8, 70_000),
        ("lolv2_real", "retinexformer_689"): (5e-5, 8, 70_000),
        ("lolv2_synthetic", "llformer_900"): (2e-5, 4, 15_000),
    }
    for (task, stem), (real, pseudo, beta) in semi.items():
        options = load(f"train/{task}/{stem}_3_semi.yml")
        data, train = options["datasets"]["train"], options["train"]
        assert (data["real_per_batch"], data["pseudo_per_batch"], train["filter"]["beta"]) == (real, pseudo, beta)
        assert train["total_iter"] == 40_000
        assert train["optim_g"] == {"type": "AdamW", "lr": 1e-4}
        noisy = task in ("lolv1", "lolv2_real")
        assert ("noise" in train) == ("ssim_opt" in train) == noisy
        assert data["gt_size"] == (128 if noisy else [384, 384] if task == "lolv2_synthetic" else [480, 640])
        lr, batch, iterations = f_isp[task, stem]
        options = load(f"train/{task}/{stem}_1_fisp.yml")
        train = options["train"]
        assert (train["optim_g"]["lr"], train["total_iter"]) == (lr, iterations)
        assert options["datasets"]["train"]["batch_size_per_gpu"] == batch
        assert train["pixel_opt"]["type"] == ("PooledL1Loss" if noisy else "MSELoss")
        assert ("perceptual_opt" in train) is not noisy
        ending = "lq_denoised.lmdb" if noisy else "lq.lmdb"
        assert options["datasets"]["train"]["dataroot_lq"] == f"datasets/{task}/train/{ending}"


def test_columns_of_the_tables():
    assert [column(TASKS["fivek_ie"], n) for n in (1, 100, 101, 1000, 1001)] == [
        "<= 100",
        "<= 100",
        "<= 1000",
        "<= 1000",
        "> 1000",
    ]
    assert column(TASKS["lolv1"], 100) == column(TASKS["lolv2_real"], 689) == "w/ denoising"
    assert column(TASKS["lolv2_synthetic"], 900) == "<= 1000"
    assert TABLE_5.keys() == TABLE_6.keys()


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.own)
def test_fine_tuning_is_the_models_own_training_halved(experiment):
    whole = load(experiment.train_file("0_supervised"))
    half = load(experiment.train_file("4_finetune"))
    assert half["train"]["total_iter"] * 2 == whole["train"]["total_iter"]
    scheduler = whole["train"]["scheduler"]
    for key in ("T_max", "total_iter"):
        if key in scheduler:
            assert half["train"]["scheduler"][key] * 2 == scheduler[key]
    if "periods" in scheduler:
        assert sum(scheduler["periods"]) == whole["train"]["total_iter"]
        assert sum(half["train"]["scheduler"]["periods"]) == half["train"]["total_iter"]
    if experiment.model.name == "llformer":
        for options, warmup in (
            (whole, 3 * math.ceil(experiment.pairs / 8)),
            (half, 3 * math.ceil(experiment.pairs / 8) // 2),
        ):
            assert options["train"]["warmup_iter"] == options["train"]["scheduler"]["start_iter"] == warmup
    text = (OPTIONS / experiment.train_file("4_finetune")).read_text()
    assert ("halved with the iterations (ours)" in text) == (whole["train"]["scheduler"] != half["train"]["scheduler"])
    if scheduler["type"] == "TrueCosineAnnealingLR":
        assert scheduler["T_max"] == whole["train"]["total_iter"]
    same = deepcopy(half)
    same["name"], same["path"] = whole["name"], whole["path"]
    for section in ("train", "val", "logger"):
        for key in ("total_iter", "scheduler", "warmup_iter", "val_freq", "save_checkpoint_freq"):
            for options in (same, whole):
                options.get(section, {}).pop(key, None)
    assert same == whole
    for options in (load(experiment.train_file(p)) for p in ("1_fisp", "3_semi", "4_finetune", "0_supervised")):
        # So that the last iteration leaves a training state.
        assert options["train"]["total_iter"] % options["logger"]["save_checkpoint_freq"] == 0


def test_what_does_not_depend_on_the_model_is_shared():
    for task in TASKS.values():
        for pairs in task.amounts:
            for phase in ("1_fisp", "2_pseudo"):
                same = [load(Experiment(task, pairs, MODELS[m]).train_file(phase)) for m in task.models]
                assert all(options == same[0] for options in same)
    names = [load(e.train_file(p))["name"] for e in ALL for p in ("3_semi", "4_finetune", "0_supervised")]
    assert len(set(names)) == len(names)


NETWORKS = [(task, model) for task in ("fivek_ie", "lolv1") for model in TASKS[task].models]


@pytest.mark.parametrize(("task", "name"), NETWORKS)
def test_full_networks(task, name):
    options = load(f"test/{task}/{name}_{TASKS[task].full}.yml")
    network = build_network(deepcopy(options["network_g"]))
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    assert parameters == pytest.approx(PARAMETERS.get(name, parameters), rel=0.005)


# --- one step of each ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The layout of ``basicsr prepare`` with tiny data, the same for all tasks; and photographs, and VGG's weights."""
    root = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    data = root / "data"
    for part, count in (("train", 2), ("test", 1)):
        with LmdbImageWriter(data / part / "lq.lmdb") as lq, LmdbImageWriter(data / part / "gt.lmdb") as gt:
            for i in range(count):
                target = np.clip(rng.random((1, 1, 3)) * 0.6 + 0.3 * rng.random((64, 80, 3)), 0.05, 0.95)
                lq.put(f"{i:04d}", encode_png(to_uint16((0.6 * target) ** 2.2)), (64, 80, 3))
                gt.put(f"{i:04d}", encode_png(to_uint8(target)), (64, 80, 3))
    shutil.copytree(data / "train" / "lq.lmdb", data / "train" / "lq_denoised.lmdb")
    (data / "names").mkdir()
    for amount in (100, 500):
        (data / "names" / f"train_{amount}.txt").write_text("0000\n0001\n")
    (root / "datasets").mkdir()
    for task in TASKS:
        os.symlink(data, root / "datasets" / task)
    for i in range(2):
        photo = np.clip(0.2 + 0.6 * rng.random((1, 1, 3)) + 0.2 * rng.random((40, 48, 3)), 0, 1)
        (root / "datasets/coco/train2017").mkdir(parents=True, exist_ok=True)
        write_image(root / f"datasets/coco/train2017/{i}.jpg", to_uint8(photo))
    torch.manual_seed(0)
    features = {f"features.{key}": value for key, value in vgg16(weights=None).features.state_dict().items()}
    torch.save(features, root / "random_vgg16.pth")
    return root


def made_small(options: dict, root: Path) -> dict:
    """What costs time, made small; nothing else."""
    options = deepcopy(options)
    options["num_gpu"] = 0
    for key in ("network_g", "network_global"):
        if key in options:
            options[key] = small(options[key])
    for name, data in options["datasets"].items():
        data["num_worker_per_gpu"] = 0
        if name != "train":
            continue
        pooled = options["train"]["pixel_opt"]["type"] == "PooledL1Loss"  # its largest kernel is 64
        if "gt_size" in data:
            data["gt_size"] = 64 if pooled else 32
        if "real_per_batch" in data:
            data["real_per_batch"], data["pseudo_per_batch"] = 1, 2
        elif data["batch_size_per_gpu"] > 1:
            data["batch_size_per_gpu"] = 2
    if "train" in options and "perceptual_opt" in options["train"]:
        options["train"]["perceptual_opt"]["weights"] = str(root / "random_vgg16.pth")
    return options


def take_a_step(path: str, root: Path) -> None:
    """Build all of a run, take the first of its iterations, and save its last weights."""
    values, source = options_module.read_options(OPTIONS / path)
    options_module.check_options(deepcopy(values), source, is_train=True)
    opt = options_module.complete(made_small(values, root), source, root_path=str(root), is_train=True)
    opt.update(dist=False, rank=0, world_size=1)
    run = Run(opt)
    before = [p.detach().clone() for p in run.model.net_g.parameters()]
    batches = run.data.batches()
    model = run.model
    model.update_learning_rate(1, warmup_iter=opt["train"].get("warmup_iter") or -1)
    with model.accumulating(0):
        model.feed_data(next(batches)[1])
        model.optimize_parameters(1)
    batches.close()
    run.data.loader.close()
    logged = model.get_current_log()
    losses = [value for name, value in logged.items() if name.startswith("l_pix")]
    assert losses, path
    assert all(math.isfinite(value) for value in losses), path
    after = list(run.model.net_g.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True)), f"{path}: no weight has changed"
    assert all(bool(p.isfinite().all()) for p in after), path
    os.makedirs(opt["path"]["models"], exist_ok=True)
    model.save_networks(-1)


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.own)
def test_every_file_runs(experiment, prepared, monkeypatch):
    """All phases in their order: each begins with what the one before it has made, by the names in the files."""
    monkeypatch.chdir(prepared)
    take_a_step(experiment.train_file("1_fisp"), prepared)
    pseudo = options_module.load_pseudo_options(OPTIONS / experiment.train_file("2_pseudo"), ["num_gpu=0"])
    shutil.rmtree(pseudo.out, ignore_errors=True)
    monkeypatch.setattr(builder, "save_contact_sheet", lambda *_: None)
    assert builder.run(pseudo, progress=False).written == 2
    for phase in ("3_semi", "4_finetune", "0_supervised"):
        take_a_step(experiment.train_file(phase), prepared)
    values, source = options_module.read_options(OPTIONS / experiment.test_file)
    options_module.check_options(deepcopy(values), source, is_train=False)
    opt = options_module.complete(made_small(values, prepared), source, root_path=str(prepared), is_train=False)
    (means,) = run_test(opt).values()
    assert means.keys() == TASKS[experiment.task.name].metrics.keys()
    assert all(math.isfinite(v) for v in means.values())
    assert len(list((prepared / "results" / values["name"]).rglob("*.png"))) == 1


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.own)
def test_recipe_fits_together(experiment, workspace):
    recipe = load_recipe(OPTIONS / experiment.recipe_file)
    phases = phases_of(recipe, workspace)
    check_fit(phases)
    assert ("0_denoise" in recipe.files) == bool(experiment.task.denoising.value)
    assert [p.name for p in phases if isinstance(p, Training)] == ["1_fisp", "3_semi", "4_finetune", "0_supervised"]
    paper = recipe.options.paper
    assert (paper is not None) == (
        experiment.pairs in experiment.task.paper_amounts and experiment.model.name != "nafnet"
    )
    if paper is not None:
        found = [r for r in paper_results(paper.task, paper.network) if r.pairs == paper.pairs]
        assert [r.network for r in found] == [experiment.model.paper]
