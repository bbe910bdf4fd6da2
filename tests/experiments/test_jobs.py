"""The engine under recipes, benchmarks and the demo: what is done once, resumed, refused and done again."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from semiisp_plugin.experiments.jobs import Job, JobError, Record, Runner, own_folder, perform, statuses


@dataclass
class Counting(Job):
    """Notes how it was run; fails while ``fails`` says so."""

    name: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    needs: list[Counting] = field(default_factory=list)
    fails: BaseException | None = None
    runs: list[bool] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.name

    @property
    def before(self) -> list[Counting]:
        return self.needs

    @property
    def record(self) -> Record:
        return Record(self.folder / f"{self.name}.json")

    def depends(self) -> dict[str, Any]:
        return {"settings": self.settings}

    def run(self, *, resume: bool, progress: bool) -> dict[str, Any]:
        self.runs.append(resume)
        if self.fails:
            raise self.fails
        return {"runs": len(self.runs)}


def test_a_job_is_done_once(tmp_path):
    job = Counting("a", tmp_path, {"size": (1, 2)})
    assert job.status().state == "to do"
    assert perform(job)["result"] == perform(job)["result"] == {"runs": 1}
    assert perform(job, redo=True)["result"] == {"runs": 2}
    assert job.runs == [False, False]
    assert job.status().state == "complete"


def test_what_was_interrupted_is_resumed_with_its_time(tmp_path):
    job = Counting("a", tmp_path, fails=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        perform(job)
    assert job.status().state == "interrupted"
    before = job.record.read()["seconds"]
    job.fails = None
    assert perform(job)["seconds"] >= before
    assert job.runs == [False, True]


def test_what_was_made_otherwise_is_refused(tmp_path):
    perform(Counting("a", tmp_path, {"lr": 1, "num_gpu": 0}))
    other = Counting("a", tmp_path, {"lr": 2, "num_gpu": 1})
    assert other.status().why == "settings:lr: 1 -> 2"  # on how many GPUs it runs changes nothing
    with pytest.raises(JobError, match=r"made otherwise .settings:lr: 1 -> 2"):
        perform(other)
    other.made_again = True
    assert perform(other)["result"] == {"runs": 1}


def test_what_follows_is_stale_with_what_it_begins_with(tmp_path):
    first = Counting("a", tmp_path, {"lr": 1})
    second = Counting("b", tmp_path, needs=[first])
    for job in (first, second):
        perform(job)
    assert {key: s.state for key, s in statuses([first, second]).items()} == {"a": "complete", "b": "complete"}
    first.settings = {"lr": 2}
    found = statuses([first, second])
    assert found["a"].state == found["b"].state == "stale"
    assert found["b"].why == "a is stale, and what follows it"
    first.record.file.unlink()
    assert statuses([first, second])["b"].why == "made before a was complete"


def test_a_failure_takes_along_only_what_needs_it(tmp_path):
    broken = Counting("broken", tmp_path, fails=OSError("disk full"))
    after = Counting("after", tmp_path, needs=[broken])
    other = Counting("other", tmp_path)
    runner = Runner(0)
    runner.run([after, other], "jobs")
    assert runner.failed == {"broken": "OSError: disk full", "after": "needs broken, which failed"}
    assert runner.result(other) == {"runs": 1}
    assert runner.result(after) is None
    assert not after.runs


def test_a_result_cut_short_does_not_count(tmp_path):
    record = Record(tmp_path / "result.json")
    assert record.read() == {}
    record.file.write_text('{"seconds": 1')
    assert record.read() == {}


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "holiday.txt").write_text("sun")
    with (
        pytest.raises(FileExistsError, match="was not written by `basicsr benchmark`"),
        own_folder(tmp_path, "benchmark", "out"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]
    again = tmp_path / "new"
    with own_folder(again, "benchmark", "out"):
        (again / "sub").mkdir()
        (again / "report.md").write_text("")
    with own_folder(again, "benchmark", "out"):
        assert (again / "report.md").is_file()
    with own_folder(again, "benchmark", "out", empty=True):
        assert not (again / "report.md").exists()
        assert not (again / "sub").exists()


def test_one_owner(tmp_path, monkeypatch):
    """What another process is writing is neither written nor deleted."""
    monkeypatch.setattr("semiisp_plugin.io.locks.PATIENCE", 0.0)
    with own_folder(tmp_path, "benchmark", "out"):
        (tmp_path / "report.md").write_text("")
        with (
            pytest.raises(ValueError, match=rf"is being written by .* process {os.getpid()} .*another \(out\)"),
            own_folder(tmp_path, "benchmark", "out", empty=True),
        ):
            pass
        assert (tmp_path / "report.md").exists()
