"""Option files: safe YAML, overrides, and strict checks of the sections that are ours.

A misspelt key is an error that names the nearest known one and the line. Sections that belong to a class (a network, a
loss, an optimiser, a scheduler, a metric) are checked against what that class accepts. Option files of BasicSR's own
models are passed through as they are.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import torch
import yaml

from semiisp_plugin.toolbox import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
    basicsr_location,
    lr_schedulers,
)

OUR_MODELS = ("ISPModel", "SemiSupervisedModel", "SupervisedModel", "MeanTeacherModel")
_SEMI_SUPERVISED = ("SemiSupervisedModel", "MeanTeacherModel")
_KEYS_OF_SOME_MODELS = {
    "filter": ("SemiSupervisedModel",),
    "noise": ("SemiSupervisedModel",),
    "bank_size": ("ISPModel",),
    "mean_teacher": ("MeanTeacherModel",),
    "photometric_jitter": ("SupervisedModel", "ISPModel"),
}
_WITH_PSEUDO = ("SemiSupervisedDataset", "OnlineSemiSupervisedDataset")
OUR_DATASETS = ("PairedRestorationDataset", *_WITH_PSEUDO)


class OptionError(ValueError):
    """Something in an option file is wrong; the message says what, where, and how to mend it."""


_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# Becomes a folder below experiments/, results/ and tb_logger/.
_Name = Annotated[str, msgspec.Meta(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A section whose keys are all known."""


class IOBackend(_Strict):
    """Where images come from: files (``disk``) or an LMDB folder (``lmdb``)."""

    type: Literal["disk", "lmdb"]


class PseudoData(_Strict):
    """The pseudo pairs of a `SemiSupervisedDataset`."""

    dataroot_gt: str
    dataroot_lq: str
    io_backend: IOBackend
    cache_images: bool = False


class Dataset(_Strict):
    """A data set of ours; the loader keys are BasicSR's."""

    name: str
    type: str
    dataroot_gt: str
    dataroot_lq: str
    io_backend: IOBackend
    filename_tmpl: str = "{}"
    meta_info_file: str | None = None
    gt_size: int | list[int] | None = None
    use_hflip: bool = False
    use_rot: bool = False
    cache_images: bool = False
    num_worker_per_gpu: _Count = 0
    batch_size_per_gpu: _Positive | None = None
    pseudo: PseudoData | None = None
    real_per_batch: _Positive | None = None
    pseudo_per_batch: _Positive | None = None
    pin_memory: bool = False
    phase: str | None = None
    scale: int = 1


class OnlinePseudoData(_Strict):
    """The pseudo pairs of an `OnlineSemiSupervisedDataset`.

    Attributes:
        build: Folder (``out``) of a ``basicsr pseudo`` run with ``mode: online`` or ``keys``.
        draw_on: Where inputs are drawn: in the ``worker`` that reads the pair, or on the ``gpu``, by the model, on
            whatever device it is.
    """

    build: str
    draw_on: Literal["worker", "gpu"] = "worker"


class OnlineDataset(Dataset):
    """An `OnlineSemiSupervisedDataset`."""

    pseudo: OnlinePseudoData | None = None  # type: ignore[assignment]  # in place of PseudoData


class Noise(_Strict):
    """Upper bounds of the variances of eq. 15."""

    shot_variance: _NotNegative = 0.01
    read_variance: _NotNegative = 0.0002


class Filter(_Strict):
    """Online pseudo-data filtering (eqs 10 to 12); ``reference`` and ``momentum`` are those of `PseudoFilter`."""

    beta: _NotNegative
    warmup_iter: _Count = 0
    reference: Literal["batch", "running"] = "batch"
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.95


class MeanTeacher(_Strict):
    """Of `MeanTeacherModel`, a baseline.

    Attributes:
        weight: Of the consistency loss, after the ramp-up.
        rampup_iter: Iterations in which the weight rises from near 0 to its full value.
        jitter: Strength of the photometric jitter of what the student sees.
    """

    weight: _NotNegative = 1.0
    rampup_iter: _Count = 100
    jitter: _Share = 0.2


