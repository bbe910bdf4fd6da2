"""Matching inputs with targets."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers import touch

from semiisp_plugin.data.pairs import (
    Pair,
    check_same_size,
    find_pair_folders,
    match_pairs,
    read_location,
    read_pair,
    select_pairs,
)
from semiisp_plugin.io.image_io import encode_png, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, unique_keys


def image(number: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), number, np.uint8)


def write_lmdb(folder: Path, names: list[str]) -> Path:
    with LmdbImageWriter(folder) as writer:
        for number, key in enumerate(unique_keys(names)):
            writer.put(key, encode_png(image(number)), (4, 6, 3))
    return folder


def test_pairs_are_matched_by_name_not_by_order_or_extension(tmp_path):
    low = touch(tmp_path / "low", ["b.jpg", "a/2.png", "a/10.png"])
    high = touch(tmp_path / "high", ["a/10.PNG", "a/2.tif", "b.webp"])
    assert match_pairs(low, high) == [
        Pair("a/10", str(low / "a/10.png"), str(high / "a/10.PNG")),
        Pair("a/2", str(low / "a/2.png"), str(high / "a/2.tif")),
        Pair("b", str(low / "b.jpg"), str(high / "b.webp")),
    ]


def test_letters_with_accents_match_however_they_are_stored(tmp_path):
    """Macs store them decomposed, other systems composed."""
    for part, form in (("low", "NFD"), ("high", "NFC")):
        for number, name in enumerate(("café_1", "Größe_2", "plain")):
            write_image(tmp_path / part / f"{unicodedata.normalize(form, name)}.png", image(number))
    pairs = match_pairs(tmp_path / "low", tmp_path / "high")
    assert len(pairs) == 3
    assert all((read_pair(pair)[0] == read_pair(pair)[1]).all() for pair in pairs)
    chosen = select_pairs(pairs, [unicodedata.normalize("NFD", "café_1.png")])
    assert [pair.key for pair in chosen] == ["caf%C3%A9_1"]


def test_template(tmp_path):
    low = touch(tmp_path / "low", ["a/x_1.5 low.png", "x_2 low.png"])
    high = touch(tmp_path / "high", ["a/1.5.png", "2.png"])
    pairs = match_pairs(low, high, filename_template="x_{} low")
    assert [(p.key, Path(p.input).name) for p in pairs] == [("2", "x_2 low.png"), ("a/1%2E5", "x_1.5 low.png")]
    for template in ("", "x", "{}{}", "{}/a"):
        with pytest.raises(ValueError, match="exactly once"):
            match_pairs(low, high, filename_template=template)


def test_mismatch_names_roots_counts_and_keys(tmp_path):
    low = touch(tmp_path / "low", [f"{i}.png" for i in range(10)])
    high = touch(tmp_path / "high", ["0.png", "1.png", "eleven.png"])
    with pytest.raises(ValueError, match="do not match") as caught:
        match_pairs(low, high)
    message = str(caught.value)
    assert f"10 inputs in '{low}'; without target: '2', '3', '4', '5', '6' and 3 more" in message
    assert f"3 targets in '{high}'; without input: 'eleven'" in message
    with pytest.raises(ValueError, match=r"being named '\{\}_low'"):
        match_pairs(low, high, filename_template="{}_low")


def test_two_files_that_differ_in_their_extension_alone(tmp_path):
    low = touch(tmp_path / "low", ["a.png", "a.jpg"])
    with pytest.raises(ValueError, match=r"differ in their extension alone"):
        match_pairs(low, touch(tmp_path / "high", ["a.png"]))


def test_missing_and_empty_roots(tmp_path):
    high = touch(tmp_path / "high", ["a.png"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        match_pairs(tmp_path / "nowhere", high)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.lmdb"):
        match_pairs(tmp_path / "nowhere.lmdb", high)
    (tmp_path / "empty.lmdb").mkdir()
    (tmp_path / "empty.lmdb/meta_info.txt").touch()
    with pytest.raises(ValueError, match="lists no image"):
        match_pairs(tmp_path / "empty.lmdb", high)


def test_lmdb_and_folder_in_every_combination(tmp_path):
    names = ["a.b/é 1.png", "c/漢字.png", "plain.png"]
    roots = {}
    for side in ("in", "out"):
        roots[side, "disk"] = tmp_path / side
        for number, name in enumerate(names):
            write_image(tmp_path / side / name, image(number))
        roots[side, "lmdb"] = write_lmdb(tmp_path / f"{side}.lmdb", names)
    keys = []
    for a in ("disk", "lmdb"):
        for b in ("disk", "lmdb"):
            pairs = match_pairs(roots["in", a], roots["out", b])
            keys.append([pair.key for pair in pairs])
            for pair in pairs:
                first, second = read_pair(pair)
                np.testing.assert_array_equal(first, second)
            assert sorted(int(read_pair(pair)[0][0, 0, 0]) for pair in pairs) == [0, 1, 2]
    assert keys == [sorted(unique_keys(names))] * 4
    assert match_pairs(f"{roots['in', 'lmdb']}/", f"{roots['out', 'lmdb']}/")[0].key == keys[0][0]


def test_files_below_a_folder_named_lmdb_are_files(tmp_path):
    write_image(tmp_path / "odd.lmdb/sub/a.png", image(7))
    assert read_location(f"{tmp_path}/odd.lmdb/sub/a.png")[0, 0, 0] == 7


def test_lmdb_values_of_same_stem_pair_by_their_keys(tmp_path):
    names = ["a.jpg", "a.png"]
    pairs = match_pairs(write_lmdb(tmp_path / "i.lmdb", names), write_lmdb(tmp_path / "t.lmdb", names))
    assert [pair.key for pair in pairs] == ["a~jpg", "a~png"]


def test_sizes_must_be_the_same():
    pair = Pair("a/1", "low/a/1.png", "high/a/1.jpg")
    check_same_size(pair, image(0), image(1))
    with pytest.raises(ValueError, match=r"pair 'a/1'(.|\n)*4x6 'low/a/1\.png'(.|\n)*4x7 'high/a/1\.jpg'") as caught:
        check_same_size(pair, image(0), image(0, 4, 7))
    assert "rotated" not in str(caught.value)
    with pytest.raises(ValueError, match="seems to be rotated"):
        check_same_size(pair, image(0), image(0, 6, 4))


@pytest.mark.parametrize(
    ("first", "second"), [("input", "target"), ("low", "high"), ("Low", "Normal"), ("lq", "gt"), ("lq.lmdb", "gt.lmdb")]
)
def test_find_pair_folders(tmp_path, first, second):
    (tmp_path / first).mkdir()
    (tmp_path / second).mkdir()
    (tmp_path / "other").mkdir()
    assert find_pair_folders(tmp_path) == (str(tmp_path / first), str(tmp_path / second))


def test_find_pair_folders_says_what_it_looked_for(tmp_path):
    (tmp_path / "low").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(ValueError, match=r"\{input, target\}, \{low, high\}.*\{lq, gt\}.*it has: 'low', 'target'"):
        find_pair_folders(tmp_path)
    (tmp_path / "high").mkdir()
    (tmp_path / "input").mkdir()
    with pytest.raises(ValueError, match="holds several"):
        find_pair_folders(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_pair_folders(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        find_pair_folders(tmp_path / "file")
