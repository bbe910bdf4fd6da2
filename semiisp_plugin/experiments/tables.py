"""The paper's tables and figures as benchmarks: ``basicsr benchmark table3 --size cpu``.

Each is a set of options like the files of ``options/benchmarks``, put together here, of one of three sizes:

* ``cpu``: small networks and crops; real pairs of other tasks that are at hand, and the simulated camera; an hour or
  two on two cores. The paper's figures stand beside for orientation alone.
* ``gpu``: the paper's tasks with its fewest pairs, as `basicsr prepare` lays them out, and its networks, on pictures
  of half the side, in a tenth of the iterations.
* ``paper``: the same at the size and length of the paper (Tables 5 and 6).

All systems of a table have one budget, which makes them comparable (ours). The networks' own recipes, and the other
numbers of pairs, are those of `basicsr recipe`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from semiisp_plugin.data.table6 import DENOISING, PAPER_BATCH, settings_for
from semiisp_plugin.experiments.benchmark_options import PRESETS, BenchmarkOptions, Rival, complete_benchmark_options
from semiisp_plugin.experiments.paper_settings import DENOISING_CROP, MODELS, SEMI_ITERATIONS, SEMI_LR, TABLE_5, TASKS
from semiisp_plugin.options import Source
from semiisp_plugin.options.reading import apply_overrides

Size = Literal["cpu", "gpu", "paper"]
SIZES: tuple[Size, ...] = ("cpu", "gpu", "paper")
_PAIRS = 100
_TENTH = 10

# --- data -------------------------------------------------------------------------------------------------------------

_COCO = "datasets/coco/images"
_CPU_TASKS: dict[str, dict[str, Any]] = {
    "simulated": {
        "type": "simulation",
        "title": "simulated RAW to sRGB",
        "description": "COCO photographs through a simulated camera and a retouching look; 240x320 pixels.",
        "pairs": [16],
        "photographs": _COCO,
    },
    "fivek_ie": {
        "type": "pairs",
        "title": "FiveK image enhancement",
        "description": "27 photographs of MIT-Adobe FiveK and an expert's retouch; 340x512 pixels.",
        "pairs": [16],
        "dataroot_lq": ["datasets/fivek_ie_15/input", "datasets/fivek_ie_12_more/input"],
        "dataroot_gt": ["datasets/fivek_ie_15/target", "datasets/fivek_ie_12_more/target"],
        "photographs": _COCO,
        "image_enhancement": True,
    },
    "lolv1": {
        "type": "pairs",
        "title": "LOLv1",
        "description": "120 dark photographs and well-lit ones of the same scene; 400x600 pixels.",
        "pairs": [16],
        "dataroot_lq": ["datasets/lolv1_100/our485/low", "datasets/lolv1_100/val20/low"],
        "dataroot_gt": ["datasets/lolv1_100/our485/high", "datasets/lolv1_100/val20/high"],
        "photographs": _COCO,
        "image_enhancement": True,
    },
    "underwater": {
        "type": "pairs",
        "title": "underwater (LSUI)",
        "description": "260 underwater photographs and their references; 240x320 to 1024x1280 pixels.",
        "pairs": [16],
        "dataroot_lq": ["datasets/lsui_260/train/input", "datasets/lsui_260/test/input"],
        "dataroot_gt": ["datasets/lsui_260/train/target", "datasets/lsui_260/test/target"],
        "photographs": _COCO,
        "image_enhancement": True,
    },
}
_CPU_SIDE = 72  # of the pictures that f_ISP is trained on


def _paper_task(name: str, size: Size) -> dict[str, Any]:
    """A task of the paper, as `basicsr prepare` lays it out."""
    task = TASKS[name]
    return {
        "type": "pairs",
        "title": task.title,
        "pairs": [task.paper_amounts[0]],
        "dataroot_lq": f"datasets/{name}/train/lq.lmdb",
        "dataroot_gt": f"datasets/{name}/train/gt.lmdb",
        "test_lq": f"datasets/{name}/test/lq.lmdb",
        "test_gt": f"datasets/{name}/test/gt.lmdb",
        "photographs": "datasets/coco/train2017",
        "image_enhancement": not task.raw,
        "short_side": task.size.value[0] // 2 if size == "gpu" else None,
        "paper_task": task.paper,
    }


# --- settings ---------------------------------------------------------------------------------------------------------


def _settings(size: Size, task: str) -> dict[str, Any]:
    """The budget of all systems: Tables 5 and 6 at the size ``paper``."""
    if size == "cpu":
        return {
            "size": [60, 60],
            "isp_iterations": 2000,
            "isp_lr": 1e-3,
            "semi_iterations": 1200,
            "fine_iterations": 300,
            "draws": 4,
        }
    described = TASKS[task]
    noisy = described.denoising.value
    isp = TABLE_5["w/ denoising" if noisy else "<= 100"]
    semi = DENOISING if noisy else settings_for(_PAIRS, denoising=False)
    part = _TENTH if size == "gpu" else 1
    height, width = (DENOISING_CROP, DENOISING_CROP) if noisy else described.size.value
    return {
        "size": [height // 2, width // 2] if size == "gpu" and not noisy else [height, width],
        "isp_grid": [8, 8],
        "isp_thumbnail": 256,
        "isp_loss": "pooled_l1" if isp.pooled_l1 else "mse",
        "isp_iterations": isp.iterations // part,
        "isp_lr": isp.lr * part,  # a tenth of the steps, ten times as long (ours)
        "isp_batch": isp.batch,
        "semi_iterations": SEMI_ITERATIONS // part,
        "fine_iterations": SEMI_ITERATIONS // (2 * part),  # half, as Sec. A.3 halves the networks' own
        "lr": SEMI_LR * (part if part == 1 else 3),
        "fine_lr": SEMI_LR,
        "real_per_batch": semi.real,
        "pseudo_per_batch": PAPER_BATCH - semi.real,
        "beta": semi.beta,
        "noise": "paper" if noisy else "none",
        "loss": "mse_ssim" if noisy else "mse",
        "cache_images": False,
        "loader_workers": 4,
    }


# --- networks ---------------------------------------------------------------------------------------------------------

_LOCAL = {"full_size": [64, 64]}  # such networks see what is around a pixel, and train on crops at full resolution
_CPU_NETWORKS: dict[str, dict[str, Any]] = {
    "seplut": {
        "network": {"type": "SepLUT", "n_vertices_3d": 9, "n_vertices_1d": 9, "thumbnail": 64, "identity_start": True}
    },
    "nafnet_s": {
        "network": {
            "type": "NAFNet",
            "width": 8,
            "enc_blk_nums": [1, 1, 1],
            "middle_blk_num": 1,
            "dec_blk_nums": [1, 1, 1],
        },
        **_LOCAL,
    },
    "pqdynamicisp": {"network": "f_isp", "warm_start": True},
    "imageadaptive3dlut": {
        "network": {"type": "ImageAdaptive3DLUT", "thumbnail": 64, "n_vertices": 17, "identity_start": True}
    },
    "adaint": {"network": {"type": "AdaInt", "thumbnail": 64, "n_vertices": 17, "identity_start": True}},
    "lutwithbgrid": {"network": {"type": "LUTwithBGrid", "thumbnail": 64, "n_vertices": 9, "identity_start": True}},
    "csrnet": {"network": {"type": "CSRNet", "num_feat": 16, "condition_feat": 8, "thumbnail": 64}},
    "hdrnet": {
        "network": {"type": "HDRNet", "luma_bins": 4, "spatial_bin": 8, "thumbnail": 64, "identity_start": True}
    },
    "llf_lut": {
        "network": {
            "type": "LLFLUT",
            "num_lap": 3,
            "n_vertices": 9,
            "embed_dim": 8,
            "heads": [1, 2, 4],
            "filter_feat": 16,
            "identity_start": True,
        },
        **_LOCAL,
    },
    "syenet": {"network": {"type": "SYENet"}, **_LOCAL},
    "namedcurves": {"network": {"type": "NamedCurves", "skip_feat": 16, "curve_feat": 16}, **_LOCAL},
    "microisp": {"network": {"type": "MicroISP"}, **_LOCAL},
    "cidnet": {"network": {"type": "CIDNet", "channels": [12, 12, 24, 48], "heads": [1, 2, 4]}, **_LOCAL},
    "snr_aware": {
        "network": {"type": "SNRAware", "num_feat": 16, "num_block": 2, "layers": 2, "heads": 4, "head_feat": 16},
        **_LOCAL,
    },
    "llflow": {
        "network": {
            "type": "LLFlow",
            "num_feat": 16,
            "num_block": 2,
            "num_grow_ch": 8,
            "stacked": [0],
            "levels": 2,
            "flow_steps": 4,
            "hidden_feat": 16,
        },
        **_LOCAL,
    },
    "retinexformer": {"network": {"type": "Retinexformer", "n_feat": 8, "num_blocks": [1, 1, 1]}, **_LOCAL},
    "llformer": {
        "network": {
            "type": "LLFormer",
            "dim": 8,
            "num_blocks": [1, 1, 1],
            "num_refinement_blocks": 1,
            "heads": [1, 2, 4],
        },
        **_LOCAL,
    },
}
"""Settings of each network, by its key in `MODELS`: of CPU size, as those of `networks_cpu.yml`."""


def _network(name: str, size: Size, task: str) -> dict[str, Any]:
    """The settings that make a network the target."""
    if size == "cpu":
        return copy.deepcopy(_CPU_NETWORKS[name])
    if name == "pqdynamicisp":
        return {"network": "f_isp"}
    return {"network": dict(MODELS[name].network(TASKS[task]).value)}


def _alone(name: str, size: Size, task: str, **settings: Any) -> dict[str, Any]:
    """A network on the pairs alone, for as long as the method trains."""
    label = f"{MODELS[name].title}, pairs alone"
    return {
        "kind": "supervised",
        "group": "supervised",
        "label": label,
        "settings": {**_network(name, size, task), **settings},
    }


def _semi(name: str, size: Size, task: str, label: str, group: str = "method", **settings: Any) -> dict[str, Any]:
    """A network trained by the method."""
    return {
        "kind": "semi",
        "group": group,
        "label": f"{MODELS[name].title}, {label}",
        "settings": {**_network(name, size, task), **settings},
    }


# --- sources of pseudo inputs -----------------------------------------------------------------------------------------

_SOURCES = {"CycleISP": "cycleisp", "SRISP-like": "srisp", "RAWDiffusion": "rawdiffusion", "InvISP": "invisp"} | {
    "ReRAW": "reraw"
}
"""Learned sources by their names in Tables 3 and 7, which lack InvISP, and their CPU forms in `PRESETS`."""


_SOURCE_CROPS = {"CycleISP": 128, "SRISP-like": 256, "RAWDiffusion": 256, "InvISP": 256, "ReRAW": 256}
"""Sides of their training crops at other sizes than ``cpu``, as published; ReRAW's and SRISP's are ours."""


def _sources(size: Size) -> dict[str, dict[str, Any]]:
    """Settings of all sources."""
    learned = {}
    for label, preset in _SOURCES.items():
        settings = copy.deepcopy(PRESETS[preset].settings)
        if size != "cpu":
            kept = ("type", "from_target")  # all else makes it small
            settings["source_network"] = {k: v for k, v in settings["source_network"].items() if k in kept}
            if label == "SRISP-like":
                settings["source_network"]["thumbnail"] = 256  # f_ISP's
            settings["source_size"] = [_SOURCE_CROPS[label]] * 2
            settings["source_iterations"] = 70_000 // (
                1 if size == "paper" else _TENTH
            )  # RAWDiffusion's, for all (ours)
            settings["source_lr"] = (1e-3 if label == "ReRAW" else 1e-4) * (1 if size == "paper" else 3)
        learned[label] = settings
    return {"UPI": {"source": "upi"}, **learned, "f_ISP": {}}


def _compare_sources(targets: Sequence[str]) -> Callable[[Size, str], dict[str, dict[str, Any]]]:
    """Each target on the pairs alone, and with each source of pseudo inputs."""

    def systems(size: Size, task: str) -> dict[str, dict[str, Any]]:
        made = {}
        for target in targets:
            made[target] = _alone(target, size, task)
            for source, settings in _sources(size).items():
                group = "method" if source == "f_ISP" else "source"
                made[f"{target}_{_key(source)}"] = _semi(target, size, task, source, group, **settings)
                made[f"{target}_{_key(source)}"]["ours"] = source == "SRISP-like"
        return made

    return systems


def _key(label: str) -> str:
    return label.lower().replace("-", "_").replace(" ", "_")


def _source_contrasts(targets: Sequence[str]) -> list[dict[str, Any]]:
    """Each source against none; f_ISP's against the strongest of the others."""
    made = []
    for target in targets:
        title = MODELS[target].title
        names = {source: f"{target}_{_key(source)}" for source in _sources("paper")}
        made += [{"title": f"{title}: {s} minus pairs alone", "of": key, "over": [target]} for s, key in names.items()]
        of = names.pop("f_ISP")
        others = {"title": f"{title}: f_ISP minus the strongest other source", "of": of, "over": list(names.values())}
        made.append(others)
    return made