class Train(_Strict):
    """Training of our models."""

    total_iter: _Positive
    optim_g: dict[str, Any]
    scheduler: dict[str, Any] | None = None
    warmup_iter: int = -1
    ema_decay: _Share = 0.0
    grad_clip: _NotNegative | None = None
    pixel_opt: dict[str, Any] | None = None
    perceptual_opt: dict[str, Any] | None = None
    ssim_opt: dict[str, Any] | None = None
    bank_size: _Positive | None = None
    filter: Filter | None = None
    noise: Noise | Literal["estimated"] | None = None
    mean_teacher: MeanTeacher | None = None
    photometric_jitter: _Share | None = None


class Val(_Strict):
    """Validation."""

    save_img: bool = False
    val_freq: _Positive | None = None
    suffix: str | None = None
    pbar: bool = False
    metrics: dict[str, dict[str, Any]] | None = None


class Logger(_Strict):
    """Logging and checkpoints."""

    print_freq: _Positive = 100
    save_checkpoint_freq: _Positive = 5000
    use_tb_logger: bool = True
    image_freq: _Positive | None = None
    wandb: dict[str, Any] | None = None


class Paths(_Strict):
    """Weights to start from."""

    pretrain_network_g: str | None = None
    pretrain_network_global: str | None = None
    param_key_g: str = "params"
    strict_load_g: bool = True
    resume_state: str | None = None


class Options(_Strict):
    """A whole option file of one of our models."""

    name: _Name
    model_type: str
    datasets: dict[str, dict[str, Any]]
    network_g: dict[str, Any]
    scale: Literal[1] = 1
    num_gpu: int | Literal["auto"] = "auto"
    manual_seed: int = 0
    network_global: dict[str, Any] | None = None
    path: Paths | None = None
    train: Train | None = None
    val: Val | None = None
    logger: Logger | None = None
    dist_params: dict[str, Any] | None = None
    find_unused_parameters: bool = False


