"""The data sets, alone and behind DataLoader workers, and the geometry of crops."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from semiisp_plugin.data import pairs
from semiisp_plugin.data.augment import augment, fit_to_crop, random_crop, stratified_crop
from semiisp_plugin.data.paired_dataset import PairedRestorationDataset
from semiisp_plugin.data.sampler import MixedBatchSampler, SampleIndex
from semiisp_plugin.data.semi_supervised_dataset import SemiSupervisedDataset
from semiisp_plugin.io.image_io import encode_png, to_bit_depth, write_image
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, lmdb_key
from semiisp_plugin.toolbox import DATASET_REGISTRY, build_dataset
from semiisp_plugin.training.stall import sample_name

START_METHODS = [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]
H, W = 20, 30


def picture(number: int, height: int = H, width: int = W, dtype: type = np.uint8) -> np.ndarray:
    """Noise, different for each number."""
    top = np.iinfo(dtype).max
    return np.random.default_rng(number).integers(0, top, (height, width, 3), dtype=dtype, endpoint=True)


def target_of(image: np.ndarray) -> np.ndarray:
    """A target that tells which pixel of the input belongs to it."""
    return np.iinfo(image.dtype).max - image


def write_folders(root: Path, images: dict[str, np.ndarray]) -> dict[str, str]:
    for name, image in images.items():
        write_image(root / "lq" / f"{name}.png", image)
        write_image(root / "gt" / f"{name}.png", target_of(image))
    return {"dataroot_lq": str(root / "lq"), "dataroot_gt": str(root / "gt"), "io_backend": {"type": "disk"}}


def write_lmdbs(root: Path, images: dict[str, np.ndarray]) -> dict[str, str]:
    for side, function in (("lq", lambda image: image), ("gt", target_of)):
        with LmdbImageWriter(root / f"{side}.lmdb") as writer:
            for name, image in images.items():
                writer.put(lmdb_key(name), encode_png(function(image)), image.shape)
    return {"dataroot_lq": str(root / "lq.lmdb"), "dataroot_gt": str(root / "gt.lmdb"), "io_backend": {"type": "lmdb"}}


@pytest.fixture(scope="module")
def real_images() -> dict[str, np.ndarray]:
    return {f"s/{i}": picture(i) for i in range(5)}


@pytest.fixture(scope="module")
def roots(tmp_path_factory, real_images) -> dict[str, dict]:
    """The same five pairs on disk and in LMDBs, and nine pseudo pairs in LMDBs."""
    folder = tmp_path_factory.mktemp("data")
    pseudo = {f"p{i}": picture(100 + i) for i in range(9)}
    return {
        "disk": write_folders(folder / "real", real_images),
        "lmdb": write_lmdbs(folder / "real", real_images),
        "pseudo": write_lmdbs(folder / "pseudo", pseudo),
    }


def semi_options(roots: dict, **changes: object) -> dict:
    return {
        **roots["disk"],
        "name": "semi",
        "type": "SemiSupervisedDataset",
        "phase": "train",
        "gt_size": 8,
        "use_hflip": True,
        "use_rot": True,
        "scale": 1,
        "pseudo": roots["pseudo"],
        **changes,
    }


def assert_inverted(item: dict) -> None:
    """Input and target show the same pixels."""
    torch.testing.assert_close(item["lq"], 1 - item["gt"], atol=1e-6, rtol=0)


# --- whole pairs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_int_index_gives_the_whole_pair(roots, real_images, backend):
    options = {**roots[backend], "phase": "train", "gt_size": 8, "use_hflip": True, "use_rot": True}
    dataset = PairedRestorationDataset(options)
    assert len(dataset) == 5
    for index, (name, image) in enumerate(real_images.items()):
        item = dataset[index]
        assert set(item) == {"lq", "gt", "lq_path", "gt_path", "key", "is_pseudo"}
        assert item["lq"].dtype == torch.float32
        np.testing.assert_array_equal(item["lq"].numpy(), image.transpose(2, 0, 1) / np.float32(255))
        np.testing.assert_array_equal(item["gt"].numpy(), target_of(image).transpose(2, 0, 1) / np.float32(255))
        assert item["key"] == name
        assert item["lq_path"] == f"{options['dataroot_lq']}/{name}" + (".png" if backend == "disk" else "")
        assert item["gt_path"] == f"{options['dataroot_gt']}/{name}" + (".png" if backend == "disk" else "")
        assert item["is_pseudo"].dtype == torch.bool
        assert item["is_pseudo"].shape == ()
        assert not item["is_pseudo"]
    torch.testing.assert_close(dataset[-1]["lq"], dataset[4]["lq"])
    assert len(list(dataset)) == 5  # ends with IndexError
    with pytest.raises(IndexError, match="no pair 5; the data set has 5"):
        dataset[5]
    with pytest.raises(IndexError):
        dataset[-6]


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_16_bits_survive_to_the_tensor(tmp_path, backend):
    image = np.arange(H * W * 3, dtype=np.uint16).reshape(H, W, 3) * 36
    options = (write_folders if backend == "disk" else write_lmdbs)(tmp_path, {"a": image})
    item = PairedRestorationDataset(options)[0]
    assert len(torch.unique(item["lq"])) == H * W * 3 > 256
    np.testing.assert_array_equal(item["lq"].numpy(), image.transpose(2, 0, 1) / np.float32(65535))
    np.testing.assert_array_equal(item["gt"].numpy(), target_of(image).transpose(2, 0, 1) / np.float32(65535))
    # A crop keeps them, too.
    dataset = PairedRestorationDataset({**options, "phase": "train", "gt_size": [H, W], "use_hflip": True})
    sample = dataset[SampleIndex(0, 0, 1)]["lq"]
    np.testing.assert_array_equal(np.sort(sample.numpy().ravel()), np.sort(item["lq"].numpy().ravel()))


def test_bit_depths_may_differ_within_a_pair(tmp_path):
    image = picture(0)
    write_image(tmp_path / "lq/a.png", to_bit_depth(image, "16"))
    write_image(tmp_path / "gt/a.png", image)
    item = PairedRestorationDataset({"dataroot_lq": tmp_path / "lq", "dataroot_gt": tmp_path / "gt"})[0]
    torch.testing.assert_close(item["lq"], item["gt"], atol=1e-7, rtol=0)


def test_basicsr_reads_our_lmdbs(roots, real_images):
    """BasicSR's own data set and ours, on the same LMDBs in one process."""
    options = {**roots["lmdb"], "type": "PairedImageDataset", "name": "b", "phase": "val", "scale": 1}
    theirs = build_dataset({**options, "io_backend": {"type": "lmdb"}})
    ours = build_dataset({**options, "type": "PairedRestorationDataset"})
    assert len(theirs) == len(ours) == 5
    for index in range(5):
        for name in ("lq", "gt"):
            torch.testing.assert_close(theirs[index][name], ours[index][name], atol=1e-7, rtol=0)


