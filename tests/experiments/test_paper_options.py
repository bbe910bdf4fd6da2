"""Every experiment of the paper: its options pass the check, and some are run for one step of each phase on tiny data.

The networks are made small by their own options (width, blocks, vertices, thumbnail). Lengths of training and schedules
stay as they are: one step of the whole run is taken.
"""

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
from helpers import ROOT, load_script
from torchvision.models import vgg16

from semiisp_plugin import options as options_module
from semiisp_plugin.cli import main
from semiisp_plugin.experiments.annotated_yaml import plain, write_yaml
from semiisp_plugin.experiments.paper_options import Experiment, find_experiment
from semiisp_plugin.experiments.paper_settings import MODELS, TASKS, column
from semiisp_plugin.experiments.recipe import phases_of
from semiisp_plugin.experiments.recipe_checks import check_fit
from semiisp_plugin.experiments.recipe_options import load_recipe
from semiisp_plugin.experiments.recipe_phases import Training
from semiisp_plugin.io.image_io import encode_png, to_uint8, to_uint16, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter
from semiisp_plugin.options.yaml_text import parse
from semiisp_plugin.pseudo import builder
from semiisp_plugin.report.paper_figures import PAPER_RESULTS
from semiisp_plugin.toolbox import build_network
from semiisp_plugin.training import test as run_test
from semiisp_plugin.training.run import Run

