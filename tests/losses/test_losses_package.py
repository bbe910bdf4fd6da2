"""Importing the package registers its losses, and can be repeated."""

from __future__ import annotations

import importlib
from pathlib import Path

import semiisp_plugin.losses
from semiisp_plugin.toolbox import LOSS_REGISTRY

LOSSES = ("PSNRLoss", "PooledL1Loss", "SSIMLoss", "SmoothL1Loss", "VGGPerceptualLoss")


def test_every_loss_file_is_registered_also_after_a_reload():
    module = importlib.reload(semiisp_plugin.losses)
    files = {path.stem for path in Path(module.__file__).parent.glob("*_loss.py")}
    owners = {name: LOSS_REGISTRY.get(name).__module__ for name in LOSSES}
    assert {owner.rsplit(".", 1)[1] for owner in owners.values()} == files
