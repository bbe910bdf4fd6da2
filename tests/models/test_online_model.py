"""Pseudo inputs that the model draws, and training on builds that store none, from the commands on."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from semiisp_plugin.cli import main
from semiisp_plugin.io.lmdb_io import close_all
from semiisp_plugin.options import OptionError, Source, complete, load_options
from semiisp_plugin.toolbox import build_dataset, build_model
from semiisp_plugin.training import train
from semiisp_plugin.training.loaders import MixedData

MODELS = {
    "SemiSupervisedModel": {"filter": {"beta": 1.0}},
    "MeanTeacherModel": {"ema_decay": 0.9},
}


@pytest.fixture(autouse=True)
def _clean():
    yield
    close_all()


@pytest.fixture
def builds(option_files):
    """An f_ISP with a local bank on a grid, and a build of it; returns the options of a run on it."""
    main(["train", "-opt", option_files.isp(1)])

    def make(mode: str, draw_on: str, model: str = "SemiSupervisedModel", total: int = 3, **pseudo) -> dict:
        if not Path("pseudo", "manifest.json").exists():
            main(["pseudo", "-opt", option_files.pseudo(mode=mode, **pseudo)])
        options = yaml.safe_load(Path(option_files.semi(total)).read_text())
        options["model_type"] = model
        options["datasets"]["train"].update(
            type="OnlineSemiSupervisedDataset", pseudo={"build": "pseudo", "draw_on": draw_on}, use_rot=True
        )
        for key in ("filter", "noise"):
            options["train"].pop(key)
        options["train"].update(MODELS[model])
        options["network_g"] = {"type": "SepLUT", "n_vertices_3d": 5, "n_vertices_1d": 5, "thumbnail": 32}
        options["logger"]["use_tb_logger"] = False
        return options

    return make


@pytest.mark.parametrize("model", MODELS)
def test_model_and_worker_draw_the_same(completed, builds, model):
    """Local sets: the places go through the batch, too."""
    by = {}
    for draw_on in ("worker", "gpu"):
        opt = completed(builds("online", draw_on, model, sets="local"))
        batches = list(MixedData(opt, build_dataset(opt["datasets"]["train"]), 0).loader)
        network = build_model(opt)
        drawn = []
        for batch in batches:
            network.feed_data(batch)
            drawn.append(network.lq)
        by[draw_on] = batches, drawn
    (batches, expected), (later, drawn) = by["worker"], by["gpu"]
    assert later[0].keys() - batches[0].keys() == {"draw_seed", "draw_place"}
    for batch, worker, model_s in zip(later, expected, drawn, strict=True):
        assert not batch["lq"][batch["is_pseudo"]].any()  # what was given is not written to
        # As 16-bit values: one more or less is rounding.
        assert int(((worker - model_s) * 65535).round().abs().max()) <= 1
        assert bool((worker[batch["is_pseudo"]].flatten(1).std(1) > 0.01).all())
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "draw_on"), [("online", "worker"), ("online", "gpu"), ("keys", "gpu")])
def test_training_from_end_to_end(completed, builds, mode, draw_on):
    options = builds(mode, draw_on, short_side=48)
    logs = []
    train(completed(options), on_log=lambda iteration, values: logs.append(values), quiet=True)
    assert len(logs) == 3
    assert all(math.isfinite(values["l_sup"]) and values["l_sup"] > 0 for values in logs)
    assert Path("experiments/semi/models/net_g_latest.pth").is_file()


@pytest.mark.slow
def test_resumed_run_draws_what_an_unbroken_one_draws(builds, option_files):
    options = builds("online", "gpu", total=4, sets="local")
    Path("options.yml").write_text(yaml.safe_dump(options))

    def run(total: int, *, resume: bool = False) -> torch.Tensor:
        opt = load_options("options.yml", root_path=".", is_train=True, overrides=[f"train:total_iter={total}"])
        opt["train"]["scheduler"] = None
        network = train(opt, auto_resume=resume, quiet=True)
        return torch.cat([p.detach().flatten() for p in network.net_g.parameters()])

    unbroken = run(4)
    assert not torch.equal(run(2), unbroken)
    assert torch.equal(run(4, resume=True), unbroken)


@pytest.mark.parametrize("draw_on", ["worker", "gpu"])
def test_unlabelled_inputs_are_not_drawn(completed, builds, option_files, draw_on):
    options = builds("online", draw_on, "MeanTeacherModel", sets="local")
    data = options["datasets"]["train"]
    inputs = {"dataroot_lq": str(option_files.data / "test/input"), "io_backend": {"type": "disk"}}
    data.update(unlabelled=inputs, unlabelled_per_batch=2)
    opt = completed(options)
    batch = next(iter(MixedData(opt, build_dataset(opt["datasets"]["train"]), 0).loader))
    assert batch["is_unlabelled"].tolist() == [False] * 4 + [True] * 2
    if draw_on == "gpu":
        assert torch.equal(batch["draw_seed"] >= 0, batch["is_pseudo"])
    model = build_model(opt)
    model.feed_data(batch)
    assert torch.equal(model.lq[4:], batch["lq"][4:])
    assert bool((model.lq.flatten(1).std(1) > 0.001).all())
    model.optimize_parameters(1)
    alone = build_dataset({key: value for key, value in opt["datasets"]["train"].items() if key != "pseudo"})
    assert len(alone) == 6 + 2
    assert alone[-1].keys() == alone[0].keys()


def test_validation_has_nothing_to_draw(completed, builds):
    model = build_model(completed(builds("online", "gpu")))
    validation = build_dataset(completed(builds("online", "gpu"))["datasets"]["val"])
    item = {k: v[None] if isinstance(v, torch.Tensor) else [v] for k, v in validation[0].items()}
    model.feed_data(item)
    assert torch.equal(model.lq, item["lq"])


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pseudo": {"build": "b", "draw_at": "gpu"}}, "pseudo:draw_at: unknown key; did you mean 'draw_on'?"),
        ({"pseudo": {"build": "b", "draw_on": "cpu"}}, "'cpu' is none of the choices"),
        ({"pseudo": {"draw_on": "gpu"}}, "the key 'build' is missing"),
        ({"pseudo": None}, "OnlineSemiSupervisedDataset needs 'pseudo' for training"),
        ({"type": "SemiSupervisedDataset"}, "datasets:train:pseudo:build: unknown key. Known: dataroot_gt"),
        ({"type": "PairedRestorationDataset"}, "trains on a SemiSupervisedDataset or an OnlineSemiSupervisedDataset"),
    ],
)
def test_wrong_options(option_files, change, message):
    options = option_files.base("semi", "SemiSupervisedModel", 2)
    options["train"]["filter"] = {"beta": 1.0}
    section = {"type": "OnlineSemiSupervisedDataset", "pseudo": {"build": "b"}, "real_per_batch": 1}
    options["datasets"]["train"].update(section, pseudo_per_batch=1)
    del options["datasets"]["train"]["batch_size_per_gpu"]
    options["datasets"]["train"].update(change)
    if change.get("type") == "PairedRestorationDataset":
        del options["datasets"]["train"]["pseudo"]
    with pytest.raises(OptionError) as error:
        complete(options, Source("test"), root_path=".", is_train=True)
    assert message in str(error.value)


def test_supervised_learning_has_no_use_for_it(option_files):
    options = option_files.base("supervised", "SupervisedModel", 2)
    options["datasets"]["train"].update(type="OnlineSemiSupervisedDataset", pseudo={"build": "b"})
    with pytest.raises(OptionError, match="SupervisedModel does not train on a OnlineSemiSupervisedDataset"):
        complete(options, Source("test"), root_path=".", is_train=True)


def test_home_folder_in_the_build(option_files, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("USERPROFILE", "/home/somebody")
    options = option_files.base("semi", "MeanTeacherModel", 2)
    options["train"]["ema_decay"] = 0.9
    section = {"type": "OnlineSemiSupervisedDataset", "pseudo": {"build": "~/b"}, "real_per_batch": 1}
    options["datasets"]["train"].update(section, pseudo_per_batch=1)
    del options["datasets"]["train"]["batch_size_per_gpu"]
    opt = complete(options, Source("test"), root_path=".", is_train=True)
    assert opt["datasets"]["train"]["pseudo"]["build"] == "/home/somebody/b"
