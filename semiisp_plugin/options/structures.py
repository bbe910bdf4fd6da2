"""The sections of the plugin's option files: every key with its type, its default and what it means.

They are the one source of the checks, of the defaults that are filled in, of the JSON schemas for editors and of the
tables of ``docs/options.md``. A model or data set of your own names its structure, derived from one of these, in its
class attribute ``options_struct``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from semiisp_plugin.options.ranges import (
    LARGEST,
    AboveZero,
    Border,
    Count,
    Decay,
    NotNegative,
    Positive,
    Processes,
    Seed,
    Share,
    Sides,
    Size,
)

# Becomes a folder below experiments/, results/ and tb_logger/.
_IN_NAMES = r"[^/\\\x00-\x1f\x7f]"
Name = Annotated[
    str, msgspec.Meta(pattern=rf"^(?!\s)(?!.*\s$){_IN_NAMES}*[^/\\.\s\x00-\x1f\x7f]{_IN_NAMES}*$", max_length=100)
]
Auto = Literal["auto"]
Table6 = Literal["table6"]
Named = Literal["network", "loss", "metric", "optimiser", "filter", "score", "data set"]


def doc(
    text: str,
    *,
    names: Named | None = None,
    models: tuple[str, ...] = (),
    only_training: bool = False,
    hint: str = "",
    decides: Literal["draws", "entries"] | None = None,
) -> msgspec.Meta:
    """A key's description, and what the checks have to know besides its type.

    Args:
        text: The description.
        names: The key's section has a ``type`` that names a class or function of this kind, whose parameters are the
            section's other keys. ``metric`` and ``data set``: each section in it has.
        models: The models, and those derived from them, that read the key; by default all.
        only_training: Of a data set: the key means nothing in validation and testing.
        hint: What is said of a ``type`` that is none of the known ones.
        decides: Of `basicsr pseudo`: a build with another value of the key is another build. ``draws``: it says how
            pairs are drawn, and is an argument of `make_generator`. ``entries``: it decides otherwise what is stored.
    """
    marks = {"names": names, "models": models, "only_training": only_training, "hint": hint}
    marks["decides"] = decides
    return msgspec.Meta(description=text, extra={key: mark for key, mark in marks.items() if mark})


def marks_of(kind: Any) -> dict[str, Any]:
    """What `doc` says of a key besides its description."""
    metas = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return {key: mark for m in metas if isinstance(m, msgspec.Meta) for key, mark in (m.extra or {}).items()}


def alternatives(kind: Any) -> Iterator[Any]:
    """The types that a key may have, without annotations and unions."""
    if get_origin(kind) is Annotated:
        yield from alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from alternatives(part)
    else:
        yield kind


def structures_in(kind: Any) -> list[type[msgspec.Struct]]:
    """The structures among the types that a key may have."""
    return [c for c in alternatives(kind) if isinstance(c, type) and issubclass(c, msgspec.Struct)]


def tag_of(structure: type[msgspec.Struct]) -> str | int | None:
    """The ``type`` that tells a structure from others, where there are several."""
    return structure.__struct_config__.tag


def structure_of(kind: Any, value: Any) -> type[msgspec.Struct] | None:
    """The structure of a key's value, of several the one that its ``type`` names; None of what is no section."""
    found = structures_in(kind) if isinstance(value, dict) else []
    return next((s for s in found if tag_of(s) in (None, value.get("type"))), None)


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A section whose keys are all known."""


class IOBackend(Strict):
    """Where images come from."""

    type: Annotated[Literal["disk", "lmdb"], doc("Files in folders (`disk`) or LMDB folders (`lmdb`).")]


class PseudoData(Strict):
    """The pseudo pairs of a `SemiSupervisedDataset`."""

    dataroot_gt: Annotated[str, doc("Folder or LMDB of the pseudo ground truths.")]
    dataroot_lq: Annotated[str, doc("Folder or LMDB of the pseudo inputs.")]
    io_backend: Annotated[IOBackend, doc("Where the images come from.")]
    cache_images: Annotated[bool, doc("Keep decoded images in memory, where they are few and small.")] = False


class UnlabelledData(Strict):
    """Inputs without targets, of a `SemiSupervisedDataset` (ours)."""

    dataroot_lq: Annotated[str, doc("Folder (searched recursively) or LMDB of the inputs.")]
    io_backend: Annotated[IOBackend, doc("Where the images come from.")]
    cache_images: Annotated[bool, doc("Keep decoded images in memory, where they are few and small.")] = False


class Loader(msgspec.Struct, kw_only=True):
    """How data is loaded, of every data set; what one that is not the plugin's reads besides is not checked."""

    num_worker_per_gpu: Annotated[Processes, doc("Processes that read images, for each GPU; 0: none but this one.")] = 0
    batch_size_per_gpu: Annotated[
        Size | None,
        doc(
            "Samples a batch, for each GPU. In validation and testing images of one size share a batch (default 1). "
            "With `real_per_batch: table6`: real and pseudo together (default 20, the paper's)."
        ),
    ] = None
    pin_memory: Annotated[bool, doc("Load into page-locked memory, from which copies to a GPU are faster.")] = False
    prefetch_factor: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1000)],
        doc("Batches that each reading process prepares ahead.", only_training=True),
    ] = 2
    timeout: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=1_000_000)],  # the system counts milliseconds in 31 bits
        doc(
            "Seconds that a batch is waited for; then the run stops and names the files being read. 0: for ever.",
            only_training=True,
        ),
    ] = 600