def test_registered():
    assert DATASET_REGISTRY.get("PairedRestorationDataset") is PairedRestorationDataset
    assert DATASET_REGISTRY.get("SemiSupervisedDataset") is SemiSupervisedDataset


def test_options_are_not_changed_and_kept(roots):
    options = semi_options(roots)
    before = pickle.dumps(options)
    dataset = SemiSupervisedDataset(options)
    dataset[0]
    assert pickle.dumps(options) == before
    assert dataset.opt["name"] == PairedRestorationDataset(options).opt["name"] == "semi"  # read by BasicSR's models


def test_cache_holds_decoded_images_and_is_not_pickled(tmp_path):
    options = write_folders(tmp_path, {"a": picture(0), "b": picture(1)})
    cached = PairedRestorationDataset({**options, "cache_images": True})
    plain = PairedRestorationDataset(options)
    first = cached[0]["lq"]
    first.zero_()  # what is done to an item must not reach the cache
    for file in tmp_path.rglob("a.png"):
        file.unlink()
    np.testing.assert_array_equal(cached[0]["lq"].numpy(), picture(0).transpose(2, 0, 1) / np.float32(255))
    assert cached._cache[0][0].dtype == np.uint8
    with pytest.raises(FileNotFoundError):
        plain[0]
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(cached))[0]
    assert len(pickle.dumps(cached)) < first.numel()


