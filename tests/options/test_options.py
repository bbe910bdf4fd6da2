"""Option files: numbers, overrides, and messages that say what is wrong, where, and what was perhaps meant."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from semiisp_plugin import options as options_module
from semiisp_plugin.options import (
    OptionError,
    Source,
    apply_overrides,
    complete,
    load_options,
    load_pseudo_options,
    load_yaml,
    nearest,
    resolve_gpus,
)
from semiisp_plugin.toolbox import FILTER_REGISTRY, build_network

# Those of benchmarks are checked in tests/experiments/test_benchmark_options.py.
OPTION_FILES = sorted((Path(__file__).parents[2] / "options").glob("*.yml"))


@pytest.fixture
def write(tmp_path):
    def to_file(text: str, name: str = "o.yml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return to_file


def edited(path: str, change) -> str:
    options = yaml.safe_load(Path(path).read_text())
    change(options)
    Path(path).write_text(yaml.safe_dump(options, sort_keys=False))
    return path


# --- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("1.0e-4", 1e-4),
        ("!!float 1", 1.0),
        ("!!float 1e-4", 1e-4),
        ("0.1", 0.1),
        (".inf", math.inf),
    ],
)
def test_floats(write, text, value):
    options, _ = load_yaml(write(f"lr: {text}"))
    assert options["lr"] == value
    assert type(options["lr"]) is float


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1_000", 1000),
        ("true", True),
        ("~", None),
        ("e4", "e4"),
        ("1e", "1e"),
        ("'1e-4'", "1e-4"),
        ("2e-4x", "2e-4x"),
        ("x1e4", "x1e4"),
    ],
)
def test_what_is_no_float_stays_what_it_is(write, text, value):
    options, _ = load_yaml(write(f"k: {text}"))
    assert options["k"] == value
    assert type(options["k"]) is type(value)


def test_duplicate_keys_name_both_lines(write):
    path = write("name: a\ntrain:\n  lr: 1\n  total_iter: 5\n  lr: 2\n")
    with pytest.raises(OptionError, match=r"o\.yml:5: train:lr is given twice \(first in line 3\)"):
        load_yaml(path)
    same_name_elsewhere = write("a: {lr: 1}\nb: {lr: 2}\n")
    assert load_yaml(same_name_elsewhere)[0] == {"a": {"lr": 1}, "b": {"lr": 2}}


@pytest.mark.parametrize(
    "text",
    [
        "x: !!python/object/apply:os.mkdir [owned]",
        "x: !!python/name:os.system",
        "x: !!python/object/new:os.mkdir [[owned]]",
        "x: !unknown 3",
    ],
)
def test_tags_that_make_objects_are_refused(write, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"o\.yml:2: x: the tag !\S+ is not allowed here; option files hold plain"):
        load_yaml(write("name: a\n" + text))
    with pytest.raises(OptionError, match=r"--force_yml x=.*the tag !\S+ is not allowed here"):
        apply_overrides({}, [text.replace(": ", "=", 1)])
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", r"o\.yml:\d: not valid YAML"),
        ("a: b: c", r"o\.yml:1: not valid YAML"),
        ("- 1\n- 2", r"o\.yml: an option file is a mapping of keys to values; this one is a list"),
        ("", r"this one is empty"),
        ("just words", r"this one is text"),
    ],
)
def test_files_that_are_no_option_file(write, text, message):
    with pytest.raises(OptionError, match=message):
        load_yaml(write(text))


def test_files_that_cannot_be_read(write, tmp_path):
    write("a: 1", "semiie_lolv1.yml")
    with pytest.raises(OptionError, match=r"no option file .*semi_lolv1\.yml; did you mean .*semiie_lolv1\.yml\?"):
        load_yaml(tmp_path / "semi_lolv1.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(OptionError, match=r"binary\.yml cannot be read: byte 1 is not .* save it as UTF-8"):
        load_yaml(tmp_path / "binary.yml")
    with pytest.raises(OptionError, match="cannot be read"):
        load_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x {b: *x}", "o.yml:1: a:b: an alias .* stands for a section that it is part of"),
        ("a: &x [1, *x]", "an alias .* stands for a section that it is part of"),
        ("a: &x\n  <<: *x", "circle"),
        ("a: 1\non: 2", "o.yml:2: 'on' is no name of a key: it is read as a truth value; put it in quotes"),
        ("a:\n  ~: 2", "o.yml:2: a: '~' is no name of a key"),
        ("? [1, 2]\n: 3", "is no name of a key"),
        (
            "train:\n  optim_g: {type: Adam, lr: 0,001}",
            "o.yml:2: train:optim_g: '001' is no name of a key: it is read as the whole number 1; put it in quotes; "
            "if it is part of a decimal number, write that with a point",
        ),
        ("a: {1.5: 2}", "o.yml:1: a: '1.5' is no name of a key: it is read as the number 1.5"),
        ("a:\n\tb: 1", "o.yml:2: not valid YAML: there is a tab; indent with spaces"),
        ("lr: !!float fast", "o.yml:1: lr: 'fast' is no value of the tag !!float"),
        ("lr: !!int 1.5", "lr: '1.5' is no value of the tag !!int"),
        ("lr: !!bool perhaps", "lr: 'perhaps' is no value of the tag !!bool"),
        ("lr: !!float {a: 1}", "lr: the tag !!float is not allowed here"),
        ("lr: !!binary aGk=", "lr: the tag !!binary is not allowed here"),
        ("x: " + "[" * 5000 + "]" * 5000, "o.yml: not valid YAML: sections are nested too deeply"),
    ],
    ids=lambda t: t[:20],
)
def test_yaml_that_is_refused(write, text, message):
    with pytest.raises(OptionError, match=message):
        load_yaml(write(text))


def test_aliases_that_multiply(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(OptionError, match="aliases multiply"):
        load_yaml(write("\n".join(lines)))


def test_aliases_are_copies_and_merge_keys_work(write):
    options, source = load_yaml(
        write(
            "d: &d {type: Adam, lr: 1e-4}\na: *d\nb:\n  lr: 2e-4\n  <<: *d\nc:\n  <<: [{lr: 1}, *d]\nday: 2024-01-01\n"
        )
    )
    assert options["a"] == {"type": "Adam", "lr": 1e-4}
    assert options["b"] == {"type": "Adam", "lr": 2e-4}
    assert options["c"] == {"type": "Adam", "lr": 1}
    assert options["day"] == "2024-01-01"
    options["a"].pop("type")  # as BasicSR's models do
    assert options["d"] == {"type": "Adam", "lr": 1e-4}
    for keys, line in ((("b", "lr"), 4), (("b", "type"), 1), (("a",), 2)):
        with pytest.raises(OptionError, match=rf"o\.yml:{line}: "):
            source.fail(keys, "wrong.")


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides():
    options = {"name": "a", "train": {"optim_g": {"lr": 1.0}, "total_iter": 5}}
    apply_overrides(
        options,
        [
            "name=b=c",
            "train:optim_g:lr=2e-4",
            "train:ema_decay=0.999",
            "train:new={a: [1, 2]}",
            "path=~",
            "train:total_iter = 7",
        ],
    )
    assert options == {
        "name": "b=c",
        "train": {"optim_g": {"lr": 2e-4}, "total_iter": 7, "ema_decay": 0.999, "new": {"a": [1, 2]}},
        "path": None,
    }
    apply_overrides(options, ["train:optim_g=~", "train:new={b: 1}", "train:new=~"])
    assert options["train"] == {"total_iter": 7, "ema_decay": 0.999}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("name", "write it as section:key=value"),
        ("=3", "write it as section:key=value"),
        ("trian:lr=3", r"there is no section trian; did you mean 'train'\?"),
        ("train:optm_g:lr=3", r"there is no section train:optm_g; did you mean 'optim_g'\?"),
        ("name:x=3", "name is text, not a section"),
        ("train:epochs:x=3", r"there is no section train:epochs\.$"),
        ("train:lr=[1", "the value is not valid YAML"),
    ],
)
def test_wrong_overrides(entry, message):
    with pytest.raises(OptionError, match=message) as caught:
        apply_overrides({"name": "a", "train": {"optim_g": {}}}, [entry])
    assert f"--force_yml {entry}" in str(caught.value)


def test_overrides_are_checked_like_the_file(option_files):
    path = option_files.isp()
    options = load_options(path, root_path=".", is_train=True, overrides=["train:optim_g:lr=3e-4", "name=other"])
    assert options["train"]["optim_g"]["lr"] == 3e-4
    assert Path(options["path"]["experiments_root"]) == Path("experiments", "other")
    with pytest.raises(OptionError, match=r"train:totl_iter: unknown key; did you mean 'total_iter'\?"):
        load_options(path, root_path=".", is_train=True, overrides=["train:totl_iter=3"])


def test_errors_of_overridden_keys_name_the_override(option_files):
    path = option_files.semi()
    for entry, message in (
        ("train:totl_iter=3", "^--force_yml train:totl_iter: unknown key; did you mean 'total_iter'?"),
        ("train:total_iter=many", "^--force_yml train:total_iter: expected a whole number, got the text 'many'"),
        ("train:filter={bta: 1}", "^--force_yml train:filter: train:filter:bta: threshold has no such option"),
        ("logger={}", None),
        ("datasets:train:gt_size=~", r"semi\.yml:\d+: datasets:train: training needs 'gt_size'"),
    ):
        if message is None:
            load_options(path, root_path=".", is_train=True, overrides=[entry])
        else:
            with pytest.raises(OptionError, match=message):
                load_options(path, root_path=".", is_train=True, overrides=[entry])
    with pytest.raises(OptionError, match="'extends' stands in the file"):
        apply_overrides({}, ["extends=a.yml"])


# --- messages --------------------------------------------------------------------------------------------------------


def test_nearest():
    assert nearest("totl_iter", ["total_iter", "warmup_iter"]) == "; did you mean 'total_iter'?"
    assert nearest("zzz", ["total_iter"]) == "."
    assert nearest("Adamw", ["Adam", "AdamW"]) == "; did you mean 'AdamW'?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("name"), r"isp\.yml: the key 'name' is missing"),
        (lambda o: o.update(model_type="IspModel"), r"model_type: no model 'IspModel'; did you mean 'ISPModel'\?"),
        (lambda o: o["logger"].update(print_frq=3), r"logger:print_frq: unknown key; did you mean 'print_freq'\?"),
        (lambda o: o["train"].update(filter={"beta": 1}), r"train:filter: only SemiSupervisedModel has this; ISPModel"),
        (
            lambda o: o["train"].update(scheduler=[]),
            r"train:scheduler: expected a section or nothing, got an empty list",
        ),
        (lambda o: o.update(scale=2), "scale: "),
        (lambda o: o.update(manual_seed="zero"), "manual_seed: expected a whole number, got the text 'zero'"),
        (lambda o: o["datasets"].update(val=3), "datasets:val: expected a section, not the whole number 3"),
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


def test_the_line_is_that_of_the_key_or_of_the_section_it_is_in(write):
    _, source = load_yaml(write("a: 1\nb:\n  c:\n    d: 2\n"))
    for keys, where in ((("b", "c", "d"), 4), (("b", "c", "missing"), 3), (("b", "x", "y"), 2), (("zzz",), None)):
        with pytest.raises(OptionError) as caught:
            source.fail(keys, "wrong.")
        expected = f"o.yml:{where}: " if where else "o.yml: "
        assert f"{expected}{':'.join(keys)}: wrong." in str(caught.value)


# --- keys of the training pipeline ----------------------------------------------------------------------------------


def auto_batch(options, total=None, **changes):
    data = options["datasets"]["train"]
    data.update(real_per_batch="auto", pseudo_per_batch="auto", **changes)
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
            lambda o: o["datasets"]["train"].update(persistent_workers=False, prefetch_factor=4, timeout=0),
            ("datasets", "train", "prefetch_factor", 4),
        ),
        (
            lambda o: o["datasets"]["val"].update(batch_size_per_gpu=2, num_worker_per_gpu=1),
            ("datasets", "val", "batch_size_per_gpu", 2),
        ),
        (auto_batch, ("datasets", "train", "real_per_batch", "auto")),
        (lambda o: auto_batch(o, 12), ("datasets", "train", "batch_size_per_gpu", 12)),
        (lambda o: o["train"]["filter"].update(beta="auto"), ("train", "filter", "beta", "auto")),
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
        (lambda o: o["train"].update(accumulate=0), "train:accumulate: expected a whole number >= 1"),
        (lambda o: o["train"].update(accumulate=1.5), "train:accumulate: expected a whole number, got the number"),
        (lambda o: o["train"].update(total_iter=2.5), "train:total_iter: expected a whole number, got the number"),
        (
            lambda o: o["logger"].update(keep_best="lpips"),
            "keep_best: 'lpips' is no metric of val:metrics; those are: psnr",
        ),
        (lambda o: o["logger"].update(keep_last=0), "logger:keep_last: expected a whole number >= 1"),
        (lambda o: o["datasets"]["train"].update(real_per_batch="auto"), "pseudo_per_batch: real_per_batch is auto"),
        (lambda o: o["datasets"]["train"].update(pseudo_per_batch="auto"), "real_per_batch: pseudo_per_batch is auto"),
        (lambda o: o["datasets"]["train"].update(batch_size_per_gpu=4), "real_per_batch and pseudo_per_batch together"),
        (lambda o: auto_batch(o, 1), "a batch of 1 cannot hold"),
        (lambda o: o["datasets"]["val"].update(gt_size=32), "datasets:val:gt_size: only training uses this"),
        (lambda o: o["datasets"]["val"].update(timeout=3), "datasets:val:stall_warning: only training uses this"),
        (lambda o: o["datasets"]["train"].update(seeded_order=True), "datasets:train:seeded_order: unknown key"),
        (
            lambda o: o["train"]["filter"].update(type="treshold"),
            "no filter 'treshold' is registered; did you mean 'thr",
        ),
        (lambda o: o["train"]["filter"].update(temperature=1), "filter:temperature: threshold has no such option"),
        (lambda o: o["train"].update(filter={"type": "soft", "beta": 1}), "filter: soft needs the key 'temperature'"),
        (lambda o: o["train"]["filter"].update(beta=-1), "filter:beta: The filter's `beta` must be 0 or more"),
        (lambda o: o["train"]["filter"].update(beta="automatic"), "filter:beta: expected a number, got the text"),
        (lambda o: o["train"]["filter"].update(momentum=0.9), "filter:momentum: it is of reference: running"),
        (lambda o: o["train"]["filter"].update(held_out={}), "filter:held_out: it is of reference: held_out"),
        (
            lambda o: o["train"]["filter"].update(reference="held_out", held_out={"number": 3}),
            r"filter:held_out:number: unknown key. Known: count, every",
        ),
        (
            lambda o: o["train"]["filter"].update(reference="held_out", held_out={"count": 0}),
            r"filter:held_out:count: expected a whole number >= 1",
        ),
        (
            lambda o: o["train"]["optim_g"].update(lr="fast"),
            "optim_g:lr: expected a number, such as 0.001, not the text",
        ),
        (lambda o: o["train"]["optim_g"].update(betas=[0.9]), "optim_g:betas: expected a list of length 2, got 1"),
        (
            lambda o: o["network_g"].update(thumbnail="small"),
            "network_g:thumbnail: expected a whole number or nothing, got",
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
    for key, value in (("real_per_batch", 1), ("pseudo_per_batch", "auto"), ("pseudo", {"build": "b"})):
        path = edited(option_files.isp(), lambda o, k=key, v=value: o["datasets"]["train"].update({k: v}))
        with pytest.raises(OptionError, match=f"datasets:train:{key}"):
            load_options(path, root_path=".", is_train=True)


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
            ({"share": 1, "beta": "auto"}, "filter:beta: by_rank has no such option"),
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


# --- options of the pseudo-data --------------------------------------------------------------------------------------


def test_pseudo_options(option_files, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    path = option_files.pseudo(out="~/pseudo", short_side=480)
    options = load_pseudo_options(path, ["sets=local", "max_photographs=3"])
    assert (options.sets, options.max_photographs, options.short_side) == ("local", 3, 480)
    assert options.out == "/home/somebody/pseudo"
    assert (options.manual_seed, options.update_quality, options.png_compression) == (0, True, "fast")
    assert (options.source, options.draws) == ("bank", 1)
    for override, message in (
        ("sets=globl", "sets: 'globl' is none of the choices; did you mean 'global'. Choose auto, global or local"),
        ("png_compression=12", "png_compression: expected a whole number <= 9"),
        ("short_sid=3", r"short_sid: unknown key; did you mean 'short_side'\?"),
        ("update_quality=maybe", "update_quality: expected true or false, got the text 'maybe'"),
    ):
        with pytest.raises(OptionError, match=message):
            load_pseudo_options(path, [override])


def test_sources_of_the_pseudo_data(option_files):
    path = option_files.pseudo()
    for source in ("upi", "deterministic"):
        options = load_pseudo_options(path, [f"source={source}", "sets=global"])
        assert options.source == source
    assert load_pseudo_options(path, ["source=upi", "draws=4"]).draws == 4
    assert load_pseudo_options(path, ["source=mixture", "sets=local"]).sets == "local"
    for overrides, message in (
        (["source=cyclegan"], "source: 'cyclegan' is none of the choices. Choose bank, mixture, fitted, upi or"),
        (["draws=0"], "draws: expected a whole number >= 1"),
        (["source=upi", "sets=local"], "sets: source: upi knows no local sets"),
        (["source=deterministic", "sets=local"], "sets: source: deterministic knows no local sets"),
        (["source=upi", "inverse=paper_lut"], "inverse: source: upi does not invert f_ISP"),
        (["source=deterministic", "draws=2"], "draws: source: deterministic makes the same pair"),
    ):
        with pytest.raises(OptionError, match=message):
            load_pseudo_options(path, overrides)


# --- the files that come with the plugin -----------------------------------------------------------------------------


def test_there_are_option_files():
    names = {path.stem for path in OPTION_FILES}
    assert {"fisp_lolv1", "pseudo_lolv1", "semiie_lolv1", "finetune_lolv1", "test_lolv1"} <= names


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: p.stem)
def test_committed_option_file(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    if "photographs" in yaml.safe_load(text):
        assert load_pseudo_options(path).name == path.stem
        return
    is_train = "train" in yaml.safe_load(text)
    options = load_options(path, root_path=str(tmp_path), is_train=is_train)
    assert options["name"] == path.stem
    networks = [key for key in options if key.startswith("network_")]
    assert networks
    for key in networks:
        network = build_network(options[key])
        assert sum(p.numel() for p in network.parameters()) > 0
    if is_train:
        assert type(options["train"]["optim_g"]["lr"]) is float
    assert not list(tmp_path.iterdir()), "checking options writes nothing"
    # Relative paths only: the files are for everybody.
    assert not any(str(value).startswith("/") for value in leaves(yaml.load(text, options_module.Loader)))


def leaves(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value