class Dataset(Loader, forbid_unknown_fields=True, kw_only=True):
    """A `PairedRestorationDataset` or `SemiSupervisedDataset`."""

    name: Annotated[Name, doc("Name, in messages and logs, and of its results' files.")]
    type: Annotated[str, doc("Class of the data set.")]
    dataroot_gt: Annotated[str, doc("Folder (searched recursively) or LMDB of the targets.")]
    dataroot_lq: Annotated[str, doc("Folder or LMDB of the inputs.")]
    io_backend: Annotated[IOBackend, doc("Where the images come from.")]
    filename_tmpl: Annotated[str, doc("Name of an input; `{}` stands for its target's.")] = "{}"
    meta_info_file: Annotated[
        str | None,
        doc("Text file that selects pairs: each line begins with the name of a target; the extension is optional."),
    ] = None
    gt_size: Annotated[
        Sides | None,
        doc("Side of the training crop, or [height, width], pixels; training needs it.", only_training=True),
    ] = None
    crop_ratio: Annotated[
        Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)] | None,
        doc(
            "In place of `gt_size`: least and largest share of the image's height and width, drawn for each sample; "
            "for batches of 1.",
            only_training=True,
        ),
    ] = None
    stratified_crops: Annotated[
        bool,
        doc(
            "Dark and bright crops are equally frequent: ReRAW's stratified sampling. It goes by the input, or by what "
            "an input is drawn of.",
            only_training=True,
        ),
    ] = False
    use_hflip: Annotated[bool, doc("Random left-right flips.", only_training=True)] = False
    use_rot: Annotated[bool, doc("Random upside-down flips and transpositions.", only_training=True)] = False
    cache_images: Annotated[bool, doc("Keep decoded images in memory, each reading process its own.")] = False
    pseudo: Annotated[PseudoData | None, doc("The pseudo pairs.", only_training=True)] = None
    real_per_batch: Annotated[
        Size | Table6 | None,
        doc(
            "Real samples a batch, for each GPU. `table6`, for this and `pseudo_per_batch`: as the paper's Table 6 "
            "by the number of pairs, of `batch_size_per_gpu` samples in all.",
            only_training=True,
        ),
    ] = None
    pseudo_per_batch: Annotated[
        Size | Table6 | None, doc("Pseudo samples a batch, for each GPU; or `table6`.", only_training=True)
    ] = None
    unlabelled: Annotated[
        UnlabelledData | None,
        doc(
            "Inputs without targets; the baselines (such as `MeanTeacherModel`) need no pseudo pairs then, and "
            "`SemiSupervisedModel` uses them by `train: consistency`.",
            only_training=True,
        ),
    ] = None
    unlabelled_per_batch: Annotated[
        Size | None, doc("Unlabelled inputs a batch, for each GPU; needed with `unlabelled`.", only_training=True)
    ] = None
    scale: Annotated[Literal[1], doc("As at the top of the file, from where the program takes it.")] = 1


class OnlinePseudoData(Strict):
    """The pseudo pairs of an `OnlineSemiSupervisedDataset`."""

    build: Annotated[str, doc("Folder (`out`) of a `basicsr pseudo` run with `mode: online` or `keys`.")]
    draw_on: Annotated[
        Literal["worker", "gpu"],
        doc(
            "Inputs are drawn in the `worker` that reads the pair, or on the `gpu`, by the model, whatever its device."
        ),
    ] = "worker"


class OnlineDataset(Dataset, kw_only=True):
    """An `OnlineSemiSupervisedDataset`."""

    pseudo: Annotated[OnlinePseudoData | None, doc("The pseudo pairs.", only_training=True)] = None  # type: ignore[assignment]  # in place


