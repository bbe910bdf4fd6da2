"""`basicsr recipe own`: pairs and a network of one's own, from the folders to the report."""

import pytest

from semiisp_plugin.cli import main
from semiisp_plugin.experiments.annotated_yaml import plain
from semiisp_plugin.experiments.own_task import own_model, own_task
from semiisp_plugin.experiments.paper_options import find_experiment
from semiisp_plugin.experiments.paper_settings import MODELS
from semiisp_plugin.experiments.recipe import phases_of
from semiisp_plugin.experiments.recipe_checks import check_fit
from semiisp_plugin.experiments.recipe_options import load_recipe
from semiisp_plugin.options import OptionError

SMALL = "{type: SepLUT, n_vertices_3d: 5, n_vertices_1d: 5, thumbnail: 32}"


@pytest.fixture
def prepared(tiny_data, workspace) -> str:
    """What `basicsr prepare own` makes of six pairs."""
    pairs = tiny_data / "pairs"
    command = ["prepare", "own", "--input", str(pairs / "input"), "--target", str(pairs / "target"), "--out", "mine"]
    assert main([*command, "--test_pairs", "2"]) == 0
    return "mine"


def test_a_task_is_what_the_data_say(prepared):
    task = own_task(prepared)
    assert (task.name, task.full, task.amounts, task.raw, task.size.value) == ("mine", 4, (4,), True, (48, 64))
    assert "inverse_tone_mapping" not in task.f_isp
    experiment = find_experiment("own", data=prepared, photos="photos")
    assert (experiment.name, experiment.photographs) == ("mine_nafnet_s_4", "photos")
    f_isp = plain(experiment.phases()["f_isp"])
    assert "perceptual_opt" not in f_isp["train"]
    assert f_isp["datasets"]["train"]["gt_size"] == [48, 64]
    assert "meta_info_file" not in f_isp["datasets"]["train"]


def test_every_model_and_any_network_can_be_trained(prepared, workspace):
    for network in [*MODELS, "LLFormer", "{type: SRVGGNetCompact, upscale: 1}", SMALL]:
        experiment = find_experiment("own", network, data=prepared)
        check_fit(phases_of(load_recipe(plain(experiment.recipe())), workspace))
    assert own_model("My-Net").name == "my_net"
    assert own_model(SMALL).network(own_task(prepared)).value["thumbnail"] == 32


def test_what_is_wrong_is_said(prepared, workspace, capsys):
    for arguments, message in (
        (["--data", "nothing"], "'nothing' is not a folder that `basicsr prepare own` has finished"),
        (["--data", prepared, "--pairs", "3"], "--pairs 3: own has 4."),
        (["--data", prepared, "--network", "[1]"], "give a network's name, or its options as '{type: NAME, ...}'"),
        (["--data", prepared, "--network", "SepLOT"], "no network 'SepLOT' is registered; did you mean 'SepLUT'"),
    ):
        assert main(["recipe", "own", *arguments, "--dry-run"]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(OptionError, match="--network"):
        own_model("{type: [")


@pytest.mark.slow
def test_three_commands_train_a_network_of_ones_own(prepared, tiny_data, workspace, capsys):
    command = ["recipe", "own", "--data", prepared, "--photos", str(tiny_data / "photos"), "--network", SMALL]
    small = ["f_isp:network_g:thumbnail=32", "f_isp:network_global:thumbnail=32", "val:val_freq=2", "num_gpu=0"]
    small += [f"{phase}:train:total_iter=2" for phase in ("f_isp", "semi", "finetune", "supervised")]
    small += ["f_isp:train:bank_size=4", "pseudo:short_side=48", "datasets:train:num_worker_per_gpu=0"]
    assert main([*command, "--set", *small]) == 0
    assert (workspace / "results").is_dir()
    assert "SepLUT" in capsys.readouterr().out
    weights = "experiments/finetune_mine_seplut_4/models/net_g_latest.pth"
    assert main(["enhance", str(tiny_data / "test" / "input"), "--weights", weights, "--out", "enhanced"]) == 0
    assert len(list((workspace / "enhanced").rglob("*.png"))) == 2
