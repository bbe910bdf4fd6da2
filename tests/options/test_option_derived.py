"""What somebody else writes: classes derived from ours, checked as ours, with keys of their own; and values."""

from pathlib import Path

import pytest
import torch
import yaml

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.semi_supervised_dataset import SemiSupervisedDataset
from semiisp_plugin.models.semi_supervised_model import SemiSupervisedModel
from semiisp_plugin.models.supervised_model import SupervisedModel
from semiisp_plugin.options import OptionError, Source, check_options
from semiisp_plugin.options.accepted_keys import accepted_keys
from semiisp_plugin.options.parts import own_keys
from semiisp_plugin.toolbox import ARCH_REGISTRY, DATASET_REGISTRY, FILTER_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

# --- what somebody may write -----------------------------------------------------------------------------------------


def value(section, key, default):
    return section.get(key, default)


class Weighted:
    """A mixin."""

    def mixed_weight(self):
        return self.opt["train"].get("mixed_weight", 1)


class MySemi(Weighted, SemiSupervisedModel):
    def init_training_settings(self):
        super().init_training_settings()
        settings = self.opt["train"]
        self.strength = settings.get("my_strength", 1)
        self.schedule = settings.get("my_schedule") or {}
        self.first = self.schedule.get("first")
        self.colour = self.own("my_colour")

    def own(self, key, default=None):
        return self.opt.get(key, default)


class MyJittered(SupervisedModel):
    pass


class MyPaired(PairedRestorationDataset):
    def __init__(self, opt):
        super().__init__(opt)
        self.sharpness = value(opt, "sharpness", 1)
        self.needed = opt["needed"]


class MyPairs(SemiSupervisedDataset):
    def __init__(self, opt):
        super().__init__(opt)
        self.repeat = opt.get("repeat")


class Helped:
    def __init__(self, opt):
        self.opt = opt
        self.a = self._get("first")
        self.b = self._get(key="second", default=2)
        self.c = value(opt, "third", 3)
        for name in ("fourth", "fifth"):
            self.d = self._get(name)

    def _get(self, key, default=None):
        return self.opt.get(key, default)


class Suffixed(Helped):
    def __init__(self, opt):
        super().__init__(opt)
        self.e = self._with_suffix("x")

    def _with_suffix(self, key):
        key = key + "_opt"
        return self.opt[key]


class Asking(Helped):
    def __init__(self, opt, name):
        super().__init__(opt)
        self.e = self._get(name)


class Annotated(torch.nn.Module):
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
        (DATASET_REGISTRY, (MyPaired, MyPairs)),
        (ARCH_REGISTRY, (Annotated,)),
        (METRIC_REGISTRY, (plain_metric,)),
        (FILTER_REGISTRY, (band, positional, swallowing)),
    ):
        monkeypatch.setattr(registry, "_obj_map", {**registry._obj_map, **{t.__name__: t for t in things}})


@pytest.fixture
def check(option_files):
    def check(change, file="semi"):
        options = yaml.safe_load(Path(getattr(option_files, file)()).read_text(encoding="utf-8"))
        change(options)
        check_options(options, Source("o.yml"), is_train=True)
        return options

    return check


# --- derived from ours -----------------------------------------------------------------------------------------------


def mine(options):
    options["model_type"] = "MySemi"
    options["my_colour"] = "red"
    options["train"].update(my_strength=2, mixed_weight=3, my_schedule={"first": 1}, accumulate=2)
    options["datasets"]["train"].update(type="MyPairs", repeat=3)


def paired(options):
    options["model_type"] = "MyJittered"
    options["train"]["photometric_jitter"] = 0.1
    options["train"].pop("bank_size", None)
    options.pop("network_global", None)
    options["datasets"]["train"].update(type="MyPaired", sharpness=2, needed=1)