class PseudoOptions(_Strict):
    """Option file of ``basicsr pseudo``.

    Attributes:
        name: Of the run, for messages.
        photographs: Folder of ordinary photographs.
        f_isp: ``f_isp_<iter>.pth`` of a phase 1 run.
        out: Folder that gets the shards, ``gt.lmdb`` and ``lq.lmdb``, and the report.
        mode: ``stored`` keeps pseudo ground truths and inputs, as the paper does; ``online`` ground truths alone, and
            ``keys`` nothing but the list of photographs that can be used: what is not stored is drawn in training,
            afresh at each visit (ours; see `OnlineSemiSupervisedDataset`).
        manual_seed: Of the random parameter sets.
        max_photographs: Use only the first so many, in the order of their names; None for all.
        short_side: Resize photographs whose short side is longer than this to it, in pixels; None keeps them.
        max_pixels: Set larger photographs aside; None for the reader's own limit.
        sets: ``global`` or ``local`` sets for step 3; ``auto`` decides by the number of pairs f_ISP was trained on, as
            the paper does (local from 1,000 on).
        draw_per: ``isp`` draws the whole ISP's set from one training sample, ``function`` each function's on its own;
            ``auto``: as the paper does, per ``isp`` with global sets and per ``function`` with local ones.
        update_quality: False skips steps 1 and 2 (ablation of Table 2).
        inverse: ``exact``, or ``paper_lut`` for the paper's interpolated tables (Sec. A.2), to compare with.
        source: sRGB-to-RAW of steps 1 and 3. ``bank`` is the paper's; ``mixture`` mixes two of its sets (ours); to
            compare with (Table 3), ``upi`` (Brooks et al., CVPR 2019) and ``deterministic`` (ours: f_ISP^-1 with the
            mean of the sets); ``fitted`` draws step 3 from sets fitted to the labelled pairs (ours).
        dataroot_lq: Inputs of the labelled pairs, for ``fitted``.
        dataroot_gt: Their targets.
        meta_info_file: List of those of them that f_ISP was trained on, if not all; as in a data set's section.
        draws: Pseudo pairs of each photograph, each with random sets of its own (ours: the paper has photographs
            enough).
        candidates: Inputs that step 3 makes of each pseudo ground truth; kept is the one that f_ISP turns back into it
            best (ours; 1 is the paper's).
        input_bits: Bits of the stored pseudo inputs: 16, or 8 where the real inputs have no more.
        png_compression: Of the stored PNGs: ``fast``, or a zlib level of 0 to 9.
        num_gpu: 0 for the CPU, ``auto`` or 1 for a GPU.
        workers: Processes; ``auto``: one a GPU or core (none besides the command's own for up to 100 photographs).
        shard_size: Photographs of a shard; ``auto``: a 64th of all, but 64 to 4096.
        batch: Photographs of one size that go through f_ISP together; ``auto``: 1 on a CPU, 16 on a GPU.
        own_shards_only: Of several ranks, each builds only every so-manieth shard, for file systems whose locks do not
            reach from machine to machine.
    """

    name: str
    photographs: str
    f_isp: str
    out: str
    mode: Literal["stored", "online", "keys"] = "stored"
    manual_seed: int = 0
    max_photographs: _Positive | None = None
    short_side: Annotated[int, msgspec.Meta(ge=32)] | None = None
    max_pixels: _Positive | None = None
    sets: Literal["auto", "global", "local"] = "auto"
    draw_per: Literal["auto", "isp", "function"] = "auto"
    update_quality: bool = True
    inverse: Literal["exact", "paper_lut"] = "exact"
    source: Literal["bank", "mixture", "fitted", "upi", "deterministic"] = "bank"
    dataroot_lq: str | None = None
    dataroot_gt: str | None = None
    meta_info_file: str | None = None
    draws: _Positive = 1
    candidates: _Positive = 1
    input_bits: Literal[8, 16] = 16
    png_compression: Annotated[int, msgspec.Meta(ge=0, le=9)] | Literal["fast"] = "fast"
    num_gpu: int | Literal["auto"] = "auto"
    workers: _Count | Literal["auto"] = "auto"
    shard_size: _Positive | Literal["auto"] = "auto"
    batch: _Positive | Literal["auto"] = "auto"
    own_shards_only: bool = False


# --- reading -----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-4`` is a number (YAML 1.1 wants ``1.0e-4``)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


class Source:
    """Where the keys of an option file stand, for error messages.

    Args:
        path: The file's path as the user gave it.
        lines: Line (from 1) of each key, by its path of keys.
    """

    def __init__(self, path: str, lines: Mapping[tuple[str, ...], int] | None = None) -> None:
        self.path = path
        self._lines = dict(lines or {})

    def fail(self, keys: Sequence[str], message: str) -> NoReturn:
        """Raise an `OptionError` for the key at ``keys``."""
        keys = tuple(keys)
        line = None
        for n in range(len(keys), 0, -1):
            line = line or self._lines.get(keys[:n])
        where = f"{self.path}:{line}" if line else self.path
        raise OptionError(f"{where}: {':'.join(keys) + ': ' if keys else ''}{message}")


