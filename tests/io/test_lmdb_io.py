"""LMDB folders: keys, the shared reader, and the writer under interruption."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import lmdb
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semiisp_plugin.io import lmdb_io
from semiisp_plugin.io.image_io import IMAGE_EXTENSIONS, decode_image, encode_png, strip_extension
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, MetaEntry, lmdb_key, read_meta, read_value, unique_keys

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


def png(number: int, size: int = 6) -> bytes:
    """A PNG of noise, different for each number."""
    return encode_png(np.random.default_rng(number).integers(0, 256, (size, size + 1, 3), dtype=np.uint8))


def write(folder: Path, count: int, *, size: int = 6, first: int = 0, **options: object) -> None:
    """Write the images ``first`` ... ``count - 1`` that are not there yet."""
    with LmdbImageWriter(folder, **options) as writer:
        for number in range(first, count):
            if f"train/{number:04d}" not in writer:
                writer.put(f"train/{number:04d}", png(number, size), (size, size + 1, 3))


def content(folder: Path) -> tuple[dict[bytes, bytes], str]:
    """All that a folder holds, read without the code under test."""
    lmdb_io.close_all()
    environment = lmdb.open(str(folder), readonly=True, lock=False)
    with environment.begin() as transaction:
        values = {bytes(k): bytes(v) for k, v in transaction.cursor()}
    environment.close()
    return values, (folder / "meta_info.txt").read_text()


def in_child(function, *args: object) -> int | None:
    """Exit code of a forked process that runs a function."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join(30)
    if process.is_alive():
        process.kill()
        pytest.fail("the child hangs")
    return process.exitcode


# --- keys -----------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)
EXTENSIONS = st.sampled_from(["", *IMAGE_EXTENSIONS, ".JPG", ".txt", ".1"])
PATHS = st.builds(lambda parts, ext: "/".join(parts) + ext, st.lists(NAMES, min_size=1, max_size=4), EXTENSIONS)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("train/000000000009.jpg", "train/000000000009"),
        ("a0001-Duggan_090114.PNG", "a0001-Duggan_090114"),
        ("a.b é.png", "a%2Eb%20%C3%A9"),
        ("100%.png", "100%25"),
        ("img.1", "img%2E1"),
        (".jpg", "%2Ejpg"),
        ("a~b.png", "a%7Eb"),
        ("not_utf8_\udcff.png", "not_utf8_%FF"),
    ],
)
def test_lmdb_key_examples(path, key):
    assert lmdb_key(path) == key


# Names made of what keys are made of, so that a careless encoding does collide.
TRICKY = st.lists(st.text("aA.~%2Eé ", min_size=1, max_size=6), min_size=1, max_size=2).map("/".join)


@given(st.lists(TRICKY.filter(lambda p: not {".", ".."} & set(p.split("/"))), min_size=2, max_size=40, unique=True))
def test_lmdb_key_is_injective_on_stems(stems):
    keys = [lmdb_key(stem + ".png") for stem in stems]
    assert len(set(keys)) == len(stems)


@pytest.mark.slow
@given(PATHS)
@example("\uf900.png")  # a letter that is another one when it is composed
def test_lmdb_key_is_fit_for_basicsr_and_lmdb(path):
    key = lmdb_key(path)
    assert re.fullmatch(r"[A-Za-z0-9_/%~-]{1,511}", key)
    if "~" not in key:
        assert unquote(key) == unicodedata.normalize("NFC", strip_extension(path)[0])
    # BasicSR's way of getting keys from the list.
    assert f"{key}.png (1,2,3) 1".split(".")[0] == key


def test_long_paths_get_short_keys_that_differ():
    paths = [f"{'漢' * 200}/{i}.png" for i in range(50)] + ["漢" * 200 + ".png"]
    keys = [lmdb_key(path) for path in paths]
    assert len(set(keys)) == len(paths)
    assert max(map(len, keys)) <= 440


@pytest.mark.parametrize("path", ["", "/a.png", "a//b.png", "./a.png", "../a.png", "a/./b.png", "a/"])
def test_lmdb_key_refuses_other_spellings_of_a_path(path):
    with pytest.raises(ValueError, match="no plain relative path"):
        lmdb_key(path)


