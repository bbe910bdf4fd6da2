"""Locks that go with their process, and the one owner of a folder."""

import errno
import multiprocessing
import os
import sys
import threading
import time

import pytest

from semiisp_plugin.io import locks
from semiisp_plugin.io.folder_job import FolderJob
from semiisp_plugin.io.locks import LockTakenError, file_lock, owned

forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)


@pytest.mark.parametrize("beside", [False, True])
def test_a_second_owner_is_told_who_is_the_first(tmp_path, monkeypatch, beside):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/basicsr", "train", "-opt", "my run.yml"])
    folder = tmp_path / "made" / "out"
    message = rf"written by `basicsr train -opt 'my run.yml'`, process {os.getpid()} on .*, since .*another \(--out\)"
    for _ in range(2):
        with owned(folder, "--out", beside=beside):
            for _ in range(2):
                with pytest.raises(ValueError, match=message), owned(folder, "--out", beside=beside):
                    pass
    left = [path.name for path in (tmp_path / "made").rglob("*")]
    assert left == ([] if beside else ["out"])


def test_a_folder_that_is_renamed_keeps_its_owner(tmp_path):
    (tmp_path / "run").mkdir()
    with owned(tmp_path / "run", "name", beside=True):
        (tmp_path / "run").rename(tmp_path / "run_archived")
        for _ in range(2):
            with pytest.raises(ValueError, match="is being written"), owned(tmp_path / "run", "name", beside=True):
                pass
            (tmp_path / "run").mkdir(exist_ok=True)


def test_a_patient_owner_waits(tmp_path):
    order = []

    def second() -> None:
        with FolderJob(tmp_path, "basicsr test").locked(wait=True):
            order.append("second")

    with owned(tmp_path, "out"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_many_at_once_are_one_after_the_other(tmp_path):
    """Also while the file is deleted and made again."""
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with file_lock(tmp_path / "lock", patience=60):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)


def _sleep() -> None:
    time.sleep(60)


def _die_as_owner(path, said) -> None:
    with file_lock(path):
        worker = multiprocessing.get_context("fork").Process(target=_sleep)
        worker.start()  # as a loader worker that hangs in a read
        said.put(worker.pid)
        time.sleep(60)


@forks
def test_the_lock_of_a_killed_owner_is_gone_though_its_worker_lives(tmp_path):
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    process = context.Process(target=_die_as_owner, args=(tmp_path / "lock", said))
    process.start()
    worker = said.get(timeout=30)
    try:
        with pytest.raises(LockTakenError, match=f"process {process.pid} on"), file_lock(tmp_path / "lock"):
            pass
        process.kill()
        process.join()
        os.kill(worker, 0)
        with file_lock(tmp_path / "lock", patience=3):
            pass
    finally:
        os.kill(worker, 9)


@forks
def test_a_forked_process_does_not_release_the_lock(tmp_path):
    with file_lock(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(LockTakenError), file_lock(tmp_path / "lock"):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="its locks are others")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_to_be_one(tmp_path, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    with pytest.warns(UserWarning, match=r"\.lock: the file system has no locks .*Start none"), owned(tmp_path, "out"):
        pass


def test_what_is_no_folder_and_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(NotADirectoryError, match=r"--out: .* is a file"), owned(tmp_path / name, "--out"):
            pass
    run = tmp_path / "run"
    (tmp_path / ".run.lock").mkdir()
    with pytest.raises(OSError, match=r"run\.lock' cannot be .* delete it, or"), owned(run, "name", beside=True):
        pass
    inside = tmp_path / "file" / "run"
    with pytest.raises(OSError, match=r"file' cannot be written .*\(name\)"), owned(inside, "name", beside=True):
        pass
