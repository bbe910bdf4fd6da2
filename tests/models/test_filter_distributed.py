"""Two processes weigh, look at held-out pairs and keep records as one process with the whole batch does."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
import yaml

pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
        reason="torch was built without torch.distributed and gloo",
    ),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the two processes are forked"),
]

# Trains for six iterations, alone and as rank 0 and 1 of two, and begins once more from the state after the third.
SCRIPT = """
import json, multiprocessing, os
import torch, yaml
from torch import nn
from semiisp_plugin.options import Source, complete
from semiisp_plugin.toolbox import ARCH_REGISTRY, build_model, register

torch.set_num_threads(1)

@register(ARCH_REGISTRY)
class Pointwise(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x)

def batch_of(number, rank, world):
    generator = torch.Generator().manual_seed(number)
    lq, gt = torch.rand(2, 12, 3, 6, 5, generator=generator)
    gt[4:] = lq[4:] + torch.rand(8, 1, 1, 1, generator=generator) * (gt[4:] - lq[4:]) * 3
    keys = [f"r{i}" for i in range(4)] + [f"p{(number + i) % 5}" for i in range(8)]
    mine = list(range(rank, 12, world))
    return {"lq": lq[mine], "gt": gt[mine], "is_pseudo": torch.arange(12)[mine] >= 4, "key": [keys[i] for i in mine]}

def make(name, section, rank, world):
    with open("options.yml") as file:
        options = yaml.safe_load(file)
    options["name"] = name
    opt = complete(options, Source("test"), root_path=".", is_train=True)
    opt["train"]["filter"] = section
    model = build_model({**opt, "dist": world > 1, "rank": rank, "world_size": world})
    if section.get("reference") == "held_out":
        model.use_held_out([{k: v[:3] if n else v for k, v in batch_of(100 + n, 0, 1).items()} for n in range(3)])
    return model

def run(name, section, rank, world):
    log = []
    def train(model, first, last):
        for iteration in range(first, last + 1):
            model.feed_data(batch_of(iteration, rank, world))
            model.optimize_parameters(iteration)
            log.append({"reference": model.filter.held_out, **model.get_current_log()})
    model = make(name, section, rank, world)
    train(model, 1, 3)
    model.write_records()
    state = [json.dumps(model.get_bare_model(model.net_g).conv.weight.tolist()), model.extra_state()]
    if world > 1:
        torch.distributed.broadcast_object_list(state, 0)
    again = make(name, section, rank, world)
    again.net_g.load_state_dict(model.net_g.state_dict())
    again.load_extra_state(state[1])
    train(again, 4, 6)
    again.write_records()
    again.write_records()
    weights = [p.flatten().tolist() for p in again.net_g.parameters()]
    with open(f"{name}_{rank}_of_{world}.json", "w") as file:
        json.dump({"log": log, "weights": weights}, file)

SECTIONS = {
    "held_out": {"beta": 1.0, "reference": "held_out", "held_out": {"every": 2}},
    "soft": {"type": "soft", "beta": 0.5, "temperature": 0.5, "reference": "running"},
}

def worker(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo")
    for name, section in SECTIONS.items():
        run(f"{name}_two", section, rank, 2)
    torch.distributed.destroy_process_group()

workers = [multiprocessing.get_context("fork").Process(target=worker, args=(rank,)) for rank in range(2)]
for process in workers:
    process.start()
for name, section in SECTIONS.items():
    run(f"{name}_one", section, 0, 1)
for process in workers:
    process.join()
raise SystemExit(any(process.exitcode for process in workers))
"""


@pytest.fixture
def results(option_files, workspace):
    options = option_files.base("model", "SemiSupervisedModel", 50)
    options["network_g"] = {"type": "Pointwise"}
    options["train"] = {
        "total_iter": 50,
        "optim_g": {"type": "SGD", "lr": 0.05},
        "pixel_opt": {"type": "MSELoss"},
        "filter": {"beta": 1.0},
    }
    del options["datasets"]["train"]["batch_size_per_gpu"]
    options["datasets"]["train"].update(
        type="SemiSupervisedDataset",
        real_per_batch=2,
        pseudo_per_batch=4,
        pseudo={"dataroot_gt": "gt.lmdb", "dataroot_lq": "lq.lmdb", "io_backend": {"type": "lmdb"}},
    )
    (workspace / "options.yml").write_text(yaml.safe_dump(options))
    (workspace / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=workspace,
        env={**os.environ, **environment},
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
    return workspace


@pytest.mark.slow
def test_two_processes_are_as_one(results):
    for name in ("held_out", "soft"):
        one, first, second = (
            json.loads((results / f"{name}_{part}.json").read_text())
            for part in ("one_0_of_1", "two_0_of_2", "two_1_of_2")
        )
        for ours, alone in zip(first["weights"], one["weights"], strict=True):
            assert ours == pytest.approx(alone, rel=1e-5, abs=1e-6)
        assert first["weights"] == second["weights"]
        assert [step["reference"] for step in first["log"]] == [step["reference"] for step in second["log"]]
        for ours, alone in zip(first["log"], one["log"], strict=True):
            assert ours.keys() == alone.keys()
            # What is of all processes; the losses' means are those of rank 0's samples and rank 1's.
            assert (ours["reference"] is None) == (name == "soft")
            for key in ("l_sup", *(k for k in alone if k.startswith("pseudo/"))):
                assert ours[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-6), key
        kept = [step["pseudo/kept_ratio"] for step in one["log"]]
        assert max(kept) > 0
        assert min(kept) < 1, "a filter that keeps all or nothing says little"
        tables = [
            list(csv.DictReader((results / "experiments" / f"{name}_{part}" / "filter" / "rejections.csv").open()))
            for part in ("one", "two")
        ]
        assert sum(int(row["seen"]) for row in tables[0]) == 6 * 8
        exact = ("key", "seen", "dropped", "not_finite")
        assert [[row[k] for k in exact] for row in tables[0]] == [[row[k] for k in exact] for row in tables[1]]
        ratios = [[float(row["mean_loss_ratio"]) for row in table] for table in tables]
        assert ratios[0] == pytest.approx(ratios[1], rel=2e-3)