class Noise(Strict):
    """Upper bounds of the variances of eq. 15: sigma_s^2 and sigma_r^2, of white and white squared (Sec. A.3).

    Noisy inputs are clamped to [0, 1] and not rounded to 8 bits (ours).
    """

    shot_variance: Annotated[NotNegative, doc("Of the shot noise.")] = 0.01
    read_variance: Annotated[NotNegative, doc("Of the read noise.")] = 0.0002


class HeldOut(Strict):
    """Real pairs that are not trained on but give the filter its reference (ours)."""

    count: Annotated[Positive, doc("How many pairs are held out.")] = 8
    every: Annotated[Positive, doc("Their loss is measured every so many iterations.")] = 100


class Filter(msgspec.Struct, kw_only=True):
    """Online pseudo-data filtering (eqs 10 to 12).

    Besides these keys, those of the registered function that `type` names: `beta` of `threshold`, the paper's; see
    [filters.md](filters.md).
    """

    type: Annotated[str, doc("A registered filter.")] = "threshold"
    reference: Annotated[
        Literal["batch", "running", "held_out"],
        doc(
            "Whose mean loss pseudo samples are compared with: the batch's real ones (the paper's), a running mean of "
            "it, or that of held-out pairs (both ours)."
        ),
    ] = "batch"
    momentum: Annotated[Decay, doc("Of the running mean: the share of its past.")] = 0.95
    warmup_iter: Annotated[Count, doc("Iterations at the start in which nothing is dropped (ours).")] = 0
    held_out: Annotated[HeldOut | None, doc("For `reference: held_out`.")] = None


def held_out_settings(section: Mapping[str, Any] | None) -> HeldOut | None:
    """What a checked section ``train: filter`` says about held-out pairs; None where its reference is another."""
    if not section or section.get("reference") != "held_out":
        return None
    return msgspec.convert(section.get("held_out") or {}, HeldOut)


class Consistency(Strict):
    """What the network gives for an unlabelled input is to be what its average, the teacher, gives (ours)."""

    weight: Annotated[NotNegative, doc("Of the consistency loss, after the ramp-up.")] = 1.0
    rampup_iter: Annotated[Count, doc("Iterations in which the weight rises from near 0 to its full value.")] = 100
    jitter: Annotated[Share, doc("Strength of the photometric jitter of what the student sees.")] = 0.2
    noise: Annotated[
        Noise | None,
        doc("Noise of eq. 15, of which student and teacher see a draw each; with `jitter: 0` it is all that differs."),
    ] = None


class MeanTeacher(Consistency):
    """Of `MeanTeacherModel`, a baseline."""

    noise: Annotated[
        Noise | None,
        doc(
            "Noise consistency (ours): noise of eq. 15, of which student and teacher see a draw each; with `jitter: 0` "
            "it is all that differs."
        ),
    ] = msgspec.field(default=None, name="student_noise")


class LabelBank(MeanTeacher):
    """Of `LabelBankModel`: the best of several candidates as pseudo-label, after SMSNet (WACV 2023)."""

    variants: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=100)],
        doc("Candidates that the teacher gives for the image with `jitter`, besides those for the image as it is."),
    ] = 2
    tolerance: Annotated[
        NotNegative,
        doc("How far a label's score may be below the image's usual one; of `TargetStatistics` in spreads."),
    ] = 0.5
    score: Annotated[str, doc("A registered score of images without a reference.", names="score")] = "TargetStatistics"


class LatentTeacher(MeanTeacher, kw_only=True):
    """Of `LatentTeacherModel`: a mean teacher of latents too, with a Gaussian process, after LMT-GP (ECCV 2024)."""

    latent: Annotated[str, doc("Name of the part of the network, as in PyTorch, whose output is the latent.")]
    latent_weight: Annotated[
        NotNegative, doc("Of the squared error between the latents of student and teacher (ours).")
    ] = 0.1
    gp_weight: Annotated[NotNegative, doc("Of the Gaussian process's term; its source's: 1.5e-3.")] = 1.5e-3
    neighbours: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1024)],
        doc("Latents of labelled images that the process predicts one from; its source's: 8."),
    ] = 8
    bank_size: Annotated[Size, doc("Latents of labelled images that are kept, the newest (ours).")] = 256


class MixMatch(Strict):
    """Of `MixMatchModel` (Berthelot et al., NeurIPS 2019), its form for regression (ours)."""

    weight: Annotated[NotNegative, doc("Of the unlabelled samples' loss, after the ramp-up.")] = 1.0
    alpha: Annotated[
        AboveZero, doc("Both parameters of the Beta distribution of the shares that mix samples; the paper's: 0.75.")
    ] = 0.75
    rampup_iter: Annotated[Count, doc("Iterations in which the weight rises linearly from 0.")] = 100


