"""Which network and which weights: from an option file, from a checkpoint alone, or from options given by hand."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from semiisp_plugin.io.checkpoint import CheckpointError, load_checkpoint, load_weights
from semiisp_plugin.options import OptionError, Source, read_options
from semiisp_plugin.options.parts import check_network
from semiisp_plugin.options.yaml_text import parse
from semiisp_plugin.toolbox import build_network

__all__ = ["LoadedNetwork", "load_network", "network_of_options", "network_of_weights"]

_KEYS = ("params_ema", "params", "state_dict", "model")
_METADATA_KEY = "network"
_RUN_FILE = re.compile(r"net_(?P<label>.+)_(?:\d+|latest|best)")


class LoadedNetwork(NamedTuple):
    """A network with its weights.

    Attributes:
        network: In evaluation mode, on the CPU, without gradients.
        options: Its section of an option file.
        weights: The file its weights are from.
        source: Where its options were found, in words.
        param_key: Which weights of the file were taken; None for a file of bare weights.
    """

    network: nn.Module
    options: dict[str, Any]
    weights: str
    source: str
    param_key: str | None


def load_network(
    opt: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    network: str | Mapping[str, Any] | None = None,
    param_key: str | None = None,
    force_yml: Sequence[str] = (),
) -> LoadedNetwork:
    """Build a network and load its weights.

    Args:
        opt: An option file, of training or testing; see `network_of_options`.
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
        return network_of_options(opt, weights, param_key, force_yml)
    assert weights is not None
    return network_of_weights(weights, network, param_key)


def network_of_options(
    opt: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    param_key: str | None = None,
    force_yml: Sequence[str] = (),
) -> LoadedNetwork:
    """The network ``network_g`` of an option file.

    Its weights: of a file for testing ``path:pretrain_network_g``; of one for training what its run has made,
    ``experiments/<name>/models/net_g_latest.pth`` in the current folder, or in the run's folder if the option file is
    the copy there.

    Args:
        opt: The option file.
        weights: A checkpoint in place of that one.
        param_key: See `load_network`.
        force_yml: See `load_network`.

    Raises:
        OptionError: The file is missing or damaged, or has no ``network_g``.
        CheckpointError: The weights are missing, damaged, or another network's.
    """
    options, source = read_options(opt, force_yml)
    if not isinstance(options.get("network_g"), dict):
        what = "a phase that trains a network, or a file for testing"
        raise OptionError(f"{source.path}: there is no section network_g; give the option file of {what}.")
    check_network(options["network_g"], source, ("network_g",))
    paths = options["path"] if isinstance(options.get("path"), dict) else {}
    if weights is None:
        weights = _weights_of_options(options, paths, source)
    key = param_key or paths.get("param_key_g")
    return _load(options["network_g"], Path(weights).expanduser(), key, f"network_g of {source.path}")


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


def network_of_weights(
    weights: str | os.PathLike[str], network: str | Mapping[str, Any] | None = None, param_key: str | None = None
) -> LoadedNetwork:
    """The network that a checkpoint is of.

    Its options are looked for in the file itself, where our models put them, then in the copy of the option file that
    lies in the run's folder, ``experiments/<name>/*.yml`` for ``experiments/<name>/models/net_g_*.pth``.

    Args:
        weights: The checkpoint.
        network: Options of the network, a mapping or its YAML text, where those are not there.
        param_key: See `load_network`.

    Raises:
        OptionError: ``network`` is no usable section.
        CheckpointError: The weights are missing, damaged, or of a network that is not known.
    """
    path = Path(weights).expanduser()
    if network is not None:
        return _load(_parsed(network), path, param_key, "--network")
    checkpoint = load_checkpoint(path)
    stored = _stored_options(path, checkpoint)
    if stored is not None:
        return _load(stored, path, param_key, "the checkpoint itself", checkpoint)
    match = _RUN_FILE.fullmatch(path.stem)
    section = f"network_{match['label']}" if match else "network_g"
    tried = []
    for file in _option_files_near(path):
        try:
            options, source = read_options(file)
        except OptionError:
            continue
        if not isinstance(options.get(section), dict) or not options.get("train"):
            continue
        try:
            check_network(options[section], source, (section,))
            return _load(options[section], path, param_key, f"{section} of {file}", checkpoint)
        except ValueError as error:  # another run's, or changed since
            tried.append(f"{file}: {error}")
    hint = f" What was tried: {tried[0]}" if tried else ""
    raise CheckpointError(
        f"{path} does not say which network it is of, and no option file in {path.parent} or {path.parent.parent} fits "
        f"it. Give the option file it was trained with (-opt FILE --weights {path.name}), or the network's options: "
        f"--network '{{type: NAFNet, width: 32}}'.{hint}"
    )


