"""Option files of ``basicsr benchmark``: what is compared, on which data, how often."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from semiisp_plugin import options as options_module
from semiisp_plugin import plugins
from semiisp_plugin.archs.srgb_to_raw import SRGBToRAWNetwork
from semiisp_plugin.models.output_penalties import networks_with_tables
from semiisp_plugin.options import Source, check_section, load_yaml, nearest, read_options
from semiisp_plugin.options.messages import kind_of, no_module
from semiisp_plugin.options.ranges import (
    Count,
    Decay,
    NotNegative,
    Positive,
    Processes,
    Share,
    Size,
    Threshold,
    Thumbnail,
)
from semiisp_plugin.options.structures import Name, Strict
from semiisp_plugin.registry import ARCH_REGISTRY
from semiisp_plugin.report.benchmark_results import Contrast
from semiisp_plugin.simulation.look import LOOKS

_Regions = Annotated[int, msgspec.Meta(ge=1, le=1024)]
_Stops = Annotated[float, msgspec.Meta(ge=-20, le=20)]
_Folders = str | Annotated[list[str], msgspec.Meta(min_length=1)]
Rival = Literal["mean_teacher", "noise_consistency", "mixmatch", "adversarial", "label_bank", "latent_teacher"]
"""Semi-supervised methods to compare with, which have no use for pseudo ground truths."""
Kind = Literal["f_isp", "f_isp_global", "supervised", "pseudo_only", "semi", "average", "choose", "weigh"] | Rival
OWN_NETWORKS = ("f_isp", "f_isp_global")
"""Target networks that are f_ISP's own, and may begin with its weights."""
LATENTS = {"PQDynamicISP": "encoder.features", "SepLUT": "backbone", "NAFNet": "middle_blks"}
"""Of networks, the module whose output ``latent_teacher`` takes as the latent."""
COMBINED_IN_FOLDS = ("choose", "weigh")
"""Kinds of systems that cross-validation makes of others."""
Group = Literal["supervised", "method", "rival", "chosen", "tried", "ablation", "source"]


class Task(Strict):
    """The data of one task.

    Attributes:
        type: ``pairs``: pairs in folders. ``simulation``: pairs simulated from the photographs.
        pairs: Numbers of labelled pairs to compare.
        dataroot_lq: Inputs of the pairs (``pairs``): a folder, or several that are one pool.
        dataroot_gt: Their targets, as many folders.
        test_lq: Inputs of the test pairs; without them, every pair that a repetition does not train on is a test pair.
        test_gt: Their targets.
        unlabelled: Inputs of further pairs, which are not tested: learners get them without their targets.
        narrow: The labelled pairs are those whose targets are most like that of a random one (mean and spread of the
            colours), instead of random ones: pairs of one kind, tests of all kinds.
        photographs: Folder of ordinary photographs; for ``simulation`` it may be left out: photographs that ship with
            the plugin.
        max_photographs: How many photographs at most, after shuffling by the seed; None for all.
        image_enhancement: The inputs are sRGB images, not RAW (f_ISP gets inverse tone mapping).
        short_side: Labelled pairs and photographs are shrunk to this short side, pixels; None keeps the sizes. Tests
            are at full resolution in any case.
        simulate: ``raw`` or ``lowlight``, see `semiisp_plugin.simulation.scenes`.
        simulated_size: (height, width) of simulated pairs, at full resolution.
        exposure: Range of the simulated camera's exposure, stops; above 0 highlights reach the sensor's shoulder.
        look: Retouching look of the simulated targets, a key of `semiisp_plugin.simulation.look.LOOKS`.
        noise: Whether the simulated sensor is noisy.
        tests: Simulated test pairs.
        title: For the report; default: the task's key.
        description: One sentence for the report.
        paper_task: Name of the task in the paper's tables, to show its figures beside ours.
    """

    type: Literal["pairs", "simulation"]
    pairs: Annotated[list[Positive], msgspec.Meta(min_length=1)]
    photographs: str | None = None
    max_photographs: Positive | None = None
    dataroot_lq: _Folders | None = None
    dataroot_gt: _Folders | None = None
    test_lq: str | None = None
    test_gt: str | None = None
    unlabelled: Count = 0
    narrow: bool = False
    image_enhancement: bool = False
    short_side: Annotated[int, msgspec.Meta(ge=32, le=65_536)] | None = None
    simulate: Literal["raw", "lowlight"] = "raw"
    simulated_size: tuple[Size, Size] = (240, 320)
    exposure: tuple[_Stops, _Stops] = (-1.5, 0.5)
    look: str = "default"
    noise: bool = False
    tests: Positive = 20
    title: str | None = None
    description: str = ""
    paper_task: str | None = None

    def roots(self) -> list[tuple[str, str]]:
        """Folders of inputs and targets."""
        return list(zip(_listed(self.dataroot_lq), _listed(self.dataroot_gt), strict=True))