def load_yaml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Source]:
    """Read an option file.

    Raises:
        OptionError: The file is missing, is not YAML, or repeats a key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = Path(path).parent
        near = difflib.get_close_matches(Path(path).name, [p.name for p in folder.glob("*.yml")], 1)
        hint = f"; did you mean {folder / near[0]}?" if near else "."
        raise OptionError(f"There is no option file {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"The option file {path} cannot be read: {error}.") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[tuple[str, ...], int] = {}
        _collect_lines(node, (), lines, str(path))
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise OptionError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(values, dict):
        raise OptionError(f"{path}: an option file is a mapping of keys to values; this one is {_kind(values)}.")
    return values, Source(str(path), lines)


def _collect_lines(node: Any, keys: tuple[str, ...], lines: dict[tuple[str, ...], int], path: str) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*keys, str(key.value))
        line = key.start_mark.line + 1
        if here in lines:
            raise OptionError(f"{path}:{line}: {':'.join(here)} is given twice (first in line {lines[here]}).")
        lines[here] = line
        _collect_lines(value, here, lines, path)


def apply_overrides(options: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply ``--force_yml`` entries such as ``train:optim_g:lr=1e-4`` in place; values are read as YAML."""
    for entry in overrides:
        keys, equals, value = entry.partition("=")
        if not equals or not keys:
            raise OptionError(f"--force_yml {entry}: write it as section:key=value.")
        *parents, last = [k.strip() for k in keys.split(":")]
        section = options
        for depth, key in enumerate(parents):
            where = ":".join(parents[: depth + 1])
            if key not in section:
                raise OptionError(f"--force_yml {entry}: there is no section {where}{nearest(key, section)}")
            if not isinstance(section[key], dict):
                raise OptionError(f"--force_yml {entry}: {where} is {_kind(section[key])}, not a section.")
            section = section[key]
        try:
            section[last] = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or error
            raise OptionError(f"--force_yml {entry}: the value is not valid YAML: {problem}.") from None


def nearest(word: str, known: typing.Iterable[str], prefix: str = "; did you mean ") -> str:
    """The end of a sentence: ``; did you mean 'X'?`` for the closest known word, or a full stop."""
    match = difflib.get_close_matches(str(word), [str(k) for k in known], 1, 0.5)
    return f"{prefix}'{match[0]}'?" if match else "."


def _kind(value: Any) -> str:
    return {dict: "a section", list: "a list", str: "text", bool: "a truth value", type(None): "empty"}.get(
        type(value), f"the {type(value).__name__} {value!r}"
    )


# --- checking ------------------------------------------------------------------------------------------------------


def check_section(value: Any, expected: type[msgspec.Struct], source: Source, keys: Sequence[str] = ()) -> None:
    """Check one section against its structure: unknown keys first (with the nearest known one), then types.

    Raises:
        OptionError: With file, line, key and fix.
    """
    _check_keys(value, expected, source, tuple(keys))
    try:
        msgspec.convert(value, expected, strict=True)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        found = tuple(k for k in re.split(r"\.|\[\.\.\.\]|\[\d+\]", where.rstrip("`")) if k)
        source.fail((*keys, *found), _plain_words(message))


def _plain_words(message: str) -> str:
    """msgspec's message with YAML's words for its types."""
    if "matching regex" in message:
        return "a name of a folder, without slashes and not empty."
    words = {"object": "section", "array": "list", "null": "nothing", "str": "text", "|": "or"}
    message = re.sub(
        r"`[^`]*`", lambda m: "`" + " ".join(words.get(w, w) for w in m[0].strip("`").split()) + "`", message
    )
    return f"{message[0].lower()}{message[1:]}."


def _check_keys(value: Any, expected: Any, source: Source, keys: tuple[str, ...]) -> None:
    if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        if not isinstance(value, dict):
            if value is not None:
                source.fail(keys, f"expected a section, not {_kind(value)}.")
            return
        fields = {f.encode_name: f for f in msgspec.structs.fields(expected)}
        for key, item in value.items():
            if key not in fields:
                source.fail((*keys, str(key)), f"unknown key{nearest(key, fields)} Known: {', '.join(fields)}.")
            _check_keys(item, fields[key].type, source, (*keys, str(key)))
        for name, field in fields.items():
            if field.required and name not in value:
                source.fail(keys, f"the key '{name}' is missing.")
        return
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        choices = typing.get_args(expected)
        word = isinstance(value, str) and any(typing.get_origin(choice) is Literal for choice in choices)
        for choice in () if word else choices:
            _check_keys(value, choice, source, keys)
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            _check_keys(item, typing.get_args(expected)[1], source, (*keys, str(key)))