def _option_files_near(weights: Path) -> list[Path]:
    """The copies of option files in the run's folder, then files beside the weights."""
    weights = weights.absolute()
    return [p for folder in (weights.parent.parent, weights.parent) for p in sorted(folder.glob("*.y*ml"))]


def _stored_options(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The network's options, if the file has them."""
    found = checkpoint.get("network")
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY, "")
        try:
            found = json.loads(text)
        except ValueError:  # the name of the class alone, as it was once written
            found = None
    return dict(found) if isinstance(found, Mapping) and isinstance(found.get("type"), str) else None


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
    options: Mapping[str, Any],
    path: Path,
    param_key: str | None,
    source: str,
    checkpoint: Mapping[str, Any] | None = None,
) -> LoadedNetwork:
    checkpoint = load_checkpoint(path) if checkpoint is None else checkpoint
    key, weights = _weights_in(checkpoint, path, param_key)
    try:
        network = build_network(dict(options))
    except (TypeError, IndexError, AttributeError, AssertionError) as error:
        raise OptionError(f"{source}: a value is not usable: {error or type(error).__name__}.") from error
    load_weights(network, weights, path, strict=True)
    network.eval().requires_grad_(False)
    return LoadedNetwork(network, dict(options), str(path), source, key)


def _weights_in(
    checkpoint: Mapping[str, Any], path: Path, param_key: str | None
) -> tuple[str | None, dict[str, Tensor]]:
    """The state dict in a checkpoint, and under which key it was."""
    sections = [str(k) for k, v in checkpoint.items() if isinstance(v, Mapping) and _tensors(v)]
    if param_key is not None:
        if param_key in sections:
            return param_key, _tensors(checkpoint[param_key])
        if param_key == "params" and not sections:
            return None, _tensors(checkpoint)
        near = difflib.get_close_matches(param_key, sections, 1)
        meant = f"; did you mean '{near[0]}'?" if near else "."
        known = f" It has: {', '.join(sections)}." if sections else " It holds bare weights; leave the key out."
        raise CheckpointError(f"{path} has no weights under '{param_key}'{meant}{known}")
    for key in _KEYS:
        if key in sections:
            return key, _tensors(checkpoint[key])
    bare = _tensors(checkpoint)
    if bare:
        return None, bare
    known = f"it has: {', '.join(map(str, list(checkpoint)[:6]))}. Name the weights with --param_key"
    raise CheckpointError(f"{path} holds no weights where they are looked for ({', '.join(_KEYS)}); {known}.")


def _tensors(section: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a section, by name."""
    return {str(name): value for name, value in section.items() if isinstance(value, Tensor)}


def describe(loaded: LoadedNetwork) -> str:
    """One line about a network: type, size, where it is from."""
    parameters = sum(p.numel() for p in loaded.network.parameters())
    key = f", {loaded.param_key}" if loaded.param_key not in (None, "params") else ""
    settings = ", ".join(f"{name} {value}" for name, value in loaded.options.items() if name != "type")
    settings = f"{loaded.options['type']}{f' ({settings})' if settings else ''}"
    return f"{settings}: {parameters:,d} parameters of {loaded.weights}{key}; options: {loaded.source}"