def test_unique_keys_example():
    assert unique_keys(["a.jpg", "b.jpg", "b.png", "b"]) == ["a", "b~jpg", "b~png", "b~"]
    assert unique_keys(["a.jpg", "c.jpg"], {"a", "b"}) == ["a~jpg", "c"]
    assert unique_keys(["a.jpg"], {"a", "a~jpg"}) == ["a~" + hashlib.sha256(b"a.jpg").hexdigest()]
    letters = ["\u00e9.jpg", "e\u0301.jpg", "e.jpg"]  # two of which are the same letter, composed and decomposed
    keys = [f"%C3%A9~{hashlib.sha256(letter.encode()).hexdigest()}" for letter in letters[:2]]
    assert unique_keys(letters) == [*keys, "e"]
    with pytest.raises(ValueError, match=r"'a\.jpg' would have the key 'a~\w{64}', which is another image's"):
        unique_keys(["a.jpg"], {"a", "a~jpg", "a~" + hashlib.sha256(b"a.jpg").hexdigest()})


@given(
    st.lists(
        st.builds(str.__add__, st.text("ab.~%J", min_size=1).filter(lambda s: s not in (".", "..")), EXTENSIONS),
        unique=True,
    ),
    st.randoms(use_true_random=False),
)
def test_unique_keys_are_unique_and_independent_of_order(paths, random):
    keys = dict(zip(paths, unique_keys(paths), strict=True))
    assert len(set(keys.values())) == len(paths)
    shuffled = random.sample(paths, len(paths))
    assert dict(zip(shuffled, unique_keys(shuffled), strict=True)) == keys


# --- reading --------------------------------------------------------------------------------------------------------


def test_round_trip_in_basicsr_layout(tmp_path):
    folder = tmp_path / "a.lmdb"
    write(folder, 5, compression=3)
    assert (folder / "meta_info.txt").read_text().splitlines()[1] == "train/0001.png (6,7,3) 3"
    assert read_meta(folder)[1] == MetaEntry("train/0001", (6, 7, 3), 3)
    assert [read_value(folder, entry.key) for entry in read_meta(folder)] == [png(i) for i in range(5)]
    assert {p.name for p in folder.iterdir()} == {"data.mdb", "lock.mdb", "meta_info.txt"}


def test_missing_key_names_folder_and_key(tmp_path):
    write(tmp_path / "a.lmdb", 12)
    with pytest.raises(KeyError, match=r"a\.lmdb' has no key 'trian/0011'"):
        read_value(tmp_path / "a.lmdb", "trian/0011")
    with pytest.raises(KeyError, match="0 bytes"):
        read_value(tmp_path / "a.lmdb", "")


def test_what_is_no_lmdb_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.lmdb' is not a folder"):
        read_value(tmp_path / "nowhere.lmdb", "a")
    (tmp_path / "b.lmdb").mkdir()
    with pytest.raises(FileNotFoundError, match=r"b\.lmdb' holds no data.mdb"):
        read_value(tmp_path / "b.lmdb", "a")
    with pytest.raises(FileNotFoundError, match=r"b\.lmdb' has no meta_info\.txt"):
        read_meta(tmp_path / "b.lmdb")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_meta(tmp_path / "nowhere.lmdb")
    (tmp_path / "b.lmdb/data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(RuntimeError, match=r"b\.lmdb' cannot be opened as LMDB"):
        read_value(tmp_path / "b.lmdb", "a")


@pytest.mark.parametrize("kept", [0, 1000, 4096, 8192, 3 * 4096, -4096, -1])
def test_a_database_that_was_cut_short_is_refused(tmp_path, kept):
    """As by an interrupted copy: reading what is missing would end the process (SIGBUS)."""
    folder = tmp_path / "a.lmdb"
    write(folder, 30)
    size = (folder / "data.mdb").stat().st_size
    os.truncate(folder / "data.mdb", kept if kept >= 0 else size + kept)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"a\.lmdb' cannot be opened as LMDB.*write it again") as caught:
            read_value(folder, "train/0001")
    if kept < 0:
        assert f"its data.mdb was cut short, as by an interrupted copy ({size + kept} bytes of at least {size})" in str(
            caught.value
        )
    with pytest.raises(ValueError, match=r"a\.lmdb' (cannot be opened for writing|is damaged).*[dD]elete"):
        LmdbImageWriter(folder, resume=True)


def test_a_damaged_page_is_named(tmp_path):
    """As by a lost cluster: the page through which all keys are found."""
    folder = tmp_path / "a.lmdb"
    write(folder, 30)
    with lmdb.open(str(folder), readonly=True, lock=False) as environment:
        page = environment.stat()["psize"]
    data = (folder / "data.mdb").read_bytes()
    problem = ""
    for at in range(2 * page, len(data), page):
        (folder / "data.mdb").write_bytes(data[:at] + bytes(page) + data[at + page :])
        lmdb_io.close_all()
        try:
            for number in range(30):
                assert read_value(folder, f"train/{number:04d}") == png(number)
        except RuntimeError as error:
            problem = str(error)
            break
    assert re.fullmatch(r"'.*a\.lmdb' is damaged \('train/\d+': .*\)\. Copy it again, or write it again\.", problem)
    with pytest.raises(
        ValueError, match=r"a\.lmdb' is damaged: meta_info\.txt names \d+ images that data\.mdb does not"
    ):
        LmdbImageWriter(folder, resume=True)


