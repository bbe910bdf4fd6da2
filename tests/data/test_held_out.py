"""Real pairs that are kept from training: which, that they are, and what is given of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semiisp_plugin.data.sampler import MixedBatchSampler
from semiisp_plugin.data.semi_supervised_dataset import SemiSupervisedDataset, held_out_split
from semiisp_plugin.io.image_io import encode_png, to_uint8, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, close_all

N_REAL, N_PSEUDO = 9, 4


@pytest.fixture(scope="module")
def opt(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("held_out")
    rng = np.random.default_rng(0)
    for i in range(N_REAL):
        for kind in ("lq", "gt"):
            write_image(folder / kind / f"{i}.png", to_uint8(rng.uniform(0, 1, (20, 26 + i % 2, 3))))
    for kind in ("lq", "gt"):
        with LmdbImageWriter(folder / f"{kind}.lmdb") as writer:
            for i in range(N_PSEUDO):
                writer.put(f"p{i}", encode_png(to_uint8(rng.uniform(0, 1, (20, 30, 3)))), (20, 30, 3))
    yield {
        "name": "pairs",
        "dataroot_lq": str(folder / "lq"),
        "dataroot_gt": str(folder / "gt"),
        "io_backend": {"type": "disk"},
        "phase": "train",
        "gt_size": [12, 16],
        "use_hflip": True,
        "pseudo": {
            "dataroot_lq": str(folder / "lq.lmdb"),
            "dataroot_gt": str(folder / "gt.lmdb"),
            "io_backend": {"type": "lmdb"},
        },
    }
    close_all()


def test_they_are_never_trained_on(opt):
    whole = SemiSupervisedDataset(opt)
    assert (whole.n_real, whole.held_out_pairs, whole.held_out_batches()) == (N_REAL, [], [])
    data = SemiSupervisedDataset({**opt, "held_out": 3, "held_out_seed": 5})
    assert (data.n_real, data.n_pseudo, len(data)) == (N_REAL - 3, N_PSEUDO, N_REAL - 3 + N_PSEUDO)
    held_out = {pair.key for pair in data.held_out_pairs}
    assert len(held_out) == 3
    assert {p.key for p in data.real_pairs} | held_out == {p.key for p in whole.real_pairs}
    sampler = MixedBatchSampler(data.n_real, data.n_pseudo, 3, 1, seed=1, num_batches=8)
    trained = {data[index]["key"] for samples in sampler for index in samples}
    assert trained == {p.key for p in data.real_pairs} | {f"p{i}" for i in range(N_PSEUDO)}
    assert {data[i]["key"] for i in range(len(data))} == trained


def test_which_ones_depends_on_the_seed_alone(opt):
    assert held_out_split(5, 9, 3) == held_out_split(5, 9, 3)
    splits = [held_out_split(seed, 9, 3) for seed in range(20)]
    assert len({tuple(held_out) for _, held_out in splits}) > 10
    for others, held_out in splits:
        assert sorted(others + held_out) == list(range(9))
        assert held_out == sorted(held_out)
    data = SemiSupervisedDataset({**opt, "held_out": 3, "held_out_seed": 5})
    assert [p.key for p in data.held_out_pairs] == [str(i) for i in held_out_split(5, 9, 3)[1]]


def test_batches_are_always_the_same_crops(opt):
    first, again, other = (
        SemiSupervisedDataset({**opt, "held_out": 5, "held_out_seed": seed}).held_out_batches(2) for seed in (5, 5, 6)
    )
    assert [len(b["lq"]) for b in first] == [2, 2, 1]
    for batch, same in zip(first, again, strict=True):
        assert batch["lq"].shape[1:] == batch["gt"].shape[1:] == (3, 12, 16)
        assert batch["lq"].dtype == torch.float32
        assert not batch["is_pseudo"].any()
        assert batch["key"] == same["key"]
        assert torch.equal(batch["lq"], same["lq"])
        assert torch.equal(batch["gt"], same["gt"])
    assert [b["key"] for b in first] != [b["key"] for b in other]


def test_whole_images_of_several_sizes(opt):
    data = SemiSupervisedDataset({**opt, "gt_size": None, "held_out": 5})
    batches = data.held_out_batches()
    assert [key for batch in batches for key in batch["key"]] == [p.key for p in data.held_out_pairs]
    assert {tuple(b["lq"].shape[2:]) for b in batches} == {(20, 26), (20, 27)}


@pytest.mark.parametrize("count", [N_REAL, N_REAL + 1, -1])
def test_too_many(opt, count):
    with pytest.raises(ValueError, match=rf"'pairs': {count} pairs .*train:filter:held_out:count.* 9 real pairs"):
        SemiSupervisedDataset({**opt, "held_out": count})
