"""Checkpoint files: read with messages a user can act on, and written so that none is ever left half done."""

from __future__ import annotations

import difflib
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semiisp_plugin.io.files import printable, replacing, sync_folder


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable, or belongs to another network.

    Characters that are not printed, which names in a file may have, are written out in the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint on the CPU; no code in it can run (``weights_only=True``).

    Args:
        path: BasicSR's ``.pth`` or ``.state``, or a ``.safetensors`` file, which holds one network's bare weights. Or
            the tables of Image-Adaptive-3DLUT (``LUTs.pth``), beside which the rest of that network has to lie
            (``classifier.pth``); both together are its bare weights.

    Raises:
        CheckpointError: The file is missing, damaged, or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        kind = path.suffix or ".pth"
        near = sorted(p.name for p in path.parent.glob(f"*{kind}"))[:8] if path.parent.is_dir() else []
        hint = f" In {path.parent} there are: {', '.join(near)}." if near else ""
        raise CheckpointError(f"There is no checkpoint {path}.{hint} Train that phase first, or correct the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        check_whole(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        # Of what is no weights torch says first, and last, how to run the code in it.
        lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
        said = [line for line in lines if line and "`weights_only`" not in line]
        reason = said[0].partition(". Please use")[0] if said else type(error).__name__
        raise CheckpointError(
            f"{path} is no readable checkpoint ({reason}); it may be truncated, or hold other things than weights."
        ) from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, not a checkpoint.")
    if loaded and all(isinstance(part, Mapping) and list(part) == ["LUT"] for part in loaded.values()):
        rest = path.with_name(path.name.replace("LUTs", "classifier"))
        if rest == path or not rest.is_file():
            raise CheckpointError(
                f"{path} holds the tables of Image-Adaptive-3DLUT alone, and the file with the rest of the network is "
                f"not beside it. Name the two LUTs.pth and classifier.pth, as published, in one folder."
            )
        tables = {f"luts.{number}": part["LUT"] for number, part in loaded.items()}
        return tables | {f"classifier.{name}": value for name, value in load_checkpoint(rest).items()}
    return loaded


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training state, as `load_checkpoint` does.

    Raises:
        CheckpointError: See there; or it is a file of weights, or otherwise no training state.
    """
    state = load_checkpoint(path)
    iteration, files = state.get("iter"), state.get("files") or []
    named = isinstance(files, list) and all(isinstance(name, str) for name in files)
    if not isinstance(iteration, int) or iteration < 0 or not named:
        known = ", ".join(list(map(str, state))[:6])
        raise CheckpointError(
            f"{path} is no training state (.state), which has 'iter', the iteration; it has: {known}. To start from "
            f"weights, give path:pretrain_network_g."
        )
    return state


def check_whole(path: str | os.PathLike[str]) -> None:
    """Compare the contents of a ``.pth`` or ``.state`` file with the checksums in it.

    torch does not, and loads weights with flipped bits as if nothing were wrong. Files of the format before torch 1.6
    have no checksums. Nor does it look whether parts are packed, of which a small file could have more than fits into
    memory; those of checkpoints are not.

    Raises:
        CheckpointError: Its parts are packed, or claim to be larger than the file.
        ValueError: A part of the file differs from its checksum.
        OSError: The file cannot be read.
        zipfile.BadZipFile: It is cut off.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise CheckpointError("its parts are packed, which those of a checkpoint are not; save it with torch.")
            if sum(part.file_size for part in parts) > os.fstat(file.fileno()).st_size:
                raise CheckpointError("its parts claim to be larger than the file; no checkpoint is like that.")
            bad = archive.testzip()
    if bad:
        raise ValueError(f"its part {bad} differs from its checksum")


_KEYS = ("params_ema", "params", "state_dict", "model")
"""Where programs keep the weights of a network."""


def weights_in(
    checkpoint: Mapping[str, Any], path: str | os.PathLike[str], key: str | None = None
) -> tuple[str | None, dict[str, Tensor]]:
    """The weights in a checkpoint: BasicSR's ``{params, params_ema}`` and the like, or a bare state dict.

    Args:
        checkpoint: What `load_checkpoint` has read.
        path: From this file.
        key: Which weights; None takes the first of ``params_ema``, ``params``, ``state_dict`` and ``model``. A bare
            state dict has none, and stands for ``params``; where there is no ``params_ema``, ``params`` are taken.

    Returns:
        The key that they were under, None for a bare state dict; the weights.

    Raises:
        CheckpointError: There are none under that key; the message says where there are.
    """
    sections = {str(k): _tensors(v) for k, v in checkpoint.items() if isinstance(v, Mapping) and _tensors(v)}
    wanted = {"params_ema": ("params_ema", "params"), None: _KEYS}.get(key, (key,))
    for name in wanted:
        if name in sections:
            return name, sections[name]
    bare = _tensors(checkpoint)
    if bare and not sections and (key in (None, "params") or Path(path).suffix == ".safetensors"):
        return None, bare
    near = difflib.get_close_matches(key or "", sections, 1)
    meant = f"; did you mean '{near[0]}'?" if near else "."
    if bare and not sections:
        known = "It holds bare weights; leave the key out."
    else:
        known = f"It has: {', '.join(list(sections) or list(map(str, checkpoint))[:6])}."
    raise CheckpointError(
        f"{path} has no weights under '{key or ' or '.join(_KEYS)}'{meant} {known} The key is path:param_key_g in "
        f"option files, --param_key in commands."
    )


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if isinstance(name, str) and _has_values(value)}