def test_read_meta_errors_name_file_and_line(tmp_path):
    folder = tmp_path / "a.lmdb"
    folder.mkdir()
    good = "a.png (1,2,3) 1\nb c.png (1, 2, 1) 9\n"
    (folder / "meta_info.txt").write_text(good)
    assert read_meta(folder) == [MetaEntry("a", (1, 2, 3), 1), MetaEntry("b c", (1, 2, 1), 9)]
    (folder / "meta_info.txt").write_text(good, encoding="utf-8-sig")  # as some editors store it
    assert [entry.key for entry in read_meta(folder)] == ["a", "b c"]
    (folder / "meta_info.txt").write_text(good + "c.png (1,2\n")
    with pytest.raises(ValueError, match=r"meta_info\.txt, line 3: 'c\.png \(1,2'"):
        read_meta(folder)
    (folder / "meta_info.txt").write_text(good + "c.png (1,2")  # a killed writer's last line
    assert len(read_meta(folder)) == 2
    (folder / "meta_info.txt").write_text(good + f"c.png ({'9' * 5000},2,3) 1\n")
    with pytest.raises(ValueError, match=r"meta_info\.txt, line 3: 'c\.png \(999"):
        read_meta(folder)
    (folder / "meta_info.txt").write_bytes(b"\xff.png (1,2,3) 1\n")
    with pytest.raises(ValueError, match=r"meta_info\.txt: byte 1 is not of a text in UTF-8"):
        read_meta(folder)
    (folder / "meta_info.txt").write_text(good + "a.png (1,2,3) 1\n")
    with pytest.raises(ValueError, match="line 3: the key 'a' was there before"):
        read_meta(folder)


def test_one_environment_a_process_and_path(tmp_path):
    """lmdb 3 refuses a second one, also by way of a link."""
    write(tmp_path / "a.lmdb", 2)
    (tmp_path / "link.lmdb").symlink_to(tmp_path / "a.lmdb")
    for folder in ("a.lmdb", "link.lmdb", "../" + tmp_path.name + "/a.lmdb"):
        assert read_value(tmp_path / folder, "train/0001") == png(1)
    assert len(lmdb_io._open) == 1


def test_a_folder_that_was_replaced_is_reopened(tmp_path):
    folder = tmp_path / "a.lmdb"
    write(folder, 1)
    assert read_value(folder, "train/0000") == png(0)
    write(tmp_path / "new.lmdb", 3, first=2)
    shutil.rmtree(folder)
    (tmp_path / "new.lmdb").rename(folder)  # as another process may do
    assert read_value(folder, "train/0002") == png(2)
    with pytest.raises(KeyError):
        read_value(folder, "train/0000")


def test_threads_share_the_environment(tmp_path):
    write(tmp_path / "a.lmdb", 20)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda i: read_value(tmp_path / "a.lmdb", f"train/{i % 20:04d}"), range(200)))
    assert values == [png(i % 20) for i in range(200)]


def _read_in_child(folder: Path) -> None:
    assert read_value(folder, "train/0001") == png(1)
    assert all(entry.pid == os.getpid() for entry in lmdb_io._open.values())


@needs_fork
def test_a_forked_child_opens_its_own_environment(tmp_path):
    folder = tmp_path / "a.lmdb"
    write(folder, 2)
    assert read_value(folder, "train/0001") == png(1)
    assert in_child(_read_in_child, folder) == 0
    assert read_value(folder, "train/0000") == png(0)  # the parent's still works


@needs_fork
def test_a_lock_held_by_another_thread_during_a_fork_does_not_block_the_child(tmp_path):
    write(tmp_path / "a.lmdb", 2)
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with lmdb_io._lock:
            held.set()
            forked.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        held.wait()
        assert in_child(_read_in_child, tmp_path / "a.lmdb") == 0
    finally:
        forked.set()
        thread.join()


def _grow(folder: Path) -> None:
    write(folder, 10, size=700, resume=True)


