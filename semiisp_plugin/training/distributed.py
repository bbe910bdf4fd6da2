"""Start-up of several processes: torchrun and Slurm, NCCL on GPUs, gloo on CPUs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import torch

from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import get_dist_info


def init_distributed(opt: dict[str, Any], launcher: str) -> None:
    """Set ``dist``, ``rank`` and ``world_size``; NCCL where there are GPUs, gloo where there are none."""
    check_launcher(launcher)
    opt["dist"] = launcher != "none"
    if opt["dist"] and not torch.distributed.is_initialized():
        if launcher == "slurm":
            _read_slurm((opt.get("dist_params") or {}).get("port", 29500))
        if "RANK" not in os.environ:
            raise OptionError(
                "--launcher pytorch needs torchrun: `torchrun --nproc_per_node=N -m semiisp_plugin.cli train "
                "--launcher pytorch -opt FILE`."
            )
        on_gpu = opt["num_gpu"] != 0
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    opt["rank"], opt["world_size"] = get_dist_info()


def check_launcher(launcher: str) -> None:
    """Raise an OptionError if torchrun has started several processes that would not know of each other."""
    count = int(os.environ.get("WORLD_SIZE") or 1)
    if launcher == "none" and count > 1:
        raise OptionError(
            f"torchrun has started {count} processes (WORLD_SIZE), and each would train by itself: add --launcher "
            f"pytorch, or start it without torchrun."
        )


def in_first_process(opt: dict[str, Any], work: Callable[[], Any]) -> None:
    """Do what the first process does for all, while the others wait; a ValueError or OSError of it is raised in all."""
    error: list[Exception | None] = [None]
    if opt["rank"] == 0:
        try:
            work()
        except (ValueError, OSError) as its:
            error[0] = its
    if opt["dist"]:
        torch.distributed.broadcast_object_list(error, 0)
    if error[0] is not None:
        raise error[0]


def _read_slurm(port: int) -> None:
    """Set torch's variables from Slurm's; the first host of the job is the master."""
    missing = [k for k in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST") if k not in os.environ]
    if missing:
        raise OptionError(f"--launcher slurm: {', '.join(missing)} not set; start it with srun.")
    os.environ.setdefault("RANK", os.environ["SLURM_PROCID"])
    os.environ.setdefault("WORLD_SIZE", os.environ["SLURM_NTASKS"])
    os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    os.environ.setdefault("MASTER_PORT", str(port))
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        os.environ["MASTER_ADDR"] = hosts[0]
