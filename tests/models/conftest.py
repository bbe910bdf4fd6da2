"""Tiny models on the CPU, trained with plain SGD, for which a step is the gradient itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from semiisp_plugin.options import Source, complete
from semiisp_plugin.toolbox import ARCH_REGISTRY, build_model


@pytest.fixture(autouse=True)
def _seed_and_logs():
    torch.manual_seed(0)
    yield
    logging.getLogger("basicsr").handlers.clear()


@pytest.fixture
def networks(monkeypatch) -> Callable[..., None]:
    """Registers classes under their names, for this test."""

    def register(*classes: type) -> None:
        for network in classes:
            monkeypatch.setitem(ARCH_REGISTRY._obj_map, network.__name__, network)

    return register


@pytest.fixture
def completed() -> Callable[..., dict]:
    """Checks and completes the options of one process."""

    def complete_them(options: dict, **more: Any) -> dict:
        opt = complete(options, Source("o.yml"), root_path=".", is_train=True)
        return {**opt, "dist": False, "rank": 0, "world_size": 1, **more}

    return complete_them


@pytest.fixture
def tiny_options(option_files) -> Callable[..., dict]:
    """Options of a model on the tiny pairs; keyword arguments are those of the section ``train``."""

    def make(kind: str, network: str, rate: float, pseudo: int = 2, total: int = 10, **train: Any) -> dict:
        options = option_files.base("model", kind, total)
        options["network_g"] = {"type": network}
        options["train"] = {
            "total_iter": total,
            "optim_g": {"type": "SGD", "lr": rate},
            "pixel_opt": {"type": "MSELoss"},
            **train,
        }
        if kind in ("SemiSupervisedModel", "MeanTeacherModel"):
            del options["datasets"]["train"]["batch_size_per_gpu"]
            options["datasets"]["train"].update(
                type="SemiSupervisedDataset",
                real_per_batch=2,
                pseudo_per_batch=pseudo,
                pseudo={"dataroot_gt": "gt.lmdb", "dataroot_lq": "lq.lmdb", "io_backend": {"type": "lmdb"}},
            )
        if kind == "SemiSupervisedModel":
            options["train"].setdefault("filter", {"beta": 1.0})
        return options

    return make


@pytest.fixture
def tiny_model(tiny_options, completed) -> Callable[..., Any]:
    """A model of `tiny_options`."""
    return lambda *args, **train: build_model(completed(tiny_options(*args, **train)))