def _listed(folders: _Folders | None) -> list[str]:
    return [folders] if isinstance(folders, str) else folders or []


class System(Strict):
    """One row of the table.

    Attributes:
        kind: What is trained: ``f_isp`` (alone), ``f_isp_global`` (its global network), ``supervised``,
            ``pseudo_only``, ``semi``, or by another semi-supervised method (`Rival`), which learns from the task's
            unlabelled inputs, or from pseudo inputs where there are none. Or nothing new: ``average`` of the outputs of
            other systems; or, by cross-validation, ``choose`` among them, or ``weigh`` their outputs' mean.
        label: For the report.
        group: Where it stands in the report.
        ours: It has settings that the paper does not.
        description: For the report.
        settings: Changes of the option file's ``settings``.
        among: Names of the systems to average, to choose among, or to weigh.
        folds: Of cross-validation: every candidate is trained as often without a part of the labelled pairs and tested
            on that part; the best mean PSNR over all of them decides.
    """

    kind: Kind
    label: str | None = None
    group: Group = "method"
    ours: bool = False
    description: str = ""
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    among: list[str] = msgspec.field(default_factory=list)
    folds: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 4


class Settings(Strict):
    """Everything that a system can be run with; the defaults are not the paper's.

    Attributes:
        size: (height, width) of training crops, pixels.
        full_size: The target is trained on crops of this (height, width) of images in their full size (photographs
            for simulated pairs: in that of these), and f_ISP alone on shrunken ones; None: both on the same.
        isp_iterations: Phase 1.
        isp_lr: Its peak learning rate.
        isp_batch: Its samples a batch.
        isp_loss: ``mse``, or ``pooled_l1`` (eq. 14) for noisy inputs. The paper's VGG loss (eq. 5) is left out: its
            weights are not always at hand.
        isp_grid: Grid (height, width) of the local network.
        isp_thumbnail: Side of the encoder's thumbnail, pixels.
        isp_dropout: Of the encoder (ours).
        isp_weight_decay: Of AdamW.
        isp_jitter: Strength of photometric augmentation of its inputs (ours).
        isp_folds: More than 1: pseudo pairs are made by as many f_ISPs, each trained without a part of the pairs
            (ours).
        lookalikes: Draw the sets of pseudo inputs from so many labelled images, those whose targets look most like the
            photograph (ours); 0 draws from all.
        source: sRGB-to-RAW method: ``bank`` (the paper's), ``mixture`` (ours), ``upi``, ``deterministic``.
        source_network: In its place the section of a network, which is trained on the labelled pairs to make inputs of
            targets (`semiisp_plugin.archs.srgb_to_raw.SRGBToRAWNetwork`).
        source_size: (height, width) of its training crops; None: ``size``.
        source_iterations: Of its training.
        source_lr: Its peak learning rate.
        source_batch: Its samples a batch.
        sets: ``auto``, ``global`` (whole ISP) or ``local`` (per function).
        update_quality: USQ, steps 1 and 2 of the pseudo-data.
        photographs: Use the first so many of the photographs; None for all.
        draws: Pseudo pairs a photograph.
        online: Pseudo inputs are drawn again at every visit; stored are the pseudo ground truths alone (ours).
        candidates: Inputs that step 3 makes of each pseudo ground truth, to keep the most consistent (ours).
        input_bits: Of the pseudo inputs: 16, or 8 as sRGB inputs have (ours).
        semi_iterations: Phase 2.
        fine_iterations: Phase 3; 0 leaves it out. Systems that train the target in one go take its iterations in any
            case, so that all are of equal length.
        real_per_batch: N_r.
        pseudo_per_batch: N_p.
        unlabelled_per_batch: Unlabelled inputs in a batch that has pseudo pairs too (``consistency``, ``adversarial``):
            of N_p. Other rivals take N_p of them.
        latent: Of ``latent_teacher``: the target's module whose output is the latent.
        consistency: Phase 2 learns from the task's unlabelled inputs, too: ``train: consistency`` (ours).
        beta: Of the filter (eq. 12); infinity switches it off.
        reference: Reference loss of the filter, see `semiisp_plugin.losses.pseudo_filter.PseudoFilter`.
        warmup: Iterations at the start of phase 2 in which the filter drops nothing (ours).
        noise: ``none``, ``paper`` (bounds of Sec. A.3), or ``estimated`` from the labelled inputs (ours).
        lr: Peak learning rate of the target network, in every system that trains it but phase 3.
        fine_lr: Peak learning rate of phase 3.
        ema_decay: Of the target network's weights.
        augment: Photometric jitter of the inputs in supervised training, phase 3 included (there it is ours); 0 for
            none.
        loss: ``mse``, or ``mse_ssim`` (Table 6, with denoising). A normalising flow has its likelihood in any case.
        table_penalty: Keep the target's lookup tables smooth and monotone: ``train: table_penalty`` with its defaults.
        network: The target network's section; ``f_isp`` is the network of f_ISP with local control, and
            ``f_isp_global`` that with global control. A PQDynamicISP is trained with warm-up and clipped gradients, as
            phase 1 is.
        warm_start: The target begins with the weights of f_ISP, whose network it must be (ours).
        rounds: More than 1: the trained target becomes the f_ISP that makes the pseudo ground truths of another phase
            2, and so on (ours). Its network must be ``f_isp``.
        guided: The target gets f_ISP's output as its input (ours).
        cache_images: Keep decoded images in memory; switch it off where they do not fit.
        loader_workers: Processes that read images in a training; 0 reads them in the training process.
    """

    size: tuple[Size, Size] = (64, 96)
    full_size: tuple[Size, Size] | None = None
    isp_iterations: Positive = 400
    isp_lr: NotNegative = 3e-3
    isp_batch: Size = 4
    isp_loss: Literal["mse", "pooled_l1"] = "mse"
    isp_grid: tuple[_Regions, _Regions] = (2, 2)
    isp_thumbnail: Thumbnail = 64
    isp_dropout: Decay = 0.0
    isp_weight_decay: NotNegative = 0.01
    isp_jitter: Share | None = None
    isp_folds: Positive = 1
    lookalikes: Count = 0
    source: Literal["bank", "mixture", "upi", "deterministic"] = "bank"
    source_network: dict[str, Any] | None = None
    source_size: tuple[Size, Size] | None = None
    source_iterations: Positive = 2000
    source_lr: NotNegative = 1e-3
    source_batch: Size = 4
    sets: Literal["auto", "global", "local"] = "auto"
    update_quality: bool = True
    photographs: Positive | None = None
    draws: Positive = 1
    online: bool = False
    candidates: Positive = 1
    input_bits: Literal[8, 16] = 16
    semi_iterations: Positive = 480
    fine_iterations: Count = 120
    real_per_batch: Size = 2
    pseudo_per_batch: Size = 8
    unlabelled_per_batch: Size = 4
    consistency: bool = False
    latent: str | None = None
    beta: Threshold = 1.0
    reference: Literal["batch", "running"] = "batch"
    warmup: Count = 0
    noise: Literal["none", "paper", "estimated"] = "none"
    lr: NotNegative = 1e-3
    fine_lr: NotNegative = 2e-4
    ema_decay: Decay = 0.0
    augment: Share = 0.0
    loss: Literal["mse", "mse_ssim"] = "mse"
    table_penalty: bool = False
    network: dict[str, Any] | Literal["f_isp", "f_isp_global"] = msgspec.field(
        default_factory=lambda: {
            "type": "SepLUT",
            "n_vertices_3d": 9,
            "n_vertices_1d": 9,
            "thumbnail": 64,
            "identity_start": True,
        }
    )
    warm_start: bool = False
    rounds: Positive = 1
    guided: bool = False
    cache_images: bool = True
    loader_workers: Processes = 0


