"""Checkpoint files: read with messages a user can act on, and written so that none is ever left half done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable, or belongs to another network."""


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """``torch.load`` on the CPU with ``weights_only=True``, with errors a user can act on.

    Raises:
        CheckpointError: The file is missing or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.pth"))[:8] if path.parent.is_dir() else []
        hint = f" In {path.parent} there are: {', '.join(near)}." if near else ""
        raise CheckpointError(f"There is no checkpoint {path}.{hint} Train that phase first, or correct the path.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no readable checkpoint ({reason}); it may be truncated.") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, not a checkpoint.")
    return loaded


def load_weights(net: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str], strict: bool) -> None:
    """Load a state dict into a network.

    Raises:
        CheckpointError: Names or shapes differ; the message says how many and which first.
    """
    weights = {k.removeprefix("module."): v for k, v in weights.items()}
    own = net.state_dict()
    missing = sorted(own.keys() - weights.keys())
    extra = sorted(weights.keys() - own.keys())
    shapes = [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape]
    if shapes or (strict and (missing or extra)):
        parts = [
            f"{len(names)} {what} (first: {sorted(names)[0]})"
            for names, what in ((missing, "missing"), (extra, "unknown to the network"), (shapes, "of another shape"))
            if names
        ]
        raise CheckpointError(
            f"{path} does not fit {type(net).__name__}: of its weights {', '.join(parts)}. It was saved from another "
            f"network; make network_g the one it was trained with, or take another file."
        )
    net.load_state_dict(weights, strict=strict)


def save_atomically(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint beside its place, then rename it: a killed process or a full disk leaves the old one whole.

    Raises:
        OSError: The disk is full, the folder is missing, and the like.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # On a full disk torch fails once more while it closes its archive, and that error hides the first one.
        reason = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, (OSError, RuntimeError)) and isinstance(reason, OSError):
            message = f"The checkpoint {path} could not be written: {reason}. Earlier ones are untouched."
            raise OSError(message) from error
        raise
