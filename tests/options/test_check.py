"""Whole option files against the structures, calls and registries: what is wrong, where, and what was perhaps meant."""

import math
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import yaml

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.models.learning_rate import schedule_factor
from semiisp_plugin.models.semi_supervised_model import SemiSupervisedModel
from semiisp_plugin.models.supervised_model import SupervisedModel
from semiisp_plugin.options import (
    OptionError,
    Source,
    check_any_options,
    check_options,
    complete,
    is_plugin_dataset,
    is_plugin_model,
    load_options,
    nearest,
    resolve_gpus,
)
from semiisp_plugin.options.sections import check_call
from semiisp_plugin.options.structures import (
    Dataset,
    HeldOut,
    MetricKeys,
    Options,
    Strict,
    Train,
    doc,
    held_out_settings,
)
from semiisp_plugin.toolbox import ARCH_REGISTRY, DATASET_REGISTRY, FILTER_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

# --- what somebody may write -----------------------------------------------------------------------------------------


class MySchedule(Strict):
    first: Annotated[int, doc("Of a schedule of one's own.")] = 1


class MyTrain(Train):
    my_strength: Annotated[float, doc("A key of one's own.")] = 1.0
    my_schedule: MySchedule | None = None
    my_opt: Annotated[dict[str, Any] | None, doc("A loss of one's own.", names="loss")] = None


class MyOptions(Options):
    train: MyTrain | None = None
    my_colour: str = "red"


class MySemi(SemiSupervisedModel):
    options_struct = MyOptions


class MyJittered(SupervisedModel):
    pass


class MyPairedOptions(Dataset):
    needed: int
    sharpness: float = 1.0


class MyPaired(PairedRestorationDataset):
    options_struct = MyPairedOptions


class SomebodysData(torch.utils.data.Dataset):
    """Not derived from the plugin's."""


class Annotations(torch.nn.Module):
    def __init__(self, width: int = 8, depths: list[int] | None = None, plain=3, rate: float = 1):
        super().__init__()


def plain_metric(img, img2, border=0):
    return 0.0


def band(per_sample_loss, is_pseudo, *, reference, low=0.1, high):
    return ((per_sample_loss / reference.item()) <= high).to(per_sample_loss.dtype)


def positional(per_sample_loss, is_pseudo, low=0.1, *, reference):
    return torch.ones_like(per_sample_loss)


def swallowing(per_sample_loss, is_pseudo, *, reference, **options):
    return torch.ones_like(per_sample_loss)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for registry, things in (
        (MODEL_REGISTRY, (MySemi, MyJittered)),
        (DATASET_REGISTRY, (MyPaired, SomebodysData)),
        (ARCH_REGISTRY, (Annotations,)),
        (METRIC_REGISTRY, (plain_metric,)),
        (FILTER_REGISTRY, (band, positional, swallowing)),
    ):
        monkeypatch.setattr(registry, "_obj_map", {**registry._obj_map, **{t.__name__: t for t in things}})


@pytest.fixture
def check(option_files):
    def check(change, file="semi"):
        options = yaml.safe_load(Path(getattr(option_files, file)()).read_text(encoding="utf-8"))
        change(options)
        source = Source("o.yml")
        check_options(options, source, is_train=True)
        check.warnings = source.warnings
        return options

    return check


def edited(path: str, change) -> str:
    options = yaml.safe_load(Path(path).read_text())
    change(options)
    Path(path).write_text(yaml.safe_dump(options, sort_keys=False))
    return path


# --- messages --------------------------------------------------------------------------------------------------------


def test_nearest():
    assert nearest("totl_iter", ["total_iter", "warmup_iter"]) == "; did you mean 'total_iter'?"
    assert nearest("zzz", ["total_iter"]) == "."
    assert nearest("Adamw", ["Adam", "AdamW"]) == "; did you mean 'AdamW'?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("name"), r"isp\.yml: the key 'name' is missing"),
        (
            lambda o: o.update(model_type="IspModel"),
            "model_type: no model 'IspModel' is registered; did you mean 'ISPMod",
        ),
        (lambda o: o["logger"].update(print_frq=3), r"logger:print_frq: unknown key; did you mean 'print_freq'\?"),
        (lambda o: o["train"].update(filter={"beta": 1}), r"train:filter: only SemiSupervisedModel has this; ISPModel"),
        (
            lambda o: o["train"].update(scheduler=[]),
            "train:scheduler: expected a section or nothing, got an empty list",
        ),
        (lambda o: o.update(scale=2), "scale: "),
        (
            lambda o: o.update(manual_seed="zero"),
            "manual_seed: expected a whole number from 0 to [0-9,]+, got the text 'zero'",
        ),
        (lambda o: o["datasets"].update(val=3), "datasets:val: a data set is a section with the key 'type', not the"),
        (lambda o: o["datasets"].pop("train"), "datasets: the section 'train' is missing"),
        (lambda o: o["datasets"]["train"].pop("gt_size"), "datasets:train: training needs 'gt_size'"),
        (lambda o: o["datasets"]["train"].pop("batch_size_per_gpu"), "needs 'batch_size_per_gpu'"),
        (
            lambda o: o["datasets"]["train"].update(crop_ratio=[0.6, 1.0]),
            "train:crop_ratio: gt_size says already how large the crop is",
        ),
        (
            lambda o: o["datasets"]["train"].update(crop_ratio=[0.6, 1.0], gt_size=None),
            "train:crop_ratio: every crop has a size of its own, which fits into batches of 1 only",
        ),
        (
            lambda o: o["datasets"]["train"].update(crop_ratio=[0.6, 1.2], gt_size=None, batch_size_per_gpu=1),
            "train:crop_ratio: give the least and the largest share",
        ),
        (
            lambda o: o["datasets"]["train"].update(crop_ratio=0.6, gt_size=None, batch_size_per_gpu=1),
            "train:crop_ratio: expected a list",
        ),
        (
            lambda o: o["datasets"]["train"].update(type="SemiSupervisedDataset"),
            "ISPModel does not train on a SemiSupervisedDataset",
        ),
        (
            lambda o: o["datasets"]["train"]["io_backend"].update(type="dsk"),
            "datasets:train:io_backend:type: 'dsk' is none of the choices; did you mean 'disk'. Choose disk or lmdb",
        ),
        (lambda o: o["train"].pop("optim_g"), "the key 'optim_g' is missing"),
        (lambda o: o["train"]["pixel_opt"].update(type="MSLoss"), r"no loss 'MSLoss' is registered; did you mean "),
        (lambda o: o["val"].pop("val_freq"), "val: training needs 'val_freq'"),
        (lambda o: o["network_g"].pop("type"), "network_g: a network is a section with the key 'type'"),
    ],
)
def test_wrong_files(option_files, change, message):
    path = edited(option_files.isp(), change)
    with pytest.raises(OptionError, match=message):
        load_options(path, root_path=".", is_train=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["train"].pop("filter"), "SemiSupervisedModel needs the section 'filter' with 'beta'"),
        (
            lambda o: o["train"].update(filter={"bta": 1}),
            r"train:filter:bta: threshold has no such option; did you mean 'beta'\?",
        ),
        (lambda o: o["train"].update(filter={}), r"train:filter: threshold needs the key 'beta'"),
        (lambda o: o["datasets"]["train"].pop("pseudo"), "SemiSupervisedDataset needs 'pseudo'"),
        (lambda o: o["datasets"]["train"].pop("pseudo_per_batch"), "needs 'pseudo_per_batch'"),
        (
            lambda o: o["datasets"]["train"]["pseudo"].update(dataroot="x"),
            r"datasets:train:pseudo:dataroot: unknown key; did you mean 'dataroot_",
        ),
        (lambda o: o["train"]["noise"].update(shot=1), r"train:noise:shot: unknown key\. Known: shot_variance, "),
        (lambda o: o["train"].update(noise="estimate"), r"train:noise: .*'estimate'"),
        (lambda o: o["train"]["filter"].update(reference="runing"), r"train:filter:reference: .*'runing'"),
        (lambda o: o["train"].update(photometric_jitter=0.2), "only SupervisedModel and ISPModel have this"),
    ],
)
def test_wrong_semi_supervised_files(option_files, change, message):
    path = edited(option_files.semi(), change)
    with pytest.raises(OptionError, match=message):
        load_options(path, root_path=".", is_train=True)


