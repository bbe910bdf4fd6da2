"""``extends``: what is taken over, what is not, where messages point, and the resolved copy."""

import math

import pytest
import yaml

from semiisp_plugin.options import OptionError, check_options, dump_options, load_options, load_yaml, read_options
from semiisp_plugin.options.yaml_text import parse


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def to_file(text: str, name: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return to_file


def where(source, *keys: str) -> str:
    with pytest.raises(OptionError) as caught:
        source.fail(keys, "wrong.")
    return str(caught.value).removesuffix(f": {':'.join(keys)}: wrong.")


def test_sections_merge_and_the_rest_is_replaced(write):
    write("name: base\ntrain:\n  optim_g: {type: AdamW, lr: 1e-3}\n  steps: [1, 2, 3]\n  total_iter: 5\n", "base.yml")
    child = write("extends: base.yml\nname: child\ntrain:\n  optim_g: {lr: 2e-3}\n  steps: [9]\nval: {a: 1}\n", "c.yml")
    options, source = load_yaml(child)
    assert options == {
        "name": "child",
        "train": {"optim_g": {"type": "AdamW", "lr": 2e-3}, "steps": [9], "total_iter": 5},
        "val": {"a": 1},
    }
    assert list(options) == ["name", "train", "val"]
    for keys, place in {
        ("name",): "c.yml:2",
        ("train",): "c.yml:3",
        ("train", "optim_g", "lr"): "c.yml:4",
        ("train", "optim_g", "type"): "base.yml:3",
        ("train", "total_iter"): "base.yml:5",
        ("train", "steps"): "c.yml:5",
        ("val", "b"): "c.yml:6",
    }.items():
        assert where(source, *keys) == place


def test_another_type_takes_nothing_over(write):
    write(
        "network_g: {type: SepLUT, thumbnail: 32}\ndata:\n  train: {type: A, root: r, backend: {type: disk}}\n", "b.yml"
    )
    child = "extends: b.yml\nnetwork_g: {type: NAFNet, width: 8}\ndata:\n  train:\n    backend: {type: lmdb, key: 1}\n"
    options, source = load_yaml(write(child, "c.yml"))
    assert options == {
        "network_g": {"type": "NAFNet", "width": 8},
        "data": {"train": {"type": "A", "root": "r", "backend": {"type": "lmdb", "key": 1}}},
    }
    assert where(source, "network_g", "thumbnail") == "c.yml:2"
    same, _ = load_yaml(write("extends: b.yml\nnetwork_g: {type: SepLUT, dropout: 0.1}\n", "same.yml"))
    assert same["network_g"] == {"type": "SepLUT", "thumbnail": 32, "dropout": 0.1}
    untyped, _ = load_yaml(write("extends: b.yml\nnetwork_g: {dropout: 0.1}\n", "untyped.yml"))
    assert untyped["network_g"] == {"type": "SepLUT", "thumbnail": 32, "dropout": 0.1}


def test_another_filter_takes_nothing_over(write):
    write("train:\n  filter: {beta: 1.0, warmup_iter: 5}\nother: {beta: 1}\n", "b.yml")
    child = "extends: b.yml\ntrain: {filter: {type: quantile, keep: 0.75}}\nother: {type: quantile}\n"
    options, _ = load_yaml(write(child, "c.yml"))
    assert options["train"]["filter"] == {"type": "quantile", "keep": 0.75}
    assert options["other"] == {"beta": 1, "type": "quantile"}
    same, _ = load_yaml(write("extends: b.yml\ntrain: {filter: {type: threshold}}\n", "same.yml"))
    assert same["train"]["filter"] == {"beta": 1.0, "warmup_iter": 5, "type": "threshold"}
    again, _ = load_yaml(write("extends: c.yml\ntrain: {filter: {keep: 0.5}}\n", "again.yml"))
    assert again["train"]["filter"] == {"type": "quantile", "keep": 0.5}


def test_nothing_takes_a_section_away_and_sets_a_key_to_nothing(write):
    write("val: {val_freq: 5}\npath: {state: a.state}\nseed: 3\n", "b.yml")
    options, source = load_yaml(write("extends: b.yml\nval: ~\npath: {state: ~}\nseed: ~\nnew: ~\n", "c.yml"))
    assert options == {"path": {"state": None}, "seed": None, "new": None}
    assert where(source, "val", "val_freq") == "c.yml"
    section_again, _ = load_yaml(write("extends: c.yml\nval: {val_freq: 7}\n", "d.yml"))
    assert section_again["val"] == {"val_freq": 7}


def test_nested_lists_and_paths_relative_to_the_file(write):
    write("a: 1\nb: 1\nc: 1\nd: 1\n", "common/root.yml")
    write("extends: root.yml\nb: 2\nc: 2\nd: 2\n", "common/middle.yml")
    write("c: 3\nd: 3\n", "other.yml")
    options, source = load_yaml(write("extends: [../common/middle.yml, ../other.yml]\nd: 4\n", "runs/run.yml"))
    assert options == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert [where(source, key) for key in "abcd"] == [
        "common/root.yml:1",
        "common/middle.yml:2",
        "other.yml:1",
        "runs/run.yml:2",
    ]
    twice, _ = load_yaml(write("extends: [../common/root.yml, ../common/middle.yml]\n", "runs/diamond.yml"))
    assert twice == {"a": 1, "b": 2, "c": 2, "d": 2}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"c.yml": "a: 1\nextends: bse.yml\n", "base.yml": "a: 1"},
            r"^c\.yml:2: extends: there is no option file bse\.yml; did you mean base\.yml\?$",
        ),
        (
            {"c.yml": "extends: c.yml\n"},
            r"^c\.yml:1: extends: files extend each other in a circle: c\.yml -> c\.yml\.$",
        ),
        (
            {"c.yml": "extends: x/b.yml\n", "x/b.yml": "a: 1\nextends: a.yml\n", "x/a.yml": "extends: ../c.yml\n"},
            r"^x/a\.yml:1: extends: files extend each other in a circle: c\.yml -> x/b\.yml -> x/a\.yml -> c\.yml\.$",
        ),
        ({"c.yml": "extends: 3\n"}, r"^c\.yml:1: extends: give a file, or a list of files, not the whole number 3"),
        ({"c.yml": "extends: []\n"}, r"^c\.yml:1: extends: give a file, or a list of files, not an empty list\.$"),
        ({"c.yml": "extends: [a, 3]\n"}, r"^c\.yml:1: extends: give a file.*; entry 2 is the whole number 3\.$"),
        ({"c.yml": "extends: ~\n"}, r"^c\.yml:1: extends: give a file, or a list of files, not empty"),
        ({"c.yml": "extends: [b.yml, {a: 1}]\n"}, r"^c\.yml:1: extends: give a file"),
        ({"c.yml": "extends: b.yml\n", "b.yml": "- 1\n"}, r"^b\.yml: an option file is a mapping"),
        ({"c.yml": "extends: b.yml\n", "b.yml": "a: 1\na: 2\n"}, r"^b\.yml:2: a is given twice"),
        (
            {"c.yml": "extends: b.yml\n", "b.yml": "a: !!python/name:os.system\n"},
            r"^b\.yml:1: a: the tag !!python/name:os\.system is not allowed",
        ),
        (
            {"c.yml": "extends: folder\n", "folder/x.yml": ""},
            r"^c\.yml:1: extends: the option file folder cannot be read",
        ),
    ],
)
def test_what_is_refused(write, files, message):
    for name, text in files.items():
        write(text, name)
    with pytest.raises(OptionError, match=message):
        load_yaml("c.yml")


