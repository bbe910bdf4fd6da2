"""Option files of ``basicsr benchmark``: what is compared, on which data, how often."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from semiisp_plugin import options as options_module
from semiisp_plugin.experiments.phases import PhaseSettings
from semiisp_plugin.options import OptionError, Source, check_section, nearest, read_options
from semiisp_plugin.simulation.look import LOOKS
from semiisp_plugin.toolbox import ARCH_REGISTRY

Kind = Literal["f_isp", "supervised", "pseudo_only", "mean_teacher", "semi"]
Group = Literal["f_isp", "baseline", "method", "ablation", "source", "ratio", "beta", "help"]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A section whose keys are all known."""


class Task(_Strict):
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
    folds: Annotated[int, msgspec.Meta(ge=2)] | None = None
    image_enhancement: bool = False
    short_side: Annotated[int, msgspec.Meta(ge=32)] | None = None
    max_photographs: _Positive | None = None
    simulate: Literal["raw", "lowlight"] = "raw"
    exposure: tuple[float, float] = (-1.5, 0.5)
    look: str = "default"
    noise: bool = False
    tests: _Positive = 20
    description: str = ""
    paper_task: str | None = None


class System(_Strict):
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


class BenchmarkOptions(_Strict):
    """A whole option file of ``basicsr benchmark``.

    Attributes:
        name: Of the benchmark; its folder.
        title: For the report.
        task: See `Task`.
        pairs: Numbers of labelled pairs to compare, the validation pairs included; ``all`` takes what there is.
        validation_pairs: How many of them are held out to choose on; ``auto``: a fifth, at least 3, at most 10.
        seeds: Each seed draws pairs, photographs and initial weights anew.
        systems: Rows by name. A name of `PRESETS` may stand with nothing, or with changes.
        settings: Of all systems; keys of `Settings`.
        search_repetitions: On how many repetitions the candidates of a search are compared.
        paper_setting: The system that is the paper's own setting.
        pictures: Test images shown in the report.
        imports: Modules of the user's own that register networks and losses.
        out: Folder; default ``benchmark_results/<name>``, beside a cache that all benchmarks there share.
    """

    name: str
    task: Task
    pairs: Annotated[list[_Positive | Literal["all"]], msgspec.Meta(min_length=1)]
    systems: dict[str, Any]
    title: str | None = None
    seeds: Annotated[list[_Count], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [0, 1, 2])
    validation_pairs: _Positive | Literal["auto"] = "auto"
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    search_repetitions: _Positive = 2
    paper_setting: str = "paper"
    pictures: _Count = 4
    imports: list[str] = msgspec.field(default_factory=list)
    out: str | None = None


class Settings(_Strict):
    """Everything that a system can be run with; the attributes of `PhaseSettings`, and these.

    Attributes:
        length: Of systems that train the target in one go, as a share of the iterations of phases 2 and 3 together.
        isp_early_stop: Take the f_ISP of the best validation PSNR instead of the last one (ours).
        source: sRGB-to-RAW method: ``bank`` (the paper's), ``mixture`` (ours), ``upi``, ``deterministic``.
        sets: ``auto``, ``global`` (whole ISP) or ``local`` (per function).
        update_quality: USQ, steps 1 and 2 of the pseudo-data.
        draws: Pseudo pairs a photograph.
        candidates: Inputs that step 3 makes of each pseudo ground truth, to keep the most consistent (ours).
        real_share: Real samples as a share of the batch of phase 2, in place of N_r : N_p; at least one of each.
        noise: ``none``, ``paper`` (bounds of Sec. A.3), or ``estimated`` from the labelled inputs (ours).
        cache_images: Keep decoded images in memory; switch it off where they do not fit.
        loader_workers: Processes that read images in a training.
        fine_tune: Whether phase 3 follows phase 2 (where it has iterations); the systems that train in one go take its
            iterations in any case.
        augment: Photometric jitter of the inputs in supervised training, phase 3 included (there it is ours); 0 for
            none.
    """

    size: tuple[_Positive, _Positive] = (64, 96)
    isp_iterations: _Positive = 400
    isp_lr: float = 3e-3
    isp_batch: _Positive = 4
    isp_loss: Literal["mse", "pooled_l1"] = "mse"
    isp_grid: tuple[_Positive, _Positive] = (2, 2)
    isp_thumbnail: _Positive = 64
    isp_dropout: float = 0.0
    isp_weight_decay: float = 0.01
    isp_jitter: float | None = None
    isp_early_stop: bool = False
    source: Literal["bank", "mixture", "fitted", "upi", "deterministic"] = "bank"
    sets: Literal["auto", "global", "local"] = "auto"
    update_quality: bool = True
    draws: _Positive = 1
    candidates: _Positive = 1
    semi_iterations: _Positive = 480
    fine_iterations: _Count = 120
    fine_tune: bool = True
    length: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    real_per_batch: _Positive = 2
    pseudo_per_batch: _Positive = 8
    real_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    beta: float = 1.0
    reference: Literal["batch", "running"] = "batch"
    warmup: _Count = 0
    noise: Literal["none", "paper", "estimated"] = "none"
    lr: float = 1e-3
    fine_lr: float = 2e-4
    ema_decay: float = 0.0
    augment: float = 0.0
    loss: Literal["mse", "mse_ssim"] = "mse"
    network: dict[str, Any] = msgspec.field(default_factory=lambda: dict(PhaseSettings().network))
    evaluations: _Positive = 8
    cache_images: bool = True
    loader_workers: _Count = 0


_LENGTHS = [0.1, 0.3]
_RATES = [1e-3, 3e-3]
_STRENGTHS = [0.1, 0.3]

