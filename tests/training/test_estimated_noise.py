"""``train: noise: estimated``: the bounds of eq. 15 from the inputs of the real pairs, in place of numbers."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from semiisp_plugin.data.pairs import match_pairs
from semiisp_plugin.io.image_io import to_uint16, write_image
from semiisp_plugin.options import load_options
from semiisp_plugin.pseudo.noise import add_shot_read_noise
from semiisp_plugin.training.loaders import estimated_noise

SHOT, READ = 4e-3, 1e-4


class Pairs:
    """As much of a data set as is asked for."""

    def __init__(self, root: Path) -> None:
        self.real_pairs = match_pairs(root / "input", root / "target")


def write_pairs(root: Path, size: tuple[int, int], noisy: bool) -> Pairs:
    ramp = torch.linspace(0.05, 0.8, size[0], dtype=torch.float64)[:, None].expand(3, *size)[None]
    for i in range(3):
        levels = torch.tensor([[SHOT], [READ]], dtype=torch.float64)
        image = add_shot_read_noise(ramp, *levels, torch.Generator().manual_seed(i)) if noisy else ramp
        for part in ("input", "target"):
            (root / part).mkdir(parents=True, exist_ok=True)
            write_image(root / part / f"{i}.png", np.ascontiguousarray(to_uint16(image[0].permute(1, 2, 0).numpy())))
    return Pairs(root)


def test_bounds_are_twice_the_levels_found(tmp_path):
    """Drawn uniformly below them, levels are on average those of the images."""
    found = estimated_noise(write_pairs(tmp_path, (240, 200), noisy=True), logging.getLogger("test"))
    assert found["shot_variance"] == pytest.approx(2 * SHOT, rel=0.25)
    assert found["read_variance"] == pytest.approx(2 * READ, rel=0.5)
    assert estimated_noise(write_pairs(tmp_path / "clean", (240, 200), noisy=False), logging.getLogger("test")) == (
        pytest.approx({"shot_variance": 0, "read_variance": 0}, abs=1e-6)
    )


def test_images_that_show_no_level_add_none(tmp_path, caplog):
    assert estimated_noise(write_pairs(tmp_path, (20, 24), noisy=True), logging.getLogger("test")) is None
    assert "no noise is added" in caplog.text


def test_option_file(option_files):
    path = option_files.semi()
    options = yaml.safe_load(Path(path).read_text())
    options["train"]["noise"] = "estimated"
    Path(path).write_text(yaml.safe_dump(options))
    assert load_options(path, root_path=".", is_train=True)["train"]["noise"] == "estimated"