def check_call(
    section: Any,
    target: Callable[..., Any],
    source: Source,
    keys: Sequence[str],
    given: Sequence[str] = (),
    strict: bool = False,
) -> None:
    """Check the keys of a section against the parameters of what will be called with them.

    Args:
        section: Keys and values; ``type`` is ignored.
        target: Class or function. One that takes ``**kwargs`` accepts every key, unless ``strict``.
        source: For the message.
        keys: Where the section stands.
        given: Parameters that the caller fills in itself.
        strict: Refuse unknown keys also where ``**kwargs`` would swallow them.
    """
    parameters = inspect.signature(target).parameters
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not strict
    fixed = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    names = [n for n in fixed if n not in ("self", *given)]
    for key in section:
        if key != "type" and key not in names and not swallows:
            source.fail(
                (*keys, str(key)),
                f"{target.__name__} has no such option{nearest(key, names)} Known: {', '.join(names)}.",
            )
    for name in names:
        parameter = parameters[name]
        if parameter.default is parameter.empty and name not in section:
            source.fail(keys, f"{target.__name__} needs the key '{name}'.")


def registered(section: Any, registry: Registry, kind: str, source: Source, keys: Sequence[str]) -> Any:
    """The registered object that the section's ``type`` names.

    Raises:
        OptionError: There is none of that name; the message lists the nearest.
    """
    if not isinstance(section, dict) or "type" not in section:
        source.fail(keys, f"a {kind} is a section with the key 'type'.")
    name = section["type"]
    # BasicSR registers some of its own under a suffix that its look-up adds again.
    found = {n.removesuffix("_basicsr"): v for n, v in registry}
    found.update(iter(registry))
    if name not in found:
        source.fail(
            (*keys, "type"),
            f"no {kind} '{name}' is registered{nearest(str(name), found)} Registered: "
            f"{', '.join(sorted(found))} (BasicSR imported from {basicsr_location()}).",
        )
    return found[name]


def check_options(options: dict[str, Any], source: Source, *, is_train: bool) -> None:
    """Check a whole option file. Those of BasicSR's own models are checked only where sections of ours appear.

    Raises:
        OptionError: The first thing found wrong.
    """
    if "photographs" in options and "model_type" not in options:
        source.fail((), "this is an option file of `basicsr pseudo`.")
    for key in ("name", "model_type", "datasets"):
        if key not in options:
            source.fail((), f"the key '{key}' is missing.")
    for key in ("datasets", "train", "val", "path", "logger"):
        needed = key == "datasets" or (key == "train" and is_train)
        if (needed or options.get(key) is not None) and not isinstance(options.get(key), dict):
            source.fail((key,), f"expected a section, not {_kind(options.get(key))}.")
    model_type = options["model_type"]
    if model_type not in dict(iter(MODEL_REGISTRY)):
        names = [n for n, _ in MODEL_REGISTRY]
        known = f"Registered: {', '.join(names)}."
        source.fail(("model_type",), f"no model '{model_type}'{nearest(str(model_type), names)} {known}")
    ours = model_type in OUR_MODELS
    if ours:
        check_section(options, Options, source)
    for key, network in options.items():
        if key.startswith("network_") and network is not None:
            arch = registered(network, ARCH_REGISTRY, "network", source, (key,))
            check_call(network, arch, source, (key,))
    for phase, dataset in options["datasets"].items():
        if not isinstance(dataset, dict):
            source.fail(("datasets", phase), f"expected a section, not {_kind(dataset)}.")
        if dataset.get("type") in OUR_DATASETS:
            structure = OnlineDataset if dataset["type"] == "OnlineSemiSupervisedDataset" else Dataset
            check_section(dataset, structure, source, ("datasets", phase))
        registered(dataset, DATASET_REGISTRY, "data set", source, ("datasets", phase))
    metrics = (options.get("val") or {}).get("metrics") or {}
    for name, metric in metrics.items():
        where = ("val", "metrics", name)
        function = registered(metric, METRIC_REGISTRY, "metric", source, where)
        if ours:
            call = {k: v for k, v in metric.items() if k != "better"}
            check_call(call, function, source, where, ("img", "img2"), strict=True)
    if ours:
        _check_phase(options, source, is_train=is_train)