def test_checked_as_one_file_with_errors_where_the_keys_stand(option_files):
    parent = option_files.semi()
    folder = option_files.folder

    def load(text, overrides=()):
        (folder / "child.yml").write_text(text)
        return load_options(folder / "child.yml", root_path=".", is_train=True, overrides=overrides)

    options = load("extends: semi.yml\nname: child\ntrain: {optim_g: {type: SGD, lr: 1e-2}, ssim_opt: ~}\n")
    assert options["name"] == "child"
    assert options["train"]["optim_g"] == {"type": "SGD", "lr": 1e-2}
    assert "ssim_opt" not in options["train"]
    assert options["train"]["filter"] == {"beta": 1.0}
    assert "extends" not in options
    for text, message in (
        ("extends: semi.yml\ntrain:\n  totl_iter: 3\n", r"child\.yml:3: train:totl_iter: unknown key"),
        (
            "extends: semi.yml\ntrain:\n  optim_g: {type: SGD, betas: [0.9, 0.99]}\n",
            r"child\.yml:3: train:optim_g:betas",
        ),
        ("extends: semi.yml\nmodel_type: SupervisedModel\n", r"semi\.yml:\d+: datasets:train:type"),
        ("extends: semi.yml\ndatasets: ~\n", r"child\.yml: the key 'datasets' is missing"),
    ):
        with pytest.raises(OptionError, match=message):
            load(text)
    with pytest.raises(OptionError, match=r"^--force_yml train:accumulate: expected a whole number >= 1"):
        load("extends: semi.yml\ntrain: {accumulate: 2}\n", ["train:accumulate=0"])
    assert parent.endswith("semi.yml")


def test_the_resolved_copy_needs_no_other_file_and_says_the_same(option_files, tmp_path):
    option_files.semi()
    child = option_files.folder / "child.yml"
    child.write_text("extends: semi.yml\nname: 2024-01-01\ntrain: {total_iter: 1e5, filter: {beta: .inf}}\n")
    options, source = read_options(child, ["train:optim_g:lr=1e-7", "logger:print_freq=5"])
    text = dump_options(options)
    copy = tmp_path / "elsewhere" / "copy.yml"
    copy.parent.mkdir()
    copy.write_text(text)
    again, _ = read_options(copy)
    assert again == options
    assert "extends" not in text
    assert "<<" not in text
    assert again["train"]["optim_g"]["lr"] == 1e-7
    assert again["train"]["filter"]["beta"] == math.inf
    assert again["name"] == "2024-01-01"
    check_options(options, source, is_train=True)  # which turns 1e5 into an integer
    assert yaml.safe_load(dump_options(options))["train"]["total_iter"] == 100000


def test_texts_that_look_like_numbers_stay_texts():
    values = {"a": "1e-4", "b": "5", "c": "true", "d": "~", "e": "1_0.5e3", "f": 1e-4, "g": [1e20, "1e20", None]}
    text = dump_options(values)
    assert parse(text, "x")[0] == values