class Adversarial(Strict):
    """Of `AdversarialModel`: the adversarial term of DRBN's second stage (Yang et al., CVPR 2020), for any network."""

    weight: Annotated[
        NotNegative, doc("Of the adversarial term, after the ramp-up; DRBN's: 2, beside 1 - SSIM and a VGG loss.")
    ] = 2.0
    quality: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=1)] | None,
        doc(
            "Share of a batch's pseudo ground truths that the discriminator learns from, those whose exposure, "
            "contrast and colours are most like the pairs' targets (ours); ~: all."
        ),
    ] = None
    optim_d: Annotated[
        dict[str, Any] | None,
        doc(
            "The discriminator's optimiser, as `optim_g`, with the same schedule; ~: `{type: Adam, lr: 1e-6}`, DRBN's.",
            names="optimiser",
        ),
    ] = None
    rampup_iter: Annotated[Count, doc("Iterations in which the weight rises linearly from 0 (ours).")] = 100
    width: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=512)], doc("Channels of the discriminator's first layers; DRBN's: 64.")
    ] = 64


class Mixup(Strict):
    """Mixing of the samples of a batch (Zhang et al., ICLR 2018), as Retinexformer is trained."""

    beta: Annotated[
        AboveZero,
        doc("Both parameters of the Beta distribution of the share; Retinexformer's: 1.2."),
    ] = 1.2
    use_identity: Annotated[bool, doc("Leave every other batch, by chance, as it is.")] = True


class ActivityPenalty(Strict):
    """The mean square of what a part of the network gives, kept small (SepLUT's sparsity term).

    Logged as `l_penalty`.
    """

    module: Annotated[str, doc("Name of the part, as in PyTorch: `lut3d_generator.weights_generator` of SepLUT.")]
    weight: Annotated[NotNegative, doc("Factor of the penalty; SepLUT's: 1e-4.")] = 1e-4


class DeepSupervision(Strict):
    """The squared error of an image that a part of the network gives (NamedCurves' term of its backbone).

    Logged as `l_deep`.
    """

    module: Annotated[str, doc("Name of the part, as in PyTorch: `backbone` of NamedCurves.")]
    weight: Annotated[NotNegative, doc("Factor of the mean squared error; NamedCurves': 0.5.")] = 0.5


class Likelihood(Strict):
    """The negative log-likelihood of the target, the loss of a normalising flow (`LLFlow`).

    Noise of 1/32 is added to the target. Logged as `l_nll`, in bits per number of the image (three per pixel). Before
    the first step of a new network, its normalisations are fitted to the batch.
    """

    weight: Annotated[AboveZero, doc("Factor of the loss.")] = 1.0
    true_colours: Annotated[
        Share,
        doc(
            "Share of the batches in which the latent's mean is the target's own colour map; LLFlow's: 0.2 (LOLv1), "
            "0.5 (LOLv2)."
        ),
    ] = 0.2


class OwnLoss(Strict):
    """The loss that a network brings itself, such as the sources of pseudo inputs `ReRAW` and `RAWDiffusion`."""

    weight: Annotated[AboveZero, doc("Factor of the loss.")] = 1.0


class TablePenalty(Strict):
    """The lookup tables that a network such as `SepLUT` predicts are kept smooth and monotone.

    After Zeng et al., "Learning Image-adaptive 3D Lookup Tables" (TPAMI 2020). Logged as `l_tables`.
    """

    smoothness: Annotated[
        NotNegative, doc("Factor of the mean squared step between neighbouring vertices; Zeng's: 1e-4.")
    ] = 1e-4
    monotonicity: Annotated[NotNegative, doc("Factor of the mean step down; Zeng's: 10.")] = 10.0
    axes: Annotated[
        Literal["own", "all"],
        doc(
            "Steps down of 3D tables: of each colour along its own axis, and of all along greys (`own`, ours), or of "
            "each along every axis (`all`, Zeng's R_m), which forbids more saturation."
        ),
    ] = "own"


class CosineAnnealing(Strict, tag_field="type", tag=True):
    """Half a cosine from the learning rate down to a floor (Tables 5 and 6); NAFNet's `TrueCosineAnnealingLR`."""

    total_iter: Annotated[Positive | None, doc("Where it ends; ~: with the training.")] = None
    eta_min_ratio: Annotated[Share | None, doc("The floor, as a share of the learning rate; ~: 0.001.")] = None
    eta_min: Annotated[NotNegative | None, doc("In its place the floor as a learning rate.")] = None
    start_iter: Annotated[Count, doc("Where it begins, such as after the warm-up.")] = 0


