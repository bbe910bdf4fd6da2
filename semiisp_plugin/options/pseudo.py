"""Option files of ``basicsr pseudo``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from semiisp_plugin.options.complete import resolve_gpus
from semiisp_plugin.options.reading import read_options
from semiisp_plugin.options.sections import checked_as
from semiisp_plugin.options.source import Source
from semiisp_plugin.options.structures import PseudoOptions


def load_pseudo_options(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PseudoOptions:
    """Read, override, check and complete an option file of ``basicsr pseudo``."""
    values, source = read_options(path, overrides)
    return complete_pseudo_options(values, source)


def complete_pseudo_options(values: dict[str, Any], source: Source) -> PseudoOptions:
    """Check the options of ``basicsr pseudo``, wherever they come from, and resolve ``~`` and the GPU count.

    Raises:
        OptionError: The first thing found wrong.
    """
    options = checked_as(PseudoOptions, values, source)
    if options.source not in ("bank", "mixture") and options.sets == "local":
        source.fail(("sets",), f"source: {options.source} knows no local sets; leave it at auto, or source at bank.")
    if options.source in ("upi", "network") and options.inverse != "exact":
        source.fail(("inverse",), f"source: {options.source} does not invert f_ISP; leave it out.")
    if options.source == "deterministic" and options.candidates > 1:
        source.fail(("candidates",), "source: deterministic makes one input only; leave it at 1.")
    if options.candidates > 1 and options.mode != "stored":
        source.fail(("candidates",), "they are compared on whole pictures, and training draws for crops: mode: stored.")
    if options.source not in ("bank", "mixture") and options.draw_per != "auto":
        source.fail(("draw_per",), f"source: {options.source} draws no functions' sets; leave it at auto.")
    if options.source == "deterministic" and options.draws > 1:
        source.fail(("draws",), "source: deterministic makes the same pair at each draw; leave it at 1.")
    if options.source == "network" and options.source_network is None:
        source.fail(("source",), "give source_network, the net_g_<iter>.pth of the run that trained the network.")
    if options.source != "network" and options.source_network is not None:
        source.fail(("source_network",), f"is for source: network, and that is {options.source}; leave it out.")
    if options.mode == "keys" and options.png_compression != "fast":
        source.fail(("png_compression",), "mode: keys stores no images; leave it out.")
    for key in ("photographs", "f_isp", "out", "source_network"):
        if getattr(options, key) is not None:
            setattr(options, key, os.path.expanduser(getattr(options, key)))
    options.num_gpu = resolve_gpus(options.num_gpu, source)
    return options
