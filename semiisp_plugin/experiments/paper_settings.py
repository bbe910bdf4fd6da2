"""The paper's experiments as typed data: tasks, Tables 5 and 6, and the target models' own recipes.

Every value says where it is from: a table or section of the paper, the repository of the model, or "ours" where both
are silent. `semiisp_plugin.experiments.paper_options` makes options of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

from semiisp_plugin.report.paper_figures import ENHANCEMENT, GENERAL_ISP, TONE_MAPPING

T = TypeVar("T")


@dataclass(frozen=True)
class Sourced(Generic[T]):
    """A value and where it is from.

    Attributes:
        value: The value.
        source: ``Table 5``, ``Sec. A.3``, ``NAFNet's repository``, ``ours``.
        note: What else there is to say.
    """

    value: T
    source: str
    note: str = ""

    @property
    def comment(self) -> str:
        """What stands behind the value in an option file."""
        return f"{self.source}: {self.note}" if self.note else self.source


def ours(value: T, note: str = "") -> Sourced[T]:
    """A value that the paper and the repositories leave open."""
    return Sourced(value, "ours", note)


# --- tasks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A data set with what is to be learned on it; the data lies as ``basicsr prepare`` lays it out.

    Attributes:
        name: Of its folder below ``datasets`` and of its option files.
        title: In words.
        full: Number of all its training pairs.
        amounts: Numbers of pairs that option files are for.
        paper_amounts: Those of them that the paper has.
        paper: The task in the paper's tables, see `semiisp_plugin.report.paper_figures`.
        raw: Linear inputs (RAW to sRGB) and not sRGB ones.
        denoising: The paper's column "w/ denoising".
        size: (height, width) of training crops in phase 1, and in phase 2 without denoising.
        models: Keys of `MODELS`.
        metrics: Of validation and test, by name.
        f_isp: Options of f_ISP's networks.
        batched_validation: Whether all test images have one size.
        perceptual: Whether f_ISP has the VGG loss of eq. 5, whose weights are not always at hand.
    """

    name: str
    title: str
    full: int
    amounts: tuple[int, ...]
    paper_amounts: tuple[int, ...]
    paper: str
    raw: bool
    denoising: Sourced[bool]
    size: Sourced[tuple[int, int]]
    models: tuple[str, ...]
    metrics: Mapping[str, Sourced[dict[str, Any]]]
    f_isp: Mapping[str, Sourced[Any]]
    batched_validation: bool
    perceptual: bool = True


def plain_metric(metric: str) -> dict[str, Any]:
    """Section of a metric on RGB, without a border."""
    return {"type": metric, "crop_border": 0, "test_y_channel": False}


_FIVEK_METRICS: Mapping[str, Sourced[dict[str, Any]]] = {
    "psnr": Sourced(plain_metric("calculate_psnr"), "on RGB of 8 bits, as the benchmarks on FiveK"),
    "ssim": Sourced(plain_metric("calculate_ssim"), "BasicSR's", "the paper does not say which SSIM it has"),
    "ssim_matlab": Sourced({"type": "calculate_ssim_matlab"}, "the benchmarks on FiveK", "Wang's, downsampled"),
    "delta_e": Sourced({"type": "calculate_delta_e", "better": "lower"}, "ours", "CIE colour difference"),
}
_LOL_METRICS: Mapping[str, Sourced[dict[str, Any]]] = {
    "psnr": Sourced({"type": "calculate_psnr_float"}, "as the benchmarks on LOL: before rounding to 8 bits"),
    "ssim": Sourced(plain_metric("calculate_ssim"), "as the benchmarks on LOL"),
    "psnr_gt_mean": Sourced(
        {"type": "calculate_psnr_gt_mean", "variant": "retinexformer"},
        "Table 9, in brackets",
        "beside the plain value, never instead of it; the paper does not say which variant",
    ),
    "ssim_gt_mean": Sourced({"type": "calculate_ssim_gt_mean", "variant": "retinexformer"}, "Table 9, in brackets"),
}
_FIVEK_SIZE = Sourced((480, 640), "Tables 5 and 6", "640x480; portrait photographs are turned (ours)")
_NO_DENOISING = Sourced(False, "Sec. 4")
_SRGB_F_ISP: Mapping[str, Sourced[Any]] = {
    "inverse_tone_mapping": Sourced(True, "Sec. 3.5, A.1", "image enhancement, sRGB in, sRGB out")
}
_ON_FIVEK = (
    "nafnet_s",
    "nafnet",
    "seplut",
    "imageadaptive3dlut",
    "adaint",
    "lutwithbgrid",
    "pqdynamicisp",
    "csrnet",
    "hdrnet",
    "llf_lut",
    "syenet",
    "namedcurves",
    "microisp",
)
_ON_LOL = ("llformer", "retinexformer", "cidnet", "syenet", "snr_aware", "llflow")


