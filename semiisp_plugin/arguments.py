"""The arguments of the ``basicsr`` command, all of them; nothing heavy is imported here.

What a help text says about defaults and names that live elsewhere is compared with them by a test.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from semiisp_plugin._version import __version__

DATA_SETS = {
    "lolv1": "LOLv1, 485 + 15 pairs: LOLdataset/{our485,eval15}/{low,high}, or a repack",
    "lolv2_real": "LOLv2 real, 689 + 100 pairs: Real_captured/{Train,Test}/{Low,Normal}",
    "lolv2_synthetic": "LOLv2 synthetic, 900 + 100 pairs: Synthetic/{Train,Test}/{Low,Normal}",
    "fivek_tone_mapping": (
        "FiveK 480p (Zeng), 16-bit XYZ -> expert C, 4500 + 498 (not 500) pairs: input/PNG/480p_16bits_XYZ_WB, "
        "expertC/JPG/480p"
    ),
    "fivek_general_isp": (
        "FiveK's DNG files, demosaiced (our choices) -> expert C, 4500 + 498 (not 500) pairs: *.dng, expertC/JPG/480p"
    ),
    "fivek_ie": (
        "FiveK 480p (Zeng), 8-bit sRGB -> expert C, 4500 + 498 (not 500) pairs: input/JPG/480p, expertC/JPG/480p"
    ),
    "own": "your RAW files (DNG, NEF, ARW, CR2, CR3, RAF, ORF, RW2 ...) or images, and their edited versions",
}
"""What ``basicsr prepare`` takes, with a line of help."""

PHASES = ("denoise", "f_isp", "pseudo", "semi", "finetune", "supervised", "test")
"""The phases of a recipe in the order in which they run."""


TASKS = tuple(name for name in DATA_SETS if name.startswith(("fivek_", "lolv")))
"""The paper's tasks, as ``basicsr recipe`` knows them."""


def print_anything() -> None:
    """Whatever is printed, no name ends a command: what a terminal or a pipe cannot show, is written as an escape.

    Where there is no output or no output of errors (``>&-``), no file that is opened later takes its number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments; what its subcommand does not know ends it, and the nearest that it knows is named."""
    args, unknown = build_parser().parse_known_args(argv)
    if unknown:
        options = [option for action in args.subparser._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], options, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        args.subparser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def program() -> str:
    """How this command can be called again: its name, or its path where the name would not lead to it."""
    called, found = sys.argv[0], shutil.which("basicsr")
    if os.path.basename(called) != "basicsr" or (found and os.path.realpath(found) == os.path.realpath(called)):
        return "basicsr"
    return os.path.relpath(called)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser; ``command`` of what it gives is the subcommand's name."""
    parser = argparse.ArgumentParser(
        prog="basicsr",
        description="BasicSR with semi-supervised learning for learned ISPs and image enhancement.",
    )
    parser.add_argument("--version", action="version", version=f"semiisp_plugin {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add_arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(subparser=command)
        add_arguments(command)
    return parser


def _imports(parser: argparse._ActionsContainer) -> None:
    text = "module of your own that registers networks, losses and the like; may be repeated"
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=text)


def _options(parser: argparse.ArgumentParser, text: str = "option file (YAML)", required: bool = True) -> None:
    """An option file, and what changes it."""
    parser.add_argument("-opt", required=required, metavar="FILE", help=text)
    _overrides(parser, "override options; of a section: train:ema_decay=0.999")
    _imports(parser)


def _overrides(parser: argparse._ActionsContainer, text: str) -> None:
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help=text)