def _check_phase(options: dict[str, Any], source: Source, *, is_train: bool) -> None:
    path = options.get("path") or {}
    if not is_train:
        if not path.get("pretrain_network_g"):
            source.fail(("path",), "testing needs 'pretrain_network_g', the checkpoint to test.")
        if options.get("network_global") and not path.get("pretrain_network_global"):
            source.fail(("path",), "'pretrain_network_global' is missing (or leave network_global out).")
        if not [p for p in options["datasets"] if p != "train"]:
            source.fail(("datasets",), "there is no data set to test: add a section such as 'test_1'.")
        return
    train = options.get("train")
    if train is None:
        source.fail((), "the section 'train' is missing.")
    if "train" not in options["datasets"]:
        source.fail(("datasets",), "the section 'train' is missing.")
    dataset = options["datasets"]["train"]
    semi = options["model_type"] in _SEMI_SUPERVISED
    if semi and dataset.get("type") not in _WITH_PSEUDO:
        known = f"a {_WITH_PSEUDO[0]} or an {_WITH_PSEUDO[1]}"
        source.fail(("datasets", "train", "type"), f"{options['model_type']} trains on {known}.")
    for key, models in _KEYS_OF_SOME_MODELS.items():
        if train.get(key) is not None and options["model_type"] not in models:
            only = f"{' and '.join(models)} {'has' if len(models) == 1 else 'have'}"
            source.fail(("train", key), f"only {only} this; {options['model_type']} would ignore it.")
    if options.get("network_global") and options["model_type"] != "ISPModel":
        source.fail(("network_global",), f"only ISPModel has this; {options['model_type']} would ignore it.")
    if dataset.get("type") in OUR_DATASETS:
        here = ("datasets", "train")
        if dataset.get("gt_size") is None:
            source.fail(here, "training needs 'gt_size', a side or [height, width] in pixels.")
        if (dataset["type"] in _WITH_PSEUDO) != semi:
            source.fail((*here, "type"), f"{options['model_type']} does not train on a {dataset['type']}.")
        needed = ("real_per_batch", "pseudo_per_batch", "pseudo") if semi else ("batch_size_per_gpu",)
        for key in needed:
            if dataset.get(key) is None:
                source.fail(here, f"{dataset['type']} needs '{key}' for training.")
    if options["model_type"] == "MeanTeacherModel" and not train.get("ema_decay"):
        source.fail(
            ("train", "ema_decay"), "the teacher is the average of the student's weights; give a decay such as 0.999."
        )
    if options["model_type"] == "SemiSupervisedModel" and train.get("filter") is None:
        source.fail(("train",), "SemiSupervisedModel needs the section 'filter' with 'beta' (Table 6: 1.0 or 1.2).")
    losses = [k for k in ("pixel_opt", "perceptual_opt", "ssim_opt") if train.get(k)]
    if not losses:
        source.fail(("train",), "there is no loss: give pixel_opt, perceptual_opt or ssim_opt.")
    for key in losses:
        loss = registered(train[key], LOSS_REGISTRY, "loss", source, ("train", key))
        check_call(train[key], loss, source, ("train", key))
        if train[key].get("reduction", "mean") not in ("mean", "none"):
            source.fail(("train", key, "reduction"), "the models here average over samples; leave it out.")
        if "reduction" not in inspect.signature(loss).parameters:
            source.fail(("train", key, "type"), "this loss cannot be taken per sample (it has no 'reduction').")
    _check_scheduler(train.get("scheduler"), source)
    if "type" not in train["optim_g"]:
        source.fail(("train", "optim_g"), "the key 'type' is missing, such as AdamW.")
    optimiser = train["optim_g"]["type"]
    classes = [n for n in dir(torch.optim) if inspect.isclass(getattr(torch.optim, n)) and n != "Optimizer"]
    if optimiser not in classes:
        source.fail(("train", "optim_g", "type"), f"torch.optim has no '{optimiser}'{nearest(str(optimiser), classes)}")
    check_call(train["optim_g"], getattr(torch.optim, optimiser), source, ("train", "optim_g"), ("params",))
    if options.get("val") and options["val"].get("val_freq") is None:
        source.fail(("val",), "training needs 'val_freq', in iterations (or leave out the section 'val').")


