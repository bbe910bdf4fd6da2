"""Phase 2: semi-supervised learning of the target network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from semiisp_plugin.losses.pseudo_filter import (
    PseudoFilter,
    mean_real_loss,
    semi_supervised_loss,
    zero_dropped_gradient,
)
from semiisp_plugin.models.pseudo_inputs import PseudoInputsModel
from semiisp_plugin.models.supervised_model import iteration_generator
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE, add_shot_read_noise, draw_noise_levels
from semiisp_plugin.toolbox import MODEL_REGISTRY, register


@register(MODEL_REGISTRY)
class SemiSupervisedModel(PseudoInputsModel):
    """Trains any network on batches of real and pseudo pairs, dropping pseudo pairs of high loss (Sec. 3.3, 3.4).

    The network runs once on the whole batch. Options in ``train``: ``filter: {beta, warmup_iter}`` and, for tasks with
    noisy inputs, ``noise: {shot_variance, read_variance}`` (eq. 15, on pseudo inputs only).

    Logged: the losses of all samples, ``l_sup`` and ``l_pseudo`` (mean over real and over kept pseudo samples),
    ``pseudo/kept_ratio`` (1: all kept) and ``pseudo/threshold``; images of kept and of dropped pseudo pairs.
    """

    def init_training_settings(self) -> None:
        """As for every phase, and the filter."""
        super().init_training_settings()
        settings = self.opt["train"]["filter"]
        self.filter = PseudoFilter(
            float(settings["beta"]),
            int(settings.get("warmup_iter", 0)),
            settings.get("reference", "batch"),
            float(settings.get("momentum", 0.95)),
        )

    def add_noise(self, current_iter: int) -> None:
        """Add noise to the pseudo inputs of the batch."""
        noise = self.opt["train"].get("noise")
        pseudo = torch.nonzero(self.is_pseudo.to(self.device)).flatten()
        if noise is None or len(pseudo) == 0:
            return
        generator = iteration_generator(
            self.opt["manual_seed"], current_iter, self.device, stream=1 + self.opt.get("rank", 0)
        )
        shot, read = draw_noise_levels(
            len(pseudo),
            generator,
            float(noise.get("shot_variance", SHOT_VARIANCE)),
            float(noise.get("read_variance", READ_VARIANCE)),
        )
        self.lq = self.lq.clone()  # on a CPU it is the caller's batch
        self.lq[pseudo] = add_shot_read_noise(self.lq[pseudo], shot, read, generator)

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.add_noise(current_iter)
        self.output = self.net_g(self.lq)
        losses, parts = self.sample_losses(self.output)
        reference = mean_real_loss(losses, self.is_pseudo)
        if self.opt.get("dist"):
            # The paper does not say whether L_r is of one GPU or of all: of all, so that the batch is what counts.
            torch.distributed.all_reduce(reference)
            reference /= self.opt["world_size"]
        weights, threshold, kept_ratio = self.filter(losses.detach(), self.is_pseudo, reference=reference)
        zero_dropped_gradient(self.output, weights)
        loss = semi_supervised_loss(losses, weights)
        if self.opt.get("dist"):
            # The parallel wrapper averages the gradients of processes that may have kept different numbers of samples;
            # eq. 13 is the mean over all samples kept.
            kept_by_all = weights.sum()
            torch.distributed.all_reduce(kept_by_all)
            loss = loss * (self.opt["world_size"] * weights.sum() / kept_by_all)
        self.step(loss)

        pseudo = self.is_pseudo.to(self.device)
        kept = pseudo & (weights > 0)
        zero = losses.new_zeros(())
        detached = losses.detach()
        self.record(
            **{name: torch.where(weights > 0, v.detach(), zero).sum() / weights.sum() for name, v in parts.items()},
            l_sup=reference,
            l_pseudo=torch.where(kept, detached, zero).sum() / kept.sum().clamp_min(1),
            pseudo__kept_ratio=kept_ratio,
            pseudo__threshold=threshold,
        )
        self._weights = weights

    def image_groups(self) -> dict[str, torch.Tensor]:
        """Real, kept pseudo and dropped pseudo samples."""
        pseudo, kept = self.is_pseudo.to(self.device), self._weights > 0
        return {"real": ~pseudo, "pseudo_kept": pseudo & kept, "pseudo_dropped": pseudo & ~kept}

    def extra_state(self) -> dict[str, Any]:
        """The filter's counts."""
        return {"filter": self.filter.state_dict()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""
        if "filter" in state:
            self.filter.load_state_dict(state["filter"])
