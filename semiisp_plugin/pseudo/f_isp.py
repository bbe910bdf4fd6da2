"""The file that phase 1 hands over: f_ISP with its parameter banks, ``f_isp_<iter>.pth``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.io.checkpoint import CheckpointError, load_checkpoint, load_weights, save_atomically
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.toolbox import build_network


def save_f_isp(
    path: str | os.PathLike[str],
    network: Mapping[str, Any],
    params: Mapping[str, Tensor],
    banks: Mapping[str, ParameterBank],
    n_pairs: int,
) -> None:
    """Write an ``f_isp_<iter>.pth``: plain values and tensors only.

    Args:
        path: Where to.
        network: Options of the local network, as in an option file.
        params: Its weights.
        banks: The parameter banks ``global`` and ``local``.
        n_pairs: Number of pairs it was trained on.

    Raises:
        OSError: See `semiisp_plugin.io.checkpoint.save_atomically`.
    """
    state = {
        "network": dict(network),
        "params": {k: v.cpu() for k, v in params.items()},
        "banks": {label: bank.state_dict() for label, bank in banks.items()},
        "n_pairs": n_pairs,
    }
    save_atomically(state, path)


def load_f_isp(path: str | os.PathLike[str]) -> tuple[PQDynamicISP, dict[str, ParameterBank], int]:
    """Read an ``f_isp_<iter>.pth``.

    Returns:
        The local network, the banks ``global`` and ``local``, and the number of pairs it was trained on.

    Raises:
        CheckpointError: The file is missing, damaged, or not of phase 1.
    """
    state = load_checkpoint(path)
    missing = {"network", "params", "banks"} - state.keys()
    if missing:
        raise CheckpointError(
            f"{path} is not an f_ISP of phase 1 (it lacks {', '.join(sorted(missing))}); give the run's "
            f"models/f_isp_latest.pth."
        )
    network = build_network(state["network"])
    load_weights(network, state["params"], path, strict=True)
    banks = {label: ParameterBank.from_state_dict(bank) for label, bank in state["banks"].items()}
    return network, banks, int(state.get("n_pairs", 0))