def test_images_without_a_partner(roots):
    with pytest.raises(ValueError, match="do not match by name"):
        PairedRestorationDataset({**roots["disk"], "filename_tmpl": "{}_x"})


def test_sizes_of_a_pair_must_agree(tmp_path):
    options = write_folders(tmp_path, {"a": picture(0)})
    write_image(tmp_path / "gt/a.png", picture(0, H, W + 1))
    with pytest.raises(ValueError, match=r"pair 'a'(.|\n)*20x30(.|\n)*20x31"):
        PairedRestorationDataset(options)[0]


# --- real and pseudo pairs ------------------------------------------------------------------------------------------


def test_semi_supervised_order_and_flags(roots):
    dataset = SemiSupervisedDataset(semi_options(roots))
    assert (dataset.n_real, dataset.n_pseudo, len(dataset)) == (5, 9, 14)
    items = list(dataset)
    assert [bool(item["is_pseudo"]) for item in items] == [False] * 5 + [True] * 9
    assert [item["key"] for item in items] == [f"s/{i}" for i in range(5)] + [f"p{i}" for i in range(9)]
    assert dataset[-1]["key"] == "p8"
    for index in (14, -15):
        with pytest.raises(IndexError, match="the data set has 14"):
            dataset[index]
    sample = dataset[SampleIndex(1, 3, 0)]
    assert sample["key"] == "p3"
    assert sample["is_pseudo"]
    assert sample["lq"].shape == (3, 8, 8)
    assert not dataset[SampleIndex(0, 3, 0)]["is_pseudo"]
    with pytest.raises(IndexError, match="sources are 0"):
        dataset[SampleIndex(2, 0, 0)]
    with pytest.raises(IndexError, match="no pair 9"):
        dataset[SampleIndex(1, 9, 0)]


def test_paired_data_set_has_no_pseudo_pairs(roots):
    with pytest.raises(IndexError, match="pseudo pair"):
        PairedRestorationDataset(roots["disk"])[SampleIndex(1, 0, 0)]


def test_template_and_cache_concern_the_real_pairs_only(roots, tmp_path):
    images = {"a": picture(0)}
    options = write_folders(tmp_path, images)
    (tmp_path / "lq/a.png").rename(tmp_path / "lq/a_dark.png")
    dataset = SemiSupervisedDataset(
        semi_options({**roots, "disk": options}, filename_tmpl="{}_dark", cache_images=True)
    )
    for index in range(len(dataset)):
        assert_inverted(dataset[index])
    assert [len(source._cache) for source in dataset._sources] == [1, 0]


def test_sources_may_share_an_lmdb(roots):
    """Real and pseudo targets in one LMDB, opened by two data sets of one process: lmdb 3 refuses a second opening."""
    dataset = SemiSupervisedDataset(semi_options(roots, **roots["lmdb"], pseudo=roots["lmdb"]))
    for i in range(5):
        torch.testing.assert_close(dataset[i]["gt"], dataset[5 + i]["gt"])


