"""Every command that README, docs, docstrings and option files name: its arguments, files and options are there."""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT, load_script

from semiisp_plugin.apps.denoise.options import complete_denoise_options
from semiisp_plugin.arguments import COMMANDS, TASKS, build_parser
from semiisp_plugin.experiments.paper_options import find_experiment
from semiisp_plugin.experiments.recipe_options import load_recipe
from semiisp_plugin.options import check_options, complete_pseudo_options, is_plugin_model, read_options

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
FOLDERS = ("scripts", "benchmarks", "examples")
CODE = [path for folder in (*FOLDERS, "semiisp_plugin") for path in ROOT.glob(f"{folder}/**/*.py")]
FILES = [*ROOT.glob("options/**/*.yml"), *ROOT.glob("examples/**/*.yml")]
SCRIPTS = [
    p for folder in FOLDERS for p in sorted(ROOT.glob(f"{folder}/*.py")) if "ArgumentParser(" in p.read_text("utf-8")
]
PROGRAM = r"(?:basicsr|python|make|torchrun|srun)\s"


def lines_of(path: Path) -> Iterator[str]:
    """What may be a command: lines of blocks, text between backticks, comments of option files."""
    text = path.read_text("utf-8")
    if path.suffix == ".yml":
        text = "\n".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
        yield from (f"{found} ..." for found in re.findall(rf"(?m)(?:^|: |; )({PROGRAM}.*?)(?:,\s.*)?$", text))
        return
    if path.suffix == ".py":
        nodes = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        text = "\n".join(filter(None, map(ast.get_docstring, nodes)))
        text = text.replace("``", "`")
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"(?ms)^ *```(?:bash|sh)?\n(.*?)^ *```", text)
    yield from re.findall(rf"(?m)^\s*(?:\$ )?({PROGRAM}.*)$", "\n".join(fenced))
    text = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    yield from re.findall(rf"(?m)^ {{4,}}(?:\$ )?({PROGRAM}.*)$", text)
    yield from (f"{' '.join(found.split())} ..." for found in re.findall(rf"`({PROGRAM}[^`]*)`", text))


def expanded(text: str) -> list[str]:
    """A shell's braces."""
    found = re.search(r"\{([^{}:]*,[^{}:]*)\}", text)
    if not found:
        return [text]
    parts = found[1].split(",")
    return [more for part in parts for more in expanded(text[: found.start()] + part + text[found.end() :])]


@cache
def documented() -> list[tuple[str, list[str], bool]]:
    """Where a command stands, its words, and whether it may be a part of one."""
    found = {}
    for path in itertools.chain(PAGES, CODE, FILES):
        for line in lines_of(path):
            line = re.sub(r"\[(--[^\]]*)\]", r"\1", line)  # what may be left out
            for text in expanded(re.split(r"\s{3,}| \| |;", line)[0]):
                part = text.endswith(" ...")
                words = shlex.split(text.removesuffix(" ..."), comments=True)
                words = words[words.index("semiisp_plugin.cli") :] if "semiisp_plugin.cli" in words else words
                words = ["basicsr", *words[1:]] if words[0] == "semiisp_plugin.cli" else words
                words = words[1:] if words[0] == "srun" else words
                words = ["own" if word == "NAME" else word for word in words if word != "--help"]
                if words[0] in ("basicsr", "python", "make") and len(words) > 1:
                    found[" ".join(words)] = (path.relative_to(ROOT).as_posix(), words, part)
    return [found[key] for key in sorted(found)]


def ids() -> list[str]:
    return [" ".join(words)[:90] for _, words, _ in documented()]


def test_commands_are_found() -> None:
    """Of blocks, tables, comments and docstrings."""
    commands = {" ".join(words) for _, words, _ in documented()}
    assert len(commands) > 100
    for expected in (
        "make demo",
        "basicsr train -opt options/fisp_lolv1.yml",
        "basicsr prepare lolv1 --source LOLdataset --out datasets/lolv1",
        "basicsr denoise -opt options/denoise/lolv1.yml",
        "basicsr train --launcher slurm -opt FILE",
        "basicsr export -opt options/test_lolv1.yml --format onnx --out retinexformer.onnx",
        "basicsr benchmark -opt options/benchmarks/quick.yml",
    ):
        assert expected in commands


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch):
    """What a script makes of its arguments; it is stopped there."""

    class Stopped(Exception):  # noqa: N818 - no error
        pass

    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args=None, namespace=None) -> None:
        assert parser.format_help()
        parse(parser, args)
        raise Stopped

    def run(script: Path, words: list[str]) -> None:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        monkeypatch.syspath_prepend(script.parent)
        name = script.relative_to(ROOT).with_suffix("").as_posix()
        with pytest.raises(Stopped):
            load_script(name).main()

    return run


@pytest.mark.parametrize(("place", "words", "part"), documented(), ids=ids())
def test_a_documented_command(place, words, part, parsed, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    for word in words:
        if re.match(r"(options|scripts|benchmarks|examples|docs)/", word):
            assert list(ROOT.glob(word)), f"{place}: there is no {word}"
    try:
        if words[0] == "make":
            assert re.search(rf"(?m)^{re.escape(words[1])}:", (ROOT / "Makefile").read_text("utf-8")), place
        elif words[0] == "python" and ROOT / words[1] in SCRIPTS:
            parsed(ROOT / words[1], list(itertools.chain.from_iterable(glob(word) for word in words[2:])))
        elif words[0] == "basicsr":
            check_values(build_parser().parse_args(words[1:]), place)
    except SystemExit:
        said = capsys.readouterr().err
        incomplete = "arguments are required" in said or "expected one argument" in said
        assert (part, incomplete) == (True, True), f"{place}: {' '.join(words)}: {said}"
        known = set(re.findall(r"--?\w[\w-]*", said)) | options_of(words)
        assert {word for word in words if word.startswith("-")} <= known, f"{place}: {' '.join(words)}"


def glob(word: str) -> list[str]:
    return (
        sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(word)) if "*" in word and list(ROOT.glob(word)) else [word]
    )


def options_of(words: list[str]) -> set[str]:
    """The options of a subcommand."""
    parser = argparse.ArgumentParser()
    COMMANDS[words[1]][1](parser)
    return {option for action in parser._actions for option in action.option_strings}


def check_values(args: argparse.Namespace, place: str) -> None:
    """Option files with what the command changes, and names of experiments."""
    if args.command == "recipe" and args.what in TASKS:
        find_experiment(args.what, network=args.network, pairs=args.pairs, data=args.data, photos=args.photos)
        return
    folder = (ROOT / place).parent
    file = getattr(args, "opt", None) or (args.what if args.command == "recipe" else None)
    if not file or not any((root / file).exists() for root in (folder, ROOT)):
        assert file is None or not file.startswith(("options/", "examples/")), place
        return
    if args.command == "recipe":
        load_recipe(file, args.set)
        return
    if (folder / file).exists() and folder.name == "own_network":
        return  # tests/examples runs it
    values, source = read_options(file, args.force_yml)
    if args.command == "pseudo":
        complete_pseudo_options(values, source)
    elif args.command == "denoise":
        complete_denoise_options(values, source)
    elif args.command in ("train", "test") and is_plugin_model(values["model_type"]) and "ema_decya" not in str(values):
        check_options(values, source, is_train=args.command == "train")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_help_of_a_script(script, parsed, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stop:
        load_script(script.relative_to(ROOT).with_suffix("").as_posix()).main()
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out
