"""What classes read from a dictionary of options, found in their source; BasicSR's, and other people's."""

import json
import logging
from copy import deepcopy

import pytest
import torch
from torch.utils import data

from semiisp_plugin.options import OptionError, Source, check_options
from semiisp_plugin.options.accepted_keys import accepted_keys
from semiisp_plugin.options.needed_keys import needed_keys
from semiisp_plugin.options.parts import COPIED_KEYS, SET_BY_PROGRAM
from semiisp_plugin.options.sections import names_in, reads_kwargs, wrong_value
from semiisp_plugin.toolbox import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY, SRModel

# --- a module as somebody else may write one -------------------------------------------------------------------------


def helper(section):
    return section["from_helper"] + section.get("depth", 0)


def keyword_helper(*, settings):
    return settings.pop("by_keyword", None)


class Degradation:
    def __init__(self, settings):
        self.settings = settings
        self.kind = settings["kind"]

    def __call__(self):
        return self.settings.get("strength", 1)


class Base(data.Dataset):
    def __init__(self, opt):
        super().__init__()
        self.opt = opt
        self.root = opt["root"]

    @property
    def colours(self):
        return self.opt["colours"]

    def __len__(self):
        return self.opt.get("length", 3)


class Written(Base):
    """Reads its options in all the ways that people do."""

    def __init__(self, opt, *, extra=None):
        super().__init__(opt)
        self.mean = opt["mean"] if "mean" in opt else None  # noqa: SIM401 - as BasicSR does it
        crop, self.flip = opt.get("crop"), opt.get("flip", False)
        for key in ("sigma", "gamma"):
            setattr(self, key, opt[key])
        self.all = {name: opt.get(name) for name in ["alpha", "beta"]}
        copied = deepcopy(opt)
        self.depth = copied.pop("depth", None) or helper(opt)
        self.keyword = keyword_helper(settings=opt)
        self.degradation = Degradation(opt["degradation"])
        self.nested = opt["nested"]
        merged = {**opt, "written": 1}
        self.merged = merged["through_merge"]
        opt["stored_only"] = 1
        if "weird" not in opt:
            self.crop = crop

    def __getitem__(self, index):
        nested = self.nested
        if (size := self.opt.get("size")) is not None:
            return nested["inner"]["deep"], size
        self.later(self.opt, index)
        return self.colours["red"]

    def later(self, settings, index):
        print(f"{settings['printed']}", len(settings), torch.tensor(settings["tensor"]))
        return self.opt["phase"] == "train" and settings["conditional"]


class Computed(Base):
    def __init__(self, opt, name="x"):
        super().__init__(opt)
        self.value = opt[f"{name}_opt"]


class Escaping(Base):
    def __init__(self, opt):
        super().__init__(opt)
        self.text = json.loads(json.dumps(opt["plain"]))
        self.sub = self.build(**opt["arguments"])
        self.other = self.somebody.build(opt["handed"])

    def build(self, **kwargs):
        return kwargs


def test_all_ways_of_reading():
    accepted = accepted_keys(Written)
    assert accepted.of(()) == {
        *("root", "colours", "length", "mean", "crop", "flip", "sigma", "gamma", "alpha", "beta", "depth"),
        *("from_helper", "by_keyword", "degradation", "nested", "through_merge", "weird", "size", "printed", "tensor"),
        *("phase", "conditional"),
    }
    assert accepted.of(("degradation",)) == {"kind", "strength"}
    assert accepted.of(("nested",)) == {"inner"}
    assert accepted.of(("nested", "inner")) == {"deep"}
    assert accepted.of(("colours",)) == {"red"}
    assert not accepted.accepts_all(())
    assert not accepted.accepts_all(("degradation",))


def test_what_is_needed():
    assert needed_keys(Written, True) == {("root",), ("nested",), ("degradation",)}
    assert needed_keys(Base, False) == {("root",)}


def test_where_the_source_does_not_tell_every_key_is_accepted():
    assert accepted_keys(Computed).accepts_all(())
    accepted = accepted_keys(Escaping)
    assert not accepted.accepts_all(())
    assert accepted.accepts_all(("arguments",))
    assert accepted.accepts_all(("handed",))
    assert not accepted.accepts_all(("plain",))  # the standard library reads no options
    scope = {"Base": Base, "__name__": "typed_into_a_console"}
    exec("class Typed(Base):\n    def __init__(self, opt):\n        self.x = opt['x']\n", scope)
    assert accepted_keys(scope["Typed"]).accepts_all(())