def _check_scheduler(scheduler: dict[str, Any] | None, source: Source) -> None:
    if scheduler is None:
        return
    here = ("train", "scheduler")
    kinds: dict[str, Callable[..., Any]] = {
        "CosineAnnealing": _cosine_annealing,
        "Constant": _constant,
        "MultiStepLR": lr_schedulers.MultiStepRestartLR,
        "MultiStepRestartLR": lr_schedulers.MultiStepRestartLR,
        "CosineAnnealingRestartLR": lr_schedulers.CosineAnnealingRestartLR,
    }
    kind = scheduler.get("type")
    if kind not in kinds:
        source.fail((*here, "type"), f"no scheduler '{kind}'{nearest(str(kind), kinds)} Known: {', '.join(kinds)}.")
    check_call(scheduler, kinds[kind], source, here, ("optimizer", "last_epoch"))


def _cosine_annealing(total_iter: int = 0, eta_min_ratio: float = 1e-3) -> None:
    """The options of the scheduler of that name, for `check_call`."""


def _constant() -> None:
    """As `_cosine_annealing`."""


# --- the command line's options -> the dictionary that models and data sets get -----------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add BasicSR's training and test arguments to a parser."""
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="job launcher")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the run's latest checkpoint, if any")
    parser.add_argument("--debug", action="store_true", help="log every iteration, validate every 8")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options: train:ema_decay=0.999"
    )


def load_options(
    path: str | os.PathLike[str],
    *,
    root_path: str,
    is_train: bool,
    overrides: Sequence[str] = (),
    debug: bool = False,
) -> dict[str, Any]:
    """Read, override, check and complete an option file for training or testing.

    Args:
        path: The option file.
        root_path: Folder that gets ``experiments/``, ``tb_logger/`` and ``results/``.
        is_train: Training (True) or testing.
        overrides: ``--force_yml`` entries.
        debug: BasicSR's debug mode.

    Returns:
        The options as BasicSR's models expect them.
    """
    options, source = load_yaml(path)
    apply_overrides(options, overrides)
    return complete(options, source, root_path=root_path, is_train=is_train, debug=debug)


def complete(
    options: dict[str, Any], source: Source, *, root_path: str, is_train: bool, debug: bool = False
) -> dict[str, Any]:
    """Check options and add what BasicSR derives from them: paths, phases, GPU count, debug settings."""
    check_options(options, source, is_train=is_train)
    options.setdefault("num_gpu", "auto")
    options.setdefault("manual_seed", 0)
    if options["manual_seed"] is None:
        options["manual_seed"] = 0
    options["path"] = options.get("path") or {}
    options["logger"] = options.get("logger") or {}
    options["logger"].setdefault("print_freq", 100)
    options["logger"].setdefault("save_checkpoint_freq", 5000)
    options["logger"].setdefault("use_tb_logger", True)
    options["is_train"] = is_train
    options["root_path"] = str(root_path)
    options["num_gpu"] = resolve_gpus(options["num_gpu"], source)
    if debug and not options["name"].startswith("debug"):
        options["name"] = "debug_" + options["name"]
    for name, dataset in options["datasets"].items():
        dataset["phase"] = name.split("_")[0]
        dataset["scale"] = options.get("scale", 1)
        dataset.setdefault("name", name)
        for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
            if dataset.get(key) is not None:
                dataset[key] = os.path.expanduser(dataset[key])
        if dataset["type"] == "OnlineSemiSupervisedDataset" and dataset.get("pseudo"):
            dataset["pseudo"]["build"] = os.path.expanduser(dataset["pseudo"]["build"])
    paths = options["path"]
    for key, value in paths.items():
        if isinstance(value, str):
            paths[key] = os.path.expanduser(value)
    if options.get("val") is None and not is_train:
        options["val"] = {}
    if options.get("val") is not None:
        options["val"].setdefault("save_img", False)
        options["val"].setdefault("suffix", None)
    if is_train:
        run = os.path.join(root_path, "experiments", options["name"])
        paths.update(
            experiments_root=run,
            models=os.path.join(run, "models"),
            training_states=os.path.join(run, "training_states"),
            log=run,
            visualization=os.path.join(run, "visualization"),
        )
        if "debug" in options["name"]:
            if options.get("val"):
                options["val"]["val_freq"] = 8
            options["logger"].update(print_freq=1, save_checkpoint_freq=8)
    else:
        run = os.path.join(root_path, "results", options["name"])
        paths.update(results_root=run, log=run, visualization=os.path.join(run, "visualization"))
    return options


