"""Photographs to LMDBs: what is written, that it depends on the photograph alone, and what interruptions leave."""

import errno
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from semiisp_plugin.io.image_io import decode_image, read_image, to_uint16, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, close_all, read_meta, read_value
from semiisp_plugin.io.picture import read_photograph
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo import manifest, shards
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.manifest import pair_keys, photograph_seed

NAMES = ["a.jpg", "a.png", "b c/1.png", "b c/2.png", "z.png"]
KEYS = ["a~jpg", "a~png", "b%20c/1", "b%20c/2", "z"]


def picture(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def photographs(tmp_path) -> Path:
    root = tmp_path / "photos"
    for seed, name in enumerate(NAMES):
        write_image(root / name, picture(seed))
    return root


@pytest.fixture
def build(photographs, generator, tmp_path):
    def run(out: str = "out", root: Path = photographs, **options):
        more = {key: options.pop(key) for key in ("inputs", "retry") if key in options}
        common = {"name": "test", "f_isp": "", "num_gpu": 0}
        how = PseudoOptions(**common, photographs=str(root), out=str(tmp_path / out), **options)
        return build_pseudo_lmdb(how, generator, progress=False, **more)

    return run


@pytest.fixture
def contents(tmp_path):
    """Everything that a build wrote: each LMDB's keys in order, its values, and meta_info.txt to the byte."""

    def read(out: str = "out") -> dict[str, object]:
        found: dict[str, object] = {}
        for name in ("gt", "lq"):
            folder = tmp_path / out / f"{name}.lmdb"
            keys = [entry.key for entry in read_meta(folder)]
            found[name] = {key: read_value(folder, key) for key in keys}
            found[f"{name} keys"] = keys
            lists = sorted(folder.rglob("meta_info.txt"))
            found[f"{name} meta"] = {str(path.relative_to(folder)): path.read_bytes() for path in lists}
        return found

    return read


def test_keys_and_their_order(build, contents):
    report = build()
    found = contents()
    assert found["gt keys"] == found["lq keys"] == KEYS
    assert (report.written, report.kept, report.skipped) == (5, 0, {})


def test_values_are_those_of_the_generator(build, contents, photographs, generator):
    report = build(manual_seed=9)
    found = contents()
    clipped = []
    for name, key in zip(NAMES, KEYS, strict=True):
        photo = torch.from_numpy(read_image(photographs / name)).permute(2, 0, 1)[None]
        pair = generator.generate(photo, torch.Generator().manual_seed(photograph_seed(9, key)))
        target = decode_image(found["gt"][key], name=key)
        pseudo_input = decode_image(found["lq"][key], name=key)
        assert (target.dtype, pseudo_input.dtype) == (np.uint8, np.uint16)
        np.testing.assert_array_equal(target, pair.target[0].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(pseudo_input, to_uint16(pair.input[0].permute(1, 2, 0).numpy()))
        clipped.append(float(pair.clipped))
    assert report.clipped == pytest.approx(np.mean(clipped), abs=1e-7)


def test_a_pair_does_not_depend_on_the_other_photographs(build, contents, photographs, tmp_path):
    build()
    alone = tmp_path / "alone" / "b c"
    alone.mkdir(parents=True)
    shutil.copy(photographs / "b c" / "2.png", alone)
    build("out2", root=tmp_path / "alone")
    whole, single = contents(), contents("out2")
    key = "b%20c/2"
    assert single["gt"] == {key: whole["gt"][key]}
    assert single["lq"] == {key: whole["lq"][key]}


def test_seed(build, contents, photographs, tmp_path):
    build(manual_seed=1)
    build("same", manual_seed=1)
    build("other", manual_seed=2)
    assert contents() == contents("same")
    assert all(contents("other")["lq"][key] != value for key, value in contents()["lq"].items())
    # Two equal photographs get different draws, by their names.
    twins = tmp_path / "twins"
    for name in ("x.png", "y.png"):
        write_image(twins / name, picture(0))
    build("pairs of twins", root=twins)
    pairs = contents("pairs of twins")["lq"]
    assert pairs["x"] != pairs["y"]


def test_photograph_seed():
    seeds = {photograph_seed(seed, key) for seed in range(10) for key in KEYS}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert photograph_seed(1, "23") != photograph_seed(12, "3")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "stop"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_resuming_gives_what_an_unbroken_build_gives(build, contents, monkeypatch, tmp_path, error):
    build("unbroken")
    calls = 0

    def interrupted(path, **options):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise error
        return read_photograph(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "read_photograph", interrupted)
        with pytest.raises(type(error)):
            build()
    assert contents()["gt keys"] == contents()["lq keys"] == KEYS[:3]
    assert not (tmp_path / "out" / "report.json").exists()
    close_all()
    report = build()
    assert (report.kept, report.written) == (3, 2)
    assert contents() == contents("unbroken")
    assert report.clipped == build("unbroken").clipped  # also of the pairs that the first run made
    # Once more: nothing left to do.
    report = build()
    assert (report.kept, report.written) == (5, 0)
    assert contents() == contents("unbroken")


@pytest.mark.parametrize("failing", ["gt.lmdb", "lq.lmdb"])
def test_full_disk_leaves_a_readable_prefix(build, contents, monkeypatch, failing):
    build("unbroken")
    put = LmdbImageWriter.put

    def full(self, key, png_bytes, shape):
        if self.folder.parent.name == failing and len(self) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, key, png_bytes, shape)

    with monkeypatch.context() as patch:
        patch.setattr(LmdbImageWriter, "put", full)
        with pytest.raises(OSError, match="No space left"):
            build()
    for name in ("gt", "lq"):
        keys = contents()[f"{name} keys"]
        assert keys == KEYS[: len(keys)]
        for key, value in contents()[name].items():
            assert value == contents("unbroken")[name][key]
    assert len(contents()[f"{failing[:2]} keys"]) == 3
    close_all()
    build()  # where one of the two has pairs' halves already
    assert contents() == contents("unbroken")


# --- several draws of a photograph -----------------------------------------------------------------------------------


def keys_of_draws(draws: int) -> list[str]:
    return [key if i == 0 else f"{key}__draw{i}" for key in KEYS for i in range(draws)]


def test_draws_are_pairs_of_their_own(build, contents, photographs, generator):
    build("one", manual_seed=9)
    report = build(manual_seed=9, draws=3)
    one, three = contents("one"), contents()
    assert three["gt keys"] == three["lq keys"] == keys_of_draws(3)
    assert (report.written, report.kept) == (15, 0)
    for name in ("gt", "lq"):  # the first draw is that of a build with one draw, to the byte
        assert {key: three[name][key] for key in KEYS} == one[name]
    for name, key in zip(NAMES, KEYS, strict=True):
        photo = torch.from_numpy(read_image(photographs / name)).permute(2, 0, 1)[None]
        for draw in range(3):
            drawn = key if draw == 0 else f"{key}__draw{draw}"
            pair = generator.generate(photo, torch.Generator().manual_seed(photograph_seed(9, drawn)))
            target = decode_image(three["gt"][drawn], name=drawn)
            np.testing.assert_array_equal(target, pair.target[0].permute(1, 2, 0).numpy())
            pseudo_input = decode_image(three["lq"][drawn], name=drawn)
            np.testing.assert_array_equal(pseudo_input, to_uint16(pair.input[0].permute(1, 2, 0).numpy()))
        # Both steps draw; of five sets, two of the three draws can be the same one.
        assert len({three["gt"][k] for k in (key, f"{key}__draw1", f"{key}__draw2")}) > 1
        assert len({three["lq"][k] for k in (key, f"{key}__draw1", f"{key}__draw2")}) == 3


def test_a_photograph_is_read_once_for_all_its_draws(build, monkeypatch):
    read = []

    def counted(path, **options):
        read.append(os.path.basename(path))
        return read_photograph(path, **options)

    monkeypatch.setattr(manifest, "read_photograph", counted)
    build(draws=4)
    assert len(read) == len(NAMES)


def test_keys_of_draws_never_meet():
    # The second and third photographs are called as the pseudo inputs of the first are.
    photographs = ["a", "a__draw1", "a__draw1__draw0", "a__draw", "a__draw1x", "b__draw007"]
    for draws in (1, 2, 3, 12):
        keys = [key for photograph in photographs for key in pair_keys(photograph, draws)]
        assert len(set(keys)) == len(keys) == draws * len(photographs)
    assert pair_keys("a", 3) == ["a", "a__draw1", "a__draw2"]
    assert pair_keys("a__draw1", 1) == ["a__draw1"]
    assert pair_keys("a__draw1", 2) == ["a__draw1__draw0", "a__draw1__draw1"]


def test_photographs_called_as_draws_are_built(build, contents, tmp_path):
    root = tmp_path / "exported"
    for seed, name in enumerate(("a.png", "a__draw1.png")):
        write_image(root / name, picture(seed))
    assert build(root=root, draws=2).written == 4
    assert contents()["lq keys"] == ["a", "a__draw1", "a__draw1__draw0", "a__draw1__draw1"]


@pytest.mark.slow
@pytest.mark.parametrize("when", range(1, 10))
def test_resuming_at_any_draw_gives_what_an_unbroken_build_gives(build, contents, monkeypatch, when):
    """Interrupted at any of the ten puts into lq.lmdb, gt.lmdb being complete."""
    build("unbroken", draws=2, max_photographs=5)
    put = LmdbImageWriter.put

    def interrupted(self, key, png_bytes, shape):
        if self.folder.parent.name == "lq.lmdb" and len(self) == when:
            raise KeyboardInterrupt
        put(self, key, png_bytes, shape)

    with monkeypatch.context() as patch:
        patch.setattr(LmdbImageWriter, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(draws=2)
    assert contents()["lq keys"] == keys_of_draws(2)[:when]
    close_all()
    report = build(draws=2)
    assert (report.kept, report.written) == (when, 10 - when)
    assert contents() == contents("unbroken")


def test_draws_are_counted_as_pairs_and_photographs_are_skipped_once(build, photographs):
    (photographs / "broken.jpg").write_bytes(b"no image")
    report = build(draws=3)
    assert report.written == 15
    assert list(report.skipped) == ["broken.jpg"]


def test_number_of_draws_belongs_to_a_build(build, contents):
    build(max_photographs=1)
    before = contents()
    close_all()
    with pytest.raises(ValueError, match="draws: 1 then, 2 now"):
        build(draws=2)
    assert contents() == before


@contextmanager
def largest_file(size: int):
    """No file of this process can grow beyond ``size`` bytes: writing more fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="needs resource limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_database_that_cannot_grow_is_an_os_error(build, contents, monkeypatch):
    build("unbroken")
    monkeypatch.setattr(shards, "_CHUNK", 2)  # so that some are stored before the disk is full
    sizes = [len(value) for value in contents("unbroken")["lq"].values()]
    with largest_file(24 * 1024 + sum(sizes[:2])), pytest.raises(OSError, match=r"lmdb.*could not be written"):
        build()
    close_all()
    stored = contents()["lq keys"]
    assert stored == KEYS[: len(stored)]
    assert 0 < len(stored) < len(KEYS)
    build()
    assert contents() == contents("unbroken")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manual_seed": 2}, "manual_seed: 1 then, 2 now"),
        ({"short_side": 36}, "short_side: None then, 36 now"),
        ({"mode": "online"}, "mode: stored then, online now"),
        ({"input_bits": 8}, "input_bits: 16 then, 8 now"),
        ({"shard_size": 3}, "shard_size: 64 then, 3 now"),
        ({"inputs": {"f_isp": "b"}}, "f_isp: a then, b now"),
        ({"inputs": None}, "f_isp: a then, not given now"),
    ],
)
def test_a_build_is_not_resumed_with_other_settings(build, contents, changes, message):
    made_with = {"manual_seed": 1, "inputs": {"f_isp": "a"}}
    build(max_photographs=2, **made_with)
    before = contents()
    close_all()
    with pytest.raises(ValueError, match=message):
        build(**{**made_with, **changes})
    assert contents() == before
    # What the pairs do not depend on may change.
    close_all()
    assert build(png_compression=3, **made_with).kept == 2


def test_other_peoples_lmdbs_are_not_touched(build, tmp_path):
    (tmp_path / "out" / "gt.lmdb").mkdir(parents=True)
    (tmp_path / "out" / "gt.lmdb" / "data.mdb").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"holds files, but none of `basicsr pseudo` \(no manifest\.json\)"):
        build()
    assert (tmp_path / "out" / "gt.lmdb" / "data.mdb").read_bytes() == b"precious"


def test_short_side_shrinks_by_area_and_never_enlarges(build, contents, photographs, generator):
    write_image(photographs / "tall.png", picture(9, 90, 60))
    generator.update_quality = False
    try:
        build(short_side=40)
    finally:
        generator.update_quality = True
    shapes = {key: decode_image(value, name=key).shape for key, value in contents()["gt"].items()}
    assert shapes == {**dict.fromkeys(KEYS, (40, 48, 3)), "tall": (60, 40, 3)}
    expected = cv2.resize(picture(9, 90, 60), (40, 60), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(decode_image(contents()["gt"]["tall"], name="tall"), expected)


def test_max_photographs_takes_the_first_by_path(build, contents):
    report = build(max_photographs=2)
    assert report.written == 2
    assert contents()["gt keys"] == KEYS[:2]


def test_png_compression_is_noted_and_does_not_change_the_images(build, contents, tmp_path):
    build(png_compression=9)
    build("fast", png_compression=0)
    assert {entry.level for entry in read_meta(tmp_path / "out" / "lq.lmdb")} == {9}
    small, large = contents()["lq"], contents("fast")["lq"]
    assert all(len(small[key]) < len(large[key]) for key in KEYS)
    for key in KEYS:
        np.testing.assert_array_equal(*(decode_image(value, name=key) for value in (small[key], large[key])))


def test_photographs_of_every_kind(build, contents, photographs, tmp_path):
    (photographs / "empty.jpg").write_bytes(b"")
    (photographs / "note.jpg").write_text("not an image")
    (photographs / "half.jpg").write_bytes((photographs / "a.jpg").read_bytes()[:500])
    write_image(photographs / "tiny.png", picture(7, 31, 100))
    write_image(photographs / "small.png", picture(7, 32, 32))
    Image.fromarray(picture(8)).convert("L").save(photographs / "grey.jpg")
    Image.fromarray(picture(8)).convert("CMYK").save(photographs / "ink.jpg")
    (photographs / "README.txt").write_text("no photograph")
    report = build()
    bad = ["empty.jpg", "half.jpg", "note.jpg", "tiny.png"]
    assert sorted(report.skipped) == bad
    assert "0 bytes" in report.skipped["empty.jpg"]
    assert "100x31" in report.skipped["tiny.png"]
    keys = contents()["gt keys"]
    assert set(keys) == {*KEYS, "small", "grey", "ink"}
    assert all(decode_image(contents()["gt"][key], name=key).shape[2] == 3 for key in keys)

    written = json.loads((tmp_path / "out" / "report.json").read_text())
    sizes = {name: sum(len(value) for value in contents()[name].values()) for name in ("gt", "lq")}
    assert written == {
        "mode": "stored",
        "photographs": 12,
        "pairs": 8,
        "skipped": 4,
        "clipped": pytest.approx(report.clipped),
        "bytes": sizes,
        "shards": 1,
    }
    lines = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == list(report.skipped)
    # Fixed meanwhile: a finished shard is not written again, but they can be tried again, in a new one.
    shard = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("00000*/*"))}
    for seed, name in enumerate(bad):
        (photographs / name).unlink()
        write_image(photographs / name, picture(20 + seed))
    assert sorted(build().skipped) == bad
    report = build(retry=True)
    assert (report.written, report.kept, report.skipped, report.photographs) == (4, 8, {}, 12)
    assert set(contents()["gt keys"]) == {*KEYS, "small", "grey", "ink", "empty", "half", "note", "tiny"}
    assert not (tmp_path / "out" / "skipped.txt").exists()
    assert {path: path.read_bytes() for path in shard} == shard
    assert build(retry=True).written == 0


def test_no_usable_photograph_is_an_error(build, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"")
    (folder / "2.jpg").write_bytes(b"nothing")
    with pytest.raises(
        ValueError,
        match=r"None of the 2 photographs in .*bad .*skipped\.txt says why.; the first: .*1\.jpg",
    ):
        build(root=folder)
    # Fixed, it can be tried again in the same place.
    write_image(folder / "1.jpg", picture(0))
    assert build(root=folder).written == 1


def test_missing_and_empty_folders(build, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build(root=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        build(root=tmp_path / "empty")
    assert not (tmp_path / "out").exists()
