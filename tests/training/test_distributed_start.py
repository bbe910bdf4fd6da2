"""What Slurm and torchrun say about the processes of a run."""

import os

import pytest

from semiisp_plugin.options import OptionError
from semiisp_plugin.training import distributed

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in [*VARIABLES, *(n for n in os.environ if n.startswith("SLURM_"))]:
        monkeypatch.setenv(name, "")  # put back afterwards, whatever is set in between
        monkeypatch.delenv(name)


@pytest.fixture
def started(monkeypatch):
    """Records the start-up instead of waiting for other processes."""
    calls = []
    monkeypatch.setattr(distributed.torch.distributed, "init_process_group", calls.append)
    return calls


def test_slurm(monkeypatch, tmp_path, started):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[3-4]" ] && printf "node3\\nnode4\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_NODELIST": "node[3-4]", "SLURM_LOCALID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    opt = {"num_gpu": 0, "dist_params": {"port": 29511}}
    distributed.init_distributed(opt, "slurm")
    assert started == ["gloo"]
    assert [os.environ[name] for name in VARIABLES] == ["5", "8", "1", "node3", "29511"]


def test_slurm_without_srun(started):
    with pytest.raises(OptionError, match=r"SLURM_PROCID, SLURM_NTASKS, SLURM_NODELIST not set; start it with srun"):
        distributed.init_distributed({"num_gpu": 0}, "slurm")
    assert started == []


def test_torchrun_is_missing(started):
    with pytest.raises(OptionError, match="torchrun --nproc_per_node"):
        distributed.init_distributed({"num_gpu": 0}, "pytorch")
    opt = {"num_gpu": 0}
    distributed.init_distributed(opt, "none")
    assert (opt["dist"], opt["rank"], opt["world_size"]) == (False, 0, 1)


def test_torchrun_without_a_launcher(monkeypatch, started):
    """Each process would train by itself, all in one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match=r"started 2 processes \(WORLD_SIZE\).*add --launcher pytorch"):
        distributed.init_distributed({"num_gpu": 0}, "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.init_distributed({"num_gpu": 0}, "none")
    assert started == []
