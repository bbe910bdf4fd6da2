"""BasicSR's own option files through our command: the losses of its own pipeline, and runs that can be killed."""

import json
import math
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.io.image_io import encode_png, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, close_all
from semiisp_plugin.models.adopted import AdoptedModel, _in_front_of, build_adopted
from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import ARCH_REGISTRY, MODEL_REGISTRY, EnlargedSampler, SRModel, register
from semiisp_plugin.training.basicsr_data import BasicSRData, SeededEnlargedSampler
from semiisp_plugin.training.loaders import set_seed

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")

IMAGES, BATCH, ITERATIONS, VAL_FREQ, SAVE_FREQ = 10, 3, 11, 3, 5
PER_EPOCH = IMAGES // BATCH

# Imports everything once, then runs each job in a fork of itself: importing takes longer than a run.
SERVER = """
import json, os, signal, sys, traceback

import torch

torch.set_num_threads(1)
from semiisp_plugin.cli import main
import semiisp_plugin.test, semiisp_plugin.train
import basicsr.test, basicsr.train
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import check_resume


def record(job, rank):
    file = open(job["losses"] + str(rank), "w")

    def recording(step):
        def optimize_parameters(self, current_iter):
            if current_iter == job["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)
            if current_iter == job["poison_at"]:
                self.lq[0, 0, 0, 0] = float("nan")
            step(self, current_iter)
            file.write(json.dumps([current_iter, self.log_dict]) + "\\n")
            file.flush()
        return optimize_parameters

    validate = SRModel.nondist_validation
    def nondist_validation(self, loader, current_iter, *rest):
        if current_iter == job["kill_in_validation"]:
            os.kill(os.getpid(), signal.SIGKILL)
        validate(self, loader, current_iter, *rest)

    SRModel.nondist_validation = nondist_validation
    for model in (SRModel, SRGANModel, ESRGANModel):
        model.optimize_parameters = recording(vars(model)["optimize_parameters"])


def load_on_the_cpu(opt):
    state = torch.load(opt["path"]["resume_state"])
    check_resume(opt, state["iter"])
    return state


def work(job, rank):
    signal.alarm(100)  # a run that hangs is to fail
    os.chdir(job["folder"])
    log = os.open(job["log"] + str(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if job["ranks"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["ranks"]))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=job["port"])
    record(job, rank)
    command, *argv = job["argv"]
    if job["by"] == "ours":
        return main([command, *argv])
    sys.argv = [command, *argv]
    basicsr.train.load_resume_state = (lambda opt: load_on_the_cpu(opt) if opt["path"]["resume_state"] else None)
    {"train": basicsr.train.train_pipeline, "test": basicsr.test.test_pipeline}[command](os.getcwd())
    return 0


print("ready", flush=True)
for line in sys.stdin:
    job, children = json.loads(line), []
    for rank in range(job["ranks"]):
        child = os.fork()
        if child == 0:
            code = 3
            try:
                code = work(job, rank)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]), flush=True)
"""


@dataclass
class Result:
    """What a run left."""

    code: int
    losses: list
    log: str
    folder: Path

    def weights(self, name: str, network: str = "net_g", label: str = "latest") -> dict:
        """Of a checkpoint, without what ours say more: the section that the network was built from."""
        path = self.folder / "experiments" / name / "models" / f"{network}_{label}.pth"
        loaded = torch.load(path, weights_only=True)
        return {key: value for key, value in loaded.items() if key != "network"}


