"""One job on one folder: who owns it, what it was made with, what is done, what was skipped."""

import json
import os
import time

import cv2
import pytest

from semiisp_plugin.io.folder_job import FolderJob, Journal, mapped, reason_of

SETTINGS = {"source": "a", "size": (3, 4)}


@pytest.fixture
def job(tmp_path) -> FolderJob:
    return FolderJob(tmp_path / "out", "basicsr test", "made.json", option="--out")


# --- the settings ----------------------------------------------------------------------------------------------------


def test_a_job_is_begun_once_and_resumed(job):
    with job.begun(SETTINGS, versions={"x": "1"}) as resumed:
        assert not resumed
        record = json.loads((job.folder / "made.json").read_text())
        assert record == {"settings": {"source": "a", "size": [3, 4]}, "versions": {"x": "1"}, "complete": False}
    with job.begun(SETTINGS) as resumed:
        assert resumed


def test_other_settings_are_refused_and_named(job):
    with job.begun(SETTINGS):
        pass
    before = (job.folder / "made.json").read_bytes()
    message = (
        r"\(size: \[3, 4\] then, \[3, 5\] now; source: a then, not given now; target: not given then, b now\).*--out"
    )
    with pytest.raises(ValueError, match=message), job.begun({"size": (3, 5), "target": "b"}):
        pass
    assert (job.folder / "made.json").read_bytes() == before


def test_files_of_something_else_are_left_alone(job):
    job.folder.mkdir()
    (job.folder / ".hidden").touch()
    assert job.read() is None
    (job.folder / "letter.txt").write_text("x")
    with pytest.raises(FileExistsError, match="but none of `basicsr test`"), job.begun(SETTINGS):
        pass
    assert {path.name for path in job.folder.iterdir()} == {".hidden", "letter.txt"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 3}'])
def test_a_damaged_record_is_said_to_be(job, text):
    job.folder.mkdir()
    (job.folder / "made.json").write_text(text)
    with pytest.raises(ValueError, match=r"made\.json is damaged"):
        job.read()


def test_names_that_are_no_text(job):
    name = os.fsdecode(b"not_utf8_\xff.png")
    with job.begun({"source": name}):
        job.write_skipped({name: "two\nlines"})
    assert job.read()["settings"]["source"] == name
    assert len((job.folder / "skipped.txt").read_text().splitlines()) == 1
    job.write_skipped({})
    assert not (job.folder / "skipped.txt").exists()


# --- the journal -----------------------------------------------------------------------------------------------------


def test_a_journal_is_read_whatever_became_of_its_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.add({"a": 1, "b": {"c": 2}}, sync=True)
        journal.add({"a": 3})
    whole = path.read_bytes()
    path.write_bytes(b"\0\0\0\0\n" + whole + b'["d", 4')  # a power cut, and a kill
    with Journal(path) as journal:
        assert journal.entries == {"a": 3, "b": {"c": 2}}
        journal.add({"a": 3, "b": {"c": 2}})  # has been noted
        journal.add({"d": 5})
    assert path.read_bytes() == b"\0\0\0\0\n" + whole + b'["d", 5]\n'


# --- the work --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_order_and_bounded_in_number(threads):
    begun, taken = [], 0

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number * number

    for expected, result in enumerate(mapped(work, iter(range(30)), threads, ahead=5)):
        assert result == expected * expected
        taken += 1
        assert len(begun) <= taken + 6
    assert taken == 30


def test_a_pipeline_ends_with_the_error_of_its_work():
    def work(number: int) -> int:
        if number == 3:
            raise OSError("full")
        return number

    with pytest.raises(OSError, match="full"):
        list(mapped(str, mapped(work, range(100), 2), 1))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("in/a.png: the file\n is empty"), "the file is empty"),
        (KeyError("no key 'x'"), "no key 'x'"),
        (OSError(28, "No space left"), "No space left"),
        (MemoryError(), "there is not enough memory for it (MemoryError); shrink it, or take a machine with more"),
        (cv2.error("odd"), "odd"),
    ],
)
def test_reasons_are_one_line_without_the_name(error, reason):
    assert reason_of(error, "in/a.png") == reason
