"""Validation: each image once, in batches of one size, shared among processes; metrics, tables, best networks."""

import csv
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from semiisp_plugin.io.image_io import read_image, to_uint8, write_image
from semiisp_plugin.metrics import prepared_by, takes_floats
from semiisp_plugin.models.validation import groups_of_one_size, result_name, together, validate
from semiisp_plugin.toolbox import METRIC_REGISTRY, build_model, calculate_psnr
from semiisp_plugin.training.loaders import build_val_loaders

SIZES = [(40, 48), (40, 48), (40, 48), (48, 40), (40, 48), (40, 48)]


class Brighter(nn.Module):
    """Adds a constant, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.1))
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return x + self.shift


@pytest.fixture
def make(option_files, networks, completed, workspace):
    """A model and the loader of a validation set of images of two sizes."""
    networks(Brighter)
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(SIZES):
        image = rng.uniform(0.1, 0.7, (height, width, 3))
        noisy = image + rng.normal(0, 0.01 * (i + 1), image.shape)
        for kind, picture in (("lq", image), ("gt", noisy)):
            write_image(workspace / "val" / kind / f"{i}.png", to_uint8(picture.clip(0, 1)))

    def build(rank: int = 0, world_size: int = 1, logger=None, **val_set):
        options = option_files.base("run", "SupervisedModel", 4)
        options["network_g"] = {"type": "Brighter"}
        options["datasets"]["val"].update(dataroot_lq="val/lq", dataroot_gt="val/gt", **val_set)
        options["val"]["metrics"] = {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False}}
        options["logger"].update(logger or {})
        opt = completed(options, rank=rank, world_size=world_size)
        for key in ("models", "training_states"):
            Path(opt["path"][key]).mkdir(parents=True, exist_ok=True)
        return build_model(opt), build_val_loaders(opt)[0]

    return build


def expected() -> list[float]:
    values = []
    for i in range(len(SIZES)):
        lq, gt = (read_image(f"val/{kind}/{i}.png") for kind in ("lq", "gt"))
        result = (torch.from_numpy(lq).float() / 255 + 0.1).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
        values.append(float(calculate_psnr(result, gt, crop_border=0)))
    return values


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (2, 0), (4, 2)])
def test_metrics_do_not_depend_on_batches_and_workers(make, batch, workers):
    model, loader = make(batch_size_per_gpu=batch, num_worker_per_gpu=workers)
    seen = []

    class Writer:
        def add_image(self, name, grid, iteration):
            seen.append((name, tuple(grid.shape), iteration))

        def add_scalar(self, *_):
            pass

    model.validation(loader, 2, Writer(), save_img=True)
    assert model.metric_results["psnr"] == pytest.approx(np.mean(expected()), rel=1e-9)
    # The first image is not run once more for TensorBoard.
    assert model.net_g.batches == {1: [1] * 6, 2: [2, 1, 1, 2], 4: [3, 1, 2]}[batch]
    assert seen == [("validation/test_input_output_target", (3, 40, 48 * 3), 2)]
    pictures = sorted(Path("experiments/run/visualization").glob("*/*.png"))
    assert [p.name for p in pictures] == [f"{i}_2.png" for i in range(6)]
    assert [read_image(p).shape[:2] for p in pictures] == SIZES
    assert not hasattr(model, "lq")


def test_each_process_takes_a_part(make, monkeypatch):
    for rank in (0, 1, 2):
        model, loader = make(rank, 3)
        assert [int(item["key"][0]) for item in loader] == [rank, rank + 3]
    model, loader = make(1, 3)
    model.opt["dist"] = True
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_: None)
    others = {}

    def gather(parts, mine):
        others["mine"] = mine
        parts[:] = [[(0, "0", {"psnr": 10.0}), (3, "3", {"psnr": 20.0})], mine, [(2, "2", {"psnr": 3.0})]]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    model.validation(loader, 2, None)
    assert [(number, name) for number, name, _ in others["mine"]] == [(1, "1"), (4, "4")]
    whole = [10.0, 20.0, 3.0, *(row["psnr"] for _, _, row in others["mine"])]
    assert whole[3:] == pytest.approx([expected()[1], expected()[4]])
    assert model.metric_results["psnr"] == pytest.approx(np.mean(whole))


def test_best_networks_are_kept(make):
    model, loader = make(logger={"keep_best": "psnr", "safetensors": True})
    best = Path("experiments/run/models/net_g_best.pth")
    for iteration, shift in ((2, 0.1), (4, 0.01), (6, 0.05)):
        with torch.no_grad():
            model.net_g.shift.fill_(shift)
        model.validation(loader, iteration, None)
        kept = torch.load(best, weights_only=True)["params"]["shift"].item()
        assert kept == pytest.approx(min(shift, 0.1 if iteration == 2 else 0.01))
    assert model.best_metric_results["test"]["psnr"]["iter"] == 4
    assert best.with_suffix(".safetensors").exists()


def test_validation_can_be_broken_off(make):
    model, loader = make()

    class Stop(BaseException):
        pass

    @contextmanager
    def waiting():
        if len(model.net_g.batches) == 2:
            raise Stop
        yield

    model.waiting = waiting
    with pytest.raises(Stop):
        model.validation(loader, 2, None)
    assert len(model.net_g.batches) == 2
    assert not hasattr(model, "best_metric_results")


def test_table_of_a_test(make, workspace):
    model, loader = make()
    model.opt.update(is_train=False)
    model.opt["path"]["results_root"] = str(workspace / "results")
    validate(model, loader, "run", None, save_img=False)
    with open(workspace / "results" / "metrics_test.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "psnr"]
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(6)]
    assert [float(row[1]) for row in rows[1:]] == pytest.approx(expected(), rel=1e-5)


def test_groups_and_names():
    items = [{"lq": torch.zeros(1, 3, h, w), "lq_path": [f"{i}"]} for i, (h, w) in enumerate(SIZES)]
    groups = list(groups_of_one_size(items, 2))
    assert [[item["lq_path"][0] for item in group] for group in groups] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
    assert together(groups[0])["lq"].shape == (2, 3, *SIZES[0])
    assert together(groups[0])["lq_path"] == ["0", "1"]
    assert list(groups_of_one_size(DataLoader([]), 2)) == []

    names = [result_name({"lq_path": ["in/a/x y.png"], **key}) for key in ({"key": ["a/x"]}, {"key": ["x"]}, {})]
    assert names == ["a__x", "x y", "x y"]


# --- which images a metric gets --------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """Metrics that keep what they are given: by name."""
    given: dict[str, list] = {}

    def metric(name):
        def function(img, img2, better=None):
            given.setdefault(name, []).append((img, img2))
            return 1.0

        function.__name__ = name
        return function

    for name, declare in (
        ("eight_bits", lambda f: f),
        ("floats", takes_floats()),
        ("unclamped", takes_floats(clamped=False)),
    ):
        monkeypatch.setitem(METRIC_REGISTRY._obj_map, name, declare(metric(name)))
    return given


def test_metrics_get_the_images_they_ask_for(make, seen):
    model, loader = make()
    model.opt["val"]["metrics"] = {n: {"type": n} for n in ("eight_bits", "floats", "unclamped")}
    model.net_g.shift.data.fill_(0.45)
    validate(model, loader, 2, None, False)
    assert {name: len(pairs) for name, pairs in seen.items()} == dict.fromkeys(seen, len(SIZES))
    for i in range(len(SIZES)):
        lq, gt = (read_image(f"val/{kind}/{i}.png")[..., ::-1] / np.float64(255) for kind in ("lq", "gt"))
        output = (lq.astype(np.float32) + np.float32(0.45)).astype(np.float64) * 255
        assert output.max() > 255
        (img8, gt8), (img, truth), (raw, raw_truth) = (seen[n][i] for n in ("eight_bits", "floats", "unclamped"))
        assert img8.dtype == np.uint8
        assert img.dtype == raw.dtype == np.float64
        np.testing.assert_allclose(raw, output, atol=1e-4)
        np.testing.assert_array_equal(img, raw.clip(0, 255))
        np.testing.assert_array_equal(img8, img.round())
        np.testing.assert_array_equal(gt8, (gt * 255).round())
        np.testing.assert_allclose(truth, gt * 255, atol=1e-4)
        np.testing.assert_array_equal(raw_truth, truth)


def test_psnr_of_floats_is_that_of_the_networks_output(make):
    model, loader = make()
    model.opt["val"]["metrics"] = {
        "f": {"type": "calculate_psnr_float"},
        "g": {"type": "calculate_psnr", "crop_border": 0},
    }
    model.net_g.shift.data.fill_(0.1003)
    validate(model, loader, 2, None, False)
    expected = []
    for i in range(len(SIZES)):
        lq, gt = (read_image(f"val/{kind}/{i}.png") / 255 for kind in ("lq", "gt"))
        expected.append(-10 * np.log10(np.mean(((lq + 0.1003).clip(0, 1) - gt) ** 2)))
    assert model.metric_results["f"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert abs(model.metric_results["g"] - model.metric_results["f"]) > 1e-3


def test_what_a_metric_lacks_is_found_before_training(make, monkeypatch):
    def lacking(**options):
        raise RuntimeError(f"no weights for {options}")

    def metric(img, img2, size=1, better=None):
        return 1.0

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "metric", prepared_by(lacking)(metric))
    model, _ = make()
    model.opt["val"]["metrics"] = {"m": {"type": "metric", "size": 3, "better": "lower"}}
    with pytest.raises(RuntimeError, match=r"no weights for {'size': 3}"):
        type(model)(model.opt)


@pytest.mark.parametrize(("metric", "border", "most"), [("calculate_psnr", 20, 19), ("calculate_ssim", 15, None)])
def test_a_border_that_leaves_too_little_is_an_error(make, metric, border, most):
    """BasicSR makes NaN of it for ever. What leaves nothing is found before training begins."""
    model, loader = make()
    model.opt["val"]["metrics"] = {"m": {"type": metric, "crop_border": border}}
    what = f"of an image of 40x48 pixels; give at most {most}" if most else "gives NaN for an image of 40x48"
    with pytest.raises(ValueError, match=f"val:metrics:m.*{what}"):
        model.validation(loader, 1, None)
    if most:
        with pytest.raises(ValueError, match=what):
            build_val_loaders(model.opt)
        model.opt["val"]["metrics"]["m"]["crop_border"] = most
    else:
        model.opt["val"]["metrics"]["m"]["crop_border"] = 14
    build_val_loaders(model.opt)
    model.validation(loader, 1, None)


def test_an_output_that_is_nan_has_no_metrics(make):
    """As an image it is black, which is worth some decibels."""
    model, loader = make()
    model.opt["val"]["metrics"] = {
        "psnr": {"type": "calculate_psnr", "crop_border": 0},
        "psnr_gt_mean": {"type": "calculate_psnr_gt_mean"},
    }
    model.net_g.shift.data.fill_(float("nan"))
    validate(model, loader, 2, None, False)
    assert all(np.isnan(value) for value in model.metric_results.values())
    assert len(model.metric_results) == 2