def _fivek(name: str, title: str, paper: str, raw: bool, f_isp: Mapping[str, Sourced[Any]]) -> Task:
    return Task(
        name=name,
        title=title,
        full=4500,
        amounts=(100, 500, 4500),
        paper_amounts=(100, 500, 4500),
        paper=paper,
        raw=raw,
        denoising=_NO_DENOISING,
        size=_FIVEK_SIZE,
        models=_ON_FIVEK,
        metrics=_FIVEK_METRICS,
        f_isp=f_isp,
        batched_validation=False,
    )


def _lol(name: str, title: str, full: int, amounts: tuple[int, ...], paper: str, noisy: bool, **more: Any) -> Task:
    note = "" if noisy or name != "lolv2_synthetic" else "its inputs are darkened photographs, without noise (inferred)"
    return Task(
        name=name,
        title=title,
        full=full,
        amounts=amounts,
        paper_amounts=(full,),
        paper=paper,
        raw=False,
        denoising=Sourced(noisy, "Sec. 4.1, A.3", note),
        models=_ON_LOL,
        metrics=_LOL_METRICS,
        f_isp=_SRGB_F_ISP,
        batched_validation=True,
        **more,
    )


_LOL_SIZE = ours((400, 600), "the size of the images; the paper's 640x480 does not fit into them")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _fivek(
            "fivek_tone_mapping",
            "FiveK tone mapping: 16-bit XYZ to expert C",
            TONE_MAPPING,
            True,
            {"base_matrix": ours("xyz_to_srgb", "inputs are XYZ; the learned matrix starts from there")},
        ),
        _fivek(
            "fivek_general_isp",
            "FiveK general ISP: demosaiced RAW to expert C",
            GENERAL_ISP,
            True,
            {"base_matrix": ours("identity", "the camera's colours; the learned matrix starts from there")},
        ),
        _fivek("fivek_ie", "FiveK image enhancement: 8-bit sRGB to expert C", ENHANCEMENT, False, _SRGB_F_ISP),
        _lol("lolv1", "LOLv1: dark to normally exposed", 485, (100, 485), "LoLv1", True, size=_LOL_SIZE),
        _lol(
            "lolv2_real",
            "LOLv2 real: dark to normally exposed",
            689,
            (100, 500, 689),
            "LoLv2",
            True,
            size=_LOL_SIZE,
        ),
        _lol(
            "lolv2_synthetic",
            "LOLv2 synthetic: darkened to normally exposed",
            900,
            (100, 500, 900),
            "LoLv2-syn",
            False,
            size=ours((384, 384), "the size of the images; the paper's 640x480 does not fit into them"),
        ),
    )
}
"""The paper's tasks, by name."""


# --- Tables 5 and 6 --------------------------------------------------------------------------------------------------

Column = Literal["<= 100", "<= 1000", "> 1000", "w/ denoising"]


@dataclass(frozen=True)
class FISPColumn:
    """A column of Table 5: phase 1. All: AdamW, cosine to `FLOOR` of the peak, random flips and crops."""

    lr: float
    batch: int
    iterations: int
    pooled_l1: bool


TABLE_5: Mapping[Column, FISPColumn] = {
    "<= 100": FISPColumn(2e-5, 4, 15_000, False),
    "<= 1000": FISPColumn(2e-5, 4, 15_000, False),
    "> 1000": FISPColumn(1e-4, 16, 30_000, False),
    "w/ denoising": FISPColumn(5e-5, 8, 70_000, True),
}
BANK_SIZE = 5000
VGG_WEIGHT = 0.1
POOLS = (16, 32, 64)
FLOOR = 0.001
"""Last learning rate of phases 1 and 2, of the peak."""

SEMI_LR = 1e-4
SEMI_ITERATIONS = 40_000
DENOISING_CROP = 128
"""Table 6: of all columns, and the crop of the one with denoising. N_r, N_p and beta: `data.table6`."""


def column(task: Task, pairs: int) -> Column:
    """The column of Tables 5 and 6 that a number of pairs belongs to."""
    if task.denoising.value:
        return "w/ denoising"
    return "<= 100" if pairs <= 100 else "<= 1000" if pairs <= 1000 else "> 1000"