# --- keys of the training pipeline ----------------------------------------------------------------------------------


def table6_batch(options, total=None, **changes):
    data = options["datasets"]["train"]
    data.update(real_per_batch="table6", pseudo_per_batch="table6", **changes)
    if total is not None:
        data["batch_size_per_gpu"] = total


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (lambda o: o["train"].update(precision="bf16", compile="max-autotune"), ("train", "precision", "bf16")),
        (lambda o: o["train"].update(compile=True, channels_last=True), ("train", "compile", True)),
        (lambda o: o["train"].update(accumulate=4, nonfinite_limit=1), ("train", "accumulate", 4)),
        (lambda o: o.update(deterministic=True), ("deterministic", True)),
        (
            lambda o: o["logger"].update(keep_last=3, keep_best="psnr", safetensors=True),
            ("logger", "keep_best", "psnr"),
        ),
        (lambda o: o["logger"].update(keep_last=None), ("logger", "keep_last", None)),
        (
            lambda o: o["datasets"]["train"].update(prefetch_factor=4, timeout=0),
            ("datasets", "train", "prefetch_factor", 4),
        ),
        (
            lambda o: o["datasets"]["val"].update(batch_size_per_gpu=2, num_worker_per_gpu=1),
            ("datasets", "val", "batch_size_per_gpu", 2),
        ),
        (table6_batch, ("datasets", "train", "real_per_batch", "table6")),
        (lambda o: table6_batch(o, 12), ("datasets", "train", "batch_size_per_gpu", 12)),
        (lambda o: o["train"]["filter"].update(beta="table6"), ("train", "filter", "beta", "table6")),
        (lambda o: o["train"]["filter"].update(beta=math.inf), ("train", "filter", "beta", math.inf)),
        (
            lambda o: o["train"].update(filter={"type": "soft", "beta": 1, "temperature": 0.5}),
            ("train", "filter", "temperature", 0.5),
        ),
        (lambda o: o["train"].update(filter={"type": "quantile", "keep": 0.8}), ("train", "filter", "keep", 0.8)),
        (
            lambda o: o["train"]["filter"].update(reference="running", momentum=0.9),
            ("train", "filter", "momentum", 0.9),
        ),
        (
            lambda o: o["train"]["filter"].update(reference="held_out", held_out={"count": 4, "every": 10}),
            ("train", "filter", "held_out", {"count": 4, "every": 10}),
        ),
        (lambda o: o["train"].update(total_iter=1e5), ("train", "total_iter", 100000)),
    ],
)
def test_keys_of_the_pipeline(option_files, change, value):
    options = load_options(edited(option_files.semi(), change), root_path=".", is_train=True)
    *keys, expected = value
    for key in keys:
        options = options[key]
    assert options == expected
    assert type(options) is type(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda o: o["train"].update(precision="fp8"),
            r"yml:\d+: train:precision: 'fp8' is none of the choices; did you mean 'fp32'. Choose fp32, bf16 or fp16",
        ),
        (lambda o: o["train"].update(compile="fast"), "train:compile: "),
        (
            lambda o: o["train"].update(accumulate=0),
            "train:accumulate: expected a whole number from 1 to 1,000,000,000, got",
        ),
        (
            lambda o: o["train"].update(accumulate=1.5),
            "train:accumulate: expected a whole number from 1 to 1,000,000,000, got the number",
        ),
        (
            lambda o: o["train"].update(total_iter=2.5),
            "train:total_iter: expected a whole number from 1 to 1,000,000,000, got the number",
        ),
        (
            lambda o: o["logger"].update(keep_best="lpips"),
            "keep_best: 'lpips' is no metric of val:metrics; those are: psnr",
        ),
        (
            lambda o: o["logger"].update(keep_last=0),
            "logger:keep_last: expected a whole number from 1 to 1,000,000,000, got",
        ),
        (
            lambda o: o["datasets"]["train"].update(real_per_batch="table6"),
            "pseudo_per_batch: real_per_batch is table6",
        ),
        (
            lambda o: o["datasets"]["train"].update(pseudo_per_batch="table6"),
            "real_per_batch: pseudo_per_batch is table6",
        ),
        (
            lambda o: o["datasets"]["train"].update(real_per_batch="auto", pseudo_per_batch="auto"),
            "datasets:train:real_per_batch: `auto` is called `table6` now",
        ),
        (
            lambda o: table6_batch(o) or o["datasets"]["train"].update(pseudo_per_batch="auto"),
            "datasets:train:pseudo_per_batch: `auto` is called `table6` now",
        ),
        (lambda o: o["train"]["filter"].update(beta="auto"), "train:filter:beta: `auto` is called `table6` now"),
        (lambda o: o["datasets"]["train"].update(batch_size_per_gpu=4), "real_per_batch and pseudo_per_batch together"),
        (lambda o: table6_batch(o, 1), "a batch of 1 cannot hold"),
        (lambda o: o.update(name="日" * 90), "name: expected a text of at most 200 bytes as UTF-8, got 270"),
        (lambda o: o["datasets"]["val"].update(gt_size=32), "datasets:val:gt_size: only training uses this"),
        (lambda o: o["datasets"]["val"].update(timeout=3), "datasets:val:timeout: only training uses this"),
        (lambda o: o["datasets"]["train"].update(seeded_order=True), "datasets:train:seeded_order: unknown key"),
        (
            lambda o: o["datasets"].update(
                val_2={**o["datasets"]["val"], "name": o["datasets"]["val"]["name"].upper()}
            ),
            "datasets:val_2:name: datasets:val is called '.*', too, and their results would overwrite each other",
        ),
        (lambda o: o["datasets"]["val"].update(name="a/b"), "datasets:val:name: expected a name of a folder"),
        (lambda o: o["val"].update(suffix="../up"), "val:suffix: expected a name of a folder"),
        (
            lambda o: o["train"]["filter"].update(type="treshold"),
            "no filter 'treshold' is registered; did you mean 'thr",
        ),
        (lambda o: o["train"]["filter"].update(temperature=1), "filter:temperature: threshold has no such option"),
        (lambda o: o["train"].update(filter={"type": "soft", "beta": 1}), "filter: soft needs the key 'temperature'"),
        (lambda o: o["train"]["filter"].update(beta=-1), "filter:beta: expected a number of 0 or more, got -1"),
        (
            lambda o: o["train"]["filter"].update(beta="automatic"),
            "filter:beta: expected a number of 0 or more, got the text",
        ),
        (lambda o: o["train"]["filter"].update(momentum=0.9), "filter:momentum: it is of reference: running"),
        (lambda o: o["train"]["filter"].update(held_out={}), "filter:held_out: it is of reference: held_out"),
        (
            lambda o: o["train"]["filter"].update(reference="held_out", held_out={"number": 3}),
            r"filter:held_out:number: unknown key. Known: count, every",
        ),
        (
            lambda o: o["train"]["filter"].update(reference="held_out", held_out={"count": 0}),
            r"filter:held_out:count: expected a whole number from 1 to 1,000,000,000, got",
        ),
        (
            lambda o: o["train"]["optim_g"].update(lr="fast"),
            "optim_g:lr: expected a number from 0 to 1,000,000,000, got the text 'fast'",
        ),
        (lambda o: o["train"]["optim_g"].update(betas=[0.9]), "optim_g:betas: expected a list of length 2, got 1"),
        (
            lambda o: o["network_g"].update(thumbnail="small"),
            "network_g:thumbnail: expected a whole number from 32 to 4,096 or nothing, got",
        ),
        (lambda o: o["val"]["metrics"]["psnr"].update(better="more"), "psnr:better: .*'more'"),
        (lambda o: o["val"]["metrics"]["psnr"].update(crop="0"), "psnr:crop: calculate_psnr has no such option"),
        (lambda o: o.update(extends="a.yml"), "extends: there is no option file .*a.yml"),
    ],
)
def test_wrong_keys_of_the_pipeline(option_files, change, message):
    path = edited(option_files.semi(), change)
    with pytest.raises(OptionError, match=message):
        load_options(path, root_path=".", is_train=True)