def _table2(size: Size, task: str) -> dict[str, dict[str, Any]]:
    """OPF and USQ on and off, for three sources."""
    target = "pqdynamicisp"
    parts = {
        "neither OPF nor USQ": (False, False),
        "OPF": (True, False),
        "USQ": (False, True),
        "OPF and USQ": (True, True),
    }
    systems = {target: _alone(target, size, task)}
    for source in ("UPI", "ReRAW", "f_ISP"):
        for name, (filtered, updated) in parts.items():
            if source != "f_ISP" and filtered != updated:
                continue  # the paper has one of both of its own source alone
            changes: dict[str, Any] = {} if filtered else {"beta": float("inf")}
            changes |= {} if updated else {"update_quality": False}
            group = "method" if source == "f_ISP" and not changes else "ablation"
            settings = {**_sources(size)[source], **changes}
            systems[f"{_key(source)}_{_key(name)}"] = _semi(target, size, task, f"{source}, {name}", group, **settings)
    return systems


def _both_ways(trained_both: Sequence[str], alone: Sequence[str]) -> Callable[[Size, str], dict[str, dict[str, Any]]]:
    """Networks on the pairs alone, and some of them by the method too."""

    def systems(size: Size, task: str) -> dict[str, dict[str, Any]]:
        made = {name: _alone(name, size, task) for name in (*alone, *trained_both)}
        made |= {f"{name}_semi": _semi(name, size, task, "semi-supervised") for name in trained_both}
        return made

    return systems