# --- target models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Supervised:
    """How a model is trained on pairs alone: its own recipe.

    Attributes:
        iterations: Of the supervised baseline; fine-tuning takes half (Sec. 3.3, A.3).
        batch: Samples a batch.
        crop: A side, (height, width), or for ``crop_ratio`` the shares.
        flips: ``use_hflip``, ``use_rot``.
        optimiser: Section ``optim_g``.
        scheduler: Section ``scheduler``.
        losses: Sections by key (``pixel_opt``, ...).
        more: Further keys of the section ``train``.
        ratio: ``crop`` are shares of the image.
    """

    iterations: Sourced[int]
    batch: Sourced[int]
    crop: Sourced[Any]
    flips: Sourced[tuple[bool, bool]]
    optimiser: Sourced[dict[str, Any]]
    scheduler: Sourced[dict[str, Any]]
    losses: Mapping[str, Sourced[dict[str, Any]]]
    more: Mapping[str, Sourced[Any]] = field(default_factory=dict)
    ratio: bool = False

    def halved(self) -> Supervised:
        """The same in half of the iterations: all lengths of the schedule are halved with them."""
        schedule = {key: _half(value) if key in _LENGTHS else value for key, value in self.scheduler.value.items()}
        scheduler = replace(self.scheduler, value=schedule)
        if schedule != self.scheduler.value:
            scheduler = _noted(scheduler, _HALVED)
        more = {
            key: _noted(replace(value, value=_half(value.value)), _HALVED) if key in _LENGTHS else value
            for key, value in self.more.items()
        }
        note = f"half of {self.iterations.value:,d} ({self.iterations.comment})"
        return replace(
            self,
            iterations=Sourced(_half(self.iterations.value), "Sec. A.3", note),
            scheduler=scheduler,
            more=more,
        )


_LENGTHS = ("T_max", "periods", "milestones", "total_iter", "start_iter", "warmup_iter")
_HALVED = "its length halved with the iterations (ours)"


def _noted(value: Sourced[T], more: str) -> Sourced[T]:
    """The same with more to say."""
    return replace(value, note=f"{value.note}; {more}" if value.note else more)


def _half(value: Any) -> Any:
    return [_half(item) for item in value] if isinstance(value, list) else max(1, value // 2)


@dataclass(frozen=True)
class TargetModel:
    """A target network.

    Attributes:
        name: In names of files and runs.
        title: As it is written.
        paper: Its name in the paper's tables, or None where the paper does not have it.
        network: Section ``network_g`` for a task.
        training: Its own recipe for a task and a number of pairs.
    """

    name: str
    title: str
    paper: str | None
    network: Callable[[Task], Sourced[dict[str, Any]]]
    training: Callable[[Task, int], Supervised]


# NAFNet ..............................................................................................................

_NAFNET = "NAFNet's repository (SIDD, width 32)"
_NAFNET_BLOCKS = {"enc_blk_nums": [2, 2, 4, 8], "middle_blk_num": 12, "dec_blk_nums": [2, 2, 2, 2]}


def _nafnet_network(width: int) -> Callable[[Task], Sourced[dict[str, Any]]]:
    def network(task: Task) -> Sourced[dict[str, Any]]:
        values = {"type": "NAFNet", "width": width, **_NAFNET_BLOCKS}
        if width == 32:
            return Sourced(values, _NAFNET)
        return ours(values, 'nowhere is it said what the "s" of NAFNet-s is; width 16, the blocks of the repository')

    return network


def _nafnet_training(task: Task, pairs: int) -> Supervised:
    total = 200_000
    return Supervised(
        iterations=Sourced(total, _NAFNET),
        batch=Sourced(32, _NAFNET, "8 GPUs of 4 each; with torchrun on 8 GPUs write 4"),
        crop=Sourced(256, _NAFNET),
        flips=ours((True, False), "as in phase 2; the repository flips and turns GoPro's images, SIDD's not"),
        optimiser=Sourced({"type": "AdamW", "lr": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.9]}, _NAFNET),
        scheduler=Sourced({"type": "CosineAnnealing", "eta_min": 1e-7}, _NAFNET),
        losses={"pixel_opt": Sourced({"type": "PSNRLoss", "loss_weight": 1.0}, _NAFNET)},
    )


# SepLUT, 3D LUT, AdaInt, LUTwithBGrid ................................................................................

_SEPLUT = "SepLUT's repository"
_LUT3D = "Image-Adaptive-3DLUT's repository"
_ADAINT = "AdaInt's repository"
_BGRID = "LUTwithBGrid's repository"
_TABLES_LEAST = 40_000
_ZENG = {"smoothness": 1e-4, "monotonicity": 10, "axes": "all"}
_OF_THE_IMAGE = "of the table that an image gets"


