"""The option files that come with the plugin, shortened to two iterations, on real images where those are at hand."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT

from semiisp_plugin.cli import main
from semiisp_plugin.data.pairs import find_pair_folders, match_pairs, read_pair
from semiisp_plugin.io.image_io import read_image, to_tensor
from semiisp_plugin.io.lmdb_io import read_meta
from semiisp_plugin.isp import InvertibleISP, ISPSpec
from semiisp_plugin.toolbox import build_dataset

OPTIONS = ROOT / "options"
SHORT = ["num_gpu=0", "train:total_iter=2", "datasets:train:gt_size=[64,96]", "val:val_freq=2", "logger:print_freq=1"]


@pytest.fixture
def datasets(shared_data, workspace) -> Path:
    """What the option files read: LOLv1 as prepared (100 training pairs, 2 to validate on), and 4 photographs."""
    source, root = workspace / "LOLdataset", workspace / "datasets"
    source.mkdir()
    (source / "our485").symlink_to(shared_data / "lolv1_100" / "our485")
    chosen = {source / "eval15" / kind: ("lolv1_100/val20/" + kind, 2) for kind in ("low", "high")}
    chosen[root / "coco" / "images"] = ("coco/images", 4)
    for folder, (of, count) in chosen.items():
        folder.mkdir(parents=True)
        for file in sorted((shared_data / of).iterdir())[:count]:
            (folder / file.name).symlink_to(file)
    assert main(["prepare", "lolv1", "--source", str(source), "--out", "datasets/lolv1"]) == 0
    return root


def run(command: str, name: str, *overrides: str) -> None:
    assert main([command, "-opt", str(OPTIONS / f"{name}.yml"), "--force_yml", *overrides]) == 0, name


@pytest.mark.slow
def test_every_phase_from_the_option_files(datasets, capsys):
    small = ["network_g:thumbnail=32", "network_global:thumbnail=32", "datasets:train:batch_size_per_gpu=2"]
    run("train", "fisp_lolv1_cpu", *SHORT, *small)
    run("pseudo", "pseudo_lolv1_cpu", "num_gpu=0")
    gt, lq = (read_meta(f"datasets/pseudo_lolv1_cpu/{name}.lmdb") for name in ("gt", "lq"))
    photographs = sorted((datasets / "coco" / "images").iterdir())
    assert [e.key for e in gt] == [e.key for e in lq] == [p.stem for p in photographs]
    assert [e.shape for e in gt] == [e.shape for e in lq] == [read_image(p).shape for p in photographs]

    run("train", "semiie_lolv1_cpu", *SHORT, "datasets:train:real_per_batch=1", "datasets:train:pseudo_per_batch=2")
    run("train", "finetune_lolv1_cpu", *SHORT, "datasets:train:batch_size_per_gpu=2")
    capsys.readouterr()
    run("test", "test_lolv1_cpu", "num_gpu=0")
    log = capsys.readouterr().err
    values = {name: float(value) for name, value in re.findall(r"# (\w+): ([-\d.naif]+)", log)}
    assert values.keys() == {"psnr", "ssim", "psnr_gt_mean"}
    assert all(math.isfinite(value) and value > 0 for value in values.values())
    pictures = sorted(Path("results/test_lolv1_cpu/visualization/eval15").glob("*.png"))
    assert len(pictures) == 2
    assert all(read_image(p).shape == (400, 600, 3) for p in pictures)


def test_fivek_pairs(shared_data):
    roots = find_pair_folders(shared_data / "fivek_ie_15")
    pairs = match_pairs(*roots)
    assert len(pairs) == 15
    for pair in pairs:
        image, target = read_pair(pair)  # raises where the sizes differ
        assert (image.dtype, target.dtype) == (np.uint8, np.uint8)
        assert max(image.shape) == 512
        # Two renderings of one photograph: alike in structure, but not the same picture.
        grey = [picture.mean(axis=2).ravel() for picture in (image, target)]
        assert np.corrcoef(grey)[0, 1] > 0.8, pair.key
        assert not np.array_equal(image, target)
    options = {"name": "fivek", "type": "PairedRestorationDataset", "phase": "val", "io_backend": {"type": "disk"}}
    dataset = build_dataset({**options, "dataroot_lq": roots[0], "dataroot_gt": roots[1]})
    item = dataset[0]
    assert item["lq"].shape == item["gt"].shape
    assert item["key"] == pairs[0].key


@pytest.fixture
def pair(shared_data) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark image and its bright counterpart, ``(1, 3, 400, 600)``."""
    root = shared_data / "lolv1_100" / "our485"
    name = sorted(p.name for p in (root / "low").iterdir())[0]
    dark, bright = (to_tensor(read_image(root / kind / name))[None] for kind in ("low", "high"))
    assert dark.shape == bright.shape == (1, 3, 400, 600)
    return dark, bright


def random_sets(spec: ISPSpec, grid: tuple[int, int], *, colours: bool) -> torch.Tensor:
    z = 0.3 * torch.randn(1, spec.n_parameters, *grid, generator=torch.Generator().manual_seed(4))
    if not colours:  # the one function that can leave [0, 1], where values are clamped
        z[:, spec.slices()["cc"]] = 0
    return spec.squash(z)


@pytest.mark.parametrize("grid", [(1, 1), (4, 4)], ids=["global", "local"])
def test_round_trip_of_image_enhancement(pair, grid):
    spec = ISPSpec(inverse_tone_mapping=True, gamma_start=1.0)
    isp, sets = InvertibleISP(spec), random_sets(spec, grid, colours=False)
    for image in pair:
        back = isp.inverse(isp.forward(image, sets), sets)
        assert float(back.clipped) == 0
        assert float((back.image - image).abs().max()) < 1e-4
        again = isp.forward(isp.inverse(image, sets).image, sets)
        # To the same 8-bit image.
        assert torch.equal((again * 255).round(), (image * 255).round())


@pytest.mark.parametrize("grid", [(1, 1), (4, 4)], ids=["global", "local"])
def test_round_trip_with_colour_correction_where_nothing_is_clipped(pair, grid):
    spec = ISPSpec()
    isp, sets = InvertibleISP(spec), random_sets(spec, grid, colours=True)
    for image in pair:
        for precision in (torch.float64, torch.float32):
            raw = isp.inverse(image.to(precision), sets.to(precision))
            free = isp.inverse(image.to(precision), sets.to(precision), clamp=False).image
            inside = (raw.image == free).all(dim=1, keepdim=True).expand_as(image)
            assert float(inside.float().mean()) > 0.5
            back = isp.forward(raw.image, sets.to(precision))
            # Black comes back as the rounding error of the matrix product, raised to the power 1/gamma.
            colour = inside & (image > 0)
            assert float((back - image)[colour].abs().max()) < (1e-9 if precision == torch.float64 else 1e-4)
            assert torch.equal((back * 255).round()[inside], (image * 255).round()[inside].to(precision))