def _test(parser: argparse.ArgumentParser) -> None:
    _options(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="job launcher")
    parser.add_argument(
        "--debug", action="store_true", help="debug_ before the name: log every iteration, validate every 8"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def _train(parser: argparse.ArgumentParser) -> None:
    _test(parser)
    parser.add_argument("--auto_resume", action="store_true", help="resume from the run's latest checkpoint, if any")
    text = "check the options, build everything, run a few batches, report sizes and times, and write nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "data sets:\n" + "\n".join(f"  {name:<20} {text}" for name, text in DATA_SETS.items())
    parser.add_argument("name", metavar="NAME", choices=DATA_SETS, help=f"data set: {', '.join(DATA_SETS)}")
    parser.add_argument("--source", metavar="DIR", help="the data set as it was distributed, unpacked")
    parser.add_argument("--out", metavar="DIR", help="folder to write; an interrupted run resumes there")
    parser.add_argument("--check", action="store_true", help="verify the source, image by image; write nothing")
    text = "threads that read and encode (default: %(default)s, one image after the other; a RAW file takes up to 1 GB)"
    parser.add_argument("--workers", type=_number(int, 0, 1024), default=0, metavar="N", help=text)
    text = "own, fivek_*: the folder of the inputs (default of fivek_general_isp: raw_photos in SOURCE, or SOURCE)"
    parser.add_argument("--input", metavar="DIR", help=text)
    parser.add_argument("--target", metavar="DIR", help="own, fivek_*: the folder of the targets")
    text = "lolv*, fivek_*: leave out what lacks a partner or a file instead of stopping"
    parser.add_argument("--partial", action="store_true", help=text)
    text = "fivek_tone_mapping: which channels of the XYZ files hold X, Y, Z (default: %(default)s, from the images)"
    parser.add_argument("--channel_order", choices=["auto", "rgb", "bgr"], default="auto", help=text)
    text = "own: shrink the pairs to this short side in pixels (the paper's images have 480)"
    parser.add_argument("--short_side", type=_number(int, 32, 100_000), metavar="N", help=text)
    parser.add_argument(
        "--test_pairs", type=_number(int, 0, 10**9), metavar="N", help="own: pairs for testing (default: a tenth)"
    )
    parser.add_argument("--test_list", metavar="FILE", help="own: names of the pairs for testing, one a line")
    text = "own, fivek_general_isp: least alignment of input and target, -1 to 1 (default: %(default)s)"
    parser.add_argument("--min_alignment", type=_number(float, -1, 1), default=0.7, metavar="X", help=text)


def _pseudo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description} The same command resumes a build that was interrupted; run on several machines, "
        "they share the work."
    )
    _options(parser)
    special = parser.add_mutually_exclusive_group()
    special.add_argument("--check", action="store_true", help="verify a build, entry by entry, and write nothing")
    special.add_argument("--retry", action="store_true", help="try photographs again that were skipped")


def _denoise(parser: argparse.ArgumentParser) -> None:
    _options(parser, "option file (YAML), see options/denoise")


def _recipe(parser: argparse.ArgumentParser) -> None:
    text = f"one of the paper's tasks ({', '.join(TASKS)}), own (your pairs), or a recipe (YAML; see options/recipes)"
    parser.add_argument("what", nargs="?", metavar="TASK|FILE", help=text)
    parser.add_argument("-opt", metavar="FILE", help="the recipe, in place of FILE")
    experiment = parser.add_argument_group("a task's experiment")
    text = "target network (default: the task's first); of own also any registered one, or '{type: NAME, ...}'"
    experiment.add_argument("--network", metavar="NAME", help=text)
    experiment.add_argument(
        "--pairs", type=_number(int, 1, 10**9), metavar="N", help="number of pairs (default: the paper's fewest)"
    )
    experiment.add_argument("--data", metavar="DIR", help="what `basicsr prepare` wrote (default: datasets/TASK)")
    text = "folder of ordinary photographs (default: datasets/coco/train2017)"
    experiment.add_argument("--photos", metavar="DIR", help=text)
    text = "override options of all phases that have them, or of one: semi:train:total_iter=100"
    parser.add_argument(
        "--set", "--force_yml", dest="set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text
    )
    _imports(parser)
    parser.add_argument("--write", metavar="DIR", help="write the phases as option files there, and do nothing else")
    text = "check everything, say what would be done and about how long it takes, do nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)
    parser.add_argument("--until", metavar="PHASE", help=f"stop after this phase: {', '.join(PHASES)}")
    text = "make these phases again, and what follows them; without a name all that are stale"
    parser.add_argument("--redo", nargs="*", metavar="PHASE", help=text)


