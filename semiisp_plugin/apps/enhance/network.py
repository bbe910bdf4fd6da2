"""Which network and which weights: from an option file, from a checkpoint alone, or from options given by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from torch import Tensor, nn

from semiisp_plugin.apps.denoise.non_local_means import Denoiser, denoise_input
from semiisp_plugin.io.checkpoint import (
    CheckpointError,
    fit_weights,
    load_checkpoint,
    load_weights,
    save_atomically,
    save_safetensors,
    weights_in,
)
from semiisp_plugin.options import OptionError, Source, read_options
from semiisp_plugin.options.check import check_network
from semiisp_plugin.options.yaml_text import parse
from semiisp_plugin.toolbox import build_network

Inputs = Literal["srgb", "raw"]
"""What a network takes: pictures, or linear RAW as `semiisp_plugin.io.raw_io.read_raw` gives it."""
_DENOISED = "non_local_means"  # in files


class LoadedNetwork(NamedTuple):
    """A network with its weights.

    Attributes:
        network: In evaluation mode, on the CPU, without gradients.
        options: Its section of an option file.
        weights: The file its weights are from.
        source: Where its options were found, in words.
        param_key: Which weights of the file were taken; None for a file of bare weights.
        inputs: What the file says that the network takes, or, of an f_ISP, its options; None where neither does.
        denoised: Whether the file says that inputs are to be denoised first, as those were that it was trained on.
    """

    network: nn.Module
    options: dict[str, Any]
    weights: str
    source: str
    param_key: str | None
    inputs: Inputs | None
    denoised: bool

    @property
    def denoise(self) -> Denoiser | None:
        """What does it; None where inputs are not denoised."""
        return denoise_input if self.denoised else None


def load_network(
    opt: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    network: str | Mapping[str, Any] | None = None,
    param_key: str | None = None,
    force_yml: Sequence[str] = (),
) -> LoadedNetwork:
    """Build a network and load its weights.

    Args:
        opt: An option file, which has the network as ``network_g``. Its weights: of a file for testing
            ``path:pretrain_network_g``; of one for training what its run has made,
            ``experiments/<name>/models/net_g_latest.pth`` in the current folder, or in the run's folder if the option
            file is the copy there.
        weights: A checkpoint; with ``opt`` in place of the one that the option file leads to.
        network: Options of the network, a mapping or its YAML text; with ``weights``.
        param_key: Which weights of a file that holds several; by default the average where there is one.
        force_yml: Changes of the option file, ``section:key=value``.

    Raises:
        ValueError: The arguments do not go together.
        OptionError: Something is wrong with the option file or the network's options.
        CheckpointError: The weights are missing, damaged, or another network's.
    """
    if opt is None and weights is None:
        raise ValueError("give the network: -opt FILE (an option file of training or testing) or --weights FILE.")
    if opt is not None and network is not None:
        raise ValueError("give either -opt or --network; to change an option of the file: --force_yml.")
    if opt is None and force_yml:
        raise ValueError("--force_yml changes an option file: give one with -opt, or --network.")
    if opt is not None:
        return _of_option_file(opt, weights, param_key, force_yml)
    assert weights is not None
    path = Path(weights).expanduser()
    if network is not None:
        return _load(_parsed(network), load_checkpoint(path), path, param_key, "--network")
    return _of_checkpoint(path, param_key)


def _of_option_file(
    opt: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    param_key: str | None,
    force_yml: Sequence[str],
) -> LoadedNetwork:
    """The network ``network_g`` of an option file."""
    options, source = read_options(opt, force_yml)
    if not isinstance(options.get("network_g"), dict):
        what = "a phase that trains a network, or a file for testing"
        raise OptionError(f"{source.path}: there is no section network_g; give the option file of {what}.")
    check_network(options["network_g"], source, ("network_g",))
    paths = options["path"] if isinstance(options.get("path"), dict) else {}
    path = Path(weights).expanduser() if weights else _weights_of_options(options, paths, source)
    key = param_key or paths.get("param_key_g")
    return _load(options["network_g"], load_checkpoint(path), path, key, f"network_g of {source.path}")


def _weights_of_options(options: Mapping[str, Any], paths: Mapping[str, Any], source: Source) -> Path:
    """The checkpoint that an option file leads to."""
    if not options.get("train"):
        named = paths.get("pretrain_network_g")
        if not named:
            source.fail(("path", "pretrain_network_g"), "the file names no weights; give them with --weights FILE.")
        return Path(str(named)).expanduser()
    name = str(options.get("name"))
    places = [Path("experiments", name, "models"), Path(source.path).parent / "models"]
    files = ["net_g_latest.pth", "net_g_latest.safetensors"]
    looked = [place / file for place in places for file in files]
    for path in looked:
        if path.is_file():
            return path
    others = [p for place in places if place.is_dir() for p in sorted(place.glob("net_g_*.pth"))]
    there = f" There {'are' if len(others) > 1 else 'is'} {', '.join(map(str, others[:4]))}." if others else ""
    raise CheckpointError(
        f"{source.path} is for training, and its run '{name}' has no finished network: looked for {looked[0]} (from "
        f"{Path.cwd()}) and {places[1] / files[0]}.{there} Train it, change to the folder it was trained in, or give "
        f"the weights with --weights FILE."
    )


def _of_checkpoint(path: Path, param_key: str | None) -> LoadedNetwork:
    """The network that a checkpoint is of, by its options in it, where the plugin's own models put them."""
    checkpoint = load_checkpoint(path)
    stored = _stored_options(_about(path, checkpoint))
    if stored is not None:
        bare = (
            None if _names_files(stored) else check_network(stored, Source(f"{path}: the network's options in it"), ())
        )
        if bare is None:
            raise CheckpointError(
                f"{path} describes a {stored['type']} that reads or fetches files when it is built, which is not done "
                f"on a checkpoint's word. If you trust it, give the options yourself: --network '{json.dumps(stored)}'."
            )
        fit_weights(bare, weights_in(checkpoint, path, param_key)[1], path, strict=True)  # before memory is asked for
        return _load(stored, checkpoint, path, param_key, "the checkpoint itself")
    raise CheckpointError(
        f"{path} does not say which network it is of. Give the option file it was trained with (-opt FILE --weights "
        f"{path.name}), or the network's options: --network '{{type: NAFNet, width: 32}}'."
    )