class CosineAnnealingRestartCyclicLR(Strict, tag_field="type", tag=True):
    """Half cosines one after the other, each with a floor of its own: Restormer's and Retinexformer's.

    To a floor above the learning rate it rises, as in the first period of Retinexformer's own settings.
    """

    periods: Annotated[Annotated[list[Positive], msgspec.Meta(min_length=1)], doc("Iterations of each.")]
    restart_weights: Annotated[
        list[NotNegative] | None, doc("What each begins with, as a share of the learning rate; ~: 1.")
    ] = None
    eta_mins: Annotated[list[NotNegative] | None, doc("The learning rate that each ends with; ~: 0.")] = None


class CosineAnnealingRestartLR(Strict, tag_field="type", tag=True):
    """Half cosines one after the other, with one floor: BasicSR's."""

    periods: Annotated[Annotated[list[Positive], msgspec.Meta(min_length=1)], doc("Iterations of each.")]
    restart_weights: Annotated[
        list[NotNegative] | None, doc("What each begins with, as a share of the learning rate; ~: 1.")
    ] = None
    eta_min: Annotated[NotNegative, doc("The learning rate that each ends with.")] = 0


class Constant(Strict, tag_field="type", tag=True):
    """The learning rate as it is: SepLUT's."""


class MultiStepLR(Strict, tag_field="type", tag=True):
    """Steps down: BasicSR's."""

    milestones: Annotated[
        Annotated[list[Count], msgspec.Meta(min_length=1)], doc("Iterations at which the learning rate falls.")
    ]
    gamma: Annotated[NotNegative, doc("What it is multiplied with there.")] = 0.1