@needs_fork
def test_growth_by_another_process_is_noticed(tmp_path):
    folder = tmp_path / "a.lmdb"
    write(folder, 1, size=700)
    assert read_value(folder, "train/0000") == png(0, 700)
    before = lmdb_io._open[os.path.realpath(folder)].environment.info()["map_size"]
    assert in_child(_grow, folder) == 0
    assert (folder / "data.mdb").stat().st_size > before  # else the reader's map still suffices
    for number in (9, 0):
        assert read_value(folder, f"train/{number:04d}") == png(number, 700)
    with pytest.raises(KeyError):
        read_value(folder, "train/0010")


# --- writing --------------------------------------------------------------------------------------------------------


def test_the_map_grows(tmp_path):
    folder = tmp_path / "a.lmdb"
    with LmdbImageWriter(folder, map_size=2**16, batch=8) as writer:
        start = writer._environment.info()["map_size"]
        for number in range(80):
            writer.put(f"{number}", png(number, 40), (40, 41, 3))
        assert writer._environment.info()["map_size"] >= 4 * start
        assert len(writer) == 80
    assert [read_value(folder, str(number)) for number in range(80)] == [png(number, 40) for number in range(80)]
    assert len(read_meta(folder)) == 80


def test_a_batch_larger_than_the_whole_map_grows_it_several_times(tmp_path):
    write(tmp_path / "a.lmdb", 80, size=40, map_size=2**16, batch=1000)
    assert len(content(tmp_path / "a.lmdb")[0]) == 80


def test_memory_is_bounded_by_bytes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_io, "_MAX_PENDING_BYTES", 3 * len(png(0, 40)))
    with LmdbImageWriter(tmp_path / "a.lmdb", batch=1000) as writer:
        for number in range(10):
            writer.put(f"{number}", png(number, 40), (40, 41, 3))
            assert len(writer._pending) <= 4
        assert len(read_meta(tmp_path / "a.lmdb")) >= 6


def test_existing_folders_are_refused(tmp_path):
    write(tmp_path / "a.lmdb", 1)
    with pytest.raises(FileExistsError, match=r"a\.lmdb' exists and is not empty.*resume=True"):
        LmdbImageWriter(tmp_path / "a.lmdb")
    assert read_value(tmp_path / "a.lmdb", "train/0000") == png(0)
    (tmp_path / "file.lmdb").touch()
    with pytest.raises(FileExistsError):
        LmdbImageWriter(tmp_path / "file.lmdb")
    (tmp_path / "empty.lmdb").mkdir()
    write(tmp_path / "empty.lmdb", 1)
    (tmp_path / "photos.lmdb").mkdir()
    (tmp_path / "photos.lmdb/a.png").write_bytes(png(0))
    with pytest.raises(ValueError, match="not what an interrupted writer leaves"):
        LmdbImageWriter(tmp_path / "photos.lmdb", resume=True)
    assert [p.name for p in (tmp_path / "photos.lmdb").iterdir()] == ["a.png"]


def test_the_name_must_end_in_lmdb(tmp_path):
    with pytest.raises(ValueError, match=r"must end in '\.lmdb'"):
        LmdbImageWriter(tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["", "a.b", "a b", "é", "a\n", "x" * 512])
def test_unusable_keys_are_refused(tmp_path, key):
    with LmdbImageWriter(tmp_path / "a.lmdb") as writer:
        with pytest.raises(ValueError, match="cannot be a key"):
            writer.put(key, png(0), (6, 7, 3))
        writer.put("x" * 511, png(0), (6, 7, 3))
    assert read_value(tmp_path / "a.lmdb", "x" * 511) == png(0)


def test_a_key_is_put_once_and_not_after_the_end(tmp_path):
    with LmdbImageWriter(tmp_path / "a.lmdb") as writer:
        writer.put("a", png(0), (6, 7, 3))
        with pytest.raises(ValueError, match="already holds 'a'"):
            writer.put("a", png(1), (6, 7, 3))
    with pytest.raises(ValueError, match="is closed"):
        writer.put("b", png(1), (6, 7, 3))
    assert read_value(tmp_path / "a.lmdb", "a") == png(0)


@pytest.mark.skipif(int(lmdb.__version__.split(".")[0]) < 2, reason="lmdb 1 opens an environment twice in a process")
def test_a_folder_that_is_written_is_not_read(tmp_path):
    folder = tmp_path / "a.lmdb"
    with LmdbImageWriter(folder, batch=2) as writer:
        for number in range(3):
            writer.put(f"{number}", png(number), (6, 7, 3))
        assert [entry.key for entry in read_meta(folder)] == ["0", "1"]
        with pytest.raises(RuntimeError, match="close the writer first"):
            read_value(folder, "1")
        with pytest.raises(ValueError, match="cannot be opened for writing"):
            LmdbImageWriter(folder, resume=True)
    assert read_value(folder, "2") == png(2)
    with LmdbImageWriter(folder, resume=True) as writer:  # closes the reader's environment
        writer.put("4", png(4), (6, 7, 3))
    assert read_value(folder, "4") == png(4)