class Lab:
    """Runs `SERVER`'s jobs, each in a folder of its own unless it is to go on in an older one."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data, self.jobs = root, data, 0
        (root / "server.py").write_text(SERVER)
        self.server = subprocess.Popen(
            [sys.executable, root / "server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.done: dict[str, Result] = {}

    def run(self, by: str, options: dict, *more: str, folder=None, command="train", **job) -> Result:
        self.jobs += 1
        folder = folder or self.root / str(self.jobs)
        folder.mkdir(exist_ok=True)
        file = folder / f"{options['name']}.yml"
        file.write_text(yaml.safe_dump(options, sort_keys=False))
        nothing = dict.fromkeys(("kill_at", "kill_in_validation", "poison_at"))
        job = {"by": by, "ranks": 1, **nothing, **job}
        job.update(folder=str(folder), argv=[command, "-opt", file.name, *more])
        job.update(losses=f"losses_{self.jobs}_", log=f"log_{self.jobs}_")
        if self.jobs == 1:
            assert self.server.stdout.readline() == "ready\n"
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        codes = json.loads(self.server.stdout.readline())
        losses = [json.loads(line) for line in (folder / f"{job['losses']}0").read_text().splitlines()]
        return Result(codes[0], losses, (folder / f"{job['log']}0").read_text(), folder)

    def unbroken(self, by: str, options: dict) -> Result:
        """A whole run; the same one is not run twice."""
        key = by + json.dumps(options)
        if key not in self.done:
            self.done[key] = result = self.run(by, options)
            assert result.code == 0, result.log[-3000:]
            assert len(result.losses) == options["train"]["total_iter"]
        return self.done[key]

    def options(self, kind: str, **train) -> dict:
        """An option file in BasicSR's form."""
        model, network, seed, backend, changes = MODELS[kind]

        def data(part: str) -> dict:
            end = "" if backend == "disk" else ".lmdb"
            return {
                "name": part,
                "type": "PairedImageDataset",
                "dataroot_gt": str(self.data / f"gt{end}"),
                "dataroot_lq": str(self.data / f"lq{end}"),
                "filename_tmpl": "{}",
                "io_backend": {"type": backend},
            }

        pixel = {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}
        options = {
            "name": kind,
            "model_type": model,
            "scale": 2,
            "num_gpu": 0,
            "manual_seed": seed,
            "datasets": {
                "train": {
                    **data("tiny"),
                    "gt_size": 16,
                    "use_hflip": True,
                    "use_rot": True,
                    "num_worker_per_gpu": 0,
                    "batch_size_per_gpu": BATCH,
                    "dataset_enlarge_ratio": 1,
                    "prefetch_mode": None,
                },
                "val": data("tiny_val"),
            },
            "network_g": dict(network),
            "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
            "train": {
                "optim_g": {"type": "Adam", "lr": 0.002, "weight_decay": 0, "betas": [0.9, 0.99]},
                "scheduler": {"type": "MultiStepLR", "milestones": [5, 8], "gamma": 0.5},
                "total_iter": ITERATIONS,
                "warmup_iter": -1,
                "pixel_opt": pixel,
                **changes.get("train", {}),
                **train,
            },
            "val": {
                "val_freq": float(VAL_FREQ),  # BasicSR's files write `!!float 5e3`
                "save_img": False,
                "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": False}},
            },
            "logger": {
                "print_freq": 1,
                "save_checkpoint_freq": float(SAVE_FREQ),
                "use_tb_logger": False,
                "wandb": {"project": None},
            },
            "dist_params": {"backend": "nccl", "port": 29500},
        }
        if changes.get("second_val"):
            options["datasets"]["val_2"] = data("again")
        if "network_d" in changes:
            options["network_d"] = dict(changes["network_d"])
        return options


COSINE = {"type": "CosineAnnealingRestartLR", "periods": [6, 6], "restart_weights": [1, 0.5], "eta_min": 1e-7}
DISCRIMINATOR = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
GAN = {
    "network_d": DISCRIMINATOR,
    "train": {
        "ema_decay": 0.9,
        "optim_d": {"type": "Adam", "lr": 0.001, "betas": [0.9, 0.99]},
        "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0,
                    "loss_weight": 0.1},
        "net_d_iters": 1,
        "net_d_init_iters": 2,
    },
}  # fmt: skip
IN_OUT = {"num_in_ch": 3, "num_out_ch": 3}
MSRRESNET = {"type": "MSRResNet", **IN_OUT, "num_feat": 4, "num_block": 1, "upscale": 2}
RRDBNET = {"type": "RRDBNet", **IN_OUT, "scale": 2, "num_feat": 4, "num_block": 1, "num_grow_ch": 4}
EDSR = {"type": "EDSR", **IN_OUT, "num_feat": 4, "num_block": 1, "upscale": 2, "res_scale": 1, "img_range": 255.0,
        "rgb_mean": [0.45, 0.44, 0.40]}  # fmt: skip
SWINIR = {"type": "SwinIR", "upscale": 2, "in_chans": 3, "img_size": 8, "window_size": 4, "img_range": 1.0,
          "depths": [2], "embed_dim": 8, "num_heads": [2], "mlp_ratio": 2, "upsampler": "pixelshuffledirect",
          "resi_connection": "1conv", "drop_path_rate": 0.5, "drop_rate": 0.1}  # fmt: skip