@pytest.mark.parametrize("name", [n for n, c in DATASET_REGISTRY if c.__module__.startswith("basicsr.")])
def test_basicsr_documents_what_is_found(name):
    """The keys that BasicSR's docstrings list for a data set are among those found in its source."""
    cls = names_in(DATASET_REGISTRY)[name]
    found = accepted_keys(cls)
    assert not found.accepts_all(())
    documented = set()
    for base in cls.__mro__:
        if base.__module__.startswith("basicsr."):
            lines = (base.__doc__ or "").splitlines()
            documented |= {line.split("(")[0].strip() for line in lines if " (" in line and "): " in line}
    documented = {key for key in documented if key.isidentifier() and key.islower()} - {"opt", "name", "scale"}
    # Documented and not read, in BasicSR 1.4.2.
    not_read = {"REDSRecurrentDataset": {"dataroot_flow"}, "VideoTestVimeo90KDataset": {"padding"}}.get(name, set())
    assert documented - SET_BY_PROGRAM - not_read <= found.of(())


# --- whole files ------------------------------------------------------------------------------------------------------


def basicsr_file() -> dict:
    """An option file as BasicSR's are written."""
    return {
        "name": "001_MSRResNet_x4",
        "model_type": "SRModel",
        "scale": 4,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": {
                "name": "DIV2K",
                "type": "PairedImageDataset",
                "dataroot_gt": "gt",
                "dataroot_lq": "lq",
                "io_backend": {"type": "disk"},
                "gt_size": 128,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": 6,
                "batch_size_per_gpu": 16,
                "dataset_enlarge_ratio": 100,
                "prefetch_mode": None,
            },
            "val": {
                "name": "Set5",
                "type": "PairedImageDataset",
                "dataroot_gt": "gt",
                "dataroot_lq": "lq",
                "io_backend": {"type": "disk"},
            },
        },
        "network_g": {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "upscale": 4},
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.999,
            "optim_g": {"type": "Adam", "lr": 2e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [50000], "gamma": 0.5},
            "total_iter": 1e6,
            "warmup_iter": -1,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {
            "val_freq": 5e3,
            "save_img": False,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4, "better": "higher"}},
        },
        "logger": {"print_freq": 100, "save_checkpoint_freq": 5e3, "wandb": {"project": None, "resume_id": None}},
        "dist_params": {"backend": "nccl", "port": 29500},
    }


def check(change=lambda o: None, is_train: bool = True) -> dict:
    options = basicsr_file()
    change(options)
    check_options(options, Source("b.yml"), is_train=is_train)
    return options