class Train(Strict):
    """Training of the plugin's models."""

    total_iter: Annotated[Positive, doc("Iterations.")]
    optim_g: Annotated[
        dict[str, Any], doc("Optimiser: `type`, any class of `torch.optim`, and its arguments.", names="optimiser")
    ]
    scheduler: Annotated[
        CosineAnnealing | CosineAnnealingRestartCyclicLR | CosineAnnealingRestartLR | Constant | MultiStepLR | None,
        doc(
            "Schedule of the learning rate. None: constant.",
            hint="Of other programs: MultiStepRestartLR is MultiStepLR, CosineAnnealingLR is CosineAnnealing with "
            "eta_min. Each is a function of the iteration alone; what looks at losses, like ReduceLROnPlateau, could "
            "not be resumed exactly.",
        ),
    ] = None
    warmup_iter: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=LARGEST)],
        doc("Iterations in which the learning rate rises linearly; -1: none."),
    ] = -1
    ema_decay: Annotated[Decay, doc("Decay of the average of the weights, which is validated and saved; 0: none.")] = (
        0.0
    )
    grad_clip: Annotated[
        NotNegative | None, doc("Largest norm of the gradient, which is logged as `grad_norm`; ~ or 0: unlimited.")
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        doc("Of the network's arithmetic; losses, filter and weights stay in fp32. `fp16` has a gradient scaler."),
    ] = "fp32"
    compile: Annotated[
        bool | Literal["default", "reduce-overhead", "max-autotune"],
        doc("Compile the networks with `torch.compile`; a text is its mode."),
    ] = False
    channels_last: Annotated[bool, doc("Order of the tensors in memory that suits convolutions on GPUs.")] = False
    accumulate: Annotated[Positive, doc("Batches that make one step, one after the other, in the memory of one.")] = 1
    nonfinite_limit: Annotated[
        Positive, doc("Steps that may be skipped for a loss that is not finite, of 1,000, before training stops.")
    ] = 10
    pixel_opt: Annotated[
        dict[str, Any] | None, doc("A loss: `type`, `loss_weight`, and its other arguments.", names="loss")
    ] = None
    perceptual_opt: Annotated[dict[str, Any] | None, doc("As `pixel_opt`.", names="loss")] = None
    ssim_opt: Annotated[dict[str, Any] | None, doc("As `pixel_opt`.", names="loss")] = None
    likelihood: Annotated[
        Likelihood | None,
        doc(
            "The loss of a normalising flow (`LLFlow`), in place of other losses or beside them; seen by the filter.",
            models=("SupervisedModel", "SemiSupervisedModel", "MeanTeacherModel", "LabelBankModel", "MixMatchModel"),
        ),
    ] = None
    own_loss: Annotated[
        OwnLoss | None,
        doc(
            "The loss of a network that brings its own, in place of other losses or beside them; `SupervisedModel`.",
            models=("SupervisedModel",),
        ),
    ] = None
    bank_size: Annotated[
        Positive | None, doc("Parameter sets that are kept (N of Table 5); `ISPModel` alone.", models=("ISPModel",))
    ] = None
    filter: Annotated[
        Filter | None,
        doc(
            "The filter of pseudo pairs; `SemiSupervisedModel` alone, and needed.",
            names="filter",
            models=("SemiSupervisedModel",),
        ),
    ] = None
    noise: Annotated[
        Noise | Literal["estimated"] | None,
        doc(
            "Noise on the pseudo inputs (eq. 15), or `estimated` from the real ones (ours); of all models that train "
            "on them but `SupervisedModel`.",
            models=(
                "SemiSupervisedModel",
                "MeanTeacherModel",
                "MixMatchModel",
                "AdversarialModel",
                "LabelBankModel",
                "LatentTeacherModel",
            ),
        ),
    ] = None
    mean_teacher: Annotated[MeanTeacher | None, doc("`MeanTeacherModel` alone.", models=("MeanTeacherModel",))] = None
    label_bank: Annotated[LabelBank | None, doc("`LabelBankModel` alone.", models=("LabelBankModel",))] = None
    latent_teacher: Annotated[
        LatentTeacher | None, doc("`LatentTeacherModel` alone, and needed.", models=("LatentTeacherModel",))
    ] = None
    mixmatch: Annotated[MixMatch | None, doc("`MixMatchModel` alone.", models=("MixMatchModel",))] = None
    adversarial: Annotated[Adversarial | None, doc("`AdversarialModel` alone.", models=("AdversarialModel",))] = None
    consistency: Annotated[
        Consistency | None,
        doc(
            "How `SemiSupervisedModel` uses unlabelled inputs; needs `ema_decay`. Not seen by the filter.",
            models=("SemiSupervisedModel",),
        ),
    ] = None
    photometric_jitter: Annotated[
        Share | None,
        doc(
            "Strength of the jitter of the inputs; `SupervisedModel` and `ISPModel`.",
            models=("SupervisedModel", "ISPModel"),
        ),
    ] = None
    mixup: Annotated[
        Mixup | None,
        doc(
            "Mix each batch's pairs with one another; `SupervisedModel` alone, batches of 2 and more.",
            models=("SupervisedModel",),
        ),
    ] = None
    activity_penalty: Annotated[
        ActivityPenalty | None, doc("A loss on what a part of the network gives; not seen by the filter.")
    ] = None
    deep_supervision: Annotated[
        DeepSupervision | None, doc("A loss on an image that a part of the network gives; not seen by the filter.")
    ] = None
    table_penalty: Annotated[
        TablePenalty | None, doc("A loss on the lookup tables of a network; not seen by the filter.")
    ] = None


class Val(Strict):
    """Validation, and testing."""

    save_img: Annotated[bool, doc("Write the results as images.")] = False
    val_freq: Annotated[Positive | None, doc("Validate every so many iterations; training needs it.")] = None
    suffix: Annotated[Name | None, doc("End of the names of test results, in place of the run's name.")] = None
    pbar: Annotated[bool, doc("Show a progress bar, on a terminal.")] = True
    metrics: Annotated[
        dict[str, Any] | None,
        doc("Metrics by a name of yours: `type`, its arguments, and `better` (`higher` or `lower`).", names="metric"),
    ] = None


class Wandb(Strict):
    """Weights & Biases."""

    project: Annotated[str | None, doc("Its project; without one nothing is sent.")] = None
    resume_id: Annotated[str | None, doc("The run to resume.")] = None


class Logger(Strict):
    """Logging and checkpoints."""

    print_freq: Annotated[Positive, doc("Log every so many iterations.")] = 100
    save_checkpoint_freq: Annotated[Positive, doc("Save networks and the training's state every so many.")] = 5000
    keep_last: Annotated[
        Positive | None, doc("Checkpoints that are kept, the newest, besides `best` and `latest`; ~: all.")
    ] = None
    keep_best: Annotated[
        str | None, doc("Keep the checkpoint that is best by this metric of `val:metrics` on the first validation set.")
    ] = None
    safetensors: Annotated[bool, doc("Write networks as `.safetensors` too.")] = False
    use_tb_logger: Annotated[bool, doc("Write to TensorBoard.")] = True
    image_freq: Annotated[Positive | None, doc("Images to TensorBoard every so many iterations.")] = None
    wandb: Annotated[Wandb | None, doc("Weights & Biases.")] = None