def test_supervised_training_takes_no_pseudo_data(option_files):
    for key, value in (("real_per_batch", 1), ("pseudo_per_batch", "table6"), ("pseudo", {"build": "b"})):
        path = edited(option_files.isp(), lambda o, k=key, v=value: o["datasets"]["train"].update({k: v}))
        with pytest.raises(OptionError, match=f"datasets:train:{key}"):
            load_options(path, root_path=".", is_train=True)


# --- unlabelled inputs ----------------------------------------------------------------------------------------------

INPUTS = {"dataroot_lq": "dark", "io_backend": {"type": "disk"}}
UNLABELLED_KEYS = ("unlabelled", "unlabelled_per_batch")


def with_unlabelled(options, model="MixMatchModel", pseudo=False, **train):
    """A file of `OptionFiles.semi` as one of another model; without pseudo pairs unless they are asked for."""
    options["model_type"] = model
    for key in ("filter", "noise"):
        options["train"].pop(key, None)
    options["train"].update(train)
    data = options["datasets"]["train"]
    data.update(unlabelled=dict(INPUTS), unlabelled_per_batch=4)
    for key in () if pseudo else ("pseudo", "pseudo_per_batch"):
        data.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        with_unlabelled,
        lambda o: with_unlabelled(o, mixmatch={"alpha": 0.5, "weight": 0, "rampup_iter": 1e3}),
        lambda o: with_unlabelled(o, pseudo=True),
        lambda o: with_unlabelled(o, "MeanTeacherModel", mean_teacher={"jitter": 0, "student_noise": {}}),
        lambda o: with_unlabelled(o, "MeanTeacherModel", pseudo=True),
        lambda o: with_unlabelled(o, "LabelBankModel", pseudo=True),
        lambda o: with_unlabelled(
            o, "LatentTeacherModel", latent_teacher={"latent": "backbone", "student_noise": None}
        ),
        lambda o: with_unlabelled(o, "SemiSupervisedModel", True, filter={"beta": 1}, consistency={"noise": {}}),
        lambda o: with_unlabelled(o, "MySemi", True, filter={"beta": 1}, consistency={}),
        lambda o: (with_unlabelled(o, pseudo=True), table6_batch(o, 12)),
        # Pseudo inputs alone are unlabelled samples, too.
        lambda o: (with_unlabelled(o, pseudo=True), [o["datasets"]["train"].pop(k) for k in UNLABELLED_KEYS]),
    ],
)
def test_what_may_be_trained_on_unlabelled_inputs(check, change):
    options = complete(check(change), Source("o.yml"), root_path=".", is_train=True)
    data = options["datasets"]["train"]
    assert not data.get("unlabelled") or data["unlabelled"]["cache_images"] is False
    noise = (options["train"].get("mean_teacher") or {}).get("student_noise")
    assert noise in (None, {"shot_variance": 0.01, "read_variance": 0.0002})