def test_a_file_of_basicsr():
    options = check()
    assert options["train"]["total_iter"] == 1000000
    assert type(options["val"]["val_freq"]) is int
    check(lambda o: o["datasets"].pop("train"), is_train=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["train"].update(ema_decya=0.9), "train:ema_decya: SRModel does not read this key; .*'ema_decay'"),
        (
            lambda o: o["train"].update(gan_opt={"type": "GANLoss", "gan_type": "gan"}),
            "train:gan_opt: SRModel does not",
        ),
        (
            lambda o: o.update(network_d={"type": "VGGStyleDiscriminator"}),
            "network_d: SRModel does not read this network",
        ),
        (
            lambda o: o["datasets"]["train"].update(use_hflp=True),
            "train:use_hflp: PairedImageDataset does not .*use_hflip",
        ),
        (
            lambda o: o["datasets"]["train"].pop("dataroot_gt"),
            "datasets:train: PairedImageDataset needs .*'dataroot_gt'",
        ),
        (lambda o: o["datasets"]["train"].pop("batch_size_per_gpu"), "training needs the key 'batch_size_per_gpu'"),
        (lambda o: o["datasets"]["train"]["io_backend"].update(type="dsk"), "io_backend:type: no such backend 'dsk'"),
        (
            lambda o: o["datasets"]["train"]["io_backend"].update(path="x"),
            "io_backend:path: HardDiskBackend has no such",
        ),
        (
            lambda o: o["train"]["optim_g"].update(type="AdmaW"),
            "optim_g:type: torch.optim has no 'AdmaW'",
        ),
        (lambda o: o["train"]["optim_g"].update(momentum=0.9), "optim_g:momentum: Adam has no such option"),
        (lambda o: o["train"]["optim_g"].update(lr="abc"), "optim_g:lr: "),
        (lambda o: o["train"]["scheduler"].update(type="CosineAnnealing"), "no scheduler 'CosineAnnealing'"),
        (
            lambda o: o["train"]["scheduler"].pop("milestones"),
            "scheduler: MultiStepLR needs the key 'milestones'",
        ),
        (
            lambda o: o["train"]["pixel_opt"].update(loss_wight=1),
            "pixel_opt:loss_wight: L1Loss has no such option; did",
        ),
        (lambda o: o["train"].pop("optim_g"), "train: SRModel needs the key 'optim_g'"),
        (lambda o: o["train"].pop("total_iter"), "train: the key 'total_iter' is missing"),
        (lambda o: o["train"].update(total_iter="many"), "train:total_iter: "),
        (
            lambda o: o["train"].update(precision="bf16"),
            "train:precision: only our models have this; SRModel would ignore",
        ),
        (lambda o: o["train"].update(accumulate=2), "train:accumulate: only our models"),
        (lambda o: o["train"].update(compile=True), "train:compile: only our models"),
        (lambda o: o["val"].update(val_frq=3), "val:val_frq: SRModel does not read this key; did you mean 'val_freq'"),
        (lambda o: o["val"]["metrics"]["psnr"].update(crop_boarder=3), "psnr:crop_boarder: calculate_psnr has no such"),
        (lambda o: o["logger"].update(print_frq=3), "logger:print_frq: the training loop does not read this key"),
        (lambda o: o["logger"].update(keep_best="ssim"), "logger:keep_best: 'ssim' is no metric of val:metrics"),
        (lambda o: o["path"].update(pretrain_network=3), "path:pretrain_network: SRModel does not read this key; did"),
        (lambda o: o.update(scael=3), "scael: SRModel does not read this key; did you mean 'scale'"),
        (lambda o: o.update(is_train=True), "is_train: SRModel does not read this key"),
        (lambda o: o["network_g"].update(num_feet=3), "network_g:num_feet: MSRResNet has no such option"),
        (
            lambda o: o["network_g"].update(num_feat="64"),
            "network_g:num_feat: expected a number, not text",
        ),
    ],
)
def test_wrong_files_of_basicsr(change, message):
    with pytest.raises(OptionError, match=message):
        check(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.update(deterministic=True),
        lambda o: o["logger"].update(keep_last=3, keep_best="psnr", image_freq=5),
        lambda o: o["datasets"]["train"].update(seeded_order=True, timeout=10, prefetch_factor=4),
        lambda o: o["datasets"]["val"].update(batch_size_per_gpu=1, num_worker_per_gpu=2),
        lambda o: o["datasets"]["train"].update(prefetch_mode="cuda", num_prefetch_queue=2, pin_memory=True),
        lambda o: o["datasets"]["train"].update(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], color="y"),
        lambda o: o["datasets"]["train"]["io_backend"].update(type="lmdb"),
        lambda o: o["path"].update(ignore_resume_networks=["network_g"], param_key_g="params_ema"),
        lambda o: o["train"].update(perceptual_opt=None),
        lambda o: o.update(model_type="SwinIRModel", find_unused_parameters=True),
        lambda o: (
            o["datasets"]["train"].update(type="PairedRestorationDataset", dataset_enlarge_ratio=2, filename_tmpl="{}")
            or o["datasets"]["train"].pop("prefetch_mode")
        ),
    ],
)
def test_files_of_basicsr_that_are_right(change):
    check(change)


def test_keys_that_are_copied_though_nobody_reads_them(caplog):
    with caplog.at_level(logging.WARNING, logger="basicsr.options"):
        check(lambda o: o["datasets"]["train"].update(use_shuffle=True))
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "b.yml: datasets:train:use_shuffle: PairedImageDataset does not read this key"
    )
    assert all(section in ("", "datasets", "train") for section, _ in COPIED_KEYS)


