"""Recipes: all phases of one experiment, as options that stand in the recipe or in files of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from semiisp_plugin.arguments import PHASES
from semiisp_plugin.options import (
    OptionError,
    Source,
    apply_overrides,
    check_section,
    nearest,
    read_options,
)
from semiisp_plugin.options.ranges import Count, Positive
from semiisp_plugin.options.reading import import_named
from semiisp_plugin.options.structures import Imports, Name, PseudoOptions, Strict, doc
from semiisp_plugin.report.paper_figures import PAPER_TASKS

ORDER = PHASES
"""The phases in the order in which they run."""
TRAININGS = ("f_isp", "semi", "finetune", "supervised")
OPTIONAL = ("denoise", "finetune", "supervised")
"""Phases that can be left out."""

Given = str | dict[str, Any]


class Phases(Strict):
    """The phases: an option file, relative to the recipe, or the options themselves."""

    f_isp: Annotated[Given, doc("Training of f_ISP (`ISPModel`).")]
    pseudo: Annotated[Given, doc("Pseudo pairs (`basicsr pseudo`).")]
    semi: Annotated[Given, doc("Semi-supervised learning of the target network.")]
    test: Annotated[Given, doc("Test of the target network; its weights are set by the recipe.")]
    finetune: Annotated[Given | None, doc("Fine-tuning on the pairs alone.")] = None
    supervised: Annotated[Given | None, doc("Supervised baseline.")] = None
    denoise: Annotated[Given | None, doc("Denoising of the inputs of f_ISP's training (`basicsr denoise`).")] = None


class Paper(Strict):
    """Which of the paper's figures stand beside the results."""

    task: Annotated[str, doc("As in the paper's tables: `FiveK IE`, `LoLv1`, ...")]
    network: Annotated[str, doc("As in the paper's tables.")]
    pairs: Annotated[Positive, doc("Number of training pairs.")]


class RecipeOptions(Strict):
    """Option file of `basicsr recipe`."""

    name: Annotated[Name, doc("Of the report's folder, `results/recipe_<name>`.")]
    phases: Annotated[Phases, doc("The phases: option files, relative to this file, or the options themselves.")]
    title: Annotated[str | None, doc("Heading of the report.")] = None
    extends: Annotated[
        str | list[str] | None, doc("Option file, or files, that this one changes; relative to its own folder.")
    ] = None
    set: Annotated[
        list[str], doc("Changes of the phases' options, as of `--set`: `semi:train:total_iter=100` of one phase.")
    ] = msgspec.field(default_factory=list)
    imports: Imports = msgspec.field(default_factory=list)
    skip: Annotated[list[str], doc("Phases that are left out: `denoise`, `finetune`, `supervised`.")] = msgspec.field(
        default_factory=list
    )
    pictures: Annotated[Count, doc("Test images that the report shows.")] = 4
    paper: Annotated[Paper | None, doc("Which of the paper's figures stand beside the results.")] = None


class PhaseOptions(msgspec.Struct):
    """The options of one phase, not checked yet.

    Attributes:
        values: With all changes.
        source: Where the keys stand.
    """

    values: dict[str, Any]
    source: Source


class Recipe(msgspec.Struct):
    """A recipe, checked.

    Attributes:
        options: Its options.
        phases: Those that are to run, in the order of `ORDER`.
    """

    options: RecipeOptions
    phases: dict[str, PhaseOptions]


def load_recipe(recipe: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe; the options of its phases are checked by `semiisp_plugin.experiments.recipe`.

    Args:
        recipe: The file, or its content; paths are relative to the file's folder, or the working directory.
        overrides: ``--set`` entries: of a phase with its name in front, else of the recipe where it has the key, else
            of all phases that have it.

    Raises:
        OptionError: The first thing found wrong, with file, line and key.
    """
    own = {f.encode_name for f in msgspec.structs.fields(RecipeOptions)}
    of_recipe = [entry for entry in overrides if _first(entry) in own]
    if isinstance(recipe, Mapping):
        values, source, folder = dict(recipe), Source(f"recipe {recipe.get('name', '')}".strip()), Path()
        apply_overrides(values, of_recipe, source)
        import_named(values, source)
    else:
        values, source = read_options(recipe, of_recipe)
        folder = Path(recipe).parent
    if "phases" not in values:
        source.fail((), "this is no option file of `basicsr recipe` (it has no section 'phases').")
    check_section(values, RecipeOptions, source)
    options = msgspec.convert(values, RecipeOptions)
    for key in options.skip:
        if key not in OPTIONAL:
            source.fail(("skip",), f"'{key}' cannot be left out{nearest(key, OPTIONAL)} Can: {', '.join(OPTIONAL)}.")
    if options.paper is not None and options.paper.task not in PAPER_TASKS:
        task = options.paper.task
        source.fail(("paper", "task"), f"no task '{task}'{nearest(task, PAPER_TASKS)} Known: {', '.join(PAPER_TASKS)}.")
    phases = {}
    for name in ORDER:
        given = getattr(options.phases, name)
        if isinstance(given, str) and name not in options.skip:
            file = os.path.normpath(folder / os.path.expanduser(given))
            if not os.path.isfile(file):
                source.fail(("phases", name), f"there is no file {file}.")
            phases[name] = PhaseOptions(*read_options(file))
        elif given is not None and name not in options.skip:
            phases[name] = PhaseOptions(given, source.below("phases", name))
            import_named(given, phases[name].source)
    for entry in [*options.set, *(entry for entry in overrides if entry not in of_recipe)]:
        _apply(phases, entry)
    return Recipe(options, phases)


def _first(entry: str) -> str:
    """The first part of the key."""
    return entry.partition("=")[0].partition(":")[0].strip()


def _apply(phases: Mapping[str, PhaseOptions], entry: str) -> None:
    """Apply a ``--set`` entry to one phase, or to all phases that can have it."""
    first = _first(entry)
    if first in ORDER:
        if first not in phases:
            raise OptionError(f"--set {entry}: the phase {first} is not part of this recipe.")
        chosen, change = [first], entry.partition(":")[2]
    else:
        chosen, change = [name for name, phase in phases.items() if _has(name, phase, entry)], entry
    if not chosen:
        keys = {*ORDER, *(key for phase in phases.values() for key in phase.values)}
        raise OptionError(
            f"--set {entry}: no phase '{first}', and no phase with such an option{nearest(first, keys)} An option of "
            f"one phase has the phase's name in front: {', '.join(ORDER)}."
        )
    for name in chosen:
        try:
            apply_overrides(phases[name].values, [change], phases[name].source)
        except OptionError as error:
            raise named(error, name) from None


def _has(name: str, phase: PhaseOptions, entry: str) -> bool:
    """Whether a phase has the section that an entry changes; of the top level the option, or one that it knows."""
    *sections, last = entry.partition("=")[0].split(":")
    values: Any = phase.values
    for section in sections:
        values = values.get(section.strip())
        if not isinstance(values, dict):
            return False
    known = PseudoOptions.__struct_fields__ if name == "pseudo" else ("num_gpu", "manual_seed")
    return bool(sections) or last in values or (last in known and name != "denoise")


def named(error: OptionError, phase: str) -> OptionError:
    """An error of an override as it was given: with its phase."""
    return OptionError(str(error).replace("--force_yml ", f"--set {phase}:", 1))