def _tables_training(
    source: str,
    weights: str,
    penalty: Sourced[dict[str, Any]] | None = None,
    optimiser: str = "",
    loss: str = "",
    quarters: bool = False,
) -> Callable[[Task, int], Supervised]:
    """What networks that mix learned tables have in common, which is Zeng's training of 3D LUT.

    Args:
        source: The repository.
        weights: Name of the submodule whose output mixes the tables.
        penalty: Section ``table_penalty``.
        optimiser: What to say of the optimiser.
        loss: What to say of the loss.
        quarters: Whether the learning rate falls to a tenth after each quarter.
    """

    def training(task: Task, pairs: int) -> Supervised:
        epochs = 400
        iterations = max(_TABLES_LEAST, epochs * pairs)
        words = f"{epochs} epochs"
        more: dict[str, Sourced[Any]] = {
            "activity_penalty": Sourced(
                {"module": weights, "weight": 1e-4}, source, "its sparsity term on the mixture weights"
            ),
        }
        if penalty is not None:
            more["table_penalty"] = penalty
        if not task.raw:
            more["photometric_jitter"] = Sourced(0.2, source, "brightness and saturation, for sRGB inputs alone")
        steps = [iterations * k // 4 for k in (1, 2, 3)]
        return Supervised(
            iterations=Sourced(iterations, source, words)
            if pairs == task.full
            else ours(iterations, f"{words}, as of the repository's 4,500 pairs, and at least {_TABLES_LEAST:,d}"),
            batch=Sourced(1, source),
            crop=Sourced([0.6, 1.0], source, "shares of height and width"),
            flips=Sourced((True, False), source),
            optimiser=Sourced({"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.999]}, source, optimiser),
            scheduler=Sourced({"type": "MultiStepLR", "milestones": steps, "gamma": 0.1}, source, "every 100 epochs")
            if quarters
            else Sourced({"type": "Constant"}, source),
            losses={"pixel_opt": Sourced({"type": "MSELoss", "loss_weight": 1.0}, source, loss)},
            more=more,
            ratio=True,
        )

    return training


def _seplut_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "SepLUT", "n_ranks": 3, "n_vertices_3d": 17, "n_vertices_1d": 17, "n_base_feats": 8}
    return Sourced(values, _SEPLUT)


def _lut3d_network(task: Task) -> Sourced[dict[str, Any]]:
    return Sourced({"type": "ImageAdaptive3DLUT", "n_ranks": 3, "n_vertices": 33, "n_base_feats": 16}, _LUT3D)


def _adaint_network(task: Task) -> Sourced[dict[str, Any]]:
    return Sourced({"type": "AdaInt", "n_ranks": 3, "n_vertices": 33, "n_base_feats": 16}, _ADAINT)


def _bgrid_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "LUTwithBGrid", "n_ranks": 8, "n_vertices": 17, "n_base_feats": 8, "coordinates": "published"}
    return Sourced(values, _BGRID)


_TABLE_MODELS = (
    TargetModel(
        "seplut",
        "SepLUT",
        "SepLUT",
        _seplut_network,
        _tables_training(_SEPLUT, "lut3d_generator.weights_generator"),
    ),
    TargetModel(
        "imageadaptive3dlut",
        "ImageAdaptive3DLUT",
        None,
        _lut3d_network,
        _tables_training(_LUT3D, "classifier", Sourced(_ZENG, _LUT3D, _OF_THE_IMAGE)),
    ),
    TargetModel(
        "adaint",
        "AdaInt",
        None,
        _adaint_network,
        _tables_training(
            _ADAINT,
            "lut_generator.weights_generator",
            Sourced({**_ZENG, "smoothness": 0}, _ADAINT, _OF_THE_IMAGE),
            optimiser="there the vertices' places have a tenth, and stay even for 5 epochs",
        ),
    ),
    TargetModel(
        "lutwithbgrid",
        "LUTwithBGrid",
        None,
        _bgrid_network,
        _tables_training(
            _BGRID,
            "gen_3d_lut.weights_generator",
            Sourced(_ZENG, _BGRID, _OF_THE_IMAGE),
            loss="without its terms of LPIPS and of colour differences",
            quarters=True,
        ),
    ),
)


# PQDynamicISP ........................................................................................................

_NOT_READABLE = "its own recipe could not be read; Table 5, > 1000"


def _pq_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "PQDynamicISP", **{key: value.value for key, value in task.f_isp.items()}, "grid": [8, 8]}
    return ours(values, "as f_ISP; local control (Sec. 4.2), grid and encoder are ours")