def _put_and_stop(folder: Path) -> None:
    with LmdbImageWriter(folder) as writer:
        writer.put("a", png(0), (6, 7, 3))
        raise KeyboardInterrupt


def test_an_error_between_puts_keeps_what_was_put(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _put_and_stop(tmp_path / "a.lmdb")
    assert read_value(tmp_path / "a.lmdb", "a") == png(0)
    assert [entry.key for entry in read_meta(tmp_path / "a.lmdb")] == ["a"]


def _write_and_die(folder: Path, at: int) -> None:
    writer = LmdbImageWriter(folder, batch=4, map_size=2**16)
    for number in range(at):
        writer.put(f"train/{number:04d}", png(number, 40), (40, 41, 3))
    os.kill(os.getpid(), signal.SIGKILL)


@needs_fork
@pytest.mark.parametrize("at", [0, 3, 4, 18])
def test_a_killed_writer_leaves_a_readable_prefix_and_resumes_to_identical_content(tmp_path, at):
    folder = tmp_path / "a.lmdb"
    assert in_child(_write_and_die, folder, at) == -signal.SIGKILL
    entries = read_meta(folder)
    assert [entry.key for entry in entries] == [f"train/{number:04d}" for number in range(at // 4 * 4)]
    for number, entry in enumerate(entries):
        assert decode_image(read_value(folder, entry.key), name="x").shape == entry.shape
        assert read_value(folder, entry.key) == png(number, 40)
    write(folder, 30, size=40, resume=True)
    write(tmp_path / "whole.lmdb", 30, size=40)
    assert content(folder) == content(tmp_path / "whole.lmdb")


@pytest.mark.parametrize("kept", [0, 1, 30, 25 * 4, 25 * 4 + 10])
def test_resuming_when_the_list_lags_behind_the_images(tmp_path, kept):
    """Killed after a commit, before or while its lines were written."""
    folder = tmp_path / "a.lmdb"
    write(folder, 10)
    meta = folder / "meta_info.txt"
    assert len(meta.read_text().splitlines()[0]) + 1 == 25
    meta.write_bytes(meta.read_bytes()[:kept])
    assert len(read_meta(folder)) == kept // 25
    write(folder, 12, resume=True)
    write(tmp_path / "whole.lmdb", 12)
    assert content(folder) == content(tmp_path / "whole.lmdb")


def test_resuming_a_folder_whose_images_are_missing_is_refused(tmp_path):
    folder = tmp_path / "a.lmdb"
    write(folder, 2)
    with (folder / "meta_info.txt").open("a") as file:
        file.write("train/0009.png (6,7,3) 1\n")
    with pytest.raises(ValueError, match=r"names 1 images that data\.mdb does not hold, 'train/0009'"):
        LmdbImageWriter(folder, resume=True)
    assert read_value(folder, "train/0001") == png(1)  # nothing is left open or locked


def test_resume_may_also_begin(tmp_path):
    write(tmp_path / "new/a.lmdb", 2, resume=True)
    assert len(read_meta(tmp_path / "new/a.lmdb")) == 2


def test_discarded_images_are_gone_and_can_be_put_again(tmp_path):
    folder = tmp_path / "d.lmdb"
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    png = encode_png(image)
    with LmdbImageWriter(folder, batch=100) as writer:
        for key in ("a", "b", "c"):
            writer.put(key, png, image.shape)
        assert (writer.keys(), writer.n_bytes) == ({"a", "b", "c"}, 3 * len(png))
        writer.discard({"b", "never there"})
        assert (writer.keys(), writer.n_bytes, "b" in writer) == ({"a", "c"}, 2 * len(png), False)
        writer.put("d", png, image.shape)
    assert [entry.key for entry in read_meta(folder)] == ["a", "c", "d"]
    with pytest.raises(KeyError, match="no key 'b'"):
        read_value(folder, "b")
    lmdb_io.close_all()
    with LmdbImageWriter(folder, resume=True) as writer:
        assert writer.n_bytes == 3 * len(png)
        writer.discard(["a"])
        writer.put("b", png, image.shape)
    assert [entry.key for entry in read_meta(folder)] == ["c", "d", "b"]
    assert read_value(folder, "b") == png
    lmdb_io.close_all()
