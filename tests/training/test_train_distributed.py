"""Two processes on the CPU share the batch, the filter's reference and the loss as one process would have them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from semiisp_plugin.data.sampler import MixedBatchSampler
from semiisp_plugin.io.image_io import encode_png, to_uint8, to_uint16
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, close_all
from semiisp_plugin.training import train_pipeline

pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
        reason="torch was built without torch.distributed and gloo",
    ),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the two processes are forked"),
]

N_PSEUDO, ITERATIONS, REAL, PSEUDO = 8, 3, 1, 2
FLOW = {"type": "LLFlow", "num_feat": 4, "num_block": 1, "num_grow_ch": 2, "stacked": [0]}
FLOW |= {"levels": 1, "flow_steps": 1, "hidden_feat": 4}

# Does what torchrun does, with processes that are forked when all is imported: importing takes longer than the rest.
# Each rank records what it saw in a file.
LAUNCHER = """
import json, multiprocessing, os, signal, sys
import torch
from torch import nn
from semiisp_plugin.losses.pseudo_filter import PseudoFilter
from semiisp_plugin.models.semi_supervised_model import SemiSupervisedModel
from semiisp_plugin.toolbox import ARCH_REGISTRY, register
from semiisp_plugin.training import train_pipeline
from semiisp_plugin.training.interrupt import Interrupted

torch.set_num_threads(1)
seen = []

class Recording(PseudoFilter):
    def __call__(self, per_sample_loss, is_pseudo, *, reference=None):
        result = super().__call__(per_sample_loss, is_pseudo, reference=reference)
        seen[-1].update(losses=per_sample_loss.tolist(), pseudo=is_pseudo.tolist(), reference=float(reference),
                        weights=result.weights.tolist())
        return result

optimize_parameters = SemiSupervisedModel.optimize_parameters
def recording_optimize_parameters(self, current_iter):
    seen.append({"name": self.opt["name"], "keys": list(self.keys)})
    optimize_parameters(self, current_iter)
    if self.opt["name"] == "stopped" and current_iter == 2 and self.opt["rank"] == 1:
        os.kill(os.getpid(), signal.SIGTERM)  # one of the two alone is told to stop

import semiisp_plugin.models.semi_supervised_model as module
module.PseudoFilter = Recording
SemiSupervisedModel.optimize_parameters = recording_optimize_parameters

@register(ARCH_REGISTRY)
class WithBuffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x))