def of_train(change):
    """A file of MixMatch whose training data are changed."""
    return lambda options: (with_unlabelled(options), change(options["datasets"]["train"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            of_train(lambda d: d.pop("unlabelled_per_batch")),
            r"datasets:train: SemiSupervisedDataset needs 'unlabelled_per_batch' for training: how many",
        ),
        (
            of_train(lambda d: d.pop("unlabelled")),
            "datasets:train:unlabelled_per_batch: there are no unlabelled inputs: add the section 'unlabelled' with",
        ),
        (
            of_train(lambda d: [d.pop(key) for key in UNLABELLED_KEYS]),
            "datasets:train: MixMatchModel needs unlabelled samples: give 'unlabelled' and 'unlabelled_per_batch', or",
        ),
        (of_train(lambda d: d.pop("real_per_batch")), "SemiSupervisedDataset needs 'real_per_batch' for training"),
        (of_train(lambda d: d.update(pseudo_per_batch=2)), "SemiSupervisedDataset needs 'pseudo' for training"),
        (
            of_train(lambda d: d.update(real_per_batch="table6")),
            "train:real_per_batch: table6 divides a batch into real and pseudo pairs, and there are no pseudo pairs",
        ),
        (
            of_train(lambda d: d.update(unlabelled_per_batch=0)),
            "unlabelled_per_batch: expected a whole number from 1 to",
        ),
        (
            of_train(lambda d: d["unlabelled"].update(dataroot_gt="x")),
            r"datasets:train:unlabelled:dataroot_gt: unknown key; did you mean 'dataroot_lq'\?",
        ),
        (of_train(lambda d: d["unlabelled"].pop("dataroot_lq")), "unlabelled: the key 'dataroot_lq' is missing"),
        (
            of_train(lambda d: d.update(type="PairedRestorationDataset")),
            "datasets:train:type: MixMatchModel trains on a SemiSupervisedDataset",
        ),
        (
            lambda o: (with_unlabelled(o), o.update(model_type="SupervisedModel")),
            "datasets:train:type: SupervisedModel does not train on a SemiSupervisedDataset",
        ),
        (
            lambda o: with_unlabelled(o, "SemiSupervisedModel", True, filter={"beta": 1}),
            r"datasets:train:unlabelled: SemiSupervisedModel uses unlabelled inputs by the section train:consistency "
            r"alone; add it \(consistency: \{\}\), or leave unlabelled and unlabelled_per_batch out",
        ),
        (
            lambda o: o["train"].update(consistency={}),
            "train:consistency: it is of unlabelled inputs, and there are none",
        ),
        (
            lambda o: with_unlabelled(o, "MeanTeacherModel", mixmatch={}),
            "train:mixmatch: only MixMatchModel has this; MeanTeacherModel would ignore it",
        ),
        (lambda o: o["datasets"]["val"].update(unlabelled=INPUTS), "datasets:val:unlabelled: only training uses this"),
    ],
)
def test_what_does_not_go_together_with_unlabelled_inputs(option_files, change, message):
    path = edited(option_files.semi(), change)
    with pytest.raises(OptionError, match=rf"semi\.yml:\d+: .*{message}"):
        load_options(path, root_path=".", is_train=True)


def test_supervised_training_takes_no_unlabelled_inputs(option_files):
    for key, value in (("unlabelled", INPUTS), ("unlabelled_per_batch", 2)):
        path = edited(option_files.isp(), lambda o, k=key, v=value: o["datasets"]["train"].update({k: v}))
        with pytest.raises(OptionError, match=f"datasets:train:{key}: a PairedRestorationDataset has no unlabelled in"):
            load_options(path, root_path=".", is_train=True)


def test_where_unlabelled_inputs_are(check, monkeypatch):
    """Home folders are found; a backend that does not fit the name is told."""
    monkeypatch.setenv("HOME", "/home/me")

    def change(options):
        with_unlabelled(options)
        options["datasets"]["train"]["unlabelled"].update(dataroot_lq="~/dark", io_backend={"type": "lmdb"})

    options = check(change)
    assert any("unlabelled:io_backend: is lmdb, but dataroot_lq is read as a folder" in w for w in check.warnings)
    options = complete(options, Source("o.yml"), root_path=".", is_train=True)
    assert options["datasets"]["train"]["unlabelled"]["dataroot_lq"] == "/home/me/dark"


def test_a_source_of_no_file_does_not_follow_extends(option_files):
    values = {**yaml.safe_load(Path(option_files.isp()).read_text()), "extends": "a.yml"}
    with pytest.raises(OptionError, match="isp: extends: it is followed where a file is read"):
        complete(values, Source("isp"), root_path=".", is_train=True)