class BenchmarkOptions(Strict):
    """A whole option file of ``basicsr benchmark``.

    Attributes:
        name: Of the benchmark; its folder.
        title: For the report.
        tasks: See `Task`.
        seeds: Each seed draws other pairs, photographs and initial weights.
        systems: Rows by name. A name of `PRESETS` may stand with nothing, or with changes.
        contrasts: Comparisons that are fixed before the run: the headline of the report.
        settings: Of all systems; keys of `Settings`.
        pictures: Test images shown in the report.
        paper_table: Table of the paper that stands beside the results, a key of
            `semiisp_plugin.report.paper_figures.PAPER_TABLES`.
        imports: Modules of the user's own that register networks and losses.
        out: Folder; default ``benchmark_results/<name>``, beside a cache that all benchmarks there share.
    """

    name: Name
    tasks: Annotated[dict[str, Task], msgspec.Meta(min_length=1)]
    systems: dict[str, Any]
    title: str | None = None
    seeds: Annotated[list[Count], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [0, 1, 2])
    contrasts: list[Contrast] = msgspec.field(default_factory=list)
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    pictures: Count = 4
    paper_table: str | None = None
    imports: list[str] = msgspec.field(default_factory=list)
    out: str | None = None

    @property
    def folder(self) -> Path:
        """Of the report."""
        return Path(self.out or os.path.join("benchmark_results", self.name)).expanduser()

    @property
    def cache(self) -> Path:
        """Of the jobs; benchmarks of the common folder share what they have in common."""
        return (self.folder if self.out else self.folder.parent) / "cache"


