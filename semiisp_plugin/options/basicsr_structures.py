"""The keys of BasicSR's option files (its docs/Config.md) that its training loop, or ours, reads; with their types.

What models and data sets read besides is found in their source (`semiisp_plugin.options.accepted_keys`); unknown keys
are therefore not refused here. ``~`` stands for "not given" nearly everywhere, as in BasicSR.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from semiisp_plugin.options.structures import (
    Auto,
    Count,
    DistParams,
    Imports,
    Loader,
    Logger,
    Name,
    NotNegative,
    Seed,
    doc,
)

Number = int | float


class LoaderKeys(Loader, kw_only=True):
    """What BasicSR's loaders take besides."""

    dataset_enlarge_ratio: Annotated[Number | None, doc("Passes over the data set that count as an epoch.")] = 1
    prefetch_mode: Annotated[Literal["cpu", "cuda"] | None, doc("Accepted, not used.")] = None
    num_prefetch_queue: Annotated[Count | None, doc("Accepted, not used.")] = None
    seeded_order: Annotated[bool, doc("Order by `manual_seed`; BasicSR's own depends on the epoch alone.")] = False


class DatasetKeys(LoaderKeys, kw_only=True):
    """Keys that many data sets read, where they read them."""

    type: Annotated[str, doc("Class of the data set.")]
    name: Annotated[str | None, doc("Name, in messages and logs.")] = None
    io_backend: Annotated[
        dict[str, Any] | None, doc("Where images come from: `type` is `disk`, `lmdb` or `memcached`.")
    ] = None
    dataroot_gt: Annotated[str | list[str] | None, doc("Targets.")] = None
    dataroot_lq: Annotated[str | list[str] | None, doc("Inputs.")] = None
    meta_info_file: Annotated[str | None, doc("List of the images.")] = None
    filename_tmpl: Annotated[str | None, doc("Name of an input; `{}` stands for its target's.")] = None
    gt_size: Annotated[int | list[int] | None, doc("Side of the training crop.")] = None
    use_hflip: Annotated[bool | None, doc("Random left-right flips.")] = None
    use_rot: Annotated[bool | None, doc("Random upside-down flips and transpositions.")] = None
    num_frame: Annotated[int | None, doc("Frames a sample.")] = None
    mean: Annotated[Number | list[Number] | None, doc("Subtracted from images.")] = None
    std: Annotated[Number | list[Number] | None, doc("Images are divided by it.")] = None


class OptimiserKeys(msgspec.Struct, kw_only=True):
    """Keys of many optimisers."""

    type: Annotated[str, doc("Class of the optimiser.")]
    lr: Annotated[NotNegative | None, doc("Learning rate.")] = None
    weight_decay: Annotated[NotNegative | None, doc("Weight decay.")] = None
    betas: Annotated[
        tuple[NotNegative, NotNegative] | None, doc("Decays of the running means of the gradient and its square.")
    ] = None
    eps: Annotated[
        NotNegative | list[NotNegative | None] | None, doc("Added to the denominator; two of `Adafactor`.")
    ] = None
    momentum: Annotated[NotNegative | None, doc("Of SGD and the like.")] = None


class SchedulerKeys(msgspec.Struct, kw_only=True):
    """Keys of the schedules."""

    type: Annotated[str, doc("Name of the schedule.")]
    milestones: Annotated[list[Number] | None, doc("`MultiStepLR`: iterations at which the rate falls.")] = None
    gamma: Annotated[Number | None, doc("`MultiStepLR`: what the rate is multiplied with.")] = None
    restarts: Annotated[list[Number] | None, doc("`MultiStepLR`: iterations of the restarts.")] = None
    periods: Annotated[list[Number] | None, doc("`CosineAnnealingRestart...`: iterations of each period.")] = None
    restart_weights: Annotated[list[Number] | None, doc("What each restart begins with, as a share.")] = None
    eta_min: Annotated[
        Number | None,
        doc("The least rate: `CosineAnnealing`, `CosineAnnealingRestartLR`, `TrueCosineAnnealingLR`."),
    ] = None
    eta_mins: Annotated[
        list[Number] | None, doc("`CosineAnnealingRestartCyclicLR`: the rate that each period ends with.")
    ] = None
    eta_min_ratio: Annotated[Number | None, doc("`CosineAnnealing`: the least rate, as a share of the first.")] = None
    total_iter: Annotated[int | None, doc("`CosineAnnealing`: where it ends; default: with the training.")] = None
    start_iter: Annotated[int | None, doc("`CosineAnnealing`: where it begins, such as after the warm-up.")] = None
    T_max: Annotated[int | None, doc("`TrueCosineAnnealingLR`: iterations to the least rate.")] = None