def test_a_filter_of_ones_own(option_files):
    def by_rank(per_sample_loss, is_pseudo, *, reference, share: float, strict: bool = False):
        return torch.ones_like(per_sample_loss)

    FILTER_REGISTRY._obj_map["by_rank"] = by_rank
    try:
        for settings, message in (
            ({"share": 0.5}, None),
            ({"share": 0.5, "strict": True, "reference": "running", "warmup_iter": 3}, None),
            ({}, "by_rank needs the key 'share'"),
            ({"share": "all"}, "filter:share: expected a number, got the text"),
            ({"share": 1, "beta": "table6"}, "filter:beta: by_rank has no such option"),
            ({"share": 1, "is_pseudo": True}, "filter:is_pseudo: by_rank has no such option"),
        ):
            path = edited(option_files.semi(), lambda o, s=settings: o["train"].update(filter={"type": "by_rank", **s}))
            if message is None:
                assert load_options(path, root_path=".", is_train=True)["train"]["filter"]["share"] == 0.5
            else:
                with pytest.raises(OptionError, match=message):
                    load_options(path, root_path=".", is_train=True)
    finally:
        del FILTER_REGISTRY._obj_map["by_rank"]


def test_held_out_pairs():
    assert held_out_settings(None) is None
    assert held_out_settings({"beta": 1.0, "held_out": {"count": 3}}) is None
    assert held_out_settings({"reference": "held_out"}) == HeldOut(count=8, every=100)
    assert held_out_settings({"reference": "held_out", "held_out": {"count": 3}}) == HeldOut(count=3, every=100)


# --- GPUs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("available", [0, 2])
def test_resolve_gpus(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    source = Source("o.yml", {("num_gpu",): 3})
    assert resolve_gpus("auto", source) == available
    assert resolve_gpus(None, source) == available
    assert resolve_gpus(0, source) == 0
    assert resolve_gpus(available, source) == available
    with pytest.raises(OptionError, match=rf"o\.yml:3: num_gpu: 3 asked for, {available} found; use 'auto', or 0"):
        resolve_gpus(3, source)
    for wrong in (-1, "two", 1.5):
        with pytest.raises(OptionError, match="give a number of GPUs or 'auto'"):
            resolve_gpus(wrong, source)


# --- derived from the plugin's, and others ---------------------------------------------------------------------------


def mine(options):
    options["model_type"] = "MySemi"
    options["my_colour"] = "blue"
    options["train"].update(my_strength=2, my_schedule={"first": 1}, accumulate=2)
    options["train"]["my_opt"] = {"type": "L1Loss", "loss_weight": 0.5}


def paired(options):
    options["model_type"] = "MyJittered"
    options["train"]["photometric_jitter"] = 0.1
    options["train"].pop("bank_size", None)
    options.pop("network_global", None)
    options["datasets"]["train"].update(type="MyPaired", sharpness=2, needed=1)


def test_keys_of_derived_classes(check):
    assert check(mine)["train"]["accumulate"] == 2
    options = complete(check(paired, "isp"), Source("o.yml"), root_path=".", is_train=True)
    assert (options["datasets"]["train"]["sharpness"], options["datasets"]["train"]["cache_images"]) == (2, False)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (mine, lambda o: o["train"].update(ema_decya=0.9), "train:ema_decya: unknown key; did you mean 'ema_decay'"),
        (mine, lambda o: o["train"].update(my_strenth=1), "train:my_strenth: unknown key; did you mean 'my_strength'"),
        (mine, lambda o: o["train"].update(my_strength="a"), "train:my_strength: expected a number, got the text"),
        (mine, lambda o: o.update(my_color=1), "my_color: unknown key; did you mean 'my_colour'"),
        (mine, lambda o: o["train"]["my_schedule"].update(frist=1), "my_schedule:frist: unknown key; did you mean"),
        (mine, lambda o: o["train"]["my_opt"].update(los_weight=1), "my_opt:los_weight: L1Loss has no such option"),
        (
            mine,
            lambda o: o["train"].update(accumulate=0),
            "train:accumulate: expected a whole number from 1 to 1,000,000,000, got",
        ),
        (mine, lambda o: o["train"].update(photometric_jitter=0.1), "jitter: only .* have this; MySemi would ignore"),
        (mine, lambda o: o["train"].pop("filter"), "MySemi needs the section 'filter'"),
        (
            mine,
            lambda o: o["datasets"]["train"].update(type="PairedRestorationDataset"),
            "datasets:train:type: MySemi trains on a SemiSupervisedDataset",
        ),
        (
            paired,
            lambda o: o["datasets"]["train"].update(sharpnes=1),
            "sharpnes: unknown key; did you mean 'sharpness'",
        ),
        (paired, lambda o: o["datasets"]["train"].pop("needed"), "datasets:train: the key 'needed' is missing"),
        (paired, lambda o: o["train"].update(filter={"beta": 1}), "only SemiSupervisedModel has this; MyJittered"),
    ],
)
def test_what_is_wrong_in_them(check, base, change, message):
    with pytest.raises(OptionError, match=message):
        check(lambda o: (base(o), change(o)), "semi" if base is mine else "isp")


def test_of_other_data_sets_what_the_loader_reads_is_checked(check):
    """They serve for validation and testing."""

    def change(options, **more):
        paired(options)
        options["datasets"]["val"] = {"type": "SomebodysData", "own": {"x": 1}, "batch_size_per_gpu": 2, **more}

    assert check(change, "isp")["datasets"]["val"]["own"] == {"x": 1}
    with pytest.raises(
        OptionError, match="datasets:val:num_worker_per_gpu: expected a whole number from 0 to 1,024, got -1"
    ):
        check(lambda o: change(o, num_worker_per_gpu=-1), "isp")
    with pytest.raises(OptionError, match="datasets:train:type: MyJittered is trained on the plugin's data sets"):
        check(lambda o: (change(o), o["datasets"]["train"].update(type="SomebodysData")), "isp")