def _low_light(size: Size, task: str) -> dict[str, dict[str, Any]]:
    """Networks, and the method beside other semi-supervised ones: of CPU size f_ISP's own network."""
    if size != "cpu":
        made = _both_ways(_LOW_LIGHT, ("llflow", "snr_aware", "cidnet"))(size, task)
        latent = {"latent": "body.0.denoiser.bottleneck"}
        rivals = {name: _rival(name, "retinexformer", size, task, latent) for name in get_args(Rival)}
        return made | rivals
    target = "pqdynamicisp"
    made = {target: _alone(target, size, task), f"{target}_semi": _semi(target, size, task, "semi-supervised")}
    both = _semi(target, size, task, "semi-supervised, with unlabelled inputs", consistency=True)
    made[f"{target}_both"] = {**both, "ours": True}
    return made | {name: _rival(name, target, size, task, {}) for name in get_args(Rival)}


def _rival(name: str, target: str, size: Size, task: str, latent: Mapping[str, Any]) -> dict[str, Any]:
    preset = PRESETS[name]
    settings = {**_network(target, size, task), **(latent if name == "latent_teacher" else {})}
    label = f"{MODELS[target].title}, {preset.label}"
    return {**msgspec.to_builtins(preset), "label": label, "settings": settings}


def _gains(names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"title": f"{MODELS[name].title}: semi-supervised minus pairs alone", "of": f"{name}_semi", "over": [name]}
        for name in names
    ]


