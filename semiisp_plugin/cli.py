"""The ``basicsr`` command; no logic of its own. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress

from semiisp_plugin.arguments import parse, print_anything

_RESUMED = ("learn", "demo", "recipe", "benchmark", "prepare", "pseudo", "denoise")
"""Commands that go on where they were interrupted, and do not say so themselves."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0; 1 for an error; 2 for wrong usage (by argparse); 128 plus the signal's number if interrupted: 130 for SIGINT, 143
    for SIGTERM, 129 for SIGHUP.

    Args:
        argv: Arguments without the program's name; default: those of the process.
    """
    print_anything()
    args = parse(argv)
    try:
        what = getattr(args, "what", None)
        _check_option_file(getattr(args, "opt", None) or (what if what and what.endswith(".yml") else None))
        with _importing():
            from semiisp_plugin import plugins

            plugins.register(getattr(args, "imports", ()))
        from semiisp_plugin.io.files import PrintableStream

        with redirect_stdout(PrintableStream(sys.stdout)):
            _run(args)
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or ("the same command resumes" if args.command in _RESUMED else "")
        with suppress(OSError):  # the terminal may be gone
            print(f"basicsr: interrupted{f': {said}' if said else ''}", file=sys.stderr)
        return 128 + getattr(interrupt, "signal", 2)
    except Exception as error:
        if os.environ.get("SEMIISP_TRACEBACK"):
            raise
        from semiisp_plugin.io.files import printable

        print(f"basicsr: error: {printable(_one_line(error))}", file=sys.stderr)
        if not isinstance(error, (ValueError, OSError, ArithmeticError)):
            print("basicsr: set SEMIISP_TRACEBACK=1 to see where it happened", file=sys.stderr)
        return 1
    return 0


def _check_option_file(path: str | None) -> None:
    """Raise for a file that is not there, before anything is imported that takes long."""
    if path is not None and not os.path.exists(path):
        from semiisp_plugin.options.reading import load_yaml

        load_yaml(path)


@contextmanager
def _importing() -> Iterator[None]:
    """Spare the garbage collector what is imported, in a process that is the command's own.

    torch and BasicSR make more than half a million objects, and nearly all of them stay. To look through them for
    garbage again and again takes a tenth of the time, and as they are frozen afterwards, training and the forked
    workers of a loader are spared it too.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)  # libraries look then whether all of their objects are gone
    finally:
        gc.enable()


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
        from semiisp_plugin.training import loop

        loop.run_from_arguments(args, root_path)
    elif args.command == "test":
        from semiisp_plugin.training import testing

        testing.run_from_arguments(args, root_path)
    elif args.command == "prepare":
        from semiisp_plugin.data import prepare

        prepare.run_from_arguments(args)
    elif args.command == "pseudo":
        from semiisp_plugin.options import load_pseudo_options
        from semiisp_plugin.pseudo import builder

        pseudo_options = load_pseudo_options(args.opt, args.force_yml)
        if args.check:
            from semiisp_plugin.pseudo.check_build import print_check

            print_check(pseudo_options.out)
        else:
            builder.run(pseudo_options, retry=args.retry)
    elif args.command == "denoise":
        from semiisp_plugin.apps.denoise import folder

        folder.run_from_arguments(args)
    elif args.command == "learn":
        from semiisp_plugin.experiments import learn

        learn.run_from_arguments(args)
    elif args.command == "recipe":
        from semiisp_plugin.experiments import recipe

        recipe.run_from_arguments(args)
    elif args.command == "enhance":
        from semiisp_plugin.apps.enhance import command

        command.run_from_arguments(args)
    elif args.command == "serve":
        from semiisp_plugin.apps import serve

        serve.run_from_arguments(args)
    elif args.command == "invert":
        from semiisp_plugin.apps import invert

        invert.run_from_arguments(args)
    elif args.command == "export":
        from semiisp_plugin.apps.export import exporting

        exporting.run_from_arguments(args)
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
