"""Pseudo inputs drawn in training: against stored builds, against whole pictures, and from process to process."""

import hashlib
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import seeded
from torch.utils.data import DataLoader

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.data.augment import augment, fit_to_crop
from semiisp_plugin.data.sampler import MixedBatchSampler, SampleIndex
from semiisp_plugin.data.semi_supervised_dataset import SemiSupervisedDataset
from semiisp_plugin.io.image_io import write_image
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.f_isp import make_generator, save_f_isp
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.pseudo.online import OnlineDraw
from semiisp_plugin.pseudo.online_semi_supervised_dataset import OnlineSemiSupervisedDataset
from semiisp_plugin.pseudo.places import WHOLE, coordinates, place_of
from semiisp_plugin.toolbox import DATASET_REGISTRY, build_dataset

SEED = 4
GRID = [3, 2]
SIZES = ((40, 48), (60, 36), (33, 70))  # landscape, portrait, and one that does not hold the crops below
# One unit of a 16-bit image. Near 1, float32 goes in steps of 1/256 of that.
UNIT = (1 + 2 / 256) / 65535


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth enough for enlarging, with all levels."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    phases = np.random.default_rng(seed).uniform(0, 6, (3, 2))
    waves = [0.5 + 0.25 * np.sin(2 * x + a) + 0.25 * np.cos(3 * y + b + x) for a, b in phases]
    return np.rint(255 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """``photos``, ``real`` and the f_ISPs ``raw.pth`` and ``enhancement.pth``."""
    root = tmp_path_factory.mktemp("online")
    for i, size in enumerate(SIZES):
        write_image(root / "photos" / f"{i}.png", picture(i, *size))
    for i in range(2):
        write_image(root / "real" / f"{i}.png", picture(10 + i, 50, 60))
    for name, enhancement in (("raw", False), ("enhancement", True)):
        torch.manual_seed(0)
        options = {"type": "PQDynamicISP", "inverse_tone_mapping": enhancement, "grid": GRID, "thumbnail": 32}
        network = PQDynamicISP(**{k: v for k, v in options.items() if k != "type"})
        # Untrained, it treats all images alike; a larger head makes its parameters depend on the image.
        torch.nn.init.normal_(network.encoder.head.weight, std=0.05)
        banks = {}
        for seed, (label, grid) in enumerate({"global": [1, 1], "local": GRID}.items()):
            banks[label] = ParameterBank(network.spec, 7, tuple(grid))
            free = torch.randn(7, network.spec.n_parameters, *grid, generator=seeded(seed))
            banks[label].append(network.spec.squash(0.4 * free))
        save_f_isp(root / f"{name}.pth", options, network.state_dict(), banks, 20)
    return root


@pytest.fixture
def make_build(folders, tmp_path):
    """A build, as `semiisp_plugin.pseudo.builder.run` makes it."""

    def make(mode: str, isp: str = "raw", *, bits: int = 16, draws: int = 1, **how) -> Path:
        f_isp, out = folders / f"{isp}.pth", tmp_path / mode
        drawn_with = {"sets": "global", **how}
        options = PseudoOptions(
            name="test",
            photographs=str(folders / "photos"),
            f_isp=str(f_isp),
            out=str(out),
            num_gpu=0,
            mode=mode,
            manual_seed=SEED,
            draws=draws,
            input_bits=bits,
            shard_size=2,  # photographs
            **drawn_with,
        )
        inputs = {"f_isp_sha256": hashlib.sha256(f_isp.read_bytes()).hexdigest()[:16]}
        build_pseudo_lmdb(options, make_generator(f_isp, **drawn_with), inputs=inputs, progress=False)
        shutil.copy(f_isp, out / "f_isp.pth")
        return out

    return make


@pytest.fixture
def dataset_of(folders):
    """The data set of a build; ``draw_on`` and the options of the crop may be given."""

    def make(build: Path, draw_on: str = "worker", **options):
        common = {
            "name": "semi",
            "phase": "train",
            "dataroot_gt": str(folders / "real"),
            "dataroot_lq": str(folders / "real"),
            "io_backend": {"type": "disk"},
            "use_hflip": True,
            "use_rot": True,
            "gt_size": 24,
            **options,
        }
        if BuildFolder(build).mode == "stored":
            roots = {f"dataroot_{name}": str(build / f"{name}.lmdb") for name in ("gt", "lq")}
            return SemiSupervisedDataset({**common, "pseudo": {**roots, "io_backend": {"type": "lmdb"}}})
        return OnlineSemiSupervisedDataset({**common, "pseudo": {"build": str(build), "draw_on": draw_on}})

    return make


def pseudo_items(dataset) -> list[dict]:
    return [dataset[dataset.n_real + i] for i in range(dataset.n_pseudo)]


# --- against stored builds -------------------------------------------------------------------------------------------

KINDS = {
    "global": ("raw", {}),
    "global, image enhancement, 8 bits": ("enhancement", {"bits": 8}),
    "mixture": ("raw", {"source": "mixture", "draws": 2}),
    "upi": ("enhancement", {"source": "upi"}),
    "local, per function": ("enhancement", {"sets": "local"}),
    "local, per ISP": ("raw", {"sets": "local", "draw_per": "isp"}),
    "photographs as they are": ("raw", {"update_quality": False}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_entries_are_those_of_a_stored_build(make_build, dataset_of, kind):
    isp, how = KINDS[kind]
    stored, *drawn = (dataset_of(make_build(mode, isp, **how)) for mode in ("stored", "online", "keys"))
    expected = pseudo_items(stored)
    assert len(expected) == len(SIZES) * how.get("draws", 1)
    unit = UNIT * 257 if how.get("bits") == 8 else UNIT
    for dataset in drawn:
        items = pseudo_items(dataset)
        assert [i["key"] for i in items] == [i["key"] for i in expected]
        for item, entry in zip(items, expected, strict=True):
            assert item.keys() == entry.keys()
            assert torch.equal(item["gt"], entry["gt"])
            assert float((item["lq"] - entry["lq"]).abs().max()) <= unit
            assert bool(item["is_pseudo"])
    first, second = expected[:2]
    assert not torch.equal(first["lq"][:, :30, :30], second["lq"][:, :30, :30])


# --- crops -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["global", "upi", "local, per function"])
@pytest.mark.parametrize("size", [[24, 30], [30, 24]], ids=["landscape", "portrait"])
def test_crop_of_the_inverse_is_the_inverse_of_the_crop(make_build, dataset_of, kind, size):
    """Flipped, transposed and turned ones included."""
    isp, how = KINDS[kind]
    build = make_build("online", isp, **how)
    dataset = dataset_of(build, gt_size=size)
    draw = OnlineDraw.open(build)
    whole = pseudo_items(dataset)
    seen = set()
    for index in range(2):  # the third does not hold the crop
        target = (whole[index]["gt"] * 255).round().to(torch.uint8)
        for seed in range(12):
            item = dataset[SampleIndex(1, index, seed)]
            pixels = np.random.SeedSequence((SEED, seed), spawn_key=(2,)).generate_state(2, np.uint64)
            lq = draw.inputs(target[None], [seeded(int(pixels[0]) % 2**63)])[0]
            images = [image.permute(1, 2, 0).numpy() for image in (whole[index]["gt"], lq)]
            rng = np.random.default_rng((0, seed))
            gt, lq = augment(rng, images, size=tuple(size), hflip=True, rot=True)
            np.testing.assert_array_equal(item["gt"].permute(1, 2, 0), gt)
            assert float(np.abs(item["lq"].permute(1, 2, 0).numpy() - lq).max()) <= UNIT
            seen.add(tuple(bool(b) for b in np.random.default_rng((0, seed)).random(3) < 0.5))
    assert len(seen) >= 6, "flips and transpositions are not all there"


def test_enlarged_picture_has_the_parameters_of_its_own_size(make_build):
    build = make_build("online", "enhancement", sets="local")
    draw = OnlineDraw.open(build)
    size = (90, 120)
    (large,) = fit_to_crop([picture(0, 40, 48)], size)
    assert large.shape[:2] == (100, 120)
    expected = draw.inputs(torch.from_numpy(large).permute(2, 0, 1)[None], [seeded(8)])[0].permute(1, 2, 0).numpy()
    for seed in range(6):
        (gt, lq) = augment(np.random.default_rng(seed), [large, expected], size=size, hflip=True, rot=True)
        images = [picture(0, 40, 48), *coordinates(40, 48)]
        cropped, *where = augment(np.random.default_rng(seed), images, size=size, hflip=True, rot=True)
        np.testing.assert_array_equal(cropped, gt)
        target = torch.from_numpy(cropped).permute(2, 0, 1)[None]
        drawn = draw.inputs(target, [seeded(8)], place_of(where)[None])[0].permute(1, 2, 0).numpy()
        assert float(np.abs(drawn - lq).max()) <= UNIT


def test_place_of_coordinates():
    assert torch.allclose(place_of(coordinates(40, 48)), WHOLE, atol=1e-6)
    # The left half, transposed: the crop's u runs along y, its v along the left half of x.
    left = [c[:, :24].transpose(1, 0, 2) for c in coordinates(40, 48)]
    assert torch.allclose(place_of(left), torch.tensor([[0, 0.5, -0.5], [1, 0, 0]]), atol=1e-6)
    one = [c[20:21, 24:25] for c in coordinates(41, 49)]
    assert torch.allclose(place_of(one), torch.zeros(2, 3), atol=1e-6)


def test_tensors_do_what_compiled_code_does(make_build, monkeypatch):
    """In a batch; as one band, and as many."""
    draw = OnlineDraw.open(make_build("online", "enhancement", sets="local"))
    targets = torch.randint(0, 256, (2, 3, 50, 60), dtype=torch.uint8, generator=seeded(0))
    transposed = [c[4:64, 10:60].transpose(1, 0, 2) for c in coordinates(80, 90)]
    places = torch.stack((place_of(transposed), WHOLE))
    compiled = draw.inputs(targets, [seeded(1), seeded(2)], places)
    monkeypatch.setattr("semiisp_plugin.isp.compiled.invert_crops", lambda *_: None)
    expected = draw.inputs(targets, [seeded(1), seeded(2)], places)
    assert float((compiled - expected).abs().max()) <= UNIT
    monkeypatch.setattr("semiisp_plugin.pseudo.places._BAND", {"cpu": 3 * 60 * 7})
    assert torch.equal(draw.inputs(targets, [seeded(1), seeded(2)], places), expected)
    alone = draw.inputs(targets[1:], [seeded(2)])
    assert float((expected[1:] - alone).abs().max()) <= UNIT


# --- drawn by the model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["global", "upi", "local, per function"])
@pytest.mark.parametrize("mode", ["online", "keys"])
def test_what_is_left_to_the_model_is_what_a_worker_draws(make_build, dataset_of, kind, mode):
    isp, how = KINDS[kind]
    build = make_build(mode, isp, **how)
    worker, later = dataset_of(build), dataset_of(build, "gpu")
    draw = OnlineDraw.open(build)
    extra = {"draw_seed", "draw_place"} if draw.needs_place else {"draw_seed"}
    real = later[SampleIndex(0, 0, 5)]
    assert real["draw_seed"] == -1
    for index in range(worker.n_pseudo):
        item, open_item = (d[SampleIndex(1, index, 7)] for d in (worker, later))
        assert open_item.keys() - item.keys() == extra
        assert {k: v.shape for k, v in open_item.items() if k in extra} == {k: real[k].shape for k in extra}
        assert torch.equal(item["gt"], open_item["gt"])
        assert not open_item["lq"].any()
        target = (open_item["gt"] * 255).round().to(torch.uint8)[None]
        place = open_item["draw_place"][None] if draw.needs_place else None
        drawn = draw.inputs(target, [seeded(int(open_item["draw_seed"]))], place)
        assert float((drawn[0] - item["lq"]).abs().max()) <= UNIT
    for item in (later[0], later[later.n_real]):  # whole pairs are complete
        assert item["draw_seed"] == -1
        assert item["lq"].any()


# --- keys only -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["global", "local, per function", "photographs as they are"])
def test_keys_against_a_direct_computation(make_build, dataset_of, kind):
    """Steps 1 and 2 on the whole photograph, cropped, then step 3."""
    isp, how = KINDS[kind]
    build = make_build("keys", isp, **how)
    dataset, draw = dataset_of(build), OnlineDraw.open(build)
    photograph = picture(0, *SIZES[0])
    for seed in range(6):
        item = dataset[SampleIndex(1, 0, seed)]
        input_seed, target_seed = np.random.SeedSequence((SEED, seed), spawn_key=(2,)).generate_state(2, np.uint64)
        batch = torch.from_numpy(photograph).permute(2, 0, 1)[None]
        target = draw.generator.generate_target(batch, seeded(int(target_seed) % 2**63))
        made = draw.generator.generate_input(target, seeded(int(input_seed) % 2**63)).input
        images = [t[0].permute(1, 2, 0).numpy() for t in (target, made)]
        gt, lq = augment(np.random.default_rng((0, seed)), images, size=(24, 24), hflip=True, rot=True)
        found = (item["gt"] * 255).permute(1, 2, 0).numpy()
        same = np.abs(found - gt) < 0.5  # a value at the edge between two levels may be rounded to either
        assert same.mean() > 0.999
        error = np.abs(item["lq"].permute(1, 2, 0).numpy() - lq)[same.all(axis=2)]
        assert float(error.max()) <= UNIT
    assert item["gt_path"].endswith("photos/0.png")
    assert not (build / "gt.lmdb").exists()


def test_keys_of_photographs_that_must_be_enlarged(make_build, dataset_of):
    item = dataset_of(make_build("keys", sets="local"), gt_size=80)[SampleIndex(1, 2, 3)]
    assert item["lq"].shape == item["gt"].shape == (3, 80, 80)
    assert item["lq"].any()


# --- randomness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "start", "workers"),
    [("online", "fork", 2), pytest.param("keys", "spawn", 1, marks=pytest.mark.slow)],  # which imports torch again
)
def test_visits_differ_and_do_not_depend_on_the_process(make_build, dataset_of, mode, start, workers):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"needs processes that start by {start}")
    dataset = dataset_of(make_build(mode, sets="local"), gt_size=[33, 36], use_hflip=False, use_rot=False)
    sampler = MixedBatchSampler(2, 3, 1, 3, seed=1, num_batches=4)

    def batches(**options) -> list[dict]:
        return list(DataLoader(dataset, batch_sampler=sampler, **options))

    here = batches()
    assert len(pickle.dumps(dataset)) < 20_000
    elsewhere = batches(num_workers=workers, multiprocessing_context=start)
    for a, b in zip(here, elsewhere, strict=True):
        assert a["key"] == b["key"]
        assert torch.equal(a["lq"], b["lq"])
        assert torch.equal(a["gt"], b["gt"])
    # Each batch is a pass: the same photographs, other inputs.
    visits = {}
    for batch in here:
        for key, lq in zip(batch["key"][1:], batch["lq"][1:], strict=True):
            visits.setdefault(key, []).append(lq)
    assert [len(v) for v in visits.values()] == [4, 4, 4]
    for own in visits.values():
        levels = {round(float(lq.mean()), 6) for lq in own}
        assert len(levels) >= 3  # of 7 sets a function, one may come twice
    sampler.start_batch = 2  # resumed
    for a, b in zip(here[2:], batches(), strict=True):
        assert torch.equal(a["lq"], b["lq"])


def test_registered_and_counted(make_build, dataset_of, folders):
    dataset = dataset_of(make_build("online", draws=2))
    assert DATASET_REGISTRY.get("OnlineSemiSupervisedDataset") is OnlineSemiSupervisedDataset
    assert (dataset.n_real, dataset.n_pseudo, len(dataset)) == (2, 6, 8)
    assert [pair.key for pair in dataset.real_pairs] == ["0", "1"]
    built = build_dataset({**dataset.opt, "type": "OnlineSemiSupervisedDataset"})
    assert torch.equal(built[SampleIndex(1, 5, 9)]["lq"], dataset[SampleIndex(1, 5, 9)]["lq"])
    for index in (SampleIndex(1, 6, 0), SampleIndex(2, 0, 0), 8):
        with pytest.raises(IndexError):
            dataset[index]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_stored_build_belongs_to_another_data_set(make_build):
    with pytest.raises(ValueError, match=r"mode 'stored'(.|\n)*use SemiSupervisedDataset with(.|\n)*lq\.lmdb"):
        OnlineDraw.open(make_build("stored"))


def test_build_must_be_complete_and_its_f_isp_its_own(make_build, dataset_of, folders):
    build = make_build("online")
    done = BuildFolder(build).file(1, "done.json")
    data = done.read_bytes()
    done.unlink()
    with pytest.raises(ValueError, match=r"1 of 2 shards are missing\. Finish it by the command .*`basicsr"):
        dataset_of(build)
    done.write_bytes(data)
    shutil.copy(folders / "enhancement.pth", build / "f_isp.pth")
    with pytest.raises(ValueError, match="is not the f_ISP that the build was made with"):
        dataset_of(build)
    (build / "f_isp.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"f_isp\.pth is missing"):
        dataset_of(build)
    roots = dict.fromkeys(("dataroot_gt", "dataroot_lq"), str(folders / "real"))
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        OnlineSemiSupervisedDataset({**roots, "pseudo": {"build": str(folders)}})


def test_photographs_of_keys_must_be_there(make_build, dataset_of):
    build = make_build("keys")
    manifest = json.loads((build / "manifest.json").read_text())
    manifest["settings"]["photographs"] = "/nowhere/at/all"
    (build / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileNotFoundError, match="'/nowhere/at/all' is no folder"):
        dataset_of(build)


def test_candidates_are_for_stored_builds(make_build, dataset_of):
    with pytest.raises(ValueError, match="candidates are for stored builds alone"):
        dataset_of(make_build("online", candidates=2))