class ModelOfSomebody(SRModel):
    """A third-party model on BasicSR's."""

    def init_training_settings(self):
        self.extra = self.opt["train"]["extra_opt"]
        self.strength = self.extra.get("strength", 1)
        self.optional = self.opt.get("optional_key")
        super().init_training_settings()

    def get_optimizer(self, optim_type, params, lr, **kwargs):
        return getattr(torch.optim, optim_type)(params, lr, **kwargs)


@pytest.fixture
def somebodys():
    """Classes and functions that somebody else has registered."""

    def metric(img, img2, crop_border, **kwargs):
        return kwargs["scale"] * crop_border

    registered = ((MODEL_REGISTRY, ModelOfSomebody), (DATASET_REGISTRY, Written), (METRIC_REGISTRY, metric))
    for registry, thing in registered:
        registry._obj_map[thing.__name__] = thing
    yield
    for registry, thing in registered:
        del registry._obj_map[thing.__name__]


@pytest.mark.usefixtures("somebodys")
def test_classes_of_somebody_else():
    def right(options):
        options["model_type"] = "ModelOfSomebody"
        options["optional_key"] = 3
        options["train"]["extra_opt"] = {"strength": 2}
        options["train"]["optim_g"] = {"type": "RMSprop", "lr": 1e-3}
        options["val"]["metrics"]["own"] = {"type": "metric", "crop_border": 0, "scale": 3, "better": "lower"}
        options["datasets"]["train"] = {
            "type": "Written",
            "root": "r",
            "nested": {"inner": {"deep": 3}},
            "degradation": {"kind": "blur", "strength": 2},
            "batch_size_per_gpu": 3,
        }

    check(right)
    for change, message in (
        (lambda o: o["train"].pop("extra_opt"), "train: ModelOfSomebody needs the key 'extra_opt'"),
        (lambda o: o["train"]["extra_opt"].update(strngth=2), "train:extra_opt:strngth: ModelOfSomebody does not read"),
        (
            lambda o: o.update(optional_ky=2),
            "optional_ky: ModelOfSomebody does not read this key; did you mean 'optional_",
        ),
        (
            lambda o: o["datasets"]["train"].update(rot=2),
            "datasets:train:rot: Written does not read this key; did you mean",
        ),
        (
            lambda o: o["datasets"]["train"]["degradation"].update(knd=2),
            "degradation:knd: Written does not read this key",
        ),
        (lambda o: o["datasets"]["train"].pop("root"), "datasets:train: Written needs the key 'root'"),
        (lambda o: o["val"]["metrics"]["own"].pop("crop_border"), "own: metric needs the key 'crop_border'"),
    ):
        with pytest.raises(OptionError, match=message):
            check(lambda o, c=change: (right(o), c(o)))


# --- values -----------------------------------------------------------------------------------------------------------


def test_swallowed_keyword_arguments():
    def swallows(a, **kwargs):
        return a

    def reads(a, **kwargs):
        return a, kwargs

    class Swallows:
        def __init__(self, a, **kwargs):
            self.a = a

    assert [reads_kwargs(thing) for thing in (swallows, reads, Swallows)] == [False, True, False]
    assert reads_kwargs(max)


@pytest.mark.parametrize(
    ("value", "default", "hint", "wrong"),
    [
        ("64", 64, None, True),
        (64.0, 64, None, False),
        ([64, 32], 64, None, False),
        ({"a": 1}, 64, None, True),
        ("yes", True, None, True),
        (1, True, None, False),
        ([1], False, None, True),
        ("6, 6", (6, 6), None, True),
        ([6, 6], (6, 6), None, False),
        (3, "relu", None, False),
        (None, 3, None, False),
        (None, 3, int, False),
        (0.5, 1, int, True),
        (3, 0.5, float, False),
        (0.3, 0.5, int, False),  # an annotation narrower than the default
        ("x", None, int | None, True),
        ([1, 2], None, list[int] | None, False),
        ([1, "b"], None, list[int] | None, True),
    ],
)
def test_evident_types(value, default, hint, wrong):
    assert (wrong_value(value, default, hint) is not None) is wrong
