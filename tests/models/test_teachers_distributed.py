"""The banks of two processes are those of one process with the whole batch, and so are the weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml

SCRIPT = """
import multiprocessing, os, sys
import torch, yaml
from torch import nn
from semiisp_plugin.options import Source, complete
from semiisp_plugin.toolbox import ARCH_REGISTRY, build_model, register

torch.set_num_threads(1)

@register(ARCH_REGISTRY)
class Coded(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.decode(self.encode(x).tanh())

def run(kind, rank, world):
    with open(f"{kind}.yml") as file:
        opt = complete(yaml.safe_load(file), Source("test"), root_path=".", is_train=True)
    model = build_model({**opt, "dist": world > 1, "rank": rank, "world_size": world})
    for iteration in range(1, 7):
        generator = torch.Generator().manual_seed(iteration)
        lq, gt = torch.rand(2, 8, 3, 6, 5, generator=generator) * torch.rand(8, 1, 1, 1, generator=generator)
        mine = list(range(rank, 8, world))
        source = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2])[mine]
        keys = [f"image {(iteration + n) % 6}" for n in mine]
        flags = {"is_pseudo": source == 1, "is_unlabelled": source == 2}
        model.feed_data({"lq": lq[mine], "gt": gt[mine], **flags, "key": keys})
        model.optimize_parameters(iteration)
    state = {k: v for k, v in model.extra_state().items() if k in ("bank", "score", "latents")}
    weights = [p.detach() for p in model.net_g.parameters()]
    torch.save({"weights": weights, "log": model.get_current_log(), **state}, f"{kind}_{rank}_of_{world}.pth")

def worker(rank):
    meeting = f"file://{os.path.abspath('meeting')}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for kind in sys.argv[1:]:
        run(kind, rank, 2)
    torch.distributed.destroy_process_group()

workers = [multiprocessing.get_context("fork").Process(target=worker, args=(rank,)) for rank in range(2)]
for process in workers:
    process.start()
for kind in sys.argv[1:]:
    run(kind, 0, 1)
for process in workers:
    process.join()
raise SystemExit(any(process.exitcode for process in workers))
"""
TRAIN = {
    "LabelBankModel": {"label_bank": {"jitter": 0, "variants": 0, "tolerance": 0, "rampup_iter": 0}},
    "LatentTeacherModel": {
        "latent_teacher": {"jitter": 0, "rampup_iter": 0, "latent": "encode", "neighbours": 3, "gp_weight": 0.1}
    },
}


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "fork") or not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="two processes that are forked, and gloo, are needed",
)
def test_two_processes_are_as_one(option_files, workspace):
    for kind, train in TRAIN.items():
        options = option_files.base("model", kind, 50)
        options["network_g"] = {"type": "Coded"}
        optimiser = {"type": "SGD", "lr": 0.5}
        options["train"] = {"total_iter": 50, "optim_g": optimiser, "pixel_opt": {"type": "MSELoss"}, **train}
        options["train"]["ema_decay"] = 0.5
        data = options["datasets"]["train"]
        del data["batch_size_per_gpu"]
        data.update(type="SemiSupervisedDataset", real_per_batch=1, unlabelled_per_batch=1)
        data["unlabelled"] = {"dataroot_lq": data["dataroot_lq"], "io_backend": {"type": "disk"}}
        (workspace / f"{kind}.yml").write_text(yaml.safe_dump(options))
    (workspace / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "script.py", *TRAIN],
        cwd=workspace,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its session: the script and both ranks
        output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]
    for kind in TRAIN:
        one, first, second = (
            torch.load(workspace / f"{kind}_{part}.pth", weights_only=False) for part in ("0_of_1", "0_of_2", "1_of_2")
        )
        for key in ("weights", "score", "latents"):
            if key in one:
                torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
        torch.testing.assert_close(first["weights"], one["weights"], rtol=1e-4, atol=1e-5)
        if kind == "LabelBankModel":
            assert first["bank"] == second["bank"] == pytest.approx(one["bank"], rel=1e-3)
            assert 0 < one["log"]["bank/accepted"] < 1
            for name in ("mean", "square"):
                torch.testing.assert_close(first["score"][name], one["score"][name])
        else:
            torch.testing.assert_close(first["latents"], one["latents"], rtol=1e-4, atol=1e-5)
            assert one["log"]["l_gp"] != 0
