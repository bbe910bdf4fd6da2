"""What is recorded about the filter, against counts by hand."""

from __future__ import annotations

import csv
import logging
import math

import numpy as np
import pytest
import torch

import semiisp_plugin.models.filter_record as module
from semiisp_plugin.models.filter_record import FilterRecord, batch_counts


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    said: list[str] = []
    logger = logging.getLogger("of this test")
    monkeypatch.setattr(logger, "warning", said.append)
    monkeypatch.setattr(module, "get_root_logger", lambda: logger)
    return said


def put(record: FilterRecord, keys: str, losses: list[float], weights: list[float], reference=1.0, counted=True):
    """A batch with a real sample in front, whose key is R."""
    flags = torch.tensor([False] + [True] * len(losses))
    loss, weight = torch.tensor([reference, *losses]), torch.tensor([1.0, *weights])
    record.add(
        ["R", *keys],
        flags,
        loss,
        weight,
        reference=torch.tensor(reference),
        counts=batch_counts(weight, flags),
        counted=counted,
    )


def fill(record: FilterRecord) -> None:
    put(record, "ab", [0.5, 3.0], [1, 0])
    put(record, "bc", [4.0, math.nan], [0, 0], reference=2.0)
    put(record, "ab", [9.0, 9.0], [1, 1], counted=False)  # a warm-up
    put(record, "a", [0.25], [1])


def test_totals_of_a_batch():
    weights = torch.tensor([1.0, 1.0, 0.25, 0.75, 0.0])
    counts = batch_counts(weights, torch.tensor([False, False, True, True, True]))
    assert counts.tolist() == [3.0, 1.0, 1.0, 3.0]


def test_photographs(tmp_path):
    record = FilterRecord()
    fill(record)
    path = record.write(tmp_path / "run" / "filter")
    assert path == tmp_path / "run" / "filter" / "rejections.csv"
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["key", "seen", "dropped", "share_dropped", "mean_loss_ratio", "not_finite"],
        ["b", "2", "2", "1.0000", "2.5", "0"],  # (3/1 + 4/2) / 2
        ["c", "1", "1", "1.0000", "nan", "1"],
        ["a", "2", "0", "0.0000", "0.375", "0"],
    ]
    put(record, "a", [1.0], [0])
    record.write(tmp_path / "run" / "filter")
    assert "a,3,1,0.3333,0.5833,0\n" in path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_names_that_are_hard_on_a_table(tmp_path):
    record = FilterRecord()
    name = 'a, "b"\nc é'
    weights, flag = torch.tensor([0.0]), torch.tensor([True])
    record.add([name], flag, torch.ones(1), weights, reference=torch.ones(()), counts=batch_counts(weights, flag))
    with open(record.write(tmp_path), newline="", encoding="utf-8") as file:
        assert [row["key"] for row in csv.DictReader(file)] == [name]


def test_data_without_names(tmp_path):
    record = FilterRecord()
    weights, flag = torch.tensor([0.0]), torch.tensor([True])
    record.add(None, flag, torch.ones(1), weights, reference=torch.ones(()), counts=batch_counts(weights, flag))
    assert record.write(tmp_path).read_text() == "key,seen,dropped,share_dropped,mean_loss_ratio,not_finite\n"
    assert record.all_rejected() == 1


def test_window():
    """The share of the last batches that had pseudo samples, read together or not."""
    rng = np.random.default_rng(0)
    record = FilterRecord()
    assert record.all_rejected() == 0
    rejected = []
    for number in range(330):
        weights = (rng.random(4) < 0.3).astype(float).tolist() if number % 10 else []
        put(record, "abcd"[: len(weights)], [1.0] * len(weights), weights)
        if weights:
            rejected.append(not any(weights))
        if number % 17 == 0:
            record.read()
    assert record.all_rejected() == pytest.approx(np.mean(rejected[-100:]))
    assert 0 < record.all_rejected() < 1