# --- unlabelled inputs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, dict]:
    """Seven images without targets, as files of several kinds in a tree and as an LMDB."""
    folder = tmp_path_factory.mktemp("unlabelled")
    images = {f"u{i}": picture(200 + i) for i in range(7)}
    for number, (name, image) in enumerate(images.items()):
        write_image(folder / "dark" / f"night {number % 2}" / f"{name}.png", image)
    (folder / "dark/night 0/u0.png").unlink()
    cv2.imwrite(str(folder / "dark/night 0/u0.TIF"), images["u0"][..., ::-1])
    write_lmdbs(folder, images)
    return {
        "disk": {"dataroot_lq": str(folder / "dark"), "io_backend": {"type": "disk"}},
        "lmdb": {"dataroot_lq": str(folder / "lq.lmdb"), "io_backend": {"type": "lmdb"}},
    }


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_unlabelled_inputs_come_last_and_stand_in_for_their_targets(roots, inputs, backend):
    dataset = SemiSupervisedDataset(semi_options(roots, unlabelled=inputs[backend]))
    assert (dataset.n_real, dataset.n_pseudo, dataset.n_unlabelled, len(dataset)) == (5, 9, 7, 21)
    items = list(dataset)
    assert [bool(item["is_unlabelled"]) for item in items] == [False] * 14 + [True] * 7
    assert [bool(item["is_pseudo"]) for item in items] == [False] * 5 + [True] * 9 + [False] * 7
    for item in items[14:]:
        assert item["is_unlabelled"].dtype == torch.bool
        assert item["is_unlabelled"].shape == ()
        number = int(item["key"].rpartition("u")[2])
        np.testing.assert_array_equal(item["lq"].numpy(), picture(200 + number).transpose(2, 0, 1) / np.float32(255))
        assert torch.equal(item["gt"], item["lq"])
        assert item["gt_path"] == item["lq_path"]
    assert len({item["key"] for item in items[14:]}) == 7
    sample = dataset[SampleIndex(2, 3, 9)]
    assert sample["lq"].shape == (3, 8, 8)
    assert torch.equal(sample["gt"], sample["lq"])
    assert dataset[-1]["key"] == items[-1]["key"]
    for wrong, message in ((SampleIndex(2, 7, 0), "no pair 7"), (SampleIndex(3, 0, 0), r"1 \(pseudo\), 2 \(unl")):
        with pytest.raises(IndexError, match=message):
            dataset[wrong]


def test_unlabelled_inputs_leave_the_pairs_as_they_are(roots, inputs):
    without, plain = SemiSupervisedDataset(semi_options(roots)), semi_options(roots, unlabelled=inputs["disk"])
    dataset = SemiSupervisedDataset(plain)
    for index in (SampleIndex(0, 2, 5), SampleIndex(1, 4, 2**63 + 1), 3, 13):
        before, now = without[index], dataset[index]
        assert before.keys() == now.keys()
        assert all(torch.equal(before[name], now[name]) for name in ("lq", "gt", "is_pseudo", "is_unlabelled"))
    assert without.n_unlabelled == 0
    with pytest.raises(IndexError, match=r"sources are 0 \(real\), 1 \(pseudo\)\."):
        without[SampleIndex(2, 0, 0)]


def test_unlabelled_inputs_without_pseudo_pairs(roots, inputs):
    dataset = SemiSupervisedDataset(semi_options(roots, pseudo=None, unlabelled=inputs["lmdb"]))
    assert (dataset.n_real, dataset.n_pseudo, dataset.n_unlabelled) == (5, 0, 7)
    assert [bool(item["is_unlabelled"]) for item in dataset] == [False] * 5 + [True] * 7
    with pytest.raises(ValueError, match="data set 'semi' has real pairs alone: give pseudo, unlabelled or both"):
        SemiSupervisedDataset(semi_options(roots, pseudo=None))


def test_augmentation_of_unlabelled_inputs_is_of_the_seed_alone(roots, inputs):
    dataset = SemiSupervisedDataset(semi_options(roots, unlabelled=inputs["lmdb"]))
    other = pickle.loads(pickle.dumps(dataset))
    crops = {seed: dataset[SampleIndex(2, 1, seed)]["lq"] for seed in range(20)}
    assert all(torch.equal(other[SampleIndex(2, 1, seed)]["lq"], crop) for seed, crop in reversed(crops.items()))
    assert len({crop.numpy().tobytes() for crop in crops.values()}) > 15
    small = SemiSupervisedDataset(semi_options(roots, unlabelled=inputs["lmdb"], gt_size=[40, 50]))
    assert small[SampleIndex(2, 1, 0)]["lq"].shape == (3, 40, 50), "enlarged, as pairs are"


