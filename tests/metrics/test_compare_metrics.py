"""scripts/compare_metrics.py, through its ``main()``."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from helpers import load_script

from semiisp_plugin.io.image_io import write_image
from semiisp_plugin.toolbox import calculate_psnr


@pytest.fixture
def main():
    return load_script("compare_metrics").main


@pytest.fixture
def folders(tmp_path):
    """Two pairs; predictions of 16 bits, between the levels of 8 bits."""
    rng = np.random.default_rng(0)
    pairs = []
    for name in "ab":
        target = rng.integers(20, 200, (24, 30, 3)).astype(np.uint8)
        prediction = (
            (target.astype(np.uint16) * 257 + rng.integers(-6000, 1000, target.shape)).clip(0).astype(np.uint16)
        )
        write_image(tmp_path / "gt" / f"{name}.png", target)
        write_image(tmp_path / "result" / f"{name}_run.png", prediction)
        pairs.append((prediction / 257, target))
    return tmp_path, pairs


def test_means_over_a_folder(main, folders, capsys):
    path, pairs = folders
    folder_arguments = ["--prediction", str(path / "result"), "--target", str(path / "gt")]
    main([*folder_arguments, "--template", "{}_run", "--csv", str(path / "out.csv")])
    printed = capsys.readouterr().out
    assert "Means over 2 images." in printed
    floats = np.mean([calculate_psnr(x, y, crop_border=0) for x, y in pairs])
    rounded = np.mean([calculate_psnr(x.round(), y, crop_border=0) for x, y in pairs])
    assert abs(floats - rounded) > 1e-3
    assert "| PSNR, floats (LOL) " in printed
    assert f"| {floats:.3f} " in printed
    assert f"| {rounded:.3f} " in printed
    rows = list(csv.reader((path / "out.csv").open(encoding="utf-8")))
    assert [row[0] for row in rows] == ["image", "a", "b"]
    assert len(rows[0]) == 16
    assert np.isfinite([[float(v) for v in row[1:]] for row in rows[1:]]).all()


def test_what_is_wrong_is_said_in_a_line(main, folders):
    path, _ = folders
    folder_arguments = ["--prediction", str(path / "result"), "--target", str(path / "gt")]
    with pytest.raises(SystemExit, match="do not match by name"):
        main(folder_arguments)
    with pytest.raises(SystemExit, match=r"`weights: nowhere\.pth` is not a file"):
        main([*folder_arguments, "--template", "{}_run", "--lpips", "alex", "--lpips-weights", "nowhere.pth"])
