"""Reading option files: YAML, ``extends``, overrides, the places that messages point to, and the resolved copy."""

import math
import os
from pathlib import Path

import pytest
import yaml

from semiisp_plugin.io import files
from semiisp_plugin.options import (
    OptionError,
    apply_overrides,
    check_options,
    dump_options,
    load_options,
    load_yaml,
    read_options,
    reading,
)
from semiisp_plugin.options.yaml_text import parse


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def to_file(text: str, name: str = "o.yml") -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return to_file


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
        ("a: &x {b: *x}", "o.yml:1: not valid YAML: .* an alias .* stands for a section that it is part of"),
        ("a: &x [1, *x]", "an alias .* stands for a section that it is part of"),
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
        ("a: 1\nb: \0", r"o\.yml:2: not valid YAML: the character \\x00 is not allowed"),
        ('a: "\\x1b[31m"', r"o\.yml:1: a: the character \\x1b is not allowed in a text"),
        ('"a\\ud800": 1', r"the character \\ud800 is not allowed"),
        ("a: " + "x" * 5000, "o.yml:1: a: a text of 5,000 characters; at most 4,096 make sense"),
        ("a: " + "9" * 5000, "o.yml:1: a: '9999.* is no value of the tag !!int"),
        ("a: 0x" + "9" * 5000, "o.yml:1: a: a number of 5,002 characters"),
        ("a: [" + "1," * 20_000 + "1]", "o.yml:1: not valid YAML: there are more than 10,000 values"),
        ("".join(" " * n + "a:\n" for n in range(900)), "o.yml:50: not valid YAML: sections are nested too deeply"),
        ("lr: !!int 1.5", "lr: '1.5' is no value of the tag !!int"),
        ("lr: !!bool perhaps", "lr: 'perhaps' is no value of the tag !!bool"),
        ("lr: !!float {a: 1}", "lr: the tag !!float is not allowed here"),
        ("lr: !!binary aGk=", "lr: the tag !!binary is not allowed here"),
        ("x: " + "[" * 5000 + "]" * 5000, "o.yml:1: not valid YAML: sections are nested too deeply"),
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


def test_each_file_is_read_once(tmp_path, monkeypatch):
    """A diamond on a diamond: 2 ** 15 ways lead to the last file."""
    read = []
    monkeypatch.setattr(reading, "read_text", lambda path, limit: (read.append(path), files.read_text(path, limit))[1])
    for n in range(15):
        (tmp_path / f"{n}.yml").write_text(f"extends: [{n + 1}.yml, ./{n + 1}.yml]\nb: {{k{n}: 1}}\n")
    (tmp_path / "15.yml").write_text("a: {b: [1]}\nb: {c: 2}\n")
    options, _ = load_yaml(tmp_path / "0.yml")
    assert len(read) == 16
    assert options == {"a": {"b": [1]}, "b": {"c": 2, **{f"k{n}": 1 for n in range(15)}}}


def test_what_several_files_extend_is_changed_by_none_of_them(tmp_path):
    (tmp_path / "base.yml").write_text("a: {b: {c: 1}}\n")
    (tmp_path / "left.yml").write_text("extends: base.yml\na: {b: {c: 2}}\n")
    (tmp_path / "right.yml").write_text("extends: base.yml\nd: 3\n")
    (tmp_path / "both.yml").write_text("extends: [left.yml, right.yml]\n")
    assert load_yaml(tmp_path / "both.yml")[0] == {"a": {"b": {"c": 1}}, "d": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe", "o.yml:1: extends: the option file .*pipe cannot be read: it is a pipe or device, not a file"),
        ("/dev/zero", "the option file /dev/zero cannot be read: it is a pipe or device"),
        ("folder", "the option file .*folder cannot be read: it is a folder, not a file"),
        ("link", "the option file .*link is a symbolic link to nowhere, which is not there"),
        (
            "large",
            r"the option file .*large cannot be read: it has 500,000 bytes; at most 499,9\d\d are read, of 500,000",
        ),
        ("0.yml", r"19\.yml:1: extends: files extend each other more than 20 deep: .*o\.yml -> .*0\.yml -> "),
    ],
)
def test_what_is_not_extended(write, tmp_path, name, message):
    path = write(f"extends: {name}\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "large").write_text("a: b\n" * 100_000)
    for n in range(30):
        (tmp_path / f"{n}.yml").write_text(f"extends: {n + 1}.yml\n")
    with pytest.raises(OptionError, match=message):
        load_yaml(path)


def test_a_mark_of_the_order_of_bytes_is_no_text(tmp_path):
    (tmp_path / "o.yml").write_text("name: x\n", encoding="utf-8-sig")
    assert load_yaml(tmp_path / "o.yml")[0] == {"name": "x"}


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
        (
            "train:total_iter=many",
            "^--force_yml train:total_iter: expected a whole number from 1 to 1,000,000,000, got the text 'many'",
        ),
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


def test_the_line_is_that_of_the_key_or_of_the_section_it_is_in(write):
    _, source = load_yaml(write("a: 1\nb:\n  c:\n    d: 2\n"))
    for keys, where in ((("b", "c", "d"), 4), (("b", "c", "missing"), 3), (("b", "x", "y"), 2), (("zzz",), None)):
        with pytest.raises(OptionError) as caught:
            source.fail(keys, "wrong.")
        expected = f"o.yml:{where}: " if where else "o.yml: "
        assert f"{expected}{':'.join(keys)}: wrong." in str(caught.value)


# --- extends ---------------------------------------------------------------------------------------------------------


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
        ({"c.yml": "extends: 3\n"}, r"^c\.yml:1: extends: give a file, or a list of files, not 3"),
        ({"c.yml": "extends: []\n"}, r"^c\.yml:1: extends: give a file, or a list of files, not \[\]\.$"),
        ({"c.yml": "extends: [a, 3]\n"}, r"^c\.yml:1: extends: give a file.*, not \[a, 3\]\.$"),
        ({"c.yml": "extends: ~\n"}, r"^c\.yml:1: extends: give a file, or a list of files, not ~"),
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
def test_files_that_cannot_be_extended(write, files, message):
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
    assert options["train"]["filter"]["beta"] == 1.0
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
    with pytest.raises(
        OptionError, match=r"^--force_yml train:accumulate: expected a whole number from 1 to 1,000,000,000, got"
    ):
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
