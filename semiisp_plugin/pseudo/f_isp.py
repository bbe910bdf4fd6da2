"""The file that phase 1 hands over, f_ISP with its parameter banks (``f_isp_<iter>.pth``), and what draws with it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from semiisp_plugin import plugins
from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.archs.srgb_to_raw import SRGBToRAWNetwork
from semiisp_plugin.io.checkpoint import CheckpointError, load_checkpoint, load_weights, save_atomically, weights_in
from semiisp_plugin.isp import InvertibleISP, PaperLUTSettings, ParameterBank
from semiisp_plugin.options import OptionError, Source, check_network
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.sources import (
    UPI,
    BankInverse,
    DeterministicInverse,
    MixtureInverse,
    NetworkInverse,
    SRGBToRAW,
)
from semiisp_plugin.registry import ARCH_REGISTRY

Net = TypeVar("Net", bound=nn.Module)

SOURCES = ("bank", "mixture", "upi", "deterministic", "network")
MANY_PAIRS = 1000  # Sec. 4.2: below, global sets for the whole ISP; from there on, local ones per function


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
    network = _network_in(state, path, PQDynamicISP, "an f_ISP of phase 1", "params")
    banks, n_pairs = {}, state.get("n_pairs", 0)
    if not isinstance(state["banks"], dict) or not isinstance(n_pairs, int):
        raise CheckpointError(f"{path} is damaged: its banks and its number of pairs are none.")
    for label, saved in state["banks"].items():
        try:
            banks[label] = ParameterBank.from_state_dict(saved)
            if dataclasses.replace(banks[label].spec, gamma_start=network.spec.gamma_start) != network.spec:
                raise ValueError("they are of another ISP than the network's.")
            banks[label].spec.check_domains(banks[label].sets)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise CheckpointError(f"{path}: its bank '{label}' holds no parameters of an ISP: {error}") from None
    return network, banks, n_pairs


def load_source_network(path: str | os.PathLike[str]) -> SRGBToRAWNetwork:
    """Read the ``net_g_<iter>.pth`` of a run that trained a network to make inputs of targets.

    Raises:
        CheckpointError: The file is missing, damaged, or of another kind of network.
    """
    state = load_checkpoint(path)
    network = _network_in(state, path, SRGBToRAWNetwork, "a network that makes RAW images of sRGB ones")
    try:
        network.check_usable()
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return network


def _network_in(
    state: Mapping[str, Any], path: str | os.PathLike[str], wanted: type[Net], what: str, key: str | None = None
) -> Net:
    """The network that a checkpoint describes and holds the weights of."""
    options: Any = state.get("network")
    kind = str(options.get("type")) if isinstance(options, dict) else type(options).__name__
    if kind not in ARCH_REGISTRY:  # f_ISP's is, and needs no other module, nor BasicSR
        plugins.register()
    found = dict(ARCH_REGISTRY).get(kind)
    if not (isinstance(found, type) and issubclass(found, wanted)):
        known = ", ".join(sorted(n for n, c in ARCH_REGISTRY if isinstance(c, type) and issubclass(c, wanted)))
        raise CheckpointError(f"{path} holds a {kind}; {what} is a {known}.")
    try:
        check_network(options, Source(f"{path}: the network's options in it"), (), found)
    except OptionError as error:
        raise CheckpointError(str(error)) from None
    network = found(**{key: value for key, value in options.items() if key != "type"})
    load_weights(network, weights_in(state, path, key)[1], path, strict=True)
    return network


def make_generator(
    f_isp: str | os.PathLike[str],
    *,
    sets: str = "auto",
    draw_per: str = "auto",
    update_quality: bool = True,
    inverse: str = "exact",
    source: str = "bank",
    source_network: str | os.PathLike[str] | None = None,
    candidates: int = 1,
) -> PseudoPairGenerator:
    """The generator of a phase 1 checkpoint.

    Args:
        f_isp: ``f_isp_<iter>.pth``.
        sets: ``global``, ``local`` or ``auto`` (by the number of pairs).
        draw_per: What step 3 draws at a time: the set of the whole ``isp``, or one of each ``function``; ``auto``: per
            function with local sets (Sec. 3.2, 4.2).
        update_quality: See `PseudoPairGenerator`.
        inverse: ``exact`` or ``paper_lut``, whose tables span what the banks hold.
        source: sRGB-to-RAW of steps 1 and 3: ``bank`` (the paper's, `BankInverse`), ``mixture`` (`MixtureInverse`),
            ``upi`` (`UPI`), ``deterministic`` (`DeterministicInverse` with the mean of the global sets), or a trained
            ``network`` (`NetworkInverse`). With the last three, ``sets: auto`` is ``global`` whatever the number of
            pairs.
        source_network: Its ``net_g_<iter>.pth``, for ``source: network``.
        candidates: See `PseudoPairGenerator`.

    What goes together is checked where option files are (`semiisp_plugin.options.complete_pseudo_options`).

    Raises:
        ValueError: The source is unknown, or its network is not given or makes one candidate only.
        CheckpointError: See `load_f_isp` and `load_source_network`.
    """
    if source not in SOURCES:
        raise ValueError(f"source: '{source}' is none of {', '.join(SOURCES)}.")
    network, banks, n_pairs = load_f_isp(f_isp)
    if source == "network":
        if source_network is None:
            raise ValueError("source: network needs source_network, the net_g_<iter>.pth of the run that trained it.")
        learned = NetworkInverse(load_source_network(source_network))
        if learned.one_to_one and candidates > 1:
            kind = type(learned.network).__name__
            raise ValueError(f"candidates: {kind} makes the same input each time; leave it at 1.")
        return PseudoPairGenerator(network, learned, update_quality=update_quality, candidates=candidates)
    first, second = _sources(network, banks, n_pairs, sets, inverse, source, draw_per)
    return PseudoPairGenerator(network, first, second, update_quality=update_quality, candidates=candidates)


def _sources(
    network: PQDynamicISP,
    banks: Mapping[str, ParameterBank],
    n_pairs: int,
    sets: str,
    inverse: str,
    source: str,
    draw_per: str,
) -> tuple[SRGBToRAW, SRGBToRAW | None]:
    """sRGB-to-RAW of steps 1 and 3, see `make_generator`; None: step 3 takes that of step 1."""
    if source == "upi":
        return UPI(image_enhancement=network.spec.inverse_tone_mapping), None
    local = source != "deterministic" and (sets == "local" or (sets == "auto" and n_pairs >= MANY_PAIRS))
    lut = _tables_for(banks.values() if local else [banks["global"]]) if inverse == "paper_lut" else None
    isp = InvertibleISP(network.spec, lut, check=False)
    backend = "auto" if inverse == "exact" else inverse
    if source == "deterministic":
        return DeterministicInverse(isp, banks["global"], backend), None
    inverse_of = MixtureInverse if source == "mixture" else BankInverse
    first = inverse_of(isp, banks["global"], backend=backend)
    per_function = local if draw_per == "auto" else draw_per == "function"
    if not local and not per_function:
        return first, None
    return first, inverse_of(isp, banks["local" if local else "global"], per_function=per_function, backend=backend)


def _tables_for(banks: Iterable[ParameterBank]) -> PaperLUTSettings:
    """Tables as narrow as the sets allow: their error grows with the ranges."""
    spans: dict[str, tuple[float, float]] = {}
    for bank in banks:
        if len(bank) == 0:
            continue
        for group in bank.spec.split(bank.sets).values():
            for name, values in group.items():
                low, high = float(values.min()), float(values.max())
                before = spans.get(name, (low, high))
                spans[name] = (min(low, before[0]), max(high, before[1]))
    if not spans:
        raise ValueError("The parameter banks are empty: train f_ISP first (phase 1).")

    def ranges(names: Sequence[str]) -> tuple[tuple[float, float], ...] | None:
        # A table has no range of zero width.
        return tuple((spans[n][0] - 1e-6, spans[n][1] + 1e-6) for n in names) if names[0] in spans else None

    return PaperLUTSettings(gamma_ranges=ranges(("g1", "g2", "k")), tone_ranges=ranges(("g3", "g4", "k2")))