class Paths(Strict):
    """Weights to start from."""

    pretrain_network_g: Annotated[str | None, doc("Weights of `network_g`; testing needs them.")] = None
    pretrain_network_global: Annotated[
        str | None, doc("Weights of `network_global`; `ISPModel` alone.", models=("ISPModel",))
    ] = None
    param_key_g: Annotated[
        str | None,
        doc(
            "Which weights of the file, such as `params`; ~: the average (`params_ema`), which validation has, if any."
        ),
    ] = None
    strict_load_g: Annotated[bool, doc("Refuse weights that do not fit the network.")] = True
    resume_state: Annotated[str | None, doc("Training state (`.state`) to resume from.")] = None


class DistParams(msgspec.Struct, kw_only=True):
    """How several processes find each other; further keys go to `torch.distributed`."""

    backend: Annotated[str, doc("`nccl`, or `gloo` on CPUs.")] = "nccl"
    port: Annotated[Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None, doc("Of the first process.")] = None


Imports = Annotated[
    list[str], doc("Modules of your own that register networks, losses and the like; imported before anything else.")
]


class AnyOptions(msgspec.Struct, kw_only=True):
    """What whole option files of all models have, BasicSR's too."""

    name: Annotated[Name, doc("Of the run; its folder below `experiments` or `results`.")]
    model_type: Annotated[str, doc("Class of the model.")]
    datasets: Annotated[
        dict[str, Any],
        doc("Data sets: `train`, and `val...` or `test...` for validation and testing.", names="data set"),
    ]


class Options(AnyOptions, forbid_unknown_fields=True, kw_only=True):
    """A whole option file of one of the plugin's models."""

    network_g: Annotated[dict[str, Any], doc("The network: `type`, and its arguments.", names="network")]
    extends: Annotated[
        str | list[str] | None, doc("Option file, or files, that this one changes; relative to its own folder.")
    ] = None
    imports: Imports = msgspec.field(default_factory=list)
    scale: Annotated[Literal[1], doc("The plugin's models do not change the size of images.")] = 1
    num_gpu: Annotated[Processes | Auto, doc("GPUs; 0 for the CPU, `auto` for all there are.")] = "auto"
    manual_seed: Annotated[Seed, doc("Seed of everything random.")] = 0
    deterministic: Annotated[bool, doc("Same numbers in every run, at some cost in speed.")] = False
    network_global: Annotated[
        dict[str, Any] | None,
        doc("The network of global parameters; `ISPModel` alone.", names="network", models=("ISPModel",)),
    ] = None
    path: Annotated[Paths | None, doc("Weights to start from.")] = None
    train: Annotated[Train | None, doc("Training.")] = None
    val: Annotated[Val | None, doc("Validation, and testing.")] = None
    logger: Annotated[Logger | None, doc("Logging and checkpoints.")] = None
    dist_params: Annotated[DistParams | None, doc("Training in several processes.")] = None
    find_unused_parameters: Annotated[bool, doc("For networks some of whose weights get no gradient.")] = False


# What classes and functions of BasicSR and torch, which have no annotations, take: their parameters of these names.


class OptimiserKeys(msgspec.Struct, kw_only=True):
    """Parameters of many optimisers."""

    lr: Annotated[NotNegative, doc("Learning rate.")] = 1e-3
    weight_decay: Annotated[NotNegative, doc("Weight decay.")] = 0
    betas: Annotated[tuple[Decay, Decay], doc("Decays of the running means of the gradient and its square.")] = (
        0.9,
        0.999,
    )
    momentum: Annotated[NotNegative, doc("Of SGD and the like.")] = 0


class LossKeys(msgspec.Struct, kw_only=True):
    """Parameters of many losses."""

    loss_weight: Annotated[NotNegative, doc("Factor of the loss.")] = 1.0


class MetricKeys(msgspec.Struct, kw_only=True):
    """Parameters of many metrics."""

    better: Annotated[Literal["higher", "lower"], doc("Which values are better.")] = "higher"
    crop_border: Annotated[Border, doc("Pixels cut off at each side.")] = 0
    test_y_channel: Annotated[bool, doc("On the luma channel alone.")] = False