@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=pytest.mark.skipif("fork" not in START_METHODS, reason=""))]
)
def test_batches_with_unlabelled_inputs(roots, inputs, workers):
    dataset = SemiSupervisedDataset(semi_options(roots, **roots["lmdb"], unlabelled=inputs["lmdb"]))
    sampler = MixedBatchSampler(5, 9, 2, 3, n_unlabelled=7, unlabelled_per_batch=2, seed=4, num_batches=4)
    drawn = list(DataLoader(dataset, batch_sampler=sampler, num_workers=workers))
    for batch, without in zip(drawn, loaded(dataset, workers=0), strict=False):
        assert batch["is_unlabelled"].tolist() == [False] * 5 + [True] * 2
        assert batch["is_pseudo"].tolist() == [False, False, True, True, True, False, False]
        assert torch.equal(batch["lq"][:5], without["lq"])
        assert torch.equal(batch["gt"][5:], batch["lq"][5:])
    assert sample_name(dataset, 2, 0).endswith("/u0' (unlabelled input 'u0')")


def test_an_unlabelled_input_is_read_once_and_kept_on_demand(roots, inputs, monkeypatch):
    seen = []
    monkeypatch.setattr(pairs, "read_image", lambda path: seen.append(path) or picture(0))
    section = {**inputs["disk"], "cache_images": True}
    dataset = SemiSupervisedDataset(semi_options(roots, pseudo=None, unlabelled=section))
    for seed in (1, 2):
        dataset[SampleIndex(2, 1, seed)]
    assert len(seen) == 1
    dataset = SemiSupervisedDataset(semi_options(roots, pseudo=None, unlabelled=inputs["disk"], cache_images=True))
    for seed in (1, 2):
        dataset[SampleIndex(2, 1, seed)]
    assert len(seen) == 3, "cache_images outside the section is of the real pairs"


