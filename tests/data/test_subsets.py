"""The 100 and 500 pairs: the rule, the lists that come with the package, and reading them."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.pairs import Pair, select_pairs
from semiisp_plugin.data.semi_supervised_dataset import SemiSupervisedDataset
from semiisp_plugin.data.subsets import fivek_split, rank_names, read_names, subset
from semiisp_plugin.io.image_io import encode_png, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter
from semiisp_plugin.options import load_options

FULL = {"fivek": fivek_split()[0], "lolv2_real": [f"{number:05d}" for number in range(1, 690)]}


@pytest.mark.parametrize("name", FULL)
def test_subsets_follow_the_rule(name):
    """Written out here once more, over the full list of names."""
    names = FULL[name][:]
    random.Random(1).shuffle(names)
    ranked = sorted((hashlib.sha256(("0:" + n).encode("ascii")).hexdigest(), n) for n in names)
    few, many = subset(names, 100), subset(names, 500)
    assert few == sorted(n for _, n in ranked[:100])
    assert many == sorted(n for _, n in ranked[:500])
    assert set(few) < set(many)
    assert len(set(few)) == 100
    assert len(set(many)) == 500


def test_fivek_split():
    train, test = fivek_split()
    assert (len(set(train)), len(set(test))) == (4500, 498)
    everything = {f"a{number:04d}" for number in range(1, 5001)}
    assert everything - set(train) - set(test) == {"a0160", "a2952"}
    assert not set(train) & set(test)


def test_rank_does_not_depend_on_the_order_but_on_the_seed():
    names = [f"n{i}" for i in range(50)]
    assert rank_names(names) == rank_names(names[::-1])
    assert rank_names(names) != rank_names(names, "test")
    assert set(subset(names, 10)) <= set(subset(names, 20))


def test_reading_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa0001.png (480,640,3) 1\n\n  sub/b\n", encoding="utf-8")
    assert read_names(path) == ["a0001.png", "sub/b"]
    path.write_text("\n")
    with pytest.raises(ValueError, match="names nothing"):
        read_names(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="names 'a' twice"):
        read_names(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no text file"):
        read_names(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        read_names(tmp_path / "none.txt")


def pairs_of(*keys: str) -> list[Pair]:
    return [Pair(key, f"low/{key}.png", f"high/{key}.png") for key in keys]


def test_pairs_are_selected_by_key_or_file_name_in_their_own_order():
    pairs = pairs_of("a/1", "a/10", "b%20c", "d")
    assert select_pairs(pairs, ["d.jpg", "b c", "a/1"]) == [pairs[0], pairs[2], pairs[3]]
    assert select_pairs(pairs, ["b%20c"]) == [pairs[2]]


def test_selecting_what_is_not_there_names_it():
    pairs = pairs_of("1", "2", "3")
    with pytest.raises(ValueError, match=r"x\.txt: 2 of the 3 names belong to none of the 3 pairs: '/4', '5'\. .*'1'"):
        select_pairs(pairs, ["2", "5", "/4"], source="x.txt")
    with pytest.raises(ValueError, match=r"1 names occur more than once: '2\.png'"):
        select_pairs(pairs, ["2", "2.png"])
    with pytest.raises(ValueError, match="names no pair"):
        select_pairs(pairs, [])


@pytest.fixture
def roots(tmp_path):
    """The same four pairs in folders and in LMDBs."""
    for folder, name in (("low", "lq.lmdb"), ("high", "gt.lmdb")):
        with LmdbImageWriter(tmp_path / name) as writer:
            for number in range(4):
                image = np.full((4, 6, 3), number, np.uint8)
                write_image(tmp_path / folder / f"n{number}.png", image)
                writer.put(f"n{number}", encode_png(image), image.shape)
    (tmp_path / "names.txt").write_text("n2.png (4,6,3)\nn1\n")
    return tmp_path


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_a_data_set_reads_the_pairs_of_its_list(roots, backend):
    lq, gt = ("low", "high") if backend == "disk" else ("lq.lmdb", "gt.lmdb")
    options = {
        "dataroot_lq": str(roots / lq),
        "dataroot_gt": str(roots / gt),
        "io_backend": {"type": backend},
        "meta_info_file": str(roots / "names.txt"),
    }
    data_set = PairedRestorationDataset(options)
    assert [data_set[i]["key"] for i in range(len(data_set))] == ["n1", "n2"]
    assert float(data_set[1]["lq"][0, 0, 0]) == pytest.approx(2 / 255)
    assert len(PairedRestorationDataset({**options, "meta_info_file": None})) == 4
    (roots / "names.txt").write_text("n7\n")
    with pytest.raises(ValueError, match=r"data set 'mine': meta_info_file '.*names\.txt': 1 of the 1 names .* 'n7'"):
        PairedRestorationDataset({**options, "name": "mine"})


def test_the_list_is_of_the_real_pairs_only(roots):
    folders = {
        "dataroot_lq": str(roots / "low"),
        "dataroot_gt": str(roots / "high"),
        "io_backend": {"type": "disk"},
    }
    data_set = SemiSupervisedDataset({**folders, "pseudo": folders, "meta_info_file": str(roots / "names.txt")})
    assert (data_set.n_real, data_set.n_pseudo) == (2, 4)


def test_a_missing_list_is_an_error(roots):
    with pytest.raises(FileNotFoundError, match="no list of names"):
        PairedRestorationDataset(
            {"dataroot_lq": str(roots / "low"), "dataroot_gt": str(roots / "high"), "meta_info_file": "none.txt"}
        )


def test_option_files_take_the_list(option_files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = ["datasets:train:meta_info_file=~/names.txt"]
    options = load_options(option_files.isp(), root_path=str(tmp_path), is_train=True, overrides=overrides)
    assert options["datasets"]["train"]["meta_info_file"] == str(tmp_path / "names.txt")


def test_names_with_spaces_and_lines_of_basicsr(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("a 0\nb.png (480,480,3)\nc.png (480, 480, 3) 1\n")
    assert read_names(path) == ["a 0", "b.png", "c.png"]
