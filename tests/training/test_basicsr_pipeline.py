"""BasicSR's own option files through the command: BasicSR's own pipelines, with safe YAML and resuming on a CPU."""

import logging
import sys
from copy import deepcopy
from pathlib import Path

import basicsr.test
import basicsr.train
import pytest
import torch
import yaml
from basicsr.models.sr_model import SRModel

from semiisp_plugin.cli import main
from semiisp_plugin.options import OptionError, Source, complete
from semiisp_plugin.toolbox import initialized_logger
from semiisp_plugin.training import test_pipeline as run_test
from semiisp_plugin.training import train_pipeline
from semiisp_plugin.training.run import Run

ITERATIONS = 5
NETWORKS = {
    "basicsr": {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1},
    "plugin": {"type": "SepLUT", "n_vertices_3d": 5, "n_vertices_1d": 5, "thumbnail": 32, "dropout": 0.1},
}


@pytest.fixture(autouse=True)
def _logger():
    """BasicSR's logger as a process finds it when it begins."""
    initialized_logger.pop("basicsr", None)
    yield
    logger = logging.getLogger("basicsr")
    for handler in logger.handlers:
        handler.close()
    logger.handlers.clear()
    initialized_logger.pop("basicsr", None)


@pytest.fixture
def losses(monkeypatch) -> list:
    """Iteration and loss of every step of BasicSR's model."""
    found: list = []
    step = SRModel.optimize_parameters

    def recording(self, current_iter):
        step(self, current_iter)
        found.append((current_iter, self.log_dict["l_pix"]))

    monkeypatch.setattr(SRModel, "optimize_parameters", recording)
    return found


@pytest.fixture
def option_file(tiny_data, workspace):
    """Writes an option file in BasicSR's form, for training or for testing."""

    def data(part: str) -> dict:
        return {
            "name": part,
            "type": "PairedImageDataset",
            "dataroot_gt": str(tiny_data / part / "target"),
            "dataroot_lq": str(tiny_data / part / "input"),
            "filename_tmpl": "{}",
            "io_backend": {"type": "disk"},
        }

    def write(network: str = "basicsr", tested: str | None = None) -> str:
        options = {
            "name": "theirs",
            "model_type": "SRModel",
            "scale": 1,
            "num_gpu": 0,
            "manual_seed": 5,
            "datasets": {
                "train": {
                    **data("pairs"),
                    "gt_size": 32,
                    "use_hflip": True,
                    "use_rot": False,
                    "num_worker_per_gpu": 0,
                    "batch_size_per_gpu": 2,
                    "dataset_enlarge_ratio": 1,
                },
                "val": data("test"),
            },
            "network_g": NETWORKS[network],
            "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
            "train": {
                "ema_decay": 0.9,
                "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
                "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
                "total_iter": ITERATIONS,
                "warmup_iter": -1,
                "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
            },
            "val": {
                "val_freq": 2,
                "save_img": False,
                "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False}},
            },
            "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
        }
        if tested:
            options = {k: v for k, v in options.items() if k not in ("train", "logger")}
            options["datasets"] = {"test_1": data("test")}
            options["path"]["pretrain_network_g"] = tested
            options["val"] = {**options["val"], "save_img": True, "suffix": None}
        Path("theirs.yml").write_text(yaml.safe_dump(options, sort_keys=False))
        return "theirs.yml"

    return write


def by_basicsr(monkeypatch, command: str, file: str, root: Path) -> None:
    """BasicSR's own pipeline with its own reader of options."""
    monkeypatch.setattr(sys, "argv", [command, "-opt", file])
    {"train": basicsr.train.train_pipeline, "test": basicsr.test.test_pipeline}[command](str(root))


def weights(folder: Path, label: str = "latest") -> dict:
    return torch.load(folder / f"experiments/theirs/models/net_g_{label}.pth", weights_only=True)


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].keys() == b[key].keys()
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])


@pytest.mark.parametrize("network", NETWORKS)
def test_losses_weights_and_metrics_are_those_of_basicsr(option_file, workspace, losses, monkeypatch, network, capfd):
    file = option_file(network)
    by_basicsr(monkeypatch, "train", file, workspace / "reference")
    expected = list(losses)
    assert [i for i, _ in expected] == list(range(1, ITERATIONS + 1))
    losses.clear()
    assert main(["train", "-opt", file]) == 0
    assert losses == expected
    assert_same(weights(workspace), weights(workspace / "reference"))
    assert Path("experiments/theirs/theirs.yml").read_text().endswith(Path(file).read_text())

    tested = option_file(network, str(workspace / "experiments/theirs/models/net_g_latest.pth"))
    capfd.readouterr()
    said = []
    for run in (
        lambda: by_basicsr(monkeypatch, "test", tested, workspace / "reference"),
        lambda: main(["test", "-opt", tested]),
    ):
        run()
        said.append([line for line in capfd.readouterr().err.splitlines() if "# psnr" in line])
    assert said[0] == said[1] != []
    images = [sorted(p.name for p in (workspace / root).glob("results/theirs/visualization/test/*")) for root in
              ("reference", "")]  # fmt: skip
    assert images[0] == images[1] != []


def test_numbers_without_a_tag_and_overrides(option_file, losses):
    file = Path(option_file())
    text = file.read_text().replace("lr: 0.001", "lr: 1e-3")
    assert "lr: 1e-3" in text
    file.write_text(text)
    assert main(["train", "-opt", str(file), "--force_yml", "train:total_iter=2", "train:ema_decay=0"]) == 0
    assert len(losses) == 2
    assert set(weights(Path())) == {"params"}


