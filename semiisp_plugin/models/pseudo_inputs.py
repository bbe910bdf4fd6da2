"""Pseudo inputs that are drawn on the model's device, for the models that train on real and pseudo pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from semiisp_plugin.models.restoration import RestorationModel
from semiisp_plugin.pseudo.online import OnlineDraw
from semiisp_plugin.toolbox import get_root_logger


class PseudoInputsModel(RestorationModel):
    """Base of models that train on an `OnlineSemiSupervisedDataset` with ``draw_on: gpu``, and on any other data."""

    def init_training_settings(self) -> None:
        """As for every phase, and step 3 of the build that the training data are of."""
        super().init_training_settings()
        pseudo = self.opt["datasets"]["train"].get("pseudo") or {}
        self.online_draw: OnlineDraw | None = None
        if pseudo.get("draw_on") == "gpu":
            self.online_draw = OnlineDraw.open(pseudo["build"]).to(self.device)
            get_root_logger().info(f"Pseudo inputs are drawn on {self.device}.")

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """As for every phase; inputs that are still to be drawn (``draw_seed``) are drawn from the ground truths."""
        super().feed_data(data)
        if self.is_train and self.online_draw is not None and "draw_seed" in data:
            self.draw_inputs(self.online_draw, data)

    def draw_inputs(self, draw: OnlineDraw, data: Mapping[str, Any]) -> None:
        """Put drawn inputs where the batch has none."""
        chosen = torch.nonzero(data["draw_seed"] >= 0).flatten()
        if len(chosen) == 0:
            return
        seeds: list[int] = data["draw_seed"][chosen].tolist()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        places = data["draw_place"][chosen] if "draw_place" in data else None
        chosen = chosen.to(self.device)
        targets = (self.gt[chosen] * 255).round_().to(torch.uint8)
        drawn = draw.inputs(targets, generators, places)
        self.lq = self.lq.clone()  # on a CPU it is the caller's batch
        self.lq[chosen] = drawn.to(self.lq)

    def unlabelled(self) -> Tensor:
        """Samples without a target, where pseudo ground truths are none, ``(N,)`` bool on the model's device."""
        return (self.is_pseudo | self.is_unlabelled).to(self.device)

    def image_groups(self) -> dict[str, Tensor]:
        """Labelled and unlabelled samples."""
        unlabelled = self.unlabelled()
        return {"labelled": ~unlabelled, "unlabelled": unlabelled}
