"""Pseudo inputs that are drawn on the model's device, for the models that train on real and pseudo pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from semiisp_plugin.models.restoration import RestorationModel
from semiisp_plugin.options.structures import Noise
from semiisp_plugin.pseudo.noise import add_shot_read_noise, draw_noise_levels
from semiisp_plugin.pseudo.online import OnlineDraw
from semiisp_plugin.toolbox import get_root_logger

_OF_NOISE = 5  # of `generator_of`: a stream of its own, beside those of jitter, labels and the like


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

    def add_noise(self, current_iter: int, stream: int = _OF_NOISE) -> None:
        """Add noise of eq. 15 to the pseudo inputs of the batch, as ``train:noise`` says.

        Args:
            current_iter: The iteration.
            stream: Of `generator_of`.
        """
        noise = self.opt["train"].get("noise")
        pseudo = torch.nonzero(self.is_pseudo).flatten()
        if noise is None or len(pseudo) == 0:
            return
        pseudo = pseudo.to(self.device, non_blocking=True)
        self.lq = self.lq.clone()  # on a CPU it is the caller's batch
        levels = msgspec.convert(noise, Noise)
        self.lq[pseudo] = noisy(self.lq[pseudo], levels, self.generator_of(current_iter, stream))

    def unlabelled(self) -> Tensor:
        """Samples without a target, where pseudo ground truths are none, ``(N,)`` bool on the model's device."""
        return (self.is_pseudo | self.is_unlabelled).to(self.device)

    def image_groups(self) -> dict[str, Tensor]:
        """Labelled and unlabelled samples."""
        unlabelled = self.unlabelled()
        return {"labelled": ~unlabelled, "unlabelled": unlabelled}


def noisy(images: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    """Images with noise of eq. 15, of a level drawn for each.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        noise: The largest levels.
        generator: On their device.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    shot, read = draw_noise_levels(len(images), generator, noise.shot_variance, noise.read_variance)
    return add_shot_read_noise(images, shot, read, generator)