def _has_values(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta


def load_network_weights(
    net: nn.Module, path: str | os.PathLike[str], *, key: str | None = None, strict: bool = True
) -> str:
    """Load a file's weights into a network without parallel wrapper.

    Args:
        net: Network.
        path: See `load_checkpoint`.
        key: See `weights_in`.
        strict: See `load_weights`.

    Returns:
        What was loaded, in words: the key, how many tensors, how many of them the file lacks or has too many.

    Raises:
        CheckpointError: The file cannot be read, has no such weights, or is of another network.
    """
    found, weights = weights_in(load_checkpoint(path), path, key)
    loaded, missing, extra = load_weights(net, weights, path, strict)
    rest = [f"{count} {what}" for count, what in ((missing, "missing"), (extra, "unknown to the network")) if count]
    return f"{found or 'bare weights'}: {', '.join([f'{loaded} tensors', *rest])}"


_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def load_weights(
    net: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str], strict: bool
) -> tuple[int, int, int]:
    """Load a state dict into a network; see `fit_weights` for arguments and errors.

    Returns:
        How many tensors were loaded, how many of the network's are missing, and how many are of no use to it.
    """
    bare = fit_weights(net, weights, path, strict)
    net.load_state_dict(bare, strict=strict)
    own = net.state_dict().keys()
    return len(own & bare.keys()), len(own - bare.keys()), len(bare.keys() - own)


def fit_weights(
    net: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str], strict: bool
) -> dict[str, Tensor]:
    """Compare a state dict with a network, which may be one without memory (on the device ``meta``).

    torch would cast complex and whole numbers without a word, and takes NaN and infinity. Buffers may be infinite, as
    masks are.

    Args:
        net: Network.
        weights: The state dict; names may begin with what wrappers of networks put in front.
        path: From this file, for messages.
        strict: Every weight of the network must be there, and no other.

    Returns:
        The state dict by the network's names.

    Raises:
        CheckpointError: Names, shapes or kinds of numbers differ, a weight is not finite, or (without ``strict``) no
            name is the same; the message says how many and which first.
    """
    own, parameters = net.state_dict(), dict(net.named_parameters())
    bare = {}
    for name, value in weights.items():
        while name not in own and name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        bare[name] = value
    missing = sorted(own.keys() - bare.keys())
    extra = sorted(bare.keys() - own.keys())
    both = sorted(own.keys() & bare.keys())
    shapes = [k for k in both if own[k].shape != bare[k].shape]
    kinds = [k for k in both if _kind(own[k]) != _kind(bare[k])]
    if shapes or kinds or (strict and (missing or extra)) or (own and len(missing) == len(own)):
        of_kind = f"of {str(bare[kinds[0]].dtype).removeprefix('torch.')} numbers" if kinds else ""
        parts = [
            f"{len(names)} {what} (first: {names[0]})"
            for names, what in (
                (missing, "missing"),
                (extra, "unknown to the network"),
                (shapes, "of another shape"),
                (kinds, of_kind),
            )
            if names
        ]
        raise CheckpointError(
            f"{path} does not fit {type(net).__name__}: of its weights {', '.join(parts)}. It was saved from another "
            f"network; make network_g the one it was trained with, or take another file."
        )
    bad = [k for k in both if own[k].is_floating_point() and not _finite(bare[k].to(own[k].dtype), k in parameters)]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} of its {len(bare)} tensors hold NaN or infinity (first: {bad[0]}): the training that "
            f"they are of had diverged. Take an earlier checkpoint."
        )
    return bare