def _network(parser: argparse.ArgumentParser) -> None:
    """A trained network."""
    network = parser.add_argument_group("network")
    text = "option file of training (its run's net_g_latest) or testing (its pretrain_network_g)"
    network.add_argument("-opt", metavar="FILE", help=text)
    network.add_argument("--weights", metavar="FILE", help="checkpoint: net_g_*.pth of a run, f_isp_*.pth, safetensors")
    text = "the network's options where a checkpoint does not tell them: '{type: NAFNet, width: 32}'"
    network.add_argument("--network", metavar="YAML", help=text)
    text = "which weights of the checkpoint (default: params_ema, params or state_dict, the first that is there)"
    network.add_argument("--param_key", metavar="KEY", help=text)
    text = (
        "what the network was trained on: srgb develops RAW files as a camera does, raw leaves them linear (default: "
        "what the checkpoint says; linear where it says nothing)"
    )
    network.add_argument("--inputs", choices=["auto", "srgb", "raw"], default="auto", help=text)
    text = "non-local means before the network (default: if the checkpoint says that it is made for it)"
    network.add_argument("--denoise", choices=["auto", "on", "off"], default="auto", help=text)
    _overrides(network, "override options of -opt")
    _imports(network)


def _device(parser: argparse._ActionsContainer) -> None:
    text = "auto (a GPU if there is one), cpu, cuda, cuda:1, mps"
    parser.add_argument("--device", default="auto", metavar="NAME", help=text)


def _max_pixels(parser: argparse._ActionsContainer) -> None:
    text = "larger images are skipped (default: 200,000,000)"
    parser.add_argument("--max_pixels", type=_number(int, 1, 10**12), default=200_000_000, metavar="N", help=text)


def _workers(parser: argparse.ArgumentParser) -> None:
    text = "processes (default: one a core, or one a GPU; 0: this one alone)"
    parser.add_argument("--workers", type=_number(int, 0, 1024), metavar="N", help=text)


def _enhance(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Results that are there already are left alone, so that the same command resumes what was interrupted. "
        "Exit status 1 if an image had to be skipped."
    )
    text = "files, and folders (with all below them); RAW files too"
    parser.add_argument("images", nargs="+", metavar="IMAGES", help=text)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results; the structure is kept")
    _network(parser)
    results = parser.add_argument_group("results")
    text = "default: each image's; RAW: jpg where it is developed to sRGB, else png"
    results.add_argument("--format", choices=["jpg", "png", "tif", "tiff", "webp"], help=text)
    results.add_argument("--bits", choices=["keep", "8", "16"], default="keep", help="default: each image's; RAW: 16")
    text = "from the image, 0, to the network's result, 1, and beyond, up to 1.5 (default: %(default)s)"
    results.add_argument("--strength", type=_number(float, 0, 1.5), default=1.0, metavar="X", help=text)
    text = "of JPEG and WebP, 1 to 100 (default: %(default)s)"
    results.add_argument("--quality", type=_number(int, 1, 100), default=95, metavar="N", help=text)
    results.add_argument("--suffix", default="", metavar="TEXT", help="added to the names, such as _enhanced")
    results.add_argument("--overwrite", action="store_true", help="make results again; images are never overwritten")
    run = parser.add_argument_group("running")
    _device(run)
    run.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="default: %(default)s")
    text = "side of the tiles in pixels, 0 for none (default: none up to 2 megapixels, else 1024)"
    run.add_argument("--tile", type=_tile, default="auto", metavar="N", help=text)
    text = "pixels that tiles share (default: an eighth of the tile)"
    run.add_argument("--overlap", type=_number(int, 0, 10**6), metavar="N", help=text)
    text = "bring tiles to the tone of the whole image (default: if they disagree about what they share)"
    run.add_argument("--match", choices=["auto", "on", "off"], default="auto", help=text)
    _max_pixels(run)
    run.add_argument(
        "--workers", type=_number(int, 1, 1024), default=2, metavar="N", help="threads that read (default: %(default)s)"
    )


