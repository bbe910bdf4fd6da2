"""Photographs come from installed packages, without the network, or with a message that helps."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from semiisp_plugin.simulation import photographs
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS, PackagedPhotograph, load_photographs


def test_all_photographs_load_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    loaded = load_photographs()
    assert list(loaded) == list(PHOTOGRAPHS)
    for image in loaded.values():
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert 300 <= min(image.shape[:2]) <= 512


def test_channels_are_red_green_blue() -> None:
    loaded = load_photographs(["coffee", "rocket"])
    # A red cup on brown wood, and an evening sky.
    assert loaded["coffee"][..., 0].mean() > 2 * loaded["coffee"][..., 2].mean()
    assert loaded["rocket"][:100, ..., 2].mean() > 1.5 * loaded["rocket"][:100, ..., 0].mean()


def test_the_two_motorcycles_are_one_scene() -> None:
    assert PHOTOGRAPHS["motorcycle_left"].scene == PHOTOGRAPHS["motorcycle_right"].scene
    assert len({photograph.scene for photograph in PHOTOGRAPHS.values()}) == len(PHOTOGRAPHS) - 1


@pytest.mark.parametrize("file", ["no_such_package_here/images/china.jpg", "sklearn/images/not_there.jpg"])
def test_what_is_not_there_names_the_install_command(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.setitem(photographs.PHOTOGRAPHS, "china", PackagedPhotograph("scikit-learn", file, "china"))
    with pytest.raises(FileNotFoundError, match=r"'china' is part of .*python -m pip install --upgrade scikit-learn"):
        load_photographs(["china"])