PRESETS: dict[str, System] = {
    "f_isp": System(kind="f_isp", label="f_ISP alone", group="f_isp", description="Phase 1's local network itself."),
    "f_isp_jitter": System(
        kind="f_isp",
        label="f_ISP alone, trained with jitter",
        group="f_isp",
        ours=True,
        description="The f_ISP of `auto`: brightness and saturation of its inputs multiplied by random factors.",
        settings={"isp_jitter": 0.2},
    ),
    "supervised": System(
        kind="supervised",
        label="supervised",
        group="baseline",
        description="The labelled pairs alone; as many iterations as the method in all.",
        search={"lr": [3e-4, *_RATES]},
    ),
    "supervised_jitter": System(
        kind="supervised",
        label="supervised + photometric jitter",
        group="baseline",
        description="Brightness and saturation of the inputs multiplied by random factors.",
        settings={"augment": 0.2},
        search={"lr": _RATES, "augment": _STRENGTHS},
    ),
    "supervised_length": System(
        kind="supervised",
        label="supervised, shorter",
        group="baseline",
        description="A tenth or three tenths of the iterations, chosen with the learning rate on the validation pairs.",
        search={"lr": _RATES, "length": _LENGTHS},
    ),
    "supervised_jitter_length": System(
        kind="supervised",
        label="supervised + jitter, shorter",
        group="baseline",
        description="Length, learning rate and strength of the jitter chosen on the validation pairs.",
        search={"lr": _RATES, "length": _LENGTHS, "augment": _STRENGTHS},
    ),
    "pseudo_only": System(
        kind="pseudo_only",
        label="pseudo pairs alone",
        group="baseline",
        description="Supervised training on the pseudo pairs; no real pair.",
    ),
    "mean_teacher": System(
        kind="mean_teacher",
        label="mean teacher",
        group="baseline",
        ours=True,
        description="An averaged teacher labels the pseudo inputs; the pseudo ground truths are not used.",
    ),
    "paper": System(
        kind="semi", label="semi-supervised", description="The method as in the paper: beta 1, then phase 3."
    ),
    "before_fine": System(
        kind="semi",
        label="semi-supervised, before fine-tuning",
        description="Phases 1 and 2.",
        settings={"fine_iterations": 0},
    ),
    "auto": System(
        kind="semi",
        label="semi-supervised, auto",
        ours=True,
        description=(
            "With what was found to help: f_ISP trained with photometric jitter, four pseudo pairs a photograph, the "
            "filter at four times a running mean of the real loss, noise as estimated from the labelled inputs; the "
            "share of real samples in a batch, whether the most consistent of four pseudo inputs is taken, and whether "
            "to fine-tune, chosen on the validation pairs."
        ),
        settings={"isp_jitter": 0.2, "draws": 4, "beta": 4.0, "reference": "running", "noise": "estimated"},
        search={"real_share": [0.2, 0.5], "candidates": [1, 4], "fine_tune": [True, False]},
    ),
    "auto_fixed": System(
        kind="semi",
        label="semi-supervised, fixed settings",
        ours=True,
        description=(
            "f_ISP trained with photometric jitter, four pseudo pairs a photograph, the filter at twice a running mean "
            "of the real loss, noise as estimated from the labelled inputs."
        ),
        settings={"isp_jitter": 0.2, "draws": 4, "beta": 2.0, "reference": "running", "noise": "estimated"},
    ),
    "paper_denoising": System(
        kind="semi",
        label="semi-supervised, with denoising",
        description=(
            "Sec. 3.4 and A.3 (pooled L1 loss for f_ISP, noise of eq. 15, MSE + SSIM loss), beta 1.2 (Table 6)."
        ),
        settings={"isp_loss": "pooled_l1", "noise": "paper", "loss": "mse_ssim", "beta": 1.2},
    ),
    "no_opf": System(
        kind="semi",
        label="without the filter (OPF)",
        group="ablation",
        description="No pseudo pair is dropped (Table 2).",
        settings={"beta": float("inf")},
    ),
    "no_usq": System(
        kind="semi",
        label="without updating quality (USQ)",
        group="ablation",
        description="The photographs themselves are the pseudo ground truths (Table 2).",
        settings={"update_quality": False},
    ),
    "per_function": System(
        kind="semi",
        label="sets per function",
        group="source",
        description="Local sets drawn per function, as the paper does from 1,000 pairs on.",
        settings={"sets": "local"},
    ),
    "upi": System(
        kind="semi",
        label="UPI",
        group="source",
        description="Hand-made inverse ISP with random parameters (Table 3).",
        settings={"source": "upi"},
    ),
    "deterministic": System(
        kind="semi",
        label="deterministic inverse",
        group="source",
        ours=True,
        description="f_ISP inverted with the bank's mean set (stands in for Table 3's one-to-one methods).",
        settings={"source": "deterministic"},
    ),
}
for _real in (1, 5, 8):
    PRESETS[f"ratio_{_real}_{10 - _real}"] = System(
        kind="semi",
        label=f"N_r : N_p = {_real} : {10 - _real}",
        group="ratio",
        description="Figure 5, left: real and pseudo samples in batches of 10.",
        settings={"real_per_batch": _real, "pseudo_per_batch": 10 - _real},
    )
for _beta in (0.5, 2.0, 4.0):
    PRESETS[f"beta_{_beta:g}"] = System(
        kind="semi",
        label=f"beta = {_beta:g}",
        group="beta",
        description="Figure 5, right: the filter's threshold.",
        settings={"beta": _beta},
    )


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
        arch = options_module.registered(network, ARCH_REGISTRY, "network", source, where)
        options_module.check_call(network, arch, source, where)


__all__ = [
    "PRESETS",
    "BenchmarkOptions",
    "OptionError",
    "Settings",
    "System",
    "Task",
    "complete_benchmark_options",
    "load_benchmark_options",
]