def test_whose_a_model_is():
    assert [is_plugin_model(t) for t in ("ISPModel", "MySemi", "SRModel", "Nonsense", None)] == [True, True] + [
        False
    ] * 3
    assert [is_plugin_dataset(t) for t in ("OnlineSemiSupervisedDataset", "MyPaired")] == [True, True]
    assert [is_plugin_dataset(t) for t in ("PairedImageDataset", "SomebodysData", 3)] == [False] * 3
    options = {"name": "a", "model_type": "SRModel", "datasets": {}}
    assert check_any_options(options, Source("o.yml")).__name__ == "SRModel"
    with pytest.raises(OptionError, match="model_type: 'SRModel' is none of the plugin's models"):
        check_options(options, Source("o.yml"), is_train=True)
    with pytest.raises(OptionError, match=r"no model 'SRModle' is registered; did you mean 'SRModel'\?"):
        check_any_options({**options, "model_type": "SRModle"}, Source("o.yml"))
    with pytest.raises(OptionError, match="datasets: expected a section, got nothing"):
        check_any_options({**options, "datasets": None}, Source("o.yml"))


# --- calls and values ------------------------------------------------------------------------------------------------


def test_what_is_taken_as_it_is_meant(check):
    def change(options):
        options["network_g"] = {"type": "Annotations", "width": 1e1, "depths": [2.0, 3], "plain": 1e2, "rate": 2.0}
        options["train"]["scheduler"] = {"type": "CosineAnnealing", "total_iter": 1e5}
        if hasattr(torch.optim, "Adafactor"):  # which came with torch 2.5
            options["train"]["optim_g"] = {"type": "Adafactor", "lr": 1e-3, "eps": [1e-30, 1e-3]}
        options["datasets"]["train"]["gt_size"] = [3.2e1, 40]
        options["scale"] = 1.0
        options["train"].update(accumulate=None, precision=None)
        options["train"]["filter"].update(warmup_iter=None)

    options = check(change)
    network = options["network_g"]
    for number in (network["width"], *network["depths"], options["scale"]):
        assert type(number) is int
    assert (network["width"], network["depths"]) == (10, [2, 3])
    assert type(network["rate"]) is float
    assert type(options["train"]["scheduler"]["total_iter"]) is int
    assert [type(side) for side in options["datasets"]["train"]["gt_size"]] == [int, int]
    assert not {"accumulate", "precision"} & set(options["train"])
    assert "warmup_iter" not in options["train"]["filter"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["datasets"]["train"].update(phase="val"), "datasets:train:phase: unknown key"),
        (lambda o: o["datasets"]["train"].update(scale=2), "datasets:train:scale: '2' is none of the choices"),
        (lambda o: o["datasets"].update(vla={}), "datasets:vla: no section of this name is used; did you mean 'val'"),
        (
            lambda o: o.update(manual_seed=-1),
            "manual_seed: expected a whole number from 0 to 9,223,372,036,854,775,807, got -1",
        ),
        (
            lambda o: o.update(manual_seed=2**63),
            "manual_seed: expected a whole number from 0 to 9,223,372,036,854,775,807",
        ),
        (
            lambda o: o["datasets"]["train"].update(gt_size=0),
            "gt_size: expected a whole number from 1 to 65,536, got 0",
        ),
        (lambda o: o["datasets"]["train"].update(gt_size=[8, 8, 8]), "gt_size: expected a list of length <= 2"),
        (
            lambda o: o["train"]["optim_g"].update(lr=float("inf")),
            "optim_g:lr: expected a finite number from 0 to 1,000,000,000, got inf",
        ),
        (lambda o: o["train"]["optim_g"].update(eps=[1, 2]), "optim_g:eps: expected a number, got a list"),
        (lambda o: o["train"].update(optim_g={"type": "LBFGS", "lr": 1}), "optim_g:type: LBFGS .*needs a closure"),
        (lambda o: o["train"]["optim_g"].update(type="Adamw"), "has no 'Adamw'; did you mean 'AdamW'"),
        (lambda o: o.update(name=" a"), "name: expected a name of a folder, without slashes, control characters or"),
        (lambda o: o.update(name="a\n"), "name: expected a name of a folder"),
        (lambda o: o.update(name="a\x07b"), "name: expected a name of a folder"),
        (lambda o: o.update(name=2020), "name: expected text, got the whole number 2020; put it in quotes"),
        (
            lambda o: o["train"].update(scheduler={"type": "Constant", "gamma": 1}),
            r"scheduler:gamma: Constant has no such option\. It takes none\.",
        ),
        (
            lambda o: o["val"]["metrics"].update(own={"type": "plain_metric", "better": "lower"}),
            "own:better: plain_metric has no such option",
        ),
        (
            lambda o: o["val"]["metrics"].update(own={"type": "calculate_psnr_gt_mean", "variant": "gray"}),
            "own:variant: 'gray' is none of the choices; did you mean 'gray_rgb'",
        ),
        (lambda o: o["train"].update(compile="max_autotune"), "did you mean 'max-autotune'. Choose true or false, def"),
        (lambda o: o["network_g"].update(type="x" * 500), r"no network 'x{30}\.\.\.x{15}' is registered"),
        (
            lambda o: o["train"].update(filter={"type": "band", "high": "a"}),
            "train:filter: the filter 'band' cannot be called with these options: ",
        ),
        (
            lambda o: o["train"].update(filter={"type": "positional", "low": 1}),
            r"filter:low: a filter's options are its keyword-only parameters, which positional lacks: write `\*`",
        ),
        (lambda o: o["train"].update(filter={"type": "swallowing", "any": 1}), "filter:any: a filter's options are"),
    ],
)
def test_what_is_refused(check, change, message):
    with pytest.raises(OptionError, match=message):
        check(change)


@pytest.mark.parametrize("settings", [{"type": "band", "high": 2}, {"type": "positional"}, {"type": "swallowing"}])
def test_filters_that_run(check, settings):
    check(lambda o: (o["train"].update(filter=settings), o["datasets"]["train"].update(scale=1)))


# --- without effect --------------------------------------------------------------------------------------------------