class LossKeys(msgspec.Struct, kw_only=True):
    """Keys of many losses."""

    type: Annotated[str, doc("A registered loss.")]
    loss_weight: Annotated[Number, doc("Factor of the loss.")] = 1.0
    perceptual_weight: Annotated[Number | None, doc("Factor of the perceptual part.")] = None
    style_weight: Annotated[Number | None, doc("Factor of the style part.")] = None
    reduction: Annotated[Literal["none", "mean", "sum"], doc("How values become one number.")] = "mean"
    layer_weights: Annotated[dict[str, Number] | None, doc("Layers of VGG and their weights.")] = None


class MetricKeys(msgspec.Struct, kw_only=True):
    """Keys of many metrics."""

    type: Annotated[str, doc("A registered metric.")]
    better: Annotated[Literal["higher", "lower"] | None, doc("Which values are better.")] = None
    crop_border: Annotated[Count, doc("Pixels cut off at each side.")] = 0
    test_y_channel: Annotated[bool, doc("On the luma channel alone.")] = False


class TrainKeys(msgspec.Struct, kw_only=True):
    """Training, as far as the loop and BasicSR's models go."""

    total_iter: Annotated[Annotated[int, msgspec.Meta(ge=1)], doc("Iterations.")]
    warmup_iter: Annotated[int | None, doc("Iterations in which the learning rate rises linearly; -1: none.")] = None
    ema_decay: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=1)] | None, doc("Decay of the average of the weights; 0: none.")
    ] = None
    net_d_iters: Annotated[int | None, doc("The generator is trained every so many iterations.")] = None
    net_d_init_iters: Annotated[int | None, doc("Iterations in which the discriminator alone is trained.")] = None


class ValKeys(msgspec.Struct, kw_only=True):
    """Validation, as far as the loop goes."""

    val_freq: Annotated[Annotated[int, msgspec.Meta(ge=1)] | None, doc("Validate every so many iterations.")] = None
    save_img: Annotated[bool | None, doc("Write the results as images.")] = None
    suffix: Annotated[str | None, doc("End of the names of test results.")] = None
    pbar: Annotated[bool | None, doc("Show a progress bar.")] = None
    metrics: Annotated[dict[str, dict[str, Any]] | None, doc("Metrics by a name of yours.")] = None


class PathKeys(msgspec.Struct, kw_only=True):
    """Weights to start from."""

    resume_state: Annotated[str | None, doc("Training state (`.state`) to go on from.")] = None
    ignore_resume_networks: Annotated[str | list[str] | None, doc("Networks that are not taken from it.")] = None
    pretrain_network_g: Annotated[str | None, doc("Weights of `network_g`.")] = None
    pretrain_network_d: Annotated[str | None, doc("Weights of `network_d`.")] = None
    param_key_g: Annotated[str | None, doc("Which weights of the file.")] = None
    param_key_d: Annotated[str | None, doc("Which weights of the file.")] = None
    strict_load_g: Annotated[bool | None, doc("Refuse weights that do not fit the network.")] = None
    strict_load_d: Annotated[bool | None, doc("Refuse weights that do not fit the network.")] = None


class LoggerKeys(Logger, kw_only=True, forbid_unknown_fields=False):
    """Logging and checkpoints."""


# What every model accepts, for the loop reads it.
OF_THE_LOOP = {
    "path": ("resume_state", "ignore_resume_networks"),
    "train": ("total_iter", "warmup_iter"),
    "val": ("val_freq", "save_img", "suffix", "pbar", "metrics"),
}


class BasicSROptions(msgspec.Struct, kw_only=True):
    """An option file of one of BasicSR's models, or of one that somebody else registers."""

    name: Annotated[Name, doc("Of the run; its folder below `experiments` or `results`.")]
    model_type: Annotated[str, doc("Class of the model.")]
    datasets: Annotated[dict[str, dict[str, Any]], doc("Data sets: `train`, and `val...` or `test...`.")]
    extends: Annotated[str | list[str] | None, doc("Option file, or files, that this one changes.")] = None
    imports: Imports = msgspec.field(default_factory=list)
    scale: Annotated[int | None, doc("How much larger outputs are than inputs.")] = None
    num_gpu: Annotated[int | Auto | None, doc("GPUs; 0 for the CPU, `auto` for all there are.")] = None
    manual_seed: Annotated[Seed | None, doc("Seed of everything random.")] = None
    deterministic: Annotated[bool, doc("Same numbers in every run, at some cost in speed.")] = False
    path: Annotated[PathKeys | None, doc("Weights to start from.")] = None
    train: Annotated[TrainKeys | None, doc("Training.")] = None
    val: Annotated[ValKeys | None, doc("Validation, and testing.")] = None
    logger: Annotated[LoggerKeys | None, doc("Logging and checkpoints.")] = None
    dist_params: Annotated[DistParams | None, doc("Training in several processes.")] = None
    find_unused_parameters: Annotated[bool | None, doc("For networks some of whose weights get no gradient.")] = None