def test_memory_is_bounded():
    record = FilterRecord()
    for _ in range(1500):
        put(record, "ab", [1.0, 2.0], [1, 0])
    assert len(record._waiting) < 50
    state = record.state_dict()
    assert len(state["rejected"]) == 100
    assert list(state["photographs"]) == ["a", "b"]
    assert len(record.histograms()["real"]) == 1000


def test_histograms():
    record = FilterRecord()
    fill(record)
    groups = record.histograms()
    assert {name: sorted(values.tolist()) for name, values in groups.items()} == {
        "real": [1.0, 1.0, 1.0, 2.0],
        "pseudo_kept": [0.25, 0.5, 9.0, 9.0],
        "pseudo_dropped": [3.0, 4.0],  # NaN has no place in a histogram
    }
    assert {name: len(values) for name, values in record.histograms().items()} == dict.fromkeys(groups, 0)
    put(record, "a", [7.0], [0.4])
    assert record.histograms()["pseudo_dropped"].tolist() == [7.0]
    put(record, "a", [7.0], [0.5])
    assert record.histograms()["pseudo_kept"].tolist() == [7.0]


def test_warnings_are_given_once(warnings):
    record = FilterRecord()
    for number in range(400):
        rejected = number == 30 or 100 <= number < 200
        put(record, "ab", [1.0, 1.0], [0, 0] if rejected else [0, 1])
    record.read()
    # Batches 52 ... 151 are the first hundred with more than fifty of them.
    assert len(warnings) == 1
    assert "51 of the last 100 batches" in warnings[0]
    for advice in ("train:filter:beta", "reference: running", "contact sheet"):
        assert advice in warnings[0]


def test_no_warning_where_some_are_kept(warnings):
    record = FilterRecord()
    for _ in range(200):
        put(record, "ab", [1.0, 1.0], [0, 1])
        put(record, "", [], [])  # no pseudo sample at all
    record.read()
    assert warnings == []


def test_resumed_record_goes_on_exactly(tmp_path):
    whole, first, second = FilterRecord(), FilterRecord(), FilterRecord()
    rng = np.random.default_rng(1)
    for number in range(24):
        weights = rng.integers(0, 2, 3).tolist()
        losses = rng.uniform(0, 1, 3).tolist()
        keys = "".join(rng.choice(list("abcde"), 3))
        for record in (whole, first if number < 13 else second):
            put(record, keys, losses, weights)
        if number == 12:
            torch.save(first.state_dict(), tmp_path / "state")
            second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert second.all_rejected() == whole.all_rejected()
    assert second.rejections() == whole.rejections()
    assert second._warned == whole._warned
    empty = FilterRecord()
    empty.load_state_dict(FilterRecord().state_dict())
    assert empty.histograms()["real"].shape == (0,)


def test_counts_of_two_processes(tmp_path, monkeypatch):
    """Rank 0 takes over the counts of all; what it saves is everything, and nothing is counted twice after a resume."""
    ranks = [FilterRecord(rank=rank, world_size=2) for rank in range(2)]
    put(ranks[0], "ab", [1.0, 3.0], [1, 0])
    put(ranks[1], "bc", [5.0, 1.0], [0, 1])

    def write_all(records: list[FilterRecord]) -> str:
        sent = [None if r.rank == 0 else (r.read(), r._counts)[1] for r in records]
        monkeypatch.setattr(torch.distributed, "all_gather_object", lambda out, _: out.__setitem__(slice(None), sent))
        paths = [record.write(tmp_path) for record in records]
        assert paths[1] is None
        return paths[0].read_text().split("\n", 1)[1]

    expected = "b,2,2,1.0000,4,0\na,1,0,0.0000,1,0\nc,1,0,0.0000,1,0\n"
    assert write_all(ranks) == expected
    assert write_all(ranks) == expected
    state = ranks[0].state_dict()
    resumed = [FilterRecord(rank=rank, world_size=2) for rank in range(2)]
    for record in resumed:
        record.load_state_dict(state)
    assert write_all(resumed) == expected
    assert resumed[0].all_rejected() == resumed[1].all_rejected() == ranks[0].all_rejected()