def _pq_training(task: Task, pairs: int) -> Supervised:
    table = TABLE_5["> 1000"]
    return Supervised(
        iterations=ours(table.iterations, _NOT_READABLE),
        batch=ours(table.batch, "as above"),
        crop=ours(task.size.value, "as above"),
        flips=ours((True, False), "as above"),
        optimiser=ours({"type": "AdamW", "lr": table.lr}, "as above"),
        scheduler=ours({"type": "CosineAnnealing", "eta_min_ratio": FLOOR}, "as above"),
        losses={
            "pixel_opt": ours({"type": "MSELoss", "loss_weight": 1.0}, "as above, eq. 5"),
            "perceptual_opt": ours({"type": "VGGPerceptualLoss", "loss_weight": VGG_WEIGHT}, "as above; which layers"),
        },
    )


# CSRNet ..............................................................................................................

_CSRNET = "CSRNet's repository"
_CSRNET_ITERATIONS = 600_000


def _csrnet_network(task: Task) -> Sourced[dict[str, Any]]:
    return Sourced({"type": "CSRNet", "num_feat": 64, "condition_feat": 32}, _CSRNET)


def _csrnet_training(task: Task, pairs: int) -> Supervised:
    steps = list(range(100_000, _CSRNET_ITERATIONS, 100_000))
    return Supervised(
        iterations=Sourced(_CSRNET_ITERATIONS, _CSRNET)
        if pairs == task.full
        else ours(_CSRNET_ITERATIONS, "as the repository's for all pairs"),
        batch=Sourced(1, _CSRNET),
        crop=Sourced([1.0, 1.0], _CSRNET, "whole images"),
        flips=Sourced((False, False), _CSRNET, "no augmentation"),
        optimiser=Sourced({"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}, _CSRNET),
        scheduler=Sourced({"type": "MultiStepLR", "milestones": steps, "gamma": 0.5}, _CSRNET),
        losses={"pixel_opt": Sourced({"type": "L1Loss", "loss_weight": 1.0}, _CSRNET)},
        ratio=True,
    )


# HDRNet ..............................................................................................................

_HDRNET = "HDRNet's repository (its script for FiveK, expert C)"


def _hdrnet_network(task: Task) -> Sourced[dict[str, Any]]:
    return Sourced({"type": "HDRNet", "guide": "network", "luma_bins": 8, "spatial_bin": 16}, _HDRNET)


def _hdrnet_training(task: Task, pairs: int) -> Supervised:
    return Supervised(
        iterations=ours(30_000, "nowhere said; 100 epochs of 4,500 pairs are 28,125"),
        batch=Sourced(16, _HDRNET),
        crop=Sourced(256, _HDRNET),
        flips=Sourced((False, False), _HDRNET),
        optimiser=Sourced({"type": "Adam", "lr": 1e-4}, _HDRNET),
        scheduler=Sourced({"type": "Constant"}, _HDRNET),
        losses={"pixel_opt": Sourced({"type": "MSELoss", "loss_weight": 1.0}, _HDRNET)},
    )


# SYENet ..............................................................................................................

_SYENET = "SYENet's repository (low-light enhancement)"
_SYENET_BATCH = 4
_SYENET_EPOCHS = 200


def _syenet_network(task: Task) -> Sourced[dict[str, Any]]:
    return Sourced({"type": "SYENet", "rep_scale": 4}, _SYENET)


def _syenet_training(task: Task, pairs: int) -> Supervised:
    epoch = -(-task.full // _SYENET_BATCH)
    total, lengths = _SYENET_EPOCHS * epoch, f"{_SYENET_EPOCHS} epochs of {task.full} pairs"
    return Supervised(
        iterations=Sourced(total, _SYENET, f"{lengths}, without its warm-up")
        if pairs == task.full
        else ours(total, f"as for {lengths}"),
        batch=Sourced(_SYENET_BATCH, _SYENET, "its batch norms need 2 or more"),
        crop=Sourced(task.size.value, _SYENET, "whole images, all but those of FiveK that are longer"),
        flips=Sourced((False, False), _SYENET, "no augmentation"),
        optimiser=Sourced({"type": "Adam", "lr": 1e-3}, _SYENET),
        scheduler=Sourced(
            {"type": "CosineAnnealingRestartLR", "periods": [50 * epoch, 100 * epoch, 50 * epoch], "eta_min": 1e-7},
            _SYENET,
            "there the last of its cycles is cut off after 50 of 200 epochs; it is whole here (ours)",
        ),
        losses={
            "pixel_opt": Sourced({"type": "OutlierAwareLoss", "loss_weight": 1.0}, _SYENET),
            "perceptual_opt": Sourced({"type": "CosineLoss", "loss_weight": 1.0}, _SYENET),
        },
    )


# NamedCurves .........................................................................................................

_NAMEDCURVES = "NamedCurves' repository"
_NAMEDCURVES_BATCH = 8


def _namedcurves_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "NamedCurves", "skip_feat": 64, "curve_feat": 64}
    return Sourced(values, _NAMEDCURVES, "with the plugin's table of colour names: set colour_table for the published")


def _namedcurves_training(task: Task, pairs: int) -> Supervised:
    total, lengths = 100 * -(-task.full // _NAMEDCURVES_BATCH), f"100 epochs of {task.full} pairs"
    return Supervised(
        iterations=Sourced(total, _NAMEDCURVES, lengths) if pairs == task.full else ours(total, f"as for {lengths}"),
        batch=Sourced(_NAMEDCURVES_BATCH, _NAMEDCURVES),
        crop=Sourced(256, _NAMEDCURVES),
        flips=Sourced((True, True), _NAMEDCURVES, "both flips; turns are BasicSR's addition to the second"),
        optimiser=Sourced({"type": "Adam", "lr": 1e-4}, _NAMEDCURVES),
        scheduler=Sourced({"type": "Constant"}, _NAMEDCURVES),
        losses={
            "pixel_opt": Sourced({"type": "MSELoss", "loss_weight": 1.0}, _NAMEDCURVES),
            "ssim_opt": Sourced({"type": "SSIMLoss", "loss_weight": 1.0, "window_size": 5}, _NAMEDCURVES),
        },
        more={
            "deep_supervision": Sourced(
                {"module": "backbone", "weight": 0.5}, _NAMEDCURVES, "the squared error of its backbone's image"
            ),
        },
    )


# MicroISP ............................................................................................................

_MICROISP = "its recipe is not known; MSE and VGG as in its paper, in one stage"


def _microisp_network(task: Task) -> Sourced[dict[str, Any]]:
    return ours({"type": "MicroISP", "num_feat": 4}, "for images of three channels; the published one reads a mosaic")


def _microisp_training(task: Task, pairs: int) -> Supervised:
    return Supervised(
        iterations=ours(100_000, _MICROISP),
        batch=ours(16, _MICROISP),
        crop=ours(256, "its attention needs 81 pixels a side"),
        flips=ours((True, False), "as in phase 2"),
        optimiser=ours({"type": "Adam", "lr": 5e-4}, _MICROISP),
        scheduler=ours({"type": "CosineAnnealing", "eta_min": 5e-5}, _MICROISP),
        losses={
            "pixel_opt": ours({"type": "MSELoss", "loss_weight": 1.0}, _MICROISP),
            "perceptual_opt": ours({"type": "VGGPerceptualLoss", "loss_weight": VGG_WEIGHT}, _MICROISP),
        },
    )


# LLF-LUT .............................................................................................................

_LLF_LUT = "LLF-LUT's repository"
_LLF_LUT_ITERATIONS = 1_350_000


def _llf_lut_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "LLFLUT", "num_lap": 3, "n_vertices": 33, "embed_dim": 32, "heads": [2, 4, 8, 16]}
    return Sourced(values, _LLF_LUT, "for images of 480p")


def _llf_lut_training(task: Task, pairs: int) -> Supervised:
    return Supervised(
        iterations=Sourced(_LLF_LUT_ITERATIONS, _LLF_LUT, "300 epochs of 4,500 pairs")
        if pairs == task.full
        else ours(_LLF_LUT_ITERATIONS, "as the repository's for all pairs"),
        batch=Sourced(1, _LLF_LUT),
        crop=Sourced([0.8, 1.0], _LLF_LUT, "shares of height and width, which are the same there"),
        flips=Sourced((True, False), _LLF_LUT),
        optimiser=Sourced({"type": "AdamW", "lr": 2e-4, "weight_decay": 0.0, "betas": [0.9, 0.99]}, _LLF_LUT),
        scheduler=Sourced(
            {
                "type": "CosineAnnealingRestartLR",
                "periods": [180_000, 180_000, 180_000, 810_000],
                "restart_weights": [1, 0.5, 0.5, 0.5],
                "eta_min": 1e-7,
            },
            _LLF_LUT,
            "each period to its end; there the second and the third are cut off at a half and a third",
        ),
        losses={"pixel_opt": Sourced({"type": "L1Loss", "loss_weight": 1.0}, _LLF_LUT, "without its LPIPS of 0.1")},
        more={
            "photometric_jitter": Sourced(0.4, _LLF_LUT, "there of brightness alone"),
            "activity_penalty": Sourced({"module": "transformer.conv_last", "weight": 1e-4}, _LLF_LUT, "on its maps"),
            "table_penalty": Sourced({"smoothness": 1e-4, "monotonicity": 10.0, "axes": "all"}, _LLF_LUT),
        },
        ratio=True,
    )


# LLFormer ............................................................................................................

_LLFORMER = "LLFormer's paper and published settings (LOL)"
_LLFORMER_BATCH = 8
_LLFORMER_EPOCH = 61  # batches of LOLv1's 485 pairs


def _llformer_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {
        "type": "LLFormer",
        "dim": 16,
        "num_blocks": [2, 4, 8, 16],
        "num_refinement_blocks": 2,
        "heads": [1, 2, 4, 8],
        "ffn_expansion_factor": 2.66,
    }
    return Sourced(values, _LLFORMER)


def _llformer_training(task: Task, pairs: int) -> Supervised:
    total, warmup = 4000 * _LLFORMER_EPOCH, 3 * -(-pairs // _LLFORMER_BATCH)
    lengths = "4,000 epochs of LOLv1's 485 pairs"
    own = task.name == "lolv1" and pairs == task.full
    return Supervised(
        iterations=Sourced(total, _LLFORMER, lengths) if own else ours(total, f"as for {lengths}"),
        batch=Sourced(_LLFORMER_BATCH, _LLFORMER),
        crop=Sourced(128, _LLFORMER),
        flips=Sourced((True, True), _LLFORMER, "flips and turns, all eight"),
        optimiser=Sourced({"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.999]}, _LLFORMER),
        scheduler=Sourced({"type": "CosineAnnealing", "eta_min": 1e-6, "start_iter": warmup}, _LLFORMER),
        losses={"pixel_opt": Sourced({"type": "SmoothL1Loss", "loss_weight": 1.0}, _LLFORMER)},
        more={"warmup_iter": Sourced(warmup, _LLFORMER, f"3 epochs of {pairs} pairs")},
    )


# Retinexformer .......................................................................................................

_RETINEXFORMER = "Retinexformer's repository"
_RETINEXFORMER_CROP = {"lolv1": 128, "lolv2_real": 256, "lolv2_synthetic": 128}


def _retinexformer_training(task: Task, pairs: int) -> Supervised:
    source = _RETINEXFORMER
    return Supervised(
        iterations=Sourced(150_000, source)
        if pairs == task.full
        else ours(150_000, "as the repository's for all pairs"),
        batch=Sourced(8, source),
        crop=Sourced(_RETINEXFORMER_CROP.get(task.name, 128), source),
        flips=Sourced((True, True), source),
        optimiser=Sourced({"type": "Adam", "lr": 2e-4, "betas": [0.9, 0.999]}, source),
        scheduler=Sourced(
            {
                "type": "CosineAnnealingRestartCyclicLR",
                "periods": [46_000, 104_000],
                "restart_weights": [1, 1],
                "eta_mins": [3e-4, 1e-6],
            },
            source,
            "in the first cycle the learning rate rises, from 2e-4 to 3e-4, as there",
        ),
        losses={"pixel_opt": Sourced({"type": "L1Loss", "loss_weight": 1.0}, source)},
        more={
            "grad_clip": Sourced(0.01, source),
            "mixup": Sourced({"beta": 1.2, "use_identity": True}, source),
        },
    )


def _retinexformer_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "Retinexformer", "n_feat": 40, "stage": 1, "num_blocks": [1, 2, 2]}
    return Sourced(values, _RETINEXFORMER)


# CIDNet ..............................................................................................................

_CIDNET = "CIDNet's repository"
_CIDNET_BATCH = 8


def _cidnet_network(task: Task) -> Sourced[dict[str, Any]]:
    return Sourced({"type": "CIDNet", "channels": [36, 36, 72, 144], "heads": [2, 4, 8]}, _CIDNET)


def _cidnet_training(task: Task, pairs: int) -> Supervised:
    total, warmup = 1000 * -(-task.full // _CIDNET_BATCH), 3 * -(-pairs // _CIDNET_BATCH)
    lengths = f"1,000 epochs of {task.full} pairs"
    return Supervised(
        iterations=Sourced(total, _CIDNET, lengths) if pairs == task.full else ours(total, f"as for {lengths}"),
        batch=Sourced(_CIDNET_BATCH, _CIDNET),
        crop=Sourced(256, _CIDNET),
        flips=Sourced((True, True), _CIDNET, "both flips; turns are BasicSR's addition to the second"),
        optimiser=Sourced({"type": "Adam", "lr": 1e-4}, _CIDNET),
        scheduler=Sourced({"type": "CosineAnnealing", "eta_min": 1e-7, "start_iter": warmup}, _CIDNET),
        losses={
            "pixel_opt": Sourced({"type": "L1Loss", "loss_weight": 1.0}, _CIDNET, "without its terms in HVI"),
            "ssim_opt": Sourced({"type": "SSIMLoss", "loss_weight": 0.5}, _CIDNET, "without its edge and VGG terms"),
        },
        more={"warmup_iter": Sourced(warmup, _CIDNET, f"3 epochs of {pairs} pairs")},
    )


# SNR-Aware ...........................................................................................................

_SNR_AWARE = "SNR-Aware's repository"
_SNR_AWARE_STEPS = 600_000


def _snr_aware_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "SNRAware", "num_feat": 64, "num_block": 6, "layers": 6, "heads": 8, "head_feat": 64}
    return Sourced(values, _SNR_AWARE)


def _snr_aware_training(task: Task, pairs: int) -> Supervised:
    real = task.name == "lolv2_real"
    own = pairs == task.full
    return Supervised(
        iterations=Sourced(_SNR_AWARE_STEPS, _SNR_AWARE) if own else ours(_SNR_AWARE_STEPS, "as for all pairs"),
        batch=Sourced(4 if real else 32, _SNR_AWARE),
        crop=Sourced(128, _SNR_AWARE),
        flips=Sourced((True, True), _SNR_AWARE),
        optimiser=Sourced({"type": "Adam", "lr": 4e-4, "betas": [0.9, 0.99]}, _SNR_AWARE),
        scheduler=Sourced(
            {"type": "MultiStepLR", "milestones": [50_000, 100_000, 200_000, 300_000], "gamma": 0.5}, _SNR_AWARE
        ),
        losses={
            "pixel_opt": Sourced(
                {"type": "CharbonnierLoss", "loss_weight": 1.0, "eps": 1e-6},
                _SNR_AWARE,
                "the mean where they sum, which Adam does not tell apart" + (", without its VGG term" if real else ""),
            )
        },
    )


# LLFlow ..............................................................................................................

_LLFLOW = "LLFlow's repository"
_LLFLOW_STEPS = 40_000


def _llflow_network(task: Task) -> Sourced[dict[str, Any]]:
    values = {"type": "LLFlow", "num_feat": 64, "num_block": 24, "stacked": [1, 3, 5, 7], "flow_steps": 12}
    return Sourced(values, _LLFLOW)


def _llflow_training(task: Task, pairs: int) -> Supervised:
    steps = [_LLFLOW_STEPS * percent // 100 for percent in (50, 75, 90, 95)]
    likelihood = {"weight": 1.0, "true_colours": 0.2 if task.name == "lolv1" else 0.5}
    return Supervised(
        iterations=Sourced(_LLFLOW_STEPS, _LLFLOW) if pairs == task.full else ours(_LLFLOW_STEPS, "as for all pairs"),
        batch=Sourced(16, _LLFLOW),
        crop=Sourced(160, _LLFLOW),
        flips=Sourced((True, False), _LLFLOW),
        optimiser=Sourced({"type": "Adam", "lr": 5e-4}, _LLFLOW, "there the encoder has a weight decay of 1e-5"),
        scheduler=Sourced({"type": "MultiStepLR", "milestones": steps, "gamma": 0.5}, _LLFLOW),
        losses={"likelihood": Sourced(likelihood, _LLFLOW, "its only loss, in phase 2 as well (ours)")},
    )


MODELS: Mapping[str, TargetModel] = {
    model.name: model
    for model in (
        TargetModel("nafnet_s", "NAFNet-s", "NAFNet-s", _nafnet_network(16), _nafnet_training),
        TargetModel("nafnet", "NAFNet", None, _nafnet_network(32), _nafnet_training),
        *_TABLE_MODELS,
        TargetModel("pqdynamicisp", "PQDynamicISP", "PQDynamicISP", _pq_network, _pq_training),
        TargetModel("csrnet", "CSRNet", None, _csrnet_network, _csrnet_training),
        TargetModel("hdrnet", "HDRNet", None, _hdrnet_network, _hdrnet_training),
        TargetModel("syenet", "SYENet", None, _syenet_network, _syenet_training),
        TargetModel("namedcurves", "NamedCurves", None, _namedcurves_network, _namedcurves_training),
        TargetModel("microisp", "MicroISP", None, _microisp_network, _microisp_training),
        TargetModel("llf_lut", "LLF-LUT", None, _llf_lut_network, _llf_lut_training),
        TargetModel("llformer", "LLFormer", "LLFormer", _llformer_network, _llformer_training),
        TargetModel("retinexformer", "Retinexformer", "Retinexformer", _retinexformer_network, _retinexformer_training),
        TargetModel("cidnet", "CIDNet", None, _cidnet_network, _cidnet_training),
        TargetModel("snr_aware", "SNR-Aware", None, _snr_aware_network, _snr_aware_training),
        TargetModel("llflow", "LLFlow", None, _llflow_network, _llflow_training),
    )
}
"""The paper's target models, and NAFNet in its published size, by name."""
