"""Option files of ``basicsr benchmark``: what is compared, on which data, how often."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from semiisp_plugin import options as options_module
from semiisp_plugin.options import Source, check_section, load_yaml, nearest, read_options
from semiisp_plugin.options.messages import kind_of
from semiisp_plugin.options.ranges import (
    AboveZero,
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
from semiisp_plugin.simulation.look import LOOKS

_Regions = Annotated[int, msgspec.Meta(ge=1, le=1024)]
_Stops = Annotated[float, msgspec.Meta(ge=-20, le=20)]
Kind = Literal["f_isp", "supervised", "pseudo_only", "mean_teacher", "semi"]
Group = Literal["f_isp", "baseline", "method", "ablation", "source", "ratio", "beta", "help"]


class Task(Strict):
    """The data of a benchmark.

    Attributes:
        type: ``pairs``: pairs in folders. ``simulation``: pairs simulated from the photographs.
        dataroot_lq: Inputs of the labelled pairs (``pairs``).
        dataroot_gt: Their targets.
        test_lq: Inputs of the test pairs; without them, ``folds`` says which of the labelled pairs are for the test.
        test_gt: Their targets.
        folds: Cross-validation: each repetition of a seed tests on one fold, and every pair is tested once a seed.
        photographs: Folder of ordinary photographs; for ``simulation`` it may be left out: photographs that ship with
            installed packages.
        image_enhancement: The inputs are sRGB images, not RAW (f_ISP gets inverse tone mapping).
        short_side: Every image is shrunk to this short side, pixels; None keeps the sizes.
        max_photographs: How many photographs at most, after shuffling by the seed; None for all.
        simulate: ``raw`` or ``lowlight``, see `semiisp_plugin.simulation.scenes`.
        exposure: Range of the simulated camera's exposure, stops; above 0 highlights reach the sensor's shoulder.
        look: Retouching look of the simulated targets, a key of `semiisp_plugin.simulation.look.LOOKS`.
        noise: Whether the simulated sensor is noisy.
        tests: Simulated test pairs.
        description: One sentence for the report.
        paper_task: Name of the task in the paper's tables, to show its figures beside ours.
    """

    type: Literal["pairs", "simulation"]
    photographs: str | None = None
    dataroot_lq: str | None = None
    dataroot_gt: str | None = None
    test_lq: str | None = None
    test_gt: str | None = None
    folds: Annotated[int, msgspec.Meta(ge=2, le=1000)] | None = None
    image_enhancement: bool = False
    short_side: Annotated[int, msgspec.Meta(ge=32, le=65_536)] | None = None
    max_photographs: Positive | None = None
    simulate: Literal["raw", "lowlight"] = "raw"
    exposure: tuple[_Stops, _Stops] = (-1.5, 0.5)
    look: str = "default"
    noise: bool = False
    tests: Positive = 20
    description: str = ""
    paper_task: str | None = None


class System(Strict):
    """One row of the table.

    Attributes:
        kind: What is trained: ``f_isp`` (alone), ``supervised``, ``pseudo_only``, ``mean_teacher``, ``semi``.
        label: For the report.
        group: Where it stands in the report.
        ours: It has settings that the paper does not.
        description: For the report.
        settings: Changes of the option file's ``settings``.
        search: Settings that are chosen on validation pairs: each a list of values; all combinations are tried.
    """

    kind: Kind
    label: str | None = None
    group: Group = "method"
    ours: bool = False
    description: str = ""
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    search: dict[str, Annotated[list[Any], msgspec.Meta(min_length=1)]] = msgspec.field(default_factory=dict)


class Settings(Strict):
    """Everything that a system can be run with; the defaults are not the paper's.

    Attributes:
        size: (height, width) of training crops, pixels.
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
        isp_early_stop: Take the f_ISP of the best validation PSNR instead of the last one (ours).
        source: sRGB-to-RAW method: ``bank`` (the paper's), ``mixture`` (ours), ``upi``, ``deterministic``.
        sets: ``auto``, ``global`` (whole ISP) or ``local`` (per function).
        update_quality: USQ, steps 1 and 2 of the pseudo-data.
        draws: Pseudo pairs a photograph.
        candidates: Inputs that step 3 makes of each pseudo ground truth, to keep the most consistent (ours).
        semi_iterations: Phase 2.
        fine_iterations: Phase 3.
        fine_tune: Whether phase 3 follows phase 2 (where it has iterations); the systems that train in one go take its
            iterations in any case.
        length: Of systems that train the target in one go, as a share of the iterations of phases 2 and 3 together.
        real_per_batch: N_r.
        pseudo_per_batch: N_p.
        real_share: Real samples as a share of the batch of phase 2, in place of N_r : N_p; at least one of each.
        beta: Of the filter (eq. 12); infinity switches it off.
        reference: Reference loss of the filter, see `semiisp_plugin.losses.pseudo_filter.PseudoFilter`.
        warmup: Iterations at the start of phase 2 in which the filter drops nothing (ours).
        noise: ``none``, ``paper`` (bounds of Sec. A.3), or ``estimated`` from the labelled inputs (ours).
        lr: Peak learning rate of the target network, in every system that trains it but phase 3.
        fine_lr: Peak learning rate of phase 3.
        ema_decay: Of the target network's weights.
        augment: Photometric jitter of the inputs in supervised training, phase 3 included (there it is ours); 0 for
            none.
        loss: ``mse``, or ``mse_ssim`` (Table 6, with denoising).
        network: The target network's section.
        evaluations: How often a run is validated, evenly over its iterations.
        cache_images: Keep decoded images in memory; switch it off where they do not fit.
        loader_workers: Processes that read images in a training; 0 reads them in the training process.
    """

    size: tuple[Size, Size] = (64, 96)
    isp_iterations: Positive = 400
    isp_lr: NotNegative = 3e-3
    isp_batch: Size = 4
    isp_loss: Literal["mse", "pooled_l1"] = "mse"
    isp_grid: tuple[_Regions, _Regions] = (2, 2)
    isp_thumbnail: Thumbnail = 64
    isp_dropout: Decay = 0.0
    isp_weight_decay: NotNegative = 0.01
    isp_jitter: Share | None = None
    isp_early_stop: bool = False
    source: Literal["bank", "mixture", "upi", "deterministic"] = "bank"
    sets: Literal["auto", "global", "local"] = "auto"
    update_quality: bool = True
    draws: Positive = 1
    candidates: Positive = 1
    semi_iterations: Positive = 480
    fine_iterations: Count = 120
    fine_tune: bool = True
    length: AboveZero = 1.0
    real_per_batch: Size = 2
    pseudo_per_batch: Size = 8
    real_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    beta: Threshold = 1.0
    reference: Literal["batch", "running"] = "batch"
    warmup: Count = 0
    noise: Literal["none", "paper", "estimated"] = "none"
    lr: NotNegative = 1e-3
    fine_lr: NotNegative = 2e-4
    ema_decay: Decay = 0.0
    augment: Share = 0.0
    loss: Literal["mse", "mse_ssim"] = "mse"
    network: dict[str, Any] = msgspec.field(
        default_factory=lambda: {
            "type": "SepLUT",
            "n_vertices_3d": 9,
            "n_vertices_1d": 9,
            "thumbnail": 64,
            "identity_start": True,
        }
    )
    evaluations: Positive = 8
    cache_images: bool = True
    loader_workers: Processes = 0


class BenchmarkOptions(Strict):
    """A whole option file of ``basicsr benchmark``.

    Attributes:
        name: Of the benchmark; its folder.
        title: For the report.
        task: See `Task`.
        pairs: Numbers of labelled pairs to compare, the validation pairs included; ``all`` takes what there is.
        validation_pairs: How many of them are held out to choose on; ``auto``: a fifth, at least 3, at most 10.
        seeds: Each seed draws other pairs, photographs and initial weights.
        systems: Rows by name. A name of `PRESETS` may stand with nothing, or with changes.
        settings: Of all systems; keys of `Settings`.
        search_repetitions: On how many repetitions the candidates of a search are compared.
        paper_setting: The system that is the paper's own setting.
        pictures: Test images shown in the report.
        imports: Modules of the user's own that register networks and losses.
        out: Folder; default ``benchmark_results/<name>``, beside a cache that all benchmarks there share.
    """

    name: Name
    task: Task
    pairs: Annotated[list[Positive | Literal["all"]], msgspec.Meta(min_length=1)]
    systems: dict[str, Any]
    title: str | None = None
    seeds: Annotated[list[Count], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [0, 1, 2])
    validation_pairs: Positive | Literal["auto"] = "auto"
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    search_repetitions: Positive = 2
    paper_setting: str = "paper"
    pictures: Count = 4
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
    if "model_type" in values or "task" not in values:
        source.fail((), "this is no option file of `basicsr benchmark` (it has no section 'task').")
    check_section(values, BenchmarkOptions, source)
    options = msgspec.convert(values, BenchmarkOptions)
    for key in ("photographs", "dataroot_lq", "dataroot_gt", "test_lq", "test_gt"):
        folder = getattr(options.task, key)
        if folder is not None:
            setattr(options.task, key, os.path.expanduser(folder))
            if not os.path.isdir(getattr(options.task, key)):
                source.fail(("task", key), f"there is no folder {folder}.")
    _check_task(options.task, source)
    check_settings(options.settings, source, ("settings",))
    systems: dict[str, Any] = {}
    for name, given in options.systems.items():
        systems[name] = _system(name, given, source)
        check_settings(systems[name].settings, source, ("systems", name, "settings"))
        for key, candidates in systems[name].search.items():
            for candidate in candidates:
                check_settings({key: candidate}, source, ("systems", name, "search"))
    options.systems = systems
    if "paper_setting" in values and options.paper_setting not in systems:
        hint = nearest(options.paper_setting, systems)
        source.fail(("paper_setting",), f"'{options.paper_setting}' is none of the systems{hint}")
    for key in ("pairs", "seeds"):
        if len(set(getattr(options, key))) < len(getattr(options, key)):
            source.fail((key,), "a number stands there twice; each is taken once.")
    labels = [system.label for system in systems.values()]
    for name, system in systems.items():
        if labels.count(system.label) > 1:
            source.fail(("systems", name), f"another system has the label '{system.label}'; give them different ones.")
    if options.task.type == "simulation" and "all" in options.pairs:
        source.fail(("pairs",), "'all' is for tasks of the type 'pairs'; give numbers.")
    if not any(s.kind == "supervised" for s in systems.values()):
        source.fail(("systems",), "without a supervised system (such as 'supervised') there is nothing to gain over.")
    return options


def _check_task(task: Task, source: Source) -> None:
    if task.look not in LOOKS:
        source.fail(("task", "look"), f"no look '{task.look}'{nearest(task.look, LOOKS)} Known: {', '.join(LOOKS)}.")
    of_pairs = ("dataroot_lq", "dataroot_gt", "test_lq", "test_gt", "folds")
    if task.type == "simulation":
        for key in of_pairs:
            if getattr(task, key) is not None:
                source.fail(("task", key), "a task of the type 'simulation' makes its own pairs; leave it out.")
        return
    for key, default in ((f.encode_name, f.default) for f in msgspec.structs.fields(Task)):
        if key in ("simulate", "exposure", "look", "noise", "tests") and getattr(task, key) != default:
            source.fail(("task", key), "a task of the type 'pairs' simulates nothing; leave it out.")
    for key in ("dataroot_lq", "dataroot_gt", "photographs"):
        if getattr(task, key) is None:
            source.fail(("task",), f"a task of the type 'pairs' needs the key '{key}'.")
    if (task.test_lq is None) != (task.test_gt is None) or (task.test_lq is None) == (task.folds is None):
        source.fail(("task",), "give test_lq and test_gt, or folds for cross-validation over the labelled pairs.")


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
    if given.get("search") is not None:
        base.pop("search", None)
    merged = {**base, **given, "settings": {**base.get("settings", {}), **(given.get("settings") or {})}}
    check_section(merged, System, source, ("systems", name))
    system = msgspec.convert(merged, System)
    system.label = system.label or name
    return system


def check_settings(values: dict[str, Any], source: Source, keys: Sequence[str]) -> None:
    """Check settings against `Settings`."""
    check_section(values, Settings, source, keys)
    network = values.get("network")
    if network is not None:
        where = (*keys, "network")
        options_module.check_network(network, source, where)