def test_their_own_keys_are_accepted(check):
    assert check(mine)["train"]["accumulate"] == 2
    check(paired, "isp")
    own = own_keys(MySemi, SemiSupervisedModel)
    assert own.of(()) == {"my_colour", "train"}
    assert own.of(("train",)) == {"my_strength", "mixed_weight", "my_schedule"}
    assert own_keys(SemiSupervisedModel, SemiSupervisedModel).of(()) == set()


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (mine, lambda o: o["train"].update(ema_decya=0.9), "train:ema_decya: unknown key; did you mean 'ema_decay'"),
        (mine, lambda o: o["train"].update(my_strenth=1), "train:my_strenth: unknown key; did you mean 'my_strength'"),
        (mine, lambda o: o.update(my_color=1), "my_color: unknown key; did you mean 'my_colour'"),
        (mine, lambda o: o["train"]["my_schedule"].update(frist=1), "my_schedule:frist: MySemi does not read this"),
        (mine, lambda o: o["train"].update(accumulate=0), "train:accumulate: expected a whole number >= 1"),
        (mine, lambda o: o["train"].update(photometric_jitter=0.1), "jitter: only .* have this; MySemi would ignore"),
        (mine, lambda o: o["train"].pop("filter"), "MySemi needs the section 'filter'"),
        (mine, lambda o: o["datasets"]["train"].update(repaet=1), "train:repaet: unknown key; did you mean 'repeat'"),
        (mine, lambda o: o["datasets"]["train"].pop("pseudo"), "MyPairs needs 'pseudo'"),
        (mine, lambda o: o["datasets"]["train"].update(type="MyPaired"), "train:repeat: unknown key"),
        (
            mine,
            lambda o: (o["datasets"]["train"].update(type="MyPaired", needed=1), o["datasets"]["train"].pop("repeat")),
            "datasets:train:type: MySemi trains on a SemiSupervisedDataset",
        ),
        (
            paired,
            lambda o: o["datasets"]["train"].update(sharpnes=1),
            "sharpnes: unknown key; did you mean 'sharpness'",
        ),
        (paired, lambda o: o["datasets"]["train"].pop("needed"), "MyPaired needs the key 'needed'"),
        (
            paired,
            lambda o: o["train"].update(filter={"beta": 1}),
            "only SemiSupervisedModel has this; MyJittered would",
        ),
    ],
)
def test_what_is_wrong_in_them(check, base, change, message):
    with pytest.raises(OptionError, match=message):
        check(lambda o: (base(o), change(o)), "semi" if base is mine else "isp")


def test_keys_that_are_handed_to_helpers():
    accepted = accepted_keys(Helped)
    assert accepted.of(()) == {"first", "second", "third", "fourth", "fifth"}
    assert not accepted.accepts_all(())
    assert accepted_keys(Suffixed).accepts_all(())
    assert accepted_keys(Asking).accepts_all(())


# --- calls and values ------------------------------------------------------------------------------------------------


def test_what_is_taken_as_it_is_meant(check):
    def change(options):
        options["network_g"] = {"type": "Annotated", "width": 1e1, "depths": [2.0, 3], "plain": 1e2, "rate": 2.0}
        options["train"]["scheduler"] = {"type": "CosineAnnealing", "total_iter": 1e5}
        options["train"]["optim_g"] = {"type": "Adafactor", "lr": 1e-3, "eps": [1e-30, 1e-3]}
        options["datasets"]["train"]["gt_size"] = [3.2e1, 40]
        options["scale"] = 1.0
        options["train"].update(accumulate=None, precision=None)
        options["train"]["filter"].update(warmup_iter=None)

    options = check(change)
    network = options["network_g"]
    for number in (network["width"], network["plain"], *network["depths"], options["scale"]):
        assert type(number) is int
    assert (network["width"], network["plain"], network["depths"]) == (10, 100, [2, 3])
    assert type(network["rate"]) is float
    assert type(options["train"]["scheduler"]["total_iter"]) is int
    assert [type(side) for side in options["datasets"]["train"]["gt_size"]] == [int, int]
    assert not {"accumulate", "precision"} & set(options["train"])
    assert "warmup_iter" not in options["train"]["filter"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["datasets"]["train"].update(phase="val"), "datasets:train:phase: the program takes it from the"),
        (lambda o: o["datasets"]["train"].update(scale=2), "datasets:train:scale: the program takes it from the top"),
        (lambda o: o["datasets"].update(vla={}), "datasets:vla: no section of this name is used; did you mean 'val'"),
        (lambda o: o.update(manual_seed=-1), "manual_seed: expected a whole number >= 0"),
        (lambda o: o.update(manual_seed=2**63), "manual_seed: expected a whole number <= 9223372036854775807"),
        (lambda o: o["datasets"]["train"].update(gt_size=0), "gt_size: expected a whole number >= 1"),
        (lambda o: o["datasets"]["train"].update(gt_size=[8, 8, 8]), "gt_size: expected a list of length <= 2"),
        (lambda o: o["train"]["optim_g"].update(lr=float("inf")), "optim_g:lr: expected a finite number, got inf"),
        (lambda o: o["train"]["optim_g"].update(eps=[1, 2]), "optim_g:eps: expected a number, got a list"),
        (lambda o: o["train"].update(optim_g={"type": "LBFGS", "lr": 1}), "optim_g:type: LBFGS .* needs a closure"),
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
            "own:better: plain_metric is called with this key, too, .* give the function",
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
