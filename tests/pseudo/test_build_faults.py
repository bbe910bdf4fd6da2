"""Builds by several processes, killed and stopped ones: entry by entry, they leave what an undisturbed one leaves."""

import json
import os
import random
import re
import shutil
import signal
import struct
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semiisp_plugin.data.pairs import match_pairs
from semiisp_plugin.io.image_io import decode_image, printable_path, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, close_all, parts, read_meta, read_value
from semiisp_plugin.io.locks import file_lock
from semiisp_plugin.io.picture import read_photograph
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo import manifest as manifest_module
from semiisp_plugin.pseudo import shards as shards_module
from semiisp_plugin.pseudo import workers as workers_module
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.check_build import check_build, print_check
from semiisp_plugin.pseudo.contact_sheet import save_contact_sheet
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import BuildFolder, automatic_shard_size, plan

COUNT = 40
SHARDS = 6  # of 7 photographs, the last of 5

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes by POSIX signals")


def picture(seed: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Of two sizes, in turn; three of them cannot be used."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(COUNT):
        write_image(root / f"{number:03d}.jpg", picture(number, *((96, 128) if number % 2 else (120, 90))))
    (root / "005.jpg").write_bytes((root / "004.jpg").read_bytes()[:300])
    (root / "020.jpg").write_bytes(b"")
    write_image(root / "038.jpg", picture(38, 20, 300))
    return root


def options_of(root, out, **options) -> PseudoOptions:
    common = {"name": "test", "f_isp": "", "num_gpu": 0, "shard_size": 7, "workers": 0}
    return PseudoOptions(**{**common, "photographs": str(root), "out": str(out), **options})


def build(root, out, generator, *, retry=False, threads=None, progress=False, **options):
    how = options_of(root, out, **options)
    return build_pseudo_lmdb(how, generator, retry=retry, threads=threads, progress=progress)


def contents(out: Path) -> dict[str, object]:
    """Every entry, every list of images, and what the report says; then nothing is left open."""
    found: dict[str, object] = {}
    for name in ("gt", "lq"):
        for part in parts(out / f"{name}.lmdb"):
            for entry in read_meta(part):
                found[f"{name}/{entry.key}"] = read_value(part, entry.key)
        for path in sorted((out / f"{name}.lmdb").rglob("meta_info.txt")):
            found[str(path.relative_to(out))] = path.read_bytes()
    for path in (*sorted((out / "shards").glob("*.json*")), out / "report.json", out / "skipped.txt"):
        if path.exists():
            found[str(path.relative_to(out))] = path.read_bytes()
    close_all()
    return found


@pytest.fixture(scope="module")
def undisturbed(photographs, generator, tmp_path_factory) -> dict[str, object]:
    """A build by one process."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    report = build(photographs, out, generator)
    assert (report.written, report.shards, report.unfinished) == (COUNT - 3, SHARDS, 0)
    assert sorted(report.skipped) == ["005.jpg", "020.jpg", "038.jpg"]
    found = contents(out)
    assert sum(key.startswith("lq/") for key in found) == COUNT - 3
    assert not list((out / "shards").glob("*.lock")) + list((out / "shards").glob("*.journal*"))
    return found


def disagreements(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    return [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]


@pytest.fixture(scope="module")
def processes():
    """Starts processes in milliseconds, as the builder starts its workers."""
    context = workers_module.start_context()
    if context.get_start_method() != "forkserver":
        pytest.skip("needs processes that start quickly")
    first = context.Process(target=print)  # waits for all that is imported
    first.start()
    first.join()
    return context


def start(processes, *arguments, **options):
    """`build_pseudo_lmdb` in a process of its own."""
    how = options_of(*arguments[:2], **options)
    process = processes.Process(target=build_pseudo_lmdb, args=(how, arguments[2]), kwargs={"progress": False})
    process.start()
    return process


# --- killed ----------------------------------------------------------------------------------------------------------


def progress_of(out: Path) -> tuple[int, int]:
    """Shards that are complete, and pairs noted in the journals of the others."""
    shards = out / "shards"
    journals = [path.read_bytes().count(b"\n") for path in shards.glob("*.journal.jsonl")]
    return len(list(shards.glob("*.done.json"))), sum(journals)


@pytest.mark.slow
def test_kills_leave_no_trace(photographs, generator, undisturbed, processes, tmp_path):
    """SIGKILL at random moments; a build resumes each time, and another begins when it is complete."""
    rng = random.Random(5)
    durations = []
    for name in ("clean", "clean again"):  # the first loads what is compiled
        begun = time.monotonic()
        process = start(processes, photographs, tmp_path / name, generator)
        process.join()
        durations.append(time.monotonic() - begun)
        assert disagreements(contents(tmp_path / name), undisturbed) == []
    kills, builds, stages = 0, 0, set()
    out = tmp_path / "0"

    def enough() -> bool:
        """Six kills; more, where a busy machine made them hit the same places."""
        return kills >= 6 and len(stages) > 3

    while not enough() or process.exitcode != 0:
        assert kills < 60, "the kills did not hit different places"
        process = start(processes, photographs, out, generator)
        process.join(None if enough() else rng.uniform(0, 1) * min(durations))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            stages.add((builds, *progress_of(out)))
        elif process.exitcode == 0:
            assert disagreements(contents(out), undisturbed) == [], f"build {builds} after {kills} kills"
            builds += 1
            out = tmp_path / str(builds)
        else:
            pytest.fail(f"a restarted build ended with {process.exitcode} after {kills} kills")
    assert builds >= 1


@pytest.mark.slow
def test_a_killed_command_takes_its_workers_with_it(photographs, generator, undisturbed, processes, tmp_path):
    """And the command that follows at once is not disturbed by what they still held."""
    out = tmp_path / "out"
    slow = start(processes, photographs, out, generator, workers=2)
    deadline = time.monotonic() + 60
    while not list((out / "gt.lmdb").glob("*/meta_info.txt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(slow.pid, signal.SIGKILL)
    build(photographs, out, generator)
    assert disagreements(contents(out), undisturbed) == []


CRASHES = '''
import os, signal
from semiisp_plugin.pseudo.generator import PseudoPairGenerator

class Crashing(PseudoPairGenerator):
    """Dies of the signal ``how`` at photographs of 64x40 pixels; with ``only_once``, which it makes, the first time."""

    only_once = None

    def generate_target(self, photographs, generator):
        if photographs.shape[2:] == (40, 64) and not (self.only_once and self.only_once.exists()):
            if self.only_once:
                self.only_once.touch()
            os.kill(os.getpid(), self.how)
        return super().generate_target(photographs, generator)
'''


@pytest.fixture
def crashing(photographs, generator, tmp_path, monkeypatch):
    """Photographs of which one kills the process that works on it, and the generator that does so by a signal."""
    (tmp_path / "crashing_generator.py").write_text(CRASHES)
    monkeypatch.syspath_prepend(str(tmp_path))
    from crashing_generator import Crashing

    root = tmp_path / "some"
    shutil.copytree(photographs, root, ignore=lambda _, names: [n for n in names if n > "012"])
    write_image(root / "003.jpg", picture(0, 40, 64))

    def make(how: signal.Signals) -> PseudoPairGenerator:
        made = Crashing(generator.network, generator.first)
        made.how = how
        return made

    return root, make


@pytest.mark.slow
def test_a_photograph_that_crashes_the_process_is_skipped(crashing, tmp_path):
    root, make = crashing
    report = build(root, tmp_path / "out", make(signal.SIGSEGV), workers=1)
    assert list(report.skipped) == ["003.jpg", "005.jpg"]
    assert "crashed (SIGSEGV)" in report.skipped["003.jpg"]
    assert report.written == 10


@pytest.mark.slow
def test_a_photograph_over_which_the_process_is_killed_twice_is_skipped(crashing, tmp_path):
    """As the system does when memory is short."""
    root, make = crashing
    report = build(root, tmp_path / "out", make(signal.SIGKILL), workers=1)
    assert list(report.skipped) == ["003.jpg", "005.jpg"]
    assert "was killed twice" in report.skipped["003.jpg"]
    assert report.written == 10


@pytest.mark.slow
def test_a_worker_killed_from_outside_is_no_fault_of_the_photograph(crashing, tmp_path):
    root, make = crashing
    once = make(signal.SIGKILL)
    once.only_once = tmp_path / "killed"
    report = build(root, tmp_path / "out", once, workers=1)
    assert once.only_once.exists()
    assert list(report.skipped) == ["005.jpg"]
    assert report.written == 11


class Short(PseudoPairGenerator):
    """Memory is short for large photographs: as torch and NumPy say so, or as one photograph alone."""

    error: Exception

    def generate_target(self, photos, generators):
        if photos.shape[-1] == 96 or (photos.shape[0] > 1 and photos.shape[-1] == 64):
            raise self.error
        return super().generate_target(photos, generators)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
    ids=["torch", "Python", "CUDA"],
)
def test_a_photograph_that_takes_too_much_memory_is_skipped(generator, tmp_path, error, batch):
    root = tmp_path / "some"
    for number in range(5):
        write_image(root / f"{number}.png", picture(number, 40, 96 if number == 2 else 64))
    short = Short(generator.network, generator.first)
    short.error = error
    report = build(root, tmp_path / "out", short, batch=batch, draws=2)
    assert list(report.skipped) == ["2.png"]
    assert report.skipped["2.png"].startswith("2.png: there is not enough memory for it (")
    assert report.written == 8
    assert (tmp_path / "out" / "skipped.txt").read_text().startswith("2.png\t2.png: there is not enough memory")
    # What was left over of it is made when there is more.
    report = build(root, tmp_path / "out", generator, batch=batch, draws=2, retry=True)
    assert (report.written, report.skipped) == (2, {})


def test_whatever_a_decoder_raises_is_the_photographs_fault(few, generator, tmp_path, monkeypatch):
    errors = iter([struct.error("unpack requires 4 bytes"), RecursionError(), IndexError("list"), ZeroDivisionError()])

    def failing(path, **options):
        error = next(errors, None)
        if error is not None:
            raise error
        return read_photograph(path, **options)

    monkeypatch.setattr(manifest_module, "read_photograph", failing)
    report = build(few, tmp_path / "out", generator)
    assert (len(report.skipped), report.written) == (4, 4)
    assert "unpack requires 4 bytes" in next(iter(report.skipped.values()))


# --- several at once -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_give_what_one_process_gives(photographs, generator, undisturbed, tmp_path):
    report = build(photographs, tmp_path / "out", generator, workers=2)
    assert (report.written, report.kept) == (COUNT - 3, 0)
    assert disagreements(contents(tmp_path / "out"), undisturbed) == []


@pytest.mark.slow
def test_commands_on_one_folder_share_the_work(photographs, generator, undisturbed, processes, tmp_path):
    running = [start(processes, photographs, tmp_path / "out", generator) for _ in range(3)]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert disagreements(contents(tmp_path / "out"), undisturbed) == []


@pytest.mark.slow
@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")], ids=["torchrun", "slurm"])
def test_ranks_build_shards_of_their_own(photographs, generator, undisturbed, monkeypatch, tmp_path, names):
    monkeypatch.setenv(names[1], "2")
    for rank, (written, unfinished) in enumerate([(19, 3), (18, 0)]):
        monkeypatch.setenv(names[0], str(rank))
        report = build(photographs, tmp_path / "out", generator, own_shards_only=True)
        assert (report.written, report.unfinished) == (written, unfinished)
        done = {path.name[:5] for path in (tmp_path / "out" / "shards").glob("*.done.json")}
        assert done == {f"{shard:05d}" for shard in range(SHARDS) if shard % 2 <= rank and (rank or shard % 2 == 0)}
        assert (tmp_path / "out" / "report.json").exists() == (rank == 1)
    assert disagreements(contents(tmp_path / "out"), undisturbed) == []


def test_a_rank_completes_what_others_left(photographs, generator, undisturbed, monkeypatch, tmp_path):
    """A job of which one rank never started, or a batch script that has Slurm's variables but is alone."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    report = build(photographs, tmp_path / "out", generator)
    assert (report.written, report.unfinished) == (COUNT - 3, 0)
    assert disagreements(contents(tmp_path / "out"), undisturbed) == []


def test_shards_of_a_living_process_are_left_to_it(photographs, generator, monkeypatch, tmp_path):
    out = tmp_path / "out"
    build(photographs, out, generator, max_photographs=3)
    monkeypatch.setattr(shards_module, "_PATIENCE", 0.2)
    with file_lock(out / "shards" / "00001.lock"):
        report = build(photographs, out, generator)
    assert report.unfinished == 1
    assert not (out / "gt.lmdb" / "00001.lmdb").exists()
    assert build(photographs, out, generator).unfinished == 0


# --- stopped ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 1)])
def test_signals_store_what_is_made(photographs, generator, undisturbed, tmp_path, number, workers):
    """As batch systems end a job; Ctrl+C does the same."""
    out = tmp_path / "out"

    def end_when_begun():
        deadline = time.monotonic() + 60
        while not list((out / "shards").glob("*.done.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=end_when_begun)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as stop:
        build(photographs, out, generator, workers=workers)
    thread.join()
    assert stop.value.signal == number
    assert signal.getsignal(number) is before
    stored = [path.name for path in (out / "shards").glob("*.done.json")]
    assert stored
    assert len(stored) < SHARDS
    build(photographs, out, generator)
    assert disagreements(contents(out), undisturbed) == []


def test_an_error_of_a_worker_is_that_of_the_build(photographs, generator, tmp_path):
    out = tmp_path / "out"
    build(photographs, out, generator, max_photographs=3)
    (out / "lq.lmdb").rename(out / "kept")
    (out / "lq.lmdb").write_text("in the way")
    with pytest.raises(OSError, match=r"lq\.lmdb"):
        build(photographs, out, generator, workers=1)
    (out / "lq.lmdb").unlink()
    (out / "kept").rename(out / "lq.lmdb")
    assert build(photographs, out, generator).unfinished == 0


# --- batches, modes, growing -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_batches_and_threads_as_on_a_gpu(photographs, generator, undisturbed, tmp_path, monkeypatch):
    """Rounding may differ from single photographs, but not between a broken and an unbroken build."""
    made = []
    for name in ("unbroken", "broken"):
        out = tmp_path / name
        if name == "broken":
            calls = iter(range(100))
            encode = shards_module.ShardBuilder._encoded

            def failing(self, pair, calls=calls, encode=encode):
                if next(calls) == 9:
                    raise RuntimeError("stop")
                return encode(self, pair)

            with monkeypatch.context() as patch:
                patch.setattr(shards_module.ShardBuilder, "_encoded", failing)
                with pytest.raises(RuntimeError, match="stop"):
                    build(photographs, out, generator, batch=4)
        report = build(photographs, out, generator, batch=4, threads=2 if name == "broken" else 0)
        made.append(contents(out))
    assert report.kept > 0
    assert disagreements(*made) == []
    assert made[0].keys() == undisturbed.keys()
    for key in (k.removeprefix("gt/") for k in undisturbed if k.startswith("gt/") and "meta" not in k):
        single, batched = (
            [decode_image(found[f"{name}/{key}"], name=key).astype(int) for name in ("gt", "lq")]
            for found in (undisturbed, made[0])
        )
        assert np.abs(single[0] - batched[0]).max() <= 1
        same = (single[0] == batched[0]).all(2)
        assert same.mean() > 0.99
        assert np.abs(single[1] - batched[1])[same].max() <= 1


def test_online_and_keys_builds(photographs, generator, undisturbed, tmp_path):
    report = build(photographs, tmp_path / "online", generator, mode="online")
    found = contents(tmp_path / "online")
    stored = {key: value for key, value in undisturbed.items() if key.startswith("gt/")}
    assert {key: value for key, value in found.items() if "/" in key and key[:3] in ("gt/", "lq/")} == stored
    assert list(report.bytes) == ["gt"]
    assert not (tmp_path / "online" / "lq.lmdb").exists()

    report = build(photographs, tmp_path / "keys", generator, mode="keys")
    assert (report.written, report.bytes) == (COUNT - 3, {})
    assert not list((tmp_path / "keys").glob("*.lmdb"))
    keys = BuildFolder(tmp_path / "keys")
    usable = [p.path for shard in range(len(keys)) for p in keys.usable(shard)]
    assert usable == [f"{n:03d}.jpg" for n in range(COUNT) if n not in (5, 20, 38)]
    assert (tmp_path / "keys" / "skipped.txt").read_text() == undisturbed["skipped.txt"].decode()


@pytest.mark.slow
def test_contact_sheet_shows_the_same_pairs_in_every_mode(photographs, generator, tmp_path):
    sheets = []
    for mode in ("stored", "online", "keys"):
        build(photographs, tmp_path / mode, generator, mode=mode)
        path = save_contact_sheet(BuildFolder(tmp_path / mode), generator)
        close_all()
        sheets.append(cv2.imread(str(path)).astype(int))
    assert sheets[0].shape[0] > 8 * 150, "24 pairs in 4 x 2 rows"
    # Stored or made again with the same seeds, but for rounding and what the sheet's compression makes of that.
    assert np.abs(sheets[0] - sheets[1]).mean() < 0.1
    assert np.abs(sheets[0] - sheets[2]).mean() < 0.1


def test_photographs_that_have_come_since_get_shards_of_their_own(photographs, generator, undisturbed, tmp_path):
    root = tmp_path / "growing"
    shutil.copytree(photographs, root)
    out = tmp_path / "out"
    build(root, out, generator)
    write_image(root / "000.png", picture(70, 60, 60))  # called as one that is there, but for its extension
    write_image(root / "a new one.jpg", picture(71, 60, 60))
    report = build(root, out, generator)
    assert (report.written, report.shards, report.photographs) == (2, SHARDS + 1, COUNT + 2)
    grown = contents(out)
    for key in (k for k in undisturbed if k.startswith(("gt/", "lq/"))):
        assert grown[key] == undisturbed[key]
    assert {"lq/000~png", "lq/a%20new%20one"} <= grown.keys()
    with pytest.raises(ValueError, match="begun with 42 photographs; max_photographs 10"):
        build(root, out, generator, max_photographs=10)


def test_a_folder_of_photographs_that_goes_away_is_no_reason_to_skip_them(photographs, generator, tmp_path):
    root = tmp_path / "mounted"
    shutil.copytree(photographs, root)
    out = tmp_path / "out"
    build(root, out, generator, max_photographs=10)
    build_folder = BuildFolder(out)
    (out / "shards" / "00001.done.json").unlink()
    shutil.rmtree(out / "gt.lmdb" / "00001.lmdb")
    shutil.rmtree(root)
    with pytest.raises(FileNotFoundError, match="is gone, or another one is there; mount it"):
        shards_module.ShardBuilder(build_folder, generator, None).build_shard(1)
    assert not build_folder.is_done(1)


def test_training_reads_the_shards(photographs, generator, tmp_path):
    out = tmp_path / "out"
    build(photographs, out, generator)
    pairs = match_pairs(out / "lq.lmdb", out / "gt.lmdb")
    assert len(pairs) == COUNT - 3
    assert pairs[0].input == f"{out}/lq.lmdb/00000.lmdb/000"
    assert len(read_meta(out / "gt.lmdb")) == COUNT - 3
    assert read_value(out / "gt.lmdb", "039") == read_value(out / "gt.lmdb" / "00005.lmdb", "039")
    with pytest.raises(KeyError, match=r"no key 'x' in any of its 6 shards"):
        read_value(out / "gt.lmdb", "x")


def test_damaged_manifests(photographs, generator, tmp_path):
    out = tmp_path / "out"
    build(photographs, out, generator, max_photographs=3)
    manifest = out / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[:50])
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        build(photographs, out, generator)
    manifest.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        build(photographs, out, generator)
    manifest.write_text(json.dumps({**json.loads(text), "shards": "many"}))
    with pytest.raises(ValueError, match=r"manifest\.json is of format"):
        BuildFolder(out)
    manifest.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        BuildFolder(out)
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        BuildFolder(tmp_path)


def test_the_shard_size_is_that_of_the_photographs_that_are_taken(tmp_path):
    names = [f"{number:05d}.jpg" for number in range(10_000)]
    settings = {"photographs": "root"}
    assert plan(tmp_path / "all", names, settings).shard_size == 157
    few = plan(tmp_path / "few", names, settings, max_photographs=100)
    assert (few.shard_size, few.sizes) == (64, [64, 36])


def test_automatic_shard_size():
    assert [automatic_shard_size(n) for n in (1, 64, 4096, 4097, 118_287, 10**8)] == [64, 64, 64, 65, 1849, 4096]


# --- damage found, and photographs of every kind ----------------------------------------------------------------------


@pytest.fixture
def small_build(photographs, generator, tmp_path):
    out = tmp_path / "out"
    build(photographs, out, generator, max_photographs=10)
    return out


def test_a_complete_build_is_found_complete(small_build, capsys):
    assert check_build(BuildFolder(small_build), progress=False) == []
    print_check(str(small_build), progress=False)
    assert "is complete and undamaged: 9 entries of 10 photographs, stored" in capsys.readouterr().out


def flip_a_byte(out: Path) -> None:
    path = out / "lq.lmdb" / "00000.lmdb" / "data.mdb"
    value = read_value(path.parent, "003")
    close_all()
    data = bytearray(path.read_bytes())
    middle = data.index(value[100:164]) + 32
    data[middle] ^= 0x10
    path.write_bytes(data)


def forget_an_entry(out: Path) -> None:
    path = out / "gt.lmdb" / "00000.lmdb" / "meta_info.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def wrong_size(out: Path) -> None:
    path = out / "gt.lmdb" / "00001.lmdb" / "meta_info.txt"
    path.write_text(path.read_text().replace("(120,90,3)", "(120,91,3)"))


def lose_a_shard(out: Path) -> None:
    shutil.rmtree(out / "lq.lmdb" / "00001.lmdb")


def cut_short(out: Path) -> None:
    path = out / "lq.lmdb" / "00000.lmdb" / "data.mdb"
    close_all()
    os.truncate(path, path.stat().st_size // 2)


def lose_a_record(out: Path) -> None:
    (out / "shards" / "00001.done.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_byte, r"lq\.lmdb/00000\.lmdb: '003' is damaged \(.*checksum.*\)\. Delete"),
        (forget_an_entry, r"gt\.lmdb/00000\.lmdb lacks 1 of 6 entries, '000' among them"),
        (wrong_size, r"'008' is 120x90 \(height x width\), its list says 120x91"),
        (lose_a_shard, r"lq\.lmdb/00001\.lmdb cannot be read"),
        (cut_short, r"00000\.lmdb' cannot be opened as LMDB: its data\.mdb was cut short"),
        (lose_a_record, r"Shard 00001 is not complete"),
    ],
)
def test_damage_is_found_and_can_be_fixed(small_build, photographs, generator, capsys, harm, message):
    before = contents(small_build)
    harm(small_build)
    with pytest.raises(ValueError, match="problem"):
        print_check(str(small_build), progress=False)
    assert re.search(message, capsys.readouterr().out)
    close_all()
    # As the message says.
    shard = "00000" if "00000" in message else "00001"
    if harm is lose_a_shard:
        with pytest.raises(FileNotFoundError, match=r"00001\.lmdb.*--check"):
            build(photographs, small_build, generator, max_photographs=10)
    for name in ("gt", "lq"):
        shutil.rmtree(small_build / f"{name}.lmdb" / f"{shard}.lmdb", ignore_errors=True)
    (small_build / "shards" / f"{shard}.done.json").unlink(missing_ok=True)
    build(photographs, small_build, generator, max_photographs=10)
    assert check_build(BuildFolder(small_build), progress=False) == []
    assert disagreements(contents(small_build), before) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_hundred_broken_files_crash_nothing_and_are_named(broken_zoo, generator, tmp_path, workers):
    """Beside them, one photograph that can be used, for else there would be no build."""
    zoo, wrong = broken_zoo
    root = tmp_path / "photographs"
    root.mkdir()
    (root / "zoo").symlink_to(zoo)
    write_image(root / "good.png", picture(0, 40, 40))
    write_image(root / "too small.png", picture(0, 31, 40))
    report = build(root, tmp_path / "out", generator, workers=workers, shard_size=30)
    assert report.written == 1
    assert len(wrong) == 100
    assert report.skipped.keys() == {*(f"zoo/{name}" for name in wrong), "too small.png"}
    lines = (tmp_path / "out" / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 101
    for path, reason in report.skipped.items():
        assert printable_path(os.path.basename(path)) in reason, "the reason names the file"
        assert any(line.startswith(f"{printable_path(path)}\t") for line in lines)


def test_odd_photographs_are_used(odd_photographs, generator, tmp_path):
    folder, odd = odd_photographs
    report = build(folder, tmp_path / "out", generator, shard_size=64)
    small = {name for name, one in odd.items() if min(one.expected.shape[:2]) < 32}
    assert report.skipped.keys() == small
    assert report.written == len(odd) - len(small)
    assert len(odd) - len(small) > 20


# --- rarer faults ----------------------------------------------------------------------------------------------------


@pytest.fixture
def few(tmp_path) -> Path:
    """Eight small photographs of their own."""
    root = tmp_path / "few"
    for number in range(8):
        write_image(root / f"{number}.png", picture(number, 40, 48))
    return root


@pytest.fixture
def unbroken(few, generator, tmp_path) -> dict[str, object]:
    build(few, tmp_path / "unbroken", generator)
    return contents(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["stop", "disk"])
@pytest.mark.parametrize("when", range(6))
def test_interrupted_while_the_lists_are_written(few, generator, unbroken, tmp_path, monkeypatch, when, error):
    """Each fsync in turn: of journals, of lists of images, of records."""
    calls = iter(range(1000))
    fsync = os.fsync

    def interrupted(descriptor):
        fsync(descriptor)
        if next(calls) == 1 + when:  # the first is the plan's
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(type(error)):
            build(few, tmp_path / "out", generator)
    close_all()
    build(few, tmp_path / "out", generator)
    assert disagreements(contents(tmp_path / "out"), unbroken) == []


def test_half_a_header_of_a_database(few, generator, unbroken, tmp_path):
    """As a full disk leaves it."""
    out = tmp_path / "out"
    build(few, out, generator)
    (out / "shards" / "00001.done.json").unlink()
    folder = out / "gt.lmdb" / "00001.lmdb"
    data = (folder / "data.mdb").read_bytes()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "data.mdb").write_bytes(data[:4000])
    build(few, out, generator)
    assert disagreements(contents(out), unbroken) == []


@pytest.mark.slow
@pytest.mark.parametrize("then", ["goes", "breaks", "changes"])
@pytest.mark.parametrize("draws", [1, 2])
def test_a_photograph_half_done_that_is_another_one_later(few, generator, tmp_path, monkeypatch, then, draws):
    """Killed between the sets, or between the draws: what is stored of it is of one photograph in the end."""
    out = tmp_path / "out"
    put = LmdbImageWriter.put

    def interrupted(self, key, png_bytes, shape):
        if self.folder.parent.name == "lq.lmdb" and key.startswith("5") and (draws == 1 or key != "5"):
            raise KeyboardInterrupt
        put(self, key, png_bytes, shape)

    with monkeypatch.context() as patch:
        patch.setattr(LmdbImageWriter, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(few, out, generator, draws=draws)
    close_all()
    if then == "goes":
        (few / "5.png").unlink()
    elif then == "breaks":
        (few / "5.png").write_bytes(b"")
    else:
        write_image(few / "5.png", picture(50, 60, 60))
    report = build(few, out, generator, draws=draws)
    assert list(report.skipped) == ([] if then == "changes" else ["5.png"])
    pairs = match_pairs(out / "lq.lmdb", out / "gt.lmdb")
    assert len(pairs) == draws * (8 if then == "changes" else 7)
    assert check_build(BuildFolder(out), progress=False) == []
    build(few, tmp_path / "at once", generator, draws=draws)
    found, expected = contents(out), contents(tmp_path / "at once")
    entries = {key for key in expected if key.startswith(("gt/", "lq/")) and "meta" not in key}
    assert {key for key in found if key.startswith(("gt/", "lq/")) and "meta" not in key} == entries
    if then == "changes" and draws == 1:  # and the report is of the photograph that was used
        assert json.loads(found["report.json"]) == json.loads(expected["report.json"])
    # A pair that was complete stays as it is, whatever has become of its photograph.
    kept = {"gt/5", "lq/5"} if (then, draws) == ("changes", 2) else set()
    assert all((found[key] == expected[key]) == (key not in kept) for key in entries)


def test_retries_do_not_double_photographs(few, generator, tmp_path, monkeypatch):
    out = tmp_path / "out"
    good = {name: (few / name).read_bytes() for name in ("2.png", "5.png")}
    for name in good:
        (few / name).write_bytes(b"")
    assert list(build(few, out, generator).skipped) == list(good)
    for name, data in good.items():
        (few / name).write_bytes(data)
    with monkeypatch.context() as patch:  # a retry that is interrupted, and given again
        patch.setattr(LmdbImageWriter, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(few, out, generator, retry=True)
    close_all()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):  # ranks, of which one plans what is tried again
        monkeypatch.setenv("RANK", rank)
        report = build(few, out, generator, retry=True)
    assert (report.photographs, report.kept + report.written, report.skipped) == (8, 8, {})
    assert BuildFolder(out).n_photographs == 10
    assert check_build(BuildFolder(out), progress=False) == []
    monkeypatch.delenv("RANK")
    # The number of photographs is that of different ones.
    assert build(few, out, generator, max_photographs=8, retry=True).photographs == 8


def test_max_photographs_with_photographs_that_have_come_since(few, generator, tmp_path):
    out = tmp_path / "out"
    build(few, out, generator, max_photographs=8)
    write_image(few / "00.png", picture(60, 40, 48))  # before the others in the order
    for _ in range(2):
        assert build(few, out, generator, max_photographs=8).photographs == 8
    assert build(few, out, generator, max_photographs=9).photographs == 9
    assert build(few, out, generator).photographs == 9


def test_the_report_is_of_what_is_there_when_it_is_written(few, generator, tmp_path, monkeypatch):
    """Another command plans and builds a photograph that has come since, while this one is at its own."""
    out = tmp_path / "out"
    for path in sorted(few.iterdir())[1:]:
        path.rename(path.with_suffix(".later"))
    (few / "0.png").write_bytes(b"")
    build_all = shards_module.ShardBuilder.build_all

    def overtaken(builder, order):
        build_all(builder, order)
        monkeypatch.setattr(shards_module.ShardBuilder, "build_all", build_all)
        (few / "1.later").rename(few / "1.png")
        assert build(few, out, generator).written == 1

    monkeypatch.setattr(shards_module.ShardBuilder, "build_all", overtaken)
    report = build(few, out, generator)  # which has found no photograph that can be used
    assert (report.photographs, report.kept) == (2, 1)
    assert json.loads((out / "report.json").read_text())["pairs"] == 1


def test_out_inside_the_photographs(few, generator, tmp_path):
    out = few / "pseudo"
    build(few, out, generator)
    save_contact_sheet(BuildFolder(out), generator)
    close_all()
    assert build(few, out, generator).photographs == 8
    with pytest.raises(ValueError, match="is the folder of the photographs"):
        build(few, few, generator)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        build(few, tmp_path / "file", generator)


@pytest.mark.parametrize("fault", ["EIO", "unmounted"])
def test_a_fault_of_the_storage_skips_nothing(few, generator, unbroken, tmp_path, monkeypatch, fault):
    out = tmp_path / "out"
    calls = iter(range(100))

    def failing(path, **options):
        if next(calls) == 3:
            if fault == "EIO":
                raise OSError(5, f"{path}: Input/output error")
            few.rename(tmp_path / "away")
            few.mkdir()  # what is left of a mount
        return read_photograph(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "read_photograph", failing)
        with pytest.raises(OSError, match="storage's or the machine's" if fault == "EIO" else "another one is there"):
            build(few, out, generator)
    if fault == "unmounted":
        few.rmdir()
        (tmp_path / "away").rename(few)
    close_all()
    build(few, out, generator)
    assert disagreements(contents(out), unbroken) == []


def test_a_machine_that_crashes_on_everything_is_not_the_photographs_fault(crashing, tmp_path, generator):
    root, make = crashing
    for number in range(12):
        write_image(root / f"{number:03d}.jpg", picture(number, 40, 64))
    with pytest.raises(OSError, match="4 processes have crashed without having stored anything"):
        build(root, tmp_path / "out", make(signal.SIGABRT), workers=1)
    report = build(root, tmp_path / "out", generator)
    assert (report.written, report.skipped) == (12, {})


@pytest.mark.slow
def test_in_batches_no_photograph_is_suspected_of_a_crash_of_f_isp(crashing, tmp_path):
    root, make = crashing
    with pytest.raises(OSError, match="4 processes have crashed"):
        build(root, tmp_path / "out", make(signal.SIGSEGV), workers=1, batch=4)
    report = build(root, tmp_path / "single", make(signal.SIGSEGV), workers=1)
    assert list(report.skipped) == ["003.jpg", "005.jpg"]


def test_damaged_lines_of_a_journal_are_made_again(few, generator, unbroken, tmp_path):
    """As a power cut leaves them."""
    out = tmp_path / "out"
    build(few, out, generator)
    (out / "shards" / "00000.done.json").unlink()
    keys = [entry.key for entry in read_meta(out / "gt.lmdb" / "00000.lmdb")]
    close_all()
    lines = [f'["{key}", 0.5]\n' for key in keys]
    lines[2] = "\0" * 8 + "\n"
    (out / "shards" / "00000.journal.jsonl").write_text("".join(lines) + '["6", 0.')
    report = build(few, out, generator)
    assert report.written == 1
    found = contents(out)
    assert all(found[key] == unbroken[key] for key in unbroken if key.startswith(("gt/", "lq/")))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("00000.done.json", "", r"00000\.done\.json is damaged .*delete it"),
        ("00000.done.json", "{}", r"00000\.done\.json is damaged"),
        ("00000.photographs.jsonl", '["a", ', r"00000\.photographs\.jsonl is missing or damaged"),
        ("00000.photographs.jsonl", "", r"lists 0 photographs, the manifest 7"),
    ],
)
def test_damaged_bookkeeping(few, generator, tmp_path, capsys, file, text, message):
    out = tmp_path / "out"
    build(few, out, generator)
    (out / "shards" / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        build(few, out, generator)
    with pytest.raises(ValueError, match="1 problem, see above"):
        print_check(str(out), progress=False)
    assert re.search(message, capsys.readouterr().out)


def test_without_standard_error(few, generator, tmp_path, monkeypatch):
    """As in a daemon, or with pythonw."""
    monkeypatch.setattr(sys, "stderr", None)
    assert build(few, tmp_path / "out", generator, progress=True).written == 8


@pytest.mark.slow
def test_a_daemon_builds_by_itself(few, generator, tmp_path, processes):
    process = processes.Process(
        target=build_pseudo_lmdb,
        args=(options_of(few, tmp_path / "out", workers=2), generator),
        kwargs={"progress": False},
        daemon=True,
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert BuildFolder(tmp_path / "out").unfinished() == []