def test_what_is_wrong_with_unlabelled_inputs_is_named(roots, tmp_path):
    def opened(root: Path) -> SemiSupervisedDataset:
        return SemiSupervisedDataset(semi_options(roots, unlabelled={"dataroot_lq": str(root)}))

    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*nowhere'.*Check the path"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    with pytest.raises(ValueError, match=r"empty' holds no image.*Check the path"):
        opened(tmp_path / "empty")
    write_image(tmp_path / "bad/a.png", picture(0))
    (tmp_path / "bad/a.png").write_bytes((tmp_path / "bad/a.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"bad/a\.png"):
        opened(tmp_path / "bad")[SampleIndex(2, 0, 0)]


# --- randomness and workers -----------------------------------------------------------------------------------------


def test_a_sample_is_a_function_of_its_index(roots):
    dataset = SemiSupervisedDataset(semi_options(roots))
    other = pickle.loads(pickle.dumps(dataset))
    np.random.seed(1)
    torch.manual_seed(1)
    first = [dataset[SampleIndex(0, 1, seed)]["lq"] for seed in range(20)]
    np.random.seed(2)
    torch.manual_seed(2)
    for seed in reversed(range(20)):
        torch.testing.assert_close(other[SampleIndex(0, 1, seed)]["lq"], first[seed], atol=0, rtol=0)
    assert len({tensor.numpy().tobytes() for tensor in first}) > 15
    seeded = SemiSupervisedDataset(semi_options(roots, seed=1))
    assert any(not torch.equal(seeded[SampleIndex(0, 1, seed)]["lq"], first[seed]) for seed in range(3))


def test_no_augmentation_outside_training(roots):
    dataset = SemiSupervisedDataset(semi_options(roots, phase="val"))
    torch.testing.assert_close(dataset[SampleIndex(0, 1, 7)]["lq"], dataset[1]["lq"], atol=0, rtol=0)


def test_augmentation_does_not_repeat_across_epochs(roots):
    """BasicSR's workers repeat theirs each epoch; here every visit of a sample has its own."""
    dataset = PairedRestorationDataset({**roots["disk"], "phase": "train", "gt_size": 6, "use_hflip": True})
    sampler = MixedBatchSampler(5, 0, 5, 0, seed=0, num_batches=6)
    visits: dict[str, set[bytes]] = {}
    for batch in DataLoader(dataset, batch_sampler=sampler):
        for key, lq in zip(batch["key"], batch["lq"], strict=True):
            visits.setdefault(key, set()).add(lq.numpy().tobytes())
    # 15 x 25 windows, flipped or not: among six visits of one sample a repetition has probability 1/50.
    assert sorted(visits) == [f"s/{i}" for i in range(5)]
    assert sum(len(crops) for crops in visits.values()) >= 29


def loaded(dataset: SemiSupervisedDataset, *, workers: int, method: str | None = None, start: int = 0) -> list[dict]:
    sampler = MixedBatchSampler(dataset.n_real, dataset.n_pseudo, 2, 3, seed=4, num_batches=5, start_batch=start)
    return list(DataLoader(dataset, batch_sampler=sampler, num_workers=workers, multiprocessing_context=method))


def assert_same_batches(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b) > 0
    for first, second in zip(a, b, strict=True):
        assert first["key"] == second["key"]
        assert first["lq_path"] == second["lq_path"]
        for name in ("lq", "gt", "is_pseudo"):
            assert torch.equal(first[name], second[name])


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[] if m == "fork" else pytest.mark.slow) for m in START_METHODS]
)
def test_batches_do_not_depend_on_workers(roots, method):
    """Real and pseudo pairs from LMDBs that this process has open, too."""
    dataset = SemiSupervisedDataset(semi_options(roots, **roots["lmdb"]))
    alone = loaded(dataset, workers=0)
    for batch in alone:
        assert batch["lq"].shape == batch["gt"].shape == (5, 3, 8, 8)
        assert batch["is_pseudo"].tolist() == [False, False, True, True, True]
        assert batch["is_pseudo"].dtype == torch.bool
        assert_inverted(batch)
    assert_same_batches(loaded(dataset, workers=2 if method == "fork" else 1, method=method), alone)
    assert_same_batches(loaded(dataset, workers=0, start=3), alone[3:])


@pytest.mark.skipif("fork" not in START_METHODS, reason="needs fork")
def test_workers_of_two_data_sets_on_one_lmdb(roots):
    """Training in workers while this process validates on the same LMDB, twice as at a new epoch."""
    train = SemiSupervisedDataset(semi_options(roots, **roots["lmdb"]))
    val = PairedRestorationDataset({**roots["lmdb"], "phase": "val"})
    expected = loaded(train, workers=0)
    for _ in range(2):
        assert_inverted(val[0])
        assert_same_batches(loaded(train, workers=2, method="fork"), expected)


# --- geometry -------------------------------------------------------------------------------------------------------


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose pixels hold their row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows, columns, np.zeros_like(rows)]).astype(np.uint16)


SIDES = st.integers(1, 40)


@given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_every_image_gives_a_crop_of_the_size_asked_for(height, width, crop_height, crop_width, hflip, rot, seed):
    image = coordinates(height, width)
    out, again = augment(
        np.random.default_rng(seed), [image, image], size=(crop_height, crop_width), hflip=hflip, rot=rot
    )
    assert out.shape == (crop_height, crop_width, 3)
    assert out.dtype == np.uint16
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, again)


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32))
def test_an_image_that_holds_the_crop_upright_or_turned_is_not_resampled(height, width, crop_height, crop_width, seed):
    image = coordinates(height, width)
    out = augment(np.random.default_rng(seed), [image], size=(crop_height, crop_width), hflip=True, rot=True)[0]
    upright = height >= crop_height and width >= crop_width
    turned = height >= crop_width and width >= crop_height
    if upright or turned:
        pixels = out[..., :2].reshape(-1, 2).astype(int)
        assert len(np.unique(pixels, axis=0)) == len(pixels)
        # A window of the image: its rows and columns are contiguous.
        assert sorted(np.ptp(pixels, axis=0) + 1) == sorted((crop_height, crop_width))
    else:
        assert crop_height > height or crop_width > width