def test_resuming_on_a_cpu_finds_the_folder_that_the_run_writes_to(option_file, workspace, losses, monkeypatch, capfd):
    file = str(workspace / option_file())
    root = workspace / "elsewhere"
    train_pipeline(str(root), ["-opt", file, "--force_yml", "train:total_iter=4"])
    states = root / "experiments/theirs/training_states"
    assert {p.name for p in states.iterdir()} == {"2.state", "4.state"}
    losses.clear()
    train_pipeline(str(root), ["-opt", file, "--auto_resume"])
    assert "Resuming training from epoch: 1, iter: 4." in capfd.readouterr().err
    assert [i for i, _ in losses] == [5]
    losses.clear()
    train_pipeline(str(root), ["-opt", file, "--force_yml", f"path:resume_state={states / '2.state'}"])
    assert [i for i, _ in losses] == [3, 4, 5]
    # Where there is nothing, it begins.
    losses.clear()
    train_pipeline(str(workspace / "new"), ["-opt", file, "--auto_resume", "--force_yml", "train:total_iter=1"])
    assert [i for i, _ in losses] == [1]


RESTART = "{type: CosineAnnealingRestartLR, periods: [%d], eta_min: 1e-7}"
STEPS = "{type: MultiStepLR, milestones: [%s], gamma: %s}"


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        (RESTART % 2, RESTART % 9, "periods [9]; it was [2]"),
        (STEPS % ("1, 2", 0.5), STEPS % ("2, 4", 0.1), "gamma 0.1; it was 0.5"),
        (STEPS % (1, 0.5), RESTART % 9, "eta_min 1e-07; it was None"),
        (RESTART % 5, STEPS % (3, 0.5), "periods None; it was [5]"),
    ],
)
def test_a_resumed_run_has_the_rates_of_the_schedule_as_it_is_now(option_file, monkeypatch, capfd, before, now, change):
    """Not a crash, the old milestones, or a rate that stays: the rates of an unbroken run."""
    rates: dict[str, list[float]] = {}
    step = SRModel.optimize_parameters

    def recording(self, current_iter):
        step(self, current_iter)
        rates.setdefault(self.opt["name"], []).append(self.get_current_learning_rate()[0])

    monkeypatch.setattr(SRModel, "optimize_parameters", recording)
    file, common = option_file(), ["train:warmup_iter=2", "val=~", "train:optim_g:lr=1e-2"]

    def run(name: str, schedule: str, total: int, *more: str) -> None:
        changes = [f"name={name}", f"train:total_iter={total}", f"train:scheduler={schedule}", *common]
        train_pipeline(".", ["-opt", file, *more, "--force_yml", *changes])

    run("unbroken", now, 7)
    run("resumed", before, 2)
    capfd.readouterr()
    run("resumed", now, 7, "--auto_resume")
    assert len(rates["resumed"]) == 7
    assert rates["resumed"][2:] == rates["unbroken"][2:]
    assert f"Resuming with a schedule's {change}." in capfd.readouterr().err


def test_nothing_in_a_file_or_an_override_runs(option_file, capsys):
    file = Path(option_file())
    code = "!!python/object/apply:os.system ['touch ran']"
    file.write_text(file.read_text().replace("name: theirs", f"name: {code}"))
    assert main(["train", "-opt", str(file)]) == 1
    assert "python/object/apply:os.system is not allowed" in capsys.readouterr().err
    option_file()
    assert main(["train", "-opt", str(file), "--force_yml", f"name={code}"]) == 1
    assert not Path("experiments").exists()
    main(["train", "-opt", str(file), "--force_yml", 'name"]=__import__("os").system("touch ran");opt["name=x'])
    assert not Path("ran").exists()


def test_basicsr_is_left_as_it_was(option_file, monkeypatch):
    before = basicsr.train.parse_options, basicsr.train.load_resume_state, basicsr.test.parse_options

    def fails(opt):
        raise RuntimeError("broken")

    monkeypatch.setattr(basicsr.train, "build_model", fails)
    with pytest.raises(RuntimeError, match="broken"):
        train_pipeline(".", ["-opt", option_file(), "--debug"])
    assert before == (basicsr.train.parse_options, basicsr.train.load_resume_state, basicsr.test.parse_options)
    assert Path("experiments/debug_theirs").is_dir()


def test_what_only_the_plugins_models_have_is_refused(option_file, workspace):
    with pytest.raises(OptionError, match=r"--dry-run: SRModel runs in BasicSR's own pipeline.*SupervisedModel"):
        train_pipeline(".", ["-opt", option_file(), "--dry-run"])
    options = yaml.safe_load(Path("theirs.yml").read_text())
    for section, value in (("model_type", "SRModell"), ("datasets", None)):
        Path("wrong.yml").write_text(yaml.safe_dump({**options, section: value}))
        for pipeline in (train_pipeline, run_test):
            with pytest.raises(OptionError, match=r"wrong\.yml"):
                pipeline(".", ["-opt", "wrong.yml"])
    assert not Path("experiments").exists()


def test_a_model_of_the_plugin_is_trained_on_data_sets_of_the_plugin(option_files):
    options = option_files.base("mixed", "SupervisedModel", 2)
    for part in options["datasets"].values():  # for validation any will do
        part.update(type="PairedImageDataset", filename_tmpl="{}", num_worker_per_gpu=0)
    options["datasets"]["train"].update(gt_size=32, use_rot=False)

    def start() -> None:
        opt = complete(deepcopy(options), Source("mixed.yml"), root_path=".", is_train=True)
        Run({**opt, "dist": False, "rank": 0, "world_size": 1})

    with pytest.raises(OptionError, match=r"datasets:train:type: .*PairedRestorationDataset"):
        start()
    options["datasets"]["train"] = option_files.pairs("pairs", gt_size=[32, 40], batch_size_per_gpu=2)
    assert main(["train", "-opt", option_files.write("mixed", options)]) == 0