class PseudoOptions(Strict):
    """Option file of `basicsr pseudo`."""

    name: Annotated[str, doc("Of the run, for messages.")]
    photographs: Annotated[str, doc("Folder of ordinary photographs.")]
    f_isp: Annotated[str, doc("`f_isp_<iter>.pth` of a phase 1 run.")]
    out: Annotated[str, doc("Folder that gets the shards, `gt.lmdb` and `lq.lmdb`, and the report.")]
    extends: Annotated[
        str | list[str] | None, doc("Option file, or files, that this one changes; relative to its own folder.")
    ] = None
    imports: Imports = msgspec.field(default_factory=list)
    mode: Annotated[
        Literal["stored", "online", "keys"],
        doc(
            "`stored` keeps pseudo ground truths and inputs, as the paper does; `online` ground truths alone, and "
            "`keys` nothing but the list of photographs that can be used: what is not stored is drawn in training, "
            "again at each visit (ours; see `OnlineSemiSupervisedDataset`).",
            decides="entries",
        ),
    ] = "stored"
    manual_seed: Annotated[Seed, doc("Of the random parameter sets.", decides="entries")] = 0
    max_photographs: Annotated[
        Positive | None, doc("Use only the first so many, in the order of their names; ~ for all.")
    ] = None
    short_side: Annotated[
        Annotated[int, msgspec.Meta(ge=32, le=65_536)] | None,
        doc(
            "Resize photographs whose short side is longer than this to it, in pixels; ~ keeps them.", decides="entries"
        ),
    ] = None
    max_pixels: Annotated[
        Positive | None, doc("Skip larger photographs; ~ for the reader's own limit.", decides="entries")
    ] = None
    sets: Annotated[
        Literal["auto", "global", "local"],
        doc(
            "`global` or `local` sets for step 3; `auto` decides by the number of pairs f_ISP was trained on, as the "
            "paper does (local from 1,000 on).",
            decides="draws",
        ),
    ] = "auto"
    draw_per: Annotated[
        Literal["auto", "isp", "function"],
        doc(
            "`isp` draws the whole ISP's set from one training sample, `function` each function's on its own; `auto`: "
            "as the paper does, per `isp` with global sets and per `function` with local ones.",
            decides="draws",
        ),
    ] = "auto"
    update_quality: Annotated[bool, doc("False skips steps 1 and 2 (ablation of Table 2).", decides="draws")] = True
    inverse: Annotated[
        Literal["exact", "paper_lut"],
        doc(
            "`exact`, or `paper_lut` for the paper's interpolated tables (Sec. A.2), to compare with.", decides="draws"
        ),
    ] = "exact"
    source: Annotated[
        Literal["bank", "mixture", "upi", "deterministic", "network"],
        doc(
            "sRGB-to-RAW of steps 1 and 3. `bank` is the paper's; `mixture` mixes two of its sets (ours); to compare "
            "with (Table 3), `upi` (Brooks et al., CVPR 2019), `deterministic` (ours: f_ISP^-1 with the mean of the "
            "sets), and a trained `network`.",
            decides="draws",
        ),
    ] = "bank"
    source_network: Annotated[
        str | None, doc("`net_g_<iter>.pth` of the run that trained the network, for `source: network`.")
    ] = None
    draws: Annotated[
        Positive,
        doc(
            "Pseudo pairs of each photograph, each with random sets of its own (ours: the paper has photographs "
            "enough).",
            decides="entries",
        ),
    ] = 1
    candidates: Annotated[
        Positive,
        doc(
            "Inputs that step 3 makes of each pseudo ground truth; kept is the one that f_ISP turns back into it best "
            "(ours; 1 is the paper's).",
            decides="draws",
        ),
    ] = 1
    input_bits: Annotated[
        Literal[8, 16],
        doc(
            "Bits of the stored pseudo inputs: 16, or 8 where the real inputs have no more. Rounded before noise.",
            decides="entries",
        ),
    ] = 16
    png_compression: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=9)] | Literal["fast"],
        doc("Of the stored PNGs: `fast`, or a zlib level of 0 to 9."),
    ] = "fast"
    num_gpu: Annotated[Processes | Auto, doc("0 for the CPU, `auto` or 1 for a GPU.")] = "auto"
    workers: Annotated[
        Processes | Auto,
        doc("Processes; `auto`: one a GPU or core (none besides the command's own for up to 100 photographs)."),
    ] = "auto"
    shard_size: Annotated[Positive | Auto, doc("Photographs of a shard; `auto`: a 64th of all, but 64 to 4096.")] = (
        "auto"
    )
    batch: Annotated[
        Size | Auto,
        doc("Photographs of one size that go through f_ISP together; `auto`: 1 on a CPU, 16 on a GPU."),
    ] = "auto"
    own_shards_only: Annotated[
        bool,
        doc(
            "Of n ranks, each builds every n-th shard and no other, for file systems whose locks do not reach "
            "from machine to machine."
        ),
    ] = False