def test_portrait_and_small_images():
    def fitted(height, width, size):
        return fit_to_crop([np.zeros((height, width, 3), np.uint8)], size)[0].shape[:2]

    assert fitted(500, 700, (480, 640)) == (500, 700)  # holds it
    assert fitted(640, 480, (480, 640)) == (480, 640)  # turned, as it is
    assert fitted(400, 600, (480, 640)) == (480, 720)  # LOL: the least factor, 1.2
    assert fitted(640, 427, (480, 640)) == (480, 719)  # turned: factor 1.12 rather than 1.5
    assert fitted(300, 300, (480, 640)) == (640, 640)  # a square gains nothing by turning
    assert fitted(100, 100, (100, 100)) == (100, 100)
    assert fitted(700, 500, (640, 480)) == (700, 500)


def test_turning_is_a_rotation_not_a_reflection():
    image = coordinates(6, 4)
    np.testing.assert_array_equal(fit_to_crop([image], (4, 6))[0], np.rot90(image))


def test_enlargement_is_opencv_bilinear_and_alike_for_both_images():
    images = [picture(0, 10, 16), picture(1, 10, 16, np.uint16)]
    for image, out in zip(images, fit_to_crop(images, (15, 15)), strict=True):
        assert out.dtype == image.dtype
        np.testing.assert_array_equal(out, cv2.resize(image, (24, 15), interpolation=cv2.INTER_LINEAR))


def test_square_crops_take_all_eight_orientations_and_all_windows():
    image = coordinates(5, 6)
    seen = {
        augment(np.random.default_rng(seed), [image], size=(4, 4), hflip=True, rot=True)[0].tobytes()
        for seed in range(1500)
    }
    expected = set()
    for top, left in itertools.product(range(2), range(3)):
        window = image[top : top + 4, left : left + 4]
        for flipped, quarter in itertools.product((window, window[:, ::-1]), range(4)):
            expected.add(np.rot90(flipped, quarter).tobytes())
    assert len(expected) == 48
    assert seen == expected


def test_options_decide_which_flips_there_are():
    image = coordinates(4, 4)
    variants = {
        (hflip, rot): {augment(np.random.default_rng(s), [image], hflip=hflip, rot=rot)[0].tobytes() for s in range(80)}
        for hflip, rot in itertools.product((False, True), repeat=2)
    }
    transposed = image.transpose(1, 0, 2)
    assert variants[False, False] == {image.tobytes()}
    assert variants[True, False] == {image.tobytes(), image[:, ::-1].tobytes()}
    assert variants[False, True] == {v.tobytes() for v in (image, image[::-1], transposed, transposed[::-1])}
    assert len(variants[True, True]) == 8


@pytest.mark.parametrize("augmentation", [{"gt_size": 6}, {"crop_ratio": [0.5, 1.0]}, {"use_hflip": True}])
def test_crops_and_flips_need_a_phase(roots, augmentation):
    (key,) = augmentation
    with pytest.raises(ValueError, match=f"{key} is for training: give phase: train"):
        PairedRestorationDataset({**roots["disk"], **augmentation})
    for make in (PairedRestorationDataset, SemiSupervisedDataset):
        with pytest.raises(ValueError, match="phase: train"):
            make({**roots["disk"], **augmentation, "pseudo": roots["disk"]})


