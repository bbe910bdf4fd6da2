"""The photographs that ship with the plugin."""

from __future__ import annotations

import re

import numpy as np
from helpers import ROOT

from semiisp_plugin.simulation.photographs import PHOTOGRAPHS, load_photographs


def test_all_are_small_colour_pictures() -> None:
    loaded = load_photographs()
    assert list(loaded) == list(PHOTOGRAPHS)
    assert len(loaded) > 30
    for image in loaded.values():
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert min(image.shape[:2]) == 256


def test_channels_are_red_green_blue() -> None:
    loaded = load_photographs(["red_gates", "mountain_lake"])
    assert list(loaded) == ["red_gates", "mountain_lake"]
    assert loaded["red_gates"][..., 0].mean() > 2 * loaded["red_gates"][..., 2].mean()
    sky = loaded["mountain_lake"][:60]
    assert sky[..., 2].mean() > 1.2 * sky[..., 0].mean()


def test_of_each_it_is_said_whose_it_is() -> None:
    text = (ROOT / "semiisp_plugin/simulation/cc0/SOURCES.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\.jpg` \|(.*)$", text, re.MULTILINE))
    assert sorted(rows) == sorted(PHOTOGRAPHS)
    assert all("CC0" in row or "Public domain" in row for row in rows.values())