def resolve_gpus(num_gpu: int | str | None, source: Source) -> int:
    """Number of GPUs to use: ``auto`` takes what there is, a positive number must be there."""
    available = torch.cuda.device_count()
    if num_gpu in ("auto", None):
        return available
    if not isinstance(num_gpu, int) or num_gpu < 0:
        source.fail(("num_gpu",), f"give a number of GPUs or 'auto', not {num_gpu!r}.")
    if num_gpu > available:
        source.fail(("num_gpu",), f"{num_gpu} asked for, {available} found; use 'auto', or 0 for the CPU.")
    return num_gpu


def load_pseudo_options(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PseudoOptions:
    """Read, override, check and complete an option file of ``basicsr pseudo``."""
    values, source = load_yaml(path)
    apply_overrides(values, overrides)
    return complete_pseudo_options(values, source)


def complete_pseudo_options(values: dict[str, Any], source: Source) -> PseudoOptions:
    """Check the options of ``basicsr pseudo``, wherever they come from, and resolve ``~`` and the GPU count.

    Raises:
        OptionError: The first thing found wrong.
    """
    if "model_type" in values:
        source.fail((), "this is an option file of `basicsr train` or `basicsr test`.")
    check_section(values, PseudoOptions, source)
    options = msgspec.convert(values, PseudoOptions)
    if options.source not in ("bank", "mixture") and options.sets == "local":
        source.fail(("sets",), f"source: {options.source} knows no local sets; leave it at auto, or source at bank.")
    if options.source == "upi" and options.inverse != "exact":
        source.fail(("inverse",), "source: upi does not invert f_ISP; leave it out.")
    if (options.source == "fitted") != bool(options.dataroot_lq and options.dataroot_gt):
        source.fail(("source",), "fitted, and no other, needs dataroot_lq and dataroot_gt, the labelled pairs.")
    if options.source not in ("bank", "mixture", "fitted") and options.draw_per != "auto":
        source.fail(("draw_per",), f"source: {options.source} draws no functions' sets; leave it at auto.")
    if options.source == "fitted" and options.mode != "stored":
        source.fail(("mode",), "source: fitted needs the pairs and is for stored inputs only; choose source: mixture.")
    if options.source == "deterministic" and options.draws > 1:
        source.fail(("draws",), "source: deterministic makes the same pair at each draw; leave it at 1.")
    if options.meta_info_file and options.source != "fitted":
        source.fail(("meta_info_file",), "it selects labelled pairs, which only source: fitted reads; leave it out.")
    for key in ("photographs", "f_isp", "out", "dataroot_lq", "dataroot_gt", "meta_info_file"):
        if getattr(options, key) is not None:
            setattr(options, key, os.path.expanduser(getattr(options, key)))
    options.num_gpu = resolve_gpus(options.num_gpu, source)
    return options