OPTIONS = ROOT / "options"
ALL = [
    Experiment(task, pairs, MODELS[name]) for task in TASKS.values() for name in task.models for pairs in task.amounts
]
SMALL = {
    "NAFNet": {"width": 4, "enc_blk_nums": [1, 1, 1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]},
    "SepLUT": {"n_vertices_3d": 5, "n_vertices_1d": 5, "thumbnail": 32},
    "ImageAdaptive3DLUT": {"n_vertices": 5, "thumbnail": 32},
    "AdaInt": {"n_vertices": 5, "thumbnail": 32},
    "LUTwithBGrid": {"n_vertices": 5, "thumbnail": 32},
    "PQDynamicISP": {"thumbnail": 32},
    "HDRNet": {"luma_bins": 2, "spatial_bin": 4, "thumbnail": 32},
    "CIDNet": {"channels": [4, 4, 8, 8], "heads": [1, 2, 2]},
    "SYENet": {"rep_scale": 1},
    "NamedCurves": {"skip_feat": 4, "curve_feat": 8},
    "LLFLUT": {"num_lap": 2, "n_vertices": 5, "embed_dim": 8, "heads": [1, 2], "filter_feat": 8},
    "LLFlow": {"num_feat": 4, "num_block": 1, "num_grow_ch": 2, "stacked": [0], "flow_steps": 1, "hidden_feat": 4},
    "SNRAware": {"num_feat": 4, "num_block": 1, "layers": 1, "heads": 2, "head_feat": 4},
    "CSRNet": {"num_feat": 8, "condition_feat": 4},
    "LLFormer": {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
    "Retinexformer": {"n_feat": 4, "num_blocks": [1, 1, 1]},
}
PARAMETERS = {  # of the full networks, in millions
    "nafnet_s": 7.37,
    "nafnet": 29.16,
    "seplut": 0.120,
    "imageadaptive3dlut": 0.5935,
    "adaint": 0.6197,
    "lutwithbgrid": 0.4638,
    "cidnet": 1.976,
    "csrnet": 0.0365,
    "hdrnet": 0.482,
    "syenet": 0.1025,
    "microisp": 0.01312,
    "namedcurves": 0.9936,
    "retinexformer": 1.61,
    "llf_lut": 0.716,
    "snr_aware": 39.12,
    "llflow": 38.86,
}


def options_of(experiment: Experiment, phase: str) -> dict:
    return plain(experiment.phases()[phase])


def small(network: dict) -> dict:
    return {**network, **SMALL.get(network["type"], {})}


# --- the options ---------------------------------------------------------------------------------------------------


def test_one_recipe_a_task_is_committed_and_up_to_date(capsys):
    assert load_script("write_option_files").main(["--check"]) == 0, capsys.readouterr().out
    for task in TASKS:
        path = OPTIONS / "recipes" / f"{task}.yml"
        assert parse(path.read_text(encoding="utf-8"), str(path))[0] == plain(find_experiment(task).recipe())
    assert len(list(OPTIONS.rglob("*.yml"))) <= 60


def test_there_is_an_experiment_for_each_task_amount_and_model():
    of_the_paper = [e for e in ALL if e.model.paper is not None]
    assert len(of_the_paper) == 3 * 3 * 3 + 2 * (2 + 3 + 3)
    assert len(ALL) == sum(len(task.amounts) * len(task.models) for task in TASKS.values())
    for e in ALL:
        names = ["f_isp", "pseudo", "semi", "finetune", "supervised", "test"]
        assert list(e.phases()) == (["denoise", *names] if e.task.denoising.value else names)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
def test_phases_pass_the_check_and_fit_together(experiment, workspace):
    recipe = load_recipe(plain(experiment.recipe()))
    phases = phases_of(recipe, workspace)
    check_fit(phases)
    assert [p.key for p in phases if isinstance(p, Training)] == ["f_isp", "semi", "finetune", "supervised"]
    paper = recipe.options.paper
    reported = experiment.pairs in experiment.task.paper_amounts and experiment.model.paper is not None
    assert (paper is not None) == reported
    if paper is not None:
        found = [r.network for r in PAPER_RESULTS if (r.task, r.pairs) == (paper.task, paper.pairs)]
        assert found.count(paper.network) == 1
        assert paper.network == experiment.model.paper


@pytest.mark.slow
def test_files_say_the_same_with_sources():
    for e in ALL:
        for name, values in e.phases().items():
            text = write_yaml(values, e.head(name))
            assert parse(text, e.name)[0] == plain(values)
            assert all(len(line) <= 120 for line in text.splitlines())
    text = write_yaml(find_experiment("fivek_ie", "SepLUT", 100).phases()["semi"], [])
    assert 'real_per_batch: 2  # Table 6, "<= 100": N_r' in text
    assert "SepLUT's repository" in text
    assert "# ours: the paper does not say which" in text


def test_the_schema_knows_the_recipes():
    schema = json.loads((OPTIONS / "recipe_schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    for task in TASKS:
        assert [e.message for e in validator.iter_errors(plain(find_experiment(task).recipe()))] == []


@pytest.mark.slow
def test_check_script_takes_folders_and_files_of_all_commands(tmp_path, capsys):
    check = load_script("check_option_files")
    assert main(["recipe", "lolv1", "--write", str(tmp_path / "written")]) == 0
    capsys.readouterr()
    assert check.main([str(tmp_path / "written"), str(OPTIONS / "denoise"), str(OPTIONS / "recipes")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8 + 2 + 6
    (tmp_path / "wrong.yml").write_text("name: r\nphases: {}\n")
    assert check.main([str(tmp_path / "wrong.yml")]) == 1
    assert "refused" in capsys.readouterr().out


# --- the command -----------------------------------------------------------------------------------------------------


def test_experiments_by_their_names():
    assert find_experiment("lolv1").name == "lolv1_llformer_485"
    assert find_experiment("fivek_ie", "nafnet-S", 500).name == "fivek_ie_nafnet_s_500"
    with pytest.raises(ValueError, match="no task 'lolv3'; did you mean 'lolv1'"):
        find_experiment("lolv3")
    with pytest.raises(ValueError, match="--network SepLUT: lolv1 has LLFormer, Retinexformer"):
        find_experiment("lolv1", "SepLUT")
    with pytest.raises(ValueError, match="--pairs 99: lolv1 has 100, 485"):
        find_experiment("lolv1", pairs=99)


def test_phases_are_written_as_plain_files(workspace, capsys):
    arguments = ["--network", "LLFormer", "--pairs", "100", "--data", "D", "--photos", "P", "--write", "W"]
    changes = ["--set", "manual_seed=7", "semi:train:total_iter=10"]
    assert main(["recipe", "lolv1", *arguments, *changes]) == 0
    files = {p.stem: parse(p.read_text(encoding="utf-8"), p.name)[0] for p in Path("W").glob("*.yml")}
    assert files.keys() == {"denoise", "f_isp", "pseudo", "semi", "finetune", "supervised", "test", "recipe"}
    assert sorted(os.listdir()) == ["W"]
    assert files["semi"]["train"]["total_iter"] == 10
    assert files["finetune"]["train"]["total_iter"] > 10
    assert {files[name]["manual_seed"] for name in ("f_isp", "pseudo", "semi", "test")} == {7}
    assert files["pseudo"]["photographs"] == "P"
    assert files["semi"]["datasets"]["train"]["meta_info_file"] == "D/names/train_100.txt"
    assert "total_iter: 10\n" in Path("W/semi.yml").read_text()  # no source any more
    assert '# Table 6, "w/ denoising": N_r' in Path("W/semi.yml").read_text()
    check_fit(phases_of(load_recipe("W/recipe.yml"), workspace))
    assert main(["recipe", "W/recipe.yml", "--network", "LLFormer"]) == 1
    assert "go with a task" in capsys.readouterr().err
    assert main(["recipe", "lolv2"]) == 1
    assert "no task and no file 'lolv2'" in capsys.readouterr().err


def test_dry_run_says_what_is_missing(workspace, capsys):
    assert main(["recipe", "fivek_ie", "--network", "SepLUT", "--dry-run"]) == 1
    output = capsys.readouterr()
    assert re.search(r"semi +semi_fivek_ie_seplut_100 +to do +run +40,000", output.out)
    assert "there is no datasets/fivek_ie/train/lq.lmdb" in output.err
    assert os.listdir() == []


def test_numbers_of_the_papers_tables():
    """As printed."""
    semi = {  # N_r, N_p, beta (Table 6)
        ("fivek_ie", "seplut", 100): (2, 18, 1.0),
        ("fivek_tone_mapping", "nafnet_s", 500): (4, 16, 1.2),
        ("fivek_general_isp", "pqdynamicisp", 4500): (6, 14, 1.0),
        ("lolv1", "llformer", 485): (4, 16, 1.2),
        ("lolv2_real", "retinexformer", 689): (4, 16, 1.2),
        ("lolv2_synthetic", "llformer", 900): (4, 16, 1.2),
    }
    f_isp = {  # learning rate, batch, iterations (Table 5)
        ("fivek_ie", "seplut", 100): (2e-5, 4, 15_000),
        ("fivek_tone_mapping", "nafnet_s", 500): (2e-5, 4, 15_000),
        ("fivek_general_isp", "pqdynamicisp", 4500): (1e-4, 16, 30_000),
        ("lolv1", "llformer", 485): (5e-5, 8, 70_000),
        ("lolv2_real", "retinexformer", 689): (5e-5, 8, 70_000),
        ("lolv2_synthetic", "llformer", 900): (2e-5, 4, 15_000),
    }
    for (task, model, pairs), (real, pseudo, beta) in semi.items():
        experiment = find_experiment(task, model, pairs)
        options = options_of(experiment, "semi")
        data, train = options["datasets"]["train"], options["train"]
        assert (data["real_per_batch"], data["pseudo_per_batch"], train["filter"]["beta"]) == (real, pseudo, beta)
        assert train["total_iter"] == 40_000
        assert train["optim_g"] == {"type": "AdamW", "lr": 1e-4}
        noisy = task in ("lolv1", "lolv2_real")
        assert ("noise" in train) == ("ssim_opt" in train) == noisy
        assert data["gt_size"] == (128 if noisy else [384, 384] if task == "lolv2_synthetic" else [480, 640])
        lr, batch, iterations = f_isp[task, model, pairs]
        options = options_of(experiment, "f_isp")
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


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
def test_fine_tuning_is_the_models_own_training_halved(experiment):
    whole = options_of(experiment, "supervised")
    half = options_of(experiment, "finetune")
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
    text = write_yaml(experiment.phases()["finetune"], [])
    assert ("halved with the iterations" in text) == (whole["train"]["scheduler"] != half["train"]["scheduler"])
    same = deepcopy(half)
    same["name"], same["path"] = whole["name"], whole["path"]
    for section in ("train", "val", "logger"):
        for key in ("total_iter", "scheduler", "warmup_iter", "val_freq", "save_checkpoint_freq"):
            for options in (same, whole):
                options.get(section, {}).pop(key, None)
    assert same == whole
    for options in (options_of(experiment, p) for p in ("f_isp", "semi", "finetune", "supervised")):
        # So that the last iteration leaves a training state.
        assert options["train"]["total_iter"] % options["logger"]["save_checkpoint_freq"] == 0


def test_what_does_not_depend_on_the_model_is_shared():
    for task in TASKS.values():
        for pairs in task.amounts:
            for phase in ("f_isp", "pseudo"):
                same = [options_of(Experiment(task, pairs, MODELS[m]), phase) for m in task.models]
                assert all(options == same[0] for options in same)
    names = [options_of(e, p)["name"] for e in ALL for p in ("semi", "finetune", "supervised")]
    assert len(set(names)) == len(names)


NETWORKS = [(task, model) for task in ("fivek_ie", "lolv1") for model in TASKS[task].models]


@pytest.mark.parametrize(("task", "name"), NETWORKS)
def test_full_networks(task, name):
    options = options_of(find_experiment(task, name), "test")
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
        pooled = options["train"].get("pixel_opt", {}).get("type") == "PooledL1Loss"  # its largest kernel is 64
        if "gt_size" in data:
            data["gt_size"] = 64 if pooled else 32
        if "real_per_batch" in data:
            data["real_per_batch"], data["pseudo_per_batch"] = 1, 2
        elif data["batch_size_per_gpu"] > 1:
            data["batch_size_per_gpu"] = 2
    if "train" in options and "perceptual_opt" in options["train"]:
        options["train"]["perceptual_opt"]["weights"] = str(root / "random_vgg16.pth")
    return options


def take_a_step(values: dict, root: Path) -> None:
    """Build all of a run, take the first of its iterations, and save its last weights."""
    source, name = options_module.Source(values["name"]), values["name"]
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
    losses = [value for key, value in logged.items() if key.startswith(("l_pix", "l_nll"))]
    assert losses, name
    assert all(math.isfinite(value) for value in losses), name
    after = list(run.model.net_g.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True)), f"{name}: no weight has changed"
    assert all(bool(p.isfinite().all()) for p in after), name
    os.makedirs(opt["path"]["models"], exist_ok=True)
    model.save_networks(-1)


SOME = [
    find_experiment("lolv1", "Retinexformer", 100),
    find_experiment("lolv2_synthetic", "LLFormer", 500),
    find_experiment("fivek_ie", "SepLUT", 100),
    find_experiment("fivek_tone_mapping", "PQDynamicISP", 500),
    find_experiment("fivek_general_isp", "NAFNet-s", 4500),
]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SOME, ids=lambda e: e.name)
def test_one_step_of_each_phase(experiment, prepared, monkeypatch):
    """All phases in their order: each begins with what the one before it has made, by the names in the options."""
    monkeypatch.chdir(prepared)
    take_a_step(options_of(experiment, "f_isp"), prepared)
    values = {**options_of(experiment, "pseudo"), "num_gpu": 0}
    pseudo = options_module.complete_pseudo_options(values, options_module.Source("pseudo"))
    shutil.rmtree(pseudo.out, ignore_errors=True)
    monkeypatch.setattr(builder, "save_contact_sheet", lambda *_: None)
    assert builder.run(pseudo, progress=False).written == 2
    for phase in ("semi", "finetune", "supervised"):
        take_a_step(options_of(experiment, phase), prepared)
    values = options_of(experiment, "test")
    source = options_module.Source("test")
    opt = options_module.complete(made_small(values, prepared), source, root_path=str(prepared), is_train=False)
    (means,) = run_test(opt).values()
    assert means.keys() == experiment.task.metrics.keys()
    assert all(math.isfinite(v) for v in means.values())
    assert len(list((prepared / "results" / values["name"]).rglob("*.png"))) == 1


@pytest.mark.slow
def test_dry_run_estimates_the_time(prepared, monkeypatch, capsys):
    """Of phases whose data is not there yet, too; nothing is written."""
    monkeypatch.chdir(prepared)
    before = sorted(prepared.rglob("*"))
    small_ones = ["f_isp:network_g:thumbnail=32", "f_isp:network_global:thumbnail=32", "train:total_iter=20"]
    small_ones += ["f_isp:train:perceptual_opt=~", "datasets:train:num_worker_per_gpu=0", "num_gpu=0"]
    crops = [f"{phase}:datasets:train:gt_size=32" for phase in ("f_isp", "semi")]
    arguments = ["--network", "SepLUT", "--pairs", "100", "--dry-run", "--set", *small_ones, *crops]
    assert main(["recipe", "fivek_ie", *arguments]) == 0, capsys.readouterr()
    output = capsys.readouterr().out
    for phase in ("f_isp", "semi", "finetune", "supervised"):
        assert re.search(rf"{phase}: \S+ s a step, .* for 20 steps", output), output
    assert "All trainings together: about" in output
    assert sorted(prepared.rglob("*")) == before
