"""The ``basicsr`` command; no logic of its own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    from semiisp_plugin import options
    from semiisp_plugin._version import __version__
    from semiisp_plugin.apps import denoise as denoising
    from semiisp_plugin.apps import enhance
    from semiisp_plugin.data import prepare
    from semiisp_plugin.experiments import recipe

    parser = argparse.ArgumentParser(
        prog="basicsr",
        description="BasicSR with semi-supervised learning for learned ISPs and image enhancement.",
    )
    parser.add_argument("--version", action="version", version=f"semiisp_plugin {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("train", "train a model: f_ISP, semi-supervised, fine-tuning, or any of BasicSR's"),
        ("test", "test a model: write images and metrics"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        options.add_arguments(command, training=name == "train")
    text = "prepare a data set for training: LOLv1, LOLv2, FiveK, COCO, or your own RAW files and edits"
    prepare.add_arguments(commands.add_parser("prepare", help=text, description=f"{text[0].upper()}{text[1:]}."))
    text = "turn a folder of photographs into pseudo pairs with a trained f_ISP"
    more = "The same command goes on with a build that was interrupted; run on several machines, they share the work."
    pseudo = commands.add_parser("pseudo", help=text, description=f"{text.capitalize()}. {more}")
    pseudo.add_argument("-opt", required=True, metavar="FILE", help="option file (YAML)")
    special = pseudo.add_mutually_exclusive_group()
    special.add_argument("--check", action="store_true", help="verify a build, entry by entry, and write nothing")
    special.add_argument("--retry", action="store_true", help="try photographs again that were set aside")
    # What it asked for is what happens now.
    pseudo.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    pseudo.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options")
    text = "denoise the inputs of noisy pairs before f_ISP is trained on them"
    denoising.add_arguments(commands.add_parser("denoise", help=text, description=f"{text[0].upper()}{text[1:]}."))
    text = "run all phases of a recipe in order, going on where it was left, and compare what came out"
    recipe.add_arguments(commands.add_parser("recipe", help=text, description=f"{text[0].upper()}{text[1:]}."))
    text = "run a trained network over images: files, folders, RAW, of any size"
    enhance.add_arguments(commands.add_parser("enhance", help=text, description=f"{text[0].upper()}{text[1:]}."))
    text = "show what the parameter banks of a trained f_ISP hold: statistics and pictures"
    bank = commands.add_parser("bank", help=text, description=f"{text[0].upper()}{text[1:]}.")
    bank.add_argument("file", metavar="FILE", help="f_isp_latest.pth of phase 1")
    text = "folder for bank_global.png, bank_local.png and bank.json, which are replaced (default: that of FILE)"
    bank.add_argument("--out", metavar="DIR", help=text)
    bank.add_argument("--label", choices=["global", "local"], help="only this bank (default: both)")
    text = "compare systems over numbers of pairs and seeds: the method, baselines, ablations; with a report"
    benchmark = commands.add_parser("benchmark", help=text, description=f"{text[0].upper()}{text[1:]}.")
    benchmark.add_argument("-opt", required=True, metavar="FILE", help="option file (YAML), see options/benchmarks")
    benchmark.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one a GPU, or one a core; 0: none but this)"
    )
    benchmark.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options")
    text = "run all phases and the supervised baselines on simulated pairs, or on your own folders"
    demo = commands.add_parser("demo", help=text, description=text.capitalize() + ".")
    demo.add_argument("--pairs", metavar="DIR", help="your pairs: DIR/{input,target} or DIR/{low,high}")
    demo.add_argument("--photos", metavar="DIR", help="your ordinary photographs")
    demo.add_argument("--out", metavar="DIR", default="demo_output", help="folder to write (default: %(default)s)")
    demo.add_argument("--task", choices=["raw", "lowlight"], help="simulated task (default: %(default)s)")
    text = "photographs of the simulated task: the default split, or one dealt out by the seed (default: %(default)s)"
    demo.add_argument("--split", choices=["default", "drawn"], default="default", help=text)
    demo.add_argument("--seed", type=int, default=0, help="seed of everything (default: %(default)s)")
    demo.add_argument("--iterations", type=int, metavar="N", help="iterations of semi-supervised training")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0; 1 for an error; 2 for wrong usage (by argparse); 128 plus the signal's number if interrupted: 130 for SIGINT, 143
    for SIGTERM.

    Args:
        argv: Arguments without the program's name; default: those of the process.
    """
    args = build_parser().parse_args(argv)
    try:
        _run(args)
    except KeyboardInterrupt as interrupt:
        print(f"basicsr: interrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 128 + getattr(interrupt, "signal", 2)
    except Exception as error:
        if os.environ.get("SEMIISP_TRACEBACK"):
            raise
        print(f"basicsr: error: {_one_line(error)}", file=sys.stderr)
        if not isinstance(error, (ValueError, OSError, ArithmeticError)):
            print("basicsr: set SEMIISP_TRACEBACK=1 to see where it happened", file=sys.stderr)
        return 1
    return 0


def _one_line(error: Exception) -> str:
    """The message in one line; with the kind of error in front where a library raised it and the text may be bare."""
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if "Original Traceback" in message:  # torch wraps what happens in a loader worker; its last line is the error
        message = message.strip().splitlines()[-1].split(": ", 1)[-1]
    message = " ".join(message.split())
    if isinstance(error, (ValueError, OSError, ArithmeticError, RuntimeError)) and message:
        return message
    return f"{type(error).__name__}: {message}"


def _run(args: argparse.Namespace) -> None:
    root_path = os.getcwd()
    if args.command == "train":
        from semiisp_plugin import train

        train.run_from_arguments(args, root_path)
    elif args.command == "test":
        from semiisp_plugin import test

        test.run_from_arguments(args, root_path)
    elif args.command == "prepare":
        from semiisp_plugin.data import prepare

        prepare.run_from_arguments(args)
    elif args.command == "pseudo":
        from semiisp_plugin.options import load_pseudo_options
        from semiisp_plugin.pseudo import pipeline

        pseudo_options = load_pseudo_options(args.opt, args.force_yml)
        if args.check:
            from semiisp_plugin.pseudo.check import print_check

            print_check(pseudo_options.out)
        else:
            pipeline.run(pseudo_options, retry=args.retry)
    elif args.command == "denoise":
        from semiisp_plugin.apps import denoise as denoising

        denoising.run_from_arguments(args)
    elif args.command == "recipe":
        from semiisp_plugin.experiments import recipe

        recipe.run_from_arguments(args)
    elif args.command == "enhance":
        from semiisp_plugin.apps import enhance

        enhance.run_from_arguments(args)
    elif args.command == "bank":
        from semiisp_plugin.pseudo.f_isp import load_f_isp
        from semiisp_plugin.report.bank import report_banks

        _, banks, n_pairs = load_f_isp(args.file)
        report_banks(banks, n_pairs, args.out or os.path.dirname(args.file) or ".", args.label)
    elif args.command == "benchmark":
        from semiisp_plugin.experiments import benchmark

        benchmark.run_from_arguments(args)
    else:
        from semiisp_plugin.experiments.demo import run

        run(args)


if __name__ == "__main__":
    sys.exit(main())