def _about(path: Path, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a file says what it is about: beside its weights, or in the header of safetensors."""
    if path.suffix != ".safetensors":
        return checkpoint
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _names_files(value: Any) -> bool:
    """Whether a text anywhere in a network's options looks like a path."""
    if isinstance(value, Mapping):
        return any(_names_files(v) for k, v in value.items() if k != "type")
    if isinstance(value, (list, tuple)):
        return any(map(_names_files, value))
    return isinstance(value, str) and ("/" in value or os.sep in value)


def _stored_options(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The network's options, if the file has them."""
    found = about.get("network")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):  # the name of the class alone, as it was once written
            found = None
    return dict(found) if isinstance(found, Mapping) and isinstance(found.get("type"), str) else None


def _inputs_of(path: Path, checkpoint: Mapping[str, Any], options: Mapping[str, Any]) -> Inputs | None:
    """See `LoadedNetwork`."""
    said = _about(path, checkpoint).get("inputs")
    if said is not None and said not in get_args(Inputs):
        raise CheckpointError(
            f"{path}: 'inputs', by which a file says what its network takes, is {said!r:.40}; allowed are "
            f"{' and '.join(get_args(Inputs))}. Save it again with one of them, or without."
        )
    if said is None and options.get("type") == "PQDynamicISP" and options.get("base_matrix", "identity") == "identity":
        return "srgb" if options.get("inverse_tone_mapping") else "raw"
    return cast("Inputs | None", said)


def _denoised(path: Path, checkpoint: Mapping[str, Any]) -> bool:
    """See `LoadedNetwork`."""
    said = _about(path, checkpoint).get("denoised")
    if said not in (None, _DENOISED):
        raise CheckpointError(
            f"{path}: 'denoised', how a file says that inputs are denoised, is {said!r:.40}; it can be {_DENOISED!r}, "
            f"or be left out. Save it again so."
        )
    return said is not None


def save_network(
    path: str | os.PathLike[str],
    options: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    inputs: Inputs | None = None,
    *,
    denoised: bool = False,
) -> None:
    """Write a file that `load_network` reads without further options.

    Args:
        path: ``.pth``, or ``.safetensors``.
        options: The network's section of an option file; values of YAML.
        weights: Its state dict.
        inputs: What it takes.
        denoised: Inputs are to be denoised first
            (`semiisp_plugin.apps.denoise.non_local_means.denoise_input`).

    Raises:
        OSError: The disk is full, the folder is missing, and the like.
    """
    said: dict[str, str] = {} if inputs is None else {"inputs": inputs}
    if denoised:
        said["denoised"] = _DENOISED
    if Path(path).suffix == ".safetensors":
        save_safetensors(weights, path, {"network": json.dumps(options), **said})
    else:
        params = {name: value.cpu() for name, value in weights.items()}
        save_atomically({"params": params, "network": dict(options), **said}, path)


def _parsed(network: str | Mapping[str, Any]) -> dict[str, Any]:
    """Options of a network given by hand, checked."""
    value: Any = network
    if isinstance(network, str):
        try:
            value, _ = parse(network, "--network")
        except OptionError as error:
            raise OptionError(f"{error} Write it as --network '{{type: NAFNet, width: 32}}'.") from None
        if isinstance(value, str):
            value = {"type": value}
    if not isinstance(value, Mapping) or "type" not in value:
        raise OptionError("--network: give the network's options, such as '{type: NAFNet, width: 32}'.")
    value = dict(value)
    check_network(value, Source("--network"), ())
    return value


def _load(
    options: Mapping[str, Any], checkpoint: Mapping[str, Any], path: Path, param_key: str | None, source: str
) -> LoadedNetwork:
    key, weights = weights_in(checkpoint, path, param_key)
    try:
        network = build_network(dict(options))
    except (TypeError, IndexError, AttributeError, AssertionError) as error:
        raise OptionError(f"{source}: a value is not usable: {error or type(error).__name__}.") from error
    load_weights(network, weights, path, strict=True)
    network.eval().requires_grad_(False)
    inputs, denoised = _inputs_of(path, checkpoint, options), _denoised(path, checkpoint)
    return LoadedNetwork(network, dict(options), str(path), source, key, inputs, denoised)


def describe(loaded: LoadedNetwork) -> str:
    """One line about a network: type, size, where it is from."""
    parameters = sum(p.numel() for p in loaded.network.parameters())
    key = f", {loaded.param_key}" if loaded.param_key not in (None, "params") else ""
    settings = ", ".join(f"{name} {value}" for name, value in loaded.options.items() if name != "type")
    settings = f"{loaded.options['type']}{f' ({settings})' if settings else ''}"
    return f"{settings}: {parameters:,d} parameters of {loaded.weights}{key}; options: {loaded.source}"