_RATIOS: Mapping[Size, tuple[int, ...]] = {"cpu": (1, 4, 6, 8), "gpu": (4, 6, 10, 16), "paper": (4, 6, 10, 16)}
"""Real samples in a batch of 10, or of the paper's 20, beside 2. The figure's own numbers are not legible: ours."""
_BETAS = (0.5, 0.8, 1.2, 1.5, 2.0, float("inf"))
"""Thresholds, beside 1; likewise."""


def _figure5(size: Size, task: str) -> dict[str, dict[str, Any]]:
    """The share of real samples in a batch, and the filter's threshold; each alone is changed."""
    target, total = "pqdynamicisp", 10 if size == "cpu" else PAPER_BATCH
    systems = {target: _alone(target, size, task)}
    systems["base"] = _semi(target, size, task, f"2 real of {total}, beta 1")
    for real in _RATIOS[size]:
        mix = {"real_per_batch": real, "pseudo_per_batch": total - real}
        systems[f"real_{real}"] = _semi(target, size, task, f"{real} real of {total}", "ablation", **mix)
    for beta in _BETAS:
        systems[_beta_key(beta)] = _semi(target, size, task, f"beta {beta:g}", "ablation", beta=beta)
    return systems


def _beta_key(beta: float) -> str:
    return f"beta_{beta}".replace(".", "_")


