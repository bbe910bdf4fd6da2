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
    load_options,
    load_pseudo_options,
    load_yaml,
    nearest,
    resolve_gpus,
)
from semiisp_plugin.toolbox import build_network

# Those of benchmarks are checked in tests/experiments/test_benchmark_options.py.
OPTION_FILES = sorted((Path(__file__).parents[1] / "options").glob("*.yml"))


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
    with pytest.raises(OptionError, match=r"binary\.yml cannot be read"):
        load_yaml(tmp_path / "binary.yml")
    with pytest.raises(OptionError, match="cannot be read"):
        load_yaml(tmp_path)


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


# --- messages --------------------------------------------------------------------------------------------------------


def test_nearest():
    assert nearest("totl_iter", ["total_iter", "warmup_iter"]) == "; did you mean 'total_iter'?"
    assert nearest("zzz", ["total_iter"]) == "."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("name"), r"isp\.yml: the key 'name' is missing"),
        (lambda o: o.update(model_type="IspModel"), r"model_type: no model 'IspModel'; did you mean 'ISPModel'\?"),
        (lambda o: o["logger"].update(print_frq=3), r"logger:print_frq: unknown key; did you mean 'print_freq'\?"),
        (lambda o: o["train"].update(filter={"beta": 1}), r"train:filter: only SemiSupervisedModel has this; ISPModel"),
        (lambda o: o["train"].update(scheduler=[]), r"train:scheduler: expected `section or nothing`"),
        (lambda o: o.update(scale=2), "scale: "),
        (lambda o: o.update(manual_seed="zero"), "manual_seed: expected `int`"),
        (lambda o: o["datasets"].update(val=3), "datasets: expected `section`, got `int`"),
        (lambda o: o["datasets"].pop("train"), "datasets: the section 'train' is missing"),
        (lambda o: o["datasets"]["train"].pop("gt_size"), "datasets:train: training needs 'gt_size'"),
        (lambda o: o["datasets"]["train"].pop("batch_size_per_gpu"), "needs 'batch_size_per_gpu'"),
        (
            lambda o: o["datasets"]["train"].update(type="SemiSupervisedDataset"),
            "ISPModel does not train on a SemiSupervisedDataset",
        ),
        (
            lambda o: o["datasets"]["train"]["io_backend"].update(type="dsk"),
            "datasets:train:io_backend:type: invalid enum value 'dsk'",
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
        (lambda o: o["train"].update(filter={"bta": 1}), r"train:filter:bta: threshold has no such option; did you mean 'beta'\?"),
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
        ("sets=globl", "sets: invalid enum value 'globl'"),
        ("png_compression=12", "png_compression: expected `int` <= 9"),
        ("short_sid=3", r"short_sid: unknown key; did you mean 'short_side'\?"),
        ("update_quality=maybe", "update_quality: expected `bool`"),
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
        (["source=cyclegan"], "source: invalid enum value 'cyclegan'"),
        (["draws=0"], "draws: expected `int` >= 1"),
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