PRESETS: dict[str, System] = msgspec.convert(load_yaml(Path(__file__).with_name("systems.yml"))[0], dict[str, System])
"""Systems that an option file may name; ``systems.yml`` says what they are."""


def load_benchmark_options(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> BenchmarkOptions:
    """Read, override and check an option file of ``basicsr benchmark``.

    Raises:
        OptionError: The first thing found wrong, with file, line and key.
    """
    values, source = read_options(path, overrides)
    return complete_benchmark_options(values, source)


def complete_benchmark_options(values: dict[str, Any], source: Source) -> BenchmarkOptions:
    """Check the options, and put presets and changes together: ``systems`` holds `System` afterwards."""
    if "model_type" in values or "tasks" not in values:
        source.fail((), "this is no option file of `basicsr benchmark` (it has no section 'tasks').")
    # One by one before the whole, for messages that name the key.
    for name, given in values["tasks"].items() if isinstance(values["tasks"], dict) else ():
        check_section(given, Task, source, ("tasks", name))
    for contrast in values["contrasts"] if isinstance(values.get("contrasts"), list) else ():
        check_section(contrast, Contrast, source, ("contrasts",))
    check_section(values, BenchmarkOptions, source)
    options = msgspec.convert(values, BenchmarkOptions)
    for name, task in options.tasks.items():
        _check_task(task, source, ("tasks", name))
    check_settings(options.settings, source, ("settings",))
    systems: dict[str, Any] = {}
    for name, given in options.systems.items():
        systems[name] = _system(name, given, source)
        check_settings(systems[name].settings, source, ("systems", name, "settings"))
        together = {**options.settings, **systems[name].settings}
        its = msgspec.convert(together, Settings)
        _check_together(its, systems[name].kind, source, ("systems", name))
        _check_unlabelled(its, systems[name].kind, options.tasks, source, ("systems", name))
    options.systems = systems
    for name in systems:
        _check_among(name, systems, source)
    _check_names(options, source)
    return options


def _check_names(options: BenchmarkOptions, source: Source) -> None:
    if len(set(options.seeds)) < len(options.seeds):
        source.fail(("seeds",), "a number stands there twice; each is taken once.")
    labels = [system.label for system in options.systems.values()]
    for name, system in options.systems.items():
        if labels.count(system.label) > 1:
            source.fail(("systems", name), f"another system has the label '{system.label}'; give them different ones.")
    if all(learns_from_photographs(name, options.systems) for name in options.systems):
        source.fail(("systems",), "without a supervised system (such as 'supervised') there is nothing to gain over.")
    fewest = min(n for task in options.tasks.values() for n in task.pairs)
    for name, system in options.systems.items():
        if system.kind in COMBINED_IN_FOLDS and system.folds > fewest:
            source.fail(("systems", name, "folds"), f"{system.folds} folds of {fewest} pairs; use {fewest} or fewer.")
    for k, contrast in enumerate(options.contrasts):
        for name in (contrast.of, *contrast.over):
            if name not in options.systems:
                hint = nearest(name, options.systems)
                source.fail(("contrasts",), f"contrast {k + 1}: '{name}' is none of the systems{hint}")


def _check_task(task: Task, source: Source, keys: tuple[str, ...]) -> None:
    if len(set(task.pairs)) < len(task.pairs):
        source.fail((*keys, "pairs"), "a number stands there twice; each is taken once.")
    if task.look not in LOOKS:
        source.fail((*keys, "look"), f"no look '{task.look}'{nearest(task.look, LOOKS)} Known: {', '.join(LOOKS)}.")
    if task.type == "simulation":
        for key in ("dataroot_lq", "dataroot_gt", "test_lq", "test_gt", "unlabelled", "narrow"):
            if getattr(task, key):
                source.fail((*keys, key), "a task of the type 'simulation' makes its own pairs; leave it out.")
    else:
        for key, default in ((f.encode_name, f.default) for f in msgspec.structs.fields(Task)):
            of_simulation = ("simulate", "simulated_size", "exposure", "look", "noise", "tests")
            if key in of_simulation and getattr(task, key) != default:
                source.fail((*keys, key), "a task of the type 'pairs' simulates nothing; leave it out.")
        for key in ("dataroot_lq", "dataroot_gt", "photographs"):
            if getattr(task, key) is None:
                source.fail(keys, f"a task of the type 'pairs' needs the key '{key}'.")
        if (task.test_lq is None) != (task.test_gt is None):
            source.fail(keys, "give test_lq and test_gt, or neither.")
        if len(_listed(task.dataroot_lq)) != len(_listed(task.dataroot_gt)):
            source.fail((*keys, "dataroot_gt"), "give as many folders as for dataroot_lq.")
    for key in ("photographs", "dataroot_lq", "dataroot_gt", "test_lq", "test_gt"):
        given = getattr(task, key)
        for folder in _listed(given):
            if not os.path.isdir(os.path.expanduser(folder)):
                source.fail((*keys, key), f"there is no folder {folder}.")
        if given is not None:
            found = [os.path.expanduser(folder) for folder in _listed(given)]
            setattr(task, key, found if isinstance(given, list) else found[0])


def _check_together(settings: Settings, kind: Kind, source: Source, keys: tuple[str, ...]) -> None:
    if settings.online and (settings.guided or kind == "pseudo_only"):
        source.fail(keys, "a guided target, and one on pseudo pairs alone, need stored inputs; leave out online.")
    learned = settings.source_network is not None
    if learned and settings.source != "bank":
        source.fail(keys, "source_network takes the place of source; leave one of them out.")
    if settings.sets == "local" and (learned or settings.source in ("upi", "deterministic")):
        source.fail(keys, "sets: local are f_ISP's; leave it out, or the other source.")
    if settings.candidates > 1 and (settings.online or settings.source == "deterministic" or one_to_one(settings)):
        source.fail(keys, "candidates are compared on stored inputs, of a source that makes several; leave it at 1.")
    otherwise = settings.online or learned or settings.source != "bank" or settings.sets == "local"
    if otherwise and (settings.isp_folds > 1 or settings.lookalikes):
        what = "isp_folds and lookalikes store inputs, of whole sets of f_ISP's"
        source.fail(keys, f"{what}; leave them out, or online, source and sets.")
    if settings.table_penalty and kind not in OWN_NETWORKS:
        network = settings.network if isinstance(settings.network, str) else settings.network["type"]
        known = networks_with_tables()
        if network not in known:
            fix = f"leave it out, or take one of {', '.join(known)}"
            source.fail(keys, f"table_penalty is for networks with lookup tables, and {network} has none; {fix}.")
    own = "PQDynamicISP" if settings.network in OWN_NETWORKS else settings.network["type"]  # type: ignore[index]
    if kind == "latent_teacher" and settings.latent is None and own not in LATENTS:
        source.fail((*keys, "settings"), f"latent: name the module of {own} whose output is the latent.")
    if kind == "latent_teacher" and settings.latent is not None:
        section = {"type": own} if settings.network in OWN_NETWORKS else dict(settings.network)  # type: ignore[arg-type]
        network = options_module.check_network(section, source, (*keys, "settings", "network"))
        if network is not None and settings.latent not in dict(network.named_modules()):
            source.fail((*keys, "settings"), f"latent: {no_module('network', network, settings.latent)}")
    if settings.network not in OWN_NETWORKS:
        for key, used in (("warm_start", settings.warm_start), ("rounds", settings.rounds > 1)):
            if used:
                source.fail(keys, f"{key} is for targets with f_ISP's own network; add network: f_isp.")
    elif settings.guided and (settings.warm_start or settings.rounds > 1):
        source.fail(
            keys, "a guided target does what f_ISP leaves to do, not the same; leave out warm_start and rounds."
        )


def _check_unlabelled(
    settings: Settings, kind: Kind, tasks: Mapping[str, Task], source: Source, keys: tuple[str, ...]
) -> None:
    for task in tasks:
        there = tasks[task].unlabelled > 0
        if settings.consistency and kind == "semi" and not there:
            source.fail(keys, f"consistency is on unlabelled inputs, of which the task '{task}' has none (unlabelled).")
        both = there and (settings.consistency or kind == "adversarial")
        if both and settings.unlabelled_per_batch >= settings.pseudo_per_batch:
            source.fail(keys, "unlabelled_per_batch is of pseudo_per_batch; give fewer.")
        if settings.guided and there and (settings.consistency or kind in get_args(Rival)):
            source.fail(keys, f"a guided target takes no unlabelled inputs (task '{task}'); leave out guided.")


def _check_among(name: str, systems: Mapping[str, System], source: Source) -> None:
    system = systems[name]
    combines = system.kind in ("average", *COMBINED_IN_FOLDS)
    if len(system.among) < 2 if combines else system.among:
        fix = "name two or more systems" if combines else "leave it out"
        source.fail(("systems", name, "among"), f"a system of the kind '{system.kind}': {fix}.")
    for other in system.among:
        if other not in systems:
            hint = nearest(other, systems)
            source.fail(("systems", name, "among"), f"'{other}' is none of the systems{hint}")
        if systems[other].kind in COMBINED_IN_FOLDS or (systems[other].kind == "average" and system.kind == "average"):
            source.fail(("systems", name, "among"), f"'{other}' is itself of the kind '{systems[other].kind}'.")


def learns_from_photographs(name: str, systems: Mapping[str, System]) -> bool:
    """Whether a system uses more than the labelled pairs."""
    system = systems[name]
    if system.among:
        return any(learns_from_photographs(other, systems) for other in system.among)
    return system.kind not in ("f_isp", "f_isp_global", "supervised")


def _system(name: str, given: Any, source: Source) -> System:
    preset = PRESETS.get(name)
    if given is None:
        if preset is None:
            source.fail(
                ("systems", name), f"no system of that name{nearest(name, PRESETS)} Known: {', '.join(PRESETS)}."
            )
        return preset
    base = msgspec.to_builtins(preset) if preset else {}
    if not isinstance(given, dict):
        source.fail(("systems", name), "give a section, or nothing for the preset of that name.")
    if not isinstance(given.get("settings") or {}, dict):
        source.fail(("systems", name, "settings"), f"expected a section, not {kind_of(given['settings'])}.")
    merged = {**base, **given, "settings": {**base.get("settings", {}), **(given.get("settings") or {})}}
    check_section(merged, System, source, ("systems", name))
    system = msgspec.convert(merged, System)
    system.label = system.label or name
    return system


def check_settings(values: dict[str, Any], source: Source, keys: Sequence[str]) -> None:
    """Check settings against `Settings`."""
    check_section(values, Settings, source, keys)
    for key in ("network", "source_network"):
        network = values.get(key)
        if isinstance(network, dict):
            options_module.check_network(network, source, (*keys, key))
    kind = (values.get("source_network") or {}).get("type")
    if kind is not None and kind not in source_networks():
        known = ", ".join(source_networks())
        source.fail((*keys, "source_network"), f"{kind} makes no inputs of targets; take one of {known}.")


def one_to_one(settings: Settings) -> bool:
    """Whether pseudo inputs are those of a network that makes the same one each time."""
    if settings.source_network is None:
        return False
    return source_networks()[settings.source_network["type"]].draw is SRGBToRAWNetwork.draw


def source_networks() -> dict[str, type[SRGBToRAWNetwork]]:
    """The registered networks that make inputs of targets, by their names."""
    plugins.register()
    return {name: cls for name, cls in ARCH_REGISTRY if isinstance(cls, type) and issubclass(cls, SRGBToRAWNetwork)}
