"""Recipes: the option file that names the option files of all phases of one experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from semiisp_plugin.arguments import PHASES
from semiisp_plugin.options import OptionError, Source, check_section, nearest, read_options
from semiisp_plugin.options.schema import Schema
from semiisp_plugin.options.structures import Count, Imports, Name, Positive, Strict, doc
from semiisp_plugin.report.paper_figures import PAPER_TASKS

ORDER = PHASES
"""The phases in the order in which they run."""
TRAININGS = ("1_fisp", "3_semi", "4_finetune", "0_supervised")


class Phases(Strict):
    """Option files of the phases, relative to the recipe."""

    f_isp: Annotated[str, doc("Training of f_ISP (`ISPModel`).")] = msgspec.field(name="1_fisp")
    pseudo: Annotated[str, doc("Pseudo pairs (`basicsr pseudo`).")] = msgspec.field(name="2_pseudo")
    semi: Annotated[str, doc("Semi-supervised learning of the target network.")] = msgspec.field(name="3_semi")
    test: Annotated[str, doc("Test of the target network; its weights are set by the recipe.")]
    finetune: Annotated[str | None, doc("Fine-tuning on the pairs alone.")] = msgspec.field(
        name="4_finetune", default=None
    )
    supervised: Annotated[str | None, doc("Supervised baseline; left out without it.")] = msgspec.field(
        name="0_supervised", default=None
    )
    denoise: Annotated[str | None, doc("Denoising of the inputs of f_ISP's training (`basicsr denoise`).")] = (
        msgspec.field(name="0_denoise", default=None)
    )


class Paper(Strict):
    """Which of the paper's figures stand beside the results."""

    task: Annotated[str, doc("As in the paper's tables: `FiveK IE`, `LoLv1`, ...")]
    network: Annotated[str, doc("As in the paper's tables.")]
    pairs: Annotated[Positive, doc("Number of training pairs.")]


class RecipeOptions(Strict):
    """Option file of `basicsr recipe`."""

    name: Annotated[Name, doc("Of the report's folder, `results/recipe_<name>`.")]
    phases: Annotated[Phases, doc("Option files of the phases, relative to this file.")]
    title: Annotated[str | None, doc("Heading of the report.")] = None
    extends: Annotated[
        str | list[str] | None, doc("Option file, or files, that this one changes; relative to its own folder.")
    ] = None
    imports: Imports = msgspec.field(default_factory=list)
    overrides: Annotated[
        dict[str, list[str]],
        doc("Changes of the phases' options: a list of `section:key=value`, as of `--force_yml`, for each phase."),
    ] = msgspec.field(default_factory=dict)
    skip: Annotated[list[str], doc("Phases that are left out: `0_denoise`, `4_finetune`, `0_supervised`.")] = (
        msgspec.field(default_factory=list)
    )
    pictures: Annotated[Count, doc("Test images that the report shows.")] = 4
    paper: Annotated[Paper | None, doc("Which of the paper's figures stand beside the results.")] = None


_OPTIONAL = ("0_denoise", "4_finetune", "0_supervised")


class Recipe(msgspec.Struct, kw_only=True):
    """A recipe, checked.

    Attributes:
        options: Its options.
        file: The file that it is from.
        files: Option file of each phase that is to run, in the order of `ORDER`.
        overrides: Changes of its options.
    """

    options: RecipeOptions
    file: str
    files: dict[str, str]
    overrides: dict[str, list[str]]


def load_recipe(
    path: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = (), *, folder: str | None = None
) -> Recipe:
    """Read, override and check a recipe; the phases' own files are checked by `semiisp_plugin.experiments.recipe`.

    Args:
        path: The file, or its content.
        overrides: ``--force_yml`` entries; one that begins with a phase's name (``3_semi:train:total_iter=100``)
            changes that phase's options.
        folder: What the phases' files are relative to; default: the file's folder, or the working directory.

    Raises:
        OptionError: The first thing found wrong, with file, line and key.
    """
    of_phases = [entry for entry in overrides if entry.partition(":")[0] in ORDER]
    of_recipe = [entry for entry in overrides if entry not in of_phases]
    sections = {f.encode_name for f in msgspec.structs.fields(RecipeOptions)}
    for entry in of_recipe:
        first, colon, _ = entry.partition("=")[0].partition(":")
        if colon and first not in sections:
            raise OptionError(
                f"--force_yml {entry}: no phase '{first}'{nearest(first, ORDER)} An option of a phase has the phase's "
                f"name in front: {', '.join(ORDER)}."
            )
    if isinstance(path, Mapping):
        values, source = dict(path), Source("recipe")
    else:
        values, source = read_options(path, of_recipe)
    if "phases" not in values:
        source.fail((), "this is no option file of `basicsr recipe` (it has no section 'phases').")
    check_section(values, RecipeOptions, source)
    options = msgspec.convert(values, RecipeOptions)
    for key in options.overrides:
        if key not in ORDER:
            source.fail(("overrides", key), f"no phase '{key}'{nearest(key, ORDER)} Known: {', '.join(ORDER)}.")
    for key in options.skip:
        if key not in _OPTIONAL:
            source.fail(("skip",), f"'{key}' cannot be left out{nearest(key, _OPTIONAL)} Can: {', '.join(_OPTIONAL)}.")
    if options.paper is not None and options.paper.task not in PAPER_TASKS:
        task = options.paper.task
        source.fail(("paper", "task"), f"no task '{task}'{nearest(task, PAPER_TASKS)} Known: {', '.join(PAPER_TASKS)}.")
    base = Path(folder if folder is not None else "" if isinstance(path, Mapping) else Path(path).parent)
    given = {f.encode_name: getattr(options.phases, f.name) for f in msgspec.structs.fields(Phases)}
    files = {}
    for phase in ORDER:
        if given.get(phase) is None or phase in options.skip:
            continue
        file = os.path.normpath(base / os.path.expanduser(given[phase]))
        if not os.path.isfile(file):
            source.fail(("phases", phase), f"there is no file {file}.")
        files[phase] = file
    changes = {phase: list(entries) for phase, entries in options.overrides.items()}
    for entry in of_phases:
        phase, _, rest = entry.partition(":")
        changes.setdefault(phase, []).append(rest)
    for phase in changes:
        if phase not in files:
            raise OptionError(f"{source.where(('overrides',))}: the phase {phase} is not part of this recipe.")
    return Recipe(
        options=options,
        file="recipe" if isinstance(path, Mapping) else str(path),
        files=files,
        overrides=changes,
    )


def recipe_schema() -> Schema:
    """JSON schema of recipes, for editors."""
    from semiisp_plugin.options.schema import DRAFT, definitions_of

    definitions = definitions_of((RecipeOptions,))
    whole = definitions.pop("RecipeOptions")
    return {"$schema": DRAFT, **whole, "title": "Option file of basicsr recipe", "definitions": definitions}
