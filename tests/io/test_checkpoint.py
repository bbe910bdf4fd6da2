"""Checkpoints: written whole or not at all, and read with messages that say what to do."""

import errno
import os
import zipfile

import pytest
import torch
from torch import nn

from semiisp_plugin.io import checkpoint
from semiisp_plugin.io.checkpoint import (
    CheckpointError,
    fit_weights,
    load_checkpoint,
    load_network_weights,
    load_state,
    load_weights,
    newest_whole_state,
    prune,
    save_atomically,
    save_safetensors,
)
from semiisp_plugin.io.files import remove_unfinished


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "net.pth"
    save_atomically({"params": torch.ones(3)}, path)

    def fails(state, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", fails)
    with pytest.raises(type(error)) as caught:
        save_atomically({"params": torch.zeros(3)}, path)
    if isinstance(error, OSError):
        assert "net.pth could not be written" in str(caught.value)
        assert "No space left" in str(caught.value)
    assert torch.equal(load_checkpoint(path)["params"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


def test_file_that_cannot_grow_is_an_os_error(tmp_path):
    """What torch.save really does on a full disk: it hides the OSError behind a RuntimeError of its own."""
    resource = pytest.importorskip("resource", reason="needs resource limits")
    path = tmp_path / "net.pth"
    save_atomically({"params": torch.ones(3)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"net\.pth could not be written: .*File too large"):
            save_atomically({"params": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(load_checkpoint(path)["params"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


def test_what_is_written_replaces_the_old_file_and_can_be_read(tmp_path):
    path = tmp_path / "net.pth"
    for value in (1.0, 2.0):
        save_atomically({"params": {"w": torch.full((2,), value)}, "iter": 5}, path)
    assert load_checkpoint(path)["iter"] == 5
    assert torch.equal(load_checkpoint(path)["params"]["w"], torch.full((2,), 2.0))


def test_an_object_that_cannot_be_written_is_no_os_error(tmp_path):
    with pytest.raises(Exception, match="pickle") as caught:
        save_atomically({"f": lambda: None}, tmp_path / "net.pth")
    assert not isinstance(caught.value, OSError)
    assert not list(tmp_path.iterdir())


def test_missing_file_lists_its_neighbours(tmp_path):
    save_atomically({}, tmp_path / "net_g_500.pth")
    with pytest.raises(CheckpointError, match=r"no checkpoint .*net_g_latest\.pth.* there are: net_g_500\.pth.*Train"):
        load_checkpoint(tmp_path / "net_g_latest.pth")
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere" / "net.pth")


def test_damaged_file(tmp_path):
    save_atomically({"params": torch.zeros(10_000)}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    for name, content in (("cut.pth", data[: len(data) // 2]), ("empty.pth", b""), ("text.pth", b"weights")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name} is no readable checkpoint \(.+\); it may be truncated"):
            load_checkpoint(tmp_path / name)


def test_file_of_something_else(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match=r"tensor\.pth holds Tensor, not a checkpoint"):
        load_checkpoint(tmp_path / "tensor.pth")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"params": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        load_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def test_weights_of_another_network():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3))
    weights = {
        "0.weight": torch.zeros(4, 3, 3, 3),
        "0.bias": torch.zeros(5),
        "1.weight": torch.zeros(3, 4, 3, 3),
        "2.weight": torch.zeros(1),
    }
    with pytest.raises(CheckpointError) as caught:
        load_weights(net, weights, "some.pth", strict=True)
    message = str(caught.value)
    assert "some.pth does not fit Sequential" in message
    assert "1 missing (first: 1.bias)" in message
    assert "1 unknown to the network (first: 2.weight)" in message
    assert "1 of another shape (first: 0.bias)" in message
    assert "network_g" in message
    # Not strict: what is missing keeps its value, but shapes must fit.
    with pytest.raises(CheckpointError, match="1 of another shape"):
        load_weights(net, weights, "some.pth", strict=False)
    kept = net[1].bias.detach().clone()
    load_weights(net, weights | {"0.bias": torch.ones(4)}, "some.pth", strict=False)
    assert torch.equal(net[0].bias, torch.ones(4))
    assert torch.equal(net[1].bias, kept)


def test_what_was_loaded_is_told_and_nothing_is_an_error(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    some = {"0.weight": torch.full((1, 1, 1, 1), 3.0), "2.weight": torch.zeros(1)}
    torch.save({"params": some, "params_ema": {"0.weight": torch.full((1, 1, 1, 1), 4.0)}}, tmp_path / "net.pth")
    told = load_network_weights(net, tmp_path / "net.pth", key="params", strict=False)
    assert told == "params: 1 tensors, 3 missing, 1 unknown to the network"
    assert float(net[0].weight.detach()) == 3
    assert load_network_weights(net, tmp_path / "net.pth", strict=False).startswith("params_ema: 1 tensors")
    assert float(net[0].weight.detach()) == 4
    with pytest.raises(CheckpointError, match=r"x\.pth does not fit Sequential: of its weights 4 missing .* 1 unknown"):
        load_weights(net, {"net.0.weight": torch.zeros(1, 1, 1, 1)}, "x.pth", strict=False)


def test_weights_saved_from_a_wrapper():
    net = nn.Conv2d(1, 1, 1)
    compiled = {"_orig_mod.module.weight": torch.full((1, 1, 1, 1), 5.0), "module._orig_mod.bias": torch.ones(1)}
    load_weights(net, compiled, "x.pth", True)
    assert float(net.weight.detach()) == 5
    load_weights(net, {"module.weight": torch.full((1, 1, 1, 1), 3.0), "module.bias": torch.ones(1)}, "x.pth", True)
    assert float(net.weight.detach()) == 3


def test_flipped_bit_is_found(tmp_path):
    path = tmp_path / "net.pth"
    save_atomically({"params": torch.zeros(10_000)}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["params"].count_nonzero() == 1, "torch checks for itself now"
    with pytest.raises(CheckpointError, match=r"no readable checkpoint \(its part .* differs from its checksum"):
        load_checkpoint(path)


def test_what_is_written_is_read_back_before_it_counts(tmp_path, monkeypatch):
    """A disk that loses bytes: the old file stays."""
    path = tmp_path / "net.pth"
    save_atomically({"params": torch.ones(3)}, path)
    write = torch.save

    def loses_bytes(state, file):
        write(state, file)
        file.seek(200)
        file.write(b"\xff" * 64)

    monkeypatch.setattr(checkpoint.torch, "save", loses_bytes)
    with pytest.raises(OSError, match=r"net\.pth could not be written: what was written could not be read back"):
        save_atomically({"params": torch.zeros(100)}, path)
    assert torch.equal(load_checkpoint(path)["params"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "canary"),))

    torch.save({"params": Hostile()}, tmp_path / "net.pth")
    for change, message in (
        (None, "(Trying to load unsupported GLOBAL|Unsupported global)"),  # torch 2.15, 2.4
        (b"version https://git-lfs.github.com", "Unsupported operand"),
    ):
        if change:
            (tmp_path / "net.pth").write_bytes(change)
        with pytest.raises(CheckpointError, match=rf"net\.pth is no readable checkpoint \({message}") as caught:
            load_checkpoint(tmp_path / "net.pth")
        assert "weights_only" not in str(caught.value)
        assert "safe_globals" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_weights_without_values(tmp_path):
    save_atomically({"params": {"weight": torch.ones(2, device="meta")}}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"net\.pth has no weights under"):
        load_network_weights(nn.Linear(2, 1), tmp_path / "net.pth")


def test_safetensors(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    weights = {"a": shared, "b": shared, "c": shared.t()}
    path = tmp_path / "net_g_5.safetensors"
    save_safetensors(weights, path, {"param_key": "params_ema"})
    loaded = load_checkpoint(path)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[k], weights[k]) for k in weights)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"net_g_5\.safetensors is no readable checkpoint"):
        load_checkpoint(path)
    with pytest.raises(OSError, match=r"nowhere.*could not be written"):
        save_safetensors(weights, tmp_path / "nowhere" / "net.safetensors", {})
    assert [p.name for p in tmp_path.iterdir()] == ["net_g_5.safetensors"]


def saved(folder, *iterations, names=("net_g",), files=True):
    """A run's two folders with checkpoints of some iterations."""
    models, states = folder / "models", folder / "training_states"
    for path in (models, states):
        path.mkdir(exist_ok=True)
    for i in iterations:
        for name in names:
            save_atomically({"params": torch.full((100,), float(i))}, models / f"{name}_{i}.pth")
        listed = {"files": [f"{name}_{i}.pth" for name in names]} if files else {}
        save_atomically({"iter": i, **listed}, states / f"{i}.state")
    return models, states


def test_old_checkpoints_are_deleted(tmp_path):
    models, states = saved(tmp_path, 5, 10, 20, 100, names=("net_g", "f_isp"))
    stay = ["net_g_latest.pth", "net_g_best.pth", "mine_3.pth", "net_g_150.pth"]
    for name in (*stay, "net_g_3.pth", "net_g_5.safetensors"):
        (models / name).write_bytes(b"x")
    stems = ["net_g", "f_isp"]

    def left() -> tuple[list[str], list[str]]:
        return sorted(p.name for p in states.iterdir()), sorted(p.name for p in models.iterdir())

    def expected(*iterations: int) -> tuple[list[str], list[str]]:
        networks = [f"{n}_{i}.pth" for n in stems for i in iterations]
        return sorted(f"{i}.state" for i in iterations), sorted([*networks, *stay])

    # 100 is later than what was saved last: of another way that the run had gone, or damaged. It does not count.
    assert prune(models, states, stems, keep_last=2, newest=20) == [5]
    assert left() == expected(10, 20, 100)
    assert prune(models, states, stems, keep_last=1, newest=100) == [10, 20]
    assert left() == expected(100)
    assert prune(models, states, stems, keep_last=1, newest=100) == []


def test_what_was_not_finished_is_removed(tmp_path):
    for name in (".5.state.0a1b2c3d.part", "5.state"):
        (tmp_path / name).write_bytes(b"x")
    remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["5.state"]


@pytest.mark.parametrize("files", [True, False])
def test_newest_whole_state(tmp_path, files):
    models, states = saved(tmp_path, 9, 10, 11, 12, names=("net_g", "net_d"), files=files)
    assert newest_whole_state(states, models, ["net_g", "net_d"])[::2] == (states / "12.state", [])
    (states / "12.state").write_bytes((states / "12.state").read_bytes()[:-50])
    (models / "net_d_11.pth").unlink()
    data = bytearray((models / "net_g_10.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (models / "net_g_10.pth").write_bytes(data)
    found, state, passed_over = newest_whole_state(states, models, ["net_g", "net_d"])
    assert found == states / "9.state"
    assert state == load_checkpoint(found)
    assert ["12.state is no readable" in passed_over[0], "lost its network" in passed_over[1]] == [True, True]
    assert "net_d_11.pth" in passed_over[1]
    assert "net_g_10.pth is damaged" in passed_over[2]
    assert newest_whole_state(tmp_path / "none", models, ["net_g"]) == (None, {}, [])


# --- files that are not what they seem -------------------------------------------------------------------------------


def rewritten(path, packing: int, size: int | None = None):
    """A checkpoint whose archive is written again, packed, or with parts that claim another size."""
    with zipfile.ZipFile(path) as archive:
        parts = [(part.filename, archive.read(part)) for part in archive.infolist()]
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in parts:
            archive.writestr(name, data)
        if size:
            archive.infolist()[-1].file_size = size
            archive.infolist()[-1].compress_size = size
    return path


def test_packed_and_oversized_parts_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    save_atomically({"params": {"w": torch.zeros(1_000_000)}}, path)
    load_checkpoint(rewritten(path, zipfile.ZIP_STORED))
    monkeypatch.setattr(checkpoint.torch, "load", lambda *_, **__: pytest.fail("it is read"))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("it is unpacked"))
    with pytest.raises(CheckpointError, match=r"net\.pth: its parts are packed"):
        load_checkpoint(rewritten(path, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match=r"net\.pth: its parts claim to be larger than the file"):
        load_checkpoint(rewritten(path, zipfile.ZIP_STORED, 2**31))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2, dtype=torch.complex64), r"1 of complex64 numbers \(first: bias\)"),
        (torch.ones(2, dtype=torch.int64), r"1 of int64 numbers \(first: bias\)"),
        (torch.ones(2, dtype=torch.bool), r"1 of bool numbers \(first: bias\)"),
        (torch.ones(2).to_sparse(), r"1 of float32 numbers \(first: bias\)"),
        (torch.tensor([1.0, torch.nan]), r"1 of its 2 tensors hold NaN or infinity \(first: bias\)"),
        (torch.tensor([1e300, 1.0], dtype=torch.float64), "NaN or infinity"),
        (torch.ones(3), r"1 of another shape \(first: bias\)"),
    ],
    ids=["complex", "whole", "bool", "sparse", "nan", "too large", "shape"],
)
def test_weights_that_torch_would_cast_or_take(tmp_path, value, message):
    net = nn.Linear(3, 2)
    before = net.bias.clone()
    save_atomically({"params": {**net.state_dict(), "bias": value}}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=message):
        load_network_weights(net, tmp_path / "net.pth")
    assert torch.equal(net.bias, before)


def test_other_precisions_and_infinite_masks_are_taken():
    net = nn.BatchNorm1d(2)
    net.register_buffer("mask", torch.zeros(2))
    weights = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    weights["mask"] = torch.tensor([0, -torch.inf])
    weights["num_batches_tracked"] = torch.tensor(3, dtype=torch.int32)
    assert load_weights(net, weights, "x.pth", strict=True) == (6, 0, 0)
    with torch.device("meta"):
        bare = nn.BatchNorm1d(2)
    assert fit_weights(bare, nn.BatchNorm1d(2).state_dict(), "x.pth", strict=True).keys() == bare.state_dict().keys()


def test_names_that_are_none_and_many(tmp_path):
    net = nn.Linear(3, 2)
    weights = {**net.state_dict(), 7: torch.ones(1), **{f"\x1b[2J{n}": torch.zeros(()) for n in range(20_000)}}
    with pytest.raises(CheckpointError, match=r"20000 unknown to the network \(first: \\x1b\[2J0\)") as caught:
        load_weights(net, checkpoint._tensors(weights), "net.pth", strict=True)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("state", [{}, {"iter": "5"}, {"iter": -1}, {"params": {}}, {"iter": torch.tensor(3)}])
def test_what_is_no_training_state(tmp_path, state):
    save_atomically(state, tmp_path / "5.state")
    with pytest.raises(CheckpointError, match=r"5\.state is no training state"):
        load_state(tmp_path / "5.state")