def _without_validation(options: dict) -> None:
    del options["datasets"]["val"]
    options["logger"]["keep_best"] = "psnr"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_validation, "logger:keep_best: there is no validation set to be best on"),
        (lambda o: o["path"].update(pretrain_network_global="x.pth"), "path:pretrain_network_global: only ISPModel"),
        (
            lambda o: [o["train"][key].update(loss_weight=0) for key in ("pixel_opt", "ssim_opt")],
            "train:pixel_opt:loss_weight: is 0, so that nothing is learned",
        ),
        (lambda o: o.update(val={}), "val: training needs 'val_freq'"),
        (
            lambda o: o["train"].update(scheduler={"type": "ReduceLROnPlateau"}),
            "'ReduceLROnPlateau'. Known: .* could not be resumed exactly",
        ),
    ],
)
def test_what_cannot_be_is_refused(check, change, message):
    with pytest.raises(OptionError, match=message):
        check(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("val"), "datasets:val: nothing is validated without a section 'val' with 'val_freq'"),
        (lambda o: o["datasets"].pop("val"), "val: nothing is validated without a data set"),
        (lambda o: o["val"].pop("metrics"), "val: validation without 'metrics' measures nothing"),
        (lambda o: o["val"].update(suffix="x"), "val:suffix: only testing uses this"),
        (
            lambda o: o["logger"].update(use_tb_logger=False, image_freq=None, wandb={"project": "x"}),
            "logger:wandb: nothing is written without TensorBoard",
        ),
        (lambda o: o["logger"].update(use_tb_logger=False), "logger:image_freq: nothing is written without Tensor"),
        (lambda o: o["logger"].update(wandb={"resume_id": "x"}), "wandb:resume_id: nothing is sent without 'project'"),
        (lambda o: o["path"].update(param_key_g="params"), "path:param_key_g: no weights are given"),
        (lambda o: o["path"].update(strict_load_g=False), "path:strict_load_g: no weights are given"),
        (lambda o: o["train"].update(warmup_iter=2), "train:warmup_iter: the learning rate rises to the end"),
        (lambda o: o["train"]["filter"].update(warmup_iter=2), "train:filter:warmup_iter: nothing is dropped"),
        (lambda o: o["datasets"]["train"].update(timeout=9), "train:timeout: it is of reading processes"),
        (lambda o: o["datasets"]["train"].update(prefetch_factor=9), "train:prefetch_factor: it is of reading"),
        (
            lambda o: o["datasets"]["val"]["io_backend"].update(type="lmdb"),
            "datasets:val:io_backend: is lmdb, but dataroot_gt is read as a folder",
        ),
        (
            lambda o: o["datasets"]["train"]["pseudo"]["io_backend"].update(type="disk"),
            "train:pseudo:io_backend: is disk, but dataroot_gt is read as an LMDB",
        ),
    ],
)
def test_what_has_no_effect_is_said(check, change, message):
    check(lambda o: None)
    assert not check.warnings
    check(change)
    assert message in check.warnings[0]


def test_what_testing_does_not_use_is_said(option_files):
    def warnings(path: str, *overrides: str) -> list[str]:
        return load_options(path, root_path=".", is_train=False, overrides=overrides)["warnings"]

    assert not warnings(option_files.test())
    weights = "path:pretrain_network_g=x.pth"
    [said] = warnings(option_files.isp(), weights, "network_global=~")
    assert said.endswith("isp.yml: testing does not use train, logger, datasets:train, val:val_freq.")
    [said] = warnings(option_files.test(), "val=~")
    assert said.endswith("val: with neither metrics nor save_img, testing gives nothing.")
    overrides = [weights, "network_global=~", "path:pretrain_network_global=x"]
    with pytest.raises(OptionError, match="pretrain_network_global: the section 'network_global' is missing"):
        load_options(option_files.isp(), root_path=".", is_train=False, overrides=overrides)


@pytest.mark.parametrize("name", ["debug", "debug_x", "lol_debugged", "debugger", "x_debug"])
def test_debug_mode_is_for_names_that_say_so(option_files, name):
    overrides = [f"name={name}", "val:val_freq=3", "logger:print_freq=5"]
    options = load_options(option_files.isp(), root_path=".", is_train=True, overrides=overrides)
    logger, on = options["logger"], name in ("debug", "debug_x")
    assert (options["val"]["val_freq"], logger["print_freq"]) == ((8, 1) if on else (3, 5))
    assert (logger["save_checkpoint_freq"], logger["use_tb_logger"]) == ((8, False) if on else (1, True))
    assert ("is BasicSR's debug mode: print_freq 1, save_checkpoint_freq 8, use" in str(options["warnings"])) == on
    options = load_options(option_files.isp(), root_path=".", is_train=True, overrides=overrides, debug=True)
    assert options["name"] == (name if on else f"debug_{name}")


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.fixture
def check_schedule(check):
    def check_schedule(of_training: int = 100, **settings) -> dict:
        changes = {"total_iter": of_training, "optim_g": {"type": "Adam", "lr": 1e-4}, "scheduler": settings}
        return check(lambda o: o["train"].update(changes))["train"]["scheduler"]

    return check_schedule


CYCLIC, STEPS, COSINE = "CosineAnnealingRestartCyclicLR", "MultiStepLR", "CosineAnnealing"


@pytest.mark.parametrize(
    "settings",
    [
        {"type": CYCLIC, "periods": [40, 60], "restart_weights": [1, 1], "eta_mins": [3e-4, 1e-6]},
        {"type": CYCLIC, "periods": [100]},
        {"type": STEPS, "milestones": [50, 90], "gamma": 0.5},
        {"type": COSINE, "eta_min": 1e-6, "start_iter": 10},
        {"type": COSINE, "total_iter": 50},
    ],
)
def test_good_schedules(check_schedule, check, settings):
    check_schedule(**settings)
    assert not check.warnings