def _figure5_contrasts(size: Size) -> list[dict[str, Any]]:
    """The method's two real samples and threshold of 1 against none, and each other value against them."""
    ratios = {f"{real} real of a batch": f"real_{real}" for real in _RATIOS[size]}
    betas = {f"beta {beta:g}": _beta_key(beta) for beta in _BETAS}
    others = [
        {"title": f"{title} minus 2 real, beta 1", "of": key, "over": ["base"]}
        for title, key in (ratios | betas).items()
    ]
    return [{"title": "2 real of a batch, beta 1, minus pairs alone", "of": "base", "over": ["pqdynamicisp"]}, *others]


# --- the tables -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """A table or figure of the paper.

    Attributes:
        title: Of the benchmark.
        systems: Its rows, by the size and the task.
        tasks: Keys of `TASKS`, at the sizes ``gpu`` and ``paper``; all have one budget.
        cpu: Keys of `_CPU_TASKS`.
        contrasts: Fixed before it is run.
        cpu_contrasts: In place of ``contrasts`` at the size ``cpu``.
        unlabelled: Unlabelled inputs at the size ``cpu``.
        settings: Of all systems, at all sizes.
    """

    title: str
    systems: Callable[[Size, str], dict[str, dict[str, Any]]]
    tasks: tuple[str, ...]
    cpu: tuple[str, ...]
    contrasts: Sequence[Mapping[str, Any]] = ()
    cpu_contrasts: Sequence[Mapping[str, Any]] | None = None
    unlabelled: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


_PQ = ("pqdynamicisp",)
_THREE = ("nafnet_s", "seplut", "pqdynamicisp")
_ISP = ("microisp", "hdrnet", "imageadaptive3dlut", "syenet", "adaint", "llf_lut", "lutwithbgrid")
_IE = ("hdrnet", "imageadaptive3dlut", "csrnet", "adaint", "namedcurves", "lutwithbgrid")
_LOW_LIGHT = ("llformer", "retinexformer")
_OF_SEMI = [
    {"title": f"PQDynamicISP: {title} minus pairs alone", "of": of, "over": ["pqdynamicisp"]}
    for of, title in (
        ("pqdynamicisp_semi", "semi-supervised"),
        ("pqdynamicisp_both", "semi-supervised, with unlabelled inputs,"),
        *((name, str(PRESETS[name].label)) for name in get_args(Rival)),
    )
]
_OF_SEMI.append(
    {
        "title": "PQDynamicISP: semi-supervised minus the strongest other method",
        "of": "pqdynamicisp_semi",
        "over": list(get_args(Rival)),
    }
)
_LOL = _Table(
    "Low light: supervised and semi-supervised",
    _low_light,
    ("lolv1",),
    ("lolv1", "underwater"),
    _gains(_LOW_LIGHT),
    cpu_contrasts=_OF_SEMI,
    unlabelled=40,
    settings={"ema_decay": 0.99},  # teachers are averages: so is what is tested of all
)
TABLES: Mapping[str, _Table] = {
    "table1": _Table(
        "Table 1: ISP, supervised and semi-supervised",
        _both_ways(_THREE, _ISP),
        ("fivek_tone_mapping", "fivek_general_isp"),
        ("simulated",),
        _gains(_THREE),
    ),
    "table2": _Table(
        "Table 2: the filter (OPF) and updating the quality (USQ)",
        _table2,
        ("fivek_tone_mapping",),
        ("simulated", "fivek_ie", "underwater"),
        [
            {
                "title": "OPF and USQ minus neither, f_ISP",
                "of": "f_isp_opf_and_usq",
                "over": ["f_isp_neither_opf_nor_usq"],
            },
            {"title": "OPF and USQ minus OPF, f_ISP", "of": "f_isp_opf_and_usq", "over": ["f_isp_opf"]},
            {"title": "OPF and USQ minus USQ, f_ISP", "of": "f_isp_opf_and_usq", "over": ["f_isp_usq"]},
            {"title": "OPF and USQ minus pairs alone, f_ISP", "of": "f_isp_opf_and_usq", "over": ["pqdynamicisp"]},
        ],
    ),
    "table3": _Table(
        "Table 3: sources of pseudo inputs",
        _compare_sources(_PQ),
        ("fivek_tone_mapping",),
        ("simulated", "fivek_ie", "underwater"),
        _source_contrasts(_PQ),
    ),
    "table4": _LOL,
    "table7": _Table(
        "Table 7: sources of pseudo inputs for three networks",
        _compare_sources(_THREE),
        ("fivek_tone_mapping", "fivek_general_isp"),
        ("simulated",),
        _source_contrasts(_THREE),
    ),
    "table8": _Table(
        "Table 8: image enhancement, supervised and semi-supervised",
        _both_ways(_THREE, _IE),
        ("fivek_ie",),
        ("fivek_ie",),
        _gains(_THREE),
    ),
    "table9": _LOL,
    "figure4": _Table(
        "Figure 4: what sources draw",
        _compare_sources(_PQ),
        ("fivek_tone_mapping",),
        ("simulated",),
    ),
    "figure5": _Table(
        "Figure 5: real and pseudo samples in a batch, and the filter's threshold",
        _figure5,
        ("fivek_tone_mapping",),
        ("simulated", "underwater"),
        _figure5_contrasts("paper"),
        cpu_contrasts=_figure5_contrasts("cpu"),
    ),
}
"""By the names that ``basicsr benchmark`` knows."""


def table_options(name: str, size: Size, overrides: Sequence[str] = ()) -> BenchmarkOptions:
    """The options of a table of the paper.

    Args:
        name: A key of `TABLES`.
        size: See the module.
        overrides: ``--force_yml`` entries.

    Raises:
        OptionError: An override, or the data, which is not where it should be; the message names the folder.
    """
    table = TABLES[name]
    task = table.tasks[0]
    if size == "cpu":
        tasks = {key: {"short_side": _CPU_SIDE, **copy.deepcopy(_CPU_TASKS[key])} for key in table.cpu}
        for of_task in tasks.values():
            of_task.update({"unlabelled": table.unlabelled} if table.unlabelled else {})
    else:
        tasks = {key: _paper_task(key, size) for key in table.tasks}
    contrasts = table.cpu_contrasts if size == "cpu" and table.cpu_contrasts is not None else table.contrasts
    values: dict[str, Any] = {
        "name": f"{name}_{size}",
        "title": table.title,
        "paper_table": name,
        "seeds": [0, 1, 2] if size == "cpu" else [0],
        "tasks": tasks,
        "settings": {**_settings(size, task), **table.settings},
        "systems": table.systems(size, task),
        "contrasts": [dict(contrast) for contrast in contrasts],
    }
    source = Source(f"{name} of size {size}")
    apply_overrides(values, overrides, source)
    return complete_benchmark_options(values, source)