def _finite(tensor: Tensor, infinity_too: bool) -> bool:
    return bool(tensor.isfinite().all()) if infinity_too else not bool(tensor.isnan().any())


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    """What a tensor's numbers are, whatever their precision."""
    plain = tensor.layout is torch.strided and not tensor.is_quantized
    return plain, tensor.is_floating_point(), tensor.is_complex(), tensor.dtype is torch.bool


def save_atomically(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint and verify it before it takes its place; see `semiisp_plugin.io.files.replacing`.

    Raises:
        OSError: The disk is full, the folder is missing, what was written differs from what is read back, and the like.
    """
    with replacing(path) as unfinished:
        with open(unfinished, "wb") as file:
            torch.save(dict(state), file)
        try:
            check_whole(unfinished)
        except (ValueError, zipfile.BadZipFile) as error:
            raise OSError(f"what was written could not be read back ({error})") from error
    sync_folder(Path(path).parent)


def save_safetensors(weights: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write a network's bare weights as safetensors, atomically; the format other programs load without pickle.

    Args:
        weights: State dict. Tensors that share memory are written each on its own.
        path: Where to.
        metadata: Texts kept in the file's header.

    Raises:
        OSError: The disk is full, the folder is missing, and the like.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    with replacing(path) as unfinished:
        copies = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
        try:
            save_file(copies, unfinished, dict(metadata))
        except SafetensorError as error:  # for a full disk, too
            raise OSError(str(error)) from error
        if load_file(unfinished).keys() != weights.keys():
            raise OSError("what was written lacks weights")
    sync_folder(Path(path).parent)


def saved_iterations(states: str | os.PathLike[str]) -> list[int]:
    """Iterations whose training states are in a folder, ascending."""
    return sorted(int(p.stem) for p in Path(states).glob("*.state") if p.stem.isdigit())


def prune(
    models: str | os.PathLike[str], states: str | os.PathLike[str], stems: Iterable[str], keep_last: int, newest: int
) -> list[int]:
    """Delete all but the newest checkpoints of a run: states first, so that a state always has its networks.

    States later than the one just saved are not counted and stay: they are damaged, or of another way that the run had
    gone from an earlier state. ``latest``, ``best`` and files of other names stay.

    Args:
        models: The run's folder of networks, ``<stem>_<iter>.pth`` and ``.safetensors``.
        states: Its folder of training states, ``<iter>.state``.
        stems: Names of the run's networks, such as ``net_g``.
        keep_last: How many stay, at least 1.
        newest: The iteration that was saved last.

    Returns:
        The iterations that were deleted.
    """
    saved = [i for i in saved_iterations(states) if i <= newest]
    stays = set(saved[-max(1, keep_last) :])
    gone = [i for i in saved if i not in stays]
    for iteration in gone:
        (Path(states) / f"{iteration}.state").unlink(missing_ok=True)
    pattern = re.compile(rf"(?:{'|'.join(re.escape(stem) for stem in stems)})_(\d+)\.(?:pth|safetensors)")
    for path in Path(models).iterdir():
        match = pattern.fullmatch(path.name)
        # Networks without a state are what an earlier, interrupted deletion left.
        if match and int(match[1]) < newest and int(match[1]) not in stays:
            path.unlink(missing_ok=True)
    return gone


def newest_whole_state(
    states: str | os.PathLike[str], models: str | os.PathLike[str], networks: Iterable[str]
) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The newest training state that can be resumed.

    Args:
        states: Folder of ``<iter>.state``.
        models: Folder of the networks.
        networks: Names of the networks a state needs, such as ``net_g``; a state that lists its ``files`` knows better.

    Returns:
        Its path, or None; its content; and why newer ones were passed over.
    """
    passed_over: list[str] = []
    for iteration in reversed(saved_iterations(states)):
        path = Path(states) / f"{iteration}.state"
        try:
            state = load_state(path)
            for name in state.get("files") or [f"{n}_{iteration}.pth" for n in networks]:
                network = Path(models) / name
                if not network.is_file():
                    raise CheckpointError(f"{path} has lost its network {network}.")
                try:
                    check_whole(network)
                except (ValueError, OSError, zipfile.BadZipFile) as error:
                    raise CheckpointError(f"{network} is damaged ({error}).") from error
            return path, state, passed_over
        except CheckpointError as error:
            passed_over.append(str(error))
    return None, {}, passed_over