def worker(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    for option_file in sys.argv[1:]:
        try:
            model = train_pipeline(".", ["--launcher", "pytorch", "--auto_resume", "-opt", option_file])
            if model.opt["name"] == "flow":
                seen[-1]["parameters"] = torch.cat([p.flatten() for p in model.net_g.parameters()]).tolist()
        except Interrupted as interrupted:
            seen.append({"name": "interrupted", "signal": interrupted.signal, "iteration": interrupted.iteration})
    with open(f"seen_{rank}.json", "w") as file:
        json.dump(seen, file)
    torch.distributed.destroy_process_group()

workers = [multiprocessing.get_context("fork").Process(target=worker, args=(rank,)) for rank in range(2)]
for process in workers:
    process.start()
for process in workers:
    process.join()
sys.exit(any(process.exitcode for process in workers))
"""


def write_pseudo_pairs(folder: Path) -> None:
    """Every second pair is far off, so that the filter has something to drop."""
    rng = np.random.default_rng(5)
    writers = [LmdbImageWriter(folder / f"{name}.lmdb") for name in ("gt", "lq")]
    for i in range(N_PSEUDO):
        image = rng.uniform(0, 1, (48, 64, 3)) * (0.2 + 0.1 * i)
        target = 1 - image if i % 2 else image
        for writer, picture in zip(writers, (to_uint8(target), to_uint16(image)), strict=True):
            writer.put(f"p{i}", encode_png(picture), picture.shape)
    for writer in writers:
        writer.close()


def options_of(option_files, name: str, network: dict, processes: int, **train: Any) -> str:
    """The same run: what two processes take of a batch, one process takes alone."""
    share = 2 // processes
    options = option_files.base(name, "SemiSupervisedModel", ITERATIONS)
    pairs = options["datasets"]["train"]
    del pairs["batch_size_per_gpu"]
    pairs.update(
        type="SemiSupervisedDataset",
        real_per_batch=REAL * share,
        pseudo_per_batch=PSEUDO * share,
        pseudo={
            "dataroot_gt": "pseudo/gt.lmdb",
            "dataroot_lq": "pseudo/lq.lmdb",
            "io_backend": {"type": "lmdb"},
        },
    )
    options["network_g"] = network
    options["train"].update(optim_g={"type": "SGD", "lr": 0.5}, filter={"beta": 1.0}, **train)
    del options["val"]["metrics"]["ssim"], options["val"]["metrics"]["psnr_gt_mean"]
    options["val"]["val_freq"] = 1
    options["logger"]["use_tb_logger"] = False
    return option_files.write(name, options)


def isp_options(option_files, name: str, processes: int) -> str:
    path = Path(option_files.isp(total=2))
    options = yaml.safe_load(path.read_text())
    options["name"] = name
    options["datasets"]["train"]["batch_size_per_gpu"] = 2 // processes
    options["train"].update(bank_size=4, optim_g={"type": "SGD", "lr": 0.01})
    options["logger"]["use_tb_logger"] = False
    del options["val"], options["datasets"]["val"]
    return option_files.write(name, options)


def run_two_processes(folder: Path, option_files: list[str]) -> list[list[dict]]:
    """Train on ranks 0 and 1; returns what each saw."""
    (folder / "launcher.py").write_text(LAUNCHER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(
        [sys.executable, "launcher.py", *option_files],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = launcher.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)  # its session: the launcher and both ranks
        output, _ = launcher.communicate()
    assert launcher.returncode == 0, output[-4000:]
    return [json.loads((folder / f"seen_{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_train_as_one(option_files, workspace):
    write_pseudo_pairs(workspace / "pseudo")
    close_all()
    plain = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
    two = options_of(option_files, "two", plain, processes=2)
    # A network with buffers: its validation by rank 0 alone must not wait for the other rank.
    buffers = options_of(option_files, "buffers", {"type": "WithBuffers"}, processes=2)
    stopped = options_of(option_files, "stopped", plain, processes=2)
    flow = options_of(option_files, "flow", FLOW, processes=2, pixel_opt=None, likelihood={})
    isp_two = isp_options(option_files, "isp_two", processes=2)
    ranks = run_two_processes(workspace, [two, buffers, stopped, stopped, flow, isp_two])
    expected = ["two"] * ITERATIONS + ["buffers"] * ITERATIONS
    expected += ["stopped", "stopped", "interrupted", *["stopped"] * (ITERATIONS - 2), *["flow"] * ITERATIONS]
    assert [[step["name"] for step in seen] for seen in ranks] == [expected] * 2
    for seen in ranks:
        step = seen[2 * ITERATIONS + 2]
        assert (step["signal"], step["iteration"]) == (signal.SIGTERM, 2)

    # Each rank draws its own part of every batch; together they are the batch of one process.
    whole = MixedBatchSampler(6, N_PSEUDO, 2 * REAL, 2 * PSEUDO, seed=3, num_batches=ITERATIONS)
    for number in range(ITERATIONS):
        first, second = (seen[number] for seen in ranks)
        assert first["pseudo"] == second["pseudo"] == [False] * REAL + [True] * PSEUDO
        expected = [f"p{s.index}" if s.source else f"{s.index:02d}" for s in whole.batch(number)]
        assert sorted(first["keys"] + second["keys"]) == sorted(expected)
        assert not set(first["keys"]) & set(second["keys"])

        # L_r is the mean over the real samples of both ranks.
        real = first["losses"][:REAL] + second["losses"][:REAL]
        assert first["reference"] == second["reference"] == pytest.approx(np.mean(real), rel=1e-6)
        for seen in (first, second):
            kept = [loss <= np.mean(real) for loss in seen["losses"][REAL:]]
            assert seen["weights"] == [1.0] * REAL + [float(k) for k in kept]
    kept = [[sum(step["weights"]) for step in seen[:ITERATIONS]] for seen in ranks]
    assert kept[0] != kept[1], "where both ranks keep as many samples, a mean of means would do as well"

    # A flow that each has fitted to its own part of the first batch is one network afterwards.
    parameters = [seen[-1]["parameters"] for seen in ranks]
    assert np.isfinite(parameters).all()
    assert parameters[0] == parameters[1]

    # Stopped and gone on with, both end where the two that were left alone do.
    saved, resumed = (
        torch.load(workspace / "experiments" / name / "models" / "net_g_latest.pth", weights_only=True)["params"]
        for name in ("two", "stopped")
    )
    assert all(torch.equal(saved[name], resumed[name]) for name in saved)

    # One process with the whole batch gets to the same weights, with the same losses and the same validations.
    one = options_of(option_files, "one", plain, processes=1)
    model = train_pipeline(".", ["-opt", one])
    for name, value in model.net_g.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=1e-4, atol=1e-6)
    states = [
        torch.load(workspace / "experiments" / name / "training_states" / f"{ITERATIONS}.state", weights_only=True)
        for name in ("one", "two")
    ]
    best = [state["best_metric_results"]["test"]["psnr"] for state in states]
    assert best[0]["iter"] == best[1]["iter"]
    assert best[0]["val"] == pytest.approx(best[1]["val"], rel=1e-4)
    assert [len(state["rng"]) for state in states] == [1, 2]
    losses = [
        [float(value) for value in re.findall(r"l_pix: (\S+)", log.read_text())]
        for log in (next(Path("experiments", name).glob("train_*.log")) for name in ("one", "two"))
    ]
    assert len(losses[0]) == ITERATIONS
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)

    # So do f_ISP and the parameter sets of the last samples, which are those of both ranks.
    train_pipeline(".", ["-opt", isp_options(option_files, "isp_one", processes=1)])
    shared, alone = (
        torch.load(workspace / "experiments" / name / "models" / "f_isp_latest.pth", weights_only=True)
        for name in ("isp_two", "isp_one")
    )
    for label in ("global", "local"):
        assert len(shared["banks"][label]["sets"]) == 4
        torch.testing.assert_close(shared["banks"][label]["sets"], alone["banks"][label]["sets"], rtol=1e-4, atol=1e-6)
    for name, value in alone["params"].items():
        torch.testing.assert_close(shared["params"][name], value, rtol=1e-4, atol=1e-6)
    close_all()