def _serve(parser: argparse.ArgumentParser) -> None:
    _network(parser)
    text = "on 127.0.0.1, which no other machine reaches (default: the first free one from 7860 on)"
    parser.add_argument("--port", type=_number(int, 1, 65535), metavar="N", help=text)
    _device(parser)
    _max_pixels(parser)


def _learn(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The same command resumes what was interrupted. OUT/model.pth is the model, OUT/report.html shows what it does "
        "and how good it is on pairs it was not trained on."
    )
    text = "folder with {input,target}, {low,high} or {raw,edited}; or the two folders; names match without extension"
    parser.add_argument("--pairs", nargs="+", required=True, metavar="DIR", help=text)
    parser.add_argument("--photos", metavar="DIR", help="folder of ordinary photographs; without, the pairs alone")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    text = "minutes, about; or quick (4), default (20), best (240)"
    parser.add_argument("--time", type=_minutes, default="default", metavar="T", help=text)
    text = "what the inputs are (default: auto; RAW files, and images of 16 bits, are raw)"
    parser.add_argument("--inputs", choices=["auto", "srgb", "raw"], default="auto", help=text)
    parser.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, help="of everything (default: 0)")
    _workers(parser)


def _minutes(text: str) -> str:
    if text not in ("quick", "default", "best"):
        try:
            _number(float, 1, 10**5)(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, and none of quick, default, best") from None
    return text


def _tile(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return _number(int, 0, 10**6)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, and not 'auto'") from None


N = TypeVar("N", int, float)


def _number(kind: type[N], least: N, most: N) -> Callable[[str], N]:
    """The type of an argument that is a number from ``least`` to ``most``."""

    def number(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"'{text[:40]}' is no {what} from {least:,} to {most:,}")
        return value

    return number


def _invert(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Results that are there already are left alone, so that the same command resumes what was interrupted. "
        "Exit status 1 if a photograph had to be skipped."
    )
    parser.add_argument("images", nargs="+", metavar="PHOTO", help="files, and folders (with all below them)")
    parser.add_argument("--weights", required=True, metavar="FILE", help="f_isp_latest.pth of phase 1")
    text = "folder of the results, new or of this command; the structure is kept"
    parser.add_argument("--out", required=True, metavar="DIR", help=text)
    text = "so many different ones of each photograph (default: %(default)s)"
    parser.add_argument("--draws", type=_number(int, 1, 1000), default=1, metavar="N", help=text)
    text = "of the draws; with a photograph's name it decides them (default: %(default)s)"
    parser.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, help=text)
    text = "16 bits each; dng: linear DNG, of f_ISPs for RAW (default: %(default)s)"
    parser.add_argument("--format", choices=["tiff", "png", "dng"], default="tiff", help=text)
    text = "on: bring the photograph to the quality of f_ISP's targets first (default: %(default)s, its own RAW)"
    parser.add_argument("--quality", choices=["off", "on"], default="off", help=text)


def _export(parser: argparse.ArgumentParser) -> None:
    # Beside --weights, which it has like the other commands; what is not given must not take the other's place.
    text = "checkpoint, as --weights: net_g_*.pth of a run, f_isp_*.pth, safetensors"
    parser.add_argument("weights", nargs="?", default=argparse.SUPPRESS, metavar="WEIGHTS", help=text)
    text = "onnx; cube and haldclut: a table of colours, for other programs; safetensors: weights and options"
    parser.add_argument("--format", required=True, choices=["onnx", "cube", "haldclut", "safetensors"], help=text)
    parser.add_argument("--out", metavar="FILE", help="default: beside WEIGHTS, by its name")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE; WEIGHTS are never overwritten")
    _network(parser)
    graph = parser.add_argument_group("onnx")
    text = "for one image of this size (default: for images of any size)"
    graph.add_argument("--fixed", type=_number(int, 1, 65536), nargs=2, metavar=("HEIGHT", "WIDTH"), help=text)
    table = parser.add_argument_group("cube, haldclut")
    what = table.add_mutually_exclusive_group()
    text = "what the network does with this image: exact, if that is one thing everywhere, else the best fit"
    what.add_argument("--for", dest="of", metavar="IMAGE", help=text)
    what.add_argument("--average", metavar="FOLDER", help="the best fit to what it does with these images")
    text = "cube: points a side, 17, 33 or 65 (default: 33); haldclut: level, 2 to 16 (default: 8, of 64 points)"
    table.add_argument("--size", type=int, metavar="N", help=text)


def _bank(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="f_isp_latest.pth of phase 1")
    _imports(parser)
    text = "folder for bank_global.png, bank_local.png and bank.json, which are replaced (default: that of FILE)"
    parser.add_argument("--out", metavar="DIR", help=text)
    parser.add_argument("--label", choices=["global", "local"], help="only this bank (default: both)")


PAPER_TABLES = (*(f"table{k}" for k in (1, 2, 3, 4, 7, 8, 9)), "figure4", "figure5")
"""What `semiisp_plugin.experiments.tables` has."""


def _benchmark(parser: argparse.ArgumentParser) -> None:
    text = f"a table or figure of the paper: {', '.join(PAPER_TABLES)}; or, in its place, -opt"
    parser.add_argument("table", nargs="?", choices=PAPER_TABLES, metavar="TABLE", help=text)
    text = "of a table: cpu (default; an hour or two on two cores), gpu, or the paper's own"
    parser.add_argument("--size", choices=["cpu", "gpu", "paper"], help=text)
    _options(parser, "option file (YAML), see options/benchmarks", required=False)
    text = "processes (default: one a GPU, or one a core; 0: none but this)"
    parser.add_argument("--workers", type=_number(int, 0, 1024), metavar="N", help=text)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="demo_output", help="folder to write (default: %(default)s)")
    text = "simulated task (default: %(default)s)"
    parser.add_argument("--task", choices=["raw", "lowlight"], default="lowlight", help=text)
    text = "as of basicsr learn (default: the same trainings on every machine, two minutes on two cores)"
    parser.add_argument("--time", type=_minutes, metavar="T", help=text)
    text = "of everything, and of which scene serves what (default: 0)"
    parser.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, help=text)
    _workers(parser)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "train": ("train a model: f_ISP, semi-supervised, fine-tuning, or any of BasicSR's", _train),
    "test": ("test a model: write images and metrics", _test),
    "prepare": (
        "prepare a data set for training: LOLv1, LOLv2, FiveK, or your own RAW files and edits",
        _prepare,
    ),
    "pseudo": ("turn a folder of photographs into pseudo pairs with a trained f_ISP", _pseudo),
    "denoise": ("denoise the inputs of noisy pairs before f_ISP is trained on them", _denoise),
    "learn": ("learn a look from pairs and photographs, compare, and keep what is best: all in one", _learn),
    "recipe": ("run all phases of a recipe in order, or resume them, and compare the results", _recipe),
    "enhance": ("run a trained network over images: files, folders, RAW, of any size", _enhance),
    "serve": ("serve a page on this machine: drop a photograph, compare before and after, download", _serve),
    "invert": ("make pseudo RAW files of photographs with a trained f_ISP, run backwards", _invert),
    "export": ("write a trained network for other programs: ONNX, .cube, HaldCLUT, safetensors", _export),
    "bank": ("show what the parameter banks of a trained f_ISP hold: statistics and pictures", _bank),
    "benchmark": (
        "compare systems over numbers of pairs and seeds: the method, baselines, ablations; with a report",
        _benchmark,
    ),
    "demo": ("learn a look from photographs that ship with the plugin, made dark, and test it on others", _demo),
}
"""The subcommands: a line of help, and what declares the arguments."""
