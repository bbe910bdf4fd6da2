"""Option files of ``basicsr denoise``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from semiisp_plugin.options import Source, checked_as, read_options, resolve_gpus
from semiisp_plugin.options.check import check_network
from semiisp_plugin.options.ranges import Border, Processes
from semiisp_plugin.options.structures import Auto, Imports, Strict, doc


class DenoiseOptions(Strict):
    """Option file of `basicsr denoise`."""

    name: Annotated[str, doc("Of the run, for messages.")]
    input: Annotated[str, doc("Folder (searched recursively) or LMDB of the noisy images.")]
    out: Annotated[str, doc("Folder or LMDB, as `input` is, that gets the same names as 16-bit PNG.")]
    extends: Annotated[
        str | list[str] | None, doc("Option file, or files, that this one changes; relative to its own folder.")
    ] = None
    imports: Imports = msgspec.field(default_factory=list)
    network: Annotated[dict[str, Any] | None, doc("The denoising network: `type`, and its arguments.")] = None
    weights: Annotated[str | None, doc("Its weights; without, OpenCV's non-local means denoises (ours).")] = None
    param_key: Annotated[
        str | None, doc("Key under which the file has the weights; `~`: the first usual one, or all of it.")
    ] = "params"
    normalise: Annotated[
        Literal["max", "none"],
        doc(
            "`max`: divide by the image's largest value before denoising, and multiply by it afterwards (our reading "
            "of the paper's normalisation to 0..1)."
        ),
    ] = "max"
    gamma: Annotated[
        Annotated[float, msgspec.Meta(ge=0.1, le=10)],
        doc("The network sees `image^(1/gamma)` (Sec. A.3); 1 leaves it out."),
    ] = 2.2
    tile: Annotated[
        Annotated[int, msgspec.Meta(ge=16, le=65_536)] | None,
        doc(
            "The network gets larger images in tiles of this side, pixels; `~`: always whole. Networks with a mean "
            "over the image, such as KBNet and NAFNet, see another mean in each tile."
        ),
    ] = 1024
    tile_overlap: Annotated[
        Border, doc("Pixels that neighbouring tiles share, at most half a tile; they fade into one another.")
    ] = 64
    precision: Annotated[Literal["fp32", "bf16"], doc("`bf16`: the network in mixed precision.")] = "fp32"
    num_gpu: Annotated[Processes | Auto, doc("0 for the CPU, `auto` or 1 for a GPU.")] = "auto"

    @property
    def uses_network(self) -> bool:
        """Whether a network denoises, rather than OpenCV."""
        return self.weights is not None


def load_denoise_options(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> DenoiseOptions:
    """Read, override, check and complete an option file of ``basicsr denoise``.

    Raises:
        OptionError: The first thing found wrong.
    """
    values, source = read_options(path, overrides)
    return complete_denoise_options(values, source)


def complete_denoise_options(values: dict[str, Any], source: Source) -> DenoiseOptions:
    """Check the options of ``basicsr denoise``, wherever they come from, and resolve ``~`` and the GPU count.

    Raises:
        OptionError: The first thing found wrong.
    """
    options = checked_as(DenoiseOptions, values, source)
    if options.network is not None:
        check_network(options.network, source, ("network",))
    elif options.uses_network:
        source.fail(("weights",), "the key 'network' is missing, which says of which network they are.")
    if options.tile is not None and 2 * options.tile_overlap > options.tile:
        source.fail(("tile_overlap",), f"it must be at most half the tile of {options.tile} pixels.")
    for key in ("input", "out", "weights"):
        if getattr(options, key) is not None:
            setattr(options, key, os.path.expanduser(getattr(options, key)))
    _check_places(options, source)
    options.num_gpu = resolve_gpus(options.num_gpu, source)
    return options


def is_lmdb(path: str) -> bool:
    """Whether a path is that of an LMDB folder, which is known by its name."""
    return path.rstrip("/" + os.sep).endswith(".lmdb")


def _check_places(options: DenoiseOptions, source: Source) -> None:
    """Raise unless input and output are of one kind and apart."""
    if is_lmdb(options.input) != is_lmdb(options.out):
        wanted = "end in '.lmdb', as input does" if is_lmdb(options.input) else "be a folder of images, as input is"
        source.fail(("out",), f"'{options.out}' must {wanted}.")
    place, target = os.path.realpath(options.input), os.path.realpath(options.out)
    if place == target or os.path.commonpath([place, target]) in (place, target):
        source.fail(("out",), f"'{options.out}' must be neither '{options.input}' nor within it, nor hold it.")