# model, network, manual_seed, where the images are, more
MODELS = {
    "msrresnet": ("SRModel", MSRRESNET, 0, "disk", {"train": {"ema_decay": 0.9, "scheduler": COSINE}}),
    "edsr": ("SRModel", EDSR, 10, "lmdb", {"train": {"warmup_iter": 4}}),
    "rrdbnet": ("SRModel", RRDBNET, 7, "lmdb", {"train": {"ema_decay": 0.9}}),
    "swinir": ("SwinIRModel", SWINIR, 5, "disk", {"train": {"ema_decay": 0.9}, "second_val": True}),
    "srgan": ("SRGANModel", MSRRESNET, 3, "disk", GAN),
    "esrgan": ("ESRGANModel", RRDBNET, 123, "lmdb", GAN),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Ten pairs, as files and as LMDB folders."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for kind, size in (("gt", 24), ("lq", 12)):
        (root / kind).mkdir()
        with LmdbImageWriter(root / f"{kind}.lmdb") as writer:
            for i in range(IMAGES):
                image = rng.integers(0, 255, (size, size + size // 6, 3), dtype=np.uint8)
                write_image(root / kind / f"{i:02d}.png", image)
                writer.put(f"{i:02d}", encode_png(image), image.shape)
    close_all()
    return root


@pytest.fixture(scope="module")
def lab(data, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"), data)
    yield lab
    lab.server.stdin.close()
    lab.server.wait(20)


def assert_same(a, b) -> None:
    """Bit by bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert torch.equal(a, b)


# --- the losses of BasicSR's own pipeline --------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("kind", MODELS)
def test_losses_are_those_of_basicsr(lab, kind):
    """All of them, over four epochs, with augmentation, stochastic depth, and validations in between."""
    options = lab.options(kind)
    theirs, ours = lab.unbroken("basicsr", options), lab.unbroken("ours", options)
    assert ours.losses == theirs.losses
    assert len({json.dumps(values) for _, values in ours.losses}) == ITERATIONS
    for network in ("net_g", "net_d") if "network_d" in options else ("net_g",):
        a, b = theirs.weights(kind, network), ours.weights(kind, network)
        assert list(a) == list(b)  # params, params_ema
        assert_same(a, b)
    # BasicSR calls the last validation one of the iteration after the last.
    said = [r.log.replace(f"@ {ITERATIONS + 1} iter", f"@ {ITERATIONS} iter") for r in (theirs, ours)]
    psnr = [re.findall(r"# psnr: [\d.]+\tBest: .*", text) for text in said]
    assert len(psnr[0]) == (ITERATIONS // VAL_FREQ + 1) * (2 if kind == "swinir" else 1)
    assert psnr[0] == psnr[1]


@needs_fork
def test_run_is_not_ended_early(lab):
    """BasicSR counts a batch that is left out at the end of an epoch, and ends after 4 of 5 iterations here."""
    options = lab.options("msrresnet", total_iter=5)
    options["datasets"]["train"]["batch_size_per_gpu"] = 6
    theirs, ours = lab.run("basicsr", options), lab.run("ours", options)
    assert (len(theirs.losses), len(ours.losses)) == (4, 5)
    assert ours.losses[:4] == theirs.losses


@needs_fork
def test_seeded_order(lab):
    options = lab.options("msrresnet", total_iter=3)
    options["manual_seed"] = 1
    runs = [lab.run("ours", {**options, "datasets": deep(options["datasets"], seeded_order=s)}) for s in (False, True)]
    assert runs[0].losses != runs[1].losses


# --- killed and resumed --------------------------------------------------------------------------------------------


def saved_each_time(options: dict) -> dict:
    return {**options, "logger": {**options["logger"], "save_checkpoint_freq": 1}}


def killed_and_resumed(lab, options: dict, kill_at: int) -> Result:
    """A run that is killed in an iteration and goes on; its losses are those of both parts."""
    return resumed_after(lab, options, lab.run("ours", saved_each_time(options), kill_at=kill_at), kill_at)


def resumed_after(lab, options: dict, killed: Result, kill_at: int) -> Result:
    assert killed.code == -9
    assert [i for i, _ in killed.losses] == list(range(1, kill_at))
    resumed = lab.run("ours", options, "--auto_resume", folder=killed.folder)
    assert resumed.code == 0, resumed.log[-3000:]
    assert f"Resuming from iteration {kill_at - 1}" in resumed.log
    return Result(0, killed.losses + resumed.losses, resumed.log, resumed.folder)


def assert_like_unbroken(unbroken: Result, resumed: Result, name: str) -> None:
    assert resumed.losses == unbroken.losses
    compared = 0
    for file in (unbroken.folder / "experiments" / name / "models").glob("*latest.pth"):
        network = file.name.removesuffix("_latest.pth")
        assert_same(unbroken.weights(name, network), resumed.weights(name, network))
        compared += 1
    assert compared
    # The last validation's line, with the best value of the whole run.
    assert re.findall(r"# psnr: .*", resumed.log)[-1] == re.findall(r"# psnr: .*", unbroken.log)[-1]


@needs_fork
@pytest.mark.parametrize(
    ("kind", "kill_at"),
    [
        ("msrresnet", PER_EPOCH + 2),  # within an epoch
        ("edsr", 3),  # warming up
        ("swinir", PER_EPOCH + 1),  # after an epoch, and a validation
        ("swinir", PER_EPOCH + 3),
        ("srgan", 2 * PER_EPOCH + 1),
        ("esrgan", PER_EPOCH + 3),
    ],
)
def test_resumed_run_equals_an_unbroken_one(lab, kind, kill_at):
    options = lab.options(kind)
    resumed = killed_and_resumed(lab, options, kill_at)
    assert_like_unbroken(lab.unbroken("ours", options), resumed, kind)


@needs_fork
def test_killed_between_checkpoint_and_validation(lab):
    """The validation is made up for; what it draws in BasicSR's pipeline is drawn once."""
    options = lab.options("swinir")
    killed = lab.run("ours", saved_each_time(options), kill_in_validation=2 * VAL_FREQ)
    resumed = resumed_after(lab, options, killed, 2 * VAL_FREQ + 1)
    assert_like_unbroken(lab.unbroken("ours", options), resumed, "swinir")
    assert "had not been done yet" in resumed.log


def without_chance(lab, name: str) -> dict:
    """Crops of the images' whole size, and no flips: losses depend on the order alone."""
    options = lab.options("msrresnet")
    options["name"] = name
    train = options["datasets"]["train"]
    train.update(gt_size=24, use_hflip=False, use_rot=False)
    for kind in ("gt", "lq"):
        train[f"dataroot_{kind}"] = str(lab.data / "square" / kind)
    return options


@pytest.fixture(scope="module")
def square(data) -> None:
    rng = np.random.default_rng(1)
    for kind, size in (("gt", 24), ("lq", 12)):
        (data / "square" / kind).mkdir(parents=True)
        for i in range(IMAGES):
            write_image(data / "square" / kind / f"{i}.png", rng.integers(0, 255, (size, size, 3), dtype=np.uint8))


@needs_fork
def test_states_go_from_basicsr_to_us_and_back(lab, square):
    theirs = lab.unbroken("basicsr", without_chance(lab, "exchange"))
    ours = lab.unbroken("ours", without_chance(lab, "exchange"))
    assert ours.losses == theirs.losses
    states = [r.folder / "experiments" / "exchange" / "training_states" / "5.state" for r in (theirs, ours)]
    # Ours goes on from BasicSR's state where it stopped, in another run's folder.
    options = without_chance(lab, "on")
    options["path"]["resume_state"] = str(states[0])
    options["path"]["param_key_g"] = "params_ema"  # for weights to start from, not for those to go on with
    resumed = lab.run("ours", options)
    assert resumed.losses == theirs.losses[5:]
    assert_same(resumed.weights("on"), theirs.weights("exchange"))
    # BasicSR goes on from our state as from its own (it begins the epoch again, with its networks in the run's folder).
    results = []
    for state in states:
        options = without_chance(lab, "exchange")
        options["path"]["resume_state"] = str(state)
        results.append(lab.run("basicsr", options, folder=state.parents[3]))
    assert results[0].losses == results[1].losses
    assert results[1].losses[0][0] == 6
    assert "Resuming training from epoch: 1, iter: 5." in results[1].log


# --- loader workers ------------------------------------------------------------------------------------------------


@needs_fork
def test_number_of_workers_changes_nothing(lab):
    def options(workers: int) -> dict:
        options = lab.options("swinir", total_iter=7)
        options["datasets"]["train"]["num_worker_per_gpu"] = workers
        return options

    runs = [lab.unbroken("ours", options(n)) for n in (1, 2, 3)]
    assert runs[0].losses == runs[1].losses == runs[2].losses
    assert_like_unbroken(runs[1], killed_and_resumed(lab, options(2), PER_EPOCH + 3), "swinir")


class Chance(torch.utils.data.Dataset):
    """Samples that are nothing but what the three generators give."""

    opt = {"name": "chance"}  # noqa: RUF012
    paths = [f"{i}.png" for i in range(7)]  # noqa: RUF012

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict:
        return {"index": index, "drawn": torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])}


def chance(model: str = "SRModel", start: int = 0, **settings) -> BasicSRData:
    settings = {"batch_size_per_gpu": 3, **settings}
    opt = {"model_type": model, "manual_seed": 4, "num_gpu": 0, "dist": False, "rank": 0, "world_size": 1}
    opt.update(train={"total_iter": 9}, datasets={"train": settings})
    return BasicSRData(Chance(), settings, opt, start)


def drawn(data: BasicSRData) -> list:
    return [batch["drawn"] for _, batch in data.batches()]


def test_augmentation_does_not_come_again():
    """Nine batches over more than four epochs: no number of any of the three generators comes twice."""
    for settings in ({"model": "SRModel", "num_worker_per_gpu": 2}, {"model": "SupervisedModel"}):
        values = torch.cat(drawn(chance(**settings)))
        assert values.shape == (27, 3)
        assert all(len(column.unique()) == 27 for column in values.T)


def test_own_seeds_depend_on_the_place_alone():
    alone = drawn(chance("SupervisedModel"))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    again = drawn(chance("SupervisedModel"))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert_same(dict(enumerate(alone)), dict(enumerate(again)))
    by_workers = drawn(chance("SupervisedModel", num_worker_per_gpu=2))
    assert_same(dict(enumerate(alone)), dict(enumerate(by_workers)))
    resumed = drawn(chance("SupervisedModel", start=5))
    assert_same(dict(enumerate(alone[5:])), dict(enumerate(resumed)))


def test_order_is_that_of_basicsr_or_of_the_seed():
    def order(data: BasicSRData) -> list:
        return [(epoch, batch["index"].tolist()) for epoch, batch in data.batches()]

    theirs, seeded = EnlargedSampler(Chance(), 1, 0, 2), SeededEnlargedSampler(Chance(), 1, 0, 2, 4)
    for data, sampler in (
        (chance(dataset_enlarge_ratio=2), theirs),
        (chance(dataset_enlarge_ratio=2, seeded_order=True), seeded),
        (chance("SupervisedModel", dataset_enlarge_ratio=2), seeded),
    ):
        expected = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            indices = list(sampler)
            expected += [(epoch, indices[i : i + 3]) for i in range(0, 12, 3)]
        assert order(data) == expected[:9]
    assert order(chance(start=4)) == order(chance())[4:]
    assert order(chance(start=9)) == []
    assert data.passes(7) == {"real": 3.0}
    assert "14 images" not in data.about()


def test_changes_of_the_order_are_named():
    data = chance()
    assert data.changes_since(data.state_dict(0)) is None
    assert "start batch was 3, is 0" in data.changes_since(data.state_dict(3))
    assert "batch size of all ranks was 2, is 3" in data.changes_since(chance(batch_size_per_gpu=2).state_dict(3))
    assert "seeded order was True, is False" in data.changes_since(chance(seeded_order=True).state_dict(3))


def test_data_that_fill_no_batch_and_keys_that_lack():
    with pytest.raises(OptionError, match=r"7 images do not fill one batch of 8.*dataset_enlarge_ratio"):
        chance(batch_size_per_gpu=8)
    with pytest.raises(OptionError, match=r"batch_size_per_gpu.*missing"):
        chance(batch_size_per_gpu=None)
    assert len(drawn(chance(batch_size_per_gpu=8, dataset_enlarge_ratio=2))) == 9


# --- what else is mended -------------------------------------------------------------------------------------------


@needs_fork
def test_loss_that_is_not_finite(lab):
    result = lab.run("ours", lab.options("msrresnet"), poison_at=6)
    assert result.code == 1
    assert "Traceback" not in result.log
    line = [text for text in result.log.splitlines() if text.startswith("basicsr: error: ")][-1]
    assert re.search(r"iteration 6: l_pix nan; the batch: .*lq/0\d\.png, .*--auto_resume", line), line
    saved = result.weights("msrresnet", label="5")["params"]
    assert all(torch.isfinite(v).all() for v in saved.values())


@needs_fork
def test_testing(lab):
    """`basicsr test` finds what training validated, and what BasicSR's own test finds; images are written."""
    trained = lab.unbroken("ours", lab.options("swinir"))
    options = lab.options("swinir")
    options.pop("train"), options.pop("logger")
    options["name"] = "tested"
    options["datasets"] = {"test_1": options["datasets"]["val"]}
    options["path"]["pretrain_network_g"] = str(trained.folder / "experiments/swinir/models/net_g_latest.pth")
    options["path"]["param_key_g"] = "params_ema"
    options["val"].update(save_img=True, suffix="x")
    results = [lab.run(by, options, command="test") for by in ("ours", "basicsr")]
    for result in results:
        assert result.code == 0, result.log[-3000:]
        assert len(list((result.folder / "results/tested/visualization/tiny_val").glob("*_x.png"))) == IMAGES
    found = [re.findall(r"# psnr: ([\d.]+)", result.log) for result in (*results, trained)]
    assert found[0] == found[1] == [found[2][-1]]


@needs_fork
@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without torch.distributed and gloo",
)
def test_two_processes_on_the_cpu(lab, square, free_port):
    """As one process with the whole batch; SwinIR has buffers, which the validating process must not wait to share."""
    options = without_chance(lab, "two")
    options["datasets"]["train"]["batch_size_per_gpu"] = 2
    one = lab.run("ours", {**options, "datasets": deep(options["datasets"], batch_size_per_gpu=4)})
    launched = {"ranks": 2, "port": free_port}
    two = lab.run("ours", options, "--launcher", "pytorch", **launched)
    assert two.code == 0, two.log[-3000:]
    values = [[step["l_pix"] for _, step in result.losses] for result in (one, two)]
    assert len(values[1]) == ITERATIONS
    np.testing.assert_allclose(*values, rtol=1e-4)

    options = lab.options("swinir", total_iter=7, ema_decay=0)
    options["datasets"]["train"]["batch_size_per_gpu"] = 2
    unbroken = lab.run("ours", options, "--launcher", "pytorch", **launched)
    assert unbroken.code == 0, unbroken.log[-3000:]
    states = unbroken.folder / "experiments/swinir/training_states"
    assert [p.name for p in states.iterdir()] == ["5.state"]
    resumed = lab.run("ours", options, "--launcher", "pytorch", "--auto_resume", folder=unbroken.folder, **launched)
    assert resumed.losses == unbroken.losses[5:]


def deep(datasets: dict, **train) -> dict:
    return {**datasets, "train": {**datasets["train"], **train}}


@pytest.fixture
def free_port() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@register(ARCH_REGISTRY)
class TinyNormed(nn.Module):
    """A network with buffers."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x))[:, :3]


def tiny_options(folder: Path, **path) -> dict:
    for name in ("models", "training_states"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "name": "tiny",
        "model_type": "SRModel",
        "is_train": True,
        "num_gpu": 0,
        "manual_seed": 0,
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "datasets": {"train": {}},
        "network_g": {"type": "TinyNormed"},
        "path": {"models": str(folder / "models"), "training_states": str(folder / "training_states"), **path},
        "train": {
            "total_iter": 9,
            "ema_decay": 0.5,
            "optim_g": {"type": "AdamW", "lr": 0.1},
            "scheduler": {"type": "MultiStepLR", "milestones": [2]},
            "pixel_opt": {"type": "L1Loss"},
        },
        "logger": {},
    }


def train_a_little(model, steps: int, first: int = 1) -> None:
    for i in range(first, first + steps):
        model.update_learning_rate(i)
        image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(i))
        model.feed_data({"lq": image, "gt": 1 - image, "lq_path": ["a", "b"]})
        model.optimize_parameters(i)


def test_average_has_the_buffers(tmp_path):
    model = build_adopted(tiny_options(tmp_path))
    assert isinstance(model.optimizer_g, torch.optim.AdamW)
    before = {k: v.clone() for k, v in model.net_g_ema.state_dict().items()}
    train_a_little(model, 1)
    live, average = model.net_g.state_dict(), model.net_g_ema.state_dict()
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(average[name], live[name])
        assert not torch.equal(average[name], before[name])
    # Parameters as BasicSR averages them.
    torch.testing.assert_close(average["conv.weight"], 0.5 * before["conv.weight"] + 0.5 * live["conv.weight"])


def test_state_and_resumed_model(tmp_path):
    options = tiny_options(tmp_path)
    model = build_adopted(options)
    assert options == tiny_options(tmp_path)  # BasicSR takes keys out of its own copy
    train_a_little(model, 3)
    model.best_metric_results = {"set": {"psnr": {"better": "higher", "val": 30.5, "iter": 2}}}
    model.save(0, 3)
    model.save(-1, -1)
    assert {p.name for p in (tmp_path / "models").iterdir()} == {"net_g_3.pth", "net_g_latest.pth"}
    state = torch.load(tmp_path / "training_states" / "3.state", weights_only=True)
    assert {"epoch", "iter", "optimizers", "schedulers", "rng", "best_metric_results"} <= state.keys()
    assert (state["model_type"], state["files"]) == ("SRModel", ["net_g_3.pth"])
    drawn = random.random(), np.random.rand(), torch.rand(1)
    train_a_little(model, 2, first=4)

    # Weights to start from, and how they were loaded, do not matter any more.
    options["path"].update(pretrain_network_g="gone.pth", strict_load_g=False, param_key_g="params_ema")
    options["val"] = {"metrics": {"psnr": {}}}
    resumed = build_adopted(options, state)
    resumed.resume_training(state)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
    assert resumed.best_metric_results["set"]["psnr"]["val"] == 30.5
    train_a_little(resumed, 2, first=4)
    assert_same(resumed.net_g.state_dict(), model.net_g.state_dict())
    assert_same(resumed.net_g_ema.state_dict(), model.net_g_ema.state_dict())

    options["val"] = {"metrics": {"ssim": {}}}
    other = build_adopted(options, state)
    other.resume_training(state)
    assert not hasattr(other, "best_metric_results")  # of a metric that is not evaluated any more


@pytest.mark.parametrize("rng", [None, ["of", "two processes"]])
def test_states_without_usable_generators(tmp_path, rng):
    """BasicSR's do not say where they stood: they are seeded from the iteration, not left at the run's beginning."""
    options = tiny_options(tmp_path)
    model = build_adopted(options)
    train_a_little(model, 2)
    found = []
    for iteration in (1, 1, 2):
        model.save(0, iteration)
        state = torch.load(tmp_path / "training_states" / f"{iteration}.state", weights_only=True)
        state = {k: state[k] for k in ("epoch", "iter", "optimizers", "schedulers")}
        resumed = build_adopted(options, state)
        set_seed(len(found))
        resumed.resume_training({**state, "rng": rng} if rng else state)
        found.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[1], found[2], strict=True))


def test_frozen_weights_stay_frozen(tmp_path):
    """As EDVR and the recurrent video models, which freeze weights in iteration 1 for a number of iterations."""

    @register(MODEL_REGISTRY)
    class FreezingModel(SRModel):
        def optimize_parameters(self, current_iter):
            if current_iter in (1, 4):
                self.net_g.conv.requires_grad_(current_iter == 4)
            super().optimize_parameters(current_iter)

    options = {**tiny_options(tmp_path), "model_type": "FreezingModel"}
    model = build_adopted(options)
    train_a_little(model, 2)
    model.save(0, 2)
    train_a_little(model, 4, first=3)
    state = torch.load(tmp_path / "training_states" / "2.state", weights_only=True)
    resumed = build_adopted(options, state)
    resumed.resume_training(state)
    assert [p.requires_grad for p in resumed.net_g.parameters()] == [False, False, True, True]
    train_a_little(resumed, 4, first=3)
    assert_same(resumed.net_g.state_dict(), model.net_g.state_dict())


def test_states_that_do_not_fit(tmp_path):
    model = build_adopted(tiny_options(tmp_path))
    train_a_little(model, 1)
    model.save(0, 1)
    state = torch.load(tmp_path / "training_states" / "1.state", weights_only=True)
    with pytest.raises(CheckpointError, match="state of SRModel, not of SwinIRModel"):
        build_adopted({**tiny_options(tmp_path), "model_type": "SwinIRModel"}, state).resume_training(state)
    with pytest.raises(CheckpointError, match=r"no state of this model.*optimizers"):
        build_adopted(tiny_options(tmp_path), state).resume_training({**state, "optimizers": []})
    with pytest.raises(CheckpointError, match=r"net_g_7\.pth"):
        build_adopted(tiny_options(tmp_path), {**state, "iter": 7})


def test_weights_to_start_from(tmp_path):
    source = build_adopted(tiny_options(tmp_path))
    weights = {k: v + 1 for k, v in source.net_g.state_dict().items()}
    torch.save(weights, tmp_path / "bare.pth")
    torch.save({"params": weights}, tmp_path / "params.pth")
    torch.save({"others": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "others.pth")

    def conv(file: str, width: int = 3, **path):
        options = tiny_options(tmp_path, pretrain_network_g=str(tmp_path / file), **path)
        options["network_g"]["width"] = width
        options["train"]["ema_decay"] = 0
        return build_adopted(options).net_g.conv.weight

    for file, path in (
        ("bare.pth", {"param_key_g": None}),
        ("bare.pth", {}),
        ("params.pth", {"param_key_g": "params_ema"}),  # as BasicSR: 'params' where there is no average
        ("others.pth", {"param_key_g": "others"}),
        ("params.pth", {"strict_load_g": False}),
    ):
        assert torch.equal(conv(file, **path), weights["conv.weight"])
    # Where strict_load_g is off, what does not fit is left as it was made.
    assert conv("params.pth", width=4, strict_load_g=False).shape == (4, 3, 1, 1)
    with pytest.raises(CheckpointError, match=r"does not fit TinyNormed.*of another shape"):
        conv("params.pth", width=4)
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        conv("gone.pth")
    with pytest.raises(CheckpointError, match=r"others\.pth.*others"):
        conv("others.pth")
    with pytest.raises(CheckpointError, match=r"others\.pth holds no weights"):
        conv("others.pth", strict_load_g=False)


def test_best_and_last_checkpoints(tmp_path):
    options = {**tiny_options(tmp_path), "model_type": "SRGANModel", "network_d": {"type": "TinyNormed"}}
    options["datasets"]["val"] = {"name": "set"}
    options["val"] = {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}}
    options["train"].update(optim_d={"type": "SGD", "lr": 0.1}, gan_opt={"type": "GANLoss", "gan_type": "lsgan"})
    options["logger"] = {"keep_best": "psnr", "keep_last": 1, "safetensors": True}
    model = build_adopted(options)

    def names(folder: str) -> set[str]:
        return {p.name for p in (tmp_path / folder).iterdir()}

    def validated(iteration: int, psnr: float) -> None:
        model._initialize_best_metric_results("set")
        model._update_best_metric_result("set", "psnr", np.float64(psnr), iteration)
        model.keep_best("set", iteration)

    for iteration, psnr in ((1, 20.0), (2, 19.0)):
        model.save(0, iteration)
        validated(iteration, psnr)
        model.save_training_state(0, iteration)
        if iteration == 1:
            best = (tmp_path / "models" / "net_g_best.pth").read_bytes()
            train_a_little(model, 1)
    state = torch.load(tmp_path / "training_states" / "2.state", weights_only=True)
    assert state["files"] == ["net_g_2.pth", "net_d_2.pth"]
    assert state["best_metric_results"]["set"]["psnr"] == {"better": "higher", "val": 20.0, "iter": 1}
    assert names("training_states") == {"2.state"}
    stems = {f"net_{n}_{label}" for n in "gd" for label in ("2", "best")}
    assert names("models") == {f"{stem}.{kind}" for stem in stems for kind in ("pth", "safetensors")}
    assert (tmp_path / "models" / "net_g_best.pth").read_bytes() == best


def test_optimiser_that_does_not_exist(tmp_path):
    options = tiny_options(tmp_path)
    options["train"]["optim_g"]["type"] = "AdamWW"
    with pytest.raises(ValueError, match="AdamWW"):
        build_adopted(options)


def test_class_in_front_keeps_what_is_behind(tmp_path):
    """Every model of BasicSR keeps its own step; a class of somebody else's also its own ways of saving."""

    @register(MODEL_REGISTRY)
    class TheirModel(SRModel):
        def save_network(self, net, net_label, current_iter, param_key="params"):
            saved.append(net_label)

    saved: list = []
    model = build_adopted({**tiny_options(tmp_path), "model_type": "TheirModel"})
    model.save(0, 1)
    assert saved == ["net_g"]
    assert (tmp_path / "training_states" / "1.state").exists()
    assert type(model).__name__ == "TheirModel"
    assert isinstance(model, TheirModel)

    for name, registered in MODEL_REGISTRY:
        if registered.__module__.startswith("basicsr."):
            order = _in_front_of(registered).__mro__
            assert order[1] is AdoptedModel
            # Nothing but ours comes before it: another class of BasicSR's would hide its methods.
            before = order[1 : order.index(registered)]
            assert all(c.__module__.startswith("semiisp_plugin.") for c in before), name


def test_validation_draws_nothing(tmp_path):
    """Resuming need not know whether an iteration was validated: what BasicSR's validation draws, the step draws."""
    options = tiny_options(tmp_path)
    options["val"] = {
        "val_freq": 2,
        "save_img": False,
        "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}},
    }
    options["datasets"].update(val={"name": "a"}, val_2={"name": "b"})
    model = build_adopted(options)

    def draws(iteration: int) -> int:
        before = torch.get_rng_state()
        train_a_little(model, 1, first=iteration)
        after, count = torch.get_rng_state(), 0
        torch.set_rng_state(before)
        while not torch.equal(torch.get_rng_state(), after):
            torch.empty((), dtype=torch.int64).random_()
            count += 1
            assert count < 9
        return count

    assert [draws(i) for i in (1, 2, 3, 4)] == [0, 2, 0, 2]
    model.opt["rank"] = 1
    assert draws(6) == 0  # one process validates
    model.opt["rank"] = 0
    video = _in_front_of(MODEL_REGISTRY.get("VideoBaseModel"))
    video = video.__new__(video)
    video.opt = model.opt
    assert (model._validations_after(6), video._validations_after(6)) == (2, 0)  # those read the data set themselves
    image = torch.rand(1, 3, 8, 8)
    batch = {"lq": image, "gt": image, "lq_path": ["a.png"]}

    class Loader(list):
        dataset = SimpleNamespace(opt={"name": "a"})

        def __iter__(self):
            torch.rand(3)
            return super().__iter__()

    before = torch.get_rng_state()
    model.validation(Loader([batch]), 4, None)
    assert torch.equal(torch.get_rng_state(), before)
    assert math.isfinite(model.latest_metrics["a"]["psnr"])
    assert isinstance(model.best_metric_results["a"]["psnr"]["val"], float)