def test_transposition_only_where_the_size_stays():
    landscape = coordinates(4, 6)
    for seed in range(30):
        assert augment(np.random.default_rng(seed), [landscape], rot=True)[0].shape == (4, 6, 3)
        out = augment(np.random.default_rng(seed), [landscape], size=(4, 6), rot=True)[0]
        assert np.ptp(out[..., 0]) == 3  # rows of the image run along columns of the crop
        assert out[0, 0, 1] == 0
    # A larger image does hold the transposed window.
    rows = {
        int(np.ptp(augment(np.random.default_rng(s), [coordinates(9, 9)], size=(4, 6), rot=True)[0][..., 0]))
        for s in range(30)
    }
    assert rows == {3, 5}


def test_random_crop_is_uniform():
    image = coordinates(4, 5)
    corners = [tuple(random_crop(np.random.default_rng(s), [image], (3, 3))[0][0, 0, :2]) for s in range(3000)]
    counts = np.array([corners.count((r, c)) for r in range(2) for c in range(3)])
    assert counts.sum() == 3000
    assert ((counts - 500) ** 2 / 500).sum() < 30  # chi-squared, 5 degrees of freedom, p about 1e-5


def test_stratified_crops_are_dark_and_bright_alike(tmp_path):
    """A bright corner of a dark picture, whatever its type; all images are cut alike."""
    image = np.full((200, 300, 3), 10, np.uint8)
    image[:64, :64] = 250
    for picture in (image, image.astype(np.uint16) * 257, image.astype(np.float32) / 255):
        rng, bright = np.random.default_rng(0), 0
        for _ in range(200):
            first, second = stratified_crop(rng, [picture, image], (64, 64))
            assert first.shape == (64, 64, 3)
            assert (first.mean() > picture.max() / 2) == (second.mean() > 125)
            bright += int(second.mean() > 125)
        assert 70 < bright < 130  # of two bins; of all windows of the grid it would be one of twenty
    whole = stratified_crop(np.random.default_rng(0), [image], (200, 300))[0]
    assert np.array_equal(whole, image)
    write_image(tmp_path / "lq" / "a.png", image)
    write_image(tmp_path / "gt" / "a.png", 255 - image)
    roots = {"dataroot_lq": str(tmp_path / "lq"), "dataroot_gt": str(tmp_path / "gt"), "gt_size": 64, "phase": "train"}
    shares = []
    for stratified in (True, False):
        dataset = PairedRestorationDataset({**roots, "stratified_crops": stratified})
        items = [dataset.item(0, seed=seed) for seed in range(100)]
        shares.append(sum(float(item["lq"].mean()) > 0.5 for item in items))
    assert shares[0] > 30 > shares[1]


def test_random_ratio_crops_are_shares_of_the_image(tmp_path):
    """As in SepLUT's `RandomRatioCrop`: both sides drawn on their own, uniform shares, rounded down."""
    roots = write_folders(tmp_path, {"a": picture(1, 40, 60)})
    dataset = PairedRestorationDataset({**roots, "phase": "train", "crop_ratio": [0.6, 1.0], "use_hflip": True})
    items = [dataset[SampleIndex(0, 0, seed)] for seed in range(400)]
    shapes = np.array([item["lq"].shape[1:] for item in items])
    assert shapes.min(0).tolist() == [24, 36]
    assert shapes.max(0).tolist() in ([39, 59], [40, 60])
    # A uniform share of [0.6, 1] has the mean 0.8, less half a pixel for rounding down.
    assert np.abs(shapes.mean(0) - [0.8 * 40 - 0.5, 0.8 * 60 - 0.5]).max() < 0.8
    assert abs(np.corrcoef(shapes.T)[0, 1]) < 0.15  # standard error 0.05
    for item in items[:20]:
        torch.testing.assert_close(item["gt"], 1 - item["lq"])  # the same window of both
    again = dataset[SampleIndex(0, 0, 7)]
    assert torch.equal(again["lq"], items[7]["lq"])
    assert dataset[0]["lq"].shape == (3, 40, 60)  # as it is in validation