@pytest.mark.parametrize(
    ("settings", "optional"),
    [
        ({"type": COSINE}, ("eta_min", "eta_min_ratio", "total_iter", "start_iter")),
        ({"type": STEPS, "milestones": [50]}, ("gamma",)),
        ({"type": CYCLIC, "periods": [40, 60]}, ("eta_mins", "restart_weights")),
    ],
)
def test_a_key_without_value_is_the_default(check_schedule, settings, optional):
    left_open = check_schedule(**settings, **dict.fromkeys(optional))
    assert left_open == settings
    assert schedule_factor(left_open, 100, 1e-4)(50) == schedule_factor(settings, 100, 1e-4)(50)


def test_whole_numbers_with_exponents(check_schedule):
    assert check_schedule(of_training=150000, type=CYCLIC, periods=[1.5e5])["periods"] == [150000]
    assert type(check_schedule(of_training=150000, type=COSINE, total_iter=1.5e5)["total_iter"]) is int


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"type": CYCLIC, "periods": [40, 50]},
            r"scheduler:periods: they end after 90 .* after 100 \(train:total_iter\)",
        ),
        ({"type": CYCLIC, "periods": [40, 60], "eta_mins": [0]}, "scheduler:eta_mins: periods has 2 .* and eta_mins 1"),
        (
            {"type": CYCLIC, "periods": [40, 60], "restart_weights": [1]},
            "scheduler:restart_weights: periods has 2 entries and restart_weights 1; give one for each",
        ),
        ({"type": CYCLIC, "periods": []}, "scheduler:periods: expected a list of length >= 1"),
        (
            {"type": CYCLIC, "periods": [100, 0]},
            "scheduler:periods: expected a whole number from 1 to 1,000,000,000, got",
        ),
        ({"type": CYCLIC}, "needs the key 'periods'"),
        ({"type": CYCLIC, "periods": [100], "eta_min": 0}, "no such option; did you mean 'eta_mins'"),
        ({"type": "CosineAnnealingRestartCyclic", "periods": [100]}, "did you mean 'CosineAnnealingRestartCyclicLR'"),
        ({"type": STEPS}, "needs the key 'milestones'"),
        ({"type": STEPS, "milestones": None}, "scheduler:milestones"),
        ({"type": CYCLIC, "periods": None}, "scheduler:periods"),
        ({"type": STEPS, "milestone": [100]}, "did you mean 'milestones'"),
        (
            {"type": STEPS, "milestones": [-1]},
            "scheduler:milestones: expected a whole number from 0 to 1,000,000,000, got",
        ),
        (
            {"type": STEPS, "milestones": [10], "gamma": -1.0},
            "scheduler:gamma: expected a number from 0 to 1,000,000,000, got",
        ),
        ({"type": COSINE, "eta_min": 1e-6, "eta_min_ratio": 0.1}, "scheduler:eta_min: eta_min_ratio is given, too"),
        ({"type": COSINE, "eta_min": 1e-3}, "above the learning rate, 0.0001, .* eta_min_ratio"),
        ({"type": COSINE, "eta_min_ratio": float("nan")}, "scheduler:eta_min_ratio: expected a finite number"),
        (
            {"type": COSINE, "eta_min_ratio": 3.0},
            "scheduler:eta_min_ratio: expected a number from 0 to 1, got",
        ),
        (
            {"type": CYCLIC, "periods": [40, 60], "eta_mins": [float("nan"), 0]},
            "eta_mins: expected a finite .* got nan",
        ),
        (
            {"type": CYCLIC, "periods": [40, 60], "restart_weights": [1, -1]},
            "restart_weights: expected a number from 0 to 1,000,000,000, got",
        ),
        ({"type": COSINE, "start_iter": 100}, r"scheduler:start_iter: .* before the end \(100\); got 100"),
        ({"type": COSINE, "start_iter": -1}, "scheduler:start_iter"),
        (
            {"type": COSINE, "total_iter": 0},
            "scheduler:total_iter: expected a whole number from 1 to 1,000,000,000, got",
        ),
    ],
)
def test_wrong_schedules(check_schedule, settings, message):
    with pytest.raises(OptionError, match=message):
        check_schedule(**settings)


def test_what_is_cut_off_is_said(check_schedule, check):
    for settings, expected in (
        (
            {"type": CYCLIC, "periods": [80, 80]},
            "they end after 160 iterations, training after 100 (train:total_iter): the schedule is cut off",
        ),
        (
            {"type": COSINE, "total_iter": 200},
            "scheduler:total_iter: training ends after 100 iterations: the schedule is cut off",
        ),
        (
            {"type": STEPS, "milestones": [90, 100, 120]},
            "scheduler:milestones: training ends after 100 iterations, before [120]",
        ),
    ):
        check_schedule(**settings)
        assert expected in check.warnings[0]


# --- calls ------------------------------------------------------------------------------------------------------------


def test_keyword_arguments():
    def target(a, **kwargs):
        return a, kwargs

    source = Source("o.yml")
    check_call({"a": 1, "b": 2}, target, source, ())
    check_call({"a": 1, "better": "lower"}, target, source, (), common=MetricKeys, besides=("better",))
    with pytest.raises(OptionError, match="b: target has no such option"):
        check_call({"a": 1, "b": 2}, target, source, (), common=MetricKeys, besides=("better",))


@pytest.mark.parametrize(
    ("value", "default", "hint", "wrong"),
    [
        ("64", 64, None, False),  # nothing is said
        (None, 3, int, False),
        (0.5, 1, int, True),
        (3, 0.5, float, False),
        (0.3, 0.5, int, False),  # an annotation narrower than the default
        ("x", None, int | None, True),
        ([1, 2], None, list[int] | None, False),
        ([1, "b"], None, list[int] | None, True),
        ([1, "b"], None, list[int] | tuple[int, str], False),  # more than can be told apart
    ],
)
def test_evident_types(value, default, hint, wrong):
    def target(x=default):
        return x

    target.__annotations__ = {} if hint is None else {"x": hint}
    try:
        check_call({"x": value}, target, Source("o.yml"), ())
    except OptionError:
        assert wrong
    else:
        assert not wrong
